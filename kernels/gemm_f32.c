/* gemm_f32.c - matrix products in fp32.
 *
 * Weights lie in panels of 16 columns, [n / 16, k, 16], packed once at load; the last panel is
 * padded with zeros. A product is cut into items of a block of rows by a group of panels, enough of
 * them for all threads. Within an item k is taken in blocks, so that a panel's block stays in the
 * first-level cache while all rows of the item meet it; between blocks the sums rest in `out`, in
 * fp32 as in the registers. Every output is the sum over k in rising order in one accumulator of its
 * own, then the bias: its bits depend on its row and column alone, whatever the number of rows and
 * threads. Few rows are computed by kernels for few rows that take several panels at a time. */
#include "gemm_parts.h"

#include <sys/mman.h>

#define COLS GEMM_F32_COLS
#define K_BLOCK 256u
#define BLOCK_ROWS 192u
#define FETCH_TILES 8u
#define GROUP_PANELS 32u /* at most; what an item writes stays in the second-level cache */
#define TILE_ROWS_MAX 12u

/* Rows that lie k floats apart fall into the same few sets of a cache where k is large and round.
 * From here on an item copies its rows' block of k together, COPY_STRIDE apart. */
#define COPY_K 768u
#define COPY_STRIDE (K_BLOCK + 16)

struct gemm_part {     /* of a few rows by a few panels */
    const float *a;    /* [rows, n_k], a_stride apart */
    const float *b;    /* [panels, n_k, COLS], panels `panel` floats apart */
    float *out;        /* [rows, panels * COLS], out_stride apart */
    const float *bias; /* [panels * COLS], after the last block of k; or NULL */
    size_t a_stride, panel, out_stride;
    uint32_t n_k;
    bool resume; /* out holds the sums so far */
};

typedef void (*sums_fn)(const struct gemm_part *p);

struct gemm_f32_isa {
    uint32_t rows; /* of the largest tile */
    struct gemm_f32_tile {
        uint32_t panels;       /* that `wide` takes */
        sums_fn narrow, wide;  /* one panel; several */
    } tile[TILE_ROWS_MAX + 1]; /* by number of rows */
};

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vec4 __attribute__((vector_size(16)));
#define TARGET
#define VEC vec4
#define ISA(name) name##_base
#define KERNELS KERNEL(1, 1) KERNEL(1, 2) KERNEL(2, 1) KERNEL(3, 1)
#include "gemm_f32_tile.h"

static const struct gemm_f32_isa ISA_BASE = {
    .rows = 3,
    .tile = {[1] = {2, sums_1x1_base, sums_1x2_base},
             [2] = {1, sums_2x1_base, sums_2x1_base},
             [3] = {1, sums_3x1_base, sums_3x1_base}},
};

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
typedef float vec8 __attribute__((vector_size(32)));
#define TARGET __attribute__((target("arch=x86-64-v3")))
#define VEC vec8
#define ISA(name) name##_v3
#define KERNELS                                                                                    \
    KERNEL(1, 1)                                                                                   \
    KERNEL(1, 4)                                                                                   \
    KERNEL(2, 1) KERNEL(2, 2) KERNEL(3, 1) KERNEL(3, 2) KERNEL(4, 1) KERNEL(5, 1) KERNEL(6, 1)
#include "gemm_f32_tile.h"

static const struct gemm_f32_isa ISA_V3 = {
    .rows = 6,
    .tile = {[1] = {4, sums_1x1_v3, sums_1x4_v3},
             [2] = {2, sums_2x1_v3, sums_2x2_v3},
             [3] = {2, sums_3x1_v3, sums_3x2_v3},
             [4] = {1, sums_4x1_v3, sums_4x1_v3},
             [5] = {1, sums_5x1_v3, sums_5x1_v3},
             [6] = {1, sums_6x1_v3, sums_6x1_v3}},
};

