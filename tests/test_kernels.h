/* test_kernels.h - shared by the tests of the operations: random matrices, back ends, and handles of
 * their activations. */
#ifndef GUARDIAN_TEST_KERNELS_H
#define GUARDIAN_TEST_KERNELS_H

#include "guardian/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

/* A handle of the CPU back end on floats of the test. */
#define HANDLE(p) (&(struct gd_rows){.data = (p)})

static uint32_t rng_state = 1;

static inline uint32_t rnd_bits(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 17;
    rng_state ^= rng_state << 5;
    return rng_state;
}

static inline uint32_t rnd_below(uint32_t n)
{
    return (rnd_bits() >> 8) % n;
}

static inline float rnd(void) /* about normal: sum of four uniforms, variance 1 */
{
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        sum += (float)(rnd_bits() >> 8) * 0x1p-24f - 0.5f;
    }
    return sum * 1.7320508f;
}

static inline float *random_floats(size_t n)
{
    float *p = malloc((n + 1) * sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = rnd();
    }
    return p;
}

static inline void *copy_of(const void *p, size_t nbytes)
{
    void *c = malloc(nbytes + 1);
    assert_non_null(c);
    memcpy(c, p, nbytes);
    return c;
}

static inline struct gd_backend *open_backend(uint32_t n_threads, bool bf16)
{
    struct gd_backend *be = NULL;
    struct gd_err err = {0};
    if (gdk_backend_cpu_open(&be, n_threads, bf16, &err) != GD_OK) {
        fail_msg("%s", err.msg);
    }
    return be;
}

#endif
