/* test_golden.c - golden.json against a tiny model: the right one passes, each kind of wrongness is refused
 * by name, and with another policy only the files are compared. */
#include "guardian/file.h"
#include "guardian/golden.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL "golden/models/llama_bf16_sharded"
#define N_REQUESTS 3
#define TEXT_MAX 65536

static char dir[] = "/tmp/gd-test-golden-XXXXXX";
static struct gd_guard *guard;
static char right[TEXT_MAX]; /* the golden.json of the model as it is */
static char names[16][64];   /* of the files in dir that are listed */
static size_t n_names;

static const char *const REQUESTS[N_REQUESTS] = {
    "{\"messages\":[{\"role\":\"user\",\"content\":\"hello there\"},{\"role\":\"assistant\","
    "\"content\":\"hi\"}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"weather?\"},{\"role\":\"assistant\","
    "\"content\":"
    "null,\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"get_"
    "weather\","
    "\"arguments\":\"{}\"}}]}]}",
    "{\"messages\":[{\"role\":\"user\",\"content\":\"weather of Lisbon\"},{\"role\":\"assistant\","
    "\"content\":\"it rains\"}],\"deadline_ms\":500000}",
};

static const char *at(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%.100s", dir, name);
    return path;
}

static void write_text(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void copy_file(const char *from, const char *name)
{
    char *data = NULL;
    size_t len = 0;
    assert_int_equal(gd_file_read(from, 16 * GD_MIB, &data, &len, NULL), GD_OK);
    FILE *f = fopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    free(data);
}

static struct gd_guard *open_guard(const char *policy, const char *point)
{
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    const struct gd_guard_options opt = {
        .engine = {.model_dir = dir, .device = "cpu", .n_threads = 1, .verdict_entries = 64},
        .policy_paths = policy,
        .operating_point = point,
        .deadline_ms = 1}; /* too short for anybody who does not ask for more */
    if (gd_guard_open(&g, &opt, &err) != GD_OK)
        fail_msg("%s", err.msg);
    return g;
}

static void judge(const char *request, struct gd_judgement *j)
{
    struct gd_arena a;
    struct gd_err err = {0};
    const struct gd_json *v = NULL;
    char text[1024];
    snprintf(text, sizeof text, "{\"deadline_ms\":600000,%s", request + 1);
    if (strstr(request, "deadline_ms") != NULL)
        snprintf(text, sizeof text, "%s", request);
    gd_arena_init(&a, GD_REQUEST_ARENA_BYTES);
    assert_int_equal(gd_json_parse(&a, gd_str_from(text), &GD_JSON_REQUEST_LIMITS, &v, &err), 0);
    if (gd_guard_judge(guard, &a, v, NULL, j, &err) != GD_OK)
        fail_msg("%s", err.msg);
    gd_arena_free(&a);
}

/* What a model's maker would write. */
static void write_golden(char *out)
{
    size_t n = (size_t)snprintf(out, TEXT_MAX, "{\"version\":1,\"sha256\":{");
    for (size_t i = 0; i < n_names; i++) {
        char hex[65];
        assert_int_equal(gd_file_sha256(at(names[i]), hex, NULL, NULL), GD_OK);
        n += (size_t)snprintf(out + n, TEXT_MAX - n, "%s\"%s\":\"%s\"", i > 0 ? "," : "", names[i],
                              hex);
    }
    n += (size_t)snprintf(out + n, TEXT_MAX - n, "},\"tolerance\":0.02,\"requests\":[");
    for (int i = 0; i < N_REQUESTS; i++) {
        struct gd_judgement j;
        judge(REQUESTS[i], &j);
        n += (size_t)snprintf(out + n, TEXT_MAX - n,
                              "%s{\"name\":\"r%d\",\"request\":%s,\"label\":\"%s\",\"action\":\"%"
                              "s\",\"score\":%.17g}",
                              i > 0 ? "," : "", i, REQUESTS[i], gd_label_info(j.verdict.label)->key,
                              gd_action_name(j.verdict.action), j.verdict.risk);
    }
    snprintf(out + n, TEXT_MAX - n, "]}");
}

static void add(const char *from_dir, const char *name, const char *as)
{
    char from[256];
    snprintf(from, sizeof from, "%s/%s", from_dir, name);
    copy_file(from, as);
    snprintf(names[n_names++], sizeof names[0], "%s", as);
}

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    n_names = 0;
    add(MODEL, "config.json", "config.json");
    add(MODEL, "tokenizer.json", "tokenizer.json");
    add(MODEL, "model.safetensors.index.json", "model.safetensors.index.json");
    for (int i = 1; i < 10; i++) {
        char name[64], path[256];
        for (int all = 2; all < 10; all++) {
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i, all);
            snprintf(path, sizeof path, "%s/%s", MODEL, name);
            if (access(path, R_OK) == 0)
                add(MODEL, name, name);
        }
    }
    add("http", "policy_tiny.json", "policy.json");
    add("http", "conftest.py", "NOTICE"); /* listed, and nobody loads it */
    assert_true(n_names >= 7);
    guard = open_guard(NULL, NULL);
    write_golden(right);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gd_guard_close(guard);
    for (size_t i = 0; i < n_names; i++)
        unlink(at(names[i]));
    unlink(at("golden.json"));
    unlink(at("other.json"));
    return rmdir(dir);
}

