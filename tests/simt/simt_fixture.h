/* simt_fixture.h - shared by the tests of tests/simt: a stream, device memory, children that must die. */
#ifndef GUARDIAN_SIMT_FIXTURE_H
#define GUARDIAN_SIMT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cuda_runtime_api.h>

#include "simt.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#else
#define WITH_ASAN 0
#endif

#define OK(call) assert_int_equal((call), cudaSuccess)
#define FAILS(code, call) assert_string_equal(cudaGetErrorName(call), #code)

static cudaStream_t stream;

/* Each test begins with a fresh machine and a stream, and has to close what it opened. */
static inline int set_up(void **state)
{
    (void)state;
    simt_reset();
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? 0 : -1;
}

static inline int tear_down(void **state)
{
    (void)state;
    return cudaStreamDestroy(stream) == cudaSuccess && simt_all_closed() ? 0 : -1;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static inline void *device(size_t nbytes)
{
    void *p = NULL;
    OK(cudaMalloc(&p, nbytes));
    assert_non_null(p);
    return p;
}

static inline void *to_device(const void *host, size_t nbytes)
{
    void *p = device(nbytes);
    OK(cudaMemcpyAsync(p, host, nbytes, cudaMemcpyHostToDevice, stream));
    return p;
}

/* Waits, and copies. */
static inline void to_host(void *host, const void *from, size_t nbytes)
{
    OK(cudaMemcpyAsync(host, from, nbytes, cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
}

/* Runs f(arg) in a child process, which has to end with a failure and to say one of two texts. */
static inline void dies(void (*f)(int), int arg, const char *text, const char *or_text)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        alarm(60);
        f(arg);
        _exit(0);
    }
    close(ends[1]);
    static char said[65536];
    size_t n = 0;
    ssize_t got;
    while ((got = read(ends[0], said + n, sizeof said - 1 - n)) > 0) {
        n += (size_t)got;
    }
    said[n] = '\0';
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        fail_msg("with fault %d it does not die", arg);
    }
    if (strstr(said, text) == NULL && (or_text == NULL || strstr(said, or_text) == NULL)) {
        fail_msg("with fault %d it does not say \"%s\" but:\n%s", arg, text, said);
    }
}

static inline uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static inline float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

#endif
