/* test_keys.c - API keys: the key file and its refusals, look-ups that compare with every
 * key, limits by a clock that may do anything, reloads, tenants, and all of it by many threads. */
#include "guardian/file.h"
#include "guardian/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define S 1000000000LL
#define MS 1000000LL
#define T0 (1000 * S)

/* What the module calls, watched (see CMakeLists.txt). Of this thread. */
static _Thread_local uint32_t n_compared;
static _Thread_local const void *hash_of_last, *text_of_last;
static _Thread_local bool hash_wiped, text_wiped;

static bool allows_policy(const struct gd_lease *l, struct gd_str policy)
{
    uint32_t n = 0, at = 0;
    const struct gd_str *names = gd_lease_policies(l, &n);
    while (at < n && !gd_str_eq(names[at], policy))
        at++;
    return (l->set != NULL || l->open) && (n == 0 || at < n);
}

int __real_CRYPTO_memcmp(const void *a, const void *b, size_t n);
int __wrap_CRYPTO_memcmp(const void *a, const void *b, size_t n);
int __wrap_CRYPTO_memcmp(const void *a, const void *b, size_t n)
{
    n_compared++;
    assert_int_equal(n, 32);
    return __real_CRYPTO_memcmp(a, b, n);
}

void __real_gd_sha256(const void *data, size_t len, uint8_t out[32]);
void __wrap_gd_sha256(const void *data, size_t len, uint8_t out[32]);
void __wrap_gd_sha256(const void *data, size_t len, uint8_t out[32])
{
    hash_of_last = out;
    text_of_last = data;
    hash_wiped = text_wiped = false;
    __real_gd_sha256(data, len, out);
}

void __real_OPENSSL_cleanse(void *p, size_t n);
void __wrap_OPENSSL_cleanse(void *p, size_t n);
void __wrap_OPENSSL_cleanse(void *p, size_t n)
{
    hash_wiped = hash_wiped || (p == hash_of_last && n == 32);
    text_wiped = text_wiped || p == text_of_last;
    __real_OPENSSL_cleanse(p, n);
}

#define KEY "correct-horse-battery-staple"
/* printf correct-horse-battery-staple | sha256sum */
#define KEY_HASH "87cbebfeebc05f7c54ac9336c4b4bbec831227a641951a4bde7edd56020f8590"

