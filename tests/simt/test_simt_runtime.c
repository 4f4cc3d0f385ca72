/* test_simt_runtime.c - the stand-in of the CUDA runtime: deferred work, memory, captures, events,
 * faults, and that host code with a mistake is caught. */
#include "simt_fixture.h"
#include "simt_kernels.h"

#define N 64u

static void *pinned(size_t nbytes)
{
    void *p = NULL;
    OK(cudaMallocHost(&p, nbytes));
    assert_non_null(p);
    return p;
}

static void check_all(const uint32_t *x, uint32_t n, uint32_t value)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(x[i], value);
    }
}

/* ---- work on a stream ---- */

static void test_work_waits_for_a_sync(void **state)
{
    (void)state;
    uint32_t got[N] = {0}, *p = device(sizeof got);
    struct simt_counts before, after;
    simt_get_counts(&before);
    OK(simt_store(stream, p, N, 5));
    OK(cudaMemcpyAsync(got, p, sizeof got, cudaMemcpyDeviceToHost, stream));
    simt_get_counts(&after);
    assert_int_equal(after.launches, before.launches);
    check_all(got, N, 0); /* read too early */
    OK(cudaStreamSynchronize(stream));
    simt_get_counts(&after);
    assert_int_equal(after.launches, before.launches + 1);
    check_all(got, N, 5);

    OK(cudaMemsetAsync(p, 0x11, sizeof got / 2, stream));
    OK(cudaMemcpyAsync(got, p, sizeof got, cudaMemcpyDefault, stream));
    OK(cudaDeviceSynchronize());
    check_all(got, N / 2, 0x11111111);
    check_all(got + N / 2, N / 2, 5);
    OK(cudaFree(p));
}

static void test_sources_are_read_when_they_are(void **state)
{
    (void)state;
    uint32_t plain[N], got[N], *fixed = pinned(sizeof plain), *p = device(2 * sizeof plain);
    for (uint32_t i = 0; i < N; i++) {
        plain[i] = fixed[i] = 1;
    }
    OK(cudaMemcpyAsync(p, plain, sizeof plain, cudaMemcpyHostToDevice, stream));
    OK(cudaMemcpyAsync(p + N, fixed, sizeof plain, cudaMemcpyHostToDevice, stream));
    for (uint32_t i = 0; i < N; i++) {
        plain[i] = fixed[i] = 2;
    }
    to_host(got, p, sizeof got);
    check_all(got, N, 1); /* taken at the call */
    to_host(got, p + N, sizeof got);
    check_all(got, N, 2); /* changed too early */
    OK(cudaFree(p));
    OK(cudaFreeHost(fixed));
}

static void test_streams_are_apart(void **state)
{
    (void)state;
    cudaStream_t other;
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    uint32_t got[N] = {0}, *p = device(sizeof got);
    OK(simt_store(other, p, N, 3));
    to_host(got, p, sizeof got);
    check_all(got, N, 0xffffffffu); /* the other stream has not run */
    OK(cudaStreamSynchronize(other));
    to_host(got, p, sizeof got);
    check_all(got, N, 3);
    OK(simt_store(other, p, N, 4));
    OK(cudaStreamDestroy(other)); /* runs it */
    to_host(got, p, sizeof got);
    check_all(got, N, 4);
    FAILS(cudaErrorInvalidResourceHandle, cudaStreamSynchronize(other));
    FAILS(cudaErrorInvalidResourceHandle, cudaStreamDestroy(other));
    FAILS(cudaErrorInvalidResourceHandle, cudaGetLastError());
    OK(simt_store(stream, p, N, 6));
    uint32_t *q = device(4);
    OK(cudaFree(q)); /* waits for everything */
    struct simt_counts c;
    simt_get_counts(&c);
    assert_int_equal(c.launches, 3);
    OK(cudaFree(p));
}

