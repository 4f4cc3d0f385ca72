/* backend_cuda.c - the table of operations of backend.h for an NVIDIA GPU: plain C over the CUDA
 * runtime; the kernels are in kernels/<op>.cu, the products in gemm_cuda.c.
 *
 * One stream carries everything in order. A failing call means that the device is lost: nothing after
 * it can be trusted. lost says why, and every later operation fails. */
#include "backend_cuda_parts.h"

#include "guardian/arena.h"

#include <stdio.h>

int cuda_result(struct cuda_backend *cuda, cudaError_t rc, const char *what)
{
    if (rc == cudaSuccess) {
        return cuda->base.lost == NULL ? GD_OK : GD_EBACKEND;
    }
    if (cuda->base.lost == NULL) {
        const char *refused = cuda->gemm != NULL ? gdk_cuda_gemm_why(cuda->gemm) : "";
        bool by_cublaslt = rc == cudaErrorUnknown && refused[0] != '\0';
        const char *why = by_cublaslt ? refused : cudaGetErrorString(rc);
        snprintf(cuda->lost, sizeof cuda->lost, "%s is lost: %s (%s)", cuda->device, why, what);
        cuda->base.lost = cuda->lost;
    }
    return GD_EBACKEND;
}

/* Keeps the first failure of a step. */
static int op_result(struct gd_backend *be, cudaError_t rc, const char *what)
{
    struct cuda_backend *cuda = cuda_of(be);
    int e = cuda_result(cuda, rc, what);
    cuda->failed = cuda->failed != GD_OK ? cuda->failed : e;
    return e;
}

/* ---- operations ---- */

static const struct gdk_cuda_batch *on_device(struct gd_backend *be, const struct gd_batch *b)
{
    struct cuda_backend *cuda = cuda_of(be);
    return &cuda->on_device[b == cuda->batch ? 0 : 1];
}

static struct gdk_cuda_out out_of(struct gd_rows *r)
{
    return (struct gdk_cuda_out){
        .data = r->data, .scales = r->scales, .type = (enum gdk_type)r->type};
}

static int cuda_embed(struct gd_backend *be, const struct gd_batch *b, const struct gd_table *t,
                      struct gd_rows *out)
{
    return op_result(
        be, gdk_embed_cuda(cuda_of(be)->stream, on_device(be, b), t->k, t->rows, out->data),
        "embedding");
}

static int cuda_add_rmsnorm(struct gd_backend *be, uint32_t rows, uint32_t dim, struct gd_rows *x,
                            const struct gd_rows *delta, const struct gd_vector *weight, float eps,
                            struct gd_rows *out)
{
    return op_result(be,
                     gdk_add_rmsnorm_cuda(cuda_of(be)->stream, rows, dim, x->data,
                                          delta != NULL ? delta->data : NULL, weight->data, eps,
                                          out_of(out)),
                     "norm");
}

static int cuda_gemm(struct gd_backend *be, uint32_t rows, const struct gd_rows *a,
                     const struct gd_weight *w, struct gd_rows *out)
{
    if (rows == 0) {
        return GD_OK;
    }
    return op_result(
        be, gdk_cuda_gemm_run(cuda_of(be)->gemm, rows, a->data, a->scales, &w->m, out->data),
        "a product");
}

static int cuda_rope_kv(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                        struct gd_kv *kv, uint32_t layer)
{
    if (layer >= kv->n_layers) {
        cuda_of(be)->failed = GD_EBACKEND;
        return GD_EBACKEND;
    }
    return op_result(be,
                     gdk_rope_kv_cuda(cuda_of(be)->stream, on_device(be, b), &kv->shape, kv->rope,
                                      qkv->data, kv->data + layer * kv->n_blocks * kv->block),
                     "rope");
}