static const char *hex_of(const char *key)
{
    static _Thread_local char hex[65];
    uint8_t digest[32];
    __real_gd_sha256(key, strlen(key), digest);
    for (size_t i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return hex;
}

/* The key of number i, and its id. */
static const char *key_no(uint32_t i)
{
    static _Thread_local char key[40];
    snprintf(key, sizeof key, "key-number-%012u", i);
    return key;
}

static char dir[] = "/tmp/test_keys_XXXXXX", path[64];

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/keys.json", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void put_bytes(const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void put(const char *text)
{
    put_bytes(text, strlen(text));
}

/* A file with one key, KEY, and these members beside its id and hash. */
#define ONE(more) "{\"keys\":[{\"id\":\"a\",\"sha256\":\"" KEY_HASH "\"" more "}]}"

static struct gd_keyring *open_ring(const char *env_key)
{
    struct gd_keyring *r = NULL;
    struct gd_err err = {0};
    if (gd_keyring_open(&r, path, env_key, &err) != GD_OK)
        fail_msg("%s", err.msg);
    return r;
}

static struct gd_keyring *ring_of(const char *text)
{
    put(text);
    return open_ring(NULL);
}

static void reload(struct gd_keyring *r, const char *text)
{
    struct gd_err err = {0};
    put(text);
    if (gd_keyring_reload(r, &err) != GD_OK)
        fail_msg("%s", err.msg);
}

static enum gd_key_answer enter(struct gd_keyring *r, const char *key, int64_t now_ns,
                                struct gd_lease *l)
{
    return gd_keyring_enter(r, gd_str_from(key), now_ns, l);
}

/* Enters and leaves. */
static enum gd_key_answer ask(struct gd_keyring *r, const char *key, int64_t now_ns)
{
    struct gd_lease l;
    const enum gd_key_answer answer = enter(r, key, now_ns, &l);
    gd_lease_leave(&l);
    return answer;
}

/* How many requests in a row get in at that time, and what the next one is told. */
static uint32_t flood(struct gd_keyring *r, int64_t now_ns, uint32_t *retry_after_s)
{
    struct gd_lease l;
    uint32_t n = 0;
    enum gd_key_answer answer;
    while ((answer = enter(r, KEY, now_ns, &l)) == GD_KEY_OK && n < 2000000) {
        gd_lease_leave(&l);
        n++;
    }
    assert_int_equal(answer, GD_KEY_RATE_LIMITED);
    assert_string_equal(l.id, "a");
    assert_null(l.set);
    if (retry_after_s != NULL)
        *retry_after_s = l.retry_after_s;
    return n;
}

#define K(members) "{\"keys\":[{" members "}]}"
#define ID "\"id\":\"a\""
#define HASH "\"sha256\":\"" KEY_HASH "\""
#define OTHER_HASH "\"sha256\":\"00000000000000000000000000000000000000000000000000000000000000ff\""
#define NAMES4 "\"1\",\"2\",\"3\",\"4\","

static const struct {
    const char *text, *message;
} REFUSED[] = {
    {"", "byte 0"},
    {"{", "byte"},
    {"[]", "an object with one member, which is 'keys'"},
    {"{}", "an object with one member"},
    {"{\"keys\":[],\"keys\":[]}", "an object with one member"},
    {"{\"keys\":[{" ID "," HASH "}],\"more\":1}", "an object with one member"},
    {"{\"keys\":[]}", "keys must be an array of 1 to 4096 objects"},
    {"{\"keys\":{}}", "keys must be an array"},
    {"{\"keys\":null}", "keys must be an array"},
    {"{\"keys\":[1]}", "keys[0] must be an object, is a number"},
    {"{\"keys\":[{" ID "," HASH "},null]}", "keys[1] must be an object, is null"},
    {"{\"keys\":[{" ID "," HASH "},{" ID "," OTHER_HASH "}]}",
     "keys[1].id must be another than that of keys[0]"},
    {"{\"keys\":[{" ID "," HASH "},{\"id\":\"aa\"," OTHER_HASH "},{\"id\":\"b\"," HASH "}]}",
     "keys[2].sha256 must be another than that of keys[0]"},
    {K(), "keys[0].id must be there"},
    {K(ID), "keys[0].sha256 must be there"},
    {K(HASH), "keys[0].id must be there"},
    {K(ID "," HASH ",\"tennant\":\"x\""), "keys[0].tennant is not known"},
    {K(ID "," HASH ",\"Tenant\":\"x\""), "keys[0]: a member is not known"},
    {K(ID "," HASH ",\"" KEY "\":\"x\""), "keys[0]: a member is not known"},
    {K(ID "," HASH ",\"\":\"x\""), "keys[0]: a member is not known"},
    {K(ID "," HASH "," ID), "keys[0] must not have a member twice"},
    {K("\"id\":null," HASH), "keys[0].id must be a string of 1 to 64 letters"},
    {K("\"id\":7," HASH), "keys[0].id must be a string"},
    {K("\"id\":\"\"," HASH), "keys[0].id must be"},
    {K("\"id\":\"a b\"," HASH), "keys[0].id must be"},
    {K("\"id\":\"a\\u0000b\"," HASH), "keys[0].id must be"},
    {K("\"id\":\"a\\nb\"," HASH), "keys[0].id must be"},
    {K("\"id\":\"\xc3\xa4\"," HASH), "keys[0].id must be"},
    {K("\"id\":\"a\\\"b\"," HASH), "keys[0].id must be"},
    {K("\"id\":\"12345678901234567890123456789012345678901234567890123456789012345\"," HASH),
     "keys[0].id must be"},
    {K(ID "," HASH ",\"tenant\":\"\""), "keys[0].tenant must be a string of 1 to 64"},
    {K(ID "," HASH ",\"tenant\":null"), "keys[0].tenant must be"},
    {K(ID "," HASH ",\"tenant\":\"a;b\""), "keys[0].tenant must be"},
    {K(ID ",\"sha256\":\"\""), "keys[0].sha256 must be a string of 64 lower-case hex digits"},
    {K(ID ",\"sha256\":7"), "keys[0].sha256 must be"},
    {K(ID ",\"sha256\":null"), "keys[0].sha256 must be"},
    {K(ID ",\"sha256\":\"" KEY "\""), "keys[0].sha256 must be"},
    {K(ID ",\"sha256\":\"" KEY_HASH "0\""), "keys[0].sha256 must be"},
    {K(ID ",\"sha256\":\"0000000000000000000000000000000000000000000000000000000000000FF0\""),
     "keys[0].sha256 must be"},
    {K(ID ",\"sha256\":\"000000000000000000000000000000000000000000000000000000000000000g\""),
     "keys[0].sha256 must be"},
    {K(ID ",\"sha256\":\"000000000000000000000000000000000000000000000000000000000000000\""),
     "keys[0].sha256 must be"},
    {ONE(",\"policies\":[]"), "keys[0].policies must be an array of 1 to 16 names"},
    {ONE(",\"policies\":null"), "keys[0].policies must be an array"},
    {ONE(",\"policies\":\"mcip\""), "keys[0].policies must be an array"},
    {ONE(",\"policies\":[" NAMES4 "\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\","
         "\"f\",\"g\",\"h\"]"),
     "keys[0].policies must be an array"},
    {ONE(",\"policies\":[\"a\",1]"), "keys[0].policies[1] must be a string of 1 to 64"},
    {ONE(",\"policies\":[\"\"]"), "keys[0].policies[0] must be"},
    {ONE(",\"policies\":[\"a b\"]"), "keys[0].policies[0] must be"},
    {ONE(",\"policies\":[\"mcip@2\"]"), "without '@'"},
    {ONE(",\"policies\":[" NAMES4 "\"2\"]"), "keys[0].policies[4] must be another name"},
    {ONE(",\"requests_per_second\":0"), "keys[0].requests_per_second must be a number from 0.001"},
    {ONE(",\"requests_per_second\":-1"), "keys[0].requests_per_second must be"},
    {ONE(",\"requests_per_second\":0.0009"), "keys[0].requests_per_second must be"},
    {ONE(",\"requests_per_second\":100001"), "keys[0].requests_per_second must be"},
    {ONE(",\"requests_per_second\":1e999"), "keys[0].requests_per_second must be"},
    {ONE(",\"requests_per_second\":\"5\""), "keys[0].requests_per_second must be"},
    {ONE(",\"requests_per_second\":null"), "keys[0].requests_per_second must be"},
    {ONE(",\"burst\":5"), "keys[0].requests_per_second must be there when there is a burst"},
    {ONE(",\"requests_per_second\":1,\"burst\":0"), "keys[0].burst must be an integer from 1"},
    {ONE(",\"requests_per_second\":1,\"burst\":1.5"), "keys[0].burst must be"},
    {ONE(",\"requests_per_second\":1,\"burst\":1000001"), "keys[0].burst must be"},
    {ONE(",\"requests_per_second\":1,\"burst\":18446744073709551617"), "keys[0].burst must be"},
    {ONE(",\"concurrency\":0"), "keys[0].concurrency must be an integer from 1 to 65536"},
    {ONE(",\"concurrency\":65537"), "keys[0].concurrency must be"},
    {ONE(",\"concurrency\":true"), "keys[0].concurrency must be"},
    {ONE(" "), NULL},
};

static void test_refusals(void **state)
{
    (void)state;
    struct gd_keyring *live = ring_of(ONE(""));
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        struct gd_keyring *r = NULL;
        struct gd_err err = {0};
        put(REFUSED[i].text);
        int rc = gd_keyring_open(&r, path, NULL, &err);
        if (REFUSED[i].message == NULL) {
            assert_int_equal(rc, GD_OK);
            gd_keyring_close(r);
            continue;
        }
        if (rc != GD_EUSAGE || err.code != rc || r != NULL || !strstr(err.msg, path) ||
            !strstr(err.msg, REFUSED[i].message))
            fail_msg("%s: %d '%s', not '%s'", REFUSED[i].text, rc, err.msg, REFUSED[i].message);
        if (strstr(err.msg, KEY) || strstr(err.msg, "battery"))
            fail_msg("tells a secret: %s", err.msg);
        assert_int_equal(gd_keyring_reload(live, &err), GD_EUSAGE);
        assert_int_equal(gd_keyring_reload(live, NULL), GD_EUSAGE);
        assert_int_equal(ask(live, KEY, T0), GD_KEY_OK);
    }
    gd_keyring_close(live);
}

