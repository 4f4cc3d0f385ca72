/* test_engine.c - the engine under many callers: the same bits in any mix, order, chunking and state
 * of the caches; a queue bounded in slots and in time, deadlines, callers that leave, drain,
 * refusals. */
#include "guardian/clock.h"
#include "guardian/engine.h"
#include "guardian/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MODEL "golden/models/llama_bf16_sharded"
#if defined(__SANITIZE_THREAD__) /* everything takes thirty times as long */
#define LONGEST 800u
#define N_MIXES 2
#else
#define LONGEST 2500u
#define N_MIXES 8
#endif
#define MS 1000000

static const int32_t CHOICES[] = {33, 34, 35, 300, 0};
#define N_CHOICES 5u

static int32_t long_prompt[GD_CONTEXT_TOKENS_MAX];

static struct gd_engine *open_with(struct gd_engine_options opt)
{
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    opt.model_dir = opt.model_dir != NULL ? opt.model_dir : MODEL;
    if (gd_engine_open(&e, &opt, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    for (uint32_t i = 0; i < GD_CONTEXT_TOKENS_MAX; i++) {
        long_prompt[i] = (int32_t)(i * 2654435761u >> 16) % 384;
    }
    return e;
}

static struct gd_engine *open_engine(uint32_t n_threads)
{
    return open_with((struct gd_engine_options){.n_threads = n_threads});
}

/* Nothing of it may be reused, so that it costs what it costs. */
static struct gd_score_request request(uint32_t first, uint32_t n)
{
    return (struct gd_score_request){.prompt = {.tokens = long_prompt + first, .n_tokens = n},
                                     .choices = CHOICES,
                                     .n_choices = N_CHOICES};
}

static struct gd_score_request long_request(void)
{
    return request(0, LONGEST);
}

static void wait_for_stats(struct gd_engine *e, uint32_t waiting, uint32_t running)
{
    struct gd_engine_stats s = {0};
    for (int i = 0; i < 20000; i++) {
        gd_engine_stats(e, &s);
        if (s.waiting >= waiting && s.running >= running) {
            return;
        }
        usleep(500);
    }
    fail_msg("%u wait and %u run: expected %u and %u", s.waiting, s.running, waiting, running);
}

/* ---- the same bits, whatever happens around ---- */

#define N_PROMPTS 40
static struct {
    int32_t tokens[LONGEST];
    uint32_t n;
    float want[N_CHOICES];
} prompts[N_PROMPTS];

static uint32_t random_below(uint64_t *seed, uint32_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*seed >> 33) % n);
}

/* Prompts of all lengths, many of which begin alike; their scores one at a time, nothing cached. */
static void make_prompts(void)
{
    static const uint32_t lens[] = {1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 200, 300, 511, 700};
    uint64_t seed = 11;
    struct gd_engine *e =
        open_with((struct gd_engine_options){.n_threads = 1, .no_prefix_cache = true});
    for (uint32_t i = 0; i < N_PROMPTS; i++) {
        uint32_t same = i > 0 ? random_below(&seed, prompts[i - 1].n + 1) : 0;
        prompts[i].n = i < 14 ? lens[i] : 1 + random_below(&seed, i % 7 == 0 ? LONGEST : 600);
        for (uint32_t k = 0; k < prompts[i].n; k++) {
            prompts[i].tokens[k] =
                k < same ? prompts[i - 1].tokens[k] : (int32_t)random_below(&seed, 384);
        }
        struct gd_score got = {0};
        const struct gd_score_request req = {
            .prompt = {.tokens = prompts[i].tokens, .n_tokens = prompts[i].n, .n_keep = 0},
            .choices = CHOICES,
            .n_choices = N_CHOICES};
        assert_int_equal(gd_engine_score(e, &req, &got, NULL), GD_OK);
        assert_int_equal(got.cached_tokens, 0);
        assert_false(got.hit);
        memcpy(prompts[i].want, got.logits, sizeof prompts[i].want);
    }
    gd_engine_close(e);
}

