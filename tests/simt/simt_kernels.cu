// simt_kernels.cu - small kernels for test_simt.c: each uses one thing of device.cuh, rightly or, where
// fault says so, wrongly.
#include "device.cuh"

#include "simt_kernels.h"

static __device__ __forceinline__ uint32_t *words()
{
    return reinterpret_cast<uint32_t *>(gdk_shared());
}

/* ---- indices and order ---- */

__global__ void where_kernel(uint32_t *count, uint32_t *order, uint32_t *n)
{
    uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    uint32_t at = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
    count[at]++;
    order[(*n)++] = at;
}

extern "C" cudaError_t simt_where(cudaStream_t s, const uint32_t g[3], const uint32_t b[3],
                                  uint32_t *count, uint32_t *order, uint32_t *n)
{
    return GDK_LAUNCH(where_kernel, dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), 0, s, count,
                      order, n);
}

__global__ void nothing_kernel(int x)
{
    (void)x;
}

__global__ void nothing_allowed_kernel(int x)
{
    (void)x;
}

extern "C" cudaError_t simt_nothing(cudaStream_t s, uint32_t grid, uint32_t block, size_t shared)
{
    return GDK_LAUNCH(nothing_kernel, grid, block, shared, s, 0);
}

extern "C" cudaError_t simt_nothing_allowed(cudaStream_t s, int allow, size_t shared)
{
    cudaError_t rc = gdk_shared_allow(nothing_allowed_kernel, allow);
    return rc != cudaSuccess ? rc : GDK_LAUNCH(nothing_allowed_kernel, 1, 32, shared, s, 0);
}

/* ---- warps ---- */

__global__ void shuffle_kernel(const uint32_t *in, uint32_t *out, int arg)
{
    uint32_t t = threadIdx.x, n = blockDim.x;
    out[t] = __shfl_xor_sync(GDK_FULL_MASK, in[t], arg);
    out[n + t] = __shfl_sync(GDK_FULL_MASK, in[t], arg);
    out[2 * n + t] = __shfl_down_sync(GDK_FULL_MASK, in[t], static_cast<unsigned>(arg));
    out[3 * n + t] = __shfl_up_sync(GDK_FULL_MASK, in[t], static_cast<unsigned>(arg));
    out[4 * n + t] = gdk_warp_max(in[t]);
    float sum = gdk_block_sum(static_cast<float>(in[t]), reinterpret_cast<float *>(gdk_shared()));
    out[5 * n + t] = static_cast<uint32_t>(sum);
}

extern "C" cudaError_t simt_shuffles(cudaStream_t s, uint32_t threads, const uint32_t *in,
                                     uint32_t *out, int arg)
{
    return GDK_LAUNCH(shuffle_kernel, 1, threads, threads / 32 * sizeof(float), s, in, out, arg);
}

__global__ void diverge_kernel(simt_divergence fault, uint32_t *out)
{
    uint32_t t = threadIdx.x, x = t;
    if (fault == SIMT_HALF_AT_BARRIER && t % 32 >= 16) {
        return;
    }
    if (fault == SIMT_WARP_RETURNS && t / 32 == 1) {
        return;
    }
    if (fault == SIMT_BARRIER_AND_SHUFFLE && t % 2 == 0) {
        x = __shfl_xor_sync(GDK_FULL_MASK, x, 1);
    } else if (fault == SIMT_TWO_KINDS && t % 32 == 5) {
        __syncwarp();
    } else if (fault == SIMT_TWO_KINDS || fault == SIMT_LANES_RETURNED) {
        if (fault == SIMT_LANES_RETURNED && t == 3) {
            return;
        }
        x = __shfl_xor_sync(GDK_FULL_MASK, x, 1);
    } else if (fault == SIMT_PART_MASK) {
        x = __shfl_xor_sync(0xffffu, x, 1);
    } else if (fault == SIMT_SMALL_WARP) {
        x = __shfl_xor_sync(GDK_FULL_MASK, x, 1);
    }
    __syncthreads();
    out[t] = x;
}

