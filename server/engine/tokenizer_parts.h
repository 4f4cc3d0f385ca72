/* tokenizer_parts.h - what the files of the tokenizer share. Internal to server/engine.
 *
 * A struct gd_tokenizer is filled once by tokenizer_load.c and read-only afterwards; whatever
 * encoding writes to lives in structs on the caller's side (gd_bpe_scratch, gd_split_run, gd_buf).
 * Text that reaches these functions is valid UTF-8, unless a comment says otherwise. */
#ifndef GUARDIAN_ENGINE_TOKENIZER_PARTS_H
#define GUARDIAN_ENGINE_TOKENIZER_PARTS_H

#include "guardian/tokenizer.h"

#define GD_SPLIT_STAGES_MAX 8

/* ---- vocabulary (tokenizer_vocab.c) ---- */

#define GD_TOKEN_KNOWN 1u   /* the id is in use */
#define GD_TOKEN_BYTES 2u   /* content is bytes of text; otherwise a name that no merge can reach */
#define GD_TOKEN_WHOLE 4u   /* a piece of exactly these bytes is this token */
#define GD_TOKEN_SPECIAL 8u /* a special added token */
#define GD_TOKEN_MADE 16u   /* a byte token, or the result of a merge */

struct gd_token {
    uint32_t offset; /* of the content in the pool */
    uint32_t len;
    uint32_t flags;
};

/* One slot of the table of contents. Contents up to 8 bytes are the key itself, so that the common
 * look-up touches one cache line; longer ones have their hash there and are compared in the pool.
 */
struct gd_token_slot {
    uint64_t key;
    uint32_t len_kind; /* length, and the top bit for GD_TOKEN_BYTES */
    int32_t id;        /* -1: free */
};

struct gd_pair_slot {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank;
    int32_t id; /* the token they become */
};

struct gd_vocab {
    char *pool;
    size_t pool_len;
    size_t pool_cap;
    struct gd_token *tokens; /* [n_ids] */
    uint32_t n_ids;          /* highest id + 1 */
    struct gd_token_slot *slots;
    size_t slots_mask;
    struct gd_pair_slot *pairs;
    size_t pairs_mask;
    int32_t byte_id[256]; /* -1: a byte that no UTF-8 text has */
    uint32_t whole_len_max;
};

/* n_ids, n_tokens and n_merges set the table sizes. pool_bytes is an upper bound of all contents.
 */
int gd_vocab_init(struct gd_vocab *v, size_t n_ids, size_t n_tokens, size_t n_merges,
                  size_t pool_bytes);
void gd_vocab_free(struct gd_vocab *v);

/* Writes the bytes that a vocabulary string stands for (byte-level alphabet) to dst[s.len]; false
 * when a character is outside of the alphabet. */
bool gd_vocab_unmap(struct gd_str s, char *dst, size_t *len);

/* By content; -1 when there is none. kind is GD_TOKEN_BYTES or 0. */
int32_t gd_vocab_find(const struct gd_vocab *v, struct gd_str content, uint32_t kind);
/* Content must be new, id free and below n_ids. */
void gd_vocab_put(struct gd_vocab *v, struct gd_str content, uint32_t kind, int32_t id);
/* Gives an id a content that no look-up by content finds. */
void gd_vocab_put_name(struct gd_vocab *v, struct gd_str content, int32_t id);

void gd_vocab_put_pair(struct gd_vocab *v, int32_t left, int32_t right, uint32_t rank, int32_t id);
/* NULL when the two do not merge. */
const struct gd_pair_slot *gd_vocab_pair(const struct gd_vocab *v, int32_t left, int32_t right);

/* The token that a whole piece is, or -1. piece.len > 0. */
int32_t gd_vocab_whole(const struct gd_vocab *v, struct gd_str piece);

/* ---- byte pair encoding (tokenizer_bpe.c) ---- */

/* Working memory for long pieces; zero it, use it for one thread, free it. */
struct gd_bpe_scratch {
    uint32_t *words; /* [cap] */
    size_t cap;
};

void gd_bpe_scratch_free(struct gd_bpe_scratch *s);
/* Appends the ids of one piece (part of UTF-8 text, not empty). GD_ENOMEM. */
int gd_bpe_encode(const struct gd_vocab *v, struct gd_bpe_scratch *s, struct gd_str piece,
                  struct gd_ids *out);
