/* guard.c - the path of one request: parse, render, tokenise, score, decide. See guardian/guard.h.
 *
 * Nothing of a request is kept here: the guard is the engine, the set of policies, and a count of
 * places where prompts may be prepared. A request holds the set that was there when it began. A
 * judgement starts as all zero (action ERROR) and its verdict is copied in by gd_verdict_make alone.
 * A thread has its place only while it prepares: never while it waits for the engine. */
#include "guardian/guard.h"

#include "evidence.h"
#include "forest.h"
#include "guardian/clock.h"
#include "guardian/pool.h"
#include "text.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct gd_guard {
    struct gd_engine *engine;
    char *policy_paths, *point; /* as they are read again; may be NULL */
    char *model_name;
    int64_t deadline_ms;
    pthread_mutex_t lock;         /* of what follows */
    struct gd_policies *policies; /* one count is the guard's */
    pthread_cond_t left;          /* a place is free; measures time by the clock of the deadlines */
    uint32_t places;              /* free ones */
};

/* Paths of the policies: those asked for, policy.json of the model directory if there, or NULL for
 * the built-in. */
static int find_policy(const struct gd_guard_options *opt, char **out)
{
    *out = NULL;
    if (opt->policy_paths) {
        *out = strdup(opt->policy_paths);
        return *out ? GD_OK : GD_ENOMEM;
    }
    if (!opt->engine.model_dir)
        return GD_OK;
    struct gd_buf path;
    gd_buf_init(&path, 64 * GD_KIB);
    gd_buf_fmt(&path, "%s/policy.json", opt->engine.model_dir);
    int rc = path.failed;
    /* anything but "no such file" is an error that opening it will report */
    if (rc == GD_OK && (access(path.data, F_OK) == 0 || errno != ENOENT)) {
        *out = strdup(path.data);
        rc = *out ? GD_OK : GD_ENOMEM;
    }
    gd_buf_free(&path);
    return rc;
}

/* "weights/guardian-mini/" is "guardian-mini". */
static char *name_of(const char *dir)
{
    const char *end = dir ? dir + strlen(dir) : NULL;
    while (end && end > dir + 1 && end[-1] == '/')
        end--;
    const char *start = end;
    while (start && start > dir && start[-1] != '/')
        start--;
    return end ? strndup(start, (size_t)(end - start)) : strdup("");
}

static void open_places(struct gd_guard *g)
{
    const uint32_t n = gd_pool_cpus_usable();
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->left, &attr);
    pthread_condattr_destroy(&attr);
    g->places = n > 2 ? n : 2;
}

/* Waits for a place to prepare a prompt. deadline_ns 0: as long as it takes. */
static int enter(struct gd_guard *g, int64_t deadline_ns, struct gd_err *err)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                                   .tv_nsec = deadline_ns % 1000000000};
    bool late = false; /* by the clock: a wait may end early */
    pthread_mutex_lock(&g->lock);
    while (g->places == 0 && !late) {
        if (deadline_ns)
            pthread_cond_timedwait(&g->left, &g->lock, &until);
        else
            pthread_cond_wait(&g->left, &g->lock);
        late = deadline_ns && gd_now_ns() >= deadline_ns;
    }
    const bool got = g->places > 0;
    g->places -= got;
    pthread_mutex_unlock(&g->lock);
    if (got)
        return GD_OK;
    return gd_err_set(err, GD_EDEADLINE, "%s", gd_status_message(GD_EDEADLINE));
}

static void leave(struct gd_guard *g)
{
    pthread_mutex_lock(&g->lock);
    g->places++;
    pthread_cond_signal(&g->left);
    pthread_mutex_unlock(&g->lock);
}

/* Puts the prefix of each policy into the cache for good. */
static int prime(struct gd_guard *g, const struct gd_policies *set, struct gd_err *err)
{
    for (uint32_t i = 0; i < set->n; i++) {
        const struct gd_policy *p = set->policy[i];
        const uint32_t n = (uint32_t)p->prefix_ids.len;
        if (n == 0)
            continue;
        const int rc = gd_engine_prime(g->engine, p->prefix_ids.data, n, err);
        if (rc != GD_OK) {
            gd_err_prefix(err, "prefix of the policy %.*s", (int)p->name.len, p->name.ptr);
            return rc;
        }
    }
    return GD_OK;
}

/* What is loaded at the start and what is loaded later differ in nothing but the cache: a reload does
 * not wait for the engine. A new prefix is computed with the first prompt that has it. */
