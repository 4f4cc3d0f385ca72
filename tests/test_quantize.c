/* test_quantize.c - FP8 e4m3 against its definition, and rows quantised with one scale each. */
#include "test_kernels.h"

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The value of a code by the definition: sign, 4 bits of exponent with bias 7, 3 of mantissa. */
static double defined_value(uint32_t code)
{
    int exponent = (int)(code >> 3 & 15u), mantissa = (int)(code & 7u);
    double x = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 7 - 3);
    x = exponent == 15 && mantissa == 7 ? (double)NAN : x;
    return (code & 0x80u) != 0 ? -x : x;
}

static void test_values(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        float got = gdk_e4m3_value((uint8_t)code);
        double want = defined_value(code);
        if (isnan(want)) {
            assert_true(isnan(got));
            continue;
        }
        assert_true((double)got == want && !signbit(got) == !signbit(want));
        assert_int_equal(gdk_e4m3_of(got), code);
    }
    assert_true(gdk_e4m3_value(0x7e) == 448.0f);
    assert_true(gdk_e4m3_value(0x01) == 0x1p-9f);
}

/* Below, at and above each point half-way between neighbours. */
static void test_rounding_at_midpoints(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 0x7e; code++) {
        double low = defined_value(code), high = defined_value(code + 1);
        float middle = (float)((low + high) / 2);
        assert_true((double)middle == (low + high) / 2); /* fp32 has it */
        uint32_t even = code % 2 == 0 ? code : code + 1;
        for (uint32_t sign = 0; sign <= 0x80; sign += 0x80) {
            float s = sign == 0 ? 1.0f : -1.0f;
            assert_int_equal(gdk_e4m3_of(s * nextafterf(middle, 0.0f)), sign | code);
            assert_int_equal(gdk_e4m3_of(s * middle), sign | even);
            assert_int_equal(gdk_e4m3_of(s * nextafterf(middle, 1e9f)), sign | (code + 1));
        }
    }
}

static void test_ends_of_the_range(void **state)
{
    (void)state;
    static const float large[] = {448.0f, 448.1f, 463.9f, 464.0f, 480.0f, 1e30f, FLT_MAX, INFINITY};
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        assert_int_equal(gdk_e4m3_of(large[i]), 0x7e);
        assert_int_equal(gdk_e4m3_of(-large[i]), 0xfe);
    }
    static const float small[] = {0.0f, 1e-45f, FLT_MIN, 0x1p-11f, 0x1p-10f};
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        assert_int_equal(gdk_e4m3_of(small[i]), 0x00);
        assert_int_equal(gdk_e4m3_of(-small[i]), 0x80);
    }
    assert_int_equal(gdk_e4m3_of(NAN), 0x7f);
    assert_int_equal(gdk_e4m3_of(-NAN), 0x7f);
}

static void test_nearest_of_random(void **state)
{
    (void)state;
    rng_state = 7;
    for (int i = 0; i < 20000; i++) {
        float x = ldexpf(rnd(), (int)rnd_below(24) - 14);
        double best = HUGE_VAL;
        for (uint32_t code = 0; code < 256; code++) {
            double distance = fabs(defined_value(code) - (double)x);
            best = distance < best ? distance : best; /* NaN is never less */
        }
        double got = defined_value(gdk_e4m3_of(x));
        assert_true(fabs(got - (double)x) == best);
    }
}

