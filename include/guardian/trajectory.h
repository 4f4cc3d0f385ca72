/* trajectory.h - what happened, as one ordered list of events, whatever form it arrived in.
 *
 * Reads of the request: exactly one of messages, frames, mci; tools, server, phase. Other members
 * are not looked at.
 *
 * Three input forms lead here: `messages` (OpenAI chat form with tool_calls and tool results,
 * optional `tools`), `frames` (raw MCP JSON-RPC objects of both protocol eras, freely mixed with
 * {role, content} objects) and `mci` (a list of five-element information flows). All slices point
 * into the request text or its arena.
 *
 * messages: roles system, developer, user, assistant, tool, function; content a string, null or
 *   parts; tool_calls and function_call with arguments as string or object; a tool message may
 *   carry is_error (or isError), and an object as content. A result belongs to the oldest waiting
 *   call of its tool_call_id; without id, of its name; without both, to the oldest waiting call;
 *   else to none.
 * frames: responses find their request by (server, id), where `server` is a member of the frame or
 *   of the request; 1 and "1" differ. tools/list results are catalogues, one for each page; a
 *   tools/call that answers an input_required result (same requestState, name and arguments) is the
 *   same call. Every other method makes no event. A response whose request was not recorded goes by
 *   its shape: tools, handshake, else a result of no known call; whatever has content or
 *   structuredContent is a result. Results: text blocks joined by line breaks; "[image image/png 1234
 *   bytes]", "[audio ...]", "[blob ...]" (bytes after base64), "[resource_link name uri title
 *   description]" with what there is of these; structuredContent alone when there is no text or the
 *   text is the same JSON; left out when it is {"result": what the text says}; else its JSON after the
 *   text. An error is "<code> <message>" and its data. Blocks of unknown types are shown as their JSON.
 *   Members role and server are the gateway's own words: it must not take them from a server.
 * mci: arrays of five strings or objects {sender, recipient, data_subject | subject,
 *   information_type | type, transmission_principle | principle}. From the user: user text; to a
 *   server or function: a call; from the client to the user: an answer; else a result. */
#ifndef GUARDIAN_TRAJECTORY_H
#define GUARDIAN_TRAJECTORY_H

#include "guardian/json.h"
#include "guardian/limits.h"

enum gd_event_kind {
    GD_EVENT_SYSTEM,
    GD_EVENT_USER,
    GD_EVENT_ASSISTANT,
    GD_EVENT_CALL,    /* client -> server: a function request */
    GD_EVENT_RESULT,  /* server -> client: a function return */
    GD_EVENT_CATALOG, /* server -> client: tool definitions become known */
};

enum gd_phase { GD_PHASE_REQUEST, GD_PHASE_RESPONSE };

struct gd_tool {
    struct gd_str name, description;
    const struct gd_json *schema; /* input schema, or NULL */
};

struct gd_event {
    enum gd_event_kind kind;
    struct gd_str text; /* message text; a result's joined text; arguments that were not JSON */
    const struct gd_json *payload; /* arguments object or structured result, or NULL */
    struct gd_str name, server;    /* calls and results: the function; server may be empty */
    struct gd_str call_id;         /* as text, may be empty */
    int32_t call;                  /* results: index of the event of their call, or -1 */
    bool is_error;
    struct gd_str sender, recipient, subject, type,
        principle;                /* MCI elements where given, else empty */
    uint32_t tool_first, n_tools; /* catalogue events: range in trajectory.tools */
};

#define GD_TRAJ_F_DUPKEY 1u    /* a payload has duplicate keys: parsers may disagree about it */
#define GD_TRAJ_F_SURROGATE 2u /* a lone surrogate was replaced */
#define GD_TRAJ_F_BADUTF8                                                                          \
    4u /* invalid UTF-8 was replaced (not from JSON, whose reader refuses it) */
#define GD_TRAJ_F_DOUBT                                                                            \
    8u /* somebody may have read something else in it: one id of two requests, two descriptions of a \
        * tool, arguments that could not be read in full or are written to look like others */

struct gd_trajectory {
    struct gd_event *events;
    uint32_t n_events;
    struct gd_tool *tools;
    uint32_t n_tools;
    uint32_t flags;
    /* request: the last event (catalogues aside) is a call without its result */
    enum gd_phase phase;
    bool has_user; /* there is user text: intent is known */
    /* ordinal (from 0, among calls) of the call judged: the last call, or that of the last result;
     * -1 when assistant text follows it (the final response is judged), or when the last result is
     * of no known call */
    int32_t step;
};

/* Builds the trajectory of a request object that has exactly one of `messages`, `frames`, `mci`. An
 * optional `phase` that contradicts the derived one is refused. Duplicate keys are refused in the
 * request object, messages, calls, frames, params and flows, and set GD_TRAJ_F_DUPKEY in what these
 * carry. An error names the path ("messages[3].tool_calls[0].function.name"). GD_EFIELD, GD_ELIMIT,
 * GD_ENOMEM. Fuzzed entry. */
int gd_trajectory_parse(struct gd_arena *a, const struct gd_json *request,
                        struct gd_trajectory *out, struct gd_err *err);

const char *gd_phase_name(enum gd_phase p); /* "request", "response" */

#endif
