/* json.c - the JSON reader. See guardian/json.h.
 *
 * One pass over the text, no recursion: open containers stand on a stack of depth_max frames, the
 * loop in read_document() alternates between reading one value and reading what may follow it.
 * Strings are scanned first (validated, decoded length counted) and copied only when they hold
 * escapes, so that a budget is checked before memory is taken. Duplicate keys: few members are
 * compared pair by pair, many are sorted by (hash, length, bytes), which stays n log n when an
 * attacker chooses the keys. Numbers are checked and kept as text. */
#include "guardian/json.h"
#include "guardian/limits.h"

#include <string.h>

#define PAIRWISE_MEMBERS_MAX 8u

const struct gd_json_limits GD_JSON_REQUEST_LIMITS = {
    .bytes_max = GD_REQUEST_BYTES_MAX,
    .nodes_max = GD_REQUEST_NODES_MAX,
    .depth_max = GD_REQUEST_DEPTH_MAX,
    .key_bytes_max = GD_REQUEST_KEY_BYTES_MAX,
};

const struct gd_json_limits GD_JSON_FILE_LIMITS = {
    .bytes_max = GD_FILE_JSON_BYTES_MAX,
    .nodes_max = GD_FILE_JSON_NODES_MAX,
    .depth_max = GD_FILE_JSON_DEPTH_MAX,
    .key_bytes_max = GD_FILE_JSON_KEY_BYTES_MAX,
};

struct frame {
    struct gd_json *node; /* the open container */
    struct gd_json *last; /* its newest child, NULL at first */
};

struct sort_key {
    uint64_t hash;
    struct gd_str key;
};

struct parser {
    const char *s;
    size_t n;
    size_t i; /* next byte */
    struct gd_arena *arena;
    const struct gd_json_limits *lim;
    struct gd_err *err;
    struct frame *frames;
    uint32_t depth; /* open containers */
    uint32_t nodes;
    struct sort_key *scratch; /* 2 * scratch_cap entries, kept from object to object */
    size_t scratch_cap;
};

static int fail_at(struct parser *p, size_t at, const char *what)
{
    return gd_err_set(p->err, GD_EJSON, "invalid JSON at byte %zu: %s", at, what);
}

static int fail_memory(struct parser *p)
{
    return gd_err_set(p->err, GD_ENOMEM, "not enough memory for the JSON text at byte %zu", p->i);
}

static void skip_space(struct parser *p)
{
    while (p->i < p->n) {
        const char c = p->s[p->i];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
        p->i++;
    }
}

/* The next byte, or -1 at the end. */
static int peek(const struct parser *p)
{
    return p->i < p->n ? (unsigned char)p->s[p->i] : -1;
}

/* ---- strings ---- */

struct scan {
    size_t begin; /* first byte after the quote */
    size_t end;   /* the closing quote */
    size_t decoded_len;
    bool escapes;
    bool surrogate; /* a lone one */
};

static size_t utf8_len(uint32_t cp)
{
    return cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
}

/* Four hex digits at s[0..n), or -1. */
static int32_t read_hex4(const char *s, size_t n)
{
    if (n < 4)
        return -1;
    int32_t v = 0;
    for (int k = 0; k < 4; k++) {
        const char c = s[k];
        int digit;
        if (c >= '0' && c <= '9')
            digit = c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (c | 0x20) - 'a' + 10;
        else
            return -1;
        v = v * 16 + digit;
    }
    return v;
}

