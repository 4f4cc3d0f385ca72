/* test_json_limits.c - the JSON reader under pressure: every budget at its limit, running out of
 * memory at every point, and time that stays linear whatever an attacker sends. */
#include "guardian/json.h"
#include "guardian/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define ARENA_BYTES (512 * GD_MIB)

struct parsed {
    struct gd_arena arena;
    struct gd_err err;
    const struct gd_json *root;
    int rc;
};

static struct parsed parse(struct gd_str text, const struct gd_json_limits *lim)
{
    struct parsed p = {.root = NULL};
    gd_arena_init(&p.arena, ARENA_BYTES);
    p.rc = gd_json_parse(&p.arena, text, lim, &p.root, &p.err);
    assert_int_equal(p.rc ? p.err.code : 0, p.rc);
    if (p.rc)
        assert_true(strlen(p.err.msg) > 0);
    return p;
}

/* A text of n members; member `twin` (n: none) repeats the name of member 0. */
static char *members(size_t n, size_t twin)
{
    char *text = malloc(n * 32 + 16);
    assert_non_null(text);
    size_t w = 0;
    text[w++] = '{';
    for (size_t i = 0; i < n; i++)
        w += (size_t)sprintf(text + w, "%s\"key %zu\":%zu", i ? "," : "", i == twin ? 0 : i, i);
    text[w++] = '}';
    text[w] = '\0';
    return text;
}

/* ---- budgets ---- */

static int parse_rc(struct gd_str text, const struct gd_json_limits *lim)
{
    struct parsed p = parse(text, lim);
    gd_arena_free(&p.arena);
    return p.rc;
}

static void test_limit_bytes(void **state)
{
    (void)state;
    const struct gd_json_limits *lim = &GD_JSON_REQUEST_LIMITS;
    char *text = malloc(lim->bytes_max + 1);
    assert_non_null(text);
    for (size_t n = lim->bytes_max - 1; n <= lim->bytes_max + 1; n++) {
        memset(text, 'a', n);
        text[0] = text[n - 1] = '"';
        assert_int_equal(parse_rc((struct gd_str){text, n}, lim),
                         n > lim->bytes_max ? GD_ELIMIT : 0);
    }
    free(text);
}

static void test_limit_nodes(void **state)
{
    (void)state;
    const struct gd_json_limits *lim = &GD_JSON_REQUEST_LIMITS;
    for (uint32_t n = lim->nodes_max - 1; n <= lim->nodes_max + 1; n++) {
        char *text = malloc(2 * (size_t)n); /* [1,1,...] has n - 1 elements and the array */
        assert_non_null(text);
        text[0] = '[';
        for (size_t i = 0; i < n - 1; i++)
            memcpy(text + 1 + 2 * i, "1,", 2);
        text[2 * (size_t)n - 2] = ']';
        assert_int_equal(parse_rc((struct gd_str){text, 2 * (size_t)n - 1}, lim),
                         n > lim->nodes_max ? GD_ELIMIT : 0);
        free(text);
    }
}

static size_t nested(char *text, size_t depth, const char *open, const char *inner, char close)
{
    size_t w = 0;
    for (size_t i = 0; i < depth; i++) {
        memcpy(text + w, open, strlen(open));
        w += strlen(open);
    }
    memcpy(text + w, inner, strlen(inner));
    w += strlen(inner);
    memset(text + w, close, depth);
    return w + depth;
}

static void test_limit_depth(void **state)
{
    (void)state;
    static char text[1024];
    const struct gd_json_limits *lim = &GD_JSON_REQUEST_LIMITS;
    for (size_t d = lim->depth_max - 1; d <= lim->depth_max + 1; d++) {
        const int want = d > lim->depth_max ? GD_ELIMIT : 0;
        size_t n = nested(text, d, "[", "", ']');
        assert_int_equal(parse_rc((struct gd_str){text, n}, lim), want);
        n = nested(text, d - 1, "[", "1", ']');
        assert_int_equal(parse_rc((struct gd_str){text, n}, lim), want);
        n = nested(text, d - 1, "{\"k\":", "{}", '}');
        assert_int_equal(parse_rc((struct gd_str){text, n}, lim), want);
    }
    struct gd_json_limits one = *lim;
    one.depth_max = 1;
    assert_int_equal(parse_rc(GD_STR("1"), &one), 0);
    assert_int_equal(parse_rc(GD_STR("{}"), &one), 0);
    assert_int_equal(parse_rc(GD_STR("[1]"), &one), GD_ELIMIT);
    one.depth_max = 0;
    assert_int_equal(parse_rc(GD_STR("1"), &one), GD_ELIMIT);
}

static void test_limit_key(void **state)
{
    (void)state;
    static char text[8192];
    const struct gd_json_limits *lim = &GD_JSON_REQUEST_LIMITS;
    for (size_t k = lim->key_bytes_max - 1; k <= lim->key_bytes_max + 1; k++) {
        const int want = k > lim->key_bytes_max ? GD_ELIMIT : 0;
        int n = snprintf(text, sizeof text, "{\"%0*d\":1}", (int)k, 0);
        assert_int_equal(parse_rc((struct gd_str){text, (size_t)n}, lim), want);
        n = sprintf(text, "{\""); /* the limit counts decoded bytes */
        for (size_t i = 0; i < k; i++)
            n += sprintf(text + n, "\\u0041");
        n += sprintf(text + n, "\":1}");
        assert_int_equal(parse_rc((struct gd_str){text, (size_t)n}, lim), want);
    }
}

