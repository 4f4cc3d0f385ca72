/* test_policy.c - policies: the built-in one, every field and its refusals, templates from files, choices
 * that are exactly one token, the part of a template that is encoded at load, and operating points. */
#include "guardian/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guard_case.h"

#include <unistd.h>

static struct gd_tokenizer *tokenizer;

static int setup(void **state)
{
    (void)state;
    tokenizer = tiny_tokenizer();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gd_tokenizer_close(tokenizer);
    return 0;
}

static void expect_str(struct gd_str s, const char *want)
{
    if (!gd_str_eqz(s, want))
        fail_msg("'%.*s' is not '%s'", (int)s.len, s.ptr, want);
}

static void test_built_in(void **state)
{
    (void)state;
    struct gd_policy *p = make_policy(NULL, tokenizer);
    expect_str(p->name, "mcip");
    assert_int_equal(p->chat, GD_CHAT_LLAMA3);
    assert_int_equal(p->rendering, GD_RENDER_DIALOGUE);
    assert_int_equal(p->n_choices, GD_LABEL_COUNT);
    for (uint32_t i = 0; i < p->n_choices; i++) {
        char name[64];
        const struct gd_label_info *info = gd_label_info((enum gd_label)i);
        assert_int_equal(p->choices[i].label, i);
        assert_int_equal(p->choices[i].letter, 'A' + (int)i);
        /* the definition of each letter is in the text before the body */
        snprintf(name, sizeof name, "\n%c. %s: ", (char)('A' + i), info->name);
        assert_non_null(memmem(p->before_body.ptr, p->before_body.len, name, strlen(name)));
    }
    assert_int_equal(p->after_bytes, p->after_body.len);
    assert_true(p->after_body.len < 200);
    assert_true(p->flag_threshold <= p->block_threshold);
    assert_int_equal(p->n_points, 0);
    assert_null(p->point);
    gd_policy_close(p);
}

static void test_fields(void **state)
{
    (void)state;
    struct gd_policy *p =
        make_policy("{\"name\":\"n\",\"version\":7,\"chat\":\"none\",\"bos\":\"<|endoftext|>\","
                    "\"template\":\"xATyA {body} zA\",\"remove\":[\"A\",\"T\"],"
                    "\"answer_prefix\":\"P(\",\"rendering\":\"mci\",\"render\":{\"item_bytes\":64,"
                    "\"similar_tools\":0},"
                    "\"thresholds\":{\"flag\":0.25,\"block\":0.75}," ELEVEN_CHOICES "}",
                    tokenizer);
    expect_str(p->name, "n");
    assert_int_equal(p->version, 7);
    expect_str(p->before_body, "xy ");
    expect_str(p->after_body, " zP(");
    expect_str(p->prefix_text, "<|endoftext|>");
    assert_int_equal(p->prefix_ids.len, 1);
    assert_int_equal(p->suffix_ids.len, 0);
    assert_int_equal(p->rendering, GD_RENDER_MCI);
    assert_int_equal(p->budget.item_bytes, 64);
    assert_int_equal(p->budget.tool_bytes, 512);
    assert_int_equal(p->budget.catalog_bytes, 8192);
    assert_int_equal(p->budget.similar_tools, 0);
    assert_true(p->flag_threshold == 0.25 && p->block_threshold == 0.75);
    for (uint32_t i = 0; i < p->n_choices; i++) {
        struct gd_buf b;
        gd_buf_init(&b, 64);
        assert_true(gd_tokenizer_decode(tokenizer, p->choices[i].token, &b));
        assert_true(b.len == 1 && b.data[0] == p->choices[i].letter);
        gd_buf_free(&b);
    }
    gd_policy_close(p);
}

#define P(more)                                                                                    \
    "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES more "}"
#define Q(head, tail) "{\"name\":\"n\",\"version\":1," head "," tail "}"
#define CH(list)                                                                                   \
    "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\",\"choices\":[" list   \
    "]}"
#define A "{\"text\":\"A\",\"label\":\"true\"}"
#define B "{\"text\":\"B\",\"label\":\"data_injection\"}"

