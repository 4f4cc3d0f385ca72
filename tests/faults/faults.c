/* faults.c - the countdown behind faults.h.
 *
 * A plan is written while no group is armed and read by every thread; counting is one atomic
 * addition, so that each call of a run has a number of its own whatever thread it is on. */
#include "faults.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#define INTR_MAX 3

_Thread_local bool faults_spared;

static struct {
    atomic_uint groups; /* 0: nothing is armed */
    atomic_int way;
    atomic_long first, last; /* calls that fail */
    atomic_long calls, fired, live;
    _Atomic(const char *) name;
    _Atomic(const void *) from;
} now;

void faults_arm(const struct faults_plan *plan)
{
    atomic_store(&now.groups, 0);
    atomic_store(&now.way, (int)plan->way);
    atomic_store(&now.first, plan->nth);
    long last = plan->nth;
    if (plan->stay)
        last = plan->way == FAULTS_INTR ? plan->nth + INTR_MAX - 1 : LONG_MAX;
    atomic_store(&now.last, last);
    atomic_store(&now.calls, 0);
    atomic_store(&now.fired, 0);
    atomic_store(&now.name, NULL);
    atomic_store(&now.from, NULL);
    atomic_store(&now.groups, plan->groups);
}

void faults_disarm(struct faults_seen *out)
{
    extern const char __executable_start[];
    atomic_store(&now.groups, 0);
    out->calls = atomic_load(&now.calls);
    out->fired = atomic_load(&now.fired);
    const char *name = atomic_load(&now.name);
    const uintptr_t at = (uintptr_t)atomic_load(&now.from) - (uintptr_t)__executable_start;
    out->first[0] = '\0';
    if (name != NULL)
        snprintf(out->first, sizeof out->first, "%s at 0x%zx", name, (size_t)at);
}

bool faults_hit(enum faults_group group, unsigned ways, const char *name, const void *from)
{
    if (faults_spared || (atomic_load(&now.groups) & group) == 0 ||
        (ways & 1u << atomic_load(&now.way)) == 0)
        return false;
    const long n = atomic_fetch_add(&now.calls, 1) + 1;
    if (n < atomic_load(&now.first) || n > atomic_load(&now.last))
        return false;
    if (atomic_fetch_add(&now.fired, 1) == 0) {
        atomic_store(&now.from, from);
        atomic_store(&now.name, name);
    }
    return true;
}

enum faults_way faults_way_now(void)
{
    return (enum faults_way)atomic_load(&now.way);
}

void faults_took(const void *p)
{
    if (p != NULL && !faults_spared)
        atomic_fetch_add(&now.live, 1);
}

void faults_gave(const void *p)
{
    if (p != NULL && !faults_spared)
        atomic_fetch_sub(&now.live, 1);
}

long faults_live(void)
{
    return atomic_load(&now.live);
}
