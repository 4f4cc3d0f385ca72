/* test_cuda_ops.c - every operation of cuda_ops.h that goes row by row (attention has its own test)
 * against its plain C twin or the same mathematics in double.
 *
 * Error rule. Where only copies, conversions and single roundings are made, bits are equal. Else a
 * result may be what its type rounds any number to that is within the error of the fp32 arithmetic
 * from the exact one: rounding(exact - e) <= result <= rounding(exact + e), e said at each test. So
 * the rounding of the output type itself has no slack at all. Sums of n terms in fp32 are of partial
 * sums, at most 64 additions deep for every shape: their relative error is below 2^-18 of the sum of
 * magnitudes.
 *
 * Outputs are NaN before, and one row longer than the result: the last must stay as it was. */
#include "cuda_fixture.h"

static const uint32_t ROW_COUNTS[] = {1, 2, 7, 33};
static const uint32_t DIMS[] = {8, 64, 96, 256, 688, 1000, 4096, 14336};
#define N_OF(a) (sizeof(a) / sizeof(a)[0])
#define MAX_ROWS 33u

/* FP8 needs capability 8.9. */
static bool knows_type(enum gdk_type type)
{
    struct cudaDeviceProp prop;
    CUDA_OK(cudaGetDeviceProperties(&prop, 0));
    return type != GDK_E4M3 || prop.major * 10 + prop.minor >= 89;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void assert_untouched(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(((const uint8_t *)p)[i], 0xff);
    }
}

/* from_device of a result of n bytes and a last row of `guard` bytes that nobody may have written. The
 * device memory is given back. */
static void *result_of(void *device, size_t n, size_t guard)
{
    uint8_t *host = from_device(device, n + guard);
    assert_untouched(host + n, guard);
    CUDA_OK(cudaFree(device));
    return host;
}

static size_t type_bytes(enum gdk_type type)
{
    return type == GDK_F32 ? 4 : type == GDK_BF16 ? 2 : 1;
}

static struct gdk_cuda_out open_out(enum gdk_type type, uint32_t rows, uint32_t dim)
{
    return (struct gdk_cuda_out){
        .data = device_bytes((size_t)(rows + 1) * dim * type_bytes(type)),
        .scales = type == GDK_E4M3 ? device_bytes((rows + 1) * sizeof(float)) : NULL,
        .type = type};
}

/* What an operation wrote. */
struct rows {
    void *bits;
    float *numbers; /* E4M3: without the scale */
    float *scales;  /* E4M3, else NULL */
};

static struct rows close_out(struct gdk_cuda_out out, uint32_t rows, uint32_t dim)
{
    size_t n = (size_t)rows * dim;
    struct rows r = {.bits =
                         result_of(out.data, n * type_bytes(out.type), dim * type_bytes(out.type)),
                     .numbers = malloc((n + 1) * sizeof(float))};
    assert_non_null(r.numbers);
    if (out.type == GDK_E4M3) {
        r.scales = result_of(out.scales, rows * sizeof(float), sizeof(float));
    }
    for (size_t i = 0; i < n; i++) {
        r.numbers[i] = out.type == GDK_F32    ? ((const float *)r.bits)[i]
                       : out.type == GDK_BF16 ? bf16_value(((const gdk_bf16 *)r.bits)[i])
                                              : gdk_e4m3_value(((const uint8_t *)r.bits)[i]);
    }
    return r;
}

static void free_rows(struct rows r)
{
    free(r.bits), free(r.numbers), free(r.scales);
}

static float rounded(enum gdk_type type, double x)
{
    float f = (float)x;
    return type == GDK_F32    ? f
           : type == GDK_BF16 ? bf16_value(bf16_of(f))
                              : gdk_e4m3_value(gdk_e4m3_of(f));
}

static void assert_close(enum gdk_type type, float got, double want, double error)
{
    float low = rounded(type, want - error), high = rounded(type, want + error);
    if (!(low <= got && got <= high)) {
        fail_msg("%.9g is not in [%.9g, %.9g] (exact: %.9g)", (double)got, (double)low,
                 (double)high, want);
    }
}

/* A row whose numbers are x: the scale and the numbers of gdk_quantize_cpu, bit for bit. */
static void assert_quantized(uint32_t rows, uint32_t dim, const float *x, const void *got,
                             const float *scales)
{
    uint8_t *want = malloc((size_t)rows * dim + 1);
    float *want_scales = malloc(rows * sizeof *want_scales);
    assert_true(want != NULL && want_scales != NULL);
    gdk_quantize_cpu(0, rows, dim, x, want, want_scales);
    for (uint32_t r = 0; r < rows; r++) {
        assert_true(isnan(want_scales[r]) ? isnan(scales[r])
                                          : bits_of(scales[r]) == bits_of(want_scales[r]));
    }
    assert_memory_equal(got, want, (size_t)rows * dim);
    free(want), free(want_scales);
}

