/* backend_cpu.c - the table of operations of backend.h for the CPU: rows of each operation spread
 * over the pool.
 *
 * Every operation is done when its function returns, so sync has nothing to wait for; the first
 * failure is kept and given back by sync as well. Rows go out in fixed chunks; which thread takes a
 * chunk changes no bit. */
#include "guardian/arena.h"
#include "guardian/kernels.h"

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

    /* Cosines and sines per position of the rope in use, grown to the longest sequence seen. */
    struct gd_rope rope;
    float rope_inv_freq[GDK_HEAD_DIM_MAX / 2];
    float *rope_table;
    uint32_t rope_positions;
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

static void *cpu_buffer_alloc(struct gd_backend *be, size_t nbytes)
{
    (void)be;
    size_t padded = 0;
    if (!gd_add(nbytes, 127, &padded)) {
        return NULL;
    }
    return aligned_alloc(64, padded / 64 * 64);
}

static void cpu_buffer_free(struct gd_backend *be, void *p)
{
    (void)be;
    free(p);
}

static int cpu_copy(struct gd_backend *be, void *dst, const void *src, size_t nbytes)
{
    (void)be;
    memcpy(dst, src, nbytes);
    return GD_OK;
}

static int cpu_sync(struct gd_backend *be)
{
    int rc = cpu_of(be)->failed;
    cpu_of(be)->failed = GD_OK;
    return rc == GD_OK || rc == GD_ENOMEM ? rc : GD_EBACKEND;
}

