/* test_json.c - the JSON reader: which texts it accepts and what it makes of them. The files of a
 * public parser suite run in addition where the directory named by GUARDIAN_SHARED (default:
 * shared/ beside the checkout) has them. Budgets and time are in test_json_limits.c, the writer in
 * test_jsonw.c. */
#include "guardian/json.h"
#include "guardian/limits.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TEXT_BYTES_MAX (8 * GD_MIB)
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

static struct parsed parse_z(const char *text)
{
    struct parsed p = parse(gd_str_from(text), &GD_JSON_REQUEST_LIMITS);
    if (p.rc)
        fail_msg("%s: %s", text, p.err.msg);
    return p;
}

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    char *data = malloc(TEXT_BYTES_MAX);
    assert_non_null(data);
    *n = fread(data, 1, TEXT_BYTES_MAX, f);
    assert_true(*n < TEXT_BYTES_MAX);
    fclose(f);
    return data;
}

/* ---- accept and refuse ---- */

static size_t decode_percent(char *s)
{
    size_t w = 0;
    for (size_t i = 0; s[i]; i++) {
        if (s[i] != '%') {
            s[w++] = s[i];
            continue;
        }
        const char hex[3] = {s[i + 1], s[i + 2], '\0'};
        s[w++] = (char)strtoul(hex, NULL, 16);
        i += 2;
    }
    return w;
}

static void check_case(char verdict, const char *shown, struct gd_str text)
{
    char *exact =
        malloc(text.len ? text.len : 1); /* a read past the end is seen by the sanitizer */
    assert_non_null(exact);
    memcpy(exact, text.ptr, text.len);
    struct parsed p = parse((struct gd_str){exact, text.len}, &GD_JSON_REQUEST_LIMITS);
    const uint32_t flags = p.rc ? 0 : p.root->flags;
    const uint32_t want = verdict == 'd'   ? GD_JSON_F_DUPKEY
                          : verdict == 's' ? GD_JSON_F_SURROGATE
                          : verdict == 'b' ? GD_JSON_F_DUPKEY | GD_JSON_F_SURROGATE
                                           : 0;
    if (verdict == 'n' && p.rc != GD_EJSON)
        fail_msg("must be refused: %s", shown);
    if (verdict != 'n' && p.rc != 0)
        fail_msg("must be accepted: %s (%s)", shown, p.err.msg);
    if (flags != want)
        fail_msg("flags %u, expected %u: %s", flags, want, shown);
    gd_arena_free(&p.arena);
    free(exact);
}

static void test_cases(void **state)
{
    (void)state;
    size_t n;
    size_t count = 0;
    char *text = read_file("json/cases.txt", &n);
    text[n] = '\0';
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
        if (line[0] == '#' || line[0] == '\0')
            continue;
        char shown[256];
        (void)snprintf(shown, sizeof shown, "%s", line);
        const size_t len = decode_percent(line);
        const size_t skip = len < 2 ? len : 2; /* verdict and space */
        check_case(line[0], shown, (struct gd_str){line + skip, len - skip});
        count++;
    }
    assert_true(count > 150);
    free(text);
}

static const char *shared_dir(const char *name, char *path, size_t size)
{
    const char *base = getenv("GUARDIAN_SHARED");
    (void)snprintf(path, size, "%s/hostile/%s", base ? base : "../../shared", name);
    return path;
}

/* Calls check for every file of a directory of the shared data; says so and returns false where
 * there is none. */
static bool for_each_file(const char *name, void (*check)(const char *file, struct gd_str text))
{
    char dir[512];
    char path[1024];
    DIR *d = opendir(shared_dir(name, dir, sizeof dir));
    if (!d) {
        print_message("not run in addition: %s is not there\n", dir);
        return false;
    }
    const struct dirent *e;
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] == '.')
            continue;
        size_t n;
        (void)snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        char *text = read_file(path, &n);
        check(e->d_name, (struct gd_str){text, n});
        free(text);
    }
    closedir(d);
    return true;
}

