/* backend_cuda_memory.c - device memory of the CUDA back end: activations, weights, tables, KV cache.
 *
 * Loading goes through two pinned buffers: while one is copied to the device the next piece is
 * rounded to bf16 (or copied) into the other. FP8 weights are quantised on the device, one scale a
 * row, from bf16 rows that are overwritten by the next weight; the stream keeps the order. */
#include "backend_cuda_parts.h"

#include "guardian/arena.h"

#include <math.h>

/* ---- sizes ---- */

static enum gdk_type type_of(const struct cuda_backend *cuda, enum gd_rows_kind kind)
{
    if (kind == GD_ROWS_F32) {
        return GDK_F32;
    }
    return kind == GD_ROWS_OPERAND && cuda->fp8 ? GDK_E4M3 : GDK_BF16;
}

static size_t type_bytes(int type)
{
    return type == GDK_F32 ? sizeof(float) : type == GDK_BF16 ? sizeof(gdk_bf16) : sizeof(gdk_e4m3);
}

uint64_t cuda_memory_left(struct gd_backend *be)
{
    size_t left = 0, all = 0;
    if (cuda_result(cuda_of(be), cudaMemGetInfo(&left, &all), "cudaMemGetInfo") != GD_OK) {
        return 0;
    }
    return left > CUDA_RESERVE_BYTES ? left - CUDA_RESERVE_BYTES : 0;
}

/* Device memory, or NULL. */
static void *device_alloc(struct cuda_backend *cuda, size_t nbytes)
{
    void *p = NULL;
    cudaError_t rc = cudaMalloc(&p, nbytes);
    if (rc == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* it is told by NULL, and must not be told again */
        return NULL;
    }
    return cuda_result(cuda, rc, "cudaMalloc") == GD_OK ? p : NULL;
}

static void device_free(struct cuda_backend *cuda, void *p)
{
    if (p != NULL) {
        cuda_result(cuda, cudaFree(p), "cudaFree");
    }
}

/* ---- rows ---- */

uint64_t cuda_rows_bytes(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows, uint32_t dim)
{
    enum gdk_type type = type_of(cuda_of(be), kind);
    uint64_t padded = gdk_cuda_rows_padded(rows);
    return padded * dim * type_bytes(type) + (type == GDK_E4M3 ? padded * sizeof(float) : 0);
}

struct gd_rows *cuda_rows_open(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                               uint32_t dim)
{
    struct cuda_backend *cuda = cuda_of(be);
    struct gd_rows *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NULL;
    }
    r->type = type_of(cuda, kind);
    r->rows = gdk_cuda_rows_padded(rows);
    r->dim = dim;
    r->data = device_alloc(cuda, (size_t)r->rows * dim * type_bytes(r->type));
    if (r->type == GDK_E4M3) {
        r->scales = device_alloc(cuda, r->rows * sizeof(float));
    }
    if (r->data == NULL || (r->type == GDK_E4M3 && r->scales == NULL)) {
        cuda_rows_close(be, r);
        return NULL;
    }
    return r;
}

void cuda_rows_close(struct gd_backend *be, struct gd_rows *r)
{
    if (r != NULL) {
        cuda_forget_graphs(cuda_of(be));
        device_free(cuda_of(be), r->data);
        device_free(cuda_of(be), r->scales);
        free(r);
    }
}