/* ---- embed, gather: copies ---- */

static void embed_case(uint32_t rows, uint32_t dim)
{
    const uint32_t vocab = 50;
    float *values = random_floats((size_t)vocab * dim), *zeros = calloc(dim, sizeof *zeros);
    float *want = random_floats(dim);
    gdk_bf16 *table = bf16_array(values, (size_t)vocab * dim);
    struct gdk_token tokens[MAX_ROWS] = {0};
    for (uint32_t i = 0; i < rows; i++) {
        tokens[i].id = i % 5 == 3 ? -1 : (int32_t)((i * 13 + 49) % vocab);
    }
    void *d_table = to_device(table, (size_t)vocab * dim * sizeof *table);
    struct gdk_token *d_tokens = to_device(tokens, rows * sizeof *tokens);
    struct gdk_cuda_batch b = {.tokens = d_tokens, .n_rows = rows};
    struct gdk_cuda_out out = open_out(GDK_F32, rows, dim);
    CUDA_OK(gdk_embed_cuda(stream, &b, dim, d_table, out.data));
    struct rows got = close_out(out, rows, dim);
    for (uint32_t i = 0; i < rows; i++) {
        if (tokens[i].id >= 0) {
            gdk_embed_cpu(0, 1, dim, GD_DTYPE_BF16, table, &tokens[i].id, want);
        }
        assert_memory_equal(got.numbers + (size_t)i * dim, tokens[i].id >= 0 ? want : zeros,
                            dim * sizeof *want);
    }
    CUDA_OK(cudaFree(d_table));
    CUDA_OK(cudaFree(d_tokens));
    free_rows(got);
    free(values), free(zeros), free(want), free(table);
}

static void test_embed(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (size_t d = 0; d < N_OF(DIMS); d++) {
        for (size_t r = 0; r < N_OF(ROW_COUNTS); r++) {
            embed_case(ROW_COUNTS[r], DIMS[d]);
        }
    }
    embed_case(1, 32768);
}

static void test_gather(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    static const uint32_t widths[] = {16, 48, 384, 4096, 4112, 16384, 57344, 131072};
    for (size_t w = 0; w < N_OF(widths); w++) {
        uint32_t n = widths[w], rows = w + 1 < N_OF(widths) ? 33 : 1;
        uint8_t *src = (uint8_t *)random_floats((size_t)40 * n / 4);
        struct gdk_token tokens[MAX_ROWS] = {0};
        for (uint32_t i = 0; i < rows; i++) { /* the last ones are padding */
            tokens[i] = (struct gdk_token){.id = i < 30 ? 5 : -1, .place = i < 30 ? 39 - i : 0};
        }
        void *d_src = to_device(src, (size_t)40 * n), *dst = device_bytes((size_t)(rows + 1) * n);
        struct gdk_token *d_tokens = to_device(tokens, rows * sizeof *tokens);
        struct gdk_cuda_batch b = {.tokens = d_tokens, .n_rows = rows};
        CUDA_OK(gdk_gather_rows_cuda(stream, &b, n, d_src, dst));
        uint8_t *got = result_of(dst, (size_t)rows * n, n);
        for (uint32_t i = 0; i < rows; i++) {
            assert_memory_equal(got + (size_t)i * n, src + (size_t)tokens[i].place * n, n);
        }
        CUDA_OK(cudaFree(d_src));
        CUDA_OK(cudaFree(d_tokens));
        free(src), free(got);
    }
}

/* One block of each layer becomes another one; everything else stays, whatever the size of a block. */
static void test_kv_copy(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    enum { LAYERS = 3, BLOCKS = 5, DST = 4, SRC = 1 };
    static const uint32_t sizes[] = {8, 2048, 3072, 2 * 7 * 16 * 96, 2 * 8 * 16 * 128};
    for (size_t i = 0; i < N_OF(sizes); i++) {
        uint32_t n = sizes[i];
        size_t layer = (size_t)BLOCKS * n, all = LAYERS * layer;
        float *x = random_floats(all);
        gdk_bf16 *want = bf16_array(x, all), *kv = to_device(want, all * sizeof *want);
        CUDA_OK(gdk_kv_copy_cuda(stream, LAYERS, layer, n, kv, DST, SRC));
        for (size_t l = 0; l < LAYERS; l++) {
            memcpy(want + l * layer + DST * n, want + l * layer + SRC * n, n * sizeof *want);
        }
        gdk_bf16 *got = from_device(kv, all * sizeof *want);
        assert_memory_equal(got, want, all * sizeof *want);
        CUDA_OK(cudaFree(kv));
        free(x), free(want), free(got);
    }
}

/* ---- residual and norm ---- */

static const float EPS = 1e-5f;

