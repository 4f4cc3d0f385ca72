/* cuda_ops.h - the launchers of the CUDA kernels, one operation a .cu file; what backend_cuda.c calls.
 *
 * All pointers but the shapes are device memory, 16-byte aligned; all dims are multiples of 8. A
 * launcher queues on its stream and returns the launch's error (cudaSuccess otherwise); faults of the
 * kernel show at the next synchronisation. Reductions have one order, fixed by the shape of a row
 * alone: a row's bits depend on that row only. Each launcher computes what its plain C twin
 * gdk_<op>_cpu in kernels.h does, on the number types named here. */
#ifndef GUARDIAN_CUDA_OPS_H
#define GUARDIAN_CUDA_OPS_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint16_t gdk_bf16; /* bits of a bfloat16 */
typedef uint8_t gdk_e4m3;  /* bits of an FP8 e4m3: no infinity, 0x7f is NaN, largest 448 */

/* Limits of the kernels; backend_cuda.c refuses models beyond them. */
#define GDK_CUDA_NORM_DIM_MAX 32768u     /* add_rmsnorm */
#define GDK_CUDA_QUANTIZE_DIM_MAX 65536u /* rows with one scale each: their width */

/* What a batch is on the device. */
struct gdk_token {
    int32_t id;       /* -1: a padding row, which no sequence owns */
    int32_t position; /* in its sequence */
    uint32_t slot;    /* its place in the KV cache: block * GD_KV_BLOCK_TOKENS + offset */
    uint32_t place;   /* gather_rows: its row in the other batch; 0 for padding */
};

/* A piece of attention work: rows [row, row + GDK_CUDA_ATTN_ROWS) of one sequence, for each key/value
 * head. A row is one query head of one token: token row / group, head row % group of the group's
 * heads, group = n_heads / n_kv_heads. */
#define GDK_CUDA_ATTN_ROWS 64u
#define GDK_CUDA_ATTN_KEYS 64u /* keys are taken in tiles of this many positions from position 0 */
struct gdk_attn_tile {
    uint32_t first;     /* the sequence's first token in the packed order */
    uint32_t n_tokens;  /* its tokens in this step; 0: a padding tile, nothing to do */
    uint32_t position;  /* position of its first token */
    uint32_t row;       /* first row of the tile */
    uint32_t blocks;    /* where its block table begins in blocks */
    uint32_t unused[3]; /* to 32 bytes: what follows it in a step's layout stays aligned */
};

struct gdk_cuda_batch {
    const struct gdk_token *tokens;    /* [n_rows] */
    const struct gdk_attn_tile *tiles; /* [n_tiles] */
    const uint32_t *blocks;            /* block tables of its sequences */
    uint32_t n_rows, n_tiles;          /* padding included */
};

struct gdk_cuda_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* head_dim 64, 96 or 128 */
    float scale;
};

/* Rows that an operation writes for a product to read, or for people. */
enum gdk_type { GDK_F32, GDK_BF16, GDK_E4M3 };
struct gdk_cuda_out {
    void *data;    /* [rows, dim] of the type */
    float *scales; /* [rows] of E4M3: value = number * scale; else NULL */
    enum gdk_type type;
};

/* out[n_rows, dim] = table[id, dim]; padding rows 0 */
cudaError_t gdk_embed_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b, uint32_t dim,
                           const gdk_bf16 *table, float *out);

/* x[rows, dim] += delta (bf16, may be NULL); out (any type) = x / sqrt(mean(x^2) + eps) * weight[dim];
 * a row whose squares overflow becomes NaN. dim at most GDK_CUDA_NORM_DIM_MAX. E4M3: scaled as
 * gdk_quantize_cuda does. */
cudaError_t gdk_add_rmsnorm_cuda(cudaStream_t stream, uint32_t rows, uint32_t dim, float *x,
                                 const gdk_bf16 *delta, const float *weight, float eps,
                                 struct gdk_cuda_out out);

/* Layout of one layer of the KV cache: [n_blocks, 2 (K, V), n_kv_heads, GD_KV_BLOCK_TOKENS,
 * head_dim] bf16. */

/* qkv[n_rows, (n_heads + 2 n_kv_heads) * head_dim]: rotates Q in place and writes rotated K, and V, to
 * the tokens' slots of kv. rope: [n_positions, head_dim], cosines then sines of each position
 * (gdk_rope_table_cpu). Padding rows are left as they are. */
cudaError_t gdk_rope_kv_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b,
                             const struct gdk_cuda_shape *s, const float *rope, gdk_bf16 *qkv,
                             gdk_bf16 *kv);

/* Copies block src over block dst in every layer; layer and block: numbers from one to the next. */
cudaError_t gdk_kv_copy_cuda(cudaStream_t stream, uint32_t n_layers, size_t layer, uint32_t block,
                             gdk_bf16 *kv, uint32_t dst, uint32_t src);

/* out row t (out_stride numbers apart) [n_heads * head_dim] = attention of token t over all positions
 * of its sequence up to its own. out may be qkv itself with the same stride: a tile's Q is read
 * before its rows are written, and by no other. Positions of a block that no token has written hold
 * anything, NaN too, and change nothing. Padding rows of out are left as they are. */
cudaError_t gdk_attention_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b,
                               const struct gdk_cuda_shape *s, const gdk_bf16 *qkv,
                               const gdk_bf16 *kv, gdk_bf16 *out, uint32_t out_stride);

/* gate_up[rows, 2 ffn] (gate first) -> out[rows, ffn] (BF16 or E4M3) = silu(gate) * up */
cudaError_t gdk_swiglu_cuda(cudaStream_t stream, uint32_t rows, uint32_t ffn,
                            const gdk_bf16 *gate_up, struct gdk_cuda_out out);

/* Rows of src (src_stride numbers apart) to FP8: scale = largest |x| / 448, at least 2^-126, or 1 for a
 * row of zeros; number = x * (1 / scale), each operation rounded to fp32, then to e4m3: nearest even,
 * never beyond 448. A row with a number that is not finite gets the scale NaN, and its numbers are
 * NaN. Twin: gdk_quantize_cpu. */
cudaError_t gdk_quantize_cuda(cudaStream_t stream, uint32_t rows, uint32_t dim, uint32_t src_stride,
                              const gdk_bf16 *src, gdk_e4m3 *dst, float *scales);

/* dst row i = src row b->tokens[i].place, row_bytes (a multiple of 16) each */
cudaError_t gdk_gather_rows_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b,
                                 uint32_t row_bytes, const void *src, void *dst);

/* logits[n] = hidden[choices[i].row, dim] fp32 * table[choices[i].id, dim]; choices in device memory */
struct gd_choice;
cudaError_t gdk_choice_logits_cuda(cudaStream_t stream, uint32_t n, const struct gd_choice *choices,
                                   uint32_t dim, const float *hidden, const gdk_bf16 *table,
                                   float *logits);

#ifdef __cplusplus
}
#endif

#endif
