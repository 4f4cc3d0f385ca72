/* policy.c - reads the JSON of a policy. See guardian/policy.h.
 *
 * A table names every field and its reader, so that unknown fields are refused and no field is read
 * twice. Strings are copied into the policy's own arena; the parsed JSON is dropped. policy_chat.c
 * then turns text into ids. */
#include "forest.h"
#include "guardian/file.h"
#include "policy_chat.h"
#include "policy_load.h"
#include "text.h"

#include <string.h>

#define POLICY_JSON_BYTES_MAX (2 * GD_POLICY_TEMPLATE_BYTES_MAX)
#define POLICY_ARENA_BYTES (32 * GD_POLICY_TEMPLATE_BYTES_MAX)
#define ITEM_BYTES_MIN 64
#define ITEM_BYTES_MAX (1 << 20)

static const struct gd_json_limits policy_limits = {
    .bytes_max = POLICY_JSON_BYTES_MAX,
    .nodes_max = 20000,
    .depth_max = 8,
    .key_bytes_max = 64,
};

int gd_policy_fail(struct gd_policy_loader *l, const char *what)
{
    return gd_err_set(l->err, GD_EPOLICY, "%s", what);
}

int gd_policy_result(struct gd_policy_loader *l, int rc)
{
    if (rc == GD_EFIELD && l->err)
        l->err->code = GD_EPOLICY;
    return rc == GD_EFIELD ? GD_EPOLICY : rc;
}

static int keep_str(struct gd_policy_loader *l, const char *key, bool required, struct gd_str *out)
{
    struct gd_str s = {"", 0};
    int rc = gd_policy_result(l, gd_json_want_str(l->root, "", key, required, &s, l->err));
    if (rc == GD_OK)
        rc = gd_str_dup(&l->p->arena, s, out);
    return rc;
}

static int read_name(struct gd_policy_loader *l)
{
    int rc = keep_str(l, "name", true, &l->p->name);
    if (rc != GD_OK)
        return rc;
    if (l->p->name.len == 0 || l->p->name.len > GD_POLICY_NAME_BYTES_MAX)
        return gd_policy_fail(l, "field 'name' must have 1 to 64 bytes");
    for (size_t i = 0; i < l->p->name.len; i++) {
        const char c = l->p->name.ptr[i];
        if (c < '!' || c > '~' || c == '@')
            return gd_policy_fail(l, "field 'name' must be printable ASCII without spaces and '@'");
    }
    l->p->version = 0;
    rc = gd_policy_result(
        l, gd_json_want_i64(l->root, "", "version", 1, INT64_MAX, &l->p->version, l->err));
    if (rc == GD_OK && l->p->version == 0)
        return gd_policy_fail(l, "field 'version' is missing");
    return rc;
}

static int find_word(struct gd_policy_loader *l, const char *key, const char *const *words, int n,
                     int *out)
{
    struct gd_str s = {NULL, 0};
    const int rc = gd_policy_result(l, gd_json_want_str(l->root, "", key, false, &s, l->err));
    if (rc != GD_OK || !s.ptr)
        return rc;
    for (int i = 0; i < n; i++) {
        if (gd_str_eqz(s, words[i])) {
            *out = i;
            return GD_OK;
        }
    }
    char known[128];
    int at = 0;
    for (int i = 0; i < n && at >= 0 && at < (int)sizeof known; i++)
        at += snprintf(known + at, sizeof known - (size_t)at, "%s'%s'", i > 0 ? " or " : "",
                       words[i]);
    return gd_err_set(l->err, GD_EPOLICY, "field '%s' must be %s, is '%.*s'", key, known,
                      gd_text_shown(s), s.ptr);
}

