/* policy_decide.c - the fields of a policy that make a verdict of scores: thresholds, operating points,
 * evidence. See guardian/policy.h and policy_load.h. */
#include "evidence.h"
#include "forest.h"
#include "policy_load.h"
#include "text.h"

#include <string.h>

#define POINT_NAME_BYTES_MAX 32

int gd_policy_read_thresholds(struct gd_policy_loader *l)
{
    static const char *const known[] = {"flag", "block", NULL};
    const struct gd_json *t;
    l->p->flag_threshold = 0.5;
    l->p->block_threshold = 0.8;
    int rc = gd_policy_want_object(l, "thresholds", known, &t);
    if (rc == GD_OK)
        rc = gd_policy_result(
            l, gd_json_want_f64(t, "thresholds.", "flag", 0, 1, &l->p->flag_threshold, l->err));
    if (rc == GD_OK)
        rc = gd_policy_result(
            l, gd_json_want_f64(t, "thresholds.", "block", 0, 1, &l->p->block_threshold, l->err));
    if (rc == GD_OK && l->p->block_threshold < l->p->flag_threshold)
        rc = gd_policy_fail(l, "thresholds.block must not be below thresholds.flag");
    return rc;
}

/* A number from 0 to 1 that must be there. */
static int want_share(struct gd_policy_loader *l, const struct gd_json *obj, const char *where,
                      const char *key, double *out)
{
    const struct gd_json *v = gd_json_get(obj, key);
    if (!gd_json_is(v, GD_JSON_NUMBER))
        return gd_err_set(l->err, GD_EPOLICY, "field '%s%s' must be a number from 0 to 1, is %s",
                          where, key, gd_json_type_name(v));
    return gd_policy_result(l, gd_json_want_f64(obj, where, key, 0, 1, out, l->err));
}

static int read_point_name(struct gd_policy_loader *l, const struct gd_json *v, const char *where,
                           struct gd_policy_point *point)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    struct gd_str name = {"", 0};
    const int rc = gd_policy_result(l, gd_json_want_str(v, where, "name", true, &name, l->err));
    if (rc != GD_OK)
        return rc;
    bool legal = name.len > 0 && name.len <= POINT_NAME_BYTES_MAX;
    for (size_t i = 0; i < name.len && legal; i++)
        legal = memchr(allowed, name.ptr[i], sizeof allowed - 1) != NULL;
    if (!legal)
        return gd_err_set(l->err, GD_EPOLICY, "field '%sname' must be 1 to %d of [a-z0-9_-]", where,
                          POINT_NAME_BYTES_MAX);
    if (gd_str_eqz(name, "thresholds"))
        return gd_err_set(l->err, GD_EPOLICY,
                          "field '%sname' must not be 'thresholds': that is what no choice of an "
                          "operating point is called",
                          where);
    for (uint32_t k = 0; k < l->p->n_points; k++) {
        if (gd_str_eq(l->p->points[k].name, name))
            return gd_err_set(l->err, GD_EPOLICY,
                              "field '%sname' repeats the name of operating_points[%u]: '%.*s'",
                              where, (unsigned)k, (int)name.len, name.ptr);
    }
    return gd_str_dup(&l->p->arena, name, &point->name);
}

static int read_measured(struct gd_policy_loader *l, const struct gd_json *v, const char *where,
                         struct gd_policy_point *point)
{
    static const char *const known[] = {"precision", "recall", "false_positive_rate", NULL};
    double *const values[] = {&point->precision, &point->recall, &point->false_positive_rate};
    char inner[48];
    (void)snprintf(inner, sizeof inner, "%smeasured.", where);
    if (v->type != GD_JSON_OBJECT)
        return gd_err_set(l->err, GD_EPOLICY, "field '%smeasured' must be an object, is %s", where,
                          gd_json_type_name(v));
    int rc = gd_policy_refuse_unknown(l, v, inner, known);
    for (int i = 0; known[i] && rc == GD_OK; i++)
        rc = want_share(l, v, inner, known[i], values[i]);
    point->measured = true;
    return rc;
}

static int read_point(struct gd_policy_loader *l, const struct gd_json *v,
                      struct gd_policy_point *point)
{
    static const char *const known[] = {"name", "flag", "block", "measured", NULL};
    const struct gd_json *measured = gd_json_get(v, "measured");
    char where[32];
    (void)snprintf(where, sizeof where, "operating_points[%u].", (unsigned)l->p->n_points);
    if (v->type != GD_JSON_OBJECT)
        return gd_err_set(l->err, GD_EPOLICY,
                          "field 'operating_points[%u]' must be an object, is %s",
                          (unsigned)l->p->n_points, gd_json_type_name(v));
    int rc = gd_policy_refuse_unknown(l, v, where, known);
    if (rc == GD_OK)
        rc = read_point_name(l, v, where, point);
    if (rc == GD_OK)
        rc = want_share(l, v, where, "flag", &point->flag);
    if (rc == GD_OK)
        rc = want_share(l, v, where, "block", &point->block);
    if (rc == GD_OK && point->block < point->flag)
        rc = gd_err_set(l->err, GD_EPOLICY, "%sblock must not be below %sflag", where, where);
    if (rc == GD_OK && measured)
        rc = read_measured(l, measured, where, point);
    return rc;
}

