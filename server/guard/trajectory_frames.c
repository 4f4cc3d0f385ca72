/* trajectory_frames.c - MCP JSON-RPC objects of both protocol eras, mixed with {role, content}
 * objects. See guardian/trajectory.h.
 *
 * Requests are kept by (server, id) until their response; 1 and "1" are two ids. Frames do not say
 * which way they went, and a server's own requests (sampling, elicitation, roots, ping) number on
 * their own: where one id waits in both directions, the shape of the response decides, and whatever
 * a client could take for the result of the call is shown as that, with a doubt: a server that makes
 * a request with the id of a call must not be able to hide its answer. A tools/call
 * that answers an input_required result with the same requestState (or without any, with
 * inputResponses), name and arguments is the same logical call and no new event. */
#include "text.h"
#include "trajectory_build.h"

#include <string.h>

#define FRAMES_MAX (2 * GD_EVENTS_MAX) /* bounds the search for ids */

enum request_kind { REQUEST_CALL, REQUEST_LIST, REQUEST_OTHER, REQUEST_KINDS };

struct request {
    enum request_kind kind;
    const struct gd_json *id;
    struct gd_str server;
    uint32_t event; /* calls */
    bool waiting;
    bool input_required; /* calls: the server asked back and no retry came yet */
    struct gd_str state; /* requestState of that, ptr NULL when there was none */
};

struct frames {
    struct gd_traj_builder *b;
    struct request *requests;
    uint32_t n, cap;
    struct gd_str server; /* of the current frame */
    char path[64];        /* of the current frame */
};

static bool same_id(const struct gd_json *x, const struct gd_json *y)
{
    if (x->type != y->type)
        return false;
    return x->type == GD_JSON_STRING ? gd_str_eq(x->str, y->str) : gd_str_eq(x->raw, y->raw);
}

static int add_request(struct frames *f, enum request_kind kind, const struct gd_json *id,
                       uint32_t event)
{
    if (!id || id->type == GD_JSON_NULL)
        return GD_OK;
    if (id->type != GD_JSON_STRING && id->type != GD_JSON_NUMBER)
        return gd_err_set(f->b->err, GD_EFIELD, "%s.id must be a string or a number, is %s",
                          f->path, gd_json_type_name(id));
    void *requests = f->requests;
    const int rc = gd_tb_grow(f->b, &requests, &f->cap, f->n, sizeof *f->requests);
    if (rc != GD_OK)
        return rc;
    f->requests = requests;
    f->requests[f->n++] = (struct request){
        .kind = kind, .id = id, .server = f->server, .event = event, .waiting = true};
    return GD_OK;
}

/* Responses that only a client gives, to requests of a server. */
static bool is_client_reply(const struct gd_json *result)
{
    return gd_json_is(result, GD_JSON_OBJECT) &&
           (result->n_children == 0 || gd_json_get(result, "action") ||
            gd_json_get(result, "roots") || gd_json_get(result, "role"));
}

/* What a client takes from the result of a tool. */
static bool has_tool_content(const struct gd_json *result)
{
    return gd_json_is(gd_json_get(result, "content"), GD_JSON_ARRAY) ||
           gd_json_get(result, "structuredContent") != NULL;
}

static bool is_list(const struct gd_json *result)
{
    return gd_json_is(gd_json_get(result, "tools"), GD_JSON_ARRAY) && !has_tool_content(result);
}

/* The request that a response answers, newest first, or NULL. */
static struct request *find_request(struct frames *f, const struct gd_json *id,
                                    const struct gd_json *result)
{
    struct request *of[REQUEST_KINDS] = {NULL};
    for (uint32_t i = f->n; i-- > 0 && id;) {
        struct request *r = &f->requests[i];
        if (r->waiting && !of[r->kind] && same_id(r->id, id) && gd_str_eq(r->server, f->server))
            of[r->kind] = r;
    }
    struct request *call = of[REQUEST_CALL], *list = of[REQUEST_LIST], *other = of[REQUEST_OTHER];
    if (call && (list || other)) {
        if (list && is_list(result))
            call = list;
        else if (other && is_client_reply(result) && !has_tool_content(result))
            call = other;
        /* a client that reads on, where its own reply was expected or a list, must be seen to */
        else if (list || is_client_reply(result))
            f->b->out->flags |= GD_TRAJ_F_DOUBT;
        return call;
    }
    if (list && other)
        return is_client_reply(result) ? other : list;
    return call ? call : list ? list : other;
}

