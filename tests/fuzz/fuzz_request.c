/* fuzz_request.c - libFuzzer driver of a request's way to a prompt: JSON, trajectory, rendering, ids. The
 * first byte selects policy and context. Checked:
 *   - a refusal has a message and a documented code; a second run gives the same;
 *   - indices of events, calls and tools are in range; phase and step agree with the events;
 *   - the body has only lines that begin with our markers, and no control character; each event has its
 *     line;
 *   - the special tokens of the prompt are those of the policy, its ids fit the context, and decode to its
 *     text;
 *   - what may be kept of it is the policy's prefix at least, and ends with the body at the latest, but not
 *     earlier;
 *   - events left out are never hidden: truncated says so and the verdict of calm scores is not allow. */
#include "check.h"
#include "guardian/prompt.h"
#include "guardian/verdict.h"

#include <string.h>

#define CONTEXT_LARGE 1000000u
#define CONTEXT_SMALL 160u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHOICES(notes)                                                                             \
    "\"choices\":[{\"text\":\"A\",\"label\":\"true\"},{\"text\":\"B\",\"label\":\"replay_"         \
    "function\"}],"                                                                                \
    "\"render\":{\"item_bytes\":64,\"tool_bytes\":64,\"catalog_bytes\":200,\"similar_tools\":2,"   \
    "\"notes\":" notes "}}"

static const char *const policies[] = {
    "{\"name\":\"n\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," CHOICES("true"),
    "{\"name\":\"n\",\"version\":1,\"chat\":\"llama3\",\"template\":\"Read:\\n{body}\\n\\nWhich?"
    "\"," CHOICES("false"),
    "{\"name\":\"n\",\"version\":1,\"chat\":\"chatml\",\"template\":\"{body}\",\"rendering\":"
    "\"mci\"," CHOICES("false"),
};
#define N_POLICIES 3

static struct gd_tokenizer *tokenizer;
static struct gd_policy *loaded[N_POLICIES];

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
    for (int i = 0; i < N_POLICIES; i++)
        GD_ASSERT(gd_policy_parse(&loaded[i], gd_str_from(policies[i]), NULL, tokenizer, &err) ==
                  GD_OK);
    return 0;
}

static bool begins(const char *line, const char *marker)
{
    return strncmp(line, marker, strlen(marker)) == 0;
}

static bool is_ours(const char *line, bool mci)
{
    if (begins(line, "TOOL: ") || begins(line, "TOOLS: ") || begins(line, "["))
        return true;
    if (!mci)
        return begins(line, "SYSTEM: ") || begins(line, "USER: ") || begins(line, "ASSISTANT: ") ||
               begins(line, "NOTE: ") || begins(line, "FUNCTION RESPONSE");
    size_t digits = strspn(line, "0123456789");
    return begins(line, "   Type: ") || begins(line, "   Principle: ") ||
           (digits && begins(line + digits, ". "));
}

/* Lines that events must have given, and no others than those and the announcements of tools. */
static void check_body(const struct gd_trajectory *t, const struct gd_prompt *p, const char *body,
                       const char *end, bool mci)
{
    uint32_t lines = 0;
    uint32_t calls = 0;
    uint32_t expected = 0;
    for (const char *line = body; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        GD_ASSERT(stop && is_ours(line, mci));
        for (const char *s = line; s < stop; s++)
            GD_ASSERT((unsigned char)*s >= 0x20 && *s != 0x7F);
        lines += !begins(line, "TOOL") && !begins(line, "[") && !begins(line, "NOTE: ");
        calls += begins(line, "ASSISTANT: <functioncall> ");
        line = stop + 1;
    }
    uint32_t n_calls = 0;
    for (uint32_t i = 0; i < t->n_events; i++) {
        const enum gd_event_kind kind = t->events[i].kind;
        n_calls += kind == GD_EVENT_CALL;
        expected += kind == GD_EVENT_CALL || kind == GD_EVENT_RESULT;
    }
    GD_ASSERT(p->truncated == (p->n_omitted > 0) && p->n_omitted < t->n_events);
    if (!p->truncated) {
        GD_ASSERT(lines >= (mci ? 3 * expected : expected));
        GD_ASSERT(lines <=
                  (mci ? 3 : 1) *
                      (t->n_events + n_calls)); /* a call may have a line for its missing answer */
        GD_ASSERT(mci || calls == n_calls);
    }
}

