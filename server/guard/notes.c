/* notes.c - see notes.h; the rules are in guardian/prompt.h, weights/train/notes.py is the twin.
 *
 * Every text becomes words: " word word ". Whether a value was said before is then one search in
 * what was said; both histories keep their last bytes only, and every list has a limit, so the work
 * for a call is bounded however long the trajectory is. */
#include "notes.h"

#include "guardian/file.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

#define NAME_KEYS_MAX 16
#define TEXT_KEYS_MAX 256

enum origin { FROM_USER, FROM_RESULT, PARTLY, NEW, ORIGINS, NOWHERE = -1 };
enum answered { NO_ANSWER, ANSWER, FAILURE };

struct keys { /* sorted, none twice */
    uint32_t *at;
    uint32_t n;
};

struct tool {
    uint32_t tool; /* of the trajectory */
    struct keys name, about;
    uint32_t fit;
};

struct call {
    uint8_t digest[32]; /* of server, name and arguments */
    uint32_t turn;      /* user turns before it */
    enum answered state;
};

struct gd_notes {
    const struct gd_trajectory *traj;
    struct gd_arena *arena;
    struct gd_buf said, found;  /* by system and user; by results */
    struct gd_buf words, plain; /* of the text in hand; folded text */
    struct call *calls;         /* [events] */
    uint32_t *call_at;          /* [events] number of the call of an event */
    struct tool tools[GD_NOTE_TOOLS_MAX];
    uint32_t n_calls, n_tools, turns, since;
    uint32_t looked_up;                                       /* values */
    uint32_t request[2 * TEXT_KEYS_MAX], last[TEXT_KEYS_MAX]; /* of two user turns, of one */
    struct keys asked, newest;                                /* these, sorted */
    bool fits;                                                /* tools[].fit is up to date */
};

/* ---- words ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex4(struct gd_str s, size_t i)
{
    for (size_t k = i; k < i + 4; k++)
        if (k >= s.len || !(is_digit(s.ptr[k]) || (s.ptr[k] >= 'a' && s.ptr[k] <= 'f') ||
                            (s.ptr[k] >= 'A' && s.ptr[k] <= 'F')))
            return false;
    return true;
}

static bool is_word(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80;
}

/* b becomes " word word ", or " " without any; humps: camelCase is two words. Empty when there is no
 * memory: the other readers of words rely on the space behind each. */
static void to_words(struct gd_buf *b, struct gd_str s, bool humps)
{
    bool digit = false, lower = false, in_word = false;
    b->len = 0;
    gd_buf_add(b, " ", 1);
    for (size_t i = 0; i < s.len && !b->failed; i++) {
        char c = s.ptr[i];
        if (c == '\\') { /* an escape parts words */
            i += i + 1 < s.len && s.ptr[i + 1] == 'u' && is_hex4(s, i + 2) ? 5 : 1;
            c = ' ';
        } else if (c == ',' && digit && i + 1 < s.len && is_digit(s.ptr[i + 1])) {
            continue;
        }
        const bool upper = c >= 'A' && c <= 'Z';
        if (humps && upper && lower && in_word) {
            gd_buf_add(b, " ", 1);
            in_word = false;
        }
        digit = is_digit(c);
        lower = digit || (c >= 'a' && c <= 'z');
        c = upper ? (char)(c + 32) : c;
        if (is_word((unsigned char)c)) {
            gd_buf_add(b, &c, 1);
            in_word = true;
        } else if (in_word) {
            gd_buf_add(b, " ", 1);
            in_word = false;
        }
    }
    if (in_word)
        gd_buf_add(b, " ", 1);
    if (b->failed != 0)
        b->len = 0;
}

static struct gd_str whole(const struct gd_buf *b)
{
    return (struct gd_str){b->data, b->len};
}

/* The next word of " word word " from *at on; false at the end. */
static bool next_word(struct gd_str words, size_t *at, struct gd_str *word)
{
    const size_t begin = *at + 1;
    if (begin >= words.len)
        return false;
    const char *end = memchr(words.ptr + begin, ' ', words.len - begin);
    word->ptr = words.ptr + begin;
    word->len = (size_t)(end - word->ptr);
    *at = begin + word->len;
    return true;
}

static bool holds(const struct gd_buf *history, struct gd_str words)
{
    return memmem(history->data, history->len, words.ptr, words.len) != NULL;
}

