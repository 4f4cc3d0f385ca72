/* test_kernels.c - every operation of the CPU back end against the same mathematics in double, over
 * shapes that do not fit its tiles; and the promise of backend.h that a row's bits depend on
 * nothing but that row.
 *
 * Error bounds are those of the arithmetic: a sum of k products in fp32 is allowed a few sqrt(k)
 * rounding errors of the sum of the magnitudes, far less than any mistake in indexing would make.
 */
#include "test_kernels.h"

/* ---- scalar parts ---- */

static void test_exp(void **state)
{
    (void)state;
    double worst = 0.0;
    for (uint32_t i = 0; i < 4000000; i++) {
        float x = -104.0f + 193.0f * (float)i / 4000000.0f;
        double want = exp((double)x);
        float got = gdk_expf(x);
        if (want > (double)FLT_MAX) {
            assert_true(isinf(got));
            continue;
        }
        double ulp = want > (double)FLT_MIN ? ldexp(1.0, ilogb(want) - 23) : ldexp(1.0, -149);
        double error = fabs((double)got - want) / ulp;
        worst = error > worst ? error : worst;
    }
    print_message("exp: worst error %.3f ulp\n", worst);
    assert_true(worst < 1.5);
    assert_true(gdk_expf(0.0f) == 1.0f);
    assert_true(gdk_expf(-0.0f) == 1.0f);
    assert_true(gdk_expf(-INFINITY) == 0.0f);
    assert_true(gdk_expf(-105.0f) == 0.0f);
    assert_true(isinf(gdk_expf(INFINITY)));
    assert_true(isinf(gdk_expf(1e30f)));
    assert_true(isnan(gdk_expf(NAN)));
}

static void test_widening(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float got;
        gdk_to_f32_cpu(1, GD_DTYPE_F16, &h, &got);
        int e = (h >> 10) & 31;
        int m = h & 1023;
        double want = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
        want = e == 31 ? (m != 0 ? (double)NAN : (double)INFINITY) : want;
        want = (h & 0x8000) != 0 ? -want : want;
        if (isnan(want)) {
            assert_true(isnan(got));
        } else {
            assert_true((double)got == want && !signbit(got) == !signbit(want));
        }
        gdk_to_f32_cpu(1, GD_DTYPE_BF16, &h, &got);
        uint32_t bits;
        memcpy(&bits, &got, sizeof bits);
        assert_int_equal(bits, i << 16);
    }
}

/* ---- row operations: values against double, and all ways to cut the rows ---- */

static const uint32_t ROW_COUNTS[] = {1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 200};
#define N_ROW_COUNTS (sizeof ROW_COUNTS / sizeof ROW_COUNTS[0])
#define MAX_ROWS 200u

static void test_embed(void **state)
{
    (void)state;
    const uint32_t vocab = 50, k = 37;
    uint16_t *rows16 = malloc(vocab * k * sizeof *rows16);
    assert_non_null(rows16);
    for (uint32_t i = 0; i < vocab * k; i++) {
        rows16[i] = (uint16_t)(i * 7 + 3);
    }
    struct gd_backend *be = open_backend(2, false);
    struct gd_table *t = NULL;
    uint64_t before = be->weight_bytes_held;
    assert_int_equal(be->ops->table_bytes(be, vocab, k, GD_DTYPE_BF16), vocab * k * 2);
    assert_int_equal(be->ops->table_bytes(be, vocab, k, GD_DTYPE_F32), vocab * k * 4);
    assert_int_equal(be->ops->table_load(be, vocab, k, GD_DTYPE_BF16, rows16, &t, NULL), GD_OK);
    assert_int_equal(be->weight_bytes_held - before, vocab * k * 2);
    int32_t tokens[MAX_ROWS];
    for (uint32_t i = 0; i < MAX_ROWS; i++) {
        tokens[i] = (int32_t)(i * 13 % vocab);
    }
    float *out = random_floats(MAX_ROWS * k);
    struct gd_batch b = {.n_tokens = MAX_ROWS, .n_seqs = 1, .tokens = tokens};
    assert_int_equal(be->ops->embed(be, &b, t, HANDLE(out)), GD_OK);
    for (uint32_t i = 0; i < MAX_ROWS * k; i++) {
        uint32_t bits;
        memcpy(&bits, &out[i], sizeof bits);
        assert_int_equal(bits >> 16, rows16[(uint32_t)tokens[i / k] * k + i % k]);
    }
    be->ops->table_free(be, t);
    assert_int_equal(be->weight_bytes_held, before);
    be->ops->close(be);
    free(out);
}

