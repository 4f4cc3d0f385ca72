/* wraps.c - one stand-in for each call of calls.txt, through which the linker sends it (--wrap).
 *
 * Each asks whether it is to fail now; if not it is the real call. Types of libraries that the tests
 * do not include are written as plain pointers and numbers of the same size. */
#include "faults.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "guardian/arena.h"
#include "guardian/status.h"

#define ERROR (1u << FAULTS_ERROR)
#define FULL (1u << FAULTS_FULL)
#define INTR (1u << FAULTS_INTR)
#define SHORT (1u << FAULTS_SHORT)

#define HIT(group, ways, name) faults_hit(group, ways, name, __builtin_return_address(0))

/* Not a fault: few connections, since each has a thread that the leak checker stops after every run. */
uint32_t __real_gd_sockets_init(uint32_t n);
uint32_t __wrap_gd_sockets_init(uint32_t n);
uint32_t __wrap_gd_sockets_init(uint32_t n)
{
    return __real_gd_sockets_init(n < 16 ? n : 16);
}

/* ---- calls that fail in one way: a value, and errno ---- */

#define FAILING(group, error, value, type, name, params, args)                                     \
    type __real_##name params;                                                                     \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params                                                                      \
    {                                                                                              \
        if (HIT(group, ERROR, #name)) {                                                            \
            errno = (error);                                                                       \
            return value;                                                                          \
        }                                                                                          \
        return __real_##name args;                                                                 \
    }

/* Memory that is taken and given back. */
#define TAKING(type, name, params, args)                                                           \
    type __real_##name params;                                                                     \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params                                                                      \
    {                                                                                              \
        if (HIT(FAULTS_MEMORY, ERROR, #name)) {                                                    \
            errno = ENOMEM;                                                                        \
            return NULL;                                                                           \
        }                                                                                          \
        type p = __real_##name args;                                                               \
        faults_took(p);                                                                            \
        return p;                                                                                  \
    }

TAKING(void *, malloc, (size_t n), (n))
TAKING(void *, calloc, (size_t n, size_t size), (n, size))
TAKING(void *, aligned_alloc, (size_t align, size_t n), (align, n))
TAKING(char *, strdup, (const char *s), (s))
TAKING(char *, strndup, (const char *s, size_t n), (s, n))

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n)
{
    if (HIT(FAULTS_MEMORY, ERROR, "realloc")) {
        errno = ENOMEM;
        return NULL;
    }
    void *q = __real_realloc(p, n);
    if (p == NULL)
        faults_took(q);
    return q;
}

int __real_posix_memalign(void **out, size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
    if (HIT(FAULTS_MEMORY, ERROR, "posix_memalign"))
        return ENOMEM;
    int rc = __real_posix_memalign(out, align, n);
    faults_took(rc == 0 ? *out : NULL);
    return rc;
}

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p)
{
    faults_gave(p);
    __real_free(p);
}

FAILING(FAULTS_MEMORY, ENOMEM, NULL, void *, newlocale, (int mask, const char *name, void *base),
        (mask, name, base))
FAILING(FAULTS_MEMORY, ENOMEM, NULL, FILE *, open_memstream, (char **p, size_t *n), (p, n))

/* ---- ours ---- */

FAILING(FAULTS_ARENA, errno, NULL, void *, gd_arena_alloc, (struct gd_arena * a, size_t n), (a, n))
FAILING(FAULTS_ARENA, errno, NULL, void *, gd_arena_calloc,
        (struct gd_arena * a, size_t n, size_t size), (a, n, size))
FAILING(FAULTS_ARENA, errno, GD_ENOMEM, int, gd_str_dup,
        (struct gd_arena * a, struct gd_str s, struct gd_str *out), (a, s, out))

