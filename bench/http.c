/* http.c - load over HTTP against a running server, and what HTTP costs.
 *
 *     bench_http --port P --body FILE.jsonl [--host A.B.C.D] [--path /v1/guard] [--key KEY]
 *         [--connections N] [--requests N] [--rate R] [--json] [--commit HASH]
 *
 * N kept-alive connections, one thread each, send the lines of the file one after another, from the
 * start again when it ends; each takes the next line when it has its answer, so that calls of one
 * session that stand far enough apart in the file are asked in order. A server that is to compute
 * each verdict needs as many different lines as requests, and --verdict-cache 0. With --rate requests
 * come at that many a second on average, at random (Poisson, seeded), whatever the answers do: times
 * then count from when a request was due, not from when a connection was free for it.
 *
 * Of every verdict: total time as seen here, and by the server's own headers its queue and inference
 * time; the rest is HTTP, JSON, rendering, tokenising and the way there and back. Refusals (429,
 * 503) are counted, not asked again. Anything else than a verdict or a refusal makes the exit
 * status 1. */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256u
#define REQUESTS_MAX 10000000u
#define LINES_MAX 1000000u
#define ANSWER_MAX (4 * GD_MIB)
#define TIMEOUT_S 120

enum part { TOTAL, QUEUE, INFERENCE, REST, SERVER, N_PARTS };
static const char *const PART_NAMES[] = {"total", "queue", "inference", "rest", "server_total"};

struct sample {
    int status; /* 0: no answer */
    float ms[N_PARTS];
    uint32_t tokens, cached;
    bool hit; /* of the verdict cache */
};

struct bench {
    struct sockaddr_in to;
    const char *path, *key, *commit, *body; /* body: name of the file without its folders */
    bool json;
    uint32_t n_connections, n_requests;
    struct gd_str *lines;
    uint32_t n_lines;
    uint32_t rate; /* requests a second; 0: as soon as a connection is free */
    double *due;   /* [n_requests] ms, with a rate */
    char device[64], device_name[128], dtype[16]; /* of the server, by its /info */
    struct sample *samples;                       /* [n_requests] */
    _Atomic uint32_t next;
};

/* One connection and the answer on it. */
struct line {
    int fd;
    char *data; /* [ANSWER_MAX + 1] */
    size_t len, head;
};

static int line_connect(struct line *l, const struct bench *b)
{
    const int on = 1;
    const struct timeval limit = {.tv_sec = TIMEOUT_S};
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || connect(l->fd, (const struct sockaddr *)&b->to, sizeof b->to) != 0) {
        return GD_EIO;
    }
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(l->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(l->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return GD_OK;
}

static void line_close(struct line *l)
{
    if (l->fd >= 0) {
        close(l->fd);
    }
    l->fd = -1;
}

static int line_send(const struct line *l, const struct bench *b, struct gd_str body)
{
    char head[1024];
    int n = snprintf(head, sizeof head,
                     "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     "%s%s%sContent-Length: %zu\r\n\r\n",
                     b->path, b->key != NULL ? "Authorization: Bearer " : "",
                     b->key != NULL ? b->key : "", b->key != NULL ? "\r\n" : "", body.len);
    if (n < 0 || (size_t)n >= sizeof head) {
        return GD_ELIMIT;
    }
    struct iovec parts[] = {{head, (size_t)n}, {(void *)(uintptr_t)body.ptr, body.len}};
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        ssize_t sent = sendmsg(l->fd, &msg, MSG_NOSIGNAL);
        if (sent <= 0) {
            return GD_EIO;
        }
        for (int i = 0; i < 2; i++) {
            size_t take = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + take;
            parts[i].iov_len -= take;
            sent -= (ssize_t)take;
        }
    }
    return GD_OK;
}

/* The value of a header of the answer, zero-terminated until the next call; NULL when absent. */
static const char *header_of(const struct line *l, const char *name, char *value, size_t size)
{
    size_t n = strlen(name);
    const char *at = memchr(l->data, '\n', l->head), *end = l->data + l->head;
    while (at != NULL && ++at < end) {
        const char *eol = memchr(at, '\r', (size_t)(end - at));
        if (eol != NULL && (size_t)(eol - at) > n && at[n] == ':' &&
            strncasecmp(at, name, n) == 0) {
            snprintf(value, size, "%.*s", (int)(eol - at - (ptrdiff_t)n - 1), at + n + 1);
            return value + strspn(value, " ");
        }
        at = memchr(at, '\n', (size_t)(end - at));
    }
    return NULL;
}

