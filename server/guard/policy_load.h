/* policy_load.h - what the readers of a policy's fields share. Internal to server/guard.
 *
 * Each reader reads fields of the root object into the policy: GD_OK, or an error in l->err. */
#ifndef GUARDIAN_GUARD_POLICY_LOAD_H
#define GUARDIAN_GUARD_POLICY_LOAD_H

#include "guardian/policy.h"

struct gd_policy_loader {
    struct gd_policy *p;
    struct gd_arena scratch; /* the parsed JSON, and texts on their way */
    const struct gd_json *root;
    const char *base_dir;
    struct gd_err *err;
    struct gd_str template; /* after `remove` */
    bool from_file;
};

int gd_policy_fail(struct gd_policy_loader *l, const char *what);

/* Errors of the typed readers are about a request's field; here they are the policy's. */
int gd_policy_result(struct gd_policy_loader *l, int rc);

int gd_policy_refuse_unknown(struct gd_policy_loader *l, const struct gd_json *obj,
                             const char *where, const char *const *known);

/* An optional object member; NULL in *out when absent. */
int gd_policy_want_object(struct gd_policy_loader *l, const char *key, const char *const *known,
                          const struct gd_json **out);

/* The path that a field gives, relative to the policy's file, zero-terminated in *out. */
int gd_policy_want_path(struct gd_policy_loader *l, const struct gd_json *file, const char *field,
                        struct gd_buf *out);

/* policy_decide.c: what makes a verdict of scores; the last after the rendering is known */
int gd_policy_read_thresholds(struct gd_policy_loader *l);
int gd_policy_read_points(struct gd_policy_loader *l);
int gd_policy_read_evidence(struct gd_policy_loader *l);

#endif
