/* swiglu.cu - the gated activation of the feed-forward block, for the next product in its number type.
 *
 * BF16 goes element by element. FP8 needs the largest product of a row before it can write any: one
 * block a row, whose threads keep their products in registers meanwhile. Rows too wide for that are
 * read a second time instead, which a cache answers. */
#include "rows.cuh"

#define PLAIN_THREADS 256
#define PLAIN_OCTETS 2 /* 8 numbers each, of a thread */
#define WARPS_MAX (GDK_THREADS_MAX / 32)

/* v = silu(gate) * up, silu(x) = x / (1 + exp(-x)). Where the exponential is infinite the result is -0,
 * as it should be. */
static __device__ __forceinline__ void multiply(float v[8], gdk_vec16 gate, gdk_vec16 up)
{
    float g[8], u[8];
    gdk_widen(g, gate.w);
    gdk_widen(u, up.w);
    for (int i = 0; i < 8; i++) {
        v[i] = g[i] * gdk_reciprocal(1.0f + gdk_exp2(g[i] * -1.44269504f)) * u[i];
    }
}

static __device__ __forceinline__ uint32_t largest_of(uint32_t largest, const float v[8])
{
    for (int i = 0; i < 8; i++) {
        largest = gdk_larger(largest, gdk_magnitude(v[i]));
    }
    return largest;
}

static __device__ __forceinline__ void store_e4m3(gdk_e4m3 *dst, const float v[8], float inverse)
{
    gdk_vec8 w;
    w.w[0] = gdk_scale_e4m3(v, inverse);
    w.w[1] = gdk_scale_e4m3(v + 4, inverse);
    gdk_store8(dst, w);
}

/* Blocks (row, part of the row). */
static __global__ void __launch_bounds__(PLAIN_THREADS)
    swiglu_bf16(uint32_t n, const gdk_bf16 *gate_up, gdk_bf16 *out)
{
    size_t row = blockIdx.x;
    const gdk_bf16 *gate = gate_up + row * 2 * n * 8;
    const gdk_bf16 *up = gate + (size_t)n * 8;
    gdk_bf16 *dst = out + row * n * 8;
    uint32_t first = blockIdx.y * (PLAIN_THREADS * PLAIN_OCTETS) + threadIdx.x;
    gdk_vec16 g[PLAIN_OCTETS], u[PLAIN_OCTETS];
    for (int i = 0; i < PLAIN_OCTETS; i++) {
        uint32_t octet = first + i * PLAIN_THREADS;
        if (octet < n) {
            g[i] = gdk_load16(gate + octet * 8);
            u[i] = gdk_load16(up + octet * 8);
        }
    }
    for (int i = 0; i < PLAIN_OCTETS; i++) {
        uint32_t octet = first + i * PLAIN_THREADS;
        if (octet < n) {
            float v[8];
            gdk_vec16 w;
            multiply(v, g[i], u[i]);
            gdk_narrow(w.w, v);
            gdk_store16(dst + octet * 8, w);
        }
    }
}

/* OCTETS: 8 numbers each, of a thread. */
template <int OCTETS, int THREADS>
static __global__ void __launch_bounds__(THREADS)
    swiglu_e4m3(uint32_t n, const gdk_bf16 *gate_up, gdk_e4m3 *out, float *scales)
{
    size_t row = blockIdx.x;
    const gdk_bf16 *gate = gate_up + row * 2 * n * 8;
    const gdk_bf16 *up = gate + (size_t)n * 8;
    gdk_e4m3 *dst = out + row * n * 8;
    float v[OCTETS][8];
    gdk_vec16 g[OCTETS], u[OCTETS];
    for (int i = 0; i < OCTETS; i++) {
        uint32_t octet = threadIdx.x + i * blockDim.x;
        g[i] = u[i] = gdk_vec16{};
        if (octet < n) {
            g[i] = gdk_load16(gate + octet * 8);
            u[i] = gdk_load16(up + octet * 8);
        }
    }
    uint32_t largest = 0;
    for (int i = 0; i < OCTETS; i++) {
        multiply(v[i], g[i], u[i]);
        largest = largest_of(largest, v[i]);
    }
    float scale =
        gdk_e4m3_scale(gdk_block_max(largest, reinterpret_cast<uint32_t *>(gdk_shared())));
    float inverse = 1.0f / scale;
    for (int i = 0; i < OCTETS; i++) {
        uint32_t octet = threadIdx.x + i * blockDim.x;
        if (octet < n) {
            store_e4m3(dst + octet * 8, v[i], inverse);
        }
    }
    if (threadIdx.x == 0) {
        scales[row] = scale;
    }
}

