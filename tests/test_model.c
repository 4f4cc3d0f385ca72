/* test_model.c - loading a model directory: which rows reach the back end in which order, refusals
 * of names and shapes, the memory plan, the version, and failures at every step. A back end that
 * only records stands in for the real one; the golden models are loaded with both. */
#include "model_fixture.h"

#include "guardian/file.h"
#include "guardian/memory.h"

#include "../server/engine/model_tensors.h"

#include <math.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_with(struct fake *f, const struct gd_model_options *opt, struct gd_model **m,
                     struct gd_err *err)
{
    memset(err, 0, sizeof *err);
    int rc = gd_model_open(m, dir, &f->be, opt, err);
    assert_int_equal(rc, err->code);
    assert_true((rc == GD_OK) == (*m != NULL));
    if (rc != GD_OK)
        assert_int_equal(f->live, 0);
    return rc;
}

static struct gd_model *open_ok(struct fake *f)
{
    struct gd_model *m = NULL;
    struct gd_err err;
    if (open_with(f, NULL, &m, &err) != GD_OK)
        fail_msg("not loaded: %s", err.msg);
    return m;
}

static void close_all(struct fake *f, struct gd_model *m)
{
    assert_true(f->live > 0);
    gd_model_close(m);
    assert_int_equal(f->live, 0);
}

static void refused(int code, const char *says)
{
    struct fake f = fake_new();
    struct gd_model *m = NULL;
    struct gd_err err;
    int rc = open_with(&f, NULL, &m, &err);
    if (rc != code || strstr(err.msg, says) == NULL)
        fail_msg("gave %d '%s', expected %d with '%s'", rc, err.msg, code, says);
}

/* rows of floats that come from the named tensors of layer i, one after another */
static void assert_joined(const float *got, uint32_t layer, const char *const *names)
{
    for (; *names != NULL; names++) {
        char full[96];
        snprintf(full, sizeof full, "model.layers.%u.%s", layer, *names);
        const struct tensor *t = find(full);
        uint32_t n = t->rows * (t->cols > 0 ? t->cols : 1);
        for (uint32_t i = 0; i < n; i++)
            assert_true(got[i] == t->first + (float)i);
        got += n;
    }
}

static void assert_weight(const struct gd_weight *w, uint32_t n, uint32_t k, uint32_t layer,
                          const char *const *names)
{
    assert_int_equal(w->n, n);
    assert_int_equal(w->k, k);
    assert_int_equal(w->dtype, GD_DTYPE_F32);
    assert_joined(w->rows, layer, names);
}

static void assert_vector(const struct gd_vector *v, uint32_t n, uint32_t layer,
                          const char *const *names)
{
    assert_int_equal(v->n, n);
    assert_joined(v->values, layer, names);
}

/* ---- tests ---- */