extern "C" cudaError_t simt_diverge(cudaStream_t s, enum simt_divergence fault, uint32_t *out)
{
    return GDK_LAUNCH(diverge_kernel, 2, fault == SIMT_SMALL_WARP ? 48 : 64, 0, s, fault, out);
}

/* ---- matrices ---- */

__global__ void ldmatrix_kernel(const uint16_t *in, uint32_t *out, bool transposed, int fault)
{
    uint16_t *m = reinterpret_cast<uint16_t *>(gdk_shared()); /* [32, 8] */
    uint32_t t = threadIdx.x, r[4];
    for (uint32_t i = t; i < 32 * 8; i += 32) {
        m[i] = in[i];
    }
    __syncthreads();
    const void *row = m + (31 - t) * 8; /* the rows in some other order than in memory */
    if (fault == 1) {
        row = m + (31 - t) * 8 + 4;
    } else if (fault == 2) {
        row = m + t * 8 + 8;
    }
    if (transposed) {
        gdk_ldmatrix_x4_transposed(r, row);
    } else {
        gdk_ldmatrix_x4(r, row);
    }
    for (uint32_t i = 0; i < 4; i++) {
        out[t * 4 + i] = r[i];
    }
}

extern "C" cudaError_t simt_ldmatrix_of(cudaStream_t s, const uint16_t *in, uint32_t *out,
                                        bool transposed, int fault)
{
    return GDK_LAUNCH(ldmatrix_kernel, 1, 32, 32 * 8 * 2, s, in, out, transposed, fault);
}

__global__ void mma_kernel(const uint32_t *a, const uint32_t *b, float *d)
{
    uint32_t t = threadIdx.x, x[4], y[2];
    float z[4];
    for (uint32_t i = 0; i < 4; i++) {
        x[i] = a[t * 4 + i];
        z[i] = d[t * 4 + i];
    }
    y[0] = b[t * 2];
    y[1] = b[t * 2 + 1];
    gdk_mma_bf16(z, x, y);
    for (uint32_t i = 0; i < 4; i++) {
        d[t * 4 + i] = z[i];
    }
}

extern "C" cudaError_t simt_mma_of(cudaStream_t s, const uint32_t *a, const uint32_t *b, float *d)
{
    return GDK_LAUNCH(mma_kernel, 1, 32, 0, s, a, b, d);
}

/* out[m, n] = a[m, k] b[n, k]^T by tiles of 16 x 16, one warp each, two stages of copies. */
#define GEMM_K 32u
__global__ void gemm_kernel(uint32_t m, uint32_t k, const uint16_t *a, const uint16_t *b,
                            float *out, simt_gemm_fault fault)
{
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    uint32_t n = 16 * n_warps, row0 = blockIdx.x * 16;
    uint16_t *stage[2];
    for (uint32_t i = 0; i < 2; i++) {
        stage[i] = reinterpret_cast<uint16_t *>(gdk_shared()) + i * (16 + n) * GEMM_K;
    }
    float d[2][4] = {};
    uint32_t n_steps = k / GEMM_K;
    for (uint32_t step = 0; step < n_steps + 1; step++) {
        if (step < n_steps) {
            uint16_t *to = stage[step % 2];
            for (uint32_t i = threadIdx.x; i < (16 + n) * GEMM_K / 8; i += blockDim.x) {
                uint32_t row = i / (GEMM_K / 8), col = i % (GEMM_K / 8) * 8 + step * GEMM_K;
                bool valid = row >= 16 || row0 + row < m;
                const uint16_t *from =
                    row >= 16 ? b + (row - 16) * k + col : a + (valid ? row0 + row : 0) * k + col;
                gdk_copy_async16(to + i * 8, from, valid);
            }
        }
        if (fault != SIMT_GEMM_NO_COMMIT) {
            gdk_copy_async_commit();
        }
        if (step == 0) {
            continue;
        }
        if (fault != SIMT_GEMM_NO_WAIT) {
            gdk_copy_async_wait<1>();
        }
        if (fault != SIMT_GEMM_NO_BARRIER) {
            __syncthreads();
        }
        const uint16_t *x = stage[(step - 1) % 2], *y = x + (16 + 16 * warp) * GEMM_K;
        for (uint32_t i = 0; i < GEMM_K; i += 16) {
            uint32_t p[4], q[4];
            gdk_ldmatrix_x4(p, x + lane % 16 * GEMM_K + i + lane / 16 * 8);
            gdk_ldmatrix_x4(q, y + lane % 16 * GEMM_K + i + lane / 16 * 8);
            uint32_t q0[2] = {q[0], q[2]}, q1[2] = {q[1], q[3]};
            gdk_mma_bf16(d[0], p, q0);
            gdk_mma_bf16(d[1], p, q1);
        }
        if (fault != SIMT_GEMM_NO_SECOND_BARRIER) {
            __syncthreads();
        }
    }
    gdk_copy_async_wait<0>();
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t row = row0 + lane / 4 + i % 4 / 2 * 8;
        uint32_t col = warp * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (row < m) {
            out[row * n + col] = d[i / 4][i % 4];
        }
    }
}

