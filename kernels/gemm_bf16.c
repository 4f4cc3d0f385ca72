/* gemm_bf16.c - matrix products in bf16 by oneDNN, with the same bits for a row wherever it stands.
 *
 * Only where the CPU has AMX. oneDNN changes a row's bits with the number of rows and with its own
 * threading. So every product is cut into tiles of 64 rows (the last one padded with zeros through
 * a staging buffer) by panels of at most 192 columns that are chosen from n alone, and each tile x
 * panel is one call of a single-threaded primitive made once per (k, panel width, n). Our own pool
 * spreads the calls over threads; the tiles of a panel follow each other, so that its weights are
 * read from memory once. Weights are reordered at load into the layout the primitive asks for;
 * activations are rounded to bf16 first, to nearest even. gdk_gemm_selftest checks on the machine at
 * hand that position and neighbours do not change a row.
 *
 * oneDNN is built with OpenMP: omp_set_num_threads(1) holds for the calling thread only, so every
 * item says it. */
#include "gemm_parts.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PANEL 192u

/* Memory for at least n elements in place of old, whose contents are lost; NULL when there is none.
 */
static void *gemm_grow(void *old, size_t *max, size_t n, size_t elem)
{
    size_t nbytes = 0;
    if (n <= *max) {
        return old;
    }
    free(old);
    *max = 0;
    void *grown = gd_mul(n, elem, &nbytes) ? gemm_alloc(nbytes) : NULL;
    if (grown != NULL) {
        *max = n;
    }
    return grown;
}

static uint32_t panel_width(uint32_t n)
{
    uint32_t panels = (n + PANEL - 1) / PANEL;
    uint32_t width = (n + panels - 1) / panels;
    return (width + 63) / 64 * 64;
}

static uint32_t panel_count(uint32_t n)
{
    return (n + panel_width(n) - 1) / panel_width(n);
}

/* ---- weights ---- */

static int weight_panel(struct gdk_gemm *g, struct gd_weight *w, uint32_t i, enum gd_dtype dtype,
                        const void *rows, float *plain, struct gd_err *err)
{
    struct gemm_panel *p = &w->panels[i];
    uint32_t first = i * w->width;
    uint32_t width = w->n - first < w->width ? w->n - first : w->width;
    int rc = gemm_shape_get(g, w->k, width, w->n, &p->shape, err);
    if (rc != GD_OK) {
        return rc;
    }
    size_t offset = (size_t)first * w->k;
    gdk_to_f32_cpu((size_t)width * w->k, dtype,
                   (const char *)rows + offset * gdk_dtype_bytes(dtype), plain);
    w->nbytes += p->shape->weight_bytes;
    return gemm_panel_pack(g, p, plain, err);
}

int gemm_bf16_load(struct gdk_gemm *g, struct gd_weight *w, enum gd_dtype dtype, const void *rows,
                   struct gd_err *err)
{
    size_t n = w->n, k = w->k;
    w->width = panel_width(w->n);
    w->n_panels = panel_count(w->n);
    w->panels = calloc(w->n_panels, sizeof *w->panels);
    float *plain = gemm_alloc((size_t)w->width * k * sizeof *plain);
    g->tail_in = gemm_grow(g->tail_in, &g->tail_in_max, (size_t)TILE * k, sizeof(float));
    g->tail_out = gemm_grow(g->tail_out, &g->tail_out_max, (size_t)TILE * n, sizeof(float));
    int rc = GD_OK;
    if (w->panels == NULL || plain == NULL || g->tail_in == NULL || g->tail_out == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for a weight of %u x %u", w->n, w->k);
    }
    for (uint32_t i = 0; i < w->n_panels && rc == GD_OK; i++) {
        rc = weight_panel(g, w, i, dtype, rows, plain, err);
    }
    free(plain);
    return rc;
}

