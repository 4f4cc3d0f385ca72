/* gemm_cuda.c - matrix products on CUDA: cuBLASLt, held to equal bits.
 *
 * Row-major [rows, k] is column-major [k, rows]: cuBLASLt computes out^T = w a^T as its "TN" product,
 * with its M our n and its N our rows, so that scales and bias of a weight's rows run along its M.
 *
 * A row's bits must not depend on how many rows there are: split-K is never allowed, and
 * gemm_cuda_select.c chooses an algorithm for each range of rows. Ranges end at gdk_gemm_ranges; steps
 * pad their rows to these numbers or to multiples of 64 (gdk_cuda_rows_padded). */
#include "gemm_cuda_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const uint32_t gdk_gemm_ranges[GDK_GEMM_RANGES] = {16,  32,  64,   128,  192,  256,  320,  384, 448,
                                                   512, 768, 1024, 1536, 2112, 3072, 4224, 8448};

uint32_t gdk_cuda_rows_padded(uint32_t rows)
{
    if (rows > GDK_CUDA_SMALL_ROWS_MAX) {
        return (rows + 63) / 64 * 64;
    }
    return rows == 0 ? 0 : gdk_gemm_ranges[gdk_gemm_range_of(rows)];
}

size_t gdk_gemm_range_of(uint32_t rows)
{
    size_t i = 0;
    while (i + 1 < GDK_GEMM_RANGES && gdk_gemm_ranges[i] < rows) {
        i++;
    }
    return i;
}

bool gdk_gemm_refused(struct gdk_cuda_gemm *g, cublasStatus_t status, const char *call)
{
    if (status == CUBLAS_STATUS_SUCCESS) {
        return false;
    }
    snprintf(g->why, sizeof g->why, "%s: %s", call, g->lt.cublasLtGetStatusString(status));
    return true;
}

/* ---- start and end ---- */

static int open_handle(struct gdk_cuda_gemm *g, struct gd_err *err)
{
    struct gdk_cublaslt *lt = &g->lt;
    size_t workspace = GDK_GEMM_WORKSPACE_BYTES;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE; /* a mask: no split-K */
    if (gdk_gemm_refused(g, lt->cublasLtCreate(&g->handle), "cublasLtCreate") ||
        gdk_gemm_refused(g, lt->cublasLtMatmulPreferenceCreate(&g->preference),
                         "cublasLtMatmulPreferenceCreate") ||
        gdk_gemm_refused(g,
                         lt->cublasLtMatmulPreferenceSetAttribute(
                             g->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                             sizeof workspace),
                         "workspace") ||
        gdk_gemm_refused(g,
                         lt->cublasLtMatmulPreferenceSetAttribute(
                             g->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                             sizeof schemes),
                         "reduction scheme")) {
        return gd_err_set(err, GD_EBACKEND, "cuBLASLt cannot be used (%s)", g->why);
    }
    if (cudaMalloc(&g->workspace, workspace) != cudaSuccess) {
        cudaGetLastError(); /* it is told here, and must not be told by the next launch */
        return gd_err_set(err, GD_ENOMEM, "no device memory for cuBLASLt's workspace of %zu MiB",
                          workspace / GD_MIB);
    }
    return GD_OK;
}

int gdk_cuda_gemm_open(struct gdk_cuda_gemm **out, cudaStream_t stream,
                       const struct gdk_cuda_gemm_options *opt, struct gd_err *err)
{
    struct gdk_cuda_gemm *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the matrix products");
    }
    g->stream = stream;
    g->opt = *opt;
    int rc = gdk_cublaslt_load(&g->lt, err);
    rc = rc != GD_OK ? rc : open_handle(g, err);
    if (rc != GD_OK) {
        gdk_cuda_gemm_close(g);
        return rc;
    }
    *out = g;
    return GD_OK;
}