static int line_more(struct line *l)
{
    ssize_t n = l->len < ANSWER_MAX ? recv(l->fd, l->data + l->len, ANSWER_MAX - l->len, 0) : -1;
    if (n <= 0) {
        return GD_EIO;
    }
    l->len += (size_t)n;
    l->data[l->len] = '\0';
    return GD_OK;
}

/* One whole answer: *status, and the body behind l->head. */
static int line_receive(struct line *l, int *status)
{
    char value[64];
    const char *end = NULL;
    l->len = 0;
    l->data[0] = '\0';
    while ((end = strstr(l->data, "\r\n\r\n")) == NULL) {
        if (line_more(l) != GD_OK) {
            return GD_EIO;
        }
    }
    l->head = (size_t)(end - l->data) + 4;
    if (strncmp(l->data, "HTTP/1.1 ", 9) != 0) {
        return GD_EIO;
    }
    *status = (int)strtol(l->data + 9, NULL, 10);
    const char *length = header_of(l, "content-length", value, sizeof value);
    size_t body = length != NULL ? strtoull(length, NULL, 10) : ANSWER_MAX;
    while (l->len - l->head < body) {
        if (line_more(l) != GD_OK) {
            return GD_EIO;
        }
    }
    return GD_OK;
}

static double header_ms(const struct line *l, const char *name)
{
    char value[64];
    const char *text = header_of(l, name, value, sizeof value);
    return text != NULL ? strtod(text, NULL) : 0;
}

static uint32_t count_of(const struct gd_json *context, const char *key)
{
    int64_t v = 0;
    return gd_json_i64(gd_json_get(context, key), &v) && v >= 0 ? (uint32_t)v : 0;
}

/* What the answer tells; not in the time that is measured. */
static void read_answer(const struct line *l, double total_ms, struct sample *s)
{
    char value[64];
    struct gd_arena arena;
    const struct gd_json *root = NULL;
    double queue = header_ms(l, "x-queue-time"), inference = header_ms(l, "x-inference-time");
    const char *cache = header_of(l, "x-cache", value, sizeof value);
    s->ms[TOTAL] = (float)total_ms;
    s->ms[QUEUE] = (float)queue;
    s->ms[INFERENCE] = (float)inference;
    s->ms[REST] = (float)(total_ms - queue - inference);
    s->ms[SERVER] = (float)header_ms(l, "x-total-time");
    s->hit = cache != NULL && strcmp(cache, "hit") == 0;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    struct gd_str body = {l->data + l->head, l->len - l->head};
    if (gd_json_parse(&arena, body, &GD_JSON_REQUEST_LIMITS, &root, NULL) == GD_OK) {
        const struct gd_json *context = gd_json_get(root, "context");
        s->tokens = count_of(context, "tokens");
        s->cached = count_of(context, "cached_tokens");
    }
    gd_arena_free(&arena);
}

static void sleep_until(double ms)
{
    double left = ms - bench_now_ms();
    if (left > 0) {
        struct timespec t = {.tv_sec = (time_t)(left / 1e3),
                             .tv_nsec = (long)(fmod(left, 1e3) * 1e6)};
        nanosleep(&t, NULL);
    }
}

/* due: when the request was to be sent; 0: now. A connection that the server closed while it was idle
 * is opened again, once. */
static void ask(struct line *l, const struct bench *b, struct gd_str body, double due,
                struct sample *s)
{
    char value[64];
    int status = 0, rc = GD_EIO;
    sleep_until(due);
    double begin = due > 0 ? due : bench_now_ms();
    for (bool kept = l->fd >= 0, again = true; rc != GD_OK && again; kept = false) {
        again = kept;
        rc = l->fd >= 0 ? GD_OK : line_connect(l, b);
        rc = rc != GD_OK ? rc : line_send(l, b, body);
        rc = rc != GD_OK ? rc : line_receive(l, &status);
        if (rc != GD_OK) {
            line_close(l);
        }
    }
    double total = bench_now_ms() - begin;
    if (rc != GD_OK) {
        return;
    }
    s->status = status;
    if (status == 200) {
        read_answer(l, total, s);
    }
    const char *connection = header_of(l, "connection", value, sizeof value);
    if (connection != NULL && strcasecmp(connection, "close") == 0) {
        line_close(l);
    }
}

