/* test_simt_cublaslt.c - the stand-in of cuBLASLt: its products against plain sums in double, its
 * algorithms, and what it refuses. */
#include "simt_fixture.h"

#include <cublasLt.h>

/* A product as Guardian makes it: out[rows, n] = a[rows, k] w[n, k]^T. */
struct product {
    uint32_t rows, n, k;
    uint32_t a_stride, w_stride, out_stride; /* numbers */
    bool fp8, outer, bias;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, a, out;
    void *of_w, *of_a, *of_out, *of_bias, *scales[2];
    uint16_t *got;       /* [rows, out_stride] */
    double *want, *size; /* [rows, n], and the sum of the terms' sizes */
};

static cublasLtHandle_t handle;
static cublasLtMatmulPreference_t preference;

static int lt_set_up(void **state)
{
    return set_up(state) == 0 && cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS &&
                   cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS
               ? 0
               : -1;
}

static int lt_tear_down(void **state)
{
    return cublasLtMatmulPreferenceDestroy(preference) == CUBLAS_STATUS_SUCCESS &&
                   cublasLtDestroy(handle) == CUBLAS_STATUS_SUCCESS && tear_down(state) == 0
               ? 0
               : -1;
}

#define LT(f) cmocka_unit_test_setup_teardown(f, lt_set_up, lt_tear_down)
#define LT_OK(call) assert_int_equal((call), CUBLAS_STATUS_SUCCESS)
#define LT_FAILS(code, call) assert_string_equal(cublasLtGetStatusName(call), #code)

static void set_op(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t attribute,
                   const void *value, size_t nbytes)
{
    LT_OK(cublasLtMatmulDescSetAttribute(op, attribute, value, nbytes));
}

static void prefer(uint64_t workspace, uint32_t schemes)
{
    LT_OK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &workspace, sizeof workspace));
    LT_OK(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
}

/* ---- numbers ---- */

static double value_of(bool fp8, uint32_t bits)
{
    if (!fp8) {
        return (double)float_of(bits << 16);
    }
    int exponent = (int)(bits >> 3 & 15u);
    double x = exponent == 0 ? ldexp(bits & 7u, -9) : ldexp(8.0 + (bits & 7u), exponent - 10);
    return bits & 0x80u ? -x : x;
}

/* rows of k numbers, stride apart, on the device, and their values in *values [rows, k]. */
static void *matrix(uint32_t rows, uint32_t k, uint32_t stride, bool fp8, uint64_t seed,
                    double **values)
{
    size_t size = fp8 ? 1 : 2, count = (size_t)(rows - 1) * stride + k;
    unsigned char *host = malloc(count * size);
    *values = malloc((size_t)rows * k * sizeof **values);
    memset(host, 0xff, count * size); /* NaN between the rows */
    for (uint32_t i = 0; i < rows * k; i++) {
        uint32_t r = random_next(&seed), bits = fp8 ? (r & 0x80u) | (0x10u + r % 0x40u)
                                                    : (r & 0x8000u) | (0x3e00u + r % 0x200u);
        size_t at = ((size_t)(i / k) * stride + i % k) * size;
        memcpy(host + at, &bits, size);
        (*values)[i] = value_of(fp8, bits);
    }
    void *p = to_device(host, count * size);
    free(host);
    return p;
}

