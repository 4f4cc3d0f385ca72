/* kvcache.h - which blocks of the KV cache hold which tokens; no tensors here.
 *
 * A block holds keys and values of up to GD_KV_BLOCK_TOKENS tokens that follow each other in a
 * sequence. Blocks whose tokens may be kept are published: later sequences that begin with the same
 * tokens use them. A published block is found by the hash of its whole history (SHA-256 over the
 * salt, the hash of the block before it, and its token ids), and taken only when its own ids are
 * equal and the block before it is the very one that the sequence has: a collision costs nothing.
 * The design is that of vLLM's automatic prefix caching; beyond it, reuse is by token: of the block
 * where two sequences part the equal tokens are copied.
 *
 * Tenants: blocks that lie wholly within the first n_shared tokens (the policy's prefix) are common
 * to all; every other block belongs to its salt, and no other salt finds it.
 *
 * Blocks in use are counted; published blocks that nobody uses stay, the least recently used are
 * taken first, a block never before those that follow it. Everything is allocated at open. One
 * thread (the engine's worker). */
#ifndef GUARDIAN_KVCACHE_H
#define GUARDIAN_KVCACHE_H

#include "guardian/limits.h"
#include "guardian/status.h"

#include <stdbool.h>
#include <stdint.h>

struct gd_kvcache;

struct gd_kv_salt {
    uint8_t bytes[16];
};

struct gd_kv_prompt {
    const int32_t *tokens; /* [n_tokens]; valid while a sequence of it is held */
    uint32_t n_tokens;     /* 1 to GD_CONTEXT_TOKENS_MAX */
    uint32_t n_shared;     /* the first n_shared tokens are common to all tenants */
    uint32_t n_keep; /* the first n_keep may be reused by others; the question after them never */
    struct gd_kv_salt salt; /* n_shared <= n_keep <= n_tokens */
};

#define GD_KV_NONE UINT32_MAX

/* The blocks of one sequence, all of them from the start: a sequence that was begun never lacks one.
 */
struct gd_kv_seq {
    struct gd_kv_prompt prompt;
    uint32_t blocks[GD_KV_SEQ_BLOCKS_MAX]; /* [n_blocks]: its block table */
    uint32_t n_blocks;
    uint32_t n_cached;  /* tokens found; at most n_tokens - 1, so that there is one to compute */
    uint32_t copy_from; /* block to be copied over blocks[n_cached / GD_KV_BLOCK_TOKENS] before the
                         * sequence's first step, or GD_KV_NONE */
    /* the cache's own */
    uint32_t n_found;     /* leading blocks that were found, not allocated */
    uint32_t n_published; /* leading blocks that are settled: found, published, or known already */
    uint64_t chain;       /* identity of the last settled block */
    uint8_t digest[32];   /* its hash */
};

/* reuse false: nothing is ever found. GD_EUSAGE (0 or more than GD_KV_BLOCKS_MAX), GD_ENOMEM,
 * GD_EINTERNAL (no random bytes). */
int gd_kvcache_open(struct gd_kvcache **out, uint32_t n_blocks, bool reuse, struct gd_err *err);
void gd_kvcache_close(struct gd_kvcache *c); /* NULL is fine */

/* Leading tokens that b may reuse once a has computed them; 0 where nothing is reused. Any thread. */
uint32_t gd_kvcache_common(const struct gd_kvcache *c, const struct gd_kv_prompt *a,
                           const struct gd_kv_prompt *b);

/* Tokens that gd_kvcache_acquire would find now, where the pool is not too tight for a copy. Changes
 * nothing, not even the order of use. */
uint32_t gd_kvcache_peek(const struct gd_kvcache *c, const struct gd_kv_prompt *p);

/* Fills *s: the longest known prefix, and blocks of its own for the rest. GD_EBUSY when there are
 * not enough blocks that nobody uses; nothing has changed then. Full blocks that were published in
 * the step under preparation are found too (see gd_batch); they are not copied from. */
int gd_kvcache_acquire(struct gd_kvcache *c, const struct gd_kv_prompt *p, struct gd_kv_seq *s);

/* copy_from was copied: the block is let go and s->copy_from becomes GD_KV_NONE. */
void gd_kvcache_copied(struct gd_kvcache *c, struct gd_kv_seq *s);

/* The first n_done tokens of s are computed, or are in the step under preparation: publishes the
 * blocks that are full and within n_keep. */
void gd_kvcache_advance(struct gd_kvcache *c, struct gd_kv_seq *s, uint32_t n_done);

/* The step under preparation has been computed. */
void gd_kvcache_step_end(struct gd_kvcache *c);

/* Gives the blocks of s back; between steps only. keep: all its tokens were computed; the block that
 * n_keep ends in is published with the tokens before it. Without keep what s has published is taken
 * back, because it may hold nothing, or values that are not finite. */
void gd_kvcache_release(struct gd_kvcache *c, struct gd_kv_seq *s, bool keep);

/* As release with keep, and the blocks of the first n_keep tokens stay for good. */
void gd_kvcache_pin(struct gd_kvcache *c, struct gd_kv_seq *s);

struct gd_kvcache_stats {
    uint32_t blocks, used, cached, free; /* cached: published, used by nobody; the three add up */
    uint32_t pinned;                     /* of those used */
    uint64_t evictions;                  /* published blocks that were taken for new tokens */
};
void gd_kvcache_stats(const struct gd_kvcache *c, struct gd_kvcache_stats *out);

/* For tests: hashes are cut to this many bits (0 to 256), so that they collide. */
void gd_kvcache_test_hash_bits(struct gd_kvcache *c, uint32_t bits);

#endif