static void expect_unreadable(const char *message)
{
    struct gd_keyring *r = NULL;
    struct gd_err err = {0};
    assert_int_equal(gd_keyring_open(&r, path, NULL, &err), GD_EUSAGE);
    assert_int_equal(err.code, GD_EUSAGE);
    if (r != NULL || !strstr(err.msg, path) || !strstr(err.msg, message))
        fail_msg("'%s', not '%s'", err.msg, message);
}

static void test_files(void **state)
{
    (void)state;
    unlink(path);
    expect_unreadable("No such file");
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_unreadable("not a regular file");
    unlink(path);
    put("");
    assert_int_equal(truncate(path, (off_t)GD_KEYS_FILE_BYTES_MAX + 1), 0);
    expect_unreadable("the limit is 4194304");
}

/* Whatever byte is missing or wrong, a file is read or refused, and what was there stays. */
static void test_damaged_files(void **state)
{
    (void)state;
    static const char text[] =
        ONE(",\"tenant\":\"t\",\"policies\":[\"p\",\"q\"],\"requests_per_second\":2e3,"
            "\"burst\":9,\"concurrency\":1");
    static const char bytes[] = {'\0', '"', '\\', '}', ']', ',', '0', '\x7f', '\xff'};
    const size_t n = sizeof text - 1;
    struct gd_keyring *r = ring_of(text);
    struct gd_err err = {0};
    for (size_t i = 0; i < n; i++) {
        put_bytes(text, i);
        assert_int_equal(gd_keyring_reload(r, &err), GD_EUSAGE);
    }
    assert_int_equal(ask(r, KEY, T0), GD_KEY_OK);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof bytes; k++) {
            char changed[sizeof text];
            memcpy(changed, text, sizeof text);
            changed[i] = bytes[k];
            put_bytes(changed, n);
            const int rc = gd_keyring_reload(r, &err);
            assert_true(rc == GD_OK || rc == GD_EUSAGE);
        }
    }
    gd_keyring_close(r);
}

/* keys.json with keys 0 to n - 1, and `more` in each. */
static void put_many(uint32_t n, const char *more)
{
    struct gd_buf b;
    gd_buf_init(&b, 64 * GD_MIB);
    gd_buf_z(&b, "{\"keys\":[");
    for (uint32_t i = 0; i < n; i++)
        gd_buf_fmt(&b, "%s{\"id\":\"id-%u\",\"sha256\":\"%s\"%s}", i > 0 ? "," : "", i,
                   hex_of(key_no(i)), more);
    gd_buf_z(&b, "]}");
    assert_int_equal(b.failed, 0);
    put_bytes(b.data, b.len);
    gd_buf_free(&b);
}

