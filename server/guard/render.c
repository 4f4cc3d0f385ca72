/* render.c - events become lines, in the rendering "dialogue" or "mci". See render.h and
 * guardian/prompt.h.
 *
 * One walk over the events keeps what the rules need to know (which calls wait, which tools were
 * shown); events that are left out take part in it without writing. The two renderings differ in
 * what opens and closes a line. */
#include "render.h"
#include "text.h"

#include <string.h>

int gd_render_open(struct gd_render *r, const struct gd_policy *p, const struct gd_trajectory *traj,
                   struct gd_arena *a, struct gd_err *err)
{
    *r = (struct gd_render){.policy = p, .traj = traj};
    gd_buf_init(&r->scratch, GD_PROMPT_BYTES_MAX);
    gd_buf_init(&r->lines, GD_PROMPT_BYTES_MAX);
    r->waiting = gd_arena_calloc(a, traj->n_events, sizeof *r->waiting);
    gd_buf_init(&r->note, GD_PROMPT_BYTES_MAX);
    r->arena = a;
    if (p->budget.notes) {
        r->notes = gd_notes_open(a, traj);
        r->measure = r->notes ? gd_evidence_open(r->notes) : NULL;
        r->note_of = gd_arena_calloc(a, traj->n_events, sizeof *r->note_of);
    }
    if (!r->waiting || (p->budget.notes && (!r->measure || !r->note_of)))
        return gd_err_set(err, GD_ENOMEM, "not enough memory to render the trajectory");
    return gd_catalogue_open(r, a, err);
}

void gd_render_close(struct gd_render *r)
{
    gd_buf_free(&r->scratch);
    gd_buf_free(&r->lines);
    gd_buf_free(&r->note);
    gd_evidence_close(r->measure);
    gd_notes_close(r->notes);
}

/* Keeps the note in hand as that of an event: it is the same in every rendering. */
static void keep_note(struct gd_render *r, uint32_t index)
{
    const struct gd_str note = {r->note.data, r->note.len};
    if (r->note.failed == 0 && gd_str_dup(r->arena, note, &r->note_of[index]) != GD_OK)
        r->note.failed = GD_ENOMEM;
    r->note.len = 0;
}

static void put_note(struct gd_render *r, uint32_t index)
{
    const struct gd_str note = r->note_of[index];
    if (note.len == 0)
        return;
    gd_buf_z(r->out, "NOTE: ");
    r->elided += gd_text_elide(r->out, note, r->policy->budget.item_bytes);
    gd_buf_add(r->out, "\n", 1);
}

/* E of what the scratch buffer holds. */
static void put_scratch(struct gd_render *r)
{
    r->elided += gd_text_elide(r->out, (struct gd_str){r->scratch.data, r->scratch.len},
                               r->policy->budget.item_bytes);
}

static void put_item(struct gd_render *r, struct gd_str text)
{
    r->scratch.len = 0;
    gd_text_sanitise(&r->scratch, text);
    put_scratch(r);
}

/* Text of the assistant, which must not look like a call of its. */
static void put_answer(struct gd_render *r, struct gd_str text)
{
    static const char call[] = "<functioncall>", escape[] = "\\u003c";
    const size_t room = sizeof escape - 1;
    r->scratch.len = 0;
    gd_buf_z(&r->scratch, escape);
    gd_text_sanitise(&r->scratch, text);
    struct gd_str s = {r->scratch.data, r->scratch.len};
    if (r->scratch.failed) {
        s.len = 0;
    } else if (s.len >= room + sizeof call - 1 &&
               memcmp(s.ptr + room, call, sizeof call - 1) == 0) {
        memmove(r->scratch.data + room, s.ptr + room + 1,
                s.len - room - 1); /* the escape is its < */
        s.len--;
    } else {
        s.ptr += room;
        s.len -= room;
    }
    r->elided += gd_text_elide(r->out, s, r->policy->budget.item_bytes);
}

static bool is_mci(const struct gd_render *r)
{
    return r->policy->rendering == GD_RENDER_MCI;
}

static void put_function(struct gd_render *r, const struct gd_event *ev)
{
    r->scratch.len = 0;
    if (ev->server.len > 0) {
        gd_text_name(&r->scratch, ev->server);
        gd_buf_add(&r->scratch, "/", 1);
    }
    gd_text_name(&r->scratch, ev->name.len > 0 ? ev->name : GD_STR("server"));
    put_scratch(r);
}

/* A party of a flow: as given, else by the kind of event; `function` says that it is the event's
 * function. */
static void put_party(struct gd_render *r, const struct gd_event *ev, struct gd_str given,
                      const char *otherwise)
{
    if (given.len > 0)
        put_item(r, given);
    else if (otherwise)
        gd_buf_z(r->out, otherwise);
    else
        put_function(r, ev);
}

/* Opens the flow of an event, up to its type. no_answer: the flow of the answer that a call did not
 * get. */
