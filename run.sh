#!/usr/bin/env bash
# The two commands of Guardian:
#   ./run.sh serve [flags of `guardian serve`]   install what is missing, build, serve on 127.0.0.1:8080
#   ./run.sh test                                install what is missing, build, run the whole test suite
# Works on Debian 12 and 13. Packages come from apt-get (with sudo when not root), only those missing.
set -euo pipefail
cd "$(dirname "$0")"

build_packages=(gcc libc6-dev cmake ninja-build pkg-config libcivetweb-dev libpcre2-dev libutf8proc-dev
                libdnnl-dev libssl-dev)
test_packages=(g++ libcmocka-dev libjansson-dev clang clang-tidy cppcheck python3 python3-pytest python3-pytest-xdist
               python3-venv curl systemd libseccomp2 libfaketime)
# Their packages start services: not on somebody's own machine. Without them tests/http/test_desync.py is skipped.
[ "${CI:-}" != true ] || test_packages+=(nginx-light haproxy)

say() { printf '== %4d s: %s\n' "$SECONDS" "$*" >&2; }

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

need_packages() {
    local missing=() p
    for p in "$@"; do
        installed "$p" || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if ! command -v apt-get >/dev/null; then
        say "these packages are needed and there is no apt-get here: ${missing[*]}"
        exit 1
    fi
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    say "installing ${missing[*]}"
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# build NAME [cmake arguments]: configures and builds build/NAME
build() {
    local dir=build/$1
    shift
    say "building $dir"
    cmake -S . -B "$dir" -G Ninja "$@" >"$dir.log" 2>&1 && cmake --build "$dir" >>"$dir.log" 2>&1 || {
        tail -n 60 "$dir.log" >&2
        say "the build of $dir failed; all of it: $dir.log"
        exit 1
    }
}

serve() {
    need_packages "${build_packages[@]}"
    # A newer compiler's new warning must not keep anyone from serving. A build of `test`, which is strict, stays as it is.
    local options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo -DGD_WERROR=OFF -DGD_TESTS=OFF)
    [ ! -e build/release/build.ninja ] || options=()
    build release "${options[@]}"
    exec build/release/guardian serve "$@"
}

# fuzz SECONDS: every driver of tests/fuzz on its corpus, two at a time; new inputs go to build/corpus, not into the tree
fuzz() {
    local names
    names=$(find build/fuzz -maxdepth 1 -type f -executable -name 'fuzz_*' -printf '%f\n' | sed 's/^fuzz_//' | sort)
    say "fuzzing for $1 s each:" $names
    export GUARDIAN_TESTS=$PWD/tests
    xargs -P 2 -I{} sh -c "mkdir -p build/corpus/{} tests/fuzz/corpus/{} &&
        build/fuzz/fuzz_{} -max_total_time=$1 -timeout=5 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix=build/crash-{}- build/corpus/{} tests/fuzz/corpus/{} >build/fuzz-{}.log 2>&1 || {
                tail -n 40 build/fuzz-{}.log; echo 'fuzzing {} found something: build/fuzz-{}.log'; exit 255; }" <<<"$names" >&2
    for name in $names; do
        printf '%-12s %s\n' "$name" "$(grep 'number_of_executed_units' "build/fuzz-$name.log")" >&2
    done
}

# Minutes of mixed load on the program, behind everything else that runs: nothing in it is timed.
soak() {
    nice -n 10 /usr/bin/python3 tests/soak.py --minutes "$1" --program build/release/guardian --log build/soak-server.log \
        >build/soak.log 2>&1 &
    soak=$!
    trap 'kill "$soak" 2>/dev/null || true' EXIT
}

soaked() {
    say "waiting for the soak"
    wait "$soak" || {
        tail -n 40 build/soak.log >&2
        say "the soak found something: build/soak.log, build/soak-server.log"
        exit 1
    }
    cat build/soak.log >&2
    trap - EXIT
}

tests() {
    need_packages "${build_packages[@]}" "${test_packages[@]}"
    # libFuzzer and the sanitizer runtimes of clang live in a package named after its version.
    need_packages "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
    say "checking the tree"
    tests/tidy
    /usr/bin/python3 weights/train/scenes.py
    build release -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGD_WERROR=ON -DGD_TESTS=ON
    soak "${GUARDIAN_SOAK_MINUTES:-10}"
    say "unit tests"
    # The kernels on a CPU, and the faults, run in the next build, where sanitizers watch them.
    ctest --test-dir build/release --output-on-failure -j2 -E '^(simt_(ops|attention|backend|faults)|faults_(load|requests))$'
    build asan -DCMAKE_BUILD_TYPE=Debug -DGD_SANITIZE=address
    say "unit tests under AddressSanitizer and UndefinedBehaviorSanitizer"
    # Three at a time: those of the faults wait more than they compute.
    ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 \
        ctest --test-dir build/asan --output-on-failure -j3
    build tsan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGD_SANITIZE=thread
    say "threads under ThreadSanitizer"
    ctest --test-dir build/tsan --output-on-failure -R 'pool|engine|metrics|scorecache|keys|policies|safetensors'
    build fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGD_SANITIZE=address \
        -DGD_FUZZ=ON
    fuzz "${GUARDIAN_FUZZ_SECONDS:-10}"
    say "clang-tidy, cppcheck, gcc -fanalyzer"
    tests/static
    [ -x build/venv/bin/python ] || /usr/bin/python3 -m venv --system-site-packages build/venv
    build/venv/bin/pip install -q -r tests/http/requirements.txt
    # One file of a package that would bring a whole monitoring system.
    [ -x build/promtool/usr/bin/promtool ] || (
        cd build && apt-get download -q prometheus >/dev/null 2>&1 && mkdir -p promtool &&
            dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C promtool ./usr/bin/promtool && rm prometheus_*.deb
    )
    soaked
    say "HTTP tests"
    GUARDIAN_BIN=$PWD/build/release/guardian GUARDIAN_SIMT_BIN=$PWD/build/release/tests/guardian_simt \
        /usr/bin/python3 -m pytest -q -rs -n 3 --dist loadfile tests/http
    say "done"
}

mkdir -p build
case "${1:-}" in
serve)
    shift
    serve "$@"
    ;;
test)
    tests
    ;;
*)
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
