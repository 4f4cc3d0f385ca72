#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command and in less than nine minutes.
#
#   bench/gpu.sh                 on a GPU machine with a build: packs it and runs it
#   bench/gpu.sh pack DIR        on any machine with a build: DIR/gpu.sh and DIR/payload.tar.gz, for a GPU machine that has
#                                nothing of ours and no network
#   bench/gpu.sh run             in such a DIR, on the GPU machine
#
# A part is "ok", "failed: why" or "skipped: why"; what is not there is skipped. Parts, in this order:
#   tests      cuda_*: every operation against plain C, the back end and whole models against transformers' figures
#   accuracy   guardian-mini: served in bf16 and FP8 with its golden verdicts; on its evaluation set CPU, bf16 and FP8
#              agree how far
#   sanitizer  compute-sanitizer memcheck and racecheck over the tests
#   kernels    bench_kernels: ceilings, element-wise kernels, attention, products
#   fp8 bf16   bench_offline on a model in the shape of the 8B Guardian: cold, prefix, growing
#   http       the server with it in FP8: closed loop, one connection, and requests at random times
#   latency    bench_latency on it, bf16 and FP8
#   peers      transformers on the same GPU with the same traces
#   steps      bench_offline with larger --max-batch-tokens, as far as there is time
#   ncu        the profiler's view of the attention kernel
# All of them take longer than nine minutes. Run it twice: with PARTS="tests accuracy sanitizer kernels", which needs no
# large model, then with PARTS="fp8 http bf16 latency peers".
# One JSON file: OUT/<date>-<device>-<first part>.json, with the logs beside it. The exit status is 1 when a part failed.
#
# From the environment. pack: BUILD (build/release), SIMT=1 (the stand-in's programs in place of CUDA's: to try this
# script; targets guardian_simt simt_bench_latency simt_bench_offline), DATA (../shared/data: what
# weights/train/heldout.py makes the evaluation set of; without it requests of tests/golden, which have no labels),
# COMMIT. run: OUT (results), DEVICE (cuda:0), PARTS (all), BUDGET (530 seconds in all), TEST_SECONDS (60) and
# SANITIZER_SECONDS (20) of one program, SHAPE (llama-3.1-8b), LAYERS (all), REQUESTS (640 of each trace), SCRATCH
# (/dev/shm or /tmp, with room for the model), PYTHON (python3).
set -euo pipefail
self=$(realpath "$0")
here=$(dirname "$self")

say() { printf '== %s\n' "$*" >&2; }

# The text as the inside of a JSON string.
quoted() { printf '%s' "$1" | tr -d '\000-\037\177-\377' | sed 's/\\/\\\\/g; s/"/\\"/g' | cut -c1-500; }

# ---- pack ----

# Our programs under the names that `run` knows.
pack_programs() {
    local to=$1 name
    local test_prefix=cuda bench=bench tests=$build/tests guardian=$build/guardian
    if [ -n "${SIMT:-}" ]; then
        test_prefix=simt bench=tests/simt_bench guardian=$build/tests/guardian_simt
    fi
    cp "$guardian" "$to/guardian"
    for name in offline latency kernels; do
        cp "$build/${bench}_$name" "$to/bench_$name"
    done
    cp "$build/bench_http" "$build/bench_shape" "$to"
    for name in "$tests/${test_prefix}"_*; do
        case ${name##*/} in *_bench_*) continue ;; esac
        [ ! -x "$name" ] || cp "$name" "$to/cuda_${name##*/"${test_prefix}"_}"
    done
    strip "$to"/*
}

# What the programs link but for the C library; the compiler's own libraries apart: newer ones do as well.
pack_libraries() {
    local from=$1 to=$2 lib
    mkdir -p "$to/compiler"
    ldd "$from"/* | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u | while read -r lib; do
        case $lib in
        */libc.so* | */libm.so* | */libpthread.so* | */libdl.so* | */librt.so* | */ld-linux* | */libcuda.so* | */libcublasLt.so*) ;;
        */libstdc++.so* | */libgcc_s.so*) cp -L "$lib" "$to/compiler" ;;
        *) cp -L "$lib" "$to" ;;
        esac
    done
}

