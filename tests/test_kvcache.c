/* test_kvcache.c - every rule of the block table, one by one; each with full hashes, and with hashes
 * that collide. The random test against a model is test_kvcache_model.c. */
#include "guardian/kvcache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#define BLOCK GD_KV_BLOCK_TOKENS
#define N_IDS 8200

static uint32_t hash_bits;
static const struct gd_kv_salt nobody = {{0}}, alice = {{1, 2, 3}}, bob = {{1, 2, 4}};

/* Token i of text t: texts have no token in common. */
static int32_t text[4][N_IDS];

static void fill_texts(void)
{
    for (int32_t t = 0; t < 4; t++) {
        for (int32_t i = 0; i < N_IDS; i++)
            text[t][i] = t * 100000 + i;
    }
}

static struct gd_kvcache *open_cache(uint32_t n_blocks)
{
    struct gd_kvcache *c = NULL;
    assert_int_equal(gd_kvcache_open(&c, n_blocks, true, NULL), GD_OK);
    gd_kvcache_test_hash_bits(c, hash_bits);
    return c;
}

/* n tokens of alice's, all to be kept. */
static struct gd_kv_prompt prompt(const int32_t *tokens, uint32_t n)
{
    return (struct gd_kv_prompt){.tokens = tokens, .n_tokens = n, .n_keep = n, .salt = alice};
}

static struct gd_kvcache_stats stats(const struct gd_kvcache *c)
{
    struct gd_kvcache_stats s;
    gd_kvcache_stats(c, &s);
    assert_int_equal(s.used + s.cached + s.free, s.blocks);
    assert_true(s.pinned <= s.used);
    return s;
}

static void assert_stats(const struct gd_kvcache *c, uint32_t used, uint32_t cached,
                         uint32_t n_free)
{
    struct gd_kvcache_stats s = stats(c);
    assert_int_equal(s.used, used);
    assert_int_equal(s.cached, cached);
    assert_int_equal(s.free, n_free);
}

static void begin(struct gd_kvcache *c, struct gd_kv_prompt p, struct gd_kv_seq *s)
{
    assert_int_equal(gd_kvcache_acquire(c, &p, s), GD_OK);
    assert_int_equal(s->n_blocks, (p.n_tokens + BLOCK - 1) / BLOCK);
    assert_true(s->n_cached < p.n_tokens);
    assert_int_equal(s->copy_from != GD_KV_NONE, s->n_cached % BLOCK != 0);
}

/* Computes all that is left of s, in one step. */
static void compute(struct gd_kvcache *c, struct gd_kv_seq *s)
{
    gd_kvcache_advance(c, s, s->prompt.n_tokens);
    gd_kvcache_copied(c, s);
    gd_kvcache_step_end(c);
}

/* A prompt from its beginning to its end; what was found. */
static uint32_t score(struct gd_kvcache *c, struct gd_kv_prompt p)
{
    struct gd_kv_seq s;
    uint32_t seen = gd_kvcache_peek(c, &p);
    begin(c, p, &s);
    assert_int_equal(s.n_cached, seen);
    compute(c, &s);
    gd_kvcache_release(c, &s, true);
    return seen;
}

static uint32_t peek(const struct gd_kvcache *c, struct gd_kv_prompt p)
{
    return gd_kvcache_peek(c, &p);
}

static void test_open(void **state)
{
    (void)state;
    struct gd_kvcache *c = NULL;
    struct gd_err err = {0};
    assert_int_equal(gd_kvcache_open(&c, 0, true, &err), GD_EUSAGE);
    assert_int_equal(gd_kvcache_open(&c, GD_KV_BLOCKS_MAX + 1, true, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "4194304"));
    assert_null(c);
    gd_kvcache_close(NULL);
    for (uint32_t n = 1; n < 40; n++) {
        c = open_cache(n);
        assert_stats(c, 0, 0, n);
        gd_kvcache_close(c);
    }
}

