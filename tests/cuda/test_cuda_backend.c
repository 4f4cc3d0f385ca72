/* test_cuda_backend.c - the CUDA back end as the engine uses it: whole models against float64 and
 * PyTorch's errors in bf16 and FP8, equal bits in every batch, recorded steps, refusals. What no
 * device does on demand is in tests/simt/test_simt_faults.c. */
#include <stddef.h>

static const char *const MODELS[] = {"golden/models/gpu_llama", "golden/models/gpu_qwen2"};

#include "../forward_fixture.h"
#include "cuda_fixture.h"

#ifdef GDK_SIMT
#include "simt.h"

/* Choosing among many algorithms would take most of the time of these tests. */
static void offer_few(void)
{
    static const enum simt_algo few[] = {SIMT_ALGO_LAST_TILE, SIMT_ALGO_PLAIN};
    simt_matmul_offer(few, 2);
}
#endif

static int open_for(struct gd_backend **out, enum number number, uint32_t variant,
                    struct gd_err *err)
{
#ifdef GDK_SIMT
    simt_seed(variant); /* another order of blocks and threads */
    offer_few();
#else
    (void)variant;
#endif
    return gd_backend_cuda_open(out, 0, number == NUMBER_FP8, err);
}

/* Whether the device multiplies FP8 with one scale a row; says so where not. */
static bool has_fp8(void)
{
    struct gd_backend *be = NULL;
    struct gd_err err = {0};
    int rc = gd_backend_cuda_open(&be, 0, true, &err);
    if (rc == GD_OK) {
        be->ops->close(be);
    } else {
        print_message("SKIP FP8: %s\n", err.msg);
    }
    return rc == GD_OK;
}

/* ---- models ---- */

static void test_parity(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (size_t i = 0; i < N_MODELS; i++) {
        check_parity(MODELS[i], NUMBER_BF16, 0);
        check_parity(MODELS[i], NUMBER_BF16, 13);
    }
}

static void test_parity_fp8(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    if (!has_fp8()) {
        skip();
    }
    for (size_t i = 0; i < N_MODELS; i++) {
        check_parity(MODELS[i], NUMBER_FP8, 0);
        check_parity(MODELS[i], NUMBER_FP8, 13);
    }
}

static void test_bits(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    check_same_bits(NUMBER_BF16);
    check_chunk_bits(NUMBER_BF16);
    check_shared_blocks(NUMBER_BF16);
}

static void test_bits_fp8(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    if (!has_fp8()) {
        skip();
    }
    check_same_bits(NUMBER_FP8);
    check_chunk_bits(NUMBER_FP8);
    check_shared_blocks(NUMBER_FP8);
}

/* ---- steps ---- */

/* Small steps are padded and recorded; the same rows come again whether a step is the first of its
 * size or not, and with what the one before left in the padding. */
static void test_recorded_steps(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct fixture x;
    float first[N_SEQS][N_CHOICES], got[N_SEQS][N_CHOICES];
    fixture_open(&x, MODELS[0], 1, NUMBER_BF16);
    for (int round = 0; round < 4; round++) {
        for (int s = 0; s < N_SEQS; s++) {
            run(&x, &s, 1, NULL, round == 0 ? &first[s] : &got[s]);
        }
        if (round > 0) {
            assert_memory_equal(got, first, sizeof got);
        }
    }
    /* More sizes than graphs are kept. */
    for (uint32_t n = 1; n < 30; n++) {
        run_chunks(&x, 4, n, NULL, got);
        assert_memory_equal(got[0], first[4], sizeof got[0]);
    }
    fixture_close(&x);
}