typedef float vec16 __attribute__((vector_size(64)));
#define TARGET __attribute__((target("arch=x86-64-v4")))
#define VEC vec16
#define ISA(name) name##_v4
#define KERNELS                                                                                    \
    KERNEL(1, 1)                                                                                   \
    KERNEL(1, 8)                                                                                   \
    KERNEL(2, 1)                                                                                   \
    KERNEL(2, 4)                                                                                   \
    KERNEL(3, 1)                                                                                   \
    KERNEL(3, 4)                                                                                   \
    KERNEL(4, 1) KERNEL(4, 2) KERNEL(5, 1) KERNEL(5, 2) KERNEL(6, 1) KERNEL(6, 2) KERNEL(7, 1)     \
        KERNEL(7, 2) KERNEL(8, 1) KERNEL(8, 2) KERNEL(9, 1) KERNEL(9, 2) KERNEL(10, 1)             \
            KERNEL(10, 2) KERNEL(11, 1) KERNEL(11, 2) KERNEL(12, 1) KERNEL(12, 2)
#include "gemm_f32_tile.h"

static const struct gemm_f32_isa ISA_V4 = {
    .rows = 12,
    .tile = {[1] = {8, sums_1x1_v4, sums_1x8_v4},
             [2] = {4, sums_2x1_v4, sums_2x4_v4},
             [3] = {4, sums_3x1_v4, sums_3x4_v4},
             [4] = {2, sums_4x1_v4, sums_4x2_v4},
             [5] = {2, sums_5x1_v4, sums_5x2_v4},
             [6] = {2, sums_6x1_v4, sums_6x2_v4},
             [7] = {2, sums_7x1_v4, sums_7x2_v4},
             [8] = {2, sums_8x1_v4, sums_8x2_v4},
             [9] = {2, sums_9x1_v4, sums_9x2_v4},
             [10] = {2, sums_10x1_v4, sums_10x2_v4},
             [11] = {2, sums_11x1_v4, sums_11x2_v4},
             [12] = {2, sums_12x1_v4, sums_12x2_v4}},
};

static const struct gemm_f32_isa *isa_of_cpu(void)
{
    if (__builtin_cpu_supports("x86-64-v4")) {
        return &ISA_V4;
    }
    return __builtin_cpu_supports("x86-64-v3") ? &ISA_V3 : &ISA_BASE;
}
#else
static const struct gemm_f32_isa *isa_of_cpu(void)
{
    return &ISA_BASE;
}
#endif

/* ---- weights ---- */

static uint32_t panels_of(uint32_t n)
{
    return n / COLS + (n % COLS != 0);
}

size_t gemm_f32_bytes(uint32_t n, uint32_t k)
{
    return (size_t)panels_of(n) * COLS * k * sizeof(float);
}

/* Large weights ask for large pages: the blocks of k of neighbouring panels lie many pages apart. */
static float *weight_alloc(size_t nbytes)
{
    const size_t page = (size_t)2 << 20;
    if (nbytes < page) {
        return gemm_alloc(nbytes);
    }
    size_t whole = (nbytes + page - 1) / page * page;
    float *p = aligned_alloc(page, whole);
    if (p != NULL) {
        (void)madvise(p, nbytes / page * page, MADV_HUGEPAGE); /* a wish; small pages do as well */
    }
    return p;
}

int gemm_f32_load(struct gd_weight *w, enum gd_dtype dtype, const void *rows, struct gd_err *err)
{
    size_t k = w->k, elem = gdk_dtype_bytes(dtype);
    w->nbytes = gemm_f32_bytes(w->n, w->k);
    w->packed = weight_alloc(w->nbytes);
    float *plain = gemm_alloc(k * sizeof *plain);
    if (w->packed == NULL || plain == NULL) {
        free(plain);
        return gd_err_set(err, GD_ENOMEM, "no memory for a weight of %u x %u", w->n, w->k);
    }
    for (uint32_t c = 0; c < panels_of(w->n) * COLS; c++) {
        float *dst = w->packed + c / COLS * COLS * k + c % COLS;
        if (c < w->n) {
            gdk_to_f32_cpu(k, dtype, (const char *)rows + c * k * elem, plain);
        } else {
            memset(plain, 0, k * sizeof *plain);
        }
        for (size_t i = 0; i < k; i++) {
            dst[i * COLS] = plain[i];
        }
    }
    free(plain);
    return GD_OK;
}

/* ---- products ---- */

struct f32_job {
    const struct gemm_f32_isa *isa;
    const struct gd_weight *w;
    const float *a;    /* [rows, k] */
    const float *bias; /* [n] or NULL */
    float *out;        /* [rows, n] */
    float *copies;     /* [n_threads, BLOCK_ROWS, COPY_STRIDE] */
    uint32_t rows, panels, n_blocks, n_groups;
    uint32_t strip; /* panels that a tile's kernel takes at a time */
};