static int read_chat(struct gd_policy_loader *l)
{
    static const char *const chats[] = {"none", "llama3", "chatml"};
    static const char *const renderings[] = {"dialogue", "mci"};
    int chat = -1;
    int rendering = GD_RENDER_DIALOGUE;
    int rc = find_word(l, "chat", chats, 3, &chat);
    if (rc == GD_OK && chat < 0)
        rc = gd_policy_fail(l, "field 'chat' is missing: \"llama3\", \"chatml\" or \"none\"");
    if (rc == GD_OK)
        rc = find_word(l, "rendering", renderings, 2, &rendering);
    if (rc != GD_OK)
        return rc;
    l->p->chat = (enum gd_chat)chat;
    l->p->rendering = (enum gd_rendering)rendering;
    rc = keep_str(l, "system", false, &l->p->system);
    if (rc == GD_OK)
        rc = keep_str(l, "answer_prefix", false, &l->p->answer_prefix);
    if (rc == GD_OK && l->p->system.len > 0 && l->p->chat == GD_CHAT_NONE)
        rc = gd_policy_fail(l, "field 'system' needs a chat format");
    return rc;
}

static int read_bos(struct gd_policy_loader *l)
{
    const struct gd_json *bos = gd_json_get(l->root, "bos");
    l->p->bos = (struct gd_str){"", 0};
    if (!bos || bos->type == GD_JSON_NULL || bos->type == GD_JSON_FALSE)
        return GD_OK;
    if (l->p->chat != GD_CHAT_NONE)
        return gd_policy_fail(l, "field 'bos' is for chat \"none\" only");
    if (bos->type == GD_JSON_TRUE)
        l->p->bos = GD_STR("<|begin_of_text|>");
    else if (bos->type == GD_JSON_STRING && bos->str.len > 0)
        return gd_str_dup(&l->p->arena, bos->str, &l->p->bos);
    else
        return gd_policy_fail(l, "field 'bos' must be true or the text of a special token");
    return GD_OK;
}

/* A string, or an array of lines. */
static int join_lines(struct gd_policy_loader *l, const struct gd_json *v, struct gd_str *out)
{
    if (v->type == GD_JSON_STRING) {
        *out = v->str;
        return GD_OK;
    }
    struct gd_buf buf;
    gd_buf_init(&buf, GD_POLICY_TEMPLATE_BYTES_MAX);
    const struct gd_json *line = v->type == GD_JSON_ARRAY ? v->child : NULL;
    for (; line && line->type == GD_JSON_STRING; line = line->next) {
        if (line != v->child)
            gd_buf_add(&buf, "\n", 1);
        gd_buf_str(&buf, line->str);
    }
    int rc = buf.failed;
    if (v->type != GD_JSON_ARRAY || line)
        rc = gd_policy_fail(l, "field 'template' must be a string or an array of strings");
    if (rc == GD_OK)
        rc = gd_str_dup(&l->scratch, (struct gd_str){buf.data, buf.len}, out);
    gd_buf_free(&buf);
    return rc;
}

int gd_policy_want_path(struct gd_policy_loader *l, const struct gd_json *file, const char *field,
                        struct gd_buf *out)
{
    if (!gd_json_is(file, GD_JSON_STRING) || file->str.len == 0 ||
        memchr(file->str.ptr, '\0', file->str.len))
        return gd_err_set(l->err, GD_EPOLICY, "field '%s' must be the path of a file", field);
    if (!l->base_dir)
        return gd_err_set(l->err, GD_EPOLICY, "field '%s' needs a policy that is a file itself",
                          field);
    const bool absolute = file->str.ptr[0] == '/';
    gd_buf_init(out, 64 * GD_KIB);
    gd_buf_fmt(out, "%s%s", absolute ? "" : l->base_dir, absolute ? "" : "/");
    gd_buf_str(out, file->str);
    if (out->failed) {
        gd_buf_free(out);
        return gd_err_set(l->err, out->failed, "the path of '%s' is too long", field);
    }
    return GD_OK;
}

static int read_template_file(struct gd_policy_loader *l, const struct gd_json *file)
{
    struct gd_buf path;
    char *data = NULL;
    size_t len = 0;
    int rc = gd_policy_want_path(l, file, "template_file", &path);
    if (rc != GD_OK)
        return rc;
    rc = gd_file_read(path.data, GD_POLICY_TEMPLATE_BYTES_MAX, &data, &len, l->err);
    if (rc == GD_OK)
        rc = gd_str_dup(&l->scratch, (struct gd_str){data, len}, &l->template);
    free(data);
    gd_buf_free(&path);
    l->from_file = true;
    return rc;
}

