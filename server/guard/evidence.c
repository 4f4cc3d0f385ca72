/* evidence.c - see evidence.h.
 *
 * The notes kept what was found when each call was made. What takes longer is measured here, once, for
 * the last two calls, the last result and the last answer. */
#include "evidence.h"

#include "evidence_parts.h"

#include <assert.h>
#include <string.h>

#define SYSTEM_TEXTS 8 /* that are read */

static_assert((int)GD_EVIDENCE_FEATURES <= INT8_MAX, "a forest numbers features in 8 bits");

const char *const gd_evidence_names[GD_EVIDENCE_FEATURES] = {
#define X(name) #name,
    GD_EVIDENCE_ALL(X)
#undef X
};

void gd_evidence_add_keys(const struct gd_words *w, struct gd_text_keys *k)
{
    uint32_t keys[GD_TEXT_KEYS_MAX];
    const uint32_t n = gd_words_keys(w, keys, GD_TEXT_KEYS_MAX);
    for (uint32_t i = 0; i < n && k->n < GD_TEXT_KEYS_MAX; i++) {
        if (gd_keyset_count(w, &k->set, &keys[i], 1) > 0)
            continue;
        gd_keyset_add(w, &k->set, &keys[i], 1);
        k->key[k->n++] = keys[i];
    }
}

void gd_evidence_keep(const struct gd_words *w, struct gd_buf *out)
{
    out->len = 0;
    gd_buf_add(out, w->text.data, w->text.len);
}

float gd_evidence_share_in(const struct gd_measure *m, const struct gd_text_keys *k,
                           const struct gd_text_keys *other)
{
    return gd_share(gd_keyset_count(&m->notes->words, &other->set, k->key, k->n), k->n);
}

static void measure_result(struct gd_measure *m)
{
    struct gd_notes *n = m->notes;
    const struct gd_event *ev = &n->traj->events[n->last_result];
    float *out = m->out;
    float listed[GD_LISTS];
    gd_words_plain(&n->words, gd_head(gd_result_text(ev)));
    gd_evidence_count_lists(&n->words, listed);
    gd_evidence_add_keys(&n->words, &m->result);
    out[GD_EVIDENCE_result_empty] = (float)(n->words.text.len <= 1);
    out[GD_EVIDENCE_result_error] = (float)ev->is_error;
    out[GD_EVIDENCE_result_trouble] = listed[GD_LIST_TROUBLE];
    out[GD_EVIDENCE_result_orders] = listed[GD_LIST_ORDERS];
    out[GD_EVIDENCE_result_keys] = gd_capped(m->result.n);
    out[GD_EVIDENCE_result_asked] = gd_evidence_share_in(m, &m->result, &m->asked);
    out[GD_EVIDENCE_result_arguments] = gd_evidence_share_in(m, &m->result, &m->arguments);
    out[GD_EVIDENCE_result_about] = gd_evidence_share_in(m, &m->result, &m->about);
    out[GD_EVIDENCE_arguments_result] = gd_evidence_share_in(m, &m->arguments, &m->result);
}

static void measure_answer(struct gd_measure *m)
{
    struct gd_notes *n = m->notes;
    float *out = m->out;
    const struct gd_str words =
        gd_words_plain(&n->words, gd_head(n->traj->events[n->last_answer].text));
    float listed[GD_LISTS];
    gd_evidence_count_lists(&n->words, listed);
    gd_evidence_add_keys(&n->words, &m->answer);
    uint32_t all = 0, fresh = 0;
    struct gd_str word;
    for (size_t at = 0; gd_words_next(words, &at, &word); all++) {
        const uint64_t hash = gd_words_hash(&n->words, word);
        fresh += !gd_history_has(n->said, word, hash) && !gd_history_has(n->found, word, hash);
    }
    out[GD_EVIDENCE_answer_calls] = gd_capped(n->answer_calls);
    out[GD_EVIDENCE_answer_numbers] = gd_capped(n->answer_numbers);
    out[GD_EVIDENCE_answer_new_numbers] = gd_capped(n->answer_fresh);
    out[GD_EVIDENCE_answer_keys] = gd_capped(m->answer.n);
    out[GD_EVIDENCE_answer_result] = gd_evidence_share_in(m, &m->answer, &m->result);
    out[GD_EVIDENCE_answer_asked] = gd_evidence_share_in(m, &m->answer, &m->asked);
    out[GD_EVIDENCE_answer_new_words] = gd_share(fresh, all);
    out[GD_EVIDENCE_answer_trouble] = listed[GD_LIST_TROUBLE];
    out[GD_EVIDENCE_result_answer] = gd_evidence_share_in(m, &m->result, &m->answer);
}

