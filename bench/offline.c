/* offline.c - how many verdicts a second when there is always work: a seeded trace goes through the
 * engine's queue, with as many prompts in it at any time as the queue takes.
 *
 *     bench_offline MODEL_DIR [--device D] [--dtype T] [--threads N] [--requests N] [--seed S]
 *         [--trace NAME,...|all] [--max-batch-tokens N] [--kv-mib N] [--no-prefix-cache]
 *         [--repeat N] [--dump FILE] [--json] [--commit HASH] [--peak-tflops X]
 *
 * trace.h has the traces. New tokens are those that were computed, logical tokens those of the
 * prompts. "ceiling" is the useful work of the matrix products by what one large product reaches on
 * the same threads or device in the same run; "+attn" counts the useful work of attention too; mfu is
 * the useful work of the products by the data sheet's rate (--peak-tflops where it is not known). The
 * shares are of the wall time: operations, the step outside operations, the worker between steps
 * (sched), and the rest of that time (idle: it waits, or others have its processor). On a GPU the
 * operation "step" is the wait for it. Prompts are waited for in order, 400 at most at a time.
 *
 * With --repeat each trace runs with that many seeds in a row; the figures are those of the run
 * with the median rate, and its range is told. --dump writes the first of them, for bench/peers: to
 * a file, or for several traces to <trace>.jsonl in a directory. Verdict cache off. The exit status
 * is 1 when tokens do not add up or equal prompts got different logits. */
#include "trace.h"

#include <getopt.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define WINDOW 400u
#define REPEAT_MAX 100u
#define WARM_UP 32u
#define PEAKS 5 /* measurements of the ceiling before the first trace; then one for each run */

struct options {
    struct gd_engine_options engine;
    const char *trace, *dump, *commit;
    uint32_t requests, repeat;
    uint64_t seed, tflops; /* of the data sheet; 0: by the device's name */
    bool json;
};

static double peak; /* GFLOP/s, the best of this process; 0: not measured */

struct run {
    struct gd_engine *e;
    struct trace *t;
    struct gd_ticket *tickets[WINDOW];
    uint32_t sent, done;
};

struct result {
    double wall_ms, rate; /* of new tokens, a second */
    double attention_gflop;
    uint64_t computed, cached, evictions;
    struct bench_times times;
};

/* ---- one trace through the engine ---- */

static int wait_one(struct run *r, struct gd_err *err)
{
    struct gd_score score;
    struct trace_request *q = &r->t->requests[r->done];
    int rc = gd_engine_wait(r->e, r->tickets[r->done++ % WINDOW], NULL, NULL, &score, err);
    if (rc == GD_OK) {
        q->n_cached = score.cached_tokens;
        memcpy(q->logits, score.logits, sizeof q->logits);
    }
    return rc;
}

static int send_one(struct run *r, struct gd_err *err)
{
    const struct trace_request *q = &r->t->requests[r->sent];
    const struct gd_score_request req = {.prompt = {.tokens = q->tokens,
                                                    .n_tokens = q->n_tokens,
                                                    .n_shared = q->n_shared,
                                                    .n_keep = q->n_keep},
                                         .choices = r->t->choices,
                                         .n_choices = TRACE_CHOICES};
    int rc = gd_engine_submit(r->e, &req, &r->tickets[r->sent % WINDOW], err);
    r->sent += rc == GD_OK;
    return rc;
}

/* wall_ms: from the first submission to the last score. */
static int run_trace(struct gd_engine *e, struct trace *t, double *wall_ms, struct gd_err *err)
{
    struct run r = {.e = e, .t = t};
    double begin = bench_now_ms();
    int rc = GD_OK;
    while (r.sent < t->n && rc == GD_OK) {
        if (r.sent - r.done == WINDOW || r.done < t->requests[r.sent].after) {
            rc = wait_one(&r, err);
        } else {
            rc = send_one(&r, err);
        }
    }
    while (r.done < r.sent) { /* after a failure too: the engine waits for its callers */
        struct gd_err other;
        int last = wait_one(&r, rc == GD_OK ? err : &other);
        rc = rc == GD_OK ? last : rc;
    }
    *wall_ms = bench_now_ms() - begin;
    return rc;
}

