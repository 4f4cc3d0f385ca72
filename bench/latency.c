/* latency.c - how long one verdict takes inside the engine, and on what the time goes.
 *
 *     bench_latency [--device D] [--dtype T] [--json] [--commit HASH] [--peak-tflops X]
 *         MODEL_DIR [THREADS [RUNS [TOKENS ...]]]
 *
 * Default: all CPUs, 50 runs, 20 100 300 1000 tokens. For each number of new tokens: median and 99th
 * percentile of gd_engine_score by one caller, (cold) with nothing in the cache that it could use,
 * and (cached) behind a primed prefix of 700 tokens. The last 30 tokens are a question that is not
 * kept. Each run has tokens of its own, and the score must say that exactly so many were computed.
 *
 * The share of each operation is of the wall time, measured in runs of their own by an operation
 * table that reads the clock; "outside" is everything else from the call to its return. "of ceiling"
 * is the useful work of the matrix products by what one large product reaches on the same threads,
 * or device, in the same run; mfu by the data sheet's rate. On a GPU "step" is the wait for it.
 * Verdict cache off. Random token ids: speed does not depend on them. */
#include "common.h"

#include <getopt.h>
#include <string.h>
#include <time.h>

#define PREFIX 700u
#define QUESTION 30u
#define RUNS_MAX 1000u
#define WARM_UP 3u
#define PEAKS 5 /* measurements of the ceiling before the first figure; then one for each */

struct bench {
    struct gd_engine *e;
    const char *commit;
    bool json;
    uint32_t runs;
    double peak, tflops; /* measured, of the data sheet; 0: not known */
    int32_t *tokens; /* [context_max]: the prefix and what follows it, or a prompt without prefix */
    int32_t prefix[PREFIX];
    uint32_t vocab;
    uint32_t serial; /* of the next prompt: its first new token, so that no two begin alike */
    struct bench_rng rng;
};

struct figures {
    double p50, p99, min, cpu_ms, timed_wall_ms;
    struct bench_times times;
};

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int one_verdict(struct bench *b, uint32_t n_new, uint32_t n_prefix, double *ms, double *cpu,
                       struct gd_err *err)
{
    static const int32_t choices[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    uint32_t question = n_new < QUESTION ? n_new : QUESTION;
    struct gd_score_request req = {.prompt = {.tokens = b->tokens,
                                              .n_tokens = n_prefix + n_new,
                                              .n_shared = n_prefix,
                                              .n_keep = n_prefix + n_new - question},
                                   .choices = choices,
                                   .n_choices = 11};
    struct gd_score score;
    memcpy(b->tokens, b->prefix, n_prefix * sizeof *b->tokens);
    for (uint32_t i = 0; i < n_new; i++) {
        b->tokens[n_prefix + i] = (int32_t)bench_rng_below(&b->rng, b->vocab);
    }
    b->tokens[n_prefix] = (int32_t)b->serial++;
    double cpu_begin = cpu_ms(), begin = bench_now_ms();
    int rc = gd_engine_score(b->e, &req, &score, err);
    *ms = bench_now_ms() - begin;
    *cpu = cpu_ms() - cpu_begin;
    if (rc == GD_OK && score.cached_tokens != n_prefix) {
        rc = gd_err_set(err, GD_EINTERNAL, "%u tokens of %u were cached: expected %u",
                        score.cached_tokens, req.prompt.n_tokens, n_prefix);
    }
    return rc;
}

static int many(struct bench *b, uint32_t n_new, uint32_t n_prefix, double *ms, double *cpu,
                struct gd_err *err)
{
    double cpu_one = 0;
    int rc = GD_OK;
    *cpu = 0;
    for (uint32_t i = 0; i < b->runs && rc == GD_OK; i++) {
        rc = one_verdict(b, n_new, n_prefix, &ms[i], &cpu_one, err);
        *cpu += cpu_one / b->runs;
    }
    return rc;
}

/* A GPU that the engine has filled has no ceiling; the figures have. */
static int raise_peak(struct bench *b, struct gd_err *err)
{
    int rc = bench_peak(gd_engine_backend(b->e), &b->peak, err);
    return rc == GD_ENOMEM && bench_on_gpu(gd_engine_backend(b->e)) ? GD_OK : rc;
}

static int measure(struct bench *b, uint32_t n_new, uint32_t n_prefix, struct figures *f,
                   struct gd_err *err)
{
    static double ms[RUNS_MAX];
    double ignored;
    int rc = raise_peak(b, err);
    for (uint32_t i = 0; i < WARM_UP && rc == GD_OK; i++) {
        rc = one_verdict(b, n_new, n_prefix, &ms[0], &ignored, err);
    }
    rc = rc != GD_OK ? rc : many(b, n_new, n_prefix, ms, &f->cpu_ms, err);
    if (rc != GD_OK) {
        return rc;
    }
    bench_sort(ms, b->runs);
    f->min = ms[0];
    f->p50 = bench_percentile(ms, b->runs, 50);
    f->p99 = bench_percentile(ms, b->runs, 99);