struct caller {
    struct gd_engine *e;
    uint64_t seed;
    int wrong, failed, shared, cached, hits, n;
    pthread_t thread;
};

/* Submits a few prompts at once, some of which nobody waits for, and compares bits. */
static void *caller_main(void *arg)
{
    struct caller *c = arg;
    for (int round = 0; round < 12; round++) {
        struct gd_ticket *tickets[6] = {NULL};
        uint32_t which[6];
        uint32_t n = 1 + random_below(&c->seed, 6);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t p = which[i] = random_below(&c->seed, N_PROMPTS);
            uint32_t keep = random_below(&c->seed, prompts[p].n + 1);
            struct gd_score_request req = {
                .prompt = {.tokens = prompts[p].tokens,
                           .n_tokens = prompts[p].n,
                           .n_keep = random_below(&c->seed, 3) == 0 ? keep : prompts[p].n},
                .choices = CHOICES,
                .n_choices = N_CHOICES};
            req.prompt.n_shared = random_below(&c->seed, req.prompt.n_keep + 1);
            req.prompt.salt.bytes[0] = (uint8_t)random_below(&c->seed, 2);
            if (random_below(&c->seed, 10) == 0) { /* leaves while it waits or runs */
                req.deadline_ns = gd_now_ns() + random_below(&c->seed, 20) * (int64_t)MS / 2;
            }
            int rc = gd_engine_submit(c->e, &req, &tickets[i], NULL);
            c->failed += rc != GD_OK && req.deadline_ns == 0;
        }
        for (uint32_t i = 0; i < n; i++) {
            struct gd_score got = {0};
            if (tickets[i] == NULL ||
                gd_engine_wait(c->e, tickets[i], NULL, NULL, &got, NULL) != GD_OK) {
                continue;
            }
            c->n++;
            c->wrong += memcmp(got.logits, prompts[which[i]].want, sizeof prompts[0].want) != 0;
            c->shared += got.batch_seqs > 1;
            c->cached += !got.hit && got.cached_tokens > 0;
            c->hits += got.hit;
        }
    }
    return NULL;
}

static void run_mix(uint64_t seed)
{
    struct gd_engine_options opt = {.n_threads = 1 + random_below(&seed, 3)};
    opt.step_tokens = random_below(&seed, 2) == 0 ? 0 : 7 + random_below(&seed, 600);
    opt.no_prefix_cache = seed % 5 == 0;
    opt.verdict_entries = random_below(&seed, 2) * 8;
    opt.kv_bytes = random_below(&seed, 2) * 40 * GD_MIB; /* hardly more than two long prompts */
    struct gd_engine *e = open_with(opt);
    struct caller callers[8], sum = {.n = 0};
    for (unsigned i = 0; i < 8; i++) {
        callers[i] = (struct caller){.e = e, .seed = seed * 100 + i};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, caller_main, &callers[i]), 0);
    }
    for (unsigned i = 0; i < 8; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].failed, 0);
        assert_int_equal(callers[i].wrong, 0);
        sum.n += callers[i].n;
        sum.shared += callers[i].shared;
        sum.cached += callers[i].cached;
        sum.hits += callers[i].hits;
    }
    assert_true(sum.n > 100 && sum.shared > 0); /* else nothing was tested */
    assert_int_equal(sum.cached > 0, !opt.no_prefix_cache);
    assert_int_equal(sum.hits > 0, opt.verdict_entries > 0);
    struct gd_engine_stats s;
    gd_engine_stats(e, &s);
    assert_true(s.sequences + s.verdict_hits >= (uint64_t)sum.n);
    assert_int_equal(s.verdict_hits, sum.hits);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.kv.used + s.kv.cached + s.kv.free, s.kv.blocks);
    gd_engine_close(e);
}

static void test_same_bits(void **state)
{
    (void)state;
    make_prompts();
    for (uint64_t seed = 1; seed <= N_MIXES; seed++) {
        run_mix(seed);
    }
}

/* ---- what is reused ---- */

