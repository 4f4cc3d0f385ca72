/* cublaslt.h - the calls of cuBLASLt that the products make, found at run time.
 *
 * The library has half a gigabyte: a server that never uses a GPU must neither need nor load it. */
#ifndef GUARDIAN_CUBLASLT_H
#define GUARDIAN_CUBLASLT_H

#include "guardian/status.h"

#include <cublasLt.h>

#define GDK_CUBLASLT_CALLS(X)                                                                      \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtGetStatusString)                                                                     \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatrixLayoutSetAttribute)                                                            \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmulAlgoConfigGetAttribute)                                                        \
    X(cublasLtMatmul)

struct gdk_cublaslt {
#define X(call) __typeof__(&call) call;
    GDK_CUBLASLT_CALLS(X)
#undef X
};

/* Fills *out; the library stays loaded. GD_EBACKEND with a sentence that says what is missing. */
int gdk_cublaslt_load(struct gdk_cublaslt *out, struct gd_err *err);

#endif
