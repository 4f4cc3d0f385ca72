/* test_scorecache.c - what is kept is found bit for bit, under its own key only, in the order of use,
 * by many threads. */
#include "guardian/scorecache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define N_CHOICES 11u

static struct gd_scorecache *open_cache(uint32_t n)
{
    struct gd_scorecache *c = NULL;
    assert_int_equal(gd_scorecache_open(&c, n, NULL), GD_OK);
    return c;
}

static struct gd_score_key key_of(const struct gd_kv_prompt *p, const int32_t *choices, uint32_t n)
{
    struct gd_score_key k;
    memset(&k, 0xa5, sizeof k);
    assert_true(gd_scorecache_key(p, choices, n, &k));
    return k;
}

/* The key of number i. */
static struct gd_score_key key(int32_t i)
{
    const int32_t choices[] = {7, 8};
    const struct gd_kv_prompt p = {.tokens = &i, .n_tokens = 1};
    return key_of(&p, choices, 2);
}

static void fill(float *logits, uint32_t n, int32_t i)
{
    for (uint32_t k = 0; k < n; k++)
        logits[k] = (float)i * 64.0f + (float)k + 0.25f;
}

static void put(struct gd_scorecache *c, int32_t i)
{
    struct gd_score_key k = key(i);
    float logits[N_CHOICES];
    fill(logits, N_CHOICES, i);
    gd_scorecache_put(c, &k, N_CHOICES, logits);
}

/* True when the score of i is there, and is its own. */
static bool get(struct gd_scorecache *c, int32_t i)
{
    struct gd_score_key k = key(i);
    float got[N_CHOICES + 1], want[N_CHOICES + 1];
    fill(want, N_CHOICES + 1, -1);
    memcpy(got, want, sizeof got);
    bool found = gd_scorecache_get(c, &k, N_CHOICES, got);
    if (found)
        fill(want, N_CHOICES, i);
    assert_memory_equal(got, want, sizeof got); /* untouched when there is none */
    return found;
}

static void test_open(void **state)
{
    (void)state;
    struct gd_scorecache *c = NULL;
    struct gd_err err = {0};
    assert_int_equal(gd_scorecache_open(&c, 0, &err), GD_EUSAGE);
    assert_int_equal(gd_scorecache_open(&c, GD_VERDICT_CACHE_MAX + 1, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "1048576"));
    assert_null(c);
    gd_scorecache_close(NULL);
    c = open_cache(GD_VERDICT_CACHE_MAX);
    assert_int_equal(gd_scorecache_used(c), 0);
    assert_false(get(c, 1));
    put(c, 1);
    assert_true(get(c, 1));
    gd_scorecache_close(c);
}

static bool same(struct gd_score_key a, struct gd_score_key b)
{
    return memcmp(a.digest, b.digest, sizeof a.digest) == 0;
}

/* Each input that a score or its secrecy depends on changes the key; nothing can shift from one into
 * the next. */
static void test_key(void **state)
{
    (void)state;
    int32_t tokens[] = {10, 11, 12, 13, 14, 15}, choices[] = {20, 21, 22, 23};
    struct gd_kv_prompt p = {.tokens = tokens, .n_tokens = 4, .n_keep = 3, .salt = {{1}}};
    const struct gd_score_key first = key_of(&p, choices, 3);
    assert_true(same(first, key_of(&p, choices, 3)));
    p.n_keep = 4; /* what is reused of a prompt does not change its score */
    p.n_shared = 2;
    assert_true(same(first, key_of(&p, choices, 3)));
    for (uint32_t i = 0; i < sizeof p.salt.bytes; i++) {
        p.salt.bytes[i] ^= 0x80;
        assert_false(same(first, key_of(&p, choices, 3)));
        p.salt.bytes[i] ^= 0x80;
    }
    for (uint32_t i = 0; i < 32; i++) {
        for (uint32_t k = 0; k < 4; k++) {
            tokens[k] ^= (int32_t)(1u << i);
            assert_false(same(first, key_of(&p, choices, 3)));
            tokens[k] ^= (int32_t)(1u << i);
        }
        for (uint32_t k = 0; k < 3; k++) {
            choices[k] ^= (int32_t)(1u << i);
            assert_false(same(first, key_of(&p, choices, 3)));
            choices[k] ^= (int32_t)(1u << i);
        }
    }
    assert_true(same(first, key_of(&p, choices, 3)));
    assert_false(same(first, key_of(&p, choices, 2)));
    assert_false(same(first, key_of(&p, choices, 4)));
    p.n_tokens = 3;
    assert_false(same(first, key_of(&p, choices, 3)));
    p.n_tokens = 5;
    assert_false(same(first, key_of(&p, choices, 3)));
    /* The same numbers in a row, parted at each place. */
    int32_t row[8] = {0, 1, 1, 2, 3, 1, 0, 1};
    struct gd_score_key keys[8];
    for (uint32_t at = 1; at < 8; at++) {
        p.tokens = row;
        p.n_tokens = at;
        keys[at] = key_of(&p, row + at, 8 - at);
        for (uint32_t k = 1; k < at; k++)
            assert_false(same(keys[at], keys[k]));
    }
    /* 5, 2, 1, 6: one token and two choices, or two tokens and one choice behind its count. */
    int32_t a[] = {5, 2}, b[] = {1, 6};
    p.tokens = a;
    p.n_tokens = 1;
    struct gd_score_key one = key_of(&p, b, 2);
    p.n_tokens = 2;
    assert_false(same(one, key_of(&p, b + 1, 1)));
}

