/* engine.c - the queue of scoring requests and the worker that answers them.
 *
 * Everything shared is under one lock: a fixed set of slots, the list of those that wait, counters.
 * A caller fills a slot, appends it and sleeps on the slot's condition; the worker takes the head
 * of the list, as many as make one good step, copies their tokens, runs the step without the lock,
 * and delivers. Since nothing of the caller's memory is used after a request was taken, a caller
 * whose deadline passes leaves at once: it unlinks a waiting slot, and abandons a running one,
 * which the worker then frees. First come, first served: the list is never reordered, so that a
 * long prompt is not overtaken for ever. */
#include "guardian/engine.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

/* Those that wait, those of a step, and finished ones whose callers have not been scheduled yet. */
#define SLOTS (GD_QUEUE_MAX + 3 * GD_BATCH_SEQS_MAX)
#define IDLE_TICK_NS 1000000000 /* an idle worker shows that it lives once a second */

enum slot_state { SLOT_FREE, SLOT_WAITING, SLOT_RUNNING, SLOT_DONE };

struct slot {
    enum slot_state state;
    bool abandoned;        /* running, but nobody waits for it any more */
    const int32_t *tokens; /* the caller's; valid while it waits */
    uint32_t n_tokens;
    int32_t choices[GD_POLICY_CHOICES_MAX];
    uint32_t n_choices;
    int64_t deadline_ns, submit_ns;
    struct slot *prev, *next; /* in the waiting list; next in the free list */
    pthread_cond_t done;
    int rc;
    struct gd_score score;
};

struct gd_engine {
    struct gd_backend *be;
    struct gd_tokenizer *tokenizer;
    struct gd_model *model;
    struct gd_forward *forward;
    uint32_t context_max; /* tokens of one request */
    uint32_t step_tokens; /* tokens of a step of several requests */

    pthread_t worker;
    bool worker_started;
    bool sync_ready; /* lock and conditions are initialised */
    pthread_mutex_t lock;
    pthread_cond_t work; /* something waits, or draining */
    pthread_cond_t left; /* a caller has left while draining */
    bool draining;
    uint32_t callers;   /* inside gd_engine_score */
    struct slot *slots; /* [SLOTS] */
    struct slot *free;
    struct slot *head, *tail; /* waiting, oldest first */
    struct gd_engine_stats stats;

    /* The worker's own: the step it runs. */
    struct slot *step[GD_BATCH_SEQS_MAX];
    int step_rc[GD_BATCH_SEQS_MAX];
    struct gd_score step_score[GD_BATCH_SEQS_MAX];
    uint32_t starts[GD_BATCH_SEQS_MAX + 1];
    int32_t *tokens;    /* [max_tokens] */
    int32_t *positions; /* [max_tokens] */
};

int64_t gd_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = ns % 1000000000};
}

/* ---- lists; the lock is held ---- */

static void slot_append(struct gd_engine *e, struct slot *s)
{
    s->state = SLOT_WAITING;
    s->next = NULL;
    s->prev = e->tail;
    if (e->tail != NULL) {
        e->tail->next = s;
    } else {
        e->head = s;
    }
    e->tail = s;
    e->stats.waiting++;
}

static void slot_unlink(struct gd_engine *e, struct slot *s)
{
    if (s->prev != NULL) {
        s->prev->next = s->next;
    } else {
        e->head = s->next;
    }
    if (s->next != NULL) {
        s->next->prev = s->prev;
    } else {
        e->tail = s->prev;
    }
    e->stats.waiting--;
}

static void slot_release(struct gd_engine *e, struct slot *s)
{
    s->state = SLOT_FREE;
    s->abandoned = false;
    s->next = e->free;
    e->free = s;
}

static void slot_finish(struct gd_engine *e, struct slot *s, int rc)
{
    e->stats.failures += rc != GD_OK;
    if (s->abandoned) {
        slot_release(e, s);
        return;
    }
    s->rc = rc;
    s->state = SLOT_DONE;
    pthread_cond_signal(&s->done);
}

/* ---- the worker ---- */

