/* pool.h - worker threads that share the items of one loop; the calling thread works too.
 *
 * One thread owns a pool and calls gd_pool_run; calls do not nest. Which thread runs which item is
 * left to chance, so the result of an item must not depend on it. Idle workers spin for some
 * microseconds, then sleep. */
#ifndef GUARDIAN_POOL_H
#define GUARDIAN_POOL_H

#include "guardian/status.h"

#include <stdint.h>

struct gd_pool;

/* Handles one item; thread is 0..n_threads-1 (0 is the caller) and is the index of per-thread
 * scratch memory. */
typedef void (*gd_pool_fn)(void *ctx, uint32_t item, uint32_t thread);

/* n_threads counts the caller: 1..GD_THREADS_MAX. GD_EUSAGE, GD_ENOMEM. */
int gd_pool_open(struct gd_pool **out, uint32_t n_threads, struct gd_err *err);
void gd_pool_close(struct gd_pool *p); /* NULL is fine; no run may be under way */

uint32_t gd_pool_threads(const struct gd_pool *p);

/* Calls fn for items 0..n_items-1, each once, and returns when all are done: their writes are
 * visible then. */
void gd_pool_run(struct gd_pool *p, uint32_t n_items, gd_pool_fn fn, void *ctx);

/* CPUs this process may use: its affinity mask, cut by the cgroup's CPU quota (rounded up); at
 * least 1. */
uint32_t gd_pool_cpus_usable(void);

#endif