# Requests and, where there are any, their labels.
pack_cases() {
    local to=$1 data=${DATA:-$root/../shared/data}
    if python3 "$root/weights/train/heldout.py" --data "$data" --out "$to/cases.jsonl" >"$to/heldout.log" 2>&1; then
        python3 - "$to" <<'PY'
import json, sys
with open(sys.argv[1] + "/cases.jsonl") as f, open(sys.argv[1] + "/requests.jsonl", "w") as out:
    for line in f:
        case = json.loads(line)
        out.write(json.dumps({k: case[k] for k in ("messages", "frames", "tools") if case.get(k)}) + "\n")
PY
        echo "weights/train/heldout.py: $(wc -l <"$to/cases.jsonl") labelled cases" >"$to/cases.txt"
    else
        rm -f "$to/cases.jsonl"
        python3 - "$root" "$to" <<'PY'
import json, pathlib, sys
with open(sys.argv[2] + "/requests.jsonl", "w") as out:
    for path in sorted(pathlib.Path(sys.argv[1], "tests/golden/frames").glob("*.json")):
        whole = json.loads(path.read_text())
        for n in range(1, len(whole["frames"]) + 1):
            if "tools/call" in json.dumps(whole["frames"][:n]):
                out.write(json.dumps({**whole, "frames": whole["frames"][:n]}) + "\n")
PY
        echo "no evaluation set: $(wc -l <"$to/requests.jsonl") beginnings of the sessions in tests/golden/frames" >"$to/cases.txt"
    fi
    rm -f "$to/heldout.log"
}

# Bodies for bench_http, each set new to the server; words are measured with guardian-mini on this machine.
pack_bodies() {
    local to=$1 seed port
    mkdir -p "$to"
    start_server "$build/guardian" "$root/weights/guardian-mini" "$to/serve.log" --device cpu
    port=$(port_of "$to/serve.log")
    for seed in 1 2 3 4; do
        python3 "$root/bench/make_bodies.py" --url "http://127.0.0.1:$port" --out "$to/$seed" --seed "$seed" \
            --tokens 300 --count "${BODIES:-1500}" --sessions 64 >/dev/null
    done
    stop_server
    rm "$to/serve.log"
}

pack() {
    local to=$1
    root=$(dirname "$here")
    build=$(realpath "${BUILD:-$root/build/release}")
    payload=$(mktemp -d)
    trap 'stop_server; rm -rf "$payload"' EXIT
    mkdir -p "$payload/bin" "$payload/lib" "$payload/tests" "$payload/cases" "$payload/bench/peers" "$payload/bench/accuracy"
    pack_programs "$payload/bin"
    pack_libraries "$payload/bin" "$payload/lib"
    cp -r "$root/weights/guardian-mini" "$payload/model"
    cp -r "$root/tests/golden" "$payload/tests/golden"
    cp "$root/bench/peers/transformers_score.py" "$payload/bench/peers"
    cp "$root"/bench/accuracy/*.py "$payload/bench/accuracy"
    pack_cases "$payload/cases"
    pack_bodies "$payload/bodies"
    commit=${COMMIT:-$(git -C "$root" rev-parse --short HEAD)}
    git -C "$root" diff --quiet HEAD -- server kernels include bench CMakeLists.txt || commit+=-dirty
    echo "$commit" >"$payload/commit"
    nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p' >"$payload/cuda_major" || true
    mkdir -p "$to"
    tar -C "$payload" -czf "$to/payload.tar.gz" .
    cp "$self" "$to/gpu.sh"
    say "$to: $(du -sh "$to" | cut -f1) of commit $commit; there: $to/gpu.sh run"
}

# ---- a server ----

server=
# PROGRAM MODEL LOG FLAGS: waits until it is ready. exec: what stop_server ends is the program, not a shell around it
start_server() {
    local program=$1 model=$2 log=$3
    shift 3
    : >"$log"
    ours exec "$program" serve --model "$model" --port 0 --verdict-cache 0 --max-queue-ms 600000 --log-level info "$@" 2>>"$log" &
    server=$!
    until grep -q '"msg":"ready"' "$log"; do
        kill -0 "$server" 2>/dev/null || fail "the server did not start: $(tail -n 1 "$log")"
        sleep 0.1
    done
}
port_of() { sed -n 's/.*"msg":"listening".*"port":\([0-9]*\).*/\1/p' "$1"; }
stop_server() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server"; } || true
    server=
}

