/* kv_copy.cu - copies a block of the paged cache over another, in every layer.
 *
 * The layers of a block lie far apart, farther than a pitched copy of the runtime may reach: one
 * thread block a layer copies 16 bytes a thread at a time. */
#include "device.cuh"

#define THREADS 256

static __global__ void __launch_bounds__(THREADS)
    kv_copy(size_t layer, uint32_t n, gdk_bf16 *kv, uint32_t dst, uint32_t src)
{
    gdk_bf16 *of_layer = kv + blockIdx.x * layer;
    const gdk_bf16 *from = of_layer + (size_t)src * n;
    gdk_bf16 *to = of_layer + (size_t)dst * n;
    for (uint32_t i = threadIdx.x * 8; i < n; i += THREADS * 8) {
        gdk_store16(to + i, gdk_load16(from + i));
    }
}

extern "C" cudaError_t gdk_kv_copy_cuda(cudaStream_t stream, uint32_t n_layers, size_t layer,
                                        uint32_t block, gdk_bf16 *kv, uint32_t dst, uint32_t src)
{
    if (n_layers == 0) {
        return cudaSuccess;
    }
    return GDK_LAUNCH(kv_copy, n_layers, THREADS, 0, stream, layer, block, kv, dst, src);
}
