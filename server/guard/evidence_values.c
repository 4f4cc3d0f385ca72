/* evidence_values.c - what the values of a call's arguments say beside what the user and results said. */
#include "evidence_parts.h"

#include "text.h"

#include <string.h>

static bool has_word(const struct gd_buf *words, struct gd_str word)
{
    return words->len > 0 && memmem(words->data, words->len, word.ptr - 1, word.len + 2) != NULL;
}

/* Whether it was said by anybody until now. */
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
 * need not be said, nor years and the afternoon's 7 of a date or time. */
static bool is_said_otherwise(const struct gd_notes *n, struct gd_str word, bool date)
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
    if (v == 0 || (date && v >= 1900 && v < 2100))
        return true;
    for (size_t i = 0; i < sizeof after / sizeof after[0]; i++)
        if (is_said(n, before[i], v, after[i]))
            return true;
    if (v <= 12)
        return is_said_word(n, month[v - 1]) || is_said_word(n, month[v + 11]) ||
               is_said_word(n, named[v - 1]);
    if (v >= 24)
        return false;
    return is_said(n, "", v - 12, "pm") ||
           (is_said(n, "", v - 12, "") && (date || is_said_word(n, "pm"))) ||
           (date && is_said(n, "0", v - 12, ""));
}

/* Kept for later results: a word that nobody had said. Without memory the measure fails. */
static void keep_strange(struct gd_measure *m, struct gd_str word, struct gd_measured_call *call)
{
    if (call->n_strange == GD_STRANGE_MAX || word.len < 3)
        return;
    for (uint32_t i = 0; i < call->n_strange; i++)
        if (gd_str_eq(call->strange[i], word))
            return;
    char *text = gd_arena_alloc(m->notes->arena, word.len + 2);
    if (text == NULL) {
        m->values.failed = GD_ENOMEM;
        return;
    }
    memcpy(text, word.ptr - 1, word.len + 2);
    call->strange[call->n_strange++] = (struct gd_str){text + 1, word.len};
}

/* Two to five capitals: AAPL, EUR, LHR. */
static bool is_code(struct gd_str s)
{
    size_t n = 0;
    while (n < s.len && s.ptr[n] >= 'A' && s.ptr[n] <= 'Z')
        n++;
    return n == s.len && n >= 2 && n <= 5;
}

/* Numbers with what joins those of dates and times: 2026-03-09T19:00:00Z, 9/3/26. */
static bool is_date(struct gd_str s)
{
    static const char between[] = {'-', ':', '/', ' ', '.', '+', 'T', 'Z'};
    bool joined = false;
    for (size_t i = 0; i < s.len; i++) {
        const char c = s.ptr[i];
        joined = joined || (i > 0 && (c == '-' || c == ':' || c == '/'));
        if (!(c >= '0' && c <= '9') && memchr(between, c, sizeof between) == NULL)
            return false;
    }
    return joined;
}

static bool is_truth(struct gd_str word)
{
    static const char *const truth[] = {"true", "false", "yes", "no", "none", "null"};
    for (size_t i = 0; i < sizeof truth / sizeof truth[0]; i++)
        if (gd_str_eqz(word, truth[i]))
            return true;
    return false;
}

/* What is left to look at of a call: values of any kind, words that nobody said. */
struct left {
    uint32_t values, words;
};

/* Words of a value that nobody said, as many as are left; of each value the first GD_TEXT_KEYS_MAX words,
 * so that a long one hides no other. */
static void find_strange(struct gd_measure *m, struct gd_str value, struct left *left,
                         struct gd_measured_call *call)
{
    struct gd_notes *n = m->notes;
    float *out = call->of;
    if (left->words == 0)
        return;
    const bool code = is_code(value), date = is_date(value);
    const struct gd_str words = gd_words_plain(&n->words, gd_head(value));
    struct gd_str word;
    size_t at = 0;
    for (uint32_t i = 0; i < GD_TEXT_KEYS_MAX && left->words > 0; i++) {
        if (!gd_words_next(words, &at, &word))
            break;
        if (is_truth(word) || is_known(n, word))
            continue;
        const bool digit = gd_word_has_digit(word);
        left->words--;
        if (digit && is_said_otherwise(n, word, date))
            continue;
        enum gd_call_feature f = digit ? AT_strange_numbers : AT_strange_words;
        if (has_word(&m->property, word))
            f = AT_offered;
        else if (digit && date)
            f = AT_strange_dates;
        else if (code)
            f = AT_strange_codes;
        if (f == AT_strange_words || f == AT_strange_numbers)
            keep_strange(m, word, call);
        out[f] = gd_capped((size_t)out[f] + 1);
    }
}

