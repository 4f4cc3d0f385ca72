/* guard.c - the path of one request: parse, render, tokenise, score, decide. See guardian/guard.h.
 *
 * Nothing is kept between requests: the guard is the engine and the policy, both read-only here. A
 * judgement starts as all zero (action ERROR) and its verdict is copied in by gd_verdict_make
 * alone. */
#include "guardian/guard.h"

#include "text.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct gd_guard {
    struct gd_engine *engine;
    struct gd_policy *policy;
    char *model_name;
    int64_t deadline_ms;
};

/* Path of the policy: the one asked for, policy.json of the model directory if there, or NULL for
 * the built-in. */
static int find_policy(const struct gd_guard_options *opt, char **out)
{
    *out = NULL;
    if (opt->policy_path) {
        *out = strdup(opt->policy_path);
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

int gd_guard_open(struct gd_guard **out, const struct gd_guard_options *opt, struct gd_err *err)
{
    *out = NULL;
    char *path = NULL;
    struct gd_guard *g = calloc(1, sizeof *g);
    int rc = g ? find_policy(opt, &path) : GD_ENOMEM;
    if (rc == GD_OK && !(g->model_name = name_of(opt->engine.model_dir)))
        rc = GD_ENOMEM;
    if (rc != GD_OK) {
        free(path);
        gd_guard_close(g);
        return gd_err_set(err, rc, "not enough memory to open the guard");
    }
    g->deadline_ms = opt->deadline_ms;
    rc = gd_engine_open(&g->engine, &opt->engine, err);
    if (rc == GD_OK)
        rc = gd_policy_open(&g->policy, path, gd_engine_tokenizer(g->engine), err);
    free(path);
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
    gd_policy_close(g->policy);
    if (g->engine)
        gd_engine_close(g->engine);
    free(g->model_name);
    free(g);
}

struct gd_engine *gd_guard_engine(struct gd_guard *g)
{
    return g->engine;
}

const struct gd_policy *gd_guard_policy(const struct gd_guard *g)
{
    return g->policy;
}

const char *gd_guard_model_name(const struct gd_guard *g)
{
    return g->model_name;
}

const char *gd_guard_model_version(const struct gd_guard *g)
{
    return gd_engine_model(g->engine)->version;
}

/* "name" or "name@version" of the policy that is loaded. */
static int check_policy(const struct gd_guard *g, const struct gd_json *request, struct gd_err *err)
{
    struct gd_str asked = {NULL, 0};
    const int rc = gd_json_want_str(request, "", "policy", false, &asked, err);
    if (rc != GD_OK || !asked.ptr || gd_str_eq(asked, g->policy->name))
        return rc;
    char full[96];
    (void)snprintf(full, sizeof full, "%.*s@%lld", (int)g->policy->name.len, g->policy->name.ptr,
                   (long long)g->policy->version);
    if (gd_str_eqz(asked, full))
        return GD_OK;
    return gd_err_set(err, GD_EFIELD, "field 'policy' is '%.*s', the policy loaded is %s",
                      gd_text_shown(asked), asked.ptr, full);
}

/* Envelope, trajectory and prompt: what judging and rendering share. The prompt is to be freed on
 * GD_OK. */
static int prepare(const struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   struct gd_trajectory *traj, struct gd_prompt *prompt, struct gd_err *err)
{
    int rc = gd_trajectory_parse(a, request, traj, err);
    if (rc == GD_OK)
        rc = check_policy(g, request, err);
    if (rc == GD_OK)
        rc = gd_prompt_build(g->policy, gd_engine_tokenizer(g->engine), traj,
                             gd_engine_context_max(g->engine), a, prompt, err);
    return rc;
}

static double ms_since(int64_t start_ns)
{
    return (double)(gd_now_ns() - start_ns) / 1e6;
}

static int make_id(struct gd_judgement *j, struct gd_err *err)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t random[16];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return gd_err_set(err, GD_EINTERNAL, "the system gave no random bytes");
    memcpy(j->id, "gv-", 3);
    for (size_t i = 0; i < sizeof random; i++) {
        j->id[3 + 2 * i] = digits[random[i] >> 4];
        j->id[4 + 2 * i] = digits[random[i] & 15u];
    }
    j->created = (int64_t)time(NULL);
    return GD_OK;
}

static int score(struct gd_guard *g, const struct gd_prompt *prompt, int64_t deadline_ns,
                 struct gd_score *out, struct gd_err *err)
{
    int32_t choices[GD_POLICY_CHOICES_MAX];
    for (uint32_t i = 0; i < g->policy->n_choices; i++)
        choices[i] = g->policy->choices[i].token;
    const struct gd_score_request req = {
        .tokens = prompt->ids.data,
        .n_tokens = (uint32_t)prompt->ids.len,
        .choices = choices,
        .n_choices = g->policy->n_choices,
        .deadline_ns = deadline_ns,
    };
    return gd_engine_score(g->engine, &req, out, err);
}

static void describe(struct gd_judgement *j, const struct gd_trajectory *traj,
                     const struct gd_prompt *prompt)
{
    j->phase = traj->phase;
    j->step = traj->step;
    j->has_user = traj->has_user;
    j->events = traj->n_events;
    j->flags = traj->flags;
    j->tokens = (uint32_t)prompt->ids.len;
    j->elided = prompt->elided;
    j->n_omitted = prompt->n_omitted;
    j->truncated = prompt->truncated;
}

static int judge(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                 struct gd_judgement *j, struct gd_err *err)
{
    const int64_t start_ns = gd_now_ns();
    int64_t deadline_ms = g->deadline_ms;
    struct gd_trajectory traj;
    struct gd_prompt prompt;
    struct gd_score scored;
    memset(&scored, 0, sizeof scored);
    int rc = make_id(j, err);
    if (rc == GD_OK)
        rc = prepare(g, a, request, &traj, &prompt, err);
    if (rc != GD_OK)
        return rc;
    rc = gd_json_want_i64(request, "", "deadline_ms", 1, GD_DEADLINE_MS_MAX, &deadline_ms, err);
    if (rc == GD_OK)
        rc = gd_json_want_str(request, "", "session", false, &j->session, err);
    describe(j, &traj, &prompt);
    j->tokenize_ms = ms_since(start_ns);
    if (rc == GD_OK)
        rc = score(g, &prompt, deadline_ms ? start_ns + deadline_ms * 1000000 : 0, &scored, err);
    gd_prompt_free(&prompt);
    if (rc != GD_OK)
        return rc;
    j->cached_tokens = scored.cached_tokens;
    j->queue_ms = scored.queue_ms;
    j->prefill_ms = scored.prefill_ms;
    rc = gd_verdict_make(g->policy, &traj, j->truncated, scored.logits, &j->verdict);
    j->total_ms = ms_since(start_ns);
    if (rc != GD_OK)
        return gd_err_set(err, rc, "%s", gd_status_message(rc));
    return GD_OK;
}

int gd_guard_judge(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                   struct gd_judgement *out, struct gd_err *err)
{
    memset(out, 0, sizeof *out);
    const int rc = judge(g, a, request, out, err);
    if (rc != GD_OK)
        memset(out, 0, sizeof *out);
    return rc;
}

static void write_prompt(const struct gd_guard *g, const struct gd_trajectory *traj,
                         const struct gd_prompt *prompt, struct gd_json_writer *w)
{
    struct gd_judgement j;
    memset(&j, 0, sizeof j);
    describe(&j, traj, prompt);
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
    for (uint32_t i = 0; i < g->policy->n_choices; i++) {
        const struct gd_choice *c = &g->policy->choices[i];
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
    gd_judgement_write_context(&j, w);
    gd_jw_object_end(w);
}

int gd_guard_render(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                    struct gd_json_writer *w, struct gd_err *err)
{
    struct gd_trajectory traj;
    struct gd_prompt prompt;
    const int rc = prepare(g, a, request, &traj, &prompt, err);
    if (rc != GD_OK)
        return rc;
    write_prompt(g, &traj, &prompt, w);
    gd_prompt_free(&prompt);
    return GD_OK;
}
