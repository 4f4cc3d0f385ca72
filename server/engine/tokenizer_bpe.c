/* tokenizer_bpe.c - byte pair encoding of one piece.
 *
 * The rule: while any two neighbours are in the merge table, join the pair with the lowest rank,
 * leftmost first. Three ways, all with that result:
 *   - the piece is a token for which the loader has shown that the merges end in it (or the model
 *     says ignore_merges): one look-up;
 *   - short pieces: ranks in an array, its minimum by a scan; quadratic, but in SHORT_MAX;
 *   - long pieces: linked list and a heap of (rank, position), O(n log n). A heap entry is stale
 *     when the symbol at its position has gone or has another rank by now: ranks are unique to a
 *     pair, so comparing the rank is enough. Every merge takes one entry and adds at most two,
 *     which bounds the heap by two entries a symbol.
 * There is no cache of pieces: nothing to fill with garbage, nothing to lock, no timing to observe.
 */
#include "tokenizer_parts.h"

#include <string.h>

#define SHORT_MAX 48
#define NO_RANK UINT32_MAX
#define NO_NEXT UINT32_MAX

struct gd_bpe_symbol {
    int32_t id; /* -1: merged into its left neighbour */
    uint32_t prev;
    uint32_t next;
    uint32_t rank; /* of the pair with the next symbol */
    int32_t pair_id;
};

void gd_bpe_scratch_free(struct gd_bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    memset(s, 0, sizeof *s);
}

static int scratch_reserve(struct gd_bpe_scratch *s, size_t n)
{
    size_t symbols_bytes, heap_bytes;
    if (n <= s->cap)
        return GD_OK;
    if (!gd_mul(n, sizeof s->symbols[0], &symbols_bytes) ||
        !gd_mul(n, 2 * sizeof s->heap[0], &heap_bytes))
        return GD_ENOMEM;
    gd_bpe_scratch_free(s);
    s->symbols = malloc(symbols_bytes);
    s->heap = malloc(heap_bytes);
    if (s->symbols == NULL || s->heap == NULL) {
        gd_bpe_scratch_free(s);
        return GD_ENOMEM;
    }
    s->cap = n;
    return GD_OK;
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
    for (;;) {
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

struct heap {
    uint64_t *at; /* rank << 32 | position; the least on top */
    size_t n;
};

static void heap_push(struct heap *h, uint64_t entry)
{
    size_t i = h->n++;
    while (i > 0 && h->at[(i - 1) / 2] > entry) {
        h->at[i] = h->at[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h->at[i] = entry;
}

static void heap_sift_down(struct heap *h, size_t i)
{
    uint64_t entry = h->at[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && h->at[child + 1] < h->at[child])
            child++;
        if (h->at[child] >= entry)
            break;
        h->at[i] = h->at[child];
        i = child;
    }
    h->at[i] = entry;
}

static uint64_t heap_pop(struct heap *h)
{
    uint64_t top = h->at[0];
    h->at[0] = h->at[--h->n];
    if (h->n > 0)
        heap_sift_down(h, 0);
    return top;
}

/* Looks up the pair (i, next of i); true when there is one. */
static bool long_rank(const struct gd_vocab *v, struct gd_bpe_symbol *symbols, uint32_t i)
{
    struct gd_bpe_symbol *s = &symbols[i];
    const struct gd_pair_slot *pair = NULL;
    if (s->next != NO_NEXT)
        pair = gd_vocab_pair(v, s->id, symbols[s->next].id);
    s->rank = pair != NULL ? pair->rank : NO_RANK;
    s->pair_id = pair != NULL ? pair->id : -1;
    return pair != NULL;
}

static uint64_t heap_entry(const struct gd_bpe_symbol *symbols, uint32_t i)
{
    return (uint64_t)symbols[i].rank << 32 | i;
}

static void long_start(const struct gd_vocab *v, struct gd_bpe_symbol *symbols, struct heap *h,
                       struct gd_str piece)
{
    uint32_t n = (uint32_t)piece.len;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].id = v->byte_id[(uint8_t)piece.ptr[i]];
        symbols[i].prev = i - 1;
        symbols[i].next = i + 1 < n ? i + 1 : NO_NEXT;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (long_rank(v, symbols, i))
            h->at[h->n++] = heap_entry(symbols, i);
    }
    for (size_t i = h->n / 2; i-- > 0;)
        heap_sift_down(h, i);
}

static int merge_long(const struct gd_vocab *v, struct gd_bpe_scratch *scratch, struct gd_str piece,
                      struct gd_ids *out)
{
    int rc = piece.len < UINT32_MAX ? scratch_reserve(scratch, piece.len) : GD_ELIMIT;
    if (rc != GD_OK)
        return rc;
    struct gd_bpe_symbol *symbols = scratch->symbols;
    struct heap h = {scratch->heap, 0};
    long_start(v, symbols, &h, piece);
    while (h.n > 0) {
        uint64_t entry = heap_pop(&h);
        uint32_t i = (uint32_t)entry;
        struct gd_bpe_symbol *s = &symbols[i];
        if (s->id < 0 || s->rank != (uint32_t)(entry >> 32))
            continue;
        struct gd_bpe_symbol *gone = &symbols[s->next];
        s->id = s->pair_id;
        s->next = gone->next;
        gone->id = -1;
        if (s->next != NO_NEXT)
            symbols[s->next].prev = i;
        if (long_rank(v, symbols, i))
            heap_push(&h, heap_entry(symbols, i));
        if (i > 0 && long_rank(v, symbols, s->prev))
            heap_push(&h, heap_entry(symbols, s->prev));
    }
    for (uint32_t i = 0; i != NO_NEXT && rc == GD_OK; i = symbols[i].next)
        rc = gd_ids_push(out, symbols[i].id);
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
