/* test_kvcache_model.c - random prompts against a model that knows what is in each block.
 *
 * The model does what a forward pass would do: it writes into the slots of the blocks that a
 * sequence computes, and what it writes is the whole history of the token, its tenant and the step.
 * Whatever the cache says it has found must be the prompt's own history, and legal to read. With a
 * pool that is never short the number of reused tokens must be the best possible one. */
#include "guardian/kvcache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#define BLOCK GD_KV_BLOCK_TOKENS
#define TOKENS_MAX 112
#define SEQ_BLOCKS_MAX (TOKENS_MAX / BLOCK)
#define BLOCKS_MAX 1024
#define LIVE_MAX 6
#define RECORDS_MAX 400

struct slot {
    bool written;
    bool taken_back; /* by a sequence that failed: not to be found any more */
    uint32_t n;      /* length of the history: its position + 1 */
    int32_t history[TOKENS_MAX];
    struct gd_kv_salt salt;
    uint32_t n_shared, n_keep;
    uint64_t step;
};

/* A prompt that was begun, and what of it others may find. */
struct record {
    int32_t tokens[TOKENS_MAX];
    struct gd_kv_prompt prompt;
    uint32_t n_public; /* tokens */
    uint64_t step[SEQ_BLOCKS_MAX];
};

struct live {
    bool on, in_step;
    struct gd_kv_seq seq;
    struct record *record;
    uint32_t n_done;
};

struct world {
    struct gd_kvcache *cache;
    uint64_t seed, step;
    uint32_t n_blocks, n_records, n_pinned, policy_tokens, vocabulary;
    bool odd_policies; /* prompts with any n_shared; else all have that of the policy */
    bool fails;        /* sequences are given up and taken back */
    bool ideal;        /* the pool is never short, and nothing is taken back */
    bool whole_blocks; /* n_keep is a multiple of BLOCK */
    uint32_t found_tokens, copied_tokens, busy, tight;
    uint32_t pinned[SEQ_BLOCKS_MAX];
    struct live live[LIVE_MAX];
    struct record records[RECORDS_MAX];
    struct slot slots[BLOCKS_MAX][BLOCK];
};

static struct world *w; /* of the present test */

static uint32_t below(uint32_t n)
{
    w->seed ^= w->seed << 13;
    w->seed ^= w->seed >> 7;
    w->seed ^= w->seed << 17;
    return (uint32_t)((w->seed >> 20) % n);
}

static struct gd_kv_salt salt_of(uint32_t tenant)
{
    return (struct gd_kv_salt){
        {(uint8_t)tenant}}; /* tenant 0: a salt of zeros is one as any other */
}

static bool same_salt(const struct gd_kv_salt *a, const struct gd_kv_salt *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* The beginning of an earlier prompt, or of the policy, and random tokens behind it. */
static struct record *make_prompt(void)
{
    struct record *r = &w->records[w->n_records];
    uint32_t n = 1 + below(TOKENS_MAX), same = w->policy_tokens < n ? w->policy_tokens : n;
    const struct record *like = &w->records[below(w->n_records + 1)];
    memset(r, 0, sizeof *r);
    for (uint32_t i = 0; i < n; i++)
        r->tokens[i] = i < same ? -1 - (int32_t)i : (int32_t)below(w->vocabulary);
    if (like != r && below(4) != 0) {
        uint32_t max = like->prompt.n_tokens < n ? like->prompt.n_tokens : n;
        memcpy(r->tokens, like->tokens, below(max + 1) * sizeof *r->tokens);
    }
    if (like != r && below(6) == 0) { /* the same again */
        n = like->prompt.n_tokens;
        memcpy(r->tokens, like->tokens, sizeof r->tokens);
    }
    r->prompt =
        (struct gd_kv_prompt){.tokens = r->tokens, .n_tokens = n, .salt = salt_of(below(3))};
    r->prompt.n_keep = below(3) == 0 ? n : below(n + 1);
    if (w->whole_blocks)
        r->prompt.n_keep -= r->prompt.n_keep % BLOCK;
    r->prompt.n_shared = w->policy_tokens;
    if (w->odd_policies && below(2) == 0)
        r->prompt.n_shared = below(n + 1);
    if (r->prompt.n_shared > r->prompt.n_keep)
        r->prompt.n_shared = r->prompt.n_keep;
    return r;
}

static struct gd_kvcache_stats stats(void)
{
    struct gd_kvcache_stats s;
    gd_kvcache_stats(w->cache, &s);
    assert_int_equal(s.blocks, w->n_blocks);
    assert_int_equal(s.used + s.cached + s.free, s.blocks);
    assert_int_equal(s.pinned, w->n_pinned);
    return s;
}

/* How many live sequences have block b in their table or copy from it, and 1 when it is pinned. */
static uint32_t holders(uint32_t b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_pinned; i++)
        n += w->pinned[i] == b;
    for (uint32_t l = 0; l < LIVE_MAX; l++) {
        const struct live *v = &w->live[l];
        for (uint32_t i = 0; v->on && i < v->seq.n_blocks; i++)
            n += v->seq.blocks[i] == b;
        n += v->on && v->seq.copy_from == b;
    }
    return n;
}