# ---- run: what parts need ----

# A program of ours with the libraries that came with it. None of this is for python3 or the tools of CUDA.
ours() {
    if [ -z "${work:-}" ]; then
        "$@"
    else
        LD_LIBRARY_PATH=$library_path "$@"
    fi
}

fail() {
    printf '%s\n' "failed: $*" >"${why:-/dev/stderr}"
    exit 1
}
skip() {
    printf '%s\n' "skipped: $*" >"$why"
    exit 0
}

# Appends what a program prints to the results, and fails with its last words.
measure() {
    local log=$work/logs/$1.log
    shift
    ours "$@" >>"$lines" 2>>"$log" || fail "$(basename "$1"): exit status $?: $(tail -n 1 "$log")"
}

# Where a tool of CUDA is; nothing when it is not there.
cuda_tool() { command -v "$1" || find /usr/local/cuda*/bin -name "$1" 2>/dev/null | head -n 1; }

# The model in the shape of the 8B Guardian is written while other parts run.
shaped_model() {
    until [ -e "$work/shape.done" ]; do
        [ ! -e "$work/shape.failed" ] || skip "no model in the shape of $SHAPE: $(tail -n 1 "$work/logs/shape.log")"
        sleep 0.2
    done
    model=$scratch/model
}

# ---- the parts ----

