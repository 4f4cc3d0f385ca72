/* test_attention.c - rope_kv and attention over packed batches of odd lengths, against the same
 * mathematics in double; and a sequence's bits alone, in a batch, in another order, by one thread
 * or two. */
#include "test_kernels.h"

/* ---- rope_kv and attention over packed batches ---- */

#define MAX_TOKENS 1200u

struct packed {
    struct gd_batch b;
    int32_t positions[MAX_TOKENS];
    uint32_t starts[16];
};

static void pack(struct packed *p, uint32_t n_seqs, const uint32_t *lens)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < n_seqs; s++) {
        p->starts[s] = n;
        for (uint32_t i = 0; i < lens[s]; i++) {
            p->positions[n++] = (int32_t)i;
        }
    }
    p->starts[n_seqs] = n;
    assert_true(n <= MAX_TOKENS);
    p->b = (struct gd_batch){
        .n_tokens = n, .n_seqs = n_seqs, .positions = p->positions, .seq_start = p->starts};
}

struct heads {
    uint32_t heads, kv, dim;
};

static const struct heads HEADS[] = {{1, 1, 32}, {2, 2, 64}, {4, 2, 96}, {8, 2, 128}, {7, 1, 64},
                                     {6, 3, 16}, {2, 1, 8},  {4, 4, 80}, {2, 1, 256}};
static const uint32_t LENS[] = {1, 63, 64, 65, 129, 17, 200, 300};
#define N_SEQS (sizeof LENS / sizeof LENS[0])

static void rope_and_attend(struct gd_backend *be, const struct packed *p, const struct heads *h,
                            const struct gd_rope *rope, float *qkv, float *k, float *v, float *out)
{
    struct gd_attn_shape s = {h->heads, h->kv, h->dim, 1.0f / sqrtf((float)h->dim)};
    assert_int_equal(be->ops->rope_kv(be, &p->b, &s, rope, qkv, k, v), GD_OK);
    assert_int_equal(be->ops->attention(be, &p->b, &s, qkv, k, v, out), GD_OK);
    assert_int_equal(be->ops->sync(be), GD_OK);
}

/* want[dim]: one query head of one token in double, from the rotated fp32 values */
static void attend_double(const struct heads *h, const float *q, const float *k, const float *v,
                          uint32_t n_keys, double *want)
{
    size_t kv_dim = (size_t)h->kv * h->dim;
    double score[400], top = -INFINITY, sum = 0.0;
    for (uint32_t j = 0; j < n_keys; j++) {
        score[j] = 0.0;
        for (uint32_t i = 0; i < h->dim; i++) {
            score[j] += (double)q[i] * (double)k[j * kv_dim + i];
        }
        score[j] /= sqrt((double)h->dim);
        top = score[j] > top ? score[j] : top;
    }
    for (uint32_t i = 0; i < h->dim; i++) {
        want[i] = 0.0;
    }
    for (uint32_t j = 0; j < n_keys; j++) {
        double weight = exp(score[j] - top);
        sum += weight;
        for (uint32_t i = 0; i < h->dim; i++) {
            want[i] += weight * (double)v[j * kv_dim + i];
        }
    }
    for (uint32_t i = 0; i < h->dim; i++) {
        want[i] /= sum;
    }
}

static void check_rope(const struct packed *p, const struct heads *h, const struct gd_rope *rope,
                       const float *before, const float *after, const float *k, const float *v)
{
    uint32_t half = h->dim / 2;
    size_t row = (size_t)(h->heads + 2 * h->kv) * h->dim, kv_dim = (size_t)h->kv * h->dim;
    for (uint32_t t = 0; t < p->b.n_tokens; t++) {
        const float *in = before + t * row;
        for (uint32_t j = 0; j < h->heads + h->kv; j++) {
            const float *src = in + (size_t)j * h->dim;
            const float *got = j < h->heads ? after + t * row + (size_t)j * h->dim
                                            : k + t * kv_dim + (size_t)(j - h->heads) * h->dim;
            for (uint32_t i = 0; i < half; i++) {
                double angle = (double)((float)p->positions[t] * rope->inv_freq[i]);
                double lo = (double)src[i], hi = (double)src[half + i];
                assert_true(fabs((double)got[i] - (lo * cos(angle) - hi * sin(angle))) < 1e-6);
                assert_true(fabs((double)got[half + i] - (hi * cos(angle) + lo * sin(angle))) <
                            1e-6);
            }
        }
        assert_memory_equal(v + t * kv_dim, in + row - kv_dim, kv_dim * sizeof *v);
    }
}

