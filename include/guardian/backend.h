/* backend.h - the small table of operations between the engine and the devices; the only thing
 * kernels/ exports.
 *
 * One instance, used by one thread (the engine's worker, after start-up). Operations are queued in
 * order and may run later: what they read stays unchanged until step_end, and only step_end,
 * choice_logits and rows_read wait. All matrices are row-major. A batch is packed: the new tokens of
 * all its sequences one after another, without padding.
 *
 * Deterministic scores: for one build, device, instruction set and dtype each row of each result has
 * the same bits whatever other rows are in the batch, in which order, however many threads work,
 * into which chunks its sequence is cut, and which of its blocks another sequence has filled.
 *
 * Every operation has a plain C twin in kernels/<op>.c (gdk_<op>_cpu) that is its specification. */
#ifndef GUARDIAN_BACKEND_H
#define GUARDIAN_BACKEND_H

#include "guardian/limits.h"
#include "guardian/safetensors.h" /* enum gd_dtype */
#include "guardian/status.h"

#include <stdbool.h>
#include <stdint.h>

/* A packed matrix [n, k] for gemm, and its bias; dtype and layout are the back end's. */
struct gd_weight;
struct gd_table;  /* rows [n, k] kept readable one by one: embedding, LM head */
struct gd_vector; /* fp32 in device memory: the weight of a norm */

/* Activations: rows of numbers in device memory, of up to the dim that they were opened with; an
 * operation says how many rows of which dim it means, densely packed. The number type is the kind's
 * and the back end's. */
struct gd_rows;
enum gd_rows_kind {
    GD_ROWS_F32,     /* fp32 on every device: the residual stream, the rows that are scored */
    GD_ROWS_PRODUCT, /* what gemm gives: fp32 on the CPU, bf16 on CUDA */
    GD_ROWS_OPERAND, /* what gemm takes: fp32; bf16, or FP8 e4m3 with one scale a row, on CUDA */
};

/* RoPE of a model: inverse frequencies with any scaling already applied. */
struct gd_rope {
    const float *inv_freq; /* [head_dim / 2] fp32, host memory */
    uint32_t n_positions;  /* positions that a sequence may have */
};

/* The paged KV cache of all layers: blocks of GD_KV_BLOCK_TOKENS tokens, numbered from 0, and the
 * rotations of its keys. Layout and number type are the back end's. */
struct gd_kv;

/* What every operation of one step needs to know about the packed batch. All arrays are host memory
 * and stay unchanged until step_end.
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
    /* Of a batch of single tokens that are part of another batch: their places there, rising. */
    const uint32_t *places; /* [n_tokens], or NULL */
};

/* What step_begin says of the step. */
struct gd_step_rows {
    /* Rows that each operation on the batch, and on the scored tokens, is to be called with. At least
     * the tokens that there are: a back end may ask for more, whose values are anything. */
    uint32_t tokens, scored;
    bool recorded; /* the operations of such a step are known: do not call them, only step_end */
};

/* A number wanted of a step: row `row` of the scored rows times row `id` of the LM head. */
struct gd_choice {
    uint32_t row;
    int32_t id;
};

struct gd_attn_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* n_heads is a multiple of n_kv_heads (GQA) */
    float scale;                            /* 1 / sqrt(head_dim) */
};

struct gd_backend;

struct gd_backend_ops {
    void (*close)(struct gd_backend *be);

    /* ---- memory; before the first step and after the last ---- */

    /* Bytes of device memory that may still be taken. */
    uint64_t (*memory_left)(struct gd_backend *be);
    /* NULL when there is no memory left. The bytes that it would take, for the memory plan. */
    struct gd_rows *(*rows_open)(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                                 uint32_t dim);
    void (*rows_close)(struct gd_backend *be, struct gd_rows *r);
    uint64_t (*rows_bytes)(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                           uint32_t dim);
    /* The first n rows of dim as fp32, from and to host memory; wait. For tests and taps. An FP8
     * operand is read as value * scale, and cannot be written. */
    int (*rows_read)(struct gd_backend *be, const struct gd_rows *r, uint32_t n, uint32_t dim,
                     float *host);
    int (*rows_write)(struct gd_backend *be, struct gd_rows *r, uint32_t n, uint32_t dim,
                      const float *host);

    /* Copies values[n]; NULL when there is no memory left. */
    struct gd_vector *(*vector_load)(struct gd_backend *be, uint32_t n, const float *values);
    void (*vector_free)(struct gd_backend *be, struct gd_vector *v);
    /* Packs rows[n, k] of the given dtype and bias[n] (NULL: none), host memory, not kept. GD_ENOMEM,
     * GD_EUSAGE a shape or dtype that the back end cannot multiply, GD_EBACKEND. */
    int (*weight_load)(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                       const void *rows, const float *bias, struct gd_weight **out,
                       struct gd_err *err);
    void (*weight_free)(struct gd_backend *be, struct gd_weight *w);
    /* Takes rows[n,k] over (malloc'ed, freed by table_free, or at once when this fails). */
    int (*table_load)(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                      void *rows, struct gd_table **out, struct gd_err *err);
    void (*table_free)(struct gd_backend *be, struct gd_table *t);
    /* Bytes that a packed [n, k] weight, or a table, will take, for the memory plan. */
    uint64_t (*weight_bytes)(struct gd_backend *be, uint32_t n, uint32_t k);
    uint64_t (*table_bytes)(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype);

