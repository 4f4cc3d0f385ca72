/* test_engine_hang.c - the heartbeat of the worker: what counts as a hang and what does not, and an engine
 * whose back end never comes back: everybody who waits is told, nobody is let in, no score comes out late.
 *
 * Time is what the tests say it is: they are the watcher. The device is the CPU's back end whose steps
 * wait on demand: this program's gd_backend_cuda_open stands before the library's. */
#include "guardian/clock.h"
#include "guardian/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <unistd.h>

#define MODEL "golden/models/llama_bf16_sharded"
#define S 1000000000ll
#define N_CHOICES 3u

static const int32_t CHOICES[] = {33, 34, 35};

/* ---- the pulse alone ---- */

/* Looks every step_ns from *now on until it hangs, for most_ns at most: the time until then, or -1. */
static int64_t watch(struct gd_pulse *p, int64_t *now, int64_t step_ns, int64_t most_ns)
{
    struct gd_err why = {.code = GD_OK};
    for (int64_t start = *now; *now - start <= most_ns; *now += step_ns) {
        if (gd_pulse_hung(p, *now, &why)) {
            assert_int_equal(why.code, GD_EBACKEND);
            assert_non_null(strstr(why.msg, "hangs"));
            return *now - start;
        }
    }
    return -1;
}

static void test_limits(void **state)
{
    (void)state;
    static const struct {
        double expected_ns;
        int64_t hangs_after_ns;
    } cases[] = {
        {0, GD_HANG_MS * 1000000ll},
        {0.001 * S, GD_HANG_MS * 1000000ll},
        {60.0 * S, GD_HANG_FACTOR * 60 * S}, /* 8B on a slow CPU */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gd_pulse p = {.step_ns = 0};
        int64_t now = 5000 * S;
        assert_int_equal(watch(&p, &now, S / 10, 4000 * S), -1); /* nothing is under way */
        gd_pulse_begin(&p, now, cases[i].expected_ns);
        int64_t after = watch(&p, &now, S / 10, 100000 * S);
        assert_true(after >= cases[i].hangs_after_ns && after <= cases[i].hangs_after_ns + S);
        gd_pulse_end(&p); /* it came back */
        assert_int_equal(watch(&p, &now, S / 10, 100 * S), -1);
    }
    struct gd_pulse p = {.step_ns = 0};
    int64_t now = 0;
    gd_pulse_begin(&p, 1, 1e300); /* an estimate gone mad is as good as none */
    assert_int_equal(watch(&p, &now, S, 100000 * S), -1);
    gd_pulse_begin(&p, 2, (double)NAN);
    assert_int_equal(watch(&p, &now, S, 100000 * S), -1);
}

/* Each new step starts anew, however long the work goes on. */
static void test_busy(void **state)
{
    (void)state;
    struct gd_pulse p = {.step_ns = 0};
    struct gd_err why = {.code = GD_OK};
    int64_t now = 7 * S;
    for (int i = 0; i < 2000; i++) {
        gd_pulse_begin(&p, now, 0.1 * S);
        for (int k = 0; k < 25; k++, now += S) {
            assert_false(gd_pulse_hung(&p, now, &why));
        }
    }
    assert_int_equal(why.code, GD_OK);
}

/* A process that was stopped for hours, a watcher that was late, a clock that jumped: no hang. */
static void test_absent_watcher(void **state)
{
    (void)state;
    struct gd_pulse p = {.step_ns = 0};
    struct gd_err why = {.code = GD_OK};
    int64_t now = 7 * S;
    gd_pulse_begin(&p, now, 0.1 * S);
    for (int i = 0; i < 25; i++) {
        assert_false(gd_pulse_hung(&p, now, &why));
        now += i % 5 == 0 ? 3600 * S : i % 5 == 1 ? -3000 * S : S / 10;
    }
    now += S;
    int64_t after = watch(&p, &now, S / 10, 1000 * S); /* and it is one in the end */
    assert_true(after > 10 * S && after < 40 * S);
}

