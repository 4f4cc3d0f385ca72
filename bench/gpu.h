/* gpu.h - what bench_kernels measures with: memory full of Gaussian numbers, and the median of many
 * replays of a graph of launches.
 *
 * One device, one stream, one thread. All memory that is measured on is cut from one arena, anew for
 * each measurement; as bf16 its numbers are Gaussian, and as fp32 nearly so. */
#ifndef BENCH_GPU_H
#define BENCH_GPU_H

#include "common.h"
#include "gemm_cuda.h"

/* Sets of buffers are taken in turn until they are larger than this: more than twice the L2 cache of
 * any GPU that this was written for. */
#define GPU_ROTATE_BYTES (160 * GD_MIB)
#define GPU_SETS_MAX 64u

struct gpu {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    char *arena, *pattern; /* pattern: what the arena is filled with, again and again */
    size_t arena_bytes, pattern_bytes, used;
    bool quick; /* for tests/simt: few repetitions of tiny shapes */
    struct cudaDeviceProp prop;
};

int gpu_open(struct gpu *g, int device, bool quick, struct gd_err *err);
void gpu_close(struct gpu *g);

/* Starts a measurement: the whole arena is free and Gaussian again. */
int gpu_reset(struct gpu *g, struct gd_err *err);
/* Sets of so many bytes to take in turn, as far as the arena has room; at least 1. */
uint32_t gpu_sets(const struct gpu *g, size_t set_bytes);
/* Memory from the arena; NULL when it is used up. */
void *gpu_take(struct gpu *g, size_t nbytes);
/* Copies host memory to new memory of the arena; NULL when that fails. */
void *gpu_upload(struct gpu *g, const void *host, size_t nbytes);

/* Queues the work once, on a set of buffers. */
typedef cudaError_t (*gpu_work)(struct gpu *g, void *ctx, uint32_t set);
struct gpu_time {
    double us, us_min; /* of one call: median of the replays, and the best of them */
};
/* Runs the work once on each set, then in graphs of enough calls to be timed by events. */
int gpu_measure(struct gpu *g, gpu_work work, void *ctx, uint32_t n_sets, struct gpu_time *out,
                struct gd_err *err);

/* The best of a few groups of calls without a graph; us of one call. */
int gpu_measure_direct(struct gpu *g, gpu_work work, void *ctx, double *us, struct gd_err *err);

int gpu_failed(cudaError_t rc, const char *what, struct gd_err *err); /* GD_OK or GD_EBACKEND */

#endif
