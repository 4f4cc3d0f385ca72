/* batch.h - the scheduler: which tokens of which prompts make the next step.
 *
 * A step packs chunks of several prompts without padding, at most step_tokens new tokens. Prompts go
 * in the order of a key that is fixed once it is known how much of a prompt must be computed:
 *
 *   key = min(submitted + GD_BATCH_SLACK * (cost + before), max(submitted, deadline - cost))
 *
 * cost is the estimated time of its new tokens alone, before that of what the same client sent with
 * it (a batch is spread out, so that others get their turn among its items). A short prompt, or one
 * whose prefix is cached, overtakes a long one that came a little earlier, and its own time times
 * the slack later nothing that comes can overtake it any more: nobody starves. Prompts continue in
 * chunks, so a short one waits for a step, not for a prompt. A prompt whose prefix another one is
 * about to compute gives it its place until that is done, so that a prefix is computed once.
 *
 * No threads, no clock, no back end: times are arguments, so that tests can simulate. One thread. */
#ifndef GUARDIAN_SCHED_H
#define GUARDIAN_SCHED_H

#include "guardian/backend.h"
#include "guardian/kvcache.h"

#include <stdatomic.h>

#define GD_BATCH_SLACK 4

/* A prompt in the scheduler; memory of the caller's. */
struct gd_work {
    /* set before gd_sched_add */
    struct gd_kv_prompt prompt;
    int64_t submit_ns, deadline_ns; /* deadline 0: none */
    uint32_t n_before;              /* tokens that the same client sent with it, before it */
    bool pin;                       /* its kept tokens stay in the cache for good */
    atomic_bool canceled; /* any thread: nobody wants the score any more */
    /* the scheduler's */
    int64_t key_ns;
    uint32_t n_new;  /* tokens to be computed, as estimated when it was added or known since */
    uint32_t n_done; /* tokens in the cache or computed */
    uint32_t n_step; /* tokens in the step under preparation */
    bool started;    /* it holds blocks */
    struct gd_kv_seq kv;
    struct gd_work *next;
};

struct gd_sched;

struct gd_sched_options {
    uint32_t step_tokens; /* 1 to GD_STEP_TOKENS_MAX */
    uint32_t n_works;     /* at most so many are in the scheduler at one time */
};

/* c is used until close, by nobody else. */
int gd_sched_open(struct gd_sched **out, struct gd_kvcache *c, const struct gd_sched_options *opt,
                  struct gd_err *err);
void gd_sched_close(struct gd_sched *s); /* NULL is fine; what is still in it is forgotten */

/* The key of a prompt that came at submit_ns (deadline_ns 0: none), all in ns. */
int64_t gd_sched_key(int64_t submit_ns, int64_t deadline_ns, int64_t cost, int64_t before);

/* Fixes the key, and n_new. ns_per_token: the present estimate of the cost of one new token. In n_new
 * tokens that the works added last will compute for this one too do not count. */
void gd_sched_add(struct gd_sched *s, struct gd_work *w, double ns_per_token);
bool gd_sched_empty(const struct gd_sched *s);

/* One step: the batch for the forward pass, and whose it is. Arrays are the scheduler's, valid until
 * the next plan. */
struct gd_step {
    struct gd_batch batch;
    struct gd_work **works; /* [batch.n_seqs] */
    uint32_t *scored;       /* [n_scored] sequences that end in this step, rising */
    uint32_t n_scored;
    struct gd_work *dropped; /* left the scheduler: canceled, or late (deadline_ns <= now) */
};

/* Drops what is canceled or late (of what it has computed whole blocks stay in the cache, so that
 * asking again goes on from there), then fills the step; batch.n_seqs is 0 when nothing is left.
 * Before the forward pass the caller copies a block for each work whose kv.copy_from is not
 * GD_KV_NONE (gd_kvcache_copied is called by gd_sched_done). */
void gd_sched_plan(struct gd_sched *s, int64_t now_ns, struct gd_step *step);

/* The step was computed (ok) or failed. ok[i] tells of works[i] whether its values can be kept: a
 * work that is not ok, or has ended, leaves the scheduler and gives its blocks back. */
void gd_sched_done(struct gd_sched *s, struct gd_step *step, const bool *ok);

/* Takes everything out: list of works by next. */
struct gd_work *gd_sched_drain(struct gd_sched *s);

#endif
