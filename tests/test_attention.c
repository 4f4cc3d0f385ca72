/* test_attention.c - rope_kv and attention over the paged cache: against the same mathematics in
 * double, and the promise that a token's bits do not depend on how its sequence is cut, which blocks
 * hold it, who else is in the step, who wrote the blocks, or how many threads work. Every place of
 * the cache that nobody should read holds NaN. */
#include "test_kernels.h"

#include <unistd.h>

#define MAX_TOKENS 2048u
#define MAX_SEQS 16u
#define MAX_BLOCKS 512u
#define BLOCK ((uint32_t)GD_KV_BLOCK_TOKENS)
#define POOL 160u /* blocks of a cache here */
#define POSITIONS (POOL * BLOCK)

struct heads {
    uint32_t heads, kv, dim;
};

/* All paddings of head_dim; groups of 1, 2, 4, 7, 8, and one larger than an item has rows. */
static const struct heads HEADS[] = {{1, 1, 32}, {2, 2, 64}, {4, 2, 96},  {8, 1, 128}, {7, 1, 64},
                                     {6, 3, 16}, {2, 1, 8},  {4, 4, 80},  {2, 1, 256}, {4, 1, 24},
                                     {8, 2, 64}, {4, 2, 64}, {100, 1, 16}};
#define N_HEADS (sizeof HEADS / sizeof HEADS[0])

static size_t row_of(const struct heads *h)
{
    return (size_t)(h->heads + 2 * h->kv) * h->dim;
}

static size_t out_of(const struct heads *h)
{
    return (size_t)h->heads * h->dim;
}

static struct gd_attn_shape shape_of(const struct heads *h)
{
    return (struct gd_attn_shape){h->heads, h->kv, h->dim, 1.0f / sqrtf((float)h->dim)};
}

/* ---- packed batches ---- */

struct packed {
    struct gd_batch b;
    int32_t positions[MAX_TOKENS];
    uint32_t starts[MAX_SEQS + 1], blocks[MAX_BLOCKS], block_starts[MAX_SEQS + 1];
};

static void pack_begin(struct packed *p)
{
    p->starts[0] = p->block_starts[0] = 0;
    p->b = (struct gd_batch){.positions = p->positions,
                             .seq_start = p->starts,
                             .blocks = p->blocks,
                             .block_start = p->block_starts};
}

/* Appends tokens first .. first + n - 1 of a sequence that has this block table. */
static void pack_add(struct packed *p, uint32_t first, uint32_t n, const uint32_t *table)
{
    uint32_t n_blocks = (first + n - 1) / BLOCK + 1, at = p->block_starts[p->b.n_seqs];
    assert_true(p->b.n_tokens + n <= MAX_TOKENS && p->b.n_seqs < MAX_SEQS);
    assert_true(at + n_blocks <= MAX_BLOCKS);
    for (uint32_t i = 0; i < n; i++) {
        p->positions[p->b.n_tokens + i] = (int32_t)(first + i);
    }
    memcpy(p->blocks + at, table, n_blocks * sizeof *table);
    p->b.n_seqs++;
    p->b.n_tokens += n;
    p->starts[p->b.n_seqs] = p->b.n_tokens;
    p->block_starts[p->b.n_seqs] = at + n_blocks;
}

/* Whole sequences one after another, in blocks 0, 1, 2, .. */
static void pack_whole(struct packed *p, uint32_t n_seqs, const uint32_t *lens)
{
    uint32_t table[POOL], next = 0;
    pack_begin(p);
    for (uint32_t s = 0; s < n_seqs; s++) {
        uint32_t n_blocks = (lens[s] - 1) / BLOCK + 1;
        for (uint32_t i = 0; i < n_blocks; i++) {
            table[i] = next++;
        }
        pack_add(p, 0, lens[s], table);
    }
    assert_true(next <= POOL);
}

/* ---- a back end with a cache of two layers; the first is used, the second must stay out of it ---- */

struct device {
    struct gd_backend *be;
    struct gd_kv *kv;
    struct heads h;
    float inv_freq[GDK_HEAD_DIM_MAX / 2];
};