static void test_growing(void **state)
{
    (void)state;
    struct gd_engine *e = open_with(
        (struct gd_engine_options){.n_threads = 2, .verdict_entries = 4, .step_tokens = 100});
    struct gd_score first, again;
    assert_int_equal(gd_engine_prime(e, long_prompt, 37, NULL), GD_OK);
    for (uint32_t n = 150; n < 700; n += 110) {
        struct gd_score_request req = request(0, n + 20);
        req.prompt.n_shared = 37;
        req.prompt.n_keep = n; /* 20 tokens of a question, which are not kept */
        assert_int_equal(gd_engine_score(e, &req, &first, NULL), GD_OK);
        assert_int_equal(first.cached_tokens, n == 150 ? 37 : n - 110);
        assert_int_equal(first.n_steps, (n + 20 - first.cached_tokens + 99) / 100);
        assert_int_equal(gd_engine_score(e, &req, &again, NULL), GD_OK);
        assert_true(again.hit);
        assert_int_equal(again.cached_tokens, n + 20);
        assert_memory_equal(first.logits, again.logits, N_CHOICES * sizeof(float));
        req.prompt.salt.bytes[15] = (uint8_t)n; /* a tenant whom nobody knows */
        assert_int_equal(gd_engine_score(e, &req, &again, NULL), GD_OK);
        assert_false(again.hit);
        assert_int_equal(again.cached_tokens, 37);
        assert_memory_equal(first.logits, again.logits, N_CHOICES * sizeof(float));
    }
    struct gd_engine_stats s;
    gd_engine_stats(e, &s);
    assert_int_equal(s.verdict_hits, 5);
    assert_int_equal(s.verdict_misses, 10);
    assert_int_equal(s.kv.pinned, 3);
    assert_int_equal(s.kv.used, 3);
    assert_true(s.hit_tokens > 5 * 37 && s.hit_tokens < s.query_tokens);
    gd_engine_close(e);
}

/* ---- a full queue, then drain ---- */

struct waiter {
    struct gd_engine *e;
    struct gd_score_request req;
    int rc;
    int64_t returned_ns;
    pthread_t thread;
};

static void *waiter_main(void *arg)
{
    struct waiter *w = arg;
    struct gd_score got;
    memset(&got, 0x5a, sizeof got);
    w->rc = gd_engine_score(w->e, &w->req, &got, NULL);
    w->returned_ns = gd_now_ns();
    if (w->rc != GD_OK && got.batch_seqs != 0x5a5a5a5a) {
        w->rc = 1; /* *out was touched on failure */
    }
    return NULL;
}

static void start_waiter(struct waiter *w, struct gd_engine *e, struct gd_score_request req)
{
    pthread_attr_t attr;
    *w = (struct waiter){.e = e, .req = req};
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, 256 * 1024), 0);
    assert_int_equal(pthread_create(&w->thread, &attr, waiter_main, w), 0);
    pthread_attr_destroy(&attr);
}

static void test_full_queue_and_drain(void **state)
{
    (void)state;
    static struct waiter w[GD_QUEUE_MAX + 200];
    struct gd_engine *e = open_engine(1);
    unsigned n = 0;
    struct gd_engine_stats s = {0};
    /* Callers add up faster than the worker can work. */
    while (s.refused_full == 0) {
        assert_true(n < sizeof w / sizeof w[0]);
        start_waiter(&w[n++], e, long_request());
        if (n > GD_QUEUE_MAX) {
            usleep(1000);
        }
        gd_engine_stats(e, &s);
    }
    assert_true(gd_engine_queue_ms(e) > 100 * gd_engine_cost_ms(e, LONGEST));
    gd_engine_close(e);
    unsigned drained = 0, busy = 0;
    for (unsigned i = 0; i < n; i++) {
        pthread_join(w[i].thread, NULL);
        assert_true(w[i].rc == GD_OK || w[i].rc == GD_EDRAINING || w[i].rc == GD_EBUSY);
        drained += w[i].rc == GD_EDRAINING;
        busy += w[i].rc == GD_EBUSY;
    }
    assert_true(busy > 0);
    assert_true(drained >= GD_QUEUE_MAX - 40);
}

