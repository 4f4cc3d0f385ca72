/* gemm_parts.h - what gemm.c, gemm_f32.c, gemm_bf16.c, gemm_bf16_shape.c and gemm_selftest.c share:
 * packed weights; and for bf16 primitives and streams. */
#ifndef GUARDIAN_GEMM_PARTS_H
#define GUARDIAN_GEMM_PARTS_H

#include "guardian/kernels.h"

#include "guardian/arena.h"

#include <dnnl.h>

#define GEMM_F32_COLS 16u /* of a panel */
#define TILE 64u          /* rows of a bf16 product */

void omp_set_num_threads(int n); /* libgomp; its header is missing where clang is */

/* oneDNN 2 has descriptors as structs, oneDNN 3 as owned pointers. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t gemm_desc;
#define DESC_ARG(d) (d)
#else
typedef dnnl_memory_desc_t gemm_desc;
#define DESC_ARG(d) (&(d))
#endif

struct gemm_slot { /* of one thread: the memory objects whose pointers change with each call */
    dnnl_memory_t src, dst, scratch;
    void *scratch_data;
};

struct gemm_shape {
    struct gemm_shape *next;
    uint32_t k, width; /* [TILE, k] x [k, width] */
    uint32_t ld;       /* row stride of the result */
    dnnl_primitive_t primitive;
    gemm_desc src, weights, dst, scratch;
    size_t weight_bytes, scratch_bytes;
    struct gemm_slot *slots; /* [n_threads] */
};

struct gemm_panel {
    struct gemm_shape *shape;
    dnnl_memory_t memory;
    void *data;
};

struct gd_weight {
    uint32_t n, k;
    size_t nbytes;
    float *bias;   /* [n], or NULL */
    float *packed; /* fp32: [n / GEMM_F32_COLS, k, GEMM_F32_COLS] */
    /* bf16: */
    uint32_t n_panels;
    uint32_t width; /* of all panels but perhaps the last */
    struct gemm_panel *panels;
};

struct gdk_gemm {
    struct gd_pool *pool;
    uint32_t n_threads;
    bool bf16;
    /* fp32: */
    const struct gemm_f32_isa *f32; /* the kernels for this CPU */
    float *copies;                  /* scratch memory of the threads */
    /* bf16: */
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [n_threads] */
    struct gemm_shape *shapes;
    float *tail_in, *tail_out; /* the last tile of a product: [TILE, max k], [TILE, max n] */
    size_t tail_in_max, tail_out_max;
    uint16_t *rounded; /* all activations of a product as bf16 */
    size_t rounded_max;
};

/* 64-byte aligned; free() gives it back. */
void *gemm_alloc(size_t nbytes);

/* The functions of gdk_gemm_* for fp32. */
int gemm_f32_open(struct gdk_gemm *g, struct gd_err *err);
size_t gemm_f32_bytes(uint32_t n, uint32_t k);
int gemm_f32_load(struct gd_weight *w, enum gd_dtype dtype, const void *rows, struct gd_err *err);
void gemm_f32_run(struct gdk_gemm *g, uint32_t rows, const float *a, const struct gd_weight *w,
                  float *out);

/* And for bf16; close and unload are safe on what was never opened or loaded. */
int gemm_bf16_open(struct gdk_gemm *g, struct gd_err *err);
void gemm_bf16_close(struct gdk_gemm *g);
size_t gemm_bf16_bytes(uint32_t n, uint32_t k);
int gemm_bf16_load(struct gdk_gemm *g, struct gd_weight *w, enum gd_dtype dtype, const void *rows,
                   struct gd_err *err);
void gemm_bf16_unload(struct gd_weight *w);
int gemm_bf16_run(struct gdk_gemm *g, uint32_t rows, const float *a, const struct gd_weight *w,
                  float *out);

/* The primitive for [TILE, k] x [k, width] with rows of the result ld apart; made when it is new.
 */
int gemm_shape_get(struct gdk_gemm *g, uint32_t k, uint32_t width, uint32_t ld,
                   struct gemm_shape **out, struct gd_err *err);
void gemm_shape_free(struct gemm_shape *s, uint32_t n_threads);

/* Packs rows[width, k] fp32 into memory of the panel's own; panel->shape is set. */
int gemm_panel_pack(struct gdk_gemm *g, struct gemm_panel *panel, float *rows, struct gd_err *err);
void gemm_panel_free(struct gemm_panel *panel);

#endif
