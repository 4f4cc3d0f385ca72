/* guard.h - from one request object to one verdict: parse, render, tokenise, score, decide.
 *
 * Owns the engine and the policies. Any number of threads may judge at once; as many of them as there
 * are processors parse, render and tokenise at one time, so that they do not take the processors
 * from the engine. */
#ifndef GUARDIAN_GUARD_H
#define GUARDIAN_GUARD_H

#include "guardian/engine.h"
#include "guardian/policies.h"
#include "guardian/prompt.h"
#include "guardian/verdict.h"

struct gd_guard;

struct gd_guard_options {
    struct gd_engine_options engine;
    /* Policy files, separated by commas; the first counts for requests that name none. NULL:
     * policy.json of the model directory if there, else the built-in mcip. */
    const char *policy_paths;
    const char *operating_point; /* of all policies; NULL: their thresholds */
    /* For requests without deadline_ms; 0: they may take as long as it takes. */
    int64_t deadline_ms;
};

/* On whose behalf a request is judged. NULL in its place: nobody in particular, who never leaves. */
struct gd_caller {
    struct gd_kv_salt salt; /* of the tenant: caches are not shared across it */
    uint32_t n_before;      /* tokens of what it sent with this request, before it */
    /* Names of the policies that it may use; the first counts where its request names none. 0: all
     * policies, and the guard's first. */
    const struct gd_str *policies;
    uint32_t n_policies;
    bool (*gone)(void *ctx); /* see gd_engine_wait; may be NULL */
    void *ctx;
};

int gd_guard_open(struct gd_guard **out, const struct gd_guard_options *opt, struct gd_err *err);
void gd_guard_close(struct gd_guard *g);

struct gd_engine *gd_guard_engine(struct gd_guard *g);
/* The policies as they are now; to be given back with gd_policies_close. Any thread. */
struct gd_policies *gd_guard_policies(struct gd_guard *g);
/* Reads the files of the policies again, and judges later requests by them. On failure (GD_EPOLICY,
 * GD_EIO, ...) nothing has changed. One thread at a time. */
int gd_guard_reload(struct gd_guard *g, struct gd_err *err);
/* Last part of the model directory's path. */
const char *gd_guard_model_name(const struct gd_guard *g);
const char *gd_guard_model_version(const struct gd_guard *g); /* "sha256:..." */

struct gd_judgement {
    char id[40]; /* "gv-" + 32 hex digits, random */
    struct gd_verdict verdict;
    enum gd_phase phase;
    int32_t step;
    bool has_user;
    uint32_t events, tokens, cached_tokens, elided, n_omitted, flags; /* flags: GD_TRAJ_F_* */
    bool truncated;
    bool cache_hit;                  /* the whole score was kept from an equal request */
    char policy[GD_POLICY_ID_BYTES]; /* "name@version" that it was judged by */
    double queue_ms, tokenize_ms, prefill_ms, total_ms; /* tokenize: parse, render and encode */
    int64_t created;                                    /* seconds since 1970 */
    struct gd_str session; /* as the request gave it, a part of it; ptr NULL: none */
};

/* Judges one request object: messages | frames | mci, with optional tools, policy (the name of one
 * that is loaded; GD_EFORBIDDEN when the caller may not use it), deadline_ms, session and other
 * envelope fields of the API. Duplicate keys in the envelope are refused. On failure *out has action
 * ERROR. */
int gd_guard_judge(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   const struct gd_caller *caller, struct gd_judgement *out, struct gd_err *err);

/* The same in two halves, so that one thread can have many requests in the engine at once: begin
 * queues the prompt, finish waits for the score and decides. Each successful begin is followed by
 * one finish, or one cancel when nobody wants the verdict; the request (session is a part of it) and *p
 * stay until then, a may be freed once begin has returned. */
struct gd_pending {
    struct gd_ticket *ticket;
    struct gd_policies *policies;
    const struct gd_policy *policy; /* one of them */
    struct gd_trajectory traj;
    struct gd_judgement judgement; /* all but the verdict */
    float evidence[GD_LABEL_COUNT]; /* the forest's scores, of a policy that has one */
    int64_t start_ns;
};
int gd_guard_begin(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   const struct gd_caller *caller, struct gd_pending *p, struct gd_err *err);
int gd_guard_finish(struct gd_guard *g, struct gd_pending *p, const struct gd_caller *caller,
                    struct gd_judgement *out, struct gd_err *err);
void gd_guard_cancel(struct gd_guard *g, struct gd_pending *p);

/* The verdict object of the API (README, "API"). */
void gd_judgement_write(const struct gd_guard *g, const struct gd_judgement *j,
                        struct gd_json_writer *w);
/* Its member "context" alone. */
void gd_judgement_write_context(const struct gd_judgement *j, struct gd_json_writer *w);

/* The prompt of a request, as `guardian render` prints it:
 * {"text","tokens","choices":[...],"context":{...}}. */
int gd_guard_render(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                    struct gd_json_writer *w, struct gd_err *err);

#endif
