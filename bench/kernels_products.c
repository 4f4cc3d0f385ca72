/* kernels_products.c - bench_kernels: the ceilings, and the matrix products of gemm_cuda.h. */
#include "kernels.h"

/* ---- products ---- */

struct product {
    uint32_t n, k;
    struct gdk_cuda_gemm_options opt;
};

struct product_work {
    struct gdk_cuda_gemm *gemm;
    uint32_t rows;
    struct {
        struct gdk_cuda_matrix w;
        void *a;
        float *scales;
        gdk_bf16 *out;
    } sets[GPU_SETS_MAX];
};

static cudaError_t run_product(struct gpu *g, void *ctx, uint32_t at)
{
    struct product_work *w = ctx;
    (void)g;
    return gdk_cuda_gemm_run(w->gemm, w->rows, w->sets[at].a, w->sets[at].scales, &w->sets[at].w,
                             w->sets[at].out);
}

/* Gaussian rows as an operand: bf16 as they lie in the arena, or quantised from there. */
static cudaError_t take_operand(struct gpu *g, uint32_t rows, uint32_t k, bool fp8, void **data,
                                float **scales)
{
    *data = gpu_take(g, (size_t)rows * k * (fp8 ? 1 : 2));
    *scales = fp8 ? gpu_take(g, rows * sizeof(float)) : NULL;
    if (*data == NULL || (fp8 && *scales == NULL)) {
        return cudaErrorMemoryAllocation;
    }
    if (!fp8) {
        return cudaSuccess;
    }
    /* What is not taken is Gaussian bf16. */
    size_t used = g->used;
    const gdk_bf16 *from = gpu_take(g, (size_t)rows * k * 2);
    g->used = used;
    return from == NULL ? cudaErrorMemoryAllocation
                        : gdk_quantize_cuda(g->stream, rows, k, k, from, *data, *scales);
}

static int take_sets(struct bench *b, const struct product *p, struct product_work *w, uint32_t *n)
{
    size_t number = p->opt.fp8 ? 1 : 2;
    size_t nbytes = ((size_t)p->n + w->rows) * p->k * number + (size_t)w->rows * p->n * 2;
    struct gdk_gemm_shape *shape = w->sets[0].w.shape;
    *n = gpu_sets(&b->g, nbytes);
    *n = *n > 8 ? 8 : *n;
    for (uint32_t i = 0; i < *n; i++) {
        struct gdk_cuda_matrix m = {.n = p->n, .k = p->k, .shape = shape};
        cudaError_t rc = take_operand(&b->g, p->n, p->k, p->opt.fp8, &m.data, &m.scales);
        if (rc == cudaSuccess) {
            rc = take_operand(&b->g, w->rows, p->k, p->opt.fp8, &w->sets[i].a, &w->sets[i].scales);
        }
        w->sets[i].w = m;
        w->sets[i].out = gpu_take(&b->g, (size_t)w->rows * p->n * 2);
        if (rc == cudaSuccess && w->sets[i].out == NULL) {
            rc = cudaErrorMemoryAllocation;
        }
        if (rc != cudaSuccess) {
            return gpu_failed(rc, "operands", b->err);
        }
    }
    return GD_OK;
}

/* With a gemm and a shape that are there. */
static int time_product(struct bench *b, const struct product *p, struct product_work *w,
                        struct gpu_time *time)
{
    uint32_t n = 0;
    int rc = gpu_reset(&b->g, b->err);
    rc = rc != GD_OK ? rc : take_sets(b, p, w, &n);
    return rc != GD_OK ? rc : gpu_measure(&b->g, run_product, w, n, time, b->err);
}

static int open_product(struct bench *b, const struct product *p, uint32_t rows_max,
                        struct product_work *w)
{
    *w = (struct product_work){.gemm = NULL};
    w->sets[0].w = (struct gdk_cuda_matrix){.n = p->n, .k = p->k};
    int rc = gdk_cuda_gemm_open(&w->gemm, b->g.stream, &p->opt, b->err);
    rc = rc != GD_OK ? rc : gdk_cuda_gemm_plan(w->gemm, &w->sets[0].w, b->err);
    return rc != GD_OK ? rc : gdk_cuda_gemm_select(w->gemm, rows_max, b->err);
}

static void put_product(struct bench *b, const struct product *p)
{
    gd_jw_put_str(&b->w, "dtype", p->opt.fp8 ? "fp8" : "bf16");
    if (p->opt.fp8) {
        gd_jw_put_bool(&b->w, "fast", p->opt.fast_accum);
    }
    gd_jw_put_i64(&b->w, "n", p->n);
    gd_jw_put_i64(&b->w, "k", p->k);
}

/* What this device cannot do is told, and no failure. */
static void put_refusal(struct bench *b, const struct product *p)
{
    gd_jw_object(&b->w);
    put_product(b, p);
    gd_jw_put_str(&b->w, "error", b->err->msg);
    gd_jw_object_end(&b->w);
    fprintf(stderr, "product %u x %u %s: %s\n", p->n, p->k, p->opt.fp8 ? "fp8" : "bf16",
            b->err->msg);
}

