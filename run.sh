#!/usr/bin/env bash
# The whole system, stage by stage, on the recipe that --recipe names. Options and stages: ./run.sh --help

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=egs/TEMPLATE/options.sh
. egs/TEMPLATE/options.sh

# Every variable of this block is an option of the same name; `settings` collects what --set is given.
recipe=mini
stage=
stop_stage=13
force=false
python=
jobs=
data=data
exp=exp
hubert=
xlsr=

options=(recipe stage stop_stage force python jobs data exp hubert xlsr)
switches=(force)
lists=(set)
aliases=(nj:jobs)

help() {
    cat <<'EOF'
Usage: ./run.sh [options]

    ./run.sh                               everything that is not complete yet, then the results table
    ./run.sh --stage 7 --stop_stage 8      stages 7 and 8 again, whether or not they are complete
    ./run.sh --recipe open_arabic          the same on real public speech (folders: egs/open_arabic/db.sh)

Options (--stop_stage 8, --stop-stage 8 and --stop_stage=8 are the same):
    --recipe NAME       reads egs/NAME/recipe.yaml (default: mini)
    --stage N           first stage; the stages of the range run again where they are complete and go on where they
                        are not (default: none; all stages, those that are complete are skipped)
    --stop_stage N      last stage (default: 13)
    --force true|false  start the stages of the range from nothing; needed after a change of code, which no stamp
                        sees; with stage 0 in the range and .venv in use, install again (default: false)
    --python PATH       Python 3.10, 3.11 or 3.12 that makes .venv (default: the first one found on PATH)
    --jobs N            processes that prepare data; also written --nj (default: number of cores)
    --data DIR          data directories go to DIR/NAME (default: data)
    --exp DIR           models and results go to DIR/NAME (default: exp)
    --hubert PATH       compare with this HuBERT too: a Transformers folder with model.safetensors (default: none)
    --xlsr PATH         compare with this XLS-R or wav2vec 2.0 too, in the same form (default: none)
    --set KEY=VALUE     replace a value of the recipe, as often as needed: --set pretrain.hl_it1.steps=2000
                        (default: none)
    --help              print this text
Relative paths count from this folder.

Stages:
     0  environment         venv, requirements, checks          7  distil HS
     1  corpora             data/<recipe>/<set>/<split>         8  distil HST
     2  units, iteration 1  MFCC -> k-means                     9  export, compression table
     3  teacher HL, it. 1                                      10  ASR
     4  units, iteration 2  HL it. 1 layer -> k-means          11  SER
     5  teacher HL, it. 2                                      12  DID
     6  student units       HL it. 2 layer -> PCA -> k-means   13  report

A stage is complete when the stamp in exp/<recipe>/.stamps holds the digest of its configuration and inputs, and its
outputs exist. Whatever was killed goes on with the next ./run.sh.

Environment variables:
    HARNESS_VENV        use this virtual environment instead of .venv (what requirements.txt asks for and is missing
                        there is installed into it)
EOF
}

parse_options "$@"
check_stages 13
if [ -n "${jobs}" ] && ! [[ ${jobs} =~ ^[1-9][0-9]*$ ]]; then fail "--jobs ${jobs}: a number of processes is needed"; fi
if [ ! -f "egs/${recipe}/recipe.yaml" ]; then
    known=$(cd egs && printf '%s ' */recipe.yaml)
    fail "--recipe ${recipe}: egs/${recipe}/recipe.yaml does not exist; there are: ${known//\/recipe.yaml/}"
fi

usable() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# Stage 0: the environment. Cheap when there is nothing to do, so every run passes through here.
venv=${HARNESS_VENV:-.venv}
interpreter=
candidates=(python3.11 python3.12 python3.10 python3 python "${venv}/bin/python")
if [ -n "${python}" ]; then candidates=("${python}"); fi
if [ -n "${HARNESS_VENV:-}" ]; then candidates=("${venv}/bin/python" "${candidates[@]}"); fi
for candidate in "${candidates[@]}"; do
    if usable "${candidate}"; then
        interpreter=${candidate}
        break
    fi
done
if [ -z "${interpreter}" ]; then
    fail "no Python 3.10, 3.11 or 3.12 among: ${candidates[*]}. Install one (Debian: apt-get install python3-venv) or name it: --python PATH"
fi

environment=(--venv "${venv}" --requirements requirements.txt)
if [ -n "${HARNESS_VENV:-}" ]; then
    environment+=(--keep)
    log "environment: ${venv} (HARNESS_VENV)"
fi
if [ -n "${python}" ]; then environment+=(--same_python); fi
if [ "${force}" = true ] && [ "${stage:-1}" -eq 0 ]; then environment+=(--force); fi
if [ -n "${stage}" ] && [ "${stage}" -eq 0 ] || [ "${stop_stage}" -eq 0 ]; then environment+=(--describe); fi
"${interpreter}" -m egs.pipeline.environment "${environment[@]}"
if [ "${stop_stage}" -eq 0 ]; then exit 0; fi

# The folders of the corpora, as the recipe's user wrote them down; the environment wins over the file.
if [ -f "egs/${recipe}/db.sh" ]; then
    set -a
    # shellcheck source=/dev/null
    . "egs/${recipe}/db.sh"
    set +a
fi

arguments=(--recipe "${recipe}" --stop_stage "${stop_stage}" --data "${data}" --exp "${exp}")
if [ -n "${stage}" ]; then arguments+=(--stage "${stage}"); fi
if [ -n "${jobs}" ]; then arguments+=(--jobs "${jobs}"); fi
if [ -n "${hubert}" ]; then arguments+=(--hubert "${hubert}"); fi
if [ -n "${xlsr}" ]; then arguments+=(--xlsr "${xlsr}"); fi
if [ "${force}" = true ]; then arguments+=(--force); fi
exec "${venv}/bin/python" -m egs run "${arguments[@]}" ${settings[@]+"${settings[@]}"}
