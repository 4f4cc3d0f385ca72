/* fuzz_json.c - libFuzzer driver of the JSON reader and writer, with jansson as the second opinion.
 * For every input:
 *   - both readers accept or both refuse, except where our policy differs: numbers of any size,
 *     lone surrogate escapes and U+0000 in names are legal here, our budgets are smaller, and
 *     jansson skips a NUL byte behind a number or a word;
 *   - where both accept, types, strings, names, numbers and counts agree;
 *   - raw spans lie in order inside one another, flags and counts are what a naive look finds;
 *   - what the writer makes of the tree parses to an equal tree, and is written again the same;
 *   - under a small arena the result is the same or GD_ENOMEM;
 *   - any bytes written as a string parse back to the repaired bytes. */
#include "guardian/json.h"
#include "guardian/limits.h"

#include <jansson.h>
#include <string.h>

#define DUP_CHECK_MEMBERS_MAX 2000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct facts {
    uint32_t nodes;
    uint32_t depth;
    bool odd_number; /* one that jansson cannot hold */
    bool nul_key;
};

static bool has_nul(struct gd_str s)
{
    return s.len > 0 && memchr(s.ptr, 0, s.len) != NULL;
}

/* Integers are those without fraction and exponent, as jansson sees them. */
static bool is_integer(const struct gd_json *v)
{
    for (size_t i = 0; i < v->raw.len; i++) {
        if (strchr(".eE", v->raw.ptr[i]))
            return false;
    }
    return true;
}

static bool naive_duplicate(const struct gd_json *obj)
{
    for (const struct gd_json *a = obj->child; a; a = a->next) {
        for (const struct gd_json *b = a->next; b; b = b->next) {
            if (gd_str_eq(a->key, b->key))
                return true;
        }
    }
    return false;
}

static void check_node(const struct gd_json *v, uint32_t depth, struct facts *f);

static void check_children(const struct gd_json *v, uint32_t depth, struct facts *f)
{
    const char *at = v->raw.ptr + 1;
    uint32_t n = 0;
    uint32_t flags = 0;
    for (const struct gd_json *c = v->child; c; c = c->next) {
        GD_ASSERT(c->raw.ptr >= at);
        at = c->raw.ptr + c->raw.len;
        flags |= c->flags;
        n++;
        f->nul_key |= has_nul(c->key);
        GD_ASSERT((c->key.ptr != NULL) == (v->type == GD_JSON_OBJECT));
        check_node(c, depth + 1, f);
    }
    GD_ASSERT(at < v->raw.ptr + v->raw.len);
    GD_ASSERT(n == v->n_children);
    GD_ASSERT((v->flags & flags) == flags);
    if (n <= DUP_CHECK_MEMBERS_MAX) {
        const bool dup = v->type == GD_JSON_OBJECT && naive_duplicate(v);
        GD_ASSERT(((v->flags & GD_JSON_F_DUPKEY) != 0) == (dup || (flags & GD_JSON_F_DUPKEY) != 0));
    }
}

static void check_node(const struct gd_json *v, uint32_t depth, struct facts *f)
{
    int64_t n;
    double d;
    f->nodes++;
    f->depth = depth > f->depth ? depth : f->depth;
    GD_ASSERT(v->raw.len > 0);
    switch (v->type) {
    case GD_JSON_NUMBER:
        if (is_integer(v) ? !gd_json_i64(v, &n) : !gd_json_f64(v, &d))
            f->odd_number = true;
        break;
    case GD_JSON_STRING:
        GD_ASSERT(v->str.len + 2 <= v->raw.len);
        for (size_t i = 0; i < v->str.len;) {
            uint32_t cp;
            const int len = gd_utf8_next(v->str, i, &cp);
            GD_ASSERT(len > 0);
            i += (size_t)len;
        }
        break;
    case GD_JSON_ARRAY:
    case GD_JSON_OBJECT:
        check_children(v, depth, f);
        break;
    default:
        GD_ASSERT(v->flags == 0 && v->child == NULL);
        break;
    }
}

/* ---- the same value in both ---- */

static void compare(const struct gd_json *v, const json_t *j);

static const struct gd_json *later_twin(const struct gd_json *m)
{
    for (const struct gd_json *c = m->next; c; c = c->next) {
        if (gd_str_eq(c->key, m->key))
            return c;
    }
    return NULL;
}

