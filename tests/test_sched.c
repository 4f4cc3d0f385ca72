/* test_sched.c - the scheduler on a simulated machine: every token is computed once and in order, on
 * blocks that hold what they should; nobody starves; prefixes are computed once.
 *
 * The machine keeps, for each place of each block, a hash of the token history that was written
 * there. A step first makes the copies, then writes the new tokens, then checks for each sequence
 * that all its positions up to the last new one hold the history of its own prompt. */
#include "guardian/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#define BLOCK GD_KV_BLOCK_TOKENS
#define MS 1000000
#define MAX_WORKS 400

struct machine {
    struct gd_kvcache *cache;
    struct gd_sched *sched;
    uint32_t n_blocks, step_tokens;
    uint64_t (*held)[BLOCK];
    int64_t now_ns;
    double ns_per_token;
    uint64_t computed, steps;
    uint32_t finished, dropped;
};

struct prompt {
    struct gd_work work;
    int32_t tokens[GD_CONTEXT_TOKENS_MAX];
    int64_t end_ns;
    bool in, fails;
    uint32_t cached;
};

static struct prompt prompts[MAX_WORKS];

static void machine_open(struct machine *m, uint32_t n_blocks, uint32_t step_tokens, bool reuse)
{
    struct gd_err err = {0};
    const struct gd_sched_options opt = {.step_tokens = step_tokens, .n_works = MAX_WORKS};
    *m = (struct machine){
        .n_blocks = n_blocks, .step_tokens = step_tokens, .now_ns = MS, .ns_per_token = 50000};
    assert_int_equal(gd_kvcache_open(&m->cache, n_blocks, reuse, &err), GD_OK);
    assert_int_equal(gd_sched_open(&m->sched, m->cache, &opt, &err), GD_OK);
    m->held = calloc(n_blocks, sizeof *m->held);
    assert_non_null(m->held);
}

/* Everything has been given back. */
static void machine_close(struct machine *m)
{
    struct gd_kvcache_stats s;
    gd_kvcache_stats(m->cache, &s);
    assert_int_equal(s.used, s.pinned);
    assert_int_equal(s.used + s.cached + s.free, m->n_blocks);
    assert_true(gd_sched_empty(m->sched));
    gd_sched_close(m->sched);
    gd_kvcache_close(m->cache);
    free(m->held);
}

static uint64_t mix(uint64_t history, int32_t token)
{
    uint64_t x = (history ^ (uint64_t)(uint32_t)token) * 0x9e3779b97f4a7c15u + 1;
    return x ^ x >> 29;
}

static uint32_t random_below(uint64_t *seed, uint32_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*seed >> 33) % n);
}

static void add(struct machine *m, struct prompt *p, uint32_t n, uint32_t n_shared, uint32_t n_keep)
{
    struct gd_kv_salt salt = p->work.prompt.salt;
    p->work.prompt = (struct gd_kv_prompt){p->tokens, n, n_shared, n_keep, salt};
    p->work.submit_ns = m->now_ns;
    atomic_store(&p->work.canceled, false);
    p->in = true;
    p->end_ns = 0;
    gd_sched_add(m->sched, &p->work, m->ns_per_token);
}

static struct prompt *prompt_of(struct gd_work *w)
{
    return (struct prompt *)w;
}

/* What one sequence of the step reads and writes. pass 0 writes, pass 1 reads. */
static void touch(struct machine *m, const struct gd_batch *b, const struct gd_work *w,
                  uint32_t seq, int pass)
{
    uint32_t first = b->seq_start[seq], n = b->seq_start[seq + 1] - first;
    uint32_t last = (uint32_t)b->positions[first + n - 1];
    const uint32_t *table = b->blocks + b->block_start[seq];
    uint64_t history = 0;
    assert_int_equal(b->block_start[seq + 1] - b->block_start[seq], last / BLOCK + 1);
    for (uint32_t pos = 0; pos <= last; pos++) {
        history = mix(history, w->prompt.tokens[pos]);
        bool is_new = pos + n > last;
        assert_true(table[pos / BLOCK] < m->n_blocks);
        uint64_t *at = &m->held[table[pos / BLOCK]][pos % BLOCK];
        if (pass == 0 && is_new) {
            uint32_t i = first + pos - (last + 1 - n);
            assert_int_equal(b->tokens[i], w->prompt.tokens[pos]);
            assert_int_equal(b->positions[i], pos);
            *at = history;
        }
        if (pass == 1) {
            assert_true(*at == history);
        }
    }
}