static void test_many_keys(void **state)
{
    (void)state;
    struct gd_err err = {0};
    char id[32];
    put_many(GD_KEYS_MAX, ",\"policies\":[" NAMES4 "\"5\"],\"concurrency\":1");
    struct gd_keyring *r = open_ring("plain-key-of-the-environment");
    assert_int_equal(gd_keyring_count(r), GD_KEYS_MAX + 1);
    for (uint32_t i = 0; i < GD_KEYS_MAX; i += 511) {
        struct gd_lease l;
        assert_int_equal(enter(r, key_no(i), T0, &l), GD_KEY_OK);
        snprintf(id, sizeof id, "id-%u", i);
        assert_string_equal(l.id, id);
        gd_lease_leave(&l);
    }
    put_many(GD_KEYS_MAX + 1, "");
    assert_int_equal(gd_keyring_reload(r, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "keys must be an array of 1 to 4096 objects"));
    assert_int_equal(gd_keyring_count(r), GD_KEYS_MAX + 1);
    gd_keyring_close(r);
}

static void test_every_key_is_compared(void **state)
{
    (void)state;
    const uint32_t n = 37;
    put_many(n, "");
    struct gd_keyring *r = open_ring(NULL);
    for (uint32_t i = 0; i <= n; i++) {
        const enum gd_key_answer want = i < n ? GD_KEY_OK : GD_KEY_UNKNOWN;
        char id[32];
        struct gd_lease l;
        n_compared = 0;
        assert_int_equal(enter(r, key_no(i), T0, &l), want);
        assert_int_equal(n_compared, n);
        assert_true(hash_wiped);
        snprintf(id, sizeof id, "id-%u", i);
        assert_string_equal(l.id, i < n ? id : "");
        assert_true((l.set != NULL) == (i < n));
        gd_lease_leave(&l);
    }
    gd_keyring_close(r);
}

/* A hash that differs in one bit, whichever, is another one. */
static void test_near_misses(void **state)
{
    (void)state;
    static const char digits[] = "0123456789abcdef";
    struct gd_buf b;
    struct gd_lease l;
    gd_buf_init(&b, GD_MIB);
    gd_buf_z(&b, "{\"keys\":[");
    for (size_t bit = 0; bit < 256; bit++) {
        char hex[] = KEY_HASH;
        const unsigned d = (unsigned)(strchr(digits, hex[bit / 4]) - digits);
        hex[bit / 4] = digits[d ^ (1u << (bit % 4))];
        gd_buf_fmt(&b, "{\"id\":\"bit-%zu\",\"sha256\":\"%s\"},", bit, hex);
    }
    const size_t n = b.len;
    b.data[n - 1] = ']';
    gd_buf_z(&b, "}");
    struct gd_keyring *r = ring_of(b.data);
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_UNKNOWN);
    assert_string_equal(l.id, "");
    b.data[n - 1] = ',';
    b.len = n;
    gd_buf_z(&b, "{\"id\":\"exact\",\"sha256\":\"" KEY_HASH "\"}]}");
    reload(r, b.data);
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    assert_string_equal(l.id, "exact");
    assert_string_equal(l.tenant, "exact");
    gd_lease_leave(&l);
    assert_string_equal(l.id, "exact"); /* for the log */
    assert_int_equal(ask(r, KEY "x", T0), GD_KEY_UNKNOWN);
    assert_int_equal(ask(r, "correct-horse-battery-stapl", T0), GD_KEY_UNKNOWN);
    assert_int_equal(ask(r, KEY_HASH, T0), GD_KEY_UNKNOWN);
    assert_int_equal(ask(r, "", T0), GD_KEY_UNKNOWN);
    assert_int_equal(ask(r, NULL, T0), GD_KEY_UNKNOWN);
    gd_keyring_close(r);
    gd_buf_free(&b);
}

static void test_open_ring(void **state)
{
    (void)state;
    struct gd_keyring *r = NULL;
    struct gd_lease l = {.open = false};
    const struct gd_kv_salt zero = {{0}};
    struct gd_err err = {0};
    assert_false(allows_policy(&l, GD_STR("mcip")));
    gd_lease_charge(&l, 5, T0);
    gd_lease_leave(&l);
    gd_keyring_close(NULL);
    assert_int_equal(gd_keyring_open(&r, NULL, NULL, &err), GD_OK);
    assert_false(gd_keyring_required(r));
    assert_int_equal(gd_keyring_count(r), 0);
    memset(&l, 0xa5, sizeof l);
    assert_int_equal(enter(r, NULL, T0, &l), GD_KEY_OK);
    assert_string_equal(l.id, "");
    assert_string_equal(l.tenant, "");
    assert_memory_equal(&l.salt, &zero, sizeof zero);
    assert_true(allows_policy(&l, GD_STR("mcip")));
    gd_lease_charge(&l, 5, T0);
    gd_lease_leave(&l);
    assert_false(allows_policy(&l, GD_STR("mcip")));
    assert_int_equal(gd_keyring_reload(r, &err), GD_OK);
    assert_false(gd_keyring_required(r));
    gd_keyring_close(r);
}