/* For FP8 the result takes the place of Q, then goes to `out` quantised. */
static int cuda_attention(struct gd_backend *be, const struct gd_batch *b, struct gd_rows *qkv,
                          const struct gd_kv *kv, uint32_t layer, struct gd_rows *out)
{
    struct cuda_backend *cuda = cuda_of(be);
    const struct gdk_cuda_batch *batch = on_device(be, b);
    const struct gdk_cuda_shape *s = &kv->shape;
    uint32_t dim = s->n_heads * s->head_dim;
    uint32_t stride = dim + 2 * s->n_kv_heads * s->head_dim;
    if (layer >= kv->n_layers) {
        cuda->failed = GD_EBACKEND;
        return GD_EBACKEND;
    }
    bool fp8 = out->type == GDK_E4M3;
    int rc = op_result(be,
                       gdk_attention_cuda(cuda->stream, batch, s, qkv->data,
                                          kv->data + layer * kv->n_blocks * kv->block,
                                          fp8 ? qkv->data : out->data, fp8 ? stride : dim),
                       "attention");
    if (rc == GD_OK && fp8) {
        rc = op_result(be,
                       gdk_quantize_cuda(cuda->stream, batch->n_rows, dim, stride, qkv->data,
                                         out->data, out->scales),
                       "quantising attention");
    }
    return rc;
}

static int cuda_swiglu(struct gd_backend *be, uint32_t rows, uint32_t ffn,
                       const struct gd_rows *gate_up, struct gd_rows *out)
{
    return op_result(
        be, gdk_swiglu_cuda(cuda_of(be)->stream, rows, ffn, gate_up->data, out_of(out)), "swiglu");
}

static int cuda_gather_rows(struct gd_backend *be, const struct gd_batch *b, uint32_t dim,
                            const struct gd_rows *src, struct gd_rows *dst)
{
    uint32_t row_bytes = dim * (src->type == GDK_F32 ? 4u : 2u);
    return op_result(be,
                     gdk_gather_rows_cuda(cuda_of(be)->stream, on_device(be, b), row_bytes,
                                          src->data, dst->data),
                     "gathering rows");
}

static int cuda_choice_logits(struct gd_backend *be, uint32_t n, const struct gd_choice *choices,
                              uint32_t dim, const struct gd_rows *hidden, const struct gd_table *t,
                              float *logits)
{
    struct cuda_backend *cuda = cuda_of(be);
    if (n > GD_STEP_CHOICES_MAX) {
        return GD_EUSAGE;
    }
    memcpy(cuda->choices, choices, n * sizeof *choices);
    cudaError_t rc = cudaSetDevice(cuda->index);
    if (rc == cudaSuccess) {
        rc = cudaMemcpyAsync(cuda->choices_on_device, cuda->choices, n * sizeof *choices,
                             cudaMemcpyHostToDevice, cuda->stream);
    }
    if (rc == cudaSuccess) {
        rc = gdk_choice_logits_cuda(cuda->stream, n, cuda->choices_on_device, dim, hidden->data,
                                    t->rows, cuda->logits_on_device);
    }
    if (rc == cudaSuccess) {
        rc = cudaMemcpyAsync(cuda->logits, cuda->logits_on_device, n * sizeof *logits,
                             cudaMemcpyDeviceToHost, cuda->stream);
    }
    cudaError_t waited = cudaStreamSynchronize(cuda->stream);
    int e = cuda_result(cuda, rc != cudaSuccess ? rc : waited, "choice logits");
    if (e == GD_OK) {
        memcpy(logits, cuda->logits, n * sizeof *logits);
    }
    return e;
}

static int cuda_selftest(struct gd_backend *be, uint32_t rows_max, struct gd_err *err)
{
    struct cuda_backend *cuda = cuda_of(be);
    cuda_wide_rows_free(cuda); /* weights are loaded by now */
    cuda_forget_graphs(cuda);
    int rc = gdk_cuda_gemm_select(cuda->gemm, rows_max, err);
    return rc != GD_OK || be->lost == NULL ? rc : gd_err_set(err, GD_EBACKEND, "%s", be->lost);
}

/* ---- start and end ---- */