static void test_step_rows(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct fixture x;
    fixture_open(&x, MODELS[0], 1, NUMBER_BF16);
    const struct gd_backend_ops *ops = x.be->ops;
    struct gd_attn_shape shape = {.n_heads = 4, .n_kv_heads = 2, .head_dim = 128, .scale = 0.1f};
    float inv_freq[64] = {0};
    struct gd_rope rope = {.inv_freq = inv_freq, .n_positions = 40};
    struct gd_kv *kv = NULL;
    assert_int_equal(ops->kv_open(x.be, 1, 4, &shape, &rope, &kv, NULL), GD_OK);
    int32_t position = 39, token = 0;
    uint32_t start[] = {0, 1}, blocks[] = {0, 1, 2}, block_start[] = {0, 3};
    struct gd_batch b = {1, 1, &token, &position, start, blocks, block_start, NULL}, none = {0};
    struct gd_step_rows rows;
    assert_int_equal(ops->step_begin(x.be, kv, &b, &none, true, &rows), GD_OK);
    assert_true(rows.tokens >= 1 && rows.scored == 0 && !rows.recorded);
    assert_int_equal(ops->step_end(x.be), GD_OK);
    struct gd_rows *qkv = ops->rows_open(x.be, GD_ROWS_PRODUCT, 16, 8 * 128);
    assert_int_equal(ops->step_begin(x.be, kv, &b, &none, true, &rows), GD_OK);
    assert_int_equal(ops->rope_kv(x.be, &b, qkv, kv, 1), GD_EBACKEND); /* no such layer */
    assert_int_equal(ops->attention(x.be, &b, qkv, kv, 1, qkv), GD_EBACKEND);
    assert_int_equal(ops->step_end(x.be), GD_EBACKEND);
    position = 40;
    assert_int_equal(ops->step_begin(x.be, kv, &b, &none, true, &rows), GD_EUSAGE);
    position = -1;
    assert_int_equal(ops->step_begin(x.be, kv, &b, &none, true, &rows), GD_EUSAGE);
    position = 0;
    assert_int_equal(ops->step_begin(x.be, kv, &b, &none, true, &rows), GD_OK);
    assert_int_equal(ops->step_end(x.be), GD_OK);
    assert_int_equal(ops->kv_copy(x.be, kv, 4, 0), GD_EUSAGE);
    assert_int_equal(ops->kv_copy(x.be, kv, 0, 4), GD_EUSAGE);
    assert_int_equal(ops->kv_copy(x.be, kv, 1, 1), GD_OK);
    assert_null(x.be->lost);
    ops->rows_close(x.be, qkv);
    ops->kv_close(x.be, kv);
    fixture_close(&x);
}

/* ---- rows and weights ---- */

static void test_rows(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct gd_backend *be = NULL;
    struct gd_err err = {0};
    assert_int_equal(open_for(&be, NUMBER_BF16, 1, &err), GD_OK);
    static const enum gd_rows_kind kinds[] = {GD_ROWS_F32, GD_ROWS_PRODUCT, GD_ROWS_OPERAND};
    float *in = random_floats(17 * 40), out[17 * 40];
    for (size_t k = 0; k < 3; k++) {
        struct gd_rows *r = be->ops->rows_open(be, kinds[k], 17, 40);
        assert_non_null(r);
        assert_int_equal(be->ops->rows_write(be, r, 17, 40, in), GD_OK);
        assert_int_equal(be->ops->rows_read(be, r, 17, 40, out), GD_OK);
        for (size_t i = 0; i < 17 * 40; i++) {
            assert_true(out[i] == (k == 0 ? in[i] : bf16_value(bf16_of(in[i]))));
        }
        assert_int_equal(be->ops->rows_write(be, r, 17, 41, in), GD_EUSAGE);
        assert_int_equal(be->ops->rows_read(be, r, 1 << 20, 40, out), GD_EUSAGE);
        assert_true(be->ops->rows_bytes(be, kinds[k], 17, 40) >= 17 * 40 * (k == 0 ? 4 : 2));
        be->ops->rows_close(be, r);
    }
    be->ops->rows_close(be, NULL);
    free(in);
    be->ops->close(be);
}

