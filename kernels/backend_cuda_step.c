/* backend_cuda_step.c - what a step is on a GPU.
 *
 * A step begins with one copy of what its operations need to know of the batch (the layout below),
 * then come the kernels, and step_end waits. Steps of few rows pad their row counts to those of
 * gdk_gemm_ranges; the second step of each count is recorded as a CUDA graph while its operations are
 * called (the first one has loaded the kernels, which must not happen in a recording), and the
 * following ones are replayed: the layout is at the same place, only its contents differ, and padding
 * tokens and tiles do nothing. */
#include "backend_cuda_parts.h"

/* ---- the layout of a step ----
 *
 * tokens of the batch, tiles of the batch, tokens and tiles of the scored batch, block tables of
 * both. Everything but the block tables has room for the padded counts, so that its place depends on
 * these alone. */

struct layout {
    size_t tokens[2], tiles[2], blocks, end; /* byte offsets */
    uint32_t n_rows[2], n_tiles[2];          /* padding included */
    uint32_t n_blocks[2];                    /* entries of the block tables, one after another */
};

static uint32_t tiles_of(uint32_t n_tokens, uint32_t group)
{
    return (n_tokens * group + GDK_CUDA_ATTN_ROWS - 1) / GDK_CUDA_ATTN_ROWS;
}

/* Tiles of a batch; or, for padded rows, the most that so many rows can have. */
static uint32_t count_tiles(const struct gd_batch *b, uint32_t rows, uint32_t group, bool padded)
{
    uint32_t seqs_max = rows < GD_STEP_SEQS_MAX ? rows : GD_STEP_SEQS_MAX, n = 0;
    if (padded) {
        return rows == 0 ? 0 : rows * group / GDK_CUDA_ATTN_ROWS + seqs_max;
    }
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        n += tiles_of(b->seq_start[i + 1] - b->seq_start[i], group);
    }
    return n;
}

static struct layout plan_layout(const struct gd_kv *kv, const struct gd_batch *const b[2],
                                 const struct gd_step_rows *rows, bool padded)
{
    uint32_t group = kv->shape.n_heads / kv->shape.n_kv_heads;
    struct layout l = {.n_rows = {rows->tokens, rows->scored}};
    for (int i = 0; i < 2; i++) {
        l.n_tiles[i] = count_tiles(b[i], l.n_rows[i], group, padded);
        l.tokens[i] = l.end;
        l.end += l.n_rows[i] * sizeof(struct gdk_token);
        l.tiles[i] = l.end;
        l.end += l.n_tiles[i] * sizeof(struct gdk_attn_tile);
    }
    l.blocks = l.end;
    for (int i = 0; i < 2; i++) {
        l.n_blocks[i] = b[i]->n_seqs > 0 ? b[i]->block_start[b[i]->n_seqs] : 0;
        l.end += l.n_blocks[i] * sizeof(uint32_t);
    }
    return l;
}

/* The largest layout that a step can have. */
static size_t layout_bytes_max(const struct gd_kv *kv)
{
    uint32_t group = kv->shape.n_heads / kv->shape.n_kv_heads;
    size_t rows = GD_STEP_TOKENS_MAX + GD_STEP_SEQS_MAX;
    size_t tiles = rows * group / GDK_CUDA_ATTN_ROWS + 2 * GD_STEP_SEQS_MAX + 2;
    size_t blocks = (size_t)2 * GD_STEP_SEQS_MAX * GD_KV_SEQ_BLOCKS_MAX;
    return rows * sizeof(struct gdk_token) + tiles * sizeof(struct gdk_attn_tile) +
           blocks * sizeof(uint32_t);
}

static void fill_tokens(const struct gd_batch *b, uint32_t n_rows, struct gdk_token *out)
{
    uint32_t seq = 0;
    for (uint32_t t = 0; t < n_rows; t++) {
        if (t >= b->n_tokens) {
            out[t] = (struct gdk_token){.id = -1};
            continue;
        }
        while (t >= b->seq_start[seq + 1]) {
            seq++;
        }
        uint32_t position = (uint32_t)b->positions[t];
        uint32_t block = b->blocks[b->block_start[seq] + position / GD_KV_BLOCK_TOKENS];
        out[t] =
            (struct gdk_token){.id = b->tokens != NULL ? b->tokens[t] : 0,
                               .position = (int32_t)position,
                               .slot = block * GD_KV_BLOCK_TOKENS + position % GD_KV_BLOCK_TOKENS,
                               .place = b->places != NULL ? b->places[t] : 0};
    }
}

