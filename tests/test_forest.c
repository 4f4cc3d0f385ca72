/* test_forest.c - a forest's file: what is refused and in which words; its scores against arithmetic by hand;
 * and what the policy's field and the verdict make of it. */
#include "../server/guard/evidence.h"
#include "../server/guard/forest.h"
#include "guardian/file.h"
#include "guardian/verdict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

#include <math.h>
#include <unistd.h>

#define TREES 2
#define DEPTH 2
#define LEAVES 4

struct fixture {
    struct gd_tokenizer *t;
    char dir[32], path[64], policy[64];
};

struct forest {
    float threshold[TREES][DEPTH], leaf[TREES][LEAVES][GD_LABEL_COUNT], bias[GD_LABEL_COUNT];
    uint8_t feature[TREES][DEPTH];
};

static int setup(void **state)
{
    static struct fixture f = {.dir = "/tmp/gd_forest_XXXXXX"};
    f.t = tiny_tokenizer();
    assert_non_null(mkdtemp(f.dir));
    (void)snprintf(f.path, sizeof f.path, "%s/evidence.safetensors", f.dir);
    (void)snprintf(f.policy, sizeof f.policy, "%s/policy.json", f.dir);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    gd_tokenizer_close(f->t);
    unlink(f->path);
    unlink(f->policy);
    return rmdir(f->dir);
}

static void write_file(const char *path, const void *data, size_t len)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, len, out), len);
    fclose(out);
}

/* The forest as a file; header NULL: the right one. */
static struct gd_str make_file(const struct forest *v, const char *header)
{
    static char file[8192];
    static const char right[] =
        "{\"threshold\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
        "\"leaf\":{\"dtype\":\"F32\",\"shape\":[2,4,11],\"data_offsets\":[16,368]},"
        "\"bias\":{\"dtype\":\"F32\",\"shape\":[11],\"data_offsets\":[368,412]},"
        "\"feature\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[412,416]}}";
    const char *text = header ? header : right;
    const uint64_t len = (strlen(text) + 7) / 8 * 8;
    size_t n = 0;
    memset(file, ' ', sizeof file);
    memcpy(file, &len, 8);
    memcpy(file + 8, text, strlen(text));
    n = 8 + (size_t)len;
    memcpy(file + n, v->threshold, 16);
    memcpy(file + n + 16, v->leaf, 352);
    memcpy(file + n + 368, v->bias, 44);
    memcpy(file + n + 412, v->feature, 4);
    return (struct gd_str){file, n + 416};
}

static void hash_of(struct gd_str file, char hex[65])
{
    uint8_t sum[32];
    gd_sha256(file.ptr, file.len, sum);
    gd_hex(sum, sizeof sum, hex);
}

static int try_open(const struct fixture *f, struct gd_str file, struct gd_forest **out,
                    struct gd_err *err)
{
    const uint8_t feature[3] = {GD_EVIDENCE_calls, GD_EVIDENCE_turns, GD_EVIDENCE_tools};
    char hex[65];
    hash_of(file, hex);
    write_file(f->path, file.ptr, file.len);
    return gd_forest_open(out, f->path, gd_str_from(hex), feature, 3, err);
}

static struct forest example(void)
{
    struct forest v = {.threshold = {{0.5F, 2.5F}, {10, -1}}, .feature = {{0, 1}, {2, 0}}};
    for (int l = 0; l < GD_LABEL_COUNT; l++) {
        v.bias[l] = (float)l;
        for (int t = 0; t < TREES; t++)
            for (int i = 0; i < LEAVES; i++)
                v.leaf[t][i][l] = (float)(100 * (t + 1) + 10 * i);
    }
    return v;
}

static void test_scores(void **state)
{
    const struct {
        float calls, turns, tools;
        float sum; /* of both leaves */
    } cases[] = {
        {0, 0, 0, 100 + 220}, /* no bit; 0 > -1 is the second tree's second bit */
        {1, 0, 0, 110 + 220},       {0, 3, 0, 120 + 220},   {1, 3, 0, 130 + 220},
        {1, 3, 11, 130 + 230},      {-1, 0, 11, 100 + 210}, {-1, 0, 10, 100 + 200},
        {0.5F, 2.5F, 0, 100 + 220}, /* a threshold is not above itself */
    };
    struct gd_forest *forest = NULL;
    struct gd_err err = {0};
    const struct forest v = example();
    if (try_open(*state, make_file(&v, NULL), &forest, &err) != GD_OK)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float evidence[GD_EVIDENCE_FEATURES] = {0}, score[GD_LABEL_COUNT];
        evidence[GD_EVIDENCE_calls] = cases[i].calls;
        evidence[GD_EVIDENCE_turns] = cases[i].turns;
        evidence[GD_EVIDENCE_tools] = cases[i].tools;
        gd_forest_score(forest, evidence, score);
        for (int l = 0; l < GD_LABEL_COUNT; l++)
            assert_true(score[l] == cases[i].sum + (float)l);
    }
    gd_forest_close(forest);
}

