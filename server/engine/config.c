/* config.c - config.json of a Hugging Face model directory, and the RoPE frequencies that follow
 * from it.
 *
 * The file describes an architecture by what it holds and by what it leaves out. Here the fields
 * that the engine computes by are read and checked against limits.h, and the fields that would
 * change the computation in a way the engine does not know (quantisation, sliding windows, other
 * activations or RoPE kinds) are refused by name: a model that would run but give other scores than
 * its authors' is worse than one that does not load. Both spellings of RoPE are read: rope_theta +
 * rope_scaling, and the newer rope_parameters, which holds both. */

#include "guardian/json.h"
#include "guardian/model.h"

#include <math.h>
#include <string.h>

#define ARENA_BYTES (32 * GD_MIB)

/* A wrong value is a fault of the model directory, whatever the JSON reader calls it. */
static int as_model_error(int rc, struct gd_err *err)
{
    if (rc != GD_EFIELD)
        return rc;
    if (err != NULL)
        err->code = GD_EMODEL;
    return GD_EMODEL;
}

static bool is_set(const struct gd_json *obj, const char *key)
{
    const struct gd_json *v = gd_json_get(obj, key);
    return v != NULL && v->type != GD_JSON_NULL;
}

static int need(const struct gd_json *obj, const char *where, const char *key, struct gd_err *err)
{
    if (is_set(obj, key))
        return GD_OK;
    return gd_err_set(err, GD_EMODEL, "field '%s%s' is missing", where, key);
}

/* A required count from 1 to max. */
static int read_count(const struct gd_json *obj, const char *where, const char *key, int64_t max,
                      uint32_t *out, struct gd_err *err)
{
    int64_t n = 0;
    int rc = need(obj, where, key, err);
    if (rc == GD_OK)
        rc = as_model_error(gd_json_want_i64(obj, where, key, 1, max, &n, err), err);
    if (rc == GD_OK)
        *out = (uint32_t)n;
    return rc;
}

static int read_real(const struct gd_json *obj, const char *where, const char *key, double min,
                     double max, double *out, struct gd_err *err)
{
    int rc = need(obj, where, key, err);
    if (rc != GD_OK)
        return rc;
    return as_model_error(gd_json_want_f64(obj, where, key, min, max, out, err), err);
}

/* A switch that must be off, absent or null. */
static int refuse_true(const struct gd_json *root, const char *key, struct gd_err *err)
{
    bool on = false;
    int rc = as_model_error(gd_json_want_bool(root, "", key, &on, err), err);
    if (rc == GD_OK && on)
        rc = gd_err_set(err, GD_EMODEL, "field '%s' is true, which is not supported", key);
    return rc;
}

static int refuse_set(const struct gd_json *root, const char *key, const char *why,
                      struct gd_err *err)
{
    if (!is_set(root, key))
        return GD_OK;
    return gd_err_set(err, GD_EMODEL, "field '%s' is set: %s", key, why);
}

/* A string that, when it is there, must be `only`. */
static int want_only(const struct gd_json *obj, const char *where, const char *key, bool required,
                     const char *only, struct gd_err *err)
{
    struct gd_str s = gd_str_from(only);
    int rc = required ? need(obj, where, key, err) : GD_OK;
    if (rc == GD_OK)
        rc = as_model_error(gd_json_want_str(obj, where, key, false, &s, err), err);
    if (rc == GD_OK && !gd_str_eqz(s, only))
        rc = gd_err_set(err, GD_EMODEL, "field '%s%s' is '%.*s', only '%s' is supported", where,
                        key, gd_shown(s, 64), s.ptr, only);
    return rc;
}

static int read_arch(const struct gd_json *root, struct gd_model_config *c, struct gd_err *err)
{
    const struct gd_json *list = gd_json_get(root, "architectures");
    if (!gd_json_is(list, GD_JSON_ARRAY) || !gd_json_is(list->child, GD_JSON_STRING))
        return gd_err_set(err, GD_EMODEL, "field 'architectures' must be a list with a name");
    struct gd_str name = list->child->str;
    if (gd_str_eqz(name, "LlamaForCausalLM"))
        c->arch = GD_ARCH_LLAMA;
    else if (gd_str_eqz(name, "Qwen2ForCausalLM"))
        c->arch = GD_ARCH_QWEN2;
    else
        return gd_err_set(err, GD_EMODEL,
                          "field 'architectures' is '%.*s', only LlamaForCausalLM and "
                          "Qwen2ForCausalLM are supported",
                          gd_shown(name, 64), name.ptr);
    c->qkv_bias = c->arch == GD_ARCH_QWEN2;
    return want_only(root, "", "model_type", false, c->arch == GD_ARCH_LLAMA ? "llama" : "qwen2",
                     err);
}

