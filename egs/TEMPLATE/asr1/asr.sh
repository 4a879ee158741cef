#!/usr/bin/env bash
# ASR with ESPnet on one corpus, in stages. Called by a recipe's run.sh: ./run.sh --help

set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../.." && pwd)
# shellcheck source=egs/TEMPLATE/options.sh
. "${root}/egs/TEMPLATE/options.sh"
script=run.sh

# Every variable of this block is an option of the same name.
stage=1
stop_stage=8
corpus=
train_set=train
valid_set=dev
test_sets="test"
upstream=fbank
upstream_path=
finetune=false
asr_config=conf/train_asr.yaml
inference_config=conf/decode_asr.yaml
inference_model=valid.acc.ave.pth
lm_config=
use_lm=
token_type=char
pieces=500
speeds=1
text_profile=none
score_profile=mgb
min_seconds=0.1
max_seconds=30
tag=
nj=4
ngpu=0
data=
exp=

options=(stage stop_stage corpus train_set valid_set test_sets upstream upstream_path finetune asr_config)
options+=(inference_config inference_model lm_config use_lm token_type pieces speeds text_profile score_profile)
options+=(min_seconds max_seconds tag nj ngpu data exp)
switches=(finetune)
lists=(set)
# ESPnet's names of the same options
aliases=(jobs:nj inference_nj:nj nbpe:pieces speed_perturb_factors:speeds asr_tag:tag)

help() {
    cat <<'EOH'
Usage: ./run.sh [options]

    ./run.sh                                                   every stage, ESPnet's filterbank as the front end
    ./run.sh --stage 4 --upstream harness_custom --upstream_path DIR    one of our models, on the same data

Options (--stop_stage 8, --stop-stage 8 and --stop_stage=8 are the same):
    --stage N                first stage (default: 1)
    --stop_stage N           last stage (default: 8)
    --corpus NAME            module of corpora/ that prepares the data (default: set by the recipe)
    --train_set NAME         data directory to train on (default: train)
    --valid_set NAME         data directory to choose the model on (default: dev)
    --test_sets "A B"        data directories to decode (default: test)
    --upstream NAME          fbank, or a name on S3PRL's hub such as harness_custom (default: fbank)
    --upstream_path DIR      model directory for harness_custom (default: none)
    --finetune true|false    train the upstream too; false keeps it frozen (default: false)
    --asr_config FILE        ESPnet's training configuration without its front end (default: conf/train_asr.yaml)
    --inference_config FILE  configuration of the search (default: conf/decode_asr.yaml)
    --inference_model FILE   weights to decode with: ESPnet averages the best epochs (default: valid.acc.ave.pth)
    --lm_config FILE         train a language model with this configuration and decode with it (default: none)
    --use_lm true|false      decode with a language model; true without --lm_config takes conf/train_lm.yaml
                             (default: true with --lm_config, else false)
    --token_type TYPE        char or bpe (default: char)
    --pieces N               SentencePiece units, for bpe; also written --nbpe (default: 500)
    --speeds "A,B"           speed perturbation of the training set, for instance 0.9,1,1.1 or "0.9 1.0 1.1"; also written
                             --speed_perturb_factors (default: 1)
    --text_profile NAME      profile of the training text: none, mgb, leaderboard-2026-07, artst ... (default: none)
    --score_profile NAME     profile in which references and hypotheses are scored (default: mgb)
    --min_seconds S          leave out shorter utterances (default: 0.1)
    --max_seconds S          leave out longer utterances (default: 30)
    --tag NAME               name of the system in exp/ and in the table; also written --asr_tag (default: from the
                             options)
    --nj N                   processes that prepare data and decode; also written --jobs and --inference_nj (default: 4)
    --ngpu N                 GPUs to train with; unless 0, each decoding process uses one (default: 0)
    --set KEY=VALUE          override a value of the training configuration; may be repeated (default: none)
    --data DIR               data directories (default: data/CORPUS in the root)
    --exp DIR                features, models and results (default: exp/CORPUS/asr1 in the root)
    --help                   print this text
Relative paths start at the recipe's folder.

Stages:
     1  data directories: local/data.sh, or python -m corpora CORPUS
     2  dump: one file per utterance, lengths, text profile, speed perturbation
     3  token list                              6  decode
     4  configuration and shapes                7  score: WER, CER, intervals
     5  train, or resume                        8  RESULTS.md of all systems in exp

db.sh or the environment names the folder of the corpus; cmd.sh chooses where jobs run. HARNESS_VENV names a
virtual environment to use instead of .venv.
EOH
}

