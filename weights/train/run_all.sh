#!/bin/sh
# Everything from the data to an exported model:  weights/train/run_all.sh DATA WORK OUT [minutes]
# DATA holds conversations.jsonl.gz, tools.jsonl.gz and requests.jsonl.gz; WORK takes about 1 GB.
set -eu
here=$(dirname "$0")
data=$1 work=$2 out=$3 minutes=${4:-90}
python=${PYTHON:-python3}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" OMP_WAIT_POLICY=passive
# keep freed tensors in the heap: without it a fifth of the time goes into page faults
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=268435456
"$python" "$here/make_data.py" --data "$data" --out "$work/set" --train 60000 --dev 1500
"$python" "$here/heldout.py" --data "$data" --out "$work/heldout.jsonl"
"$python" "$here/vocab.py" --data "$data" --set "$work/set" --out "$work/vocab"
"$python" "$here/train.py" --set "$work/set" --vocab "$work/vocab" --out "$work/run" --minutes "$minutes"
"$python" "$here/export.py" --checkpoint "$work/run/best.pt" --vocab "$work/vocab" --set "$work/set" --out "$out" --check
"$python" "$here/evaluate.py" --model "$out" --cases "$work/heldout.jsonl" --confusion