/* From GD_QUEUE_BATCH_MAX tickets on, finished ones too, who has others here gets no more of them. */
static void test_room_for_others(void **state)
{
    (void)state;
    static struct gd_ticket *t[GD_QUEUE_BATCH_MAX + 1];
    struct gd_engine *e = open_engine(1);
    struct gd_score got;
    uint32_t n = 0;
    while (n < GD_QUEUE_BATCH_MAX) {
        struct gd_score_request req = request(3, 3 + n % 8);
        req.n_before = n;
        assert_true(gd_engine_has_room(e));
        assert_int_equal(gd_engine_submit(e, &req, &t[n++], NULL), GD_OK);
    }
    struct gd_score_request more = request(3, 11), first = more;
    more.n_before = 1;
    assert_false(gd_engine_has_room(e));
    assert_int_equal(gd_engine_submit(e, &more, &t[n], NULL), GD_EBUSY);
    assert_int_equal(gd_engine_submit(e, &first, &t[n], NULL), GD_OK);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(gd_engine_wait(e, t[i == 0 ? n : 0], NULL, NULL, &got, NULL), GD_OK);
    assert_true(gd_engine_has_room(e));
    assert_int_equal(gd_engine_submit(e, &more, &t[0], NULL), GD_OK);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(gd_engine_wait(e, t[i], NULL, NULL, &got, NULL), GD_OK);
    gd_engine_close(e);
}

/* ---- deadlines and callers that leave ---- */

static void test_deadlines(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(1);
    struct gd_score got;
    struct gd_err err = {0};
    struct waiter blockers[5];
    struct gd_score_request req = request(3, 63);
    req.deadline_ns = gd_now_ns() - 1;
    assert_int_equal(gd_engine_score(e, &req, &got, &err), GD_EDEADLINE); /* never admitted */
    assert_int_equal(err.code, GD_EDEADLINE);

    for (int i = 0; i < 5; i++) {
        start_waiter(&blockers[i], e, long_request());
    }
    wait_for_stats(e, 3, 1);
    req = long_request(); /* as long as those before it: it cannot be done in a millisecond */
    req.deadline_ns = gd_now_ns() + 600000ll * MS;
    struct gd_ticket *t = NULL;
    assert_int_equal(gd_engine_submit(e, &req, &t, &err), GD_OK);
    req.deadline_ns = gd_now_ns() + MS;
    int rc = gd_engine_score(e, &req, &got, &err);
    assert_true(rc == GD_EDEADLINE || rc == GD_EBUSY); /* EBUSY: its place would be too late */
    assert_int_equal(gd_engine_wait(e, t, NULL, NULL, &got, &err), GD_OK);
    for (int i = 0; i < 5; i++) {
        pthread_join(blockers[i].thread, NULL);
        assert_int_equal(blockers[i].rc, GD_OK); /* the others were not disturbed */
    }

    /* Runs at once, and longer than it may. Again if this thread got no time to submit it before
     * its deadline. */
    struct gd_engine_stats before, s;
    gd_engine_stats(e, &before);
    req = long_request();
    for (s = before; s.late == before.late; gd_engine_stats(e, &s)) {
        req.deadline_ns = gd_now_ns() + 5 * MS;
        assert_int_equal(gd_engine_score(e, &req, &got, &err), GD_EDEADLINE);
    }
    req.deadline_ns = gd_now_ns() + 600000ll * MS;
    assert_int_equal(gd_engine_score(e, &req, &got, &err), GD_OK);
    gd_engine_stats(e, &s);
    assert_int_equal(s.waiting + s.running, 0);
    assert_int_equal(s.failures, before.failures + 1);
    assert_true(gd_engine_queue_ms(e) == 0.0);
    gd_engine_close(e);
}

