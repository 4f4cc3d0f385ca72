/* test_gate_unit.c - the gate as functions of a parsed head: every rule, both ways, and what it tells of
 * those that pass. tests/http/test_gate.py asks the same of the running server, tests/fuzz/fuzz_gate.c of
 * any bytes. */
#include "guardian/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* A head of "Name: value" lines, at most 8 beside the Host. */
struct lines {
    const char *line[8];
};

static char storage[16][256];

static struct gd_http_request head(const struct lines *l, bool with_host)
{
    struct gd_http_request r = {
        .method = "POST", .path = "/v1/guard", .version = "1.1", .plain = true};
    if (with_host)
        r.headers[r.n_headers++] = (struct gd_http_header){"Host", "x"};
    for (size_t i = 0; i < 8 && l->line[i]; i++) {
        char *copy = storage[i];
        assert_true(strlen(l->line[i]) < sizeof storage[0]);
        strcpy(copy, l->line[i]);
        char *colon = strstr(copy, ": ");
        assert_non_null(colon);
        *colon = '\0';
        r.headers[r.n_headers++] = (struct gd_http_header){copy, colon + 2};
    }
    return r;
}

static struct gd_gate framing(const struct gd_http_request *r)
{
    struct gd_gate g;
    memset(&g, 0x5A, sizeof g);
    gd_gate_framing(r, &g);
    if (g.status != 0) {
        assert_true(g.code != NULL && g.code[0] != '\0' && g.message != NULL &&
                    g.message[0] != '\0');
        assert_true(g.client_closes); /* a refusal ends the connection */
    } else {
        assert_null(g.code);
    }
    return g;
}

static void expect(const struct gd_gate *g, int status, const char *code, const char *what)
{
    if (g->status != status || (code && strcmp(g->code, code) != 0))
        fail_msg("%s: %d %s, expected %d %s", what, g->status, g->code ? g->code : "-", status,
                 code ? code : "-");
}

static void test_passes(void **state)
{
    static const struct lines cases[] = {
        {{"X: "}},
        {{"x-a!#$%&'*+.^_`|~09: any \xff\x80 text\twith a tab"}},
        {{"hosts: y"}},
        {{"hos: y"}},
        {{"Content-Length: 0"}},
        {{"content-length: 999999999"}},
        {{"CONTENT-LENGTH: 000000007"}},
        {{"content-lengths: x"}},
        {{"Expect: 100-continue"}},
        {{"eXPECT: 100-Continue"}},
        {{"Connection: keep-alive"}},
    };
    (void)state;
    for (size_t i = 0; i < N(cases); i++) {
        const struct gd_http_request r = head(&cases[i], true);
        const struct gd_gate g = framing(&r);
        expect(&g, 0, NULL, cases[i].line[0]);
    }
}

