/* test_device.c - the choice of the device: flags, the way from "auto" to the CPU, the memory plan,
 * and a device that is lost. The CUDA back end is the CPU's with other names and faults on demand:
 * this program's gd_backend_cuda_open stands before the library's. */
#include "guardian/device.h"
#include "guardian/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define MODEL "golden/models/llama_bf16_sharded"
#define LOST "cuda:0 is lost: an illegal memory access was encountered"

/* ---- the pretended device ---- */

enum fault {
    FAULT_NONE,
    FAULT_NO_DEVICE,   /* open: GD_ENOTFOUND */
    FAULT_OLD_DRIVER,  /* open: GD_EBACKEND */
    FAULT_CANNOT,      /* open: GD_EUSAGE, which it should not say */
    FAULT_WEIGHT,      /* weight_load: GD_EUSAGE, a shape that it does not know */
    FAULT_WEIGHT_FULL, /* the third weight_load: GD_ENOMEM */
    FAULT_SELFTEST,
    FAULT_NO_KV, /* kv_block_bytes: 0 */
    FAULT_KV,    /* kv_open: GD_EUSAGE */
    FAULT_ROWS,  /* rows_open: NULL */
    FAULT_STEP,  /* step_end: GD_EBACKEND */
};

static struct {
    struct gd_backend_ops ops;
    const struct gd_backend_ops *cpu;
    struct gd_backend *be; /* the one that is open */
    enum fault fault;
    uint64_t memory; /* bytes that it has */
    int n_opened, n_closed, n_weights;
    int n_held; /* weights, tables, vectors, rows and caches not given back */
    uint32_t index, n_rows_max;
    bool fp8;
    _Atomic int lose_at_step; /* 1: the next; 0: never */
    _Atomic int fail_at_step;
    _Atomic bool hold; /* steps wait */
    sem_t held, go;
} fake;

static uint64_t fake_memory_left(struct gd_backend *be)
{
    return fake.memory > be->weight_bytes_held ? fake.memory - be->weight_bytes_held : 0;
}

static struct gd_rows *fake_rows_open(struct gd_backend *be, enum gd_rows_kind kind, uint32_t rows,
                                      uint32_t dim)
{
    struct gd_rows *r = fake.fault != FAULT_ROWS ? fake.cpu->rows_open(be, kind, rows, dim) : NULL;
    fake.n_held += r != NULL;
    return r;
}

static void fake_rows_close(struct gd_backend *be, struct gd_rows *r)
{
    fake.n_held -= r != NULL;
    fake.cpu->rows_close(be, r);
}

static struct gd_vector *fake_vector_load(struct gd_backend *be, uint32_t n, const float *values)
{
    fake.n_held++;
    return fake.cpu->vector_load(be, n, values);
}

static void fake_vector_free(struct gd_backend *be, struct gd_vector *v)
{
    fake.n_held--;
    fake.cpu->vector_free(be, v);
}

static int fake_weight_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                            const void *rows, const float *bias, struct gd_weight **out,
                            struct gd_err *err)
{
    fake.n_weights++;
    if (fake.fault == FAULT_WEIGHT) {
        return gd_err_set(err, GD_EUSAGE, "no product of %u x %u", n, k);
    }
    if (fake.fault == FAULT_WEIGHT_FULL && fake.n_weights == 3) {
        return gd_err_set(err, GD_ENOMEM, "no device memory");
    }
    int rc = fake.cpu->weight_load(be, n, k, dtype, rows, bias, out, err);
    fake.n_held += rc == GD_OK;
    return rc;
}

static void fake_weight_free(struct gd_backend *be, struct gd_weight *w)
{
    fake.n_held--;
    fake.cpu->weight_free(be, w);
}

static int fake_table_load(struct gd_backend *be, uint32_t n, uint32_t k, enum gd_dtype dtype,
                           void *rows, struct gd_table **out, struct gd_err *err)
{
    fake.n_held++;
    return fake.cpu->table_load(be, n, k, dtype, rows, out, err);
}

static void fake_table_free(struct gd_backend *be, struct gd_table *t)
{
    fake.n_held--;
    fake.cpu->table_free(be, t);
}