static void test_found_under_its_key(void **state)
{
    (void)state;
    struct gd_scorecache *c = open_cache(100);
    for (int32_t i = 0; i < 100; i++) {
        assert_false(get(c, i));
        put(c, i);
        assert_int_equal(gd_scorecache_used(c), i + 1);
    }
    for (int32_t i = 0; i < 100; i++)
        assert_true(get(c, i));
    assert_false(get(c, 100));
    /* Logits are bits: zeros keep their signs. */
    struct gd_score_key k = key(5);
    float zeros[GD_POLICY_CHOICES_MAX], got[GD_POLICY_CHOICES_MAX];
    for (uint32_t i = 0; i < GD_POLICY_CHOICES_MAX; i++)
        zeros[i] = i % 2 ? -0.0f : 0.0f;
    gd_scorecache_put(c, &k, GD_POLICY_CHOICES_MAX, zeros); /* over what was there */
    assert_int_equal(gd_scorecache_used(c), 100);
    assert_true(gd_scorecache_get(c, &k, GD_POLICY_CHOICES_MAX, got));
    assert_memory_equal(got, zeros, sizeof got);
    assert_false(gd_scorecache_get(c, &k, N_CHOICES, got)); /* another number of choices */
    /* Keys that differ in their last bits only. */
    k.digest[31] ^= 1;
    assert_false(gd_scorecache_get(c, &k, GD_POLICY_CHOICES_MAX, got));
    gd_scorecache_close(c);
}

static void test_order(void **state)
{
    (void)state;
    struct gd_scorecache *c = open_cache(3);
    put(c, 0);
    put(c, 1);
    put(c, 2);
    assert_true(get(c, 0)); /* used by reading */
    put(c, 3);              /* in the place of 1 */
    assert_int_equal(gd_scorecache_used(c), 3);
    assert_false(get(c, 1));
    put(c, 2); /* used by writing */
    put(c, 4); /* in the place of 0 */
    assert_false(get(c, 0));
    assert_true(get(c, 2) && get(c, 3) && get(c, 4));
    gd_scorecache_close(c);
}

/* Against a list that is kept in the order of use. */
static void test_order_at_random(void **state)
{
    (void)state;
    uint32_t x = 12345, hits = 0;
    for (uint32_t n = 1; n <= 40; n++) {
        struct gd_scorecache *c = open_cache(n);
        int32_t list[64];
        uint32_t len = 0;
        for (uint32_t i = 0; i < 2000; i++) {
            x = x * 1664525u + 1013904223u;
            int32_t k = (int32_t)((x >> 16) % (n + 8));
            bool write = (x >> 30) == 0;
            uint32_t at = 0;
            while (at < len && list[at] != k)
                at++;
            bool known = at < len;
            if (write)
                put(c, k);
            else
                assert_int_equal(get(c, k), known);
            hits += !write && known;
            if (!known && !write)
                continue;
            if (!known)
                at = len < n ? len++ : len - 1; /* the last one goes */
            memmove(list + 1, list, at * sizeof *list);
            list[0] = k;
            assert_int_equal(gd_scorecache_used(c), len);
        }
        gd_scorecache_close(c);
    }
    assert_true(hits > 10000);
}

struct job {
    struct gd_scorecache *cache;
    uint32_t seed;
    atomic_uint *hits, *wrong;
};

/* cmocka's asserts belong to the main thread. */
static void *read_and_write(void *arg)
{
    struct job *j = arg;
    uint32_t x = j->seed;
    for (uint32_t i = 0; i < 20000; i++) {
        x = x * 1664525u + 1013904223u;
        int32_t k = (int32_t)((x >> 16) % 96);
        struct gd_score_key id = key(k);
        float want[N_CHOICES], got[N_CHOICES];
        fill(want, N_CHOICES, k);
        if ((x >> 30) == 0) {
            gd_scorecache_put(j->cache, &id, N_CHOICES, want);
        } else if (gd_scorecache_get(j->cache, &id, N_CHOICES, got)) {
            atomic_fetch_add(j->hits, 1);
            if (memcmp(got, want, sizeof got) != 0)
                atomic_fetch_add(j->wrong, 1);
        }
        if (gd_scorecache_used(j->cache) > 64)
            atomic_fetch_add(j->wrong, 1);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    atomic_uint hits = 0, wrong = 0;
    pthread_t threads[4];
    struct job jobs[4];
    struct gd_scorecache *c = open_cache(64);
    for (uint32_t i = 0; i < 4; i++) {
        jobs[i] = (struct job){c, i + 1, &hits, &wrong};
        assert_int_equal(pthread_create(&threads[i], NULL, read_and_write, &jobs[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    assert_true(atomic_load(&hits) > 1000);
    assert_int_equal(gd_scorecache_used(c), 64);
    gd_scorecache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_key),
        cmocka_unit_test(test_found_under_its_key),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_order_at_random),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
