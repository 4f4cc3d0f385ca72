// simt.cpp - runs CUDA kernels on a CPU: fibers, warps, shared memory, deferred copies, mma.
//
// One block at a time, blocks in shuffled order. Each thread is a fiber with a stack of its own. The
// threads of a warp run in turn, each until a barrier or a meeting of the warp; the one that comes last
// does the meeting's work and goes on, so a meeting costs one switch a thread. Another warp's turn
// comes when a warp waits at a barrier, and after a random number of meetings. The order of the warps
// and of the lanes is drawn anew at each barrier.
//
// What is not seen: races between threads that run at the same time but never in the wrong order here,
// bank conflicts, registers, the rounding of real tensor cores.
#include "simt_internal.h"

#include "simt_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
unsigned char *simt_shared;
simt_slot *simt_mine;
simt_counts simt_count;

namespace
{
const size_t STACK = 256 * 1024, GUARD = 4096;
const unsigned THREADS_MAX = 1024, LANES = 32, WARPS_MAX = THREADS_MAX / LANES;
const size_t SHARED_ALL = 256 * 1024; // the arena; a block has the first bytes of it
const size_t CANARY = 4096; // bytes behind a block's that are looked at, for builds without ASan
const unsigned char CANARY_BYTE = 0xa5;

struct copy {
    unsigned char *to;
    const unsigned char *from; // NULL: zeros
    uint32_t group;
};

struct warp;
struct fiber {
    void *sp;
    fiber *next; // the ring of the warp's lanes
    warp *of;
    uint3 at;
    unsigned index, lane;
    uint32_t groups; // committed
    size_t n_done;   // of copies
    std::vector<copy> copies;
};

struct warp {
    fiber *entry; // who runs first at its next turn
    unsigned n_lanes, arrived, parked, returned;
    unsigned round;
    simt_meeting kind;
    simt_slot slots[2][LANES];
};

struct block_state {
    const simt_kernel *kernel;
    const void *args;
    uint64_t seed, launch;
    unsigned n_threads, n_warps;
    unsigned n_ready, n_parked, n_returned; // warps
    warp *ready[WARPS_MAX];
    int quantum; // meetings until another warp's turn
};

block_state block;
fiber fibers[THREADS_MAX];
warp warps[WARPS_MAX];
fiber *now;
void *outside; // the stack pointer of simt_run
unsigned char *stacks;
unsigned char *arena;
uint64_t pending[SHARED_ALL / 16 / 64]; // a bit for each 16 bytes that a copy will write
uint64_t random_state;

SIMT_FAST uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(((random_state >> 32) * below) >> 32);
}

const char *kind_name(simt_meeting kind)
{
    static const char *const names[] = {"__syncwarp", "a shuffle", "ldmatrix",
                                        "ldmatrix (transposed)", "mma"};
    return names[kind];
}

[[noreturn]] void die(const char *what, const char *more = "", const char *most = "")
{
    fprintf(stderr, "simt: %s%s%s; kernel %s, block (%u, %u, %u)", what, more, most,
            block.kernel->name, blockIdx.x, blockIdx.y, blockIdx.z);
    if (now != NULL) {
        fprintf(stderr, ", warp %u, thread (%u, %u, %u)", now->index / LANES, now->at.x, now->at.y,
                now->at.z);
    }
    fprintf(stderr, ", launch %llu, seed %llu\n", (unsigned long long)block.launch,
            (unsigned long long)block.seed);
    abort();
}
} // namespace

