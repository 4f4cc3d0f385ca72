/* socket.c - what the HTTP library gets in place of listen, accept, recv, close and
 * pthread_attr_setstacksize. See guardian/socket.h.
 *
 * A connection above the limit is answered here, by the thread that accepts, and never reaches a
 * worker. Closing it at once could wipe the answer from the client's side while the client is still
 * sending, so its descriptor lingers for a second.
 *
 * The library never clears the buffer of a worker, and parses what lies behind the bytes that have
 * come. The first recv of a connection is for its first head and tells where that buffer is: then
 * what earlier connections have left in it is overwritten with zeros. */
#include "guardian/socket.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define FD_MAX 65536
#define FD_OTHERS 256 /* descriptors that are not connections, more or less */
#define LINGER_MAX 256
#define LINGER_NS 1000000000

/* __SOCKADDR_ARG: the C library's own name for what accept takes. */
typedef int accept_fn(int fd, __SOCKADDR_ARG addr, socklen_t *len);
typedef int listen_fn(int fd, int backlog);
typedef ssize_t recv_fn(int fd, void *buf, size_t n, int flags);
typedef int close_fn(int fd);
typedef int stack_fn(pthread_attr_t *attr, size_t n);

static struct {
    _Atomic uint64_t serial[FD_MAX]; /* of the open connection with this descriptor, or 0 */
    _Atomic uint64_t last_serial, refused;
    _Atomic uint32_t open, max;
    _Atomic int listener; /* its number and 1, or 0 */
    atomic_bool stopping;
} all;

/* Refused connections whose answer may still be on its way. */
static struct {
    pthread_mutex_t lock;
    int fd[LINGER_MAX];
    int64_t until_ns[LINGER_MAX]; /* 0: no sweep has seen it yet */
    uint32_t n;
} linger = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct {
    int fd;
    uint64_t serial;
    char *buffer;
    size_t size, used; /* recv was given so many bytes from its start on, and has filled so many */
} mine = {.fd = -1};

/* What the program would call without this file. It may be asked for before main begins. */
static void *next(_Atomic(void *) *slot, const char *name)
{
    void *p = atomic_load_explicit(slot, memory_order_relaxed);
    if (p == NULL) {
        p = dlsym(RTLD_NEXT, name);
        GD_ASSERT(p != NULL);
        atomic_store_explicit(slot, p, memory_order_relaxed);
    }
    return p;
}

static int next_listen(int fd, int backlog)
{
    static _Atomic(void *) slot;
    const union {
        void *p;
        listen_fn *fn;
    } f = {next(&slot, "listen")};
    return f.fn(fd, backlog);
}

static int next_accept(int fd, __SOCKADDR_ARG addr, socklen_t *len)
{
    static _Atomic(void *) slot;
    const union {
        void *p;
        accept_fn *fn;
    } f = {next(&slot, "accept")};
    return f.fn(fd, addr, len);
}

static ssize_t next_recv(int fd, void *buf, size_t n, int flags)
{
    static _Atomic(void *) slot;
    const union {
        void *p;
        recv_fn *fn;
    } f = {next(&slot, "recv")};
    return f.fn(fd, buf, n, flags);
}

static int next_close(int fd)
{
    static _Atomic(void *) slot;
    const union {
        void *p;
        close_fn *fn;
    } f = {next(&slot, "close")};
    return f.fn(fd);
}

static uint64_t serial_of(int fd)
{
    return fd >= 0 && fd < FD_MAX ? atomic_load(&all.serial[fd]) : 0;
}

