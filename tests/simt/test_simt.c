/* test_simt.c - the machine that runs kernels on a CPU: threads, warps, shared memory, copies, mma,
 * numbers, and that each kind of broken kernel is caught. */
#include "simt_fixture.h"
#include "simt_kernels.h"

#define SEEDS 40u

/* ---- threads ---- */

static void test_every_thread_runs_once(void **state)
{
    (void)state;
    const uint32_t grids[][3] = {{1, 1, 1}, {5, 3, 2}, {17, 1, 1}};
    const uint32_t blocks[][3] = {{1, 1, 1}, {8, 4, 3}, {1024, 1, 1}, {33, 1, 1}};
    for (size_t g = 0; g < 3; g++) {
        for (size_t b = 0; b < 4; b++) {
            uint32_t n = grids[g][0] * grids[g][1] * grids[g][2] * blocks[b][0] * blocks[b][1] *
                         blocks[b][2];
            uint32_t *zeros = calloc(n + 1, sizeof *zeros), *got = malloc(n * sizeof *got);
            uint32_t *count = to_device(zeros, n * sizeof *zeros),
                     *order = device(n * sizeof *order);
            uint32_t *length = to_device(zeros, sizeof *zeros);
            OK(simt_where(stream, grids[g], blocks[b], count, order, length));
            to_host(got, count, n * sizeof *got);
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(got[i], 1);
            }
            OK(cudaFree(count));
            OK(cudaFree(order));
            OK(cudaFree(length));
            free(zeros);
            free(got);
        }
    }
    struct simt_counts c;
    simt_get_counts(&c);
    assert_int_equal(c.launches, 12);
    assert_int_equal(c.blocks, (1 + 30 + 17) * 4);
}

static void order_of_threads(uint64_t seed, uint32_t *out)
{
    const uint32_t grid[3] = {4, 1, 1}, block[3] = {128, 1, 1};
    uint32_t zeros[513] = {0};
    simt_reset();
    simt_seed(seed);
    uint32_t *count = to_device(zeros, 512 * sizeof *zeros), *order = device(512 * sizeof *order);
    uint32_t *length = to_device(zeros, sizeof *zeros);
    OK(simt_where(stream, grid, block, count, order, length));
    to_host(out, order, 512 * sizeof *out);
    OK(cudaFree(count));
    OK(cudaFree(order));
    OK(cudaFree(length));
}

static void test_order_follows_the_seed(void **state)
{
    (void)state;
    uint32_t a[512], b[512], first_blocks = 0, first_warps = 0, first_lanes = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        order_of_threads(seed, a);
        order_of_threads(seed, b);
        assert_memory_equal(a, b, sizeof a);
        first_blocks |= 1u << a[0] / 128;
        first_warps |= 1u << a[0] % 128 / 32;
        first_lanes |= 1u << a[0] % 32;
    }
    assert_int_equal(first_blocks, 0xf);
    assert_int_equal(first_warps, 0xf);
    assert_true(__builtin_popcount(first_lanes) > 10);
}

static void test_launch_limits(void **state)
{
    (void)state;
    FAILS(cudaErrorInvalidConfiguration, simt_nothing(stream, 0, 32, 0));
    FAILS(cudaErrorInvalidConfiguration, simt_nothing(stream, 1, 0, 0));
    FAILS(cudaErrorInvalidConfiguration, simt_nothing(stream, 1, 1025, 0));
    OK(simt_nothing(stream, 1, 1024, 48 * 1024));
    FAILS(cudaErrorInvalidValue, simt_nothing(stream, 1, 32, 48 * 1024 + 1));
    OK(simt_nothing_allowed(stream, 227 * 1024, 227 * 1024));
    FAILS(cudaErrorInvalidValue, simt_nothing_allowed(stream, 100 * 1024, 100 * 1024 + 1));
    FAILS(cudaErrorInvalidValue, simt_nothing_allowed(stream, 227 * 1024 + 1, 0));
    FAILS(cudaErrorInvalidValue,
          simt_nothing(stream, 1, 32, 0)); /* nobody has asked for that error yet */
    OK(cudaStreamSynchronize(stream));
    simt_set_capability(8, 9);
    OK(simt_nothing_allowed(stream, 99 * 1024, 99 * 1024));
    FAILS(cudaErrorInvalidValue, simt_nothing_allowed(stream, 99 * 1024 + 1, 0));
    FAILS(cudaErrorInvalidValue, cudaGetLastError());
    simt_set_capability(8, 0);
    OK(simt_nothing_allowed(stream, 163 * 1024, 0));
    FAILS(cudaErrorInvalidValue, simt_nothing_allowed(stream, 163 * 1024 + 1, 0));
    FAILS(cudaErrorInvalidValue, cudaGetLastError());
    cudaStream_t none = (cudaStream_t)&none;
    FAILS(cudaErrorInvalidResourceHandle, simt_nothing(none, 1, 32, 0));
}