/* The same by merges alone, without asking for the whole piece. */
int gd_bpe_merge(const struct gd_vocab *v, struct gd_bpe_scratch *s, struct gd_str piece,
                 struct gd_ids *out);

/* ---- pre-tokeniser (tokenizer_split.c, tokenizer_regex.c) ---- */

enum gd_split_kind {
    GD_SPLIT_DIGITS3, /* the pattern of Llama-3 */
    GD_SPLIT_DIGITS1, /* the pattern of Qwen2 */
    GD_SPLIT_GPT2,    /* the pattern built into ByteLevel */
    GD_SPLIT_REGEX,   /* any other, by PCRE2 */
};

struct gd_regex;
struct gd_regex_run;

struct gd_split {
    enum gd_split_kind kind;
    struct gd_regex *regex;
};

struct gd_splits {
    struct gd_split stages[GD_SPLIT_STAGES_MAX];
    uint32_t n_stages;
};

/* Zeroed memory is a pre-tokeniser without stages. */
void gd_splits_free(struct gd_splits *p);
/* GD_EMODEL when the pattern does not compile or means something else here; GD_ENOMEM. */
int gd_splits_add(struct gd_splits *p, struct gd_str pattern, struct gd_err *err);
int gd_splits_add_gpt2(struct gd_splits *p, struct gd_err *err);
/* Whether text is split, and by the known patterns alone. */
bool gd_splits_known(const struct gd_splits *p);
bool gd_split_is_space(uint32_t cp); /* \s of the patterns */

typedef int gd_piece_fn(void *ctx, struct gd_str piece);
/* Calls fn for each piece of text in order, and stops at the first that is not GD_OK. */
int gd_splits_run(const struct gd_splits *p, struct gd_str text, gd_piece_fn *fn, void *ctx);

int gd_regex_open(struct gd_regex **out, struct gd_str pattern, struct gd_err *err);
void gd_regex_close(struct gd_regex *r);
/* State of one walk over one text. */
int gd_regex_run_open(struct gd_regex_run **out, const struct gd_regex *r, struct gd_str text);
void gd_regex_run_close(struct gd_regex_run *run);
/* End of the piece that starts at pos (< text.len). GD_ELIMIT when matching costs too much. */
int gd_regex_run_next(struct gd_regex_run *run, size_t pos, size_t *end);

/* ---- normaliser (tokenizer_nfc.c) ---- */

/* Bytes of s up to the first place where NFC could change something; s.len: nothing to do. */
size_t gd_nfc_prefix(struct gd_str s);
/* Appends NFC of s, in linear time. GD_ENOMEM, GD_ELIMIT of the buffer. */
int gd_nfc_append(struct gd_buf *b, struct gd_str s);

/* ---- added tokens (tokenizer_added.c) ---- */

struct gd_added_token {
    struct gd_str content;
    int32_t id;
    bool special;
};

/* A set sorted by content; contents belong to the caller's pool. */
struct gd_added {
    struct gd_added_token *tokens; /* [n] */
    uint32_t n;
    uint32_t first[257]; /* tokens[first[c]] .. tokens[first[c + 1]] start with byte c */
};

int gd_added_init(struct gd_added *a, size_t cap);
void gd_added_free(struct gd_added *a);
void gd_added_put(struct gd_added *a, struct gd_added_token token); /* not empty; below cap */
/* To be called once after the last put; false when two contents are equal, named in *twice. */
bool gd_added_sort(struct gd_added *a, struct gd_str *twice);
const struct gd_added_token *gd_added_get(const struct gd_added *a, struct gd_str content);

/* The leftmost longest match at or after *pos. A special token counts as text when specials are
 * off, and is passed over whole. Sets *pos to the start of the match; NULL when there is none. */
const struct gd_added_token *gd_added_find(const struct gd_added *a, struct gd_str text,
                                           enum gd_specials specials, size_t *pos);

/* ---- the whole ---- */

struct gd_tokenizer {
    struct gd_vocab vocab;
    struct gd_splits splits;
    struct gd_added all;      /* for look-up by content */
    struct gd_added plain;    /* matched in the text as it came */
    struct gd_added composed; /* matched after the normaliser */
    struct gd_arena arena;    /* contents of added tokens */
    bool nfc;
    bool added_breaks; /* an added token has a line break in it */
};

#endif
