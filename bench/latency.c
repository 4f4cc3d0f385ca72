/* latency.c - how long one verdict's forward pass takes, and on what the time goes.
 *
 *     bench_latency MODEL_DIR [THREADS [RUNS [TOKENS ...]]]       default: all CPUs, 50 runs, 20
 * 100 300 1000 tokens
 *
 * For each prompt length: median and 99th percentile of gd_engine_score by one caller, tokens a
 * second, the processor time a step takes, and the share of it in each operation (measured apart,
 * by an operation table that reads the clock). "of peak" is the useful work of the matrix products
 * by what a product of 512 x 1024 x 1024 reaches on the same threads. Random token ids: speed does
 * not depend on them. */
#include "guardian/engine.h"

#include <math.h>
#include <string.h>
#include <time.h>

#define MAX_RUNS 10000

enum op { OP_GEMM, OP_ATTENTION, OP_ROPE, OP_NORM, OP_SWIGLU, OP_OTHER, N_OPS };
static const char *const OP_NAMES[] = {"gemm", "attention", "rope", "norm", "swiglu", "other"};

static const struct gd_backend_ops *real; /* the table behind the timed one */
static double spent_ms[N_OPS];

static double now_ms(void)
{
    return (double)gd_now_ns() / 1e6;
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- a table that reads the clock around each operation ---- */

#define TIMED(op, call)                                                                            \
    double begin = now_ms();                                                                       \
    int rc = (call);                                                                               \
    spent_ms[op] += now_ms() - begin;                                                              \
    return rc

static int timed_embed(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                       float *out)
{
    TIMED(OP_OTHER, real->embed(be, b, t, out));
}

static int timed_norm(struct gd_backend *be, uint32_t rows, uint32_t dim, float *x,
                      const float *delta, const float *weight, float eps, float *out)
{
    TIMED(OP_NORM, real->add_rmsnorm(be, rows, dim, x, delta, weight, eps, out));
}

static int timed_gemm(struct gd_backend *be, uint32_t rows, const float *a,
                      const struct gd_weight *w, const float *bias, float *out)
{
    TIMED(OP_GEMM, real->gemm(be, rows, a, w, bias, out));
}

static int timed_rope(struct gd_backend *be, const struct gd_batch *b,
                      const struct gd_attn_shape *s, const struct gd_rope *rope, float *qkv,
                      float *k, float *v)
{
    TIMED(OP_ROPE, real->rope_kv(be, b, s, rope, qkv, k, v));
}

static int timed_attention(struct gd_backend *be, const struct gd_batch *b,
                           const struct gd_attn_shape *s, const float *qkv, const float *k,
                           const float *v, float *out)
{
    TIMED(OP_ATTENTION, real->attention(be, b, s, qkv, k, v, out));
}

static int timed_swiglu(struct gd_backend *be, uint32_t rows, uint32_t ffn, const float *gate_up,
                        float *out)
{
    TIMED(OP_SWIGLU, real->swiglu(be, rows, ffn, gate_up, out));
}

static int timed_gather(struct gd_backend *be, uint32_t n, uint32_t dim, const uint32_t *index,
                        const float *src, float *dst)
{
    TIMED(OP_OTHER, real->gather_rows(be, n, dim, index, src, dst));
}

/* ---- measuring ---- */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* GFLOP of the matrix products of one prompt; the last layer's O and MLP run on one row. */
static double useful_gflop(const struct gd_model_config *c, uint32_t n)
{
    double heads = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    double qkv = c->dim * (heads + 2 * kv);
    double rest = c->dim * heads + 3.0 * c->dim * c->ffn_dim;
    return 2e-9 * (n * (c->n_layers * qkv + (c->n_layers - 1) * rest) + rest);
}

static int measure_peak(uint32_t n_threads, double *gflops, struct gd_err *err)
{
    const uint32_t rows = 512, n = 1024, k = 1024;
    struct gd_backend *be = NULL;
    struct gd_weight *w = NULL;
    int rc = gd_backend_cpu_open(&be, n_threads, err);
    float *a = calloc((size_t)n * k, sizeof *a), *out = calloc((size_t)rows * n, sizeof *out);
    if (rc == GD_OK && (a == NULL || out == NULL)) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory");
    }
    if (rc == GD_OK) {
        for (uint32_t i = 0; i < n * k; i++) {
            a[i] = (float)(i * 2654435761u >> 8) * 0x1p-23f - 1.0f;
        }
        rc = be->ops->weight_load(be, n, k, GD_DTYPE_F32, a, &w, err);
    }
    double best = HUGE_VAL;
    for (int i = 0; i < 30 && rc == GD_OK; i++) {
        double begin = now_ms();
        rc = be->ops->gemm(be, rows, a, w, NULL, out);
        double ms = now_ms() - begin;
        best = ms < best ? ms : best;
    }
    *gflops = 2e-6 * rows * n * k / best;
    if (be != NULL) {
        be->ops->weight_free(be, w);
        be->ops->close(be);
    }
    free(a);
    free(out);
    return rc;
}

