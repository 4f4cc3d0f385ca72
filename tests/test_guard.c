/* test_guard.c - one request to one verdict on a tiny model: the answer's members, policies, phases and
 * masks, refusals that never allow, rendering, determinism, many threads at once, many requests of one
 * thread, callers, and what is reused from one request to the next. */
#include "guardian/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

static struct gd_guard *guard;

static struct gd_guard *open_guard_with(struct gd_guard_options opt)
{
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    opt.engine.n_threads = 1;
    if (gd_guard_open(&g, &opt, &err) != GD_OK)
        fail_msg("%s", err.msg);
    return g;
}

static struct gd_guard *open_guard(const char *dir, const char *policy)
{
    return open_guard_with(
        (struct gd_guard_options){.engine = {.model_dir = dir}, .policy_paths = policy});
}

static int setup(void **state)
{
    (void)state;
    guard = open_guard(TINY_MODEL "/", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gd_guard_close(guard);
    return 0;
}

/* The answer of one request, parsed, or the error. */
struct answer {
    struct gd_arena arena;
    struct gd_judgement judgement;
    struct gd_buf text;
    const struct gd_json *root;
    struct gd_err err;
    int rc;
};

static void ask_as(struct gd_guard *g, const char *request, const struct gd_caller *caller,
                   struct answer *a)
{
    const struct gd_json *v = NULL;
    memset(a, 0, sizeof *a);
    gd_arena_init(&a->arena, GD_REQUEST_ARENA_BYTES);
    gd_buf_init(&a->text, 1 << 20);
    if (gd_json_parse(&a->arena, gd_str_from(request), &GD_JSON_REQUEST_LIMITS, &v, &a->err) !=
        GD_OK)
        fail_msg("%s: %s", request, a->err.msg);
    memset(&a->judgement, 0xA5, sizeof a->judgement);
    a->rc = gd_guard_judge(g, &a->arena, v, caller, &a->judgement, &a->err);
    if (a->rc != GD_OK) {
        static const struct gd_judgement zero;
        assert_memory_equal(&a->judgement, &zero, sizeof zero);
        return;
    }
    struct gd_json_writer w;
    gd_json_writer_init(&w, &a->text);
    gd_judgement_write(g, &a->judgement, &w);
    assert_int_equal(a->text.failed, 0);
    assert_int_equal(gd_json_parse(&a->arena, (struct gd_str){a->text.data, a->text.len},
                                   &GD_JSON_REQUEST_LIMITS, &a->root, NULL),
                     GD_OK);
}

static void ask(struct gd_guard *g, const char *request, struct answer *a)
{
    ask_as(g, request, NULL, a);
}

static void drop(struct answer *a)
{
    gd_buf_free(&a->text);
    gd_arena_free(&a->arena);
}

static double number(const struct gd_json *obj, const char *key)
{
    double d = NAN;
    if (!gd_json_f64(gd_json_get(obj, key), &d))
        fail_msg("%s is %s", key, gd_json_type_name(gd_json_get(obj, key)));
    return d;
}

static void expect_member(const struct gd_json *obj, const char *key, const char *want)
{
    const struct gd_json *v = gd_json_get(obj, key);
    if (!gd_json_is(v, GD_JSON_STRING) || !gd_str_eqz(v->str, want))
        fail_msg("%s is %.*s, not '%s'", key, v ? (int)v->raw.len : 7, v ? v->raw.ptr : "missing",
                 want);
}

#define USER "{\"role\":\"user\",\"content\":\"weather in Oslo?\"}"
#define CALL                                                                                       \
    "{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"get_"          \
    "weather\",\"arguments\":\"{\\\"city\\\":\\\"Oslo\\\"}\"}}]}"
#define RESULT "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"{\\\"t\\\":3}\"}"
#define ANSWER "{\"role\":\"assistant\",\"content\":\"3 degrees\"}"
#define PATIENT ",\"deadline_ms\":600000" /* a busy machine is no failure here */
#define STORY "{\"messages\":[" USER "," CALL "," RESULT "," ANSWER "]"

static void test_answer(void **state)
{
    (void)state;
    struct answer a;
    ask(guard,
        STORY ",\"session\":\"s-\\\"1\",\"principal\":{\"id\":\"u\"},\"mode\":\"score\",\"policy\":"
              "\"mcip\",\"deadline_ms\":600000,\"dry_run\":false}",
        &a);
    if (a.rc != GD_OK)
        fail_msg("%s", a.err.msg);
    static const char *const members[] = {
        "id",      "object", "created",   "model",    "model_version", "policy",    "phase",
        "status",  "action", "flagged",   "label",    "choice",        "score",     "scores",
        "masked",  "step",   "threshold", "taxonomy", "reason",        "rationale", "mode",
        "session", "intent", "context",   "timing_ms"};
    const struct gd_json *m = a.root->child;
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++, m = m->next) {
        assert_non_null(m);
        if (!gd_str_eqz(m->key, members[i]))
            fail_msg("member %zu is %.*s, not %s", i, (int)m->key.len, m->key.ptr, members[i]);
    }
    assert_null(m);
    const struct gd_str id = gd_json_get(a.root, "id")->str;
    assert_int_equal(id.len, 35);
    assert_memory_equal(id.ptr, "gv-", 3);
    expect_member(a.root, "object", "guard.verdict");
    expect_member(a.root, "model", "qwen2_f16");
    expect_member(a.root, "policy", "mcip@1");
    expect_member(a.root, "phase", "response");
    expect_member(a.root, "status", "ok");
    expect_member(a.root, "mode", "enforce");
    expect_member(a.root, "session", "s-\"1");
    expect_member(a.root, "intent", "present");
    assert_memory_equal(gd_json_get(a.root, "model_version")->str.ptr, "sha256:", 7);
    assert_int_equal(gd_json_get(a.root, "rationale")->type, GD_JSON_NULL);
    assert_int_equal(gd_json_get(a.root, "step")->type, GD_JSON_NULL);
    const struct gd_json *scores = gd_json_get(a.root, "scores");
    assert_int_equal(scores->n_children, GD_LABEL_COUNT);
    double sum = 0;
    for (int l = 0; l < GD_LABEL_COUNT; l++) {
        const double s = number(scores, gd_label_info((enum gd_label)l)->key);
        assert_true(s == a.judgement.verdict.scores[l]); /* bit for bit */
        sum += s;
    }
    assert_true(fabs(sum - 1) < 1e-9);
    assert_true(number(a.root, "score") == 1 - number(scores, "appropriate"));
    assert_int_equal(gd_json_get(a.root, "masked")->n_children, 0);
    const struct gd_json *context = gd_json_get(a.root, "context");
    static const char *const counts[] = {"events",    "tokens",  "cached_tokens", "elided",
                                         "truncated", "omitted", "duplicate_keys"};
    m = context->child;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++, m = m->next)
        assert_true(m && gd_str_eqz(m->key, counts[i]));
    assert_null(m);
    assert_true(number(context, "events") == 4);
    assert_true(number(context, "tokens") > 100);
    assert_int_equal(gd_json_get(context, "truncated")->type, GD_JSON_FALSE);
    const struct gd_json *timing = gd_json_get(a.root, "timing_ms");
    assert_true(number(timing, "queue") >= 0 && number(timing, "tokenize") > 0 &&
                number(timing, "prefill") > 0);
    assert_true(number(timing, "total") >= number(timing, "tokenize") + number(timing, "prefill"));
    drop(&a);
}