static void compare_object(const struct gd_json *v, const json_t *j)
{
    size_t distinct = 0;
    GD_ASSERT(json_is_object(j));
    for (const struct gd_json *m = v->child; m; m = m->next) {
        if ((v->flags & GD_JSON_F_DUPKEY) && later_twin(m))
            continue;
        distinct++;
        const json_t *member = json_object_getn(j, m->key.ptr, m->key.len);
        GD_ASSERT(member);
        compare(m, member);
    }
    GD_ASSERT(distinct == json_object_size(j));
}

static void compare_number(const struct gd_json *v, const json_t *j)
{
    int64_t n = 0;
    double d = 0;
    if (is_integer(v)) {
        GD_ASSERT(json_is_integer(j) && gd_json_i64(v, &n) && n == json_integer_value(j));
        return;
    }
    const double want = json_real_value(j);
    GD_ASSERT(json_is_real(j) && gd_json_f64(v, &d) && memcmp(&d, &want, sizeof d) == 0);
}

static void compare(const struct gd_json *v, const json_t *j)
{
    size_t i = 0;
    switch (v->type) {
    case GD_JSON_NULL:
        GD_ASSERT(json_is_null(j));
        break;
    case GD_JSON_FALSE:
        GD_ASSERT(json_is_false(j));
        break;
    case GD_JSON_TRUE:
        GD_ASSERT(json_is_true(j));
        break;
    case GD_JSON_NUMBER:
        compare_number(v, j);
        break;
    case GD_JSON_STRING:
        GD_ASSERT(json_is_string(j));
        GD_ASSERT(gd_str_eq(v->str, (struct gd_str){json_string_value(j), json_string_length(j)}));
        break;
    case GD_JSON_ARRAY:
        GD_ASSERT(json_is_array(j) && json_array_size(j) == v->n_children);
        for (const struct gd_json *c = v->child; c; c = c->next)
            compare(c, json_array_get(j, i++));
        break;
    case GD_JSON_OBJECT:
        compare_object(v, j);
        break;
    }
}

/* jansson skips a NUL byte behind a number or a word; ours names that byte. */
static bool refused_at_nul(struct gd_str text, const struct gd_err *err)
{
    size_t at = 0;
    return sscanf(err->msg, "invalid JSON at byte %zu:", &at) == 1 && at > 0 && at < text.len &&
           text.ptr[at] == 0 && strchr("0123456789el", text.ptr[at - 1]);
}

