/* keys.h - who may ask, and how much: API keys, their tenants, policies and limits.
 *
 * A key file is strict JSON, read at open and again at each reload:
 *   {"keys": [{"id": "gateway-1",        needed; 1 to 64 of letters, digits and -_.:/@, none twice
 *              "sha256": "<64 digits>",  needed; SHA-256 of the key, in lower-case hex, none twice
 *              "tenant": "acme",         as an id; default: the id. Keys of one tenant share caches
 *              "policies": ["mcip"],     1 to 16 names as /info lists them; default: every policy
 *              "requests_per_second": 50,  0.001 to 100000; default: no limit
 *              "burst": 100,             1 to 1000000 requests at once, after a time of none; needs
 *                                        requests_per_second; default: a second's worth, 1 at least
 *              "concurrency": 16}]}      1 to 65536 requests at one time; default: no limit
 * 1 to GD_KEYS_MAX keys, no other members, none twice, no null. Beside the file there may be one
 * plain key, of the environment: id and tenant "env", no limits. ids and tenants go to logs; keys go
 * nowhere: only their SHA-256 is kept, and it is compared with that of every key there is, so that
 * the time of a look-up does not depend on which of them fits, or how far.
 *
 * A key ring without a file and without a plain key is open: everybody may ask, as nobody in
 * particular. So is NULL where a ring is asked for its keys or entered. Any thread, everywhere here
 * but open and close. */
#ifndef GUARDIAN_KEYS_H
#define GUARDIAN_KEYS_H

#include "guardian/gate.h"
#include "guardian/kvcache.h"

struct gd_keyring;
struct gd_keyset;

/* path: of a key file, or NULL; env_key: a plain key of GD_KEY_BYTES_MIN to GD_KEY_BYTES_MAX visible
 * ASCII characters, or NULL. An empty one is refused: what should have been closed must not be open.
 * The caller wipes it; no copy stays. GD_EUSAGE with the file, the path of the field and what it must
 * be, never with a value that could be a key; GD_ENOMEM; GD_EINTERNAL (no random bytes). */
int gd_keyring_open(struct gd_keyring **out, const char *path, const char *env_key,
                    struct gd_err *err);
/* After the last gd_lease_leave. NULL is fine. */
void gd_keyring_close(struct gd_keyring *r);

/* Reads the file again. On failure the keys stay as they are. A request that asks once it has
 * returned does not enter with a key that is not in the file any more; those that have entered go on.
 * What a key has used of its limits, and its running requests, are carried over when its id and its
 * hash are those of before; new limits count from now on. Without a file it does nothing. */
int gd_keyring_reload(struct gd_keyring *r, struct gd_err *err);

bool gd_keyring_required(const struct gd_keyring *r); /* false: it is open */
uint32_t gd_keyring_count(struct gd_keyring *r);      /* keys, the plain one included */

enum gd_key_answer {
    GD_KEY_UNKNOWN, /* 401 */
    GD_KEY_OK,
    GD_KEY_RATE_LIMITED, /* 429: its requests per second are used up */
    GD_KEY_TOO_MANY,     /* 429: so many of its requests are running */
};

/* One request of one key, from enter to leave; belongs to its caller, all zero at first. */
struct gd_lease {
    /* Of the key, also when it was refused for its limits, and after leave; "" when it is unknown,
     * or the ring is open. */
    char id[GD_KEY_NAME_BYTES_MAX + 1];
    char tenant[GD_KEY_NAME_BYTES_MAX + 1];
    /* Of the tenant: SHA-256 of a secret of this process and its name. All zero when the ring is
     * open, or the request has not entered. */
    struct gd_kv_salt salt;
    uint32_t retry_after_s; /* when it was refused for its limits: not before */
    /* the module's own */
    struct gd_keyset *set;
    uint32_t key;
    bool open;
};

/* Lets a request in, or not: then there is nothing to leave. now_ns: CLOCK_MONOTONIC. A request that
 * is refused costs nothing of its key's limits. */
enum gd_key_answer gd_keyring_enter(struct gd_keyring *r, struct gd_str presented, int64_t now_ns,
                                    struct gd_lease *lease);
/* Names of the policies of its key, as gd_caller has them; *n 0: all. They live until leave. */
const struct gd_str *gd_lease_policies(const struct gd_lease *lease, uint32_t *n);
/* The request counts as n more: a batch of 64 as 63 beside the one that enter has counted. They may be
 * more than there are; then the key waits the longer for its next request. */
void gd_lease_charge(struct gd_lease *lease, uint32_t n, int64_t now_ns);
/* Once for each lease; none that has entered: nothing happens. */
void gd_lease_leave(struct gd_lease *lease);

/* 1 to GD_KEY_NAME_BYTES_MAX letters, digits and -_.:/@, as ids and tenants are. */
bool gd_key_name_fits(struct gd_str name);
/* GD_KEY_BYTES_MIN to GD_KEY_BYTES_MAX visible ASCII characters, as keys are. */
bool gd_key_fits(struct gd_str key);

/* auth.c: the key that a request presents, `Authorization: Bearer KEY` or `x-api-key: KEY`. Pure. */
enum gd_auth {
    GD_AUTH_MALFORMED, /* two of them, another scheme, not exactly one blank, not gd_key_fits */
    GD_AUTH_NONE,
    GD_AUTH_KEY, /* *key is in the header's value */
};
enum gd_auth gd_auth_present(const struct gd_http_request *req, struct gd_str *key);
/* Why there is no entry, for people; "" for GD_KEY_OK. */
const char *gd_auth_message(enum gd_auth how, enum gd_key_answer answer);

#endif
