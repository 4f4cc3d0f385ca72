/* tokenizer_nfc.c - Unicode normalisation form C in linear time.
 *
 * utf8proc knows the characters; the order of work is ours, for two reasons. Its own canonical
 * ordering is an insertion sort over runs of combining marks, so a megabyte of marks in bad order
 * would take hours: here long runs are sorted by counting. And the ids are those that `tokenizers`
 * gives, whose normaliser has the data of Unicode 9: marks and compositions that came later are
 * plain characters there, and are passed through here (opaque_marks).
 *
 * Text is worked on in spans that cannot interact: a character below U+0300 never composes with
 * what is before it, so every such character may start a span. Text without anything from U+0300
 * on (a byte from 0xCC on) is normalised already. */
#include "tokenizer_parts.h"

#include "guardian/json.h"

#include <string.h>
#include <utf8proc.h>

#define INSERTION_MAX 32
#define DECOMPOSED_MAX 32 /* code points of one character; Unicode 15 needs 4 */

/* Have a combining class or a composition in Unicode 15, and had none in Unicode 9. */
static const uint32_t opaque_marks[][2] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

static bool is_opaque(uint32_t cp)
{
    size_t lo = 0, hi = sizeof opaque_marks / sizeof opaque_marks[0];
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (cp > opaque_marks[mid][1])
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < sizeof opaque_marks / sizeof opaque_marks[0] && cp >= opaque_marks[lo][0];
}

/* Decomposed code points that wait for ordering and composition. */
struct pending {
    utf8proc_int32_t *cps;
    size_t n;
    size_t cap;
    utf8proc_int32_t *sorted; /* [sorted_cap] for counting sort */
    size_t sorted_cap;
};

static int reserve(utf8proc_int32_t **data, size_t *cap, size_t need)
{
    size_t next = *cap > 0 ? *cap : 256, bytes;
    while (next < need)
        next *= 2;
    if (next == *cap)
        return GD_OK;
    if (!gd_mul(next, sizeof **data, &bytes))
        return GD_ENOMEM;
    utf8proc_int32_t *grown = realloc(*data, bytes);
    if (grown == NULL)
        return GD_ENOMEM;
    *data = grown;
    *cap = next;
    return GD_OK;
}

static unsigned combining_class(utf8proc_int32_t cp)
{
    if (cp < 0x300)
        return 0;
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xFFu;
}

static void insertion_sort(utf8proc_int32_t *run, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        utf8proc_int32_t cp = run[i];
        unsigned class = combining_class(cp);
        size_t k = i;
        for (; k > 0 && combining_class(run[k - 1]) > class; k--)
            run[k] = run[k - 1];
        run[k] = cp;
    }
}

/* Stable, linear. */
static int counting_sort(struct pending *p, utf8proc_int32_t *run, size_t n)
{
    size_t start[257] = {0};
    int rc = reserve(&p->sorted, &p->sorted_cap, n);
    if (rc != GD_OK)
        return rc;
    for (size_t i = 0; i < n; i++)
        start[combining_class(run[i]) + 1]++;
    for (size_t c = 1; c < 257; c++)
        start[c] += start[c - 1];
    for (size_t i = 0; i < n; i++)
        p->sorted[start[combining_class(run[i])]++] = run[i];
    memcpy(run, p->sorted, n * sizeof run[0]);
    return GD_OK;
}

/* Canonical ordering: each run of marks sorted by class. */
static int order_marks(struct pending *p)
{
    for (size_t i = 0; i < p->n;) {
        size_t end = i;
        while (end < p->n && combining_class(p->cps[end]) != 0)
            end++;
        int rc = GD_OK;
        if (end - i > INSERTION_MAX)
            rc = counting_sort(p, p->cps + i, end - i);
        else
            insertion_sort(p->cps + i, end - i);
        if (rc != GD_OK)
            return rc;
        i = end > i ? end : i + 1;
    }
    return GD_OK;
}

static int flush(struct pending *p, struct gd_buf *b)
{
    int rc = order_marks(p);
    if (rc != GD_OK)
        return rc;
    utf8proc_ssize_t n = utf8proc_normalize_utf32(p->cps, (utf8proc_ssize_t)p->n,
                                                  UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    GD_ASSERT(n >= 0 && (size_t)n <= p->n);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        gd_utf8_put(b, (uint32_t)p->cps[i]);
    p->n = 0;
    return b->failed;
}

static int decompose(struct pending *p, uint32_t cp)
{
    int rc = reserve(&p->cps, &p->cap, p->n + DECOMPOSED_MAX);
    if (rc != GD_OK)
        return rc;
    if (cp < 0xC0) {
        p->cps[p->n++] = (utf8proc_int32_t)cp;
        return GD_OK;
    }
    int last = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, p->cps + p->n,
                                                 DECOMPOSED_MAX, UTF8PROC_DECOMPOSE, &last);
    GD_ASSERT(n >= 0 && n <= DECOMPOSED_MAX);
    p->n += (size_t)n;
    return GD_OK;
}

/* One span: from a character that starts one to the next that does. */
static int append_span(struct pending *p, struct gd_buf *b, struct gd_str span)
{
    int rc = GD_OK;
    for (size_t i = 0; i < span.len && rc == GD_OK;) {
        uint32_t cp;
        int len = gd_utf8_next(span, i, &cp);
        GD_ASSERT(len > 0);
        if (cp >= 0x300 && is_opaque(cp)) {
            rc = flush(p, b);
            gd_buf_add(b, span.ptr + i, (size_t)len);
        } else {
            rc = decompose(p, cp);
        }
        i += (size_t)len;
    }
    return rc == GD_OK ? flush(p, b) : rc;
}

size_t gd_nfc_prefix(struct gd_str s)
{
    size_t i = 0;
    while (i < s.len && (uint8_t)s.ptr[i] < 0xCC)
        i++;
    if (i == s.len)
        return i;
    while (i > 0 && ((uint8_t)s.ptr[--i] & 0xC0) == 0x80) {
    }
    return i;
}

/* Length of the span that starts s: up to the first character below U+0300 after others. */
static size_t span_len(struct gd_str s)
{
    bool high = false;
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = (uint8_t)s.ptr[i];
        if ((c & 0xC0) == 0x80)
            continue;
        if (c >= 0xCC)
            high = true;
        else if (high || i > 0)
            return i;
    }
    return s.len;
}

int gd_nfc_append(struct gd_buf *b, struct gd_str s)
{
    struct pending p = {0};
    int rc = GD_OK;
    while (s.len > 0 && rc == GD_OK) {
        size_t same = gd_nfc_prefix(s);
        gd_buf_add(b, s.ptr, same);
        s = (struct gd_str){s.ptr + same, s.len - same};
        if (s.len == 0)
            break;
        size_t len = span_len(s);
        rc = append_span(&p, b, (struct gd_str){s.ptr, len});
        s = (struct gd_str){s.ptr + len, s.len - len};
    }
    free(p.cps);
    free(p.sorted);
    return rc != GD_OK ? rc : b->failed;
}
