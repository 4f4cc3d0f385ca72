/* kernels.c - how fast each CUDA kernel and each matrix product is, beside what the same device reaches
 * in the same run when it only copies or only multiplies.
 *
 *     bench_kernels [--device N] [--quick] [--commit HASH] [--only ops,attention,gemm]
 *
 * Shapes are those of Llama-3.1-8B. One JSON line on stdout, a table on stderr. Every time is the
 * median of 15 replays of a graph of launches, by events, without the time between graphs.
 *
 * Ceilings: a copy inside the device of 2 GB, bytes read and written; the best of the replays of a
 * product of 8192 x 8192 x 8192 in bf16 and in FP8 (its median is told too: a long load has less
 * power left). Element-wise kernels: bytes that have to be read and written, each once. Small ones work
 * in the L2 cache, as they do behind another kernel: in_l2, and their share of the ceiling may be
 * above 1. Attention: pairs of a token and a position that it sees, 4 * heads * head_dim each.
 * Products: 2 * rows * n * k; offered and equal are how many algorithms cuBLASLt offered and how
 * many kept a row's bits, over all ranges of rows. FP8 has one scale a row; fast: the tensor
 * cores' own accumulators.
 *
 * With --quick, shapes are tiny and figures mean nothing: for the stand-in of tests/simt. */
#include "kernels.h"

#include "guardian/kernels.h"

#include <getopt.h>
#include <string.h>

#define ROWS_MAX 8448u
#define SCORED_CHOICES 11u
#define POSITIONS 1000u

static const struct shapes FULL = {4096, 14336, 128256, ROWS_MAX, 8192, {32, 8, 128, 0.0883883f}};
static const struct shapes QUICK = {256, 512, 1024, 64, 64, {4, 2, 64, 0.125f}};

/* ---- one operation ---- */

enum op { EMBED, NORM, NORM_FP8, ROPE_KV, SWIGLU, SWIGLU_FP8, QUANTIZE, GATHER, CHOICE, N_OPS };
static const char *const OP_NAMES[] = {"embed",    "add_rmsnorm", "add_rmsnorm_fp8",
                                       "rope_kv",  "swiglu",      "swiglu_fp8",
                                       "quantize", "gather_rows", "choice_logits"};

/* The buffers of one set; which are used depends on the operation. */
struct set {
    void *in, *x, *out;
    float *scales;
};

struct work {
    const struct shapes *s;
    enum op op;
    uint32_t rows;
    struct gdk_cuda_batch batch;
    const struct gd_choice *choices;
    const float *weight, *rope;
    const gdk_bf16 *table;
    struct set sets[GPU_SETS_MAX];
};

static cudaError_t run_op(struct gpu *g, void *ctx, uint32_t at)
{
    const struct work *w = ctx;
    const struct shapes *s = w->s;
    const struct set *b = &w->sets[at];
    bool fp8 = w->op == NORM_FP8 || w->op == SWIGLU_FP8;
    struct gdk_cuda_out out = {
        .data = b->out, .scales = fp8 ? b->scales : NULL, .type = fp8 ? GDK_E4M3 : GDK_BF16};
    switch (w->op) {
    case EMBED:
        return gdk_embed_cuda(g->stream, &w->batch, s->dim, w->table, b->out);
    case NORM:
    case NORM_FP8:
        return gdk_add_rmsnorm_cuda(g->stream, w->rows, s->dim, b->x, b->in, w->weight, 1e-5f, out);
    case ROPE_KV:
        return gdk_rope_kv_cuda(g->stream, &w->batch, &s->heads, w->rope, b->in, b->out);
    case SWIGLU:
    case SWIGLU_FP8:
        return gdk_swiglu_cuda(g->stream, w->rows, s->ffn, b->in, out);
    case QUANTIZE:
        return gdk_quantize_cuda(g->stream, w->rows, s->dim, s->dim, b->in, b->out, b->scales);
    case GATHER:
        return gdk_gather_rows_cuda(g->stream, &w->batch, s->dim * 4, b->in, b->out);
    default:
        return gdk_choice_logits_cuda(g->stream, w->rows * SCORED_CHOICES, w->choices, s->dim,
                                      b->in, w->table, b->out);
    }
}

