/* model_tensors.c - the tensors of an architecture by name and shape, and the memory they will
 * take.
 *
 * One table says what a layer has. Each entry is looked up and its shape compared with what
 * config.json implies; what is left over is refused, because a tensor nobody reads means that the
 * model computes something the engine does not. Sizes are bounded by limits.h, so the sums below
 * stay far below 2^64. */
#include "model_tensors.h"

#include "tensor_values.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum dim { D_ONE, D_DIM, D_Q, D_KV, D_FFN }; /* D_ONE as columns: a vector */

static const struct {
    const char *name;
    enum dim rows, cols;
} SLOTS[GD_SLOTS] = {
    [GD_SLOT_ATTN_NORM] = {"input_layernorm.weight", D_DIM, D_ONE},
    [GD_SLOT_Q] = {"self_attn.q_proj.weight", D_Q, D_DIM},
    [GD_SLOT_K] = {"self_attn.k_proj.weight", D_KV, D_DIM},
    [GD_SLOT_V] = {"self_attn.v_proj.weight", D_KV, D_DIM},
    [GD_SLOT_Q_BIAS] = {"self_attn.q_proj.bias", D_Q, D_ONE},
    [GD_SLOT_K_BIAS] = {"self_attn.k_proj.bias", D_KV, D_ONE},
    [GD_SLOT_V_BIAS] = {"self_attn.v_proj.bias", D_KV, D_ONE},
    [GD_SLOT_O] = {"self_attn.o_proj.weight", D_DIM, D_Q},
    [GD_SLOT_MLP_NORM] = {"post_attention_layernorm.weight", D_DIM, D_ONE},
    [GD_SLOT_GATE] = {"mlp.gate_proj.weight", D_FFN, D_DIM},
    [GD_SLOT_UP] = {"mlp.up_proj.weight", D_FFN, D_DIM},
    [GD_SLOT_DOWN] = {"mlp.down_proj.weight", D_DIM, D_FFN},
};

struct finder {
    const struct gd_safetensors *set;
    bool *seen; /* [count of the set] */
    struct gd_model_tensors *out;
};

static uint32_t size_of(const struct gd_model_config *c, enum dim d)
{
    switch (d) {
    case D_DIM:
        return c->dim;
    case D_Q:
        return c->n_heads * c->head_dim;
    case D_KV:
        return c->n_kv_heads * c->head_dim;
    case D_FFN:
        return c->ffn_dim;
    case D_ONE:
        break;
    }
    return 1;
}

static void print_shape(char *out, size_t size, uint32_t rank, const uint64_t *shape)
{
    size_t at = (size_t)snprintf(out, size, "[");
    for (uint32_t i = 0; i < rank && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
    if (at < size)
        snprintf(out + at, size - at, "]");
}

/* Finds one tensor of shape [rows, cols], or [rows] when cols is 0, and counts it. */
static int find_one(struct finder *f, const char *name, uint64_t rows, uint64_t cols,
                    const struct gd_tensor_info **out, struct gd_err *err)
{
    const uint64_t want[2] = {rows, cols};
    uint32_t rank = cols == 0 ? 1 : 2;
    const struct gd_tensor_info *t = gd_safetensors_find(f->set, name);
    if (t == NULL)
        return gd_err_set(err, GD_EMODEL, "tensor '%s' is missing", name);
    if (t->rank != rank || memcmp(t->shape, want, rank * sizeof want[0]) != 0) {
        char have[8 * 24], need[2 * 24];
        print_shape(have, sizeof have, t->rank, t->shape);
        print_shape(need, sizeof need, rank, want);
        return gd_err_set(err, GD_EMODEL, "tensor '%s' has the shape %s, config.json implies %s",
                          name, have, need);
    }
    if (t->dtype == GD_DTYPE_U8 || t->dtype == GD_DTYPE_OTHER)
        return gd_err_set(err, GD_EMODEL, "tensor '%s' must be F32, F16, BF16 or I8", name);
    const struct gd_tensor_info *scale;
    int rc = gd_tensor_scale(f->set, t, &scale, err);
    if (rc != GD_OK)
        return rc;
    if (scale != NULL)
        f->seen[scale - gd_safetensors_at(f->set, 0)] = true;
    f->seen[t - gd_safetensors_at(f->set, 0)] = true;
    f->out->n_params += rows * (cols == 0 ? 1 : cols);
    f->out->bytes_read += t->nbytes;
    *out = t;
    return GD_OK;
}

/* Parts of one fused weight are joined as they are, so they must have one dtype. */
static int same_dtype(const struct gd_layer_tensors *l, enum gd_layer_slot a, enum gd_layer_slot b,
                      struct gd_err *err)
{
    if (l->slot[a]->dtype == l->slot[b]->dtype)
        return GD_OK;
    return gd_err_set(err, GD_EMODEL, "tensors '%s' and '%s' have different dtypes",
                      l->slot[a]->name.ptr, l->slot[b]->name.ptr);
}

static int find_layer(struct finder *f, const struct gd_model_config *c, uint32_t layer,
                      struct gd_err *err)
{
    struct gd_layer_tensors *l = &f->out->layers[layer];
    int rc;
    for (int i = 0; i < GD_SLOTS; i++) {
        char name[128];
        if (!c->qkv_bias && i >= GD_SLOT_Q_BIAS && i <= GD_SLOT_V_BIAS)
            continue;
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, SLOTS[i].name);
        rc = find_one(f, name, size_of(c, SLOTS[i].rows),
                      SLOTS[i].cols == D_ONE ? 0 : size_of(c, SLOTS[i].cols), &l->slot[i], err);
        if (rc != GD_OK)
            return rc;
    }
    if ((rc = same_dtype(l, GD_SLOT_Q, GD_SLOT_K, err)) != GD_OK ||
        (rc = same_dtype(l, GD_SLOT_Q, GD_SLOT_V, err)) != GD_OK)
        return rc;
    return same_dtype(l, GD_SLOT_GATE, GD_SLOT_UP, err);
}