static void test_phases_and_masks(void **state)
{
    (void)state;
    struct answer a;
    ask(guard, "{\"messages\":[" USER "," CALL "]" PATIENT "}", &a);
    assert_int_equal(a.rc, GD_OK);
    expect_member(a.root, "phase", "request");
    assert_true(number(a.root, "step") == 0);
    const struct gd_json *masked = gd_json_get(a.root, "masked");
    assert_int_equal(masked->n_children, 2);
    assert_true(gd_str_eqz(masked->child->str, "function_overlapping"));
    assert_true(gd_str_eqz(masked->child->next->str, "data_injection"));
    assert_true(number(gd_json_get(a.root, "scores"), "data_injection") == 0);
    assert_int_equal(gd_json_get(a.root, "session")->type, GD_JSON_NULL);
    drop(&a);
    ask(guard, "{\"messages\":[" CALL "," RESULT "]" PATIENT "}", &a);
    assert_int_equal(a.rc, GD_OK);
    expect_member(a.root, "intent", "absent");
    assert_int_equal(gd_json_get(a.root, "masked")->n_children, 5);
    drop(&a);
}

static void test_refusals(void **state)
{
    (void)state;
    const struct {
        const char *request, *message;
        int rc;
    } cases[] = {
        {"{}", "exactly one of", GD_EFIELD},
        {STORY ",\"policy\":\"other\"}", "which is not loaded", GD_EFIELD},
        {STORY ",\"policy\":\"mcip@2\"}", "which is not loaded", GD_EFIELD},
        {STORY ",\"policy\":1}", "policy", GD_EFIELD},
        {STORY ",\"session\":1}", "session", GD_EFIELD},
        {STORY ",\"deadline_ms\":0}", "deadline_ms", GD_EFIELD},
        {STORY ",\"deadline_ms\":600001}", "deadline_ms", GD_EFIELD},
        {STORY ",\"deadline_ms\":1.5}", "deadline_ms", GD_EFIELD},
        {STORY ",\"messages\":[]}", "more than once", GD_EFIELD},
        {STORY ",\"phase\":\"request\"}", "'phase' is request", GD_EFIELD},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct answer a;
        ask(guard, cases[i].request, &a);
        if (a.rc != cases[i].rc || !strstr(a.err.msg, cases[i].message))
            fail_msg("%s: %d '%s'", cases[i].request, a.rc, a.err.msg);
        assert_int_equal(a.judgement.verdict.action, GD_ACTION_ERROR);
        drop(&a);
    }
    struct answer a;
    ask(guard, STORY PATIENT ",\"policy\":\"mcip@1\"}", &a);
    assert_int_equal(a.rc, GD_OK);
    drop(&a);
}