static int load_policies(struct gd_guard *g, bool at_start, struct gd_err *err)
{
    struct gd_policies *set = NULL;
    int rc = gd_policies_open(&set, g->policy_paths, g->point, gd_engine_tokenizer(g->engine), err);
    if (rc == GD_OK && at_start)
        rc = prime(g, set, err);
    if (rc != GD_OK) {
        gd_policies_close(set);
        return rc;
    }
    pthread_mutex_lock(&g->lock);
    struct gd_policies *old = g->policies;
    g->policies = set;
    pthread_mutex_unlock(&g->lock);
    gd_policies_close(old);
    return GD_OK;
}

int gd_guard_reload(struct gd_guard *g, struct gd_err *err)
{
    return load_policies(g, false, err);
}

struct gd_policies *gd_guard_policies(struct gd_guard *g)
{
    pthread_mutex_lock(&g->lock);
    struct gd_policies *set = gd_policies_take(g->policies);
    pthread_mutex_unlock(&g->lock);
    return set;
}

int gd_guard_open(struct gd_guard **out, const struct gd_guard_options *opt, struct gd_err *err)
{
    *out = NULL;
    struct gd_guard *g = calloc(1, sizeof *g);
    if (g)
        open_places(g);
    int rc = g ? find_policy(opt, &g->policy_paths) : GD_ENOMEM;
    if (rc == GD_OK && !(g->model_name = name_of(opt->engine.model_dir)))
        rc = GD_ENOMEM;
    if (rc == GD_OK && opt->operating_point && !(g->point = strdup(opt->operating_point)))
        rc = GD_ENOMEM;
    if (rc != GD_OK) {
        gd_guard_close(g);
        return gd_err_set(err, rc, "not enough memory to open the guard");
    }
    g->deadline_ms = opt->deadline_ms;
    rc = gd_engine_open(&g->engine, &opt->engine, err);
    if (rc == GD_OK)
        rc = load_policies(g, true, err);
    if (rc != GD_OK) {
        gd_guard_close(g);
        return rc;
    }
    *out = g;
    return GD_OK;
}

void gd_guard_close(struct gd_guard *g)
{
    if (!g)
        return;
    gd_policies_close(g->policies);
    if (g->engine)
        gd_engine_close(g->engine);
    pthread_cond_destroy(&g->left);
    pthread_mutex_destroy(&g->lock);
    free(g->policy_paths);
    free(g->point);
    free(g->model_name);
    free(g);
}

struct gd_engine *gd_guard_engine(struct gd_guard *g)
{
    return g->engine;
}

const char *gd_guard_model_name(const struct gd_guard *g)
{
    return g->model_name;
}

const char *gd_guard_model_version(const struct gd_guard *g)
{
    return gd_engine_model(g->engine)->version;
}

static bool may_use(const struct gd_caller *caller, const struct gd_policy *p)
{
    bool listed = !caller || caller->n_policies == 0;
    for (uint32_t i = 0; !listed && i < caller->n_policies; i++)
        listed = gd_str_eq(caller->policies[i], p->name);
    return listed;
}

/* The policy that the request names, or else the caller's first, or else the first. */
static int choose_policy(const struct gd_policies *set, const struct gd_json *request,
                         const struct gd_caller *caller, const struct gd_policy **out,
                         struct gd_err *err)
{
    struct gd_str asked = {NULL, 0};
    const int rc = gd_json_want_str(request, "", "policy", false, &asked, err);
    if (rc != GD_OK)
        return rc;
    *out = set->policy[0];
    if (asked.ptr) {
        *out = gd_policies_find(set, asked);
        if (!*out)
            return gd_err_set(err, GD_EFIELD,
                              "field 'policy' is '%.*s', which is not loaded; /info lists those "
                              "that are",
                              gd_text_shown(asked), asked.ptr);
    } else if (caller && caller->n_policies > 0) {
        const struct gd_str first = caller->policies[0];
        *out = gd_policies_find(set, first);
        if (!*out)
            return gd_err_set(err, GD_EFORBIDDEN,
                              "the key's first policy is '%.*s', which is not loaded; /info lists "
                              "those that are",
                              gd_text_shown(first), first.ptr);
    }
    if (!may_use(caller, *out))
        return gd_err_set(err, GD_EFORBIDDEN, "the key is not allowed to use policy '%.*s'",
                          gd_text_shown((*out)->name), (*out)->name.ptr);
    return GD_OK;
}

