/* client.c - see client.h. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_S 120 /* far more than anything here takes on a busy machine */
#define ANSWER_BYTES_MAX (1u << 20)

/* ---- the wire ---- */

static int connect_to(uint16_t port)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons(port),
                                   .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (const struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Value of a header, or NULL. head is zero-terminated at its end. */
static const char *header(const char *head, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = strstr(head, "\r\n"); p != NULL; p = strstr(p + 2, "\r\n")) {
        if (strncasecmp(p + 2, name, n) == 0 && p[2 + n] == ':')
            return p + 2 + n + 2;
    }
    return NULL;
}

/* Chunks in place become what they hold; true when the last one is there. */
static bool join_chunks(char *at, char *end, size_t *len)
{
    char *to = at;
    bool whole = false;
    while (at < end) {
        char *line = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (line == NULL)
            break;
        const size_t n = strtoul(at, NULL, 16);
        at = line + 2;
        whole = n == 0 && end - at == 2;
        const size_t have = n < (size_t)(end - at) ? n : (size_t)(end - at);
        memmove(to, at, have);
        to += have;
        if (n == 0 || have < n || (size_t)(end - at) < n + 2)
            break;
        at += n + 2;
    }
    return *len = (size_t)(to - (end - *len)), whole;
}

static void read_head(struct answer *a)
{
    char *end = strstr(a->data, "\r\n\r\n");
    if (end == NULL || a->len < 12)
        return;
    *end = '\0';
    a->status = (int)strtol(a->data + 9, NULL, 10);
    const char *length = header(a->data, "content-length"),
               *coding = header(a->data, "transfer-encoding");
    a->chunked = coding != NULL;
    size_t n = a->len - (size_t)(end + 4 - a->data);
    if (a->chunked)
        a->whole = join_chunks(end + 4, a->data + a->len, &n);
    else
        a->whole = length != NULL && strtoul(length, NULL, 10) == n;
    a->body = (struct gd_str){end + 4, n};
}

void client_ask(uint16_t port, struct gd_str request, struct answer *out)
{
    *out = (struct answer){.data = calloc(1, ANSWER_BYTES_MAX)};
    int fd = connect_to(port);
    if (fd < 0 || out->data == NULL) {
        fprintf(stderr, "no connection: %s\n", strerror(errno));
        abort();
    }
    size_t sent = 0;
    while (sent < request.len) {
        ssize_t k = send(fd, request.ptr + sent, request.len - sent, MSG_NOSIGNAL);
        if (k <= 0)
            break; /* refused before all of it was read: the answer says why */
        sent += (size_t)k;
    }
    for (;;) {
        ssize_t k = recv(fd, out->data + out->len, ANSWER_BYTES_MAX - 1 - out->len, 0);
        out->timed_out = k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
        if (k <= 0)
            break;
        out->len += (size_t)k;
    }
    close(fd);
    read_head(out);
}

void client_drop(struct answer *a)
{
    free(a->data);
    *a = (struct answer){.len = 0};
}

char *client_request(const char *method, const char *path, const char *accept, const char *body)
{
    char *out = NULL;
    char extra[256] = "", length[128] = "";
    if (accept != NULL)
        snprintf(extra, sizeof extra, "Accept: %s\r\n", accept);
    if (body != NULL)
        snprintf(length, sizeof length,
                 "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    size_t n = strlen(method) + strlen(path) + strlen(extra) + strlen(length) + 128 +
               (body != NULL ? strlen(body) : 0);
    out = calloc(1, n);
    if (out != NULL)
        snprintf(out, n, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s%s\r\n%s",
                 method, path, extra, length, body != NULL ? body : "");
    return out;
}

/* ---- what must not change ---- */

static bool changes(struct gd_str key)
{
    static const char *const keys[] = {"id",     "created",       "timing_ms", "cached_tokens",
                                       "uptime", "uptime_s",      "started",   "resident_bytes",
                                       "cached", "left_bytes"};
    bool found = false;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        found = found || gd_str_eqz(key, keys[i]);
    return found;
}

static void put_plain(struct gd_json_writer *w, const struct gd_json *v, bool numbers)
{
    switch (v->type) {
    case GD_JSON_OBJECT:
        gd_jw_object(w);
        for (const struct gd_json *m = v->child; m != NULL; m = m->next) {
            if (changes(m->key))
                continue;
            char key[64];
            snprintf(key, sizeof key, "%.*s", (int)m->key.len, m->key.ptr);
            gd_jw_key(w, key);
            put_plain(w, m, numbers);
        }
        gd_jw_object_end(w);
        break;
    case GD_JSON_ARRAY:
        gd_jw_array(w);
        for (const struct gd_json *m = v->child; m != NULL; m = m->next)
            put_plain(w, m, numbers);
        gd_jw_array_end(w);
        break;
    case GD_JSON_NUMBER:
        gd_jw_raw(w, numbers ? GD_STR("0") : v->raw);
        break;
    case GD_JSON_STRING:
        gd_jw_str(w, v->str);
        break;
    default:
        gd_jw_raw(w, v->raw);
    }
}

char *client_plain(struct gd_str json, bool numbers)
{
    struct gd_arena arena;
    struct gd_buf out;
    struct gd_json_writer w;
    const struct gd_json *v = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    gd_buf_init(&out, ANSWER_BYTES_MAX);
    gd_json_writer_init(&w, &out);
    char *text = NULL;
    if (gd_json_parse(&arena, json, &GD_JSON_REQUEST_LIMITS, &v, NULL) == 0) {
        put_plain(&w, v, numbers);
        text = strndup(out.data, out.len);
    }
    gd_buf_free(&out);
    gd_arena_free(&arena);
    return text;
}

bool client_is_error(struct gd_str json)
{
    struct gd_arena arena;
    const struct gd_json *v = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    bool is = gd_json_parse(&arena, json, &GD_JSON_REQUEST_LIMITS, &v, NULL) == 0;
    const struct gd_json *e = is ? gd_json_get(v, "error") : NULL;
    const struct gd_json *code = gd_json_get(e, "code"), *message = gd_json_get(e, "message");
    is = gd_json_is(code, GD_JSON_STRING) && code->str.len > 0 &&
         gd_json_is(message, GD_JSON_STRING) && message->str.len > 0 &&
         gd_json_get(v, "action") == NULL;
    gd_arena_free(&arena);
    return is;
}

struct gd_str client_item(struct gd_str json, uint32_t n)
{
    struct gd_arena arena;
    const struct gd_json *v = NULL;
    struct gd_str out = {NULL, 0};
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    if (gd_json_parse(&arena, json, &GD_JSON_REQUEST_LIMITS, &v, NULL) == 0) {
        const struct gd_json *data = gd_json_get(v, "data");
        const struct gd_json *at = gd_json_is(data, GD_JSON_ARRAY) ? data->child : NULL;
        for (uint32_t i = 0; at != NULL && i < n; i++)
            at = at->next;
        out = at != NULL ? at->raw : out;
    }
    gd_arena_free(&arena);
    return out;
}
