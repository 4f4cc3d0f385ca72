/* test_config.c - config.json: both spellings, defaults, and every refusal by the name of its
 * field; RoPE frequencies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "guardian/model.h"

#include <math.h>
#include <string.h>

/* A configuration as a list of members; a case replaces, adds or drops one of them. */
struct member {
    const char *key, *value;
};

/* clang-format off */
#define CT(format, groups)                                                                          \
    "{\"quant_method\":\"compressed-tensors\",\"format\":" format ",\"config_groups\":" groups "}"
#define INT8(strategy, activations)                                                                \
    CT("\"int-quantized\"", "{\"g\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":8,"          \
                            "\"type\":\"int\",\"strategy\":" strategy "},\"input_activations\":"        \
                            activations "}}")

static const struct member LLAMA[] = {
    {"architectures", "[\"LlamaForCausalLM\"]"}, {"model_type", "\"llama\""}, {"hidden_act", "\"silu\""},
    {"num_hidden_layers", "32"}, {"hidden_size", "4096"}, {"num_attention_heads", "32"},
    {"num_key_value_heads", "8"}, {"intermediate_size", "14336"}, {"vocab_size", "128256"},
    {"max_position_embeddings", "131072"}, {"rms_norm_eps", "1e-05"}, {"rope_theta", "500000.0"},
    {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
                     "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"},
    {"attention_bias", "false"}, {"mlp_bias", "false"}, {"tie_word_embeddings", "false"}, {NULL, NULL},
};
static const struct member QWEN2[] = {
    {"architectures", "[\"Qwen2ForCausalLM\"]"}, {"model_type", "\"qwen2\""}, {"hidden_act", "\"silu\""},
    {"num_hidden_layers", "24"}, {"hidden_size", "896"}, {"num_attention_heads", "14"},
    {"num_key_value_heads", "2"}, {"intermediate_size", "4864"}, {"vocab_size", "151936"},
    {"max_position_embeddings", "32768"}, {"rms_norm_eps", "1e-06"}, {"rope_theta", "1000000.0"},
    {"sliding_window", "32768"}, {"use_sliding_window", "false"}, {"tie_word_embeddings", "true"}, {NULL, NULL},
};
/* clang-format on */

static char text[8192];

/* The base with `key` set to value (NULL: dropped), added when the base has no such member. */
static const char *build(const struct member *base, const char *key, const char *value)
{
    size_t n = 0;
    bool done = key == NULL || value == NULL;
    text[n++] = '{';
    for (const struct member *m = base; m->key != NULL; m++) {
        const char *v = m->value;
        if (key != NULL && strcmp(m->key, key) == 0) {
            v = value;
            done = true;
        }
        if (v != NULL)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\":%s", n > 1 ? "," : "",
                                  m->key, v);
    }
    if (!done)
        n += (size_t)snprintf(text + n, sizeof text - n, ",\"%s\":%s", key, value);
    snprintf(text + n, sizeof text - n, "}");
    return text;
}

static int parse(const char *json, struct gd_model_config *c, struct gd_err *err)
{
    memset(err, 0, sizeof *err);
    int rc = gd_model_config_parse(gd_str_from(json), c, err);
    assert_int_equal(rc, err->code);
    return rc;
}

static void test_llama(void **state)
{
    struct gd_model_config c;
    struct gd_err err;
    (void)state;
    assert_int_equal(parse(build(LLAMA, NULL, NULL), &c, &err), GD_OK);
    assert_int_equal(c.arch, GD_ARCH_LLAMA);
    assert_int_equal(c.n_layers, 32);
    assert_int_equal(c.dim, 4096);
    assert_int_equal(c.n_heads, 32);
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.ffn_dim, 14336);
    assert_int_equal(c.vocab_size, 128256);
    assert_int_equal(c.context_max, 131072);
    assert_true(c.rms_norm_eps == 1e-5f && c.rope_theta == 500000.0);
    assert_true(c.rope_llama3 && c.rope_factor == 8.0 && c.rope_low_freq_factor == 1.0);
    assert_true(c.rope_high_freq_factor == 4.0 && c.rope_original_context == 8192);
    assert_true(!c.qkv_bias && !c.tied);
}

