/* shape.c - a Hugging Face model directory in the exact shape of a published model, with random
 * weights: for loading, memory and speed where the real weights are not at hand.
 *
 *     bench_shape DIR [SHAPE] [--like MODEL_DIR] [--seed S] [--layers N] [--threads N]
 *         [--shard-mib N]
 *
 * SHAPE: llama-3.1-8b (the default), qwen2.5-7b, tiny-llama, tiny-qwen2. Matrices and biases are
 * Gaussian of deviation 0.02, norms 1, all bf16, in shards of less than 5 GB; the values depend on
 * the seed and on the tensor's place in the model alone. --like copies tokenizer.json and
 * policy.json from there: the engine takes a tokenizer of fewer ids than the model has. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHARD_BYTES 4900000000u /* unless told */
#define TENSORS_MAX 4096u
#define SHARDS_MAX 64u
#define PIECE (4 * GD_MIB) /* values of one piece of work */
#define QUANTILES 65536u
#define DEVIATION 0.02
#define HEADER_BYTES (1 * GD_MIB)

struct shape {
    const char *name, *architecture, *type, *more; /* more: of config.json */
    uint32_t layers, dim, heads, kv_heads, head_dim, ffn, vocab, positions, bos, eos;
    double theta, eps;
    bool bias;
};

#define LLAMA_31                                                                                   \
    "\"attention_bias\": false, \"mlp_bias\": false, \"rope_scaling\": {\"factor\": 8.0, "         \
    "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "                                        \
    "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}"
#define QWEN2 "\"use_sliding_window\": false, \"sliding_window\": null"
static const struct shape SHAPES[] = {
    {"llama-3.1-8b", "LlamaForCausalLM", "llama", LLAMA_31, 32, 4096, 32, 8, 128, 14336, 128256,
     131072, 128000, 128009, 500000.0, 1e-5, false},
    {"qwen2.5-7b", "Qwen2ForCausalLM", "qwen2", QWEN2, 28, 3584, 28, 4, 128, 18944, 152064, 32768,
     151643, 151645, 1000000.0, 1e-6, true},
    {"tiny-llama", "LlamaForCausalLM", "llama", LLAMA_31, 2, 256, 4, 2, 64, 512, 8192, 16384, 0, 1,
     500000.0, 1e-5, false},
    {"tiny-qwen2", "Qwen2ForCausalLM", "qwen2", QWEN2, 2, 256, 4, 2, 64, 512, 8192, 16384, 0, 1,
     1000000.0, 1e-6, true},
};

struct tensor {
    char name[96];
    uint32_t rows, cols; /* cols 0: a vector */
    bool ones;
    uint32_t shard;
    uint64_t offset; /* in the data of its shard */
};

struct shard {
    char name[64];
    uint64_t nbytes, data_at; /* of its data; where they begin in the file */
    int fd;
};

struct model {
    const char *dir;
    struct shape shape;
    uint64_t seed, shard_bytes;
    struct tensor tensors[TENSORS_MAX];
    uint32_t n_tensors, n_shards;
    struct shard shards[SHARDS_MAX];
    uint16_t quantiles[QUANTILES]; /* bf16, of the normal distribution */
    _Atomic uint64_t next;         /* piece of work */
    _Atomic bool failed;
};

static uint64_t values_of(const struct tensor *t)
{
    return (uint64_t)t->rows * (t->cols > 0 ? t->cols : 1);
}

/* ---- what there is to write ---- */

static void add(struct model *m, bool ones, uint32_t rows, uint32_t cols, const char *format,
                int layer)
{
    struct tensor *t = &m->tensors[m->n_tensors++];
    GD_ASSERT(m->n_tensors < TENSORS_MAX);
    *t = (struct tensor){.rows = rows, .cols = cols, .ones = ones};
    if (layer >= 0) {
        snprintf(t->name, sizeof t->name, "model.layers.%d.%s", layer, format);
    } else {
        snprintf(t->name, sizeof t->name, "%s", format);
    }
}

