/* sha256.c - digests of memory and of files, by OpenSSL's libcrypto.
 *
 * Files are read in blocks of 4 MiB through their open descriptor, so that the digest is of the
 * very file that the weights are read from, even when another one takes its name meanwhile.
 *
 * The older interface keeps its state on the stack: requests are hashed too, and a digest must not
 * depend on there being memory for a context. The newer one also sets up the whole library at its
 * first call, which ends in a crash there (OpenSSL 3.0, OPENSSL_LH_new) when memory is short. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "guardian/file.h"
#include "guardian/limits.h"

#include <openssl/sha.h>
#include <unistd.h>

#define BLOCK_BYTES (4 * GD_MIB)

void gd_sha256(const void *data, size_t len, uint8_t out[32])
{
    SHA256_CTX c;
    SHA256_Init(&c);
    SHA256_Update(&c, data, len);
    SHA256_Final(out, &c);
}

int gd_file_sha256_fd(int fd, const char *path, uint64_t nbytes, char hex[65],
                      struct gd_digest_progress *p, struct gd_err *err)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX c;
    uint8_t *block = malloc(nbytes < BLOCK_BYTES ? (size_t)nbytes + 1 : BLOCK_BYTES);
    if (block == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory to take the SHA-256 of file '%s'", path);
    int rc = GD_OK;
    SHA256_Init(&c);
    for (uint64_t at = 0; at < nbytes && rc == GD_OK;) {
        size_t n = nbytes - at < BLOCK_BYTES ? (size_t)(nbytes - at) : BLOCK_BYTES;
        rc = gd_file_read_at(fd, path, at, block, n, err);
        if (rc != GD_OK)
            break;
        SHA256_Update(&c, block, n);
        at += n;
        if (p != NULL) {
            p->done += n;
            if (p->call != NULL)
                p->call(p->ctx, p->done, p->all);
        }
    }
    SHA256_Final(digest, &c);
    if (rc == GD_OK)
        gd_hex(digest, sizeof digest, hex);
    free(block);
    return rc;
}

int gd_file_sha256(const char *path, char hex[65], uint64_t *nbytes, struct gd_err *err)
{
    int fd = -1;
    uint64_t n = 0;
    int rc = gd_file_open_needed(path, &fd, &n, err);
    if (rc != GD_OK)
        return rc;
    rc = gd_file_sha256_fd(fd, path, n, hex, NULL, err);
    close(fd);
    if (rc == GD_OK && nbytes != NULL)
        *nbytes = n;
    return rc;
}
