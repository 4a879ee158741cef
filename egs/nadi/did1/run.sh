#!/usr/bin/env bash
# NADI 2025 and Casablanca: eight countries; accuracy and average cost.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./did.sh \
    --corpus nadi \
    "$@"
