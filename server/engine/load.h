/* load.h - what the loading path of the engine shares: files read by position into owned memory,
 * digests, and text from a file shown in a message. Internal to server/engine. Any thread. */
#ifndef GUARDIAN_ENGINE_LOAD_H
#define GUARDIAN_ENGINE_LOAD_H

#include "guardian/arena.h"
#include "guardian/status.h"

/* "dir/name" in malloc'ed memory; NULL when there is no memory. */
char *gd_path_join(const char *dir, const char *name);

/* Opens a regular file for reading (never blocks on a pipe, never inherited). GD_ENOTFOUND when
 * there is no such file, GD_EIO otherwise. */
int gd_file_open(const char *path, int *fd, uint64_t *nbytes, struct gd_err *err);

/* The same for a file that must be there: GD_EIO in each case. */
int gd_file_open_needed(const char *path, int *fd, uint64_t *nbytes, struct gd_err *err);

/* Reads exactly len bytes at offset. GD_EIO, which names the path, when the file ends before. */
int gd_file_read_at(int fd, const char *path, uint64_t offset, void *dst, size_t len,
                    struct gd_err *err);

/* Progress over several files: done is what the files before have had. */
struct gd_digest_progress {
    void (*call)(void *ctx, uint64_t done, uint64_t all); /* may be NULL */
    void *ctx;
    uint64_t done;
    uint64_t all;
};

/* SHA-256 of the first nbytes of an open file. p may be NULL. */
int gd_file_sha256_fd(int fd, const char *path, uint64_t nbytes, char hex[65],
                      struct gd_digest_progress *p, struct gd_err *err);

void gd_sha256_hex(const uint8_t digest[32], char hex[65]);

/* Length to print of a text from a file, at most max bytes, never inside a character; for "%.*s".
 */
int gd_shown(struct gd_str s, size_t max);

#endif