/* A buffer that needs to grow here, and cannot. */
#define APPENDING(name, params, args)                                                              \
    void __real_##name params;                                                                     \
    void __wrap_##name params;                                                                     \
    void __wrap_##name params                                                                      \
    {                                                                                              \
        if (b->failed == 0 && HIT(FAULTS_APPEND, ERROR, #name))                                    \
            b->failed = GD_ENOMEM;                                                                 \
        __real_##name args;                                                                        \
    }

APPENDING(gd_buf_add, (struct gd_buf * b, const char *p, size_t n), (b, p, n))
APPENDING(gd_buf_str, (struct gd_buf * b, struct gd_str s), (b, s))
APPENDING(gd_buf_z, (struct gd_buf * b, const char *z), (b, z))

/* ---- files and sockets ---- */

/* errno for the way of the plan. */
static int error_of(int error, int full)
{
    const enum faults_way way = faults_way_now();
    return way == FAULTS_INTR ? EINTR : way == FAULTS_FULL ? full : error;
}

/* Calls that can be interrupted, or find that there are no more descriptors, or no more room. */
#define CALLING(group, ways, error, full, value, type, name, params, args)                         \
    type __real_##name params;                                                                     \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params                                                                      \
    {                                                                                              \
        if (HIT(group, ways, #name)) {                                                             \
            errno = error_of(error, full);                                                         \
            return value;                                                                          \
        }                                                                                          \
        return __real_##name args;                                                                 \
    }

/* Calls that move bytes. */
#define MOVING(group, ways, error, full, name, params, args, least)                                \
    ssize_t __real_##name params;                                                                  \
    ssize_t __wrap_##name params;                                                                  \
    ssize_t __wrap_##name params                                                                   \
    {                                                                                              \
        if (HIT(group, ways, #name)) {                                                             \
            if (faults_way_now() == FAULTS_SHORT && n > 1)                                         \
                return __real_##name least;                                                        \
            errno = error_of(error, full);                                                         \
            return -1;                                                                             \
        }                                                                                          \
        return __real_##name args;                                                                 \
    }

/* The mode is only read where the flags say that there is one; it is always passed on. */
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    const unsigned mode = va_arg(rest, unsigned);
    va_end(rest);
    if (HIT(FAULTS_FILE, ERROR | FULL | INTR, "open")) {
        errno = error_of(EIO, EMFILE);
        return -1;
    }
    return __real_open(path, flags, mode);
}

int __real_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat(int dir, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    const unsigned mode = va_arg(rest, unsigned);
    va_end(rest);
    if (HIT(FAULTS_FILE, ERROR | FULL | INTR, "openat")) {
        errno = error_of(EIO, EMFILE);
        return -1;
    }
    return __real_openat(dir, path, flags, mode);
}

int __real_fcntl(int fd, int what, ...);
int __wrap_fcntl(int fd, int what, ...);
int __wrap_fcntl(int fd, int what, ...)
{
    va_list rest;
    va_start(rest, what);
    void *arg = va_arg(rest, void *);
    va_end(rest);
    if (HIT(FAULTS_FILE, ERROR, "fcntl")) {
        errno = EIO;
        return -1;
    }
    return __real_fcntl(fd, what, arg);
}

#define SCANNING(name)                                                                             \
    int __wrap_##name(FILE *f, const char *format, ...) __attribute__((format(scanf, 2, 3)));      \
    int __wrap_##name(FILE *f, const char *format, ...)                                            \
    {                                                                                              \
        if (HIT(FAULTS_FILE, ERROR, #name)) {                                                      \
            errno = EIO;                                                                           \
            return EOF;                                                                            \
        }                                                                                          \
        va_list rest;                                                                              \
        va_start(rest, format);                                                                    \
        const int n = vfscanf(f, format, rest);                                                    \
        va_end(rest);                                                                              \
        return n;                                                                                  \
    }
SCANNING(__isoc99_fscanf)
SCANNING(__isoc23_fscanf)

struct iovec;
CALLING(FAULTS_FILE, ERROR | FULL, EIO, EMFILE, NULL, FILE *, fopen,
        (const char *path, const char *mode), (path, mode))
CALLING(FAULTS_FILE, ERROR | FULL, EIO, EMFILE, NULL, FILE *, fdopen, (int fd, const char *mode),
        (fd, mode))
CALLING(FAULTS_FILE, ERROR | FULL, EIO, EMFILE, NULL, void *, opendir, (const char *path), (path))
CALLING(FAULTS_FILE, ERROR | FULL, EIO, EMFILE, -1, int, pipe2, (int fds[2], int flags),
        (fds, flags))
FAILING(FAULTS_FILE, EIO, -1, int, fstat, (int fd, struct stat *st), (fd, st))
FAILING(FAULTS_FILE, EIO, -1, int, stat, (const char *path, struct stat *st), (path, st))
FAILING(FAULTS_FILE, EIO, -1, int, lstat, (const char *path, struct stat *st), (path, st))
FAILING(FAULTS_FILE, EIO, -1, int, access, (const char *path, int mode), (path, mode))
FAILING(FAULTS_FILE, EIO, NULL, char *, fgets, (char *s, int n, FILE *f), (s, n, f))
FAILING(FAULTS_FILE, EIO, 0, size_t, fread, (void *p, size_t size, size_t n, FILE *f),
        (p, size, n, f))
FAILING(FAULTS_FILE, EIO, -1, ssize_t, getline, (char **p, size_t *n, FILE *f), (p, n, f))
FAILING(FAULTS_FILE, EIO, -1, off_t, lseek, (int fd, off_t at, int from), (fd, at, from))
CALLING(FAULTS_FILE, ERROR | FULL | INTR, EIO, ENOSPC, -1, int, fsync, (int fd), (fd))
CALLING(FAULTS_FILE, ERROR | FULL | INTR, EIO, ENOSPC, -1, int, fdatasync, (int fd), (fd))
MOVING(FAULTS_FILE, ERROR | INTR | SHORT, EIO, EIO, read, (int fd, void *p, size_t n), (fd, p, n),
       (fd, p, 1))
MOVING(FAULTS_FILE, ERROR | INTR | SHORT, EIO, EIO, pread, (int fd, void *p, size_t n, off_t at),
       (fd, p, n, at), (fd, p, 1, at))
MOVING(FAULTS_FILE, ERROR | FULL | INTR | SHORT, EIO, ENOSPC, write,
       (int fd, const void *p, size_t n), (fd, p, n), (fd, p, 1))
CALLING(FAULTS_FILE, ERROR | INTR, EIO, EIO, -1, ssize_t, readv,
        (int fd, const struct iovec *v, int n), (fd, v, n))
CALLING(FAULTS_FILE, ERROR | INTR, EIO, EIO, -1, ssize_t, preadv,
        (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))

CALLING(FAULTS_SOCKET, ERROR | FULL, ENOBUFS, EMFILE, -1, int, socket,
        (int domain, int type, int protocol), (domain, type, protocol))
FAILING(FAULTS_SOCKET, EADDRINUSE, -1, int, bind, (int fd, const struct sockaddr *a, socklen_t n),
        (fd, a, n))
FAILING(FAULTS_SOCKET, EADDRINUSE, -1, int, listen, (int fd, int n), (fd, n))
CALLING(FAULTS_SOCKET, ERROR | FULL | INTR, ECONNABORTED, EMFILE, -1, int, accept,
        (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
CALLING(FAULTS_SOCKET, ERROR | FULL | INTR, ECONNABORTED, EMFILE, -1, int, accept4,
        (int fd, struct sockaddr *a, socklen_t *n, int flags), (fd, a, n, flags))
CALLING(FAULTS_SOCKET, ERROR | INTR, ECONNREFUSED, EIO, -1, int, connect,
        (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
MOVING(FAULTS_SOCKET, ERROR | INTR | SHORT, ECONNRESET, EIO, send,
       (int fd, const void *p, size_t n, int flags), (fd, p, n, flags), (fd, p, 1, flags))
MOVING(FAULTS_SOCKET, ERROR | INTR | SHORT, ECONNRESET, EIO, recv,
       (int fd, void *p, size_t n, int flags), (fd, p, n, flags), (fd, p, 1, flags))
CALLING(FAULTS_SOCKET, ERROR | INTR, ECONNRESET, EIO, -1, ssize_t, sendmsg,
        (int fd, const struct msghdr *m, int flags), (fd, m, flags))
CALLING(FAULTS_SOCKET, ERROR | INTR, ENOMEM, EIO, -1, int, poll,
        (struct pollfd * p, nfds_t n, int ms), (p, n, ms))
CALLING(FAULTS_SOCKET, ERROR | INTR, ENOMEM, EIO, -1, int, ppoll,
        (struct pollfd * p, nfds_t n, const struct timespec *t, const void *mask), (p, n, t, mask))
FAILING(FAULTS_SOCKET, EINVAL, -1, int, setsockopt,
        (int fd, int level, int name, const void *p, socklen_t n), (fd, level, name, p, n))
FAILING(FAULTS_SOCKET, EINVAL, -1, int, getsockopt,
        (int fd, int level, int name, void *p, socklen_t *n), (fd, level, name, p, n))
FAILING(FAULTS_SOCKET, ENOTCONN, -1, int, getpeername,
        (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
FAILING(FAULTS_SOCKET, EINVAL, -1, int, getsockname,
        (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n))
FAILING(FAULTS_SOCKET, ENOTCONN, -1, int, shutdown, (int fd, int how), (fd, how))

/* The HTTP library's own: an error, or less than was asked for. */
#define HTTP_MOVING(name, type)                                                                    \
    int __real_##name(void *conn, type p, size_t n);                                               \
    int __wrap_##name(void *conn, type p, size_t n);                                               \
    int __wrap_##name(void *conn, type p, size_t n)                                                \
    {                                                                                              \
        if (!HIT(FAULTS_SOCKET, ERROR | SHORT, #name))                                             \
            return __real_##name(conn, p, n);                                                      \
        return faults_way_now() == FAULTS_SHORT && n > 1 ? __real_##name(conn, p, 1) : -1;         \
    }

HTTP_MOVING(mg_read, void *)
HTTP_MOVING(mg_write, const void *)

/* ---- threads, random bytes, what the system is asked about ---- */

typedef void *thread_main(void *);
FAILING(FAULTS_SYSTEM, errno, EAGAIN, int, pthread_create,
        (pthread_t * t, const pthread_attr_t *attr, thread_main *f, void *arg), (t, attr, f, arg))
MOVING(FAULTS_SYSTEM, ERROR | INTR | SHORT, ENOSYS, EIO, getrandom,
       (void *p, size_t n, unsigned flags), (p, n, flags), (p, 1, flags))
FAILING(FAULTS_SYSTEM, EINVAL, -1, int, sched_getaffinity,
        (pid_t pid, size_t n, cpu_set_t *set), (pid, n, set))
FAILING(FAULTS_SYSTEM, EINVAL, -1, long, sysconf, (int name), (name))
FAILING(FAULTS_SYSTEM, ESRCH, -1, int, getpriority, (int which, unsigned who), (which, who))
FAILING(FAULTS_SYSTEM, EACCES, -1, int, setpriority, (int which, unsigned who, int to),
        (which, who, to))
FAILING(FAULTS_SYSTEM, ENOMEM, -1, int, madvise, (void *p, size_t n, int advice), (p, n, advice))
FAILING(FAULTS_SYSTEM, EMFILE, -1, int, eventfd, (unsigned n, int flags), (n, flags))
FAILING(FAULTS_SYSTEM, EMFILE, -1, int, epoll_create1, (int flags), (flags))
FAILING(FAULTS_SYSTEM, ENOMEM, -1, int, epoll_ctl, (int fd, int op, int of, void *event),
        (fd, op, of, event))
CALLING(FAULTS_SYSTEM, ERROR | INTR, EINVAL, EIO, -1, int, epoll_wait,
        (int fd, void *events, int n, int ms), (fd, events, n, ms))
FAILING(FAULTS_SYSTEM, EMFILE, -1, int, timerfd_create, (int clock, int flags), (clock, flags))
#define NO_MAP ((void *)-1)
FAILING(FAULTS_SYSTEM, ENOMEM, NO_MAP, void *, mmap,
        (void *p, size_t n, int prot, int flags, int fd, off_t at), (p, n, prot, flags, fd, at))

/* ---- libraries that run out of memory ----
 *
 * The real ones are weak: oneDNN 2 and 3 have different sets of them. */

#define LIBRARY(value, type, name, params, args)                                                   \
    type __real_##name params __attribute__((weak));                                               \
    FAILING(FAULTS_LIBRARY, ENOMEM, value, type, name, params, args)

LIBRARY(NULL, void *, mg_start, (const void *callbacks, void *user, const char **options),
        (callbacks, user, options))

#define PCRE2_NOMEMORY (-48)
#define PCRE2_HEAP_FAILED 121
LIBRARY(NULL, void *, pcre2_compile_context_create_8, (void *general), (general))
LIBRARY(NULL, void *, pcre2_match_context_create_8, (void *general), (general))
LIBRARY(NULL, void *, pcre2_match_context_copy_8, (void *m), (m))
LIBRARY(NULL, void *, pcre2_match_data_create_from_pattern_8, (const void *code, void *general),
        (code, general))
LIBRARY(NULL, void *, pcre2_jit_stack_create_8, (size_t start, size_t max, void *general),
        (start, max, general))
LIBRARY(PCRE2_NOMEMORY, int, pcre2_jit_compile_8, (void *code, uint32_t options), (code, options))
LIBRARY(PCRE2_NOMEMORY, int, pcre2_match_8,
        (const void *code, const uint8_t *s, size_t n, size_t at, uint32_t options, void *data,
         void *context),
        (code, s, n, at, options, data, context))

void *__real_pcre2_compile_8(const uint8_t *s, size_t n, uint32_t options, int *error, size_t *at,
                             void *context);
void *__wrap_pcre2_compile_8(const uint8_t *s, size_t n, uint32_t options, int *error, size_t *at,
                             void *context);
void *__wrap_pcre2_compile_8(const uint8_t *s, size_t n, uint32_t options, int *error, size_t *at,
                             void *context)
{
    if (!HIT(FAULTS_LIBRARY, ERROR, "pcre2_compile"))
        return __real_pcre2_compile_8(s, n, options, error, at, context);
    *error = PCRE2_HEAP_FAILED;
    *at = 0;
    return NULL;
}

#define DNNL(name, params, args) LIBRARY(1, unsigned, dnnl_##name, params, args) /* out of memory */
DNNL(engine_create, (void **out, unsigned kind, size_t index), (out, kind, index))
DNNL(stream_create, (void **out, void *engine, unsigned flags), (out, engine, flags))
DNNL(stream_wait, (void *stream), (stream))
DNNL(matmul_desc_init, (void *out, const void *a, const void *b, const void *bias, const void *c),
     (out, a, b, bias, c))
DNNL(memory_create, (void **out, const void *desc, void *engine, void *handle),
     (out, desc, engine, handle))
DNNL(memory_desc_init_by_strides,
     (void *out, int n, const void *dims, unsigned type, const void *strides),
     (out, n, dims, type, strides))
DNNL(memory_desc_init_by_tag, (void *out, int n, const void *dims, unsigned type, unsigned tag),
     (out, n, dims, type, tag))
DNNL(memory_set_data_handle, (void *memory, void *handle), (memory, handle))
DNNL(primitive_attr_create, (void **out), (out))
DNNL(primitive_attr_set_scratchpad_mode, (void *attr, unsigned mode), (attr, mode))
DNNL(primitive_create, (void **out, const void *desc), (out, desc))
DNNL(primitive_desc_create,
     (void **out, const void *op, const void *attr, void *engine, const void *hint),
     (out, op, attr, engine, hint))
DNNL(reorder_primitive_desc_create,
     (void **out, const void *from, void *from_engine, const void *to, void *to_engine,
      const void *attr),
     (out, from, from_engine, to, to_engine, attr))
DNNL(primitive_execute, (const void *primitive, void *stream, int n, const void *args),
     (primitive, stream, n, args))
DNNL(matmul_primitive_desc_create,
     (void **out, void *engine, const void *a, const void *b, const void *bias, const void *c,
      const void *attr),
     (out, engine, a, b, bias, c, attr))
DNNL(memory_desc_create_with_strides,
     (void **out, int n, const void *dims, unsigned type, const void *strides),
     (out, n, dims, type, strides))
DNNL(memory_desc_create_with_tag,
     (void **out, int n, const void *dims, unsigned type, unsigned tag),
     (out, n, dims, type, tag))
DNNL(memory_desc_clone, (void **out, const void *from), (out, from))
