/* watch.h - bodies and answers that take too long, and clients that leave. Any thread. */
#ifndef GUARDIAN_WATCH_H
#define GUARDIAN_WATCH_H

#include "guardian/status.h"

#include <stdbool.h>
#include <stdint.h>

struct gd_watch;
struct gd_watch_entry {
    struct gd_watch_entry *next, *prev;
    int fd; /* of the connection that the thread serves; see socket.h */
    int64_t deadline_ns;
    bool sending, late;
    bool gone; /* of gd_watch_gone; false at first */
};
int gd_watch_open(struct gd_watch **out, struct gd_err *err);
void gd_watch_close(struct gd_watch *w);
/* Until gd_watch_end, the connection is cut when it takes more than ms: its reading side, so that
 * there can still be an answer, or all of it when sending. */
void gd_watch_begin(struct gd_watch *w, struct gd_watch_entry *e, int64_t ms, bool sending);
bool gd_watch_end(struct gd_watch *w, struct gd_watch_entry *e); /* false when it was cut */
/* The client has closed or reset the connection. Once true always true. On the thread that serves
 * the connection. */
bool gd_watch_gone(struct gd_watch_entry *e);

#endif