#define REFUSAL(length, code, message)                                                             \
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: "                                           \
    "application/json\r\nContent-Length: " length                                                  \
    "\r\nConnection: close\r\nRetry-After: 1\r\n\r\n{\"error\":{\"code\":\"" code                  \
    "\",\"message\":\"" message "\"}}\n"

/* Nothing of it is waited for: the answer fits into any socket's buffer. */
static void refuse(int fd)
{
    static const char full[] = REFUSAL("74", "overloaded", "too many connections are open");
    static const char over[] = REFUSAL("70", "draining", "the server is shutting down");
    const bool stopping = atomic_load(&all.stopping);
    const char *answer = stopping ? over : full;
    atomic_fetch_add(&all.refused, 1);
    (void)send(fd, answer, strlen(answer), MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)shutdown(fd, SHUT_WR);
    pthread_mutex_lock(&linger.lock);
    const bool room = linger.n < LINGER_MAX;
    if (room) {
        linger.fd[linger.n] = fd;
        linger.until_ns[linger.n++] = 0;
    }
    pthread_mutex_unlock(&linger.lock);
    if (!room) {
        (void)next_close(fd);
    }
}

int listen(int fd, int backlog)
{
    const int rc = next_listen(fd, backlog);
    if (rc == 0) {
        atomic_store(&all.listener, fd + 1);
    }
    return rc;
}

int accept(int listener, __SOCKADDR_ARG addr, socklen_t *restrict len)
{
    const int fd = next_accept(listener, addr, len);
    if (fd < 0) {
        return fd;
    }
    const uint32_t before = atomic_fetch_add(&all.open, 1);
    if (fd >= FD_MAX || before >= atomic_load(&all.max) || atomic_load(&all.stopping)) {
        atomic_fetch_sub(&all.open, 1);
        refuse(fd);
        errno = ECONNABORTED;
        return -1;
    }
    atomic_store(&all.serial[fd], 1 + atomic_fetch_add(&all.last_serial, 1));
    return fd;
}

int close(int fd)
{
    /* Taken out first: from the moment it is closed, the number may be another connection's. */
    if (fd >= 0 && fd < FD_MAX && atomic_exchange(&all.serial[fd], 0) != 0) {
        atomic_fetch_sub(&all.open, 1);
    }
    return next_close(fd);
}

/* The first recv of a connection on this thread. */
static void begin(int fd, uint64_t serial, char *buf, size_t n)
{
    if (buf != mine.buffer || n != mine.size) {
        mine.buffer = buf;
        mine.size = n;
        mine.used = n;
    }
    memset(buf, 0, mine.used);
    mine.used = 0;
    mine.fd = fd;
    mine.serial = serial;
}

ssize_t recv(int fd, void *buf, size_t n, int flags)
{
    const uint64_t serial = serial_of(fd);
    if (serial == 0) {
        return next_recv(fd, buf, n, flags);
    }
    if (fd != mine.fd || serial != mine.serial) {
        begin(fd, serial, buf, n);
    }
    const ssize_t k = next_recv(fd, buf, n, flags);
    const uintptr_t at = (uintptr_t)buf, base = (uintptr_t)mine.buffer;
    if (k > 0 && at >= base && at < base + mine.size) {
        const size_t end = (size_t)(at - base) + (size_t)k;
        mine.used = end > mine.used ? end : mine.used;
    }
    return k;
}

int pthread_attr_setstacksize(pthread_attr_t *attr, size_t n)
{
    static _Atomic(void *) slot;
    const union {
        void *p;
        stack_fn *fn;
    } f = {next(&slot, "pthread_attr_setstacksize")};
    return f.fn(attr, n < GD_HTTP_STACK_BYTES ? GD_HTTP_STACK_BYTES : n);
}

int gd_socket_current(void)
{
    return mine.fd >= 0 && serial_of(mine.fd) == mine.serial ? mine.fd : -1;
}

const char *gd_socket_buffer(void)
{
    return mine.buffer;
}

uint32_t gd_sockets_init(uint32_t n)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        const rlim_t want = (rlim_t)n + FD_OTHERS;
        if (files.rlim_cur < want) {
            files.rlim_cur = files.rlim_max < want ? files.rlim_max : want;
            (void)setrlimit(RLIMIT_NOFILE, &files);
        }
        if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < want) {
            n = files.rlim_cur > 2 * FD_OTHERS ? (uint32_t)files.rlim_cur - FD_OTHERS : FD_OTHERS;
        }
    }
    atomic_store(&all.max, n);
    atomic_store(&all.stopping, false);
    return n;
}

uint32_t gd_sockets_open(void)
{
    return atomic_load(&all.open);
}

uint32_t gd_sockets_max(void)
{
    return atomic_load(&all.max);
}

uint64_t gd_sockets_refused(void)
{
    return atomic_load(&all.refused);
}

void gd_sockets_stop(void)
{
    atomic_store(&all.stopping, true);
    for (int fd = 0; fd < FD_MAX; fd++) {
        /* A connection that closes in between leaves its number to nobody: none is accepted. */
        if (atomic_load(&all.serial[fd]) != 0) {
            (void)shutdown(fd, SHUT_RD);
        }
    }
}

void gd_sockets_unlisten(void)
{
    const int fd = atomic_exchange(&all.listener, 0) - 1;
    if (fd >= 0) {
        (void)shutdown(fd, SHUT_RD);
    }
}

/* The client has closed, or has sent more than a refused one may. */
static bool is_done(int fd)
{
    char sink[4096];
    for (int i = 0; i < 16; i++) {
        const ssize_t k = next_recv(fd, sink, sizeof(sink), MSG_DONTWAIT);
        if (k <= 0) {
            return k == 0 || (errno != EAGAIN && errno != EINTR);
        }
    }
    return true;
}

void gd_sockets_sweep(int64_t now_ns)
{
    uint32_t kept = 0;
    pthread_mutex_lock(&linger.lock);
    for (uint32_t i = 0; i < linger.n; i++) {
        const int fd = linger.fd[i];
        const int64_t until_ns = linger.until_ns[i] != 0 ? linger.until_ns[i] : now_ns + LINGER_NS;
        if (now_ns >= until_ns || is_done(fd)) {
            (void)next_close(fd);
        } else {
            linger.fd[kept] = fd;
            linger.until_ns[kept++] = until_ns;
        }
    }
    linger.n = kept;
    pthread_mutex_unlock(&linger.lock);
}
