/* http.c - the only file that includes the header of the HTTP library (civetweb 1.15).
 *
 * One thread per connection, as many threads as connections. Every request is answered in
 * begin_request, so the library serves no file, runs no script, upgrades nothing: head -> gate ->
 * route -> admission -> body -> handler -> answer, in one write or sent in parts by the handler.
 * Whatever is answered before its body was read ends the connection. */
#include "guardian/http.h"
#include "guardian/clock.h"
#include "guardian/log.h"
#include "guardian/reply.h"
#include "guardian/routes.h"
#include "guardian/service.h"
#include "guardian/socket.h"
#include "guardian/stats.h"
#include "guardian/watch.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define CLIENT_LEFT 499
#define STOP_NS 2000000000 /* for connections to end by themselves */
#define NICE_STEP 5        /* by which HTTP threads stand back behind the engine's */

_Static_assert(MG_MAX_HEADERS == GD_HTTP_HEADERS_MAX + 1, "the header limit follows the library");

struct gd_http {
    struct mg_context *ctx;
    struct gd_service service;
    uint16_t port;
};

static void read_head(const struct mg_request_info *ri, struct gd_http_request *req)
{
    req->start_ns = gd_now_ns();
    req->method = ri->request_method;
    req->path = ri->request_uri;
    req->query = ri->query_string;
    req->version = ri->http_version;
    req->remote = ri->remote_addr;
    req->n_headers = ri->num_headers > 0 ? (uint32_t)ri->num_headers : 0;
    for (uint32_t i = 0; i < req->n_headers; i++) {
        req->headers[i].name = ri->http_headers[i].name;
        req->headers[i].value = ri->http_headers[i].value;
    }
    req->plain = gd_socket_head_is_plain() && ri->request_method == gd_socket_buffer();
}

/* What one request needs from its start until its answer is written. */
struct exchange {
    struct gd_service *service;
    struct mg_connection *conn;
    struct gd_http_request req;
    struct gd_http_response resp;
    struct gd_gate gate;
    int route;
    bool admitted;
    size_t held;   /* bytes that are counted for the body: of its buffer, then of its tree too */
    size_t unread; /* body bytes that the client may still send */
    char *body;
    struct gd_watch_entry watch;
    int64_t send_ms; /* that writes have taken */
};

static void fail_gate(struct exchange *x)
{
    gd_reply_fail(&x->resp, x->gate.status, x->gate.code, NULL, x->gate.message);
    x->resp.close = true;
}

