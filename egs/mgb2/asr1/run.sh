#!/usr/bin/env bash
# MGB-2: 1,200 h of Al Jazeera broadcasts; the metric is WER on speech without overlap.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus mgb2 \
    --token_type bpe \
    --pieces 5000 \
    --test_sets "dev test" \
    --text_profile mgb \
    --asr_config conf/tuning/train_asr_conformer.yaml \
    --nj 16 \
    "$@"
