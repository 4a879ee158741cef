#!/usr/bin/env bash
# ADI-17: seventeen dialects from YouTube, 3,000 h; accuracy and Cavg, by duration too. For GPUs.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./did.sh \
    --corpus adi17 \
    "$@"
