/* test_verdict.c - logits to action: thresholds, masks, and that nothing but a whole, finite, unambiguous
 * view allows. */
#include "guardian/verdict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

#include <math.h>

struct fixture {
    struct gd_tokenizer *t;
    struct gd_policy *p;
    struct gd_trajectory traj;
};

static int setup(void **state)
{
    static struct fixture f;
    f.t = tiny_tokenizer();
    f.p = make_policy(
        "{\"name\":\"x\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," ELEVEN_CHOICES
        ",\"thresholds\":{\"flag\":0.5,\"block\":0.8}}",
        f.t);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    gd_policy_close(f->p);
    gd_tokenizer_close(f->t);
    return 0;
}

static const struct gd_trajectory whole = {.phase = GD_PHASE_RESPONSE, .has_user = true, .step = 3};

/* Logits that give choice i about the probability p, the rest to appropriate (or to K for A). */
static void towards(float *logits, int i, double p)
{
    const int other = i == 0 ? 10 : 0;
    for (int k = 0; k < GD_LABEL_COUNT; k++)
        logits[k] = -100;
    logits[i] = (float)log(p);
    logits[other] = (float)log(1 - p);
}

static void test_actions(void **state)
{
    struct fixture *f = *state;
    float logits[GD_LABEL_COUNT];
    const struct {
        double p;
        enum gd_action action;
        bool flagged;
    } cases[] = {{0.02, GD_ACTION_ALLOW, false}, {0.49, GD_ACTION_ALLOW, false},
                 {0.51, GD_ACTION_REVIEW, true}, {0.79, GD_ACTION_REVIEW, true},
                 {0.81, GD_ACTION_BLOCK, true},  {0.999, GD_ACTION_BLOCK, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int label = 1; label < GD_LABEL_COUNT; label++) {
            struct gd_verdict v;
            towards(logits, label, cases[i].p);
            assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_OK);
            assert_int_equal(v.action, cases[i].action);
            assert_int_equal(v.flagged, cases[i].flagged);
            assert_int_equal(v.label, cases[i].flagged ? label : GD_LABEL_APPROPRIATE);
            assert_int_equal(v.choice, cases[i].p > 0.5 ? 'A' + label : 'A');
            assert_true(fabs(v.risk - cases[i].p) < 1e-6);
            assert_true(v.risk == 1 - v.scores[0]);
            assert_true(v.threshold == 0.5);
            double sum = 0;
            for (int k = 0; k < GD_LABEL_COUNT; k++)
                sum += v.scores[k];
            assert_true(fabs(sum - 1) < 1e-12);
        }
    }
}

