/* fuzz_gate.c - libFuzzer driver of the HTTP gate, from raw bytes. Two readers look at the same bytes:
 *   - a lenient one, which cuts a head in place the way our HTTP library does (skips white space before the
 *     request line, takes bare LF, stops at folded lines and after 64 headers), notes whether what it shows
 *     is all there was, and asks the gate;
 *   - a strict one, which knows nothing of the first and reads RFC 9112 and our own rules, byte by byte.
 * For every input:
 *   - what the gate lets pass, the strict reader reads as well, with the same headers, body length, and
 *     end;
 *   - what the strict reader takes, passes (but for Origin, which may be refused for other reasons);
 *   - a refusal is a 4xx with code and constant text, and closes the connection;
 *   - gd_http_header_get gives the first header of a name; nothing of the input is written to;
 *   - the rules of bodies hold, for routes with and without one. */
#include "guardian/gate.h"
#include "guardian/status.h"

#include <ctype.h>
#include <string.h>

#define HEADERS_OF_LIBRARY (GD_HTTP_HEADERS_MAX + 1)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- the lenient reader ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static char *skip_word(char *p)
{
    while (isgraph((unsigned char)*p))
        p++;
    return p;
}

/* Where the head ends, or 0: an empty line, in either form. */
static size_t find_end(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i];
        if (c < 0x80 && !isprint(c) && c != '\r' && c != '\n' && c != '\t')
            return 0;
        if (i + 1 < n && memcmp(s + i, "\n\n", 2) == 0)
            return i + 2;
        if (i + 3 < n && memcmp(s + i, "\r\n\r\n", 4) == 0)
            return i + 4;
    }
    return 0;
}

/* Ends the word at p with a zero byte, as well as all white space behind it; NULL when it does not end as
 * it must. */
static char *end_word(char *p, bool of_line)
{
    if (of_line ? *p != '\r' && *p != '\n' : *p != ' ')
        return NULL;
    do
        *p++ = '\0';
    while (isspace((unsigned char)*p));
    return of_line || isgraph((unsigned char)*p) ? p : NULL;
}

