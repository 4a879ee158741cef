#!/usr/bin/env bash
# The schedule of open_arabic: stages 1 to 9 of ./run.sh --recipe open_arabic, with the same data and models.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ssl.sh \
    --recipe open_arabic \
    --config ../recipe.yaml \
    "$@"