/* Reads the escape whose backslash is s[0]; returns its length, 0 when it is not one. */
static size_t read_escape(const char *s, size_t n, uint32_t *cp, bool *lone)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    *lone = false;
    if (n < 2)
        return 0;
    if (s[1] != 'u') {
        const char *hit = s[1] ? strchr(from, s[1]) : NULL;
        if (!hit)
            return 0;
        *cp = (uint32_t)to[hit - from];
        return 2;
    }
    const int32_t hi = read_hex4(s + 2, n - 2);
    if (hi < 0)
        return 0;
    if (hi < 0xD800 || hi > 0xDFFF) {
        *cp = (uint32_t)hi;
        return 6;
    }
    if (hi <= 0xDBFF && n >= 12 && s[6] == '\\' && s[7] == 'u') {
        const int32_t lo = read_hex4(s + 8, n - 8);
        if (lo >= 0xDC00 && lo <= 0xDFFF) {
            *cp = 0x10000u + ((uint32_t)(hi - 0xD800) << 10) + (uint32_t)(lo - 0xDC00);
            return 12;
        }
    }
    *cp = 0xFFFD;
    *lone = true;
    return 6;
}

/* Index of the first byte from i on that is not plain printable ASCII, or that is a quote or a
 * backslash. */
static size_t skip_plain(const char *s, size_t i, size_t n)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t high = 0x8080808080808080u;
    while (n - i >= 8) {
        uint64_t x;
        memcpy(&x, s + i, 8);
        const uint64_t quote = x ^ (ones * '"');
        const uint64_t slash = x ^ (ones * '\\');
        const uint64_t hit = (((x - ones * 0x20) | (quote - ones) | (slash - ones)) | x) & high;
        if (hit != 0)
            break;
        i += 8;
    }
    while (i < n) {
        const unsigned char c = (unsigned char)s[i];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\')
            break;
        i++;
    }
    return i;
}

/* Validates the string whose quote is at p->i and moves behind it. */
static int scan_string(struct parser *p, struct scan *out)
{
    const struct gd_str all = {p->s, p->n};
    size_t i = p->i + 1;
    size_t saved = 0; /* bytes that decoding takes away */
    *out = (struct scan){.begin = i};
    for (;;) {
        i = skip_plain(p->s, i, p->n);
        if (i >= p->n)
            return fail_at(p, p->n, "the text ends inside a string");
        const unsigned char c = (unsigned char)p->s[i];
        uint32_t cp;
        if (c == '"')
            break;
        if (c < 0x20)
            return fail_at(p, i, "a control character must be escaped inside a string");
        if (c == '\\') {
            bool lone;
            const size_t len = read_escape(p->s + i, p->n - i, &cp, &lone);
            if (len == 0)
                return fail_at(p, i, "not a valid escape sequence");
            out->escapes = true;
            out->surrogate |= lone;
            saved += len - utf8_len(cp);
            i += len;
            continue;
        }
        const int len = gd_utf8_next(all, i, &cp);
        if (len < 0)
            return fail_at(p, i, "not valid UTF-8");
        i += (size_t)len;
    }
    out->end = i;
    out->decoded_len = i - out->begin - saved;
    p->i = i + 1;
    return GD_OK;
}

/* The value of a scanned string: a slice of the text, or a decoded copy in the arena. */
static int take_string(struct parser *p, const struct scan *sc, struct gd_str *out)
{
    if (!sc->escapes) {
        *out = (struct gd_str){p->s + sc->begin, sc->end - sc->begin};
        return GD_OK;
    }
    char *data = gd_arena_alloc(p->arena, sc->decoded_len);
    if (!data)
        return fail_memory(p);
    size_t w = 0;
    for (size_t i = sc->begin; i < sc->end;) {
        const char *slash = memchr(p->s + i, '\\', sc->end - i);
        const size_t run = slash ? (size_t)(slash - (p->s + i)) : sc->end - i;
        memcpy(data + w, p->s + i, run);
        w += run;
        i += run;
        if (!slash)
            break;
        uint32_t cp = 0;
        bool lone;
        i += read_escape(p->s + i, sc->end - i, &cp, &lone);
        w += gd_utf8_encode(cp, data + w);
    }
    GD_ASSERT(w == sc->decoded_len);
    *out = (struct gd_str){data, w};
    return GD_OK;
}

