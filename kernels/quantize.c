/* quantize.c - rows of fp32 as FP8 e4m3 with one scale a row, for products of FP8.
 *
 * The arithmetic is chosen so that a device repeats it bit for bit: one division for the scale, one
 * for its inverse, one multiplication a number. The largest magnitude is found among the bits as
 * integers, whose order is that of the magnitudes, with infinity and NaN on top: a maximum of floats
 * would lose NaN. */
#include "guardian/kernels.h"

#include <math.h>

#define E4M3_NAN 0x7fu
#define E4M3_MAX 0x7eu /* 448 */

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float gdk_e4m3_value(uint8_t bits)
{
    uint32_t exponent = bits >> 3 & 15u, mantissa = bits & 7u;
    float x = exponent == 0 ? (float)mantissa * 0x1p-9f
                            : float_of((exponent + 127 - 7) << 23 | mantissa << 20);
    x = (bits & 0x7fu) == E4M3_NAN ? NAN : x;
    return (bits & 0x80u) != 0 ? -x : x;
}

uint8_t gdk_e4m3_of(float x)
{
    uint32_t bits = bits_of(x), sign = bits >> 24 & 0x80u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) {
        return E4M3_NAN;
    }
    if (bits >= bits_of(448.0f)) {
        return (uint8_t)(sign | E4M3_MAX);
    }
    uint32_t code;
    if (bits < bits_of(0x1p-6f)) {
        /* Subnormal, in units of 2^-9: the sum's last bit is worth one unit. */
        code = bits_of(float_of(bits) + 0x1p14f) - bits_of(0x1p14f);
    } else {
        bits += 0x7ffffu + (bits >> 20 & 1u); /* nearest even; may carry into the exponent */
        code = (bits >> 20) - ((127 - 7) << 3);
    }
    return (uint8_t)(sign | code);
}

static float scale_of(uint32_t largest)
{
    if (largest == 0) {
        return 1.0f;
    }
    if (largest >= 0x7f800000u) {
        return NAN;
    }
    float scale = float_of(largest) / 448.0f;
    return scale < 0x1p-126f ? 0x1p-126f : scale;
}

void gdk_quantize_cpu(uint32_t begin, uint32_t end, uint32_t dim, const float *src, uint8_t *dst,
                      float *scales)
{
    for (uint32_t t = begin; t < end; t++) {
        const float *row = src + (size_t)t * dim;
        uint8_t *out = dst + (size_t)t * dim;
        uint32_t largest = 0;
        for (uint32_t i = 0; i < dim; i++) {
            uint32_t magnitude = bits_of(row[i]) & 0x7fffffffu;
            largest = magnitude > largest ? magnitude : largest;
        }
        scales[t] = scale_of(largest);
        float inverse = 1.0f / scales[t];
        for (uint32_t i = 0; i < dim; i++) {
            out[i] = gdk_e4m3_of(row[i] * inverse);
        }
    }
}
