/* engine_open.c - start and end of the engine: model, memory of the KV cache, tickets, worker.
 *
 * The KV cache takes what the options say, else GD_KV_BYTES_DEFAULT or an eighth of the memory that
 * is left, whichever is less; in any case at least one prompt as long as the context, twice, so that
 * a pinned prefix and the longest prompt fit together. */
#include "engine_parts.h"
#include "model_tensors.h" /* gd_memory_available */

#include <string.h>
#include <time.h>

static int open_model(struct gd_engine *e, const struct gd_engine_options *opt, struct gd_err *err)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", opt->model_dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return gd_err_set(err, GD_ELIMIT, "the path of the model directory is too long");
    }
    int rc = gd_backend_cpu_open(&e->be, opt->n_threads, err);
    rc = rc != GD_OK ? rc : gd_model_open(&e->model, opt->model_dir, e->be, &opt->model, err);
    rc = rc != GD_OK ? rc : gd_tokenizer_open(&e->tokenizer, path, err);
    if (rc != GD_OK) {
        return rc;
    }
    uint32_t vocab = e->model->config.vocab_size;
    int32_t ids = gd_tokenizer_vocab_size(e->tokenizer);
    if (ids < 1 || (uint32_t)ids > vocab) {
        return gd_err_set(err, GD_EMODEL,
                          "tokenizer.json has ids up to %d, the model has %u embeddings", ids - 1,
                          vocab);
    }
    return gd_backend_selftest(e->be, err);
}

static double gib(uint64_t nbytes)
{
    return (double)nbytes / (double)GD_GIB;
}

/* Decides how many blocks the KV cache has. */
static int plan_kv(struct gd_engine *e, uint64_t asked, uint64_t memory_max, struct gd_err *err)
{
    uint64_t held = e->be->weight_bytes_held;
    uint64_t block = gd_forward_block_bytes(e->model);
    uint64_t longest = (e->context_max + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS + 1;
    uint64_t least = 2 * longest;
    uint64_t left = gd_memory_available("");
    if (memory_max != 0) {
        left = memory_max > held ? memory_max - held : 0;
    }
    uint64_t want = left / 8 < GD_KV_BYTES_DEFAULT ? left / 8 : GD_KV_BYTES_DEFAULT;
    if (block == 0 || least > UINT64_MAX / block) {
        return gd_err_set(err, GD_ELIMIT, "a block of the KV cache has too many bytes");
    }
    uint64_t blocks = (asked != 0 ? asked : want) / block;
    if (blocks < least && asked != 0) {
        return gd_err_set(err, GD_EUSAGE,
                          "a KV cache of %.3f GiB is too small: two prompts of %u tokens need "
                          "%.3f GiB",
                          gib(asked), e->context_max, gib(least * block));
    }
    blocks = blocks < least ? least : blocks;
    blocks = blocks < GD_KV_BLOCKS_MAX ? blocks : GD_KV_BLOCKS_MAX;
    if (blocks * block > left) {
        return gd_err_set(err, GD_ENOMEM,
                          "the KV cache needs %.2f GiB of memory, there are %.2f GiB",
                          gib(blocks * block), gib(left));
    }
    e->n_blocks = (uint32_t)blocks;
    e->kv_bytes = blocks * block;
    return GD_OK;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static int open_buffers(struct gd_engine *e, const struct gd_engine_options *opt,
                        struct gd_err *err)
{
    e->context_max = least(e->model->config.context_max, GD_CONTEXT_TOKENS_MAX);
    e->step_tokens = opt->step_tokens != 0 ? opt->step_tokens : e->be->step_tokens;
    e->step_tokens = least(e->step_tokens, GD_STEP_TOKENS_MAX);
    e->verdict_entries = opt->verdict_entries;
    e->miss_ratio = 1.0;
    e->inbox_end = &e->inbox;
    int rc = plan_kv(e, opt->kv_bytes, opt->model.memory_max, err);
    rc = rc != GD_OK ? rc : gd_kvcache_open(&e->cache, e->n_blocks, !opt->no_prefix_cache, err);
    if (rc == GD_OK && opt->verdict_entries > 0) {
        rc = gd_scorecache_open(&e->scores, opt->verdict_entries, err);
    }
    const struct gd_sched_options sched = {.step_tokens = e->step_tokens,
                                           .n_works = ENGINE_TICKETS};
    rc = rc != GD_OK ? rc : gd_sched_open(&e->sched, e->cache, &sched, err);
    rc =
        rc != GD_OK ? rc : gd_forward_open(&e->forward, e->model, e->step_tokens, e->n_blocks, err);
    if (rc != GD_OK) {
        return rc;
    }
    e->tickets = calloc(ENGINE_TICKETS, sizeof *e->tickets);
    e->ticket_tokens = calloc((size_t)ENGINE_TICKETS * e->context_max, sizeof *e->ticket_tokens);
    if (e->tickets == NULL || e->ticket_tokens == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the queue");
    }
    gd_kvcache_stats(e->cache, &e->stats.kv);
    return GD_OK;
}

/* Conditions measure time by the clock of the deadlines. */
static void open_sync(struct gd_engine *e)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, &attr);
    pthread_cond_init(&e->left, &attr);
    for (size_t i = 0; i < ENGINE_TICKETS; i++) {
        struct gd_ticket *t = &e->tickets[i];
        pthread_cond_init(&t->done, &attr);
        t->tokens = e->ticket_tokens + i * e->context_max;
        t->next = e->free;
        e->free = t;
    }
    pthread_condattr_destroy(&attr);
    e->sync_ready = true;
}