static void check_attention(const struct packed *p, const struct heads *h, const float *qkv,
                            const float *k, const float *v, const float *out)
{
    size_t row = (size_t)(h->heads + 2 * h->kv) * h->dim, kv_dim = (size_t)h->kv * h->dim;
    for (uint32_t s = 0; s < p->b.n_seqs; s++) {
        uint32_t first = p->starts[s];
        for (uint32_t t = first; t < p->starts[s + 1]; t++) {
            for (uint32_t j = 0; j < h->heads; j++) {
                double want[256];
                size_t kv_head = (size_t)(j / (h->heads / h->kv)) * h->dim;
                attend_double(h, qkv + t * row + (size_t)j * h->dim, k + first * kv_dim + kv_head,
                              v + first * kv_dim + kv_head, t - first + 1, want);
                const float *got = out + ((size_t)t * h->heads + j) * h->dim;
                for (uint32_t i = 0; i < h->dim; i++) {
                    if (!(fabs((double)got[i] - want[i]) < 4e-6)) {
                        fail_msg("attention %u/%u/%u: sequence %u token %u head %u element %u: "
                                 "%.9g instead of %.9g",
                                 h->heads, h->kv, h->dim, s, t - first, j, i, (double)got[i],
                                 want[i]);
                    }
                }
            }
        }
    }
}

static void check_heads(struct gd_backend *one, struct gd_backend *two, const struct heads *h)
{
    struct packed all, part;
    pack(&all, N_SEQS, LENS);
    size_t row = (size_t)(h->heads + 2 * h->kv) * h->dim, kv_dim = (size_t)h->kv * h->dim;
    size_t out_dim = (size_t)h->heads * h->dim, n = all.b.n_tokens;
    float inv_freq[128];
    for (uint32_t i = 0; i < h->dim / 2; i++) {
        inv_freq[i] = (float)pow(10000.0, -2.0 * i / h->dim);
    }
    struct gd_rope rope = {.head_dim = h->dim, .inv_freq = inv_freq};
    float *in = random_floats(n * row), *qkv = copy_of(in, n * row * sizeof *in);
    float *k = random_floats(n * kv_dim), *v = random_floats(n * kv_dim);
    float *out = random_floats(n * out_dim);
    rope_and_attend(one, &all, h, &rope, qkv, k, v, out);
    check_rope(&all, h, &rope, in, qkv, k, v);
    check_attention(&all, h, qkv, k, v, out);

    float *qkv2 = copy_of(in, n * row * sizeof *in), *k2 = random_floats(n * kv_dim);
    float *v2 = random_floats(n * kv_dim), *out2 = random_floats(n * out_dim);
    rope_and_attend(two, &all, h, &rope, qkv2, k2, v2, out2); /* two threads, other rubbish */
    assert_memory_equal(out, out2, n * out_dim * sizeof *out);
    assert_memory_equal(k, k2, n * kv_dim * sizeof *k);
    for (uint32_t s = 0; s < N_SEQS; s++) { /* alone */
        size_t first = all.starts[s];
        pack(&part, 1, &LENS[s]);
        memcpy(qkv2, in + first * row, LENS[s] * row * sizeof *in);
        rope_and_attend(two, &part, h, &rope, qkv2, k2, v2, out2);
        assert_memory_equal(out + first * out_dim, out2, LENS[s] * out_dim * sizeof *out);
    }
    uint32_t lens[N_SEQS];
    size_t at = 0;
    for (uint32_t s = 0; s < N_SEQS; s++) { /* in reverse order */
        uint32_t from = (uint32_t)N_SEQS - 1 - s;
        lens[s] = LENS[from];
        memcpy(qkv2 + at * row, in + all.starts[from] * row, lens[s] * row * sizeof *in);
        at += lens[s];
    }
    pack(&part, N_SEQS, lens);
    rope_and_attend(two, &part, h, &rope, qkv2, k2, v2, out2);
    for (uint32_t s = 0; s < N_SEQS; s++) {
        assert_memory_equal(out2 + part.starts[s] * out_dim,
                            out + all.starts[N_SEQS - 1 - s] * out_dim,
                            lens[s] * out_dim * sizeof *out);
    }
    free(in), free(qkv), free(k), free(v), free(out), free(qkv2), free(k2), free(v2), free(out2);
}