static void list_tensors(struct model *m)
{
    const struct shape *s = &m->shape;
    uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    add(m, false, s->vocab, s->dim, "model.embed_tokens.weight", -1);
    for (int i = 0; i < (int)s->layers; i++) {
        add(m, true, s->dim, 0, "input_layernorm.weight", i);
        add(m, false, q, s->dim, "self_attn.q_proj.weight", i);
        add(m, false, kv, s->dim, "self_attn.k_proj.weight", i);
        add(m, false, kv, s->dim, "self_attn.v_proj.weight", i);
        if (s->bias) {
            add(m, false, q, 0, "self_attn.q_proj.bias", i);
            add(m, false, kv, 0, "self_attn.k_proj.bias", i);
            add(m, false, kv, 0, "self_attn.v_proj.bias", i);
        }
        add(m, false, s->dim, q, "self_attn.o_proj.weight", i);
        add(m, true, s->dim, 0, "post_attention_layernorm.weight", i);
        add(m, false, s->ffn, s->dim, "mlp.gate_proj.weight", i);
        add(m, false, s->ffn, s->dim, "mlp.up_proj.weight", i);
        add(m, false, s->dim, s->ffn, "mlp.down_proj.weight", i);
    }
    add(m, true, s->dim, 0, "model.norm.weight", -1);
    add(m, false, s->vocab, s->dim, "lm_head.weight", -1);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        uint64_t nbytes = 2 * values_of(&m->tensors[i]);
        if (m->n_shards == 0 || m->shards[m->n_shards - 1].nbytes + nbytes > m->shard_bytes) {
            m->n_shards++;
            GD_ASSERT(m->n_shards <= SHARDS_MAX);
        }
        m->tensors[i].shard = m->n_shards - 1;
        m->tensors[i].offset = m->shards[m->n_shards - 1].nbytes;
        m->shards[m->n_shards - 1].nbytes += nbytes;
    }
    for (uint32_t i = 0; i < m->n_shards; i++) {
        snprintf(m->shards[i].name, sizeof m->shards[i].name,
                 m->n_shards == 1 ? "model.safetensors" : "model-%05u-of-%05u.safetensors", i + 1,
                 m->n_shards);
    }
}

/* ---- values ---- */

static uint16_t bf16_of(double v)
{
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* The value at the middle of each 65536th of the normal distribution, found by walking along it. */
static void make_quantiles(uint16_t *q)
{
    const double step = 1e-5;
    double below = 0, x = -6;
    for (uint32_t i = 0; i < QUANTILES; i++) {
        while (below < (i + 0.5) / QUANTILES && x < 6) {
            below += step * 0.3989422804014327 * exp(-x * x / 2);
            x += step;
        }
        q[i] = bf16_of(DEVIATION * x);
    }
}

static void draw(struct model *m, uint32_t tensor, uint64_t piece, uint16_t *out, size_t n)
{
    struct bench_rng r = {(m->seed * 1000003 + tensor) * 1000003 + piece};
    if (m->tensors[tensor].ones) {
        for (size_t i = 0; i < n; i++) {
            out[i] = 0x3f80;
        }
        return;
    }
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = bench_rng_next(&r);
        for (size_t j = 0; j < 4 && i + j < n; j++, bits >>= 16) {
            out[i + j] = m->quantiles[bits & 0xffff];
        }
    }
}

/* ---- files ---- */

static bool write_at(int fd, const void *data, size_t n, uint64_t at)
{
    const char *from = data;
    while (n > 0) {
        ssize_t wrote = pwrite(fd, from, n, (off_t)at);
        if (wrote <= 0) {
            return false;
        }
        from += wrote;
        at += (uint64_t)wrote;
        n -= (size_t)wrote;
    }
    return true;
}

/* Pieces of work are numbered through all tensors. */
static void *writer_main(void *ctx)
{
    struct model *m = ctx;
    uint16_t *values = malloc(PIECE * sizeof *values);
    uint64_t first = 0, piece = atomic_fetch_add(&m->next, 1);
    if (values == NULL) {
        atomic_store(&m->failed, true);
        return NULL;
    }
    for (uint32_t i = 0; i < m->n_tensors && !atomic_load(&m->failed); i++) {
        const struct tensor *t = &m->tensors[i];
        uint64_t n_values = values_of(t), pieces = (n_values + PIECE - 1) / PIECE;
        for (; piece < first + pieces; piece = atomic_fetch_add(&m->next, 1)) {
            uint64_t from = (piece - first) * PIECE;
            size_t n = (size_t)(n_values - from < PIECE ? n_values - from : PIECE);
            const struct shard *s = &m->shards[t->shard];
            draw(m, i, piece - first, values, n);
            if (!write_at(s->fd, values, n * 2, s->data_at + t->offset + 2 * from)) {
                atomic_store(&m->failed, true);
            }
        }
        first += pieces;
    }
    free(values);
    return NULL;
}

static int open_in(const char *dir, const char *name)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n < 0 || (size_t)n >= sizeof path
               ? -1
               : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

static int cannot_write(const struct model *m, const char *name, struct gd_err *err)
{
    return gd_err_set(err, GD_EIO, "%s/%s: %s", m->dir, name, strerror(errno));
}

static int write_small(const struct model *m, const char *name, const struct gd_buf *b,
                       struct gd_err *err)
{
    int fd = open_in(m->dir, name);
    bool ok = fd >= 0 && b->failed == 0 && write_at(fd, b->data, b->len, 0);
    ok = fd >= 0 && close(fd) == 0 && ok;
    return ok ? GD_OK : cannot_write(m, name, err);
}

