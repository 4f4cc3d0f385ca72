/* trajectory.c - the builder that the three input forms share, and what is derived at the end. See
 * guardian/trajectory.h.
 *
 * Arrays grow by doubling inside the request's arena. Strings that may hold JSON are read with a
 * budget of values for the whole request: an upper bound on the values of a text (its commas and
 * brackets) is charged before it is read, so that many unreadable texts cost no more than readable
 * ones. */
#include "text.h"
#include "trajectory_build.h"

#include <string.h>

int gd_tb_grow(struct gd_traj_builder *b, void **array, uint32_t *cap, uint32_t n, size_t size)
{
    if (n < *cap)
        return GD_OK;
    const uint32_t grown = *cap ? 2 * *cap : 16;
    void *p = gd_arena_calloc(b->arena, grown, size);
    if (!p)
        return gd_err_set(b->err, GD_ENOMEM, "not enough memory for the trajectory");
    if (n > 0)
        memcpy(p, *array, n * size);
    *array = p;
    *cap = grown;
    return GD_OK;
}

int gd_tb_event(struct gd_traj_builder *b, enum gd_event_kind kind, struct gd_event **out)
{
    struct gd_trajectory *t = b->out;
    if (t->n_events >= GD_EVENTS_MAX)
        return gd_err_set(b->err, GD_ELIMIT, "the trajectory has more than %d events",
                          GD_EVENTS_MAX);
    void *events = t->events;
    const int rc = gd_tb_grow(b, &events, &b->events_cap, t->n_events, sizeof *t->events);
    if (rc != GD_OK)
        return rc;
    t->events = events;
    *out = &t->events[t->n_events++];
    (*out)->kind = kind;
    (*out)->call = -1;
    return GD_OK;
}

int gd_tb_text(struct gd_traj_builder *b, enum gd_event_kind kind, struct gd_str text)
{
    if (gd_text_blank(text))
        return GD_OK;
    struct gd_event *ev;
    const int rc = gd_tb_event(b, kind, &ev);
    if (rc != GD_OK)
        return rc;
    ev->text = text;
    return GD_OK;
}

int gd_tb_open(struct gd_traj_builder *b)
{
    void *open = b->open;
    const int rc = gd_tb_grow(b, &open, &b->open_cap, b->n_open, sizeof *b->open);
    if (rc != GD_OK)
        return rc;
    b->open = open;
    b->open[b->n_open++] = b->out->n_events - 1;
    return GD_OK;
}

void gd_tb_answered(struct gd_traj_builder *b, uint32_t event)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->n_open; i++) {
        if (b->open[i] != event)
            b->open[kept++] = b->open[i];
    }
    b->n_open = kept;
}

static int compare_keys(const void *x, const void *y)
{
    const struct gd_str *p = x;
    const struct gd_str *q = y;
    if (p->len != q->len)
        return p->len < q->len ? -1 : 1;
    return p->len ? memcmp(p->ptr, q->ptr, p->len) : 0;
}

/* The flag says "here or below", so a flagged object is looked at itself. */
int gd_tb_envelope(struct gd_traj_builder *b, const struct gd_json *obj, const char *path)
{
    if (!(obj->flags & GD_JSON_F_DUPKEY) || obj->n_children < 2)
        return GD_OK;
    struct gd_str *keys = gd_arena_calloc(b->arena, obj->n_children, sizeof *keys);
    if (!keys)
        return gd_err_set(b->err, GD_ENOMEM, "not enough memory for the trajectory");
    size_t n = 0;
    for (const struct gd_json *m = obj->child; m; m = m->next)
        keys[n++] = m->key;
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 1; i < n; i++) {
        if (gd_str_eq(keys[i - 1], keys[i]))
            return gd_err_set(b->err, GD_EFIELD, "%s has the key '%.*s' more than once", path,
                              gd_text_shown(keys[i]), keys[i].ptr);
    }
    return GD_OK;
}

