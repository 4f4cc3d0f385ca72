/* pool.c - worker threads for the loops of the CPU back end.
 *
 * One atomic counter, `left`, is both the work and the signal: whoever lowers it from n owns item
 * n-1. The fields of a job are written before `left` is raised and read only by owners of an item,
 * and the next job is not written before all items are done, so a worker that wakes late can never
 * mix two jobs up. Because nobody waits for a worker to take part, one that the system does not
 * schedule costs nothing but its help. Steps of a model are many short loops: workers spin for a
 * while before they sleep on a condition variable. */
#include "guardian/pool.h"

#include "guardian/arena.h"
#include "guardian/limits.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

/* About 30 us of pause instructions: longer than the gaps between the loops of one step, short
 * enough not to disturb other processes between steps. */
#define POOL_SPINS 1000

struct pool_worker {
    struct gd_pool *pool;
    uint32_t index;
    pthread_t thread;
};

struct gd_pool {
    uint32_t n_threads;
    uint32_t n_started;
    struct pool_worker *workers; /* [n_threads - 1] */

    gd_pool_fn fn; /* of the current job */
    void *ctx;

    _Alignas(64) atomic_uint left; /* items that nobody has taken */
    _Alignas(64) atomic_uint open; /* items that are not done */
    atomic_uint sleepers;
    atomic_bool stop;
    atomic_bool owner_sleeps;

    pthread_mutex_t lock;
    pthread_cond_t work; /* left is not 0, or stop */
    pthread_cond_t done; /* open is 0 */
};

static void pool_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Takes and runs items until none is left. */
static void pool_work(struct gd_pool *p, uint32_t thread)
{
    unsigned left = atomic_load_explicit(&p->left, memory_order_acquire);
    while (left != 0) {
        if (!atomic_compare_exchange_weak_explicit(&p->left, &left, left - 1, memory_order_acquire,
                                                   memory_order_acquire)) {
            continue;
        }
        p->fn(p->ctx, left - 1, thread);
        if (atomic_fetch_sub_explicit(&p->open, 1, memory_order_seq_cst) == 1 &&
            atomic_load_explicit(&p->owner_sleeps, memory_order_seq_cst)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
        left = atomic_load_explicit(&p->left, memory_order_acquire);
    }
}

static void pool_sleep(struct gd_pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->left) == 0 && !atomic_load(&p->stop)) {
        pthread_cond_wait(&p->work, &p->lock);
    }
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *pool_main(void *arg)
{
    struct pool_worker *w = arg;
    struct gd_pool *p = w->pool;
    while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
        int spins = 0;
        while (spins < POOL_SPINS && atomic_load_explicit(&p->left, memory_order_relaxed) == 0) {
            pool_pause();
            spins++;
        }
        if (spins == POOL_SPINS) {
            pool_sleep(p);
        }
        pool_work(p, w->index);
    }
    return NULL;
}

void gd_pool_run(struct gd_pool *p, uint32_t n_items, gd_pool_fn fn, void *ctx)
{
    if (n_items <= 1 || p->n_threads == 1) {
        for (uint32_t i = 0; i < n_items; i++) {
            fn(ctx, i, 0);
        }
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    atomic_store(&p->open, n_items);
    atomic_store(&p->left, n_items);
    /* Sequentially consistent on both sides: either a worker about to sleep sees the items, or we
     * see it sleep. */
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    pool_work(p, 0);

    for (int spins = 0; spins < POOL_SPINS; spins++) {
        if (atomic_load_explicit(&p->open, memory_order_acquire) == 0) {
            return;
        }
        pool_pause();
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->owner_sleeps, true);
    while (atomic_load(&p->open) != 0) {
        pthread_cond_wait(&p->done, &p->lock);
    }
    atomic_store(&p->owner_sleeps, false);
    pthread_mutex_unlock(&p->lock);
}

int gd_pool_open(struct gd_pool **out, uint32_t n_threads, struct gd_err *err)
{
    if (n_threads < 1 || n_threads > GD_THREADS_MAX) {
        return gd_err_set(err, GD_EUSAGE, "%u threads: expected 1 to %d", n_threads,
                          GD_THREADS_MAX);
    }
    struct gd_pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    struct pool_worker *workers = calloc(n_threads, sizeof *workers);
    if (p == NULL || workers == NULL) {
        free(p);
        free(workers);
        return gd_err_set(err, GD_ENOMEM, "no memory for a pool of %u threads", n_threads);
    }
    memset(p, 0, sizeof *p);
    p->n_threads = n_threads;
    p->workers = workers;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    for (uint32_t i = 0; i + 1 < n_threads; i++) {
        struct pool_worker *w = &workers[i];
        w->pool = p;
        w->index = i + 1;
        int rc = pthread_create(&w->thread, NULL, pool_main, w);
        if (rc != 0) {
            gd_pool_close(p);
            return gd_err_set(err, GD_ENOMEM, "cannot start worker thread %u: %s", i + 1,
                              strerror(rc));
        }
        p->n_started++;
    }
    *out = p;
    return GD_OK;
}

void gd_pool_close(struct gd_pool *p)
{
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_started; i++) {
        pthread_join(p->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

uint32_t gd_pool_threads(const struct gd_pool *p)
{
    return p->n_threads;
}

/* CPUs that the cgroup v2 quota of this process' own namespace allows; UINT32_MAX without a quota.
 */
static uint32_t pool_cpus_quota(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f == NULL) {
        return UINT32_MAX;
    }
    unsigned long long quota = 0;
    unsigned long long period = 0;
    /* "max 100000" fails at the first; NOLINTNEXTLINE(cert-err34-c): numbers of the kernel's, which fit */
    int n = fscanf(f, "%20llu %20llu", &quota, &period);
    (void)fclose(f);
    if (n != 2 || quota == 0 || period == 0) {
        return UINT32_MAX;
    }
    unsigned long long cpus = quota / period + (quota % period != 0);
    return cpus < UINT32_MAX ? (uint32_t)cpus : UINT32_MAX;
}

uint32_t gd_pool_cpus_usable(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    uint32_t n =
        GD_THREADS_MAX; /* the mask does not fit: a machine with more than CPU_SETSIZE CPUs */
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        n = (uint32_t)CPU_COUNT(&set);
    }
    uint32_t quota = pool_cpus_quota();
    n = n < quota ? n : quota;
    n = n < GD_THREADS_MAX ? n : GD_THREADS_MAX;
    return n > 0 ? n : 1;
}
