/* embed.cu - rows of the embedding table, bf16, as rows of the residual stream, fp32.
 *
 * One block a row. All of a thread's loads are under way before its first store. */
#include "rows.cuh"

#define THREADS 256
#define QUADS 4 /* 4 numbers each, of a thread at a time */

static __global__ void __launch_bounds__(THREADS)
    embed_rows(const gdk_token *tokens, uint32_t dim, const gdk_bf16 *table, float *out)
{
    int32_t id = tokens[blockIdx.x].id;
    const gdk_bf16 *src = table + (size_t)(id < 0 ? 0 : id) * dim;
    float *dst = out + (size_t)blockIdx.x * dim;
    uint32_t n = dim / 4;
    for (uint32_t first = threadIdx.x; first < n; first += THREADS * QUADS) {
        gdk_vec8 w[QUADS];
        for (int i = 0; i < QUADS; i++) {
            uint32_t quad = first + i * THREADS;
            w[i] = gdk_vec8{};
            if (quad < n && id >= 0) {
                w[i] = gdk_load8(src + quad * 4);
            }
        }
        for (int i = 0; i < QUADS; i++) {
            uint32_t quad = first + i * THREADS;
            if (quad < n) {
                float v[4];
                gdk_widen(v, w[i].w);
                gdk_store_f32(dst + quad * 4, v);
            }
        }
    }
}

cudaError_t gdk_embed_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b, uint32_t dim,
                           const gdk_bf16 *table, float *out)
{
    if (b->n_rows == 0) {
        return cudaSuccess;
    }
    return GDK_LAUNCH(embed_rows, dim3(b->n_rows), dim3(THREADS), 0, stream, b->tokens, dim, table,
                      out);
}
