/* preload.c - a shared library for LD_PRELOAD that makes calls of a whole program fail: those of its
 * libraries too, and of what runs before main.
 *
 * The plan and the counts stand in a file that GUARDIAN_FAULTS_BOARD names and that the test maps as
 * well, so that it can arm and disarm a running program. The first call that fails leaves the frames
 * above it there. Memory is taken through the C library's own names; nothing here allocates. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

enum group { MEMORY = 1, FILES = 2, SOCKETS = 4, THREADS = 8, MAPS = 16 };
enum way { ERROR, INTR, SHORT };

#define FRAMES_MAX 40
#define FRAME_BYTES 160

struct board { /* tests/http/test_faults.py knows this */
    _Atomic uint32_t groups; /* 0: nothing is armed */
    uint32_t way;
    _Atomic uint64_t first, last;   /* calls that fail */
    _Atomic uint64_t calls, fired;  /* counted while armed */
    _Atomic uint64_t counts[5];     /* by group, always */
    _Atomic uint32_t n_frames;      /* of the first call that failed */
    uint32_t unused;
    char call[FRAME_BYTES];
    char frames[FRAMES_MAX][FRAME_BYTES];
};

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static struct board *board;
static _Thread_local bool inside; /* of this library: not counted */

/* The first call of the program finds the board; there is one thread then. */
static struct board *look(void)
{
    static bool looked;
    if (looked)
        return board;
    const char *path = getenv("GUARDIAN_FAULTS_BOARD");
    if (path == NULL)
        return NULL;
    looked = true;
    const long fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    void *p = (void *)syscall(SYS_mmap, NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                              0L);
    syscall(SYS_close, fd);
    board = p == MAP_FAILED ? NULL : p;
    return board;
}

static _Unwind_Reason_Code keep_frame(struct _Unwind_Context *context, void *ctx)
{
    uint32_t *n = ctx;
    const uintptr_t pc = _Unwind_GetIP(context);
    Dl_info at = {.dli_fname = NULL};
    if (*n >= FRAMES_MAX)
        return _URC_END_OF_STACK;
    if (dladdr((void *)pc, &at) != 0 && at.dli_fname != NULL) {
        const char *slash = strrchr(at.dli_fname, '/');
        snprintf(board->frames[(*n)++], FRAME_BYTES, "%s!%s+0x%zx",
                 slash != NULL ? slash + 1 : at.dli_fname, at.dli_sname != NULL ? at.dli_sname : "?",
                 (size_t)(pc - (uintptr_t)at.dli_fbase));
    }
    return _URC_NO_REASON;
}

/* True when this call is to fail. */
static bool hit(enum group group, unsigned ways, const char *name)
{
    struct board *b = inside ? NULL : look();
    if (b == NULL)
        return false;
    atomic_fetch_add(&b->counts[__builtin_ctz(group)], 1);
    if ((atomic_load(&b->groups) & group) == 0 || (ways & 1u << b->way) == 0)
        return false;
    const uint64_t n = atomic_fetch_add(&b->calls, 1) + 1;
    if (n < atomic_load(&b->first) || n > atomic_load(&b->last))
        return false;
    if (atomic_fetch_add(&b->fired, 1) == 0) {
        uint32_t frames = 0;
        inside = true;
        snprintf(b->call, sizeof b->call, "%s", name);
        _Unwind_Backtrace(keep_frame, &frames);
        atomic_store(&b->n_frames, frames);
        inside = false;
    }
    return true;
}

