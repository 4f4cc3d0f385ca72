/* jsonw.c - the JSON writer. See guardian/json.h.
 *
 * Every value passes begin_value(), which alone places commas and checks that a value in an object
 * has its key. Misuse (unbalanced ends, too deep) is a defect of this program, not input:
 * GD_ASSERT. Numbers are formatted and checked in the "C" locale whatever the process has set. */
#include "guardian/json.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <string.h>

void gd_json_writer_init(struct gd_json_writer *w, struct gd_buf *b)
{
    *w = (struct gd_json_writer){.buf = b};
}

static void begin_value(struct gd_json_writer *w)
{
    if (w->after_key)
        w->after_key = false;
    else if (w->has_item[w->depth])
        gd_buf_add(w->buf, ",", 1);
    w->has_item[w->depth] = true;
}

static void open_container(struct gd_json_writer *w, const char *bracket)
{
    begin_value(w);
    GD_ASSERT(w->depth + 1 < GD_JSON_WRITER_DEPTH_MAX);
    w->has_item[++w->depth] = false;
    gd_buf_add(w->buf, bracket, 1);
}

static void close_container(struct gd_json_writer *w, const char *bracket)
{
    GD_ASSERT(w->depth > 0 && !w->after_key);
    w->depth--;
    gd_buf_add(w->buf, bracket, 1);
}

void gd_jw_object(struct gd_json_writer *w)
{
    open_container(w, "{");
}

void gd_jw_object_end(struct gd_json_writer *w)
{
    close_container(w, "}");
}

void gd_jw_array(struct gd_json_writer *w)
{
    open_container(w, "[");
}

void gd_jw_array_end(struct gd_json_writer *w)
{
    close_container(w, "]");
}

static void put_escape(struct gd_buf *b, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char letters[][2] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                      {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
        if (letters[i][0] == (char)c) {
            gd_buf_add(b, (const char[]){'\\', letters[i][1]}, 2);
            return;
        }
    }
    gd_buf_add(b, (const char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
}

static void put_string(struct gd_buf *b, struct gd_str s)
{
    size_t start = 0; /* of the run that is written as it is */
    size_t i = 0;
    gd_buf_add(b, "\"", 1);
    while (i < s.len) {
        const unsigned char c = (unsigned char)s.ptr[i];
        uint32_t cp;
        int n = 1;
        if (c >= 0x80)
            n = gd_utf8_next(s, i, &cp);
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) {
            i += (size_t)n;
            continue;
        }
        gd_buf_add(b, s.ptr + start, i - start);
        if (n < 0)
            gd_utf8_put(b, 0xFFFD);
        else
            put_escape(b, c);
        i += (size_t)(n < 0 ? -n : n);
        start = i;
    }
    if (s.len > start)
        gd_buf_add(b, s.ptr + start, s.len - start);
    gd_buf_add(b, "\"", 1);
}

void gd_jw_key(struct gd_json_writer *w, const char *key)
{
    GD_ASSERT(w->depth > 0 && !w->after_key);
    begin_value(w);
    put_string(w->buf, gd_str_from(key));
    gd_buf_add(w->buf, ":", 1);
    w->after_key = true;
}

void gd_jw_str(struct gd_json_writer *w, struct gd_str s)
{
    begin_value(w);
    put_string(w->buf, s);
}

void gd_jw_strz(struct gd_json_writer *w, const char *z)
{
    if (z)
        gd_jw_str(w, gd_str_from(z));
    else
        gd_jw_null(w);
}

void gd_jw_i64(struct gd_json_writer *w, int64_t v)
{
    begin_value(w);
    gd_buf_fmt(w->buf, "%lld", (long long)v);
}

/* Up to `exact` digits every decimal survives the way through the binary type, so the shortest text
 * is found there if it has that few digits. That does not hold for subnormals, which start at one
 * digit. (A few powers of two, nearer to their lower neighbour, get one digit too many.) */
static void put_shortest(struct gd_json_writer *w, double v, bool is_float)
{
    const int exact = is_float ? FLT_DIG : DBL_DIG;
    const int enough = is_float ? FLT_DECIMAL_DIG : DBL_DECIMAL_DIG;
    const double least_normal = is_float ? (double)FLT_MIN : DBL_MIN;
    begin_value(w);
    if (!isfinite(v)) {
        gd_buf_z(w->buf, "null");
        return;
    }
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c == (locale_t)0) { /* it may need memory: for LOCPATH */
        w->buf->failed = w->buf->failed != 0 ? w->buf->failed : GD_ENOMEM;
        return;
    }
    const locale_t before = uselocale(c);
    char text[40];
    for (int digits = fabs(v) < least_normal ? 1 : exact; digits <= enough; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
        const double back = is_float ? (double)strtof(text, NULL) : strtod(text, NULL);
        /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-exp42-c,cert-flp37-c): -0 is not 0 */
        if (memcmp(&back, &v, sizeof v) == 0)
            break;
    }
    uselocale(before);
    freelocale(c);
    gd_buf_z(w->buf, text);
}

void gd_jw_f64(struct gd_json_writer *w, double v)
{
    put_shortest(w, v, false);
}

void gd_jw_f32(struct gd_json_writer *w, float v)
{
    put_shortest(w, (double)v, true);
}

void gd_jw_bool(struct gd_json_writer *w, bool v)
{
    begin_value(w);
    gd_buf_z(w->buf, v ? "true" : "false");
}

void gd_jw_null(struct gd_json_writer *w)
{
    begin_value(w);
    gd_buf_z(w->buf, "null");
}

void gd_jw_raw(struct gd_json_writer *w, struct gd_str json)
{
    begin_value(w);
    gd_buf_str(w->buf, json);
}

void gd_jw_put_str(struct gd_json_writer *w, const char *key, const char *value)
{
    gd_jw_key(w, key);
    gd_jw_strz(w, value);
}

void gd_jw_put_f64(struct gd_json_writer *w, const char *key, double value)
{
    gd_jw_key(w, key);
    gd_jw_f64(w, value);
}

void gd_jw_put_i64(struct gd_json_writer *w, const char *key, int64_t value)
{
    gd_jw_key(w, key);
    gd_jw_i64(w, value);
}

void gd_jw_put_bool(struct gd_json_writer *w, const char *key, bool value)
{
    gd_jw_key(w, key);
    gd_jw_bool(w, value);
}
