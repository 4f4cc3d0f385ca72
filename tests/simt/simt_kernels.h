/* simt_kernels.h - launchers of simt_kernels.cu and the faults they can have. */
#ifndef GUARDIAN_SIMT_KERNELS_H
#define GUARDIAN_SIMT_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* count[thread of all] is raised, order[(*n)++] = its number */
cudaError_t simt_where(cudaStream_t s, const uint32_t g[3], const uint32_t b[3], uint32_t *count,
                       uint32_t *order, uint32_t *n);
cudaError_t simt_nothing(cudaStream_t s, uint32_t grid, uint32_t block, size_t shared);
cudaError_t simt_nothing_allowed(cudaStream_t s, int allow, size_t shared);

/* out[6, threads]: xor, from, down, up by arg; largest of the warp; sum of the block */
cudaError_t simt_shuffles(cudaStream_t s, uint32_t threads, const uint32_t *in, uint32_t *out,
                          int arg);

enum simt_divergence {
    SIMT_NO_DIVERGENCE,
    SIMT_HALF_AT_BARRIER,
    SIMT_WARP_RETURNS,
    SIMT_BARRIER_AND_SHUFFLE,
    SIMT_TWO_KINDS,
    SIMT_LANES_RETURNED,
    SIMT_PART_MASK,
    SIMT_SMALL_WARP
};
cudaError_t simt_diverge(cudaStream_t s, enum simt_divergence fault, uint32_t *out);

/* in[32, 8] -> out[32 lanes, 4]; lane l gives row 31 - l. fault 1: unaligned, 2: outside */
cudaError_t simt_ldmatrix_of(cudaStream_t s, const uint16_t *in, uint32_t *out, bool transposed,
                             int fault);
/* fragments a[32, 4], b[32, 2], d[32, 4] */
cudaError_t simt_mma_of(cudaStream_t s, const uint32_t *a, const uint32_t *b, float *d);

enum simt_gemm_fault {
    SIMT_GEMM_RIGHT,
    SIMT_GEMM_NO_WAIT,
    SIMT_GEMM_NO_COMMIT,
    SIMT_GEMM_NO_BARRIER,
    SIMT_GEMM_NO_SECOND_BARRIER
};
cudaError_t simt_gemm(cudaStream_t s, uint32_t m, uint32_t n, uint32_t k, const uint16_t *a,
                      const uint16_t *b, float *out, enum simt_gemm_fault fault);

enum simt_copy_fault {
    SIMT_COPY_RIGHT,
    SIMT_COPY_SOURCE_CHANGES,
    SIMT_COPY_WAIT_ONE,
    SIMT_COPY_WAIT_ONE_READ_TWO,
    SIMT_COPY_NO_WAIT_READ,
    SIMT_COPY_NEVER_WAITED,
    SIMT_COPY_NO_COMMIT,
    SIMT_COPY_UNALIGNED_TO,
    SIMT_COPY_UNALIGNED_FROM,
    SIMT_COPY_OUTSIDE,
    SIMT_COPY_TWICE
};
/* global[32, 4]; out[3, 32]: the first word copied, of the zeros, of what is not written */
cudaError_t simt_copies(cudaStream_t s, uint32_t *global, uint32_t *out,
                        enum simt_copy_fault fault);

enum simt_exchange_fault {
    SIMT_EXCHANGE_RIGHT,
    SIMT_EXCHANGE_IN_WARP,
    SIMT_EXCHANGE_NO_BARRIER,
    SIMT_EXCHANGE_NO_SECOND_BARRIER,
    SIMT_EXCHANGE_NO_SYNCWARP
};
cudaError_t simt_exchange(cudaStream_t s, uint32_t *wrong, enum simt_exchange_fault fault);

cudaError_t simt_fill(cudaStream_t s, uint32_t nbytes, int beyond, uint32_t *fresh);
cudaError_t simt_store(cudaStream_t s, uint32_t *p, uint32_t n, uint32_t value);
/* e4m3 may be NULL */
cudaError_t simt_pack(cudaStream_t s, uint32_t n, const float *x, uint32_t *bf16, uint32_t *e4m3,
                      float *exp2);

#ifdef __cplusplus
}
#endif

#endif
