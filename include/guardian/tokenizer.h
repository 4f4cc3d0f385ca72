/* tokenizer.h - byte-level BPE from a Hugging Face tokenizer.json, giving the ids of the
 * `tokenizers` library.
 *
 * Supported: model BPE (merges as "a b" strings or pairs, ignore_merges), pre-tokenisers
 * Split(Regex, Isolated), ByteLevel and Sequences of these, normaliser none or NFC, added tokens
 * (special or not). Anything else is refused at load with the name of what is not supported.
 * Immutable after load: any thread may encode at the same time. */
#ifndef GUARDIAN_TOKENIZER_H
#define GUARDIAN_TOKENIZER_H

#include "guardian/arena.h"
#include "guardian/status.h"

struct gd_tokenizer;

/* A growing list of ids on malloc; owned by the caller. */
struct gd_ids {
    int32_t *data;
    size_t len;
    size_t cap;
};

void gd_ids_free(struct gd_ids *ids);
int gd_ids_push(struct gd_ids *ids, int32_t id); /* GD_ENOMEM */

/* Reads the file. GD_EIO, GD_EMODEL, GD_EJSON, GD_ELIMIT, GD_ENOMEM with the reason in err. */
int gd_tokenizer_open(struct gd_tokenizer **out, const char *path, struct gd_err *err);
/* The same from memory (fuzzing, tests); text is not kept. */
int gd_tokenizer_parse(struct gd_tokenizer **out, struct gd_str json, struct gd_err *err);
void gd_tokenizer_close(struct gd_tokenizer *t); /* NULL is fine */

enum gd_specials {
    GD_SPECIALS_OFF, /* text of special added tokens is plain text: for everything that comes from outside */
    GD_SPECIALS_ON, /* what `tokenizers` does with add_special_tokens=False */
};

/* Appends the ids of text (invalid UTF-8 counts as U+FFFD, one per maximal bad subpart). No
 * post-processor. Time is linear in len, log n more within one long piece, for the patterns of
 * Llama-3, Qwen2 and GPT-2; another pattern has a match limit for each search, and text that goes
 * over it is GD_ELIMIT. Working memory: up to 16 bytes a byte of the longest piece. On failure out
 * is as it was. GD_ENOMEM, GD_ELIMIT (also: text over GD_TOKENIZER_TEXT_BYTES_MAX). */
int gd_tokenizer_encode(const struct gd_tokenizer *t, struct gd_str text, enum gd_specials specials,
                        struct gd_ids *out);

/* The last place at or before `at` where text may be cut: the ids of text[0, cut) followed by those
 * of text[cut, len) are the ids of text, specials off. 0 when no place is known; that is always so
 * for patterns other than those of Llama-3, Qwen2 and GPT-2. A cut stands before an ASCII letter,
 * behind a line break that follows something other than white space. */
size_t gd_tokenizer_cut(const struct gd_tokenizer *t, struct gd_str text, size_t at);

/* Id of a token by its exact content among added tokens ("<|eot_id|>"), or -1. */
int32_t gd_tokenizer_added_id(const struct gd_tokenizer *t, struct gd_str content);
bool gd_tokenizer_is_special(const struct gd_tokenizer *t, int32_t id);
int32_t gd_tokenizer_vocab_size(const struct gd_tokenizer *t); /* highest id + 1 */

/* Appends the bytes of one token (for display); false for an unknown id. */
bool gd_tokenizer_decode(const struct gd_tokenizer *t, int32_t id, struct gd_buf *out);
size_t gd_tokenizer_bytes(const struct gd_tokenizer *t, int32_t id); /* that decode appends */

#endif
