/* test_cuda_attention.c - gdk_attention_cuda: against the same mathematics in double over the same bf16
 * inputs, and the promise that a row's bits depend on its Q and the keys and values up to its
 * position alone. Every place of the cache that no token has written holds NaN, a block table is
 * followed by a number that is no block, or by nothing, and what is not an output must stay as it was. */
#include "cuda_fixture.h"

#define MAX_PARTS 160u
#define MAX_TILES 512u
#define BLOCK ((uint32_t)GD_KV_BLOCK_TOKENS)
#define NO_BLOCK 0x7ffffff0u
#define LEN(a) (sizeof(a) / sizeof(a)[0])

struct heads {
    uint32_t heads, kv, dim;
};

static size_t row_of(const struct heads *h)
{
    return (size_t)(h->heads + 2 * h->kv) * h->dim;
}

static size_t out_of(const struct heads *h)
{
    return (size_t)h->heads * h->dim;
}

static size_t kv_of(const struct heads *h)
{
    return (size_t)h->kv * h->dim;
}

/* ---- sequences ---- */

struct text {
    uint32_t n;
    gdk_bf16 *q, *k, *v; /* [n, out_of], [n, kv_of], [n, kv_of] */
};

static struct text text_new(const struct heads *h, uint32_t n)
{
    struct text t = {.n = n};
    float *q = random_floats(n * out_of(h)), *k = random_floats(n * kv_of(h));
    float *v = random_floats(n * kv_of(h));
    t.q = bf16_array(q, n * out_of(h));
    t.k = bf16_array(k, n * kv_of(h));
    t.v = bf16_array(v, n * kv_of(h));
    free(q);
    free(k);
    free(v);
    return t;
}

static void text_free(struct text *t)
{
    free(t->q);
    free(t->k);
    free(t->v);
}

/* Tokens first .. first + n - 1 of a text are new in the step, those before are in the cache. */
struct part {
    const struct text *text;
    uint32_t first, n;
};

/* ---- a step, packed as the back end does ---- */

enum {
    IN_PLACE = 1,  /* out is qkv; else out has rows of its own with a gap behind each */
    PADDING = 2,   /* padding tiles before, between and behind the others; padding rows */
    BACKWARDS = 4, /* the last tile first */
};

struct packed {
    const struct heads *h;
    const struct part *parts;
    uint32_t n_parts, n_tokens, n_rows, n_tiles, n_blocks, n_entries;
    struct gdk_attn_tile tiles[MAX_TILES];
    uint32_t *blocks;
    gdk_bf16 *kv, *qkv;
};

static void add_tile(struct packed *p, struct gdk_attn_tile tile, int how)
{
    if ((how & PADDING) != 0 && rnd_below(2) == 0) {
        p->tiles[p->n_tiles] = (struct gdk_attn_tile){
            .first = UINT32_MAX, .position = UINT32_MAX, .row = UINT32_MAX, .blocks = UINT32_MAX};
        p->n_tiles++;
    }
    assert_true(p->n_tiles + 1 < MAX_TILES);
    p->tiles[p->n_tiles++] = tile;
}

static void pack_tiles(struct packed *p, int how)
{
    uint32_t group = p->h->heads / p->h->kv, first = 0, entry = 0;
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct part *part = &p->parts[i];
        for (uint32_t row = 0; row < part->n * group; row += GDK_CUDA_ATTN_ROWS) {
            add_tile(p,
                     (struct gdk_attn_tile){.first = first,
                                            .n_tokens = part->n,
                                            .position = part->first,
                                            .row = row,
                                            .blocks = entry},
                     how);
        }
        first += part->n;
        entry += (part->first + part->n - 1) / BLOCK + 2;
    }
    if ((how & PADDING) != 0) {
        p->tiles[p->n_tiles++] = (struct gdk_attn_tile){.row = 64};
    }
    for (uint32_t i = 0; (how & BACKWARDS) != 0 && i < p->n_tiles / 2; i++) {
        struct gdk_attn_tile tile = p->tiles[i];
        p->tiles[i] = p->tiles[p->n_tiles - 1 - i];
        p->tiles[p->n_tiles - 1 - i] = tile;
    }
}

