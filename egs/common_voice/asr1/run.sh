#!/usr/bin/env bash
# Common Voice, Arabic: read sentences.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus common_voice \
    --token_type bpe \
    --text_profile leaderboard \
    --score_profile leaderboard \
    --speeds 0.9,1,1.1 \
    "$@"
