#!/usr/bin/env bash
# The recognisers from published recitations: data, encoder from Whisper's layers, CTC, layers at 25 Hz, error rates.
# Stage 10 is a small one, which learns from the first.
set -euo pipefail
cd "$(dirname "$0")/../.."

stage=1
stop_stage=9
nproc=2
quran=
reciters=
unseen=
keywords=
keyword_splits=
digits=
whisper=

help() {
    cat <<'EOF'
egs/open_arabic_70h/run.sh [--option value ...]
  stages: 1 data, 2 encoder from Whisper's layers, 3 CTC on short recordings, 4 cut the long ones, 5 CTC on all,
          6 layers at 25 Hz, 7 rooms, noise and telephones, 8 limits of find and for noise, 9 error rates,
          10 the recogniser in the size of HST (needs the HST of recipe.yaml)
  --stage N --stop_stage N     first and last stage (1, 9; 10 only on demand)
  --nproc N                    processes (2)
  --quran FILE                 quran.json
  --reciters "NAME=DIR ..."    trained on: folders of SSSAAA.mp3
  --unseen "NAME=DIR ..."      tested only
  --keywords DIR               Arabic Speech Commands
  --keyword_splits DIR         its train.csv, val.csv, test.csv and keywords.tsv
  --digits DIR                 Arabic digits
  --whisper DIR                Whisper base in Transformers form
EOF
}

while [ $# -gt 0 ]; do
    case "$1" in
        --help) help; exit 0 ;;
        --*) name=${1#--}; name=${name//-/_}
             if ! [[ " stage stop_stage nproc quran reciters unseen keywords keyword_splits digits whisper " == *" ${name} "* ]] || [ $# -lt 2 ]; then
                 echo "run.sh: unknown option or no value: $1 (--help shows all)" >&2; exit 2
             fi
             printf -v "${name}" '%s' "$2"; shift 2 ;;
        *) echo "run.sh: what is '$1'? (--help shows the options)" >&2; exit 2 ;;
    esac
done
log() { echo "$(date '+%Y-%m-%d %H:%M:%S') (${BASH_LINENO[0]}) $*"; }
data=data/harness_open
exp=exp/harness_open
launch="torchrun --nproc_per_node ${nproc} -m"

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    log "stage 1: data"
    options=(--quran "${quran}" --jobs "${nproc}" --out "${data}")
    for pair in ${reciters}; do options+=(--reciter "${pair}"); done
    for pair in ${unseen}; do options+=(--unseen "${pair}"); done
    [ -z "${keywords}" ] || options+=(--keywords "${keywords}" --keyword-splits "${keyword_splits:-${keywords}}")
    [ -z "${digits}" ] || options+=(--digits "${digits}")
    python -m downstream.asr data "${options[@]}"
fi
if [ "${stage}" -le 2 ] && [ "${stop_stage}" -ge 2 ]; then
    log "stage 2: Whisper's encoder behind our log-mel"
    python -m upstream regress --geometry hst_whisper6 --source "${whisper}" --audio "${data}/audio/recitation" --out "${exp}/start"
fi
if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
    log "stage 3: CTC on short recordings"
    ${launch} downstream.asr train egs/open_arabic_70h/conf/ctc_short.yaml
fi
if [ "${stage}" -le 4 ] && [ "${stop_stage}" -ge 4 ]; then
    log "stage 4: long recordings, cut at pauses"
    python -m downstream.asr cut --model "${exp}/short/model" --head "${exp}/short/head" --jobs "${nproc}" \
        --audio "${data}/audio/recitation" --text "${data}/text/recitation.text" --out "${data}/text/cut"
fi
if [ "${stage}" -le 5 ] && [ "${stop_stage}" -ge 5 ]; then
    log "stage 5: CTC on all recordings"
    ${launch} downstream.asr train egs/open_arabic_70h/conf/ctc.yaml
fi
# A training from an earlier recogniser, then the mean of both: fine-tuning forgets voices that its speech lacks.
train_on() { # CONFIG START OUT [options of average]
    local config=$1 start=$2 out=$3
    shift 3
    ${launch} downstream.asr train "egs/open_arabic_70h/conf/${config}.yaml"
    python -m downstream.asr average --model "${exp}/${config}/model" --head "${exp}/${config}/head" \
        --start-model "${exp}/${start}/model" --start-head "${exp}/${start}/head" --out "${exp}/${out}" "$@"
}
if [ "${stage}" -le 6 ] && [ "${stop_stage}" -ge 6 ]; then
    log "stage 6: CTC with the layers at 25 Hz"
    train_on ctc_fast ctc fast --share 0.8 --lower 3 --lower-share 0.5
fi
if [ "${stage}" -le 7 ] && [ "${stop_stage}" -ge 7 ]; then
    log "stage 7: CTC with rooms, noise and telephones"
    train_on ctc_robust ctc open --share 0.6
fi
calibrate() { # MODEL
    python -m downstream.asr calibrate --head "${exp}/$1/head" --model "${exp}/$1/model" --audio "${data}/audio/eval" \
        --text "${data}/text/dev_seen.text" --texts "${data}/text/verses.text"
}
score() { # MODEL
    for text in "${data}"/text/test_*.text; do
        log "score: ${text}"
        python -m downstream.asr score --model "${exp}/$1/model" --head "${exp}/$1/head" --audio "${data}/audio/eval" --text "${text}"
    done
}
if [ "${stage}" -le 8 ] && [ "${stop_stage}" -ge 8 ]; then
    log "stage 8: limits of find and for noise"
    calibrate open
fi
if [ "${stage}" -le 9 ] && [ "${stop_stage}" -ge 9 ]; then
    log "stage 9: error rates"
    score open
fi
if [ "${stage}" -le 10 ] && [ "${stop_stage}" -ge 10 ]; then
    log "stage 10: the recogniser in the size of HST"
    ${launch} downstream.asr train egs/open_arabic_70h/conf/ctc_tiny.yaml
    calibrate tiny
    score tiny
fi
