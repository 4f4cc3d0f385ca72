/* test_forward.c - whole models against the float64 truth of tests/golden/make_models.py, layer by
 * layer, and the promise of equal bits for a sequence alone, in a batch, in another order, in chunks,
 * on blocks that another one filled, with and without a tap, with one thread and two.
 *
 * The rule for errors: at most twice what PyTorch makes in float32 on the same model and sequences
 * (bf16: in bfloat16). */
#include <stddef.h>

static const char *const MODELS[] = {"golden/models/llama_bf16_sharded",
                                     "golden/models/llama_f32_tied", "golden/models/qwen2_f16"};

#include "forward_fixture.h"

static int open_for(struct gd_backend **out, enum number number, uint32_t variant,
                    struct gd_err *err)
{
    return gdk_backend_cpu_open(out, variant, number == NUMBER_BF16, err);
}

static void test_parity_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) {
        check_parity(MODELS[i], NUMBER_F32, 0);
        check_parity(MODELS[i], NUMBER_F32, 13);
    }
}

static void test_parity_bf16(void **state)
{
    (void)state;
    struct gd_backend *be = NULL;
    struct gd_weight *w = NULL;
    struct gd_err err = {0};
    static const float rows[64 * 64];
    assert_int_equal(gdk_backend_cpu_open(&be, 1, true, &err), GD_OK);
    int rc = be->ops->weight_load(be, 64, 64, GD_DTYPE_F32, rows, NULL, &w, &err);
    be->ops->weight_free(be, w);
    be->ops->close(be);
    if (rc != GD_OK) {
        print_message("SKIP bf16 parity: %s\n", err.msg);
        skip();
    }
    for (size_t i = 0; i < N_MODELS; i++) {
        check_parity(MODELS[i], NUMBER_BF16, 0);
        check_parity(MODELS[i], NUMBER_BF16, 13);
    }
}

static void test_same_bits(void **state)
{
    (void)state;
    check_same_bits(NUMBER_F32);
}

static void test_chunk_bits(void **state)
{
    (void)state;
    check_chunk_bits(NUMBER_F32);
}

static void test_shared_blocks(void **state)
{
    (void)state;
    check_shared_blocks(NUMBER_F32);
}

/* ---- refusals ---- */

static int try(struct fixture *x, const struct step *st)
{
    return gd_forward_run(x->f, &st->b, st->scored, st->n_scored, NULL, NULL);
}

/* A step of three sequences that is right. */
static struct step *good_step(const struct fixture *x)
{
    static const uint32_t table[] = {4, BLOCKS - 1, 0};
    struct step *st = step_begin();
    step_add(st, x->ids[0], 0, 1, table + 1, true);
    step_add(st, x->ids[longest(x)], 0, 16, table, false);
    step_add(st, x->ids[longest(x)], 0, 17, table, true);
    return st;
}

static void test_bad_batches(void **state)
{
    (void)state;
    struct fixture x;
    fixture_open(&x, MODELS[0], 1, NUMBER_F32);
    float logits[N_CHOICES];
    struct step *st = good_step(&x);
    assert_int_equal(try(&x, st), GD_OK);
    assert_int_equal(row_choices(&x, 1, logits), GD_OK);
    assert_int_equal(row_choices(&x, 2, logits), GD_EUSAGE);
    st->starts[1] = 0; /* an empty sequence */
    assert_int_equal(try(&x, st), GD_EUSAGE);
    assert_int_equal(row_choices(&x, 0, logits), GD_EUSAGE);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        st = good_step(&x);                                                                        \
        change;                                                                                    \
        assert_int_equal(try(&x, st), GD_EUSAGE);                                                  \
    } while (0)
    REFUSED(st->b.n_seqs = 0);
    REFUSED(st->b.n_seqs = GD_STEP_SEQS_MAX + 1);
    REFUSED(st->b.n_tokens = 0);
    REFUSED(st->b.n_tokens = MAX_TOKENS + 1);
    REFUSED(st->b.n_tokens--);
    REFUSED(st->starts[0] = 1);
    REFUSED(st->starts[1] = UINT32_MAX);
    REFUSED(st->positions[0] = -1);
    REFUSED(st->positions[0] = GD_CONTEXT_TOKENS_MAX);
    REFUSED(st->positions[0] = BLOCK); /* its table has no second entry */
    REFUSED(st->positions[3]++);       /* a gap */
    REFUSED(st->block_starts[1] = 0);
    REFUSED(st->block_starts[1] = 2);
    REFUSED(st->block_starts[2] = 3); /* one block too many, one too few */
    REFUSED(st->blocks[2] = BLOCKS);
    REFUSED(st->scored[1] = 3);
    REFUSED(st->scored[0] = 2);
    REFUSED(st->scored[1] = 0);
    REFUSED(st->n_scored = 4);
    st = good_step(&x);
    st->n_scored = 0;
    assert_int_equal(try(&x, st), GD_OK);
    assert_int_equal(row_choices(&x, 0, logits), GD_EUSAGE);
    fixture_close(&x);
}