static void test_environment(void **state)
{
    (void)state;
    static char long_key[GD_KEY_BYTES_MAX + 2];
    memset(long_key, 'k', GD_KEY_BYTES_MAX + 1);
    const char *const bad[] = {"", "0123456789abcde", KEY "\n", "with a blank in it", long_key};
    struct gd_keyring *r = NULL;
    struct gd_lease l;
    struct gd_err err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(gd_keyring_open(&r, NULL, bad[i], &err), GD_EUSAGE);
        assert_non_null(strstr(err.msg, "16 to 512 visible ASCII characters"));
        assert_null(strstr(err.msg, i > 0 ? bad[i] : KEY));
        assert_null(r);
    }
    assert_int_equal(gd_keyring_open(&r, NULL, KEY, &err), GD_OK);
    assert_true(gd_keyring_required(r));
    assert_int_equal(gd_keyring_count(r), 1);
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    assert_string_equal(l.id, "env");
    assert_string_equal(l.tenant, "env");
    assert_true(allows_policy(&l, GD_STR("any")));
    gd_lease_leave(&l);
    assert_int_equal(ask(r, "another-key-of-some-length", T0), GD_KEY_UNKNOWN);
    assert_int_equal(gd_keyring_reload(r, &err), GD_OK);
    assert_int_equal(ask(r, KEY, T0), GD_KEY_OK);
    gd_keyring_close(r);

    put(ONE(""));
    r = NULL;
    assert_int_equal(gd_keyring_open(&r, path, KEY, &err), GD_EUSAGE);
    assert_non_null(
        strstr(err.msg, "keys[0].sha256 must be another than that of the key in the env"));
    put("{\"keys\":[{\"id\":\"x\"," OTHER_HASH "},{\"id\":\"env\"," HASH "}]}");
    assert_int_equal(gd_keyring_open(&r, path, "another-key-of-some-length", &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "keys[1].id must be another than that of the key in the env"));
    assert_null(r);
    put(ONE(""));
    r = open_ring("another-key-of-some-length");
    assert_int_equal(gd_keyring_count(r), 2);
    assert_int_equal(ask(r, KEY, T0), GD_KEY_OK);
    assert_int_equal(ask(r, "another-key-of-some-length", T0), GD_KEY_OK);
    gd_keyring_close(r);
}

static void test_policies(void **state)
{
    (void)state;
    struct gd_keyring *r = ring_of(ONE(",\"policies\":[\"mcip\",\"strict-2\"]"));
    struct gd_lease l;
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    assert_true(allows_policy(&l, GD_STR("mcip")));
    assert_true(allows_policy(&l, GD_STR("strict-2")));
    assert_false(allows_policy(&l, GD_STR("mcip2")));
    assert_false(allows_policy(&l, GD_STR("mci")));
    assert_false(allows_policy(&l, GD_STR("")));
    reload(r, ONE(",\"policies\":[\"other\"]"));
    assert_true(allows_policy(&l, GD_STR("mcip"))); /* what has entered goes on */
    gd_lease_leave(&l);
    assert_false(allows_policy(&l, GD_STR("mcip")));
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    assert_false(allows_policy(&l, GD_STR("mcip")));
    assert_true(allows_policy(&l, GD_STR("other")));
    gd_lease_leave(&l);
    gd_keyring_close(r);
}

static struct gd_kv_salt salt_of(struct gd_keyring *r, uint32_t i)
{
    struct gd_lease l;
    assert_int_equal(enter(r, key_no(i), T0, &l), GD_KEY_OK);
    const struct gd_kv_salt salt = l.salt;
    gd_lease_leave(&l);
    assert_memory_equal(&l.salt, &(struct gd_kv_salt){{0}}, sizeof salt);
    return salt;
}

