/* routes.c - the table of routes, and the handler of one verdict. Paths match exactly. */
#include "guardian/routes.h"
#include "guardian/reply.h"
#include "guardian/service.h"
#include "guardian/stats.h"

#include <string.h>

static void handle_guard(struct gd_service *s, const struct gd_http_request *req,
                         struct gd_http_response *resp)
{
    struct gd_guard *g = atomic_load(&s->guard);
    struct gd_arena arena, work;
    struct gd_err err = {0};
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    gd_arena_init(&work, GD_REQUEST_ARENA_BYTES);
    const struct gd_json *root = gd_reply_parse(&arena, req, resp);
    if (root == NULL) {
        goto done;
    }
    struct gd_pending p;
    int rc = gd_guard_begin(g, &work, root, &resp->caller, &p, &err);
    gd_arena_free(&work); /* it may wait for long */
    gd_service_queued(s, resp, req->body.len, rc == 0 ? p.judgement.tokens : 0);
    if (rc == 0) {
        rc = gd_guard_finish(g, &p, &resp->caller, &resp->judgement, &err);
    }
    if (rc != 0) {
        err.code = rc;
        gd_reply_err(resp, &err);
        goto done;
    }
    struct gd_json_writer w;
    gd_json_writer_init(&w, &resp->body);
    gd_judgement_write(g, &resp->judgement, &w);
    gd_reply_json(resp, 200, &w);
    resp->has_judgement = resp->status == 200;
    if (s->verdict_cache) {
        resp->cache = resp->judgement.cache_hit ? "hit" : "miss";
    }
    resp->queue_ms = resp->judgement.queue_ms;
    resp->inference_ms = resp->judgement.prefill_ms;
    gd_stats_judgement(&resp->judgement);
done:
    gd_arena_free(&arena);
}

static const struct gd_route ROUTES[] = {
    {"/v1/guard", "POST", true, true, false, handle_guard},
    {"/v1/guard/batch", "POST", true, true, false, gd_batch_handle},
    {"/healthz", "GET, HEAD", false, false, true, gd_info_healthz},
    {"/readyz", "GET, HEAD", false, false, true, gd_info_readyz},
    {"/health", "GET, HEAD", false, false, true, gd_info_health},
    {"/v1/models", "GET, HEAD", false, false, false, gd_info_models},
    {"/v1/taxonomy", "GET, HEAD", false, false, false, gd_info_taxonomy},
    {"/info", "GET, HEAD", false, false, false, gd_info_info},
    {"/version", "GET, HEAD", false, false, true, gd_info_version},
    {"/openapi.json", "GET, HEAD", false, false, true, gd_info_openapi},
    {"/metrics", "GET, HEAD", false, false, false, gd_info_metrics},
};
#define N_ROUTES (sizeof(ROUTES) / sizeof(ROUTES[0]))

int gd_route_find(const char *path)
{
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (strcmp(ROUTES[i].path, path) == 0) {
            return (int)i;
        }
    }
    return -1;
}

const struct gd_route *gd_route_at(int index)
{
    return &ROUTES[index];
}

size_t gd_route_count(void)
{
    return N_ROUTES;
}