static void step(struct device *d, const struct packed *p, float *qkv, float *out)
{
    static const struct gd_batch none = {.n_tokens = 0};
    const struct gd_backend_ops *ops = d->be->ops;
    struct gd_step_rows rows = {0};
    assert_int_equal(ops->step_begin(d->be, d->kv, &p->b, &none, false, &rows), GD_OK);
    assert_int_equal(ops->rope_kv(d->be, &p->b, HANDLE(qkv), d->kv, 0), GD_OK);
    assert_int_equal(ops->attention(d->be, &p->b, HANDLE(qkv), d->kv, 0, HANDLE(out)), GD_OK);
    assert_int_equal(ops->step_end(d->be), GD_OK);
}

/* NaN at every position of every block, in both layers. */
static void poison(struct device *d)
{
    static struct packed p;
    size_t row = row_of(&d->h);
    float *qkv = random_floats(BLOCK * row);
    for (uint32_t i = 0; i < POOL * 2; i++) {
        uint32_t block = i / 2;
        pack_begin(&p);
        pack_add(&p, 0, BLOCK, &block);
        for (size_t j = 0; j < BLOCK * row; j++) {
            qkv[j] = NAN;
        }
        assert_int_equal(d->be->ops->rope_kv(d->be, &p.b, HANDLE(qkv), d->kv, i % 2), GD_OK);
    }
    free(qkv);
}

static void device_open(struct device *d, const struct heads *h, uint32_t n_threads)
{
    struct gd_attn_shape s = shape_of(h);
    d->be = open_backend(n_threads, false);
    d->h = *h;
    for (uint32_t i = 0; i < h->dim / 2; i++) {
        d->inv_freq[i] = (float)pow(10000.0, -2.0 * i / h->dim);
    }
    const struct gd_rope rope = {.inv_freq = d->inv_freq, .n_positions = POSITIONS};
    assert_int_equal(d->be->ops->kv_open(d->be, 2, POOL, &s, &rope, &d->kv, NULL), GD_OK);
    poison(d);
}

static void device_close(struct device *d)
{
    d->be->ops->kv_close(d->be, d->kv);
    d->be->ops->close(d->be);
}

/* ---- values, against double ---- */

/* The cache is not visible, so keys are rotated here, from the row that rope_kv was given. */
static void rotate_double(const struct heads *h, const float *inv_freq, uint32_t position,
                          const float *src, double *dst)
{
    uint32_t half = h->dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        double angle = (double)((float)position * inv_freq[i]);
        double lo = (double)src[i], hi = (double)src[half + i];
        dst[i] = lo * cos(angle) - hi * sin(angle);
        dst[half + i] = hi * cos(angle) + lo * sin(angle);
    }
}

/* want[n, dim]: one query head of all tokens of a sequence whose rows are in[n, row]. */
static void attend_double(const struct heads *h, const float *inv_freq, uint32_t head, uint32_t n,
                          const float *in, double *want)
{
    size_t row = row_of(h), dim = h->dim;
    size_t kv_head = head / (h->heads / h->kv);
    double *k = calloc(n * dim, sizeof *k), *score = calloc(n, sizeof *score), q[GDK_HEAD_DIM_MAX];
    assert_true(k != NULL && score != NULL);
    for (uint32_t t = 0; t < n; t++) {
        rotate_double(h, inv_freq, t, in + t * row + (h->heads + kv_head) * dim, k + t * dim);
        rotate_double(h, inv_freq, t, in + t * row + head * dim, q);
        double top = -INFINITY, sum = 0.0;
        for (uint32_t j = 0; j <= t; j++) {
            score[j] = 0.0;
            for (uint32_t i = 0; i < dim; i++) {
                score[j] += q[i] * k[j * dim + i];
            }
            score[j] /= sqrt((double)dim);
            top = score[j] > top ? score[j] : top;
        }
        memset(want + t * dim, 0, dim * sizeof *want);
        for (uint32_t j = 0; j <= t; j++) {
            double weight = exp(score[j] - top);
            const float *v = in + j * row + (h->heads + h->kv + kv_head) * dim;
            sum += weight;
            for (uint32_t i = 0; i < dim; i++) {
                want[t * dim + i] += weight * (double)v[i];
            }
        }
        for (uint32_t i = 0; i < dim; i++) {
            want[t * dim + i] /= sum;
        }
    }
    free(k), free(score);
}

