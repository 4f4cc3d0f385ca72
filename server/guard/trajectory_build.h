/* trajectory_build.h - what the three input forms share while a trajectory is built. Internal to
 * server/guard.
 *
 * Functions return GD_OK or an error with b->err filled. `path` names the place in the request
 * ("messages[3].tool_calls[0]"). */
#ifndef GUARDIAN_TRAJECTORY_BUILD_H
#define GUARDIAN_TRAJECTORY_BUILD_H

#include "guardian/trajectory.h"

#define GD_PATH_MAX 96

struct gd_traj_builder {
    struct gd_arena *arena;
    struct gd_err *err;
    struct gd_trajectory *out;
    uint32_t events_cap, tools_cap;
    uint32_t nodes_left;  /* values that results and other strings read as JSON may still hold */
    uint32_t args_left;   /* the same of arguments */
    struct gd_str server; /* the request's server, may be empty */
    uint32_t *open;       /* calls without result: event indices, oldest first */
    uint32_t n_open, open_cap;
};

/* Grows an arena array of *cap elements so that index n exists. */
int gd_tb_grow(struct gd_traj_builder *b, void **array, uint32_t *cap, uint32_t n, size_t size);

/* A new zeroed event at the end; the pointer holds until the next push. GD_ELIMIT over
 * GD_EVENTS_MAX. */
int gd_tb_event(struct gd_traj_builder *b, enum gd_event_kind kind, struct gd_event **out);

/* A system, user or assistant text; blank text makes no event. */
int gd_tb_text(struct gd_traj_builder *b, enum gd_event_kind kind, struct gd_str text);

/* Marks the last event, a call, as waiting for its result; and an event as answered. */
int gd_tb_open(struct gd_traj_builder *b);
void gd_tb_answered(struct gd_traj_builder *b, uint32_t event);

/* Refuses an object of the envelope that has a key twice. */
int gd_tb_envelope(struct gd_traj_builder *b, const struct gd_json *obj, const char *path);

/* Notes the flags of a payload. v may be NULL. */
void gd_tb_payload(struct gd_traj_builder *b, const struct gd_json *v);

/* Rule V: *out is the value when text is a JSON object or array, else NULL. Notes its flags. */
int gd_tb_value(struct gd_traj_builder *b, struct gd_str text, const struct gd_json **out);

/* Copies a buffer's text into the arena; GD_ENOMEM also when the buffer failed. Frees the buffer.
 */
int gd_tb_take(struct gd_traj_builder *b, struct gd_buf *buf, struct gd_str *out);

/* Arguments as string (rule V), object or nothing. */
int gd_tb_arguments(struct gd_traj_builder *b, const struct gd_json *args, const char *path,
                    struct gd_event *call);

/* A catalogue event of an array of tool definitions; an empty array makes no event. listed: as a
 * server lists them (tools/list), and no other form. */
int gd_tb_catalogue(struct gd_traj_builder *b, const struct gd_json *tools, const char *path,
                    bool listed);

/* trajectory_content.c: content of a message (string, null or parts), and of a tool result. */
int gd_tb_content(struct gd_traj_builder *b, const struct gd_json *content, const char *path,
                  struct gd_str *out);
int gd_tb_tool_result(struct gd_traj_builder *b, const struct gd_json *result, const char *path,
                      struct gd_event *ev);
int gd_tb_rpc_error(struct gd_traj_builder *b, const struct gd_json *error, const char *path,
                    struct gd_event *ev);

/* One {role, ...} object. */
int gd_tb_message(struct gd_traj_builder *b, const struct gd_json *msg, const char *path);

/* The three forms. */
int gd_tb_messages(struct gd_traj_builder *b, const struct gd_json *messages);
int gd_tb_frames(struct gd_traj_builder *b, const struct gd_json *frames);
int gd_tb_mci(struct gd_traj_builder *b, const struct gd_json *flows);

#endif
