/* sha256.c - digests of memory and of files, by OpenSSL's libcrypto.
 *
 * Files are read in blocks of 4 MiB through their open descriptor, so that the digest is of the
 * very file that the weights are read from, even when another one takes its name meanwhile. Memory
 * is hashed by the older interface, whose state is on the stack: requests are hashed too, and a
 * digest must not depend on there being memory for a context. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "load.h"

#include "guardian/safetensors.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <unistd.h>

#define BLOCK_BYTES (4 * GD_MIB)

void gd_sha256_hex(const uint8_t digest[32], char hex[65])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < 32; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15u];
    }
    hex[64] = '\0';
}

void gd_sha256(const void *data, size_t len, uint8_t out[32])
{
    SHA256_CTX c;
    SHA256_Init(&c);
    SHA256_Update(&c, data, len);
    SHA256_Final(out, &c);
}

static int hash_blocks(EVP_MD_CTX *md, int fd, const char *path, uint64_t nbytes, uint8_t *block,
                       struct gd_digest_progress *p, struct gd_err *err)
{
    for (uint64_t at = 0; at < nbytes;) {
        size_t n = nbytes - at < BLOCK_BYTES ? (size_t)(nbytes - at) : BLOCK_BYTES;
        int rc = gd_file_read_at(fd, path, at, block, n, err);
        if (rc != GD_OK)
            return rc;
        if (EVP_DigestUpdate(md, block, n) != 1)
            return gd_err_set(err, GD_EINTERNAL, "SHA-256 of file '%s' failed", path);
        at += n;
        if (p != NULL) {
            p->done += n;
            if (p->call != NULL)
                p->call(p->ctx, p->done, p->all);
        }
    }
    return GD_OK;
}

int gd_file_sha256_fd(int fd, const char *path, uint64_t nbytes, char hex[65],
                      struct gd_digest_progress *p, struct gd_err *err)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    int rc = GD_OK;
    uint8_t *block = malloc(nbytes < BLOCK_BYTES ? (size_t)nbytes + 1 : BLOCK_BYTES);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (block == NULL || md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory to take the SHA-256 of file '%s'", path);
        goto done;
    }
    rc = hash_blocks(md, fd, path, nbytes, block, p, err);
    if (rc != GD_OK)
        goto done;
    if (EVP_DigestFinal_ex(md, digest, NULL) != 1) {
        rc = gd_err_set(err, GD_EINTERNAL, "SHA-256 of file '%s' failed", path);
        goto done;
    }
    gd_sha256_hex(digest, hex);
done:
    if (rc != GD_OK)
        ERR_clear_error(); /* the library's own list of this thread */
    EVP_MD_CTX_free(md);
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