static void check_queries(const struct packed *p, const struct heads *h, const float *inv_freq,
                          const float *before, const float *after)
{
    size_t row = row_of(h);
    for (uint32_t t = 0; t < p->b.n_tokens; t++) {
        for (uint32_t j = 0; j < h->heads; j++) {
            double want[GDK_HEAD_DIM_MAX];
            const float *got = after + t * row + (size_t)j * h->dim;
            rotate_double(h, inv_freq, (uint32_t)p->positions[t],
                          before + t * row + (size_t)j * h->dim, want);
            for (uint32_t i = 0; i < h->dim; i++) {
                assert_true(fabs((double)got[i] - want[i]) < 1e-6);
            }
        }
    }
}

static void check_values(const struct packed *p, const struct heads *h, const float *inv_freq,
                         const float *in, const float *out, double tolerance)
{
    for (uint32_t s = 0; s < p->b.n_seqs; s++) {
        uint32_t first = p->starts[s], n = p->starts[s + 1] - first;
        double *want = calloc((size_t)n * h->dim, sizeof *want);
        assert_non_null(want);
        for (uint32_t j = 0; j < h->heads; j++) {
            attend_double(h, inv_freq, j, n, in + first * row_of(h), want);
            for (uint32_t i = 0; i < n * h->dim; i++) {
                uint32_t t = i / h->dim;
                double got =
                    (double)out[((size_t)(first + t) * h->heads + j) * h->dim + i % h->dim];
                if (!(fabs(got - want[i]) < tolerance)) {
                    fail_msg("attention %u/%u/%u: sequence %u token %u head %u element %u: %.9g "
                             "instead of %.9g",
                             h->heads, h->kv, h->dim, s, t, j, i % h->dim, got, want[i]);
                }
            }
        }
        free(want);
    }
}

static const uint32_t LENS[] = {1, 63, 64, 65, 129, 17, 200, 16};
#define N_LENS (sizeof LENS / sizeof LENS[0])

static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_HEADS; i++) {
        const struct heads *h = &HEADS[i];
        struct device d;
        static struct packed p;
        device_open(&d, h, 2);
        pack_whole(&p, N_LENS, LENS);
        float *in = random_floats(p.b.n_tokens * row_of(h));
        float *qkv = copy_of(in, p.b.n_tokens * row_of(h) * sizeof *in);
        float *out = random_floats(p.b.n_tokens * out_of(h));
        step(&d, &p, qkv, out);
        check_queries(&p, h, d.inv_freq, in, qkv);
        check_values(&p, h, d.inv_freq, in, out, 4e-6);
        device_close(&d);
        free(in), free(qkv), free(out);
    }
}

/* Scores of very different size: the running maximum must rescale what came before. */
static void test_large_scores(void **state)
{
    (void)state;
    const struct heads h = {1, 1, 32};
    const uint32_t len = 300;
    struct device d;
    static struct packed p;
    device_open(&d, &h, 1);
    float *in = random_floats(len * 96), *out = random_floats(len * 32);
    for (uint32_t t = 0; t < len; t++) {
        for (uint32_t i = 0; i < 32; i++) {
            in[t * 96 + i] *= 30.0f;
            in[t * 96 + 32 + i] *= (float)t;
        }
    }
    float *qkv = copy_of(in, len * 96 * sizeof *in);
    pack_whole(&p, 1, &len);
    step(&d, &p, qkv, out);
    check_values(&p, &h, d.inv_freq, in, out, 1e-2);
    device_close(&d);
    free(in), free(qkv), free(out);
}

/* ---- the layout that kernels.h gives ---- */

