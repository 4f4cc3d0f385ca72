/* keys.c - the key ring: who a request is from, and whether it may come now. See guardian/keys.h.
 *
 * The keys of one reading of the file are a set that never changes. A request takes a reference to
 * the set of its time and compares without a lock; a reload puts another set in its place, and the
 * old one goes with its last request. What keys have used of their limits is in objects of their own
 * that both sets have. Locks, from the outer one: reloading, then the ring's, or that of one use. */
#include "keyset.h"

#include "guardian/file.h"

#include <openssl/crypto.h>
#include <string.h>
#include <sys/random.h>

#define SECOND_NS 1000000000u
#define SECRET_BYTES 32
/* Threads that read the clock and then wait for each other come with times that go back a little: for
 * them it stands still. One that has gone back by more was set anew. */
#define CLOCK_BACK_NS_MAX (60 * (uint64_t)SECOND_NS)

struct gd_keyring {
    pthread_mutex_t reloading; /* one at a time */
    pthread_mutex_t lock;      /* of set: the pointer, and taking the first reference to it */
    struct gd_keyset *set;     /* NULL: the ring is open */
    char *path;                /* NULL: there is no file */
    bool has_env;
    uint8_t env_hash[GD_KEY_HASH_BYTES];
    uint8_t secret[SECRET_BYTES]; /* of the salts */
};

static struct gd_key_use *new_use(void)
{
    struct gd_key_use *u = calloc(1, sizeof(*u));
    if (u != NULL && pthread_mutex_init(&u->lock, NULL) != 0) {
        free(u);
        return NULL;
    }
    return u;
}

static void set_salt(const struct gd_keyring *r, struct gd_key *k)
{
    uint8_t text[SECRET_BYTES + GD_KEY_NAME_BYTES_MAX], digest[GD_KEY_HASH_BYTES];
    memcpy(text, r->secret, SECRET_BYTES);
    memcpy(text + SECRET_BYTES, k->tenant.ptr, k->tenant.len);
    gd_sha256(text, SECRET_BYTES + k->tenant.len, digest);
    memcpy(k->salt.bytes, digest, sizeof(k->salt.bytes));
    OPENSSL_cleanse(text, sizeof(text));
    OPENSSL_cleanse(digest, sizeof(digest));
}

/* Gives every key its salt and its use: that of the same key of the set before, or a new one. */
static int equip(const struct gd_keyring *r, struct gd_keyset *s, const struct gd_keyset *before,
                 struct gd_err *err)
{
    for (uint32_t i = 0; i < s->n; i++) {
        struct gd_key *k = &s->keys[i];
        set_salt(r, k);
        const struct gd_key *old = before != NULL ? gd_keyset_find(before, k) : NULL;
        k->use = old != NULL ? old->use : new_use();
        if (k->use == NULL) {
            return gd_err_set(err, GD_ENOMEM, "no memory for the keys");
        }
        atomic_fetch_add(&k->use->refs, 1);
    }
    return GD_OK;
}

/* What was used stays used: so many requests, whatever each of them costs now. */
static void set_limits(struct gd_key_use *u, const struct gd_key_limits *limits)
{
    pthread_mutex_lock(&u->lock);
    if (u->limits.cost_ns != 0 && u->limits.cost_ns != limits->cost_ns) {
        const double requests = (double)u->lacks_ns / (double)u->limits.cost_ns;
        const double lacks_ns = requests * (double)limits->cost_ns;
        u->lacks_ns = lacks_ns < (double)(INT64_MAX / 2) ? (uint64_t)lacks_ns : INT64_MAX / 2;
    }
    u->limits = *limits;
    pthread_mutex_unlock(&u->lock);
}

/* Reads the keys that there are now; they come after `before`. */
static int load(const struct gd_keyring *r, const struct gd_keyset *before, struct gd_keyset **out,
                struct gd_err *err)
{
    struct gd_keyset *s = NULL;
    char *text = NULL;
    size_t len = 0;
    int rc = GD_OK;
    if (r->path != NULL) {
        rc = gd_file_read(r->path, GD_KEYS_FILE_BYTES_MAX, &text, &len, err);
    }
    if (rc != GD_OK) { /* names the file */
        rc = rc == GD_ENOMEM ? rc : GD_EUSAGE;
        goto done;
    }
    const struct gd_str json = {text, len};
    rc = gd_keyset_parse(&s, text != NULL ? &json : NULL, r->has_env ? r->env_hash : NULL, err);
    rc = rc == GD_OK ? equip(r, s, before, err) : rc;
    if (rc != GD_OK && r->path != NULL) {
        gd_err_prefix(err, "key file '%s'", r->path);
    }
done:
    if (text != NULL) {
        OPENSSL_cleanse(text, len); /* somebody may have put a key where its hash belongs */
    }
    free(text);
    if (rc != GD_OK) {
        gd_keyset_drop(s);
        if (err != NULL) {
            err->code = rc;
        }
        return rc;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        set_limits(s->keys[i].use, &s->keys[i].limits);
    }
    *out = s;
    return GD_OK;
}

