/* tokenizer_bpe.c - byte pair encoding of one piece.
 *
 * The rule: while any two neighbours are in the merge table, join the pair with the lowest rank,
 * leftmost first. Three ways, all with that result:
 *   - the piece is a token for which the loader has shown that the merges end in it (or the model
 *     says ignore_merges): one look-up;
 *   - short pieces: ranks in an array, its minimum by a scan; quadratic, but in SHORT_MAX;
 *   - long pieces: a linked list of symbols whose ranks are kept in blocks of BLOCK, with a binary
 *     tree of the blocks' minima above. A merge changes at most three blocks: O(log n). Unlike a
 *     heap of candidates it needs no memory beyond 16 bytes a symbol, and stays in the cache.
 * There is no cache of pieces: nothing to fill with garbage, nothing to lock, no timing to observe.
 */
#include "tokenizer_parts.h"

#include <string.h>

#define SHORT_MAX 48
#define NO_RANK UINT32_MAX
#define NO_NEXT UINT32_MAX
#define BLOCK 64u

void gd_bpe_scratch_free(struct gd_bpe_scratch *s)
{
    free(s->words);
    memset(s, 0, sizeof *s);
}

struct short_piece {
    int32_t ids[SHORT_MAX];
    uint32_t ranks[SHORT_MAX]; /* of the pair (i, i + 1) */
    int32_t pair_ids[SHORT_MAX];
    size_t n;
};

static void short_rank(const struct gd_vocab *v, struct short_piece *s, size_t i)
{
    const struct gd_pair_slot *pair = NULL;
    if (i + 1 < s->n)
        pair = gd_vocab_pair(v, s->ids[i], s->ids[i + 1]);
    s->ranks[i] = pair != NULL ? pair->rank : NO_RANK;
    s->pair_ids[i] = pair != NULL ? pair->id : -1;
}

static size_t short_best(const struct short_piece *s)
{
    size_t best = 0;
    for (size_t i = 1; i < s->n; i++)
        best = s->ranks[i] < s->ranks[best] ? i : best;
    return best;
}

static int merge_short(const struct gd_vocab *v, struct gd_str piece, struct gd_ids *out)
{
    struct short_piece s;
    s.n = 0;
    for (size_t i = 0; i < piece.len; i++)
        s.ids[s.n++] = v->byte_id[(uint8_t)piece.ptr[i]];
    for (size_t i = 0; i < s.n; i++)
        short_rank(v, &s, i);
    while (s.n > 1) {
        size_t best = short_best(&s);
        if (s.ranks[best] == NO_RANK)
            break;
        s.ids[best] = s.pair_ids[best];
        size_t tail = s.n - best - 2;
        memmove(s.ids + best + 1, s.ids + best + 2, tail * sizeof s.ids[0]);
        memmove(s.ranks + best + 1, s.ranks + best + 2, tail * sizeof s.ranks[0]);
        memmove(s.pair_ids + best + 1, s.pair_ids + best + 2, tail * sizeof s.pair_ids[0]);
        s.n--;
        short_rank(v, &s, best);
        if (best > 0)
            short_rank(v, &s, best - 1);
    }
    for (size_t i = 0; i < s.n; i++) {
        int rc = gd_ids_push(out, s.ids[i]);
        if (rc != GD_OK)
            return rc;
    }
    return GD_OK;
}

/* The state of a long piece; all arrays lie in the scratch memory. */
struct long_piece {
    uint32_t *ids;   /* [padded] */
    uint32_t *ranks; /* [padded] of the pair with the next symbol; NO_RANK: none, or symbol gone */
    uint32_t *prev;  /* [padded] */
    uint32_t *next;  /* [padded] */
    uint32_t *least; /* [2 * leaves] least[i] is the minimum of 2i and 2i + 1; block b is leaf b */
    size_t padded;   /* symbols, rounded up to whole blocks */
    size_t leaves;
};

static int long_reserve(struct gd_bpe_scratch *s, struct long_piece *p, size_t n)
{
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    p->padded = blocks * BLOCK;
    p->leaves = 1;
    while (p->leaves < blocks)
        p->leaves *= 2;
    size_t words = 4 * p->padded + 2 * p->leaves, bytes;
    if (words > s->cap) {
        if (!gd_mul(words, sizeof s->words[0], &bytes))
            return GD_ENOMEM;
        gd_bpe_scratch_free(s);
        s->words = malloc(bytes);
        if (s->words == NULL)
            return GD_ENOMEM;
        s->cap = words;
    }
    p->ids = s->words;
    p->ranks = p->ids + p->padded;
    p->prev = p->ranks + p->padded;
    p->next = p->prev + p->padded;
    p->least = p->next + p->padded;
    return GD_OK;
}

