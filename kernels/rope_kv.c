/* rope_kv.c - rotates queries and keys by their position and stores keys and values in the paged
 * cache.
 *
 * The halves convention of the Hugging Face weights: element i is paired with element i + head_dim
 * / 2. Cosines and sines come from a table per position, because computing them anew in each layer
 * would cost as much as attention. */
#include "guardian/kernels.h"

#include <math.h>

void gdk_rope_table_cpu(uint32_t begin, uint32_t end, uint32_t head_dim, const float *inv_freq,
                        float *table)
{
    uint32_t half = head_dim / 2;
    for (uint32_t pos = begin; pos < end; pos++) {
        float *row = table + (size_t)pos * head_dim;
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)pos * inv_freq[i];
            row[i] = cosf(angle);
            row[half + i] = sinf(angle);
        }
    }
}

/* Rotates one head; the elements of the result are `stride` apart. dst may be src with stride 1. */
static inline void rotate(uint32_t half, const float *restrict cos_sin, const float *src,
                          float *dst, size_t stride)
{
    for (uint32_t i = 0; i < half; i++) {
        float c = cos_sin[i];
        float s = cos_sin[half + i];
        float lo = src[i];
        float hi = src[half + i];
        dst[i * stride] = lo * c - hi * s;
        dst[(half + i) * stride] = hi * c + lo * s;
    }
}

GDK_CLONES void gdk_rope_kv_cpu(uint32_t begin, uint32_t end, const struct gd_batch *b,
                                const struct gd_attn_shape *s, const float *table, float *qkv,
                                const struct gdk_kv_layer *kv)
{
    uint32_t dim = s->head_dim, pad = gdk_kv_pad(dim);
    size_t heads = (size_t)s->n_heads + 2 * (size_t)s->n_kv_heads;
    uint32_t seq = 0;
    for (uint32_t t = begin; t < end; t++) {
        while (t >= b->seq_start[seq + 1]) {
            seq++;
        }
        uint32_t pos = (uint32_t)b->positions[t];
        size_t block = b->blocks[b->block_start[seq] + pos / GD_KV_BLOCK_TOKENS];
        uint32_t slot = pos % GD_KV_BLOCK_TOKENS;
        const float *cos_sin = table + (size_t)pos * dim;
        float *q = qkv + (size_t)t * heads * dim;
        const float *k = q + (size_t)s->n_heads * dim;
        const float *v = k + (size_t)s->n_kv_heads * dim;
        for (uint32_t h = 0; h < s->n_heads; h++) {
            rotate(dim / 2, cos_sin, q + (size_t)h * dim, q + (size_t)h * dim, 1);
        }
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            size_t head = (block * s->n_kv_heads + h) * GD_KV_BLOCK_TOKENS * pad;
            rotate(dim / 2, cos_sin, k + (size_t)h * dim, kv->k + head + slot, GD_KV_BLOCK_TOKENS);
            memcpy(kv->v + head + (size_t)slot * pad, v + (size_t)h * dim, dim * sizeof *v);
        }
    }
}
