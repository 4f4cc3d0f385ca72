/* fuzz_config.c - libFuzzer driver of config.json. What is accepted must be a model that the engine
 * can size without overflow, with RoPE frequencies that are finite, positive and falling; what is
 * refused says why. */
#include "guardian/model.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool within(uint32_t v, uint32_t max)
{
    return v >= 1 && v <= max;
}

static void check_accepted(const struct gd_model_config *c)
{
    float f[GD_MODEL_HEAD_DIM_MAX / 2];
    GD_ASSERT(within(c->n_layers, GD_MODEL_LAYERS_MAX) && within(c->dim, GD_MODEL_DIM_MAX));
    GD_ASSERT(within(c->n_heads, GD_MODEL_HEADS_MAX) && within(c->n_kv_heads, c->n_heads));
    GD_ASSERT(c->n_heads % c->n_kv_heads == 0 && c->head_dim % 2 == 0);
    GD_ASSERT(within(c->head_dim, GD_MODEL_HEAD_DIM_MAX) && within(c->ffn_dim, GD_MODEL_FFN_MAX));
    GD_ASSERT(within(c->vocab_size, GD_MODEL_VOCAB_MAX));
    GD_ASSERT(within(c->context_max, GD_MODEL_CONTEXT_MAX));
    GD_ASSERT(c->rms_norm_eps > 0 && c->rms_norm_eps <= 0.1f);
    GD_ASSERT(c->qkv_bias == (c->arch == GD_ARCH_QWEN2));
    gd_model_rope(c, f);
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        GD_ASSERT(isfinite(f[i]) && f[i] > 0 && f[i] <= 1);
        GD_ASSERT(i == 0 || f[i] <= f[i - 1]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gd_str json = {(const char *)data, size};
    struct gd_model_config c, untouched;
    struct gd_err err = {0};
    memset(&c, 0x5a, sizeof c);
    memset(&untouched, 0x5a, sizeof untouched);
    int rc = gd_model_config_parse(json, &c, &err);
    GD_ASSERT(rc == err.code);
    if (rc == GD_OK) {
        check_accepted(&c);
        return 0;
    }
    GD_ASSERT(rc == GD_EMODEL || rc == GD_EJSON || rc == GD_ELIMIT || rc == GD_ENOMEM);
    GD_ASSERT(err.msg[0] != '\0' && memcmp(&c, &untouched, sizeof c) == 0);
    return 0;
}