/* The word with the spaces around it, which next_word always finds there. */
static bool known_word(const struct gd_notes *n, struct gd_str word)
{
    const struct gd_str spaced = {word.ptr - 1, word.len + 2};
    return holds(&n->said, spaced) || holds(&n->found, spaced);
}

static void remember(struct gd_buf *history, const struct gd_buf *words)
{
    if (words->len == 0)
        return; /* they failed, and say so */
    gd_buf_add(history, words->data + 1, words->len - 1);
    if (history->len > GD_NOTE_HISTORY_BYTES) {
        memmove(history->data, history->data + history->len - GD_NOTE_HISTORY_BYTES,
                GD_NOTE_HISTORY_BYTES);
        history->len = GD_NOTE_HISTORY_BYTES;
        history->data[history->len] = '\0';
    }
}

/* ---- keys: the first four bytes of words that tell something ---- */

static uint32_t key_of(struct gd_str word)
{
    uint32_t key = 0;
    for (size_t i = 0; i < 4 && i < word.len; i++)
        key |= (uint32_t)(unsigned char)word.ptr[i] << (24 - 8 * i);
    return key;
}

static bool is_common(uint32_t key)
{
    static const char words[] =
        " the and for with that this from your you are can use get has its all any not one was "
        "will have when into what which given specified ";
    const struct gd_str s = {words, sizeof words - 1};
    struct gd_str word;
    for (size_t at = 0; next_word(s, &at, &word);)
        if (key_of(word) == key)
            return true;
    return false;
}

static int compare_keys(const void *x, const void *y)
{
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

/* The first `max` keys of the words in hand, sorted, none twice. */
static uint32_t take_keys(struct gd_str words, uint32_t *out, uint32_t max)
{
    uint32_t n = 0, kept = 0;
    struct gd_str word;
    for (size_t at = 0; n < max && next_word(words, &at, &word);) {
        const uint32_t key = key_of(word);
        if (word.len > 2 && !is_common(key))
            out[n++] = key;
    }
    qsort(out, n, sizeof *out, compare_keys);
    for (uint32_t i = 0; i < n; i++)
        if (kept == 0 || out[kept - 1] != out[i])
            out[kept++] = out[i];
    return kept;
}

static uint32_t in_common(struct keys x, struct keys y)
{
    uint32_t n = 0;
    for (uint32_t i = 0, k = 0; i < x.n && k < y.n;) {
        n += x.at[i] == y.at[k];
        const bool next = x.at[i] <= y.at[k];
        k += x.at[i] >= y.at[k];
        i += next;
    }
    return n;
}

/* ---- what happens ---- */

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
    gd_buf_init(&n->said, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&n->found, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&n->words, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&n->plain, GD_NOTE_TEXT_BYTES_MAX);
    n->asked.at = n->request;
    n->newest.at = n->last;
    if (n->calls == NULL || n->call_at == NULL)
        return NULL;
    gd_buf_add(&n->said, " ", 1);
    gd_buf_add(&n->found, " ", 1);
    return n;
}

void gd_notes_close(struct gd_notes *n)
{
    if (n == NULL)
        return;
    gd_buf_free(&n->said);
    gd_buf_free(&n->found);
    gd_buf_free(&n->words);
    gd_buf_free(&n->plain);
}

/* The words of F(text). */
static struct gd_str plain_words(struct gd_notes *n, struct gd_str text)
{
    n->plain.len = 0;
    gd_text_fold(&n->plain, text);
    to_words(&n->words, whole(&n->plain), false);
    return whole(&n->words);
}

static bool keep_keys(struct gd_notes *n, struct gd_str text, bool humps, uint32_t max,
                      struct keys *out)
{
    uint32_t keys[TEXT_KEYS_MAX];
    to_words(&n->words, text, humps);
    out->n = take_keys(whole(&n->words), keys, max);
    out->at = gd_arena_alloc(n->arena, (out->n + 1) * sizeof *out->at);
    if (out->at != NULL)
        memcpy(out->at, keys, out->n * sizeof *keys);
    return out->at != NULL;
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
        struct tool *mine = &n->tools[n->n_tools];
        mine->tool = i;
        if (!keep_keys(n, t->name, true, NAME_KEYS_MAX, &mine->name) ||
            !keep_keys(n, t->description, false, GD_NOTE_WORDS_MAX, &mine->about)) {
            n->words.failed = GD_ENOMEM;
            return;
        }
        n->n_tools++;
    }
    n->fits = false;
}

