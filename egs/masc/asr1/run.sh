#!/usr/bin/env bash
# MASC: 1,000 h of videos with subtitles; the clean part.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus masc \
    --train_set clean_train \
    --valid_set clean_dev \
    --test_sets "clean_test noisy_test" \
    --token_type bpe \
    --pieces 5000 \
    --text_profile leaderboard-2026-07 \
    --score_profile leaderboard-2026-07 \
    --nj 16 \
    "$@"
