/* backend_cpu.c - the table of operations of backend.h for the CPU: rows of each operation spread
 * over the pool.
 *
 * Every operation is done when its function returns, so sync has nothing to wait for; the first
 * failure is kept and given back by sync as well. Rows go out in fixed chunks; which thread takes a
 * chunk changes no bit. */
#include "guardian/arena.h"
#include "guardian/kernels.h"
#include "guardian/memory.h"

#define CHUNK 16u /* rows of an item */
/* Four tiles of rows for each thread keep all of them busy; products are as fast as they get from
 * there on. */
#define STEP_TOKENS_PER_THREAD 256u

struct gd_table {
    uint32_t n, k;
    enum gd_dtype dtype;
    void *rows;
};

struct cpu_backend {
    struct gd_backend base; /* first: a gd_backend * is one of these */
    struct gd_pool *pool;
    struct gdk_gemm *gemm;
    struct gdk_attention_scratch *scratch; /* [n_threads] */
    int failed;                            /* first GD_E code of an operation */
};

static struct cpu_backend *cpu_of(struct gd_backend *be)
{
    return (struct cpu_backend *)be;
}

static int cpu_result(struct cpu_backend *be, int rc)
{
    if (rc != GD_OK && be->failed == GD_OK) {
        be->failed = rc;
    }
    return rc;
}

/* ---- memory ---- */

static void *lines_alloc(size_t nbytes)
{
    size_t padded = 0;
    if (!gd_add(nbytes, 127, &padded)) {
        return NULL;
    }
    return aligned_alloc(64, padded / 64 * 64);
}

static uint64_t cpu_memory_left(struct gd_backend *be)
{
    (void)be;
    return gd_memory_available("");
}

static uint64_t cpu_rows_bytes(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                               uint32_t dim)
{
    (void)be;
    (void)kind;
    uint64_t n = (uint64_t)rows * dim;
    return n > SIZE_MAX / sizeof(float) ? SIZE_MAX : n * sizeof(float);
}

static struct gd_rows *cpu_rows_open(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                                     uint32_t dim)
{
    struct gd_rows *r = malloc(sizeof *r);
    if (r != NULL) {
        r->data = lines_alloc((size_t)cpu_rows_bytes(be, kind, rows, dim));
        if (r->data == NULL) {
            free(r);
            r = NULL;
        }
    }
    return r;
}

static void cpu_rows_close(struct gd_backend *be, struct gd_rows *r)
{
    (void)be;
    if (r != NULL) {
        free(r->data);
        free(r);
    }
}

static int cpu_rows_read(struct gd_backend *be, const struct gd_rows *r, uint32_t n, uint32_t dim,
                         float *host)
{
    (void)be;
    memcpy(host, r->data, (size_t)n * dim * sizeof *host);
    return GD_OK;
}

static int cpu_rows_write(struct gd_backend *be, struct gd_rows *r, uint32_t n, uint32_t dim,
                          const float *host)
{
    (void)be;
    memcpy(r->data, host, (size_t)n * dim * sizeof *host);
    return GD_OK;
}

struct gd_vector {
    float *values;
};

static struct gd_vector *cpu_vector_load(struct gd_backend *be, uint32_t n, const float *values)
{
    (void)be;
    struct gd_vector *v = malloc(sizeof *v);
    if (v != NULL) {
        v->values = lines_alloc(n * sizeof *values);
        if (v->values == NULL) {
            free(v);
            return NULL;
        }
        memcpy(v->values, values, n * sizeof *values);
    }
    return v;
}

static void cpu_vector_free(struct gd_backend *be, struct gd_vector *v)
{
    (void)be;
    if (v != NULL) {
        free(v->values);
        free(v);
    }
}

static int cpu_weight_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                           const void *rows, const float *bias, struct gd_weight **out,
                           struct gd_err *err)
{
    int rc = gdk_gemm_weight_load(cpu_of(be)->gemm, n, k, dtype, rows, bias, out, err);
    if (rc == GD_OK) {
        be->weight_bytes_held += gdk_gemm_weight_bytes(*out);
    }
    return rc;
}