static void test_add_rmsnorm(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 15, 16, 33, 64, 100, 384, 1023};
    struct gd_backend *be = open_backend(2, false);
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        uint32_t dim = dims[d];
        size_t n = (size_t)MAX_ROWS * dim;
        float *x = random_floats(n), *delta = random_floats(n), *weight = random_floats(dim);
        float *x2 = copy_of(x, n * sizeof *x), *out = random_floats(n);
        struct gd_vector *w = be->ops->vector_load(be, dim, weight);
        assert_non_null(w);
        assert_int_equal(be->ops->add_rmsnorm(be, MAX_ROWS, dim, HANDLE(x2), HANDLE(delta), w,
                                              1e-5f, HANDLE(out)),
                         GD_OK);
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            double square = 0.0;
            for (size_t i = (size_t)r * dim; i < (size_t)(r + 1) * dim; i++) {
                assert_true(x2[i] == x[i] + delta[i]);
                square += (double)x2[i] * (double)x2[i];
            }
            double scale = 1.0 / sqrt(square / dim + (double)1e-5f);
            for (uint32_t i = 0; i < dim; i++) {
                double want = (double)x2[(size_t)r * dim + i] * scale * (double)weight[i];
                assert_true(fabs((double)out[(size_t)r * dim + i] - want) <=
                            1e-6 * fabs(want) + 1e-12);
            }
        }
        for (size_t c = 0; c < N_ROW_COUNTS; c++) { /* the last rows alone; no delta this time */
            size_t off = (size_t)(MAX_ROWS - ROW_COUNTS[c]) * dim, m = (size_t)ROW_COUNTS[c] * dim;
            float *got = random_floats(m);
            assert_int_equal(be->ops->add_rmsnorm(be, ROW_COUNTS[c], dim, HANDLE(x2 + off), NULL, w,
                                                  1e-5f, HANDLE(got)),
                             GD_OK);
            assert_memory_equal(got, out + off, m * sizeof *got);
            free(got);
        }
        x2[0] = 3e38f; /* finite, but its square is not: no silent row of zeros */
        assert_int_equal(be->ops->add_rmsnorm(be, 1, dim, HANDLE(x2), NULL, w, 1e-5f, HANDLE(out)),
                         GD_OK);
        assert_true(isnan(out[0]) && isnan(out[dim - 1]));
        be->ops->vector_free(be, w);
        free(x), free(delta), free(weight), free(x2), free(out);
    }
    be->ops->close(be);
}

static void test_swiglu(void **state)
{
    (void)state;
    static const uint32_t widths[] = {1, 17, 64, 100, 1024};
    struct gd_backend *be = open_backend(2, false);
    for (size_t d = 0; d < sizeof widths / sizeof widths[0]; d++) {
        uint32_t ffn = widths[d];
        float *in = random_floats((size_t)MAX_ROWS * 2 * ffn);
        float *out = random_floats((size_t)MAX_ROWS * ffn);
        in[0] = -120.0f; /* exp overflows: silu is -0 */
        in[2 * ffn] = 120.0f;
        assert_int_equal(be->ops->swiglu(be, MAX_ROWS, ffn, HANDLE(in), HANDLE(out)), GD_OK);
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            for (uint32_t i = 0; i < ffn; i++) {
                double g = (double)in[(size_t)r * 2 * ffn + i];
                double want = g / (1.0 + exp(-g)) * (double)in[(size_t)r * 2 * ffn + ffn + i];
                assert_true(fabs((double)out[(size_t)r * ffn + i] - want) <=
                            5e-7 * fabs(want) + 1e-30);
            }
        }
        for (size_t c = 0; c < N_ROW_COUNTS; c++) {
            size_t off = (size_t)(MAX_ROWS - ROW_COUNTS[c]) * ffn, m = (size_t)ROW_COUNTS[c] * ffn;
            float *got = random_floats(m);
            assert_int_equal(
                be->ops->swiglu(be, ROW_COUNTS[c], ffn, HANDLE(in + 2 * off), HANDLE(got)), GD_OK);
            assert_memory_equal(got, out + off, m * sizeof *got);
            free(got);
        }
        in[3 % (2 * ffn)] = NAN;
        assert_int_equal(be->ops->swiglu(be, 1, ffn, HANDLE(in), HANDLE(out)), GD_OK);
        assert_true(isnan(out[3 % ffn]));
        free(in), free(out);
    }
    be->ops->close(be);
}

