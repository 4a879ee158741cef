#!/usr/bin/env bash
# Quran recitation: verses of EveryAyah, splits disjoint by normalised text (and by reciter where there are several).

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The Uthmani text carries every vowel mark; the profile mgb leaves the letters.
./asr.sh \
    --corpus everyayah \
    --text_profile mgb \
    --max_seconds 20 \
    --asr_config conf/tuning/train_asr_ctc.yaml \
    --inference_config conf/tuning/decode_ctc.yaml \
    --inference_model valid.cer_ctc.ave.pth \
    "$@"
