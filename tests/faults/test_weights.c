/* test_weights.c - flipped bits in the weights: no hash is known that would catch them, so whatever
 * the model becomes, a request gets a verdict whose every number is finite and that follows from its
 * score, or an error; never an allow without a score.
 *
 * Random flips of one bit (300; fewer where sanitizers watch), and some of the top bit of an exponent,
 * which makes a weight huge. One request alone and two at once must agree to the bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guardian/guard.h"
#include "requests.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#define MODEL "golden/models/llama_f32_tied"
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* they take their time */
#define RANDOM_FLIPS 60
#define HUGE_FLIPS 30
#else
#define RANDOM_FLIPS 300
#define HUGE_FLIPS 60
#endif
#define FILE_BYTES_MAX (1u << 20)

static char dir[] = "/tmp/guardian-weights-XXXXXX";
static unsigned char weights[FILE_BYTES_MAX];
static size_t n_weights, first_weight;

static const char *in_dir(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static size_t read_all(const char *path, unsigned char *out)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(out, 1, FILE_BYTES_MAX, f);
    assert_true(n > 0 && n < FILE_BYTES_MAX);
    fclose(f);
    return n;
}

static void write_all(const char *name, const unsigned char *data, size_t n)
{
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void copy_model(void)
{
    static const char *const names[] = {"config.json", "tokenizer.json"};
    char path[128];
    uint64_t header = 0;
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, MODEL "/%s", names[i]);
        write_all(names[i], weights, read_all(path, weights));
    }
    n_weights = read_all(MODEL "/model.safetensors", weights);
    memcpy(&header, weights, sizeof header); /* this machine's order, like the file's */
    first_weight = 8 + (size_t)header;
    assert_true(first_weight < n_weights);
    write_all("model.safetensors", weights, n_weights);
}

static void put_byte(size_t at, unsigned char byte)
{
    const int fd = open(in_dir("model.safetensors"), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- one model ---- */

struct outcome {
    int rc;
    struct gd_judgement j;
};

static void check(const struct gd_policy *p, const struct outcome *o)
{
    const struct gd_verdict *v = &o->j.verdict;
    if (o->rc != GD_OK) {
        static const struct gd_judgement zero;
        assert_int_equal(o->rc, GD_ENUMERIC);
        assert_memory_equal(&o->j, &zero, sizeof zero);
        return;
    }
    double sum = 0;
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        assert_true(isfinite(v->scores[i]) && v->scores[i] >= 0 && v->scores[i] <= 1);
        sum += v->scores[i];
    }
    assert_true(fabs(sum - 1) < 1e-6);
    assert_true(isfinite(v->risk) && v->risk >= 0 && v->risk <= 1);
    assert_int_equal(v->flagged, v->risk >= p->flag_threshold);
    assert_int_equal(v->action, v->risk >= p->block_threshold ? GD_ACTION_BLOCK
                                : v->flagged                  ? GD_ACTION_REVIEW
                                                              : GD_ACTION_ALLOW);
}

static bool same(const struct outcome *a, const struct outcome *b)
{
    return a->rc == b->rc && a->j.verdict.action == b->j.verdict.action &&
           memcmp(a->j.verdict.scores, b->j.verdict.scores, sizeof a->j.verdict.scores) == 0;
}

/* Two requests, each alone and then both at once, on the model as it is now. False when it was not
 * loaded. */
static bool judge(struct outcome out[2])
{
    static const char *const texts[2] = {PENDING, ANSWERED};
    const struct gd_guard_options opt = {
        .engine = {.model_dir = dir, .device = "cpu", .n_threads = 1, .verdict_entries = 16},
        .policy_paths = "http/policy_tiny.json"};
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    struct gd_arena arenas[2];
    struct gd_pending pending[2];
    const struct gd_json *v[2] = {NULL, NULL};
    if (gd_guard_open(&g, &opt, &err) != GD_OK) {
        assert_null(g);
        assert_true(err.msg[0] != '\0' && err.code != GD_EINTERNAL);
        return false;
    }
    struct gd_policies *policies = gd_guard_policies(g);
    for (int i = 0; i < 2; i++) {
        gd_arena_init(&arenas[i], GD_REQUEST_ARENA_BYTES);
        assert_int_equal(gd_json_parse(&arenas[i], gd_str_from(texts[i]), &GD_JSON_REQUEST_LIMITS,
                                       &v[i], NULL),
                         GD_OK);
        memset(&out[i], 0xA5, sizeof out[i]);
        out[i].rc = gd_guard_judge(g, &arenas[i], v[i], NULL, &out[i].j, NULL);
        check(policies->policy[0], &out[i]);
    }
    for (int i = 0; i < 2; i++)
        assert_int_equal(gd_guard_begin(g, &arenas[i], v[i], NULL, &pending[i], NULL), GD_OK);
    for (int i = 0; i < 2; i++) {
        struct outcome o;
        o.rc = gd_guard_finish(g, &pending[i], NULL, &o.j, NULL);
        check(policies->policy[0], &o);
        assert_true(same(&o, &out[i]));
        gd_arena_free(&arenas[i]);
    }
    gd_policies_close(policies);
    gd_guard_close(g);
    return true;
}

static void test_flips(void **state)
{
    (void)state;
    struct outcome whole[2], now[2];
    uint64_t seed = 20261121;
    int refused = 0, changed = 0, not_finite = 0, verdicts = 0;
    assert_true(judge(whole) && whole[0].rc == GD_OK && whole[1].rc == GD_OK);
    for (int i = 0; i < RANDOM_FLIPS + HUGE_FLIPS; i++) {
        size_t at = first_weight + next_random(&seed) % (n_weights - first_weight);
        unsigned bit = next_random(&seed) % 8;
        if (i >= RANDOM_FLIPS) {
            at = first_weight + (at - first_weight) / 4 * 4 + 3;
            bit = 6;
        }
        put_byte(at, weights[at] ^ (unsigned char)(1u << bit));
        if (judge(now)) {
            for (int k = 0; k < 2; k++) {
                not_finite += now[k].rc != GD_OK;
                verdicts += now[k].rc == GD_OK;
                changed += now[k].rc == GD_OK && !same(&now[k], &whole[k]);
            }
        } else {
            refused++;
        }
        put_byte(at, weights[at]);
    }
    print_message("%d flips: %d models refused, %d verdicts, %d of them changed, %d errors\n",
                  RANDOM_FLIPS + HUGE_FLIPS, refused, verdicts, changed, not_finite);
    assert_true(judge(now) && same(&now[0], &whole[0]) && same(&now[1], &whole[1]));
    assert_true(changed > 10 && refused + not_finite > 0); /* the flips reach the scores */
}

static int setup(void **state)
{
    (void)state;
    copy_model();
    return 0;
}

static int teardown(void **state)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        unlink(in_dir(names[i]));
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flips),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