static void test_layout(void **state)
{
    (void)state;
    const struct heads h = {2, 2, 24};
    const struct gd_attn_shape s = shape_of(&h);
    const uint32_t pad = gdk_kv_pad(h.dim), table[] = {3, 1};
    const size_t n = 5 * h.kv * BLOCK * pad, row = row_of(&h);
    static float table_cs[20 * 24];
    const float inv_freq[12] = {1.0f, 0.5f};
    static struct packed p;
    float *k = calloc(n, sizeof *k), *v = calloc(n, sizeof *v), *qkv = random_floats(9 * row);
    assert_int_equal(pad, 32);
    assert_true(k != NULL && v != NULL);
    struct gdk_kv_layer kv = {.k = k, .v = v};
    gdk_rope_table_cpu(0, 20, h.dim, inv_freq, table_cs);
    pack_begin(&p);
    pack_add(&p, 11, 9, table); /* positions 11 to 19: 5 in block 3, 4 in block 1 */
    float *in = copy_of(qkv, 9 * row * sizeof *qkv);
    gdk_rope_kv_cpu(0, 9, &p.b, &s, table_cs, qkv, &kv);
    size_t seen = 0;
    for (uint32_t t = 0; t < 9; t++) {
        uint32_t position = 11 + t, slot = position % BLOCK;
        size_t block = table[position / BLOCK];
        for (uint32_t head = 0; head < h.kv; head++) {
            double want[24];
            const float *src = in + t * row + (h.heads + head) * h.dim;
            rotate_double(&h, inv_freq, position, src, want);
            for (uint32_t i = 0; i < h.dim; i++) {
                float *got_k = &k[((block * h.kv + head) * pad + i) * BLOCK + slot];
                float *got_v = &v[((block * h.kv + head) * BLOCK + slot) * pad + i];
                assert_true(fabs((double)*got_k - want[i]) < 1e-6);
                assert_true(*got_v == src[h.kv * h.dim + i]);
                seen += *got_k != 0.0f && *got_v != 0.0f;
                *got_k = *got_v = 0.0f;
            }
        }
    }
    assert_int_equal(seen, 9 * h.kv * h.dim);
    for (size_t i = 0; i < n; i++) { /* and nothing anywhere else */
        assert_true(k[i] == 0.0f && v[i] == 0.0f);
    }
    free(k), free(v), free(qkv), free(in);
}

/* ---- bits: sequences cut, packed, shared ---- */

struct seq {
    uint32_t len, done;
    uint32_t owner, shared; /* the first `shared` tokens are those of sequence owner; 0: none */
    uint32_t table[POOL];
    float *in;   /* [len, row] */
    float *want; /* [len, heads * dim], computed whole and alone */
};

struct tally {
    uint32_t steps, same_step, found, copies, splits;
};

static void seqs_make(struct device *alone, struct seq *seqs, uint32_t n_seqs)
{
    static struct packed p;
    size_t row = row_of(&alone->h);
    for (uint32_t i = 0; i < n_seqs; i++) {
        struct seq *s = &seqs[i];
        *s = (struct seq){.len = 1 + rnd_below(rnd_below(4) == 0 ? 300 : 100)};
        s->in = random_floats(s->len * row);
        if (i > 0 && s->len > 1 && rnd_below(3) > 0) {
            s->owner = rnd_below(i);
            uint32_t most = seqs[s->owner].len < s->len - 1 ? seqs[s->owner].len : s->len - 1;
            uint32_t one = rnd_below(most), two = rnd_below(most);
            s->shared = 1 + (one > two ? one : two);
            memcpy(s->in, seqs[s->owner].in, s->shared * row * sizeof *s->in);
        }
        s->want = random_floats(s->len * out_of(&alone->h));
        pack_whole(&p, 1, &s->len);
        float *qkv = copy_of(s->in, s->len * row * sizeof *s->in);
        step(alone, &p, qkv, s->want);
        free(qkv);
    }
}

/* Blocks in random order; what is shared in whole blocks is the owner's. */
static void seqs_place(struct seq *seqs, uint32_t n_seqs)
{
    uint32_t order[POOL], next = 0;
    for (uint32_t i = 0; i < POOL; i++) {
        uint32_t j = rnd_below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t i = 0; i < n_seqs; i++) {
        struct seq *s = &seqs[i];
        for (uint32_t j = 0; j <= (s->len - 1) / BLOCK; j++) {
            bool own = j >= s->shared / BLOCK;
            assert_true(next < POOL);
            s->table[j] = own ? order[next++] : seqs[s->owner].table[j];
        }
    }
}

/* Where sequence i can go on in this step, given how far the others will be; false: not yet. */
static bool seq_begin(struct device *d, struct seq *seqs, uint32_t i, const uint32_t *before,
                      struct tally *tally)
{
    struct seq *s = &seqs[i];
    if (s->done > 0 || s->shared == 0) {
        return true;
    }
    uint32_t whole = s->shared / BLOCK * BLOCK;
    if (s->shared > whole && before[s->owner] >= s->shared && rnd_below(4) > 0) {
        uint32_t src = seqs[s->owner].table[whole / BLOCK];
        assert_int_equal(d->be->ops->kv_copy(d->be, d->kv, s->table[whole / BLOCK], src), GD_OK);
        s->done = s->shared;
        tally->copies++;
        return true;
    }
    if (seqs[s->owner].done < whole) {
        return false;
    }
    tally->found += whole > 0;
    tally->same_step += before[s->owner] < whole;
    s->done = whole;
    return true;
}

