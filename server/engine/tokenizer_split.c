/* tokenizer_split.c - cuts text into the pieces that are encoded one by one.
 *
 * The three patterns that nearly every model uses are recognised by their exact text and run by
 * hand-written scanners over character classes: one pass, each character looked at a bounded number
 * of times, where a backtracking engine would rescan runs of white space. Other patterns go to
 * PCRE2 (tokenizer_regex.c). Stages work on the pieces of the stage before.
 *
 * Classes are those of Unicode 16, which is what the regex engine inside `tokenizers` has: utf8proc
 * (Unicode 15) plus the letters and numbers assigned since. Case-insensitive "'s" includes U+017F,
 * the only character outside of ASCII that folds to a letter of the contractions. */
#include "tokenizer_parts.h"

#include <pthread.h>
#include <string.h>
#include <utf8proc.h>

#define CLASSES_LEN 0x20000u /* the two planes that text is made of; the rest goes the slow way */

enum char_class {
    OTHER,
    LETTER,
    NUMBER,
    SPACE,
    NEWLINE, /* \r \n: also white space */
};

static const uint32_t letters_since_15[][2] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
    {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
    {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D},
};

static const uint32_t numbers_since_15[][2] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA},
};

static bool in_ranges(const uint32_t (*ranges)[2], size_t n, uint32_t cp)
{
    for (size_t i = 0; i < n; i++) {
        if (cp >= ranges[i][0] && cp <= ranges[i][1])
            return true;
    }
    return false;
}

bool gd_split_is_space(uint32_t cp)
{
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

static enum char_class class_of(uint32_t cp)
{
    if (cp == '\r' || cp == '\n')
        return NEWLINE;
    if (gd_split_is_space(cp))
        return SPACE;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return NUMBER;
    default:
        break;
    }
    if (in_ranges(letters_since_15, sizeof letters_since_15 / sizeof letters_since_15[0], cp))
        return LETTER;
    if (in_ranges(numbers_since_15, sizeof numbers_since_15 / sizeof numbers_since_15[0], cp))
        return NUMBER;
    return OTHER;
}

static uint8_t classes[CLASSES_LEN]; /* of the first code points; the same for every tokenizer */
static pthread_once_t classes_once = PTHREAD_ONCE_INIT;

static void fill_classes(void)
{
    for (uint32_t cp = 0; cp < CLASSES_LEN; cp++)
        classes[cp] = (uint8_t)class_of(cp);
}

void gd_splits_free(struct gd_splits *p)
{
    for (uint32_t i = 0; i < p->n_stages; i++)
        gd_regex_close(p->stages[i].regex);
    memset(p, 0, sizeof *p);
}

static int add_stage(struct gd_splits *p, enum gd_split_kind kind, struct gd_regex *regex,
                     struct gd_err *err)
{
    if (p->n_stages == GD_SPLIT_STAGES_MAX) {
        gd_regex_close(regex);
        return gd_err_set(err, GD_ELIMIT, "the pre-tokenizer has more than %d splitting steps",
                          GD_SPLIT_STAGES_MAX);
    }
    (void)pthread_once(&classes_once, fill_classes);
    p->stages[p->n_stages++] = (struct gd_split){kind, regex};
    return GD_OK;
}

int gd_splits_add_gpt2(struct gd_splits *p, struct gd_err *err)
{
    return add_stage(p, GD_SPLIT_GPT2, NULL, err);
}

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define MODERN(digits)                                                                             \
    "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                  \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

