/* test_simt_faults.c - what no device does on demand: other capabilities, old drivers, algorithms that do
 * not keep the bits, each call of CUDA and cuBLASLt failing in turn, too little memory. */
#include <stddef.h>

static const char *const MODELS[] = {"golden/models/gpu_llama", "golden/models/gpu_qwen2"};

#include "../forward_fixture.h"

#include "simt.h"

#include <cuda_runtime_api.h>

static bool keep_offers; /* test_algorithms chooses what cuBLASLt offers */

/* Choosing among many algorithms would take most of the time of these tests. */
static void offer_few(void)
{
    static const enum simt_algo few[] = {SIMT_ALGO_LAST_TILE, SIMT_ALGO_PLAIN};
    simt_matmul_offer(few, 2);
}

static int open_for(struct gd_backend **out, enum number number, uint32_t variant,
                    struct gd_err *err)
{
    simt_seed(variant);
    if (!keep_offers) {
        offer_few();
    }
    return gd_backend_cuda_open(out, 0, number == NUMBER_FP8, err);
}

static int open_only(bool fp8, struct gd_err *err)
{
    struct gd_backend *be = NULL;
    int rc = gd_backend_cuda_open(&be, 0, fp8, err);
    if (rc == GD_OK) {
        be->ops->close(be);
    }
    return rc;
}

static void test_machines(void **state)
{
    (void)state;
    struct gd_err err = {0};
    simt_set_devices(0);
    assert_int_equal(open_only(false, &err), GD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "--device cpu"));
    simt_reset();
    simt_set_driver(12040);
    assert_int_equal(open_only(false, &err), GD_EBACKEND);
    assert_non_null(strstr(err.msg, "12.4"));
    assert_non_null(strstr(err.msg, "update the driver"));
    simt_set_driver(0);
    assert_int_equal(open_only(false, &err), GD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "no NVIDIA driver"));
    simt_reset();
    simt_set_capability(7, 5);
    assert_int_equal(open_only(false, &err), GD_EBACKEND);
    assert_non_null(strstr(err.msg, "7.5 and 8.0 is needed"));
    simt_set_capability(8, 9);
    assert_int_equal(open_only(false, &err), GD_OK);
    assert_int_equal(open_only(true, &err), GD_EBACKEND);
    assert_non_null(strstr(err.msg, "--dtype bf16"));
    simt_reset();
    assert_true(simt_all_closed());
}

/* Only algorithms that keep the bits are used, in whatever order they are offered; with none of them
 * the back end refuses to serve. */
static void test_algorithms(void **state)
{
    (void)state;
    static const enum simt_algo orders[][4] = {
        {SIMT_ALGO_SPLIT, SIMT_ALGO_LAST_TILE, SIMT_ALGO_FEW_ROWS, SIMT_ALGO_PLAIN},
        {SIMT_ALGO_ODD_ROWS, SIMT_ALGO_HALVES, SIMT_ALGO_PLAIN, SIMT_ALGO_WIDE},
        {SIMT_ALGO_FEW_ROWS, SIMT_ALGO_WIDE, SIMT_ALGO_ODD_ROWS, SIMT_ALGO_HALVES},
        {SIMT_ALGO_LAST_TILE, SIMT_ALGO_ODD_ROWS, SIMT_ALGO_FEW_ROWS, SIMT_ALGO_SPLIT}};
    keep_offers = true;
    for (size_t o = 0; o < 4; o++) {
        simt_matmul_offer(orders[o], 4);
        if (o < 3) {
            check_same_bits(NUMBER_BF16);
            continue;
        }
        struct gd_backend *be = NULL;
        struct gd_model *m = NULL;
        struct gd_err err = {0};
        assert_int_equal(open_for(&be, NUMBER_BF16, 1, &err), GD_OK);
        assert_int_equal(gd_model_open(&m, MODELS[0], be, NULL, &err), GD_OK);
        assert_int_equal(be->ops->selftest(be, 128, &err), GD_EBACKEND);
        assert_non_null(strstr(err.msg, "same bits"));
        gd_model_close(m);
        be->ops->close(be);
    }
    keep_offers = false;
    assert_true(simt_all_closed());
}

/* ---- each call fails in turn ---- */

static struct {
    uint64_t select_begin, select_end, all; /* calls so far at these points of a run */
    bool lost;
    int rc, later_rc;
} life;