static void shape_free(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s)
{
    if (s->op != NULL) {
        g->lt.cublasLtMatmulDescDestroy(s->op);
    }
    cublasLtMatrixLayout_t layouts[] = {s->w, s->a, s->out};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        if (layouts[i] != NULL) {
            g->lt.cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    free(s);
}

void gdk_cuda_gemm_close(struct gdk_cuda_gemm *g)
{
    if (g == NULL) {
        return;
    }
    for (struct gdk_gemm_shape *s = g->shapes, *next = NULL; s != NULL; s = next) {
        next = s->next;
        shape_free(g, s);
    }
    if (g->preference != NULL) {
        g->lt.cublasLtMatmulPreferenceDestroy(g->preference);
    }
    if (g->handle != NULL) {
        g->lt.cublasLtDestroy(g->handle);
    }
    if (g->workspace != NULL) {
        cudaFree(g->workspace);
    }
    free(g);
}

const char *gdk_cuda_gemm_why(const struct gdk_cuda_gemm *g)
{
    return g->why;
}

void gdk_cuda_gemm_stats(const struct gdk_cuda_gemm *g, struct gdk_cuda_gemm_stats *out)
{
    *out = g->stats;
}

/* ---- shapes ---- */

static bool set_op(struct gdk_cuda_gemm *g, cublasLtMatmulDesc_t op,
                   cublasLtMatmulDescAttributes_t attribute, const void *value, size_t size,
                   const char *what)
{
    return !gdk_gemm_refused(g, g->lt.cublasLtMatmulDescSetAttribute(op, attribute, value, size),
                             what);
}

static bool describe_op(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s)
{
    cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = s->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cudaDataType_t bias = CUDA_R_16BF;
    if (gdk_gemm_refused(g, g->lt.cublasLtMatmulDescCreate(&s->op, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                         "cublasLtMatmulDescCreate") ||
        !set_op(g, s->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed, "TRANSA") ||
        !set_op(g, s->op, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain, "TRANSB") ||
        !set_op(g, s->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, "EPILOGUE")) {
        return false;
    }
    if (s->has_bias && !set_op(g, s->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias,
                               "BIAS_DATA_TYPE")) {
        return false;
    }
    if (!g->opt.fp8) {
        return true;
    }
    cublasLtMatmulMatrixScale_t per_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    int8_t fast = g->opt.fast_accum;
    return set_op(g, s->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &per_row, sizeof per_row,
                  "one scale a row of the weights") &&
           set_op(g, s->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &per_row, sizeof per_row,
                  "one scale a row of the activations") &&
           set_op(g, s->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast, "FAST_ACCUM");
}

static bool describe(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s)
{
    struct gdk_cublaslt *lt = &g->lt;
    cudaDataType_t in = g->opt.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    return describe_op(g, s) &&
           !gdk_gemm_refused(g,
                             lt->cublasLtMatrixLayoutCreate(&s->w, in, s->k, s->n, (int64_t)s->k),
                             "layout of the weights") &&
           !gdk_gemm_refused(g, lt->cublasLtMatrixLayoutCreate(&s->a, in, s->k, 16, (int64_t)s->k),
                             "layout of the activations") &&
           !gdk_gemm_refused(
               g, lt->cublasLtMatrixLayoutCreate(&s->out, CUDA_R_16BF, s->n, 16, (int64_t)s->n),
               "layout of the result");
}

int gdk_cuda_gemm_plan(struct gdk_cuda_gemm *g, struct gdk_cuda_matrix *w, struct gd_err *err)
{
    for (struct gdk_gemm_shape *s = g->shapes; s != NULL; s = s->next) {
        if (s->n == w->n && s->k == w->k && s->has_bias == (w->bias != NULL)) {
            w->shape = s;
            return GD_OK;
        }
    }
    struct gdk_gemm_shape *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for a product of %u x %u", w->n, w->k);
    }
    s->n = w->n;
    s->k = w->k;
    s->has_bias = w->bias != NULL;
    if (!describe(g, s)) {
        shape_free(g, s);
        return gd_err_set(err, GD_EBACKEND, "cuBLASLt cannot multiply by %u x %u (%s)", w->n, w->k,
                          g->why);
    }
    s->next = g->shapes;
    g->shapes = s;
    w->shape = s;
    return GD_OK;
}

bool gdk_gemm_set_rows(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s, uint32_t rows)
{
    uint64_t cols = rows;
    cublasLtMatrixLayout_t layouts[] = {s->a, s->out};
    for (size_t i = 0; i < 2; i++) {
        if (gdk_gemm_refused(g,
                             g->lt.cublasLtMatrixLayoutSetAttribute(
                                 layouts[i], CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols),
                             "rows")) {
            return false;
        }
    }
    return true;
}

bool gdk_gemm_set_pointers(struct gdk_cuda_gemm *g, struct gdk_gemm_shape *s,
                           const struct gdk_cuda_matrix *w, const float *scales)
{
    const void *bias = w->bias, *of_w = w->scales, *of_a = scales;
    if (s->has_bias &&
        !set_op(g, s->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias, "bias")) {
        return false;
    }
    return !g->opt.fp8 || (set_op(g, s->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &of_w,
                                  sizeof of_w, "scales of the weights") &&
                           set_op(g, s->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &of_a,
                                  sizeof of_a, "scales of the activations"));
}

cudaError_t gdk_gemm_run_with(struct gdk_cuda_gemm *g, uint32_t rows, const void *a,
                              const float *scales, const struct gdk_cuda_matrix *w, gdk_bf16 *out,
                              const cublasLtMatmulAlgo_t *algo)
{
    struct gdk_gemm_shape *s = w->shape;
    const float one = 1.0f, zero = 0.0f;
    if (!gdk_gemm_set_rows(g, s, rows) || !gdk_gemm_set_pointers(g, s, w, scales) ||
        gdk_gemm_refused(g,
                         g->lt.cublasLtMatmul(g->handle, s->op, &one, w->data, s->w, a, s->a, &zero,
                                              out, s->out, out, s->out, algo, g->workspace,
                                              GDK_GEMM_WORKSPACE_BYTES, g->stream),
                         "cublasLtMatmul")) {
        return cudaErrorUnknown;
    }
    return cudaSuccess;
}

cudaError_t gdk_cuda_gemm_run(struct gdk_cuda_gemm *g, uint32_t rows, const void *a,
                              const float *scales, const struct gdk_cuda_matrix *w, gdk_bf16 *out)
{
    struct gdk_gemm_shape *s = w->shape;
    g->why[0] = '\0';
    if (!s->selected) {
        snprintf(g->why, sizeof g->why, "no algorithm was selected for %u x %u", s->n, s->k);
        return cudaErrorUnknown;
    }
    return gdk_gemm_run_with(g, rows, a, scales, w, out, &s->algo[gdk_gemm_range_of(rows)]);
}
