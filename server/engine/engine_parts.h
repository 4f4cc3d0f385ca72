/* engine_parts.h - what engine.c (callers, start and end) and worker.c (the worker thread) share.
 *
 * A ticket is a slot of a fixed set. It goes FREE -> QUEUED (in the inbox) -> ACTIVE (in the
 * scheduler, which the worker owns) -> DONE -> FREE. All of a ticket is under the lock but for its
 * work while it is ACTIVE, which is the worker's (canceled is atomic). A caller that leaves early
 * abandons its ticket; the worker frees it. */
#ifndef GUARDIAN_ENGINE_PARTS_H
#define GUARDIAN_ENGINE_PARTS_H

#include "guardian/engine.h"
#include "guardian/sched.h"
#include "guardian/scorecache.h"

#include <pthread.h>
#include <stdatomic.h>

/* Those that wait, those of a step, and finished ones whose callers have not been scheduled yet. */
#define ENGINE_TICKETS (GD_QUEUE_MAX + 3 * GD_STEP_SEQS_MAX)

enum ticket_state { TICKET_FREE, TICKET_QUEUED, TICKET_ACTIVE, TICKET_DONE };

struct gd_ticket {
    struct gd_work work; /* first: a work of the scheduler is one of these */
    enum ticket_state state;
    bool abandoned;  /* nobody waits for it any more */
    bool begun;      /* part of a step, or of one before */
    int32_t *tokens; /* [context_max] its own memory; work.prompt.tokens is this */
    int32_t choices[GD_POLICY_CHOICES_MAX];
    uint32_t n_choices;
    bool has_key;
    struct gd_score_key key; /* of the verdict cache */
    int64_t rank_ns;         /* the work's key, or an estimate before the scheduler has it */
    uint64_t owed;           /* new tokens still to be computed for it, in engine.owed */
    int64_t begin_ns;        /* of its first step */
    struct gd_ticket *next;  /* in the free list or the inbox */
    pthread_cond_t done;
    int rc;
    struct gd_score score;
};

struct gd_engine {
    struct gd_backend *be;
    struct gd_tokenizer *tokenizer;
    struct gd_model *model;
    struct gd_forward *forward;
    struct gd_kvcache *cache;
    struct gd_sched *sched;
    struct gd_scorecache *scores; /* NULL: none are kept */
    uint32_t context_max, step_tokens, n_blocks, verdict_entries;
    struct gd_engine_memory memory;
    struct gd_err note;         /* code 0: none; see gd_engine_device_note */
    _Atomic(const char *) lost; /* see gd_engine_lost; the worker sets it, before it delivers, or */
    struct gd_err hung;         /* points to this one's text: code 0 until the worker hangs */
    struct gd_pulse *pulse, own_pulse;
    void (*on_step)(void *ctx, const struct gd_step_info *info);
    void *ctx;

    pthread_t worker;
    bool worker_started, sync_ready;
    pthread_mutex_t lock;
    pthread_cond_t work; /* something waits, or draining */
    pthread_cond_t left; /* a caller has left while draining */
    bool draining;
    uint32_t callers;          /* tickets that somebody still has to wait for */
    struct gd_ticket *tickets; /* [ENGINE_TICKETS] */
    int32_t *ticket_tokens;    /* [ENGINE_TICKETS, context_max] */
    struct gd_ticket *free;
    struct gd_ticket *inbox, **inbox_end;
    struct gd_ticket *newest; /* submitted last; may be anything by now */
    struct gd_engine_stats stats;
    double miss_ratio; /* of late: tokens computed by tokens asked */

    _Atomic uint64_t owed;         /* new tokens that all admitted prompts still need */
    _Atomic uint64_t ps_per_token; /* picoseconds that one new token takes, of late */
};

/* worker.c */
void *engine_worker_main(void *engine);
/* One step before anyone asks: the cost of a token is known then, and memory is touched. */
int engine_warm_up(struct gd_engine *e, struct gd_err *err);

/* engine.c; the lock is held */
void engine_owe(struct gd_engine *e, struct gd_ticket *t, uint64_t n_tokens);
void engine_finish(struct gd_engine *e, struct gd_ticket *t, int rc);
double engine_ns_per_token(const struct gd_engine *e);

#endif
