/* overload.c - what a running server does with more work than it can do.
 *
 *     bench_overload --port P [--host A.B.C.D] [--key KEY] [--words N] [--seconds S] [--kept] [--pid PID]
 *         [--loads 0.5,1,2,10] [--at-once N] [--json] [--commit HASH]
 *
 * First the saturation: N requests always under way, for S seconds. Then, at each multiple of the
 * verdicts a second that this gave last, S seconds of requests that come at random (Poisson) whatever the
 * answers do, and four seconds at half the saturation, to see when the answers are as fast as ever.
 * At last bursts: each second twice the saturation, all at one time. After each of these the
 * saturation again: goodput is told as a share of the mean of the two next to it, since what a
 * machine can do changes by the minute. Every request is another one;
 * each has a connection of its own, or with --kept uses any that is free and stays open.
 *
 * Goodput is what was answered by a verdict from one second after the start of a load to its end, so
 * that neither filling nor emptying the queue counts. Times are from when a request was due to the
 * last byte of its answer. "back" is the time from the end of a load to the first quarter of a second
 * in which 19 of 20 requests got a verdict within 1.5 times the p99 of the lowest load. Anything else
 * than 200, or 503 with Retry-After, makes the exit status 1.
 *
 * The client takes part of the same processors: its share, the server's (--pid) and that of
 * everybody else are told beside each figure. */
#include "overload_client.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define REQUESTS_MAX 4000000u
#define LOADS_MAX 16
#define WARM_UP_MS 1000.0
#define AFTER_MS 4000.0
#define AFTER_LOAD 0.5
#define BIN_MS 250.0
#define BURST_LOAD 2.0
#define BURST_MS 1000.0

struct bench {
    struct overload_options opt;
    const char *commit;
    bool json;
    int pid;
    double seconds, loads[LOADS_MAX];
    uint32_t n_loads, n_at_once;
    struct overload_client *client;
    struct overload_request *r; /* [REQUESTS_MAX] */
    double *ms;                 /* [REQUESTS_MAX] scratch */
    struct bench_rng rng;
    double saturation, normal_ms; /* verdicts a second, lately; p99 at the lowest load */
    uint64_t n_bad;
};

/* Seconds of processor time since the start. */
struct cpu {
    double at, client, server, all;
};

struct outcome {
    const char *what;
    double load, rate;
    uint64_t sent, verdicts, refused, failed, no_retry_after;
    int failed_status;
    double goodput, of_saturation, back_s; /* back_s: below 0 when never, or not looked for */
    double verdict_ms[2], refusal_ms[3];
    struct cpu cpu; /* shares of all processors */
};

/* ---- processor time ---- */

static double ticks(double n)
{
    return n / (double)sysconf(_SC_CLK_TCK);
}

/* utime + stime of /proc/PID/stat, behind the name, which may hold anything. */
static double process_seconds(int pid)
{
    char path[64], line[1024];
    unsigned long long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    if (f == NULL) {
        return 0;
    }
    const char *end = fgets(line, sizeof line, f) != NULL ? strrchr(line, ')') : NULL;
    if (end != NULL) {
        sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %20llu %20llu", &user,
               &system);
    }
    fclose(f);
    return ticks((double)(user + system));
}

/* All but idle and waiting, of all processors. */
static double busy_seconds(void)
{
    unsigned long long v[8] = {0};
    FILE *f = fopen("/proc/stat", "re");
    if (f == NULL) {
        return 0;
    }
    const int n = fscanf(f, "cpu %20llu %20llu %20llu %20llu %20llu %20llu %20llu %20llu", &v[0],
                         &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]);
    fclose(f);
    return n == 8 ? ticks((double)(v[0] + v[1] + v[2] + v[5] + v[6] + v[7])) : 0;
}

static struct cpu cpu_now(const struct bench *b)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (struct cpu){
        .at = bench_now_ms() / 1e3,
        .client = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                  (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6,
        .server = process_seconds(b->pid),
        .all = busy_seconds(),
    };
}

static struct cpu cpu_share(const struct cpu *from, const struct cpu *to)
{
    const double whole = (to->at - from->at) * (double)sysconf(_SC_NPROCESSORS_ONLN);
    const struct cpu d = {.client = (to->client - from->client) / whole,
                          .server = (to->server - from->server) / whole,
                          .all = (to->all - from->all) / whole};
    return d;
}

/* ---- one load ---- */

static double exponential(struct bench *b, double rate)
{
    return -log(((double)(bench_rng_next(&b->rng) >> 11) + 1) * 0x1p-53) * 1e3 / rate;
}

