/* forward.c - one step: embedding, decoder layers, final norm of each scored sequence's last token;
 * and the paged KV cache that steps write and read.
 *
 * Only the scored tokens' logits are wanted. So in the last layer everything after the keys and
 * values (attention, output projection, MLP, final norm) runs on those rows alone, gathered
 * together: a batch of sequences of one token each, with the same block tables. A step that scores
 * nothing ends where the last layer's keys and values are made. With a tap the last layer runs in
 * full instead, and the rows are gathered at the end: a row's bits do not depend on how many others
 * there are, so both ways give the same result. A tap sees the residual stream after a layer when the
 * next norm has added the layer's output to it.
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
    struct gd_rows *x;        /* [max_tokens, dim] F32, residual stream */
    struct gd_rows *normed;   /* [max_tokens, dim] OPERAND */
    struct gd_rows *delta;    /* [max_tokens, dim] PRODUCT: output of a block, not yet added */
    struct gd_rows *wide;     /* [max_tokens, max(qkv, 2 ffn)] PRODUCT */
    struct gd_rows *inner;    /* [max_tokens, max(heads, ffn)] OPERAND */
    struct gd_rows *last_x;   /* [max_seqs, dim] F32: the scored rows of x */
    struct gd_rows *last_qkv; /* [max_seqs, qkv] PRODUCT */
    struct gd_rows *last;     /* [max_seqs, dim] F32: final norm of the scored rows */
    uint32_t n_rows;          /* of last, from the last run */
    /* The tap of the run under way; tap_x [max_tokens, dim], host, NULL before the first. */
    gd_forward_tap tap;
    void *tap_ctx;
    float *tap_x;

    /* The scored tokens as a batch of their own; host memory. */
    uint32_t *places;      /* [max_seqs] their places in the step's batch */
    int32_t *positions;    /* [max_seqs] */
    uint32_t *seq_start;   /* [max_seqs + 1]: 0, 1, 2, .. */
    uint32_t *blocks;      /* [max_seqs, GD_KV_SEQ_BLOCKS_MAX] at most */
    uint32_t *block_start; /* [max_seqs + 1] */
};

static uint32_t qkv_dim(const struct gd_model_config *c)
{
    return (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
}

static struct gd_attn_shape attn_shape(const struct gd_model_config *c)
{
    return (struct gd_attn_shape){.n_heads = c->n_heads,
                                  .n_kv_heads = c->n_kv_heads,
                                  .head_dim = c->head_dim,
                                  .scale = 1.0f / __builtin_sqrtf((float)c->head_dim)};
}

#define N_BUFFERS 8

/* The activation buffers: kind, rows and dim of each, and where its handle is kept. */
struct buffer {
    struct gd_rows **at;
    enum gd_rows_kind kind;
    uint32_t rows, dim;
};

static void list_buffers(struct gd_forward *f, const struct gd_model_config *c, uint32_t tokens,
                         struct buffer list[N_BUFFERS])
{
    uint32_t heads = c->n_heads * c->head_dim, qkv = qkv_dim(c);
    uint32_t wide = qkv > 2 * c->ffn_dim ? qkv : 2 * c->ffn_dim;
    uint32_t inner = heads > c->ffn_dim ? heads : c->ffn_dim;
    uint32_t seqs = tokens < GD_STEP_SEQS_MAX ? tokens : GD_STEP_SEQS_MAX;
    const struct buffer all[N_BUFFERS] = {
        {&f->x, GD_ROWS_F32, tokens, c->dim},         {&f->normed, GD_ROWS_OPERAND, tokens, c->dim},
        {&f->delta, GD_ROWS_PRODUCT, tokens, c->dim}, {&f->wide, GD_ROWS_PRODUCT, tokens, wide},
        {&f->inner, GD_ROWS_OPERAND, tokens, inner},  {&f->last_x, GD_ROWS_F32, seqs, c->dim},
        {&f->last_qkv, GD_ROWS_PRODUCT, seqs, qkv},   {&f->last, GD_ROWS_F32, seqs, c->dim},
    };
    memcpy(list, all, sizeof all);
}

uint64_t gd_forward_bytes(const struct gd_model *m, uint32_t max_tokens)
{
    struct gd_forward none;
    struct buffer list[N_BUFFERS];
    uint64_t sum = 0;
    list_buffers(&none, &m->config, max_tokens, list);
    for (size_t i = 0; i < N_BUFFERS; i++) {
        sum += m->be->ops->rows_bytes(m->be, list[i].kind, list[i].rows, list[i].dim);
    }
    return sum;
}

static bool buffers_alloc(struct gd_forward *f)
{
    struct buffer list[N_BUFFERS];
    bool there = true;
    list_buffers(f, &f->m->config, f->max_tokens, list);
    for (size_t i = 0; i < N_BUFFERS && there; i++) {
        *list[i].at = f->be->ops->rows_open(f->be, list[i].kind, list[i].rows, list[i].dim);
        there = *list[i].at != NULL;
    }
    uint32_t seqs = f->max_seqs;
    f->places = calloc(seqs, sizeof *f->places);
    f->positions = calloc(seqs, sizeof *f->positions);
    f->seq_start = calloc((size_t)seqs + 1, sizeof *f->seq_start);
    f->blocks = calloc((size_t)seqs * GD_KV_SEQ_BLOCKS_MAX, sizeof *f->blocks);
    f->block_start = calloc((size_t)seqs + 1, sizeof *f->block_start);
    return there && f->places != NULL && f->positions != NULL && f->seq_start != NULL &&
           f->blocks != NULL && f->block_start != NULL;
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
    uint32_t context = m->config.context_max;
    struct gd_rope rope = {.inv_freq = m->inv_freq,
                           .n_positions =
                               context < GD_CONTEXT_TOKENS_MAX ? context : GD_CONTEXT_TOKENS_MAX};
    int rc = GD_OK;
    if (!buffers_alloc(f)) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for the activations of %u tokens", max_tokens);
    }
    rc = rc != GD_OK ? rc
                     : f->be->ops->kv_open(f->be, m->config.n_layers, n_blocks, &f->shape, &rope,
                                           &f->kv, err);
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
    struct buffer list[N_BUFFERS];
    list_buffers(f, &f->m->config, f->max_tokens, list);
    for (size_t i = 0; i < N_BUFFERS; i++) {
        f->be->ops->rows_close(f->be, *list[i].at);
    }
    f->be->ops->kv_close(f->be, f->kv);
    free(f->tap_x);
    free(f->places);
    free(f->positions);
    free(f->seq_start);
    free(f->blocks);
    free(f->block_start);
    free(f);
}