/* Prompts that share a beginning are not each taken for whole: many of them are admitted. */
static void test_shared_history(void **state)
{
    (void)state;
    enum { N = 64 };
    struct gd_engine *e = open_engine(1);
    struct gd_ticket *t[N];
    struct gd_err err = {0};
    struct gd_score got;
    static int32_t tokens[N][LONGEST];
    for (int i = 0; i < N; i++) {
        memcpy(tokens[i], long_prompt, sizeof tokens[i]);
        tokens[i][LONGEST - 10] = i;
        struct gd_score_request req = long_request();
        req.prompt.tokens = tokens[i];
        req.prompt.n_keep = LONGEST - 5;
        req.n_before = (uint32_t)i * LONGEST;
        /* enough for a third of them if each were computed from its start */
        req.deadline_ns = gd_now_ns() + (int64_t)(20 * gd_engine_cost_ms(e, LONGEST) * MS);
        if (gd_engine_submit(e, &req, &t[i], &err) != GD_OK) {
            fail_msg("prompt %d: %s", i, err.msg);
        }
    }
    for (int i = 0; i < N; i++) { /* late where the machine has become slower since it was asked */
        int rc = gd_engine_wait(e, t[i], NULL, NULL, &got, &err);
        assert_true(rc == GD_OK || rc == GD_EDEADLINE);
    }
    struct gd_engine_stats s;
    gd_engine_stats(e, &s);
    assert_true(s.tokens < LONGEST + N * 64);
    gd_engine_close(e);
}

/* A prompt that cannot be done in time, by what is before it, is refused at once. */
static void test_refused_by_time(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(1);
    struct gd_ticket *tickets[40];
    struct gd_err err = {0};
    struct gd_score got;
    struct gd_score_request req = long_request();
    for (int i = 0; i < 40; i++) {
        assert_int_equal(gd_engine_submit(e, &req, &tickets[i], &err), GD_OK);
    }
    /* Its rank is behind all of them, its deadline before half of them. */
    req.deadline_ns = gd_now_ns() + (int64_t)(gd_engine_queue_ms(e) / 2 * MS);
    struct gd_ticket *t = NULL;
    struct gd_engine_stats s;
    int refused = 0;
    for (int i = 0; i < 40 && refused == 0; i++) {
        int rc = gd_engine_submit(e, &req, &t, &err);
        refused = rc == GD_EBUSY;
        if (rc == GD_OK) { /* goes before some of the others */
            gd_engine_wait(e, t, NULL, NULL, &got, NULL);
        }
    }
    /* All before it would be done in time, it would not. */
    req.deadline_ns = gd_now_ns() + (int64_t)(gd_engine_queue_ms(e) * MS) +
                      (int64_t)(gd_engine_cost_ms(e, LONGEST) / 2 * MS);
    assert_int_equal(gd_engine_submit(e, &req, &t, &err), GD_EBUSY);
    gd_engine_stats(e, &s);
    assert_int_equal(refused, 1);
    assert_int_equal(s.refused_late, 2);
    assert_non_null(strstr(err.msg, " ms"));
    for (int i = 0; i < 40; i++) {
        assert_int_equal(gd_engine_wait(e, tickets[i], NULL, NULL, &got, &err), GD_OK);
    }
    gd_engine_close(e);
}

static bool gone_at_third(void *ctx)
{
    return ++*(int *)ctx >= 3;
}

struct leaver {
    struct gd_engine *e;
    struct gd_ticket *ticket;
    int asked, rc;
    pthread_t thread;
};

static void *leaver_main(void *arg)
{
    struct leaver *l = arg;
    struct gd_score got;
    l->rc = gd_engine_wait(l->e, l->ticket, gone_at_third, &l->asked, &got, NULL);
    return NULL;
}