static bool method_fits(const struct gd_route *route, const char *method)
{
    if (route->post) {
        return strcmp(method, "POST") == 0;
    }
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

/* Everything that can be said from the head alone; true when the request goes on. */
static bool pass_head(struct exchange *x)
{
    gd_gate_framing(&x->req, &x->gate);
    if (x->gate.status == 0) {
        gd_gate_origin(&x->req, x->service->allow_origin, &x->gate);
    }
    if (x->gate.status != 0) {
        fail_gate(x);
        return false;
    }
    x->unread = x->gate.content_length;
    x->route = gd_route_find(x->req.path);
    if (x->route < 0) {
        gd_reply_fail(&x->resp, 404, gd_status_wire(GD_ENOTFOUND), NULL, "no such path");
        return false;
    }
    const struct gd_route *route = gd_route_at(x->route);
    if (!method_fits(route, x->req.method)) {
        char message[64];
        snprintf(message, sizeof(message), "this path takes %s", route->allow);
        gd_reply_fail(&x->resp, 405, "method_not_allowed", NULL, message);
        x->resp.allow = route->allow;
        return false;
    }
    if (!route->open && !gd_service_admit(x->service, &x->req, &x->resp)) {
        return false;
    }
    gd_gate_body(&x->req, route->post, &x->gate);
    if (x->gate.status != 0) {
        fail_gate(x);
        return false;
    }
    if (route->work) {
        const size_t len = x->gate.content_length;
        x->held = len < GD_HTTP_BODY_FIRST_BYTES ? len : GD_HTTP_BODY_FIRST_BYTES;
        x->admitted = gd_service_enter(x->service, len, x->held, &x->resp);
        return x->admitted;
    }
    return true;
}

/* Makes the buffer of the body as long as what may come next: memory is taken as bytes come, not as a
 * client says that they will. False with the answer set when there is none. */
static bool grow_body(struct exchange *x, size_t got)
{
    const size_t len = x->gate.content_length;
    if (got > 0) {
        const size_t more = len - got < got ? len - got : got;
        if (!gd_service_hold(x->service, more, &x->resp)) {
            return false;
        }
        x->held += more;
    }
    char *body = realloc(x->body, x->held + 1);
    if (body == NULL) {
        gd_reply_fail(&x->resp, 503, gd_status_wire(GD_ENOMEM), NULL, gd_status_message(GD_ENOMEM));
        gd_stats_reject(GD_REJECT_MEMORY);
        return false;
    }
    x->body = body;
    return true;
}

/* mg_read returns less than was asked when the client closed, when nothing came for a time, and
 * when the watchdog cut the connection. False with the answer set when the body is not there. */
static bool read_body(struct exchange *x)
{
    const size_t len = x->gate.content_length;
    size_t got = 0;
    bool more = true;
    gd_watch_begin(x->service->watch, &x->watch, GD_HTTP_BODY_MS_MAX, false);
    do {
        if (!grow_body(x, got)) {
            (void)gd_watch_end(x->service->watch, &x->watch);
            x->unread = len - got;
            return false;
        }
        const size_t want = x->held - got;
        const int k = want > 0 ? mg_read(x->conn, x->body + got, want) : 0;
        more = k >= 0 && (size_t)k == want;
        got += k > 0 ? (size_t)k : 0;
    } while (more && got < len);
    const bool in_time = gd_watch_end(x->service->watch, &x->watch);
    x->unread = 0;
    if (in_time && more) {
        x->body[len] = '\0';
        x->req.body = (struct gd_str){x->body, len};
        return true;
    }
    x->resp.close = true;
    if (in_time) {
        gd_reply_fail(&x->resp, 400, "incomplete_body", NULL,
                      "the body ended before its Content-Length, or nothing came for 5 seconds");
    } else {
        gd_reply_fail(&x->resp, 408, "request_timeout", NULL,
                      "the body did not arrive within 10 seconds");
    }
    return false;
}

/* What the body will be parsed into counts as the body does, before it is there. */
static bool hold_tree(struct exchange *x)
{
    const size_t more = gd_json_tree_bytes_max(x->req.body, &GD_JSON_REQUEST_LIMITS);
    if (!gd_service_hold(x->service, more, &x->resp)) {
        return false;
    }
    x->held += more;
    return true;
}

static void serve(struct exchange *x)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!pass_head(x)) {
        return;
    }
    const struct gd_route *route = gd_route_at(x->route);
    if (route->post) {
        if (x->gate.expect_continue) {
            mg_write(x->conn, go_on, sizeof(go_on) - 1);
        }
        if (!read_body(x) || !hold_tree(x)) {
            return;
        }
        if (!gd_service_coming(x->service, &x->resp, x->gate.content_length)) {
            x->resp.close = true; /* as where the body was not read */
            return;
        }
    }
    route->handle(x->service, &x->req, &x->resp);
}

/* Reads off what a refused request still sends, so that closing does not wipe the answer from the
 * client's side. */
static void discard(struct exchange *x)
{
    char sink[8192];
    bool more = true;
    size_t left = x->unread < GD_HTTP_DISCARD_BYTES_MAX ? x->unread : GD_HTTP_DISCARD_BYTES_MAX;
    gd_watch_begin(x->service->watch, &x->watch, GD_HTTP_BODY_MS_MAX, false);
    while (left > 0 && more) {
        size_t want = left < sizeof(sink) ? left : sizeof(sink);
        int k = mg_read(x->conn, sink, want);
        more = k >= 0 && (size_t)k == want;
        left -= want;
    }
    gd_watch_end(x->service->watch, &x->watch);
}

/* From here on connections are too dear to be kept for a next request. */
static bool many_connections(void)
{
    return gd_sockets_open() > gd_sockets_max() / 8 * 7;
}

