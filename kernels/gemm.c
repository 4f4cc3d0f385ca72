/* gemm.c - matrix products: one interface to the two kinds.
 *
 * gemm_f32.c computes in fp32 with kernels of our own, on any CPU; gemm_bf16.c has oneDNN compute in
 * bf16, where the CPU has AMX. Either packs weights once at load, and either gives a row the same
 * bits wherever it stands and whoever its neighbours are; gdk_gemm_selftest checks that at start. */
#include "gemm_parts.h"

void *gemm_alloc(size_t nbytes)
{
    return aligned_alloc(64, (nbytes + 63) / 64 * 64 + 64);
}

void gdk_gemm_weight_free(struct gd_weight *w)
{
    if (w != NULL) {
        gemm_bf16_unload(w);
        free(w->packed);
        free(w->bias);
        free(w);
    }
}

size_t gdk_gemm_weight_bytes(const struct gd_weight *w)
{
    return w->nbytes;
}

size_t gdk_gemm_plan_bytes(const struct gdk_gemm *g, uint32_t n, uint32_t k)
{
    return g->bf16 ? gemm_bf16_bytes(n, k) : gemm_f32_bytes(n, k);
}

int gdk_gemm_weight_load(struct gdk_gemm *g, uint32_t n, uint32_t k, enum gd_dtype dtype,
                         const void *rows, const float *bias, struct gd_weight **out,
                         struct gd_err *err)
{
    if (n == 0 || k == 0 || gdk_dtype_bytes(dtype) == 0) {
        return gd_err_set(err, GD_EUSAGE, "a weight of %u x %u of this type cannot be packed", n,
                          k);
    }
    struct gd_weight *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for a weight of %u x %u", n, k);
    }
    w->n = n;
    w->k = k;
    int rc = GD_OK;
    if (bias != NULL) {
        w->bias = gemm_alloc(n * sizeof *bias);
        if (w->bias == NULL) {
            rc = gd_err_set(err, GD_ENOMEM, "no memory for a bias of %u", n);
        } else {
            memcpy(w->bias, bias, n * sizeof *bias);
        }
    }
    if (rc == GD_OK) {
        rc = g->bf16 ? gemm_bf16_load(g, w, dtype, rows, err) : gemm_f32_load(w, dtype, rows, err);
    }
    if (rc != GD_OK) {
        gdk_gemm_weight_free(w);
        return rc;
    }
    *out = w;
    return GD_OK;
}

int gdk_gemm_run(struct gdk_gemm *g, uint32_t rows, const float *a, const struct gd_weight *w,
                 float *out)
{
    if (rows == 0) {
        return GD_OK;
    }
    if (g->bf16) {
        return gemm_bf16_run(g, rows, a, w, out);
    }
    gemm_f32_run(g, rows, a, w, out);
    return GD_OK;
}

void gdk_gemm_cpu(uint32_t begin, uint32_t end, uint32_t n, uint32_t k, const float *a,
                  const float *w, const float *bias, float *out)
{
    for (uint32_t r = begin; r < end; r++) {
        for (uint32_t c = 0; c < n; c++) {
            float sum = 0.0f;
            for (uint32_t i = 0; i < k; i++) {
                sum += a[(size_t)r * k + i] * w[(size_t)c * k + i];
            }
            out[(size_t)r * n + c] = bias != NULL ? sum + bias[c] : sum;
        }
    }
}

int gdk_gemm_open(struct gdk_gemm **out, struct gd_pool *pool, bool bf16, struct gd_err *err)
{
    struct gdk_gemm *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the matrix products");
    }
    g->pool = pool;
    g->n_threads = gd_pool_threads(pool);
    g->bf16 = bf16;
    int rc = bf16 ? gemm_bf16_open(g, err) : gemm_f32_open(g, err);
    if (rc != GD_OK) {
        gdk_gemm_close(g);
        return rc;
    }
    *out = g;
    return GD_OK;
}

void gdk_gemm_close(struct gdk_gemm *g)
{
    if (g != NULL) {
        gemm_bf16_close(g);
        free(g->copies);
        free(g);
    }
}
