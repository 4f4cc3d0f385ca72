/* json.h - the one bounded reader and the one writer of JSON (RFC 8259) in this program.
 *
 * Reader: parses text held by the caller into nodes in an arena; nodes keep the raw span of every
 * value, so that what is judged can be shown byte for byte. Budgets for bytes, nodes, depth and key
 * length hold before memory is taken. Strict RFC 8259 with these choices, made for payloads of real
 * tools:
 *   - numbers of any size are legal: they stay text (gd_json_i64 and gd_json_f64 say whether they
 *     fit);
 *   - \u0000 is legal (strings carry their length); a lone surrogate escape reads as U+FFFD and
 *     sets GD_JSON_F_SURROGATE;
 *   - raw invalid UTF-8, raw control characters, a BOM, trailing bytes, comments, NaN are errors
 *     that name the byte;
 *   - duplicate keys (compared after decoding) set GD_JSON_F_DUPKEY on the object and on every
 *     value above it, up to the root; the caller decides: an envelope refuses them, a payload is
 *     flagged. Lookups return the LAST member of a name.
 * A document belongs to its arena; nodes are immutable and may be read by any thread. */
#ifndef GUARDIAN_JSON_H
#define GUARDIAN_JSON_H

#include "guardian/arena.h"
#include "guardian/status.h"

enum gd_json_type {
    GD_JSON_NULL,
    GD_JSON_FALSE,
    GD_JSON_TRUE,
    GD_JSON_NUMBER,
    GD_JSON_STRING,
    GD_JSON_ARRAY,
    GD_JSON_OBJECT,
};

#define GD_JSON_F_DUPKEY 1u    /* here or below: an object with a duplicate key */
#define GD_JSON_F_SURROGATE 2u /* here or below: a lone surrogate escape was replaced */

struct gd_json {
    enum gd_json_type type;
    uint32_t flags;
    struct gd_str raw;     /* the value's text as it came, quotes and brackets included */
    struct gd_str str;     /* strings: decoded bytes, UTF-8 */
    struct gd_str key;     /* members: decoded name */
    struct gd_json *child; /* first element or member */
    struct gd_json *next;  /* next sibling */
    uint32_t n_children;
};

struct gd_json_limits {
    size_t bytes_max;
    uint32_t nodes_max;
    uint32_t depth_max; /* 1: a scalar or an empty container */
    size_t key_bytes_max;
};

/* Budgets for untrusted requests, and for files of our operator (tokenizer.json has a million
 * strings). */
extern const struct gd_json_limits GD_JSON_REQUEST_LIMITS;
extern const struct gd_json_limits GD_JSON_FILE_LIMITS;

/* More than the nodes and texts of any parse of it take, from a look at its commas and brackets. */
size_t gd_json_tree_bytes_max(struct gd_str text, const struct gd_json_limits *lim);

/* Parses exactly one value. `text` must outlive the nodes (strings without escapes point into it).
 * GD_EJSON, GD_ELIMIT, GD_ENOMEM; err names the byte offset. */
int gd_json_parse(struct gd_arena *a, struct gd_str text, const struct gd_json_limits *lim,
                  const struct gd_json **out, struct gd_err *err);

/* NULL when obj is NULL, not an object or has no such member. */
const struct gd_json *gd_json_get(const struct gd_json *obj, const char *key);

bool gd_json_is(const struct gd_json *v, enum gd_json_type t); /* false for NULL */
bool gd_json_i64(const struct gd_json *v, int64_t *out); /* an integer literal that fits exactly */
bool gd_json_f64(const struct gd_json *v, double *out);  /* a number that is finite as a double */
const char *gd_json_type_name(const struct gd_json *v);  /* "a string", "missing" for NULL, ... */

/* Typed members with messages: "field 'x' must be a string, is a number". Absent or null is GD_OK
 * with *out untouched, unless required. `where` is the path put before the name ("messages[3]."),
 * may be "". */
int gd_json_want_str(const struct gd_json *obj, const char *where, const char *key, bool required,
                     struct gd_str *out, struct gd_err *err);
int gd_json_want_f64(const struct gd_json *obj, const char *where, const char *key, double min,
                     double max, double *out, struct gd_err *err);
int gd_json_want_i64(const struct gd_json *obj, const char *where, const char *key, int64_t min,
                     int64_t max, int64_t *out, struct gd_err *err);
int gd_json_want_bool(const struct gd_json *obj, const char *where, const char *key, bool *out,
                      struct gd_err *err);

/* Writer: appends to a gd_buf. Keeps commas right by itself; a value inside an object takes its key
 * first. Strings: " \ and everything below U+0020 and U+007F escaped; invalid UTF-8 is written as
 * U+FFFD, so output is always valid JSON. */
#define GD_JSON_WRITER_DEPTH_MAX 32
struct gd_json_writer {
    struct gd_buf *buf;
    uint32_t depth;
    bool has_item[GD_JSON_WRITER_DEPTH_MAX];
    bool after_key;
};

void gd_json_writer_init(struct gd_json_writer *w, struct gd_buf *b);
void gd_jw_object(struct gd_json_writer *w);
void gd_jw_object_end(struct gd_json_writer *w);
void gd_jw_array(struct gd_json_writer *w);
void gd_jw_array_end(struct gd_json_writer *w);
void gd_jw_key(struct gd_json_writer *w, const char *key);
void gd_jw_str(struct gd_json_writer *w, struct gd_str s);
void gd_jw_strz(struct gd_json_writer *w, const char *z); /* NULL writes null */
void gd_jw_i64(struct gd_json_writer *w, int64_t v);
void gd_jw_f64(struct gd_json_writer *w,
               double v); /* shortest text that reads back to the same bits; not finite: null */
void gd_jw_f32(struct gd_json_writer *w,
               float v); /* shortest text that reads back to the same float */
void gd_jw_bool(struct gd_json_writer *w, bool v);
void gd_jw_null(struct gd_json_writer *w);
/* A member of an object: key and value. value NULL writes null. */
void gd_jw_put_str(struct gd_json_writer *w, const char *key, const char *value);
void gd_jw_put_f64(struct gd_json_writer *w, const char *key, double value);
void gd_jw_put_i64(struct gd_json_writer *w, const char *key, int64_t value);
void gd_jw_put_bool(struct gd_json_writer *w, const char *key, bool value);
void gd_jw_raw(struct gd_json_writer *w, struct gd_str json); /* trusted JSON text */

/* Appends s with invalid UTF-8 replaced by U+FFFD, one per maximal bad subpart. */
void gd_utf8_repair(struct gd_buf *b, struct gd_str s);
/* Reads one code point at s.ptr[i]; returns its length in bytes, or minus the length of the bad
 * subpart (1..3). */
int gd_utf8_next(struct gd_str s, size_t i, uint32_t *cp);
void gd_utf8_put(struct gd_buf *b, uint32_t cp);
/* Writes one code point (surrogates and numbers above U+10FFFF as U+FFFD) without a zero; returns
 * its 1 to 4 bytes. */
size_t gd_utf8_encode(uint32_t cp, char *out);

#endif
