/* gemm_cuda_select.c - which algorithms of cuBLASLt a server uses: only those that give a row the same
 * bits in every batch.
 *
 * cuBLASLt promises no such thing, so it is tried at start: one random input of BASE_ROWS rows is
 * repeated to the numbers of rows at both ends of a range, and an algorithm counts only if every row
 * that is looked at has the bits of its original. The first algorithm offered that keeps them over all
 * ranges is the shape's reference; in each range the fastest that agrees with it is used. Which one
 * that is may change from start to start; the bits do not. */
#include "gemm_cuda_parts.h"

#include <stdlib.h>
#include <string.h>

#define OFFERS 8      /* algorithms asked for, of each range */
#define BASE_ROWS 61u /* no divisor in common with a tile */
#define LOOKED_AT 64u /* rows whose bits are compared */
#define TIMED_RUNS 8
#define TIMINGS 3  /* the shortest counts */
#define GAIN 0.97f /* of the time so far: less is noise, and no reason to leave what came first */

/* What a trial works on: device memory for one shape, and the bits to compare with. */
struct trial {
    struct gdk_cuda_gemm *g;
    uint32_t rows_max;
    struct gdk_cuda_matrix w; /* of the shape under trial, random */
    void *a;                  /* [rows_max, k] */
    float *a_scales;          /* [rows_max] of FP8 */
    gdk_bf16 *out;            /* [rows_max, n] */
    gdk_bf16 *want;           /* [BASE_ROWS, n], pinned host memory */
    gdk_bf16 *got;            /* [LOOKED_AT, n], pinned host memory */
    cudaEvent_t begin, end;
    struct gd_err *err;
};

static int cuda_failed(struct trial *t, cudaError_t rc, const char *what)
{
    return rc == cudaSuccess
               ? GD_OK
               : gd_err_set(t->err, GD_EBACKEND, "%s: %s", what, cudaGetErrorString(rc));
}

/* ---- random matrices ---- */

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* A row whose products with another such row add up to nothing but what rounding leaves, so that any
 * other order of the sum shows: magnitudes far apart, and the second half is the first one again,
 * negated in one of the two matrices. Bits of bf16, or of e4m3. */
static void random_row(void *row, uint32_t k, bool fp8, bool negated, uint32_t *state)
{
    uint32_t half = k / 2;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t r = next_random(state);
        if (fp8) {
            gdk_e4m3 *out = row, sign = i >= half && negated ? 0x80u : 0;
            out[i] = i < half ? (gdk_e4m3)((r & 0x80u) | (0x08u + (r >> 8) % 0x70u))
                              : (gdk_e4m3)(out[i - half] ^ sign);
        } else {
            gdk_bf16 *out = row, sign = i >= half && negated ? 0x8000u : 0;
            uint32_t exponent = 119 + (r >> 16) % 16;
            out[i] = i < half ? (gdk_bf16)((r & 0x8000u) | exponent << 7 | (r & 0x7fu))
                              : (gdk_bf16)(out[i - half] ^ sign);
        }
    }
}

/* rows random rows of k, the first n_distinct of them again and again, with their scales. */
static int fill(struct trial *t, void *device, float *scales, uint32_t rows, uint32_t k,
                uint32_t n_distinct, bool negated)
{
    uint32_t seed = negated ? 2 : 1;
    bool fp8 = t->g->opt.fp8;
    size_t row_bytes = k * (fp8 ? sizeof(gdk_e4m3) : sizeof(gdk_bf16));
    char *host = malloc(row_bytes * n_distinct);
    float *host_scales = malloc(rows * sizeof *host_scales);
    cudaError_t rc = cudaSuccess;
    if (host == NULL || host_scales == NULL) {
        free(host);
        free(host_scales);
        return gd_err_set(t->err, GD_ENOMEM, "no memory to try the products");
    }
    for (uint32_t i = 0; i < n_distinct; i++) {
        random_row(host + i * row_bytes, k, fp8, negated, &seed);
    }
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t state = i % n_distinct + 1; /* all bits count: products of scales are not exact */
        host_scales[i] = 0.5f + (float)next_random(&state) * 0x1p-25f;
    }
    for (uint32_t at = 0; rc == cudaSuccess && at < rows; at += n_distinct) {
        size_t n = rows - at < n_distinct ? rows - at : n_distinct;
        rc = cudaMemcpyAsync((char *)device + at * row_bytes, host, n * row_bytes,
                             cudaMemcpyHostToDevice, t->g->stream);
    }
    if (rc == cudaSuccess) {
        rc = cudaMemcpyAsync(scales, host_scales, rows * sizeof *scales, cudaMemcpyHostToDevice,
                             t->g->stream);
    }
    cudaError_t waited = cudaStreamSynchronize(t->g->stream);
    free(host);
    free(host_scales);
    return cuda_failed(t, rc != cudaSuccess ? rc : waited, "trial data");
}