static void measure_calls(struct gd_measure *m)
{
    const struct gd_notes *n = m->notes;
    float *out = m->out;
    uint32_t lost = 0, repeats = 0, unknown = 0, most_again = 0, gap = 0, most_new = 0;
    for (uint32_t i = 0; i < n->n_calls; i++) {
        const struct gd_noted_call *c = &n->calls[i];
        const uint32_t again = c->again + (c->spoke_since ? 3u : 0u);
        lost += c->lost;
        repeats += again == 1 || again == 2;
        unknown += c->tool < 0;
        most_again = again > most_again ? again : most_again;
        gap = c->best_fit - c->fit > gap ? c->best_fit - c->fit : gap;
        most_new = c->from[GD_FROM_NEW] > most_new ? c->from[GD_FROM_NEW] : most_new;
    }
    const struct gd_noted_call *last = n->n_calls > 0 ? &n->calls[n->n_calls - 1] : NULL;
    out[GD_EVIDENCE_turns_since_call] = last ? gd_capped(n->turns - last->turn) : -1;
    out[GD_EVIDENCE_pending] = (float)(last && last->state == GD_ANSWERED_NOT);
    out[GD_EVIDENCE_calls] = gd_capped(n->n_calls);
    out[GD_EVIDENCE_lost] = gd_capped(lost);
    out[GD_EVIDENCE_last_lost] = (float)(last && last->lost);
    out[GD_EVIDENCE_repeats] = gd_capped(repeats);
    out[GD_EVIDENCE_most_again] = (float)most_again;
    out[GD_EVIDENCE_unknown_calls] = gd_capped(unknown);
    out[GD_EVIDENCE_widest_gap] = gd_capped(gap);
    out[GD_EVIDENCE_most_new] = (float)most_new;
}

/* What system texts, and the user's last two, say. */
static void measure_texts(struct gd_measure *m)
{
    struct gd_notes *n = m->notes;
    float *out = m->out, listed[GD_LISTS];
    size_t rights = 0;
    uint32_t systems = 0;
    for (uint32_t i = 0; i < n->traj->n_events && systems < SYSTEM_TEXTS; i++) {
        if (n->traj->events[i].kind != GD_EVENT_SYSTEM)
            continue;
        systems++;
        gd_words_plain(&n->words, gd_head(n->traj->events[i].text));
        gd_evidence_count_lists(&n->words, listed);
        rights += (size_t)listed[GD_LIST_RIGHTS];
    }
    out[GD_EVIDENCE_system_rights] = gd_capped(rights);
    for (uint32_t back = 1; back <= 2; back++) { /* the last one first: it must have room */
        const uint32_t event = n->user_event[(n->turns + 2 - back) % 2];
        if (event == UINT32_MAX)
            continue;
        gd_words_plain(&n->words, gd_head(n->traj->events[event].text));
        gd_evidence_add_keys(&n->words, &m->asked);
        if (back > 1)
            continue;
        gd_evidence_count_lists(&n->words, listed);
        gd_evidence_keep(&n->words, &m->user);
        out[GD_EVIDENCE_asked_rights] = listed[GD_LIST_RIGHTS];
        out[GD_EVIDENCE_asked_claims] = listed[GD_LIST_CLAIMS];
        out[GD_EVIDENCE_asked_changes] = listed[GD_LIST_CHANGES];
        out[GD_EVIDENCE_asked_reads] = listed[GD_LIST_READS];
    }
}

static void measure_trajectory(struct gd_measure *m)
{
    struct gd_notes *n = m->notes;
    float *out = m->out;
    uint32_t last = n->traj->n_events;
    while (last > 0 && n->traj->events[last - 1].kind == GD_EVENT_CATALOG)
        last--;
    measure_calls(m);
    out[GD_EVIDENCE_turns] = gd_capped(n->turns);
    out[GD_EVIDENCE_calls_since_user] = gd_capped(n->since);
    out[GD_EVIDENCE_tools] = (float)n->n_tools;
    out[GD_EVIDENCE_last_kind] = last > 0 ? (float)n->traj->events[last - 1].kind : -1;
    out[GD_EVIDENCE_said_rights] = (float)gd_evidence_said_rights(n);
    measure_texts(m);
}

int gd_evidence_measure(struct gd_notes *n, float out[GD_EVIDENCE_FEATURES])
{
    struct gd_measure *m = gd_arena_alloc(n->arena, sizeof *m);
    if (m == NULL)
        return GD_ENOMEM;
    m->notes = n;
    m->out = out;
    for (int i = 0; i < GD_EVIDENCE_FEATURES; i++)
        out[i] = -1;
    gd_buf_init(&m->user, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&m->values, GD_NOTE_TEXT_BYTES_MAX);
    measure_trajectory(m);
    if (n->n_calls > 1)
        gd_evidence_call(m, &n->calls[n->n_calls - 2], out + GD_EVIDENCE_prev_from_user);
    if (n->n_calls > 0)
        gd_evidence_call(m, &n->calls[n->n_calls - 1], out + GD_EVIDENCE_last_from_user);
    if (n->last_result != UINT32_MAX)
        measure_result(m);
    if (n->last_answer != UINT32_MAX)
        measure_answer(m);
    const int failed = m->user.failed ? m->user.failed : m->values.failed;
    gd_buf_free(&m->user);
    gd_buf_free(&m->values);
    return failed ? failed : gd_notes_failed(n);
}