part_tests() {
    local test name log failed=0 begin
    cd "$work/tests"
    for test in "$work"/bin/cuda_*; do
        [ -e "$test" ] || skip "no tests were packed"
        name=${test##*/} log=$work/logs/$name.log begin=$SECONDS
        ours timeout -k 2 "${TEST_SECONDS:-60}" "$test" >"$log" 2>&1 || failed=$((failed + 1))
        # cmocka tells what failed and what was skipped twice.
        printf '{"bench":"test","name":"%s","passed":%d,"failed":%d,"skipped":%d,"seconds":%d}\n' "$name" \
            "$(grep -c '^\[       OK \]' "$log")" "$(sort -u "$log" | grep -c '^\[  FAILED  \] [a-z0-9_]*$')" \
            "$(sort -u "$log" | grep -c '^\[  SKIPPED \] [a-z0-9_]*$')" $((SECONDS - begin)) >>"$lines"
    done
    [ "$failed" -eq 0 ] || fail "$failed programs; see the logs"
}

part_kernels() {
    local quick=()
    [ -z "$stand_in" ] || quick=(--quick)
    measure kernels "$work/bin/bench_kernels" --device "${DEVICE#cuda:}" --commit "$commit" "${quick[@]}"
}

# The server with guardian-mini: is it ready, after its golden verdicts, and what does it say if not?
served() {
    local log=$work/logs/serve-mini-$1.log ready=false pid
    : >"$log"
    ours timeout 120 "$work/bin/guardian" serve --model "$work/model" --port 0 --device "$DEVICE" --dtype "$1" 2>>"$log" &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && ! grep -q '"msg":"ready"' "$log"; do sleep 0.1; done
    ! grep -q '"msg":"ready"' "$log" || ready=true
    kill "$pid" 2>/dev/null || true
    wait "$pid" || true
    printf '{"bench":"served","dtype":"%s","ready":%s,"said":"%s"}\n' "$1" "$ready" \
        "$(quoted "$(grep '"msg":"ready"' "$log" || tail -n 1 "$log")")" >>"$lines"
}

part_accuracy() {
    local dtype cases=() to=$work/verdicts requests=$work/cases/requests.jsonl
    mkdir -p "$to"
    if [ -n "$stand_in" ]; then
        head -n 2 "$requests" >"$to/requests.jsonl"
        requests=$to/requests.jsonl
    fi
    # Exit status 1: some requests have no verdict; agree.py counts them.
    ours "$work/bin/guardian" assess --model "$work/model" --device cpu "$requests" >"$to/cpu.jsonl" 2>"$work/logs/accuracy.log" || true
    for dtype in bf16 fp8; do
        ours "$work/bin/guardian" assess --model "$work/model" --device "$DEVICE" --dtype "$dtype" "$requests" \
            >"$to/$dtype.jsonl" 2>>"$work/logs/accuracy.log" || true
        [ -s "$to/$dtype.jsonl" ] || fail "$dtype: $(tail -n 1 "$work/logs/accuracy.log")"
    done
    for dtype in bf16 fp8; do
        served "$dtype"
    done
    command -v "$PYTHON" >/dev/null || skip "no python3 to compare verdicts with"
    if [ -e "$work/cases/cases.jsonl" ]; then
        head -n "$(wc -l <"$requests")" "$work/cases/cases.jsonl" >"$to/cases.jsonl"
        cases=(--cases "$to/cases.jsonl")
    fi
    "$PYTHON" "$work/bench/accuracy/agree.py" "${cases[@]}" cpu="$to/cpu.jsonl" bf16="$to/bf16.jsonl" fp8="$to/fp8.jsonl" \
        2>>"$work/logs/accuracy.log" >"$to/agreement" || fail "$(tail -n 1 "$work/logs/accuracy.log") (see errors in the result)"
    sed "s|^{|{\"requests_are\":\"$(quoted "$(cat "$work/cases/cases.txt")")\",|" "$to/agreement" >>"$lines"
}

offline() {
    local dtype=$1
    shift
    measure "offline-$dtype" "$work/bin/bench_offline" "$model" --device "$DEVICE" --dtype "$dtype" --requests "$REQUESTS" \
        --json --commit "$commit" "$@"
}

part_bf16() {
    shaped_model
    mkdir -p "$work/dumps"
    offline bf16 --trace cold,prefix,growing --repeat "$repeat" --dump "$work/dumps"
}

part_fp8() {
    shaped_model
    offline fp8 --trace cold,prefix,growing --repeat "$repeat"
}

part_latency() {
    local dtype
    shaped_model
    for dtype in bf16 fp8; do
        measure latency "$work/bin/bench_latency" --device "$DEVICE" --dtype "$dtype" --json --commit "$commit" "$model" 0 "$runs"
    done
}

part_http() {
    local port rate log=$work/logs/serve.log bodies=$work/bodies
    shaped_model
    trap stop_server EXIT
    start_server "$work/bin/guardian" "$model" "$log" --device "$DEVICE" --dtype fp8
    port=$(port_of "$log")
    load() { measure http "$work/bin/bench_http" --port "$port" --json --commit "$commit" "$@"; }
    load --body "$bodies/4/bodies-300.jsonl" --connections 1 --requests $((REQUESTS / 4))
    load --body "$bodies/1/bodies-300.jsonl" --connections 64 --requests $((2 * REQUESTS))
    rate=$(tail -n 1 "$lines" | sed -n 's/.*"verdicts_per_s":\([0-9]*\).*/\1/p')
    load --body "$bodies/1/bodies-growing.jsonl" --connections 64 --requests "$REQUESTS"
    if [ "${rate:-0}" -gt 4 ]; then
        load --body "$bodies/2/bodies-300.jsonl" --connections 200 --rate $((rate / 2)) --requests $((2 * REQUESTS))
        load --body "$bodies/3/bodies-300.jsonl" --connections 200 --rate $((rate * 8 / 10)) --requests $((2 * REQUESTS))
    fi
}

part_peers() {
    local log=$work/logs/peers.log rc=0
    command -v "$PYTHON" >/dev/null || skip "no python3"
    [ -e "$work/dumps/prefix.jsonl" ] || skip "part bf16 left no traces"
    "$PYTHON" -c 'import torch, transformers' 2>"$log" || skip "no torch or transformers here: $(tail -n 1 "$log")"
    "$PYTHON" "$work/bench/peers/transformers_score.py" --model "$scratch/model" --dump "$work/dumps/prefix.jsonl" \
        "$work/dumps/cold.jsonl" --threads "$(nproc)" --device "$DEVICE" --dtype bfloat16 --limit 128 --batch 8,16,32 --repeat 2 \
        --tolerance 1 --seconds-max 20 --compile 40 >>"$lines" 2>"$log" || rc=$?
    [ "$rc" -eq 0 ] || fail "exit status $rc: $(tail -n 1 "$log")"
}

part_sanitizer() {
    local tool test name log outcome worst=0 rc sanitizer api
    sanitizer=$(cuda_tool compute-sanitizer)
    [ -n "$sanitizer" ] || skip "no compute-sanitizer here"
    cd "$work/tests"
    for tool in memcheck racecheck; do
        # What cuBLASLt asks for and handles itself is no error of ours.
        api=()
        [ "$tool" != memcheck ] || api=(--report-api-errors no)
        for test in "$work"/bin/cuda_*; do
            [ -e "$test" ] || skip "no tests were packed"
            # Nearly all of its time is cuBLASLt's.
            [ "$tool ${test##*/}" != "racecheck cuda_backend" ] || continue
            name=${test##*/} log=$work/logs/$tool-${test##*/}.log rc=0
            ours timeout -k 2 "${SANITIZER_SECONDS:-20}" "$sanitizer" --tool "$tool" --error-exitcode 99 \
                "${api[@]}" "$test" >"$log" 2>&1 || rc=$?
            outcome=$(grep -o 'ERROR SUMMARY: .*\|RACECHECK SUMMARY: .*' "$log" | tail -n 1)
            case $rc in
            0) ;;
            124 | 137) outcome="not finished in ${SANITIZER_SECONDS:-20} s, $(grep -c '^========= \(Invalid\|Error: Race\|Race reported\)' "$log") errors so far" ;;
            99) worst=1 ;;
            *) outcome="exit status $rc: $(tail -n 1 "$log")" ;;
            esac
            printf '{"bench":"sanitizer","tool":"%s","name":"%s","outcome":"%s"}\n' "$tool" "$name" "$(quoted "$outcome")" >>"$lines"
        done
    done
    [ "$worst" -eq 0 ] || fail "errors; see the logs"
}