/* Memory of one shape's trial; freed by trial_end. */
static int trial_begin(struct trial *t, struct gdk_gemm_shape *s)
{
    size_t in = t->g->opt.fp8 ? sizeof(gdk_e4m3) : sizeof(gdk_bf16);
    size_t row = s->n * sizeof(gdk_bf16);
    t->w = (struct gdk_cuda_matrix){.n = s->n, .k = s->k, .shape = s};
    struct {
        void **at;
        size_t nbytes;
    } device[] = {
        {(void **)&t->w.data, (size_t)s->n * s->k * in},
        {(void **)&t->w.scales, s->n * sizeof(float)},
        {(void **)&t->w.bias, row},
        {(void **)&t->a, (size_t)t->rows_max * s->k * in},
        {(void **)&t->a_scales, t->rows_max * sizeof(float)},
        {(void **)&t->out, t->rows_max * row},
    };
    cudaError_t rc = cudaSuccess;
    for (size_t i = 0; i < sizeof device / sizeof device[0] && rc == cudaSuccess; i++) {
        rc = cudaMalloc(device[i].at, device[i].nbytes);
    }
    rc = rc != cudaSuccess ? rc : cudaMallocHost((void **)&t->want, BASE_ROWS * row);
    rc = rc != cudaSuccess ? rc : cudaMallocHost((void **)&t->got, LOOKED_AT * row);
    if (rc != cudaSuccess) {
        cudaGetLastError(); /* it is told here, and must not be told by the next launch */
        return gd_err_set(t->err, rc == cudaErrorMemoryAllocation ? GD_ENOMEM : GD_EBACKEND,
                          "no device memory to try products of %u x %u with %u rows: %s", s->n,
                          s->k, t->rows_max, cudaGetErrorString(rc));
    }
    int e = cuda_failed(t, cudaMemsetAsync(t->w.bias, 0x3d, row, t->g->stream), "trial memory");
    e = e != GD_OK ? e : fill(t, t->w.data, t->w.scales, s->n, s->k, s->n, false);
    return e != GD_OK ? e : fill(t, t->a, t->a_scales, t->rows_max, s->k, BASE_ROWS, true);
}

static void trial_end(struct trial *t)
{
    void *device[] = {t->w.data, t->w.scales, t->w.bias, t->a, t->a_scales, t->out};
    for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
        if (device[i] != NULL) {
            cudaFree(device[i]);
        }
    }
    if (t->want != NULL) {
        cudaFreeHost(t->want);
    }
    if (t->got != NULL) {
        cudaFreeHost(t->got);
    }
    t->w = (struct gdk_cuda_matrix){0};
    t->a = NULL;
    t->a_scales = NULL;
    t->out = t->want = t->got = NULL;
}

/* ---- one algorithm ---- */

/* Queues a product. False: the algorithm cannot, which is no failure of the trial. */
static bool run_trial(struct trial *t, uint32_t rows, const cublasLtMatmulAlgo_t *algo)
{
    return gdk_gemm_run_with(t->g, rows, t->a, t->a_scales, &t->w, t->out, algo) == cudaSuccess;
}

/* Row number i of the n that are looked at: the first, the last and others in between. */
static uint32_t looked_at(uint32_t i, uint32_t n, uint32_t rows)
{
    return n <= 1 ? 0 : (uint32_t)((uint64_t)i * (rows - 1) / (n - 1));
}

/* Whether the rows of the last product have the bits of their originals. */
static int compare_rows(struct trial *t, uint32_t rows, bool *equal)
{
    size_t row_bytes = t->w.n * sizeof(gdk_bf16);
    uint32_t n = rows < LOOKED_AT ? rows : LOOKED_AT;
    cudaError_t rc = cudaSuccess;
    for (uint32_t i = 0; i < n && rc == cudaSuccess; i++) {
        rc = cudaMemcpyAsync(t->got + (size_t)i * t->w.n,
                             t->out + (size_t)looked_at(i, n, rows) * t->w.n, row_bytes,
                             cudaMemcpyDeviceToHost, t->g->stream);
    }
    cudaError_t waited = cudaStreamSynchronize(t->g->stream);
    rc = rc != cudaSuccess ? rc : waited;
    *equal = rc == cudaSuccess;
    for (uint32_t i = 0; i < n && *equal; i++) {
        const gdk_bf16 *want = t->want + (size_t)(looked_at(i, n, rows) % BASE_ROWS) * t->w.n;
        *equal = memcmp(t->got + (size_t)i * t->w.n, want, row_bytes) == 0;
    }
    return cuda_failed(t, rc, "a trial product");
}

