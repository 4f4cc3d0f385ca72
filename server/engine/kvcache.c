/* kvcache.c - the blocks of the KV cache: who holds them, and which tokens can be found in them.
 *
 * Each publication of a block gets a number that is never given again, its chain. A block names the
 * chain of the block before it, so the pair (chain before, own ids) stands for the whole history:
 * a block that was taken back or evicted is no longer anybody's predecessor, and hashes only serve
 * to find. Full blocks stand in rings by hash, all published blocks also in rings by predecessor
 * and tenant, newest first, where partial matches are looked for: a flood of one tenant's prompts
 * hides nothing from another tenant, and a search looks at a bounded number of them.
 *
 * A sequence whose block turns out to be known already (two computed the same at one time) keeps
 * its own private one and holds the known one, its twin, as well. So who holds a block holds all
 * blocks before it; blocks are given back last first, and the order of use alone makes sure that
 * none is evicted before those that follow it. */
#include "guardian/kvcache.h"
#include "guardian/file.h"
#include "ring.h"

#include <string.h>
#include <sys/random.h>

#define BLOCK GD_KV_BLOCK_TOKENS
#define ROOT_CHAIN UINT64_C(1) /* what the first block of a sequence follows; 0: not published */

struct block {
    uint64_t chain;  /* 0: not published */
    uint64_t parent; /* chain of the block before it */
    uint64_t tag;    /* beginning of its hash */
    uint64_t step;   /* in which it was published */
    struct gd_kv_salt salt;
    int32_t ids[BLOCK];
    uint32_t n_ids; /* BLOCK, or less in the last one of what was kept */
    uint32_t refs;  /* sequences that hold it, and 1 when it is pinned */
    uint32_t twin;  /* of a private block: the published one with the same content, or GD_KV_NONE */
    bool common;    /* of all tenants; then salt is 0 */
    bool pinned;
};

/* What a published block is found by. */
struct key {
    uint64_t parent, tag;
    struct gd_kv_salt salt;
    const int32_t *ids;
    uint32_t n_ids;
    bool common;
    uint8_t digest[32];
};

struct gd_kvcache {
    uint32_t n_blocks;
    bool reuse;
    uint32_t hash_bits;
    uint8_t secret[32], root[32]; /* root: the hash that the first block's follows */
    uint64_t bucket_secret;
    uint64_t last_chain;
    uint64_t step;           /* the one under preparation, from 1 on */
    struct block *blocks;    /* [n_blocks] */
    struct gd_link *order;   /* [n_blocks + 2]: unused blocks; published by last use, or free */
    struct gd_link *by_hash; /* [n_blocks + n_buckets] */
    struct gd_link *by_parent;
    uint32_t bucket_mask;
    uint32_t n_cached, n_free, n_pinned;
    uint64_t evictions;
};

/* Heads in `order`. */
static uint32_t cached_head(const struct gd_kvcache *c)
{
    return c->n_blocks;
}

static uint32_t free_head(const struct gd_kvcache *c)
{
    return c->n_blocks + 1;
}

/* open and close */

static void cut(const struct gd_kvcache *c, uint8_t digest[32])
{
    for (uint32_t i = c->hash_bits / 8; i < 32; i++) {
        uint32_t left = i == c->hash_bits / 8 ? c->hash_bits % 8 : 0;
        digest[i] &= (uint8_t)((1u << left) - 1u);
    }
}

static void set_root(struct gd_kvcache *c, uint32_t hash_bits)
{
    c->hash_bits = hash_bits;
    gd_sha256(c->secret, sizeof c->secret, c->root);
    cut(c, c->root);
}

void gd_kvcache_test_hash_bits(struct gd_kvcache *c, uint32_t bits)
{
    GD_ASSERT(bits <= 256 && c->n_free == c->n_blocks);
    set_root(c, bits);
}

static void init_rings(struct gd_kvcache *c, uint32_t n_buckets)
{
    gd_ring_init(c->order, cached_head(c));
    gd_ring_init(c->order, free_head(c));
    for (uint32_t i = c->n_blocks; i-- > 0;) {
        c->blocks[i].twin = GD_KV_NONE;
        gd_ring_push(c->order, free_head(c), i);
    }
    for (uint32_t i = 0; i < c->n_blocks + n_buckets; i++) {
        gd_ring_init(c->by_hash, i);
        gd_ring_init(c->by_parent, i);
    }
    c->n_free = c->n_blocks;
}

