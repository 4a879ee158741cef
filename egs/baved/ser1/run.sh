#!/usr/bin/env bash
# BAVED: three levels of emotion, five folds disjoint by speaker; WA, UA and macro F1.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ser.sh \
    --corpus baved \
    "$@"
