/* pulse.c - the heartbeat of the worker. See guardian/pulse.h.
 *
 * Begin and expectation are two words: the worker takes the begin away while it changes the
 * expectation, and a reader looks at the begin before and after, so that it never measures one step
 * by what was expected of another. */
#include "guardian/pulse.h"

#define NS_PER_MS 1000000

static void beat(struct gd_pulse *p, int64_t begin_ns, int64_t expected_ns)
{
    gd_pulse_end(p);
    atomic_store(&p->expected_ns, expected_ns);
    atomic_store(&p->begin_ns, begin_ns);
}

void gd_pulse_begin(struct gd_pulse *p, int64_t now_ns, double expected_ns)
{
    int64_t most = INT64_MAX / GD_HANG_FACTOR;
    bool sane = expected_ns >= 0 && expected_ns < (double)most;
    beat(p, now_ns, sane ? (int64_t)expected_ns : most);
}

void gd_pulse_idle(struct gd_pulse *p, int64_t now_ns)
{
    beat(p, -now_ns, 0);
}

void gd_pulse_end(struct gd_pulse *p)
{
    atomic_store(&p->begin_ns, 0);
}

/* The begin of the step under way and what is expected of it; 0 when there is none, or it changes
 * just now. */
static int64_t look(const struct gd_pulse *p, int64_t *expected_ns)
{
    int64_t begin_ns = atomic_load(&p->begin_ns);
    *expected_ns = atomic_load(&p->expected_ns);
    return atomic_load(&p->begin_ns) == begin_ns ? begin_ns : 0;
}

double gd_pulse_stalled_ms(const struct gd_pulse *p, int64_t now_ns, double *expected_ms)
{
    int64_t expected_ns, begin_ns = look(p, &expected_ns);
    if (expected_ms != NULL) {
        *expected_ms = begin_ns > 0 ? (double)expected_ns / NS_PER_MS : 0;
    }
    return begin_ns > 0 && now_ns > begin_ns ? (double)(now_ns - begin_ns) / NS_PER_MS : 0;
}

bool gd_pulse_hung(struct gd_pulse *p, int64_t now_ns, struct gd_err *why)
{
    int64_t expected_ns, begin_ns = look(p, &expected_ns);
    int64_t gap_ns = now_ns - p->looked_ns, tick_ns = (int64_t)GD_HANG_TICK_MS * NS_PER_MS;
    p->looked_ns = now_ns;
    if (begin_ns == 0 || begin_ns != p->step_ns) {
        p->step_ns = begin_ns;
        p->watched_ns = 0;
        return false;
    }
    gap_ns = gap_ns < tick_ns ? gap_ns : tick_ns;
    p->watched_ns += gap_ns > 0 ? gap_ns : 0;
    if (p->watched_ns < (int64_t)GD_HANG_MS * NS_PER_MS ||
        p->watched_ns / GD_HANG_FACTOR < expected_ns) {
        return false;
    }
    double s = (double)p->watched_ns / 1e9;
    if (begin_ns > 0) {
        gd_err_set(why, GD_EBACKEND,
                   "the worker hangs: a step that was expected to take %.3f s has taken %.1f s",
                   (double)expected_ns / 1e9, s);
    } else {
        gd_err_set(why, GD_EBACKEND, "the worker hangs: it has not looked for work for %.1f s", s);
    }
    return true;
}
