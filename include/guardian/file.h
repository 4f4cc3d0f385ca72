/* file.h - files read by position into owned memory, and SHA-256 of memory and of files. Any thread. */
#ifndef GUARDIAN_FILE_H
#define GUARDIAN_FILE_H

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

/* A whole small file into malloc'ed, zero-terminated memory. GD_EIO, GD_ELIMIT, GD_ENOMEM. */
int gd_file_read(const char *path, size_t max_bytes, char **data, size_t *len, struct gd_err *err);

struct gd_file_digest {
    struct gd_str path; /* relative to the model directory */
    uint64_t nbytes;
    char sha256[65]; /* lower-case hex */
};

/* SHA-256 of a file, in lower-case hex. nbytes may be NULL. */
int gd_file_sha256(const char *path, char hex[65], uint64_t *nbytes, struct gd_err *err);

/* SHA-256 of the first nbytes of an open file. p may be NULL. */
int gd_file_sha256_fd(int fd, const char *path, uint64_t nbytes, char hex[65],
                      struct gd_digest_progress *p, struct gd_err *err);

void gd_sha256(const void *data, size_t len, uint8_t out[32]);

#endif
