/* engine_open.c - start and end of the engine: device, model, memory of the KV cache, tickets,
 * worker.
 *
 * The KV cache takes what the options say, else a share of the memory that the weights and the
 * activations leave, by the back end's measure; in any case at least one prompt as long as the
 * context, twice, so that a pinned prefix and the longest prompt fit together.
 *
 * Device "auto" is two tries, each from nothing: what the first one took is given back before the
 * second one begins. */
#include "engine_parts.h"
#include "guardian/clock.h"
#include "guardian/device.h"

#include <string.h>
#include <time.h>

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* A model that the back end cannot compute is no wrong usage of ours. */
static int of_device(int rc, struct gd_err *err)
{
    if (rc == GD_EUSAGE && err != NULL) {
        err->code = GD_EBACKEND;
    }
    return rc == GD_EUSAGE ? GD_EBACKEND : rc;
}

static int open_model(struct gd_engine *e, const struct gd_engine_options *opt, struct gd_err *err)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", opt->model_dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return gd_err_set(err, GD_ELIMIT, "the path of the model directory is too long");
    }
    int rc = of_device(gd_model_open(&e->model, opt->model_dir, e->be, &opt->model, err), err);
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
    e->context_max = least(e->model->config.context_max, GD_CONTEXT_TOKENS_MAX);
    e->step_tokens = opt->step_tokens != 0 ? opt->step_tokens : e->be->step_tokens;
    e->step_tokens = least(e->step_tokens, GD_STEP_TOKENS_MAX);
    return e->be->ops->selftest(e->be, e->step_tokens, err);
}

static double gib(uint64_t nbytes)
{
    return (double)nbytes / (double)GD_GIB;
}

static int does_not_fit(const struct gd_engine *e, uint64_t left, uint64_t kv, struct gd_err *err)
{
    return gd_err_set(err, GD_ENOMEM,
                      "%s%s%s has %.3f GiB of memory left beside %.3f GiB of weights (%s): the "
                      "activations of %u tokens need %.3f GiB (fewer: --max-batch-tokens), the KV "
                      "cache needs %.3f GiB",
                      e->be->device, e->be->name[0] != '\0' ? " " : "", e->be->name, gib(left),
                      gib(e->memory.weight_bytes), e->be->gemm_dtype, e->step_tokens,
                      gib(e->memory.activation_bytes), gib(kv));
}

