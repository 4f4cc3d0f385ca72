/* common.c - what the benchmarks over the engine share; see common.h.
 *
 * The timed table is written by the worker while it computes and read by the caller when the engine
 * has nothing to do: handing over a prompt and its score orders the two. */
#include "common.h"

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

int bench_peak(uint32_t n_threads, double *gflops, struct gd_err *err)
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
        double begin = bench_now_ms();
        rc = be->ops->gemm(be, rows, a, w, NULL, out);
        double ms = bench_now_ms() - begin;
        best = ms < best ? ms : best;
    }
    double reached = 2e-6 * rows * n * k / best;
    *gflops = rc == GD_OK && reached > *gflops ? reached : *gflops;
    if (be != NULL) {
        be->ops->weight_free(be, w);
        be->ops->close(be);
    }
    free(a);
    free(out);
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

static int timed_embed(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                       float *out)
{
    TIMED(BENCH_EMBED, real->embed(be, b, t, out));
}

static int timed_norm(struct gd_backend *be, uint32_t rows, uint32_t dim, float *x,
                      const float *delta, const float *weight, float eps, float *out)
{
    TIMED(BENCH_NORM, real->add_rmsnorm(be, rows, dim, x, delta, weight, eps, out));
}

static int timed_gemm(struct gd_backend *be, uint32_t rows, const float *a,
                      const struct gd_weight *w, const float *bias, float *out)
{
    TIMED(BENCH_GEMM, real->gemm(be, rows, a, w, bias, out));
}

static int timed_rope(struct gd_backend *be, const struct gd_batch *b,
                      const struct gd_attn_shape *s, const struct gd_rope *rope, float *qkv,
                      struct gd_kv *kv, uint32_t layer)
{
    TIMED(BENCH_ROPE, real->rope_kv(be, b, s, rope, qkv, kv, layer));
}

static int timed_attention(struct gd_backend *be, const struct gd_batch *b,
                           const struct gd_attn_shape *s, const float *qkv, const struct gd_kv *kv,
                           uint32_t layer, float *out)
{
    TIMED(BENCH_ATTENTION, real->attention(be, b, s, qkv, kv, layer, out));
}

static int timed_swiglu(struct gd_backend *be, uint32_t rows, uint32_t ffn, const float *gate_up,
                        float *out)
{
    TIMED(BENCH_SWIGLU, real->swiglu(be, rows, ffn, gate_up, out));
}

static int timed_kv_copy(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src)
{
    TIMED(BENCH_COPY, real->kv_copy(be, kv, dst, src));
}

static int timed_gather(struct gd_backend *be, uint32_t n, uint32_t dim, const uint32_t *index,
                        const float *src, float *dst)
{
    TIMED(BENCH_CHOICE, real->gather_rows(be, n, dim, index, src, dst));
}

static int timed_choice(struct gd_backend *be, uint32_t dim, const float *hidden,
                        const struct gd_table *t, uint32_t n_ids, const int32_t *ids, float *logits)
{
    TIMED(BENCH_CHOICE, real->choice_logits(be, dim, hidden, t, n_ids, ids, logits));
}

static int timed_sync(struct gd_backend *be)
{
    TIMED(BENCH_CHOICE, real->sync(be));
}

const char *bench_op_name(enum bench_op op)
{
    static const char *const names[BENCH_OPS] = {"gemm",   "attention", "rope",    "norm",
                                                 "swiglu", "embed",     "kv_copy", "choice"};
    return names[op];
}

void bench_timed(struct gd_engine *e, bool on)
{
    static struct gd_backend_ops timed;
    struct gd_backend *be = gd_engine_model(e)->be;
    if (on && be->ops != &timed) {
        real = be->ops;
        timed = *real;
        timed.embed = timed_embed;
        timed.add_rmsnorm = timed_norm;
        timed.gemm = timed_gemm;
        timed.rope_kv = timed_rope;
        timed.attention = timed_attention;
        timed.swiglu = timed_swiglu;
        timed.kv_copy = timed_kv_copy;
        timed.gather_rows = timed_gather;
        timed.choice_logits = timed_choice;
        timed.sync = timed_sync;
        be->ops = &timed;
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