void gd_tb_payload(struct gd_traj_builder *b, const struct gd_json *v)
{
    if (v && (v->flags & GD_JSON_F_DUPKEY))
        b->out->flags |= GD_TRAJ_F_DUPKEY;
    if (v && (v->flags & GD_JSON_F_SURROGATE))
        b->out->flags |= GD_TRAJ_F_SURROGATE;
}

static bool is_bracketed(struct gd_str s)
{
    return s.len >= 2 && ((s.ptr[0] == '{' && s.ptr[s.len - 1] == '}') ||
                          (s.ptr[0] == '[' && s.ptr[s.len - 1] == ']'));
}

static size_t values_at_most(struct gd_str s)
{
    size_t n = 1;
    for (size_t i = 0; i < s.len; i++)
        n += s.ptr[i] == ',' || s.ptr[i] == '{' || s.ptr[i] == '[';
    return n;
}

/* Rule V within a budget of values. *unread: it may be JSON, and was too much of it. */
static int read_value(struct gd_traj_builder *b, struct gd_str text, uint32_t *left,
                      const struct gd_json **out, bool *unread)
{
    *out = NULL;
    *unread = false;
    const struct gd_str s = gd_text_trim(text);
    if (!is_bracketed(s))
        return GD_OK;
    const size_t values = values_at_most(s);
    *unread = values > *left;
    if (*unread)
        return GD_OK;
    *left -= (uint32_t)values;
    const int rc = gd_json_parse(b->arena, s, &GD_JSON_REQUEST_LIMITS, out, NULL);
    if (rc == GD_ENOMEM)
        return gd_err_set(b->err, GD_ENOMEM, "not enough memory for the trajectory");
    *unread = rc == GD_ELIMIT;
    if (rc != GD_OK)
        *out = NULL;
    gd_tb_payload(b, *out);
    return GD_OK;
}

int gd_tb_value(struct gd_traj_builder *b, struct gd_str text, const struct gd_json **out)
{
    bool unread;
    return read_value(b, text, &b->nodes_left, out, &unread);
}

int gd_tb_take(struct gd_traj_builder *b, struct gd_buf *buf, struct gd_str *out)
{
    int rc = buf->failed;
    if (rc == GD_OK)
        rc = gd_str_dup(b->arena, (struct gd_str){buf->data, buf->len}, out);
    gd_buf_free(buf);
    if (rc != GD_OK)
        return gd_err_set(b->err, rc, "not enough memory for the trajectory");
    return GD_OK;
}

/* Whether a text or a name in it is written to look like something else (text.h). */
static bool has_disguise(const struct gd_json *v)
{
    if (gd_text_disguised(v->key) || (v->type == GD_JSON_STRING && gd_text_disguised(v->str)))
        return true;
    for (const struct gd_json *c = v->child; c; c = c->next) {
        if (has_disguise(c))
            return true;
    }
    return false;
}

static bool is_disguised(const struct gd_event *call)
{
    return call->payload ? has_disguise(call->payload) : gd_text_disguised(call->text);
}

int gd_tb_arguments(struct gd_traj_builder *b, const struct gd_json *args, const char *path,
                    struct gd_event *call)
{
    if (!args || args->type == GD_JSON_NULL)
        return GD_OK;
    gd_tb_payload(b, args);
    if (args->type == GD_JSON_OBJECT) {
        call->payload = args;
        b->out->flags |= is_disguised(call) ? GD_TRAJ_F_DOUBT : 0;
        return GD_OK;
    }
    if (args->type != GD_JSON_STRING)
        return gd_err_set(b->err, GD_EFIELD, "%s must be a string or an object, is %s", path,
                          gd_json_type_name(args));
    bool unread;
    call->text = args->str;
    const int rc = read_value(b, args->str, &b->args_left, &call->payload, &unread);
    if (unread || (rc == GD_OK && is_disguised(call)))
        b->out->flags |= GD_TRAJ_F_DOUBT;
    return rc;
}

