/* info.c - what the server tells about itself: health, models, labels, limits, build.
 *
 * Health answers never wait for the engine. /healthz says that the process serves, /readyz and
 * /health that verdicts can be had now: not any more from the moment in which a device is lost. */
#include "guardian/clock.h"
#include "guardian/metrics.h"
#include "guardian/reply.h"
#include "guardian/routes.h"
#include "guardian/service.h"
#include "guardian/socket.h"
#include "guardian/stats.h"

/* server/http/openapi.json, built in */
extern const unsigned char gd_openapi_json[];
extern const size_t gd_openapi_json_len;

static void begin(struct gd_json_writer *w, struct gd_http_response *resp)
{
    gd_json_writer_init(w, &resp->body);
    gd_jw_object(w);
}

static void end(struct gd_json_writer *w, struct gd_http_response *resp, int status)
{
    gd_jw_object_end(w);
    gd_reply_json(resp, status, w);
}

/* reason: for people, may be NULL */
static void reply_state(struct gd_http_response *resp, int status, const char *state,
                        const char *reason)
{
    struct gd_json_writer w;
    begin(&w, resp);
    gd_jw_put_str(&w, "status", state);
    if (reason != NULL) {
        gd_jw_put_str(&w, "reason", reason);
    }
    end(&w, resp, status);
}

/* NULL when verdicts can be had, else why not. */
static const char *not_ready(struct gd_service *s)
{
    if (gd_service_lost(s) != NULL) {
        return "device_lost";
    }
    if (atomic_load(&s->draining)) {
        return "draining";
    }
    return atomic_load(&s->guard) == NULL ? "loading" : NULL;
}

void gd_info_healthz(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp)
{
    (void)s;
    (void)req;
    reply_state(resp, 200, "alive", NULL);
}

void gd_info_readyz(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp)
{
    const char *why = not_ready(s);
    (void)req;
    reply_state(resp, why == NULL ? 200 : 503, why == NULL ? "ready" : why, gd_service_lost(s));
}

void gd_info_health(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp)
{
    const char *why = not_ready(s);
    (void)req;
    reply_state(resp, why == NULL ? 200 : 503, why == NULL ? "ok" : why, gd_service_lost(s));
}

void gd_info_version(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp)
{
    struct gd_json_writer w;
    (void)req;
    begin(&w, resp);
    gd_jw_put_str(&w, "version", s->version);
    end(&w, resp, 200);
}

void gd_info_models(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp)
{
    struct gd_guard *g = atomic_load(&s->guard);
    struct gd_json_writer w;
    (void)req;
    begin(&w, resp);
    gd_jw_put_str(&w, "object", "list");
    gd_jw_key(&w, "data");
    gd_jw_array(&w);
    if (g != NULL) {
        gd_jw_object(&w);
        gd_jw_put_str(&w, "id", s->model_name);
        gd_jw_put_str(&w, "object", "model");
        gd_jw_put_i64(&w, "created", s->created);
        gd_jw_put_str(&w, "owned_by", "guardian");
        gd_jw_put_str(&w, "version", gd_engine_model(gd_guard_engine(g))->version);
        gd_jw_object_end(&w);
    }
    gd_jw_array_end(&w);
    end(&w, resp, 200);
}

static void put_label(struct gd_json_writer *w, enum gd_label label, const struct gd_policy *p)
{
    const struct gd_label_info *info = gd_label_info(label);
    const struct gd_policy_choice *choice = NULL;
    for (uint32_t i = 0; p != NULL && i < p->n_choices; i++) {
        choice = p->choices[i].label == label ? &p->choices[i] : choice;
    }
    gd_jw_object(w);
    gd_jw_put_str(w, "key", info->key);
    gd_jw_put_str(w, "name", info->name);
    gd_jw_put_str(w, "dataset_name", info->dataset);
    gd_jw_key(w, "choice");
    if (choice != NULL) {
        gd_jw_str(w, (struct gd_str){&choice->letter, 1});
    } else {
        gd_jw_null(w);
    }
    gd_jw_put_str(w, "phase", info->phase);
    gd_jw_put_str(w, "source", info->source);
    gd_jw_put_str(w, "scope", info->scope);
    gd_jw_put_str(w, "type", info->type);
    gd_jw_put_str(w, "maestro", info->maestro);
    gd_jw_put_bool(w, "needs_response", info->needs_response);
    gd_jw_put_bool(w, "needs_intent", info->needs_intent);
    gd_jw_put_str(w, "meaning", info->meaning);
    gd_jw_object_end(w);
}

