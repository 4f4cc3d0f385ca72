/* tokenizer_vocab.c - the tables of a byte-level BPE vocabulary.
 *
 * Two flat tables with open addressing and linear probing, at most half full: content -> id and
 * pair of ids -> (rank, id). Both are filled from the operator's file alone. What a client sends
 * is only looked up, so a client cannot lengthen a probe beyond the longest cluster that the file
 * itself has made; a seeded hash would buy nothing.
 *
 * Vocabulary files write bytes as printable characters (the byte-level alphabet of GPT-2): bytes
 * that are printable in Latin-1 stand for themselves and the other 68 follow from U+0100 on. */
#include "tokenizer_parts.h"

#include "guardian/json.h"
#include "guardian/limits.h"

#include <string.h>

#define KIND_BIT 0x80000000u
#define ALPHABET_END 0x144u /* U+0100 and the 68 unprintable bytes */

static bool is_printable(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

/* The byte that a character of the alphabet stands for, or -1. */
static int alphabet_byte(uint32_t cp)
{
    static const uint8_t ranges[][2] = {{0x00, 0x20}, {0x7F, 0xA0}, {0xAD, 0xAD}};
    if (cp < 0x100)
        return is_printable(cp) ? (int)cp : -1;
    if (cp >= ALPHABET_END)
        return -1;
    uint32_t left = cp - 0x100;
    for (size_t i = 0; i < 3; i++) {
        uint32_t n = (uint32_t)ranges[i][1] - ranges[i][0] + 1u;
        if (left < n)
            return (int)(ranges[i][0] + left);
        left -= n;
    }
    return -1;
}

bool gd_vocab_unmap(struct gd_str s, char *dst, size_t *len)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        int used = gd_utf8_next(s, i, &cp);
        int byte = used > 0 ? alphabet_byte(cp) : -1;
        if (byte < 0)
            return false;
        dst[n++] = (char)byte;
        i += (size_t)used;
    }
    *len = n;
    return true;
}

static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size < 2 * n)
        size *= 2;
    return size;
}

int gd_vocab_init(struct gd_vocab *v, size_t n_ids, size_t n_tokens, size_t n_merges,
                  size_t pool_bytes)
{
    memset(v, 0, sizeof *v);
    GD_ASSERT(n_ids <= GD_TOKENIZER_VOCAB_MAX && n_merges <= GD_TOKENIZER_MERGES_MAX);
    GD_ASSERT(n_tokens <= n_ids && pool_bytes <= UINT32_MAX);
    size_t slots = table_size(n_tokens), pairs = table_size(n_merges);
    v->pool_cap = pool_bytes;
    v->pool = malloc(pool_bytes + 1);
    v->tokens = calloc(n_ids + 1, sizeof v->tokens[0]);
    v->n_ids = (uint32_t)n_ids;
    v->slots = calloc(slots, sizeof v->slots[0]);
    v->slots_mask = slots - 1;
    v->pairs = malloc(pairs * sizeof v->pairs[0]);
    v->pairs_mask = pairs - 1;
    if (v->pool == NULL || v->tokens == NULL || v->slots == NULL || v->pairs == NULL)
        return GD_ENOMEM;
    for (size_t i = 0; i < slots; i++)
        v->slots[i].id = -1;
    memset(v->pairs, 0xFF, pairs * sizeof v->pairs[0]);
    for (size_t i = 0; i < 256; i++)
        v->byte_id[i] = -1;
    return GD_OK;
}

void gd_vocab_free(struct gd_vocab *v)
{
    free(v->pool);
    free(v->tokens);
    free(v->slots);
    free(v->pairs);
    memset(v, 0, sizeof *v);
}