static void test_gone(void **state)
{
    (void)state;
    enum { N = 150, STAY = 5 };
    int n = N;
    struct gd_engine *e = open_engine(1);
    struct gd_score got;
    struct gd_err err = {0};
    struct gd_engine_stats s;
    struct leaver l[N];
    struct gd_score_request req = long_request();
    uint64_t canceled = 0;
    for (int i = 0; i < N; i++) {
        l[i] = (struct leaver){.e = e, .asked = i == N - 2 ? 0 : 2};
        assert_int_equal(gd_engine_submit(e, &req, &l[i].ticket, &err), GD_OK);
    }
    gd_engine_cancel(e, l[--n].ticket); /* that one says so itself */
    for (int i = STAY; i < n; i++) {
        assert_int_equal(pthread_create(&l[i].thread, NULL, leaver_main, &l[i]), 0);
    }
    for (int i = 0; i < STAY; i++) {
        assert_int_equal(gd_engine_wait(e, l[i].ticket, NULL, NULL, &got, &err), GD_OK);
    }
    for (int i = STAY; i < n; i++) {
        pthread_join(l[i].thread, NULL);
        assert_true(l[i].rc == GD_OK || l[i].rc == GD_ECANCELED);
        assert_true(l[i].rc == GD_OK || l[i].asked == 3);
        canceled += l[i].rc == GD_ECANCELED;
    }
    assert_true(canceled > N / 4);
    do { /* what nobody wants is not computed to its end */
        usleep(1000);
        gd_engine_stats(e, &s);
    } while (s.waiting + s.running > 0);
    assert_int_equal(s.canceled, canceled + 1);
    assert_int_equal(s.sequences + s.canceled, N);
    assert_true(s.tokens < (s.sequences + 10) * LONGEST);
    gd_engine_close(e);
}

/* The estimate of what is left to do falls while a long prompt is computed. */
static void test_queue_estimate(void **state)
{
    (void)state;
    struct gd_engine *e = open_with((struct gd_engine_options){.n_threads = 1, .step_tokens = 16});
    struct gd_score_request req = long_request();
    struct gd_ticket *t = NULL;
    struct gd_score got;
    bool part_way = false;
    assert_true(gd_engine_cost_ms(e, 1000) > 0.0);
    assert_true(gd_engine_queue_ms(e) == 0.0);
    for (int i = 0; i < 20 && !part_way; i++) {
        struct gd_engine_stats s = {0};
        assert_int_equal(gd_engine_submit(e, &req, &t, NULL), GD_OK);
        assert_true(gd_engine_queue_ms(e) > 0.0);
        for (gd_engine_stats(e, &s); s.waiting + s.running > 0; gd_engine_stats(e, &s)) {
            double left = gd_engine_queue_ms(e) / gd_engine_cost_ms(e, LONGEST);
            part_way = part_way || (left > 0.2 && left < 0.6);
            usleep(200);
        }
        assert_int_equal(gd_engine_wait(e, t, NULL, NULL, &got, NULL), GD_OK);
        assert_int_equal(got.n_steps, (LONGEST + 15) / 16);
    }
    assert_true(part_way);
    assert_true(gd_engine_queue_ms(e) == 0.0);
    gd_engine_close(e);
}

/* A thousand requests that give up at different moments leave no slot behind. */
static void test_abandoned_slots(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(1);
    struct waiter w[40];
    for (int round = 0; round < 25; round++) {
        for (int i = 0; i < 40; i++) {
            struct gd_score_request req = request((uint32_t)i, 1 + 15u * (uint32_t)i);
            req.deadline_ns = gd_now_ns() + (i % 10) * MS / 4 + MS / 8;
            start_waiter(&w[i], e, req);
        }
        for (int i = 0; i < 40; i++) {
            pthread_join(w[i].thread, NULL);
            assert_true(w[i].rc == GD_OK || w[i].rc == GD_EDEADLINE || w[i].rc == GD_EBUSY);
        }
    }
    struct gd_score got;
    struct gd_score_request req = request(0, 5);
    assert_int_equal(gd_engine_score(e, &req, &got, NULL), GD_OK);
    struct gd_engine_stats s;
    gd_engine_stats(e, &s);
    assert_int_equal(s.waiting + s.running, 0);
    assert_int_equal(s.kv.used, 0);
    assert_true(gd_engine_queue_ms(e) == 0.0);
    gd_engine_close(e);
}

/* ---- scores that are not finite ---- */

#define BROKEN "/tmp/gd-test-engine-XXXXXX"