static size_t suite_yes, suite_no, suite_either;

static void check_suite_file(const char *file, struct gd_str text)
{
    struct parsed p = parse(text, &GD_JSON_REQUEST_LIMITS);
    if (file[0] == 'y' && p.rc != 0)
        fail_msg("must be accepted: %s (%s)", file, p.err.msg);
    if (file[0] == 'n' && p.rc != GD_EJSON && p.rc != GD_ELIMIT)
        fail_msg("must be refused: %s (%d)", file, p.rc);
    suite_yes += file[0] == 'y';
    suite_no += file[0] == 'n';
    suite_either += file[0] == 'i';
    gd_arena_free(&p.arena);
}

static void test_public_suite(void **state)
{
    (void)state;
    suite_yes = suite_no = suite_either = 0;
    if (!for_each_file("json_test_suite", check_suite_file))
        return;
    print_message("public suite: %zu accepted, %zu refused, %zu either way\n", suite_yes, suite_no,
                  suite_either);
    assert_true(suite_yes >= 95);
    assert_true(suite_no >= 188);
    assert_true(suite_either >= 35);
}

static void check_extra_file(const char *file, struct gd_str text)
{
    static const struct {
        const char *name;
        int rc;
        uint32_t flags;
    } known[] = {
        {"big_exp.json", 0, 0},
        {"big_int.json", 0, 0},
        {"deep_1000.json", GD_ELIMIT, 0},
        {"deep_2048.json", GD_ELIMIT, 0},
        {"deep_2049.json", GD_ELIMIT, 0},
        {"deep_obj_5000.json", GD_ELIMIT, 0},
        {"dup_escaped.json", 0, GD_JSON_F_DUPKEY},
        {"dup_nested.json", 0, GD_JSON_F_DUPKEY},
        {"dup_top.json", 0, GD_JSON_F_DUPKEY},
        {"i64max1.json", 0, 0},
        {"lone_surr.json", 0, GD_JSON_F_SURROGATE},
        {"neg_zero.json", 0, 0},
        {"nul_escape.json", 0, 0},
        {"nul_key.json", 0, 0},
    };
    int rc = GD_EJSON; /* every other file is bad JSON */
    uint32_t flags = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].name, file) == 0) {
            rc = known[i].rc;
            flags = known[i].flags;
        }
    }
    struct parsed p = parse(text, &GD_JSON_REQUEST_LIMITS);
    if (p.rc != rc || (rc == 0 && p.root->flags != flags))
        fail_msg("%s: %d, expected %d", file, p.rc, rc);
    gd_arena_free(&p.arena);
}

static void test_extra_files(void **state)
{
    (void)state;
    (void)for_each_file("json_extra", check_extra_file);
}

/* ---- what is read ---- */

static void assert_str(struct gd_str s, const char *bytes, size_t n)
{
    if (s.len != n || (n > 0 && memcmp(s.ptr, bytes, n) != 0))
        fail_msg("\"%.*s\" instead of \"%.*s\"", (int)s.len, s.ptr, (int)n, bytes);
}

#define assert_str_lit(s, lit) assert_str((s), (lit), sizeof(lit) - 1)

