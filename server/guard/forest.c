/* forest.c - see forest.h. The file is read whole, checked, and kept as it lies in it. */
#include "forest.h"

#include "guardian/file.h"
#include "guardian/safetensors.h"
#include "guardian/taxonomy.h"

#include <math.h>
#include <string.h>

#define HEADER_ARENA_BYTES ((size_t)1 * GD_MIB)

struct gd_forest {
    char *data; /* the file */
    uint32_t trees, depth;
    uint8_t *feature; /* [trees, depth] in evidence.h */
    const float *threshold, *leaf, *bias;
};

struct wanted {
    const char *name;
    enum gd_dtype dtype;
    uint32_t rank;
    uint64_t shape[3]; /* 0: any */
};

static int check_hash(const char *data, size_t len, struct gd_str sha256, struct gd_err *err)
{
    uint8_t sum[32];
    char hex[65];
    gd_sha256(data, len, sum);
    gd_hex(sum, sizeof sum, hex);
    if (!gd_str_eqz(sha256, hex))
        return gd_err_set(err, GD_EPOLICY,
                          "the file has SHA-256 %s, another one than the policy says", hex);
    return GD_OK;
}

static bool fits(const struct gd_tensor_info *t, const struct wanted *w)
{
    if (!gd_str_eqz(t->name, w->name) || t->dtype != w->dtype || t->rank != w->rank)
        return false;
    for (uint32_t i = 0; i < w->rank; i++)
        if (w->shape[i] != 0 && t->shape[i] != w->shape[i])
            return false;
    return true;
}

static int find(const struct gd_tensor_info *tensors, size_t n, const struct wanted *w,
                const struct gd_tensor_info **out, struct gd_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!fits(&tensors[i], w))
            continue;
        if (w->dtype == GD_DTYPE_F32 && tensors[i].offset % sizeof(float) != 0)
            return gd_err_set(err, GD_EPOLICY,
                              "tensor '%s' does not begin at a multiple of 4 bytes", w->name);
        *out = &tensors[i];
        return GD_OK;
    }
    return gd_err_set(
        err, GD_EPOLICY,
        "there must be a tensor '%s' of type %s with %u dimensions that fit the others", w->name,
        w->dtype == GD_DTYPE_F32 ? "F32" : "U8", (unsigned)w->rank);
}

static int check_finite(const float *v, size_t n, const char *name, struct gd_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return gd_err_set(err, GD_EPOLICY, "tensor '%s' has a number that is not finite", name);
    return GD_OK;
}

/* Finds the tensors; the numbers of features become those of evidence.h. */
static int lay_out(struct gd_forest *f, const struct gd_tensor_info *tensors, size_t n,
                   const uint8_t *feature, uint32_t n_features, struct gd_err *err)
{
    struct wanted w = {"feature", GD_DTYPE_U8, 2, {0, 0, 0}};
    const struct gd_tensor_info *t = NULL;
    int rc = find(tensors, n, &w, &t, err);
    if (rc != GD_OK)
        return rc;
    if (t->shape[0] < 1 || t->shape[0] > GD_FOREST_TREES_MAX || t->shape[1] < 1 ||
        t->shape[1] > GD_FOREST_DEPTH_MAX)
        return gd_err_set(err, GD_EPOLICY,
                          "tensor 'feature' must be of 1 to %d trees with a depth of 1 to %d",
                          GD_FOREST_TREES_MAX, GD_FOREST_DEPTH_MAX);
    f->trees = (uint32_t)t->shape[0];
    f->depth = (uint32_t)t->shape[1];
    f->feature = (uint8_t *)f->data + t->offset;
    for (size_t i = 0; i < (size_t)f->trees * f->depth; i++) {
        if (f->feature[i] >= n_features)
            return gd_err_set(err, GD_EPOLICY, "tensor 'feature' asks for number %u of %u features",
                              (unsigned)f->feature[i], (unsigned)n_features);
        f->feature[i] = feature[f->feature[i]];
    }
    const struct {
        struct wanted w;
        const float **at;
    } rest[] = {
        {{"threshold", GD_DTYPE_F32, 2, {f->trees, f->depth, 0}}, &f->threshold},
        {{"leaf", GD_DTYPE_F32, 3, {f->trees, (uint64_t)1 << f->depth, GD_LABEL_COUNT}}, &f->leaf},
        {{"bias", GD_DTYPE_F32, 1, {GD_LABEL_COUNT, 0, 0}}, &f->bias},
    };
    for (size_t i = 0; i < sizeof rest / sizeof rest[0] && rc == GD_OK; i++) {
        rc = find(tensors, n, &rest[i].w, &t, err);
        if (rc != GD_OK)
            break;
        *rest[i].at = (const float *)(const void *)(f->data + t->offset);
        rc = check_finite(*rest[i].at, t->nbytes / sizeof(float), rest[i].w.name, err);
    }
    return rc;
}

int gd_forest_open(struct gd_forest **out, const char *path, struct gd_str sha256,
                   const uint8_t *feature, uint32_t n, struct gd_err *err)
{
    struct gd_arena a;
    struct gd_tensor_info *tensors = NULL;
    size_t len = 0, count = 0;
    *out = NULL;
    struct gd_forest *f = calloc(1, sizeof *f);
    if (f == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for the forest");
    gd_arena_init(&a, HEADER_ARENA_BYTES);
    int rc = gd_file_read(path, GD_FOREST_BYTES_MAX, &f->data, &len, err);
    if (rc == GD_OK)
        rc = check_hash(f->data, len, sha256, err);
    if (rc == GD_OK)
        rc = gd_safetensors_parse_header(&a, (struct gd_str){f->data, len}, len, &tensors, &count,
                                         err);
    if (rc == GD_OK)
        rc = lay_out(f, tensors, count, feature, n, err);
    gd_arena_free(&a);
    if (rc != GD_OK) {
        gd_err_prefix(err, "forest %s", path);
        gd_forest_close(f);
        return rc;
    }
    *out = f;
    return GD_OK;
}

void gd_forest_close(struct gd_forest *f)
{
    if (f == NULL)
        return;
    free(f->data);
    free(f);
}

void gd_forest_score(const struct gd_forest *f, const float *evidence, float *score)
{
    memcpy(score, f->bias, GD_LABEL_COUNT * sizeof *score);
    for (uint32_t t = 0; t < f->trees; t++) {
        size_t leaf = 0;
        for (uint32_t k = 0; k < f->depth; k++) {
            const size_t at = (size_t)t * f->depth + k;
            leaf |= (size_t)(evidence[f->feature[at]] > f->threshold[at]) << k;
        }
        const float *add = f->leaf + (((size_t)t << f->depth) + leaf) * GD_LABEL_COUNT;
        for (int l = 0; l < GD_LABEL_COUNT; l++)
            score[l] += add[l];
    }
}