uint64_t gd_forward_block_bytes(const struct gd_model *m)
{
    struct gd_attn_shape shape = attn_shape(&m->config);
    uint64_t bytes = m->be->ops->kv_block_bytes(m->be, &shape);
    return bytes > UINT64_MAX / m->config.n_layers ? 0 : bytes * m->config.n_layers;
}

int gd_forward_copy(struct gd_forward *f, uint32_t dst, uint32_t src)
{
    if (dst >= f->n_blocks || src >= f->n_blocks) {
        return GD_EUSAGE;
    }
    return f->be->ops->kv_copy(f->be, f->kv, dst, src);
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
        f->places[i] = b->seq_start[seq + 1] - 1;
        f->positions[i] = b->positions[f->places[i]];
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
                             .block_start = f->block_start,
                             .places = f->places};
}

/* ---- the layers ---- */

/* The rest of a layer on `rows` rows: x += inner O; delta = MLP of the norm of x. */
static int mlp_block(struct gd_forward *f, uint32_t rows, const struct gd_model_layer *layer,
                     struct gd_rows *x)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    int rc = ops->gemm(f->be, rows, f->inner, layer->o, f->delta);
    rc = rc != GD_OK ? rc
                     : ops->add_rmsnorm(f->be, rows, c->dim, x, f->delta, layer->mlp_norm,
                                        c->rms_norm_eps, f->normed);
    rc = rc != GD_OK ? rc : ops->gemm(f->be, rows, f->normed, layer->gate_up, f->wide);
    rc = rc != GD_OK ? rc : ops->swiglu(f->be, rows, c->ffn_dim, f->wide, f->inner);
    return rc != GD_OK ? rc : ops->gemm(f->be, rows, f->inner, layer->down, f->delta);
}

/* Shows the tap, if there is one, what x is now. */
static int show(struct gd_forward *f, uint32_t n_tokens, int layer)
{
    if (f->tap == NULL) {
        return GD_OK;
    }
    uint32_t dim = f->m->config.dim;
    if (f->tap_x == NULL) {
        f->tap_x = calloc((size_t)f->max_tokens * dim, sizeof *f->tap_x);
        if (f->tap_x == NULL) {
            return GD_ENOMEM;
        }
    }
    int rc = f->be->ops->rows_read(f->be, f->x, n_tokens, dim, f->tap_x);
    if (rc == GD_OK) {
        f->tap(f->tap_ctx, layer, f->tap_x, n_tokens, dim);
    }
    return rc;
}

/* wide = QKV of the norm of x + delta; this layer's keys and values go into the cache. */
static int qkv_block(struct gd_forward *f, const struct gd_batch *b, uint32_t rows, uint32_t i)
{
    const struct gd_model_layer *layer = &f->m->layers[i];
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    int rc = ops->add_rmsnorm(f->be, rows, c->dim, f->x, i == 0 ? NULL : f->delta, layer->attn_norm,
                              c->rms_norm_eps, f->normed);
    rc = rc != GD_OK ? rc : show(f, b->n_tokens, (int)i - 1);
    rc = rc != GD_OK ? rc : ops->gemm(f->be, rows, f->normed, layer->qkv, f->wide);
    return rc != GD_OK ? rc : ops->rope_kv(f->be, b, f->wide, f->kv, i);
}

