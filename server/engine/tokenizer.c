/* tokenizer.c - text to ids: repair, added tokens, normaliser, pieces, byte pair encoding.
 *
 * The order is that of `tokenizers`: added tokens that are matched in the text as it came part it;
 * each part is normalised by itself and searched for the added tokens that are matched after
 * normalisation; what remains is cut into pieces by the pre-tokeniser. A part is never joined with
 * its neighbour again. All working memory belongs to the call. */
#include "tokenizer_parts.h"

#include "guardian/json.h"
#include "guardian/limits.h"

#include <string.h>

void gd_ids_free(struct gd_ids *ids)
{
    free(ids->data);
    memset(ids, 0, sizeof *ids);
}

int gd_ids_push(struct gd_ids *ids, int32_t id)
{
    if (ids->len == ids->cap) {
        size_t cap = ids->cap > 0 ? ids->cap : 64, bytes;
        if (!gd_mul(cap, 2, &cap) || !gd_mul(cap, sizeof ids->data[0], &bytes))
            return GD_ENOMEM;
        int32_t *grown = realloc(ids->data, bytes);
        if (grown == NULL)
            return GD_ENOMEM;
        ids->data = grown;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
    return GD_OK;
}

struct encode {
    const struct gd_tokenizer *t;
    enum gd_specials specials;
    struct gd_bpe_scratch bpe;
    struct gd_ids *out;
};

static int encode_piece(void *ctx, struct gd_str piece)
{
    struct encode *e = ctx;
    return gd_bpe_encode(&e->t->vocab, &e->bpe, piece, e->out);
}

typedef int part_fn(struct encode *e, struct gd_str part);

/* Pushes the added tokens of the set, and gives the parts between them to fn. */
static int part_by_added(struct encode *e, const struct gd_added *added, struct gd_str text,
                         part_fn *fn)
{
    int rc = GD_OK;
    size_t done = 0;
    while (rc == GD_OK && done < text.len) {
        size_t pos = done;
        const struct gd_added_token *token = gd_added_find(added, text, e->specials, &pos);
        if (token == NULL)
            pos = text.len;
        if (pos > done)
            rc = fn(e, (struct gd_str){text.ptr + done, pos - done});
        if (rc == GD_OK && token != NULL)
            rc = gd_ids_push(e->out, token->id);
        done = pos + (token != NULL ? token->content.len : 0);
    }
    return rc;
}

static int encode_words(struct encode *e, struct gd_str text)
{
    return gd_splits_run(&e->t->splits, text, encode_piece, e);
}

static int encode_normalised(struct encode *e, struct gd_str text)
{
    if (e->t->composed.n == 0)
        return encode_words(e, text);
    return part_by_added(e, &e->t->composed, text, encode_words);
}

static int encode_part(struct encode *e, struct gd_str text)
{
    if (!e->t->nfc || gd_nfc_prefix(text) == text.len)
        return encode_normalised(e, text);
    struct gd_buf normal;
    gd_buf_init(&normal, 4 * GD_TOKENIZER_TEXT_BYTES_MAX);
    int rc = gd_nfc_append(&normal, text);
    if (rc == GD_OK)
        rc = encode_normalised(e, (struct gd_str){normal.data, normal.len});
    gd_buf_free(&normal);
    return rc;
}

static bool is_utf8(struct gd_str s)
{
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        int len = (uint8_t)s.ptr[i] < 0x80 ? 1 : gd_utf8_next(s, i, &cp);
        if (len <= 0)
            return false;
        i += (size_t)len;
    }
    return true;
}

int gd_tokenizer_encode(const struct gd_tokenizer *t, struct gd_str text, enum gd_specials specials,
                        struct gd_ids *out)
{
    struct encode e = {.t = t, .specials = specials, .out = out};
    struct gd_buf repaired;
    size_t len_before = out->len;
    if (text.len > GD_TOKENIZER_TEXT_BYTES_MAX)
        return GD_ELIMIT;
    gd_buf_init(&repaired, 3 * GD_TOKENIZER_TEXT_BYTES_MAX + 1);
    if (!is_utf8(text)) {
        gd_utf8_repair(&repaired, text);
        text = (struct gd_str){repaired.data, repaired.len};
    }
    int rc = repaired.failed;
    if (rc == GD_OK && t->plain.n > 0)
        rc = part_by_added(&e, &t->plain, text, encode_part);
    else if (rc == GD_OK && text.len > 0)
        rc = encode_part(&e, text);
    gd_bpe_scratch_free(&e.bpe);
    gd_buf_free(&repaired);
    if (rc != GD_OK)
        out->len = len_before;
    return rc;
}

int32_t gd_tokenizer_added_id(const struct gd_tokenizer *t, struct gd_str content)
{
    const struct gd_added_token *token = gd_added_get(&t->all, content);
    return token != NULL ? token->id : -1;
}

bool gd_tokenizer_is_special(const struct gd_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->vocab.n_ids &&
           (t->vocab.tokens[id].flags & GD_TOKEN_SPECIAL) != 0;
}

int32_t gd_tokenizer_vocab_size(const struct gd_tokenizer *t)
{
    return (int32_t)t->vocab.n_ids;
}

bool gd_tokenizer_decode(const struct gd_tokenizer *t, int32_t id, struct gd_buf *out)
{
    if (id < 0 || (uint32_t)id >= t->vocab.n_ids)
        return false;
    const struct gd_token *token = &t->vocab.tokens[id];
    if ((token->flags & GD_TOKEN_KNOWN) == 0)
        return false;
    gd_buf_add(out, t->vocab.pool + token->offset, token->len);
    return true;
}

size_t gd_tokenizer_bytes(const struct gd_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->vocab.n_ids ? t->vocab.tokens[id].len : 0;
}

void gd_tokenizer_close(struct gd_tokenizer *t)
{
    if (t == NULL)
        return;
    gd_vocab_free(&t->vocab);
    gd_splits_free(&t->splits);
    gd_added_free(&t->all);
    gd_added_free(&t->plain);
    gd_added_free(&t->composed);
    gd_arena_free(&t->arena);
    free(t);
}