static void check_against_jansson(struct gd_str text, const struct gd_err *err,
                                  const struct gd_json *root, const struct facts *f)
{
    const int rc = err->code;
    json_error_t e;
    json_t *j = json_loadb(text.ptr, text.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (rc == 0 && j) {
        compare(root, j);
    } else if (rc == 0) {
        switch (json_error_code(&e)) {
        case json_error_numeric_overflow:
            GD_ASSERT(f->odd_number);
            break;
        case json_error_null_byte_in_key:
            GD_ASSERT(f->nul_key);
            break;
        default:
            GD_ASSERT(root->flags & GD_JSON_F_SURROGATE);
            break;
        }
    } else if (j) {
        GD_ASSERT(rc == GD_ELIMIT || refused_at_nul(text, err));
    }
    json_decref(j);
}

/* ---- the writer ---- */

static void write_tree(struct gd_json_writer *w, const struct gd_json *v)
{
    switch (v->type) {
    case GD_JSON_NULL:
        gd_jw_null(w);
        break;
    case GD_JSON_FALSE:
    case GD_JSON_TRUE:
        gd_jw_bool(w, v->type == GD_JSON_TRUE);
        break;
    case GD_JSON_NUMBER:
        gd_jw_raw(w, v->raw);
        break;
    case GD_JSON_STRING:
        gd_jw_str(w, v->str);
        break;
    case GD_JSON_ARRAY:
        gd_jw_array(w);
        for (const struct gd_json *c = v->child; c; c = c->next)
            write_tree(w, c);
        gd_jw_array_end(w);
        break;
    case GD_JSON_OBJECT:
        gd_jw_object(w);
        for (const struct gd_json *c = v->child; c; c = c->next) {
            char *key = strndup(c->key.ptr, c->key.len);
            GD_ASSERT(key);
            gd_jw_key(w, key);
            free(key);
            write_tree(w, c);
        }
        gd_jw_object_end(w);
        break;
    }
}

static void assert_equal(const struct gd_json *a, const struct gd_json *b)
{
    GD_ASSERT(a->type == b->type && a->n_children == b->n_children);
    GD_ASSERT(gd_str_eq(a->key, b->key) && gd_str_eq(a->str, b->str));
    GD_ASSERT((a->flags & GD_JSON_F_DUPKEY) == (b->flags & GD_JSON_F_DUPKEY));
    if (a->type == GD_JSON_NUMBER)
        GD_ASSERT(gd_str_eq(a->raw, b->raw));
    const struct gd_json *y = b->child;
    for (const struct gd_json *x = a->child; x; x = x->next, y = y->next)
        assert_equal(x, y);
}

static void write_text(struct gd_buf *b, const struct gd_json *root)
{
    struct gd_json_writer w;
    gd_buf_init(b, 8 * GD_REQUEST_BYTES_MAX);
    gd_json_writer_init(&w, b);
    write_tree(&w, root);
    GD_ASSERT(!b->failed);
}

static void check_writer(const struct gd_json *root)
{
    struct gd_arena a;
    struct gd_buf once;
    struct gd_buf twice;
    struct gd_err err;
    const struct gd_json *again = NULL;
    write_text(&once, root);
    gd_arena_init(&a, GD_FILE_ARENA_BYTES);
    const int rc =
        gd_json_parse(&a, (struct gd_str){once.data, once.len}, &GD_JSON_FILE_LIMITS, &again, &err);
    GD_ASSERT(rc == 0 && !(again->flags & GD_JSON_F_SURROGATE));
    assert_equal(root, again);
    write_text(&twice, again);
    GD_ASSERT(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
    gd_buf_free(&twice);
    gd_buf_free(&once);
    gd_arena_free(&a);
}

static void check_written_bytes(struct gd_str bytes)
{
    struct gd_arena a;
    struct gd_buf text;
    struct gd_buf want;
    struct gd_json_writer w;
    const struct gd_json *v = NULL;
    gd_buf_init(&text, SIZE_MAX / 2);
    gd_buf_init(&want, SIZE_MAX / 2);
    gd_arena_init(&a, GD_FILE_ARENA_BYTES);
    gd_json_writer_init(&w, &text);
    gd_jw_str(&w, bytes);
    gd_utf8_repair(&want, bytes);
    GD_ASSERT(gd_json_parse(&a, (struct gd_str){text.data, text.len}, &GD_JSON_FILE_LIMITS, &v,
                            NULL) == 0);
    GD_ASSERT(gd_str_eq(v->str, (struct gd_str){want.data, want.len}));
    gd_arena_free(&a);
    gd_buf_free(&want);
    gd_buf_free(&text);
}

/* The last byte chooses how little memory there is. */
static void check_small_arena(struct gd_str text, int rc)
{
    struct gd_arena a;
    const struct gd_json *root = NULL;
    const size_t last = text.len ? (unsigned char)text.ptr[text.len - 1] : 0;
    gd_arena_init(&a, 64 * ((last + text.len) % 256));
    const int small = gd_json_parse(&a, text, &GD_JSON_REQUEST_LIMITS, &root, NULL);
    GD_ASSERT(small == rc || small == GD_ENOMEM);
    gd_arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gd_arena a;
    struct gd_err err = {0};
    struct facts f = {0};
    const struct gd_json *root = NULL;
    char *exact = malloc(size ? size : 1); /* not const: a reader that writes is caught as well */
    GD_ASSERT(exact);
    memcpy(exact, data, size);
    const struct gd_str text = {exact, size};
    gd_arena_init(&a, GD_REQUEST_ARENA_BYTES);
    const int rc = gd_json_parse(&a, text, &GD_JSON_REQUEST_LIMITS, &root, &err);
    GD_ASSERT(rc == 0 || rc == GD_EJSON || rc == GD_ELIMIT);
    GD_ASSERT(rc == err.code);
    if (rc == 0) {
        check_node(root, 1, &f);
        GD_ASSERT(f.nodes <= GD_REQUEST_NODES_MAX && f.depth <= GD_REQUEST_DEPTH_MAX);
        GD_ASSERT(f.nodes * sizeof(struct gd_json) + size <=
                  gd_json_tree_bytes_max(text, &GD_JSON_REQUEST_LIMITS));
    }
    check_against_jansson(text, &err, root, &f);
    if (rc == 0 && f.depth < GD_JSON_WRITER_DEPTH_MAX && !f.nul_key)
        check_writer(root);
    check_small_arena(text, rc);
    check_written_bytes(text);
    GD_ASSERT(memcmp(exact, data, size) == 0);
    gd_arena_free(&a);
    free(exact);
    return 0;
}