/* The letters are those of the first policy. */
static void put_labels(struct gd_json_writer *w, const char *key, const struct gd_policies *set)
{
    const struct gd_policy *p = set != NULL ? set->policy[0] : NULL;
    gd_jw_key(w, key);
    gd_jw_array(w);
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        put_label(w, (enum gd_label)i, p);
    }
    gd_jw_array_end(w);
}

void gd_info_taxonomy(struct gd_service *s, const struct gd_http_request *req,
                      struct gd_http_response *resp)
{
    struct gd_guard *g = atomic_load(&s->guard);
    struct gd_policies *set = g != NULL ? gd_guard_policies(g) : NULL;
    struct gd_json_writer w;
    (void)req;
    begin(&w, resp);
    gd_jw_put_str(&w, "object", "list");
    put_labels(&w, "data", set);
    end(&w, resp, 200);
    gd_policies_close(set);
}

static void put_model(struct gd_json_writer *w, const struct gd_service *s,
                      const struct gd_model *m)
{
    const struct gd_model_config *c = &m->config;
    gd_jw_key(w, "model");
    gd_jw_object(w);
    gd_jw_put_str(w, "name", s->model_name);
    gd_jw_put_str(w, "version", m->version);
    gd_jw_put_str(w, "architecture",
                  c->arch == GD_ARCH_LLAMA ? "LlamaForCausalLM" : "Qwen2ForCausalLM");
    gd_jw_put_i64(w, "parameters", (int64_t)m->n_params);
    gd_jw_put_i64(w, "layers", c->n_layers);
    gd_jw_put_i64(w, "hidden_size", c->dim);
    gd_jw_put_i64(w, "heads", c->n_heads);
    gd_jw_put_i64(w, "kv_heads", c->n_kv_heads);
    gd_jw_put_i64(w, "head_dim", c->head_dim);
    gd_jw_put_i64(w, "intermediate_size", c->ffn_dim);
    gd_jw_put_i64(w, "vocab_size", c->vocab_size);
    gd_jw_put_i64(w, "context_max", c->context_max);
    gd_jw_put_f64(w, "load_ms", m->load_ms);
    gd_jw_key(w, "files");
    gd_jw_array(w);
    for (size_t i = 0; i < m->n_files; i++) {
        gd_jw_object(w);
        gd_jw_key(w, "path");
        gd_jw_str(w, m->files[i].path);
        gd_jw_put_i64(w, "bytes", (int64_t)m->files[i].nbytes);
        gd_jw_put_str(w, "sha256", m->files[i].sha256);
        gd_jw_object_end(w);
    }
    gd_jw_array_end(w);
    gd_jw_object_end(w);
}

static void put_backend(struct gd_json_writer *w, const struct gd_engine *e, uint32_t step_tokens)
{
    const struct gd_backend *be = gd_engine_backend(e);
    const struct gd_engine_memory *m = gd_engine_memory(e);
    const struct gd_err *note = gd_engine_device_note(e);
    gd_jw_key(w, "backend");
    gd_jw_object(w);
    gd_jw_put_str(w, "device", be->device);
    gd_jw_put_str(w, "isa", be->isa);
    gd_jw_put_str(w, "gemm_dtype", be->gemm_dtype);
    gd_jw_put_str(w, "device_name", be->name);
    gd_jw_put_i64(w, "threads", be->n_threads);
    gd_jw_put_i64(w, "step_tokens", step_tokens);
    gd_jw_put_str(w, "device_fallback", note != NULL ? note->msg : NULL);
    gd_jw_put_str(w, "device_lost", gd_engine_lost(e));
    gd_jw_object_end(w);
    gd_jw_key(w, "memory");
    gd_jw_object(w);
    gd_jw_put_i64(w, "planned_bytes", (int64_t)gd_engine_model(e)->bytes_needed);
    gd_jw_put_i64(w, "weight_bytes", (int64_t)m->weight_bytes);
    gd_jw_put_i64(w, "activation_bytes", (int64_t)m->activation_bytes);
    gd_jw_put_i64(w, "kv_bytes", (int64_t)m->kv_bytes);
    gd_jw_put_i64(w, "kv_blocks", m->kv_blocks);
    gd_jw_put_i64(w, "kv_tokens", (int64_t)m->kv_tokens);
    gd_jw_put_i64(w, "left_bytes", (int64_t)m->left_bytes);
    gd_jw_put_i64(w, "resident_bytes", (int64_t)gd_engine_resident_bytes());
    gd_jw_object_end(w);
}

