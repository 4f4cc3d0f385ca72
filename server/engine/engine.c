/* engine.c - callers' side of the engine: admission, tickets, waiting; start and end.
 *
 * Everything shared is under one lock: a fixed set of tickets, the inbox, counters. A caller fills a
 * ticket, appends it to the inbox and sleeps on the ticket's condition; worker.c does the rest.
 * Since a ticket holds copies of all it needs, a caller whose deadline passes leaves at once.
 *
 * Admission: a prompt is refused when the queue is full, or when the work that goes before it (by
 * the scheduler's own order, each at its estimated cost), its own cost and a step that may be under
 * way take longer than its deadline allows: admitted, it would only be late, and have others be
 * late. An engine with nothing to do refuses nobody for want of time. */
#include "engine_parts.h"

#include "guardian/clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>

double engine_ns_per_token(const struct gd_engine *e)
{
    return (double)atomic_load(&e->ps_per_token) / 1e3;
}

double gd_engine_cost_ms(const struct gd_engine *e, uint32_t n_tokens)
{
    return engine_ns_per_token(e) * n_tokens / 1e6;
}

double gd_engine_queue_ms(const struct gd_engine *e)
{
    return engine_ns_per_token(e) * (double)atomic_load(&e->owed) / 1e6;
}

/* ---- tickets; the lock is held ---- */

void engine_owe(struct gd_engine *e, struct gd_ticket *t, uint64_t n_tokens)
{
    atomic_fetch_add(&e->owed, n_tokens - t->owed); /* wraps round, as it should */
    t->owed = n_tokens;
}

static void ticket_release(struct gd_engine *e, struct gd_ticket *t)
{
    t->state = TICKET_FREE;
    t->next = e->free;
    e->free = t;
}

void engine_finish(struct gd_engine *e, struct gd_ticket *t, int rc)
{
    engine_owe(e, t, 0);
    e->stats.failures += rc != GD_OK || t->abandoned;
    e->stats.late += rc == GD_EDEADLINE && !t->abandoned;
    if (t->abandoned) {
        ticket_release(e, t);
        return;
    }
    t->rc = rc;
    t->state = TICKET_DONE;
    pthread_cond_signal(&t->done);
}

static void count_tickets(const struct gd_engine *e, uint32_t *waiting, uint32_t *running)
{
    *waiting = *running = 0;
    for (uint32_t i = 0; i < ENGINE_TICKETS; i++) {
        const struct gd_ticket *t = &e->tickets[i];
        if (t->state == TICKET_QUEUED || t->state == TICKET_ACTIVE) {
            *(t->begun ? running : waiting) += 1;
        }
    }
}

/* ---- submission ---- */

static int check_ids(const struct gd_engine *e, const int32_t *ids, uint32_t n, const char *what,
                     struct gd_err *err)
{
    uint32_t vocab = e->model->config.vocab_size;
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab) {
            return gd_err_set(err, GD_EUSAGE, "%s %u is %d: expected an id of 0 to %u", what, i,
                              ids[i], vocab - 1);
        }
    }
    return GD_OK;
}

static int check_request(const struct gd_engine *e, const struct gd_score_request *req,
                         struct gd_err *err)
{
    const struct gd_kv_prompt *p = &req->prompt;
    if (p->n_tokens > e->context_max) {
        return gd_err_set(err, GD_ELIMIT, "the prompt has %u tokens: at most %u fit", p->n_tokens,
                          e->context_max);
    }
    if (p->n_tokens == 0 || req->n_choices == 0 || req->n_choices > GD_POLICY_CHOICES_MAX) {
        return gd_err_set(err, GD_EUSAGE, "%u tokens and %u choices: expected 1 to %u and 1 to %d",
                          p->n_tokens, req->n_choices, e->context_max, GD_POLICY_CHOICES_MAX);
    }
    if (p->n_keep > p->n_tokens || p->n_shared > p->n_keep) {
        return gd_err_set(err, GD_EUSAGE, "of %u tokens %u to keep and %u shared: expected no more",
                          p->n_tokens, p->n_keep, p->n_shared);
    }
    int rc = check_ids(e, p->tokens, p->n_tokens, "token", err);
    return rc != GD_OK ? rc : check_ids(e, req->choices, req->n_choices, "choice", err);
}

