/* fuzz_keys.c - libFuzzer driver of key files. The first byte chooses the text: the rest as it is; the rest
 * as the members of a key, behind an id and a hash; the rest as a second key behind a whole one; or the
 * rest as one member of a key. For every input:
 *   - what is accepted keeps the promises of keys.h: 1 to GD_KEYS_MAX keys in ascending order of their
 *     hashes, ids and tenants that fit, ids and hashes none twice, policies with names none twice, limits
 *     in their bounds;
 *   - each key is found by its hash and id, and not by another id;
 *   - what is refused is GD_EUSAGE with a message in UTF-8 that shows no hash; a second reading gives the
 *     same. */
#include "../../server/http/keyset.h"
#include "check.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HASH_A "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define HASH_B "f123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define KEY_A "{\"id\":\"a\",\"sha256\":\"" HASH_A "\""

static const struct {
    const char *before, *after;
} FRAMES[] = {
    {"", ""},
    {"{\"keys\":[" KEY_A ",", "}]}"},
    {"{\"keys\":[" KEY_A "},", "]}"},
    {"{\"keys\":[", "]}"},
    {"{\"keys\":[" KEY_A ",\"policies\":", "}]}"},
    {"{\"keys\":[" KEY_A ",\"tenant\":", "}]}"},
    {"{\"keys\":[" KEY_A ",\"requests_per_second\":", "}]}"},
    {"{\"keys\":[" KEY_A ",\"requests_per_second\":0.5,\"burst\":", "}]}"},
    {"{\"keys\":[" KEY_A ",\"concurrency\":", "}]}"},
    {"{\"keys\":[{\"id\":\"a\",\"sha256\":", "}]}"},
    {"{\"keys\":[{\"sha256\":\"" HASH_B "\",\"id\":", "}]}"},
};
#define N_FRAMES (sizeof FRAMES / sizeof FRAMES[0])

static void check_policies(const struct gd_key *k)
{
    GD_ASSERT(k->n_policies <= GD_KEY_POLICIES_MAX);
    for (uint32_t i = 0; i < k->n_policies; i++) {
        const struct gd_str p = k->policies[i];
        GD_ASSERT(p.len > 0 && p.len <= GD_KEY_NAME_BYTES_MAX);
        for (size_t at = 0; at < p.len; at++)
            GD_ASSERT(p.ptr[at] > ' ' && p.ptr[at] < 0x7F && p.ptr[at] != '@');
        for (uint32_t j = 0; j < i; j++)
            GD_ASSERT(!gd_str_eq(p, k->policies[j]));
    }
}

static void check_limits(const struct gd_key_limits *l)
{
    /* a second by 100,000 at most and by 0.001 at least */
    GD_ASSERT(l->cost_ns == 0 || (l->cost_ns >= 10000 && l->cost_ns <= UINT64_C(1000000000000)));
    GD_ASSERT(l->cost_ns == 0 ? l->burst_ns == 0
                              : l->burst_ns >= l->cost_ns && l->burst_ns / l->cost_ns <= 1000000);
    GD_ASSERT(l->concurrency <= 65536);
}

static void check_set(const struct gd_keyset *s)
{
    GD_ASSERT(s->n >= 1 && s->n <= GD_KEYS_MAX);
    for (uint32_t i = 0; i < s->n; i++) {
        const struct gd_key *k = &s->keys[i];
        struct gd_key like = *k;
        GD_ASSERT(memcmp(s->hashes[i], k->hash, GD_KEY_HASH_BYTES) == 0);
        GD_ASSERT(i == 0 || memcmp(s->hashes[i - 1], k->hash, GD_KEY_HASH_BYTES) < 0);
        GD_ASSERT(gd_key_name_fits(k->id) && gd_key_name_fits(k->tenant) && k->place < s->n);
        for (uint32_t j = 0; j < i; j++)
            GD_ASSERT(!gd_str_eq(k->id, s->keys[j].id));
        check_policies(k);
        check_limits(&k->limits);
        GD_ASSERT(gd_keyset_find(s, k) == k);
        like.id = GD_STR("no id fits this");
        GD_ASSERT(gd_keyset_find(s, &like) == NULL);
    }
}

static void check_same(const struct gd_keyset *a, const struct gd_keyset *b)
{
    GD_ASSERT(a->n == b->n);
    for (uint32_t i = 0; i < a->n; i++) {
        const struct gd_key *x = &a->keys[i], *y = &b->keys[i];
        GD_ASSERT(memcmp(x->hash, y->hash, GD_KEY_HASH_BYTES) == 0 && gd_str_eq(x->id, y->id));
        GD_ASSERT(gd_str_eq(x->tenant, y->tenant) && x->n_policies == y->n_policies);
        GD_ASSERT(x->limits.cost_ns == y->limits.cost_ns && x->place == y->place);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const size_t frame = data[0] % N_FRAMES;
    const size_t before = strlen(FRAMES[frame].before), after = strlen(FRAMES[frame].after);
    const size_t n = before + size - 1 + after;
    char *text = malloc(n + 1); /* exactly so long, for the sanitizer; not of length 0 */
    GD_ASSERT(text);
    memcpy(text, FRAMES[frame].before, before);
    memcpy(text + before, data + 1, size - 1);
    memcpy(text + before + size - 1, FRAMES[frame].after, after);

    const struct gd_str json = {text, n};
    struct gd_keyset *a = NULL, *b = NULL;
    struct gd_err err = {0}, again = {0};
    const int rc = gd_keyset_parse(&a, &json, NULL, &err);
    GD_ASSERT(gd_keyset_parse(&b, &json, NULL, &again) == rc && (rc == GD_OK) == (a && b));
    if (rc == GD_OK) {
        check_set(a);
        check_same(a, b);
    } else {
        GD_ASSERT(rc == GD_EUSAGE && err.code == rc && strcmp(err.msg, again.msg) == 0);
        check_message(&err);
        GD_ASSERT(!strstr(err.msg, HASH_A) && !strstr(err.msg, HASH_B));
    }
    gd_keyset_drop(a);
    gd_keyset_drop(b);
    free(text);
    return 0;
}