static gdk_bf16 bf16_of(float x) /* nearest even */
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) {
        return 0x7fc0;
    }
    return (gdk_bf16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static bool fits(const struct gd_rows *r, uint32_t n, uint32_t dim)
{
    return n <= r->rows && dim <= r->dim;
}

int cuda_rows_read(struct gd_backend *be, const struct gd_rows *r, uint32_t n, uint32_t dim,
                   float *host)
{
    struct cuda_backend *cuda = cuda_of(be);
    size_t count = (size_t)n * dim;
    float *scales = malloc(n * sizeof *scales + 1);
    unsigned char *raw = malloc(count * type_bytes(r->type) + 1);
    int rc = !fits(r, n, dim) ? GD_EUSAGE : scales == NULL || raw == NULL ? GD_ENOMEM : GD_OK;
    if (rc == GD_OK) {
        rc = cuda_result(cuda,
                         cudaMemcpyAsync(raw, r->data, count * type_bytes(r->type),
                                         cudaMemcpyDeviceToHost, cuda->stream),
                         "reading rows");
    }
    if (rc == GD_OK && r->scales != NULL) {
        rc = cuda_result(cuda,
                         cudaMemcpyAsync(scales, r->scales, n * sizeof *scales,
                                         cudaMemcpyDeviceToHost, cuda->stream),
                         "reading scales");
    }
    /* Waits in any case: a copy that is under way must not outlive its memory. */
    int waited = cuda_result(cuda, cudaStreamSynchronize(cuda->stream), "reading rows");
    rc = rc != GD_OK ? rc : waited;
    if (rc == GD_OK && r->type != GDK_E4M3) {
        gdk_to_f32_cpu(count, r->type == GDK_F32 ? GD_DTYPE_F32 : GD_DTYPE_BF16, raw, host);
    }
    for (size_t i = 0; i < count && rc == GD_OK && r->type == GDK_E4M3; i++) {
        host[i] = gdk_e4m3_value(raw[i]) * scales[i / dim];
    }
    free(scales);
    free(raw);
    return rc;
}

int cuda_rows_write(struct gd_backend *be, struct gd_rows *r, uint32_t n, uint32_t dim,
                    const float *host)
{
    struct cuda_backend *cuda = cuda_of(be);
    size_t count = (size_t)n * dim;
    if (!fits(r, n, dim) || r->type == GDK_E4M3) {
        return GD_EUSAGE;
    }
    const void *src = host;
    gdk_bf16 *rounded = NULL;
    if (r->type == GDK_BF16) {
        rounded = malloc(count * sizeof *rounded + 1);
        if (rounded == NULL) {
            return GD_ENOMEM;
        }
        for (size_t i = 0; i < count; i++) {
            rounded[i] = bf16_of(host[i]);
        }
        src = rounded;
    }
    int rc = cuda_result(cuda,
                         cudaMemcpyAsync(r->data, src, count * type_bytes(r->type),
                                         cudaMemcpyHostToDevice, cuda->stream),
                         "writing rows");
    int waited = cuda_result(cuda, cudaStreamSynchronize(cuda->stream), "writing rows");
    free(rounded);
    return rc != GD_OK ? rc : waited;
}

/* ---- loading ---- */

/* A pinned buffer that nothing is copied from any more. NULL: the device is lost. */
static struct cuda_stage *stage_take(struct cuda_backend *cuda)
{
    struct cuda_stage *s = &cuda->stages[cuda->stage];
    cuda->stage = (cuda->stage + 1) % CUDA_STAGES;
    if (s->in_use &&
        cuda_result(cuda, cudaEventSynchronize(s->done), "copying to the device") != GD_OK) {
        return NULL;
    }
    s->in_use = false;
    return s;
}

static int stage_send(struct cuda_backend *cuda, struct cuda_stage *s, void *dst, size_t nbytes)
{
    int rc = cuda_result(
        cuda, cudaMemcpyAsync(dst, s->host, nbytes, cudaMemcpyHostToDevice, cuda->stream),
        "copying to the device");
    if (rc == GD_OK) {
        rc = cuda_result(cuda, cudaEventRecord(s->done, cuda->stream), "copying to the device");
    }
    s->in_use = rc == GD_OK;
    return rc;
}

static void round_to_bf16(enum gd_dtype dtype, const char *from, size_t n, gdk_bf16 *to)
{
    float x[256];
    size_t some = sizeof x / sizeof x[0];
    for (size_t at = 0; at < n; at += some) {
        some = n - at < some ? n - at : some;
        gdk_to_f32_cpu(some, dtype, from + at * gdk_dtype_bytes(dtype), x);
        for (size_t i = 0; i < some; i++) {
            to[at + i] = bf16_of(x[i]);
        }
    }
}

/* n numbers of the given type, rounded to bf16, to the device. Queued; src is not kept. */
static int upload_bf16(struct cuda_backend *cuda, enum gd_dtype dtype, const void *src, size_t n,
                       gdk_bf16 *dst)
{
    const size_t piece_max = CUDA_STAGE_BYTES / sizeof(gdk_bf16);
    size_t element = gdk_dtype_bytes(dtype);
    int rc = GD_OK;
    for (size_t at = 0; at < n && rc == GD_OK; at += piece_max) {
        size_t piece = n - at < piece_max ? n - at : piece_max;
        const char *from = (const char *)src + at * element;
        struct cuda_stage *s = stage_take(cuda);
        if (s == NULL) {
            return GD_EBACKEND;
        }
        gdk_bf16 *to = s->host;
        if (dtype == GD_DTYPE_BF16) {
            memcpy(to, from, piece * sizeof *to);
        } else {
            round_to_bf16(dtype, from, piece, to);
        }
        rc = stage_send(cuda, s, dst + at, piece * sizeof *to);
    }
    return rc;
}

static int upload_f32(struct cuda_backend *cuda, const float *src, size_t n, float *dst)
{
    const size_t piece_max = CUDA_STAGE_BYTES / sizeof(float);
    int rc = GD_OK;
    for (size_t at = 0; at < n && rc == GD_OK; at += piece_max) {
        size_t piece = n - at < piece_max ? n - at : piece_max;
        struct cuda_stage *s = stage_take(cuda);
        if (s == NULL) {
            return GD_EBACKEND;
        }
        memcpy(s->host, src + at, piece * sizeof *src);
        rc = stage_send(cuda, s, dst + at, piece * sizeof *src);
    }
    return rc;
}

struct gd_vector *cuda_vector_load(struct gd_backend *be, uint32_t n, const float *values)
{
    struct cuda_backend *cuda = cuda_of(be);
    struct gd_vector *v = calloc(1, sizeof *v);
    if (v == NULL) {
        return NULL;
    }
    v->data = device_alloc(cuda, n * sizeof *values);
    if (v->data == NULL || upload_f32(cuda, values, n, v->data) != GD_OK) {
        cuda_vector_free(be, v);
        return NULL;
    }
    return v;
}

void cuda_vector_free(struct gd_backend *be, struct gd_vector *v)
{
    if (v != NULL) {
        cuda_forget_graphs(cuda_of(be));
        device_free(cuda_of(be), v->data);
        free(v);
    }
}

uint64_t cuda_weight_bytes(struct gd_backend *be, uint32_t n, uint32_t k)
{
    uint64_t numbers = (uint64_t)n * k;
    uint64_t per_row = (uint64_t)n * (sizeof(gdk_bf16) + sizeof(float)); /* bias and scale */
    return numbers * (cuda_of(be)->fp8 ? sizeof(gdk_e4m3) : sizeof(gdk_bf16)) + per_row;
}

/* The weight's rows on the device: as they are, or quantised from wide_rows. */
static int load_rows(struct cuda_backend *cuda, struct gd_weight *w, enum gd_dtype dtype,
                     const void *rows)
{
    struct gdk_cuda_matrix *m = &w->m;
    size_t n = (size_t)m->n * m->k;
    if (!cuda->fp8) {
        return upload_bf16(cuda, dtype, rows, n, m->data);
    }
    if (cuda->wide_rows_bytes < n * sizeof(gdk_bf16)) {
        cuda_wide_rows_free(cuda);
        cuda->wide_rows = device_alloc(cuda, n * sizeof(gdk_bf16));
        if (cuda->wide_rows == NULL) {
            return GD_ENOMEM;
        }
        cuda->wide_rows_bytes = n * sizeof(gdk_bf16);
    }
    int rc = upload_bf16(cuda, dtype, rows, n, cuda->wide_rows);
    return rc != GD_OK ? rc
                       : cuda_result(cuda,
                                     gdk_quantize_cuda(cuda->stream, m->n, m->k, m->k,
                                                       cuda->wide_rows, m->data, m->scales),
                                     "quantising a weight");
}

void cuda_wide_rows_free(struct cuda_backend *cuda)
{
    if (cuda->wide_rows == NULL) {
        return;
    }
    /* The last weight may still be read from there. */
    cuda_result(cuda, cudaStreamSynchronize(cuda->stream), "quantising a weight");
    device_free(cuda, cuda->wide_rows);
    cuda->wide_rows = NULL;
    cuda->wide_rows_bytes = 0;
}

static int weight_alloc(struct cuda_backend *cuda, struct gd_weight *w, bool has_bias)
{
    struct gdk_cuda_matrix *m = &w->m;
    size_t number = cuda->fp8 ? sizeof(gdk_e4m3) : sizeof(gdk_bf16);
    m->data = device_alloc(cuda, (size_t)m->n * m->k * number);
    if (m->data != NULL && cuda->fp8) {
        m->scales = device_alloc(cuda, m->n * sizeof(float));
    }
    if (m->data != NULL && has_bias) {
        m->bias = device_alloc(cuda, m->n * sizeof(gdk_bf16));
    }
    w->nbytes = cuda_weight_bytes(&cuda->base, m->n, m->k);
    return m->data != NULL && (!cuda->fp8 || m->scales != NULL) && (!has_bias || m->bias != NULL)
               ? GD_OK
               : GD_ENOMEM;
}

static int check_weight(const struct cuda_backend *cuda, uint32_t n, uint32_t k,
                        enum gd_dtype dtype, struct gd_err *err)
{
    uint32_t multiple = cuda->fp8 ? 16 : 8;
    if (n == 0 || k == 0 || gdk_dtype_bytes(dtype) == 0) {
        return gd_err_set(err, GD_EUSAGE, "a weight of %u x %u of this type cannot be packed", n,
                          k);
    }
    if (n % multiple != 0 || k % multiple != 0 || (cuda->fp8 && k > GDK_CUDA_QUANTIZE_DIM_MAX)) {
        return gd_err_set(err, GD_EUSAGE,
                          "a weight of %u x %u cannot be multiplied in %s on a GPU: both numbers "
                          "must be multiples of %u%s",
                          n, k, cuda->base.gemm_dtype, multiple,
                          cuda->fp8 ? ", the second at most 65536" : "");
    }
    return GD_OK;
}

int cuda_weight_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                     const void *rows, const float *bias, struct gd_weight **out,
                     struct gd_err *err)
{
    struct cuda_backend *cuda = cuda_of(be);
    int rc = check_weight(cuda, n, k, dtype, err);
    if (rc != GD_OK) {
        return rc;
    }
    struct gd_weight *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for a weight of %u x %u", n, k);
    }
    w->m.n = n;
    w->m.k = k;
    rc = weight_alloc(cuda, w, bias != NULL);
    rc = rc != GD_OK ? rc : load_rows(cuda, w, dtype, rows);
    if (rc == GD_OK && bias != NULL) {
        rc = upload_bf16(cuda, GD_DTYPE_F32, bias, n, w->m.bias);
    }
    if (rc != GD_OK) {
        gd_err_set(err, rc, "a weight of %u x %u cannot be loaded: %s", n, k,
                   be->lost != NULL ? be->lost : "no device memory left");
    } else {
        rc = gdk_cuda_gemm_plan(cuda->gemm, &w->m, err);
    }
    be->weight_bytes_held += w->nbytes;
    if (rc != GD_OK) {
        cuda_weight_free(be, w);
        return rc;
    }
    *out = w;
    return GD_OK;
}

