/* check.h - invariants that several drivers hold their module to. */
#ifndef GUARDIAN_FUZZ_CHECK_H
#define GUARDIAN_FUZZ_CHECK_H

#include "guardian/trajectory.h"

/* Reads every byte, so that a slice out of bounds is found. */
static inline void check_utf8(struct gd_str s)
{
    uint32_t cp;
    GD_ASSERT(s.len == 0 || s.ptr != NULL);
    for (size_t i = 0; i < s.len;) {
        const int n = gd_utf8_next(s, i, &cp);
        GD_ASSERT(n > 0);
        i += (size_t)n;
    }
}

/* Messages go to logs and clients: they must be there, and UTF-8. */
static inline void check_message(const struct gd_err *err)
{
    const struct gd_str s = gd_str_from(err->msg);
    GD_ASSERT(s.len > 0 && s.len < GD_ERR_MSG_MAX);
    check_utf8(s);
}

/* Indices in range, each result with a call of its own before it, phase and step as the events say. */
static inline void check_trajectory(const struct gd_trajectory *t)
{
    int32_t calls = 0;
    bool answered[GD_EVENTS_MAX];
    GD_ASSERT(t->n_events > 0 && t->n_events <= GD_EVENTS_MAX && t->n_tools <= GD_TOOLS_MAX);
    for (uint32_t i = 0; i < t->n_events; i++) {
        const struct gd_event *e = &t->events[i];
        answered[i] = false;
        GD_ASSERT(e->n_tools == 0 || e->kind == GD_EVENT_CATALOG);
        GD_ASSERT(e->tool_first <= t->n_tools && e->n_tools <= t->n_tools - e->tool_first);
        GD_ASSERT(e->call == -1 || e->kind == GD_EVENT_RESULT);
        calls += e->kind == GD_EVENT_CALL;
        if (e->call < 0)
            continue;
        GD_ASSERT((uint32_t)e->call < i && t->events[e->call].kind == GD_EVENT_CALL &&
                  !answered[e->call]);
        GD_ASSERT(gd_str_eq(e->name, t->events[e->call].name));
        answered[e->call] = true;
    }
    uint32_t last = t->n_events - 1;
    while (last > 0 && t->events[last].kind == GD_EVENT_CATALOG)
        last--;
    GD_ASSERT((t->phase == GD_PHASE_REQUEST) == (t->events[last].kind == GD_EVENT_CALL));
    GD_ASSERT(t->step >= -1 && t->step < calls);
    GD_ASSERT(t->phase == GD_PHASE_RESPONSE || t->step == calls - 1);
}

#endif