static int check(const struct trace *t, const struct result *res,
                 const struct gd_engine_stats *before, const struct gd_engine_stats *after,
                 struct gd_err *err)
{
    uint64_t asked = after->query_tokens - before->query_tokens;
    uint64_t hit = after->hit_tokens - before->hit_tokens;
    if (asked != t->n_tokens || hit != res->cached || res->computed + res->cached != asked ||
        res->times.tokens != res->computed || after->failures != before->failures ||
        after->sequences - before->sequences != t->n) {
        return gd_err_set(err, GD_EINTERNAL,
                          "trace %s: %llu tokens asked, %llu computed, %llu cached, %llu in steps: "
                          "they do not add up",
                          t->name, (unsigned long long)t->n_tokens,
                          (unsigned long long)res->computed, (unsigned long long)res->cached,
                          (unsigned long long)res->times.tokens);
    }
    for (uint32_t i = 0; i < t->n; i++) {
        const struct trace_request *q = &t->requests[i], *same = &t->requests[q->same_as];
        if (memcmp(q->logits, same->logits, sizeof q->logits) != 0) {
            return gd_err_set(err, GD_EINTERNAL,
                              "trace %s: prompts %u and %u are equal, their logits not", t->name,
                              q->same_as, i);
        }
    }
    return GD_OK;
}

/* A GPU that the engine has filled has no ceiling; the figures have. */
static int raise_peak(struct gd_engine *e, struct gd_err *err)
{
    int rc = bench_peak(gd_engine_backend(e), &peak, err);
    return rc == GD_ENOMEM && bench_on_gpu(gd_engine_backend(e)) ? GD_OK : rc;
}

static int measure(struct gd_engine *e, struct trace *t, struct result *res, struct gd_err *err)
{
    struct gd_engine_stats before, after;
    int rc = raise_peak(e, err);
    if (rc != GD_OK) {
        return rc;
    }
    gd_engine_stats(e, &before);
    bench_times_reset();
    rc = run_trace(e, t, &res->wall_ms, err);
    if (rc != GD_OK) {
        return rc;
    }
    gd_engine_stats(e, &after);
    res->times = bench_times_get();
    res->computed = after.tokens - before.tokens;
    res->evictions = after.kv.evictions - before.kv.evictions;
    res->cached = 0;
    res->attention_gflop = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct trace_request *q = &t->requests[i];
        res->cached += q->n_cached;
        res->attention_gflop +=
            bench_attention_gflop(&gd_engine_model(e)->config, q->n_tokens, q->n_cached);
    }
    res->rate = 1e3 * (double)res->computed / res->wall_ms;
    return check(t, res, &before, &after, err);
}

/* ---- telling ---- */

static double gflop_of(const struct gd_engine *e, const struct trace *t, const struct result *res)
{
    return bench_gflop(&gd_engine_model(e)->config, res->computed, t->n);
}

static double tflops_of(const struct gd_engine *e, const struct options *opt)
{
    const struct gd_backend *be = gd_engine_backend(e);
    return opt->tflops > 0 ? (double)opt->tflops
                           : bench_datasheet_tflops(be->name, strcmp(be->gemm_dtype, "fp8") == 0);
}

static void print_table_head(void)
{
    printf("%-8s %8s %9s %17s %9s %9s %6s %6s %9s %7s %8s %6s | %5s %5s %5s %5s %5s %5s\n", "trace",
           "requests", "new/s", "range", "logical/s", "verdicts", "step", "hits", "possible",
           "wall s", "ceiling", "+attn", "gemm", "attn", "ops", "step-", "sched", "idle");
}