static bool cut_line(struct gd_http_request *r, char *p, char **rest)
{
    char *method = p;
    char *path = end_word(skip_word(method), false);
    char *version = path ? end_word(skip_word(path), false) : NULL;
    *rest = version ? end_word(skip_word(version), true) : NULL;
    if (!*rest || (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0))
        return false;
    if (method[strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-")] != '\0')
        return false;
    r->method = method;
    r->path = path;
    r->version = version + 5;
    char *query = strchr(path, '?');
    if (query) {
        *query = '\0';
        r->query = query + 1;
    }
    return true;
}

static bool cut_headers(struct gd_http_request *r, char *p)
{
    while (r->n_headers < HEADERS_OF_LIBRARY) {
        struct gd_http_header *h = &r->headers[r->n_headers];
        char *name = p;
        while (*p != ':' && *p > ' ' && *p <= '~')
            p++;
        if (p == name)
            return true;
        while (*p == ' ')
            *p++ = '\0';
        if (*p != ':')
            return false;
        *p++ = '\0';
        p += strspn(p, " \t");
        h->name = name;
        h->value = p;
        r->n_headers++;
        p += strcspn(p, "\r\n");
        if (*p == '\r') {
            *p++ = '\0';
            if (*p != '\n')
                return false;
        }
        if (*p == '\0')
            return true;
        *p++ = '\0';
        if (*p == '\r' || *p == '\n')
            return true;
    }
    return true;
}

/* False when the library would not show the request at all. bytes: of raw, to be cut. *head: bytes up to
 * the body. */
static bool read_leniently(const char *raw, char *bytes, size_t n, struct gd_http_request *r,
                           size_t *head)
{
    size_t skipped = 0;
    while (skipped < n && isspace((unsigned char)bytes[skipped]))
        skipped++;
    char *p = bytes + skipped;
    const size_t end = find_end(p, n - skipped);
    char *rest = NULL;
    if (end == 0)
        return false;
    p[end - 1] = '\0';
    *head = skipped + end;
    if (!cut_line(r, p, &rest) || !cut_headers(r, rest))
        return false;
    r->plain = gd_gate_head_is_plain(raw, *head);
    return true;
}

/* ---- the strict reader ---- */

struct strict {
    size_t head;
    uint32_t n_headers, hosts, lengths, codings, upgrades, expects, types, connections, packings;
    size_t length;
    bool bad_host, bad_length, bad_expect, closes, expects_continue, query, origin, bad_type,
        packed;
    struct gd_str names[HEADERS_OF_LIBRARY], values[HEADERS_OF_LIBRARY];
};

static bool same_word(struct gd_str s, const char *lower)
{
    if (s.len != strlen(lower))
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (tolower((unsigned char)s.ptr[i]) != lower[i])
            return false;
    }
    return true;
}

static size_t span(struct gd_str s, size_t at, bool (*is)(unsigned char))
{
    size_t i = at;
    while (i < s.len && is((unsigned char)s.ptr[i]))
        i++;
    return i - at;
}

static void note_length(struct strict *t, struct gd_str v)
{
    t->lengths++;
    t->length = 0;
    t->bad_length |= v.len == 0 || v.len > 9;
    for (size_t i = 0; i < v.len && !t->bad_length; i++) {
        t->bad_length = !isdigit((unsigned char)v.ptr[i]);
        t->length = t->length * 10 + (size_t)(v.ptr[i] - '0');
    }
}

static bool is_of_host(unsigned char c)
{
    return isalnum(c) || (c && strchr("-._~%:[]!$&'()*+,;=", c));
}

static void note_host(struct strict *t, struct gd_str v)
{
    t->hosts++;
    t->bad_host |= span(v, 0, is_of_host) != v.len;
}

static void note_type(struct strict *t, struct gd_str v)
{
    const struct gd_str start = {v.ptr, v.len < 16 ? v.len : 16};
    t->types++;
    t->bad_type |=
        !same_word(start, "application/json") || (v.len > 16 && !strchr("; \t", v.ptr[16]));
}

static void note_header(struct strict *t, struct gd_str name, struct gd_str v)
{
    if (same_word(name, "host"))
        note_host(t, v);
    else if (same_word(name, "transfer-encoding"))
        t->codings++;
    else if (same_word(name, "upgrade"))
        t->upgrades++;
    else if (same_word(name, "origin"))
        t->origin = true;
    else if (same_word(name, "content-length"))
        note_length(t, v);
    else if (same_word(name, "content-type"))
        note_type(t, v);
    else if (same_word(name, "content-encoding"))
        t->packed |= t->packings++ > 0 || !same_word(v, "identity");
    else if (same_word(name, "connection"))
        t->closes |= t->connections++ > 0 || !same_word(v, "keep-alive");
    if (same_word(name, "expect")) {
        t->expects_continue = same_word(v, "100-continue");
        t->bad_expect |= t->expects++ > 0 || !t->expects_continue;
    }
}

static bool is_method(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || c == '-';
}

static bool is_visible(unsigned char c)
{
    return c > 0x20 && c < 0x7F;
}

static bool is_token(unsigned char c)
{
    return is_visible(c) && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool is_text(unsigned char c)
{
    return (c >= 0x20 && c != 0x7F) || c == '\t';
}

static bool is_space(unsigned char c)
{
    return is_blank((char)c);
}

static bool takes(struct gd_str s, size_t *at, const char *z)
{
    const size_t n = strlen(z);
    if (s.len - *at < n || memcmp(s.ptr + *at, z, n) != 0)
        return false;
    *at += n;
    return true;
}

/* RFC 9112, with one blank and CRLF where it says so, and a path as the target. */
static bool read_strictly(struct gd_str s, struct strict *t)
{
    size_t at = span(s, 0, is_method);
    const size_t method = at;
    if (method == 0 || !takes(s, &at, " ") || at >= s.len || s.ptr[at] != '/')
        return false;
    const size_t path = span(s, at, is_visible);
    t->query = memchr(s.ptr + at, '?', path) != NULL;
    at += path;
    if (!takes(s, &at, " HTTP/1."))
        return false;
    t->closes = at < s.len && s.ptr[at] == '0';
    if (!takes(s, &at, "1") && !takes(s, &at, "0"))
        return false;
    if (!takes(s, &at, "\r\n"))
        return false;
    while (!takes(s, &at, "\r\n")) {
        const struct gd_str name = {s.ptr + at, span(s, at, is_token)};
        at += name.len;
        if (name.len == 0 || !takes(s, &at, ":") || t->n_headers >= GD_HTTP_HEADERS_MAX)
            return false;
        at += span(s, at, is_space);
        const struct gd_str value = {s.ptr + at, span(s, at, is_text)};
        at += value.len;
        if (!takes(s, &at, "\r\n"))
            return false;
        t->names[t->n_headers] = name;
        t->values[t->n_headers++] = value;
        note_header(t, name, value);
    }
    t->head = at;
    return t->hosts == 1 && !t->bad_host && t->codings == 0 && t->lengths <= 1 && !t->bad_length &&
           t->upgrades == 0 && !t->bad_expect;
}

/* ---- both ---- */

static void check_refusal(const struct gd_gate *g)
{
    GD_ASSERT(g->status >= 400 && g->status < 500);
    GD_ASSERT(g->code && g->code[0] && g->message && g->message[0]);
}

static bool is_of(struct gd_str want, const char *have)
{
    return strlen(have) == want.len && memcmp(have, want.ptr, want.len) == 0;
}

static void check_passed(const struct gd_http_request *r, const struct gd_gate *g, size_t head,
                         const struct strict *t)
{
    GD_ASSERT(head == t->head && r->n_headers == t->n_headers && g->code == NULL);
    for (uint32_t i = 0; i < r->n_headers; i++) {
        char name[64] = "";
        GD_ASSERT(is_of(t->names[i], r->headers[i].name) &&
                  is_of(t->values[i], r->headers[i].value));
        for (size_t k = 0; k < t->names[i].len && k + 1 < sizeof name; k++)
            name[k] = (char)tolower((unsigned char)t->names[i].ptr[k]);
        if (t->names[i].len >= sizeof name)
            continue;
        uint32_t first = 0;
        while (!same_word(t->names[first], name))
            first++;
        GD_ASSERT(gd_http_header_get(r, name) == r->headers[first].value);
    }
    GD_ASSERT(g->has_length == (t->lengths == 1) && g->content_length == t->length);
    GD_ASSERT(g->expect_continue == t->expects_continue && g->client_closes == t->closes);
    GD_ASSERT(!gd_http_header_get(r, "transfer-encoding") && gd_http_header_get(r, "host"));
    GD_ASSERT((r->query != NULL) == t->query);
}

static void check_body(const struct gd_http_request *r, const struct gd_gate *passed,
                       const struct strict *t, bool takes_body)
{
    struct gd_gate g = *passed;
    const bool fits = takes_body
                          ? !t->query && t->lengths == 1 && t->length <= GD_REQUEST_BYTES_MAX &&
                                !t->bad_type && t->types <= 1
                          : t->length == 0;
    gd_gate_body(r, takes_body, &g);
    GD_ASSERT(g.status != 0 || fits);
    GD_ASSERT(g.status == 0 || !fits || (takes_body && t->packed));
    if (g.status != 0)
        check_refusal(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gd_http_request r = {.remote = "192.0.2.1"};
    struct strict t = {0};
    struct gd_gate g;
    size_t head = 0;
    char *bytes = malloc(size + 1);
    GD_ASSERT(bytes);
    memcpy(bytes, data, size);
    bytes[size] = '\0';
    const bool fine = read_strictly((struct gd_str){(const char *)data, size}, &t);
    const bool shown = read_leniently((const char *)data, bytes, size, &r, &head);
    GD_ASSERT(shown || !fine);
    if (shown) {
        char *copy = malloc(size + 1);
        GD_ASSERT(copy);
        memcpy(copy, bytes, size + 1);
        memset(&g, 0x5A, sizeof g);
        gd_gate_framing(&r, &g);
        GD_ASSERT(g.status == 0 ? fine : !fine || t.origin);
        if (g.status == 0) {
            check_passed(&r, &g, head, &t);
            check_body(&r, &g, &t, true);
            check_body(&r, &g, &t, false);
        } else {
            check_refusal(&g);
            GD_ASSERT(g.client_closes);
        }
        GD_ASSERT(memcmp(copy, bytes, size + 1) == 0);
        free(copy);
    }
    free(bytes);
    return 0;
}
