/* fuzz_accept.c - libFuzzer driver of what handlers read of a head beyond its framing: Accept and
 * x-request-id. The input is header lines (split at line feeds; control characters, which the gate refuses,
 * become '?'), each the value of an Accept line, the first of them of x-request-id too. For every input:
 *   - the same answer again, in another case of letters, with blanks around, and with other headers
 *     between;
 *   - one line whose elements are those of all has the same answer, as far as no quotes are open at line
 *     ends;
 *   - naming a type with q=1 makes it preferred, with q=0 in a line of its own changes nothing for the
 *     better;
 *   - without any line nothing is preferred; a type that no line names literally is not either;
 *   - the request id is the caller's when that is short and of harmless letters, else one of ours, never
 *     empty. */
#include "guardian/reply.h"
#include "guardian/service.h"

#include <ctype.h>
#include <string.h>

#define LINES_MAX 8
#define JSON "application/json"
#define STREAM "text/event-stream"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool prefers(const struct gd_http_request *r)
{
    const bool first = gd_accept_prefers(r, JSON, STREAM);
    GD_ASSERT(gd_accept_prefers(r, JSON, STREAM) == first);
    return first;
}

static void add(struct gd_http_request *r, const char *name, const char *value)
{
    r->headers[r->n_headers++] = (struct gd_http_header){name, value};
}

/* Line i of text, which ends with a zero byte and has n of them. */
static uint32_t split(char *text, size_t n, const char *lines[LINES_MAX])
{
    uint32_t n_lines = 0;
    for (size_t i = 0; i <= n && n_lines < LINES_MAX; i++) {
        if (i == 0 || text[i - 1] == '\0')
            lines[n_lines++] = text + i;
    }
    return n_lines;
}

static bool has_quote(const char *text, size_t n)
{
    return memchr(text, '"', n) != NULL || memchr(text, '\\', n) != NULL;
}

static bool names_json(const char *text, size_t n)
{
    for (size_t i = 0; i + strlen(JSON) <= n; i++) {
        if (strncasecmp(text + i, JSON, strlen(JSON)) == 0)
            return true;
    }
    return false;
}

static char swap_case(unsigned char c)
{
    return (char)(isupper(c) ? tolower(c) : toupper(c));
}

/* The same lines, otherwise written. */
static void check_rewritten(const char *text, size_t n, bool want)
{
    struct gd_http_request r = {0};
    const char *lines[LINES_MAX];
    char *other = malloc(n + 1);
    GD_ASSERT(other);
    for (size_t i = 0; i <= n; i++)
        other[i] = swap_case((unsigned char)text[i]);
    const uint32_t n_lines = split(other, n, lines);
    for (uint32_t i = 0; i < n_lines; i++) {
        add(&r, "x", JSON);
        add(&r, i % 2 ? "ACCEPT" : "accept", lines[i]);
    }
    GD_ASSERT(prefers(&r) == want);
    free(other);
}

/* All elements in one line, with blanks at its ends. */
static void check_joined(const char *text, size_t n, bool want)
{
    struct gd_http_request r = {0};
    char *joined = malloc(n + 4);
    GD_ASSERT(joined);
    joined[0] = ' ';
    memcpy(joined + 1, text, n + 1);
    for (size_t i = 0; i < n; i++) {
        if (joined[i + 1] == '\0')
            joined[i + 1] = ',';
    }
    memcpy(joined + n + 1, "\t", 2);
    add(&r, "Accept", joined);
    GD_ASSERT(prefers(&r) == want);
    free(joined);
}

static void check_request_id(const char *given)
{
    static const char harmless[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@";
    struct gd_http_request r = {0};
    memset(r.id, 'x', sizeof r.id);
    add(&r, "X-Request-Id", given);
    struct gd_http_response resp = {.status = 200};
    gd_reply_identify(&r, &resp);
    const size_t n = strnlen(r.id, sizeof r.id);
    GD_ASSERT(n > 0 && n <= GD_HTTP_REQUEST_ID_MAX && strspn(r.id, harmless) == n);
    const size_t len = strlen(given);
    const bool sane = len > 0 && len <= GD_HTTP_REQUEST_ID_MAX && strspn(given, harmless) == len;
    GD_ASSERT((strcmp(given, r.id) == 0) == sane);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gd_http_request r = {0};
    const char *lines[LINES_MAX];
    char *text = malloc(size + 1);
    GD_ASSERT(text);
    uint32_t feeds = 0;
    for (size_t i = 0; i < size; i++) {
        const char c = (char)data[i];
        const bool feed = c == '\n' && feeds < LINES_MAX - 1;
        feeds += feed;
        text[i] = feed ? '\0' : ((unsigned char)c < 0x20 && c != '\t') || c == 0x7F ? '?' : c;
    }
    text[size] = '\0';
    GD_ASSERT(!prefers(&r));
    const uint32_t n = split(text, size, lines);
    for (uint32_t i = 0; i < n; i++)
        add(&r, "Accept", lines[i]);
    const bool want = prefers(&r);
    GD_ASSERT(!want || names_json(text, size));
    check_rewritten(text, size, want);
    if (!has_quote(text, size))
        check_joined(text, size, want);
    add(&r, "Accept", JSON ";q=0");
    GD_ASSERT(prefers(&r) == want);
    add(&r, "Accept", "a/b, application/json ; x=\",\" ;q=1.000");
    GD_ASSERT(prefers(&r));
    check_request_id(text);
    free(text);
    return 0;
}
