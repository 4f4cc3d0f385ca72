#!/usr/bin/env bash
# All benchmarks of the CPU one after another, and the same traces through PyTorch + transformers on as many threads.
#
#   bench/run_cpu.sh            results go to bench/results/<date>-<isa>-<threads>t.json, a table to stdout
#
# From the environment: BUILD (build/release, made with GD_TESTS=ON), MODEL, THREADS (all processors), RUNS of the
# latency (100), REPEAT of each trace (3; the median counts), PYTHON (an interpreter with torch and transformers; empty:
# no peers), PEER_BATCH and PEER_REPEAT (the best counts), OUT. Let nothing else run meanwhile: it takes about
# half an hour with peers, five minutes without.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build/release}
model=${MODEL:-weights/guardian-mini}
threads=${THREADS:-$(nproc)}
repeat=${REPEAT:-3}
python=${PYTHON:-}
out=${OUT:-bench/results}
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- server kernels include bench CMakeLists.txt || commit+=-dirty
tmp=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$tmp"' EXIT
lines=$tmp/lines.jsonl

say() { printf '== %s\n' "$*" >&2; }

say "load average $(cut -d' ' -f1-3 /proc/loadavg): let nothing else run"
say "latency"
"$build/bench_latency" --json --commit "$commit" "$model" "$threads" "${RUNS:-100}" >>"$lines"

# trace:requests; a mixed prompt is some four times as much work as the others
for t in cold:256 prefix:256 growing:640 mixed:128 bursts:512; do
    name=${t%:*} requests=${t#*:}
    say "offline $name"
    "$build/bench_offline" "$model" --threads "$threads" --trace "$name" --requests "$requests" --repeat "$repeat" \
        --json --commit "$commit" >>"$lines"
    [ -n "$python" ] || continue
    "$build/bench_offline" "$model" --threads "$threads" --trace "$name" --requests "$requests" \
        --dump "$tmp/$name.jsonl" >"$tmp/offline.log"
    say "transformers $name"
    "$python" bench/peers/transformers_score.py --model "$model" --dump "$tmp/$name.jsonl" --threads "$threads" \
        --batch "${PEER_BATCH:-1,4,8,16}" --repeat "${PEER_REPEAT:-2}" 2>"$tmp/peer.log" >>"$lines" || {
        cat "$tmp/peer.log" >&2
        exit 1
    }
    rm "$tmp/$name.jsonl"
done

say "offline growing, nothing reused"
"$build/bench_offline" "$model" --threads "$threads" --trace growing --requests 640 --no-prefix-cache \
    --json --commit "$commit" >>"$lines"

say "http"
"$build/guardian" serve --model "$model" --threads "$threads" --port 0 --verdict-cache 0 --max-queue-ms 600000 \
    --log-level info 2>"$tmp/serve.log" &
server=$!
for _ in $(seq 600); do
    grep -q '"msg":"ready"' "$tmp/serve.log" && break
    kill -0 "$server" || {
        cat "$tmp/serve.log" >&2
        exit 1
    }
    sleep 0.2
done
port=$(sed -n 's/.*"msg":"listening".*"port":\([0-9]*\).*/\1/p' "$tmp/serve.log")
for connections in 1 8; do
    # Bodies of their own for each number of connections: the server has seen those before.
    python3 bench/make_bodies.py --url "http://127.0.0.1:$port" --out "$tmp/bodies" --seed "$connections" \
        >"$tmp/made.json"
    for body in 20 100 300 1000 growing; do
        "$build/bench_http" --port "$port" --body "$tmp/bodies/bodies-$body.jsonl" --connections "$connections" \
            --json --commit "$commit" >>"$lines"
    done
done
kill "$server"
wait "$server" || true
server=

python3 bench/report.py "$lines" "$out"
