/* swiglu.c - the gated activation of the feed-forward block: silu(gate) * up, silu(x) = x / (1 +
 * exp(-x)).
 *
 * Element by element, so any vector width gives the same order of operations. */
#include "guardian/kernels.h"

GDK_CLONES void gdk_swiglu_cpu(uint32_t begin, uint32_t end, uint32_t ffn, const float *gate_up,
                               float *out)
{
    for (uint32_t t = begin; t < end; t++) {
        const float *restrict gate = gate_up + (size_t)t * 2 * ffn;
        const float *restrict up = gate + ffn;
        float *restrict dst = out + (size_t)t * ffn;
        for (uint32_t i = 0; i < ffn; i++) {
            dst[i] = gate[i] / (1.0f + gdk_expf(-gate[i])) * up[i];
        }
    }
}