/* ---- warps ---- */

static void test_shuffles(void **state)
{
    (void)state;
    enum { N = 128 };
    uint32_t in[N], out[6][N];
    uint64_t random = 7;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        simt_seed(seed);
        for (int arg = 0; arg < 32; arg += seed == 1 ? 1 : 5) {
            float sum = 0;
            for (uint32_t i = 0; i < N; i++) {
                in[i] = random_next(&random) % 1000;
                sum += (float)in[i];
            }
            uint32_t *x = to_device(in, sizeof in), *y = device(sizeof out);
            OK(simt_shuffles(stream, N, x, y, arg));
            to_host(out, y, sizeof out);
            for (uint32_t i = 0; i < N; i++) {
                uint32_t *warp = in + i / 32 * 32, lane = i % 32, by = (uint32_t)arg, most = 0;
                for (uint32_t j = 0; j < 32; j++) {
                    most = warp[j] > most ? warp[j] : most;
                }
                assert_int_equal(out[0][i], warp[lane ^ by]);
                assert_int_equal(out[1][i], warp[by]);
                assert_int_equal(out[2][i], lane + by < 32 ? warp[lane + by] : warp[lane]);
                assert_int_equal(out[3][i], lane >= by ? warp[lane - by] : warp[lane]);
                assert_int_equal(out[4][i], most);
                assert_int_equal(out[5][i], (uint32_t)sum);
            }
            OK(cudaFree(x));
            OK(cudaFree(y));
        }
    }
}

static void diverge(int fault)
{
    uint32_t *out = device(64 * sizeof *out);
    OK(simt_diverge(stream, (enum simt_divergence)fault, out));
    OK(cudaStreamSynchronize(stream));
    OK(cudaFree(out));
}

static void test_divergence_is_caught(void **state)
{
    (void)state;
    diverge(SIMT_NO_DIVERGENCE);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        simt_seed(seed);
        dies(diverge, SIMT_HALF_AT_BARRIER, "__syncthreads", NULL);
        dies(diverge, SIMT_WARP_RETURNS, "a whole warp has returned", NULL);
        dies(diverge, SIMT_BARRIER_AND_SHUFFLE, "__syncthreads", NULL);
        dies(diverge, SIMT_TWO_KINDS, "different places", NULL);
        dies(diverge, SIMT_LANES_RETURNED, "return", NULL);
    }
    dies(diverge, SIMT_PART_MASK, "only the full mask", NULL);
    dies(diverge, SIMT_SMALL_WARP, "less than 32", NULL);
    dies(diverge, SIMT_TWO_KINDS, "kernel diverge_kernel, block (", NULL); /* where it was */
}

/* ---- matrices ---- */

static void test_ldmatrix(void **state)
{
    (void)state;
    uint16_t in[32][8];
    uint32_t out[32][4];
    for (uint16_t i = 0; i < 256; i++) {
        in[i / 8][i % 8] = (uint16_t)(i * 257);
    }
    for (int transposed = 0; transposed < 2; transposed++) {
        uint16_t *x = to_device(in, sizeof in);
        uint32_t *y = device(sizeof out);
        OK(simt_ldmatrix_of(stream, x, y, transposed != 0, 0));
        to_host(out, y, sizeof out);
        for (uint32_t lane = 0; lane < 32; lane++) {
            for (uint32_t i = 0; i < 4; i++) {
                for (uint32_t half = 0; half < 2; half++) {
                    uint32_t row = transposed ? lane % 4 * 2 + half : lane / 4;
                    uint32_t col = transposed ? lane / 4 : lane % 4 * 2 + half;
                    uint32_t want =
                        in[31 - (8 * i + row)][col]; /* row r comes from lane r: 31 - r */
                    assert_int_equal(out[lane][i] >> 16 * half & 0xffffu, want);
                }
            }
        }
        OK(cudaFree(x));
        OK(cudaFree(y));
    }
}