/* The header of a shard, padded to a multiple of 8 bytes; leaves the file open. */
static int open_shard(struct model *m, uint32_t shard, struct gd_err *err)
{
    struct shard *s = &m->shards[shard];
    struct gd_buf out;
    struct gd_json_writer w;
    gd_buf_init(&out, HEADER_BYTES);
    gd_json_writer_init(&w, &out);
    gd_jw_object(&w);
    gd_jw_key(&w, "__metadata__"); /* transformers wants it, and the size in the index */
    gd_jw_object(&w);
    gd_jw_put_str(&w, "format", "pt");
    gd_jw_object_end(&w);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensors[i];
        if (t->shard != shard) {
            continue;
        }
        gd_jw_key(&w, t->name);
        gd_jw_object(&w);
        gd_jw_put_str(&w, "dtype", "BF16");
        gd_jw_key(&w, "shape");
        gd_jw_array(&w);
        gd_jw_i64(&w, t->rows);
        if (t->cols > 0) {
            gd_jw_i64(&w, t->cols);
        }
        gd_jw_array_end(&w);
        gd_jw_key(&w, "data_offsets");
        gd_jw_array(&w);
        gd_jw_i64(&w, (int64_t)t->offset);
        gd_jw_i64(&w, (int64_t)(t->offset + 2 * values_of(t)));
        gd_jw_array_end(&w);
        gd_jw_object_end(&w);
    }
    gd_jw_object_end(&w);
    while (out.len % 8 != 0) {
        gd_buf_z(&out, " ");
    }
    uint64_t length = out.len; /* little endian, as this processor */
    s->data_at = 8 + length;
    s->fd = open_in(m->dir, s->name);
    bool ok = s->fd >= 0 && out.failed == 0 && write_at(s->fd, &length, 8, 0) &&
              write_at(s->fd, out.data, out.len, 8) &&
              ftruncate(s->fd, (off_t)(s->data_at + s->nbytes)) == 0;
    gd_buf_free(&out);
    return ok ? GD_OK : cannot_write(m, s->name, err);
}

static uint64_t bytes_of(const struct model *m)
{
    uint64_t nbytes = 0;
    for (uint32_t i = 0; i < m->n_shards; i++) {
        nbytes += m->shards[i].nbytes;
    }
    return nbytes;
}

static int write_index(struct model *m, struct gd_err *err)
{
    struct gd_buf out;
    struct gd_json_writer w;
    gd_buf_init(&out, HEADER_BYTES);
    gd_json_writer_init(&w, &out);
    gd_jw_object(&w);
    gd_jw_key(&w, "metadata");
    gd_jw_object(&w);
    gd_jw_put_i64(&w, "total_size", (int64_t)bytes_of(m));
    gd_jw_object_end(&w);
    gd_jw_key(&w, "weight_map");
    gd_jw_object(&w);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        gd_jw_put_str(&w, m->tensors[i].name, m->shards[m->tensors[i].shard].name);
    }
    gd_jw_object_end(&w);
    gd_jw_object_end(&w);
    int rc = write_small(m, "model.safetensors.index.json", &out, err);
    gd_buf_free(&out);
    return rc;
}

static int write_config(struct model *m, struct gd_err *err)
{
    const struct shape *s = &m->shape;
    char text[2048];
    snprintf(text, sizeof text,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %u,\n"
             " \"intermediate_size\": %u, \"num_hidden_layers\": %u, \"num_attention_heads\": %u,\n"
             " \"num_key_value_heads\": %u, \"head_dim\": %u, \"vocab_size\": %u,\n"
             " \"max_position_embeddings\": %u, \"rms_norm_eps\": %g, \"rope_theta\": %.1f,\n"
             " \"hidden_act\": \"silu\", \"tie_word_embeddings\": false, \"torch_dtype\": "
             "\"bfloat16\",\n"
             " \"bos_token_id\": %u, \"eos_token_id\": %u, \"initializer_range\": %g,\n %s}\n",
             s->architecture, s->type, s->dim, s->ffn, s->layers, s->heads, s->kv_heads,
             s->head_dim, s->vocab, s->positions, s->eps, s->theta, s->bos, s->eos, DEVIATION,
             s->more);
    struct gd_buf out;
    gd_buf_init(&out, HEADER_BYTES);
    gd_buf_z(&out, text);
    int rc = write_small(m, "config.json", &out, err);
    gd_buf_free(&out);
    return rc;
}

/* A file of another model; one that is not there is not copied. */
static int copy_file(const struct model *m, const char *like, const char *name, struct gd_err *err)
{
    char path[4096], chunk[65536];
    struct gd_buf out;
    int n = snprintf(path, sizeof path, "%s/%s", like, name);
    FILE *f = n > 0 && (size_t)n < sizeof path ? fopen(path, "re") : NULL;
    if (f == NULL) {
        return errno == ENOENT ? GD_OK : gd_err_set(err, GD_EIO, "%s: %s", path, strerror(errno));
    }
    gd_buf_init(&out, GD_FILE_JSON_BYTES_MAX);
    for (size_t got; (got = fread(chunk, 1, sizeof chunk, f)) > 0;) {
        gd_buf_add(&out, chunk, got);
    }
    fclose(f);
    int rc = write_small(m, name, &out, err);
    gd_buf_free(&out);
    return rc;
}

