/* quantize.cu - rows of bf16 as FP8 e4m3 with one scale a row, for a product of FP8.
 *
 * One block a row, which it keeps in registers between the largest magnitude and the output. */
#include "rows.cuh"

#define WARPS_MAX (GDK_THREADS_MAX / 32)

/* OCTETS: 8 numbers each, of a thread. */
template <int OCTETS>
static __global__ void __launch_bounds__(GDK_THREADS_MAX)
    quantize_rows(uint32_t n, uint32_t src_stride, const gdk_bf16 *src, gdk_e4m3 *dst,
                  float *scales)
{
    size_t row = blockIdx.x;
    src += row * src_stride;
    dst += row * n * 8;
    gdk_vec16 w[OCTETS];
    for (int i = 0; i < OCTETS; i++) {
        uint32_t octet = threadIdx.x + i * blockDim.x;
        w[i] = gdk_vec16{};
        if (octet < n) {
            w[i] = gdk_load16(src + octet * 8);
        }
    }
    uint32_t low = 0, high = 0; /* largest of each half of the words; below high may be anything */
    for (int i = 0; i < OCTETS; i++) {
        for (int j = 0; j < 4; j++) {
            low = gdk_larger(low, w[i].w[j] & 0x7fffu);
            high = gdk_larger(high, w[i].w[j] & 0x7fffffffu);
        }
    }
    uint32_t largest = gdk_larger(low << 16, high & 0x7fff0000u);
    largest = gdk_block_max(largest, reinterpret_cast<uint32_t *>(gdk_shared()));
    float scale = gdk_e4m3_scale(largest);
    float inverse = 1.0f / scale;
    for (int i = 0; i < OCTETS; i++) {
        uint32_t octet = threadIdx.x + i * blockDim.x;
        if (octet < n) {
            float v[8];
            gdk_vec8 out;
            gdk_widen(v, w[i].w);
            out.w[0] = gdk_scale_e4m3(v, inverse);
            out.w[1] = gdk_scale_e4m3(v + 4, inverse);
            gdk_store8(dst + octet * 8, out);
        }
    }
    if (threadIdx.x == 0) {
        scales[row] = scale;
    }
}

cudaError_t gdk_quantize_cuda(cudaStream_t stream, uint32_t rows, uint32_t dim, uint32_t src_stride,
                              const gdk_bf16 *src, gdk_e4m3 *dst, float *scales)
{
    const size_t scratch = WARPS_MAX * sizeof(uint32_t);
    uint32_t n = dim / 8;
    if (rows == 0) {
        return cudaSuccess;
    }
    if (dim <= GDK_CUDA_QUANTIZE_DIM_MAX / 2) {
        return GDK_LAUNCH(quantize_rows<4>, dim3(rows), dim3(gdk_threads_of((n + 3) / 4)), scratch,
                          stream, n, src_stride, src, dst, scales);
    }
    if (dim <= GDK_CUDA_QUANTIZE_DIM_MAX) {
        return GDK_LAUNCH(quantize_rows<8>, dim3(rows), dim3(gdk_threads_of((n + 7) / 8)), scratch,
                          stream, n, src_stride, src, dst, scales);
    }
    return cudaErrorInvalidValue;
}
