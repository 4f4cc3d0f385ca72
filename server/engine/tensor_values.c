/* tensor_values.c - reads a tensor, refuses values that are not finite and widens int8 rows. */
#include "tensor_values.h"

#include "guardian/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum gd_dtype gd_tensor_values_dtype(const struct gd_tensor_info *t)
{
    return t->dtype == GD_DTYPE_I8 ? GD_DTYPE_BF16 : t->dtype;
}

uint64_t gd_tensor_values_bytes(const struct gd_tensor_info *t)
{
    return t->dtype == GD_DTYPE_I8 ? t->nbytes * sizeof(uint16_t) : t->nbytes;
}

int gd_tensor_scale(const struct gd_safetensors *set, const struct gd_tensor_info *t,
                    const struct gd_tensor_info **out, struct gd_err *err)
{
    char name[GD_SAFETENSORS_NAME_BYTES_MAX + sizeof "_scale"];
    *out = NULL;
    if (t->dtype != GD_DTYPE_I8)
        return GD_OK;
    if (t->rank != 2)
        return gd_err_set(err, GD_EMODEL, "tensor '%s' is I8 and no matrix", t->name.ptr);
    snprintf(name, sizeof name, "%s_scale", t->name.ptr);
    const struct gd_tensor_info *s = gd_safetensors_find(set, name);
    if (s == NULL)
        return gd_err_set(err, GD_EMODEL, "tensor '%s' is I8, and its scales '%s' are missing",
                          t->name.ptr, name);
    if (s->rank != 2 || s->shape[0] != t->shape[0] || s->shape[1] != 1)
        return gd_err_set(err, GD_EMODEL, "tensor '%s' must have the shape [%llu, 1]", name,
                          (unsigned long long)t->shape[0]);
    if (gdk_dtype_bytes(s->dtype) == 0)
        return gd_err_set(err, GD_EMODEL, "tensor '%s' must be F32, F16 or BF16", name);
    *out = s;
    return GD_OK;
}

/* A value is finite unless all bits of its exponent are set. No early exit, so that the loops
 * become vectors. */
static bool all_finite(enum gd_dtype dtype, uint64_t nbytes, const void *src)
{
    const unsigned char *p = src;
    uint32_t bad = 0;
    if (dtype == GD_DTYPE_F32) {
        for (uint64_t i = 0; i < nbytes; i += sizeof(uint32_t)) {
            uint32_t w;
            memcpy(&w, p + i, sizeof w);
            bad |= (w & 0x7f800000u) == 0x7f800000u;
        }
        return bad == 0;
    }
    const uint16_t mask = dtype == GD_DTYPE_F16 ? 0x7c00u : 0x7f80u;
    for (uint64_t i = 0; i < nbytes; i += sizeof(uint16_t)) {
        uint16_t h;
        memcpy(&h, p + i, sizeof h);
        bad |= (h & mask) == mask;
    }
    return bad == 0;
}

static int read_floats(struct gd_safetensors *set, const struct gd_tensor_info *t, void *dst,
                       struct gd_err *err)
{
    int rc = gd_safetensors_read(set, t, dst, err);
    if (rc == GD_OK && !all_finite(t->dtype, t->nbytes, dst))
        rc = gd_err_set(err, GD_EMODEL, "tensor '%s' has values that are not finite", t->name.ptr);
    return rc;
}

/* Nearest bf16, ties to even, of a finite value. */
static uint16_t to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* The int8 values lie in the upper half of dst; a bf16 never overtakes what is still to be read. */
static void widen(uint64_t n, uint64_t k, const float *scales, unsigned char *dst)
{
    const unsigned char *q = dst + n * k;
    for (uint64_t row = 0; row < n; row++) {
        for (uint64_t i = row * k; i < (row + 1) * k; i++) {
            uint16_t h = to_bf16((float)(int8_t)q[i] * scales[row]);
            memcpy(dst + i * sizeof h, &h, sizeof h);
        }
    }
}

static int read_scales(struct gd_safetensors *set, const struct gd_tensor_info *s, float *scales,
                       struct gd_err *err)
{
    void *stored = malloc((size_t)s->nbytes);
    if (stored == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for tensor '%s'", s->name.ptr);
    int rc = read_floats(set, s, stored, err);
    if (rc == GD_OK)
        gdk_to_f32_cpu((size_t)s->shape[0], s->dtype, stored, scales);
    free(stored);
    for (uint64_t i = 0; rc == GD_OK && i < s->shape[0]; i++)
        if (!(scales[i] > 0.0f && scales[i] < GD_INT8_SCALE_MAX))
            rc = gd_err_set(
                err, GD_EMODEL, "tensor '%s': scale %llu is %g, expected above 0, below %g",
                s->name.ptr, (unsigned long long)i, (double)scales[i], (double)GD_INT8_SCALE_MAX);
    return rc;
}

int gd_tensor_values(struct gd_safetensors *set, const struct gd_tensor_info *t, void *dst,
                     struct gd_err *err)
{
    const struct gd_tensor_info *s;
    if (t->dtype != GD_DTYPE_I8)
        return read_floats(set, t, dst, err);
    int rc = gd_tensor_scale(set, t, &s, err);
    if (rc != GD_OK)
        return rc;
    float *scales = malloc((size_t)t->shape[0] * sizeof *scales);
    if (scales == NULL)
        return gd_err_set(err, GD_ENOMEM, "no memory for tensor '%s'", s->name.ptr);
    rc = read_scales(set, s, scales, err);
    if (rc == GD_OK)
        rc = gd_safetensors_read(set, t, (unsigned char *)dst + t->nbytes, err);
    if (rc == GD_OK)
        widen(t->shape[0], t->shape[1], scales, dst);
    free(scales);
    return rc;
}
