#!/usr/bin/env bash
# Keyword strings of unseen speakers and Quran verses of unseen texts, from the ASR part of open_arabic.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus open_arabic \
    --data ../../../data/open_arabic/asr \
    --test_sets "test_keywords test_quran" \
    --max_seconds 20 \
    --asr_config conf/tuning/train_asr_ctc.yaml \
    --inference_config conf/tuning/decode_ctc.yaml \
    --inference_model valid.cer_ctc.ave.pth \
    "$@"