/* Blocks of one sequence are all different, and are all there. */
static void test_whole_pool(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 3, 512};
    for (size_t k = 0; k < 3; k++) {
        uint32_t n = sizes[k];
        bool seen[512] = {false};
        struct gd_kv_seq s, t;
        struct gd_kvcache *c = open_cache(n);
        begin(c, prompt(text[0], n * BLOCK), &s);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(s.blocks[i] < n);
            assert_false(seen[s.blocks[i]]);
            seen[s.blocks[i]] = true;
        }
        assert_stats(c, n, 0, 0);
        struct gd_kv_prompt one = prompt(text[1], 1);
        assert_int_equal(gd_kvcache_acquire(c, &one, &t), GD_EBUSY);
        gd_kvcache_release(c, &t, false); /* gives nothing back */
        assert_stats(c, n, 0, 0);
        compute(c, &s);
        gd_kvcache_release(c, &s, true);
        gd_kvcache_release(c, &s, true); /* a second time: nothing */
        assert_stats(c, 0, n, 0);
        assert_int_equal(peek(c, prompt(text[0], n * BLOCK)), n * BLOCK - 1);
        gd_kvcache_close(c);
    }
}

/* All that two prompts have in common is found, to the token. */
static void test_common_prefix(void **state)
{
    (void)state;
    for (uint32_t same = 0; same <= 70; same++) {
        struct gd_kvcache *c = open_cache(64);
        int32_t other[90];
        struct gd_kv_seq s;
        assert_int_equal(score(c, prompt(text[0], 60)), 0);
        memcpy(other, text[1], sizeof other);
        memcpy(other, text[0], same * sizeof *other);
        begin(c, prompt(other, 90), &s);
        uint32_t want = same < 60 ? same : 60;
        assert_int_equal(s.n_cached, want);
        if (want % BLOCK != 0) {
            for (uint32_t i = 0; i < s.n_blocks; i++)
                assert_int_not_equal(s.blocks[i], s.copy_from);
            assert_stats(c, 7, 4 - want / BLOCK - 1, 64 - 7 - 4 + want / BLOCK + 1);
            gd_kvcache_copied(c, &s);
            assert_int_equal(s.copy_from, GD_KV_NONE);
        }
        assert_stats(c, 6, 4 - want / BLOCK, 64 - 6 - 4 + want / BLOCK);
        gd_kvcache_copied(c, &s); /* nothing more to let go */
        gd_kvcache_release(c, &s, true);
        gd_kvcache_close(c);
    }
}

/* There is always a token left to compute. */
static void test_last_token(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 70; n++) {
        struct gd_kvcache *c = open_cache(64);
        score(c, prompt(text[0], 70));
        assert_int_equal(score(c, prompt(text[0], n)), n - 1);
        assert_int_equal(score(c, prompt(text[0], n)), n - 1);
        gd_kvcache_close(c);
    }
}

static void test_longest_prompt(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(GD_KV_SEQ_BLOCKS_MAX + 1);
    struct gd_kv_prompt p = prompt(text[0], GD_CONTEXT_TOKENS_MAX);
    assert_int_equal(score(c, p), 0);
    assert_int_equal(score(c, p), GD_CONTEXT_TOKENS_MAX - 1);
    assert_int_equal(stats(c).cached, GD_KV_SEQ_BLOCKS_MAX);
    gd_kvcache_close(c);
}

/* What comes after n_keep is found by nobody. */
static void test_question_is_not_kept(void **state)
{
    (void)state;
    for (uint32_t keep = 0; keep <= 60; keep++) {
        struct gd_kvcache *c = open_cache(64);
        struct gd_kv_prompt p = prompt(text[0], 60);
        p.n_keep = keep;
        score(c, p);
        assert_stats(c, 0, (keep + BLOCK - 1) / BLOCK, 64 - (keep + BLOCK - 1) / BLOCK);
        assert_int_equal(peek(c, p), keep < 59 ? keep : 59);
        gd_kvcache_close(c);
    }
}

