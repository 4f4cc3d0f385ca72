/* embed.c - rows of the embedding table as fp32, and the widening of stored number types.
 *
 * bf16 is the upper half of an fp32; f16 is widened with integer operations, so that no compiler or
 * CPU support for half precision is needed. Both are exact. */
#include "guardian/kernels.h"

size_t gdk_dtype_bytes(enum gd_dtype dtype)
{
    switch (dtype) {
    case GD_DTYPE_F32:
        return 4;
    case GD_DTYPE_F16:
    case GD_DTYPE_BF16:
        return 2;
    case GD_DTYPE_I8:
    case GD_DTYPE_U8:
    case GD_DTYPE_OTHER:
        break;
    }
    return 0;
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(h & 0x7fffu) << 13;
    /* The exponent's bias differs by 112; the product also normalises subnormals. */
    float f = 0.0f;
    memcpy(&f, &rest, sizeof f);
    f *= 0x1p112f;
    uint32_t bits = 0;
    memcpy(&bits, &f, sizeof bits);
    bits = rest >= 0x0f800000u ? rest | 0x7f800000u : bits; /* inf and NaN keep their payload */
    bits |= sign;
    memcpy(&f, &bits, sizeof f);
    return f;
}

GDK_CLONES void gdk_to_f32_cpu(size_t n, enum gd_dtype dtype, const void *src, float *dst)
{
    const uint16_t *h = src;
    switch (dtype) {
    case GD_DTYPE_F32:
        memcpy(dst, src, n * sizeof *dst);
        break;
    case GD_DTYPE_BF16:
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)h[i] << 16;
            memcpy(&dst[i], &bits, sizeof bits);
        }
        break;
    case GD_DTYPE_F16:
        for (size_t i = 0; i < n; i++) {
            dst[i] = f16_to_f32(h[i]);
        }
        break;
    case GD_DTYPE_I8:
    case GD_DTYPE_U8:
    case GD_DTYPE_OTHER:
        break;
    }
}

void gdk_embed_cpu(uint32_t begin, uint32_t end, uint32_t k, enum gd_dtype dtype, const void *rows,
                   const int32_t *tokens, float *out)
{
    size_t row_bytes = k * gdk_dtype_bytes(dtype);
    for (uint32_t t = begin; t < end; t++) {
        const char *row = (const char *)rows + (size_t)tokens[t] * row_bytes;
        gdk_to_f32_cpu(k, dtype, row, out + (size_t)t * k);
    }
}