parse_options "$@"
check_stages 8
check_counts nj pieces
case ${use_lm} in
'') ;;
true) lm_config=${lm_config:-conf/train_lm.yaml} ;;
false) lm_config= ;;
*) fail "--use_lm ${use_lm}: true or false" ;;
esac
# In ESPnet's form, spaces separate the factors, and an empty text means no perturbation.
speeds=$(echo "${speeds}" | tr -s ' ' ',')
speeds=${speeds:-1}
# shellcheck source=egs/TEMPLATE/corpus.sh
. "${root}/egs/TEMPLATE/corpus.sh"

data=${data:-${root}/data/${corpus}}
exp=${exp:-${root}/exp/${corpus}/asr1}
if [ -z "${tag}" ]; then
    tag=${upstream}
    if [ -n "${upstream_path}" ]; then tag=$(basename "${upstream_path}"); fi
    if [ "${finetune}" = true ]; then tag+=_finetuned; fi
    tag+=_$(basename "${asr_config}" .yaml)_${token_type}
    if [ "${token_type}" = bpe ]; then tag+=${pieces}; fi
    if [ "${speeds}" != 1 ]; then tag+=_sp; fi
fi
names=("tag=${tag}" "train_set=${train_set}" "valid_set=${valid_set}" "text_profile=${text_profile}")
for name in ${test_sets}; do names+=("test_sets=${name}"); done
python -m corpora.names "${names[@]}" || exit 2
dump=${exp}/dump_${text_profile}
tokens=${exp}/${token_type}
if [ "${token_type}" = bpe ]; then tokens+=${pieces}; fi
tokens+=_${text_profile}
train_dump=${dump}/${train_set}_sp${speeds//,/_}
work=${exp}/${tag}
asr() { python -m downstream.espnet "$@"; }

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    prepare_data "${data}"
fi

if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: dump"
    bounds=(--min_seconds "${min_seconds}" --max_seconds "${max_seconds}" --text_profile "${text_profile}" --jobs "${nj}")
    asr dump --data "${data}/${train_set}" --out "${train_dump}" --speeds "${speeds}" "${bounds[@]}"
    asr dump --data "${data}/${valid_set}" --out "${dump}/${valid_set}" "${bounds[@]}"
    for name in ${test_sets}; do
        asr dump --data "${data}/${name}" --out "${dump}/scored/${name}" --scored --jobs "${nj}"
    done
fi

if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
    log "stage 3: token list"
    asr tokens --data "${train_dump}" --out "${tokens}" --type "${token_type}" --pieces "${pieces}"
fi

if [ "${stage}" -le 4 ] && [ "${stop_stage}" -ge 4 ]; then
    log "stage 4: configuration and shapes of ${tag}"
    front_end=(--upstream "${upstream}")
    if [ -n "${upstream_path}" ]; then front_end+=(--upstream_path "${upstream_path}"); fi
    if [ "${finetune}" = true ]; then front_end+=(--finetune); fi
    asr config --base "${asr_config}" "${front_end[@]}" --out "${work}/train.yaml" ${settings[@]+"${settings[@]}"}
    asr shapes --data "${train_dump}" --tokens "${tokens}" --config "${work}/train.yaml" --training \
        --out "${work}/shapes/train"
    asr shapes --data "${dump}/${valid_set}" --tokens "${tokens}" --config "${work}/train.yaml" --training \
        --out "${work}/shapes/valid"
fi

text_options=(--token_type "${token_type}" --token_list "${tokens}/tokens.txt")
if [ "${token_type}" = bpe ]; then text_options+=(--bpemodel "${tokens}/bpe.model"); fi
lm=()
if [ -n "${lm_config}" ]; then
    lm=(--lm_config "${exp}/lm_$(basename "${lm_config}" .yaml)/config.yaml")
    lm+=(--lm_file "${exp}/lm_$(basename "${lm_config}" .yaml)/valid.loss.ave.pth")
fi

if [ "${stage}" -le 5 ] && [ "${stop_stage}" -ge 5 ]; then
    if [ -n "${lm_config}" ]; then
        log "stage 5: language model"
        folder=$(dirname "${lm[1]}")
        mkdir -p "${folder}"
        for part in train valid; do
            source=${train_dump}
            if [ "${part}" = valid ]; then source=${dump}/${valid_set}; fi
            asr lm_text --data "${source}" --tokens "${tokens}" --out "${folder}/${part}"
        done
        # shellcheck disable=SC2086
        ${train_cmd} python -m downstream.espnet lm_train --ngpu "${ngpu}" --config "${lm_config}" --resume true \
            --output_dir "${folder}" "${text_options[@]}" \
            --train_data_path_and_name_and_type "${folder}/train/text,text,text" \
            --train_shape_file "${folder}/train/text_shape" \
            --valid_data_path_and_name_and_type "${folder}/valid/text,text,text" \
            --valid_shape_file "${folder}/valid/text_shape"
    fi
    log "stage 5: training ${tag}, log: ${work}/train.log"
    mkdir -p "${work}"
    typed=./asr.sh
    for word in "$@"; do
        word=${word/#"${root}"\//../../../}
        typed+=" $(printf '%q' "${word/=${root}\//=../../../}")"
    done
    revision=$(git -C "${root}" describe --always --dirty 2>/dev/null || echo unknown)
    echo "${typed}  # ${tag}, commit ${revision}" >"${work}/command"
    # shellcheck disable=SC2086
    ${train_cmd} python -m downstream.espnet asr_train --ngpu "${ngpu}" --config "${work}/train.yaml" --resume true \
        --output_dir "${work}" "${text_options[@]}" \
        --train_data_path_and_name_and_type "${train_dump}/wav.scp,speech,sound" \
        --train_data_path_and_name_and_type "${train_dump}/text,text,text" \
        --train_shape_file "${work}/shapes/train/speech_shape" --train_shape_file "${work}/shapes/train/text_shape" \
        --valid_data_path_and_name_and_type "${dump}/${valid_set}/wav.scp,speech,sound" \
        --valid_data_path_and_name_and_type "${dump}/${valid_set}/text,text,text" \
        --valid_shape_file "${work}/shapes/valid/speech_shape" --valid_shape_file "${work}/shapes/valid/text_shape" \
        2>&1 | tee -a "${work}/train.log" | { grep -E --line-buffered 'epoch (started|results)|Error' || true; } ||
        fail "training of ${tag} failed; log: ${work}/train.log; the same command resumes after the last epoch"
fi

decoded=${work}/decode_$(basename "${inference_config}" .yaml)
if [ -n "${lm_config}" ]; then decoded+=_lm; fi
decoded+=_${inference_model%.pth}

if [ "${stage}" -le 6 ] && [ "${stop_stage}" -ge 6 ]; then
    for name in ${test_sets}; do
        log "stage 6: decoding ${name}"
        asr decode --data "${dump}/scored/${name}" --train_config "${work}/config.yaml" \
            --model_file "${work}/${inference_model}" --inference_config "${inference_config}" ${lm[@]+"${lm[@]}"} \
            --jobs "${nj}" --gpus "$((ngpu > 0))" --launcher "${decode_cmd}" --out "${decoded}/${name}"
    done
fi

if [ "${stage}" -le 7 ] && [ "${stop_stage}" -ge 7 ]; then
    log "stage 7: scores of ${tag}"
    for name in ${test_sets}; do
        asr score --system "${tag}" --data "${data}/${name}" --hypotheses "${decoded}/${name}/text" \
            --text_profile "${score_profile}" --out "${decoded}/${name}"
    done
fi

if [ "${stage}" -le 8 ] && [ "${stop_stage}" -ge 8 ]; then
    asr results --exp "${exp}" --title "ASR on ${corpus}"
fi