static void test_qwen2(void **state)
{
    struct gd_model_config c;
    struct gd_err err;
    (void)state;
    assert_int_equal(parse(build(QWEN2, NULL, NULL), &c, &err), GD_OK);
    assert_int_equal(c.arch, GD_ARCH_QWEN2);
    assert_int_equal(c.head_dim, 64);
    assert_true(c.qkv_bias && c.tied && !c.rope_llama3);
}

/* What may be absent or said differently. */
static void test_accepted(void **state)
{
    static const struct {
        const struct member *base;
        const char *key, *value;
    } cases[] = {
        {LLAMA, "model_type", NULL},
        {LLAMA, "attention_bias", NULL},
        {LLAMA, "attention_bias", "null"},
        {LLAMA, "mlp_bias", NULL},
        {LLAMA, "tie_word_embeddings", NULL},
        {LLAMA, "rope_scaling", NULL},
        {LLAMA, "rope_scaling", "null"},
        {LLAMA, "rope_scaling", "{\"type\":\"default\"}"},
        {LLAMA, "num_key_value_heads", NULL},
        {LLAMA, "num_key_value_heads", "null"},
        {LLAMA, "head_dim", "null"},
        {LLAMA, "head_dim", "64"},
        {LLAMA, "quantization_config", "null"},
        {LLAMA, "quantization_config", INT8("\"channel\",\"symmetric\":true", "null")},
        {LLAMA, "quantization_config", INT8("\"channel\"", "null")},
        {LLAMA, "partial_rotary_factor", "1.0"},
        {LLAMA, "something_else", "[1,{\"a\":null}]"},
        {QWEN2, "sliding_window", "null"},
        {QWEN2, "layer_types", "[\"full_attention\",\"full_attention\"]"},
        {QWEN2, "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1000000.0}"},
        {QWEN2, "rope_parameters", "{\"rope_type\":\"default\"}"},
    };
    struct gd_model_config c;
    struct gd_err err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (parse(build(cases[i].base, cases[i].key, cases[i].value), &c, &err) != GD_OK)
            fail_msg("%s = %s: %s", cases[i].key, cases[i].value, err.msg);
    /* Defaults of both architectures. */
    parse(build(LLAMA, "num_key_value_heads", NULL), &c, &err);
    assert_int_equal(c.n_kv_heads, 32);
    parse(build(QWEN2, "tie_word_embeddings", NULL), &c, &err);
    assert_false(c.tied);
    parse(build(LLAMA, "head_dim", "64"), &c, &err);
    assert_int_equal(c.head_dim, 64);
    parse(build(LLAMA, "rope_scaling", NULL), &c, &err);
    assert_false(c.rope_llama3);
}

/* The spelling of newer files: everything about RoPE in one object. */
static void test_rope_parameters(void **state)
{
    struct gd_model_config c;
    struct gd_err err;
    struct member newer[32];
    size_t n = 0;
    (void)state;
    for (const struct member *m = LLAMA; m->key != NULL; m++)
        if (strncmp(m->key, "rope_", 5) != 0)
            newer[n++] = *m;
    newer[n] = (struct member){NULL, NULL};
    const char *full =
        "{\"rope_type\":\"llama3\",\"rope_theta\":5e5,\"factor\":32,\"low_freq_factor\":1,"
        "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}";
    assert_int_equal(parse(build(newer, "rope_parameters", full), &c, &err), GD_OK);
    assert_true(c.rope_llama3 && c.rope_theta == 5e5 && c.rope_factor == 32.0);
    const char *plain = "{\"rope_type\":\"default\",\"rope_theta\":10000.0}";
    assert_int_equal(parse(build(newer, "rope_parameters", plain), &c, &err), GD_OK);
    assert_true(!c.rope_llama3 && c.rope_theta == 1e4);
    assert_int_equal(
        parse(build(newer, "rope_parameters", "{\"rope_type\":\"default\"}"), &c, &err), GD_EMODEL);
    assert_non_null(strstr(err.msg, "rope_theta"));
    assert_int_equal(
        parse(build(newer, "rope_parameters", "{\"full_attention\":{\"rope_theta\":1e4}}"), &c,
              &err),
        GD_EMODEL);
    assert_non_null(strstr(err.msg, "rope_parameters.rope_type"));
}

