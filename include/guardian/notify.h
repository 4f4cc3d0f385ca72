/* notify.h - tells the service manager how the server is: the datagrams that systemd's Type=notify
 * expects (sd_notify(3)), without its library.
 *
 * NOTIFY_SOCKET names the socket: a path, or "@" and an abstract name. Without it every call does
 * nothing and is GD_OK, so that callers need not ask. On failure, which is never a reason to stop
 * serving: GD_EUSAGE an address that is none, GD_EIO the manager could not be told. A call waits for
 * GD_NOTIFY_MS at most. Any thread. */
#ifndef GUARDIAN_NOTIFY_H
#define GUARDIAN_NOTIFY_H

#include "guardian/status.h"

#include <stdint.h>

/* Verdicts can be had; also after gd_notify_reloading, when that is done. */
int gd_notify_ready(struct gd_err *err);
int gd_notify_reloading(struct gd_err *err);
int gd_notify_stopping(struct gd_err *err);
/* A sign of life, for gd_notify_watchdog_ns. */
int gd_notify_alive(struct gd_err *err);

/* Nanoseconds within which the manager wants each sign of life, or it starts the server anew
 * (WATCHDOG_USEC, when WATCHDOG_PID is this process or is not set); 0: it wants none. */
int64_t gd_notify_watchdog_ns(void);

#endif