static void print_row(const struct gd_engine *e, const struct trace *t, const struct result *res,
                      const double *rates, uint32_t n)
{
    const struct bench_times *x = &res->times;
    double wall = res->wall_ms, s = wall / 1e3, ops = bench_ops_ms(x);
    double ceiling = peak > 0 ? peak : HUGE_VAL;
    char range[40];
    snprintf(range, sizeof range, "%.0f-%.0f", rates[0], rates[n - 1]);
    printf(
        "%-8s %8u %9.0f %17s %9.0f %9.1f %6.0f %6.3f %9.3f %7.2f %7.0f%% %5.0f%% | %4.1f%% %4.1f%% "
        "%4.1f%% %4.1f%% %4.1f%% %4.1f%%\n",
        t->name, t->n, res->rate, range, (double)t->n_tokens / s, t->n / s,
        (double)x->tokens / (double)x->steps, (double)res->cached / (double)t->n_tokens,
        1 - (double)t->n_fresh / (double)t->n_tokens, s, 100 * gflop_of(e, t, res) / s / ceiling,
        100 * (gflop_of(e, t, res) + res->attention_gflop) / s / ceiling,
        100 * x->op_ms[BENCH_GEMM] / wall, 100 * x->op_ms[BENCH_ATTENTION] / wall,
        100 * (ops - x->op_ms[BENCH_GEMM] - x->op_ms[BENCH_ATTENTION]) / wall,
        100 * (x->step_ms - ops) / wall, 100 * x->schedule_ms / wall,
        100 * (x->between_ms - x->schedule_ms) / wall);
    fflush(stdout);
}

static void print_json(const struct gd_engine *e, const struct options *opt, const struct trace *t,
                       const struct result *res, const double *rates)
{
    const struct bench_times *x = &res->times;
    double s = res->wall_ms / 1e3, gflop = gflop_of(e, t, res);
    struct gd_engine_stats now;
    struct gd_json_writer w;
    struct gd_buf out;
    char hash[20];
    gd_engine_stats((struct gd_engine *)(uintptr_t)e, &now);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)t->hash);
    gd_buf_init(&out, GD_MIB);
    gd_json_writer_init(&w, &out);
    bench_json_head(&w, "offline", opt->commit, e);
    gd_jw_put_str(&w, "trace", t->name);
    gd_jw_put_i64(&w, "seed", (int64_t)t->seed);
    gd_jw_put_str(&w, "hash", hash);
    gd_jw_put_bool(&w, "prefix_cache", !opt->engine.no_prefix_cache);
    gd_jw_put_i64(&w, "kv_bytes", (int64_t)now.kv_bytes);
    gd_jw_put_i64(&w, "step_tokens_max", now.step_tokens);
    gd_jw_put_i64(&w, "requests", t->n);
    gd_jw_put_i64(&w, "repeats", opt->repeat);
    gd_jw_put_i64(&w, "logical_tokens", (int64_t)t->n_tokens);
    gd_jw_put_i64(&w, "new_tokens", (int64_t)res->computed);
    gd_jw_put_i64(&w, "cached_tokens", (int64_t)res->cached);
    gd_jw_put_i64(&w, "evictions", (int64_t)res->evictions);
    bench_json_put(&w, "wall_s", s);
    bench_json_put(&w, "new_tokens_per_s", res->rate);
    bench_json_put(&w, "new_tokens_per_s_min", rates[0]);
    bench_json_put(&w, "new_tokens_per_s_max", rates[opt->repeat - 1]);
    bench_json_put(&w, "logical_tokens_per_s", (double)t->n_tokens / s);
    bench_json_put(&w, "verdicts_per_s", t->n / s);
    bench_json_put(&w, "step_tokens_mean", (double)x->tokens / (double)x->steps);
    bench_json_put(&w, "step_seqs_mean", (double)x->seqs / (double)x->steps);
    bench_json_put(&w, "hit_ratio", (double)res->cached / (double)t->n_tokens);
    bench_json_put(&w, "hit_ratio_possible", 1 - (double)t->n_fresh / (double)t->n_tokens);
    bench_json_products(&w, gflop / s, peak, tflops_of(e, opt));
    if (peak > 0) {
        bench_json_put(&w, "of_ceiling_with_attention", (gflop + res->attention_gflop) / s / peak);
    }
    if (!bench_on_gpu(gd_engine_backend(e))) {
        bench_json_put(&w, "gflops_in_gemm", 1e3 * gflop / x->op_ms[BENCH_GEMM]);
        bench_json_put(&w, "gflops_in_attention",
                       1e3 * res->attention_gflop / x->op_ms[BENCH_ATTENTION]);
    }
    bench_json_shares(&w, x, res->wall_ms);
    bench_json_print(&w);
    gd_buf_free(&out);
}

