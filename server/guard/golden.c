/* golden.c - compares a model with its golden.json. See guardian/golden.h.
 *
 * All of the file is read and understood before the first request is judged, so that a mistake near its
 * end does not wait for the model. Requests are judged one after the other, on behalf of a tenant of
 * their own: nobody finds their scores in the caches. */
#include "guardian/golden.h"
#include "guardian/clock.h"
#include "guardian/file.h"

#include "text.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_NAME "golden.json"
#define POLICY_NAME "policy.json"
#define PATH_BYTES 4096
#define TEXT_OF(x) TEXT(x)
#define TEXT(x) #x

static const struct gd_json_limits golden_limits = {
    .bytes_max = GD_GOLDEN_BYTES_MAX,
    .nodes_max = GD_GOLDEN_NODES_MAX,
    .depth_max = GD_REQUEST_DEPTH_MAX + 3,
    .key_bytes_max = GD_REQUEST_KEY_BYTES_MAX,
};

struct expected {
    struct gd_str name;
    const struct gd_json *request;
    enum gd_label label;
    enum gd_action action;
    double score;
};

struct check {
    const char *dir;
    struct gd_guard *guard;
    const struct gd_model *model;
    const struct gd_policy *policy;
    bool own_policy; /* the policy is policy.json of the directory */
    struct gd_golden *out;
    struct gd_err *err;
    const struct gd_json *files;
    double tolerance;
    struct expected requests[GD_GOLDEN_REQUESTS_MAX];
    uint32_t n_requests;
};

/* ---- reading ---- */

/* Errors of the typed readers are about a request's field; here they are the file's. */
static int as_model(struct check *c, int rc)
{
    if (rc != GD_OK && rc != GD_ENOMEM) {
        gd_err_prefix(c->err, FILE_NAME);
        rc = GD_EMODEL;
        if (c->err)
            c->err->code = rc;
    }
    return rc;
}

static int refuse_unknown(struct check *c, const struct gd_json *obj, const char *where,
                          const char *const *known)
{
    for (const struct gd_json *m = obj->child; m; m = m->next) {
        size_t i = 0;
        while (known[i] && !gd_str_eqz(m->key, known[i]))
            i++;
        if (!known[i])
            return gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field '%s%.*s' is not known", where,
                              gd_text_shown(m->key), m->key.ptr);
    }
    return GD_OK;
}

static bool plain_name(struct gd_str s)
{
    return s.len > 0 && s.len <= GD_GOLDEN_NAME_BYTES_MAX && !memchr(s.ptr, '/', s.len) &&
           !memchr(s.ptr, '\0', s.len) && s.ptr[0] != '.' && !gd_str_eqz(s, FILE_NAME);
}

static bool hex_digest(const struct gd_json *v)
{
    if (!gd_json_is(v, GD_JSON_STRING) || v->str.len != 64)
        return false;
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
    while (n < v->str.len && memchr(digits, v->str.ptr[n], sizeof(digits) - 1))
        n++;
    return n == v->str.len;
}

static int read_files(struct check *c, const struct gd_json *root)
{
    c->files = gd_json_get(root, "sha256");
    if (!gd_json_is(c->files, GD_JSON_OBJECT) || c->files->n_children < 1 ||
        c->files->n_children > GD_GOLDEN_FILES_MAX)
        return gd_err_set(c->err, GD_EMODEL,
                          FILE_NAME ": field 'sha256' must be an object of 1 to %d files",
                          GD_GOLDEN_FILES_MAX);
    for (const struct gd_json *f = c->files->child; f; f = f->next) {
        if (!plain_name(f->key))
            return gd_err_set(c->err, GD_EMODEL,
                              FILE_NAME ": field 'sha256' has '%.*s': expected the name of a file "
                                        "of the model directory",
                              gd_text_shown(f->key), f->key.ptr);
        if (!hex_digest(f))
            return gd_err_set(c->err, GD_EMODEL,
                              FILE_NAME ": field 'sha256.%.*s' must be 64 lower-case hex digits",
                              gd_text_shown(f->key), f->key.ptr);
    }
    return GD_OK;
}

static int read_label(struct check *c, struct gd_str text, const char *where, struct expected *e)
{
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        if (gd_str_eqz(text, gd_label_info((enum gd_label)i)->key)) {
            e->label = (enum gd_label)i;
            return GD_OK;
        }
    }
    return gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field '%slabel' is '%.*s', which is no label",
                      where, gd_text_shown(text), text.ptr);
}