static void expect_refused(const char *json, const char *message)
{
    struct gd_policy *p = (struct gd_policy *)1;
    struct gd_err err = {0};
    const int rc = gd_policy_parse(&p, gd_str_from(json), NULL, tokenizer, &err);
    if (rc != GD_EPOLICY || err.code != GD_EPOLICY || p || !strstr(err.msg, message))
        fail_msg("%s: %d '%s', not '%s'", json, rc, err.msg, message);
}

static void test_refusals(void **state)
{
    (void)state;
    const struct {
        const char *json, *message;
    } cases[] = {
        {"", "invalid JSON"},
        {"[]", "must be a JSON object"},
        {P(",\"name\":\"m\""), "duplicate key"},
        {P(",\"colour\":1"), "unknown field 'colour'"},
        {P(",\"render\":{\"item_byte\":1}"), "unknown field 'render.item_byte'"},
        {P(",\"thresholds\":{\"warn\":1}"), "unknown field 'thresholds.warn'"},
        {P(",\"thresholds\":{\"flag\":\"x\"}"), "flag"},
        {P(",\"thresholds\":{\"flag\":1.5}"), "flag"},
        {P(",\"thresholds\":{\"flag\":0.6,\"block\":0.5}"), "must not be below"},
        {P(",\"thresholds\":3"), "'thresholds' must be an object"},
        {P(",\"render\":{\"item_bytes\":63}"), "item_bytes"},
        {P(",\"render\":{\"similar_tools\":65}"), "similar_tools"},
        {P(",\"render\":{\"notes\":1}"), "render.notes"},
        {P(",\"rendering\":\"mci\",\"render\":{\"notes\":true}"),
         "'render.notes' needs the rendering \"dialogue\""},
        {P(",\"rendering\":\"html\""), "'rendering' must be 'dialogue' or 'mci', is 'html'"},
        {P(",\"system\":\"s\""), "'system' needs a chat format"},
        {P(",\"bos\":3"), "'bos'"},
        {P(",\"bos\":\"<|nothing|>\""), "no special token '<|nothing|>'"},
        {P(",\"remove\":\"x\""), "'remove'"},
        {P(",\"remove\":[\"\"]"), "'remove'"},
        {P(",\"template_file\":\"x\""), "exactly one of 'template' and 'template_file'"},
        {P(",\"answer_prefix\":3"), "answer_prefix"},
        {"{\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}", "name"},
        {"{\"name\":\"a b\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES
         "}",
         "'name' must be printable"},
        {"{\"name\":\"n\",\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}",
         "'version' is missing"},
        {"{\"name\":\"n\",\"version\":0,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}",
         "version"},
        {Q("\"template\":\"{body}\"", TWO_CHOICES), "'chat' is missing"},
        {Q("\"chat\":\"mistral\",\"template\":\"{body}\"", TWO_CHOICES),
         "'chat' must be 'none' or 'llama3' or 'chatml', is"},
        {Q("\"chat\":\"llama3\",\"bos\":true,\"template\":\"{body}\"", TWO_CHOICES),
         "'bos' is for chat"},
        {Q("\"chat\":\"none\"", TWO_CHOICES), "exactly one of"},
        {Q("\"chat\":\"none\",\"template\":\"no place\"", TWO_CHOICES), "no {body}"},
        {Q("\"chat\":\"none\",\"template\":\"{body} {body}\"", TWO_CHOICES),
         "more than one {body}"},
        {Q("\"chat\":\"none\",\"template\":\"{bo\",\"remove\":[\"dy}\"]", TWO_CHOICES),
         "no {body}"},
        {Q("\"chat\":\"none\",\"template\":[\"a\",3]", TWO_CHOICES), "'template' must be"},
        {Q("\"chat\":\"none\",\"template\":{}", TWO_CHOICES), "'template' must be"},
        {Q("\"chat\":\"none\",\"template_file\":\"t.txt\"", TWO_CHOICES),
         "needs a policy that is a file"},
        {CH(A), "'choices' must be an array of 2 to 11"},
        {CH(B ",{\"text\":\"C\",\"label\":\"replay_function\"}"), "no choice for appropriate"},
        {CH(A ",{\"text\":\"C\",\"label\":\"Appropriate\"}"), "choices[1] repeats the label"},
        {CH(A ",{\"text\":\"C\",\"label\":\"arson\"}"), "choices[1].label must be one of the labels that /v1/taxonomy lists, is 'arson'"},
        {CH(A ",{\"text\":\"C\"}"), "choices[1] must be {text, label}"},
        {CH(A ",{\"text\":\"C\",\"label\":\"data_injection\",\"x\":1}"),
         "choices[1] must be {text, label}"},
        {CH(A ",{\"text\":\"A\",\"label\":\"data_injection\"}"), "are the same token"},
        {CH(A ",{\"text\":\"AB\",\"label\":\"data_injection\"}"), "'AB' is not exactly one token"},
        {CH(A ",{\"text\":\"\",\"label\":\"data_injection\"}"), "is not exactly one token"},
        {CH(A ",{\"text\":\"<|eot_id|>\",\"label\":\"data_injection\"}"),
         "is not exactly one token"},
        /* the prefix swallows the letter: "as" and "ist" are merged with what precedes them */
        {"{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\",\"answer_"
         "prefix\":\"h\",\"choices\":["
         "{\"text\":\"e\",\"label\":\"true\"}," B "]}",
         "'e' is not exactly one token"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i].json, cases[i].message);
}

