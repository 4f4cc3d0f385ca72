/* scorecache.h - scores of whole prompts, kept under the SHA-256 of all that they depend on.
 *
 * Legal because scores are deterministic (engine.h): for one engine a score depends on the token ids
 * and the choice ids alone. The salt is part of the key, so that no tenant learns from the time of
 * an answer what another has asked. The least recently used entry goes first. Any thread; one lock.
 */
#ifndef GUARDIAN_SCORECACHE_H
#define GUARDIAN_SCORECACHE_H

#include "guardian/kvcache.h"

struct gd_scorecache;

struct gd_score_key {
    uint8_t digest[32];
};

/* n_entries: 1 to GD_VERDICT_CACHE_MAX. GD_EUSAGE, GD_ENOMEM, GD_EINTERNAL (no
 * random bytes). */
int gd_scorecache_open(struct gd_scorecache **out, uint32_t n_entries, struct gd_err *err);
void gd_scorecache_close(struct gd_scorecache *c); /* NULL is fine */

/* False when there is no memory for the hash: then there is no key. */
bool gd_scorecache_key(const struct gd_kv_prompt *p, const int32_t *choices, uint32_t n_choices,
                       struct gd_score_key *out);
/* logits[n_choices], n_choices at most GD_POLICY_CHOICES_MAX. True when found. */
bool gd_scorecache_get(struct gd_scorecache *c, const struct gd_score_key *key, uint32_t n_choices,
                       float *logits);
void gd_scorecache_put(struct gd_scorecache *c, const struct gd_score_key *key, uint32_t n_choices,
                       const float *logits);
uint32_t gd_scorecache_used(struct gd_scorecache *c);

#endif
