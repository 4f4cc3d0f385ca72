/* forward.c - one step: embedding, decoder layers, final norm of each scored sequence's last token;
 * and the paged KV cache that steps write and read.
 *
 * Only the scored tokens' logits are wanted. So in the last layer everything after the keys and
 * values (attention, output projection, MLP, final norm) runs on those rows alone, gathered
 * together: a batch of sequences of one token each, with the same block tables. A step that scores
 * nothing ends where the last layer's keys and values are made. With a tap the last layer runs in
 * full instead, and the rows are gathered at the end: a row's bits do not depend on how many others
 * there are, so both ways give the same result.
 *
 * Buffers are taken once for max_tokens. What is never alive at the same time shares one: QKV with
 * gate-up, attention with the activated MLP. */
#include "guardian/engine.h"

#include "guardian/arena.h"

#include <string.h>

struct gd_forward {
    const struct gd_model *m;
    struct gd_backend *be;
    struct gd_attn_shape shape;
    struct gd_kv *kv;
    uint32_t max_tokens, max_seqs, n_blocks;
    float *x;        /* [max_tokens, dim] residual stream */
    float *normed;   /* [max_tokens, dim] */
    float *delta;    /* [max_tokens, dim] output of a block, not yet added */
    float *wide;     /* [max_tokens, max(qkv, 2 ffn)] */
    float *inner;    /* [max_tokens, max(heads, ffn)] */
    float *last_x;   /* [max_seqs, dim]: the scored rows of x */
    float *last_qkv; /* [max_seqs, qkv] */
    float *last;     /* [max_seqs, dim] final norm of the scored rows */
    float *host;     /* [2, max_tokens, dim] for a tap, or NULL before the first */
    uint32_t n_rows; /* of last, from the last run */

    /* The scored tokens as a batch of their own; host memory. */
    uint32_t *index;       /* [max_seqs] their places in the step's batch */
    int32_t *positions;    /* [max_seqs] */
    uint32_t *seq_start;   /* [max_seqs + 1]: 0, 1, 2, .. */
    uint32_t *blocks;      /* [max_seqs, GD_KV_SEQ_BLOCKS_MAX] at most */
    uint32_t *block_start; /* [max_seqs + 1] */
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

static struct gd_attn_shape attn_shape(const struct gd_model_config *c)
{
    return (struct gd_attn_shape){.n_heads = c->n_heads,
                                  .n_kv_heads = c->n_kv_heads,
                                  .head_dim = c->head_dim,
                                  .scale = 1.0f / __builtin_sqrtf((float)c->head_dim)};
}

static bool buffers_alloc(struct gd_forward *f)
{
    const struct gd_model_config *c = &f->m->config;
    size_t heads = (size_t)c->n_heads * c->head_dim, qkv = qkv_dim(c);
    size_t wide = qkv > 2 * (size_t)c->ffn_dim ? qkv : 2 * (size_t)c->ffn_dim;
    size_t inner = heads > c->ffn_dim ? heads : c->ffn_dim;
    uint32_t seqs = f->max_seqs;
    f->x = rows_alloc(f->be, f->max_tokens, c->dim);
    f->normed = rows_alloc(f->be, f->max_tokens, c->dim);
    f->delta = rows_alloc(f->be, f->max_tokens, c->dim);
    f->wide = rows_alloc(f->be, f->max_tokens, wide);
    f->inner = rows_alloc(f->be, f->max_tokens, inner);
    f->last_x = rows_alloc(f->be, seqs, c->dim);
    f->last_qkv = rows_alloc(f->be, seqs, qkv);
    f->last = rows_alloc(f->be, seqs, c->dim);
    f->index = calloc(seqs, sizeof *f->index);
    f->positions = calloc(seqs, sizeof *f->positions);
    f->seq_start = calloc((size_t)seqs + 1, sizeof *f->seq_start);
    f->blocks = calloc((size_t)seqs * GD_KV_SEQ_BLOCKS_MAX, sizeof *f->blocks);
    f->block_start = calloc((size_t)seqs + 1, sizeof *f->block_start);
    return f->x != NULL && f->normed != NULL && f->delta != NULL && f->wide != NULL &&
           f->inner != NULL && f->last_x != NULL && f->last_qkv != NULL && f->last != NULL &&
           f->index != NULL && f->positions != NULL && f->seq_start != NULL && f->blocks != NULL &&
           f->block_start != NULL;
}

int gd_forward_open(struct gd_forward **out, const struct gd_model *m, uint32_t max_tokens,
                    uint32_t n_blocks, struct gd_err *err)
{
    if (max_tokens == 0) {
        return gd_err_set(err, GD_EUSAGE, "a step of no tokens");
    }
    struct gd_forward *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return gd_err_set(err, GD_ENOMEM, "no memory for the activations");
    }
    f->m = m;
    f->be = m->be;
    f->shape = attn_shape(&m->config);
    f->max_tokens = max_tokens;
    f->max_seqs = max_tokens < GD_STEP_SEQS_MAX ? max_tokens : GD_STEP_SEQS_MAX;
    f->n_blocks = n_blocks;
    int rc = GD_OK;
    if (!buffers_alloc(f)) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for the activations of %u tokens", max_tokens);
    }
    rc = rc != GD_OK
             ? rc
             : f->be->ops->kv_open(f->be, m->config.n_layers, n_blocks, &f->shape, &f->kv, err);
    if (rc != GD_OK) {
        gd_forward_close(f);
        return rc;
    }
    *out = f;
    return GD_OK;
}

