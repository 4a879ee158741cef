#!/usr/bin/env bash
# ADI-17: seventeen dialects from YouTube, 3,000 h; accuracy and Cavg, also by duration. For GPUs.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./did.sh \
    --corpus adi17 \
    "$@"
