/* service.c - admission: work is admitted or refused before its body is read, and once more when the
 * body has come. 503 while the model loads, while the server drains, from when the device is lost, when
 * the bodies held at one time would pass their limit, and when the engine has so much to do that a
 * verdict would come too late. */
#include "guardian/service.h"
#include "guardian/clock.h"
#include "guardian/reply.h"
#include "guardian/stats.h"
#include "guardian/watch.h"

#include <math.h>
#include <openssl/crypto.h>
#include <string.h>
#include <time.h>

/* Tokens that a KiB of a body makes, until it is learned what they are. */
#define TOKENS_PER_KIB 256
#define LEARN_BYTES                                                                                \
    16384 /* a body of so many bytes counts as much as all that was learned before */
/* What has come and is not queued may claim this share of the longest wait: many bodies that turn out
 * to be nothing keep nobody from an engine with little to do. */
#define COMING_SHARE 0.9

/* Of one prompt of a body of this size, which is cut to the context. */
static uint32_t tokens_of(const struct gd_service *s, const struct gd_engine *e, size_t body_bytes)
{
    const uint32_t learned = atomic_load(&s->tokens_per_kib), most = gd_engine_context_max(e);
    const uint64_t n = (uint64_t)body_bytes * (learned > 0 ? learned : TOKENS_PER_KIB) / 1024;
    return n < most ? (uint32_t)n : most;
}

void gd_service_queued(struct gd_service *s, struct gd_http_response *resp, size_t body_bytes,
                       uint32_t n_tokens)
{
    atomic_fetch_sub(&s->unqueued_tokens, resp->unqueued_tokens);
    resp->unqueued_tokens = 0;
    if (body_bytes > 0 && n_tokens > 0) {
        const double now = (double)n_tokens * 1024 / (double)body_bytes;
        const double old = (double)atomic_load(&s->tokens_per_kib);
        const double share = (double)body_bytes / ((double)body_bytes + LEARN_BYTES);
        const double next = old > 0 ? old + (now - old) * share : now;
        atomic_store(&s->tokens_per_kib, next < 1 ? 1 : next < 16384 ? (uint32_t)next : 16384);
    }
}

/* False when what goes before a prompt of about this size takes too long. What others have sent but
 * a prompt of this size would overtake does not count. */
static bool fits_queue(const struct gd_service *s, struct gd_engine *e, size_t body_bytes)
{
    const double most_ms = (double)s->queue_ms_max;
    const uint64_t others = atomic_load(&s->unqueued_tokens);
    const double others_ms =
        gd_engine_cost_ms(e, others < UINT32_MAX ? (uint32_t)others : UINT32_MAX);
    const double coming_ms =
        others_ms < COMING_SHARE * most_ms ? others_ms : COMING_SHARE * most_ms;
    const double queue_ms = gd_engine_queue_ms(e) + coming_ms;
    if (queue_ms <= 0.0 || queue_ms < most_ms) {
        return true;
    }
    return gd_engine_ahead_ms(e, tokens_of(s, e, body_bytes)) + coming_ms < most_ms;
}

#define TOO_MUCH_WAITS "the work that waits takes longer than the server lets a request wait"

bool gd_service_coming(struct gd_service *s, struct gd_http_response *resp, size_t body_bytes)
{
    struct gd_guard *g = atomic_load(&s->guard);
    if (g != NULL && !fits_queue(s, gd_guard_engine(g), body_bytes)) {
        gd_reply_fail(resp, 503, gd_status_wire(GD_EBUSY), NULL, TOO_MUCH_WAITS);
        gd_stats_reject(GD_REJECT_QUEUE_TIME);
        return false;
    }
    resp->unqueued_tokens = g != NULL ? tokens_of(s, gd_guard_engine(g), body_bytes) : 0;
    atomic_fetch_add(&s->unqueued_tokens, resp->unqueued_tokens);
    return true;
}

const char *gd_service_lost(struct gd_service *s)
{
    struct gd_guard *g = atomic_load(&s->guard);
    return g != NULL ? gd_engine_lost(gd_guard_engine(g)) : NULL;
}

