/* trajectory_messages.c - the OpenAI chat form. See guardian/trajectory.h.
 *
 * A result belongs to the oldest waiting call with its tool_call_id; one without id to the oldest
 * waiting call of its name, or, without name too, to the oldest waiting call. A result that finds
 * no call stands alone (call -1). */
#include "text.h"
#include "trajectory_build.h"

#include <string.h>

/* One function object {name, arguments}. */
static int add_call(struct gd_traj_builder *b, const struct gd_json *f, struct gd_str id,
                    const char *path)
{
    if (!gd_json_is(f, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an object, is %s", path,
                          gd_json_type_name(f));
    int rc = gd_tb_envelope(b, f, path);
    struct gd_event *ev;
    if (rc == GD_OK)
        rc = gd_tb_event(b, GD_EVENT_CALL, &ev);
    if (rc != GD_OK)
        return rc;
    char where[GD_PATH_MAX + 16];
    (void)snprintf(where, sizeof where, "%s.", path);
    ev->call_id = id;
    ev->server = b->server;
    rc = gd_json_want_str(f, where, "name", true, &ev->name, b->err);
    (void)snprintf(where, sizeof where, "%s.arguments", path);
    if (rc == GD_OK)
        rc = gd_tb_arguments(b, gd_json_get(f, "arguments"), where, ev);
    return rc == GD_OK ? gd_tb_open(b) : rc;
}

static int add_tool_call(struct gd_traj_builder *b, const struct gd_json *call, const char *path)
{
    if (!gd_json_is(call, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an object, is %s", path,
                          gd_json_type_name(call));
    char where[GD_PATH_MAX + 16];
    (void)snprintf(where, sizeof where, "%s.", path);
    struct gd_str id = {"", 0};
    int rc = gd_tb_envelope(b, call, path);
    if (rc == GD_OK)
        rc = gd_json_want_str(call, where, "id", false, &id, b->err);
    if (rc != GD_OK)
        return rc;
    (void)snprintf(where, sizeof where, "%s.function", path);
    return add_call(b, gd_json_get(call, "function"), id, where);
}

static int add_tool_calls(struct gd_traj_builder *b, const struct gd_json *calls, const char *path)
{
    if (!calls || calls->type == GD_JSON_NULL)
        return GD_OK;
    if (calls->type != GD_JSON_ARRAY)
        return gd_err_set(b->err, GD_EFIELD, "%s.tool_calls must be an array, is %s", path,
                          gd_json_type_name(calls));
    uint32_t i = 0;
    for (const struct gd_json *call = calls->child; call; call = call->next, i++) {
        char where[GD_PATH_MAX];
        (void)snprintf(where, sizeof where, "%.32s.tool_calls[%u]", path, (unsigned)i);
        const int rc = add_tool_call(b, call, where);
        if (rc != GD_OK)
            return rc;
    }
    return GD_OK;
}

static int add_assistant(struct gd_traj_builder *b, const struct gd_json *msg, struct gd_str text,
                         const char *path)
{
    int rc = gd_tb_text(b, GD_EVENT_ASSISTANT, text);
    if (rc == GD_OK)
        rc = add_tool_calls(b, gd_json_get(msg, "tool_calls"), path);
    const struct gd_json *legacy = gd_json_get(msg, "function_call");
    if (rc != GD_OK || !legacy || legacy->type == GD_JSON_NULL)
        return rc;
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%.32s.function_call", path);
    return add_call(b, legacy, (struct gd_str){"", 0}, where);
}

/* Event index of the waiting call that a result belongs to, or -1. */
static int32_t find_call(const struct gd_traj_builder *b, struct gd_str id, struct gd_str name)
{
    for (uint32_t i = 0; i < b->n_open; i++) {
        const struct gd_event *call = &b->out->events[b->open[i]];
        const bool match = id.len     ? gd_str_eq(call->call_id, id)
                           : name.len ? gd_str_eq(call->name, name)
                                      : true;
        if (match)
            return (int32_t)b->open[i];
    }
    return -1;
}

/* Content of a tool message: text, parts, or (as some clients send it) the structured result
 * itself. */
static int read_result(struct gd_traj_builder *b, const struct gd_json *msg, const char *path,
                       struct gd_event *ev)
{
    const struct gd_json *content = gd_json_get(msg, "content");
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%.32s.", path);
    bool is_error = false;
    int rc = gd_json_want_bool(msg, where, "is_error", &ev->is_error, b->err);
    if (rc == GD_OK)
        rc = gd_json_want_bool(msg, where, "isError", &is_error, b->err);
    if (rc != GD_OK)
        return rc;
    ev->is_error = ev->is_error || is_error;
    if (gd_json_is(content, GD_JSON_OBJECT)) {
        gd_tb_payload(b, content);
        ev->payload = content;
        return GD_OK;
    }
    (void)snprintf(where, sizeof where, "%.32s.content", path);
    rc = gd_tb_content(b, content, where, &ev->text);
    return rc == GD_OK ? gd_tb_value(b, ev->text, &ev->payload) : rc;
}

static int add_result(struct gd_traj_builder *b, const struct gd_json *msg, const char *path)
{
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%.32s.", path);
    struct gd_str id = {"", 0};
    struct gd_str name = {"", 0};
    int rc = gd_json_want_str(msg, where, "tool_call_id", false, &id, b->err);
    if (rc == GD_OK)
        rc = gd_json_want_str(msg, where, "name", false, &name, b->err);
    if (rc != GD_OK)
        return rc;
    const int32_t call = find_call(b, id, name);
    struct gd_event *ev;
    rc = gd_tb_event(b, GD_EVENT_RESULT, &ev);
    if (rc != GD_OK)
        return rc;
    ev->call = call;
    ev->call_id = id;
    ev->name = call >= 0 ? b->out->events[call].name : name;
    ev->server = call >= 0 ? b->out->events[call].server : b->server;
    if (call >= 0)
        gd_tb_answered(b, (uint32_t)call);
    return read_result(b, msg, path, ev);
}

int gd_tb_message(struct gd_traj_builder *b, const struct gd_json *msg, const char *path)
{
    if (!gd_json_is(msg, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an object, is %s", path,
                          gd_json_type_name(msg));
    char where[GD_PATH_MAX];
    (void)snprintf(where, sizeof where, "%.32s.", path);
    struct gd_str role = {"", 0};
    int rc = gd_tb_envelope(b, msg, path);
    if (rc == GD_OK)
        rc = gd_json_want_str(msg, where, "role", true, &role, b->err);
    if (rc != GD_OK)
        return rc;
    if (gd_str_eqz(role, "tool") || gd_str_eqz(role, "function"))
        return add_result(b, msg, path);
    struct gd_str text;
    (void)snprintf(where, sizeof where, "%.32s.content", path);
    rc = gd_tb_content(b, gd_json_get(msg, "content"), where, &text);
    if (rc != GD_OK)
        return rc;
    if (gd_str_eqz(role, "assistant"))
        return add_assistant(b, msg, text, path);
    if (gd_str_eqz(role, "user"))
        return gd_tb_text(b, GD_EVENT_USER, text);
    if (gd_str_eqz(role, "system") || gd_str_eqz(role, "developer"))
        return gd_tb_text(b, GD_EVENT_SYSTEM, text);
    return gd_err_set(b->err, GD_EFIELD,
                      "%s.role must be system, developer, user, assistant, tool or function, "
                      "is '%.*s'",
                      path, gd_text_shown(role), role.ptr);
}

int gd_tb_messages(struct gd_traj_builder *b, const struct gd_json *messages)
{
    if (messages->type != GD_JSON_ARRAY)
        return gd_err_set(b->err, GD_EFIELD, "field 'messages' must be an array, is %s",
                          gd_json_type_name(messages));
    uint32_t i = 0;
    for (const struct gd_json *m = messages->child; m; m = m->next, i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "messages[%u]", (unsigned)i);
        const int rc = gd_tb_message(b, m, path);
        if (rc != GD_OK)
            return rc;
    }
    return GD_OK;
}