/* clang-format off */
static const struct {
    const struct member *base;
    const char *key, *value;
    const char *says; /* NULL: the key */
} REFUSED[] = {
    {LLAMA, "architectures", NULL, NULL},
    {LLAMA, "architectures", "\"LlamaForCausalLM\"", NULL},
    {LLAMA, "architectures", "[]", NULL},
    {LLAMA, "architectures", "[1]", NULL},
    {LLAMA, "architectures", "[\"LlamaForSequenceClassification\"]", "'LlamaForSequenceClassification'"},
    {LLAMA, "architectures", "[\"MistralForCausalLM\"]", "'MistralForCausalLM'"},
    {LLAMA, "model_type", "\"qwen2\"", NULL},
    {QWEN2, "model_type", "\"qwen3\"", NULL},
    {LLAMA, "hidden_act", NULL, NULL},
    {LLAMA, "hidden_act", "\"gelu\"", "'gelu'"},
    {LLAMA, "hidden_act", "1", NULL},
    {LLAMA, "attention_bias", "true", NULL},
    {LLAMA, "attention_bias", "1", NULL},
    {LLAMA, "mlp_bias", "true", NULL},
    {QWEN2, "mlp_bias", "true", NULL},
    {LLAMA, "sliding_window", "4096", NULL},
    {QWEN2, "use_sliding_window", "true", NULL},
    {QWEN2, "layer_types", "[\"full_attention\",\"sliding_attention\"]", "sliding_attention"},
    {QWEN2, "layer_types", "{}", NULL},
    {QWEN2, "layer_types", "[1]", NULL},
    {LLAMA, "quantization_config", "[]", NULL},
    {LLAMA, "quantization_config", "{}", NULL},
    {LLAMA, "quantization_config", "{\"quant_method\":\"fp8\"}", "'fp8'"},
    {LLAMA, "quantization_config", INT8("\"group\"", "null"), "'group'"},
    {LLAMA, "quantization_config", INT8("\"channel\",\"symmetric\":false", "null"), "symmetric"},
    {LLAMA, "quantization_config", INT8("\"channel\",\"symmetric\":1", "null"), "symmetric"},
    {LLAMA, "quantization_config", INT8("\"channel\"", "{\"num_bits\":8}"), "input_activations"},
    {LLAMA, "quantization_config", CT("\"pack-quantized\"", "{}"), "'pack-quantized'"},
    {LLAMA, "quantization_config", CT("\"int-quantized\"", "{}"), "config_groups"},
    {LLAMA, "quantization_config", CT("\"int-quantized\"", "{\"g\":{}}"), "weights"},
    {LLAMA, "quantization_config",
     CT("\"int-quantized\"", "{\"g\":{\"weights\":{\"num_bits\":4,\"type\":\"int\","
                             "\"strategy\":\"channel\"}}}"),
     "int8"},
    {LLAMA, "quantization_config",
     CT("\"int-quantized\"", "{\"g\":{\"weights\":{\"num_bits\":8,\"type\":\"float\","
                             "\"strategy\":\"channel\"}}}"),
     "'float'"},
    {LLAMA, "compression_config", "{}", NULL},
    {LLAMA, "is_encoder_decoder", "true", NULL},
    {LLAMA, "add_cross_attention", "true", NULL},
    {LLAMA, "num_hidden_layers", NULL, NULL},
    {LLAMA, "num_hidden_layers", "0", NULL},
    {LLAMA, "num_hidden_layers", "-1", NULL},
    {LLAMA, "num_hidden_layers", "257", NULL},
    {LLAMA, "num_hidden_layers", "32.5", NULL},
    {LLAMA, "num_hidden_layers", "\"32\"", NULL},
    {LLAMA, "num_hidden_layers", "99999999999999999999", NULL},
    {LLAMA, "hidden_size", NULL, NULL},
    {LLAMA, "hidden_size", "32769", NULL},
    {LLAMA, "hidden_size", "4095", NULL},
    {LLAMA, "num_attention_heads", NULL, NULL},
    {LLAMA, "num_attention_heads", "257", NULL},
    {LLAMA, "num_attention_heads", "36", NULL},
    {LLAMA, "num_key_value_heads", "7", NULL},
    {LLAMA, "num_key_value_heads", "64", NULL},
    {LLAMA, "num_key_value_heads", "0", NULL},
    {QWEN2, "num_key_value_heads", NULL, NULL},
    {LLAMA, "head_dim", "0", NULL},
    {LLAMA, "head_dim", "63", "even"},
    {LLAMA, "head_dim", "258", NULL},
    {LLAMA, "num_attention_heads", "4096", NULL},
    {LLAMA, "intermediate_size", NULL, NULL},
    {LLAMA, "intermediate_size", "262145", NULL},
    {LLAMA, "vocab_size", NULL, NULL},
    {LLAMA, "vocab_size", "1000001", NULL},
    {LLAMA, "max_position_embeddings", NULL, NULL},
    {LLAMA, "max_position_embeddings", "1048577", NULL},
    {LLAMA, "rms_norm_eps", NULL, NULL},
    {LLAMA, "rms_norm_eps", "0", NULL},
    {LLAMA, "rms_norm_eps", "1", NULL},
    {LLAMA, "rms_norm_eps", "1e999", NULL},
    {LLAMA, "rope_theta", NULL, NULL},
    {LLAMA, "rope_theta", "0", NULL},
    {LLAMA, "rope_theta", "-10000", NULL},
    {LLAMA, "partial_rotary_factor", "0.5", NULL},
    {LLAMA, "rope_scaling", "8", NULL},
    {LLAMA, "rope_scaling", "{}", "rope_scaling.rope_type"},
    {LLAMA, "rope_scaling", "{\"rope_type\":1}", "rope_scaling.rope_type"},
    {LLAMA, "rope_scaling", "{\"type\":\"linear\",\"factor\":2}", "'linear'"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":2}", "'yarn'"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}", "rope_scaling.partial_rotary_factor"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"llama3\"}", "rope_scaling.factor"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":0.5}", "rope_scaling.factor"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8}", "rope_scaling.low_freq_factor"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1}", "rope_scaling.high_freq_factor"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}", "rope_scaling.original_max_position_embeddings"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}", "high_freq_factor"},
    {LLAMA, "rope_scaling", "{\"rope_type\":\"default\",\"rope_theta\":10000}", "differ"},
    {LLAMA, "rope_parameters", "{\"rope_type\":\"default\"}", "both"},
    {QWEN2, "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":10000}", "differ"},
    {QWEN2, "rope_parameters", "[]", NULL},
    {LLAMA, "tie_word_embeddings", "1", NULL},
    {LLAMA, "x\":1,\"x", "1", "twice"},
};
/* clang-format on */

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof REFUSED[0]; i++) {
        struct gd_model_config c;
        struct gd_err err;
        const char *says = REFUSED[i].says != NULL ? REFUSED[i].says : REFUSED[i].key;
        memset(&c, 0x5a, sizeof c);
        int rc = parse(build(REFUSED[i].base, REFUSED[i].key, REFUSED[i].value), &c, &err);
        if (rc != GD_EMODEL || strstr(err.msg, says) == NULL ||
            strncmp(err.msg, "config.json: ", 13) != 0)
            fail_msg("%s = %s: gave %d '%s'", REFUSED[i].key, REFUSED[i].value, rc, err.msg);
        assert_int_equal(c.dim, 0x5a5a5a5a); /* untouched */
    }
}

