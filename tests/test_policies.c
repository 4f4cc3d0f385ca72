/* test_policies.c - several policies in one guard: which one judges, who may use which, and reading them
 * again while requests are under way. */
#include "guardian/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

#include <pthread.h>
#include <unistd.h>

#define REQUEST "{\"messages\":[{\"role\":\"user\",\"content\":\"weather in Oslo?\"}," \
    "{\"role\":\"assistant\",\"content\":\"3 degrees\"}]"

static char dir[] = "/tmp/gd_policies_XXXXXX", first_path[64], second_path[64], both[160];

static void write_policy(const char *path, const char *name, int version, const char *more)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
            "{\"name\":\"%s\",\"version\":%d,\"chat\":\"none\",\"template\":\"%s says {body}\"," TWO_CHOICES
            "%s}",
            name, version, name, more);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(first_path, sizeof first_path, "%s/first.json", dir);
    (void)snprintf(second_path, sizeof second_path, "%s/second.json", dir);
    (void)snprintf(both, sizeof both, "%s,%s", first_path, second_path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(first_path);
    unlink(second_path);
    return rmdir(dir);
}

static int try_open(const char *paths, struct gd_guard **out, struct gd_err *err)
{
    const struct gd_guard_options opt = {.engine = {.model_dir = TINY_MODEL, .n_threads = 1},
                                         .policy_paths = paths};
    return gd_guard_open(out, &opt, err);
}

static struct gd_guard *open_both(void)
{
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    write_policy(first_path, "first", 1, "");
    write_policy(second_path, "second", 5, "");
    if (try_open(both, &g, &err) != GD_OK)
        fail_msg("%s", err.msg);
    return g;
}

/* The policy that judged, or the error code as text. */
static const char *judged_by(struct gd_guard *g, const char *request, const struct gd_caller *caller)
{
    static _Thread_local char text[GD_POLICY_ID_BYTES];
    struct gd_arena arena;
    const struct gd_json *v = NULL;
    struct gd_judgement j;
    struct gd_err err = {0};
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    assert_int_equal(gd_json_parse(&arena, gd_str_from(request), &GD_JSON_REQUEST_LIMITS, &v, NULL), GD_OK);
    const int rc = gd_guard_judge(g, &arena, v, caller, &j, &err);
    (void)snprintf(text, sizeof text, "%s", rc == GD_OK ? j.policy : gd_status_wire(rc));
    gd_arena_free(&arena);
    return text;
}

static void test_a_request_names_its_policy(void **state)
{
    (void)state;
    struct gd_guard *g = open_both();
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "first@1");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"first\"}", NULL), "first@1");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"second\"}", NULL), "second@5");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"second@5\"}", NULL), "second@5");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"second@4\"}", NULL), "invalid_field");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"secon\"}", NULL), "invalid_field");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"\"}", NULL), "invalid_field");
    gd_guard_close(g);
}

static void test_a_caller_has_its_policies(void **state)
{
    (void)state;
    struct gd_guard *g = open_both();
    const struct gd_str second = GD_STR("second"), all[] = {GD_STR("second"), GD_STR("first")},
                        gone = GD_STR("gone");
    const struct gd_caller only = {.policies = &second, .n_policies = 1};
    const struct gd_caller two = {.policies = all, .n_policies = 2};
    const struct gd_caller none = {.policies = &gone, .n_policies = 1};
    assert_string_equal(judged_by(g, REQUEST "}", &only), "second@5");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"second\"}", &only), "second@5");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"first\"}", &only), "policy_not_allowed");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"first@1\"}", &only), "policy_not_allowed");
    assert_string_equal(judged_by(g, REQUEST "}", &two), "second@5");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"first@1\"}", &two), "first@1");
    assert_string_equal(judged_by(g, REQUEST "}", &none), "policy_not_allowed");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"first\"}", &none), "policy_not_allowed");
    gd_guard_close(g);
}

static void test_refused_sets(void **state)
{
    (void)state;
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    char text[64 * (GD_POLICIES_MAX + 1)] = "";
    write_policy(first_path, "same", 1, "");
    write_policy(second_path, "same", 2, "");
    assert_int_equal(try_open(both, &g, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "another policy named same"));
    (void)snprintf(text, sizeof text, "%s,", first_path);
    assert_int_equal(try_open(text, &g, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "no name"));
    text[0] = '\0';
    for (int i = 0; i <= GD_POLICIES_MAX; i++) {
        char path[64], name[16];
        (void)snprintf(path, sizeof path, "%s/p%d.json", dir, i);
        (void)snprintf(name, sizeof name, "p%d", i);
        write_policy(path, name, 1, "");
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i > 0 ? "," : "", path);
    }
    assert_int_equal(try_open(text, &g, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "more than 16"));
    *strrchr(text, ',') = '\0';
    assert_int_equal(try_open(text, &g, &err), GD_OK);
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"p15\"}", NULL), "p15@1");
    gd_guard_close(g);
    for (int i = 0; i <= GD_POLICIES_MAX; i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "%s/p%d.json", dir, i);
        unlink(path);
    }
}

