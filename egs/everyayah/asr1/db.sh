# Folder of the corpus: <reciter>/SSSAAA.mp3 and quran.json. Write it here, or set it in the environment, which wins.
# shellcheck shell=bash

EVERYAYAH=${EVERYAYAH:-}
