#!/usr/bin/env bash
# SERTUS: six emotions of spontaneous Tunisian speech, folds disjoint by block of recordings; WA, UA and macro F1.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ser.sh \
    --corpus sertus \
    "$@"