static void cpu_weight_free(struct gd_backend *be, struct gd_weight *w)
{
    if (w != NULL) {
        be->weight_bytes_held -= gdk_gemm_weight_bytes(w);
        gdk_gemm_weight_free(w);
    }
}

static size_t table_bytes(const struct gd_table *t)
{
    return (size_t)t->n * t->k * gdk_dtype_bytes(t->dtype);
}

static int cpu_table_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                          void *rows, struct gd_table **out, struct gd_err *err)
{
    if (gdk_dtype_bytes(dtype) == 0) {
        free(rows);
        return gd_err_set(err, GD_EUSAGE, "a table of this number type cannot be read");
    }
    struct gd_table *t = malloc(sizeof *t);
    if (t == NULL) {
        free(rows);
        return gd_err_set(err, GD_ENOMEM, "no memory for a table of %u x %u", n, k);
    }
    *t = (struct gd_table){.n = n, .k = k, .dtype = dtype, .rows = rows};
    be->weight_bytes_held += table_bytes(t);
    *out = t;
    return GD_OK;
}

static void cpu_table_free(struct gd_backend *be, struct gd_table *t)
{
    if (t != NULL) {
        be->weight_bytes_held -= table_bytes(t);
        free(t->rows);
        free(t);
    }
}

static uint64_t cpu_table_bytes(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype)
{
    (void)be;
    return (uint64_t)n * k * gdk_dtype_bytes(dtype);
}

static uint64_t cpu_weight_bytes(struct gd_backend *be, uint32_t n, uint32_t k)
{
    return gdk_gemm_plan_bytes(cpu_of(be)->gemm, n, k);
}

/* ---- rows of an operation, spread over the pool ---- */

struct row_job {
    uint32_t rows, dim;
    const struct gd_batch *b;
    const struct gd_table *table;
    const struct gd_attn_shape *shape;
    const float *src, *weight;
    float *x, *out;
    float eps;
    struct gdk_kv_layer kv;
    struct gdk_attention_scratch *scratch;
};

static uint32_t chunk_begin(uint32_t item)
{
    return item * CHUNK;
}

static uint32_t chunk_end(const struct row_job *job, uint32_t item)
{
    uint32_t end = item * CHUNK + CHUNK;
    return end < job->rows ? end : job->rows;
}

static void run_rows(struct gd_backend *be, struct row_job *job, gd_pool_fn fn)
{
    gd_pool_run(cpu_of(be)->pool, (job->rows + CHUNK - 1) / CHUNK, fn, job);
}

/* ---- the paged cache ---- */

/* Keys of all layers, then values of all layers. Memory that nobody has written yet is zero pages
 * of the system, so that a large cache costs what is used of it. */
struct gd_kv {
    uint32_t n_layers, n_blocks, n_positions;
    struct gd_attn_shape shape;
    size_t block; /* floats of the keys of one block of one layer; as many of the values */
    float *k, *v; /* [n_layers, n_blocks, block] */
    float *rope;  /* [n_positions, head_dim] cosines, then sines, of each position */
    void *memory;
};

/* *bytes of the keys, or the values, of one block of one layer. False: it overflows. */
static bool kv_half_bytes(const struct gd_attn_shape *s, size_t *bytes)
{
    size_t heads = 0;
    return s->head_dim <= GDK_HEAD_DIM_MAX &&
           gd_mul(s->n_kv_heads, (size_t)gdk_kv_pad(s->head_dim) * sizeof(float), &heads) &&
           gd_mul(heads, GD_KV_BLOCK_TOKENS, bytes);
}

static uint64_t cpu_kv_block_bytes(struct gd_backend *be, const struct gd_attn_shape *s)
{
    (void)be;
    size_t half = 0, bytes = 0;
    return kv_half_bytes(s, &half) && gd_mul(half, 2, &bytes) ? bytes : 0;
}