namespace
{
// Keeps this stack's pointer in *from and goes on with another stack. In line, without a call: the
// lanes of a warp come from the same calls, so the processor's guesses of where they return to are
// right as long as no call goes out on one stack and comes back on another.
#define SWAP(from, to)                                                                             \
    asm volatile("lea -128(%%rsp), %%rsp\n\t" /* the red zone is the compiler's */                 \
                 "push %%rbp\n\t"                                                                  \
                 "push %%rbx\n\t"                                                                  \
                 "lea 1f(%%rip), %%rax\n\t"                                                        \
                 "push %%rax\n\t"                                                                  \
                 "mov %%rsp, (%0)\n\t"                                                             \
                 "mov %1, %%rsp\n\t"                                                               \
                 "pop %%rax\n\t"                                                                   \
                 "jmp *%%rax\n"                                                                    \
                 "1:\n\t"                                                                          \
                 "pop %%rbx\n\t"                                                                   \
                 "pop %%rbp\n\t"                                                                   \
                 "lea 128(%%rsp), %%rsp\n\t"                                                       \
                 : "+D"(from), "+S"(to)                                                            \
                 :                                                                                 \
                 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",      \
                   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc")

__attribute__((noinline)) SIMT_FAST void swap_to(void **from, void *to)
{
    void **f = from;
    void *t = to;
    SWAP(f, t);
}
SIMT_FAST void run(fiber *f)
{
    warp *w = f->of;
    now = f;
    threadIdx = f->at;
    simt_mine = &w->slots[w->round & 1][f->lane];
}

SIMT_FAST void switch_to(fiber *me, fiber *f)
{
    if (f == me) {
        return;
    }
    simt_count.switches++;
    run(f);
    swap_to(&me->sp, f->sp);
}

// The lanes of a warp in a ring: lane l is at place l ^ x.
SIMT_FAST void shuffle_lanes(warp *w)
{
    fiber *first = &fibers[(w - warps) * LANES];
    unsigned x = draw(LANES);
    fiber *begin = NULL, *last = NULL;
    for (unsigned i = 0; i < LANES; i++) {
        if ((i ^ x) < w->n_lanes) {
            fiber *f = first + (i ^ x);
            if (last == NULL) {
                begin = f;
            } else {
                last->next = f;
            }
            last = f;
        }
    }
    last->next = begin;
    w->entry = begin;
}

SIMT_FAST void all_ready()
{
    block.n_ready = block.n_warps;
    block.n_parked = 0;
    for (unsigned i = 0; i < block.n_warps; i++) {
        warps[i].parked = 0;
        shuffle_lanes(&warps[i]);
        unsigned j = draw(i + 1);
        block.ready[i] = block.ready[j];
        block.ready[j] = &warps[i];
    }
    block.quantum = (int)draw(64) + 1;
}

// The warp whose turn it is stands last in ready.
SIMT_FAST void rotate()
{
    unsigned last = block.n_ready - 1;
    unsigned j = draw(last);
    warp *w = block.ready[last];
    block.ready[last] = block.ready[j];
    block.ready[j] = w;
    block.quantum = (int)draw(64) + 1;
}

// All lanes of the warp wait at the barrier or have returned: who is next? NULL: the block is done.
SIMT_FAST fiber *next_warp()
{
    block.n_ready--;
    if (block.n_ready > 0) {
        block.quantum = (int)draw(64) + 1;
        return block.ready[block.n_ready - 1]->entry;
    }
    if (block.n_returned == block.n_warps) {
        return NULL;
    }
    if (block.n_parked != block.n_warps) {
        die("threads wait at __syncthreads that others never reach: a whole warp has returned");
    }
    all_ready();
    return block.ready[block.n_ready - 1]->entry;
}

SIMT_FAST void set_pending(const unsigned char *p, bool on)
{
    size_t i = (size_t)(p - arena) / 16;
    uint64_t bit = (uint64_t)1 << i % 64;
    pending[i / 64] = on ? pending[i / 64] | bit : pending[i / 64] & ~bit;
}

SIMT_FAST bool is_pending(const unsigned char *p)
{
    size_t i = (size_t)(p - arena) / 16;
    return pending[i / 64] >> i % 64 & 1;
}

SIMT_FAST bool in_shared(const void *p, size_t nbytes)
{
    size_t at = (size_t)((const unsigned char *)p - arena);
    return (const unsigned char *)p >= arena && at <= block.kernel->shared_bytes &&
           nbytes <= block.kernel->shared_bytes - at;
}

void make_copies(fiber *me, uint32_t end) // of groups before end
{
    size_t i = me->n_done;
    for (; i < me->copies.size() && (int32_t)(me->copies[i].group - end) < 0; i++) {
        const copy &c = me->copies[i];
        SIMT_UNPOISON(c.to, 16);
        set_pending(c.to, false);
        if (c.from == NULL) {
            memset(c.to, 0, 16);
        } else {
            memcpy(c.to, c.from, 16);
        }
    }
    me->n_done = i;
    if (i == me->copies.size()) {
        me->copies.clear();
        me->n_done = 0;
    }
}

extern "C" [[noreturn]] void simt_begin()
{
    block.kernel->call(block.args);
    fiber *me = now;
    warp *w = me->of;
    if (me->copies.size() > 0) {
        die("a thread returns while copies that it has issued were never waited for");
    }
    if (w->arrived > 0) {
        die("a thread returns while others of its warp are at ", kind_name(w->kind));
    }
    if (w->parked > 0) {
        die("a thread returns while others of its warp wait at __syncthreads");
    }
    fiber *f = me->next;
    if (++w->returned == w->n_lanes) {
        block.n_returned++;
        f = next_warp();
    }
    if (f == NULL) {
        now = NULL;
        swap_to(&me->sp, outside);
    }
    run(f);
    swap_to(&me->sp, f->sp);
    abort();
}

// A stack that simt_swap can go to. Stacks begin at different places of a page, or the caches would
// hold few of them.
SIMT_FAST void prepare(fiber *f)
{
    unsigned char *top = stacks + (size_t)f->index * (STACK + GUARD) + GUARD + STACK;
    void **s = (void **)(top - 64 - f->index % 31 * 128);
    *--s = NULL; // the return address of simt_begin: where a stack trace ends
    *--s = (void *)simt_begin;
    f->sp = s;
    f->groups = 0;
}

void make_stacks()
{
    size_t nbytes = THREADS_MAX * (STACK + GUARD);
    stacks = (unsigned char *)mmap(NULL, nbytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    arena = (unsigned char *)mmap(NULL, GUARD + SHARED_ALL, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED || arena == MAP_FAILED) {
        perror("simt: no memory for stacks");
        abort();
    }
    mprotect(arena, GUARD, PROT_NONE);
    arena += GUARD;
    for (unsigned i = 0; i < THREADS_MAX; i++) {
        mprotect(stacks + i * (STACK + GUARD), GUARD, PROT_NONE);
        fibers[i].index = i;
        fibers[i].lane = i % LANES;
        fibers[i].of = &warps[i / LANES];
    }
}

void run_block()
{
    size_t nbytes = block.kernel->shared_bytes;
    SIMT_UNPOISON(arena, nbytes);
    memset(arena, 0xff, nbytes);
    for (unsigned i = 0; i < block.n_warps; i++) {
        warp *w = &warps[i];
        unsigned left = block.n_threads - i * LANES;
        w->n_lanes = left < LANES ? left : LANES;
        w->arrived = w->parked = w->returned = w->round = 0;
    }
    for (unsigned i = 0; i < block.n_threads; i++) {
        prepare(&fibers[i]);
    }
    block.n_returned = 0;
    all_ready();
    fiber *f = block.ready[block.n_ready - 1]->entry;
    run(f);
    swap_to(&outside, f->sp);
#if !defined(__SANITIZE_ADDRESS__)
    for (size_t i = nbytes; i < nbytes + CANARY; i++) {
        if (arena[i] != CANARY_BYTE) {
            die("the block has written behind its shared memory");
        }
    }
#endif
}
} // namespace

void simt_run(const simt_kernel &k, const void *args, uint64_t seed, uint64_t launch)
{
    if (stacks == NULL) {
        make_stacks();
    }
    block.kernel = &k;
    block.args = args;
    block.seed = seed;
    block.launch = launch;
    block.n_threads = k.block.x * k.block.y * k.block.z;
    block.n_warps = (block.n_threads + LANES - 1) / LANES;
    random_state = (seed * 0x9e3779b97f4a7c15u ^ launch * 0xbf58476d1ce4e5b9u) | 1;
    for (int i = 0; i < 8; i++) {
        draw(2);
    }
    blockDim = k.block;
    gridDim = k.grid;
    simt_shared = arena;
    SIMT_UNPOISON(arena, SHARED_ALL);
    memset(arena, CANARY_BYTE, SHARED_ALL);
    SIMT_POISON(arena + k.shared_bytes, SHARED_ALL - k.shared_bytes);
    for (unsigned i = 0; i < block.n_threads; i++) {
        fibers[i].at = {i % k.block.x, i / k.block.x % k.block.y, i / k.block.x / k.block.y};
    }

    size_t n = (size_t)k.grid.x * k.grid.y * k.grid.z;
    std::vector<uint32_t> order(n);
    for (size_t i = 0; i < n; i++) {
        size_t j = draw((uint32_t)i + 1);
        order[i] = order[j];
        order[j] = (uint32_t)i;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t b = order[i];
        blockIdx = {b % k.grid.x, b / k.grid.x % k.grid.y, b / k.grid.x / k.grid.y};
        run_block();
    }
    SIMT_UNPOISON(arena, SHARED_ALL);
    simt_count.blocks += n;
    simt_count.threads += n * block.n_threads;
}

// ---- meetings ----

SIMT_FAST unsigned simt_lane()
{
    return now->lane;
}

namespace
{
typedef float vec __attribute__((vector_size(32)));

// Two bf16 as two floats.
SIMT_FAST inline uint64_t wide(uint32_t pair)
{
    return (uint64_t)(pair & 0xffff0000u) << 32 | (uint32_t)(pair << 16);
}

// d[16, 8] += a[16, 16] b[16, 8], fp32, in the order of k; fragments as the PTX manual lays them out.
SIMT_FAST __attribute__((target_clones("arch=x86-64-v3", "default"))) void mma(simt_slot *lanes)
{
    alignas(32) float a[16][16], b[16][8], d[16][8];
    for (unsigned l = 0; l < LANES; l++) {
        const simt_slot &s = lanes[l];
        unsigned g = l / 4, t = l % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            uint64_t two = wide(s.a[i]);
            memcpy(&a[g + i % 2 * 8][t + i / 2 * 8], &two, sizeof two);
        }
        for (unsigned i = 0; i < 2; i++) {
            uint32_t low = s.b[i] << 16, high = s.b[i] & 0xffff0000u;
            memcpy(&b[t + i * 8][g], &low, sizeof low);
            memcpy(&b[t + i * 8 + 1][g], &high, sizeof high);
            memcpy(&d[g + i * 8][t], &s.d[i * 2], 8);
        }
    }
    for (unsigned r = 0; r < 16; r += 4) {
        vec s0 = *(vec *)d[r], s1 = *(vec *)d[r + 1], s2 = *(vec *)d[r + 2], s3 = *(vec *)d[r + 3];
        for (unsigned k = 0; k < 16; k++) {
            vec y = *(const vec *)b[k];
            s0 += a[r][k] * y;
            s1 += a[r + 1][k] * y;
            s2 += a[r + 2][k] * y;
            s3 += a[r + 3][k] * y;
        }
        *(vec *)d[r] = s0;
        *(vec *)d[r + 1] = s1;
        *(vec *)d[r + 2] = s2;
        *(vec *)d[r + 3] = s3;
    }
    for (unsigned l = 0; l < LANES; l++) {
        for (unsigned i = 0; i < 2; i++) {
            memcpy(&lanes[l].d[i * 2], &d[l / 4 + i * 8][l % 4 * 2], 8);
        }
    }
    simt_count.mma++;
}

SIMT_FAST void check_rows(const simt_slot *lanes)
{
    for (unsigned l = 0; l < LANES; l++) {
        const void *row = lanes[l].row;
        if ((uintptr_t)row % 16 != 0) {
            die("ldmatrix: the address of a row is not a multiple of 16");
        }
        if (!in_shared(row, 16)) {
            die("ldmatrix: a row is not in the block's shared memory");
        }
        if (is_pending((const unsigned char *)row)) {
            die("ldmatrix: a row is still being copied: no wait, or no barrier behind it");
        }
    }
}

SIMT_FAST void ldmatrix(simt_slot *lanes)
{
    check_rows(lanes);
    for (unsigned l = 0; l < LANES; l++) {
        for (unsigned i = 0; i < 4; i++) {
            memcpy(&lanes[l].a[i], (const unsigned char *)lanes[8 * i + l / 4].row + l % 4 * 4, 4);
        }
    }
}

SIMT_FAST void ldmatrix_transposed(simt_slot *lanes)
{
    check_rows(lanes);
    for (unsigned l = 0; l < LANES; l++) {
        for (unsigned i = 0; i < 4; i++) {
            uint16_t low, high;
            const simt_slot *s = &lanes[8 * i + l % 4 * 2];
            memcpy(&low, (const unsigned char *)s[0].row + l / 4 * 2, 2);
            memcpy(&high, (const unsigned char *)s[1].row + l / 4 * 2, 2);
            lanes[l].a[i] = (uint32_t)low | (uint32_t)high << 16;
        }
    }
}

// Why this thread cannot be at a meeting, if it cannot.
void check_meeting(const warp *w, simt_meeting kind, unsigned mask)
{
    if (mask != 0xffffffffu) {
        die("only the full mask is supported by ", kind_name(kind));
    }
    if (w->n_lanes != LANES) {
        die("a warp of less than 32 threads is at ", kind_name(kind));
    }
    if (w->parked > 0) {
        die("others of its warp wait at __syncthreads while a thread is at ", kind_name(kind));
    }
    if (w->returned > 0) {
        die("others of its warp have returned while a thread is at ", kind_name(kind));
    }
    if (w->arrived > 0 && w->kind != kind) {
        static char both[96];
        snprintf(both, sizeof both, "%s and at %s", kind_name(w->kind), kind_name(kind));
        die("threads of a warp are at different places: at ", both);
    }
}
} // namespace

