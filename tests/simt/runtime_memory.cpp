// runtime_memory.cpp - the runtime's stand-in: device and pinned memory, copies, memsets.
#include "runtime_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

using namespace runtime;

namespace runtime
{
pieces device_memory, pinned_memory;
size_t device_used;
} // namespace runtime

const size_t GRAIN = 256; // what cudaMalloc aligns to

pieces::const_iterator runtime::find(const pieces &memory, const void *p)
{
    auto it = memory.upper_bound((uintptr_t)p);
    if (it == memory.begin()) {
        return memory.end();
    }
    --it;
    return (uintptr_t)p - it->first < it->second ? it : memory.end();
}

bool runtime::inside(const pieces &memory, const void *p, size_t nbytes)
{
    auto it = find(memory, p);
    return it != memory.end() && nbytes <= it->second - ((uintptr_t)p - it->first);
}

static bool overlaps_device(const void *p, size_t nbytes)
{
    auto it = device_memory.lower_bound((uintptr_t)p);
    return find(device_memory, p) != device_memory.end() ||
           (it != device_memory.end() && it->first - (uintptr_t)p < nbytes);
}

static void *allocate(size_t nbytes)
{
    void *p = NULL;
    if (posix_memalign(&p, GRAIN, nbytes) != 0) {
        return NULL;
    }
    memset(p, 0xff, nbytes);
    return p;
}

bool simt_is_device(const void *p, size_t nbytes)
{
    return inside(device_memory, p, nbytes);
}

void runtime::show_device_memory(bool show)
{
    for (const auto &m : device_memory) {
        if (show) {
            SIMT_UNPOISON((void *)m.first, m.second);
        } else {
            SIMT_POISON((void *)m.first, m.second);
        }
    }
}

// ---- memory ----

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    simt_call call;
    if (call.rc == cudaSuccess) {
        *total = simt_now.memory;
        *free = simt_now.memory > device_used ? simt_now.memory - device_used : 0;
    }
    return call.rc;
}

static size_t rounded(size_t nbytes)
{
    return (nbytes + GRAIN - 1) / GRAIN * GRAIN;
}

cudaError_t cudaMalloc(void **devPtr, size_t size)
{
    simt_call call;
    cudaError_t rc = call.rc == cudaSuccess ? not_in_capture("cudaMalloc") : call.rc;
    if (rc != cudaSuccess) {
        return rc;
    }
    *devPtr = NULL;
    if (size == 0) {
        return cudaSuccess;
    }
    size_t left = simt_now.memory > device_used ? simt_now.memory - device_used : 0;
    void *p = size <= left ? allocate(size) : NULL;
    if (p == NULL) {
        return failed(cudaErrorMemoryAllocation);
    }
    device_memory[(uintptr_t)p] = size;
    device_used += rounded(size);
    SIMT_POISON(p, size);
    *devPtr = p;
    return cudaSuccess;
}

cudaError_t cudaFree(void *devPtr)
{
    simt_call call;
    if (devPtr == NULL) {
        return call.rc;
    }
    cudaError_t rc = not_in_capture("cudaFree");
    if (rc != cudaSuccess) {
        return rc;
    }
    auto it = device_memory.find((uintptr_t)devPtr);
    if (it == device_memory.end()) {
        return wrong(cudaErrorInvalidValue, "cudaFree of what is no device memory");
    }
    rc = call.rc == cudaSuccess ? run_all() : call.rc;
    device_used -= rounded(it->second);
    SIMT_UNPOISON(devPtr, it->second);
    device_memory.erase(it);
    free(devPtr);
    return rc;
}

