/* policies.h - the policies that a guard judges by: one set that never changes and is replaced as a
 * whole, so that a request sees either all of the old files or all of the new ones.
 *
 * A set is counted: who takes it gives it back, the last one frees it. Any thread. */
#ifndef GUARDIAN_POLICIES_H
#define GUARDIAN_POLICIES_H

#include "guardian/policy.h"

#include <stdatomic.h>

struct gd_policies {
    _Atomic uint32_t refs;
    uint32_t n;                                /* at least 1 */
    struct gd_policy *policy[GD_POLICIES_MAX]; /* the first counts where a request names none */
};

/* paths: files, separated by commas; NULL: the built-in policy alone. point: the operating point of
 * all of them, or NULL. GD_EPOLICY with the file, the field and the reason; two policies of one name
 * are refused. */
int gd_policies_open(struct gd_policies **out, const char *paths, const char *point,
                     const struct gd_tokenizer *t, struct gd_err *err);
struct gd_policies *gd_policies_take(struct gd_policies *set); /* the same set, counted once more */
void gd_policies_close(struct gd_policies *set);               /* NULL is fine */

/* By "name" or "name@version"; NULL when there is none. */
const struct gd_policy *gd_policies_find(const struct gd_policies *set, struct gd_str name);

#endif
