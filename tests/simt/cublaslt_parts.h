/* cublaslt_parts.h - a product as cublaslt.cpp describes it and cublaslt_sums.cpp computes it. */
#ifndef GUARDIAN_SIMT_CUBLASLT_PARTS_H
#define GUARDIAN_SIMT_CUBLASLT_PARTS_H

#include "simt_internal.h"

struct product {
    uint32_t n, k, rows;
    bool fp8;
    const void *a, *b; // [n, k], [rows, k]
    uint16_t *d;       // [rows, n]
    int64_t lda, ldb, ldd;
    const uint16_t *bias;
    const float *scales[2];
    bool outer;
    uint64_t kind;
    void *workspace;
};

/* What of a product's memory is not device memory over its whole size; NULL: nothing. */
const char *product_lacks(const product &p, size_t workspace_bytes);

/* Computes it. */
cudaError_t product_run(const product &p, size_t workspace_bytes);

#endif