/* ---- numbers and words ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t skip_digits(const char *s, size_t i, size_t n)
{
    while (i < n && is_digit(s[i]))
        i++;
    return i;
}

static int read_number(struct parser *p)
{
    const char *s = p->s;
    const size_t n = p->n;
    size_t i = p->i;
    if (s[i] == '-')
        i++;
    if (i >= n || !is_digit(s[i]))
        return fail_at(p, i, "a number needs a digit here");
    if (s[i] == '0')
        i++;
    else
        i = skip_digits(s, i, n);
    if (i < n && s[i] == '.') {
        i++;
        if (i >= n || !is_digit(s[i]))
            return fail_at(p, i, "a fraction needs a digit here");
        i = skip_digits(s, i, n);
    }
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        i++;
        if (i < n && (s[i] == '+' || s[i] == '-'))
            i++;
        if (i >= n || !is_digit(s[i]))
            return fail_at(p, i, "an exponent needs a digit here");
        i = skip_digits(s, i, n);
    }
    p->i = i;
    return GD_OK;
}

static int read_word(struct parser *p, const char *word)
{
    const size_t len = strlen(word);
    if (p->n - p->i < len || memcmp(p->s + p->i, word, len) != 0)
        return fail_at(p, p->i, "a value is expected");
    p->i += len;
    return GD_OK;
}

/* ---- duplicate keys ---- */

static uint64_t hash_bytes(struct gd_str s)
{
    const uint64_t mul = 0x9E3779B97F4A7C15u;
    uint64_t h = s.len * mul;
    size_t i = 0;
    for (; s.len - i >= 8; i += 8) {
        uint64_t x;
        memcpy(&x, s.ptr + i, 8);
        h = (h ^ x) * mul;
        h ^= h >> 29;
    }
    for (; i < s.len; i++)
        h = (h ^ (unsigned char)s.ptr[i]) * mul;
    return h ^ (h >> 32);
}

static int compare_keys(const struct sort_key *a, const struct sort_key *b)
{
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    if (a->key.len != b->key.len)
        return a->key.len < b->key.len ? -1 : 1;
    return a->key.len ? memcmp(a->key.ptr, b->key.ptr, a->key.len) : 0;
}

static void merge(const struct sort_key *from, struct sort_key *to, size_t lo, size_t mid,
                  size_t hi)
{
    size_t a = lo;
    size_t b = mid;
    for (size_t w = lo; w < hi; w++) {
        if (a < mid && (b >= hi || compare_keys(&from[a], &from[b]) <= 0))
            to[w] = from[a++];
        else
            to[w] = from[b++];
    }
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool sorted_has_duplicate(struct sort_key *keys, struct sort_key *spare, size_t n)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width)
            merge(keys, spare, lo, min_size(lo + width, n), min_size(lo + 2 * width, n));
        struct sort_key *t = keys;
        keys = spare;
        spare = t;
    }
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(&keys[i - 1], &keys[i]) == 0)
            return true;
    }
    return false;
}

static int reserve_scratch(struct parser *p, size_t n)
{
    if (n <= p->scratch_cap)
        return GD_OK;
    const size_t cap = n > 2 * p->scratch_cap ? n : 2 * p->scratch_cap;
    p->scratch_cap = 0;
    p->scratch = gd_arena_calloc(p->arena, cap, 2 * sizeof *p->scratch);
    if (!p->scratch)
        return fail_memory(p);
    p->scratch_cap = cap;
    return GD_OK;
}