static void put_rows(struct bench *b, const struct product *p, uint32_t rows,
                     const struct gpu_time *time)
{
    double tflops = 2e-6 * rows * p->n * p->k / time->us, ceiling = b->tflops[p->opt.fp8];
    gd_jw_object(&b->w);
    gd_jw_put_i64(&b->w, "rows", rows);
    bench_json_put(&b->w, "us", time->us);
    bench_json_put(&b->w, "tflops", tflops);
    if (ceiling > 0) {
        bench_json_put(&b->w, "of_ceiling", tflops / ceiling);
    }
    gd_jw_object_end(&b->w);
    fprintf(stderr, "product %5u x %5u x %5u %s%s %9.2f us %7.1f TFLOP/s %4.0f %%\n", rows, p->n,
            p->k, p->opt.fp8 ? "fp8" : "bf16", p->opt.fast_accum ? " fast" : "", time->us, tflops,
            ceiling > 0 ? 100 * tflops / ceiling : 0);
}

static int measure_product(struct bench *b, const struct product *p)
{
    static const uint32_t full[] = {16, 32, 64, 128, 256, 320, 512, 1024, 2112, 4224, 8448, 0};
    static const uint32_t quick[] = {16, 64, 0};
    static struct product_work w;
    struct gdk_cuda_gemm_stats stats;
    struct gpu_time time;
    int rc = open_product(b, p, b->s->gemm_rows_max, &w);
    if (rc != GD_OK) {
        put_refusal(b, p);
        gdk_cuda_gemm_close(w.gemm);
        return GD_OK;
    }
    gdk_cuda_gemm_stats(w.gemm, &stats);
    gd_jw_object(&b->w);
    put_product(b, p);
    gd_jw_put_i64(&b->w, "offered", stats.offered);
    gd_jw_put_i64(&b->w, "equal", stats.equal);
    gd_jw_key(&b->w, "rows");
    gd_jw_array(&b->w);
    for (const uint32_t *rows = b->g.quick ? quick : full; *rows != 0 && rc == GD_OK; rows++) {
        w.rows = *rows;
        rc = time_product(b, p, &w, &time);
        if (rc == GD_OK) {
            put_rows(b, p, *rows, &time);
        }
    }
    gd_jw_array_end(&b->w);
    gd_jw_object_end(&b->w);
    gdk_cuda_gemm_close(w.gemm);
    return rc;
}

static const struct gdk_cuda_gemm_options MODES[] = {
    {.fp8 = false}, {.fp8 = true}, {.fp8 = true, .fast_accum = true}};

int measure_products(struct bench *b)
{
    const uint32_t dim = b->s->dim, ffn = b->s->ffn;
    const uint32_t shapes[4][2] = {{qkv_dim(b->s), dim}, {dim, dim}, {2 * ffn, dim}, {dim, ffn}};
    gd_jw_key(&b->w, "products");
    gd_jw_array(&b->w);
    for (size_t mode = 0; mode < 3; mode++) {
        for (size_t i = 0; i < 4; i++) {
            const struct product p = {shapes[i][0], shapes[i][1], MODES[mode]};
            int rc = measure_product(b, &p);
            if (rc != GD_OK) {
                return rc;
            }
        }
    }
    gd_jw_array_end(&b->w);
    return GD_OK;
}

/* ---- ceilings ---- */

struct copy {
    size_t nbytes;
};

static cudaError_t run_copy(struct gpu *g, void *ctx, uint32_t at)
{
    const struct copy *c = ctx;
    (void)at;
    return cudaMemcpyAsync(g->arena + c->nbytes, g->arena, c->nbytes, cudaMemcpyDeviceToDevice,
                           g->stream);
}

/* FP8 has two ceilings, with fast accumulation and without; the better one counts. */
int measure_ceilings(struct bench *b)
{
    static struct product_work w;
    struct copy c = {b->g.arena_bytes / 2};
    struct gpu_time time;
    double copy_us = 0;
    int rc = gpu_measure_direct(&b->g, run_copy, &c, &copy_us, b->err);
    if (rc != GD_OK) {
        return rc;
    }
    b->copy_gbs = 2 * (double)c.nbytes / copy_us / 1e3;
    gd_jw_key(&b->w, "ceilings");
    gd_jw_object(&b->w);
    bench_json_put(&b->w, "copy_gb_per_s", b->copy_gbs);
    fprintf(stderr, "copy of %.1f GB: %.0f GB/s\n", (double)c.nbytes / 1e9, b->copy_gbs);
    for (size_t mode = 0; mode < 3; mode++) {
        static const char *const names[] = {"bf16", "fp8", "fp8_fast"};
        char key[40];
        const struct product p = {b->s->square, b->s->square, MODES[mode]};
        rc = open_product(b, &p, p.n, &w);
        w.rows = p.n;
        rc = rc != GD_OK ? rc : time_product(b, &p, &w, &time);
        gdk_cuda_gemm_close(w.gemm);
        if (rc != GD_OK) {
            fprintf(stderr, "ceiling of %s: %s\n", names[mode], b->err->msg);
            snprintf(key, sizeof key, "%s_error", names[mode]);
            gd_jw_put_str(&b->w, key, b->err->msg);
            continue;
        }
        double flop = 2e-6 * p.n * p.n * p.k, best = flop / time.us_min;
        b->tflops[p.opt.fp8] = best > b->tflops[p.opt.fp8] ? best : b->tflops[p.opt.fp8];
        snprintf(key, sizeof key, "%s_tflops", names[mode]);
        bench_json_put(&b->w, key, best);
        snprintf(key, sizeof key, "%s_tflops_median", names[mode]);
        bench_json_put(&b->w, key, flop / time.us);
        fprintf(stderr, "product of %u cubed, %s: %.0f TFLOP/s, median %.0f\n", p.n, names[mode],
                best, flop / time.us);
    }
    gd_jw_object_end(&b->w);
    return GD_OK;
}