static void check_stats(void)
{
    struct gd_kvcache_stats s = stats();
    uint32_t held = 0, settled = 0;
    for (uint32_t b = 0; b < w->n_blocks; b++)
        held += holders(b) > 0;
    for (uint32_t l = 0; l < LIVE_MAX; l++) {
        const struct live *v = &w->live[l];
        settled += v->on ? v->seq.n_published - v->seq.n_found : 0;
    }
    assert_true(s.used >= held);
    assert_true(s.used <= held + settled); /* twins are in no table */
}

/* Slot t may be used for token `at` of p. */
static void check_slot(const struct slot *t, const struct gd_kv_prompt *p, uint32_t at,
                       uint64_t last_step)
{
    assert_true(t->written);
    assert_int_equal(t->n, at + 1);
    assert_memory_equal(t->history, p->tokens, (at + 1) * sizeof *p->tokens);
    assert_true(at < t->n_keep);
    assert_true(same_salt(&t->salt, &p->salt) || (at < t->n_shared && at < p->n_shared));
    assert_true(t->step <= last_step);
}

static void check_found(const struct slot *t, const struct gd_kv_prompt *p, uint32_t at,
                        uint64_t last_step)
{
    assert_false(t->taken_back);
    check_slot(t, p, at, last_step);
}

/* The best that could be found, from the records alone. */
static bool same_chain(const struct record *r, const struct gd_kv_prompt *p, uint32_t n)
{
    if (memcmp(r->tokens, p->tokens, n * sizeof *r->tokens) != 0)
        return false;
    for (uint32_t end = BLOCK; end <= n; end += BLOCK) {
        bool common = end <= r->prompt.n_shared;
        if (common != (end <= p->n_shared) || (!common && !same_salt(&r->prompt.salt, &p->salt)))
            return false;
    }
    return true;
}

static uint32_t best_run(const struct record *r, const struct gd_kv_prompt *p, uint32_t start)
{
    uint32_t end = r->n_public < start + BLOCK ? r->n_public : start + BLOCK, max = p->n_tokens - 1;
    if (r->n_public <= start || r->step[start / BLOCK] >= w->step)
        return 0;
    if (end <= r->prompt.n_shared)
        max = p->n_shared < max ? p->n_shared : max;
    else if (!same_salt(&r->prompt.salt, &p->salt))
        return 0;
    max = max < end ? max : end;
    max = max < start + BLOCK - 1 ? max : start + BLOCK - 1;
    uint32_t n = start;
    while (n < max && r->tokens[n] == p->tokens[n])
        n++;
    return n - start;
}

static uint32_t ideal(const struct gd_kv_prompt *p)
{
    uint32_t full = 0, run = 0;
    for (uint32_t i = 0; i < w->n_records; i++) {
        const struct record *r = &w->records[i];
        for (uint32_t n = full + BLOCK; n < p->n_tokens && n <= r->n_public; n += BLOCK)
            full = same_chain(r, p, n) ? n : full;
    }
    for (uint32_t i = 0; i < w->n_records; i++) {
        const struct record *r = &w->records[i];
        uint32_t n = r->n_public >= full && same_chain(r, p, full) ? best_run(r, p, full) : 0;
        run = n > run ? n : run;
    }
    return full + run;
}