static void test_pointers_are_checked(void **state)
{
    (void)state;
    char host[N], *p = device(N), *fixed = pinned(N);
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(p, host, N + 1, cudaMemcpyHostToDevice, stream));
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(p + 1, host, N, cudaMemcpyHostToDevice, stream));
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(host, p, N, cudaMemcpyHostToDevice, stream));
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(p, host, N, cudaMemcpyDeviceToHost, stream));
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(p, host, N, cudaMemcpyDeviceToDevice, stream));
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(p, p, N, cudaMemcpyHostToDevice, stream));
    FAILS(cudaErrorInvalidValue, cudaMemcpyAsync(p, fixed + 1, N, cudaMemcpyHostToDevice, stream));
    FAILS(cudaErrorInvalidMemcpyDirection,
          cudaMemcpyAsync(p, host, N, (enum cudaMemcpyKind)5, stream));
    FAILS(cudaErrorInvalidValue, cudaMemsetAsync(p, 0, N + 1, stream));
    FAILS(cudaErrorInvalidValue, cudaMemsetAsync(host, 0, N, stream));
    FAILS(cudaErrorInvalidValue, cudaFree(host));
    FAILS(cudaErrorInvalidValue, cudaFree(p + 1));
    FAILS(cudaErrorInvalidValue, cudaFreeHost(p));
    FAILS(cudaErrorInvalidValue, cudaFree(fixed));
    OK(cudaFree(NULL));
    OK(cudaFreeHost(NULL));
    OK(cudaFree(p));
    FAILS(cudaErrorInvalidValue, cudaMemsetAsync(p, 0, N, stream));
    FAILS(cudaErrorInvalidValue, cudaFree(p));
    OK(cudaFreeHost(fixed));
}

/* ---- what only AddressSanitizer sees ---- */

static void touch(int how)
{
    uint32_t *p = device(N * sizeof *p);
    if (how == 0) {
        p[3] = 1;
    } else if (how == 1) {
        OK(simt_store(stream, p, N, 1));
        OK(cudaStreamSynchronize(stream));
        fprintf(stderr, "%u\n", p[N - 1]);
    } else if (how == 2) {
        OK(simt_store(stream, p, N + 1, 1)); /* a kernel that runs over the end */
        OK(cudaStreamSynchronize(stream));
    } else {
        OK(simt_store(stream, p, N, 1));
        OK(cudaFree(p));
        OK(simt_store(stream, p, N, 1)); /* one that comes too late */
        OK(cudaStreamSynchronize(stream));
    }
}

static void test_device_memory_is_the_devices(void **state)
{
    (void)state;
#if WITH_ASAN
    dies(touch, 0, "use-after-poison", NULL);
    dies(touch, 1, "use-after-poison", NULL);
    dies(touch, 2, "heap-buffer-overflow", NULL);
    dies(touch, 3, "heap-use-after-free", NULL);
#else
    (void)touch;
    skip();
#endif
}

/* ---- memory ---- */

static void test_memory_has_an_end(void **state)
{
    (void)state;
    size_t left = 0, all = 0;
    simt_set_memory(1 << 20);
    OK(cudaMemGetInfo(&left, &all));
    assert_int_equal(all, 1 << 20);
    assert_int_equal(left, 1 << 20);
    void *a = device(1 << 19), *b = NULL, *c = NULL;
    FAILS(cudaErrorMemoryAllocation, cudaMalloc(&b, (1 << 19) + 1));
    assert_null(b);
    FAILS(cudaErrorMemoryAllocation, cudaGetLastError());
    OK(cudaGetLastError()); /* told once */
    OK(cudaMalloc(&b, 1 << 19));
    FAILS(cudaErrorMemoryAllocation, cudaMalloc(&c, 1));
    FAILS(cudaErrorMemoryAllocation,
          simt_nothing(stream, 1, 32, 0)); /* a launch tells what nobody asked for */
    OK(simt_nothing(stream, 1, 32, 0));
    FAILS(cudaErrorMemoryAllocation, cudaMalloc(&c, SIZE_MAX));
    OK(cudaMemGetInfo(&left, &all));
    assert_int_equal(left, 0);
    OK(cudaFree(a));
    OK(cudaFree(b));
    OK(cudaMalloc(&c, 0));
    assert_null(c);
    OK(cudaMemGetInfo(&left, &all));
    assert_int_equal(left, 1 << 20);
}

static void test_what_is_open(void **state)
{
    (void)state;
    struct simt_open o;
    assert_false(simt_all_closed()); /* the stream */
    cudaEvent_t e;
    cudaGraph_t g;
    cudaGraphExec_t x;
    void *a = device(1000), *b = pinned(10);
    OK(cudaEventCreate(&e));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    OK(cudaStreamEndCapture(stream, &g));
    OK(cudaGraphInstantiate(&x, g, 0));
    simt_get_open(&o);
    assert_int_equal(o.device_bytes, 1000);
    assert_int_equal(o.device, 1);
    assert_int_equal(o.pinned, 1);
    assert_int_equal(o.streams, 1);
    assert_int_equal(o.events, 1);
    assert_int_equal(o.graphs, 1);
    assert_int_equal(o.graph_execs, 1);
    OK(cudaFree(a));
    OK(cudaFreeHost(b));
    OK(cudaEventDestroy(e));
    OK(cudaGraphDestroy(g));
    OK(cudaGraphExecDestroy(x));
    FAILS(cudaErrorInvalidResourceHandle, cudaEventDestroy(e));
    FAILS(cudaErrorInvalidValue, cudaGraphDestroy(g));
    FAILS(cudaErrorInvalidValue, cudaGraphExecDestroy(x));
}

