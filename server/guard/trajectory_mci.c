/* trajectory_mci.c - five-element information flows. See guardian/trajectory.h.
 *
 * Sender and recipient decide the kind of event: what the user sends is user text, what the client
 * sends to the user is an answer, what anyone sends to a function is a call, and what a function
 * sends to client or user is a result. The information type is the text; a JSON object in it
 * {"name", "arguments"} names the function and its arguments, any other object is taken as the
 * arguments of the recipient. */
#include "text.h"
#include "trajectory_build.h"

#include <string.h>
#include <strings.h>

enum actor { ACTOR_USER, ACTOR_CLIENT, ACTOR_SERVER };

static bool one_of(struct gd_str s, const char *const *names)
{
    for (; *names; names++) {
        if (s.len == strlen(*names) && strncasecmp(s.ptr, *names, s.len) == 0)
            return true;
    }
    return false;
}

static enum actor actor_of(struct gd_str who)
{
    static const char *const users[] = {"user", "human", "end user", NULL};
    static const char *const clients[] = {"client", "assistant", "agent", "host",
                                          "model",  "llm",       NULL};
    struct gd_str s = gd_text_trim(who);
    static const char *const prefixes[] = {"the ", "mcp "};
    for (size_t i = 0; i < 2; i++) {
        if (s.len > 4 && strncasecmp(s.ptr, prefixes[i], 4) == 0)
            s = (struct gd_str){s.ptr + 4, s.len - 4};
    }
    if (one_of(s, users))
        return ACTOR_USER;
    return one_of(s, clients) ? ACTOR_CLIENT : ACTOR_SERVER;
}

static enum gd_event_kind kind_of(struct gd_str sender, struct gd_str recipient)
{
    const enum actor from = actor_of(sender);
    const enum actor to = actor_of(recipient);
    if (from == ACTOR_USER)
        return GD_EVENT_USER;
    if (to == ACTOR_SERVER)
        return GD_EVENT_CALL;
    return from == ACTOR_CLIENT ? GD_EVENT_ASSISTANT : GD_EVENT_RESULT;
}

/* One element of a flow: by position in an array, by one of two names in an object. */
static int read_element(struct gd_traj_builder *b, const struct gd_json *flow, const char *path,
                        uint32_t index, const char *const names[2], struct gd_str *out)
{
    const struct gd_json *v = flow->child;
    char where[GD_PATH_MAX];
    if (flow->type == GD_JSON_ARRAY) {
        for (uint32_t i = 0; i < index; i++)
            v = v->next;
        (void)snprintf(where, sizeof where, "%s[%u]", path, (unsigned)index);
    } else {
        v = gd_json_get(flow, names[0]);
        v = v ? v : gd_json_get(flow, names[1]);
        (void)snprintf(where, sizeof where, "%s.%s", path, names[0]);
    }
    if (!gd_json_is(v, GD_JSON_STRING))
        return gd_err_set(b->err, GD_EFIELD, "%s must be a string, is %s", where,
                          gd_json_type_name(v));
    gd_tb_payload(b, v);
    *out = v->str;
    return GD_OK;
}

static int read_flow(struct gd_traj_builder *b, const struct gd_json *flow, const char *path,
                     struct gd_event *ev)
{
    static const char *const names[5][2] = {{"sender", "sender"},
                                            {"recipient", "recipient"},
                                            {"data_subject", "subject"},
                                            {"information_type", "type"},
                                            {"transmission_principle", "principle"}};
    struct gd_str *const elements[5] = {&ev->sender, &ev->recipient, &ev->subject, &ev->type,
                                        &ev->principle};
    const bool array = gd_json_is(flow, GD_JSON_ARRAY);
    if (!array && !gd_json_is(flow, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an array or an object, is %s", path,
                          gd_json_type_name(flow));
    if (array && flow->n_children != 5)
        return gd_err_set(b->err, GD_EFIELD, "%s must have five elements, has %u", path,
                          (unsigned)flow->n_children);
    int rc = array ? GD_OK : gd_tb_envelope(b, flow, path);
    for (uint32_t i = 0; i < 5 && rc == GD_OK; i++)
        rc = read_element(b, flow, path, i, names[i], elements[i]);
    return rc;
}

/* The text from its first { to its last }. */
static struct gd_str braced(struct gd_str s)
{
    while (s.len > 0 && s.ptr[0] != '{') {
        s.ptr++;
        s.len--;
    }
    while (s.len > 0 && s.ptr[s.len - 1] != '}')
        s.len--;
    return s;
}

static int read_call(struct gd_traj_builder *b, struct gd_event *ev)
{
    const struct gd_json *v;
    const int rc = gd_tb_value(b, braced(ev->type), &v);
    if (rc != GD_OK)
        return rc;
    const struct gd_json *name = gd_json_get(v, "name");
    const struct gd_json *args = gd_json_get(v, "arguments");
    ev->name = ev->recipient;
    if (gd_json_is(name, GD_JSON_STRING) && gd_json_is(args, GD_JSON_OBJECT)) {
        ev->name = name->str;
        ev->payload = args;
    } else if (v) {
        ev->payload = v;
    } else {
        ev->text = ev->type;
    }
    return gd_tb_open(b);
}

static int add_flow(struct gd_traj_builder *b, const struct gd_json *flow, const char *path)
{
    struct gd_event flow_ev = {.call = -1, .server = b->server};
    int rc = read_flow(b, flow, path, &flow_ev);
    struct gd_event *ev;
    if (rc == GD_OK)
        rc = gd_tb_event(b, kind_of(flow_ev.sender, flow_ev.recipient), &ev);
    if (rc != GD_OK)
        return rc;
    flow_ev.kind = ev->kind;
    *ev = flow_ev;
    if (ev->kind == GD_EVENT_CALL)
        return read_call(b, ev);
    ev->text = ev->type;
    if (ev->kind != GD_EVENT_RESULT)
        return GD_OK;
    ev->name = ev->sender;
    for (uint32_t i = 0; i < b->n_open && ev->call < 0; i++) {
        const struct gd_event *call = &b->out->events[b->open[i]];
        if (gd_str_eq(call->recipient, ev->sender) || gd_str_eq(call->name, ev->sender))
            ev->call = (int32_t)b->open[i];
    }
    if (ev->call < 0 && b->n_open == 1)
        ev->call = (int32_t)b->open[0];
    if (ev->call >= 0) {
        ev->name = b->out->events[ev->call].name;
        gd_tb_answered(b, (uint32_t)ev->call);
    }
    return gd_tb_value(b, ev->text, &ev->payload);
}

int gd_tb_mci(struct gd_traj_builder *b, const struct gd_json *flows)
{
    if (flows->type != GD_JSON_ARRAY)
        return gd_err_set(b->err, GD_EFIELD, "field 'mci' must be an array, is %s",
                          gd_json_type_name(flows));
    uint32_t i = 0;
    for (const struct gd_json *m = flows->child; m; m = m->next, i++) {
        char path[32];
        (void)snprintf(path, sizeof path, "mci[%u]", (unsigned)i);
        const int rc = add_flow(b, m, path);
        if (rc != GD_OK)
            return rc;
    }
    return GD_OK;
}
