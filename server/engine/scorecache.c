/* scorecache.c - whole scores in a table of fixed size, found by bucket and ordered by last use.
 *
 * Digests are of what clients send, so the bucket also depends on a secret of this table: nobody can
 * choose prompts that all fall into one. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "guardian/scorecache.h"
#include "ring.h"

#include <openssl/sha.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

struct entry {
    struct gd_score_key key;
    uint32_t n_choices;
    float logits[GD_POLICY_CHOICES_MAX];
};

struct gd_scorecache {
    uint32_t n_entries, n_used; /* entries fill up from 0 and are never given back */
    uint32_t bucket_mask;
    uint64_t bucket_secret;
    struct entry *entries;     /* [n_entries] */
    struct gd_link *order;     /* [n_entries + 1]: by last use, newest first; the head is last */
    struct gd_link *by_bucket; /* [n_entries + n_buckets] */
    pthread_mutex_t lock;
};

static void free_tables(struct gd_scorecache *c)
{
    free(c->entries);
    free(c->order);
    free(c->by_bucket);
    free(c);
}

int gd_scorecache_open(struct gd_scorecache **out, uint32_t n_entries, struct gd_err *err)
{
    if (n_entries == 0 || n_entries > GD_VERDICT_CACHE_MAX)
        return gd_err_set(err, GD_EUSAGE, "a verdict cache of %u scores: expected 1 to %d",
                          n_entries, GD_VERDICT_CACHE_MAX);
    int rc = GD_OK;
    uint32_t n_buckets = gd_ring_buckets(n_entries);
    struct gd_scorecache *c = calloc(1, sizeof *c);
    if (c == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for the verdict cache");
    c->n_entries = n_entries;
    c->bucket_mask = n_buckets - 1;
    c->entries = calloc(n_entries, sizeof *c->entries);
    c->order = calloc((size_t)n_entries + 1, sizeof *c->order);
    c->by_bucket = calloc((size_t)n_entries + n_buckets, sizeof *c->by_bucket);
    if (c->entries == NULL || c->order == NULL || c->by_bucket == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for a verdict cache of %u scores", n_entries);
        goto done;
    }
    if (getrandom(&c->bucket_secret, sizeof c->bucket_secret, 0) !=
        (ssize_t)sizeof c->bucket_secret) {
        rc = gd_err_set(err, GD_EINTERNAL, "the system gave no random bytes");
        goto done;
    }
    if (pthread_mutex_init(&c->lock, NULL) != 0) {
        rc = gd_err_set(err, GD_ENOMEM, "no lock for the verdict cache");
        goto done;
    }
    gd_ring_init(c->order, n_entries);
    for (uint32_t i = 0; i < n_entries + n_buckets; i++)
        gd_ring_init(c->by_bucket, i);
    *out = c;
done:
    if (rc != GD_OK)
        free_tables(c);
    return rc;
}

void gd_scorecache_close(struct gd_scorecache *c)
{
    if (c == NULL)
        return;
    pthread_mutex_destroy(&c->lock);
    free_tables(c);
}

/* The state is on the stack, as in sha256.c. Both lengths are hashed before what they count, so that
 * no token can pass for a choice. */
bool gd_scorecache_key(const struct gd_kv_prompt *p, const int32_t *choices, uint32_t n_choices,
                       struct gd_score_key *out)
{
    SHA256_CTX h;
    return SHA256_Init(&h) == 1 && SHA256_Update(&h, p->salt.bytes, sizeof p->salt.bytes) == 1 &&
           SHA256_Update(&h, &p->n_tokens, sizeof p->n_tokens) == 1 &&
           SHA256_Update(&h, p->tokens, p->n_tokens * sizeof *p->tokens) == 1 &&
           SHA256_Update(&h, &n_choices, sizeof n_choices) == 1 &&
           SHA256_Update(&h, choices, n_choices * sizeof *choices) == 1 &&
           SHA256_Final(out->digest, &h) == 1;
}

static uint32_t bucket_of(const struct gd_scorecache *c, const struct gd_score_key *key)
{
    uint64_t word;
    memcpy(&word, key->digest, sizeof word);
    return c->n_entries + ((uint32_t)gd_ring_mix(word ^ c->bucket_secret) & c->bucket_mask);
}

/* The entry of key, now the one used last, or NULL. */
static struct entry *use(struct gd_scorecache *c, const struct gd_score_key *key)
{
    uint32_t head = bucket_of(c, key);
    for (uint32_t i = c->by_bucket[head].next; i != head; i = c->by_bucket[i].next) {
        if (memcmp(c->entries[i].key.digest, key->digest, sizeof key->digest) == 0) {
            gd_ring_remove(c->order, i);
            gd_ring_push(c->order, c->n_entries, i);
            return &c->entries[i];
        }
    }
    return NULL;
}

/* An entry for a key that has none: a fresh one, or the one that was not used for longest. */
static struct entry *add(struct gd_scorecache *c, const struct gd_score_key *key)
{
    uint32_t i = c->n_used;
    if (c->n_used < c->n_entries) {
        c->n_used++;
    } else {
        i = c->order[c->n_entries].prev;
        gd_ring_remove(c->order, i);
        gd_ring_remove(c->by_bucket, i);
    }
    c->entries[i].key = *key;
    gd_ring_push(c->order, c->n_entries, i);
    gd_ring_push(c->by_bucket, bucket_of(c, key), i);
    return &c->entries[i];
}

bool gd_scorecache_get(struct gd_scorecache *c, const struct gd_score_key *key, uint32_t n_choices,
                       float *logits)
{
    pthread_mutex_lock(&c->lock);
    const struct entry *e = use(c, key);
    bool found = e != NULL && e->n_choices == n_choices;
    if (found)
        memcpy(logits, e->logits, n_choices * sizeof *logits);
    pthread_mutex_unlock(&c->lock);
    return found;
}

void gd_scorecache_put(struct gd_scorecache *c, const struct gd_score_key *key, uint32_t n_choices,
                       const float *logits)
{
    GD_ASSERT(n_choices <= GD_POLICY_CHOICES_MAX);
    pthread_mutex_lock(&c->lock);
    struct entry *e = use(c, key);
    if (e == NULL)
        e = add(c, key);
    e->n_choices = n_choices;
    memcpy(e->logits, logits, n_choices * sizeof *logits);
    pthread_mutex_unlock(&c->lock);
}

uint32_t gd_scorecache_used(struct gd_scorecache *c)
{
    pthread_mutex_lock(&c->lock);
    uint32_t n = c->n_used;
    pthread_mutex_unlock(&c->lock);
    return n;
}