static void rope_table_item(void *ctx, uint32_t item, uint32_t thread);

static void cpu_kv_close(struct gd_backend *be, struct gd_kv *kv)
{
    (void)be;
    if (kv != NULL) {
        free(kv->memory);
        free(kv->rope);
        free(kv);
    }
}

static int cpu_kv_open(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                       const struct gd_attn_shape *s, const struct gd_rope *rope,
                       struct gd_kv **out, struct gd_err *err)
{
    size_t blocks = 0, bytes = 0, all = 0;
    size_t block = (size_t)cpu_kv_block_bytes(be, s);
    if (n_layers == 0 || n_blocks == 0 || block == 0) {
        return gd_err_set(err, GD_EUSAGE, "no KV cache of %u layers, %u blocks, %u heads of %u",
                          n_layers, n_blocks, s->n_kv_heads, s->head_dim);
    }
    struct gd_kv *kv = calloc(1, sizeof *kv);
    if (kv != NULL && gd_mul(n_layers, n_blocks, &blocks) && gd_mul(blocks, block, &bytes) &&
        gd_add(bytes, 63, &all)) {
        kv->memory = calloc(1, all);
        kv->rope = lines_alloc((size_t)rope->n_positions * s->head_dim * sizeof *kv->rope);
    }
    if (kv == NULL || kv->memory == NULL || kv->rope == NULL) {
        cpu_kv_close(be, kv);
        return gd_err_set(err, GD_ENOMEM, "no memory for a KV cache of %u blocks", n_blocks);
    }
    kv->n_layers = n_layers;
    kv->n_blocks = n_blocks;
    kv->n_positions = rope->n_positions;
    kv->shape = *s;
    kv->block = block / 2 / sizeof(float);
    kv->k = (float *)(void *)((char *)kv->memory + (64 - (uintptr_t)kv->memory % 64) % 64);
    kv->v = kv->k + blocks * kv->block;
    struct row_job job = {
        .rows = rope->n_positions, .shape = s, .src = rope->inv_freq, .out = kv->rope};
    run_rows(be, &job, rope_table_item);
    *out = kv;
    return GD_OK;
}

static struct gdk_kv_layer kv_layer(const struct gd_kv *kv, uint32_t layer)
{
    size_t at = (size_t)layer * kv->n_blocks * kv->block;
    return (struct gdk_kv_layer){.k = kv->k + at, .v = kv->v + at};
}

static int cpu_kv_copy(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src)
{
    if (dst >= kv->n_blocks || src >= kv->n_blocks) {
        return cpu_result(cpu_of(be), GD_EBACKEND);
    }
    for (uint32_t i = 0; i < kv->n_layers && dst != src; i++) {
        struct gdk_kv_layer layer = kv_layer(kv, i);
        size_t to = dst * kv->block, from = src * kv->block;
        memcpy(layer.k + to, layer.k + from, kv->block * sizeof(float));
        memcpy(layer.v + to, layer.v + from, kv->block * sizeof(float));
    }
    return GD_OK;
}

/* ---- steps ---- */

static int cpu_step_begin(struct gd_backend *be, const struct gd_kv *kv, const struct gd_batch *b,
                          const struct gd_batch *scored, bool watched, struct gd_step_rows *out)
{
    (void)kv;
    (void)watched;
    cpu_of(be)->failed = GD_OK;
    *out = (struct gd_step_rows){.tokens = b->n_tokens, .scored = scored->n_tokens};
    return GD_OK;
}

static int cpu_step_end(struct gd_backend *be)
{
    int rc = cpu_of(be)->failed;
    cpu_of(be)->failed = GD_OK;
    return rc == GD_OK || rc == GD_ENOMEM ? rc : GD_EBACKEND;
}

/* ---- operations: one item function each ---- */

static void embed_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_embed_cpu(chunk_begin(item), chunk_end(j, item), j->table->k, j->table->dtype,
                  j->table->rows, j->b->tokens, j->out);
}

