#!/usr/bin/env bash
# Connected words of the synthetic corpus: proves that ESPnet trains and decodes here, and nothing about a model.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus mini \
    --data ../../../data/mini/asr \
    --asr_config conf/tuning/train_asr_ctc.yaml \
    --inference_config conf/tuning/decode_ctc.yaml \
    --inference_model valid.cer_ctc.ave.pth \
    "$@"
