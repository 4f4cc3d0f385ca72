/* attention.cu - causal attention of a packed batch over the paged cache, on the tensor cores, with
 * the softmax computed along the way (online softmax, to base 2).
 *
 * A block of 4 warps takes a tile: 64 rows of one sequence and key/value head; a row is one query
 * head of one token, and the heads that share keys are rows one after another. A warp owns 16 rows:
 * their Q and their sums stay in registers. For each tile of 64 keys, counted from position 0 and
 * 4 blocks of the cache long: scores = Q K^T, weights = 2^(score - maximum so far), sums = sums *
 * rescale + weights * V. While one tile is computed the next is copied, a block by each warp.
 *
 * A row's bits come from its own Q and the keys and values up to its position alone. A later key
 * has the score -inf, so that its weight is 0 and the maximum stays; in a tile of later keys only,
 * the rescale is 2^0 = 1 and 0 is added. For that the values must be finite: where not all rows see
 * a tile whole, values that are not are put away first, and the rows that see them become NaN, as
 * everywhere (store_rows). What lies behind the last position that a row here sees is not read.
 *
 * Loops run a number of times that is known when compiled, and are unrolled, so that arrays are
 * registers: otherwise ptxas reports a stack frame. */
#include "device.cuh"

#include "guardian/limits.h"

#include <math.h>

#define WARPS 4
#define THREADS (32 * WARPS)
#define BLOCKS_PER_SM 3 /* as many as shared memory has room for; 168 registers each */
#define ROWS ((int)GDK_CUDA_ATTN_ROWS)
#define KEYS ((int)GDK_CUDA_ATTN_KEYS)
#define BLOCK GD_KV_BLOCK_TOKENS
#define PITCH(dim) ((dim) + 8) /* row to row in shared memory: ldmatrix meets no bank twice */

static_assert(ROWS == 16 * WARPS, "a warp owns the 16 rows of an mma");
static_assert(KEYS == BLOCK * WARPS && BLOCK == 16, "a warp copies one block of the cache");

struct attention_args {
    const struct gdk_attn_tile *tiles;
    const uint32_t *blocks;
    const gdk_bf16 *qkv, *kv;
    gdk_bf16 *out;
    uint32_t n_kv_heads, group; /* query heads of a key/value head */
    uint32_t qkv_stride, out_stride;
    float scale; /* of the scores, with log2(e) */
};

template <int DIM> struct stage {
    gdk_bf16 k[KEYS * PITCH(DIM)], v[KEYS * PITCH(DIM)];
};

/* One stage is computed while the other is filled. */
template <int DIM> struct shared {
    struct stage<DIM> stages[2];
    /* Of a stage and the warp that copied: KEYS less the first key of the tile that has values that
     * are not finite; 0: none. */
    uint32_t not_finite[2][WARPS];
};

/* A thread's part in its two rows, lane / 4 and lane / 4 + 8 of its warp's; 4 lanes share them. */
struct rows {
    uint32_t position[2];
    float max[2], sum[2]; /* so far; the sum over the lane's own keys */
};

static __device__ __forceinline__ int warp_index()
{
    return (int)(threadIdx.x / 32);
}

static __device__ __forceinline__ int lane_index()
{
    return (int)(threadIdx.x % 32);
}

static __device__ __forceinline__ uint32_t load4(const void *p)
{
    return *static_cast<const uint32_t *>(p);
}

/* Two bf16: the highest bit of each is 1 where it is not finite; all others 0. */
static __device__ __forceinline__ uint32_t not_finite(uint32_t pair)
{
    return ((pair & 0x7f807f80u) + 0x00800080u) & 0x80008000u;
}

/* A warp moves 16 rows as DIM / 16 pieces of 16 bytes a lane, one row after another. Pieces i and
 * i + PERIOD of a lane are whole rows apart, so that their addresses differ by a constant. */
#define PERIOD(dim) ((dim) % 64 == 0 ? 1 : 3)

template <int DIM> static __device__ __forceinline__ int piece_row(int i)
{
    const int period = PERIOD(DIM), in_row = DIM / 8;
    return (lane_index() + i % period * 32) / in_row + i / period * period * 32 / in_row;
}

