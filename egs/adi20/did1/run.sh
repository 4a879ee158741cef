#!/usr/bin/env bash
# ADI-20: ADI-17 with Tunisian, Bahraini and Modern Standard Arabic. For GPUs.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./did.sh \
    --corpus adi20 \
    "$@"