static void test_tenants(void **state)
{
    (void)state;
    const struct gd_kv_salt *salts[] = {&alice, &bob, &nobody};
    for (uint32_t shared = 0; shared <= 50; shared++) {
        for (size_t writer = 0; writer < 3; writer++) {
            struct gd_kvcache *c = open_cache(64);
            struct gd_kv_prompt p = prompt(text[0], 60);
            p.n_shared = shared;
            p.salt = *salts[writer];
            score(c, p);
            for (size_t reader = 0; reader < 3; reader++) {
                p.salt = *salts[reader];
                uint32_t whole = shared / BLOCK * BLOCK;
                assert_int_equal(peek(c, p), reader == writer ? 59 : whole);
            }
            gd_kvcache_close(c);
        }
    }
}

/* Of a block that is common to all, a reader takes what lies in its own shared prefix. */
static void test_tenants_with_other_policies(void **state)
{
    (void)state;
    for (uint32_t shared = 0; shared <= 59; shared++) {
        struct gd_kvcache *c = open_cache(64);
        struct gd_kv_prompt p = prompt(text[0], 60);
        p.n_shared = 60; /* the last block too, which is not full */
        score(c, p);
        p.salt = bob;
        p.n_shared = shared;
        assert_int_equal(peek(c, p), shared);
        p.salt = alice; /* who has written it, but not as her own */
        assert_int_equal(peek(c, p), shared);
        gd_kvcache_close(c);
    }
}

/* Full blocks of the step under preparation are found, but not copied from. */
static void test_same_step(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(64);
    struct gd_kv_seq a, b, d;
    struct gd_kv_prompt p = prompt(text[0], 60);
    begin(c, p, &a);
    assert_int_equal(peek(c, p), 0);
    gd_kvcache_advance(c, &a, 15);
    assert_int_equal(peek(c, p), 0);
    gd_kvcache_advance(c, &a, 40);
    begin(c, p, &b);
    assert_int_equal(b.n_cached, 32);
    assert_memory_equal(a.blocks, b.blocks, 2 * sizeof *a.blocks);
    assert_int_equal(peek(c, prompt(text[0], 30)), 16); /* not 29 */
    gd_kvcache_step_end(c);
    assert_int_equal(peek(c, prompt(text[0], 30)), 29);
    compute(c, &a);
    gd_kvcache_release(c, &a, true);
    begin(c, p, &d); /* the tail is there as soon as it is released */
    assert_int_equal(d.n_cached, 59);
    gd_kvcache_release(c, &d, false);
    compute(c, &b);
    gd_kvcache_release(c, &b, true);
    assert_stats(c, 0, 4, 60);
    gd_kvcache_close(c);
}

/* In the order of the scheduler: what has ended is released before the step's end is told. */
static void test_release_before_step_end(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(64);
    struct gd_kv_seq a;
    struct gd_kv_prompt p = prompt(text[0], 60);
    begin(c, p, &a);
    gd_kvcache_advance(c, &a, 60);
    gd_kvcache_release(c, &a, true);
    gd_kvcache_step_end(c);
    assert_int_equal(peek(c, p), 59);
    assert_int_equal(peek(c, prompt(text[0], 40)), 39);
    gd_kvcache_close(c);
}

/* Two compute the same at one time: one block is published, the chain goes on over it. */
static void test_twins(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(16);
    struct gd_kv_seq a, b, d;
    struct gd_kv_prompt longer = prompt(text[0], 50);
    begin(c, prompt(text[0], 40), &a);
    begin(c, longer, &b);
    gd_kvcache_advance(c, &a, 40);
    gd_kvcache_advance(c, &b, 50);
    gd_kvcache_step_end(c);
    assert_int_not_equal(a.blocks[0], b.blocks[0]);
    gd_kvcache_release(c, &a, true);
    assert_stats(c, 6, 0,
                 10); /* b holds a's two full blocks as well; it has a's tail in its third */
    begin(c, longer, &d);
    assert_memory_equal(d.blocks, a.blocks, 2 * sizeof *a.blocks);
    assert_int_equal(d.blocks[2], b.blocks[2]);
    assert_int_equal(d.n_cached, 48);
    gd_kvcache_release(c, &d, false);
    gd_kvcache_release(c, &b, true);
    assert_stats(c, 0, 4, 12);
    /* Under pressure the first blocks go last: after 12 free ones, b's tail and its third. */
    begin(c, prompt(text[1], 14 * BLOCK), &d);
    assert_int_equal(peek(c, longer), 32);
    assert_int_equal(stats(c).evictions, 2);
    gd_kvcache_release(c, &d, false);
    assert_stats(c, 0, 2, 14);
    gd_kvcache_close(c);
}

