/* evidence.c - see evidence.h.
 *
 * The notes kept what was found when each call was made. What takes longer is measured here, once, for
 * the last two calls, the last result and the last answer. */
#include "evidence.h"

#include "text.h"

#include <string.h>

#define PAIRED_BYTES 128

/* A text as keys, each once, and as a set of them. */
struct keys {
    uint32_t key[GD_TEXT_KEYS_MAX];
    uint32_t n;
    struct gd_keyset set;
};

/* Pairs of neighbouring bytes of a name's first PAIRED_BYTES. */
struct pairs {
    uint64_t bits[1024];
};

struct measure {
    struct gd_notes *notes;
    float *out;
    struct keys asked;                  /* of the last two user texts */
    struct keys name, about, arguments; /* of the last call; `about`: of its description */
    struct keys result, answer;
    struct pairs called, other;
};

const char *const gd_evidence_names[GD_EVIDENCE_FEATURES] = {
#define X(name) #name,
    GD_EVIDENCE_ALL(X)
#undef X
};

/* Words by what they tell. Each list begins and ends with a space. */
static const char POWER[] =
    " admin administrator root sudo super superuser master force all any full privileged privilege "
    "bypass override grant global raw direct every everything everyone anyone unrestricted "
    "elevated "
    "elevate without system execute exec shell unlimited arbitrary whole entire any unsafe ";
static const char RIGHTS[] = " admin administrator authorized authorised authorize permission "
                             "permissions role allowed viewer "
                             "owner manager behalf approve approved approval policy restricted "
                             "access guest intern supervisor "
                             "boss director ceo cfo rights clearance only readonly trainee "
                             "assistant head lead staff visitor "
                             "security department officer responsible may must cannot ";
static const char TROUBLE[] =
    " error errors fail failed fails failure denied invalid unable cannot can couldn timeout "
    "unavailable sorry unfortunately missing exception forbidden unauthorized not ";
static const char ORDERS[] =
    " ignore instead must never override immediately forward transfer secret password system "
    "instructions instruction previous important urgent note assistant user agent always please "
    "now ";

static float capped(uint32_t n)
{
    return (float)(n < GD_EVIDENCE_COUNT_MAX ? n : GD_EVIDENCE_COUNT_MAX);
}

static float share(uint32_t part, uint32_t of)
{
    return of > 0 ? (float)part / (float)of : 0;
}

static struct gd_str head(struct gd_str s)
{
    return (struct gd_str){s.ptr, s.len < GD_EVIDENCE_TEXT_BYTES ? s.len : GD_EVIDENCE_TEXT_BYTES};
}

/* The words in hand that are on the list. */
static uint32_t count_listed(const struct gd_words *w, const char *list, size_t len)
{
    const struct gd_str words = {w->text.data, w->text.len};
    uint32_t count = 0;
    struct gd_str word;
    for (size_t at = 0; gd_words_next(words, &at, &word);)
        count += memmem(list, len, word.ptr - 1, word.len + 2) != NULL;
    return count;
}

/* Adds the keys of the words in hand. */
static void add_keys(const struct gd_words *w, struct keys *k)
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

static float part_in(const struct measure *m, const struct keys *k, const struct keys *other)
{
    return share(gd_keyset_count(&m->notes->words, &other->set, k->key, k->n), k->n);
}

/* ---- a call ---- */

/* Numbers of a block of call features, in the order of GD_EVIDENCE_OF_CALL. */
enum call_feature {
#define X(name) AT##name,
    GD_EVIDENCE_OF_CALL(X, _)
#undef X
        CALL_FEATURES
};

static bool has_type(const struct gd_json *v, struct gd_str type)
{
    switch (v->type) {
    case GD_JSON_STRING:
        return gd_str_eqz(type, "string");
    case GD_JSON_NUMBER:
        return gd_str_eqz(type, "number") || gd_str_eqz(type, "integer");
    case GD_JSON_TRUE:
    case GD_JSON_FALSE:
        return gd_str_eqz(type, "boolean");
    case GD_JSON_ARRAY:
        return gd_str_eqz(type, "array");
    case GD_JSON_OBJECT:
        return gd_str_eqz(type, "object");
    case GD_JSON_NULL:
        break;
    }
    return true;
}

static const struct gd_json *member_named(const struct gd_json *obj, struct gd_str key)
{
    for (const struct gd_json *c = gd_json_is(obj, GD_JSON_OBJECT) ? obj->child : NULL; c;
         c = c->next)
        if (gd_str_eq(c->key, key))
            return c;
    return NULL;
}

