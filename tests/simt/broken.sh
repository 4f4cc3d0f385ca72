#!/bin/sh
# broken.sh - the proof that tests/cuda on tests/simt catches broken kernels: each line of the list below breaks one kernel on
# purpose, in a copy, and its test has to fail; unbroken, it has to pass. An expression that changes nothing is an error, too: the
# kernel has moved on and the list must follow. Prints a line for each; exit 1 if one survives. JOBS (2) run at a time.
# usage: broken.sh [words that the description must have]
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

# file to change | kernel to compile | test | what is broken | sed expression
mutants() {
    cat <<'LIST'
attention.cu|attention|attention|no barrier behind the copies of a tile|/this tile has come/s/__syncthreads();//
attention.cu|attention|attention|no wait for the copies of a tile|/gdk_copy_async_wait<0>();/d
attention.cu|attention|attention|no wait for the first values|/^            gdk_copy_async_wait<1>();$/d
attention.cu|attention|attention|no wait for the first keys|/gdk_copy_async_wait<1>(); .. K alone/d
attention.cu|attention|attention|no barrier behind the first values|0,/^            __syncthreads();$/s/^            __syncthreads();$//
attention.cu|attention|attention|no barrier behind the values put away|/clear_not_finite<DIM>(now->v);/{n;s/__syncthreads();//}
attention.cu|attention|attention|no commit in the loop|/^        gdk_copy_async_commit();$/d
attention.cu|attention|attention|no commit of the first keys|0,/^    gdk_copy_async_commit();$/s/^    gdk_copy_async_commit();$//
attention.cu|attention|attention|the next tile into the stage in use|s/next = &sh->stages\[(t + 1) % 2\]/next = \&sh->stages[t % 2]/
attention.cu|attention|attention|no barrier in a warp behind the rows staged|/__syncwarp();/d
attention.cu|attention|attention|rows staged where others still read|s/sh->stages\[n_tiles % 2\]/sh->stages[(n_tiles + 1) % 2]/
attention.cu|attention|attention|a row does not see itself|s/(j \* 8 + i % 2) <= r->position/(j * 8 + i % 2) < r->position/
attention.cu|attention|attention|a row sees one key too many|s/bool seen = key +/bool seen = key - 1 +/
attention.cu|attention|attention|later keys are not hidden where all rows see the first|s/(t + 1) \* KEYS > all_see/t * KEYS > all_see/
attention.cu|attention|attention|values of another block of the cache|s/((size_t)block \* 2 + is_v)/((size_t)block + is_v)/
attention.cu|attention|attention|the same block of the table for each warp|s/uint32_t i = t \* WARPS + (uint32_t)warp_index();/uint32_t i = t * WARPS;/
attention.cu|attention|attention|the block table of another sequence|s/a->blocks\[a->tiles\[blockIdx.y\].blocks + i\]/a->blocks[i]/
attention.cu|attention|attention|a wrong row stride of keys in shared memory|s/k + j \* 16 \* PITCH(DIM) + i \* 16/k + j * 16 * DIM + i * 16/
attention.cu|attention|attention|a wrong row stride of Q|s/((size_t)tile->first + token) \* a->qkv_stride/((size_t)tile->first + token) * a->out_stride/
attention.cu|attention|attention|values not transposed|s/gdk_ldmatrix_x4_transposed(b/gdk_ldmatrix_x4(b/
attention.cu|attention|attention|a maximum over half of the lanes|/most = fmaxf(most, __shfl_xor_sync(GDK_FULL_MASK, most, 2));/d
attention.cu|attention|attention|a sum over half of the lanes|s/sum += __shfl_xor_sync(GDK_FULL_MASK, sum, 2);/sum += sum;/
attention.cu|attention|attention|old sums not rescaled|/sums\[j\]\[2 \* half\] \*= rescale;/d
attention.cu|attention|attention|values that are not finite are kept|s/if (uneven && spoil_rows(noted, t \* KEYS, &r))/if (uneven \&\& spoil_rows(noted, t * KEYS, \&r) \&\& t > 9999)/
device.cuh|rmsnorm|ops|no barrier in the sum of a block|/gdk_block_sum/,/^}/s/__syncthreads();//
device.cuh|rmsnorm|ops|a sum over half a warp|/gdk_warp_sum/,/^}/s/step = 16/step = 8/
device.cuh|quantize|ops|no barrier in the maximum of a block|/gdk_block_max/,/^}/s/__syncthreads();//
device.cuh|swiglu|ops|a maximum without the last warp|/gdk_block_max/,/^}/s/i < blockDim.x . 32/i + 1 < blockDim.x \/ 32/
rmsnorm.cu|rmsnorm|ops|two reductions share their scratch|s/reinterpret_cast<uint32_t \*>(shared) + WARPS_MAX/reinterpret_cast<uint32_t *>(shared)/
rmsnorm.cu|rmsnorm|ops|numbers behind the row are summed|s/v\[i\]\[0\] = v\[i\]\[1\] = v\[i\]\[2\] = v\[i\]\[3\] = 0.0f;/v[i][0] = v[i][1] = v[i][2] = v[i][3] = 0.01f;/
rmsnorm.cu|rmsnorm|ops|another row of delta|s/delta + row \* dim/delta + row * n/
rope_kv.cu|rope_kv|ops|a wrong page offset|s/(block \* 2 \* s.n_kv_heads + kv_head)/(block * s.n_kv_heads + kv_head)/
rope_kv.cu|rope_kv|ops|every token at the first place of its block|s/ + slot % GD_KV_BLOCK_TOKENS;/;/
rope_kv.cu|rope_kv|ops|values are rotated|s/n_rotated = s.n_heads + s.n_kv_heads;/n_rotated = n_heads;/
rope_kv.cu|rope_kv|ops|padding rows are written|/if (token.id < 0)/{n;s/return;//}
swiglu.cu|swiglu|ops|a wrong stride between gate and up|s/up = gate + (size_t)n \* 8;/up = gate + (size_t)n * 4;/
swiglu.cu|swiglu|ops|one piece too many|0,/if (octet < n)/! s/if (octet < n)/if (octet <= n)/
quantize.cu|quantize|ops|rows without their stride|s/src += row \* src_stride;/src += row * n * 8;/
quantize.cu|quantize|ops|only one half of the words is looked at|s/gdk_larger(low << 16, high & 0x7fff0000u)/(high \& 0x7fff0000u)/
embed.cu|embed|ops|padding rows are not 0|s/ && id >= 0//
choice.cu|choice|ops|the first rows instead of those chosen|s/(size_t)choice.row \* dim/(size_t)blockIdx.x * dim/
choice.cu|choice|ops|rows gathered from the wrong place|s/tokens\[blockIdx.x\].place/blockIdx.x/
kv_copy.cu|kv_copy|ops|every layer's block into the first layer|s/kv + blockIdx.x \* layer/kv/
kv_copy.cu|kv_copy|ops|only what one round of the threads copies|s/i += THREADS \* 8/i += n/
LIST
}

