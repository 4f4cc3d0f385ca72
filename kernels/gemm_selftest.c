/* gemm_selftest.c - does a row keep its bits wherever it stands in a tile and whoever its
 * neighbours are?
 *
 * For bf16 that is a property of oneDNN's code for this CPU and not something it promises, so it is
 * tested at start with the very primitives that the loaded weights use. The fp32 kernels are ours,
 * but the compiler makes one for each number of rows: every position is tested, with columns, rows
 * and blocks of k that do not come out even. Numbers are pseudo-random: each row alone at position
 * 0, at another position among other rows, and at its own place among its own neighbours. */
#include "gemm_parts.h"

struct selftest {
    struct gdk_gemm *g;
    const struct gd_weight *w;
    uint32_t width; /* columns that are computed, of w->n */
    float *rows;    /* [TILE, k] */
    float *others;  /* [TILE, k] */
    float *want;    /* [1, n] */
    float *got;     /* [TILE, n] */
};

/* Pseudo-random values in -1..1; equal seeds give equal values. */
static void fill(float *dst, size_t n, uint32_t seed)
{
    uint32_t x = seed * 2654435761u + 1;
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        dst[i] = ((float)(x >> 8) - 8388608.0f) * 0x1p-23f;
    }
}

static int same_row(const struct selftest *t, uint32_t n_rows, const float *a, uint32_t row)
{
    int rc = gdk_gemm_run(t->g, n_rows, a, t->w, t->got);
    if (rc != GD_OK) {
        return rc;
    }
    const float *got = t->got + (size_t)row * t->w->n;
    return memcmp(got, t->want, t->width * sizeof *got) == 0 ? GD_OK : GD_EBACKEND;
}

static int check_row(const struct selftest *t, uint32_t row, uint32_t other)
{
    const float *src = t->rows + (size_t)row * t->w->k;
    int rc = gdk_gemm_run(t->g, 1, src, t->w, t->want);
    if (rc != GD_OK) {
        return rc;
    }
    fill(t->others, (size_t)TILE * t->w->k, 77 + other);
    memcpy(t->others + (size_t)other * t->w->k, src, t->w->k * sizeof *src);
    rc = same_row(t, TILE, t->others, other);
    rc = rc != GD_OK ? rc : same_row(t, other + 1, t->others, other);
    return rc != GD_OK ? rc : same_row(t, TILE, t->rows, row);
}

static int check_pair(const struct selftest *t, uint32_t row, uint32_t other, struct gd_err *err)
{
    int rc = check_row(t, row, other);
    if (rc != GD_OK) {
        return gd_err_set(err, rc,
                          "the %s product [%u, %u] x [%u, %u] does not give row %u the same "
                          "bits alone and at position %u: scores would not be reproducible",
                          t->g->bf16 ? "bf16" : "f32", TILE, t->w->k, t->w->k, t->width, row,
                          other);
    }
    return GD_OK;
}

static void selftest_free(struct selftest *t)
{
    free(t->rows);
    free(t->others);
    free(t->want);
    free(t->got);
}

static int selftest_alloc(struct selftest *t, struct gd_err *err)
{
    size_t k = t->w->k, n = t->w->n;
    t->rows = gemm_alloc(TILE * k * sizeof *t->rows);
    t->others = gemm_alloc(TILE * k * sizeof *t->others);
    t->want = gemm_alloc(n * sizeof *t->want);
    t->got = gemm_alloc(TILE * n * sizeof *t->got);
    if (t->rows == NULL || t->others == NULL || t->want == NULL || t->got == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory to test the matrix products");
    }
    fill(t->rows, TILE * k, 5);
    return GD_OK;
}

/* ---- bf16 ---- */

static int check_shape(struct gdk_gemm *g, struct gemm_shape *s, struct gd_err *err)
{
    static const uint32_t pairs[][2] = {{0, 63}, {1, 0}, {17, 30}, {40, 5}, {63, 46}};
    struct gemm_panel panel = {.shape = s};
    struct gd_weight w = {
        .n = s->ld, .k = s->k, .n_panels = 1, .width = s->width, .panels = &panel};
    struct selftest t = {.g = g, .w = &w, .width = s->width};
    int rc = selftest_alloc(&t, err);
    float *weights = gemm_alloc((size_t)s->width * s->k * sizeof *weights);
    if (rc == GD_OK && weights == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory to test the matrix products");
    }
    if (rc == GD_OK) {
        fill(weights, (size_t)s->width * s->k, 3);
        rc = gemm_panel_pack(g, &panel, weights, err);
    }
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0] && rc == GD_OK; i++) {
        rc = check_pair(&t, pairs[i][0], pairs[i][1], err);
    }
    gemm_panel_free(&panel);
    free(weights);
    selftest_free(&t);
    return rc;
}

static int load_random(struct gdk_gemm *g, uint32_t n, uint32_t k, struct gd_weight **out,
                       struct gd_err *err)
{
    float *rows = gemm_alloc((size_t)n * k * sizeof *rows);
    if (rows == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory to test the matrix products");
    }
    fill(rows, (size_t)n * k, 1);
    int rc = gdk_gemm_weight_load(g, n, k, GD_DTYPE_F32, rows, NULL, out, err);
    free(rows);
    return rc;
}

static int selftest_bf16(struct gdk_gemm *g, struct gd_err *err)
{
    /* Shapes for a machine on which no model is loaded. */
    static const uint32_t common[][2] = {{64, 64}, {192, 256}, {512, 384}, {100, 1000}};
    bool none = g->shapes == NULL;
    int rc = GD_OK;
    for (size_t i = 0; none && i < sizeof common / sizeof common[0] && rc == GD_OK; i++) {
        struct gd_weight *w = NULL;
        rc = load_random(g, common[i][0], common[i][1], &w, err);
        gdk_gemm_weight_free(w);
    }
    for (struct gemm_shape *s = g->shapes; s != NULL && rc == GD_OK; s = s->next) {
        rc = check_shape(g, s, err);
    }
    return rc;
}

/* ---- fp32 ---- */

static int check_f32(struct gdk_gemm *g, uint32_t n, uint32_t k, struct gd_err *err)
{
    struct gd_weight *w = NULL;
    int rc = load_random(g, n, k, &w, err);
    if (rc != GD_OK) {
        return rc;
    }
    struct selftest t = {.g = g, .w = w, .width = n};
    rc = selftest_alloc(&t, err);
    for (uint32_t row = 0; row < TILE && rc == GD_OK; row++) {
        rc = check_pair(&t, row, (row * 5 + 1) % TILE, err);
    }
    selftest_free(&t);
    gdk_gemm_weight_free(w);
    return rc;
}

int gdk_gemm_selftest(struct gdk_gemm *g, struct gd_err *err)
{
    if (g->bf16) {
        return selftest_bf16(g, err);
    }
    int rc = check_f32(g, 170, 40, err);
    rc = rc != GD_OK ? rc : check_f32(g, 64, 300, err);
    return rc != GD_OK ? rc : check_f32(g, 33, 800, err);
}
