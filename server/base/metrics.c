/* metrics.c - the metrics registry. See guardian/metrics.h.
 *
 * Every series is a run of 64-bit atomic cells: a counter has one (the count), a gauge one (the
 * bits of a double), a histogram n_buckets + 1 counts, each bucket for itself, and then the bits of
 * the sum. Registration happens under a mutex and publishes the family by raising n_families, so
 * updates need no lock. */
#include "guardian/metrics.h"
#include "guardian/json.h"
#include "guardian/limits.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

const double GD_METRIC_DURATION_BUCKETS[GD_METRIC_DURATION_BUCKETS_N] = {
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300};
const double GD_METRIC_SIZE_BUCKETS[GD_METRIC_SIZE_BUCKETS_N] = {
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};

struct family {
    struct gd_metric_desc desc;
    uint32_t n_series;
    uint32_t stride; /* cells of a series */
    uint32_t first;  /* its first cell */
};

static struct family families[GD_METRIC_FAMILIES_MAX];
static _Atomic int n_families;
static _Atomic uint64_t cells[GD_METRIC_CELLS_MAX];
static uint32_t n_cells;
static pthread_mutex_t register_mutex = PTHREAD_MUTEX_INITIALIZER;

static bool name_ok(const char *name)
{
    if (!name || !*name || (*name >= '0' && *name <= '9'))
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") ==
           strlen(name);
}

static bool desc_ok(const struct gd_metric_desc *d)
{
    if (!name_ok(d->name) || !d->help || d->n_labels > GD_METRIC_LABELS_MAX)
        return false;
    for (uint32_t i = 0; i < d->n_labels; i++) {
        if (!name_ok(d->labels[i].name) || d->labels[i].n == 0)
            return false;
    }
    if ((d->type == GD_METRIC_HISTOGRAM) != (d->n_buckets > 0) ||
        d->n_buckets > GD_METRIC_BUCKETS_MAX)
        return false;
    for (uint32_t i = 0; i < d->n_buckets; i++) {
        if (!isfinite(d->buckets[i]) || (i > 0 && d->buckets[i] <= d->buckets[i - 1]))
            return false;
    }
    return true;
}

static int add_family(const struct gd_metric_desc *d, struct gd_err *err)
{
    const int id = atomic_load(&n_families);
    struct family f = {.desc = *d, .n_series = 1, .stride = 1, .first = n_cells};
    size_t need = d->n_buckets > 0 ? (size_t)d->n_buckets + 2 : 1;
    f.stride = (uint32_t)need;
    for (uint32_t i = 0; i < d->n_labels; i++) {
        if (!gd_mul(need, d->labels[i].n, &need) || need > GD_METRIC_CELLS_MAX)
            return gd_err_set(err, GD_ELIMIT, "metric %s has too many series", d->name);
        f.n_series *= d->labels[i].n;
    }
    for (int i = 0; i < id; i++) {
        if (strcmp(families[i].desc.name, d->name) == 0)
            return gd_err_set(err, GD_EUSAGE, "metric %s is registered twice", d->name);
    }
    if (id >= GD_METRIC_FAMILIES_MAX || need > GD_METRIC_CELLS_MAX - n_cells)
        return gd_err_set(err, GD_ELIMIT, "no room for metric %s (limits: %d metrics, %d cells)",
                          d->name, GD_METRIC_FAMILIES_MAX, GD_METRIC_CELLS_MAX);
    families[id] = f;
    n_cells += (uint32_t)need;
    atomic_store(&n_families, id + 1);
    return id;
}

int gd_metric_register(const struct gd_metric_desc *d, struct gd_err *err)
{
    if (!desc_ok(d))
        return gd_err_set(err, GD_EUSAGE, "metric %s is not well described",
                          d->name ? d->name : "?");
    pthread_mutex_lock(&register_mutex);
    const int id = add_family(d, err);
    pthread_mutex_unlock(&register_mutex);
    return id;
}

static const struct family *find(int id)
{
    return id >= 0 && id < atomic_load_explicit(&n_families, memory_order_acquire) ? &families[id]
                                                                                   : NULL;
}

uint32_t gd_metric_index(int id, uint32_t label, const char *value)
{
    const struct family *f = find(id);
    if (!f || label >= f->desc.n_labels)
        return 0;
    const struct gd_metric_label *l = &f->desc.labels[label];
    for (uint32_t i = 0; i < l->n; i++) {
        if (value && strcmp(l->values[i], value) == 0)
            return i;
    }
    return l->n - 1;
}

/* The first cell of a series, or NULL when the family is unknown or of another type. */
static _Atomic uint64_t *series(int id, enum gd_metric_type type, const uint32_t *at)
{
    const struct family *f = find(id);
    if (!f || f->desc.type != type)
        return NULL;
    uint32_t k = 0;
    for (uint32_t i = 0; i < f->desc.n_labels; i++) {
        const uint32_t n = f->desc.labels[i].n;
        k = k * n + (at && at[i] < n ? at[i] : n - 1);
    }
    return &cells[f->first + k * f->stride];
}