/* Nanoseconds that what goes before rank_ns will take. */
static double work_ahead_ns(const struct gd_engine *e, int64_t rank_ns)
{
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < ENGINE_TICKETS; i++) {
        const struct gd_ticket *t = &e->tickets[i];
        bool counts = (t->state == TICKET_QUEUED || t->state == TICKET_ACTIVE) && !t->abandoned;
        tokens += counts && t->rank_ns <= rank_ns ? t->owed : 0;
    }
    return engine_ns_per_token(e) * (double)tokens;
}

/* What admission thinks of a prompt that the scheduler has not seen. */
struct estimate {
    uint64_t n_new;  /* tokens to compute */
    int64_t rank_ns; /* the key that the scheduler will give */
};

/* Tokens that p shares with the prompt submitted last, which is still to be computed. */
static uint32_t shared_with_newest(const struct gd_engine *e, const struct gd_kv_prompt *p)
{
    const struct gd_ticket *t = e->newest;
    bool waits = t != NULL && (t->state == TICKET_QUEUED || t->state == TICKET_ACTIVE);
    return waits ? gd_kvcache_common(e->cache, &t->work.prompt, p) : 0;
}

static struct estimate estimate(const struct gd_engine *e, const struct gd_score_request *req,
                                int64_t now)
{
    uint32_t n = req->prompt.n_tokens, rest = n - shared_with_newest(e, &req->prompt);
    uint64_t learned = (uint64_t)(e->miss_ratio * n);
    struct estimate est = {.n_new = (learned < rest ? learned : rest) + 1};
    int64_t cost = (int64_t)(engine_ns_per_token(e) * (double)(learned + 1));
    int64_t before = (int64_t)(engine_ns_per_token(e) * req->n_before);
    est.rank_ns = gd_sched_key(now, req->deadline_ns, cost, before);
    return est;
}

/* For one more request of a client who has others here; the lock is held. */
static bool has_room(const struct gd_engine *e)
{
    return e->callers < GD_QUEUE_BATCH_MAX && e->free != NULL;
}

bool gd_engine_has_room(struct gd_engine *e)
{
    pthread_mutex_lock(&e->lock);
    const bool room = has_room(e);
    pthread_mutex_unlock(&e->lock);
    return room;
}

static int admit(struct gd_engine *e, const struct gd_score_request *req,
                 const struct estimate *est, int64_t now, struct gd_err *err)
{
    uint32_t waiting, running;
    if (gd_engine_lost(e) != NULL) {
        return gd_err_set(err, GD_EBACKEND, "%s", gd_engine_lost(e));
    }
    if (e->draining) {
        return gd_err_set(err, GD_EDRAINING, "%s", gd_status_message(GD_EDRAINING));
    }
    if (req->deadline_ns != 0 && req->deadline_ns <= now) {
        e->stats.refused_late++;
        return gd_err_set(err, GD_EDEADLINE, "%s", gd_status_message(GD_EDEADLINE));
    }
    count_tickets(e, &waiting, &running);
    /* Who has others here waits for them and asks again: that is no refusal to be counted. */
    const bool full = waiting >= GD_QUEUE_MAX || e->free == NULL;
    if (full || (req->n_before > 0 && !has_room(e))) {
        e->stats.refused_full += full && req->n_before == 0;
        return gd_err_set(err, GD_EBUSY, "%s", gd_status_message(GD_EBUSY));
    }
    double need = work_ahead_ns(e, est->rank_ns) +
                  engine_ns_per_token(e) * (double)(est->n_new + e->step_tokens);
    bool idle = waiting + running == 0;
    if (req->deadline_ns != 0 && !idle && need > (double)(req->deadline_ns - now)) {
        e->stats.refused_late++;
        return gd_err_set(err, GD_EBUSY,
                          "this request and those before it take about %.0f ms, it has %.0f ms",
                          need / 1e6, (double)(req->deadline_ns - now) / 1e6);
    }
    return GD_OK;
}

