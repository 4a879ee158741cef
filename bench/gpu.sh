#!/usr/bin/env bash
# Measure training, labelling and inference on one machine in about ten minutes: bench/gpu.sh --help

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=exp/bench_gpu
minutes=10
python=python
tiny=false

help() {
    cat <<'EOF'
Usage: bench/gpu.sh [--out DIR] [--minutes N] [--python PATH] [--tiny true]

    --out DIR      one file for each piece; a piece whose file exists is skipped, so the same command resumes
                   (default: exp/bench_gpu)
    --minutes N    time of all pieces; the training at the end gets what is left, at least one minute (default: 10)
    --python PATH  interpreter with torch 2.8 or newer; S3PRL and ESPnet are not needed (default: python)
    --tiny true    dry run: tiny models, seconds of audio (default: false)
Pieces: step (HuBERT-Base beside torchaudio's; needs torchaudio), mfu, inference, labelling, ddp (two processes),
training. Exit status 1 if a piece failed; its messages are in DIR/<piece>.log.
EOF
}

while [ $# -gt 0 ]; do
    case "$1" in
        --help) help; exit 0 ;;
        --out) out=$2; shift 2 ;;
        --minutes) minutes=$2; shift 2 ;;
        --python) python=$2; shift 2 ;;
        --tiny) tiny=$2; shift 2 ;;
        *) echo "bench/gpu.sh: error: unknown option $1; see --help" >&2; exit 2 ;;
    esac
done

mkdir -p "$out"
failed=0

# piece NAME SECONDS WORDS...: run a command, and keep its output as NAME.txt once it has succeeded.
piece() {
    local name=$1 limit=$2 status=0
    shift 2
    [ "$tiny" = false ] || limit=600 # the machine of a dry run may be busy
    if [ -f "$out/$name.txt" ]; then
        echo "== $name: kept"
    else
        timeout "$limit" "$@" >"$out/$name.part" 2>"$out/$name.log" || status=$?
        if [ "$status" -ne 0 ]; then
            echo "== $name: failed with status $status (124: not finished in $limit s); see $out/$name.log" >&2
            failed=1
            return
        fi
        mv "$out/$name.part" "$out/$name.txt"
        echo "== $name"
    fi
    cat "$out/$name.txt"
}

if [ "$tiny" = true ]; then
    base=(--layers 1 --clips 1 --seconds 1 --runs 1 --no-compile)
    timed=(--geometry mini_hst --clips 1 --seconds 1 --runs 1)
    encoders=mini_hst
    labels=(--geometry mini_hst --minutes 0.2 --runs 1)
    trains=(--geometry mini_hst steps=4 batch_seconds=10 crop_seconds=5 valid_every=2)
    audio=0.5 k=10
else
    base=()
    timed=(--geometry hl)
    encoders=hl,hs,hst,hl_logmel,hst_logmel,hst_fast
    labels=(--geometry hl)
    trains=(--geometry hl steps=1000000 batch_seconds=350 valid_every=25 workers=4)
    audio=20 k=100
fi

if "$python" -c 'import torchaudio' 2>/dev/null; then
    piece step 150 "$python" -m bench.pretrain ${base[@]+"${base[@]}"}
else
    echo "== step: skipped, torchaudio cannot be imported"
fi
piece mfu 120 "$python" -m bench.gpu mfu "${timed[@]}"
piece inference 60 "$python" -m bench.gpu inference "${timed[@]}" --geometry "$encoders"
piece labelling 60 "$python" -m bench.gpu labelling "${labels[@]}"
piece ddp 90 "$python" -m torch.distributed.run --standalone --nproc_per_node 2 -m bench.gpu ddp "${timed[@]}"

# The training ends when its time is over, which is no failure. Its data, units and checkpoints are kept.
if [ ! -f "$out/training.txt" ]; then
    piece corpus 60 "$python" -m bench.gpu corpus --minutes "$audio" --out "$out/corpus"
    piece units 60 "$python" -m upstream units --data "$out/corpus" --out "$out/units" source=mfcc "k=$k"
    left=$((minutes * 60 - SECONDS)) status=0
    timeout -k 30 "$((left > 60 ? left : 60))" "$python" -m upstream pretrain --data "$out/corpus" \
        --units "$out/units" --out "$out/run" "${trains[@]}" 2>"$out/pretrain.log" || status=$?
    if [ "$status" -ne 0 ] && [ "$status" -ne 124 ] && [ "$status" -ne 137 ]; then
        echo "== training: failed with status $status; see $out/pretrain.log" >&2
        exit 1
    fi
fi
piece training 60 "$python" -m bench.gpu trained "$out/run"
exit "$failed"
