/* desync.c - sends the same random bytes to Guardian, to Guardian behind nginx and to Guardian behind
 * HAProxy, and looks for an answer or a run request that belongs to something else.
 *
 * One thread, some connections to each path at once; beside them victims ask for plain things over
 * connections of their own through the same proxies and must each get their own 200. A finding is
 * printed with its case number and its bytes as hex, and makes the exit status 1. tests/desync/run
 * starts the servers; judge.c knows what is right, reference.c what a stream holds.
 *
 *   desync --direct PORT --nginx PORT,PORT --haproxy PORT,PORT --log FILE [--cases N] [--seed S]
 *          [--case N] [--slots N] [--findings N] [--show N]
 *
 * Of the two ports of a proxy the second one takes what the first would refuse by itself. FILE is
 * Guardian's log as it grows. It ends after so many findings (5). --show prints the bytes of a case
 * and sends nothing. */
#include "desync.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOTS_MAX 128
#define VICTIMS 4            /* connections of each path */
#define VICTIMS_DUE_MAX 64u  /* one for each case, as far as they are fast enough */
#define IN_MAX (256 * 1024)  /* answers not yet read */
#define QUIET_MS 80          /* without a byte: our side of the connection is closed */
#define GONE_MS 3000         /* after that: so is the rest */
#define VICTIM_MS 60000      /* a victim without an answer is a finding */
#define VICTIM_IDLE_MS 10000 /* servers close idle connections: a victim takes a new one before */
#define AHEAD_MAX 4096u      /* cases between the fastest path and the slowest */
#define LOG_BYTES (1 << 20)
#define LOG_HOLE (64 << 20)

struct conn {
    int fd;
    enum path path;
    bool victim, busy, opened, half, said_close, raw;
    bool unseen; /* the proxy has passed on an answer without its rules: the last one of Guardian */
    uint32_t number;
    struct stream *stream;
    struct reference ref;
    size_t sent, cut; /* bytes up to `cut` go out first, the rest with the next turn */
    size_t n_in, skip;
    char *in;
    unsigned n_answers;
    int64_t last_ms;
    char id[ID_LEN + 1]; /* of a victim's request */
};

static struct {
    uint64_t seed;
    uint32_t first, cases;
    unsigned slots, findings_max;
    uint16_t ports[PATHS][2];
    const char *log_path;
} opt = {.seed = 1, .cases = 1000, .slots = 16, .findings_max = 5};

static struct conn conns[PATHS][SLOTS_MAX], victims[PATHS][VICTIMS];
static int epoll_fd, log_fd = -1;
static off_t log_at, log_hole;
static uint32_t next_case[PATHS], victim_due[PATHS], victim_count;
static unsigned findings;
static struct {
    uint64_t done, answers[PATHS][6], victims, logged, silent, stuck, unseen;
} count;

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void print_hex(const char *name, const char *p, size_t n)
{
    printf("  %s, %zu bytes: ", name, n);
    for (size_t i = 0; i < n; i++) {
        printf("%02x", (unsigned char)p[i]);
    }
    printf("\n");
}

static void report(enum path path, uint32_t number, const char *what, const char *answer, size_t n)
{
    static struct stream s;
    printf("FINDING: %s: %s\n  case %u of seed %llu\n", PATH_NAMES[path], what, number,
           (unsigned long long)opt.seed);
    if (number >= opt.first && number < opt.first + opt.cases) {
        stream_make(&s, opt.seed, number, PATH_LETTERS[path]);
        print_hex("sent", s.bytes, s.len);
    }
    print_hex("seen", answer, n < 2048 ? n : 2048);
    fflush(stdout);
    findings++;
}

static void close_conn(struct conn *c)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (c->fd >= 0) {
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        close(c->fd);
    }
    c->fd = -1;
    c->opened = false;
}