static int check_layer_types(const struct gd_json *root, struct gd_err *err)
{
    const struct gd_json *list = gd_json_get(root, "layer_types");
    if (list == NULL || list->type == GD_JSON_NULL)
        return GD_OK;
    if (list->type != GD_JSON_ARRAY)
        return gd_err_set(err, GD_EMODEL, "field 'layer_types' must be a list");
    for (const struct gd_json *v = list->child; v != NULL; v = v->next)
        if (!gd_json_is(v, GD_JSON_STRING) || !gd_str_eqz(v->str, "full_attention"))
            return gd_err_set(err, GD_EMODEL,
                              "field 'layer_types' has %.*s, only \"full_attention\" is supported",
                              gd_shown(v->raw, 64), v->raw.ptr);
    return GD_OK;
}

/* One group of compressed-tensors' config_groups: int8 weights, symmetric, one scale a row. */
static int check_int8_group(const struct gd_json *group, struct gd_err *err)
{
    static const char where[] = "quantization_config.config_groups.weights.";
    const struct gd_json *w = gd_json_get(group, "weights");
    uint32_t bits = 0;
    bool symmetric = true;
    if (!gd_json_is(w, GD_JSON_OBJECT))
        return gd_err_set(
            err, GD_EMODEL,
            "field 'quantization_config.config_groups' must hold groups with weights");
    int rc = refuse_set(group, "input_activations", "only weights may be quantised", err);
    if (rc == GD_OK)
        rc = refuse_set(group, "output_activations", "only weights may be quantised", err);
    if (rc == GD_OK)
        rc = read_count(w, where, "num_bits", 64, &bits, err);
    if (rc == GD_OK)
        rc = want_only(w, where, "type", true, "int", err);
    if (rc == GD_OK)
        rc = want_only(w, where, "strategy", true, "channel", err);
    if (rc == GD_OK)
        rc = as_model_error(gd_json_want_bool(w, where, "symmetric", &symmetric, err), err);
    if (rc == GD_OK && (bits != 8 || !symmetric))
        rc = gd_err_set(
            err, GD_EMODEL,
            "quantised weights must be symmetric int8: 'num_bits' 8 and 'symmetric' true "
            "in quantization_config.config_groups.weights");
    return rc;
}

/* Weights stored as int8 (tensor_values.h), as compressed-tensors declares them; nothing else. */
static int check_quantisation(const struct gd_json *root, struct gd_err *err)
{
    static const char where[] = "quantization_config.";
    const struct gd_json *q = gd_json_get(root, "quantization_config");
    if (!is_set(root, "quantization_config"))
        return GD_OK;
    if (q->type != GD_JSON_OBJECT)
        return gd_err_set(err, GD_EMODEL, "field 'quantization_config' must be an object");
    int rc = want_only(q, where, "quant_method", true, "compressed-tensors", err);
    if (rc == GD_OK)
        rc = want_only(q, where, "format", true, "int-quantized", err);
    if (rc == GD_OK)
        rc = refuse_set(q, "kv_cache_scheme", "only weights may be quantised", err);
    const struct gd_json *groups = gd_json_get(q, "config_groups");
    if (rc == GD_OK && (!gd_json_is(groups, GD_JSON_OBJECT) || groups->child == NULL))
        rc = gd_err_set(err, GD_EMODEL,
                        "field 'quantization_config.config_groups' must be an object with groups");
    for (const struct gd_json *g = rc == GD_OK ? groups->child : NULL; g != NULL; g = g->next)
        if ((rc = check_int8_group(g, err)) != GD_OK)
            break;
    return rc;
}

/* What the engine does not compute. */
static int check_unsupported(const struct gd_json *root, const struct gd_model_config *c,
                             struct gd_err *err)
{
    static const char *const switches[] = {"mlp_bias", "use_sliding_window", "is_encoder_decoder",
                                           "add_cross_attention"};
    int rc = want_only(root, "", "hidden_act", true, "silu", err);
    for (size_t i = 0; rc == GD_OK && i < sizeof switches / sizeof switches[0]; i++)
        rc = refuse_true(root, switches[i], err);
    if (rc == GD_OK && c->arch == GD_ARCH_LLAMA)
        rc = refuse_true(root, "attention_bias", err);
    if (rc == GD_OK && c->arch == GD_ARCH_LLAMA)
        rc = refuse_set(root, "sliding_window", "sliding windows are not supported", err);
    if (rc == GD_OK)
        rc = check_quantisation(root, err);
    if (rc == GD_OK)
        rc = refuse_set(root, "compression_config", "expected 'quantization_config'", err);
    if (rc == GD_OK)
        rc = check_layer_types(root, err);
    return rc;
}