/* ---- what a step leaves out, and what it does when an operation fails ---- */

static struct {
    const struct gd_backend_ops *real;
    uint32_t calls, rows;  /* of attention: how often, and tokens of the last one */
    uint32_t fail;         /* the call that fails; 0: none */
    uint32_t begins, ends; /* steps */
    bool watched;          /* the last one */
    int begin_rc, end_rc;  /* what step_begin and step_end add */
    bool recorded;
} spy;

static int spy_attention(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                         const struct gd_kv *kv, uint32_t layer, struct gd_rows *out)
{
    spy.rows = b->n_tokens;
    if (++spy.calls == spy.fail) {
        return GD_EBACKEND;
    }
    return spy.real->attention(be, b, qkv, kv, layer, out);
}

static int spy_step_begin(struct gd_backend *be, const struct gd_kv *kv, const struct gd_batch *b,
                          const struct gd_batch *scored, bool watched, struct gd_step_rows *out)
{
    spy.begins++;
    spy.watched = watched;
    int rc = spy.real->step_begin(be, kv, b, scored, watched, out);
    out->recorded = spy.recorded;
    return rc != GD_OK ? rc : spy.begin_rc;
}

static int spy_step_end(struct gd_backend *be)
{
    spy.ends++;
    int rc = spy.real->step_end(be);
    return rc != GD_OK ? rc : spy.end_rc;
}

static void spy_on(struct fixture *x, struct gd_backend_ops *ops)
{
    memset(&spy, 0, sizeof spy);
    *ops = *x->be->ops;
    spy.real = x->be->ops;
    ops->attention = spy_attention;
    ops->step_begin = spy_step_begin;
    ops->step_end = spy_step_end;
    x->be->ops = ops;
}

static void ignore_hidden(void *ctx, int layer, const float *hidden, uint32_t n_tokens,
                          uint32_t dim)
{
    (void)ctx, (void)layer, (void)hidden, (void)n_tokens, (void)dim;
}

static void test_last_layer(void **state)
{
    (void)state;
    struct fixture x;
    float logits[N_SEQS][N_CHOICES], again[N_SEQS][N_CHOICES];
    fixture_open(&x, MODELS[0], 1, NUMBER_F32);
    uint32_t n_layers = x.m->config.n_layers;
    struct gd_backend_ops ops;
    spy_on(&x, &ops);

    struct step *st = good_step(&x);
    spy.calls = 0;
    step_run(&x, st, NULL, logits);
    assert_int_equal(spy.calls, n_layers);
    assert_int_equal(spy.rows, st->n_scored);
    step_run(&x, st, ignore_hidden, again);
    assert_int_equal(spy.rows, st->b.n_tokens);
    assert_memory_equal(logits, again, st->n_scored * sizeof *logits);

    spy.calls = 0;
    st->n_scored = 0;
    step_run(&x, st, NULL, again);
    assert_int_equal(spy.calls, n_layers - 1);
    step_run(&x, st, ignore_hidden, again);
    assert_int_equal(spy.rows, st->b.n_tokens);

    for (spy.fail = 1; spy.fail <= n_layers; spy.fail++) {
        spy.calls = 0;
        st = good_step(&x);
        assert_int_equal(try(&x, st), GD_EBACKEND);
        assert_int_equal(row_choices(&x, 0, again[0]), GD_EUSAGE);
        step_run(&x, st, NULL, again);
        assert_memory_equal(logits, again, st->n_scored * sizeof *logits);
    }
    x.be->ops = spy.real;
    fixture_close(&x);
}