static void test_failed_are_taken_back(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(16);
    struct gd_kv_seq a, b, d;
    struct gd_kv_prompt p = prompt(text[0], 60), longer = prompt(text[0], 90);
    begin(c, p, &a);
    gd_kvcache_advance(c, &a, 60);
    begin(c, longer, &b);
    assert_int_equal(b.n_cached, 48);
    gd_kvcache_advance(c, &b, 70); /* publishes one block behind a's three */
    gd_kvcache_step_end(c);
    gd_kvcache_release(c, &a, false);
    assert_int_equal(peek(c, longer), 0);
    assert_stats(c, 6, 0, 10); /* b goes on with a's blocks */
    begin(c, longer, &d);      /* d computes them anew and is found */
    assert_int_equal(d.n_cached, 0);
    gd_kvcache_advance(c, &d, 48);
    compute(c, &b);
    gd_kvcache_release(c, &b, true); /* nothing of b can be found: all is free */
    assert_stats(c, 6, 0, 10);
    assert_int_equal(peek(c, longer), 48); /* not b's fourth, which was computed on a's */
    gd_kvcache_release(c, &d, false);
    assert_stats(c, 0, 0, 16);
    assert_int_equal(stats(c).evictions, 0);
    gd_kvcache_close(c);
}

/* What another one has released on top of blocks that are taken back is never found again, even when
 * the same blocks come back. */
static void test_no_way_to_orphans(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(16);
    struct gd_kv_seq a;
    begin(c, prompt(text[0], 32), &a);
    gd_kvcache_advance(c, &a, 32);
    gd_kvcache_step_end(c);
    assert_int_equal(score(c, prompt(text[0], 90)), 32);
    assert_int_equal(peek(c, prompt(text[0], 90)), 89);
    gd_kvcache_release(c, &a, false);
    assert_int_equal(score(c, prompt(text[0], 32)), 0);
    assert_int_equal(peek(c, prompt(text[0], 90)), 32);
    gd_kvcache_close(c);
}

/* Given up before its end, with less to keep; and before its copy was made. */
static void test_leaving_early(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(16);
    struct gd_kv_seq a;
    struct gd_kv_prompt p = prompt(text[0], 90);
    begin(c, p, &a);
    gd_kvcache_advance(c, &a, 40);
    gd_kvcache_step_end(c);
    a.prompt.n_keep = 32;
    gd_kvcache_release(c, &a, true);
    assert_stats(c, 0, 2, 14);
    assert_int_equal(peek(c, p), 32);
    assert_int_equal(score(c, prompt(text[0], 42)), 32); /* a tail of ten */
    begin(c, p, &a);
    assert_int_equal(a.n_cached, 42);
    assert_stats(c, 7, 0, 9);
    gd_kvcache_release(c, &a, true); /* nothing was computed, nothing copied: nothing is new */
    assert_stats(c, 0, 3, 13);
    assert_int_equal(peek(c, p), 42);
    gd_kvcache_close(c);
}

