/* engine.h - token ids in, choice logits out: the model, its tokenizer, the KV cache and one worker
 * thread that owns the back end.
 *
 * Any thread submits a prompt and waits for its score; the worker packs what waits into steps
 * (batch.h), reuses the keys and values of prefixes that it has seen (kvcache.h) and keeps whole
 * scores (scorecache.h). The engine knows token ids and choice ids, not labels.
 *
 * Deterministic scores: the logits of a prompt have the same bits whatever else is in its steps, in
 * whatever order and chunks it is computed, whatever is cached, and however many threads work.
 *
 * The queue is bounded by slots and by time: a prompt that could not be scored before its deadline,
 * by the work that is ahead of it, is refused at once.
 *
 * A device that is lost (backend.h) fails all that waits and all that comes later with GD_EBACKEND,
 * kept scores too; the process is then to end. A step that fails without that fails alone. A worker
 * that hangs is found by whoever watches (gd_engine_hung), and is as good as a lost device. */
#ifndef GUARDIAN_ENGINE_H
#define GUARDIAN_ENGINE_H

#include "guardian/kvcache.h"
#include "guardian/limits.h"
#include "guardian/model.h"
#include "guardian/pulse.h"
#include "guardian/tokenizer.h"

struct gd_engine;

/* What one step was; for metrics. */
struct gd_step_info {
    uint32_t n_seqs, n_tokens;
    double ms;
};

struct gd_engine_options {
    const char *model_dir;
    const char *device, *dtype; /* see device.h; NULL: "auto" */
    uint32_t n_threads;         /* of the CPU; 0: as many as the process may use */
    uint32_t step_tokens;       /* new tokens of one step; 0: the back end's */
    uint64_t kv_bytes;          /* of the KV cache; 0: what the back end takes of what is left */
    bool no_prefix_cache;       /* nothing is reused, not even within a step */
    uint32_t verdict_entries;   /* scores kept; 0: none */
    struct gd_model_options model;
    /* Called by the worker after each step; must not wait. May be NULL. */
    void (*on_step)(void *ctx, const struct gd_step_info *info);
    void *ctx;
    /* Beats from the first step on, while the engine opens too; must outlive it. NULL: its own. */
    struct gd_pulse *pulse;
};

/* Device "auto": when CUDA device 0 cannot be opened, or cannot take this model (no memory, a shape
 * that it does not know, a failing self-test or first step), all of that is closed again and the CPU
 * is used; see gd_engine_device_note. GD_EUSAGE options, GD_ENOMEM with the memory plan, GD_EMODEL
 * and GD_EIO of the model's files, GD_EBACKEND and, when there is no such device, GD_ENOTFOUND. */
int gd_engine_open(struct gd_engine **out, const struct gd_engine_options *opt, struct gd_err *err);
void gd_engine_close(
    struct gd_engine *e); /* fails what waits with GD_EDRAINING, then joins the worker */

/* Why "auto" took the CPU: code and sentence of what failed, GD_ENOTFOUND where there simply is no
 * CUDA device. NULL when nothing did, or the CPU was asked for. */
const struct gd_err *gd_engine_device_note(const struct gd_engine *e);
/* Why the device is lost, or that the worker hangs; else NULL. Any thread, lock-free; the text lives
 * as long as the engine. */
const char *gd_engine_lost(const struct gd_engine *e);

/* How long the worker has been at its step, in ms; 0 when it waits for work. What the step was expected
 * to take goes to *expected_ms (may be NULL). Any thread, lock-free. */
double gd_engine_stalled_ms(const struct gd_engine *e, double *expected_ms);
/* True from when the worker hangs, by gd_pulse_hung. Then gd_engine_lost says so, all that waits and all
 * that comes later fails with GD_EBACKEND, and gd_engine_close waits until the worker comes back, if it
 * ever does: the process is to end without it. To be called at least once a second, with CLOCK_MONOTONIC,
 * by one thread. */
bool gd_engine_hung(struct gd_engine *e, int64_t now_ns);

/* The memory plan, of the device's memory; fixed at start. */
struct gd_engine_memory {
    uint64_t weight_bytes;     /* as the back end holds them */
    uint64_t activation_bytes; /* for steps of step_tokens */
    uint64_t kv_bytes;
    uint64_t left_bytes; /* beside all of these */
    uint32_t kv_blocks;
    uint64_t kv_tokens; /* that the KV cache holds */
};
const struct gd_engine_memory *gd_engine_memory(const struct gd_engine *e);

/* Tokens of the longest prompt: the model's context, at most GD_CONTEXT_TOKENS_MAX. */
uint32_t gd_engine_context_max(const struct gd_engine *e);
const struct gd_tokenizer *gd_engine_tokenizer(const struct gd_engine *e);
const struct gd_model *gd_engine_model(const struct gd_engine *e);
const struct gd_backend *gd_engine_backend(const struct gd_engine *e);
uint64_t gd_engine_resident_bytes(void); /* VmRSS of this process now; 0 when unknown */

struct gd_score_request {
    struct gd_kv_prompt prompt; /* tokens are checked against vocabulary and context, and copied */
    const int32_t *choices;     /* [n_choices] ids of the choice tokens */
    uint32_t n_choices;         /* at most GD_POLICY_CHOICES_MAX */
    int64_t deadline_ns;        /* CLOCK_MONOTONIC; 0: none */
    /* tokens of what the same client sent with it, before it: it goes behind them, and is refused
     * where gd_engine_has_room says no */
    uint32_t n_before;
};

