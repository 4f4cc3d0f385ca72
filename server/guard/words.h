/* words.h - texts as words, keys of words, and histories of words. Internal to server/guard.
 *
 * words   of a text: bytes, ASCII letters lower-cased, split at everything but a-z, 0-9 and bytes from
 *         0x80 on, and at escapes; a comma between two digits is left out. Written " word word "
 * keys    the first four bytes of words of three or more that are not common ones
 * history the last GD_NOTE_HISTORY_BYTES of what was said, where a word is found at once
 *
 * The factors of the hashes are random, so that nobody can choose words that make look-ups slow: they
 * change how long it takes, never what is found. One thread at a time. */
#ifndef GUARDIAN_GUARD_WORDS_H
#define GUARDIAN_GUARD_WORDS_H

#include "guardian/limits.h"
#include "guardian/trajectory.h"

#define GD_TEXT_KEYS_MAX 256 /* of one text */
#define GD_KEYSET_BITS 11
#define GD_HISTORY_BITS 14

/* Keys by hash, 0 is free: room for four texts' keys. */
struct gd_keyset {
    uint32_t slot[1 << GD_KEYSET_BITS];
};

struct gd_words {
    struct gd_buf text;  /* the words in hand */
    struct gd_buf plain; /* folded text */
    uint64_t byte_factor, word_factor;
    struct gd_keyset common;
};

struct gd_history;

void gd_words_init(struct gd_words *w);
void gd_words_free(struct gd_words *w);
int gd_words_failed(const struct gd_words *w); /* GD_OK, or what is missing in the words in hand */

/* Each takes the words of a text in hand, which last until the next. humps: camelCase is two words.
 * plain: of F(text). Empty when there is no memory; " " when there are none. */
struct gd_str gd_words_of(struct gd_words *w, struct gd_str text, bool humps);
struct gd_str gd_words_plain(struct gd_words *w, struct gd_str text);

/* The next word from *at (0 at first) on; false at the end. The spaces around it may be read. */
bool gd_words_next(struct gd_str words, size_t *at, struct gd_str *word);

bool gd_word_has_digit(struct gd_str word);
uint64_t gd_words_hash(const struct gd_words *w, struct gd_str word);

/* The first `max` keys of the words in hand, each once; how many: at most `max`. */
uint32_t gd_words_keys(const struct gd_words *w, uint32_t *out, uint32_t max);
void gd_keyset_add(const struct gd_words *w, struct gd_keyset *set, const uint32_t *keys,
                   uint32_t n);
uint32_t gd_keyset_count(const struct gd_words *w, const struct gd_keyset *set,
                         const uint32_t *keys, uint32_t n); /* of them in the set */

struct gd_history *gd_history_open(void); /* NULL: no memory */
void gd_history_close(struct gd_history *h);
int gd_history_failed(const struct gd_history *h);
void gd_history_add(const struct gd_words *w, struct gd_history *h); /* the words in hand */
bool gd_history_has(const struct gd_history *h, struct gd_str word, uint64_t hash);

/* Whether these words of a text, n of them, stand there in a row; row and power as gd_words_extend
 * makes them from (0, 1). */
bool gd_history_has_row(const struct gd_history *h, struct gd_str words, uint32_t n, uint64_t row,
                        uint64_t power);
void gd_words_extend(const struct gd_words *w, uint64_t hash, uint64_t *row, uint64_t *power);

#endif