static const struct gd_pair_slot *long_pair(const struct gd_vocab *v, const struct long_piece *p,
                                            size_t i)
{
    if (p->next[i] == NO_NEXT)
        return NULL;
    return gd_vocab_pair(v, (int32_t)p->ids[i], (int32_t)p->ids[p->next[i]]);
}

static void long_rank(const struct gd_vocab *v, struct long_piece *p, size_t i)
{
    const struct gd_pair_slot *pair = long_pair(v, p, i);
    p->ranks[i] = pair != NULL ? pair->rank : NO_RANK;
}

static uint32_t block_least(const struct long_piece *p, size_t block)
{
    const uint32_t *ranks = p->ranks + block * BLOCK;
    uint32_t least = NO_RANK;
    for (size_t i = 0; i < BLOCK; i++)
        least = ranks[i] < least ? ranks[i] : least;
    return least;
}

/* After a change of ranks in a block. */
static void long_refresh(struct long_piece *p, size_t block)
{
    size_t node = p->leaves + block;
    p->least[node] = block_least(p, block);
    for (node /= 2; node > 0; node /= 2) {
        uint32_t left = p->least[2 * node], right = p->least[2 * node + 1];
        uint32_t least = left < right ? left : right;
        if (p->least[node] == least)
            break;
        p->least[node] = least;
    }
}

/* The leftmost symbol whose rank is the lowest of all. */
static size_t long_best(const struct long_piece *p)
{
    uint32_t rank = p->least[1];
    size_t node = 1;
    while (node < p->leaves)
        node = p->least[2 * node] == rank ? 2 * node : 2 * node + 1;
    size_t i = (node - p->leaves) * BLOCK;
    while (p->ranks[i] != rank)
        i++;
    return i;
}

static void long_start(const struct gd_vocab *v, struct long_piece *p, struct gd_str piece)
{
    for (size_t i = 0; i < piece.len; i++) {
        p->ids[i] = (uint32_t)v->byte_id[(uint8_t)piece.ptr[i]];
        p->prev[i] = (uint32_t)(i - 1);
        p->next[i] = i + 1 < piece.len ? (uint32_t)(i + 1) : NO_NEXT;
    }
    for (size_t i = 0; i < piece.len; i++)
        long_rank(v, p, i);
    for (size_t i = piece.len; i < p->padded; i++)
        p->ranks[i] = NO_RANK;
    for (size_t i = 0; i < p->leaves; i++)
        p->least[p->leaves + i] = i < p->padded / BLOCK ? block_least(p, i) : NO_RANK;
    for (size_t i = p->leaves; i-- > 1;)
        p->least[i] = p->least[2 * i] < p->least[2 * i + 1] ? p->least[2 * i] : p->least[2 * i + 1];
}

/* Joins symbol i with the next. */
static void long_join(const struct gd_vocab *v, struct long_piece *p, size_t i)
{
    const struct gd_pair_slot *pair = long_pair(v, p, i);
    size_t gone = p->next[i], block = i / BLOCK;
    GD_ASSERT(pair != NULL);
    p->ids[i] = (uint32_t)pair->id;
    p->ranks[gone] = NO_RANK;
    p->next[i] = p->next[gone];
    if (p->next[i] != NO_NEXT)
        p->prev[p->next[i]] = (uint32_t)i;
    long_rank(v, p, i);
    if (gone / BLOCK != block)
        long_refresh(p, gone / BLOCK);
    if (i > 0) {
        size_t before = p->prev[i];
        long_rank(v, p, before);
        if (before / BLOCK != block)
            long_refresh(p, before / BLOCK);
    }
    long_refresh(p, block);
}

static int merge_long(const struct gd_vocab *v, struct gd_bpe_scratch *scratch, struct gd_str piece,
                      struct gd_ids *out)
{
    struct long_piece p;
    int rc = piece.len < NO_NEXT ? long_reserve(scratch, &p, piece.len) : GD_ELIMIT;
    if (rc != GD_OK)
        return rc;
    long_start(v, &p, piece);
    while (p.least[1] != NO_RANK)
        long_join(v, &p, long_best(&p));
    for (uint32_t i = 0; i != NO_NEXT && rc == GD_OK; i = p.next[i])
        rc = gd_ids_push(out, (int32_t)p.ids[i]);
    return rc;
}

int gd_bpe_merge(const struct gd_vocab *v, struct gd_bpe_scratch *s, struct gd_str piece,
                 struct gd_ids *out)
{
    if (piece.len <= SHORT_MAX)
        return merge_short(v, piece, out);
    return merge_long(v, s, piece, out);
}

int gd_bpe_encode(const struct gd_vocab *v, struct gd_bpe_scratch *s, struct gd_str piece,
                  struct gd_ids *out)
{
    int32_t id = gd_vocab_whole(v, piece);
    if (id >= 0)
        return gd_ids_push(out, id);
    return gd_bpe_merge(v, s, piece, out);
}
