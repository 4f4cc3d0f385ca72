/* overload_client.c - the client of bench/overload.c. See overload_client.h.
 *
 * A connection is free, or idle (open, nothing under way), or has one request. A kept connection that
 * turns out to be closed before the first byte of an answer is opened anew, once, as any HTTP client
 * does. Connections come from 64 loopback addresses in turn, so that no pair of address and port is
 * wanted again while the one before still lingers. */
#include "overload_client.h"

#include "guardian/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 4096u
#define OUT_MAX 32768u
#define IN_MAX 16384u
#define EVENTS 256
#define TIMEOUT_MS 30000.0 /* after the last one was due */
#define ITEM_WORDS 50      /* of one message: policies cut long items */
#define SOURCES 64u
#define PAUSE_MS 50.0 /* of the closed loop after a refusal */

struct conn {
    struct conn *next; /* free or idle */
    int fd;
    bool reused;
    struct overload_request *request; /* NULL: nothing under way */
    size_t out_len, out_done, in_len;
    char out[OUT_MAX], in[IN_MAX + 1];
};

struct overload_client {
    struct overload_options opt;
    int epoll;
    struct conn *conns; /* [CONNS_MAX] */
    struct conn *free, *idle;
    uint32_t n_busy, n_sources, tokens;
    struct bench_rng rng;
    uint64_t n_bodies;
    double refused_ms; /* when the last refusal came */
};

static const char *const SYLLABLES[] = {"ka",  "lo",  "mi",  "ren", "tas", "vu",
                                        "pel", "dor", "sin", "qua", "bet", "hul",
                                        "gri", "fo",  "nam", "zet", "ula", "cor"};

/* ---- bodies ---- */

static size_t put_words(struct overload_client *c, char *out, uint32_t n)
{
    size_t len = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 1 + bench_rng_below(&c->rng, 3); k > 0; k--) {
            const char *s = SYLLABLES[bench_rng_below(&c->rng, 18)];
            memcpy(out + len, s, strlen(s));
            len += strlen(s);
        }
        out[len++] = ' ';
    }
    return len;
}

/* A trajectory that ends in a call; no two are alike. */
static size_t put_body(struct overload_client *c, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "{\"messages\":[");
    for (uint32_t left = c->opt.n_words; left > 0;) {
        const uint32_t k = left < ITEM_WORDS ? left : ITEM_WORDS;
        n += (size_t)snprintf(out + n, size - n, "{\"role\":\"user\",\"content\":\"");
        n += put_words(c, out + n, k);
        n += (size_t)snprintf(out + n, size - n, "\"},");
        left -= k;
    }
    n += (size_t)snprintf(
        out + n, size - n,
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":"
        "\"function\",\"function\":{\"name\":\"search_orders\",\"arguments\":"
        "\"{\\\"order\\\": %llu}\"}}]}]}",
        (unsigned long long)++c->n_bodies);
    return n;
}

static void put_request(struct overload_client *c, struct conn *k)
{
    static char body[OUT_MAX];
    const size_t n = put_body(c, body, sizeof body);
    const char *key = c->opt.key;
    const int head =
        snprintf(k->out, sizeof k->out,
                 "POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 "%s%s%sConnection: %s\r\nContent-Length: %zu\r\n\r\n",
                 key != NULL ? "Authorization: Bearer " : "", key != NULL ? key : "",
                 key != NULL ? "\r\n" : "", c->opt.keep ? "keep-alive" : "close", n);
    GD_ASSERT(head > 0 && (size_t)head + n < sizeof k->out);
    memcpy(k->out + head, body, n);
    k->out_len = (size_t)head + n;
}

/* ---- connections ---- */

static void drop(struct overload_client *c, struct conn *k)
{
    close(k->fd); /* takes it out of the epoll set */
    k->fd = -1;
    k->next = c->free;
    c->free = k;
}

