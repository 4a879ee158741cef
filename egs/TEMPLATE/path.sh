# Add the environment's commands to PATH, and our packages to PYTHONPATH. Sourced by every recipe; `root` is set.
# shellcheck shell=bash

# shellcheck disable=SC2154
venv=${HARNESS_VENV:-${root}/.venv}
if [ ! -x "${venv}/bin/python" ]; then
    echo "error: no environment in ${venv}; (cd ${root} && ./run.sh --stop_stage 0) makes it" >&2
    exit 2
fi
PATH=$(cd "${venv}/bin" && pwd):${PATH}
PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}
export PATH PYTHONPATH PYTHONUNBUFFERED=1