/* Whether algo gives the originals' bits with the fewest and with the most rows that steps of a range
 * are padded to. */
static int keeps_bits(struct trial *t, size_t range, const cublasLtMatmulAlgo_t *algo, bool *equal)
{
    uint32_t first = range == 0 ? 1 : gdk_gemm_ranges[range - 1] + 1;
    uint32_t ends[2] = {gdk_cuda_rows_padded(first), gdk_gemm_ranges[range]};
    int rc = GD_OK;
    *equal = true;
    for (int i = ends[0] == ends[1]; i < 2 && rc == GD_OK && *equal; i++) {
        uint32_t rows = ends[i] < t->rows_max ? ends[i] : t->rows_max;
        size_t nbytes = (size_t)rows * t->w.n * sizeof(gdk_bf16);
        rc = cuda_failed(t, cudaMemsetAsync(t->out, 0xff, nbytes, t->g->stream), "trial memory");
        if (rc == GD_OK) {
            *equal = run_trial(t, rows, algo);
        }
        if (rc == GD_OK && *equal) {
            rc = compare_rows(t, rows, equal);
        }
    }
    return rc;
}

/* The originals: the first BASE_ROWS of some rows by algo. */
static int make_originals(struct trial *t, const cublasLtMatmulAlgo_t *algo, bool *can)
{
    *can = run_trial(t, gdk_cuda_rows_padded(BASE_ROWS), algo);
    if (!*can) {
        return GD_OK;
    }
    cudaError_t rc = cudaMemcpyAsync(t->want, t->out, BASE_ROWS * t->w.n * sizeof(gdk_bf16),
                                     cudaMemcpyDeviceToHost, t->g->stream);
    cudaError_t waited = cudaStreamSynchronize(t->g->stream);
    return cuda_failed(t, rc != cudaSuccess ? rc : waited, "a trial product");
}

static cudaError_t time_once(struct trial *t, uint32_t rows, const cublasLtMatmulAlgo_t *algo,
                             float *ms)
{
    cudaError_t rc = cudaEventRecord(t->begin, t->g->stream);
    for (int i = 0; i < TIMED_RUNS && rc == cudaSuccess; i++) {
        rc = run_trial(t, rows, algo) ? cudaSuccess : cudaErrorUnknown;
    }
    rc = rc != cudaSuccess ? rc : cudaEventRecord(t->end, t->g->stream);
    rc = rc != cudaSuccess ? rc : cudaEventSynchronize(t->end);
    return rc != cudaSuccess ? rc : cudaEventElapsedTime(ms, t->begin, t->end);
}

static int time_algo(struct trial *t, uint32_t rows, const cublasLtMatmulAlgo_t *algo, float *ms)
{
    float once = 0.0f;
    cudaError_t rc = time_once(t, rows, algo, ms);
    for (int i = 1; i < TIMINGS && rc == cudaSuccess; i++) {
        rc = time_once(t, rows, algo, &once);
        *ms = once < *ms ? once : *ms;
    }
    return cuda_failed(t, rc, "a timed product");
}

/* ---- one shape ---- */

static int32_t setting(struct gdk_cuda_gemm *g, const cublasLtMatmulAlgo_t *algo,
                       cublasLtMatmulAlgoConfigAttributes_t attribute)
{
    int32_t value = 0;
    size_t written = 0;
    cublasStatus_t rc =
        g->lt.cublasLtMatmulAlgoConfigGetAttribute(algo, attribute, &value, sizeof value, &written);
    return rc == CUBLAS_STATUS_SUCCESS ? value : 0; /* not told: the trial will show it */
}

