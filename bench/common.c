/* common.c - what the benchmarks over the engine share; see common.h.
 *
 * The timed table is written by the worker while it computes and read by the caller when the engine
 * has nothing to do: handing over a prompt and its score orders the two. */
#include "common.h"

#include "guardian/clock.h"

#include <math.h>
#include <string.h>
#include <time.h>

double bench_now_ms(void)
{
    return (double)gd_now_ns() / 1e6;
}

/* Of the calling thread. */
static double thread_cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_sort(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_size);
}

double bench_percentile(const double *sorted, size_t n, double p)
{
    if (n == 0) {
        return 0;
    }
    size_t rank = (size_t)ceil(p / 100 * (double)n);
    return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}

uint64_t bench_rng_next(struct bench_rng *r)
{
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint32_t bench_rng_below(struct bench_rng *r, uint32_t n)
{
    return (uint32_t)((bench_rng_next(r) >> 32) * n >> 32);
}

double bench_rng_normal(struct bench_rng *r)
{
    const double scale = 0x1p-53, turn = 6.283185307179586;
    double u = ((double)(bench_rng_next(r) >> 11) + 1) * scale; /* never 0 */
    double v = (double)(bench_rng_next(r) >> 11) * scale;
    return sqrt(-2 * log(u)) * cos(turn * v);
}

/* ---- ceilings ---- */

double bench_gflop(const struct gd_model_config *c, uint64_t n_tokens, uint64_t n_scored)
{
    double heads = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    double qkv = c->dim * (heads + 2 * kv);
    double rest = c->dim * heads + 3.0 * c->dim * c->ffn_dim;
    double tokens = (double)n_tokens * (c->n_layers * qkv + (c->n_layers - 1) * rest);
    return 2e-9 * (tokens + (double)n_scored * rest);
}

double bench_attention_gflop(const struct gd_model_config *c, uint32_t n_tokens, uint32_t n_cached)
{
    double all = n_tokens, old = n_cached;
    double pairs = (all * (all + 1) - old * (old + 1)) / 2; /* of a token and one that it sees */
    return 4e-9 * c->n_heads * c->head_dim * ((c->n_layers - 1) * pairs + all);
}

void bench_normals(float *out, size_t n)
{
    const size_t period = 1048573; /* a prime: rows of a matrix differ */
    struct bench_rng r = {7};
    for (size_t i = 0; i < n; i++) {
        out[i] = i < period ? (float)bench_rng_normal(&r) : out[i - period];
    }
}

bool bench_on_gpu(const struct gd_backend *be)
{
    return strncmp(be->device, "cuda", 4) == 0;
}

double bench_datasheet_tflops(const char *device_name, bool fp8)
{
    static const struct {
        const char *name;
        double bf16, fp8;
    } known[] = {{"H200", 989, 1979},      {"H100 80GB HBM3", 989, 1979},
                 {"H100 PCIe", 756, 1513}, {"H100 NVL", 835, 1671},
                 {"A100", 312, 0},         {"L40S", 362, 733}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strstr(device_name, known[i].name) != NULL) {
            return fp8 ? known[i].fp8 : known[i].bf16;
        }
    }
    return 0;
}

/* The product that is the ceiling. */
struct peak {
    struct gd_backend *be;
    uint32_t rows, n, k;
    struct gd_rows *x, *in, *out;
    struct gd_vector *ones;
    struct gd_weight *w;
    float *host; /* [max(rows, n), k] */
};

static void peak_close(struct peak *p)
{
    const struct gd_backend_ops *ops = p->be->ops;
    ops->weight_free(p->be, p->w);
    ops->vector_free(p->be, p->ones);
    ops->rows_close(p->be, p->x);
    ops->rows_close(p->be, p->in);
    ops->rows_close(p->be, p->out);
    ops->close(p->be);
    free(p->host);
}