static double ms_since(int64_t start_ns)
{
    return (double)(gd_now_ns() - start_ns) / 1e6;
}

/* Envelope, trajectory and prompt: what judging and rendering share. The prompt is to be freed on
 * GD_OK. */
static int prepare(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   int64_t deadline_ns, struct gd_pending *p, struct gd_prompt *prompt,
                   struct gd_err *err)
{
    struct gd_trajectory *traj = &p->traj;
    struct gd_judgement *j = &p->judgement;
    const int64_t start_ns = gd_now_ns();
    int rc = enter(g, deadline_ns, err);
    if (rc != GD_OK)
        return rc;
    j->queue_ms = ms_since(start_ns);
    rc = gd_trajectory_parse(a, request, traj, err);
    if (rc == GD_OK)
        rc = gd_prompt_build(p->policy, gd_engine_tokenizer(g->engine), traj,
                             gd_engine_context_max(g->engine), a, prompt, err);
    leave(g);
    if (rc != GD_OK)
        return rc;
    j->tokenize_ms = ms_since(start_ns) - j->queue_ms;
    j->phase = traj->phase;
    j->step = traj->step;
    j->has_user = traj->has_user;
    j->events = traj->n_events;
    j->flags = traj->flags;
    j->tokens = (uint32_t)prompt->ids.len;
    j->elided = prompt->elided;
    j->n_omitted = prompt->n_omitted;
    j->truncated = prompt->truncated;
    if (p->policy->forest)
        gd_forest_score(p->policy->forest, prompt->evidence, p->evidence);
    return GD_OK;
}

static int make_id(struct gd_judgement *j, struct gd_err *err)
{
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return gd_err_set(err, GD_EINTERNAL, "the system gave no random bytes");
    memcpy(j->id, "gv-", 3);
    gd_hex(random, sizeof random, j->id + 3);
    j->created = (int64_t)time(NULL);
    return GD_OK;
}

static int submit(struct gd_guard *g, const struct gd_prompt *prompt, int64_t deadline_ns,
                  const struct gd_caller *caller, struct gd_pending *p, struct gd_err *err)
{
    int32_t choices[GD_POLICY_CHOICES_MAX]; /* their tokens */
    for (uint32_t i = 0; i < p->policy->n_choices; i++)
        choices[i] = p->policy->choices[i].token;
    const struct gd_score_request req = {
        .prompt = {.tokens = prompt->ids.data,
                   .n_tokens = (uint32_t)prompt->ids.len,
                   .n_shared = prompt->n_shared,
                   .n_keep = prompt->n_keep,
                   .salt = caller ? caller->salt : (struct gd_kv_salt){{0}}},
        .n_before = caller ? caller->n_before : 0,
        .choices = choices,
        .n_choices = p->policy->n_choices,
        .deadline_ns = deadline_ns,
    };
    return gd_engine_submit(g->engine, &req, &p->ticket, err);
}

static int begin(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                 const struct gd_caller *caller, struct gd_pending *p, struct gd_err *err)
{
    int64_t deadline_ms = g->deadline_ms;
    struct gd_judgement *j = &p->judgement;
    struct gd_prompt prompt;
    p->start_ns = gd_now_ns();
    int rc = make_id(j, err);
    if (rc == GD_OK)
        rc = gd_json_want_i64(request, "", "deadline_ms", 1, GD_DEADLINE_MS_MAX, &deadline_ms, err);
    if (rc == GD_OK)
        rc = gd_json_want_str(request, "", "session", false, &j->session, err);
    if (rc == GD_OK && j->session.len > GD_SESSION_BYTES_MAX)
        rc = gd_err_set(err, GD_EFIELD, "field 'session' has %zu bytes: at most %d", j->session.len,
                        GD_SESSION_BYTES_MAX);
    const int64_t deadline_ns = deadline_ms ? p->start_ns + deadline_ms * 1000000 : 0;
    if (rc == GD_OK)
        rc = choose_policy(p->policies, request, caller, &p->policy, err);
    if (rc == GD_OK)
        rc = prepare(g, a, request, deadline_ns, p, &prompt, err);
    if (rc != GD_OK)
        return rc;
    (void)snprintf(j->policy, sizeof j->policy, "%.*s@%lld", (int)p->policy->name.len,
                   p->policy->name.ptr, (long long)p->policy->version);
    rc = submit(g, &prompt, deadline_ns, caller, p, err);
    gd_prompt_free(&prompt);
    return rc;
}