static void *connection_main(void *ctx)
{
    struct bench *b = ctx;
    struct line l = {.fd = -1, .data = malloc(ANSWER_MAX + 1)};
    for (uint32_t i; l.data != NULL && (i = atomic_fetch_add(&b->next, 1)) < b->n_requests;) {
        ask(&l, b, b->lines[i % b->n_lines], b->due != NULL ? b->due[i] : 0, &b->samples[i]);
    }
    line_close(&l);
    free(l.data);
    return NULL;
}

static void copy_text(const struct gd_json *object, const char *key, char *out, size_t size)
{
    const struct gd_json *v = gd_json_get(object, key);
    if (gd_json_is(v, GD_JSON_STRING)) {
        snprintf(out, size, "%.*s", (int)v->str.len, v->str.ptr);
    }
}

/* What the server computes on; left empty where it does not say. */
static void ask_device(struct bench *b)
{
    static const char request[] = "GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct line l = {.fd = -1, .data = malloc(ANSWER_MAX + 1)};
    struct gd_arena arena;
    const struct gd_json *root = NULL;
    int status = 0;
    gd_arena_init(&arena, GD_FILE_ARENA_BYTES);
    if (l.data != NULL && line_connect(&l, b) == GD_OK &&
        send(l.fd, request, sizeof request - 1, MSG_NOSIGNAL) == (ssize_t)sizeof request - 1 &&
        line_receive(&l, &status) == GD_OK && status == 200 &&
        gd_json_parse(&arena, (struct gd_str){l.data + l.head, l.len - l.head},
                      &GD_JSON_REQUEST_LIMITS, &root, NULL) == GD_OK) {
        const struct gd_json *backend = gd_json_get(root, "backend");
        copy_text(backend, "device", b->device, sizeof b->device);
        copy_text(backend, "device_name", b->device_name, sizeof b->device_name);
        copy_text(backend, "gemm_dtype", b->dtype, sizeof b->dtype);
    }
    gd_arena_free(&arena);
    line_close(&l);
    free(l.data);
}

/* ---- telling ---- */

struct summary {
    uint32_t verdicts, refused, failed, hits;
    int failed_status; /* of one of them; 0: there was no answer */
    uint64_t tokens, cached;
    double wall_ms, p[N_PARTS][3], mean[N_PARTS];
};

static const double PERCENTILES[] = {50, 90, 99};

static int summarise(const struct bench *b, struct summary *s, struct gd_err *err)
{
    double *ms = calloc(b->n_requests, sizeof *ms);
    if (ms == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory");
    }
    for (uint32_t i = 0; i < b->n_requests; i++) {
        const struct sample *x = &b->samples[i];
        bool refused = x->status == 429 || x->status == 503;
        s->verdicts += x->status == 200;
        s->refused += refused;
        if (x->status != 200 && !refused) {
            s->failed++;
            s->failed_status = x->status;
        }
        s->hits += x->hit;
        s->tokens += x->tokens;
        s->cached += x->cached;
    }
    for (int part = 0; part < N_PARTS; part++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < b->n_requests; i++) {
            if (b->samples[i].status == 200) {
                s->mean[part] += (double)b->samples[i].ms[part] / s->verdicts;
                ms[n++] = (double)b->samples[i].ms[part];
            }
        }
        bench_sort(ms, n);
        for (int p = 0; p < 3; p++) {
            s->p[part][p] = bench_percentile(ms, n, PERCENTILES[p]);
        }
    }
    free(ms);
    return GD_OK;
}

