/* tensor_values.h - the values of a stored tensor, as the back ends take them. Internal to
 * server/engine.
 *
 * F32, F16 and BF16 are handed on as they are stored. An I8 matrix [n, k] stands beside a tensor of
 * the same name with "_scale" after it, [n, 1] in F32, F16 or BF16, and is handed on as BF16:
 * round(value * scale of its row), to nearest, ties to even. This is how compressed-tensors names
 * weights quantised by row ("int-quantized", symmetric, strategy "channel"). */
#ifndef GUARDIAN_ENGINE_TENSOR_VALUES_H
#define GUARDIAN_ENGINE_TENSOR_VALUES_H

#include "guardian/safetensors.h"

/* What gd_tensor_values writes. */
enum gd_dtype gd_tensor_values_dtype(const struct gd_tensor_info *t);
uint64_t gd_tensor_values_bytes(const struct gd_tensor_info *t);

/* The scales of an I8 matrix, checked; *out is NULL for every other tensor. GD_EMODEL. */
int gd_tensor_scale(const struct gd_safetensors *set, const struct gd_tensor_info *t,
                    const struct gd_tensor_info **out, struct gd_err *err);

/* Reads t into dst [gd_tensor_values_bytes]. GD_EMODEL when a value is not finite or a scale is not
 * positive, GD_EIO, GD_ENOMEM. */
int gd_tensor_values(struct gd_safetensors *set, const struct gd_tensor_info *t, void *dst,
                     struct gd_err *err);

#endif
