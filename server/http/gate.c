/* gate.c - refuses every request whose framing two readers could understand differently.
 *
 * The HTTP library is lenient: it drops headers after the 64th, stops at a folded line, takes the
 * first of two lengths and reads "5abc" as 5. Each of these lets bytes of one request be taken for
 * the next one, so none of them passes here: no Transfer-Encoding at all, one Content-Length of
 * digits, one Host, header names that are tokens, values without control characters. That the head
 * holds nothing which the library does not show us is seen in its bytes, before the library has
 * them. */
#include "guardian/gate.h"

#include <assert.h>
#include <string.h>

static_assert(GD_REQUEST_BYTES_MAX == 2097152, "what is said of it");
#define BODY_TOO_LARGE "the body is larger than 2097152 bytes"

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool equals_nocase(const char *a, const char *lower_b)
{
    while (*a != '\0' && lower(*a) == *lower_b) {
        a++;
        lower_b++;
    }
    return *a == '\0' && *lower_b == '\0';
}

const char *gd_http_header_get(const struct gd_http_request *req, const char *lower_name)
{
    for (uint32_t i = 0; i < req->n_headers; i++) {
        if (equals_nocase(req->headers[i].name, lower_name)) {
            return req->headers[i].value;
        }
    }
    return NULL;
}

static uint32_t header_count(const struct gd_http_request *req, const char *lower_name)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < req->n_headers; i++) {
        n += equals_nocase(req->headers[i].name, lower_name) ? 1 : 0;
    }
    return n;
}

/* RFC 9110, 5.6.2 */
static bool is_token(const char *s, size_t n)
{
    static const char others[] = "!#$%&'*+-.^_`|~0123456789";
    for (size_t i = 0; i < n; i++) {
        char c = lower(s[i]);
        if (!(c >= 'a' && c <= 'z') && (c == '\0' || strchr(others, c) == NULL)) {
            return false;
        }
    }
    return n > 0;
}

static bool is_field_value(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return false;
        }
    }
    return true;
}

/* What a Host may be made of: RFC 9112, 3.2, and RFC 3986, 3.2; it may be empty. Where colons and
 * brackets stand is not looked at: every name is answered alike. */
static bool is_authority(const char *s)
{
    for (; *s != '\0'; s++) {
        if (*s <= 0x20 || *s >= 0x7f || strchr("\"#/<>?@\\^`{|}", *s) != NULL) {
            return false;
        }
    }
    return true;
}

/* METHOD blank target blank version; what these are is for the library and the routes to say. */
static bool is_request_line(const char *s, size_t n)
{
    const char *target = memchr(s, ' ', n);
    const char *version =
        target != NULL ? memchr(target + 1, ' ', n - (size_t)(target + 1 - s)) : NULL;
    return version != NULL && is_token(s, (size_t)(target - s)) && version > target + 1 &&
           memchr(version + 1, ' ', n - (size_t)(version + 1 - s)) == NULL &&
           memchr(s, '\t', n) == NULL && is_field_value(s, n);
}

static bool is_header_line(const char *s, size_t n)
{
    const char *colon = memchr(s, ':', n);
    return colon != NULL && is_token(s, (size_t)(colon - s)) &&
           is_field_value(colon + 1, n - (size_t)(colon + 1 - s));
}

bool gd_gate_head_is_plain(const char *head, size_t n)
{
    size_t at = 0;
    for (bool first = true;; first = false) {
        const char *end = memchr(head + at, '\n', n - at);
        if (end == NULL || end == head + at || end[-1] != '\r') {
            return false;
        }
        const size_t len = (size_t)(end - 1 - (head + at));
        if (len == 0) {
            return !first && end + 1 == head + n;
        }
        if (!(first ? is_request_line : is_header_line)(head + at, len)) {
            return false;
        }
        at += len + 2;
    }
}

static void refuse(struct gd_gate *g, int status, const char *code, const char *message)
{
    g->status = status;
    g->code = code;
    g->message = message;
}

static void check_head(const struct gd_http_request *req, struct gd_gate *g)
{
    if (req->n_headers > GD_HTTP_HEADERS_MAX) {
        refuse(g, 431, "too_many_headers",
               "a request may have at most " GD_TEXT(GD_HTTP_HEADERS_MAX) " header lines");
        return;
    }
    if (!req->plain) {
        refuse(g, 400, "bad_request",
               "the request head must be lines ended by CRLF, not folded, nothing before them");
        return;
    }
    for (uint32_t i = 0; i < req->n_headers; i++) {
        const char *name = req->headers[i].name, *value = req->headers[i].value;
        if (!is_token(name, strlen(name)) || !is_field_value(value, strlen(value))) {
            refuse(g, 400, "bad_request", "a header has a malformed name or value");
            return;
        }
    }
    const char *host = gd_http_header_get(req, "host");
    if (host == NULL || header_count(req, "host") != 1) {
        refuse(g, 400, "bad_request", "a request must have exactly one Host header");
        return;
    }
    if (!is_authority(host)) {
        refuse(g, 400, "bad_request",
               "the Host header must be a name or an address, and perhaps a port");
        return;
    }
    if (req->path == NULL || req->path[0] != '/') {
        refuse(g, 400, "bad_request", "the request target must be a path");
    }
}