static void test_choice_and_gather(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 16, 31, 64, 384, 1001};
    struct gd_backend *be = open_backend(1, false);
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        uint32_t dim = dims[d], vocab = 40;
        float *rows = random_floats((size_t)vocab * dim), *x = random_floats((size_t)5 * dim);
        float *hidden = random_floats((size_t)3 * dim);
        float *behind = copy_of(hidden + (size_t)2 * dim, dim * sizeof *hidden);
        static const uint32_t places[] = {1, 4};
        const struct gd_batch b = {.n_tokens = 2, .n_seqs = 2, .places = places};
        assert_int_equal(be->ops->gather_rows(be, &b, dim, HANDLE(x), HANDLE(hidden)), GD_OK);
        assert_memory_equal(hidden, x + dim, dim * sizeof *x);
        assert_memory_equal(hidden + dim, x + (size_t)4 * dim, dim * sizeof *x);
        assert_memory_equal(hidden + (size_t)2 * dim, behind, dim * sizeof *x);
        struct gd_table *t = NULL;
        float *kept = copy_of(rows, (size_t)vocab * dim * sizeof *rows);
        assert_int_equal(be->ops->table_load(be, vocab, dim, GD_DTYPE_F32, rows, &t, NULL), GD_OK);
        static const struct gd_choice choices[] = {{0, 39}, {0, 0}, {1, 17}, {0, 17}, {1, 39}};
        float logits[6] = {[5] = 77.0f};
        assert_int_equal(be->ops->choice_logits(be, 5, choices, dim, HANDLE(hidden), t, logits),
                         GD_OK);
        for (int i = 0; i < 5; i++) {
            double want = 0.0, size = 0.0;
            for (uint32_t j = 0; j < dim; j++) {
                double term = (double)hidden[choices[i].row * dim + j] *
                              (double)kept[(uint32_t)choices[i].id * dim + j];
                want += term;
                size += fabs(term);
            }
            assert_true(fabs((double)logits[i] - want) <= 4e-7 * size);
        }
        assert_true(logits[5] == 77.0f);
        be->ops->table_free(be, t);
        free(kept), free(x), free(hidden), free(behind);
    }
    be->ops->close(be);
}

/* ---- what is kept in device memory ---- */

static void test_rows(void **state)
{
    (void)state;
    static const enum gd_rows_kind kinds[] = {GD_ROWS_F32, GD_ROWS_PRODUCT, GD_ROWS_OPERAND};
    const uint32_t rows = 7, dim = 5;
    struct gd_backend *be = open_backend(1, false);
    float *x = random_floats(rows * dim), got[36];
    assert_true(be->ops->memory_left(be) > 0);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct gd_rows *r = be->ops->rows_open(be, kinds[i], rows, dim);
        assert_non_null(r);
        assert_int_equal((uintptr_t)r->data % 64, 0);
        assert_true(be->ops->rows_bytes(be, kinds[i], rows, dim) >= rows * dim * sizeof *x);
        memset(got, 0xa5, sizeof got);
        assert_int_equal(be->ops->rows_write(be, r, rows, dim, x), GD_OK);
        assert_int_equal(be->ops->rows_read(be, r, rows, dim, got), GD_OK);
        assert_memory_equal(got, x, rows * dim * sizeof *x);
        /* fewer rows of less: packed densely, and nothing else is touched */
        assert_int_equal(be->ops->rows_write(be, r, 3, 2, x + 20), GD_OK);
        memset(got, 0xa5, sizeof got);
        assert_int_equal(be->ops->rows_read(be, r, rows, dim, got), GD_OK);
        assert_memory_equal(got, x + 20, 6 * sizeof *x);
        assert_memory_equal(got + 6, x + 6, (rows * dim - 6) * sizeof *x);
        memset(got, 0xa5, sizeof got);
        assert_int_equal(be->ops->rows_read(be, r, 3, 2, got), GD_OK);
        assert_memory_equal(got, x + 20, 6 * sizeof *x);
        assert_int_equal(((unsigned char *)got)[6 * sizeof *x], 0xa5);
        be->ops->rows_close(be, r);
        assert_null(be->ops->rows_open(be, kinds[i], UINT32_MAX, UINT32_MAX));
        assert_true(be->ops->rows_bytes(be, kinds[i], UINT32_MAX, UINT32_MAX) >= UINT64_MAX / 4);
    }
    be->ops->rows_close(be, NULL);
    be->ops->vector_free(be, NULL);
    be->ops->weight_free(be, NULL);
    be->ops->table_free(be, NULL);
    be->ops->close(be);
    free(x);
}

