/* safetensors.c - the header of a safetensors file, checked in full before any tensor is used.
 *
 * One file is: 8 bytes little-endian header length, that many bytes of JSON, then data. The JSON
 * maps each tensor's name to {dtype, shape, data_offsets}; offsets count from the start of the
 * data. What is not exactly so is refused: the ranges, sorted, must tile the data from its first
 * byte to its last. Every count goes through bytes_of(), the one place where sizes are multiplied,
 * and every position is compared with what is left, never added up first. */
#include "safetensors_set.h"

#include "guardian/json.h"

#include <string.h>

#define LENGTH_BYTES 8
#define NUMBER_MAX ((int64_t)1 << 53) /* the format's integers are exact as doubles */

/* Every dtype of the format, with its bits: types that the engine cannot use are still checked for
 * size. */
static const struct {
    const char *name;
    unsigned bits;
    enum gd_dtype dtype;
} DTYPES[] = {
    {"F32", 32, GD_DTYPE_F32},          {"F16", 16, GD_DTYPE_F16},
    {"BF16", 16, GD_DTYPE_BF16},        {"F64", 64, GD_DTYPE_OTHER},
    {"C64", 64, GD_DTYPE_OTHER},        {"I64", 64, GD_DTYPE_OTHER},
    {"U64", 64, GD_DTYPE_OTHER},        {"I32", 32, GD_DTYPE_OTHER},
    {"U32", 32, GD_DTYPE_OTHER},        {"I16", 16, GD_DTYPE_OTHER},
    {"U16", 16, GD_DTYPE_OTHER},        {"I8", 8, GD_DTYPE_I8},
    {"U8", 8, GD_DTYPE_U8},             {"BOOL", 8, GD_DTYPE_OTHER},
    {"F8_E4M3", 8, GD_DTYPE_OTHER},     {"F8_E5M2", 8, GD_DTYPE_OTHER},
    {"F8_E8M0", 8, GD_DTYPE_OTHER},     {"F8_E4M3FNUZ", 8, GD_DTYPE_OTHER},
    {"F8_E5M2FNUZ", 8, GD_DTYPE_OTHER}, {"F6_E2M3", 6, GD_DTYPE_OTHER},
    {"F6_E3M2", 6, GD_DTYPE_OTHER},     {"F4", 4, GD_DTYPE_OTHER},
};

static int refuse(const struct gd_json *m, struct gd_err *err, const char *what)
{
    return gd_err_set(err, GD_EMODEL, "tensor '%s': %s", m->key.ptr, what);
}

/* Bytes of a tensor: product of its dimensions by the bits of an element, which must fill whole
 * bytes. */
static bool bytes_of(const struct gd_tensor_info *t, unsigned bits, uint64_t *out)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return false;
    if (__builtin_mul_overflow(n, (uint64_t)bits, &n) || n % 8 != 0)
        return false;
    *out = n / 8;
    return true;
}

/* An integer of the format: no sign, no fraction, at most 2^53. */
static bool read_number(const struct gd_json *v, uint64_t *out)
{
    int64_t n;
    if (!gd_json_is(v, GD_JSON_NUMBER) || v->raw.ptr[0] == '-' || !gd_json_i64(v, &n) ||
        n > NUMBER_MAX)
        return false;
    *out = (uint64_t)n;
    return true;
}

static int read_shape(const struct gd_json *m, const struct gd_json *shape,
                      struct gd_tensor_info *t, struct gd_err *err)
{
    if (!gd_json_is(shape, GD_JSON_ARRAY))
        return refuse(m, err, "field 'shape' must be an array");
    if (shape->n_children > GD_SAFETENSORS_RANK_MAX)
        return gd_err_set(err, GD_ELIMIT, "tensor '%s' has %u dimensions, the limit is %d",
                          m->key.ptr, shape->n_children, GD_SAFETENSORS_RANK_MAX);
    for (const struct gd_json *v = shape->child; v != NULL; v = v->next)
        if (!read_number(v, &t->shape[t->rank++]))
            return refuse(m, err, "'shape' must hold integers from 0 to 2^53");
    return GD_OK;
}

/* Fills begin and nbytes; `offset` is still relative to the data. */
static int read_range(const struct gd_json *m, const struct gd_json *range, uint64_t data_bytes,
                      struct gd_tensor_info *t, struct gd_err *err)
{
    uint64_t begin, end;
    if (!gd_json_is(range, GD_JSON_ARRAY) || range->n_children != 2 ||
        !read_number(range->child, &begin) || !read_number(range->child->next, &end))
        return refuse(m, err, "'data_offsets' must be two integers from 0 to 2^53");
    if (end < begin)
        return refuse(m, err, "'data_offsets' run backwards");
    if (end > data_bytes)
        return gd_err_set(err, GD_EMODEL,
                          "tensor '%s' ends at data byte %llu, but the file has only %llu",
                          m->key.ptr, (unsigned long long)end, (unsigned long long)data_bytes);
    t->offset = begin;
    t->nbytes = end - begin;
    return GD_OK;
}