/* The call whose input_required result this request answers, or NULL. */
static struct request *find_asked(struct frames *f, const struct gd_json *params,
                                  const struct gd_event *call)
{
    const struct gd_json *state = gd_json_get(params, "requestState");
    const bool has_state = gd_json_is(state, GD_JSON_STRING);
    if (!has_state && !gd_json_get(params, "inputResponses"))
        return NULL;
    for (uint32_t i = f->n; i-- > 0;) {
        struct request *r = &f->requests[i];
        if (!r->input_required || !gd_str_eq(r->server, f->server))
            continue;
        const bool same_state =
            has_state ? r->state.ptr && gd_str_eq(r->state, state->str) : !r->state.ptr;
        const struct gd_event *ev = &f->b->out->events[r->event];
        const bool same_args = ev->payload && call->payload
                                   ? gd_text_json_equal(ev->payload, call->payload)
                                   : ev->payload == call->payload;
        if (same_state && same_args && gd_str_eq(ev->name, call->name))
            return r;
    }
    return NULL;
}

static int read_call(struct frames *f, const struct gd_json *params, struct gd_event *call)
{
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%s.params", f->path);
    if (!gd_json_is(params, GD_JSON_OBJECT))
        return gd_err_set(f->b->err, GD_EFIELD, "%s must be an object, is %s", where,
                          gd_json_type_name(params));
    int rc = gd_tb_envelope(f->b, params, where);
    (void)snprintf(where, sizeof where, "%s.params.", f->path);
    if (rc == GD_OK)
        rc = gd_json_want_str(params, where, "name", true, &call->name, f->b->err);
    (void)snprintf(where, sizeof where, "%s.params.arguments", f->path);
    if (rc == GD_OK)
        rc = gd_tb_arguments(f->b, gd_json_get(params, "arguments"), where, call);
    return rc;
}

static int add_call(struct frames *f, const struct gd_json *frame)
{
    struct gd_event call = {.kind = GD_EVENT_CALL, .call = -1, .server = f->server};
    const struct gd_json *params = gd_json_get(frame, "params");
    const struct gd_json *id = gd_json_get(frame, "id");
    int rc = read_call(f, params, &call);
    if (rc != GD_OK)
        return rc;
    struct request *asked = find_asked(f, params, &call);
    if (asked) {
        asked->input_required = false;
        return add_request(f, REQUEST_CALL, id, asked->event);
    }
    if (id && (id->type == GD_JSON_STRING || id->type == GD_JSON_NUMBER))
        call.call_id = id->type == GD_JSON_STRING ? id->str : id->raw;
    struct gd_event *ev;
    rc = gd_tb_event(f->b, GD_EVENT_CALL, &ev);
    if (rc != GD_OK)
        return rc;
    *ev = call;
    rc = gd_tb_open(f->b);
    return rc == GD_OK ? add_request(f, REQUEST_CALL, id, f->b->out->n_events - 1) : rc;
}

static int add_method(struct frames *f, const struct gd_json *frame, const struct gd_json *method)
{
    if (method->type != GD_JSON_STRING)
        return gd_err_set(f->b->err, GD_EFIELD, "%s.method must be a string, is %s", f->path,
                          gd_json_type_name(method));
    if (gd_str_eqz(method->str, "tools/call"))
        return add_call(f, frame);
    const bool list = gd_str_eqz(method->str, "tools/list");
    return add_request(f, list ? REQUEST_LIST : REQUEST_OTHER, gd_json_get(frame, "id"), 0);
}

static int add_result(struct frames *f, const struct gd_json *frame, int32_t call)
{
    struct gd_traj_builder *b = f->b;
    const struct gd_json *error = gd_json_get(frame, "error");
    struct gd_event *ev;
    int rc = gd_tb_event(b, GD_EVENT_RESULT, &ev);
    if (rc != GD_OK)
        return rc;
    ev->call = call;
    ev->server = f->server;
    if (call >= 0) {
        ev->name = b->out->events[call].name;
        ev->call_id = b->out->events[call].call_id;
        gd_tb_answered(b, (uint32_t)call);
    }
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%s.%s", f->path, error ? "error" : "result");
    if (error)
        return gd_tb_rpc_error(b, error, where, ev);
    return gd_tb_tool_result(b, gd_json_get(frame, "result"), where, ev);
}

static int add_list(struct frames *f, const struct gd_json *result)
{
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%s.result.tools", f->path);
    const struct gd_json *tools = gd_json_get(result, "tools");
    if (!tools)
        return GD_OK; /* an error, or an empty answer */
    const struct gd_str server = f->b->server;
    f->b->server = f->server;
    const int rc = gd_tb_catalogue(f->b, tools, where, true);
    f->b->server = server;
    return rc;
}

/* A response to a request that was not recorded: by its shape. */
static int add_unasked(struct frames *f, const struct gd_json *frame, const struct gd_json *result)
{
    if (gd_json_is(gd_json_get(result, "tools"), GD_JSON_ARRAY))
        return add_list(f, result);
    const bool handshake = gd_json_get(result, "protocolVersion") ||
                           gd_json_get(result, "supportedVersions") ||
                           gd_json_get(result, "capabilities");
    const bool tool = gd_json_get(result, "content") || gd_json_get(result, "structuredContent");
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): gd_json_is is false for NULL */
    if (!tool && (handshake || (gd_json_is(result, GD_JSON_OBJECT) && result->n_children == 0)))
        return GD_OK;
    return add_result(f, frame, -1);
}

