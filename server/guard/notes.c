/* notes.c - see notes.h; the rules are in guardian/prompt.h, weights/train/notes.py is the twin.
 *
 * With a limit for every list, the work for a call is bounded however long the trajectory is, whoever
 * chose the words. */
#include "notes.h"

#include "guardian/file.h"
#include "text.h"

#include <string.h>

#define NAME_KEYS_MAX 16
#define NO_EVENT UINT32_MAX
#define NOWHERE (-1) /* no origin: no words */

struct gd_notes *gd_notes_open(struct gd_arena *a, const struct gd_trajectory *t)
{
    const size_t events = t->n_events + 1;
    struct gd_notes *n = gd_arena_alloc(a, sizeof *n);
    if (n == NULL)
        return NULL;
    n->traj = t;
    n->arena = a;
    n->calls = gd_arena_alloc(a, events * sizeof *n->calls);
    n->call_at = gd_arena_alloc(a, events * sizeof *n->call_at);
    n->said = gd_history_open();
    n->found = gd_history_open();
    gd_words_init(&n->words);
    if (n->calls == NULL || n->call_at == NULL || n->said == NULL || n->found == NULL) {
        gd_notes_close(n);
        return NULL;
    }
    return n;
}

void gd_notes_close(struct gd_notes *n)
{
    if (n == NULL)
        return;
    gd_history_close(n->said);
    gd_history_close(n->found);
    gd_words_free(&n->words);
}

int gd_notes_failed(const struct gd_notes *n)
{
    const int rc = gd_words_failed(&n->words);
    if (rc != GD_OK)
        return rc;
    return gd_history_failed(n->said) != GD_OK ? gd_history_failed(n->said)
                                               : gd_history_failed(n->found);
}

/* ---- what happens ---- */

static uint32_t *keep_keys(struct gd_notes *n, struct gd_str text, bool humps, uint32_t max,
                           uint32_t *count)
{
    uint32_t keys[GD_TEXT_KEYS_MAX];
    gd_words_of(&n->words, text, humps);
    *count = gd_words_keys(&n->words, keys, max);
    uint32_t *out = gd_arena_alloc(n->arena, (*count + 1) * sizeof *out);
    if (out != NULL)
        memcpy(out, keys, *count * sizeof *keys);
    return out;
}

void gd_notes_tools(struct gd_notes *n, const struct gd_event *ev)
{
    for (uint32_t i = ev->tool_first; i < ev->tool_first + ev->n_tools; i++) {
        const struct gd_tool *t = &n->traj->tools[i];
        bool known = n->n_tools == GD_NOTE_TOOLS_MAX;
        for (uint32_t k = 0; k < n->n_tools && !known; k++)
            known = gd_str_eq(n->traj->tools[n->tools[k].tool].name, t->name);
        if (known)
            continue;
        struct gd_noted_tool *mine = &n->tools[n->n_tools];
        mine->tool = i;
        mine->name = keep_keys(n, t->name, true, NAME_KEYS_MAX, &mine->n_name);
        mine->about = keep_keys(n, t->description, false, GD_NOTE_WORDS_MAX, &mine->n_about);
        if (mine->name == NULL || mine->about == NULL) {
            n->words.text.failed = GD_ENOMEM;
            return;
        }
        n->n_tools++;
    }
    n->fits = false;
}

void gd_notes_text(struct gd_notes *n, uint32_t event)
{
    const struct gd_event *ev = &n->traj->events[event];
    gd_words_plain(&n->words, ev->text);
    gd_history_add(&n->words, n->said);
    if (ev->kind != GD_EVENT_USER)
        return;
    n->n_turn[n->turns % 2] = gd_words_keys(&n->words, n->turn[n->turns % 2], GD_TEXT_KEYS_MAX);
    n->turns++;
    n->since = 0;
    n->fits = false;
}

void gd_notes_result(struct gd_notes *n, uint32_t event, int64_t call, struct gd_str shown,
                     bool failed)
{
    gd_words_of(&n->words, shown, false);
    gd_history_add(&n->words, n->found);
    if (call < 0)
        return;
    n->calls[n->call_at[call]].state = failed ? GD_ANSWERED_FAILURE : GD_ANSWERED;
    n->calls[n->call_at[call]].result = event;
}