/* The back end keeps copies of vectors and biases: the caller's may go at once. */
static void test_copies(void **state)
{
    (void)state;
    struct gd_backend *be = open_backend(1, false);
    float norm[] = {2.0f, -4.0f}, bias[] = {10.0f, 20.0f}, w[] = {1.0f, 1.0f, 2.0f, 0.0f};
    float x[] = {1.0f, -1.0f}, out[2];
    struct gd_weight *packed = NULL;
    struct gd_vector *v = be->ops->vector_load(be, 2, norm);
    assert_non_null(v);
    assert_int_equal(be->ops->weight_load(be, 2, 2, GD_DTYPE_F32, w, bias, &packed, NULL), GD_OK);
    norm[0] = norm[1] = bias[0] = bias[1] = w[0] = w[1] = w[2] = NAN;
    assert_int_equal(be->ops->add_rmsnorm(be, 1, 2, HANDLE(x), NULL, v, 0.0f, HANDLE(out)), GD_OK);
    assert_true(out[0] == 2.0f && out[1] == 4.0f);
    assert_int_equal(be->ops->gemm(be, 1, HANDLE(x), packed, HANDLE(out)), GD_OK);
    assert_true(out[0] == 10.0f && out[1] == 22.0f);
    be->ops->vector_free(be, v);
    be->ops->weight_free(be, packed);
    be->ops->close(be);
}

/* ---- gemm ---- */

