/* sched.c - the scheduler: prompts in the order of their keys, cut into chunks that fill a step.
 *
 * The works stand in one array, sorted by key before each plan (it is nearly sorted already). A plan
 * walks along it and gives each work as many tokens as are left of the step. A work begins when all
 * blocks that it will ever need can be had, so that no two halves of prompts can wait for each
 * other's blocks; when the next one in order cannot begin, nothing behind it may begin either, or
 * small prompts would keep a large one out for ever.
 *
 * Before a work begins it is compared with those that have begun: when one of them will soon have
 * filled blocks of its prefix, the work waits for that one, which is put into the step at once. */
#include "guardian/sched.h"

#include <string.h>

/* Tokens that a work must save to wait for another one to compute them. */
#define WORTH_WAITING (2 * GD_KV_BLOCK_TOKENS)
#define LOOK_BACK 8 /* works added last that a new one is compared with */

struct gd_sched {
    struct gd_kvcache *cache;
    uint32_t step_tokens;
    struct gd_work **works; /* [n_works] */
    uint32_t n_works, max_works;

    /* the step under preparation */
    uint32_t n_tokens, n_seqs;
    int32_t *tokens, *positions; /* [step_tokens] */
    uint32_t *blocks;            /* [GD_STEP_SEQS_MAX * GD_KV_SEQ_BLOCKS_MAX] */
    uint32_t seq_start[GD_STEP_SEQS_MAX + 1], block_start[GD_STEP_SEQS_MAX + 1];
    struct gd_work *step[GD_STEP_SEQS_MAX];
    uint32_t scored[GD_STEP_SEQS_MAX];
};

int gd_sched_open(struct gd_sched **out, struct gd_kvcache *c, const struct gd_sched_options *opt,
                  struct gd_err *err)
{
    if (opt->step_tokens == 0 || opt->step_tokens > GD_STEP_TOKENS_MAX || opt->n_works == 0) {
        return gd_err_set(err, GD_EUSAGE, "a step of %u tokens: expected 1 to %d", opt->step_tokens,
                          GD_STEP_TOKENS_MAX);
    }
    struct gd_sched *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the scheduler");
    }
    s->cache = c;
    s->step_tokens = opt->step_tokens;
    s->max_works = opt->n_works;
    s->works = calloc(opt->n_works, sizeof(struct gd_work *));
    s->tokens = calloc(opt->step_tokens, sizeof *s->tokens);
    s->positions = calloc(opt->step_tokens, sizeof *s->positions);
    s->blocks = calloc((size_t)GD_STEP_SEQS_MAX * GD_KV_SEQ_BLOCKS_MAX, sizeof *s->blocks);
    if (s->works == NULL || s->tokens == NULL || s->positions == NULL || s->blocks == NULL) {
        gd_sched_close(s);
        return gd_err_set(err, GD_ENOMEM, "no memory for the scheduler");
    }
    *out = s;
    return GD_OK;
}

void gd_sched_close(struct gd_sched *s)
{
    if (s == NULL) {
        return;
    }
    free(s->works);
    free(s->tokens);
    free(s->positions);
    free(s->blocks);
    free(s);
}

bool gd_sched_empty(const struct gd_sched *s)
{
    return s->n_works == 0;
}

int64_t gd_sched_key(int64_t submit_ns, int64_t deadline_ns, int64_t cost, int64_t before)
{
    int64_t key = submit_ns + GD_BATCH_SLACK * (cost + before);
    int64_t latest = deadline_ns - cost > submit_ns ? deadline_ns - cost : submit_ns;
    return deadline_ns != 0 && latest < key ? latest : key;
}

/* Tokens of b's prefix that a will have made reusable for b in the end: whole blocks. */
static uint32_t promised(const struct gd_sched *s, const struct gd_work *a, const struct gd_work *b)
{
    uint32_t n = gd_kvcache_common(s->cache, &a->prompt, &b->prompt);
    return n / GD_KV_BLOCK_TOKENS * GD_KV_BLOCK_TOKENS;
}

/* Tokens of w that it will not have to compute: the n_known found now, or more that a work added
 * lately promises. */
