/* gemm_bf16_shape.c - oneDNN's side of the bf16 products: a primitive per shape, and weights in the
 * layout it asks for.
 *
 * A primitive is made once and used by all threads at the same time, so each thread has its own
 * memory objects and scratch memory. Everything that differs between oneDNN 2 (Debian 12) and 3
 * (Ubuntu 24.04) is in this file. */
#include "gemm_parts.h"

/* ---- the differences between oneDNN 2 and 3, all here and in DESC_ARG ---- */

#if DNNL_VERSION_MAJOR >= 3

static dnnl_status_t desc_rows(gemm_desc *d, const dnnl_dims_t dims, const dnnl_dims_t strides,
                               dnnl_data_type_t type)
{
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}

static dnnl_status_t desc_any(gemm_desc *d, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_create_with_tag(d, 2, dims, type, dnnl_format_tag_any);
}

static dnnl_status_t desc_query(gemm_desc *d, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    return dnnl_memory_desc_clone(d, dnnl_primitive_desc_query_md(pd, what, 0));
}

static void desc_free(gemm_desc *d)
{
    if (*d != NULL) {
        dnnl_memory_desc_destroy(*d);
    }
}

static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, gemm_desc *src,
                                 gemm_desc *weights, gemm_desc *dst, dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, engine, *src, *weights, NULL, *dst, attr);
}
#else

static dnnl_status_t desc_rows(gemm_desc *d, const dnnl_dims_t dims, const dnnl_dims_t strides,
                               dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}

static dnnl_status_t desc_any(gemm_desc *d, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_tag(d, 2, dims, type, dnnl_format_tag_any);
}

static dnnl_status_t desc_query(gemm_desc *d, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    const dnnl_memory_desc_t *found = dnnl_primitive_desc_query_md(pd, what, 0);
    if (found == NULL) {
        return dnnl_invalid_arguments;
    }
    *d = *found;
    return dnnl_success;
}

static void desc_free(gemm_desc *d)
{
    (void)d;
}

static dnnl_status_t matmul_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, gemm_desc *src,
                                 gemm_desc *weights, gemm_desc *dst, dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t op;
    dnnl_status_t st = dnnl_matmul_desc_init(&op, src, weights, NULL, dst);
    if (st != dnnl_success) {
        return st;
    }
    return dnnl_primitive_desc_create(pd, &op, attr, engine, NULL);
}
#endif

/* ---- primitives ---- */

void gemm_shape_free(struct gemm_shape *s, uint32_t n_threads)
{
    for (uint32_t t = 0; s->slots != NULL && t < n_threads; t++) {
        dnnl_memory_t objects[] = {s->slots[t].src, s->slots[t].dst, s->slots[t].scratch};
        for (size_t i = 0; i < 3; i++) {
            if (objects[i] != NULL) {
                dnnl_memory_destroy(objects[i]);
            }
        }
        free(s->slots[t].scratch_data);
    }
    free(s->slots);
    if (s->primitive != NULL) {
        dnnl_primitive_destroy(s->primitive);
    }
    desc_free(&s->src);
    desc_free(&s->weights);
    desc_free(&s->dst);
    desc_free(&s->scratch);
    free(s);
}

static dnnl_status_t shape_primitive(struct gdk_gemm *g, struct gemm_shape *s)
{
    const dnnl_data_type_t type = dnnl_bf16;
    const dnnl_dims_t src = {TILE, s->k}, src_strides = {s->k, 1};
    const dnnl_dims_t weights = {s->k, s->width};
    const dnnl_dims_t dst = {TILE, s->width}, dst_strides = {s->ld, 1};
    gemm_desc any;
    memset(&any, 0, sizeof any);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t st = dnnl_primitive_attr_create(&attr);
    if (st != dnnl_success) {
        return st;
    }
    /* The library's own scratch memory is not made for one primitive in several threads. */
    st = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    st = st != dnnl_success ? st : desc_rows(&s->src, src, src_strides, type);
    st = st != dnnl_success ? st : desc_any(&any, weights, type);
    st = st != dnnl_success ? st : desc_rows(&s->dst, dst, dst_strides, dnnl_f32);
    st = st != dnnl_success ? st : matmul_desc(&pd, g->engine, &s->src, &any, &s->dst, attr);
    st = st != dnnl_success ? st : desc_query(&s->weights, pd, dnnl_query_weights_md);
    st = st != dnnl_success ? st : desc_query(&s->scratch, pd, dnnl_query_scratchpad_md);
    st = st != dnnl_success ? st : dnnl_primitive_create(&s->primitive, pd);
    if (pd != NULL) {
        dnnl_primitive_desc_destroy(pd);
    }
    desc_free(&any);
    dnnl_primitive_attr_destroy(attr);
    if (st == dnnl_success) {
        s->weight_bytes = dnnl_memory_desc_get_size(DESC_ARG(s->weights));
        s->scratch_bytes = dnnl_memory_desc_get_size(DESC_ARG(s->scratch));
    }
    return st;
}

