/* test_status.c - the error table and the error record. */
#include "guardian/json.h"
#include "guardian/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_table(void **state)
{
    (void)state;
    assert_string_equal(gd_status_wire(GD_OK), "ok");
    assert_int_equal(gd_status_http(GD_OK), 200);
    assert_string_equal(gd_status_wire(GD_EJSON), "invalid_json");
    assert_int_equal(gd_status_http(GD_EJSON), 400);
    assert_int_equal(gd_status_http(GD_ELIMIT), 413);
    assert_int_equal(gd_status_http(GD_EDEADLINE), 504);
    assert_string_equal(gd_status_message(GD_EDRAINING), "the server is shutting down");
    for (int code = 1; code > -40;
         code--) { /* a code that nobody knows is a defect of ours, never a success */
        if (code == 0 || code >= GD_EFORBIDDEN)
            continue;
        assert_string_equal(gd_status_wire(code), "internal");
    }
    assert_int_equal(gd_status_http(1), 500);
    assert_int_equal(gd_status_http(-1000), 500);
}

#define X(code, name, wire, http, msg)                                                             \
    assert_string_equal(gd_status_wire(GD_##name), wire);                                          \
    assert_int_equal(gd_status_http(GD_##name), http);                                             \
    assert_string_equal(gd_status_message(GD_##name), msg);                                        \
    assert_true(GD_##name < 0 && (http) >= 400 && (http) < 600);

static void test_every_row(void **state)
{
    (void)state;
    GD_STATUS_TABLE(X)
}
#undef X

static void test_set_and_prefix(void **state)
{
    (void)state;
    struct gd_err err;
    assert_int_equal(gd_err_set(&err, GD_EFIELD, "field '%s' has %d", "x", 3), GD_EFIELD);
    assert_int_equal(err.code, GD_EFIELD);
    assert_string_equal(err.msg, "field 'x' has 3");
    gd_err_prefix(&err, "file %s", "a.json");
    assert_string_equal(err.msg, "file a.json: field 'x' has 3");
    assert_int_equal(err.code, GD_EFIELD);
    gd_err_set(&err, GD_EIO, "again: %s", err.msg); /* its own message as an argument */
    assert_string_equal(err.msg, "again: file a.json: field 'x' has 3");
    assert_int_equal(gd_err_set(NULL, GD_EIO, "nobody reads %d", 1), GD_EIO);
    gd_err_prefix(NULL, "nobody");
}

static void assert_valid_utf8(const char *z)
{
    const struct gd_str s = gd_str_from(z);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        const int n = gd_utf8_next(s, i, &cp);
        assert_true(n > 0);
        i += (size_t)n;
    }
}

/* Characters of every length at every place of the cut. */
static void test_cut_between_characters(void **state)
{
    (void)state;
    static const char *const chars[] = {"a", "\xC3\xA9", "\xE0\xA4\x85", "\xE6\xBC\xA2",
                                        "\xF0\x9F\x98\x80"};
    for (size_t k = 0; k < 5; k++) {
        const size_t width = strlen(chars[k]);
        for (int before = 0; before < 4; before++) {
            char text[1024] = "...";
            text[before] = '\0';
            while (strlen(text) < 600)
                strcat(text, chars[k]);
            struct gd_err err;
            gd_err_set(&err, GD_EIO, "%s", text);
            assert_valid_utf8(err.msg);
            assert_true(strlen(err.msg) + width >= GD_ERR_MSG_MAX);
            assert_memory_equal(err.msg, text, strlen(err.msg));
            gd_err_prefix(&err, "%.*s", before + 1, "pppp");
            assert_valid_utf8(err.msg);
            assert_true(strlen(err.msg) + width >= GD_ERR_MSG_MAX);
            gd_err_prefix(&err, "%s", text);
            assert_valid_utf8(err.msg);
        }
    }
}

/* Texts one byte around what fits, each ending in a character of two bytes. */
static void test_lengths_around_the_limit(void **state)
{
    (void)state;
    for (size_t n = GD_ERR_MSG_MAX - 4; n <= GD_ERR_MSG_MAX + 4; n++) {
        char text[GD_ERR_MSG_MAX + 8];
        struct gd_err err = {0};
        memset(text, 'x', n - 2);
        memcpy(text + n - 2, "\xC3\xA9", 3);
        const size_t room = GD_ERR_MSG_MAX - 1;
        const size_t want = n <= room ? n : n - 2 <= room && n - 1 >= room ? n - 2 : room;
        gd_err_set(&err, GD_EIO, "%s", text);
        assert_int_equal(strlen(err.msg), want);
        assert_memory_equal(err.msg, text, want);
        gd_err_set(&err, GD_EIO, "%s", text + 3);
        gd_err_prefix(&err, "x"); /* "x: " makes up for the three bytes */
        assert_int_equal(strlen(err.msg), want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_every_row),
        cmocka_unit_test(test_set_and_prefix),
        cmocka_unit_test(test_cut_between_characters),
        cmocka_unit_test(test_lengths_around_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