void gd_forward_close(struct gd_forward *f)
{
    if (f == NULL) {
        return;
    }
    float *buffers[] = {f->x,     f->normed, f->delta,    f->wide,
                        f->inner, f->last_x, f->last_qkv, f->last};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        f->be->ops->buffer_free(f->be, buffers[i]);
    }
    f->be->ops->kv_close(f->be, f->kv);
    free(f->host);
    free(f->index);
    free(f->positions);
    free(f->seq_start);
    free(f->blocks);
    free(f->block_start);
    free(f);
}

size_t gd_forward_block_bytes(const struct gd_model *m)
{
    struct gd_attn_shape shape = attn_shape(&m->config);
    size_t bytes = 0;
    return gd_mul(m->be->ops->kv_block_bytes(m->be, &shape), m->config.n_layers, &bytes) ? bytes
                                                                                         : 0;
}

int gd_forward_copy(struct gd_forward *f, uint32_t dst, uint32_t src)
{
    if (dst >= f->n_blocks || src >= f->n_blocks) {
        return GD_EUSAGE;
    }
    int rc = f->be->ops->kv_copy(f->be, f->kv, dst, src);
    if (rc != GD_OK) {
        f->be->ops->sync(f->be); /* takes note of the failure that was just told */
    }
    return rc;
}

/* ---- what a step may be ---- */

/* Sequence seq of b: not empty, its positions in a row, its block table as long as it must be. */
static bool seq_fits(const struct gd_forward *f, const struct gd_batch *b, uint32_t seq)
{
    uint32_t first = b->seq_start[seq], end = b->seq_start[seq + 1];
    if (first >= end || end > b->n_tokens || b->positions[first] < 0) {
        return false;
    }
    uint32_t position = (uint32_t)b->positions[first];
    if (position >= GD_CONTEXT_TOKENS_MAX || end - first > GD_CONTEXT_TOKENS_MAX - position) {
        return false;
    }
    for (uint32_t t = first; t < end; t++) {
        if (b->positions[t] != (int32_t)(position + t - first)) {
            return false;
        }
    }
    uint32_t n_blocks = (position + end - first - 1) / GD_KV_BLOCK_TOKENS + 1;
    uint32_t from = b->block_start[seq], to = b->block_start[seq + 1];
    if (to < from || to - from != n_blocks) {
        return false;
    }
    for (uint32_t i = from; i < to; i++) {
        if (b->blocks[i] >= f->n_blocks) {
            return false;
        }
    }
    return true;
}

