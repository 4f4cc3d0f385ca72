/* evidence_values.c - what the values of a call's arguments say beside what the user and results said. */
#include "evidence_parts.h"

#include "text.h"

#include <string.h>

static bool has_word(const struct gd_buf *words, struct gd_str word)
{
    return words->len > 0 && memmem(words->data, words->len, word.ptr - 1, word.len + 2) != NULL;
}

/* Whether it was said, before or since. */
static bool is_known(const struct gd_notes *n, struct gd_str word)
{
    const uint64_t hash = gd_words_hash(&n->words, word);
    return gd_history_has(n->said, word, hash) || gd_history_has(n->found, word, hash);
}

/* Whether all but a few letters in one place of two words are the same. */
static bool is_near(struct gd_str a, struct gd_str b)
{
    const size_t shorter = a.len < b.len ? a.len : b.len, longer = a.len > b.len ? a.len : b.len;
    size_t begin = 0, end = 0;
    while (begin < shorter && a.ptr[begin] == b.ptr[begin])
        begin++;
    while (end < shorter - begin && a.ptr[a.len - 1 - end] == b.ptr[b.len - 1 - end])
        end++;
    return begin + end < longer && 10 * (begin + end) >= 6 * longer;
}

/* Words of the values that nobody said before, but that the user nearly said. */
static void find_near(struct gd_measure *m, float *out)
{
    const struct gd_notes *n = m->notes;
    const struct gd_str user = {m->user.data, m->user.len};
    const struct gd_str values = {m->values.data, m->values.len};
    uint32_t count = 0, looked_at = 0;
    struct gd_str word, said;
    for (size_t at = 0; looked_at < GD_NOTE_WORDS_MAX && gd_words_next(values, &at, &word);) {
        if (word.len < 3 || is_known(n, word))
            continue;
        looked_at++;
        bool found = false;
        for (size_t k = 0; !found && gd_words_next(user, &k, &said);)
            found = is_near(word, said);
        count += found;
    }
    out[AT_near] = gd_capped(count);
}

static bool is_said_word(const struct gd_notes *n, const char *name)
{
    char text[16]; /* a history is asked for a word with the spaces around it */
    const int len = snprintf(text, sizeof text, " %s ", name);
    const struct gd_str word = {text + 1, (size_t)len - 2};
    return gd_history_has(n->said, word, gd_words_hash(&n->words, word));
}

static bool is_said(const struct gd_notes *n, const char *before, uint32_t v, const char *after)
{
    char text[16];
    const int len = snprintf(text, sizeof text, " %s%u%s ", before, (unsigned)v, after);
    return is_known(n, (struct gd_str){text + 1, (size_t)len - 2});
}

/* Whether a number was said in another form: 07 for 7, 19 for 7 pm, 3 for March or three, 5 for 5th. Zeros
 * and years need not be said: they come with dates and times. */
static bool is_said_otherwise(const struct gd_notes *n, struct gd_str word)
{
    static const char *const month[] = {
        "jan", "feb",  "mar",  "apr",    "may",       "jun",      "jul",      "aug",
        "sep", "oct",  "nov",  "dec",    "january",   "february", "march",    "april",
        "may", "june", "july", "august", "september", "october",  "november", "december"};
    static const char *const named[] = {"one",   "two",   "three", "four", "five",   "six",
                                        "seven", "eight", "nine",  "ten",  "eleven", "twelve"};
    static const char *const before[] = {"", "0", "", "", "", "", "", "", ""};
    static const char *const after[] = {"", "", "st", "nd", "rd", "th", "am", "pm", "h"};
    uint32_t v = 0;
    if (word.len > 4)
        return false;
    for (size_t i = 0; i < word.len; i++) {
        if (word.ptr[i] < '0' || word.ptr[i] > '9')
            return false;
        v = 10 * v + (uint32_t)(word.ptr[i] - '0');
    }
    if (v == 0 || (v >= 1900 && v < 2100))
        return true;
    const uint32_t forms[] = {v,
                              v > 12 && v < 24 ? v - 12 : v}; /* as it is, and of the afternoon */
    for (size_t k = 0; k < sizeof forms / sizeof forms[0]; k++) {
        for (size_t i = 0; i < sizeof after / sizeof after[0]; i++)
            if (is_said(n, before[i], forms[k], after[i]))
                return true;
        if (forms[k] <= 12 &&
            (is_said_word(n, month[forms[k] - 1]) || is_said_word(n, month[forms[k] + 11]) ||
             is_said_word(n, named[forms[k] - 1])))
            return true;
    }
    return false;
}

