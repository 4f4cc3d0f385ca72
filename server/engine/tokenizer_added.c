/* tokenizer_added.c - finds added tokens in text: leftmost, and the longest that starts there.
 *
 * The contents are sorted; at each place the range of those that agree with the text so far is
 * narrowed byte by byte. A token has at most GD_TOKENIZER_ADDED_BYTES_MAX bytes, so the work for
 * one place is bounded, and places whose byte starts no token cost one look into a table. */
#include "tokenizer_parts.h"

#include "guardian/limits.h"

#include <string.h>

int gd_added_init(struct gd_added *a, size_t cap)
{
    memset(a, 0, sizeof *a);
    GD_ASSERT(cap <= GD_TOKENIZER_ADDED_MAX);
    a->tokens = calloc(cap + 1, sizeof a->tokens[0]);
    return a->tokens == NULL ? GD_ENOMEM : GD_OK;
}

void gd_added_free(struct gd_added *a)
{
    free(a->tokens);
    memset(a, 0, sizeof *a);
}

void gd_added_put(struct gd_added *a, struct gd_added_token token)
{
    GD_ASSERT(token.content.len > 0 && token.content.len <= GD_TOKENIZER_ADDED_BYTES_MAX);
    a->tokens[a->n++] = token;
}

static int compare(struct gd_str a, struct gd_str b)
{
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_tokens(const void *a, const void *b)
{
    const struct gd_added_token *left = a, *right = b;
    return compare(left->content, right->content);
}

bool gd_added_sort(struct gd_added *a, struct gd_str *twice)
{
    qsort(a->tokens, a->n, sizeof a->tokens[0], compare_tokens);
    uint32_t next = 0;
    for (unsigned c = 0; c < 257; c++) {
        while (next < a->n && (uint8_t)a->tokens[next].content.ptr[0] < c)
            next++;
        a->first[c] = c < 256 ? next : a->n;
    }
    for (uint32_t i = 1; i < a->n; i++) {
        if (gd_str_eq(a->tokens[i - 1].content, a->tokens[i].content)) {
            *twice = a->tokens[i].content;
            return false;
        }
    }
    return true;
}

const struct gd_added_token *gd_added_get(const struct gd_added *a, struct gd_str content)
{
    size_t lo = 0, hi = a->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int order = content.len > 0 ? compare(a->tokens[mid].content, content) : 1;
        if (order == 0)
            return &a->tokens[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* First token of [lo, hi) whose byte at depth is c or more; the range agrees before depth. */
static uint32_t lower_bound(const struct gd_added *a, uint32_t lo, uint32_t hi, size_t depth,
                            unsigned c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        struct gd_str s = a->tokens[mid].content;
        if (s.len <= depth || (uint8_t)s.ptr[depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static const struct gd_added_token *longest_at(const struct gd_added *a, struct gd_str text)
{
    const struct gd_added_token *best = NULL;
    unsigned c = (uint8_t)text.ptr[0];
    uint32_t lo = a->first[c], hi = a->first[c + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        if (a->tokens[lo].content.len == depth) /* the shortest of a range is its first */
            best = &a->tokens[lo];
        if (depth == text.len)
            break;
        c = (uint8_t)text.ptr[depth];
        lo = lower_bound(a, lo, hi, depth, c);
        hi = lower_bound(a, lo, hi, depth, c + 1);
    }
    return best;
}

const struct gd_added_token *gd_added_find(const struct gd_added *a, struct gd_str text,
                                           enum gd_specials specials, size_t *pos)
{
    for (size_t i = *pos; i < text.len; i++) {
        unsigned c = (uint8_t)text.ptr[i];
        if (a->first[c] == a->first[c + 1])
            continue;
        struct gd_str rest = {text.ptr + i, text.len - i};
        const struct gd_added_token *token = longest_at(a, rest);
        if (token == NULL)
            continue;
        if (!token->special || specials == GD_SPECIALS_ON) {
            *pos = i;
            return token;
        }
        i += token->content.len - 1;
    }
    return NULL;
}