static bool open_conn(struct conn *c, uint16_t port)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    const int on = 1;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&to, sizeof(to)) != 0) {
        printf("FINDING: %s on port %u takes no connection: %s\n", PATH_NAMES[c->path], port,
               strerror(errno));
        findings++;
        close_conn(c);
        return false;
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->opened = true;
    c->half = c->said_close = c->raw = c->unseen = false;
    c->n_in = c->skip = c->sent = 0;
    c->n_answers = 0;
    c->last_ms = now_ms();
    return true;
}

static struct record *record_of(uint32_t number)
{
    struct record *r = &records[number % RECORDS];
    if (!r->used || r->number != number) {
        *r = (struct record){.used = true, .number = number};
    }
    return r;
}

/* Each case goes to one of the two ports of a proxy. */
static void start_case(struct conn *c)
{
    struct rng r = {opt.seed ^ ((uint64_t)next_case[c->path] << 20)};
    const uint32_t variant = (uint32_t)rng_next(&r);
    c->number = next_case[c->path]++;
    stream_make(c->stream, opt.seed, c->number, PATH_LETTERS[c->path]);
    reference_read(&c->ref, c->stream, opt.seed);
    struct record *rec = record_of(c->number);
    if (c->path == DIRECT) {
        for (unsigned i = 0; i < c->ref.n; i++) {
            rec->allowed |= c->ref.r[i].ids;
        }
    }
    c->cut = (variant >> 8) % 8 == 0 ? (variant >> 12) % (c->stream->len + 1) : c->stream->len;
    c->busy = open_conn(c, opt.ports[c->path][c->path == DIRECT ? 0 : variant & 1]);
}

static void end_case(struct conn *c)
{
    struct record *rec = record_of(c->number);
    close_conn(c);
    c->busy = false;
    count.silent += c->n_answers == 0 ? 1 : 0;
    victim_due[c->path] += victim_due[c->path] < VICTIMS_DUE_MAX ? 1 : 0;
    if (++rec->n_done == PATHS) {
        count.done++;
        if (!rec->given_up &&
            (rec->passed[DIRECT] & ~rec->passed[NGINX] & ~rec->passed[HAPROXY]) != 0) {
            report(DIRECT, c->number,
                   "Guardian passed a request of the stream that neither proxy let through", "", 0);
        }
    }
}

/* False when nothing more can be sent now. */
static void push(struct conn *c)
{
    const size_t to = c->sent < c->cut ? c->cut : c->stream->len;
    while (c->opened && !c->half && c->sent < to) {
        const ssize_t k = send(c->fd, c->stream->bytes + c->sent, to - c->sent, MSG_NOSIGNAL);
        if (k < 0) {
            c->sent = errno == EAGAIN ? c->sent : c->stream->len;
            return;
        }
        c->sent += (size_t)k;
    }
}

static void stop_sending(struct conn *c)
{
    if (!c->half && c->sent == c->stream->len) {
        c->half = true;
        c->last_ms = now_ms();
        shutdown(c->fd, SHUT_WR);
    }
}

static void note_passed(const struct conn *c, const struct answer *a)
{
    struct id id;
    const char *text = c->path == DIRECT ? a->id : a->front;
    const bool plain =
        c->path != DIRECT || (c->n_answers <= c->ref.n && c->ref.r[c->n_answers - 1].plain);
    if (!plain || a->status / 100 != 2) {
        return;
    }
    if (!id_find(text, strlen(text), opt.seed, &id, NULL)) {
        /* An id that a change of bytes has spoilt may have come out whole on another path. */
        const bool spoilt = c->path != DIRECT && text[0] != '\0' && text[strlen(text) - 1] != ':';
        record_of(c->number)->given_up |= spoilt;
    } else if (id.number == c->number) {
        record_of(c->number)->passed[c->path] |= id_bit(&id);
    }
}

/* Bytes of the body behind an answer's head. To HEAD there is none; but what was refused before its
 * method was looked at may have one, if the connection ends, and neither the proxies' own answers nor
 * what they pass on without their rules tell which method they are for. -1: more must come before
 * this is known. */