bool gd_service_admit(struct gd_service *s, const struct gd_http_request *req,
                      struct gd_http_response *resp)
{
    struct gd_str key;
    const enum gd_auth how = gd_auth_present(req, &key);
    enum gd_key_answer answer = GD_KEY_UNKNOWN;
    if (how == GD_AUTH_KEY || !gd_keyring_required(s->keys)) {
        answer = gd_keyring_enter(s->keys, key, req->start_ns, &resp->lease);
        OPENSSL_cleanse((char *)(uintptr_t)key.ptr, key.len); /* where the library read it */
    }
    if (answer == GD_KEY_OK) {
        resp->caller.salt = resp->lease.salt;
        resp->caller.policies = gd_lease_policies(&resp->lease, &resp->caller.n_policies);
        return true;
    }
    const char *message = gd_auth_message(how, answer);
    if (answer == GD_KEY_UNKNOWN) {
        gd_reply_fail(resp, 401, "unauthorized", NULL, message);
        return false;
    }
    gd_reply_fail(resp, 429, "rate_limited", NULL, message);
    resp->retry_after_s = resp->lease.retry_after_s;
    gd_stats_reject(GD_REJECT_RATE);
    return false;
}

#define TOO_MANY_BODIES "too many request bodies are held at one time"

bool gd_service_enter(struct gd_service *s, size_t body_bytes, size_t held,
                      struct gd_http_response *resp)
{
    /* Counted first, then checked: a drain that begins in between sees the work or refuses it. */
    atomic_fetch_add(&s->in_flight, 1);
    const size_t before = atomic_fetch_add(&s->body_bytes, held);
    struct gd_guard *g = atomic_load(&s->guard);
    enum gd_reject why = GD_REJECT_LOADING;
    const char *code = gd_status_wire(GD_EBUSY), *message = gd_service_lost(s);
    if (message != NULL) {
        why = GD_REJECT_DEVICE_LOST;
        code = gd_status_wire(GD_EBACKEND);
    } else if (atomic_load(&s->draining)) {
        why = GD_REJECT_DRAINING;
        code = gd_status_wire(GD_EDRAINING);
        message = gd_status_message(GD_EDRAINING);
    } else if (g == NULL) {
        code = "loading";
        message = "the model is loading";
    } else if (before + held > GD_HTTP_BODIES_BYTES_MAX) {
        why = GD_REJECT_MEMORY;
        message = TOO_MANY_BODIES;
    } else if (!fits_queue(s, gd_guard_engine(g), body_bytes)) {
        why = GD_REJECT_QUEUE_TIME;
        message = TOO_MUCH_WAITS;
    } else {
        return true;
    }
    gd_reply_fail(resp, 503, code, NULL, message);
    gd_stats_reject(why);
    gd_service_leave(s, held);
    return false;
}

bool gd_service_hold(struct gd_service *s, size_t more, struct gd_http_response *resp)
{
    if (atomic_fetch_add(&s->body_bytes, more) + more <= GD_HTTP_BODIES_BYTES_MAX) {
        return true;
    }
    atomic_fetch_sub(&s->body_bytes, more);
    gd_reply_fail(resp, 503, gd_status_wire(GD_EBUSY), NULL, TOO_MANY_BODIES);
    gd_stats_reject(GD_REJECT_MEMORY);
    return false;
}

uint32_t gd_service_retry_after(struct gd_service *s)
{
    struct gd_guard *g = atomic_load(&s->guard);
    const double ms = g != NULL ? gd_engine_queue_ms(gd_guard_engine(g)) : 0.0;
    if (ms >= GD_HTTP_RETRY_AFTER_S_MAX * 1000.0) {
        return GD_HTTP_RETRY_AFTER_S_MAX;
    }
    const uint32_t s_up = (uint32_t)ceil(ms / 1000.0);
    return s_up > 0 ? s_up : 1;
}

void gd_service_leave(struct gd_service *s, size_t held)
{
    atomic_fetch_sub(&s->body_bytes, held);
    atomic_fetch_sub(&s->in_flight, 1);
}

int gd_service_init(struct gd_service *s, const char *version, const char *model_dir,
                    struct gd_err *err)
{
    size_t len = strlen(model_dir);
    while (len > 0 && model_dir[len - 1] == '/') {
        len--;
    }
    size_t start = len;
    while (start > 0 && model_dir[start - 1] != '/') {
        start--;
    }
    s->version = version;
    s->model_name = len > start ? strndup(model_dir + start, len - start) : strdup("guardian");
    if (s->model_name == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the service");
    }
    s->start_ns = gd_now_ns();
    s->created = (int64_t)time(NULL);
    return gd_watch_open(&s->watch, err);
}

void gd_service_free(struct gd_service *s)
{
    gd_watch_close(s->watch);
    free((void *)(uintptr_t)s->model_name);
}
