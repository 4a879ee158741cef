#!/usr/bin/env bash
# Multilingual TEDx, Arabic: 18 h of talks.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus mtedx \
    --token_type bpe \
    --pieces 500 \
    --text_profile leaderboard-2026-07 \
    --score_profile leaderboard-2026-07 \
    --speeds 0.9,1,1.1 \
    "$@"