static int fake_kv_open(struct gd_backend *be, uint32_t n_layers, uint32_t n_blocks,
                        const struct gd_attn_shape *s, const struct gd_rope *rope,
                        struct gd_kv **out, struct gd_err *err)
{
    if (fake.fault == FAULT_KV) {
        return gd_err_set(err, GD_EUSAGE, "no attention for heads of %u", s->head_dim);
    }
    fake.n_held++;
    return fake.cpu->kv_open(be, n_layers, n_blocks, s, rope, out, err);
}

static void fake_kv_close(struct gd_backend *be, struct gd_kv *kv)
{
    fake.n_held -= kv != NULL;
    fake.cpu->kv_close(be, kv);
}

static uint64_t fake_kv_block_bytes(struct gd_backend *be, const struct gd_attn_shape *s)
{
    return fake.fault == FAULT_NO_KV ? 0 : fake.cpu->kv_block_bytes(be, s);
}

static int fake_selftest(struct gd_backend *be, uint32_t rows_max, struct gd_err *err)
{
    fake.n_rows_max = rows_max;
    if (fake.fault == FAULT_SELFTEST) {
        return gd_err_set(err, GD_EBACKEND, "rows of 64 x 64 change with their neighbours");
    }
    return fake.cpu->selftest(be, rows_max, err);
}

static int fake_step_end(struct gd_backend *be)
{
    int rc = fake.cpu->step_end(be);
    if (atomic_load(&fake.hold)) {
        sem_post(&fake.held);
        sem_wait(&fake.go);
    }
    if (atomic_load(&fake.lose_at_step) > 0 && atomic_fetch_sub(&fake.lose_at_step, 1) == 1) {
        be->lost = LOST;
    }
    bool fails = fake.fault == FAULT_STEP;
    if (atomic_load(&fake.fail_at_step) > 0 && atomic_fetch_sub(&fake.fail_at_step, 1) == 1) {
        fails = true;
    }
    return fails || be->lost != NULL ? GD_EBACKEND : rc;
}

static void fake_close(struct gd_backend *be)
{
    fake.n_closed++;
    fake.be = NULL;
    fake.cpu->close(be);
}

int gd_backend_cuda_open(struct gd_backend **out, uint32_t index, bool fp8, struct gd_err *err)
{
    fake.index = index;
    fake.fp8 = fp8;
    if (fake.fault == FAULT_NO_DEVICE) {
        return gd_err_set(err, GD_ENOTFOUND, "there is no CUDA device %u", index);
    }
    if (fake.fault == FAULT_OLD_DRIVER) {
        return gd_err_set(err, GD_EBACKEND, "the driver is too old");
    }
    if (fake.fault == FAULT_CANNOT) {
        return gd_err_set(err, GD_EUSAGE, "the device cannot");
    }
    int rc = gd_backend_cpu_open(out, 1, err);
    if (rc != GD_OK) {
        return rc;
    }
    fake.be = *out;
    fake.n_opened++;
    fake.n_weights = 0;
    fake.cpu = fake.be->ops;
    fake.ops = *fake.cpu;
    fake.ops.close = fake_close;
    fake.ops.memory_left = fake_memory_left;
    fake.ops.rows_open = fake_rows_open;
    fake.ops.rows_close = fake_rows_close;
    fake.ops.vector_load = fake_vector_load;
    fake.ops.vector_free = fake_vector_free;
    fake.ops.weight_load = fake_weight_load;
    fake.ops.weight_free = fake_weight_free;
    fake.ops.table_load = fake_table_load;
    fake.ops.table_free = fake_table_free;
    fake.ops.kv_open = fake_kv_open;
    fake.ops.kv_close = fake_kv_close;
    fake.ops.kv_block_bytes = fake_kv_block_bytes;
    fake.ops.selftest = fake_selftest;
    fake.ops.step_end = fake_step_end;
    fake.be->ops = &fake.ops;
    fake.be->device = "cuda:0";
    fake.be->name = "Pretended GPU";
    fake.be->isa = "sm_90";
    fake.be->kv_share = 0.5;
    fake.be->kv_bytes_max = 64 * GD_MIB;
    return GD_OK;
}