static int read_action(struct check *c, struct gd_str text, const char *where, struct expected *e)
{
    static const enum gd_action all[] = {GD_ACTION_BLOCK, GD_ACTION_REVIEW, GD_ACTION_ALLOW};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (gd_str_eqz(text, gd_action_name(all[i]))) {
            e->action = all[i];
            return GD_OK;
        }
    }
    return gd_err_set(c->err, GD_EMODEL,
                      FILE_NAME ": field '%saction' is '%.*s': expected block, review or allow",
                      where, gd_text_shown(text), text.ptr);
}

static int want_number(struct check *c, const struct gd_json *obj, const char *where,
                       const char *key, double max, double *out)
{
    if (!gd_json_get(obj, key))
        return gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field '%s%s' is missing", where, key);
    *out = NAN; /* what null leaves */
    int rc = as_model(c, gd_json_want_f64(obj, where, key, 0.0, max, out, c->err));
    if (rc == GD_OK && !isfinite(*out))
        rc = gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field '%s%s' must be a number", where, key);
    return rc;
}

static int read_request(struct check *c, const struct gd_json *v, struct expected *e)
{
    static const char *const known[] = {"name", "request", "label", "action", "score", NULL};
    char where[32];
    struct gd_str label = {NULL, 0}, action = {NULL, 0};
    (void)snprintf(where, sizeof where, "requests[%u].", c->n_requests);
    if (!gd_json_is(v, GD_JSON_OBJECT))
        return gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field 'requests[%u]' must be an object",
                          c->n_requests);
    int rc = refuse_unknown(c, v, where, known);
    if (rc == GD_OK)
        rc = as_model(c, gd_json_want_str(v, where, "name", true, &e->name, c->err));
    if (rc == GD_OK && (e->name.len < 1 || e->name.len > GD_GOLDEN_NAME_BYTES_MAX))
        rc = gd_err_set(c->err, GD_EMODEL,
                        FILE_NAME ": field '%sname' has %zu bytes: expected 1 to %d", where,
                        e->name.len, GD_GOLDEN_NAME_BYTES_MAX);
    e->request = gd_json_get(v, "request");
    if (rc == GD_OK && !gd_json_is(e->request, GD_JSON_OBJECT))
        rc =
            gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field '%srequest' must be an object", where);
    if (rc == GD_OK)
        rc = as_model(c, gd_json_want_str(v, where, "label", true, &label, c->err));
    if (rc == GD_OK)
        rc = read_label(c, label, where, e);
    if (rc == GD_OK)
        rc = as_model(c, gd_json_want_str(v, where, "action", true, &action, c->err));
    if (rc == GD_OK)
        rc = read_action(c, action, where, e);
    return rc == GD_OK ? want_number(c, v, where, "score", 1.0, &e->score) : rc;
}

static int read_requests(struct check *c, const struct gd_json *root)
{
    const struct gd_json *all = gd_json_get(root, "requests");
    if (!gd_json_is(all, GD_JSON_ARRAY) || all->n_children < 1 ||
        all->n_children > GD_GOLDEN_REQUESTS_MAX)
        return gd_err_set(c->err, GD_EMODEL,
                          FILE_NAME ": field 'requests' must be an array of 1 to %d requests",
                          GD_GOLDEN_REQUESTS_MAX);
    for (const struct gd_json *v = all->child; v; v = v->next) {
        const int rc = read_request(c, v, &c->requests[c->n_requests]);
        if (rc != GD_OK)
            return rc;
        c->n_requests++;
    }
    return GD_OK;
}

static int read_all(struct check *c, const struct gd_json *root)
{
    static const char *const known[] = {"version", "sha256", "tolerance", "requests", NULL};
    int64_t version = 0;
    if (!gd_json_is(root, GD_JSON_OBJECT) || root->flags & GD_JSON_F_DUPKEY)
        return gd_err_set(c->err, GD_EMODEL,
                          FILE_NAME " must be an object without duplicate keys in it");
    int rc = refuse_unknown(c, root, "", known);
    if (rc == GD_OK)
        rc = as_model(c, gd_json_want_i64(root, "", "version", 1, 1, &version, c->err));
    if (rc == GD_OK && version != 1)
        rc = gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field 'version' must be 1");
    if (rc == GD_OK)
        rc = read_files(c, root);
    if (rc == GD_OK)
        rc = want_number(c, root, "", "tolerance", GD_GOLDEN_TOLERANCE_MAX, &c->tolerance);
    if (rc == GD_OK && c->tolerance <= 0.0)
        rc = gd_err_set(c->err, GD_EMODEL, FILE_NAME ": field 'tolerance' must be over 0");
    return rc == GD_OK ? read_requests(c, root) : rc;
}

