#!/usr/bin/env bash
# Run the pre-training and distillation of a schedule, in stages. Called by a recipe's run.sh: ./run.sh --help

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)
# shellcheck source=egs/TEMPLATE/options.sh
. "${root}/egs/TEMPLATE/options.sh"
script=run.sh

# Every variable of this block is an option of the same name.
recipe=
config=
stage=
stop_stage=9
force=false
ranks=1
num_nodes=1
nj=4
data=
exp=

options=(recipe config stage stop_stage force ranks num_nodes nj data exp)
switches=(force)
lists=(set)
aliases=(jobs:nj)

help() {
    cat <<'EOH'
Usage: ./run.sh [options]

    ./run.sh                                        run every stage that is not complete
    ./run.sh --ranks 8                              eight processes, one per GPU, for units and training
    ./run.sh --stage 7 --set pretrain.hs.steps=500  run stages 7 to 9 again

Options (--stop_stage 8, --stop-stage 8 and --stop_stage=8 are the same):
    --recipe NAME       names data/NAME and exp/NAME (default: set by the recipe)
    --config FILE       the schedule: corpora, geometries, units, runs (default: set by the recipe)
    --stage N           first stage; complete stages of the range run again, unfinished ones resume (default: none;
                        complete stages are skipped)
    --stop_stage N      last stage (default: 9)
    --force true|false  run the stages of the range from scratch (default: false)
    --ranks N           processes per machine for units and training, one per GPU (default: 1)
    --num_nodes N       machines, with cmd_backend=slurm (default: 1)
    --nj N              processes that prepare data and write shards; also written --jobs (default: 4)
    --set KEY=VALUE     replace a value of the schedule; may be repeated (default: none)
    --data DIR          data directories: DIR/RECIPE and DIR/CORPUS (default: data in the root)
    --exp DIR           units and models: DIR/RECIPE (default: exp in the root)
    --help              print this text
Relative paths start at the recipe's folder.

Stages, with the numbers of run.sh in the root:
     1  corpora, joined to one self-supervised set     6  student units: HL it. 2 layer -> PCA -> k-means
     2  units, iteration 1: MFCC -> k-means            7  distil HS
     3  teacher HL, iteration 1                        8  distil HST and further models of the schedule
     4  units, iteration 2: HL it. 1 layer -> k-means  9  export of model directories, cost table
     5  teacher HL, iteration 2

The same command resumes a killed run. db.sh or the environment names the folders of the corpora; cmd.sh chooses where
jobs run; python -m egs estimate estimates the cost of a schedule. HARNESS_VENV names a virtual environment
to use instead of .venv.
EOH
}

parse_options "$@"
check_stages 9
[ -n "${config}" ] || fail "no schedule: name it in the recipe's run.sh or with --config FILE"
[ -f "${config}" ] || fail "--config ${config}: no such file"
for name in ranks num_nodes nj; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "--${name} ${!name}: give a number of at least 1"
done
corpus=${recipe}
# shellcheck source=egs/TEMPLATE/corpus.sh
. "${root}/egs/TEMPLATE/corpus.sh"

arguments=(--recipe "${recipe}" --config "$(readlink -f "${config}")" --stop_stage "${stop_stage}" --jobs "${nj}")
arguments+=(--data "$(readlink -m "${data:-${root}/data}")" --exp "$(readlink -m "${exp:-${root}/exp}")")
arguments+=(--called "egs/$(basename "$(dirname "${PWD}")")/$(basename "${PWD}")/run.sh")
if [ -n "${stage}" ]; then arguments+=(--stage "${stage}"); fi
if [ "${force}" = true ]; then arguments+=(--force); fi
# shellcheck disable=SC2154  # cmd.sh sets both
if [ -n "${prepare_cmd}" ]; then arguments+=(--prepare_launcher "${prepare_cmd} python"); fi
# shellcheck disable=SC2154
if [ -n "${ranks_cmd}" ]; then arguments+=(--train_launcher "${ranks_cmd}"); fi

cd "${root}"
exec python -m egs run "${arguments[@]}" ${settings[@]+"${settings[@]}"}