static bool same(struct gd_kv_salt a, struct gd_kv_salt b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void test_tenants(void **state)
{
    (void)state;
    char text[1024], h0[65], h1[65], h2[65];
    memcpy(h0, hex_of(key_no(0)), 65);
    memcpy(h1, hex_of(key_no(1)), 65);
    memcpy(h2, hex_of(key_no(2)), 65);
    snprintf(text, sizeof text,
             "{\"keys\":[{\"id\":\"a\",\"sha256\":\"%s\",\"tenant\":\"acme\"},"
             "{\"id\":\"b\",\"sha256\":\"%s\",\"tenant\":\"acme\"},"
             "{\"id\":\"acm\",\"sha256\":\"%s\"}]}",
             h0, h1, h2);
    struct gd_keyring *r = ring_of(text), *other = open_ring(NULL);
    assert_true(text_wiped && hash_wiped); /* the last salt was made */
    struct gd_lease l;
    const struct gd_kv_salt s0 = salt_of(r, 0);
    uint8_t of_name[32];
    assert_false(same(s0, (struct gd_kv_salt){{0}}));
    assert_true(same(s0, salt_of(r, 1)));
    assert_false(same(s0, salt_of(r, 2)));
    assert_false(same(s0, salt_of(other, 0))); /* of another process */
    __real_gd_sha256("acme", 4, of_name);
    assert_memory_not_equal(&s0, of_name, sizeof s0);
    assert_int_equal(enter(r, key_no(1), T0, &l), GD_KEY_OK);
    assert_string_equal(l.id, "b");
    assert_string_equal(l.tenant, "acme");
    gd_lease_leave(&l);
    reload(r, text);
    assert_true(same(s0, salt_of(r, 0)));
    snprintf(text, sizeof text, "{\"keys\":[{\"id\":\"a\",\"sha256\":\"%s\"}]}", h0);
    reload(r, text);
    assert_false(same(s0, salt_of(r, 0)));
    gd_keyring_close(r);
    gd_keyring_close(other);
}

static void test_rate(void **state)
{
    (void)state;
    uint32_t wait_s = 0;
    struct gd_keyring *r = ring_of(ONE(",\"requests_per_second\":50,\"burst\":100"));
    assert_int_equal(flood(r, T0, &wait_s), 100);
    assert_int_equal(wait_s, 1);
    assert_int_equal(flood(r, T0 + 20 * MS - 1, NULL), 0);
    assert_int_equal(flood(r, T0 + 20 * MS, NULL), 1);
    assert_int_equal(flood(r, T0 + 60 * MS, NULL), 2);
    assert_int_equal(flood(r, T0 + 1060 * MS, NULL), 50);
    assert_int_equal(flood(r, T0 + 100 * S, NULL),
                     100); /* and no more, however long it was quiet */
    gd_keyring_close(r);
    r = ring_of(ONE(",\"requests_per_second\":0.25"));
    assert_int_equal(flood(r, T0, &wait_s), 1);
    assert_int_equal(wait_s, 4);
    assert_int_equal(flood(r, T0 + 4 * S - 1, &wait_s), 0);
    assert_int_equal(wait_s, 1);
    assert_int_equal(flood(r, T0 + 4 * S, &wait_s), 1);
    gd_keyring_close(r);
    r = ring_of(ONE(",\"requests_per_second\":2.5"));
    assert_int_equal(flood(r, T0, NULL), 3); /* a second's worth, whole ones */
    assert_int_equal(flood(r, T0 + 400 * MS, NULL), 1);
    gd_keyring_close(r);
    r = ring_of(ONE(",\"requests_per_second\":0.001,\"burst\":1000000"));
    assert_int_equal(flood(r, T0, &wait_s), 1000000);
    assert_int_equal(wait_s, 1000);
    gd_keyring_close(r);
}

static void test_debt(void **state)
{
    (void)state;
    uint32_t wait_s = 0;
    struct gd_lease l;
    struct gd_keyring *r = ring_of(ONE(",\"requests_per_second\":10,\"burst\":20"));
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    gd_lease_charge(&l, 63, T0);
    gd_lease_leave(&l);
    /* 64 of 20: the next one comes when 45 of them have come back */
    assert_int_equal(flood(r, T0, &wait_s), 0);
    assert_int_equal(wait_s, 5);
    assert_int_equal(flood(r, T0 + 4500 * MS - 1, &wait_s), 0);
    assert_int_equal(flood(r, T0 + 4500 * MS, NULL), 1);
    assert_int_equal(flood(r, T0 + 6400 * MS, NULL), 19);
    /* what is charged late is charged to the bucket of that time */
    assert_int_equal(enter(r, KEY, T0 + 100 * S, &l), GD_KEY_OK);
    gd_lease_charge(&l, 20, T0 + 200 * S);
    gd_lease_leave(&l);
    assert_int_equal(flood(r, T0 + 200 * S, NULL), 0);
    assert_int_equal(flood(r, T0 + 200 * S + 100 * MS, NULL), 1);
    gd_keyring_close(r);
}

/* More than 64 bits of nanoseconds, at once or bit by bit, is a long time, and not a short one. */
static void test_debt_without_end(void **state)
{
    (void)state;
    static const struct {
        const char *rate;
        uint64_t n; /* requests, the one that enters included */
    } cases[] = {
        {"100", UINT64_MAX / 10000000},     /* 9.6 ms less than 2^64 ns */
        {"100", UINT64_MAX / 10000000 + 1}, /* 0.4 ms more */
        {"0.001",
         UINT64_MAX / 1000000000000 + 2}, /* in one charge: it would come out as a small one */
        {"0.001", (uint64_t)UINT32_MAX * 300},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[256];
        struct gd_lease l;
        uint32_t wait_s = 0;
        snprintf(text, sizeof text, ONE(",\"requests_per_second\":%s,\"burst\":1"), cases[i].rate);
        struct gd_keyring *r = ring_of(text);
        assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
        for (uint64_t left = cases[i].n - 1; left > 0;) {
            const uint32_t n = left < UINT32_MAX ? (uint32_t)left : UINT32_MAX;
            gd_lease_charge(&l, n, T0);
            left -= n;
        }
        gd_lease_leave(&l);
        assert_int_equal(flood(r, T0, &wait_s), 0);
        assert_int_equal(wait_s, 3600);
        assert_int_equal(flood(r, T0 + 1000000 * S, &wait_s), 0);
        assert_int_equal(wait_s, 3600);
        gd_keyring_close(r);
    }
}

static void test_clock(void **state)
{
    (void)state;
    static const int64_t times[] = {0, -1, INT64_MIN, INT64_MAX, INT64_MIN + 1, INT64_MAX - 1, T0};
    static const char limits[] = ONE(",\"requests_per_second\":10,\"burst\":5");
    struct gd_keyring *r = ring_of(limits);
    /* a little back: time stands still, and goes on from where it was */
    assert_int_equal(flood(r, T0, NULL), 5);
    for (int i = 1; i < 50; i++)
        assert_int_equal(flood(r, T0 - i * MS, NULL), 0);
    assert_int_equal(flood(r, T0 + 100 * MS - 1, NULL), 0);
    assert_int_equal(flood(r, T0 + 100 * MS, NULL), 1);
    /* set anew, far back: nothing is given, but the wait is no longer than it was */
    assert_int_equal(flood(r, T0 - 500 * S, NULL), 0);
    assert_int_equal(flood(r, T0 - 500 * S + 100 * MS, NULL), 1);
    gd_keyring_close(r);
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        for (size_t k = 0; k < sizeof times / sizeof times[0]; k++) {
            r = ring_of(limits);
            assert_int_equal(flood(r, times[i], NULL), 5);
            /* a fresh bucket is of time 0, and -1 is but a little before it */
            const uint64_t from = (uint64_t)(times[i] == -1 ? 0 : times[i]);
            const uint64_t passed_ns = times[k] > (int64_t)from ? (uint64_t)times[k] - from : 0;
            const uint64_t filled = passed_ns / (uint64_t)(100 * MS);
            assert_int_equal(flood(r, times[k], NULL), filled < 5 ? filled : 5);
            assert_true(flood(r, T0 + 100 * S, NULL) <= 5);
            gd_keyring_close(r);
        }
    }
}