static void write_file(const char *dir, const char *name, const char *data, size_t len)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static char *read_golden(const char *name, size_t *len)
{
    char path[256];
    char *data = NULL;
    snprintf(path, sizeof path, "golden/models/llama_f32_tied/%s", name);
    assert_int_equal(gd_file_read(path, 16 * GD_MIB, &data, len, NULL), GD_OK);
    return data;
}

/* A copy of a model in dir whose embedding of token 7 is so large that its squares overflow. */
static void make_broken_model(const char *dir)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    struct gd_arena a;
    struct gd_tensor_info *t = NULL;
    size_t n = 0, patched = 0;
    gd_arena_init(&a, GD_MIB);
    for (int i = 0; i < 3; i++) {
        size_t len = 0;
        char *data = read_golden(names[i], &len);
        if (i == 2) {
            assert_int_equal(
                gd_safetensors_parse_header(&a, (struct gd_str){data, len}, len, &t, &n, NULL), 0);
        }
        for (size_t k = 0; k < n; k++) {
            const float big = 3e38f;
            if (!gd_str_eqz(t[k].name, "model.embed_tokens.weight")) {
                continue;
            }
            size_t dim = t[k].shape[1];
            for (size_t d = 0; d < dim; d++) {
                memcpy(data + t[k].offset + (7 * dim + d) * sizeof big, &big, sizeof big);
            }
            patched++;
        }
        write_file(dir, names[i], data, len);
        free(data);
    }
    assert_int_equal(patched, 1);
    gd_arena_free(&a);
}

static void remove_model(const char *dir)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    char path[256];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* A request whose scores are not finite fails alone: its neighbours in the same step keep their
 * bits. */
