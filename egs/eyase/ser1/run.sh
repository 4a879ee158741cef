#!/usr/bin/env bash
# EYASE: four emotions of six actors, one actor tested in each fold; WA, UA and macro F1.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ser.sh \
    --corpus eyase \
    "$@"