static void test_attention(void **state)
{
    (void)state;
    struct gd_backend *one = open_backend(1, false), *two = open_backend(2, false);
    for (size_t i = 0; i < sizeof HEADS / sizeof HEADS[0]; i++) {
        check_heads(one, two, &HEADS[i]);
    }
    one->ops->close(one);
    two->ops->close(two);
}

/* A later token cannot be seen: changing it, even to infinity, leaves the earlier rows' bits alone.
 */
static void test_attention_causal(void **state)
{
    (void)state;
    const struct heads h = {4, 2, 64};
    const uint32_t len = 150, cut = 100;
    size_t row = (size_t)(h.heads + 2 * h.kv) * h.dim, out_dim = (size_t)h.heads * h.dim;
    struct gd_backend *be = open_backend(2, false);
    struct packed p;
    float inv_freq[32] = {1.0f};
    struct gd_rope rope = {.head_dim = 64, .inv_freq = inv_freq};
    float *in = random_floats(len * row), *qkv = copy_of(in, len * row * sizeof *in);
    float *k = random_floats(len * 128), *v = random_floats(len * 128);
    float *out = random_floats(len * out_dim), *out2 = random_floats(len * out_dim);
    pack(&p, 1, &len);
    rope_and_attend(be, &p, &h, &rope, qkv, k, v, out);
    memcpy(qkv, in, len * row * sizeof *in);
    for (size_t i = cut * row; i < len * row; i++) {
        qkv[i] = 3.0f * rnd();
    }
    rope_and_attend(be, &p, &h, &rope, qkv, k, v, out2);
    assert_memory_equal(out, out2, cut * out_dim * sizeof *out);
    assert_memory_not_equal(out + cut * out_dim, out2 + cut * out_dim, 64 * sizeof *out);
    for (size_t i = 0; i < h.dim; i++) { /* a NaN in the past is not lost */
        in[10 * row + (h.heads + h.kv) * h.dim + i] = NAN;
    }
    memcpy(qkv, in, len * row * sizeof *in);
    rope_and_attend(be, &p, &h, &rope, qkv, k, v, out);
    assert_true(isnan(out[(len - 1) * out_dim]));
    assert_true(isfinite(out[(len - 1) * out_dim + 2 * h.dim])); /* the other key/value head */
    be->ops->close(be);
    free(in), free(qkv), free(k), free(v), free(out), free(out2);
}

/* Scores of very different size: the running maximum must rescale what came before. */
static void test_attention_large_scores(void **state)
{
    (void)state;
    const struct heads h = {1, 1, 32};
    const uint32_t len = 200;
    struct gd_backend *be = open_backend(1, false);
    struct packed p;
    float inv_freq[16] = {0};
    struct gd_rope rope = {.head_dim = 32, .inv_freq = inv_freq};
    float *qkv = random_floats(len * 96), *k = random_floats(len * 32);
    float *v = random_floats(len * 32), *out = random_floats(len * 32);
    for (uint32_t t = 0; t < len; t++) {
        for (uint32_t i = 0; i < 32; i++) {
            qkv[t * 96 + i] *= 30.0f;
            qkv[t * 96 + 32 + i] *= (float)t;
        }
    }
    pack(&p, 1, &len);
    rope_and_attend(be, &p, &h, &rope, qkv, k, v, out);
    for (uint32_t t = 0; t < len; t++) {
        double want[32];
        attend_double(&h, qkv + t * 96, k, v, t + 1, want);
        for (uint32_t i = 0; i < 32; i++) {
            assert_true(fabs((double)out[t * 32 + i] - want[i]) < 1e-2);
        }
    }
    be->ops->close(be);
    free(qkv), free(k), free(v), free(out);
}

static void test_head_dim_limit(void **state)
{
    (void)state;
    struct gd_backend *be = open_backend(1, false);
    struct packed p;
    const uint32_t len = 1;
    pack(&p, 1, &len);
    static const float inv_freq[256];
    struct gd_rope rope = {.head_dim = 512, .inv_freq = inv_freq};
    struct gd_attn_shape s = {1, 1, 512, 1.0f};
    float *x = random_floats(3 * 512);
    assert_int_equal(be->ops->rope_kv(be, &p.b, &s, &rope, x, x, x), GD_EBACKEND);
    assert_int_equal(be->ops->sync(be), GD_EBACKEND); /* kept until asked for */
    assert_int_equal(be->ops->sync(be), GD_OK);
    free(x);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_causal),
        cmocka_unit_test(test_attention_large_scores),
        cmocka_unit_test(test_head_dim_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