static void product_begin(struct product *p)
{
    cublasOperation_t t = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    cudaDataType_t in = p->fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    double *w, *a;
    float scale[2][512], bias[512];
    uint16_t bias_bits[512];
    p->a_stride = p->a_stride == 0 ? p->k : p->a_stride;
    p->w_stride = p->w_stride == 0 ? p->k : p->w_stride;
    p->out_stride = p->out_stride == 0 ? p->n : p->out_stride;
    size_t out_count = (size_t)(p->rows - 1) * p->out_stride + p->n;
    p->of_w = matrix(p->n, p->k, p->w_stride, p->fp8, 1, &w);
    p->of_a = matrix(p->rows, p->k, p->a_stride, p->fp8, 2, &a);
    p->of_out = device(out_count * 2);
    p->got = malloc((size_t)p->rows * p->out_stride * 2);
    p->want = calloc((size_t)p->rows * p->n, sizeof *p->want);
    p->size = calloc((size_t)p->rows * p->n, sizeof *p->size);
    for (uint32_t i = 0; i < 512; i++) {
        scale[0][i] = p->fp8 ? 0.01f + (float)(i % 7) : 1.0f;
        scale[1][i] = p->fp8 ? 0.02f + (float)(i % 5) : 1.0f;
        bias[i] = p->bias ? (float)(i % 9) - 4.0f : 0.0f;
        bias_bits[i] = (uint16_t)(bits_of(bias[i]) >> 16);
    }
    for (uint32_t i = 0; i < p->rows * p->n; i++) {
        uint32_t row = i / p->n, col = i % p->n;
        double by = (double)scale[0][p->outer ? col : 0] * (double)scale[1][p->outer ? row : 0];
        for (uint32_t j = 0; j < p->k; j++) {
            double term = a[(size_t)row * p->k + j] * w[(size_t)col * p->k + j] * by;
            p->want[i] += term;
            p->size[i] += fabs(term);
        }
        p->want[i] += (double)bias[col];
    }
    free(w);
    free(a);
    LT_OK(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set_op(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t);
    set_op(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain);
    if (p->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        cudaDataType_t type = CUDA_R_16BF;
        p->of_bias = to_device(bias_bits, p->n * 2);
        set_op(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
        set_op(p->op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
        set_op(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->of_bias, sizeof p->of_bias);
    }
    if (p->fp8) {
        int32_t mode = p->outer ? CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F
                                : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
        p->scales[0] = to_device(scale[0], (p->outer ? p->n : 1) * sizeof(float));
        p->scales[1] = to_device(scale[1], (p->outer ? p->rows : 1) * sizeof(float));
        set_op(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
        set_op(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode);
        set_op(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->scales[0], sizeof p->scales[0]);
        set_op(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->scales[1], sizeof p->scales[1]);
    }
    LT_OK(cublasLtMatrixLayoutCreate(&p->w, in, p->k, p->n, p->w_stride));
    LT_OK(cublasLtMatrixLayoutCreate(&p->a, in, p->k, p->rows, p->a_stride));
    LT_OK(cublasLtMatrixLayoutCreate(&p->out, CUDA_R_16BF, p->n, p->rows, p->out_stride));
    OK(cudaStreamSynchronize(stream));
}

static void product_end(struct product *p)
{
    LT_OK(cublasLtMatmulDescDestroy(p->op));
    LT_OK(cublasLtMatrixLayoutDestroy(p->w));
    LT_OK(cublasLtMatrixLayoutDestroy(p->a));
    LT_OK(cublasLtMatrixLayoutDestroy(p->out));
    void *all[] = {p->of_w, p->of_a, p->of_out, p->of_bias, p->scales[0], p->scales[1]};
    for (size_t i = 0; i < 6; i++) {
        OK(cudaFree(all[i]));
    }
    free(p->got);
    free(p->want);
    free(p->size);
}

static cublasStatus_t offers(const struct product *p, cublasLtMatmulHeuristicResult_t *r, int room,
                             int *n)
{
    return cublasLtMatmulAlgoGetHeuristic(handle, p->op, p->w, p->a, p->out, p->out, preference,
                                          room, r, n);
}

static cublasStatus_t multiply(const struct product *p, const cublasLtMatmulAlgo_t *algo,
                               void *workspace, size_t nbytes)
{
    const float one = 1.0f, zero = 0.0f;
    return cublasLtMatmul(handle, p->op, &one, p->of_w, p->w, p->of_a, p->a, &zero, p->of_out,
                          p->out, p->of_out, p->out, algo, workspace, nbytes, stream);
}

/* Runs algo and brings the result. */
static void run(struct product *p, const cublasLtMatmulHeuristicResult_t *r)
{
    size_t nbytes = ((size_t)(p->rows - 1) * p->out_stride + p->n) * 2;
    void *workspace = r->workspaceSize > 0 ? device(r->workspaceSize) : NULL;
    OK(cudaMemsetAsync(p->of_out, 0xff, nbytes, stream));
    LT_OK(multiply(p, &r->algo, workspace, r->workspaceSize));
    to_host(p->got, p->of_out, nbytes);
    OK(cudaFree(workspace));
}

static void check(const struct product *p)
{
    for (uint32_t row = 0; row < p->rows; row++) {
        for (uint32_t col = 0; col < p->out_stride && (row + 1 < p->rows || col < p->n); col++) {
            uint16_t bits = p->got[(size_t)row * p->out_stride + col];
            if (col >= p->n) {
                assert_int_equal(bits, 0xffff); /* between the rows nothing is written */
                continue;
            }
            size_t i = (size_t)row * p->n + col;
            double got = value_of(false, bits);
            assert_true(fabs(got - p->want[i]) <= fabs(p->want[i]) * 0x1p-8 + p->size[i] * 0x1p-18);
        }
    }
}

/* ---- what it computes ---- */

static void test_products(void **state)
{
    (void)state;
    struct product all[] = {
        {.rows = 1, .n = 16, .k = 16},
        {.rows = 5, .n = 40, .k = 72, .bias = true},
        {.rows = 67, .n = 24, .k = 136, .a_stride = 144, .w_stride = 152, .out_stride = 32},
        {.rows = 3, .n = 16, .k = 16, .fp8 = true},
        {.rows = 66, .n = 48, .k = 112, .fp8 = true, .outer = true, .bias = true},
        {.rows = 9, .n = 32, .k = 64, .a_stride = 80, .fp8 = true, .outer = true},
    };
    prefer(32 << 20, CUBLASLT_REDUCTION_SCHEME_MASK);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        cublasLtMatmulHeuristicResult_t r[16];
        int n = 0;
        product_begin(&all[i]);
        LT_OK(offers(&all[i], r, 16, &n));
        assert_int_equal(n, SIMT_ALGO_COUNT);
        for (int j = 0; j < n; j++) {
            run(&all[i], &r[j]);
            check(&all[i]);
        }
        product_end(&all[i]);
    }
    struct simt_counts c;
    simt_get_counts(&c);
    assert_int_equal(c.matmuls, 6 * SIMT_ALGO_COUNT);
}

/* NaN and infinity go through; every e4m3 has its value. */
static void test_special_numbers(void **state)
{
    (void)state;
    prefer(0, 0);
    for (int fp8 = 0; fp8 < 2; fp8++) {
        struct product p = {.rows = 16, .n = 16, .k = 16, .fp8 = fp8 != 0};
        product_begin(&p);
        unsigned char a[16 * 16 * 2] = {0}, w[16 * 16 * 2] = {0};
        const uint16_t one = 0x3f80, inf = 0x7f80, nan = 0x7fc0;
        for (uint32_t i = 0; i < 16; i++) { /* w is 1 on the diagonal: out is a */
            memcpy(w + i * 34, &one, 2);
            memcpy(a + i * 34, i == 3 ? &inf : i == 5 ? &nan : &one, 2);
        }
        if (fp8) {
            memset(w, 0, sizeof w);
            for (uint32_t i = 0; i < 256; i++) {
                a[i] = (unsigned char)i;
                w[i / 16 * 17] = 0x38;
            }
            const float unit = 1.0f;
            OK(cudaMemcpyAsync(p.scales[0], &unit, 4, cudaMemcpyHostToDevice, stream));
            OK(cudaMemcpyAsync(p.scales[1], &unit, 4, cudaMemcpyHostToDevice, stream));
        }
        OK(cudaMemcpyAsync(p.of_a, a, fp8 ? 256 : 512, cudaMemcpyHostToDevice, stream));
        OK(cudaMemcpyAsync(p.of_w, w, fp8 ? 256 : 512, cudaMemcpyHostToDevice, stream));
        cublasLtMatmulHeuristicResult_t r;
        int n = 0;
        LT_OK(offers(&p, &r, 1, &n));
        run(&p, &r);
        for (uint32_t i = 0; i < 256; i++) {
            float got = float_of((uint32_t)p.got[i] << 16);
            if (fp8) { /* a NaN spoils its row */
                assert_true(i / 16 == 7 || i / 16 == 15 ? isnan(got)
                                                        : (double)got == value_of(true, i));
            } else if (i / 16 == 3) {
                assert_true(i % 16 == 3 ? isinf(got) : isnan(got)); /* inf times 0 */
            } else {
                assert_true(i / 16 == 5 ? isnan(got) : got == (i % 17 == 0 ? 1.0f : 0.0f));
            }
        }
        product_end(&p);
    }
}

/* ---- algorithms ---- */

/* Which rows of a product have other bits than with the plain order of sums. The terms cancel, so that
 * most sums show it. */
static void rows_that_differ(uint32_t rows, enum simt_algo algo, bool *differs)
{
    const enum simt_algo two[] = {SIMT_ALGO_PLAIN, algo};
    struct product p = {.rows = rows, .n = 32, .k = 256};
    cublasLtMatmulHeuristicResult_t r[2];
    int n = 0;
    simt_matmul_offer(two, 2);
    product_begin(&p);
    uint16_t *a = malloc(p.rows * p.k * 2), *plain = malloc(p.rows * p.n * 2);
    uint64_t random = 5;
    for (uint32_t i = 0; i < p.rows * p.k; i++) { /* all rows are alike, and so are their halves */
        uint32_t bits = random_next(&random);
        a[i] = i % p.k < 128 && i < p.k ? (uint16_t)((bits & 0x8000u) | (0x3c00u + bits % 0x400u))
                                        : a[i % 128];
    }
    OK(cudaMemcpyAsync(p.of_a, a, p.rows * p.k * 2, cudaMemcpyHostToDevice, stream));
    uint16_t w[32][256];
    for (uint32_t i = 0; i < 32 * 128; i++) { /* what the first half adds the second takes away */
        w[i / 128][i % 128] = (uint16_t)(0x3c00u + random_next(&random) % 0x400u);
        w[i / 128][i % 128 + 128] = w[i / 128][i % 128] | 0x8000u;
    }
    OK(cudaMemcpyAsync(p.of_w, w, sizeof w, cudaMemcpyHostToDevice, stream));
    LT_OK(offers(&p, r, 2, &n));
    assert_int_equal(n, 2);
    run(&p, &r[0]);
    memcpy(plain, p.got, p.rows * p.n * 2);
    for (uint32_t row = 1; row < rows; row++) {
        assert_memory_equal(plain, plain + row * p.n, p.n * 2);
    }
    run(&p, &r[1]);
    for (uint32_t row = 0; row < rows; row++) {
        differs[row] = memcmp(plain + row * p.n, p.got + row * p.n, p.n * 2) != 0;
    }
    product_end(&p);
    free(a);
    free(plain);
}

static void test_algorithms_have_their_bits(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 16, 63, 64, 100, 128};
    static bool differs[128];
    prefer(32 << 20, CUBLASLT_REDUCTION_SCHEME_MASK);
    for (size_t s = 0; s < 6; s++) {
        for (int algo = 0; algo < SIMT_ALGO_COUNT; algo++) {
            rows_that_differ(sizes[s], (enum simt_algo)algo, differs);
            for (uint32_t row = 0; row < sizes[s]; row++) {
                bool want = algo == SIMT_ALGO_HALVES || algo == SIMT_ALGO_SPLIT ||
                            (algo == SIMT_ALGO_LAST_TILE && row >= sizes[s] / 64 * 64) ||
                            (algo == SIMT_ALGO_FEW_ROWS && sizes[s] < 64) ||
                            (algo == SIMT_ALGO_ODD_ROWS && row % 16 >= 8);
                assert_int_equal(differs[row], want);
            }
        }
    }
}

static int32_t config(const cublasLtMatmulHeuristicResult_t *r,
                      cublasLtMatmulAlgoConfigAttributes_t attribute)
{
    int32_t value = -1;
    size_t written = 0;
    LT_OK(
        cublasLtMatmulAlgoConfigGetAttribute(&r->algo, attribute, &value, sizeof value, &written));
    assert_int_equal(written, sizeof value);
    return value;
}

static void test_offers_follow_the_preference(void **state)
{
    (void)state;
    struct product p = {.rows = 70, .n = 16, .k = 32};
    cublasLtMatmulHeuristicResult_t r[16];
    int n = 0;
    product_begin(&p);
    prefer(32 << 20, CUBLASLT_REDUCTION_SCHEME_MASK);
    LT_OK(offers(&p, r, 16, &n));
    assert_int_equal(n, SIMT_ALGO_COUNT);
    assert_int_equal(config(&r[0], CUBLASLT_ALGO_CONFIG_SPLITK_NUM), 4); /* the worst comes first */
    assert_int_equal(config(&r[0], CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME),
                     CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    assert_int_equal(r[0].workspaceSize, 70 * 16 * 4);
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r[0].algo, NULL, 0));
    assert_int_equal(config(&r[1], CUBLASLT_ALGO_CONFIG_SPLITK_NUM), 1);
    LT_OK(offers(&p, r, 2, &n));
    assert_int_equal(n, 2);
    prefer(32 << 20, CUBLASLT_REDUCTION_SCHEME_NONE);
    LT_OK(offers(&p, r, 16, &n));
    assert_int_equal(n, SIMT_ALGO_COUNT - 1);
    for (int i = 0; i < n; i++) {
        assert_int_equal(config(&r[i], CUBLASLT_ALGO_CONFIG_SPLITK_NUM), 1);
        assert_int_equal(config(&r[i], CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME), 0);
        for (int j = 0; j < i; j++) {
            assert_int_not_equal(config(&r[i], CUBLASLT_ALGO_CONFIG_ID),
                                 config(&r[j], CUBLASLT_ALGO_CONFIG_ID));
        }
    }
    prefer(0, CUBLASLT_REDUCTION_SCHEME_MASK);
    LT_OK(offers(&p, r, 16, &n));
    assert_int_equal(n, SIMT_ALGO_COUNT - 2); /* nor the one that needs a workspace */
    simt_matmul_offer((enum simt_algo[]){SIMT_ALGO_SPLIT}, 1);
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, offers(&p, r, 16, &n));
    assert_int_equal(n, 0);
    assert_int_equal(setenv("GUARDIAN_SIMT_ALGOS", "wide,plain", 1), 0);
    simt_reset();
    assert_int_equal(unsetenv("GUARDIAN_SIMT_ALGOS"), 0);
    prefer(32 << 20, 0);
    LT_OK(offers(&p, r, 16, &n));
    assert_int_equal(n, 2);
    assert_int_equal(config(&r[0], CUBLASLT_ALGO_CONFIG_TILE_ID), CUBLASLT_MATMUL_TILE_128x128);
    product_end(&p);
}

