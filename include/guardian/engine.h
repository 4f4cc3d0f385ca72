/* engine.h - token ids in, choice logits out: the model, its tokenizer and one worker thread that
 * owns the back end.
 *
 * Any thread submits with gd_engine_score and waits there; the worker packs what waits (within the
 * back end's step_tokens and GD_BATCH_SEQS_MAX, first come first served) into one forward pass. The
 * queue is bounded: a full queue refuses at once. The engine knows token ids and choice ids, not
 * labels. */
#ifndef GUARDIAN_ENGINE_H
#define GUARDIAN_ENGINE_H

#include "guardian/limits.h"
#include "guardian/model.h"
#include "guardian/tokenizer.h"

struct gd_engine;

struct gd_engine_options {
    const char *model_dir;
    uint32_t n_threads; /* 0: as many as the process may use */
    struct gd_model_options model;
};

int gd_engine_open(struct gd_engine **out, const struct gd_engine_options *opt, struct gd_err *err);
void gd_engine_close(
    struct gd_engine *e); /* fails what waits with GD_EDRAINING, then joins the worker */

/* Tokens of the longest prompt: the model's context, at most GD_BATCH_TOKENS_MAX. */
uint32_t gd_engine_context_max(const struct gd_engine *e);
const struct gd_tokenizer *gd_engine_tokenizer(const struct gd_engine *e);
const struct gd_model *gd_engine_model(const struct gd_engine *e);
const struct gd_backend *gd_engine_backend(const struct gd_engine *e);
uint64_t gd_engine_resident_bytes(void); /* VmRSS of this process now; 0 when unknown */

struct gd_score_request {
    const int32_t *tokens; /* [n_tokens]; checked against vocabulary and context */
    uint32_t n_tokens;
    const int32_t *choices; /* [n_choices] ids of the choice tokens */
    uint32_t n_choices;     /* at most GD_POLICY_CHOICES_MAX */
    int64_t deadline_ns;    /* CLOCK_MONOTONIC; 0: none */
};

struct gd_score {
    float logits[GD_POLICY_CHOICES_MAX]; /* all finite, or the call failed with GD_ENUMERIC */
    uint32_t cached_tokens;
    uint32_t batch_seqs, batch_tokens; /* of the step that computed it */
    double queue_ms, prefill_ms;
};

/* Waits for the verdict's logits, until the deadline at most. GD_EBUSY queue full, GD_EDEADLINE,
 * GD_EDRAINING, GD_ELIMIT prompt longer than the context, GD_EUSAGE ids outside the vocabulary or
 * no tokens, GD_EBACKEND, GD_ENOMEM, GD_ENUMERIC. On failure *out is untouched. */
int gd_engine_score(struct gd_engine *e, const struct gd_score_request *req, struct gd_score *out,
                    struct gd_err *err);

struct gd_engine_stats {
    uint32_t waiting, running;
    uint64_t steps, sequences, tokens, failures;
    uint64_t last_step_ns; /* CLOCK_MONOTONIC of the worker's last sign of life */
};
void gd_engine_stats(struct gd_engine *e, struct gd_engine_stats *out);

int64_t gd_now_ns(void); /* CLOCK_MONOTONIC */

/* forward.c: one step over a packed batch, on the thread that owns the back end. tap (may be NULL)
 * sees the residual stream [n_tokens, dim] after the embedding (layer -1) and after each layer; for
 * parity tests. */
struct gd_forward; /* activation buffers for up to max_tokens */
int gd_forward_open(struct gd_forward **out, const struct gd_model *m, uint32_t max_tokens,
                    struct gd_err *err);
void gd_forward_close(struct gd_forward *f);
typedef void (*gd_forward_tap)(void *ctx, int layer, const float *hidden, uint32_t n_tokens,
                               uint32_t dim);
/* The final-norm hidden row of the last token of each sequence stays in the forward state for
 * gd_forward_choices. */
int gd_forward_run(struct gd_forward *f, const struct gd_batch *b, gd_forward_tap tap, void *ctx);
int gd_forward_choices(struct gd_forward *f, uint32_t seq, const int32_t *ids, uint32_t n_ids,
                       float *logits);

#endif