static void put_point(struct gd_json_writer *w, const struct gd_policy_point *point)
{
    gd_jw_object(w);
    gd_jw_key(w, "name");
    gd_jw_str(w, point->name);
    gd_jw_put_f64(w, "flag", point->flag);
    gd_jw_put_f64(w, "block", point->block);
    gd_jw_key(w, "measured");
    if (point->measured) {
        gd_jw_object(w);
        gd_jw_put_f64(w, "precision", point->precision);
        gd_jw_put_f64(w, "recall", point->recall);
        gd_jw_put_f64(w, "false_positive_rate", point->false_positive_rate);
        gd_jw_object_end(w);
    } else {
        gd_jw_null(w);
    }
    gd_jw_object_end(w);
}

/* The thresholds are those that count. */
static void put_policy(struct gd_json_writer *w, const struct gd_policy *p)
{
    gd_jw_object(w);
    gd_jw_key(w, "name");
    gd_jw_str(w, p->name);
    gd_jw_put_i64(w, "version", p->version);
    gd_jw_put_str(w, "rendering", p->rendering == GD_RENDER_DIALOGUE ? "dialogue" : "mci");
    gd_jw_put_i64(w, "choices", p->n_choices);
    gd_jw_put_f64(w, "flag_threshold", p->flag_threshold);
    gd_jw_put_f64(w, "block_threshold", p->block_threshold);
    gd_jw_key(w, "operating_point");
    gd_jw_str(w, p->point != NULL ? p->point->name : GD_STR("thresholds"));
    gd_jw_key(w, "operating_points");
    gd_jw_array(w);
    for (uint32_t i = 0; i < p->n_points; i++) {
        put_point(w, &p->points[i]);
    }
    gd_jw_array_end(w);
    gd_jw_key(w, "evidence");
    if (p->forest != NULL) {
        gd_jw_object(w);
        gd_jw_put_f64(w, "weight", p->evidence_weight);
        gd_jw_put_f64(w, "model_weight", p->model_weight);
        gd_jw_object_end(w);
    } else {
        gd_jw_null(w);
    }
    gd_jw_object_end(w);
}

static void put_policies(struct gd_json_writer *w, const struct gd_policies *set)
{
    gd_jw_key(w, "policy");
    put_policy(w, set->policy[0]);
    gd_jw_key(w, "policies");
    gd_jw_array(w);
    for (uint32_t i = 0; i < set->n; i++) {
        put_policy(w, set->policy[i]);
    }
    gd_jw_array_end(w);
}

static void put_limits(struct gd_json_writer *w, const struct gd_service *s,
                       const struct gd_engine *e, const struct gd_engine_stats *now)
{
    gd_jw_key(w, "limits");
    gd_jw_object(w);
    gd_jw_put_i64(w, "request_bytes", GD_REQUEST_BYTES_MAX);
    gd_jw_put_i64(w, "request_values", GD_REQUEST_NODES_MAX);
    gd_jw_put_i64(w, "request_depth", GD_REQUEST_DEPTH_MAX);
    gd_jw_put_i64(w, "batch_items", GD_BATCH_ITEMS_MAX);
    gd_jw_put_i64(w, "events", GD_EVENTS_MAX);
    gd_jw_put_i64(w, "tools", GD_TOOLS_MAX);
    gd_jw_put_i64(w, "queue", GD_QUEUE_MAX);
    gd_jw_put_i64(w, "queue_ms_max", s->queue_ms_max);
    if (e != NULL) {
        gd_jw_put_i64(w, "context_tokens", gd_engine_context_max(e));
        gd_jw_put_i64(w, "step_tokens", now->step_tokens);
    }
    gd_jw_put_i64(w, "step_sequences", GD_STEP_SEQS_MAX);
    gd_jw_put_i64(w, "kv_block_tokens", GD_KV_BLOCK_TOKENS);
    gd_jw_put_i64(w, "connections", gd_sockets_max());
    gd_jw_put_i64(w, "headers", GD_HTTP_HEADERS_MAX);
    gd_jw_put_i64(w, "header_bytes", GD_HTTP_HEADER_BYTES_MAX);
    gd_jw_put_i64(w, "deadline_ms_default", GD_DEADLINE_MS_DEFAULT);
    gd_jw_put_i64(w, "deadline_ms_max", GD_DEADLINE_MS_MAX);
    gd_jw_object_end(w);
}