template <int DIM> static __device__ __forceinline__ int piece_column(int i)
{
    return (lane_index() + i % PERIOD(DIM) * 32) % (DIM / 8) * 8;
}

template <int DIM> static __device__ __forceinline__ int piece_shared(int i)
{
    return piece_row<DIM>(i) * PITCH(DIM) + piece_column<DIM>(i);
}

/* The block of the cache that this warp copies for key tile t. Nothing is read behind the table. */
static __device__ __forceinline__ uint32_t block_of(const struct attention_args *a, uint32_t n_keys,
                                                    uint32_t t)
{
    uint32_t i = t * WARPS + (uint32_t)warp_index();
    return i * BLOCK < n_keys ? a->blocks[a->tiles[blockIdx.y].blocks + i] : 0;
}

/* Queues the copy of K (is_v 0) or V (1) of the warp's block for key tile t. */
template <int DIM>
static __device__ __forceinline__ void copy_block(const struct attention_args *a, uint32_t n_keys,
                                                  uint32_t t, uint32_t block, uint32_t is_v,
                                                  gdk_bf16 *to)
{
    int n = (int)n_keys - ((int)t * WARPS + warp_index()) * BLOCK; /* rows that are wanted */
    size_t at = ((size_t)block * 2 + is_v) * a->n_kv_heads + blockIdx.x;
    const gdk_bf16 *from = a->kv + at * BLOCK * DIM + lane_index() * 8;
    to += warp_index() * BLOCK * PITCH(DIM);
    for (int i = 0; i < DIM / 16; i++) {
        gdk_copy_async16(to + piece_shared<DIM>(i), from + i * 256, piece_row<DIM>(i) < n);
    }
}

/* Looks through the values that this warp has copied; see shared.not_finite. */
template <int DIM>
static __device__ __forceinline__ void note_not_finite(const gdk_bf16 *v, uint32_t noted[WARPS])
{
    uint32_t found = 0;
    v += warp_index() * BLOCK * PITCH(DIM);
    for (int i = DIM / 16 - 1; i >= 0; i--) { /* rows fall: what is found last is first */
        gdk_vec16 x = gdk_load16(v + piece_shared<DIM>(i));
        uint32_t any = not_finite(x.w[0]) | not_finite(x.w[1]);
        any |= not_finite(x.w[2]) | not_finite(x.w[3]);
        int key = warp_index() * BLOCK + piece_row<DIM>(i);
        found = any != 0 ? (uint32_t)(KEYS - key) : found;
    }
    found = gdk_warp_max(found);
    if (lane_index() == 0) {
        noted[warp_index()] = found;
    }
}

/* Makes NaN of the rows that see values that are not finite. Whether any row's keys have some. */
static __device__ __forceinline__ bool spoil_rows(const uint32_t noted[WARPS], uint32_t key0,
                                                  struct rows *r)
{
    uint32_t found = 0;
    for (int i = 0; i < WARPS; i++) {
        found = noted[i] > found ? noted[i] : found;
    }
    for (int half = 0; half < 2; half++) {
        bool sees = found != 0 && key0 + KEYS - found <= r->position[half];
        r->sum[half] = sees ? NAN : r->sum[half];
    }
    return found != 0;
}

/* Makes 0 of the values that are not finite, of those that this warp has copied. */
template <int DIM> static __device__ __forceinline__ void clear_not_finite(gdk_bf16 *v)
{
    v += warp_index() * BLOCK * PITCH(DIM);
    for (int i = 0; i < DIM / 16; i++) {
        gdk_vec16 x = gdk_load16(v + piece_shared<DIM>(i));
        for (int j = 0; j < 4; j++) {
            x.w[j] &= ~((not_finite(x.w[j]) >> 15) * 0xffffu);
        }
        gdk_store16(v + piece_shared<DIM>(i), x);
    }
}