/* Tables of random blocks, and the keys and values of the parts in them. */
static void pack_cache(struct packed *p)
{
    const struct heads *h = p->h;
    size_t half = kv_of(h) * BLOCK; /* K or V of a block */
    uint32_t *pool = malloc(p->n_blocks * sizeof *pool), entry = 0, used = 0;
    assert_non_null(pool);
    for (uint32_t i = 0; i < p->n_blocks; i++) {
        uint32_t j = rnd_below(i + 1);
        pool[i] = pool[j];
        pool[j] = i;
    }
    memset(p->kv, 0xff, p->n_blocks * 2 * half * sizeof *p->kv);
    for (uint32_t i = 0; i < p->n_parts; i++) {
        const struct part *part = &p->parts[i];
        for (uint32_t at = 0; at < part->first + part->n; at++) {
            if (at % BLOCK == 0) {
                p->blocks[entry++] = pool[used++];
            }
            for (uint32_t head = 0; head < h->kv; head++) {
                gdk_bf16 *k = p->kv + 2 * half * p->blocks[entry - 1];
                k += (head * BLOCK + at % BLOCK) * (size_t)h->dim;
                size_t from = at * kv_of(h) + (size_t)head * h->dim;
                memcpy(k, part->text->k + from, h->dim * sizeof *k);
                memcpy(k + half, part->text->v + from, h->dim * sizeof *k);
            }
        }
        if (i + 1 < p->n_parts) { /* behind the last there is no memory */
            p->blocks[entry++] = NO_BLOCK;
        }
    }
    assert_true(used <= p->n_blocks && entry == p->n_entries);
    free(pool);
}

static void pack(struct packed *p, const struct heads *h, const struct part *parts,
                 uint32_t n_parts, int how)
{
    *p = (struct packed){
        .h = h, .parts = parts, .n_parts = n_parts, .n_blocks = 3, .n_entries = n_parts - 1};
    for (uint32_t i = 0; i < n_parts; i++) {
        uint32_t n_blocks = (parts[i].first + parts[i].n - 1) / BLOCK + 1;
        assert_true(parts[i].first + parts[i].n <= parts[i].text->n);
        p->n_tokens += parts[i].n;
        p->n_blocks += n_blocks;
        p->n_entries += n_blocks;
    }
    p->n_rows = p->n_tokens + ((how & PADDING) != 0 ? 3 : 0);
    p->blocks = malloc(p->n_entries * sizeof *p->blocks);
    p->kv = malloc(p->n_blocks * 2 * kv_of(h) * BLOCK * sizeof *p->kv);
    p->qkv = malloc(p->n_rows * row_of(h) * sizeof *p->qkv);
    assert_true(p->blocks != NULL && p->kv != NULL && p->qkv != NULL);
    pack_tiles(p, how);
    pack_cache(p);
    for (size_t i = 0; i < p->n_rows * row_of(h); i++) {
        p->qkv[i] = (gdk_bf16)rnd_bits();
    }
    gdk_bf16 *row = p->qkv;
    for (uint32_t i = 0; i < n_parts; i++) {
        for (uint32_t at = parts[i].first; at < parts[i].first + parts[i].n; at++) {
            memcpy(row, parts[i].text->q + at * out_of(h), out_of(h) * sizeof *row);
            row += row_of(h);
        }
    }
}

static struct gdk_cuda_shape shape_of(const struct heads *h)
{
    return (struct gdk_cuda_shape){h->heads, h->kv, h->dim, 1.0f / sqrtf((float)h->dim)};
}

