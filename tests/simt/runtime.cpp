// runtime.cpp - the CUDA runtime's calls over host memory: streams, graphs, events, memory, faults.
//
// Nothing that is queued on a stream happens before a call that waits for it: kernels, copies and
// memsets alike. So a result that is read too early, or a pinned source that is changed too early, is
// wrong every time. A copy from memory that is not pinned takes its source at the call, as CUDA does.
// Device memory is ordinary memory, one allocation each, so that AddressSanitizer sees what runs over
// its end; it is 0xff at first and poisoned for the host except while queued work runs.
//
// Streams run only when waited for, each alone: work that relies on the order of two streams fails.
// One memory serves all devices.
#include "simt_internal.h"

#include "simt_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

struct CUgraph_st {
    std::vector<simt_work> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<std::vector<simt_work>> nodes;
};
struct event_state {
    bool recorded, done, captured;
    double at_ms;
    cudaStream_t stream;
};
struct CUevent_st {
    std::shared_ptr<event_state> state;
};
struct CUstream_st {
    std::deque<simt_work> queue;
    CUgraph_st *capture;
    bool invalidated;
    cudaStreamCaptureMode mode;
    std::thread::id capturer;
};

simt_machine simt_now;

namespace
{
struct error_text {
    cudaError_t code;
    const char *name, *text;
};
const error_text TEXTS[] = {
#define ERROR(name, text)                                                                          \
    {                                                                                              \
        name, #name, text                                                                          \
    }
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration of a launch"),
    ERROR(cudaErrorInvalidPitchValue, "invalid pitch"),
    ERROR(cudaErrorInvalidMemcpyDirection, "invalid direction of a copy"),
    ERROR(cudaErrorInsufficientDriver, "the driver is too old for this CUDA runtime"),
    ERROR(cudaErrorDevicesUnavailable, "all devices are busy or unavailable"),
    ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    ERROR(cudaErrorNoDevice, "no CUDA device found"),
    ERROR(cudaErrorInvalidDevice, "invalid device number"),
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image for this device"),
    ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid handle"),
    ERROR(cudaErrorIllegalState, "not allowed in this state"),
    ERROR(cudaErrorNotReady, "not ready"),
    ERROR(cudaErrorIllegalAddress, "illegal memory access on the device"),
    ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for a launch"),
    ERROR(cudaErrorLaunchTimeout, "a kernel ran too long and was ended"),
    ERROR(cudaErrorAssert, "device-side assertion"),
    ERROR(cudaErrorHardwareStackError, "hardware stack error"),
    ERROR(cudaErrorIllegalInstruction, "illegal instruction"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorInvalidAddressSpace, "invalid address space"),
    ERROR(cudaErrorInvalidPc, "invalid program counter"),
    ERROR(cudaErrorLaunchFailure, "unspecified failure of a kernel"),
    ERROR(cudaErrorNotPermitted, "not permitted"),
    ERROR(cudaErrorNotSupported, "not supported"),
    ERROR(cudaErrorSystemDriverMismatch, "the driver's parts do not fit each other"),
    ERROR(cudaErrorStreamCaptureUnsupported, "not permitted while a stream is captured"),
    ERROR(cudaErrorStreamCaptureInvalidated, "the capture failed because of an earlier error"),
    ERROR(cudaErrorStreamCaptureUnmatched, "the capture was not begun in this stream"),
    ERROR(cudaErrorStreamCaptureImplicit, "the capture would depend on the default stream"),
    ERROR(cudaErrorCapturedEvent, "not permitted on an event last recorded in a capture"),
    ERROR(cudaErrorStreamCaptureWrongThread, "the capture was begun by another thread"),
    ERROR(cudaErrorUnknown, "unknown error"),
#undef ERROR
};

const size_t GRAIN = 256; // what cudaMalloc aligns to
const int VERSION = CUDART_VERSION;

std::recursive_mutex mutex;
bool started;
uint64_t n_calls, fail_at, n_launches;
bool fail_reached;
int fail_code;
char fail_path[1024];
int fail_path_code;
cudaError_t sticky;
thread_local cudaError_t last_error;

std::map<uintptr_t, size_t> device_memory, pinned_memory;
size_t device_used;
std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;
std::set<cudaGraph_t> graphs;
std::set<cudaGraphExec_t> execs;
std::map<const void *, size_t> allowed; // shared memory of kernels
CUstream_st default_stream;
uint64_t n_graph_launches, n_syncs;

bool ends_context(int code)
{
    return code == cudaErrorECCUncorrectable || code == cudaErrorIllegalAddress ||
           code == cudaErrorLaunchTimeout || code == cudaErrorAssert ||
           (code >= cudaErrorHardwareStackError && code <= cudaErrorLaunchFailure);
}

void drop_work()
{
    for (cudaStream_t s : streams) {
        s->queue.clear();
    }
    default_stream.queue.clear();
}

// The answer of a call that fails.
cudaError_t failed(cudaError_t code)
{
    if (ends_context(code) && sticky == cudaSuccess) {
        sticky = code;
        drop_work();
    }
    last_error = code;
    return code;
}

// The same for what only a mistake of the caller can cause: says it.
__attribute__((format(printf, 2, 3))) cudaError_t wrong(cudaError_t code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("simt: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (%s)\n", cudaGetErrorName(code));
    va_end(args);
    return failed(code);
}

const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

long number(const char *name, long fallback)
{
    const char *value = variable(name);
    return value != NULL ? strtol(value, NULL, 0) : fallback;
}

void start()
{
    started = true;
    simt_machine &m = simt_now;
    m.devices = (int)number("GUARDIAN_SIMT_DEVICES", 1);
    m.driver = (int)number("GUARDIAN_SIMT_DRIVER", VERSION);
    m.major = 9;
    m.minor = 0;
    const char *capability = variable("GUARDIAN_SIMT_CAPABILITY");
    if (capability != NULL && sscanf(capability, "%d.%d", &m.major, &m.minor) != 2) {
        fprintf(stderr, "simt: GUARDIAN_SIMT_CAPABILITY is not like 9.0\n");
        abort();
    }
    snprintf(m.name, sizeof m.name, "Simulated device");
    m.memory = (size_t)number("GUARDIAN_SIMT_MEMORY_MIB", 1024) << 20;
    m.seed = (uint64_t)number("GUARDIAN_SIMT_SEED", 1);
    n_calls = n_launches = n_graph_launches = n_syncs = 0;
    simt_count = simt_counts();
    fail_code = (int)number("GUARDIAN_SIMT_FAIL_CODE", cudaErrorIllegalAddress);
    fail_at = (uint64_t)number("GUARDIAN_SIMT_FAIL_CALL", 0);
    fail_reached = false;
    const char *path = variable("GUARDIAN_SIMT_FAIL_FILE");
    snprintf(fail_path, sizeof fail_path, "%s", path != NULL ? path : "");
    fail_path_code = fail_code;
    sticky = last_error = cudaSuccess;
    simt_matmul_offer_names(variable("GUARDIAN_SIMT_ALGOS"));
}

// The error in the file of GUARDIAN_SIMT_FAIL_FILE; 0 if it does not exist.
int error_in_file()
{
    if (fail_path[0] == '\0') {
        return 0;
    }
    FILE *f = fopen(fail_path, "r");
    if (f == NULL) {
        return 0;
    }
    int code = 0;
    if (fscanf(f, "%d", &code) != 1 || code <= 0) {
        code = fail_path_code;
    }
    fclose(f);
    return code;
}

cudaError_t next_call(bool needs_device)
{
    if (!started) {
        start();
    }
    n_calls++;
    int code = error_in_file();
    if (fail_at != 0 && n_calls == fail_at) {
        fail_reached = true;
        code = fail_code;
    }
    if (sticky != cudaSuccess) {
        code = sticky;
    }
    if (code == 0 && needs_device) {
        code = simt_now.driver < VERSION ? cudaErrorInsufficientDriver
               : simt_now.devices == 0   ? cudaErrorNoDevice
                                         : cudaSuccess;
    }
    return code != 0 ? failed((cudaError_t)code) : cudaSuccess;
}

cudaStream_t stream_of(cudaStream_t stream)
{
    if (stream == NULL || stream == &default_stream) {
        return &default_stream;
    }
    return streams.count(stream) > 0 ? stream : NULL;
}

// ---- captures ----

// What may not be called while a stream is captured ends the capture.
cudaError_t not_in_capture(const char *what)
{
    for (cudaStream_t s : streams) {
        if (s->capture == NULL || s->mode == cudaStreamCaptureModeRelaxed ||
            (s->mode == cudaStreamCaptureModeThreadLocal &&
             s->capturer != std::this_thread::get_id())) {
            continue;
        }
        s->invalidated = true;
        return wrong(cudaErrorStreamCaptureUnsupported, "%s while a stream is captured", what);
    }
    return cudaSuccess;
}

cudaError_t not_captured(cudaStream_t s, const char *what)
{
    if (s->capture == NULL) {
        return cudaSuccess;
    }
    s->invalidated = true;
    return wrong(cudaErrorStreamCaptureUnsupported, "%s on a stream that is captured", what);
}

// ---- memory ----

// The allocation that p lies in, or end.
std::map<uintptr_t, size_t>::const_iterator find(const std::map<uintptr_t, size_t> &memory,
                                                 const void *p)
{
    auto it = memory.upper_bound((uintptr_t)p);
    if (it == memory.begin()) {
        return memory.end();
    }
    --it;
    return (uintptr_t)p - it->first < it->second ? it : memory.end();
}

bool inside(const std::map<uintptr_t, size_t> &memory, const void *p, size_t nbytes)
{
    auto it = find(memory, p);
    return it != memory.end() && nbytes <= it->second - ((uintptr_t)p - it->first);
}

bool overlaps_device(const void *p, size_t nbytes)
{
    auto it = device_memory.lower_bound((uintptr_t)p);
    return find(device_memory, p) != device_memory.end() ||
           (it != device_memory.end() && it->first - (uintptr_t)p < nbytes);
}

void *allocate(size_t nbytes)
{
    void *p = NULL;
    if (posix_memalign(&p, GRAIN, nbytes) != 0) {
        return NULL;
    }
    memset(p, 0xff, nbytes);
    return p;
}

// ---- running what is queued ----

void show_device_memory(bool show)
{
    for (const auto &m : device_memory) {
        if (show) {
            SIMT_UNPOISON((void *)m.first, m.second);
        } else {
            SIMT_POISON((void *)m.first, m.second);
        }
    }
}

// Runs a stream's work: all of it, or until the event has happened.
cudaError_t run_stream(cudaStream_t s, const event_state *until = NULL)
{
    n_syncs++;
    if (s->queue.empty()) {
        return cudaSuccess;
    }
    cudaError_t rc = cudaSuccess;
    show_device_memory(true);
    while (!s->queue.empty() && (until == NULL || !until->done) && rc == cudaSuccess) {
        simt_work work = std::move(s->queue.front());
        s->queue.pop_front();
        rc = work();
    }
    show_device_memory(false);
    return rc != cudaSuccess ? failed(rc) : cudaSuccess;
}

cudaError_t run_all()
{
    cudaError_t rc = run_stream(&default_stream);
    for (cudaStream_t s : streams) {
        cudaError_t next = s->capture == NULL ? run_stream(s) : cudaSuccess;
        rc = rc == cudaSuccess ? next : rc;
    }
    return rc;
}

double now_ms()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}
} // namespace

