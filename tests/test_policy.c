/* test_policy.c - policies: the built-in one, every field and its refusals, templates from files, and choices that are
 * exactly one token. */
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
        /* the definition of each letter is in the text before the body, which is the shared prefix */
        snprintf(name, sizeof name, "\n%c. %s: ", (char)('A' + i), info->name);
        assert_non_null(memmem(p->before_body.ptr, p->before_body.len, name, strlen(name)));
    }
    assert_true(p->after_body.len < 200);
    assert_true(p->flag_threshold <= p->block_threshold);
    gd_policy_close(p);
}

static void test_fields(void **state)
{
    (void)state;
    struct gd_policy *p = make_policy(
        "{\"name\":\"n\",\"version\":7,\"chat\":\"none\",\"bos\":\"<|endoftext|>\",\"template\":\"xATyA {body} zA\",\"remove\":[\"A\",\"T\"],"
        "\"answer_prefix\":\"P(\",\"rendering\":\"mci\",\"render\":{\"item_bytes\":64,\"similar_tools\":0},"
        "\"thresholds\":{\"flag\":0.25,\"block\":0.75}," ELEVEN_CHOICES "}", tokenizer);
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

#define P(more) "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES more "}"
#define Q(head, tail) "{\"name\":\"n\",\"version\":1," head "," tail "}"
#define CH(list) "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\",\"choices\":[" list "]}"
#define A "{\"text\":\"A\",\"label\":\"true\"}"
#define B "{\"text\":\"B\",\"label\":\"data_injection\"}"

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
        {P(",\"rendering\":\"html\""), "'rendering' has the unknown value 'html'"},
        {P(",\"system\":\"s\""), "'system' needs a chat format"},
        {P(",\"bos\":3"), "'bos'"},
        {P(",\"bos\":\"<|nothing|>\""), "no special token '<|nothing|>'"},
        {P(",\"remove\":\"x\""), "'remove'"},
        {P(",\"remove\":[\"\"]"), "'remove'"},
        {P(",\"template_file\":\"x\""), "exactly one of 'template' and 'template_file'"},
        {P(",\"answer_prefix\":3"), "answer_prefix"},
        {"{\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}", "name"},
        {"{\"name\":\"a b\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}", "'name' must be printable"},
        {"{\"name\":\"n\",\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}", "'version' is missing"},
        {"{\"name\":\"n\",\"version\":0,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES "}", "version"},
        {Q("\"template\":\"{body}\"", TWO_CHOICES), "'chat' is missing"},
        {Q("\"chat\":\"mistral\",\"template\":\"{body}\"", TWO_CHOICES), "'chat' has the unknown value"},
        {Q("\"chat\":\"llama3\",\"bos\":true,\"template\":\"{body}\"", TWO_CHOICES), "'bos' is for chat"},
        {Q("\"chat\":\"none\"", TWO_CHOICES), "exactly one of"},
        {Q("\"chat\":\"none\",\"template\":\"no place\"", TWO_CHOICES), "no {body}"},
        {Q("\"chat\":\"none\",\"template\":\"{body} {body}\"", TWO_CHOICES), "more than one {body}"},
        {Q("\"chat\":\"none\",\"template\":\"{bo\",\"remove\":[\"dy}\"]", TWO_CHOICES), "no {body}"},
        {Q("\"chat\":\"none\",\"template\":[\"a\",3]", TWO_CHOICES), "'template' must be"},
        {Q("\"chat\":\"none\",\"template\":{}", TWO_CHOICES), "'template' must be"},
        {Q("\"chat\":\"none\",\"template_file\":\"t.txt\"", TWO_CHOICES), "needs a policy that is a file"},
        {CH(A), "'choices' must be an array of 2 to 11"},
        {CH(B ",{\"text\":\"C\",\"label\":\"replay_function\"}"), "no choice for appropriate"},
        {CH(A ",{\"text\":\"C\",\"label\":\"Appropriate\"}"), "choices[1] repeats the label"},
        {CH(A ",{\"text\":\"C\",\"label\":\"arson\"}"), "choices[1].label is unknown: 'arson'"},
        {CH(A ",{\"text\":\"C\"}"), "choices[1] must be {text, label}"},
        {CH(A ",{\"text\":\"C\",\"label\":\"data_injection\",\"x\":1}"), "choices[1] must be {text, label}"},
        {CH(A ",{\"text\":\"A\",\"label\":\"data_injection\"}"), "are the same token"},
        {CH(A ",{\"text\":\"AB\",\"label\":\"data_injection\"}"), "'AB' is not exactly one token"},
        {CH(A ",{\"text\":\"\",\"label\":\"data_injection\"}"), "is not exactly one token"},
        {CH(A ",{\"text\":\"<|eot_id|>\",\"label\":\"data_injection\"}"), "is not exactly one token"},
        /* the prefix swallows the letter: "as" and "ist" are merged with what precedes them */
        {"{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\",\"answer_prefix\":\"h\",\"choices\":["
         "{\"text\":\"e\",\"label\":\"true\"}," B "]}", "'e' is not exactly one token"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gd_policy *p = (struct gd_policy *)1;
        struct gd_err err = {0};
        const int rc = gd_policy_parse(&p, gd_str_from(cases[i].json), NULL, tokenizer, &err);
        if (rc != GD_EPOLICY || err.code != GD_EPOLICY || p || !strstr(err.msg, cases[i].message))
            fail_msg("%s: %d '%s', not '%s'", cases[i].json, rc, err.msg, cases[i].message);
    }
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
    assert_int_equal(gd_policy_parse(&p, GD_STR(P(",\"bos\":\"<tool>\"")), NULL, plain, &err), GD_EPOLICY);
    assert_non_null(strstr(err.msg, "no special token '<tool>'"));
    assert_int_equal(gd_policy_parse(&p, GD_STR(P(",\"bos\":\"<|begin|>\"")), NULL, plain, &err), GD_OK);
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
    write_file(dir, "t.txt", "Definitions.\nAssistant:Chat:\n{body}\n\nQuestion {body}?\nAssistant: \n");
    write_file(dir, "p.json", "{\"name\":\"n\",\"version\":1,\"chat\":\"llama3\",\"template_file\":\"t.txt\",\"remove\":[\"Assistant:\"]," TWO_CHOICES "}");
    write_file(dir, "missing.json", "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template_file\":\"none.txt\"," TWO_CHOICES "}");
    write_file(dir, "latin1.txt", "caf\xE9 {body}");
    write_file(dir, "latin1.json", "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template_file\":\"latin1.txt\"," TWO_CHOICES "}");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_built_in),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_marks_must_exist),
        cmocka_unit_test(test_template_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