#define POINTS(list) P(",\"operating_points\":[" list "]")
#define POINT(name) "{\"name\":\"" name "\",\"flag\":0.2,\"block\":0.7}"
#define NAMED(fields) POINTS("{\"name\":\"p\"," fields "}")
#define MEASURED(value) NAMED("\"flag\":0,\"block\":1,\"measured\":" value)
#define NAME_32 "abcdefghijklmnopqrstuvwxyz-_0189"

static void test_points(void **state)
{
    (void)state;
    struct gd_policy *p =
        make_policy(P(",\"thresholds\":{\"flag\":0.25,\"block\":0.75},\"operating_points\":["
                      "{\"name\":\"strict\",\"flag\":0.125,\"block\":0.625,\"measured\":"
                      "{\"recall\":0.95,\"false_positive_rate\":0.06,\"precision\":0.91}},"
                      "{\"block\":0.5,\"flag\":0.5,\"name\":\"" NAME_32 "\"},"
                      "{\"name\":\"7\",\"flag\":0,\"block\":1,\"measured\":"
                      "{\"precision\":0,\"recall\":1,\"false_positive_rate\":1}}]"),
                    tokenizer);
    assert_int_equal(p->n_points, 3);
    const struct gd_policy_point *a = &p->points[0], *b = &p->points[1], *c = &p->points[2];
    expect_str(a->name, "strict");
    assert_true(a->flag == 0.125 && a->block == 0.625 && a->measured);
    assert_true(a->precision == 0.91 && a->recall == 0.95 && a->false_positive_rate == 0.06);
    expect_str(b->name, NAME_32);
    assert_true(b->flag == 0.5 && b->block == 0.5 && !b->measured);
    assert_true(b->precision == 0 && b->recall == 0 && b->false_positive_rate == 0);
    expect_str(c->name, "7");
    assert_true(c->flag == 0 && c->block == 1 && c->measured);
    assert_true(c->precision == 0 && c->recall == 1 && c->false_positive_rate == 1);
    /* until one is chosen the thresholds count */
    assert_null(p->point);
    assert_true(p->flag_threshold == 0.25 && p->block_threshold == 0.75);
    gd_policy_close(p);
    p = make_policy(POINTS(POINT("a") "," POINT("b") "," POINT("c") "," POINT("d") "," POINT(
                        "e") "," POINT("f") "," POINT("g") "," POINT("h")),
                    tokenizer);
    assert_int_equal(p->n_points, GD_POLICY_POINTS_MAX);
    expect_str(p->points[GD_POLICY_POINTS_MAX - 1].name, "h");
    gd_policy_close(p);
}

