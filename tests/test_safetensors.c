/* test_safetensors.c - the header parser on vectors of bytes, on every truncation and on every
 * one-byte change of a valid file; sets of shards in a temporary directory; digests; the parser
 * under every memory budget, and sets with every allocation and every read failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guardian/file.h"
#include "guardian/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- faults: the linker leads these calls of the product here (--wrap) ---- */

static long faults_in = -1; /* calls until one fails; below 0: none does */
static bool callocs_fail;   /* all of them */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
ssize_t __real_pread(int fd, void *p, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at);

static bool fault(void)
{
    return faults_in >= 0 && faults_in-- == 0;
}

void *__wrap_malloc(size_t n)
{
    return fault() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return callocs_fail || fault() ? NULL : __real_calloc(n, size);
}

ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at)
{
    if (fault()) {
        errno = EIO;
        return -1;
    }
    return __real_pread(fd, p, n, at);
}

/* ---- helpers ---- */

/* A file image: length, header, then `data` zero bytes. */
static size_t image(char *out, const char *header, size_t data)
{
    uint64_t n = strlen(header);
    for (int i = 0; i < 8; i++)
        out[i] = (char)(n >> 8 * i & 255u);
    memcpy(out + 8, header, n);
    memset(out + 8 + n, 0, data);
    return 8 + (size_t)n + data;
}

static int parse(const char *bytes, size_t len, uint64_t file_bytes, struct gd_err *err)
{
    struct gd_arena a;
    struct gd_tensor_info *t = NULL;
    size_t n = 0;
    /* A copy of the exact size, so that a sanitizer sees a read past the end. */
    char *copy = malloc(len + (len == 0));
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    gd_arena_init(&a, 64 * GD_MIB);
    memset(err, 0, sizeof *err);
    int rc = gd_safetensors_parse_header(&a, (struct gd_str){copy, len}, file_bytes, &t, &n, err);
    gd_arena_free(&a);
    free(copy);
    assert_int_equal(err->code, rc);
    if (rc != GD_OK)
        assert_true(err->msg[0] != '\0');
    return rc;
}

struct vector {
    const char *header;
    size_t data;
    int code;
    const char *says; /* part of the message */
};

/* clang-format off */
static const struct vector VECTORS[] = {
    /* accepted */
    {"{}", 0, GD_OK, NULL},
    {"{} \r\n\t  ", 0, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, GD_OK, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]}}", 2, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,3]}}", 3, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[0,0]}}", 0, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, GD_OK, NULL},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, GD_OK, NULL},
    {"{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 4, GD_OK, NULL},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,2,1,1,1,1],\"data_offsets\":[0,2]}}", 2, GD_OK, NULL},
    /* not such JSON */
    {" {}", 0, GD_EMODEL, "begin with"},
    {"[]", 0, GD_EMODEL, "begin with"},
    {"{ ", 0, GD_EJSON, "header"},
    {"{}x", 0, GD_EJSON, "header"},
    {"{}{}", 0, GD_EJSON, "header"},
    {"{\"a\xff\":1}", 0, GD_EJSON, "header"},
    {"{\"a\":[[[[1]]]]}", 0, GD_ELIMIT, "header"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, GD_EMODEL, "twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "twice"},
    {"{\"\\ud800\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "surrogate"},
    {"{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "empty"},
    {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "zero byte"},
    {"{\"__metadata__\":[]}", 0, GD_EMODEL, "__metadata__"},
    {"{\"__metadata__\":{\"n\":1}}", 0, GD_EMODEL, "'n' is a number"},
    /* entries */
    {"{\"a\":1}", 0, GD_EMODEL, "tensor 'a'"},
    {"{\"a\":{}}", 0, GD_EMODEL, "exactly"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, GD_EMODEL, "exactly"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, GD_EMODEL, "exactly"},
    {"{\"a\":{\"Dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "exactly"},
    {"{\"a\":{\"dtype\":\"U8\",\"Shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "exactly"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"offsets\":[0,1]}}", 1, GD_EMODEL, "exactly"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'F33'"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, GD_EMODEL, "'f32'"},
    {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'dtype'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'shape'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'shape'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'shape'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-0],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "'shape'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'shape'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "'shape'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9007199254740993],\"data_offsets\":[0,1]}}", 1, GD_EMODEL, "2^53"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, GD_ELIMIT, "dimensions"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":1}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{\"a\":0,\"b\":1}}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1e0]}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,18446744073709551617]}}", 1, GD_EMODEL, "two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, GD_EMODEL, "backwards"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, GD_EMODEL, "only 1"},
    /* sizes: products and sums at 2^31, 2^32, 2^63 and beyond */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, GD_EMODEL, "needs 8 bytes"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "valid size"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2147483648],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "needs 2147483648"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[65536,65536],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "needs 4294967296"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,536870911],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "needs 2305843004918726656"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,536870912],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "valid size"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,2147483648],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "valid size"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "valid size"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9007199254740992,9007199254740992],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "valid size"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}", 0, GD_EMODEL, "valid size"},
    /* tiling */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, GD_EMODEL, "no tensor owns"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, GD_EMODEL, "last 1 bytes"},
    {"{}", 1, GD_EMODEL, "last 1 bytes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, GD_EMODEL, "overlaps"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, GD_EMODEL, "overlaps"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3, GD_EMODEL, "no tensor owns"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[1,1]}}", 2, GD_EMODEL, "overlaps"},
};
/* clang-format on */

