#!/usr/bin/env bash
# MGB-5: Moroccan YouTube, 14 h; each utterance has four references, of which this scores the first.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus mgb5 \
    --text_profile mgb \
    --speeds 0.9,1,1.1 \
    "$@"
