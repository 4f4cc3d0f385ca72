// cublaslt.cpp - the calls of cuBLASLt that Guardian makes, on a CPU.
//
// It does exactly one thing: D (bf16, column-major) = A^T B (+ bias of D's rows), both bf16, or both
// e4m3 with scales, fp32 sums; and it checks what it is given as far as the documentation says what is
// allowed. It proves that our side is consistent: types, sizes, strides, alignment, pointers, scales,
// the choice of algorithms. It does not prove what cuBLASLt itself does: which attributes a release
// accepts, what its heuristic offers, how it rounds. Only a GPU does.
//
// The algorithms differ in the order of their sums, see simt.h. A row's sums are made once for all rows
// with the same bytes: the start-up trials repeat few rows many times.
#include <cublasLt.h>

#include "simt_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <unordered_map>
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

// ---- the product ----

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

float number(const product &p, const void *from, size_t i)
{
    uint32_t bits;
    float x;
    if (!p.fp8) {
        bits = (uint32_t)((const uint16_t *)from)[i] << 16;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    uint32_t e4m3 = ((const uint8_t *)from)[i];
    if ((e4m3 & 0x7fu) == 0x7fu) {
        return __builtin_nanf("");
    }
    uint32_t exponent = e4m3 >> 3 & 0xfu, mantissa = e4m3 & 7u;
    x = exponent == 0 ? (float)mantissa * 0x1p-9f : 0.0f;
    if (exponent > 0) {
        bits = (exponent + 127 - 7) << 23 | mantissa << 20;
        memcpy(&x, &bits, sizeof x);
    }
    return e4m3 & 0x80u ? -x : x;
}

const uint32_t COLS = 16, ROWS = 6;
typedef float vec __attribute__((vector_size(4 * COLS)));

// sums[r][0 .. COLS) += x[r][i] * w[i] over i = first, first + step, ..., below last, in this order.
SIMT_FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
add_products(float *const *sums, const float *const *x, const float *w, uint32_t first,
             uint32_t last, uint32_t step)
{
    vec s[ROWS];
    for (uint32_t r = 0; r < ROWS; r++) {
        memcpy(&s[r], sums[r], sizeof s[r]);
    }
    for (uint32_t i = first; i < last; i += step) {
        vec y;
        memcpy(&y, w + (size_t)i * COLS, sizeof y);
        for (uint32_t r = 0; r < ROWS; r++) {
            s[r] += x[r][i] * y;
        }
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        memcpy(sums[r], &s[r], sizeof s[r]);
    }
}

// The order of a row's sums.
enum order { IN_ORDER, EVEN_THEN_ODD, IN_FOUR };

order order_of(const product &p, uint32_t row)
{
    bool odd = p.kind == SIMT_ALGO_HALVES || (p.kind == SIMT_ALGO_FEW_ROWS && p.rows < 64) ||
               (p.kind == SIMT_ALGO_ODD_ROWS && row % 16 >= 8) ||
               (p.kind == SIMT_ALGO_LAST_TILE && row >= p.rows / 64 * 64);
    return p.kind == SIMT_ALGO_SPLIT ? IN_FOUR : odd ? EVEN_THEN_ODD : IN_ORDER;
}

// A row of b that is unlike all before it.
struct distinct {
    uint32_t row;
    order o;
    std::vector<float> x, sums; // [k], [n]
};

// Sums of up to ROWS rows with one panel of COLS columns of the weights.
void sum_panel(const product &p, distinct *const *rows, uint32_t n_rows, const float *w,
               uint32_t col)
{
    float zeros[ROWS][COLS] = {}, part[ROWS][COLS];
    float *to[ROWS];
    const float *x[ROWS];
    uint32_t quarter = (p.k + 3) / 4;
    for (uint32_t r = 0; r < ROWS; r++) {
        x[r] = rows[r < n_rows ? r : 0]->x.data();
        to[r] = part[r];
    }
    uint32_t parts = rows[0]->o == IN_FOUR ? 4 : rows[0]->o == EVEN_THEN_ODD ? 2 : 1;
    for (uint32_t i = 0; i < parts; i++) {
        memset(part, 0, sizeof part);
        if (parts == 4) {
            uint32_t last = (i + 1) * quarter < p.k ? (i + 1) * quarter : p.k;
            add_products(to, x, w, i * quarter, last, 1);
        } else {
            add_products(to, x, w, i, p.k, parts);
        }
        for (uint32_t r = 0; r < n_rows; r++) {
            for (uint32_t j = 0; j < COLS; j++) {
                zeros[r][j] = i == 0 ? part[r][j] : zeros[r][j] + part[r][j];
            }
        }
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t width = p.n - col < COLS ? p.n - col : COLS;
        memcpy(&rows[r]->sums[col], zeros[r], width * sizeof(float));
    }
}

void sum_all(const product &p, std::vector<std::unique_ptr<distinct>> &all)
{
    std::vector<distinct *> of[3];
    for (auto &d : all) {
        of[d->o].push_back(d.get());
    }
    std::vector<float> w((size_t)p.k * COLS);
    for (uint32_t col = 0; col < p.n; col += COLS) {
        for (uint32_t j = 0; j < COLS; j++) {
            for (uint32_t i = 0; i < p.k; i++) {
                w[(size_t)i * COLS + j] =
                    col + j < p.n ? number(p, p.a, (size_t)(col + j) * (size_t)p.lda + i) : 0.0f;
            }
        }
        for (auto &rows : of) {
            for (size_t i = 0; i < rows.size(); i += ROWS) {
                size_t left = rows.size() - i;
                sum_panel(p, &rows[i], (uint32_t)(left < ROWS ? left : ROWS), w.data(), col);
            }
        }
    }
}

uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fff;
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void finish_row(const product &p, uint32_t row, const float *sums)
{
    uint16_t *d = p.d + (size_t)row * (size_t)p.ldd;
    float of_b = p.scales[1] == NULL ? 1.0f : p.scales[1][p.outer ? row : 0];
    for (uint32_t j = 0; j < p.n; j++) {
        float of_a = p.scales[0] == NULL ? 1.0f : p.scales[0][p.outer ? j : 0];
        float x = p.fp8 ? sums[j] * of_a * of_b : sums[j];
        if (p.bias != NULL) {
            uint32_t bits = (uint32_t)p.bias[j] << 16;
            float bias;
            memcpy(&bias, &bits, sizeof bias);
            x += bias;
        }
        d[j] = bf16_of(x);
    }
}

// Whether all that a product reads and writes is device memory; why not, if not.
const char *not_there(const product &p, size_t workspace_bytes)
{
    size_t in = p.fp8 ? 1 : 2;
    if (!simt_is_device(p.a, ((size_t)p.lda * (p.n - 1) + p.k) * in)) {
        return "A";
    }
    if (!simt_is_device(p.b, ((size_t)p.ldb * (p.rows - 1) + p.k) * in)) {
        return "B";
    }
    if (!simt_is_device(p.d, ((size_t)p.ldd * (p.rows - 1) + p.n) * sizeof *p.d)) {
        return "D";
    }
    if (p.bias != NULL && !simt_is_device(p.bias, p.n * sizeof *p.bias)) {
        return "the bias";
    }
    if (p.scales[0] != NULL && !simt_is_device(p.scales[0], (p.outer ? p.n : 1) * sizeof(float))) {
        return "A's scales";
    }
    if (p.scales[1] != NULL &&
        !simt_is_device(p.scales[1], (p.outer ? p.rows : 1) * sizeof(float))) {
        return "B's scales";
    }
    return workspace_bytes > 0 && !simt_is_device(p.workspace, workspace_bytes) ? "the workspace"
                                                                                : NULL;
}

cudaError_t multiply(const product &p, size_t workspace_bytes)
{
    const char *missing = not_there(p, workspace_bytes);
    if (missing != NULL) {
        fprintf(stderr, "simt: cuBLASLt: %s is not device memory any more\n", missing);
        return cudaErrorIllegalAddress;
    }
    if (workspace_bytes > 0) { // whoever else keeps something there loses it
        memset(p.workspace, 0xff, workspace_bytes);
    }
    size_t row_bytes = (size_t)p.k * (p.fp8 ? 1 : 2), step = (size_t)p.ldb * (p.fp8 ? 1 : 2);
    const unsigned char *b = (const unsigned char *)p.b;
    std::vector<std::unique_ptr<distinct>> all;
    std::unordered_multimap<uint64_t, size_t> known;
    std::vector<size_t> of(p.rows);
    for (uint32_t r = 0; r < p.rows; r++) {
        order o = order_of(p, r);
        uint64_t hash = (uint64_t)o;
        for (size_t i = 0; i < row_bytes; i += 8) { // k is a multiple of 8
            uint64_t word;
            memcpy(&word, b + r * step + i, sizeof word);
            hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
            hash ^= hash >> 29;
        }
        size_t same = all.size();
        auto range = known.equal_range(hash);
        for (auto it = range.first; it != range.second && same == all.size(); ++it) {
            const distinct &d = *all[it->second];
            if (d.o == o && memcmp(b + d.row * step, b + r * step, row_bytes) == 0) {
                same = it->second;
            }
        }
        if (same == all.size()) {
            known.emplace(hash, same);
            all.emplace_back(new distinct{r, o, std::vector<float>(p.k), std::vector<float>(p.n)});
            for (uint32_t i = 0; i < p.k; i++) {
                all[same]->x[i] = number(p, b + r * step, i);
            }
        }
        of[r] = same;
    }
    sum_all(p, all);
    for (uint32_t r = 0; r < p.rows; r++) {
        finish_row(p, r, all[of[r]]->sums.data());
    }
    simt_count.matmuls++;
    return cudaSuccess;
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
    const char *missing = not_there(p, workspaceSizeInBytes);
    if (missing != NULL) {
        return wrong(CUBLAS_STATUS_INVALID_VALUE, "%s is not device memory over its whole size",
                     missing);
    }
    return status_of(simt_push(stream, [p, need]() -> cudaError_t { return multiply(p, need); }));
}
