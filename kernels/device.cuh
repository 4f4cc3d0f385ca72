/* device.cuh - what a kernel may use of the machine; the only file with inline PTX and launch syntax.
 *
 * Kernels use the CUDA names that every reader knows (__global__, threadIdx, __syncthreads,
 * __shfl_xor_sync) and, for the rest, the functions below. tests/simt/simt_device.h implements all of
 * them on a CPU, one fiber a thread, so that the very same .cu files run under sanitizers; there
 * GDK_SIMT is defined. Rules that make this possible:
 *   - shared memory is the launch's dynamic one, from gdk_shared(); static __shared__ is not used;
 *   - every kernel is launched by GDK_LAUNCH, whose last dimension is at most GDK_THREADS_MAX;
 *   - warp-wide functions are called by all 32 lanes of a warp. */
#ifndef GUARDIAN_DEVICE_CUH
#define GUARDIAN_DEVICE_CUH

#include "cuda_ops.h"

#define GDK_THREADS_MAX 1024
#define GDK_FULL_MASK 0xffffffffu

/* 16 bytes: what one memory instruction moves at most. */
struct alignas(16) gdk_vec16 {
    uint32_t w[4];
};

#ifdef GDK_SIMT
#include "simt_device.h"
#else

#include <math.h>

/* Queues kernel<<<grid, block, smem_bytes, stream>>>(...); a cudaError_t. More than 48 KiB of shared
 * memory must be allowed first, by gdk_shared_allow. */
#define GDK_LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                   \
    ((kernel)<<<(grid), (block), (smem_bytes), (stream)>>>(__VA_ARGS__), cudaGetLastError())

/* Lets launches of kernel take up to nbytes of shared memory. A cudaError_t. */
template <typename K> static inline cudaError_t gdk_shared_allow(K *kernel, int nbytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, nbytes);
}

/* The block's shared memory, 128-byte aligned, with anything in it. */
static __device__ __forceinline__ unsigned char *gdk_shared()
{
    extern __shared__ __align__(128) unsigned char gdk_shared_bytes[];
    return gdk_shared_bytes;
}

/* Where a pointer into shared memory is, as PTX wants it. */
static __device__ __forceinline__ uint32_t gdk_shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/* ---- asynchronous copies, global to shared memory ----
 *
 * A copy may happen at any time until the wait of its group; after the wait it is visible to the
 * thread that issued it, after a barrier to the block. Groups complete in order. */

/* 16 bytes, both ends aligned to 16. Not valid: nothing is read, 16 zeros are written. */
static __device__ __forceinline__ void gdk_copy_async16(void *shared, const void *global, bool valid)
{
    uint32_t n = valid ? 16u : 0u;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(gdk_shared_address(shared)),
                 "l"(global), "r"(n)
                 : "memory");
}

static __device__ __forceinline__ void gdk_copy_async_commit()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most N of the groups committed last are under way. */
template <int N> static __device__ __forceinline__ void gdk_copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

/* ---- matrix fragments; layouts as in the PTX manual, "Matrix Fragments for mma.m16n8k16" ---- */

/* Four 8x8 matrices of 16-bit numbers: lanes 8 i to 8 i + 7 give the addresses of the rows of matrix
 * i (16 bytes each, aligned); lane l gets numbers 2 (l % 4), + 1 of row l / 4 of matrix i in r[i]. */
static __device__ __forceinline__ void gdk_ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(gdk_shared_address(row))
                 : "memory");
}

/* The same, each matrix transposed: lane l gets numbers of column l / 4. */
static __device__ __forceinline__ void gdk_ldmatrix_x4_transposed(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(gdk_shared_address(row))
                 : "memory");
}

/* d[16, 8] fp32 += a[16, 16] bf16 * b[16, 8] bf16 */
static __device__ __forceinline__ void gdk_mma_bf16(float d[4], const uint32_t a[4],
                                                    const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---- numbers ---- */

/* 2^x, relative error below 2^-22; 0 for -inf and where the result would be subnormal. */
static __device__ __forceinline__ float gdk_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float gdk_float_of_bits(uint32_t bits)
{
    return __uint_as_float(bits);
}

static __device__ __forceinline__ uint32_t gdk_bits_of_float(float x)
{
    return __float_as_uint(x);
}

/* Two numbers as bf16, rounded to nearest even; low in the lower half. */
static __device__ __forceinline__ uint32_t gdk_pack_bf16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* Four numbers as e4m3, rounded to nearest even, beyond 448 to 448, NaN stays; a in the lowest byte.
 * Devices before capability 8.9 cannot: the back end never asks them. */
static __device__ __forceinline__ uint32_t gdk_pack_e4m3(float a, float b, float c, float d)
{
#if __CUDA_ARCH__ >= 890
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
    return (uint32_t)low | (uint32_t)high << 16;
#else
    (void)a, (void)b, (void)c, (void)d;
    __trap();
    return 0;
#endif
}

#endif /* GDK_SIMT */

/* ---- built from the above, the same on both ---- */

static __device__ __forceinline__ gdk_vec16 gdk_load16(const void *p)
{
    return *static_cast<const gdk_vec16 *>(p);
}

static __device__ __forceinline__ void gdk_store16(void *p, gdk_vec16 v)
{
    *static_cast<gdk_vec16 *>(p) = v;
}

/* The lower and upper bf16 of a pair. */
static __device__ __forceinline__ float gdk_bf16_low(uint32_t pair)
{
    return gdk_float_of_bits(pair << 16);
}

static __device__ __forceinline__ float gdk_bf16_high(uint32_t pair)
{
    return gdk_float_of_bits(pair & 0xffff0000u);
}

/* 1 / x, relative error below 2^-22; 0 where the result would be subnormal. Unlike a division it has no
 * branch, which would keep a thread from working on several numbers at a time. */
static __device__ __forceinline__ float gdk_reciprocal(float x)
{
#ifdef GDK_SIMT
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* Sum over the lanes of a warp, in all of them; one order. */
static __device__ __forceinline__ float gdk_warp_sum(float x)
{
    for (int step = 16; step > 0; step /= 2) {
        x += __shfl_xor_sync(GDK_FULL_MASK, x, step);
    }
    return x;
}

static __device__ __forceinline__ uint32_t gdk_warp_max(uint32_t x)
{
    for (int step = 16; step > 0; step /= 2) {
        uint32_t other = __shfl_xor_sync(GDK_FULL_MASK, x, step);
        x = other > x ? other : x;
    }
    return x;
}

/* Over a block of whole warps, in all its threads; one order. scratch: shared memory, a word a warp,
 * that nobody uses from a barrier before the call on until a barrier after it. */
static __device__ __forceinline__ float gdk_block_sum(float x, float *scratch)
{
    x = gdk_warp_sum(x);
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (unsigned i = 0; i < blockDim.x / 32; i++) {
        sum += scratch[i];
    }
    return sum;
}

static __device__ __forceinline__ uint32_t gdk_block_max(uint32_t x, uint32_t *scratch)
{
    x = gdk_warp_max(x);
    if (threadIdx.x % 32 == 0) {
        scratch[threadIdx.x / 32] = x;
    }
    __syncthreads();
    uint32_t most = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) {
        most = scratch[i] > most ? scratch[i] : most;
    }
    return most;
}

#endif