/* Arrivals at random from `at` to `until`; n with what there is already. */
static size_t plan(struct bench *b, size_t n, double at, double until, double rate)
{
    for (at += exponential(b, rate); at < until && n < REQUESTS_MAX; at += exponential(b, rate)) {
        b->r[n++].due_ms = at;
    }
    return n;
}

/* Two percentiles, and the longest, of those with this status that were due in the time. */
static void latencies(const struct bench *b, size_t n, int status, double from, double until,
                      double *out, int n_out)
{
    static const double which[] = {50, 99, 100};
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        const struct overload_request *r = &b->r[i];
        if (r->status == status && r->due_ms >= from && r->due_ms < until) {
            b->ms[k++] = r->done_ms - r->due_ms;
        }
    }
    bench_sort(b->ms, k);
    for (int i = 0; i < n_out; i++) {
        out[i] = bench_percentile(b->ms, k, which[i]);
    }
}

static void count(struct bench *b, size_t n, struct outcome *o)
{
    o->sent = n;
    for (size_t i = 0; i < n; i++) {
        const struct overload_request *r = &b->r[i];
        o->verdicts += r->status == 200;
        o->refused += r->status == 503;
        o->no_retry_after += r->status == 503 && !r->retry_after;
        if (r->status != 200 && r->status != 503) {
            o->failed++;
            o->failed_status = r->status;
        }
    }
    b->n_bad += o->failed + o->no_retry_after;
}

/* Seconds from `end` to the first bin that is as good as ever; -1 when there is none. */
static double back_after(const struct bench *b, size_t n, double end)
{
    const double limit = 1.5 * b->normal_ms;
    for (size_t bin = 0; (double)bin * BIN_MS < AFTER_MS; bin++) {
        const double from = end + (double)bin * BIN_MS;
        uint32_t all = 0, good = 0;
        for (size_t i = 0; i < n; i++) {
            const struct overload_request *r = &b->r[i];
            if (r->due_ms >= from && r->due_ms < from + BIN_MS) {
                all++;
                good += r->status == 200 && r->done_ms - r->due_ms <= limit;
            }
        }
        if (all > 0 && 20 * good >= 19 * all) {
            return (double)bin * BIN_MS / 1e3;
        }
    }
    return -1;
}

/* Verdicts a second, of those that came in the time. */
static double goodput(const struct bench *b, size_t n, double from, double until)
{
    uint64_t k = 0;
    for (size_t i = 0; i < n; i++) {
        const struct overload_request *r = &b->r[i];
        k += r->status == 200 && r->done_ms >= from && r->done_ms < until;
    }
    return (double)k * 1e3 / (until - from);
}

/* Runs what was planned to begin at `begin`; the load is over at `end`, what is due later shows
 * whether all is well again. */
static struct outcome run(struct bench *b, size_t n, double begin, double end)
{
    struct outcome o = {.back_s = -1};
    const struct cpu before = cpu_now(b);
    overload_run(b->client, b->r, n);
    const struct cpu after = cpu_now(b);
    o.cpu = cpu_share(&before, &after);
    count(b, n, &o);
    o.goodput = goodput(b, n, begin + WARM_UP_MS, end);
    latencies(b, n, 200, begin + WARM_UP_MS, end, o.verdict_ms, 2);
    latencies(b, n, 503, begin + WARM_UP_MS, end, o.refusal_ms, 3);
    return o;
}

static struct outcome run_load(struct bench *b, double load)
{
    const double rate = load * b->saturation, begin = bench_now_ms() + 100;
    const double end = begin + WARM_UP_MS + b->seconds * 1e3;
    size_t n = plan(b, 0, begin, end, rate);
    n = plan(b, n, end, end + AFTER_MS, AFTER_LOAD * b->saturation);
    struct outcome o = run(b, n, begin, end);
    o.what = "poisson";
    o.load = load;
    o.rate = rate;
    if (b->normal_ms <= 0) {
        b->normal_ms = o.verdict_ms[1];
    }
    o.back_s = back_after(b, n, end);
    return o;
}

static struct outcome run_bursts(struct bench *b)
{
    const double begin = bench_now_ms() + 100;
    const double end = begin + WARM_UP_MS + ceil(b->seconds) * 1e3;
    const size_t size = (size_t)ceil(BURST_LOAD * b->saturation * BURST_MS / 1e3);
    size_t n = 0;
    for (double at = begin; at < end - 1; at += BURST_MS) {
        for (size_t i = 0; i < size && n < REQUESTS_MAX; i++) {
            b->r[n++].due_ms = at;
        }
    }
    n = plan(b, n, end, end + AFTER_MS, AFTER_LOAD * b->saturation);
    struct outcome o = run(b, n, begin, end);
    o.what = "bursts";
    o.load = BURST_LOAD;
    o.rate = BURST_LOAD * b->saturation;
    o.back_s = back_after(b, n, end);
    return o;
}

