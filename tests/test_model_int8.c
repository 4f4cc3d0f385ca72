/* test_model_int8.c - matrices stored as int8 with a scale for each row: every value handed on is
 * the nearest bf16, and a file whose scales are not right is refused by name. */
#include "model_fixture.h"

#include "guardian/kernels.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static bool is_matrix(const struct tensor *t)
{
    return t->cols > 1;
}

/* Every matrix as I8; the scale of row r of each is first + r. */
static void fill_int8(const char *scale_dtype, float first)
{
    fill_list(false, false);
    size_t n = n_list;
    for (size_t i = 0; i < n; i++) {
        char name[96];
        if (!is_matrix(&list[i]))
            continue;
        list[i].dtype = "I8";
        snprintf(name, sizeof name, "%.80s_scale", list[i].name);
        struct tensor *s = add(name, list[i].rows, 1);
        s->dtype = scale_dtype;
        s->first = first;
    }
}

static int open_int8(struct fake *f, struct gd_model **m, struct gd_err *err)
{
    *f = fake_new();
    memset(err, 0, sizeof *err);
    write_model(false, false);
    return gd_model_open(m, dir, &f->be, NULL, err);
}

static void refused(const char *says)
{
    struct fake f;
    struct gd_model *m = NULL;
    struct gd_err err;
    int rc = open_int8(&f, &m, &err);
    if (rc != GD_EMODEL || strstr(err.msg, says) == NULL)
        fail_msg("gave %d '%s', expected '%s'", rc, err.msg, says);
    assert_int_equal(f.live, 0);
}

static float wide(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* h is the bf16 nearest to the fp32 product, and the even one of two as near. */
static void assert_nearest(uint16_t h, float product)
{
    double mine = fabs((double)wide(h) - (double)product);
    for (int side = -1; side <= 1; side += 2) {
        uint16_t next = (uint16_t)(h + side);
        if (h == 0 || h == 0x8000)
            continue;
        double other = fabs((double)wide(next) - (double)product);
        assert_true(mine < other || (mine == other && (h & 1u) == 0));
    }
    if (product == 0)
        assert_true(wide(h) == 0);
}

static void assert_rows(const uint16_t *got, const char *name, float first)
{
    const struct tensor *t = find(name);
    for (uint32_t r = 0; r < t->rows; r++)
        for (uint32_t c = 0; c < t->cols; c++) {
            uint32_t i = r * t->cols + c;
            int8_t q = (int8_t)((int)(t->first + (float)i) & 255);
            assert_nearest(got[i], (float)q * (first + (float)r));
        }
}

static void check_values(const char *scale_dtype, float first)
{
    struct fake f;
    struct gd_model *m = NULL;
    struct gd_err err;
    fill_int8(scale_dtype, first);
    find("model.layers.1.self_attn.k_proj.weight")->first = -128;
    if (open_int8(&f, &m, &err) != GD_OK)
        fail_msg("not loaded: %s", err.msg);
    assert_int_equal(m->embed->dtype, GD_DTYPE_BF16);
    assert_rows(m->embed->rows, "model.embed_tokens.weight", first);
    assert_rows(m->lm_head->rows, "lm_head.weight", first);
    assert_int_equal(m->layers[1].qkv->dtype, GD_DTYPE_BF16);
    const uint16_t *qkv = m->layers[1].qkv->rows, *gate_up = m->layers[0].gate_up->rows;
    assert_rows(qkv, "model.layers.1.self_attn.q_proj.weight", first);
    assert_rows(qkv + 8 * DIM, "model.layers.1.self_attn.k_proj.weight", first);
    assert_rows(qkv + 12 * DIM, "model.layers.1.self_attn.v_proj.weight", first);
    assert_rows(gate_up, "model.layers.0.mlp.gate_proj.weight", first);
    assert_rows(gate_up + FFN * DIM, "model.layers.0.mlp.up_proj.weight", first);
    assert_rows(m->layers[0].down->rows, "model.layers.0.mlp.down_proj.weight", first);
    gd_model_close(m);
    assert_int_equal(f.live, 0);
}

static void test_values(void **state)
{
    (void)state;
    check_values("F32", 0.013f); /* products between two bf16 */
    check_values("F32", 3e-41f); /* a scale below the normal numbers, then 1, 2, ... */
    check_values("BF16", 0.5f);
    check_values("F16", 2);
}

static void test_scales_missing(void **state)
{
    (void)state;
    fill_int8("F32", 1);
    snprintf(find("model.layers.1.mlp.down_proj.weight_scale")->name, 96, "other");
    refused("'model.layers.1.mlp.down_proj.weight' is I8, and its scales "
            "'model.layers.1.mlp.down_proj.weight_scale' are missing");
}

static void test_scales_shape_and_type(void **state)
{
    (void)state;
    fill_int8("F32", 1);
    find("model.embed_tokens.weight_scale")->rows = VOCAB - 1;
    refused("'model.embed_tokens.weight_scale' must have the shape [10, 1]");
    fill_int8("F32", 1);
    find("model.embed_tokens.weight_scale")->cols = 0;
    refused("'model.embed_tokens.weight_scale' must have the shape [10, 1]");
    fill_int8("F32", 1);
    find("lm_head.weight_scale")->dtype = "I8";
    refused("'lm_head.weight_scale' must be F32, F16 or BF16");
}

static void test_scales_values(void **state)
{
    static const float wrong[] = {0, -1, -9, NAN, INFINITY, 1e31f};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        fill_int8("F32", 1);
        find("model.layers.0.self_attn.o_proj.weight_scale")->first = wrong[i];
        refused("tensor 'model.layers.0.self_attn.o_proj.weight_scale'");
    }
}

static void test_no_mixture(void **state)
{
    (void)state;
    fill_int8("F32", 1);
    find("model.layers.0.mlp.up_proj.weight")->dtype = "F32";
    snprintf(find("model.layers.0.mlp.up_proj.weight_scale")->name, 96, "other");
    refused("'model.layers.0.mlp.gate_proj.weight' and 'model.layers.0.mlp.up_proj.weight' have "
            "different dtypes");
    fill_int8("F32", 1);
    find("lm_head.weight")->dtype = "F32";
    refused("'lm_head.weight_scale' does not belong");
    fill_int8("F32", 1);
    find("model.norm.weight")->dtype = "I8";
    refused("'model.norm.weight' is I8 and no matrix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_scales_missing, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_scales_shape_and_type, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_scales_values, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_no_mixture, make_dir, drop_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