static int read_sizes(const struct gd_json *root, struct gd_model_config *c, struct gd_err *err)
{
    int rc;
    if ((rc = read_count(root, "", "num_hidden_layers", GD_MODEL_LAYERS_MAX, &c->n_layers, err)) ||
        (rc = read_count(root, "", "hidden_size", GD_MODEL_DIM_MAX, &c->dim, err)) ||
        (rc = read_count(root, "", "num_attention_heads", GD_MODEL_HEADS_MAX, &c->n_heads, err)) ||
        (rc = read_count(root, "", "intermediate_size", GD_MODEL_FFN_MAX, &c->ffn_dim, err)) ||
        (rc = read_count(root, "", "vocab_size", GD_MODEL_VOCAB_MAX, &c->vocab_size, err)) ||
        (rc = read_count(root, "", "max_position_embeddings", GD_MODEL_CONTEXT_MAX, &c->context_max,
                         err)))
        return rc;
    c->n_kv_heads = c->n_heads;
    if (is_set(root, "num_key_value_heads") || c->arch == GD_ARCH_QWEN2)
        rc = read_count(root, "", "num_key_value_heads", GD_MODEL_HEADS_MAX, &c->n_kv_heads, err);
    if (rc != GD_OK)
        return rc;
    if (c->n_heads % c->n_kv_heads != 0)
        return gd_err_set(err, GD_EMODEL,
                          "field 'num_attention_heads' (%u) must be a multiple of "
                          "'num_key_value_heads' (%u)",
                          c->n_heads, c->n_kv_heads);
    if (is_set(root, "head_dim")) {
        rc = read_count(root, "", "head_dim", GD_MODEL_HEAD_DIM_MAX, &c->head_dim, err);
    } else {
        c->head_dim = c->dim / c->n_heads;
        if (c->dim % c->n_heads != 0)
            rc = gd_err_set(err, GD_EMODEL,
                            "field 'hidden_size' (%u) must be a multiple of "
                            "'num_attention_heads' (%u) when 'head_dim' is not given",
                            c->dim, c->n_heads);
    }
    if (rc == GD_OK && (c->head_dim % 2 != 0 || c->head_dim > GD_MODEL_HEAD_DIM_MAX))
        rc = gd_err_set(err, GD_EMODEL, "the head dimension is %u, it must be even and at most %d",
                        c->head_dim, GD_MODEL_HEAD_DIM_MAX);
    return rc;
}

static int read_llama3(const struct gd_json *obj, const char *where, struct gd_model_config *c,
                       struct gd_err *err)
{
    int rc;
    if ((rc = read_real(obj, where, "factor", 1, 1e6, &c->rope_factor, err)) ||
        (rc = read_real(obj, where, "low_freq_factor", 1e-3, 1e6, &c->rope_low_freq_factor, err)) ||
        (rc = read_real(obj, where, "high_freq_factor", 1e-3, 1e6, &c->rope_high_freq_factor,
                        err)) ||
        (rc = read_count(obj, where, "original_max_position_embeddings", GD_MODEL_CONTEXT_MAX,
                         &c->rope_original_context, err)))
        return rc;
    if (!(c->rope_high_freq_factor > c->rope_low_freq_factor))
        return gd_err_set(err, GD_EMODEL,
                          "field '%shigh_freq_factor' must be over '%slow_freq_factor'", where,
                          where);
    c->rope_llama3 = true;
    return GD_OK;
}

/* rope_scaling or rope_parameters: what it says about the kind of RoPE. "type" is the oldest
 * spelling. */
static int read_rope_kind(const struct gd_json *obj, const char *where, struct gd_model_config *c,
                          struct gd_err *err)
{
    struct gd_str kind = GD_STR("");
    const char *key = is_set(obj, "rope_type") ? "rope_type" : "type";
    int rc = GD_OK;
    if (!is_set(obj, key))
        return gd_err_set(err, GD_EMODEL, "field '%srope_type' is missing", where);
    if ((rc = as_model_error(gd_json_want_str(obj, where, key, true, &kind, err), err)) != GD_OK)
        return rc;
    if (is_set(obj, "partial_rotary_factor")) {
        double part = 1;
        rc = read_real(obj, where, "partial_rotary_factor", 1, 1, &part, err);
        if (rc != GD_OK)
            return rc;
    }
    if (gd_str_eqz(kind, "default"))
        return GD_OK;
    if (gd_str_eqz(kind, "llama3"))
        return read_llama3(obj, where, c, err);
    return gd_err_set(err, GD_EMODEL,
                      "field '%s%s' is '%.*s', only 'default' and 'llama3' are supported", where,
                      key, gd_shown(kind, 64), kind.ptr);
}