simt_call::simt_call(bool needs_device) : lock(mutex), rc(next_call(needs_device))
{
}

bool simt_is_device(const void *p, size_t nbytes)
{
    return inside(device_memory, p, nbytes);
}

size_t simt_shared_max()
{
    int capability = simt_now.major * 10 + simt_now.minor;
    return (capability >= 90 ? 227 : capability == 80 ? 163 : capability >= 80 ? 99 : 64) * 1024;
}

cudaError_t simt_push(cudaStream_t stream, simt_work work)
{
    cudaStream_t s = stream_of(stream);
    if (s == NULL) {
        return wrong(cudaErrorInvalidResourceHandle, "work on a stream that does not exist");
    }
    if (s->capture == NULL) {
        s->queue.push_back(std::move(work));
        return cudaSuccess;
    }
    if (s->invalidated) {
        return failed(cudaErrorStreamCaptureInvalidated);
    }
    s->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
}

// ---- launches ----

cudaError_t simt_allow(const void *kernel, int nbytes)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (nbytes < 0 || (size_t)nbytes > simt_shared_max()) {
        return failed(cudaErrorInvalidValue);
    }
    allowed[kernel] = (size_t)nbytes;
    return cudaSuccess;
}

static cudaError_t check_launch(const simt_kernel &k)
{
    const dim3 &g = k.grid, &b = k.block;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
        return wrong(cudaErrorInvalidConfiguration, "%s: a grid of %u x %u x %u", k.name, g.x, g.y,
                     g.z);
    }
    if (threads == 0 || threads > 1024 || b.x > 1024 || b.y > 1024 || b.z > 64) {
        return wrong(cudaErrorInvalidConfiguration, "%s: blocks of %u x %u x %u", k.name, b.x, b.y,
                     b.z);
    }
    auto it = allowed.find(k.kernel);
    size_t most = it != allowed.end() && it->second > 48 * 1024 ? it->second : 48 * 1024;
    if (k.shared_bytes > most) {
        return wrong(cudaErrorInvalidValue, "%s: %zu bytes of shared memory, %zu are allowed",
                     k.name, k.shared_bytes, most);
    }
    return cudaSuccess;
}

