/* cli_key.c - `guardian key`: a fresh key, and the entry of a key file that lets it in.
 *
 * Two lines on standard output: the key, which is told nowhere else and kept nowhere, and the JSON
 * object with its hash. Written without stdio, whose buffers nobody wipes. */
#include "guardian/cli.h"
#include "guardian/file.h"
#include "guardian/keys.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define RANDOM_BYTES 32
#define PREFIX "gk_"
#define PREFIX_BYTES 3
#define KEY_BYTES (PREFIX_BYTES + 43) /* base64 makes 44 characters of 32 bytes; the last is '=' */

static int usage(const char *what)
{
    fprintf(stderr, "guardian key: %s\n", what);
    return GD_EXIT_USAGE;
}

/* Fills text with a key and a zero; false when the system gave no random bytes. */
static bool make_key(char text[KEY_BYTES + 2])
{
    unsigned char random[RANDOM_BYTES];
    const bool ok = getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random);
    if (ok) {
        memcpy(text, PREFIX, PREFIX_BYTES);
        EVP_EncodeBlock((unsigned char *)text + PREFIX_BYTES, random, RANDOM_BYTES);
        text[KEY_BYTES] = '\0';
        for (char *p = text + PREFIX_BYTES; *p != '\0'; p++) {
            *p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
        }
    }
    OPENSSL_cleanse(random, sizeof(random));
    return ok;
}

static void write_entry(const struct gd_cli *c, const char *key, struct gd_buf *out)
{
    uint8_t digest[32];
    char hex[2 * sizeof(digest) + 1];
    struct gd_json_writer w;
    gd_sha256(key, KEY_BYTES, digest);
    gd_hex(digest, sizeof(digest), hex);
    gd_json_writer_init(&w, out);
    gd_jw_object(&w);
    gd_jw_put_str(&w, "id", c->id);
    gd_jw_put_str(&w, "sha256", hex);
    if (c->tenant != NULL) {
        gd_jw_put_str(&w, "tenant", c->tenant);
    }
    gd_jw_object_end(&w);
}

static bool write_all(const char *p, size_t n)
{
    while (n > 0) {
        const ssize_t k = write(STDOUT_FILENO, p, n);
        if (k < 0 && errno == EINTR) {
            continue;
        }
        if (k <= 0) {
            return false;
        }
        p += k;
        n -= (size_t)k;
    }
    return true;
}

int gd_cli_key(const struct gd_cli *c)
{
    char key[KEY_BYTES + 2];
    struct gd_buf out;
    if (c->id == NULL || !gd_key_name_fits(gd_str_from(c->id))) {
        return usage("--id must be given: 1 to 64 letters, digits and -_.:/@");
    }
    if (c->tenant != NULL && !gd_key_name_fits(gd_str_from(c->tenant))) {
        return usage("--tenant must have 1 to 64 letters, digits and -_.:/@");
    }
    if (!make_key(key)) {
        fprintf(stderr, "guardian key: the system gave no random bytes\n");
        return GD_EXIT_RUNTIME;
    }
    gd_buf_init(&out, 4096);
    write_entry(c, key, &out);
    gd_buf_z(&out, "\n");
    key[KEY_BYTES] = '\n';
    const bool ok =
        out.failed == 0 && write_all(key, KEY_BYTES + 1) && write_all(out.data, out.len);
    OPENSSL_cleanse(key, sizeof(key));
    gd_buf_free(&out);
    if (!ok) {
        fprintf(stderr, "guardian key: the key could not be written: %s\n", strerror(errno));
        return GD_EXIT_RUNTIME;
    }
    return GD_EXIT_OK;
}