/* What attention gives for the parts, [tokens, out_of]; malloc'ed. */
static gdk_bf16 *attend(const struct heads *h, const struct part *parts, uint32_t n_parts, int how)
{
    static struct packed p;
    pack(&p, h, parts, n_parts, how);
    bool in_place = (how & IN_PLACE) != 0;
    size_t stride = in_place ? row_of(h) : out_of(h) + 8;
    size_t kv_bytes = p.n_blocks * 2 * kv_of(h) * BLOCK * sizeof *p.kv;
    size_t qkv_bytes = p.n_rows * row_of(h) * sizeof *p.qkv;
    size_t out_bytes = p.n_rows * stride * sizeof *p.qkv;
    struct gdk_cuda_shape s = shape_of(h);
    struct gdk_attn_tile *tiles = to_device(p.tiles, p.n_tiles * sizeof *p.tiles);
    uint32_t *blocks = to_device(p.blocks, p.n_entries * sizeof *p.blocks);
    gdk_bf16 *kv = to_device(p.kv, kv_bytes), *qkv = to_device(p.qkv, qkv_bytes);
    gdk_bf16 *out = in_place ? qkv : device_bytes(out_bytes);
    struct gdk_cuda_batch b = {
        .tiles = tiles, .blocks = blocks, .n_rows = p.n_rows, .n_tiles = p.n_tiles};

    CUDA_OK(gdk_attention_cuda(stream, &b, &s, qkv, kv, out, (uint32_t)stride));
    gdk_bf16 *all = from_device(out, out_bytes), *kv_now = from_device(kv, kv_bytes);
    gdk_bf16 *qkv_now = from_device(qkv, qkv_bytes);
    gdk_bf16 *result = malloc(p.n_tokens * out_of(h) * sizeof *result);
    assert_non_null(result);
    for (uint32_t t = 0; t < p.n_rows; t++) {
        const gdk_bf16 *row = all + t * stride;
        size_t written = t < p.n_tokens ? out_of(h) : 0;
        memcpy(result + t * out_of(h), row, written * sizeof *row);
        for (size_t i = written; i < stride; i++) {
            gdk_bf16 before = in_place ? p.qkv[t * stride + i] : 0xffff;
            assert_int_equal(row[i], before);
        }
    }
    assert_memory_equal(kv_now, p.kv, kv_bytes);
    if (!in_place) {
        assert_memory_equal(qkv_now, p.qkv, qkv_bytes);
        CUDA_OK(cudaFree(out));
    }
    CUDA_OK(cudaFree(tiles));
    CUDA_OK(cudaFree(blocks));
    CUDA_OK(cudaFree(kv));
    CUDA_OK(cudaFree(qkv));
    free(all);
    free(kv_now);
    free(qkv_now);
    free(p.blocks);
    free(p.kv);
    free(p.qkv);
    return result;
}

/* ---- the same in double ---- */

/* Squares of errors and of what they may be, over all numbers compared. */
static double error_squares, limit_squares;

/* Head `head` of token `at` against got[dim]. The rule: weights w are rounded to bf16 for the product
 * with V, so that the result moves by at most U sum w |v|; it is itself rounded, U |result|, U = 2^-8.
 * Scores are fp32 sums: their errors, and those of the sums over the keys, move it by at most E sum w
 * |v|, where E is the number of steps of such a sum times 2^-23 times 1 + its largest terms. */
static void check_row(const struct heads *h, const struct text *t, uint32_t at, uint32_t head,
                      const gdk_bf16 *got)
{
    uint32_t dim = h->dim, kv_head = head / (h->heads / h->kv);
    double scale = 1.0 / sqrt((double)dim), most = -INFINITY, sum = 0.0, terms = 0.0;
    double *w = malloc((at + 1) * sizeof *w);
    assert_non_null(w);
    const gdk_bf16 *q = t->q + at * out_of(h) + (size_t)head * dim;
    for (uint32_t key = 0; key <= at; key++) {
        const gdk_bf16 *k = t->k + key * kv_of(h) + (size_t)kv_head * dim;
        double dot = 0.0, size = 0.0;
        for (uint32_t i = 0; i < dim; i++) {
            double product = (double)bf16_value(q[i]) * (double)bf16_value(k[i]);
            dot += product;
            size += fabs(product);
        }
        w[key] = dot * scale;
        most = fmax(most, w[key]);
        terms = fmax(terms, size * scale);
    }
    for (uint32_t key = 0; key <= at; key++) {
        w[key] = exp(w[key] - most);
        sum += w[key];
    }
    double u = 0x1p-8, e = (dim / 8 + at / 8 + 16) * 0x1p-23 * (1.0 + terms);
    for (uint32_t i = 0; i < dim; i++) {
        double result = 0.0, size = 0.0;
        for (uint32_t key = 0; key <= at; key++) {
            double v = (double)bf16_value(t->v[key * kv_of(h) + (size_t)kv_head * dim + i]);
            result += w[key] / sum * v;
            size += w[key] / sum * fabs(v);
        }
        double error = fabs((double)bf16_value(got[i]) - result);
        double limit = u * fabs(result) + (u + e) * size;
        if (!(error <= limit)) {
            fail_msg("heads %u/%u dim %u: token %u head %u column %u: %g, not %g (off by %g, at "
                     "most %g)",
                     h->heads, h->kv, dim, at, head, i, (double)bf16_value(got[i]), result, error,
                     limit);
        }
        error_squares += error * error;
        limit_squares += limit * limit;
    }
    free(w);
}