static int read_rope(const struct gd_json *root, struct gd_model_config *c, struct gd_err *err)
{
    static const struct {
        const char *key, *where;
    } places[] = {{"rope_scaling", "rope_scaling."}, {"rope_parameters", "rope_parameters."}};
    bool found = false;
    double theta = 0;
    int rc;
    if (is_set(root, "rope_scaling") && is_set(root, "rope_parameters"))
        return gd_err_set(err, GD_EMODEL,
                          "fields 'rope_scaling' and 'rope_parameters' are both set");
    if (is_set(root, "partial_rotary_factor") &&
        (rc = read_real(root, "", "partial_rotary_factor", 1, 1, &theta, err)) != GD_OK)
        return rc;
    if (is_set(root, "rope_theta")) {
        if ((rc = read_real(root, "", "rope_theta", 1, 1e12, &c->rope_theta, err)) != GD_OK)
            return rc;
        found = true;
    }
    for (size_t i = 0; i < 2; i++) {
        const struct gd_json *obj = gd_json_get(root, places[i].key);
        if (!is_set(root, places[i].key))
            continue;
        if (!gd_json_is(obj, GD_JSON_OBJECT))
            return gd_err_set(err, GD_EMODEL, "field '%s' must be an object", places[i].key);
        if ((rc = read_rope_kind(obj, places[i].where, c, err)) != GD_OK)
            return rc;
        if (!is_set(obj, "rope_theta"))
            continue;
        if ((rc = read_real(obj, places[i].where, "rope_theta", 1, 1e12, &theta, err)) != GD_OK)
            return rc;
        if (found && theta != c->rope_theta)
            return gd_err_set(err, GD_EMODEL, "fields 'rope_theta' and '%srope_theta' differ",
                              places[i].where);
        c->rope_theta = theta;
        found = true;
    }
    return found ? GD_OK : gd_err_set(err, GD_EMODEL, "field 'rope_theta' is missing");
}

static int read_config(const struct gd_json *root, struct gd_model_config *c, struct gd_err *err)
{
    double eps = 0;
    int rc;
    if (!gd_json_is(root, GD_JSON_OBJECT))
        return gd_err_set(err, GD_EMODEL, "the configuration must be an object, is %s",
                          gd_json_type_name(root));
    if (root->flags & GD_JSON_F_DUPKEY)
        return gd_err_set(err, GD_EMODEL, "the configuration names a field twice");
    if ((rc = read_arch(root, c, err)) != GD_OK ||
        (rc = check_unsupported(root, c, err)) != GD_OK ||
        (rc = read_sizes(root, c, err)) != GD_OK || (rc = read_rope(root, c, err)) != GD_OK ||
        (rc = read_real(root, "", "rms_norm_eps", 1e-12, 0.1, &eps, err)) != GD_OK)
        return rc;
    c->rms_norm_eps = (float)eps;
    /* Absent means false for both architectures. */
    return as_model_error(gd_json_want_bool(root, "", "tie_word_embeddings", &c->tied, err), err);
}

int gd_model_config_parse(struct gd_str json, struct gd_model_config *out, struct gd_err *err)
{
    const struct gd_json_limits lim = {
        .bytes_max = GD_MODEL_CONFIG_BYTES_MAX,
        .nodes_max = 100000,
        .depth_max = 16,
        .key_bytes_max = 4096,
    };
    struct gd_model_config c = {0};
    const struct gd_json *root = NULL;
    struct gd_arena a;
    gd_arena_init(&a, ARENA_BYTES);
    int rc = gd_json_parse(&a, json, &lim, &root, err);
    if (rc == GD_OK)
        rc = read_config(root, &c, err);
    gd_arena_free(&a);
    if (rc == GD_OK)
        *out = c;
    else
        gd_err_prefix(err, "config.json");
    return rc;
}

void gd_model_rope(const struct gd_model_config *c, float *inv_freq)
{
    const double two_pi = 6.283185307179586476925286766559;
    for (uint32_t i = 0; i < c->head_dim / 2; i++) {
        double f = pow(c->rope_theta, -2.0 * i / c->head_dim);
        double turns = c->rope_original_context * f / two_pi; /* within the original context */
        if (c->rope_llama3 && turns < c->rope_low_freq_factor) {
            f /= c->rope_factor;
        } else if (c->rope_llama3 && turns <= c->rope_high_freq_factor) {
            double keep = (turns - c->rope_low_freq_factor) /
                          (c->rope_high_freq_factor - c->rope_low_freq_factor);
            f = (1 - keep) * f / c->rope_factor + keep * f;
        }
        inv_freq[i] = (float)f;
    }
}