static double to_double(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static uint64_t to_bits(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static void add_double(_Atomic uint64_t *cell, double delta)
{
    uint64_t old = atomic_load_explicit(cell, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(cell, &old, to_bits(to_double(old) + delta),
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

void gd_metric_add(int id, const uint32_t *at, uint64_t n)
{
    _Atomic uint64_t *c = series(id, GD_METRIC_COUNTER, at);
    if (c)
        atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

void gd_metric_set(int id, const uint32_t *at, double v)
{
    _Atomic uint64_t *c = series(id, GD_METRIC_GAUGE, at);
    if (c)
        atomic_store_explicit(c, to_bits(v), memory_order_relaxed);
}

void gd_metric_observe(int id, const uint32_t *at, double v)
{
    _Atomic uint64_t *c = series(id, GD_METRIC_HISTOGRAM, at);
    if (!c || isnan(v))
        return;
    const struct gd_metric_desc *d = &families[id].desc;
    uint32_t i = 0;
    while (i < d->n_buckets && v > d->buckets[i])
        i++;
    atomic_fetch_add_explicit(&c[i], 1, memory_order_relaxed);
    add_double(&c[d->n_buckets + 1], v);
}

static void put_number(struct gd_buf *b, double v)
{
    if (isnan(v)) {
        gd_buf_z(b, "NaN");
    } else if (isinf(v)) {
        gd_buf_z(b, v > 0 ? "+Inf" : "-Inf");
    } else {
        struct gd_json_writer w;
        gd_json_writer_init(&w, b);
        gd_jw_f64(&w, v);
    }
}

/* Escapes backslash, newline and, in label values, the quote; bad UTF-8 becomes U+FFFD. */
static void put_text(struct gd_buf *b, const char *z, bool label)
{
    size_t start = 0;
    const size_t n = strlen(z);
    for (size_t i = 0; i < n; i++) {
        const char c = z[i];
        if (c != '\\' && c != '\n' && !(label && c == '"'))
            continue;
        gd_utf8_repair(b, (struct gd_str){z + start, i - start});
        gd_buf_z(b, c == '\\' ? "\\\\" : c == '\n' ? "\\n" : "\\\"");
        start = i + 1;
    }
    gd_utf8_repair(b, (struct gd_str){z + start, n - start});
}

/* `name_suffix{labels,le="bound"} `; le is NULL where there is none. */
static void put_series_name(struct gd_buf *b, const struct family *f, uint32_t k,
                            const char *suffix, const double *le)
{
    const struct gd_metric_desc *d = &f->desc;
    uint32_t rest = f->n_series;
    gd_buf_fmt(b, "%s%s", d->name, suffix);
    const char *before = "{";
    for (uint32_t i = 0; i < d->n_labels; i++) {
        rest /= d->labels[i].n;
        gd_buf_fmt(b, "%s%s=\"", before, d->labels[i].name);
        put_text(b, d->labels[i].values[k / rest % d->labels[i].n], true);
        gd_buf_z(b, "\"");
        before = ",";
    }
    if (le) {
        gd_buf_fmt(b, "%sle=\"", before);
        put_number(b, *le);
        gd_buf_z(b, "\"");
    }
    gd_buf_z(b, d->n_labels > 0 || le ? "} " : " ");
}

static void put_histogram(struct gd_buf *b, const struct family *f, uint32_t k)
{
    const _Atomic uint64_t *c = &cells[f->first + k * f->stride];
    const uint32_t n = f->desc.n_buckets;
    uint64_t count[GD_METRIC_BUCKETS_MAX +
                   1]; /* cumulative: one snapshot, so that _count equals le="+Inf" */
    uint64_t total = 0;
    for (uint32_t i = 0; i <= n; i++) {
        total += atomic_load_explicit(&c[i], memory_order_relaxed);
        count[i] = total;
    }
    if (total == 0 && f->desc.n_labels > 0)
        return;
    for (uint32_t i = 0; i <= n; i++) {
        const double le = i < n ? f->desc.buckets[i] : (double)INFINITY;
        put_series_name(b, f, k, "_bucket", &le);
        gd_buf_fmt(b, "%llu\n", (unsigned long long)count[i]);
    }
    put_series_name(b, f, k, "_sum", NULL);
    put_number(b, to_double(atomic_load_explicit(&c[n + 1], memory_order_relaxed)));
    gd_buf_z(b, "\n");
    put_series_name(b, f, k, "_count", NULL);
    gd_buf_fmt(b, "%llu\n", (unsigned long long)total);
}

static void put_single(struct gd_buf *b, const struct family *f, uint32_t k)
{
    const uint64_t v = atomic_load_explicit(&cells[f->first + k], memory_order_relaxed);
    if (v == 0 && f->desc.n_labels > 0 && f->desc.type == GD_METRIC_COUNTER)
        return;
    put_series_name(b, f, k, "", NULL);
    if (f->desc.type == GD_METRIC_COUNTER)
        gd_buf_fmt(b, "%llu", (unsigned long long)v);
    else
        put_number(b, to_double(v));
    gd_buf_z(b, "\n");
}

void gd_metrics_write(struct gd_buf *b)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    for (int id = 0; find(id); id++) {
        const struct family *f = &families[id];
        gd_buf_fmt(b, "# HELP %s ", f->desc.name);
        put_text(b, f->desc.help, false);
        gd_buf_fmt(b, "\n# TYPE %s %s\n", f->desc.name, types[f->desc.type]);
        for (uint32_t k = 0; k < f->n_series; k++) {
            if (f->desc.type == GD_METRIC_HISTOGRAM)
                put_histogram(b, f, k);
            else
                put_single(b, f, k);
        }
    }
}

void gd_metrics_reset(void)
{
    atomic_store(&n_families, 0);
    for (uint32_t i = 0; i < n_cells; i++)
        atomic_store(&cells[i], 0);
    n_cells = 0;
}