static void test_order_of_eviction(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(8);
    struct gd_kv_prompt a = prompt(text[0], 64), b = prompt(text[1], 64);
    struct gd_kv_seq s;
    score(c, a);
    score(c, b);
    assert_stats(c, 0, 8, 0);
    for (uint32_t n = 1; n <= 2; n++) { /* the last ones of the one that was used before */
        begin(c, prompt(text[2], n * BLOCK), &s);
        assert_int_equal(peek(c, a), 64 - n * BLOCK);
        assert_int_equal(peek(c, b), 63);
        gd_kvcache_release(c, &s, false);
    }
    assert_int_equal(stats(c).evictions, 2);
    assert_stats(c, 0, 6, 2);
    begin(c, prompt(text[0], 40), &s); /* uses what is left of a: b is the older one now */
    assert_int_equal(s.n_cached, 32);
    gd_kvcache_release(c, &s, false);
    begin(c, prompt(text[2], 4 * BLOCK), &s);
    assert_int_equal(peek(c, a), 32);
    assert_int_equal(peek(c, b), 32);
    for (uint32_t i = 0; i < 5; i++) /* looking is not using */
        (void)peek(c, b);
    gd_kvcache_release(c, &s, false);
    begin(c, prompt(text[2], 6 * BLOCK), &s);
    assert_int_equal(peek(c, a), 32);
    assert_int_equal(peek(c, b), 0);
    gd_kvcache_release(c, &s, false);
    gd_kvcache_close(c);
}

static void test_busy_changes_nothing(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(8);
    struct gd_kv_prompt a = prompt(text[0], 40), b = prompt(text[1], 32),
                        big = prompt(text[0], 112);
    struct gd_kv_seq s, t;
    score(c, a);
    score(c, b);
    begin(c, prompt(text[2], 2 * BLOCK), &s);
    assert_stats(c, 2, 5, 1);
    assert_int_equal(gd_kvcache_acquire(c, &big, &t), GD_EBUSY); /* 7 with 6 to be had */
    assert_stats(c, 2, 5, 1);
    assert_int_equal(stats(c).evictions, 0);
    assert_int_equal(peek(c, a), 39);
    assert_int_equal(peek(c, b), 31);
    begin(c, prompt(text[3], 2 * BLOCK), &t); /* a is still the one that goes first, last first */
    assert_int_equal(peek(c, a), 32);
    assert_int_equal(peek(c, b), 31);
    gd_kvcache_release(c, &t, false);
    gd_kvcache_release(c, &s, false);
    gd_kvcache_close(c);
}

/* Too tight to hold the block to be copied from: no copy, but no refusal either. */
static void test_tight_pool_copies_nothing(void **state)
{
    (void)state;
    int32_t other[64];
    memcpy(other, text[1], sizeof other);
    memcpy(other, text[0], 36 * sizeof *other);
    for (uint32_t n = 4; n <= 5; n++) {
        struct gd_kvcache *c = open_cache(n);
        struct gd_kv_seq s;
        struct gd_kv_prompt p = prompt(other, 64);
        score(c, prompt(text[0], 40));
        assert_int_equal(peek(c, p), 36);
        assert_int_equal(gd_kvcache_acquire(c, &p, &s), GD_OK);
        assert_int_equal(s.n_cached, n == 4 ? 32 : 36);
        assert_int_equal(s.copy_from == GD_KV_NONE, n == 4);
        assert_stats(c, n, 0, 0);
        gd_kvcache_release(c, &s, false);
        gd_kvcache_close(c);
    }
    /* A block that is in use anyway costs nothing. */
    struct gd_kvcache *c = open_cache(6);
    struct gd_kv_seq s, t;
    struct gd_kv_prompt p = prompt(other, 64);
    begin(c, prompt(text[0], 50), &t);
    compute(c, &t);
    assert_int_equal(gd_kvcache_acquire(c, &p, &s), GD_OK);
    assert_int_equal(s.n_cached, 36);
    assert_int_equal(s.copy_from, t.blocks[2]);
    assert_stats(c, 6, 0, 0);
    gd_kvcache_release(c, &s, false);
    gd_kvcache_release(c, &t, false);
    gd_kvcache_close(c);
}