static int flag_duplicates(struct parser *p, struct gd_json *obj)
{
    const size_t n = obj->n_children;
    bool found = false;
    if (n <= PAIRWISE_MEMBERS_MAX) {
        for (const struct gd_json *a = obj->child; a && !found; a = a->next) {
            for (const struct gd_json *b = a->next; b && !found; b = b->next)
                found = gd_str_eq(a->key, b->key);
        }
    } else {
        const int rc = reserve_scratch(p, n);
        if (rc)
            return rc;
        size_t k = 0;
        for (const struct gd_json *m = obj->child; m; m = m->next)
            p->scratch[k++] = (struct sort_key){hash_bytes(m->key), m->key};
        found = sorted_has_duplicate(p->scratch, p->scratch + p->scratch_cap, n);
    }
    if (found)
        obj->flags |= GD_JSON_F_DUPKEY;
    return GD_OK;
}

/* ---- the document ---- */

/* A node for the value that starts at p->i, linked behind its elder sibling. NULL and *rc where
 * depth, number of values or memory forbid it. */
static struct gd_json *new_node(struct parser *p, struct gd_str key, int *rc)
{
    if (p->depth >= p->lim->depth_max) {
        *rc = gd_err_set(p->err, GD_ELIMIT, "the JSON text is nested deeper than %u at byte %zu",
                         p->lim->depth_max, p->i);
        return NULL;
    }
    if (p->nodes >= p->lim->nodes_max) {
        *rc = gd_err_set(p->err, GD_ELIMIT, "the JSON text has more than %u values at byte %zu",
                         p->lim->nodes_max, p->i);
        return NULL;
    }
    struct gd_json *v = gd_arena_alloc(p->arena, sizeof *v);
    if (!v) {
        *rc = fail_memory(p);
        return NULL;
    }
    p->nodes++;
    v->key = key;
    if (p->depth > 0) {
        struct frame *f = &p->frames[p->depth - 1];
        if (f->last)
            f->last->next = v;
        else
            f->node->child = v;
        f->last = v;
        f->node->n_children++;
    }
    return v;
}

static int read_string(struct parser *p, struct gd_json *v)
{
    struct scan sc;
    v->type = GD_JSON_STRING;
    const int rc = scan_string(p, &sc);
    if (rc)
        return rc;
    if (sc.surrogate)
        v->flags |= GD_JSON_F_SURROGATE;
    return take_string(p, &sc, &v->str);
}

/* Reads one scalar, or opens one container. */
static int read_value(struct parser *p, struct gd_str key, struct gd_json **root)
{
    skip_space(p);
    const int c = peek(p);
    if (c < 0)
        return fail_at(p, p->i, "the text ends where a value is expected");
    const bool scalar_start =
        c == '"' || c == '-' || is_digit((char)c) || c == 't' || c == 'f' || c == 'n';
    if (!scalar_start && c != '{' && c != '[')
        return fail_at(p, p->i, "a value is expected");
    int rc = GD_OK;
    struct gd_json *v = new_node(p, key, &rc);
    if (!v)
        return rc;
    if (p->depth == 0)
        *root = v;
    v->raw.ptr = p->s + p->i;
    switch (c) {
    case '{':
    case '[':
        v->type = c == '{' ? GD_JSON_OBJECT : GD_JSON_ARRAY;
        p->frames[p->depth++] = (struct frame){v, NULL};
        p->i++;
        return GD_OK;
    case '"':
        rc = read_string(p, v);
        break;
    case 't':
        v->type = GD_JSON_TRUE;
        rc = read_word(p, "true");
        break;
    case 'f':
        v->type = GD_JSON_FALSE;
        rc = read_word(p, "false");
        break;
    case 'n':
        v->type = GD_JSON_NULL;
        rc = read_word(p, "null");
        break;
    default:
        v->type = GD_JSON_NUMBER;
        rc = read_number(p);
        break;
    }
    v->raw.len = (size_t)(p->s + p->i - v->raw.ptr);
    if (p->depth > 0)
        p->frames[p->depth - 1].node->flags |= v->flags;
    return rc;
}