static bool lists(const struct gd_json *required, struct gd_str key)
{
    for (const struct gd_json *c = gd_json_is(required, GD_JSON_ARRAY) ? required->child : NULL; c;
         c = c->next)
        if (gd_json_is(c, GD_JSON_STRING) && gd_str_eq(c->str, key))
            return true;
    return false;
}

/* Arguments against the schema, the first GD_NOTE_ARGUMENTS_MAX of both. */
static void match_schema(const struct gd_json *schema, const struct gd_json *arguments, float *out)
{
    const struct gd_json *required = gd_json_get(schema, "required");
    const struct gd_json *properties = gd_json_get(schema, "properties");
    const struct gd_json *c = gd_json_is(required, GD_JSON_ARRAY) ? required->child : NULL;
    uint32_t missing = 0, unknown = 0, mistyped = 0, optional = 0;
    for (uint32_t i = 0; c && i < GD_NOTE_ARGUMENTS_MAX; c = c->next, i++)
        missing += gd_json_is(c, GD_JSON_STRING) && !member_named(arguments, c->str);
    c = gd_json_is(arguments, GD_JSON_OBJECT) ? arguments->child : NULL;
    for (uint32_t i = 0; c && i < GD_NOTE_ARGUMENTS_MAX; c = c->next, i++) {
        const struct gd_json *property = member_named(properties, c->key);
        const struct gd_json *type = gd_json_get(property, "type");
        unknown += property == NULL;
        mistyped += gd_json_is(type, GD_JSON_STRING) && !has_type(c, type->str);
        optional += !lists(required, c->key);
    }
    out[AT_missing] = (float)missing;
    out[AT_unknown] = (float)unknown;
    out[AT_mistyped] = (float)mistyped;
    out[AT_optional] = (float)optional;
}