/* Runs the operation on x and delta (NULL: none); x gets what it became. */
static struct rows run_norm(enum gdk_type type, uint32_t rows, uint32_t dim, float *x,
                            const gdk_bf16 *delta, const float *weight)
{
    size_t n = (size_t)rows * dim;
    float *d_x = device_bytes((n + dim) * sizeof *x);
    CUDA_OK(cudaMemcpyAsync(d_x, x, n * sizeof *x, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    gdk_bf16 *d_delta = delta == NULL ? NULL : to_device(delta, n * sizeof *delta);
    float *d_weight = to_device(weight, dim * sizeof *weight);
    struct gdk_cuda_out out = open_out(type, rows, dim);
    CUDA_OK(gdk_add_rmsnorm_cuda(stream, rows, dim, d_x, d_delta, d_weight, EPS, out));
    float *after = result_of(d_x, n * sizeof *x, dim * sizeof *x);
    memcpy(x, after, n * sizeof *x);
    free(after);
    CUDA_OK(cudaFree(d_delta));
    CUDA_OK(cudaFree(d_weight));
    return close_out(out, rows, dim);
}

/* fp32 against double; the narrower types against the rounding of the fp32 that the same kernel gave,
 * which they must equal. */
static void norm_case(uint32_t rows, uint32_t dim, bool with_delta)
{
    size_t n = (size_t)rows * dim;
    float *x = random_floats(n), *add = random_floats(n), *weight = random_floats(dim);
    gdk_bf16 *delta = bf16_array(add, n);
    float *sum = copy_of(x, n * sizeof *x), *want = random_floats(n);
    struct rows wide = run_norm(GDK_F32, rows, dim, sum, with_delta ? delta : NULL, weight);
    for (uint32_t r = 0; r < rows; r++) {
        double square = 0.0;
        for (size_t i = (size_t)r * dim; i < (size_t)(r + 1) * dim; i++) {
            assert_true(sum[i] == (with_delta ? x[i] + add[i] : x[i]));
            square += (double)sum[i] * (double)sum[i];
        }
        double scale = 1.0 / sqrt(square / dim + (double)EPS);
        for (uint32_t i = 0; i < dim; i++) {
            double exact = (double)sum[(size_t)r * dim + i] * scale * (double)weight[i];
            assert_close(GDK_F32, wide.numbers[(size_t)r * dim + i], exact, fabs(exact) * 0x1p-18);
        }
    }
    for (enum gdk_type type = GDK_BF16; type <= GDK_E4M3; type++) {
        if (!knows_type(type)) {
            continue;
        }
        float *again = copy_of(x, n * sizeof *x);
        struct rows got = run_norm(type, rows, dim, again, with_delta ? delta : NULL, weight);
        assert_memory_equal(again, sum, n * sizeof *sum);
        for (size_t i = 0; type == GDK_BF16 && i < n; i++) {
            assert_true(got.numbers[i] == bf16_value(bf16_of(wide.numbers[i])));
        }
        if (type == GDK_E4M3) {
            assert_quantized(rows, dim, wide.numbers, got.bits, got.scales);
        }
        free(again);
        free_rows(got);
    }
    free_rows(wide);
    free(x), free(add), free(weight), free(delta), free(sum), free(want);
}

static void test_norm(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (size_t d = 0; d < N_OF(DIMS); d++) {
        for (size_t r = 0; r < N_OF(ROW_COUNTS); r++) {
            norm_case(ROW_COUNTS[r], DIMS[d], r % 2 == 0);
        }
    }
    norm_case(2, 1032, true); /* a little more than each number of registers */
    norm_case(2, 2056, false);
    norm_case(2, 8192, true);
    norm_case(1, 8200, true);
    norm_case(1, GDK_CUDA_NORM_DIM_MAX, true);
}

/* Rows that have no norm are NaN from end to end, in every type, and their neighbours are none the
 * wiser; a row of zeros is zeros. */
static void test_norm_of_odd_rows(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    enum { ROWS = 7 };
    static const uint32_t dims[] = {8, 688, 4096, 9000};
    for (size_t d = 0; d < N_OF(dims); d++) {
        uint32_t dim = dims[d];
        size_t n = (size_t)ROWS * dim;
        float *x = random_floats(n), *add = calloc(n, sizeof *add), *weight = random_floats(dim);
        gdk_bf16 *delta = bf16_array(add, n);
        x[dim - 1] = 3e38f; /* finite, but its square is not */
        x[2 * dim + dim / 2] = INFINITY;
        delta[3 * dim + dim - 1] = 0xffc0; /* -NaN */
        memset(x + 5 * dim, 0, dim * sizeof *x);
        for (enum gdk_type type = GDK_F32; type <= GDK_E4M3; type++) {
            if (!knows_type(type)) {
                continue;
            }
            float *after = copy_of(x, n * sizeof *x);
            struct rows got = run_norm(type, ROWS, dim, after, delta, weight);
            for (uint32_t r = 0; r < ROWS; r++) {
                bool odd = r == 0 || r == 2 || r == 3;
                for (uint32_t i = 0; i < dim; i++) {
                    float v = got.numbers[r * dim + i];
                    assert_true(odd ? isnan(v) : r == 5 ? v == 0.0f : isfinite(v));
                }
                if (type == GDK_E4M3) {
                    float scale = got.scales[r];
                    assert_true(odd ? isnan(scale) : r == 5 ? scale == 1.0f : scale > 0.0f);
                }
            }
            free(after);
            free_rows(got);
        }
        free(x), free(add), free(weight), free(delta);
    }
}

/* ---- activation ---- */

static struct rows run_swiglu(enum gdk_type type, uint32_t rows, uint32_t ffn,
                              const gdk_bf16 *gate_up)
{
    gdk_bf16 *d_in = to_device(gate_up, (size_t)rows * 2 * ffn * sizeof *d_in);
    struct gdk_cuda_out out = open_out(type, rows, ffn);
    CUDA_OK(gdk_swiglu_cuda(stream, rows, ffn, d_in, out));
    CUDA_OK(cudaFree(d_in));
    return close_out(out, rows, ffn);
}

/* silu(g) * u, and how far fp32 may be from it: the exponent g * log2(e) is rounded, which the
 * exponential makes relative errors of g 2^-24 of, and there are six roundings or approximations of
 * at most 2^-22. The quotient may be lost where it is subnormal. */
static double swiglu_exact(float g, float u, double *error)
{
    double x = (double)g / (1.0 + exp(-(double)g)) * (double)u;
    *error =
        fabs(x) * (fabs((double)g) * 0x1p-23 + 0x1p-20) + fabs((double)g * (double)u) * 0x1p-125;
    return x;
}

static void check_swiglu_row(enum gdk_type type, uint32_t ffn, const float *gate, const float *got,
                             float scale)
{
    const float *up = gate + ffn;
    double error, low = 0.0, high = 0.0;
    for (uint32_t i = 0; i < ffn; i++) { /* the largest product is between these */
        double size = fabs(swiglu_exact(gate[i], up[i], &error));
        low = size - error > low ? size - error : low;
        high = size + error > high ? size + error : high;
    }
    if (type == GDK_E4M3) {
        assert_true((double)scale >= low / 448 * (1 - 0x1p-22));
        assert_true((double)scale <= high / 448 * (1 + 0x1p-22));
    }
    for (uint32_t i = 0; i < ffn; i++) {
        double exact = swiglu_exact(gate[i], up[i], &error);
        if (type == GDK_E4M3) { /* two more roundings: the inverse and the product with it */
            exact /= (double)scale;
            error = error / (double)scale + fabs(exact) * 0x1p-22;
        }
        assert_close(type, got[i], exact, error);
    }
}

static void swiglu_case(uint32_t rows, uint32_t ffn)
{
    size_t n = (size_t)rows * 2 * ffn;
    float *in = random_floats(n);
    for (size_t i = 0; i < n; i++) {
        in[i] *= i % 7 == 0 ? 20.0f : 2.0f;
    }
    for (uint32_t r = 0; r < rows; r++) { /* exp overflows, or vanishes; the borders of both */
        static const float gates[] = {-120.0f, 120.0f, -88.5f, -87.0f, 0.0f, -0.0f, 1e-30f, -3e4f};
        for (uint32_t i = 0; i < 8; i++) {
            in[(size_t)r * 2 * ffn + (i * 11 + r) % ffn] = gates[i];
        }
    }
    gdk_bf16 *bits = bf16_array(in, n);
    for (enum gdk_type type = GDK_BF16; type <= GDK_E4M3; type++) {
        if (!knows_type(type)) {
            continue;
        }
        struct rows got = run_swiglu(type, rows, ffn, bits);
        for (uint32_t r = 0; r < rows; r++) {
            check_swiglu_row(type, ffn, in + (size_t)r * 2 * ffn, got.numbers + (size_t)r * ffn,
                             got.scales == NULL ? 1.0f : got.scales[r]);
        }
        free_rows(got);
    }
    free(in), free(bits);
}

static void test_swiglu(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (size_t d = 0; d < N_OF(DIMS); d++) {
        for (size_t r = 0; r < N_OF(ROW_COUNTS); r++) {
            swiglu_case(ROW_COUNTS[r], DIMS[d]);
        }
    }
    swiglu_case(2, 21504); /* the widest row of each kernel, and one that is a little wider */
    swiglu_case(1, 21512);
    swiglu_case(1, 32768);
    swiglu_case(2, 32776);
    swiglu_case(1, GDK_CUDA_QUANTIZE_DIM_MAX);
}

static void test_swiglu_of_odd_rows(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    enum { ROWS = 6 };
    static const uint32_t widths[] = {8, 1000, 14336, 22000, 40000};
    for (size_t d = 0; d < N_OF(widths); d++) {
        uint32_t ffn = widths[d];
        size_t row = (size_t)2 * ffn;
        float *in = random_floats(ROWS * row);
        in[ffn - 1] = NAN;                 /* row 0: a gate */
        in[row + 2 * ffn - 1] = INFINITY;  /* row 1: an up */
        in[2 * row + ffn / 2] = -INFINITY; /* row 2: a gate; -inf * 0 */
        memset(in + 3 * row, 0, row * sizeof *in);
        in[4 * row] = 0.0f, in[4 * row + ffn] = -INFINITY; /* row 4: 0 * inf */
        const uint32_t at[ROWS] = {ffn - 1, ffn - 1, ffn / 2, ffn, 0, ffn};
        gdk_bf16 *bits = bf16_array(in, ROWS * row);
        for (enum gdk_type type = GDK_BF16; type <= GDK_E4M3; type++) {
            if (!knows_type(type)) {
                continue;
            }
            struct rows got = run_swiglu(type, ROWS, ffn, bits);
            for (uint32_t r = 0; r < ROWS; r++) {
                for (uint32_t i = 0; i < ffn; i++) {
                    float v = got.numbers[r * ffn + i];
                    bool odd = i == at[r] || (type == GDK_E4M3 && at[r] < ffn);
                    bool infinite = type == GDK_BF16 && r == 1;
                    assert_true(!odd ? isfinite(v) : infinite ? isinf(v) : isnan(v));
                    assert_true(r != 3 || v == 0.0f);
                }
                if (type == GDK_E4M3) {
                    assert_true(isnan(got.scales[r]) == (at[r] < ffn));
                    assert_true(r != 3 || got.scales[r] == 1.0f);
                }
            }
            free_rows(got);
        }
        free(in), free(bits);
    }
}

/* ---- quantisation ---- */

static void quantize_case(uint32_t rows, uint32_t dim, uint32_t stride)
{
    float *x = random_floats((size_t)rows * stride), *packed = random_floats((size_t)rows * dim);
    for (uint32_t r = 0; r < rows; r++) {
        static const float factors[] = {1.0f,      1e-20f,    1e30f, 0.0f,
                                        0x1p-126f, 0x1p-131f, 1e38f, 5.0f};
        float *row = x + (size_t)r * stride;
        for (uint32_t i = 0; i < stride; i++) {
            row[i] *= factors[(r + dim / 8) % N_OF(factors)];
        }
        if (r % 9 == 7) { /* in each place of a load, and at the ends */
            row[r == 7 ? 0 : r == 16 ? dim - 1 : rnd_below(dim)] = r % 2 == 0 ? NAN : -INFINITY;
        }
        if (dim < stride) {
            row[dim] = NAN; /* not of the row */
        }
    }
    gdk_bf16 *bits = bf16_array(x, (size_t)rows * stride);
    for (uint32_t r = 0; r < rows; r++) {
        memcpy(packed + (size_t)r * dim, x + (size_t)r * stride, dim * sizeof *x);
    }
    gdk_bf16 *src = to_device(bits, (size_t)rows * stride * sizeof *bits);
    struct gdk_cuda_out out = open_out(GDK_E4M3, rows, dim);
    CUDA_OK(gdk_quantize_cuda(stream, rows, dim, stride, src, out.data, out.scales));
    struct rows got = close_out(out, rows, dim);
    assert_quantized(rows, dim, packed, got.bits, got.scales);
    CUDA_OK(cudaFree(src));
    free_rows(got);
    free(x), free(packed), free(bits);
}

static void test_quantize(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    if (!knows_type(GDK_E4M3)) {
        skip();
    }
    for (size_t d = 0; d < N_OF(DIMS); d++) {
        for (size_t r = 0; r < N_OF(ROW_COUNTS); r++) {
            quantize_case(ROW_COUNTS[r], DIMS[d], DIMS[d] + (r % 2 == 0 ? 0 : 16));
        }
    }
    quantize_case(1, 32768, 32768);
    quantize_case(1, 32776, 32776);
    quantize_case(1, GDK_CUDA_QUANTIZE_DIM_MAX, GDK_CUDA_QUANTIZE_DIM_MAX);
}

/* Every place of a row, once NaN and once infinite, is seen by the row's scale. */
static void test_quantize_sees_every_number(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    if (!knows_type(GDK_E4M3)) {
        skip();
    }
    enum { DIM = 96 };
    gdk_bf16 *bits = malloc(DIM * (DIM + 1) * sizeof *bits);
    assert_non_null(bits);
    for (uint32_t r = 0; r <= DIM; r++) { /* row r has it in place r; the last nowhere */
        for (uint32_t i = 0; i < DIM; i++) {
            bits[r * DIM + i] = i != r       ? 0x4100
                                : r % 3 == 0 ? 0x7f80
                                : r % 3 == 1 ? 0xff81
                                             : 0x7fff;
        }
    }
    gdk_bf16 *src = to_device(bits, DIM * (DIM + 1) * sizeof *bits);
    struct gdk_cuda_out out = open_out(GDK_E4M3, DIM + 1, DIM);
    CUDA_OK(gdk_quantize_cuda(stream, DIM + 1, DIM, DIM, src, out.data, out.scales));
    struct rows got = close_out(out, DIM + 1, DIM);
    for (uint32_t r = 0; r <= DIM; r++) {
        assert_true(isnan(got.scales[r]) == (r < DIM));
        for (uint32_t i = 0; i < DIM; i++) {
            assert_true(isnan(got.numbers[r * DIM + i]) == (r < DIM));
        }
    }
    CUDA_OK(cudaFree(src));
    free_rows(got);
    free(bits);
}

/* ---- rotation and cache ---- */

#define N_BLOCKS 9u
#define N_POSITIONS 80u

/* Tokens at the borders of pages, each in a block of its own sequence; some rows are padding. */
static void make_tokens(struct gdk_token *tokens, uint32_t rows)
{
    static const int32_t positions[] = {0, 15, 16, 17, 31, 32, 47, 63, 64, 79};
    static const uint32_t blocks[] = {4, 2, 8, 0,
                                      6}; /* of positions 0 on; others belong to nobody */
    for (uint32_t i = 0; i < rows; i++) {
        int32_t p = positions[i % N_OF(positions)];
        uint32_t slot =
            blocks[p / GD_KV_BLOCK_TOKENS] * GD_KV_BLOCK_TOKENS + (uint32_t)p % GD_KV_BLOCK_TOKENS;
        tokens[i] = i % 4 == 2 || i >= N_OF(positions)
                        ? (struct gdk_token){.id = -1, .position = 3, .slot = 3}
                        : (struct gdk_token){.id = 7, .position = p, .slot = slot};
    }
}

struct rope_case {
    struct gdk_cuda_shape s;
    uint32_t rows;
    const float *table, *qkv; /* what went in */
    const gdk_bf16 *bits;     /* the same */
    const struct gdk_token *tokens;
    const gdk_bf16 *got, *kv; /* what came out */
    gdk_bf16 *rest;           /* kv without what has been checked */
};

/* Head `head` of row `row` as it must be at got. */
static void check_head(const struct rope_case *c, uint32_t row, uint32_t head, const gdk_bf16 *got)
{
    uint32_t dim = c->s.head_dim, half = dim / 2;
    size_t at = ((size_t)row * (c->s.n_heads + 2 * c->s.n_kv_heads) + head) * dim;
    const float *x = c->qkv + at;
    const float *turn = c->table + (size_t)c->tokens[row].position * dim;
    if (c->tokens[row].id < 0 || head >= c->s.n_heads + c->s.n_kv_heads) {
        assert_memory_equal(got, c->bits + at, dim * sizeof *got);
        return;
    }
    for (uint32_t i = 0; i < half; i++) {
        double cosine = (double)turn[i], sine = (double)turn[half + i];
        double low = (double)x[i], high = (double)x[half + i];
        /* two products and a sum: three roundings */
        double error = (fabs(low) + fabs(high)) * 0x1p-22;
        assert_close(GDK_BF16, bf16_value(got[i]), low * cosine - high * sine, error);
        assert_close(GDK_BF16, bf16_value(got[half + i]), high * cosine + low * sine, error);
    }
}

static void check_rope(const struct rope_case *c)
{
    uint32_t dim = c->s.head_dim, n_kv = c->s.n_kv_heads;
    uint32_t n_heads = c->s.n_heads + 2 * n_kv;
    for (uint32_t row = 0; row < c->rows; row++) {
        const gdk_bf16 *got = c->got + (size_t)row * n_heads * dim;
        size_t q_dim = (size_t)c->s.n_heads * dim, slot = c->tokens[row].slot;
        for (uint32_t head = 0; head < c->s.n_heads; head++) {
            check_head(c, row, head, got + (size_t)head * dim);
        }
        /* keys and values of the row itself stay */
        assert_memory_equal(got + q_dim, c->bits + (size_t)row * n_heads * dim + q_dim,
                            (size_t)2 * n_kv * dim * sizeof *got);
        for (uint32_t h = 0; c->tokens[row].id >= 0 && h < 2 * n_kv; h++) {
            size_t block = slot / GD_KV_BLOCK_TOKENS, offset = slot % GD_KV_BLOCK_TOKENS;
            size_t at = ((block * 2 * n_kv + h) * GD_KV_BLOCK_TOKENS + offset) * dim;
            check_head(c, row, c->s.n_heads + h, c->kv + at);
            memset(c->rest + at, 0xff, dim * sizeof *c->rest);
        }
    }
}

static void rope_case(uint32_t n_heads, uint32_t n_kv, uint32_t dim, uint32_t rows)
{
    struct gdk_cuda_shape s = {.n_heads = n_heads, .n_kv_heads = n_kv, .head_dim = dim};
    size_t width = (size_t)(n_heads + 2 * n_kv) * dim, n = rows * width;
    size_t kv_numbers = (size_t)(N_BLOCKS + 1) * 2 * n_kv * GD_KV_BLOCK_TOKENS * dim;
    float inv_freq[64], *table = random_floats((size_t)N_POSITIONS * dim), *x = random_floats(n);
    for (uint32_t i = 0; i < dim / 2; i++) {
        inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)dim);
    }
    gdk_rope_table_cpu(0, N_POSITIONS, dim, inv_freq, table);
    gdk_bf16 *bits = bf16_array(x, n);
    struct gdk_token tokens[MAX_ROWS] = {0};
    make_tokens(tokens, rows);
    struct gdk_token *d_tokens = to_device(tokens, rows * sizeof *tokens);
    float *d_table = to_device(table, (size_t)N_POSITIONS * dim * sizeof *table);
    gdk_bf16 *d_kv = device_bytes(kv_numbers * sizeof *d_kv);
    gdk_bf16 *d_qkv = device_bytes((n + width) * sizeof *d_qkv);
    CUDA_OK(cudaMemcpyAsync(d_qkv, bits, n * sizeof *bits, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    struct gdk_cuda_batch b = {.tokens = d_tokens, .n_rows = rows};
    CUDA_OK(gdk_rope_kv_cuda(stream, &b, &s, d_table, d_qkv, d_kv));
    gdk_bf16 *got = result_of(d_qkv, n * sizeof *got, width * sizeof *got);
    gdk_bf16 *kv = result_of(d_kv, kv_numbers * sizeof *kv, 0);
    gdk_bf16 *rest = copy_of(kv, kv_numbers * sizeof *kv);
    struct rope_case c = {s, rows, table, x, bits, tokens, got, kv, rest};
    check_rope(&c);
    assert_untouched(rest, kv_numbers * sizeof *rest);
    CUDA_OK(cudaFree(d_tokens));
    CUDA_OK(cudaFree(d_table));
    free(table), free(x), free(bits), free(got), free(kv), free(rest);
}

static void test_rope(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    static const uint32_t dims[] = {64, 96, 128};
    static const uint32_t heads[][2] = {{4, 2}, {7, 1}, {8, 8}, {32, 8}, {1, 1}, {40, 8}};
    for (size_t d = 0; d < N_OF(dims); d++) {
        for (size_t h = 0; h < N_OF(heads); h++) {
            rope_case(heads[h][0], heads[h][1], dims[d], 1);
            rope_case(heads[h][0], heads[h][1], dims[d], 14);
        }
    }
}

/* ---- choices ---- */

static void choices_case(uint32_t n, uint32_t dim)
{
    const uint32_t vocab = 40, rows = 5;
    float *w = random_floats((size_t)vocab * dim), *hidden = random_floats((size_t)rows * dim);
    gdk_bf16 *table = bf16_array(w, (size_t)vocab * dim);
    struct gd_choice *choices = malloc(n * sizeof *choices);
    assert_non_null(choices);
    for (uint32_t i = 0; i < n; i++) {
        choices[i] =
            (struct gd_choice){.row = i / 11 % rows, .id = (int32_t)((i * 7 + 39) % vocab)};
    }
    float *d_hidden = to_device(hidden, (size_t)rows * dim * sizeof *hidden);
    gdk_bf16 *d_table = to_device(table, (size_t)vocab * dim * sizeof *table);
    struct gd_choice *d_choices = to_device(choices, n * sizeof *choices);
    float *logits = device_bytes((n + 1) * sizeof *logits);
    float *alone = device_bytes(2 * sizeof *alone);
    CUDA_OK(gdk_choice_logits_cuda(stream, n, d_choices, dim, d_hidden, d_table, logits));
    CUDA_OK(gdk_choice_logits_cuda(stream, 1, d_choices + n - 1, dim, d_hidden, d_table, alone));
    float *got = result_of(logits, n * sizeof *got, sizeof *got);
    float *got_alone = result_of(alone, sizeof *got_alone, sizeof *got_alone);
    assert_int_equal(bits_of(*got_alone), bits_of(got[n - 1]));
    for (uint32_t i = 0; i < n; i++) {
        double want = 0.0, size = 0.0;
        for (uint32_t j = 0; j < dim; j++) {
            double term = (double)hidden[choices[i].row * dim + j] *
                          (double)w[(uint32_t)choices[i].id * dim + j];
            want += term;
            size += fabs(term);
        }
        assert_close(GDK_F32, got[i], want, size * 0x1p-18);
    }
    CUDA_OK(cudaFree(d_hidden));
    CUDA_OK(cudaFree(d_table));
    CUDA_OK(cudaFree(d_choices));
    free(w), free(hidden), free(table), free(choices), free(got), free(got_alone);
}

static void test_choices(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    for (size_t d = 0; d < N_OF(DIMS); d++) {
        choices_case(1, DIMS[d]);
        choices_case(25, DIMS[d]);
    }
    choices_case(2, 32768);
}

/* ---- a row's bits depend on that row alone ---- */

static void test_rows_alone(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    static const uint32_t dims[] = {96, 1000, 4096, 14336};
    for (size_t d = 0; d < N_OF(dims); d++) {
        uint32_t dim = dims[d], last = MAX_ROWS - 1;
        size_t n = (size_t)MAX_ROWS * dim, at = (size_t)last * dim;
        float *x = random_floats(n), *add = random_floats(2 * n), *weight = random_floats(dim);
        gdk_bf16 *delta = bf16_array(add, 2 * n); /* also gate and up */
        for (enum gdk_type type = GDK_F32; type <= GDK_E4M3; type++) {
            size_t elem = type_bytes(type);
            if (!knows_type(type)) {
                continue;
            }
            float *x_all = copy_of(x, n * sizeof *x), *x_one = copy_of(x + at, dim * sizeof *x);
            struct rows all = run_norm(type, MAX_ROWS, dim, x_all, delta, weight);
            struct rows one = run_norm(type, 1, dim, x_one, delta + at, weight);
            assert_memory_equal(one.bits, (char *)all.bits + at * elem, dim * elem);
            assert_true(one.scales == NULL || bits_of(*one.scales) == bits_of(all.scales[last]));
            free_rows(all), free_rows(one);
            free(x_all), free(x_one);
            if (type == GDK_F32) {
                continue;
            }
            all = run_swiglu(type, MAX_ROWS, dim, delta);
            one = run_swiglu(type, 1, dim, delta + 2 * at);
            assert_memory_equal(one.bits, (char *)all.bits + at * elem, dim * elem);
            assert_true(one.scales == NULL || bits_of(*one.scales) == bits_of(all.scales[last]));
            free_rows(all), free_rows(one);
        }
        free(x), free(add), free(weight), free(delta);
    }
}

/* ---- what is refused, and nothing to do ---- */

static void test_limits(void **state)
{
    (void)state;
    NEEDS_DEVICE();
    float *p = device_bytes(4096);
    struct gdk_cuda_out e4m3 = {.data = p, .scales = p, .type = GDK_E4M3};
    struct gdk_cuda_out f32 = {.data = p, .type = GDK_F32};
    struct gdk_cuda_batch none = {.n_rows = 0}, one = {.tokens = (void *)p, .n_rows = 1};
    struct gdk_cuda_shape odd = {.n_heads = 4, .n_kv_heads = 4, .head_dim = 80}, s = odd;
    s.head_dim = 64;
    uint32_t norm_max = GDK_CUDA_NORM_DIM_MAX, quantize_max = GDK_CUDA_QUANTIZE_DIM_MAX;
    assert_int_equal(gdk_add_rmsnorm_cuda(stream, 1, norm_max + 8, p, NULL, p, EPS, f32),
                     cudaErrorInvalidValue);
    assert_int_equal(gdk_swiglu_cuda(stream, 1, quantize_max + 8, (void *)p, e4m3),
                     cudaErrorInvalidValue);
    assert_int_equal(gdk_swiglu_cuda(stream, 1, 8, (void *)p, f32), cudaErrorInvalidValue);
    assert_int_equal(
        gdk_quantize_cuda(stream, 1, quantize_max + 8, quantize_max + 8, (void *)p, (void *)p, p),
        cudaErrorInvalidValue);
    assert_int_equal(gdk_rope_kv_cuda(stream, &one, &odd, p, (void *)p, (void *)p),
                     cudaErrorInvalidValue);
    CUDA_OK(gdk_embed_cuda(stream, &none, 8, (void *)p, p));
    CUDA_OK(gdk_add_rmsnorm_cuda(stream, 0, 8, p, NULL, p, EPS, f32));
    CUDA_OK(gdk_rope_kv_cuda(stream, &none, &s, p, (void *)p, (void *)p));
    CUDA_OK(gdk_swiglu_cuda(stream, 0, 8, (void *)p, e4m3));
    CUDA_OK(gdk_quantize_cuda(stream, 0, 8, 8, (void *)p, (void *)p, p));
    CUDA_OK(gdk_gather_rows_cuda(stream, &none, 16, p, p));
    CUDA_OK(gdk_choice_logits_cuda(stream, 0, (void *)p, 8, p, (void *)p, p));
    free(result_of(p, 0, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed),      cmocka_unit_test(test_gather),
        cmocka_unit_test(test_norm),       cmocka_unit_test(test_norm_of_odd_rows),
        cmocka_unit_test(test_swiglu),     cmocka_unit_test(test_swiglu_of_odd_rows),
        cmocka_unit_test(test_quantize),   cmocka_unit_test(test_quantize_sees_every_number),
        cmocka_unit_test(test_rope),       cmocka_unit_test(test_choices),
        cmocka_unit_test(test_rows_alone), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_kv_copy),
    };
    return cmocka_run_group_tests(tests, cuda_set_up, cuda_tear_down);
}
