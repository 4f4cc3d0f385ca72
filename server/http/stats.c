/* stats.c - what /metrics shows, on the registry of base.
 *
 * Units are seconds and bytes, counters end in _total, label values come from fixed tables. Numbers
 * that others count (engine, process) are copied when they are asked for. */
#include "guardian/stats.h"
#include "guardian/clock.h"
#include "guardian/metrics.h"
#include "guardian/routes.h"
#include "guardian/service.h"
#include "guardian/socket.h"

#include <malloc.h>
#include <pthread.h>

#define MAX_ROUTES 32

static const char *const CODES[] = {"200", "400", "401", "403", "404", "405", "408",
                                    "411", "413", "414", "415", "417", "422", "429",
                                    "431", "499", "500", "503", "504", "505", "other"};
static const char *const ACTIONS[] = {"error", "block", "review", "allow"};
static const char *const REASONS[GD_REJECT_COUNT] = {
    "queue_full", "queue_time", "deadline",    "too_large",   "memory",
    "draining",   "loading",    "device_lost", "connections", "rate_limited"};
static const char *const RESULTS[] = {"ok", "failed"};
static const char *const BLOCK_STATES[] = {"used", "cached", "free"};
static const char *routes[MAX_ROUTES]; /* the paths, then "none" */
static const char *labels[GD_LABEL_COUNT];
static const char *const MEMORY_PARTS[] = {"weights", "activations", "kv_cache", "left"};
static char model_text[2][128]; /* version, back end */
static const char *const model_values[2] = {model_text[0], model_text[1]};
static char device_text[4][128]; /* device, name, isa, dtype */
static const char *const device_values[4] = {device_text[0], device_text[1], device_text[2],
                                             device_text[3]};

/* Ids of the families; -1 before registration, which the registry ignores. */
static int requests = -1, request_duration = -1, verdicts = -1, item_errors = -1;
static int prompt_tokens = -1, truncated = -1, canceled = -1, rejected = -1, reloads = -1;
static int queue_duration = -1, tokenize_duration = -1, inference_duration = -1;
static int in_flight = -1, connections = -1, ready = -1, resident = -1, heap = -1, uptime = -1;
static int waiting = -1, running = -1, steps = -1, sequences = -1, tokens = -1, failures = -1;
static int given_up = -1, queue_seconds = -1, batch_size = -1, batch_tokens = -1, step_seconds = -1;
static int query_tokens = -1, hit_tokens = -1, kv_usage = -1, kv_blocks = -1, evictions = -1;
static int verdict_hits = -1, verdict_misses = -1, verdict_entries = -1;
static int device_fallback = -1, device_lost = -1, step_tokens = -1;

struct plain_family {
    int *id;
    enum gd_metric_type type;
    const char *name, *help;
};