static void test_refused(void **state)
{
    static const struct {
        struct lines lines;
        int status;
        const char *code;
    } cases[] = {
        {{{"Host: y"}}, 400, "bad_request"},
        {{{"hOST: x"}}, 400, "bad_request"},
        {{{": y"}}, 400, "bad_request"},
        {{{"a b: y"}}, 400, "bad_request"},
        {{{"a(b): y"}}, 400, "bad_request"},
        {{{"a{: y"}}, 400, "bad_request"},
        {{{"a[: y"}}, 400, "bad_request"},
        {{{"a/b: y"}}, 400, "bad_request"},
        {{{"a\xc3\xa9: y"}}, 400, "bad_request"},
        {{{"a\x7f: y"}}, 400, "bad_request"},
        {{{"a: b\x01"}}, 400, "bad_request"},
        {{{"a: \x1f"}}, 400, "bad_request"},
        {{{"a: b\rc"}}, 400, "bad_request"},
        {{{"a: b\nc"}}, 400, "bad_request"},
        {{{"a: \x7f"}}, 400, "bad_request"},
        {{{"Transfer-Encoding: chunked"}}, 411, "length_required"},
        {{{"transfer-encoding: identity"}}, 411, "length_required"},
        {{{"TRANSFER-ENCODING: "}}, 411, "length_required"},
        {{{"Content-Length: 5", "Transfer-Encoding: chunked"}}, 411, "length_required"},
        {{{"Content-Length: "}}, 400, "bad_request"},
        {{{"Content-Length: 5abc"}}, 400, "bad_request"},
        {{{"Content-Length: +5"}}, 400, "bad_request"},
        {{{"Content-Length: -5"}}, 400, "bad_request"},
        {{{"Content-Length: 0x5"}}, 400, "bad_request"},
        {{{"Content-Length: 5, 5"}}, 400, "bad_request"},
        {{{"Content-Length: 5 "}}, 400, "bad_request"},
        {{{"Content-Length: 5", "content-length: 5"}}, 400, "bad_request"},
        {{{"Content-Length: 5", "X: y", "CONTENT-LENGTH: 6"}}, 400, "bad_request"},
        {{{"Content-Length: 1000000000"}}, 413, "limit_exceeded"},
        {{{"Content-Length: 0000000005"}}, 413, "limit_exceeded"},
        {{{"Content-Length: 99999999999999999999999"}}, 413, "limit_exceeded"},
        {{{"Upgrade: websocket"}}, 400, "bad_request"},
        {{{"UPGRADE: h2c"}}, 400, "bad_request"},
        {{{"Expect: banana"}}, 417, "expectation_failed"},
        {{{"Expect: "}}, 417, "expectation_failed"},
        {{{"Expect: 100-continue, x"}}, 417, "expectation_failed"},
        {{{"Expect: 100-continue", "Expect: 100-continue"}}, 417, "expectation_failed"},
        {{{"Expect: 100-continue", "Expect: banana"}}, 417, "expectation_failed"},
    };
    (void)state;
    for (size_t i = 0; i < N(cases); i++) {
        const struct gd_http_request r = head(&cases[i].lines, true);
        const struct gd_gate g = framing(&r);
        expect(&g, cases[i].status, cases[i].code, cases[i].lines.line[0]);
    }
}

static void test_head(void **state)
{
    const struct lines none = {{NULL}}, one = {{"Host: x"}};
    (void)state;
    struct gd_http_request r = head(&none, false);
    struct gd_gate g = framing(&r);
    expect(&g, 400, "bad_request", "no headers");
    r = head(&one, false);
    g = framing(&r);
    expect(&g, 0, NULL, "Host alone");
    r.plain = false;
    g = framing(&r);
    expect(&g, 400, "bad_request", "bytes that were not seen");
    assert_non_null(strstr(g.message, "CRLF"));
    static const char *const targets[] = {"", "*", "v1/guard", "http://x/v1/guard", "x:1"};
    for (size_t i = 0; i < N(targets); i++) {
        r = head(&one, false);
        r.path = targets[i];
        g = framing(&r);
        expect(&g, 400, "bad_request", targets[i]);
    }
    r.path = NULL;
    g = framing(&r);
    expect(&g, 400, "bad_request", "no target");
}

static void test_host(void **state)
{
    static const char *const good[] = {"", "x", "a.b:80", "[::1]:8080", "a%20b"};
    static const char *const bad[] = {"a b", "a\x7f", "a\xc3\xa9", "a/b", "a@b", "a?b", "a#b"};
    const struct lines none = {{NULL}};
    (void)state;
    for (size_t i = 0; i < N(good) + N(bad); i++) {
        struct gd_http_request r = head(&none, true);
        r.headers[0].value = i < N(good) ? good[i] : bad[i - N(good)];
        struct gd_gate g = framing(&r);
        expect(&g, i < N(good) ? 0 : 400, i < N(good) ? NULL : "bad_request", r.headers[0].value);
    }
}

/* The bytes of a head, before the library has them. */
static void test_plain_bytes(void **state)
{
    static const struct {
        const char *head;
        bool plain;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},   {"GET / HTTP/1.1\r\n\r\n", true},
        {"GET / HTTP/1.1\nHost: x\r\n\r\n", false},    {"\nGET / HTTP/1.1\r\n\r\n", false},
        {"\r\nGET / HTTP/1.1\r\n\r\n", false},         {"\r\n", false},
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\nx", false}, {"GET / HTTP/1.1\r\nHost: x\r\n", false},
        {"GET / HTTP/1.1\r\n a: b\r\n\r\n", false},    {"GET  HTTP/1.1\r\n\r\n", false},
    };
    (void)state;
    for (size_t i = 0; i < N(cases); i++)
        if (gd_gate_head_is_plain(cases[i].head, strlen(cases[i].head)) != cases[i].plain)
            fail_msg("%s", cases[i].head);
}