/* The input schema. More than one of them is a doubt: which does the client read? */
static const struct gd_json *read_schema(struct gd_traj_builder *b, const struct gd_json *def,
                                         bool listed)
{
    static const char *const members[] = {"inputSchema", "parameters", "input_schema"};
    const struct gd_json *found = NULL;
    for (size_t i = 0; i < (listed ? 1 : sizeof members / sizeof members[0]); i++) {
        const struct gd_json *schema = gd_json_get(def, members[i]);
        if (!gd_json_is(schema, GD_JSON_OBJECT))
            continue;
        if (found)
            b->out->flags |= GD_TRAJ_F_DOUBT;
        found = found ? found : schema;
    }
    return found;
}

/* MCP {name, inputSchema}; where it is not listed by a server also OpenAI {type, function: {...}} and
 * bare {name, parameters}. */
static int read_tool(struct gd_traj_builder *b, const struct gd_json *def, const char *path,
                     bool listed, struct gd_tool *tool)
{
    if (!gd_json_is(def, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an object, is %s", path,
                          gd_json_type_name(def));
    const struct gd_json *f = gd_json_get(def, "function");
    const bool both = gd_json_is(f, GD_JSON_OBJECT) && gd_json_get(def, "name") != NULL;
    const bool nested = gd_json_is(f, GD_JSON_OBJECT) && !listed && !both;
    if (both && !listed)
        b->out->flags |= GD_TRAJ_F_DOUBT; /* the outer one is read, as an MCP client does */
    char where[GD_PATH_MAX + 16];
    (void)snprintf(where, sizeof where, "%s.%s", path, nested ? "function." : "");
    f = nested ? f : def;
    int rc = gd_json_want_str(f, where, "name", true, &tool->name, b->err);
    if (rc == GD_OK)
        rc = gd_json_want_str(f, where, "description", false, &tool->description, b->err);
    if (rc != GD_OK)
        return rc;
    tool->schema = read_schema(b, f, listed);
    return GD_OK;
}

int gd_tb_catalogue(struct gd_traj_builder *b, const struct gd_json *tools, const char *path,
                    bool listed)
{
    struct gd_trajectory *t = b->out;
    if (!gd_json_is(tools, GD_JSON_ARRAY))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an array, is %s", path,
                          gd_json_type_name(tools));
    if (tools->n_children == 0)
        return GD_OK;
    if (tools->n_children > GD_TOOLS_MAX - t->n_tools)
        return gd_err_set(b->err, GD_ELIMIT, "%s: the trajectory has more than %d tools", path,
                          GD_TOOLS_MAX);
    struct gd_event *ev;
    int rc = gd_tb_event(b, GD_EVENT_CATALOG, &ev);
    if (rc != GD_OK)
        return rc;
    ev->server = b->server;
    ev->tool_first = t->n_tools;
    ev->n_tools = tools->n_children;
    gd_tb_payload(b, tools);
    uint32_t i = 0;
    for (const struct gd_json *def = tools->child; def; def = def->next, i++) {
        void *array = t->tools;
        char where[GD_PATH_MAX];
        (void)snprintf(where, sizeof where, "%s[%u]", path, (unsigned)i);
        rc = gd_tb_grow(b, &array, &b->tools_cap, t->n_tools, sizeof *t->tools);
        if (rc != GD_OK)
            return rc;
        t->tools = array;
        rc = read_tool(b, def, where, listed, &t->tools[t->n_tools]);
        if (rc != GD_OK)
            return rc;
        t->n_tools++;
    }
    return GD_OK;
}

/* Ordinal of the call judged: that of the last call or result, -1 when assistant text follows it.
 */
static int32_t judged_step(const struct gd_trajectory *t)
{
    int64_t call = -1;
    for (uint32_t i = t->n_events; i-- > 0 && call < 0;) {
        const struct gd_event *ev = &t->events[i];
        if (ev->kind == GD_EVENT_ASSISTANT || (ev->kind == GD_EVENT_RESULT && ev->call < 0))
            return -1;
        if (ev->kind == GD_EVENT_CALL)
            call = i;
        else if (ev->kind == GD_EVENT_RESULT)
            call = ev->call;
    }
    int32_t step = -1;
    for (int64_t i = 0; i <= call; i++)
        step += t->events[i].kind == GD_EVENT_CALL;
    return step;
}

