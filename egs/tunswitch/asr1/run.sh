#!/usr/bin/env bash
# TunSwitch: Tunisian Arabic mixed with French and English; tested on mixed and on unmixed speech.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus tunswitch \
    --train_set train_cs \
    --valid_set dev_cs \
    --test_sets "test_cs test_to" \
    --token_type bpe \
    --pieces 500 \
    --text_profile artst \
    --score_profile artst \
    --speeds 0.9,1,1.1 \
    "$@"