static int cpu_embed(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                     struct gd_rows *out)
{
    struct row_job job = {.rows = b->n_tokens, .b = b, .table = t, .out = out->data};
    run_rows(be, &job, embed_item);
    return GD_OK;
}

static void rmsnorm_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_add_rmsnorm_cpu(chunk_begin(item), chunk_end(j, item), j->dim, j->x, j->src, j->weight,
                        j->eps, j->out);
}

static int cpu_add_rmsnorm(struct gd_backend *be, uint32_t rows, uint32_t dim, struct gd_rows *x,
                           const struct gd_rows *delta, const struct gd_vector *weight, float eps,
                           struct gd_rows *out)
{
    struct row_job job = {.rows = rows,
                          .dim = dim,
                          .x = x->data,
                          .src = delta != NULL ? delta->data : NULL,
                          .weight = weight->values,
                          .eps = eps,
                          .out = out->data};
    run_rows(be, &job, rmsnorm_item);
    return GD_OK;
}

static int cpu_gemm(struct gd_backend *be, uint32_t rows, const struct gd_rows *a,
                    const struct gd_weight *w, struct gd_rows *out)
{
    return cpu_result(cpu_of(be), gdk_gemm_run(cpu_of(be)->gemm, rows, a->data, w, out->data));
}

static void rope_table_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_rope_table_cpu(chunk_begin(item), chunk_end(j, item), j->shape->head_dim, j->src, j->out);
}

static void rope_kv_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_rope_kv_cpu(chunk_begin(item), chunk_end(j, item), j->b, j->shape, j->src, j->x, &j->kv);
}

static int cpu_rope_kv(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                       struct gd_kv *kv, uint32_t layer)
{
    bool fits = layer < kv->n_layers;
    for (uint32_t t = 0; t < b->n_tokens; t++) {
        fits = fits && (uint32_t)b->positions[t] < kv->n_positions;
    }
    if (!fits) {
        return cpu_result(cpu_of(be), GD_EBACKEND);
    }
    struct row_job job = {.rows = b->n_tokens,
                          .b = b,
                          .shape = &kv->shape,
                          .src = kv->rope,
                          .x = qkv->data,
                          .kv = kv_layer(kv, layer)};
    run_rows(be, &job, rope_kv_item);
    return GD_OK;
}

static void attention_item(void *ctx, uint32_t item, uint32_t thread)
{
    const struct row_job *j = ctx;
    gdk_attention_cpu(item, j->b, j->shape, j->src, &j->kv, j->out, &j->scratch[thread]);
}

static int cpu_attention(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                         const struct gd_kv *kv, uint32_t layer, struct gd_rows *out)
{
    struct cpu_backend *cpu = cpu_of(be);
    if (layer >= kv->n_layers) {
        return cpu_result(cpu, GD_EBACKEND);
    }
    struct row_job job = {.b = b,
                          .shape = &kv->shape,
                          .src = qkv->data,
                          .kv = kv_layer(kv, layer),
                          .out = out->data,
                          .scratch = cpu->scratch};
    gd_pool_run(cpu->pool, gdk_attention_items(b, &kv->shape), attention_item, &job);
    return GD_OK;
}

static void swiglu_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_swiglu_cpu(chunk_begin(item), chunk_end(j, item), j->dim, j->src, j->out);
}

static int cpu_swiglu(struct gd_backend *be, uint32_t rows, uint32_t ffn,
                      const struct gd_rows *gate_up, struct gd_rows *out)
{
    struct row_job job = {.rows = rows, .dim = ffn, .src = gate_up->data, .out = out->data};
    run_rows(be, &job, swiglu_item);
    return GD_OK;
}

static int cpu_gather_rows(struct gd_backend *be, const struct gd_batch *b, uint32_t dim,
                           const struct gd_rows *src, struct gd_rows *dst)
{
    (void)be;
    gdk_gather_rows_cpu(0, b->n_tokens, dim, b->places, src->data, dst->data);
    return GD_OK;
}

