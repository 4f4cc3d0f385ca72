/* worker.c - the one thread that owns back end, KV cache and scheduler: takes what was submitted,
 * plans a step, runs it, delivers.
 *
 * The lock is held to take and to deliver, never while hashing, planning or computing. The cost of a
 * token is learned from the steps, larger steps counting for more. */
#include "engine_parts.h"

#include "guardian/clock.h"

#include <math.h>
#include <string.h>
#include <time.h>

#define IDLE_TICK_NS 1000000000 /* an idle worker shows that it lives once a second */
#define WARM_UP_TOKENS 64u
#define LEARN 0.2 /* weight of a full step in the running estimates */

static struct gd_ticket *ticket_of(struct gd_work *w)
{
    return (struct gd_ticket *)w;
}

static void learn_cost(struct gd_engine *e, double ns, uint32_t n_tokens)
{
    double old = engine_ns_per_token(e), now = ns / n_tokens;
    double weight = LEARN * n_tokens / e->step_tokens;
    double next = old > 0 ? old + weight * (now - old) : now;
    atomic_store(&e->ps_per_token, (uint64_t)(next * 1e3) + 1);
}

int engine_warm_up(struct gd_engine *e, struct gd_err *err)
{
    int32_t tokens[WARM_UP_TOKENS] = {0}, positions[WARM_UP_TOKENS];
    uint32_t blocks[WARM_UP_TOKENS / GD_KV_BLOCK_TOKENS];
    uint32_t n = e->step_tokens < WARM_UP_TOKENS ? e->step_tokens : WARM_UP_TOKENS;
    n = n < e->context_max ? n : e->context_max;
    for (uint32_t i = 0; i < n; i++) {
        positions[i] = (int32_t)i;
        blocks[i / GD_KV_BLOCK_TOKENS] = i / GD_KV_BLOCK_TOKENS;
    }
    const uint32_t seq_start[] = {0, n}, scored = 0;
    const uint32_t block_start[] = {0, (n + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS};
    const struct gd_batch b = {.n_tokens = n,
                               .n_seqs = 1,
                               .tokens = tokens,
                               .positions = positions,
                               .seq_start = seq_start,
                               .blocks = blocks,
                               .block_start = block_start};
    int rc = GD_OK;
    /* The first one touches memory, a device may record the second one. */
    for (int i = 0; i < 3 && rc == GD_OK; i++) {
        int64_t begin = gd_now_ns();
        gd_pulse_begin(e->pulse, begin, (double)GD_STEP_FIRST_MS * 1e6);
        rc = gd_forward_run(e->forward, &b, &scored, 1, NULL, NULL);
        atomic_store(&e->ps_per_token, 0);
        learn_cost(e, (double)(gd_now_ns() - begin), n);
    }
    gd_pulse_end(e->pulse);
    if (rc == GD_OK) {
        return rc;
    }
    const char *why = e->be->lost != NULL ? e->be->lost : gd_status_message(rc);
    return gd_err_set(err, rc, "the first forward pass failed: %s", why);
}

/* ---- one step ---- */

static int copy_blocks(struct gd_engine *e, const struct gd_step *step)
{
    int rc = GD_OK;
    for (uint32_t i = 0; i < step->batch.n_seqs && rc == GD_OK; i++) {
        const struct gd_kv_seq *kv = &step->works[i]->kv;
        if (kv->copy_from != GD_KV_NONE) {
            rc = gd_forward_copy(e->forward, kv->blocks[kv->n_cached / GD_KV_BLOCK_TOKENS],
                                 kv->copy_from);
        }
    }
    return rc;
}

/* What a step gave; by index of its sequences. */
struct outcome {
    int rc[GD_STEP_SEQS_MAX];
    bool ok[GD_STEP_SEQS_MAX];
    bool ends[GD_STEP_SEQS_MAX];
    uint32_t cached[GD_STEP_SEQS_MAX];
    float logits[GD_STEP_SEQS_MAX][GD_POLICY_CHOICES_MAX];
    int64_t begin_ns, end_ns;
    struct gd_choice choices[GD_STEP_CHOICES_MAX]; /* of all scored rows, */
    float flat[GD_STEP_CHOICES_MAX];               /* and their logits */
};

/* The logits of all scored rows in one go; a row with one that is not finite fails alone. */
static void score_rows(struct gd_engine *e, const struct gd_step *step, struct outcome *o)
{
    uint32_t n = 0;
    for (uint32_t row = 0; row < step->n_scored; row++) {
        const struct gd_ticket *t = ticket_of(step->works[step->scored[row]]);
        for (uint32_t i = 0; i < t->n_choices; i++) {
            o->choices[n++] = (struct gd_choice){.row = row, .id = t->choices[i]};
        }
    }
    int rc = gd_forward_choices(e->forward, n, o->choices, o->flat);
    const float *logits = o->flat;
    for (uint32_t row = 0; row < step->n_scored; row++) {
        uint32_t seq = step->scored[row];
        uint32_t n_choices = ticket_of(step->works[seq])->n_choices;
        o->rc[seq] = rc;
        for (uint32_t i = 0; i < n_choices && o->rc[seq] == GD_OK; i++) {
            o->rc[seq] = isfinite(logits[i]) ? GD_OK : GD_ENUMERIC;
        }
        memcpy(o->logits[seq], logits, n_choices * sizeof *logits);
        logits += n_choices;
    }
}

static void run_step(struct gd_engine *e, const struct gd_step *step, struct outcome *o)
{
    o->begin_ns = gd_now_ns();
    gd_pulse_begin(e->pulse, o->begin_ns, engine_ns_per_token(e) * step->batch.n_tokens);
    int rc = copy_blocks(e, step);
    rc = rc != GD_OK
             ? rc
             : gd_forward_run(e->forward, &step->batch, step->scored, step->n_scored, NULL, NULL);
    for (uint32_t i = 0; i < step->batch.n_seqs; i++) {
        o->rc[i] = rc;
        o->ends[i] = false;
        o->cached[i] = step->works[i]->kv.n_cached;
    }
    for (uint32_t row = 0; row < step->n_scored; row++) {
        o->ends[step->scored[row]] = true;
    }
    if (rc == GD_OK) {
        score_rows(e, step, o);
    }
    bool lost = e->be->lost != NULL;
    for (uint32_t i = 0; i < step->batch.n_seqs; i++) {
        o->rc[i] = lost ? GD_EBACKEND : o->rc[i];
        o->ok[i] = o->rc[i] == GD_OK;
    }
    if (lost) {
        atomic_store(&e->lost, e->be->lost);
    }
    o->end_ns = gd_now_ns();
}

static void keep_scores(struct gd_engine *e, const struct gd_step *step, const struct outcome *o)
{
    for (uint32_t row = 0; row < step->n_scored && e->scores != NULL; row++) {
        uint32_t i = step->scored[row];
        const struct gd_ticket *t = ticket_of(step->works[i]);
        if (o->ok[i] && t->has_key) {
            gd_scorecache_put(e->scores, &t->key, t->n_choices, o->logits[i]);
        }
    }
}

/* The lock is held. */
static void deliver_one(struct gd_engine *e, struct gd_ticket *t, const struct gd_batch *b,
                        const struct outcome *o, uint32_t i)
{
    struct gd_score *s = &t->score;
    if (!t->begun) {
        t->begun = true;
        t->begin_ns = o->begin_ns;
        s->cached_tokens = o->cached[i];
    }
    s->n_steps++;
    s->batch_seqs = b->n_seqs;
    if (o->ok[i] && !o->ends[i]) {
        engine_owe(e, t, t->work.prompt.n_tokens - t->work.n_done);
        return;
    }
    if (o->ok[i] && !t->abandoned) {
        memcpy(s->logits, o->logits[i], sizeof s->logits);
        s->queue_ms = (double)(t->begin_ns - t->work.submit_ns) / 1e6;
        s->prefill_ms = (double)(o->end_ns - t->begin_ns) / 1e6;
        e->stats.sequences++;
        e->stats.query_tokens += t->work.prompt.n_tokens;
        e->stats.hit_tokens += s->cached_tokens;
        e->miss_ratio +=
            LEARN * (1.0 - (double)s->cached_tokens / t->work.prompt.n_tokens - e->miss_ratio);
    }
    engine_finish(e, t, o->rc[i]);
}

static void deliver(struct gd_engine *e, struct gd_step *step, const struct outcome *o)
{
    const struct gd_batch *b = &step->batch;
    gd_sched_done(e->sched, step, o->ok);
    pthread_mutex_lock(&e->lock);
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        deliver_one(e, ticket_of(step->works[i]), b, o, i);
    }
    e->stats.steps++;
    e->stats.tokens += b->n_tokens;
    gd_kvcache_stats(e->cache, &e->stats.kv);
    pthread_mutex_unlock(&e->lock);
}