static void test_strings(void **state)
{
    (void)state;
    struct parsed p = parse_z(
        "[\"plain\",\"\\\"\\\\\\/\\b\\f\\n\\r\\t\",\"a\\u0000b\",\"\\u00e9\\u6f22\\ud83d\\ude00\","
        "\"x\\ud800y\",\"\\udc00\\ud83d\\ude00\",\"\\ud800\\u0041\",\"long enough for words \\n "
        "end\"]");
    const struct gd_json *v = p.root->child;
    assert_str_lit(v->str, "plain");
    assert_str_lit(v->raw, "\"plain\"");
    v = v->next;
    assert_str_lit(v->str, "\"\\/\b\f\n\r\t");
    v = v->next;
    assert_str_lit(v->str, "a\0b");
    v = v->next;
    assert_str_lit(v->str, "\xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80");
    assert_int_equal(v->flags, 0);
    v = v->next;
    assert_str_lit(v->str, "x\xEF\xBF\xBDy");
    assert_int_equal(v->flags, GD_JSON_F_SURROGATE);
    v = v->next;
    assert_str_lit(v->str, "\xEF\xBF\xBD\xF0\x9F\x98\x80");
    v = v->next;
    assert_str_lit(v->str, "\xEF\xBF\xBD"
                           "A");
    v = v->next;
    assert_str_lit(v->str, "long enough for words \n end");
    assert_null(v->next);
    assert_int_equal(p.root->n_children, 8);
    assert_int_equal(p.root->flags, GD_JSON_F_SURROGATE);
    gd_arena_free(&p.arena);
}

/* Every escape of four digits, and every pair at the corners of the ranges. */
static void test_every_escape(void **state)
{
    (void)state;
    char text[32];
    char want[8];
    for (uint32_t cp = 0; cp < 0x10000; cp++) {
        (void)snprintf(text, sizeof text, cp % 2 ? "\"\\u%04x\"" : "\"\\u%04X\"", (unsigned)cp);
        struct parsed p = parse_z(text);
        const bool lone = cp >= 0xD800 && cp <= 0xDFFF;
        assert_str(p.root->str, want, gd_utf8_encode(cp, want));
        assert_int_equal(p.root->flags, lone ? GD_JSON_F_SURROGATE : 0);
        gd_arena_free(&p.arena);
    }
    static const uint32_t corners[] = {0x10000,  0x103FF,  0x10400, 0xFFFFF,
                                       0x100000, 0x10FC00, 0x10FFFF};
    for (size_t i = 0; i < sizeof corners / sizeof corners[0]; i++) {
        const unsigned hi = 0xD800 + ((corners[i] - 0x10000) >> 10);
        const unsigned lo = 0xDC00 + ((corners[i] - 0x10000) & 0x3FF);
        (void)snprintf(text, sizeof text, "\"\\u%04x\\u%04x\"", hi, lo);
        struct parsed p = parse_z(text);
        assert_str(p.root->str, want, gd_utf8_encode(corners[i], want));
        assert_int_equal(p.root->flags, 0);
        gd_arena_free(&p.arena);
    }
}

/* Every place of a special byte relative to the eight-byte steps of the scan. */
static void test_string_offsets(void **state)
{
    (void)state;
    static const char *const special[] = {"\\n", "\\\"", "\xC3\xA9", "\xF0\x9F\x98\x80",
                                          "\\ud83d\\ude00"};
    static const char *const decoded[] = {"\n", "\"", "\xC3\xA9", "\xF0\x9F\x98\x80",
                                          "\xF0\x9F\x98\x80"};
    for (size_t k = 0; k < sizeof special / sizeof special[0]; k++) {
        for (int before = 0; before < 20; before++) {
            for (int after = 0; after < 20; after++) {
                char text[128];
                char want[128];
                const char *fill = "abcdefghijklmnopqrst";
                (void)snprintf(text, sizeof text, "\"%.*s%s%.*s\"", before, fill, special[k], after,
                               fill);
                (void)snprintf(want, sizeof want, "%.*s%s%.*s", before, fill, decoded[k], after,
                               fill);
                struct parsed p = parse_z(text);
                assert_str(p.root->str, want, strlen(want));
                gd_arena_free(&p.arena);
            }
        }
    }
}

