/* trace.h - W3C Trace Context: which trace a request belongs to, for the log.
 *
 * The server makes no spans and calls nobody, so it takes part as a leaf: every request has a trace
 * id, its caller's or a new one, and a span id of its own, and its log line names both (trace_id,
 * span_id, trace_flags, the names that OpenTelemetry gives them in JSON logs) with the caller's
 * span as parent_span_id. What the caller gives is `traceparent`, as a header or in `_meta` of an
 * MCP frame. tracestate is not read: it is for those who pass the trace on.
 *
 * Nothing is sent back. `traceresponse` stands in no published level of the standard: level 1 (the
 * Recommendation) never had it, and it was taken out of level 2 before that became a candidate.
 * x-request-id is what an answer can be found by.
 *
 * Pure functions but for gd_trace_init, which takes random bytes; any thread. */
#ifndef GUARDIAN_TRACE_H
#define GUARDIAN_TRACE_H

#include "guardian/json.h"

#define GD_TRACE_ID_HEX 32
#define GD_SPAN_ID_HEX 16
#define GD_TRACE_SAMPLED 1u /* the one flag of level 1 */

struct gd_trace {
    char trace_id[GD_TRACE_ID_HEX + 1]; /* lower-case hex, never all zero; so the other two */
    char span_id[GD_SPAN_ID_HEX + 1];   /* of this request, ours */
    char parent_id[GD_SPAN_ID_HEX + 1]; /* of the caller's span; empty: the trace begins here */
    uint8_t flags;                      /* GD_TRACE_SAMPLED or 0 */
};

/* A new trace with a new span. */
void gd_trace_init(struct gd_trace *t);

/* Makes t's span a child of the one that traceparent names. False, and t as it was, unless the text
 * is exactly version 00: 00-<32 hex>-<16 hex>-<2 hex>, lower case, neither id all zero. */
bool gd_trace_adopt(struct gd_trace *t, struct gd_str traceparent);

/* The same with params._meta.traceparent of the last of request's `frames` that has a good one: the
 * call that is judged, or the call whose answer is. request may be anything, or NULL. */
bool gd_trace_adopt_frames(struct gd_trace *t, const struct gd_json *request);

#endif