static void test_vectors(void **state)
{
    char bytes[1024];
    struct gd_err err;
    (void)state;
    for (size_t i = 0; i < sizeof VECTORS / sizeof VECTORS[0]; i++) {
        const struct vector *v = &VECTORS[i];
        size_t len = image(bytes, v->header, v->data);
        int rc = parse(bytes, len, len, &err);
        if (rc != v->code || (v->says != NULL && strstr(err.msg, v->says) == NULL))
            fail_msg("%s: gave %d '%s', expected %d with '%s'", v->header, rc, err.msg, v->code,
                     v->says != NULL ? v->says : "");
    }
}

static void test_header_length(void **state)
{
    struct gd_err err;
    char bytes[64] = {0};
    (void)state;
    for (size_t n = 0; n < 8; n++)
        assert_int_equal(parse(bytes, n, n, &err), GD_EMODEL);
    assert_int_equal(parse(bytes, 8, 8, &err), GD_EMODEL); /* length 0 */
    bytes[0] = 1;
    assert_int_equal(parse(bytes, 9, 9, &err), GD_EMODEL);
    bytes[0] = 2;
    assert_int_equal(parse(bytes, 9, 9, &err), GD_EMODEL); /* one byte too few */
    assert_non_null(strstr(err.msg, "only 1 follow"));
    memset(bytes, 0xff, 8);
    assert_int_equal(parse(bytes, 16, 16, &err), GD_ELIMIT);
    bytes[7] = 0x7f;
    assert_int_equal(parse(bytes, 16, UINT64_MAX, &err), GD_ELIMIT);
    /* The limit itself is allowed by the length, one more is not. */
    memset(bytes, 0, 8);
    bytes[3] = 1;
    assert_int_equal(parse(bytes, 16, 1u << 30, &err), GD_EMODEL);
    assert_non_null(strstr(err.msg, "cut"));
    bytes[0] = 1;
    assert_int_equal(parse(bytes, 16, 1u << 30, &err), GD_ELIMIT);
}

static const char SMALL[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                            "\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                            "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]},"
                            "\"n\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[22,30]}}";