static void check_acquired(const struct gd_kv_seq *s, uint32_t seen)
{
    const struct gd_kv_prompt *p = &s->prompt;
    struct gd_kvcache_stats now = stats();
    uint32_t full = s->n_cached / BLOCK, n = (p->n_tokens + BLOCK - 1) / BLOCK;
    assert_int_equal(s->n_blocks, n);
    assert_int_equal(s->n_found, full);
    if (s->n_cached != seen) { /* only a pool without any other block gives up a copy */
        assert_int_equal(s->n_cached, seen / BLOCK * BLOCK);
        assert_int_equal(now.cached + now.free, 0);
        w->tight++;
    }
    assert_true(s->n_cached < p->n_tokens);
    assert_int_equal(s->copy_from != GD_KV_NONE, s->n_cached % BLOCK != 0);
    for (uint32_t i = 0; i < full * BLOCK; i++)
        check_found(&w->slots[s->blocks[i / BLOCK]][i % BLOCK], p, i, w->step);
    for (uint32_t i = full * BLOCK; i < s->n_cached; i++)
        check_found(&w->slots[s->copy_from][i % BLOCK], p, i, w->step - 1);
    for (uint32_t i = full; i < n; i++) {
        uint32_t b = s->blocks[i];
        assert_true(b < w->n_blocks);
        assert_int_equal(holders(b), 0); /* in nobody's use before */
        assert_int_not_equal(b, s->copy_from);
        for (uint32_t k = 0; k < n; k++)
            assert_true(k == i || s->blocks[k] != b);
        memset(w->slots[b], 0, sizeof w->slots[b]);
    }
    w->found_tokens += full * BLOCK;
    w->copied_tokens += s->n_cached - full * BLOCK;
}

static void begin_one(struct live *v)
{
    struct record *r = make_prompt();
    struct gd_kvcache_stats before = stats(), after;
    uint32_t seen = gd_kvcache_peek(w->cache, &r->prompt);
    if (w->ideal)
        assert_int_equal(seen, ideal(&r->prompt));
    if (gd_kvcache_acquire(w->cache, &r->prompt, &v->seq) != GD_OK) {
        assert_false(w->ideal);
        assert_true((r->prompt.n_tokens + BLOCK - 1) / BLOCK > before.free + before.cached);
        after = stats();
        assert_int_equal(before.used, after.used);
        assert_int_equal(before.cached, after.cached);
        assert_int_equal(before.evictions, after.evictions);
        assert_int_equal(gd_kvcache_peek(w->cache, &r->prompt), seen);
        w->busy++;
        return;
    }
    check_acquired(&v->seq, seen);
    w->n_records++;
    v->on = true;
    v->in_step = false;
    v->record = r;
    v->n_done = v->seq.n_cached;
}

static void write_slot(struct live *v, uint32_t at)
{
    const struct gd_kv_prompt *p = &v->record->prompt;
    struct slot *t = &w->slots[v->seq.blocks[at / BLOCK]][at % BLOCK];
    *t = (struct slot){.written = true,
                       .n = at + 1,
                       .salt = p->salt,
                       .n_shared = p->n_shared,
                       .n_keep = p->n_keep,
                       .step = w->step};
    memcpy(t->history, p->tokens, t->n * sizeof *t->history);
}

static void make_public(struct record *r, uint32_t n, uint64_t step)
{
    for (uint32_t at = r->n_public; at < n; at++) {
        if (at % BLOCK == 0 || at == r->n_public)
            r->step[at / BLOCK] = step;
    }
    r->n_public = n > r->n_public ? n : r->n_public;
}

/* Some more tokens of v in the step under preparation. */
static void add_chunk(struct live *v)
{
    const struct gd_kv_prompt *p = &v->record->prompt;
    uint32_t left = p->n_tokens - v->n_done, n = 1 + below(60);
    if (v->seq.copy_from != GD_KV_NONE) {
        for (uint32_t at = v->seq.n_found * BLOCK; at < v->seq.n_cached; at++) {
            check_slot(&w->slots[v->seq.copy_from][at % BLOCK], p, at, w->step - 1);
            write_slot(v, at);
        }
    }
    n = n < left ? n : left;
    for (uint32_t i = 0; i < n; i++)
        write_slot(v, v->n_done + i);
    v->n_done += n;
    v->in_step = true;
    gd_kvcache_advance(w->cache, &v->seq, v->n_done);
    uint32_t public = v->n_done < p->n_keep ? v->n_done : p->n_keep;
    make_public(v->record, public / BLOCK * BLOCK, w->step);
}

/* What v has written must not be found any more. Who holds it already may go on. */
static void take_back(const struct live *v)
{
    for (uint32_t i = v->seq.n_found * BLOCK; i < v->seq.n_blocks * BLOCK; i++)
        w->slots[v->seq.blocks[i / BLOCK]][i % BLOCK].taken_back = true;
}