/* ---- what it refuses ---- */

static void test_wrong_matrices(void **state)
{
    (void)state;
    struct product p = {.rows = 8, .n = 16, .k = 32, .bias = true};
    cublasLtMatmulHeuristicResult_t r, other;
    int n = 0;
    uint64_t rows = 9, k = 32;
    int64_t ld = 31, odd = 36, right = 32;
    prefer(0, 0);
    product_begin(&p);
    LT_OK(offers(&p, &r, 1, &n));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0)); /* 9 rows in, 8 out */
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.out, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0)); /* more than there is */
    rows = 8;
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.out, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_LD, &odd, sizeof odd));
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, multiply(&p, &r.algo, NULL, 0));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_LD, &right, sizeof right));
    k = 40;
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.w, CUBLASLT_MATRIX_LAYOUT_ROWS, &k, sizeof k));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0));
    k = 32;
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.w, CUBLASLT_MATRIX_LAYOUT_ROWS, &k, sizeof k));
    void *whole[] = {p.of_w, p.of_a, p.of_out};
    void **fields[] = {&p.of_w, &p.of_a, &p.of_out};
    for (size_t i = 0; i < 3; i++) {
        *fields[i] = (char *)whole[i] + 2;
        LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0)); /* not aligned */
        *fields[i] = (char *)whole[i] + 16;
        LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0)); /* over the end */
        *fields[i] = whole[i];
    }
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, NULL, NULL, 0));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE,
             multiply(&p, &r.algo, &other, sizeof other)); /* a host workspace */
    LT_OK(multiply(&p, &r.algo, NULL, 0));
    const void *none = NULL;
    set_op(p.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &none, sizeof none);
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0));
    int32_t way = CUBLAS_OP_N, epilogue = 2;
    set_op(p.op, CUBLASLT_MATMUL_DESC_TRANSA, &way, sizeof way);
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, multiply(&p, &r.algo, NULL, 0));
    way = CUBLAS_OP_T;
    set_op(p.op, CUBLASLT_MATMUL_DESC_TRANSA, &way, sizeof way);
    set_op(p.op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, offers(&p, &other, 1, &n));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE,
             cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_TRANSA, &way, 1));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE,
             cublasLtMatmulDescSetAttribute(p.op, (cublasLtMatmulDescAttributes_t)99, &way, 4));
    product_end(&p);
}

