/* words.c - see words.h.
 *
 * A history keeps its last bytes only, with hashes that find a word at once, and words in a row by one
 * comparison for each place. */
#include "words.h"

#include "text.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* A history's text may be twice what counts of it, so that it is seldom moved. */
#define HISTORY_TEXT_MAX ((size_t)2 * GD_NOTE_HISTORY_BYTES)
#define HISTORY_WORDS_MAX (HISTORY_TEXT_MAX / 2)
static_assert(HISTORY_TEXT_MAX - 1 <= UINT16_MAX, "a place fits into 16 bits");
static_assert(1 << GD_HISTORY_BITS >= HISTORY_WORDS_MAX, "there is always a free slot");
static_assert(1 << GD_KEYSET_BITS > 4 * GD_TEXT_KEYS_MAX, "there is always a free slot");

struct gd_history {
    struct gd_buf text; /* " word word "; once it was moved, a part of a word may begin it */
    uint32_t n, first;  /* words in it; the first of them within what counts */
    uint64_t hash[HISTORY_WORDS_MAX + 1]; /* of all words before a word: gd_words_extend */
    uint16_t at[HISTORY_WORDS_MAX];       /* the space before it */
    uint16_t slot[1 << GD_HISTORY_BITS]; /* by hash: 1 + number of a word's last place; 0 is free */
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

struct gd_str gd_words_of(struct gd_words *w, struct gd_str text, bool humps)
{
    struct gd_buf *b = &w->text;
    bool digit = false, lower = false, in_word = false;
    b->len = 0;
    gd_buf_add(b, " ", 1);
    for (size_t i = 0; i < text.len && !b->failed; i++) {
        char c = text.ptr[i];
        if (c == '\\') { /* an escape parts words */
            i += i + 1 < text.len && text.ptr[i + 1] == 'u' && is_hex4(text, i + 2) ? 5 : 1;
            c = ' ';
        } else if (c == ',' && digit && i + 1 < text.len && is_digit(text.ptr[i + 1])) {
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
        b->len = 0; /* the readers of words rely on the space behind each */
    return (struct gd_str){b->data, b->len};
}

struct gd_str gd_words_plain(struct gd_words *w, struct gd_str text)
{
    w->plain.len = 0;
    gd_text_fold(&w->plain, text);
    return gd_words_of(w, (struct gd_str){w->plain.data, w->plain.len}, false);
}

bool gd_words_next(struct gd_str words, size_t *at, struct gd_str *word)
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

bool gd_word_has_digit(struct gd_str word)
{
    for (size_t i = 0; i < word.len; i++)
        if (is_digit(word.ptr[i]))
            return true;
    return false;
}

/* Two words get one hash for whatever factor only when they have some thousand bytes. */
uint64_t gd_words_hash(const struct gd_words *w, struct gd_str word)
{
    uint64_t h = 0;
    for (size_t i = 0; i < word.len; i++)
        h = (h + (unsigned char)word.ptr[i]) * w->byte_factor;
    return h;
}

void gd_words_extend(const struct gd_words *w, uint64_t hash, uint64_t *row, uint64_t *power)
{
    *row = (*row + hash) * w->word_factor;
    *power *= w->word_factor;
}

/* ---- keys ---- */

static uint32_t key_of(struct gd_str word)
{
    uint32_t key = 0;
    for (size_t i = 0; i < 4 && i < word.len; i++)
        key |= (uint32_t)(unsigned char)word.ptr[i] << (24 - 8 * i);
    return key;
}

/* Where the key is or would be. */
static const uint32_t *key_slot(const struct gd_words *w, const struct gd_keyset *set, uint32_t key)
{
    size_t i = (size_t)(key * w->byte_factor >> (64 - GD_KEYSET_BITS));
    while (set->slot[i] != 0 && set->slot[i] != key)
        i = (i + 1) % (1 << GD_KEYSET_BITS);
    return &set->slot[i];
}

void gd_keyset_add(const struct gd_words *w, struct gd_keyset *set, const uint32_t *keys,
                   uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        set->slot[key_slot(w, set, keys[i]) - set->slot] = keys[i];
}

uint32_t gd_keyset_count(const struct gd_words *w, const struct gd_keyset *set,
                         const uint32_t *keys, uint32_t n)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += *key_slot(w, set, keys[i]) != 0;
    return count;
}

static void find_common(struct gd_words *w)
{
    const struct gd_str s = GD_STR(
        " the and for with that this from your you are can use get has its all any not one was "
        "will have when into what which given specified ");
    struct gd_str word;
    for (size_t at = 0; gd_words_next(s, &at, &word);) {
        const uint32_t key = key_of(word);
        gd_keyset_add(w, &w->common, &key, 1);
    }
}

uint32_t gd_words_keys(const struct gd_words *w, uint32_t *out, uint32_t max)
{
    uint32_t taken = 0, kept = 0;
    struct gd_str word;
    const struct gd_str words = {w->text.data, w->text.len};
    for (size_t at = 0; taken < max && gd_words_next(words, &at, &word);) {
        const uint32_t key = key_of(word);
        if (word.len < 3 || *key_slot(w, &w->common, key) != 0)
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

void gd_words_init(struct gd_words *w)
{
    memset(w, 0, sizeof *w);
    gd_buf_init(&w->text, GD_NOTE_TEXT_BYTES_MAX);
    gd_buf_init(&w->plain, GD_NOTE_TEXT_BYTES_MAX);
    /* Without random bytes somebody could choose words that make look-ups slow, no more. */
    uint64_t factor[2] = {(uintptr_t)w, (uintptr_t)&factor};
    (void)!getrandom(factor, sizeof factor, 0);
    w->byte_factor = factor[0] | 1;
    w->word_factor = factor[1] | 1;
    find_common(w);
}

void gd_words_free(struct gd_words *w)
{
    gd_buf_free(&w->text);
    gd_buf_free(&w->plain);
}

int gd_words_failed(const struct gd_words *w)
{
    return w->text.failed != 0 ? w->text.failed : w->plain.failed;
}

/* ---- histories ---- */

static void forget(struct gd_history *h)
{
    h->n = h->first = 0;
    h->hash[0] = 0;
    memset(h->slot, 0, sizeof h->slot);
}

struct gd_history *gd_history_open(void)
{
    struct gd_history *h = malloc(sizeof *h);
    if (h == NULL)
        return NULL;
    gd_buf_init(&h->text, HISTORY_TEXT_MAX);
    gd_buf_add(&h->text, " ", 1);
    forget(h);
    return h;
}

void gd_history_close(struct gd_history *h)
{
    if (h != NULL)
        gd_buf_free(&h->text);
    free(h);
}

int gd_history_failed(const struct gd_history *h)
{
    return h->text.failed;
}

/* By hash: where the number of the word, with the spaces around it, is or would be. */
static size_t slot_of(const struct gd_history *h, struct gd_str word, uint64_t hash)
{
    size_t i = (size_t)(hash >> (64 - GD_HISTORY_BITS));
    for (; h->slot[i] != 0; i = (i + 1) % (1 << GD_HISTORY_BITS)) {
        const size_t at = h->at[h->slot[i] - 1];
        if (h->text.len - at >= word.len + 2 &&
            memcmp(h->text.data + at, word.ptr - 1, word.len + 2) == 0)
            break;
    }
    return i;
}

bool gd_history_has(const struct gd_history *h, struct gd_str word, uint64_t hash)
{
    return h->slot[slot_of(h, word, hash)] > h->first;
}

bool gd_history_has_row(const struct gd_history *h, struct gd_str words, uint32_t n, uint64_t row,
                        uint64_t power)
{
    for (uint32_t i = h->first; i + n <= h->n; i++)
        if (h->hash[i + n] - h->hash[i] * power == row && h->text.len - h->at[i] >= words.len &&
            memcmp(h->text.data + h->at[i], words.ptr, words.len) == 0)
            return true;
    return false;
}

void gd_history_add(const struct gd_words *w, struct gd_history *h)
{
    const size_t all = w->text.len > 0 ? w->text.len - 1 : 0; /* its first space is there */
    const size_t more = all < GD_NOTE_HISTORY_BYTES ? all : GD_NOTE_HISTORY_BYTES;
    size_t at = h->text.len - 1;
    if (h->text.len + more > HISTORY_TEXT_MAX) {
        const char *kept = h->text.data + h->text.len - GD_NOTE_HISTORY_BYTES;
        h->text.len = GD_NOTE_HISTORY_BYTES;
        memmove(h->text.data, kept, h->text.len);
        at = (size_t)((char *)memchr(h->text.data, ' ', h->text.len) - h->text.data);
        forget(h);
    }
    gd_buf_add(&h->text, w->text.data + w->text.len - more, more);
    const struct gd_str text = {h->text.data, h->text.len};
    for (struct gd_str word; gd_words_next(text, &at, &word);) {
        const uint64_t hash = gd_words_hash(w, word);
        h->at[h->n] = (uint16_t)(at - word.len - 1);
        h->hash[h->n + 1] = (h->hash[h->n] + hash) * w->word_factor;
        h->n++;
        h->slot[slot_of(h, word, hash)] = (uint16_t)h->n;
    }
    while (h->first < h->n && h->text.len - h->at[h->first] > GD_NOTE_HISTORY_BYTES)
        h->first++;
}