static void test_control_bytes(void **state)
{
    (void)state;
    for (int at = 1; at < 20; at++) {
        for (int c = 0; c < 256; c++) {
            char text[] = "\"aaaaaaaaaaaaaaaaaaaa\"";
            text[at] = (char)c;
            struct parsed p =
                parse((struct gd_str){text, sizeof text - 1}, &GD_JSON_REQUEST_LIMITS);
            const bool fine = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
            if (fine != (p.rc == 0) && c != '\\')
                fail_msg("byte %d at %d: %d", c, at, p.rc);
            gd_arena_free(&p.arena);
        }
    }
}

static void test_tree(void **state)
{
    (void)state;
    struct parsed p =
        parse_z(" {\"a\" : [1, {\"b\":null} ,[]], \"c\": -2.5e+3,\"a\\u0062\":true,\"f\":false} ");
    const struct gd_json *root = p.root;
    assert_int_equal(root->type, GD_JSON_OBJECT);
    assert_int_equal(root->n_children, 4);
    assert_str_lit(root->raw,
                   "{\"a\" : [1, {\"b\":null} ,[]], \"c\": -2.5e+3,\"a\\u0062\":true,\"f\":false}");
    const struct gd_json *a = gd_json_get(root, "a");
    assert_str_lit(a->raw, "[1, {\"b\":null} ,[]]");
    assert_int_equal(a->n_children, 3);
    assert_str_lit(a->child->raw, "1");
    assert_str_lit(a->child->next->raw, "{\"b\":null}");
    assert_str_lit(a->child->next->next->raw, "[]");
    assert_null(a->child->next->next->child);
    assert_null(a->child->next->next->next);
    assert_true(gd_json_is(gd_json_get(a->child->next, "b"), GD_JSON_NULL));
    assert_str_lit(gd_json_get(root, "c")->raw, "-2.5e+3");
    assert_true(gd_json_is(gd_json_get(root, "ab"), GD_JSON_TRUE));
    assert_str_lit(gd_json_get(root, "ab")->key, "ab");
    assert_true(gd_json_is(gd_json_get(root, "f"), GD_JSON_FALSE));
    assert_null(gd_json_get(root, "b"));
    assert_null(gd_json_get(a, "a"));
    assert_null(gd_json_get(NULL, "a"));
    assert_false(gd_json_is(NULL, GD_JSON_NULL));
    gd_arena_free(&p.arena);
}

static void test_duplicates(void **state)
{
    (void)state;
    struct parsed p = parse_z("{\"x\":[{\"k\":1,\"l\":2,\"k\":3}],\"y\":[{}]}");
    const struct gd_json *x = gd_json_get(p.root, "x");
    int64_t k = 0;
    assert_true(gd_json_i64(gd_json_get(x->child, "k"), &k));
    assert_int_equal(k, 3);
    assert_int_equal(p.root->flags, GD_JSON_F_DUPKEY);
    assert_int_equal(x->flags, GD_JSON_F_DUPKEY);
    assert_int_equal(x->child->flags, GD_JSON_F_DUPKEY);
    assert_int_equal(x->child->child->flags, 0);
    assert_int_equal(gd_json_get(p.root, "y")->flags, 0);
    gd_arena_free(&p.arena);
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

static void test_duplicates_of_every_size(void **state)
{
    (void)state;
    for (size_t n = 2; n <= 70; n++) {
        for (size_t twin = 1; twin <= n; twin++) {
            char *text = members(n, twin);
            struct parsed p = parse_z(text);
            if (p.root->flags != (twin < n ? GD_JSON_F_DUPKEY : 0))
                fail_msg("%zu members, twin %zu: flags %u", n, twin, p.root->flags);
            gd_arena_free(&p.arena);
            free(text);
        }
    }
}

static void test_error_messages(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "byte 0: the text ends where a value is expected"},
        {"[1,]", "byte 3: a value is expected"},
        {"[1 2]", "byte 3: ',' or ']' is expected"},
        {"{\"a\":1 2}", "byte 7: ',' or '}' is expected"},
        {"{\"a\" 1}", "byte 5: ':' is expected"},
        {"{a:1}", "byte 1: a member name in quotes is expected"},
        {"\"ab\\x\"", "byte 3: not a valid escape"},
        {"\"ab\xFF\"", "byte 3: not valid UTF-8"},
        {"\"ab\n\"", "byte 3: a control character must be escaped"},
        {"\"ab", "byte 3: the text ends inside a string"},
        {"[-]", "byte 2: a number needs a digit"},
        {"[1.]", "byte 3: a fraction needs a digit"},
        {"[1e]", "byte 3: an exponent needs a digit"},
        {"[trux]", "byte 1: a value is expected"},
        {"1 1", "byte 2: nothing may follow the value"},
        {"\xEF\xBB\xBF"
         "1",
         "byte 0: a byte order mark"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parsed p = parse(gd_str_from(cases[i][0]), &GD_JSON_REQUEST_LIMITS);
        assert_int_equal(p.rc, GD_EJSON);
        if (!strstr(p.err.msg, cases[i][1]))
            fail_msg("\"%s\" does not say \"%s\"", p.err.msg, cases[i][1]);
        gd_arena_free(&p.arena);
    }
    struct gd_arena a;
    const struct gd_json *root;
    gd_arena_init(&a, 4096);
    assert_int_equal(gd_json_parse(&a, GD_STR("x"), &GD_JSON_REQUEST_LIMITS, &root, NULL),
                     GD_EJSON);
    gd_arena_free(&a);
}