static int take_env_key(struct gd_keyring *r, const char *env_key, struct gd_err *err)
{
    const struct gd_str key = gd_str_from(env_key);
    if (!gd_key_fits(key)) {
        return gd_err_set(err, GD_EUSAGE,
                          "the key in the environment must have %d to %d visible ASCII characters",
                          GD_KEY_BYTES_MIN, GD_KEY_BYTES_MAX);
    }
    gd_sha256(key.ptr, key.len, r->env_hash);
    r->has_env = true;
    return GD_OK;
}

int gd_keyring_open(struct gd_keyring **out, const char *path, const char *env_key,
                    struct gd_err *err)
{
    struct gd_keyring *r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the keys");
    }
    pthread_mutex_init(&r->reloading, NULL);
    pthread_mutex_init(&r->lock, NULL);
    int rc = GD_OK;
    if (getrandom(r->secret, sizeof(r->secret), 0) != (ssize_t)sizeof(r->secret)) {
        rc = gd_err_set(err, GD_EINTERNAL, "the system gave no random bytes");
    }
    if (rc == GD_OK && env_key != NULL) {
        rc = take_env_key(r, env_key, err);
    }
    if (rc == GD_OK && path != NULL) {
        r->path = strdup(path);
        rc = r->path != NULL ? GD_OK : gd_err_set(err, GD_ENOMEM, "no memory for the keys");
    }
    if (rc == GD_OK && (path != NULL || env_key != NULL)) {
        rc = load(r, NULL, &r->set, err);
    }
    if (rc != GD_OK) {
        gd_keyring_close(r);
        return rc;
    }
    *out = r;
    return GD_OK;
}

void gd_keyring_close(struct gd_keyring *r)
{
    if (r == NULL) {
        return;
    }
    gd_keyset_drop(r->set);
    free(r->path);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->reloading);
    OPENSSL_cleanse(r, sizeof(*r));
    free(r);
}

int gd_keyring_reload(struct gd_keyring *r, struct gd_err *err)
{
    struct gd_keyset *set = NULL;
    if (r->path == NULL) {
        return GD_OK;
    }
    pthread_mutex_lock(&r->reloading);
    /* Only here it is ever put in another's place. */
    struct gd_keyset *before = r->set;
    int rc = load(r, before, &set, err);
    if (rc == GD_OK) {
        pthread_mutex_lock(&r->lock);
        r->set = set;
        pthread_mutex_unlock(&r->lock);
        gd_keyset_drop(before);
    }
    pthread_mutex_unlock(&r->reloading);
    return rc;
}

bool gd_keyring_required(const struct gd_keyring *r)
{
    return r != NULL && (r->path != NULL || r->has_env);
}

static struct gd_keyset *take_set(struct gd_keyring *r)
{
    pthread_mutex_lock(&r->lock);
    struct gd_keyset *s = r->set;
    atomic_fetch_add(&s->refs, 1);
    pthread_mutex_unlock(&r->lock);
    return s;
}

uint32_t gd_keyring_count(struct gd_keyring *r)
{
    if (!gd_keyring_required(r)) {
        return 0;
    }
    struct gd_keyset *s = take_set(r);
    const uint32_t n = s->n;
    gd_keyset_drop(s);
    return n;
}

/* The key of this hash, or s->n. Compares with all of them, and chooses without a branch. */
static uint32_t look_up(const struct gd_keyset *s, const uint8_t hash[GD_KEY_HASH_BYTES])
{
    uint32_t found = s->n;
    for (uint32_t i = 0; i < s->n; i++) {
        const uint32_t diff = (uint32_t)CRYPTO_memcmp(hash, s->hashes[i], GD_KEY_HASH_BYTES);
        const uint32_t other = (diff | (0u - diff)) >> 31; /* 1 where they differ, else 0 */
        const uint32_t mask = other - 1u;                  /* all ones where they are the same */
        found = (found & ~mask) | (i & mask);
    }
    return found;
}

/* Time passes: the bucket fills. Under its lock. */
static void fill(struct gd_key_use *u, int64_t now_ns)
{
    uint64_t passed_ns = 0;
    if (now_ns >= u->at_ns) {
        passed_ns = (uint64_t)now_ns - (uint64_t)u->at_ns;
    } else if ((uint64_t)u->at_ns - (uint64_t)now_ns < CLOCK_BACK_NS_MAX) {
        return;
    }
    u->lacks_ns = u->lacks_ns > passed_ns ? u->lacks_ns - passed_ns : 0;
    u->at_ns = now_ns;
}

