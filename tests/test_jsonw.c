/* test_jsonw.c - the JSON writer and UTF-8: what is written is always valid, reads back the same,
 * and numbers are the shortest text that does. */
#include "guardian/json.h"
#include "guardian/limits.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed = 7;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void test_structure(void **state)
{
    (void)state;
    struct gd_buf b;
    struct gd_json_writer w;
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    gd_jw_object(&w);
    gd_jw_key(&w, "a");
    gd_jw_array(&w);
    gd_jw_i64(&w, INT64_MIN);
    gd_jw_i64(&w, 0);
    gd_jw_array(&w);
    gd_jw_array_end(&w);
    gd_jw_object(&w);
    gd_jw_object_end(&w);
    gd_jw_bool(&w, true);
    gd_jw_array_end(&w);
    gd_jw_key(&w, "k\n\"");
    gd_jw_strz(&w, "v");
    gd_jw_key(&w, "n");
    gd_jw_strz(&w, NULL);
    gd_jw_key(&w, "r");
    gd_jw_raw(&w, GD_STR("[1, 2]"));
    gd_jw_key(&w, "f");
    gd_jw_bool(&w, false);
    gd_jw_object_end(&w);
    assert_string_equal(b.data,
                        "{\"a\":[-9223372036854775808,0,[],{},true],\"k\\n\\\"\":\"v\",\"n\":null,"
                        "\"r\":[1, 2],\"f\":false}");
    gd_buf_free(&b);
}

static void test_deepest(void **state)
{
    (void)state;
    struct gd_buf b;
    struct gd_json_writer w;
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    for (int i = 0; i < GD_JSON_WRITER_DEPTH_MAX - 1; i++)
        gd_jw_array(&w);
    gd_jw_null(&w);
    gd_jw_null(&w);
    for (int i = 0; i < GD_JSON_WRITER_DEPTH_MAX - 1; i++)
        gd_jw_array_end(&w);
    assert_int_equal(b.len, 2 * (GD_JSON_WRITER_DEPTH_MAX - 1) + 9);
    gd_buf_free(&b);
}

/* Writes s and reads it back; what comes back must be s with its bad bytes replaced. */
static void round_trip(struct gd_str s)
{
    struct gd_buf b;
    struct gd_buf want;
    struct gd_json_writer w;
    struct gd_arena a;
    struct gd_err err;
    const struct gd_json *root = NULL;
    gd_buf_init(&b, GD_MIB);
    gd_buf_init(&want, GD_MIB);
    gd_arena_init(&a, GD_MIB);
    gd_json_writer_init(&w, &b);
    gd_jw_str(&w, s);
    gd_utf8_repair(&want, s);
    if (gd_json_parse(&a, (struct gd_str){b.data, b.len}, &GD_JSON_REQUEST_LIMITS, &root, &err))
        fail_msg("%s: %s", err.msg, b.data);
    assert_int_equal(root->type, GD_JSON_STRING);
    assert_int_equal(root->flags, 0);
    assert_true(gd_str_eq(root->str, (struct gd_str){want.data, want.len}));
    for (size_t i = 0; i < b.len; i++)
        assert_true((unsigned char)b.data[i] >= 0x20 && b.data[i] != 0x7F);
    gd_arena_free(&a);
    gd_buf_free(&want);
    gd_buf_free(&b);
}

static void test_strings(void **state)
{
    (void)state;
    struct gd_buf b;
    struct gd_json_writer w;
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    gd_jw_str(&w, GD_STR("\"\\/\b\f\n\r\t\0\x01\x1F\x7F \xC3\xA9\xFF\xE2\x80x"));
    assert_string_equal(
        b.data, "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u0001\\u001f\\u007f \xC3\xA9\xEF\xBF\xBD"
                "\xEF\xBF\xBDx\"");
    gd_buf_free(&b);
    round_trip((struct gd_str){NULL, 0});
    for (int n = 0; n < 20000; n++) {
        char s[64];
        const size_t len = next_random() % sizeof s;
        for (size_t i = 0; i < len; i++) {
            const uint64_t r = next_random();
            s[i] = (char)(r % 4 == 0   ? r >> 8
                          : r % 4 == 1 ? 0x80 | ((r >> 8) & 0x3F)
                                       : 0xC0 | ((r >> 8) & 0x3F));
        }
        round_trip((struct gd_str){s, len});
    }
}

/* ---- numbers ---- */

static void assert_f64(double v, const char *want)
{
    struct gd_buf b;
    struct gd_json_writer w;
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    gd_jw_f64(&w, v);
    if (want)
        assert_string_equal(b.data, want);
    const double back = strtod(b.data, NULL);
    if (isfinite(v))
        assert_memory_equal(&back, &v, sizeof v);
    gd_buf_free(&b);
}

static void assert_f32(float v, const char *want)
{
    struct gd_buf b;
    struct gd_json_writer w;
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    gd_jw_f32(&w, v);
    if (want)
        assert_string_equal(b.data, want);
    const float back = strtof(b.data, NULL);
    if (isfinite(v))
        assert_memory_equal(&back, &v, sizeof v);
    gd_buf_free(&b);
}

