#!/usr/bin/env bash
# Common Voice, Arabic: read sentences.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus common_voice \
    --token_type bpe \
    --text_profile leaderboard-2026-07 \
    --score_profile leaderboard-2026-07 \
    --speeds 0.9,1,1.1 \
    "$@"