    bench_timed(b->e, true);
    bench_times_reset();
    rc = many(b, n_new, n_prefix, ms, &ignored, err);
    bench_timed(b->e, false);
    f->times = bench_times_get();
    f->timed_wall_ms = 0;
    for (uint32_t i = 0; i < b->runs; i++) {
        f->timed_wall_ms += ms[i];
    }
    if (rc == GD_OK && f->times.tokens != (uint64_t)b->runs * n_new) {
        rc = gd_err_set(err, GD_EINTERNAL, "%llu tokens were computed: expected %llu",
                        (unsigned long long)f->times.tokens, (unsigned long long)b->runs * n_new);
    }
    return rc;
}

static void print_text(const struct bench *b, uint32_t n_new, uint32_t n_prefix,
                       const struct figures *f)
{
    double gflops = 1e3 * bench_gflop(&gd_engine_model(b->e)->config, n_new, 1) / f->p50;
    double wall = f->timed_wall_ms;
    printf("%4u new tokens, %3u cached: min %.2f p50 %.2f p99 %.2f ms, %.0f tokens/s, %.2f CPU ms, "
           "%.0f GFLOP/s of products = %.0f %% of ceiling\n ",
           n_new, n_prefix, f->min, f->p50, f->p99, 1e3 * n_new / f->p50, f->cpu_ms, gflops,
           b->peak > 0 ? 100 * gflops / b->peak : 0);
    for (enum bench_op op = 0; op < BENCH_OPS; op++) {
        printf(" %s %.1f %%", bench_op_name(op), 100 * f->times.op_ms[op] / wall);
    }
    printf(" outside %.1f %%\n", 100 * (wall - bench_ops_ms(&f->times)) / wall);
    fflush(stdout);
}

static void print_json(const struct bench *b, uint32_t n_new, uint32_t n_prefix,
                       const struct figures *f)
{
    double gflops = 1e3 * bench_gflop(&gd_engine_model(b->e)->config, n_new, 1) / f->p50;
    struct gd_json_writer w;
    struct gd_buf out;
    gd_buf_init(&out, GD_MIB);
    gd_json_writer_init(&w, &out);
    bench_json_head(&w, "latency", b->commit, b->e);
    gd_jw_put_i64(&w, "new_tokens", n_new);
    gd_jw_put_i64(&w, "cached_tokens", n_prefix);
    gd_jw_put_i64(&w, "runs", b->runs);
    bench_json_put(&w, "min_ms", f->min);
    bench_json_put(&w, "p50_ms", f->p50);
    bench_json_put(&w, "p99_ms", f->p99);
    bench_json_put(&w, "cpu_ms", f->cpu_ms);
    bench_json_put(&w, "new_tokens_per_s", 1e3 * n_new / f->p50);
    bench_json_products(&w, gflops, b->peak, b->tflops);
    gd_jw_key(&w, "share");
    gd_jw_object(&w);
    for (enum bench_op op = 0; op < BENCH_OPS; op++) {
        bench_json_put(&w, bench_op_name(op), f->times.op_ms[op] / f->timed_wall_ms);
    }
    bench_json_put(&w, "outside", 1 - bench_ops_ms(&f->times) / f->timed_wall_ms);
    gd_jw_object_end(&w);
    bench_json_print(&w);
    gd_buf_free(&out);
}

static int one_length(struct bench *b, uint32_t n_new, struct gd_err *err)
{
    int rc = GD_OK;
    for (int cached = 0; cached < 2 && rc == GD_OK; cached++) {
        uint32_t n_prefix = cached ? PREFIX : 0;
        struct figures f = {.min = 0};
        if (n_prefix + n_new > gd_engine_context_max(b->e)) {
            return gd_err_set(err, GD_EUSAGE, "%u tokens do not fit into the model's context",
                              n_prefix + n_new);
        }
        rc = measure(b, n_new, n_prefix, &f, err);
        if (rc == GD_OK && b->json) {
            print_json(b, n_new, n_prefix, &f);
        } else if (rc == GD_OK) {
            print_text(b, n_new, n_prefix, &f);
        }
    }
    return rc;
}

/* Room for prompts that all begin differently, and a prefix that begins like none of them. */
static int prepare(struct bench *b, int n_lengths, struct gd_err *err)
{
    const struct gd_model *m = gd_engine_model(b->e);
    uint64_t prompts = (uint64_t)n_lengths * 2 * (2 * b->runs + WARM_UP);
    b->vocab = m->config.vocab_size;
    b->tokens = calloc(gd_engine_context_max(b->e), sizeof *b->tokens);
    if (prompts >= b->vocab || gd_engine_context_max(b->e) <= PREFIX) {
        return gd_err_set(err, GD_EUSAGE,
                          "so many runs need a larger vocabulary than %u, or %u "
                          "tokens of prefix a longer context",
                          b->vocab, PREFIX);
    }
    if (b->tokens == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory");
    }
    for (uint32_t i = 0; i < PREFIX; i++) {
        b->prefix[i] = (int32_t)bench_rng_below(&b->rng, b->vocab);
    }
    b->prefix[0] = (int32_t)b->vocab - 1;
    return gd_engine_prime(b->e, b->prefix, PREFIX, err);
}

static int run(struct bench *b, const struct gd_engine_options *opt, const uint32_t *lengths,
               int n_lengths, struct gd_err *err)
{
    int rc = gd_engine_open(&b->e, opt, err);
    rc = rc != GD_OK ? rc : prepare(b, n_lengths, err);
    if (rc == GD_OK && !b->json) {
        const struct gd_backend *be = gd_engine_backend(b->e);
        const struct gd_model *m = gd_engine_model(b->e);
        printf("%s %s %s %s, %u threads; d=%u, %u layers, ffn %u, %.1f M parameters; %u runs\n",
               be->device, be->name, be->isa, be->gemm_dtype, be->n_threads, m->config.dim,
               m->config.n_layers, m->config.ffn_dim, (double)m->n_params / 1e6, b->runs);
    }
    for (int i = 0; i < PEAKS && rc == GD_OK; i++) {
        rc = raise_peak(b, err);
    }
    if (rc == GD_OK && b->tflops <= 0) {
        const struct gd_backend *be = gd_engine_backend(b->e);
        b->tflops = bench_datasheet_tflops(be->name, strcmp(be->gemm_dtype, "fp8") == 0);
    }
    for (int i = 0; i < n_lengths && rc == GD_OK; i++) {
        rc = one_length(b, lengths[i], err);
    }
    if (rc == GD_OK && !b->json) {
        printf("ceiling: %.0f GFLOP/s\n", b->peak);
    }
    gd_engine_close(b->e);
    free(b->tokens);
    return rc;
}

#define LENGTHS_MAX 32

/* False: wrong usage. */
static bool parse(int argc, char **argv, struct bench *b, struct gd_engine_options *opt,
                  uint32_t *lengths, int *n_lengths)
{
    static const struct option longs[] = {{"json", no_argument, NULL, 'j'},
                                          {"commit", required_argument, NULL, 'c'},
                                          {"device", required_argument, NULL, 'D'},
                                          {"dtype", required_argument, NULL, 'T'},
                                          {"peak-tflops", required_argument, NULL, 'P'},
                                          {NULL, 0, NULL, 0}};
    uint64_t threads = 0, runs = 50, n = 0, tflops = 0;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (c == '?' || (c == 'P' && !bench_number(optarg, 1000000, &tflops))) {
            return false;
        }
        b->json |= c == 'j';
        b->commit = c == 'c' ? optarg : b->commit;
        opt->device = c == 'D' ? optarg : opt->device;
        opt->dtype = c == 'T' ? optarg : opt->dtype;
    }
    b->tflops = (double)tflops;
    char **rest = argv + optind;
    int n_rest = argc - optind;
    bool ok = n_rest >= 1 && n_rest <= 3 + LENGTHS_MAX;
    ok = ok && (n_rest < 2 || bench_number(rest[1], GD_THREADS_MAX, &threads));
    ok = ok && (n_rest < 3 || (bench_number(rest[2], RUNS_MAX, &runs) && runs > 0));
    for (int i = 3; i < n_rest && ok; i++) {
        ok = bench_number(rest[i], GD_CONTEXT_TOKENS_MAX, &n) && n > 0;
        lengths[i - 3] = (uint32_t)n;
        *n_lengths = i - 2;
    }
    opt->model_dir = ok ? rest[0] : NULL;
    opt->n_threads = (uint32_t)threads;
    b->runs = (uint32_t)runs;
    return ok;
}

int main(int argc, char **argv)
{
    struct gd_engine_options opt = {.on_step = bench_on_step};
    struct bench b = {.rng = {1}};
    struct gd_err err = {0};
    uint32_t lengths[LENGTHS_MAX] = {20, 100, 300, 1000};
    int n_lengths = 4;
    if (!parse(argc, argv, &b, &opt, lengths, &n_lengths)) {
        fprintf(stderr,
                "usage: %s [--device auto|cpu|cuda:N] [--dtype auto|bf16|fp8] [--json] [--commit "
                "HASH]\n"
                "    [--peak-tflops X] MODEL_DIR [THREADS [RUNS [TOKENS ...]]]\n",
                argv[0]);
        return 2;
    }
    int rc = run(&b, &opt, lengths, n_lengths, &err);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    return rc == GD_OK ? 0 : 1;
}
