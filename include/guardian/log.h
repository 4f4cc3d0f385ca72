/* log.h - the program's log: one JSON object a line on standard error, one write(2) a line.
 *
 *   gd_log(GD_LOG_INFO, "model loaded", GD_LOG_Z("dir", dir), GD_LOG_I64("layers", n));
 *   gd_log_msg(GD_LOG_WARN, "draining");
 *
 * gives {"timestamp":"2026-01-31T12:00:00.000Z","severity_text":"INFO","msg":"model loaded",
 * "service.name":"guardian","service.version":"0.1.0","dir":"...","layers":16}.
 *
 * Names are those of OpenTelemetry where it has one: timestamp, severity_text (its short names) and
 * msg are Timestamp, SeverityText and Body of its log data model, service.* is the resource,
 * trace_id, span_id and trace_flags are what it calls them in JSON logs, and attributes are called
 * as in its semantic conventions (http.request.method, url.path, ...).
 *
 * Every text passes the JSON writer, is cut after GD_LOG_STR_BYTES_MAX, and is stripped of what could
 * break a line or a terminal (C1 controls, U+2028, U+2029 are escaped too), so text from a client
 * cannot forge a line or a member. Keys are literals of this program. Any thread; lines of two threads
 * never mix. A line that cannot be built or written is lost; when only a part of one could be written
 * (a full disk), the next one begins on a line of its own. Logging never fails the caller. */
#ifndef GUARDIAN_LOG_H
#define GUARDIAN_LOG_H

#include "guardian/arena.h"

enum gd_log_level {
    GD_LOG_ERROR,
    GD_LOG_WARN,
    GD_LOG_INFO,
    GD_LOG_DEBUG,
};

enum gd_log_type {
    GD_LOG_T_STR,
    GD_LOG_T_I64,
    GD_LOG_T_F64,
    GD_LOG_T_BOOL,
};

struct gd_log_field {
    const char *key;
    enum gd_log_type type;
    struct gd_str str;
    int64_t i64; /* booleans too */
    double f64;
};

#define GD_LOG_STR(k, s) ((struct gd_log_field){.key = (k), .type = GD_LOG_T_STR, .str = (s)})
#define GD_LOG_Z(k, z) GD_LOG_STR(k, gd_str_from(z))
#define GD_LOG_I64(k, v) ((struct gd_log_field){.key = (k), .type = GD_LOG_T_I64, .i64 = (v)})
#define GD_LOG_F64(k, v) ((struct gd_log_field){.key = (k), .type = GD_LOG_T_F64, .f64 = (v)})
#define GD_LOG_BOOL(k, v) ((struct gd_log_field){.key = (k), .type = GD_LOG_T_BOOL, .i64 = (v)})

/* msg and one or more fields. The fields are evaluated even when the level is off: guard costly
 * ones with gd_log_enabled(). */
#define gd_log(level, msg, ...)                                                                    \
    gd_log_write((level), (msg), (const struct gd_log_field[]){__VA_ARGS__},                       \
                 sizeof((const struct gd_log_field[]){__VA_ARGS__}) / sizeof(struct gd_log_field))
#define gd_log_msg(level, msg) gd_log_write((level), (msg), NULL, 0)

void gd_log_write(enum gd_log_level level, const char *msg, const struct gd_log_field *fields,
                  size_t n);

/* Lines above this level are dropped; GD_LOG_INFO at start. */
void gd_log_set_level(enum gd_log_level level);
bool gd_log_enabled(enum gd_log_level level);
bool gd_log_level_parse(const char *name,
                        enum gd_log_level *out); /* "error", "warn", "info", "debug" */

/* service.version of the lines from now on, "" for none (as at start); borrowed for good. */
void gd_log_set_version(const char *version);

/* Where lines go; 2 at start. The caller keeps owning the descriptor. */
void gd_log_set_fd(int fd);

#endif