/* Reads `"name" :` of the next member. */
static int read_key(struct parser *p, struct gd_str *key)
{
    skip_space(p);
    if (peek(p) != '"')
        return fail_at(p, p->i, "a member name in quotes is expected");
    const size_t at = p->i;
    struct scan sc;
    int rc = scan_string(p, &sc);
    if (rc)
        return rc;
    if (sc.decoded_len > p->lim->key_bytes_max)
        return gd_err_set(p->err, GD_ELIMIT, "the member name at byte %zu is longer than %zu bytes",
                          at, p->lim->key_bytes_max);
    if (sc.surrogate)
        p->frames[p->depth - 1].node->flags |= GD_JSON_F_SURROGATE;
    rc = take_string(p, &sc, key);
    if (rc)
        return rc;
    skip_space(p);
    if (peek(p) != ':')
        return fail_at(p, p->i, "':' is expected after a member name");
    p->i++;
    return GD_OK;
}

static int close_container(struct parser *p)
{
    struct gd_json *v = p->frames[p->depth - 1].node;
    p->i++;
    v->raw.len = (size_t)(p->s + p->i - v->raw.ptr);
    if (v->type == GD_JSON_OBJECT) {
        const int rc = flag_duplicates(p, v);
        if (rc)
            return rc;
    }
    p->depth--;
    if (p->depth > 0)
        p->frames[p->depth - 1].node->flags |= v->flags;
    return GD_OK;
}

/* After a value or an opening bracket: closes what closes here, until another value must follow
 * (*more, with its key in an object) or the document is complete. */
static int read_after(struct parser *p, struct gd_str *key, bool *more)
{
    while (p->depth > 0) {
        const struct frame *f = &p->frames[p->depth - 1];
        const bool object = f->node->type == GD_JSON_OBJECT;
        skip_space(p);
        const int c = peek(p);
        if (c == (object ? '}' : ']')) {
            const int rc = close_container(p);
            if (rc)
                return rc;
            continue;
        }
        if (f->last && c != ',')
            return fail_at(p, p->i, object ? "',' or '}' is expected" : "',' or ']' is expected");
        if (f->last)
            p->i++;
        *more = true;
        return object ? read_key(p, key) : GD_OK;
    }
    *more = false;
    skip_space(p);
    if (p->i < p->n)
        return fail_at(p, p->i, "nothing may follow the value");
    return GD_OK;
}

size_t gd_json_tree_bytes_max(struct gd_str text, const struct gd_json_limits *lim)
{
    /* Each value but the first has a comma before it, or is the first of a list or object. */
    size_t n = 1;
    for (size_t i = 0; i < text.len; i++) {
        const char c = text.ptr[i];
        n += c == ',' || c == '[' || c == '{';
    }
    return (n < lim->nodes_max ? n : lim->nodes_max) * sizeof(struct gd_json) + text.len;
}

int gd_json_parse(struct gd_arena *a, struct gd_str text, const struct gd_json_limits *lim,
                  const struct gd_json **out, struct gd_err *err)
{
    struct parser p = {.s = text.ptr, .n = text.len, .arena = a, .lim = lim, .err = err};
    if (text.len > lim->bytes_max)
        return gd_err_set(err, GD_ELIMIT, "the JSON text has %zu bytes, the limit is %zu", text.len,
                          lim->bytes_max);
    if (text.len >= 3 && memcmp(text.ptr, "\xEF\xBB\xBF", 3) == 0)
        return fail_at(&p, 0, "a byte order mark is not allowed");
    p.frames = gd_arena_calloc(a, lim->depth_max, sizeof *p.frames);
    if (!p.frames)
        return fail_memory(&p);
    struct gd_json *root = NULL;
    struct gd_str key = {NULL, 0};
    bool more = true;
    while (more) {
        int rc = read_value(&p, key, &root);
        if (rc)
            return rc;
        key = (struct gd_str){NULL, 0};
        rc = read_after(&p, &key, &more);
        if (rc)
            return rc;
    }
    *out = root;
    return GD_OK;
}