static void print_text(const struct bench *b, const struct summary *s)
{
    double n = s->verdicts > 0 ? s->verdicts : 1, seconds = s->wall_ms / 1e3;
    printf(
        "%u connections, %u requests: %u verdicts, %u refused, %u failed, %u from the verdict "
        "cache; %.2f s\n%.1f verdicts/s; a prompt has %.1f tokens, %.1f of them cached; %.0f new "
        "tokens/s\n",
        b->n_connections, b->n_requests, s->verdicts, s->refused, s->failed, s->hits, seconds,
        s->verdicts / seconds, (double)s->tokens / n, (double)s->cached / n,
        (double)(s->tokens - s->cached) / seconds);
    printf("%-14s %9s %9s %9s %9s  ms\n", "", "mean", "p50", "p90", "p99");
    for (int part = 0; part < N_PARTS; part++) {
        printf("%-14s %9.3f %9.3f %9.3f %9.3f\n", PART_NAMES[part], s->mean[part], s->p[part][0],
               s->p[part][1], s->p[part][2]);
    }
}

static void print_json(const struct bench *b, const struct summary *s)
{
    double n = s->verdicts > 0 ? s->verdicts : 1, seconds = s->wall_ms / 1e3;
    struct gd_json_writer w;
    struct gd_buf out;
    gd_buf_init(&out, GD_MIB);
    gd_json_writer_init(&w, &out);
    gd_jw_object(&w);
    gd_jw_put_str(&w, "bench", "http");
    gd_jw_put_str(&w, "commit", b->commit);
    gd_jw_put_str(&w, "body", b->body);
    gd_jw_put_str(&w, "device", b->device);
    gd_jw_put_str(&w, "device_name", b->device_name);
    gd_jw_put_str(&w, "gemm_dtype", b->dtype);
    gd_jw_put_i64(&w, "connections", b->n_connections);
    if (b->rate > 0) {
        gd_jw_put_i64(&w, "rate", b->rate);
    }
    gd_jw_put_i64(&w, "requests", b->n_requests);
    gd_jw_put_i64(&w, "verdicts", s->verdicts);
    gd_jw_put_i64(&w, "refused", s->refused);
    gd_jw_put_i64(&w, "failed", s->failed);
    gd_jw_put_i64(&w, "verdict_cache_hits", s->hits);
    bench_json_put(&w, "wall_s", seconds);
    bench_json_put(&w, "verdicts_per_s", s->verdicts / seconds);
    bench_json_put(&w, "tokens_mean", (double)s->tokens / n);
    bench_json_put(&w, "cached_tokens_mean", (double)s->cached / n);
    bench_json_put(&w, "new_tokens_per_s", (double)(s->tokens - s->cached) / seconds);
    for (int part = 0; part < N_PARTS; part++) {
        static const char *const keys[] = {"p50", "p90", "p99"};
        gd_jw_key(&w, PART_NAMES[part]);
        gd_jw_object(&w);
        bench_json_put(&w, "mean", s->mean[part]);
        for (int p = 0; p < 3; p++) {
            bench_json_put(&w, keys[p], s->p[part][p]);
        }
        gd_jw_object_end(&w);
    }
    bench_json_print(&w);
    gd_buf_free(&out);
}

/* ---- all of it ---- */

static int read_lines(struct bench *b, const char *path, struct gd_err *err)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return gd_err_set(err, GD_EIO, "%s: %s", path, strerror(errno));
    }
    char *text = NULL;
    size_t size = 0;
    b->lines = calloc(LINES_MAX, sizeof *b->lines);
    for (ssize_t n;
         b->lines != NULL && b->n_lines < LINES_MAX && (n = getline(&text, &size, f)) > 0;) {
        struct gd_str *line = &b->lines[b->n_lines];
        n -= text[n - 1] == '\n';
        *line = (struct gd_str){strndup(text, (size_t)n), (size_t)n};
        b->n_lines += n > 0 && line->ptr != NULL;
    }
    free(text);
    fclose(f);
    return b->n_lines > 0 ? GD_OK : gd_err_set(err, GD_EIO, "%s: no lines", path);
}

/* Times between arrivals are exponential. */
static bool plan_arrivals(struct bench *b)
{
    struct bench_rng r = {1};
    double at = bench_now_ms() + 50; /* all connections are there by then */
    b->due = calloc(b->n_requests, sizeof *b->due);
    for (uint32_t i = 0; i < b->n_requests && b->due != NULL; i++) {
        at -= log(((double)(bench_rng_next(&r) >> 11) + 1) * 0x1p-53) * 1e3 / b->rate;
        b->due[i] = at;
    }
    return b->due != NULL;
}