/* Takes the requests of the next step off the list. Returns how many; their tokens are packed. */
static uint32_t step_take(struct gd_engine *e)
{
    uint32_t n_seqs = 0, n_tokens = 0;
    int64_t now = gd_now_ns();
    while (e->head != NULL && n_seqs < GD_BATCH_SEQS_MAX) {
        struct slot *s = e->head;
        bool late = s->deadline_ns != 0 && s->deadline_ns <= now;
        if (!late && n_seqs > 0 &&
            (s->n_tokens > e->step_tokens || n_tokens > e->step_tokens - s->n_tokens)) {
            break;
        }
        slot_unlink(e, s);
        if (late) {
            slot_finish(e, s, GD_EDEADLINE);
            continue;
        }
        s->state = SLOT_RUNNING;
        e->step[n_seqs] = s;
        e->starts[n_seqs] = n_tokens;
        memcpy(e->tokens + n_tokens, s->tokens, s->n_tokens * sizeof *e->tokens);
        for (uint32_t i = 0; i < s->n_tokens; i++) {
            e->positions[n_tokens + i] = (int32_t)i;
        }
        n_tokens += s->n_tokens;
        n_seqs++;
    }
    e->starts[n_seqs] = n_tokens;
    e->stats.running = n_seqs;
    return n_seqs;
}

static int score_one(struct gd_engine *e, uint32_t seq)
{
    const struct slot *s = e->step[seq]; /* its request is not written while it runs */
    float *logits = e->step_score[seq].logits;
    int rc = gd_forward_choices(e->forward, seq, s->choices, s->n_choices, logits);
    for (uint32_t i = 0; i < s->n_choices && rc == GD_OK; i++) {
        rc = isfinite(logits[i]) ? GD_OK : GD_ENUMERIC;
    }
    return rc;
}

/* Runs the step without the lock: results go to step_rc and step_score. */
static void step_run(struct gd_engine *e, uint32_t n_seqs)
{
    struct gd_batch b = {.n_tokens = e->starts[n_seqs],
                         .n_seqs = n_seqs,
                         .tokens = e->tokens,
                         .positions = e->positions,
                         .seq_start = e->starts};
    int64_t begin = gd_now_ns();
    int rc = gd_forward_run(e->forward, &b, NULL, NULL);
    for (uint32_t i = 0; i < n_seqs; i++) {
        e->step_score[i] = (struct gd_score){.batch_seqs = n_seqs, .batch_tokens = b.n_tokens};
        e->step_rc[i] = rc != GD_OK ? rc : score_one(e, i);
    }
    double ms = (double)(gd_now_ns() - begin) / 1e6;
    for (uint32_t i = 0; i < n_seqs; i++) {
        e->step_score[i].prefill_ms = ms;
        e->step_score[i].queue_ms = (double)(begin - e->step[i]->submit_ns) / 1e6;
    }
}

static void step_deliver(struct gd_engine *e, uint32_t n_seqs)
{
    for (uint32_t i = 0; i < n_seqs; i++) {
        e->step[i]->score = e->step_score[i];
        slot_finish(e, e->step[i], e->step_rc[i]);
    }
    e->stats.steps++;
    e->stats.sequences += n_seqs;
    e->stats.tokens += e->starts[n_seqs];
    e->stats.running = 0;
}