static void put_cache(struct gd_json_writer *w, const struct gd_service *s,
                      const struct gd_engine_stats *now)
{
    gd_jw_key(w, "cache");
    gd_jw_object(w);
    gd_jw_put_bool(w, "prefix", s->prefix_cache);
    gd_jw_put_i64(w, "kv_bytes", (int64_t)now->kv_bytes);
    gd_jw_put_i64(w, "kv_blocks", now->kv.blocks);
    gd_jw_put_i64(w, "block_tokens", GD_KV_BLOCK_TOKENS);
    gd_jw_put_i64(w, "blocks_used", now->kv.used);
    gd_jw_put_i64(w, "blocks_cached", now->kv.cached);
    gd_jw_put_i64(w, "blocks_pinned", now->kv.pinned);
    gd_jw_put_i64(w, "evictions", (int64_t)now->kv.evictions);
    gd_jw_put_i64(w, "verdict_entries", now->verdict_entries);
    gd_jw_put_i64(w, "verdict_used", now->verdict_used);
    gd_jw_object_end(w);
}

static void put_queue(struct gd_json_writer *w, const struct gd_engine *e,
                      const struct gd_engine_stats *now)
{
    gd_jw_key(w, "queue");
    gd_jw_object(w);
    gd_jw_put_i64(w, "waiting", now->waiting);
    gd_jw_put_i64(w, "running", now->running);
    gd_jw_put_f64(w, "estimated_ms", gd_engine_queue_ms(e));
    gd_jw_object_end(w);
}

void gd_info_info(struct gd_service *s, const struct gd_http_request *req,
                  struct gd_http_response *resp)
{
    struct gd_guard *g = atomic_load(&s->guard);
    struct gd_policies *set = g != NULL ? gd_guard_policies(g) : NULL;
    struct gd_json_writer w;
    struct gd_engine *e = NULL;
    struct gd_engine_stats now = {.waiting = 0};
    const char *why = not_ready(s);
    (void)req;
    begin(&w, resp);
    gd_jw_put_str(&w, "name", "guardian");
    gd_jw_put_str(&w, "version", s->version);
    gd_jw_put_str(&w, "status", why == NULL ? "ready" : why);
    gd_jw_put_f64(&w, "uptime_s", (double)(gd_now_ns() - s->start_ns) / 1e9);
    if (g != NULL) {
        e = gd_guard_engine(g);
        gd_engine_stats(e, &now);
        put_model(&w, s, gd_engine_model(e));
        gd_jw_key(&w, "golden");
        gd_golden_write(&s->golden, &w);
        put_backend(&w, e, now.step_tokens);
        put_policies(&w, set);
        put_cache(&w, s, &now);
        put_queue(&w, e, &now);
    }
    put_limits(&w, s, e, &now);
    put_labels(&w, "labels", set);
    end(&w, resp, 200);
    gd_policies_close(set);
}

void gd_info_metrics(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp)
{
    (void)req;
    gd_stats_write(s, &resp->body);
    resp->status = 200;
    resp->content_type = GD_METRICS_CONTENT_TYPE;
}

void gd_info_openapi(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp)
{
    struct gd_json_writer w;
    (void)s;
    (void)req;
    gd_json_writer_init(&w, &resp->body);
    /* without the line break at the end of the file: gd_reply_json adds one */
    gd_jw_raw(&w, (struct gd_str){(const char *)gd_openapi_json, gd_openapi_json_len - 1});
    gd_reply_json(resp, 200, &w);
}
