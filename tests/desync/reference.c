/* reference.c - what a reader that allows no doubt makes of a stream of requests.
 *
 * Written from RFC 9112 and the rules that Guardian promises in its README and headers, not from its
 * code: a head is lines ended by CRLF, none of them folded; one Host; no Transfer-Encoding; at most
 * one Content-Length of one to nine digits; at most 63 headers and 16 KiB. Whatever else is bad, and
 * after something bad nothing can be known. */
#include "desync.h"

#include <string.h>

#define HEADERS_MAX 63
#define HEAD_BYTES_MAX 16384
#define LENGTH_DIGITS_MAX 9
#define PROXY_BYTES_MAX 600 /* that a proxy may add to a head */

static bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

bool id_is_sane(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char c = p[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            (c == '\0' || strchr("-_.:/+=@", c) == NULL)) {
            return false;
        }
    }
    return n > 0 && n <= 128;
}

static bool name_is(const char *p, size_t n, const char *lower_name)
{
    bool same = strlen(lower_name) == n;
    for (size_t i = 0; same && i < n; i++) {
        same = (p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] + 32) : p[i]) == lower_name[i];
    }
    return same;
}

/* What the headers of one request say about its frame. */
struct frame {
    unsigned n_headers, n_host, n_length, n_coding;
    size_t length;
    bool length_ok;
};

static bool is_plain(const char *p, size_t n)
{
    static const char *const methods[] = {"GET /", "HEAD /",   "POST /",
                                          "PUT /", "DELETE /", "OPTIONS /"};
    size_t at = 0;
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]) && at == 0; i++) {
        const size_t len = strlen(methods[i]);
        at = n > len && memcmp(p, methods[i], len) == 0 ? len : 0;
    }
    while (at > 0 && at < n &&
           (p[at] == '/' || (p[at] >= '0' && p[at] <= '9') || (p[at] >= 'a' && p[at] <= 'z'))) {
        at++;
    }
    return at > 0 && at < n && p[at] == ' ';
}

static const char *read_request_line(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && is_token_char(p[i])) {
        i++;
    }
    if (i == 0 || i == n || p[i] != ' ') {
        return "method";
    }
    i++;
    if (i == n || p[i] != '/') {
        return "target";
    }
    while (i < n && (unsigned char)p[i] > 0x20 && p[i] != 0x7f) {
        i++;
    }
    if (n - i != 9 || (memcmp(p + i, " HTTP/1.1", 9) != 0 && memcmp(p + i, " HTTP/1.0", 9) != 0)) {
        return "version";
    }
    return NULL;
}

static void read_length(struct frame *f, const char *p, size_t n)
{
    f->n_length++;
    f->length = 0;
    f->length_ok = n > 0 && n <= LENGTH_DIGITS_MAX;
    for (size_t i = 0; i < n && f->length_ok; i++) {
        f->length_ok = p[i] >= '0' && p[i] <= '9';
        f->length = f->length * 10 + (size_t)(p[i] - '0');
    }
}

static const char *read_header(struct frame *f, struct ref_request *r, const char *base,
                               const char *p, size_t n)
{
    size_t name = 0, end = n;
    while (name < n && is_token_char(p[name])) {
        name++;
    }
    if (name == 0 || name == n || p[name] != ':') {
        return "header name";
    }
    size_t at = name + 1;
    while (at < n && (p[at] == ' ' || p[at] == '\t')) {
        at++;
    }
    while (end > at && (p[end - 1] == ' ' || p[end - 1] == '\t')) {
        end--;
    }
    for (size_t i = at; i < end; i++) {
        if (((unsigned char)p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f) {
            return "control byte in a value";
        }
    }
    f->n_headers++;
    f->n_host += name_is(p, name, "host") ? 1 : 0;
    f->n_coding += name_is(p, name, "transfer-encoding") ? 1 : 0;
    if (name_is(p, name, "content-length")) {
        read_length(f, p + at, end - at);
    } else if (name_is(p, name, "x-request-id") && r->id_len == 0) {
        r->id_at = (size_t)(p - base) + at;
        r->id_len = end - at;
        r->id_echoed =
            id_is_sane(p + at, n - at); /* with blanks behind it, Guardian makes its own */
    }
    return NULL;
}

static const char *read_head(struct frame *f, struct ref_request *r, const char *base,
                             const char *head, size_t n)
{
    const char *why = NULL;
    for (size_t at = 0; at < n && why == NULL;) {
        const char *line = head + at;
        const char *end = memmem(line, n - at, "\r\n", 2);
        const size_t len = (size_t)(end - line);
        why = at == 0 ? read_request_line(line, len) : read_header(f, r, base, line, len);
        at += len + 2;
    }
    if (why != NULL) {
        return why;
    }
    if (n + 2 > HEAD_BYTES_MAX) {
        return "head of more than 16384 bytes";
    }
    if (f->n_headers > HEADERS_MAX) {
        return "more than 63 headers";
    }
    if (f->n_host != 1) {
        return "not one Host";
    }
    if (f->n_coding != 0) {
        return "Transfer-Encoding";
    }
    if (f->n_length > 1 || (f->n_length == 1 && !f->length_ok)) {
        return "Content-Length";
    }
    return NULL;
}

static uint32_t ids_of(const char *p, size_t n, uint64_t seed)
{
    struct id id;
    uint32_t bits = 0;
    for (size_t at = 0; id_find(p, n, seed, &id, &at);) {
        bits |= id_bit(&id);
        p += at + ID_LEN;
        n -= at + ID_LEN;
    }
    return bits;
}

/* Blanks before a request are bad, but what comes after them is still the request that is refused. */
static size_t n_blanks(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && (unsigned char)p[i] <= ' ') {
        i++;
    }
    return i;
}

void reference_read(struct reference *out, const struct stream *s, uint64_t seed)
{
    size_t at = 0;
    bool tunnel =
        false; /* after CONNECT readers differ, and need not care: Guardian has no tunnels */
    out->n = 0;
    while (at < s->len && out->n < REF_MAX) {
        struct ref_request *r = &out->r[out->n++];
        struct frame f = {0};
        const char *head = s->bytes + at;
        const size_t blanks = n_blanks(head, s->len - at);
        const char *end = memmem(head + blanks, s->len - at - blanks, "\r\n\r\n", 4);
        const size_t n = end != NULL ? (size_t)(end - head) + 2 : s->len - at;
        *r = (struct ref_request){.state = REF_INCOMPLETE, .ids = ids_of(head, n, seed)};
        r->may_be_head = memmem(head, n, "HEAD", 4) != NULL;
        if (end == NULL) {
            return;
        }
        if (blanks > 0) {
            r->state = REF_BAD;
            r->why = "blanks before it";
            return;
        }
        r->why = read_head(&f, r, s->bytes, head, n);
        if (r->why != NULL) {
            r->state = REF_BAD;
            return;
        }
        tunnel = tunnel || memcmp(head, "CONNECT ", 8) == 0;
        r->plain = !tunnel && n < HEAD_BYTES_MAX - PROXY_BYTES_MAX && is_plain(head, n) &&
                   memchr(head, '\t', n) == NULL && memmem(head, n, " \r\n", 3) == NULL;
        r->head = memcmp(head, "HEAD ", 5) == 0;
        at += n + 2;
        if (s->len - at < f.length) {
            return;
        }
        at += f.length;
        r->state = REF_GOOD;
    }
}