static void bad_ldmatrix(int fault)
{
    uint16_t *x = device(512);
    uint32_t *y = device(512);
    OK(simt_ldmatrix_of(stream, x, y, false, fault));
    OK(cudaStreamSynchronize(stream));
}

static void test_bad_ldmatrix_is_caught(void **state)
{
    (void)state;
    dies(bad_ldmatrix, 1, "not a multiple of 16", NULL);
    dies(bad_ldmatrix, 2, "not in the block's shared memory", NULL);
}

static uint32_t bf16(float x) /* of numbers that it holds exactly */
{
    assert_int_equal(bits_of(x) & 0xffffu, 0);
    return bits_of(x) >> 16;
}

/* One mma against the plain product, the fragments laid out as the PTX manual's formulas say: element
 * i of a lane is at row, col with groupID = lane / 4, threadID_in_group = lane % 4. */
static void test_mma(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (int round = 0; round < 50; round++) {
        float a[16][16], b[16][8], c[16][8];
        uint32_t fa[32][4] = {0}, fb[32][2] = {0};
        float fd[32][4];
        for (uint32_t i = 0; i < 256; i++) {
            a[i / 16][i % 16] = ((float)(random_next(&random) % 255) - 127.0f) * 0x1p-3f;
            b[i / 16][i % 8] = ((float)(random_next(&random) % 255) - 127.0f) * 0x1p-9f;
            c[i / 16][i % 8] = (float)random_next(&random) * 0x1p-28f;
        }
        for (uint32_t lane = 0; lane < 32; lane++) {
            uint32_t group = lane / 4, in_group = lane % 4;
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
                uint32_t col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
                fa[lane][i / 2] |= bf16(a[row][col]) << 16 * (i % 2);
            }
            for (uint32_t i = 0; i < 4; i++) {
                fb[lane][i / 2] |= bf16(b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group])
                                   << 16 * (i % 2);
                fd[lane][i] = c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
            }
        }
        uint32_t *x = to_device(fa, sizeof fa), *y = to_device(fb, sizeof fb);
        float *z = to_device(fd, sizeof fd);
        OK(simt_mma_of(stream, x, y, z));
        to_host(fd, z, sizeof fd);
        for (uint32_t lane = 0; lane < 32; lane++) {
            for (uint32_t i = 0; i < 4; i++) {
                uint32_t row = lane / 4 + (i < 2 ? 0 : 8), col = lane % 4 * 2 + (i & 1);
                double want = c[row][col], size = fabs(want);
                for (uint32_t k = 0; k < 16; k++) {
                    want += (double)a[row][k] * (double)b[k][col];
                    size += fabs((double)a[row][k] * (double)b[k][col]);
                }
                assert_true(fabs((double)fd[lane][i] - want) <= size * 0x1p-20);
            }
        }
        OK(cudaFree(x));
        OK(cudaFree(y));
        OK(cudaFree(z));
    }
}