/* q[..][4]: the warp's rows as A operands. Rows behind the last are 0 and have its position. */
template <int DIM>
static __device__ __forceinline__ void load_rows(const struct attention_args *a,
                                                 const struct gdk_attn_tile *tile,
                                                 uint32_t q[DIM / 16][4], struct rows *r)
{
    for (int half = 0; half < 2; half++) {
        uint32_t row = tile->row + (uint32_t)(warp_index() * 16 + lane_index() / 4 + 8 * half);
        bool exists = row < tile->n_tokens * a->group;
        uint32_t token = exists ? row / a->group : tile->n_tokens - 1;
        uint32_t head = blockIdx.x * a->group + row % a->group;
        const gdk_bf16 *from = a->qkv + ((size_t)tile->first + token) * a->qkv_stride;
        from += head * DIM + (uint32_t)(lane_index() % 4 * 2);
        for (int i = 0; i < DIM / 16; i++) {
            q[i][half] = exists ? load4(from + i * 16) : 0;
            q[i][half + 2] = exists ? load4(from + i * 16 + 8) : 0;
        }
        r->position[half] = tile->position + token;
        r->max[half] = -INFINITY;
        r->sum[half] = 0.0f;
    }
}

/* s[j]: products of the rows with keys 8 j to 8 j + 7. */
template <int DIM>
static __device__ __forceinline__ void multiply_keys(const uint32_t q[DIM / 16][4],
                                                     const gdk_bf16 *k, float s[KEYS / 8][4])
{
    int lane = lane_index(); /* its row of the 4 matrices: 2 side by side, 2 below them */
    k += (lane % 8 + lane / 16 * 8) * PITCH(DIM) + lane / 8 % 2 * 8;
    for (int j = 0; j < KEYS / 8; j++) {
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
    }
    for (int i = 0; i < DIM / 16; i++) {
        for (int j = 0; j < KEYS / 16; j++) {
            uint32_t b[4];
            gdk_ldmatrix_x4(b, k + j * 16 * PITCH(DIM) + i * 16);
            gdk_mma_bf16(s[2 * j], q[i], b);
            gdk_mma_bf16(s[2 * j + 1], q[i], b + 2);
        }
    }
}

/* Scores of keys behind a row's own position become -inf. */
static __device__ __forceinline__ void hide_later(uint32_t key0, const struct rows *r,
                                                  float s[KEYS / 8][4])
{
    uint32_t key = key0 + (uint32_t)(lane_index() % 4 * 2);
    for (int j = 0; j < KEYS / 8; j++) {
        for (int i = 0; i < 4; i++) {
            bool seen = key + (uint32_t)(j * 8 + i % 2) <= r->position[i / 2];
            s[j][i] = seen ? s[j][i] : -INFINITY;
        }
    }
}

/* Scores become weights p, which are A operands just as the scores lie: two neighbouring groups of
 * 8 keys are the 16 of one. What is summed up already is rescaled to the maximum as it is now. */