/* ---- what is asked ---- */

static void refused(struct gd_guard *g, const char *word, const char *more)
{
    struct gd_golden r;
    struct gd_err err = {0};
    const int rc = gd_golden_check(dir, g, &r, &err);
    assert_true(r.there);
    if (rc != GD_EMODEL || err.code != GD_EMODEL || strstr(err.msg, word) == NULL ||
        strstr(err.msg, more) == NULL)
        fail_msg("%d '%s': expected '%s' and '%s'", rc, err.msg, word, more);
}

/* right with the first `from` replaced. */
static const char *changed(const char *from, const char *to)
{
    static char text[2 * TEXT_MAX];
    const char *hit = strstr(right, from);
    if (hit == NULL)
        fail_msg("there is no %s", from);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(hit - right), right, to, hit + strlen(from));
    return text;
}

static void refuse(const char *from, const char *to, const char *word)
{
    write_text("golden.json", changed(from, to));
    refused(guard, word, "");
}

static void test_right(void **state)
{
    (void)state;
    struct gd_golden r;
    struct gd_err err = {0};
    unlink(at("golden.json"));
    assert_int_equal(gd_golden_check(dir, guard, &r, &err), GD_OK);
    assert_false(r.there);
    for (int i = 0; i < 2; i++) { /* the second time from the caches */
        write_text("golden.json", right);
        if (gd_golden_check(dir, guard, &r, &err) != GD_OK)
            fail_msg("%s", err.msg);
        assert_true(r.there);
        assert_int_equal(r.n_files, n_names);
        assert_int_equal(r.n_requests, N_REQUESTS);
        assert_string_equal(r.skipped, "");
        assert_true(r.difference_max < 1e-12 && r.tolerance == 0.02);
    }
    struct gd_judgement j; /* what was asked here is in nobody's cache */
    struct gd_guard *fresh = open_guard(NULL, NULL), *old = guard;
    assert_int_equal(gd_golden_check(dir, fresh, &r, &err), GD_OK);
    guard = fresh;
    judge(REQUESTS[0], &j);
    guard = old;
    assert_false(j.cache_hit);
    gd_guard_close(fresh);
}

static void test_write(void **state)
{
    (void)state;
    struct gd_golden r = {.there = false};
    struct gd_json_writer w;
    struct gd_buf b;
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    gd_golden_write(&r, &w);
    assert_string_equal(b.data, "null");
    gd_buf_free(&b);
    gd_buf_init(&b, 4096);
    gd_json_writer_init(&w, &b);
    r = (struct gd_golden){.there = true, .n_files = 3, .skipped = "why", .tolerance = 0.25};
    gd_golden_write(&r, &w);
    assert_string_equal(b.data,
                        "{\"files\":3,\"requests\":0,\"skipped\":\"why\",\"tolerance\":0.25,"
                        "\"difference_max\":0}");
    gd_buf_free(&b);
}

/* ---- files ---- */