static void test_concurrency(void **state)
{
    (void)state;
    struct gd_lease l[4];
    struct gd_keyring *r =
        ring_of(ONE(",\"concurrency\":3,\"requests_per_second\":0.001,\"burst\":5"));
    for (int i = 0; i < 3; i++)
        assert_int_equal(enter(r, KEY, T0, &l[i]), GD_KEY_OK);
    for (int i = 0; i < 10; i++) { /* costs nothing of the rate */
        assert_int_equal(enter(r, KEY, T0, &l[3]), GD_KEY_TOO_MANY);
        assert_string_equal(l[3].id, "a");
        assert_int_equal(l[3].retry_after_s, 1);
        gd_lease_leave(&l[3]); /* nothing to leave */
    }
    gd_lease_leave(&l[1]);
    gd_lease_leave(&l[1]); /* once is enough */
    assert_int_equal(enter(r, KEY, T0, &l[1]), GD_KEY_OK);
    assert_int_equal(enter(r, KEY, T0, &l[3]), GD_KEY_TOO_MANY);
    for (int i = 0; i < 3; i++)
        gd_lease_leave(&l[i]);
    assert_int_equal(flood(r, T0, NULL),
                     1); /* refused for its rate, it does not count as running */
    for (int i = 0; i < 5; i++)
        assert_int_equal(ask(r, KEY, T0), GD_KEY_RATE_LIMITED);
    for (int i = 0; i < 3; i++)
        assert_int_equal(enter(r, KEY, T0 + 100000 * S, &l[i]), GD_KEY_OK);
    assert_int_equal(ask(r, KEY, T0 + 100000 * S), GD_KEY_TOO_MANY);
    for (int i = 0; i < 3; i++)
        gd_lease_leave(&l[i]);
    gd_keyring_close(r);
}

static void test_reload(void **state)
{
    (void)state;
    struct gd_lease l, m;
    uint32_t wait_s = 0;
    struct gd_keyring *r =
        ring_of(ONE(",\"requests_per_second\":10,\"burst\":20,\"concurrency\":2"));
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    gd_lease_charge(&l, 9, T0);
    /* the same again, and a new tenant: ten are used, one is running */
    reload(r, ONE(",\"requests_per_second\":10,\"burst\":20,\"concurrency\":2,\"tenant\":\"t\""));
    assert_int_equal(enter(r, KEY, T0, &m), GD_KEY_OK);
    assert_string_equal(m.tenant, "t");
    assert_string_equal(l.tenant, "a");
    assert_int_equal(ask(r, KEY, T0), GD_KEY_TOO_MANY);
    gd_lease_leave(&m);
    assert_int_equal(flood(r, T0, NULL), 9);
    /* 20 requests are still 20 when they cost another time each, and when the burst is another */
    reload(r, ONE(",\"requests_per_second\":0.5,\"burst\":20"));
    assert_int_equal(flood(r, T0, &wait_s), 0);
    assert_int_equal(wait_s, 2);
    reload(r, ONE(",\"requests_per_second\":1000,\"burst\":25"));
    assert_int_equal(flood(r, T0, NULL), 5);
    assert_int_equal(flood(r, T0 + 10 * MS, NULL), 10);
    reload(r, ONE(""));
    for (int i = 0; i < 100; i++)
        assert_int_equal(ask(r, KEY, T0 + 10 * MS), GD_KEY_OK);
    /* the first one is still running, and counts when there is a limit again */
    reload(r, ONE(",\"concurrency\":1"));
    assert_int_equal(ask(r, KEY, T0), GD_KEY_TOO_MANY);
    gd_lease_leave(&l);
    assert_int_equal(ask(r, KEY, T0), GD_KEY_OK);
    /* another id, or another hash: another key */
    reload(r, ONE(",\"requests_per_second\":0.001"));
    assert_int_equal(flood(r, T0, NULL), 1);
    reload(r, "{\"keys\":[{\"id\":\"a2\"," HASH ",\"requests_per_second\":0.001}]}");
    assert_int_equal(ask(r, KEY, T0), GD_KEY_OK);
    assert_int_equal(ask(r, KEY, T0), GD_KEY_RATE_LIMITED);
    reload(r, "{\"keys\":[{\"id\":\"a2\"," OTHER_HASH ",\"requests_per_second\":0.001}]}");
    assert_int_equal(ask(r, KEY, T0), GD_KEY_UNKNOWN);
    gd_keyring_close(r);
}

