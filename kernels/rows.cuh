/* rows.cuh - what the operations on rows share: 4 numbers at a time in memory and in registers, and
 * the scales of FP8 rows.
 *
 * Rows of fp32 are read 4 numbers (16 bytes) a thread, so that neighbouring threads touch
 * neighbouring bytes; rows of bf16 beside them go by the same 4 (8 bytes), rows of bf16 alone by 8. */
#ifndef GUARDIAN_ROWS_CUH
#define GUARDIAN_ROWS_CUH

#include "device.cuh"

struct alignas(8) gdk_vec8 {
    uint32_t w[2];
};

/* Whole warps of at least so many threads. */
static inline uint32_t gdk_threads_of(uint32_t n_threads)
{
    return (n_threads + 31) / 32 * 32;
}

static __device__ __forceinline__ void gdk_load_f32(float v[4], const float *p)
{
    gdk_vec16 bits = gdk_load16(p);
    for (int i = 0; i < 4; i++) {
        v[i] = gdk_float_of_bits(bits.w[i]);
    }
}

static __device__ __forceinline__ void gdk_store_f32(float *p, const float v[4])
{
    gdk_vec16 bits;
    for (int i = 0; i < 4; i++) {
        bits.w[i] = gdk_bits_of_float(v[i]);
    }
    gdk_store16(p, bits);
}

static __device__ __forceinline__ gdk_vec8 gdk_load8(const void *p)
{
    return *static_cast<const gdk_vec8 *>(p);
}

static __device__ __forceinline__ void gdk_store8(void *p, gdk_vec8 v)
{
    *static_cast<gdk_vec8 *>(p) = v;
}

/* The pairs of bf16 of n words. */
template <int N> static __device__ __forceinline__ void gdk_widen(float *v, const uint32_t (&w)[N])
{
    for (int i = 0; i < N; i++) {
        v[2 * i] = gdk_bf16_low(w[i]);
        v[2 * i + 1] = gdk_bf16_high(w[i]);
    }
}

template <int N> static __device__ __forceinline__ void gdk_narrow(uint32_t (&w)[N], const float *v)
{
    for (int i = 0; i < N; i++) {
        w[i] = gdk_pack_bf16(v[2 * i], v[2 * i + 1]);
    }
}

/* ---- FP8: the arithmetic of gdk_quantize_cpu, bit for bit ----
 *
 * The largest magnitude of a row is found among the bits as integers, whose order is that of the
 * magnitudes, with infinity and NaN on top: a maximum of floats would lose NaN. */

static __device__ __forceinline__ uint32_t gdk_magnitude(float x)
{
    return gdk_bits_of_float(x) & 0x7fffffffu;
}

static __device__ __forceinline__ uint32_t gdk_larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static __device__ __forceinline__ float gdk_e4m3_scale(uint32_t largest)
{
    if (largest == 0) {
        return 1.0f;
    }
    if (largest >= 0x7f800000u) {
        return gdk_float_of_bits(0x7fc00000u);
    }
    float scale = gdk_float_of_bits(largest) / 448.0f;
    return scale < 0x1p-126f ? 0x1p-126f : scale;
}

static __device__ __forceinline__ uint32_t gdk_scale_e4m3(const float v[4], float inverse)
{
    return gdk_pack_e4m3(v[0] * inverse, v[1] * inverse, v[2] * inverse, v[3] * inverse);
}

#endif