static bool ends_with_open_call(const struct gd_traj_builder *b)
{
    for (uint32_t i = b->out->n_events; i-- > 0;) {
        if (b->out->events[i].kind == GD_EVENT_CATALOG)
            continue;
        return b->n_open > 0 && b->open[b->n_open - 1] == i;
    }
    return false;
}

static int derive(struct gd_traj_builder *b, const struct gd_json *request)
{
    struct gd_trajectory *t = b->out;
    bool judged = false;
    for (uint32_t i = 0; i < t->n_events; i++) {
        const enum gd_event_kind kind = t->events[i].kind;
        t->has_user = t->has_user || (kind == GD_EVENT_USER && !gd_text_blank(t->events[i].text));
        judged = judged || kind == GD_EVENT_CALL || kind == GD_EVENT_RESULT ||
                 kind == GD_EVENT_ASSISTANT;
    }
    if (!judged)
        return gd_err_set(b->err, GD_EFIELD,
                          "the trajectory has nothing to judge: no call, no result, no answer");
    t->phase = ends_with_open_call(b) ? GD_PHASE_REQUEST : GD_PHASE_RESPONSE;
    t->step = judged_step(t);
    struct gd_str phase = {NULL, 0};
    const int rc = gd_json_want_str(request, "", "phase", false, &phase, b->err);
    if (rc != GD_OK || !phase.ptr)
        return rc;
    if (!gd_str_eqz(phase, "request") && !gd_str_eqz(phase, "response"))
        return gd_err_set(b->err, GD_EFIELD, "field 'phase' must be request or response, is '%.*s'",
                          gd_text_shown(phase), phase.ptr);
    if (!gd_str_eqz(phase, gd_phase_name(t->phase)))
        return gd_err_set(b->err, GD_EFIELD,
                          "field 'phase' is %.*s, but the trajectory ends with %s",
                          gd_text_shown(phase), phase.ptr,
                          t->phase == GD_PHASE_REQUEST ? "a call that has no result"
                                                       : "no call that waits for its result");
    return GD_OK;
}

static const struct gd_json *present(const struct gd_json *request, const char *key)
{
    const struct gd_json *v = gd_json_get(request, key);
    return v && v->type != GD_JSON_NULL ? v : NULL;
}

static int read_form(struct gd_traj_builder *b, const struct gd_json *request)
{
    const struct gd_json *messages = present(request, "messages");
    const struct gd_json *frames = present(request, "frames");
    const struct gd_json *mci = present(request, "mci");
    if (!!messages + !!frames + !!mci != 1)
        return gd_err_set(b->err, GD_EFIELD,
                          "the request must have exactly one of 'messages', 'frames' and 'mci'");
    const struct gd_json *tools = present(request, "tools");
    int rc = tools ? gd_tb_catalogue(b, tools, "tools", false) : GD_OK;
    if (rc != GD_OK)
        return rc;
    if (messages)
        return gd_tb_messages(b, messages);
    return frames ? gd_tb_frames(b, frames) : gd_tb_mci(b, mci);
}

int gd_trajectory_parse(struct gd_arena *a, const struct gd_json *request,
                        struct gd_trajectory *out, struct gd_err *err)
{
    struct gd_traj_builder b = {
        .arena = a,
        .err = err,
        .out = out,
        .nodes_left = GD_REQUEST_NODES_MAX - GD_ARGUMENTS_NODES_MAX,
        .args_left = GD_ARGUMENTS_NODES_MAX};
    memset(out, 0, sizeof *out);
    out->step = -1;
    if (!gd_json_is(request, GD_JSON_OBJECT))
        return gd_err_set(err, GD_EFIELD, "the request must be an object, is %s",
                          gd_json_type_name(request));
    int rc = gd_tb_envelope(&b, request, "the request");
    if (rc == GD_OK)
        rc = gd_json_want_str(request, "", "server", false, &b.server, err);
    if (rc == GD_OK)
        rc = read_form(&b, request);
    if (rc == GD_OK)
        rc = derive(&b, request);
    return rc;
}

const char *gd_phase_name(enum gd_phase p)
{
    return p == GD_PHASE_REQUEST ? "request" : "response";
}