static int cpu_weight_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                           const void *rows, struct gd_weight **out, struct gd_err *err)
{
    int rc = gdk_gemm_weight_load(cpu_of(be)->gemm, n, k, dtype, rows, out, err);
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

static size_t cpu_weight_bytes(struct gd_backend *be, uint32_t n, uint32_t k)
{
    return gdk_gemm_plan_bytes(cpu_of(be)->gemm, n, k);
}

/* ---- the paged cache ---- */

/* Keys of all layers, then values of all layers. Memory that nobody has written yet is zero pages
 * of the system, so that a large cache costs what is used of it. */
struct gd_kv {
    uint32_t n_layers, n_blocks, n_kv_heads, head_dim;
    size_t block; /* floats of the keys of one block of one layer; as many of the values */
    float *k, *v; /* [n_layers, n_blocks, block] */
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

static size_t cpu_kv_block_bytes(struct gd_backend *be, const struct gd_attn_shape *s)
{
    (void)be;
    size_t half = 0, bytes = 0;
    return kv_half_bytes(s, &half) && gd_mul(half, 2, &bytes) ? bytes : 0;
}

static int cpu_kv_open(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                       const struct gd_attn_shape *s, struct gd_kv **out, struct gd_err *err)
{
    size_t blocks = 0, bytes = 0, all = 0;
    size_t block = cpu_kv_block_bytes(be, s);
    if (n_layers == 0 || n_blocks == 0 || block == 0) {
        return gd_err_set(err, GD_EUSAGE, "no KV cache of %u layers, %u blocks, %u heads of %u",
                          n_layers, n_blocks, s->n_kv_heads, s->head_dim);
    }
    struct gd_kv *kv = calloc(1, sizeof *kv);
    if (kv != NULL && gd_mul(n_layers, n_blocks, &blocks) && gd_mul(blocks, block, &bytes) &&
        gd_add(bytes, 63, &all)) {
        kv->memory = calloc(1, all);
    }
    if (kv == NULL || kv->memory == NULL) {
        free(kv);
        return gd_err_set(err, GD_ENOMEM, "no memory for a KV cache of %u blocks", n_blocks);
    }
    kv->n_layers = n_layers;
    kv->n_blocks = n_blocks;
    kv->n_kv_heads = s->n_kv_heads;
    kv->head_dim = s->head_dim;
    kv->block = block / 2 / sizeof(float);
    kv->k = (float *)(void *)((char *)kv->memory + (64 - (uintptr_t)kv->memory % 64) % 64);
    kv->v = kv->k + blocks * kv->block;
    *out = kv;
    return GD_OK;
}

static void cpu_kv_close(struct gd_backend *be, struct gd_kv *kv)
{
    (void)be;
    if (kv != NULL) {
        free(kv->memory);
        free(kv);
    }
}

static bool kv_fits(const struct gd_kv *kv, const struct gd_attn_shape *s, uint32_t layer)
{
    return layer < kv->n_layers && s->n_kv_heads == kv->n_kv_heads && s->head_dim == kv->head_dim;
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

/* ---- operations: one job record and one item function each ---- */

struct row_job {
    uint32_t rows, dim;
    const struct gd_batch *b;
    const struct gd_table *table;
    const struct gd_attn_shape *shape;
    const struct gd_rope *rope;
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

static void embed_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_embed_cpu(chunk_begin(item), chunk_end(j, item), j->table->k, j->table->dtype,
                  j->table->rows, j->b->tokens, j->out);
}

static int cpu_embed(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                     float *out)
{
    struct row_job job = {.rows = b->n_tokens, .b = b, .table = t, .out = out};
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

static int cpu_add_rmsnorm(struct gd_backend *be, uint32_t rows, uint32_t dim, float *x,
                           const float *delta, const float *weight, float eps, float *out)
{
    struct row_job job = {
        .rows = rows, .dim = dim, .x = x, .src = delta, .weight = weight, .eps = eps, .out = out};
    run_rows(be, &job, rmsnorm_item);
    return GD_OK;
}

static int cpu_gemm(struct gd_backend *be, uint32_t rows, const float *a, const struct gd_weight *w,
                    const float *bias, float *out)
{
    return cpu_result(cpu_of(be), gdk_gemm_run(cpu_of(be)->gemm, rows, a, w, bias, out));
}

static void rope_table_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_rope_table_cpu(chunk_begin(item), chunk_end(j, item), j->rope, j->out);
}

/* Makes the table reach n_positions of this rope. */
static int rope_prepare(struct cpu_backend *be, const struct gd_rope *rope, uint32_t n_positions)
{
    size_t freq_bytes = rope->head_dim / 2 * sizeof(float);
    bool same = be->rope.head_dim == rope->head_dim &&
                memcmp(be->rope_inv_freq, rope->inv_freq, freq_bytes) == 0;
    if (same && n_positions <= be->rope_positions) {
        return GD_OK;
    }
    uint32_t n = 1024;
    while (n < n_positions) {
        n *= 2;
    }
    be->rope_positions = 0;
    free(be->rope_table);
    be->rope_table = cpu_buffer_alloc(&be->base, (size_t)n * rope->head_dim * sizeof(float));
    if (be->rope_table == NULL) {
        return GD_ENOMEM;
    }
    memcpy(be->rope_inv_freq, rope->inv_freq, freq_bytes);
    be->rope = (struct gd_rope){.head_dim = rope->head_dim, .inv_freq = be->rope_inv_freq};
    struct row_job job = {.rows = n, .rope = &be->rope, .out = be->rope_table};
    run_rows(&be->base, &job, rope_table_item);
    be->rope_positions = n;
    return GD_OK;
}

static void rope_kv_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_rope_kv_cpu(chunk_begin(item), chunk_end(j, item), j->b, j->shape, j->src, j->x, &j->kv);
}

static int cpu_rope_kv(struct gd_backend *be, const struct gd_batch *b,
                       const struct gd_attn_shape *s, const struct gd_rope *rope, float *qkv,
                       struct gd_kv *kv, uint32_t layer)
{
    struct cpu_backend *cpu = cpu_of(be);
    if (!kv_fits(kv, s, layer) || rope->head_dim != s->head_dim) {
        return cpu_result(cpu, GD_EBACKEND);
    }
    int32_t last = 0;
    for (uint32_t t = 0; t < b->n_tokens; t++) {
        last = b->positions[t] > last ? b->positions[t] : last;
    }
    int rc = rope_prepare(cpu, rope, (uint32_t)last + 1);
    if (rc != GD_OK) {
        return cpu_result(cpu, rc);
    }
    struct row_job job = {.rows = b->n_tokens,
                          .b = b,
                          .shape = s,
                          .src = cpu->rope_table,
                          .x = qkv,
                          .kv = kv_layer(kv, layer)};
    run_rows(be, &job, rope_kv_item);
    return GD_OK;
}

static void attention_item(void *ctx, uint32_t item, uint32_t thread)
{
    const struct row_job *j = ctx;
    gdk_attention_cpu(item, j->b, j->shape, j->src, &j->kv, j->out, &j->scratch[thread]);
}

static int cpu_attention(struct gd_backend *be, const struct gd_batch *b,
                         const struct gd_attn_shape *s, const float *qkv, const struct gd_kv *kv,
                         uint32_t layer, float *out)
{
    struct cpu_backend *cpu = cpu_of(be);
    if (!kv_fits(kv, s, layer)) {
        return cpu_result(cpu, GD_EBACKEND);
    }
    struct row_job job = {.b = b,
                          .shape = s,
                          .src = qkv,
                          .kv = kv_layer(kv, layer),
                          .out = out,
                          .scratch = cpu->scratch};
    gd_pool_run(cpu->pool, gdk_attention_items(b, s), attention_item, &job);
    return GD_OK;
}

static void swiglu_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *j = ctx;
    gdk_swiglu_cpu(chunk_begin(item), chunk_end(j, item), j->dim, j->src, j->out);
}

static int cpu_swiglu(struct gd_backend *be, uint32_t rows, uint32_t ffn, const float *gate_up,
                      float *out)
{
    struct row_job job = {.rows = rows, .dim = ffn, .src = gate_up, .out = out};
    run_rows(be, &job, swiglu_item);
    return GD_OK;
}

static int cpu_gather_rows(struct gd_backend *be, uint32_t n_rows, uint32_t dim,
                           const uint32_t *index, const float *src, float *dst)
{
    (void)be;
    gdk_gather_rows_cpu(0, n_rows, dim, index, src, dst);
    return GD_OK;
}

static int cpu_choice_logits(struct gd_backend *be, uint32_t dim, const float *hidden,
                             const struct gd_table *t, uint32_t n_ids, const int32_t *ids,
                             float *logits)
{
    int rc = cpu_sync(be);
    if (rc == GD_OK) {
        gdk_choice_logits_cpu(dim, hidden, t->dtype, t->rows, n_ids, ids, logits);
    }
    return rc;
}

/* ---- start and end ---- */

static void cpu_close(struct gd_backend *be)
{
    struct cpu_backend *cpu = cpu_of(be);
    gdk_gemm_close(cpu->gemm);
    gd_pool_close(cpu->pool);
    free(cpu->scratch);
    free(cpu->rope_table);
    free(cpu);
}

static const struct gd_backend_ops CPU_OPS = {
    .close = cpu_close,
    .buffer_alloc = cpu_buffer_alloc,
    .buffer_free = cpu_buffer_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .sync = cpu_sync,
    .weight_load = cpu_weight_load,
    .weight_free = cpu_weight_free,
    .table_load = cpu_table_load,
    .table_free = cpu_table_free,
    .weight_bytes = cpu_weight_bytes,
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
                                    .step_tokens = STEP_TOKENS_PER_THREAD * n_threads};
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

int gd_backend_selftest(struct gd_backend *be, struct gd_err *err)
{
    return gdk_gemm_selftest(cpu_of(be)->gemm, err);
}
