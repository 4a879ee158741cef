#!/usr/bin/env bash
# CALLHOME Egyptian: telephone calls, 8 kHz, romanised transcripts.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./asr.sh \
    --corpus callhome_egyptian \
    --valid_set dev \
    --score_profile none \
    --speeds 0.9,1,1.1 \
    "$@"
