#!/usr/bin/env bash
# ANAD: one-second units of eight videos, folds disjoint by video; WA, UA and macro F1.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ser.sh \
    --corpus anad \
    "$@"