/* ---- captures ---- */

static void test_graphs_run_again(void **state)
{
    (void)state;
    uint32_t *fixed = pinned(N * sizeof *fixed), got[N], *p = device(2 * sizeof got);
    cudaGraph_t g;
    cudaGraphExec_t x;
    struct simt_counts c;
    OK(cudaMemsetAsync(p, 0, 2 * sizeof got, stream));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(cudaMemcpyAsync(p, fixed, sizeof got, cudaMemcpyHostToDevice, stream));
    OK(simt_store(stream, p + 1, N - 1, 9));
    OK(cudaStreamEndCapture(stream, &g));
    to_host(got, p, sizeof got);
    check_all(got, N, 0); /* a capture runs nothing */
    OK(cudaGraphInstantiate(&x, g, 0));
    OK(cudaGraphDestroy(g));
    for (uint32_t i = 1; i <= 3; i++) {
        fixed[0] = i;
        fixed[1] = 77;
        OK(cudaGraphLaunch(x, stream));
        to_host(got, p, sizeof got);
        assert_int_equal(got[0], i); /* copies take the source of each launch */
        check_all(got + 1, N - 1, 9);
    }
    simt_get_counts(&c);
    assert_int_equal(c.graph_launches, 3);
    assert_int_equal(c.launches, 3);
    OK(cudaGraphExecDestroy(x));
    FAILS(cudaErrorInvalidValue, cudaGraphLaunch(x, stream));
    OK(cudaFree(p));
    OK(cudaFreeHost(fixed));
}

static cudaError_t forbidden(int what, void **p, cudaEvent_t e)
{
    switch (what) {
    case 0:
        return cudaStreamSynchronize(stream);
    case 1:
        return cudaMalloc(p, 16);
    case 2:
        return cudaFree(*p);
    case 3:
        return cudaMallocHost(p, 16);
    case 4:
        return cudaDeviceSynchronize();
    default:
        OK(cudaEventRecord(e, stream));
        return cudaEventSynchronize(e);
    }
}

static void test_what_a_capture_forbids(void **state)
{
    (void)state;
    cudaEvent_t e;
    OK(cudaEventCreate(&e));
    void *p = device(16);
    for (int what = 0; what < 6; what++) {
        void *q = p;
        cudaGraph_t g = NULL;
        OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        FAILS(cudaErrorIllegalState, cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        OK(cudaMemsetAsync(p, 0, 16, stream));
        cudaError_t rc = forbidden(what, &q, e);
        assert_int_equal(rc, what < 5 ? cudaErrorStreamCaptureUnsupported : cudaErrorCapturedEvent);
        FAILS(cudaErrorStreamCaptureInvalidated, cudaMemsetAsync(p, 0, 16, stream));
        FAILS(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &g));
        assert_null(g);
        OK(cudaStreamSynchronize(stream)); /* the stream itself is well */
    }
    FAILS(cudaErrorIllegalState, cudaStreamEndCapture(stream, &(cudaGraph_t){NULL}));
    FAILS(cudaErrorStreamCaptureUnsupported,
          cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal));
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    void *q = device(16);
    cudaGraph_t g;
    OK(cudaStreamEndCapture(stream, &g));
    OK(cudaGraphDestroy(g));
    OK(cudaFree(p));
    OK(cudaFree(q));
    OK(cudaEventDestroy(e));
}

static void test_events(void **state)
{
    (void)state;
    cudaEvent_t a, b;
    float ms = -1.0f;
    uint32_t got[N] = {0}, *p = device(sizeof got);
    OK(cudaEventCreate(&a));
    OK(cudaEventCreate(&b));
    OK(cudaEventSynchronize(a)); /* never recorded: nothing to wait for */
    FAILS(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, a, b));
    FAILS(cudaErrorInvalidResourceHandle, cudaGetLastError());
    OK(cudaEventRecord(a, stream));
    OK(simt_store(stream, p, N, 1));
    OK(cudaMemcpyAsync(got, p, sizeof got, cudaMemcpyDeviceToHost, stream));
    OK(cudaEventRecord(b, stream));
    OK(simt_store(stream, p, N, 2));
    OK(cudaMemcpyAsync(got, p, sizeof got, cudaMemcpyDeviceToHost, stream));
    FAILS(cudaErrorNotReady, cudaEventElapsedTime(&ms, a, b));
    FAILS(cudaErrorNotReady, cudaGetLastError());
    OK(cudaEventSynchronize(b));
    check_all(got, N, 1); /* what is behind the event has not happened */
    OK(cudaEventElapsedTime(&ms, a, b));
    assert_true(ms >= 0.0f);
    OK(cudaStreamSynchronize(stream));
    check_all(got, N, 2);
    OK(cudaEventDestroy(a));
    OK(cudaEventDestroy(b));
    OK(cudaFree(p));
}

