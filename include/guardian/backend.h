/* backend.h - the small table of operations between the engine and the devices; the only thing
 * kernels/ exports.
 *
 * One instance, used by one thread (the engine's worker, after start-up). Operations are queued in
 * order and may run later; only download and sync wait. Buffers are device memory. Activations are
 * fp32 on the CPU. All matrices are row-major. A batch is packed: the new tokens of all its
 * sequences one after another, without padding.
 *
 * Deterministic scores: for one build, device and instruction set each row of each result has the
 * same bits whatever other rows are in the batch, in which order, however many threads work, into
 * which chunks its sequence is cut, and which of its blocks another sequence has filled.
 *
 * Every operation has a plain C twin in kernels/<op>.c (gdk_<op>_cpu) that is its specification. */
#ifndef GUARDIAN_BACKEND_H
#define GUARDIAN_BACKEND_H

#include "guardian/limits.h"
#include "guardian/safetensors.h" /* enum gd_dtype */
#include "guardian/status.h"

struct gd_weight; /* a packed matrix [n, k] for gemm; the back end chooses dtype and layout */
struct gd_table;  /* rows [n, k] kept readable one by one: embedding, LM head */

/* RoPE of a model: inverse frequencies with any scaling already applied. */
struct gd_rope {
    uint32_t head_dim;
    const float *inv_freq; /* [head_dim / 2] fp32, host memory, lives as long as the model */
};

/* The paged KV cache of all layers: blocks of GD_KV_BLOCK_TOKENS tokens, numbered from 0. Layout and
 * number type are the back end's. */
struct gd_kv;

/* What every operation of one step needs to know about the packed batch. All arrays are host memory
 * and stay unchanged until the step's sync.
 *
 * A sequence takes part with some tokens in a row (a chunk): their positions count up by one from
 * the position of the first. Keys and values of all earlier positions are in the cache already, or
 * are written in this step by another sequence whose table has the same block. */
struct gd_batch {
    uint32_t n_tokens;
    uint32_t n_seqs;
    const int32_t *tokens;     /* [n_tokens] ids, each in 0..vocab-1 (the engine has checked) */
    const int32_t *positions;  /* [n_tokens] position in its sequence */
    const uint32_t *seq_start; /* [n_seqs + 1] first token of each sequence in the packed order */
    /* Block tables one after another: entry i of a sequence's table is the block of its positions
     * i * GD_KV_BLOCK_TOKENS on; the last entry is that of its last token. */
    const uint32_t *blocks;      /* [block_start[n_seqs]] */
    const uint32_t *block_start; /* [n_seqs + 1] */
};

struct gd_attn_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* n_heads is a multiple of n_kv_heads (GQA) */
    float scale;                            /* 1 / sqrt(head_dim) */
};

struct gd_backend;

struct gd_backend_ops {
    void (*close)(struct gd_backend *be);

    /* Device memory, 64-byte aligned. NULL when there is none left. */
    void *(*buffer_alloc)(struct gd_backend *be, size_t nbytes);
    void (*buffer_free)(struct gd_backend *be, void *p);
    int (*upload)(struct gd_backend *be, void *dst, const void *src, size_t nbytes);
    int (*download)(struct gd_backend *be, void *dst, const void *src, size_t nbytes); /* waits */
    int (*sync)(struct gd_backend *be); /* waits; GD_EBACKEND when an earlier operation failed */

    /* Packs rows[n,k] of the given dtype (host, not kept) for gemm. GD_ENOMEM, GD_EBACKEND. */
    int (*weight_load)(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                       const void *rows, struct gd_weight **out, struct gd_err *err);
    void (*weight_free)(struct gd_backend *be, struct gd_weight *w);
    /* Takes rows[n,k] over (malloc'ed, freed by table_free, or at once when this fails). */
    int (*table_load)(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                      void *rows, struct gd_table **out, struct gd_err *err);
    void (*table_free)(struct gd_backend *be, struct gd_table *t);
    /* Bytes that a packed [n,k] weight will take, for the memory plan. */
    size_t (*weight_bytes)(struct gd_backend *be, uint32_t n, uint32_t k);

