/* kernels.h - plain C operations behind the CPU back end: the specification of every operation of
 * backend.h.
 *
 * All activations are fp32, row-major, host memory. An operation handles rows [begin, end) of its
 * batch, so that the back end can split rows over threads. Each row's bits depend only on that
 * row's own input (attention: on its sequence up to that row), never on begin, end, other rows or
 * the thread: sums run in an order fixed by the shape alone. For kernels/ and its tests; the engine
 * sees backend.h only. */
#ifndef GUARDIAN_KERNELS_H
#define GUARDIAN_KERNELS_H

#include "guardian/backend.h"
#include "guardian/pool.h"

#include <string.h>

/* Function versions for AVX-512, AVX2 and plain x86-64, chosen at load. Sanitizers' own start-up
 * does not survive the resolvers that this needs, and clang spells it differently; there the plain
 * version is compiled alone. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) &&                             \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define GDK_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GDK_CLONES
#endif

/* exp(x) in single precision, error below 1.5 ulp; exactly 1 at 0, 0 below -104,
 * inf above 89, NaN for NaN. No branch, no table, no library call: loops over it vectorise. Splits
 * x into n ln2 + r, |r| <= ln2 / 2. */
static inline float gdk_expf(float x)
{
    x = x < -104.0f ? -104.0f : x; /* false for NaN, which goes through */
    x = x > 89.0f ? 89.0f : x;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float shifted = x * 1.44269504f + magic;
    float n = shifted - magic;
    float r = x - n * 0.693359375f; /* ln2 in two parts; the first product is exact */
    r = r - n * -2.12194440e-4f;
    float p = 1.3926184e-3f; /* (exp(r) - 1 - r) / r^2, Chebyshev interpolation */
    p = p * r + 8.36317893e-3f;
    p = p * r + 4.16665561e-2f;
    p = p * r + 1.66665763e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    /* 2^n as two factors: each is a normal number though 2^n may be subnormal or overflow. */
    uint32_t bits, magic_bits;
    memcpy(&bits, &shifted, sizeof bits);
    memcpy(&magic_bits, &magic, sizeof magic_bits);
    uint32_t biased = bits - magic_bits + 254;
    uint32_t half = biased >> 1;
    uint32_t s0 = half << 23;
    uint32_t s1 = (biased - half) << 23;
    float f0, f1;
    memcpy(&f0, &s0, sizeof f0);
    memcpy(&f1, &s1, sizeof f1);
    return p * f0 * f1;
}

/* Bytes of one element of the types that kernels read (F32, F16, BF16), else 0. */
size_t gdk_dtype_bytes(enum gd_dtype dtype);
/* dst[n] = src[n] as fp32, exact. */
void gdk_to_f32_cpu(size_t n, enum gd_dtype dtype, const void *src, float *dst);

/* Activations. The CPU back end knows only data, which is fp32 of every kind. */
struct gd_rows {
    void *data;         /* [rows, dim] */
    float *scales;      /* CUDA, of FP8: [rows] */
    int type;           /* CUDA: enum gdk_type of cuda_ops.h */
    uint32_t rows, dim; /* CUDA: room, padding included */
};

/* Rows of the embedding: out[begin..end, k] of rows[vocab, k] at tokens[begin..end]. */
void gdk_embed_cpu(uint32_t begin, uint32_t end, uint32_t k, enum gd_dtype dtype, const void *rows,
                   const int32_t *tokens, float *out);

/* x += delta (may be NULL); out = x / sqrt(mean(x^2) + eps) * weight, NaN where the squares
 * overflow. x, delta, out: [.., dim]. */
void gdk_add_rmsnorm_cpu(uint32_t begin, uint32_t end, uint32_t dim, float *x, const float *delta,
                         const float *weight, float eps, float *out);

/* Rows begin..end of table[n_positions, head_dim]: cosines of position * inv_freq, then sines. The
 * angle is rounded to fp32 as the published models were trained. */
void gdk_rope_table_cpu(uint32_t begin, uint32_t end, uint32_t head_dim, const float *inv_freq,
                        float *table);

/* Keys and values of one layer in the paged cache of the CPU back end. pad: head_dim rounded up to 16;
 * the elements from head_dim on are 0 from the start and never written. Positions of a block that no
 * token has written hold anything, NaN too, and change nothing. */
struct gdk_kv_layer {
    float *k; /* [n_blocks, n_kv_heads, pad, GD_KV_BLOCK_TOKENS]: transposed, as scores read it */
    float *v; /* [n_blocks, n_kv_heads, GD_KV_BLOCK_TOKENS, pad] */
};
static inline uint32_t gdk_kv_pad(uint32_t head_dim)
{
    return (head_dim + 15u) / 16u * 16u;
}

/* Token rows begin..end of the batch: see gd_backend_ops.rope_kv. table holds all positions of the
 * batch. */
void gdk_rope_kv_cpu(uint32_t begin, uint32_t end, const struct gd_batch *b,
                     const struct gd_attn_shape *s, const float *table, float *qkv,
                     const struct gdk_kv_layer *kv);