static void test_removed_key(void **state)
{
    (void)state;
    struct gd_lease l;
    struct gd_err err = {0};
    struct gd_keyring *r = ring_of(ONE(",\"policies\":[\"p\"],\"concurrency\":1"));
    assert_int_equal(enter(r, KEY, T0, &l), GD_KEY_OK);
    reload(r, "{\"keys\":[{\"id\":\"b\"," OTHER_HASH "}]}");
    assert_int_equal(ask(r, KEY, T0), GD_KEY_UNKNOWN);
    reload(r, "{\"keys\":[{\"id\":\"c\"," OTHER_HASH "}]}");
    assert_true(allows_policy(&l, GD_STR("p")));
    gd_lease_charge(&l, 3, T0);
    gd_lease_leave(&l);
    /* a file that went away takes no key with it */
    unlink(path);
    assert_int_equal(gd_keyring_reload(r, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, path));
    assert_int_equal(gd_keyring_count(r), 1);
    gd_keyring_close(r);
}

#define N_THREADS 8
#define N_ROUNDS 400 /* of each thread, at least */
#define N_RELOADS 60

struct crowd {
    struct gd_keyring *ring;
    atomic_int running[4], started;
    atomic_bool stop;
    atomic_uint n_in[4], n_out[4], n_bad;
};

/* Keys 0 and 1 are always there; 2 comes and goes; 3 never was. Each may have three running. */
static void *crowd_main(void *ctx)
{
    struct crowd *c = ctx;
    atomic_fetch_add(&c->started, 1);
    for (uint32_t i = 0; i < N_ROUNDS || !atomic_load(&c->stop); i++) {
        const uint32_t k = i % 4;
        struct gd_lease l;
        const enum gd_key_answer answer = enter(c->ring, key_no(k), (int64_t)i * MS, &l);
        bool good = answer == GD_KEY_OK || (answer == GD_KEY_TOO_MANY && k < 3) ||
                    (answer == GD_KEY_UNKNOWN && k >= 2);
        if (answer == GD_KEY_OK) {
            char id[32];
            snprintf(id, sizeof id, "id-%u", k);
            const int n = atomic_fetch_add(&c->running[k], 1);
            good = good && k < 3 && (k == 2 || n < 3) && strcmp(l.id, id) == 0 &&
                   allows_policy(&l, GD_STR("p"));
            gd_lease_charge(&l, 2, (int64_t)i * MS);
            sched_yield();
            atomic_fetch_sub(&c->running[k], 1);
            gd_lease_leave(&l);
        }
        atomic_fetch_add(&c->n_bad, good ? 0 : 1);
        atomic_fetch_add(&c->n_out[k], answer == GD_KEY_UNKNOWN ? 1 : 0);
        atomic_fetch_add(&c->n_in[k], answer == GD_KEY_OK ? 1 : 0);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    static struct crowd c;
    pthread_t threads[N_THREADS];
    struct gd_lease l[3];
    const char *more = ",\"policies\":[\"p\"],\"concurrency\":3,\"requests_per_second\":100000,"
                       "\"burst\":1000000";
    put_many(3, more);
    c.ring = open_ring(NULL);
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &c), 0);
    while (atomic_load(&c.started) < N_THREADS)
        sched_yield();
    for (uint32_t i = 0; i < N_RELOADS; i++) {
        const uint32_t n = i % 2 == 0 ? 2 : 3;
        put_many(n, more);
        assert_int_equal(gd_keyring_reload(c.ring, NULL), GD_OK);
        assert_int_equal(gd_keyring_count(c.ring), n);
        assert_true((ask(c.ring, key_no(2), T0) == GD_KEY_UNKNOWN) == (n == 2));
        const uint32_t seen = atomic_load(n == 2 ? &c.n_out[2] : &c.n_in[2]);
        while (atomic_load(n == 2 ? &c.n_out[2] : &c.n_in[2]) == seen)
            sched_yield(); /* until one of the crowd has seen it */
    }
    atomic_store(&c.stop, true);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&c.n_bad), 0);
    assert_true(c.n_in[0] > 0 && c.n_in[1] > 0 && c.n_in[2] > 0 && c.n_in[3] == 0);
    assert_true(c.n_out[0] == 0 && c.n_out[1] == 0 && c.n_out[2] > 0 && c.n_out[3] > 0);
    /* nobody is in any more: as many as may be get in */
    for (int i = 0; i < 3; i++)
        assert_int_equal(enter(c.ring, key_no(0), T0, &l[i]), GD_KEY_OK);
    assert_int_equal(ask(c.ring, key_no(0), T0), GD_KEY_TOO_MANY);
    for (int i = 0; i < 3; i++)
        gd_lease_leave(&l[i]);
    gd_keyring_close(c.ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_files), cmocka_unit_test(test_damaged_files),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_every_key_is_compared),
        cmocka_unit_test(test_near_misses),
        cmocka_unit_test(test_open_ring),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_tenants),
        cmocka_unit_test(test_rate), cmocka_unit_test(test_debt),
        cmocka_unit_test(test_debt_without_end),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_concurrency),
        cmocka_unit_test(test_reload),
        cmocka_unit_test(test_removed_key),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