static void test_wrong_fp8(void **state)
{
    (void)state;
    struct product p = {.rows = 8, .n = 16, .k = 32, .fp8 = true, .outer = true};
    struct product bf16 = {.rows = 8, .n = 16, .k = 32};
    cublasLtMatmulHeuristicResult_t r, other;
    int n = 0;
    prefer(0, 0);
    product_begin(&p);
    product_begin(&bf16);
    LT_OK(offers(&p, &r, 1, &n));
    LT_OK(offers(&bf16, &other, 1, &n));
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE,
             multiply(&bf16, &r.algo, NULL, 0)); /* an algorithm of the other type */
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &other.algo, NULL, 0));
    const void *none = NULL, *few = device(7 * sizeof(float));
    set_op(p.op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &few, sizeof few);
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0));
    set_op(p.op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &none, sizeof none);
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, multiply(&p, &r.algo, NULL, 0));
    set_op(p.op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p.scales[1], sizeof p.scales[1]);
    int32_t scalar = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    set_op(p.op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &scalar, sizeof scalar);
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, multiply(&p, &r.algo, NULL, 0)); /* one of each */
    int32_t outer = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    set_op(p.op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &outer, sizeof outer);
    LT_OK(multiply(&p, &r.algo, NULL, 0));
    simt_set_capability(8, 9);
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, offers(&p, &r, 1, &n)); /* e4m3, but no scale a row */
    set_op(p.op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &scalar, sizeof scalar);
    set_op(p.op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &scalar, sizeof scalar);
    LT_OK(offers(&p, &r, 1, &n));
    simt_set_capability(8, 0);
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, offers(&p, &r, 1, &n));
    LT_OK(offers(&bf16, &other, 1, &n));
    uint64_t k = 24;
    int64_t ld = 48;
    simt_set_capability(9, 0);
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld));
    LT_OK(offers(&p, &r, 1, &n));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.a, CUBLASLT_MATRIX_LAYOUT_ROWS, &k, sizeof k));
    LT_OK(cublasLtMatrixLayoutSetAttribute(p.w, CUBLASLT_MATRIX_LAYOUT_ROWS, &k, sizeof k));
    LT_FAILS(CUBLAS_STATUS_NOT_SUPPORTED, offers(&p, &r, 1, &n)); /* 24 is no multiple of 16 */
    OK(cudaFree((void *)(uintptr_t)few));
    product_end(&p);
    product_end(&bf16);
}