void cuda_weight_free(struct gd_backend *be, struct gd_weight *w)
{
    if (w != NULL) {
        struct cuda_backend *cuda = cuda_of(be);
        cuda_forget_graphs(cuda);
        be->weight_bytes_held -= w->nbytes;
        device_free(cuda, w->m.data);
        device_free(cuda, w->m.scales);
        device_free(cuda, w->m.bias);
        free(w);
    }
}

uint64_t cuda_table_bytes(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype)
{
    (void)be;
    (void)dtype;
    return (uint64_t)n * k * sizeof(gdk_bf16);
}

int cuda_table_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype, void *rows,
                    struct gd_table **out, struct gd_err *err)
{
    struct cuda_backend *cuda = cuda_of(be);
    struct gd_table *t = NULL;
    int rc = GD_OK;
    if (n == 0 || gdk_dtype_bytes(dtype) == 0 || k == 0 || k % 8 != 0) {
        rc = gd_err_set(err, GD_EUSAGE,
                        "a table of %u x %u of this type cannot be read on a GPU: the second "
                        "number must be a multiple of 8",
                        n, k);
    } else {
        t = calloc(1, sizeof *t);
        if (t != NULL) {
            *t = (struct gd_table){.n = n, .k = k};
            be->weight_bytes_held += cuda_table_bytes(be, n, k, dtype);
            t->rows = device_alloc(cuda, (size_t)cuda_table_bytes(be, n, k, dtype));
        }
        rc = t == NULL || t->rows == NULL ? GD_ENOMEM
                                          : upload_bf16(cuda, dtype, rows, (size_t)n * k, t->rows);
        if (rc != GD_OK) {
            gd_err_set(err, rc, "a table of %u x %u cannot be loaded: %s", n, k,
                       be->lost != NULL ? be->lost : "no device memory left");
            cuda_table_free(be, t);
        }
    }
    free(rows);
    if (rc == GD_OK) {
        *out = t;
    }
    return rc;
}