template <int DIM>
static __device__ __forceinline__ void weigh(float scale, const float s[KEYS / 8][4],
                                             struct rows *r, float sums[DIM / 8][4],
                                             uint32_t p[KEYS / 16][4])
{
    for (int half = 0; half < 2; half++) {
        float most = r->max[half], sum = 0.0f;
        for (int j = 0; j < KEYS / 8; j++) {
            most = fmaxf(most, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
        }
        most = fmaxf(most, __shfl_xor_sync(GDK_FULL_MASK, most, 1));
        most = fmaxf(most, __shfl_xor_sync(GDK_FULL_MASK, most, 2));
        float rescale = gdk_exp2((r->max[half] - most) * scale);
        float offset = -most * scale;
        for (int j = 0; j < KEYS / 8; j++) {
            float x = gdk_exp2(fmaf(s[j][2 * half], scale, offset));
            float y = gdk_exp2(fmaf(s[j][2 * half + 1], scale, offset));
            sum += x + y;
            p[j / 2][j % 2 * 2 + half] = gdk_pack_bf16(x, y);
        }
        r->max[half] = most;
        r->sum[half] = fmaf(r->sum[half], rescale, sum);
        for (int j = 0; j < DIM / 8; j++) {
            sums[j][2 * half] *= rescale;
            sums[j][2 * half + 1] *= rescale;
        }
    }
}

/* sums[j] (columns 8 j to 8 j + 7) += weights times values. */
template <int DIM>
static __device__ __forceinline__ void multiply_values(const uint32_t p[KEYS / 16][4],
                                                       const gdk_bf16 *v, float sums[DIM / 8][4])
{
    int lane = lane_index(); /* its row of the 4 matrices: 2 one above the other, 2 beside them */
    v += lane % 16 * PITCH(DIM) + lane / 16 * 8;
    for (int i = 0; i < KEYS / 16; i++) {
        for (int j = 0; j < DIM / 16; j++) {
            uint32_t b[4];
            gdk_ldmatrix_x4_transposed(b, v + i * 16 * PITCH(DIM) + j * 16);
            gdk_mma_bf16(sums[2 * j], p[i], b);
            gdk_mma_bf16(sums[2 * j + 1], p[i], b + 2);
        }
    }
}

/* Writes the warp's rows, by way of 16 rows of shared memory that only this warp uses. A row with
 * anything that is not finite becomes NaN throughout, and -0 becomes 0, which is all that a tile of
 * later keys can change. */
template <int DIM>
static __device__ __forceinline__ void
store_rows(const struct attention_args *a, const struct gdk_attn_tile *tile, const struct rows *r,
           const float sums[DIM / 8][4], gdk_bf16 *staged)
{
    for (int half = 0; half < 2; half++) {
        float sum = r->sum[half], zero = 0.0f; /* or NaN */
        sum += __shfl_xor_sync(GDK_FULL_MASK, sum, 1);
        sum += __shfl_xor_sync(GDK_FULL_MASK, sum, 2);
        float inverse = 1.0f / sum;
        for (int j = 0; j < DIM / 8; j++) {
            zero = fmaf(sums[j][2 * half], 0.0f, zero);
            zero = fmaf(sums[j][2 * half + 1], 0.0f, zero);
        }
        zero += __shfl_xor_sync(GDK_FULL_MASK, zero, 1);
        zero += __shfl_xor_sync(GDK_FULL_MASK, zero, 2);
        gdk_bf16 *row = staged + (lane_index() / 4 + 8 * half) * PITCH(DIM) + lane_index() % 4 * 2;
        for (int j = 0; j < DIM / 8; j++) {
            float x = fmaf(sums[j][2 * half], inverse, zero);
            float y = fmaf(sums[j][2 * half + 1], inverse, zero);
            *reinterpret_cast<uint32_t *>(row + j * 8) = gdk_pack_bf16(x, y);
        }
    }
    __syncwarp();
    for (int i = 0; i < DIM / 16; i++) {
        uint32_t row = tile->row + (uint32_t)(warp_index() * 16 + piece_row<DIM>(i));
        if (row < tile->n_tokens * a->group) {
            uint32_t head = blockIdx.x * a->group + row % a->group;
            size_t token = (size_t)tile->first + row / a->group;
            gdk_bf16 *to = a->out + token * a->out_stride + head * DIM + piece_column<DIM>(i);
            gdk_store16(to, gdk_load16(staged + piece_shared<DIM>(i)));
        }
    }
}

/* blockIdx: key/value head, tile. */
template <int DIM>
static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention_kernel(struct attention_args a)
{
    struct gdk_attn_tile tile = a.tiles[blockIdx.y];
    if (tile.n_tokens == 0) {
        return;
    }
    uint32_t all_rows = tile.n_tokens * a.group;
    uint32_t end = tile.row + ROWS < all_rows ? tile.row + ROWS : all_rows;
    uint32_t n_keys = tile.position + (end - 1) / a.group + 1; /* that the last row sees */
    uint32_t all_see = tile.position + tile.row / a.group + 1; /* that the first row sees */
    uint32_t n_tiles = (n_keys + KEYS - 1) / KEYS;
    struct shared<DIM> *sh = reinterpret_cast<struct shared<DIM> *>(gdk_shared());

    uint32_t block = block_of(&a, n_keys, 0);
    copy_block<DIM>(&a, n_keys, 0, block, 0, sh->stages[0].k);
    gdk_copy_async_commit();
    copy_block<DIM>(&a, n_keys, 0, block, 1, sh->stages[0].v);
    gdk_copy_async_commit();
    block = block_of(&a, n_keys, 1);

    struct rows r;
    uint32_t q[DIM / 16][4];
    load_rows<DIM>(&a, &tile, q, &r);
    float sums[DIM / 8][4] = {};

    for (uint32_t t = 0; t < n_tiles; t++) {
        struct stage<DIM> *now = &sh->stages[t % 2], *next = &sh->stages[(t + 1) % 2];
        uint32_t *noted = sh->not_finite[t % 2];
        bool uneven = (t + 1) * KEYS > all_see; /* some row does not see all of the tile */
        if (t == 0) {
            gdk_copy_async_wait<1>(); /* K alone: its values may still be on their way */
        } else {
            gdk_copy_async_wait<0>();
            if (uneven) {
                note_not_finite<DIM>(now->v, noted);
            }
        }
        __syncthreads(); /* this tile has come, and nobody reads the one before any more */
        if (t + 1 < n_tiles) {
            copy_block<DIM>(&a, n_keys, t + 1, block, 0, next->k);
            copy_block<DIM>(&a, n_keys, t + 1, block, 1, next->v);
            block = block_of(&a, n_keys, t + 2);
        }
        gdk_copy_async_commit();

        float s[KEYS / 8][4];
        uint32_t p[KEYS / 16][4];
        multiply_keys<DIM>(q, now->k, s);
        if (uneven) {
            hide_later(t * KEYS, &r, s);
        }
        weigh<DIM>(a.scale, s, &r, sums, p);
        if (t == 0) {
            gdk_copy_async_wait<1>();
            if (uneven) {
                note_not_finite<DIM>(now->v, noted);
            }
            __syncthreads();
        }
        if (uneven && spoil_rows(noted, t * KEYS, &r)) {
            clear_not_finite<DIM>(now->v);
            __syncthreads();
        }
        multiply_values<DIM>(p, now->v, sums);
    }
    /* The stage that was not used last: its readers have passed a barrier since. The tile is read
     * again rather than kept in registers. */
    tile = a.tiles[blockIdx.y];
    store_rows<DIM>(&a, &tile, &r, sums,
                    sh->stages[n_tiles % 2].k + warp_index() * 16 * PITCH(DIM));
}

template <int DIM>
static cudaError_t attention_launch(cudaStream_t stream, uint32_t n_tiles,
                                    const struct attention_args *a)
{
    if (n_tiles == 0) {
        return cudaSuccess;
    }
    cudaError_t rc = gdk_shared_allow(attention_kernel<DIM>, (int)sizeof(struct shared<DIM>));
    if (rc != cudaSuccess) {
        return rc;
    }
    return GDK_LAUNCH(attention_kernel<DIM>, dim3(a->n_kv_heads, n_tiles), THREADS,
                      sizeof(struct shared<DIM>), stream, *a);
}

extern "C" cudaError_t gdk_attention_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b,
                                          const struct gdk_cuda_shape *s, const gdk_bf16 *qkv,
                                          const gdk_bf16 *kv, gdk_bf16 *out, uint32_t out_stride)
{
    if (s->n_kv_heads == 0 || s->n_heads == 0 || s->n_heads % s->n_kv_heads != 0) {
        return cudaErrorInvalidValue;
    }
    struct attention_args a = {};
    a.tiles = b->tiles;
    a.blocks = b->blocks;
    a.qkv = qkv;
    a.kv = kv;
    a.out = out;
    a.n_kv_heads = s->n_kv_heads;
    a.group = s->n_heads / s->n_kv_heads;
    a.qkv_stride = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    a.out_stride = out_stride;
    a.scale = s->scale * 1.44269504f;
    switch (s->head_dim) {
    case 64:
        return attention_launch<64>(stream, b->n_tiles, &a);
    case 96:
        return attention_launch<96>(stream, b->n_tiles, &a);
    case 128:
        return attention_launch<128>(stream, b->n_tiles, &a);
    default:
        return cudaErrorInvalidValue;
    }
}
