/* attention.c - causal attention over a packed batch and the paged cache, with the softmax computed
 * along the way (online softmax).
 *
 * The query heads that share a key/value head are rows one after another: row i of a sequence is
 * head i % group of its token i / group. An item is up to 48 rows of one sequence, taken 6 by 6.
 * For each tile of 64 keys, counted from the start of the sequence, that is 4 blocks of the cache:
 * scores = Q K^T, the running maximum and sum of each row are updated, and acc = acc * rescale + P
 * V. All sums run over a row's own terms in an order that its position alone fixes, so that a row
 * has the same bits whichever rows share its item and wherever its sequence is cut. Keys of later
 * positions are put out of the scores, values of later positions are not read. Non-finite scores
 * come out as NaN. */
#include "guardian/kernels.h"

#include <math.h>

#define BLOCK ((uint32_t)GD_KV_BLOCK_TOKENS)
#define ROWS GDK_ATTN_ROWS
#define KEYS GDK_ATTN_KEYS
#define LANES GDK_ATTN_LANES
#define TILE_ROWS GDK_ATTN_TILE_ROWS
#define TILE_BLOCKS (KEYS / BLOCK)

/* 6 rows, and a tile of keys for them. */
struct tile {
    uint32_t pad, n_rows;        /* rows from n_rows on hold nothing of use */
    uint32_t n_keys[TILE_ROWS];  /* how many keys of the tile the row sees; never falls */
    const float *q;              /* [pad, 6]: transposed and scaled */
    const float *k[TILE_BLOCKS]; /* [pad, BLOCK] each */
    const float *v[TILE_BLOCKS]; /* [BLOCK, pad] each */
    float *p;                    /* [6, KEYS] scores, then weights */
    float *acc;                  /* [6, pad] */
    float *max;                  /* [6], readable to LANES */
    float *sum;                  /* [6, LANES] */
    float shrink[LANES];         /* [6] */
};

typedef void (*fold_fn)(struct tile *t, uint32_t n_blocks);

typedef float vec4 __attribute__((vector_size(16)));
typedef uint32_t ivec4 __attribute__((vector_size(16)));

static inline vec4 greater4(vec4 a, vec4 b)
{
    ivec4 from_a = (ivec4)(a > b);
    return (vec4)((from_a & (ivec4)a) | (~from_a & (ivec4)b));
}

#define TARGET
#define VEC vec4
#define IVEC ivec4
#define GREATER greater4
#define ISA(name) name##_base
#include "attention_tile.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#include <immintrin.h>

typedef float vec8 __attribute__((vector_size(32)));
typedef uint32_t ivec8 __attribute__((vector_size(32)));
#define TARGET __attribute__((target("arch=x86-64-v3")))
#define VEC vec8
#define IVEC ivec8
#define GREATER _mm256_max_ps
#define ISA(name) name##_v3
#include "attention_tile.h"

typedef float vec16 __attribute__((vector_size(64)));
typedef uint32_t ivec16 __attribute__((vector_size(64)));
#define TARGET __attribute__((target("arch=x86-64-v4")))
#define VEC vec16
#define IVEC ivec16
#define GREATER _mm512_max_ps
#define ISA(name) name##_v4
#include "attention_tile.h"

static fold_fn fold_of_cpu(void)
{
    if (__builtin_cpu_supports("x86-64-v4")) {
        return fold_v4;
    }
    return __builtin_cpu_supports("x86-64-v3") ? fold_v3 : fold_base;
}
#else
static fold_fn fold_of_cpu(void)
{
    return fold_base;
}
#endif

/* Where an item stands in the batch. */
struct span {
    uint32_t row, n_rows; /* of the sequence */
    uint32_t kv_head;
    size_t first;           /* packed index of the sequence's first token */
    const uint32_t *blocks; /* the sequence's table */
    uint32_t end[ROWS];     /* [n_rows] keys that a row sees, its own included */
};

static uint32_t items_of(const struct gd_batch *b, uint32_t seq, uint32_t group)
{
    return ((b->seq_start[seq + 1] - b->seq_start[seq]) * group + ROWS - 1) / ROWS;
}

uint32_t gdk_attention_items(const struct gd_batch *b, const struct gd_attn_shape *s)
{
    uint32_t items = 0;
    for (uint32_t seq = 0; seq < b->n_seqs; seq++) {
        items += items_of(b, seq, s->n_heads / s->n_kv_heads);
    }
    return items * s->n_kv_heads;
}

static void span_of(uint32_t item, const struct gd_batch *b, const struct gd_attn_shape *s,
                    struct span *sp)
{
    uint32_t group = s->n_heads / s->n_kv_heads;
    uint32_t at = item / s->n_kv_heads;
    uint32_t seq = 0;
    for (uint32_t n = items_of(b, 0, group); at >= n; n = items_of(b, seq, group)) {
        at -= n;
        seq++;
    }
    uint32_t all = (b->seq_start[seq + 1] - b->seq_start[seq]) * group;
    sp->row = at * ROWS;
    sp->n_rows = all - sp->row < ROWS ? all - sp->row : ROWS;
    sp->kv_head = item % s->n_kv_heads;
    sp->first = b->seq_start[seq];
    sp->blocks = b->blocks + b->block_start[seq];
    uint32_t position = (uint32_t)b->positions[sp->first];
    for (uint32_t r = 0; r < sp->n_rows; r++) {
        sp->end[r] = position + (sp->row + r) / group + 1;
    }
}