static const struct plain_family PLAIN[] = {
    {&item_errors, GD_METRIC_COUNTER, "guardian_batch_item_errors_total",
     "Items of batches that got an error instead of a verdict."},
    {&prompt_tokens, GD_METRIC_COUNTER, "guardian_prompt_tokens_total",
     "Tokens of judged prompts."},
    {&canceled, GD_METRIC_COUNTER, "guardian_requests_canceled_total",
     "Requests whose client left before there was an answer."},
    {&truncated, GD_METRIC_COUNTER, "guardian_context_truncated_total",
     "Verdicts on a trajectory that had to be shortened."},
    {&request_duration, GD_METRIC_HISTOGRAM, "guardian_request_duration_seconds",
     "Whole requests, all routes."},
    {&queue_duration, GD_METRIC_HISTOGRAM, "guardian_queue_duration_seconds",
     "Waiting for the engine."},
    {&tokenize_duration, GD_METRIC_HISTOGRAM, "guardian_tokenize_duration_seconds",
     "Parsing, rendering and encoding."},
    {&inference_duration, GD_METRIC_HISTOGRAM, "guardian_inference_duration_seconds",
     "From the first step of a prompt to its score."},
    {&in_flight, GD_METRIC_GAUGE, "guardian_requests_in_flight",
     "Admitted requests that are not answered yet."},
    {&connections, GD_METRIC_GAUGE, "guardian_connections", "Open connections."},
    {&ready, GD_METRIC_GAUGE, "guardian_ready", "1 when verdicts can be had."},
    {&resident, GD_METRIC_GAUGE, "guardian_resident_bytes", "Resident memory of the process."},
    {&heap, GD_METRIC_GAUGE, "guardian_heap_bytes", "Memory that is allocated and not freed."},
    {&uptime, GD_METRIC_GAUGE, "guardian_uptime_seconds", "Seconds since the start."},
    {&waiting, GD_METRIC_GAUGE, "guardian_requests_waiting", "Prompts waiting for the engine."},
    {&running, GD_METRIC_GAUGE, "guardian_requests_running",
     "Prompts that the engine has begun and not finished."},
    {&queue_seconds, GD_METRIC_GAUGE, "guardian_queue_seconds",
     "Estimated time that all admitted work will take."},
    {&steps, GD_METRIC_COUNTER, "guardian_engine_steps_total", "Forward passes."},
    {&sequences, GD_METRIC_COUNTER, "guardian_engine_sequences_total", "Prompts scored."},
    {&tokens, GD_METRIC_COUNTER, "guardian_engine_tokens_total", "Tokens computed."},
    {&failures, GD_METRIC_COUNTER, "guardian_engine_failures_total",
     "Prompts that failed in the engine."},
    {&given_up, GD_METRIC_COUNTER, "guardian_engine_canceled_total",
     "Prompts given up because their client left."},
    {&query_tokens, GD_METRIC_COUNTER, "guardian_prefix_cache_query_tokens_total",
     "Tokens of scored prompts; kept scores count as none."},
    {&hit_tokens, GD_METRIC_COUNTER, "guardian_prefix_cache_hit_tokens_total",
     "Of these, tokens whose keys and values were in the KV cache."},
    {&kv_usage, GD_METRIC_GAUGE, "guardian_kv_cache_usage_ratio",
     "Blocks of the KV cache in use by prompts, or kept for good, of all."},
    {&evictions, GD_METRIC_COUNTER, "guardian_kv_cache_evictions_total",
     "Blocks of the KV cache that were taken from a kept prefix."},
    {&verdict_hits, GD_METRIC_COUNTER, "guardian_verdict_cache_hits_total",
     "Prompts whose whole score was kept."},
    {&verdict_misses, GD_METRIC_COUNTER, "guardian_verdict_cache_misses_total",
     "Prompts whose score was looked for and not found."},
    {&verdict_entries, GD_METRIC_GAUGE, "guardian_verdict_cache_entries", "Scores kept."},
    {&device_fallback, GD_METRIC_GAUGE, "guardian_device_fallback",
     "1 when the CPU computes because the CUDA device could not be used."},
    {&device_lost, GD_METRIC_GAUGE, "guardian_device_lost",
     "1 when the device is lost: the process ends."},
    {&step_seconds, GD_METRIC_HISTOGRAM, "guardian_step_seconds", "Time of one forward pass."},
    {&step_tokens, GD_METRIC_GAUGE, "guardian_step_tokens",
     "Tokens that one forward pass computes at most."},
};

static int add(int *id, const struct gd_metric_desc *d, struct gd_err *err)
{
    int rc = gd_metric_register(d, err);
    if (rc < 0) {
        return rc;
    }
    *id = rc;
    return 0;
}