static void end(struct gd_pending *p)
{
    gd_policies_close(p->policies);
    memset(p, 0, sizeof *p);
}

int gd_guard_begin(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   const struct gd_caller *caller, struct gd_pending *p, struct gd_err *err)
{
    memset(p, 0, sizeof *p);
    p->policies = gd_guard_policies(g);
    const int rc = begin(g, a, request, caller, p, err);
    if (rc != GD_OK)
        end(p);
    return rc;
}

int gd_guard_finish(struct gd_guard *g, struct gd_pending *p, const struct gd_caller *caller,
                    struct gd_judgement *out, struct gd_err *err)
{
    struct gd_judgement *j = &p->judgement;
    struct gd_score scored;
    memset(out, 0, sizeof *out);
    memset(&scored, 0, sizeof scored);
    int rc = gd_engine_wait(g->engine, p->ticket, caller ? caller->gone : NULL,
                            caller ? caller->ctx : NULL, &scored, err);
    if (rc == GD_OK) {
        rc = gd_verdict_make(p->policy, &p->traj, j->truncated, scored.logits,
                             p->policy->forest ? p->evidence : NULL, &j->verdict);
        if (rc != GD_OK)
            gd_err_set(err, rc, "%s", gd_status_message(rc));
    }
    if (rc == GD_OK) {
        j->cached_tokens = scored.cached_tokens;
        j->cache_hit = scored.hit;
        j->queue_ms += scored.queue_ms;
        j->prefill_ms = scored.prefill_ms;
        j->total_ms = ms_since(p->start_ns);
        *out = *j;
    }
    end(p);
    return rc;
}

void gd_guard_cancel(struct gd_guard *g, struct gd_pending *p)
{
    gd_engine_cancel(g->engine, p->ticket);
    end(p);
}

int gd_guard_judge(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   const struct gd_caller *caller, struct gd_judgement *out, struct gd_err *err)
{
    struct gd_pending p;
    memset(out, 0, sizeof *out);
    const int rc = gd_guard_begin(g, a, request, caller, &p, err);
    return rc == GD_OK ? gd_guard_finish(g, &p, caller, out, err) : rc;
}

static void write_prompt(const struct gd_pending *p, const struct gd_prompt *prompt,
                         struct gd_json_writer *w)
{
    gd_jw_object(w);
    gd_jw_key(w, "text");
    gd_jw_str(w, (struct gd_str){prompt->text.data, prompt->text.len});
    gd_jw_key(w, "tokens");
    gd_jw_array(w);
    for (size_t i = 0; i < prompt->ids.len; i++)
        gd_jw_i64(w, prompt->ids.data[i]);
    gd_jw_array_end(w);
    gd_jw_key(w, "choices");
    gd_jw_array(w);
    for (uint32_t i = 0; i < p->policy->n_choices; i++) {
        const struct gd_policy_choice *c = &p->policy->choices[i];
        gd_jw_object(w);
        gd_jw_key(w, "letter");
        gd_jw_str(w, (struct gd_str){&c->letter, 1});
        gd_jw_key(w, "label");
        gd_jw_strz(w, gd_label_info(c->label)->key);
        gd_jw_key(w, "text");
        gd_jw_str(w, c->text);
        gd_jw_key(w, "token");
        gd_jw_i64(w, c->token);
        gd_jw_object_end(w);
    }
    gd_jw_array_end(w);
    gd_jw_key(w, "context");
    gd_judgement_write_context(&p->judgement, w);
    if (prompt->evidence) {
        gd_jw_key(w, "evidence");
        gd_jw_object(w);
        for (int i = 0; i < GD_EVIDENCE_FEATURES; i++) {
            gd_jw_key(w, gd_evidence_names[i]);
            gd_jw_f32(w, prompt->evidence[i]);
        }
        gd_jw_object_end(w);
    }
    gd_jw_object_end(w);
}

int gd_guard_render(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                    struct gd_json_writer *w, struct gd_err *err)
{
    struct gd_pending p;
    struct gd_prompt prompt;
    memset(&p, 0, sizeof p);
    p.policies = gd_guard_policies(g);
    int rc = choose_policy(p.policies, request, NULL, &p.policy, err);
    if (rc == GD_OK)
        rc = prepare(g, a, request, 0, &p, &prompt, err);
    if (rc == GD_OK) {
        write_prompt(&p, &prompt, w);
        gd_prompt_free(&prompt);
    }
    end(&p);
    return rc;
}
