/* simt_internal.h - what simt.cpp, runtime.cpp and cublaslt.cpp share. */
#ifndef GUARDIAN_SIMT_INTERNAL_H
#define GUARDIAN_SIMT_INTERNAL_H

#include <cuda_runtime_api.h>

#include "simt.h"

#include <functional>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define SIMT_POISON(p, n) __asan_poison_memory_region((p), (n))
#define SIMT_UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define SIMT_POISON(p, n) ((void)(p), (void)(n))
#define SIMT_UNPOISON(p, n) ((void)(p), (void)(n))
#endif

/* The hot paths of the machine itself; the kernels are what the sanitizers look at. */
#define SIMT_FAST __attribute__((no_sanitize("address", "undefined"), optimize("O3")))

struct simt_kernel;

/* ---- simt.cpp ---- */

/* Runs a kernel to its end. */
void simt_run(const simt_kernel &k, const void *args, uint64_t seed, uint64_t launch);
extern simt_counts simt_count;

/* ---- runtime.cpp ---- */

/* Work of a stream: runs later, once for each launch of a graph. */
typedef std::function<cudaError_t()> simt_work;

/* A call begins: the lock is held until the guard goes. rc: what the call has to answer at once if it is
 * not cudaSuccess: an injected or sticky error, or that there is no device. */
struct simt_call {
    explicit simt_call(bool needs_device = true);
    std::lock_guard<std::recursive_mutex> lock;
    cudaError_t rc;
};

/* Queues work on a stream, or adds it to the stream's capture. */
cudaError_t simt_push(cudaStream_t stream, simt_work work);

/* Whether all of p[nbytes] is in one piece of device memory. */
bool simt_is_device(const void *p, size_t nbytes);

struct simt_machine {
    int devices, driver, major, minor;
    char name[256];
    size_t memory;
    uint64_t seed;
};
extern simt_machine simt_now;
size_t simt_shared_max(); /* of a block, when allowed */

/* ---- cublaslt.cpp ---- */

extern uint32_t simt_handles, simt_descriptors;
void simt_matmul_offer_names(const char *names);

#endif