/* A worker that waits says so every second: one that does not is gone. */
static void test_idle(void **state)
{
    (void)state;
    struct gd_pulse p = {.step_ns = 0};
    struct gd_err why = {.code = GD_OK};
    int64_t now = 7 * S;
    for (int i = 0; i < 1000; i++, now += S) {
        gd_pulse_idle(&p, now);
        assert_false(gd_pulse_hung(&p, now, &why));
        assert_true(gd_pulse_stalled_ms(&p, now + S, NULL) == 0);
    }
    int64_t after = watch(&p, &now, S / 10, 100 * S);
    assert_true(after >= GD_HANG_MS * 1000000ll - S && after <= GD_HANG_MS * 1000000ll + S);
    gd_pulse_idle(&p, now);
    gd_pulse_end(&p); /* an engine that is closed */
    assert_int_equal(watch(&p, &now, S, 1000 * S), -1);
}

static void test_stalled(void **state)
{
    (void)state;
    struct gd_pulse p = {.step_ns = 0};
    double expected = -1;
    assert_true(gd_pulse_stalled_ms(&p, 99 * S, &expected) == 0 && expected == 0);
    gd_pulse_begin(&p, 10 * S, 3e6);
    assert_true(gd_pulse_stalled_ms(&p, 12 * S, &expected) == 2000 && expected == 3);
    assert_true(gd_pulse_stalled_ms(&p, 9 * S, NULL) == 0);
    gd_pulse_end(&p);
    assert_true(gd_pulse_stalled_ms(&p, 99 * S, &expected) == 0 && expected == 0);
}

/* ---- a back end that stops ---- */

static struct {
    struct gd_backend_ops ops;
    const struct gd_backend_ops *cpu;
    _Atomic int hold_from; /* the number of step_end that waits; -1: none */
    _Atomic int n_steps;
    sem_t held, go;
} fake;

static int fake_step_end(struct gd_backend *be)
{
    int rc = fake.cpu->step_end(be);
    if (atomic_fetch_add(&fake.n_steps, 1) == atomic_load(&fake.hold_from)) {
        sem_post(&fake.held);
        sem_wait(&fake.go);
    }
    return rc;
}

int gd_backend_cuda_open(struct gd_backend **out, uint32_t index, bool fp8, struct gd_err *err)
{
    (void)index;
    (void)fp8;
    int rc = gd_backend_cpu_open(out, 1, err);
    if (rc == GD_OK) {
        fake.cpu = (*out)->ops;
        fake.ops = *fake.cpu;
        fake.ops.step_end = fake_step_end;
        (*out)->ops = &fake.ops;
        (*out)->device = "cuda:0";
    }
    return rc;
}

static int setup(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof fake);
    atomic_store(&fake.hold_from, -1);
    sem_init(&fake.held, 0, 0);
    sem_init(&fake.go, 0, 0);
    return 0;
}

