/* model_fixture.h - what test_model.c stands on: allocations that fail on demand, a back end that
 * records what it is given, and a writer of small model directories. For one test program; state is
 * static. */
#ifndef GUARDIAN_TESTS_MODEL_FIXTURE_H
#define GUARDIAN_TESTS_MODEL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guardian/model.h"

#include <string.h>

/* ---- memory that runs out ----
 *
 * Every allocation of the program passes here, so that one of them, or all from one on, can fail. A
 * sanitizer brings its own allocator; there the sweep is not part of the list of tests. */

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MEMORY_SWEEP 0
#else
#define MEMORY_SWEEP 1

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

/* Shards are hashed by several threads. */
static struct {
    bool on, stay;   /* stay: all from the chosen one on fail */
    atomic_int left; /* allocations until one fails; below zero then */
    atomic_int failed;
    atomic_long live; /* blocks taken and not given back while on */
} memory;

static bool memory_fails(void)
{
    if (!memory.on)
        return false;
    const int left = atomic_fetch_sub(&memory.left, 1);
    if (left > 0 || (left < 0 && !memory.stay))
        return false;
    atomic_fetch_add(&memory.failed, 1);
    return true;
}

static void *counted(void *p)
{
    memory.live += memory.on && p != NULL;
    return p;
}

void *malloc(size_t n)
{
    return memory_fails() ? NULL : counted(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    return memory_fails() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (memory_fails())
        return NULL;
    void *q = __libc_realloc(p, n);
    return p == NULL ? counted(q) : q;
}

void *aligned_alloc(size_t align, size_t n)
{
    return memory_fails() ? NULL : counted(__libc_memalign(align, n));
}

void free(void *p)
{
    memory.live -= memory.on && p != NULL;
    __libc_free(p);
}
#endif

/* ---- a back end that records ---- */

struct gd_vector {
    uint32_t n;
    float *values; /* copy */
};

struct gd_weight {
    uint32_t n, k;
    enum gd_dtype dtype;
    void *rows;  /* copy */
    float *bias; /* copy, or NULL */
};

struct gd_table {
    uint32_t n, k;
    enum gd_dtype dtype;
    void *rows; /* taken over */
};

struct fake {
    struct gd_backend be;
    int live;      /* objects not freed yet */
    int calls;     /* that can fail */
    int fail_call; /* the one that does; 0: none */
    uint64_t left; /* what memory_left says */
};

static size_t element_bytes(enum gd_dtype t)
{
    return t == GD_DTYPE_F32 ? 4 : 2;
}

static bool fails(struct gd_backend *be)
{
    struct fake *f = (struct fake *)be;
    return ++f->calls == f->fail_call;
}

static uint64_t fake_memory_left(struct gd_backend *be)
{
    return ((struct fake *)be)->left;
}

/* A copy of n bytes; NULL when there is no memory. */
static void *fake_copy(const void *src, size_t n)
{
    void *p = malloc(n);
    if (p != NULL)
        memcpy(p, src, n);
    return p;
}

static struct gd_vector *fake_vector_load(struct gd_backend *be, uint32_t n, const float *values)
{
    if (fails(be))
        return NULL;
    struct gd_vector *v = calloc(1, sizeof *v);
    float *copy = fake_copy(values, n * sizeof *values);
    if (v == NULL || copy == NULL) {
        free(v);
        free(copy);
        return NULL;
    }
    *v = (struct gd_vector){n, copy};
    ((struct fake *)be)->live++;
    return v;
}

static void fake_vector_free(struct gd_backend *be, struct gd_vector *v)
{
    assert_non_null(v);
    ((struct fake *)be)->live--;
    free(v->values);
    free(v);
}

static int fake_weight_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                            const void *rows, const float *bias, struct gd_weight **out,
                            struct gd_err *err)
{
    if (fails(be))
        return gd_err_set(err, GD_ENOMEM, "the fake has no memory");
    struct gd_weight *w = calloc(1, sizeof *w);
    void *copy = fake_copy(rows, (size_t)n * k * element_bytes(dtype));
    float *bias_copy = bias != NULL ? fake_copy(bias, n * sizeof *bias) : NULL;
    if (w == NULL || copy == NULL || (bias != NULL && bias_copy == NULL)) {
        free(w);
        free(copy);
        free(bias_copy);
        return gd_err_set(err, GD_ENOMEM, "the fake has no memory");
    }
    *w = (struct gd_weight){n, k, dtype, copy, bias_copy};
    ((struct fake *)be)->live++;
    *out = w;
    return GD_OK;
}