/* Many requests at a time, a new one as soon as one is answered. */
static struct outcome run_saturation(struct bench *b)
{
    struct outcome o = {.what = "saturation", .back_s = -1};
    const double begin = bench_now_ms(), end = begin + WARM_UP_MS + b->seconds * 1e3;
    const struct cpu before = cpu_now(b);
    const size_t n = overload_saturate(b->client, b->r, REQUESTS_MAX, b->n_at_once, end - begin);
    const struct cpu after = cpu_now(b);
    o.cpu = cpu_share(&before, &after);
    count(b, n, &o);
    o.goodput = b->saturation = goodput(b, n, begin + WARM_UP_MS, end);
    o.of_saturation = 1;
    latencies(b, n, 200, begin + WARM_UP_MS, end, o.verdict_ms, 2);
    latencies(b, n, 503, begin + WARM_UP_MS, end, o.refusal_ms, 3);
    return o;
}

/* ---- telling ---- */

static void tell_text(const struct outcome *o)
{
    printf(
        "%-10s x%-4g %7.1f/s sent %6llu: %6llu verdicts (%.1f/s, %.2f of saturation) p50 %.1f p99 "
        "%.1f ms; %llu refused, p50 %.1f p99 %.1f ms; %llu failed; back %.2f s; cpu: client %.2f "
        "server %.2f all %.2f\n",
        o->what, o->load, o->rate, (unsigned long long)o->sent, (unsigned long long)o->verdicts,
        o->goodput, o->of_saturation, o->verdict_ms[0], o->verdict_ms[1],
        (unsigned long long)o->refused, o->refusal_ms[0], o->refusal_ms[1],
        (unsigned long long)o->failed, o->back_s, o->cpu.client, o->cpu.server, o->cpu.all);
    if (o->failed + o->no_retry_after > 0) {
        printf("    failed: status %d; without Retry-After: %llu\n", o->failed_status,
               (unsigned long long)o->no_retry_after);
    }
    fflush(stdout);
}

static void tell_json(const struct bench *b, const struct outcome *o)
{
    struct gd_json_writer w;
    struct gd_buf out;
    gd_buf_init(&out, GD_MIB);
    gd_json_writer_init(&w, &out);
    gd_jw_object(&w);
    gd_jw_put_str(&w, "bench", "overload");
    gd_jw_put_str(&w, "commit", b->commit);
    gd_jw_put_str(&w, "arrivals", o->what);
    gd_jw_put_str(&w, "connections", b->opt.keep ? "kept" : "one each");
    gd_jw_put_i64(&w, "prompt_tokens", overload_tokens(b->client));
    bench_json_put(&w, "seconds", b->seconds);
    if (o->rate > 0) {
        bench_json_put(&w, "load", o->load);
        bench_json_put(&w, "rate", o->rate);
    } else {
        gd_jw_put_i64(&w, "at_once", b->n_at_once);
    }
    gd_jw_put_i64(&w, "sent", (int64_t)o->sent);
    gd_jw_put_i64(&w, "verdicts", (int64_t)o->verdicts);
    gd_jw_put_i64(&w, "refused", (int64_t)o->refused);
    gd_jw_put_i64(&w, "failed", (int64_t)o->failed);
    gd_jw_put_i64(&w, "without_retry_after", (int64_t)o->no_retry_after);
    bench_json_put(&w, "goodput_per_s", o->goodput);
    bench_json_put(&w, "of_saturation", o->of_saturation);
    bench_json_put(&w, "verdict_p50_ms", o->verdict_ms[0]);
    bench_json_put(&w, "verdict_p99_ms", o->verdict_ms[1]);
    bench_json_put(&w, "refusal_p50_ms", o->refusal_ms[0]);
    bench_json_put(&w, "refusal_p99_ms", o->refusal_ms[1]);
    bench_json_put(&w, "refusal_max_ms", o->refusal_ms[2]);
    if (o->back_s >= 0) {
        bench_json_put(&w, "back_s", o->back_s);
    }
    bench_json_put(&w, "cpu_client", o->cpu.client);
    bench_json_put(&w, "cpu_server", o->cpu.server);
    bench_json_put(&w, "cpu_all", o->cpu.all);
    bench_json_print(&w);
    gd_buf_free(&out);
    fflush(stdout);
}