static int setup(void **state)
{
    (void)state;
    memset(&fake, 0, sizeof fake);
    fake.memory = GD_GIB;
    sem_init(&fake.held, 0, 0);
    sem_init(&fake.go, 0, 0);
    return 0;
}

/* Whatever a test did, nothing of the device is left open. */
static int teardown(void **state)
{
    (void)state;
    return fake.n_opened == fake.n_closed && fake.n_held == 0 && fake.be == NULL ? 0 : -1;
}

/* ---- flags ---- */

static void test_flags(void **state)
{
    (void)state;
    static const struct {
        const char *device, *dtype;
        struct gd_device want;
    } good[] = {
        {NULL, NULL, {GD_DEVICE_AUTO, 0, GD_DEVICE_DTYPE_AUTO}},
        {"auto", "auto", {GD_DEVICE_AUTO, 0, GD_DEVICE_DTYPE_AUTO}},
        {"auto", "fp8", {GD_DEVICE_AUTO, 0, GD_DEVICE_DTYPE_FP8}},
        {"cpu", NULL, {GD_DEVICE_CPU, 0, GD_DEVICE_DTYPE_AUTO}},
        {"cpu", "bf16", {GD_DEVICE_CPU, 0, GD_DEVICE_DTYPE_BF16}},
        {"cuda", "bf16", {GD_DEVICE_CUDA, 0, GD_DEVICE_DTYPE_BF16}},
        {"cuda:0", "fp8", {GD_DEVICE_CUDA, 0, GD_DEVICE_DTYPE_FP8}},
        {"cuda:7", NULL, {GD_DEVICE_CUDA, 7, GD_DEVICE_DTYPE_AUTO}},
        {"cuda:007", NULL, {GD_DEVICE_CUDA, 7, GD_DEVICE_DTYPE_AUTO}},
        {"cuda:999", NULL, {GD_DEVICE_CUDA, 999, GD_DEVICE_DTYPE_AUTO}},
    };
    static const char *const bad[][3] = {
        /* device, dtype, what the sentence names */
        {"", NULL, "--device"},           {"gpu", NULL, "'gpu'"},
        {"CPU", NULL, "'CPU'"},           {"cud", NULL, "--device"},
        {"cpu:0", NULL, "cuda:N"},        {"cuda:", NULL, "--device"},
        {"cuda0", NULL, "--device"},      {"cuda:1000", NULL, "999"},
        {"cuda:-1", NULL, "--device"},    {"cuda:0x1", NULL, "--device"},
        {"cuda: 1", NULL, "--device"},    {"cuda:1 ", NULL, "--device"},
        {" auto", NULL, "--device"},      {"cuda:0", "", "--dtype"},
        {"cuda:0", "fp16", "'fp16'"},     {"auto", "f32", "auto, bf16 or fp8"},
        {"cpu", "FP8", "GUARDIAN_DTYPE"}, {"cpu", "fp8", "capability 9.0"},
        {"x", "x", "GUARDIAN_DEVICE"},
    };
    struct gd_device d;
    struct gd_err err = {0};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        memset(&d, 0xff, sizeof d);
        assert_int_equal(gd_device_parse(good[i].device, good[i].dtype, &d, &err), GD_OK);
        assert_int_equal(d.kind, good[i].want.kind);
        assert_int_equal(d.index, good[i].want.index);
        assert_int_equal(d.dtype, good[i].want.dtype);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(gd_device_parse(bad[i][0], bad[i][1], &d, &err), GD_EUSAGE);
        assert_int_equal(err.code, GD_EUSAGE);
        if (strstr(err.msg, bad[i][2]) == NULL) {
            fail_msg("%s %s: %s", bad[i][0], bad[i][1], err.msg);
        }
    }
}

/* ---- opening ---- */

static int n_loads; /* models whose last tensor has been read */

static void count_loads(void *ctx, const char *what, uint64_t done, uint64_t all)
{
    (void)ctx;
    n_loads += strcmp(what, "load") == 0 && done == all;
}

static int open_on(const char *device, const char *dtype, struct gd_engine **e, struct gd_err *err)
{
    const struct gd_engine_options opt = {.model_dir = MODEL,
                                          .device = device,
                                          .dtype = dtype,
                                          .n_threads = 1,
                                          .verdict_entries = 64,
                                          .model = {.progress = count_loads}};
    *e = NULL;
    *err = (struct gd_err){0};
    n_loads = 0;
    return gd_engine_open(e, &opt, err);
}