cudaError_t cudaMallocHost(void **ptr, size_t size)
{
    simt_call call;
    cudaError_t rc = call.rc == cudaSuccess ? not_in_capture("cudaMallocHost") : call.rc;
    if (rc != cudaSuccess) {
        return rc;
    }
    *ptr = size == 0 ? NULL : allocate(size);
    if (*ptr != NULL) {
        pinned_memory[(uintptr_t)*ptr] = size;
    }
    return *ptr != NULL || size == 0 ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *ptr)
{
    simt_call call;
    if (ptr == NULL) {
        return call.rc;
    }
    cudaError_t rc = not_in_capture("cudaFreeHost");
    if (rc != cudaSuccess) {
        return rc;
    }
    auto it = pinned_memory.find((uintptr_t)ptr);
    if (it == pinned_memory.end()) {
        return wrong(cudaErrorInvalidValue, "cudaFreeHost of what is no pinned memory");
    }
    rc = call.rc == cudaSuccess ? run_all() : call.rc;
    pinned_memory.erase(it);
    free(ptr);
    return rc;
}

// ---- copies ----

namespace
{
struct span {
    unsigned char *dst;
    const unsigned char *src;
    size_t nbytes;
    bool to_device, from_device;
};

// Where a copy goes and comes from has to be what its kind says, with all of its bytes.
bool check_side(const char *call, const char *side, bool device, const void *p, size_t nbytes)
{
    const char *why = NULL;
    if (device && !simt_is_device(p, nbytes)) {
        why = find(device_memory, p) == device_memory.end() ? "is no device memory"
                                                            : "runs over the end of device memory";
    } else if (!device && overlaps_device(p, nbytes)) {
        why = "is device memory";
    } else if (!device && find(pinned_memory, p) != pinned_memory.end() &&
               !inside(pinned_memory, p, nbytes)) {
        why = "runs over the end of pinned memory";
    }
    if (why != NULL) {
        fprintf(stderr, "simt: %s: the %s of %zu bytes %s\n", call, side, nbytes, why);
    }
    return why == NULL;
}

bool check_span(const span &c)
{
    return check_side("cudaMemcpyAsync", "destination", c.to_device, c.dst, c.nbytes) &&
           check_side("cudaMemcpyAsync", "source", c.from_device, c.src, c.nbytes);
}

cudaError_t copy_now(const span &c, const unsigned char *src)
{
    if (!check_span(c)) { // freed since
        return cudaErrorIllegalAddress;
    }
    memmove(c.dst, src, c.nbytes);
    return cudaSuccess;
}
} // namespace

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if ((int)kind < 0 || kind > cudaMemcpyDefault) {
        return wrong(cudaErrorInvalidMemcpyDirection, "cudaMemcpyAsync: kind %d", (int)kind);
    }
    if (count == 0) {
        return cudaSuccess;
    }
    span c = {(unsigned char *)dst, (const unsigned char *)src, count, false, false};
    c.to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice ||
                  (kind == cudaMemcpyDefault && overlaps_device(dst, 1));
    c.from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice ||
                    (kind == cudaMemcpyDefault && overlaps_device(src, 1));
    if (!check_span(c)) {
        return failed(cudaErrorInvalidValue);
    }
    cudaStream_t s = stream_of(stream);
    bool pinned = find(pinned_memory, src) != pinned_memory.end();
    if (s == NULL || s->capture != NULL || c.from_device || pinned) {
        return simt_push(stream, [c] { return copy_now(c, c.src); });
    }
    auto taken = std::make_shared<std::vector<unsigned char>>(c.src, c.src + count);
    return simt_push(stream, [c, taken]() -> cudaError_t {
        span q = c;
        q.src = taken->data();
        return copy_now(q, q.src);
    });
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess || count == 0) {
        return call.rc;
    }
    if (!check_side("cudaMemsetAsync", "destination", true, devPtr, count)) {
        return failed(cudaErrorInvalidValue);
    }
    return simt_push(stream, [devPtr, value, count]() -> cudaError_t {
        if (!check_side("cudaMemsetAsync", "destination", true, devPtr, count)) {
            return cudaErrorIllegalAddress;
        }
        memset(devPtr, value, count);
        return cudaSuccess;
    });
}