static int measure_ops(const char *dir, uint32_t n_threads, const int32_t *tokens, uint32_t n,
                       int runs, struct gd_err *err)
{
    struct gd_backend *be = NULL;
    struct gd_model *m = NULL;
    struct gd_forward *f = NULL;
    int32_t *positions = calloc(n, sizeof *positions);
    int rc = positions == NULL ? gd_err_set(err, GD_ENOMEM, "no memory") : GD_OK;
    rc = rc != GD_OK ? rc : gd_backend_cpu_open(&be, n_threads, err);
    rc = rc != GD_OK ? rc : gd_model_open(&m, dir, be, NULL, err);
    rc = rc != GD_OK ? rc : gd_forward_open(&f, m, n, err);
    if (rc == GD_OK) {
        real = be->ops;
        static struct gd_backend_ops timed;
        timed = *real;
        timed.embed = timed_embed;
        timed.add_rmsnorm = timed_norm;
        timed.gemm = timed_gemm;
        timed.rope_kv = timed_rope;
        timed.attention = timed_attention;
        timed.swiglu = timed_swiglu;
        timed.gather_rows = timed_gather;
        be->ops = &timed;
        for (uint32_t i = 0; i < n; i++) {
            positions[i] = (int32_t)i;
        }
        uint32_t starts[] = {0, n};
        struct gd_batch b = {n, 1, tokens, positions, starts};
        rc = gd_forward_run(f, &b, NULL, NULL); /* warm */
        memset(spent_ms, 0, sizeof spent_ms);
        double begin = now_ms();
        for (int i = 0; i < runs && rc == GD_OK; i++) {
            rc = gd_forward_run(f, &b, NULL, NULL);
        }
        double all = now_ms() - begin;
        for (int i = 0; i < N_OPS; i++) {
            printf("  %s %.1f %%", OP_NAMES[i], 100 * spent_ms[i] / all);
        }
        printf("\n");
    }
    gd_forward_close(f);
    if (m != NULL) {
        gd_model_close(m);
    }
    if (be != NULL) {
        be->ops->close(be);
    }
    free(positions);
    return rc;
}

static int measure(struct gd_engine *e, const int32_t *tokens, uint32_t n, int runs, double peak,
                   struct gd_err *err)
{
    static double ms[MAX_RUNS];
    static const int32_t choices[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    struct gd_score_request req = {
        .tokens = tokens, .n_tokens = n, .choices = choices, .n_choices = 11};
    struct gd_score score;
    double cpu = 0;
    for (int i = -3; i < runs; i++) { /* the first ones warm up */
        double cpu_begin = cpu_ms(), begin = now_ms();
        int rc = gd_engine_score(e, &req, &score, err);
        if (rc != GD_OK) {
            return rc;
        }
        if (i >= 0) {
            ms[i] = now_ms() - begin;
            cpu += cpu_ms() - cpu_begin;
        }
    }
    qsort(ms, (size_t)runs, sizeof ms[0], by_size);
    double p50 = ms[runs / 2], gflop = useful_gflop(&gd_engine_model(e)->config, n);
    printf("%u tokens: min %.2f p50 %.2f p99 %.2f ms, %.0f tokens/s, %.2f CPU ms, %.0f GFLOP/s of "
           "products = %.0f %% of peak\n",
           n, ms[0], p50, ms[(runs - 1) * 99 / 100], 1e3 * n / p50, cpu / runs, 1e3 * gflop / p50,
           100e3 * gflop / p50 / peak);
    return GD_OK;
}

int main(int argc, char **argv)
{
    static const char *const usual[] = {"20", "100", "300", "1000"};
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL_DIR [THREADS [RUNS [TOKENS ...]]]\n", argv[0]);
        return 2;
    }
    struct gd_engine_options opt = {.model_dir = argv[1]};
    opt.n_threads = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    long runs_wanted = argc > 3 ? strtol(argv[3], NULL, 10) : 50;
    int runs = runs_wanted < 1 ? 1 : runs_wanted > MAX_RUNS ? MAX_RUNS : (int)runs_wanted;
    static int32_t tokens[GD_BATCH_TOKENS_MAX];
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    double peak = 0;
    int rc = gd_engine_open(&e, &opt, &err);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    const struct gd_backend *be = gd_engine_backend(e);
    const struct gd_model *m = gd_engine_model(e);
    for (uint32_t i = 0; i < GD_BATCH_TOKENS_MAX; i++) {
        tokens[i] = (int32_t)((i * 2654435761u >> 8) % m->config.vocab_size);
    }
    rc = measure_peak(be->n_threads, &peak, &err);
    printf("%s %s, %u threads, products %.0f GFLOP/s; d=%u, %u layers, ffn %u, %.1f M parameters\n",
           be->isa, be->gemm_dtype, be->n_threads, peak, m->config.dim, m->config.n_layers,
           m->config.ffn_dim, (double)m->n_params / 1e6);
    for (int i = 0; i < (argc > 4 ? argc - 4 : 4) && rc == GD_OK; i++) {
        uint32_t n = (uint32_t)strtoul(argc > 4 ? argv[4 + i] : usual[i], NULL, 10);
        n = n < 1 ? 1 : n > gd_engine_context_max(e) ? gd_engine_context_max(e) : n;
        rc = measure(e, tokens, n, runs, peak, &err);
        rc = rc != GD_OK ? rc : measure_ops(opt.model_dir, be->n_threads, tokens, n, runs, &err);
    }
    gd_engine_close(e);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    return rc == GD_OK ? 0 : 1;
}