static void test_llama_rows(void **state)
{
    struct fake f = fake_new();
    (void)state;
    fill_list(false, false);
    write_model(false, false);
    struct gd_model *m = open_ok(&f);
    assert_true(m->be == &f.be && m->load_ms > 0);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const struct gd_model_layer *y = &m->layers[i];
        assert_weight(y->qkv, 16, DIM, i,
                      (const char *[]){"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                       "self_attn.v_proj.weight", NULL});
        assert_weight(y->o, DIM, 8, i, (const char *[]){"self_attn.o_proj.weight", NULL});
        assert_weight(y->gate_up, 2 * FFN, DIM, i,
                      (const char *[]){"mlp.gate_proj.weight", "mlp.up_proj.weight", NULL});
        assert_weight(y->down, DIM, FFN, i, (const char *[]){"mlp.down_proj.weight", NULL});
        assert_vector(y->attn_norm, DIM, i, (const char *[]){"input_layernorm.weight", NULL});
        assert_vector(y->mlp_norm, DIM, i,
                      (const char *[]){"post_attention_layernorm.weight", NULL});
        assert_true(y->qkv->bias == NULL && y->o->bias == NULL);
        assert_true(y->gate_up->bias == NULL && y->down->bias == NULL);
    }
    assert_true(m->final_norm->values[7] == find("model.norm.weight")->first + 7);
    assert_ptr_not_equal(m->embed, m->lm_head);
    assert_true(m->embed->n == VOCAB && m->embed->k == DIM);
    assert_true(((const float *)m->embed->rows)[79] == 79);
    assert_true(((const float *)m->lm_head->rows)[79] == find("lm_head.weight")->first + 79);
    assert_int_equal((uintptr_t)m->embed->rows % 64, 0);
    assert_true(m->inv_freq[0] == 1 && m->inv_freq[1] == 0.01f);
    /* 2 tables, the final norm, 2 layers of qkv 16 x 8, o, gate, up, down, two norms */
    assert_int_equal(m->n_params, 2 * 80 + 8 + 2 * (128 + 64 + 48 + 48 + 48 + 16));
    close_all(&f, m);
}

static void test_qwen2_biases_tied(void **state)
{
    struct fake f = fake_new();
    (void)state;
    fill_list(true, true);
    write_model(true, true);
    struct gd_model *m = open_ok(&f);
    for (uint32_t i = 0; i < LAYERS; i++) {
        const struct gd_model_layer *y = &m->layers[i];
        assert_int_equal(y->qkv->n, 16);
        assert_joined(y->qkv->bias, i,
                      (const char *[]){"self_attn.q_proj.bias", "self_attn.k_proj.bias",
                                       "self_attn.v_proj.bias", NULL});
        assert_true(y->o->bias == NULL && y->gate_up->bias == NULL && y->down->bias == NULL);
    }
    assert_ptr_equal(m->embed, m->lm_head);
    close_all(&f, m);
}

static void test_half_precisions(void **state)
{
    (void)state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct fake f = fake_new();
        fill_list(true, true);
        for (size_t i = 0; i < n_list; i++) {
            list[i].dtype = bf16 ? "BF16" : "F16";
            list[i].first = -3;
        }
        find("model.layers.0.self_attn.k_proj.bias")->dtype = "F32"; /* vectors may be mixed */
        write_model(true, true);
        struct gd_model *m = open_ok(&f);
        assert_int_equal(m->layers[0].qkv->dtype, bf16 ? GD_DTYPE_BF16 : GD_DTYPE_F16);
        assert_int_equal(m->embed->dtype, bf16 ? GD_DTYPE_BF16 : GD_DTYPE_F16);
        for (int i = 0; i < 8; i++)
            assert_true(m->final_norm->values[i] == (float)(i - 3));
        for (int i = 0; i < 16; i++) /* q of 8, k and v of 4 */
            assert_true(m->layers[0].qkv->bias[i] == (float)((i < 8 ? i : i % 4) - 3));
        close_all(&f, m);
    }
}

/* Every half against its value by the definition. */
static void test_all_halves(void **state)
{
    struct fake f = fake_new();
    (void)state;
    for (uint32_t base = 0; base < 0x10000u; base += 4096) {
        uint16_t part[DIM];
        fill_list(false, true);
        find("model.norm.weight")->dtype = "F16";
        write_model(false, true);
        for (uint32_t i = 0; i < DIM; i++)
            part[i] = (uint16_t)(base + i * 509);
        bool finite = true;
        for (uint32_t i = 0; i < DIM; i++)
            finite = finite && (part[i] & 0x7c00u) != 0x7c00u;
        FILE *w = fopen(in_dir("model.safetensors"), "r+b");
        assert_non_null(w);
        assert_int_equal(fseek(w, -(long)sizeof part, SEEK_END),
                         0); /* the norm is the last tensor */
        fwrite(part, sizeof part, 1, w);
        fclose(w);
        if (!finite) {
            refused(GD_EMODEL, "tensor 'model.norm.weight' has values that are not finite");
            continue;
        }
        struct gd_model *m = open_ok(&f);
        for (uint32_t i = 0; i < DIM; i++) {
            int e = part[i] >> 10 & 31;
            double frac = part[i] & 1023;
            double v = e == 0 ? ldexp(frac, -24) : ldexp(1024 + frac, e - 25);
            float want = (float)((part[i] & 0x8000u) != 0 ? -v : v);
            assert_memory_equal(&m->final_norm->values[i], &want, sizeof want);
        }
        close_all(&f, m);
    }
}

