// cublaslt_sums.cpp - the products of the stand-in of cuBLASLt, with the sums in the algorithm's order.
//
// A row's sums are made once for all rows with the same bytes: the start-up trials of Guardian repeat few
// rows many times.
#include "cublaslt_parts.h"

#include <stdio.h>
#include <string.h>

#include <memory>
#include <unordered_map>
#include <vector>

namespace
{
float number(const product &p, const void *from, size_t i)
{
    uint32_t bits;
    float x;
    if (!p.fp8) {
        bits = (uint32_t)((const uint16_t *)from)[i] << 16;
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    uint32_t e4m3 = ((const uint8_t *)from)[i];
    if ((e4m3 & 0x7fu) == 0x7fu) {
        return __builtin_nanf("");
    }
    uint32_t exponent = e4m3 >> 3 & 0xfu, mantissa = e4m3 & 7u;
    x = exponent == 0 ? (float)mantissa * 0x1p-9f : 0.0f;
    if (exponent > 0) {
        bits = (exponent + 127 - 7) << 23 | mantissa << 20;
        memcpy(&x, &bits, sizeof x);
    }
    return e4m3 & 0x80u ? -x : x;
}

const uint32_t COLS = 16, ROWS = 6;
typedef float vec __attribute__((vector_size(4 * COLS)));

// sums[r][0 .. COLS) += x[r][i] * w[i] over i = first, first + step, ..., below last, in this order.
#define ADD_PRODUCTS(name, rows)                                                                   \
    SIMT_FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void   \
    name(float *const *sums, const float *const *x, const float *w, uint32_t first, uint32_t last, \
         uint32_t step)                                                                            \
    {                                                                                              \
        vec s[rows];                                                                               \
        for (uint32_t r = 0; r < rows; r++) {                                                      \
            memcpy(&s[r], sums[r], sizeof s[r]);                                                   \
        }                                                                                          \
        for (uint32_t i = first; i < last; i += step) {                                            \
            vec y;                                                                                 \
            memcpy(&y, w + (size_t)i * COLS, sizeof y);                                            \
            for (uint32_t r = 0; r < rows; r++) {                                                  \
                s[r] += x[r][i] * y;                                                               \
            }                                                                                      \
        }                                                                                          \
        for (uint32_t r = 0; r < rows; r++) {                                                      \
            memcpy(sums[r], &s[r], sizeof s[r]);                                                   \
        }                                                                                          \
    }
ADD_PRODUCTS(add_products, ROWS)
ADD_PRODUCTS(add_products_of_one, 1)

// The order of a row's sums.
enum order { IN_ORDER, EVEN_THEN_ODD, IN_FOUR };

order order_of(const product &p, uint32_t row)
{
    bool odd = p.kind == SIMT_ALGO_HALVES || (p.kind == SIMT_ALGO_FEW_ROWS && p.rows < 64) ||
               (p.kind == SIMT_ALGO_ODD_ROWS && row % 16 >= 8) ||
               (p.kind == SIMT_ALGO_LAST_TILE && row >= p.rows / 64 * 64);
    return p.kind == SIMT_ALGO_SPLIT ? IN_FOUR : odd ? EVEN_THEN_ODD : IN_ORDER;
}

// A row of b that is unlike all before it.
struct distinct {
    uint32_t row;
    order o;
    std::vector<float> x, sums; // [k], [n]
};

// Sums of up to ROWS rows with one panel of COLS columns of the weights.
void sum_panel(const product &p, distinct *const *rows, uint32_t n_rows, const float *w,
               uint32_t col)
{
    float zeros[ROWS][COLS] = {}, part[ROWS][COLS];
    float *to[ROWS];
    const float *x[ROWS];
    uint32_t quarter = (p.k + 3) / 4;
    for (uint32_t r = 0; r < ROWS; r++) {
        x[r] = rows[r < n_rows ? r : 0]->x.data();
        to[r] = part[r];
    }
    auto add = n_rows == 1 ? add_products_of_one : add_products;
    uint32_t parts = rows[0]->o == IN_FOUR ? 4 : rows[0]->o == EVEN_THEN_ODD ? 2 : 1;
    for (uint32_t i = 0; i < parts; i++) {
        memset(part, 0, sizeof part);
        if (parts == 4) {
            uint32_t last = (i + 1) * quarter < p.k ? (i + 1) * quarter : p.k;
            add(to, x, w, i * quarter, last, 1);
        } else {
            add(to, x, w, i, p.k, parts);
        }
        for (uint32_t r = 0; r < n_rows; r++) {
            for (uint32_t j = 0; j < COLS; j++) {
                zeros[r][j] = i == 0 ? part[r][j] : zeros[r][j] + part[r][j];
            }
        }
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t width = p.n - col < COLS ? p.n - col : COLS;
        memcpy(&rows[r]->sums[col], zeros[r], width * sizeof(float));
    }
}

void sum_all(const product &p, std::vector<std::unique_ptr<distinct>> &all)
{
    std::vector<distinct *> of[3];
    for (auto &d : all) {
        of[d->o].push_back(d.get());
    }
    std::vector<float> w((size_t)p.k * COLS);
    for (uint32_t col = 0; col < p.n; col += COLS) {
        for (uint32_t j = 0; j < COLS; j++) {
            for (uint32_t i = 0; i < p.k; i++) {
                w[(size_t)i * COLS + j] =
                    col + j < p.n ? number(p, p.a, (size_t)(col + j) * (size_t)p.lda + i) : 0.0f;
            }
        }
        for (auto &rows : of) {
            for (size_t i = 0; i < rows.size(); i += ROWS) {
                size_t left = rows.size() - i;
                sum_panel(p, &rows[i], (uint32_t)(left < ROWS ? left : ROWS), w.data(), col);
            }
        }
    }
}

uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return 0x7fff;
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void finish_row(const product &p, uint32_t row, const float *sums)
{
    uint16_t *d = p.d + (size_t)row * (size_t)p.ldd;
    float of_b = p.scales[1] == NULL ? 1.0f : p.scales[1][p.outer ? row : 0];
    for (uint32_t j = 0; j < p.n; j++) {
        float of_a = p.scales[0] == NULL ? 1.0f : p.scales[0][p.outer ? j : 0];
        float x = p.fp8 ? sums[j] * of_a * of_b : sums[j];
        if (p.bias != NULL) {
            uint32_t bits = (uint32_t)p.bias[j] << 16;
            float bias;
            memcpy(&bias, &bits, sizeof bias);
            x += bias;
        }
        d[j] = bf16_of(x);
    }
}

// Of a row's bytes, a multiple of 16 as all rows here.
SIMT_FAST uint64_t hash_of(const unsigned char *row, size_t nbytes, uint64_t hash)
{
    uint64_t other = ~hash;
    for (size_t i = 0; i < nbytes; i += 16) {
        uint64_t words[2];
        memcpy(words, row + i, sizeof words);
        hash = (hash ^ words[0]) * 0x9e3779b97f4a7c15u;
        other = (other ^ words[1]) * 0xbf58476d1ce4e5b9u;
        hash ^= hash >> 29;
        other ^= other >> 31;
    }
    return hash ^ other;
}

float row_scale(const product &p, uint32_t row)
{
    return p.outer ? p.scales[1][row] : 1.0f;
}
} // namespace

const char *product_lacks(const product &p, size_t workspace_bytes)
{
    size_t in = p.fp8 ? 1 : 2;
    if (!simt_is_device(p.a, ((size_t)p.lda * (p.n - 1) + p.k) * in)) {
        return "A";
    }
    if (!simt_is_device(p.b, ((size_t)p.ldb * (p.rows - 1) + p.k) * in)) {
        return "B";
    }
    if (!simt_is_device(p.d, ((size_t)p.ldd * (p.rows - 1) + p.n) * sizeof *p.d)) {
        return "D";
    }
    if (p.bias != NULL && !simt_is_device(p.bias, p.n * sizeof *p.bias)) {
        return "the bias";
    }
    if (p.scales[0] != NULL && !simt_is_device(p.scales[0], (p.outer ? p.n : 1) * sizeof(float))) {
        return "A's scales";
    }
    if (p.scales[1] != NULL &&
        !simt_is_device(p.scales[1], (p.outer ? p.rows : 1) * sizeof(float))) {
        return "B's scales";
    }
    return workspace_bytes > 0 && !simt_is_device(p.workspace, workspace_bytes) ? "the workspace"
                                                                                : NULL;
}

cudaError_t product_run(const product &p, size_t workspace_bytes)
{
    const char *missing = product_lacks(p, workspace_bytes);
    if (missing != NULL) {
        fprintf(stderr, "simt: cuBLASLt: %s is not device memory any more\n", missing);
        return cudaErrorIllegalAddress;
    }
    if (workspace_bytes > 0) { // whoever else keeps something there loses it
        memset(p.workspace, 0xff, workspace_bytes);
    }
    size_t row_bytes = (size_t)p.k * (p.fp8 ? 1 : 2), step = (size_t)p.ldb * (p.fp8 ? 1 : 2);
    const unsigned char *b = (const unsigned char *)p.b;
    std::vector<std::unique_ptr<distinct>> all;
    std::unordered_multimap<uint64_t, size_t> known;
    std::vector<size_t> of(p.rows);
    for (uint32_t r = 0; r < p.rows; r++) {
        order o = order_of(p, r);
        uint64_t hash = hash_of(b + r * step, row_bytes, (uint64_t)o);
        size_t same = all.size();
        auto range = known.equal_range(hash);
        for (auto it = range.first; it != range.second && same == all.size(); ++it) {
            const distinct &d = *all[it->second];
            if (d.o == o && memcmp(b + d.row * step, b + r * step, row_bytes) == 0) {
                same = it->second;
            }
        }
        if (same == all.size()) {
            known.emplace(hash, same);
            all.emplace_back(new distinct{r, o, std::vector<float>(p.k), std::vector<float>(p.n)});
            for (uint32_t i = 0; i < p.k; i++) {
                all[same]->x[i] = number(p, b + r * step, i);
            }
        }
        of[r] = same;
    }
    sum_all(p, all);
    for (uint32_t r = 0; r < p.rows; r++) {
        const distinct &d = *all[of[r]];
        if (d.row != r && row_scale(p, d.row) == row_scale(p, r)) { // finished before
            memcpy(p.d + (size_t)r * (size_t)p.ldd, p.d + (size_t)d.row * (size_t)p.ldd, p.n * 2);
        } else {
            finish_row(p, r, d.sums.data());
        }
    }
    simt_count.matmuls++;
    return cudaSuccess;
}