/* ---- the machine ---- */

static void test_devices(void **state)
{
    (void)state;
    int n = -1, version = 0;
    struct cudaDeviceProp prop;
    OK(cudaGetDeviceCount(&n));
    assert_int_equal(n, 1);
    OK(cudaSetDevice(0));
    FAILS(cudaErrorInvalidDevice, cudaSetDevice(1));
    FAILS(cudaErrorInvalidDevice, cudaGetDeviceProperties(&prop, -1));
    simt_set_devices(2);
    simt_set_capability(8, 9);
    simt_set_name("Test GPU");
    simt_set_memory(12345678);
    OK(cudaSetDevice(1));
    OK(cudaGetDeviceProperties(&prop, 1));
    assert_string_equal(prop.name, "Test GPU");
    assert_int_equal(prop.major * 10 + prop.minor, 89);
    assert_int_equal(prop.totalGlobalMem, 12345678);
    assert_true(prop.multiProcessorCount > 0);
    OK(cudaRuntimeGetVersion(&version));
    assert_int_equal(version, CUDART_VERSION);
    simt_set_devices(0);
    FAILS(cudaErrorNoDevice, cudaGetDeviceCount(&n));
    assert_int_equal(n, 0);
    FAILS(cudaErrorNoDevice, cudaMalloc(&(void *){NULL}, 1));
    simt_set_devices(1);
    simt_set_driver(12040);
    FAILS(cudaErrorInsufficientDriver, cudaGetDeviceCount(&n));
    OK(cudaDriverGetVersion(&version));
    assert_int_equal(version, 12040);
    simt_set_driver(CUDART_VERSION);
    assert_string_equal(cudaGetErrorName((cudaError_t)12345), "unrecognized error code");
    assert_string_equal(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
}

static void test_environment(void **state)
{
    (void)state;
    const char *const names[] = {"GUARDIAN_SIMT_DEVICES", "GUARDIAN_SIMT_CAPABILITY",
                                 "GUARDIAN_SIMT_MEMORY_MIB", "GUARDIAN_SIMT_FAIL_CALL",
                                 "GUARDIAN_SIMT_FAIL_CODE"};
    const char *const values[] = {"3", "8.0", "7", "5", "2"};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(setenv(names[i], values[i], 1), 0);
    }
    simt_reset();
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(unsetenv(names[i]), 0);
    }
    int n = 0;
    size_t left, all;
    struct cudaDeviceProp prop;
    OK(cudaGetDeviceCount(&n));
    assert_int_equal(n, 3);
    OK(cudaGetDeviceProperties(&prop, 2));
    assert_int_equal(prop.major * 10 + prop.minor, 80);
    OK(cudaMemGetInfo(&left, &all));
    assert_int_equal(all, 7 << 20);
    OK(cudaSetDevice(0));
    FAILS(cudaErrorMemoryAllocation, cudaSetDevice(0)); /* the fifth call */
    OK(cudaSetDevice(0));
}

/* ---- faults ---- */

static void test_an_error_that_passes(void **state)
{
    (void)state;
    void *p = NULL;
    simt_fail_call(2, cudaErrorMemoryAllocation);
    OK(cudaSetDevice(0));
    assert_false(simt_failed());
    FAILS(cudaErrorMemoryAllocation, cudaMalloc(&p, 16));
    assert_true(simt_failed());
    FAILS(cudaErrorMemoryAllocation, cudaPeekAtLastError());
    FAILS(cudaErrorMemoryAllocation, cudaGetLastError());
    OK(cudaMalloc(&p, 16));
    simt_fail_call(1, cudaErrorInvalidValue);
    FAILS(cudaErrorInvalidValue, cudaFree(p)); /* and yet it is free */
    FAILS(cudaErrorInvalidValue, cudaGetLastError());
    simt_fail_call(1, cudaErrorLaunchOutOfResources);
    FAILS(cudaErrorLaunchOutOfResources, simt_nothing(stream, 1, 32, 0));
    OK(simt_nothing(stream, 1, 32, 0));
    uint64_t calls = simt_calls();
    OK(cudaGetLastError());
    assert_string_equal(cudaGetErrorName(cudaSuccess), "cudaSuccess");
    assert_int_equal(simt_calls(), calls); /* these are no calls that can fail */
}

