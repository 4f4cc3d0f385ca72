/* attention_tile.h - the inner loops of attention.c for one vector width; attention.c includes this
 * file once for each instruction set, so there is no guard.
 *
 * Before it: TARGET (function attributes), VEC and IVEC (vectors of up to 16 floats and of as many
 * uint32_t), ISA(name) (the name with a suffix), GREATER(a, b) (a > b ? a : b, lane by lane).
 *
 * The products keep 6 rows by two vectors in registers: that fills the 16 registers of AVX2, and
 * each element read is used often enough that loads do not hold up the arithmetic. A row's sums run
 * over its own terms in an order of their own: its bits do not depend on who shares the registers. */

#define WIDTH ((uint32_t)(sizeof(VEC) / sizeof(float)))
#define EACH_ROW(do_row) do_row(0) do_row(1) do_row(2) do_row(3) do_row(4) do_row(5)
#define LOAD(var, at) memcpy(&(var), (at), sizeof(VEC))
#define STORE(at, var) memcpy((at), &(var), sizeof(VEC))

/* p[6, KEYS]: products of the rows of q with the keys of the first n_blocks blocks. */
TARGET static inline void ISA(scores)(const struct tile *t, uint32_t n_blocks)
{
    uint32_t cols = n_blocks * BLOCK;
    for (uint32_t col = 0; col < cols; col += 2 * WIDTH) {
        /* Where there is no second vector the first is computed twice. */
        uint32_t other = col + WIDTH < cols ? col + WIDTH : col;
        const float *k0 = t->k[col / BLOCK] + col % BLOCK;
        const float *k1 = t->k[other / BLOCK] + other % BLOCK;
        const float *q = t->q;
#define ROW(r) VEC s##r = {0}, u##r = {0};
        EACH_ROW(ROW)
#undef ROW
        for (uint32_t i = 0; i < t->pad; i++) {
            VEC x, y;
            LOAD(x, k0 + (size_t)i * BLOCK);
            LOAD(y, k1 + (size_t)i * BLOCK);
#define ROW(r)                                                                                     \
    s##r += q[r] * x;                                                                              \
    u##r += q[r] * y;
            EACH_ROW(ROW)
#undef ROW
            q += TILE_ROWS;
        }
        float *p = t->p;
#define ROW(r)                                                                                     \
    STORE(p + r * KEYS + col, s##r);                                                               \
    STORE(p + r * KEYS + other, u##r);
        EACH_ROW(ROW)
#undef ROW
    }
}

/* gdk_expf for x <= 0, -inf and NaN; exactly 0 below about -87.7, where gdk_expf is subnormal. */
TARGET static inline VEC ISA(exp_below)(VEC x)
{
    const float magic = 12582912.0f + 127.0f; /* rounds, and adds the bias of the exponent */
    VEC lowest = (VEC){0} + -88.029692f;      /* -127 ln2: the power of two becomes 0 */
    x = GREATER(lowest, x);                   /* in this order a NaN goes through */
    VEC shifted = x * 1.44269504f + magic;
    VEC n = shifted - magic;
    VEC r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    VEC rr = r * r;
    VEC p = (r * 1.3926184e-3f + 8.36317893e-3f) * rr + (r * 4.16665561e-2f + 1.66665763e-1f);
    p = (p * r + 0.5f) * rr + r + 1.0f;
    IVEC bits;
    VEC power;
    memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* Scores of each row become weights exp(score - maximum so far). shrink is the factor for what was
 * summed up under the maximum before; 1 exactly where that stays. */
TARGET static inline void ISA(weights)(struct tile *t)
{
    float top[LANES];
    memcpy(top, t->max, sizeof top);
    for (uint32_t r = 0; r < t->n_rows; r++) {
        float *p = t->p + (size_t)r * KEYS;
        uint32_t n = t->n_keys[r], cols = (n + WIDTH - 1) / WIDTH * WIDTH;
        for (uint32_t j = n; j < cols; j++) {
            p[j] = -INFINITY;
        }
        VEC most = (VEC){0} + top[r];
        for (uint32_t j = 0; j < cols; j += WIDTH) {
            VEC x;
            LOAD(x, p + j);
            most = GREATER(most, x);
        }
        for (uint32_t j = 0; j < WIDTH; j++) {
            top[r] = most[j] > top[r] ? most[j] : top[r];
        }
    }
    for (uint32_t r = 0; r < TILE_ROWS; r += WIDTH) {
        VEC before, now;
        LOAD(before, t->max + r);
        LOAD(now, top + r);
        VEC shrink = ISA(exp_below)(before - now);
        STORE(t->shrink + r, shrink);
    }
    for (uint32_t r = 0; r < t->n_rows; r++) {
        float *p = t->p + (size_t)r * KEYS, *sum = t->sum + (size_t)r * LANES;
        VEC total;
        LOAD(total, sum);
        total *= t->shrink[r];
        for (uint32_t j = 0; j < t->n_keys[r]; j += WIDTH) {
            VEC x;
            LOAD(x, p + j);
            x = ISA(exp_below)(x - top[r]);
            total += x;
            STORE(p + j, x);
        }
        STORE(sum, total);
        t->max[r] = top[r];
    }
}

/* acc[6, pad] = acc * shrink + weights times values, each row over its own n_keys. */
TARGET static inline void ISA(values)(const struct tile *t)
{
    uint32_t pad = t->pad, common = t->n_keys[0], last = t->n_keys[t->n_rows - 1];
    for (uint32_t col = 0; col < pad; col += 2 * WIDTH) {
        uint32_t step = col + WIDTH < pad ? WIDTH : 0;
        float *acc = t->acc + col;
#define ROW(r)                                                                                     \
    VEC s##r, u##r;                                                                                \
    LOAD(s##r, acc + r * pad);                                                                     \
    LOAD(u##r, acc + r * pad + step);                                                              \
    s##r *= t->shrink[r];                                                                          \
    u##r *= t->shrink[r];
        EACH_ROW(ROW)
#undef ROW
        for (uint32_t j0 = 0; j0 < common; j0 += BLOCK) {
            uint32_t n = common - j0 < BLOCK ? common - j0 : BLOCK;
            const float *v = t->v[j0 / BLOCK] + col;
            const float *p = t->p + j0;
            for (uint32_t j = 0; j < n; j++) {
                VEC x, y;
                LOAD(x, v);
                LOAD(y, v + step);
#define ROW(r)                                                                                     \
    s##r += p[r * KEYS + j] * x;                                                                   \
    u##r += p[r * KEYS + j] * y;
                EACH_ROW(ROW)
#undef ROW
                v += pad;
            }
        }
        for (uint32_t j = common; j < last; j++) {
            const float *v = t->v[j / BLOCK] + (size_t)(j % BLOCK) * pad + col;
            VEC x, y;
            LOAD(x, v);
            LOAD(y, v + step);
#define ROW(r)                                                                                     \
    if (j < t->n_keys[r]) {                                                                        \
        s##r += t->p[r * KEYS + j] * x;                                                            \
        u##r += t->p[r * KEYS + j] * y;                                                            \
    }
            EACH_ROW(ROW)
#undef ROW
        }
#define ROW(r)                                                                                     \
    STORE(acc + r * pad, s##r);                                                                    \
    STORE(acc + r * pad + step, u##r);
        EACH_ROW(ROW)
#undef ROW
    }
}

TARGET static void ISA(fold)(struct tile *t, uint32_t n_blocks)
{
    ISA(scores)(t, n_blocks);
    ISA(weights)(t);
    ISA(values)(t);
}

#undef WIDTH
#undef EACH_ROW
#undef LOAD
#undef STORE
#undef TARGET
#undef VEC
#undef IVEC
#undef GREATER
#undef ISA
