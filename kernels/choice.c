/* choice.c - the end of a verdict: picks the last token's row of each sequence and multiplies it
 * with the few rows of the LM head that belong to the choices, instead of with the whole
 * vocabulary.
 *
 * The dot product runs in 16 partial sums added pairwise at the end, as in rmsnorm.c. */
#include "guardian/kernels.h"

#define LANES 16u

void gdk_gather_rows_cpu(uint32_t begin, uint32_t end, uint32_t dim, const uint32_t *index,
                         const float *src, float *dst)
{
    for (uint32_t i = begin; i < end; i++) {
        memcpy(dst + (size_t)i * dim, src + (size_t)index[i] * dim, dim * sizeof *dst);
    }
}

static float dot_row(uint32_t dim, const float *a, enum gd_dtype dtype, const char *row)
{
    float sum[LANES] = {0};
    float b[LANES];
    size_t elem = gdk_dtype_bytes(dtype);
    for (uint32_t i = 0; i < dim; i += LANES) {
        uint32_t n = dim - i < LANES ? dim - i : LANES;
        gdk_to_f32_cpu(n, dtype, row + i * elem, b);
        for (uint32_t j = 0; j < n; j++) {
            sum[j] += a[i + j] * b[j];
        }
    }
    for (uint32_t w = LANES / 2; w > 0; w /= 2) {
        for (uint32_t j = 0; j < w; j++) {
            sum[j] += sum[j + w];
        }
    }
    return sum[0];
}

void gdk_choice_logits_cpu(uint32_t n, const struct gd_choice *choices, uint32_t dim,
                           const float *hidden, enum gd_dtype dtype, const void *rows,
                           float *logits)
{
    size_t row_bytes = dim * gdk_dtype_bytes(dtype);
    for (uint32_t i = 0; i < n; i++) {
        const char *row = (const char *)rows + (size_t)choices[i].id * row_bytes;
        logits[i] = dot_row(dim, hidden + (size_t)choices[i].row * dim, dtype, row);
    }
}
