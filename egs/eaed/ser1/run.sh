#!/usr/bin/env bash
# EAED: six emotions from five series, five folds disjoint by actor; WA, UA and macro F1.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ser.sh \
    --corpus eaed \
    "$@"