/* A product of whole matrices by copies, ldmatrix and mma; small integers, so that it is exact. */
static void gemm(int fault)
{
    const uint32_t shapes[][3] = {{16, 16, 32}, {1, 64, 128}, {50, 96, 160}};
    uint64_t random = 11;
    for (size_t s = 0; s < 3; s++) {
        uint32_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        uint16_t *a = malloc(m * k * sizeof *a), *b = malloc(n * k * sizeof *b);
        float *got = malloc(m * n * sizeof *got);
        for (uint32_t i = 0; i < m * k; i++) {
            a[i] = (uint16_t)bf16((float)(random_next(&random) % 17) - 8.0f);
        }
        for (uint32_t i = 0; i < n * k; i++) {
            b[i] = (uint16_t)bf16((float)(random_next(&random) % 17) - 8.0f);
        }
        uint16_t *x = to_device(a, m * k * sizeof *a), *y = to_device(b, n * k * sizeof *b);
        float *out = device(m * n * sizeof *out);
        OK(simt_gemm(stream, m, n, k, x, y, out, (enum simt_gemm_fault)fault));
        to_host(got, out, m * n * sizeof *got);
        for (uint32_t i = 0; i < m * n; i++) {
            float want = 0;
            for (uint32_t j = 0; j < k; j++) {
                want += float_of((uint32_t)a[i / n * k + j] << 16) *
                        float_of((uint32_t)b[i % n * k + j] << 16);
            }
            assert_true(got[i] == want);
        }
        OK(cudaFree(x));
        OK(cudaFree(y));
        OK(cudaFree(out));
        free(a);
        free(b);
        free(got);
    }
}

static void test_matrix_product(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        simt_seed(seed);
        gemm(SIMT_GEMM_RIGHT);
    }
    for (uint64_t seed = 1; seed <= 5; seed++) {
        simt_seed(seed);
        dies(gemm, SIMT_GEMM_NO_WAIT, "still being copied", NULL);
        dies(gemm, SIMT_GEMM_NO_COMMIT, "still being copied", "never waited for");
        dies(gemm, SIMT_GEMM_NO_BARRIER, "still being copied", NULL);
        dies(gemm, SIMT_GEMM_NO_SECOND_BARRIER, "still being copied", "still under way");
    }
}

/* ---- copies ---- */

static uint32_t copied[3][32];

static void copies(int fault)
{
    uint32_t global[32][4];
    for (uint32_t i = 0; i < 128; i++) {
        global[i / 4][i % 4] = 1000 + i;
    }
    uint32_t *x = to_device(global, sizeof global), *out = device(sizeof copied);
    OK(simt_copies(stream, x, out, (enum simt_copy_fault)fault));
    to_host(copied, out, sizeof copied);
    OK(cudaFree(x));
    OK(cudaFree(out));
}

static void test_copies_are_deferred(void **state)
{
    (void)state;
    const int right[] = {SIMT_COPY_RIGHT, SIMT_COPY_WAIT_ONE, SIMT_COPY_SOURCE_CHANGES,
                         SIMT_COPY_NO_COMMIT};
    for (uint64_t seed = 1; seed <= 5; seed++) {
        simt_seed(seed);
        for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
            copies(right[i]);
            for (uint32_t t = 0; t < 32; t++) {
                /* without the first commit both copies are in the second group */
                uint32_t want = right[i] == SIMT_COPY_SOURCE_CHANGES ? 77 : 1000 + 4 * t;
                assert_int_equal(copied[0][t], want);
                assert_int_equal(copied[1][t], 0);
                assert_int_equal(copied[2][t], 0xffffffffu);
            }
        }
    }
}

/* What is read too early is NaN, or with AddressSanitizer the end. */
static void read_too_early(int fault)
{
    copies(fault);
    for (uint32_t t = 0; t < 32; t++) {
        assert_int_equal(copied[0][t], 0xffffffffu);
    }
    fprintf(stderr, "only NaN was there\n");
    abort();
}

static void test_bad_copies_are_caught(void **state)
{
    (void)state;
    const char *early = WITH_ASAN ? "use-after-poison" : "only NaN was there";
    dies(read_too_early, SIMT_COPY_NO_WAIT_READ, early, NULL);
    dies(read_too_early, SIMT_COPY_WAIT_ONE_READ_TWO, early, NULL);
    dies(copies, SIMT_COPY_NEVER_WAITED, "never waited for", NULL);
    dies(copies, SIMT_COPY_UNALIGNED_TO, "not multiples of 16", NULL);
    dies(copies, SIMT_COPY_UNALIGNED_FROM, "not multiples of 16", NULL);
    dies(copies, SIMT_COPY_OUTSIDE, "not the block's shared memory", NULL);
    dies(copies, SIMT_COPY_TWICE, "another is still under way", NULL);
}

/* ---- shared memory ---- */