static void check_parts(const struct heads *h, const struct part *parts, uint32_t n_parts, int how)
{
    gdk_bf16 *out = attend(h, parts, n_parts, how), *row = out;
    for (uint32_t i = 0; i < n_parts; i++) {
        for (uint32_t at = parts[i].first; at < parts[i].first + parts[i].n; at++) {
            for (uint32_t head = 0; head < h->heads; head++) {
                check_row(h, parts[i].text, at, head, row);
                row += h->dim;
            }
        }
    }
    free(out);
}

/* Sequences as (cached, new) pairs; one step each set. */
struct set {
    uint32_t n;
    struct {
        uint32_t cached, fresh;
    } seqs[8];
};

static const struct set SETS[] = {
    {1, {{0, 1}}},
    {3, {{0, 15}, {0, 16}, {0, 17}}},
    {3, {{0, 63}, {0, 64}, {0, 65}}},
    {1, {{0, 130}}},
    {6, {{1, 1}, {15, 1}, {16, 1}, {63, 1}, {64, 1}, {200, 1}}},
    {1, {{100, 33}}},
    {5, {{0, 5}, {48, 17}, {127, 2}, {0, 1}, {62, 20}}},
};

static const uint32_t DIMS[] = {64, 96, 128};
static const struct heads GROUPS[] = {{1, 1, 0}, {4, 4, 0}, {4, 1, 0}, {8, 2, 0},
                                      {7, 1, 0}, {8, 1, 0}, {14, 2, 0}};

static void check_set(const struct heads *h, const struct set *set, int how)
{
    struct text texts[8] = {{0}};
    struct part parts[8] = {{0}};
    for (uint32_t i = 0; i < set->n; i++) {
        texts[i] = text_new(h, set->seqs[i].cached + set->seqs[i].fresh);
        parts[i] = (struct part){&texts[i], set->seqs[i].cached, set->seqs[i].fresh};
    }
    check_parts(h, parts, set->n, how);
    for (uint32_t i = 0; i < set->n; i++) {
        text_free(&texts[i]);
    }
}

/* Every pair of a dim, a group and a set is there. Errors are independent of each other, so that taken
 * together they stay far below their limits; a fault that spoils few keys does not. */
static void test_reference(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    error_squares = limit_squares = 0.0;
    for (uint32_t s = 0; s < LEN(SETS); s++) {
        for (uint32_t g = 0; g < LEN(GROUPS); g++) {
            struct heads h = {GROUPS[g].heads, GROUPS[g].kv, DIMS[2 * (g + s) % 3]};
            check_set(&h, &SETS[s], (int)rnd_below(8));
        }
    }
    struct heads wide = {100, 1, 64}; /* a group larger than a tile */
    check_set(&wide, &(struct set){2, {{0, 3}, {63, 2}}}, PADDING);
    assert_true(sqrt(error_squares / limit_squares) < 0.25);
}

/* ---- equal bits ---- */

/* The rows of a text, token by token; whole in one step. */
static gdk_bf16 *attend_whole(const struct heads *h, const struct text *t)
{
    return attend(h, &(struct part){t, 0, t->n}, 1, 0);
}

/* Chunks of a text between two other sequences; the rows of the text. A chunk has a cache of its own
 * here, in which what is behind it is NaN. */
