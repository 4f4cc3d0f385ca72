/* gate.h - the one place that decides whether a request is framed so plainly that no two readers
 * can disagree.
 *
 * Pure functions of a parsed request head; any thread. They know nothing of the HTTP library and
 * nothing of routes, so that tests and fuzzers can call them. A refusal before the body was read
 * always closes the connection. */
#ifndef GUARDIAN_GATE_H
#define GUARDIAN_GATE_H

#include "guardian/arena.h"
#include "guardian/limits.h"

struct gd_http_header {
    const char *name, *value; /* as they came, zero-terminated */
};

struct gd_http_request {
    const char *method, *path, *query, *version; /* query may be NULL; version is "1.0" or "1.1" */
    const char *remote;
    struct gd_http_header headers[GD_HTTP_HEADERS_MAX + 1];
    uint32_t n_headers;
    bool plain;                          /* gd_gate_head_is_plain of its bytes */
    char id[GD_HTTP_REQUEST_ID_MAX + 1]; /* x-request-id: the caller's or ours */
    struct gd_str body;                  /* after it was read */
    int64_t start_ns;                    /* CLOCK_MONOTONIC */
};

/* What the gate found. status 0: the request may pass. */
struct gd_gate {
    int status;          /* 4xx */
    const char *code;    /* error code on the wire */
    const char *message; /* constant text */
    bool has_length;
    size_t content_length;
    bool expect_continue;
    bool client_closes; /* the client asked for the end of the connection, or speaks HTTP/1.0 */
};

/* True when head[n] is a request line of three words and header lines, all ended by CRLF, then an
 * empty line, and nothing else: no folded line, no blank before a colon, no control character. n
 * ends where the library takes the head to end. */
bool gd_gate_head_is_plain(const char *head, size_t n);

/* Framing: header count, names, values, Host, Transfer-Encoding, Content-Length, Upgrade, Expect.
 */
void gd_gate_framing(const struct gd_http_request *req, struct gd_gate *out);
/* A web page that a browser shows must not use a server that only its machine can reach: a request
 * with an Origin passes only when it is one of `allowed` (as browsers write it: "https://host:port",
 * separated by commas; "" for none). Programs other than browsers send none. After gd_gate_framing
 * with status 0. */
void gd_gate_origin(const struct gd_http_request *req, const char *allowed, struct gd_gate *out);
/* The body rules of the route that was found; out comes from gd_gate_framing with status 0. */
void gd_gate_body(const struct gd_http_request *req, bool takes_body, struct gd_gate *out);

/* Value of the first header of that name (given in lower case), or NULL. */
const char *gd_http_header_get(const struct gd_http_request *req, const char *lower_name);

#endif