/* The next definition of a name. Looked up once; looking up may take memory, which is not counted. */
#define NEXT(type, name, ...)                                                                      \
    static type (*_Atomic cached)(__VA_ARGS__);                                                    \
    type (*next)(__VA_ARGS__) = atomic_load(&cached);                                              \
    if (next == NULL) {                                                                            \
        const bool was = inside;                                                                   \
        inside = true;                                                                             \
        void *found = dlsym(RTLD_NEXT, #name);                                                     \
        inside = was;                                                                              \
        memcpy(&next, &found, sizeof next);                                                        \
        atomic_store(&cached, next);                                                               \
    }

#define E1 (1u << ERROR)
#define E2 (1u << ERROR | 1u << INTR)
#define E3 (1u << ERROR | 1u << INTR | 1u << SHORT)

static int error_of(int error)
{
    return board->way == INTR ? EINTR : error;
}

/* ---- memory ---- */

void *malloc(size_t n)
{
    if (hit(MEMORY, E1, "malloc")) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    if (hit(MEMORY, E1, "calloc")) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    if (n > 0 && hit(MEMORY, E1, "realloc")) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(p, n);
}

void *memalign(size_t align, size_t n)
{
    if (hit(MEMORY, E1, "memalign")) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_memalign(align, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    return memalign(align, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = hit(MEMORY, E1, "posix_memalign") ? NULL : __libc_memalign(align, n);
    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}

void *mmap(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    if (hit(MAPS, E1, "mmap")) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    NEXT(void *, mmap, void *, size_t, int, int, int, off_t)
    return next(p, n, prot, flags, fd, at);
}

int mprotect(void *p, size_t n, int prot)
{
    if (hit(MAPS, E1, "mprotect")) {
        errno = ENOMEM;
        return -1;
    }
    NEXT(int, mprotect, void *, size_t, int)
    return next(p, n, prot);
}

/* ---- files and sockets ---- */

#define CALL(group, ways, error, value, type, name, types, params, args)                           \
    type name params                                                                               \
    {                                                                                              \
        if (hit(group, ways, #name)) {                                                             \
            errno = error_of(error);                                                               \
            return value;                                                                          \
        }                                                                                          \
        NEXT(type, name, types)                                                                    \
        return next args;                                                                          \
    }
#define TYPES(...) __VA_ARGS__

/* Moves one byte where the plan says so. */
#define MOVE(group, error, name, types, params, args, least)                                       \
    ssize_t name params                                                                            \
    {                                                                                              \
        const bool fails = hit(group, E3, #name);                                                  \
        NEXT(ssize_t, name, types)                                                                 \
        if (fails && board->way == SHORT && n > 1)                                                 \
            return next least;                                                                     \
        if (fails) {                                                                               \
            errno = error_of(error);                                                               \
            return -1;                                                                             \
        }                                                                                          \
        return next args;                                                                          \
    }

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        const unsigned mode = va_arg(rest, unsigned);                                              \
        va_end(rest);                                                                              \
        if (hit(FILES, E2, #name)) {                                                               \
            errno = error_of(EIO);                                                                 \
            return -1;                                                                             \
        }                                                                                          \
        NEXT(int, name, const char *, int, ...)                                                    \
        return next(path, flags, mode);                                                            \
    }

OPEN(open)
OPEN(open64)
CALL(FILES, E1, EMFILE, NULL, FILE *, fopen, TYPES(const char *, const char *),
     (const char *path, const char *mode), (path, mode))
CALL(FILES, E1, EMFILE, NULL, FILE *, fopen64, TYPES(const char *, const char *),
     (const char *path, const char *mode), (path, mode))
CALL(FILES, E1, EIO, -1, int, fstat, TYPES(int, struct stat *), (int fd, struct stat *st), (fd, st))
CALL(FILES, E1, EIO, -1, int, stat, TYPES(const char *, struct stat *),
     (const char *path, struct stat *st), (path, st))
MOVE(FILES, EIO, read, TYPES(int, void *, size_t), (int fd, void *p, size_t n), (fd, p, n), (fd, p, 1))
MOVE(FILES, EIO, pread, TYPES(int, void *, size_t, off_t), (int fd, void *p, size_t n, off_t at),
     (fd, p, n, at), (fd, p, 1, at))
MOVE(FILES, ENOSPC, write, TYPES(int, const void *, size_t), (int fd, const void *p, size_t n),
     (fd, p, n), (fd, p, 1))
MOVE(FILES, ENOSYS, getrandom, TYPES(void *, size_t, unsigned), (void *p, size_t n, unsigned flags),
     (p, n, flags), (p, 1, flags))

/* It is closed whatever it says, as on Linux. */
int close(int fd)
{
    const bool fails = hit(FILES, E2, "close");
    NEXT(int, close, int)
    const int rc = next(fd);
    if (fails) {
        errno = error_of(EIO);
        return -1;
    }
    return rc;
}

CALL(SOCKETS, E1, EMFILE, -1, int, socket, TYPES(int, int, int), (int domain, int type, int protocol),
     (domain, type, protocol))
CALL(SOCKETS, E1, EADDRINUSE, -1, int, bind, TYPES(int, const struct sockaddr *, socklen_t),
     (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
CALL(SOCKETS, E1, EADDRINUSE, -1, int, listen, TYPES(int, int), (int fd, int n), (fd, n))
CALL(SOCKETS, E2, EMFILE, -1, int, accept, TYPES(int, struct sockaddr *, socklen_t *),
     (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
CALL(SOCKETS, E2, EMFILE, -1, int, accept4, TYPES(int, struct sockaddr *, socklen_t *, int),
     (int fd, struct sockaddr *a, socklen_t *n, int flags), (fd, a, n, flags))
CALL(SOCKETS, E2, ECONNREFUSED, -1, int, connect, TYPES(int, const struct sockaddr *, socklen_t),
     (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
MOVE(SOCKETS, ECONNRESET, recv, TYPES(int, void *, size_t, int), (int fd, void *p, size_t n, int flags),
     (fd, p, n, flags), (fd, p, 1, flags))
MOVE(SOCKETS, ECONNRESET, send, TYPES(int, const void *, size_t, int),
     (int fd, const void *p, size_t n, int flags), (fd, p, n, flags), (fd, p, 1, flags))
CALL(SOCKETS, E2, ENOMEM, -1, int, poll, TYPES(struct pollfd *, nfds_t, int),
     (struct pollfd * p, nfds_t n, int ms), (p, n, ms))
CALL(SOCKETS, E1, EINVAL, -1, int, setsockopt, TYPES(int, int, int, const void *, socklen_t),
     (int fd, int level, int name, const void *p, socklen_t n), (fd, level, name, p, n))
CALL(SOCKETS, E1, EINVAL, -1, int, getsockopt, TYPES(int, int, int, void *, socklen_t *),
     (int fd, int level, int name, void *p, socklen_t *n), (fd, level, name, p, n))
CALL(SOCKETS, E1, EINVAL, -1, int, getsockname, TYPES(int, struct sockaddr *, socklen_t *),
     (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
CALL(SOCKETS, E1, ENOTCONN, -1, int, getpeername, TYPES(int, struct sockaddr *, socklen_t *),
     (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
CALL(SOCKETS, E1, ENOTCONN, -1, int, shutdown, TYPES(int, int), (int fd, int how), (fd, how))

/* The command is passed on with the word behind it, whether there is one or not. */
#define CONTROL(name)                                                                              \
    int name(int fd, int what, ...)                                                                \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, what);                                                                      \
        void *arg = va_arg(rest, void *);                                                          \
        va_end(rest);                                                                              \
        if (hit(FILES, E1, #name)) {                                                               \
            errno = EIO;                                                                           \
            return -1;                                                                             \
        }                                                                                          \
        NEXT(int, name, int, int, ...)                                                             \
        return next(fd, what, arg);                                                                \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

typedef void *thread_main(void *);
int pthread_create(pthread_t *t, const pthread_attr_t *attr, thread_main *f, void *arg)
{
    if (hit(THREADS, E1, "pthread_create"))
        return EAGAIN;
    NEXT(int, pthread_create, pthread_t *, const pthread_attr_t *, thread_main *, void *)
    return next(t, attr, f, arg);
}
