/* model_tensors.h - which tensors an architecture has, found and checked before any is read.
 * Internal to server/engine. */
#ifndef GUARDIAN_ENGINE_MODEL_TENSORS_H
#define GUARDIAN_ENGINE_MODEL_TENSORS_H

#include "guardian/model.h"

enum gd_layer_slot {
    GD_SLOT_ATTN_NORM,
    GD_SLOT_Q,
    GD_SLOT_K,
    GD_SLOT_V,
    GD_SLOT_Q_BIAS,
    GD_SLOT_K_BIAS,
    GD_SLOT_V_BIAS,
    GD_SLOT_O,
    GD_SLOT_MLP_NORM,
    GD_SLOT_GATE,
    GD_SLOT_UP,
    GD_SLOT_DOWN,
    GD_SLOTS
};

struct gd_layer_tensors {
    const struct gd_tensor_info *slot[GD_SLOTS]; /* biases are NULL where there are none */
};

/* Points into the set, which must outlive it. */
struct gd_model_tensors {
    const struct gd_tensor_info *embed, *final_norm;
    const struct gd_tensor_info *lm_head; /* NULL when tied */
    struct gd_layer_tensors *layers;      /* [n_layers] malloc'ed */
    uint64_t n_params;
    uint64_t bytes_read;    /* of all tensors in the files */
    uint64_t bytes_largest; /* of the largest fused weight or vector as it is read */
    uint64_t bytes_needed;  /* the memory plan */
};

/* Finds every tensor, compares its shape with the configuration and refuses those that are missing
 * or extra. */
int gd_model_tensors_find(struct gd_model_tensors *out, const struct gd_safetensors *set,
                          const struct gd_model_config *c, struct gd_err *err);
void gd_model_tensors_free(struct gd_model_tensors *t);

/* Adds up bytes_needed for a back end. */
void gd_model_tensors_plan(struct gd_model_tensors *t, const struct gd_model_config *c,
                           struct gd_backend *be);

#endif