    /* n_blocks blocks for n_layers layers, in any state. GD_EUSAGE: none, or a shape that the back
     * end's attention does not know; GD_ENOMEM. */
    int (*kv_open)(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                   const struct gd_attn_shape *s, const struct gd_rope *rope, struct gd_kv **out,
                   struct gd_err *err);
    void (*kv_close)(struct gd_backend *be, struct gd_kv *kv);
    /* Bytes of one block of one layer, for the memory plan; 0 where kv_open is GD_EUSAGE. */
    uint64_t (*kv_block_bytes)(struct gd_backend *be, const struct gd_attn_shape *s);

    /* After the weights are loaded: checks on this machine the promise of equal bits for every shape
     * of weight and up to rows_max rows, and chooses the fastest way of each that keeps it.
     * GD_EBACKEND with the shape that fails, GD_ENOMEM. */
    int (*selftest)(struct gd_backend *be, uint32_t rows_max, struct gd_err *err);

    /* ---- a step: kv_copy*, step_begin, operations, step_end, choice_logits ---- */

    /* Copies blocks src over block dst in every layer. */
    int (*kv_copy)(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src);
    /* b is the batch, scored those of its tokens that are scored (places set; none: n_tokens 0). All
     * steps with one kv use the same rows and weights. watched: the caller reads rows between
     * operations. */
    int (*step_begin)(struct gd_backend *be, const struct gd_kv *kv, const struct gd_batch *b,
                      const struct gd_batch *scored, bool watched, struct gd_step_rows *out);
    /* Ends a step, also one whose operations failed. Waits; the first failure of the step. */
    int (*step_end)(struct gd_backend *be);

    /* out[tokens, k] F32 = table rows of b->tokens. b here and below: a batch of step_begin. */
    int (*embed)(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                 struct gd_rows *out);
    /* x[rows, dim] F32 += delta[rows, dim] PRODUCT (may be NULL); out OPERAND or F32 = x /
     * sqrt(mean(x^2) + eps) * weight[dim]; a row whose squares overflow becomes NaN, not zeros */
    int (*add_rmsnorm)(struct gd_backend *be, uint32_t rows, uint32_t dim, struct gd_rows *x,
                       const struct gd_rows *delta, const struct gd_vector *weight, float eps,
                       struct gd_rows *out);
    /* out[rows, n] PRODUCT = a[rows, k] OPERAND * w^T (+ bias[n]) */
    int (*gemm)(struct gd_backend *be, uint32_t rows, const struct gd_rows *a,
                const struct gd_weight *w, struct gd_rows *out);
    /* qkv[tokens, (n_heads + 2 n_kv_heads) * head_dim] PRODUCT: rotates Q in place (halves convention
     * of the Hugging Face weights), writes rotated K and V of each token to its place in kv */
    int (*rope_kv)(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                   struct gd_kv *kv, uint32_t layer);
    /* out[tokens, n_heads * head_dim] OPERAND: each token attends to all positions of its sequence up
     * to its own, read from kv; Q is the first part of each qkv row, and may be overwritten */
    int (*attention)(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                     const struct gd_kv *kv, uint32_t layer, struct gd_rows *out);
    /* gate_up[rows, 2 ffn] PRODUCT (gate first) -> out[rows, ffn] OPERAND = silu(gate) * up */
    int (*swiglu)(struct gd_backend *be, uint32_t rows, uint32_t ffn, const struct gd_rows *gate_up,
                  struct gd_rows *out);
    /* dst[tokens, dim] = src rows at b->places; both F32 or both PRODUCT */
    int (*gather_rows)(struct gd_backend *be, const struct gd_batch *b, uint32_t dim,
                       const struct gd_rows *src, struct gd_rows *dst);
    /* logits[n] (host) = hidden row choices[i].row (F32, of dim) * table row choices[i].id; at most
     * GD_STEP_CHOICES_MAX; waits */
    int (*choice_logits)(struct gd_backend *be, uint32_t n, const struct gd_choice *choices,
                         uint32_t dim, const struct gd_rows *hidden, const struct gd_table *t,
                         float *logits);
};

struct gd_backend {
    const struct gd_backend_ops *ops;
    const char *device;     /* "cpu", "cuda:0" */
    const char *isa;        /* "avx512_core_amx", "avx512_core", "avx2", "sm_90", ... */
    const char *gemm_dtype; /* "f32", "bf16", "fp8" */
    const char *name;       /* of the device as its maker calls it; "" where nobody says */
    uint32_t n_threads;
    /* A step over more tokens is no more efficient: packing more requests only delays them. */
    uint32_t step_tokens;
    /* What the KV cache takes unless told: this share of memory_left, and this many bytes at most. */
    double kv_share;
    uint64_t kv_bytes_max;
    uint64_t weight_bytes_held;
    /* The device is lost: every operation fails with GD_EBACKEND from now on, and only a new process
     * can use it again. NULL, or why; set once, read by the thread that owns the back end. */
    const char *lost;
};

/* CPU back end with n_threads threads, the calling one among them; 0: as many as the process may
 * use. */
int gd_backend_cpu_open(struct gd_backend **out, uint32_t n_threads, struct gd_err *err);

/* CUDA device `index`. fp8: products of FP8 e4m3 with one scale a row, else bf16. On failure err is one
 * sentence that says what to do: GD_ENOTFOUND no driver, no device, or a build without CUDA;
 * GD_EBACKEND an old driver or a device that cannot; GD_ENOMEM. Steps may be on another thread than the
 * one that opens, loads and closes. */
int gd_backend_cuda_open(struct gd_backend **out, uint32_t index, bool fp8, struct gd_err *err);

#endif
