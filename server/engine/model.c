/* model.c - opens a model directory: configuration, tensors checked against it, memory plan,
 * digests, then the weights.
 *
 * Nothing is read from the weights before every name and shape is right and the plan fits. Weights
 * go one by one through a single staging buffer: the parts of a fused weight (Q, K, V; gate, up)
 * are read one after another, which joins their rows, then the back end packs them. So at most one
 * tensor exists twice. Tables are read into memory of their own, which the back end takes over.
 * Values that are not finite are refused by the tensor's name, and int8 rows are widened
 * (tensor_values.h). */
#include "guardian/model.h"

#include "model_tensors.h"
#include "tensor_values.h"

#include "guardian/file.h"
#include "guardian/kernels.h"

#include <malloc.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CONFIG_NAME "config.json"
#define TOKENIZER_NAME "tokenizer.json"
#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"
#define GIB(n) ((double)(n) / (double)GD_GIB)

struct loader {
    struct gd_model *m;
    const char *dir;
    struct gd_safetensors *set;
    struct gd_model_tensors tensors;
    const struct gd_model_options *opt; /* never NULL */
    unsigned char *staging;             /* [tensors.bytes_largest] */
    uint64_t done;                      /* bytes of tensors read so far */
    struct gd_file_digest config;
    struct gd_err *err;
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- tensors ---- */

static int read_tensor(struct loader *l, const struct gd_tensor_info *t, void *dst)
{
    int rc = gd_tensor_values(l->set, t, dst, l->err);
    if (rc != GD_OK)
        return rc;
    l->done += t->nbytes;
    if (l->opt->progress != NULL)
        l->opt->progress(l->opt->ctx, "load", l->done, l->tensors.bytes_read);
    return GD_OK;
}

/* Joins vectors, of any dtypes, to floats that the caller frees; NULL when that fails. */
static float *read_vector(struct loader *l, const struct gd_tensor_info *const *parts,
                          size_t n_parts, uint32_t *n, int *rc)
{
    size_t all = 0, at = 0;
    for (size_t i = 0; i < n_parts; i++)
        all += (size_t)parts[i]->shape[0];
    float *values = malloc(all * sizeof *values);
    *n = (uint32_t)all;
    *rc = GD_OK;
    if (values == NULL)
        *rc = gd_err_set(l->err, GD_ENOMEM, "no memory for tensor '%s'", parts[0]->name.ptr);
    for (size_t i = 0; *rc == GD_OK && i < n_parts; i++) {
        *rc = read_tensor(l, parts[i], l->staging);
        if (*rc == GD_OK)
            gdk_to_f32_cpu((size_t)parts[i]->shape[0], parts[i]->dtype, l->staging, values + at);
        at += (size_t)parts[i]->shape[0];
    }
    if (*rc != GD_OK) {
        free(values);
        values = NULL;
    }
    return values;
}

static int load_vector(struct loader *l, const struct gd_tensor_info *const *t,
                       struct gd_vector **out)
{
    uint32_t n = 0;
    int rc = GD_OK;
    float *values = read_vector(l, t, 1, &n, &rc);
    if (values == NULL)
        return rc;
    *out = l->m->be->ops->vector_load(l->m->be, n, values);
    free(values);
    return *out != NULL
               ? GD_OK
               : gd_err_set(l->err, GD_ENOMEM, "no device memory for tensor '%s'", t[0]->name.ptr);
}

/* Joins the rows of parts (all [*, k], one dtype) and packs them with their bias (may be NULL). */
static int load_weight(struct loader *l, const struct gd_tensor_info *const *parts, size_t n_parts,
                       const float *bias, struct gd_weight **out)
{
    struct gd_backend *be = l->m->be;
    uint64_t at = 0, rows = 0;
    for (size_t i = 0; i < n_parts; i++) {
        int rc = read_tensor(l, parts[i], l->staging + at);
        if (rc != GD_OK)
            return rc;
        at += gd_tensor_values_bytes(parts[i]);
        rows += parts[i]->shape[0];
    }
    int rc = be->ops->weight_load(be, (uint32_t)rows, (uint32_t)parts[0]->shape[1],
                                  gd_tensor_values_dtype(parts[0]), l->staging, bias, out, l->err);
    if (rc != GD_OK)
        gd_err_prefix(l->err, "tensor '%s'", parts[0]->name.ptr);
    return rc;
}

static int load_qkv(struct loader *l, const struct gd_tensor_info *const *s, struct gd_weight **out)
{
    uint32_t n = 0;
    int rc = GD_OK;
    float *bias = NULL;
    if (l->m->config.qkv_bias)
        bias = read_vector(l, &s[GD_SLOT_Q_BIAS], 3, &n, &rc);
    if (rc == GD_OK)
        rc = load_weight(l, &s[GD_SLOT_Q], 3, bias, out);
    free(bias);
    return rc;
}

static int load_table(struct loader *l, const struct gd_tensor_info *t, struct gd_table **out)
{
    struct gd_backend *be = l->m->be;
    size_t size;
    void *rows = NULL;
    uint64_t nbytes = gd_tensor_values_bytes(t);
    if (gd_add((size_t)nbytes, 63, &size))
        rows = aligned_alloc(64, size & ~(size_t)63);
    if (rows == NULL)
        return gd_err_set(l->err, GD_ENOMEM, "no memory for the %.2f GiB of tensor '%s'",
                          GIB(nbytes), t->name.ptr);
    int rc = read_tensor(l, t, rows);
    if (rc != GD_OK) {
        free(rows);
        return rc;
    }
    /* The back end owns rows from here on, also when it fails. */
    return be->ops->table_load(be, (uint32_t)t->shape[0], (uint32_t)t->shape[1],
                               gd_tensor_values_dtype(t), rows, out, l->err);
}

static int load_layer(struct loader *l, uint32_t i)
{
    const struct gd_tensor_info *const *s = l->tensors.layers[i].slot;
    struct gd_model_layer *y = &l->m->layers[i];
    int rc;
    if ((rc = load_vector(l, &s[GD_SLOT_ATTN_NORM], &y->attn_norm)) != GD_OK ||
        (rc = load_qkv(l, s, &y->qkv)) != GD_OK ||
        (rc = load_weight(l, &s[GD_SLOT_O], 1, NULL, &y->o)) != GD_OK ||
        (rc = load_vector(l, &s[GD_SLOT_MLP_NORM], &y->mlp_norm)) != GD_OK ||
        (rc = load_weight(l, &s[GD_SLOT_GATE], 2, NULL, &y->gate_up)) != GD_OK)
        return rc;
    return load_weight(l, &s[GD_SLOT_DOWN], 1, NULL, &y->down);
}

static int load_tensors(struct loader *l)
{
    struct gd_model *m = l->m;
    m->layers = calloc(m->config.n_layers, sizeof *m->layers);
    m->inv_freq = malloc(m->config.head_dim / 2 * sizeof *m->inv_freq);
    l->staging = malloc((size_t)l->tensors.bytes_largest);
    if (m->layers == NULL || m->inv_freq == NULL || l->staging == NULL)
        return gd_err_set(l->err, GD_ENOMEM, "no memory for a tensor of %.2f GiB",
                          GIB(l->tensors.bytes_largest));
    gd_model_rope(&m->config, m->inv_freq);
    int rc = load_table(l, l->tensors.embed, &m->embed);
    for (uint32_t i = 0; rc == GD_OK && i < m->config.n_layers; i++)
        rc = load_layer(l, i);
    if (rc == GD_OK)
        rc = load_vector(l, &l->tensors.final_norm, &m->final_norm);
    if (rc == GD_OK && l->tensors.lm_head != NULL)
        rc = load_table(l, l->tensors.lm_head, &m->lm_head);
    else if (rc == GD_OK)
        m->lm_head = m->embed;
    return rc;
}

/* ---- plan, digests ---- */

static int check_memory(const struct loader *l)
{
    uint64_t needed = l->tensors.bytes_needed;
    uint64_t there =
        l->opt->memory_max != 0 ? l->opt->memory_max : l->m->be->ops->memory_left(l->m->be);
    if (needed <= there)
        return GD_OK;
    return gd_err_set(l->err, GD_ENOMEM,
                      "the model needs %.2f GiB of memory with weights as %s, %s has %.2f GiB left",
                      GIB(needed), l->m->be->gemm_dtype, l->m->be->device, GIB(there));
}

static int by_path(const void *x, const void *y)
{
    return strcmp(((const struct gd_file_digest *)x)->path.ptr,
                  ((const struct gd_file_digest *)y)->path.ptr);
}

/* Digest of a file beside the weights; what is not there does not count. */
static int digest_beside(struct loader *l, const char *name, struct gd_file_digest *d, bool *there)
{
    int fd = -1;
    char *path = gd_path_join(l->dir, name);
    if (path == NULL)
        return gd_err_set(l->err, GD_ENOMEM, "no memory for a path");
    int rc = gd_file_open(path, &fd, &d->nbytes, l->err);
    *there = rc == GD_OK;
    if (rc == GD_OK) {
        d->path = gd_str_from(name);
        rc = gd_file_sha256_fd(fd, path, d->nbytes, d->sha256, NULL, l->err);
        close(fd);
    } else if (rc == GD_ENOTFOUND) {
        rc = GD_OK;
        if (l->err != NULL)
            *l->err = (struct gd_err){0};
    }
    free(path);
    return rc;
}

/* Keeps a sorted copy of the digests in one block, with the names behind, and derives the version
 * from it. */
static int keep_digests(struct loader *l, struct gd_file_digest *d, size_t n)
{
    struct gd_model *m = l->m;
    struct gd_buf lines;
    uint8_t digest[32];
    size_t names = 0;
    qsort(d, n, sizeof *d, by_path);
    gd_buf_init(&lines, n * (sizeof d->sha256 + (size_t)2 * GD_SAFETENSORS_NAME_BYTES_MAX));
    for (size_t i = 0; i < n; i++) {
        names += d[i].path.len + 1;
        gd_buf_fmt(&lines, "%s  %s\n", d[i].sha256, d[i].path.ptr);
    }
    m->files = malloc(n * sizeof *d + names + 1);
    if (m->files == NULL || lines.failed != GD_OK) {
        gd_buf_free(&lines);
        return gd_err_set(l->err, GD_ENOMEM, "no memory for the digests of %zu files", n);
    }
    memcpy(m->files, d, n * sizeof *d);
    char *at = (char *)(m->files + n);
    for (size_t i = 0; i < n; i++) {
        memcpy(at, d[i].path.ptr, d[i].path.len + 1);
        m->files[i].path.ptr = at;
        at += d[i].path.len + 1;
    }
    m->n_files = n;
    gd_sha256(lines.data, lines.len, digest);
    gd_buf_free(&lines);
    memcpy(m->version, "sha256:", 7);
    gd_hex(digest, sizeof digest, m->version + 7);
    return GD_OK;
}

static void hash_progress(void *ctx, uint64_t done, uint64_t all)
{
    const struct gd_model_options *opt = ctx;
    if (opt->progress != NULL)
        opt->progress(opt->ctx, "hash", done, all);
}

static int take_digests(struct loader *l)
{
    const struct gd_file_digest *shards = NULL;
    size_t n = 0;
    bool there = false;
    struct gd_model_options opt = *l->opt;
    int rc = gd_safetensors_digest(l->set, &shards, &n, hash_progress, &opt, l->err);
    if (rc != GD_OK)
        return rc;
    struct gd_file_digest *d = calloc(n + 3, sizeof *d);
    if (d == NULL)
        return gd_err_set(l->err, GD_ENOMEM, "no memory for the digests of %zu files", n);
    memcpy(d, shards, n * sizeof *d);
    bool single = n == 1 && gd_str_eqz(d[0].path, SINGLE_NAME);
    d[n++] = l->config;
    rc = digest_beside(l, TOKENIZER_NAME, &d[n], &there);
    n += there;
    if (rc == GD_OK && !single) {
        rc = digest_beside(l, INDEX_NAME, &d[n], &there);
        n += there;
    }
    if (rc == GD_OK)
        rc = keep_digests(l, d, n);
    free(d);
    return rc;
}

static int read_config(struct loader *l)
{
    char *text = NULL;
    size_t len = 0;
    uint8_t digest[32];
    char *path = gd_path_join(l->dir, CONFIG_NAME);
    if (path == NULL)
        return gd_err_set(l->err, GD_ENOMEM, "no memory for a path");
    int rc = gd_file_read(path, GD_MODEL_CONFIG_BYTES_MAX, &text, &len, l->err);
    if (rc == GD_OK) {
        gd_sha256(text, len, digest);
        l->config.path = GD_STR(CONFIG_NAME);
        l->config.nbytes = len;
        gd_hex(digest, sizeof digest, l->config.sha256);
        rc = gd_model_config_parse((struct gd_str){text, len}, &l->m->config, l->err);
    }
    free(text);
    free(path);
    return rc;
}

int gd_model_open(struct gd_model **out, const char *dir, struct gd_backend *be,
                  const struct gd_model_options *opt, struct gd_err *err)
{
    static const struct gd_model_options defaults = {0};
    double start = now_ms();
    struct gd_model *m = calloc(1, sizeof *m);
    struct loader l = {.m = m, .dir = dir, .opt = opt != NULL ? opt : &defaults, .err = err};
    int rc;
    *out = NULL;
    if (m == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for a model");
    m->be = be;
    if ((rc = read_config(&l)) != GD_OK || (rc = gd_safetensors_open(&l.set, dir, err)) != GD_OK ||
        (rc = gd_model_tensors_find(&l.tensors, l.set, &m->config, err)) != GD_OK)
        goto done;
    gd_model_tensors_plan(&l.tensors, &m->config, be);
    m->n_params = l.tensors.n_params;
    m->bytes_needed = l.tensors.bytes_needed;
    if ((rc = check_memory(&l)) != GD_OK || (rc = take_digests(&l)) != GD_OK)
        goto done;
    rc = load_tensors(&l);
done:
    free(l.staging);
    gd_model_tensors_free(&l.tensors);
    gd_safetensors_close(l.set);
    /* Smaller staging blocks stay with malloc otherwise, and the resident size with them. */
    malloc_trim(0);
    if (rc == GD_OK) {
        m->load_ms = now_ms() - start;
        *out = m;
    } else {
        gd_model_close(m);
    }
    return rc;
}

void gd_model_close(struct gd_model *m)
{
    if (m == NULL)
        return;
    const struct gd_backend_ops *ops = m->be->ops;
    for (uint32_t i = 0; m->layers != NULL && i < m->config.n_layers; i++) {
        struct gd_model_layer *y = &m->layers[i];
        struct gd_vector *vectors[] = {y->attn_norm, y->mlp_norm};
        struct gd_weight *weights[] = {y->qkv, y->o, y->gate_up, y->down};
        for (size_t k = 0; k < sizeof vectors / sizeof vectors[0]; k++)
            if (vectors[k] != NULL)
                ops->vector_free(m->be, vectors[k]);
        for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++)
            if (weights[k] != NULL)
                ops->weight_free(m->be, weights[k]);
    }
    if (m->final_norm != NULL)
        ops->vector_free(m->be, m->final_norm);
    if (m->lm_head != NULL && m->lm_head != m->embed)
        ops->table_free(m->be, m->lm_head);
    if (m->embed != NULL)
        ops->table_free(m->be, m->embed);
    free(m->layers);
    free(m->inv_freq);
    free(m->files);
    free(m);
}
