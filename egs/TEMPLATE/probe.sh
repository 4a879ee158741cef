# Run the probes of one task on one corpus, in stages. Sourced by did1/did.sh and ser1/ser.sh; `task` is set.
# shellcheck shell=bash

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
# shellcheck source=egs/TEMPLATE/options.sh
. "${root}/egs/TEMPLATE/options.sh"
script=run.sh

# Every variable of this block is an option of the same name.
stage=1
stop_stage=3
corpus=
corpus_options=
upstreams=fbank
models=
protocol=superb
finetune=
budget=
seeds=0,1,2
folds=
nj=4
device=auto
data=
exp=

options=(stage stop_stage corpus corpus_options upstreams models protocol finetune budget seeds folds nj device data exp)
lists=(set)
aliases=(jobs:nj inference_nj:nj)

help() {
    cat <<'EOH'
Usage: ./run.sh [options]

    ./run.sh                                         every stage on filterbank features
    ./run.sh --stage 2 --upstreams fbank,hl=DIR      also a model directory, on the same data

Options (--stop_stage 3, --stop-stage 3 and --stop_stage=3 are the same):
    --stage N               first stage (default: 1)
    --stop_stage N          last stage (default: 3)
    --corpus NAME           module of corpora/ that prepares the data (default: set by the recipe)
    --corpus_options "K=V"  options of that module, separated by spaces; python -m corpora NAME --help lists them
                            (default: none)
    --upstreams A,B         fbank, names of model directories below --models, or NAME=DIR (default: fbank)
    --models DIR            folder of model directories (default: EXP/models)
    --protocol NAME         superb or light: downstream/TASK/NAME.yaml (default: superb)
    --finetune A,B          parts of the upstream to train, as in python -m downstream benchmark --help (default: none)
    --budget A,B            amounts of labelled training speech, as in the same help text (default: none)
    --seeds A,B             seeds of the heads (default: 0,1,2)
    --folds N               use only the first N folds, where the corpus has folds (default: all)
    --nj N                  processes; also written --jobs and --inference_nj (default: 4)
    --device NAME           auto, cpu or cuda (default: auto)
    --set KEY=VALUE         override a value of the protocol; may be repeated (default: none)
    --data DIR              data directories go to DIR/TASK (default: data/CORPUS in the root)
    --exp DIR               models and results (default: exp/CORPUS/TASK1 in the root)
    --help                  print this text
Relative paths start at the recipe's folder.

Stages:
     1  data directories: local/data.sh, or python -m corpora CORPUS
     2  probes: every upstream, seed and fold; complete ones are skipped
     3  RESULTS.md

db.sh or the environment names the folder of the corpus; cmd.sh chooses where jobs run. HARNESS_VENV names a
virtual environment to use instead of .venv.
EOH
}

parse_options "$@"
check_stages 3
check_counts nj folds
# shellcheck source=egs/TEMPLATE/corpus.sh
. "${root}/egs/TEMPLATE/corpus.sh"

# shellcheck disable=SC2154  # set by the script that sources this
exp=${exp:-${root}/exp/${corpus}/${task}1}
data=${data:-${root}/data/${corpus}}

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    chosen=()
    for setting in ${corpus_options}; do chosen+=(--set "${setting}"); done
    prepare_data "${data}/${task}" ${chosen[@]+"${chosen[@]}"}
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: probes of ${upstreams}"
    mkdir -p "${exp}"
    echo "./run.sh $*" >"${exp}/command"
    arguments=(--recipe "${corpus}" --data "${data}" --exp "${exp}" --tasks "${task}" --upstreams "${upstreams}")
    arguments+=(--protocol "${protocol}" --seeds "${seeds}" --jobs "${nj}" --device "${device}")
    if [ -n "${models}" ]; then arguments+=(--models "${models}"); fi
    if [ -n "${finetune}" ]; then arguments+=(--finetune "${finetune}"); fi
    if [ -n "${budget}" ]; then arguments+=(--budget "${budget}"); fi
    if [ -n "${folds}" ]; then arguments+=(--folds "${folds}"); fi
    # shellcheck disable=SC2086
    ${train_cmd} python -m downstream benchmark "${arguments[@]}" ${settings[@]+"${settings[@]}"}
fi

if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
    log "stage 3: ${exp}/RESULTS.md"
    python -m downstream report --recipe "${corpus}" --exp "${exp}"
fi
