/* log.c - the log. See guardian/log.h.
 *
 * A line is built in a buffer by the JSON writer, then copied into a second one that escapes what
 * JSON allows but lines and terminals do not like; such characters can only stand inside strings
 * there. The mutex keeps a line whole when a pipe takes it in parts. A reader that has stopped is
 * waited for once, for GD_LOG_WAIT_MS; then lines are lost, and counted, until it goes on: requests do
 * not hang on their log. */
#include "guardian/log.h"
#include "guardian/json.h"
#include "guardian/limits.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const char *const severity_texts[] = {"ERROR", "WARN", "INFO", "DEBUG"};

static _Atomic int log_level = GD_LOG_INFO;
static _Atomic int log_fd = STDERR_FILENO;
static _Atomic(const char *) log_version = "";
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
/* Under the mutex. */
static bool line_torn;      /* the last line is there in part */
static bool reader_gone;    /* nobody has read for a second: lines are lost, not waited for */
static uint64_t lines_lost; /* since that was last told */

void gd_log_set_level(enum gd_log_level level)
{
    atomic_store(&log_level, (int)level);
}

bool gd_log_enabled(enum gd_log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

bool gd_log_level_parse(const char *name, enum gd_log_level *out)
{
    for (int i = GD_LOG_ERROR; i <= GD_LOG_DEBUG; i++) {
        if (name && strcmp(name, level_names[i]) == 0) {
            *out = (enum gd_log_level)i;
            return true;
        }
    }
    return false;
}

void gd_log_set_fd(int fd)
{
    pthread_mutex_lock(&log_mutex);
    atomic_store(&log_fd, fd);
    line_torn = reader_gone = false;
    lines_lost = 0;
    pthread_mutex_unlock(&log_mutex);
}

void gd_log_set_version(const char *version)
{
    atomic_store(&log_version, version);
}

static void put_time(struct gd_json_writer *w)
{
    struct timespec now;
    struct tm tm;
    char text[64];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    const size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text + n, sizeof text - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
    gd_jw_key(w, "timestamp");
    gd_jw_strz(w, text);
}

/* Long texts are cut before the character that would pass the limit. */
static void put_text(struct gd_json_writer *w, struct gd_str s)
{
    size_t n = s.len;
    if (n > GD_LOG_STR_BYTES_MAX) {
        n = GD_LOG_STR_BYTES_MAX;
        while (n > 0 && ((unsigned char)s.ptr[n] & 0xC0) == 0x80)
            n--;
    }
    gd_jw_str(w, (struct gd_str){s.ptr, n});
}

static void put_service(struct gd_json_writer *w)
{
    const char *version = atomic_load(&log_version);
    gd_jw_put_str(w, "service.name", "guardian");
    if (version[0] != '\0') {
        gd_jw_key(w, "service.version");
        put_text(w, gd_str_from(version));
    }
}

static void put_field(struct gd_json_writer *w, const struct gd_log_field *f)
{
    gd_jw_key(w, f->key);
    switch (f->type) {
    case GD_LOG_T_STR:
        put_text(w, f->str);
        break;
    case GD_LOG_T_I64:
        gd_jw_i64(w, f->i64);
        break;
    case GD_LOG_T_F64:
        gd_jw_f64(w, f->f64);
        break;
    case GD_LOG_T_BOOL:
        gd_jw_bool(w, f->i64 != 0);
        break;
    }
}

static bool breaks_line(uint32_t cp)
{
    return (cp >= 0x80 && cp <= 0x9F) || cp == 0x2028 || cp == 0x2029;
}

static void copy_escaped(struct gd_buf *to, struct gd_str from)
{
    size_t start = 0;
    for (size_t i = 0; i < from.len;) {
        uint32_t cp;
        const size_t len = (size_t)gd_utf8_next(from, i, &cp); /* the writer gave valid UTF-8 */
        if (breaks_line(cp)) {
            gd_buf_add(to, from.ptr + start, i - start);
            gd_buf_fmt(to, "\\u%04x", (unsigned)cp);
            start = i + len;
        }
        i += len;
    }
    gd_buf_add(to, from.ptr + start, from.len - start);
    gd_buf_add(to, "\n", 1);
}

/* Waits until something can be written: a second, and not at all while a reader has not come back. */
static bool can_write(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    const int k = poll(&p, 1, reader_gone ? 0 : GD_LOG_WAIT_MS);
    reader_gone = k == 0;
    return k != 0; /* what is wrong with it the write will tell */
}

/* Bytes of p that were written. A pipe that can be written has room for PIPE_BUF bytes. */
static size_t write_all(const char *p, size_t n)
{
    const int fd = atomic_load(&log_fd);
    size_t done = 0;
    while (done < n && can_write(fd)) {
        const ssize_t k = write(fd, p + done, n - done < PIPE_BUF ? n - done : PIPE_BUF);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            break;
        done += (size_t)k;
    }
    return done;
}

/* False when the line is lost. *lost: how many were, since that was last asked for, when it is not. */
static bool write_line(const char *p, size_t n, uint64_t *lost)
{
    pthread_mutex_lock(&log_mutex);
    if (line_torn)
        line_torn = write_all("\n", 1) == 0;
    const size_t done = line_torn ? 0 : write_all(p, n);
    line_torn = line_torn || (done > 0 && done < n);
    *lost = done == n ? lines_lost : 0;
    lines_lost = done == n ? 0 : lines_lost + 1;
    pthread_mutex_unlock(&log_mutex);
    return done == n;
}

/* As gd_log_write, whatever the level. */
static bool log_line(enum gd_log_level level, const char *msg, const struct gd_log_field *fields,
                     size_t n, uint64_t *lost)
{
    static const char failed[] = "{\"severity_text\":\"ERROR\",\"msg\":\"a log line was lost\"}\n";
    struct gd_buf json;
    struct gd_buf line;
    struct gd_json_writer w;
    gd_buf_init(&json, GD_LOG_LINE_BYTES_MAX);
    gd_buf_init(&line, GD_LOG_LINE_BYTES_MAX);
    gd_json_writer_init(&w, &json);
    gd_jw_object(&w);
    put_time(&w);
    gd_jw_put_str(&w, "severity_text", severity_texts[level]);
    gd_jw_key(&w, "msg");
    put_text(&w, gd_str_from(msg));
    put_service(&w);
    for (size_t i = 0; i < n; i++)
        put_field(&w, &fields[i]);
    gd_jw_object_end(&w);
    if (!json.failed)
        copy_escaped(&line, (struct gd_str){json.data, json.len});
    const bool there = json.failed || line.failed ? write_line(failed, sizeof failed - 1, lost)
                                                  : write_line(line.data, line.len, lost);
    gd_buf_free(&json);
    gd_buf_free(&line);
    return there;
}

void gd_log_write(enum gd_log_level level, const char *msg, const struct gd_log_field *fields,
                  size_t n)
{
    uint64_t lost = 0, more = 0;
    if (!gd_log_enabled(level))
        return;
    const int saved_errno = errno;
    if (log_line(level, msg, fields, n, &lost) && lost > 0) {
        const struct gd_log_field lines = GD_LOG_I64("lines", (int64_t)lost);
        const bool told = log_line(GD_LOG_ERROR, "log lines were lost", &lines, 1, &more);
        pthread_mutex_lock(&log_mutex);
        lines_lost +=
            told ? more : lost - 1; /* it counts itself when it is lost, but is not missed */
        pthread_mutex_unlock(&log_mutex);
    }
    errno = saved_errno;
}