static void test_doubts_are_reviewed(void **state)
{
    (void)state;
    struct answer a;
    ask(guard,
        "{\"messages\":[" USER ",{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":"
                               "\"f\",\"arguments\":{\"a\":1,\"a\":2}}}]}]" PATIENT "}",
        &a);
    assert_int_equal(a.rc, GD_OK);
    assert_int_equal(gd_json_get(gd_json_get(a.root, "context"), "duplicate_keys")->type,
                     GD_JSON_TRUE);
    assert_int_not_equal(a.judgement.verdict.action, GD_ACTION_ALLOW);
    assert_non_null(strstr(a.judgement.verdict.reason, "duplicate keys"));
    drop(&a);
}

static void test_render(void **state)
{
    (void)state;
    struct gd_arena arena;
    struct gd_buf text;
    struct gd_json_writer w;
    struct gd_err err = {0};
    const struct gd_json *v = NULL;
    const struct gd_json *r = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    gd_buf_init(&text, 1 << 20);
    gd_json_writer_init(&w, &text);
    assert_int_equal(
        gd_json_parse(&arena, gd_str_from(STORY "}"), &GD_JSON_REQUEST_LIMITS, &v, NULL), GD_OK);
    assert_int_equal(gd_guard_render(guard, &arena, v, &w, &err), GD_OK);
    assert_int_equal(gd_json_parse(&arena, (struct gd_str){text.data, text.len},
                                   &GD_JSON_REQUEST_LIMITS, &r, NULL),
                     GD_OK);
    assert_int_equal(r->n_children, 4);
    const struct gd_str prompt = gd_json_get(r, "text")->str;
    static const char body[] = "\nUSER: weather in Oslo?\nASSISTANT: <functioncall> {\"name\": "
                               "\"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n"
                               "FUNCTION RESPONSE: {\"t\": 3}\nASSISTANT: 3 degrees\n";
    assert_non_null(memmem(prompt.ptr, prompt.len, body, strlen(body)));
    /* the tokens are what the engine scores: decoding them gives the text */
    const struct gd_tokenizer *t = gd_engine_tokenizer(gd_guard_engine(guard));
    struct gd_buf decoded;
    gd_buf_init(&decoded, 1 << 20);
    for (const struct gd_json *id = gd_json_get(r, "tokens")->child; id; id = id->next) {
        int64_t i = -1;
        assert_true(gd_json_i64(id, &i) && gd_tokenizer_decode(t, (int32_t)i, &decoded));
    }
    assert_true(gd_str_eq((struct gd_str){decoded.data, decoded.len}, prompt));
    gd_buf_free(&decoded);
    const struct gd_json *choices = gd_json_get(r, "choices");
    assert_int_equal(choices->n_children, GD_LABEL_COUNT);
    expect_member(choices->child, "letter", "A");
    expect_member(choices->child, "label", "appropriate");
    expect_member(choices->child, "text", "A");
    assert_true(number(choices->child, "token") >= 0);
    assert_true(number(gd_json_get(r, "context"), "events") == 4);
    text.len = 0;
    gd_json_writer_init(&w, &text);
    assert_int_equal(gd_json_parse(&arena, GD_STR("{}"), &GD_JSON_REQUEST_LIMITS, &v, NULL), GD_OK);
    assert_int_equal(gd_guard_render(guard, &arena, v, &w, &err), GD_EFIELD);
    assert_int_equal(text.len, 0);
    gd_buf_free(&text);
    gd_arena_free(&arena);
}

