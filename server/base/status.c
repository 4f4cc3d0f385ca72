/* status.c - the error table as look-ups, and the error record. See guardian/status.h. */
#include "guardian/status.h"

#include <stdarg.h>
#include <string.h>

struct row {
    int code;
    const char *wire;
    int http;
    const char *msg;
};

static const struct row rows[] = {{GD_OK, "ok", 200, "ok"},
#define X(code, name, wire, http, msg) {(code), (wire), (http), (msg)},
                                  GD_STATUS_TABLE(X)
#undef X
};

static const struct row *find_row(int code)
{
    const size_t n = sizeof rows / sizeof rows[0];
    for (size_t i = 0; i < n; i++) {
        if (rows[i].code == code)
            return &rows[i];
    }
    return find_row(GD_EINTERNAL);
}

const char *gd_status_wire(int code)
{
    return find_row(code)->wire;
}

int gd_status_http(int code)
{
    return find_row(code)->http;
}

const char *gd_status_message(int code)
{
    return find_row(code)->msg;
}

/* Formatted text that did not fit was cut at a byte: drop the last character when it is incomplete.
 */
static void trim_cut_char(char *text)
{
    const size_t len = strlen(text);
    size_t lead = len;
    while (lead > 0 && len - lead < 4 && ((unsigned char)text[lead - 1] & 0xC0) == 0x80)
        lead--;
    if (lead == 0)
        return;
    const unsigned char c = (unsigned char)text[lead - 1];
    const size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    if (need > len - (lead - 1))
        text[lead - 1] = '\0';
}

static void format(char *out, size_t size, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));

static void format(char *out, size_t size, const char *fmt, va_list args)
{
    const int n = vsnprintf(out, size, fmt, args);
    if (n < 0)
        out[0] = '\0';
    else if ((size_t)n >= size)
        trim_cut_char(out);
}

int(gd_err_set)(struct gd_err *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char text[GD_ERR_MSG_MAX]; /* an argument may be err->msg itself */
    va_list args;
    va_start(args, fmt);
    format(text, sizeof text, fmt, args);
    va_end(args);
    err->code = code;
    memcpy(err->msg, text, strlen(text) + 1);
    return code;
}

void gd_err_prefix(struct gd_err *err, const char *fmt, ...)
{
    if (!err)
        return;
    char prefix[GD_ERR_MSG_MAX];
    char text[2 * GD_ERR_MSG_MAX + 2];
    va_list args;
    va_start(args, fmt);
    format(prefix, sizeof prefix, fmt, args);
    va_end(args);
    (void)snprintf(text, sizeof text, "%s: %s", prefix, err->msg);
    const size_t n = strlen(text);
    const size_t keep = n < sizeof err->msg ? n : sizeof err->msg - 1;
    memcpy(err->msg, text, keep);
    err->msg[keep] = '\0';
    if (keep < n)
        trim_cut_char(err->msg);
}