/* Attention is split into items: one key/value head and up to GDK_ATTN_ROWS rows of one sequence; a
 * row is one query head of one token. Keys are taken in tiles of GDK_ATTN_KEYS positions, counted
 * from the start of the sequence. Late items of a sequence take longest: hand out high numbers
 * first, as a pool does. */
#define GDK_ATTN_ROWS 48u     /* a multiple of GDK_ATTN_TILE_ROWS */
#define GDK_ATTN_TILE_ROWS 6u /* rows whose sums are in registers at one time */
#define GDK_ATTN_KEYS 64u
#define GDK_ATTN_LANES 16u /* floats of the widest vector */
#define GDK_HEAD_DIM_MAX ((uint32_t)GD_MODEL_HEAD_DIM_MAX)
struct gdk_attention_scratch { /* of one thread, 64-byte aligned */
    float q[GDK_ATTN_ROWS * GDK_HEAD_DIM_MAX];
    float acc[GDK_ATTN_ROWS * GDK_HEAD_DIM_MAX];
    float p[GDK_ATTN_TILE_ROWS * GDK_ATTN_KEYS]; /* scores, then weights */
    float max[GDK_ATTN_ROWS + GDK_ATTN_LANES];
    float sum[GDK_ATTN_ROWS * GDK_ATTN_LANES]; /* of each row, in parts */
};
uint32_t gdk_attention_items(const struct gd_batch *b, const struct gd_attn_shape *s);
void gdk_attention_cpu(uint32_t item, const struct gd_batch *b, const struct gd_attn_shape *s,
                       const float *qkv, const struct gdk_kv_layer *kv, float *out,
                       struct gdk_attention_scratch *w);

/* out = silu(gate) * up */
void gdk_swiglu_cpu(uint32_t begin, uint32_t end, uint32_t ffn, const float *gate_up, float *out);

/* Rows begin..end of src[.., dim] as FP8 e4m3 (sign, 4 bits of exponent, 3 of mantissa, bias 7; no
 * infinity, 0x7f and 0xff are NaN) with one scale a row: value = number * scale. scale = largest |x|
 * / 448, at least 2^-126 so that 1 / scale is finite, or 1 for a row of zeros; number = x * (1 /
 * scale). Each operation rounds to fp32 and none can be contracted, so that every device gives the
 * same bits. A row with a number that is not finite: scale and all numbers are NaN. */
void gdk_quantize_cpu(uint32_t begin, uint32_t end, uint32_t dim, const float *src, uint8_t *dst,
                      float *scales);
float gdk_e4m3_value(uint8_t bits); /* exact */
uint8_t gdk_e4m3_of(float x);       /* nearest even, beyond 448 to 448; any NaN is 0x7f */

void gdk_gather_rows_cpu(uint32_t begin, uint32_t end, uint32_t dim, const uint32_t *index,
                         const float *src, float *dst);
/* logits[n] = dot products of hidden[.., dim] with rows[vocab, dim], as the choices say. */
void gdk_choice_logits_cpu(uint32_t n, const struct gd_choice *choices, uint32_t dim,
                           const float *hidden, enum gd_dtype dtype, const void *rows,
                           float *logits);

/* out[begin..end, n] = a[.., k] * w[n, k]^T + bias: what gdk_gemm_run computes, for tests. */
void gdk_gemm_cpu(uint32_t begin, uint32_t end, uint32_t n, uint32_t k, const float *a,
                  const float *w, const float *bias, float *out);

/* gemm.c: matrix products, in fp32 or, with oneDNN on AMX, in bf16. One instance, one calling thread; see
 * the head of the file. */
struct gdk_gemm;
bool gdk_gemm_amx_usable(void); /* asks the kernel for the permission; call before threads start */
const char *gdk_gemm_isa(void);
int gdk_gemm_open(struct gdk_gemm **out, struct gd_pool *pool, bool bf16, struct gd_err *err);
void gdk_gemm_close(struct gdk_gemm *g);
int gdk_gemm_weight_load(struct gdk_gemm *g, uint32_t n, uint32_t k, enum gd_dtype dtype,
                         const void *rows, const float *bias, struct gd_weight **out,
                         struct gd_err *err);
void gdk_gemm_weight_free(struct gd_weight *w);
size_t gdk_gemm_weight_bytes(const struct gd_weight *w); /* held by one weight */
size_t gdk_gemm_plan_bytes(const struct gdk_gemm *g, uint32_t n, uint32_t k); /* upper bound */
int gdk_gemm_run(struct gdk_gemm *g, uint32_t rows, const float *a, const struct gd_weight *w,
                 float *out);
int gdk_gemm_selftest(struct gdk_gemm *g, struct gd_err *err);

/* gd_backend_cpu_open with the type of the packed weights chosen by the caller. */
int gdk_backend_cpu_open(struct gd_backend **out, uint32_t n_threads, bool bf16,
                         struct gd_err *err);

#endif
