// cublaslt.cpp - the calls of cuBLASLt that Guardian makes, on a CPU.
//
// It does exactly one thing: D (bf16, column-major) = A^T B (+ bias of D's rows), both bf16, or both
// e4m3 with scales, fp32 sums; and it checks what it is given as far as the documentation says what is
// allowed. It proves that our side is consistent: types, sizes, strides, alignment, pointers, scales,
// the choice of algorithms. It does not prove what cuBLASLt itself does: which attributes a release
// accepts, what its heuristic offers, how it rounds. Only a GPU does.
//
// The algorithms differ in the order of their sums, see simt.h.
#include <cublasLt.h>

#include "cublaslt_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

uint32_t simt_handles, simt_descriptors;

struct cublasLtContext {
    uint64_t magic;
};

namespace
{
enum : uint64_t { HANDLE = 0x51a0, DESC, LAYOUT, PREFERENCE, ALGO };
const size_t WIDE_WORKSPACE = 1 << 20;

struct op_desc {
    uint64_t magic;
    int32_t transposed[2], epilogue, bias_type;
    const void *bias;
    const float *scales[2];
    int32_t scale_mode[2];
};
struct layout {
    uint64_t magic;
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct preference {
    uint64_t magic;
    uint64_t workspace;
    uint32_t schemes;
};
struct algorithm { // what a cublasLtMatmulAlgo_t holds
    uint64_t magic;
    uint64_t kind, type, workspace;
};

const char *const NAMES[SIMT_ALGO_COUNT] = {"plain",    "wide",     "halves", "last_tile",
                                            "few_rows", "odd_rows", "split"};
const simt_algo DEFAULT_OFFER[] = {SIMT_ALGO_SPLIT,  SIMT_ALGO_LAST_TILE, SIMT_ALGO_FEW_ROWS,
                                   SIMT_ALGO_HALVES, SIMT_ALGO_PLAIN,     SIMT_ALGO_ODD_ROWS,
                                   SIMT_ALGO_WIDE};
std::vector<simt_algo> offer(DEFAULT_OFFER, DEFAULT_OFFER + SIMT_ALGO_COUNT);

cublasStatus_t status_of(cudaError_t rc)
{
    switch ((int)rc) {
    case cudaSuccess:
        return CUBLAS_STATUS_SUCCESS;
    case cudaErrorMemoryAllocation:
        return CUBLAS_STATUS_ALLOC_FAILED;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
        return CUBLAS_STATUS_NOT_INITIALIZED;
    default:
        return CUBLAS_STATUS_EXECUTION_FAILED;
    }
}

// A mistake of the caller's: the status, and a line that says what.
__attribute__((format(printf, 2, 3))) cublasStatus_t wrong(cublasStatus_t status,
                                                           const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("simt: cuBLASLt: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (%s)\n", cublasLtGetStatusName(status));
    va_end(args);
    return status;
}

template <typename T, typename U> T *made(U **out, uint64_t magic)
{
    T *t = new T();
    t->magic = magic;
    *out = reinterpret_cast<U *>(t);
    return t;
}

template <typename T> bool is(const void *p, uint64_t magic)
{
    return p != NULL && static_cast<const T *>(p)->magic == magic;
}

template <typename T>
cublasStatus_t destroyed(void *p, uint64_t magic, uint32_t *count, cudaError_t rc)
{
    if (!is<T>(p, magic)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "destroying what is none");
    }
    T *t = static_cast<T *>(p);
    t->magic = 0;
    delete t;
    --*count;
    return status_of(rc);
}

// Copies an attribute of the size that it must have.
template <typename T> bool set(T *field, const void *buf, size_t nbytes)
{
    if (buf == NULL || nbytes != sizeof *field) {
        return false;
    }
    memcpy(field, buf, nbytes);
    return true;
}

bool has_fp8()
{
    return simt_now.major * 10 + simt_now.minor >= 89;
}

// ---- what is allowed ----

// Fills everything but the pointers of the matrices and the algorithm.
cublasStatus_t describe(const op_desc *op, const layout *a, const layout *b, const layout *c,
                        const layout *d, product *p)
{
    if (!is<op_desc>(op, DESC) || !is<layout>(a, LAYOUT) || !is<layout>(b, LAYOUT) ||
        !is<layout>(c, LAYOUT) || !is<layout>(d, LAYOUT)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "a descriptor is missing or destroyed");
    }
    if (op->transposed[0] != CUBLAS_OP_T || op->transposed[1] != CUBLAS_OP_N) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "not A transposed, B not");
    }
    p->fp8 = a->type == CUDA_R_8F_E4M3;
    if (a->type != b->type || (a->type != CUDA_R_16BF && !p->fp8) || d->type != CUDA_R_16BF ||
        c->type != CUDA_R_16BF) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "types %d x %d, %d -> %d", a->type, b->type,
                     c->type, d->type);
    }
    if (p->fp8 && !has_fp8()) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "e4m3 on capability %d.%d", simt_now.major,
                     simt_now.minor);
    }
    if (a->rows != b->rows || d->rows != a->cols || d->cols != b->cols || c->rows != d->rows ||
        c->cols != d->cols || c->ld != d->ld || a->rows == 0 || a->cols == 0 || b->cols == 0 ||
        (a->rows | a->cols | b->cols) >> 31 != 0) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE,
                     "A %llu x %llu, B %llu x %llu, C %llu x %llu, D %llu x %llu do not fit",
                     (unsigned long long)a->rows, (unsigned long long)a->cols,
                     (unsigned long long)b->rows, (unsigned long long)b->cols,
                     (unsigned long long)c->rows, (unsigned long long)c->cols,
                     (unsigned long long)d->rows, (unsigned long long)d->cols);
    }
    if (a->ld < (int64_t)a->rows || b->ld < (int64_t)b->rows || d->ld < (int64_t)d->rows) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension is less than the rows");
    }
    int64_t grain = p->fp8 ? 16 : 8;
    if (a->ld % grain != 0 || b->ld % grain != 0 || d->ld % 8 != 0 ||
        (int64_t)a->rows % grain != 0 || (int64_t)a->cols % grain != 0) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "rows that are not a multiple of 16 bytes");
    }
    p->k = (uint32_t)a->rows;
    p->n = (uint32_t)a->cols;
    p->rows = (uint32_t)b->cols;
    p->lda = a->ld;
    p->ldb = b->ld;
    p->ldd = d->ld;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t describe_scales(const op_desc *op, product *p)
{
    if (op->scale_mode[0] != op->scale_mode[1]) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "A and B have scales of different kinds");
    }
    p->outer = op->scale_mode[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    if (p->outer && (!p->fp8 || simt_now.major != 9)) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "a scale a row: only e4m3 on capability 9.0");
    }
    if (!p->fp8 && (op->scales[0] != NULL || op->scales[1] != NULL)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "scales of bf16 matrices");
    }
    if (p->outer && (op->scales[0] == NULL || op->scales[1] == NULL)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "a scale a row, but no scales");
    }
    p->scales[0] = op->scales[0];
    p->scales[1] = op->scales[1];
    p->bias = NULL;
    if (op->epilogue == CUBLASLT_EPILOGUE_DEFAULT) {
        return CUBLAS_STATUS_SUCCESS;
    }
    if (op->epilogue != CUBLASLT_EPILOGUE_BIAS) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "epilogue %d", op->epilogue);
    }
    if (op->bias_type != -1 && op->bias_type != CUDA_R_16BF) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "a bias of type %d", op->bias_type);
    }
    if (op->bias == NULL) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "a bias, but no pointer to it");
    }
    p->bias = (const uint16_t *)op->bias;
    return CUBLAS_STATUS_SUCCESS;
}

