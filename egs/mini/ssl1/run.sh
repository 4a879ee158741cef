#!/usr/bin/env bash
# The schedule of the synthetic recipe: stages 1 to 9 of ./run.sh in the root, with the same data and models.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ssl.sh \
    --recipe mini \
    --config ../recipe.yaml \
    "$@"