static void tell(const struct bench *b, const struct outcome *o)
{
    if (b->json) {
        tell_json(b, o);
    } else {
        tell_text(o);
    }
}

static int run_all(struct bench *b, struct gd_err *err)
{
    b->r = calloc(REQUESTS_MAX, sizeof *b->r);
    b->ms = calloc(REQUESTS_MAX, sizeof *b->ms);
    if (b->r == NULL || b->ms == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory");
    }
    int rc = overload_open(&b->client, &b->opt, err);
    if (rc != GD_OK) {
        return rc;
    }
    struct outcome o = run_saturation(b);
    tell(b, &o);
    for (uint32_t i = 0; i <= b->n_loads && b->saturation > 0; i++) {
        const double before = b->saturation;
        o = i < b->n_loads ? run_load(b, b->loads[i]) : run_bursts(b);
        struct outcome s = run_saturation(b);
        o.of_saturation = 2 * o.goodput / (before + s.goodput);
        tell(b, &o);
        tell(b, &s);
        o = s;
    }
    if (b->saturation <= 0) {
        return gd_err_set(err, GD_EIO,
                          "there was no verdict: %llu requests failed, the last with status %d",
                          (unsigned long long)o.failed, o.failed_status);
    }
    return GD_OK;
}

/* ---- all of it ---- */

static bool parse_loads(struct bench *b, const char *text)
{
    for (b->n_loads = 0; b->n_loads < LOADS_MAX;) {
        char *end;
        const double v = strtod(text, &end);
        if (end == text || !(v > 0 && v <= 1000)) {
            return false;
        }
        b->loads[b->n_loads++] = v;
        if (*end == '\0') {
            return true;
        }
        text = end + 1;
    }
    return false;
}

/* False: wrong usage. */
static bool parse(int argc, char **argv, struct bench *b)
{
    static const struct option longs[] = {
        {"port", required_argument, NULL, 'p'},    {"host", required_argument, NULL, 'h'},
        {"key", required_argument, NULL, 'k'},     {"words", required_argument, NULL, 'w'},
        {"seconds", required_argument, NULL, 's'}, {"kept", no_argument, NULL, 'c'},
        {"loads", required_argument, NULL, 'l'},   {"at-once", required_argument, NULL, 'n'},
        {"pid", required_argument, NULL, 'i'},     {"json", no_argument, NULL, 'j'},
        {"commit", required_argument, NULL, 'v'},  {NULL, 0, NULL, 0}};
    const char *host = "127.0.0.1", *loads = "0.5,1,2,10";
    uint64_t port = 0, words = 100, seconds = 10, at_once = 8, pid = 0;
    bool ok = true;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1 && ok;) {
        switch (c) {
        case 'p':
            ok = bench_number(optarg, 65535, &port);
            break;
        case 'w':
            ok = bench_number(optarg, 1000, &words) && words > 0;
            break;
        case 's':
            ok = bench_number(optarg, 3600, &seconds) && seconds > 0;
            break;
        case 'n':
            ok = bench_number(optarg, 1000, &at_once) && at_once > 0;
            break;
        case 'i':
            ok = bench_number(optarg, INT32_MAX, &pid);
            break;
        case 'h':
            host = optarg;
            break;
        case 'k':
            b->opt.key = optarg;
            break;
        case 'c':
            b->opt.keep = true;
            break;
        case 'l':
            loads = optarg;
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
    b->opt.to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    b->opt.n_words = (uint32_t)words;
    b->seconds = (double)seconds;
    b->n_at_once = (uint32_t)at_once;
    b->pid = (int)pid;
    return ok && optind == argc && port > 0 && parse_loads(b, loads) &&
           inet_pton(AF_INET, host, &b->opt.to.sin_addr) == 1;
}

int main(int argc, char **argv)
{
    struct bench b = {.rng = {1}};
    struct gd_err err = {0};
    if (!parse(argc, argv, &b)) {
        fprintf(
            stderr,
            "usage: %s --port P [--host A.B.C.D] [--key KEY] [--words N] [--seconds S] [--kept]\n"
            "    [--loads 0.5,1,2,10] [--at-once N] [--pid PID of the server] [--json] [--commit "
            "HASH]\n",
            argv[0]);
        return 2;
    }
    const int rc = run_all(&b, &err);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    overload_close(b.client);
    free(b.r);
    free(b.ms);
    return rc == GD_OK && b.n_bad == 0 ? 0 : 1;
}