/* Late tiles of a sequence see the most keys: they go first, so that none starts last and alone. */
static void fill_tiles(const struct gd_batch *b, uint32_t group, uint32_t first_block,
                       uint32_t n_tiles, struct gdk_attn_tile *out)
{
    uint32_t at = 0;
    for (uint32_t seq = 0; seq < b->n_seqs; seq++) {
        uint32_t first = b->seq_start[seq], n = b->seq_start[seq + 1] - first;
        for (uint32_t i = tiles_of(n, group); i-- > 0;) {
            out[at++] = (struct gdk_attn_tile){.first = first,
                                               .n_tokens = n,
                                               .position = (uint32_t)b->positions[first],
                                               .row = i * GDK_CUDA_ATTN_ROWS,
                                               .blocks = first_block + b->block_start[seq]};
        }
    }
    memset(out + at, 0, (n_tiles - at) * sizeof *out);
}

/* Sends the layout and notes where its parts are on the device. */
static int send_layout(struct cuda_backend *cuda, const struct gd_kv *kv,
                       const struct gd_batch *const b[2], const struct layout *l)
{
    uint32_t group = kv->shape.n_heads / kv->shape.n_kv_heads;
    for (int i = 0; i < 2; i++) {
        void *tokens = cuda->layout + l->tokens[i], *tiles = cuda->layout + l->tiles[i];
        uint32_t first_block = i == 0 ? 0 : l->n_blocks[0];
        fill_tokens(b[i], l->n_rows[i], tokens);
        fill_tiles(b[i], group, first_block, l->n_tiles[i], tiles);
        if (l->n_blocks[i] > 0) {
            memcpy(cuda->layout + l->blocks + first_block * sizeof(uint32_t), b[i]->blocks,
                   l->n_blocks[i] * sizeof(uint32_t));
        }
    }
    return cuda_result(cuda,
                       cudaMemcpyAsync(cuda->layout_on_device, cuda->layout, l->end,
                                       cudaMemcpyHostToDevice, cuda->stream),
                       "sending a step");
}

static void place_layout(struct cuda_backend *cuda, const struct layout *l)
{
    for (int i = 0; i < 2; i++) {
        void *tokens = cuda->layout_on_device + l->tokens[i];
        void *tiles = cuda->layout_on_device + l->tiles[i];
        void *blocks = cuda->layout_on_device + l->blocks;
        cuda->on_device[i] = (struct gdk_cuda_batch){.tokens = tokens,
                                                     .tiles = tiles,
                                                     .blocks = blocks,
                                                     .n_rows = l->n_rows[i],
                                                     .n_tiles = l->n_tiles[i]};
    }
}

/* ---- steps ---- */

void cuda_forget_graphs(struct cuda_backend *cuda)
{
    for (uint32_t i = 0; i < cuda->n_graphs; i++) {
        if (cuda->graphs[i].exec != NULL) {
            cuda_result(cuda, cudaGraphExecDestroy(cuda->graphs[i].exec), "forgetting a graph");
        }
    }
    cuda->n_graphs = 0;
}

/* The graph of the step's row counts, with room for it where it is new. */
static struct cuda_graph *find_graph(struct cuda_backend *cuda)
{
    for (uint32_t i = 0; i < cuda->n_graphs; i++) {
        struct cuda_graph *g = &cuda->graphs[i];
        if (g->kv == cuda->kv && g->tokens == cuda->rows.tokens && g->scored == cuda->rows.scored) {
            return g;
        }
    }
    if (cuda->n_graphs == CUDA_GRAPHS) {
        cuda_forget_graphs(cuda);
    }
    struct cuda_graph *g = &cuda->graphs[cuda->n_graphs++];
    *g = (struct cuda_graph){
        .kv = cuda->kv, .tokens = cuda->rows.tokens, .scored = cuda->rows.scored};
    return g;
}

static bool positions_fit(const struct gd_kv *kv, const struct gd_batch *b)
{
    for (uint32_t t = 0; t < b->n_tokens; t++) {
        if (b->positions[t] < 0 || (uint32_t)b->positions[t] >= kv->n_positions) {
            return false;
        }
    }
    return true;
}

