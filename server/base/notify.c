/* notify.c - datagrams to the service manager. See guardian/notify.h.
 *
 * A socket for each message: there are few, and none is held open that a full queue could block. */
#include "guardian/notify.h"

#include "guardian/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_BYTES 1024

/* The length of the address, 0 when it is none. An abstract name begins with a zero byte. */
static socklen_t parse_address(const char *text, struct sockaddr_un *sa)
{
    size_t len = strlen(text);
    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((text[0] != '/' && text[0] != '@') || len < 2 || len >= sizeof sa->sun_path) {
        return 0;
    }
    memcpy(sa->sun_path, text, len);
    if (text[0] == '@') {
        sa->sun_path[0] = '\0';
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    }
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
}

static int send_to(const struct sockaddr_un *sa, socklen_t len, const char *message)
{
    const struct timeval patience = {.tv_sec = GD_NOTIFY_MS / 1000,
                                     .tv_usec = (GD_NOTIFY_MS % 1000) * 1000L};
    ssize_t sent;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    do {
        sent = sendto(fd, message, strlen(message), MSG_NOSIGNAL, (const struct sockaddr *)sa, len);
    } while (sent < 0 && errno == EINTR);
    int failed = sent < 0 ? errno : 0;
    close(fd);
    return failed;
}

static int notify(const char *message, struct gd_err *err)
{
    const char *where = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa;
    if (where == NULL || where[0] == '\0') {
        return GD_OK;
    }
    socklen_t len = parse_address(where, &sa);
    if (len == 0) {
        return gd_err_set(
            err, GD_EUSAGE,
            "NOTIFY_SOCKET is '%.100s': expected a path from / on, or @ and a name, of "
            "at most %zu bytes",
            where, sizeof sa.sun_path - 1);
    }
    int failed = send_to(&sa, len, message);
    return failed == 0
               ? GD_OK
               : gd_err_set(err, GD_EIO, "NOTIFY_SOCKET %.100s: %s", where, strerror(failed));
}

int gd_notify_ready(struct gd_err *err)
{
    return notify("READY=1", err);
}

/* The manager takes only a READY=1 after this moment for the end of the reload. */
int gd_notify_reloading(struct gd_err *err)
{
    char message[MESSAGE_BYTES];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    (void)snprintf(message, sizeof message, "RELOADING=1\nMONOTONIC_USEC=%" PRId64,
                   (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    return notify(message, err);
}

int gd_notify_stopping(struct gd_err *err)
{
    return notify("STOPPING=1", err);
}

int gd_notify_alive(struct gd_err *err)
{
    return notify("WATCHDOG=1", err);
}

/* A whole positive number, or -1. */
static int64_t number_of(const char *name)
{
    const char *text = getenv(name);
    char *end = NULL;
    if (text == NULL || text[0] < '0' || text[0] > '9') {
        return -1;
    }
    errno = 0;
    long long n = strtoll(text, &end, 10);
    return errno == 0 && *end == '\0' && n > 0 ? n : -1;
}

int64_t gd_notify_watchdog_ns(void)
{
    int64_t us = number_of("WATCHDOG_USEC");
    bool ours = getenv("WATCHDOG_PID") == NULL || number_of("WATCHDOG_PID") == (int64_t)getpid();
    return ours && us > 0 && us <= INT64_MAX / 1000 ? us * 1000 : 0;
}
