/* socket.c - what the HTTP library gets in place of listen, accept, recv, close and
 * pthread_attr_setstacksize. See guardian/socket.h.
 *
 * A connection above the limit is answered here, by the thread that accepts, and never reaches a
 * worker. Closing a connection while its client is still sending could wipe the answer from the
 * client's side, so its descriptor lingers for a second.
 *
 * The library never clears the buffer of a worker, parses what lies behind the bytes that have come,
 * and changes bytes while it parses. So a recv into that buffer (the first of a connection tells where
 * it is) gives it the bytes of one head and no more: what follows the head stays with the kernel until
 * it is asked for. The head is looked at here, as it came, and nothing but zeros is behind it. */
#include "guardian/socket.h"
#include "guardian/gate.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FD_MAX 65536
#define FD_OTHERS 512 /* descriptors that linger, or are not connections, more or less */
#define LINGER_NS ((int64_t)GD_HTTP_LINGER_MS * 1000000)
#define ACCEPT_PAUSE_NS 10000000

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

/* Connections whose answer may still be on its way. */
static struct {
    pthread_mutex_t lock;
    int fd[GD_HTTP_LINGER_MAX];
    int64_t until_ns[GD_HTTP_LINGER_MAX]; /* 0: no sweep has seen it yet */
    uint32_t n;
} linger = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct {
    int fd;
    uint64_t serial;
    char *buffer;
    size_t size, used; /* so long it is, and so far it may hold what is not zero */
    bool plain;        /* the head that has come whole */
} mine = {.fd = -1};

/* What the program would call without this file. */
static struct {
    pthread_once_t once;
    listen_fn *listen;
    accept_fn *accept;
    recv_fn *recv;
    close_fn *close;
    stack_fn *setstacksize;
} behind = {.once = PTHREAD_ONCE_INIT};

/* at: where the pointer to the function goes. POSIX lets a function's address be a void *, C does not. */
static void find(void *at, const char *name)
{
    void *const p = dlsym(RTLD_NEXT, name);
    GD_ASSERT(p != NULL);
    memcpy(at, &p, sizeof(p));
}

static void find_all(void)
{
    find(&behind.listen, "listen");
    find(&behind.accept, "accept");
    find(&behind.recv, "recv");
    find(&behind.close, "close");
    find(&behind.setstacksize, "pthread_attr_setstacksize");
}

/* It may be asked for before main begins. */
#define next(name) (pthread_once(&behind.once, find_all), behind.name)

static uint64_t serial_of(int fd)
{
    return fd >= 0 && fd < FD_MAX ? atomic_load(&all.serial[fd]) : 0;
}

static void let_linger(int fd)
{
    (void)shutdown(fd, SHUT_WR);
    pthread_mutex_lock(&linger.lock);
    const bool room = linger.n < GD_HTTP_LINGER_MAX;
    if (room) {
        linger.fd[linger.n] = fd;
        linger.until_ns[linger.n++] = 0;
    }
    pthread_mutex_unlock(&linger.lock);
    if (!room) {
        (void)next(close)(fd);
    }
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
    let_linger(fd);
}

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): the C library has names of its own
int listen(int fd, int backlog)
{
    const int rc = next(listen)(fd, backlog);
    if (rc == 0) {
        atomic_store(&all.listener, fd + 1);
    }
    return rc;
}

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int accept(int listener, __SOCKADDR_ARG addr, socklen_t *restrict len)
{
    const int fd = next(accept)(listener, addr, len);
    if (fd < 0) {
        const int why = errno;
        if (why == EMFILE || why == ENFILE || why == ENOBUFS || why == ENOMEM) {
            /* the library would try again at once, for as long as nothing is given back */
            (void)nanosleep(&(const struct timespec){.tv_nsec = ACCEPT_PAUSE_NS}, NULL);
        }
        errno = why;
        return fd;
    }
    const uint32_t before = atomic_fetch_add(&all.open, 1);
    if (fd >= FD_MAX || before >= atomic_load(&all.max) || atomic_load(&all.stopping)) {
        atomic_fetch_sub(&all.open, 1);
        refuse(fd);
        errno = ECONNABORTED;
        return -1;
    }
    /* What a client that does not read can make the kernel hold. */
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){GD_HTTP_SEND_BUFFER_BYTES}, sizeof(int));
    atomic_store(&all.serial[fd], 1 + atomic_fetch_add(&all.last_serial, 1));
    return fd;
}