static void test_fields(void **state)
{
    char bytes[512];
    struct gd_arena a;
    struct gd_err err;
    struct gd_tensor_info *t = NULL;
    size_t n = 0, len = image(bytes, SMALL, 30), start = 8 + strlen(SMALL);
    (void)state;
    gd_arena_init(&a, GD_MIB);
    assert_int_equal(
        gd_safetensors_parse_header(&a, (struct gd_str){bytes, len}, len, &t, &n, &err), GD_OK);
    memset(bytes, 'x', len); /* nothing may point into the text */
    assert_int_equal(n, 3);
    assert_true(gd_str_eqz(t[0].name, "w") && gd_str_eqz(t[1].name, "b"));
    assert_true(gd_str_eqz(t[2].name, "n"));
    assert_int_equal(t[0].dtype, GD_DTYPE_F32);
    assert_int_equal(t[1].dtype, GD_DTYPE_BF16);
    assert_int_equal(t[2].dtype, GD_DTYPE_OTHER);
    assert_int_equal(t[0].rank, 2);
    assert_int_equal(t[0].shape[1], 2);
    assert_int_equal(t[2].rank, 0);
    assert_int_equal(t[1].offset, start + 16);
    assert_int_equal(t[1].nbytes, 6);
    gd_arena_free(&a);
}

static void test_truncated_everywhere(void **state)
{
    char bytes[512];
    struct gd_err err;
    size_t len = image(bytes, SMALL, 30);
    (void)state;
    assert_int_equal(parse(bytes, len, len, &err), GD_OK);
    for (size_t n = 0; n < len; n++) {
        assert_int_not_equal(parse(bytes, n, n, &err), GD_OK);
        if (n < 8 + strlen(SMALL)) /* a header that is not all there, of a file that is */
            assert_int_not_equal(parse(bytes, n, len, &err), GD_OK);
    }
    assert_int_not_equal(parse(bytes, len, len + 1, &err), GD_OK);
}

/* Bytes whose change leaves a valid file: the letters of the names and of the metadata. */
static bool is_free(size_t at)
{
    const char *h = SMALL;
    at -= 8;
    for (const char *p = h; (p = strchr(p, '"')) != NULL; p++) {
        const char *end = strchr(p + 1, '"');
        size_t from = (size_t)(p - h), to = (size_t)(end - h);
        bool fixed = strncmp(p + 1, "dtype", 5) == 0 || strncmp(p + 1, "shape", 5) == 0 ||
                     strncmp(p + 1, "data_", 5) == 0 || strncmp(p + 1, "__meta", 6) == 0;
        if (at > from && at < to)
            return !fixed;
        p = end;
    }
    return false;
}

static void test_every_byte_changed(void **state)
{
    char bytes[512];
    struct gd_err err;
    size_t len = image(bytes, SMALL, 30), accepted = 0;
    (void)state;
    for (size_t at = 0; at < 8 + strlen(SMALL); at++) {
        char was = bytes[at];
        for (int v = 0; v < 256; v++) {
            bytes[at] = (char)v;
            if (bytes[at] == was || parse(bytes, len, len, &err) != GD_OK)
                continue;
            accepted++;
            /* Apart from free text: another type of the same size, a space, or a digit that changes
             * nothing. */
            if (!is_free(at) && v != ' ' && v != '\t' && v != '\n' && v != '\r')
                fail_msg("byte %zu of the header as 0x%02x was accepted", at, (unsigned)v);
        }
        bytes[at] = was;
    }
    assert_true(accepted > 0);
}

