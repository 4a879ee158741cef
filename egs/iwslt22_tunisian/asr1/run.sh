#!/usr/bin/env bash
# IWSLT 2022 Tunisian: 160 h of telephone speech; test1 is the public test of the shared task.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus iwslt22_tunisian \
    --test_sets test1 \
    --token_type bpe \
    --pieces 1000 \
    --text_profile artst \
    --score_profile artst \
    --speeds 0.9,1,1.1 \
    "$@"