static void open_flow(struct gd_render *r, const struct gd_event *ev, bool no_answer)
{
    static const struct {
        const char *from, *to;
    } parties[] = {
        [GD_EVENT_SYSTEM] = {"system", "client"},  [GD_EVENT_USER] = {"user", "client"},
        [GD_EVENT_ASSISTANT] = {"client", "user"}, [GD_EVENT_CALL] = {"client", NULL},
        [GD_EVENT_RESULT] = {NULL, "client"},
    };
    const enum gd_event_kind kind = no_answer ? GD_EVENT_RESULT : ev->kind;
    gd_buf_fmt(r->out, "%u. ", (unsigned)++r->flow);
    put_party(r, ev, no_answer ? ev->recipient : ev->sender, parties[kind].from);
    gd_buf_z(r->out, " -> ");
    put_party(r, ev, no_answer ? ev->sender : ev->recipient, parties[kind].to);
    gd_buf_z(r->out, "\n   Type: ");
}

static void close_flow(struct gd_render *r, struct gd_str principle)
{
    gd_buf_z(r->out, "\n   Principle: ");
    if (principle.len > 0)
        put_item(r, principle);
    else
        gd_buf_z(r->out, "not stated");
    gd_buf_add(r->out, "\n", 1);
}

/* The scratch buffer becomes what a call's arguments are written as. */
static void write_arguments(struct gd_render *r, const struct gd_event *ev)
{
    r->scratch.len = 0;
    if (ev->payload)
        gd_text_json(&r->scratch, ev->payload);
    else
        gd_text_sanitise(&r->scratch, ev->text);
    if (r->scratch.len == 0)
        gd_buf_z(&r->scratch, "{}");
}

/* The object of a call: {"server": S, "name": N, "arguments": A}. */
static void put_call(struct gd_render *r, const struct gd_event *ev)
{
    gd_buf_add(r->out, "{", 1);
    if (ev->server.len > 0) {
        gd_buf_z(r->out, "\"server\": ");
        gd_text_json_name(r->out, ev->server);
        gd_buf_z(r->out, ", ");
    }
    gd_buf_z(r->out, "\"name\": ");
    gd_text_json_name(r->out, ev->name);
    gd_buf_z(r->out, ", \"arguments\": ");
    write_arguments(r, ev);
    put_scratch(r);
    gd_buf_add(r->out, "}", 1);
}

/* The scratch buffer becomes what a result is written as; empty when there is none. */
static void write_result(struct gd_render *r, const struct gd_event *ev)
{
    r->scratch.len = 0;
    if (ev->payload)
        gd_text_json(&r->scratch, ev->payload);
    else
        gd_text_sanitise(&r->scratch, ev->text);
}

static void put_result(struct gd_render *r, const struct gd_event *ev)
{
    write_result(r, ev);
    if (r->scratch.len == 0)
        gd_buf_z(&r->scratch, "NO RESPONSE");
    else if (ev->is_error)
        gd_buf_z(r->out, "ERROR: ");
    put_scratch(r);
}

static void open_response(struct gd_render *r, struct gd_str name, bool several)
{
    gd_buf_z(r->out, "FUNCTION RESPONSE");
    if (several) {
        gd_buf_z(r->out, " [");
        gd_text_name(r->out, name);
        gd_buf_z(r->out, "]");
    }
    gd_buf_z(r->out, ": ");
}

/* One line, or one flow, for each call that waits; then none waits. */
static void give_up(struct gd_render *r, bool show)
{
    const bool several = r->n_waiting > 1;
    for (uint32_t i = 0; i < r->n_waiting && show; i++) {
        const struct gd_event *call = &r->traj->events[r->waiting[i]];
        if (is_mci(r)) {
            open_flow(r, call, true);
            gd_buf_z(r->out, "function return NO RESPONSE");
            close_flow(r, (struct gd_str){"", 0});
        } else {
            open_response(r, call->name, several);
            gd_buf_z(r->out, "NO RESPONSE\n");
        }
    }
    for (uint32_t i = 0; i < r->n_waiting && r->notes && !r->noted; i++)
        gd_notes_lost(r->notes, r->waiting[i]);
    r->n_waiting = 0;
    r->answered = false;
}

/* The notes of a text: the user's and the system's are remembered, the assistant's gets a line. */
static void note_text(struct gd_render *r, const struct gd_event *ev, uint32_t index, bool show)
{
    if (!r->notes)
        return;
    if (!r->noted && ev->kind != GD_EVENT_ASSISTANT) {
        gd_notes_text(r->notes, index);
        gd_evidence_text(r->measure, index);
    } else if (!r->noted) {
        gd_notes_answer(r->notes, index, &r->note);
        gd_evidence_answer(r->measure, index);
        keep_note(r, index);
    }
    if (show)
        put_note(r, index);
}

static void note_call(struct gd_render *r, const struct gd_event *ev, uint32_t index, bool show)
{
    if (!r->notes)
        return;
    if (!r->noted) {
        write_arguments(r, ev);
        gd_notes_call(r->notes, index, (struct gd_str){r->scratch.data, r->scratch.len}, &r->note);
        gd_evidence_call(r->measure);
        keep_note(r, index);
    }
    if (show)
        put_note(r, index);
}