/* A whole life of a back end: open, load, test, a step called, recorded and replayed, close. */
static void live(struct fixture *x)
{
    struct gd_err err = {0};
    offer_few();
    uint64_t before = simt_calls();
    float logits[N_CHOICES] = {NAN};
    struct gd_choice choice = {.row = 0, .id = 1};
    int32_t tokens[20] = {0}, positions[20];
    uint32_t blocks[] = {0, 1}, seq_start[] = {0, 20}, block_start[] = {0, 2}, scored = 0;
    for (int32_t i = 0; i < 20; i++) {
        positions[i] = i;
    }
    struct gd_batch b = {20, 1, tokens, positions, seq_start, blocks, block_start, NULL};
    memset(x, 0, sizeof *x);
    int rc = gd_backend_cuda_open(&x->be, 0, false, &err);
    rc = rc != GD_OK ? rc : gd_model_open(&x->m, MODELS[1], x->be, NULL, &err);
    life.select_begin = simt_calls() - before;
    rc = rc != GD_OK ? rc : x->be->ops->selftest(x->be, 64, &err);
    life.select_end = simt_calls() - before;
    rc = rc != GD_OK ? rc : gd_forward_open(&x->f, x->m, 64, 8, &err);
    assert_true(rc == GD_OK || err.msg[0] != '\0');
    bool serving = rc == GD_OK;
    for (int i = 0; i < 3 && rc == GD_OK; i++) {
        rc = gd_forward_copy(x->f, 3, 1);
        rc = rc != GD_OK ? rc : gd_forward_run(x->f, &b, &scored, 1, NULL, NULL);
        rc = rc != GD_OK ? rc : gd_forward_choices(x->f, 1, &choice, logits);
    }
    life.rc = rc;
    life.later_rc = GD_EBACKEND;
    life.lost = x->be != NULL && x->be->lost != NULL;
    if (serving && rc != GD_OK) { /* nothing is answered any more */
        assert_true(life.lost);
        life.later_rc = gd_forward_run(x->f, &b, &scored, 1, NULL, NULL);
        assert_int_not_equal(gd_forward_choices(x->f, 1, &choice, logits), GD_OK);
    }
    gd_forward_close(x->f);
    gd_model_close(x->m);
    if (x->be != NULL) {
        x->be->ops->close(x->be);
    }
    life.all = simt_calls() - before;
}

static void test_every_call_fails(void **state)
{
    (void)state;
    struct fixture x;
    simt_reset();
    live(&x);
    assert_int_equal(life.rc, GD_OK);
    assert_true(simt_all_closed());
    uint64_t begin = life.select_begin, end = life.select_end, all = life.all, tried = 0;
    /* The trial of products makes thousands of like calls: one in 101 is enough of those. Of the others
     * every second one fails for good, the next one once, for want of memory. */
    for (uint64_t n = 1; n <= all; n += n > begin && n < end ? 101 : 1) {
        int code = n % 2 != 0 ? cudaErrorIllegalAddress : cudaErrorMemoryAllocation;
        simt_reset();
        simt_fail_call(n, code);
        live(&x);
        if (!simt_failed()) {
            break;
        }
        tried++;
        /* A failure while closing has nobody left to tell; a refusal may be an algorithm's. */
        bool told = life.rc == GD_EBACKEND || life.rc == GD_ENOMEM || life.rc == GD_ENOTFOUND;
        if (!told && n < all - 200 && !(n > begin && n < end)) {
            fail_msg("call %u with error %d: result %d", (unsigned)n, code, life.rc);
        }
        assert_int_not_equal(life.later_rc, GD_OK);
        if (code == cudaErrorMemoryAllocation) {
            simt_fail_call(0, 0);
            assert_true(simt_all_closed());
        }
    }
    print_message("%u calls of %u failed, each in its own life\n", (unsigned)tried, (unsigned)all);
    simt_reset();
}

/* With any amount of memory a model either serves or is refused, and everything is given back. */
static void test_memory(void **state)
{
    (void)state;
    struct fixture x;
    bool served = false, refused = false;
    for (size_t mib = 280; mib <= 360; mib += 8) {
        simt_reset();
        simt_set_memory(mib * GD_MIB);
        live(&x);
        assert_false(life.lost);
        served = served || life.rc == GD_OK;
        refused = refused || life.rc == GD_ENOMEM;
        assert_true(life.rc == GD_OK || life.rc == GD_ENOMEM);
        assert_true(simt_all_closed());
    }
    assert_true(served && refused);
    simt_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machines),
        cmocka_unit_test(test_algorithms),
        cmocka_unit_test(test_every_call_fails),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