/* Deletes every occurrence of `what`. */
static int remove_text(struct gd_policy_loader *l, struct gd_str what)
{
    struct gd_buf buf;
    gd_buf_init(&buf, GD_POLICY_TEMPLATE_BYTES_MAX);
    struct gd_str rest = l->template;
    const char *hit;
    while (rest.len > 0 && (hit = memmem(rest.ptr, rest.len, what.ptr, what.len)) != NULL) {
        const size_t before = (size_t)(hit - rest.ptr);
        gd_buf_add(&buf, rest.ptr, before);
        rest.ptr += before + what.len;
        rest.len -= before + what.len;
    }
    gd_buf_str(&buf, rest);
    int rc = buf.failed;
    if (rc == GD_OK)
        rc = gd_str_dup(&l->scratch, (struct gd_str){buf.data, buf.len}, &l->template);
    gd_buf_free(&buf);
    return rc;
}

static int read_template(struct gd_policy_loader *l)
{
    const struct gd_json *text = gd_json_get(l->root, "template");
    const struct gd_json *file = gd_json_get(l->root, "template_file");
    const struct gd_json *removals = gd_json_get(l->root, "remove");
    if (!!text + !!file != 1)
        return gd_policy_fail(l, "exactly one of 'template' and 'template_file' is needed");
    int rc = text ? join_lines(l, text, &l->template) : read_template_file(l, file);
    if (rc != GD_OK || !removals)
        return rc;
    if (removals->type != GD_JSON_ARRAY)
        return gd_policy_fail(l, "field 'remove' must be an array of strings");
    for (const struct gd_json *r = removals->child; r && rc == GD_OK; r = r->next) {
        if (r->type != GD_JSON_STRING || r->str.len == 0)
            return gd_policy_fail(l,
                                  "field 'remove' must be an array of strings that are not empty");
        rc = remove_text(l, r->str);
    }
    return rc;
}

static int split_template(struct gd_policy_loader *l, struct gd_str *before, struct gd_str *after)
{
    static const char mark[] = "{body}";
    const size_t n = sizeof mark - 1;
    const struct gd_str t = l->template;
    for (size_t i = 0; i < t.len;) {
        uint32_t cp;
        const int step = gd_utf8_next(t, i, &cp);
        if (step < 0)
            return gd_policy_fail(l, "the template is not valid UTF-8");
        i += (size_t)step;
    }
    const char *hit = t.len > 0 ? memmem(t.ptr, t.len, mark, n) : NULL;
    if (!hit)
        return gd_policy_fail(l, "the template has no {body}");
    *before = (struct gd_str){t.ptr, (size_t)(hit - t.ptr)};
    *after = (struct gd_str){hit + n, t.len - before->len - n};
    if (!l->from_file && after->len > 0 && memmem(after->ptr, after->len, mark, n))
        return gd_policy_fail(l, "the template has more than one {body}");
    return GD_OK;
}

static int read_choice(struct gd_policy_loader *l, const struct gd_json *v, uint32_t i)
{
    char where[32];
    struct gd_policy_choice *c = &l->p->choices[i];
    struct gd_str text = {"", 0};
    struct gd_str label = {"", 0};
    (void)snprintf(where, sizeof where, "choices[%u].", (unsigned)i);
    if (v->type != GD_JSON_OBJECT || v->n_children != 2)
        return gd_err_set(l->err, GD_EPOLICY, "choices[%u] must be {text, label}", (unsigned)i);
    int rc = gd_policy_result(l, gd_json_want_str(v, where, "text", true, &text, l->err));
    if (rc == GD_OK)
        rc = gd_policy_result(l, gd_json_want_str(v, where, "label", true, &label, l->err));
    if (rc == GD_OK)
        rc = gd_str_dup(&l->p->arena, text, &c->text);
    if (rc != GD_OK)
        return rc;
    const int found = gd_label_find(label);
    if (found < 0)
        return gd_err_set(l->err, GD_EPOLICY,
                          "choices[%u].label must be one of the labels that /v1/taxonomy lists, is "
                          "'%.*s'",
                          (unsigned)i, gd_text_shown(label), label.ptr);
    c->label = (enum gd_label)found;
    c->letter = (char)('A' + (int)i);
    for (uint32_t k = 0; k < i; k++) {
        if (l->p->choices[k].label == c->label)
            return gd_err_set(l->err, GD_EPOLICY, "choices[%u] repeats the label of choices[%u]",
                              (unsigned)i, (unsigned)k);
    }
    return GD_OK;
}