void gd_notes_text(struct gd_notes *n, const struct gd_event *ev)
{
    const struct gd_str words = plain_words(n, ev->text);
    remember(&n->said, &n->words);
    if (ev->kind != GD_EVENT_USER)
        return;
    n->turns++;
    n->since = 0;
    memcpy(n->request, n->last, n->newest.n * sizeof *n->last);
    const uint32_t before = n->newest.n;
    n->newest.n = take_keys(words, n->last, TEXT_KEYS_MAX);
    memcpy(n->request + before, n->last, n->newest.n * sizeof *n->last);
    const uint32_t both = before + n->newest.n;
    qsort(n->request, both, sizeof *n->request, compare_keys);
    n->asked.n = 0;
    for (uint32_t i = 0; i < both; i++)
        if (n->asked.n == 0 || n->request[n->asked.n - 1] != n->request[i])
            n->request[n->asked.n++] = n->request[i];
    n->fits = false;
}

void gd_notes_result(struct gd_notes *n, int64_t call, struct gd_str shown, bool failed)
{
    to_words(&n->words, shown, false);
    remember(&n->found, &n->words);
    if (call >= 0)
        n->calls[n->call_at[call]].state = failed ? FAILURE : ANSWER;
}

void gd_notes_lost(struct gd_notes *n, uint32_t call)
{
    n->calls[n->call_at[call]].state = FAILURE;
}

/* ---- the note of a call ---- */

