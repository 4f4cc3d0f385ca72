/* backend_cuda_parts.h - what backend_cuda.c (operations, start and end), backend_cuda_step.c and
 * backend_cuda_memory.c (memory and loading) share. */
#ifndef GUARDIAN_BACKEND_CUDA_PARTS_H
#define GUARDIAN_BACKEND_CUDA_PARTS_H

#include "gemm_cuda.h"

#include "guardian/kernels.h"

#define CUDA_STAGES 2 /* pinned buffers between the host and the device */
#define CUDA_STAGE_BYTES (16 * GD_MIB)
#define CUDA_GRAPHS 48 /* recorded steps: row counts of small steps, scored or not */
#define CUDA_RESERVE_BYTES (256 * GD_MIB) /* of device memory, for the driver's own needs */

struct gd_vector {
    float *data;
};

struct gd_weight {
    struct gdk_cuda_matrix m;
    uint64_t nbytes;
};

struct gd_table {
    uint32_t n, k;
    gdk_bf16 *rows;
};

struct gd_kv {
    uint32_t n_layers, n_blocks, n_positions;
    struct gdk_cuda_shape shape;
    size_t block;   /* numbers of one block of one layer, K and V */
    gdk_bf16 *data; /* [n_layers, n_blocks, block] */
    float *rope;    /* [n_positions, head_dim] */
};

struct cuda_stage {
    void *host; /* [CUDA_STAGE_BYTES] pinned */
    cudaEvent_t done;
    bool in_use; /* until done */
};

/* Small steps of some row counts. Valid while nothing that the recording points to is freed. */
struct cuda_graph {
    const struct gd_kv *kv;
    uint32_t tokens, scored; /* rows */
    bool been_there;
    cudaGraphExec_t exec; /* NULL before it was recorded */
};

struct cuda_backend {
    struct gd_backend base; /* first: a gd_backend * is one of these */
    int index;
    bool fp8;
    cudaStream_t stream;
    struct gdk_cuda_gemm *gemm;
    char device[16], isa[16], name[256], lost[256];

    /* loading */
    struct cuda_stage stages[CUDA_STAGES];
    uint32_t stage;
    gdk_bf16 *wide_rows; /* device: a weight before it becomes FP8 */
    size_t wide_rows_bytes;

    /* the step under way */
    const struct gd_batch *batch;       /* of step_begin; the other one is the scored batch */
    struct gdk_cuda_batch on_device[2]; /* batch, scored */
    enum { STEP_NONE, STEP_DIRECT, STEP_RECORDING, STEP_RECORDED } step;
    int failed;                      /* first GD_E code of an operation */
    char *layout, *layout_on_device; /* the batches, pinned and on the device */
    size_t layout_bytes;
    struct gd_step_rows rows;
    const struct gd_kv *kv;
    struct cuda_graph graphs[CUDA_GRAPHS];
    uint32_t n_graphs;
    struct cuda_graph *graph; /* of the step under way, if it is small */

    /* choice_logits: pinned and on the device */
    struct gd_choice *choices, *choices_on_device; /* [GD_STEP_CHOICES_MAX] */
    float *logits, *logits_on_device;              /* [GD_STEP_CHOICES_MAX] */
};

static inline struct cuda_backend *cuda_of(struct gd_backend *be)
{
    return (struct cuda_backend *)be;
}

/* GD_OK, GD_ENOMEM where the device has no memory left, or GD_EBACKEND: then the device is lost, and
 * base.lost says in what. */
int cuda_result(struct cuda_backend *cuda, cudaError_t rc, const char *what);

/* backend_cuda_memory.c */
uint64_t cuda_memory_left(struct gd_backend *be);
struct gd_rows *cuda_rows_open(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                               uint32_t dim);
void cuda_rows_close(struct gd_backend *be, struct gd_rows *r);
uint64_t cuda_rows_bytes(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                         uint32_t dim);
int cuda_rows_read(struct gd_backend *be, const struct gd_rows *r, uint32_t n, uint32_t dim,
                   float *host);
int cuda_rows_write(struct gd_backend *be, struct gd_rows *r, uint32_t n, uint32_t dim,
                    const float *host);
struct gd_vector *cuda_vector_load(struct gd_backend *be, uint32_t n, const float *values);
void cuda_vector_free(struct gd_backend *be, struct gd_vector *v);
int cuda_weight_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                     const void *rows, const float *bias, struct gd_weight **out,
                     struct gd_err *err);
void cuda_weight_free(struct gd_backend *be, struct gd_weight *w);
int cuda_table_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype, void *rows,
                    struct gd_table **out, struct gd_err *err);
void cuda_table_free(struct gd_backend *be, struct gd_table *t);
uint64_t cuda_weight_bytes(struct gd_backend *be, uint32_t n, uint32_t k);
uint64_t cuda_table_bytes(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype);
int cuda_kv_open(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                 const struct gd_attn_shape *s, const struct gd_rope *rope, struct gd_kv **out,
                 struct gd_err *err);
void cuda_kv_close(struct gd_backend *be, struct gd_kv *kv);
uint64_t cuda_kv_block_bytes(struct gd_backend *be, const struct gd_attn_shape *s);
void cuda_wide_rows_free(struct cuda_backend *cuda); /* after the last weight */

/* backend_cuda_step.c */

/* Frees recorded steps: something that they point to goes away. */
void cuda_forget_graphs(struct cuda_backend *cuda);
int cuda_kv_open_for_steps(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                           const struct gd_attn_shape *s, const struct gd_rope *rope,
                           struct gd_kv **out, struct gd_err *err);
int cuda_kv_copy(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src);
int cuda_step_begin(struct gd_backend *be, const struct gd_kv *kv, const struct gd_batch *b,
                    const struct gd_batch *scored, bool watched, struct gd_step_rows *out);
int cuda_step_end(struct gd_backend *be);

#endif
