#!/usr/bin/env bash
# HL, HS and HST on Arabic and English at paper scale. Eight GPUs: --ranks 8; one: --config conf/ssl_1gpu.yaml

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./ssl.sh \
    --recipe harness \
    --config conf/ssl_8gpu.yaml \
    "$@"