static long body_bytes(const struct conn *c, const struct answer *a, bool ended)
{
    const struct ref_request *r = c->n_answers < c->ref.n ? &c->ref.r[c->n_answers] : NULL;
    const bool known = c->path == DIRECT ? r == NULL || !r->may_be_head : a->has_id && a->has_front;
    const bool head = c->path == DIRECT ? r != NULL && r->head : a->front_head;
    const size_t left = c->n_in - a->head_len;
    if (known && !head) {
        return left >= a->length ? (long)a->length : -1;
    }
    if ((head && !a->close) || (left >= 7 && memcmp(c->in + a->head_len, "HTTP/1.", 7) == 0) ||
        (left == 0 && ended)) {
        return 0;
    }
    return left >= a->length ? (long)a->length : -1;
}

/* Takes one answer from the front of what has come: its bytes, 0 when more is needed, -1 after a
 * finding. */
static long take_answer(struct conn *c, bool ended)
{
    struct answer a;
    const char *wrong = NULL;
    const int rc = answer_read(&a, c->in, c->n_in);
    if (rc < 0 && c->path == NGINX && !c->said_close && memcmp(c->in, "HTTP", 4) != 0) {
        c->raw = true; /* HTTP/0.9, which has no heads: nginx still speaks it */
        return (long)c->n_in;
    }
    if (rc == 0 && !ended) {
        return 0;
    }
    if (rc <= 0) {
        report(c->path, c->number, "what came is not an answer", c->in, c->n_in);
        return -1;
    }
    if (a.status < 200) {
        return (long)a.head_len;
    }
    const long body = body_bytes(c, &a, ended);
    if (body < 0) {
        if (ended) {
            report(c->path, c->number, "an answer that is not complete", c->in, c->n_in);
        }
        return ended ? -1 : 0;
    }
    if (c->said_close) {
        wrong = "an answer after one that ends the connection";
    } else if (!a.has_length) {
        wrong = "an answer of no known length";
    } else {
        wrong = c->path == DIRECT ? judge_direct(&c->ref, c->n_answers, &a, c->number, opt.seed)
                                  : judge_proxied(c->path, &c->ref, &a, c->number, opt.seed);
    }
    if (wrong != NULL) {
        report(c->path, c->number, wrong, c->in, c->n_in);
        return -1;
    }
    count.answers[c->path][a.status / 100]++;
    c->said_close = a.close;
    c->unseen = c->unseen || (c->path != DIRECT && a.has_id && !a.has_front);
    count.unseen += c->path != DIRECT && a.has_id && !a.has_front ? 1 : 0;
    c->n_answers++;
    note_passed(c, &a);
    return (long)a.head_len + body;
}

/* Reads what is there; false when the connection is over. */
static bool pull(struct conn *c)
{
    const ssize_t k = recv(c->fd, c->in + c->n_in, IN_MAX - c->n_in, 0);
    if (k < 0 && errno == EAGAIN) {
        return true;
    }
    c->n_in += k > 0 ? (size_t)k : 0;
    c->last_ms = now_ms();
    return k > 0 && c->n_in < IN_MAX;
}

/* Guardian has ended the connection instead of answering a good request, and did not say so before: a
 * proxy that shares its connections would have lost another client's request with it. */
static bool is_broken_promise(const struct conn *c)
{
    const struct ref_request *next = c->n_answers < c->ref.n ? &c->ref.r[c->n_answers] : NULL;
    return c->path == DIRECT && c->n_answers > 0 && !c->said_close && !c->half && next != NULL &&
           next->state == REF_GOOD && next->plain;
}

