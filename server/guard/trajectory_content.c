/* trajectory_content.c - content of messages and results as text. See trajectory_build.h.
 *
 * Text parts are joined by line breaks. What is not text becomes a marker that says what and how
 * much; a part of a kind that is not known is shown as its JSON, so that nothing reaches the model
 * of the client unseen. */
#include "text.h"
#include "trajectory_build.h"

struct marker {
    const char *type;
    const char *shown;
};

/* Media parts of the OpenAI APIs. */
static const struct marker markers[] = {
    {"image_url", "[image]"}, {"input_image", "[image]"}, {"input_audio", "[audio]"},
    {"video_url", "[video]"}, {"input_file", "[file]"},   {"file", "[file]"},
};

static struct gd_str member(const struct gd_json *obj, const char *key)
{
    const struct gd_json *v = gd_json_get(obj, key);
    return gd_json_is(v, GD_JSON_STRING) ? v->str : (struct gd_str){NULL, 0};
}

static size_t base64_bytes(struct gd_str data)
{
    while (data.len > 0 && data.ptr[data.len - 1] == '=')
        data.len--;
    return data.len / 4 * 3 + data.len % 4 * 3 / 4;
}

static void put_binary(struct gd_buf *b, const char *what, struct gd_str mime, struct gd_str data)
{
    gd_buf_fmt(b, "[%s ", what);
    gd_buf_str(b, mime);
    gd_buf_fmt(b, "%s%zu bytes]", mime.len ? " " : "", base64_bytes(data));
}

static void put_resource(struct gd_buf *b, const struct gd_json *r)
{
    const struct gd_json *text = gd_json_get(r, "text");
    if (gd_json_is(text, GD_JSON_STRING))
        gd_buf_str(b, text->str);
    else
        put_binary(b, "blob", member(r, "mimeType"), member(r, "blob"));
}

static void put_link(struct gd_buf *b, const struct gd_json *part)
{
    static const char *const members[] = {"name", "uri", "title", "description"};
    gd_buf_z(b, "[resource_link");
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        const struct gd_str s = member(part, members[i]);
        if (s.ptr) {
            gd_buf_z(b, " ");
            gd_buf_str(b, s);
        }
    }
    gd_buf_z(b, "]");
}

/* Types whose text is all that a client takes from them. */
static bool is_text(struct gd_str type)
{
    return type.len == 0 || gd_str_eqz(type, "text") || gd_str_eqz(type, "input_text") ||
           gd_str_eqz(type, "output_text");
}

static void put_part(struct gd_buf *b, const struct gd_json *part)
{
    const struct gd_str type = member(part, "type");
    const struct gd_json *text = gd_json_get(part, "text");
    if (gd_json_is(part, GD_JSON_STRING)) {
        gd_buf_str(b, part->str);
        return;
    }
    if (is_text(type) && gd_json_is(text, GD_JSON_STRING)) {
        gd_buf_str(b, text->str);
        return;
    }
    const struct gd_json *resource = gd_json_get(part, "resource");
    if (gd_str_eqz(type, "resource") && gd_json_is(resource, GD_JSON_OBJECT)) {
        put_resource(b, resource);
        return;
    }
    if (gd_str_eqz(type, "resource_link")) {
        put_link(b, part);
        return;
    }
    const struct gd_str data = member(part, "data");
    if (data.ptr && (gd_str_eqz(type, "image") || gd_str_eqz(type, "audio"))) {
        put_binary(b, gd_str_eqz(type, "image") ? "image" : "audio", member(part, "mimeType"),
                   data);
        return;
    }
    for (size_t i = 0; i < sizeof markers / sizeof markers[0]; i++) {
        if (gd_str_eqz(type, markers[i].type)) {
            gd_buf_z(b, markers[i].shown);
            return;
        }
    }
    gd_text_json(b, part);
}

int gd_tb_content(struct gd_traj_builder *b, const struct gd_json *content, const char *path,
                  struct gd_str *out)
{
    *out = (struct gd_str){"", 0};
    if (!content || content->type == GD_JSON_NULL)
        return GD_OK;
    gd_tb_payload(b, content);
    if (content->type == GD_JSON_STRING) {
        *out = content->str;
        return GD_OK;
    }
    if (content->type != GD_JSON_ARRAY)
        return gd_err_set(b->err, GD_EFIELD, "%s must be a string, null or an array, is %s", path,
                          gd_json_type_name(content));
    struct gd_buf buf;
    gd_buf_init(&buf, GD_PROMPT_BYTES_MAX);
    for (const struct gd_json *p = content->child; p; p = p->next) {
        if (p != content->child)
            gd_buf_add(&buf, "\n", 1);
        put_part(&buf, p);
    }
    return gd_tb_take(b, &buf, out);
}