/* ---- numbers and typed members ---- */

static void test_i64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool fits;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"7", true, 7},
        {"-1", true, -1},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775808", false, 0},
        {"-9223372036854775808", true, INT64_MIN},
        {"-9223372036854775809", false, 0},
        {"99999999999999999999999", false, 0},
        {"1.0", false, 0},
        {"1e2", false, 0},
        {"\"1\"", false, 0},
        {"true", false, 0},
        {"null", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parsed p = parse_z(cases[i].text);
        int64_t got = 42;
        assert_int_equal(gd_json_i64(p.root, &got), cases[i].fits);
        assert_true(got == (cases[i].fits ? cases[i].value : 42));
        gd_arena_free(&p.arena);
    }
    int64_t got;
    assert_false(gd_json_i64(NULL, &got));
}

static void test_f64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool finite;
        double value;
    } cases[] = {
        {"0", true, 0},
        {"0.1", true, 0.1},
        {"-12.5e-1", true, -1.25},
        {"1e308", true, 1e308},
        {"1e309", false, 0},
        {"-1e309", false, 0},
        {"1e-400", true, 0},
        {"123456789012345678901234567890", true, 123456789012345678901234567890.0},
        {"\"1\"", false, 0},
        {"[]", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parsed p = parse_z(cases[i].text);
        double got = 42;
        assert_int_equal(gd_json_f64(p.root, &got), cases[i].finite);
        assert_true(got == (cases[i].finite ? cases[i].value : 42));
        gd_arena_free(&p.arena);
    }
    double got = 0;
    assert_false(gd_json_f64(NULL, &got));
    for (int n = 1; n < 300; n++) { /* of every length, with and without malloc */
        char text[320];
        (void)snprintf(text, sizeof text, "0.%0*d5", n, 1);
        struct parsed q = parse_z(text);
        assert_true(gd_json_f64(q.root, &got) && got == strtod(text, NULL));
        gd_arena_free(&q.arena);
    }
    static char many[5000]; /* longer than what is converted without malloc */
    memset(many, '0', sizeof many);
    many[1] = '.';
    many[4000] = '5';
    memcpy(many + 4001, "e+4000", 6);
    struct parsed p = parse((struct gd_str){many, 4007}, &GD_JSON_REQUEST_LIMITS);
    assert_true(gd_json_f64(p.root, &got));
    assert_true(got > 49.99 && got < 50.01);
    gd_arena_free(&p.arena);
}