bool aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

algorithm *algo_of(cublasLtMatmulAlgo_t *a)
{
    static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "it holds one");
    return reinterpret_cast<algorithm *>(a);
}
} // namespace

void simt_matmul_offer(const enum simt_algo *algos, int n)
{
    simt_call call(false);
    if (algos == NULL) {
        offer.assign(DEFAULT_OFFER, DEFAULT_OFFER + SIMT_ALGO_COUNT);
    } else {
        offer.assign(algos, algos + n);
    }
}

void simt_matmul_offer_names(const char *names)
{
    offer.assign(DEFAULT_OFFER, DEFAULT_OFFER + SIMT_ALGO_COUNT);
    if (names == NULL) {
        return;
    }
    offer.clear();
    for (const char *p = names; *p != '\0';) {
        size_t len = strcspn(p, ","), i = 0;
        while (i < SIMT_ALGO_COUNT && (strlen(NAMES[i]) != len || strncmp(NAMES[i], p, len) != 0)) {
            i++;
        }
        if (i == SIMT_ALGO_COUNT) {
            fprintf(stderr, "simt: GUARDIAN_SIMT_ALGOS: no algorithm %.*s\n", (int)len, p);
            abort();
        }
        offer.push_back((simt_algo)i);
        p += len + (p[len] == ',');
    }
}