static void run(struct machine *m, struct gd_step *step)
{
    const struct gd_batch *b = &step->batch;
    bool ok[GD_STEP_SEQS_MAX];
    uint32_t scored = 0;
    assert_true(b->n_tokens <= m->step_tokens && b->n_seqs <= GD_STEP_SEQS_MAX);
    assert_int_equal(b->seq_start[b->n_seqs], b->n_tokens);
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        const struct gd_kv_seq *kv = &step->works[i]->kv;
        if (kv->copy_from != GD_KV_NONE) {
            memcpy(m->held[kv->blocks[kv->n_cached / BLOCK]], m->held[kv->copy_from],
                   sizeof m->held[0]);
        }
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < b->n_seqs; i++) {
            touch(m, b, step->works[i], i, pass);
        }
    }
    m->now_ns += MS / 2 + (int64_t)(m->ns_per_token * b->n_tokens);
    m->computed += b->n_tokens;
    m->steps++;
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        struct prompt *p = prompt_of(step->works[i]);
        uint32_t last = b->seq_start[i + 1] - 1;
        bool ends = (uint32_t)b->positions[last] + 1 == p->work.prompt.n_tokens;
        p->cached = p->work.kv.n_cached;
        ok[i] = !p->fails;
        assert_int_equal(ends, scored < step->n_scored && step->scored[scored] == i);
        scored += ends;
        if (ends || !ok[i]) {
            p->in = false;
            p->end_ns = m->now_ns;
            m->finished++;
        }
    }
    assert_int_equal(scored, step->n_scored);
    gd_sched_done(m->sched, step, ok);
}

/* Plans and runs one step; false when there was nothing to do. */
static bool tick(struct machine *m)
{
    struct gd_step step;
    gd_sched_plan(m->sched, m->now_ns, &step);
    for (struct gd_work *w = step.dropped; w != NULL; w = w->next) {
        assert_true(prompt_of(w)->in);
        assert_true(atomic_load(&w->canceled) ||
                    (w->deadline_ns != 0 && w->deadline_ns <= m->now_ns));
        prompt_of(w)->in = false;
        m->dropped++;
    }
    if (step.batch.n_seqs == 0) {
        return false;
    }
    run(m, &step);
    return true;
}

static void fill(struct prompt *p, uint64_t seed, uint32_t n)
{
    memset(p, 0, sizeof p->work);
    p->fails = false;
    for (uint32_t i = 0; i < n; i++) {
        p->tokens[i] = (int32_t)random_below(&seed, 1000);
    }
}

/* ---- a short prompt does not wait behind a long one, and a long one not for ever ---- */

static void test_short_before_long(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 1000, 256, true);
    fill(&prompts[0], 1, 4000);
    fill(&prompts[1], 2, 20);
    add(&m, &prompts[0], 4000, 0, 3990);
    assert_true(tick(&m));
    add(&m, &prompts[1], 20, 0, 10);
    assert_true(tick(&m)); /* the very next step has it */
    assert_false(prompts[1].in);
    assert_true(prompts[0].in);
    while (tick(&m)) {
    }
    assert_int_equal(m.finished, 2);
    assert_int_equal(m.computed, 4020);
    machine_close(&m);
}

static void test_no_starvation(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 4000, 256, true);
    fill(&prompts[0], 1, 4000);
    add(&m, &prompts[0], 4000, 0, 0);
    int64_t begin = m.now_ns;
    uint32_t n = 1;
    /* Short prompts come as fast as they can be computed: the long one alone has no chance. */
    while (prompts[0].in) {
        for (uint32_t sent = 0; sent < 300; sent += 60) {
            struct prompt *p = &prompts[1 + n++ % (MAX_WORKS - 1)];
            if (!p->in) {
                fill(p, n, 60);
                add(&m, p, 60, 0, 0);
            }
        }
        assert_true(tick(&m));
        assert_true(m.steps < 2000);
    }
    double cost = m.ns_per_token * 4000;
    assert_true((double)(prompts[0].end_ns - begin) < (GD_BATCH_SLACK + 2.5) * cost);
    assert_true(m.steps > 40); /* it did give way */
    while (tick(&m)) {
    }
    machine_close(&m);
}

static void test_deadline_order(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 1000, 64, true);
    for (uint32_t i = 0; i < 4; i++) {
        fill(&prompts[i], i, 64);
        prompts[i].work.deadline_ns = m.now_ns + (i == 2 ? 8 : 1000) * (int64_t)MS;
        add(&m, &prompts[i], 64, 0, 0);
    }
    assert_true(tick(&m)); /* one prompt fills a step: the one that is in a hurry */
    assert_false(prompts[2].in);
    assert_true(prompts[0].in && prompts[1].in && prompts[3].in);
    assert_true(tick(&m));
    assert_false(prompts[0].in); /* then in the order of arrival */
    while (tick(&m)) {
    }
    assert_int_equal(m.dropped, 0);
    machine_close(&m);
}