int gd_splits_add(struct gd_splits *p, struct gd_str pattern, struct gd_err *err)
{
    struct gd_regex *regex = NULL;
    if (gd_str_eqz(pattern, MODERN("\\p{N}{1,3}")))
        return add_stage(p, GD_SPLIT_DIGITS3, NULL, err);
    if (gd_str_eqz(pattern, MODERN("\\p{N}")))
        return add_stage(p, GD_SPLIT_DIGITS1, NULL, err);
    if (gd_str_eqz(pattern,
                   CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"))
        return add_stage(p, GD_SPLIT_GPT2, NULL, err);
    int rc = gd_regex_open(&regex, pattern, err);
    return rc == GD_OK ? add_stage(p, GD_SPLIT_REGEX, regex, err) : rc;
}

bool gd_splits_known(const struct gd_splits *p)
{
    for (uint32_t i = 0; i < p->n_stages; i++) {
        if (p->stages[i].kind == GD_SPLIT_REGEX)
            return false;
    }
    return p->n_stages > 0;
}

/* A walk over valid UTF-8. */
struct scan {
    const uint8_t *s;
    size_t n;
};

/* Class and length of the character at pos (< n). */
static inline enum char_class class_at(const struct scan *sc, size_t pos, size_t *len)
{
    const uint8_t *s = sc->s + pos;
    uint32_t cp;
    if (s[0] < 0x80) {
        *len = 1;
        return (enum char_class)classes[s[0]];
    }
    if (s[0] < 0xE0) {
        *len = 2;
        cp = (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    } else if (s[0] < 0xF0) {
        *len = 3;
        cp = (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    } else {
        *len = 4;
        cp = (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    }
    return cp < CLASSES_LEN ? (enum char_class)classes[cp] : class_of(cp);
}

/* End of the run of one class from pos. */
static size_t run_end(const struct scan *sc, size_t pos, enum char_class class)
{
    size_t len;
    while (pos < sc->n && class_at(sc, pos, &len) == class)
        pos += len;
    return pos;
}

static size_t number_end(const struct scan *sc, size_t pos, int digits_max)
{
    size_t len;
    for (int i = 0; i < digits_max; i++) {
        if (pos >= sc->n || class_at(sc, pos, &len) != NUMBER)
            break;
        pos += len;
    }
    return pos;
}

/* Length of a contraction after the apostrophe at pos, or 0. */
static size_t contraction(const struct scan *sc, size_t pos, bool any_case)
{
    const uint8_t *s = sc->s + pos + 1;
    size_t left = sc->n - pos - 1;
    uint8_t fold = any_case ? 0x20 : 0; /* letters alone can become the letters compared with */
    if (left >= 1 && strchr("stmd", s[0] | fold) != NULL && (s[0] | fold) != 0)
        return 1;
    if (left < 2)
        return 0;
    if (any_case && s[0] == 0xC5 && s[1] == 0xBF) /* U+017F */
        return 2;
    uint8_t a = s[0] | fold, b = s[1] | fold;
    bool two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return two ? 2 : 0;
}

/* "\s+(?!\S)|\s+" at white space, with "\s*[\r\n]+" before it if newlines: to the end of the last
 * newline of the run; else the run less the character that the next word takes; else all. */
static size_t space_end(const struct scan *sc, size_t pos, bool newlines)
{
    size_t end = pos, last = pos, after_newline = 0, len;
    while (end < sc->n) {
        enum char_class class = class_at(sc, end, &len);
        if (class != SPACE && class != NEWLINE)
            break;
        last = end;
        end += len;
        if (class == NEWLINE)
            after_newline = end;
    }
    if (newlines && after_newline > 0)
        return after_newline;
    return end == sc->n || last == pos ? end : last;
}

/* End of the piece at pos (< n) by the pattern of Llama-3 (3) or Qwen2 (1). */
static size_t modern_end(const struct scan *sc, size_t pos, int digits_max)
{
    size_t len, next_len;
    enum char_class class = class_at(sc, pos, &len);
    if (sc->s[pos] == '\'') {
        size_t more = contraction(sc, pos, true);
        if (more > 0)
            return pos + 1 + more;
    }
    if (class == LETTER)
        return run_end(sc, pos + len, LETTER);
    if (class == NUMBER)
        return number_end(sc, pos, digits_max);
    size_t next = pos + len;
    enum char_class after = next < sc->n ? class_at(sc, next, &next_len) : NEWLINE;
    if (class != NEWLINE && after == LETTER)
        return run_end(sc, next, LETTER);
    if (class == OTHER || (sc->s[pos] == ' ' && after == OTHER))
        return run_end(sc, run_end(sc, next, OTHER), NEWLINE);
    return space_end(sc, pos, true);
}

static size_t gpt2_end(const struct scan *sc, size_t pos)
{
    size_t len, next_len;
    enum char_class class = class_at(sc, pos, &len);
    if (sc->s[pos] == '\'') {
        size_t more = contraction(sc, pos, false);
        if (more > 0)
            return pos + 1 + more;
    }
    if (class != SPACE && class != NEWLINE)
        return run_end(sc, pos + len, class);
    if (sc->s[pos] == ' ' && pos + 1 < sc->n) {
        enum char_class after = class_at(sc, pos + 1, &next_len);
        if (after != SPACE && after != NEWLINE)
            return run_end(sc, pos + 1, after);
    }
    return space_end(sc, pos, false);
}

static size_t scan_end(const struct scan *sc, enum gd_split_kind kind, size_t pos)
{
    if (kind == GD_SPLIT_GPT2)
        return gpt2_end(sc, pos);
    return modern_end(sc, pos, kind == GD_SPLIT_DIGITS3 ? 3 : 1);
}

static int run_stage(const struct gd_splits *p, uint32_t stage, struct gd_str text, gd_piece_fn *fn,
                     void *ctx)
{
    if (stage == p->n_stages)
        return fn(ctx, text);
    const struct gd_split *split = &p->stages[stage];
    struct scan sc = {(const uint8_t *)text.ptr, text.len};
    struct gd_regex_run *run = NULL;
    int rc = GD_OK;
    if (split->kind == GD_SPLIT_REGEX)
        rc = gd_regex_run_open(&run, split->regex, text);
    for (size_t pos = 0, end; pos < text.len && rc == GD_OK; pos = end) {
        end = text.len;
        if (run != NULL)
            rc = gd_regex_run_next(run, pos, &end);
        else
            end = scan_end(&sc, split->kind, pos);
        if (rc == GD_OK)
            rc = run_stage(p, stage + 1, (struct gd_str){text.ptr + pos, end - pos}, fn, ctx);
    }
    gd_regex_run_close(run);
    return rc;
}

int gd_splits_run(const struct gd_splits *p, struct gd_str text, gd_piece_fn *fn, void *ctx)
{
    return text.len > 0 ? run_stage(p, 0, text, fn, ctx) : GD_OK;
}