int gd_policy_read_points(struct gd_policy_loader *l)
{
    const struct gd_json *points = gd_json_get(l->root, "operating_points");
    if (!points)
        return GD_OK;
    if (points->type != GD_JSON_ARRAY || points->n_children < 1 ||
        points->n_children > GD_POLICY_POINTS_MAX)
        return gd_err_set(l->err, GD_EPOLICY,
                          "field 'operating_points' must be an array of 1 to %d objects",
                          GD_POLICY_POINTS_MAX);
    for (const struct gd_json *v = points->child; v; v = v->next) {
        const int rc = read_point(l, v, &l->p->points[l->p->n_points]);
        if (rc != GD_OK)
            return rc;
        l->p->n_points++;
    }
    return GD_OK;
}

/* The number of a feature in evidence.h. */
static int feature_named(struct gd_policy_loader *l, const struct gd_json *name, uint8_t *out)
{
    if (!gd_json_is(name, GD_JSON_STRING))
        return gd_policy_fail(l, "field 'evidence.features' must be an array of strings");
    for (int i = 0; i < GD_EVIDENCE_FEATURES; i++) {
        if (gd_str_eqz(name->str, gd_evidence_names[i])) {
            *out = (uint8_t)i;
            return GD_OK;
        }
    }
    return gd_err_set(l->err, GD_EPOLICY,
                      "field 'evidence.features' names '%.*s', which is none of this program's "
                      "features",
                      gd_text_shown(name->str), name->str.ptr);
}

static int open_forest(struct gd_policy_loader *l, const struct gd_json *evidence)
{
    const struct gd_json *features = gd_json_get(evidence, "features");
    uint8_t feature[GD_EVIDENCE_FEATURES];
    struct gd_str sha256 = {"", 0};
    struct gd_buf path;
    uint32_t n = 0;
    if (!gd_json_is(features, GD_JSON_ARRAY) || features->n_children < 1 ||
        features->n_children > GD_EVIDENCE_FEATURES)
        return gd_err_set(l->err, GD_EPOLICY,
                          "field 'evidence.features' must be an array of 1 to %d names",
                          (int)GD_EVIDENCE_FEATURES);
    int rc = GD_OK;
    for (const struct gd_json *f = features->child; f && rc == GD_OK; f = f->next)
        rc = feature_named(l, f, &feature[n++]);
    if (rc == GD_OK)
        rc = gd_policy_result(
            l, gd_json_want_str(evidence, "evidence.", "sha256", true, &sha256, l->err));
    if (rc == GD_OK)
        rc = gd_policy_want_path(l, gd_json_get(evidence, "file"), "evidence.file", &path);
    if (rc != GD_OK)
        return rc;
    rc = gd_forest_open(&l->p->forest, path.data, sha256, feature, n, l->err);
    gd_buf_free(&path);
    return rc;
}

int gd_policy_read_evidence(struct gd_policy_loader *l)
{
    static const char *const known[] = {"file",   "sha256",       "features",
                                        "weight", "model_weight", NULL};
    struct gd_policy *p = l->p;
    const struct gd_json *evidence;
    p->model_weight = 1;
    p->evidence_weight = 1;
    int rc = gd_policy_want_object(l, "evidence", known, &evidence);
    if (rc != GD_OK || !evidence)
        return rc;
    if (!p->budget.notes)
        return gd_policy_fail(l, "field 'evidence' needs 'render.notes' to be true");
    rc = gd_policy_result(l, gd_json_want_f64(evidence, "evidence.", "weight", 0,
                                              GD_EVIDENCE_WEIGHT_MAX, &p->evidence_weight, l->err));
    if (rc == GD_OK)
        rc =
            gd_policy_result(l, gd_json_want_f64(evidence, "evidence.", "model_weight", 0,
                                                 GD_EVIDENCE_WEIGHT_MAX, &p->model_weight, l->err));
    return rc == GD_OK ? open_forest(l, evidence) : rc;
}

int gd_policy_operate(struct gd_policy *p, const char *name, struct gd_err *err)
{
    char have[GD_POLICY_POINTS_MAX * (POINT_NAME_BYTES_MAX + 2) + 1] = "";
    size_t len = 0;
    for (uint32_t i = 0; i < p->n_points; i++) {
        const struct gd_policy_point *point = &p->points[i];
        if (gd_str_eqz(point->name, name)) {
            p->flag_threshold = point->flag;
            p->block_threshold = point->block;
            p->point = point;
            return GD_OK;
        }
        len += (size_t)snprintf(have + len, sizeof have - len, "%s%.*s", i > 0 ? ", " : "",
                                (int)point->name.len, point->name.ptr);
    }
    const struct gd_str asked = gd_str_from(name);
    return gd_err_set(err, GD_EPOLICY, "the policy %.*s has no operating point '%.*s': it has %s",
                      (int)p->name.len, p->name.ptr, gd_text_shown(asked), asked.ptr,
                      p->n_points > 0 ? have : "none");
}
