/* gemm_cuda_parts.h - what gemm_cuda.c and gemm_cuda_select.c share. */
#ifndef GUARDIAN_GEMM_CUDA_PARTS_H
#define GUARDIAN_GEMM_CUDA_PARTS_H

#include "cublaslt.h"
#include "gemm_cuda.h"

#define GDK_GEMM_WORKSPACE_BYTES (32 * GD_MIB) /* what NVIDIA advises for Hopper */
#define GDK_GEMM_RANGES 17

extern const uint32_t gdk_gemm_ranges[GDK_GEMM_RANGES]; /* last number of rows of each range */
size_t gdk_gemm_range_of(uint32_t rows);

struct gdk_gemm_shape {
    struct gdk_gemm_shape *next;
    uint32_t n, k;
    bool has_bias;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, a, out;
    bool selected;
    cublasLtMatmulAlgo_t algo[GDK_GEMM_RANGES];
};

struct gdk_cuda_gemm {
    struct gdk_cublaslt lt;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    cudaStream_t stream;
    struct gdk_cuda_gemm_options opt;
    void *workspace;
    struct gdk_gemm_shape *shapes;
    struct gdk_cuda_gemm_stats stats;
    char why[256]; /* the last refusal */
};

/* Whether a call failed; keeps why. */
bool gdk_gemm_refused(struct gdk_cuda_gemm *g, cublasStatus_t status, const char *call);

/* Prepare the descriptors of a shape for so many rows, and for a weight's bias and the scales. False:
 * refused. */
bool gdk_gemm_set_rows(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s, uint32_t rows);
bool gdk_gemm_set_pointers(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s,
                           const struct gdk_cuda_matrix *w, const float *scales);

/* gdk_cuda_gemm_run with an algorithm of the caller's. */
cudaError_t gdk_gemm_run_with(struct gdk_cuda_gemm *g, uint32_t rows, const void *a,
                              const float *scales, const struct gdk_cuda_matrix *w, gdk_bf16 *out,
                              const cublasLtMatmulAlgo_t *algo);

#endif
