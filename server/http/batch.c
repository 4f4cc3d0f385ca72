/* batch.c - the items of a batch, judged on several threads at once so that the engine can pack
 * them together.
 *
 * A fixed pool of workers serves all batches. The thread that brings a batch works on its items
 * too, so a batch makes progress even when every worker is busy with others. A job lives on its
 * caller's stack: it leaves the list when its last item is taken, and its caller returns when its
 * last item is done. Each item has an arena of its own. */
#include "guardian/service.h"

#include <pthread.h>

struct job {
    struct job *next;
    struct gd_guard *guard;
    struct gd_batch_item *items;
    size_t n_items, taken, done;
};

struct gd_batch_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    struct job *first; /* jobs with items that nobody has taken */
    bool stopping;
    pthread_t threads[GD_HTTP_BATCH_WORKERS];
    uint32_t n_threads;
};

static void unlink_job(struct gd_batch_pool *p, const struct job *j)
{
    for (struct job **at = &p->first; *at != NULL; at = &(*at)->next) {
        if (*at == j) {
            *at = j->next;
            return;
        }
    }
}

/* Takes one item of j with the lock held; the lock is free while the item is judged. */
static void judge_next(struct gd_batch_pool *p, struct job *j)
{
    struct gd_batch_item *item = &j->items[j->taken++];
    if (j->taken == j->n_items) {
        unlink_job(p, j);
    }
    pthread_mutex_unlock(&p->lock);

    struct gd_arena arena;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    item->err.code = 0;
    int rc = gd_guard_judge(j->guard, &arena, item->request, &item->judgement, &item->err);
    if (rc != 0) {
        item->err.code = rc;
    }
    gd_arena_free(&arena);

    pthread_mutex_lock(&p->lock);
    j->done++;
    if (j->done == j->n_items) {
        pthread_cond_broadcast(&p->finished);
    }
}

static void *worker_main(void *ctx)
{
    struct gd_batch_pool *p = ctx;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping) {
        if (p->first != NULL) {
            judge_next(p, p->first);
        } else {
            pthread_cond_wait(&p->work, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void gd_batch_pool_run(struct gd_batch_pool *p, struct gd_guard *g, struct gd_batch_item *items,
                       size_t n_items)
{
    struct job j = {.guard = g, .items = items, .n_items = n_items};
    if (n_items == 0) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    struct job **last = &p->first;
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = &j;
    pthread_cond_broadcast(&p->work);
    while (j.taken < j.n_items) {
        judge_next(p, &j);
    }
    while (j.done < j.n_items) {
        pthread_cond_wait(&p->finished, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}

int gd_batch_pool_open(struct gd_batch_pool **out, struct gd_err *err)
{
    struct gd_batch_pool *p = calloc(1, sizeof(*p));
    if (p == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the batch workers");
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    for (; p->n_threads < GD_HTTP_BATCH_WORKERS; p->n_threads++) {
        if (pthread_create(&p->threads[p->n_threads], NULL, worker_main, p) != 0) {
            gd_batch_pool_close(p);
            return gd_err_set(err, GD_ENOMEM, "a batch worker thread could not be started");
        }
    }
    *out = p;
    return 0;
}

void gd_batch_pool_close(struct gd_batch_pool *p)
{
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++) {
        pthread_join(p->threads[i], NULL);
    }
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