static void test_not_a_config(void **state)
{
    struct gd_model_config c;
    struct gd_err err;
    char deep[64];
    (void)state;
    assert_int_equal(parse("", &c, &err), GD_EJSON);
    assert_int_equal(parse("{", &c, &err), GD_EJSON);
    assert_int_equal(parse("[]", &c, &err), GD_EMODEL);
    assert_int_equal(parse("null", &c, &err), GD_EMODEL);
    assert_int_equal(parse("{}", &c, &err), GD_EMODEL);
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    assert_int_equal(parse(deep, &c, &err), GD_ELIMIT);
    /* Cut anywhere it is refused, and without an error record too. */
    build(LLAMA, NULL, NULL);
    for (size_t n = 0; n < strlen(text); n++)
        assert_int_not_equal(gd_model_config_parse((struct gd_str){text, n}, &c, NULL), GD_OK);
    assert_int_equal(gd_model_config_parse(gd_str_from(text), &c, NULL), GD_OK);
}

/* The head dimension that follows from the sizes is held to the same limits as one that is given.
 */
static void test_derived_head_dim(void **state)
{
    struct gd_model_config c;
    struct gd_err err;
    struct member m[32];
    size_t n = 0;
    (void)state;
    for (; LLAMA[n].key != NULL; n++)
        m[n] = LLAMA[n];
    m[n] = LLAMA[n];
    for (size_t i = 0; i < n; i++)
        if (strcmp(m[i].key, "num_key_value_heads") == 0)
            m[i].value = "1";
    assert_int_equal(parse(build(m, "num_attention_heads", "4"), &c, &err), GD_EMODEL);
    assert_non_null(strstr(err.msg, "1024"));
    assert_int_equal(parse(build(m, "num_attention_heads", "16"), &c, &err), GD_OK);
    assert_int_equal(c.head_dim, 256);
}