static void *worker_main(void *arg)
{
    struct gd_engine *e = arg;
    pthread_mutex_lock(&e->lock);
    while (!e->draining) {
        int64_t now = gd_now_ns();
        e->stats.last_step_ns = (uint64_t)now;
        if (e->head == NULL) {
            struct timespec tick = timespec_of(now + IDLE_TICK_NS);
            pthread_cond_timedwait(&e->work, &e->lock, &tick);
            continue;
        }
        uint32_t n_seqs = step_take(e);
        if (n_seqs == 0) {
            continue; /* all that waited were too late */
        }
        pthread_mutex_unlock(&e->lock);
        step_run(e, n_seqs);
        pthread_mutex_lock(&e->lock);
        step_deliver(e, n_seqs);
    }
    while (e->head != NULL) {
        struct slot *s = e->head;
        slot_unlink(e, s);
        slot_finish(e, s, GD_EDRAINING);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ---- callers ---- */

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
    if (req->n_tokens > e->context_max) {
        return gd_err_set(err, GD_ELIMIT, "the prompt has %u tokens: at most %u fit", req->n_tokens,
                          e->context_max);
    }
    if (req->n_tokens == 0 || req->n_choices == 0 || req->n_choices > GD_POLICY_CHOICES_MAX) {
        return gd_err_set(err, GD_EUSAGE, "%u tokens and %u choices: expected 1 to %u and 1 to %d",
                          req->n_tokens, req->n_choices, e->context_max, GD_POLICY_CHOICES_MAX);
    }
    int rc = check_ids(e, req->tokens, req->n_tokens, "token", err);
    return rc != GD_OK ? rc : check_ids(e, req->choices, req->n_choices, "choice", err);
}

/* Puts the request into the queue; the lock is held. */
static int admit(struct gd_engine *e, const struct gd_score_request *req, struct slot **out)
{
    int64_t now = gd_now_ns();
    if (e->draining) {
        return GD_EDRAINING;
    }
    if (req->deadline_ns != 0 && req->deadline_ns <= now) {
        return GD_EDEADLINE;
    }
    if (e->stats.waiting >= GD_QUEUE_MAX || e->free == NULL) {
        return GD_EBUSY;
    }
    struct slot *s = e->free;
    e->free = s->next;
    s->tokens = req->tokens;
    s->n_tokens = req->n_tokens;
    memcpy(s->choices, req->choices, req->n_choices * sizeof *s->choices);
    s->n_choices = req->n_choices;
    s->deadline_ns = req->deadline_ns;
    s->submit_ns = now;
    slot_append(e, s);
    pthread_cond_signal(&e->work);
    *out = s;
    return GD_OK;
}

/* Waits for the slot; the lock is held. The slot is not the caller's any more afterwards. */
static int await(struct gd_engine *e, struct slot *s, struct gd_score *out)
{
    struct timespec until = timespec_of(s->deadline_ns);
    while (s->state != SLOT_DONE) {
        if (s->deadline_ns == 0) {
            pthread_cond_wait(&s->done, &e->lock);
            continue;
        }
        int timed = pthread_cond_timedwait(&s->done, &e->lock, &until);
        if (timed == ETIMEDOUT && s->state == SLOT_WAITING) {
            e->stats.failures++;
            slot_unlink(e, s);
            slot_release(e, s);
            return GD_EDEADLINE;
        }
        if (timed == ETIMEDOUT && s->state == SLOT_RUNNING) {
            e->stats.failures++;
            s->abandoned = true;
            return GD_EDEADLINE;
        }
    }
    int rc = s->rc;
    if (rc == GD_OK) {
        *out = s->score;
    }
    slot_release(e, s);
    return rc;
}

int gd_engine_score(struct gd_engine *e, const struct gd_score_request *req, struct gd_score *out,
                    struct gd_err *err)
{
    int rc = check_request(e, req, err);
    if (rc != GD_OK) {
        return rc;
    }
    struct slot *s = NULL;
    pthread_mutex_lock(&e->lock);
    e->callers++;
    rc = admit(e, req, &s);
    rc = rc != GD_OK ? rc : await(e, s, out);
    e->callers--;
    if (e->draining) {
        pthread_cond_signal(&e->left);
    }
    pthread_mutex_unlock(&e->lock);
    return rc == GD_OK ? rc : gd_err_set(err, rc, "%s", gd_status_message(rc));
}

void gd_engine_stats(struct gd_engine *e, struct gd_engine_stats *out)
{
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    pthread_mutex_unlock(&e->lock);
}

/* ---- start and end ---- */

static int open_model(struct gd_engine *e, const struct gd_engine_options *opt, struct gd_err *err)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/tokenizer.json", opt->model_dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return gd_err_set(err, GD_ELIMIT, "the path of the model directory is too long");
    }
    int rc = gd_backend_cpu_open(&e->be, opt->n_threads, err);
    rc = rc != GD_OK ? rc : gd_model_open(&e->model, opt->model_dir, e->be, &opt->model, err);
    rc = rc != GD_OK ? rc : gd_tokenizer_open(&e->tokenizer, path, err);
    if (rc != GD_OK) {
        return rc;
    }
    uint32_t vocab = e->model->config.vocab_size;
    int32_t ids = gd_tokenizer_vocab_size(e->tokenizer);
    if (ids < 1 || (uint32_t)ids > vocab) {
        return gd_err_set(err, GD_EMODEL,
                          "tokenizer.json has ids up to %d, the model has %u embeddings", ids - 1,
                          vocab);
    }
    return gd_backend_selftest(e->be, err);
}