flags="-O1 -g0 -I$root/include -I$here -I$here/include -I$root/tests"
kernel() { # kernel DIR NAME OUT: compiles DIR/NAME.cu
    # shellcheck disable=SC2086
    ${CXX:-g++} -x c++ -std=c++17 -DGDK_SIMT -w -I"$1" $flags -c "$1/$2.cu" -o "$3"
}
program() { # program NAME OUT KERNEL-OBJECTS...
    name=$1 out=$2
    shift 2
    ${CXX:-g++} "$work/test_$name.o" "$@" "$work"/plain_*.o "$work/machine.a" -lcmocka -lm -o "$out"
}

# One mutant: number N of the list. Prints its line; its result is in $work/result.N.
one() {
    line=$(mutants | sed -n "$1p")
    IFS='|' read -r file cu name what expression <<LINE
$line
LINE
    dir=$work/mutant.$1
    mkdir "$dir" && cp "$root"/kernels/*.cu "$root"/kernels/*.cuh "$root"/kernels/*.h "$dir" || exit 2
    sed -i "$expression" "$dir/$file" || exit 2
    result=caught
    if cmp -s "$dir/$file" "$root/kernels/$file"; then
        result="UNCHANGED"
    elif ! kernel "$dir" "$cu" "$dir/$cu.o" 2>"$dir/said"; then
        result="DOES NOT COMPILE"
    else
        others=$(find "$work" -maxdepth 1 -name 'kernel_*.o' ! -name "kernel_$cu.o")
        # shellcheck disable=SC2086
        program "$name" "$dir/test" "$dir/$cu.o" $others || exit 2
        # In braces, so that the shell itself does not tell of each abort.
        { (cd "$root/tests" && CMOCKA_TEST_ABORT=1 timeout 120 "$dir/test") >"$dir/said" 2>&1 && result="SURVIVES"; } 2>/dev/null
    fi
    how=$(grep -aE -m 1 '^simt: .*; kernel' "$dir/said" | sed -E 's/^simt: //; s/; kernel.*//')
    [ -z "$how" ] && how=$(grep -aE 'RUN' "$dir/said" | tail -n 1 | sed -E 's/.*\] *//')
    printf '%s: %s: %s (%s)\n' "$result" "$file" "$what" "${how:-nothing}"
    echo "$result" >"$work/result.$1"
    rm -rf "$dir"
}

if [ "$1" = --one ]; then
    work=$2
    one "$3"
    exit 0
fi

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
echo "broken: building in $work"
for name in simt runtime runtime_memory runtime_stream cublaslt cublaslt_sums; do
    # shellcheck disable=SC2086
    ${CXX:-g++} -std=c++17 -O2 $flags -c "$here/$name.cpp" -o "$work/$name.o" || exit 2
done
(cd "$work" && ar rc machine.a simt.o runtime*.o cublaslt*.o) || exit 2
for name in embed rmsnorm rope_kv attention swiglu quantize choice kv_copy; do
    if [ -f "$root/kernels/$name.c" ]; then
        # shellcheck disable=SC2086
        ${CC:-gcc} -std=c11 -D_GNU_SOURCE -O2 -I"$root/kernels" $flags -c "$root/kernels/$name.c" -o "$work/plain_$name.o" || exit 2
    fi
    kernel "$root/kernels" "$name" "$work/kernel_$name.o" 2>/dev/null ||
        [ ! -f "$root/kernels/$name.cu" ] || exit 2
done
for name in ops attention; do
    # shellcheck disable=SC2086
    ${CC:-gcc} -std=c11 -D_GNU_SOURCE -DGDK_SIMT -I"$root/kernels" $flags -O2 -c "$root/tests/cuda/test_cuda_$name.c" \
        -o "$work/test_$name.o" || exit 2
    program "$name" "$work/$name" "$work"/kernel_*.o || exit 2
    (cd "$root/tests" && "$work/$name") >"$work/said" 2>&1 || {
        tail -n 20 "$work/said"
        echo "broken: test_cuda_$name fails with the kernels as they are"
        exit 1
    }
done

numbers=$(mutants | grep -n -- "${1:-.}" | sed 's/:.*//')
echo "$numbers" | xargs -P "${JOBS:-2}" -n 1 sh "$here/broken.sh" --one "$work" || exit 2
caught=$(cat "$work"/result.* | grep -c '^caught$')
all=$(echo "$numbers" | wc -l)
echo "broken: $caught of $all broken kernels were caught"
[ "$caught" = "$all" ]