void gd_notes_lost(struct gd_notes *n, uint32_t call)
{
    n->calls[n->call_at[call]].state = GD_ANSWERED_FAILURE;
    n->calls[n->call_at[call]].lost = true;
}

/* ---- the note of a call ---- */

static int origin_of(struct gd_notes *n, struct gd_str leaf)
{
    const struct gd_history *const history[] = {n->said, n->found}; /* GD_FROM_USER, _RESULT */
    const struct gd_str words = gd_words_plain(&n->words, leaf);
    uint32_t all = 0, known = 0; /* known: of the first */
    uint64_t row = 0, power = 1;
    bool each[2], in[2]; /* by history: each word so far is there; this one is */
    each[0] = each[1] = words.len <= GD_NOTE_HISTORY_BYTES;
    struct gd_str word;
    n->looked_up++;
    if (words.len <= 1)
        return NOWHERE;
    for (size_t at = 0;
         (each[0] || each[1] || all < GD_NOTE_WORDS_MAX) && gd_words_next(words, &at, &word);
         all++) {
        const uint64_t hash = gd_words_hash(&n->words, word);
        gd_words_extend(&n->words, hash, &row, &power);
        for (int i = 0; i < 2; i++) {
            in[i] = gd_history_has(history[i], word, hash);
            each[i] = each[i] && in[i];
        }
        known += all < GD_NOTE_WORDS_MAX && (in[0] || in[1]);
    }
    for (int i = 0; i < 2; i++)
        if (each[i] && (all == 1 || gd_history_has_row(history[i], words, all, row, power)))
            return i;
    all = all < GD_NOTE_WORDS_MAX ? all : GD_NOTE_WORDS_MAX;
    return all > 1 && 2 * known >= all ? GD_FROM_PARTLY : GD_FROM_NEW;
}

/* A number's text without a fraction of zeros. */
static struct gd_str without_zeros(struct gd_str s)
{
    size_t end = s.len;
    while (end > 0 && s.ptr[end - 1] == '0')
        end--;
    if (end > 0 && end < s.len && s.ptr[end - 1] == '.')
        s.len = end - 1;
    return s;
}

/* The farthest origin of the leaves of v, of which *left more count. */
static int worst_origin(struct gd_notes *n, const struct gd_json *v, uint32_t *left)
{
    int worst = NOWHERE;
    if (*left == 0)
        return worst;
    if (v->type == GD_JSON_STRING || v->type == GD_JSON_NUMBER) {
        (*left)--;
        return origin_of(n, v->type == GD_JSON_STRING ? v->str : without_zeros(v->raw));
    }
    if (v->type != GD_JSON_OBJECT && v->type != GD_JSON_ARRAY)
        return worst;
    for (const struct gd_json *c = v->child; c != NULL && *left > 0; c = c->next) {
        const int o = worst_origin(n, c, left);
        worst = o > worst ? o : worst;
    }
    return worst;
}

static void begin_part(struct gd_buf *out, size_t start)
{
    if (out->len > start)
        gd_buf_z(out, "; ");
}

static void put_origins(struct gd_notes *n, const struct gd_json *arguments,
                        struct gd_noted_call *mine, struct gd_buf *out)
{
    static const char *const names[GD_ORIGINS] = {"user ", "result ", "partly ", "new "};
    const struct gd_json *member[GD_NOTE_ARGUMENTS_MAX];
    int origin[GD_NOTE_ARGUMENTS_MAX];
    const size_t start = out->len;
    uint32_t count = 0;
    for (const struct gd_json *m = arguments->child; m != NULL && count < GD_NOTE_ARGUMENTS_MAX;
         m = m->next) {
        uint32_t left = GD_NOTE_LEAVES_MAX;
        member[count] = m;
        origin[count++] = worst_origin(n, m, &left);
    }
    for (int o = 0; o < GD_ORIGINS; o++) {
        for (uint32_t i = 0; i < count; i++) {
            if (origin[i] != o)
                continue;
            if (mine->from[o]++ == 0) {
                begin_part(out, start);
                gd_buf_z(out, names[o]);
            } else {
                gd_buf_z(out, ", ");
            }
            gd_text_name(out, member[i]->key);
        }
    }
}