/* A step is ended once whatever happens in it, and not ended when it could not begin; a recorded one
 * calls no operation. A failure of the end is a failure of the step. */
static void test_step_ends(void **state)
{
    (void)state;
    struct fixture x;
    struct gd_backend_ops ops;
    float logits[N_SEQS][N_CHOICES], again[N_SEQS][N_CHOICES];
    fixture_open(&x, MODELS[0], 1, NUMBER_F32);
    struct step *st = good_step(&x);
    spy_on(&x, &ops);
    step_run(&x, st, NULL, logits);
    assert_true(spy.begins == 1 && spy.ends == 1 && !spy.watched);
    step_run(&x, st, ignore_hidden, again);
    assert_true(spy.begins == 2 && spy.ends == 2 && spy.watched);

    spy.calls = 0;
    spy.recorded = true; /* the rows of the step before are still there */
    step_run(&x, st, NULL, again);
    assert_int_equal(spy.calls, 0);
    assert_int_equal(spy.ends, 3);
    assert_memory_equal(logits, again, st->n_scored * sizeof *logits);
    spy.recorded = false;

    spy.begin_rc = GD_ENOMEM;
    assert_int_equal(try(&x, st), GD_ENOMEM);
    assert_int_equal(row_choices(&x, 0, again[0]), GD_EUSAGE);
    assert_true(spy.calls == 0 && spy.ends == 3);
    spy.begin_rc = GD_OK;

    spy.end_rc = GD_EBACKEND;
    assert_int_equal(try(&x, st), GD_EBACKEND);
    assert_int_equal(row_choices(&x, 0, again[0]), GD_EUSAGE);
    assert_int_equal(spy.ends, 4);
    spy.end_rc = GD_ENOMEM; /* the first one is told */
    spy.calls = 0;
    spy.fail = 1;
    assert_int_equal(try(&x, st), GD_EBACKEND);
    assert_int_equal(spy.ends, 5);
    spy.end_rc = GD_OK;
    spy.fail = 0;
    step_run(&x, st, NULL, again);
    assert_memory_equal(logits, again, st->n_scored * sizeof *logits);
    x.be->ops = spy.real;
    fixture_close(&x);
}

/* ---- logits of choices ---- */