static void end_one(struct live *v)
{
    struct gd_kv_prompt *p = &v->record->prompt;
    bool fail = w->fails && below(6) == 0, early = w->fails && below(8) == 0;
    gd_kvcache_copied(w->cache, &v->seq);
    v->in_step = false;
    if (fail) {
        take_back(v);
        v->record->n_public = 0;
    } else if (v->n_done < p->n_tokens && early) { /* as the scheduler does */
        uint32_t whole = v->n_done / BLOCK * BLOCK;
        v->seq.prompt.n_keep = p->n_keep < whole ? p->n_keep : whole;
        v->seq.prompt.n_shared = p->n_shared < whole ? p->n_shared : whole;
    } else if (v->n_done < p->n_tokens) {
        return;
    } else {
        /* The last tokens to keep, unless they are in a found block: that is its owner's. */
        bool tail = v->seq.n_found * BLOCK <= p->n_keep;
        make_public(v->record, tail ? p->n_keep : p->n_keep / BLOCK * BLOCK, w->step - 1);
    }
    v->on = false;
    gd_kvcache_release(w->cache, &v->seq, !fail);
}

static void one_step(bool begin)
{
    for (uint32_t i = 0; i < LIVE_MAX; i++) {
        struct live *v = &w->live[i];
        if (!v->on && begin && w->n_records + 1 < RECORDS_MAX && below(2) == 0)
            begin_one(v);
        if (v->on && !v->in_step && below(4) != 0)
            add_chunk(v);
    }
    check_stats();
    uint32_t told = below(LIVE_MAX + 1); /* the step's end, before, between or after releases */
    for (uint32_t i = 0; i <= LIVE_MAX; i++) {
        if (i == told)
            gd_kvcache_step_end(w->cache);
        if (i < LIVE_MAX && w->live[i].on && w->live[i].in_step)
            end_one(&w->live[i]);
    }
    w->step++;
    check_stats();
}

/* The policy's prefix, computed alone and pinned. */
static void prime(void)
{
    int32_t tokens[TOKENS_MAX];
    struct gd_kv_seq s;
    uint32_t n = w->policy_tokens;
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = -1 - (int32_t)i;
    struct record *r = &w->records[w->n_records++];
    memcpy(r->tokens, tokens, sizeof tokens);
    r->prompt =
        (struct gd_kv_prompt){.tokens = r->tokens, .n_tokens = n, .n_shared = n, .n_keep = n};
    struct live v = {.on = true, .record = r};
    assert_int_equal(gd_kvcache_acquire(w->cache, &r->prompt, &s), GD_OK);
    v.seq = s;
    for (uint32_t i = 0; i < n; i++)
        write_slot(&v, i);
    w->n_pinned = s.n_blocks;
    memcpy(w->pinned, s.blocks, s.n_blocks * sizeof *s.blocks);
    gd_kvcache_pin(w->cache, &s);
    make_public(r, n, w->step);
    gd_kvcache_step_end(w->cache);
    w->step++;
}

static void open_world(uint64_t seed, uint32_t n_blocks, uint32_t hash_bits, uint32_t policy_tokens)
{
    memset(w, 0, sizeof *w);
    w->seed = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    w->step = 1;
    w->n_blocks = n_blocks;
    w->policy_tokens = policy_tokens;
    w->vocabulary = 2 + below(3);
    assert_int_equal(gd_kvcache_open(&w->cache, n_blocks, true, NULL), GD_OK);
    gd_kvcache_test_hash_bits(w->cache, hash_bits);
    if (policy_tokens > 0 && policy_tokens <= (n_blocks - SEQ_BLOCKS_MAX) * BLOCK)
        prime();
}

static void close_world(void)
{
    gd_kvcache_close(w->cache);
    w->cache = NULL;
}

static void finish_all(void)
{
    for (;;) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < LIVE_MAX; i++)
            n += w->live[i].on;
        if (n == 0)
            break;
        one_step(false);
    }
    assert_int_equal(stats().used, w->n_pinned);
}