// ---- handles and descriptors ----

cublasStatus_t cublasLtCreate(cublasLtHandle_t *lightHandle)
{
    simt_call call;
    if (call.rc == cudaSuccess) {
        made<cublasLtContext>(lightHandle, HANDLE);
        simt_handles++;
    }
    return status_of(call.rc);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t lightHandle)
{
    simt_call call;
    return destroyed<cublasLtContext>(lightHandle, HANDLE, &simt_handles, call.rc);
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

#define STATUSES(X)                                                                                \
    X(CUBLAS_STATUS_SUCCESS, "success")                                                            \
    X(CUBLAS_STATUS_NOT_INITIALIZED, "the library was not initialized")                            \
    X(CUBLAS_STATUS_ALLOC_FAILED, "an allocation failed")                                          \
    X(CUBLAS_STATUS_INVALID_VALUE, "an unsupported value or parameter was passed")                 \
    X(CUBLAS_STATUS_ARCH_MISMATCH, "the device lacks a feature that is needed")                    \
    X(CUBLAS_STATUS_MAPPING_ERROR, "an access to GPU memory failed")                               \
    X(CUBLAS_STATUS_EXECUTION_FAILED, "the GPU program failed to execute")                         \
    X(CUBLAS_STATUS_INTERNAL_ERROR, "an internal operation failed")                                \
    X(CUBLAS_STATUS_NOT_SUPPORTED, "the functionality is not supported")                           \
    X(CUBLAS_STATUS_LICENSE_ERROR, "a license is missing")

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
#define X(code, text)                                                                              \
    case code:                                                                                     \
        return #code;
        STATUSES(X)
#undef X
    }
    return "unknown status";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    switch (status) {
#define X(code, text)                                                                              \
    case code:                                                                                     \
        return text;
        STATUSES(X)
#undef X
    }
    return "unknown status";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *matmulDesc,
                                        cublasComputeType_t computeType, cudaDataType_t scaleType)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    if (computeType != CUBLAS_COMPUTE_32F || scaleType != CUDA_R_32F) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "only fp32 sums and scales");
    }
    op_desc *op = made<op_desc>(matmulDesc, DESC);
    op->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    op->bias_type = -1;
    simt_descriptors++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t matmulDesc)
{
    simt_call call(false);
    return destroyed<op_desc>(matmulDesc, DESC, &simt_descriptors, call.rc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t matmulDesc,
                                              cublasLtMatmulDescAttributes_t attr, const void *buf,
                                              size_t sizeInBytes)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    if (!is<op_desc>(matmulDesc, DESC)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "an attribute of no descriptor");
    }
    op_desc *op = reinterpret_cast<op_desc *>(matmulDesc);
    bool ok = false;
    int8_t fast = 0;
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        ok = set(&op->transposed[0], buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        ok = set(&op->transposed[1], buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        ok = set(&op->epilogue, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        ok = set(&op->bias, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        ok = set(&op->bias_type, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        ok = set(&op->scales[0], buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        ok = set(&op->scales[1], buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
        ok = set(&op->scale_mode[0], buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        ok = set(&op->scale_mode[1], buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
        ok = set(&fast, buf, sizeInBytes); // sums are fp32 in any case
        break;
    default:
        break;
    }
    return ok ? CUBLAS_STATUS_SUCCESS
              : wrong(CUBLAS_STATUS_INVALID_VALUE, "attribute %d of %zu bytes of a product",
                      (int)attr, sizeInBytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *matLayout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    layout *l = made<layout>(matLayout, LAYOUT);
    l->type = type;
    l->rows = rows;
    l->cols = cols;
    l->ld = ld;
    simt_descriptors++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t matLayout)
{
    simt_call call(false);
    return destroyed<layout>(matLayout, LAYOUT, &simt_descriptors, call.rc);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t matLayout,
                                                cublasLtMatrixLayoutAttribute_t attr,
                                                const void *buf, size_t sizeInBytes)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    if (!is<layout>(matLayout, LAYOUT)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "an attribute of no layout");
    }
    layout *l = reinterpret_cast<layout *>(matLayout);
    bool ok = false;
    int32_t order = CUBLASLT_ORDER_COL;
    switch (attr) {
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        ok = set(&order, buf, sizeInBytes) && order == CUBLASLT_ORDER_COL;
        break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        ok = set(&l->rows, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        ok = set(&l->cols, buf, sizeInBytes);
        break;
    case CUBLASLT_MATRIX_LAYOUT_LD:
        ok = set(&l->ld, buf, sizeInBytes);
        break;
    default:
        break;
    }
    return ok ? CUBLAS_STATUS_SUCCESS
              : wrong(CUBLAS_STATUS_INVALID_VALUE, "attribute %d of %zu bytes of a layout",
                      (int)attr, sizeInBytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    made<preference>(pref, PREFERENCE)->schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
    simt_descriptors++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref)
{
    simt_call call(false);
    return destroyed<preference>(pref, PREFERENCE, &simt_descriptors, call.rc);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *buf, size_t sizeInBytes)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    if (!is<preference>(pref, PREFERENCE)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "an attribute of no preference");
    }
    preference *p = reinterpret_cast<preference *>(pref);
    bool ok = false;
    uint32_t alignment;
    switch (attr) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        ok = set(&p->workspace, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        ok = set(&p->schemes, buf, sizeInBytes);
        break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        ok = set(&alignment, buf, sizeInBytes);
        break;
    default:
        break;
    }
    return ok ? CUBLAS_STATUS_SUCCESS
              : wrong(CUBLAS_STATUS_INVALID_VALUE, "attribute %d of %zu bytes of a preference",
                      (int)attr, sizeInBytes);
}

// ---- algorithms ----

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t operationDesc, cublasLtMatrixLayout_t Adesc,
    cublasLtMatrixLayout_t Bdesc, cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
    cublasLtMatmulPreference_t preference_, int requestedAlgoCount,
    cublasLtMatmulHeuristicResult_t heuristicResultsArray[], int *returnAlgoCount)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    *returnAlgoCount = 0;
    const preference *pref = reinterpret_cast<const preference *>(preference_);
    if (!is<cublasLtContext>(lightHandle, HANDLE) || !is<preference>(pref, PREFERENCE) ||
        requestedAlgoCount <= 0) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE,
                     "heuristic: no handle, no preference, or no room");
    }
    product p = {};
    const op_desc *op = reinterpret_cast<const op_desc *>(operationDesc);
    cublasStatus_t status = describe(
        op, reinterpret_cast<const layout *>(Adesc), reinterpret_cast<const layout *>(Bdesc),
        reinterpret_cast<const layout *>(Cdesc), reinterpret_cast<const layout *>(Ddesc), &p);
    status = status == CUBLAS_STATUS_SUCCESS ? describe_scales(op, &p) : status;
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    int n = 0;
    for (size_t i = 0; i < offer.size() && n < requestedAlgoCount; i++) {
        uint64_t workspace = offer[i] == SIMT_ALGO_WIDE    ? WIDE_WORKSPACE
                             : offer[i] == SIMT_ALGO_SPLIT ? (uint64_t)p.n * p.rows * sizeof(float)
                                                           : 0;
        if (workspace > pref->workspace ||
            (offer[i] == SIMT_ALGO_SPLIT &&
             (pref->schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == 0)) {
            continue;
        }
        cublasLtMatmulHeuristicResult_t *r = &heuristicResultsArray[n++];
        memset(r, 0, sizeof *r);
        *algo_of(&r->algo) = {ALGO, (uint64_t)offer[i], (uint64_t)p.fp8, workspace};
        r->workspaceSize = workspace;
        r->wavesCount = 1.0f;
    }
    *returnAlgoCount = n;
    return n > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attr,
                                                    void *buf, size_t sizeInBytes,
                                                    size_t *sizeWritten)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    const algorithm *a = reinterpret_cast<const algorithm *>(algo);
    if (!is<algorithm>(a, ALGO)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "an attribute of no algorithm");
    }
    int32_t value = 0;
    size_t nbytes = sizeof value;
    switch (attr) {
    case CUBLASLT_ALGO_CONFIG_ID:
        value = 60 + (int32_t)a->kind;
        break;
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
        value =
            a->kind == SIMT_ALGO_WIDE ? CUBLASLT_MATMUL_TILE_128x128 : CUBLASLT_MATMUL_TILE_64x64;
        break;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        value = a->kind == SIMT_ALGO_SPLIT ? 4 : 1;
        break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        value = a->kind == SIMT_ALGO_SPLIT ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                                           : CUBLASLT_REDUCTION_SCHEME_NONE;
        break;
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        value = CUBLASLT_MATMUL_STAGES_64x4;
        break;
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING:
    case CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION:
        break;
    case CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID:
    case CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID:
        nbytes = sizeof(uint16_t);
        break;
    default:
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "attribute %d of an algorithm", (int)attr);
    }
    if (sizeWritten != NULL) {
        *sizeWritten = nbytes;
    }
    if (sizeInBytes == 0 && sizeWritten != NULL) { // only the size was asked for
        return CUBLAS_STATUS_SUCCESS;
    }
    if (buf == NULL || sizeInBytes < nbytes) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "attribute %d of an algorithm in %zu bytes",
                     (int)attr, sizeInBytes);
    }
    memcpy(buf, &value, nbytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t computeDesc,
                              const void *alpha, const void *A, cublasLtMatrixLayout_t Adesc,
                              const void *B, cublasLtMatrixLayout_t Bdesc, const void *beta,
                              const void *C, cublasLtMatrixLayout_t Cdesc, void *D,
                              cublasLtMatrixLayout_t Ddesc, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspaceSizeInBytes, cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return status_of(call.rc);
    }
    if (!is<cublasLtContext>(lightHandle, HANDLE)) {
        return wrong(CUBLAS_STATUS_NOT_INITIALIZED, "no handle");
    }
    product p = {};
    const op_desc *op = reinterpret_cast<const op_desc *>(computeDesc);
    cublasStatus_t status = describe(
        op, reinterpret_cast<const layout *>(Adesc), reinterpret_cast<const layout *>(Bdesc),
        reinterpret_cast<const layout *>(Cdesc), reinterpret_cast<const layout *>(Ddesc), &p);
    status = status == CUBLAS_STATUS_SUCCESS ? describe_scales(op, &p) : status;
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    float one = 0.0f, zero = 1.0f;
    if (alpha == NULL || beta == NULL || C != D) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "no alpha or beta, or C is not D");
    }
    memcpy(&one, alpha, sizeof one);
    memcpy(&zero, beta, sizeof zero);
    if (one != 1.0f || zero != 0.0f) {
        return wrong(CUBLAS_STATUS_NOT_SUPPORTED, "alpha %g, beta %g", (double)one, (double)zero);
    }
    const algorithm *a = reinterpret_cast<const algorithm *>(algo);
    if (!is<algorithm>(a, ALGO) || a->type != (uint64_t)p.fp8) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "no algorithm, or one for other types");
    }
    size_t need = a->kind == SIMT_ALGO_SPLIT ? (size_t)p.n * p.rows * sizeof(float) : a->workspace;
    if (need > workspaceSizeInBytes) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "a workspace of %zu bytes, %zu are needed",
                     workspaceSizeInBytes, need);
    }
    p.a = A;
    p.b = B;
    p.d = static_cast<uint16_t *>(D);
    p.workspace = workspace;
    p.kind = a->kind;
    if (!aligned16(A) || !aligned16(B) || !aligned16(D) || !aligned16(p.bias) ||
        !aligned16(p.scales[0]) || !aligned16(p.scales[1]) || !aligned16(workspace)) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "a pointer is not aligned to 16 bytes");
    }
    const char *missing = product_lacks(p, workspaceSizeInBytes);
    if (missing != NULL) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "%s is not device memory over its whole size",
                     missing);
    }
    return status_of(
        simt_push(stream, [p, need]() -> cudaError_t { return product_run(p, need); }));
}