static int read_choices(struct gd_policy_loader *l)
{
    const struct gd_json *choices = gd_json_get(l->root, "choices");
    if (!gd_json_is(choices, GD_JSON_ARRAY) || choices->n_children < 2 ||
        choices->n_children > GD_LABEL_COUNT)
        return gd_err_set(l->err, GD_EPOLICY, "field 'choices' must be an array of 2 to %d choices",
                          GD_LABEL_COUNT);
    bool appropriate = false;
    for (const struct gd_json *c = choices->child; c; c = c->next) {
        const int rc = read_choice(l, c, l->p->n_choices);
        if (rc != GD_OK)
            return rc;
        appropriate |= l->p->choices[l->p->n_choices++].label == GD_LABEL_APPROPRIATE;
    }
    return appropriate ? GD_OK : gd_policy_fail(l, "field 'choices' has no choice for appropriate");
}

int gd_policy_refuse_unknown(struct gd_policy_loader *l, const struct gd_json *obj,
                             const char *where, const char *const *known)
{
    for (const struct gd_json *m = obj->child; m; m = m->next) {
        const char *const *k = known;
        while (*k && !gd_str_eqz(m->key, *k))
            k++;
        if (!*k)
            return gd_err_set(l->err, GD_EPOLICY, "unknown field '%s%.*s'; see guardian/policy.h",
                              where, gd_text_shown(m->key), m->key.ptr);
    }
    return GD_OK;
}

int gd_policy_want_object(struct gd_policy_loader *l, const char *key, const char *const *known,
                          const struct gd_json **out)
{
    *out = gd_json_get(l->root, key);
    if (!*out)
        return GD_OK;
    char where[32];
    (void)snprintf(where, sizeof where, "%s.", key);
    if ((*out)->type != GD_JSON_OBJECT)
        return gd_err_set(l->err, GD_EPOLICY, "field '%s' must be an object", key);
    return gd_policy_refuse_unknown(l, *out, where, known);
}

static int read_budget(struct gd_policy_loader *l)
{
    static const char *const known[] = {"item_bytes",    "tool_bytes", "catalog_bytes",
                                        "similar_tools", "notes",      NULL};
    const struct gd_json *render;
    bool notes = false;
    int64_t v[4] = {4096, 512, 8192, 5};
    const int64_t min[4] = {ITEM_BYTES_MIN, ITEM_BYTES_MIN, 0, 0};
    const int64_t max[4] = {ITEM_BYTES_MAX, ITEM_BYTES_MAX, ITEM_BYTES_MAX,
                            GD_POLICY_SIMILAR_TOOLS_MAX};
    int rc = gd_policy_want_object(l, "render", known, &render);
    for (int i = 0; i < 4 && rc == GD_OK && render; i++)
        rc = gd_policy_result(
            l, gd_json_want_i64(render, "render.", known[i], min[i], max[i], &v[i], l->err));
    if (rc == GD_OK && render)
        rc = gd_policy_result(l, gd_json_want_bool(render, "render.", "notes", &notes, l->err));
    if (rc == GD_OK && notes && l->p->rendering != GD_RENDER_DIALOGUE)
        rc = gd_policy_fail(l, "field 'render.notes' needs the rendering \"dialogue\"");
    l->p->budget = (struct gd_render_budget){(uint32_t)v[0], (uint32_t)v[1], (uint32_t)v[2],
                                             (uint32_t)v[3], notes};
    return rc;
}

