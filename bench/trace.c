/* trace.c - seeded request traces; see trace.h. */
#include "trace.h"

#include <math.h>
#include <string.h>

const char *const TRACE_NAMES[] = {"cold", "prefix", "growing", "mixed", "bursts", NULL};

struct maker {
    struct trace *t;
    struct bench_rng rng;
    int32_t question[TRACE_QUESTION];
    uint32_t context_max;
    struct gd_err *err;
};

static void draw(struct maker *m, int32_t *to, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        to[i] = (int32_t)bench_rng_below(&m->rng, m->t->vocab);
    }
}

/* A prompt of n tokens with the question in its place; the rest is the caller's. NULL: does not
 * fit, or no memory. */
static struct trace_request *add(struct maker *m, uint32_t i, uint32_t n)
{
    struct trace_request *r = &m->t->requests[i];
    if (n > m->context_max) {
        gd_err_set(m->err, GD_ELIMIT, "a prompt of the trace has %u tokens, the context %u", n,
                   m->context_max);
        return NULL;
    }
    r->tokens = malloc(n * sizeof *r->tokens);
    if (r->tokens == NULL) {
        gd_err_set(m->err, GD_ENOMEM, "no memory for the trace");
        return NULL;
    }
    r->n_tokens = n;
    r->n_keep = n - TRACE_QUESTION;
    r->n_fresh = n;
    r->session = i;
    r->same_as = i;
    memcpy(r->tokens + r->n_keep, m->question, sizeof m->question);
    return r;
}

static bool make_plain(struct maker *m, uint32_t i, uint32_t n_new, bool behind_prefix)
{
    uint32_t shared = behind_prefix ? TRACE_PREFIX : 0;
    struct trace_request *r = add(m, i, shared + n_new);
    if (r != NULL) {
        memcpy(r->tokens, m->t->prefix, shared * sizeof *r->tokens);
        draw(m, r->tokens + shared, n_new - TRACE_QUESTION);
        r->n_shared = shared;
        r->n_fresh = n_new;
    }
    return r != NULL;
}

static uint32_t draw_delta(struct maker *m)
{
    double mu = log(TRACE_DELTA) - TRACE_DELTA_SIGMA * TRACE_DELTA_SIGMA / 2;
    double v = exp(mu + TRACE_DELTA_SIGMA * bench_rng_normal(&m->rng));
    return v < 1 ? 1 : v > 10 * TRACE_DELTA ? (uint32_t)(10 * TRACE_DELTA) : (uint32_t)v;
}

/* Requests stand in the order call by call, all sessions of a group in each. */
static bool make_growing(struct maker *m, uint32_t i)
{
    uint32_t group = i / (TRACE_SESSIONS * TRACE_CALLS), in = i % (TRACE_SESSIONS * TRACE_CALLS);
    bool first = in < TRACE_SESSIONS;
    struct trace_request *before = first ? NULL : &m->t->requests[i - TRACE_SESSIONS];
    uint32_t held = first ? 0 : before->n_keep, delta = draw_delta(m);
    struct trace_request *r = add(m, i, held + delta + TRACE_QUESTION);
    if (r == NULL) {
        return false;
    }
    if (held > 0) {
        memcpy(r->tokens, before->tokens, held * sizeof *r->tokens);
    }
    draw(m, r->tokens + held, delta);
    r->session = group * TRACE_SESSIONS + in % TRACE_SESSIONS;
    r->after = first ? 0 : i - TRACE_SESSIONS + 1;
    r->n_fresh = delta + TRACE_QUESTION;
    return true;
}

static bool make_burst(struct maker *m, uint32_t i)
{
    const uint32_t body = TRACE_NEW - TRACE_QUESTION;
    uint32_t first = i - i % TRACE_GROUP;
    bool equal = i / TRACE_GROUP % 2 == 0;
    uint32_t common = first == i ? 0 : equal ? body : body * 9 / 10;
    struct trace_request *r = add(m, i, TRACE_NEW);
    if (r == NULL) {
        return false;
    }
    memcpy(r->tokens, m->t->requests[first].tokens, common * sizeof *r->tokens);
    draw(m, r->tokens + common, body - common);
    r->session = first / TRACE_GROUP;
    r->same_as = equal ? first : i;
    r->n_fresh = TRACE_NEW - common;
    return true;
}

static bool make_one(struct maker *m, uint32_t i)
{
    switch (m->t->name[0]) {
    case 'p':
        return make_plain(m, i, TRACE_NEW, true);
    case 'g':
        return make_growing(m, i);
    case 'm':
        return make_plain(m, i, 100 + bench_rng_below(&m->rng, 1401), i % 2 == 1);
    case 'b':
        return make_burst(m, i);
    default:
        return make_plain(m, i, TRACE_NEW, false);
    }
}