static void test_reload(void **state)
{
    (void)state;
    struct gd_guard *g = open_both();
    struct gd_err err = {0};
    write_policy(first_path, "first", 2, "");
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "first@1"); /* not before it is asked for */
    assert_int_equal(gd_guard_reload(g, &err), GD_OK);
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "first@2");
    write_policy(second_path, "second", 6, ",\"unknown\":1");
    write_policy(first_path, "first", 3, "");
    assert_int_equal(gd_guard_reload(g, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "unknown"));
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "first@2"); /* all or nothing */
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"second\"}", NULL), "second@5");
    unlink(second_path);
    assert_int_equal(gd_guard_reload(g, &err), GD_EIO);
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "first@2");
    write_policy(second_path, "other", 1, "");
    assert_int_equal(gd_guard_reload(g, &err), GD_OK);
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "first@3");
    assert_string_equal(judged_by(g, REQUEST ",\"policy\":\"second\"}", NULL), "invalid_field");
    for (int i = 0; i < 300; i++) { /* new prefixes do not fill the KV cache */
        char name[16];
        (void)snprintf(name, sizeof name, "n%d", i);
        write_policy(first_path, name, 1, "");
        assert_int_equal(gd_guard_reload(g, &err), GD_OK);
    }
    assert_string_equal(judged_by(g, REQUEST "}", NULL), "n299@1");
    gd_guard_close(g);
}

/* What was begun is judged by the policy that was there then. */
static void test_begun_before_a_reload(void **state)
{
    (void)state;
    struct gd_guard *g = open_both();
    struct gd_arena arena;
    struct gd_pending p;
    struct gd_judgement j;
    const struct gd_json *v = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    assert_int_equal(gd_json_parse(&arena, GD_STR(REQUEST "}"), &GD_JSON_REQUEST_LIMITS, &v, NULL), GD_OK);
    assert_int_equal(gd_guard_begin(g, &arena, v, NULL, &p, NULL), GD_OK);
    write_policy(first_path, "first", 7, ",\"thresholds\":{\"flag\":0.0,\"block\":0.0}");
    assert_int_equal(gd_guard_reload(g, NULL), GD_OK);
    assert_int_equal(gd_guard_finish(g, &p, NULL, &j, NULL), GD_OK);
    assert_string_equal(j.policy, "first@1");
    assert_true(j.verdict.threshold == 0.5);
    assert_int_equal(gd_guard_judge(g, &arena, v, NULL, &j, NULL), GD_OK);
    assert_string_equal(j.policy, "first@7");
    assert_int_equal(j.verdict.action, GD_ACTION_BLOCK);
    gd_arena_free(&arena);
    gd_guard_close(g);
}

static struct gd_guard *shared;
static atomic_bool over;

static void *ask_on(void *ctx)
{
    uint32_t *n = ctx;
    while (!atomic_load(&over)) {
        const char *by = judged_by(shared, REQUEST "}", NULL);
        if (strncmp(by, "first@", 6) != 0)
            return (void *)(uintptr_t)1;
        ++*n;
    }
    return NULL;
}

static void test_reload_under_load(void **state)
{
    (void)state;
    pthread_t threads[4];
    uint32_t n[4] = {0};
    shared = open_both();
    atomic_store(&over, false);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_on, &n[i]), 0);
    for (int i = 0; i < 60; i++) {
        write_policy(first_path, "first", i + 2, "");
        assert_int_equal(gd_guard_reload(shared, NULL), GD_OK);
    }
    atomic_store(&over, true);
    for (int i = 0; i < 4; i++) {
        void *bad = NULL;
        pthread_join(threads[i], &bad);
        assert_null(bad);
        assert_true(n[i] > 0);
    }
    struct gd_policies *set = gd_guard_policies(shared);
    assert_int_equal(atomic_load(&set->refs), 2); /* the guard's and ours */
    gd_policies_close(set);
    gd_guard_close(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_names_its_policy), cmocka_unit_test(test_a_caller_has_its_policies),
        cmocka_unit_test(test_refused_sets),               cmocka_unit_test(test_reload),
        cmocka_unit_test(test_begun_before_a_reload),      cmocka_unit_test(test_reload_under_load),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
