/* trace.h - seeded request traces for bench_offline and for the scripts of bench/peers.
 *
 * All prompts end in the same question of TRACE_QUESTION tokens, which nobody reuses. Token ids are
 * uniform over the vocabulary: speed does not depend on them.
 *
 *   cold     300 tokens, nothing in common
 *   prefix   a common prefix of 700 tokens, primed, and 300
 *   growing  sessions of 10 calls, 64 at a time; each prompt is the session so far, grown by a
 *            lognormal number of tokens of mean 100, and the question
 *   mixed    100 to 1500 tokens, every second prompt behind the prefix
 *   bursts   groups of 8 equal prompts of 300, and of 8 that are equal in 90 % of what is before
 *            the question, by turns */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include "common.h"

#define TRACE_PREFIX 700u
#define TRACE_NEW 300u
#define TRACE_QUESTION 30u
#define TRACE_CALLS 10u
#define TRACE_SESSIONS 64u
#define TRACE_GROUP 8u
#define TRACE_DELTA 100.0 /* mean; deviation of its logarithm: */
#define TRACE_DELTA_SIGMA 0.8
#define TRACE_CHOICES 11u
#define TRACE_REQUESTS_MAX 1000000u

extern const char *const TRACE_NAMES[]; /* NULL at the end */

struct trace_request {
    int32_t *tokens;
    uint32_t n_tokens, n_shared, n_keep;
    uint32_t n_fresh; /* tokens that no earlier prompt lets this one reuse */
    uint32_t session;
    uint32_t after;   /* how many requests must have been answered before this one is asked */
    uint32_t same_as; /* an earlier request with the same tokens, or this one */
    /* filled by the run */
    uint32_t n_cached;
    float logits[TRACE_CHOICES];
};

struct trace {
    const char *name;
    uint64_t seed, hash;
    uint32_t vocab;
    int32_t choices[TRACE_CHOICES];
    int32_t prefix[TRACE_PREFIX];
    bool has_prefix;
    struct trace_request *requests; /* [n] */
    uint32_t n;
    uint64_t n_tokens, n_fresh; /* of all */
};

/* GD_EUSAGE no such name; GD_ELIMIT a prompt is longer than context_max; GD_ENOMEM. */
int trace_make(struct trace *t, const char *name, uint32_t n, uint64_t seed, uint32_t vocab,
               uint32_t context_max, struct gd_err *err);
void trace_free(struct trace *t);
/* JSON lines: a head {"trace","seed","hash","vocab","choices","prefix"}, then for each request
 * {"id","session","shared","keep","tokens","logits"}. */
int trace_dump(const struct trace *t, const char *path, struct gd_err *err);

#endif
