#!/usr/bin/env bash
# ADI-5: five dialects of broadcast news; accuracy, macro precision, recall and F1.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./did.sh \
    --corpus adi5 \
    "$@"