static struct gd_engine *open_engine(struct gd_pulse *pulse)
{
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    const struct gd_engine_options opt = {.model_dir = MODEL,
                                          .device = "cuda:0",
                                          .n_threads = 1,
                                          .verdict_entries = 8,
                                          .pulse = pulse};
    if (gd_engine_open(&e, &opt, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    return e;
}

static int score(struct gd_engine *e, int32_t first, bool (*gone)(void *ctx), void *ctx,
                 struct gd_err *err)
{
    const int32_t tokens[] = {first, 7, 8, 9};
    const struct gd_score_request req = {.prompt = {.tokens = tokens, .n_tokens = 4, .n_keep = 4},
                                         .choices = CHOICES,
                                         .n_choices = N_CHOICES};
    struct gd_ticket *t = NULL;
    struct gd_score out;
    int rc = gd_engine_submit(e, &req, &t, err);
    return rc != GD_OK ? rc : gd_engine_wait(e, t, gone, ctx, &out, err);
}

struct asker {
    struct gd_engine *e;
    int32_t first;
    bool patient; /* asks nothing while it waits, so that only the engine can wake it */
    int rc;
    struct gd_err err;
    pthread_t thread;
};

static bool here(void *ctx)
{
    (void)ctx;
    return false;
}

static void *ask(void *arg)
{
    struct asker *a = arg;
    a->rc = score(a->e, a->first, a->patient ? NULL : here, NULL, &a->err);
    return NULL;
}

static void wait_for(struct gd_engine *e, uint32_t n)
{
    struct gd_engine_stats s = {0};
    while (s.waiting + s.running < n) {
        usleep(500);
        gd_engine_stats(e, &s);
    }
}

static int64_t hang(struct gd_engine *e, int64_t now)
{
    assert_null(gd_engine_lost(e));
    for (int i = 0; !gd_engine_hung(e, now); i++, now += S) {
        assert_true(i < 10 * GD_HANG_MS / 1000);
        assert_null(gd_engine_lost(e));
    }
    return now;
}

#define N_ASKERS 20

/* One in the step, some taken by the worker, some in the inbox, one that left, one whose score is there
 * but not fetched. The worker never comes back before all of them have their answers. */
static void test_everybody_is_told(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(NULL);
    struct asker askers[N_ASKERS];
    struct gd_err err = {0};
    struct gd_ticket *done = NULL, *left = NULL;
    const int32_t tokens[] = {1, 2, 3};
    const struct gd_score_request req = {.prompt = {.tokens = tokens, .n_tokens = 3, .n_keep = 3},
                                         .choices = CHOICES,
                                         .n_choices = N_CHOICES};
    struct gd_score out;
    double expected = -1;
    assert_int_equal(score(e, 1, NULL, NULL, &err), GD_OK);
    assert_int_equal(gd_engine_submit(e, &req, &done, &err), GD_OK);
    struct gd_engine_stats s = {0};
    while (s.sequences < 2) {
        usleep(500);
        gd_engine_stats(e, &s);
    }
    atomic_store(&fake.hold_from, atomic_load(&fake.n_steps));
    for (int i = 0; i < N_ASKERS; i++) {
        askers[i] = (struct asker){.e = e, .first = 100 + i, .patient = i % 2 == 0};
        assert_int_equal(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
        if (i == 0) {
            sem_wait(&fake.held); /* the others have to wait */
        }
    }
    wait_for(e, N_ASKERS);
    const int32_t other[] = {4, 5, 6};
    struct gd_score_request gone = req;
    gone.prompt.tokens = other;
    assert_int_equal(gd_engine_submit(e, &gone, &left, &err), GD_OK);
    gd_engine_cancel(e, left);
    usleep(2000);
    assert_true(gd_engine_stalled_ms(e, &expected) >= 1.0);
    assert_true(expected > 0 && expected < 1000);

    hang(e, 1000 * S);
    for (int i = 0; i < N_ASKERS; i++) { /* the worker is still away */
        pthread_join(askers[i].thread, NULL);
        assert_int_equal(askers[i].rc, GD_EBACKEND);
        assert_non_null(strstr(askers[i].err.msg, "hangs"));
    }
    assert_non_null(strstr(gd_engine_lost(e), "hangs"));
    assert_int_equal(gd_engine_wait(e, done, NULL, NULL, &out, &err), GD_EBACKEND);
    assert_int_equal(score(e, 1, NULL, NULL, &err), GD_EBACKEND); /* its score is kept */
    assert_int_equal(score(e, 77, here, NULL, &err), GD_EBACKEND);
    assert_true(gd_engine_hung(e, 0)); /* for good */
    assert_true(gd_engine_queue_ms(e) == 0.0);
    sem_post(&fake.go);
    gd_engine_close(e);
}

/* It comes back after all: too late. */
static void test_late_return(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(NULL);
    struct asker a = {.e = e, .first = 5, .patient = true};
    struct gd_err err = {0};
    atomic_store(&fake.hold_from, atomic_load(&fake.n_steps));
    assert_int_equal(pthread_create(&a.thread, NULL, ask, &a), 0);
    sem_wait(&fake.held);
    hang(e, gd_now_ns());
    sem_post(&fake.go);
    pthread_join(a.thread, NULL);
    assert_int_equal(a.rc, GD_EBACKEND);
    assert_int_equal(score(e, 6, NULL, NULL, &err), GD_EBACKEND);
    gd_engine_close(e);
}

/* An engine that works is never found to hang, not by a watcher for whom a second goes by with each look;
 * nor one that waits. */
static void test_a_healthy_engine(void **state)
{
    (void)state;
    struct gd_engine *e = open_engine(NULL);
    struct gd_err err = {0};
    int64_t now = gd_now_ns();
    for (int32_t i = 0; i < 200; i++) {
        assert_int_equal(score(e, i, NULL, NULL, &err), GD_OK);
        assert_false(gd_engine_hung(e, now += S));
    }
    struct gd_engine_stats s = {0};
    double busy = 1;
    for (int i = 0; i < 20000 && busy > 0; i++) { /* delivered, but not yet back to waiting */
        usleep(500);
        busy = gd_engine_stalled_ms(e, NULL);
    }
    assert_true(busy == 0);
    for (int i = 0; i < 40; i++) { /* real time: its signs come once a second */
        assert_false(gd_engine_hung(e, now += S / 20));
        usleep(50000);
    }
    gd_engine_stats(e, &s);
    assert_int_equal(s.failures, 0);
    assert_null(gd_engine_lost(e));
    gd_engine_close(e);
}

/* ---- while it opens ---- */

static void *open_main(void *arg)
{
    return open_engine(arg);
}

static void *prime_main(void *arg)
{
    const int32_t tokens[40] = {1, 2, 3};
    struct gd_err err = {0};
    int rc = gd_engine_prime(arg, tokens, 40, &err);
    assert_true(rc == GD_OK || rc == GD_EBACKEND);
    return NULL;
}

/* The first step of all, of which nothing is known, and that of the policy's prefix. */
static void test_while_it_opens(void **state)
{
    (void)state;
    struct gd_pulse pulse = {.step_ns = 0};
    void *e = NULL;
    pthread_t thread;
    int64_t now = 3 * S;
    double expected = 0;
    for (int step = 0; step < 3; step++) {
        atomic_store(&fake.n_steps, 0);
        atomic_store(&fake.hold_from, step);
        assert_int_equal(pthread_create(&thread, NULL, open_main, &pulse), 0);
        sem_wait(&fake.held);
        usleep(1500);
        assert_true(gd_pulse_stalled_ms(&pulse, gd_now_ns(), &expected) >= 1.0);
        assert_true(expected == GD_STEP_FIRST_MS);
        int64_t after = watch(&pulse, &now, S, 100000 * S);
        assert_true(after >= (int64_t)GD_STEP_FIRST_MS * GD_HANG_FACTOR * 1000000);
        sem_post(&fake.go);
        pthread_join(thread, &e);
        assert_true(gd_pulse_stalled_ms(&pulse, gd_now_ns(), &expected) == 0);
        if (step < 2) {
            gd_engine_close(e);
        }
    }
    atomic_store(&fake.hold_from, atomic_load(&fake.n_steps));
    assert_int_equal(pthread_create(&thread, NULL, prime_main, e), 0);
    sem_wait(&fake.held);
    assert_true(watch(&pulse, &now, S, 100 * S) > 0);
    hang(e, now);
    pthread_join(thread, NULL);
    sem_post(&fake.go);
    gd_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_absent_watcher),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_stalled),
        cmocka_unit_test_setup(test_everybody_is_told, setup),
        cmocka_unit_test_setup(test_late_return, setup),
        cmocka_unit_test_setup(test_a_healthy_engine, setup),
        cmocka_unit_test_setup(test_while_it_opens, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