/* ---- prefixes are computed once ---- */

static void test_shared_prefix(void **state)
{
    (void)state;
    enum { N = 12, PREFIX = 700, REST = 30 };
    for (uint32_t step_tokens = 64; step_tokens <= 4096; step_tokens *= 4) {
        struct machine m;
        machine_open(&m, 2000, step_tokens, true);
        for (uint32_t i = 0; i < N; i++) {
            fill(&prompts[i], 7, PREFIX);
            prompts[i].tokens[PREFIX] = (int32_t)(2000 + i);
            add(&m, &prompts[i], PREFIX + REST, 0, PREFIX + REST - 5);
        }
        while (tick(&m)) {
        }
        assert_int_equal(m.finished, N);
        /* the prefix once, the rest of each, and what does not fill a block of the prefix */
        assert_true(m.computed <= PREFIX + N * (REST + BLOCK));
        machine_close(&m);
    }
}

/* The one that waits for another's prefix gives it its place, for as long as that takes. */
static void test_lent_place(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 3000, 64, true);
    fill(&prompts[0], 7, 4000);
    add(&m, &prompts[0], 4000, 0, 4000);
    assert_true(tick(&m));
    fill(&prompts[1], 7, 640); /* its first 600 tokens are those of the long one */
    prompts[1].tokens[600] = -1;
    add(&m, &prompts[1], 640, 0, 640);
    fill(&prompts[2], 9, 1000); /* before the long one, behind the short one */
    add(&m, &prompts[2], 1000, 0, 0);
    while (prompts[1].in) {
        assert_true(tick(&m));
    }
    assert_true(prompts[0].in && prompts[2].in);
    assert_true(prompts[1].cached >= 560); /* it does not wait for the last two blocks */
    assert_true(prompts[2].work.n_done <= 64);
    while (tick(&m)) {
    }
    assert_true(m.computed <= 4000 + 1000 + 40 + 3 * BLOCK);
    machine_close(&m);
}

static void test_growing(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 2000, 256, true);
    uint32_t n = 300;
    fill(&prompts[0], 3, 4000);
    fill(&prompts[1], 4, 30);
    for (int call = 0; call < 20; call++, n += 90) {
        struct prompt *p = &prompts[2];
        fill(p, 0, 0);
        memcpy(p->tokens, prompts[0].tokens, n * sizeof p->tokens[0]);
        memcpy(p->tokens + n, prompts[1].tokens, 30 * sizeof p->tokens[0]);
        uint64_t before = m.computed;
        add(&m, p, n + 30, 0, n);
        while (tick(&m)) {
        }
        /* exactly the new tokens and the question: reuse is by token, not by block */
        assert_int_equal(m.computed - before, call == 0 ? 330 : 90 + 30);
    }
    machine_close(&m);
}

static void test_no_reuse(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 2000, 256, false);
    for (uint32_t i = 0; i < 6; i++) {
        fill(&prompts[i], 7, 200);
        add(&m, &prompts[i], 200, 0, 190);
    }
    while (tick(&m)) {
    }
    assert_int_equal(m.computed, 6 * 200);
    assert_true(m.steps <= 5); /* and none waits for another */
    machine_close(&m);
}

/* Where two prompts part inside a block, its equal tokens are used too, once they are there. */
static void test_parting_inside_a_block(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 200, 512, true);
    for (uint32_t i = 0; i < 2; i++) {
        fill(&prompts[i], 7, 400);
        prompts[i].tokens[203] = (int32_t)(2000 + i);
        add(&m, &prompts[i], 400, 0, 400);
        while (tick(&m)) {
        }
        assert_int_equal(prompts[i].cached, i == 0 ? 0 : 203);
    }
    machine_close(&m);
}

/* Nobody waits for a prefix of another tenant, which will never be his. */
static void test_tenants_do_not_wait(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 200, 300, true);
    for (uint32_t i = 0; i < 3; i++) {
        fill(&prompts[i], 7, 200);
        prompts[i].work.prompt.salt.bytes[0] = (uint8_t)(i / 2);
        add(&m, &prompts[i], 200, 64, 200);
    }
    assert_true(tick(&m)); /* 200 tokens of the first, 8 of its twin, as many as fit of the third */
    assert_false(prompts[0].in || prompts[1].in);
    assert_int_equal(prompts[1].cached, 192);
    assert_int_equal(prompts[2].work.n_done, 64 + 92); /* what all share is not computed twice */
    while (tick(&m)) {
    }
    assert_int_equal(prompts[2].cached, 64);
    machine_close(&m);
}