static void turn_case(struct conn *c)
{
    const bool ended = !pull(c);
    while (c->n_in > 0 && !c->raw) {
        const long used = take_answer(c, ended);
        if (used < 0) {
            end_case(c);
            return;
        }
        if (used == 0) {
            break;
        }
        memmove(c->in, c->in + used, c->n_in - (size_t)used);
        c->n_in -= (size_t)used;
    }
    if (c->raw) {
        c->n_in = 0;
    }
    if (ended) {
        if (is_broken_promise(c)) {
            report(c->path, c->number, "a connection was ended that was said to be kept", "", 0);
        }
        end_case(c);
    } else if (c->n_answers >= c->ref.n) {
        stop_sending(c);
    }
}

static void ask_victim(struct conn *v)
{
    static const char verdict[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
                                  "{\"role\":\"assistant\",\"content\":\"hello\"}]}";
    char text[512];
    int n;
    const struct id id = {.letter = PATH_LETTERS[v->path], .kind = 'w', .number = victim_count++};
    if (v->opened && now_ms() - v->last_ms > VICTIM_IDLE_MS) {
        close_conn(v);
    }
    if (!v->opened && !open_conn(v, opt.ports[v->path][0])) {
        return;
    }
    id_write(v->id, &id, opt.seed);
    if (id.number % 4 == 0) {
        n = snprintf(text, sizeof(text),
                     "POST /v1/guard HTTP/1.1\r\nHost: v\r\nx-request-id: %s\r\nContent-Length: "
                     "%zu\r\n\r\n%s",
                     v->id, sizeof(verdict) - 1, verdict);
    } else {
        n = snprintf(text, sizeof(text),
                     "GET /version HTTP/1.1\r\nHost: v\r\nx-request-id: %s\r\n\r\n", v->id);
    }
    v->busy = true;
    v->last_ms = now_ms();
    if (send(v->fd, text, (size_t)n, MSG_NOSIGNAL) != n) {
        report(v->path, 0, "a victim's connection was cut", v->id, ID_LEN);
        close_conn(v);
        v->busy = false;
    }
}

static void turn_victim(struct conn *v)
{
    struct answer a;
    const bool ended = !pull(v);
    const int rc = v->n_in > 0 ? answer_read(&a, v->in, v->n_in) : 0;
    if (!v->busy) { /* the server may end what is idle, but not speak */
        if (v->n_in > 0) {
            report(v->path, 0, "a victim was sent what it did not ask for", v->in, v->n_in);
        }
        if (ended || v->n_in > 0) {
            close_conn(v);
        }
        return;
    }
    if (rc == 1 && v->n_in >= a.head_len + a.length) {
        const char *wrong = judge_victim(v->path, &a, v->id);
        if (wrong == NULL && v->n_in > a.head_len + a.length) {
            wrong = "a victim was sent more than it asked for";
        }
        if (wrong != NULL) {
            report(v->path, 0, wrong, v->in, v->n_in);
        }
        count.victims++;
        v->n_in = 0;
        v->busy = false;
        if (a.close || ended || wrong != NULL) {
            close_conn(v);
        } else if (victim_due[v->path] > 0) {
            victim_due[v->path]--;
            ask_victim(v);
        }
    } else if (ended || rc < 0) {
        report(v->path, 0, "a victim got no whole answer", v->in, v->n_in);
        close_conn(v);
        v->busy = false;
    }
}

/* Reads on in Guardian's log, and gives back the space of what was read. */
static void read_log(void)
{
    static char text[LOG_BYTES];
    static const char key[] = "\"request_id\":\"";
    for (;;) {
        const ssize_t n = pread(log_fd, text, sizeof(text), log_at);
        const char *end = n > 0 ? memrchr(text, '\n', (size_t)n) : NULL;
        if (end == NULL) {
            break;
        }
        for (const char *p = text; p < end;) {
            const char *stop = memchr(p, '\n', (size_t)(end - p) + 1);
            const char *at = memmem(p, (size_t)(stop - p), key, sizeof(key) - 1);
            const char *id = at != NULL ? at + sizeof(key) - 1 : NULL;
            const char *quote = id != NULL ? memchr(id, '"', (size_t)(stop - id)) : NULL;
            const char *wrong =
                quote != NULL ? judge_log(id, (size_t)(quote - id), opt.seed) : NULL;
            count.logged += quote != NULL ? 1 : 0;
            if (wrong != NULL) {
                struct id whose;
                id_find(id, (size_t)(quote - id), opt.seed, &whose, NULL);
                const char *letter = strchr(PATH_LETTERS, whose.letter);
                report(letter != NULL ? (enum path)(letter - PATH_LETTERS) : DIRECT, whose.number,
                       wrong, p, (size_t)(stop - p));
            }
            p = stop + 1;
        }
        log_at += end + 1 - text;
    }
    if (log_at - log_hole > LOG_HOLE) {
        (void)!fallocate(log_fd, 3 /* keep the size, punch a hole */, log_hole, log_at - log_hole);
        log_hole = log_at;
    }
}

static uint32_t slowest(void)
{
    uint32_t least = next_case[0];
    for (int p = 1; p < PATHS; p++) {
        least = next_case[p] < least ? next_case[p] : least;
    }
    return least;
}

/* What no event tells: new cases, the rest of what was cut in two, silence. False when all is done. */
static bool tick(void)
{
    const int64_t now = now_ms();
    bool more = false;
    for (int p = 0; p < PATHS; p++) {
        for (unsigned i = 0; i < opt.slots; i++) {
            struct conn *c = &conns[p][i];
            if (!c->busy && next_case[p] < opt.first + opt.cases &&
                next_case[p] < slowest() + AHEAD_MAX) {
                start_case(c);
            }
            if (!c->busy) {
                continue;
            }
            more = true;
            push(c);
            if (now - c->last_ms > (c->half ? GONE_MS : QUIET_MS)) {
                if (c->half) {
                    count.stuck++;
                    record_of(c->number)->given_up = true;
                    end_case(c);
                } else {
                    stop_sending(c);
                }
            }
        }
        for (int i = 0; i < VICTIMS; i++) {
            struct conn *v = &victims[p][i];
            if (v->busy && now - v->last_ms > VICTIM_MS) {
                report(v->path, 0, "a victim got no answer", v->id, ID_LEN);
                close_conn(v);
                v->busy = false;
            } else if (!v->busy && victim_due[p] > 0 && more) {
                victim_due[p]--;
                ask_victim(v);
            }
            more = more || v->busy;
        }
    }
    return more && findings < opt.findings_max;
}

static void run(void)
{
    struct epoll_event events[64];
    const int64_t start = now_ms();
    int64_t log_due = 0, say_due = start + 10000;
    while (tick()) {
        const int n = epoll_wait(epoll_fd, events, 64, 5);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c->opened) { /* not closed by an earlier event of this turn */
                (c->victim ? turn_victim : turn_case)(c);
            }
        }
        const int64_t now = now_ms();
        if (now >= log_due) {
            read_log();
            log_due = now + 50;
        }
        if (now >= say_due) {
            fprintf(stderr, "%llu cases, %.0f/s\n", (unsigned long long)count.done,
                    (double)count.done * 1000.0 / (double)(now - start));
            say_due = now + 10000;
        }
    }
    usleep(500000); /* Guardian writes its line after the answer */
    read_log();
    const double s = (double)(now_ms() - start) / 1000.0;
    for (int p = 0; p < PATHS; p++) {
        printf("%s: answers 2xx %llu, 4xx %llu, 5xx %llu\n", PATH_NAMES[p],
               (unsigned long long)count.answers[p][2], (unsigned long long)count.answers[p][4],
               (unsigned long long)count.answers[p][5]);
    }
    printf("victims %llu, log lines %llu, connections without an answer %llu, given up %llu, "
           "answers without the proxy's rules %llu\n",
           (unsigned long long)count.victims, (unsigned long long)count.logged,
           (unsigned long long)count.silent, (unsigned long long)count.stuck,
           (unsigned long long)count.unseen);
    printf("%llu cases in %.1f s, %.0f cases/s, seed %llu: %u findings\n",
           (unsigned long long)count.done, s, (double)count.done / s, (unsigned long long)opt.seed,
           findings);
}

