/* common.h - what the benchmarks over the engine share: clock, percentiles, a seeded generator, the
 * ceiling of the matrix products, and where the worker's time goes.
 *
 * Only bench/ uses this. Nothing here is a test: no figure is compared with a constant. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include "guardian/engine.h"
#include "guardian/json.h"

double bench_now_ms(void);

void bench_sort(double *v, size_t n);
double bench_percentile(const double *sorted, size_t n, double p); /* nearest rank; p of 0 to 100 */

/* splitmix64: the same seed gives the same numbers everywhere. */
struct bench_rng {
    uint64_t state;
};
uint64_t bench_rng_next(struct bench_rng *r);
uint32_t bench_rng_below(struct bench_rng *r, uint32_t n); /* 0 to n - 1 */
double bench_rng_normal(struct bench_rng *r);              /* mean 0, deviation 1 */

/* Useful GFLOP of the matrix products of n_tokens computed tokens, n_scored of them scored: two for
 * each weight and token; what follows the keys and values of the last layer counts for scored
 * tokens only. Attention and the choice rows do not count. */
double bench_gflop(const struct gd_model_config *c, uint64_t n_tokens, uint64_t n_scored);

/* Useful GFLOP of attention of one prompt whose first n_cached tokens were not computed. */
double bench_attention_gflop(const struct gd_model_config *c, uint32_t n_tokens, uint32_t n_cached);

/* Normally distributed values of deviation 1; repeat themselves after a million or so. */
void bench_normals(float *out, size_t n);

/* The ceiling: GFLOP/s of one large product on a back end of its own like this one, which has
 * nothing to do meanwhile. Raises *gflops when it reaches more: on a CPU, where others may use the
 * processors, call it several times in a run; on a GPU (8192 x 8192 x 8192, the best of a few groups
 * of products) a call that finds *gflops above 0 does nothing. */
int bench_peak(const struct gd_backend *like, double *gflops, struct gd_err *err);

/* Dense TFLOP/s of the products' number type by the maker's data sheet; 0 where it is not known
 * here. */
double bench_datasheet_tflops(const char *device_name, bool fp8);

/* Where the worker's time goes. While on, the engine's back end has a table that reads the clock
 * around each operation; on a GPU, where operations are only queued, around what waits: the begin and
 * the end of each step. Switch and reset only while the engine has nothing to do. */
enum bench_op {
    BENCH_GEMM,
    BENCH_ATTENTION,
    BENCH_ROPE,
    BENCH_NORM,
    BENCH_SWIGLU,
    BENCH_EMBED,
    BENCH_COPY,   /* blocks of the KV cache */
    BENCH_CHOICE, /* gathered rows, choice logits */
    BENCH_STEP,   /* begin and end of steps: on a GPU the wait for it */
    BENCH_OPS
};
struct bench_times {
    double op_ms[BENCH_OPS];
    double step_ms;     /* of all steps, the operations among it */
    double between_ms;  /* from the end of a step to the first operation of the next, of which */
    double schedule_ms; /* the worker was on a processor: delivering, taking, planning */
    uint64_t steps, tokens, seqs;
};
const char *bench_op_name(enum bench_op op);
void bench_timed(struct gd_engine *e, bool on);
void bench_times_reset(void);
struct bench_times bench_times_get(void);
void bench_on_step(void *ctx, const struct gd_step_info *info); /* gd_engine_options.on_step */
double bench_ops_ms(const struct bench_times *t);

/* Members that every result has: program, commit (may be NULL), CPU, back end, model. */
void bench_json_head(struct gd_json_writer *w, const char *bench, const char *commit,
                     const struct gd_engine *e);
void bench_json_put(struct gd_json_writer *w, const char *key, double value); /* five digits */
/* Ends the object and prints it as one line. */
void bench_json_print(struct gd_json_writer *w);
/* What so many GFLOP/s of products are of the ceilings; tflops: the data sheet's, 0 when unknown. */
void bench_json_products(struct gd_json_writer *w, double gflops, double ceiling, double tflops);
/* "share": {"gemm": ...} of wall_ms. */
void bench_json_shares(struct gd_json_writer *w, const struct bench_times *t, double wall_ms);
bool bench_on_gpu(const struct gd_backend *be);
/* A decimal number of 0 to max; false when text is anything else. */
bool bench_number(const char *text, uint64_t max, uint64_t *out);

#endif