static size_t count_specials(const struct gd_ids *ids)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->len; i++)
        n += gd_tokenizer_is_special(tokenizer, ids->data[i]);
    return n;
}

static void check_prompt(const struct gd_policy *p, const struct gd_trajectory *t,
                         const struct gd_prompt *prompt, uint32_t context)
{
    const size_t before = p->prefix_text.len + p->before_body.len;
    const size_t after = p->suffix_text.len + p->after_body.len;
    const char *text = prompt->text.data;
    GD_ASSERT(prompt->ids.len <= context && prompt->text.len >= before + after);
    check_body(t, prompt, text + before, text + prompt->text.len - after,
               p->rendering == GD_RENDER_MCI);
    GD_ASSERT(count_specials(&prompt->ids) ==
              count_specials(&p->prefix_ids) + count_specials(&p->suffix_ids));
    GD_ASSERT(prompt->n_shared == p->prefix_ids.len && prompt->n_shared <= prompt->n_keep);
    struct gd_buf decoded;
    gd_buf_init(&decoded, GD_PROMPT_BYTES_MAX);
    for (size_t i = 0; i < prompt->ids.len; i++) {
        GD_ASSERT(i != prompt->n_keep || i == p->prefix_ids.len ||
                  decoded.len <= prompt->text.len - after);
        GD_ASSERT(gd_tokenizer_decode(tokenizer, prompt->ids.data[i], &decoded));
        GD_ASSERT(i != prompt->n_keep || decoded.len > prompt->text.len - after);
    }
    GD_ASSERT(decoded.len == prompt->text.len && memcmp(decoded.data, text, decoded.len) == 0);
    gd_buf_free(&decoded);
}

static void check_verdict(const struct gd_policy *p, const struct gd_trajectory *t,
                          const struct gd_prompt *prompt)
{
    const float calm[2] = {10, -10};
    const float alarm[2] = {-10, 10};
    const uint32_t doubts = GD_TRAJ_F_DUPKEY | GD_TRAJ_F_BADUTF8 | GD_TRAJ_F_DOUBT;
    struct gd_verdict v;
    GD_ASSERT(gd_verdict_make(p, t, prompt->truncated, calm, NULL, &v) == GD_OK);
    GD_ASSERT((v.action == GD_ACTION_ALLOW) == (!prompt->truncated && !(t->flags & doubts)));
    GD_ASSERT(gd_verdict_make(p, t, prompt->truncated, alarm, NULL, &v) == GD_OK);
    GD_ASSERT(v.action == GD_ACTION_BLOCK);
}

/* One way through; returns its code and leaves the prompt's text in *text. */
static int run(const struct gd_policy *p, uint32_t context, struct gd_str json, struct gd_buf *text)
{
    struct gd_arena arena;
    struct gd_trajectory t;
    struct gd_prompt prompt;
    struct gd_err err = {0};
    const struct gd_json *v = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    int rc = gd_json_parse(&arena, json, &GD_JSON_REQUEST_LIMITS, &v, &err);
    if (rc == GD_OK)
        rc = gd_trajectory_parse(&arena, v, &t, &err);
    if (rc == GD_OK) {
        check_trajectory(&t);
        rc = gd_prompt_build(p, tokenizer, &t, context, &arena, &prompt, &err);
    }
    if (rc == GD_OK) {
        check_prompt(p, &t, &prompt, context);
        check_verdict(p, &t, &prompt);
        gd_buf_add(text, prompt.text.data, prompt.text.len);
        gd_prompt_free(&prompt);
    } else {
        GD_ASSERT(rc == GD_EJSON || rc == GD_EFIELD || rc == GD_ELIMIT);
        GD_ASSERT(err.code == rc && err.msg[0]);
    }
    gd_arena_free(&arena);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const struct gd_policy *p = loaded[data[0] % N_POLICIES];
    const uint32_t context = data[0] & 0x80 ? CONTEXT_SMALL : CONTEXT_LARGE;
    const struct gd_str json = {(const char *)data + 1, size - 1};
    struct gd_buf first;
    struct gd_buf second;
    gd_buf_init(&first, GD_PROMPT_BYTES_MAX);
    gd_buf_init(&second, GD_PROMPT_BYTES_MAX);
    const int rc = run(p, context, json, &first);
    GD_ASSERT(run(p, context, json, &second) == rc && first.len == second.len);
    GD_ASSERT(first.len == 0 || memcmp(first.data, second.data, first.len) == 0);
    gd_buf_free(&first);
    gd_buf_free(&second);
    return 0;
}
