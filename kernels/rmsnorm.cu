/* rmsnorm.cu - adds the previous block's output to the residual stream and normalises it by its root
 * mean square, for the next product in its number type.
 *
 * One block a row, which it keeps in registers from the sum of squares to the output. The order of
 * that sum: each thread over its own numbers, a warp's lanes pairwise, the warps one after another.
 * Narrow rows load the weight before the sum, so that they wait for memory once; wide ones have no
 * registers for it. */
#include "rows.cuh"

#define WARPS_MAX (GDK_THREADS_MAX / 32)
#define EARLY_QUADS 4 /* rows of up to so many quads a thread load the weight early */

/* v = x (+ delta, which x keeps); quads (4 numbers) beyond the row are 0. */
template <int THREADS, int QUADS>
static __device__ __forceinline__ void add_row(uint32_t n, float *x, const gdk_bf16 *delta,
                                               float (&v)[QUADS][4])
{
    gdk_vec8 add[QUADS];
    for (int i = 0; i < QUADS; i++) {
        uint32_t quad = threadIdx.x + i * THREADS;
        v[i][0] = v[i][1] = v[i][2] = v[i][3] = 0.0f;
        if (quad < n) {
            gdk_load_f32(v[i], x + quad * 4);
        }
    }
    if (delta == NULL) {
        return;
    }
    for (int i = 0; i < QUADS; i++) {
        uint32_t quad = threadIdx.x + i * THREADS;
        add[i] = gdk_vec8{};
        if (quad < n) {
            add[i] = gdk_load8(delta + quad * 4);
        }
    }
    for (int i = 0; i < QUADS; i++) {
        uint32_t quad = threadIdx.x + i * THREADS;
        float d[4];
        gdk_widen(d, add[i].w);
        for (int j = 0; j < 4; j++) {
            v[i][j] += d[j];
        }
        if (quad < n) {
            gdk_store_f32(x + quad * 4, v[i]);
        }
    }
}

/* A quad of the weight; 0 beyond the row. */
static __device__ __forceinline__ void load_weight(uint32_t n, uint32_t quad, const float *weight,
                                                   float w[4])
{
    w[0] = w[1] = w[2] = w[3] = 0.0f;
    if (quad < n) {
        gdk_load_f32(w, weight + quad * 4);
    }
}

/* Writes row `row` of out. scratch: see gdk_block_max. */
template <int THREADS, int QUADS>
static __device__ __forceinline__ void store_row(uint32_t n, size_t row, const float (&v)[QUADS][4],
                                                 gdk_cuda_out out, uint32_t *scratch)
{
    size_t begin = row * n * 4;
    if (out.type == GDK_E4M3) {
        uint32_t largest = 0;
        for (int i = 0; i < QUADS; i++) {
            for (int j = 0; j < 4; j++) {
                largest = gdk_larger(largest, gdk_magnitude(v[i][j]));
            }
        }
        float scale = gdk_e4m3_scale(gdk_block_max(largest, scratch));
        float inverse = 1.0f / scale;
        gdk_e4m3 *dst = static_cast<gdk_e4m3 *>(out.data) + begin;
        for (int i = 0; i < QUADS; i++) {
            uint32_t quad = threadIdx.x + i * THREADS;
            if (quad < n) {
                *reinterpret_cast<uint32_t *>(dst + quad * 4) = gdk_scale_e4m3(v[i], inverse);
            }
        }
        if (threadIdx.x == 0) {
            out.scales[row] = scale;
        }
        return;
    }
    for (int i = 0; i < QUADS; i++) {
        uint32_t quad = threadIdx.x + i * THREADS;
        if (quad < n && out.type == GDK_BF16) {
            gdk_vec8 w;
            gdk_narrow(w.w, v[i]);
            gdk_store8(static_cast<gdk_bf16 *>(out.data) + begin + quad * 4, w);
        } else if (quad < n) {
            gdk_store_f32(static_cast<float *>(out.data) + begin + quad * 4, v[i]);
        }
    }
}

template <int THREADS, int QUADS>
static __global__ void __launch_bounds__(THREADS)
    add_rmsnorm(uint32_t dim, float *x, const gdk_bf16 *delta, const float *weight, float eps,
                gdk_cuda_out out)
{
    unsigned char *shared = gdk_shared();
    size_t row = blockIdx.x;
    uint32_t n = dim / 4;
    float v[QUADS][4], w[QUADS][4];
    if (QUADS <= EARLY_QUADS) {
        for (int i = 0; i < QUADS; i++) {
            load_weight(n, threadIdx.x + i * THREADS, weight, w[i]);
        }
    }
    add_row<THREADS>(n, x + row * dim, delta == NULL ? NULL : delta + row * dim, v);
    float square = 0.0f;
    for (int i = 0; i < QUADS; i++) {
        for (int j = 0; j < 4; j++) {
            square += v[i][j] * v[i][j];
        }
    }
    float sum = gdk_block_sum(square, reinterpret_cast<float *>(shared));
    /* An overflow would give a scale of 0 and hide in a row of zeros: it has to reach the scores. */
    float scale = 1.0f / sqrtf(sum / static_cast<float>(dim) + eps);
    if (gdk_magnitude(sum) >= 0x7f800000u) {
        scale = gdk_float_of_bits(0x7fc00000u);
    }
    for (int i = 0; i < QUADS; i++) {
        if (QUADS > EARLY_QUADS) {
            load_weight(n, threadIdx.x + i * THREADS, weight, w[i]);
        }
        for (int j = 0; j < 4; j++) {
            v[i][j] = v[i][j] * scale * w[i][j];
        }
    }
    store_row<THREADS>(n, row, v, out, reinterpret_cast<uint32_t *>(shared) + WARPS_MAX);
}

template <int THREADS, int QUADS>
static cudaError_t launch(cudaStream_t stream, uint32_t rows, uint32_t dim, float *x,
                          const gdk_bf16 *delta, const float *weight, float eps, gdk_cuda_out out)
{
    return GDK_LAUNCH((add_rmsnorm<THREADS, QUADS>), dim3(rows), dim3(THREADS),
                      2 * WARPS_MAX * sizeof(uint32_t), stream, dim, x, delta, weight, eps, out);
}

cudaError_t gdk_add_rmsnorm_cuda(cudaStream_t stream, uint32_t rows, uint32_t dim, float *x,
                                 const gdk_bf16 *delta, const float *weight, float eps,
                                 struct gdk_cuda_out out)
{
    if (rows == 0) {
        return cudaSuccess;
    }
    if (dim <= 1024) {
        return launch<256, 1>(stream, rows, dim, x, delta, weight, eps, out);
    }
    if (dim <= 2048) {
        return launch<256, 2>(stream, rows, dim, x, delta, weight, eps, out);
    }
    if (dim <= 4096) {
        return launch<256, 4>(stream, rows, dim, x, delta, weight, eps, out);
    }
    if (dim <= 8192) {
        return launch<256, 8>(stream, rows, dim, x, delta, weight, eps, out);
    }
    if (dim <= GDK_CUDA_NORM_DIM_MAX) {
        return launch<1024, 8>(stream, rows, dim, x, delta, weight, eps, out);
    }
    return cudaErrorInvalidValue;
}