/* Whether a structured result says the same as its text: the same JSON, or {"result": that}, which
 * is how servers wrap what is not an object. */
static bool says_the_same(const struct gd_json *structured, struct gd_str text,
                          const struct gd_json *value)
{
    if (value && gd_text_json_equal(value, structured))
        return true;
    const struct gd_json *inner = gd_json_get(structured, "result");
    if (!inner || structured->n_children != 1)
        return false;
    if (inner->type == GD_JSON_STRING)
        return gd_str_eq(gd_text_trim(inner->str), gd_text_trim(text));
    return value && gd_text_json_equal(value, inner);
}

static int join_structured(struct gd_traj_builder *b, const struct gd_json *structured,
                           struct gd_event *ev)
{
    if (gd_text_trim(ev->text).len == 0) {
        ev->payload = structured;
        return GD_OK;
    }
    if (says_the_same(structured, ev->text, ev->payload))
        return GD_OK;
    struct gd_buf buf;
    gd_buf_init(&buf, GD_PROMPT_BYTES_MAX);
    gd_buf_str(&buf, ev->text);
    gd_buf_add(&buf, "\n", 1);
    gd_text_json(&buf, structured);
    ev->payload = NULL;
    return gd_tb_take(b, &buf, &ev->text);
}

/* A result that is no CallToolResult: it has members beyond the protocol's own. */
static bool is_foreign(const struct gd_json *result)
{
    for (const struct gd_json *m = result->child; m; m = m->next) {
        if (!gd_str_eqz(m->key, "_meta") && !gd_str_eqz(m->key, "resultType") &&
            !gd_str_eqz(m->key, "isError"))
            return true;
    }
    return false;
}

int gd_tb_tool_result(struct gd_traj_builder *b, const struct gd_json *result, const char *path,
                      struct gd_event *ev)
{
    gd_tb_payload(b, result);
    const struct gd_json *content = gd_json_get(result, "content");
    const struct gd_json *structured = gd_json_get(result, "structuredContent");
    char where[GD_PATH_MAX + 16];
    (void)snprintf(where, sizeof where, "%s.", path);
    int rc = gd_json_want_bool(result, where, "isError", &ev->is_error, b->err);
    if (rc != GD_OK)
        return rc;
    if (!gd_json_is(result, GD_JSON_OBJECT) || (!content && !structured)) {
        const bool show = !gd_json_is(result, GD_JSON_OBJECT) || is_foreign(result);
        ev->payload = show && result->type != GD_JSON_NULL ? result : NULL;
        return GD_OK;
    }
    (void)snprintf(where, sizeof where, "%s.content", path);
    rc = gd_tb_content(b, content, where, &ev->text);
    if (rc == GD_OK)
        rc = gd_tb_value(b, ev->text, &ev->payload);
    if (rc == GD_OK && structured && structured->type != GD_JSON_NULL)
        rc = join_structured(b, structured, ev);
    return rc;
}

int gd_tb_rpc_error(struct gd_traj_builder *b, const struct gd_json *error, const char *path,
                    struct gd_event *ev)
{
    if (!gd_json_is(error, GD_JSON_OBJECT))
        return gd_err_set(b->err, GD_EFIELD, "%s must be an object, is %s", path,
                          gd_json_type_name(error));
    gd_tb_payload(b, error);
    const struct gd_json *code = gd_json_get(error, "code");
    const struct gd_json *data = gd_json_get(error, "data");
    struct gd_buf buf;
    gd_buf_init(&buf, GD_PROMPT_BYTES_MAX);
    if (code) {
        gd_text_json(&buf, code);
        gd_buf_add(&buf, " ", 1);
    }
    gd_buf_str(&buf, member(error, "message"));
    if (data) {
        gd_buf_add(&buf, "\n", 1);
        gd_text_json(&buf, data);
    }
    ev->is_error = true;
    return gd_tb_take(b, &buf, &ev->text);
}