static struct gd_engine *open_fake(void)
{
    struct gd_engine *e;
    struct gd_err err;
    if (open_on("cuda:0", NULL, &e, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    return e;
}

static const int32_t CHOICES[] = {33, 34, 35};

static int submit(struct gd_engine *e, int32_t first, uint32_t n, struct gd_ticket **out,
                  struct gd_err *err)
{
    int32_t tokens[64];
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = (first + (int32_t)i * 7) % 384;
    }
    const struct gd_score_request req = {.prompt = {.tokens = tokens, .n_tokens = n, .n_keep = n},
                                         .choices = CHOICES,
                                         .n_choices = 3};
    return gd_engine_submit(e, &req, out, err);
}

static int score(struct gd_engine *e, int32_t first, uint32_t n, struct gd_score *out,
                 struct gd_err *err)
{
    struct gd_ticket *t = NULL;
    int rc = submit(e, first, n, &t, err);
    return rc != GD_OK ? rc : gd_engine_wait(e, t, NULL, NULL, out, err);
}

static void test_asked_for(void **state)
{
    (void)state;
    struct gd_engine *e;
    struct gd_err err;
    struct gd_score s;
    assert_int_equal(open_on("cpu", NULL, &e, &err), GD_OK);
    assert_string_equal(gd_engine_backend(e)->device, "cpu");
    assert_null(gd_engine_device_note(e));
    assert_null(gd_engine_lost(e));
    gd_engine_close(e);
    assert_int_equal(fake.n_opened, 0);
    static const char *const devices[] = {"auto", "cuda", "cuda:3", NULL};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(open_on(devices[i], i == 2 ? "fp8" : NULL, &e, &err), GD_OK);
        assert_string_equal(gd_engine_backend(e)->device, "cuda:0");
        assert_null(gd_engine_device_note(e));
        assert_int_equal(fake.index, i == 2 ? 3 : 0);
        assert_int_equal(fake.fp8, i == 2);
        struct gd_engine_stats now;
        gd_engine_stats(e, &now);
        assert_int_equal(fake.n_rows_max, now.step_tokens);
        assert_int_equal(score(e, 1, 20, &s, &err), GD_OK);
        gd_engine_close(e);
    }
}

/* Every way in which a device can be of no use, and what is said about it. */
static const struct {
    enum fault fault;
    int code;         /* of cuda:0 */
    const char *says; /* part of the sentence */
    uint64_t memory;  /* 0: plenty */
} FAULTS[] = {
    {FAULT_NO_DEVICE, GD_ENOTFOUND, "no CUDA device 0", 0},
    {FAULT_OLD_DRIVER, GD_EBACKEND, "driver is too old", 0},
    {FAULT_CANNOT, GD_EBACKEND, "the device cannot", 0},
    {FAULT_WEIGHT, GD_EBACKEND, "no product of", 0},
    {FAULT_WEIGHT_FULL, GD_ENOMEM, "no device memory", 0},
    {FAULT_SELFTEST, GD_EBACKEND, "change with their neighbours", 0},
    {FAULT_NO_KV, GD_EBACKEND, "no KV cache", 0},
    {FAULT_KV, GD_EBACKEND, "no attention for heads", 0},
    {FAULT_ROWS, GD_ENOMEM, "activations", 0},
    {FAULT_STEP, GD_EBACKEND, "first forward pass", 0},
    {FAULT_NONE, GD_ENOMEM, "cuda:0", 100 * GD_KIB},          /* not even the weights */
    {FAULT_NONE, GD_ENOMEM, "Pretended GPU has", 4 * GD_MIB}, /* not the KV cache */
};
#define N_FAULTS (sizeof FAULTS / sizeof FAULTS[0])