static uint32_t foreseen(const struct gd_sched *s, const struct gd_work *w, uint32_t n_known)
{
    uint32_t most = n_known;
    for (uint32_t i = s->n_works; i > 0 && s->n_works - i < LOOK_BACK; i--) {
        uint32_t n = promised(s, s->works[i - 1], w);
        most = n > most ? n : most;
    }
    return most < w->prompt.n_tokens ? most : w->prompt.n_tokens - 1;
}

/* The key counts what is not known now: of those that share a prefix any may have to compute it. */
void gd_sched_add(struct gd_sched *s, struct gd_work *w, double ns_per_token)
{
    GD_ASSERT(s->n_works < s->max_works);
    uint32_t n_known = gd_kvcache_peek(s->cache, &w->prompt);
    w->n_new = w->prompt.n_tokens - foreseen(s, w, n_known);
    w->n_done = 0;
    w->n_step = 0;
    w->started = false;
    w->next = NULL;
    int64_t cost = (int64_t)(ns_per_token * (w->prompt.n_tokens - n_known));
    int64_t before = (int64_t)(ns_per_token * w->n_before);
    w->key_ns = gd_sched_key(w->submit_ns, w->deadline_ns, cost, before);
    s->works[s->n_works++] = w;
}

/* Stable, and linear for an array that is nearly in order. */
static void sort_works(struct gd_sched *s)
{
    for (uint32_t i = 1; i < s->n_works; i++) {
        struct gd_work *w = s->works[i];
        uint32_t at = i;
        for (; at > 0 && s->works[at - 1]->key_ns > w->key_ns; at--) {
            s->works[at] = s->works[at - 1];
        }
        s->works[at] = w;
    }
}

/* Gives the blocks of a work back that will not go on. The full blocks it has computed stay. */
static void leave_early(struct gd_sched *s, struct gd_work *w)
{
    uint32_t whole = w->n_done / GD_KV_BLOCK_TOKENS * GD_KV_BLOCK_TOKENS;
    if (w->kv.prompt.n_keep > whole) {
        w->kv.prompt.n_keep = whole;
    }
    if (w->kv.prompt.n_shared > whole) {
        w->kv.prompt.n_shared = whole;
    }
    gd_kvcache_release(s->cache, &w->kv, true);
    w->started = false;
}

static struct gd_work *drop_unwanted(struct gd_sched *s, int64_t now_ns)
{
    struct gd_work *dropped = NULL;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_works; i++) {
        struct gd_work *w = s->works[i];
        bool late = w->deadline_ns != 0 && w->deadline_ns <= now_ns;
        if (!late && !atomic_load(&w->canceled)) {
            s->works[kept++] = w;
            continue;
        }
        if (w->started) {
            leave_early(s, w);
        }
        w->next = dropped;
        dropped = w;
    }
    s->n_works = kept;
    return dropped;
}

static bool step_is_full(const struct gd_sched *s)
{
    return s->n_tokens == s->step_tokens || s->n_seqs == GD_STEP_SEQS_MAX;
}

/* Puts as much of a begun work into the step as fits. */
static void add_chunk(struct gd_sched *s, struct gd_work *w)
{
    uint32_t left = w->prompt.n_tokens - w->n_done;
    uint32_t room = s->step_tokens - s->n_tokens;
    uint32_t n = left < room ? left : room;
    uint32_t end = w->n_done + n;
    uint32_t n_blocks = (end + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS;
    memcpy(s->tokens + s->n_tokens, w->prompt.tokens + w->n_done, n * sizeof *s->tokens);
    for (uint32_t i = 0; i < n; i++) {
        s->positions[s->n_tokens + i] = (int32_t)(w->n_done + i);
    }
    memcpy(s->blocks + s->block_start[s->n_seqs], w->kv.blocks, n_blocks * sizeof *s->blocks);
    s->step[s->n_seqs++] = w;
    s->n_tokens += n;
    s->seq_start[s->n_seqs] = s->n_tokens;
    s->block_start[s->n_seqs] = s->block_start[s->n_seqs - 1] + n_blocks;
    w->n_step = n;
    gd_kvcache_advance(s->cache, &w->kv, end);
}

/* True when a work that has begun is about to compute so much of w's prefix that w had better wait.
 * That one is then in the step, in w's place. */
static bool had_better_wait(struct gd_sched *s, struct gd_work *w)
{
    struct gd_work *best = NULL;
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->n_works; i++) {
        struct gd_work *a = s->works[i];
        uint32_t n = a->started ? promised(s, a, w) : 0;
        if (n > most && n > a->n_done + a->n_step) {
            most = n;
            best = a;
        }
    }
    if (best == NULL || most < gd_kvcache_peek(s->cache, &w->prompt) + WORTH_WAITING) {
        return false;
    }
    if (best->n_step == 0) {
        add_chunk(s, best);
    }
    return most >= gd_kvcache_peek(s->cache, &w->prompt) + WORTH_WAITING;
}