/* The list is wrong: each digit of a digest counts, and what is loaded has to be listed. */
static void test_digests(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_names; i++) {
        char hex[65], bad[65], from[160], to[160];
        assert_int_equal(gd_file_sha256(at(names[i]), hex, NULL, NULL), GD_OK);
        memcpy(bad, hex, sizeof bad);
        bad[i * 4 % 64] = bad[i * 4 % 64] == '0' ? '1' : '0';
        write_text("golden.json", changed(hex, bad));
        refused(guard, names[i], bad);
        refused(guard, names[i], hex); /* what came */
        snprintf(from, sizeof from, "\"%.60s\":", names[i]);
        snprintf(to, sizeof to, "\"gone-%.60s\":", names[i]);
        write_text("golden.json", changed(from, to));
        *strchr(to + 1, '"') = '\0';
        refused(guard, to + 1, ""); /* there is no such file */
    }
}

static void without(size_t i)
{
    char hex[65], from[160];
    assert_int_equal(gd_file_sha256(at(names[i]), hex, NULL, NULL), GD_OK);
    snprintf(from, sizeof from, "\"%.60s\":\"%s\",", names[i], hex);
    write_text("golden.json", changed(from, ""));
}

static void test_not_listed(void **state)
{
    (void)state;
    struct gd_golden r;
    struct gd_err err = {0};
    for (size_t i = 0; i + 1 < n_names; i++) {
        without(i);
        refused(guard, names[i], "lists");
    }
    refuse(",\"NOTICE\"", ",\"notice\"", "notice");
    const char *last = strstr(right, ",\"NOTICE\""); /* need not be listed */
    char text[160];
    snprintf(text, sizeof text, "%.*s", (int)(strchr(last, '}') - last), last);
    write_text("golden.json", changed(text, ""));
    assert_int_equal(gd_golden_check(dir, guard, &r, &err), GD_OK);
}