static int write_weights(struct model *m, uint32_t n_threads, struct gd_err *err)
{
    pthread_t threads[GD_THREADS_MAX];
    uint32_t started = 0;
    int rc = GD_OK;
    for (uint32_t i = 0; i < m->n_shards; i++) {
        m->shards[i].fd = -1;
    }
    for (uint32_t i = 0; i < m->n_shards && rc == GD_OK; i++) {
        rc = open_shard(m, i, err);
    }
    while (rc == GD_OK && started < n_threads &&
           pthread_create(&threads[started], NULL, writer_main, m) == 0) {
        started++;
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    for (uint32_t i = 0; i < m->n_shards; i++) {
        if (m->shards[i].fd >= 0 && close(m->shards[i].fd) != 0) {
            atomic_store(&m->failed, true);
        }
    }
    return rc == GD_OK && (started == 0 || atomic_load(&m->failed))
               ? gd_err_set(err, GD_EIO, "%s: the weights could not be written: %s", m->dir,
                            strerror(errno))
               : rc;
}

static int write_model(struct model *m, const char *like, uint32_t n_threads, struct gd_err *err)
{
    double begin = bench_now_ms();
    if (mkdir(m->dir, 0755) != 0 && errno != EEXIST) {
        return gd_err_set(err, GD_EIO, "%s: %s", m->dir, strerror(errno));
    }
    list_tensors(m);
    make_quantiles(m->quantiles);
    int rc = write_config(m, err);
    rc = rc != GD_OK || m->n_shards == 1 ? rc : write_index(m, err);
    rc = rc != GD_OK || like == NULL ? rc : copy_file(m, like, "tokenizer.json", err);
    rc = rc != GD_OK || like == NULL ? rc : copy_file(m, like, "policy.json", err);
    rc = rc != GD_OK ? rc : write_weights(m, n_threads, err);
    if (rc == GD_OK) {
        printf("%s: %s, %u layers, %u tensors in %u files, %.2f GB in %.1f s\n", m->dir,
               m->shape.name, m->shape.layers, m->n_tensors, m->n_shards, (double)bytes_of(m) / 1e9,
               (bench_now_ms() - begin) / 1e3);
    }
    return rc;
}

static bool find_shape(struct model *m, const char *name)
{
    for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++) {
        if (strcmp(SHAPES[i].name, name) == 0) {
            m->shape = SHAPES[i];
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"like", required_argument, NULL, 'l'},      {"seed", required_argument, NULL, 's'},
        {"layers", required_argument, NULL, 'n'},    {"threads", required_argument, NULL, 't'},
        {"shard-mib", required_argument, NULL, 'b'}, {NULL, 0, NULL, 0}};
    static struct model m;
    struct gd_err err = {0};
    const char *like = NULL;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t seed = 1, layers = 0, shard_mib = 0, threads = online > 0 ? (uint64_t)online : 1;
    bool ok = true;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1 && ok;) {
        like = c == 'l' ? optarg : like;
        ok = c != '?' && (c != 's' || bench_number(optarg, INT64_MAX, &seed)) &&
             (c != 'n' || (bench_number(optarg, GD_MODEL_LAYERS_MAX, &layers) && layers > 0)) &&
             (c != 'b' || bench_number(optarg, 1000000, &shard_mib)) &&
             (c != 't' || bench_number(optarg, GD_THREADS_MAX, &threads));
    }
    int rest = argc - optind;
    ok = ok && threads > 0 && (rest == 1 || rest == 2) &&
         find_shape(&m, rest == 2 ? argv[optind + 1] : SHAPES[0].name);
    if (!ok) {
        fprintf(stderr,
                "usage: %s DIR [llama-3.1-8b|qwen2.5-7b|tiny-llama|tiny-qwen2] [--like MODEL_DIR]\n"
                "    [--seed S] [--layers N] [--threads N] [--shard-mib N]\n",
                argv[0]);
        return 2;
    }
    m.dir = argv[optind];
    m.seed = seed;
    m.shard_bytes = shard_mib > 0 ? shard_mib * GD_MIB : SHARD_BYTES;
    m.shape.layers = layers > 0 ? (uint32_t)layers : m.shape.layers;
    int rc =
        write_model(&m, like, threads < GD_THREADS_MAX ? (uint32_t)threads : GD_THREADS_MAX, &err);
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    return rc == GD_OK ? 0 : 1;
}