static void decide_close(struct exchange *x)
{
    x->resp.close = x->resp.close || x->gate.client_closes || x->unread > 0 ||
                    atomic_load(&x->service->draining) || many_connections();
}

static bool client_gone(void *ctx)
{
    struct exchange *x = ctx;
    return gd_watch_gone(&x->watch);
}

/* One write; the client is gone when not all of it could be sent, in the time that is left to the
 * answer. */
static void transmit(struct exchange *x, const struct gd_buf *out)
{
    const int64_t start_ns = gd_now_ns();
    int sent = -1;
    if (out->failed == 0) {
        gd_watch_begin(x->service->watch, &x->watch, GD_HTTP_SEND_MS_MAX - x->send_ms, true);
        sent = mg_write(x->conn, out->data, out->len);
        gd_watch_end(x->service->watch, &x->watch);
    }
    x->send_ms += (gd_now_ns() - start_ns) / 1000000;
    x->watch.gone = sent < 0 || (size_t)sent != out->len;
}

/* One part is one chunk and one write, so that it leaves at once. */
static bool send_part(struct gd_http_response *resp, const char *p, size_t n)
{
    struct exchange *x = resp->ctx;
    struct gd_buf out;
    if (x->watch.gone || n == 0) {
        return !x->watch.gone;
    }
    gd_buf_init(&out, GD_HTTP_ANSWER_BYTES_MAX + GD_HTTP_HEADER_BYTES_MAX);
    if (!resp->streamed) {
        decide_close(x);
        resp->streamed = true;
        resp->chunked = strcmp(x->req.version, "1.1") == 0;
        gd_reply_head(&x->req, resp, 0.0, &out);
    }
    if (resp->chunked) {
        gd_buf_fmt(&out, "%zx\r\n", n);
    }
    gd_buf_add(&out, p, n);
    if (resp->chunked) {
        gd_buf_z(&out, "\r\n");
    }
    transmit(x, &out);
    resp->n_sent += x->watch.gone ? 0 : n;
    gd_buf_free(&out);
    return !x->watch.gone;
}

static bool has_room(struct gd_http_response *resp)
{
    const struct exchange *x = resp->ctx;
    struct pollfd p = {.fd = x->watch.fd, .events = POLLOUT};
    return poll(&p, 1, 0) == 1;
}

static void answer(struct exchange *x, double total_ms)
{
    static const char last_chunk[] = "0\r\n\r\n";
    struct gd_buf out;
    if (x->resp.status == CLIENT_LEFT) {
        return;
    }
    gd_buf_init(&out, GD_HTTP_ANSWER_BYTES_MAX + GD_HTTP_HEADER_BYTES_MAX);
    if (!x->resp.streamed) {
        gd_reply_head(&x->req, &x->resp, total_ms, &out);
    } else if (x->resp.chunked) {
        gd_buf_z(&out, last_chunk);
    }
    if (!x->resp.streamed && strcmp(x->req.method, "HEAD") != 0) {
        gd_buf_add(&out, x->resp.body.data, x->resp.body.len);
    }
    if (out.len > 0) {
        transmit(x, &out);
    }
    gd_buf_free(&out);
}

static void finish(struct exchange *x)
{
    if (!x->resp.streamed) {
        decide_close(x);
    }
    if (x->resp.status == CLIENT_LEFT) {
        x->resp.close = true;
    } else if (x->resp.status == 503 && x->resp.retry_after_s == 0) {
        x->resp.retry_after_s = gd_service_retry_after(x->service);
    }
    if (x->resp.close) {
        mg_disable_connection_keep_alive(x->conn);
    }
    double total_ms = (double)(gd_now_ns() - x->req.start_ns) / 1e6;
    gd_stats_request(x->route, x->resp.status, total_ms);
    gd_service_queued(x->service, &x->resp, 0, 0);
    answer(x, total_ms);
    if (x->watch.gone) {
        mg_disable_connection_keep_alive(x->conn); /* the answer may have been cut short */
    }
    if (x->admitted) {
        gd_service_leave(x->service, x->held);
    }
    gd_lease_leave(&x->resp.lease);
    if (x->unread > 0 && !x->gate.expect_continue) {
        discard(x);
    }
    gd_reply_log(&x->req, &x->resp, total_ms);
}