static void fake_weight_free(struct gd_backend *be, struct gd_weight *w)
{
    assert_non_null(w);
    ((struct fake *)be)->live--;
    free(w->rows);
    free(w->bias);
    free(w);
}

static int fake_table_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                           void *rows, struct gd_table **out, struct gd_err *err)
{
    if (fails(be)) {
        free(rows);
        return gd_err_set(err, GD_ENOMEM, "the fake has no memory");
    }
    struct gd_table *t = calloc(1, sizeof *t);
    if (t == NULL) {
        free(rows);
        return gd_err_set(err, GD_ENOMEM, "the fake has no memory");
    }
    *t = (struct gd_table){n, k, dtype, rows};
    ((struct fake *)be)->live++;
    *out = t;
    return GD_OK;
}

static void fake_table_free(struct gd_backend *be, struct gd_table *t)
{
    ((struct fake *)be)->live--;
    free(t->rows);
    free(t);
}

static uint64_t fake_weight_bytes(struct gd_backend *be, uint32_t n, uint32_t k)
{
    (void)be;
    return 1000 + (uint64_t)n * k * 4;
}

/* As if each table had an index of its own. */
static uint64_t fake_table_bytes(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype)
{
    (void)be;
    return 50 + (uint64_t)n * k * element_bytes(dtype);
}

/* All that loading a model may call: no rows, no cache, no steps. */
static const struct gd_backend_ops FAKE_OPS = {
    .memory_left = fake_memory_left,
    .vector_load = fake_vector_load,
    .vector_free = fake_vector_free,
    .weight_load = fake_weight_load,
    .weight_free = fake_weight_free,
    .table_load = fake_table_load,
    .table_free = fake_table_free,
    .weight_bytes = fake_weight_bytes,
    .table_bytes = fake_table_bytes,
};

static struct fake fake_new(void)
{
    return (struct fake){.be = {.ops = &FAKE_OPS, .device = "fake", .gemm_dtype = "f32"},
                         .left = UINT64_MAX};
}

/* ---- a model directory ---- */

#define DIM 8u
#define HEADS 2u
#define HEAD_DIM 4u
#define FFN 6u
#define VOCAB 10u
#define LAYERS 2u
#define MAX_TENSORS 40

struct tensor {
    char name[96];
    const char *dtype;
    uint32_t rows, cols; /* cols 0: a vector */
    float first;         /* value of element i is first + i */
};

static char dir[64];
static struct tensor list[MAX_TENSORS];
static size_t n_list;

static const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void put_text(const char *name, const char *s)
{
    FILE *f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    fputs(s, f);
    fclose(f);
}

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/guardian-test-XXXXXX");
    return mkdtemp(dir) == NULL;
}

