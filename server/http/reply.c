/* reply.c - error objects, response heads, request ids, traces and log lines.
 *
 * An error body is {"error":{"code","message","field"?}}: the code is stable, the message is for
 * people, the field is the path of what was wrong where the parser named one. Log lines are one
 * JSON object each, metadata only: nothing of a request's content, and nothing the caller wrote
 * except the path (cut), the request id and the ids of its trace (both checked). */
#include "guardian/reply.h"
#include "guardian/log.h"
#include "guardian/service.h"

#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

/* Parsers write "field 'path' must ...", or begin with the path: "tools[2].name must ...". Empty
 * when neither. */
static struct gd_str field_of(const char *message)
{
    static const char path_chars[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.[]";
    const char *p = strstr(message, "field '");
    if (p != NULL) {
        p += strlen("field '");
        const char *end = strchr(p, '\'');
        return end == NULL ? GD_STR("") : (struct gd_str){p, (size_t)(end - p)};
    }
    size_t n = strspn(message, path_chars);
    bool is_path = memchr(message, '[', n) != NULL || strncmp(message + n, " must be ", 9) == 0;
    return is_path ? (struct gd_str){message, n} : GD_STR("");
}

static void write_error(struct gd_json_writer *w, const char *code, struct gd_str field,
                        const char *message)
{
    gd_jw_object(w);
    gd_jw_key(w, "code");
    gd_jw_strz(w, code);
    gd_jw_key(w, "message");
    gd_jw_strz(w, message);
    if (field.len > 0) {
        gd_jw_key(w, "field");
        gd_jw_str(w, field);
    }
    gd_jw_object_end(w);
}

void gd_reply_err_write(struct gd_json_writer *w, const struct gd_err *err)
{
    const char *message = err->msg[0] != '\0' ? err->msg : gd_status_message(err->code);
    write_error(w, gd_status_wire(err->code), field_of(message), message);
}

void gd_reply_fail(struct gd_http_response *resp, int status, const char *code, const char *field,
                   const char *message)
{
    struct gd_json_writer w;
    gd_buf_free(&resp->body);
    gd_buf_init(&resp->body, GD_HTTP_ANSWER_BYTES_MAX);
    gd_json_writer_init(&w, &resp->body);
    gd_jw_object(&w);
    gd_jw_key(&w, "error");
    write_error(&w, code, field != NULL ? gd_str_from(field) : field_of(message), message);
    gd_jw_object_end(&w);
    gd_buf_z(&resp->body, "\n");
    resp->status = status;
    resp->content_type = "application/json";
    resp->error_code = code;
    resp->has_judgement = false;
}

void gd_reply_err(struct gd_http_response *resp, const struct gd_err *err)
{
    const char *message = err->msg[0] != '\0' ? err->msg : gd_status_message(err->code);
    gd_reply_fail(resp, gd_status_http(err->code), gd_status_wire(err->code), NULL, message);
}

void gd_reply_json(struct gd_http_response *resp, int status, struct gd_json_writer *w)
{
    gd_buf_z(w->buf, "\n");
    if (w->buf->failed != 0) {
        struct gd_err err = {0};
        gd_err_set(&err, w->buf->failed, "the answer could not be written: %s",
                   gd_status_message(w->buf->failed));
        gd_reply_fail(resp, 500, "internal", NULL, err.msg);
        return;
    }
    resp->status = status;
    resp->content_type = "application/json";
}

const struct gd_json *gd_reply_parse(struct gd_arena *a, const struct gd_http_request *req,
                                     struct gd_http_response *resp)
{
    const struct gd_json *root = NULL;
    struct gd_err err = {0};
    int rc = gd_json_parse(a, req->body, &GD_JSON_REQUEST_LIMITS, &root, &err);
    if (rc != 0) {
        gd_reply_err(resp, &err);
        return NULL;
    }
    if (resp->trace.parent_id[0] == '\0') {
        gd_trace_adopt_frames(&resp->trace, root);
    }
    return root;
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } table[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (table[i].status == status) {
            return table[i].reason;
        }
    }
    return "Error";
}