static int on_request(struct mg_connection *conn)
{
    const struct mg_request_info *ri = mg_get_request_info(conn);
    struct gd_http *h = ri->user_data;
    struct exchange *x = calloc(1, sizeof(*x));
    if (x == NULL) {
        mg_disable_connection_keep_alive(conn);
        return 503; /* without an answer: there is no memory for one */
    }
    x->service = &h->service;
    x->conn = conn;
    x->resp = (struct gd_http_response){
        .status = 500,
        .content_type = "application/json",
        .queue_ms = -1.0,
        .send = send_part,
        .has_room = has_room,
        .ctx = x,
        .caller = {.gone = client_gone, .ctx = x},
    };
    x->route = -1;
    gd_buf_init(&x->resp.body, GD_HTTP_ANSWER_BYTES_MAX);
    x->watch.fd = gd_socket_current();
    read_head(ri, &x->req);
    gd_reply_identify(&x->req, &x->resp);
    serve(x);
    finish(x);
    int status = x->resp.status;
    gd_buf_free(&x->resp.body);
    free(x->body);
    free(x);
    return status;
}

/* What the library refuses before on_request sees it: heads that it cannot parse, and heads that
 * never end. */
static int on_error(struct mg_connection *conn, int status, const char *message)
{
    const struct mg_request_info *ri = mg_get_request_info(conn);
    struct gd_http_request req = {.method = "-", .remote = ri != NULL ? ri->remote_addr : ""};
    struct gd_http_response resp = {.queue_ms = -1.0, .close = true};
    struct gd_buf out;
    (void)message; /* may quote the request */
    mg_disable_connection_keep_alive(conn);
    gd_buf_init(&resp.body, GD_HTTP_ANSWER_BYTES_MAX);
    gd_buf_init(&out, GD_HTTP_ANSWER_BYTES_MAX);
    gd_reply_identify(&req, &resp);
    gd_reply_fail(&resp, status, status == 408 ? "request_timeout" : "bad_request", NULL,
                  "the request head could not be read");
    gd_reply_head(&req, &resp, 0.0, &out);
    gd_buf_add(&out, resp.body.data, resp.body.len);
    if (out.failed == 0) {
        mg_write(conn, out.data, out.len);
    }
    gd_stats_request(-1, status, 0.0);
    gd_reply_log(&req, &resp, 0.0);
    gd_buf_free(&out);
    gd_buf_free(&resp.body);
    return 0;
}

static int on_message(const struct mg_connection *conn, const char *message)
{
    (void)conn;
    (void)message; /* says nothing that the request log does not */
    return 1;
}

/* Worker threads stand back behind the engine's, which are as many as there are processors. On Linux
 * the priority is the thread's own. */
static void *on_thread(const struct mg_context *ctx, int thread_type)
{
    (void)ctx;
    if (thread_type == 1) {
        (void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICE_STEP);
    }
    return NULL;
}

static const char *numeric_host(const char *host)
{
    return strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
}

bool gd_http_host_is_loopback(const char *host)
{
    struct in_addr a;
    return inet_pton(AF_INET, numeric_host(host), &a) == 1 && (ntohl(a.s_addr) >> 24) == 127;
}

static int check_options(const struct gd_http_options *opt, struct gd_err *err)
{
    struct in_addr a;
    if (inet_pton(AF_INET, numeric_host(opt->host), &a) != 1) {
        return gd_err_set(err, GD_EUSAGE, "the host must be an IPv4 address, is '%s'", opt->host);
    }
    if (!gd_http_host_is_loopback(opt->host) && !opt->insecure && !gd_keyring_required(opt->keys)) {
        return gd_err_set(
            err, GD_EUSAGE,
            "host %s can be reached from other machines and there are no keys: name a "
            "key file (--keys, `guardian key`), or say --insecure",
            opt->host);
    }
    return 0;
}

