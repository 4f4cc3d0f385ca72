/* notes.c - see notes.h; the rules are in guardian/prompt.h, weights/train/notes.py is the twin.
 *
 * Every text becomes words: " word word ". Both histories keep their last bytes only, with hashes
 * that find a word at once, and words in a row by one comparison for each place. With a limit for
 * every list, the work for a call is bounded however long the trajectory is, whoever chose the words:
 * the factors of the hashes are random. They change how long it takes, never what is found. */
#include "notes.h"

#include "guardian/file.h"
#include "text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define NAME_KEYS_MAX 16
#define TEXT_KEYS_MAX 256
/* A history's text may be twice what counts of it, so that it is seldom moved. */
#define HISTORY_TEXT_MAX ((size_t)2 * GD_NOTE_HISTORY_BYTES)
#define HISTORY_WORDS_MAX (HISTORY_TEXT_MAX / 2)
#define HISTORY_BITS 14 /* different words take more room than equal ones: a third stays free */
static_assert(HISTORY_TEXT_MAX - 1 <= UINT16_MAX, "a place fits into 16 bits");
static_assert(1 << HISTORY_BITS >= HISTORY_WORDS_MAX, "there is always a free slot");
#define SET_BITS 11 /* of a set of keys: four slots for each */
static_assert(1 << SET_BITS > 2 * TEXT_KEYS_MAX, "there is always a free slot");

enum origin { FROM_USER, FROM_RESULT, PARTLY, NEW, ORIGINS, NOWHERE = -1 };
enum answered { NO_ANSWER, ANSWER, FAILURE };

