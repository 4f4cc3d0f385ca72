/* evidence.c - see evidence.h.
 *
 * What is measured of a result or an answer replaces that of the one before; of calls the last few are kept,
 * because later results tell more of them. */
#include "evidence.h"

#include "evidence_parts.h"

#include <assert.h>
#include <string.h>

#define SYSTEM_TEXTS 8 /* that are read */
#define SEEN_BITS 14   /* of the hash of a result's word */

static_assert((int)GD_LISTS <= 32, "lists are bits");
static_assert(AT_from_user == 0, "a block begins with it");
static_assert((int)GD_EVIDENCE_FEATURES <= UINT8_MAX, "a forest numbers features in 8 bits");

const char *const gd_evidence_names[GD_EVIDENCE_FEATURES] = {
#define X(name) #name,
    GD_EVIDENCE_ALL(X)
#undef X
};

void gd_evidence_add(const struct gd_words *w, struct gd_text_keys *k, const uint32_t *keys,
                     uint32_t n)
{
    for (uint32_t i = 0; i < n && k->n < GD_TEXT_KEYS_MAX; i++) {
        if (gd_keyset_count(w, &k->set, &keys[i], 1) > 0)
            continue;
        gd_keyset_add(w, &k->set, &keys[i], 1);
        k->key[k->n++] = keys[i];
    }
}

void gd_evidence_add_keys(const struct gd_words *w, struct gd_text_keys *k)
{
    uint32_t keys[GD_TEXT_KEYS_MAX];
    gd_evidence_add(w, k, keys, gd_words_keys(w, keys, GD_TEXT_KEYS_MAX));
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

struct gd_measure *gd_evidence_open(struct gd_notes *n)
{
    const size_t events = n->traj->n_events + 1;
    struct gd_measure *m = gd_arena_alloc(n->arena, sizeof *m);
    if (m == NULL)
        return NULL;
    m->notes = n;
    m->calls = gd_arena_calloc(n->arena, GD_EVIDENCE_CALLS_MAX, sizeof *m->calls);
    m->results = gd_arena_calloc(n->arena, events, sizeof *m->results);
    m->users = gd_arena_calloc(n->arena, GD_EVIDENCE_REQUEST_MAX, sizeof *m->users);
    if (m->calls == NULL || m->results == NULL || m->users == NULL)
        return NULL;
    uint32_t calls = 0;
    for (uint32_t i = 0; i < n->traj->n_events; i++)
        calls += n->traj->events[i].kind == GD_EVENT_CALL;
    m->first = calls > GD_EVIDENCE_CALLS_MAX ? calls - GD_EVIDENCE_CALLS_MAX : 0;
    for (int i = 0; i < GD_EVIDENCE_FEATURES; i++)
        m->out[i] = -1;
    m->out[GD_EVIDENCE_system_rights] = 0;
    gd_buf_init(&m->user, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&m->values, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&m->property, GD_NOTE_TEXT_BYTES_MAX);
    return m;
}

void gd_evidence_close(struct gd_measure *m)
{
    if (m == NULL)
        return;
    gd_buf_free(&m->user);
    gd_buf_free(&m->values);
    gd_buf_free(&m->property);
}

/* ---- what happens ---- */

static void measure_system(struct gd_measure *m, struct gd_str text)
{
    struct gd_words *w = &m->notes->words;
    float listed[GD_LISTS], *rights = &m->out[GD_EVIDENCE_system_rights];
    if (m->systems++ >= SYSTEM_TEXTS)
        return;
    gd_words_plain(w, gd_head(text));
    gd_evidence_count_lists(w, listed);
    *rights = gd_capped((size_t)(*rights + listed[GD_LIST_RIGHTS]));
}

static const struct gd_user_text *user_text(const struct gd_measure *m, uint32_t back)
{
    return &m->users[(m->n_users - 1 - back) % GD_EVIDENCE_REQUEST_MAX];
}

struct gd_str gd_evidence_request(const struct gd_measure *m, uint32_t back)
{
    return gd_head(m->notes->traj->events[user_text(m, back)->event].text);
}

/* The request is the user's texts since the last call, at least two. */
static void measure_user(struct gd_measure *m, uint32_t event)
{
    static const struct {
        enum gd_evidence feature;
        enum gd_list list;
    } counted[] = {
        {GD_EVIDENCE_asked_rights, GD_LIST_RIGHTS},
        {GD_EVIDENCE_asked_claims, GD_LIST_CLAIMS},
        {GD_EVIDENCE_asked_changes, GD_LIST_CHANGES},
        {GD_EVIDENCE_asked_reads, GD_LIST_READS},
        {GD_EVIDENCE_asked_again, GD_LIST_AGAIN},
        {GD_EVIDENCE_asked_confirms, GD_LIST_CONFIRMS},
        {GD_EVIDENCE_asked_conditions, GD_LIST_CONDITIONS},
        {GD_EVIDENCE_asked_negations, GD_LIST_NEGATIONS},
        {GD_EVIDENCE_asked_relative, GD_LIST_RELATIVE},
        {GD_EVIDENCE_asked_removes, GD_LIST_REMOVES},
        {GD_EVIDENCE_asked_rules, GD_LIST_RULES},
    };
    struct gd_notes *n = m->notes;
    struct gd_user_text *mine = &m->users[m->n_users++ % GD_EVIDENCE_REQUEST_MAX];
    float listed[GD_LISTS];
    gd_words_plain(&n->words, gd_head(n->traj->events[event].text));
    gd_evidence_keep(&n->words, &m->user);
    gd_evidence_count_lists(&n->words, listed);
    mine->event = event;
    mine->n = gd_words_keys(&n->words, mine->key, GD_TEXT_KEYS_MAX);
    mine->lists = gd_evidence_lists(listed);
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++)
        m->out[counted[i].feature] = listed[counted[i].list];

    const uint32_t since = m->n_users - m->users_at_call;
    const uint32_t all =
        m->n_users < GD_EVIDENCE_REQUEST_MAX ? m->n_users : GD_EVIDENCE_REQUEST_MAX;
    m->n_request = since < 2 ? 2 : since;
    m->n_request = m->n_request < all ? m->n_request : all;
    memset(&m->asked, 0, sizeof m->asked);
    m->verbs = 0;
    for (uint32_t back = 0; back < m->n_request; back++) { /* the last one must have room */
        const struct gd_user_text *u = user_text(m, back);
        gd_evidence_add(&n->words, &m->asked, u->key, u->n);
        m->verbs |= u->lists;
    }
}

