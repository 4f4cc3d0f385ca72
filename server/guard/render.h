/* render.h - the body of a prompt: the line rules of guardian/prompt.h. Internal to server/guard.
 *
 * gd_render_open prepares once what every rendering of a trajectory shares; gd_render_body may then
 * run several times, each time leaving out another range of events. */
#ifndef GUARDIAN_GUARD_RENDER_H
#define GUARDIAN_GUARD_RENDER_H

#include "guardian/policy.h"
#include "guardian/trajectory.h"
#include "evidence.h"

/* Distinct pairs of neighbouring bytes of a name. */
struct gd_bigrams {
    uint16_t *at;
    uint32_t n;
};

/* The functions most similar to one, among the first `known` tools; known 0: not ranked yet. */
struct gd_similar {
    uint32_t *tool; /* [similar_tools] */
    uint32_t n, known;
};

struct gd_render {
    const struct gd_policy *policy;
    const struct gd_trajectory *traj;
    struct gd_buf *out;    /* of the rendering that runs */
    struct gd_buf scratch; /* one sanitised item */
    struct gd_arena *arena;

    /* NOTE lines, made by the first rendering */
    struct gd_notes *notes; /* NULL: the policy wants none */
    struct gd_measure *measure;
    struct gd_buf note;     /* the one in hand */
    struct gd_str *note_of; /* [n_events] */
    bool noted;

    /* catalogue, prepared once */
    struct gd_buf lines;  /* every TOOL line, with its line break */
    size_t *line_end;     /* [n_tools] offset after it */
    bool *line_elided;    /* [n_tools] */
    bool *line_repeated;  /* [n_tools] the same line stands in an earlier catalogue */
    uint32_t *tool_name;  /* [n_tools] equal names have equal numbers */
    uint32_t *event_name; /* [n_events] calls: number of the function's name */
    uint32_t n_names;
    struct gd_bigrams *bigrams; /* [n_tools] */
    struct gd_similar *similar; /* [n_names] filled when needed */

    /* state of the rendering that runs */
    bool *written;        /* [n_tools] */
    uint8_t *name_state;  /* [n_names] */
    uint32_t known;       /* tools [0, known) are known */
    size_t catalog_bytes; /* of lines written where their catalogue arrived */
    uint32_t *waiting;    /* calls that wait for their result */
    uint32_t n_waiting;
    bool answered; /* a result came while further calls wait */
    uint32_t flow; /* number of the last flow, rendering mci */
    uint32_t elided;
};

struct gd_render_cut {
    uint32_t first, n; /* events left out */
};

/* GD_ENOMEM, GD_ELIMIT. */
int gd_render_open(struct gd_render *r, const struct gd_policy *p, const struct gd_trajectory *traj,
                   struct gd_arena *a, struct gd_err *err);
void gd_render_close(struct gd_render *r);

/* Appends the body. Failures stay in out->failed. */
void gd_render_body(struct gd_render *r, struct gd_render_cut cut, struct gd_buf *out);

/* catalogue.c */
int gd_catalogue_open(struct gd_render *r, struct gd_arena *a, struct gd_err *err);
void gd_catalogue_arrives(struct gd_render *r, const struct gd_event *ev, bool show);
void gd_catalogue_before_call(struct gd_render *r, uint32_t event);

#endif
