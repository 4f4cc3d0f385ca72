/* text.c - how external text becomes part of one line of a prompt. See text.h and
 * guardian/prompt.h.
 *
 * Nothing here emits a line break or another control character: put_escaped() is the only way in
 * for external bytes. Runs of harmless bytes are copied at once. Recursion follows JSON nesting,
 * which the reader bounds. */
#include "text.h"

#include "guardian/file.h"

#include <string.h>

#define SHOWN_BYTES_MAX 48
#define HASH_DIGITS 8

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct gd_str gd_text_trim(struct gd_str text)
{
    while (text.len > 0 && is_space(text.ptr[0])) {
        text.ptr++;
        text.len--;
    }
    while (text.len > 0 && is_space(text.ptr[text.len - 1]))
        text.len--;
    return text;
}

static bool is_control(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7F && cp <= 0x9F) || cp == 0x2028 || cp == 0x2029;
}

/* The escape of one control character; JSON strings escape further ones. */
static void put_control(struct gd_buf *b, uint32_t cp, bool json)
{
    if (cp == '\n')
        gd_buf_z(b, "\\n");
    else if (cp == '\t')
        gd_buf_z(b, "\\t");
    else if (cp == '\r')
        gd_buf_z(b, json ? "\\r" : "\\n");
    else if (cp == '\b' && json)
        gd_buf_z(b, "\\b");
    else if (cp == '\f' && json)
        gd_buf_z(b, "\\f");
    else
        gd_buf_fmt(b, "\\u%04x", (unsigned)cp);
}

/* Bytes from s.ptr[i] that need no look: printable ASCII, and in JSON neither quote nor backslash.
 */
static size_t plain_run(struct gd_str s, size_t i, bool json)
{
    size_t n = 0;
    while (i + n < s.len) {
        const unsigned char c = (unsigned char)s.ptr[i + n];
        if (c < 0x20 || c >= 0x7F || (json && (c == '"' || c == '\\')))
            break;
        n++;
    }
    return n;
}

/* Rule S.3, or with json the escapes of rule J; a name shows its invisible characters. */
static void put_escaped(struct gd_buf *b, struct gd_str s, bool json, bool name)
{
    size_t i = 0;
    while (i < s.len) {
        const size_t run = plain_run(s, i, json);
        if (run > 0) {
            gd_buf_add(b, s.ptr + i, run);
            i += run;
            continue;
        }
        uint32_t cp = 0xFFFD;
        const int n = gd_utf8_next(s, i, &cp);
        if (n < 0)
            gd_utf8_put(b, 0xFFFD);
        else if (json && (cp == '"' || cp == '\\'))
            gd_buf_add(b, (const char[]){'\\', (char)cp}, 2);
        else if (is_control(cp) || (name && gd_text_invisible(cp)))
            put_control(b, cp, json);
        else
            gd_buf_add(b, s.ptr + i, (size_t)n);
        i += (size_t)(n < 0 ? -n : n);
        const bool crlf = !json && n == 1 && cp == '\r' && i < s.len && s.ptr[i] == '\n';
        i += crlf ? 1 : 0;
    }
}

static bool is_ascii(struct gd_str s)
{
    unsigned char all = 0;
    for (size_t i = 0; i < s.len; i++)
        all |= (unsigned char)s.ptr[i];
    return all < 0x80;
}

/* F, for S also C, and the escapes. */
static void put_text(struct gd_buf *b, struct gd_str s, bool json)
{
    struct gd_buf plain;
    gd_buf_init(&plain, s.len * 3 + 1); /* U+FFFD for a wrong byte is the longest */
    if (!is_ascii(s)) {
        gd_text_fold(&plain, s);
        s = (struct gd_str){plain.data, plain.len};
    }
    if (!json && gd_text_in_capitals(s)) {
        if (plain.len == 0)
            gd_buf_str(&plain, s);
        if (!plain.failed) {
            gd_text_uncapitalise(plain.data, plain.len);
            s = (struct gd_str){plain.data, plain.len};
        }
    }
    put_escaped(b, s, json, false);
    if (b->failed == 0)
        b->failed = plain.failed;
    gd_buf_free(&plain);
}

void gd_text_sanitise(struct gd_buf *b, struct gd_str text)
{
    put_text(b, gd_text_trim(text), false);
}

void gd_text_name(struct gd_buf *b, struct gd_str text)
{
    put_escaped(b, gd_text_trim(text), false, true);
}

void gd_text_json_str(struct gd_buf *b, struct gd_str s)
{
    gd_buf_add(b, "\"", 1);
    put_text(b, s, true);
    gd_buf_add(b, "\"", 1);
}

void gd_text_json_name(struct gd_buf *b, struct gd_str name)
{
    gd_buf_add(b, "\"", 1);
    put_escaped(b, name, true, true);
    gd_buf_add(b, "\"", 1);
}

static void put_children(struct gd_buf *b, const struct gd_json *v)
{
    const bool object = v->type == GD_JSON_OBJECT;
    gd_buf_add(b, object ? "{" : "[", 1);
    for (const struct gd_json *c = v->child; c; c = c->next) {
        if (c != v->child)
            gd_buf_add(b, ", ", 2);
        if (object) {
            gd_text_json_str(b, c->key);
            gd_buf_add(b, ": ", 2);
        }
        gd_text_json(b, c);
    }
    gd_buf_add(b, object ? "}" : "]", 1);
}

void gd_text_json(struct gd_buf *b, const struct gd_json *value)
{
    if (!value || b->failed)
        return;
    switch (value->type) {
    case GD_JSON_STRING:
        gd_text_json_str(b, value->str);
        break;
    case GD_JSON_ARRAY:
    case GD_JSON_OBJECT:
        put_children(b, value);
        break;
    case GD_JSON_NULL:
    case GD_JSON_FALSE:
    case GD_JSON_TRUE:
    case GD_JSON_NUMBER:
        gd_buf_str(b, value->raw);
        break;
    }
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

bool gd_text_elide(struct gd_buf *b, struct gd_str s, size_t limit)
{
    if (s.len <= limit) {
        gd_buf_str(b, s);
        return false;
    }
    size_t head = 2 * limit / 3;
    size_t end = s.len - limit / 4;
    while (head > 0 && is_continuation(s.ptr[head]))
        head--;
    while (end < s.len && is_continuation(s.ptr[end]))
        end++;
    uint8_t digest[32];
    char hex[HASH_DIGITS + 1];
    gd_sha256(s.ptr + head, end - head, digest);
    gd_hex(digest, HASH_DIGITS / 2, hex);
    gd_buf_add(b, s.ptr, head);
    gd_buf_fmt(b, " [... %zu bytes sha256:%s ...] ", end - head, hex);
    gd_buf_add(b, s.ptr + end, s.len - end);
    return true;
}

int gd_text_shown(struct gd_str s)
{
    return gd_shown(s, SHOWN_BYTES_MAX);
}

bool gd_text_json_equal(const struct gd_json *x, const struct gd_json *y)
{
    if (x->type != y->type || x->n_children != y->n_children)
        return false;
    if (x->type == GD_JSON_STRING)
        return gd_str_eq(x->str, y->str);
    if (x->type == GD_JSON_NUMBER)
        return gd_str_eq(x->raw, y->raw);
    const struct gd_json *p = x->child;
    const struct gd_json *q = y->child;
    for (; p && q; p = p->next, q = q->next) {
        if (!gd_str_eq(p->key, q->key) || !gd_text_json_equal(p, q))
            return false;
    }
    return !p && !q;
}