/* An FP8 operand is made by a norm: nobody can write one. */
static int peak_open(struct peak *p, struct gd_err *err)
{
    const struct gd_backend_ops *ops = p->be->ops;
    size_t most = p->rows > p->n ? p->rows : p->n;
    p->host = malloc(most * p->k * sizeof *p->host);
    p->x = ops->rows_open(p->be, GD_ROWS_F32, p->rows, p->k);
    p->in = ops->rows_open(p->be, GD_ROWS_OPERAND, p->rows, p->k);
    p->out = ops->rows_open(p->be, GD_ROWS_PRODUCT, p->rows, p->n);
    if (p->host == NULL || p->x == NULL || p->in == NULL || p->out == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory to measure the ceiling");
    }
    for (uint32_t i = 0; i < p->k; i++) {
        p->host[i] = 1.0f;
    }
    p->ones = ops->vector_load(p->be, p->k, p->host);
    if (p->ones == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory to measure the ceiling");
    }
    bench_normals(p->host, most * p->k);
    int rc = ops->weight_load(p->be, p->n, p->k, GD_DTYPE_F32, p->host, NULL, &p->w, err);
    rc = rc != GD_OK ? rc : ops->selftest(p->be, p->rows, err);
    rc = rc != GD_OK ? rc : ops->rows_write(p->be, p->x, p->rows, p->k, p->host);
    rc = rc != GD_OK ? rc
                     : ops->add_rmsnorm(p->be, p->rows, p->k, p->x, NULL, p->ones, 1e-5f, p->in);
    return rc != GD_OK ? rc : ops->rows_read(p->be, p->out, 1, p->n, p->host); /* waits */
}

/* Seconds of the fastest of groups of products. */
static int peak_measure(struct peak *p, int groups, int products, double *seconds)
{
    int rc = GD_OK;
    *seconds = HUGE_VAL;
    for (int g = 0; g < groups && rc == GD_OK; g++) {
        double begin = bench_now_ms();
        for (int i = 0; i < products && rc == GD_OK; i++) {
            rc = p->be->ops->gemm(p->be, p->rows, p->in, p->w, p->out);
        }
        rc = rc != GD_OK ? rc : p->be->ops->rows_read(p->be, p->out, 1, p->n, p->host);
        double s = (bench_now_ms() - begin) / 1e3 / products;
        *seconds = s < *seconds ? s : *seconds;
    }
    return rc;
}

int bench_peak(const struct gd_backend *like, double *gflops, struct gd_err *err)
{
    bool gpu = bench_on_gpu(like);
    struct peak p = {.rows = 512, .n = 1024, .k = 1024};
    double seconds = 0;
    if (gpu && *gflops > 0) {
        return GD_OK;
    }
#ifdef GDK_SIMT
    p.rows = p.n = p.k = 64;
#else
    if (gpu) {
        p.rows = p.n = p.k = 8192;
    }
#endif
    int rc = gpu ? gd_backend_cuda_open(&p.be, (uint32_t)strtoul(like->device + 5, NULL, 10),
                                        strcmp(like->gemm_dtype, "fp8") == 0, err)
                 : gd_backend_cpu_open(&p.be, like->n_threads, err);
    if (rc != GD_OK) {
        return rc;
    }
    rc = peak_open(&p, err);
    rc = rc != GD_OK ? rc : peak_measure(&p, gpu ? 5 : 30, gpu ? 10 : 1, &seconds);
    if (rc == GD_OK && 2e-9 * p.rows * p.n * p.k / seconds > *gflops) {
        *gflops = 2e-9 * p.rows * p.n * p.k / seconds;
    }
    peak_close(&p);
    return rc;
}

/* ---- a table that reads the clock around each operation ---- */

static const struct gd_backend_ops *real; /* the table behind the timed one */
static struct bench_times times;
static double end_ms, end_cpu_ms; /* of the last step; 0: none since the reset */
static bool in_step;