static void test_points_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {P(",\"operating_points\":{}"), "'operating_points' must be an array of 1 to 8 objects"},
        {P(",\"operating_points\":null"), "'operating_points' must be an array of 1 to 8 objects"},
        {POINTS(""), "'operating_points' must be an array of 1 to 8 objects"},
        {POINTS(POINT("a") "," POINT("b") "," POINT("c") "," POINT("d") "," POINT("e") "," POINT(
             "f") "," POINT("g") "," POINT("h") "," POINT("i")),
         "'operating_points' must be an array of 1 to 8 objects"},
        {POINTS(POINT("a") ",3"), "'operating_points[1]' must be an object, is a number"},
        {POINTS("[]"), "'operating_points[0]' must be an object, is an array"},
        {POINTS("{\"flag\":0,\"block\":1}"),
         "'operating_points[0].name' must be a string, is missing"},
        {POINTS("{\"name\":7,\"flag\":0,\"block\":1}"),
         "'operating_points[0].name' must be a string, is a number"},
        {POINTS(POINT("")), "'operating_points[0].name' must be 1 to 32 of [a-z0-9_-]"},
        {POINTS(POINT(NAME_32 "x")), "'operating_points[0].name' must be 1 to 32 of [a-z0-9_-]"},
        {POINTS(POINT("Strict")), "'operating_points[0].name' must be 1 to 32 of [a-z0-9_-]"},
        {POINTS(POINT("a") "," POINT("a b")), "'operating_points[1].name' must be 1 to 32"},
        {POINTS(POINT("a\\u0000")), "'operating_points[0].name' must be 1 to 32"},
        {POINTS(POINT("caf\xC3\xA9")), "'operating_points[0].name' must be 1 to 32"},
        {POINTS(POINT("thresholds")), "'operating_points[0].name' must not be 'thresholds'"},
        {POINTS(POINT("a") "," POINT("a")), "'operating_points[1].name' repeats the name"},
        {POINTS(POINT("a") "," POINT("b") "," POINT("a")),
         "'operating_points[2].name' repeats the name of operating_points[0]: 'a'"},
        {NAMED("\"block\":1"),
         "'operating_points[0].flag' must be a number from 0 to 1, is missing"},
        {NAMED("\"flag\":0"),
         "'operating_points[0].block' must be a number from 0 to 1, is missing"},
        {NAMED("\"flag\":null,\"block\":1"),
         "'operating_points[0].flag' must be a number from 0 to 1, is null"},
        {NAMED("\"flag\":0,\"block\":\"1\""),
         "'operating_points[0].block' must be a number from 0 to 1, is a string"},
        {NAMED("\"flag\":-0.1,\"block\":1"),
         "'operating_points[0].flag' must be a number from 0 to 1, is -0.1"},
        {NAMED("\"flag\":0,\"block\":1.01"),
         "'operating_points[0].block' must be a number from 0 to 1, is 1.01"},
        {NAMED("\"flag\":0.6,\"block\":0.5"),
         "operating_points[0].block must not be below operating_points[0].flag"},
        {NAMED("\"flag\":0,\"block\":1,\"f1\":1"), "unknown field 'operating_points[0].f1'"},
        {NAMED("\"flag\":0,\"flag\":0,\"block\":1"), "duplicate key"},
        {MEASURED("null"), "'operating_points[0].measured' must be an object, is null"},
        {MEASURED("{}"),
         "'operating_points[0].measured.precision' must be a number from 0 to 1, is missing"},
        {MEASURED("{\"precision\":1,\"false_positive_rate\":0}"),
         "'operating_points[0].measured.recall' must be a number from 0 to 1, is missing"},
        {MEASURED("{\"precision\":1,\"recall\":1}"),
         "'operating_points[0].measured.false_positive_rate' must be a number from 0 to 1, is "
         "missing"},
        {MEASURED("{\"precision\":1,\"recall\":1.5,\"false_positive_rate\":0}"),
         "'operating_points[0].measured.recall' must be a number from 0 to 1, is 1.5"},
        {MEASURED("{\"precision\":1,\"recall\":1,\"false_positive_rate\":-1}"),
         "'operating_points[0].measured.false_positive_rate' must be a number from 0 to 1, is -1"},
        {MEASURED("{\"precision\":1,\"recall\":1,\"false_positive_rate\":0,\"f1\":1}"),
         "unknown field 'operating_points[0].measured.f1'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(cases[i].json, cases[i].message);
}

