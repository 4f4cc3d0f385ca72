/* judgement.c - a judgement as the verdict object of the API. See guardian/guard.h.
 *
 * The object always has the same members; what does not apply is null. */
#include "guardian/guard.h"

static void put_origin(const struct gd_guard *g, const struct gd_judgement *j,
                       struct gd_json_writer *w)
{
    gd_jw_put_str(w, "model", gd_guard_model_name(g));
    gd_jw_put_str(w, "model_version", gd_guard_model_version(g));
    gd_jw_put_str(w, "policy", j->policy);
}

static void put_scores(const struct gd_verdict *v, struct gd_json_writer *w)
{
    gd_jw_put_f64(w, "score", v->risk);
    gd_jw_key(w, "scores");
    gd_jw_object(w);
    for (int l = 0; l < GD_LABEL_COUNT; l++)
        gd_jw_put_f64(w, gd_label_info((enum gd_label)l)->key, v->scores[l]);
    gd_jw_object_end(w);
    gd_jw_key(w, "masked");
    gd_jw_array(w);
    for (int l = 0; l < GD_LABEL_COUNT; l++) {
        if (v->masked[l])
            gd_jw_strz(w, gd_label_info((enum gd_label)l)->key);
    }
    gd_jw_array_end(w);
}

static void put_taxonomy(enum gd_label label, struct gd_json_writer *w)
{
    const struct gd_label_info *info = gd_label_info(label);
    gd_jw_key(w, "taxonomy");
    if (!info->phase) {
        gd_jw_null(w);
        return;
    }
    gd_jw_object(w);
    gd_jw_put_str(w, "phase", info->phase);
    gd_jw_put_str(w, "source", info->source);
    gd_jw_put_str(w, "scope", info->scope);
    gd_jw_put_str(w, "type", info->type);
    gd_jw_put_str(w, "maestro", info->maestro);
    gd_jw_object_end(w);
}

void gd_judgement_write_context(const struct gd_judgement *j, struct gd_json_writer *w)
{
    gd_jw_object(w);
    gd_jw_put_i64(w, "events", j->events);
    gd_jw_put_i64(w, "tokens", j->tokens);
    gd_jw_put_i64(w, "cached_tokens", j->cached_tokens);
    gd_jw_put_i64(w, "elided", j->elided);
    gd_jw_put_bool(w, "truncated", j->truncated);
    gd_jw_put_i64(w, "omitted", j->n_omitted);
    gd_jw_put_bool(w, "duplicate_keys", (j->flags & GD_TRAJ_F_DUPKEY) != 0);
    gd_jw_object_end(w);
}

static void put_timing(const struct gd_judgement *j, struct gd_json_writer *w)
{
    gd_jw_key(w, "timing_ms");
    gd_jw_object(w);
    gd_jw_put_f64(w, "queue", j->queue_ms);
    gd_jw_put_f64(w, "tokenize", j->tokenize_ms);
    gd_jw_put_f64(w, "prefill", j->prefill_ms);
    gd_jw_put_f64(w, "total", j->total_ms);
    gd_jw_object_end(w);
}

void gd_judgement_write(const struct gd_guard *g, const struct gd_judgement *j,
                        struct gd_json_writer *w)
{
    const struct gd_verdict *v = &j->verdict;
    const char choice[2] = {v->choice, '\0'};
    gd_jw_object(w);
    gd_jw_put_str(w, "id", j->id);
    gd_jw_put_str(w, "object", "guard.verdict");
    gd_jw_put_i64(w, "created", j->created);
    put_origin(g, j, w);
    gd_jw_put_str(w, "phase", gd_phase_name(j->phase));
    gd_jw_put_str(w, "status", v->action == GD_ACTION_ERROR ? "error" : "ok");
    gd_jw_put_str(w, "action", gd_action_name(v->action));
    gd_jw_put_bool(w, "flagged", v->flagged);
    gd_jw_put_str(w, "label", gd_label_info(v->label)->key);
    gd_jw_put_str(w, "choice", v->choice ? choice : NULL);
    put_scores(v, w);
    gd_jw_key(w, "step");
    if (j->step >= 0)
        gd_jw_i64(w, j->step);
    else
        gd_jw_null(w);
    gd_jw_put_f64(w, "threshold", v->threshold);
    put_taxonomy(v->label, w);
    gd_jw_put_str(w, "reason", v->reason);
    gd_jw_put_str(w, "rationale", NULL);
    gd_jw_put_str(w, "mode", "enforce");
    gd_jw_key(w, "session");
    if (j->session.ptr)
        gd_jw_str(w, j->session);
    else
        gd_jw_null(w);
    gd_jw_put_str(w, "intent", j->has_user ? "present" : "absent");
    gd_jw_key(w, "context");
    gd_judgement_write_context(j, w);
    put_timing(j, w);
    gd_jw_object_end(w);
}
