/* attention.c - causal attention over a packed batch, with the softmax computed along the way
 * (online softmax).
 *
 * An item is one key/value head and up to 64 tokens of one sequence; its query heads go one after
 * another. For each tile of 64 keys, counted from the start of the sequence, the keys are
 * transposed; then scores = Q K^T, the running maximum and sum of each row are updated, and acc =
 * acc * rescale + P V. Both products are one small kernel that keeps 8 rows in registers and adds
 * up its k terms one after another, so that no sum is ever reordered: a row has the same bits
 * whatever vector width computes it and whichever rows share its item. Keys after a row's own
 * position get weight 0 exactly. Non-finite scores come out as NaN. */
#include "guardian/kernels.h"

#include <math.h>

#define ROWS GDK_ATTN_ROWS
#define KEYS GDK_ATTN_KEYS
#define LANES 16u
#define TILE_ROWS 8u

/* c[8, cols] (+)= a[8, k] b[k, cols]; cols is a multiple of 16. */
struct product {
    const float *a;
    const float *b;
    float *c;
    size_t lda, ldb, ldc;
    uint32_t k, cols;
    bool accumulate;
};

typedef float vec8 __attribute__((vector_size(32)));
typedef float vec16 __attribute__((vector_size(64)));

/* The same loop for two vector widths: 8 accumulators fit the 16 registers of AVX2 and the 32 of
 * AVX-512. */
#define DEFINE_PRODUCT(name, attributes, vec)                                                      \
    attributes static void name(const struct product *p)                                           \
    {                                                                                              \
        const float *a = p->a;                                                                     \
        size_t lda = p->lda;                                                                       \
        for (uint32_t col = 0; col < p->cols; col += (uint32_t)(sizeof(vec) / sizeof(float))) {    \
            vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};    \
            const float *b = p->b + col;                                                           \
            float *c = p->c + col;                                                                 \
            if (p->accumulate) {                                                                   \
                memcpy(&s0, c, sizeof(vec));                                                       \
                memcpy(&s1, c + p->ldc, sizeof(vec));                                              \
                memcpy(&s2, c + 2 * p->ldc, sizeof(vec));                                          \
                memcpy(&s3, c + 3 * p->ldc, sizeof(vec));                                          \
                memcpy(&s4, c + 4 * p->ldc, sizeof(vec));                                          \
                memcpy(&s5, c + 5 * p->ldc, sizeof(vec));                                          \
                memcpy(&s6, c + 6 * p->ldc, sizeof(vec));                                          \
                memcpy(&s7, c + 7 * p->ldc, sizeof(vec));                                          \
            }                                                                                      \
            for (uint32_t i = 0; i < p->k; i++) {                                                  \
                vec x;                                                                             \
                memcpy(&x, b, sizeof(vec));                                                        \
                s0 += a[i] * x;                                                                    \
                s1 += a[lda + i] * x;                                                              \
                s2 += a[2 * lda + i] * x;                                                          \
                s3 += a[3 * lda + i] * x;                                                          \
                s4 += a[4 * lda + i] * x;                                                          \
                s5 += a[5 * lda + i] * x;                                                          \
                s6 += a[6 * lda + i] * x;                                                          \
                s7 += a[7 * lda + i] * x;                                                          \
                b += p->ldb;                                                                       \
            }                                                                                      \
            memcpy(c, &s0, sizeof(vec));                                                           \
            memcpy(c + p->ldc, &s1, sizeof(vec));                                                  \
            memcpy(c + 2 * p->ldc, &s2, sizeof(vec));                                              \
            memcpy(c + 3 * p->ldc, &s3, sizeof(vec));                                              \
            memcpy(c + 4 * p->ldc, &s4, sizeof(vec));                                              \
            memcpy(c + 5 * p->ldc, &s5, sizeof(vec));                                              \
            memcpy(c + 6 * p->ldc, &s6, sizeof(vec));                                              \
            memcpy(c + 7 * p->ldc, &s7, sizeof(vec));                                              \
        }                                                                                          \
    }

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define WIDE __attribute__((target("arch=x86-64-v4")))
#define NARROW __attribute__((target("arch=x86-64-v3")))
DEFINE_PRODUCT(product_v4, WIDE, vec16)
DEFINE_PRODUCT(product_v3, NARROW, vec8)
DEFINE_PRODUCT(product_base, , vec8)

static void product_run(const struct product *p)
{
    if (__builtin_cpu_supports("x86-64-v4")) {
        product_v4(p);
    } else if (__builtin_cpu_supports("x86-64-v3")) {
        product_v3(p);
    } else {
        product_base(p);
    }
}
#else
DEFINE_PRODUCT(product_run, , vec8)
#endif

