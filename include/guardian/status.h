/* status.h - one table of error codes, and the error record that load and parse paths fill.
 *
 * Functions return 0 (GD_OK) or one negative GD_E code. Where a person will read why, the function
 * also takes a `struct gd_err *`: on failure its msg is one sentence that names the field, file or
 * byte and what was expected. Any thread; a gd_err belongs to its caller. */
#ifndef GUARDIAN_STATUS_H
#define GUARDIAN_STATUS_H

#include <stdio.h>
#include <stdlib.h>

/* code, name on the wire, HTTP status it becomes, default message */
#define GD_STATUS_TABLE(X)                                                                         \
    X(-1, ENOMEM, "out_of_memory", 503, "not enough memory")                                       \
    X(-2, EIO, "io_error", 500, "a file could not be read")                                        \
    X(-3, EJSON, "invalid_json", 400, "the text is not valid JSON")                                \
    X(-4, EFIELD, "invalid_field", 422, "a field has an unexpected value")                         \
    X(-5, ELIMIT, "limit_exceeded", 413, "a size is over its limit")                               \
    X(-6, EMODEL, "invalid_model", 500, "the model directory is not usable")                       \
    X(-7, EPOLICY, "invalid_policy", 500, "the policy file is not usable")                         \
    X(-8, EBUSY, "overloaded", 503, "too many requests are waiting")                               \
    X(-9, EDEADLINE, "deadline_exceeded", 504, "the deadline passed before a verdict")             \
    X(-10, EBACKEND, "backend_error", 503, "the compute back end failed")                          \
    X(-11, ENUMERIC, "non_finite_scores", 500, "the model produced scores that are not finite")    \
    X(-12, EUSAGE, "usage", 400, "wrong usage")                                                    \
    X(-13, EDRAINING, "draining", 503, "the server is shutting down")                              \
    X(-14, ENOTFOUND, "not_found", 404, "no such thing")                                           \
    X(-15, EINTERNAL, "internal", 500, "an invariant of the program does not hold")                \
    X(-16, ECANCELED, "canceled", 499, "the client left before there was a verdict")               \
    X(-17, EFORBIDDEN, "policy_not_allowed", 403, "the key is not allowed to use this policy")

enum gd_status {
    GD_OK = 0,
#define X(code, name, wire, http, msg) GD_##name = (code),
    GD_STATUS_TABLE(X)
#undef X
};

#define GD_ERR_MSG_MAX 512

struct gd_err {
    int code;
    char msg[GD_ERR_MSG_MAX]; /* UTF-8, never cut inside a character */
};

/* Stores code and the formatted message (err may be NULL) and returns code, so that `return
 * gd_err_set(...)` reads. */
int gd_err_set(struct gd_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef GD_ANALYZER /* Static analyzers see one file at a time: what is returned is the code. */
static inline int gd_err_second(int rc, int code)
{
    (void)rc;
    return code;
}
#define gd_err_set(err, code, ...) gd_err_second((gd_err_set)((err), (code), __VA_ARGS__), (code))
#endif

/* Puts "prefix: " before the message; keeps the code. For callers that know the file or field. */
void gd_err_prefix(struct gd_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const char *gd_status_wire(int code); /* "invalid_json", ...; "ok" for 0 */
int gd_status_http(int code);         /* 400, ...; 200 for 0 */
const char *gd_status_message(int code);

/* An invariant: stays on in release builds. Never for input. */
#define GD_ASSERT(cond)                                                                            \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "guardian: invariant failed at %s:%d: %s\n", __FILE__, __LINE__,       \
                    #cond);                                                                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