/* What one client sends together is spread out: others get their turn in between. */
static void test_batch_of_one_client(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 2000, 100, true);
    for (uint32_t i = 0; i < 40; i++) {
        fill(&prompts[i], i, 100);
        prompts[i].work.n_before = 100 * i;
        add(&m, &prompts[i], 100, 0, 0);
    }
    for (int i = 0; i < 12; i++) { /* past the slack of a prompt alone */
        assert_true(tick(&m));
    }
    fill(&prompts[40], 99, 100);
    add(&m, &prompts[40], 100, 0, 0);
    for (int i = 0; i < 14; i++) {
        assert_true(tick(&m));
    }
    assert_false(prompts[40].in);
    assert_true(prompts[39].in);
    while (tick(&m)) {
    }
    machine_close(&m);
}

/* No deadline brings a prompt before those that came long before it. */
static void test_no_jumping_the_queue(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 2000, 64, true);
    for (uint32_t i = 0; i < 6; i++) {
        fill(&prompts[i], i, 64);
        add(&m, &prompts[i], 64, 0, 0);
    }
    m.now_ns += 100 * (int64_t)MS;
    fill(&prompts[6], 6, 64);
    prompts[6].work.deadline_ns = m.now_ns + 20 * (int64_t)MS;
    add(&m, &prompts[6], 64, 0, 0);
    assert_true(tick(&m));
    assert_false(prompts[0].in);
    assert_true(prompts[6].in);
    while (tick(&m)) {
    }
    machine_close(&m);
}

/* A prompt that needs all blocks gets them when it is its turn, though small ones could take them for
 * ever: there is hardly a step after which none of them holds a block. */
static void test_large_among_small(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 38, 64, true);
    uint32_t n = 1;
    fill(&prompts[0], 1, 600);
    for (int round = 0; round < 100; round++) {
        for (uint32_t i = 1; i < 30; i++) {
            struct prompt *p = &prompts[i];
            if (!p->in) {
                fill(p, 1000 + n++, 33);
                add(&m, p, 33, 0, 0);
            }
        }
        if (round == 3) {
            add(&m, &prompts[0], 600, 0, 0);
        }
        assert_true(tick(&m));
    }
    assert_false(prompts[0].in);
    assert_true(prompts[0].end_ns - prompts[0].work.submit_ns < 220 * (int64_t)MS);
    while (tick(&m)) {
    }
    machine_close(&m);
}

/* ---- leaving early ---- */

static void test_leaving(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 1000, 256, true);
    fill(&prompts[0], 1, 4000);
    add(&m, &prompts[0], 4000, 0, 3990);
    assert_true(tick(&m) && tick(&m));
    atomic_store(&prompts[0].work.canceled, true);
    assert_false(tick(&m));
    assert_int_equal(m.dropped, 1);
    prompts[0].work.deadline_ns = m.now_ns + 40 * MS; /* enough for three steps, not for all */
    add(&m, &prompts[0], 4000, 0, 3990);
    while (tick(&m)) {
    }
    assert_int_equal(m.dropped, 2);
    uint64_t before = m.computed;
    assert_true(before > 3 * 256);
    prompts[0].work.deadline_ns = 0;
    add(&m, &prompts[0], 4000, 0, 3990); /* goes on where the others were left */
    while (tick(&m)) {
    }
    assert_int_equal(m.computed, 4000);
    assert_int_equal(prompts[0].cached, before);

    fill(&prompts[1], 2, 300); /* what failed leaves nothing behind */
    prompts[1].fails = true;
    add(&m, &prompts[1], 300, 0, 300);
    while (tick(&m)) {
    }
    prompts[1].fails = false;
    before = m.computed;
    add(&m, &prompts[1], 300, 0, 300);
    while (tick(&m)) {
    }
    assert_int_equal(m.computed - before, 300);

    machine_close(&m);
    machine_open(&m, 1000, 5, true);
    fill(&prompts[1], 6, 100);
    add(&m, &prompts[1], 100, 0, 12);
    assert_true(tick(&m)); /* five tokens of the twelve that may be kept: less than a block */
    atomic_store(&prompts[1].work.canceled, true);
    assert_false(tick(&m));
    add(&m, &prompts[1], 100, 0, 12);
    while (tick(&m)) {
    }
    assert_int_equal(prompts[1].cached, 0);
    machine_close(&m);

    machine_open(&m, 1000, 256, true);
    fill(&prompts[0], 8, 4000);
    add(&m, &prompts[0], 4000, 0, 0);
    fill(&prompts[2], 5, 50);
    add(&m, &prompts[2], 50, 0, 50);
    assert_true(tick(&m));
    int n = 0;
    for (struct gd_work *w = gd_sched_drain(m.sched); w != NULL; w = w->next) {
        n++;
    }
    assert_true(prompts[0].in);
    assert_int_equal(n, 1 + prompts[2].in);
    machine_close(&m);
}

