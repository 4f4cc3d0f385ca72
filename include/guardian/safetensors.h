/* safetensors.h - reads the safetensors format (8-byte little-endian header length, JSON header,
 * data), one file or the shards of a model.safetensors.index.json, never by mapping: bytes are read
 * into owned memory.
 *
 * Checked before any tensor is used: header length against file and limit, strict JSON without
 * duplicate names, known dtype, shape product and byte count without overflow, offsets inside the
 * file, no overlap, no hole, no byte left over. A set is used by one thread. Format:
 * https://github.com/huggingface/safetensors (README, "Format"). */
#ifndef GUARDIAN_SAFETENSORS_H
#define GUARDIAN_SAFETENSORS_H

#include "guardian/arena.h"
#include "guardian/file.h"
#include "guardian/limits.h"
#include "guardian/status.h"

enum gd_dtype { GD_DTYPE_F32, GD_DTYPE_F16, GD_DTYPE_BF16, GD_DTYPE_I8, GD_DTYPE_U8, GD_DTYPE_OTHER };

struct gd_tensor_info {
    struct gd_str name;
    enum gd_dtype dtype;
    uint32_t rank;
    uint64_t shape[GD_SAFETENSORS_RANK_MAX];
    uint64_t offset; /* bytes from the start of the file */
    uint64_t nbytes;
    uint32_t file; /* index into the set's files */
};

struct gd_safetensors;

/* Parses one header held in memory, for a file of file_bytes bytes whose first bytes are `head`.
 * `tensors` go into the arena. This is the fuzzed entry. GD_EMODEL, GD_EJSON, GD_ELIMIT, GD_ENOMEM.
 * */
int gd_safetensors_parse_header(struct gd_arena *a, struct gd_str head, uint64_t file_bytes,
                                struct gd_tensor_info **tensors, size_t *n_tensors,
                                struct gd_err *err);

/* Opens model.safetensors of dir, or the shards that its index names (plain file names only; each
 * tensor in exactly the shard the index says). Holds the files open until close. */
int gd_safetensors_open(struct gd_safetensors **out, const char *dir, struct gd_err *err);
void gd_safetensors_close(struct gd_safetensors *s);

size_t gd_safetensors_count(const struct gd_safetensors *s);
const struct gd_tensor_info *gd_safetensors_at(const struct gd_safetensors *s, size_t i);
const struct gd_tensor_info *gd_safetensors_find(const struct gd_safetensors *s, const char *name);

/* Reads the tensor's raw bytes (info->nbytes) into dst. GD_EIO when the file is shorter than it
 * was. */
int gd_safetensors_read(struct gd_safetensors *s, const struct gd_tensor_info *info, void *dst,
                        struct gd_err *err);

/* Hex SHA-256 of each shard, computed by reading the files once in whole, several at one time; n files.
 * progress may be NULL and is called with the bytes done and the bytes in all, by one thread at a time,
 * not always the same. *files lives as long as the set; it means nothing after a failure. */
int gd_safetensors_digest(struct gd_safetensors *s, const struct gd_file_digest **files, size_t *n,
                          void (*progress)(void *ctx, uint64_t done, uint64_t all), void *ctx,
                          struct gd_err *err);

#endif