static gdk_bf16 *attend_chunks(const struct heads *h, const struct text *t, uint32_t chunk, int how)
{
    static struct part parts[MAX_PARTS];
    uint32_t n_parts = 0, before = 1 + rnd_below(70);
    struct text other = text_new(h, 80);
    parts[n_parts++] = (struct part){&other, rnd_below(11), before};
    for (uint32_t at = 0; at < t->n; at += chunk) {
        assert_true(n_parts + 1 < MAX_PARTS);
        parts[n_parts++] = (struct part){t, at, t->n - at < chunk ? t->n - at : chunk};
    }
    parts[n_parts++] = (struct part){&other, 60, 1 + rnd_below(20)};
    gdk_bf16 *all = attend(h, parts, n_parts, how);
    gdk_bf16 *result = copy_of(all + before * out_of(h), t->n * out_of(h) * sizeof *all);
    free(all);
    text_free(&other);
    return result;
}

static const struct heads BITS[] = {{2, 2, 64}, {4, 1, 128}, {7, 1, 96}, {8, 1, 64}};
static const uint32_t CHUNKS[] = {1, 7, 16, 33, 64, 100, 150};

static void assert_same_bits(const struct heads *h, const struct text *t, const gdk_bf16 *whole)
{
    for (uint32_t c = 0; c < LEN(CHUNKS); c++) {
        for (int in_place = 0; in_place <= IN_PLACE; in_place++) {
            int how = in_place | (int)rnd_below(4) * PADDING;
            gdk_bf16 *cut = attend_chunks(h, t, CHUNKS[c], how);
            assert_memory_equal(cut, whole, t->n * out_of(h) * sizeof *cut);
            free(cut);
        }
    }
}

static void test_bits(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (uint32_t i = 0; i < LEN(BITS); i++) {
        struct text t = text_new(&BITS[i], 150);
        gdk_bf16 *whole = attend_whole(&BITS[i], &t);
        assert_same_bits(&BITS[i], &t, whole);
        free(whole);
        text_free(&t);
    }
}

/* ---- extremes ---- */

static void test_large_scores(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (uint32_t d = 0; d < LEN(DIMS); d++) {
        struct heads h = {4, 1, DIMS[d]};
        struct text t = text_new(&h, 140);
        for (size_t i = 0; i < t.n * out_of(&h); i++) {
            t.q[i] = bf16_of(bf16_value(t.q[i]) * 64.0f); /* one key outweighs all others */
        }
        check_parts(&h, &(struct part){&t, 0, t.n}, 1, 0);
        check_parts(&h, &(struct part){&t, 100, 40}, 1, IN_PLACE);
        text_free(&t);
    }
}

/* All keys the same, at any size of the scores: the mean of the values. Values all the same: these. */
static void test_equal_scores(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (uint32_t d = 0; d < LEN(DIMS); d++) {
        for (int size = 0; size < 3; size++) {
            struct heads h = {4, 2, DIMS[d]};
            struct text t = text_new(&h, 140);
            for (size_t i = kv_of(&h); i < t.n * kv_of(&h); i++) {
                t.k[i] = t.k[i - kv_of(&h)];
                t.v[i] = size == 1 ? t.v[i - kv_of(&h)] : t.v[i];
            }
            for (size_t i = 0; i < t.n * out_of(&h); i++) {
                t.q[i] = bf16_of(bf16_value(t.q[i]) * (float)size * 100.0f);
            }
            check_parts(&h, &(struct part){&t, 0, t.n}, 1, 0);
            text_free(&t);
        }
    }
}

static const gdk_bf16 NOT_FINITE[] = {0x7f80, 0xff80, 0x7fc0, 0xffff}; /* inf, -inf, NaN, NaN */

static void assert_all_nan(const gdk_bf16 *row, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i++) {
        assert_true(isnan(bf16_value(row[i])));
    }
}

static void test_query_not_finite(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    struct heads h = {8, 2, 64};
    for (uint32_t i = 0; i < 2 * LEN(NOT_FINITE); i++) {
        struct text t = text_new(&h, 90);
        gdk_bf16 *clean = attend_whole(&h, &t);
        uint32_t bad = rnd_below(t.n * h.heads); /* row: token, head */
        t.q[bad * h.dim + rnd_below(h.dim)] = NOT_FINITE[i / 2];
        gdk_bf16 *out = attend_whole(&h, &t);
        for (uint32_t row = 0; row < t.n * h.heads; row++) {
            if (row == bad) {
                assert_all_nan(out + row * h.dim, h.dim);
            } else {
                assert_memory_equal(out + row * h.dim, clean + row * h.dim, h.dim * sizeof *out);
            }
        }
        free(clean);
        free(out);
        text_free(&t);
    }
}