/* Refused, with the whole message, and nothing has changed. */
static void expect_no_point(struct gd_policy *p, const char *name, const char *message)
{
    const struct gd_policy before = *p;
    struct gd_err err = {0};
    assert_int_equal(gd_policy_operate(p, name, &err), GD_EPOLICY);
    assert_int_equal(err.code, GD_EPOLICY);
    assert_string_equal(err.msg, message);
    assert_ptr_equal(p->point, before.point);
    assert_true(p->flag_threshold == before.flag_threshold);
    assert_true(p->block_threshold == before.block_threshold);
}

static void test_operate(void **state)
{
    (void)state;
    struct gd_policy *p =
        make_policy(P(",\"operating_points\":[{\"name\":\"strict\",\"flag\":0.125,\"block\":0.625},"
                      "{\"name\":\"wide\",\"flag\":0.75,\"block\":0.875}]"),
                    tokenizer);
    expect_no_point(p, "str", "the policy n has no operating point 'str': it has strict, wide");
    expect_no_point(p, "thresholds",
                    "the policy n has no operating point 'thresholds': it has strict, wide");
    assert_int_equal(gd_policy_operate(p, "wide", NULL), GD_OK);
    assert_ptr_equal(p->point, &p->points[1]);
    assert_true(p->flag_threshold == 0.75 && p->block_threshold == 0.875);
    expect_no_point(p, "", "the policy n has no operating point '': it has strict, wide");
    assert_int_equal(gd_policy_operate(p, "strict", NULL), GD_OK);
    assert_ptr_equal(p->point, &p->points[0]);
    assert_true(p->flag_threshold == 0.125 && p->block_threshold == 0.625);
    gd_policy_close(p);
    p = make_policy(P(""), tokenizer);
    expect_no_point(p, "strict", "the policy n has no operating point 'strict': it has none");
    gd_policy_close(p);
    p = make_policy(NULL, tokenizer);
    expect_no_point(p, "strict", "the policy mcip has no operating point 'strict': it has none");
    gd_policy_close(p);
}

/* The longest list of names is shown whole. */
static void test_operate_lists_all(void **state)
{
    (void)state;
    char json[2048], want[GD_ERR_MSG_MAX];
    size_t n = (size_t)snprintf(
        json, sizeof json, "%s",
        "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES
        ",\"operating_points\":[");
    size_t m =
        (size_t)snprintf(want, sizeof want, "the policy n has no operating point 'x': it has ");
    for (int i = 0; i < GD_POLICY_POINTS_MAX; i++) {
        char name[33];
        memset(name, 'a' + i, sizeof name - 1);
        name[sizeof name - 1] = '\0';
        n += (size_t)snprintf(json + n, sizeof json - n,
                              "%s{\"name\":\"%s\",\"flag\":0,\"block\":1}", i ? "," : "", name);
        m += (size_t)snprintf(want + m, sizeof want - m, "%s%s", i ? ", " : "", name);
    }
    (void)snprintf(json + n, sizeof json - n, "]}");
    struct gd_policy *p = make_policy(json, tokenizer);
    expect_no_point(p, "x", want);
    gd_policy_close(p);
}