/* The files are wrong: one bit, or one byte more, in each of them. */
static void test_changed_files(void **state)
{
    (void)state;
    write_text("golden.json", right);
    for (size_t i = 0; i < n_names; i++) {
        char *data = NULL;
        size_t len = 0;
        const bool json = strstr(names[i], ".json") != NULL;
        assert_int_equal(gd_file_read(at(names[i]), 16 * GD_MIB, &data, &len, NULL), GD_OK);
        FILE *f = fopen(at(names[i]), "wb");
        assert_non_null(f);
        data[len - 2] = (char)(data[len - 2] ^ (json ? 0 : 1));
        assert_int_equal(fwrite(data, 1, len, f), len);
        if (json)
            fputc('\n', f);
        fclose(f);
        struct gd_guard *g = open_guard(NULL, NULL);
        refused(g, names[i], "SHA-256");
        gd_guard_close(g);
        struct gd_golden r;
        struct gd_err err = {0};
        const bool is_loaded = strcmp(names[i], "NOTICE") != 0; /* then not what lies there now */
        assert_int_equal(gd_golden_check(dir, guard, &r, &err), is_loaded ? GD_OK : GD_EMODEL);
        data[len - 2] = (char)(data[len - 2] ^ (json ? 0 : 1));
        f = fopen(at(names[i]), "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(data, 1, len, f), len);
        fclose(f);
        free(data);
    }
}

/* ---- verdicts ---- */

static void test_wrong_verdicts(void **state)
{
    (void)state;
    struct gd_golden r;
    struct gd_err err = {0};
    for (int i = 0; i < N_REQUESTS; i++) {
        struct gd_judgement j;
        char name[8], from[200], to[240];
        judge(REQUESTS[i], &j);
        const char *label = gd_label_info(j.verdict.label)->key,
                   *action = gd_action_name(j.verdict.action);
        const char *wrong_label = gd_label_info((j.verdict.label + 1) % GD_LABEL_COUNT)->key;
        const char *wrong_action = j.verdict.action == GD_ACTION_BLOCK ? "allow" : "block";
        snprintf(name, sizeof name, "'r%d'", i);
        snprintf(from, sizeof from, "\"label\":\"%s\",\"action\":\"%s\",\"score\":%.17g", label,
                 action, j.verdict.risk);
        snprintf(to, sizeof to, "\"label\":\"%s\",\"action\":\"%s\",\"score\":%.17g", wrong_label,
                 action, j.verdict.risk);
        write_text("golden.json", changed(from, to));
        refused(guard, name, wrong_label);
        refused(guard, label, "label");
        snprintf(to, sizeof to, "\"label\":\"%s\",\"action\":\"%s\",\"score\":%.17g", label,
                 wrong_action, j.verdict.risk);
        write_text("golden.json", changed(from, to));
        refused(guard, name, wrong_action);
        refused(guard, action, "action");
        for (int k = 0; k < 4; k++) { /* within and beyond the tolerance, on both sides */
            static const double off[] = {0.0199, -0.0199, 0.0201, -0.0201};
            double score = j.verdict.risk + off[k];
            if (score < 0 || score > 1)
                continue;
            snprintf(to, sizeof to, "\"label\":\"%s\",\"action\":\"%s\",\"score\":%.17g", label,
                     action, score);
            write_text("golden.json", changed(from, to));
            if (k < 2) {
                assert_int_equal(gd_golden_check(dir, guard, &r, &err), GD_OK);
                assert_true(fabs(r.difference_max - 0.0199) < 1e-6);
                continue;
            }
            refused(guard, name, "score");
            snprintf(to, sizeof to, "%.6f", j.verdict.risk);
            refused(guard, to, "0.02");
        }
    }
}

/* A request that the guard refuses. */
static void test_wrong_request(void **state)
{
    (void)state;
    refuse("\"role\":\"user\",\"content\":\"weather?\"",
           "\"role\":\"boss\",\"content\":\"weather?\"", "'r1'");
    refuse("\"role\":\"user\",\"content\":\"weather?\"",
           "\"role\":\"boss\",\"content\":\"weather?\"", "role");
    refuse("\"deadline_ms\":500000", "\"deadline_ms\":0", "deadline_ms");
    refuse("\"deadline_ms\":500000", "\"policy\":\"another\"", "'r2'");
}

/* ---- the text ---- */

static void test_malformed(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"{\"version\":1", "", "golden.json"},
        {"{\"version\":1", "[]", "golden.json"},
        {"\"version\":1", "\"version\":2", "version"},
        {"\"version\":1,", "", "version"},
        {"\"version\":1", "\"version\":\"1\"", "version"},
        {"\"version\":1", "\"version\":1,\"version\":1", "duplicate"},
        {"\"version\":1", "\"version\":1,\"Tolerance\":0.1", "'Tolerance'"},
        {"\"sha256\":", "\"x\":", "'x'"},
        {"\"sha256\":{", "\"sha256\":{\"../x\":\"00\",", "../x"},
        {"\"sha256\":{", "\"sha256\":{\"/etc/passwd\":\"00\",", "/etc/passwd"},
        {"\"sha256\":{", "\"sha256\":{\"..\":\"00\",", "'..'"},
        {"\"sha256\":{", "\"sha256\":{\"\":\"00\",", "sha256"},
        {"\"sha256\":{", "\"sha256\":{\"golden.json\":\"00\",", "golden.json'"},
        {"\"sha256\":{", "\"sha256\":{\"a\\u0000b\":\"00\",", "sha256"},
        {"\"sha256\":{", "\"sha256\":{\"a\":\"00\",", "sha256.a"},
        {"\"sha256\":{", "\"sha256\":{\"a\":7,", "sha256.a"},
        {"\"sha256\":{",
         "\"sha256\":{\"a\":\"0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef\",",
         "sha256.a"},
        {"\"tolerance\":0.02", "\"tolerance\":0", "tolerance"},
        {"\"tolerance\":0.02", "\"tolerance\":-0.02", "tolerance"},
        {"\"tolerance\":0.02", "\"tolerance\":0.11", "tolerance"},
        {"\"tolerance\":0.02", "\"tolerance\":null", "tolerance"},
        {"\"tolerance\":0.02", "\"tolerance\":NaN", "golden.json"},
        {"\"tolerance\":0.02,", "", "tolerance"},
        {"\"tolerance\":0.02", "\"tolerance\":\"0.02\"", "tolerance"},
        {"\"tolerance\":0.02", "\"tolerance\":1e999", "tolerance"},
        {"\"requests\":[", "\"requests\":[7,", "requests[0]"},
        {"\"requests\":[", "\"requests\":[{},", "requests[0].name"},
        {"{\"name\":\"r1\",", "{", "requests[1].name"},
        {"\"name\":\"r1\"", "\"name\":\"\"", "requests[1].name"},
        {"\"name\":\"r1\"", "\"name\":\"r1\",\"note\":1", "requests[1].note"},
        {"\"request\":{", "\"request\":[],\"x\":{", "requests[0].x"},
        {"\"name\":\"r2\",\"request\":{", "\"name\":\"r2\",\"request\":[{}],\"requests\":{",
         "requests[2].requests"},
        {"\"score\":", "\"score\":null,\"Score\":", "requests[0].Score"},
        {"\"action\":\"", "\"action\":\"x", "requests[0].action"},
        {"\"action\":", "\"action\":0,\"label\":", "duplicate"},
        {"\"label\":\"", "\"label\":\"x", "requests[0].label"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse(cases[i][0], cases[i][1], cases[i][2]);
    static const char *const scores[] = {"NaN", "null", "-0.1", "1.1", "1e999", "\"0.5\"", "true"};
    for (size_t i = 0; i < sizeof scores / sizeof scores[0]; i++) {
        char from[80], to[40];
        struct gd_judgement j;
        judge(REQUESTS[2], &j);
        snprintf(from, sizeof from, "\"score\":%.17g}]", j.verdict.risk);
        snprintf(to, sizeof to, "\"score\":%s}]", scores[i]);
        refuse(from, to, i == 0 ? "golden.json" : "requests[2].score");
    }
    write_text("golden.json", "{\"version\":1,\"sha256\":{},\"tolerance\":0.02,\"requests\":[]}");
    refused(guard, "sha256", "");
    char *all = strdup(changed("\"requests\":[", "\"requests\":[]}"));
    assert_non_null(all);
    *(strstr(all, "[]}") + 3) = '\0';
    write_text("golden.json", all);
    refused(guard, "requests", "");
    free(all);
    write_text("golden.json", "");
    refused(guard, "golden.json", "");
}

static void test_limits(void **state)
{
    (void)state;
    struct gd_buf b;
    gd_buf_init(&b, 4 * GD_MIB);
    const char *list = strstr(right, "\"requests\":[") + 12;
    gd_buf_add(&b, right, (size_t)(list - right));
    for (int i = 0; i <= GD_GOLDEN_REQUESTS_MAX; i++)
        gd_buf_fmt(&b,
                   "%s{\"name\":\"n\",\"request\":{},\"label\":\"appropriate\",\"action\":"
                   "\"allow\",\"score\":0}",
                   i > 0 ? "," : "");
    gd_buf_z(&b, "]}");
    write_text("golden.json", b.data);
    refused(guard, "requests", "64");
    gd_buf_free(&b);
    gd_buf_init(&b, 4 * GD_MIB);
    gd_buf_z(&b, right);
    while (b.len <= GD_GOLDEN_BYTES_MAX)
        gd_buf_z(&b, "                                ");
    write_text("golden.json", b.data);
    refused(guard, "golden.json", "262144");
    gd_buf_free(&b);
    unlink(at("golden.json"));
    assert_int_equal(mkdir(at("golden.json"), 0700), 0); /* is there, and is no file */
    refused(guard, "golden.json", "regular");
    rmdir(at("golden.json"));
    assert_int_equal(symlink("nowhere", at("golden.json")), 0);
    refused(guard, "golden.json", "");
    unlink(at("golden.json"));
}

/* ---- another policy ---- */

static void skipped(struct gd_guard *g, const char *word)
{
    struct gd_golden r;
    struct gd_err err = {0};
    if (gd_golden_check(dir, g, &r, &err) != GD_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(r.n_files, n_names);
    assert_int_equal(r.n_requests, 0);
    assert_non_null(strstr(r.skipped, word));
}

static void test_other_policy(void **state)
{
    (void)state;
    char *text = read_text(at("policy.json")), *hit = strstr(text, "\"flag\": 0.5");
    struct gd_golden r;
    struct gd_err err = {0};
    assert_non_null(hit);
    memcpy(hit, "\"flag\": 0.4", 11);
    write_text("other.json", text);
    write_text("golden.json", right);
    struct gd_guard *g = open_guard(at("other.json"), NULL);
    skipped(g, "policy");
    char hex[65];
    assert_int_equal(gd_file_sha256(at("policy.json"), hex, NULL, NULL), GD_OK);
    char bad[65];
    memcpy(bad, hex, sizeof bad);
    bad[63] = bad[63] == '0' ? '1' : '0';
    write_text("golden.json", changed(hex, bad)); /* the files count all the same */
    refused(g, "policy.json", hex);
    gd_guard_close(g);
    /* Its own policy under another name is its own. */
    copy_file(at("policy.json"), "other.json");
    write_text("golden.json", right);
    g = open_guard(at("other.json"), NULL);
    assert_int_equal(gd_golden_check(dir, g, &r, &err), GD_OK);
    assert_int_equal(r.n_requests, N_REQUESTS);
    gd_guard_close(g);
    free(text);
}

static void copy_over(const char *from, const char *to)
{
    char path[256];
    snprintf(path, sizeof path, "%s", at(from));
    copy_file(path, to);
}

/* An operating point of the right policy. */
static void test_operating_point(void **state)
{
    (void)state;
    char *text = read_text(at("policy.json")), *end = strrchr(text, '}'), both[8192],
         kept[TEXT_MAX];
    assert_non_null(end);
    copy_over("policy.json", "other.json");
    snprintf(both, sizeof both,
             "%.*s,\"operating_points\":[{\"name\":\"low\",\"flag\":0.1,\"block\":0.2}]}",
             (int)(end - text), text);
    write_text("policy.json", both);
    memcpy(kept, right, sizeof kept);
    write_golden(right); /* with the new digest */
    write_text("golden.json", right);
    struct gd_guard *g = open_guard(NULL, "low");
    skipped(g, "operating point is low");
    gd_guard_close(g);
    g = open_guard(NULL, NULL);
    struct gd_golden r;
    struct gd_err err = {0};
    assert_int_equal(gd_golden_check(dir, g, &r, &err), GD_OK);
    assert_int_equal(r.n_requests, N_REQUESTS);
    gd_guard_close(g);
    copy_over("other.json", "policy.json");
    memcpy(right, kept, sizeof kept);
    free(text);
}

/* A model without a policy of its own is measured with the built-in one. */
static void test_built_in_policy(void **state)
{
    (void)state;
    struct gd_guard *old = guard;
    char kept[TEXT_MAX];
    struct gd_golden r;
    struct gd_err err = {0};
    memcpy(kept, right, sizeof kept);
    copy_over("policy.json", "other.json");
    unlink(at("policy.json"));
    snprintf(names[n_names - 2], sizeof names[0], "other.json"); /* was policy.json */
    guard = open_guard(NULL, NULL);
    write_golden(right);
    write_text("golden.json", right);
    assert_int_equal(gd_golden_check(dir, guard, &r, &err), GD_OK);
    assert_int_equal(r.n_requests, N_REQUESTS);
    struct gd_guard *g = open_guard(at("other.json"), NULL);
    skipped(g, "policy");
    gd_guard_close(g);
    copy_over("other.json", "policy.json"); /* one that nobody has measured */
    g = open_guard(NULL, NULL);
    refused(g, "policy.json", "lists");
    gd_guard_close(g);
    gd_guard_close(guard);
    guard = old;
    snprintf(names[n_names - 2], sizeof names[0], "policy.json");
    memcpy(right, kept, sizeof kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),           cmocka_unit_test(test_write),
        cmocka_unit_test(test_digests),         cmocka_unit_test(test_not_listed),
        cmocka_unit_test(test_changed_files),   cmocka_unit_test(test_wrong_verdicts),
        cmocka_unit_test(test_wrong_request),   cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_limits),          cmocka_unit_test(test_other_policy),
        cmocka_unit_test(test_operating_point), cmocka_unit_test(test_built_in_policy),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
