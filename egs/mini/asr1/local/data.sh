#!/usr/bin/env bash
# The ASR part comes with the whole recipe: stage 1 of run.sh in the root makes it, or finds it complete.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../../.."

./run.sh --recipe mini --stop_stage 1 --jobs "$2"
