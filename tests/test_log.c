/* test_log.c - the log: every line is one JSON object whatever the texts hold, and lines of threads
 * never mix. */
#include "guardian/json.h"
#include "guardian/limits.h"
#include "guardian/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static FILE *out;
static char text[4 * 1024 * 1024];

static int setup(void **state)
{
    (void)state;
    out = tmpfile();
    if (!out)
        return -1;
    gd_log_set_fd(fileno(out));
    gd_log_set_level(GD_LOG_INFO);
    gd_log_set_version("");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gd_log_set_fd(STDERR_FILENO);
    return fclose(out);
}

static struct gd_str logged(void)
{
    const ssize_t n = pread(fileno(out), text, sizeof text - 1, 0);
    assert_true(n >= 0 && (size_t)n < sizeof text - 1);
    text[n] = '\0';
    return (struct gd_str){text, (size_t)n};
}

/* Parses the line at *at and moves behind it; every line must have the four standard members
 * first. */
static const struct gd_json *next_line(struct gd_arena *a, struct gd_str all, size_t *at)
{
    const char *end = memchr(all.ptr + *at, '\n', all.len - *at);
    assert_non_null(end);
    const struct gd_str line = {all.ptr + *at, (size_t)(end - all.ptr) - *at};
    const struct gd_json *root = NULL;
    struct gd_err err;
    if (gd_json_parse(a, line, &GD_JSON_REQUEST_LIMITS, &root, &err))
        fail_msg("%s: %.*s", err.msg, (int)line.len, line.ptr);
    assert_int_equal(root->flags, 0);
    static const char *const first[] = {"timestamp", "severity_text", "msg", "service.name"};
    const struct gd_json *m = root->child;
    assert_int_equal(m->str.len, strlen("2026-01-31T12:00:00.000Z"));
    for (size_t i = 0; i < 4; i++, m = m->next)
        assert_true(gd_str_eqz(m->key, first[i]));
    assert_true(gd_str_eqz(gd_json_get(root, "service.name")->str, "guardian"));
    *at += line.len + 1;
    return root;
}

static void test_fields(void **state)
{
    (void)state;
    gd_log(GD_LOG_INFO, "one", GD_LOG_Z("z", "text"), GD_LOG_STR("s", GD_STR("a\0b")),
           GD_LOG_I64("n", INT64_MIN), GD_LOG_F64("f", 0.1), GD_LOG_BOOL("t", true),
           GD_LOG_BOOL("u", false), GD_LOG_Z("null", NULL));
    gd_log_msg(GD_LOG_ERROR, "two");
    struct gd_arena a;
    gd_arena_init(&a, GD_MIB);
    size_t at = 0;
    const struct gd_str all = logged();
    const struct gd_json *line = next_line(&a, all, &at);
    assert_true(gd_str_eqz(gd_json_get(line, "severity_text")->str, "INFO"));
    assert_true(gd_str_eqz(gd_json_get(line, "msg")->str, "one"));
    assert_true(gd_str_eqz(gd_json_get(line, "z")->str, "text"));
    assert_true(gd_str_eq(gd_json_get(line, "s")->str, GD_STR("a\0b")));
    assert_true(gd_str_eqz(gd_json_get(line, "n")->raw, "-9223372036854775808"));
    assert_true(gd_str_eqz(gd_json_get(line, "f")->raw, "0.1"));
    assert_true(gd_json_is(gd_json_get(line, "t"), GD_JSON_TRUE));
    assert_true(gd_json_is(gd_json_get(line, "u"), GD_JSON_FALSE));
    assert_true(gd_str_eqz(gd_json_get(line, "null")->str, ""));
    line = next_line(&a, all, &at);
    assert_true(gd_str_eqz(gd_json_get(line, "severity_text")->str, "ERROR"));
    assert_int_equal(line->n_children, 4);
    assert_int_equal(at, all.len);
    gd_log_set_version("1.2\n\"x");
    gd_log_msg(GD_LOG_WARN, "three");
    line = next_line(&a, logged(), &at);
    assert_true(gd_str_eqz(gd_json_get(line, "severity_text")->str, "WARN"));
    assert_true(gd_str_eqz(gd_json_get(line, "service.version")->str, "1.2\n\"x"));
    assert_int_equal(line->n_children, 5);
    gd_arena_free(&a);
}

/* All bytes, and texts that try to end a line, a string, an object or a terminal's patience. */
static void test_injection(void **state)
{
    (void)state;
    char bytes[256];
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    const struct gd_str nasty[] = {
        {bytes, sizeof bytes},
        GD_STR("x\"}\n{\"severity_text\":\"INFO\",\"msg\":\"forged\"}\n"),
        GD_STR("\xE2\x80\xA8\xE2\x80\xA9\xC2\x85\xC2\x9B"
               "31m\x1B[2J\x7F\r\n"),
        GD_STR("\xE2\x80"),
    };
    const size_t n = sizeof nasty / sizeof nasty[0];
    for (size_t i = 0; i < n; i++)
        gd_log(GD_LOG_WARN, "nasty", GD_LOG_STR("text", nasty[i]), GD_LOG_I64("i", (int64_t)i));
    struct gd_arena a;
    gd_arena_init(&a, GD_MIB);
    const struct gd_str all = logged();
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct gd_json *line = next_line(&a, all, &at);
        int64_t k = -1;
        struct gd_buf want;
        assert_int_equal(line->n_children, 6);
        assert_true(gd_json_i64(gd_json_get(line, "i"), &k) && k == (int64_t)i);
        gd_buf_init(&want, 4096);
        gd_utf8_repair(&want, nasty[i]);
        assert_true(
            gd_str_eq(gd_json_get(line, "text")->str, (struct gd_str){want.data, want.len}));
        gd_buf_free(&want);
    }
    assert_int_equal(at, all.len);
    for (size_t i = 0; i < all.len;) {
        uint32_t cp;
        const int len = gd_utf8_next(all, i, &cp);
        assert_true(len > 0);
        assert_true(cp == '\n' || (cp >= 0x20 && cp < 0x7F) ||
                    (cp >= 0xA0 && cp != 0x2028 && cp != 0x2029));
        i += (size_t)len;
    }
    gd_arena_free(&a);
}

