/* guard_case.h - what the tests of the guard share: the tiny tokenizer, policies, and a request carried to
 * its trajectory and prompt. Include after cmocka.h. */
#ifndef GUARDIAN_TESTS_GUARD_CASE_H
#define GUARDIAN_TESTS_GUARD_CASE_H

#include "guardian/prompt.h"

#include <string.h>

#define TINY_MODEL "golden/models/qwen2_f16"

#define TWO_CHOICES                                                                                \
    "\"choices\":[{\"text\":\"A\",\"label\":\"true\"},{\"text\":\"B\",\"label\":\"replay_"         \
    "function\"}]"
#define ELEVEN_CHOICES                                                                             \
    "\"choices\":[{\"text\":\"A\",\"label\":\"appropriate\"},"                                     \
    "{\"text\":\"B\",\"label\":\"function_overlapping\"},"                                         \
    "{\"text\":\"C\",\"label\":\"excessive_privileges_overlapping\"},"                             \
    "{\"text\":\"D\",\"label\":\"function_dependency_injection\"},"                                \
    "{\"text\":\"E\",\"label\":\"function_injection\"},"                                           \
    "{\"text\":\"F\",\"label\":\"causal_dependency_injection\"},"                                  \
    "{\"text\":\"G\",\"label\":\"wrong_function_intent_injection\"},"                              \
    "{\"text\":\"H\",\"label\":\"wrong_arguments_intent_injection\"},"                             \
    "{\"text\":\"I\",\"label\":\"data_injection\"},"                                               \
    "{\"text\":\"J\",\"label\":\"identity_injection\"},"                                           \
    "{\"text\":\"K\",\"label\":\"replay_injection\"}]"
/* The body and nothing else. */
#define BARE                                                                                       \
    "{\"name\":\"bare\",\"version\":1,\"chat\":\"none\",\"template\":\"{body}\"," TWO_CHOICES

/* A whole file, zero-terminated, to be freed. */
static inline char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("cannot open %s", path);
    const size_t max = 1 << 20;
    char *data = calloc(1, max);
    assert_non_null(data);
    const size_t n = fread(data, 1, max - 1, f);
    assert_true(n > 0 && n < max - 1);
    fclose(f);
    return data;
}

/* The tiny tokenizer's pattern, as its file has it, and that of Llama-3. */
#define TINY_PATTERN                                                                               \
    "\" ?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+\""
#define LLAMA3_PATTERN                                                                             \
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"         \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\""

/* A tokenizer.json with one text in it, which must be there, replaced. */
static inline struct gd_tokenizer *changed_tokenizer(const char *path, const char *from,
                                                     const char *to)
{
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    struct gd_buf b;
    char *text = read_text(path);
    char *at = strstr(text, from);
    assert_non_null(at);
    gd_buf_init(&b, 2 << 20);
    gd_buf_add(&b, text, (size_t)(at - text));
    gd_buf_z(&b, to);
    gd_buf_z(&b, at + strlen(from));
    if (gd_tokenizer_parse(&t, (struct gd_str){b.data, b.len}, &err) != GD_OK)
        fail_msg("%s", err.msg);
    gd_buf_free(&b);
    free(text);
    return t;
}

static inline struct gd_tokenizer *tiny_llama_tokenizer(void)
{
    return changed_tokenizer(TINY_MODEL "/tokenizer.json", TINY_PATTERN, LLAMA3_PATTERN);
}

static inline struct gd_tokenizer *tiny_tokenizer(void)
{
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    if (gd_tokenizer_open(&t, TINY_MODEL "/tokenizer.json", &err) != GD_OK)
        fail_msg("%s", err.msg);
    return t;
}

/* A policy from its JSON; NULL: the built-in one. */
static inline struct gd_policy *make_policy(const char *json, const struct gd_tokenizer *t)
{
    struct gd_policy *p = NULL;
    struct gd_err err = {0};
    const int rc = json ? gd_policy_parse(&p, gd_str_from(json), NULL, t, &err)
                        : gd_policy_open(&p, NULL, t, &err);
    if (rc != GD_OK)
        fail_msg("%s", err.msg);
    return p;
}

struct guard_case {
    struct gd_arena arena;
    struct gd_trajectory traj;
    struct gd_prompt prompt;
    struct gd_err err;
    int rc;
};

/* Request text to trajectory; c->rc and c->err say how it went. */
static inline void case_parse(struct guard_case *c, const char *request)
{
    const struct gd_json *v = NULL;
    memset(c, 0, sizeof *c);
    gd_arena_init(&c->arena, GD_REQUEST_ARENA_BYTES);
    c->rc = gd_json_parse(&c->arena, gd_str_from(request), &GD_JSON_REQUEST_LIMITS, &v, &c->err);
    if (c->rc != GD_OK)
        fail_msg("the test's request is not JSON: %s\n%s", c->err.msg, request);
    c->rc = gd_trajectory_parse(&c->arena, v, &c->traj, &c->err);
}

/* Request text to prompt. */
static inline void case_prompt(struct guard_case *c, const struct gd_policy *p,
                               const struct gd_tokenizer *t, const char *request, uint32_t context)
{
    case_parse(c, request);
    if (c->rc == GD_OK)
        c->rc = gd_prompt_build(p, t, &c->traj, context, &c->arena, &c->prompt, &c->err);
}

static inline void case_free(struct guard_case *c)
{
    gd_prompt_free(&c->prompt);
    gd_arena_free(&c->arena);
}

#endif
