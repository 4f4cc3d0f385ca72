/* arena.h - one arena per request, dropped whole; and the string slice that points into it.
 *
 * An arena belongs to one thread at a time. Its budget bounds the bytes it will ever take from
 * malloc, so that a request cannot use more memory than its limit in limits.h. Nothing in an arena
 * is freed singly. */
#ifndef GUARDIAN_ARENA_H
#define GUARDIAN_ARENA_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gd_arena_block;

struct gd_arena {
    struct gd_arena_block *head;
    size_t used;   /* bytes taken from malloc */
    size_t budget; /* bytes at most */
};

void gd_arena_init(struct gd_arena *a, size_t budget_bytes);
void gd_arena_free(struct gd_arena *a);

/* Zeroed memory aligned for any type, or NULL when the budget or the system is out of memory. size
 * 0 gives a pointer that must not be read. */
void *gd_arena_alloc(struct gd_arena *a, size_t size);

/* n * size bytes with the product checked. */
void *gd_arena_calloc(struct gd_arena *a, size_t n, size_t size);

/* A slice of bytes; not zero-terminated. ptr may be NULL only when len is 0. */
struct gd_str {
    const char *ptr;
    size_t len;
};

#define GD_STR(lit) ((struct gd_str){("" lit), sizeof(lit) - 1})

bool gd_str_eq(struct gd_str a, struct gd_str b);
bool gd_str_eqz(struct gd_str a, const char *z);
struct gd_str gd_str_from(const char *z); /* borrows z; NULL gives an empty slice */
int gd_str_dup(struct gd_arena *a, struct gd_str s,
               struct gd_str *out); /* out is zero-terminated */

/* Length to show of s in a message, at most max bytes, never inside a character; for "%.*s". */
int gd_shown(struct gd_str s, size_t max);

/* 2 * n lower-case hex digits and a zero byte; out holds them all. */
void gd_hex(const uint8_t *bytes, size_t n, char *out);

/* A growing byte buffer on malloc, with a ceiling; for prompts and answers. Once an append fails,
 * `failed` holds GD_ENOMEM or GD_ELIMIT and later appends do nothing, so that callers check once at
 * the end. Data is always zero-terminated. */
struct gd_buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max;
    int failed;
};

void gd_buf_init(struct gd_buf *b, size_t max_bytes);
void gd_buf_free(struct gd_buf *b);
void gd_buf_add(struct gd_buf *b, const char *p, size_t n);
void gd_buf_str(struct gd_buf *b, struct gd_str s);
void gd_buf_z(struct gd_buf *b, const char *z);
void gd_buf_fmt(struct gd_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Checked size arithmetic: false (and *out untouched) on overflow. */
static inline bool gd_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool gd_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

#endif