/* A tokenizer without the marks of a chat format. */
static void test_marks_must_exist(void **state)
{
    (void)state;
    struct gd_tokenizer *plain = NULL;
    struct gd_policy *p = NULL;
    struct gd_err err = {0};
    assert_int_equal(gd_tokenizer_open(&plain, "golden/tokenizer/gpt2.json", &err), GD_OK);
    assert_int_equal(gd_policy_open(&p, NULL, plain, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "built-in policy mcip"));
    assert_non_null(strstr(err.msg, "<|begin_of_text|>"));
    /* an added token that is not special is no mark */
    assert_int_equal(gd_policy_parse(&p, GD_STR(P(",\"bos\":\"<tool>\"")), NULL, plain, &err),
                     GD_EPOLICY);
    assert_non_null(strstr(err.msg, "no special token '<tool>'"));
    assert_int_equal(gd_policy_parse(&p, GD_STR(P(",\"bos\":\"<|begin|>\"")), NULL, plain, &err),
                     GD_OK);
    gd_policy_close(p);
    gd_tokenizer_close(plain);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* A published template: the first {body} counts, some text is deleted, white space at the ends goes. */
static void test_template_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/gd_policy_XXXXXX";
    char path[256];
    struct gd_policy *p = NULL;
    struct gd_err err = {0};
    assert_non_null(mkdtemp(dir));
    write_file(dir, "t.txt",
               "Definitions.\nAssistant:Chat:\n{body}\n\nQuestion {body}?\nAssistant: \n");
    write_file(dir, "p.json",
               "{\"name\":\"n\",\"version\":1,\"chat\":\"llama3\",\"template_file\":\"t.txt\","
               "\"remove\":[\"Assistant:\"]," TWO_CHOICES "}");
    write_file(dir, "missing.json",
               "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template_file\":\"none."
               "txt\"," TWO_CHOICES "}");
    write_file(dir, "latin1.txt", "caf\xE9 {body}");
    write_file(dir, "latin1.json",
               "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template_file\":\"latin1."
               "txt\"," TWO_CHOICES "}");
    snprintf(path, sizeof path, "%s/p.json", dir);
    if (gd_policy_open(&p, path, tokenizer, &err) != GD_OK)
        fail_msg("%s", err.msg);
    expect_str(p->before_body, "\n\nDefinitions.\nChat:\n");
    expect_str(p->after_body, "\n\nQuestion {body}?");
    gd_policy_close(p);
    snprintf(path, sizeof path, "%s/missing.json", dir);
    assert_int_equal(gd_policy_open(&p, path, tokenizer, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "none.txt"));
    snprintf(path, sizeof path, "%s/latin1.json", dir);
    assert_int_equal(gd_policy_open(&p, path, tokenizer, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "not valid UTF-8"));
    snprintf(path, sizeof path, "%s/absent.json", dir);
    assert_int_equal(gd_policy_open(&p, path, tokenizer, &err), GD_EIO);
    const char *const names[] = {"t.txt", "p.json", "missing.json", "latin1.txt", "latin1.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void expect_ids(struct gd_ids got, const int32_t *want, size_t n)
{
    assert_int_equal(got.len, n);
    assert_memory_equal(got.data, want, n * sizeof *want);
}

static void add_ids(struct gd_ids *ids, const struct gd_tokenizer *t, struct gd_str text)
{
    assert_int_equal(gd_tokenizer_encode(t, text, GD_SPECIALS_OFF, ids), GD_OK);
}

/* p and its twin are the same policy, loaded with tokenizers that differ in their pattern: only p's has
 * cuts. What is before the body must be the same text in both, and have the same ids whatever the body is.
 * `rest` begins what p keeps for each request. */
static void check_prefix(const struct gd_policy *p, const struct gd_policy *twin,
                         const struct gd_tokenizer *t, const char *rest)
{
    static const char *const bodies[] = {
        "", "USER: a\n", "\n", " x", "\xCC\x81\n", "'s\n", "123\n", "\xC2\xA0\n", "TOOL: f()\n"};
    const size_t moved = twin->before_body.len - p->before_body.len;
    assert_true(moved > 0 && moved < twin->before_body.len);
    assert_memory_equal(p->before_body.ptr, rest, strlen(rest));
    assert_int_equal(p->prefix_text.len, twin->prefix_text.len + moved);
    assert_memory_equal(p->prefix_text.ptr, twin->prefix_text.ptr, twin->prefix_text.len);
    assert_memory_equal(p->prefix_text.ptr + twin->prefix_text.len, twin->before_body.ptr, moved);
    assert_memory_equal(p->before_body.ptr, twin->before_body.ptr + moved, p->before_body.len);
    assert_true(gd_str_eq(p->after_body, twin->after_body));
    assert_true(gd_str_eq(p->suffix_text, twin->suffix_text));
    struct gd_ids head = {NULL, 0, 0};
    add_ids(&head, t, (struct gd_str){twin->before_body.ptr, moved});
    const size_t markers = p->prefix_ids.len - head.len;
    assert_memory_equal(p->prefix_ids.data + markers, head.data, head.len * sizeof *head.data);
    if (markers > 0)
        assert_true(gd_tokenizer_is_special(t, p->prefix_ids.data[markers - 1]));
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct gd_ids whole = {NULL, 0, 0};
        struct gd_ids parts = {NULL, 0, 0};
        struct gd_buf text;
        gd_buf_init(&text, 1 << 20);
        gd_buf_str(&text, twin->before_body);
        gd_buf_z(&text, bodies[i]);
        gd_buf_str(&text, p->after_body);
        add_ids(&whole, t, (struct gd_str){text.data, text.len});
        for (size_t k = markers; k < p->prefix_ids.len; k++)
            assert_int_equal(gd_ids_push(&parts, p->prefix_ids.data[k]), GD_OK);
        add_ids(&parts, t, (struct gd_str){text.data + moved, text.len - moved});
        expect_ids(parts, whole.data, whole.len);
        gd_ids_free(&whole);
        gd_ids_free(&parts);
        gd_buf_free(&text);
    }
    gd_ids_free(&head);
}

/* What does not depend on the body is encoded at load. */
static void test_prefix(void **state)
{
    (void)state;
    static const struct {
        const char *json, *rest;
    } cases[] = {
        {NULL, "K. Replay Injection: "},
        {Q("\"chat\":\"none\",\"template\":[\"One.\",\"Two\",\"Three: {body}\",\"Which?\"]",
           TWO_CHOICES),
         "Three: "},
        {Q("\"chat\":\"none\",\"bos\":true,\"template\":[\"One.\",\"Two\",\"\",\"Three: {body}\"]",
           TWO_CHOICES),
         "Two\n\nThree: "},
        {Q("\"chat\":\"llama3\",\"system\":\"Be\\nKind\",\"template\":[\"One.\",\"Two\",\"### "
           "{body}\"]",
           TWO_CHOICES),
         "Two\n### "},
        {Q("\"chat\":\"chatml\",\"template\":\"One. {body}\"", TWO_CHOICES), "One. "},
        {Q("\"chat\":\"chatml\",\"system\":\"s\",\"template\":\"One.\\nt{body}\"", TWO_CHOICES),
         "t"},
    };
    struct gd_tokenizer *t = tiny_llama_tokenizer();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gd_policy *p = make_policy(cases[i].json, t);
        struct gd_policy *twin = make_policy(cases[i].json, tokenizer);
        check_prefix(p, twin, t, cases[i].rest);
        gd_policy_close(p);
        gd_policy_close(twin);
    }
    /* a body right after a line break: what is behind it is not known */
    struct gd_policy *p =
        make_policy(Q("\"chat\":\"none\",\"template\":\"One.\\n{body}\"", TWO_CHOICES), t);
    expect_str(p->before_body, "One.\n");
    assert_int_equal(p->prefix_ids.len, 0);
    gd_policy_close(p);
    gd_tokenizer_close(t);
}

