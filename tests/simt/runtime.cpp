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
#include "runtime_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

using namespace runtime;

simt_machine simt_now;

namespace runtime
{
std::recursive_mutex mutex;
}

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

const int VERSION = CUDART_VERSION;

bool started;
uint64_t n_calls, fail_at;
bool fail_reached;
int fail_code;
char fail_path[1024];
int fail_path_code;
cudaError_t sticky;
thread_local cudaError_t last_error;

bool ends_context(int code)
{
    return code == cudaErrorECCUncorrectable || code == cudaErrorIllegalAddress ||
           code == cudaErrorLaunchTimeout || code == cudaErrorAssert ||
           (code >= cudaErrorHardwareStackError && code <= cudaErrorLaunchFailure);
}

} // namespace

cudaError_t runtime::failed(cudaError_t code)
{
    if (ends_context(code) && sticky == cudaSuccess) {
        sticky = code; // no call runs what is queued any more
    }
    last_error = code;
    return code;
}

cudaError_t runtime::wrong(cudaError_t code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("simt: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, " (%s)\n", cudaGetErrorName(code));
    va_end(args);
    return failed(code);
}

namespace
{
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
} // namespace

simt_call::simt_call(bool needs_device) : lock(mutex), rc(next_call(needs_device))
{
}

size_t simt_shared_max()
{
    int capability = simt_now.major * 10 + simt_now.minor;
    return (capability >= 90 ? 227 : capability == 80 ? 163 : capability >= 80 ? 99 : 64) * 1024;
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