static void test_tolerated(void **state)
{
    struct fake f = fake_new();
    (void)state;
    fill_list(false, true);
    add("lm_head.weight", VOCAB, DIM);
    add("model.layers.0.self_attn.rotary_emb.inv_freq", 2, 0);
    write_model(false, true);
    struct gd_model *m = open_ok(&f);
    assert_ptr_equal(m->embed, m->lm_head);
    assert_true(((const float *)m->embed->rows)[0] == 0);
    close_all(&f, m);
}

static void test_each_tensor_missing(void **state)
{
    char says[160];
    (void)state;
    fill_list(true, false);
    for (size_t i = 0, n = n_list; i < n; i++) {
        fill_list(true, false);
        snprintf(says, sizeof says, "tensor '%.95s' is missing", list[i].name);
        list[i] = list[--n_list];
        write_model(true, false);
        refused(GD_EMODEL, says);
    }
}

static void test_each_shape_wrong(void **state)
{
    char says[160];
    (void)state;
    fill_list(true, false);
    for (size_t i = 0, n = n_list; i < n; i++) {
        fill_list(true, false);
        struct tensor *t = &list[i];
        snprintf(says, sizeof says, "tensor '%.95s' has the shape", t->name);
        t->rows++;
        write_model(true, false);
        refused(GD_EMODEL, says);
        t->rows--;
        t->cols = t->cols > 0 ? t->cols + 1 : 1; /* a vector as a matrix of one column */
        write_model(true, false);
        refused(GD_EMODEL, says);
    }
    fill_list(true, false);
    find("model.layers.1.mlp.down_proj.weight")->rows = 9;
    write_model(true, false);
    refused(GD_EMODEL, "[9, 6], config.json implies [8, 6]");
}

static void test_other_refusals(void **state)
{
    (void)state;
    fill_list(false, false);
    add("model.layers.0.self_attn.q_proj.bias", 8, 0);
    write_model(false, false);
    refused(GD_EMODEL,
            "'model.layers.0.self_attn.q_proj.bias' does not belong to LlamaForCausalLM");
    fill_list(false, false);
    add("model.layers.2.mlp.up_proj.weight", FFN, DIM);
    write_model(false, false);
    refused(GD_EMODEL, "with 2 layers");
    fill_list(false, false);
    find("model.norm.weight")->dtype = "I32";
    list[n_list - 2].dtype = "I32";
    write_model(false, false);
    refused(GD_EMODEL, "model.norm.weight");
    fill_list(false, false);
    find("model.layers.0.self_attn.k_proj.weight")->dtype = "F16";
    write_model(false, false);
    refused(GD_EMODEL, "different dtypes");
    fill_list(false, false);
    find("model.layers.1.mlp.up_proj.weight")->dtype = "BF16";
    write_model(false, false);
    refused(GD_EMODEL, "different dtypes");
    const char *const bad[] = {"model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight",
                               "model.layers.1.input_layernorm.weight"};
    for (size_t i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            fill_list(false, false);
            find(bad[i])->first = k == 0 ? INFINITY : NAN;
            if (i == 1)
                find(bad[i])->dtype = "BF16";
            write_model(false, false);
            refused(GD_EMODEL, bad[i]);
        }
    }
    fill_list(false, false);
    write_model(false, false);
    unlink(in_dir("model.safetensors"));
    refused(GD_EMODEL, "neither");
    unlink(in_dir("config.json"));
    refused(GD_EIO, "config.json");
}