/* Takes n requests' worth, whether it is there or not. Under its lock. */
static void spend(struct gd_key_use *u, uint32_t n)
{
    uint64_t cost_ns = 0, lacks_ns = 0;
    if (__builtin_mul_overflow(u->limits.cost_ns, (uint64_t)n, &cost_ns) ||
        __builtin_add_overflow(u->lacks_ns, cost_ns, &lacks_ns) || lacks_ns > INT64_MAX / 2) {
        lacks_ns = INT64_MAX / 2;
    }
    u->lacks_ns = lacks_ns;
}

/* Counts one request, or says why not. */
static enum gd_key_answer admit(struct gd_key_use *u, int64_t now_ns, uint32_t *retry_after_s)
{
    enum gd_key_answer answer = GD_KEY_OK;
    pthread_mutex_lock(&u->lock);
    const struct gd_key_limits *l = &u->limits;
    fill(u, now_ns);
    /* There must be enough for one whole request. Without a rate all three are 0. */
    const uint64_t may_lack_ns = l->burst_ns - l->cost_ns;
    if (l->concurrency != 0 && u->running >= l->concurrency) {
        answer = GD_KEY_TOO_MANY;
        *retry_after_s = 1;
    } else if (l->cost_ns != 0 && u->lacks_ns > may_lack_ns) {
        const uint64_t wait_s = (u->lacks_ns - may_lack_ns + SECOND_NS - 1) / SECOND_NS;
        answer = GD_KEY_RATE_LIMITED;
        *retry_after_s =
            wait_s < GD_KEY_RETRY_AFTER_S_MAX ? (uint32_t)wait_s : GD_KEY_RETRY_AFTER_S_MAX;
    } else {
        spend(u, 1);
        u->running++;
    }
    pthread_mutex_unlock(&u->lock);
    return answer;
}

static void copy_name(char out[GD_KEY_NAME_BYTES_MAX + 1], struct gd_str name)
{
    memcpy(out, name.ptr, name.len);
    out[name.len] = '\0';
}

enum gd_key_answer gd_keyring_enter(struct gd_keyring *r, struct gd_str presented, int64_t now_ns,
                                    struct gd_lease *lease)
{
    uint8_t hash[GD_KEY_HASH_BYTES];
    *lease = (struct gd_lease){.open = !gd_keyring_required(r)};
    if (lease->open) {
        return GD_KEY_OK;
    }
    if (!gd_key_fits(presented)) {
        return GD_KEY_UNKNOWN;
    }
    gd_sha256(presented.ptr, presented.len, hash);
    struct gd_keyset *s = take_set(r);
    const uint32_t at = look_up(s, hash);
    OPENSSL_cleanse(hash, sizeof(hash));
    enum gd_key_answer answer = GD_KEY_UNKNOWN;
    if (at < s->n) {
        copy_name(lease->id, s->keys[at].id);
        copy_name(lease->tenant, s->keys[at].tenant);
        answer = admit(s->keys[at].use, now_ns, &lease->retry_after_s);
    }
    if (answer != GD_KEY_OK) {
        gd_keyset_drop(s);
        return answer;
    }
    lease->salt = s->keys[at].salt;
    lease->key = at;
    lease->set = s;
    return GD_KEY_OK;
}

const struct gd_str *gd_lease_policies(const struct gd_lease *lease, uint32_t *n)
{
    const struct gd_key *k = lease->set != NULL ? &lease->set->keys[lease->key] : NULL;
    *n = k != NULL ? k->n_policies : 0;
    return k != NULL ? k->policies : NULL;
}

void gd_lease_charge(struct gd_lease *lease, uint32_t n, int64_t now_ns)
{
    if (lease->set == NULL) {
        return;
    }
    struct gd_key_use *u = lease->set->keys[lease->key].use;
    pthread_mutex_lock(&u->lock);
    fill(u, now_ns);
    spend(u, n);
    pthread_mutex_unlock(&u->lock);
}

void gd_lease_leave(struct gd_lease *lease)
{
    if (lease->set == NULL) {
        lease->open = false;
        return;
    }
    struct gd_key_use *u = lease->set->keys[lease->key].use;
    pthread_mutex_lock(&u->lock);
    u->running--;
    pthread_mutex_unlock(&u->lock);
    gd_keyset_drop(lease->set);
    lease->set = NULL;
    OPENSSL_cleanse(&lease->salt, sizeof(lease->salt));
}
