/* verdict.c - logits become an action. See guardian/verdict.h.
 *
 * The result starts as all zero, which is GD_ACTION_ERROR, and is written whole at the end: no path
 * leaves a half-made verdict. Allow is the one outcome that must be earned: finite scores, at least
 * one risk that could be judged, a risk below the threshold, and a context that was seen whole and
 * reads one way only. */
#include "guardian/verdict.h"

#include <math.h>
#include <string.h>

const char *gd_action_name(enum gd_action a)
{
    switch (a) {
    case GD_ACTION_BLOCK:
        return "block";
    case GD_ACTION_REVIEW:
        return "review";
    case GD_ACTION_ALLOW:
        return "allow";
    case GD_ACTION_ERROR:
        break;
    }
    return "error";
}

static bool is_masked(const struct gd_trajectory *traj, enum gd_label l)
{
    const struct gd_label_info *info = gd_label_info(l);
    return (info->needs_response && traj->phase == GD_PHASE_REQUEST) ||
           (info->needs_intent && !traj->has_user);
}

/* Softmax over the unmasked choices into v->scores. */
static int score(const struct gd_policy *p, const float *logits, const float *evidence,
                 struct gd_verdict *v)
{
    double p_of[GD_POLICY_CHOICES_MAX] = {0};
    double pooled[GD_POLICY_CHOICES_MAX];
    double max = -INFINITY;
    double sum = 0;
    if (p->forest && !evidence)
        return GD_EINTERNAL;
    for (uint32_t i = 0; i < p->n_choices; i++) {
        pooled[i] = (double)logits[i];
        if (p->forest)
            pooled[i] = p->model_weight * pooled[i] +
                        p->evidence_weight * (double)evidence[p->choices[i].label];
        if (!isfinite(logits[i]) || !isfinite(pooled[i]))
            return GD_ENUMERIC;
        if (!v->masked[p->choices[i].label] && pooled[i] > max)
            max = pooled[i];
    }
    for (uint32_t i = 0; i < p->n_choices; i++) {
        if (!v->masked[p->choices[i].label])
            p_of[i] = exp(pooled[i] - max);
        sum += p_of[i];
    }
    if (!(sum >= 1)) /* the largest gives 1: all are masked, or a number is none */
        return GD_ENUMERIC;
    for (uint32_t i = 0; i < p->n_choices; i++)
        v->scores[p->choices[i].label] = p_of[i] / sum;
    return GD_OK;
}

/* The most probable unmasked choice, of risks only or of all; NULL when there is none. Equal: the
 * first. */
static const struct gd_policy_choice *most_probable(const struct gd_policy *p,
                                                    const struct gd_verdict *v, bool risks_only)
{
    const struct gd_policy_choice *best = NULL;
    for (uint32_t i = 0; i < p->n_choices; i++) {
        const struct gd_policy_choice *c = &p->choices[i];
        if (v->masked[c->label] || (risks_only && c->label == GD_LABEL_APPROPRIATE))
            continue;
        if (!best || v->scores[c->label] > v->scores[best->label])
            best = c;
    }
    return best;
}

struct doubts {
    bool truncated; /* events were left out */
    bool ambiguous; /* parsers may read a payload differently */
    bool twofold;   /* somebody may have read something else in it */
    bool unjudged;  /* every risk of the policy is masked */
};

static void write_reason(const struct gd_trajectory *traj, struct doubts d, struct gd_verdict *v)
{
    const struct gd_label_info *info = gd_label_info(v->label);
    char step[32] = "";
    if (traj->step >= 0)
        (void)snprintf(step, sizeof step, "step %d, ", (int)traj->step);
    (void)snprintf(v->reason, sizeof v->reason, "%s: %s (%srisk %.2f)%s%s%s%s", info->name,
                   info->meaning, step, v->risk,
                   d.truncated ? "; events were left out, the context is full" : "",
                   d.ambiguous ? "; a payload has duplicate keys or invalid text" : "",
                   d.twofold ? "; a part of it may be read in two ways" : "",
                   d.unjudged ? "; no risk of the policy can be judged here" : "");
}

int gd_verdict_make(const struct gd_policy *p, const struct gd_trajectory *traj, bool truncated,
                    const float *logits, const float *evidence, struct gd_verdict *out)
{
    struct gd_verdict v;
    memset(&v, 0, sizeof v);
    memset(out, 0, sizeof *out);
    for (int l = 0; l < GD_LABEL_COUNT; l++)
        v.masked[l] = is_masked(traj, (enum gd_label)l);
    const int rc = score(p, logits, evidence, &v);
    if (rc != GD_OK)
        return rc;
    const struct gd_policy_choice *risk = most_probable(p, &v, true);
    const struct doubts d = {.truncated = truncated,
                             .ambiguous =
                                 (traj->flags & (GD_TRAJ_F_DUPKEY | GD_TRAJ_F_BADUTF8)) != 0,
                             .twofold = (traj->flags & GD_TRAJ_F_DOUBT) != 0,
                             .unjudged = risk == NULL};
    v.risk = 1 - v.scores[GD_LABEL_APPROPRIATE];
    if (!isfinite(v.risk))  /* GCOVR_EXCL_BR_LINE: scores are finite; were they not, no verdict */
        return GD_ENUMERIC; /* GCOVR_EXCL_LINE */
    v.threshold = p->flag_threshold;
    v.flagged = v.risk >= p->flag_threshold && risk;
    v.choice = most_probable(p, &v, false)->letter;
    v.label = v.flagged ? risk->label : GD_LABEL_APPROPRIATE;
    write_reason(traj, d, &v);
    if (v.flagged)
        v.action = v.risk >= p->block_threshold ? GD_ACTION_BLOCK : GD_ACTION_REVIEW;
    else if (d.truncated || d.ambiguous || d.twofold || d.unjudged)
        v.action = GD_ACTION_REVIEW;
    else if (v.risk < p->flag_threshold) /* GCOVR_EXCL_BR_LINE: else it is flagged or unjudged */
        v.action = GD_ACTION_ALLOW;
    *out = v;
    return GD_OK;
}