void gd_evidence_text(struct gd_measure *m, uint32_t event)
{
    const struct gd_event *ev = &m->notes->traj->events[event];
    if (ev->kind == GD_EVENT_SYSTEM)
        measure_system(m, ev->text);
    else
        measure_user(m, event);
}

static float larger(float a, float b)
{
    return a > b ? a : b;
}

/* A call is no longer one of the last two. */
static void fold_earlier(struct gd_measure *m, const struct gd_measured_call *c)
{
    float *out = m->out;
    const float *of = c->of;
    const float strange = of[AT_strange_words] + of[AT_strange_numbers];
    const float power = of[AT_power_name] + larger(of[AT_power_about], 0);
    float *covered = &out[GD_EVIDENCE_earlier_covered];
    out[GD_EVIDENCE_earlier_strange] =
        larger(out[GD_EVIDENCE_earlier_strange], gd_capped((size_t)strange));
    out[GD_EVIDENCE_earlier_power] =
        larger(out[GD_EVIDENCE_earlier_power], gd_capped((size_t)power));
    out[GD_EVIDENCE_earlier_twin] = larger(out[GD_EVIDENCE_earlier_twin], of[AT_twin_core]);
    out[GD_EVIDENCE_earlier_strong] =
        larger(out[GD_EVIDENCE_earlier_strong], of[AT_strong_strange]);
    out[GD_EVIDENCE_earlier_changes] = larger(out[GD_EVIDENCE_earlier_changes], of[AT_changes]);
    *covered = *covered < 0 || of[AT_covered] < *covered ? of[AT_covered] : *covered;
}

void gd_evidence_call(struct gd_measure *m)
{
    const uint32_t number = m->notes->n_calls - 1;
    m->users_at_call = m->n_users;
    if (number < m->first)
        return;
    if (m->n_calls > 1)
        fold_earlier(m, &m->calls[m->n_calls - 2]);
    struct gd_measured_call *c = &m->calls[m->n_calls++];
    c->call = number;
    gd_evidence_measure_call(m, &m->notes->calls[number], c);
}

/* Words that calls had before anybody: another call's result, whose words are in hand, has them now.
 * Few words get past the bits, so that a text is seldom searched. */
static void find_late(struct gd_measure *m, int64_t own)
{
    const struct gd_words *w = &m->notes->words;
    const struct gd_str text = {w->text.data, w->text.len};
    uint64_t bits[1 << (SEEN_BITS - 6)] = {0};
    struct gd_str word;
    for (size_t at = 0; gd_words_next(text, &at, &word);) {
        const uint64_t h = gd_words_hash(w, word) >> (64 - SEEN_BITS);
        bits[h / 64] |= (uint64_t)1 << (h % 64);
    }
    for (uint32_t i = 0; i < m->n_calls; i++) {
        struct gd_measured_call *c = &m->calls[i];
        uint32_t kept = 0;
        if (c->call == own)
            continue;
        for (uint32_t k = 0; k < c->n_strange; k++) {
            const struct gd_str strange = c->strange[k];
            const uint64_t h = gd_words_hash(w, strange) >> (64 - SEEN_BITS);
            if ((bits[h / 64] >> (h % 64) & 1) &&
                memmem(text.ptr, text.len, strange.ptr - 1, strange.len + 2) != NULL)
                c->late++;
            else
                c->strange[kept++] = strange;
        }
        c->n_strange = kept;
    }
}

