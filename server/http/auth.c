/* auth.c - finds the key that a request presents. See guardian/keys.h.
 *
 * One way to say it, said once: two readers of a request (a proxy before us, and we) must not take
 * different keys out of it. So a second header is refused even where it says the same, and so is a
 * scheme that is not ours beside a key that is. */
#include "guardian/keys.h"

#include <string.h>
#include <strings.h>

bool gd_key_fits(struct gd_str key)
{
    if (key.len < GD_KEY_BYTES_MIN || key.len > GD_KEY_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < key.len; i++) {
        if (key.ptr[i] < '!' || key.ptr[i] > '~') {
            return false;
        }
    }
    return true;
}

enum gd_auth gd_auth_present(const struct gd_http_request *req, struct gd_str *key)
{
    static const char scheme[] = "bearer ";
    const char *bearer = NULL, *plain = NULL;
    uint32_t n = 0;
    *key = (struct gd_str){NULL, 0};
    for (uint32_t i = 0; i < req->n_headers; i++) {
        const struct gd_http_header *h = &req->headers[i];
        if (strcasecmp(h->name, "authorization") == 0) {
            bearer = h->value;
            n++;
        } else if (strcasecmp(h->name, "x-api-key") == 0) {
            plain = h->value;
            n++;
        }
    }
    if (n == 0) {
        return GD_AUTH_NONE;
    }
    if (n > 1) {
        return GD_AUTH_MALFORMED;
    }
    if (bearer != NULL) {
        const size_t len = sizeof(scheme) - 1;
        plain = strncasecmp(bearer, scheme, len) == 0 ? bearer + len : NULL;
    }
    const struct gd_str found = gd_str_from(plain);
    if (!gd_key_fits(found)) { /* a second blank is not visible */
        return GD_AUTH_MALFORMED;
    }
    *key = found;
    return GD_AUTH_KEY;
}

const char *gd_auth_message(enum gd_auth how, enum gd_key_answer answer)
{
    if (how == GD_AUTH_NONE) {
        return "a key is needed: Authorization: Bearer KEY, or x-api-key: KEY";
    }
    if (how == GD_AUTH_MALFORMED) {
        return "the key must be in one Authorization: Bearer or x-api-key header";
    }
    switch (answer) {
    case GD_KEY_UNKNOWN:
        return "the key is not known";
    case GD_KEY_RATE_LIMITED:
        return "the requests per second of this key are used up";
    case GD_KEY_TOO_MANY:
        return "so many requests of this key are running already";
    case GD_KEY_OK:
        break;
    }
    return "";
}
