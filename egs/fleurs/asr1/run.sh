#!/usr/bin/env bash
# FLEURS, Egyptian Arabic: read sentences, about 6 h of training speech.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus fleurs \
    --text_profile leaderboard-2026-07 \
    --score_profile leaderboard-2026-07 \
    --speeds 0.9,1,1.1 \
    "$@"