/* A request whose memory is short is refused, never half judged. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct gd_arena json;
    const struct gd_json *v = NULL;
    int worked = 0;
    gd_arena_init(&json, GD_REQUEST_ARENA_BYTES);
    assert_int_equal(
        gd_json_parse(&json, gd_str_from(STORY PATIENT "}"), &GD_JSON_REQUEST_LIMITS, &v, NULL),
        GD_OK);
    for (size_t budget = 0; budget < 100000 && worked < 3; budget += 500) {
        struct gd_arena a;
        struct gd_judgement j;
        struct gd_err err = {0};
        gd_arena_init(&a, budget);
        const int rc = gd_guard_judge(guard, &a, v, NULL, &j, &err);
        assert_true(rc == GD_OK || (rc == GD_ENOMEM && !worked));
        assert_int_equal(j.verdict.action == GD_ACTION_ERROR, rc != GD_OK);
        worked += rc == GD_OK;
        gd_arena_free(&a);
    }
    assert_int_equal(worked, 3);
    gd_arena_free(&json);
}

#define THREADS 3

static void *judge_many(void *arg)
{
    double *scores = arg;
    static const char *const requests[2] = {STORY PATIENT "}",
                                            "{\"messages\":[" USER "," CALL "]" PATIENT "}"};
    for (int i = 0; i < 4; i++) {
        struct gd_arena a;
        struct gd_judgement j;
        const struct gd_json *v = NULL;
        gd_arena_init(&a, GD_REQUEST_ARENA_BYTES);
        if (gd_json_parse(&a, gd_str_from(requests[i % 2]), &GD_JSON_REQUEST_LIMITS, &v, NULL) !=
                GD_OK ||
            gd_guard_judge(guard, &a, v, NULL, &j, NULL) != GD_OK)
            return NULL;
        if (i < 2)
            scores[i] = j.verdict.risk;
        const bool same = scores[i % 2] == j.verdict.risk;
        gd_arena_free(&a);
        if (!same)
            return NULL;
    }
    return arg;
}

/* The same request has the same score, bit for bit, whoever else asks. */
static void test_threads_agree(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    double scores[THREADS][2];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, judge_many, scores[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        void *ok = NULL;
        assert_int_equal(pthread_join(threads[i], &ok), 0);
        assert_non_null(ok);
        assert_true(scores[i][0] == scores[0][0] && scores[i][1] == scores[0][1]);
    }
}

static void test_open(void **state)
{
    (void)state;
    struct gd_guard *g = (struct gd_guard *)1;
    struct gd_err err = {0};
    struct gd_guard_options opt = {.engine = {.model_dir = "golden/none", .n_threads = 1}};
    assert_true(gd_guard_open(&g, &opt, &err) < 0);
    assert_null(g);
    opt.engine.model_dir = TINY_MODEL;
    opt.policy_paths = "golden/none.json";
    assert_int_equal(gd_guard_open(&g, &opt, &err), GD_EIO);
    assert_non_null(strstr(err.msg, "golden/none.json"));
    gd_guard_close(NULL);
    char path[] = "/tmp/gd_policy_XXXXXX";
    const int fd = mkstemp(path);
    static const char json[] =
        "{\"name\":\"two\",\"version\":3,\"chat\":\"chatml\",\"template\":\"{body}\"," TWO_CHOICES
        "}";
    assert_int_equal(write(fd, json, sizeof json - 1), (ssize_t)(sizeof json - 1));
    close(fd);
    g = open_guard(TINY_MODEL, path);
    struct answer a;
    ask(g, STORY PATIENT ",\"policy\":\"two\"}", &a);
    assert_int_equal(a.rc, GD_OK);
    expect_member(a.root, "policy", "two@3");
    assert_true(number(gd_json_get(a.root, "scores"), "data_injection") == 0); /* not offered */
    drop(&a);
    gd_guard_close(g);
    unlink(path);
}

