#!/usr/bin/env bash
# Run all stages of a recipe, from the environment to the report. Options and stages: ./run.sh --help

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# shellcheck source=egs/TEMPLATE/options.sh
. egs/TEMPLATE/options.sh
# shellcheck source=egs/environment.sh
. egs/environment.sh

# Every variable of this block is an option of the same name; `settings` collects the values of --set.
recipe=mini
stage=
stop_stage=13
force=false
python=
index=
jobs=
data=data
exp=exp
hubert=
xlsr=

options=(recipe stage stop_stage force python index jobs data exp hubert xlsr)
switches=(force)
lists=(set)
aliases=(nj:jobs)

help() {
    cat <<'EOF'
Usage: ./run.sh [options]

    ./run.sh                               run every stage that is not complete, then print the results table
    ./run.sh --stage 7 --stop_stage 8      run stages 7 and 8 again, complete or not
    ./run.sh --recipe open_arabic          the same on real public speech (corpus folders: egs/TEMPLATE/db.sh)

Options (--stop_stage 8, --stop-stage 8 and --stop_stage=8 are the same):
    --recipe NAME       reads egs/NAME/recipe.yaml (default: mini)
    --stage N           first stage; complete stages of the range run again, unfinished ones resume (default: none; all
                        stages, complete ones are skipped)
    --stop_stage N      last stage (default: 13)
    --force true|false  run the stages of the range from scratch. Use it after a change of code: only changes of the
                        configuration and of inputs are detected. With --stage 0, make .venv again (default: false)
    --python PATH       Python 3.11 to 3.14 for .venv (default: 3.13, 3.12, 3.11 or 3.14, on PATH or of pyenv, else
                        3.13 that uv fetches). 3.14 is untested, and ESPnet has no version for it
    --index URL         additional package index for .venv, for instance PyTorch's CPU index (default: none)
    --jobs N            processes that prepare data; also written --nj (default: number of cores)
    --data DIR          data directories go to DIR/NAME (default: data)
    --exp DIR           models and results go to DIR/NAME (default: exp)
    --hubert PATH       also compare with this HuBERT: a Transformers folder with model.safetensors (default: none)
    --xlsr PATH         also compare with this XLS-R or wav2vec 2.0, in the same form (default: none)
    --set KEY=VALUE     replace a value of the recipe, for instance pretrain.hl_it1.steps=2000; may be repeated
                        (default: none)
    --help              print this text
Relative paths start at this folder.

Stages:
     0  environment         .venv from requirements.txt         7  distil HS
     1  corpora             data/<recipe>/<set>/<split>         8  distil HST
     2  units, iteration 1  MFCC -> k-means                     9  export, compression table
     3  teacher HL, it. 1                                      10  ASR
     4  units, iteration 2  HL it. 1 layer -> k-means          11  SER
     5  teacher HL, it. 2                                      12  DID
     6  student units       HL it. 2 layer -> PCA -> k-means   13  report

A stage is complete when it was finished with the same configuration and inputs, and its outputs exist. Units and models
of other configurations are kept: their folders in exp/<recipe>/units and exp/<recipe>/runs end in a digest of the
configuration, and exp/<recipe>/units/NAME and exp/<recipe>/NAME are links to the current ones. A killed run resumes
with the next ./run.sh.

Environment variables:
    HARNESS_VENV        virtual environment to use instead of .venv; missing packages of requirements.txt are installed
                        into it
EOF
}

parse_options "$@"
check_stages 13
check_counts jobs
if [[ ${recipe} == */* ]]; then fail "--recipe ${recipe}: give the name of a folder below egs/, not a path"; fi
if [ ! -f "egs/${recipe}/recipe.yaml" ]; then
    known=$(cd egs && printf '%s ' */recipe.yaml)
    fail "--recipe ${recipe}: egs/${recipe}/recipe.yaml does not exist; recipes: ${known//\/recipe.yaml/}"
fi

# Stage 0 runs every time: it takes milliseconds if the environment is complete.
venv=${HARNESS_VENV:-.venv}
again=false
if [ "${force}" = true ] && [ "${stage:-1}" -eq 0 ]; then again=true; fi
make_environment "${venv}" "${python}" "${index}" "${again}"
if [ "${stage:-1}" -eq 0 ] || [ "${stop_stage}" -eq 0 ]; then "${venv}/bin/python" -m egs check; fi
if [ "${stop_stage}" -eq 0 ]; then exit 0; fi

# Folders of the corpora; variables of the environment override the file.
if [ -f "egs/${recipe}/db.sh" ]; then
    set -a
    # shellcheck source=egs/TEMPLATE/db.sh
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