/* ---- the thread ---- */

/* Waits until there is work; false when the engine is draining or the device is lost. Takes over
 * what was submitted. */
static bool take(struct gd_engine *e, struct gd_ticket **taken)
{
    pthread_mutex_lock(&e->lock);
    bool lost = gd_engine_lost(e) != NULL;
    while (e->inbox == NULL && gd_sched_empty(e->sched) && !e->draining && !lost) {
        int64_t until = gd_now_ns() + IDLE_TICK_NS;
        gd_pulse_idle(e->pulse, gd_now_ns());
        struct timespec tick = {.tv_sec = (time_t)(until / 1000000000),
                                .tv_nsec = until % 1000000000};
        pthread_cond_timedwait(&e->work, &e->lock, &tick);
    }
    *taken = e->inbox;
    for (struct gd_ticket *t = e->inbox; t != NULL; t = t->next) {
        t->state = TICKET_ACTIVE;
    }
    e->inbox = NULL;
    e->inbox_end = &e->inbox;
    bool go_on = !e->draining && !lost;
    pthread_mutex_unlock(&e->lock);
    gd_pulse_begin(e->pulse, gd_now_ns(), 0); /* planning takes next to nothing */
    return go_on;
}

static void schedule(struct gd_engine *e, struct gd_ticket *taken)
{
    double ns = engine_ns_per_token(e);
    for (struct gd_ticket *t = taken; t != NULL; t = t->next) {
        gd_sched_add(e->sched, &t->work, ns);
    }
    pthread_mutex_lock(&e->lock);
    for (struct gd_ticket *t = taken; t != NULL; t = t->next) {
        t->rank_ns = t->work.key_ns;
        engine_owe(e, t, t->work.n_new);
    }
    pthread_mutex_unlock(&e->lock);
}

