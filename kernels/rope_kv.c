/* rope_kv.c - rotates queries and keys by their position and stores keys and values in the cache.
 *
 * The halves convention of the Hugging Face weights: element i is paired with element i + head_dim
 * / 2. Cosines and sines come from a table per position, because computing them anew in each layer
 * would cost as much as attention. */
#include "guardian/kernels.h"

#include <math.h>

void gdk_rope_table_cpu(uint32_t begin, uint32_t end, const struct gd_rope *rope, float *table)
{
    uint32_t half = rope->head_dim / 2;
    for (uint32_t pos = begin; pos < end; pos++) {
        float *row = table + (size_t)pos * rope->head_dim;
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)pos * rope->inv_freq[i];
            row[i] = cosf(angle);
            row[half + i] = sinf(angle);
        }
    }
}

static inline void rotate(uint32_t half, const float *restrict cos_sin, const float *src,
                          float *restrict lo_out, float *restrict hi_out)
{
    for (uint32_t i = 0; i < half; i++) {
        float c = cos_sin[i];
        float s = cos_sin[half + i];
        float lo = src[i];
        float hi = src[half + i];
        lo_out[i] = lo * c - hi * s;
        hi_out[i] = hi * c + lo * s;
    }
}

GDK_CLONES void gdk_rope_kv_cpu(uint32_t begin, uint32_t end, const struct gd_attn_shape *s,
                                const int32_t *positions, const float *table, float *qkv,
                                float *k_cache, float *v_cache)
{
    uint32_t dim = s->head_dim;
    uint32_t half = dim / 2;
    size_t kv_dim = (size_t)s->n_kv_heads * dim;
    size_t row_dim = (size_t)s->n_heads * dim + 2 * kv_dim;
    for (uint32_t t = begin; t < end; t++) {
        const float *cos_sin = table + (size_t)positions[t] * dim;
        float *q = qkv + (size_t)t * row_dim;
        const float *k = q + (size_t)s->n_heads * dim;
        float *k_dst = k_cache + (size_t)t * kv_dim;
        for (uint32_t h = 0; h < s->n_heads; h++) {
            float *head = q + (size_t)h * dim;
            for (uint32_t i = 0; i < half; i++) {
                float c = cos_sin[i];
                float sn = cos_sin[half + i];
                float lo = head[i];
                float hi = head[half + i];
                head[i] = lo * c - hi * sn;
                head[half + i] = hi * c + lo * sn;
            }
        }
        for (uint32_t h = 0; h < s->n_kv_heads; h++) {
            float *dst = k_dst + (size_t)h * dim;
            rotate(half, cos_sin, k + (size_t)h * dim, dst, dst + half);
        }
        memcpy(v_cache + (size_t)t * kv_dim, k + kv_dim, kv_dim * sizeof(float));
    }
}