/* False when there are not enough blocks. */
static bool begin(struct gd_sched *s, struct gd_work *w)
{
    if (gd_kvcache_acquire(s->cache, &w->prompt, &w->kv) != GD_OK) {
        return false;
    }
    w->started = true;
    w->n_done = w->kv.n_cached;
    w->n_new = w->prompt.n_tokens - w->n_done;
    return true;
}

static void fill_step(struct gd_sched *s)
{
    bool blocked = false;
    for (uint32_t i = 0; i < s->n_works && !step_is_full(s); i++) {
        struct gd_work *w = s->works[i];
        if (w->n_step > 0 || (blocked && !w->started)) {
            continue;
        }
        if (!w->started) {
            if (had_better_wait(s, w) || step_is_full(s)) {
                continue;
            }
            blocked = !begin(s, w);
        }
        if (w->started) {
            add_chunk(s, w);
        }
    }
}

void gd_sched_plan(struct gd_sched *s, int64_t now_ns, struct gd_step *step)
{
    struct gd_work *dropped = drop_unwanted(s, now_ns);
    sort_works(s);
    s->n_tokens = 0;
    s->n_seqs = 0;
    fill_step(s);
    GD_ASSERT(s->n_seqs > 0 || s->n_works == 0);
    *step = (struct gd_step){.batch = {.n_tokens = s->n_tokens,
                                       .n_seqs = s->n_seqs,
                                       .tokens = s->tokens,
                                       .positions = s->positions,
                                       .seq_start = s->seq_start,
                                       .blocks = s->blocks,
                                       .block_start = s->block_start},
                             .works = s->step,
                             .scored = s->scored,
                             .dropped = dropped};
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct gd_work *w = s->step[i];
        if (w->n_done + w->n_step == w->prompt.n_tokens) {
            s->scored[step->n_scored++] = i;
        }
    }
}

/* Takes the step's tokens as computed. True when the work goes on. */
static bool settle(struct gd_sched *s, struct gd_work *w, bool ok)
{
    gd_kvcache_copied(s->cache, &w->kv);
    w->n_done += w->n_step;
    w->n_step = 0;
    if (ok && w->n_done < w->prompt.n_tokens) {
        return true;
    }
    if (ok && w->pin) {
        gd_kvcache_pin(s->cache, &w->kv);
    } else {
        gd_kvcache_release(s->cache, &w->kv, ok);
    }
    w->started = false;
    return false;
}

void gd_sched_done(struct gd_sched *s, struct gd_step *step, const bool *ok)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < step->batch.n_seqs; i++) {
        struct gd_work *w = step->works[i];
        if (!settle(s, w, ok[i])) {
            w->key_ns = INT64_MAX; /* marks what leaves */
        }
    }
    for (uint32_t i = 0; i < s->n_works; i++) {
        if (s->works[i]->key_ns != INT64_MAX) {
            s->works[kept++] = s->works[i];
        }
    }
    s->n_works = kept;
    gd_kvcache_step_end(s->cache);
}

struct gd_work *gd_sched_drain(struct gd_sched *s)
{
    struct gd_work *all = NULL;
    for (uint32_t i = 0; i < s->n_works; i++) {
        struct gd_work *w = s->works[i];
        if (w->started) {
            leave_early(s, w);
        }
        w->next = all;
        all = w;
    }
    s->n_works = 0;
    return all;
}
