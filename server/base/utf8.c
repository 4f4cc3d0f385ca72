/* utf8.c - strict UTF-8 (Unicode 15, table 3-7): no overlong forms, no surrogates, nothing above
 * U+10FFFF. A bad sequence is reported as its maximal subpart, so that repaired text agrees with
 * other strict decoders. */
#include "guardian/json.h"

#define REPLACEMENT 0xFFFDu

struct lead {
    int len;    /* bytes of the sequence; 0: no sequence starts so */
    uint8_t lo; /* range of the second byte */
    uint8_t hi;
    uint32_t bits; /* payload of the lead byte */
};

static struct lead read_lead(uint8_t c)
{
    if (c < 0xC2 || c > 0xF4)
        return (struct lead){0, 0, 0, 0};
    if (c < 0xE0)
        return (struct lead){2, 0x80, 0xBF, c & 0x1Fu};
    if (c < 0xF0)
        return (struct lead){3, c == 0xE0 ? 0xA0 : 0x80, c == 0xED ? 0x9F : 0xBF, c & 0x0Fu};
    return (struct lead){4, c == 0xF0 ? 0x90 : 0x80, c == 0xF4 ? 0x8F : 0xBF, c & 0x07u};
}

int gd_utf8_next(struct gd_str s, size_t i, uint32_t *cp)
{
    const uint8_t *p = (const uint8_t *)s.ptr + i;
    const size_t left = s.len - i;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    const struct lead lead = read_lead(p[0]);
    if (lead.len == 0 || left < 2 || p[1] < lead.lo || p[1] > lead.hi)
        return -1;
    uint32_t v = (lead.bits << 6) | (p[1] & 0x3Fu);
    for (int k = 2; k < lead.len; k++) {
        if ((size_t)k >= left || (p[k] & 0xC0) != 0x80)
            return -k;
        v = (v << 6) | (p[k] & 0x3Fu);
    }
    *cp = v;
    return lead.len;
}

size_t gd_utf8_encode(uint32_t cp, char *out)
{
    size_t n = 0;
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
        cp = REPLACEMENT;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[n++] = (char)(0xC0 | (cp >> 6));
    } else if (cp < 0x10000) {
        out[n++] = (char)(0xE0 | (cp >> 12));
        out[n++] = (char)(0x80 | ((cp >> 6) & 0x3F));
    } else {
        out[n++] = (char)(0xF0 | (cp >> 18));
        out[n++] = (char)(0x80 | ((cp >> 12) & 0x3F));
        out[n++] = (char)(0x80 | ((cp >> 6) & 0x3F));
    }
    out[n++] = (char)(0x80 | (cp & 0x3F));
    return n;
}

void gd_utf8_put(struct gd_buf *b, uint32_t cp)
{
    char out[4];
    gd_buf_add(b, out, gd_utf8_encode(cp, out));
}

void gd_utf8_repair(struct gd_buf *b, struct gd_str s)
{
    size_t start = 0; /* of the valid run not yet copied */
    size_t i = 0;
    while (i < s.len) {
        uint32_t cp;
        const int n = gd_utf8_next(s, i, &cp);
        if (n > 0) {
            i += (size_t)n;
            continue;
        }
        gd_buf_add(b, s.ptr + start, i - start);
        gd_utf8_put(b, REPLACEMENT);
        i += (size_t)-n;
        start = i;
    }
    if (s.len > start)
        gd_buf_add(b, s.ptr + start, s.len - start);
}