static bool batch_fits(const struct gd_forward *f, const struct gd_batch *b, const uint32_t *scored,
                       uint32_t n_scored)
{
    if (b->n_tokens == 0 || b->n_tokens > f->max_tokens || b->n_seqs == 0 ||
        b->n_seqs > f->max_seqs || b->seq_start[0] != 0 || b->seq_start[b->n_seqs] != b->n_tokens) {
        return false;
    }
    for (uint32_t seq = 0; seq < b->n_seqs; seq++) {
        if (!seq_fits(f, b, seq)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < n_scored; i++) {
        if (scored[i] >= b->n_seqs || (i > 0 && scored[i] <= scored[i - 1])) {
            return false;
        }
    }
    return true;
}

/* The scored tokens as a batch of their own. */
static struct gd_batch scored_batch(struct gd_forward *f, const struct gd_batch *b,
                                    const uint32_t *scored, uint32_t n_scored)
{
    uint32_t n_blocks = 0;
    for (uint32_t i = 0; i < n_scored; i++) {
        uint32_t seq = scored[i];
        uint32_t n = b->block_start[seq + 1] - b->block_start[seq];
        f->index[i] = b->seq_start[seq + 1] - 1;
        f->positions[i] = b->positions[f->index[i]];
        f->seq_start[i] = i;
        f->block_start[i] = n_blocks;
        memcpy(f->blocks + n_blocks, b->blocks + b->block_start[seq], n * sizeof *f->blocks);
        n_blocks += n;
    }
    f->seq_start[n_scored] = n_scored;
    f->block_start[n_scored] = n_blocks;
    return (struct gd_batch){.n_tokens = n_scored,
                             .n_seqs = n_scored,
                             .positions = f->positions,
                             .seq_start = f->seq_start,
                             .blocks = f->blocks,
                             .block_start = f->block_start};
}

/* ---- the layers ---- */

/* The rest of a layer on `rows` rows: x += inner O; delta = MLP of the norm of x. */
static int mlp_block(struct gd_forward *f, uint32_t rows, const struct gd_model_layer *layer,
                     float *x)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    int rc = ops->gemm(f->be, rows, f->inner, layer->o, NULL, f->delta);
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

/* wide = QKV of the norm of x + delta; this layer's keys and values go into the cache. */
static int qkv_block(struct gd_forward *f, const struct gd_batch *b, uint32_t i)
{
    const struct gd_model_layer *layer = &f->m->layers[i];
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    struct gd_rope rope = {.head_dim = c->head_dim, .inv_freq = f->m->inv_freq};
    int rc = ops->add_rmsnorm(f->be, b->n_tokens, c->dim, f->x, i == 0 ? NULL : f->delta,
                              layer->attn_norm, c->rms_norm_eps, f->normed);
    rc = rc != GD_OK
             ? rc
             : ops->gemm(f->be, b->n_tokens, f->normed, layer->qkv, layer->qkv_bias, f->wide);
    return rc != GD_OK ? rc : ops->rope_kv(f->be, b, &f->shape, &rope, f->wide, f->kv, i);
}

static int whole_layer(struct gd_forward *f, const struct gd_batch *b, uint32_t i)
{
    int rc = qkv_block(f, b, i);
    rc = rc != GD_OK ? rc : f->be->ops->attention(f->be, b, &f->shape, f->wide, f->kv, i, f->inner);
    return rc != GD_OK ? rc : mlp_block(f, b->n_tokens, &f->m->layers[i], f->x);
}

/* The last layer where only the tokens of `last` count: their rows are gathered into last_x. */
static int last_layer(struct gd_forward *f, const struct gd_batch *b, const struct gd_batch *last,
                      uint32_t i)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    uint32_t rows = last->n_tokens;
    int rc = qkv_block(f, b, i);
    if (rc != GD_OK || rows == 0) {
        return rc;
    }
    rc = ops->gather_rows(f->be, rows, c->dim, f->index, f->x, f->last_x);
    rc = rc != GD_OK
             ? rc
             : ops->gather_rows(f->be, rows, (uint32_t)qkv_dim(c), f->index, f->wide, f->last_qkv);
    rc = rc != GD_OK ? rc : ops->attention(f->be, last, &f->shape, f->last_qkv, f->kv, i, f->inner);
    return rc != GD_OK ? rc : mlp_block(f, rows, &f->m->layers[i], f->last_x);
}

/* last = final norm of the scored rows. With a tap the rows of x and delta are still in their
 * places. */
static int finish(struct gd_forward *f, uint32_t rows, bool whole)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    const float *delta = f->delta;
    int rc = GD_OK;
    if (whole && rows > 0) {
        rc = ops->gather_rows(f->be, rows, c->dim, f->index, f->x, f->last_x);
        rc =
            rc != GD_OK ? rc : ops->gather_rows(f->be, rows, c->dim, f->index, f->delta, f->normed);
        delta = f->normed;
    }
    if (rc == GD_OK && rows > 0) {
        rc = ops->add_rmsnorm(f->be, rows, c->dim, f->last_x, delta, f->m->final_norm,
                              c->rms_norm_eps, f->last);
    }
    return rc != GD_OK ? rc : ops->sync(f->be);
}

int gd_forward_run(struct gd_forward *f, const struct gd_batch *b, const uint32_t *scored,
                   uint32_t n_scored, gd_forward_tap tap, void *ctx)
{
    f->n_rows = 0;
    if (!batch_fits(f, b, scored, n_scored)) {
        return GD_EUSAGE;
    }
    struct gd_batch last = scored_batch(f, b, scored, n_scored);
    uint32_t n_layers = f->m->config.n_layers;
    int rc = f->be->ops->embed(f->be, b, f->m->embed, f->x);
    if (rc == GD_OK && tap != NULL) {
        rc = show(f, b->n_tokens, false, -1, tap, ctx);
    }
    for (uint32_t i = 0; i < n_layers && rc == GD_OK; i++) {
        bool whole = tap != NULL || i + 1 < n_layers;
        rc = whole ? whole_layer(f, b, i) : last_layer(f, b, &last, i);
        if (rc == GD_OK && tap != NULL) {
            rc = show(f, b->n_tokens, true, (int)i, tap, ctx);
        }
    }
    rc = rc != GD_OK ? rc : finish(f, n_scored, tap != NULL);
    if (rc == GD_OK) {
        f->n_rows = n_scored;
    } else {
        f->be->ops->sync(f->be); /* takes note of the failure that was just told */
    }
    return rc;
}

int gd_forward_choices(struct gd_forward *f, uint32_t row, const int32_t *ids, uint32_t n_ids,
                       float *logits)
{
    if (row >= f->n_rows) {
        return GD_EUSAGE;
    }
    uint32_t dim = f->m->config.dim;
    return f->be->ops->choice_logits(f->be, dim, f->last + (size_t)row * dim, f->m->lm_head, n_ids,
                                     ids, logits);
}