static void test_memory_plan(void **state)
{
    struct fake f = fake_new();
    struct gd_model *m = NULL;
    struct gd_err err;
    (void)state;
    fill_list(true, false);
    write_model(true, false);
    m = open_ok(&f);
    uint64_t packed = 4 * 1000 + 4 * (128 + 64 + 96 + 48) + 4 * (2 * 8 + 16);
    uint64_t need = 2 * packed + 4 * 8 + 2 * (50 + 320) + 2 * 512;
    assert_int_equal(m->bytes_needed, need);
    close_all(&f, m);
    struct gd_model_options opt = {.memory_max = need};
    assert_int_equal(open_with(&f, &opt, &m, &err), GD_OK);
    close_all(&f, m);
    opt.memory_max--;
    f.calls = 0;
    assert_int_equal(open_with(&f, &opt, &m, &err), GD_ENOMEM);
    assert_non_null(strstr(err.msg, "GiB"));
    assert_non_null(strstr(err.msg, "f32"));
    assert_int_equal(f.calls, 0); /* nothing was read */
    assert_non_null(strstr(err.msg, "fake"));
    f.left = need; /* without a limit of the caller's: what the device has */
    assert_int_equal(open_with(&f, NULL, &m, &err), GD_OK);
    close_all(&f, m);
    f.left--;
    f.calls = 0;
    assert_int_equal(open_with(&f, NULL, &m, &err), GD_ENOMEM);
    assert_int_equal(f.calls, 0);
    opt.memory_max = need; /* the caller's word counts for more */
    assert_int_equal(open_with(&f, &opt, &m, &err), GD_OK);
    close_all(&f, m);
}

static void test_backend_fails_at_each_call(void **state)
{
    struct gd_model *m = NULL;
    struct gd_err err;
    int k = 1, rc = GD_EBACKEND;
    (void)state;
    fill_list(true, false);
    write_model(true, false);
    for (; rc != GD_OK; k++) {
        struct fake f = fake_new();
        f.fail_call = k;
        assert_true(k < 200);
        rc = open_with(&f, NULL, &m, &err);
        if (rc != GD_OK) {
            assert_true(rc == GD_ENOMEM || rc == GD_EBACKEND);
            assert_true(err.msg[0] != '\0');
        } else {
            assert_int_equal(f.calls, k - 1);
            close_all(&f, m);
        }
    }
    assert_int_equal(k - 2,
                     6 * LAYERS + 3); /* each matrix and vector of a layer; norm and tables */
}

#if MEMORY_SWEEP
/* Each allocation of a load fails once, then each and all after it: an error every time, or a load
 * that did without. */
static void test_memory_runs_out(void **state)
{
    struct gd_model *m = NULL;
    struct gd_err err = {0};
    const char *where = *state != NULL ? *state : dir;
    for (int stay = 0; stay < 2; stay++) {
        int k = 0, failed = 1;
        for (; failed > 0; k++) {
            struct fake f = fake_new();
            assert_true(k < 2000);
            err = (struct gd_err){0};
            OPENSSL_thread_stop(); /* drops its list of errors, which is not ours to count */
            memory.live = memory.failed = 0;
            memory.left = k;
            memory.stay = stay != 0;
            memory.on = true;
            int rc = gd_model_open(&m, where, &f.be, NULL, &err);
            gd_model_close(m);
            OPENSSL_thread_stop();
            memory.on = false;
            failed = memory.failed;
            if (failed == 0)
                assert_int_equal(rc, GD_OK);
            else if (rc != GD_OK && (rc != GD_ENOMEM || err.code != rc || err.msg[0] == '\0'))
                fail_msg("allocation %d: gave %d '%s'", k, rc, err.msg);
            assert_int_equal(f.live, 0);
            assert_int_equal(memory.live, 0);
        }
        assert_true(k > 50);
    }
}

static void test_memory_runs_out_small(void **state)
{
    void *none = NULL;
    (void)state;
    fill_list(true, false);
    write_model(true, false);
    /* What libraries keep for later is taken now. */
    struct fake f = fake_new();
    close_all(&f, open_ok(&f));
    test_memory_runs_out(&none);
}

static void test_memory_runs_out_sharded(void **state)
{
    void *where = (void *)(uintptr_t) "golden/models/llama_bf16_sharded";
    (void)state;
    /* What threads leave for later ones is taken now. */
    struct fake f = fake_new();
    struct gd_model *m = NULL;
    assert_int_equal(gd_model_open(&m, where, &f.be, NULL, NULL), GD_OK);
    close_all(&f, m);
    test_memory_runs_out(&where);
}
#endif

