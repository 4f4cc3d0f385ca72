/* watch.c - cuts connections that take too long, and sees clients that have left.
 *
 * The HTTP library bounds each read and write but not their sum, so a client that sends or takes a
 * byte now and then would hold a worker for as long as it likes. What is being read or sent stands
 * in a list with its deadline; one thread looks at the list and shuts what is late: the reading side
 * of a body, which ends the read and lets a 408 be sent; both sides of an answer.
 *
 * The library does not tell the socket. It is found by its peer, and only when it is needed: while a
 * request is read or judged its socket is open, and the number is not given to another. Another
 * socket with the same peer can only be of the same client, who used one port of his for two of our
 * addresses: then both are cut, and neither is taken to have left. A socket that was reset has no
 * peer any more and is not found. */
#include "guardian/service.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 200000000

struct gd_watch {
    pthread_mutex_t lock;
    pthread_cond_t stop;
    pthread_t thread;
    bool stopping;
    struct gd_watch_entry *first;
};

/* The descriptor is a connection from e's peer to our port. */
static bool is_connection(int fd, const struct gd_watch_entry *e, const struct in_addr *addr)
{
    struct sockaddr_in peer = {0}, own = {0};
    socklen_t n_peer = sizeof(peer), n_own = sizeof(own);
    if (getpeername(fd, (struct sockaddr *)&peer, &n_peer) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &n_own) != 0) {
        return false;
    }
    return peer.sin_family == AF_INET && peer.sin_addr.s_addr == addr->s_addr &&
           ntohs(peer.sin_port) == e->remote_port && ntohs(own.sin_port) == e->local_port;
}

#define NOT_FOUND (-1)
#define NO_SUCH_PEER (-2)

/* The first from descriptor `fd` on. */
static int find_socket(const struct gd_watch_entry *e, int fd)
{
    struct in_addr addr;
    long n = sysconf(_SC_OPEN_MAX);
    int max = n > 0 && n < 65536 ? (int)n : 65536;
    if (inet_pton(AF_INET, e->remote, &addr) != 1) {
        return NO_SUCH_PEER;
    }
    for (; fd < max; fd++) {
        if (is_connection(fd, e, &addr)) {
            return fd;
        }
    }
    return NOT_FOUND;
}

static void cut(const struct gd_watch_entry *e)
{
    for (int fd = find_socket(e, 0); fd >= 0; fd = find_socket(e, fd + 1)) {
        shutdown(fd, e->sending ? SHUT_RDWR : SHUT_RD);
    }
}

bool gd_watch_gone(struct gd_watch_entry *e)
{
    if (e->gone) {
        return true;
    }
    if (!e->looked) {
        e->looked = true;
        e->fd = find_socket(e, 0);
        if (e->fd >= 0 && find_socket(e, e->fd + 1) >= 0) {
            e->fd = NO_SUCH_PEER; /* which of the two it is cannot be told */
        }
    }
    struct pollfd p = {.fd = e->fd, .events = POLLRDHUP};
    e->gone = e->fd == NOT_FOUND || (e->fd >= 0 && poll(&p, 1, 0) == 1 &&
                                     (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0);
    return e->gone;
}

static void *watch_main(void *ctx)
{
    struct gd_watch *w = ctx;
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        struct timespec until;
        int64_t now = gd_now_ns();
        for (struct gd_watch_entry *e = w->first; e != NULL; e = e->next) {
            if (now > e->deadline_ns && !e->late) {
                e->late = true;
                cut(e);
            }
        }
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TICK_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
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
    w->first = e;
    pthread_mutex_unlock(&w->lock);
}

bool gd_watch_end(struct gd_watch *w, struct gd_watch_entry *e)
{
    pthread_mutex_lock(&w->lock);
    for (struct gd_watch_entry **at = &w->first; *at != NULL; at = &(*at)->next) {
        if (*at == e) {
            *at = e->next;
            break;
        }
    }
    bool late = e->late;
    pthread_mutex_unlock(&w->lock);
    return !late;
}

int gd_watch_open(struct gd_watch **out, struct gd_err *err)
{
    struct gd_watch *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the watchdog");
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->stop, NULL);
    if (pthread_create(&w->thread, NULL, watch_main, w) != 0) {
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
    pthread_cond_destroy(&w->stop);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
