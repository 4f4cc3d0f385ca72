/* fuzz_policy.c - libFuzzer driver of policy files. The first byte chooses the text: the rest as it is; the
 * built-in policy with bytes changed (position and value pairs); or a small policy of which one member is
 * the rest. For every input:
 *   - what is accepted keeps the promises of policy.h: thresholds and operating points in range and in
 *     order, labels none twice and one appropriate, each choice one token of the vocabulary, the ids of
 *     prefix and suffix those of their texts, budgets in their bounds;
 *   - each operating point can be chosen and then counts, no other name can, and a refusal changes nothing;
 *   - what is refused is GD_EPOLICY with a message in UTF-8; a second reading gives the same. */
#include "check.h"
#include "guardian/policy.h"

#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

extern const unsigned char gd_policy_mcip_json[];
extern const size_t gd_policy_mcip_json_len;

#define CHOICES                                                                                    \
    "\"choices\":[{\"text\":\"A\",\"label\":\"appropriate\"},{\"text\":\"B\",\"label\":\"data_"    \
    "injection\"}]"
#define TEMPLATE "\"template\":\"Read {body} now\""
#define HEAD "{\"name\":\"n\",\"version\":1,"

/* Member = the input; an empty one is put whole. */
static const struct {
    const char *before, *after;
} FRAMES[] = {
    {HEAD "\"chat\":\"none\"," TEMPLATE "," CHOICES ",\"operating_points\":", "}"},
    {HEAD "\"chat\":\"none\"," TEMPLATE ",\"choices\":", "}"},
    {HEAD "\"chat\":\"chatml\",\"system\":\"s\"," CHOICES ",\"template\":", "}"},
    {HEAD "\"chat\":\"llama3\"," TEMPLATE "," CHOICES ",\"answer_prefix\":", "}"},
    {HEAD "\"chat\":\"none\"," TEMPLATE "," CHOICES ",\"bos\":", "}"},
    {HEAD "\"chat\":\"none\"," TEMPLATE "," CHOICES ",\"render\":", "}"},
    {HEAD "\"chat\":\"none\"," TEMPLATE "," CHOICES ",\"thresholds\":", "}"},
    {HEAD "\"chat\":\"llama3\"," TEMPLATE "," CHOICES ",\"system\":", "}"},
    {HEAD "\"chat\":\"none\"," TEMPLATE "," CHOICES ",\"remove\":", "}"},
    {HEAD "\"chat\":\"none\"," TEMPLATE "," CHOICES ",", "}"},
};
#define N_FRAMES (sizeof FRAMES / sizeof FRAMES[0])

static struct gd_tokenizer *tokenizer;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    const char *tests = getenv("GUARDIAN_TESTS");
    char path[512];
    struct gd_err err = {0};
    snprintf(path, sizeof path, "%s/golden/models/qwen2_f16/tokenizer.json", tests ? tests : ".");
    if (gd_tokenizer_open(&tokenizer, path, &err) != GD_OK) {
        fprintf(stderr, "%s: set GUARDIAN_TESTS to the directory tests\n", err.msg);
        exit(1);
    }
    return 0;
}

static bool in_order(double flag, double block)
{
    return flag >= 0 && flag <= block && block <= 1;
}

static void check_ids(const struct gd_ids *ids, struct gd_str text)
{
    struct gd_buf b;
    gd_buf_init(&b, GD_GIB);
    for (size_t i = 0; i < ids->len; i++)
        GD_ASSERT(gd_tokenizer_decode(tokenizer, ids->data[i], &b));
    GD_ASSERT(b.len == text.len && (b.len == 0 || memcmp(b.data, text.ptr, b.len) == 0));
    gd_buf_free(&b);
}

static void check_choices(const struct gd_policy *p)
{
    uint32_t appropriate = 0;
    GD_ASSERT(p->n_choices >= 2 && p->n_choices <= GD_LABEL_COUNT);
    for (uint32_t i = 0; i < p->n_choices; i++) {
        const struct gd_policy_choice *c = &p->choices[i];
        struct gd_buf b;
        GD_ASSERT(c->letter == (char)('A' + (int)i) && c->label >= 0 && c->label < GD_LABEL_COUNT);
        gd_buf_init(&b, GD_MIB);
        GD_ASSERT(gd_tokenizer_decode(tokenizer, c->token, &b) && b.len > 0);
        GD_ASSERT(gd_tokenizer_is_special(tokenizer, c->token) == false);
        gd_buf_free(&b);
        check_utf8(c->text);
        appropriate += c->label == GD_LABEL_APPROPRIATE;
        for (uint32_t k = 0; k < i; k++)
            GD_ASSERT(p->choices[k].label != c->label && p->choices[k].token != c->token);
    }
    GD_ASSERT(appropriate == 1);
}

