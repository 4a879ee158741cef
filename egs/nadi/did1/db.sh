# Folder of the corpus, in the layout of `python -m corpora --list`. Write it here, or set it in the environment, which wins.
# shellcheck shell=bash

NADI=${NADI:-}