static void refused(const struct fixture *f, struct gd_str file, const char *why)
{
    struct gd_forest *forest = NULL;
    struct gd_err err = {0};
    const int rc = try_open(f, file, &forest, &err);
    if (rc == GD_OK || strstr(err.msg, why) == NULL || strstr(err.msg, f->path) == NULL)
        fail_msg("'%s' should name the file and say '%s'", rc == GD_OK ? "" : err.msg, why);
    assert_null(forest);
}

static void test_refused(void **state)
{
    struct forest v = example();
    const struct forest zeros = {.feature = {{0}}};
    refused(*state, make_file(&v, "{}"), "");
    refused(*state,
            make_file(&zeros,
                      "{\"feature\":{\"dtype\":\"U8\",\"shape\":[52,8],\"data_offsets\":[0,416]}}"),
            "'threshold'");
    refused(*state,
            make_file(
                &v, "{\"feature\":{\"dtype\":\"U8\",\"shape\":[32,13],\"data_offsets\":[0,416]}}"),
            "a depth of 1 to 8");
    refused(*state,
            make_file(
                &v, "{\"feature\":{\"dtype\":\"F32\",\"shape\":[52,2],\"data_offsets\":[0,416]}}"),
            "'feature' of type U8");
    v.feature[1][1] = 3;
    refused(*state, make_file(&v, NULL), "asks for number 3 of 3 features");
    v = example();
    v.bias[10] = NAN;
    refused(*state, make_file(&v, NULL), "'bias' has a number that is not finite");
    v = example();
    v.leaf[1][3][10] = INFINITY;
    refused(*state, make_file(&v, NULL), "'leaf' has a number that is not finite");
    struct gd_str file = make_file(&v, NULL);
    file.len--;
    refused(*state, file, "");
    refused(*state, (struct gd_str){"", 0}, "");

    struct gd_forest *forest = NULL;
    struct gd_err err = {0};
    const struct fixture *f = *state;
    const uint8_t feature[3] = {0, 1, 2};
    assert_int_equal(gd_forest_open(&forest, f->path, GD_STR("00"), feature, 3, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "another one than the policy says"));
    assert_int_equal(gd_forest_open(&forest, "/nowhere", GD_STR("00"), feature, 3, &err), GD_EIO);
}

/* No changed byte makes it read outside its file. */
static void test_changed_bytes(void **state)
{
    const struct forest v = example();
    unsigned opened = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        struct gd_str file = make_file(&v, NULL);
        char *data = (char *)(uintptr_t)file.ptr;
        const uint32_t x = i * 2654435761U;
        data[x % file.len] = (char)(x >> 16);
        struct gd_forest *forest = NULL;
        if (try_open(*state, file, &forest, NULL) == GD_OK) {
            float evidence[GD_EVIDENCE_FEATURES] = {0}, score[GD_LABEL_COUNT];
            gd_forest_score(forest, evidence, score);
            gd_forest_close(forest);
            opened++;
        }
    }
    assert_true(opened > 0 && opened < 4000);
}

/* Opens a policy with that field `evidence`. */
static int open_policy(const struct fixture *f, const char *evidence, const char *notes,
                       struct gd_policy **out, struct gd_err *err)
{
    char text[4096];
    const int len = snprintf(
        text, sizeof text,
        "{\"name\":\"x\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," ELEVEN_CHOICES
        ",\"render\":{\"notes\":%s},\"evidence\":%s}",
        notes, evidence);
    write_file(f->policy, text, (size_t)len);
    return gd_policy_open(out, f->policy, f->t, err);
}

#define FEATURES "\"features\":[\"calls\",\"turns\",\"tools\"]"