static double op_begin(void)
{
    double now = bench_now_ms();
    if (!in_step) {
        in_step = true;
        if (end_ms > 0) {
            times.between_ms += now - end_ms;
            times.schedule_ms += thread_cpu_ms() - end_cpu_ms;
        }
    }
    return now;
}

#define TIMED(op, call)                                                                            \
    double begin = op_begin();                                                                     \
    int rc = (call);                                                                               \
    times.op_ms[op] += bench_now_ms() - begin;                                                     \
    return rc

static int timed_begin(struct gd_backend *be, const struct gd_kv *kv, const struct gd_batch *b,
                       const struct gd_batch *scored, bool watched, struct gd_step_rows *out)
{
    TIMED(BENCH_STEP, real->step_begin(be, kv, b, scored, watched, out));
}

static int timed_end(struct gd_backend *be)
{
    TIMED(BENCH_STEP, real->step_end(be));
}

static int timed_embed(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                       struct gd_rows *out)
{
    TIMED(BENCH_EMBED, real->embed(be, b, t, out));
}

static int timed_norm(struct gd_backend *be, uint32_t rows, uint32_t dim, struct gd_rows *x,
                      const struct gd_rows *delta, const struct gd_vector *weight, float eps,
                      struct gd_rows *out)
{
    TIMED(BENCH_NORM, real->add_rmsnorm(be, rows, dim, x, delta, weight, eps, out));
}

static int timed_gemm(struct gd_backend *be, uint32_t rows, const struct gd_rows *a,
                      const struct gd_weight *w, struct gd_rows *out)
{
    TIMED(BENCH_GEMM, real->gemm(be, rows, a, w, out));
}

static int timed_rope(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                      struct gd_kv *kv, uint32_t layer)
{
    TIMED(BENCH_ROPE, real->rope_kv(be, b, qkv, kv, layer));
}

static int timed_attention(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                           const struct gd_kv *kv, uint32_t layer, struct gd_rows *out)
{
    TIMED(BENCH_ATTENTION, real->attention(be, b, qkv, kv, layer, out));
}

static int timed_swiglu(struct gd_backend *be, uint32_t rows, uint32_t ffn,
                        const struct gd_rows *gate_up, struct gd_rows *out)
{
    TIMED(BENCH_SWIGLU, real->swiglu(be, rows, ffn, gate_up, out));
}

static int timed_kv_copy(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src)
{
    TIMED(BENCH_COPY, real->kv_copy(be, kv, dst, src));
}

static int timed_gather(struct gd_backend *be, const struct gd_batch *b, uint32_t dim,
                        const struct gd_rows *src, struct gd_rows *dst)
{
    TIMED(BENCH_CHOICE, real->gather_rows(be, b, dim, src, dst));
}

static int timed_choice(struct gd_backend *be, uint32_t n, const struct gd_choice *choices,
                        uint32_t dim, const struct gd_rows *hidden, const struct gd_table *t,
                        float *logits)
{
    TIMED(BENCH_CHOICE, real->choice_logits(be, n, choices, dim, hidden, t, logits));
}

const char *bench_op_name(enum bench_op op)
{
    static const char *const names[BENCH_OPS] = {"gemm",  "attention", "rope",   "norm", "swiglu",
                                                 "embed", "kv_copy",   "choice", "step"};
    return names[op];
}

void bench_timed(struct gd_engine *e, bool on)
{
    static struct gd_backend_ops timed;
    struct gd_backend *be = gd_engine_model(e)->be;
    if (on && be->ops != &timed) {
        real = be->ops;
        timed = *real;
        timed.step_begin = timed_begin;
        timed.step_end = timed_end;
        timed.kv_copy = timed_kv_copy;
        be->ops = &timed;
        if (bench_on_gpu(be)) {
            return;
        }
        timed.embed = timed_embed;
        timed.add_rmsnorm = timed_norm;
        timed.gemm = timed_gemm;
        timed.rope_kv = timed_rope;
        timed.attention = timed_attention;
        timed.swiglu = timed_swiglu;
        timed.gather_rows = timed_gather;
        timed.choice_logits = timed_choice;
    } else if (!on && be->ops == &timed) {
        be->ops = real;
    }
}