static void test_pin(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(8);
    struct gd_kv_prompt policy = prompt(text[0], 40);
    struct gd_kv_seq s;
    policy.n_shared = 40;
    policy.salt = nobody;
    for (uint32_t i = 0; i < 2; i++) { /* the second time: the same blocks */
        begin(c, policy, &s);
        compute(c, &s);
        gd_kvcache_pin(c, &s);
        assert_stats(c, 3, 0, 5);
        assert_int_equal(stats(c).pinned, 3);
    }
    for (uint32_t i = 0; i < 30; i++)
        score(c, prompt(text[1] + 100 * i, 5 * BLOCK));
    assert_stats(c, 3, 5, 0);
    struct gd_kv_prompt p = prompt(text[0], 64), too_big = prompt(text[3], 6 * BLOCK);
    assert_int_equal(gd_kvcache_acquire(c, &too_big, &s), GD_EBUSY);
    p.n_shared = 40;
    p.salt = bob;
    assert_int_equal(score(c, p), 40);
    assert_int_equal(stats(c).pinned, 3);
    gd_kvcache_close(c);
}

/* What stays is what can be found, even when it is not what the pinning sequence itself computed. */
static void test_pin_over_others(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(8);
    struct gd_kv_seq a, b;
    begin(c, prompt(text[0], 48), &a);
    begin(c, prompt(text[0], 40), &b);
    gd_kvcache_advance(c, &a, 48);
    gd_kvcache_advance(c, &b, 40);
    gd_kvcache_step_end(c);
    gd_kvcache_pin(c, &b);
    assert_int_equal(stats(c).pinned, 3);
    assert_stats(c, 3, 0, 5);
    gd_kvcache_release(c, &a, false); /* what b has pinned is not taken back */
    assert_stats(c, 3, 0, 5);
    begin(c, prompt(text[1], 5 * BLOCK), &a);
    assert_int_equal(peek(c, prompt(text[0], 50)), 48);
    gd_kvcache_release(c, &a, false);
    gd_kvcache_close(c);
}

/* n_keep ends in a block that another one has filled further. */
static void test_pin_of_found_block(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(8);
    struct gd_kv_seq s;
    struct gd_kv_prompt p = prompt(text[0], 60);
    score(c, p);
    p.n_keep = 20;
    begin(c, p, &s);
    assert_int_equal(s.n_found, 3);
    compute(c, &s);
    gd_kvcache_pin(c, &s);
    assert_int_equal(stats(c).pinned, 2);
    begin(c, prompt(text[1], 6 * BLOCK), &s);
    assert_int_equal(peek(c, p), 32);
    gd_kvcache_release(c, &s, false);
    gd_kvcache_close(c);
}

static void siblings(struct gd_kvcache *c, uint32_t n, struct gd_kv_salt salt, int32_t mark)
{
    int32_t tokens[BLOCK + 10];
    memcpy(tokens, text[0], sizeof tokens);
    struct gd_kv_prompt p = prompt(tokens, BLOCK + 10);
    p.n_shared = BLOCK;
    p.salt = salt;
    for (uint32_t i = 0; i < n; i++) {
        tokens[BLOCK + 1] = mark + (int32_t)i;
        score(c, p);
    }
}

/* Of those that follow one block, the newest are looked at; other tenants' do not count. The bucket
 * may hold other families' blocks, but hardly ever in so large a table. */
static void test_siblings(void **state)
{
    (void)state;
    const uint32_t n = GD_KV_SIBLINGS_MAX;
    struct gd_kvcache *c = open_cache(1u << 20);
    int32_t tokens[BLOCK + 10];
    memcpy(tokens, text[0], sizeof tokens);
    struct gd_kv_prompt p = prompt(tokens, BLOCK + 10);
    p.n_shared = BLOCK;
    siblings(c, n + 1, alice, 1000);
    for (int32_t i = 0; i <= (int32_t)n; i++) {
        tokens[BLOCK + 1] = 1000 + i;
        assert_int_equal(peek(c, p), i == 0 ? BLOCK + 1 : BLOCK + 9);
    }
    siblings(c, 5 * n, bob, 5000);
    tokens[BLOCK + 1] = 1001;
    assert_int_equal(peek(c, p), BLOCK + 9);
    siblings(c, 1, alice, 2000);
    assert_int_equal(peek(c, p), BLOCK + 1);
    /* Full blocks are found whatever the flood. */
    score(c, prompt(text[1], 60));
    for (int32_t i = 0; i < 3 * (int32_t)n; i++) {
        int32_t flood[BLOCK + 3];
        memcpy(flood, text[1], sizeof flood);
        flood[BLOCK + 1] = 7000 + i;
        score(c, prompt(flood, BLOCK + 3));
    }
    assert_int_equal(peek(c, prompt(text[1], 60)), 59);
    gd_kvcache_close(c);
}