static void test_policy(void **state)
{
    const struct fixture *f = *state;
    const struct forest v = example();
    const struct gd_str file = make_file(&v, NULL);
    char hex[65], good[512];
    hash_of(file, hex);
    write_file(f->path, file.ptr, file.len);
    const struct {
        const char *evidence; /* %s: the hash */
        const char *notes, *why;
    } cases[] = {
        {"7", "true", "'evidence' must be an object"},
        {"{}", "true", "evidence.features"},
        {"{" FEATURES "}", "true", "evidence.sha256"},
        {"{" FEATURES ",\"sha256\":\"%s\"}", "true", "evidence.file"},
        {"{" FEATURES ",\"sha256\":\"%s\",\"file\":\"\"}", "true", "evidence.file"},
        {"{" FEATURES ",\"sha256\":\"%s\",\"file\":\"none\"}", "true", "none"},
        {"{" FEATURES ",\"sha256\":\"%.8s\",\"file\":\"evidence.safetensors\"}", "true", "SHA-256"},
        {"{" FEATURES ",\"sha256\":\"%s\",\"file\":\"evidence.safetensors\"}", "false",
         "render.notes"},
        {"{" FEATURES ",\"sha256\":\"%s\",\"file\":\"evidence.safetensors\",\"x\":1}", "true",
         "evidence.x"},
        {"{" FEATURES ",\"sha256\":\"%s\",\"file\":\"evidence.safetensors\",\"weight\":17}", "true",
         "weight"},
        {"{" FEATURES ",\"sha256\":\"%s\",\"file\":\"evidence.safetensors\",\"model_weight\":-1}",
         "true", "model_weight"},
        {"{\"features\":[],\"sha256\":\"%s\",\"file\":\"evidence.safetensors\"}", "true",
         "evidence.features"},
        {"{\"features\":[\"calls\",\"turns\",\"moons\"],\"sha256\":\"%s\",\"file\":\"evidence."
         "safetensors\"}",
         "true", "'moons'"},
        {"{\"features\":[\"calls\",3],\"sha256\":\"%s\",\"file\":\"evidence.safetensors\"}", "true",
         "array of strings"},
        {"{\"features\":[\"calls\"],\"sha256\":\"%s\",\"file\":\"evidence.safetensors\"}", "true",
         "of 1 features"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gd_policy *p = NULL;
        struct gd_err err = {0};
        const char *at = strstr(cases[i].evidence, "%");
        const size_t before = at ? (size_t)(at - cases[i].evidence) : strlen(cases[i].evidence);
        const bool cut = at && at[1] == '.';
        (void)snprintf(good, sizeof good, "%.*s%.*s%s", (int)before, cases[i].evidence,
                       at ? cut ? 8 : 64 : 0, hex, at ? at + (cut ? 4 : 2) : "");
        const int rc = open_policy(f, good, cases[i].notes, &p, &err);
        if (rc == GD_OK || strstr(err.msg, cases[i].why) == NULL)
            fail_msg("%s: '%s' should say '%s'", good, rc == GD_OK ? "" : err.msg, cases[i].why);
    }
}

/* Weights 0.5 and 2 of the model's and the forest's numbers. */
static void test_verdict(void **state)
{
    const struct fixture *f = *state;
    const struct forest v = example();
    const struct gd_str file = make_file(&v, NULL);
    const struct gd_trajectory traj = {.phase = GD_PHASE_RESPONSE, .has_user = true};
    struct gd_policy *p = NULL;
    struct gd_err err = {0};
    struct gd_verdict out;
    char hex[65], evidence[512];
    hash_of(file, hex);
    write_file(f->path, file.ptr, file.len);
    (void)snprintf(
        evidence, sizeof evidence,
        "{" FEATURES
        ",\"sha256\":\"%s\",\"file\":\"evidence.safetensors\",\"weight\":2,\"model_weight\":0.5}",
        hex);
    if (open_policy(f, evidence, "true", &p, &err) != GD_OK)
        fail_msg("%s", err.msg);
    float logits[GD_LABEL_COUNT] = {0}, scores[GD_LABEL_COUNT] = {0};
    logits[0] = 4;
    scores[1] = 1.25F;
    assert_int_equal(gd_verdict_make(p, &traj, false, logits, scores, &out), GD_OK);
    const double sum = exp(2) + exp(2.5) + 9;
    assert_true(fabs(out.scores[0] - exp(2) / sum) < 1e-12);
    assert_true(fabs(out.scores[1] - exp(2.5) / sum) < 1e-12);
    assert_true(fabs(out.scores[2] - 1 / sum) < 1e-12);

    assert_int_equal(gd_verdict_make(p, &traj, false, logits, NULL, &out), GD_EINTERNAL);
    assert_int_equal(out.action, GD_ACTION_ERROR);
    scores[3] = NAN;
    assert_int_equal(gd_verdict_make(p, &traj, false, logits, scores, &out), GD_ENUMERIC);
    assert_int_equal(out.action, GD_ACTION_ERROR);
    scores[3] = 0;
    logits[3] = INFINITY;
    assert_int_equal(gd_verdict_make(p, &traj, false, logits, scores, &out), GD_ENUMERIC);
    gd_policy_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_changed_bytes), cmocka_unit_test(test_policy),
        cmocka_unit_test(test_verdict),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