/* Words of the values that nobody said. */
static void find_strange(struct gd_measure *m, float *out)
{
    const struct gd_notes *n = m->notes;
    const struct gd_str values = {m->values.data, m->values.len};
    uint32_t words = 0, numbers = 0, looked_at = 0;
    struct gd_str word;
    for (size_t at = 0; looked_at < GD_TEXT_KEYS_MAX && gd_words_next(values, &at, &word);
         looked_at++) {
        if (is_known(n, word))
            continue;
        const bool digit = gd_word_has_digit(word);
        words += !digit;
        numbers += digit && !is_said_otherwise(n, word);
    }
    out[AT_strange_words] = gd_capped(words);
    out[AT_strange_numbers] = gd_capped(numbers);
}

/* The strings and numbers of a value, of which *left more count, each behind a space. */
static void add_values(struct gd_buf *out, const struct gd_json *v, uint32_t *left)
{
    if (v->type == GD_JSON_STRING || v->type == GD_JSON_NUMBER) {
        (*left)--;
        gd_buf_add(out, " ", 1);
        gd_buf_str(out, gd_head(v->type == GD_JSON_STRING ? v->str : v->raw));
        return;
    }
    for (const struct gd_json *c = v->child; c != NULL && *left > 0; c = c->next)
        add_values(out, c, left);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool ends_sentence(char c)
{
    return c == '.' || c == '?' || c == '!' || c == ':' || c == '\n';
}

/* Capitalised words of the user's last text, but for the first of a sentence, that the values lack. */
static void find_unused_names(struct gd_measure *m, float *out)
{
    struct gd_notes *n = m->notes;
    const uint32_t event = n->user_event[(n->turns + 1) % 2];
    const struct gd_str text =
        event == UINT32_MAX ? (struct gd_str){"", 0} : gd_head(n->traj->events[event].text);
    uint32_t count = 0, looked_at = 0;
    bool first = true; /* of a sentence */
    for (size_t i = 0; i < text.len && looked_at < GD_TEXT_KEYS_MAX;) {
        const size_t begin = i;
        while (i < text.len && is_letter(text.ptr[i]))
            i++;
        if (i == begin) {
            first = first || ends_sentence(text.ptr[i]);
            i++;
            continue;
        }
        if (text.ptr[begin] <= 'Z' && !first && i - begin > 1) {
            looked_at++;
            const struct gd_str name = {text.ptr + begin, i - begin};
            const struct gd_str words = gd_words_of(&n->words, name, false);
            count += words.len > 2 &&
                     !has_word(&m->values, (struct gd_str){words.ptr + 1, words.len - 2});
        }
        first = false;
    }
    out[AT_unused_names] = gd_capped(count);
}

/* Words of the last two user texts with a digit, and those that the values lack. */
static void find_specifics(struct gd_measure *m, float *out)
{
    struct gd_notes *n = m->notes;
    uint32_t count = 0, unused = 0;
    for (uint32_t turn = 0; turn < 2; turn++) {
        const uint32_t event = n->user_event[(n->turns + turn) % 2]; /* the last one last */
        if (event == UINT32_MAX)
            continue;
        const struct gd_str text = gd_head(n->traj->events[event].text);
        const struct gd_str words = gd_words_plain(&n->words, text);
        struct gd_str word;
        for (size_t at = 0; count < GD_EVIDENCE_COUNT_MAX && gd_words_next(words, &at, &word);) {
            const bool specific = gd_word_has_digit(word);
            count += specific;
            unused += specific && !has_word(&m->values, word);
        }
    }
    out[AT_specifics] = (float)count;
    out[AT_unused] = (float)unused;
}

void gd_evidence_values(struct gd_measure *m, const struct gd_event *ev, float *out)
{
    struct gd_notes *n = m->notes;
    uint32_t left = GD_NOTE_ARGUMENTS_MAX * GD_NOTE_LEAVES_MAX;
    m->values.len = 0;
    if (ev->payload)
        add_values(&m->values, ev->payload, &left);
    else
        gd_buf_str(&m->values, ev->text);
    gd_words_plain(&n->words, gd_head((struct gd_str){m->values.data, m->values.len}));
    gd_evidence_keep(&n->words, &m->values);
    gd_evidence_add_keys(&n->words, &m->arguments);
    find_specifics(m, out);
    find_strange(m, out);
    find_near(m, out);
    find_unused_names(m, out);
}
