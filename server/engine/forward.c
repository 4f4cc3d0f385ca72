/* forward.c - one step: embedding, decoder layers, final norm of each sequence's last token.
 *
 * Only the last token's logits are wanted. So in the last layer everything after attention (output
 * projection, MLP, final norm) runs on the last rows alone, gathered together; all rows of keys and
 * values are still made. With a tap the last layer runs in full instead, and the rows are gathered
 * at the end: a row's bits do not depend on how many others there are, so both ways give the same
 * result.
 *
 * Buffers are taken once for max_tokens. What is never alive at the same time shares one: QKV with
 * gate-up, attention with the activated MLP. Keys and values live for one layer only. */
#include "guardian/engine.h"

#include "guardian/arena.h"

struct gd_forward {
    const struct gd_model *m;
    struct gd_backend *be;
    uint32_t max_tokens;
    float *x;                   /* [max_tokens, dim] residual stream */
    float *normed;              /* [max_tokens, dim] */
    float *delta;               /* [max_tokens, dim] output of a block, not yet added */
    float *wide;                /* [max_tokens, max(qkv, 2 ffn)] */
    float *inner;               /* [max_tokens, max(heads, ffn)] */
    float *k, *v;               /* [max_tokens, n_kv_heads * head_dim] of one layer */
    float *last_x, *last_inner; /* [max_seqs, ..]: the last rows of x and inner */
    float *last;                /* [max_seqs, dim] final norm of the last rows */
    uint32_t max_seqs;
    uint32_t n_seqs; /* of the last run */
    float *host;     /* [max_tokens, dim] for a tap, or NULL before the first */
    uint32_t *index; /* [max_seqs] last row of each sequence */
};

static float *rows_alloc(struct gd_backend *be, size_t rows, size_t dim)
{
    size_t n = 0, nbytes = 0;
    if (!gd_mul(rows, dim, &n) || !gd_mul(n, sizeof(float), &nbytes)) {
        return NULL;
    }
    return be->ops->buffer_alloc(be, nbytes);
}

static size_t qkv_dim(const struct gd_model_config *c)
{
    return ((size_t)c->n_heads + 2 * (size_t)c->n_kv_heads) * c->head_dim;
}

int gd_forward_open(struct gd_forward **out, const struct gd_model *m, uint32_t max_tokens,
                    struct gd_err *err)
{
    const struct gd_model_config *c = &m->config;
    struct gd_backend *be = m->be;
    struct gd_forward *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the activations");
    }
    size_t heads = (size_t)c->n_heads * c->head_dim;
    size_t wide = qkv_dim(c) > 2 * (size_t)c->ffn_dim ? qkv_dim(c) : 2 * (size_t)c->ffn_dim;
    size_t inner = heads > c->ffn_dim ? heads : c->ffn_dim;
    size_t kv = (size_t)c->n_kv_heads * c->head_dim;
    f->m = m;
    f->be = be;
    f->max_tokens = max_tokens;
    f->max_seqs = max_tokens < GD_BATCH_SEQS_MAX ? max_tokens : GD_BATCH_SEQS_MAX;
    f->x = rows_alloc(be, max_tokens, c->dim);
    f->normed = rows_alloc(be, max_tokens, c->dim);
    f->delta = rows_alloc(be, max_tokens, c->dim);
    f->wide = rows_alloc(be, max_tokens, wide);
    f->inner = rows_alloc(be, max_tokens, inner);
    f->k = rows_alloc(be, max_tokens, kv);
    f->v = rows_alloc(be, max_tokens, kv);
    f->last_x = rows_alloc(be, f->max_seqs, c->dim);
    f->last_inner = rows_alloc(be, f->max_seqs, heads);
    f->last = rows_alloc(be, f->max_seqs, c->dim);
    f->index = calloc(f->max_seqs, sizeof *f->index);
    if (f->x == NULL || f->normed == NULL || f->delta == NULL || f->wide == NULL ||
        f->inner == NULL || f->k == NULL || f->v == NULL || f->last_x == NULL ||
        f->last_inner == NULL || f->last == NULL || f->index == NULL) {
        gd_forward_close(f);
        return gd_err_set(err, GD_ENOMEM, "no memory for the activations of %u tokens", max_tokens);
    }
    *out = f;
    return GD_OK;
}

void gd_forward_close(struct gd_forward *f)
{
    if (f == NULL) {
        return;
    }
    float *buffers[] = {f->x, f->normed, f->delta,  f->wide,       f->inner,
                        f->k, f->v,      f->last_x, f->last_inner, f->last};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        f->be->ops->buffer_free(f->be, buffers[i]);
    }
    free(f->host);
    free(f->index);
    free(f);
}

/* inner = attention of normed; makes this layer's keys and values. */
static int attention_block(struct gd_forward *f, const struct gd_batch *b,
                           const struct gd_model_layer *layer)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    struct gd_attn_shape shape = {.n_heads = c->n_heads,
                                  .n_kv_heads = c->n_kv_heads,
                                  .head_dim = c->head_dim,
                                  .scale = 1.0f / __builtin_sqrtf((float)c->head_dim)};
    struct gd_rope rope = {.head_dim = c->head_dim, .inv_freq = f->m->inv_freq};
    int rc = ops->gemm(f->be, b->n_tokens, f->normed, layer->qkv, layer->qkv_bias, f->wide);
    rc = rc != GD_OK ? rc : ops->rope_kv(f->be, b, &shape, &rope, f->wide, f->k, f->v);
    return rc != GD_OK ? rc : ops->attention(f->be, b, &shape, f->wide, f->k, f->v, f->inner);
}