struct keys { /* none twice */
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

struct history {
    struct gd_buf text; /* " word word "; once it was moved, a part of a word may begin it */
    uint32_t n, first;  /* words in it; the first of them within what counts */
    uint64_t hash[HISTORY_WORDS_MAX + 1]; /* of all words before a word: remember */
    uint16_t at[HISTORY_WORDS_MAX];       /* the space before it */
    uint16_t slot[1 << HISTORY_BITS]; /* by hash: 1 + number of a word's last place; 0 is free */
};

struct gd_notes {
    const struct gd_trajectory *traj;
    struct gd_arena *arena;
    struct history *history;           /* [2]: FROM_USER, by system and user; FROM_RESULT */
    struct gd_buf words, plain;        /* of the text in hand; folded text */
    uint64_t byte_factor, word_factor; /* of hashes: random, odd */
    struct call *calls;                /* [events] */
    uint32_t *call_at;                 /* [events] number of the call of an event */
    struct tool tools[GD_NOTE_TOOLS_MAX];
    uint32_t n_calls, n_tools, turns, since;
    uint32_t looked_up;                         /* values */
    uint32_t turn[2][TEXT_KEYS_MAX], n_turn[2]; /* keys of the last two user turns, in turn */
    uint32_t common[1 << SET_BITS], asked[1 << SET_BITS]; /* keys by hash, 0 is free; of turn */
    bool fits;                                            /* asked and tools[].fit are up to date */
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

/* ---- histories ---- */

/* Two words get one hash for whatever factor only when they have some thousand bytes. */
static uint64_t hash_of(const struct gd_notes *n, struct gd_str word)
{
    uint64_t h = 0;
    for (size_t i = 0; i < word.len; i++)
        h = (h + (unsigned char)word.ptr[i]) * n->byte_factor;
    return h;
}

/* Where the word, with the spaces that next_word finds around it, is or would be. */
static uint16_t *slot_of(struct history *h, struct gd_str word, uint64_t hash)
{
    size_t i = (size_t)(hash >> (64 - HISTORY_BITS));
    for (; h->slot[i] != 0; i = (i + 1) % (1 << HISTORY_BITS)) {
        const size_t at = h->at[h->slot[i] - 1];
        if (h->text.len - at >= word.len + 2 &&
            memcmp(h->text.data + at, word.ptr - 1, word.len + 2) == 0)
            break;
    }
    return &h->slot[i];
}

static bool holds(struct history *h, struct gd_str word, uint64_t hash)
{
    return *slot_of(h, word, hash) > h->first;
}

/* Whether the words stand there in a row: n of them, with that hash and power of the factor. */
static bool holds_row(const struct history *h, struct gd_str words, uint32_t n, uint64_t hash,
                      uint64_t power)
{
    for (uint32_t i = h->first; i + n <= h->n; i++)
        if (h->hash[i + n] - h->hash[i] * power == hash && h->text.len - h->at[i] >= words.len &&
            memcmp(h->text.data + h->at[i], words.ptr, words.len) == 0)
            return true;
    return false;
}

static void forget(struct history *h)
{
    h->n = h->first = 0;
    h->hash[0] = 0;
    memset(h->slot, 0, sizeof h->slot);
}

/* Adds the words in hand. */
static void remember(struct gd_notes *n, struct history *h)
{
    const size_t all = n->words.len > 0 ? n->words.len - 1 : 0; /* its first space is there */
    const size_t more = all < GD_NOTE_HISTORY_BYTES ? all : GD_NOTE_HISTORY_BYTES;
    size_t at = h->text.len - 1;
    if (h->text.len + more > HISTORY_TEXT_MAX) {
        const char *kept = h->text.data + h->text.len - GD_NOTE_HISTORY_BYTES;
        h->text.len = GD_NOTE_HISTORY_BYTES;
        memmove(h->text.data, kept, h->text.len);
        at = (size_t)((char *)memchr(h->text.data, ' ', h->text.len) - h->text.data);
        forget(h);
    }
    gd_buf_add(&h->text, n->words.data + n->words.len - more, more);
    for (struct gd_str word; next_word(whole(&h->text), &at, &word);) {
        const uint64_t hash = hash_of(n, word);
        h->at[h->n] = (uint16_t)(at - word.len - 1);
        h->hash[h->n + 1] = (h->hash[h->n] + hash) * n->word_factor;
        h->n++;
        *slot_of(h, word, hash) = (uint16_t)h->n;
    }
    while (h->first < h->n && h->text.len - h->at[h->first] > GD_NOTE_HISTORY_BYTES)
        h->first++;
}

/* ---- keys: the first four bytes of words that tell something ---- */

static uint32_t key_of(struct gd_str word)
{
    uint32_t key = 0;
    for (size_t i = 0; i < 4 && i < word.len; i++)
        key |= (uint32_t)(unsigned char)word.ptr[i] << (24 - 8 * i);
    return key;
}

/* Where the key is or would be. */
static uint32_t *key_slot(const struct gd_notes *n, uint32_t *set, uint32_t key)
{
    size_t i = (size_t)(key * n->byte_factor >> (64 - SET_BITS));
    while (set[i] != 0 && set[i] != key)
        i = (i + 1) % (1 << SET_BITS);
    return &set[i];
}

static void find_common(struct gd_notes *n)
{
    const struct gd_str s = GD_STR(
        " the and for with that this from your you are can use get has its all any not one was "
        "will have when into what which given specified ");
    struct gd_str word;
    for (size_t at = 0; next_word(s, &at, &word);)
        *key_slot(n, n->common, key_of(word)) = key_of(word);
}

/* The first `max` keys of the words in hand, each once. */
static uint32_t take_keys(struct gd_notes *n, uint32_t *out, uint32_t max)
{
    uint32_t taken = 0, kept = 0;
    struct gd_str word;
    for (size_t at = 0; taken < max && next_word(whole(&n->words), &at, &word);) {
        const uint32_t key = key_of(word);
        if (word.len < 3 || *key_slot(n, n->common, key) != 0)
            continue;
        uint32_t k = 0;
        while (k < kept && out[k] != key)
            k++;
        out[k] = key;
        kept += k == kept;
        taken++;
    }
    return kept;
}

static uint32_t count_asked(struct gd_notes *n, struct keys keys)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < keys.n; i++)
        count += *key_slot(n, n->asked, keys.at[i]) != 0;
    return count;
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
    n->history = malloc(2 * sizeof *n->history);
    if (n->calls == NULL || n->call_at == NULL || n->history == NULL) {
        free(n->history);
        return NULL;
    }
    gd_buf_init(&n->words, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&n->plain, GD_NOTE_TEXT_BYTES_MAX);
    /* Without random bytes somebody could choose words that make look-ups slow, no more. */
    uint64_t factor[2] = {(uintptr_t)n, (uintptr_t)a};
    (void)!getrandom(factor, sizeof factor, 0);
    n->byte_factor = factor[0] | 1;
    n->word_factor = factor[1] | 1;
    find_common(n);
    for (int i = FROM_USER; i <= FROM_RESULT; i++) {
        gd_buf_init(&n->history[i].text, HISTORY_TEXT_MAX);
        gd_buf_add(&n->history[i].text, " ", 1);
        forget(&n->history[i]);
    }
    return n;
}