static __global__ void __launch_bounds__(GDK_THREADS_MAX)
    swiglu_e4m3_wide(uint32_t n, const gdk_bf16 *gate_up, gdk_e4m3 *out, float *scales)
{
    size_t row = blockIdx.x;
    const gdk_bf16 *gate = gate_up + row * 2 * n * 8;
    const gdk_bf16 *up = gate + (size_t)n * 8;
    gdk_e4m3 *dst = out + row * n * 8;
    uint32_t largest = 0;
    for (uint32_t octet = threadIdx.x; octet < n; octet += blockDim.x) {
        float v[8];
        multiply(v, gdk_load16(gate + octet * 8), gdk_load16(up + octet * 8));
        largest = largest_of(largest, v);
    }
    float scale =
        gdk_e4m3_scale(gdk_block_max(largest, reinterpret_cast<uint32_t *>(gdk_shared())));
    float inverse = 1.0f / scale;
    for (uint32_t octet = threadIdx.x; octet < n; octet += blockDim.x) {
        float v[8];
        multiply(v, gdk_load16(gate + octet * 8), gdk_load16(up + octet * 8));
        store_e4m3(dst + octet * 8, v, inverse);
    }
    if (threadIdx.x == 0) {
        scales[row] = scale;
    }
}

cudaError_t gdk_swiglu_cuda(cudaStream_t stream, uint32_t rows, uint32_t ffn,
                            const gdk_bf16 *gate_up, struct gdk_cuda_out out)
{
    const size_t scratch = WARPS_MAX * sizeof(uint32_t);
    uint32_t n = ffn / 8;
    if (rows == 0) {
        return cudaSuccess;
    }
    if (out.type == GDK_BF16) {
        uint32_t parts = (n - 1) / (PLAIN_THREADS * PLAIN_OCTETS) + 1;
        return GDK_LAUNCH(swiglu_bf16, dim3(rows, parts), dim3(PLAIN_THREADS), 0, stream, n,
                          gate_up, static_cast<gdk_bf16 *>(out.data));
    }
    if (out.type != GDK_E4M3 || ffn > GDK_CUDA_QUANTIZE_DIM_MAX) {
        return cudaErrorInvalidValue;
    }
    gdk_e4m3 *dst = static_cast<gdk_e4m3 *>(out.data);
    if (n <= 384 * 7) { /* ffn 14336: 256 threads, registers for three blocks on a multiprocessor */
        return GDK_LAUNCH((swiglu_e4m3<7, 384>), dim3(rows), dim3(gdk_threads_of((n + 6) / 7)),
                          scratch, stream, n, gate_up, dst, out.scales);
    }
    if (n <= GDK_THREADS_MAX * 4) {
        return GDK_LAUNCH((swiglu_e4m3<4, GDK_THREADS_MAX>), dim3(rows),
                          dim3(gdk_threads_of((n + 3) / 4)), scratch, stream, n, gate_up, dst,
                          out.scales);
    }
    return GDK_LAUNCH(swiglu_e4m3_wide, dim3(rows), dim3(GDK_THREADS_MAX), scratch, stream, n,
                      gate_up, dst, out.scales);
}
