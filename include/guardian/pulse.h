/* pulse.h - the heartbeat of the engine's worker, and when its silence is a hang.
 *
 * The worker says when a step begins, how long that should take by the steps before it, and, once a
 * second, that it waits for work. Whoever watches calls gd_pulse_hung once a second or more often: the
 * worker hangs when it has been watched for GD_HANG_MS, and for GD_HANG_FACTOR times what was expected
 * of its step, without a new sign. Only time in which the watcher itself was there counts,
 * GD_HANG_TICK_MS from one look to the next at most: a process that was stopped and goes on, or a clock
 * that jumps, is no hang.
 *
 * A pulse belongs to the caller of gd_engine_open, who can so watch an engine that is still opening,
 * and it outlives that engine. All zero: nothing is under way. */
#ifndef GUARDIAN_PULSE_H
#define GUARDIAN_PULSE_H

#include "guardian/limits.h"
#include "guardian/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gd_pulse {
    _Atomic int64_t begin_ns;               /* CLOCK_MONOTONIC; 0: nothing is under way; */
                                            /* negative: it waited for work then */
    _Atomic int64_t expected_ns;            /* that it takes in all */
    int64_t step_ns, looked_ns, watched_ns; /* of the one thread that watches */
};

/* The worker: a step begins now (CLOCK_MONOTONIC); it waits for work, to be said again within a second;
 * nothing is to be expected of it any more. */
void gd_pulse_begin(struct gd_pulse *p, int64_t now_ns, double expected_ns);
void gd_pulse_idle(struct gd_pulse *p, int64_t now_ns);
void gd_pulse_end(struct gd_pulse *p);

/* Milliseconds that the step under way has taken until now_ns, 0 when there is none; what it was
 * expected to take goes to *expected_ms (may be NULL). Lock-free, any thread. */
double gd_pulse_stalled_ms(const struct gd_pulse *p, int64_t now_ns, double *expected_ms);

/* True when the worker hangs; why says for how long. One thread. */
bool gd_pulse_hung(struct gd_pulse *p, int64_t now_ns, struct gd_err *why);

#endif