/* One step: chunks of some of the sequences, in random order. */
static void random_step(struct device *d, struct seq *seqs, uint32_t n_seqs, struct tally *tally)
{
    static struct packed p;
    uint32_t before[MAX_SEQS], from[MAX_SEQS], n[MAX_SEQS], order[MAX_SEQS], n_order = 0;
    size_t row = row_of(&d->h), width = out_of(&d->h);
    for (uint32_t i = 0; i < n_seqs; i++) {
        before[i] = seqs[i].done;
    }
    for (uint32_t i = 0; i < n_seqs; i++) {
        struct seq *s = &seqs[i];
        if (s->done == s->len || rnd_below(3) == 0 || !seq_begin(d, seqs, i, before, tally)) {
            continue;
        }
        uint32_t left = s->len - s->done;
        uint32_t most = rnd_below(3) == 0 ? left : rnd_below(2) == 0 ? 4 : 70;
        from[i] = s->done;
        n[i] = 1 + rnd_below(most < left ? most : left);
        tally->splits += n[i] < left;
        s->done += n[i];
        uint32_t at = rnd_below(n_order + 1);
        order[n_order++] = order[at];
        order[at] = i;
    }
    if (n_order == 0) {
        return;
    }
    tally->steps++;
    pack_begin(&p);
    float *qkv = malloc(MAX_TOKENS * row * sizeof *qkv);
    float *out = malloc(MAX_TOKENS * width * sizeof *out);
    assert_true(qkv != NULL && out != NULL);
    for (uint32_t o = 0; o < n_order; o++) {
        const struct seq *s = &seqs[order[o]];
        uint32_t first = from[order[o]], count = n[order[o]];
        memcpy(qkv + p.b.n_tokens * row, s->in + first * row, count * row * sizeof *qkv);
        pack_add(&p, first, count, s->table);
    }
    step(d, &p, qkv, out);
    for (uint32_t o = 0; o < n_order; o++) {
        uint32_t i = order[o];
        for (uint32_t t = 0; t < n[i]; t++) {
            if (memcmp(out + (p.starts[o] + t) * width, seqs[i].want + (from[i] + t) * width,
                       width * sizeof *out) != 0) {
                fail_msg("attention %u/%u/%u: other bits in token %u of %u, chunk from %u on",
                         d->h.heads, d->h.kv, d->h.dim, from[i] + t, seqs[i].len, from[i]);
            }
        }
    }
    free(qkv), free(out);
}

static void test_chunks(void **state)
{
    (void)state;
    struct tally tally = {0};
    for (uint32_t seed = 1; seed <= 6 * N_HEADS; seed++) {
        const struct heads *h = &HEADS[seed % N_HEADS];
        struct device d, alone;
        struct seq seqs[MAX_SEQS];
        rng_state = seed * 2654435761u;
        uint32_t n_seqs = 2 + rnd_below(7);
        device_open(&alone, h, 1);
        device_open(&d, h, 1 + seed % 3);
        seqs_make(&alone, seqs, n_seqs);
        seqs_place(seqs, n_seqs);
        for (bool busy = true; busy;) {
            random_step(&d, seqs, n_seqs, &tally);
            busy = false;
            for (uint32_t i = 0; i < n_seqs; i++) {
                busy = busy || seqs[i].done < seqs[i].len;
            }
        }
        for (uint32_t i = 0; i < n_seqs; i++) {
            free(seqs[i].in), free(seqs[i].want);
        }
        device_close(&d);
        device_close(&alone);
    }
    print_message("chunks: %u steps, %u chunks that end early, prefixes: %u in found blocks, %u of "
                  "them in blocks of the same step, %u copied\n",
                  tally.steps, tally.splits, tally.found, tally.same_step, tally.copies);
    assert_true(tally.splits > 50 && tally.found > 10 && tally.same_step > 3 && tally.copies > 5);
}

/* One token at a time, as the engine's last layer does: each row of a sequence as a chunk of its
 * own, several of them in one step. */