/* Small pools under pressure, sequences that fail, tenants, odd policies. */
static void test_small_pools(void **state)
{
    const uint32_t hash_bits = *(const uint32_t *)*state;
    uint32_t found = 0, copied = 0, busy = 0, tight = 0;
    uint64_t evictions = 0;
    for (uint64_t seed = 1; seed <= 120; seed++) {
        static const uint32_t pools[] = {7, 8, 9, 12, 20, 32, 48};
        open_world(seed, pools[seed % 7], hash_bits, seed % 3 == 0 ? 0 : (uint32_t)(seed % 41));
        w->fails = seed % 2 == 0;
        w->odd_policies = seed % 5 < 2;
        for (uint32_t i = 0; i < 200; i++)
            one_step(true);
        finish_all();
        found += w->found_tokens;
        copied += w->copied_tokens;
        busy += w->busy;
        tight += w->tight;
        evictions += stats().evictions;
        close_world();
    }
    print_message("%u tokens found, %u copied, %llu evictions, %u times busy, %u without copy\n",
                  found, copied, (unsigned long long)evictions, busy, tight);
    assert_true(found > 10000 && copied > 10000 && evictions > 10000 && busy > 100 && tight > 10);
}

/* With room for all, what is found is the best that there is. */
static void test_finds_the_best(void **state)
{
    const uint32_t hash_bits = *(const uint32_t *)*state;
    uint32_t found = 0, copied = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        open_world(seed, BLOCKS_MAX, hash_bits, seed % 3 == 0 ? 0 : (uint32_t)(seed % 50));
        w->ideal = true;
        w->odd_policies = seed % 2 == 0;
        while (w->n_records < 60) /* fewer than GD_KV_SIBLINGS_MAX: all are looked at */
            one_step(true);
        finish_all();
        assert_int_equal(stats().evictions, 0);
        found += w->found_tokens;
        copied += w->copied_tokens;
        close_world();
    }
    assert_true(found > 10000 && copied > 10000);
}

static bool same_block(const struct gd_kv_prompt *p, const struct gd_kv_prompt *q, uint32_t end)
{
    bool common = end <= p->n_shared;
    return memcmp(p->tokens, q->tokens, end * sizeof *p->tokens) == 0 &&
           common == (end <= q->n_shared) && (common || same_salt(&p->salt, &q->salt));
}

/* Whole blocks of record r that can be found. */
static uint32_t reach(const struct record *r, struct gd_kv_prompt *p)
{
    static int32_t tokens[TOKENS_MAX + 1];
    *p = r->prompt;
    memcpy(tokens, r->tokens, sizeof r->tokens);
    tokens[p->n_tokens] = 1000; /* so that no whole block has the last token */
    p->tokens = tokens;
    p->n_tokens++;
    return gd_kvcache_peek(w->cache, p) / BLOCK;
}

/* A block is evicted only after all that follow it: each block that is cached can be found. */
static void test_nothing_is_cut_off(void **state)
{
    const uint32_t hash_bits = *(const uint32_t *)*state;
    uint32_t total = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        open_world(seed, 20 + (uint32_t)(seed % 20), hash_bits, 0);
        w->whole_blocks = true;
        for (uint32_t i = 0; i < 120; i++)
            one_step(true);
        finish_all();
        uint32_t distinct = 0;
        for (uint32_t i = 0; i < w->n_records; i++) {
            struct gd_kv_prompt p, q;
            uint32_t n = reach(&w->records[i], &p);
            for (uint32_t k = 1; k <= n; k++) {
                bool seen = false;
                for (uint32_t j = 0; j < i && !seen; j++) {
                    q = w->records[j].prompt;
                    seen =
                        q.n_tokens >= k * BLOCK && same_block(&w->records[i].prompt, &q, k * BLOCK);
                }
                distinct += !seen;
            }
        }
        assert_int_equal(distinct, stats().cached);
        total += distinct;
        close_world();
    }
    assert_true(total > 500);
}

static int setup(void **state)
{
    (void)state;
    w = calloc(1, sizeof *w);
    return w == NULL;
}

static int teardown(void **state)
{
    (void)state;
    free(w);
    return 0;
}

int main(void)
{
    static uint32_t bits[] = {256, 4, 0};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_small_pools, &bits[0]),
        cmocka_unit_test_prestate(test_small_pools, &bits[1]),
        cmocka_unit_test_prestate(test_small_pools, &bits[2]),
        cmocka_unit_test_prestate(test_finds_the_best, &bits[0]),
        cmocka_unit_test_prestate(test_finds_the_best, &bits[1]),
        cmocka_unit_test_prestate(test_finds_the_best, &bits[2]),
        cmocka_unit_test_prestate(test_nothing_is_cut_off, &bits[0]),
        cmocka_unit_test_prestate(test_nothing_is_cut_off, &bits[1]),
        cmocka_unit_test_prestate(test_nothing_is_cut_off, &bits[2]),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
