#!/usr/bin/env bash
# QASR: 2,000 h of Al Jazeera broadcasts, in MGB-2's form.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus qasr \
    --token_type bpe \
    --pieces 5000 \
    --test_sets "dev test" \
    --text_profile mgb \
    --asr_config conf/tuning/train_asr_conformer.yaml \
    --nj 16 \
    "$@"