void gd_evidence_result(struct gd_measure *m, uint32_t event, int64_t call, struct gd_str shown)
{
    struct gd_notes *n = m->notes;
    float *out = m->out, listed[GD_LISTS];
    const int64_t made = n->traj->events[event].call; /* also that of a call given up before */
    memset(&m->result, 0, sizeof m->result);
    gd_words_plain(&n->words, gd_head(shown));
    find_late(m, made >= 0 ? (int64_t)n->call_at[made] : -1);
    gd_evidence_count_lists(&n->words, listed);
    gd_evidence_add_keys(&n->words, &m->result);
    if (call >= 0)
        m->results[n->call_at[call]] = (struct gd_result_words){(uint8_t)listed[GD_LIST_TROUBLE],
                                                                (uint8_t)listed[GD_LIST_OPEN]};
    out[GD_EVIDENCE_result_empty] = (float)(n->words.text.len <= 1);
    out[GD_EVIDENCE_result_error] = (float)n->traj->events[event].is_error;
    out[GD_EVIDENCE_result_trouble] = listed[GD_LIST_TROUBLE];
    out[GD_EVIDENCE_result_orders] = listed[GD_LIST_ORDERS];
    out[GD_EVIDENCE_result_keys] = gd_capped(m->result.n);
    out[GD_EVIDENCE_result_asked] = gd_evidence_share_in(m, &m->result, &m->asked);
    out[GD_EVIDENCE_result_arguments] = gd_evidence_share_in(m, &m->result, &m->arguments);
    out[GD_EVIDENCE_result_about] = gd_evidence_share_in(m, &m->result, &m->about);
    out[GD_EVIDENCE_arguments_result] = gd_evidence_share_in(m, &m->arguments, &m->result);
}

static size_t count_questions(struct gd_str text)
{
    size_t count = 0;
    for (size_t i = 0; i < text.len; i++)
        count += text.ptr[i] == '?';
    return count;
}

void gd_evidence_answer(struct gd_measure *m, uint32_t event)
{
    struct gd_notes *n = m->notes;
    float *out = m->out, listed[GD_LISTS];
    const struct gd_str text = gd_head(n->traj->events[event].text);
    const struct gd_str words = gd_words_plain(&n->words, text);
    memset(&m->answer, 0, sizeof m->answer);
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
    out[GD_EVIDENCE_answer_done] = listed[GD_LIST_DONE];
    out[GD_EVIDENCE_answer_questions] = gd_capped(count_questions(text));
    out[GD_EVIDENCE_arguments_answer] = gd_evidence_share_in(m, &m->arguments, &m->answer);
    out[GD_EVIDENCE_result_answer] = gd_evidence_share_in(m, &m->result, &m->answer);
}

/* ---- the end ---- */

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

/* Functions beside the last two user texts. */
static void measure_functions(struct gd_measure *m)
{
    struct gd_notes *n = m->notes;
    uint32_t best = 0;
    float name = 0;
    gd_notes_fits(n);
    for (uint32_t i = 0; i < n->n_tools; i++) {
        const struct gd_noted_tool *t = &n->tools[i];
        best = t->fit > best ? t->fit : best;
        name = larger(
            name, gd_share(gd_keyset_count(&n->words, &n->asked, t->name, t->n_name), t->n_name));
    }
    m->out[GD_EVIDENCE_tools] = (float)n->n_tools;
    m->out[GD_EVIDENCE_best_fit] = gd_capped(best);
    m->out[GD_EVIDENCE_best_name] = name;
}

static void measure_late(struct gd_measure *m)
{
    uint32_t late = 0;
    for (uint32_t i = 0; i < m->n_calls; i++)
        late += m->calls[i].late;
    m->out[GD_EVIDENCE_late] = gd_capped(late);
    m->out[GD_EVIDENCE_late_prev] = m->n_calls > 1 ? (float)m->calls[m->n_calls - 2].late : -1;
}

int gd_evidence_finish(struct gd_measure *m, const float **out)
{
    struct gd_notes *n = m->notes;
    const size_t block = sizeof m->calls[0].of;
    uint32_t last = n->traj->n_events;
    while (last > 0 && n->traj->events[last - 1].kind == GD_EVENT_CATALOG)
        last--;
    measure_calls(m);
    measure_functions(m);
    measure_late(m);
    m->out[GD_EVIDENCE_turns] = gd_capped(n->turns);
    m->out[GD_EVIDENCE_calls_since_user] = gd_capped(n->since);
    m->out[GD_EVIDENCE_last_kind] = last > 0 ? (float)n->traj->events[last - 1].kind : -1;
    m->out[GD_EVIDENCE_said_rights] = gd_capped(gd_evidence_said_rights(n));
    if (m->n_calls > 1)
        memcpy(&m->out[GD_EVIDENCE_prev_from_user], m->calls[m->n_calls - 2].of, block);
    if (m->n_calls > 0)
        memcpy(&m->out[GD_EVIDENCE_last_from_user], m->calls[m->n_calls - 1].of, block);
    *out = m->out;
    const int failed = m->user.failed     ? m->user.failed
                       : m->values.failed ? m->values.failed
                                          : m->property.failed;
    return failed ? failed : gd_notes_failed(n);
}