static void test_origins(void **state)
{
    static const struct {
        struct lines lines;
        const char *allowed;
        int status;
    } cases[] = {
        {{{NULL}}, "", 0},
        {{{"Origin: https://a"}}, "", 403},
        {{{"Origin: https://a"}}, "https://a", 0},
        {{{"Origin: https://a"}}, "https://b,https://a", 0},
        {{{"Origin: https://a"}}, "https://ab,https://b", 403},
        {{{"Origin: https://b"}}, "https://a", 403},
        {{{"Origin: "}}, "https://a,", 403},
        {{{"Origin: https://a", "Origin: https://a"}}, "https://a", 403},
    };
    (void)state;
    for (size_t i = 0; i < N(cases); i++) {
        struct gd_http_request r = head(&cases[i].lines, true);
        struct gd_gate g = {.status = 0};
        gd_gate_origin(&r, cases[i].allowed, &g);
        assert_int_equal(g.status, cases[i].status);
    }
}

/* 63 lines pass, one more is told before anything else is looked at. */
static void test_number_of_headers(void **state)
{
    const struct lines none = {{NULL}};
    struct gd_http_request r = head(&none, true);
    (void)state;
    while (r.n_headers < GD_HTTP_HEADERS_MAX)
        r.headers[r.n_headers++] = (struct gd_http_header){"a", "b"};
    struct gd_gate g = framing(&r);
    expect(&g, 0, NULL, "63 headers");
    r.headers[r.n_headers++] = (struct gd_http_header){"a", "b"};
    r.plain = false;
    g = framing(&r);
    expect(&g, 431, "too_many_headers", "64 headers");
}

static void test_what_is_told(void **state)
{
    static const struct {
        struct lines lines;
        const char *version;
        bool has_length, expects, closes;
        size_t length;
    } cases[] = {
        {{{NULL}}, "1.1", false, false, false, 0},
        {{{NULL}}, "1.0", false, false, true, 0},
        {{{"Connection: keep-alive"}}, "1.0", false, false, true, 0},
        {{{"Content-Length: 0"}}, "1.1", true, false, false, 0},
        {{{"Content-Length: 2097152"}}, "1.1", true, false, false, 2097152},
        {{{"Content-Length: 999999999", "Expect: 100-continue"}},
         "1.1",
         true,
         true,
         false,
         999999999},
        {{{"Connection: close"}}, "1.1", false, false, true, 0},
        {{{"connection: Keep-Alive", "CONNECTION: x,CLOSE"}}, "1.1", false, false, true, 0},
        {{{"Connection: keep-alive"}}, "1.1", false, false, false, 0},
        {{{"Connection: Keep-Alive"}}, "1.1", false, false, false, 0},
        {{{"Connection: keep-alive", "Connection: keep-alive"}}, "1.1", false, false, true, 0},
        {{{"Connection: keep-alive, x"}}, "1.1", false, false, true, 0},
        {{{"Connection: clos"}}, "1.1", false, false, true, 0},
        {{{"Connection: cxose, clxse, cloxe, closx"}}, "1.1", false, false, true, 0},
        {{{"Connection: "}}, "1.1", false, false, true, 0},
        {{{"X: close"}}, "1.1", false, false, false, 0},
    };
    (void)state;
    for (size_t i = 0; i < N(cases); i++) {
        struct gd_http_request r = head(&cases[i].lines, true);
        r.version = cases[i].version;
        const struct gd_gate g = framing(&r);
        assert_int_equal(g.status, 0);
        assert_int_equal(g.has_length, cases[i].has_length);
        assert_int_equal(g.content_length, cases[i].length);
        assert_int_equal(g.expect_continue, cases[i].expects);
        assert_int_equal(g.client_closes, cases[i].closes);
    }
}