static void test_single_tokens(void **state)
{
    (void)state;
    const struct heads h = {8, 2, 64};
    const uint32_t len = 150;
    struct device d;
    static struct packed p;
    size_t row = row_of(&h), width = out_of(&h);
    uint32_t table[POOL];
    device_open(&d, &h, 2);
    float *in = random_floats(len * row), *qkv = copy_of(in, len * row * sizeof *in);
    float *want = random_floats(len * width), *out = random_floats(len * width);
    pack_whole(&p, 1, &len);
    memcpy(table, p.blocks, p.block_starts[1] * sizeof *table);
    step(&d, &p, qkv, want);
    for (uint32_t first = 0; first < len; first += MAX_SEQS) {
        pack_begin(&p);
        uint32_t n = len - first < MAX_SEQS ? len - first : MAX_SEQS;
        for (uint32_t t = first; t < first + n; t++) {
            pack_add(&p, t, 1, table);
        }
        assert_int_equal(d.be->ops->attention(d.be, &p.b, HANDLE(qkv + first * row), d.kv, 0,
                                              HANDLE(out + first * width)),
                         GD_OK);
    }
    assert_memory_equal(out, want, len * width * sizeof *out);
    device_close(&d);
    free(in), free(qkv), free(want), free(out);
}

/* What an earlier item left in the scratch memory changes nothing, be it NaN. */
static void test_scratch(void **state)
{
    (void)state;
    const struct heads h = {4, 2, 24};
    const struct gd_attn_shape s = shape_of(&h);
    const uint32_t len = 70;
    const size_t half = 5 * h.kv * BLOCK * gdk_kv_pad(h.dim), width = out_of(&h);
    static struct packed p;
    static float table[70 * 24], inv_freq[12];
    static _Alignas(64) struct gdk_attention_scratch scratch;
    struct gdk_kv_layer kv = {.k = calloc(half, sizeof(float)), .v = calloc(half, sizeof(float))};
    float *qkv = random_floats(len * row_of(&h)), *out[2];
    assert_true(kv.k != NULL && kv.v != NULL);
    pack_whole(&p, 1, &len);
    gdk_rope_table_cpu(0, len, h.dim, inv_freq, table);
    gdk_rope_kv_cpu(0, len, &p.b, &s, table, qkv, &kv);
    for (int i = 0; i < 2; i++) {
        out[i] = random_floats(len * width);
        for (uint32_t item = 0; item < gdk_attention_items(&p.b, &s); item++) {
            memset(&scratch, i == 0 ? 0 : 0xff, sizeof scratch);
            gdk_attention_cpu(item, &p.b, &s, qkv, &kv, out[i], &scratch);
        }
    }
    assert_memory_equal(out[0], out[1], len * width * sizeof *out[0]);
    free(kv.k), free(kv.v), free(qkv), free(out[0]), free(out[1]);
}

/* A later token cannot be seen, not even one that is not finite: the earlier rows keep their bits
 * though they share their registers with it. */
static void test_causal(void **state)
{
    (void)state;
    const struct heads h = {4, 2, 64};
    const uint32_t len = 150;
    size_t row = row_of(&h), width = out_of(&h);
    struct device d;
    static struct packed p;
    device_open(&d, &h, 2);
    float *in = random_floats(len * row), *qkv = copy_of(in, len * row * sizeof *in);
    float *out = random_floats(len * width), *out2 = random_floats(len * width);
    pack_whole(&p, 1, &len);
    step(&d, &p, qkv, out);
    static const float LATER[] = {3.0f, INFINITY, -INFINITY, NAN};
    for (uint32_t cut = 95; cut < 105; cut++) {
        memcpy(qkv, in, len * row * sizeof *in);
        for (size_t i = cut * row; i < len * row; i++) {
            qkv[i] = LATER[cut % 4];
        }
        step(&d, &p, qkv, out2);
        assert_memory_equal(out, out2, cut * width * sizeof *out);
        assert_memory_not_equal(out + cut * width, out2 + cut * width, 64 * sizeof *out);
    }
    for (size_t i = 0; i < h.dim; i++) { /* a NaN in the past is not lost */
        in[10 * row + (h.heads + h.kv) * h.dim + i] = NAN;
    }
    memcpy(qkv, in, len * row * sizeof *in);
    step(&d, &p, qkv, out);
    assert_true(isnan(out[(len - 1) * width]));
    assert_true(isfinite(out[(len - 1) * width + 2 * h.dim])); /* the other key/value head */
    in[10 * row + h.heads * h.dim] = NAN;                      /* nor one in a key */
    in[10 * row + (h.heads + h.kv) * h.dim] = 0.0f;
    memcpy(qkv, in, len * row * sizeof *in);
    step(&d, &p, qkv, out);
    assert_true(isnan(out[(len - 1) * width]));
    device_close(&d);
    free(in), free(qkv), free(out), free(out2);
}

