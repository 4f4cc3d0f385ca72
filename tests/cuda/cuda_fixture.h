/* cuda_fixture.h - shared by the tests of the CUDA kernels: arrays in device memory, bf16, random
 * numbers, errors.
 *
 * The tests run on a device where there is one, and always on tests/simt, the host implementation of
 * kernels/device.cuh. State is static: one test program each. */
#ifndef GUARDIAN_TESTS_CUDA_FIXTURE_H
#define GUARDIAN_TESTS_CUDA_FIXTURE_H

#include "../test_kernels.h"
#include "cuda_ops.h"

#include <stdio.h>

#define CUDA_OK(call)                                                                              \
    do {                                                                                           \
        cudaError_t cuda_rc = (call);                                                              \
        if (cuda_rc != cudaSuccess) {                                                              \
            fail_msg("%s: %s", #call, cudaGetErrorString(cuda_rc));                                \
        }                                                                                          \
    } while (0)

static cudaStream_t stream;

/* cmocka group set-up: a device and a stream. Without a device every test of the group says so. */
static bool no_device;
static inline int cuda_set_up(void **state)
{
    (void)state;
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc != cudaSuccess || n == 0) {
        print_message("SKIP: no CUDA device (%s)\n", cudaGetErrorString(rc));
        no_device = true;
        return 0;
    }
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? 0 : -1;
}

static inline int cuda_tear_down(void **state)
{
    (void)state;
    return no_device || cudaStreamDestroy(stream) == cudaSuccess ? 0 : -1;
}

#define NEEDS_DEVICE()                                                                             \
    do {                                                                                           \
        if (no_device) {                                                                           \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

/* n bytes of device memory with anything in it: every byte is 0xff, which is NaN in each type. */
static inline void *device_bytes(size_t n)
{
    void *p = NULL;
    CUDA_OK(cudaMalloc(&p, n));
    CUDA_OK(cudaMemsetAsync(p, 0xff, n, stream));
    return p;
}

static inline void *to_device(const void *host, size_t n)
{
    void *p = device_bytes(n);
    CUDA_OK(cudaMemcpyAsync(p, host, n, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    return p;
}

/* A malloc'ed copy. */
static inline void *from_device(const void *device, size_t n)
{
    void *host = malloc(n + 1);
    assert_non_null(host);
    CUDA_OK(cudaMemcpyAsync(host, device, n, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    return host;
}

/* ---- bf16 ---- */

static inline float bf16_value(gdk_bf16 b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline gdk_bf16 bf16_of(float f) /* nearest even; NaN stays NaN */
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fc0;
    }
    return (gdk_bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* Rounds x[n] to bf16 in place and gives the bits. */
static inline gdk_bf16 *bf16_array(float *x, size_t n)
{
    gdk_bf16 *b = malloc((n + 1) * sizeof *b);
    assert_non_null(b);
    for (size_t i = 0; i < n; i++) {
        b[i] = bf16_of(x[i]);
        x[i] = bf16_value(b[i]);
    }
    return b;
}

#endif
