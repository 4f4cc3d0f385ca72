/* gemm_cuda.h - matrix products on CUDA by cuBLASLt; private to kernels/.
 *
 * out[rows, n] bf16 = a[rows, k] * w[n, k]^T (+ bias[n]); a and w bf16, or both FP8 e4m3 with one fp32
 * scale a row. Accumulation is fp32, without split-K. One instance, one thread, one stream. */
#ifndef GUARDIAN_GEMM_CUDA_H
#define GUARDIAN_GEMM_CUDA_H

#include "cuda_ops.h"

#include "guardian/limits.h"
#include "guardian/status.h"

#include <stdbool.h>

struct gdk_cuda_gemm;

/* A weight in device memory; the arrays belong to whoever made it. */
struct gdk_cuda_matrix {
    uint32_t n, k;
    void *data;     /* [n, k] bf16 or e4m3 */
    float *scales;  /* [n] of e4m3, else NULL */
    gdk_bf16 *bias; /* [n], or NULL */
    struct gdk_gemm_shape *shape;
};

struct gdk_cuda_gemm_options {
    bool fp8;
    bool fast_accum; /* FP8: the tensor cores' own accumulators, of fewer bits, all along k */
};

/* GD_EBACKEND, with a sentence, where cuBLASLt is missing; GD_ENOMEM. */
int gdk_cuda_gemm_open(struct gdk_cuda_gemm **out, cudaStream_t stream,
                       const struct gdk_cuda_gemm_options *opt, struct gd_err *err);
void gdk_cuda_gemm_close(struct gdk_cuda_gemm *g); /* NULL is fine */

/* Sets w->shape. n and k are multiples of 8, of 16 for FP8. GD_EBACKEND, GD_ENOMEM. */
int gdk_cuda_gemm_plan(struct gdk_cuda_gemm *g, struct gdk_cuda_matrix *w, struct gd_err *err);

/* For every shape that was planned: finds the algorithms that give each row the same bits at every
 * number of rows up to rows_max, wherever it stands, and takes the fastest of them for each range of
 * rows. Needs device memory for rows_max rows of the largest shape meanwhile; waits. GD_EBACKEND
 * where a shape has none, GD_ENOMEM. */
int gdk_cuda_gemm_select(struct gdk_cuda_gemm *g, uint32_t rows_max, struct gd_err *err);

/* Queues one product; after select. scales [rows] for FP8. A cudaError_t; cudaErrorUnknown where
 * cuBLASLt refuses (gdk_cuda_gemm_why says why). */
cudaError_t gdk_cuda_gemm_run(struct gdk_cuda_gemm *g, uint32_t rows, const void *a,
                              const float *scales, const struct gdk_cuda_matrix *w, gdk_bf16 *out);
const char *gdk_cuda_gemm_why(const struct gdk_cuda_gemm *g);

/* What select found, for benchmarks: how many algorithms were offered, how many kept the
 * bits, over all shapes and ranges. */
struct gdk_cuda_gemm_stats {
    uint32_t shapes, offered, equal;
};
void gdk_cuda_gemm_stats(const struct gdk_cuda_gemm *g, struct gdk_cuda_gemm_stats *out);

/* Row counts that products are made with: those of small steps, and multiples of 64 beyond. */
#define GDK_CUDA_SMALL_ROWS_MAX 512u
uint32_t gdk_cuda_rows_padded(uint32_t rows); /* 0 stays 0 */

#endif