/* A value that is not finite, and more behind it, make NaN of the rows that see them and change no
 * other; nor do keys, which may make of the rows that see them what they like. However the sequence is
 * cut. */
static void check_not_finite(const struct heads *h, uint32_t at, uint32_t column, bool value,
                             gdk_bf16 what)
{
    struct text t = text_new(h, 150);
    gdk_bf16 *clean = attend_whole(h, &t);
    for (uint32_t also = at; also < t.n; also += 8) {
        (value ? t.v : t.k)[also * kv_of(h) + column] = what;
    }
    gdk_bf16 *out = attend_whole(h, &t);
    for (uint32_t row = 0; row < t.n * h->heads; row++) {
        uint32_t head = row % h->heads / (h->heads / h->kv);
        const gdk_bf16 *numbers = out + row * h->dim;
        if (row / h->heads < at || head != column / h->dim) {
            assert_memory_equal(numbers, clean + row * h->dim, h->dim * sizeof *out);
        } else if (value) {
            assert_all_nan(numbers, h->dim);
        }
    }
    for (uint32_t c = 0; c < 3; c++) {
        gdk_bf16 *cut = attend_chunks(h, &t, CHUNKS[1 + rnd_below(LEN(CHUNKS) - 1)], 0);
        assert_memory_equal(cut, out, t.n * out_of(h) * sizeof *out);
        free(cut);
    }
    free(clean);
    free(out);
    text_free(&t);
}

static void test_cache_not_finite(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    static const struct heads shapes[] = {{2, 2, 64}, {7, 1, 96}, {4, 1, 128}};
    static const uint32_t places[] = {0, 1, 15, 40, 63, 64, 127, 128, 149};
    for (uint32_t i = 0; i < LEN(places); i++) {
        const struct heads *h = &shapes[i % LEN(shapes)];
        uint32_t column = rnd_below((uint32_t)kv_of(h));
        check_not_finite(h, places[i], column, true, NOT_FINITE[i % LEN(NOT_FINITE)]);
        check_not_finite(h, places[i], column, false, NOT_FINITE[(i + 1) % LEN(NOT_FINITE)]);
    }
}

/* ---- what is refused, and what is nothing to do ---- */

static void test_refused(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    static const struct gdk_cuda_shape bad[] = {{4, 2, 80, 1},  {4, 2, 0, 1},  {4, 2, 32, 1},
                                                {4, 2, 256, 1}, {7, 2, 64, 1}, {4, 0, 64, 1},
                                                {0, 2, 64, 1}};
    const struct gdk_cuda_batch none = {.n_tiles = 0};
    for (uint32_t i = 0; i < LEN(bad); i++) {
        assert_int_equal(gdk_attention_cuda(stream, &none, &bad[i], NULL, NULL, NULL, 0),
                         cudaErrorInvalidValue);
    }
    for (uint32_t d = 0; d < LEN(DIMS); d++) {
        struct gdk_cuda_shape s = {4, 2, DIMS[d], 1};
        CUDA_OK(gdk_attention_cuda(stream, &none, &s, NULL, NULL, NULL, 0));
    }
    struct gdk_attn_tile padding[3] = {{.row = 64}, {.first = 9, .blocks = UINT32_MAX}};
    struct gdk_attn_tile *tiles = to_device(padding, sizeof padding);
    struct gdk_cuda_batch b = {.tiles = tiles, .n_tiles = 3};
    struct gdk_cuda_shape s = {4, 2, 64, 1};
    CUDA_OK(gdk_attention_cuda(stream, &b, &s, NULL, NULL, NULL, 0));
    CUDA_OK(cudaStreamSynchronize(stream));
    CUDA_OK(cudaFree(tiles));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_large_scores),     cmocka_unit_test(test_equal_scores),
        cmocka_unit_test(test_query_not_finite), cmocka_unit_test(test_cache_not_finite),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, cuda_set_up, cuda_tear_down);
}