static void check_length(const struct gd_http_request *req, struct gd_gate *g)
{
    if (header_count(req, "transfer-encoding") != 0) {
        refuse(g, 411, "length_required",
               "Transfer-Encoding is not accepted; send a Content-Length");
        return;
    }
    uint32_t n = header_count(req, "content-length");
    if (n == 0) {
        return;
    }
    const char *text = gd_http_header_get(req, "content-length");
    size_t digits = strspn(text, "0123456789");
    if (n != 1 || digits == 0 || text[digits] != '\0') {
        refuse(g, 400, "bad_request", "Content-Length must be one number, written in digits");
        return;
    }
    if (digits > 9) {
        refuse(g, 413, "limit_exceeded", BODY_TOO_LARGE);
        return;
    }
    g->has_length = true;
    for (size_t i = 0; i < digits; i++) {
        g->content_length = g->content_length * 10 + (size_t)(text[i] - '0');
    }
}

static void check_options(const struct gd_http_request *req, struct gd_gate *g)
{
    if (gd_http_header_get(req, "upgrade") != NULL) {
        refuse(g, 400, "bad_request", "Upgrade is not supported");
        return;
    }
    const char *expect = gd_http_header_get(req, "expect");
    if (expect != NULL) {
        g->expect_continue = equals_nocase(expect, "100-continue");
        if (!g->expect_continue || header_count(req, "expect") != 1) {
            refuse(g, 417, "expectation_failed", "the only expectation met is 100-continue");
        }
    }
}

/* The library keeps a connection open after HTTP/1.1 with no Connection field, or with a first one
 * that names keep-alive: what goes beyond one such field is answered with "close". */
static bool asks_to_close(const struct gd_http_request *req)
{
    const uint32_t n = header_count(req, "connection");
    return strcmp(req->version, "1.1") != 0 || n > 1 ||
           (n == 1 && !equals_nocase(gd_http_header_get(req, "connection"), "keep-alive"));
}

void gd_gate_framing(const struct gd_http_request *req, struct gd_gate *out)
{
    *out = (struct gd_gate){.client_closes = true};
    void (*const checks[])(const struct gd_http_request *, struct gd_gate *) = {
        check_head,
        check_length,
        check_options,
    };
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]) && out->status == 0; i++) {
        checks[i](req, out);
    }
    if (out->status == 0) {
        out->client_closes = asks_to_close(req);
    }
}

/* One of the origins, which are separated by commas. */
static bool is_listed(const char *origin, const char *allowed)
{
    const size_t n = strlen(origin);
    for (const char *at = allowed; n > 0 && *at != '\0';) {
        const size_t len = strcspn(at, ",");
        if (len == n && memcmp(at, origin, n) == 0) {
            return true;
        }
        at += at[len] == ',' ? len + 1 : len;
    }
    return false;
}

void gd_gate_origin(const struct gd_http_request *req, const char *allowed, struct gd_gate *out)
{
    const uint32_t n = header_count(req, "origin");
    if (n == 0) {
        return;
    }
    if (n != 1 || !is_listed(gd_http_header_get(req, "origin"), allowed)) {
        refuse(out, 403, "origin_not_allowed", "requests of web pages of this origin are refused");
    }
}

static bool is_json_type(const char *value)
{
    static const char want[] = "application/json";
    size_t n = sizeof(want) - 1;
    for (size_t i = 0; i < n; i++) {
        if (lower(value[i]) != want[i]) {
            return false;
        }
    }
    return value[n] == '\0' || value[n] == ';' || value[n] == ' ' || value[n] == '\t';
}

void gd_gate_body(const struct gd_http_request *req, bool takes_body, struct gd_gate *out)
{
    if (!takes_body) {
        if (out->content_length > 0) {
            refuse(out, 400, "bad_request", "this method takes no body");
        }
        return;
    }
    if (req->query != NULL) {
        refuse(out, 400, "bad_request", "this path takes no query string");
        return;
    }
    if (!out->has_length) {
        refuse(out, 411, "length_required", "a Content-Length is required");
        return;
    }
    if (out->content_length > GD_REQUEST_BYTES_MAX) {
        refuse(out, 413, "limit_exceeded", BODY_TOO_LARGE);
        return;
    }
    const char *type = gd_http_header_get(req, "content-type");
    if (type != NULL && (header_count(req, "content-type") != 1 || !is_json_type(type))) {
        refuse(out, 415, "unsupported_media_type", "the body must be application/json");
        return;
    }
    const char *coding = gd_http_header_get(req, "content-encoding");
    if (coding != NULL &&
        (header_count(req, "content-encoding") != 1 || !equals_nocase(coding, "identity"))) {
        refuse(out, 415, "unsupported_media_type", "the body must not be compressed");
    }
}