/* Looks for calls like it among the last. */
static void put_again(const struct gd_notes *n, struct gd_noted_call *mine, size_t start,
                      struct gd_buf *out)
{
    static const char *const after[] = {"no answer yet", "answer", "failure"};
    const struct gd_event *events = n->traj->events;
    const struct gd_noted_call *twin = NULL;
    for (uint32_t k = 1; k <= GD_NOTE_CALLS_MAX && k <= n->n_calls; k++) {
        const struct gd_noted_call *old = &n->calls[n->n_calls - k];
        mine->same_name += gd_str_eq(events[old->event].name, events[mine->event].name);
        if (twin == NULL && memcmp(old->digest, mine->digest, sizeof old->digest) == 0)
            twin = old;
    }
    if (twin == NULL)
        return;
    mine->twin = (int32_t)(twin - n->calls);
    mine->again = (uint8_t)(1 + twin->state);
    mine->spoke_since = mine->turn > twin->turn;
    begin_part(out, start);
    gd_buf_fmt(out, "again after %s%s", after[twin->state],
               mine->spoke_since ? ", user spoke since" : "");
}

void gd_notes_fits(struct gd_notes *n)
{
    if (n->fits)
        return;
    memset(&n->asked, 0, sizeof n->asked);
    for (int turn = 0; turn < 2; turn++)
        gd_keyset_add(&n->words, &n->asked, n->turn[turn], n->n_turn[turn]);
    for (uint32_t i = 0; i < n->n_tools; i++) {
        struct gd_noted_tool *t = &n->tools[i];
        t->fit = 2 * gd_keyset_count(&n->words, &n->asked, t->name, t->n_name) +
                 gd_keyset_count(&n->words, &n->asked, t->about, t->n_about);
    }
    n->fits = true;
}

/* How well the function's words fit the request, and the function whose words fit best. */
static void put_fit(struct gd_notes *n, struct gd_noted_call *mine, size_t start,
                    struct gd_buf *out)
{
    uint32_t keys[NAME_KEYS_MAX];
    const struct gd_str name = n->traj->events[mine->event].name;
    gd_notes_fits(n);
    gd_words_of(&n->words, name, true);
    mine->n_name = gd_words_keys(&n->words, keys, NAME_KEYS_MAX);
    mine->asked = gd_keyset_count(&n->words, &n->asked, keys, mine->n_name);
    const struct gd_noted_tool *best = NULL;
    for (uint32_t i = 0; i < n->n_tools; i++) {
        const struct gd_noted_tool *t = &n->tools[i];
        if (best == NULL || t->fit > best->fit)
            best = t;
        if (mine->tool < 0 && gd_str_eq(n->traj->tools[t->tool].name, name))
            mine->tool = (int32_t)i;
    }
    if (best != NULL && mine->tool >= 0) {
        mine->fit = n->tools[mine->tool].fit;
        mine->best_fit = best->fit;
        for (uint32_t i = 0; i < n->n_tools; i++)
            mine->better += n->tools[i].fit > mine->fit;
    }
    if (n->turns == 0)
        return;
    begin_part(out, start);
    gd_buf_fmt(out, "name %u of %u", (unsigned)mine->asked, (unsigned)mine->n_name);
    if (best == NULL || mine->better == 0)
        return;
    gd_buf_z(out, "; rather ");
    gd_text_name(out, n->traj->tools[best->tool].name);
}

/* ---- whether two calls are the same ---- */

struct digest {
    uint8_t at[32];
};

/* SHA-256 of a letter, two digests, and a text: F of it for strings and keys. */
static struct digest digest_of(struct gd_notes *n, char kind, struct digest a, struct digest b,
                               struct gd_str text)
{
    struct gd_buf *buf = &n->words.plain;
    struct digest out = {{0}};
    buf->len = 0;
    gd_buf_add(buf, &kind, 1);
    gd_buf_add(buf, (const char *)a.at, sizeof a.at);
    gd_buf_add(buf, (const char *)b.at, sizeof b.at);
    if (kind == 's' || kind == ':')
        gd_text_fold(buf, text);
    else
        gd_buf_str(buf, text);
    gd_sha256(buf->data, buf->len, out.at);
    return out;
}

