/* simt_device.h - kernels/device.cuh on a CPU (x86-64 SysV): each CUDA thread is a fiber of simt.cpp.
 *
 * A fiber runs until a barrier or a warp-wide function; there it leaves what it brings in its slot and
 * goes on when all 32 lanes have come. Whatever a device leaves undefined and that can be seen here
 * (lanes at different places, copies nobody waits for, addresses out of shared memory) ends the
 * process with a message that names kernel, block, warp and seed. */
#ifndef GUARDIAN_SIMT_DEVICE_H
#define GUARDIAN_SIMT_DEVICE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz)
    {
    }
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

/* ---- the machine, simt.cpp ---- */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern unsigned char *simt_shared; /* of the block that runs */

enum simt_meeting { SIMT_SYNCWARP, SIMT_SHUFFLE, SIMT_LDMATRIX, SIMT_LDMATRIX_T, SIMT_MMA };

/* What a lane brings to a meeting and what it takes home. */
struct simt_slot {
    uint32_t a[4]; /* mma; ldmatrix: the result */
    uint32_t b[2];
    float d[4];
    uint64_t bits; /* shuffle */
    const void *row;
};

extern simt_slot *simt_mine; /* of this thread, for its next meeting */

/* Waits for the other lanes of the warp; the 32 slots, which stay until the meeting after the next. */
simt_slot *simt_meet(simt_meeting kind, unsigned mask);

void simt_barrier();
void simt_copy(void *shared, const void *global, bool valid);
void simt_copy_commit();
void simt_copy_wait(unsigned n);

/* A launch, ready to be run by every thread: call(args). */
struct simt_kernel {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    void (*call)(const void *args);
};
cudaError_t simt_queue(const simt_kernel *k, const void *args, size_t nbytes, cudaStream_t stream);
cudaError_t simt_allow(const void *kernel, int nbytes);

template <typename T> struct simt_same {
    typedef T type;
};

/* The arguments become the kernel's own types here, at the launch, as on a device. */
template <typename... P>
static inline cudaError_t simt_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                                      cudaStream_t stream, void (*kernel)(P...),
                                      typename simt_same<P>::type... args)
{
    auto call = [=] { kernel(args...); };
    typedef decltype(call) closure;
    static_assert(__is_trivially_copyable(closure), "a kernel's arguments are copied as bytes");
    simt_kernel k = {name,         reinterpret_cast<const void *>(kernel),
                     grid,         block,
                     shared_bytes, [](const void *c) { (*static_cast<const closure *>(c))(); }};
    return simt_queue(&k, &call, sizeof call, stream);
}

/* ---- CUDA's own names ---- */

#define __syncthreads() simt_barrier()

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    simt_meet(SIMT_SYNCWARP, mask);
}

template <typename T> static inline T simt_shuffle(unsigned mask, T value, unsigned from)
{
    static_assert(sizeof value <= 8, "one word");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    simt_mine->bits = bits;
    const simt_slot *lanes = simt_meet(SIMT_SHUFFLE, mask);
    memcpy(&value, &lanes[from % 32].bits, sizeof value);
    return value;
}

unsigned simt_lane();

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int from)
{
    return simt_shuffle(mask, value, static_cast<unsigned>(from));
}

template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask)
{
    return simt_shuffle(mask, value, simt_lane() ^ static_cast<unsigned>(lane_mask));
}

template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned by)
{
    unsigned lane = simt_lane();
    return simt_shuffle(mask, value, lane + by < 32 ? lane + by : lane);
}

template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned by)
{
    unsigned lane = simt_lane();
    return simt_shuffle(mask, value, lane >= by ? lane - by : lane);
}

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

/* ---- device.cuh's names ---- */

#define GDK_LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                   \
    simt_launch(#kernel, (grid), (block), (smem_bytes), (stream), (kernel), __VA_ARGS__)

template <typename K> static inline cudaError_t gdk_shared_allow(K *kernel, int nbytes)
{
    return simt_allow(reinterpret_cast<const void *>(kernel), nbytes);
}

static inline unsigned char *gdk_shared()
{
    return simt_shared;
}

static inline void gdk_copy_async16(void *shared, const void *global, bool valid)
{
    simt_copy(shared, global, valid);
}

static inline void gdk_copy_async_commit()
{
    simt_copy_commit();
}

template <int N> static inline void gdk_copy_async_wait()
{
    static_assert(N >= 0, "groups");
    simt_copy_wait(N);
}

/* 16 bytes in one piece: an element at a time each would be checked by itself. */
typedef uint32_t simt_words __attribute__((vector_size(16), aligned(4), may_alias));

static inline void simt_move16(void *to, const void *from)
{
    *static_cast<simt_words *>(to) = *static_cast<const simt_words *>(from);
}

static inline void simt_ldmatrix(simt_meeting kind, uint32_t r[4], const void *row)
{
    simt_slot *mine = simt_mine;
    mine->row = row;
    simt_meet(kind, 0xffffffffu);
    simt_move16(r, mine->a);
}

static inline void gdk_ldmatrix_x4(uint32_t r[4], const void *row)
{
    simt_ldmatrix(SIMT_LDMATRIX, r, row);
}

static inline void gdk_ldmatrix_x4_transposed(uint32_t r[4], const void *row)
{
    simt_ldmatrix(SIMT_LDMATRIX_T, r, row);
}

static inline void gdk_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    simt_slot *mine = simt_mine;
    simt_move16(mine->a, a);
    simt_move16(mine->d, d);
    mine->b[0] = b[0];
    mine->b[1] = b[1];
    simt_meet(SIMT_MMA, 0xffffffffu);
    simt_move16(d, mine->d);
}

static inline float gdk_float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t gdk_bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float gdk_exp2(float x)
{
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

static inline uint32_t simt_bf16(float x)
{
    uint32_t bits = gdk_bits_of_float(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fff; /* what a device makes of any NaN */
    }
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

static inline uint32_t gdk_pack_bf16(float low, float high)
{
    return simt_bf16(low) | simt_bf16(high) << 16;
}

static inline uint32_t simt_e4m3(float x)
{
    uint32_t bits = gdk_bits_of_float(x), sign = bits >> 24 & 0x80u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) {
        return 0x7f;
    }
    if (bits >= gdk_bits_of_float(448.0f)) {
        return sign | 0x7eu;
    }
    if (bits < gdk_bits_of_float(0x1p-6f)) {
        /* subnormal: multiples of 2^-9; the sum's last bit is worth that */
        return sign | (gdk_bits_of_float(gdk_float_of_bits(bits) + 0x1p14f) & 0xfu);
    }
    bits += 0x7ffffu + (bits >> 20 & 1u);
    return sign | ((bits >> 20) - ((127u - 7u) << 3));
}

/* Devices before capability 8.9 trap. */
void simt_needs_fp8();

static inline uint32_t gdk_pack_e4m3(float a, float b, float c, float d)
{
    simt_needs_fp8();
    return simt_e4m3(a) | simt_e4m3(b) << 8 | simt_e4m3(c) << 16 | simt_e4m3(d) << 24;
}

#endif
