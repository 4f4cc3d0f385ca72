/* file.c - files, read by position into owned memory.
 *
 * Never mapped: a file that is cut short while it is mapped kills the process, while pread says so.
 * The size is taken once from the open file; what is read later must still be there. Anything that
 * is not a regular file is refused before a byte of it is read. */
#include "guardian/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BYTES_MAX ((size_t)1 << 30) /* one pread takes less than 2 GiB */

char *gd_path_join(const char *dir, const char *name)
{
    size_t nd = strlen(dir), nn = strlen(name), sum;
    if (!gd_add(nd, nn, &sum) || !gd_add(sum, 2, &sum))
        return NULL;
    char *path = malloc(sum);
    if (path == NULL)
        return NULL;
    memcpy(path, dir, nd); /* NOLINT(bugprone-not-null-terminated-result): the name follows */
    path[nd] = '/';
    memcpy(path + nd + 1, name, nn + 1);
    return path;
}

int gd_file_open(const char *path, int *fd, uint64_t *nbytes, struct gd_err *err)
{
    struct stat st;
    int f;
    do {
        f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (f < 0 && errno == EINTR);
    if (f < 0) {
        int code = errno == ENOENT ? GD_ENOTFOUND : GD_EIO;
        return gd_err_set(err, code, "file '%s' cannot be opened: %s", path, strerror(errno));
    }
    if (fstat(f, &st) != 0) {
        int e = errno;
        close(f);
        return gd_err_set(err, GD_EIO, "file '%s' cannot be examined: %s", path, strerror(e));
    }
    if (!S_ISREG(st.st_mode) || st.st_size < 0) {
        close(f);
        return gd_err_set(err, GD_EIO, "'%s' is not a regular file", path);
    }
    *fd = f;
    *nbytes = (uint64_t)st.st_size;
    return GD_OK;
}

int gd_file_open_needed(const char *path, int *fd, uint64_t *nbytes, struct gd_err *err)
{
    int rc = gd_file_open(path, fd, nbytes, err);
    if (rc == GD_OK)
        return rc;
    if (err != NULL)
        err->code = GD_EIO;
    return GD_EIO;
}

int gd_file_read_at(int fd, const char *path, uint64_t offset, void *dst, size_t len,
                    struct gd_err *err)
{
    uint64_t end;
    if (__builtin_add_overflow(offset, (uint64_t)len, &end) || end > INT64_MAX)
        return gd_err_set(err, GD_EIO, "file '%s': a position over 2^63 was asked for", path);
    char *p = dst;
    size_t done = 0;
    while (done < len) {
        size_t want = len - done < READ_BYTES_MAX ? len - done : READ_BYTES_MAX;
        ssize_t got = pread(fd, p + done, want, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return gd_err_set(err, GD_EIO, "file '%s' cannot be read at byte %llu: %s", path,
                              (unsigned long long)offset + done, strerror(errno));
        if (got == 0)
            return gd_err_set(err, GD_EIO, "file '%s' was cut: byte %llu is not there", path,
                              (unsigned long long)offset + done);
        done += (size_t)got;
    }
    return GD_OK;
}

int gd_file_read(const char *path, size_t max_bytes, char **data, size_t *len, struct gd_err *err)
{
    int fd = -1;
    uint64_t nbytes = 0;
    char *text = NULL;
    int rc = gd_file_open_needed(path, &fd, &nbytes, err);
    if (rc != GD_OK)
        return rc;
    if (nbytes > max_bytes || nbytes >= SIZE_MAX) {
        rc = gd_err_set(err, GD_ELIMIT, "file '%s' has %llu bytes, the limit is %zu", path,
                        (unsigned long long)nbytes, max_bytes);
        goto done;
    }
    text = malloc((size_t)nbytes + 1);
    if (text == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for the %llu bytes of file '%s'",
                        (unsigned long long)nbytes, path);
        goto done;
    }
    rc = gd_file_read_at(fd, path, 0, text, (size_t)nbytes, err);
    if (rc != GD_OK)
        goto done;
    text[nbytes] = '\0';
    *data = text;
    *len = (size_t)nbytes;
    text = NULL;
done:
    free(text);
    close(fd);
    return rc;
}