void gd_reply_head(const struct gd_http_request *req, const struct gd_http_response *resp,
                   double total_ms, struct gd_buf *out)
{
    char date[40];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    (void)strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    gd_buf_fmt(out, "HTTP/1.1 %d %s\r\n", resp->status, reason_of(resp->status));
    gd_buf_fmt(out, "Date: %s\r\n", date);
    gd_buf_fmt(out, "Content-Type: %s\r\n", resp->content_type);
    if (resp->chunked) {
        gd_buf_z(out, "Transfer-Encoding: chunked\r\n");
    } else if (!resp->streamed) {
        gd_buf_fmt(out, "Content-Length: %zu\r\n", resp->body.len);
    }
    gd_buf_z(out, "Cache-Control: no-store\r\n");
    gd_buf_fmt(out, "Connection: %s\r\n", resp->close ? "close" : "keep-alive");
    if (resp->allow != NULL) {
        gd_buf_fmt(out, "Allow: %s\r\n", resp->allow);
    }
    if (resp->status == 401) {
        gd_buf_z(out, "WWW-Authenticate: Bearer\r\n");
    }
    if (resp->status == 503 || resp->status == 429) {
        gd_buf_fmt(out, "Retry-After: %u\r\n",
                   resp->retry_after_s > 0 ? (unsigned)resp->retry_after_s : 1u);
    }
    gd_buf_fmt(out, "x-request-id: %s\r\n", req->id);
    if (resp->has_judgement) {
        gd_buf_fmt(out, "x-guard-id: %s\r\n", resp->judgement.id);
    }
    if (resp->has_judgement && resp->cache != NULL) {
        gd_buf_fmt(out, "X-Cache: %s\r\n", resp->cache);
    }
    if (resp->queue_ms >= 0.0) {
        gd_buf_fmt(out, "x-queue-time: %.3f\r\n", resp->queue_ms);
        gd_buf_fmt(out, "x-inference-time: %.3f\r\n", resp->inference_ms);
    }
    if (!resp->streamed) {
        gd_buf_fmt(out, "x-total-time: %.3f\r\n", total_ms);
    }
    gd_buf_z(out, "\r\n");
}

static bool is_sane_id(const char *s)
{
    size_t n = strlen(s);
    if (n == 0 || n > GD_HTTP_REQUEST_ID_MAX) {
        return false;
    }
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@") == n;
}

/* The trace of the head's traceparent, when there is exactly one and it is good; else a new one. */
static void start_trace(const struct gd_http_request *req, struct gd_trace *t)
{
    const char *given = gd_http_header_get(req, "traceparent");
    uint32_t n = 0;
    gd_trace_init(t);
    for (uint32_t i = 0; i < req->n_headers; i++) {
        n += strcasecmp(req->headers[i].name, "traceparent") == 0 ? 1 : 0;
    }
    if (n == 1) {
        gd_trace_adopt(t, gd_str_from(given));
    }
}

void gd_reply_identify(struct gd_http_request *req, struct gd_http_response *resp)
{
    start_trace(req, &resp->trace);
    const char *given = gd_http_header_get(req, "x-request-id");
    if (given != NULL && is_sane_id(given)) {
        memcpy(req->id, given, strlen(given) + 1);
        return;
    }
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
        memset(bytes, 0, sizeof(bytes));
    }
    memcpy(req->id, "rq-", 3);
    gd_hex(bytes, sizeof(bytes), req->id + 3);
}

#define LOG_FIELDS_MAX 32 /* of one request */