static void cuda_close(struct gd_backend *be)
{
    struct cuda_backend *cuda = cuda_of(be);
    cuda_forget_graphs(cuda);
    gdk_cuda_gemm_close(cuda->gemm);
    cuda_wide_rows_free(cuda);
    for (uint32_t i = 0; i < CUDA_STAGES; i++) {
        if (cuda->stages[i].done != NULL) {
            cudaEventDestroy(cuda->stages[i].done);
        }
    }
    void *pinned[] = {cuda->stages[0].host, cuda->stages[1].host, cuda->layout, cuda->choices,
                      cuda->logits};
    void *device[] = {cuda->layout_on_device, cuda->choices_on_device, cuda->logits_on_device};
    for (size_t i = 0; i < sizeof pinned / sizeof pinned[0]; i++) {
        if (pinned[i] != NULL) {
            cudaFreeHost(pinned[i]);
        }
    }
    for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
        if (device[i] != NULL) {
            cudaFree(device[i]);
        }
    }
    if (cuda->stream != NULL) {
        cudaStreamDestroy(cuda->stream);
    }
    free(cuda);
}

static const struct gd_backend_ops CUDA_OPS = {
    .close = cuda_close,
    .memory_left = cuda_memory_left,
    .rows_open = cuda_rows_open,
    .rows_close = cuda_rows_close,
    .rows_bytes = cuda_rows_bytes,
    .rows_read = cuda_rows_read,
    .rows_write = cuda_rows_write,
    .vector_load = cuda_vector_load,
    .vector_free = cuda_vector_free,
    .weight_load = cuda_weight_load,
    .weight_free = cuda_weight_free,
    .table_load = cuda_table_load,
    .table_free = cuda_table_free,
    .weight_bytes = cuda_weight_bytes,
    .table_bytes = cuda_table_bytes,
    .kv_open = cuda_kv_open_for_steps,
    .kv_close = cuda_kv_close,
    .kv_block_bytes = cuda_kv_block_bytes,
    .selftest = cuda_selftest,
    .kv_copy = cuda_kv_copy,
    .step_begin = cuda_step_begin,
    .step_end = cuda_step_end,
    .embed = cuda_embed,
    .add_rmsnorm = cuda_add_rmsnorm,
    .gemm = cuda_gemm,
    .rope_kv = cuda_rope_kv,
    .attention = cuda_attention,
    .swiglu = cuda_swiglu,
    .gather_rows = cuda_gather_rows,
    .choice_logits = cuda_choice_logits,
};

