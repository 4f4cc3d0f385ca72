/* test_trace.c - W3C Trace Context: what is taken for a traceparent, and ids that are always good. */
#include "guardian/limits.h"
#include "guardian/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"
#define GOOD "00-" TRACE "-" SPAN "-01"

static void check_hex(const char *id, size_t n)
{
    assert_int_equal(strlen(id), n);
    assert_int_equal(strspn(id, "0123456789abcdef"), n);
    assert_true(strspn(id, "0") < n);
}

static void test_new_ones_differ(void **state)
{
    (void)state;
    static struct gd_trace all[200];
    for (size_t i = 0; i < 200; i++) {
        gd_trace_init(&all[i]);
        check_hex(all[i].trace_id, GD_TRACE_ID_HEX);
        check_hex(all[i].span_id, GD_SPAN_ID_HEX);
        assert_string_equal(all[i].parent_id, "");
        assert_int_equal(all[i].flags, 0);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(all[i].trace_id, all[k].trace_id);
            assert_string_not_equal(all[i].span_id, all[k].span_id);
        }
    }
}

static void test_adopted(void **state)
{
    (void)state;
    struct gd_trace t;
    gd_trace_init(&t);
    char span[sizeof t.span_id];
    memcpy(span, t.span_id, sizeof span);
    assert_true(gd_trace_adopt(&t, GD_STR(GOOD)));
    assert_string_equal(t.trace_id, TRACE);
    assert_string_equal(t.parent_id, SPAN);
    assert_string_equal(t.span_id, span);
    assert_int_equal(t.flags, GD_TRACE_SAMPLED);
    assert_true(gd_trace_adopt(&t, GD_STR("00-" TRACE "-" SPAN "-00")));
    assert_int_equal(t.flags, 0);
    assert_true(gd_trace_adopt(&t, GD_STR("00-" TRACE "-" SPAN "-fe"))); /* unknown flags */
    assert_int_equal(t.flags, 0);
    assert_true(gd_trace_adopt(&t, GD_STR("00-" TRACE "-" SPAN "-03")));
    assert_int_equal(t.flags, GD_TRACE_SAMPLED);
}

static void refused(struct gd_str text)
{
    struct gd_trace t, before;
    gd_trace_init(&t);
    memcpy(&before, &t, sizeof t);
    if (gd_trace_adopt(&t, text))
        fail_msg("taken: %.*s", (int)text.len, text.ptr);
    assert_memory_equal(&t, &before, sizeof t);
}

static void test_refused(void **state)
{
    (void)state;
    static const char zeros[] = "00000000000000000000000000000000";
    char copy[sizeof GOOD + 1];
    refused(GD_STR(""));
    refused((struct gd_str){NULL, 0});
    refused(GD_STR(GOOD "-00"));
    refused(GD_STR(GOOD " "));
    refused(GD_STR(" " GOOD));
    refused(GD_STR("01-" TRACE "-" SPAN "-01"));
    refused(GD_STR("ff-" TRACE "-" SPAN "-01"));
    for (size_t n = 0; n < sizeof GOOD - 1; n++) /* cut anywhere */
        refused((struct gd_str){GOOD, n});
    /* Every byte at every place; only hex digits are good, and only where ids and flags stand. */
    for (size_t i = 0; i < sizeof GOOD - 1; i++) {
        const bool digit = i >= 3 && GOOD[i] != '-';
        for (int c = 0; c < 256; c++) {
            struct gd_trace t;
            gd_trace_init(&t);
            memcpy(copy, GOOD, sizeof GOOD);
            copy[i] = (char)c;
            const bool hex = c != 0 && strchr("0123456789abcdef", c) != NULL;
            const bool want = copy[i] == GOOD[i] || (digit && hex);
            assert_int_equal(gd_trace_adopt(&t, (struct gd_str){copy, sizeof GOOD - 1}), want);
        }
    }
    memcpy(copy, GOOD, sizeof GOOD);
    memcpy(copy + 3, zeros, GD_TRACE_ID_HEX);
    refused((struct gd_str){copy, sizeof GOOD - 1});
    memcpy(copy, GOOD, sizeof GOOD);
    memcpy(copy + 3 + GD_TRACE_ID_HEX + 1, zeros, GD_SPAN_ID_HEX);
    refused((struct gd_str){copy, sizeof GOOD - 1});
}

static bool adopt(struct gd_trace *t, const char *json)
{
    struct gd_arena a;
    struct gd_err err = {0};
    const struct gd_json *root = NULL;
    gd_arena_init(&a, GD_MIB);
    gd_trace_init(t);
    assert_int_equal(gd_json_parse(&a, gd_str_from(json), &GD_JSON_REQUEST_LIMITS, &root, &err), 0);
    const bool found = gd_trace_adopt_frames(t, root);
    gd_arena_free(&a);
    return found;
}

#define FRAME(meta)                                                                                \
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"_meta\":" meta "}}"
#define OTHER "00-11111111111111111111111111111111-2222222222222222-00"

static void test_frames(void **state)
{
    (void)state;
    struct gd_trace t;
    assert_false(gd_trace_adopt_frames(&t, NULL));
    static const char *const none[] = {
        "{}",
        "[]",
        "{\"frames\":null}",
        "{\"frames\":{\"params\":{\"_meta\":{\"traceparent\":\"" GOOD "\"}}}}",
        "{\"frames\":[]}",
        "{\"frames\":[1,null,[],{\"params\":1},{\"params\":{\"_meta\":[]}}]}",
        "{\"frames\":[" FRAME("{\"traceparent\":1}") "]}",
        "{\"frames\":[" FRAME("{\"traceparent\":\"" GOOD "x\"}") "]}",
        "{\"messages\":[" FRAME("{\"traceparent\":\"" GOOD "\"}") "]}",
        "{\"frames\":[],\"_meta\":{\"traceparent\":\"" GOOD "\"}}",
    };
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        if (adopt(&t, none[i]))
            fail_msg("taken: %s", none[i]);
        assert_string_equal(t.parent_id, "");
    }
    /* The last good one counts, whatever comes after it. */
    assert_true(adopt(&t, "{\"frames\":[" FRAME("{\"traceparent\":\"" OTHER "\"}") "," FRAME(
                              "{\"traceparent\":\"" GOOD
                              "\"}") "," FRAME("{\"traceparent\":\"00\"}") "]}"));
    assert_string_equal(t.trace_id, TRACE);
    assert_string_equal(t.parent_id, SPAN);
    assert_int_equal(t.flags, GD_TRACE_SAMPLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_ones_differ),
        cmocka_unit_test(test_adopted),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