/* ---- the cache itself ---- */

/* A copy is the whole block in all layers: sequences continued on it and on the original agree. */
static void test_copy(void **state)
{
    (void)state;
    const struct heads h = {4, 2, 24};
    size_t row = row_of(&h), width = out_of(&h);
    struct device d;
    static struct packed p;
    device_open(&d, &h, 1);
    float *in = random_floats(40 * row), *want = random_floats(40 * width),
          *out = random_floats(40 * width);
    const uint32_t original[] = {7, 8, 9}, copy[] = {20, 0, POOL - 1};
    for (uint32_t layer = 0; layer < 2; layer++) {
        float *qkv = copy_of(in, 40 * row * sizeof *in);
        pack_begin(&p);
        pack_add(&p, 0, 40, original);
        assert_int_equal(d.be->ops->rope_kv(d.be, &p.b, HANDLE(qkv), d.kv, layer), GD_OK);
        free(qkv);
    }
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(d.be->ops->kv_copy(d.be, d.kv, copy[i], original[i]), GD_OK);
    }
    assert_int_equal(d.be->ops->kv_copy(d.be, d.kv, 8, 8), GD_OK); /* onto itself */
    for (uint32_t layer = 0; layer < 2; layer++) {
        pack_begin(&p);
        pack_add(&p, 0, 40, original);
        assert_int_equal(d.be->ops->attention(d.be, &p.b, HANDLE(in), d.kv, layer, HANDLE(want)),
                         GD_OK);
        pack_begin(&p);
        pack_add(&p, 0, 40, copy);
        assert_int_equal(d.be->ops->attention(d.be, &p.b, HANDLE(in), d.kv, layer, HANDLE(out)),
                         GD_OK);
        assert_memory_equal(out, want, 40 * width * sizeof *out);
        assert_true(isfinite(out[0]) && isfinite(out[40 * width - 1]));
    }
    assert_int_equal(d.be->ops->kv_copy(d.be, d.kv, POOL, 1), GD_EBACKEND);
    assert_int_equal(d.be->ops->kv_copy(d.be, d.kv, 1, POOL), GD_EBACKEND);
    assert_int_equal(d.be->ops->kv_copy(d.be, d.kv, POOL - 1, 1), GD_OK);
    device_close(&d);
    free(in), free(want), free(out);
}

static size_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long all = 0, resident = 0;
    if (f == NULL || fscanf(f, "%lu %lu", &all, &resident) != 2) {
        fail_msg("no /proc/self/statm");
    }
    fclose(f);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* A large cache costs nothing before it is used. */
static void test_lazy(void **state)
{
    (void)state;
    const struct gd_attn_shape s = {4, 2, 64, 0.125f};
    static const float inv_freq[32];
    const struct gd_rope rope = {.inv_freq = inv_freq, .n_positions = 64};
    struct gd_backend *be = open_backend(1, false);
    struct gd_kv *kv = NULL;
    uint64_t block = be->ops->kv_block_bytes(be, &s);
    size_t before = resident_bytes();
    assert_int_equal(block, 2u * 2 * 64 * BLOCK * sizeof(float));
    uint32_t n_blocks = (uint32_t)(512 * GD_MIB / (6 * block));
    assert_int_equal(be->ops->kv_open(be, 6, n_blocks, &s, &rope, &kv, NULL), GD_OK);
    size_t grown = resident_bytes() - before;
    print_message("cache of 512 MiB: %zu bytes resident at first\n", grown);
#ifndef __SANITIZE_THREAD__            /* its shadow is larger than the memory */
    assert_true(grown < 128 * GD_MIB); /* AddressSanitizer keeps a shadow of an eighth */
#endif
    be->ops->kv_close(be, kv);
    be->ops->kv_close(be, NULL);
    be->ops->close(be);
}

/* A cache of two layers, 4 blocks and 20 positions, which fit into two blocks. */
static struct gd_kv *small_cache(struct gd_backend *be)
{
    static const float inv_freq[32];
    const struct gd_rope rope = {.inv_freq = inv_freq, .n_positions = 20};
    const struct gd_attn_shape s = {2, 2, 64, 1.0f};
    struct gd_kv *kv = NULL;
    assert_int_equal(be->ops->kv_open(be, 2, 4, &s, &rope, &kv, NULL), GD_OK);
    return kv;
}