static enum origin origin_of(struct gd_notes *n, struct gd_str leaf)
{
    const struct gd_str words = plain_words(n, leaf);
    uint32_t all = 0, known = 0;
    struct gd_str word;
    n->looked_up++;
    if (words.len == 1)
        return NOWHERE;
    if (holds(&n->said, words))
        return FROM_USER;
    if (holds(&n->found, words))
        return FROM_RESULT;
    for (size_t at = 0; all < GD_NOTE_WORDS_MAX && next_word(words, &at, &word); all++)
        known += known_word(n, word);
    return all > 1 && 2 * known >= all ? PARTLY : NEW;
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
static enum origin worst_origin(struct gd_notes *n, const struct gd_json *v, uint32_t *left)
{
    enum origin worst = NOWHERE;
    if (*left == 0)
        return worst;
    if (v->type == GD_JSON_STRING || v->type == GD_JSON_NUMBER) {
        (*left)--;
        return origin_of(n, v->type == GD_JSON_STRING ? v->str : without_zeros(v->raw));
    }
    if (v->type != GD_JSON_OBJECT && v->type != GD_JSON_ARRAY)
        return worst;
    for (const struct gd_json *c = v->child; c != NULL && *left > 0; c = c->next) {
        const enum origin o = worst_origin(n, c, left);
        worst = o > worst ? o : worst;
    }
    return worst;
}

static void begin_part(struct gd_buf *out, size_t start)
{
    if (out->len > start)
        gd_buf_z(out, "; ");
}

static void put_origins(struct gd_notes *n, const struct gd_json *arguments, struct gd_buf *out)
{
    static const char *const names[ORIGINS] = {"user ", "result ", "partly ", "new "};
    const struct gd_json *member[GD_NOTE_ARGUMENTS_MAX];
    enum origin origin[GD_NOTE_ARGUMENTS_MAX];
    const size_t start = out->len;
    uint32_t count = 0;
    for (const struct gd_json *m = arguments->child; m != NULL && count < GD_NOTE_ARGUMENTS_MAX;
         m = m->next) {
        uint32_t left = GD_NOTE_LEAVES_MAX;
        member[count] = m;
        origin[count++] = worst_origin(n, m, &left);
    }
    for (int o = 0; o < ORIGINS; o++) {
        bool first = true;
        for (uint32_t i = 0; i < count; i++) {
            if ((int)origin[i] != o)
                continue;
            if (first)
                begin_part(out, start);
            gd_buf_z(out, first ? names[o] : ", ");
            gd_text_name(out, member[i]->key);
            first = false;
        }
    }
}

static void put_again(const struct gd_notes *n, const struct call *mine, size_t start,
                      struct gd_buf *out)
{
    static const char *const after[] = {"no answer yet", "answer", "failure"};
    for (uint32_t k = 1; k <= GD_NOTE_CALLS_MAX && k <= n->n_calls; k++) {
        const struct call *old = &n->calls[n->n_calls - k];
        if (memcmp(old->digest, mine->digest, sizeof old->digest) != 0)
            continue;
        begin_part(out, start);
        gd_buf_fmt(out, "again after %s%s", after[old->state],
                   mine->turn > old->turn ? ", user spoke since" : "");
        return;
    }
}

/* How well the function's words fit the request, and the function whose words fit best. */
static void put_fit(struct gd_notes *n, struct gd_str name, size_t start, struct gd_buf *out)
{
    uint32_t keys[NAME_KEYS_MAX];
    to_words(&n->words, name, true);
    const struct keys mine = {keys, take_keys(whole(&n->words), keys, NAME_KEYS_MAX)};
    begin_part(out, start);
    gd_buf_fmt(out, "name %u of %u", (unsigned)in_common(mine, n->asked), (unsigned)mine.n);
    const struct tool *best = NULL, *own = NULL;
    for (uint32_t i = 0; i < n->n_tools; i++) {
        struct tool *t = &n->tools[i];
        if (!n->fits)
            t->fit = 2 * in_common(t->name, n->asked) + in_common(t->about, n->asked);
        if (best == NULL || t->fit > best->fit)
            best = t;
        if (own == NULL && gd_str_eq(n->traj->tools[t->tool].name, name))
            own = t;
    }
    n->fits = true;
    if (own == NULL || best->fit <= own->fit)
        return;
    gd_buf_z(out, "; rather ");
    gd_text_name(out, n->traj->tools[best->tool].name);
}

static void digest_call(struct gd_notes *n, const struct gd_event *ev, struct gd_str shown,
                        uint8_t out[32])
{
    n->plain.len = 0;
    gd_buf_str(&n->plain, ev->server);
    gd_buf_add(&n->plain, "", 1);
    gd_buf_str(&n->plain, ev->name);
    gd_buf_add(&n->plain, "", 1);
    gd_buf_str(&n->plain, shown);
    gd_sha256(n->plain.data, n->plain.len, out);
}

/* A note without something that should be known would be another note. */
static void check(const struct gd_notes *n, struct gd_buf *out)
{
    const int failed[] = {out->failed, n->words.failed, n->plain.failed, n->said.failed,
                          n->found.failed};
    for (size_t i = 0; i < sizeof failed / sizeof failed[0] && out->failed == 0; i++)
        out->failed = failed[i];
}

void gd_notes_call(struct gd_notes *n, uint32_t event, struct gd_str shown, struct gd_buf *out)
{
    const struct gd_event *ev = &n->traj->events[event];
    const size_t start = out->len;
    struct call *mine = &n->calls[n->n_calls];
    mine->turn = n->turns;
    mine->state = NO_ANSWER;
    digest_call(n, ev, shown, mine->digest);
    if (ev->payload != NULL && ev->payload->type == GD_JSON_OBJECT &&
        n->looked_up < GD_NOTE_VALUES_MAX)
        put_origins(n, ev->payload, out);
    put_again(n, mine, start, out);
    if (n->turns > 0)
        put_fit(n, ev->name, start, out);
    n->call_at[event] = n->n_calls++;
    n->since++;
    check(n, out);
}

void gd_notes_answer(struct gd_notes *n, const struct gd_event *ev, struct gd_buf *out)
{
    const struct gd_str words = plain_words(n, ev->text);
    struct gd_str seen[GD_NOTE_NUMBERS_MAX], word;
    uint32_t count = 0, fresh = 0;
    for (size_t at = 0; next_word(words, &at, &word) && count < GD_NOTE_NUMBERS_MAX;) {
        bool wanted = false;
        for (size_t i = 0; i < word.len; i++)
            wanted = wanted || is_digit(word.ptr[i]);
        for (uint32_t k = 0; k < count && wanted; k++)
            wanted = !gd_str_eq(seen[k], word);
        if (!wanted)
            continue;
        seen[count++] = word;
        fresh += !known_word(n, word);
    }
    gd_buf_fmt(out, "%u calls; %u of %u numbers new", (unsigned)n->since, (unsigned)fresh,
               (unsigned)count);
    check(n, out);
}