void cuda_table_free(struct gd_backend *be, struct gd_table *t)
{
    if (t != NULL) {
        cuda_forget_graphs(cuda_of(be));
        be->weight_bytes_held -= cuda_table_bytes(be, t->n, t->k, GD_DTYPE_BF16);
        device_free(cuda_of(be), t->rows);
        free(t);
    }
}

/* ---- the paged cache ---- */

static bool kv_knows(const struct gd_attn_shape *s)
{
    return (s->head_dim == 64 || s->head_dim == 96 || s->head_dim == 128) && s->n_kv_heads > 0 &&
           s->n_heads % s->n_kv_heads == 0;
}

uint64_t cuda_kv_block_bytes(struct gd_backend *be, const struct gd_attn_shape *s)
{
    (void)be;
    return kv_knows(s)
               ? (uint64_t)2 * s->n_kv_heads * GD_KV_BLOCK_TOKENS * s->head_dim * sizeof(gdk_bf16)
               : 0;
}

int cuda_kv_open(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                 const struct gd_attn_shape *s, const struct gd_rope *rope, struct gd_kv **out,
                 struct gd_err *err)
{
    struct cuda_backend *cuda = cuda_of(be);
    size_t block = (size_t)cuda_kv_block_bytes(be, s), blocks = 0, nbytes = 0;
    if (n_layers == 0 || n_blocks == 0 || block == 0) {
        return gd_err_set(err, GD_EUSAGE,
                          "no KV cache of %u layers, %u blocks, %u of %u heads of %u: attention on "
                          "a GPU knows heads of 64, 96 and 128",
                          n_layers, n_blocks, s->n_kv_heads, s->n_heads, s->head_dim);
    }
    struct gd_kv *kv = calloc(1, sizeof *kv);
    size_t table = (size_t)rope->n_positions * s->head_dim;
    float *rope_table = malloc(table * sizeof *rope_table + 1);
    int rc = kv != NULL && rope_table != NULL ? GD_OK : GD_ENOMEM;
    if (rc == GD_OK && gd_mul(n_layers, n_blocks, &blocks) && gd_mul(blocks, block, &nbytes)) {
        kv->data = device_alloc(cuda, nbytes);
        kv->rope = device_alloc(cuda, table * sizeof *kv->rope);
    }
    if (rc == GD_OK && (kv->data == NULL || kv->rope == NULL)) {
        rc = GD_ENOMEM;
    }
    if (rc == GD_OK) {
        gdk_rope_table_cpu(0, rope->n_positions, s->head_dim, rope->inv_freq, rope_table);
        rc = upload_f32(cuda, rope_table, table, kv->rope);
    }
    free(rope_table);
    if (rc != GD_OK) {
        cuda_kv_close(be, kv);
        return gd_err_set(err, rc, "no device memory for a KV cache of %u blocks", n_blocks);
    }
    kv->n_layers = n_layers;
    kv->n_blocks = n_blocks;
    kv->n_positions = rope->n_positions;
    kv->block = block / sizeof(gdk_bf16);
    kv->shape = (struct gdk_cuda_shape){.n_heads = s->n_heads,
                                        .n_kv_heads = s->n_kv_heads,
                                        .head_dim = s->head_dim,
                                        .scale = s->scale};
    *out = kv;
    return GD_OK;
}

void cuda_kv_close(struct gd_backend *be, struct gd_kv *kv)
{
    if (kv != NULL) {
        cuda_forget_graphs(cuda_of(be));
        device_free(cuda_of(be), kv->data);
        device_free(cuda_of(be), kv->rope);
        free(kv);
    }
}