static void check_gemm(struct gd_backend *be, struct gd_backend *other, uint32_t n, uint32_t k,
                       double unit)
{
    float *w = random_floats((size_t)n * k), *bias = random_floats(n);
    float *a = random_floats((size_t)MAX_ROWS * k), *out = random_floats((size_t)MAX_ROWS * n);
    struct gd_weight *packed = NULL, *packed2 = NULL;
    struct gd_err err = {0};
    uint64_t held = be->weight_bytes_held;
    if (be->ops->weight_load(be, n, k, GD_DTYPE_F32, w, bias, &packed, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    assert_true(be->weight_bytes_held - held <= be->ops->weight_bytes(be, n, k));
    assert_int_equal(other->ops->weight_load(other, n, k, GD_DTYPE_F32, w, bias, &packed2, &err),
                     GD_OK);
    assert_int_equal(be->ops->gemm(be, MAX_ROWS, HANDLE(a), packed, HANDLE(out)), GD_OK);
    for (uint32_t r = 0; r < MAX_ROWS; r++) {
        for (uint32_t c = 0; c < n; c++) {
            double want = (double)bias[c], size = fabs(want);
            for (uint32_t i = 0; i < k; i++) {
                double term = (double)a[(size_t)r * k + i] * (double)w[(size_t)c * k + i];
                want += term;
                size += fabs(term);
            }
            double error = fabs((double)out[(size_t)r * n + c] - want);
            if (error > unit * size) {
                fail_msg("gemm %u x %u row %u column %u: %g instead of %g", n, k, r, c,
                         (double)out[(size_t)r * n + c], want);
            }
        }
    }
    float *got = random_floats((size_t)MAX_ROWS * n);
    for (size_t c = 0; c < N_ROW_COUNTS; c++) { /* alone, in a part, by other threads */
        uint32_t rows = ROW_COUNTS[c], first = MAX_ROWS - rows;
        assert_int_equal(
            be->ops->gemm(be, rows, HANDLE(a + (size_t)first * k), packed, HANDLE(got)), GD_OK);
        assert_memory_equal(got, out + (size_t)first * n, (size_t)rows * n * sizeof *got);
        memset(got, 0xff, (size_t)rows * n * sizeof *got);
        assert_int_equal(other->ops->gemm(other, rows, HANDLE(a), packed2, HANDLE(got)), GD_OK);
        assert_memory_equal(got, out, (size_t)rows * n * sizeof *got);
    }
    for (uint32_t i = 0; i < k; i++) { /* a broken neighbour changes nobody else */
        a[i] = NAN;
    }
    assert_int_equal(be->ops->gemm(be, MAX_ROWS, HANDLE(a), packed, HANDLE(got)), GD_OK);
    assert_true(isnan(got[0]));
    assert_memory_equal(got + n, out + n, (size_t)(MAX_ROWS - 1) * n * sizeof *got);
    be->ops->weight_free(be, packed);
    other->ops->weight_free(other, packed2);
    assert_int_equal(be->weight_bytes_held, held);
    free(w), free(bias), free(a), free(out), free(got);
}

static const uint32_t GEMM_SHAPES[][2] = {{1, 1},     {16, 64},   {64, 16},   {100, 100}, {192, 64},
                                          {384, 384}, {257, 130}, {640, 256}, {96, 1000}, {17, 511},
                                          {531, 37},  {31, 769},  {1, 2000},  {2000, 1}};

static void test_gemm_f32(void **state)
{
    (void)state;
    struct gd_backend *one = open_backend(1, false), *two = open_backend(2, false);
    for (size_t i = 0; i < sizeof GEMM_SHAPES / sizeof GEMM_SHAPES[0]; i++) {
        check_gemm(one, two, GEMM_SHAPES[i][0], GEMM_SHAPES[i][1], 1e-6);
    }
    struct gd_err err = {0};
    if (two->ops->selftest(two, MAX_ROWS, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    one->ops->close(one);
    two->ops->close(two);
}

/* Any number of rows, any threads: the bits of one large product. And nothing is written behind. */
static void check_row_counts(uint32_t n, uint32_t k)
{
    enum { ALL = 512, MOST = 130 };
    static const uint32_t threads[] = {1, 2, 5, 33};
    float *w = random_floats((size_t)n * k), *bias = random_floats(n);
    float *a = random_floats((size_t)ALL * k), *want = random_floats((size_t)ALL * n);
    float *got = random_floats((size_t)(MOST + 1) * n);
    for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
        struct gd_backend *be = open_backend(threads[t], false);
        struct gd_weight *packed = NULL;
        assert_int_equal(be->ops->weight_load(be, n, k, GD_DTYPE_F32, w, bias, &packed, NULL),
                         GD_OK);
        if (t == 0) {
            assert_int_equal(be->ops->gemm(be, ALL, HANDLE(a), packed, HANDLE(want)), GD_OK);
        }
        for (uint32_t rows = 1; rows <= MOST; rows++) {
            uint32_t first = rnd_below(ALL - rows + 1);
            memset(got, 0xa5, (size_t)(MOST + 1) * n * sizeof *got);
            float *part = a + (size_t)first * k;
            assert_int_equal(be->ops->gemm(be, rows, HANDLE(part), packed, HANDLE(got)), GD_OK);
            if (memcmp(got, want + (size_t)first * n, (size_t)rows * n * sizeof *got) != 0) {
                fail_msg("gemm %u x %u: %u rows from %u on, %u threads: other bits than in %d rows",
                         n, k, rows, first, threads[t], ALL);
            }
            const unsigned char *behind = (const unsigned char *)(got + (size_t)rows * n);
            for (size_t i = 0; i < n * sizeof *got; i++) {
                assert_int_equal(behind[i], 0xa5);
            }
        }
        be->ops->weight_free(be, packed);
        be->ops->close(be);
    }
    free(w), free(bias), free(a), free(want), free(got);
}

static void test_gemm_row_counts(void **state)
{
    (void)state;
    check_row_counts(1, 1);
    check_row_counts(150, 20); /* one block of k; the last panel partly there */
    check_row_counts(16, 257); /* two blocks */
    check_row_counts(77, 513);
    check_row_counts(33, 801); /* rows are copied together */
    check_row_counts(1100, 3); /* many panels */
}

/* Each sum takes its terms in rising order from zero, then the bias: where every product and every
 * partial sum is exact, the plain loop gives the same bits. */
static void test_gemm_exact(void **state)
{
    (void)state;
    enum { ROWS = 23, N = 45, K = 1030 };
    struct gd_backend *be = open_backend(2, false);
    float *w = random_floats(N * K), *a = random_floats(ROWS * K), *bias = random_floats(N);
    float *want = random_floats(ROWS * N), *got = random_floats(ROWS * N);
    for (uint32_t i = 0; i < N * K; i++) {
        w[i] = (float)rnd_below(31) - 15.0f;
    }
    for (uint32_t i = 0; i < ROWS * K; i++) {
        a[i] = (float)rnd_below(31) - 15.0f;
    }
    for (int with = 0; with < 2; with++) {
        const float *b = with ? bias : NULL;
        struct gd_weight *packed = NULL;
        assert_int_equal(be->ops->weight_load(be, N, K, GD_DTYPE_F32, w, b, &packed, NULL), GD_OK);
        gdk_gemm_cpu(0, ROWS, N, K, a, w, b, want);
        assert_int_equal(be->ops->gemm(be, ROWS, HANDLE(a), packed, HANDLE(got)), GD_OK);
        assert_memory_equal(got, want, ROWS * N * sizeof *got);
        assert_int_equal(be->ops->gemm(be, 0, HANDLE(a), packed, HANDLE(got)),
                         GD_OK);                                /* no rows, */
        assert_memory_equal(got, want, ROWS * N * sizeof *got); /* no change */
        be->ops->weight_free(be, packed);
    }
    be->ops->close(be);
    free(w), free(a), free(bias), free(want), free(got);
}

/* Non-finite numbers reach exactly the outputs they belong to: all of a row, or all of a column. */
static void test_gemm_non_finite(void **state)
{
    (void)state;
    enum { ROWS = 29, N = 35, K = 300 };
    struct gd_backend *be = open_backend(2, false);
    float *w = random_floats(N * K), *a = random_floats(ROWS * K);
    float *clean = random_floats(ROWS * N), *got = random_floats(ROWS * N);
    struct gd_weight *packed = NULL, *broken = NULL;
    assert_int_equal(be->ops->weight_load(be, N, K, GD_DTYPE_F32, w, NULL, &packed, NULL), GD_OK);
    w[34 * K + 299] = INFINITY; /* the last weight of all, next to the padding */
    w[2 * K] = NAN;
    assert_int_equal(be->ops->weight_load(be, N, K, GD_DTYPE_F32, w, NULL, &broken, NULL), GD_OK);
    assert_int_equal(be->ops->gemm(be, ROWS, HANDLE(a), packed, HANDLE(clean)), GD_OK);
    assert_int_equal(be->ops->gemm(be, ROWS, HANDLE(a), broken, HANDLE(got)), GD_OK);
    for (uint32_t i = 0; i < ROWS * N; i++) {
        uint32_t col = i % N;
        assert_true(isfinite(clean[i]));
        assert_true(col == 2 ? isnan(got[i]) : col == 34 ? isinf(got[i]) : got[i] == clean[i]);
    }
    for (uint32_t row = 0; row < ROWS; row++) {
        float kept = a[row * K + 280], bad = row % 2 == 0 ? NAN : -INFINITY;
        a[row * K + 280] = bad;
        assert_int_equal(be->ops->gemm(be, ROWS, HANDLE(a), packed, HANDLE(got)), GD_OK);
        a[row * K + 280] = kept;
        for (uint32_t i = 0; i < ROWS * N; i++) {
            assert_true(i / N != row ? got[i] == clean[i] : !isfinite(got[i]));
        }
    }
    be->ops->weight_free(be, packed);
    be->ops->weight_free(be, broken);
    be->ops->close(be);
    free(w), free(a), free(clean), free(got);
}

/* Memory that is held is what is needed: 4 bytes per weight, columns rounded up to 16. */
static void test_gemm_bytes(void **state)
{
    (void)state;
    struct gd_backend *be = open_backend(1, false);
    static const float w[33 * 3];
    struct gd_weight *packed = NULL;
    assert_int_equal(be->ops->weight_load(be, 33, 3, GD_DTYPE_F32, w, NULL, &packed, NULL), GD_OK);
    assert_int_equal(be->weight_bytes_held, 48 * 3 * 4);
    assert_int_equal(be->ops->weight_bytes(be, 33, 3), 48 * 3 * 4);
    assert_int_equal(be->ops->weight_bytes(be, 1u << 20, 1u << 20), (size_t)4 << 40);
    be->ops->weight_free(be, packed);
    be->ops->close(be);
}

static void test_gemm_bf16(void **state)
{
    (void)state;
    struct gd_backend *one = open_backend(1, true), *two = open_backend(2, true);
    struct gd_weight *w = NULL;
    struct gd_err err = {0};
    static const float rows[64 * 64];
    if (one->ops->weight_load(one, 64, 64, GD_DTYPE_F32, rows, NULL, &w, &err) != GD_OK) {
        print_message("SKIP bf16 products: %s\n", err.msg);
        one->ops->close(one);
        two->ops->close(two);
        skip();
    }
    one->ops->weight_free(one, w);
    print_message("bf16 products on %s\n", one->isa);
    for (size_t i = 0; i < sizeof GEMM_SHAPES / sizeof GEMM_SHAPES[0]; i++) {
        check_gemm(one, two, GEMM_SHAPES[i][0], GEMM_SHAPES[i][1], 8.1e-3);
    }
    if (two->ops->selftest(two, MAX_ROWS, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    one->ops->close(one);
    two->ops->close(two);
}

/* Stored types give the same products as their values widened. */
static void test_gemm_dtypes(void **state)
{
    (void)state;
    const uint32_t n = 70, k = 48;
    struct gd_backend *be = open_backend(1, false);
    uint16_t *w16 = malloc((size_t)n * k * sizeof *w16);
    float *w = random_floats((size_t)n * k), *a = random_floats(k);
    assert_non_null(w16);
    for (uint32_t i = 0; i < n * k; i++) {
        w16[i] = (uint16_t)(0x3800u + i % 700); /* 0.5 to 0.84 in f16, small in bf16 */
    }
    float want[70], got[70];
    static const enum gd_dtype types[] = {GD_DTYPE_BF16, GD_DTYPE_F16};
    for (int t = 0; t < 2; t++) {
        struct gd_weight *p = NULL, *p16 = NULL;
        gdk_to_f32_cpu((size_t)n * k, types[t], w16, w);
        assert_int_equal(be->ops->weight_load(be, n, k, GD_DTYPE_F32, w, NULL, &p, NULL), GD_OK);
        assert_int_equal(be->ops->weight_load(be, n, k, types[t], w16, NULL, &p16, NULL), GD_OK);
        assert_int_equal(be->ops->gemm(be, 1, HANDLE(a), p, HANDLE(want)), GD_OK);
        assert_int_equal(be->ops->gemm(be, 1, HANDLE(a), p16, HANDLE(got)), GD_OK);
        assert_memory_equal(want, got, sizeof want);
        float plain[70];
        gdk_gemm_cpu(0, 1, n, k, a, w, NULL, plain);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(fabsf(plain[i] - got[i]) < 1e-4f);
        }
        be->ops->weight_free(be, p);
        be->ops->weight_free(be, p16);
    }
    struct gd_weight *none = NULL;
    struct gd_err err = {0};
    assert_int_equal(be->ops->weight_load(be, 0, 4, GD_DTYPE_F32, w, NULL, &none, &err), GD_EUSAGE);
    assert_int_equal(be->ops->weight_load(be, 4, 4, GD_DTYPE_OTHER, w, NULL, &none, &err),
                     GD_EUSAGE);
    be->ops->close(be);
    free(w16), free(w), free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),         cmocka_unit_test(test_widening),
        cmocka_unit_test(test_embed),       cmocka_unit_test(test_add_rmsnorm),
        cmocka_unit_test(test_swiglu),      cmocka_unit_test(test_choice_and_gather),
        cmocka_unit_test(test_gemm_f32),    cmocka_unit_test(test_gemm_bf16),
        cmocka_unit_test(test_gemm_dtypes), cmocka_unit_test(test_gemm_row_counts),
        cmocka_unit_test(test_gemm_exact),  cmocka_unit_test(test_gemm_non_finite),
        cmocka_unit_test(test_gemm_bytes),  cmocka_unit_test(test_rows),
        cmocka_unit_test(test_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