/* Ends works that are in no step any more, by next. */
static void end_all(struct gd_engine *e, struct gd_work *first, int rc)
{
    pthread_mutex_lock(&e->lock);
    for (struct gd_work *w = first, *next = NULL; w != NULL; w = next) {
        next = w->next;
        engine_finish(e, ticket_of(w), rc);
    }
    gd_kvcache_stats(e->cache, &e->stats.kv);
    pthread_mutex_unlock(&e->lock);
}

void *engine_worker_main(void *engine)
{
    static _Thread_local struct outcome o;
    struct gd_engine *e = engine;
    struct gd_ticket *taken = NULL;
    struct gd_step step;
    while (take(e, &taken)) {
        schedule(e, taken);
        gd_sched_plan(e->sched, gd_now_ns(), &step);
        if (step.dropped != NULL) {
            end_all(e, step.dropped, GD_EDEADLINE);
        }
        if (step.batch.n_seqs == 0) {
            continue;
        }
        run_step(e, &step, &o);
        learn_cost(e, (double)(o.end_ns - o.begin_ns), step.batch.n_tokens);
        keep_scores(e, &step, &o);
        struct gd_step_info info = {.n_seqs = step.batch.n_seqs,
                                    .n_tokens = step.batch.n_tokens,
                                    .ms = (double)(o.end_ns - o.begin_ns) / 1e6};
        if (e->on_step != NULL) {
            e->on_step(e->ctx, &info);
        }
        deliver(e, &step, &o);
    }
    /* Nothing is admitted from here on, so what was just taken is the last. */
    schedule(e, taken);
    end_all(e, gd_sched_drain(e->sched), gd_engine_lost(e) != NULL ? GD_EBACKEND : GD_EDRAINING);
    gd_pulse_end(e->pulse);
    return NULL;
}