/* Where an item stands in the batch. */
struct span {
    size_t first;    /* packed index of the sequence's first token */
    uint32_t q0, nq; /* query tokens, relative to first */
    uint32_t kv_head;
};

static uint32_t blocks_of(const struct gd_batch *b, uint32_t seq)
{
    return (b->seq_start[seq + 1] - b->seq_start[seq] + ROWS - 1) / ROWS;
}

uint32_t gdk_attention_items(const struct gd_batch *b, const struct gd_attn_shape *s)
{
    uint32_t blocks = 0;
    for (uint32_t seq = 0; seq < b->n_seqs; seq++) {
        blocks += blocks_of(b, seq);
    }
    return blocks * s->n_kv_heads;
}

static struct span span_of(uint32_t item, const struct gd_batch *b, const struct gd_attn_shape *s)
{
    uint32_t block = item / s->n_kv_heads;
    uint32_t seq = 0;
    for (uint32_t n = blocks_of(b, 0); block >= n; n = blocks_of(b, seq)) {
        block -= n;
        seq++;
    }
    struct span sp = {.first = b->seq_start[seq], .kv_head = item % s->n_kv_heads};
    uint32_t len = b->seq_start[seq + 1] - b->seq_start[seq];
    sp.q0 = block * ROWS;
    sp.nq = len - sp.q0 < ROWS ? len - sp.q0 : ROWS;
    return sp;
}

/* dst[dim, KEYS] = transposed rows of src[n, ld]; columns from n on are 0. */
GDK_CLONES static void transpose_keys(uint32_t n, uint32_t dim, const float *src, size_t ld,
                                      float *restrict dst)
{
    if (n < KEYS) {
        memset(dst, 0, (size_t)dim * KEYS * sizeof *dst);
    }
    for (uint32_t j = 0; j < n; j++) {
        const float *row = src + j * ld;
        for (uint32_t i = 0; i < dim; i++) {
            dst[i * KEYS + j] = row[i];
        }
    }
}

/* dst[n, pad] = rows of src[n, ld], elements from dim on 0; rows up to n_pad are 0. */
static void copy_rows(uint32_t n, uint32_t n_pad, uint32_t dim, uint32_t pad, const float *src,
                      size_t ld, float *dst)
{
    if (n < n_pad || dim < pad) {
        memset(dst, 0, (size_t)n_pad * pad * sizeof *dst);
    }
    for (uint32_t j = 0; j < n; j++) {
        memcpy(dst + (size_t)j * pad, src + j * ld, dim * sizeof *dst);
    }
}

/* One row of scores[KEYS], of which the first n count, becomes weights exp(score * scale - max).
 * Returns the factor by which what was summed up under the old maximum shrinks. */
GDK_CLONES static float softmax_row(uint32_t n, float scale, float *restrict p, float *max,
                                    float *sum)
{
    float top[LANES];
    for (uint32_t j = 0; j < LANES; j++) {
        top[j] = *max;
    }
    for (uint32_t j = n; j < KEYS; j++) {
        p[j] = -INFINITY;
    }
    for (uint32_t i = 0; i < KEYS; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            p[i + j] *= scale;
            top[j] = p[i + j] > top[j] ? p[i + j] : top[j];
        }
    }
    for (uint32_t w = LANES / 2; w > 0; w /= 2) {
        for (uint32_t j = 0; j < w; j++) {
            top[j] = top[j + w] > top[j] ? top[j + w] : top[j];
        }
    }
    float part[LANES] = {0};
    for (uint32_t i = 0; i < KEYS; i += LANES) {
        for (uint32_t j = 0; j < LANES; j++) {
            p[i + j] = gdk_expf(p[i + j] - top[0]);
            part[j] += p[i + j];
        }
    }
    for (uint32_t w = LANES / 2; w > 0; w /= 2) {
        for (uint32_t j = 0; j < w; j++) {
            part[j] += part[j + w];
        }
    }
    float shrink = gdk_expf(*max - top[0]);
    *sum = *sum * shrink + part[0];
    *max = top[0];
    return shrink;
}

/* Folds the key tile in scratch (keys k0 .. k0 + KEYS - 1 of the sequence) into the 8 query rows
 * from row on. */
