/* policy_chat.c - chat formats as ids, and choices as tokens. See policy_chat.h and
 * guardian/policy.h.
 *
 * A chat format is a list of segments, each a special token or a run of text. Special tokens are
 * looked up by name, never matched in text, and no text may encode to a special id. */
#include "policy_chat.h"
#include "text.h"

#include <string.h>

struct assembly {
    struct gd_policy *p;
    const struct gd_tokenizer *t;
    struct gd_err *err;
    struct gd_ids *ids; /* where segments go */
    struct gd_buf text; /* the same for display */
    int rc;             /* first failure; later segments do nothing */
};

static void put_marker(struct assembly *s, struct gd_str marker)
{
    if (s->rc != GD_OK)
        return;
    const int32_t id = gd_tokenizer_added_id(s->t, marker);
    if (id < 0 || !gd_tokenizer_is_special(s->t, id)) {
        s->rc = gd_err_set(
            s->err, GD_EPOLICY,
            "the tokenizer has no special token '%.*s', which the policy '%.*s' needs",
            gd_text_shown(marker), marker.ptr, gd_text_shown(s->p->name), s->p->name.ptr);
        return;
    }
    gd_buf_str(&s->text, marker);
    s->rc = gd_ids_push(s->ids, id);
}

static int encode_text(const struct assembly *s, struct gd_str text, struct gd_ids *ids)
{
    const size_t start = ids->len;
    const int rc = gd_tokenizer_encode(s->t, text, GD_SPECIALS_OFF, ids);
    if (rc != GD_OK)
        return gd_err_set(s->err, rc, "the policy's text could not be encoded: %s",
                          gd_status_message(rc));
    for (size_t i = start; i < ids->len; i++) {
        if (gd_tokenizer_is_special(s->t, ids->data[i]))
            return gd_err_set(s->err, GD_EPOLICY, "text of the policy encodes to a special token");
    }
    return GD_OK;
}

static void put_text(struct assembly *s, struct gd_str text)
{
    if (s->rc != GD_OK)
        return;
    gd_buf_str(&s->text, text);
    s->rc = encode_text(s, text, s->ids);
}

/* The part of before_body that does not depend on the body goes to the prefix: up to the last cut
 * with a character of before_body behind it. */
static void put_head(struct assembly *s)
{
    struct gd_str *before = &s->p->before_body;
    const size_t cut = gd_tokenizer_cut(s->t, *before, before->len);
    if (cut == 0)
        return;
    put_text(s, (struct gd_str){before->ptr, cut});
    *before = (struct gd_str){before->ptr + cut, before->len - cut};
}

static void keep(struct assembly *s, struct gd_str *out)
{
    if (s->rc == GD_OK && s->text.failed)
        s->rc = s->text.failed == GD_ENOMEM
                    ? gd_err_set(s->err, GD_ENOMEM, "no memory for the policy's text")
                    : gd_err_set(s->err, s->text.failed,
                                 "the policy's text is larger than %zu bytes", s->text.max);
    if (s->rc == GD_OK)
        s->rc = gd_str_dup(&s->p->arena, (struct gd_str){s->text.data, s->text.len}, out);
    s->text.len = 0;
}

/* Pieces of text as one, kept in the policy. */
static struct gd_str joined(struct assembly *s, const struct gd_str *pieces, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += pieces[i].len; /* each is part of a bounded file */
    char *text = gd_arena_alloc(&s->p->arena, len + 1);
    if (!text) {
        s->rc = s->rc == GD_OK ? GD_ENOMEM : s->rc;
        return (struct gd_str){"", 0};
    }
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].len > 0)
            memcpy(text + at, pieces[i].ptr, pieces[i].len);
        at += pieces[i].len;
    }
    return (struct gd_str){text, len};
}

#define JOINED(s, ...)                                                                             \
    joined((s), (const struct gd_str[]){__VA_ARGS__},                                              \
           sizeof((const struct gd_str[]){__VA_ARGS__}) / sizeof(struct gd_str))

static void put_llama3_header(struct assembly *s, struct gd_str role)
{
    put_marker(s, GD_STR("<|start_header_id|>"));
    put_text(s, role);
    put_marker(s, GD_STR("<|end_header_id|>"));
}

/* Each of the three formats leaves the text before the answer, whose ids end suffix_ids or (none)
 * after_body, in tail. */
static void bind_llama3(struct assembly *s, struct gd_str before, struct gd_str after,
                        struct gd_str *tail)
{
    struct gd_policy *p = s->p;
    /* trimmed as one text: a half may be blank only when the body stands at that end */
    while (before.len > 0 && gd_text_trim((struct gd_str){before.ptr, 1}).len == 0)
        before = (struct gd_str){before.ptr + 1, before.len - 1};
    while (after.len > 0 && gd_text_trim((struct gd_str){after.ptr + after.len - 1, 1}).len == 0)
        after.len--;
    p->before_body = JOINED(s, GD_STR("\n\n"), before);
    p->after_body = JOINED(s, after);
    *tail = JOINED(s, GD_STR("\n\n"), p->answer_prefix);
    put_marker(s, GD_STR("<|begin_of_text|>"));
    if (p->system.len > 0) {
        const struct gd_str system = JOINED(s, GD_STR("\n\n"), gd_text_trim(p->system));
        put_llama3_header(s, GD_STR("system"));
        put_text(s, system);
        put_marker(s, GD_STR("<|eot_id|>"));
    }
    put_llama3_header(s, GD_STR("user"));
    put_head(s);
    keep(s, &p->prefix_text);
    s->ids = &p->suffix_ids;
    put_marker(s, GD_STR("<|eot_id|>"));
    put_llama3_header(s, GD_STR("assistant"));
    put_text(s, *tail);
    keep(s, &p->suffix_text);
}