static void test_not_finite(void **state)
{
    (void)state;
    char dir[] = BROKEN;
    assert_non_null(mkdtemp(dir));
    make_broken_model(dir);
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    struct gd_engine_options opt = {.model_dir = dir, .n_threads = 2, .verdict_entries = 8};
    if (gd_engine_open(&e, &opt, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    static const int32_t good[] = {1, 2, 3, 4, 5}, bad[] = {1, 2, 7, 4, 5};
    struct gd_score_request ask_good = {{good, 5, 0, 5, {{0}}}, CHOICES, N_CHOICES, 0, 0};
    struct gd_score_request ask_bad = {{bad, 5, 0, 5, {{0}}}, CHOICES, N_CHOICES, 0, 0};
    struct gd_score want, got;
    assert_int_equal(gd_engine_score(e, &ask_good, &want, NULL), GD_OK);
    for (int i = 0; i < 3; i++) { /* nothing of it is kept */
        assert_int_equal(gd_engine_score(e, &ask_bad, &got, &err), GD_ENUMERIC);
    }
    gd_engine_close(e);
    opt.verdict_entries = 0;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_OK);
    assert_int_equal(gd_engine_score(e, &ask_bad, &got, &err), GD_ENUMERIC);
    assert_int_equal(err.code, GD_ENUMERIC);
    bool together = false;
    for (int round = 0; round < 200 && !together; round++) {
        struct waiter w[4], blocker;
        struct gd_score_request slow = long_request();
        start_waiter(&blocker, e, slow);
        for (int i = 0; i < 4; i++) {
            start_waiter(&w[i], e, i % 2 == 0 ? ask_bad : ask_good);
        }
        assert_int_equal(gd_engine_score(e, &ask_good, &got, NULL), GD_OK);
        assert_memory_equal(got.logits, want.logits, N_CHOICES * sizeof want.logits[0]);
        together = got.batch_seqs > 2; /* at least one of them is bad */
        pthread_join(blocker.thread, NULL);
        for (int i = 0; i < 4; i++) {
            pthread_join(w[i].thread, NULL);
            assert_int_equal(w[i].rc, i % 2 == 0 ? GD_ENUMERIC : GD_OK);
        }
    }
    assert_true(together);
    gd_engine_close(e);
    remove_model(dir);
}

/* ---- refusals ---- */

static void refuse(struct gd_engine *e, struct gd_score_request req, int code, const char *word)
{
    struct gd_score got;
    struct gd_err err = {0};
    assert_int_equal(gd_engine_score(e, &req, &got, &err), code);
    assert_int_equal(err.code, code);
    if (strstr(err.msg, word) == NULL) {
        fail_msg("'%s' does not say '%s'", err.msg, word);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(1);
    assert_int_equal(gd_engine_context_max(e), GD_CONTEXT_TOKENS_MAX); /* the model says 32768 */
    struct gd_score_request req = request(0, GD_CONTEXT_TOKENS_MAX + 1);
    refuse(e, req, GD_ELIMIT, "8192");
    req.prompt.n_tokens = 0;
    refuse(e, req, GD_EUSAGE, "0 tokens");
    static const int32_t bad[][3] = {{1, 384, 2}, {-1, 3, 4}, {0, 0, INT32_MAX}};
    for (int i = 0; i < 3; i++) {
        req = request(0, 3);
        req.prompt.tokens = bad[i];
        refuse(e, req, GD_EUSAGE, "token");
        req = request(0, 3);
        req.choices = bad[i];
        req.n_choices = 3;
        refuse(e, req, GD_EUSAGE, "choice");
    }
    req = request(0, 3);
    req.n_choices = 0;
    refuse(e, req, GD_EUSAGE, "0 choices");
    req.n_choices = GD_POLICY_CHOICES_MAX + 1;
    refuse(e, req, GD_EUSAGE, "33 choices");
    req = request(0, 3);
    req.prompt.n_keep = 4;
    refuse(e, req, GD_EUSAGE, "4 to keep");
    req.prompt.n_keep = 2;
    req.prompt.n_shared = 3;
    refuse(e, req, GD_EUSAGE, "3 shared");

    struct gd_score got;
    struct gd_engine_stats s;
    req = request(0, 3);
#if !defined(__SANITIZE_THREAD__)                /* takes minutes there */
    req.prompt.n_tokens = GD_CONTEXT_TOKENS_MAX; /* as long as can be */
#endif
    assert_int_equal(gd_engine_score(e, &req, &got, NULL), GD_OK);
    gd_engine_stats(e, &s);
    assert_int_equal(s.tokens, req.prompt.n_tokens);
    assert_int_equal(s.sequences, 1);
    assert_int_equal(s.steps, got.n_steps);
    assert_true(gd_engine_resident_bytes() > GD_MIB);
    assert_non_null(gd_engine_tokenizer(e));
    assert_int_equal(gd_engine_model(e)->config.vocab_size, 384);
    assert_string_equal(gd_engine_backend(e)->device, "cpu");
    gd_engine_close(e);
}

static void test_open_failures(void **state)
{
    (void)state;
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    struct gd_engine_options opt = {.model_dir = "golden/no-such-model", .n_threads = 1};
    assert_true(gd_engine_open(&e, &opt, &err) < 0);
    assert_true(err.msg[0] != '\0');
    opt.model_dir = MODEL;
    opt.n_threads = GD_THREADS_MAX + 1;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    opt.n_threads = 1;
    opt.model.memory_max = 1000;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_ENOMEM);
    opt.model.memory_max = 4 * GD_MIB; /* enough for the weights, not for the KV cache */
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_ENOMEM);
    assert_non_null(strstr(err.msg, "KV cache"));
    opt.model.memory_max = 0;
    opt.kv_bytes = GD_MIB; /* too small for the context */
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "KV cache"));
    opt.kv_bytes = 0;
    opt.verdict_entries = GD_VERDICT_CACHE_MAX + 1;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_null(e);
    gd_engine_close(NULL);
    opt.verdict_entries = 0;
    opt.n_threads = 0; /* as many as there are; closed before it did anything */
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_OK);
    assert_true(gd_engine_backend(e)->n_threads >= 1);
    gd_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_full_queue_and_drain),
        cmocka_unit_test(test_room_for_others),
        cmocka_unit_test(test_refused_by_time),
        cmocka_unit_test(test_shared_history),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_queue_estimate),
        cmocka_unit_test(test_abandoned_slots),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_open_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