static int drop_dir(void **state)
{
    char cmd[128];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static struct tensor *add(const char *name, uint32_t rows, uint32_t cols)
{
    assert_true(n_list < MAX_TENSORS);
    struct tensor *t = &list[n_list];
    *t = (struct tensor){.dtype = "F32", .rows = rows, .cols = cols, .first = 100 * (float)n_list};
    snprintf(t->name, sizeof t->name, "%s", name);
    n_list++;
    return t;
}

static void add_layer(uint32_t i, const char *name, uint32_t rows, uint32_t cols)
{
    char full[96];
    snprintf(full, sizeof full, "model.layers.%u.%s", i, name);
    add(full, rows, cols);
}

static struct tensor *find(const char *name)
{
    for (size_t i = 0; i < n_list; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    fail_msg("no tensor %s in the test", name);
    return NULL;
}

static void fill_list(bool qwen2, bool tied)
{
    const uint32_t q = HEADS * HEAD_DIM, kv = HEAD_DIM;
    n_list = 0;
    add("model.embed_tokens.weight", VOCAB, DIM);
    for (uint32_t i = 0; i < LAYERS; i++) {
        add_layer(i, "mlp.up_proj.weight", FFN, DIM);
        add_layer(i, "self_attn.v_proj.weight", kv, DIM);
        add_layer(i, "self_attn.q_proj.weight", q, DIM);
        add_layer(i, "self_attn.k_proj.weight", kv, DIM);
        add_layer(i, "self_attn.o_proj.weight", DIM, q);
        add_layer(i, "mlp.gate_proj.weight", FFN, DIM);
        add_layer(i, "mlp.down_proj.weight", DIM, FFN);
        add_layer(i, "input_layernorm.weight", DIM, 0);
        add_layer(i, "post_attention_layernorm.weight", DIM, 0);
        if (!qwen2)
            continue;
        add_layer(i, "self_attn.k_proj.bias", kv, 0);
        add_layer(i, "self_attn.q_proj.bias", q, 0);
        add_layer(i, "self_attn.v_proj.bias", kv, 0);
    }
    add("model.norm.weight", DIM, 0);
    if (!tied)
        add("lm_head.weight", VOCAB, DIM);
}

/* Numbers up to 2048 are exact in half precision; bfloat16 keeps the upper half of a float. */
static uint16_t to_half(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (v == 0)
        return 0;
    return (uint16_t)((bits >> 16 & 0x8000u) | ((bits >> 23 & 255u) - 112u) << 10 |
                      (bits >> 13 & 0x3ffu));
}

static size_t stored_bytes(const struct tensor *t)
{
    return strcmp(t->dtype, "F32") == 0 ? 4 : strcmp(t->dtype, "I8") == 0 ? 1 : 2;
}

static void write_values(FILE *f, const struct tensor *t)
{
    uint32_t n = t->rows * (t->cols > 0 ? t->cols : 1);
    for (uint32_t i = 0; i < n; i++) {
        float v = t->first + (float)i;
        if (stored_bytes(t) == 1) {
            fputc((int)v & 255, f); /* -128..127 and around again */
            continue;
        }
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        uint16_t h = strcmp(t->dtype, "F16") == 0 ? to_half(v) : (uint16_t)(bits >> 16);
        if (strcmp(t->dtype, "F32") == 0)
            fwrite(&v, sizeof v, 1, f);
        else
            fwrite(&h, sizeof h, 1, f);
    }
}

static void write_model(bool qwen2, bool tied)
{
    char header[8192] = "{", config[1024];
    size_t n = 1, at = 0;
    for (size_t i = 0; i < n_list; i++) {
        const struct tensor *t = &list[i];
        size_t size = stored_bytes(t);
        size *= (size_t)t->rows * (t->cols > 0 ? t->cols : 1);
        n += (size_t)snprintf(header + n, sizeof header - n,
                              "%s\"%s\":{\"dtype\":\"%s\",\"data_offsets\":[%zu,%zu],\"shape\":[%u",
                              i > 0 ? "," : "", t->name, t->dtype, at, at + size, t->rows);
        if (t->cols > 0)
            n += (size_t)snprintf(header + n, sizeof header - n, ",%u", t->cols);
        n += (size_t)snprintf(header + n, sizeof header - n, "]}");
        at += size;
    }
    n += (size_t)snprintf(header + n, sizeof header - n, "}");
    assert_true(n < sizeof header);
    FILE *f = fopen(in_dir("model.safetensors"), "wb");
    assert_non_null(f);
    for (int i = 0; i < 8; i++)
        fputc((int)((uint64_t)n >> 8 * i & 255u), f);
    fwrite(header, 1, n, f);
    for (size_t i = 0; i < n_list; i++)
        write_values(f, &list[i]);
    fclose(f);
    snprintf(config, sizeof config,
             "{\"architectures\":[\"%s\"],\"hidden_act\":\"silu\",\"num_hidden_layers\":%u,"
             "\"hidden_size\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":1,"
             "\"intermediate_size\":%u,\"vocab_size\":%u,\"max_position_embeddings\":64,"
             "\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"tie_word_embeddings\":%s}",
             qwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM", LAYERS, DIM, HEADS, FFN, VOCAB,
             tied ? "true" : "false");
    put_text("config.json", config);
    put_text("tokenizer.json", "{}");
}

#endif