/* after_body counts as the tokenizer's normaliser leaves it. */
static void test_after_bytes(void **state)
{
    (void)state;
    static const char json[] =
        Q("\"chat\":\"none\",\"template\":\"{body}e\\u0301 \\u0958 \\u212B\\n\"", TWO_CHOICES);
    struct gd_tokenizer *nfc = NULL;
    assert_int_equal(gd_tokenizer_open(&nfc, "golden/tokenizer/digits1_nfc.json", NULL), GD_OK);
    struct gd_policy *p = make_policy(json, tokenizer);
    assert_int_equal(p->after_body.len, 3 + 1 + 3 + 1 + 3 + 1);
    assert_int_equal(p->after_bytes, p->after_body.len);
    gd_policy_close(p);
    p = make_policy(json, nfc);
    assert_int_equal(p->after_body.len, 3 + 1 + 3 + 1 + 3 + 1);
    assert_int_equal(p->after_bytes, 2 + 1 + 6 + 1 + 2 + 1);
    gd_policy_close(p);
    gd_tokenizer_close(nfc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_built_in),          cmocka_unit_test(test_fields),
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_marks_must_exist),
        cmocka_unit_test(test_template_file),     cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_after_bytes),       cmocka_unit_test(test_points),
        cmocka_unit_test(test_points_refused),    cmocka_unit_test(test_operate),
        cmocka_unit_test(test_operate_lists_all),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