static uint32_t exchange(enum simt_exchange_fault fault)
{
    uint32_t wrong = 0, *out = to_device(&wrong, sizeof wrong);
    OK(simt_exchange(stream, out, fault));
    to_host(&wrong, out, sizeof wrong);
    OK(cudaFree(out));
    return wrong;
}

/* Threads that rely on an order nobody has promised are wrong for nearly every seed. */
static void test_missing_barriers_show(void **state)
{
    (void)state;
    const enum simt_exchange_fault faults[] = {
        SIMT_EXCHANGE_NO_BARRIER, SIMT_EXCHANGE_NO_SECOND_BARRIER, SIMT_EXCHANGE_NO_SYNCWARP};
    uint32_t seen[3] = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        simt_seed(seed);
        assert_int_equal(exchange(SIMT_EXCHANGE_RIGHT), 0);
        assert_int_equal(exchange(SIMT_EXCHANGE_IN_WARP), 0);
        for (size_t i = 0; i < 3; i++) {
            seen[i] += exchange(faults[i]) > 0 ? 1 : 0;
        }
    }
    for (size_t i = 0; i < 3; i++) {
        assert_true(seen[i] >= SEEDS * 9 / 10);
    }
}

static void fill(int beyond)
{
    const uint32_t sizes[] = {16, 1000, 48 * 1024};
    for (size_t i = 0; i < 3; i++) {
        uint32_t fresh = 0, *out = to_device(&fresh, sizeof fresh);
        OK(simt_fill(stream, sizes[i], beyond, out));
        to_host(&fresh, out, sizeof fresh);
        assert_int_equal(fresh, 3 * sizes[i]);
        OK(cudaFree(out));
    }
}

static void test_shared_memory_ends(void **state)
{
    (void)state;
    fill(0);
    dies(fill, 1, WITH_ASAN ? "use-after-poison" : "behind its shared memory", NULL);
    dies(fill, 8, WITH_ASAN ? "use-after-poison" : "behind its shared memory", NULL);
    dies(fill, -1, "", NULL); /* a page before it that nobody may touch */
}

/* ---- numbers ---- */

/* A number as bf16 by the definition: the nearer of its neighbours, of two as near the even one. */
static uint32_t nearest_bf16(float x)
{
    if (isnan(x)) {
        return 0x7fff;
    }
    uint32_t low = bits_of(x) >> 16;
    if (isinf(x)) {
        return low;
    }
    double below = (double)float_of(low << 16), at = (double)x;
    uint32_t top = (low & 0x7fffu) + 1; /* away from zero; beyond the largest it would be 2^128 */
    double above = top == 0x7f80u ? copysign(0x1p128, at) : (double)float_of((low + 1) << 16);
    double to_low = fabs(at - below), to_high = fabs(above - at);
    return to_low < to_high || (to_low == to_high && low % 2 == 0) ? low : low + 1;
}

static double e4m3_value(uint32_t bits)
{
    int exponent = (int)(bits >> 3 & 15u);
    double m = (double)(bits & 7u);
    double x = exponent == 0 ? ldexp(m, -9) : ldexp(8.0 + m, exponent - 10);
    return bits & 0x80u ? -x : x;
}

static size_t interesting(float *x)
{
    size_t n = 0;
    const float some[] = {0.0f,           -0.0f,     INFINITY, -INFINITY,       NAN,      448.0f,
                          463.9f,         464.0f,    465.0f,   1e30f,           -1e30f,   3.4e38f,
                          -3.4028235e38f, 0x1p-9f,   0x1p-10f, 0x1.000002p-10f, 0x1p-11f, 0x1.8p-9f,
                          0x1p-6f,        0x1.fp-7f, 0x1p-149f};
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
        x[n++] = some[i];
    }
    for (uint32_t i = 0; i < 0x7e;
         i++) { /* every e4m3, and where the next begins, from both sides */
        for (uint32_t sign = 0; sign < 2; sign++) {
            float value = (float)e4m3_value(i | sign << 7),
                  mid = (float)((e4m3_value(i) + e4m3_value(i + 1)) / 2);
            mid = sign ? -mid : mid;
            x[n++] = value;
            x[n++] = mid;
            x[n++] = nextafterf(mid, 1000.0f);
            x[n++] = nextafterf(mid, -1000.0f);
        }
    }
    uint64_t random = 5;
    for (uint32_t i = 0; i < 4000; i++) {
        x[n++] = float_of(random_next(&random) << 1 ^ random_next(&random));
        x[n++] = float_of((random_next(&random) << 17) | 0x8000u); /* ties of bf16 */
    }
    return n;
}

