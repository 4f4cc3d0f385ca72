/* gpu.c - what bench_kernels measures with; see gpu.h. */
#include "gpu.h"

#include <math.h>
#include <string.h>

#define ARENA_BYTES (4 * GD_GIB)
#define ARENA_QUICK_BYTES (16 * GD_MIB)
#define PATTERN_BYTES (64 * GD_MIB) /* a divisor of the arena */
#define ALIGN 256u
#define GRAPH_US 400.0 /* that a replay takes at least, for its events to count */
#define GRAPH_CALLS_MAX 128u
#define REPLAYS 15u
#define REPLAYS_QUICK 2u

int gpu_failed(cudaError_t rc, const char *what, struct gd_err *err)
{
    return rc == cudaSuccess
               ? GD_OK
               : gd_err_set(err, rc == cudaErrorMemoryAllocation ? GD_ENOMEM : GD_EBACKEND,
                            "%s: %s", what, cudaGetErrorString(rc));
}

/* ---- memory ---- */

static uint16_t bf16_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static int make_pattern(struct gpu *g, struct gd_err *err)
{
    size_t n = g->pattern_bytes / sizeof(uint16_t);
    float *normals = malloc(n * sizeof *normals);
    uint16_t *host = malloc(g->pattern_bytes);
    if (normals == NULL || host == NULL) {
        free(normals);
        free(host);
        return gd_err_set(err, GD_ENOMEM, "no memory");
    }
    bench_normals(normals, n);
    for (size_t i = 0; i < n; i++) {
        host[i] = bf16_of(normals[i]);
    }
    cudaError_t rc =
        cudaMemcpyAsync(g->pattern, host, g->pattern_bytes, cudaMemcpyHostToDevice, g->stream);
    cudaError_t waited = cudaStreamSynchronize(g->stream);
    free(normals);
    free(host);
    return gpu_failed(rc != cudaSuccess ? rc : waited, "filling the memory", err);
}

int gpu_reset(struct gpu *g, struct gd_err *err)
{
    cudaError_t rc = cudaSuccess;
    for (size_t at = 0; at < g->arena_bytes && rc == cudaSuccess; at += g->pattern_bytes) {
        rc = cudaMemcpyAsync(g->arena + at, g->pattern, g->pattern_bytes, cudaMemcpyDeviceToDevice,
                             g->stream);
    }
    g->used = 0;
    return gpu_failed(rc, "filling the memory", err);
}

int gpu_open(struct gpu *g, int device, bool quick, struct gd_err *err)
{
    *g = (struct gpu){.quick = quick,
                      .arena_bytes = quick ? ARENA_QUICK_BYTES : ARENA_BYTES,
                      .pattern_bytes = quick ? ARENA_QUICK_BYTES / 4 : PATTERN_BYTES};
    cudaError_t rc = cudaSetDevice(device);
    rc = rc != cudaSuccess ? rc : cudaGetDeviceProperties(&g->prop, device);
    rc = rc != cudaSuccess ? rc : cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking);
    rc = rc != cudaSuccess ? rc : cudaEventCreate(&g->begin);
    rc = rc != cudaSuccess ? rc : cudaEventCreate(&g->end);
    rc = rc != cudaSuccess ? rc : cudaMalloc((void **)&g->arena, g->arena_bytes);
    rc = rc != cudaSuccess ? rc : cudaMalloc((void **)&g->pattern, g->pattern_bytes);
    int e = gpu_failed(rc, "opening the device", err);
    e = e != GD_OK ? e : make_pattern(g, err);
    return e != GD_OK ? e : gpu_reset(g, err);
}

void gpu_close(struct gpu *g)
{
    if (g->arena != NULL) {
        cudaFree(g->arena);
    }
    if (g->pattern != NULL) {
        cudaFree(g->pattern);
    }
    if (g->begin != NULL) {
        cudaEventDestroy(g->begin);
    }
    if (g->end != NULL) {
        cudaEventDestroy(g->end);
    }
    if (g->stream != NULL) {
        cudaStreamDestroy(g->stream);
    }
}

uint32_t gpu_sets(const struct gpu *g, size_t set_bytes)
{
    size_t room = (g->arena_bytes - g->used) / (set_bytes + 16 * ALIGN);
    size_t want = GPU_ROTATE_BYTES / set_bytes + 1;
    want = want < room ? want : room;
    want = g->quick && want > 2 ? 2 : want;
    return want < 1 ? 1 : want < GPU_SETS_MAX ? (uint32_t)want : GPU_SETS_MAX;
}

void *gpu_take(struct gpu *g, size_t nbytes)
{
    size_t rounded = (nbytes + ALIGN - 1) / ALIGN * ALIGN;
    if (rounded > g->arena_bytes - g->used) {
        return NULL;
    }
    g->used += rounded;
    return g->arena + g->used - rounded;
}

