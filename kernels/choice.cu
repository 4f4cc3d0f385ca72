/* choice.cu - the end of a verdict: picks the rows that are scored, and multiplies them with the few
 * rows of the LM head that belong to the choices.
 *
 * Rows are copied by one block each. A logit is summed by one block: each thread over its own
 * numbers, a warp's lanes pairwise, the warps one after another. */
#include "guardian/backend.h"
#include "rows.cuh"

#define COPY_THREADS 256
#define COPIES 4        /* 16 bytes each, of a thread at a time */
#define DOT_THREADS 512 /* many: few choices at a time, so that a thread has little to wait for */
#define DOT_QUADS 2     /* 4 numbers each, of a thread at a time */

static __global__ void __launch_bounds__(COPY_THREADS)
    gather_rows(const gdk_token *tokens, uint32_t row_bytes, const unsigned char *src,
                unsigned char *dst)
{
    src += (size_t)tokens[blockIdx.x].place * row_bytes;
    dst += (size_t)blockIdx.x * row_bytes;
    uint32_t n = row_bytes / 16;
    for (uint32_t first = threadIdx.x; first < n; first += COPY_THREADS * COPIES) {
        gdk_vec16 v[COPIES];
        for (int i = 0; i < COPIES; i++) {
            uint32_t at = first + i * COPY_THREADS;
            if (at < n) {
                v[i] = gdk_load16(src + (size_t)at * 16);
            }
        }
        for (int i = 0; i < COPIES; i++) {
            uint32_t at = first + i * COPY_THREADS;
            if (at < n) {
                gdk_store16(dst + (size_t)at * 16, v[i]);
            }
        }
    }
}

static __global__ void __launch_bounds__(DOT_THREADS)
    choice_logits(const gd_choice *choices, uint32_t dim, const float *hidden,
                  const gdk_bf16 *table, float *logits)
{
    gd_choice choice = choices[blockIdx.x];
    const float *a = hidden + (size_t)choice.row * dim;
    const gdk_bf16 *b = table + (size_t)choice.id * dim;
    uint32_t n = dim / 4;
    float sum = 0.0f;
    for (uint32_t first = 0; first < n; first += DOT_THREADS * DOT_QUADS) {
        float x[DOT_QUADS][4];
        gdk_vec8 w[DOT_QUADS];
        for (int i = 0; i < DOT_QUADS; i++) {
            uint32_t quad = first + threadIdx.x + i * DOT_THREADS;
            x[i][0] = x[i][1] = x[i][2] = x[i][3] = 0.0f;
            w[i] = gdk_vec8{};
            if (quad < n) {
                gdk_load_f32(x[i], a + quad * 4);
                w[i] = gdk_load8(b + quad * 4);
            }
        }
        for (int i = 0; i < DOT_QUADS; i++) {
            float y[4];
            gdk_widen(y, w[i].w);
            for (int j = 0; j < 4; j++) {
                sum += x[i][j] * y[j];
            }
        }
    }
    sum = gdk_block_sum(sum, reinterpret_cast<float *>(gdk_shared()));
    if (threadIdx.x == 0) {
        logits[blockIdx.x] = sum;
    }
}

cudaError_t gdk_gather_rows_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b,
                                 uint32_t row_bytes, const void *src, void *dst)
{
    if (b->n_rows == 0) {
        return cudaSuccess;
    }
    return GDK_LAUNCH(gather_rows, dim3(b->n_rows), dim3(COPY_THREADS), 0, stream, b->tokens,
                      row_bytes, static_cast<const unsigned char *>(src),
                      static_cast<unsigned char *>(dst));
}

cudaError_t gdk_choice_logits_cuda(cudaStream_t stream, uint32_t n, const struct gd_choice *choices,
                                   uint32_t dim, const float *hidden, const gdk_bf16 *table,
                                   float *logits)
{
    if (n == 0) {
        return cudaSuccess;
    }
    return GDK_LAUNCH(choice_logits, dim3(n), dim3(DOT_THREADS), DOT_THREADS / 32 * sizeof(float),
                      stream, choices, dim, hidden, table, logits);
}