static void test_products_are_deferred_and_fail(void **state)
{
    (void)state;
    struct product p = {.rows = 8, .n = 16, .k = 32};
    cublasLtMatmulHeuristicResult_t r;
    cudaGraph_t g;
    cudaGraphExec_t x;
    int n = 0;
    prefer(0, 0);
    product_begin(&p);
    LT_OK(offers(&p, &r, 1, &n));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    LT_OK(multiply(&p, &r.algo, NULL, 0));
    OK(cudaStreamEndCapture(stream, &g));
    OK(cudaGraphInstantiate(&x, g, 0));
    to_host(p.got, p.of_out, 8 * 16 * 2);
    assert_int_equal(p.got[0], 0xffff);
    OK(cudaGraphLaunch(x, stream));
    to_host(p.got, p.of_out, 8 * 16 * 2);
    check(&p);
    OK(cudaGraphDestroy(g));
    OK(cudaGraphExecDestroy(x));
    simt_fail_call(1, cudaErrorMemoryAllocation);
    LT_FAILS(CUBLAS_STATUS_ALLOC_FAILED, multiply(&p, &r.algo, NULL, 0));
    LT_OK(multiply(&p, &r.algo, NULL, 0));
    simt_fail_call(1, cudaErrorIllegalAddress);
    LT_FAILS(CUBLAS_STATUS_EXECUTION_FAILED, multiply(&p, &r.algo, NULL, 0));
    FAILS(cudaErrorIllegalAddress, cudaStreamSynchronize(stream));
    simt_reset();
    simt_set_devices(0);
    LT_FAILS(CUBLAS_STATUS_NOT_INITIALIZED, cublasLtCreate(&(cublasLtHandle_t){NULL}));
    simt_reset();
    LT_FAILS(CUBLAS_STATUS_INVALID_VALUE, cublasLtMatrixLayoutDestroy(NULL));
    product_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        LT(test_products),
        LT(test_special_numbers),
        LT(test_algorithms_have_their_bits),
        LT(test_offers_follow_the_preference),
        LT(test_wrong_matrices),
        LT(test_wrong_fp8),
        LT(test_products_are_deferred_and_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