static void bind_chatml(struct assembly *s, struct gd_str before, struct gd_str after,
                        struct gd_str *tail)
{
    struct gd_policy *p = s->p;
    const struct gd_str system =
        p->system.len > 0 ? JOINED(s, GD_STR("system\n"), p->system) : (struct gd_str){"", 0};
    p->before_body = JOINED(s, GD_STR("user\n"), before);
    p->after_body = JOINED(s, after);
    *tail = JOINED(s, GD_STR("assistant\n"), p->answer_prefix);
    if (system.len > 0) {
        put_marker(s, GD_STR("<|im_start|>"));
        put_text(s, system);
        put_marker(s, GD_STR("<|im_end|>"));
        put_text(s, GD_STR("\n"));
    }
    put_marker(s, GD_STR("<|im_start|>"));
    put_head(s);
    keep(s, &p->prefix_text);
    s->ids = &p->suffix_ids;
    put_marker(s, GD_STR("<|im_end|>"));
    put_text(s, GD_STR("\n"));
    put_marker(s, GD_STR("<|im_start|>"));
    put_text(s, *tail);
    keep(s, &p->suffix_text);
}

static void bind_none(struct assembly *s, struct gd_str before, struct gd_str after,
                      struct gd_str *tail)
{
    struct gd_policy *p = s->p;
    p->before_body = JOINED(s, before);
    p->after_body = JOINED(s, after, p->answer_prefix);
    *tail = p->after_body;
    if (p->bos.len > 0)
        put_marker(s, p->bos);
    put_head(s);
    keep(s, &p->prefix_text);
    p->suffix_text = (struct gd_str){"", 0};
}

/* encode(tail + choice) must be encode(tail) and one more id. */
static int bind_choice(struct assembly *s, struct gd_str tail, const struct gd_ids *tail_ids,
                       struct gd_policy_choice *c)
{
    struct gd_ids ids = {NULL, 0, 0};
    const struct gd_str text = JOINED(s, tail, c->text);
    int rc = s->rc;
    if (rc == GD_OK)
        rc = encode_text(s, text, &ids);
    if (rc == GD_OK && (ids.len != tail_ids->len + 1 ||
                        (tail_ids->len > 0 &&
                         memcmp(ids.data, tail_ids->data, tail_ids->len * sizeof *ids.data) != 0)))
        rc = gd_err_set(s->err, GD_EPOLICY,
                        "choices: '%.*s' is not exactly one token after the answer prefix",
                        gd_text_shown(c->text), c->text.ptr);
    if (rc == GD_OK)
        c->token = ids.data[ids.len - 1];
    gd_ids_free(&ids);
    return rc;
}

static int bind_choices(struct assembly *s, struct gd_str tail)
{
    struct gd_policy *p = s->p;
    struct gd_ids tail_ids = {NULL, 0, 0};
    int rc = encode_text(s, tail, &tail_ids);
    for (uint32_t i = 0; i < p->n_choices && rc == GD_OK; i++) {
        rc = bind_choice(s, tail, &tail_ids, &p->choices[i]);
        for (uint32_t k = 0; k < i && rc == GD_OK; k++) {
            if (p->choices[k].token == p->choices[i].token)
                rc = gd_err_set(s->err, GD_EPOLICY, "choices %u and %u are the same token",
                                (unsigned)k, (unsigned)i);
        }
    }
    gd_ids_free(&tail_ids);
    return rc;
}

/* Tokens are text after the normaliser, so its bytes are counted in tokens too. */
static int measure_after(struct assembly *s)
{
    struct gd_ids ids = {NULL, 0, 0};
    const int rc = encode_text(s, s->p->after_body, &ids);
    s->p->after_bytes = 0;
    for (size_t i = 0; i < ids.len; i++)
        s->p->after_bytes += gd_tokenizer_bytes(s->t, ids.data[i]);
    gd_ids_free(&ids);
    return rc;
}

int gd_policy_bind(struct gd_policy *p, struct gd_str before, struct gd_str after,
                   const struct gd_tokenizer *t, struct gd_err *err)
{
    struct assembly s = {.p = p, .t = t, .err = err, .ids = &p->prefix_ids};
    struct gd_str tail = {"", 0};
    gd_buf_init(&s.text, 4 * GD_POLICY_TEMPLATE_BYTES_MAX); /* a template and a system turn */
    switch (p->chat) {
    case GD_CHAT_LLAMA3:
        bind_llama3(&s, before, after, &tail);
        break;
    case GD_CHAT_CHATML:
        bind_chatml(&s, before, after, &tail);
        break;
    case GD_CHAT_NONE:
        bind_none(&s, before, after, &tail);
        break;
    }
    int rc = s.rc;
    if (rc == GD_OK)
        rc = bind_choices(&s, tail);
    if (rc == GD_OK)
        rc = measure_after(&s);
    gd_buf_free(&s.text);
    if (rc == GD_ENOMEM)
        return gd_err_set(err, GD_ENOMEM, "not enough memory for the policy");
    return rc;
}