static void test_long_texts_are_cut(void **state)
{
    (void)state;
    static char fill[3 * GD_LOG_STR_BYTES_MAX];
    for (size_t i = 0; i + 3 <= sizeof fill; i += 3)
        memcpy(fill + i, "\xE6\xBC\xA2", 3);
    gd_log(GD_LOG_INFO, "long", GD_LOG_STR("t", ((struct gd_str){fill, sizeof fill})));
    static struct gd_log_field
        many[400]; /* of control bytes: six bytes each, too long for a line */
    memset(fill, 1, sizeof fill);
    for (size_t i = 0; i < 400; i++)
        many[i] = GD_LOG_STR("t", ((struct gd_str){fill, sizeof fill}));
    gd_log_write(GD_LOG_INFO, "too long", many, 400);
    const struct gd_str all = logged();
    const char *second = strchr(text, '\n') + 1;
    assert_string_equal(second, "{\"severity_text\":\"ERROR\",\"msg\":\"a log line was lost\"}\n");
    struct gd_arena a;
    size_t at = 0;
    gd_arena_init(&a, GD_MIB);
    const struct gd_json *line = next_line(&a, all, &at);
    const size_t len = gd_json_get(line, "t")->str.len;
    assert_true(len <= GD_LOG_STR_BYTES_MAX && len > GD_LOG_STR_BYTES_MAX - 3 && len % 3 == 0);
    gd_arena_free(&a);
}

static void test_levels(void **state)
{
    (void)state;
    enum gd_log_level level;
    static const char *const names[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) {
        assert_true(gd_log_level_parse(names[i], &level));
        assert_int_equal(level, i);
    }
    assert_false(gd_log_level_parse("INFO", &level));
    assert_false(gd_log_level_parse("", &level));
    assert_false(gd_log_level_parse(NULL, &level));
    gd_log_msg(GD_LOG_DEBUG, "dropped");
    assert_int_equal(logged().len, 0);
    gd_log_set_level(GD_LOG_ERROR);
    assert_true(gd_log_enabled(GD_LOG_ERROR));
    assert_false(gd_log_enabled(GD_LOG_WARN));
    gd_log_msg(GD_LOG_WARN, "dropped");
    assert_int_equal(logged().len, 0);
    gd_log_set_level(GD_LOG_DEBUG);
    gd_log_msg(GD_LOG_DEBUG, "kept");
    assert_true(logged().len > 0);
}

static void test_bad_descriptor(void **state)
{
    (void)state;
    gd_log_set_fd(-1);
    errno = 123;
    gd_log_msg(GD_LOG_ERROR, "nowhere to go");
    assert_int_equal(errno, 123);
}

/* A pipe that takes a part of a line and then nothing for a time: that line is lost, and the next
 * one is still a line. */
static void test_torn_line(void **state)
{
    (void)state;
    static char fill[4096];
    int fds[2];
    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, 8192), 8192);
    gd_log_set_fd(fds[1]);
    memset(fill, 'x', sizeof fill);
    static struct gd_log_field many[4]; /* a line that is longer than the pipe */
    for (size_t i = 0; i < 4; i++)
        many[i] = GD_LOG_STR("t", ((struct gd_str){fill, GD_LOG_STR_BYTES_MAX}));
    gd_log_write(GD_LOG_INFO, "torn", many, 4);
    /* It is not waited for; nothing of it is there, nothing is torn by it. */
    gd_log_msg(GD_LOG_INFO, "no room");
    const ssize_t torn = read(fds[0], text, sizeof text);
    assert_true(torn > 0 && memchr(text, '\n', (size_t)torn) == NULL);
    gd_log_msg(GD_LOG_INFO, "whole");
    gd_log_msg(GD_LOG_INFO, "again");
    const ssize_t n = read(fds[0], text, sizeof text);
    assert_true(n > 0 && text[0] == '\n');
    struct gd_arena a;
    gd_arena_init(&a, GD_MIB);
    size_t at = 1;
    const struct gd_str all = {text, (size_t)n};
    assert_true(gd_str_eqz(gd_json_get(next_line(&a, all, &at), "msg")->str, "whole"));
    const struct gd_json *lost = next_line(&a, all, &at);
    assert_true(gd_str_eqz(gd_json_get(lost, "msg")->str, "log lines were lost"));
    assert_true(gd_str_eqz(gd_json_get(lost, "lines")->raw, "2"));
    assert_true(gd_str_eqz(gd_json_get(next_line(&a, all, &at), "msg")->str, "again"));
    assert_int_equal(at, n);
    gd_arena_free(&a);
    close(fds[0]);
    close(fds[1]);
}

static void *chatter(void *arg)
{
    for (int i = 0; i < 500; i++)
        gd_log(GD_LOG_INFO, "chatter", GD_LOG_Z("who", arg), GD_LOG_I64("i", i));
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[4];
    char *names[4] = {"a", "bb", "ccc", "dddd"};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, chatter, names[i]), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    struct gd_arena a;
    gd_arena_init(&a, 64 * GD_MIB);
    const struct gd_str all = logged();
    size_t lines = 0;
    for (size_t at = 0; at < all.len; lines++)
        (void)next_line(&a, all, &at);
    assert_int_equal(lines, 2000);
    gd_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(test_injection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_texts_are_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_descriptor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