struct f32_item { /* and the block of k that is at work */
    uint32_t row, n_rows, n_tiles;
    uint32_t panel, panel_end;
    uint32_t k0, n_k;
    const float *a; /* [n_rows, n_k], a_stride apart */
    size_t a_stride;
};

/* Where part i of n begins when `whole` is cut evenly. */
static uint32_t cut(uint32_t whole, uint32_t i, uint32_t n)
{
    return (uint32_t)((uint64_t)whole * i / n);
}

static uint32_t divide_up(uint32_t a, uint32_t b)
{
    return a / b + (a % b != 0);
}

/* A tile of rows by the last panel when that is only partly there: `out` has no room for the rest. */
static void run_edge(const struct f32_job *job, sums_fn sums, struct gemm_part *p, uint32_t n_rows,
                     uint32_t n_cols)
{
    float edge[TILE_ROWS_MAX * COLS] = {0}, bias[COLS] = {0};
    float *out = p->out;
    for (uint32_t r = 0; p->resume && r < n_rows; r++) {
        memcpy(edge + r * COLS, out + (size_t)r * job->w->n, n_cols * sizeof *edge);
    }
    if (p->bias != NULL) {
        memcpy(bias, p->bias, n_cols * sizeof *bias);
        p->bias = bias;
    }
    p->out = edge;
    p->out_stride = COLS;
    sums(p);
    for (uint32_t r = 0; r < n_rows; r++) {
        memcpy(out + (size_t)r * job->w->n, edge + r * COLS, n_cols * sizeof *edge);
    }
}

/* Where k is in several blocks, neither the next panel's block of k nor the next tile's sums lie where
 * a prefetcher looks. They are asked for while tile t is computed: of the panel, a part of 1 /
 * n_tiles. With few tiles that would cost more than it gains. */
static void fetch_ahead(const struct f32_item *it, const float *next, uint32_t t, const float *sums,
                        size_t stride)
{
    uint32_t end = cut(it->n_k, t + 1, it->n_tiles);
    for (uint32_t i = cut(it->n_k, t, it->n_tiles); i < end && next != NULL; i++) {
        __builtin_prefetch(next + (size_t)i * COLS, 0, 2);
    }
    uint32_t last = cut(it->n_rows, t + 2, it->n_tiles);
    for (uint32_t r = cut(it->n_rows, t + 1, it->n_tiles); r < last && t + 1 < it->n_tiles; r++) {
        __builtin_prefetch(sums + r * stride, 1, 3);
    }
}

/* All rows of the item by `panels` panels from `panel` on, over one block of k. */
static void run_panels(const struct f32_job *job, const struct f32_item *it, uint32_t panel,
                       uint32_t panels)
{
    const struct gd_weight *w = job->w;
    uint32_t col = panel * COLS;
    const float *b = w->packed + (size_t)col * w->k + (size_t)it->k0 * COLS;
    const float *next = panel + 1 < it->panel_end ? b + (size_t)w->k * COLS : NULL;
    for (uint32_t t = 0; t < it->n_tiles; t++) {
        if (it->n_k < w->k && it->n_tiles >= FETCH_TILES) {
            fetch_ahead(it, next, t, job->out + (size_t)it->row * w->n + col, w->n);
        }
        uint32_t row = cut(it->n_rows, t, it->n_tiles);
        uint32_t n_rows = cut(it->n_rows, t + 1, it->n_tiles) - row;
        const struct gemm_f32_tile *tile = &job->isa->tile[n_rows];
        struct gemm_part p = {.a = it->a + row * it->a_stride,
                              .b = b,
                              .out = job->out + (size_t)(it->row + row) * w->n + col,
                              .a_stride = it->a_stride,
                              .panel = (size_t)w->k * COLS,
                              .out_stride = w->n,
                              .n_k = it->n_k,
                              .resume = it->k0 != 0};
        if (job->bias != NULL && it->k0 + it->n_k == w->k) {
            p.bias = job->bias + col;
        }
        GD_ASSERT(panels == 1 || panels == tile->panels);
        sums_fn sums = panels > 1 ? tile->wide : tile->narrow;
        if (col + panels * COLS > w->n) {
            run_edge(job, sums, &p, n_rows, w->n - col);
        } else {
            sums(&p);
        }
    }
}