static void test_bodies(void **state)
{
    static const struct {
        struct lines lines;
        const char *query;
        bool takes_body;
        int status;
        const char *code;
    } cases[] = {
        /* a method without a body */
        {{{NULL}}, NULL, false, 0, NULL},
        {{{NULL}}, "a=b", false, 0, NULL},
        {{{"Content-Length: 0"}}, NULL, false, 0, NULL},
        {{{"Content-Length: 1"}}, NULL, false, 400, "bad_request"},
        {{{"Content-Type: text/plain"}}, NULL, false, 0, NULL},
        /* a method with one */
        {{{NULL}}, NULL, true, 411, "length_required"},
        {{{"Content-Length: 5"}}, "", true, 400, "bad_request"},
        {{{"Content-Length: 5"}}, "a=b", true, 400, "bad_request"},
        {{{"Content-Length: 0"}}, NULL, true, 0, NULL},
        {{{"Content-Length: 2097152"}}, NULL, true, 0, NULL},
        {{{"Content-Length: 2097153"}}, NULL, true, 413, "limit_exceeded"},
        {{{"Content-Length: 5", "Content-Type: application/json"}}, NULL, true, 0, NULL},
        {{{"Content-Length: 5", "Content-Type: APPLICATION/Json;charset=utf-8"}},
         NULL,
         true,
         0,
         NULL},
        {{{"Content-Length: 5", "Content-Type: application/json ; x"}}, NULL, true, 0, NULL},
        {{{"Content-Length: 5", "Content-Type: application/json\t"}}, NULL, true, 0, NULL},
        {{{"Content-Length: 5", "Content-Type: application/jsonx"}},
         NULL,
         true,
         415,
         "unsupported_media_type"},
        {{{"Content-Length: 5", "Content-Type: application/jso"}},
         NULL,
         true,
         415,
         "unsupported_media_type"},
        {{{"Content-Length: 5", "Content-Type: text/plain"}},
         NULL,
         true,
         415,
         "unsupported_media_type"},
        {{{"Content-Length: 5", "Content-Type: "}}, NULL, true, 415, "unsupported_media_type"},
        {{{"Content-Length: 5", "Content-Type: application/json",
           "content-type: application/json"}},
         NULL,
         true,
         415,
         "unsupported_media_type"},
        {{{"Content-Length: 5", "Content-Encoding: Identity"}}, NULL, true, 0, NULL},
        {{{"Content-Length: 5", "Content-Encoding: gzip"}},
         NULL,
         true,
         415,
         "unsupported_media_type"},
        {{{"Content-Length: 5", "Content-Encoding: "}}, NULL, true, 415, "unsupported_media_type"},
    };
    (void)state;
    for (size_t i = 0; i < N(cases); i++) {
        struct gd_http_request r = head(&cases[i].lines, true);
        r.query = cases[i].query;
        struct gd_gate g = framing(&r);
        assert_int_equal(g.status, 0);
        gd_gate_body(&r, cases[i].takes_body, &g);
        expect(&g, cases[i].status, cases[i].code,
               cases[i].lines.line[1] ? cases[i].lines.line[1] : "body");
        assert_true(g.status == 0 || (g.message != NULL && g.message[0] != '\0'));
    }
}

static void test_header_get(void **state)
{
    const struct lines l = {{"A: 1", "Ab: 2", "a: 3", "x-Long-NAME: 4", "E: "}};
    const struct gd_http_request r = head(&l, true);
    (void)state;
    assert_string_equal(gd_http_header_get(&r, "a"), "1");
    assert_string_equal(gd_http_header_get(&r, "ab"), "2");
    assert_string_equal(gd_http_header_get(&r, "x-long-name"), "4");
    assert_string_equal(gd_http_header_get(&r, "e"), "");
    assert_null(gd_http_header_get(&r, "abc"));
    assert_null(gd_http_header_get(&r, ""));
    assert_null(gd_http_header_get(&r, "x-long-nam"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_head),         cmocka_unit_test(test_number_of_headers),
        cmocka_unit_test(test_host),         cmocka_unit_test(test_plain_bytes),
        cmocka_unit_test(test_origins),
        cmocka_unit_test(test_what_is_told), cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_header_get),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