/* q[.., pad, 6] = the item's rows of Q, 6 by 6, transposed and scaled; what is not there is 0. */
GDK_CLONES static void load_queries(const struct span *sp, const struct gd_attn_shape *s,
                                    uint32_t pad, const float *qkv, float *restrict q)
{
    static const float nothing[GDK_HEAD_DIM_MAX];
    uint32_t dim = s->head_dim, group = s->n_heads / s->n_kv_heads;
    size_t qkv_dim = ((size_t)s->n_heads + 2 * (size_t)s->n_kv_heads) * dim;
    float scale = s->scale;
    for (uint32_t first = 0; first < sp->n_rows; first += TILE_ROWS) {
        const float *src[TILE_ROWS];
        for (uint32_t r = 0; r < TILE_ROWS; r++) {
            uint32_t row = sp->row + first + r;
            size_t head = (size_t)sp->kv_head * group + row % group;
            src[r] = first + r < sp->n_rows ? qkv + (sp->first + row / group) * qkv_dim + head * dim
                                            : nothing;
        }
        for (uint32_t i = 0; i < dim; i++) {
            for (uint32_t r = 0; r < TILE_ROWS; r++) {
                q[i * TILE_ROWS + r] = src[r][i] * scale;
            }
        }
        memset(q + dim * TILE_ROWS, 0, (size_t)(pad - dim) * TILE_ROWS * sizeof *q);
        q += (size_t)pad * TILE_ROWS;
    }
}

/* Folds the tile of keys k0 .. k0 + KEYS - 1 into the item's rows. */
static void fold_rows(const struct span *sp, uint32_t k0, fold_fn fold, struct tile *t,
                      struct gdk_attention_scratch *w)
{
    for (uint32_t row = 0; row < sp->n_rows; row += TILE_ROWS) {
        uint32_t most = 0;
        t->n_rows = sp->n_rows - row < TILE_ROWS ? sp->n_rows - row : TILE_ROWS;
        for (uint32_t r = 0; r < t->n_rows; r++) {
            uint32_t end = sp->end[row + r];
            most = end <= k0 ? 0 : end - k0 < KEYS ? end - k0 : KEYS;
            t->n_keys[r] = most;
        }
        if (most == 0) {
            continue; /* every key of the tile comes after every row */
        }
        t->q = w->q + (size_t)row * t->pad;
        t->acc = w->acc + (size_t)row * t->pad;
        t->max = w->max + row;
        t->sum = w->sum + (size_t)row * LANES;
        fold(t, (most + BLOCK - 1) / BLOCK);
    }
}

GDK_CLONES static void store_rows(const struct span *sp, const struct gd_attn_shape *s,
                                  uint32_t pad, const struct gdk_attention_scratch *w,
                                  float *restrict out)
{
    uint32_t dim = s->head_dim, group = s->n_heads / s->n_kv_heads;
    for (uint32_t r = 0; r < sp->n_rows; r++) {
        uint32_t row = sp->row + r;
        size_t head = (size_t)sp->kv_head * group + row % group;
        float *dst = out + ((sp->first + row / group) * s->n_heads + head) * dim;
        const float *acc = w->acc + (size_t)r * pad;
        float sum = 0.0f;
        for (uint32_t i = 0; i < LANES; i++) {
            sum += w->sum[r * LANES + i];
        }
        for (uint32_t i = 0; i < dim; i++) {
            dst[i] = acc[i] / sum;
        }
    }
}

void gdk_attention_cpu(uint32_t item, const struct gd_batch *b, const struct gd_attn_shape *s,
                       const float *qkv, const struct gdk_kv_layer *kv, float *out,
                       struct gdk_attention_scratch *w)
{
    struct span sp;
    span_of(item, b, s, &sp);
    uint32_t pad = gdk_kv_pad(s->head_dim);
    struct tile t = {.pad = pad, .p = w->p};
    fold_fn fold = fold_of_cpu();
    /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): an item has one row at least */
    uint32_t n_keys = sp.end[sp.n_rows - 1];
    uint32_t n_blocks = (n_keys + BLOCK - 1) / BLOCK;

    load_queries(&sp, s, pad, qkv, w->q);
    memset(w->acc, 0, (size_t)ROWS * pad * sizeof *w->acc);
    memset(w->sum, 0, sizeof w->sum);
    for (uint32_t r = 0; r < ROWS + LANES; r++) {
        w->max[r] = -INFINITY;
    }
    for (uint32_t k0 = 0; k0 < n_keys; k0 += KEYS) {
        for (uint32_t i = 0; i < TILE_BLOCKS && k0 / BLOCK + i < n_blocks; i++) {
            size_t at = (size_t)sp.blocks[k0 / BLOCK + i] * s->n_kv_heads + sp.kv_head;
            t.k[i] = kv->k + at * pad * BLOCK;
            t.v[i] = kv->v + at * BLOCK * pad;
        }
        fold_rows(&sp, k0, fold, &t, w);
    }
    store_rows(&sp, s, pad, w, out);
}