/* Products against the plain C twin, with a bias and without, from every number type. */
static void check_products(enum number number, uint32_t n, uint32_t k, bool biased)
{
    enum { ROWS = 70 };
    struct gd_backend *be = NULL;
    struct gd_err err = {0};
    assert_int_equal(open_for(&be, number, 1, &err), GD_OK);
    const struct gd_backend_ops *ops = be->ops;
    float *w = random_floats((size_t)n * k), *a = random_floats((size_t)ROWS * k);
    float *bias = random_floats(n), *got = random_floats((size_t)ROWS * n);
    float *want = random_floats((size_t)ROWS * n), *norm = random_floats(k);
    gdk_bf16 *w16 = bf16_array(w, (size_t)n * k), *bias16 = bf16_array(bias, n);
    struct gd_weight *weight = NULL;
    uint64_t held = be->weight_bytes_held;
    assert_int_equal(
        ops->weight_load(be, n, k, GD_DTYPE_BF16, w16, biased ? bias : NULL, &weight, &err), GD_OK);
    assert_true(be->weight_bytes_held - held <= ops->weight_bytes(be, n, k));
    assert_int_equal(ops->selftest(be, ROWS, &err), GD_OK);
    /* An FP8 operand is made by a norm only: both take the same way. */
    struct gd_rows *x = ops->rows_open(be, GD_ROWS_F32, ROWS, k);
    struct gd_rows *in = ops->rows_open(be, GD_ROWS_OPERAND, ROWS, k);
    struct gd_rows *out = ops->rows_open(be, GD_ROWS_PRODUCT, ROWS, n);
    struct gd_vector *v = ops->vector_load(be, k, norm);
    assert_int_equal(ops->rows_write(be, x, ROWS, k, a), GD_OK);
    assert_int_equal(ops->add_rmsnorm(be, ROWS, k, x, NULL, v, 1e-5f, in), GD_OK);
    assert_int_equal(ops->gemm(be, 0, in, weight, out), GD_OK); /* nothing to do */
    assert_int_equal(ops->gemm(be, ROWS, in, weight, out), GD_OK);
    assert_int_equal(ops->rows_read(be, in, ROWS, k, a), GD_OK); /* as the product saw it */
    assert_int_equal(ops->rows_read(be, out, ROWS, n, got), GD_OK);
    gdk_gemm_cpu(0, ROWS, n, k, a, w, biased ? bias : NULL, want);
    for (size_t i = 0; i < (size_t)ROWS * n; i++) {
        double size = 0.0;
        for (uint32_t j = 0; j < k; j++) {
            size += fabs((double)a[i / n * k + j] * (double)w[i % n * k + j]);
        }
        /* bf16 keeps 8 bits of a result; FP8 weights have 4 of each number, errors of either sign. */
        double bound = fabs((double)want[i]) * 0x1p-8 + size * 0x1p-20;
        bound += number == NUMBER_FP8 ? size * 0x1p-4 * 4 / sqrt(k) + size * 0x1p-9 : 0.0;
        assert_true(fabs((double)got[i] - (double)want[i]) <= bound);
    }
    ops->rows_close(be, x);
    ops->rows_close(be, in);
    ops->rows_close(be, out);
    ops->vector_free(be, v);
    ops->weight_free(be, weight);
    ops->weight_free(be, NULL);
    assert_int_equal(be->weight_bytes_held, held);
    ops->close(be);
    void *all[] = {w, a, bias, got, want, norm, w16, bias16};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

static void test_products(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    check_products(NUMBER_BF16, 48, 64, false);
    check_products(NUMBER_BF16, 200, 344, true);
    if (has_fp8()) {
        check_products(NUMBER_FP8, 48, 64, false);
        check_products(NUMBER_FP8, 208, 336, true);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct gd_backend *be = NULL;
    struct gd_err err = {0};
    static const float rows[64 * 64];
    struct gd_weight *w = NULL;
    struct gd_table *t = NULL;
    struct gd_kv *kv = NULL;
    assert_int_equal(open_for(&be, NUMBER_BF16, 1, &err), GD_OK);
    assert_int_equal(be->ops->weight_load(be, 8, 12, GD_DTYPE_F32, rows, NULL, &w, &err),
                     GD_EUSAGE);
    assert_non_null(strstr(err.msg, "multiples of 8"));
    assert_int_equal(be->ops->weight_load(be, 0, 16, GD_DTYPE_F32, rows, NULL, &w, &err),
                     GD_EUSAGE);
    assert_int_equal(be->ops->weight_load(be, 8, 16, GD_DTYPE_OTHER, rows, NULL, &w, &err),
                     GD_EUSAGE);
    assert_int_equal(be->ops->table_load(be, 4, 12, GD_DTYPE_F32, calloc(48, 4), &t, &err),
                     GD_EUSAGE);
    struct gd_attn_shape heads = {.n_heads = 2, .n_kv_heads = 1, .head_dim = 80, .scale = 1.0f};
    struct gd_rope rope = {.inv_freq = rows, .n_positions = 16};
    assert_int_equal(be->ops->kv_block_bytes(be, &heads), 0);
    assert_int_equal(be->ops->kv_open(be, 1, 1, &heads, &rope, &kv, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "64, 96 and 128"));
    heads.head_dim = 64;
    assert_int_equal(be->ops->kv_open(be, 0, 1, &heads, &rope, &kv, &err), GD_EUSAGE);
    heads.n_heads = 3;
    heads.n_kv_heads = 2;
    assert_int_equal(be->ops->kv_open(be, 1, 1, &heads, &rope, &kv, &err), GD_EUSAGE);
    assert_null(be->lost);
    be->ops->close(be);
    int n = 0;
    CUDA_OK(cudaGetDeviceCount(&n));
    assert_int_equal(gd_backend_cuda_open(&be, (uint32_t)n, false, &err), GD_EBACKEND);
    assert_non_null(strstr(err.msg, "there is no device cuda:"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),       cmocka_unit_test(test_products),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_parity),
        cmocka_unit_test(test_parity_fp8), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_bits_fp8),   cmocka_unit_test(test_recorded_steps),
        cmocka_unit_test(test_step_rows),
    };
    return cmocka_run_group_tests(tests, cuda_set_up, cuda_tear_down);
}