void gd_notes_close(struct gd_notes *n)
{
    if (n == NULL)
        return;
    for (int i = FROM_USER; i <= FROM_RESULT; i++)
        gd_buf_free(&n->history[i].text);
    free(n->history);
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
    out->n = take_keys(n, keys, max);
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
    plain_words(n, ev->text);
    remember(n, &n->history[FROM_USER]);
    if (ev->kind != GD_EVENT_USER)
        return;
    n->n_turn[n->turns % 2] = take_keys(n, n->turn[n->turns % 2], TEXT_KEYS_MAX);
    n->turns++;
    n->since = 0;
    n->fits = false;
}

void gd_notes_result(struct gd_notes *n, int64_t call, struct gd_str shown, bool failed)
{
    to_words(&n->words, shown, false);
    remember(n, &n->history[FROM_RESULT]);
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
    uint32_t all = 0, known = 0; /* known: of the first */
    uint64_t row = 0, power = 1;
    bool each[2], in[2]; /* by history: each word so far is there; this one is */
    each[0] = each[1] = words.len <= GD_NOTE_HISTORY_BYTES;
    struct gd_str word;
    n->looked_up++;
    if (words.len <= 1)
        return NOWHERE;
    for (size_t at = 0;
         (each[0] || each[1] || all < GD_NOTE_WORDS_MAX) && next_word(words, &at, &word); all++) {
        const uint64_t hash = hash_of(n, word);
        row = (row + hash) * n->word_factor;
        power *= n->word_factor;
        for (int i = FROM_USER; i <= FROM_RESULT; i++) {
            in[i] = holds(&n->history[i], word, hash);
            each[i] = each[i] && in[i];
        }
        known += all < GD_NOTE_WORDS_MAX && (in[0] || in[1]);
    }
    for (int i = FROM_USER; i <= FROM_RESULT; i++)
        if (each[i] && (all == 1 || holds_row(&n->history[i], words, all, row, power)))
            return (enum origin)i;
    all = all < GD_NOTE_WORDS_MAX ? all : GD_NOTE_WORDS_MAX;
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

static void find_asked(struct gd_notes *n)
{
    memset(n->asked, 0, sizeof n->asked);
    for (int turn = 0; turn < 2; turn++)
        for (uint32_t i = 0; i < n->n_turn[turn]; i++)
            *key_slot(n, n->asked, n->turn[turn][i]) = n->turn[turn][i];
}

/* How well the function's words fit the request, and the function whose words fit best. */
static void put_fit(struct gd_notes *n, struct gd_str name, size_t start, struct gd_buf *out)
{
    uint32_t keys[NAME_KEYS_MAX];
    to_words(&n->words, name, true);
    const struct keys mine = {keys, take_keys(n, keys, NAME_KEYS_MAX)};
    if (!n->fits)
        find_asked(n);
    begin_part(out, start);
    gd_buf_fmt(out, "name %u of %u", (unsigned)count_asked(n, mine), (unsigned)mine.n);
    const struct tool *best = NULL, *own = NULL;
    for (uint32_t i = 0; i < n->n_tools; i++) {
        struct tool *t = &n->tools[i];
        if (!n->fits)
            t->fit = 2 * count_asked(n, t->name) + count_asked(n, t->about);
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
    const int failed[] = {out->failed, n->words.failed, n->plain.failed,
                          n->history[FROM_USER].text.failed, n->history[FROM_RESULT].text.failed};
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
    uint64_t hash[GD_NOTE_NUMBERS_MAX + 1];
    uint32_t count = 0, fresh = 0;
    for (size_t at = 0; count < GD_NOTE_NUMBERS_MAX && next_word(words, &at, &word);) {
        bool wanted = false;
        for (size_t i = 0; i < word.len; i++)
            wanted = wanted || is_digit(word.ptr[i]);
        if (!wanted)
            continue;
        uint32_t k = 0;
        hash[count] = hash_of(n, word);
        while (k < count && (hash[k] != hash[count] || !gd_str_eq(seen[k], word)))
            k++;
        if (k < count)
            continue;
        fresh += !holds(&n->history[FROM_USER], word, hash[count]) &&
                 !holds(&n->history[FROM_RESULT], word, hash[count]);
        seen[count++] = word;
    }
    gd_buf_fmt(out, "%u calls; %u of %u numbers new", (unsigned)n->since, (unsigned)fresh,
               (unsigned)count);
    check(n, out);
}