static void fold_rows(uint32_t row, const struct span *sp, uint32_t k0, uint32_t pad, float scale,
                      const float *v, size_t ldv, struct gdk_attention_scratch *w)
{
    uint32_t last = row + TILE_ROWS < sp->nq ? row + TILE_ROWS : sp->nq; /* one past */
    uint32_t q_last = sp->q0 + last - 1;
    if (q_last < k0) {
        return; /* every key of the tile comes after every row */
    }
    uint32_t n_keys = q_last - k0 + 1 < KEYS ? q_last - k0 + 1 : KEYS;
    float *p = w->p + (size_t)row * KEYS;
    struct product scores = {.a = w->q + (size_t)row * pad,
                             .lda = pad,
                             .b = w->k,
                             .ldb = KEYS,
                             .c = p,
                             .ldc = KEYS,
                             .k = pad,
                             .cols = (n_keys + LANES - 1) / LANES * LANES};
    product_run(&scores);
    for (uint32_t r = row; r < row + TILE_ROWS; r++) {
        uint32_t q = sp->q0 + r;
        float *weights = w->p + (size_t)r * KEYS;
        if (r >= last || q < k0) {
            memset(weights, 0, KEYS * sizeof *weights);
            continue;
        }
        uint32_t n = q - k0 + 1 < KEYS ? q - k0 + 1 : KEYS;
        float shrink = softmax_row(n, scale, weights, &w->max[r], &w->sum[r]);
        float *acc = w->acc + (size_t)r * pad;
        for (uint32_t i = 0; i < pad; i++) {
            acc[i] *= shrink;
        }
    }
    struct product values = {.a = p,
                             .lda = KEYS,
                             .b = v,
                             .ldb = ldv,
                             .c = w->acc + (size_t)row * pad,
                             .ldc = pad,
                             .k = n_keys,
                             .cols = pad,
                             .accumulate = true};
    product_run(&values);
}

static void fold_head(const struct span *sp, uint32_t k0, uint32_t pad, float scale, const float *v,
                      size_t ldv, struct gdk_attention_scratch *w)
{
    for (uint32_t row = 0; row < sp->nq; row += TILE_ROWS) {
        fold_rows(row, sp, k0, pad, scale, v, ldv, w);
    }
}

void gdk_attention_cpu(uint32_t item, const struct gd_batch *b, const struct gd_attn_shape *s,
                       const float *qkv, const float *k_cache, const float *v_cache, float *out,
                       struct gdk_attention_scratch *w)
{
    struct span sp = span_of(item, b, s);
    uint32_t dim = s->head_dim;
    uint32_t pad = (dim + LANES - 1) / LANES * LANES;
    uint32_t group = s->n_heads / s->n_kv_heads;
    size_t kv_dim = (size_t)s->n_kv_heads * dim;
    size_t qkv_dim = (size_t)s->n_heads * dim + 2 * kv_dim;
    size_t out_dim = (size_t)s->n_heads * dim;
    const float *k = k_cache + sp.first * kv_dim + (size_t)sp.kv_head * dim;
    const float *v = v_cache + sp.first * kv_dim + (size_t)sp.kv_head * dim;
    uint32_t n_keys = sp.q0 + sp.nq;

    for (uint32_t h = 0; h < group; h++) {
        size_t head = (size_t)(sp.kv_head * group + h) * dim;
        const float *q = qkv + (sp.first + sp.q0) * qkv_dim + head;
        copy_rows(sp.nq, ROWS, dim, pad, q, qkv_dim, w->q);
        memset(w->acc, 0, (size_t)ROWS * pad * sizeof *w->acc);
        for (uint32_t r = 0; r < ROWS; r++) {
            w->max[r] = -INFINITY;
            w->sum[r] = 0.0f;
        }
        for (uint32_t k0 = 0; k0 < n_keys; k0 += KEYS) {
            uint32_t n = n_keys - k0 < KEYS ? n_keys - k0 : KEYS;
            transpose_keys(n, dim, k + k0 * kv_dim, kv_dim, w->k);
            const float *v_tile = v + k0 * kv_dim;
            size_t ldv = kv_dim;
            if (pad != dim) {
                copy_rows(n, n, dim, pad, v_tile, kv_dim, w->v);
                v_tile = w->v;
                ldv = pad;
            }
            fold_head(&sp, k0, pad, s->scale, v_tile, ldv, w);
        }
        float *dst = out + (sp.first + sp.q0) * out_dim + head;
        for (uint32_t r = 0; r < sp.nq; r++) {
            const float *acc = w->acc + (size_t)r * pad;
            for (uint32_t i = 0; i < dim; i++) {
                dst[r * out_dim + i] = acc[i] / w->sum[r];
            }
        }
    }
}