static void test_rope_frequencies(void **state)
{
    struct gd_model_config c;
    struct gd_err err;
    float f[64];
    (void)state;
    assert_int_equal(parse(build(LLAMA, "rope_scaling", NULL), &c, &err), GD_OK);
    gd_model_rope(&c, f);
    for (int i = 0; i < 64; i++)
        assert_true(f[i] == (float)pow(500000.0, -i / 64.0));
    /* Scaled: the turns made within 8192 tokens decide. High frequencies stay, low ones are divided
     * by 8. */
    float g[64];
    assert_int_equal(parse(build(LLAMA, NULL, NULL), &c, &err), GD_OK);
    gd_model_rope(&c, g);
    int kept = 0, divided = 0, between = 0;
    for (int i = 0; i < 64; i++) {
        double turns = 8192 * (double)f[i] / 6.283185307179586;
        if (turns > 4.001) {
            assert_true(g[i] == f[i]);
            kept++;
        } else if (turns < 0.999) {
            assert_true(g[i] == f[i] / 8);
            divided++;
        } else {
            assert_true(g[i] < f[i] && g[i] > f[i] / 8);
            double part = (turns - 1) / 3,
                   want = (1 - part) * (double)f[i] / 8 + part * (double)f[i];
            assert_true(fabs((double)g[i] / want - 1) < 1e-6);
            between++;
        }
    }
    assert_true(kept > 0 && divided > 0 && between > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_rope_parameters),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_not_a_config),
        cmocka_unit_test(test_derived_head_dim),
        cmocka_unit_test(test_rope_frequencies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