static dnnl_status_t shape_slots(struct gdk_gemm *g, struct gemm_shape *s)
{
    s->slots = calloc(g->n_threads, sizeof *s->slots);
    if (s->slots == NULL) {
        return dnnl_out_of_memory;
    }
    dnnl_status_t st = dnnl_success;
    for (uint32_t t = 0; t < g->n_threads && st == dnnl_success; t++) {
        struct gemm_slot *slot = &s->slots[t];
        slot->scratch_data = gemm_alloc(s->scratch_bytes);
        if (slot->scratch_data == NULL) {
            return dnnl_out_of_memory;
        }
        st = dnnl_memory_create(&slot->src, DESC_ARG(s->src), g->engine, DNNL_MEMORY_NONE);
        st = st != dnnl_success
                 ? st
                 : dnnl_memory_create(&slot->dst, DESC_ARG(s->dst), g->engine, DNNL_MEMORY_NONE);
        st = st != dnnl_success ? st
                                : dnnl_memory_create(&slot->scratch, DESC_ARG(s->scratch),
                                                     g->engine, slot->scratch_data);
    }
    return st;
}

int gemm_shape_get(struct gdk_gemm *g, uint32_t k, uint32_t width, uint32_t ld,
                   struct gemm_shape **out, struct gd_err *err)
{
    for (struct gemm_shape *s = g->shapes; s != NULL; s = s->next) {
        if (s->k == k && s->width == width && s->ld == ld) {
            *out = s;
            return GD_OK;
        }
    }
    struct gemm_shape *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for a matrix product");
    }
    s->k = k;
    s->width = width;
    s->ld = ld;
    omp_set_num_threads(1);
    dnnl_status_t st = shape_primitive(g, s);
    st = st != dnnl_success ? st : shape_slots(g, s);
    if (st != dnnl_success) {
        gemm_shape_free(s, g->n_threads);
        return gd_err_set(err, st == dnnl_out_of_memory ? GD_ENOMEM : GD_EBACKEND,
                          "oneDNN offers no bf16 product [%u, %u] x [%u, %u] (status %d)", TILE, k,
                          k, width, (int)st);
    }
    s->next = g->shapes;
    g->shapes = s;
    *out = s;
    return GD_OK;
}

/* ---- packed panels ---- */

static dnnl_status_t panel_reorder(struct gdk_gemm *g, struct gemm_panel *p, float *rows)
{
    const struct gemm_shape *s = p->shape;
    const dnnl_dims_t dims = {s->k, s->width}, strides = {1, s->k};
    gemm_desc plain;
    memset(&plain, 0, sizeof plain);
    dnnl_memory_t from = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_status_t st = dnnl_memory_create(&p->memory, DESC_ARG(s->weights), g->engine, p->data);
    st = st != dnnl_success ? st : desc_rows(&plain, dims, strides, dnnl_f32);
    st = st != dnnl_success ? st : dnnl_memory_create(&from, DESC_ARG(plain), g->engine, rows);
    st = st != dnnl_success
             ? st
             : dnnl_reorder_primitive_desc_create(&pd, DESC_ARG(plain), g->engine,
                                                  DESC_ARG(s->weights), g->engine, NULL);
    st = st != dnnl_success ? st : dnnl_primitive_create(&reorder, pd);
    if (st == dnnl_success) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, p->memory}};
        st = dnnl_primitive_execute(reorder, g->streams[0], 2, args);
        st = st != dnnl_success ? st : dnnl_stream_wait(g->streams[0]);
    }
    if (reorder != NULL) {
        dnnl_primitive_destroy(reorder);
    }
    if (pd != NULL) {
        dnnl_primitive_desc_destroy(pd);
    }
    if (from != NULL) {
        dnnl_memory_destroy(from);
    }
    desc_free(&plain);
    return st;
}

int gemm_panel_pack(struct gdk_gemm *g, struct gemm_panel *panel, float *rows, struct gd_err *err)
{
    const struct gemm_shape *s = panel->shape;
    panel->data = gemm_alloc(s->weight_bytes);
    if (panel->data == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for a weight of %u x %u", s->width, s->k);
    }
    omp_set_num_threads(1);
    dnnl_status_t st = panel_reorder(g, panel, rows);
    if (st != dnnl_success) {
        return gd_err_set(err, GD_EBACKEND, "oneDNN cannot pack a weight of %u x %u (status %d)",
                          s->width, s->k, (int)st);
    }
    return GD_OK;
}

void gemm_panel_free(struct gemm_panel *panel)
{
    if (panel->memory != NULL) {
        dnnl_memory_destroy(panel->memory);
    }
    free(panel->data);
    panel->memory = NULL;
    panel->data = NULL;
}
