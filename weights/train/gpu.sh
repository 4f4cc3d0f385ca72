#!/bin/bash
# Trains guardian-mini on a machine with a GPU and no network, such as one that is lent for some minutes.
#
#   gpu.sh pack DIR DATA [MODEL]   copies what the other machine needs into DIR: DATA, the programs, and the model to
#                                  start from (default: what start.py makes of SmolLM2)
#   gpu.sh run [MINUTES] [ARG...]  there, from DIR: makes the cases with all cores, trains so long (default 0: until
#                                  EXPORT, 110 s, before the end of LIMIT, 580 s; ARG: flags of train.py), exports, and
#                                  leaves everything in $OUT in parts of 15 MiB
#   gpu.sh join OUT DIR            here: the parts become a model directory again
#
# The other machine needs python3 with torch, numpy, tokenizers and safetensors.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

pack() {
    local to=$1 data=$2 model=${3:-}
    mkdir -p "$to/data" "$to/start"
    cp "$data"/*.gz "$to/data/"
    cp -r "$here" "$to/train"
    cp "$here"/../../bench/accuracy/cases/*.jsonl "$to/data/"
    if [ -n "$model" ]; then
        cp "$model"/{config.json,model.safetensors,tokenizer.json} "$to/start/"
    else
        "${PYTHON:-python3}" "$here/start.py" --out "$to/start"
    fi
    du -sh "$to"
}

run() {
    local minutes=${1:-0} work=${WORK:-/tmp/guardian-train} out=${OUT:?} cores rows=${ROWS:-20000} workers dev
    shift || true
    cores=$(nproc)
    workers=$((cores > 2 ? cores - 2 : 0))
    # Batches go through shared memory.
    [ "$(df --output=avail -BM /dev/shm | tail -n 1 | tr -dc 0-9)" -gt 4000 ] || workers=$((workers > 2 ? 2 : workers))
    mkdir -p "$work/set"
    for i in $(seq "$cores"); do
        dev=20 # the first part's alone is used
        [ "$i" -ne 1 ] || dev=${DEV:-1500}
        python3 "$here/make_data.py" --data "$here/../data" --out "$work/part$i" --train "$rows" --dev "$dev" \
            --written 0.75 --seed "$((100 + i))" &
    done
    wait
    cat "$work"/part*/train.jsonl | shuf --random-source=<(yes) >"$work/set/train.jsonl"
    cp "$work/part1/dev.jsonl" "$work/set/"
    [ "$minutes" != 0 ] || minutes=$(((${LIMIT:-580} - ${EXPORT:-110} - SECONDS) / 60))
    python3 "$here/train.py" --set "$work/set" --start "$here/../start" --out "$work/run" --minutes "$minutes" \
        --batch "${BATCH:-32768}" --workers "$workers" \
        --also "$here"/../data/{assistants,agents}.jsonl "$@" 2>&1 | tee "$out/train.log"
    python3 "$here/export.py" --checkpoint "$work/run/last.pt" --tokenizer "$here/../start/tokenizer.json" \
        --cases "$work/set/dev.jsonl" --out "$work/model" | tee "$out/export.log"
    cp "$work/model/"{config,policy,tokenizer}.json "$out/"
    split -b 15M "$work/model/model.safetensors" "$out/weights."
}

join() {
    mkdir -p "$2"
    cp "$1"/{config,policy,tokenizer}.json "$2/"
    cat "$1"/weights.* >"$2/model.safetensors"
}

case ${1:-} in
pack | run | join) "$@" ;;
*) sed -n '2,11p' "$0" ;;
esac