static void test_limits(void **state)
{
    (void)state;
    struct gd_backend *be = open_backend(1, false);
    const struct gd_backend_ops *ops = be->ops;
    struct gd_kv *kv = NULL;
    struct gd_err err = {0};
    static const float inv_freq[256];
    static struct packed p;
    const struct gd_rope rope = {.inv_freq = inv_freq, .n_positions = 20};
    const uint32_t table[] = {0, 1};
    struct gd_attn_shape s = {2, 2, 64, 1.0f}, wide = {1, 1, 512, 1.0f};
    float *x = random_floats(8 * 384);
    assert_int_equal(ops->kv_open(be, 2, 4, &wide, &rope, &kv, &err), GD_EUSAGE);
    assert_int_equal(ops->kv_open(be, 0, 4, &s, &rope, &kv, &err), GD_EUSAGE);
    assert_int_equal(ops->kv_open(be, 2, 0, &s, &rope, &kv, &err), GD_EUSAGE);
    struct gd_attn_shape huge = {UINT32_MAX, UINT32_MAX, 256, 1.0f};
    assert_int_equal(ops->kv_open(be, UINT32_MAX, UINT32_MAX, &huge, &rope, &kv, &err), GD_ENOMEM);
    assert_int_equal(ops->kv_block_bytes(be, &wide), 0);
    assert_null(kv);
    kv = small_cache(be);
    pack_begin(&p);
    pack_add(&p, 12, 8, table); /* up to the last position */
    for (uint32_t layer = 0; layer < 4; layer++) {
        int want = layer < 2 ? GD_OK : GD_EBACKEND; /* no such layer */
        assert_int_equal(ops->rope_kv(be, &p.b, HANDLE(x), kv, layer), want);
        assert_int_equal(ops->attention(be, &p.b, HANDLE(x), kv, layer, HANDLE(x)), want);
    }
    pack_begin(&p);
    pack_add(&p, 13, 8, table); /* one further: refused before anything is rotated */
    float *kept = copy_of(x, 8 * 384 * sizeof *x);
    assert_int_equal(ops->rope_kv(be, &p.b, HANDLE(x), kv, 0), GD_EBACKEND);
    p.positions[0] = -1;
    p.b.n_tokens = p.starts[1] = 1;
    assert_int_equal(ops->rope_kv(be, &p.b, HANDLE(x), kv, 0), GD_EBACKEND);
    assert_memory_equal(x, kept, 8 * 384 * sizeof *x);
    ops->kv_close(be, kv);
    be->ops->close(be);
    free(x), free(kept);
}

/* step_end gives the first failure of its step, and of no other. */
static void test_step_failures(void **state)
{
    (void)state;
    struct gd_backend *be = open_backend(1, false);
    const struct gd_backend_ops *ops = be->ops;
    struct gd_kv *kv = small_cache(be);
    const struct gd_batch none = {.n_tokens = 0};
    static struct packed p;
    const uint32_t len = 3, table[] = {2};
    float *x = random_floats(len * 384);
    pack_begin(&p);
    pack_add(&p, 0, len, table);
    for (int i = 0; i < 6; i++) {
        struct gd_step_rows rows = {0};
        const struct gd_batch *scored = i % 2 == 0 ? &none : &p.b;
        assert_int_equal(ops->step_begin(be, kv, &p.b, scored, i > 3, &rows), GD_OK);
        assert_true(rows.tokens >= len && rows.scored >= scored->n_tokens);
        assert_false(rows.recorded);
        if (i % 3 == 1) { /* what follows it may do well */
            assert_int_equal(ops->rope_kv(be, &p.b, HANDLE(x), kv, 2), GD_EBACKEND);
        }
        assert_int_equal(ops->rope_kv(be, &p.b, HANDLE(x), kv, 1), GD_OK);
        assert_int_equal(ops->attention(be, &p.b, HANDLE(x), kv, 1, HANDLE(x)), GD_OK);
        assert_int_equal(ops->step_end(be), i % 3 == 1 ? GD_EBACKEND : GD_OK);
    }
    ops->kv_close(be, kv);
    be->ops->close(be);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),        cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_layout),        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_single_tokens), cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_causal),        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_lazy),          cmocka_unit_test(test_limits),
        cmocka_unit_test(test_step_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
