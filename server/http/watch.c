/* watch.c - cuts connections that take too long, and sees clients that have left.
 *
 * The HTTP library bounds each read and write but not their sum, so a client that sends or takes a
 * byte now and then would hold a worker for as long as it likes. What is being read or sent stands
 * in a list with its deadline; one thread looks at the list and shuts what is late: the reading side
 * of a body, which ends the read and lets a 408 be sent; both sides of an answer.
 *
 * While an entry is in the list its thread serves the connection, so that the descriptor is open and
 * nobody else's. */
#include "guardian/watch.h"
#include "guardian/clock.h"
#include "guardian/socket.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#define TICK_NS 200000000

struct gd_watch {
    pthread_mutex_t lock;
    pthread_cond_t stop; /* measures time by the clock of the deadlines */
    pthread_t thread;
    bool stopping;
    struct gd_watch_entry *first;
};

bool gd_watch_gone(struct gd_watch_entry *e)
{
    struct pollfd p = {.fd = e->fd, .events = POLLRDHUP};
    e->gone = e->gone || (e->fd >= 0 && poll(&p, 1, 0) == 1 &&
                          (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
    return e->gone;
}

static void cut_late(struct gd_watch *w, int64_t now_ns)
{
    for (struct gd_watch_entry *e = w->first; e != NULL; e = e->next) {
        if (now_ns > e->deadline_ns && !e->late) {
            e->late = true;
            (void)shutdown(e->fd, e->sending ? SHUT_RDWR : SHUT_RD);
        }
    }
}

static void *watch_main(void *ctx)
{
    struct gd_watch *w = ctx;
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        const int64_t now_ns = gd_now_ns(), until_ns = now_ns + TICK_NS;
        const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                                       .tv_nsec = until_ns % 1000000000};
        cut_late(w, now_ns);
        gd_sockets_sweep(now_ns);
        pthread_cond_timedwait(&w->stop, &w->lock, &until);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void gd_watch_begin(struct gd_watch *w, struct gd_watch_entry *e, int64_t ms, bool sending)
{
    e->deadline_ns = gd_now_ns() + ms * 1000000;
    e->sending = sending;
    e->late = false;
    pthread_mutex_lock(&w->lock);
    e->next = w->first;
    e->prev = NULL;
    if (w->first != NULL) {
        w->first->prev = e;
    }
    w->first = e;
    pthread_mutex_unlock(&w->lock);
}

bool gd_watch_end(struct gd_watch *w, struct gd_watch_entry *e)
{
    pthread_mutex_lock(&w->lock);
    if (e->prev != NULL) {
        e->prev->next = e->next;
    } else {
        w->first = e->next;
    }
    if (e->next != NULL) {
        e->next->prev = e->prev;
    }
    const bool late = e->late;
    pthread_mutex_unlock(&w->lock);
    return !late;
}

int gd_watch_open(struct gd_watch **out, struct gd_err *err)
{
    struct gd_watch *w = calloc(1, sizeof(*w));
    pthread_condattr_t attr;
    if (w == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the watchdog");
    }
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->stop, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&w->thread, NULL, watch_main, w) != 0) {
        pthread_cond_destroy(&w->stop);
        pthread_mutex_destroy(&w->lock);
        free(w);
        return gd_err_set(err, GD_ENOMEM, "the watchdog thread could not be started");
    }
    *out = w;
    return 0;
}

void gd_watch_close(struct gd_watch *w)
{
    if (w == NULL) {
        return;
    }
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->stop);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    gd_sockets_sweep(INT64_MAX);
    pthread_cond_destroy(&w->stop);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