/* ---- files ---- */

/* The digest of a file as it was loaded, or NULL when nobody has loaded it. */
static const char *loaded(const struct check *c, struct gd_str name)
{
    for (size_t i = 0; i < c->model->n_files; i++)
        if (gd_str_eq(c->model->files[i].path, name))
            return c->model->files[i].sha256;
    return c->own_policy && gd_str_eqz(name, POLICY_NAME) ? c->policy->sha256 : NULL;
}

static int check_file(struct check *c, const struct gd_json *f)
{
    char path[PATH_BYTES], hex[65];
    const char *got = loaded(c, f->key);
    if (!got) {
        const int n = snprintf(path, sizeof path, "%s/%.*s", c->dir, (int)f->key.len, f->key.ptr);
        if (n < 0 || (size_t)n >= sizeof path)
            return gd_err_set(c->err, GD_ELIMIT, "the path of the model directory is too long");
        const int rc = as_model(c, gd_file_sha256(path, hex, NULL, c->err));
        if (rc != GD_OK)
            return rc;
        got = hex;
    }
    if (!gd_str_eqz(f->str, got))
        return gd_err_set(c->err, GD_EMODEL,
                          "file '%.*s' is not the one of " FILE_NAME
                          ": its SHA-256 is %s, expected %.*s",
                          (int)f->key.len, f->key.ptr, got, (int)f->str.len, f->str.ptr);
    c->out->n_files++;
    return GD_OK;
}

static int want_listed(struct check *c, struct gd_str name)
{
    for (const struct gd_json *f = c->files->child; f; f = f->next)
        if (gd_str_eq(f->key, name))
            return GD_OK;
    return gd_err_set(c->err, GD_EMODEL,
                      "file '%.*s' was loaded and is not one of those that " FILE_NAME " lists",
                      (int)name.len, name.ptr);
}

static int check_files(struct check *c)
{
    int rc = GD_OK;
    for (const struct gd_json *f = c->files->child; f && rc == GD_OK; f = f->next)
        rc = check_file(c, f);
    for (size_t i = 0; i < c->model->n_files && rc == GD_OK; i++)
        rc = want_listed(c, c->model->files[i].path);
    return rc == GD_OK && c->own_policy ? want_listed(c, GD_STR(POLICY_NAME)) : rc;
}

/* ---- verdicts ---- */

/* Whether the policy is the one that the verdicts were made with. */
static bool comparable(struct check *c)
{
    const struct gd_policy *p = c->policy;
    const struct gd_json *listed = gd_json_get(c->files, POLICY_NAME);
    const bool same = listed ? gd_str_eqz(listed->str, p->sha256) : !p->path.ptr;
    char *why = c->out->skipped;
    if (!same)
        (void)snprintf(why, sizeof c->out->skipped, "the policy is not the model's own");
    else if (p->point)
        (void)snprintf(why, sizeof c->out->skipped,
                       "the operating point is %.*s, not the policy's thresholds",
                       (int)p->point->name.len, p->point->name.ptr);
    return same && !p->point;
}

static int compare(struct check *c, const struct expected *e, const struct gd_verdict *v)
{
    const double difference = fabs(v->risk - e->score);
    const int n = (int)e->name.len;
    if (!(difference <= c->tolerance)) /* NaN is not */
        return gd_err_set(c->err, GD_EMODEL,
                          FILE_NAME ": request '%.*s': the score is %.6f, expected %.6f within %g",
                          n, e->name.ptr, v->risk, e->score, c->tolerance);
    if (v->action != e->action)
        return gd_err_set(c->err, GD_EMODEL,
                          FILE_NAME ": request '%.*s': the action is %s, expected %s (score %.6f)",
                          n, e->name.ptr, gd_action_name(v->action), gd_action_name(e->action),
                          v->risk);
    if (v->label != e->label)
        return gd_err_set(c->err, GD_EMODEL,
                          FILE_NAME ": request '%.*s': the label is %s, expected %s (score %.6f)",
                          n, e->name.ptr, gd_label_info(v->label)->key,
                          gd_label_info(e->label)->key, v->risk);
    c->out->difference_max = fmax(c->out->difference_max, difference);
    c->out->n_requests++;
    return GD_OK;
}