/* Random valid files; then one number changed by one must be refused. */
static void test_one_number_changed(void **state)
{
    char header[2048], bytes[4096];
    struct gd_err err;
    uint32_t seed = 1;
    (void)state;
    for (int round = 0; round < 300; round++) {
        size_t n = 1 + (size_t)round % 7, at = 0, pos = 0;
        int len = snprintf(header, sizeof header, "{");
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            unsigned rows = 1 + (seed >> 24) % 5, cols = 1 + (seed >> 16) % 5;
            len += snprintf(
                header + len, sizeof header - (size_t)len,
                "%s\"t%zu\":{\"dtype\":\"F16\",\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}",
                i > 0 ? "," : "", i, rows, cols, at, at + 2 * rows * cols);
            at += 2 * (size_t)rows * cols;
        }
        snprintf(header + len, sizeof header - (size_t)len, "}");
        size_t size = image(bytes, header, at);
        assert_int_equal(parse(bytes, size, size, &err), GD_OK);
        for (pos = 8; pos < 8 + strlen(header); pos++) {
            bool number = bytes[pos] >= '0' && bytes[pos] <= '9' && bytes[pos - 1] != 'F' &&
                          bytes[pos - 1] != 't' && bytes[pos - 2] != 'F';
            if (!number)
                continue;
            char was = bytes[pos];
            bytes[pos] = was == '9' ? '8' : (char)(was + 1);
            if (parse(bytes, size, size, &err) == GD_OK)
                fail_msg("%s: digit %zu as '%c' was accepted", header, pos - 8, bytes[pos]);
            bytes[pos] = was;
        }
    }
}

static void test_memory_budgets(void **state)
{
    char bytes[512];
    struct gd_err err;
    size_t len = image(bytes, SMALL, 30), refused = 0, budget = 0;
    int rc = GD_ENOMEM;
    (void)state;
    for (; rc != GD_OK; budget += 64) {
        struct gd_arena a;
        struct gd_tensor_info *t = NULL;
        size_t n = 0;
        assert_true(budget < GD_MIB);
        gd_arena_init(&a, budget);
        rc = gd_safetensors_parse_header(&a, (struct gd_str){bytes, len}, len, &t, &n, &err);
        gd_arena_free(&a);
        if (rc != GD_OK) {
            assert_int_equal(rc, GD_ENOMEM);
            refused++;
        }
    }
    assert_true(refused > 0);
}

static void test_too_many_tensors(void **state)
{
    size_t cap = (size_t)(GD_SAFETENSORS_TENSORS_MAX + 2) * 80;
    char *header = malloc(cap), *bytes = malloc(cap + 8);
    struct gd_err err;
    (void)state;
    assert_true(header != NULL && bytes != NULL);
    for (int extra = 0; extra < 2; extra++) {
        size_t n = strlen(strcpy(header, "{"));
        for (int i = 0; i < GD_SAFETENSORS_TENSORS_MAX + extra; i++)
            n +=
                (size_t)snprintf(header + n, cap - n,
                                 "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                                 i > 0 ? "," : "", i);
        strcpy(header + n, "}");
        size_t len = image(bytes, header, 0);
        assert_int_equal(parse(bytes, len, len, &err), extra ? GD_ELIMIT : GD_OK);
    }
    free(header);
    free(bytes);
}

/* ---- directories ---- */

static char dir[64];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/guardian-test-XXXXXX");
    return mkdtemp(dir) == NULL;
}