static void test_asked_for_and_not_there(void **state)
{
    (void)state;
    struct gd_engine *e;
    struct gd_err err;
    static const char *const ways[][2] = {{"cuda:0", NULL}, {"cuda", "bf16"}, {"auto", "fp8"}};
    for (size_t i = 0; i < N_FAULTS; i++) {
        for (size_t k = 0; k < 3; k++) {
            fake.fault = FAULTS[i].fault;
            fake.memory = FAULTS[i].memory != 0 ? FAULTS[i].memory : GD_GIB;
            int rc = open_on(ways[k][0], ways[k][1], &e, &err);
            assert_int_equal(rc, FAULTS[i].code);
            assert_int_equal(err.code, rc);
            assert_non_null(strstr(err.msg, FAULTS[i].says));
            assert_null(e);
            assert_int_equal(fake.n_held, 0);
            assert_int_equal(fake.n_opened, fake.n_closed);
        }
    }
}

static void test_fallback(void **state)
{
    (void)state;
    struct gd_engine *e;
    struct gd_err err;
    struct gd_score want, got;
    assert_int_equal(open_on("cpu", NULL, &e, &err), GD_OK);
    assert_int_equal(score(e, 5, 33, &want, &err), GD_OK);
    gd_engine_close(e);
    for (size_t i = 0; i < N_FAULTS; i++) {
        fake.fault = FAULTS[i].fault;
        fake.memory = FAULTS[i].memory != 0 ? FAULTS[i].memory : GD_GIB;
        assert_int_equal(open_on(i % 2 == 0 ? "auto" : NULL, NULL, &e, &err), GD_OK);
        assert_int_equal(fake.n_held, 0); /* given back before the CPU was opened, and not after */
        assert_int_equal(fake.n_opened, fake.n_closed);
        assert_string_equal(gd_engine_backend(e)->device, "cpu");
        const struct gd_err *note = gd_engine_device_note(e);
        assert_non_null(note);
        assert_non_null(strstr(note->msg, FAULTS[i].says));
        assert_int_equal(note->code == GD_ENOTFOUND, FAULTS[i].fault == FAULT_NO_DEVICE);
        assert_null(gd_engine_lost(e));
        assert_int_equal(score(e, 5, 33, &got, &err), GD_OK);
        assert_memory_equal(got.logits, want.logits, 3 * sizeof want.logits[0]);
        gd_engine_close(e);
    }
}

/* A device that is lost while the engine opens is as good as none. */
static void test_lost_at_start(void **state)
{
    (void)state;
    struct gd_engine *e;
    struct gd_err err;
    for (int step = 1; step <= 2; step++) { /* of the two that warm up */
        atomic_store(&fake.lose_at_step, step);
        assert_int_equal(open_on("cuda:0", NULL, &e, &err), GD_EBACKEND);
        assert_non_null(strstr(err.msg, LOST));
        atomic_store(&fake.lose_at_step, step);
        assert_int_equal(open_on("auto", NULL, &e, &err), GD_OK);
        assert_string_equal(gd_engine_backend(e)->device, "cpu");
        assert_non_null(strstr(gd_engine_device_note(e)->msg, LOST));
        assert_null(gd_engine_lost(e));
        gd_engine_close(e);
    }
    e = open_fake();
    const int32_t prefix[32] = {1, 2, 3};
    atomic_store(&fake.lose_at_step, 1);
    assert_int_equal(gd_engine_prime(e, prefix, 32, &err), GD_EBACKEND);
    assert_string_equal(err.msg, LOST);
    gd_engine_close(e);
}

/* What is wrong with the model or the options is wrong on every device. */
static void test_not_tried_again(void **state)
{
    (void)state;
    struct gd_engine *e = NULL;
    struct gd_err err = {0};
    struct gd_engine_options opt = {.model_dir = MODEL,
                                    .n_threads = 1,
                                    .verdict_entries = GD_VERDICT_CACHE_MAX + 1,
                                    .model = {.progress = count_loads}};
    n_loads = 0;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_int_equal(n_loads, 1);
    assert_int_equal(fake.n_opened, 1);
    opt.verdict_entries = 0;
    opt.kv_bytes = GD_KIB;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_int_equal(n_loads, 2);
    opt.model_dir = "golden/no-such-model";
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EIO);
    assert_null(strstr(err.msg, "before that"));
    assert_int_equal(fake.n_opened, 3);
    /* When the CPU cannot either, both are told, but not that a device is not there. */
    opt.model_dir = MODEL;
    opt.kv_bytes = 0;
    opt.n_threads = GD_THREADS_MAX + 1;
    fake.fault = FAULT_OLD_DRIVER;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_non_null(strstr(err.msg, "driver is too old"));
    fake.fault = FAULT_NO_DEVICE;
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_null(strstr(err.msg, "no CUDA device"));
    opt.device = "cuda:x";
    assert_int_equal(gd_engine_open(&e, &opt, &err), GD_EUSAGE);
    assert_null(e);
}