static int add_plain(struct gd_err *err)
{
    for (size_t i = 0; i < sizeof(PLAIN) / sizeof(PLAIN[0]); i++) {
        const struct plain_family *p = &PLAIN[i];
        struct gd_metric_desc d = {.name = p->name, .help = p->help, .type = p->type};
        if (p->type == GD_METRIC_HISTOGRAM) {
            d.buckets = GD_METRIC_DURATION_BUCKETS;
            d.n_buckets = GD_METRIC_DURATION_BUCKETS_N;
        }
        int rc = add(p->id, &d, err);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* Families of the engine that are not plain. */
static int add_engine(struct gd_err *err)
{
    const struct gd_metric_desc size = {
        .name = "guardian_batch_size",
        .help = "Prompts in one forward pass.",
        .type = GD_METRIC_HISTOGRAM,
        .buckets = GD_METRIC_SIZE_BUCKETS,
        .n_buckets = GD_METRIC_SIZE_BUCKETS_N,
    };
    const struct gd_metric_desc computed = {
        .name = "guardian_batch_tokens",
        .help = "Tokens computed in one forward pass.",
        .type = GD_METRIC_HISTOGRAM,
        .buckets = GD_METRIC_SIZE_BUCKETS,
        .n_buckets = GD_METRIC_SIZE_BUCKETS_N,
    };
    const struct gd_metric_desc blocks = {
        .name = "guardian_kv_cache_blocks",
        .help = "Blocks of the KV cache: used by prompts, cached for later ones, free.",
        .type = GD_METRIC_GAUGE,
        .labels = {{"state", BLOCK_STATES, 3}},
        .n_labels = 1,
    };
    int rc = add(&batch_size, &size, err);
    rc = rc != 0 ? rc : add(&batch_tokens, &computed, err);
    return rc != 0 ? rc : add(&kv_blocks, &blocks, err);
}

int gd_stats_register(const char *version, struct gd_err *err)
{
    static const char *build[1];
    uint32_t n_codes = sizeof(CODES) / sizeof(CODES[0]);
    uint32_t n_routes = (uint32_t)gd_route_count();
    int info = -1;
    GD_ASSERT(n_routes < MAX_ROUTES);
    build[0] = version;
    for (uint32_t i = 0; i < n_routes; i++) {
        routes[i] = gd_route_at((int)i)->path;
    }
    routes[n_routes] = "none";
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        labels[i] = gd_label_info((enum gd_label)i)->key;
    }
    const struct gd_metric_desc about = {
        .name = "guardian_build_info",
        .help = "The build; always 1.",
        .type = GD_METRIC_GAUGE,
        .labels = {{"version", build, 1}},
        .n_labels = 1,
    };
    const struct gd_metric_desc answered = {
        .name = "guardian_requests_total",
        .help = "Answered requests by route and status code.",
        .type = GD_METRIC_COUNTER,
        .labels = {{"route", routes, n_routes + 1}, {"code", CODES, n_codes}},
        .n_labels = 2,
    };
    const struct gd_metric_desc judged = {
        .name = "guardian_verdicts_total",
        .help = "Verdicts by action and label.",
        .type = GD_METRIC_COUNTER,
        .labels = {{"action", ACTIONS, 4}, {"label", labels, GD_LABEL_COUNT}},
        .n_labels = 2,
    };
    const struct gd_metric_desc refused = {
        .name = "guardian_rejected_total",
        .help = "Work that was refused, at admission or by the engine, by reason.",
        .type = GD_METRIC_COUNTER,
        .labels = {{"reason", REASONS, GD_REJECT_COUNT}},
        .n_labels = 1,
    };
    const struct gd_metric_desc reloaded = {
        .name = "guardian_reloads_total",
        .help = "Policies and keys read again on SIGHUP; a failed one changes nothing.",
        .type = GD_METRIC_COUNTER,
        .labels = {{"result", RESULTS, 2}},
        .n_labels = 1,
    };
    int rc = add(&info, &about, err);
    rc = rc != 0 ? rc : add(&reloads, &reloaded, err);
    rc = rc != 0 ? rc : add(&requests, &answered, err);
    rc = rc != 0 ? rc : add(&rejected, &refused, err);
    rc = rc != 0 ? rc : add(&verdicts, &judged, err);
    rc = rc != 0 ? rc : add_plain(err);
    rc = rc != 0 ? rc : add_engine(err);
    gd_metric_set(info, (const uint32_t[]){0}, 1.0);
    return rc;
}

/* Families that tell about the device; their labels are known when the model is loaded. */
static void add_device(const struct gd_engine *e)
{
    const struct gd_backend *be = gd_engine_backend(e);
    const struct gd_engine_memory *m = gd_engine_memory(e);
    const uint64_t bytes[] = {m->weight_bytes, m->activation_bytes, m->kv_bytes, m->left_bytes};
    const char *texts[4] = {be->device, be->name, be->isa, be->gemm_dtype};
    int info = -1, memory = -1;
    for (size_t i = 0; i < 4; i++) {
        snprintf(device_text[i], sizeof(device_text[i]), "%s", texts[i]);
    }
    const struct gd_metric_desc about = {
        .name = "guardian_device_info",
        .help = "The device that computes; always 1.",
        .type = GD_METRIC_GAUGE,
        .labels = {{"device", &device_values[0], 1},
                   {"name", &device_values[1], 1},
                   {"isa", &device_values[2], 1},
                   {"dtype", &device_values[3], 1}},
        .n_labels = 4,
    };
    const struct gd_metric_desc plan = {
        .name = "guardian_device_memory_bytes",
        .help = "The memory plan of the start: what takes the device's memory, and what is left.",
        .type = GD_METRIC_GAUGE,
        .labels = {{"part", MEMORY_PARTS, 4}},
        .n_labels = 1,
    };
    add(&info, &about, NULL);
    add(&memory, &plan, NULL);
    gd_metric_set(info, (const uint32_t[]){0, 0, 0, 0}, 1.0);
    for (uint32_t i = 0; i < 4; i++) {
        gd_metric_set(memory, &i, (double)bytes[i]);
    }
    gd_metric_set(device_fallback, NULL, gd_engine_device_note(e) != NULL ? 1.0 : 0.0);
}

void gd_stats_model(const struct gd_guard *g)
{
    struct gd_engine *e = gd_guard_engine((struct gd_guard *)(uintptr_t)g);
    const struct gd_backend *be = gd_engine_backend(e);
    int info = -1, weights = -1;
    add_device(e);
    snprintf(model_text[0], sizeof(model_text[0]), "%s", gd_engine_model(e)->version);
    snprintf(model_text[1], sizeof(model_text[1]), "%s/%s/%s", be->device, be->isa, be->gemm_dtype);
    const struct gd_metric_desc about = {
        .name = "guardian_model_info",
        .help = "The loaded model and its back end; always 1.",
        .type = GD_METRIC_GAUGE,
        .labels = {{"model_version", &model_values[0], 1}, {"backend", &model_values[1], 1}},
        .n_labels = 2,
    };
    const struct gd_metric_desc held = {
        .name = "guardian_model_weight_bytes",
        .help = "Bytes of weights that the back end holds.",
        .type = GD_METRIC_GAUGE,
    };
    add(&info, &about, NULL);
    add(&weights, &held, NULL);
    gd_metric_set(info, (const uint32_t[]){0, 0, 0}, 1.0);
    gd_metric_set(weights, NULL, (double)be->weight_bytes_held);
}

void gd_stats_request(int route, int status, double ms)
{
    char code[16];
    uint32_t at[2];
    snprintf(code, sizeof(code), "%d", status);
    at[0] = route >= 0 ? (uint32_t)route : (uint32_t)gd_route_count();
    at[1] = gd_metric_index(requests, 1, code);
    gd_metric_add(requests, at, 1);
    gd_metric_observe(request_duration, NULL, ms / 1000.0);
    gd_metric_add(canceled, NULL, status == 499 ? 1 : 0);
    if (status == 413) {
        gd_stats_reject(GD_REJECT_TOO_LARGE);
    }
}

void gd_stats_judgement(const struct gd_judgement *j)
{
    const uint32_t at[2] = {(uint32_t)j->verdict.action, (uint32_t)j->verdict.label};
    gd_metric_add(verdicts, at, 1);
    gd_metric_add(prompt_tokens, NULL, j->tokens);
    gd_metric_add(truncated, NULL, j->truncated ? 1 : 0);
    gd_metric_observe(queue_duration, NULL, j->queue_ms / 1000.0);
    gd_metric_observe(tokenize_duration, NULL, j->tokenize_ms / 1000.0);
    gd_metric_observe(inference_duration, NULL, j->prefill_ms / 1000.0);
}

void gd_stats_item_error(void)
{
    gd_metric_add(item_errors, NULL, 1);
}

void gd_stats_reload(bool ok)
{
    gd_metric_add(reloads, (const uint32_t[]){ok ? 0 : 1}, 1);
}

static void reject(enum gd_reject why, uint64_t n)
{
    gd_metric_add(rejected, (const uint32_t[]){(uint32_t)why}, n);
}

void gd_stats_reject(enum gd_reject why)
{
    reject(why, 1);
}

void gd_stats_step(void *ctx, const struct gd_step_info *info)
{
    (void)ctx;
    gd_metric_observe(batch_size, NULL, info->n_seqs);
    gd_metric_observe(batch_tokens, NULL, info->n_tokens);
    gd_metric_observe(step_seconds, NULL, info->ms / 1e3);
}

static void set_blocks(const struct gd_kvcache_stats *kv)
{
    const uint32_t n[3] = {kv->used, kv->cached, kv->free};
    for (uint32_t i = 0; i < 3; i++) {
        gd_metric_set(kv_blocks, &i, n[i]);
    }
    gd_metric_set(kv_usage, NULL, kv->blocks > 0 ? (double)kv->used / (double)kv->blocks : 0.0);
}

/* The engine counts from its start: what is new since the last scrape is added. */
static void copy_engine(struct gd_engine *e)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct gd_engine_stats last;
    struct gd_engine_stats now;
    pthread_mutex_lock(&lock);
    gd_engine_stats(e, &now);
    gd_metric_set(waiting, NULL, now.waiting);
    gd_metric_set(running, NULL, now.running);
    gd_metric_set(queue_seconds, NULL, gd_engine_queue_ms(e) / 1000.0);
    gd_metric_set(verdict_entries, NULL, now.verdict_used);
    gd_metric_set(step_tokens, NULL, now.step_tokens);
    set_blocks(&now.kv);
    gd_metric_add(steps, NULL, now.steps - last.steps);
    gd_metric_add(sequences, NULL, now.sequences - last.sequences);
    gd_metric_add(tokens, NULL, now.tokens - last.tokens);
    gd_metric_add(failures, NULL, now.failures - last.failures);
    gd_metric_add(given_up, NULL, now.canceled - last.canceled);
    gd_metric_add(query_tokens, NULL, now.query_tokens - last.query_tokens);
    gd_metric_add(hit_tokens, NULL, now.hit_tokens - last.hit_tokens);
    gd_metric_add(evictions, NULL, now.kv.evictions - last.kv.evictions);
    gd_metric_add(verdict_hits, NULL, now.verdict_hits - last.verdict_hits);
    gd_metric_add(verdict_misses, NULL, now.verdict_misses - last.verdict_misses);
    reject(GD_REJECT_QUEUE_FULL, now.refused_full - last.refused_full);
    reject(GD_REJECT_DEADLINE, now.refused_late + now.late - last.refused_late - last.late);
    last = now;
    pthread_mutex_unlock(&lock);
}