void gemm_bf16_unload(struct gd_weight *w)
{
    for (uint32_t i = 0; w->panels != NULL && i < w->n_panels; i++) {
        gemm_panel_free(&w->panels[i]);
    }
    free(w->panels);
}

size_t gemm_bf16_bytes(uint32_t n, uint32_t k)
{
    size_t rows = ((size_t)n + 63) / 64 * 64;
    size_t cols = ((size_t)k + 63) / 64 * 64;
    return rows * cols * sizeof(uint16_t) + panel_count(n) * (size_t)128;
}

/* ---- products ---- */

struct bf16_job {
    struct gdk_gemm *g;
    const struct gd_weight *w;
    const float *a;    /* [rows, k] */
    const float *bias; /* [n] or NULL */
    float *out;        /* [rows, n] */
    uint32_t rows, n_tiles;
    atomic_int failed; /* a dnnl_status_t */
};

/* fp32 to bf16, to nearest even; NaN stays NaN. */
GDK_CLONES static void round_bf16(size_t n, const float *restrict src, uint16_t *restrict dst)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &src[i], sizeof bits);
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
        uint32_t quiet = (bits >> 16) | 0x40u;
        dst[i] = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}

static const float *tile_rows(const struct bf16_job *job, uint32_t tile)
{
    bool tail = (tile + 1) * TILE > job->rows;
    return tail ? job->g->tail_in : job->a + (size_t)tile * TILE * job->w->k;
}

static void round_item(void *ctx, uint32_t tile, uint32_t thread)
{
    (void)thread;
    struct bf16_job *job = ctx;
    size_t n = (size_t)TILE * job->w->k;
    round_bf16(n, tile_rows(job, tile), job->g->rounded + tile * n);
}

static void bf16_item(void *ctx, uint32_t item, uint32_t thread)
{
    struct bf16_job *job = ctx;
    struct gdk_gemm *g = job->g;
    const struct gd_weight *w = job->w;
    uint32_t tile = item % job->n_tiles;
    uint32_t col = item / job->n_tiles * w->width;
    const struct gemm_panel *panel = &w->panels[item / job->n_tiles];
    const struct gemm_shape *s = panel->shape;
    const struct gemm_slot *slot = &s->slots[thread];

    /* oneDNN takes a pointer to what it only reads as void *; the union avoids casting const away.
     */
    union {
        const void *read;
        void *arg;
    } src = {.read = g->rounded + (size_t)tile * TILE * w->k};
    uint32_t first = tile * TILE;
    bool tail = first + TILE > job->rows;
    uint32_t n_rows = tail ? job->rows - first : TILE;
    float *rows = job->out + (size_t)first * w->n + col;
    float *dst = tail ? g->tail_out + col : rows;

    omp_set_num_threads(1);
    dnnl_status_t st = dnnl_memory_set_data_handle(slot->src, src.arg);
    st = st != dnnl_success ? st : dnnl_memory_set_data_handle(slot->dst, dst);
    if (st == dnnl_success) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, slot->src},
                                        {DNNL_ARG_WEIGHTS, panel->memory},
                                        {DNNL_ARG_DST, slot->dst},
                                        {DNNL_ARG_SCRATCHPAD, slot->scratch}};
        st = dnnl_primitive_execute(s->primitive, g->streams[thread], 4, args);
        st = st != dnnl_success ? st : dnnl_stream_wait(g->streams[thread]);
    }
    if (st != dnnl_success) {
        atomic_store(&job->failed, (int)st);
        return;
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        float *row = rows + (size_t)r * w->n;
        if (tail) {
            memcpy(row, dst + (size_t)r * w->n, s->width * sizeof *row);
        }
        for (uint32_t i = 0; job->bias != NULL && i < s->width; i++) {
            row[i] += job->bias[col + i];
        }
    }
}

