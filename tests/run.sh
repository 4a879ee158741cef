#!/usr/bin/env bash
# Make the environment (stage 0 of run.sh), then run ruff and pytest, in two processes of one thread, each with whole files
# of tests: with two threads each, they take half as long again on two cores.
# Arguments go to pytest: tests/run.sh tests/corpora -x; one process: tests/run.sh -n 0.
# HARNESS_VENV names a virtual environment to use instead of .venv.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./run.sh --stop_stage 0
python=${HARNESS_VENV:-.venv}/bin/python
"${python}" -m ruff check .
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${python}" -m pytest --durations=15 -n 2 --dist loadfile "$@"