struct gd_score {
    float logits[GD_POLICY_CHOICES_MAX]; /* all finite, or the call failed with GD_ENUMERIC */
    bool hit;                            /* the whole score was kept: nothing was computed */
    uint32_t cached_tokens;              /* tokens of the prompt that were not computed */
    uint32_t n_steps;                    /* steps that computed it */
    uint32_t batch_seqs;                 /* prompts of the last of them */
    double queue_ms, prefill_ms;         /* until the first step; from there to the score */
};

/* Puts a prompt into the queue; nothing of *req is used after the call. GD_EBUSY when the queue is
 * full or the deadline cannot be kept (what goes before it, its own cost and a step take longer),
 * GD_EDEADLINE, GD_EDRAINING, GD_ELIMIT prompt longer than the context, GD_EUSAGE ids outside the
 * vocabulary or no tokens, GD_EBACKEND the device is lost. */
struct gd_ticket;
int gd_engine_submit(struct gd_engine *e, const struct gd_score_request *req,
                     struct gd_ticket **out, struct gd_err *err);

/* Waits for the score, until the deadline at most, and gives the ticket back in any case. gone (may
 * be NULL) is asked on this thread every GD_ENGINE_GONE_MS while it waits: true means that nobody
 * wants the score any more. GD_EDEADLINE, GD_ECANCELED, GD_EDRAINING, GD_EBACKEND, GD_ENOMEM,
 * GD_ENUMERIC. On failure *out is untouched. */
#define GD_ENGINE_GONE_MS 100
int gd_engine_wait(struct gd_engine *e, struct gd_ticket *t, bool (*gone)(void *ctx), void *ctx,
                   struct gd_score *out, struct gd_err *err);

/* Whether there is a place for one more request of a client who has others in the queue. Their
 * finished ones count until they are waited for. */
bool gd_engine_has_room(struct gd_engine *e);

/* Gives a ticket back without waiting: nobody wants its score. */
void gd_engine_cancel(struct gd_engine *e, struct gd_ticket *t);

/* Submit and wait. */
int gd_engine_score(struct gd_engine *e, const struct gd_score_request *req, struct gd_score *out,
                    struct gd_err *err);

/* Computes a prefix that prompts share (a policy's). It stays in the cache for good. */
int gd_engine_prime(struct gd_engine *e, const int32_t *tokens, uint32_t n_tokens,
                    struct gd_err *err);

/* Estimate of the time that all admitted work will take, in ms. Lock-free. */
double gd_engine_queue_ms(const struct gd_engine *e);
/* Estimate of what of that would go before a prompt of n_tokens tokens that came now, in ms. */
double gd_engine_ahead_ms(struct gd_engine *e, uint32_t n_tokens);
/* Estimate of the time that n_tokens new tokens take alone, in ms. Lock-free. */
double gd_engine_cost_ms(const struct gd_engine *e, uint32_t n_tokens);

struct gd_engine_stats {
    uint32_t waiting, running;           /* not yet begun; begun and not finished */
    uint64_t steps, sequences, tokens;   /* forward passes; prompts scored; tokens computed */
    uint64_t failures;                   /* admitted and not scored; the two below are among them */
    uint64_t canceled, late;             /* nobody waited any more; the deadline passed */
    uint64_t refused_full, refused_late; /* at submission */
    uint64_t query_tokens, hit_tokens;   /* of scored prompts; of these, found in the KV cache */
    uint64_t verdict_hits, verdict_misses;
    struct gd_kvcache_stats kv;
    uint64_t kv_bytes;
    uint32_t step_tokens;
    uint32_t verdict_entries, verdict_used;
};
void gd_engine_stats(struct gd_engine *e, struct gd_engine_stats *out);

/* forward.c: one step over a packed batch, on the thread that owns the back end. */
struct gd_forward; /* activation buffers for up to max_tokens, and the KV cache */
int gd_forward_open(struct gd_forward **out, const struct gd_model *m, uint32_t max_tokens,
                    uint32_t n_blocks, struct gd_err *err);
void gd_forward_close(struct gd_forward *f);
/* Bytes of the activation buffers, for the memory plan. */
uint64_t gd_forward_bytes(const struct gd_model *m, uint32_t max_tokens);
/* Bytes of one block of the KV cache, all layers; 0 when that overflows. */
uint64_t gd_forward_block_bytes(const struct gd_model *m);
/* Copies a block of the KV cache over another, in all layers. */
int gd_forward_copy(struct gd_forward *f, uint32_t dst, uint32_t src);

/* tap (may be NULL) sees the residual stream [n_tokens, dim] after the embedding (layer -1) and
 * after each layer; for parity tests. */
typedef void (*gd_forward_tap)(void *ctx, int layer, const float *hidden, uint32_t n_tokens,
                               uint32_t dim);
/* Computes the batch's tokens. scored[n_scored] are the sequences whose last token in this batch is
 * to be scored, rising; the final-norm row of scored[i] stays in the state as row i, for
 * gd_forward_choices. n_scored may be 0: then only keys and values are made. */
int gd_forward_run(struct gd_forward *f, const struct gd_batch *b, const uint32_t *scored,
                   uint32_t n_scored, gd_forward_tap tap, void *ctx);
/* logits[n] of the last run's scored rows. GD_EUSAGE for a row or an id that is not there, or more
 * than GD_STEP_CHOICES_MAX. */
int gd_forward_choices(struct gd_forward *f, uint32_t n, const struct gd_choice *choices,
                       float *logits);

#endif