static int drop_dir(void **state)
{
    char cmd[128];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

static void put_text(const char *name, const char *text)
{
    put(name, text, strlen(text));
}

/* A shard with one-byte tensors of the given names ("a b c"). */
static void put_shard(const char *name, const char *tensors)
{
    char header[1024] = "{", bytes[2048], list[256];
    size_t n = 0;
    strcpy(list, tensors);
    for (char *t = strtok(list, " "); t != NULL; t = strtok(NULL, " "), n++)
        sprintf(header + strlen(header),
                "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                n > 0 ? "," : "", t, n, n + 1);
    strcat(header, "}");
    size_t len = image(bytes, header, n);
    for (size_t i = 0; i < n; i++)
        bytes[len - n + i] = (char)('0' + i);
    put(name, bytes, len);
}

static int open_set(struct gd_safetensors **s, struct gd_err *err)
{
    memset(err, 0, sizeof *err);
    int rc = gd_safetensors_open(s, dir, err);
    assert_true((rc == GD_OK) == (*s != NULL));
    return rc;
}

static void refused(int code, const char *says)
{
    struct gd_safetensors *s = NULL;
    struct gd_err err;
    int rc = open_set(&s, &err);
    if (rc != code || strstr(err.msg, says) == NULL)
        fail_msg("gave %d '%s', expected %d with '%s'", rc, err.msg, code, says);
}

static void test_single_file(void **state)
{
    struct gd_safetensors *s = NULL;
    struct gd_err err;
    char byte = 0, moved[256];
    (void)state;
    strcpy(moved, in_dir("moved"));
    refused(GD_EMODEL, "neither");
    put_shard("model.safetensors", "a b c");
    assert_int_equal(open_set(&s, &err), GD_OK);
    assert_int_equal(gd_safetensors_count(s), 3);
    assert_null(gd_safetensors_find(s, "d"));
    assert_null(gd_safetensors_at(s, 3));
    const struct gd_tensor_info *c = gd_safetensors_find(s, "c");
    assert_non_null(c);
    assert_int_equal(gd_safetensors_read(s, c, &byte, &err), GD_OK);
    assert_int_equal(byte, '2');
    /* Another file under the name changes nothing; the open one cut short is an error that names
     * it. */
    assert_int_equal(rename(in_dir("model.safetensors"), moved), 0);
    put_text("model.safetensors", "replaced");
    assert_int_equal(gd_safetensors_read(s, c, &byte, &err), GD_OK);
    assert_int_equal(truncate(moved, (off_t)c->offset), 0);
    assert_int_equal(gd_safetensors_read(s, c, &byte, &err), GD_EIO);
    assert_non_null(strstr(err.msg, "tensor 'c'"));
    assert_non_null(strstr(err.msg, "model.safetensors"));
    const struct gd_file_digest *d = NULL;
    size_t n = 0;
    assert_int_equal(gd_safetensors_digest(s, &d, &n, NULL, NULL, &err), GD_EIO);
    assert_int_equal(gd_safetensors_digest(s, &d, &n, NULL, NULL, NULL), GD_EIO);
    gd_safetensors_close(s);
    refused(GD_ELIMIT, "model.safetensors: ");
    gd_safetensors_close(NULL);
}

static void test_not_a_regular_file(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(in_dir("model.safetensors"), 0600), 0);
    refused(GD_EIO, "not a regular file");
    unlink(in_dir("model.safetensors"));
    assert_int_equal(mkdir(in_dir("model.safetensors"), 0700), 0);
    refused(GD_EIO, "not a regular file");
    rmdir(in_dir("model.safetensors"));
}

static void count_progress(void *ctx, uint64_t done, uint64_t all)
{
    uint64_t *seen = ctx;
    assert_true(done > seen[0] && done <= all);
    seen[0] = done;
    seen[1] = all;
}

static void test_shards(void **state)
{
    const struct gd_file_digest *d = NULL;
    uint64_t seen[2] = {0, 0};
    size_t n = 0;
    struct gd_safetensors *s = NULL;
    struct gd_err err;
    char byte = 0;
    (void)state;
    put_shard("x.safetensors", "a b");
    put_shard("y.safetensors", "c");
    put_text("model.safetensors.index.json",
             "{\"metadata\":{\"total_size\":3},\"weight_map\":{\"c\":\"y.safetensors\","
             "\"a\":\"x.safetensors\",\"b\":\"x.safetensors\"}}");
    assert_int_equal(open_set(&s, &err), GD_OK);
    assert_int_equal(gd_safetensors_count(s), 3);
    assert_int_equal(gd_safetensors_read(s, gd_safetensors_find(s, "b"), &byte, &err), GD_OK);
    assert_int_equal(byte, '1');
    assert_int_equal(gd_safetensors_read(s, gd_safetensors_find(s, "c"), &byte, &err), GD_OK);
    assert_int_equal(byte, '0');
    assert_int_equal(gd_safetensors_digest(s, &d, &n, count_progress, seen, &err), GD_OK);
    assert_int_equal(n, 2);
    assert_true(gd_str_eqz(d[0].path, "x.safetensors") && gd_str_eqz(d[1].path, "y.safetensors"));
    assert_int_equal(seen[1], d[0].nbytes + d[1].nbytes);
    assert_int_equal(seen[0], seen[1]);
    gd_safetensors_close(s);
}

static void test_bad_index(void **state)
{
    static const struct {
        const char *index;
        int code;
        const char *says;
    } cases[] = {
        {"{", GD_EJSON, "index.json"},
        {"[]", GD_EMODEL, "object"},
        {"{}", GD_EMODEL, "weight_map"},
        {"{\"weight_map\":{}}", GD_EMODEL, "weight_map"},
        {"{\"weight_map\":[]}", GD_EMODEL, "weight_map"},
        {"{\"weight_map\":{\"a\":1}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"/x.safetensors\"}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"d\\\\x.safetensors\"}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\\u0000\"}}", GD_EMODEL, "plain file name"},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", GD_EIO, "none.safetensors"},
        {"{\"weight_map\":{\"\":\"x.safetensors\",\"a\":\"x.safetensors\"}}", GD_EMODEL, "'b'"},
        {"{\"weight_map\":{\"a\":\"no_tensors\"}}", GD_EMODEL,
         "the index names tensor 'a' in shard 'no_tensors', which lacks it"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}}", GD_EMODEL, "twice"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"c\":\"y.safetensors\"}}", GD_EMODEL,
         "tensor 'b' of shard 'x.safetensors' is not in the index"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\",\"c\":\"y.safetensors\"}"
         "}",
         GD_EMODEL, "tensor 'b' is in shard 'x.safetensors', the index says 'y.safetensors'"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\",\"c\":\"y.safetensors\","
         "\"d\":\"y.safetensors\"}}",
         GD_EMODEL, "'d'"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\",\"q\":\"bad."
         "safetensors\"}}",
         GD_EMODEL, "bad.safetensors: "},
    };
    char none[16];
    (void)state;
    put_shard("x.safetensors", "a b");
    put_shard("y.safetensors", "c");
    put_text("bad.safetensors", "1234");
    put("no_tensors", none, image(none, "{}", 0));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_text("model.safetensors.index.json", cases[i].index);
        refused(cases[i].code, cases[i].says);
    }
}