void *gpu_upload(struct gpu *g, const void *host, size_t nbytes)
{
    void *p = gpu_take(g, nbytes);
    if (p == NULL ||
        cudaMemcpyAsync(p, host, nbytes, cudaMemcpyHostToDevice, g->stream) != cudaSuccess ||
        cudaStreamSynchronize(g->stream) != cudaSuccess) {
        return NULL;
    }
    return p;
}

/* ---- time ---- */

/* One direct call on each set; us of the last one, with its launch. */
static cudaError_t warm_up(struct gpu *g, gpu_work work, void *ctx, uint32_t n_sets, double *us)
{
    float ms = 0;
    cudaError_t rc = cudaSuccess;
    for (uint32_t i = 0; i < n_sets && rc == cudaSuccess; i++) {
        rc = cudaEventRecord(g->begin, g->stream);
        rc = rc != cudaSuccess ? rc : work(g, ctx, i);
        rc = rc != cudaSuccess ? rc : cudaEventRecord(g->end, g->stream);
    }
    rc = rc != cudaSuccess ? rc : cudaEventSynchronize(g->end);
    rc = rc != cudaSuccess ? rc : cudaEventElapsedTime(&ms, g->begin, g->end);
    *us = (double)ms * 1e3;
    return rc;
}

static cudaError_t record(struct gpu *g, gpu_work work, void *ctx, uint32_t n_sets, uint32_t calls,
                          cudaGraphExec_t *exec)
{
    cudaGraph_t graph = NULL;
    cudaError_t rc = cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal);
    if (rc != cudaSuccess) {
        return rc;
    }
    for (uint32_t i = 0; i < calls && rc == cudaSuccess; i++) {
        rc = work(g, ctx, i % n_sets);
    }
    cudaError_t ended = cudaStreamEndCapture(g->stream, &graph);
    rc = rc != cudaSuccess ? rc : ended;
    rc = rc != cudaSuccess ? rc : cudaGraphInstantiate(exec, graph, 0);
    if (graph != NULL) {
        cudaGraphDestroy(graph);
    }
    return rc;
}

static cudaError_t replay(struct gpu *g, cudaGraphExec_t exec, double *us)
{
    float ms = 0;
    cudaError_t rc = cudaEventRecord(g->begin, g->stream);
    rc = rc != cudaSuccess ? rc : cudaGraphLaunch(exec, g->stream);
    rc = rc != cudaSuccess ? rc : cudaEventRecord(g->end, g->stream);
    rc = rc != cudaSuccess ? rc : cudaEventSynchronize(g->end);
    rc = rc != cudaSuccess ? rc : cudaEventElapsedTime(&ms, g->begin, g->end);
    *us = (double)ms * 1e3;
    return rc;
}

int gpu_measure(struct gpu *g, gpu_work work, void *ctx, uint32_t n_sets, struct gpu_time *out,
                struct gd_err *err)
{
    double once = 0, ignored, us[REPLAYS];
    uint32_t replays = g->quick ? REPLAYS_QUICK : REPLAYS;
    cudaGraphExec_t exec = NULL;
    cudaError_t rc = warm_up(g, work, ctx, n_sets, &once);
    uint32_t calls =
        once * GRAPH_CALLS_MAX > GRAPH_US ? (uint32_t)(GRAPH_US / once) + 1 : GRAPH_CALLS_MAX;
    calls = calls < n_sets ? n_sets : (calls + n_sets - 1) / n_sets * n_sets;
    calls = g->quick ? n_sets : calls;
    rc = rc != cudaSuccess ? rc : record(g, work, ctx, n_sets, calls, &exec);
    rc = rc != cudaSuccess ? rc : replay(g, exec, &ignored);
    for (uint32_t i = 0; i < replays && rc == cudaSuccess; i++) {
        rc = replay(g, exec, &us[i]);
    }
    if (exec != NULL) {
        cudaGraphExecDestroy(exec);
    }
    if (rc == cudaSuccess) {
        bench_sort(us, replays);
        *out = (struct gpu_time){us[replays / 2] / calls, us[0] / calls};
    }
    return gpu_failed(rc, "a measurement", err);
}

int gpu_measure_direct(struct gpu *g, gpu_work work, void *ctx, double *us, struct gd_err *err)
{
    const int calls = g->quick ? 1 : 10, groups = g->quick ? 1 : 5;
    cudaError_t rc = work(g, ctx, 0);
    *us = HUGE_VAL;
    for (int i = 0; i < groups && rc == cudaSuccess; i++) {
        float ms = 0;
        rc = cudaEventRecord(g->begin, g->stream);
        for (int j = 0; j < calls && rc == cudaSuccess; j++) {
            rc = work(g, ctx, 0);
        }
        rc = rc != cudaSuccess ? rc : cudaEventRecord(g->end, g->stream);
        rc = rc != cudaSuccess ? rc : cudaEventSynchronize(g->end);
        rc = rc != cudaSuccess ? rc : cudaEventElapsedTime(&ms, g->begin, g->end);
        *us = (double)ms * 1e3 / calls < *us ? (double)ms * 1e3 / calls : *us;
    }
    return gpu_failed(rc, "a measurement", err);
}