void bench_times_reset(void)
{
    times = (struct bench_times){.steps = 0};
    end_ms = end_cpu_ms = 0;
    in_step = false;
}

struct bench_times bench_times_get(void)
{
    return times;
}

void bench_on_step(void *ctx, const struct gd_step_info *info)
{
    (void)ctx;
    times.step_ms += info->ms;
    times.steps++;
    times.tokens += info->n_tokens;
    times.seqs += info->n_seqs;
    in_step = false;
    end_ms = bench_now_ms();
    end_cpu_ms = thread_cpu_ms();
}

double bench_ops_ms(const struct bench_times *t)
{
    double sum = 0;
    for (int i = 0; i < BENCH_OPS; i++) {
        sum += t->op_ms[i];
    }
    return sum;
}

/* ---- results ---- */

static void put_cpu_model(struct gd_json_writer *w)
{
    char line[512];
    const char *name = NULL;
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && name == NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strstr(line, ": ");
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            line[strcspn(line, "\n")] = '\0';
            name = colon + 2;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    gd_jw_put_str(w, "cpu", name);
}

void bench_json_head(struct gd_json_writer *w, const char *bench, const char *commit,
                     const struct gd_engine *e)
{
    const struct gd_backend *be = gd_engine_backend(e);
    const struct gd_model *m = gd_engine_model(e);
    gd_jw_object(w);
    gd_jw_put_str(w, "bench", bench);
    gd_jw_put_str(w, "commit", commit);
    put_cpu_model(w);
    gd_jw_put_str(w, "device", be->device);
    gd_jw_put_str(w, "device_name", be->name);
    gd_jw_put_str(w, "isa", be->isa);
    gd_jw_put_str(w, "gemm_dtype", be->gemm_dtype);
    gd_jw_put_i64(w, "threads", be->n_threads);
    gd_jw_put_str(w, "model_version", m->version);
    gd_jw_put_i64(w, "params", (int64_t)m->n_params);
}

void bench_json_put(struct gd_json_writer *w, const char *key, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.5g", value);
    gd_jw_put_f64(w, key, strtod(text, NULL));
}

void bench_json_print(struct gd_json_writer *w)
{
    gd_jw_object_end(w);
    gd_buf_z(w->buf, "\n");
    fwrite(w->buf->data, 1, w->buf->len, stdout);
    fflush(stdout);
}

void bench_json_products(struct gd_json_writer *w, double gflops, double ceiling, double tflops)
{
    bench_json_put(w, "gflops", gflops);
    if (ceiling > 0) {
        bench_json_put(w, "gflops_ceiling", ceiling);
        bench_json_put(w, "of_ceiling", gflops / ceiling);
    }
    if (tflops > 0) {
        bench_json_put(w, "tflops_datasheet", tflops);
        bench_json_put(w, "mfu", gflops / 1e3 / tflops);
    }
}

void bench_json_shares(struct gd_json_writer *w, const struct bench_times *t, double wall_ms)
{
    gd_jw_key(w, "share");
    gd_jw_object(w);
    for (enum bench_op op = 0; op < BENCH_OPS; op++) {
        bench_json_put(w, bench_op_name(op), t->op_ms[op] / wall_ms);
    }
    bench_json_put(w, "step_outside_ops", (t->step_ms - bench_ops_ms(t)) / wall_ms);
    bench_json_put(w, "schedule", t->schedule_ms / wall_ms);
    bench_json_put(w, "idle", (t->between_ms - t->schedule_ms) / wall_ms);
    gd_jw_object_end(w);
}

bool bench_number(const char *text, uint64_t max, uint64_t *out)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 18 || text[digits] != '\0') {
        return false;
    }
    *out = strtoull(text, NULL, 10);
    return *out <= max;
}