/* An index of n lines "<i>": "<file>", each in a file of its own when `apart`. */
static void put_index(size_t n, const char *file, bool apart)
{
    FILE *f = fopen(in_dir("model.safetensors.index.json"), "wb");
    assert_non_null(f);
    fputs("{\"weight_map\":{", f);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "%s\"%zu\":\"%s", i > 0 ? "," : "", i, file);
        if (apart)
            fprintf(f, "%zu", i);
        fputs("\"", f);
    }
    fputs("}}", f);
    fclose(f);
}

static void test_limits_of_an_index(void **state)
{
    char name[GD_SAFETENSORS_NAME_BYTES_MAX + 2];
    (void)state;
    put_index(GD_MODEL_SHARDS_MAX, "x", true);
    refused(GD_EIO, "x0");
    put_index(GD_MODEL_SHARDS_MAX + 1, "x", true);
    refused(GD_ELIMIT, "more than 1024 shards");
    put_index(GD_SAFETENSORS_TENSORS_MAX, "x", false);
    refused(GD_EIO, "/x'");
    put_index(GD_SAFETENSORS_TENSORS_MAX + 1, "x", false);
    refused(GD_EMODEL, "1 to 65536 tensors");
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    put_index(1, name, false);
    refused(GD_EMODEL, "plain file name");
    name[sizeof name - 2] = '\0';
    put_index(1, name, false);
    refused(GD_EIO, name); /* longer than any file system takes, but tried */
}

