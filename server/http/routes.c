/* routes.c - the table of routes, admission of work, and the two handlers that judge.
 *
 * Paths match exactly. Work (the routes that need the model) is admitted or refused before its body
 * is read: 503 while the model loads, while the server drains, and when the bodies held at one time
 * would pass their limit. */
#include "guardian/service.h"

#include <string.h>
#include <time.h>

/* Parses the body and runs `judge` on it with an arena that lives as long as the answer needs it.
 */
static const struct gd_json *parse_body(struct gd_arena *a, const struct gd_http_request *req,
                                        struct gd_http_response *resp)
{
    const struct gd_json *root = NULL;
    struct gd_err err = {0};
    int rc = gd_json_parse(a, req->body, &GD_JSON_REQUEST_LIMITS, &root, &err);
    if (rc != 0) {
        gd_reply_err(resp, &err);
        return NULL;
    }
    return root;
}

static void handle_guard(struct gd_service *s, const struct gd_http_request *req,
                         struct gd_http_response *resp)
{
    struct gd_guard *g = atomic_load(&s->guard);
    struct gd_arena arena;
    struct gd_err err = {0};
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    const struct gd_json *root = parse_body(&arena, req, resp);
    if (root == NULL) {
        goto done;
    }
    int rc = gd_guard_judge(g, &arena, root, &resp->judgement, &err);
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
    resp->queue_ms = resp->judgement.queue_ms;
    resp->inference_ms = resp->judgement.prefill_ms;
    gd_stats_judgement(&resp->judgement);
done:
    gd_arena_free(&arena);
}

/* The array of a batch: the body itself or its member `items`. NULL with the answer set when there
 * is none. */
static const struct gd_json *batch_array(const struct gd_json *root, struct gd_http_response *resp)
{
    const struct gd_json *array = root;
    uint32_t n_named = 0;
    if (gd_json_is(root, GD_JSON_OBJECT)) {
        array = gd_json_get(root, "items");
        for (const struct gd_json *m = root->child; m != NULL; m = m->next) {
            n_named += gd_str_eqz(m->key, "items") ? 1 : 0;
        }
    }
    if (!gd_json_is(array, GD_JSON_ARRAY) || n_named > 1) {
        gd_reply_fail(resp, 422, gd_status_wire(GD_EFIELD), "items",
                      "a batch is an array of requests, or an object with one such member 'items'");
        return NULL;
    }
    if (array->n_children == 0 || array->n_children > GD_BATCH_ITEMS_MAX) {
        char message[128];
        snprintf(message, sizeof(message), "field 'items' must have 1 to %d elements, has %u",
                 GD_BATCH_ITEMS_MAX, (unsigned)array->n_children);
        bool empty = array->n_children == 0;
        gd_reply_fail(resp, empty ? 422 : 413, gd_status_wire(empty ? GD_EFIELD : GD_ELIMIT),
                      "items", message);
        return NULL;
    }
    return array;
}

static void write_batch(const struct gd_guard *g, const struct gd_batch_item *items,
                        struct gd_http_response *resp)
{
    struct gd_json_writer w;
    gd_json_writer_init(&w, &resp->body);
    gd_jw_object(&w);
    gd_jw_key(&w, "object");
    gd_jw_strz(&w, "list");
    gd_jw_key(&w, "data");
    gd_jw_array(&w);
    for (uint32_t i = 0; i < resp->n_items; i++) {
        if (items[i].err.code == 0) {
            gd_judgement_write(g, &items[i].judgement, &w);
            gd_stats_judgement(&items[i].judgement);
            continue;
        }
        gd_jw_object(&w);
        gd_jw_key(&w, "error");
        gd_reply_err_write(&w, &items[i].err);
        gd_jw_key(&w, "index");
        gd_jw_i64(&w, i);
        gd_jw_object_end(&w);
        resp->n_item_errors++;
        gd_stats_item_error();
    }
    gd_jw_array_end(&w);
    gd_jw_object_end(&w);
    gd_reply_json(resp, 200, &w);
}

static void handle_batch(struct gd_service *s, const struct gd_http_request *req,
                         struct gd_http_response *resp)
{
    struct gd_guard *g = atomic_load(&s->guard);
    struct gd_batch_item *items = NULL;
    struct gd_arena arena;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    const struct gd_json *root = parse_body(&arena, req, resp);
    const struct gd_json *array = root != NULL ? batch_array(root, resp) : NULL;
    if (array == NULL) {
        goto done;
    }
    items = calloc(array->n_children, sizeof(*items));
    if (items == NULL) {
        gd_reply_fail(resp, 503, gd_status_wire(GD_ENOMEM), NULL, gd_status_message(GD_ENOMEM));
        goto done;
    }
    for (const struct gd_json *v = array->child; v != NULL; v = v->next) {
        items[resp->n_items++].request = v;
    }
    gd_batch_pool_run(s->batch, g, items, resp->n_items);
    write_batch(g, items, resp);
done:
    free(items);
    gd_arena_free(&arena);
}

static const struct gd_route ROUTES[] = {
    {"/v1/guard", "POST", true, true, handle_guard},
    {"/v1/guard/batch", "POST", true, true, handle_batch},
    {"/healthz", "GET, HEAD", false, false, gd_info_healthz},
    {"/readyz", "GET, HEAD", false, false, gd_info_readyz},
    {"/health", "GET, HEAD", false, false, gd_info_health},
    {"/v1/models", "GET, HEAD", false, false, gd_info_models},
    {"/v1/taxonomy", "GET, HEAD", false, false, gd_info_taxonomy},
    {"/info", "GET, HEAD", false, false, gd_info_info},
    {"/version", "GET, HEAD", false, false, gd_info_version},
    {"/metrics", "GET, HEAD", false, false, gd_info_metrics},
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

bool gd_service_enter(struct gd_service *s, size_t body_bytes, struct gd_http_response *resp)
{
    /* Counted first, then checked: a drain that begins in between sees the work or refuses it. */
    atomic_fetch_add(&s->in_flight, 1);
    size_t held = atomic_fetch_add(&s->body_bytes, body_bytes);
    if (atomic_load(&s->draining)) {
        gd_reply_fail(resp, 503, gd_status_wire(GD_EDRAINING), NULL,
                      gd_status_message(GD_EDRAINING));
    } else if (atomic_load(&s->guard) == NULL) {
        gd_reply_fail(resp, 503, "loading", NULL, "the model is loading");
    } else if (held + body_bytes > GD_HTTP_BODIES_BYTES_MAX) {
        gd_reply_fail(resp, 503, gd_status_wire(GD_EBUSY), NULL,
                      "too many request bodies are held at one time");
    } else {
        return true;
    }
    gd_service_leave(s, body_bytes);
    return false;
}

void gd_service_leave(struct gd_service *s, size_t body_bytes)
{
    atomic_fetch_sub(&s->body_bytes, body_bytes);
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
    int rc = gd_watch_open(&s->watch, err);
    return rc != 0 ? rc : gd_batch_pool_open(&s->batch, err);
}

void gd_service_free(struct gd_service *s)
{
    gd_batch_pool_close(s->batch);
    gd_watch_close(s->watch);
    free((void *)(uintptr_t)s->model_name);
}
