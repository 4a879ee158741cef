#!/usr/bin/env bash
# SADA: 668 h of Saudi television.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus sada \
    --valid_set valid \
    --token_type bpe \
    --pieces 5000 \
    --text_profile leaderboard-2026-07 \
    --score_profile leaderboard-2026-07 \
    --nj 16 \
    "$@"
