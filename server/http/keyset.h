/* keyset.h - the keys of one reading of the key file, and what they have used. Internal to
 * server/http (keys.c, keyset.c).
 *
 * A set never changes once it is shared; who uses it counts in refs. What changes is in a gd_key_use,
 * which outlives its set when the next one has the same key. */
#ifndef GUARDIAN_HTTP_KEYSET_H
#define GUARDIAN_HTTP_KEYSET_H

#include "guardian/keys.h"

#include <pthread.h>
#include <stdatomic.h>

#define GD_KEY_HASH_BYTES 32

struct gd_key_limits {
    uint64_t cost_ns;     /* of one request: a second by its rate; 0: no rate limit */
    uint64_t burst_ns;    /* cost of all that may come at once */
    uint32_t concurrency; /* 0: no limit */
};

/* A bucket that is emptied by requests and filled by time. It is told by what lacks in it, in
 * nanoseconds that it takes to be full again: more than burst_ns is a debt. */
struct gd_key_use {
    _Atomic uint32_t refs; /* sets that have it */
    pthread_mutex_t lock;  /* of all that follows */
    struct gd_key_limits limits;
    uint64_t lacks_ns;
    int64_t at_ns; /* when lacks_ns was true */
    uint32_t running;
};

struct gd_key {
    uint8_t hash[GD_KEY_HASH_BYTES];
    struct gd_str id, tenant;
    struct gd_kv_salt salt;
    struct gd_str *policies; /* [n_policies]; none: all are allowed */
    uint32_t n_policies;
    struct gd_key_limits limits; /* as the file has them */
    uint32_t place;              /* in the file's list; GD_KEY_PLACE_ENV: not of the file */
    struct gd_key_use *use;
};
#define GD_KEY_PLACE_ENV UINT32_MAX

struct gd_keyset {
    _Atomic uint32_t refs;
    struct gd_arena arena;
    struct gd_key *keys;                  /* [n], ascending by hash */
    uint8_t (*hashes)[GD_KEY_HASH_BYTES]; /* [n]: the same, side by side */
    uint32_t n;
};

/* Reads the text of a key file (NULL: there is none) and adds the plain key's hash (NULL: there is
 * none). The keys have neither a salt nor a use yet. GD_EUSAGE, GD_ENOMEM. */
int gd_keyset_parse(struct gd_keyset **out, const struct gd_str *json, const uint8_t *env_hash,
                    struct gd_err *err);
/* The key of that hash and id, or NULL. For reloads: its time tells what it compares. */
const struct gd_key *gd_keyset_find(const struct gd_keyset *s, const struct gd_key *like);
/* One reference less; frees after the last. NULL is fine. */
void gd_keyset_drop(struct gd_keyset *s);

#endif