int gemm_bf16_run(struct gdk_gemm *g, uint32_t rows, const float *a, const struct gd_weight *w,
                  float *out)
{
    struct bf16_job job = {.g = g,
                           .w = w,
                           .a = a,
                           .bias = w->bias,
                           .out = out,
                           .rows = rows,
                           .n_tiles = (rows + TILE - 1) / TILE};
    uint32_t n_tail = rows % TILE;
    if (n_tail != 0) {
        size_t used = (size_t)n_tail * w->k;
        memcpy(g->tail_in, a + (size_t)(rows - n_tail) * w->k, used * sizeof(float));
        memset(g->tail_in + used, 0, ((size_t)TILE * w->k - used) * sizeof(float));
    }
    size_t need = (size_t)job.n_tiles * TILE * w->k;
    g->rounded = gemm_grow(g->rounded, &g->rounded_max, need, sizeof(uint16_t));
    if (g->rounded == NULL) {
        return GD_ENOMEM;
    }
    gd_pool_run(g->pool, job.n_tiles, round_item, &job);
    gd_pool_run(g->pool, job.n_tiles * w->n_panels, bf16_item, &job);
    return atomic_load(&job.failed) == 0 ? GD_OK : GD_EBACKEND;
}

/* ---- start ---- */

bool gdk_gemm_amx_usable(void)
{
#if defined(__x86_64__)
    /* Linux grants the tile registers' state on request only: ARCH_REQ_XCOMP_PERM,
     * XFEATURE_XTILEDATA. It refuses where the CPU or the kernel has none. oneDNN reports AMX only
     * after this. */
    if (syscall(SYS_arch_prctl, 0x1023, 18) != 0) {
        return false;
    }
    int amx = (int)dnnl_cpu_isa_avx512_core_amx;
    return ((int)dnnl_get_effective_cpu_isa() & amx) == amx;
#else
    return false;
#endif
}

const char *gdk_gemm_isa(void)
{
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *name;
    } known[] = {{dnnl_cpu_isa_avx512_core_amx, "avx512_core_amx"},
                 {dnnl_cpu_isa_avx512_core_bf16, "avx512_core_bf16"},
                 {dnnl_cpu_isa_avx512_core_vnni, "avx512_core_vnni"},
                 {dnnl_cpu_isa_avx512_core, "avx512_core"},
                 {dnnl_cpu_isa_avx2, "avx2"},
                 {dnnl_cpu_isa_avx, "avx"},
                 {dnnl_cpu_isa_sse41, "sse41"}};
    int isa = (int)dnnl_get_effective_cpu_isa();
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if ((isa & (int)known[i].isa) == (int)known[i].isa) {
            return known[i].name; /* the best that is wholly there */
        }
    }
    return "generic";
}

int gemm_bf16_open(struct gdk_gemm *g, struct gd_err *err)
{
    omp_set_num_threads(1);
    g->streams = calloc(g->n_threads, sizeof *g->streams);
    dnnl_status_t st =
        g->streams == NULL ? dnnl_out_of_memory : dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    for (uint32_t t = 0; t < g->n_threads && st == dnnl_success; t++) {
        st = dnnl_stream_create(&g->streams[t], g->engine, dnnl_stream_default_flags);
    }
    if (st != dnnl_success) {
        return gd_err_set(err, GD_EBACKEND, "oneDNN does not start (status %d)", (int)st);
    }
    return GD_OK;
}

void gemm_bf16_close(struct gdk_gemm *g)
{
    while (g->shapes != NULL) {
        struct gemm_shape *s = g->shapes;
        g->shapes = s->next;
        gemm_shape_free(s, g->n_threads);
    }
    for (uint32_t t = 0; g->streams != NULL && t < g->n_threads; t++) {
        if (g->streams[t] != NULL) {
            dnnl_stream_destroy(g->streams[t]);
        }
    }
    free(g->streams);
    if (g->engine != NULL) {
        dnnl_engine_destroy(g->engine);
    }
    free(g->tail_in);
    free(g->tail_out);
    free(g->rounded);
}