cudaError_t simt_queue(const simt_kernel *kernel, const void *args, size_t nbytes,
                       cudaStream_t stream)
{
    simt_call call;
    if (call.rc == cudaSuccess && check_launch(*kernel) == cudaSuccess) {
        simt_kernel k = *kernel;
        std::vector<uint64_t> copy(nbytes / 8 + 4); // 16-byte aligned somewhere in it
        auto bytes = std::make_shared<std::vector<uint64_t>>(std::move(copy));
        void *at = (void *)(((uintptr_t)bytes->data() + 15) & ~(uintptr_t)15);
        memcpy(at, args, nbytes);
        simt_push(stream, [k, bytes, at]() -> cudaError_t {
            n_launches++;
            simt_run(k, at, simt_now.seed, n_launches);
            return cudaSuccess;
        });
    }
    return cudaGetLastError(); // as GDK_LAUNCH on a device: an error nobody asked for, too
}

// ---- the device ----

cudaError_t cudaGetDeviceCount(int *count)
{
    simt_call call(false);
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    *count = 0;
    if (simt_now.driver < VERSION) {
        return failed(cudaErrorInsufficientDriver);
    }
    if (simt_now.devices == 0) {
        return failed(cudaErrorNoDevice);
    }
    *count = simt_now.devices;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    return device >= 0 && device < simt_now.devices ? cudaSuccess : failed(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (device < 0 || device >= simt_now.devices) {
        return failed(cudaErrorInvalidDevice);
    }
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "%s", simt_now.name);
    prop->totalGlobalMem = simt_now.memory;
    prop->sharedMemPerBlock = 48 * 1024;
    prop->sharedMemPerBlockOptin = simt_shared_max();
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->major = simt_now.major;
    prop->minor = simt_now.minor;
    prop->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *driverVersion)
{
    simt_call call(false);
    *driverVersion = simt_now.driver;
    return call.rc;
}