static int read_fields(struct gd_policy_loader *l)
{
    static const char *const known[] = {
        "name",      "version", "template",   "template_file",    "remove",
        "chat",      "system",  "bos",        "answer_prefix",    "choices",
        "rendering", "render",  "thresholds", "operating_points", "evidence",
        NULL};
    static int (*const readers[])(struct gd_policy_loader *) = {read_name,
                                                                read_chat,
                                                                read_bos,
                                                                read_template,
                                                                read_choices,
                                                                read_budget,
                                                                gd_policy_read_thresholds,
                                                                gd_policy_read_points,
                                                                gd_policy_read_evidence};
    if (!gd_json_is(l->root, GD_JSON_OBJECT))
        return gd_policy_fail(l, "a policy must be a JSON object");
    if (l->root->flags & GD_JSON_F_DUPKEY)
        return gd_policy_fail(l, "the policy has a duplicate key");
    int rc = gd_policy_refuse_unknown(l, l->root, "", known);
    for (size_t i = 0; i < sizeof readers / sizeof readers[0] && rc == GD_OK; i++)
        rc = readers[i](l);
    return rc;
}

static void digest(struct gd_str text, char hex[65])
{
    uint8_t sum[32];
    gd_sha256(text.ptr, text.len, sum);
    gd_hex(sum, sizeof sum, hex);
}

int gd_policy_parse(struct gd_policy **out, struct gd_str json, const char *base_dir,
                    const struct gd_tokenizer *t, struct gd_err *err)
{
    *out = NULL;
    struct gd_policy *p = calloc(1, sizeof *p);
    if (!p)
        return gd_err_set(err, GD_ENOMEM, "not enough memory for the policy");
    struct gd_policy_loader l = {.p = p, .base_dir = base_dir, .err = err};
    gd_arena_init(&p->arena, POLICY_ARENA_BYTES);
    gd_arena_init(&l.scratch, POLICY_ARENA_BYTES);
    digest(json, p->sha256);
    struct gd_str before = {"", 0};
    struct gd_str after = {"", 0};
    int rc = gd_json_parse(&l.scratch, json, &policy_limits, &l.root, err);
    if (rc == GD_OK)
        rc = read_fields(&l);
    if (rc == GD_OK)
        rc = split_template(&l, &before, &after);
    if (rc == GD_OK)
        rc = gd_policy_bind(p, before, after, t, err);
    gd_arena_free(&l.scratch);
    if (rc == GD_OK) {
        *out = p;
        return GD_OK;
    }
    gd_policy_close(p);
    if (rc == GD_ENOMEM)
        return gd_err_set(err, rc, "not enough memory for the policy");
    if (err)
        err->code = GD_EPOLICY;
    return GD_EPOLICY;
}

int gd_policy_open(struct gd_policy **out, const char *path, const struct gd_tokenizer *t,
                   struct gd_err *err)
{
    *out = NULL;
    if (!path) {
        const struct gd_str json = {(const char *)gd_policy_mcip_json, gd_policy_mcip_json_len};
        const int rc = gd_policy_parse(out, json, NULL, t, err);
        if (rc != GD_OK)
            gd_err_prefix(err, "built-in policy mcip");
        return rc;
    }
    char *data = NULL;
    size_t len = 0;
    int rc = gd_file_read(path, POLICY_JSON_BYTES_MAX, &data, &len, err);
    if (rc != GD_OK)
        return rc;
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    rc = dir ? gd_policy_parse(out, (struct gd_str){data, len}, dir, t, err)
             : gd_err_set(err, GD_ENOMEM, "not enough memory for the policy");
    if (rc == GD_OK && gd_str_dup(&(*out)->arena, gd_str_from(path), &(*out)->path) != GD_OK) {
        gd_policy_close(*out);
        *out = NULL;
        rc = gd_err_set(err, GD_ENOMEM, "not enough memory for the policy");
    }
    if (rc != GD_OK)
        gd_err_prefix(err, "policy %s", path);
    free(dir);
    free(data);
    return rc;
}

void gd_policy_close(struct gd_policy *p)
{
    if (!p)
        return;
    gd_ids_free(&p->prefix_ids);
    gd_ids_free(&p->suffix_ids);
    gd_forest_close(p->forest);
    gd_arena_free(&p->arena);
    free(p);
}