static int read_dtype(const struct gd_json *m, const struct gd_json *dtype,
                      struct gd_tensor_info *t, unsigned *bits, struct gd_err *err)
{
    if (!gd_json_is(dtype, GD_JSON_STRING))
        return refuse(m, err, "field 'dtype' must be a string");
    for (size_t i = 0; i < sizeof DTYPES / sizeof DTYPES[0]; i++) {
        if (gd_str_eqz(dtype->str, DTYPES[i].name)) {
            t->dtype = DTYPES[i].dtype;
            *bits = DTYPES[i].bits;
            return GD_OK;
        }
    }
    return gd_err_set(err, GD_EMODEL, "tensor '%s' has the unknown dtype '%.*s'", m->key.ptr,
                      gd_shown(dtype->str, 32), dtype->str.ptr);
}

/* m->key is zero-terminated here and holds no zero byte before its end. */
static int read_tensor(const struct gd_json *m, uint64_t data_bytes, struct gd_tensor_info *t,
                       struct gd_err *err)
{
    unsigned bits = 0;
    uint64_t nbytes = 0;
    int rc;
    if (!gd_json_is(m, GD_JSON_OBJECT))
        return refuse(m, err, "its entry must be an object");
    const struct gd_json *dtype = gd_json_get(m, "dtype");
    const struct gd_json *shape = gd_json_get(m, "shape");
    const struct gd_json *range = gd_json_get(m, "data_offsets");
    if (dtype == NULL || shape == NULL || range == NULL || m->n_children != 3)
        return refuse(m, err, "its entry must have exactly dtype, shape and data_offsets");
    if ((rc = read_dtype(m, dtype, t, &bits, err)) != GD_OK ||
        (rc = read_shape(m, shape, t, err)) != GD_OK ||
        (rc = read_range(m, range, data_bytes, t, err)) != GD_OK)
        return rc;
    if (!bytes_of(t, bits, &nbytes))
        return refuse(m, err, "its shape has no valid size in bytes");
    if (nbytes != t->nbytes)
        return gd_err_set(err, GD_EMODEL,
                          "tensor '%s' needs %llu bytes by its shape and dtype, its data_offsets "
                          "hold %llu",
                          m->key.ptr, (unsigned long long)nbytes, (unsigned long long)t->nbytes);
    t->name = m->key;
    return GD_OK;
}

static int by_offset(const void *x, const void *y)
{
    const struct gd_tensor_info *a = x, *b = y;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return (a->nbytes > b->nbytes) - (a->nbytes < b->nbytes);
}

/* The sorted ranges must follow each other without overlap or hole, up to the last byte. Tensors
 * without bytes may stand anywhere between two others. Turns offsets into positions in the file. */
static int check_tiling(struct gd_tensor_info *t, size_t n, uint64_t data_bytes,
                        uint64_t data_start, struct gd_err *err)
{
    uint64_t at = 0;
    if (n > 0)
        qsort(t, n, sizeof *t, by_offset);
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset < at)
            return gd_err_set(err, GD_EMODEL, "tensor '%s' overlaps '%s'", t[i].name.ptr,
                              t[i - 1].name.ptr);
        if (t[i].offset > at)
            return gd_err_set(err, GD_EMODEL,
                              "no tensor owns the %llu bytes before tensor '%s' (data byte %llu)",
                              (unsigned long long)(t[i].offset - at), t[i].name.ptr,
                              (unsigned long long)t[i].offset);
        at += t[i].nbytes;
        t[i].offset += data_start;
    }
    if (at != data_bytes)
        return gd_err_set(err, GD_EMODEL, "the last %llu bytes of the file belong to no tensor",
                          (unsigned long long)(data_bytes - at));
    return GD_OK;
}

/* __metadata__ is for people: a map of strings, checked and dropped. */
static int check_metadata(const struct gd_json *m, struct gd_err *err)
{
    if (!gd_json_is(m, GD_JSON_OBJECT))
        return gd_err_set(err, GD_EMODEL, "'__metadata__' must be an object");
    for (const struct gd_json *v = m->child; v != NULL; v = v->next)
        if (!gd_json_is(v, GD_JSON_STRING))
            return gd_err_set(err, GD_EMODEL, "'__metadata__' must hold strings only, '%.*s' is %s",
                              gd_shown(v->key, 64), v->key.ptr, gd_json_type_name(v));
    return GD_OK;
}