/* The memory plan; decides how many blocks the KV cache has. */
static int plan_memory(struct gd_engine *e, uint64_t asked, uint64_t memory_max, struct gd_err *err)
{
    struct gd_engine_memory *m = &e->memory;
    m->weight_bytes = e->be->weight_bytes_held;
    m->activation_bytes = gd_forward_bytes(e->model, e->step_tokens);
    uint64_t block = gd_forward_block_bytes(e->model);
    uint64_t longest = (e->context_max + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS + 1;
    uint64_t blocks_min = 2 * longest;
    uint64_t there = e->be->ops->memory_left(e->be);
    if (memory_max != 0) {
        there = memory_max > m->weight_bytes ? memory_max - m->weight_bytes : 0;
    }
    if (block == 0 || blocks_min > UINT64_MAX / block) {
        return gd_err_set(err, GD_EBACKEND, "%s has no KV cache for %u layers with %u heads of %u",
                          e->be->device, e->model->config.n_layers, e->model->config.n_kv_heads,
                          e->model->config.head_dim);
    }
    uint64_t left = there > m->activation_bytes ? there - m->activation_bytes : 0;
    uint64_t want = (uint64_t)((double)left * e->be->kv_share);
    want = want < e->be->kv_bytes_max ? want : e->be->kv_bytes_max;
    uint64_t blocks = (asked != 0 ? asked : want) / block;
    if (blocks < blocks_min && asked != 0) {
        return gd_err_set(err, GD_EUSAGE,
                          "a KV cache of %.3f GiB is too small: two prompts of %u tokens need "
                          "%.3f GiB",
                          gib(asked), e->context_max, gib(blocks_min * block));
    }
    blocks = blocks < blocks_min ? blocks_min : blocks;
    blocks = blocks < GD_KV_BLOCKS_MAX ? blocks : GD_KV_BLOCKS_MAX;
    if (blocks * block > left) {
        return does_not_fit(e, there, blocks * block, err);
    }
    e->n_blocks = m->kv_blocks = (uint32_t)blocks;
    m->kv_bytes = blocks * block;
    m->kv_tokens = blocks * GD_KV_BLOCK_TOKENS;
    m->left_bytes = left - m->kv_bytes < INT64_MAX ? left - m->kv_bytes : INT64_MAX;
    return GD_OK;
}

static int open_buffers(struct gd_engine *e, const struct gd_engine_options *opt,
                        struct gd_err *err)
{
    e->verdict_entries = opt->verdict_entries;
    e->miss_ratio = 1.0;
    e->inbox_end = &e->inbox;
    int rc = plan_memory(e, opt->kv_bytes, opt->model.memory_max, err);
    rc = rc != GD_OK ? rc : gd_kvcache_open(&e->cache, e->n_blocks, !opt->no_prefix_cache, err);
    if (rc == GD_OK && opt->verdict_entries > 0) {
        rc = gd_scorecache_open(&e->scores, opt->verdict_entries, err);
    }
    const struct gd_sched_options sched = {.step_tokens = e->step_tokens,
                                           .n_works = ENGINE_TICKETS};
    rc = rc != GD_OK ? rc : gd_sched_open(&e->sched, e->cache, &sched, err);
    if (rc == GD_OK) {
        rc = gd_forward_open(&e->forward, e->model, e->step_tokens, e->n_blocks, err);
        rc = of_device(rc, err);
    }
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

static int start_worker(struct gd_engine *e, struct gd_err *err)
{
    open_sync(e);
    int failed = pthread_create(&e->worker, NULL, engine_worker_main, e);
    e->worker_started = failed == 0;
    if (failed != 0) {
        return gd_err_set(err, GD_ENOMEM, "cannot start the worker thread: %s", strerror(failed));
    }
    return GD_OK;
}

/* *fits: false when it is this device that cannot, for want of memory or of anything else. */
static int open_on(struct gd_engine **out, const struct gd_device *d,
                   const struct gd_engine_options *opt, bool *fits, struct gd_err *err)
{
    struct gd_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the engine");
    }
    e->on_step = opt->on_step;
    e->ctx = opt->ctx;
    e->pulse = opt->pulse != NULL ? opt->pulse : &e->own_pulse;
    int rc = gd_device_open(&e->be, d, opt->n_threads, err);
    *fits = rc == GD_OK;
    rc = rc != GD_OK ? rc : open_model(e, opt, err);
    rc = rc != GD_OK ? rc : open_buffers(e, opt, err);
    rc = rc != GD_OK ? rc : engine_warm_up(e, err);
    *fits = *fits && rc != GD_ENOMEM && rc != GD_EBACKEND;
    rc = rc != GD_OK ? rc : start_worker(e, err);
    if (rc != GD_OK) {
        gd_engine_close(e);
        return rc;
    }
    *out = e;
    return GD_OK;
}

int gd_engine_open(struct gd_engine **out, const struct gd_engine_options *opt, struct gd_err *err)
{
    struct gd_device d;
    struct gd_err first = {.code = GD_OK};
    bool fits = true;
    int rc = gd_device_parse(opt->device, opt->dtype, &d, err);
    if (rc != GD_OK) {
        return rc;
    }
    if (d.kind != GD_DEVICE_AUTO) {
        rc = open_on(out, &d, opt, &fits, err);
        return d.kind == GD_DEVICE_CUDA && !fits ? of_device(rc, err) : rc;
    }
    d.kind = GD_DEVICE_CUDA;
    rc = open_on(out, &d, opt, &fits, &first);
    if (rc == GD_OK) {
        return rc;
    }
    if (fits || d.dtype == GD_DEVICE_DTYPE_FP8) { /* the CPU could not either */
        return gd_err_set(err, fits ? rc : of_device(rc, &first), "%s", first.msg);
    }
    d.kind = GD_DEVICE_CPU;
    rc = open_on(out, &d, opt, &fits, err);
    if (rc == GD_OK) {
        (*out)->note = first;
    } else if (first.code != GD_ENOTFOUND && err != NULL) {
        gd_err_set(err, rc, "%s (and before that CUDA device 0: %s)", err->msg, first.msg);
    }
    return rc;
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