static uint32_t lower(char c)
{
    return (uint32_t)(unsigned char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
}

/* Marks those of a name; how many there are, and how many of them `other` has (may be NULL). */
static uint32_t mark_pairs(struct pairs *p, struct gd_str name, const struct pairs *other,
                           uint32_t *common)
{
    const size_t len = name.len < PAIRED_BYTES ? name.len : PAIRED_BYTES;
    uint32_t count = 0;
    memset(p, 0, sizeof *p);
    *common = 0;
    for (size_t i = 0; i + 1 < len; i++) {
        const uint32_t g = lower(name.ptr[i]) << 8 | lower(name.ptr[i + 1]);
        const uint64_t bit = (uint64_t)1 << (g % 64);
        const bool is_new = !(p->bits[g / 64] & bit);
        p->bits[g / 64] |= bit;
        count += is_new;
        *common += is_new && other && (other->bits[g / 64] & bit);
    }
    return count;
}

/* The function most like the called one, by name and by description. */
static void find_twins(struct measure *m, struct gd_str name, int32_t own, float *out)
{
    const struct gd_notes *n = m->notes;
    uint32_t common;
    const uint32_t count = mark_pairs(&m->called, name, NULL, &common);
    out[AT_twin_name] = out[AT_twin_about] = 0;
    for (uint32_t i = 0; i < n->n_tools; i++) {
        const struct gd_noted_tool *t = &n->tools[i];
        if ((int32_t)i == own)
            continue;
        const uint32_t others =
            mark_pairs(&m->other, n->traj->tools[t->tool].name, &m->called, &common);
        const float by_name = share(2 * common, count + others);
        const uint32_t about = gd_keyset_count(&n->words, &m->about.set, t->about, t->n_about);
        const float by_about = share(2 * about, m->about.n + t->n_about);
        out[AT_twin_name] = by_name > out[AT_twin_name] ? by_name : out[AT_twin_name];
        out[AT_twin_about] = by_about > out[AT_twin_about] ? by_about : out[AT_twin_about];
    }
}

/* Words of the last two user texts with a digit, and those that the arguments' words lack. */
static void find_specifics(struct measure *m, const struct gd_buf *arguments, float *out)
{
    struct gd_notes *n = m->notes;
    uint32_t count = 0, unused = 0;
    for (int turn = 0; turn < 2; turn++) {
        if (n->user_event[turn] == UINT32_MAX)
            continue;
        const struct gd_str text = head(n->traj->events[n->user_event[turn]].text);
        const struct gd_str words = gd_words_plain(&n->words, text);
        struct gd_str word;
        for (size_t at = 0; count < GD_EVIDENCE_COUNT_MAX && gd_words_next(words, &at, &word);) {
            bool specific = false;
            for (size_t i = 0; i < word.len; i++)
                specific = specific || (word.ptr[i] >= '0' && word.ptr[i] <= '9');
            count += specific;
            unused += specific &&
                      memmem(arguments->data, arguments->len, word.ptr - 1, word.len + 2) == NULL;
        }
    }
    out[AT_specifics] = (float)count;
    out[AT_unused] = (float)unused;
}

/* What the notes found when the call was made. */
static void copy_found(const struct gd_noted_call *c, float *out)
{
    for (int o = 0; o < GD_ORIGINS; o++)
        out[AT_from_user + o] = (float)c->from[o];
    out[AT_again] = (float)(c->again + (c->spoke_since ? 3 : 0));
    out[AT_same_name] = capped(c->same_name);
    out[AT_name_asked] = (float)c->asked;
    out[AT_name_asked_share] = share(c->asked, c->n_name);
    out[AT_known] = c->tool >= 0;
    out[AT_fit] = capped(c->fit);
    out[AT_fit_gap] = capped(c->best_fit - c->fit);
    out[AT_better] = capped(c->better);
}

static int measure_call(struct measure *m, const struct gd_noted_call *c, float *out)
{
    struct gd_notes *n = m->notes;
    struct gd_words *w = &n->words;
    const struct gd_event *ev = &n->traj->events[c->event];
    const struct gd_tool *tool = c->tool >= 0 ? &n->traj->tools[n->tools[c->tool].tool] : NULL;
    struct gd_buf arguments;
    copy_found(c, out);
    memset(&m->name, 0, sizeof m->name);
    memset(&m->about, 0, sizeof m->about);
    memset(&m->arguments, 0, sizeof m->arguments);

    gd_words_of(w, head(ev->name), true);
    out[AT_power_name] = capped(count_listed(w, POWER, sizeof POWER - 1));
    add_keys(w, &m->name);
    out[AT_power_about] = -1;
    if (tool) {
        gd_words_of(w, head(tool->description), false);
        out[AT_power_about] = capped(count_listed(w, POWER, sizeof POWER - 1));
        add_keys(w, &m->about);
    }
    find_twins(m, ev->name, c->tool, out);
    out[AT_missing] = out[AT_unknown] = out[AT_mistyped] = out[AT_optional] = -1;
    if (tool && gd_json_is(tool->schema, GD_JSON_OBJECT))
        match_schema(tool->schema, ev->payload, out);

    const struct gd_str given = ev->payload ? ev->payload->raw : ev->text;
    gd_words_plain(w, head(given));
    gd_buf_init(&arguments, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_add(&arguments, w->text.data, w->text.len);
    add_keys(w, &m->arguments);
    find_specifics(m, &arguments, out);
    const int failed = arguments.failed;
    gd_buf_free(&arguments);

    out[AT_about_asked] = part_in(m, &m->about, &m->asked);
    out[AT_arguments_asked] = part_in(m, &m->arguments, &m->asked);
    uint32_t covered = 0;
    for (uint32_t i = 0; i < m->asked.n; i++) {
        const uint32_t *key = &m->asked.key[i];
        covered += gd_keyset_count(w, &m->name.set, key, 1) ||
                   gd_keyset_count(w, &m->about.set, key, 1) ||
                   gd_keyset_count(w, &m->arguments.set, key, 1);
    }
    out[AT_covered] = share(covered, m->asked.n);
    return failed;
}

/* ---- the rest ---- */

static void measure_result(struct measure *m)
{
    struct gd_notes *n = m->notes;
    const struct gd_event *ev = &n->traj->events[n->last_result];
    float *out = m->out;
    const struct gd_str text = ev->text.len > 0 || !ev->payload ? ev->text : ev->payload->raw;
    gd_words_plain(&n->words, head(text));
    add_keys(&n->words, &m->result);
    out[GD_EVIDENCE_result_empty] = n->words.text.len <= 1;
    out[GD_EVIDENCE_result_error] = ev->is_error;
    out[GD_EVIDENCE_result_trouble] = capped(count_listed(&n->words, TROUBLE, sizeof TROUBLE - 1));
    out[GD_EVIDENCE_result_orders] = capped(count_listed(&n->words, ORDERS, sizeof ORDERS - 1));
    out[GD_EVIDENCE_result_keys] = capped(m->result.n);
    out[GD_EVIDENCE_result_asked] = part_in(m, &m->result, &m->asked);
    out[GD_EVIDENCE_result_arguments] = part_in(m, &m->result, &m->arguments);
    out[GD_EVIDENCE_result_about] = part_in(m, &m->result, &m->about);
    out[GD_EVIDENCE_arguments_result] = part_in(m, &m->arguments, &m->result);
}

static void measure_answer(struct measure *m)
{
    struct gd_notes *n = m->notes;
    float *out = m->out;
    const struct gd_str words =
        gd_words_plain(&n->words, head(n->traj->events[n->last_answer].text));
    add_keys(&n->words, &m->answer);
    uint32_t all = 0, fresh = 0;
    struct gd_str word;
    for (size_t at = 0; gd_words_next(words, &at, &word); all++) {
        const uint64_t hash = gd_words_hash(&n->words, word);
        fresh += !gd_history_has(n->said, word, hash) && !gd_history_has(n->found, word, hash);
    }
    out[GD_EVIDENCE_answer_calls] = capped(n->answer_calls);
    out[GD_EVIDENCE_answer_numbers] = capped(n->answer_numbers);
    out[GD_EVIDENCE_answer_new_numbers] = capped(n->answer_fresh);
    out[GD_EVIDENCE_answer_keys] = capped(m->answer.n);
    out[GD_EVIDENCE_answer_result] = part_in(m, &m->answer, &m->result);
    out[GD_EVIDENCE_answer_asked] = part_in(m, &m->answer, &m->asked);
    out[GD_EVIDENCE_answer_new_words] = share(fresh, all);
    out[GD_EVIDENCE_answer_trouble] = capped(count_listed(&n->words, TROUBLE, sizeof TROUBLE - 1));
    out[GD_EVIDENCE_result_answer] = part_in(m, &m->result, &m->answer);
}

static uint32_t count_rights(const struct gd_notes *n)
{
    const struct gd_str list = {RIGHTS, sizeof RIGHTS - 1};
    uint32_t count = 0;
    struct gd_str word;
    for (size_t at = 0; gd_words_next(list, &at, &word);)
        count += gd_history_has(n->said, word, gd_words_hash(&n->words, word));
    return count;
}

static void measure_calls(struct measure *m)
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
    out[GD_EVIDENCE_pending] = last && last->state == GD_ANSWERED_NOT;
    out[GD_EVIDENCE_calls] = capped(n->n_calls);
    out[GD_EVIDENCE_lost] = capped(lost);
    out[GD_EVIDENCE_last_lost] = last && last->lost;
    out[GD_EVIDENCE_repeats] = capped(repeats);
    out[GD_EVIDENCE_most_again] = (float)most_again;
    out[GD_EVIDENCE_unknown_calls] = capped(unknown);
    out[GD_EVIDENCE_widest_gap] = capped(gap);
    out[GD_EVIDENCE_most_new] = (float)most_new;
}

static void measure_trajectory(struct measure *m)
{
    struct gd_notes *n = m->notes;
    float *out = m->out;
    uint32_t last = n->traj->n_events;
    while (last > 0 && n->traj->events[last - 1].kind == GD_EVENT_CATALOG)
        last--;
    measure_calls(m);
    out[GD_EVIDENCE_turns] = capped(n->turns);
    out[GD_EVIDENCE_calls_since_user] = capped(n->since);
    out[GD_EVIDENCE_tools] = (float)n->n_tools;
    out[GD_EVIDENCE_last_kind] = last > 0 ? (float)n->traj->events[last - 1].kind : -1;
    out[GD_EVIDENCE_said_rights] = (float)count_rights(n);
    out[GD_EVIDENCE_asked_rights] = 0;
    for (int turn = 0; turn < 2; turn++) { /* the last two, the last one last */
        const uint32_t event = n->user_event[(n->turns + (uint32_t)turn) % 2];
        if (event == UINT32_MAX)
            continue;
        gd_words_plain(&n->words, head(n->traj->events[event].text));
        add_keys(&n->words, &m->asked);
        out[GD_EVIDENCE_asked_rights] = capped(count_listed(&n->words, RIGHTS, sizeof RIGHTS - 1));
    }
}

int gd_evidence_measure(struct gd_notes *n, float out[GD_EVIDENCE_FEATURES])
{
    struct measure *m = gd_arena_alloc(n->arena, sizeof *m);
    if (m == NULL)
        return GD_ENOMEM;
    m->notes = n;
    m->out = out;
    for (int i = 0; i < GD_EVIDENCE_FEATURES; i++)
        out[i] = -1;
    gd_notes_refresh(n);
    measure_trajectory(m);
    int rc = GD_OK;
    if (n->n_calls > 1)
        rc = measure_call(m, &n->calls[n->n_calls - 2], out + GD_EVIDENCE_prev_from_user);
    if (rc == GD_OK && n->n_calls > 0)
        rc = measure_call(m, &n->calls[n->n_calls - 1], out + GD_EVIDENCE_last_from_user);
    if (n->last_result != UINT32_MAX)
        measure_result(m);
    if (n->last_answer != UINT32_MAX)
        measure_answer(m);
    return rc != GD_OK ? rc : gd_notes_failed(n);
}