static void test_an_error_that_stays(void **state)
{
    (void)state;
    uint32_t got[N] = {0}, *p = device(sizeof got);
    OK(simt_store(stream, p, N, 1));
    OK(cudaMemcpyAsync(got, p, sizeof got, cudaMemcpyDeviceToHost, stream));
    simt_fail_call(1, cudaErrorIllegalAddress);
    FAILS(cudaErrorIllegalAddress, cudaStreamSynchronize(stream));
    check_all(got, N, 0); /* what was queued never happens */
    FAILS(cudaErrorIllegalAddress, cudaStreamSynchronize(stream));
    FAILS(cudaErrorIllegalAddress, simt_store(stream, p, N, 1));
    FAILS(cudaErrorIllegalAddress, cudaMalloc(&(void *){NULL}, 16));
    FAILS(cudaErrorIllegalAddress, cudaGetLastError());
    FAILS(cudaErrorIllegalAddress, cudaGetLastError());
    FAILS(cudaErrorIllegalAddress, cudaFree(p));
    simt_reset();
    OK(cudaStreamSynchronize(stream));
}

static void test_a_file_takes_the_device_away(void **state)
{
    (void)state;
    char path[] = "/tmp/simt_fail_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    simt_fail_file(path, cudaErrorLaunchFailure);
    OK(cudaSetDevice(0));
    close(fd);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "2\n", 2), 2);
    close(fd);
    FAILS(cudaErrorMemoryAllocation, cudaSetDevice(0)); /* the number in it */
    FAILS(cudaErrorMemoryAllocation, cudaSetDevice(0));
    assert_int_equal(truncate(path, 0), 0);
    FAILS(cudaErrorLaunchFailure, cudaSetDevice(0)); /* the one set */
    assert_int_equal(unlink(path), 0);
    FAILS(cudaErrorLaunchFailure, cudaSetDevice(0)); /* such an error stays */
    simt_reset();
    OK(cudaSetDevice(0));
}

/* Every call of a small program fails in turn: nothing is left open, nothing dies. */
static void test_every_call_may_fail(void **state)
{
    (void)state;
    for (int code = 2; code <= 700; code += 698) {
        bool reached = true;
        for (uint64_t n = 1; reached; n++) {
            uint32_t got[N], *p = NULL;
            cudaStream_t s = NULL;
            cudaGraph_t g = NULL;
            cudaGraphExec_t x = NULL;
            simt_reset();
            simt_fail_call(n, code);
            bool ok = cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess;
            ok = ok && cudaMalloc((void **)&p, sizeof got) == cudaSuccess;
            ok = ok && cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal) == cudaSuccess;
            if (ok) {
                ok = simt_store(s, p, N, 1) == cudaSuccess;
                ok = cudaStreamEndCapture(s, &g) == cudaSuccess && ok;
            }
            ok = ok && cudaGraphInstantiate(&x, g, 0) == cudaSuccess;
            ok = ok && cudaGraphLaunch(x, s) == cudaSuccess;
            ok =
                ok && cudaMemcpyAsync(got, p, sizeof got, cudaMemcpyDeviceToHost, s) == cudaSuccess;
            ok = ok && cudaStreamSynchronize(s) == cudaSuccess;
            if (g != NULL) {
                ok = cudaGraphDestroy(g) == cudaSuccess && ok;
            }
            if (x != NULL) {
                ok = cudaGraphExecDestroy(x) == cudaSuccess && ok;
            }
            ok = cudaFree(p) == cudaSuccess && ok;
            if (s != NULL) {
                ok = cudaStreamDestroy(s) == cudaSuccess && ok;
            }
            reached = simt_failed();
            assert_true(ok != reached);
            struct simt_open o;
            simt_get_open(&o);
            assert_int_equal(o.device + o.graphs + o.graph_execs, 0);
            assert_int_equal(o.streams, 1); /* the test's own */
            assert_true(n < 100);
        }
    }
    simt_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_work_waits_for_a_sync),
        TEST(test_sources_are_read_when_they_are),
        TEST(test_streams_are_apart),
        TEST(test_pointers_are_checked),
        TEST(test_device_memory_is_the_devices),
        TEST(test_memory_has_an_end),
        TEST(test_what_is_open),
        TEST(test_graphs_run_again),
        TEST(test_what_a_capture_forbids),
        TEST(test_events),
        TEST(test_devices),
        TEST(test_environment),
        TEST(test_an_error_that_passes),
        TEST(test_an_error_that_stays),
        TEST(test_a_file_takes_the_device_away),
        TEST(test_every_call_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