static int run(struct bench *b, struct summary *s, struct gd_err *err)
{
    pthread_t threads[CONNECTIONS_MAX];
    uint32_t started = 0;
    b->samples = calloc(b->n_requests, sizeof *b->samples);
    if (b->samples == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory");
    }
    if (b->rate > 0 && !plan_arrivals(b)) {
        return gd_err_set(err, GD_ENOMEM, "no memory");
    }
    double begin = bench_now_ms();
    while (started < b->n_connections &&
           pthread_create(&threads[started], NULL, connection_main, b) == 0) {
        started++;
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    s->wall_ms = bench_now_ms() - begin;
    if (started < b->n_connections) {
        return gd_err_set(err, GD_ENOMEM, "only %u threads could be started", started);
    }
    return summarise(b, s, err);
}

/* False: wrong usage. */
static bool parse(int argc, char **argv, struct bench *b, const char **body)
{
    static const struct option longs[] = {{"port", required_argument, NULL, 'p'},
                                          {"host", required_argument, NULL, 'h'},
                                          {"body", required_argument, NULL, 'b'},
                                          {"path", required_argument, NULL, 'u'},
                                          {"key", required_argument, NULL, 'k'},
                                          {"connections", required_argument, NULL, 'c'},
                                          {"requests", required_argument, NULL, 'n'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"commit", required_argument, NULL, 'v'},
                                          {"rate", required_argument, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
    const char *host = "127.0.0.1";
    uint64_t port = 0, connections = 1, requests = 0, rate = 0;
    bool ok = true;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1 && ok;) {
        switch (c) {
        case 'p':
            ok = bench_number(optarg, 65535, &port);
            break;
        case 'c':
            ok = bench_number(optarg, CONNECTIONS_MAX, &connections) && connections > 0;
            break;
        case 'n':
            ok = bench_number(optarg, REQUESTS_MAX, &requests);
            break;
        case 'r':
            ok = bench_number(optarg, 1000000, &rate) && rate > 0;
            break;
        case 'h':
            host = optarg;
            break;
        case 'b':
            *body = optarg;
            break;
        case 'u':
            b->path = optarg;
            break;
        case 'k':
            b->key = optarg;
            break;
        case 'j':
            b->json = true;
            break;
        case 'v':
            b->commit = optarg;
            break;
        default:
            ok = false;
        }
    }
    b->to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    b->n_connections = (uint32_t)connections;
    b->n_requests = (uint32_t)requests;
    b->rate = (uint32_t)rate;
    return ok && optind == argc && port > 0 && *body != NULL &&
           inet_pton(AF_INET, host, &b->to.sin_addr) == 1;
}

int main(int argc, char **argv)
{
    struct bench b = {.path = "/v1/guard"};
    struct summary s = {.verdicts = 0};
    struct gd_err err = {0};
    const char *body = NULL;
    if (!parse(argc, argv, &b, &body)) {
        fprintf(
            stderr,
            "usage: %s --port P --body FILE.jsonl [--host A.B.C.D] [--path /v1/guard] [--key KEY]\n"
            "    [--connections N] [--requests N; else one for each line] [--rate R a second]\n"
            "    [--json] [--commit HASH]\n",
            argv[0]);
        return 2;
    }
    const char *slash = strrchr(body, '/');
    b.body = slash != NULL ? slash + 1 : body;
    int rc = read_lines(&b, body, &err);
    b.n_requests = b.n_requests > 0 ? b.n_requests : b.n_lines;
    if (rc == GD_OK) {
        ask_device(&b);
    }
    rc = rc != GD_OK ? rc : run(&b, &s, &err);
    if (rc == GD_OK && b.json) {
        print_json(&b, &s);
    } else if (rc == GD_OK) {
        print_text(&b, &s);
    } else {
        fprintf(stderr, "%s\n", err.msg);
    }
    if (s.failed > 0) {
        fprintf(stderr,
                "%u requests got neither a verdict nor a refusal; HTTP status of the last: %d\n",
                s.failed, s.failed_status);
    }
    for (uint32_t i = 0; i < b.n_lines; i++) {
        free((void *)(uintptr_t)b.lines[i].ptr);
    }
    free(b.lines);
    free(b.samples);
    free(b.due);
    return rc == GD_OK && s.failed == 0 ? 0 : 1;
}