cudaError_t cudaRuntimeGetVersion(int *runtimeVersion)
{
    simt_call call(false);
    *runtimeVersion = VERSION;
    return call.rc;
}

cudaError_t cudaDeviceSynchronize(void)
{
    simt_call call;
    cudaError_t rc = call.rc == cudaSuccess ? not_in_capture("cudaDeviceSynchronize") : call.rc;
    return rc == cudaSuccess ? run_all() : rc;
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
    void *p = size <= left && rounded(size) <= left ? allocate(size) : NULL;
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
struct plane {
    unsigned char *dst;
    const unsigned char *src;
    size_t dpitch, spitch, width, height;
    bool to_device, from_device;
};

size_t extent(size_t pitch, size_t width, size_t height)
{
    return pitch * (height - 1) + width;
}

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

bool check_plane(const char *call, const plane &p)
{
    return check_side(call, "destination", p.to_device, p.dst,
                      extent(p.dpitch, p.width, p.height)) &&
           check_side(call, "source", p.from_device, p.src, extent(p.spitch, p.width, p.height));
}

cudaError_t copy_now(const char *call, const plane &p, const unsigned char *src)
{
    if (!check_plane(call, p)) { // freed since
        return cudaErrorIllegalAddress;
    }
    for (size_t i = 0; i < p.height; i++) {
        memmove(p.dst + i * p.dpitch, src + i * p.spitch, p.width);
    }
    return cudaSuccess;
}

cudaError_t copy(const char *call, plane p, cudaMemcpyKind kind, cudaStream_t stream)
{
    if ((int)kind < 0 || kind > cudaMemcpyDefault) {
        return wrong(cudaErrorInvalidMemcpyDirection, "%s: kind %d", call, (int)kind);
    }
    if (p.width > p.dpitch || p.width > p.spitch) {
        return wrong(cudaErrorInvalidPitchValue, "%s: %zu bytes wide, pitches %zu and %zu", call,
                     p.width, p.dpitch, p.spitch);
    }
    if (p.width == 0 || p.height == 0) {
        return cudaSuccess;
    }
    p.to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice ||
                  (kind == cudaMemcpyDefault && overlaps_device(p.dst, 1));
    p.from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice ||
                    (kind == cudaMemcpyDefault && overlaps_device(p.src, 1));
    if (!check_plane(call, p)) {
        return failed(cudaErrorInvalidValue);
    }
    cudaStream_t s = stream_of(stream);
    bool pinned = find(pinned_memory, p.src) != pinned_memory.end();
    if (s == NULL || s->capture != NULL || p.from_device || pinned) {
        return simt_push(stream, [call, p] { return copy_now(call, p, p.src); });
    }
    // In pieces of the source's pitch, without what lies between the rows: it need not be ours.
    auto taken = std::make_shared<std::vector<unsigned char>>(extent(p.spitch, p.width, p.height));
    for (size_t i = 0; i < p.height; i++) {
        memcpy(taken->data() + i * p.spitch, p.src + i * p.spitch, p.width);
    }
    return simt_push(stream, [call, p, taken]() -> cudaError_t {
        plane q = p;
        q.src = taken->data();
        return copy_now(call, q, q.src);
    });
}
} // namespace

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    plane p = {
        (unsigned char *)dst, (const unsigned char *)src, count, count, count, 1, false, false};
    return copy("cudaMemcpyAsync", p, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dpitch, const void *src, size_t spitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    plane p = {(unsigned char *)dst,
               (const unsigned char *)src,
               dpitch,
               spitch,
               width,
               height,
               false,
               false};
    return copy("cudaMemcpy2DAsync", p, kind, stream);
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

// ---- streams and graphs ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (flags > cudaStreamNonBlocking) {
        return wrong(cudaErrorInvalidValue, "cudaStreamCreateWithFlags: flags %u", flags);
    }
    *pStream = new CUstream_st();
    streams.insert(*pStream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    simt_call call;
    if (streams.count(stream) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaStreamDestroy of no stream");
    }
    cudaError_t rc = call.rc == cudaSuccess ? run_stream(stream) : call.rc;
    streams.erase(stream);
    delete stream->capture;
    delete stream;
    return rc;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    cudaStream_t s = stream_of(stream);
    if (s == NULL) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize of no stream");
    }
    cudaError_t rc = not_captured(s, "cudaStreamSynchronize");
    return rc == cudaSuccess ? run_stream(s) : rc;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (stream == NULL) {
        return wrong(cudaErrorStreamCaptureUnsupported, "capture of the default stream");
    }
    if (streams.count(stream) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "capture of no stream");
    }
    if (stream->capture != NULL) {
        return wrong(cudaErrorIllegalState, "the stream is captured already");
    }
    stream->capture = new CUgraph_st();
    stream->invalidated = false;
    stream->mode = mode;
    stream->capturer = std::this_thread::get_id();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *pGraph)
{
    simt_call call;
    if (streams.count(stream) == 0 || stream->capture == NULL) {
        return call.rc != cudaSuccess ? call.rc
                                      : wrong(cudaErrorIllegalState, "the stream is not captured");
    }
    if (stream->mode != cudaStreamCaptureModeRelaxed &&
        stream->capturer != std::this_thread::get_id()) {
        return wrong(cudaErrorStreamCaptureWrongThread, "the capture ends in another thread");
    }
    CUgraph_st *graph = stream->capture;
    stream->capture = NULL;
    *pGraph = NULL;
    if (call.rc != cudaSuccess || stream->invalidated) {
        delete graph;
        return call.rc != cudaSuccess ? call.rc : failed(cudaErrorStreamCaptureInvalidated);
    }
    graphs.insert(graph);
    *pGraph = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *pGraphExec, cudaGraph_t graph,
                                 unsigned long long flags)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (graphs.count(graph) == 0 || flags != 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphInstantiate: no graph, or flags");
    }
    *pGraphExec = new CUgraphExec_st();
    (*pGraphExec)->nodes = std::make_shared<std::vector<simt_work>>(graph->nodes);
    execs.insert(*pGraphExec);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graphExec, cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (execs.count(graphExec) == 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphLaunch of no graph");
    }
    n_graph_launches++;
    auto nodes = graphExec->nodes;
    return simt_push(stream, [nodes]() -> cudaError_t {
        cudaError_t rc = cudaSuccess;
        for (size_t i = 0; i < nodes->size() && rc == cudaSuccess; i++) {
            rc = (*nodes)[i]();
        }
        return rc;
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graphExec)
{
    simt_call call;
    if (execs.erase(graphExec) == 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphExecDestroy of no graph");
    }
    delete graphExec;
    return call.rc;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    simt_call call;
    if (graphs.erase(graph) == 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphDestroy of no graph");
    }
    delete graph;
    return call.rc;
}

// ---- events ----

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    *event = new CUevent_st();
    (*event)->state = std::make_shared<event_state>();
    events.insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    simt_call call;
    if (events.erase(event) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaEventDestroy of no event");
    }
    delete event;
    return call.rc;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    cudaStream_t s = stream_of(stream);
    if (events.count(event) == 0 || s == NULL) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaEventRecord: no event or no stream");
    }
    auto state = std::make_shared<event_state>();
    event->state = state;
    state->recorded = true;
    state->captured = s->capture != NULL;
    state->stream = s;
    return simt_push(stream, [state]() -> cudaError_t {
        state->done = true;
        state->at_ms = now_ms();
        return cudaSuccess;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (events.count(event) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaEventSynchronize of no event");
    }
    auto state = event->state;
    if (state->captured) {
        if (stream_of(state->stream) != NULL && state->stream->capture != NULL) {
            state->stream->invalidated = true;
        }
        return wrong(cudaErrorCapturedEvent, "cudaEventSynchronize: the event is part of a graph");
    }
    if (!state->recorded || state->done || stream_of(state->stream) == NULL) {
        return cudaSuccess;
    }
    return run_stream(state->stream, state.get());
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (events.count(start) == 0 || events.count(end) == 0 || !start->state->recorded ||
        !end->state->recorded) {
        return wrong(cudaErrorInvalidResourceHandle,
                     "cudaEventElapsedTime: an event is not recorded");
    }
    if (!start->state->done || !end->state->done) {
        return failed(cudaErrorNotReady);
    }
    *ms = (float)(end->state->at_ms - start->state->at_ms);
    return cudaSuccess;
}

// ---- errors ----

cudaError_t cudaGetLastError(void)
{
    cudaError_t rc = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return rc;
}

cudaError_t cudaPeekAtLastError(void)
{
    std::lock_guard<std::recursive_mutex> lock(mutex);
    return sticky != cudaSuccess ? sticky : last_error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const error_text &t : TEXTS) {
        if (t.code == error) {
            return t.text;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t error)
{
    for (const error_text &t : TEXTS) {
        if (t.code == error) {
            return t.name;
        }
    }
    return "unrecognized error code";
}

// ---- for tests ----

#define LOCKED std::lock_guard<std::recursive_mutex> lock(mutex)
#define STARTED                                                                                    \
    LOCKED;                                                                                        \
    if (!started) {                                                                                \
        start();                                                                                   \
    }

void simt_reset(void)
{
    LOCKED;
    drop_work();
    start();
}

void simt_seed(uint64_t seed)
{
    STARTED;
    simt_now.seed = seed;
}

void simt_set_devices(int n)
{
    STARTED;
    simt_now.devices = n;
}

void simt_set_driver(int version)
{
    STARTED;
    simt_now.driver = version;
}

void simt_set_capability(int major, int minor)
{
    STARTED;
    simt_now.major = major;
    simt_now.minor = minor;
}

void simt_set_name(const char *name)
{
    STARTED;
    snprintf(simt_now.name, sizeof simt_now.name, "%s", name);
}

void simt_set_memory(size_t nbytes)
{
    STARTED;
    simt_now.memory = nbytes;
}

uint64_t simt_calls(void)
{
    STARTED;
    return n_calls;
}

void simt_fail_call(uint64_t n, int cuda_error)
{
    STARTED;
    fail_at = n == 0 ? 0 : n_calls + n;
    fail_code = cuda_error;
    fail_reached = false;
}

bool simt_failed(void)
{
    LOCKED;
    return fail_reached;
}

void simt_fail_file(const char *path, int cuda_error)
{
    STARTED;
    snprintf(fail_path, sizeof fail_path, "%s", path != NULL ? path : "");
    fail_path_code = cuda_error;
}

void simt_get_open(struct simt_open *out)
{
    LOCKED;
    *out = simt_open();
    for (const auto &m : device_memory) {
        out->device_bytes += m.second;
    }
    out->device = (uint32_t)device_memory.size();
    out->pinned = (uint32_t)pinned_memory.size();
    out->streams = (uint32_t)streams.size();
    out->events = (uint32_t)events.size();
    out->graphs = (uint32_t)graphs.size();
    out->graph_execs = (uint32_t)execs.size();
    out->handles = simt_handles;
    out->descriptors = simt_descriptors;
}

bool simt_all_closed(void)
{
    struct simt_open o;
    simt_get_open(&o);
    if (o.device + o.pinned + o.streams + o.events + o.graphs + o.graph_execs + o.handles +
            o.descriptors ==
        0) {
        return true;
    }
    fprintf(stderr,
            "simt: still open: %u pieces of device memory (%zu bytes), %u of pinned memory, %u "
            "streams, "
            "%u events, %u graphs, %u executable graphs, %u cuBLASLt handles, %u descriptors\n",
            o.device, o.device_bytes, o.pinned, o.streams, o.events, o.graphs, o.graph_execs,
            o.handles, o.descriptors);
    return false;
}

void simt_get_counts(struct simt_counts *out)
{
    LOCKED;
    *out = simt_count;
    out->launches = n_launches;
    out->graph_launches = n_graph_launches;
    out->syncs = n_syncs;
}