/* Exactly at a threshold counts as over it. */
static void test_thresholds_are_inclusive(void **state)
{
    struct fixture *f = *state;
    float logits[GD_LABEL_COUNT];
    struct gd_verdict v;
    struct gd_policy p = *f->p;
    for (int k = 0; k < GD_LABEL_COUNT; k++)
        logits[k] = -1000;
    logits[0] = logits[10] = 0;
    p.block_threshold = 0.5;
    assert_int_equal(gd_verdict_make(&p, &whole, false, logits, NULL, &v), GD_OK);
    assert_true(v.risk == 0.5);
    assert_int_equal(v.action, GD_ACTION_BLOCK);
    p.block_threshold = 0.8;
    assert_int_equal(gd_verdict_make(&p, &whole, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_REVIEW);
    p.flag_threshold = 0.51;
    assert_int_equal(gd_verdict_make(&p, &whole, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_ALLOW);
}

/* Risk spread over labels: flagged by the sum, labelled by the largest of them, choice by the largest of
 * all. */
static void test_spread_risk(void **state)
{
    struct fixture *f = *state;
    float logits[GD_LABEL_COUNT];
    struct gd_verdict v;
    for (int k = 0; k < GD_LABEL_COUNT; k++)
        logits[k] = 0;
    logits[0] = 1;
    logits[7] = 0.5f;
    assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_OK);
    assert_true(v.flagged);
    assert_int_equal(v.label, GD_LABEL_WRONG_ARGUMENTS_INTENT_INJECTION);
    assert_int_equal(v.choice, 'A');
    assert_string_equal(gd_action_name(v.action), v.risk >= 0.8 ? "block" : "review");
}

static void test_masks(void **state)
{
    struct fixture *f = *state;
    for (int phase = 0; phase < 2; phase++) {
        for (int user = 0; user < 2; user++) {
            const struct gd_trajectory traj = {.phase =
                                                   phase ? GD_PHASE_RESPONSE : GD_PHASE_REQUEST,
                                               .has_user = user != 0,
                                               .step = 0};
            for (int label = 0; label < GD_LABEL_COUNT; label++) {
                const struct gd_label_info *info = gd_label_info((enum gd_label)label);
                const bool masked =
                    (info->needs_response && !phase) || (info->needs_intent && !user);
                float logits[GD_LABEL_COUNT];
                struct gd_verdict v;
                towards(logits, label, 0.999);
                assert_int_equal(gd_verdict_make(f->p, &traj, false, logits, NULL, &v), GD_OK);
                assert_int_equal(v.masked[label], masked);
                assert_false(v.masked[GD_LABEL_APPROPRIATE]);
                if (masked) {
                    assert_true(v.scores[label] == 0);
                    assert_int_not_equal(v.label, label);
                    assert_int_not_equal(v.choice, 'A' + label);
                } else {
                    assert_true(v.scores[label] > 0.9);
                }
            }
        }
    }
}

static void test_never_allow_in_doubt(void **state)
{
    struct fixture *f = *state;
    float logits[GD_LABEL_COUNT];
    struct gd_verdict v;
    towards(logits, 0, 0.999);
    assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_ALLOW);
    assert_int_equal(gd_verdict_make(f->p, &whole, true, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_REVIEW);
    assert_non_null(strstr(v.reason, "left out"));
    const uint32_t flags[] = {GD_TRAJ_F_DUPKEY, GD_TRAJ_F_BADUTF8,
                              GD_TRAJ_F_DUPKEY | GD_TRAJ_F_SURROGATE, GD_TRAJ_F_DOUBT};
    for (size_t i = 0; i < 4; i++) {
        struct gd_trajectory traj = whole;
        traj.flags = flags[i];
        assert_int_equal(gd_verdict_make(f->p, &traj, false, logits, NULL, &v), GD_OK);
        assert_int_equal(v.action, GD_ACTION_REVIEW);
        assert_false(v.flagged);
        assert_non_null(strstr(v.reason, i < 3 ? "duplicate keys" : "in two ways"));
    }
    struct gd_trajectory surrogate = whole;
    surrogate.flags = GD_TRAJ_F_SURROGATE;
    assert_int_equal(gd_verdict_make(f->p, &surrogate, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_ALLOW);
    towards(logits, 10, 0.999); /* doubt does not weaken a block */
    assert_int_equal(gd_verdict_make(f->p, &whole, true, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_BLOCK);
}

/* A policy none of whose risks can be judged now must not say that all is well. */
static void test_all_risks_masked(void **state)
{
    struct fixture *f = *state;
    struct gd_policy *p = make_policy(
        "{\"name\":\"x\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\",\"choices\":["
        "{\"text\":\"A\",\"label\":\"appropriate\"},{\"text\":\"B\",\"label\":\"data_injection\"}]"
        "}",
        f->t);
    const struct gd_trajectory traj = {.phase = GD_PHASE_REQUEST, .has_user = true};
    const float logits[2] = {0, 50};
    struct gd_verdict v;
    assert_int_equal(gd_verdict_make(p, &traj, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_REVIEW);
    assert_int_equal(v.choice, 'A');
    assert_non_null(strstr(v.reason, "no risk of the policy can be judged"));
    /* even a threshold that flags everything flags no risk that could not be judged, and does not allow */
    p->flag_threshold = p->block_threshold = 0;
    assert_int_equal(gd_verdict_make(p, &traj, false, logits, NULL, &v), GD_OK);
    assert_false(v.flagged);
    assert_int_equal(v.label, GD_LABEL_APPROPRIATE);
    assert_int_equal(v.action, GD_ACTION_REVIEW);
    gd_policy_close(p);
}

/* A policy file cannot be like that; were one, there is no verdict. */
static void test_nothing_unmasked(void **state)
{
    struct fixture *f = *state;
    struct gd_policy p = *f->p;
    const struct gd_trajectory traj = {.phase = GD_PHASE_REQUEST, .has_user = true};
    const float logits[2] = {1, 2};
    struct gd_verdict v;
    memset(&v, 0xA5, sizeof v);
    p.choices[0].label = GD_LABEL_DATA_INJECTION;
    p.choices[1].label = GD_LABEL_FUNCTION_OVERLAPPING;
    p.n_choices = 2;
    assert_int_equal(gd_verdict_make(&p, &traj, false, logits, NULL, &v), GD_ENUMERIC);
    assert_int_equal(v.action, GD_ACTION_ERROR);
    p.n_choices = 0;
    assert_int_equal(gd_verdict_make(&p, &traj, false, logits, NULL, &v), GD_ENUMERIC);
    assert_int_equal(v.action, GD_ACTION_ERROR);
}

static void test_names_of_actions(void **state)
{
    (void)state;
    assert_string_equal(gd_action_name(GD_ACTION_ALLOW), "allow");
    assert_string_equal(gd_action_name(GD_ACTION_REVIEW), "review");
    assert_string_equal(gd_action_name(GD_ACTION_BLOCK), "block");
    assert_string_equal(gd_action_name(GD_ACTION_ERROR), "error");
    assert_string_equal(gd_action_name((enum gd_action)77), "error"); /* never by chance "allow" */
}

static void test_not_finite(void **state)
{
    struct fixture *f = *state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int at = 0; at < GD_LABEL_COUNT; at++) {
        for (int i = 0; i < 3; i++) {
            float logits[GD_LABEL_COUNT] = {0};
            struct gd_verdict v;
            const struct gd_verdict zero = {0};
            memset(&v, 0xA5, sizeof v);
            logits[at] = bad[i];
            assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_ENUMERIC);
            assert_int_equal(v.action, GD_ACTION_ERROR);
            assert_memory_equal(v.scores, zero.scores, sizeof v.scores);
            assert_string_equal(gd_action_name(v.action), "error");
        }
    }
}

static void test_extreme_logits(void **state)
{
    struct fixture *f = *state;
    float logits[GD_LABEL_COUNT] = {0};
    struct gd_verdict v;
    logits[0] = -3e38f;
    logits[4] = 3e38f;
    assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_BLOCK);
    assert_true(v.risk == 1);
    logits[0] = 3e38f;
    logits[4] = -3e38f;
    assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_OK);
    assert_int_equal(v.action, GD_ACTION_ALLOW);
    assert_true(v.risk == 0);
}

