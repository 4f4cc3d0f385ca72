/* policies.c - a counted set of policies. See guardian/policies.h. */
#include "guardian/policies.h"

#include <string.h>

static int add(struct gd_policies *set, const char *path, const char *point,
               const struct gd_tokenizer *t, struct gd_err *err)
{
    if (set->n == GD_POLICIES_MAX)
        return gd_err_set(err, GD_EPOLICY, "more than %d policies are named in --policy",
                          GD_POLICIES_MAX);
    struct gd_policy *p = NULL;
    int rc = gd_policy_open(&p, path, t, err);
    if (rc == GD_OK && point)
        rc = gd_policy_operate(p, point, err);
    if (rc == GD_OK && gd_policies_find(set, p->name))
        rc = gd_err_set(err, GD_EPOLICY, "%s: there is another policy named %.*s",
                        path ? path : "built-in", (int)p->name.len, p->name.ptr);
    if (rc != GD_OK) {
        gd_policy_close(p);
        return rc;
    }
    set->policy[set->n++] = p;
    return GD_OK;
}

static int add_all(struct gd_policies *set, const char *paths, const char *point,
                   const struct gd_tokenizer *t, struct gd_err *err)
{
    if (!paths)
        return add(set, NULL, point, t, err);
    int rc = GD_OK;
    for (const char *at = paths; rc == GD_OK; at++) {
        const size_t len = strcspn(at, ",");
        char *path = strndup(at, len);
        if (!path)
            return gd_err_set(err, GD_ENOMEM, "%s", gd_status_message(GD_ENOMEM));
        rc = len > 0 ? add(set, path, point, t, err)
                     : gd_err_set(err, GD_EPOLICY, "a policy file has no name in '%s'", paths);
        free(path);
        at += len;
        if (*at == '\0')
            break;
    }
    return rc;
}

int gd_policies_open(struct gd_policies **out, const char *paths, const char *point,
                     const struct gd_tokenizer *t, struct gd_err *err)
{
    struct gd_policies *set = calloc(1, sizeof *set);
    *out = NULL;
    if (!set)
        return gd_err_set(err, GD_ENOMEM, "%s", gd_status_message(GD_ENOMEM));
    atomic_store(&set->refs, 1);
    const int rc = add_all(set, paths, point, t, err);
    if (rc != GD_OK) {
        gd_policies_close(set);
        return rc;
    }
    *out = set;
    return GD_OK;
}

struct gd_policies *gd_policies_take(struct gd_policies *set)
{
    atomic_fetch_add(&set->refs, 1);
    return set;
}

void gd_policies_close(struct gd_policies *set)
{
    if (!set || atomic_fetch_sub(&set->refs, 1) != 1)
        return;
    for (uint32_t i = 0; i < set->n; i++)
        gd_policy_close(set->policy[i]);
    free(set);
}

static bool is_named(const struct gd_policy *p, struct gd_str name)
{
    char full[GD_POLICY_ID_BYTES];
    if (gd_str_eq(name, p->name))
        return true;
    (void)snprintf(full, sizeof full, "%.*s@%lld", (int)p->name.len, p->name.ptr,
                   (long long)p->version);
    return gd_str_eqz(name, full);
}

const struct gd_policy *gd_policies_find(const struct gd_policies *set, struct gd_str name)
{
    for (uint32_t i = 0; i < set->n; i++) {
        if (is_named(set->policy[i], name))
            return set->policy[i];
    }
    return NULL;
}