/* The longest run wins, be the block full or not; a tail that is known is not kept twice. */
static void test_longest_run(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(64);
    int32_t tokens[40];
    memcpy(tokens, text[0], sizeof tokens);
    static const uint32_t lengths[] = {5, 12, 9, 3};
    for (size_t i = 0; i < 4; i++) {
        tokens[16 + lengths[i]] = 900 + (int32_t)i;
        score(c, prompt(tokens, i % 2 ? 16 + lengths[i] + 1 : 40));
        tokens[16 + lengths[i]] = text[0][16 + lengths[i]];
    }
    assert_int_equal(peek(c, prompt(text[0], 40)), 28);
    uint32_t cached = stats(c).cached;
    score(c, prompt(text[0], 16 + 12));
    assert_int_equal(stats(c).cached, cached);
    score(c, prompt(text[0], 16 + 13));
    assert_int_equal(stats(c).cached, cached + 1);
    score(c, prompt(text[0], 16 + 13));
    assert_int_equal(stats(c).cached, cached + 1);
    gd_kvcache_close(c);
}

static void test_no_reuse(void **state)
{
    (void)state;
    struct gd_kvcache *c = NULL;
    struct gd_kv_seq s;
    assert_int_equal(gd_kvcache_open(&c, 8, false, NULL), GD_OK);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(score(c, prompt(text[0], 60)), 0);
        assert_stats(c, 0, 0, 8);
        begin(c, prompt(text[0], 60), &s);
        compute(c, &s);
        gd_kvcache_pin(c, &s);
        assert_stats(c, 0, 0, 8);
    }
    gd_kvcache_close(c);
}

/* Each prompt is the one before with some events more: all that was kept is found. */
static void test_growing_trajectory(void **state)
{
    (void)state;
    struct gd_kvcache *c = open_cache(200);
    uint32_t kept = 0;
    for (uint32_t n = 30; n < 2000; n += 37) {
        struct gd_kv_prompt p = prompt(text[0], n + 20);
        int32_t tokens[2100];
        memcpy(tokens, text[0], n * sizeof *tokens);
        memcpy(tokens + n, text[3], 20 * sizeof *tokens); /* the question */
        p.tokens = tokens;
        p.n_keep = n;
        assert_int_equal(score(c, p), kept);
        kept = n;
    }
    gd_kvcache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_whole_pool),
        cmocka_unit_test(test_common_prefix),
        cmocka_unit_test(test_last_token),
        cmocka_unit_test(test_longest_prompt),
        cmocka_unit_test(test_question_is_not_kept),
        cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_tenants_with_other_policies),
        cmocka_unit_test(test_same_step),
        cmocka_unit_test(test_release_before_step_end),
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_failed_are_taken_back),
        cmocka_unit_test(test_no_way_to_orphans),
        cmocka_unit_test(test_leaving_early),
        cmocka_unit_test(test_order_of_eviction),
        cmocka_unit_test(test_busy_changes_nothing),
        cmocka_unit_test(test_tight_pool_copies_nothing),
        cmocka_unit_test(test_pin),
        cmocka_unit_test(test_pin_over_others),
        cmocka_unit_test(test_pin_of_found_block),
        cmocka_unit_test(test_siblings),
        cmocka_unit_test(test_longest_run),
        cmocka_unit_test(test_no_reuse),
        cmocka_unit_test(test_growing_trajectory),
    };
    static const uint32_t bits[] = {256, 4, 0};
    int failed = 0;
    fill_texts();
    for (size_t i = 0; i < 3; i++) {
        hash_bits = bits[i];
        print_message("hashes of %u bits\n", hash_bits);
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