/* What is wrong with this machine for us, in one sentence; or the device's properties. */
static int find_device(uint32_t index, bool fp8, struct cudaDeviceProp *prop, struct gd_err *err)
{
    int n = 0, driver = 0, runtime = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        return gd_err_set(err, GD_ENOTFOUND,
                          "no NVIDIA driver on this machine: install one, or use --device cpu");
    }
    if (rc == cudaErrorInsufficientDriver) {
        return gd_err_set(err, GD_EBACKEND,
                          "the NVIDIA driver knows CUDA %d.%d and this build needs %d.%d: update "
                          "the driver, or use --device cpu",
                          driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (rc == cudaErrorNoDevice || (rc == cudaSuccess && n == 0)) {
        return gd_err_set(err, GD_ENOTFOUND,
                          "no CUDA device: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
                          "--device cpu");
    }
    if (rc != cudaSuccess) {
        return gd_err_set(err, GD_EBACKEND, "CUDA cannot be used: %s", cudaGetErrorString(rc));
    }
    if (index >= (uint32_t)n) {
        return gd_err_set(err, GD_EBACKEND, "there is no device cuda:%u: the last one is cuda:%d",
                          index, n - 1);
    }
    rc = cudaGetDeviceProperties(prop, (int)index);
    if (rc != cudaSuccess) {
        return gd_err_set(err, GD_EBACKEND, "cuda:%u cannot be used: %s", index,
                          cudaGetErrorString(rc));
    }
    if (prop->major < 8) {
        return gd_err_set(err, GD_EBACKEND,
                          "cuda:%u (%s) has compute capability %d.%d and 8.0 is needed: use a "
                          "newer GPU, or --device cpu",
                          index, prop->name, prop->major, prop->minor);
    }
    if (fp8 && (prop->major != 9 || prop->minor != 0)) {
        return gd_err_set(err, GD_EBACKEND,
                          "cuda:%u (%s) has compute capability %d.%d and FP8 products with one "
                          "scale a row need 9.0: use --dtype bf16",
                          index, prop->name, prop->major, prop->minor);
    }
    return GD_OK;
}

/* Steps of 16 tokens a multiprocessor fill an H200 evenly: 2112 of its 132. */
static uint32_t step_tokens_of(const struct cudaDeviceProp *prop)
{
    uint32_t n = 16 * (uint32_t)prop->multiProcessorCount / 64 * 64;
    return n < 64 ? 64 : n > GD_STEP_TOKENS_MAX ? GD_STEP_TOKENS_MAX : n;
}

static int open_memory(struct cuda_backend *cuda, struct gd_err *err)
{
    cudaError_t rc = cudaSetDevice(cuda->index);
    rc = rc != cudaSuccess ? rc : cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
    for (uint32_t i = 0; i < CUDA_STAGES && rc == cudaSuccess; i++) {
        rc = cudaMallocHost(&cuda->stages[i].host, CUDA_STAGE_BYTES);
        rc = rc != cudaSuccess ? rc : cudaEventCreate(&cuda->stages[i].done);
    }
    struct {
        void **host, **device;
        size_t nbytes;
    } pairs[] = {{(void **)&cuda->choices, (void **)&cuda->choices_on_device,
                  GD_STEP_CHOICES_MAX * sizeof *cuda->choices},
                 {(void **)&cuda->logits, (void **)&cuda->logits_on_device,
                  GD_STEP_CHOICES_MAX * sizeof *cuda->logits}};
    for (size_t i = 0; i < 2 && rc == cudaSuccess; i++) {
        rc = cudaMallocHost(pairs[i].host, pairs[i].nbytes);
        rc = rc != cudaSuccess ? rc : cudaMalloc(pairs[i].device, pairs[i].nbytes);
    }
    if (rc != cudaSuccess) {
        return gd_err_set(err, rc == cudaErrorMemoryAllocation ? GD_ENOMEM : GD_EBACKEND,
                          "%s cannot be used: %s", cuda->device, cudaGetErrorString(rc));
    }
    return GD_OK;
}

int gd_backend_cuda_open(struct gd_backend **out, uint32_t index, bool fp8, struct gd_err *err)
{
    struct cudaDeviceProp prop;
    int rc = find_device(index, fp8, &prop, err);
    if (rc != GD_OK) {
        return rc;
    }
    struct cuda_backend *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the CUDA back end");
    }
    cuda->index = (int)index;
    cuda->fp8 = fp8;
    snprintf(cuda->device, sizeof cuda->device, "cuda:%u", index);
    snprintf(cuda->isa, sizeof cuda->isa, "sm_%d%d", prop.major, prop.minor);
    snprintf(cuda->name, sizeof cuda->name, "%.*s", (int)sizeof prop.name - 1, prop.name);
    cuda->base = (struct gd_backend){.ops = &CUDA_OPS,
                                     .device = cuda->device,
                                     .isa = cuda->isa,
                                     .gemm_dtype = fp8 ? "fp8" : "bf16",
                                     .name = cuda->name,
                                     .n_threads = 1,
                                     .step_tokens = step_tokens_of(&prop),
                                     .kv_share = 0.9,
                                     .kv_bytes_max = UINT64_MAX};
    const struct gdk_cuda_gemm_options opt = {.fp8 = fp8};
    rc = open_memory(cuda, err);
    rc = rc != GD_OK ? rc : gdk_cuda_gemm_open(&cuda->gemm, cuda->stream, &opt, err);
    if (rc != GD_OK) {
        cuda_close(&cuda->base);
        return rc;
    }
    *out = &cuda->base;
    return GD_OK;
}
