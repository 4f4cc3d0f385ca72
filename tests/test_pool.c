/* test_pool.c - each item once, results visible to the caller, sleeping and waking, many short
 * runs. */
#include "guardian/limits.h"
#include "guardian/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define N_ITEMS 5000u

struct job {
    uint32_t n_threads;
    unsigned char
        *hits;      /* [n]: written by one thread only, so that a second run of an item is a race */
    uint32_t *sums; /* [n] */
    atomic_uint per_thread[8];
};

static void count(void *ctx, uint32_t item, uint32_t thread)
{
    struct job *j = ctx;
    j->hits[item]++;
    j->sums[item] += item * 3 + 1;
    if (thread < j->n_threads) {
        atomic_fetch_add(&j->per_thread[thread], 1);
    }
}

static void run_items(struct gd_pool *p, uint32_t n)
{
    static unsigned char hits[N_ITEMS];
    static uint32_t sums[N_ITEMS];
    memset(hits, 0, sizeof hits);
    memset(sums, 0, sizeof sums);
    struct job j = {.n_threads = gd_pool_threads(p), .hits = hits, .sums = sums};
    gd_pool_run(p, n, count, &j);
    unsigned total = 0;
    for (size_t i = 0; i < 8; i++) {
        total += atomic_load(&j.per_thread[i]);
    }
    assert_int_equal(total, n); /* thread numbers are in range */
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        assert_int_equal(hits[i], i < n);
        assert_int_equal(sums[i], i < n ? i * 3 + 1 : 0);
    }
}

static void test_each_item_once(void **state)
{
    (void)state;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct gd_pool *p = NULL;
        assert_int_equal(gd_pool_open(&p, threads, NULL), GD_OK);
        assert_int_equal(gd_pool_threads(p), threads);
        static const uint32_t counts[] = {0, 1, 2, 3, 7, 64, 1000, N_ITEMS};
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            run_items(p, counts[i]);
        }
        gd_pool_close(p);
    }
}

/* Runs back to back, and with pauses long enough for the workers to fall asleep. */
static void test_sleep_and_wake(void **state)
{
    (void)state;
    struct gd_pool *p = NULL;
    assert_int_equal(gd_pool_open(&p, 3, NULL), GD_OK);
    for (int i = 0; i < 300; i++) {
        run_items(p, (uint32_t)i % 9);
        if (i % 10 == 0) {
            struct timespec pause = {.tv_nsec = 2000000};
            nanosleep(&pause, NULL);
        }
    }
    gd_pool_close(p);
}

struct chain {
    uint64_t values[16];
};

static void step(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    struct chain *c = ctx;
    c->values[item] = c->values[item] * 31 + item; /* reads what another thread may have written */
}

static void test_runs_follow_each_other(void **state)
{
    (void)state;
    struct gd_pool *p = NULL;
    struct chain c = {0};
    assert_int_equal(gd_pool_open(&p, 2, NULL), GD_OK);
    uint64_t want[16] = {0};
    for (int i = 0; i < 20000; i++) {
        gd_pool_run(p, 16, step, &c);
        for (uint32_t k = 0; k < 16; k++) {
            want[k] = want[k] * 31 + k;
        }
    }
    assert_memory_equal(c.values, want, sizeof want);
    gd_pool_close(p);
}

static void test_open_close(void **state)
{
    (void)state;
    struct gd_pool *p = NULL;
    struct gd_err err = {0};
    assert_int_equal(gd_pool_open(&p, 0, &err), GD_EUSAGE);
    assert_int_equal(gd_pool_open(&p, GD_THREADS_MAX + 1, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "257"));
    assert_null(p);
    for (int i = 0; i < 50; i++) { /* closed while workers spin, or before they have started */
        assert_int_equal(gd_pool_open(&p, 4, &err), GD_OK);
        if (i % 2 == 0) {
            run_items(p, 8);
        }
        gd_pool_close(p);
    }
    gd_pool_close(NULL);
    uint32_t cpus = gd_pool_cpus_usable();
    assert_true(cpus >= 1 && cpus <= GD_THREADS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_item_once),
        cmocka_unit_test(test_sleep_and_wake),
        cmocka_unit_test(test_runs_follow_each_other),
        cmocka_unit_test(test_open_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