static int whole_layer(struct gd_forward *f, const struct gd_batch *b, uint32_t rows, uint32_t i)
{
    int rc = qkv_block(f, b, rows, i);
    rc = rc != GD_OK ? rc : f->be->ops->attention(f->be, b, f->wide, f->kv, i, f->inner);
    return rc != GD_OK ? rc : mlp_block(f, rows, &f->m->layers[i], f->x);
}

/* The last layer where only the tokens of `last` count: their rows are gathered into last_x. */
static int last_layer(struct gd_forward *f, const struct gd_batch *b, const struct gd_batch *last,
                      const struct gd_step_rows *rows, uint32_t i)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    int rc = qkv_block(f, b, rows->tokens, i);
    if (rc != GD_OK || rows->scored == 0) {
        return rc;
    }
    rc = ops->gather_rows(f->be, last, c->dim, f->x, f->last_x);
    rc = rc != GD_OK ? rc : ops->gather_rows(f->be, last, qkv_dim(c), f->wide, f->last_qkv);
    rc = rc != GD_OK ? rc : ops->attention(f->be, last, f->last_qkv, f->kv, i, f->inner);
    return rc != GD_OK ? rc : mlp_block(f, rows->scored, &f->m->layers[i], f->last_x);
}

/* last = final norm of the scored rows. With a tap all rows are still in x and delta: they are added
 * for the tap, then gathered. */
static int finish(struct gd_forward *f, const struct gd_batch *b, const struct gd_batch *last,
                  const struct gd_step_rows *rows)
{
    const struct gd_model_config *c = &f->m->config;
    const struct gd_backend_ops *ops = f->be->ops;
    const struct gd_rows *delta = f->delta;
    int rc = GD_OK;
    if (f->tap != NULL) {
        rc = ops->add_rmsnorm(f->be, rows->tokens, c->dim, f->x, delta, f->m->final_norm,
                              c->rms_norm_eps, f->normed);
        rc = rc != GD_OK ? rc : show(f, b->n_tokens, (int)c->n_layers - 1);
        if (rc == GD_OK && rows->scored > 0) {
            rc = ops->gather_rows(f->be, last, c->dim, f->x, f->last_x);
        }
        delta = NULL;
    }
    if (rc == GD_OK && rows->scored > 0) {
        rc = ops->add_rmsnorm(f->be, rows->scored, c->dim, f->last_x, delta, f->m->final_norm,
                              c->rms_norm_eps, f->last);
    }
    return rc;
}

static int queue_step(struct gd_forward *f, const struct gd_batch *b, const struct gd_batch *last,
                      const struct gd_step_rows *rows)
{
    uint32_t n_layers = f->m->config.n_layers;
    int rc = f->be->ops->embed(f->be, b, f->m->embed, f->x);
    for (uint32_t i = 0; i < n_layers && rc == GD_OK; i++) {
        bool whole = f->tap != NULL || i + 1 < n_layers;
        rc = whole ? whole_layer(f, b, rows->tokens, i) : last_layer(f, b, last, rows, i);
    }
    return rc != GD_OK ? rc : finish(f, b, last, rows);
}

int gd_forward_run(struct gd_forward *f, const struct gd_batch *b, const uint32_t *scored,
                   uint32_t n_scored, gd_forward_tap tap, void *ctx)
{
    f->n_rows = 0;
    if (!batch_fits(f, b, scored, n_scored)) {
        return GD_EUSAGE;
    }
    struct gd_batch last = scored_batch(f, b, scored, n_scored);
    struct gd_step_rows rows;
    f->tap = tap;
    f->tap_ctx = ctx;
    int rc = f->be->ops->step_begin(f->be, f->kv, b, &last, tap != NULL, &rows);
    if (rc != GD_OK) {
        return rc;
    }
    rc = rows.recorded ? GD_OK : queue_step(f, b, &last, &rows);
    int end = f->be->ops->step_end(f->be);
    rc = rc != GD_OK ? rc : end;
    f->n_rows = rc == GD_OK ? n_scored : 0;
    return rc;
}

int gd_forward_choices(struct gd_forward *f, uint32_t n, const struct gd_choice *choices,
                       float *logits)
{
    if (n > GD_STEP_CHOICES_MAX) {
        return GD_EUSAGE;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (choices[i].row >= f->n_rows || choices[i].id < 0 ||
            (uint32_t)choices[i].id >= f->m->config.vocab_size) {
            return GD_EUSAGE;
        }
    }
    return n == 0 ? GD_OK
                  : f->be->ops->choice_logits(f->be, n, choices, f->m->config.dim, f->last,
                                              f->m->lm_head, logits);
}