static int add_response(struct frames *f, const struct gd_json *frame, const struct gd_json *result)
{
    struct request *r = find_request(f, gd_json_get(frame, "id"), result);
    if (!r)
        return add_unasked(f, frame, result);
    r->waiting = false;
    gd_tb_payload(f->b, result);
    if (r->kind == REQUEST_OTHER)
        return GD_OK;
    if (r->kind == REQUEST_LIST)
        return has_tool_content(result) ? add_result(f, frame, -1) : add_list(f, result);
    const struct gd_json *type = gd_json_get(result, "resultType");
    if (gd_json_is(type, GD_JSON_STRING) && gd_str_eqz(type->str, "input_required") &&
        !has_tool_content(result)) {
        const struct gd_json *state = gd_json_get(result, "requestState");
        r->input_required = true;
        r->state = gd_json_is(state, GD_JSON_STRING) ? state->str : (struct gd_str){NULL, 0};
        return GD_OK;
    }
    return add_result(f, frame, (int32_t)r->event);
}

static int add_frame(struct frames *f, const struct gd_json *frame)
{
    struct gd_traj_builder *b = f->b;
    if (!gd_json_is(frame, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an object, is %s", f->path,
                          gd_json_type_name(frame));
    int rc = gd_tb_envelope(b, frame, f->path);
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%s.", f->path);
    f->server = b->server;
    if (rc == GD_OK)
        rc = gd_json_want_str(frame, where, "server", false, &f->server, b->err);
    if (rc != GD_OK)
        return rc;
    const struct gd_json *method = gd_json_get(frame, "method");
    const struct gd_json *result = gd_json_get(frame, "result");
    const struct gd_json *error = gd_json_get(frame, "error");
    const struct gd_json *role = gd_json_get(frame, "role");
    if (!!method + !!result + !!error + !!role != 1)
        return gd_err_set(b->err, GD_EFIELD,
                          "%s must have exactly one of 'method', 'result', 'error' and 'role'",
                          f->path);
    if (role && (gd_json_get(frame, "jsonrpc") || gd_json_get(frame, "id")))
        return gd_err_set(b->err, GD_EFIELD,
                          "%s has 'role' and is a JSON-RPC message: what was said is told in an "
                          "object of its own",
                          f->path);
    if (role)
        return gd_tb_message(b, frame, f->path);
    return method ? add_method(f, frame, method) : add_response(f, frame, result);
}

/* Array elements: a JSON-RPC batch of 2025-03-26. */
static int add_frame_or_batch(struct frames *f, const struct gd_json *frame, uint32_t i)
{
    (void)snprintf(f->path, sizeof f->path, "frames[%u]", (unsigned)i);
    if (frame->type != GD_JSON_ARRAY)
        return add_frame(f, frame);
    uint32_t k = 0;
    const uint32_t first = f->b->out->n_events;
    for (const struct gd_json *m = frame->child; m; m = m->next, k++) {
        (void)snprintf(f->path, sizeof f->path, "frames[%u][%u]", (unsigned)i, (unsigned)k);
        const int rc = add_frame(f, m);
        if (rc != GD_OK)
            return rc;
    }
    bool calls = false, results = false;
    for (uint32_t e = first; e < f->b->out->n_events; e++) {
        const struct gd_event *ev = &f->b->out->events[e];
        calls = calls || ev->kind == GD_EVENT_CALL;
        results = results || (ev->kind == GD_EVENT_RESULT && ev->call < (int64_t)first);
    }
    if (calls && results)
        return gd_err_set(
            f->b->err, GD_EFIELD,
            "frames[%u] holds a tools/call beside the result of an earlier one: nobody "
            "sends both at once",
            (unsigned)i);
    return GD_OK;
}

int gd_tb_frames(struct gd_traj_builder *b, const struct gd_json *frames)
{
    struct frames f = {.b = b};
    if (frames->type != GD_JSON_ARRAY)
        return gd_err_set(b->err, GD_EFIELD, "field 'frames' must be an array, is %s",
                          gd_json_type_name(frames));
    uint32_t i = 0;
    uint32_t n = 0;
    for (const struct gd_json *m = frames->child; m; m = m->next, i++) {
        n += m->type == GD_JSON_ARRAY ? m->n_children : 1;
        if (n > FRAMES_MAX)
            return gd_err_set(b->err, GD_ELIMIT, "there are more than %d frames", FRAMES_MAX);
        const int rc = add_frame_or_batch(&f, m, i);
        if (rc != GD_OK)
            return rc;
    }
    return GD_OK;
}
