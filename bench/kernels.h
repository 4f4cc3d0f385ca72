/* kernels.h - what the parts of bench_kernels share. */
#ifndef BENCH_KERNELS_H
#define BENCH_KERNELS_H

#include "gpu.h"

struct shapes {
    uint32_t dim, ffn, vocab, gemm_rows_max, square;
    struct gdk_cuda_shape heads;
};

struct bench {
    struct gpu g;
    const struct shapes *s;
    const char *commit, *only;
    struct gd_json_writer w;
    double copy_gbs, tflops[2]; /* ceilings: of a copy, of bf16 and of FP8; 0: not known */
    struct gd_err *err;
};

static inline uint32_t qkv_dim(const struct shapes *s)
{
    return (s->heads.n_heads + 2 * s->heads.n_kv_heads) * s->heads.head_dim;
}

/* kernels_products.c: the members "ceilings" and "products" of the result. */
int measure_ceilings(struct bench *b);
int measure_products(struct bench *b);

#endif
