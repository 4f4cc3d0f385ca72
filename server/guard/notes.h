/* notes.h - what comparing texts alone tells about the calls, results and answers of a trajectory: the
 * NOTE lines of guardian/prompt.h, and findings for the evidence (evidence.h). Internal to server/guard.
 * One rendering at a time, one thread. */
#ifndef GUARDIAN_GUARD_NOTES_H
#define GUARDIAN_GUARD_NOTES_H

#include "guardian/trajectory.h"
#include "words.h"

enum gd_origin { GD_FROM_USER, GD_FROM_RESULT, GD_FROM_PARTLY, GD_FROM_NEW, GD_ORIGINS };
enum gd_answered { GD_ANSWERED_NOT, GD_ANSWERED, GD_ANSWERED_FAILURE };

/* The keys of a known function; name and about have none twice. */
struct gd_noted_tool {
    uint32_t tool; /* of the trajectory */
    uint32_t *name, *about;
    uint32_t n_name, n_about;
    uint32_t fit; /* to the last two user texts */
};

/* A call, as it was when it was made; but `state` changes. */
struct gd_noted_call {
    uint32_t event;
    uint8_t digest[32]; /* of server, name and arguments */
    enum gd_answered state;
    bool lost;                /* given up */
    bool looked;              /* its values were looked up */
    uint8_t from[GD_ORIGINS]; /* arguments by origin */
    uint32_t result;          /* event of its result, or UINT32_MAX */
    int32_t twin;             /* number of the latest call before that is the same, or -1 */
    uint8_t again;            /* 0: no twin; 1 + its state then */
    bool spoke_since;         /* the user, since that one */
    uint32_t same_name;       /* calls of this name before, of the last GD_NOTE_CALLS_MAX */
    uint32_t turn;            /* user texts before it */
    uint32_t asked, n_name;   /* keys of its name in the last two user texts, and in all */
    int32_t tool;             /* number of its function among those known, or -1 */
    uint32_t fit, best_fit;   /* of its function, and the best of all; 0 without a known one */
    uint32_t better;          /* functions that fit better */
};

struct gd_notes {
    const struct gd_trajectory *traj;
    struct gd_arena *arena;
    struct gd_words words;
    struct gd_history *said, *found; /* by system and user; by results */
    struct gd_noted_call *calls;     /* [events] */
    uint32_t *call_at;               /* [events] number of the call of an event */
    struct gd_noted_tool tools[GD_NOTE_TOOLS_MAX];
    uint32_t n_calls, n_tools, turns, since;
    uint32_t looked_up;                            /* values */
    uint32_t turn[2][GD_TEXT_KEYS_MAX], n_turn[2]; /* keys of the last two user texts, in turn */
    struct gd_keyset asked;                        /* both */
    bool fits;                                     /* asked and tools[].fit are up to date */
    uint32_t answer_numbers, answer_fresh; /* of the last answer: numbers, new ones */
    uint32_t answer_calls;                 /* calls before it, since the user's text */
};

/* Nothing has happened yet. In the arena, but for its buffers; NULL when there is no memory. */
struct gd_notes *gd_notes_open(struct gd_arena *a, const struct gd_trajectory *t);
void gd_notes_close(struct gd_notes *n); /* NULL is allowed */

/* GD_OK, or why a note or a finding may be another than it should be. */
int gd_notes_failed(const struct gd_notes *n);

/* What happens, in order. tools: those of a catalogue event. text: of the system or the user. */
void gd_notes_tools(struct gd_notes *n, const struct gd_event *ev);
void gd_notes_text(struct gd_notes *n, uint32_t event);

/* The result at that event of the call at event `call` (-1: of no waiting call), as it is written. */
void gd_notes_result(struct gd_notes *n, uint32_t event, int64_t call, struct gd_str shown,
                     bool failed);

/* asked and tools[].fit become up to date. */
void gd_notes_fits(struct gd_notes *n);

/* The call at that event will get no answer. */
void gd_notes_lost(struct gd_notes *n, uint32_t call);

/* Append the note of a call, whose arguments are written as `shown`, or of an answer. GD_ENOMEM
 * stays in out->failed. */
void gd_notes_call(struct gd_notes *n, uint32_t event, struct gd_str shown, struct gd_buf *out);
void gd_notes_answer(struct gd_notes *n, uint32_t event, struct gd_buf *out);

#endif
