/* service.h - routes: from a request that passed the gate to an answer; independent of the HTTP
 * library.
 *
 * A service is shared by all connection threads. Its guard appears when the model has loaded; until
 * then, and while the server drains, work is refused with 503. A verdict is always 200; an error
 * never carries an action. */
#ifndef GUARDIAN_SERVICE_H
#define GUARDIAN_SERVICE_H

#include "guardian/gate.h"
#include "guardian/guard.h"

#include <stdatomic.h>

struct gd_batch_pool;

struct gd_service {
    const char *version;
    const char *model_name;           /* served name: last part of the model directory */
    _Atomic(struct gd_guard *) guard; /* not owned; NULL while the model loads */
    atomic_bool draining;
    _Atomic uint32_t in_flight; /* admitted work not yet answered */
    _Atomic size_t body_bytes;  /* held by bodies of admitted work */
    int64_t start_ns;
    int64_t created;              /* seconds since 1970 when the model was ready, or the start */
    _Atomic uint32_t connections; /* open now */
    struct gd_batch_pool *batch;
    struct gd_watch *watch;
};

/* An answer under construction; belongs to its connection's thread. */
struct gd_http_response {
    int status;
    const char *content_type;
    struct gd_buf body;
    const char *allow; /* of a 405 */
    bool close;
    double queue_ms, inference_ms;
    /* for the log line */
    const char *error_code;
    struct gd_judgement judgement;
    bool has_judgement;
    uint32_t n_items, n_item_errors;
};

typedef void (*gd_route_fn)(struct gd_service *s, const struct gd_http_request *req,
                            struct gd_http_response *resp);

struct gd_route {
    const char *path;
    const char *allow; /* methods, as in the Allow header */
    bool post;         /* POST with a JSON body; else GET and HEAD */
    bool work;         /* needs the model: refused while loading and draining */
    gd_route_fn handle;
};

/* Exact match; -1 when there is none. */
int gd_route_find(const char *path);
const struct gd_route *gd_route_at(int index);
size_t gd_route_count(void);

int gd_service_init(struct gd_service *s, const char *version, const char *model_dir,
                    struct gd_err *err);
void gd_service_free(struct gd_service *s);
/* 503 with the reason when work cannot be taken now; else counts it as in flight (gd_service_leave
 * ends that). */
bool gd_service_enter(struct gd_service *s, size_t body_bytes, struct gd_http_response *resp);
void gd_service_leave(struct gd_service *s, size_t body_bytes);

/* reply.c: errors, heads and log lines. field may be NULL. */
void gd_reply_fail(struct gd_http_response *resp, int status, const char *code, const char *field,
                   const char *message);
void gd_reply_err(struct gd_http_response *resp, const struct gd_err *err);
void gd_reply_err_write(struct gd_json_writer *w,
                        const struct gd_err *err); /* {"code","message","field"?} */
void gd_reply_json(struct gd_http_response *resp, int status, struct gd_json_writer *w);
/* The head of the answer, ended by an empty line; total_ms goes into x-total-time. */
void gd_reply_head(const struct gd_http_request *req, const struct gd_http_response *resp,
                   double total_ms, struct gd_buf *out);
void gd_reply_request_id(struct gd_http_request *req);
/* One line of the log: metadata only, nothing of the content. */
void gd_reply_log(const struct gd_http_request *req, const struct gd_http_response *resp,
                  double total_ms);

/* stats.c: the families of /metrics. Registered once in a process, before the server listens. */
int gd_stats_register(const char *version, struct gd_err *err);
void gd_stats_model(const struct gd_guard *g); /* when the model is loaded; no other caller */
void gd_stats_request(int route, int status, double ms); /* route -1: none was found */
void gd_stats_judgement(const struct gd_judgement *j);
void gd_stats_item_error(void);
void gd_stats_write(struct gd_service *s, struct gd_buf *out);

/* batch.c: items of one batch, scored on the caller's thread and the pool's workers at once. */
struct gd_batch_item {
    const struct gd_json *request;
    struct gd_judgement judgement;
    struct gd_err err; /* code 0: there is a verdict */
};
int gd_batch_pool_open(struct gd_batch_pool **out, struct gd_err *err);
void gd_batch_pool_close(struct gd_batch_pool *p);
/* Returns when every item has its judgement or its error. */
void gd_batch_pool_run(struct gd_batch_pool *p, struct gd_guard *g, struct gd_batch_item *items,
                       size_t n_items);

/* watch.c: bodies that must arrive in GD_HTTP_BODY_MS_MAX; any thread. */
struct gd_watch;
struct gd_watch_entry {
    struct gd_watch_entry *next;
    const char *remote; /* numeric; with the two ports it names one connection */
    uint16_t remote_port, local_port;
    int64_t deadline_ns;
    bool late;
};
int gd_watch_open(struct gd_watch **out, struct gd_err *err);
void gd_watch_close(struct gd_watch *w);
void gd_watch_begin(struct gd_watch *w, struct gd_watch_entry *e);
bool gd_watch_end(struct gd_watch *w, struct gd_watch_entry *e); /* false when it was cut */

/* info.c: handlers of the routes that tell about the server */
void gd_info_healthz(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);
void gd_info_readyz(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp);
void gd_info_health(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp);
void gd_info_models(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp);
void gd_info_taxonomy(struct gd_service *s, const struct gd_http_request *req,
                      struct gd_http_response *resp);
void gd_info_info(struct gd_service *s, const struct gd_http_request *req,
                  struct gd_http_response *resp);
void gd_info_version(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);
void gd_info_metrics(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);

#endif