static void check_e4m3(float x, uint32_t got)
{
    if (isnan(x)) {
        assert_int_equal(got & 0x7fu, 0x7f);
        return;
    }
    assert_int_equal(got >> 7, signbit(x) ? 1 : 0);
    double at = fabs((double)x), best = INFINITY;
    for (uint32_t i = 0; i < 0x7f; i++) {
        best = fmin(best, fabs(e4m3_value(i) - at));
    }
    double mine = fabs(e4m3_value(got & 0x7fu) - at);
    assert_int_not_equal(got & 0x7fu, 0x7f);
    if (at >= 448.0) {
        assert_int_equal(got & 0x7fu, 0x7e);
        return;
    }
    assert_true(mine == best);
    uint32_t up = (got & 0x7fu) + 1, down = (got & 0x7fu) - 1;
    bool tie = (up < 0x7f && fabs(e4m3_value(up) - at) == mine && mine > 0) ||
               ((got & 0x7fu) > 0 && fabs(e4m3_value(down) - at) == mine && mine > 0);
    assert_true(!tie || got % 2 == 0);
}

static void test_numbers(void **state)
{
    (void)state;
    static float x[10000], exp2s[10000];
    static uint32_t halves[10000], bytes[10000];
    size_t n = interesting(x);
    assert_true(n <= 10000);
    float *in = to_device(x, n * sizeof *x), *p = device(n * sizeof *exp2s);
    uint32_t *b = device(n * sizeof *halves), *e = device(n * sizeof *bytes);
    OK(simt_pack(stream, (uint32_t)n, in, b, e, p));
    to_host(halves, b, n * sizeof *halves);
    to_host(bytes, e, n * sizeof *bytes);
    to_host(exp2s, p, n * sizeof *exp2s);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(halves[i] & 0xffffu, nearest_bf16(x[i]));
        assert_int_equal(halves[i] >> 16, 0x3f80);
        check_e4m3(x[i], bytes[i] & 0xffu);
        assert_int_equal(bytes[i] >> 8 & 0xffffu, 0x3cb8); /* 1.5 above -1 */
        assert_int_equal(bytes[i] >> 24, bytes[i] & 0xffu);
        double want = exp2((double)x[i]);
        if (isnan(x[i])) {
            assert_true(isnan(exp2s[i]));
        } else if (want < 0x1p-126) {
            assert_true(exp2s[i] == 0.0f);
        } else if (x[i] < 128.0f) {
            assert_true(fabs((double)exp2s[i] - want) <= want * 0x1p-22);
        }
    }
    OK(cudaFree(in));
    OK(cudaFree(p));
    OK(cudaFree(b));
    OK(cudaFree(e));
}

static void pack_fp8(int capability)
{
    simt_set_capability(capability / 10, capability % 10);
    float *x = device(4), *p = device(4);
    uint32_t *b = device(4), *e = device(4);
    OK(simt_pack(stream, 1, x, b, NULL, p));
    OK(cudaStreamSynchronize(stream));
    OK(simt_pack(stream, 1, x, b, e, p));
    OK(cudaStreamSynchronize(stream));
}

static void test_old_devices_have_no_fp8(void **state)
{
    (void)state;
    dies(pack_fp8, 80, "has none", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_every_thread_runs_once),  TEST(test_order_follows_the_seed),
        TEST(test_launch_limits),           TEST(test_shuffles),
        TEST(test_divergence_is_caught),    TEST(test_ldmatrix),
        TEST(test_bad_ldmatrix_is_caught),  TEST(test_mma),
        TEST(test_matrix_product),          TEST(test_copies_are_deferred),
        TEST(test_bad_copies_are_caught),   TEST(test_missing_barriers_show),
        TEST(test_shared_memory_ends),      TEST(test_numbers),
        TEST(test_old_devices_have_no_fp8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
