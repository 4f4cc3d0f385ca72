/* fuzz_safetensors.c - libFuzzer driver of the safetensors header parser, with a second opinion
 * built on jansson.
 *
 * The first byte chooses how the rest is read: a whole file as it is, or (odd) two bytes for the
 * size of the data and then the JSON of a header that gets its right length. For every input:
 *   - both validators accept or both refuse, except where a limit of ours is hit;
 *   - what is accepted has exactly the bytes that its shapes need, side by side up to the end of
 * the file;
 *   - what is refused says why, in UTF-8;
 *   - under a small arena the result is the same or GD_ENOMEM. */
#include "check.h"
#include "guardian/safetensors.h"

#include <jansson.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct {
    const char *name;
    unsigned bits;
} TYPES[] = {
    {"F64", 64},    {"I64", 64},    {"U64", 64},        {"C64", 64},        {"F32", 32},
    {"I32", 32},    {"U32", 32},    {"F16", 16},        {"BF16", 16},       {"I16", 16},
    {"U16", 16},    {"I8", 8},      {"U8", 8},          {"BOOL", 8},        {"F8_E4M3", 8},
    {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6},
    {"F6_E3M2", 6}, {"F4", 4},
};

struct range {
    json_int_t begin, end;
};

static int by_begin(const void *x, const void *y)
{
    const struct range *a = x, *b = y;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end);
}

static bool number(const json_t *v, json_int_t *out)
{
    *out = json_integer_value(v);
    return json_is_integer(v) && *out >= 0 && *out <= (json_int_t)1 << 53;
}

/* One entry of a header by the words of the format, in 128 bits. */
static bool oracle_tensor(json_t *v, struct range *r)
{
    const char *type = json_string_value(json_object_get(v, "dtype"));
    json_t *shape = json_object_get(v, "shape"), *range = json_object_get(v, "data_offsets");
    unsigned __int128 n = 0;
    json_int_t d;
    if (json_object_size(v) != 3 || type == NULL || !json_is_array(shape) ||
        json_array_size(range) != 2 || !number(json_array_get(range, 0), &r->begin) ||
        !number(json_array_get(range, 1), &r->end) || r->end < r->begin)
        return false;
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (strcmp(type, TYPES[i].name) == 0)
            n = TYPES[i].bits;
    if (n == 0 || strlen(type) != json_string_length(json_object_get(v, "dtype")))
        return false;
    /* Sizes over 2^64 bits are refused even when a later dimension is 0; the element counts. */
    unsigned __int128 count = 1;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        if (!number(json_array_get(shape, i), &d))
            return false;
        count *= (unsigned __int128)d;
        if (count > UINT64_MAX)
            return false;
    }
    n *= count;
    return n <= UINT64_MAX && n % 8 == 0 && n / 8 == (unsigned __int128)(r->end - r->begin);
}

static bool oracle_header(json_t *root, uint64_t data_bytes)
{
    struct range *r = calloc(json_object_size(root) + 1, sizeof *r);
    size_t n = 0;
    const char *key, *key2;
    json_t *v, *v2;
    bool ok = r != NULL;
    json_object_foreach(root, key, v)
    {
        if (strcmp(key, "__metadata__") == 0) {
            ok = ok && json_is_object(v);
            json_object_foreach(v, key2, v2) ok = ok && json_is_string(v2);
        } else {
            ok = ok && key[0] != '\0' && oracle_tensor(v, &r[n++]);
        }
    }
    if (ok && n > 0)
        qsort(r, n, sizeof *r, by_begin);
    uint64_t at = 0;
    for (size_t i = 0; ok && i < n; i++) {
        ok = (uint64_t)r[i].begin == at;
        at = (uint64_t)r[i].end;
    }
    free(r);
    return ok && at == data_bytes;
}

static bool oracle(const uint8_t *p, size_t len, uint64_t file_bytes)
{
    uint64_t n = 0;
    if (len < 8)
        return false;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    if (n < 2 || n > file_bytes - 8 || n > len - 8 || p[8] != '{')
        return false;
    json_t *root =
        json_loadb((const char *)p + 8, (size_t)n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    bool ok = root != NULL && oracle_header(root, file_bytes - 8 - n);
    json_decref(root);
    return ok;
}

static void check_accepted(const struct gd_tensor_info *t, size_t n, uint64_t header_end,
                           uint64_t file_bytes)
{
    uint64_t at = header_end;
    for (size_t i = 0; i < n; i++) {
        const bool byte = t[i].dtype == GD_DTYPE_I8 || t[i].dtype == GD_DTYPE_U8;
        unsigned __int128 bits = t[i].dtype == GD_DTYPE_F32 ? 32 : byte ? 8 : 16;
        GD_ASSERT(t[i].offset == at && t[i].rank <= GD_SAFETENSORS_RANK_MAX && t[i].file == 0);
        GD_ASSERT(t[i].name.len > 0 && strlen(t[i].name.ptr) == t[i].name.len);
        for (uint32_t k = 0; k < t[i].rank; k++)
            bits *= t[i].shape[k];
        GD_ASSERT(t[i].dtype == GD_DTYPE_OTHER || bits == (unsigned __int128)t[i].nbytes * 8);
        at += t[i].nbytes;
    }
    GD_ASSERT(at == file_bytes);
}

/* Where the second opinion is known to differ: it reads -0 as 0, stops early at a zero byte, and
 * knows no names with zero bytes. */
static bool comparable(const uint8_t *p, size_t len)
{
    return memmem(p, len, "-0", 2) == NULL && memmem(p, len, "\\u0000", 6) == NULL &&
           (len <= 8 || memchr(p + 8, '\0', len - 8) == NULL);
}

static int parse(struct gd_str head, uint64_t file_bytes, size_t budget, bool checked)
{
    struct gd_arena a;
    struct gd_err err = {0};
    struct gd_tensor_info *t = NULL;
    size_t n = 0;
    gd_arena_init(&a, budget);
    int rc = gd_safetensors_parse_header(&a, head, file_bytes, &t, &n, &err);
    GD_ASSERT(rc == err.code);
    if (rc == GD_OK && checked) {
        uint64_t length = 0;
        for (int i = 7; i >= 0; i--)
            length = length << 8 | (unsigned char)head.ptr[i];
        check_accepted(t, n, 8 + length, file_bytes);
    } else if (rc != GD_OK) {
        check_message(&err);
    }
    gd_arena_free(&a);
    return rc;
}

static void one_file(const uint8_t *p, size_t len, uint64_t file_bytes)
{
    struct gd_str head = {(const char *)p, len};
    int rc = parse(head, file_bytes, 64 * GD_MIB, true);
    GD_ASSERT(rc == GD_OK || rc == GD_EMODEL || rc == GD_EJSON || rc == GD_ELIMIT);
    if (comparable(p, len) && rc != GD_ELIMIT)
        GD_ASSERT((rc == GD_OK) == oracle(p, len, file_bytes));
    int small = parse(head, file_bytes, 600 + len * 2, true);
    GD_ASSERT(small == rc || small == GD_ENOMEM);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if ((data[0] & 1u) == 0) {
        one_file(data + 1, size - 1, size - 1);
        return 0;
    }
    if (size < 3)
        return 0;
    size_t n = size - 3;
    uint8_t *file = malloc(8 + n);
    GD_ASSERT(file != NULL);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(file + 8, data + 3, n);
    one_file(file, 8 + n, 8 + (uint64_t)n + data[1] + 256u * data[2]);
    free(file);
    return 0;
}