static void test_cpu_dtypes(void **state)
{
    (void)state;
    struct gd_engine *e;
    struct gd_err err;
    assert_int_equal(open_on("cpu", "fp8", &e, &err), GD_EUSAGE);
    int rc = open_on("cpu", "bf16", &e, &err);
    if (rc == GD_OK) {
        assert_string_equal(gd_engine_backend(e)->gemm_dtype, "bf16");
        gd_engine_close(e);
        return;
    }
    assert_int_equal(rc, GD_EUSAGE);
    assert_non_null(strstr(err.msg, "AMX"));
    assert_int_equal(open_on("cpu", "auto", &e, &err), GD_OK);
    assert_string_equal(gd_engine_backend(e)->gemm_dtype, "f32");
    gd_engine_close(e);
}

/* ---- the memory plan ---- */

static void test_plan(void **state)
{
    (void)state;
    for (uint64_t mib = 32; mib <= 1024; mib *= 2) {
        fake.memory = mib * GD_MIB + 12345;
        struct gd_engine *e = open_fake();
        const struct gd_engine_memory *m = gd_engine_memory(e);
        struct gd_engine_stats now;
        gd_engine_stats(e, &now);
        assert_int_equal(m->weight_bytes, gd_engine_backend(e)->weight_bytes_held);
        assert_int_equal(m->activation_bytes,
                         gd_forward_bytes(gd_engine_model(e), now.step_tokens));
        assert_int_equal(m->kv_bytes, now.kv_bytes);
        assert_int_equal(m->kv_blocks, now.kv.blocks);
        assert_int_equal(m->kv_tokens, (uint64_t)m->kv_blocks * GD_KV_BLOCK_TOKENS);
        uint64_t sum = m->weight_bytes + m->activation_bytes + m->kv_bytes + m->left_bytes;
        assert_int_equal(sum, fake.memory);
        assert_true(m->kv_bytes <= 64 * GD_MIB); /* kv_bytes_max */
        uint64_t block = gd_forward_block_bytes(gd_engine_model(e));
        uint64_t half = (fake.memory - m->weight_bytes - m->activation_bytes) / 2; /* kv_share */
        uint64_t want = half < 64 * GD_MIB ? half : 64 * GD_MIB;
        uint64_t longest = (gd_engine_context_max(e) + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS;
        uint64_t blocks = want / block > 2 * (longest + 1) ? want / block : 2 * (longest + 1);
        assert_int_equal(m->kv_blocks, blocks);
        gd_engine_close(e);
    }
}

/* ---- faults while it serves ---- */

static void test_failed_step(void **state)
{
    (void)state;
    struct gd_engine *e = open_fake();
    struct gd_score s, again;
    struct gd_err err;
    assert_int_equal(score(e, 1, 20, &s, &err), GD_OK);
    atomic_store(&fake.fail_at_step, 1);
    assert_int_equal(score(e, 2, 20, &again, &err), GD_EBACKEND);
    assert_null(gd_engine_lost(e));
    assert_int_equal(score(e, 2, 20, &again, &err), GD_OK);
    assert_int_equal(score(e, 1, 20, &again, &err), GD_OK);
    assert_true(again.hit);
    assert_memory_equal(again.logits, s.logits, 3 * sizeof s.logits[0]);
    gd_engine_close(e);
}

struct asker {
    struct gd_engine *e;
    pthread_t thread;
    int32_t seed;
    int n_ok, rc;
    char msg[GD_ERR_MSG_MAX];
};

/* Asks until it is refused; every fourth time for something that is kept. */
static void *ask(void *arg)
{
    struct asker *a = arg;
    struct gd_err err = {0};
    for (int i = 0; a->rc == GD_OK; i++) {
        struct gd_score s;
        bool over = gd_engine_lost(a->e) != NULL; /* before it is asked */
        a->rc = i % 4 == 0 ? score(a->e, 3, 20, &s, &err)
                           : score(a->e, a->seed + i * 31, 1 + (uint32_t)(i % 64), &s, &err);
        a->n_ok += a->rc == GD_OK;
        if (over && a->rc == GD_OK) {
            a->rc = GD_EINTERNAL;
        }
    }
    memcpy(a->msg, err.msg, sizeof a->msg);
    return NULL;
}

/* Whoever asks, waits or comes later has the same answer, kept scores too. */
static void test_lost(void **state)
{
    (void)state;
    for (int round = 0; round < 6; round++) {
        struct gd_engine *e = open_fake();
        struct asker askers[12];
        struct gd_score s;
        struct gd_err err = {0};
        assert_int_equal(score(e, 3, 20, &s, &err), GD_OK);
        atomic_store(&fake.lose_at_step, 1 + round * 5);
        for (int i = 0; i < 12; i++) {
            askers[i] = (struct asker){.e = e, .seed = round * 1000 + i * 13};
            assert_int_equal(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
        }
        for (int i = 0; i < 12; i++) {
            pthread_join(askers[i].thread, NULL);
            assert_int_equal(askers[i].rc, GD_EBACKEND);
            assert_string_equal(askers[i].msg, LOST);
        }
        assert_string_equal(gd_engine_lost(e), LOST);
        struct gd_ticket *t = NULL;
        assert_int_equal(submit(e, 3, 20, &t, &err), GD_EBACKEND); /* its score is kept */
        assert_string_equal(err.msg, LOST);
        struct gd_engine_stats now;
        gd_engine_stats(e, &now);
        assert_int_equal(now.waiting + now.running, 0);
        assert_true(gd_engine_queue_ms(e) == 0.0);
        gd_engine_close(e);
    }
}

/* Those in the step, those in the queue, and one whose score is there but not fetched. */
static void test_lost_in_flight(void **state)
{
    (void)state;
    struct gd_engine *e = open_fake();
    struct gd_ticket *done, *tickets[80];
    int32_t tokens[16] = {9, 8, 7};
    struct gd_score_request req = {.prompt = {.tokens = tokens, .n_tokens = 16, .n_keep = 16},
                                   .choices = CHOICES,
                                   .n_choices = 3};
    struct gd_score s;
    struct gd_err err;
    struct gd_engine_stats now = {0};
    assert_int_equal(gd_engine_submit(e, &req, &done, &err), GD_OK);
    for (int i = 0; i < 10000 && now.sequences == 0; i++) {
        gd_engine_stats(e, &now);
        usleep(500);
    }
    atomic_store(&fake.hold, true);
    for (int32_t i = 0; i < 80; i++) {
        tokens[0] = 100 + i;
        assert_int_equal(gd_engine_submit(e, &req, &tickets[i], &err), GD_OK);
        if (i == 0) {
            sem_wait(&fake.held); /* the first is in a step; the others have to wait */
        }
    }
    gd_engine_cancel(e, tickets[79]); /* nobody waits for this one */
    atomic_store(&fake.lose_at_step, 1);
    atomic_store(&fake.hold, false);
    sem_post(&fake.go);
    for (int i = 0; i < 79; i++) {
        assert_int_equal(gd_engine_wait(e, tickets[i], NULL, NULL, &s, &err), GD_EBACKEND);
        assert_string_equal(err.msg, LOST);
    }
    assert_int_equal(gd_engine_wait(e, done, NULL, NULL, &s, &err), GD_EBACKEND);
    assert_int_equal(gd_engine_submit(e, &req, &done, &err), GD_EBACKEND);
    assert_string_equal(err.msg, LOST);
    gd_engine_close(e);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_flags),      CASE(test_asked_for),      CASE(test_asked_for_and_not_there),
        CASE(test_fallback),   CASE(test_lost_at_start),  CASE(test_not_tried_again),
        CASE(test_cpu_dtypes), CASE(test_plan),           CASE(test_failed_step),
        CASE(test_lost),       CASE(test_lost_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