static bool dial(struct overload_client *c, struct conn *k)
{
    const int on = 1;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7F000001u + ++c->n_sources % SOURCES);
    k->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    k->reused = false;
    if (k->fd < 0) {
        return false;
    }
    setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(k->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = k};
    return bind(k->fd, (const struct sockaddr *)&from, sizeof from) == 0 &&
           (connect(k->fd, (const struct sockaddr *)&c->opt.to, sizeof c->opt.to) == 0 ||
            errno == EINPROGRESS) &&
           epoll_ctl(c->epoll, EPOLL_CTL_ADD, k->fd, &e) == 0;
}

/* The answer of k's request is there (status), or will never be (0). */
static void finish(struct overload_client *c, struct conn *k, int status, bool keep)
{
    k->request->status = status;
    k->request->done_ms = bench_now_ms();
    if (status == 503) {
        c->refused_ms = k->request->done_ms;
    }
    k->request = NULL;
    c->n_busy--;
    if (keep) {
        k->next = c->idle;
        c->idle = k;
    } else {
        drop(c, k);
    }
}

static void push_out(struct conn *k)
{
    while (k->out_done < k->out_len) {
        const ssize_t n = send(k->fd, k->out + k->out_done, k->out_len - k->out_done, MSG_NOSIGNAL);
        if (n <= 0) {
            return; /* later, or reading tells why not */
        }
        k->out_done += (size_t)n;
    }
}

/* Sends r now: on an idle connection, else on a new one. */
static void start(struct overload_client *c, struct overload_request *r)
{
    struct conn *k = c->idle != NULL ? c->idle : c->free;
    *r = (struct overload_request){.due_ms = r->due_ms};
    if (k == NULL) {
        r->done_ms = bench_now_ms(); /* more than any real client would have */
        return;
    }
    const bool reused = k == c->idle;
    *(reused ? &c->idle : &c->free) = k->next;
    k->request = r;
    k->out_done = k->in_len = 0;
    c->n_busy++;
    put_request(c, k);
    if (!reused && !dial(c, k)) {
        finish(c, k, 0, false);
        return;
    }
    k->reused = reused;
    push_out(k);
}

/* ---- answers ---- */

/* The value of a header, behind its name and colon; NULL when absent. */
static const char *header_of(const struct conn *k, const char *end, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = k->in; (p = memchr(p, '\n', (size_t)(end - p))) != NULL && ++p < end;) {
        if ((size_t)(end - p) > n && p[n] == ':' && strncasecmp(p, name, n) == 0) {
            return p + n + 1 + strspn(p + n + 1, " ");
        }
    }
    return NULL;
}

/* Takes an answer that is whole; false when more must come. */
static bool take_answer(struct overload_client *c, struct conn *k)
{
    k->in[k->in_len] = '\0';
    const char *end = strstr(k->in, "\r\n\r\n");
    if (end == NULL) {
        return false;
    }
    end += 2;
    const char *length = header_of(k, end, "content-length");
    const size_t body = length != NULL ? strtoul(length, NULL, 10) : IN_MAX;
    if (k->in_len < (size_t)(end + 2 - k->in) + body) {
        return false;
    }
    const char *connection = header_of(k, end, "connection");
    const int status = strncmp(k->in, "HTTP/1.1 ", 9) == 0 ? (int)strtol(k->in + 9, NULL, 10) : 0;
    const char *after = header_of(k, end, "retry-after");
    const char *tokens = status == 200 ? strstr(end, "\"tokens\":") : NULL;
    k->request->retry_after = after != NULL && strtol(after, NULL, 10) > 0;
    if (tokens != NULL) {
        c->tokens = (uint32_t)strtoul(tokens + strlen("\"tokens\":"), NULL, 10);
    }
    const bool keep = c->opt.keep && k->out_done == k->out_len && connection != NULL &&
                      strncasecmp(connection, "keep-alive", 10) == 0;
    finish(c, k, status, keep);
    return true;
}

/* The connection ended before the answer did. */
static void broken(struct overload_client *c, struct conn *k)
{
    if (!k->reused || k->in_len > 0) {
        finish(c, k, 0, false);
        return;
    }
    close(k->fd);
    k->out_done = 0;
    if (dial(c, k)) {
        push_out(k);
    } else {
        finish(c, k, 0, false);
    }
}