static void test_reason(void **state)
{
    struct fixture *f = *state;
    float logits[GD_LABEL_COUNT];
    struct gd_verdict v;
    towards(logits, 10, 0.97);
    assert_int_equal(gd_verdict_make(f->p, &whole, false, logits, NULL, &v), GD_OK);
    assert_string_equal(
        v.reason, "Replay Injection: the same authorised call was repeated (step 3, risk 0.97)");
    struct gd_trajectory answer = whole;
    answer.step = -1;
    towards(logits, 0, 0.98);
    assert_int_equal(gd_verdict_make(f->p, &answer, false, logits, NULL, &v), GD_OK);
    assert_string_equal(
        v.reason,
        "Appropriate: the flows do what the user asked for, no more and no less (risk 0.02)");
    answer.flags = GD_TRAJ_F_DUPKEY | GD_TRAJ_F_DOUBT; /* the longest */
    for (int label = 1; label < GD_LABEL_COUNT; label++) {
        towards(logits, label, 0.9);
        assert_int_equal(gd_verdict_make(f->p, &answer, true, logits, NULL, &v), GD_OK);
        assert_non_null(strstr(v.reason, "duplicate keys or invalid text"));
        assert_true(strlen(v.reason) < sizeof v.reason - 1); /* not cut */
        assert_null(strchr(v.reason, '\n'));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_actions),
        cmocka_unit_test(test_thresholds_are_inclusive),
        cmocka_unit_test(test_spread_risk),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_never_allow_in_doubt),
        cmocka_unit_test(test_all_risks_masked),
        cmocka_unit_test(test_nothing_unmasked),
        cmocka_unit_test(test_names_of_actions),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_reason),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