static int start(struct gd_http *h, const struct gd_http_options *opt, struct gd_err *err)
{
    char listen[64], threads[16];
    snprintf(listen, sizeof(listen), "%s:%u", numeric_host(opt->host), (unsigned)opt->port);
    snprintf(threads, sizeof(threads), "%u", (unsigned)gd_sockets_init(GD_HTTP_CONNECTIONS_MAX));
    const char *options[] = {
        "listening_ports",
        listen,
        "num_threads",
        threads,
        "connection_queue",
        GD_TEXT(GD_HTTP_QUEUE_MAX),
        "listen_backlog",
        GD_TEXT(GD_HTTP_QUEUE_MAX),
        "enable_keep_alive",
        "yes",
        "keep_alive_timeout_ms",
        GD_TEXT(GD_HTTP_IDLE_MS_MAX),
        "request_timeout_ms",
        GD_TEXT(GD_HTTP_HEAD_MS_MAX),
        "max_request_size",
        GD_TEXT(GD_HTTP_HEADER_BYTES_MAX),
        "decode_url",
        "no",
        "tcp_nodelay",
        "1",
        "access_control_allow_origin",
        "",
        "enable_directory_listing",
        "no",
        "cgi_pattern",
        "",
        "ssi_pattern",
        "",
        "allow_sendfile_call",
        "no",
        NULL,
    };
    struct mg_callbacks callbacks = {
        .begin_request = on_request,
        .http_error = on_error,
        .log_message = on_message,
        .init_thread = on_thread,
    };
    struct mg_server_port port[2];
    errno = 0;
    h->ctx = mg_start(&callbacks, h, options);
    if (h->ctx == NULL) {
        return gd_err_set(err, GD_EIO, "cannot listen on %s: %s", listen,
                          errno != 0 ? strerror(errno) : "the HTTP library did not start");
    }
    if (mg_get_server_ports(h->ctx, 2, port) >= 1) {
        h->port = (uint16_t)port[0].port;
    }
    return 0;
}

int gd_http_open(struct gd_http **out, const struct gd_http_options *opt, struct gd_err *err)
{
    int rc = check_options(opt, err);
    if (rc != 0) {
        return rc;
    }
    struct gd_http *h = calloc(1, sizeof(*h));
    if (h == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the server");
    }
    mg_init_library(MG_FEATURES_DEFAULT);
    rc = gd_stats_register(opt->version, err);
    if (rc == 0) {
        h->service.queue_ms_max = opt->queue_ms_max;
        h->service.prefix_cache = opt->prefix_cache;
        h->service.keys = opt->keys;
        h->service.allow_origin = opt->allow_origin != NULL ? opt->allow_origin : "";
        rc = gd_service_init(&h->service, opt->version, opt->model_dir, err);
    }
    if (rc == 0) {
        rc = start(h, opt, err);
    }
    if (rc != 0) {
        gd_http_close(h);
        return rc;
    }
    *out = h;
    return 0;
}

uint16_t gd_http_port(const struct gd_http *h)
{
    return h->port;
}

void gd_http_set_guard(struct gd_http *h, struct gd_guard *g, const struct gd_golden *golden)
{
    if (golden != NULL) {
        h->service.golden = *golden;
    }
    struct gd_engine_stats now;
    gd_stats_model(g);
    gd_engine_stats(gd_guard_engine(g), &now);
    h->service.verdict_cache = now.verdict_entries > 0;
    h->service.created = (int64_t)time(NULL);
    atomic_store(&h->service.guard, g);
}

void gd_http_drain(struct gd_http *h)
{
    atomic_store(&h->service.draining, true);
}

uint32_t gd_http_in_flight(const struct gd_http *h)
{
    return atomic_load(&((struct gd_http *)(uintptr_t)h)->service.in_flight);
}

/* The library would leave requests that it is reading without an answer. */
static void stop(struct gd_http *h)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    const int64_t until_ns = gd_now_ns() + STOP_NS;
    gd_sockets_stop();
    while (gd_sockets_open() > 0 && gd_now_ns() < until_ns) {
        nanosleep(&pause, NULL);
    }
    gd_sockets_unlisten();
    mg_stop(h->ctx);
}

void gd_http_close(struct gd_http *h)
{
    if (h == NULL) {
        return;
    }
    if (h->ctx != NULL) {
        stop(h);
    }
    gd_service_free(&h->service);
    mg_exit_library();
    free(h);
}
