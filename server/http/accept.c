/* accept.c - what a client would rather read: Accept headers (RFC 9110, 12.5.1).
 *
 * Elements of all Accept lines count together. A type is worth the q of the most specific range
 * that names it; a malformed q is worth nothing. Parameters other than q are skipped. */
#include "guardian/reply.h"
#include "guardian/service.h"

#include <string.h>

/* Worth in thousandths; -1: no range names the type. */
struct worth {
    int q;
    int rank; /* 3 by name, 2 by type, 1 by "any" */
};

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool equals(struct gd_str a, const char *lower_b, size_t n)
{
    bool same = a.len == n;
    for (size_t i = 0; same && i < n; i++) {
        same = lower(a.ptr[i]) == lower_b[i];
    }
    return same;
}

static struct gd_str trim(struct gd_str s)
{
    while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t')) {
        s = (struct gd_str){s.ptr + 1, s.len - 1};
    }
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t')) {
        s.len--;
    }
    return s;
}

/* What stands before the next `stop` that is not inside a quoted string; *rest moves behind it. */
static struct gd_str cut(struct gd_str *rest, char stop)
{
    size_t i = 0;
    bool quoted = false;
    for (; i < rest->len && (quoted || rest->ptr[i] != stop); i++) {
        if (quoted && rest->ptr[i] == '\\' && i + 1 < rest->len) {
            i++;
        } else if (rest->ptr[i] == '"') {
            quoted = !quoted;
        }
    }
    const struct gd_str part = {rest->ptr, i};
    const size_t step = i < rest->len ? i + 1 : i;
    *rest = (struct gd_str){rest->ptr + step, rest->len - step};
    return trim(part);
}

/* 0 to 1 with at most three decimals, in thousandths. */
static int parse_q(struct gd_str s)
{
    if (s.len == 0 || s.len > 5 || (s.ptr[0] != '0' && s.ptr[0] != '1') ||
        (s.len > 1 && s.ptr[1] != '.')) {
        return 0;
    }
    int q = (s.ptr[0] - '0') * 1000;
    int unit = 100;
    for (size_t i = 2; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') {
            return 0;
        }
        q += (s.ptr[i] - '0') * unit;
        unit /= 10;
    }
    return q <= 1000 ? q : 0;
}

static int rank_of(struct gd_str range, const char *type)
{
    const size_t n = strlen(type);
    const size_t group = strcspn(type, "/") + 1;
    if (equals(range, type, n)) {
        return 3;
    }
    if (range.len == group + 1 && range.ptr[group] == '*' &&
        equals((struct gd_str){range.ptr, group}, type, group)) {
        return 2;
    }
    return equals(range, "*/*", 3) ? 1 : 0;
}

static void weigh(struct gd_str element, const char *type, struct worth *w)
{
    const int rank = rank_of(cut(&element, ';'), type);
    int q = 1000;
    while (element.len > 0) {
        const struct gd_str param = cut(&element, ';');
        if (param.len >= 2 && lower(param.ptr[0]) == 'q' && param.ptr[1] == '=') {
            q = parse_q((struct gd_str){param.ptr + 2, param.len - 2});
        }
    }
    if (rank > w->rank || (rank > 0 && rank == w->rank && q > w->q)) {
        *w = (struct worth){q, rank};
    }
}

static struct worth worth_of(const struct gd_http_request *req, const char *type)
{
    struct worth w = {.q = -1};
    for (uint32_t i = 0; i < req->n_headers; i++) {
        if (!equals(gd_str_from(req->headers[i].name), "accept", 6)) {
            continue;
        }
        struct gd_str rest = gd_str_from(req->headers[i].value);
        while (rest.len > 0) {
            weigh(cut(&rest, ','), type, &w);
        }
    }
    return w;
}

bool gd_accept_prefers(const struct gd_http_request *req, const char *type, const char *other)
{
    const struct worth w = worth_of(req, type);
    return w.rank == 3 && w.q > 0 && w.q >= worth_of(req, other).q;
}
