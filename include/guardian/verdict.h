/* verdict.h - the one place where scores become an action. The zero value is an error, never an
 * allow.
 *
 *   p       = softmax over the choices that are not masked of model_weight * logit and, of a policy with
 *             evidence, + evidence_weight * the forest's score of the label (a logarithmic opinion
 *             pool: Genest and Zidek 1986)
 *   risk    = 1 - p(appropriate)
 *   flagged = risk >= flag threshold
 *   choice  = the most probable letter
 *   label   = the most probable risk when flagged, else appropriate
 *   action  = block when risk >= block threshold, review when flagged, else allow; review at least
 *             for a truncated context, for a payload that parsers may read differently (duplicate
 *             keys, invalid UTF-8; a lone surrogate alone is not: clients that cut text at UTF-16
 *             units send them every day), and for a policy all of whose risks are masked
 *
 * Masked: labels that need a response in the request phase, labels that need the user's intent
 * without user text. */
#ifndef GUARDIAN_VERDICT_H
#define GUARDIAN_VERDICT_H

#include "guardian/policy.h"
#include "guardian/trajectory.h"

enum gd_action { GD_ACTION_ERROR = 0, GD_ACTION_BLOCK, GD_ACTION_REVIEW, GD_ACTION_ALLOW };

struct gd_verdict {
    enum gd_action action;
    bool flagged;
    enum gd_label label;
    char choice;
    double risk;
    double scores[GD_LABEL_COUNT]; /* by label; 0 where masked or not offered by the policy */
    bool masked[GD_LABEL_COUNT];
    double threshold;
    char reason[256];
};

const char *gd_action_name(enum gd_action a);

/* logits[p->n_choices] in the policy's order; evidence[GD_LABEL_COUNT], NULL for a policy without.
 * GD_ENUMERIC when one of them or a result is not finite, GD_EINTERNAL when the evidence of a policy that
 * has some is missing; *out is then all zero, that is an error. */
int gd_verdict_make(const struct gd_policy *p, const struct gd_trajectory *traj, bool truncated,
                    const float *logits, const float *evidence, struct gd_verdict *out);

#endif