static void forget_idle(struct overload_client *c, struct conn *k)
{
    for (struct conn **at = &c->idle; *at != NULL; at = &(*at)->next) {
        if (*at == k) {
            *at = k->next;
            drop(c, k);
            return;
        }
    }
}

static void on_event(struct overload_client *c, struct conn *k)
{
    if (k->fd < 0) {
        return; /* dropped by an event before this one */
    }
    if (k->request == NULL) {
        char byte;
        const ssize_t n = recv(k->fd, &byte, 1, MSG_PEEK);
        if (n >= 0 || errno != EAGAIN) {
            forget_idle(c, k);
        }
        return;
    }
    push_out(k);
    for (;;) {
        const ssize_t n = recv(k->fd, k->in + k->in_len, IN_MAX - k->in_len, 0);
        if (n < 0 && errno == EAGAIN) {
            return;
        }
        if (n <= 0) {
            broken(c, k);
            return;
        }
        k->in_len += (size_t)n;
        if (take_answer(c, k)) {
            return;
        }
    }
}

/* Waits for events until then, and handles them. */
static void turn(struct overload_client *c, double until_ms)
{
    struct epoll_event events[EVENTS];
    const double left = until_ms - bench_now_ms();
    const double ms = left > 0 ? left : 0;
    const struct timespec t = {.tv_sec = (time_t)(ms / 1e3),
                               .tv_nsec = (long)(fmod(ms, 1e3) * 1e6)};
    const int n = epoll_pwait2(c->epoll, events, EVENTS, &t, NULL);
    for (int i = 0; i < n; i++) {
        on_event(c, events[i].data.ptr);
    }
}

static void wait_for_all(struct overload_client *c)
{
    const double give_up = bench_now_ms() + TIMEOUT_MS;
    while (c->n_busy > 0 && bench_now_ms() < give_up) {
        turn(c, give_up);
    }
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        if (c->conns[i].request != NULL) {
            finish(c, &c->conns[i], 0, false);
        }
    }
    while (c->idle != NULL) {
        forget_idle(c, c->idle);
    }
}

void overload_run(struct overload_client *c, struct overload_request *r, size_t n)
{
    for (size_t i = 0; i < n;) {
        const double now = bench_now_ms();
        while (i < n && r[i].due_ms <= now) {
            start(c, &r[i++]);
        }
        turn(c, i < n ? r[i].due_ms : now);
    }
    wait_for_all(c);
}

size_t overload_saturate(struct overload_client *c, struct overload_request *r, size_t max,
                         uint32_t n_at_once, double ms)
{
    size_t sent = 0;
    const double until = bench_now_ms() + ms;
    while (bench_now_ms() < until && sent < max) {
        const double now = bench_now_ms(), again = c->refused_ms + PAUSE_MS;
        while (c->n_busy < n_at_once && sent < max && now >= again) {
            r[sent].due_ms = bench_now_ms();
            start(c, &r[sent++]);
        }
        turn(c, again > now && again < until ? again : until);
    }
    wait_for_all(c);
    return sent;
}

uint32_t overload_tokens(const struct overload_client *c)
{
    return c->tokens;
}

int overload_open(struct overload_client **out, const struct overload_options *opt,
                  struct gd_err *err)
{
    struct overload_client *c = calloc(1, sizeof *c);
    if (c != NULL) {
        c->conns = calloc(CONNS_MAX, sizeof *c->conns);
    }
    if (c == NULL || c->conns == NULL || (c->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) {
        free(c != NULL ? c->conns : NULL);
        free(c);
        return gd_err_set(err, GD_ENOMEM, "no memory for the client");
    }
    c->opt = *opt;
    c->rng.state = (uint64_t)gd_now_ns(); /* no two runs ask the same: the server keeps verdicts */
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        c->conns[i].fd = -1;
        c->conns[i].next = c->free;
        c->free = &c->conns[i];
    }
    *out = c;
    return GD_OK;
}

void overload_close(struct overload_client *c)
{
    if (c != NULL) {
        close(c->epoll);
        free(c->conns);
        free(c);
    }
}