    /* out[n_tokens, k] fp32 = table rows of batch->tokens */
    int (*embed)(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                 float *out);
    /* x[rows, dim] += delta[rows, dim] (delta may be NULL); out = x / sqrt(mean(x^2) + eps) *
     * weight[dim]; a row whose squares overflow becomes NaN, not zeros */
    int (*add_rmsnorm)(struct gd_backend *be, uint32_t rows, uint32_t dim, float *x,
                       const float *delta, const float *weight, float eps, float *out);
    /* out[rows, n] = a[rows, k] * w^T (+ bias[n], may be NULL) */
    int (*gemm)(struct gd_backend *be, uint32_t rows, const float *a, const struct gd_weight *w,
                const float *bias, float *out);
    /* n_blocks blocks for n_layers layers, in any state. GD_EUSAGE: none, or a head_dim that the back
     * end cannot hold; GD_ENOMEM. */
    int (*kv_open)(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                   const struct gd_attn_shape *s, struct gd_kv **out, struct gd_err *err);
    void (*kv_close)(struct gd_backend *be, struct gd_kv *kv);
    /* Bytes of one block of one layer, for the memory plan; 0 where kv_open is GD_EUSAGE. */
    size_t (*kv_block_bytes)(struct gd_backend *be, const struct gd_attn_shape *s);
    /* Copies block src over block dst in every layer. */
    int (*kv_copy)(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src);
    /* qkv[n_tokens, (n_heads + 2 n_kv_heads) * head_dim]: rotates Q in place (halves convention of
     * the Hugging Face weights), writes rotated K and V of each token to its place in kv */
    int (*rope_kv)(struct gd_backend *be, const struct gd_batch *b, const struct gd_attn_shape *s,
                   const struct gd_rope *rope, float *qkv, struct gd_kv *kv, uint32_t layer);
    /* out[n_tokens, n_heads * head_dim]: each token attends to all positions of its sequence up to
     * its own, read from kv; Q is the first part of each qkv row */
    int (*attention)(struct gd_backend *be, const struct gd_batch *b, const struct gd_attn_shape *s,
                     const float *qkv, const struct gd_kv *kv, uint32_t layer, float *out);
    /* gate_up[rows, 2 ffn] (gate first) -> out[rows, ffn] = silu(gate) * up */
    int (*swiglu)(struct gd_backend *be, uint32_t rows, uint32_t ffn, const float *gate_up,
                  float *out);
    /* dst[n_rows, dim] = src rows at index[i] (host array) */
    int (*gather_rows)(struct gd_backend *be, uint32_t n_rows, uint32_t dim, const uint32_t *index,
                       const float *src, float *dst);
    /* logits[n_ids] (host) of one normed hidden row: dot products with the table rows of ids; waits
     * */
    int (*choice_logits)(struct gd_backend *be, uint32_t dim, const float *hidden,
                         const struct gd_table *t, uint32_t n_ids, const int32_t *ids,
                         float *logits);
};

struct gd_backend {
    const struct gd_backend_ops *ops;
    const char *device;     /* "cpu" */
    const char *isa;        /* "avx512_core_amx", "avx512_core", "avx2", ... */
    const char *gemm_dtype; /* "bf16" with AMX, else "f32" */
    uint32_t n_threads;
    /* A step over more tokens is no more efficient: packing more requests only delays them. */
    uint32_t step_tokens;
    size_t weight_bytes_held;
};

/* CPU back end with n_threads threads, the calling one among them; 0: as many as the process may
 * use. */
int gd_backend_cpu_open(struct gd_backend **out, uint32_t n_threads, struct gd_err *err);

/* Checks on this machine that the tile kernel gives each row the same bits wherever it stands and
 * whoever its neighbours are. GD_EBACKEND with the shape that fails. */
int gd_backend_selftest(struct gd_backend *be, struct gd_err *err);

#endif