static int cpu_choice_logits(struct gd_backend *be, uint32_t n, const struct gd_choice *choices,
                             uint32_t dim, const struct gd_rows *hidden, const struct gd_table *t,
                             float *logits)
{
    (void)be;
    gdk_choice_logits_cpu(n, choices, dim, hidden->data, t->dtype, t->rows, logits);
    return GD_OK;
}

static int cpu_selftest(struct gd_backend *be, uint32_t rows_max, struct gd_err *err)
{
    (void)rows_max;
    return gdk_gemm_selftest(cpu_of(be)->gemm, err);
}

/* ---- start and end ---- */

static void cpu_close(struct gd_backend *be)
{
    struct cpu_backend *cpu = cpu_of(be);
    gdk_gemm_close(cpu->gemm);
    gd_pool_close(cpu->pool);
    free(cpu->scratch);
    free(cpu);
}

static const struct gd_backend_ops CPU_OPS = {
    .close = cpu_close,
    .memory_left = cpu_memory_left,
    .rows_open = cpu_rows_open,
    .rows_close = cpu_rows_close,
    .rows_bytes = cpu_rows_bytes,
    .rows_read = cpu_rows_read,
    .rows_write = cpu_rows_write,
    .vector_load = cpu_vector_load,
    .vector_free = cpu_vector_free,
    .weight_load = cpu_weight_load,
    .weight_free = cpu_weight_free,
    .table_load = cpu_table_load,
    .table_free = cpu_table_free,
    .weight_bytes = cpu_weight_bytes,
    .table_bytes = cpu_table_bytes,
    .selftest = cpu_selftest,
    .step_begin = cpu_step_begin,
    .step_end = cpu_step_end,
    .embed = cpu_embed,
    .add_rmsnorm = cpu_add_rmsnorm,
    .gemm = cpu_gemm,
    .kv_open = cpu_kv_open,
    .kv_close = cpu_kv_close,
    .kv_block_bytes = cpu_kv_block_bytes,
    .kv_copy = cpu_kv_copy,
    .rope_kv = cpu_rope_kv,
    .attention = cpu_attention,
    .swiglu = cpu_swiglu,
    .gather_rows = cpu_gather_rows,
    .choice_logits = cpu_choice_logits,
};

int gdk_backend_cpu_open(struct gd_backend **out, uint32_t n_threads, bool bf16, struct gd_err *err)
{
    struct cpu_backend *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the CPU back end");
    }
    if (n_threads == 0) {
        n_threads = gd_pool_cpus_usable();
    }
    cpu->base = (struct gd_backend){.ops = &CPU_OPS,
                                    .device = "cpu",
                                    .isa = gdk_gemm_isa(),
                                    .gemm_dtype = bf16 ? "bf16" : "f32",
                                    .n_threads = n_threads,
                                    .name = "",
                                    .step_tokens = STEP_TOKENS_PER_THREAD * n_threads,
                                    .kv_share = 0.125,
                                    .kv_bytes_max = GD_KV_BYTES_DEFAULT};
    int rc = gd_pool_open(&cpu->pool, n_threads, err);
    rc = rc != GD_OK ? rc : gdk_gemm_open(&cpu->gemm, cpu->pool, bf16, err);
    if (rc == GD_OK) {
        cpu->scratch = aligned_alloc(64, n_threads * sizeof *cpu->scratch);
        if (cpu->scratch == NULL) {
            rc = gd_err_set(err, GD_ENOMEM, "no memory for the CPU back end");
        }
    }
    if (rc != GD_OK) {
        cpu_close(&cpu->base);
        return rc;
    }
    *out = &cpu->base;
    return GD_OK;
}

int gd_backend_cpu_open(struct gd_backend **out, uint32_t n_threads, struct gd_err *err)
{
    return gdk_backend_cpu_open(out, n_threads, gdk_gemm_amx_usable(), err);
}
