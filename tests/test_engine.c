/* test_engine.c - the engine under many callers: the same bits as alone, a bounded queue,
 * deadlines, drain, refusals. */
#include "guardian/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MODEL "golden/models/llama_bf16_sharded"
#define N_PROMPTS 12
#if defined(__SANITIZE_THREAD__) /* everything takes thirty times as long */
#define LONGEST 800u
#else
#define LONGEST 2500u
#endif
#define MS 1000000

static const uint32_t LENS[N_PROMPTS] = {1, 2, 17, 63, 64, 65, 128, 129, 200, 300, 511, 700};
static const int32_t CHOICES[] = {33, 34, 35, 300, 0};
#define N_CHOICES 5u

static int32_t prompt[LONGEST]; /* prompts are its first LENS[i] tokens, shifted by i */

static struct gd_engine *open_engine(uint32_t n_threads)
{
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    struct gd_engine_options opt = {.model_dir = MODEL, .n_threads = n_threads};
    if (gd_engine_open(&e, &opt, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    for (uint32_t i = 0; i < LONGEST; i++) {
        prompt[i] = (int32_t)(i * 2654435761u >> 16) % 384;
    }
    return e;
}

static struct gd_score_request request(uint32_t p)
{
    return (struct gd_score_request){
        .tokens = prompt + p, .n_tokens = LENS[p], .choices = CHOICES, .n_choices = N_CHOICES};
}

static struct gd_score_request long_request(void)
{
    return (struct gd_score_request){
        .tokens = prompt, .n_tokens = LONGEST, .choices = CHOICES, .n_choices = N_CHOICES};
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

/* ---- many callers ---- */

struct caller {
    struct gd_engine *e;
    float (*want)[N_CHOICES];
    unsigned seed;
    int wrong, failed, shared;
    pthread_t thread;
};

static void *caller_main(void *arg)
{
    struct caller *c = arg;
    for (unsigned i = 0; i < 30; i++) {
        uint32_t p = (c->seed * 7 + i * 5) % N_PROMPTS;
        struct gd_score_request req = request(p);
        struct gd_score got = {0};
        c->failed += gd_engine_score(c->e, &req, &got, NULL) != GD_OK;
        c->wrong += memcmp(got.logits, c->want[p], sizeof c->want[p]) != 0;
        c->shared += got.batch_seqs > 1;
    }
    return NULL;
}

static void test_many_callers(void **state)
{
    (void)state;
    float want[N_PROMPTS][N_CHOICES];
    for (uint32_t threads = 1; threads <= 2; threads++) {
        struct gd_engine *e = open_engine(threads);
        for (uint32_t p = 0; p < N_PROMPTS; p++) {
            struct gd_score_request req = request(p);
            struct gd_score got = {0};
            assert_int_equal(gd_engine_score(e, &req, &got, NULL), GD_OK);
            assert_int_equal(got.batch_seqs, 1);
            assert_int_equal(got.batch_tokens, LENS[p]);
            assert_true(got.queue_ms >= 0 && got.prefill_ms > 0);
            if (threads == 1) {
                memcpy(want[p], got.logits, sizeof want[p]);
            }
            assert_memory_equal(want[p], got.logits, sizeof want[p]);
        }
        struct caller callers[16];
        int shared = 0;
        for (unsigned i = 0; i < 16; i++) {
            callers[i] = (struct caller){.e = e, .want = want, .seed = i};
            assert_int_equal(pthread_create(&callers[i].thread, NULL, caller_main, &callers[i]), 0);
        }
        for (unsigned i = 0; i < 16; i++) {
            pthread_join(callers[i].thread, NULL);
            assert_int_equal(callers[i].failed, 0);
            assert_int_equal(callers[i].wrong, 0);
            shared += callers[i].shared;
        }
        assert_true(shared > 0); /* else nothing was tested: no step had two requests */
        struct gd_engine_stats s;
        gd_engine_stats(e, &s);
        assert_int_equal(s.sequences, N_PROMPTS + 16 * 30);
        assert_true(s.steps < s.sequences && s.tokens > s.sequences);
        assert_int_equal(s.failures, 0);
        assert_int_equal(s.waiting, 0);
        assert_int_equal(s.running, 0);
        gd_engine_close(e);
    }
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
    /* The worker takes one long request at a time, so threads add up faster than it can work. */
    while (s.waiting < GD_QUEUE_MAX) {
        assert_true(n < sizeof w / sizeof w[0]);
        start_waiter(&w[n++], e, long_request());
        gd_engine_stats(e, &s);
        if (n > GD_QUEUE_MAX) {
            usleep(1000);
        }
    }
    struct gd_score got;
    struct gd_err err = {0};
    struct gd_score_request req = long_request();
    int busy = 0;
    for (int i = 0; i < 3 && busy == 0; i++) { /* a step may end just now and make room for one */
        req.deadline_ns = gd_now_ns() + 20 * MS;
        busy = gd_engine_score(e, &req, &got, &err) == GD_EBUSY;
    }
    assert_true(busy);
    assert_int_equal(err.code, GD_EBUSY);
    gd_engine_close(e);
    unsigned drained = 0;
    for (unsigned i = 0; i < n; i++) {
        pthread_join(w[i].thread, NULL);
        assert_true(w[i].rc == GD_OK || w[i].rc == GD_EDRAINING || w[i].rc == GD_EBUSY);
        drained += w[i].rc == GD_EDRAINING;
    }
    assert_true(drained >= GD_QUEUE_MAX - 10);
}

/* ---- deadlines ---- */

static void test_deadlines(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(1);
    struct gd_score got;
    struct gd_err err = {0};
    struct waiter blockers[5], late;
    struct gd_score_request req = request(3);
    req.deadline_ns = gd_now_ns() - 1;
    assert_int_equal(gd_engine_score(e, &req, &got, &err), GD_EDEADLINE); /* never admitted */
    assert_int_equal(err.code, GD_EDEADLINE);

    for (int i = 0; i < 5; i++) {
        start_waiter(&blockers[i], e, long_request());
    }
    wait_for_stats(e, 3, 1);
    req.deadline_ns = gd_now_ns() + MS; /* passes while it waits for its turn */
    start_waiter(&late, e, req);
    pthread_join(late.thread, NULL);
    assert_int_equal(late.rc, GD_EDEADLINE);
    assert_true(late.returned_ns >= req.deadline_ns);
    for (int i = 0; i < 5; i++) {
        pthread_join(blockers[i].thread, NULL);
        assert_int_equal(blockers[i].rc, GD_OK); /* the others were not disturbed */
    }

    /* Runs at once, and longer than it may. Again if this thread got no time to submit it before
     * its deadline. */
    struct gd_engine_stats before, s;
    gd_engine_stats(e, &before);
    req = long_request();
    for (s = before; s.failures == before.failures; gd_engine_stats(e, &s)) {
        req.deadline_ns = gd_now_ns() + 5 * MS;
        assert_int_equal(gd_engine_score(e, &req, &got, &err), GD_EDEADLINE);
    }
    req.deadline_ns = gd_now_ns() + 600000ll * MS;
    assert_int_equal(gd_engine_score(e, &req, &got, &err), GD_OK);
    gd_engine_stats(e, &s);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.failures, before.failures + 1);
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
            struct gd_score_request req = request((uint32_t)(i % N_PROMPTS));
            req.deadline_ns = gd_now_ns() + (i % 10) * MS / 4 + MS / 8;
            start_waiter(&w[i], e, req);
        }
        for (int i = 0; i < 40; i++) {
            pthread_join(w[i].thread, NULL);
            assert_true(w[i].rc == GD_OK || w[i].rc == GD_EDEADLINE);
        }
    }
    struct gd_score got;
    struct gd_score_request req = request(0);
    assert_int_equal(gd_engine_score(e, &req, &got, NULL), GD_OK);
    struct gd_engine_stats s;
    gd_engine_stats(e, &s);
    assert_int_equal(s.waiting, 0);
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
    struct gd_engine_options opt = {.model_dir = dir, .n_threads = 2};
    if (gd_engine_open(&e, &opt, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    static const int32_t good[] = {1, 2, 3, 4, 5}, bad[] = {1, 2, 7, 4, 5};
    struct gd_score_request ask_good = {good, 5, CHOICES, N_CHOICES, 0};
    struct gd_score_request ask_bad = {bad, 5, CHOICES, N_CHOICES, 0};
    struct gd_score want, got;
    assert_int_equal(gd_engine_score(e, &ask_good, &want, NULL), GD_OK);
    assert_int_equal(gd_engine_score(e, &ask_bad, &got, &err), GD_ENUMERIC);
    assert_int_equal(err.code, GD_ENUMERIC);
    bool together = false;
    for (int round = 0; round < 200 && !together; round++) {
        struct waiter w[4], blocker;
        struct gd_score_request slow = {prompt, LONGEST, CHOICES, N_CHOICES, 0};
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
    assert_int_equal(gd_engine_context_max(e), GD_BATCH_TOKENS_MAX); /* the model says 32768 */
    static int32_t many[GD_BATCH_TOKENS_MAX + 1];
    struct gd_score_request req = request(5);
    req.tokens = many;
    req.n_tokens = GD_BATCH_TOKENS_MAX + 1;
    refuse(e, req, GD_ELIMIT, "8192");
    req.n_tokens = 0;
    refuse(e, req, GD_EUSAGE, "0 tokens");
    static const int32_t bad[][3] = {{1, 384, 2}, {-1, 3, 4}, {0, 0, INT32_MAX}};
    for (int i = 0; i < 3; i++) {
        req = request(2);
        req.tokens = bad[i];
        req.n_tokens = 3;
        refuse(e, req, GD_EUSAGE, "token");
        req = request(2);
        req.choices = bad[i];
        req.n_choices = 3;
        refuse(e, req, GD_EUSAGE, "choice");
    }
    req = request(2);
    req.n_choices = 0;
    refuse(e, req, GD_EUSAGE, "0 choices");
    req.n_choices = GD_POLICY_CHOICES_MAX + 1;
    refuse(e, req, GD_EUSAGE, "33 choices");

    struct gd_score got;
    struct gd_engine_stats s;
    req = request(2);
    req.tokens = many;
#if !defined(__SANITIZE_THREAD__)       /* takes minutes there */
    req.n_tokens = GD_BATCH_TOKENS_MAX; /* as long as can be */
#endif
    assert_int_equal(gd_engine_score(e, &req, &got, NULL), GD_OK);
    assert_int_equal(got.batch_tokens, req.n_tokens);
    gd_engine_stats(e, &s);
    assert_int_equal(s.sequences, 1);
    assert_true(s.last_step_ns > 0 && (int64_t)s.last_step_ns <= gd_now_ns());
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
    assert_null(e);
    gd_engine_close(NULL);
    opt.model.memory_max = 0;
    opt.n_threads = 0; /* as many as there are; closed before it did anything */
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_OK);
    assert_true(gd_engine_backend(e)->n_threads >= 1);
    gd_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_callers),  cmocka_unit_test(test_full_queue_and_drain),
        cmocka_unit_test(test_deadlines),     cmocka_unit_test(test_abandoned_slots),
        cmocka_unit_test(test_not_finite),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_open_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
