/* test_taxonomy.c - the table of labels: names of all three kinds, dimensions, and what can be judged when.
 */
#include "guardian/taxonomy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct row {
    const char *key, *name, *dataset, *source, *scope, *type, *maestro;
    bool needs_response, needs_intent;
};

static const struct row rows[GD_LABEL_COUNT] = {
    {"appropriate", "Appropriate", "true", NULL, NULL, NULL, NULL, false, false},
    {"function_overlapping", "Function Overlapping", "function_overlapping", "server",
     "intra-flow (recipient)", "confusion", "L4", true, false},
    {"excessive_privileges_overlapping", "Excessive Privileges Overlapping", "excessive_privileges",
     "server", "intra-flow (recipient)", "escalation", "L4 L2", false, true},
    {"function_dependency_injection", "Function Dependency Injection",
     "function_dependency_injection", "server", "single-flow", "redundancy", "L4", false, true},
    {"function_injection", "Function Injection", "function_injection", "server", "single-flow",
     "redundancy", "L4", false, true},
    {"causal_dependency_injection", "Causal Dependency Injection", "causal_dependency_injection",
     "client", "inter-flow", "drift", "L3", false, false},
    {"wrong_function_intent_injection", "Wrong Function Intent Injection",
     "ignore_prupose_prompt_injection", "client", "single-flow", "misleading", "L3", false, true},
    {"wrong_arguments_intent_injection", "Wrong Arguments Intent Injection",
     "wrong_parameter_prompt_injection", "client", "single-flow", "misleading", "L3", false, true},
    {"data_injection", "Data Injection", "data_injection", "client", "single-flow", "overwriting",
     "L3", true, false},
    {"identity_injection", "Identity Injection", "identity_injection", "client",
     "intra-flow (sender)", "confusion", "L3", false, false},
    {"replay_injection", "Replay Injection", "replay_function", "client", "single-flow",
     "redundancy", "L3", false, false},
};

static void same(const char *a, const char *b)
{
    if (a == NULL || b == NULL)
        assert_ptr_equal(a, b);
    else
        assert_string_equal(a, b);
}

static void test_table(void **state)
{
    (void)state;
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        const struct gd_label_info *info = gd_label_info((enum gd_label)i);
        assert_non_null(info);
        same(info->key, rows[i].key);
        same(info->name, rows[i].name);
        same(info->dataset, rows[i].dataset);
        same(info->phase, i == 0 ? NULL : "interaction");
        same(info->source, rows[i].source);
        same(info->scope, rows[i].scope);
        same(info->type, rows[i].type);
        same(info->maestro, rows[i].maestro);
        assert_int_equal(info->needs_response, rows[i].needs_response);
        assert_int_equal(info->needs_intent, rows[i].needs_intent);
        assert_true(strlen(info->meaning) > 20 && !strchr(info->meaning, '\n'));
    }
    assert_null(gd_label_info((enum gd_label)GD_LABEL_COUNT));
    assert_null(gd_label_info((enum gd_label) - 1));
}

static void test_find(void **state)
{
    (void)state;
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        assert_int_equal(gd_label_find(gd_str_from(rows[i].key)), i);
        assert_int_equal(gd_label_find(gd_str_from(rows[i].name)), i);
        assert_int_equal(gd_label_find(gd_str_from(rows[i].dataset)), i);
    }
    assert_int_equal(gd_label_find(GD_STR("")), -1);
    assert_int_equal(gd_label_find(GD_STR("Replay")), -1);
    assert_int_equal(gd_label_find(GD_STR("replay_injection ")), -1);
    assert_int_equal(gd_label_find((struct gd_str){"true\0", 5}), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_find),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
