# Folders of the corpora, in the layout of `python -m corpora --list`. Write them here, or set them in the environment,
# which wins. A corpus that you do not have leaves the schedule: its lines under `prepare`, `sets` and `held_out`.
# shellcheck shell=bash

MGB2=${MGB2:-}
QASR=${QASR:-}
COMMON_VOICE=${COMMON_VOICE:-}
LIBRISPEECH=${LIBRISPEECH:-}
GIGASPEECH=${GIGASPEECH:-}