/* Takes a free ticket and copies the request; the lock is held. */
static struct gd_ticket *fill(struct gd_engine *e, const struct gd_score_request *req, bool pin,
                              int64_t now)
{
    struct gd_ticket *t = e->free;
    e->free = t->next;
    memcpy(t->tokens, req->prompt.tokens, req->prompt.n_tokens * sizeof *t->tokens);
    memcpy(t->choices, req->choices, req->n_choices * sizeof *t->choices);
    t->n_choices = req->n_choices;
    t->work.prompt = req->prompt;
    t->work.prompt.tokens = t->tokens;
    t->work.submit_ns = now;
    t->work.deadline_ns = req->deadline_ns;
    t->work.pin = pin;
    t->work.n_before = req->n_before;
    atomic_store(&t->work.canceled, false);
    t->abandoned = t->begun = t->has_key = false;
    t->owed = 0;
    t->next = NULL;
    t->rc = GD_OK;
    t->score = (struct gd_score){.hit = false};
    e->callers++;
    return t;
}

static void enqueue(struct gd_engine *e, struct gd_ticket *t, const struct estimate *est)
{
    t->state = TICKET_QUEUED;
    t->rank_ns = est->rank_ns;
    e->newest = t;
    engine_owe(e, t, est->n_new);
    *e->inbox_end = t;
    e->inbox_end = &t->next;
    pthread_cond_signal(&e->work);
}

/* A ticket that is done at once, for a score that was kept. NULL when there is none free. */
static struct gd_ticket *answer(struct gd_engine *e, const struct gd_score_request *req,
                                const struct gd_score *kept)
{
    struct gd_ticket *t = NULL;
    pthread_mutex_lock(&e->lock);
    const bool room = req->n_before > 0 ? has_room(e) : e->free != NULL;
    if (room && !e->draining && gd_engine_lost(e) == NULL) {
        t = fill(e, req, false, gd_now_ns());
        t->state = TICKET_DONE;
        t->score = *kept;
        t->score.hit = true;
        t->score.cached_tokens = req->prompt.n_tokens;
        e->stats.verdict_hits++;
    }
    pthread_mutex_unlock(&e->lock);
    return t;
}

static int submit(struct gd_engine *e, const struct gd_score_request *req, bool pin,
                  struct gd_ticket **out, struct gd_err *err)
{
    struct gd_score kept = {.hit = false};
    struct gd_score_key key;
    int rc = check_request(e, req, err);
    if (rc != GD_OK) {
        return rc;
    }
    bool has_key = e->scores != NULL && !pin &&
                   gd_scorecache_key(&req->prompt, req->choices, req->n_choices, &key);
    if (has_key && gd_scorecache_get(e->scores, &key, req->n_choices, kept.logits)) {
        *out = answer(e, req, &kept);
        if (*out != NULL) {
            return GD_OK;
        }
    }
    pthread_mutex_lock(&e->lock);
    int64_t now = gd_now_ns();
    struct estimate est = estimate(e, req, now);
    rc = admit(e, req, &est, now, err);
    if (rc == GD_OK) {
        *out = fill(e, req, pin, now);
        (*out)->has_key = has_key;
        if (has_key) {
            (*out)->key = key;
        }
        e->stats.verdict_misses += has_key;
        enqueue(e, *out, &est);
    }
    pthread_mutex_unlock(&e->lock);
    return rc;
}

int gd_engine_submit(struct gd_engine *e, const struct gd_score_request *req,
                     struct gd_ticket **out, struct gd_err *err)
{
    return submit(e, req, false, out, err);
}

/* ---- waiting ---- */

/* Sleeps until the ticket is done, its deadline, or the time to ask whether anybody waits. */
static void sleep_on(struct gd_engine *e, struct gd_ticket *t, bool ask)
{
    int64_t until = t->work.deadline_ns;
    int64_t next_ask = gd_now_ns() + (int64_t)GD_ENGINE_GONE_MS * 1000000;
    if (ask && (until == 0 || next_ask < until)) {
        until = next_ask;
    }
    if (until == 0) {
        pthread_cond_wait(&t->done, &e->lock);
        return;
    }
    const struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
                                .tv_nsec = until % 1000000000};
    pthread_cond_timedwait(&t->done, &e->lock, &ts);
}