/* As a number of 256 bits. */
static void add_digest(struct digest *sum, struct digest d)
{
    unsigned carry = 0;
    for (size_t i = 0; i < sizeof d.at; i++) {
        carry += (unsigned)sum->at[i] + d.at[i];
        sum->at[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

/* Of a value, whatever the order of members: the sum of theirs. */
static struct digest digest_value(struct gd_notes *n, const struct gd_json *v)
{
    const struct digest none = {{0}};
    struct digest d = none;
    switch (v->type) {
    case GD_JSON_STRING:
        return digest_of(n, 's', none, none, v->str);
    case GD_JSON_ARRAY:
        for (const struct gd_json *c = v->child; c != NULL; c = c->next)
            d = digest_of(n, '[', d, digest_value(n, c), GD_STR(""));
        return digest_of(n, ']', d, none, GD_STR(""));
    case GD_JSON_OBJECT:
        for (const struct gd_json *c = v->child; c != NULL; c = c->next)
            add_digest(&d, digest_of(n, ':', digest_value(n, c), none, c->key));
        return digest_of(n, '}', d, none, GD_STR(""));
    case GD_JSON_NULL:
    case GD_JSON_FALSE:
    case GD_JSON_TRUE:
    case GD_JSON_NUMBER:
        break;
    }
    return digest_of(n, 'v', none, none, v->raw);
}

static void digest_call(struct gd_notes *n, const struct gd_event *ev, struct gd_str shown,
                        uint8_t out[32])
{
    const struct digest none = {{0}};
    const bool object = ev->payload != NULL && ev->payload->type == GD_JSON_OBJECT;
    const struct digest arguments =
        object ? digest_value(n, ev->payload) : digest_of(n, 't', none, none, shown);
    const struct digest server = digest_of(n, 'n', none, none, ev->server);
    const struct digest call = digest_of(n, 'c', server, arguments, ev->name);
    memcpy(out, call.at, sizeof call.at);
}

/* A note without something that should be known would be another note. */
static void check(const struct gd_notes *n, struct gd_buf *out)
{
    if (out->failed == 0)
        out->failed = gd_notes_failed(n);
}

void gd_notes_call(struct gd_notes *n, uint32_t event, struct gd_str shown, struct gd_buf *out)
{
    const struct gd_event *ev = &n->traj->events[event];
    const size_t start = out->len;
    struct gd_noted_call *mine = &n->calls[n->n_calls];
    *mine = (struct gd_noted_call){
        .event = event, .turn = n->turns, .tool = -1, .twin = -1, .result = NO_EVENT};
    digest_call(n, ev, shown, mine->digest);
    if (ev->payload != NULL && ev->payload->type == GD_JSON_OBJECT &&
        n->looked_up < GD_NOTE_VALUES_MAX) {
        mine->looked = true;
        put_origins(n, ev->payload, mine, out);
    }
    put_again(n, mine, start, out);
    put_fit(n, mine, start, out);
    n->call_at[event] = n->n_calls++;
    n->since++;
    check(n, out);
}

void gd_notes_answer(struct gd_notes *n, uint32_t event, struct gd_buf *out)
{
    const struct gd_str words = gd_words_plain(&n->words, n->traj->events[event].text);
    struct gd_str seen[GD_NOTE_NUMBERS_MAX], word;
    uint64_t hash[GD_NOTE_NUMBERS_MAX + 1];
    uint32_t count = 0, fresh = 0;
    for (size_t at = 0; count < GD_NOTE_NUMBERS_MAX && gd_words_next(words, &at, &word);) {
        if (!gd_word_has_digit(word))
            continue;
        uint32_t k = 0;
        hash[count] = gd_words_hash(&n->words, word);
        while (k < count && (hash[k] != hash[count] || !gd_str_eq(seen[k], word)))
            k++;
        if (k < count)
            continue;
        fresh += !gd_history_has(n->said, word, hash[count]) &&
                 !gd_history_has(n->found, word, hash[count]);
        seen[count++] = word;
    }
    n->answer_numbers = count;
    n->answer_fresh = fresh;
    n->answer_calls = n->since;
    gd_buf_fmt(out, "%u calls; %u of %u numbers new", (unsigned)n->since, (unsigned)fresh,
               (unsigned)count);
    check(n, out);
}