static void copy_sockets(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static uint64_t last;
    pthread_mutex_lock(&lock);
    const uint64_t now = gd_sockets_refused();
    reject(GD_REJECT_CONNECTIONS, now - last);
    last = now;
    pthread_mutex_unlock(&lock);
    gd_metric_set(connections, NULL, gd_sockets_open());
}

void gd_stats_write(struct gd_service *s, struct gd_buf *out)
{
    struct gd_guard *g = atomic_load(&s->guard);
    bool draining = atomic_load(&s->draining), lost = gd_service_lost(s) != NULL;
    const struct mallinfo2 allocated = mallinfo2();
    if (g != NULL) {
        copy_engine(gd_guard_engine(g));
    }
    gd_metric_set(in_flight, NULL, atomic_load(&s->in_flight));
    copy_sockets();
    gd_metric_set(ready, NULL, g != NULL && !draining && !lost ? 1.0 : 0.0);
    gd_metric_set(device_lost, NULL, lost ? 1.0 : 0.0);
    gd_metric_set(resident, NULL, (double)gd_engine_resident_bytes());
    gd_metric_set(heap, NULL, (double)(allocated.uordblks + allocated.hblkhd));
    gd_metric_set(uptime, NULL, (double)(gd_now_ns() - s->start_ns) / 1e9);
    gd_metrics_write(out);
}