static uint64_t load64(const char *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static uint64_t load32(const char *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static uint64_t mix(uint64_t x)
{
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ (x >> 29);
}

/* Different for different contents of the same length up to 8 bytes. */
static uint64_t content_key(const char *p, size_t len)
{
    if (len > 8) {
        uint64_t h = 0;
        for (size_t i = 0; i + 8 < len; i += 8)
            h = mix(h ^ load64(p + i));
        return mix(h ^ load64(p + len - 8));
    }
    if (len >= 4)
        return load32(p) | load32(p + len - 4) << 32;
    if (len == 0)
        return 0;
    return (uint64_t)(uint8_t)p[0] | (uint64_t)(uint8_t)p[len / 2] << 8 |
           (uint64_t)(uint8_t)p[len - 1] << 16;
}

/* The slot of a content, or the free slot where it would go. */
static struct gd_token_slot *find_slot(const struct gd_vocab *v, struct gd_str s, uint32_t kind)
{
    uint64_t key = content_key(s.ptr, s.len);
    uint32_t len_kind = (uint32_t)s.len | ((kind & GD_TOKEN_BYTES) != 0 ? KIND_BIT : 0);
    size_t i = (size_t)mix(key ^ len_kind) & v->slots_mask;
    for (;; i = (i + 1) & v->slots_mask) {
        struct gd_token_slot *slot = &v->slots[i];
        if (slot->id < 0)
            return slot;
        if (slot->key != key || slot->len_kind != len_kind)
            continue;
        if (s.len <= 8 || memcmp(v->pool + v->tokens[slot->id].offset, s.ptr, s.len) == 0)
            return slot;
    }
}

int32_t gd_vocab_find(const struct gd_vocab *v, struct gd_str content, uint32_t kind)
{
    return find_slot(v, content, kind)->id;
}

void gd_vocab_put_name(struct gd_vocab *v, struct gd_str content, int32_t id)
{
    GD_ASSERT(id >= 0 && (uint32_t)id < v->n_ids && v->tokens[id].flags == 0);
    GD_ASSERT(content.len <= v->pool_cap - v->pool_len);
    struct gd_token *token = &v->tokens[id];
    token->offset = (uint32_t)v->pool_len;
    token->len = (uint32_t)content.len;
    token->flags = GD_TOKEN_KNOWN;
    if (content.len > 0)
        memcpy(v->pool + v->pool_len, content.ptr, content.len);
    v->pool_len += content.len;
}

void gd_vocab_put(struct gd_vocab *v, struct gd_str content, uint32_t kind, int32_t id)
{
    gd_vocab_put_name(v, content, id);
    v->tokens[id].flags |= kind;
    struct gd_token_slot *slot = find_slot(v, content, kind);
    GD_ASSERT(slot->id < 0);
    slot->key = content_key(content.ptr, content.len);
    slot->len_kind = (uint32_t)content.len | ((kind & GD_TOKEN_BYTES) != 0 ? KIND_BIT : 0);
    slot->id = id;
}

static struct gd_pair_slot *pair_slot(const struct gd_vocab *v, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)mix(pair) & v->pairs_mask;
    while (v->pairs[i].pair != pair && v->pairs[i].pair != UINT64_MAX)
        i = (i + 1) & v->pairs_mask;
    return &v->pairs[i];
}

void gd_vocab_put_pair(struct gd_vocab *v, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    struct gd_pair_slot *slot = pair_slot(v, left, right);
    slot->pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    slot->rank = rank;
    slot->id = id;
}

const struct gd_pair_slot *gd_vocab_pair(const struct gd_vocab *v, int32_t left, int32_t right)
{
    const struct gd_pair_slot *slot = pair_slot(v, left, right);
    return slot->pair == UINT64_MAX ? NULL : slot;
}

int32_t gd_vocab_whole(const struct gd_vocab *v, struct gd_str piece)
{
    if (piece.len > v->whole_len_max)
        return -1;
    int32_t id = find_slot(v, piece, GD_TOKEN_BYTES)->id;
    return id >= 0 && (v->tokens[id].flags & GD_TOKEN_WHOLE) != 0 ? id : -1;
}