/* A slow machine is no reason to refuse the model: a request without a deadline gets the longest. */
static int judge(struct check *c, const struct expected *e)
{
    const struct gd_json member = {.type = GD_JSON_NUMBER,
                                   .raw = GD_STR(TEXT_OF(GD_DEADLINE_MS_MAX)),
                                   .key = GD_STR("deadline_ms"),
                                   .next = e->request->child};
    struct gd_json request = *e->request;
    struct gd_caller caller = {.n_before = 0};
    struct gd_judgement j;
    struct gd_arena a;
    request.child = (struct gd_json *)(uintptr_t)&member;
    request.n_children++;
    memcpy(caller.salt.bytes, "golden", 6);
    gd_arena_init(&a, GD_REQUEST_ARENA_BYTES);
    int rc = gd_guard_judge(c->guard, &a, &request, &caller, &j, c->err);
    gd_arena_free(&a);
    if (rc == GD_OK)
        return compare(c, e, &j.verdict);
    gd_err_prefix(c->err, FILE_NAME ": request '%.*s'", (int)e->name.len, e->name.ptr);
    if (rc == GD_EBACKEND || rc == GD_ENOMEM || rc == GD_EDRAINING)
        return rc;
    if (c->err)
        c->err->code = GD_EMODEL;
    return GD_EMODEL;
}

static int check_verdicts(struct check *c)
{
    int rc = GD_OK;
    const int64_t start_ns = gd_now_ns();
    if (!comparable(c))
        return GD_OK;
    for (uint32_t i = 0; i < c->n_requests && rc == GD_OK; i++)
        rc = judge(c, &c->requests[i]);
    c->out->ms = (double)(gd_now_ns() - start_ns) / 1e6;
    return rc;
}

/* ---- all of it ---- */

static int check_text(struct check *c, struct gd_arena *a, struct gd_str text)
{
    const struct gd_json *root = NULL;
    int rc = as_model(c, gd_json_parse(a, text, &golden_limits, &root, c->err));
    if (rc == GD_OK)
        rc = read_all(c, root);
    c->out->tolerance = c->tolerance;
    if (rc == GD_OK)
        rc = check_files(c);
    return rc == GD_OK ? check_verdicts(c) : rc;
}

/* As the guard names the policy of a directory. */
static bool is_own_policy(const char *dir, const struct gd_policy *p)
{
    char path[PATH_BYTES];
    const int n = snprintf(path, sizeof path, "%s/" POLICY_NAME, dir);
    return n > 0 && (size_t)n < sizeof path && gd_str_eqz(p->path, path);
}

int gd_golden_check(const char *model_dir, struct gd_guard *g, struct gd_golden *out,
                    struct gd_err *err)
{
    char path[PATH_BYTES], *text = NULL;
    size_t len = 0;
    struct stat st;
    struct gd_arena a;
    *out = (struct gd_golden){.there = false};
    const int n = snprintf(path, sizeof path, "%s/" FILE_NAME, model_dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return gd_err_set(err, GD_ELIMIT, "the path of the model directory is too long");
    if (lstat(path, &st) != 0 && errno == ENOENT)
        return GD_OK;
    out->there = true;
    struct check *c = calloc(1, sizeof *c);
    if (!c)
        return gd_err_set(err, GD_ENOMEM, "not enough memory for " FILE_NAME);
    struct gd_policies *set = gd_guard_policies(g);
    *c = (struct check){.dir = model_dir,
                        .guard = g,
                        .model = gd_engine_model(gd_guard_engine(g)),
                        .policy = set->policy[0],
                        .own_policy = is_own_policy(model_dir, set->policy[0]),
                        .out = out,
                        .err = err};
    gd_arena_init(&a, 16 * GD_GOLDEN_BYTES_MAX);
    int rc = as_model(c, gd_file_read(path, GD_GOLDEN_BYTES_MAX, &text, &len, err));
    if (rc == GD_OK)
        rc = check_text(c, &a, (struct gd_str){text, len});
    gd_arena_free(&a);
    gd_policies_close(set);
    free(text);
    free(c);
    return rc;
}

void gd_golden_write(const struct gd_golden *r, struct gd_json_writer *w)
{
    if (!r->there) {
        gd_jw_null(w);
        return;
    }
    gd_jw_object(w);
    gd_jw_put_i64(w, "files", r->n_files);
    gd_jw_put_i64(w, "requests", r->n_requests);
    gd_jw_put_str(w, "skipped", r->skipped[0] != '\0' ? r->skipped : NULL);
    gd_jw_put_f64(w, "tolerance", r->tolerance);
    gd_jw_put_f64(w, "difference_max", r->difference_max);
    gd_jw_object_end(w);
}
