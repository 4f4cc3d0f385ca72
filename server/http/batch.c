/* batch.c - /v1/guard/batch: many requests, one answer.
 *
 * All items are begun before the first is finished, so that the engine has them together: it packs
 * them into steps and computes once what they share. Where the queue has no room for that, the oldest
 * is finished before another is begun. They are told in order: as elements of one list, or as lines
 * that are sent one by one. A client that does not read its lines as they come waits for all of them
 * to be finished: it must not hold places in the queue. When the client leaves, what was begun is
 * canceled. A list under way when the device is lost fails as a whole: nothing is 200 after that. */
#include "guardian/reply.h"
#include "guardian/routes.h"
#include "guardian/service.h"
#include "guardian/stats.h"

#include <string.h>

struct item {
    struct gd_pending pending;
    struct gd_judgement judgement; /* when it is finished */
    struct gd_err err;             /* code 0: it was begun, and did not fail since */
    uint32_t tokens;               /* of its prompt */
    bool finished;
};

struct batch {
    struct gd_service *service;
    struct gd_guard *guard;
    struct gd_http_response *resp;
    struct item *items;
    uint32_t n_items, n_finished, n_told; /* begun; of these finished, or failed; told */
    uint32_t n_queued;                    /* tokens of those that are begun and not finished */
    bool lines;
    struct gd_json_writer list; /* on resp->body; not for lines */
};

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

/* Waits for an item that was begun and is not finished. */
static void finish(struct batch *b, struct item *it)
{
    if (it->err.code == 0 && !it->finished) {
        it->err.code =
            gd_guard_finish(b->guard, &it->pending, &b->resp->caller, &it->judgement, &it->err);
        it->finished = true;
    }
}

/* The oldest that is not finished. False when there is none, or it says that the client has left. */
static bool finish_oldest(struct batch *b)
{
    while (b->n_finished < b->n_items) {
        struct item *it = &b->items[b->n_finished++];
        if (it->err.code == 0 && !it->finished) {
            finish(b, it);
            b->n_queued -= it->tokens;
            return it->err.code != GD_ECANCELED;
        }
    }
    return false;
}

/* Refused for want of a place, not for a deadline, of which the engine says how long it would take. */
static bool is_full(const struct gd_err *err)
{
    return err->code == GD_EBUSY && strcmp(err->msg, gd_status_message(GD_EBUSY)) == 0;
}

/* Begins an item, behind those of this batch that are in the queue: others get their turn in between.
 * Where there is no place, or others took it meanwhile, the oldest is finished first; a batch without
 * any in the queue is like everybody else. */
static void begin_item(struct batch *b, const struct gd_json *v, struct item *it)
{
    struct gd_caller caller = b->resp->caller;
    do {
        struct gd_arena arena;
        while (b->n_queued > 0 && !gd_engine_has_room(gd_guard_engine(b->guard)) &&
               finish_oldest(b)) {
        }
        caller.n_before = b->n_queued;
        gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
        it->err.code = gd_guard_begin(b->guard, &arena, v, &caller, &it->pending, &it->err);
        gd_arena_free(&arena);
    } while (is_full(&it->err) && b->n_queued > 0 && finish_oldest(b));
    if (it->err.code == 0) {
        it->tokens = it->pending.judgement.tokens;
        b->n_queued += it->tokens;
    }
}

static void begin_items(struct batch *b, const struct gd_json *array)
{
    const struct gd_caller *caller = &b->resp->caller;
    bool there = true;
    for (const struct gd_json *v = array->child; v != NULL && there; v = v->next) {
        begin_item(b, v, &b->items[b->n_items]);
        b->n_items++;
        there = !(caller->gone != NULL && caller->gone(caller->ctx));
    }
}

static void write_item(const struct batch *b, uint32_t index, struct gd_json_writer *w)
{
    const struct gd_err *err = &b->items[index].err;
    if (err->code == 0) {
        gd_judgement_write(b->guard, &b->items[index].judgement, w);
        return;
    }
    gd_jw_object(w);
    gd_jw_key(w, "error");
    gd_reply_err_write(w, err);
    gd_jw_key(w, "index");
    gd_jw_i64(w, index);
    gd_jw_object_end(w);
}