static void check_row(uint32_t dim, const float *x, const uint8_t *got, float scale)
{
    float largest = 0.0f;
    bool finite = true;
    for (uint32_t i = 0; i < dim; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
        finite = finite && isfinite(x[i]);
    }
    if (!finite) {
        assert_true(isnan(scale));
        for (uint32_t i = 0; i < dim; i++) {
            assert_int_equal(got[i], 0x7f);
        }
        return;
    }
    float want = largest == 0.0f ? 1.0f : fmaxf(largest / 448.0f, FLT_MIN);
    assert_true(bits_of(scale) == bits_of(want));
    for (uint32_t i = 0; i < dim; i++) {
        /* Half a unit in the last place: 2^-4 of the number, at least 2^-10; the division and the
         * multiplication before it are exact to 2^-22. */
        double value = (double)gdk_e4m3_value(got[i]) * (double)scale,
               error = fabs((double)x[i]) * 0x1p-4;
        error = error > (double)scale * 0x1p-10 ? error : (double)scale * 0x1p-10;
        assert_true(fabs(value - (double)x[i]) <= error * (1 + 0x1p-20));
        if (largest > 0.0f && fabsf(x[i]) == largest && scale > FLT_MIN) {
            assert_int_equal(got[i] & 0x7f, 0x7e);
        }
    }
}

static void test_rows(void **state)
{
    (void)state;
    enum { ROWS = 12 };
    static const uint32_t dims[] = {1, 8, 31, 96, 1000};
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        uint32_t dim = dims[d];
        float *x = random_floats((size_t)ROWS * dim), scales[ROWS + 1];
        uint8_t *got = malloc((size_t)(ROWS + 1) * dim);
        assert_non_null(got);
        static const float factors[ROWS] = {1.0f,   0.0f,  1e30f,     1e-30f, 0x1p-126f, 0x1p-133f,
                                            1e-45f, 1e37f, 0x1p-117f, 3.0f,   1.0f,      1.0f};
        for (uint32_t r = 0; r < ROWS; r++) {
            for (uint32_t i = 0; i < dim; i++) {
                x[r * dim + i] *= factors[r];
            }
        }
        x[9 * dim + dim - 1] = NAN; /* the last number, behind larger ones */
        x[10 * dim + dim / 2] = -INFINITY;
        x[11 * dim] = FLT_MAX;
        memset(got, 0xaa, (size_t)(ROWS + 1) * dim);
        for (uint32_t r = 0; r <= ROWS; r++) {
            scales[r] = -5.0f;
        }
        gdk_quantize_cpu(0, ROWS, dim, x, got, scales);
        for (uint32_t r = 0; r < ROWS; r++) {
            check_row(dim, x + r * dim, got + r * dim, scales[r]);
        }
        for (uint32_t i = 0; i < dim; i++) {
            assert_int_equal(got[ROWS * dim + i], 0xaa);
        }
        assert_true(scales[ROWS] == -5.0f);

        /* Any cut of the rows: the same bits, and nothing beyond the cut. */
        uint8_t *part = malloc((size_t)ROWS * dim);
        assert_non_null(part);
        memset(part, 0xaa, (size_t)ROWS * dim);
        float part_scales[ROWS] = {0};
        gdk_quantize_cpu(3, 7, dim, x, part, part_scales);
        assert_memory_equal(part + 3 * dim, got + 3 * dim, 4 * dim);
        assert_memory_equal(part_scales + 3, scales + 3, 4 * sizeof(float));
        assert_true(part[3 * dim - 1] == 0xaa && part[7 * dim] == 0xaa);
        assert_true(part_scales[2] == 0.0f && part_scales[7] == 0.0f);
        free(x), free(got), free(part);
    }
}

/* A row of zeros, of either sign, has the scale 1, so that its values are zeros and not NaN. */
static void test_zeros(void **state)
{
    (void)state;
    const float x[4] = {0.0f, -0.0f, 0.0f, -0.0f};
    uint8_t got[4];
    float scale = 0.0f;
    gdk_quantize_cpu(0, 1, 4, x, got, &scale);
    static const uint8_t want[4] = {0x00, 0x80, 0x00, 0x80};
    assert_memory_equal(got, want, sizeof want);
    assert_true(scale == 1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_rounding_at_midpoints),
        cmocka_unit_test(test_ends_of_the_range),
        cmocka_unit_test(test_nearest_of_random),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