static void prepare(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    log_fd = open(opt.log_path, O_RDWR | O_CLOEXEC);
    if (log_fd < 0) {
        fprintf(stderr, "cannot open the log %s: %s\n", opt.log_path, strerror(errno));
        exit(2);
    }
    for (int p = 0; p < PATHS; p++) {
        next_case[p] = opt.first;
        for (unsigned i = 0; i < opt.slots + VICTIMS; i++) {
            struct conn *c = i < opt.slots ? &conns[p][i] : &victims[p][i - opt.slots];
            *c = (struct conn){.fd = -1, .path = (enum path)p, .victim = i >= opt.slots};
            c->in = malloc(IN_MAX);
            c->stream = malloc(sizeof(*c->stream));
            if (c->in == NULL || c->stream == NULL) {
                fprintf(stderr, "no memory\n");
                exit(2);
            }
        }
    }
}

static void show(uint32_t number)
{
    static struct stream s;
    static struct reference ref;
    static const char *const states[] = {"good", "bad", "incomplete"};
    stream_make(&s, opt.seed, number, PATH_LETTERS[DIRECT]);
    reference_read(&ref, &s, opt.seed);
    fwrite(s.bytes, 1, s.len, stdout);
    for (unsigned i = 0; i < ref.n; i++) {
        fprintf(stderr, "request %u: %s %s\n", i, states[ref.r[i].state],
                ref.r[i].why != NULL ? ref.r[i].why : "");
    }
}