SIMT_FAST simt_slot *simt_meet(simt_meeting kind, unsigned mask)
{
    fiber *me = now;
    warp *w = me->of;
    if (mask != 0xffffffffu || w->n_lanes != LANES || (w->parked | w->returned) != 0 ||
        (w->arrived > 0 && w->kind != kind)) {
        check_meeting(w, kind, mask);
    }
    w->kind = kind;
    simt_slot *lanes = w->slots[w->round & 1];
    if (++w->arrived < LANES) {
        switch_to(me, me->next);
        return lanes;
    }
    w->arrived = 0;
    w->round++;
    simt_mine = &w->slots[w->round & 1][me->lane];
    switch (kind) {
    case SIMT_MMA:
        mma(lanes);
        break;
    case SIMT_LDMATRIX:
        ldmatrix(lanes);
        break;
    case SIMT_LDMATRIX_T:
        ldmatrix_transposed(lanes);
        break;
    case SIMT_SHUFFLE:
    case SIMT_SYNCWARP:
        break;
    }
    if (--block.quantum <= 0 && block.n_ready > 1) {
        w->entry = me;
        rotate();
        switch_to(me, block.ready[block.n_ready - 1]->entry);
    }
    return lanes;
}

SIMT_FAST void simt_barrier()
{
    fiber *me = now;
    warp *w = me->of;
    if (w->arrived > 0) {
        die("a thread is at __syncthreads while others of its warp are at ", kind_name(w->kind));
    }
    if (w->returned > 0) {
        die("a thread is at __syncthreads that others of its warp never reach: they have returned");
    }
    if (++w->parked < w->n_lanes) {
        switch_to(me, me->next);
        return;
    }
    block.n_parked++;
    switch_to(me, next_warp());
}