/* FNV-1a over what makes the work: lengths and tokens. */
static uint64_t mix(uint64_t h, const void *p, size_t nbytes)
{
    const unsigned char *at = p;
    for (size_t i = 0; i < nbytes; i++) {
        h = (h ^ at[i]) * 1099511628211u;
    }
    return h;
}

static void sum_up(struct trace *t)
{
    t->hash = 14695981039346656037u;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct trace_request *r = &t->requests[i];
        const uint32_t numbers[] = {r->n_tokens, r->n_shared, r->n_keep, r->after};
        t->hash = mix(t->hash, numbers, sizeof numbers);
        t->hash = mix(t->hash, r->tokens, r->n_tokens * sizeof *r->tokens);
        t->n_tokens += r->n_tokens;
        t->n_fresh += r->n_fresh;
    }
}

int trace_make(struct trace *t, const char *name, uint32_t n, uint64_t seed, uint32_t vocab,
               uint32_t context_max, struct gd_err *err)
{
    size_t which = 0;
    while (TRACE_NAMES[which] != NULL && strcmp(TRACE_NAMES[which], name) != 0) {
        which++;
    }
    if (TRACE_NAMES[which] == NULL) {
        return gd_err_set(err, GD_EUSAGE, "no trace '%s'", name);
    }
    *t = (struct trace){.name = TRACE_NAMES[which], .seed = seed, .vocab = vocab, .n = n};
    t->has_prefix = name[0] == 'p' || name[0] == 'm';
    t->requests = calloc(n, sizeof *t->requests);
    if (t->requests == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the trace");
    }
    /* The prefix is a policy's: the same for all traces and seeds. */
    struct maker m = {.t = t, .context_max = context_max, .err = err};
    draw(&m, t->prefix, TRACE_PREFIX);
    draw(&m, m.question, TRACE_QUESTION);
    m.rng.state = seed * 1000003u + which + 1;
    for (uint32_t i = 0; i < TRACE_CHOICES; i++) {
        t->choices[i] = (int32_t)(i % vocab);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!make_one(&m, i)) {
            trace_free(t);
            return err->code;
        }
    }
    sum_up(t);
    return GD_OK;
}

void trace_free(struct trace *t)
{
    for (uint32_t i = 0; i < t->n && t->requests != NULL; i++) {
        free(t->requests[i].tokens);
    }
    free(t->requests);
    t->requests = NULL;
    t->n = 0;
}

static void put_ids(struct gd_json_writer *w, const char *key, const int32_t *ids, uint32_t n)
{
    gd_jw_key(w, key);
    gd_jw_array(w);
    for (uint32_t i = 0; i < n; i++) {
        gd_jw_i64(w, ids[i]);
    }
    gd_jw_array_end(w);
}

static void put_head(struct gd_json_writer *w, const struct trace *t)
{
    char hash[20];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)t->hash);
    gd_jw_object(w);
    gd_jw_put_str(w, "trace", t->name);
    gd_jw_put_i64(w, "seed", (int64_t)t->seed);
    gd_jw_put_str(w, "hash", hash);
    gd_jw_put_i64(w, "vocab", t->vocab);
    put_ids(w, "choices", t->choices, TRACE_CHOICES);
    put_ids(w, "prefix", t->prefix, t->has_prefix ? TRACE_PREFIX : 0);
    gd_jw_object_end(w);
}

static void put_request(struct gd_json_writer *w, const struct trace_request *r, uint32_t id)
{
    gd_jw_object(w);
    gd_jw_put_i64(w, "id", id);
    gd_jw_put_i64(w, "session", r->session);
    gd_jw_put_i64(w, "shared", r->n_shared);
    gd_jw_put_i64(w, "keep", r->n_keep);
    put_ids(w, "tokens", r->tokens, r->n_tokens);
    gd_jw_key(w, "logits");
    gd_jw_array(w);
    for (uint32_t i = 0; i < TRACE_CHOICES; i++) {
        gd_jw_f32(w, r->logits[i]);
    }
    gd_jw_array_end(w);
    gd_jw_object_end(w);
}

int trace_dump(const struct trace *t, const char *path, struct gd_err *err)
{
    FILE *f = fopen(path, "we");
    bool ok = f != NULL;
    for (uint32_t i = 0; i <= t->n && ok; i++) {
        struct gd_buf line;
        struct gd_json_writer w;
        gd_buf_init(&line, GD_MIB);
        gd_json_writer_init(&w, &line);
        if (i == 0) {
            put_head(&w, t);
        } else {
            put_request(&w, &t->requests[i - 1], i - 1);
        }
        gd_buf_z(&line, "\n");
        ok = line.failed == 0 && fwrite(line.data, 1, line.len, f) == line.len;
        gd_buf_free(&line);
    }
    if (f != NULL && fclose(f) != 0) {
        ok = false;
    }
    return ok ? GD_OK : gd_err_set(err, GD_EIO, "%s could not be written", path);
}