/* What a request may ask for must fit into its arena, whatever it consists of. */
static void test_request_arena_is_enough(void **state)
{
    (void)state;
    char *text = malloc(GD_REQUEST_BYTES_MAX);
    assert_non_null(text);
    size_t w = 0;
    text[w++] = '{';
    for (size_t i = 0; i < GD_REQUEST_NODES_MAX - 1; i++)
        w += (size_t)sprintf(text + w, "%s\"\\u006b%zu\":\"\\n\\u00e9%05zu\"", i ? "," : "", i, i);
    text[w++] = '}';
    assert_true(w <= GD_REQUEST_BYTES_MAX);
    struct gd_arena a;
    const struct gd_json *root = NULL;
    struct gd_err err = {0};
    gd_arena_init(&a, GD_REQUEST_ARENA_BYTES * 2 / 3);
    assert_int_equal(
        gd_json_parse(&a, (struct gd_str){text, w}, &GD_JSON_REQUEST_LIMITS, &root, &err), 0);
    assert_int_equal(root->n_children, GD_REQUEST_NODES_MAX - 1);
    gd_arena_free(&a);
    free(text);
}

/* ---- out of memory, and time ---- */

static void sweep_memory(const char *text)
{
    const struct gd_json *root = NULL;
    size_t budget = 0;
    int rc;
    do {
        struct gd_arena a;
        struct gd_err err = {0};
        gd_arena_init(&a, budget);
        rc = gd_json_parse(&a, gd_str_from(text), &GD_JSON_REQUEST_LIMITS, &root, &err);
        assert_true(rc == 0 || (rc == GD_ENOMEM && err.code == GD_ENOMEM));
        assert_true(a.used <= budget);
        gd_arena_free(&a);
        budget++;
        assert_true(budget < GD_MIB);
    } while (rc != 0);
    assert_true(budget > 1000); /* the stack of 64 frames at least */
}

static void test_memory_sweep(void **state)
{
    (void)state;
    sweep_memory(
        "{\"a\":[1,\"\\u00e9\\n\",{\"b\\t\":null}],\"c\":{\"d\":{\"e\":[[],[],\"\\ud800\"]}}}");
    char *text = members(40, 39);
    sweep_memory(text);
    free(text);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of CPU, the best of three. */
static double time_parse(struct gd_str text)
{
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        const double start = seconds();
        struct parsed p = parse(text, &GD_JSON_FILE_LIMITS);
        const double took = seconds() - start;
        assert_int_equal(p.rc, 0);
        best = took < best ? took : best;
        gd_arena_free(&p.arena);
    }
    return best;
}

/* Four times the members must not take sixteen times as long. */
static void test_time_of_many_members(void **state)
{
    (void)state;
    char *small = members(20000, 20000);
    char *large = members(80000, 80000);
    const double t1 = time_parse(gd_str_from(small));
    const double t4 = time_parse(gd_str_from(large));
    print_message("20000 members %.1f ms, 80000 members %.1f ms\n", t1 * 1e3, t4 * 1e3);
    assert_true(t4 < 10 * t1);
    free(small);
    free(large);
}

/* Two-block keys whose first block is free and whose second is chosen so that the reader's hash is
 * the same for all: what someone would send who has read the source. */
static char *colliding_members(size_t n)
{
    const uint64_t mul = 0x9E3779B97F4A7C15u;
    char *text = malloc(n * 128);
    assert_non_null(text);
    size_t w = 0;
    text[w++] = '{';
    uint64_t seed = 1;
    for (size_t found = 0; found < n;) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t block[2] = {(seed >> 1) & 0x7F7F7F7F7F7F7F7Fu, 0};
        uint64_t h = ((16 * mul) ^ block[0]) * mul;
        h ^= h >> 29;
        block[1] = h ^ 0x123456789ABCDEF0u;
        if (block[1] & 0x8080808080808080u)
            continue;
        w += (size_t)sprintf(text + w, "%s\"", found++ ? "," : "");
        for (size_t k = 0; k < sizeof block; k++)
            w += (size_t)sprintf(text + w, "\\u%04x", ((unsigned char *)block)[k]);
        w += (size_t)sprintf(text + w, "\":0");
    }
    text[w++] = '}';
    text[w] = '\0';
    return text;
}

static void test_time_of_collisions(void **state)
{
    (void)state;
    char *small = colliding_members(2000);
    char *large = colliding_members(8000);
    const double t1 = time_parse(gd_str_from(small));
    const double t4 = time_parse(gd_str_from(large));
    print_message("colliding keys: 2000 %.1f ms, 8000 %.1f ms\n", t1 * 1e3, t4 * 1e3);
    assert_true(t4 < 10 * t1);
    free(small);
    free(large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit_bytes),
        cmocka_unit_test(test_limit_nodes),
        cmocka_unit_test(test_limit_depth),
        cmocka_unit_test(test_limit_key),
        cmocka_unit_test(test_request_arena_is_enough),
        cmocka_unit_test(test_memory_sweep),
        cmocka_unit_test(test_time_of_many_members),
        cmocka_unit_test(test_time_of_collisions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