// ---- asynchronous copies ----

void simt_copy(void *shared, const void *global, bool valid)
{
    unsigned char *to = (unsigned char *)shared;
    const unsigned char *from = (const unsigned char *)global;
    if ((uintptr_t)to % 16 != 0 || (valid && (uintptr_t)from % 16 != 0)) {
        die("an asynchronous copy between addresses that are not multiples of 16");
    }
    if (!in_shared(to, 16)) {
        die("an asynchronous copy to what is not the block's shared memory");
    }
    if (is_pending(to)) {
        die("an asynchronous copy to where another is still under way");
    }
    if (valid) { // a bad source is reported here, where it is named
        volatile unsigned char first = from[0], last = from[15];
        (void)first, (void)last;
    }
    simt_count.copies++;
    memset(to, 0xff, 16);
    SIMT_POISON(to, 16);
    set_pending(to, true);
    now->copies.push_back({to, valid ? from : NULL, now->groups});
}

void simt_copy_commit()
{
    now->groups++;
}

void simt_copy_wait(unsigned n)
{
    fiber *me = now;
    if (me->copies.size() > 0 && me->groups > n) {
        make_copies(me, me->groups - n);
    }
}

void simt_needs_fp8()
{
    if (simt_now.major * 10 + simt_now.minor < 89) {
        die("numbers in e4m3 on a device that has none");
    }
}
