/* arena.c - bump allocation in blocks, string slices, and the growing buffer. See guardian/arena.h.
 *
 * Blocks come from calloc, so that fresh memory is zero without a second pass. They grow from 4 KiB
 * to 1 MiB, are clipped to what the budget still allows, and a request larger than a block gets a
 * block of its own behind the current one, so that the rest of the current block stays in use.
 * Under AddressSanitizer all that was not handed out is poisoned, with a gap behind every piece, so
 * that overruns inside an arena are found. */
#include "guardian/arena.h"
#include "guardian/status.h"

#include <string.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN
#endif

#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#define GAP_BYTES ((size_t)16)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#define GAP_BYTES ((size_t)0)
#endif

#define BLOCK_BYTES_MIN ((size_t)4096)
#define BLOCK_BYTES_MAX ((size_t)1024 * 1024)
#define BUF_BYTES_MIN ((size_t)256)

struct gd_arena_block {
    struct gd_arena_block *next;
    size_t cap;
    size_t used;
    max_align_t data[];
};

void gd_arena_init(struct gd_arena *a, size_t budget_bytes)
{
    a->head = NULL;
    a->used = 0;
    a->budget = budget_bytes;
}

void gd_arena_free(struct gd_arena *a)
{
    struct gd_arena_block *b = a->head;
    while (b) {
        struct gd_arena_block *next = b->next;
        free(b);
        b = next;
    }
    a->head = NULL;
    a->used = 0;
}

/* A block with room for at least size bytes, or NULL. Counts against the budget. */
static struct gd_arena_block *new_block(struct gd_arena *a, size_t size)
{
    const size_t header = sizeof(struct gd_arena_block);
    const size_t left = a->budget - a->used;
    size_t need;
    if (!gd_add(size, header, &need) || need > left)
        return NULL;
    size_t want = a->used < BLOCK_BYTES_MIN ? BLOCK_BYTES_MIN : a->used;
    if (want > BLOCK_BYTES_MAX)
        want = BLOCK_BYTES_MAX;
    if (want > left)
        want = left;
    if (want < need)
        want = need;
    struct gd_arena_block *b = calloc(1, want);
    if (!b)
        return NULL;
    b->cap = want - header;
    a->used += want;
    POISON(b->data, b->cap);
    return b;
}

void *gd_arena_alloc(struct gd_arena *a, size_t size)
{
    const size_t align = _Alignof(max_align_t);
    size_t rounded;
    if (!gd_add(size ? size : 1, align - 1 + GAP_BYTES, &rounded))
        return NULL;
    rounded &= ~(align - 1);
    struct gd_arena_block *b = a->head;
    if (!b || rounded > b->cap - b->used) {
        b = new_block(a, rounded);
        if (!b)
            return NULL;
        const size_t left_new = b->cap - rounded;
        if (a->head && a->head->cap - a->head->used > left_new) {
            b->next = a->head->next;
            a->head->next = b;
        } else {
            b->next = a->head;
            a->head = b;
        }
    }
    void *p = (char *)b->data + b->used;
    b->used += rounded;
    UNPOISON(p, size);
    return p;
}

void *gd_arena_calloc(struct gd_arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (!gd_mul(n, size, &bytes))
        return NULL;
    return gd_arena_alloc(a, bytes);
}

bool gd_str_eq(struct gd_str a, struct gd_str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool gd_str_eqz(struct gd_str a, const char *z)
{
    return gd_str_eq(a, gd_str_from(z));
}

struct gd_str gd_str_from(const char *z)
{
    return z ? (struct gd_str){z, strlen(z)} : (struct gd_str){"", 0};
}

int gd_str_dup(struct gd_arena *a, struct gd_str s, struct gd_str *out)
{
    size_t bytes;
    if (!gd_add(s.len, 1, &bytes))
        return GD_ENOMEM;
    char *p = gd_arena_alloc(a, bytes);
    if (!p)
        return GD_ENOMEM;
    if (s.len > 0)
        memcpy(p, s.ptr, s.len);
    *out = (struct gd_str){p, s.len};
    return GD_OK;
}

/* What data points to while a buffer is empty; nobody writes to it. */
static char empty_text[1];

void gd_buf_init(struct gd_buf *b, size_t max_bytes)
{
    *b = (struct gd_buf){.data = empty_text, .max = max_bytes};
}

void gd_buf_free(struct gd_buf *b)
{
    if (b->cap > 0)
        free(b->data);
    gd_buf_init(b, b->max);
}

/* Room for n more bytes and the zero; false, with b->failed set, where there is none. */
static bool buf_reserve(struct gd_buf *b, size_t n)
{
    if (b->failed)
        return false;
    if (n > b->max - b->len) {
        b->failed = GD_ELIMIT;
        return false;
    }
    size_t need;
    if (!gd_add(b->len + n, 1, &need)) {
        b->failed = GD_ENOMEM;
        return false;
    }
    if (need <= b->cap)
        return true;
    size_t cap = b->cap > SIZE_MAX / 2 ? need : 2 * b->cap;
    if (cap < BUF_BYTES_MIN)
        cap = BUF_BYTES_MIN;
    if (cap - 1 > b->max)
        cap = b->max + 1;
    if (cap < need)
        cap = need;
    char *data = realloc(b->cap > 0 ? b->data : NULL, cap);
    if (!data) {
        b->failed = GD_ENOMEM;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void gd_buf_add(struct gd_buf *b, const char *p, size_t n)
{
    if (n == 0 || !buf_reserve(b, n))
        return;
    memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void gd_buf_str(struct gd_buf *b, struct gd_str s)
{
    gd_buf_add(b, s.ptr, s.len);
}

void gd_buf_z(struct gd_buf *b, const char *z)
{
    gd_buf_str(b, gd_str_from(z));
}

void gd_buf_fmt(struct gd_buf *b, const char *fmt, ...)
{
    va_list args;
    va_list again;
    va_start(args, fmt);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    if (n < 0)
        b->failed = b->failed ? b->failed : GD_ENOMEM;
    else if (buf_reserve(b, (size_t)n)) {
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

int gd_shown(struct gd_str s, size_t max)
{
    size_t n = s.len < max ? s.len : max;
    while (n > 0 && n < s.len && ((unsigned char)s.ptr[n] & 0xC0u) == 0x80u)
        n--;
    return (int)n;
}

void gd_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15u];
    }
    out[2 * n] = '\0';
}
