#!/bin/sh
# headers.sh - do the headers in include/ say what CUDA's own say? Each enumerator becomes a static assertion and each function is
# declared once more, behind the real headers: what differs does not compile. Exit 77 (skipped) where there are none.
# usage: headers.sh [directory of the real headers]
here=$(cd "$(dirname "$0")" && pwd)
real=${1:-/usr/local/cuda/include}
if [ ! -f "$real/cuda_runtime_api.h" ] || [ ! -f "$real/cublasLt.h" ]; then
    echo "headers: SKIP: no CUDA headers in $real"
    exit 77
fi
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
ours="$here/include/cuda_runtime_api.h $here/include/cublasLt.h"
{
    echo '#include <cuda_runtime_api.h>'
    echo '#include <cublasLt.h>'
    # shellcheck disable=SC2086
    cat $ours | grep -oE '\b(cuda|CUDA_|CUBLAS)[A-Za-z0-9_]+ = (0x)?[0-9a-fA-F]+' |
        sed -E 's/^([A-Za-z0-9_]+) = (.*)$/_Static_assert((long)\1 == \2, "\1 = \2");/'
    # shellcheck disable=SC2086
    cat $ours | sed -nE 's/^#define (cuda[A-Za-z]+) (0x[0-9]+)$/_Static_assert(\1 == \2, "\1 = \2");/p'
    # shellcheck disable=SC2086
    cat $ours | awk '/^(cudaError_t|cublasStatus_t|size_t|const char \*)/ {on = 1} on {print} /;/ {on = 0}'
    # shellcheck disable=SC2086
    cat $ours | awk '/^typedef struct [A-Za-z_]+ \*[A-Za-z]+_t;/'
} >"$dir/check.c"
# What programs keep of the types: their sizes.
for type in cublasLtMatmulAlgo_t cublasLtMatmulHeuristicResult_t cublasLtMatrixLayoutOpaque_t cublasLtMatmulDescOpaque_t \
    cublasLtMatmulPreferenceOpaque_t; do
    for side in ours real; do
        printf '#include <cublasLt.h>\nchar size_[sizeof(%s)];\n' "$type" >"$dir/$side.c"
        [ $side = ours ] && flags="-I$here/include" || flags="-isystem$real"
        cc -std=c11 "$flags" -c "$dir/$side.c" -o "$dir/$side.o" || exit 1
        nm -S "$dir/$side.o" | sed 's/ [A-Z] / /' >"$dir/$side.txt"
    done
    cmp -s "$dir/ours.txt" "$dir/real.txt" || {
        echo "headers: the size of $type differs"
        exit 1
    }
done
cc -std=gnu11 -Werror -fsyntax-only -isystem "$real" "$dir/check.c" || exit 1
n=$(grep -c _Static_assert "$dir/check.c")
functions=$(grep -v _Static_assert "$dir/check.c" | grep -cE '\bcu(da|blas)[A-Za-z0-9]+\(')
[ "$n" -gt 100 ] || exit 1
echo "headers: ok: $n numbers and $functions prototypes agree with $real"