/* Bytes of a set's buffers, and what the operation has to read and write. */
struct traffic {
    size_t in, x, out;
    double moved;
};

static struct traffic traffic_of(const struct shapes *s, enum op op, uint32_t rows)
{
    const size_t n = rows, dim = s->dim, ffn = s->ffn, qkv = qkv_dim(s);
    struct traffic t = {0, 0, 0, 0};
    switch (op) {
    case EMBED:
        t.out = n * dim * 4;
        t.moved = (double)(n * dim * 2 + t.out);
        return t;
    case NORM:
    case NORM_FP8:
        t = (struct traffic){n * dim * 2, n * dim * 4, n * dim * (op == NORM ? 2u : 1u), 0};
        t.moved = (double)(t.in + 2 * t.x + t.out);
        return t;
    case ROPE_KV:
        t = (struct traffic){n * qkv * 2, 0, 0, 0};
        t.out = (n + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS * GD_KV_BLOCK_TOKENS *
                s->heads.n_kv_heads * s->heads.head_dim * 4;
        t.moved = (double)(2 * t.in + n * s->heads.head_dim * 4);
        return t;
    case SWIGLU:
    case SWIGLU_FP8:
        t = (struct traffic){n * ffn * 4, 0, n * ffn * (op == SWIGLU ? 2u : 1u), 0};
        break;
    case QUANTIZE:
        t = (struct traffic){n * dim * 2, 0, n * dim, 0};
        break;
    case GATHER: /* of a step of 32 times as many tokens */
        t = (struct traffic){32 * n * dim * 4, 0, n * dim * 4, 0};
        t.moved = 2.0 * (double)t.out;
        return t;
    default:
        t = (struct traffic){n * dim * 4, 0, n * SCORED_CHOICES * 4, 0};
        t.moved = (double)(t.in + SCORED_CHOICES * dim * 2);
        return t;
    }
    t.moved = (double)(t.in + t.out);
    return t;
}

/* Tokens of many short sequences, their places in the cache in order. */
static int upload_rows(struct bench *b, struct work *w, uint32_t rows)
{
    static struct gdk_token tokens[ROWS_MAX];
    static struct gd_choice choices[64 * SCORED_CHOICES];
    static float inv_freq[64], rope[POSITIONS * 128];
    struct bench_rng r = {rows};
    for (uint32_t i = 0; i < b->s->heads.head_dim / 2; i++) {
        inv_freq[i] = 1.0f / (float)(i + 1);
    }
    gdk_rope_table_cpu(0, POSITIONS, b->s->heads.head_dim, inv_freq, rope);
    for (uint32_t i = 0; i < rows; i++) {
        tokens[i] = (struct gdk_token){.id = (int32_t)bench_rng_below(&r, b->s->vocab),
                                       .position = (int32_t)(i % POSITIONS),
                                       .slot = i,
                                       .place = 32 * i + 31};
    }
    for (uint32_t i = 0; i < 64 * SCORED_CHOICES; i++) {
        choices[i] =
            (struct gd_choice){.row = i / SCORED_CHOICES, .id = (int32_t)(i % SCORED_CHOICES)};
    }
    w->batch = (struct gdk_cuda_batch){.tokens = gpu_upload(&b->g, tokens, rows * sizeof *tokens),
                                       .n_rows = rows};
    w->choices = gpu_upload(&b->g, choices, sizeof choices);
    w->weight = gpu_take(&b->g, b->s->dim * sizeof(float));
    w->rope = gpu_upload(&b->g, rope, (size_t)POSITIONS * b->s->heads.head_dim * sizeof *rope);
    w->table = gpu_take(&b->g, (size_t)b->s->vocab * b->s->dim * sizeof(gdk_bf16));
    return w->batch.tokens != NULL && w->choices != NULL && w->rope != NULL && w->table != NULL
               ? GD_OK
               : gd_err_set(b->err, GD_ENOMEM, "the memory to measure in is too small");
}

static void put_bandwidth(struct bench *b, double us, double moved, bool in_l2)
{
    double gbs = moved / us / 1e3;
    bench_json_put(&b->w, "us", us);
    bench_json_put(&b->w, "gb_per_s", gbs);
    bench_json_put(&b->w, "of_copy", gbs / b->copy_gbs);
    gd_jw_put_bool(&b->w, "in_l2", in_l2);
}

static int measure_op(struct bench *b, enum op op, uint32_t rows)
{
    static struct work w;
    struct traffic t = traffic_of(b->s, op, rows);
    struct gpu_time time;
    w = (struct work){.s = b->s, .op = op, .rows = rows};
    int rc = gpu_reset(&b->g, b->err);
    rc = rc != GD_OK ? rc : upload_rows(b, &w, rows);
    if (rc != GD_OK) {
        return rc;
    }
    size_t scales = rows * sizeof(float), set_bytes = t.in + t.x + t.out + scales;
    uint32_t n = gpu_sets(&b->g, set_bytes);
    for (uint32_t i = 0; i < n; i++) {
        w.sets[i] = (struct set){gpu_take(&b->g, t.in), gpu_take(&b->g, t.x),
                                 gpu_take(&b->g, t.out), gpu_take(&b->g, scales)};
        if (w.sets[i].scales == NULL) {
            return gd_err_set(b->err, GD_ENOMEM, "the memory to measure in is too small");
        }
    }
    rc = gpu_measure(&b->g, run_op, &w, n, &time, b->err);
    if (rc != GD_OK) {
        return rc;
    }
    bool in_l2 = (double)set_bytes * n < (double)GPU_ROTATE_BYTES;
    gd_jw_object(&b->w);
    gd_jw_put_str(&b->w, "op", OP_NAMES[op]);
    gd_jw_put_i64(&b->w, "rows", rows);
    put_bandwidth(b, time.us, t.moved, in_l2);
    gd_jw_object_end(&b->w);
    fprintf(stderr, "%-16s %5u rows %9.2f us %8.0f GB/s %4.0f %% of a copy%s\n", OP_NAMES[op], rows,
            time.us, t.moved / time.us / 1e3, t.moved / time.us / 10 / b->copy_gbs,
            in_l2 ? " (L2)" : "");
    return GD_OK;
}

static int measure_ops(struct bench *b)
{
    static const uint32_t full[] = {1, 16, 64, 320, 512, 2112, 4224, 8448, 0}, quick[] = {1, 20, 0};
    gd_jw_key(&b->w, "ops");
    gd_jw_array(&b->w);
    for (enum op op = 0; op < N_OPS; op++) {
        for (const uint32_t *rows = b->g.quick ? quick : full; *rows != 0; rows++) {
            bool scored_only = op == GATHER || op == CHOICE;
            int rc = scored_only && *rows > 64 ? GD_OK : measure_op(b, op, *rows);
            if (rc != GD_OK) {
                return rc;
            }
        }
    }
    gd_jw_array_end(&b->w);
    return GD_OK;
}

/* ---- attention ---- */

struct attention {
    uint32_t n_new, n_seqs, n_cached; /* new tokens of all sequences, cached ones of each */
};

struct attention_work {
    const struct shapes *s;
    struct gdk_cuda_batch batch;
    struct {
        gdk_bf16 *qkv, *kv, *out;
    } sets[GPU_SETS_MAX];
};

static cudaError_t run_attention(struct gpu *g, void *ctx, uint32_t at)
{
    const struct attention_work *w = ctx;
    return gdk_attention_cuda(g->stream, &w->batch, &w->s->heads, w->sets[at].qkv, w->sets[at].kv,
                              w->sets[at].out, w->s->heads.n_heads * w->s->heads.head_dim);
}

#define TILES_MAX 4096u
#define ENTRIES_MAX 16384u

/* Tiles and block tables of the sequences, late tiles first; *blocks: blocks of all. */
static int upload_sequences(struct bench *b, const struct attention *a, struct attention_work *w,
                            uint32_t *blocks, double *pairs)
{
    static struct gdk_attn_tile tiles[TILES_MAX];
    static uint32_t entries[ENTRIES_MAX];
    uint32_t group = b->s->heads.n_heads / b->s->heads.n_kv_heads, n_tiles = 0, first = 0;
    *blocks = 0;
    *pairs = 0;
    for (uint32_t i = 0; i < a->n_seqs; i++) {
        uint32_t n = a->n_new / a->n_seqs + (i < a->n_new % a->n_seqs);
        uint32_t n_blocks = (a->n_cached + n + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS;
        uint32_t n_mine = (n * group + GDK_CUDA_ATTN_ROWS - 1) / GDK_CUDA_ATTN_ROWS;
        if (n_tiles + n_mine > TILES_MAX || *blocks + n_blocks > ENTRIES_MAX) {
            return gd_err_set(b->err, GD_EUSAGE, "so many sequences have no room");
        }
        for (uint32_t k = n_mine; k-- > 0;) {
            tiles[n_tiles++] = (struct gdk_attn_tile){.first = first,
                                                      .n_tokens = n,
                                                      .position = a->n_cached,
                                                      .row = k * GDK_CUDA_ATTN_ROWS,
                                                      .blocks = *blocks};
        }
        for (uint32_t k = 0; k < n_blocks; k++) {
            entries[*blocks + k] = *blocks + k;
        }
        *blocks += n_blocks;
        first += n;
        *pairs += (double)n * a->n_cached + (double)n * (n + 1) / 2;
    }
    w->batch =
        (struct gdk_cuda_batch){.tiles = gpu_upload(&b->g, tiles, n_tiles * sizeof *tiles),
                                .blocks = gpu_upload(&b->g, entries, *blocks * sizeof *entries),
                                .n_rows = a->n_new,
                                .n_tiles = n_tiles};
    return w->batch.tiles != NULL && w->batch.blocks != NULL
               ? GD_OK
               : gd_err_set(b->err, GD_ENOMEM, "the memory to measure in is too small");
}

static int measure_one_attention(struct bench *b, const struct attention *a)
{
    static struct attention_work w;
    const struct gdk_cuda_shape *h = &b->s->heads;
    uint32_t blocks = 0;
    double pairs = 0;
    struct gpu_time time;
    w = (struct attention_work){.s = b->s};
    int rc = gpu_reset(&b->g, b->err);
    rc = rc != GD_OK ? rc : upload_sequences(b, a, &w, &blocks, &pairs);
    if (rc != GD_OK) {
        return rc;
    }
    size_t block = (size_t)2 * h->n_kv_heads * GD_KV_BLOCK_TOKENS * h->head_dim * sizeof(gdk_bf16);
    size_t qkv = (size_t)a->n_new * qkv_dim(b->s) * sizeof(gdk_bf16), kv = blocks * block;
    size_t out = (size_t)a->n_new * h->n_heads * h->head_dim * sizeof(gdk_bf16);
    uint32_t n = gpu_sets(&b->g, qkv + kv + out);
    for (uint32_t i = 0; i < n; i++) {
        w.sets[i].qkv = gpu_take(&b->g, qkv);
        w.sets[i].kv = gpu_take(&b->g, kv);
        w.sets[i].out = gpu_take(&b->g, out);
        if (w.sets[i].out == NULL) {
            return gd_err_set(b->err, GD_ENOMEM, "the memory to measure in is too small");
        }
    }
    rc = gpu_measure(&b->g, run_attention, &w, n, &time, b->err);
    if (rc != GD_OK) {
        return rc;
    }
    double tflops = 4e-6 * pairs * h->n_heads * h->head_dim / time.us;
    double moved = (double)kv + (double)a->n_new * h->n_heads * h->head_dim * 4;
    gd_jw_object(&b->w);
    gd_jw_put_i64(&b->w, "new_tokens", a->n_new);
    gd_jw_put_i64(&b->w, "sequences", a->n_seqs);
    gd_jw_put_i64(&b->w, "cached_each", a->n_cached);
    put_bandwidth(b, time.us, moved, false);
    bench_json_put(&b->w, "tflops", tflops);
    if (b->tflops[0] > 0) {
        bench_json_put(&b->w, "of_bf16", tflops / b->tflops[0]);
    }
    gd_jw_object_end(&b->w);
    fprintf(stderr, "attention %5u new in %2u, %4u cached each %9.2f us %7.1f TFLOP/s %8.0f GB/s\n",
            a->n_new, a->n_seqs, a->n_cached, time.us, tflops, moved / time.us / 1e3);
    return GD_OK;
}

static int measure_attention(struct bench *b)
{
    static const struct attention full[] = {{300, 1, 700}, {2112, 7, 700}, {64, 64, 1000},
                                            {1000, 1, 0},  {4096, 1, 0},   {8448, 28, 700},
                                            {0, 0, 0}};
    static const struct attention quick[] = {{5, 1, 20}, {3, 3, 33}, {0, 0, 0}};
    gd_jw_key(&b->w, "attention");
    gd_jw_array(&b->w);
    for (const struct attention *a = b->g.quick ? quick : full; a->n_seqs != 0; a++) {
        int rc = measure_one_attention(b, a);
        if (rc != GD_OK) {
            return rc;
        }
    }
    gd_jw_array_end(&b->w);
    return GD_OK;
}

/* ---- all of it ---- */

static int measure_all(struct bench *b)
{
    const char *only = b->only;
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    gd_jw_object(&b->w);
    gd_jw_put_str(&b->w, "bench", "kernels");
    gd_jw_put_str(&b->w, "commit", b->commit);
#ifdef GDK_SIMT
    gd_jw_put_str(&b->w, "device_name", "simt");
#else
    gd_jw_put_str(&b->w, "device_name", b->g.prop.name);
#endif
    gd_jw_put_i64(&b->w, "sm", b->g.prop.major * 10 + b->g.prop.minor);
    gd_jw_put_i64(&b->w, "multiprocessors", b->g.prop.multiProcessorCount);
    gd_jw_put_i64(&b->w, "cuda_driver", driver);
    gd_jw_put_i64(&b->w, "cuda_runtime", runtime);
    int rc = measure_ceilings(b);
    if (rc == GD_OK && (only == NULL || strstr(only, "ops") != NULL)) {
        rc = measure_ops(b);
    }
    if (rc == GD_OK && (only == NULL || strstr(only, "attention") != NULL)) {
        rc = measure_attention(b);
    }
    if (rc == GD_OK && (only == NULL || strstr(only, "gemm") != NULL)) {
        rc = measure_products(b);
    }
    if (rc == GD_OK) {
        bench_json_print(&b->w);
    }
    return rc;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"device", required_argument, NULL, 'd'},
                                          {"quick", no_argument, NULL, 'q'},
                                          {"commit", required_argument, NULL, 'c'},
                                          {"only", required_argument, NULL, 'o'},
                                          {NULL, 0, NULL, 0}};
    static struct bench b;
    struct gd_err err = {0};
    struct gd_buf out;
    uint64_t device = 0;
    bool quick = false, ok = true;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1 && ok;) {
        quick |= c == 'q';
        b.commit = c == 'c' ? optarg : b.commit;
        b.only = c == 'o' ? optarg : b.only;
        ok = c != '?' && (c != 'd' || bench_number(optarg, 1000, &device));
    }
    if (!ok || optind != argc) {
        fprintf(stderr,
                "usage: %s [--device N] [--quick] [--commit HASH] [--only ops,attention,gemm]\n",
                argv[0]);
        return 2;
    }
    b.s = quick ? &QUICK : &FULL;
    b.err = &err;
    gd_buf_init(&out, 4 * GD_MIB);
    gd_json_writer_init(&b.w, &out);
    int rc = gpu_open(&b.g, (int)device, quick, &err);
    rc = rc != GD_OK ? rc : measure_all(&b);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    gpu_close(&b.g);
    gd_buf_free(&out);
    return rc == GD_OK ? 0 : 1;
}