static void test_numbers(void **state)
{
    (void)state;
    assert_f64(0, "0");
    assert_f64(-0.0, "-0");
    assert_f64(0.1, "0.1");
    assert_f64(1.0 / 3, "0.3333333333333333");
    assert_f64(0.1 + 0.2, "0.30000000000000004");
    assert_f64(100, "100");
    assert_f64(1e21, "1e+21");
    assert_f64(123456789012345680, "1.2345678901234568e+17");
    assert_f64(DBL_MAX, "1.7976931348623157e+308");
    assert_f64(DBL_MIN, "2.2250738585072014e-308");
    assert_f64(5e-324, "5e-324");
    assert_f64((double)INFINITY, "null");
    assert_f64((double)-INFINITY, "null");
    assert_f64((double)NAN, "null");
    assert_f32(0.1f, "0.1");
    assert_f32(16777216.0f, "16777216");
    assert_f32(1.0f / 3, "0.33333334");
    assert_f32(FLT_MAX, "3.4028235e+38");
    assert_f32(1e-45f, "1e-45");
    assert_f32((float)NAN, "null");
    for (int i = 0; i < 100000; i++) {
        const uint64_t r = next_random();
        const uint32_t half = (uint32_t)(r >> 32);
        double d;
        float f;
        memcpy(&d, &r, sizeof d);
        memcpy(&f, &half, sizeof f);
        assert_f64(d, NULL);
        assert_f32(f, NULL);
        assert_f64((double)(r % 1000000) / 1000, NULL);
    }
}

/* Numbers of up to 15 (6) digits must come back as they were typed: nothing shorter or longer
 * exists. */
static void test_numbers_shortest(void **state)
{
    (void)state;
    char text[64];
    for (int i = 0; i < 20000; i++) {
        const uint64_t r = next_random();
        (void)snprintf(text, sizeof text, "%.*g", 1 + (int)(r % 15), (double)(r >> 20) * 1e-7);
        assert_f64(strtod(text, NULL), strstr(text, "e") ? NULL : text);
        (void)snprintf(text, sizeof text, "%.*g", 1 + (int)(r % 6), (double)(r >> 40) * 1e-4);
        assert_f32(strtof(text, NULL), strstr(text, "e") ? NULL : text);
    }
}

/* A locale with a decimal comma must change neither side. Such locales are rarely installed, so one
 * may be missing. */
static void test_numbers_in_a_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "ru_RU.UTF-8"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !found; i++)
        found = setlocale(LC_ALL, names[i]) != NULL;
    if (!found)
        print_message("no locale with a decimal comma is installed: checked in \"C\" alone\n");
    struct gd_buf b;
    struct gd_json_writer w;
    struct gd_arena a;
    const struct gd_json *root = NULL;
    double v = 0;
    gd_buf_init(&b, 64);
    gd_arena_init(&a, 8192);
    gd_json_writer_init(&w, &b);
    gd_jw_f64(&w, 1.5);
    assert_string_equal(b.data, "1.5");
    assert_int_equal(gd_json_parse(&a, GD_STR("2.5"), &GD_JSON_REQUEST_LIMITS, &root, NULL), 0);
    assert_true(gd_json_f64(root, &v) && v == 2.5);
    setlocale(LC_ALL, "C");
    gd_arena_free(&a);
    gd_buf_free(&b);
}

/* ---- UTF-8 ---- */

static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x110000; cp++) {
        char s[4];
        const size_t n = gd_utf8_encode(cp, s);
        uint32_t back = 0;
        const bool scalar = cp < 0x110000 && (cp < 0xD800 || cp > 0xDFFF);
        if (gd_utf8_next((struct gd_str){s, n}, 0, &back) != (int)n ||
            back != (scalar ? cp : 0xFFFD))
            fail_msg("U+%04X", (unsigned)cp);
    }
}

/* Every three bytes: accepted exactly when encoding what was read gives the same bytes. */
static void test_every_triple(void **state)
{
    (void)state;
    for (uint32_t x = 0; x < 1u << 24; x++) {
        const char s[3] = {(char)(x >> 16), (char)(x >> 8), (char)x};
        uint32_t cp = 0;
        char again[4];
        const int n = gd_utf8_next((struct gd_str){s, 3}, 0, &cp);
        const bool fine = n > 0 && n <= 3 && gd_utf8_encode(cp, again) == (size_t)n &&
                          memcmp(again, s, (size_t)n) == 0;
        if (!fine && !(n < 0 && n >= -3))
            fail_msg("%06x: %d", (unsigned)x, n);
    }
}

static void test_repair(void **state)
{
    (void)state;
#define R "\xEF\xBF\xBD"
    const struct {
        struct gd_str in;
        const char *out;
    } cases[] = {
        {GD_STR(""), ""},
        {GD_STR("plain"), "plain"},
        {GD_STR("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                "A"),
         R R R R R R R R "A"},
        {GD_STR("\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
                "A"),
         R R R R R R R R "A"},
        {GD_STR("\xF4\x91\x92\x93\xFF"
                "A\x80\xBF"
                "B"),
         R R R R R "A" R R "B"},
        {GD_STR("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                "A"),
         R R R R "A"},
        {GD_STR("a\xF0\x9F\x98"), "a" R},
        {GD_STR("\xF0\x9F\x98\x80\xF0\x9F"), "\xF0\x9F\x98\x80" R},
        {GD_STR("\xC3"), R},
        {GD_STR("\xC3\xC3\xA9"), R "\xC3\xA9"},
        {GD_STR("\xE6\xBC\xE6\xBC\xA2"), R "\xE6\xBC\xA2"},
    };
#undef R
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gd_buf b;
        gd_buf_init(&b, 4096);
        gd_utf8_repair(&b, cases[i].in);
        assert_string_equal(b.data, cases[i].out);
        gd_buf_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structure),        cmocka_unit_test(test_deepest),
        cmocka_unit_test(test_strings),          cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_numbers_shortest), cmocka_unit_test(test_numbers_in_a_locale),
        cmocka_unit_test(test_every_code_point), cmocka_unit_test(test_every_triple),
        cmocka_unit_test(test_repair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
