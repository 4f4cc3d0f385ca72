/* gemm_f32_tile.h - the inner loops of gemm_f32.c for one vector width; gemm_f32.c includes this file
 * once for each instruction set, so there is no guard.
 *
 * Before it: TARGET (function attributes), VEC (a vector of up to 16 floats), ISA(name) (the name
 * with a suffix), KERNELS (the list of kernels), UNROLL (before a loop: unroll all of it).
 *
 * A kernel keeps the sums of a few rows by a few panels in registers and runs over a block of k.
 * Every sum takes its terms in rising order of k, each by one fused (or, in the base version, one
 * rounded) multiplication and addition: its bits do not depend on who shares the registers. */

#define WIDTH ((uint32_t)(sizeof(VEC) / sizeof(float)))
#define LOAD(var, at) memcpy(&(var), (at), sizeof(VEC))
#define STORE(at, var) memcpy((at), &(var), sizeof(VEC))

TARGET static inline __attribute__((always_inline)) void
ISA(sums)(const struct gemm_part *p, const uint32_t rows, const uint32_t panels)
{
    const uint32_t vecs = panels * COLS / WIDTH;
    VEC s[12][8]; /* the most that any kernel takes; what is not used is not there */
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vecs; v++) {
            s[r][v] = (VEC){0};
            if (p->resume) {
                LOAD(s[r][v], p->out + r * p->out_stride + v * WIDTH);
            }
        }
    }
    const float *a = p->a, *b = p->b;
    const size_t a_stride = p->a_stride, panel = p->panel;
    for (uint32_t i = 0; i < p->n_k; i++) {
        VEC y[8];
        UNROLL
        for (uint32_t v = 0; v < vecs; v++) {
            LOAD(y[v], b + v * WIDTH / COLS * panel + v * WIDTH % COLS);
        }
        UNROLL
        for (uint32_t r = 0; r < rows; r++) {
            const float x = a[r * a_stride];
            UNROLL
            for (uint32_t v = 0; v < vecs; v++) {
                s[r][v] += x * y[v];
            }
        }
        a++;
        b += COLS;
    }
    UNROLL
    for (uint32_t r = 0; r < rows; r++) {
        UNROLL
        for (uint32_t v = 0; v < vecs; v++) {
            if (p->bias != NULL) {
                VEC bias;
                LOAD(bias, p->bias + v * WIDTH);
                s[r][v] += bias;
            }
            STORE(p->out + r * p->out_stride + v * WIDTH, s[r][v]);
        }
    }
}

#define KERNEL(rows, panels)                                                                       \
    TARGET static void ISA(sums_##rows##x##panels)(const struct gemm_part *p)                      \
    {                                                                                              \
        ISA(sums)(p, rows, panels);                                                                \
    }
KERNELS
#undef KERNEL

#undef WIDTH
#undef LOAD
#undef STORE
#undef TARGET
#undef VEC
#undef KERNELS
#undef ISA