static size_t log_judgement(struct gd_log_field *f, const struct gd_judgement *j)
{
    size_t n = 0;
    f[n++] = GD_LOG_Z("id", j->id);
    f[n++] = GD_LOG_Z("action", gd_action_name(j->verdict.action));
    f[n++] = GD_LOG_Z("label", gd_label_info(j->verdict.label)->key);
    f[n++] = GD_LOG_F64("score", j->verdict.risk);
    f[n++] = GD_LOG_Z("phase", gd_phase_name(j->phase));
    f[n++] = GD_LOG_I64("events", j->events);
    f[n++] = GD_LOG_I64("prompt_tokens", j->tokens);
    f[n++] = GD_LOG_I64("cached_tokens", j->cached_tokens);
    f[n++] = GD_LOG_BOOL("cache_hit", j->cache_hit);
    f[n++] = GD_LOG_BOOL("truncated", j->truncated);
    return n;
}

/* Who asked, in whose trace. The tenant and the id of its key (never the key) belong here too. */
static size_t log_caller(struct gd_log_field *f, const struct gd_http_request *req,
                         const struct gd_http_response *resp)
{
    const struct gd_trace *t = &resp->trace;
    size_t n = 0;
    f[n++] = GD_LOG_Z("trace_id", t->trace_id);
    f[n++] = GD_LOG_Z("span_id", t->span_id);
    f[n++] = GD_LOG_Z("trace_flags", (t->flags & GD_TRACE_SAMPLED) != 0 ? "01" : "00");
    if (t->parent_id[0] != '\0') {
        f[n++] = GD_LOG_Z("parent_span_id", t->parent_id);
    }
    f[n++] = GD_LOG_Z("request_id", req->id);
    f[n++] = GD_LOG_Z("client.address", req->remote);
    if (resp->lease.id[0] != '\0') {
        f[n++] = GD_LOG_Z("key_id", resp->lease.id);
        f[n++] = GD_LOG_Z("tenant", resp->lease.tenant);
    }
    return n;
}

/* The method, or OpenTelemetry's word for one that it does not know: a client may write anything. */
static const char *method_of(const struct gd_http_request *req)
{
    static const char *const known[] = {"GET",     "HEAD",    "POST",  "PUT",  "DELETE",
                                        "CONNECT", "OPTIONS", "TRACE", "PATCH"};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (req->method != NULL && strcmp(req->method, known[i]) == 0) {
            return known[i];
        }
    }
    return "_OTHER";
}

/* Milliseconds for the log: to the microsecond. */
static double rounded(double ms)
{
    return (double)(int64_t)(ms * 1000.0 + 0.5) / 1000.0;
}

void gd_reply_log(const struct gd_http_request *req, const struct gd_http_response *resp,
                  double total_ms)
{
    struct gd_log_field f[LOG_FIELDS_MAX];
    size_t n = log_caller(f, req, resp);
    const char *path = req->path != NULL ? req->path : "";
    f[n++] = GD_LOG_Z("http.request.method", method_of(req));
    f[n++] = GD_LOG_STR("url.path", ((struct gd_str){path, strnlen(path, GD_LOG_PATH_BYTES_MAX)}));
    f[n++] = GD_LOG_I64("http.response.status_code", resp->status);
    f[n++] = GD_LOG_I64("http.request.body.size", (int64_t)req->body.len);
    f[n++] = GD_LOG_I64("http.response.body.size",
                        (int64_t)(resp->streamed ? resp->n_sent : resp->body.len));
    f[n++] = GD_LOG_F64("total_ms", rounded(total_ms));
    if (resp->queue_ms >= 0.0) {
        f[n++] = GD_LOG_F64("queue_ms", rounded(resp->queue_ms));
        f[n++] = GD_LOG_F64("infer_ms", rounded(resp->inference_ms));
    }
    if (resp->error_code != NULL) {
        f[n++] = GD_LOG_Z("error.type", resp->error_code);
    }
    if (resp->n_items > 0) {
        f[n++] = GD_LOG_I64("items", resp->n_items);
        f[n++] = GD_LOG_I64("item_errors", resp->n_item_errors);
    }
    if (resp->has_judgement) {
        n += log_judgement(f + n, &resp->judgement);
    }
    GD_ASSERT(n <= LOG_FIELDS_MAX);
    gd_log_write(resp->status >= 500 ? GD_LOG_WARN : GD_LOG_INFO, "request", f, n);
}