/* The strings and numbers of a value: each behind a space, with its strange words. */
static void add_values(struct gd_measure *m, const struct gd_json *v, struct left *left,
                       struct gd_measured_call *call)
{
    left->values--;
    if (v->type == GD_JSON_STRING || v->type == GD_JSON_NUMBER) {
        const struct gd_str value = v->type == GD_JSON_STRING ? v->str : v->raw;
        if (m->values.len < GD_EVIDENCE_TEXT_BYTES) {
            gd_buf_add(&m->values, " ", 1);
            gd_buf_str(&m->values, gd_head(value));
        }
        find_strange(m, value, left, call);
        return;
    }
    for (const struct gd_json *c = v->child; c != NULL && left->values > 0; c = c->next)
        add_values(m, c, left, call);
}

/* The words of what the schema says of an argument. */
static void read_property(struct gd_measure *m, const struct gd_json *properties, struct gd_str key)
{
    const struct gd_json *property = gd_evidence_member(properties, key);
    m->property.len = 0;
    if (property == NULL)
        return;
    struct gd_str text = property->raw;
    if (text.len > GD_EVIDENCE_PROPERTY_BYTES)
        text.len = GD_EVIDENCE_PROPERTY_BYTES;
    gd_words_plain(&m->notes->words, text);
    gd_evidence_keep(&m->notes->words, &m->property);
}

/* Of an object the first GD_NOTE_ARGUMENTS_MAX members beside what the schema says of them. */
static void add_arguments(struct gd_measure *m, const struct gd_event *ev,
                          const struct gd_tool *tool, struct left *left,
                          struct gd_measured_call *call)
{
    const struct gd_json *properties = tool ? gd_json_get(tool->schema, "properties") : NULL;
    if (ev->payload == NULL) {
        gd_buf_str(&m->values, gd_head(ev->text));
        find_strange(m, ev->text, left, call);
        return;
    }
    if (ev->payload->type != GD_JSON_OBJECT) {
        add_values(m, ev->payload, left, call);
        return;
    }
    uint32_t i = 0;
    for (const struct gd_json *c = ev->payload->child; c != NULL && left->values > 0; c = c->next) {
        m->property.len = 0;
        if (i++ < GD_NOTE_ARGUMENTS_MAX)
            read_property(m, properties, c->key);
        add_values(m, c, left, call);
    }
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool ends_sentence(char c)
{
    return c == '.' || c == '?' || c == '!' || c == ':' || c == '\n';
}

static bool has_lower(struct gd_str text)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.ptr[i] >= 'a' && text.ptr[i] <= 'z')
            return true;
    return false;
}

/* Capitalised words of a text, but for the first of a sentence, that the values lack. A text in capitals
 * alone tells no names. */
static uint32_t count_unused_names(struct gd_measure *m, struct gd_str text)
{
    struct gd_notes *n = m->notes;
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
    return count;
}

/* What the request has and the values lack: words with a digit, names. */
static void find_unused(struct gd_measure *m, float *out)
{
    struct gd_notes *n = m->notes;
    uint32_t count = 0, unused = 0, names = 0;
    for (uint32_t back = 0; back < m->n_request; back++) {
        const struct gd_str text = gd_evidence_request(m, back);
        const struct gd_str words = gd_words_plain(&n->words, text);
        struct gd_str word;
        for (size_t at = 0; count < GD_EVIDENCE_COUNT_MAX && gd_words_next(words, &at, &word);) {
            const bool specific = gd_word_has_digit(word);
            count += specific;
            unused += specific && !has_word(&m->values, word);
        }
        names += has_lower(text) ? count_unused_names(m, text) : 0;
        if (back == 0)
            out[AT_unused_names] = gd_capped(names);
    }
    out[AT_specifics] = (float)count;
    out[AT_unused] = (float)unused;
    const float strange = out[AT_strange_words] + out[AT_strange_numbers] + out[AT_strange_dates] +
                          out[AT_strange_codes];
    const float lacking = gd_capped(unused + names);
    out[AT_replaced] = strange < lacking ? strange : lacking;
}

void gd_evidence_values(struct gd_measure *m, const struct gd_event *ev, const struct gd_tool *tool,
                        struct gd_measured_call *call)
{
    struct gd_notes *n = m->notes;
    struct left left = {GD_NOTE_ARGUMENTS_MAX * GD_NOTE_LEAVES_MAX, GD_TEXT_KEYS_MAX};
    m->values.len = m->property.len = 0;
    add_arguments(m, ev, tool, &left, call);
    gd_words_plain(&n->words, gd_head((struct gd_str){m->values.data, m->values.len}));
    gd_evidence_keep(&n->words, &m->values);
    gd_evidence_add_keys(&n->words, &m->arguments);
    find_unused(m, call->of);
    find_near(m, call->of);
}