struct watch {
    uint64_t done[2], all[2];
    bool cut;
};

static void watch_progress(void *ctx, const char *what, uint64_t done, uint64_t all)
{
    struct watch *w = ctx;
    int i = strcmp(what, "load") == 0;
    assert_true(i || strcmp(what, "hash") == 0);
    assert_true(done > w->done[i] && done <= all);
    w->done[i] = done;
    w->all[i] = all;
    if (i && w->cut)
        assert_int_equal(truncate(in_dir("model.safetensors"), 100), 0);
}

static void test_progress_and_cut_file(void **state)
{
    struct fake f = fake_new();
    struct gd_model *m = NULL;
    struct gd_err err;
    struct watch w = {.cut = false};
    struct gd_model_options opt = {.progress = watch_progress, .ctx = &w};
    (void)state;
    fill_list(false, false);
    write_model(false, false);
    assert_int_equal(open_with(&f, &opt, &m, &err), GD_OK);
    assert_true(w.done[0] > 0 && w.done[0] == w.all[0]);
    assert_int_equal(w.all[1], 4 * m->n_params);
    assert_int_equal(w.done[1], w.all[1]);
    close_all(&f, m);
    w = (struct watch){.cut = true};
    assert_int_equal(open_with(&f, &opt, &m, &err), GD_EIO);
    assert_non_null(strstr(err.msg, "model.safetensors' was cut"));
}

/* sha256: over the lines that sha256sum prints for the files in the order of their names. */
static void assert_version(const struct gd_model *m, const char *where, const char *const *names)
{
    char lines[4096] = "", path[512], hex[65], want[72] = "sha256:";
    struct gd_err err;
    uint8_t raw[32];
    size_t n = 0;
    for (; names[n] != NULL; n++) {
        snprintf(path, sizeof path, "%s/%s", where, names[n]);
        assert_int_equal(gd_file_sha256(path, hex, NULL, &err), GD_OK);
        assert_true(gd_str_eqz(m->files[n].path, names[n]));
        assert_string_equal(m->files[n].sha256, hex);
        strcat(strcat(strcat(strcat(lines, hex), "  "), names[n]), "\n");
    }
    assert_int_equal(m->n_files, n);
    gd_sha256(lines, strlen(lines), raw);
    for (int i = 0; i < 32; i++)
        sprintf(want + 7 + 2 * i, "%02x", raw[i]);
    assert_string_equal(m->version, want);
}

static void test_version(void **state)
{
    struct fake f = fake_new();
    char first[72];
    (void)state;
    fill_list(false, false);
    write_model(false, false);
    struct gd_model *m = open_ok(&f);
    assert_version(m, dir,
                   (const char *[]){"config.json", "model.safetensors", "tokenizer.json", NULL});
    strcpy(first, m->version);
    close_all(&f, m);
    put_text("tokenizer.json", "{ }");
    m = open_ok(&f);
    assert_string_not_equal(m->version, first);
    close_all(&f, m);
    unlink(in_dir("tokenizer.json"));
    m = open_ok(&f);
    assert_version(m, dir, (const char *[]){"config.json", "model.safetensors", NULL});
    close_all(&f, m);
}

