/* rmsnorm.c - adds the previous block's output to the residual stream and normalises it by its root
 * mean square.
 *
 * The sum of squares runs in 16 partial sums (element i into sum i mod 16) that are then added
 * pairwise, so that the compiler may use vectors without being allowed to reorder anything. */
#include "guardian/kernels.h"

#include <math.h>

#define LANES 16u

GDK_CLONES void gdk_add_rmsnorm_cpu(uint32_t begin, uint32_t end, uint32_t dim, float *x,
                                    const float *delta, const float *weight, float eps, float *out)
{
    for (uint32_t t = begin; t < end; t++) {
        float *restrict row = x + (size_t)t * dim;
        float *restrict dst = out + (size_t)t * dim;
        if (delta != NULL) {
            const float *restrict add = delta + (size_t)t * dim;
            for (uint32_t i = 0; i < dim; i++) {
                row[i] += add[i];
            }
        }
        float sum[LANES] = {0};
        uint32_t i = 0;
        for (; i + LANES <= dim; i += LANES) {
            for (uint32_t j = 0; j < LANES; j++) {
                sum[j] += row[i + j] * row[i + j];
            }
        }
        for (uint32_t j = 0; i + j < dim; j++) {
            sum[j] += row[i + j] * row[i + j];
        }
        for (uint32_t w = LANES / 2; w > 0; w /= 2) {
            for (uint32_t j = 0; j < w; j++) {
                sum[j] += sum[j + w];
            }
        }
        /* An overflow would give a scale of 0 and hide in a row of zeros: it has to reach the
         * scores. */
        float scale = isfinite(sum[0]) ? 1.0f / sqrtf(sum[0] / (float)dim + eps) : NAN;
        for (i = 0; i < dim; i++) {
            dst[i] = row[i] * scale * weight[i];
        }
    }
}