/* ---- any mix, a small cache, tenants, failures ---- */

/* A prompt that shares some beginning with earlier ones. */
static void random_prompt(struct prompt *p, uint64_t *seed, uint32_t longest)
{
    uint32_t n = random_below(seed, 4) == 0 ? longest : longest / 8;
    n = 1 + random_below(seed, n);
    uint64_t tree = 1 + random_below(seed, 3);
    memset(&p->work, 0, sizeof p->work);
    for (uint32_t i = 0; i < n; i++) {
        if (random_below(seed, 150) == 0) {
            tree = tree * 8 + random_below(seed, 3); /* turns into another branch */
        }
        uint64_t x = tree * 1000003 + i;
        p->tokens[i] = (int32_t)random_below(&x, 50);
    }
    p->work.prompt.salt.bytes[3] = (uint8_t)random_below(seed, 2);
    p->work.prompt.n_tokens = n;
    p->work.prompt.n_keep = random_below(seed, n + 1);
    p->work.prompt.n_shared = random_below(seed, p->work.prompt.n_keep + 1);
    p->fails = random_below(seed, 40) == 0;
    p->work.pin = false;
}

static void run_mix(uint64_t seed)
{
    struct machine m;
    uint32_t step_tokens = 1 + random_below(&seed, 16u << random_below(&seed, 6));
    uint32_t longest = 400 + random_below(&seed, 1200);
    uint32_t n_blocks = longest / BLOCK + 2 + random_below(&seed, 300);
    uint32_t added = 0, canceled = 0;
    machine_open(&m, n_blocks, step_tokens, random_below(&seed, 8) != 0);
    while (added < 250) {
        uint32_t burst = random_below(&seed, 12);
        for (uint32_t i = 0; i < burst && added < 250; i++) {
            struct prompt *p = &prompts[added++];
            random_prompt(p, &seed, longest);
            p->work.deadline_ns =
                random_below(&seed, 5) == 0 ? m.now_ns + random_below(&seed, 300) * (int64_t)MS : 0;
            const struct gd_kv_prompt q = p->work.prompt;
            add(&m, p, q.n_tokens, q.n_shared, q.n_keep);
        }
        if (added > 0 && random_below(&seed, 6) == 0) {
            struct prompt *p = &prompts[random_below(&seed, added)];
            canceled += p->in;
            atomic_store(&p->work.canceled, true);
        }
        tick(&m);
    }
    while (tick(&m)) {
    }
    assert_int_equal(m.finished + m.dropped, 250);
    assert_true(m.dropped >= canceled / 2);
    for (uint32_t i = 0; i < 250; i++) {
        assert_false(prompts[i].in);
    }
    machine_close(&m);
}

static void test_mixes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        run_mix(seed * 7919);
    }
}

static void test_options(void **state)
{
    (void)state;
    struct gd_sched *s = NULL;
    struct gd_err err = {0};
    struct gd_sched_options opt = {.step_tokens = 0, .n_works = 1};
    assert_int_equal(gd_sched_open(&s, NULL, &opt, &err), GD_EUSAGE);
    opt.step_tokens = GD_STEP_TOKENS_MAX + 1;
    assert_int_equal(gd_sched_open(&s, NULL, &opt, &err), GD_EUSAGE);
    assert_null(s);
    gd_sched_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_before_long),
        cmocka_unit_test(test_no_starvation),
        cmocka_unit_test(test_deadline_order),
        cmocka_unit_test(test_shared_prefix),
        cmocka_unit_test(test_lent_place),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_no_reuse),
        cmocka_unit_test(test_parting_inside_a_block),
        cmocka_unit_test(test_tenants_do_not_wait),
        cmocka_unit_test(test_large_among_small),
        cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_batch_of_one_client),
        cmocka_unit_test(test_no_jumping_the_queue),
        cmocka_unit_test(test_mixes),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