/* ---- all of it ---- */

/* The middle one by rate, and all rates in order. */
static uint32_t median_of(const struct result *results, uint32_t n, double *rates)
{
    for (uint32_t i = 0; i < n; i++) {
        rates[i] = results[i].rate;
    }
    bench_sort(rates, n);
    uint32_t at = 0;
    while (results[at].rate != rates[n / 2]) {
        at++;
    }
    return at;
}

/* To a file, or to <trace>.jsonl in a directory. */
static int dump(const struct trace *t, const char *path, struct gd_err *err)
{
    struct stat st;
    char in_dir[4096];
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        return trace_dump(t, path, err);
    }
    snprintf(in_dir, sizeof in_dir, "%s/%s.jsonl", path, t->name);
    return trace_dump(t, in_dir, err);
}

static int one_trace(struct gd_engine *e, const struct options *opt, const char *name,
                     struct gd_err *err)
{
    static struct result results[REPEAT_MAX];
    double rates[REPEAT_MAX];
    uint32_t vocab = gd_engine_model(e)->config.vocab_size, context = gd_engine_context_max(e);
    struct trace t = {.n = 0};
    int rc = GD_OK;
    for (uint32_t i = 0; i < opt->repeat && rc == GD_OK; i++) {
        rc = trace_make(&t, name, opt->requests, opt->seed + i, vocab, context, err);
        rc = rc != GD_OK ? rc : measure(e, &t, &results[i], err);
        if (rc == GD_OK && opt->dump != NULL && i == 0) {
            rc = dump(&t, opt->dump, err);
        }
        trace_free(&t);
    }
    if (rc != GD_OK) {
        return rc;
    }
    uint32_t at = median_of(results, opt->repeat, rates);
    rc = trace_make(&t, name, opt->requests, opt->seed + at, vocab, context, err);
    if (rc == GD_OK && opt->json) {
        print_json(e, opt, &t, &results[at], rates);
    } else if (rc == GD_OK) {
        print_row(e, &t, &results[at], rates, opt->repeat);
    }
    trace_free(&t);
    return rc;
}

/* Memory is touched, the cost of a token is known, and the common prefix is in the cache. */
static int warm_up(struct gd_engine *e, struct gd_err *err)
{
    struct trace t;
    double ms;
    int rc = trace_make(&t, "prefix", WARM_UP, UINT64_MAX, gd_engine_model(e)->config.vocab_size,
                        gd_engine_context_max(e), err);
    if (rc != GD_OK) {
        return rc;
    }
    rc = gd_engine_prime(e, t.prefix, TRACE_PREFIX, err);
    rc = rc != GD_OK ? rc : run_trace(e, &t, &ms, err);
    trace_free(&t);
    return rc;
}

/* Whether a trace is in the list "a,b,c", or the list is "all". */
static bool wants(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == '\0')) {
            return true;
        }
    }
    return strcmp(list, "all") == 0;
}

/* How many traces a list has; 0 when it names one that is not there. */
static uint32_t count_traces(const char *list)
{
    uint32_t names = 1, known = 0;
    for (const char *at = list; *at != '\0'; at++) {
        names += *at == ',';
    }
    for (size_t i = 0; TRACE_NAMES[i] != NULL; i++) {
        known += wants(list, TRACE_NAMES[i]);
    }
    return strcmp(list, "all") == 0 || known == names ? known : 0;
}

static int run_all(const struct options *opt, struct gd_err *err)
{
    struct gd_engine *e = NULL;
    int rc = gd_engine_open(&e, &opt->engine, err);
    rc = rc != GD_OK ? rc : warm_up(e, err);
    if (rc == GD_OK) {
        const struct gd_backend *be = gd_engine_backend(e);
        bench_timed(e, true);
        if (!opt->json) {
            printf("%s %s %s %s, %u threads, seed %llu\n", be->device, be->name, be->isa,
                   be->gemm_dtype, be->n_threads, (unsigned long long)opt->seed);
            print_table_head();
        }
    }
    for (int i = 0; i < PEAKS && rc == GD_OK; i++) {
        rc = raise_peak(e, err);
    }
    for (size_t i = 0; TRACE_NAMES[i] != NULL && rc == GD_OK; i++) {
        if (wants(opt->trace, TRACE_NAMES[i])) {
            rc = one_trace(e, opt, TRACE_NAMES[i], err);
        }
    }
    gd_engine_close(e);
    return rc;
}