/* Any pairs of rows and ids in one call: what each gives alone. */
static void test_choices(void **state)
{
    (void)state;
    enum { PAIRS = 40 };
    static struct gd_choice many[GD_STEP_CHOICES_MAX + 1];
    static float all[GD_STEP_CHOICES_MAX + 1];
    for (size_t i = 0; i < N_MODELS; i++) {
        static const int order[] = {2, 0, 4};
        struct fixture x;
        float logits[N_SEQS][N_CHOICES], got[PAIRS + 1], alone;
        struct gd_choice pairs[PAIRS];
        fixture_open(&x, MODELS[i], 2, NUMBER_F32);
        run(&x, order, 3, NULL, logits);
        uint32_t vocab = x.m->config.vocab_size;
        for (uint32_t k = 0; k < PAIRS; k++) {
            pairs[k].row = (k * 7 + k / 5) % 3;
            pairs[k].id = k == 3 ? (int32_t)vocab - 1 : (int32_t)(k * 2654435761u % vocab);
        }
        got[PAIRS] = 77.0f;
        assert_int_equal(gd_forward_choices(x.f, PAIRS, pairs, got), GD_OK);
        assert_true(got[PAIRS] == 77.0f);
        for (uint32_t k = 0; k < PAIRS; k++) {
            assert_int_equal(gd_forward_choices(x.f, 1, &pairs[k], &alone), GD_OK);
            assert_true(isfinite(alone) && alone == got[k]);
        }
        /* Rows next to one another in a call, each with ids of its own, last row first. */
        for (uint32_t k = 0; k < 3 * N_CHOICES; k++) {
            many[k].row = 2 - k / N_CHOICES;
            many[k].id = x.choices[(k + many[k].row) % N_CHOICES];
        }
        assert_int_equal(gd_forward_choices(x.f, 3 * N_CHOICES, many, all), GD_OK);
        for (uint32_t k = 0; k < 3 * N_CHOICES; k++) {
            assert_true(all[k] == logits[many[k].row][(k + many[k].row) % N_CHOICES]);
        }

        for (uint32_t k = 0; k <= GD_STEP_CHOICES_MAX; k++) {
            many[k] = pairs[k % PAIRS];
        }
        assert_int_equal(gd_forward_choices(x.f, GD_STEP_CHOICES_MAX, many, all), GD_OK);
        for (uint32_t k = 0; k < GD_STEP_CHOICES_MAX; k++) {
            assert_true(all[k] == got[k % PAIRS]);
        }
        assert_int_equal(gd_forward_choices(x.f, GD_STEP_CHOICES_MAX + 1, many, all), GD_EUSAGE);
        assert_int_equal(gd_forward_choices(x.f, 0, NULL, NULL), GD_OK);
        /* One wrong pair among right ones, also the last. */
        const struct gd_choice wrong[] = {{3, 0},         {UINT32_MAX, 0},     {0, -1},
                                          {1, INT32_MIN}, {2, (int32_t)vocab}, {2, INT32_MAX}};
        for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            uint32_t at = k % 2 == 0 ? PAIRS - 1 : 0;
            struct gd_choice kept = pairs[at];
            pairs[at] = wrong[k];
            assert_int_equal(gd_forward_choices(x.f, PAIRS, pairs, got), GD_EUSAGE);
            pairs[at] = kept;
        }
        fixture_close(&x);
    }
}

static void test_open(void **state)
{
    (void)state;
    struct fixture x;
    struct gd_forward *f = NULL;
    struct gd_err err = {0};
    fixture_open(&x, MODELS[0], 1, NUMBER_F32);
    const struct gd_model_config *c = &x.m->config;
    const uint32_t heads = c->n_heads * c->head_dim;
    const uint32_t qkv = heads + 2 * c->n_kv_heads * c->head_dim;
    assert_int_equal(gd_forward_block_bytes(x.m), (size_t)c->n_layers * 2 * c->n_kv_heads * BLOCK *
                                                      gdk_kv_pad(c->head_dim) * sizeof(float));
    for (uint32_t n = 1; n <= 2 * GD_STEP_SEQS_MAX; n *= 2) {
        uint32_t seqs = n < GD_STEP_SEQS_MAX ? n : GD_STEP_SEQS_MAX; /* scored: x, qkv, norm */
        uint64_t wide = qkv > 2 * c->ffn_dim ? qkv : 2 * c->ffn_dim;
        uint64_t inner = heads > c->ffn_dim ? heads : c->ffn_dim;
        uint64_t floats = n * (3 * c->dim + wide + inner) + seqs * (2 * c->dim + qkv);
        assert_true(gd_forward_bytes(x.m, n) >= floats * sizeof(float));
    }
    assert_true(gd_forward_bytes(x.m, 65) > gd_forward_bytes(x.m, 64));
    assert_int_equal(gd_forward_open(&f, x.m, 0, 4, &err), GD_EUSAGE);
    assert_int_equal(gd_forward_open(&f, x.m, 4, 0, &err), GD_EUSAGE);
    assert_null(f);
    gd_forward_close(NULL);
    fixture_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity_f32),    cmocka_unit_test(test_parity_bf16),
        cmocka_unit_test(test_same_bits),     cmocka_unit_test(test_chunk_bits),
        cmocka_unit_test(test_shared_blocks), cmocka_unit_test(test_bad_batches),
        cmocka_unit_test(test_last_layer),    cmocka_unit_test(test_step_ends),
        cmocka_unit_test(test_choices),       cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