/* waited: its call did. */
static void note_result(struct gd_render *r, const struct gd_event *ev, uint32_t index, bool waited)
{
    if (!r->notes || r->noted)
        return;
    write_result(r, ev);
    const struct gd_str shown = {r->scratch.data, r->scratch.len};
    const int64_t call = waited ? ev->call : -1;
    gd_notes_result(r->notes, index, call, shown, shown.len == 0 || ev->is_error);
    gd_evidence_result(r->measure, index, call, shown);
}

static void on_text(struct gd_render *r, const struct gd_event *ev, uint32_t index, bool show)
{
    const char *marker = ev->kind == GD_EVENT_SYSTEM ? "SYSTEM: "
                         : ev->kind == GD_EVENT_USER ? "USER: "
                                                     : "ASSISTANT: ";
    if (gd_text_blank(ev->text))
        return;
    if (ev->kind != GD_EVENT_SYSTEM)
        give_up(r, show);
    if (show) {
        if (is_mci(r))
            open_flow(r, ev, false);
        else
            gd_buf_z(r->out, marker);
        if (ev->kind == GD_EVENT_ASSISTANT && !is_mci(r))
            put_answer(r, ev->text);
        else
            put_item(r, ev->text);
        if (is_mci(r))
            close_flow(r, ev->principle);
        else
            gd_buf_add(r->out, "\n", 1);
    }
    note_text(r, ev, index, show);
}

static void on_call(struct gd_render *r, const struct gd_event *ev, uint32_t index, bool show)
{
    if (r->answered)
        give_up(r, show);
    r->waiting[r->n_waiting++] = index;
    if (show)
        gd_catalogue_before_call(r, index);
    if (!is_mci(r)) {
        if (show) {
            gd_buf_z(r->out, "ASSISTANT: <functioncall> ");
            put_call(r, ev);
            gd_buf_add(r->out, "\n", 1);
        }
        note_call(r, ev, index, show);
        return;
    }
    if (!show)
        return;
    open_flow(r, ev, false);
    if (ev->type.len > 0) {
        put_item(r, ev->type);
    } else {
        gd_buf_z(r->out, "function request ");
        put_call(r, ev);
    }
    close_flow(r, ev->principle);
}

static void on_result(struct gd_render *r, const struct gd_event *ev, uint32_t index, bool show)
{
    const bool several = r->n_waiting > 1 && ev->name.len > 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->n_waiting; i++) {
        if ((int64_t)r->waiting[i] != ev->call)
            r->waiting[kept++] = r->waiting[i];
    }
    note_result(r, ev, index, kept < r->n_waiting);
    r->answered = kept > 0;
    r->n_waiting = kept;
    if (!show)
        return;
    if (!is_mci(r)) {
        open_response(r, ev->name, several);
        put_result(r, ev);
        gd_buf_add(r->out, "\n", 1);
        return;
    }
    open_flow(r, ev, false);
    if (ev->type.len > 0) {
        put_item(r, ev->type);
    } else {
        gd_buf_z(r->out, "function return ");
        put_result(r, ev);
    }
    close_flow(r, ev->principle);
}

static void on_event(struct gd_render *r, uint32_t index, bool show)
{
    const struct gd_event *ev = &r->traj->events[index];
    switch (ev->kind) {
    case GD_EVENT_SYSTEM:
    case GD_EVENT_USER:
    case GD_EVENT_ASSISTANT:
        on_text(r, ev, index, show);
        break;
    case GD_EVENT_CALL:
        on_call(r, ev, index, show);
        break;
    case GD_EVENT_RESULT:
        on_result(r, ev, index, show);
        break;
    case GD_EVENT_CATALOG:
        gd_catalogue_arrives(r, ev, show);
        if (r->notes && !r->noted)
            gd_notes_tools(r->notes, ev);
        break;
    }
}

void gd_render_body(struct gd_render *r, struct gd_render_cut cut, struct gd_buf *out)
{
    r->out = out;
    r->known = 0;
    r->catalog_bytes = 0;
    r->n_waiting = 0;
    r->answered = false;
    r->flow = 0;
    r->elided = 0;
    memset(r->written, 0, r->traj->n_tools * sizeof *r->written);
    memset(r->name_state, 0, r->n_names * sizeof *r->name_state);
    for (uint32_t i = 0; i < r->traj->n_events && !out->failed; i++) {
        if (cut.n > 0 && i == cut.first)
            gd_buf_fmt(out, "[%u events omitted]\n", (unsigned)cut.n);
        on_event(r, i, i < cut.first || i - cut.first >= cut.n);
    }
    r->noted = true;
    if (!out->failed && r->scratch.failed)
        out->failed = r->scratch.failed;
    if (!out->failed && r->note.failed)
        out->failed = r->note.failed;
}