static void test_no_tensors(void **state)
{
    struct gd_safetensors *s = NULL;
    struct gd_err err;
    char bytes[16];
    (void)state;
    put("model.safetensors", bytes, image(bytes, "{}", 0));
    assert_int_equal(open_set(&s, &err), GD_OK);
    assert_int_equal(gd_safetensors_count(s), 0);
    assert_null(gd_safetensors_find(s, "a"));
    assert_null(gd_safetensors_at(s, 0));
    gd_safetensors_close(s);
}

/* A shard of n one-byte tensors "0", "1", ... and the index of it. */
static void put_many(size_t n)
{
    const size_t cap = 128 + n * 80;
    char *header = malloc(cap), *bytes = malloc(cap + n);
    assert_true(header != NULL && bytes != NULL);
    size_t len = strlen(strcpy(header, "{"));
    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(
            header + len, cap - len,
            "%s\"%zu\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
            i > 0 ? "," : "", i, i, i + 1);
    strcpy(header + len, "}");
    put("x", bytes, image(bytes, header, n));
    put_index(n, "x", false);
    free(header);
    free(bytes);
}

/* Opening and reading with call number n failing, for every n until none is left. */
static void fail_each_in_turn(bool *no_memory, bool *no_io)
{
    long n = -1;
    int rc;
    do {
        struct gd_safetensors *s = NULL;
        const struct gd_file_digest *d = NULL;
        struct gd_err err = {0};
        size_t files = 0;
        char byte = 0;
        faults_in = ++n;
        rc = gd_safetensors_open(&s, dir, &err);
        if (rc == GD_OK)
            rc = gd_safetensors_read(s, gd_safetensors_find(s, "1"), &byte, &err);
        if (rc == GD_OK)
            rc = gd_safetensors_digest(s, &d, &files, NULL, NULL, &err);
        const bool hit = faults_in < 0;
        faults_in = -1;
        gd_safetensors_close(s);
        assert_true(hit == (rc != GD_OK));
        assert_true(rc == GD_OK || (err.code == rc && err.msg[0] != '\0'));
        assert_true(rc == GD_OK || rc == GD_ENOMEM || rc == GD_EIO);
        assert_null(strstr(err.msg, "x: file '")); /* named once */
        assert_null(strstr(err.msg, "model.safetensors: file '"));
        *no_memory |= rc == GD_ENOMEM;
        *no_io |= rc == GD_EIO;
    } while (rc != GD_OK);
    assert_true(n > 10);
}

/* Numbers of tensors, because an arena asks for memory only when a block is full. */
static void test_every_fault(void **state)
{
    bool no_memory = false, no_io = false;
    (void)state;
    for (size_t n = 2; n < 2000; n += 1 + n / 3) {
        put_many(n);
        fail_each_in_turn(&no_memory, &no_io);
    }
    assert_int_equal(unlink(in_dir("model.safetensors.index.json")), 0);
    put_shard("model.safetensors", "0 1");
    fail_each_in_turn(&no_memory, &no_io);
    assert_true(no_memory && no_io);
}

/* Digests are kept in the set's arena: when its block is full, there is no memory for one more. */
static void test_no_memory_for_digests(void **state)
{
    struct gd_safetensors *s = NULL;
    const struct gd_file_digest *d = NULL;
    struct gd_err err;
    size_t n = 0;
    int rc = GD_OK;
    (void)state;
    put_shard("model.safetensors", "a");
    assert_int_equal(open_set(&s, &err), GD_OK);
    for (int i = 0; i < 100000 && rc == GD_OK; i++) {
        callocs_fail = true;
        rc = gd_safetensors_digest(s, &d, &n, NULL, NULL, &err);
        callocs_fail = false;
    }
    assert_int_equal(rc, GD_ENOMEM);
    assert_int_equal(err.code, GD_ENOMEM);
    gd_safetensors_close(s);
}

static void test_same_tensor_in_two_shards(void **state)
{
    (void)state;
    put_shard("x.safetensors", "a b");
    put_shard("y.safetensors", "b c");
    put_text("model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\","
             "\"c\":\"y.safetensors\"}}");
    refused(GD_EMODEL, "tensor 'b' is in shard 'y.safetensors', the index says 'x.safetensors'");
}