/* A model directory of its own: the tiny model with a context of 300 tokens, and a policy.json. */
static void make_model(char *dir)
{
    char path[256];
    char target[512];
    char here[256];
    static const char *const files[] = {"tokenizer.json", "model.safetensors"};
    assert_non_null(mkdtemp(dir));
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        snprintf(target, sizeof target, "%s/" TINY_MODEL "/%s", here, files[i]);
        assert_int_equal(symlink(target, path), 0);
    }
    char *config = read_text(TINY_MODEL "/config.json");
    char *context = strstr(config, "\"max_position_embeddings\": ");
    assert_non_null(context);
    context += strlen("\"max_position_embeddings\": ");
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "%.*s300%s", (int)(context - config), config, strchr(context, ','));
    fclose(f);
    free(config);
    snprintf(path, sizeof path, "%s/policy.json", dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    fputs("{\"name\":\"own\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES
          "}",
          f);
    fclose(f);
}

static void remove_model(const char *dir)
{
    static const char *const files[] = {"tokenizer.json", "model.safetensors", "config.json",
                                        "policy.json"};
    for (size_t i = 0; i < 4; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* A prefix that no prompt could have is an error of opening. */
static void refuse_long_prefix(const char *dir)
{
    struct gd_guard *g = (struct gd_guard *)1;
    struct gd_err err = {0};
    char path[256];
    const struct gd_guard_options opt = {.engine = {.model_dir = dir, .n_threads = 1}};
    snprintf(path, sizeof path, "%s/policy.json", dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "{\"name\":\"long\",\"version\":1,\"chat\":\"chatml\",\"system\":\"");
    for (int i = 0; i < 400; i++)
        fputs(" 1", f);
    fputs("\",\"template\":\"{body}\"," TWO_CHOICES "}", f);
    fclose(f);
    assert_int_equal(gd_guard_open(&g, &opt, &err), GD_ELIMIT);
    assert_non_null(strstr(err.msg, "prefix of the policy long"));
    assert_null(g);
}

/* The first policy, which lives as long as nobody reloads. */
static const struct gd_policy *first_policy(struct gd_guard *g)
{
    struct gd_policies *set = gd_guard_policies(g);
    const struct gd_policy *p = set->policy[0];
    gd_policies_close(set);
    return p;
}

/* policy.json of a model directory is its default; a full context is cut and never allowed. */
static void test_own_policy_and_full_context(void **state)
{
    (void)state;
    char dir[] = "/tmp/gd_model_XXXXXX";
    make_model(dir);
    struct gd_guard *g = open_guard(dir, NULL);
    assert_true(gd_str_eqz(first_policy(g)->name, "own"));
    struct answer a;
    struct gd_buf b;
    gd_buf_init(&b, 1 << 20);
    gd_buf_z(&b, "{\"messages\":[" USER);
    for (int i = 0; i < 200; i++)
        gd_buf_z(&b, "," ANSWER);
    gd_buf_z(&b, "]" PATIENT "}");
    ask(g, b.data, &a);
    if (a.rc != GD_OK)
        fail_msg("%s", a.err.msg);
    const struct gd_json *context = gd_json_get(a.root, "context");
    assert_int_equal(gd_json_get(context, "truncated")->type, GD_JSON_TRUE);
    assert_true(number(context, "omitted") > 100 && number(context, "events") == 201);
    assert_true(number(context, "tokens") <= 300 && number(context, "tokens") > 200);
    assert_int_not_equal(a.judgement.verdict.action, GD_ACTION_ALLOW);
    assert_int_not_equal(a.judgement.verdict.action, GD_ACTION_ERROR);
    drop(&a);
    b.len = 0;
    gd_buf_z(&b,
             "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"");
    for (int i = 0; i < 1000; i++)
        gd_buf_z(&b, "x");
    gd_buf_z(&b, "\"}}]}]}");
    ask(g, b.data, &a);
    assert_int_equal(a.rc, GD_ELIMIT);
    assert_int_equal(a.judgement.verdict.action, GD_ACTION_ERROR);
    drop(&a);
    gd_buf_free(&b);
    gd_guard_close(g);
    refuse_long_prefix(dir);
    remove_model(dir);
}

/* ---- many requests of one thread ---- */

/* A conversation of n answers; text makes it another one from its first words on. To be freed. */
static char *conversation(const char *text, unsigned n, const char *more)
{
    struct gd_buf b;
    gd_buf_init(&b, 4 << 20);
    gd_buf_fmt(&b, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}", text);
    for (unsigned i = 0; i < n; i++)
        gd_buf_fmt(&b, ",{\"role\":\"assistant\",\"content\":\"answer %u to %s;\"}", i, text);
    gd_buf_fmt(&b, "]%s}", more);
    assert_int_equal(b.failed, 0);
    return b.data;
}

/* A request that was begun. */
struct begun {
    char *request;
    struct gd_arena arena;
    const struct gd_json *root;
    struct gd_pending pending;
    struct gd_err err;
    int rc;
};

static void begin(struct gd_guard *g, char *request, const struct gd_caller *caller,
                  struct begun *b)
{
    memset(b, 0, sizeof *b);
    b->request = request;
    gd_arena_init(&b->arena, GD_REQUEST_ARENA_BYTES);
    assert_int_equal(
        gd_json_parse(&b->arena, gd_str_from(request), &GD_JSON_REQUEST_LIMITS, &b->root, NULL),
        GD_OK);
    memset(&b->pending, 0xA5, sizeof b->pending);
    b->rc = gd_guard_begin(g, &b->arena, b->root, caller, &b->pending, &b->err);
    static const struct gd_pending zero;
    if (b->rc != GD_OK)
        assert_memory_equal(&b->pending, &zero, sizeof zero);
}

static void end(struct begun *b)
{
    gd_arena_free(&b->arena);
    free(b->request);
}

static bool same_verdict(const struct gd_judgement *a, const struct gd_judgement *b)
{
    const struct gd_verdict *v = &a->verdict;
    const struct gd_verdict *w = &b->verdict;
    return memcmp(v->scores, w->scores, sizeof v->scores) == 0 && v->risk == w->risk &&
           v->label == w->label && v->action == w->action && v->action != GD_ACTION_ERROR &&
           v->choice == w->choice && a->phase == b->phase && a->step == b->step &&
           a->events == b->events && a->tokens == b->tokens && a->flags == b->flags;
}

#define MANY 24

/* Many begun before the first is finished, in whatever order: each has the verdict that judging it alone
 * gives, also where nothing is ever reused. */
static void test_begin_many(void **state)
{
    (void)state;
    struct gd_guard *plain = open_guard_with(
        (struct gd_guard_options){.engine = {.model_dir = TINY_MODEL, .no_prefix_cache = true}});
    struct begun *begun = calloc(MANY, sizeof *begun);
    assert_non_null(begun);
    for (unsigned i = 0; i < MANY; i++) {
        char text[32];
        snprintf(text, sizeof text, "wish %u", i % 5);
        begin(guard, conversation(text, 1 + i * 7 % 11, PATIENT ",\"session\":\"s\""), NULL,
              &begun[i]);
        if (begun[i].rc != GD_OK)
            fail_msg("%s", begun[i].err.msg);
        assert_non_null(begun[i].pending.ticket);
        assert_int_equal(begun[i].pending.judgement.verdict.action, GD_ACTION_ERROR);
    }
    for (unsigned i = 0; i < MANY; i++) {
        struct begun *b = &begun[i * 7 % MANY];
        struct gd_judgement j;
        struct answer alone;
        struct answer unhelped;
        memset(&j, 0xA5, sizeof j);
        assert_int_equal(gd_guard_finish(guard, &b->pending, NULL, &j, &b->err), GD_OK);
        ask(guard, b->request, &alone);
        ask(plain, b->request, &unhelped);
        assert_true(same_verdict(&j, &alone.judgement));
        assert_true(same_verdict(&j, &unhelped.judgement));
        assert_int_equal(unhelped.judgement.cached_tokens, 0);
        assert_true(gd_str_eqz(j.session, "s") && j.total_ms >= j.tokenize_ms && j.tokenize_ms > 0);
        assert_memory_equal(j.id, "gv-", 3);
        assert_memory_not_equal(j.id, alone.judgement.id, sizeof j.id);
        drop(&alone);
        drop(&unhelped);
        end(b);
    }
    free(begun);
    gd_guard_close(plain);
}

static uint32_t in_engine(struct gd_guard *g)
{
    struct gd_engine_stats stats;
    gd_engine_stats(gd_guard_engine(g), &stats);
    return stats.waiting + stats.running;
}

/* More failures than there are places to prepare a prompt: none is lost. */
static void test_begin_fails(void **state)
{
    (void)state;
    static const char *const requests[] = {"{}", "{\"messages\":[]}",
                                           STORY ",\"policy\":\"other\"}", STORY ",\"session\":1}",
                                           STORY ",\"deadline_ms\":0}"};
    const uint32_t n = 4 * GD_THREADS_MAX;
    for (uint32_t i = 0; i < n; i++) {
        struct begun b;
        begin(guard, strdup(requests[i % 5]), NULL, &b);
        assert_int_equal(b.rc, GD_EFIELD);
        assert_int_not_equal(b.err.msg[0], '\0');
        end(&b);
    }
    assert_int_equal(in_engine(guard), 0);
    struct answer a;
    ask(guard, STORY PATIENT "}", &a);
    assert_int_equal(a.rc, GD_OK);
    drop(&a);
}

/* A deadline that has passed before there is a prompt: it takes long to read so many events. */
static void test_deadline(void **state)
{
    (void)state;
    struct answer a;
    char *request = conversation("be quick", 4000, ",\"deadline_ms\":1");
    ask(guard, request, &a);
    if (a.rc != GD_EDEADLINE && a.rc != GD_EBUSY)
        fail_msg("%d %s", a.rc, a.err.msg);
    assert_int_equal(in_engine(guard), 0);
    drop(&a);
    free(request);
}

/* ---- callers ---- */

static bool never_gone(void *ctx)
{
    ++*(int *)ctx;
    return false;
}

static bool always_gone(void *ctx)
{
    ++*(int *)ctx;
    return true;
}

#define CROWD 24

/* A caller that has left is told so, and nothing of its request stays in the engine. The last of a crowd
 * waits for long enough to be asked. */
static void test_gone(void **state)
{
    (void)state;
    struct begun *begun = calloc(CROWD, sizeof *begun);
    int asked = 0;
    const struct gd_caller caller = {.gone = always_gone, .ctx = &asked};
    struct gd_engine_stats before;
    struct gd_engine_stats after;
    assert_non_null(begun);
    gd_engine_stats(gd_guard_engine(guard), &before);
    for (unsigned i = 0; i < CROWD; i++) {
        char text[32];
        snprintf(text, sizeof text, "%u is the wish", i);
        begin(guard, conversation(text, 150, PATIENT), &caller, &begun[i]);
        if (begun[i].rc != GD_OK)
            fail_msg("%s", begun[i].err.msg);
    }
    unsigned wrong = 0; /* all must be finished before the test may fail */
    for (unsigned i = CROWD; i > 0; i--) {
        struct begun *b = &begun[i - 1];
        struct gd_judgement j;
        static const struct gd_judgement zero;
        memset(&j, 0xA5, sizeof j);
        b->rc = gd_guard_finish(guard, &b->pending, &caller, &j, &b->err);
        wrong += b->rc != GD_ECANCELED && (b->rc != GD_OK || i == CROWD);
        wrong += b->rc != GD_OK && memcmp(&j, &zero, sizeof zero) != 0;
        end(b);
    }
    assert_true(asked > 0);
    assert_int_equal(wrong, 0);
    free(begun);
    struct answer a;
    const struct gd_caller patient = {.gone = never_gone, .ctx = &asked};
    ask_as(guard, STORY PATIENT "}", &patient,
           &a); /* those that are canceled go first, at no cost */
    assert_int_equal(a.rc, GD_OK);
    drop(&a);
    gd_engine_stats(gd_guard_engine(guard), &after);
    assert_true(after.canceled > before.canceled);
    assert_int_equal(in_engine(guard), 0);
}

static struct gd_caller tenant(uint8_t number)
{
    struct gd_caller c = {.gone = NULL};
    memset(c.salt.bytes, number, sizeof c.salt.bytes);
    return c;
}

/* Beyond the policy's prefix a tenant finds what it has asked itself, never what another one has. */
static void test_salts(void **state)
{
    (void)state;
    struct gd_guard *g = open_guard_with(
        (struct gd_guard_options){.engine = {.model_dir = TINY_MODEL, .verdict_entries = 8}});
    const uint32_t prefix = (uint32_t)first_policy(g)->prefix_ids.len;
    const struct gd_caller a = tenant(1);
    const struct gd_caller b = tenant(2);
    struct answer first;
    struct answer again;
    struct answer longer;
    struct answer other;
    char *request = conversation("a secret", 5, PATIENT);
    char *more = conversation("a secret", 6, PATIENT);
    ask_as(g, request, &a, &first);
    ask_as(g, request, &a, &again);
    ask_as(g, more, &a, &longer);
    ask_as(g, more, &b, &other);
    assert_true(first.rc == GD_OK && again.rc == GD_OK && longer.rc == GD_OK && other.rc == GD_OK);
    assert_true(prefix > GD_KV_BLOCK_TOKENS);
    assert_in_range(first.judgement.cached_tokens, prefix - prefix % GD_KV_BLOCK_TOKENS, prefix);
    assert_int_equal(other.judgement.cached_tokens, first.judgement.cached_tokens);
    assert_true(longer.judgement.cached_tokens > first.judgement.tokens - 100);
    assert_true(number(gd_json_get(longer.root, "context"), "cached_tokens") ==
                longer.judgement.cached_tokens);
    assert_true(again.judgement.cache_hit && !first.judgement.cache_hit &&
                !longer.judgement.cache_hit && !other.judgement.cache_hit);
    assert_true(same_verdict(&first.judgement, &again.judgement));
    assert_true(same_verdict(&longer.judgement, &other.judgement));
    drop(&first);
    drop(&again);
    drop(&longer);
    drop(&other);
    free(request);
    free(more);
    gd_guard_close(g);
}

/* The ids of a request, and how many of them may be kept. */
static struct gd_ids ids_of(struct gd_guard *g, const char *request, uint32_t *n_keep)
{
    struct guard_case c;
    case_prompt(&c, first_policy(g), gd_engine_tokenizer(gd_guard_engine(g)), request,
                GD_CONTEXT_TOKENS_MAX);
    assert_int_equal(c.rc, GD_OK);
    struct gd_ids ids = c.prompt.ids;
    c.prompt.ids = (struct gd_ids){NULL, 0, 0};
    *n_keep = c.prompt.n_keep;
    case_free(&c);
    return ids;
}

/* A trajectory that grows is computed from where it grows: what was kept of the request before is all
 * found. */
static void test_growing(void **state)
{
    (void)state;
    const struct gd_caller me = tenant(9);
    struct gd_ids before = {NULL, 0, 0};
    uint32_t n_keep = 0;
    for (unsigned n = 1; n < 12; n++) {
        uint32_t n_next = 0;
        uint32_t same = 0;
        struct answer a;
        char *request = conversation("grow", n, PATIENT);
        struct gd_ids ids = ids_of(guard, request, &n_next);
        while (same < n_keep && before.data[same] == ids.data[same])
            same++;
        ask_as(guard, request, &me, &a);
        assert_int_equal(a.rc, GD_OK);
        assert_int_equal(a.judgement.tokens, ids.len);
        if (n > 1) {
            assert_true(same + 1 >= n_keep);
            assert_int_equal(a.judgement.cached_tokens, same);
        }
        drop(&a);
        free(request);
        gd_ids_free(&before);
        before = ids;
        n_keep = n_next;
    }
    gd_ids_free(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_phases_and_masks),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_doubts_are_reviewed),
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_threads_agree),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_own_policy_and_full_context),
        cmocka_unit_test(test_begin_many),
        cmocka_unit_test(test_begin_fails),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_salts),
        cmocka_unit_test(test_growing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
