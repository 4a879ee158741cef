#!/usr/bin/env bash
# Dialect identification on S3PRL's problems, on one corpus. Called by a recipe's run.sh: ./run.sh --help

set -euo pipefail
# shellcheck disable=SC2034  # read by probe.sh
task=did
# shellcheck source=egs/TEMPLATE/probe.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../probe.sh"
