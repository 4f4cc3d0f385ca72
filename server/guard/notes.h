/* notes.h - what comparing texts alone tells about a call or an answer: the NOTE lines of
 * guardian/prompt.h. Internal to server/guard. One rendering at a time, one thread. */
#ifndef GUARDIAN_GUARD_NOTES_H
#define GUARDIAN_GUARD_NOTES_H

#include "guardian/trajectory.h"

struct gd_notes;

/* Nothing has happened yet. In the arena, but for its buffers; NULL when there is no memory. */
struct gd_notes *gd_notes_open(struct gd_arena *a, const struct gd_trajectory *t);
void gd_notes_close(struct gd_notes *n); /* NULL is allowed */

/* What happens, in order. tools: those of a catalogue event. text: of the system or the user. */
void gd_notes_tools(struct gd_notes *n, const struct gd_event *ev);
void gd_notes_text(struct gd_notes *n, const struct gd_event *ev);

/* The result of the call at event `call` (-1: of no waiting call), as it is written. */
void gd_notes_result(struct gd_notes *n, int64_t call, struct gd_str shown, bool failed);

/* The call at that event will get no answer. */
void gd_notes_lost(struct gd_notes *n, uint32_t call);

/* Append the note of a call, whose arguments are written as `shown`, or of an answer. GD_ENOMEM
 * stays in out->failed. */
void gd_notes_call(struct gd_notes *n, uint32_t event, struct gd_str shown, struct gd_buf *out);
void gd_notes_answer(struct gd_notes *n, const struct gd_event *ev, struct gd_buf *out);

#endif
