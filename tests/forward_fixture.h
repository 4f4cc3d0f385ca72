/* forward_fixture.h - whole models on any back end: sequences and references of tests/golden/models, steps
 * that are put together by hand, parity with float64, equal bits.
 *
 * A program defines before it includes this: MODELS, an array of directories; after it: open_for. State
 * is static: one test program each. */
#ifndef GUARDIAN_TESTS_FORWARD_FIXTURE_H
#define GUARDIAN_TESTS_FORWARD_FIXTURE_H

#include "guardian/engine.h"
#include "guardian/file.h"
#include "guardian/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#define N_MODELS (sizeof MODELS / sizeof MODELS[0])
#define N_SEQS 5
#define N_CHOICES 11
#define MAX_LAYERS 8
#define MAX_TOKENS 512
#define BLOCKS 160 /* of the KV cache */
#define BLOCK GD_KV_BLOCK_TOKENS

/* ---- reference.safetensors ---- */

struct reference {
    struct gd_arena arena;
    char *data;
    size_t len;
    struct gd_tensor_info *tensors;
    size_t n_tensors;
};

static void reference_open(struct reference *r, const char *dir)
{
    char path[256];
    struct gd_err err = {0};
    snprintf(path, sizeof path, "%s/reference.safetensors", dir);
    if (gd_file_read(path, 16 * GD_MIB, &r->data, &r->len, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    gd_arena_init(&r->arena, 16 * GD_MIB);
    if (gd_safetensors_parse_header(&r->arena, (struct gd_str){r->data, r->len}, r->len,
                                    &r->tensors, &r->n_tensors, &err) != GD_OK) {
        fail_msg("%s: %s", path, err.msg);
    }
}

static void reference_close(struct reference *r)
{
    gd_arena_free(&r->arena);
    free(r->data);
}

/* Values of "name" or, with s >= 0, "name.s", with l >= 0 "name.s.l"; copied, as the file does not
 * align them. */
static void *values(struct reference *r, const char *name, int s, int l, size_t elem, size_t *n)
{
    char full[64];
    snprintf(full, sizeof full, s < 0 ? "%s" : l < 0 ? "%s.%d" : "%s.%d.%d", name, s, l);
    for (size_t i = 0; i < r->n_tensors; i++) {
        const struct gd_tensor_info *t = &r->tensors[i];
        if (gd_str_eqz(t->name, full)) {
            assert_int_equal(t->nbytes % elem, 0);
            *n = t->nbytes / elem;
            void *p = gd_arena_alloc(&r->arena, t->nbytes);
            assert_non_null(p);
            memcpy(p, r->data + t->offset, t->nbytes);
            return p;
        }
    }
    fail_msg("no %s in the reference", full);
    return NULL;
}

/* ---- one model, and its sequences ---- */

struct fixture {
    struct gd_backend *be;
    struct gd_model *m;
    struct gd_forward *f;
    struct reference ref;
    const int32_t *ids[N_SEQS];
    size_t lens[N_SEQS];
    const int32_t *choices;
    double worst[MAX_LAYERS + 2]; /* largest error so far, as error_f32 counts it */
    double largest;               /* largest |value| of the residual stream */
    int seq;                      /* the tap compares with this one, */
    uint32_t first;               /* which is in the step from this position on */
    uint32_t n_seen;              /* rows compared by the tap */
};

/* The program's own: a back end for this dtype; variants must give the same bits. */
enum number { NUMBER_F32, NUMBER_BF16, NUMBER_FP8 };
static int open_for(struct gd_backend **out, enum number number, uint32_t variant,
                    struct gd_err *err);

static void fixture_open(struct fixture *x, const char *dir, uint32_t variant, enum number number)
{
    struct gd_err err = {0};
    size_t n = 0;
    memset(x, 0, sizeof *x);
    if (open_for(&x->be, number, variant, &err) != GD_OK ||
        gd_model_open(&x->m, dir, x->be, NULL, &err) != GD_OK ||
        x->be->ops->selftest(x->be, MAX_TOKENS, &err) != GD_OK ||
        gd_forward_open(&x->f, x->m, MAX_TOKENS, BLOCKS, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    reference_open(&x->ref, dir);
    for (int s = 0; s < N_SEQS; s++) {
        x->ids[s] = values(&x->ref, "input_ids", s, -1, sizeof(int32_t), &x->lens[s]);
    }
    x->choices = values(&x->ref, "choice_ids", -1, -1, sizeof(int32_t), &n);
    assert_int_equal(n, N_CHOICES);
}

static void fixture_close(struct fixture *x)
{
    gd_forward_close(x->f);
    gd_model_close(x->m);
    x->be->ops->close(x->be);
    reference_close(&x->ref);
}

/* ---- steps ---- */

struct step {
    struct gd_batch b;
    int32_t tokens[MAX_TOKENS], positions[MAX_TOKENS];
    uint32_t starts[2 * N_SEQS + 1], block_starts[2 * N_SEQS + 1], blocks[BLOCKS];
    uint32_t scored[2 * N_SEQS], n_scored;
};

static struct step *step_begin(void)
{
    static struct step st;
    memset(&st, 0, sizeof st);
    st.b = (struct gd_batch){.tokens = st.tokens,
                             .positions = st.positions,
                             .seq_start = st.starts,
                             .blocks = st.blocks,
                             .block_start = st.block_starts};
    return &st;
}

/* Tokens first .. first + n - 1 of a sequence, in blocks table[0], table[1], .. */
static void step_add(struct step *st, const int32_t *ids, uint32_t first, uint32_t n,
                     const uint32_t *table, bool score)
{
    uint32_t s = st->b.n_seqs, at = st->block_starts[s], n_blocks = (first + n - 1) / BLOCK + 1;
    assert_true(s < 2 * N_SEQS && st->b.n_tokens + n <= MAX_TOKENS && at + n_blocks <= BLOCKS);
    for (uint32_t i = 0; i < n; i++) {
        st->tokens[st->b.n_tokens + i] = ids[first + i];
        st->positions[st->b.n_tokens + i] = (int32_t)(first + i);
    }
    memcpy(st->blocks + at, table, n_blocks * sizeof *table);
    if (score) {
        st->scored[st->n_scored++] = s;
    }
    st->b.n_tokens += n;
    st->starts[s + 1] = st->b.n_tokens;
    st->block_starts[s + 1] = at + n_blocks;
    st->b.n_seqs++;
}

/* Logits of all choices of one row. */
static int row_choices(struct fixture *x, uint32_t row, float *logits)
{
    struct gd_choice choices[N_CHOICES];
    for (uint32_t i = 0; i < N_CHOICES; i++) {
        choices[i] = (struct gd_choice){.row = row, .id = x->choices[i]};
    }
    return gd_forward_choices(x->f, N_CHOICES, choices, logits);
}

static void step_run(struct fixture *x, const struct step *st, gd_forward_tap tap,
                     float logits[][N_CHOICES])
{
    assert_int_equal(gd_forward_run(x->f, &st->b, st->scored, st->n_scored, tap, x), GD_OK);
    for (uint32_t i = 0; i < st->n_scored; i++) {
        assert_int_equal(row_choices(x, i, logits[i]), GD_OK);
    }
    assert_int_equal(row_choices(x, st->n_scored, logits[0]), GD_EUSAGE);
}

/* Blocks from, from + 1, .. of the cache, in an order that is not theirs. */
static void table_fill(uint32_t *table, uint32_t from)
{
    for (uint32_t i = 0; i < BLOCKS; i++) {
        table[i] = (from + i * 7) % BLOCKS; /* 7 and BLOCKS have no common divisor */
    }
}

/* Runs the sequences order[0..n_seqs-1] as one batch; logits[i] belongs to order[i]. */
static void run(struct fixture *x, const int *order, uint32_t n_seqs, gd_forward_tap tap,
                float logits[][N_CHOICES])
{
    struct step *st = step_begin();
    uint32_t table[BLOCKS], used = 0;
    x->first = 0;
    table_fill(table, 3);
    for (uint32_t i = 0; i < n_seqs; i++) {
        uint32_t n = (uint32_t)x->lens[order[i]];
        step_add(st, x->ids[order[i]], 0, n, table + used, true);
        used += (n - 1) / BLOCK + 1;
        assert_true(used <= BLOCKS);
    }
    step_run(x, st, tap, logits);
}

/* ---- parity ---- */

static void note_error(double *worst, double got, double want)
{
    double error = fabs(got - want);
    assert_true(isfinite(got));
    *worst = error > *worst ? error : *worst;
}

static void compare_hidden(void *ctx, int layer, const float *hidden, uint32_t n_tokens,
                           uint32_t dim)
{
    struct fixture *x = ctx;
    size_t n_rows = 0, n = 0;
    assert_true(x->first + n_tokens <= x->lens[x->seq]);
    const int32_t *rows = values(&x->ref, "rows", x->seq, -1, sizeof *rows, &n_rows);
    const double *want = values(&x->ref, "hidden", x->seq, layer + 1, sizeof *want, &n);
    assert_int_equal(n, n_rows * dim);
    for (size_t i = 0; i < n; i++) {
        uint32_t row = (uint32_t)rows[i / dim];
        if (row >= x->first && row < x->first + n_tokens) {
            double got = (double)hidden[(size_t)(row - x->first) * dim + i % dim];
            note_error(&x->worst[layer + 1], got, want[i]);
            x->largest = fabs(want[i]) > x->largest ? fabs(want[i]) : x->largest;
            x->n_seen += i % dim == 0;
        }
    }
}

/* One sequence in chunks of this many tokens, the last one scored. */
static void run_chunks(struct fixture *x, int seq, uint32_t chunk, gd_forward_tap tap,
                       float logits[][N_CHOICES])
{
    uint32_t table[BLOCKS], len = (uint32_t)x->lens[seq];
    table_fill(table, 11);
    for (x->first = 0; x->first < len; x->first += chunk) {
        struct step *st = step_begin();
        uint32_t n = len - x->first < chunk ? len - x->first : chunk;
        step_add(st, x->ids[seq], x->first, n, table, x->first + n == len);
        step_run(x, st, tap, logits);
    }
}

/* chunk 0: whole sequences. */
static inline void check_parity(const char *dir, enum number number, uint32_t chunk)
{
    struct fixture x;
    size_t n = 0;
    static const char *const names[] = {"error_f32", "error_bf16", "error_fp8"};
    fixture_open(&x, dir, 1, number);
    int n_layers = (int)x.m->config.n_layers;
    for (int s = 0; s < N_SEQS; s++) {
        float logits[1][N_CHOICES];
        x.seq = s;
        x.n_seen = 0;
        if (chunk == 0) {
            run(&x, &s, 1, compare_hidden, logits);
        } else {
            run_chunks(&x, s, chunk, compare_hidden, logits);
        }
        values(&x.ref, "rows", s, -1, sizeof(int32_t), &n);
        assert_int_equal(x.n_seen, n * (size_t)(n_layers + 1));
        const double *want = values(&x.ref, "logits", s, -1, sizeof *want, &n);
        assert_int_equal(n, N_CHOICES);
        for (int i = 0; i < N_CHOICES; i++) {
            note_error(&x.worst[n_layers + 1], (double)logits[0][i], want[i]);
        }
    }
    const double *theirs = values(&x.ref, names[number], -1, -1, sizeof *theirs, &n);
    assert_int_equal(n, n_layers + 2);
    /* Twice nothing would be too little where PyTorch was lucky: one unit in the last place of the
     * largest value is free, the error that storing it costs anyway. */
    double unit = x.largest * 0x1p-23;
    for (int l = 0; l < n_layers + 2; l++) {
        print_message("%s %s chunk %u, %d: %.2e, PyTorch %.2e\n", dir, x.be->gemm_dtype, chunk, l,
                      x.worst[l], theirs[l]);
        if (x.worst[l] > 2 * theirs[l] + (l == 0 ? 0.0 : unit)) {
            fail_msg("%s: error %g after layer %d, PyTorch's is %g", dir, x.worst[l], l - 1,
                     theirs[l]);
        }
    }
    fixture_close(&x);
}

/* ---- bits ---- */

static inline void check_same_bits(enum number number)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        struct fixture one, two;
        float alone[N_SEQS][N_CHOICES], tapped[1][N_CHOICES], batch[2 * N_SEQS][N_CHOICES];
        fixture_open(&one, MODELS[i], 1, number);
        fixture_open(&two, MODELS[i], 2, number);
        for (int s = 0; s < N_SEQS; s++) {
            run(&one, &s, 1, NULL, &alone[s]);
            one.seq = s;
            run(&one, &s, 1, compare_hidden, tapped);
            assert_memory_equal(tapped, alone[s], sizeof tapped); /* last layer in full or not */
            run(&two, &s, 1, NULL, tapped);
            assert_memory_equal(tapped, alone[s], sizeof tapped);
        }
        static const int orders[][2 * N_SEQS] = {{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 4, 0, 3, 1}};
        for (size_t o = 0; o < 3; o++) {
            run(o % 2 == 0 ? &two : &one, orders[o], N_SEQS, NULL, batch);
            for (int s = 0; s < N_SEQS; s++) {
                assert_memory_equal(batch[s], alone[orders[o][s]], sizeof batch[s]);
            }
        }
        static const int twice[] = {3, 3, 0, 4, 0, 2, 1, 3}; /* the same one more than once */
        run(&two, twice, 8, NULL, batch);
        for (int s = 0; s < 8; s++) {
            assert_memory_equal(batch[s], alone[twice[s]], sizeof batch[s]);
        }
        fixture_close(&one);
        fixture_close(&two);
    }
}

/* In chunks, on scattered blocks; whatever is scored beside it and whatever is not. */
static inline void check_chunk_bits(enum number number)
{
    static const uint32_t CHUNKS[] = {1, 5, 16, 33, 64};
    for (size_t i = 0; i < N_MODELS; i++) {
        struct fixture x;
        float alone[N_SEQS][N_CHOICES], got[N_SEQS][N_CHOICES];
        fixture_open(&x, MODELS[i], 1 + i % 2, number);
        for (int s = 0; s < N_SEQS; s++) {
            run(&x, &s, 1, NULL, &alone[s]);
        }
        for (size_t c = 0; c < sizeof CHUNKS / sizeof CHUNKS[0]; c++) {
            for (int s = 0; s < N_SEQS; s++) {
                run_chunks(&x, s, CHUNKS[c], NULL, got);
                assert_memory_equal(got[0], alone[s], sizeof got[0]);
            }
        }
        /* All at once in two steps: some end in the first, some are scored in the second. */
        struct step *st = step_begin();
        uint32_t tables[N_SEQS][BLOCKS], used = 0, half[N_SEQS];
        for (int s = 0; s < N_SEQS; s++) {
            table_fill(tables[s], used * 7);
            used += ((uint32_t)x.lens[s] - 1) / BLOCK + 1;
            half[s] = s % 2 == 1 || x.lens[s] == 1 ? (uint32_t)x.lens[s] : (uint32_t)x.lens[s] / 2;
            step_add(st, x.ids[s], 0, half[s], tables[s], half[s] == x.lens[s]);
        }
        step_run(&x, st, NULL, got);
        for (uint32_t r = 0; r < st->n_scored; r++) {
            assert_memory_equal(got[r], alone[st->scored[r]], sizeof got[r]);
        }
        int rest[N_SEQS], n_rest = 0;
        st = step_begin();
        for (int s = N_SEQS - 1; s >= 0; s--) {
            if (half[s] < x.lens[s]) {
                rest[n_rest++] = s;
                step_add(st, x.ids[s], half[s], (uint32_t)x.lens[s] - half[s], tables[s], true);
            }
        }
        assert_true(n_rest > 1);
        step_run(&x, st, NULL, got);
        for (int r = 0; r < n_rest; r++) {
            assert_memory_equal(got[r], alone[rest[r]], sizeof got[r]);
        }
        fixture_close(&x);
    }
}

static int longest(const struct fixture *x)
{
    int best = 0;
    for (int s = 1; s < N_SEQS; s++) {
        best = x->lens[s] > x->lens[best] ? s : best;
    }
    return best;
}

/* Two prompts with a common beginning: the second one uses the first one's whole blocks in the same
 * step, or a copy of the block where they part in a later one. */
static inline void check_shared_blocks(enum number number)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        struct fixture x;
        float alone[2][N_CHOICES], got[2][N_CHOICES];
        uint32_t first[BLOCKS], second[BLOCKS];
        int32_t other[MAX_TOKENS];
        fixture_open(&x, MODELS[i], 2, number);
        int s = longest(&x);
        uint32_t len = (uint32_t)x.lens[s], whole = len / 2 / BLOCK, same = whole * BLOCK + 5;
        assert_true(whole > 0 && same < len);
        memcpy(other, x.ids[s], len * sizeof *other);
        for (uint32_t t = same; t < len; t++) {
            other[t] = x.ids[s][len - 1 - (t - same)];
        }
        table_fill(first, 0);
        table_fill(second, 5);
        struct step *st = step_begin();
        step_add(st, x.ids[s], 0, len, first, true);
        step_run(&x, st, NULL, &alone[0]);
        st = step_begin();
        step_add(st, other, 0, len, first, true);
        step_run(&x, st, NULL, &alone[1]);
        assert_memory_not_equal(alone[0], alone[1], sizeof alone[0]);

        memcpy(second, first, whole * sizeof *second);
        for (uint32_t j = whole; j < BLOCKS / 2; j++) {
            second[j] = first[BLOCKS / 2 + j];
        }
        st = step_begin(); /* the sharer stands before its prefix in the packed order */
        step_add(st, other, whole * BLOCK, len - whole * BLOCK, second, true);
        step_add(st, x.ids[s], 0, len, first, true);
        step_run(&x, st, NULL, got);
        assert_memory_equal(got[0], alone[1], sizeof got[0]);
        assert_memory_equal(got[1], alone[0], sizeof got[1]);

        second[whole] = BLOCKS - 1 - first[whole]; /* not yet in use */
        assert_int_equal(gd_forward_copy(x.f, second[whole], first[whole]), GD_OK);
        st = step_begin();
        step_add(st, other, same, len - same, second, true);
        step_run(&x, st, NULL, got);
        assert_memory_equal(got[0], alone[1], sizeof got[0]);
        assert_int_equal(gd_forward_copy(x.f, BLOCKS, 0), GD_EUSAGE);
        assert_int_equal(gd_forward_copy(x.f, 0, BLOCKS), GD_EUSAGE);
        fixture_close(&x);
    }
}

#endif