static void check_points(struct gd_policy *p)
{
    const double flag = p->flag_threshold, block = p->block_threshold;
    struct gd_err err = {0};
    GD_ASSERT(p->n_points <= GD_POLICY_POINTS_MAX && p->point == NULL);
    GD_ASSERT(gd_policy_operate(p, "thresholds", &err) == GD_EPOLICY && p->point == NULL);
    check_message(&err);
    GD_ASSERT(p->flag_threshold == flag && p->block_threshold == block);
    for (uint32_t i = 0; i < p->n_points; i++) {
        const struct gd_policy_point *o = &p->points[i];
        char name[64];
        GD_ASSERT(o->name.len > 0 && o->name.len < sizeof name && in_order(o->flag, o->block));
        GD_ASSERT(o->precision >= 0 && o->precision <= 1 && o->recall >= 0 && o->recall <= 1);
        GD_ASSERT(o->false_positive_rate >= 0 && o->false_positive_rate <= 1);
        GD_ASSERT(o->measured || o->precision + o->recall + o->false_positive_rate == 0);
        memcpy(name, o->name.ptr, o->name.len);
        name[o->name.len] = '\0';
        GD_ASSERT(gd_policy_operate(p, name, &err) == GD_OK && p->point == o);
        GD_ASSERT(p->flag_threshold == o->flag && p->block_threshold == o->block);
        name[0] = '!';
        GD_ASSERT(gd_policy_operate(p, name, &err) == GD_EPOLICY && p->point == o);
        GD_ASSERT(p->flag_threshold == o->flag && p->block_threshold == o->block);
    }
}

static void check_accepted(struct gd_policy *p)
{
    const struct gd_render_budget *b = &p->budget;
    GD_ASSERT(p->name.len > 0 && p->name.len <= 64 && p->version >= 1);
    GD_ASSERT(in_order(p->flag_threshold, p->block_threshold));
    GD_ASSERT(b->item_bytes >= 64 && b->tool_bytes >= 64 &&
              b->similar_tools <= GD_POLICY_SIMILAR_TOOLS_MAX);
    GD_ASSERT(!b->notes || p->rendering == GD_RENDER_DIALOGUE);
    GD_ASSERT(p->chat != GD_CHAT_NONE || (p->system.len == 0 && p->suffix_ids.len == 0));
    GD_ASSERT(p->chat == GD_CHAT_NONE || p->bos.len == 0);
    const struct gd_str texts[] = {p->name,          p->system,      p->bos,
                                   p->answer_prefix, p->before_body, p->after_body};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        check_utf8(texts[i]);
    check_ids(&p->prefix_ids, p->prefix_text);
    check_ids(&p->suffix_ids, p->suffix_text);
    check_choices(p);
    check_points(p);
}

static void check_same(const struct gd_policy *p, const struct gd_policy *q)
{
    GD_ASSERT(p->prefix_ids.len == q->prefix_ids.len && gd_str_eq(p->before_body, q->before_body));
    GD_ASSERT(gd_str_eq(p->after_body, q->after_body) && p->n_choices == q->n_choices &&
              p->n_points == q->n_points);
}

static void check(struct gd_str json)
{
    struct gd_policy *p = NULL, *again = NULL;
    struct gd_err err = {0}, second = {0};
    const int rc = gd_policy_parse(&p, json, NULL, tokenizer, &err);
    GD_ASSERT((rc == GD_OK) == (p != NULL));
    if (rc != GD_OK) {
        GD_ASSERT(rc == GD_EPOLICY && err.code == rc);
        check_message(&err);
        return;
    }
    GD_ASSERT(gd_policy_parse(&again, json, NULL, tokenizer, &second) == GD_OK);
    check_same(p, again);
    check_accepted(p);
    gd_policy_close(again);
    gd_policy_close(p);
}

static void check_changed(const uint8_t *data, size_t size)
{
    char *changed = malloc(gd_policy_mcip_json_len);
    GD_ASSERT(changed);
    memcpy(changed, gd_policy_mcip_json, gd_policy_mcip_json_len);
    for (size_t i = 0; i + 3 <= size; i += 3)
        changed[((size_t)data[i] << 8 | data[i + 1]) % gd_policy_mcip_json_len] = (char)data[i + 2];
    check((struct gd_str){changed, gd_policy_mcip_json_len});
    free(changed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const struct gd_str rest = {(const char *)data + 1, size - 1};
    const unsigned kind = data[0] % (N_FRAMES + 2);
    if (kind == N_FRAMES) {
        check(rest);
    } else if (kind == N_FRAMES + 1) {
        check_changed(data + 1, size - 1);
    } else {
        struct gd_buf b;
        gd_buf_init(&b, GD_GIB);
        gd_buf_z(&b, FRAMES[kind].before);
        gd_buf_str(&b, rest);
        gd_buf_z(&b, FRAMES[kind].after);
        GD_ASSERT(!b.failed);
        check((struct gd_str){b.data, b.len});
        gd_buf_free(&b);
    }
    return 0;
}
