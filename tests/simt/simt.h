/* simt.h - what a test may ask of the machine in tests/simt: kernels, CUDA runtime and cuBLASLt on a
 * CPU. All functions may be called from any thread; one lock guards the whole machine.
 *
 * A fresh process, and simt_reset, read these environment variables:
 *   GUARDIAN_SIMT_SEED        order of blocks, warps and threads (1)
 *   GUARDIAN_SIMT_DEVICES     number of devices (1); 0: cudaErrorNoDevice
 *   GUARDIAN_SIMT_DRIVER      version of the driver (13000); below 13000: cudaErrorInsufficientDriver
 *   GUARDIAN_SIMT_CAPABILITY  "9.0"; 8.0 and 8.9 have less shared memory and less or no FP8
 *   GUARDIAN_SIMT_MEMORY_MIB  device memory (1024)
 *   GUARDIAN_SIMT_ALGOS       order of the algorithms of cuBLASLt, see simt_matmul_offer
 *   GUARDIAN_SIMT_FAIL_CALL   the n-th call from here on fails, 1 is the next
 *   GUARDIAN_SIMT_FAIL_FILE   every call fails as long as this file exists; a number in it is the error
 *   GUARDIAN_SIMT_FAIL_CODE   the error of both (700, cudaErrorIllegalAddress) */
#ifndef GUARDIAN_SIMT_H
#define GUARDIAN_SIMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As a fresh process: default device, no fault, counters 0, nothing queued. What is open stays open. */
void simt_reset(void);

void simt_seed(uint64_t seed);

/* The machine that cudaGetDeviceCount and its like describe. Takes effect at once. */
void simt_set_devices(int n);
void simt_set_driver(int version);
void simt_set_capability(int major, int minor);
void simt_set_name(const char *name);
void simt_set_memory(size_t nbytes);

/* Calls that may fail: all of the runtime and cuBLASLt but the get-error functions, and launches. */
uint64_t simt_calls(void);

/* Lets the n-th call from now on (1: the next) fail; 0: none. An error that ends a CUDA context
 * (cudaErrorIllegalAddress and its like) drops all queued work and is the answer of every later call,
 * too, until simt_reset; another is answered once. A cuBLASLt call says it in its own words. */
void simt_fail_call(uint64_t n, int cuda_error);
bool simt_failed(void); /* whether that call has been reached */

/* As GUARDIAN_SIMT_FAIL_FILE; NULL: none. */
void simt_fail_file(const char *path, int cuda_error);

/* What has been made and not destroyed. */
struct simt_open {
    size_t device_bytes;
    uint32_t device, pinned, streams, events, graphs, graph_execs, handles, descriptors;
};
void simt_get_open(struct simt_open *out);
bool simt_all_closed(void); /* a line on stderr for what is not */

/* What has been done. */
struct simt_counts {
    uint64_t launches, blocks, threads, switches, mma, copies, matmuls, graph_launches, syncs;
};
void simt_get_counts(struct simt_counts *out);

/* The algorithms that the heuristic of cuBLASLt offers, first the one it likes best. */
enum simt_algo {
    SIMT_ALGO_PLAIN,     /* sums in the order of k */
    SIMT_ALGO_WIDE,      /* the same bits, another tile; needs 1 MiB of workspace */
    SIMT_ALGO_HALVES,    /* sums even and odd k apart: other bits */
    SIMT_ALGO_LAST_TILE, /* rows in the last, partial tile of 64 as HALVES, the others as PLAIN */
    SIMT_ALGO_FEW_ROWS,  /* products of less than 64 rows as HALVES, others as PLAIN */
    SIMT_ALGO_ODD_ROWS,  /* rows 8 to 15 of each 16 as HALVES */
    SIMT_ALGO_SPLIT, /* split-K by 4 through a workspace; not if the reduction mask forbids it */
    SIMT_ALGO_COUNT
};
/* n of them; NULL, 0: the default, which begins with SPLIT and LAST_TILE. The variable has the names in
 * lower case with commas between. */
void simt_matmul_offer(const enum simt_algo *algos, int n);

#ifdef __cplusplus
}
#endif

#endif