int cuda_step_begin(struct gd_backend *be, const struct gd_kv *kv, const struct gd_batch *b,
                    const struct gd_batch *scored, bool watched, struct gd_step_rows *out)
{
    struct cuda_backend *cuda = cuda_of(be);
    const struct gd_batch *both[2] = {b, scored};
    bool small = b->n_tokens <= GDK_CUDA_SMALL_ROWS_MAX && !watched;
    cuda->failed = GD_OK;
    cuda->kv = kv;
    cuda->batch = b;
    cuda->rows = (struct gd_step_rows){.tokens = gdk_cuda_rows_padded(b->n_tokens),
                                       .scored = gdk_cuda_rows_padded(scored->n_tokens)};
    if (!positions_fit(kv, b) || b->n_tokens > GD_STEP_TOKENS_MAX || b->n_seqs > GD_STEP_SEQS_MAX ||
        scored->n_tokens > GD_STEP_SEQS_MAX) {
        return GD_EUSAGE;
    }
    struct layout l = plan_layout(kv, both, &cuda->rows, small);
    GD_ASSERT(l.end <= cuda->layout_bytes);
    int rc = cuda_result(cuda, cudaSetDevice(cuda->index), "cudaSetDevice");
    rc = rc != GD_OK ? rc : send_layout(cuda, kv, both, &l);
    place_layout(cuda, &l);
    cuda->step = STEP_DIRECT;
    cuda->graph = NULL;
    if (rc == GD_OK && small) {
        cuda->graph = find_graph(cuda);
        cuda->rows.recorded = cuda->graph->exec != NULL;
        cuda->step = cuda->rows.recorded       ? STEP_RECORDED
                     : cuda->graph->been_there ? STEP_RECORDING
                                               : STEP_DIRECT;
        cuda->graph->been_there = true;
    }
    if (rc == GD_OK && cuda->step == STEP_RECORDING) {
        rc = cuda_result(cuda,
                         cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
                         "recording a step");
    }
    if (rc != GD_OK) {
        cuda->step = STEP_NONE;
    }
    *out = cuda->rows;
    return rc;
}

/* Makes a graph of what was called since step_begin and starts it. */
static int finish_recording(struct cuda_backend *cuda)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t ended = cudaStreamEndCapture(cuda->stream, &graph);
    int rc = cuda->failed != GD_OK ? cuda->failed : cuda_result(cuda, ended, "recording a step");
    if (rc == GD_OK) {
        rc = cuda_result(cuda, cudaGraphInstantiate(&exec, graph, 0), "recording a step");
    }
    if (graph != NULL) {
        int e = cuda_result(cuda, cudaGraphDestroy(graph), "recording a step");
        rc = rc != GD_OK ? rc : e;
    }
    cuda->graph->exec = exec; /* also one that is of no use now: it is forgotten with the others */
    return rc != GD_OK ? rc : cuda_result(cuda, cudaGraphLaunch(exec, cuda->stream), "a step");
}

int cuda_step_end(struct gd_backend *be)
{
    struct cuda_backend *cuda = cuda_of(be);
    int rc = cuda->failed;
    if (cuda->step == STEP_RECORDING) {
        rc = finish_recording(cuda);
    } else if (cuda->step == STEP_RECORDED && rc == GD_OK) {
        rc = cuda_result(cuda, cudaGraphLaunch(cuda->graph->exec, cuda->stream), "a step");
    }
    cuda->step = STEP_NONE;
    /* Waits in any case: the layout is filled anew by the next step. */
    int waited = cuda_result(cuda, cudaStreamSynchronize(cuda->stream), "a step");
    return rc != GD_OK ? rc : waited;
}

int cuda_kv_copy(struct gd_backend *be, struct gd_kv *kv, uint32_t dst, uint32_t src)
{
    struct cuda_backend *cuda = cuda_of(be);
    if (dst >= kv->n_blocks || src >= kv->n_blocks) {
        return GD_EUSAGE;
    }
    if (dst == src) {
        return GD_OK;
    }
    int rc = cuda_result(cuda, cudaSetDevice(cuda->index), "cudaSetDevice");
    return rc != GD_OK
               ? rc
               : cuda_result(cuda,
                             gdk_kv_copy_cuda(cuda->stream, kv->n_layers, kv->n_blocks * kv->block,
                                              (uint32_t)kv->block, kv->data, dst, src),
                             "copying a block");
}

/* kv_open, and room for the layouts of its steps. */
int cuda_kv_open_for_steps(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                           const struct gd_attn_shape *s, const struct gd_rope *rope,
                           struct gd_kv **out, struct gd_err *err)
{
    struct cuda_backend *cuda = cuda_of(be);
    struct gd_kv *kv = NULL;
    int rc = cuda_kv_open(be, n_layers, n_blocks, s, rope, &kv, err);
    if (rc != GD_OK) {
        return rc;
    }
    size_t nbytes = layout_bytes_max(kv);
    if (nbytes > cuda->layout_bytes) {
        cuda_forget_graphs(cuda);
        if (cuda->layout != NULL) {
            cudaFreeHost(cuda->layout);
            cudaFree(cuda->layout_on_device);
        }
        cuda->layout = NULL;
        cuda->layout_on_device = NULL;
        cuda->layout_bytes = 0;
        cudaError_t e = cudaMallocHost((void **)&cuda->layout, nbytes);
        e = e != cudaSuccess ? e : cudaMalloc((void **)&cuda->layout_on_device, nbytes);
        if (e != cudaSuccess) {
            cudaGetLastError(); /* it is told here, and must not be told by the next launch */
            cuda_kv_close(be, kv);
            return gd_err_set(err, GD_ENOMEM, "no device memory for the layout of a step: %s",
                              cudaGetErrorString(e));
        }
        cuda->layout_bytes = nbytes;
    }
    *out = kv;
    return GD_OK;
}
