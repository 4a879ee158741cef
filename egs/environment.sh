# Make the virtual environment of stage 0 with uv. Sourced by run.sh, which has `log` and `fail`.
# shellcheck shell=bash

# File in an environment of run.sh: a copy of the installed requirements.txt; empty until the installation is complete.
installed=harness-requirements.txt
needed_gb=9

# make_environment VENV PYTHON INDEX AGAIN: make or complete VENV with PYTHON (empty: any fitting one).
make_environment() {
    local venv=$1 python=$2 index=$3 again=$4
    if [ "${again}" = false ] && is_complete "${venv}" "${python}"; then return; fi
    mkdir -p "$(dirname "${venv}")"
    # If two runs start at once, the second one waits. Without flock (macOS), do not start two.
    if command -v flock >/dev/null; then
        exec 9>"${venv}.lock"
        if ! flock -n 9; then
            log "another run is making ${venv}; waiting for it"
            flock 9
            if is_complete "${venv}" "${python}"; then return; fi
        fi
    fi
    if is_own "${venv}"; then create "${venv}" "${python}"; fi
    install "${venv}" "${index}"
    if is_own "${venv}"; then cp requirements.txt "${venv}/${installed}"; fi
    log "${venv} is complete"
    if command -v flock >/dev/null; then exec 9>&-; fi
}

# is_own VENV: whether run.sh may replace VENV. An existing environment of HARNESS_VENV only gets the missing packages,
# also if run.sh of another clone made it.
is_own() {
    [ -z "${HARNESS_VENV:-}" ] || [ ! -x "$1/bin/python" ]
}

# is_complete VENV PYTHON: whether the requirements are installed in VENV, and its Python has the version of PYTHON.
is_complete() {
    if ! is_own "$1"; then
        has_requirements "$1"
        return
    fi
    cmp -s requirements.txt "$1/${installed}" &&
        { [ -z "$2" ] || [ "$(version_of "$2")" = "$(version_of "$1/bin/python")" ]; }
}

has_requirements() {
    "$1/bin/python" - 2>/dev/null <<'EOF'
import sys
from importlib.metadata import version
from packaging.requirements import Requirement

for line in open("requirements.txt", encoding="utf-8"):
    text = line.partition("#")[0].strip()
    if text:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate():
            # A local build such as 2.8.0+cpu counts as 2.8.0.
            if not needed.specifier.contains(version(needed.name).partition("+")[0], prereleases=True):
                sys.exit(1)
EOF
}

version_of() {
    "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || echo none
}

# find_python PYTHON: print PYTHON if it fits; if PYTHON is empty, the first fitting one on PATH or of pyenv, if any.
find_python() {
    local minor candidate candidates=("$1")
    if [ -z "$1" ]; then
        candidates=()
        for minor in 13 12 11 14; do
            candidates+=(python3."${minor}" "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/3."${minor}".*/bin/python)
        done
        candidates+=(python3 python)
    fi
    for candidate in "${candidates[@]}"; do
        # Commands of version managers on PATH may only print an error. In a virtual environment, use its base Python.
        if "${candidate}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then
            "${candidate}" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
            return
        fi
    done
}

has_uv() {
    uv --version >/dev/null 2>&1
}

# create VENV PYTHON: make an empty environment; an older one of run.sh is replaced.
create() {
    local venv=$1 python=$2 base free hint
    base=$(find_python "${python}")
    if [ -n "${python}" ] && [ -z "${base}" ]; then
        fail "--python ${python}: it does not run, or is not Python 3.11, 3.12, 3.13 or 3.14"
    fi
    if [ -d "${venv}" ] && [ ! -e "${venv}/pyvenv.cfg" ] && [ -n "$(ls -A "${venv}")" ]; then
        fail "${venv} exists and is not a virtual environment: move it away, or name another folder in HARNESS_VENV"
    fi
    free=$(df -Pk "$(dirname "${venv}")" | awk 'NR == 2 { print int($4 / 1000000) }')
    if [ "${free}" -lt "${needed_gb}" ]; then
        hint="free some, or name a folder on another disk in HARNESS_VENV"
        fail "${venv} needs about ${needed_gb} GB and the disk has ${free} GB free: ${hint}"
    fi
    log "making ${venv} with ${base:-a Python 3.13 that uv fetches}"
    hint="install Python 3.11, 3.12 or 3.13 (Debian: apt-get install python3 python3-venv) or uv, or name it: --python PATH"
    if has_uv; then
        uv venv --quiet --clear --python "${base:-3.13}" "${venv}" || fail "uv found no fitting Python: ${hint}"
    elif [ -n "${base}" ]; then
        "${base}" -m venv --clear "${venv}" || fail "${base} -m venv ${venv} failed: ${hint}"
    else
        fail "no Python 3.11, 3.12, 3.13 or 3.14 on PATH or under pyenv: ${hint}"
    fi
    : >"${venv}/${installed}"
}

# install VENV INDEX: install the requirements with uv, which keeps finished downloads for the next attempt.
install() {
    local venv=$1 index=$2 uv=uv options
    if ! has_uv; then
        uv=${venv}/bin/uv
        if [ ! -x "${uv}" ] && ! "${venv}/bin/python" -m pip install --quiet --disable-pip-version-check uv; then
            fail "uv could not be installed into ${venv}"
        fi
    fi
    options=(--python "${venv}/bin/python" --requirements requirements.txt)
    # Every version is pinned, so any index may provide it.
    if [ -n "${index}" ]; then options+=(--index "${index}" --index-strategy unsafe-best-match); fi
    log "installing requirements.txt into ${venv} (7 GB, a few minutes)"
    "${uv}" pip install "${options[@]}" || fail "the installation failed; the next ./run.sh keeps finished downloads"
}