static void f32_item(void *ctx, uint32_t item, uint32_t thread)
{
    const struct f32_job *job = ctx;
    const struct gd_weight *w = job->w;
    /* The blocks of rows of a group follow each other: its panels are read from memory once. */
    uint32_t block = item % job->n_blocks, group = item / job->n_blocks;
    uint32_t strips = divide_up(job->panels, job->strip);
    struct f32_item it = {.row = cut(job->rows, block, job->n_blocks),
                          .panel = cut(strips, group, job->n_groups) * job->strip,
                          .panel_end = cut(strips, group + 1, job->n_groups) * job->strip};
    it.n_rows = cut(job->rows, block + 1, job->n_blocks) - it.row;
    it.n_tiles = divide_up(it.n_rows, job->isa->rows);
    it.panel_end = it.panel_end < job->panels ? it.panel_end : job->panels;
    float *copy = job->copies + (size_t)thread * BLOCK_ROWS * COPY_STRIDE;
    uint32_t k_blocks = divide_up(w->k, K_BLOCK);
    for (uint32_t b = 0; b < k_blocks; b++) {
        it.k0 = cut(w->k, b, k_blocks);
        it.n_k = cut(w->k, b + 1, k_blocks) - it.k0;
        it.a = job->a + (size_t)it.row * w->k + it.k0;
        it.a_stride = w->k;
        if (w->k >= COPY_K) {
            for (uint32_t r = 0; r < it.n_rows; r++) {
                memcpy(copy + (size_t)r * COPY_STRIDE, it.a + (size_t)r * w->k,
                       it.n_k * sizeof *copy);
            }
            it.a = copy;
            it.a_stride = COPY_STRIDE;
        }
        for (uint32_t panel = it.panel; panel < it.panel_end;) {
            bool whole = panel + job->strip <= it.panel_end && (panel + job->strip) * COLS <= w->n;
            uint32_t panels = whole ? job->strip : 1;
            run_panels(job, &it, panel, panels);
            panel += panels;
        }
    }
}

/* Blocks of rows and groups of panels: large ones for reuse, yet some items for every thread, and
 * where possible as many for each. */
static void split(struct f32_job *job, uint32_t n_threads)
{
    uint32_t strips = divide_up(job->panels, job->strip);
    uint32_t tiles = divide_up(job->rows, job->isa->rows);
    uint32_t blocks = divide_up(job->rows, BLOCK_ROWS);
    if (strips < 2 * n_threads / blocks) { /* too few columns for all threads */
        uint32_t want = divide_up(2 * n_threads, strips);
        blocks = want < tiles ? want : tiles;
    }
    uint32_t groups = divide_up(job->panels, GROUP_PANELS);
    uint32_t want = divide_up(4 * n_threads, blocks);
    groups = groups > want ? groups : want;
    groups = divide_up(groups, n_threads) * n_threads;
    job->n_blocks = blocks;
    job->n_groups = groups < strips ? groups : strips;
}

int gemm_f32_open(struct gdk_gemm *g, struct gd_err *err)
{
    g->f32 = isa_of_cpu();
    g->copies = gemm_alloc((size_t)g->n_threads * BLOCK_ROWS * COPY_STRIDE * sizeof *g->copies);
    if (g->copies == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the matrix products");
    }
    return GD_OK;
}

void gemm_f32_run(struct gdk_gemm *g, uint32_t rows, const float *a, const struct gd_weight *w,
                  float *out)
{
    struct f32_job job = {.isa = g->f32,
                          .w = w,
                          .a = a,
                          .bias = w->bias,
                          .out = out,
                          .copies = g->copies,
                          .rows = rows,
                          .panels = panels_of(w->n),
                          .strip = 1};
    /* Where there are several tiles none has less than half of the rows of the largest, and kernels
     * for so many rows all take as many panels. */
    uint32_t tile = rows < g->f32->rows ? rows : g->f32->rows;
    job.strip = g->f32->tile[tile].panels;
    split(&job, g->n_threads);
    gd_pool_run(g->pool, job.n_blocks * job.n_groups, f32_item, &job);
}