static void read_ports(enum path path, const char *text)
{
    char *end;
    opt.ports[path][0] = opt.ports[path][1] = (uint16_t)strtoul(text, &end, 10);
    if (*end == ',') {
        opt.ports[path][1] = (uint16_t)strtoul(end + 1, NULL, 10);
    }
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"direct", 1, NULL, 'd'},   {"nginx", 1, NULL, 'n'}, {"haproxy", 1, NULL, 'h'},
        {"log", 1, NULL, 'l'},      {"cases", 1, NULL, 'c'}, {"seed", 1, NULL, 's'},
        {"case", 1, NULL, 'o'},     {"slots", 1, NULL, 'k'}, {"show", 1, NULL, 'w'},
        {"findings", 1, NULL, 'f'}, {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        const unsigned long long value = c != '?' ? strtoull(optarg, NULL, 0) : 0;
        switch (c) {
        case 'd':
        case 'n':
        case 'h':
            read_ports(c == 'd' ? DIRECT : c == 'n' ? NGINX : HAPROXY, optarg);
            break;
        case 'l':
            opt.log_path = optarg;
            break;
        case 'c':
            opt.cases = (uint32_t)value;
            break;
        case 's':
            opt.seed = value;
            break;
        case 'o':
            opt.first = (uint32_t)value;
            opt.cases = 1;
            break;
        case 'k':
            opt.slots = value < 1 ? 1 : value > SLOTS_MAX ? SLOTS_MAX : (unsigned)value;
            break;
        case 'f':
            opt.findings_max = (unsigned)value;
            break;
        case 'w':
            show((uint32_t)value);
            return 0;
        default:
            return 2;
        }
    }
    if (opt.log_path == NULL || opt.ports[DIRECT][0] == 0 || opt.ports[NGINX][0] == 0 ||
        opt.ports[HAPROXY][0] == 0) {
        fprintf(
            stderr,
            "usage: see the first lines of desync.c; tests/desync/run starts all that is needed\n");
        return 2;
    }
    prepare();
    run();
    return findings != 0 ? 1 : 0;
}