int gd_safetensors_header_length(struct gd_str head, uint64_t file_bytes, uint64_t *out,
                                 struct gd_err *err)
{
    uint64_t n = 0;
    if (file_bytes < LENGTH_BYTES || head.len < LENGTH_BYTES)
        return gd_err_set(err, GD_EMODEL, "%llu bytes are too few for a header",
                          (unsigned long long)(file_bytes < head.len ? file_bytes : head.len));
    for (size_t i = LENGTH_BYTES; i-- > 0;)
        n = n << 8 | (unsigned char)head.ptr[i];
    if (n > GD_SAFETENSORS_HEADER_BYTES_MAX)
        return gd_err_set(err, GD_ELIMIT, "the header says it has %llu bytes, the limit is %zu",
                          (unsigned long long)n, GD_SAFETENSORS_HEADER_BYTES_MAX);
    if (n < 2)
        return gd_err_set(err, GD_EMODEL, "the header says it has %llu bytes, 2 are the least",
                          (unsigned long long)n);
    if (n > file_bytes - LENGTH_BYTES)
        return gd_err_set(err, GD_EMODEL, "the header says it has %llu bytes, but only %llu follow",
                          (unsigned long long)n, (unsigned long long)(file_bytes - LENGTH_BYTES));
    *out = n;
    return GD_OK;
}

int gd_safetensors_parse_json(struct gd_arena *a, struct gd_str text, const struct gd_json **out,
                              struct gd_err *err)
{
    /* An entry is an object with a string and two arrays: 14 values with eight dimensions. */
    const struct gd_json_limits lim = {
        .bytes_max = GD_SAFETENSORS_HEADER_BYTES_MAX,
        .nodes_max = GD_SAFETENSORS_TENSORS_MAX * 16u,
        .depth_max = 4,
        .key_bytes_max = GD_SAFETENSORS_NAME_BYTES_MAX,
    };
    const struct gd_json *root = NULL;
    int rc = gd_json_parse(a, text, &lim, &root, err);
    if (rc != GD_OK)
        return rc;
    if (!gd_json_is(root, GD_JSON_OBJECT))
        return gd_err_set(err, GD_EMODEL, "its JSON must be an object, is %s",
                          gd_json_type_name(root));
    if (root->flags & GD_JSON_F_DUPKEY)
        return gd_err_set(err, GD_EMODEL, "its JSON names something twice");
    if (root->flags & GD_JSON_F_SURROGATE)
        return gd_err_set(err, GD_EMODEL, "its JSON has half of a surrogate pair");
    *out = root;
    return GD_OK;
}

int gd_safetensors_parse_header(struct gd_arena *a, struct gd_str head, uint64_t file_bytes,
                                struct gd_tensor_info **tensors, size_t *n_tensors,
                                struct gd_err *err)
{
    uint64_t length = 0;
    const struct gd_json *root = NULL;
    int rc = gd_safetensors_header_length(head, file_bytes, &length, err);
    if (rc != GD_OK)
        return rc;
    if (length > head.len - LENGTH_BYTES)
        return gd_err_set(err, GD_EMODEL, "the header is cut after %zu bytes", head.len);
    struct gd_str text = {head.ptr + LENGTH_BYTES, (size_t)length};
    if (text.ptr[0] != '{')
        return gd_err_set(err, GD_EMODEL, "the header must begin with '{'");
    if ((rc = gd_safetensors_parse_json(a, text, &root, err)) != GD_OK) {
        gd_err_prefix(err, "header");
        return rc;
    }
    if (root->n_children > GD_SAFETENSORS_TENSORS_MAX)
        return gd_err_set(err, GD_ELIMIT, "the header names %u tensors, the limit is %d",
                          root->n_children, GD_SAFETENSORS_TENSORS_MAX);
    struct gd_tensor_info *t = gd_arena_calloc(a, root->n_children, sizeof *t);
    if (t == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for the %u tensors of the header",
                          root->n_children);
    uint64_t data_start = LENGTH_BYTES + length, data_bytes = file_bytes - data_start;
    size_t n = 0;
    for (const struct gd_json *m = root->child; m != NULL; m = m->next) {
        if (gd_str_eqz(m->key, "__metadata__")) {
            if ((rc = check_metadata(m, err)) != GD_OK)
                return rc;
            continue;
        }
        if (m->key.len == 0 || memchr(m->key.ptr, '\0', m->key.len) != NULL)
            return gd_err_set(err, GD_EMODEL, "a tensor's name is empty or has a zero byte");
        struct gd_json named = *m;
        if (gd_str_dup(a, m->key, &named.key) != GD_OK)
            return gd_err_set(err, GD_ENOMEM, "no memory for the names of the tensors");
        if ((rc = read_tensor(&named, data_bytes, &t[n++], err)) != GD_OK)
            return rc;
    }
    if ((rc = check_tiling(t, n, data_bytes, data_start, err)) != GD_OK)
        return rc;
    *tensors = t;
    *n_tensors = n;
    return GD_OK;
}