/* Leaves a ticket that is not done. */
static int abandon(struct gd_engine *e, struct gd_ticket *t, int rc)
{
    t->abandoned = true;
    atomic_store(&t->work.canceled, true);
    engine_owe(e, t, 0);
    e->stats.late += rc == GD_EDEADLINE;
    e->stats.canceled += rc == GD_ECANCELED;
    return rc;
}

static bool hangs(const struct gd_engine *e)
{
    return gd_engine_lost(e) == e->hung.msg;
}

/* The lock is held. */
static int await(struct gd_engine *e, struct gd_ticket *t, bool (*gone)(void *ctx), void *ctx,
                 struct gd_score *out)
{
    while (t->state != TICKET_DONE) {
        if (hangs(e)) { /* nobody else will end it */
            return abandon(e, t, GD_EBACKEND);
        }
        sleep_on(e, t, gone != NULL);
        if (t->state == TICKET_DONE || hangs(e)) {
            continue;
        }
        if (t->work.deadline_ns != 0 && t->work.deadline_ns <= gd_now_ns()) {
            return abandon(e, t, GD_EDEADLINE);
        }
        if (gone != NULL) {
            pthread_mutex_unlock(&e->lock);
            bool left = gone(ctx);
            pthread_mutex_lock(&e->lock);
            if (left && t->state != TICKET_DONE) {
                return abandon(e, t, GD_ECANCELED);
            }
        }
    }
    int rc = gd_engine_lost(e) == NULL ? t->rc : GD_EBACKEND; /* a score of before comes too late */
    if (rc == GD_OK) {
        *out = t->score;
    }
    ticket_release(e, t);
    return rc;
}

/* One ticket fewer that somebody has to give back. */
static void forget_caller(struct gd_engine *e)
{
    e->callers--;
    if (e->draining) {
        pthread_cond_signal(&e->left);
    }
}

int gd_engine_wait(struct gd_engine *e, struct gd_ticket *t, bool (*gone)(void *ctx), void *ctx,
                   struct gd_score *out, struct gd_err *err)
{
    pthread_mutex_lock(&e->lock);
    int rc = await(e, t, gone, ctx, out);
    forget_caller(e);
    pthread_mutex_unlock(&e->lock);
    const char *lost = rc == GD_EBACKEND ? gd_engine_lost(e) : NULL;
    return rc == GD_OK ? rc
                       : gd_err_set(err, rc, "%s", lost != NULL ? lost : gd_status_message(rc));
}

void gd_engine_cancel(struct gd_engine *e, struct gd_ticket *t)
{
    pthread_mutex_lock(&e->lock);
    if (t->state == TICKET_DONE) {
        ticket_release(e, t);
    } else {
        abandon(e, t, GD_ECANCELED);
    }
    forget_caller(e);
    pthread_mutex_unlock(&e->lock);
}

int gd_engine_score(struct gd_engine *e, const struct gd_score_request *req, struct gd_score *out,
                    struct gd_err *err)
{
    struct gd_ticket *t = NULL;
    int rc = gd_engine_submit(e, req, &t, err);
    return rc != GD_OK ? rc : gd_engine_wait(e, t, NULL, NULL, out, err);
}