static void put_under(const char *path, const char *s)
{
    char full[256], *slash = full;
    snprintf(full, sizeof full, "%s/%s", dir, path);
    for (slash = full + strlen(dir) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    put_text(path, s);
}

static void test_memory_available(void **state)
{
    (void)state;
    assert_true(gd_memory_available("") > 0);
    assert_true(gd_memory_available(dir) == UINT64_MAX);
    put_under("proc/meminfo", "MemTotal:  99999 kB\nMemFree:  1 kB\nMemAvailable:   4000 kB\n");
    assert_int_equal(gd_memory_available(dir), 4000 * 1024);
    put_under("proc/self/cgroup", "1:name=x:/y\n0::/a/b\n");
    assert_int_equal(gd_memory_available(dir), 4000 * 1024);
    put_under("sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_int_equal(gd_memory_available(dir), 4000 * 1024);
    put_under("sys/fs/cgroup/a/memory.max", "3000000\n");
    assert_int_equal(gd_memory_available(dir), 3000000);
    put_under("sys/fs/cgroup/a/memory.current", "1000000\n");
    assert_int_equal(gd_memory_available(dir), 2000000);
    put_under("sys/fs/cgroup/a/memory.stat", "anon 400000\nfile 600000\n");
    assert_int_equal(gd_memory_available(dir), 2600000);
    put_under("sys/fs/cgroup/memory.max", "50\n");
    assert_int_equal(gd_memory_available(dir), 50);
    put_under("sys/fs/cgroup/memory.current", "51\n");
    assert_int_equal(gd_memory_available(dir), 0 /* none left */);
}

/* ---- golden models ---- */

static const char *const GOLDEN[] = {"golden/models/llama_bf16_sharded",
                                     "golden/models/llama_f32_tied", "golden/models/qwen2_f16"};

static void check_golden(const char *where, struct gd_backend *be)
{
    struct gd_model *m = NULL;
    struct gd_err err;
    char path[256];
    char *data = NULL;
    size_t len = 0, n = 0;
    if (gd_model_open(&m, where, be, NULL, &err) != GD_OK)
        fail_msg("%s: %s", where, err.msg);
    /* The reference's frequencies are in float64. */
    struct gd_arena a;
    struct gd_tensor_info *t = NULL;
    gd_arena_init(&a, GD_MIB);
    snprintf(path, sizeof path, "%s/reference.safetensors", where);
    assert_int_equal(gd_file_read(path, 4 * GD_MIB, &data, &len, &err), GD_OK);
    assert_int_equal(gd_safetensors_parse_header(&a, (struct gd_str){data, len}, len, &t, &n, &err),
                     GD_OK);
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        if (!gd_str_eqz(t[i].name, "inv_freq"))
            continue;
        found = t[i].shape[0];
        for (size_t k = 0; k < found; k++) {
            double want;
            memcpy(&want, data + t[i].offset + k * sizeof want, sizeof want);
            assert_true(m->inv_freq[k] == (float)want);
        }
    }
    assert_int_equal(found, m->config.head_dim / 2);
    gd_arena_free(&a);
    free(data);
    gd_model_close(m);
}

static void test_golden_recorded(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct fake f = fake_new();
        check_golden(GOLDEN[i], &f.be);
        assert_int_equal(f.live, 0);
    }
    struct fake f = fake_new();
    struct gd_model *m = NULL;
    struct gd_err err;
    assert_int_equal(gd_model_open(&m, GOLDEN[0], &f.be, NULL, &err), GD_OK);
    assert_version(m, GOLDEN[0],
                   (const char *[]){"config.json", "model-00001-of-00003.safetensors",
                                    "model-00002-of-00003.safetensors",
                                    "model-00003-of-00003.safetensors",
                                    "model.safetensors.index.json", "tokenizer.json", NULL});
    gd_model_close(m);
}

static void test_golden_on_cpu(void **state)
{
    struct gd_backend *be = NULL;
    struct gd_err err;
    (void)state;
    assert_int_equal(gd_backend_cpu_open(&be, 1, &err), GD_OK);
    for (size_t i = 0; i < 3; i++)
        check_golden(GOLDEN[i], be);
    assert_int_equal(be->weight_bytes_held, 0);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_llama_rows, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_qwen2_biases_tied, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_half_precisions, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_all_halves, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_tolerated, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_each_tensor_missing, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_each_shape_wrong, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_other_refusals, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_memory_plan, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_backend_fails_at_each_call, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_progress_and_cut_file, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_version, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_memory_available, make_dir, drop_dir),
        cmocka_unit_test(test_golden_recorded),
#if MEMORY_SWEEP
        cmocka_unit_test_setup_teardown(test_memory_runs_out_small, make_dir, drop_dir),
        cmocka_unit_test(test_memory_runs_out_sharded),
#endif
        cmocka_unit_test(test_golden_on_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