static int open_buffers(struct gd_engine *e, struct gd_err *err)
{
    uint32_t context = e->model->config.context_max;
    e->context_max = context < GD_BATCH_TOKENS_MAX ? context : GD_BATCH_TOKENS_MAX;
    e->step_tokens =
        e->be->step_tokens < GD_BATCH_TOKENS_MAX ? e->be->step_tokens : GD_BATCH_TOKENS_MAX;
    uint32_t max_tokens = e->context_max > e->step_tokens ? e->context_max : e->step_tokens;
    e->tokens = calloc(max_tokens, sizeof *e->tokens);
    e->positions = calloc(max_tokens, sizeof *e->positions);
    e->slots = calloc(SLOTS, sizeof *e->slots);
    if (e->tokens == NULL || e->positions == NULL || e->slots == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the queue");
    }
    return gd_forward_open(&e->forward, e->model, max_tokens, err);
}

/* Conditions measure time by the clock of the deadlines. */
static void open_sync(struct gd_engine *e)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->work, &attr);
    pthread_cond_init(&e->left, &attr);
    for (size_t i = 0; i < SLOTS; i++) {
        pthread_cond_init(&e->slots[i].done, &attr);
        slot_release(e, &e->slots[i]);
    }
    pthread_condattr_destroy(&attr);
    e->sync_ready = true;
}

int gd_engine_open(struct gd_engine **out, const struct gd_engine_options *opt, struct gd_err *err)
{
    struct gd_engine *e = calloc(1, sizeof *e);
    if (e == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the engine");
    }
    int rc = open_model(e, opt, err);
    rc = rc != GD_OK ? rc : open_buffers(e, err);
    if (rc == GD_OK) {
        open_sync(e);
        e->stats.last_step_ns = (uint64_t)gd_now_ns();
        int failed = pthread_create(&e->worker, NULL, worker_main, e);
        e->worker_started = failed == 0;
        if (failed != 0) {
            rc = gd_err_set(err, GD_ENOMEM, "cannot start the worker thread: %s", strerror(failed));
        }
    }
    if (rc != GD_OK) {
        gd_engine_close(e);
        return rc;
    }
    *out = e;
    return GD_OK;
}

void gd_engine_close(struct gd_engine *e)
{
    if (e == NULL) {
        return;
    }
    if (e->worker_started) {
        pthread_mutex_lock(&e->lock);
        e->draining = true;
        pthread_cond_signal(&e->work);
        pthread_mutex_unlock(&e->lock);
        pthread_join(e->worker, NULL);
        pthread_mutex_lock(&e->lock);
        while (e->callers > 0) { /* they still have to take their answers */
            pthread_cond_wait(&e->left, &e->lock);
        }
        pthread_mutex_unlock(&e->lock);
    }
    if (e->sync_ready) {
        for (size_t i = 0; i < SLOTS; i++) {
            pthread_cond_destroy(&e->slots[i].done);
        }
        pthread_cond_destroy(&e->left);
        pthread_cond_destroy(&e->work);
        pthread_mutex_destroy(&e->lock);
    }
    gd_forward_close(e->forward);
    gd_tokenizer_close(e->tokenizer);
    if (e->model != NULL) {
        gd_model_close(e->model);
    }
    if (e->be != NULL) {
        e->be->ops->close(e->be);
    }
    free(e->slots);
    free(e->tokens);
    free(e->positions);
    free(e);
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

uint64_t gd_engine_resident_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    if (f == NULL) {
        return 0;
    }
    char line[256];
    unsigned long long kib = 0;
    while (fgets(line, sizeof line, f) != NULL && sscanf(line, "VmRSS: %20llu", &kib) != 1) {
    }
    fclose(f);
    return (uint64_t)kib * 1024;
}