int gd_kvcache_open(struct gd_kvcache **out, uint32_t n_blocks, bool reuse, struct gd_err *err)
{
    if (n_blocks == 0 || n_blocks > GD_KV_BLOCKS_MAX)
        return gd_err_set(err, GD_EUSAGE, "a KV cache of %u blocks: expected 1 to %d", n_blocks,
                          GD_KV_BLOCKS_MAX);
    int rc = GD_OK;
    uint32_t n_buckets = gd_ring_buckets(n_blocks);
    size_t n_links = (size_t)n_blocks + n_buckets;
    struct gd_kvcache *c = calloc(1, sizeof *c);
    if (c == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for the table of the KV cache");
    c->n_blocks = n_blocks;
    c->reuse = reuse;
    c->bucket_mask = n_buckets - 1;
    c->last_chain = ROOT_CHAIN;
    c->step = 1;
    c->blocks = calloc(n_blocks, sizeof *c->blocks);
    c->order = calloc((size_t)n_blocks + 2, sizeof *c->order);
    c->by_hash = calloc(n_links, sizeof *c->by_hash);
    c->by_parent = calloc(n_links, sizeof *c->by_parent);
    if (c->blocks == NULL || c->order == NULL || c->by_hash == NULL || c->by_parent == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for the table of %u KV blocks", n_blocks);
        goto done;
    }
    if (getrandom(c->secret, sizeof c->secret, 0) != (ssize_t)sizeof c->secret ||
        getrandom(&c->bucket_secret, sizeof c->bucket_secret, 0) !=
            (ssize_t)sizeof c->bucket_secret) {
        rc = gd_err_set(err, GD_EINTERNAL, "the system gave no random bytes");
        goto done;
    }
    init_rings(c, n_buckets);
    set_root(c, 256);
    *out = c;
    c = NULL;
done:
    gd_kvcache_close(c);
    return rc;
}

void gd_kvcache_close(struct gd_kvcache *c)
{
    if (c == NULL)
        return;
    free(c->blocks);
    free(c->order);
    free(c->by_hash);
    free(c->by_parent);
    free(c);
}

/* keys and rings */

/* The key of the prompt's n_ids tokens from block i on; a hash only for a full block. */
static struct key make_key(const struct gd_kvcache *c, const struct gd_kv_prompt *p, uint32_t i,
                           uint32_t n_ids, uint64_t parent, const uint8_t digest_before[32])
{
    struct key k = {.parent = parent,
                    .ids = p->tokens + (size_t)i * BLOCK,
                    .n_ids = n_ids,
                    .common = i * BLOCK + n_ids <= p->n_shared};
    if (!k.common)
        k.salt = p->salt;
    if (n_ids == BLOCK) {
        struct {
            uint8_t before[32];
            struct gd_kv_salt salt;
            int32_t ids[BLOCK];
        } hashed;
        memcpy(hashed.before, digest_before, sizeof hashed.before);
        hashed.salt = k.salt;
        memcpy(hashed.ids, k.ids, sizeof hashed.ids);
        gd_sha256(&hashed, sizeof hashed, k.digest);
        cut(c, k.digest);
        memcpy(&k.tag, k.digest, sizeof k.tag);
    }
    return k;
}

static uint32_t hash_bucket(const struct gd_kvcache *c, uint64_t tag)
{
    return c->n_blocks + ((uint32_t)tag & c->bucket_mask);
}

static uint32_t parent_bucket(const struct gd_kvcache *c, uint64_t parent, bool common,
                              const struct gd_kv_salt *salt)
{
    uint64_t half[2];
    memcpy(half, salt->bytes, sizeof half);
    uint64_t h = gd_ring_mix(c->bucket_secret ^ parent);
    h = gd_ring_mix(h ^ half[0]);
    h = gd_ring_mix(h ^ half[1]) ^ (common ? 1u : 0u);
    return c->n_blocks + ((uint32_t)h & c->bucket_mask);
}

static bool same_family(const struct block *b, const struct key *k)
{
    return b->parent == k->parent && b->common == k->common &&
           memcmp(&b->salt, &k->salt, sizeof b->salt) == 0;
}

/* The published full block with this key, or GD_KV_NONE. */
static uint32_t lookup(const struct gd_kvcache *c, const struct key *k)
{
    uint32_t head = hash_bucket(c, k->tag);
    for (uint32_t i = c->by_hash[head].next; i != head; i = c->by_hash[i].next) {
        const struct block *b = &c->blocks[i];
        if (b->tag == k->tag && same_family(b, k) && memcmp(b->ids, k->ids, sizeof b->ids) == 0)
            return i;
    }
    return GD_KV_NONE;
}

/* Of the blocks of k's family that were published before `step`, the one that begins with most of
 * the n ids; *run is how many, and what it was at the call must be passed. */
static uint32_t look_at_siblings(const struct gd_kvcache *c, const struct key *k, uint32_t n,
                                 uint64_t step, uint32_t *run)
{
    uint32_t best = GD_KV_NONE, looked = 0;
    uint32_t head = parent_bucket(c, k->parent, k->common, &k->salt);
    for (uint32_t i = c->by_parent[head].next; i != head && looked < GD_KV_SIBLINGS_MAX && *run < n;
         i = c->by_parent[i].next) {
        const struct block *b = &c->blocks[i];
        looked++;
        if (b->step >= step || !same_family(b, k))
            continue;
        uint32_t same = 0, max = b->n_ids < n ? b->n_ids : n;
        while (same < max && b->ids[same] == k->ids[same])
            same++;
        if (same > *run) {
            *run = same;
            best = i;
        }
    }
    return best;
}

static void publish(struct gd_kvcache *c, uint32_t i, const struct key *k, uint64_t step)
{
    struct block *b = &c->blocks[i];
    b->chain = ++c->last_chain;
    b->parent = k->parent;
    b->tag = k->tag;
    b->step = step;
    b->salt = k->salt;
    b->n_ids = k->n_ids;
    b->common = k->common;
    memcpy(b->ids, k->ids, k->n_ids * sizeof *b->ids);
    if (k->n_ids == BLOCK)
        gd_ring_push(c->by_hash, hash_bucket(c, k->tag), i);
    gd_ring_push(c->by_parent, parent_bucket(c, k->parent, k->common, &k->salt), i);
}

static void unpublish(struct gd_kvcache *c, uint32_t i)
{
    gd_ring_remove(c->by_hash, i);
    gd_ring_remove(c->by_parent, i);
    c->blocks[i].chain = 0;
}

/* holding blocks */

static void hold(struct gd_kvcache *c, uint32_t i)
{
    if (c->blocks[i].refs++ == 0) {
        gd_ring_remove(c->order, i);
        c->n_cached--;
    }
}

static void let_go(struct gd_kvcache *c, uint32_t i)
{
    struct block *b = &c->blocks[i];
    GD_ASSERT(b->refs > 0);
    if (--b->refs > 0)
        return;
    if (b->chain != 0) {
        gd_ring_push(c->order, cached_head(c), i);
        c->n_cached++;
    } else {
        gd_ring_push(c->order, free_head(c), i);
        c->n_free++;
    }
}

/* A block for new tokens; there is one. */
static uint32_t take(struct gd_kvcache *c)
{
    uint32_t i;
    if (c->n_free > 0) {
        i = c->order[free_head(c)].next;
        c->n_free--;
    } else {
        GD_ASSERT(c->n_cached > 0);
        i = c->order[cached_head(c)].prev;
        unpublish(c, i);
        c->n_cached--;
        c->evictions++;
    }
    gd_ring_remove(c->order, i);
    c->blocks[i].refs = 1;
    return i;
}

static void pin(struct gd_kvcache *c, uint32_t i)
{
    if (c->blocks[i].pinned)
        return;
    c->blocks[i].pinned = true;
    hold(c, i);
    c->n_pinned++;
}

/* finding */

struct found {
    uint32_t n_full;    /* blocks */
    uint32_t n_unused;  /* of these, in nobody's use */
    uint32_t copy_from; /* begins with n_copy more tokens */
    uint32_t n_copy;
    uint64_t chain;
    uint8_t digest[32];
};

static void find_partial(const struct gd_kvcache *c, const struct gd_kv_prompt *p, struct found *f)
{
    uint32_t start = f->n_full * BLOCK;
    uint32_t max = p->n_tokens - 1 - start;
    max = max < BLOCK - 1 ? max : BLOCK - 1; /* a whole block is used in place or not at all */
    struct key k = {.parent = f->chain, .ids = p->tokens + start, .common = true};
    if (p->n_shared > start) {
        uint32_t shared = p->n_shared - start;
        f->copy_from = look_at_siblings(c, &k, shared < max ? shared : max, c->step, &f->n_copy);
    }
    k.common = false;
    k.salt = p->salt;
    uint32_t own = look_at_siblings(c, &k, max, c->step, &f->n_copy);
    if (own != GD_KV_NONE)
        f->copy_from = own;
}

/* The longest known prefix; blocks (may be NULL) gets the full ones. */
static void find(const struct gd_kvcache *c, const struct gd_kv_prompt *p, uint32_t *blocks,
                 struct found *f)
{
    GD_ASSERT(p->n_tokens > 0 && p->n_tokens <= GD_CONTEXT_TOKENS_MAX);
    GD_ASSERT(p->n_shared <= p->n_keep && p->n_keep <= p->n_tokens);
    *f = (struct found){.copy_from = GD_KV_NONE, .chain = ROOT_CHAIN};
    memcpy(f->digest, c->root, sizeof f->digest);
    if (!c->reuse)
        return;
    uint32_t max = (p->n_tokens - 1) / BLOCK;
    for (; f->n_full < max; f->n_full++) {
        struct key k = make_key(c, p, f->n_full, BLOCK, f->chain, f->digest);
        uint32_t i = lookup(c, &k);
        if (i == GD_KV_NONE)
            break;
        if (blocks != NULL)
            blocks[f->n_full] = i;
        f->n_unused += c->blocks[i].refs == 0;
        f->chain = c->blocks[i].chain;
        memcpy(f->digest, k.digest, sizeof f->digest);
    }
    find_partial(c, p, f);
}

uint32_t gd_kvcache_common(const struct gd_kvcache *c, const struct gd_kv_prompt *a,
                           const struct gd_kv_prompt *b)
{
    bool same_salt = memcmp(&a->salt, &b->salt, sizeof a->salt) == 0;
    uint32_t max_a = same_salt ? a->n_keep : a->n_shared;
    uint32_t max_b = same_salt ? b->n_keep : b->n_shared;
    uint32_t max = max_a < max_b ? max_a : max_b, n = 0;
    while (c->reuse && n < max && a->tokens[n] == b->tokens[n])
        n++;
    return n;
}

uint32_t gd_kvcache_peek(const struct gd_kvcache *c, const struct gd_kv_prompt *p)
{
    struct found f;
    find(c, p, NULL, &f);
    return f.n_full * BLOCK + f.n_copy;
}

int gd_kvcache_acquire(struct gd_kvcache *c, const struct gd_kv_prompt *p, struct gd_kv_seq *s)
{
    struct found f;
    s->n_blocks = 0; /* nothing to give back when this fails */
    s->copy_from = GD_KV_NONE;
    find(c, p, s->blocks, &f);
    uint32_t n_blocks = (p->n_tokens + BLOCK - 1) / BLOCK;
    uint32_t n_new = n_blocks - f.n_full;
    uint32_t n_left = c->n_free + c->n_cached - f.n_unused;
    if (n_new > n_left)
        return GD_EBUSY;
    if (f.copy_from != GD_KV_NONE && c->blocks[f.copy_from].refs == 0 && n_new == n_left) {
        f.copy_from = GD_KV_NONE; /* it is needed for new tokens */
        f.n_copy = 0;
    }
    s->prompt = *p;
    s->n_blocks = n_blocks;
    s->n_cached = f.n_full * BLOCK + f.n_copy;
    s->copy_from = f.copy_from;
    s->n_found = f.n_full;
    s->n_published = f.n_full;
    s->chain = f.chain;
    memcpy(s->digest, f.digest, sizeof s->digest);
    for (uint32_t i = 0; i < f.n_full; i++)
        hold(c, s->blocks[i]);
    if (f.copy_from != GD_KV_NONE)
        hold(c, f.copy_from);
    for (uint32_t i = f.n_full; i < n_blocks; i++)
        s->blocks[i] = take(c);
    return GD_OK;
}

/* computing, and giving back */

void gd_kvcache_copied(struct gd_kvcache *c, struct gd_kv_seq *s)
{
    if (s->copy_from == GD_KV_NONE)
        return;
    let_go(c, s->copy_from);
    s->copy_from = GD_KV_NONE;
}

/* The published block that stands for block i of s, a settled one. */
static uint32_t settled_block(const struct gd_kvcache *c, const struct gd_kv_seq *s, uint32_t i)
{
    uint32_t twin = c->blocks[s->blocks[i]].twin;
    return twin != GD_KV_NONE ? twin : s->blocks[i];
}

/* Settles the full blocks of the first n tokens. When whoever published the blocks before has taken
 * them back, nobody finds these either. */
static void settle(struct gd_kvcache *c, struct gd_kv_seq *s, uint32_t n, uint64_t step)
{
    if (!c->reuse)
        return;
    while ((s->n_published + 1) * BLOCK <= n) {
        uint32_t b = s->blocks[s->n_published];
        struct key k = make_key(c, &s->prompt, s->n_published, BLOCK, s->chain, s->digest);
        uint32_t known = lookup(c, &k);
        if (known != GD_KV_NONE) {
            c->blocks[b].twin = known;
            hold(c, known);
        } else {
            publish(c, b, &k, step);
            known = b;
        }
        s->n_published++;
        s->chain = c->blocks[known].chain;
        memcpy(s->digest, k.digest, sizeof s->digest);
    }
}

void gd_kvcache_advance(struct gd_kvcache *c, struct gd_kv_seq *s, uint32_t n_done)
{
    GD_ASSERT(n_done <= s->prompt.n_tokens);
    settle(c, s, n_done < s->prompt.n_keep ? n_done : s->prompt.n_keep, c->step);
}

void gd_kvcache_step_end(struct gd_kvcache *c)
{
    c->step++;
}

/* The last tokens to keep, which do not fill a block. Returns the block that has them for others,
 * or GD_KV_NONE when there is none such. */
static uint32_t settle_tail(struct gd_kvcache *c, struct gd_kv_seq *s)
{
    uint32_t n = s->prompt.n_keep % BLOCK, run = 0;
    if (!c->reuse || n == 0 || s->n_published != s->prompt.n_keep / BLOCK)
        return GD_KV_NONE;
    struct key k = make_key(c, &s->prompt, s->n_published, n, s->chain, s->digest);
    uint32_t known = look_at_siblings(c, &k, n, UINT64_MAX, &run);
    if (run == n)
        return known;
    uint32_t b = s->blocks[s->n_published];
    publish(c, b, &k, c->step - 1); /* computed before the step under preparation */
    return b;
}

/* False when a block of the chain was taken back. */
static bool all_known(const struct gd_kvcache *c, const struct gd_kv_seq *s)
{
    for (uint32_t i = 0; i < s->n_published; i++) {
        if (c->blocks[settled_block(c, s, i)].chain == 0)
            return false;
    }
    return true;
}

static void pin_kept(struct gd_kvcache *c, const struct gd_kv_seq *s, uint32_t tail)
{
    uint32_t n = (s->prompt.n_keep + BLOCK - 1) / BLOCK;
    for (uint32_t i = 0; i < n && i < s->n_published; i++)
        pin(c, settled_block(c, s, i));
    if (tail != GD_KV_NONE)
        pin(c, tail);
}

/* Without keep what s has published can no longer be found. Pinned blocks stay: whoever pinned them
 * has computed on them. */
static void give_back(struct gd_kvcache *c, struct gd_kv_seq *s, bool keep)
{
    for (uint32_t i = s->n_blocks; i-- > 0;) {
        uint32_t b = s->blocks[i], twin = c->blocks[b].twin;
        if (i >= s->n_found && twin != GD_KV_NONE) {
            c->blocks[b].twin = GD_KV_NONE;
            let_go(c, twin);
        } else if (!keep && i >= s->n_found && i < s->n_published && !c->blocks[b].pinned) {
            unpublish(c, b);
        }
        let_go(c, b);
    }
    s->n_blocks = 0;
    s->n_found = 0;
    s->n_published = 0;
}

static void leave(struct gd_kvcache *c, struct gd_kv_seq *s, bool keep, bool for_good)
{
    if (s->n_blocks == 0)
        return;
    /* A copy that was never made leaves nothing worth keeping. */
    keep = keep && s->copy_from == GD_KV_NONE && all_known(c, s);
    gd_kvcache_copied(c, s);
    if (keep) {
        settle(c, s, s->prompt.n_keep, c->step - 1);
        uint32_t tail = settle_tail(c, s);
        if (for_good)
            pin_kept(c, s, tail);
    }
    give_back(c, s, keep);
}

void gd_kvcache_release(struct gd_kvcache *c, struct gd_kv_seq *s, bool keep)
{
    leave(c, s, keep, false);
}

void gd_kvcache_pin(struct gd_kvcache *c, struct gd_kv_seq *s)
{
    leave(c, s, true, true);
}

void gd_kvcache_stats(const struct gd_kvcache *c, struct gd_kvcache_stats *out)
{
    *out = (struct gd_kvcache_stats){.blocks = c->n_blocks,
                                     .used = c->n_blocks - c->n_cached - c->n_free,
                                     .cached = c->n_cached,
                                     .free = c->n_free,
                                     .pinned = c->n_pinned,
                                     .evictions = c->evictions};
}