int close(int fd)
{
    /* Taken out first: from the moment it is closed, the number may be another connection's. */
    if (fd >= 0 && fd < FD_MAX && atomic_exchange(&all.serial[fd], 0) != 0) {
        atomic_fetch_sub(&all.open, 1);
        char byte = 0;
        if (next(recv)(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
            let_linger(fd);
            return 0;
        }
    }
    return next(close)(fd);
}

/* The first recv of a connection on this thread. */
static void begin(int fd, uint64_t serial, char *buf, size_t n)
{
    if (buf != mine.buffer || n != mine.size) {
        mine.buffer = buf;
        mine.size = n;
        mine.used = n;
    }
    mine.fd = fd;
    mine.serial = serial;
}

/* Where the head in s[n] ends, by the library's rule; 0 when it does not. */
static size_t head_end(const char *s, size_t n)
{
    for (const char *p = memchr(s, '\n', n); p != NULL;) {
        const size_t at = (size_t)(p - s) + 1;
        if (at < n && s[at] == '\n') {
            return at + 1;
        }
        if (at + 1 < n && s[at] == '\r' && s[at + 1] == '\n') {
            return at + 2;
        }
        p = memchr(s + at, '\n', n - at);
    }
    return 0;
}

/* A target that is no path: the library closes without an answer for some of them, and answers 400 for
 * one that begins with a dash. */
static void spoil_odd_target(char *head, size_t n)
{
    char *blank = memchr(head, ' ', n);
    if (blank != NULL && blank + 1 < head + n && blank[1] != '/') {
        blank[1] = '-';
    }
}

/* A recv into the buffer, behind the `before` bytes of a head that are there. */
static ssize_t receive_head(int fd, size_t before, size_t n, int flags)
{
    char *buf = mine.buffer + before;
    size_t end = 0;
    ssize_t k = next(recv)(fd, buf, n, flags | MSG_PEEK);
    mine.plain = false;
    if (k > 0) {
        mine.used = before + (size_t)k > mine.used ? before + (size_t)k : mine.used;
        end = head_end(mine.buffer, before + (size_t)k);
        k = next(recv)(fd, buf, end > before ? end - before : (size_t)k, flags);
    }
    const size_t filled = before + (k > 0 ? (size_t)k : 0);
    memset(mine.buffer + filled, 0, mine.used - filled);
    mine.used = filled;
    if (end != 0 && filled == end) {
        mine.plain = gd_gate_head_is_plain(mine.buffer, end);
        spoil_odd_target(mine.buffer, end);
    }
    return k;
}

ssize_t recv(int fd, void *buf, size_t n, int flags)
{
    const uint64_t serial = serial_of(fd);
    if (serial == 0) {
        return next(recv)(fd, buf, n, flags);
    }
    if (fd != mine.fd || serial != mine.serial) {
        begin(fd, serial, buf, n);
    }
    const uintptr_t at = (uintptr_t)buf, base = (uintptr_t)mine.buffer;
    if (at < base || at - base > mine.size || n > mine.size - (at - base)) {
        return next(recv)(fd, buf, n, flags);
    }
    return receive_head(fd, (size_t)(at - base), n, flags);
}

/* What recv becomes in code that was compiled with _FORTIFY_SOURCE and knows how large buf is. */
// NOLINTBEGIN(readability-*): only a fortified build has a declaration from the C library
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags);
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags)
{
    GD_ASSERT(n <= size);
    return (recv)(fd, buf, n, flags);
}
// NOLINTEND(readability-*)

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name)
int pthread_attr_setstacksize(pthread_attr_t *attr, size_t n)
{
    return next(setstacksize)(attr, n < GD_HTTP_STACK_BYTES ? GD_HTTP_STACK_BYTES : n);
}

int gd_socket_current(void)
{
    return mine.fd >= 0 && serial_of(mine.fd) == mine.serial ? mine.fd : -1;
}

bool gd_socket_head_is_plain(void)
{
    return mine.plain;
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
            const uint32_t all_files = (uint32_t)files.rlim_cur;
            n = all_files > 2 * FD_OTHERS ? all_files - FD_OTHERS : all_files / 2;
            n = n > 0 ? n : 1;
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
        const ssize_t k = next(recv)(fd, sink, sizeof(sink), MSG_DONTWAIT);
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
        const int64_t latest_ns = now_ns < INT64_MAX - LINGER_NS ? now_ns + LINGER_NS : INT64_MAX;
        const int64_t until_ns = linger.until_ns[i] != 0 ? linger.until_ns[i] : latest_ns;
        if (now_ns >= until_ns || is_done(fd)) {
            (void)next(close)(fd);
        } else {
            linger.fd[kept] = fd;
            linger.until_ns[kept++] = until_ns;
        }
    }
    linger.n = kept;
    pthread_mutex_unlock(&linger.lock);
}