part_steps() {
    local tokens dtype
    shaped_model
    for dtype in bf16 fp8; do
        for tokens in 4224 8448; do
            offline "$dtype" --trace prefix --max-batch-tokens "$tokens"
        done
    done
}

part_ncu() {
    local ncu
    ncu=$(cuda_tool ncu)
    [ -n "$ncu" ] || skip "no ncu here"
    ours "$ncu" --clock-control none --kill yes --kernel-name regex:attention --launch-count 8 \
        --section SpeedOfLight --section Occupancy --section WarpStateStats \
        "$work/bin/bench_kernels" --device "${DEVICE#cuda:}" --only attention >"$work/logs/ncu.log" 2>&1 ||
        fail "$(tail -n 1 "$work/logs/ncu.log")"
}

# name:seconds, in order
all_parts="tests:150 accuracy:70 sanitizer:180 kernels:100 fp8:110 http:110 bf16:110 latency:100 peers:110 steps:120 ncu:60"

# ---- run ----

smi_fields=name,driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu,memory.used,memory.total
# What nvidia-smi says now, as a JSON object; null where it says nothing.
smi() {
    local values key i=0 out='' given
    given=$(nvidia-smi -i "${DEVICE#cuda:}" --query-gpu="$smi_fields" --format=csv,noheader 2>/dev/null | head -n 1) || given=
    [ -n "$given" ] || {
        printf null
        return
    }
    IFS=, read -r -a values <<<"$given"
    for key in ${smi_fields//,/ }; do
        out+=${out:+, }"\"$key\": \"$(quoted "${values[i]# }")\""
        i=$((i + 1))
    done
    printf '{%s}' "$out"
}

# The folder of cuBLASLt where the loader does not find it by itself.
cublas_folder() {
    local name found
    name=libcublasLt.so.$(cat "$work/cuda_major")
    ! ldconfig -p 2>/dev/null | grep -q "$name " || return 0
    for found in /usr/local/cuda*/lib64/"$name" /usr/local/cuda*/targets/x86_64-linux/lib/"$name" \
        "$(dirname "$(command -v "$PYTHON" || echo /)")"/../lib/python3*/site-packages/nvidia/*/lib/"$name"; do
        [ ! -e "$found" ] || {
            dirname "$found"
            return
        }
    done
    found=$(timeout 20 find /opt /usr /home /root -name "$name" 2>/dev/null | head -n 1) || true
    [ -n "$found" ] || found=$(timeout 20 find / -name "$name" -not -path '/proc/*' -not -path '/sys/*' 2>/dev/null | head -n 1) || true
    [ -z "$found" ] || dirname "$found"
}

find_libraries() {
    library_path=$work/lib
    ldconfig -p 2>/dev/null | grep -q 'libstdc++.so.6 ' || library_path+=:$work/lib/compiler
    local cublas
    cublas=$(cublas_folder)
    library_path+=${cublas:+:$cublas}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# A folder with room for the model: GB needed.
find_scratch() {
    local dir
    for dir in ${SCRATCH:-/dev/shm "${TMPDIR:-/tmp}"}; do
        if [ -d "$dir" ] && [ "$(df --output=avail -BG "$dir" | tail -n 1 | tr -dc 0-9)" -gt "$1" ]; then
            mktemp -d "$dir/gd_gpu_XXXXXX"
            return
        fi
    done
}

write_shape() {
    local rc=0 flags=(--threads $((($(nproc) + 1) / 2)))
    [ -z "${LAYERS:-}" ] || flags+=(--layers "$LAYERS")
    if [ -z "$scratch" ]; then
        echo "no folder has room for it (SCRATCH)" >"$work/logs/shape.log"
        rc=1
    else
        ours "$work/bin/bench_shape" "$scratch/model" "$SHAPE" --like "$work/model" "${flags[@]}" >"$work/logs/shape.log" 2>&1 || rc=$?
    fi
    if [ "$rc" -eq 0 ]; then touch "$work/shape.done"; else touch "$work/shape.failed"; fi
}

# One part in a process group of its own, with a time limit; "name": {...} to the outcomes.
run_part() {
    local name=$1 limit=$2 begin=$SECONDS outcome rc=0
    local left=$((deadline - SECONDS))
    limit=$((limit < left ? limit : left))
    rm -f "$why"
    if [ -n "$no_device" ]; then
        outcome="skipped: $no_device"
    elif [ "$limit" -lt 10 ]; then
        outcome="skipped: no time was left"
    else
        say "$name (at most $limit s)"
        timeout -k 5 "$limit" "$BASH" "$self" part "$name" || rc=$?
        outcome=ok
        [ ! -s "$why" ] || outcome=$(head -n 1 "$why")
        if [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then
            outcome="failed: stopped after $limit s"
            [ "$name" != steps ] || outcome="skipped: stopped when the time was over"
        elif [ "$rc" -ne 0 ] && [ "$outcome" = ok ]; then
            outcome="failed: exit status $rc"
        fi
    fi
    say "$name: $outcome"
    case $outcome in failed*) any_failed=1 ;; esac
    outcomes+=${outcomes:+,}$'\n  '"\"$name\": {\"outcome\": \"$(quoted "$outcome")\", \"seconds\": $((SECONDS - begin)), \"after\": $(smi)}"
}

write_result() {
    local device file
    device=$(sed -n 's/.*"bench":"kernels".*"device_name":"\([^"]*\)".*/\1/p' "$work/logs/probe.json" 2>/dev/null | head -n 1)
    device=${device:-no-device}
    file=$OUT/$(date +%F)-$(printf '%s' "$device" | tr 'A-Z ' 'a-z-' | tr -dc 'a-z0-9-')-${parts%% *}.json
    {
        printf '{\n "date": "%s",\n "commit": "%s",\n "device_name": "%s",\n' "$(date +%F)" "$commit" "$(quoted "$device")"
        printf ' "driver": "%s",\n "cuda": "%s",\n' "$(quoted "$(head -n 1 /proc/driver/nvidia/version 2>/dev/null || true)")" \
            "$(quoted "$(cat "$work/cuda_major")")"
        printf ' "cpu": "%s",\n "processors": %d,\n "kernel": "%s",\n' \
            "$(quoted "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)")" "$(nproc)" "$(quoted "$(uname -r)")"
        printf ' "shape": "%s",\n "layers": "%s",\n "seconds": %d,\n' "$SHAPE" "${LAYERS:-all}" "$SECONDS"
        printf ' "nvidia_smi_start": %s,\n "nvidia_smi_end": %s,\n "parts": {%s\n },\n "results": [\n' "$smi_start" "$(smi)" "$outcomes"
        # A program that was stopped may have left half a line.
        grep '^{.*}$' "$lines" | sed 's/^/  /; $!s/$/,/' || true
        printf ' ]\n}\n'
    } >"$file"
    tar -C "$work" -czf "$OUT/logs.tar.gz" logs
    say "$file"
}

# Ends what it started and leaves nothing behind.
clean() {
    [ -z "${shape_writer:-}" ] || kill "$shape_writer" 2>/dev/null || true
    rm -rf "$work" ${scratch:+"$scratch"}
}

run() {
    local entry
    export OUT=${OUT:-results} DEVICE=${DEVICE:-cuda:0} SHAPE=${SHAPE:-llama-3.1-8b} REQUESTS=${REQUESTS:-640} PYTHON=${PYTHON:-python3}
    local parts=${PARTS:-$(printf '%s' "$all_parts" | sed 's/:[0-9]*//g')}
    mkdir -p "$OUT"
    OUT=$(realpath "$OUT")
    export work scratch='' lines why commit library_path stand_in='' repeat=3 runs=50
    work=$(mktemp -d)
    trap clean EXIT
    deadline=${BUDGET:-530} outcomes='' any_failed=0 no_device=''
    tar -C "$work" -xzf "$here/payload.tar.gz"
    mkdir "$work/logs"
    lines=$work/lines.jsonl why=$work/why commit=${COMMIT:-$(cat "$work/commit")}
    : >"$lines"
    find_libraries
    smi_start=$(smi)
    ours "$work/bin/guardian" version >"$work/logs/start.log" 2>&1 ||
        no_device="our programs do not start here: $(tail -n 1 "$work/logs/start.log")"
    if [ -z "$no_device" ] &&
        ! ours timeout 60 "$work/bin/bench_kernels" --device "${DEVICE#cuda:}" --quick --only none >"$work/logs/probe.json" 2>"$work/logs/probe.log"; then
        no_device="no usable GPU: $(tail -n 1 "$work/logs/probe.log")"
    fi
    if grep -q '"bf16_error"' "$work/logs/probe.json" 2>/dev/null; then
        no_device="no products on this GPU: $(sed -n 's/.*"bf16_error":"\([^"]*\)".*/\1/p' "$work/logs/probe.json")"
    fi
    if grep -q '"device_name":"simt"' "$work/logs/probe.json" 2>/dev/null; then
        stand_in=1 repeat=1 runs=1
    fi
    if [ -z "$no_device" ]; then
        case $SHAPE in tiny-*) scratch=$(find_scratch 1) ;; *) scratch=$(find_scratch 20) ;; esac
        write_shape &
        shape_writer=$!
    fi
    for entry in $all_parts; do
        case " $parts " in *" ${entry%:*} "*) run_part "${entry%:*}" "${entry#*:}" ;; esac
    done
    write_result
    return "$any_failed"
}

case "${1:-}" in
pack)
    [ $# -eq 2 ] || exit 2
    pack "$2"
    ;;
run) run ;;
part) "part_$2" ;;
'')
    packed=$(mktemp -d)
    "$BASH" "$self" pack "$packed"
    OUT=${OUT:-$here/results} "$BASH" "$packed/gpu.sh" run || status=$?
    rm -rf "$packed"
    exit "${status:-0}"
    ;;
*)
    sed -n '2,30s/^# \{0,1\}//p' "$self" >&2
    exit 2
    ;;
esac