/* False: wrong usage. */
static bool parse(int argc, char **argv, struct options *opt)
{
    static const struct option longs[] = {{"threads", required_argument, NULL, 't'},
                                          {"requests", required_argument, NULL, 'n'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"trace", required_argument, NULL, 'r'},
                                          {"step-tokens", required_argument, NULL, 'b'},
                                          {"kv-mib", required_argument, NULL, 'k'},
                                          {"device", required_argument, NULL, 'D'},
                                          {"dtype", required_argument, NULL, 'T'},
                                          {"peak-tflops", required_argument, NULL, 'P'},
                                          {"max-batch-tokens", required_argument, NULL, 'b'},
                                          {"no-prefix-cache", no_argument, NULL, 'x'},
                                          {"repeat", required_argument, NULL, 'm'},
                                          {"dump", required_argument, NULL, 'd'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"commit", required_argument, NULL, 'c'},
                                          {NULL, 0, NULL, 0}};
    uint64_t threads = 0, requests = 640, step = 0, kv_mib = 0, repeat = 1;
    bool ok = true;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1 && ok;) {
        switch (c) {
        case 't':
            ok = bench_number(optarg, GD_THREADS_MAX, &threads);
            break;
        case 'n':
            ok = bench_number(optarg, TRACE_REQUESTS_MAX, &requests) && requests > 0;
            break;
        case 's':
            ok = bench_number(optarg, INT64_MAX, &opt->seed);
            break;
        case 'r':
            opt->trace = optarg;
            break;
        case 'b':
            ok = bench_number(optarg, GD_STEP_TOKENS_MAX, &step);
            break;
        case 'k':
            ok = bench_number(optarg, GD_KV_MIB_MAX, &kv_mib);
            break;
        case 'm':
            ok = bench_number(optarg, REPEAT_MAX, &repeat) && repeat > 0;
            break;
        case 'x':
            opt->engine.no_prefix_cache = true;
            break;
        case 'D':
            opt->engine.device = optarg;
            break;
        case 'T':
            opt->engine.dtype = optarg;
            break;
        case 'P':
            ok = bench_number(optarg, 1000000, &opt->tflops);
            break;
        case 'd':
            opt->dump = optarg;
            break;
        case 'j':
            opt->json = true;
            break;
        case 'c':
            opt->commit = optarg;
            break;
        default:
            ok = false;
        }
    }
    uint32_t n_traces = count_traces(opt->trace);
    opt->engine.n_threads = (uint32_t)threads;
    opt->engine.step_tokens = (uint32_t)step;
    opt->engine.kv_bytes = kv_mib * GD_MIB;
    opt->requests = (uint32_t)requests;
    opt->repeat = (uint32_t)repeat;
    opt->engine.model_dir = optind < argc ? argv[optind] : NULL;
    return ok && optind + 1 == argc && n_traces > 0;
}

int main(int argc, char **argv)
{
    struct options opt = {.trace = "all", .seed = 1, .engine = {.on_step = bench_on_step}};
    struct gd_err err = {0};
    if (!parse(argc, argv, &opt)) {
        fprintf(
            stderr,
            "usage: %s MODEL_DIR [--device auto|cpu|cuda:N] [--dtype auto|bf16|fp8]\n"
            "    [--threads N] [--requests N] [--seed S] [--trace NAME,...|all]\n"
            "    [--max-batch-tokens N] [--kv-mib N] [--no-prefix-cache] [--repeat N] [--json]\n"
            "    [--commit HASH] [--peak-tflops X] [--dump FILE or DIRECTORY]\n"
            "traces: cold prefix growing mixed bursts\n",
            argv[0]);
        return 2;
    }
    int rc = run_all(&opt, &err);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    return rc == GD_OK ? 0 : 1;
}