extern "C" cudaError_t simt_gemm(cudaStream_t s, uint32_t m, uint32_t n, uint32_t k,
                                 const uint16_t *a, const uint16_t *b, float *out,
                                 enum simt_gemm_fault fault)
{
    return GDK_LAUNCH(gemm_kernel, (m + 15) / 16, n / 16 * 32, 2 * (16 + n) * GEMM_K * 2, s, m, k,
                      a, b, out, fault);
}

/* ---- copies ---- */

/* Two groups of 16 bytes a thread; *flag is 1 before and 2 behind the first copies. */
__global__ void copy_kernel(uint32_t *global, uint32_t *out, simt_copy_fault fault)
{
    uint32_t t = threadIdx.x;
    unsigned char *mine = gdk_shared() + t * 64;
    for (uint32_t i = 0; i < 8; i++) {
        words()[t * 16 + i] = 5; /* what is there before nobody can rely on */
    }
    gdk_copy_async16(mine, global + t * 4, true);
    if (fault != SIMT_COPY_NO_COMMIT) {
        gdk_copy_async_commit();
    }
    if (fault == SIMT_COPY_SOURCE_CHANGES) {
        global[t * 4] = 77;
    }
    if (fault == SIMT_COPY_UNALIGNED_TO) {
        gdk_copy_async16(mine + 24, global, true);
    } else if (fault == SIMT_COPY_UNALIGNED_FROM) {
        gdk_copy_async16(mine + 16, global + 1, true);
    } else if (fault == SIMT_COPY_OUTSIDE) {
        gdk_copy_async16(gdk_shared() + 64 * blockDim.x, global, true);
    } else if (fault == SIMT_COPY_TWICE) {
        gdk_copy_async16(mine, global, true);
    } else {
        gdk_copy_async16(mine + 16, NULL, false);
    }
    gdk_copy_async_commit();
    if (fault == SIMT_COPY_WAIT_ONE) {
        gdk_copy_async_wait<1>();
        out[t] = words()[t * 16];
        gdk_copy_async_wait<0>();
    } else if (fault == SIMT_COPY_WAIT_ONE_READ_TWO) {
        gdk_copy_async_wait<1>();
        out[t] = words()[t * 16 + 4];
        gdk_copy_async_wait<0>();
    } else if (fault == SIMT_COPY_NO_WAIT_READ) {
        out[t] = words()[t * 16];
        gdk_copy_async_wait<0>();
    } else if (fault == SIMT_COPY_NEVER_WAITED) {
        out[t] = 0;
    } else {
        gdk_copy_async_wait<0>();
        out[t] = words()[t * 16];
    }
    if (fault != SIMT_COPY_NEVER_WAITED) {
        out[32 + t] = words()[t * 16 + 4];
        out[64 + t] = words()[t * 16 + 8]; /* what nobody has written */
    }
}

