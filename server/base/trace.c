/* trace.c - W3C Trace Context. See guardian/trace.h. */
#include "guardian/trace.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define TRACEPARENT_BYTES (2 + 1 + GD_TRACE_ID_HEX + 1 + GD_SPAN_ID_HEX + 1 + 2)
#define TRACE_ID_AT 3
#define PARENT_ID_AT (TRACE_ID_AT + GD_TRACE_ID_HEX + 1)
#define FLAGS_AT (PARENT_ID_AT + GD_SPAN_ID_HEX + 1)

static const char HEX[] = "0123456789abcdef"; /* what may come: lower case only */

/* Without random bytes ids must still differ: they are for finding lines, not secrets. */
static void fill_random(unsigned char *bytes, size_t n)
{
    static _Atomic uint64_t count;
    if (getrandom(bytes, n, 0) == (ssize_t)n) {
        return;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t parts[] = {atomic_fetch_add(&count, 1) + 1, (uint64_t)now.tv_nsec};
    for (size_t i = 0; i < n; i++) {
        bytes[i] = (unsigned char)(parts[i / 8 % 2] >> (i % 8 * 8));
    }
}

static void put_id(char *out, size_t n_hex, unsigned char *bytes)
{
    bool zero = true;
    for (size_t i = 0; i < n_hex / 2; i++) {
        zero = zero && bytes[i] == 0;
    }
    if (zero) {
        bytes[0] = 1;
    }
    gd_hex(bytes, n_hex / 2, out);
}

void gd_trace_init(struct gd_trace *t)
{
    unsigned char bytes[(GD_TRACE_ID_HEX + GD_SPAN_ID_HEX) / 2];
    fill_random(bytes, sizeof bytes);
    *t = (struct gd_trace){.flags = 0};
    put_id(t->trace_id, GD_TRACE_ID_HEX, bytes);
    put_id(t->span_id, GD_SPAN_ID_HEX, bytes + GD_TRACE_ID_HEX / 2);
}

/* n lower-case hex digits. */
static bool is_hex(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\0' || strchr(HEX, p[i]) == NULL) {
            return false;
        }
    }
    return true;
}

/* n hex digits that are not all zero. */
static bool is_id(const char *p, size_t n)
{
    bool zero = true;
    for (size_t i = 0; i < n; i++) {
        zero = zero && p[i] == '0';
    }
    return !zero && is_hex(p, n);
}

bool gd_trace_adopt(struct gd_trace *t, struct gd_str traceparent)
{
    const char *p = traceparent.ptr;
    if (traceparent.len != TRACEPARENT_BYTES || memcmp(p, "00-", 3) != 0 ||
        p[PARENT_ID_AT - 1] != '-' || p[FLAGS_AT - 1] != '-' ||
        !is_id(p + TRACE_ID_AT, GD_TRACE_ID_HEX) || !is_id(p + PARENT_ID_AT, GD_SPAN_ID_HEX) ||
        !is_hex(p + FLAGS_AT, 2)) {
        return false;
    }
    memcpy(t->trace_id, p + TRACE_ID_AT, GD_TRACE_ID_HEX);
    memcpy(t->parent_id, p + PARENT_ID_AT, GD_SPAN_ID_HEX);
    t->parent_id[GD_SPAN_ID_HEX] = '\0';
    t->flags = (uint8_t)((strchr(HEX, p[FLAGS_AT + 1]) - HEX) & (int)GD_TRACE_SAMPLED);
    return true;
}

bool gd_trace_adopt_frames(struct gd_trace *t, const struct gd_json *request)
{
    const struct gd_json *frames = gd_json_get(request, "frames");
    bool found = false;
    if (!gd_json_is(frames, GD_JSON_ARRAY)) {
        return false;
    }
    for (const struct gd_json *f = frames->child; f != NULL; f = f->next) {
        const struct gd_json *meta = gd_json_get(gd_json_get(f, "params"), "_meta");
        const struct gd_json *given = gd_json_get(meta, "traceparent");
        if (gd_json_is(given, GD_JSON_STRING)) {
            found = gd_trace_adopt(t, given->str) || found;
        }
    }
    return found;
}