static void test_want(void **state)
{
    (void)state;
    struct parsed p =
        parse_z("{\"s\":\"x\",\"n\":7,\"f\":0.5,\"b\":true,\"z\":null,\"big\":1e999,\"a\":[]}");
    const struct gd_json *o = p.root;
    struct gd_err err;
    struct gd_str s = GD_STR("before");
    double f = 9;
    int64_t n = 9;
    bool b = false;
    assert_int_equal(gd_json_want_str(o, "", "s", true, &s, &err), 0);
    assert_str_lit(s, "x");
    assert_int_equal(gd_json_want_str(o, "", "z", false, &s, &err), 0);
    assert_int_equal(gd_json_want_str(o, "", "none", false, &s, &err), 0);
    assert_str_lit(s, "x");
    assert_int_equal(gd_json_want_str(o, "m[3].", "n", false, &s, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'm[3].n' must be a string, is a number");
    assert_int_equal(gd_json_want_str(o, "", "none", true, &s, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'none' must be a string, is missing");
    assert_int_equal(gd_json_want_str(o, "", "z", true, &s, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'z' must be a string, is null");
    assert_int_equal(gd_json_want_f64(o, "", "f", 0, 1, &f, &err), 0);
    assert_true(f == 0.5);
    assert_int_equal(gd_json_want_f64(o, "", "f", 0.5, 0.5, &f, &err), 0);
    assert_int_equal(gd_json_want_f64(o, "", "none", 0, 1, &f, &err), 0);
    assert_int_equal(gd_json_want_f64(o, "", "n", 0, 1, &f, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'n' must be a number from 0 to 1, is 7");
    assert_int_equal(gd_json_want_f64(o, "", "big", 0, 1, &f, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'big' must be a number from 0 to 1, is 1e999");
    assert_int_equal(gd_json_want_f64(o, "", "a", 0, 1, &f, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'a' must be a number from 0 to 1, is an array");
    assert_true(f == 0.5);
    struct parsed q =
        parse_z("{\"n\":11111111112222222222333333333344,\"m\":111111111122222222223333333333445}");
    assert_int_equal(gd_json_want_i64(q.root, "", "n", 0, 1, &n, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'n' must be an integer from 0 to 1, is "
                                 "11111111112222222222333333333344");
    assert_int_equal(gd_json_want_i64(q.root, "", "m", 0, 1, &n, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'm' must be an integer from 0 to 1, is "
                                 "11111111112222222222333333333344...");
    gd_arena_free(&q.arena);
    assert_int_equal(gd_json_want_i64(o, "", "n", 0, 7, &n, &err), 0);
    assert_int_equal(n, 7);
    assert_int_equal(gd_json_want_i64(o, "", "n", 0, 6, &n, &err), GD_EFIELD);
    assert_string_equal(err.msg, "field 'n' must be an integer from 0 to 6, is 7");
    assert_int_equal(gd_json_want_i64(o, "", "f", 0, 6, &n, &err), GD_EFIELD);
    assert_int_equal(gd_json_want_i64(o, "", "s", 0, 6, &n, NULL), GD_EFIELD);
    assert_int_equal(gd_json_want_i64(o, "", "z", 0, 6, &n, &err), 0);
    assert_int_equal(n, 7);
    assert_int_equal(gd_json_want_bool(o, "", "b", &b, &err), 0);
    assert_true(b);
    assert_int_equal(gd_json_want_bool(o, "", "n", &b, &err), GD_EFIELD);
    assert_int_equal(gd_json_want_bool(NULL, "", "b", &b, &err), 0);
    gd_arena_free(&p.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_public_suite),
        cmocka_unit_test(test_extra_files),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_every_escape),
        cmocka_unit_test(test_string_offsets),
        cmocka_unit_test(test_control_bytes),
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_duplicates_of_every_size),
        cmocka_unit_test(test_error_messages),
        cmocka_unit_test(test_i64),
        cmocka_unit_test(test_f64),
        cmocka_unit_test(test_want),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