int gd_engine_open(struct gd_engine **out, const struct gd_engine_options *opt, struct gd_err *err)
{
    struct gd_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the engine");
    }
    e->on_step = opt->on_step;
    e->ctx = opt->ctx;
    int rc = open_model(e, opt, err);
    rc = rc != GD_OK ? rc : open_buffers(e, opt, err);
    rc = rc != GD_OK ? rc : engine_warm_up(e, err);
    if (rc == GD_OK) {
        open_sync(e);
        e->stats.last_step_ns = (uint64_t)gd_now_ns();
        int failed = pthread_create(&e->worker, NULL, engine_worker_main, e);
        e->worker_started = failed == 0;
        if (failed != 0) {
            rc = gd_err_set(err, GD_ENOMEM, "cannot start the worker thread: %s", strerror(failed));
        }
    }
    if (rc != GD_OK) {
        gd_engine_close(e);
        return rc;
    }
    *out = e;
    return GD_OK;
}

static void stop_worker(struct gd_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->worker, NULL);
    pthread_mutex_lock(&e->lock);
    while (e->callers > 0) { /* they still have to take their answers */
        pthread_cond_wait(&e->left, &e->lock);
    }
    pthread_mutex_unlock(&e->lock);
}

static void close_sync(struct gd_engine *e)
{
    for (size_t i = 0; i < ENGINE_TICKETS; i++) {
        pthread_cond_destroy(&e->tickets[i].done);
    }
    pthread_cond_destroy(&e->left);
    pthread_cond_destroy(&e->work);
    pthread_mutex_destroy(&e->lock);
}

void gd_engine_close(struct gd_engine *e)
{
    if (e == NULL) {
        return;
    }
    if (e->worker_started) {
        stop_worker(e);
    }
    if (e->sync_ready) {
        close_sync(e);
    }
    gd_forward_close(e->forward);
    gd_sched_close(e->sched);
    gd_scorecache_close(e->scores);
    gd_kvcache_close(e->cache);
    gd_tokenizer_close(e->tokenizer);
    if (e->model != NULL) {
        gd_model_close(e->model);
    }
    if (e->be != NULL) {
        e->be->ops->close(e->be);
    }
    free(e->tickets);
    free(e->ticket_tokens);
    free(e);
}
