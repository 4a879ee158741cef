#!/usr/bin/env bash
# MGB-3: Egyptian YouTube, 16 h; each utterance has four references, of which this scores the first.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus mgb3 \
    --train_set adapt \
    --text_profile mgb \
    --speeds 0.9,1,1.1 \
    "$@"