extern "C" cudaError_t simt_copies(cudaStream_t s, uint32_t *global, uint32_t *out,
                                   enum simt_copy_fault fault)
{
    return GDK_LAUNCH(copy_kernel, 1, 32, 32 * 64, s, global, out, fault);
}

/* ---- shared memory ---- */

/* Each thread leaves its number and takes its neighbour's, through shared memory, n times. */
__global__ void exchange_kernel(uint32_t *wrong, simt_exchange_fault fault)
{
    uint32_t t = threadIdx.x, n = blockDim.x;
    bool warp = fault == SIMT_EXCHANGE_IN_WARP || fault == SIMT_EXCHANGE_NO_SYNCWARP;
    uint32_t other = warp ? t ^ 1u : (t + 32) % n;
    for (uint32_t i = 0; i < 4; i++) {
        words()[t] = i * n + t;
        if (fault == SIMT_EXCHANGE_IN_WARP) {
            __syncwarp();
        } else if (fault != SIMT_EXCHANGE_NO_BARRIER && fault != SIMT_EXCHANGE_NO_SYNCWARP) {
            __syncthreads();
        }
        if (words()[other] != i * n + other) {
            (*wrong)++;
        }
        if (fault == SIMT_EXCHANGE_IN_WARP) {
            __syncwarp();
        } else if (fault != SIMT_EXCHANGE_NO_SECOND_BARRIER && fault != SIMT_EXCHANGE_NO_SYNCWARP) {
            __syncthreads();
        }
    }
}

extern "C" cudaError_t simt_exchange(cudaStream_t s, uint32_t *wrong,
                                     enum simt_exchange_fault fault)
{
    return GDK_LAUNCH(exchange_kernel, 3, 128, 128 * sizeof(uint32_t), s, wrong, fault);
}

/* Counts the bytes of fresh shared memory that are 0xff, then fills it; beyond: bytes too many. */
__global__ void fill_kernel(uint32_t nbytes, int beyond, uint32_t *fresh)
{
    unsigned char *p = gdk_shared();
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < nbytes; i++) {
            *fresh += p[i] == 0xff ? 1 : 0;
        }
        for (int i = 0; i < static_cast<int>(nbytes) + beyond; i++) {
            p[i] = 0;
        }
        if (beyond < 0) {
            p[beyond] = 0;
        }
    }
}

extern "C" cudaError_t simt_fill(cudaStream_t s, uint32_t nbytes, int beyond, uint32_t *fresh)
{
    return GDK_LAUNCH(fill_kernel, 3, 32, nbytes, s, nbytes, beyond, fresh);
}

/* ---- device memory and numbers ---- */

__global__ void store_kernel(uint32_t *p, uint32_t n, uint32_t value)
{
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        p[i] = value;
    }
}

extern "C" cudaError_t simt_store(cudaStream_t s, uint32_t *p, uint32_t n, uint32_t value)
{
    return GDK_LAUNCH(store_kernel, 2, 32, 0, s, p, n, value);
}

__global__ void pack_kernel(uint32_t n, const float *x, uint32_t *bf16, uint32_t *e4m3, float *exp2)
{
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        bf16[i] = gdk_pack_bf16(x[i], 1.0f);
        if (e4m3 != NULL) {
            e4m3[i] = gdk_pack_e4m3(x[i], -1.0f, 1.5f, x[i]);
        }
        exp2[i] = gdk_exp2(x[i]);
    }
}

extern "C" cudaError_t simt_pack(cudaStream_t s, uint32_t n, const float *x, uint32_t *bf16,
                                 uint32_t *e4m3, float *exp2)
{
    return GDK_LAUNCH(pack_kernel, 1, 64, 0, s, n, x, bf16, e4m3, exp2);
}