int gd_engine_prime(struct gd_engine *e, const int32_t *tokens, uint32_t n_tokens,
                    struct gd_err *err)
{
    const int32_t choice = 0;
    const struct gd_score_request req = {
        .prompt = {.tokens = tokens,
                   .n_tokens = n_tokens,
                   .n_shared = n_tokens,
                   .n_keep = n_tokens},
        .choices = &choice,
        .n_choices = 1,
    };
    struct gd_score score;
    struct gd_ticket *t = NULL;
    uint32_t longest = (e->context_max + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS;
    uint32_t n_blocks = n_tokens / GD_KV_BLOCK_TOKENS + 1;
    pthread_mutex_lock(&e->lock);
    uint32_t left = e->n_blocks - e->stats.kv.pinned;
    pthread_mutex_unlock(&e->lock);
    if (left < longest + n_blocks) {
        return gd_err_set(err, GD_ELIMIT,
                          "a prefix of %u tokens does not fit into the KV cache beside a prompt of "
                          "%u",
                          n_tokens, e->context_max);
    }
    int rc = submit(e, &req, true, &t, err);
    return rc != GD_OK ? rc : gd_engine_wait(e, t, NULL, NULL, &score, err);
}

double gd_engine_ahead_ms(struct gd_engine *e, uint32_t n_tokens)
{
    pthread_mutex_lock(&e->lock);
    double cost_ns = engine_ns_per_token(e) * e->miss_ratio * n_tokens;
    double ns = work_ahead_ns(e, gd_sched_key(gd_now_ns(), 0, (int64_t)cost_ns, 0));
    pthread_mutex_unlock(&e->lock);
    return ns / 1e6;
}

void gd_engine_stats(struct gd_engine *e, struct gd_engine_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    count_tickets(e, &out->waiting, &out->running);
    pthread_mutex_unlock(&e->lock);
    out->kv_bytes = e->memory.kv_bytes;
    out->step_tokens = e->step_tokens;
    out->verdict_entries = e->verdict_entries;
    out->verdict_used = e->scores != NULL ? gd_scorecache_used(e->scores) : 0;
}

/* ---- a worker that hangs ---- */

double gd_engine_stalled_ms(const struct gd_engine *e, double *expected_ms)
{
    return gd_pulse_stalled_ms(e->pulse, gd_now_ns(), expected_ms);
}

/* Those who wait must be told, since the worker does not; but the caller is not to hang here as well,
 * on a lock that somebody holds who hangs too. */
static void wake_all(struct gd_engine *e)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    for (int ms = 0; pthread_mutex_trylock(&e->lock) != 0; ms++) {
        if (ms == GD_HANG_LOCK_MS) {
            return;
        }
        nanosleep(&moment, NULL);
    }
    for (uint32_t i = 0; i < ENGINE_TICKETS; i++) {
        pthread_cond_signal(&e->tickets[i].done);
    }
    pthread_mutex_unlock(&e->lock);
}

bool gd_engine_hung(struct gd_engine *e, int64_t now_ns)
{
    const char *none = NULL;
    if (e->hung.code != GD_OK || !gd_pulse_hung(e->pulse, now_ns, &e->hung)) {
        return e->hung.code != GD_OK;
    }
    if (atomic_compare_exchange_strong(&e->lost, &none, e->hung.msg)) {
        wake_all(e);
    }
    return true;
}

/* ---- what it is made of ---- */

uint32_t gd_engine_context_max(const struct gd_engine *e)
{
    return e->context_max;
}

const struct gd_tokenizer *gd_engine_tokenizer(const struct gd_engine *e)
{
    return e->tokenizer;
}

const struct gd_model *gd_engine_model(const struct gd_engine *e)
{
    return e->model;
}

const struct gd_backend *gd_engine_backend(const struct gd_engine *e)
{
    return e->be;
}

const struct gd_err *gd_engine_device_note(const struct gd_engine *e)
{
    return e->note.code != GD_OK ? &e->note : NULL;
}

const char *gd_engine_lost(const struct gd_engine *e)
{
    return atomic_load(&e->lost);
}

const struct gd_engine_memory *gd_engine_memory(const struct gd_engine *e)
{
    return &e->memory;
}

uint64_t gd_engine_resident_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    if (f == NULL) {
        return 0;
    }
    char line[256];
    unsigned long long kib = 0;
    /* NOLINTNEXTLINE(cert-err34-c): a number of the kernel's, which fits */
    while (fgets(line, sizeof line, f) != NULL && sscanf(line, "VmRSS: %20llu", &kib) != 1) {
    }
    (void)fclose(f);
    return (uint64_t)kib * 1024;
}