static bool ends_with(struct gd_str s, struct gd_str end)
{
    return s.len >= end.len && memcmp(s.ptr + s.len - end.len, end.ptr, end.len) == 0;
}

static int check_extra(const struct finder *f, const struct gd_model_config *c, struct gd_err *err)
{
    for (size_t i = 0; i < gd_safetensors_count(f->set); i++) {
        struct gd_str name = gd_safetensors_at(f->set, i)->name;
        if (f->seen[i] || ends_with(name, GD_STR("rotary_emb.inv_freq")) ||
            (c->tied && gd_str_eqz(name, "lm_head.weight")))
            continue;
        return gd_err_set(
            err, GD_EMODEL, "tensor '%s' does not belong to %s with %u layers", name.ptr,
            c->arch == GD_ARCH_LLAMA ? "LlamaForCausalLM" : "Qwen2ForCausalLM", c->n_layers);
    }
    return GD_OK;
}

int gd_model_tensors_find(struct gd_model_tensors *out, const struct gd_safetensors *set,
                          const struct gd_model_config *c, struct gd_err *err)
{
    struct gd_model_tensors t = {0};
    struct finder f = {.set = set, .out = &t};
    int rc = GD_OK;
    f.seen = calloc(gd_safetensors_count(set) + 1, sizeof *f.seen);
    t.layers = calloc(c->n_layers, sizeof *t.layers);
    if (f.seen == NULL || t.layers == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for the list of %u layers", c->n_layers);
        goto done;
    }
    rc = find_one(&f, "model.embed_tokens.weight", c->vocab_size, c->dim, &t.embed, err);
    if (rc == GD_OK)
        rc = find_one(&f, "model.norm.weight", c->dim, 0, &t.final_norm, err);
    if (rc == GD_OK && !c->tied)
        rc = find_one(&f, "lm_head.weight", c->vocab_size, c->dim, &t.lm_head, err);
    for (uint32_t i = 0; rc == GD_OK && i < c->n_layers; i++)
        rc = find_layer(&f, c, i, err);
    if (rc == GD_OK)
        rc = check_extra(&f, c, err);
done:
    free(f.seen);
    if (rc == GD_OK)
        *out = t;
    else
        gd_model_tensors_free(&t);
    return rc;
}

void gd_model_tensors_free(struct gd_model_tensors *t)
{
    free(t->layers);
    t->layers = NULL;
}

static void at_least(uint64_t *largest, uint64_t n)
{
    if (n > *largest)
        *largest = n;
}

/* Of the tensors first..last, one behind the other. */
static uint64_t values_bytes(const struct gd_tensor_info *const *slot, int first, int last)
{
    uint64_t sum = 0;
    for (int i = first; i <= last; i++)
        sum += gd_tensor_values_bytes(slot[i]);
    return sum;
}

void gd_model_tensors_plan(struct gd_model_tensors *t, const struct gd_model_config *c,
                           struct gd_backend *be)
{
    uint32_t q = size_of(c, D_Q), qkv = q + 2 * size_of(c, D_KV);
    uint64_t layer = be->ops->weight_bytes(be, qkv, c->dim);
    layer += be->ops->weight_bytes(be, c->dim, q);
    layer += be->ops->weight_bytes(be, 2 * c->ffn_dim, c->dim);
    layer += be->ops->weight_bytes(be, c->dim, c->ffn_dim);
    layer += sizeof(float) * (2 * (uint64_t)c->dim + (c->qkv_bias ? qkv : 0));
    uint64_t sum = layer * c->n_layers + sizeof(float) * c->dim;
    sum += be->ops->table_bytes(be, c->vocab_size, c->dim, gd_tensor_values_dtype(t->embed));
    if (t->lm_head != NULL)
        sum += be->ops->table_bytes(be, c->vocab_size, c->dim, gd_tensor_values_dtype(t->lm_head));
    /* Room for the largest vector as floats too: bytes of a source element are at least two. */
    uint64_t largest = sizeof(float) * (uint64_t)(qkv > c->dim ? qkv : c->dim);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const struct gd_tensor_info *const *s = t->layers[i].slot;
        at_least(&largest, values_bytes(s, GD_SLOT_Q, GD_SLOT_V));
        at_least(&largest, values_bytes(s, GD_SLOT_O, GD_SLOT_O));
        at_least(&largest, values_bytes(s, GD_SLOT_GATE, GD_SLOT_UP));
        at_least(&largest, values_bytes(s, GD_SLOT_DOWN, GD_SLOT_DOWN));
    }
    t->bytes_largest = largest;
    t->bytes_needed = sum + 2 * largest;
}
