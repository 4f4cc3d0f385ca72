/* service.h - what all requests share: who may enter, how much work and memory is under way, and an
 * answer while it is made; independent of the HTTP library.
 *
 * A service is shared by all connection threads. Its guard appears when the model has loaded; until
 * then, while the server drains, and when the device is lost, work is refused with 503. A verdict is
 * always 200; an error never carries an action. */
#ifndef GUARDIAN_SERVICE_H
#define GUARDIAN_SERVICE_H

#include "guardian/gate.h"
#include "guardian/golden.h"
#include "guardian/keys.h"
#include "guardian/trace.h"

#include <stdatomic.h>

struct gd_service {
    const char *version;
    const char *model_name;           /* served name: last part of the model directory */
    _Atomic(struct gd_guard *) guard; /* not owned; NULL while the model loads */
    struct gd_golden golden;          /* what was checked of it; set before guard is */
    atomic_bool draining;
    _Atomic uint32_t in_flight;       /* admitted work not yet answered */
    _Atomic size_t body_bytes;        /* held for bodies of admitted work */
    _Atomic uint64_t unqueued_tokens; /* estimate, of work that the engine does not know yet */
    _Atomic uint32_t tokens_per_kib;  /* of bodies, learned; 0: not yet */
    int64_t start_ns;
    int64_t created;          /* seconds since 1970 when the model was ready, or the start */
    uint32_t queue_ms_max;    /* refuse new work when the engine has as much as this to do */
    const char *allow_origin; /* see gd_gate_origin */
    struct gd_keyring *keys;  /* not owned */
    bool prefix_cache;        /* for show */
    bool verdict_cache;       /* whole scores are kept; set before guard is */
    struct gd_watch *watch;
};

/* An answer under construction; belongs to its connection's thread.
 *
 * It goes out whole, when the handler has returned, unless the handler sends it in parts: with
 * status and content type set each gd_http_response.send takes some bytes to the client at once, the
 * head before the first of them, and body stays unused. */
struct gd_http_response {
    int status; /* 499: nobody is there to read it, nothing (more) is sent */
    const char *content_type;
    struct gd_buf body;
    const char *allow; /* of a 405 */
    const char *cache; /* X-Cache, or NULL */
    uint32_t retry_after_s;
    bool close;
    bool chunked;  /* framing of an answer in parts; else it ends with the connection */
    bool streamed; /* the head is out, and parts of the body */
    size_t n_sent; /* bytes of these parts */
    double queue_ms, inference_ms;
    /* set by http.c: false when the client has left; then and later nothing is sent */
    bool (*send)(struct gd_http_response *resp, const char *p, size_t n);
    /* set by http.c: true when a line can be sent without waiting for the client */
    bool (*has_room)(struct gd_http_response *resp);
    void *ctx;
    struct gd_caller caller;
    struct gd_lease lease;    /* of the key that the request came with */
    uint32_t unqueued_tokens; /* of this request, in gd_service.unqueued_tokens */
    /* for the log line */
    struct gd_trace trace; /* of the head; gd_reply_parse may take it from the body */
    const char *error_code;
    struct gd_judgement judgement;
    bool has_judgement;
    uint32_t n_items, n_item_errors;
};

int gd_service_init(struct gd_service *s, const char *version, const char *model_dir,
                    struct gd_err *err);
void gd_service_free(struct gd_service *s);
/* 401 or 429 with the reason when the request may not come; else resp->lease has entered, and the
 * caller is its tenant. To be followed by gd_lease_leave in any case. */
bool gd_service_admit(struct gd_service *s, const struct gd_http_request *req,
                      struct gd_http_response *resp);
/* 503 with the reason when work cannot be taken now; else counts it as in flight, and `held` bytes of
 * memory for its body (gd_service_leave ends both). Judged before the body is read: by the work that
 * would go before a prompt of about its size. An idle engine takes everything. */
bool gd_service_enter(struct gd_service *s, size_t body_bytes, size_t held,
                      struct gd_http_response *resp);
/* So much more memory for the body, or what it is parsed into. False, with nothing held and 503 set, when
 * all bodies together would pass GD_HTTP_BODIES_BYTES_MAX. */
bool gd_service_hold(struct gd_service *s, size_t more, struct gd_http_response *resp);
/* Why the device of the loaded model is lost, or NULL. Lock-free. */
const char *gd_service_lost(struct gd_service *s);
void gd_service_leave(struct gd_service *s, size_t held);
/* The body of this request has come: its work counts from now on, and not while a slow client sends.
 * False, with 503 set, when so much work has come meanwhile that it could not be taken now. */
bool gd_service_coming(struct gd_service *s, struct gd_http_response *resp, size_t body_bytes);
/* The engine has the work of this request, or never will: from now on it counts there. n_tokens of
 * its prompt, 0 when there is none, teach how many tokens a body makes. */
void gd_service_queued(struct gd_service *s, struct gd_http_response *resp, size_t body_bytes,
                       uint32_t n_tokens);
/* Seconds after which a refused client may come again: when what is queued now will be done. */
uint32_t gd_service_retry_after(struct gd_service *s);

#endif