static bool splits_nothing(struct gdk_cuda_gemm *g, const cublasLtMatmulAlgo_t *algo)
{
    return setting(g, algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) <= 1 &&
           setting(g, algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) ==
               (int32_t)CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* Algorithms for rows rows, best first by cuBLASLt's own estimate. */
static int ask(struct trial *t, uint32_t rows, cublasLtMatmulAlgo_t *algos)
{
    struct gdk_cuda_gemm *g = t->g;
    struct gdk_gemm_shape *s = t->w.shape;
    cublasLtMatmulHeuristicResult_t offers[OFFERS];
    int n_offers = 0, n = 0;
    if (!gdk_gemm_set_rows(g, s, rows) || !gdk_gemm_set_pointers(g, s, &t->w, t->a_scales) ||
        gdk_gemm_refused(g,
                         g->lt.cublasLtMatmulAlgoGetHeuristic(g->handle, s->op, s->w, s->a, s->out,
                                                              s->out, g->preference, OFFERS, offers,
                                                              &n_offers),
                         "cublasLtMatmulAlgoGetHeuristic")) {
        return 0;
    }
    for (int i = 0; i < n_offers; i++) {
        if (offers[i].state == CUBLAS_STATUS_SUCCESS && splits_nothing(g, &offers[i].algo)) {
            algos[n++] = offers[i].algo;
        }
    }
    return n;
}

static uint32_t range_rows(const struct trial *t, size_t range)
{
    return gdk_gemm_ranges[range] < t->rows_max ? gdk_gemm_ranges[range] : t->rows_max;
}

/* The reference of the shape: the first algorithm, of those for the most rows and then for fewer, that
 * keeps its own bits over all ranges. Its originals stay in want. */
static int find_reference(struct trial *t, cublasLtMatmulAlgo_t *reference)
{
    size_t last = gdk_gemm_range_of(t->rows_max);
    uint32_t n_tried = 0, n_ran = 0, n_kept = 0; /* n_kept: ranges of the one that kept most */
    for (size_t from = last + 1; from-- > 0;) {
        cublasLtMatmulAlgo_t algos[OFFERS];
        int n = ask(t, range_rows(t, from), algos);
        for (int i = 0; i < n; i++) {
            bool equal = false;
            int rc = make_originals(t, &algos[i], &equal);
            n_tried++;
            n_ran += equal;
            for (size_t r = 0; r <= last && rc == GD_OK && equal; r++) {
                rc = keeps_bits(t, r, &algos[i], &equal);
                n_kept = equal && r + 1 > n_kept ? (uint32_t)r + 1 : n_kept;
            }
            if (rc != GD_OK || equal) {
                *reference = algos[i];
                return rc;
            }
        }
    }
    return gd_err_set(t->err, GD_EBACKEND,
                      "cuBLASLt has no algorithm for %u x %u in %s that gives a row the same bits "
                      "in every batch: of %u tried %u ran, and the best kept them over %u of %u "
                      "ranges of rows (%s)",
                      t->w.n, t->w.k, t->g->opt.fp8 ? "fp8" : "bf16", (unsigned)n_tried,
                      (unsigned)n_ran, (unsigned)n_kept, (unsigned)last + 1,
                      t->g->why[0] != '\0' ? t->g->why : "no call was refused");
}

static int select_range(struct trial *t, size_t range, const cublasLtMatmulAlgo_t *reference)
{
    struct gdk_gemm_shape *s = t->w.shape;
    uint32_t rows = range_rows(t, range);
    cublasLtMatmulAlgo_t algos[OFFERS];
    float best = 0.0f, ms = 0.0f;
    int n = ask(t, rows, algos);
    int rc = time_algo(t, rows, reference, &best);
    s->algo[range] = *reference;
    t->g->stats.offered += (uint32_t)n;
    for (int i = 0; i < n && rc == GD_OK; i++) {
        bool equal = false;
        rc = keeps_bits(t, range, &algos[i], &equal);
        if (rc != GD_OK || !equal) {
            continue;
        }
        t->g->stats.equal++;
        rc = time_algo(t, rows, &algos[i], &ms);
        if (rc == GD_OK && ms < GAIN * best) {
            best = ms;
            s->algo[range] = algos[i];
        }
    }
    return rc;
}

static int select_shape(struct trial *t, struct gdk_gemm_shape *s)
{
    cublasLtMatmulAlgo_t reference;
    size_t last = gdk_gemm_range_of(t->rows_max);
    t->g->why[0] = '\0';
    int rc = trial_begin(t, s);
    rc = rc != GD_OK ? rc : find_reference(t, &reference);
    for (size_t r = 0; r <= last && rc == GD_OK; r++) {
        rc = select_range(t, r, &reference);
    }
    for (size_t r = last + 1; r < GDK_GEMM_RANGES && rc == GD_OK; r++) {
        s->algo[r] = reference;
    }
    s->selected = rc == GD_OK;
    t->g->stats.shapes++;
    trial_end(t);
    return rc;
}

int gdk_cuda_gemm_select(struct gdk_cuda_gemm *g, uint32_t rows_max, struct gd_err *err)
{
    rows_max = gdk_cuda_rows_padded(rows_max < 64 ? 64 : rows_max);
    struct trial t = {.g = g, .rows_max = rows_max, .err = err};
    g->stats = (struct gdk_cuda_gemm_stats){0};
    int rc = cuda_failed(&t, cudaEventCreate(&t.begin), "an event");
    rc = rc != GD_OK ? rc : cuda_failed(&t, cudaEventCreate(&t.end), "an event");
    for (struct gdk_gemm_shape *s = g->shapes; s != NULL && rc == GD_OK; s = s->next) {
        rc = select_shape(&t, s);
    }
    if (t.begin != NULL) {
        cudaEventDestroy(t.begin);
    }
    if (t.end != NULL) {
        cudaEventDestroy(t.end);
    }
    return rc;
}
