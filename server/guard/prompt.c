/* prompt.c - policy text, body and markers as token ids. See guardian/prompt.h.
 *
 * The ids are the policy's prefix, then the encoding of one text (template, body, template) with
 * specials off, then the policy's suffix. A body that does not fit is rendered again with more and
 * more of its oldest events left out; the number of events is searched by halving, so that the
 * sizes encoded shrink with every step.
 *
 * While a trajectory grows, its prompts share their first ids: at least those of the pieces before
 * the one that the body's last line break is in, for only that piece is another where text follows
 * the body. With the tokenizers at hand these are n_keep ids or one less (tests/test_prompt.c). */
#include "guardian/prompt.h"

#include "evidence.h"
#include "render.h"

struct builder {
    const struct gd_policy *p;
    const struct gd_tokenizer *t;
    struct gd_render render;
    struct gd_prompt *out;
    struct gd_err *err;
};

/* External text may come out as a special token only through a defect of the tokenizer: no verdict
 * then. */
static int check_ids(const struct builder *b, size_t start)
{
    for (size_t i = start; i < b->out->ids.len; i++) {
        if (gd_tokenizer_is_special(b->t, b->out->ids.data[i]))
            return gd_err_set(b->err, GD_EINTERNAL, "text of the request became a special token");
    }
    return GD_OK;
}

static int push_all(struct gd_ids *to, const struct gd_ids *from)
{
    int rc = GD_OK;
    for (size_t i = 0; i < from->len && rc == GD_OK; i++)
        rc = gd_ids_push(to, from->data[i]);
    return rc;
}

/* The ids that hold nothing after the body: from the end go tokens with as many bytes as after_body
 * has in tokens. That is exact because the body ends with a line break, which no normaliser joins
 * with what follows. */
static uint32_t count_kept(const struct builder *b)
{
    const struct gd_ids *ids = &b->out->ids;
    size_t n = ids->len;
    size_t bytes = 0;
    while (bytes < b->p->after_bytes && n > b->p->prefix_ids.len)
        bytes += gd_tokenizer_bytes(b->t, ids->data[--n]);
    return (uint32_t)n;
}

/* Renders and encodes with n events left out from index first on. */
static int attempt(struct builder *b, uint32_t first, uint32_t n)
{
    struct gd_prompt *out = b->out;
    const struct gd_policy *p = b->p;
    out->text.len = 0;
    out->ids.len = 0;
    gd_buf_str(&out->text, p->prefix_text);
    const size_t start = out->text.len;
    gd_buf_str(&out->text, p->before_body);
    gd_render_body(&b->render, (struct gd_render_cut){first, n}, &out->text);
    gd_buf_str(&out->text, p->after_body);
    if (out->text.failed)
        return gd_err_set(b->err, out->text.failed, "the prompt is too large: more than %zu bytes",
                          GD_PROMPT_BYTES_MAX);
    const struct gd_str text = {out->text.data + start, out->text.len - start};
    int rc = push_all(&out->ids, &p->prefix_ids);
    if (rc == GD_OK)
        rc = gd_tokenizer_encode(b->t, text, GD_SPECIALS_OFF, &out->ids);
    if (rc != GD_OK)
        return gd_err_set(b->err, rc, "the prompt could not be encoded: %s", gd_status_message(rc));
    rc = check_ids(b, p->prefix_ids.len);
    out->n_shared = (uint32_t)p->prefix_ids.len;
    out->n_keep = count_kept(b);
    if (rc == GD_OK)
        rc = push_all(&out->ids, &p->suffix_ids);
    gd_buf_str(&out->text, p->suffix_text);
    if (rc == GD_OK && out->text.failed)
        rc = out->text.failed == GD_ENOMEM
                 ? gd_err_set(b->err, GD_ENOMEM, "no memory for the prompt")
                 : gd_err_set(b->err, out->text.failed, "the prompt is larger than %zu bytes",
                              out->text.max);
    out->elided = b->render.elided;
    out->n_omitted = n;
    out->truncated = n > 0;
    return rc;
}

/* Once: it does not depend on what is left out. */
static int measure(struct builder *b)
{
    if (!b->render.notes)
        return GD_OK;
    const int rc = gd_evidence_finish(b->render.measure, &b->out->evidence);
    return rc == GD_OK ? GD_OK : gd_err_set(b->err, rc, "no room for the evidence");
}

/* Events that may be left out: those after the first user text, or all where there is none, but
 * never the last event. */
static struct gd_render_cut cuttable(const struct gd_trajectory *t)
{
    uint32_t first = 0;
    while (first < t->n_events && t->events[first].kind != GD_EVENT_USER)
        first++;
    first = first < t->n_events ? first + 1 : 0;
    uint32_t last = t->n_events > 0 ? t->n_events - 1 : 0;
    while (last > 0 && t->events[last].kind == GD_EVENT_CATALOG)
        last--;
    return (struct gd_render_cut){first, last > first ? last - first : 0};
}

static int too_long(struct builder *b, uint32_t context_max)
{
    return gd_err_set(b->err, GD_ELIMIT,
                      "the prompt has %zu tokens with all but its first user text and its last "
                      "event left out, the context has %u",
                      b->out->ids.len, (unsigned)context_max);
}

/* The smallest number of events found by halving that fits. */
static int cut_to_fit(struct builder *b, uint32_t context_max)
{
    const struct gd_render_cut cut = cuttable(b->render.traj);
    uint32_t low = 0; /* does not fit */
    uint32_t high = cut.n;
    int rc = high > 0 ? attempt(b, cut.first, high) : GD_OK;
    if (rc != GD_OK)
        return rc;
    if (b->out->ids.len > context_max)
        return too_long(b, context_max);
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        rc = attempt(b, cut.first, middle);
        if (rc != GD_OK)
            return rc;
        if (b->out->ids.len > context_max)
            low = middle;
        else
            high = middle;
    }
    return b->out->n_omitted == high ? GD_OK : attempt(b, cut.first, high);
}

int gd_prompt_build(const struct gd_policy *p, const struct gd_tokenizer *t,
                    const struct gd_trajectory *traj, uint32_t context_max, struct gd_arena *a,
                    struct gd_prompt *out, struct gd_err *err)
{
    struct builder b = {.p = p, .t = t, .out = out, .err = err};
    *out = (struct gd_prompt){.elided = 0};
    gd_buf_init(&out->text, GD_PROMPT_BYTES_MAX);
    int rc = gd_render_open(&b.render, p, traj, a, err);
    if (rc == GD_OK)
        rc = attempt(&b, 0, 0);
    if (rc == GD_OK)
        rc = measure(&b);
    if (rc == GD_OK && out->ids.len > context_max)
        rc = cut_to_fit(&b, context_max);
    gd_render_close(&b.render);
    if (rc != GD_OK)
        gd_prompt_free(out);
    return rc;
}

void gd_prompt_free(struct gd_prompt *p)
{
    gd_buf_free(&p->text);
    gd_ids_free(&p->ids);
    *p = (struct gd_prompt){.elided = 0};
}
