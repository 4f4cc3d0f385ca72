/* rope_kv.cu - rotates queries in place and stores rotated keys, and values, in the paged cache.
 *
 * One block a token. A thread has the same 8 elements of the first half of a head, and the 8 of the
 * second that turn with them, in each of its heads: their cosines and sines are read once. */
#include "guardian/limits.h"
#include "rows.cuh"

#define HEADS 3 /* of a thread at a time: their loads are under way together */

/* The piece of a head that a thread has: numbers [8 i, 8 i + 8) of each half. */
struct piece {
    gdk_vec16 low, high;
};

static __device__ __forceinline__ void rotate(piece *p, const float (&cosine)[8],
                                              const float (&sine)[8])
{
    float low[8], high[8], a[8], b[8];
    gdk_widen(low, p->low.w);
    gdk_widen(high, p->high.w);
    for (int i = 0; i < 8; i++) {
        a[i] = low[i] * cosine[i] - high[i] * sine[i];
        b[i] = high[i] * cosine[i] + low[i] * sine[i];
    }
    gdk_narrow(p->low.w, a);
    gdk_narrow(p->high.w, b);
}

/* Where head `head` of the row goes: a query head back to the row, the others to the cache. */
template <int HEAD_DIM>
static __device__ __forceinline__ gdk_bf16 *place_of(uint32_t head, const gdk_cuda_shape &s,
                                                     uint32_t slot, gdk_bf16 *row, gdk_bf16 *kv)
{
    if (head < s.n_heads) {
        return row + head * HEAD_DIM;
    }
    uint32_t kv_head = head - s.n_heads; /* keys, then values, as in a block of the cache */
    size_t block = slot / GD_KV_BLOCK_TOKENS;
    size_t at =
        (block * 2 * s.n_kv_heads + kv_head) * GD_KV_BLOCK_TOKENS + slot % GD_KV_BLOCK_TOKENS;
    return kv + at * HEAD_DIM;
}

template <int HEAD_DIM, int THREADS>
static __global__ void __launch_bounds__(THREADS)
    rope_kv(const gdk_token *tokens, gdk_cuda_shape s, const float *rope, gdk_bf16 *qkv,
            gdk_bf16 *kv)
{
    constexpr int HALF = HEAD_DIM / 2;
    constexpr uint32_t PIECES = HALF / 8;
    constexpr uint32_t STEP = THREADS / PIECES; /* heads of the block at a time */
    gdk_token token = tokens[blockIdx.x];
    uint32_t n_heads = s.n_heads + 2 * s.n_kv_heads, n_rotated = s.n_heads + s.n_kv_heads;
    uint32_t at = threadIdx.x % PIECES * 8;
    gdk_bf16 *row = qkv + (size_t)blockIdx.x * n_heads * HEAD_DIM;
    if (token.id < 0) {
        return;
    }
    float cosine[8], sine[8];
    const float *turn = rope + (size_t)token.position * HEAD_DIM + at;
    gdk_load_f32(cosine, turn);
    gdk_load_f32(cosine + 4, turn + 4);
    gdk_load_f32(sine, turn + HALF);
    gdk_load_f32(sine + 4, turn + HALF + 4);
    for (uint32_t first = threadIdx.x / PIECES; first < n_heads; first += STEP * HEADS) {
        piece p[HEADS];
        for (int i = 0; i < HEADS; i++) {
            uint32_t head = first + i * STEP;
            if (head < n_heads) {
                p[i].low = gdk_load16(row + head * HEAD_DIM + at);
                p[i].high = gdk_load16(row + head * HEAD_DIM + HALF + at);
            }
        }
        for (int i = 0; i < HEADS; i++) {
            uint32_t head = first + i * STEP;
            if (head < n_rotated) {
                rotate(&p[i], cosine, sine);
            }
            if (head < n_heads) {
                gdk_bf16 *dst = place_of<HEAD_DIM>(head, s, token.slot, row, kv);
                gdk_store16(dst + at, p[i].low);
                gdk_store16(dst + HALF + at, p[i].high);
            }
        }
    }
}

cudaError_t gdk_rope_kv_cuda(cudaStream_t stream, const struct gdk_cuda_batch *b,
                             const struct gdk_cuda_shape *s, const float *rope, gdk_bf16 *qkv,
                             gdk_bf16 *kv)
{
    if (b->n_rows == 0) {
        return cudaSuccess;
    }
    switch (s->head_dim) { /* threads: a multiple of the pieces of a half and of a warp */
    case 64:
        return GDK_LAUNCH((rope_kv<64, 128>), dim3(b->n_rows), dim3(128), 0, stream, b->tokens, *s,
                          rope, qkv, kv);
    case 96:
        return GDK_LAUNCH((rope_kv<96, 96>), dim3(b->n_rows), dim3(96), 0, stream, b->tokens, *s,
                          rope, qkv, kv);
    case 128:
        return GDK_LAUNCH((rope_kv<128, 128>), dim3(b->n_rows), dim3(128), 0, stream, b->tokens, *s,
                          rope, qkv, kv);
    default:
        return cudaErrorInvalidValue;
    }
}