/* False when the client has left. */
static bool send_line(struct batch *b, uint32_t index)
{
    struct gd_buf line;
    struct gd_json_writer w;
    gd_buf_init(&line, GD_HTTP_ANSWER_BYTES_MAX);
    gd_json_writer_init(&w, &line);
    write_item(b, index, &w);
    if (line.failed != 0) {
        int rc = line.failed;
        gd_buf_free(&line);
        gd_buf_init(&line, GD_HTTP_ANSWER_BYTES_MAX);
        gd_json_writer_init(&w, &line);
        b->items[index].err.code = GD_EINTERNAL;
        snprintf(b->items[index].err.msg, sizeof(b->items[index].err.msg),
                 "the answer could not be written: %s", gd_status_message(rc));
        write_item(b, index, &w);
    }
    gd_buf_z(&line, "\n");
    while (!b->resp->has_room(b->resp) && finish_oldest(b)) {
    }
    const bool sent = line.failed == 0 && b->resp->send(b->resp, line.data, line.len);
    gd_buf_free(&line);
    return sent;
}

/* Finishes one item and tells it; false when the client has left. */
static bool tell_next(struct batch *b)
{
    const uint32_t index = b->n_told++;
    struct item *it = &b->items[index];
    finish(b, it);
    bool there = it->err.code != GD_ECANCELED;
    if (there && b->lines) {
        there = send_line(b, index);
    } else if (there) {
        write_item(b, index, &b->list);
    }
    if (there && it->err.code == 0) {
        gd_stats_judgement(&it->judgement);
    } else if (there) {
        b->resp->n_item_errors++;
        gd_stats_item_error();
    }
    return there;
}

static void cancel_rest(struct batch *b)
{
    const struct gd_err gone = {.code = GD_ECANCELED};
    for (; b->n_told < b->n_items; b->n_told++) {
        struct item *it = &b->items[b->n_told];
        if (it->err.code == 0 && !it->finished) {
            gd_guard_cancel(b->guard, &it->pending);
        }
    }
    gd_reply_err(b->resp, &gone);
}

static void run(struct batch *b, const struct gd_json *array)
{
    bool there = true;
    begin_items(b, array);
    gd_service_queued(b->service, b->resp, 0, 0);
    b->resp->n_items = b->n_items;
    if (b->lines) {
        b->resp->status = 200;
        b->resp->content_type = "application/x-ndjson";
    } else {
        gd_json_writer_init(&b->list, &b->resp->body);
        gd_jw_object(&b->list);
        gd_jw_put_str(&b->list, "object", "list");
        gd_jw_key(&b->list, "data");
        gd_jw_array(&b->list);
    }
    while (there && b->n_told < b->n_items) {
        there = tell_next(b);
    }
    there = there && b->n_items == array->n_children;
    const char *lost = gd_engine_lost(gd_guard_engine(b->guard));
    if (!there) {
        cancel_rest(b);
    } else if (!b->lines && lost != NULL) {
        gd_reply_fail(b->resp, gd_status_http(GD_EBACKEND), gd_status_wire(GD_EBACKEND), NULL,
                      lost);
    } else if (!b->lines) {
        gd_jw_array_end(&b->list);
        gd_jw_object_end(&b->list);
        gd_reply_json(b->resp, 200, &b->list);
    }
}

void gd_batch_handle(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp)
{
    struct batch b = {.service = s, .guard = atomic_load(&s->guard), .resp = resp};
    struct gd_arena arena;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    const struct gd_json *root = gd_reply_parse(&arena, req, resp);
    const struct gd_json *array = root != NULL ? batch_array(root, resp) : NULL;
    if (array == NULL) {
        goto done;
    }
    gd_lease_charge(&resp->lease, array->n_children - 1, req->start_ns);
    b.items = calloc(array->n_children, sizeof(*b.items));
    if (b.items == NULL) {
        gd_reply_fail(resp, 503, gd_status_wire(GD_ENOMEM), NULL, gd_status_message(GD_ENOMEM));
        goto done;
    }
    b.lines = gd_accept_prefers(req, "application/x-ndjson", "application/json");
    run(&b, array);
done:
    free(b.items);
    gd_arena_free(&arena);
}