static void test_digests(void **state)
{
    struct gd_safetensors *s = NULL;
    struct gd_err err;
    const struct gd_file_digest *d = NULL;
    size_t n = 0;
    uint64_t seen[2] = {0, 0}, size = 0;
    char hex[65], path[256];
    uint8_t raw[32];
    (void)state;
    /* FIPS 180-2, appendix B.1 */
    gd_sha256("abc", 3, raw);
    assert_int_equal(raw[0], 0xba);
    assert_int_equal(raw[31], 0xad);
    put_text("abc", "abc");
    assert_int_equal(gd_file_sha256(in_dir("abc"), hex, &size, &err), GD_OK);
    assert_int_equal(size, 3);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    put_text("empty", "");
    assert_int_equal(gd_file_sha256(in_dir("empty"), hex, &size, &err), GD_OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(gd_file_sha256(in_dir("none"), hex, &size, &err), GD_EIO);
    assert_int_equal(err.code, GD_EIO);

    put_shard("model.safetensors", "a b c");
    assert_int_equal(open_set(&s, &err), GD_OK);
    assert_int_equal(gd_safetensors_digest(s, &d, &n, count_progress, seen, &err), GD_OK);
    assert_int_equal(n, 1);
    assert_true(gd_str_eqz(d[0].path, "model.safetensors"));
    assert_int_equal(seen[0], seen[1]);
    assert_int_equal(seen[0], d[0].nbytes);
    strcpy(path, in_dir("model.safetensors"));
    assert_int_equal(gd_file_sha256(path, hex, NULL, &err), GD_OK);
    assert_string_equal(hex, d[0].sha256);
    gd_safetensors_close(s);
}

/* More than one block of 4 MiB: the digest of a million times ten 'a' and its pieces. */
static void test_digest_of_blocks(void **state)
{
    const size_t len = 10000000;
    char hex[65], hex2[65];
    uint8_t raw[32];
    struct gd_err err;
    char *text = malloc(len);
    (void)state;
    assert_non_null(text);
    memset(text, 'a', len);
    put("big", text, len);
    assert_int_equal(gd_file_sha256(in_dir("big"), hex, NULL, &err), GD_OK);
    gd_sha256(text, len, raw);
    for (int i = 0; i < 32; i++)
        sprintf(hex2 + 2 * i, "%02x", raw[i]);
    assert_string_equal(hex, hex2);
    free(text);
}

static void test_file_read(void **state)
{
    char *data = NULL;
    size_t len = 0;
    struct gd_err err;
    (void)state;
    put_text("f", "12345");
    assert_int_equal(gd_file_read(in_dir("f"), 5, &data, &len, &err), GD_OK);
    assert_int_equal(len, 5);
    assert_string_equal(data, "12345");
    free(data);
    assert_int_equal(gd_file_read(in_dir("f"), 4, &data, &len, &err), GD_ELIMIT);
    assert_int_equal(gd_file_read(in_dir("none"), 4, &data, &len, &err), GD_EIO);
    assert_int_equal(gd_file_read(dir, 4, &data, &len, &err), GD_EIO);
    put_text("f", "");
    assert_int_equal(gd_file_read(in_dir("f"), 0, &data, &len, &err), GD_OK);
    assert_int_equal(len, 0);
    assert_string_equal(data, "");
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_truncated_everywhere),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_one_number_changed),
        cmocka_unit_test(test_memory_budgets),
        cmocka_unit_test(test_too_many_tensors),
        cmocka_unit_test_setup_teardown(test_single_file, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_not_a_regular_file, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_shards, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_bad_index, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_limits_of_an_index, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_no_tensors, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_every_fault, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_no_memory_for_digests, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_same_tensor_in_two_shards, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_digests, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_digest_of_blocks, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_file_read, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
