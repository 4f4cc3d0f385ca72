#!/bin/sh
# Data, training, export and evidence on a CPU:  weights/train/run_all.sh DATA WORK OUT [minutes] [MODEL]
# DATA holds conversations.jsonl.gz, tools.jsonl.gz and requests.jsonl.gz; WORK takes about 1 GB; MODEL is the model directory to
# start from (default: what start.py makes of SmolLM2). The forest needs the built program ($GUARDIAN). gpu.sh does the same on
# a GPU, but for the forest.
set -eu
here=$(dirname "$0")
data=$1 work=$2 out=$3 minutes=${4:-90} model=${5:-$2/start}
python=${PYTHON:-python3}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" OMP_WAIT_POLICY=passive
# keep freed tensors in the heap: without it a fifth of the time goes into page faults
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=268435456
[ -e "$model/config.json" ] || "$python" "$here/start.py" --out "$model"
"$python" "$here/make_data.py" --data "$data" --out "$work/set"
"$python" "$here/train.py" --set "$work/set" --start "$model" --out "$work/run" --minutes "$minutes" --muon 0.012 --lr 0.001
"$python" "$here/export.py" --checkpoint "$work/run/last.pt" --tokenizer "$model/tokenizer.json" --cases "$work/set/dev.jsonl" \
    --out "$out" --check
"$python" "$here/make_data.py" --data "$data" --out "$work/wide" --train 30000 --wide
"$python" "$here/forest.py" --set "$work/wide" --model "$out" --guardian "${GUARDIAN:-$here/../../build/release/guardian}"