/* The rest of a layer on `rows` rows: x += inner O; delta = MLP of the norm of x. */
static int mlp_block(struct gd_forward *f, uint32_t rows, const struct gd_model_layer *layer,
                     float *x, const float *inner)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    int rc = ops->gemm(f->be, rows, inner, layer->o, NULL, f->delta);
    rc = rc != GD_OK ? rc
                     : ops->add_rmsnorm(f->be, rows, c->dim, x, f->delta, layer->mlp_norm,
                                        c->rms_norm_eps, f->normed);
    rc = rc != GD_OK ? rc : ops->gemm(f->be, rows, f->normed, layer->gate_up, NULL, f->wide);
    rc = rc != GD_OK ? rc : ops->swiglu(f->be, rows, c->ffn_dim, f->wide, f->inner);
    return rc != GD_OK ? rc : ops->gemm(f->be, rows, f->inner, layer->down, NULL, f->delta);
}

/* Shows the tap x + delta without changing x: the sum is the one that the next norm will make. */
static int show(struct gd_forward *f, uint32_t n_tokens, bool with_delta, int layer,
                gd_forward_tap tap, void *ctx)
{
    size_t n = (size_t)n_tokens * f->m->config.dim;
    if (f->host == NULL) {
        f->host = calloc(2 * (size_t)f->max_tokens * f->m->config.dim, sizeof *f->host);
        if (f->host == NULL) {
            return GD_ENOMEM;
        }
    }
    float *sum = f->host, *delta = f->host + n;
    int rc = f->be->ops->download(f->be, sum, f->x, n * sizeof *sum);
    if (rc == GD_OK && with_delta) {
        rc = f->be->ops->download(f->be, delta, f->delta, n * sizeof *sum);
        for (size_t i = 0; i < n && rc == GD_OK; i++) {
            sum[i] += delta[i];
        }
    }
    if (rc == GD_OK) {
        tap(ctx, layer, sum, n_tokens, f->m->config.dim);
    }
    return rc;
}

static int run_layer(struct gd_forward *f, const struct gd_batch *b, uint32_t i, bool whole)
{
    const struct gd_model_layer *layer = &f->m->layers[i];
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    uint32_t heads = c->n_heads * c->head_dim;
    int rc = ops->add_rmsnorm(f->be, b->n_tokens, c->dim, f->x, i == 0 ? NULL : f->delta,
                              layer->attn_norm, c->rms_norm_eps, f->normed);
    rc = rc != GD_OK ? rc : attention_block(f, b, layer);
    if (rc != GD_OK || whole) {
        return rc != GD_OK ? rc : mlp_block(f, b->n_tokens, layer, f->x, f->inner);
    }
    rc = ops->gather_rows(f->be, b->n_seqs, c->dim, f->index, f->x, f->last_x);
    rc = rc != GD_OK ? rc
                     : ops->gather_rows(f->be, b->n_seqs, heads, f->index, f->inner, f->last_inner);
    return rc != GD_OK ? rc : mlp_block(f, b->n_seqs, layer, f->last_x, f->last_inner);
}

/* last = final norm of the last rows. With a tap the rows of x and delta are still in their places.
 */
static int finish(struct gd_forward *f, const struct gd_batch *b, bool whole)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    const float *delta = f->delta;
    int rc = GD_OK;
    if (whole) {
        rc = ops->gather_rows(f->be, b->n_seqs, c->dim, f->index, f->x, f->last_x);
        rc = rc != GD_OK
                 ? rc
                 : ops->gather_rows(f->be, b->n_seqs, c->dim, f->index, f->delta, f->normed);
        delta = f->normed;
    }
    rc = rc != GD_OK ? rc
                     : ops->add_rmsnorm(f->be, b->n_seqs, c->dim, f->last_x, delta,
                                        f->m->final_norm, c->rms_norm_eps, f->last);
    return rc != GD_OK ? rc : ops->sync(f->be);
}

int gd_forward_run(struct gd_forward *f, const struct gd_batch *b, gd_forward_tap tap, void *ctx)
{
    f->n_seqs = 0;
    if (b->n_tokens == 0 || b->n_tokens > f->max_tokens || b->n_seqs == 0 ||
        b->n_seqs > f->max_seqs) {
        return GD_EUSAGE;
    }
    for (uint32_t s = 0; s < b->n_seqs; s++) {
        if (b->seq_start[s + 1] <= b->seq_start[s]) {
            return GD_EUSAGE; /* an empty sequence has no last token */
        }
        f->index[s] = b->seq_start[s + 1] - 1;
    }
    uint32_t n_layers = f->m->config.n_layers;
    int rc = f->be->ops->embed(f->be, b, f->m->embed, f->x);
    if (rc == GD_OK && tap != NULL) {
        rc = show(f, b->n_tokens, false, -1, tap, ctx);
    }
    for (uint32_t i = 0; i < n_layers && rc == GD_OK; i++) {
        rc = run_layer(f, b, i, tap != NULL || i + 1 < n_layers);
        if (rc == GD_OK && tap != NULL) {
            rc = show(f, b->n_tokens, true, (int)i, tap, ctx);
        }
    }
    rc = rc != GD_OK ? rc : finish(f, b, tap != NULL);
    if (rc == GD_OK) {
        f->n_seqs = b->n_seqs;
    } else {
        f->be->ops->sync(f->be); /* takes note of the failure that was just told */
    }
    return rc;
}

int gd_forward_choices(struct gd_forward *f, uint32_t seq, const int32_t *ids, uint32_t n_ids,
                       float *logits)
{
    if (seq >= f->n_seqs) {
        return GD_EUSAGE;
    }
    uint32_t dim = f->m->config.dim;
    return f->be->ops->choice_logits(f->be, dim, f->last + (size_t)seq * dim, f->m->lm_head, n_ids,
                                     ids, logits);
}
