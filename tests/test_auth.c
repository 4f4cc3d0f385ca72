/* test_auth.c - how a request presents its key: each way, and everything that is not quite one. */
#include "guardian/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#define KEY "correct-horse-battery-staple"

static enum gd_auth present(const char *n1, const char *v1, const char *n2, const char *v2,
                            struct gd_str *key)
{
    struct gd_http_request req = {.n_headers = 1};
    req.headers[0] = (struct gd_http_header){"Host", "x"};
    if (n1 != NULL)
        req.headers[req.n_headers++] = (struct gd_http_header){n1, v1};
    req.headers[req.n_headers++] = (struct gd_http_header){"Accept", "*/*"};
    if (n2 != NULL)
        req.headers[req.n_headers++] = (struct gd_http_header){n2, v2};
    *key = GD_STR("left over");
    return gd_auth_present(&req, key);
}

static void test_auth(void **state)
{
    (void)state;
    static char long_key[GD_KEY_BYTES_MAX + 2], bearer[GD_KEY_BYTES_MAX + 16];
    const struct {
        const char *n1, *v1, *n2, *v2, *key; /* key NULL: refused; "": there is none */
    } cases[] = {
        {NULL, NULL, NULL, NULL, ""},
        {"x-api-keys", KEY, "Proxy-Authorization", "Bearer " KEY, ""},
        {"Authorization", "Bearer " KEY, NULL, NULL, KEY},
        {"aUTHORIZATION", "bEARER " KEY, NULL, NULL, KEY},
        {NULL, NULL, "X-API-Key", KEY, KEY},
        {"x-api-key", "!~0123456789abcd", NULL, NULL, "!~0123456789abcd"},
        {"x-api-key", "0123456789abcde", NULL, NULL, NULL},
        {"x-api-key", "", NULL, NULL, NULL},
        {"x-api-key", KEY " ", NULL, NULL, NULL},
        {"x-api-key", " " KEY, NULL, NULL, NULL},
        {"x-api-key", KEY "\t", NULL, NULL, NULL},
        {"x-api-key", KEY "\x80", NULL, NULL, NULL},
        {"x-api-key", KEY "\x7f", NULL, NULL, NULL},
        {"x-api-key", KEY ", " KEY, NULL, NULL, NULL},
        {"x-api-key", "Bearer " KEY, NULL, NULL, NULL},
        {"Authorization", "", NULL, NULL, NULL},
        {"Authorization", "Bearer", NULL, NULL, NULL},
        {"Authorization", "Bearer ", NULL, NULL, NULL},
        {"Authorization", "Bearer  " KEY, NULL, NULL, NULL},
        {"Authorization", "Bearer\t" KEY, NULL, NULL, NULL},
        {"Authorization", " Bearer " KEY, NULL, NULL, NULL},
        {"Authorization", "Bearer " KEY " ", NULL, NULL, NULL},
        {"Authorization", "Bearer " KEY " x", NULL, NULL, NULL},
        {"Authorization", "Bearer" KEY, NULL, NULL, NULL},
        {"Authorization", "Basic " KEY, NULL, NULL, NULL},
        {"Authorization", KEY, NULL, NULL, NULL},
        {"Authorization", "Bearer " KEY, "authorization", "Bearer " KEY, NULL},
        {"x-api-key", KEY, "X-API-KEY", KEY, NULL},
        {"Authorization", "Bearer " KEY, "x-api-key", KEY, NULL},
        {"x-api-key", KEY, "Authorization", "Basic eDp5", NULL},
        {"x-api-key", "", "Authorization", "Bearer " KEY, NULL},
        {"x-api-key", long_key + 1, NULL, NULL, long_key + 1},
        {"x-api-key", long_key, NULL, NULL, NULL},
        {"Authorization", bearer, NULL, NULL, long_key + 1},
    };
    memset(long_key, 'k', GD_KEY_BYTES_MAX + 1);
    snprintf(bearer, sizeof bearer, "Bearer %s", long_key + 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gd_str key;
        const char *want = cases[i].key;
        enum gd_auth got = present(cases[i].n1, cases[i].v1, cases[i].n2, cases[i].v2, &key);
        enum gd_auth as = want == NULL      ? GD_AUTH_MALFORMED
                          : want[0] == '\0' ? GD_AUTH_NONE
                                            : GD_AUTH_KEY;
        if (got != as || !gd_str_eqz(key, want != NULL ? want : ""))
            fail_msg("case %zu: %d '%.*s'", i, (int)got, (int)key.len, key.ptr);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
