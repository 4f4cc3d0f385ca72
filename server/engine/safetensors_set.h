/* safetensors_set.h - what safetensors.c (one header) lends to safetensors_set.c (the files of a
 * directory). */
#ifndef GUARDIAN_ENGINE_SAFETENSORS_SET_H
#define GUARDIAN_ENGINE_SAFETENSORS_SET_H

#include "guardian/json.h"
#include "guardian/safetensors.h"

/* The length in the first 8 bytes, checked against limit and file. */
int gd_safetensors_header_length(struct gd_str head, uint64_t file_bytes, uint64_t *out,
                                 struct gd_err *err);

/* Strict JSON of a header or an index: an object without duplicate names. */
int gd_safetensors_parse_json(struct gd_arena *a, struct gd_str text, const struct gd_json **out,
                              struct gd_err *err);

#endif
