/* metrics.h - counters, gauges and histograms, and their Prometheus text (exposition format 0.0.4).
 *
 * Families are registered once at start; a family of labels holds one series for each combination
 * of its label values, which are fixed at registration, so that nothing a client sends can add a
 * series. Cells stand in one static array.
 *
 *   static const char *const codes[] = {"200", "400", "other"};
 *   int requests = gd_metric_register(&(struct gd_metric_desc){
 *       .name = "guardian_requests_total", .help = "Requests answered.", .type = GD_METRIC_COUNTER,
 *       .labels = {{"code", codes, 3}}, .n_labels = 1}, &err);
 *   gd_metric_add(requests, (const uint32_t[]){gd_metric_index(requests, 0, "404")}, 1);
 *
 * Updates are lock-free, from any thread, and never fail: an unknown family (a negative id) is
 * ignored, an index past the values counts as the last one, which is why lists of values end in
 * "other". Labelled counters and histograms that never counted are not written. */
#ifndef GUARDIAN_METRICS_H
#define GUARDIAN_METRICS_H

#include "guardian/arena.h"
#include "guardian/status.h"

enum gd_metric_type {
    GD_METRIC_COUNTER,
    GD_METRIC_GAUGE,
    GD_METRIC_HISTOGRAM,
};

#define GD_METRIC_LABELS_MAX 4

struct gd_metric_label {
    const char *name;
    const char *const *values; /* [n]; borrowed for the life of the process, as all strings here */
    uint32_t n;
};

struct gd_metric_desc {
    const char *name;
    const char *help;
    enum gd_metric_type type;
    struct gd_metric_label labels[GD_METRIC_LABELS_MAX];
    uint32_t n_labels;
    const double
        *buckets; /* [n_buckets] upper bounds, rising, without +Inf; histograms only, borrowed */
    uint32_t n_buckets;
};

#define GD_METRIC_DURATION_BUCKETS_N 17
extern const double GD_METRIC_DURATION_BUCKETS[GD_METRIC_DURATION_BUCKETS_N]; /* seconds */
#define GD_METRIC_SIZE_BUCKETS_N 14
extern const double GD_METRIC_SIZE_BUCKETS[GD_METRIC_SIZE_BUCKETS_N]; /* powers of two, 1 to 8192 */

/* The id of the new family, or GD_EUSAGE (bad or taken name, bad buckets) or GD_ELIMIT (too many
 * families or series). */
int gd_metric_register(const struct gd_metric_desc *d, struct gd_err *err);

/* The index of a value of a label, the last one when it is not among them. */
uint32_t gd_metric_index(int id, uint32_t label, const char *value);

/* at: [n_labels] indices of label values, NULL for families without labels. */
void gd_metric_add(int id, const uint32_t *at, uint64_t n);   /* counters */
void gd_metric_set(int id, const uint32_t *at, double v);     /* gauges */
void gd_metric_observe(int id, const uint32_t *at, double v); /* histograms; NaN is ignored */

/* Appends the text of all families. Content type: GD_METRICS_CONTENT_TYPE. */
#define GD_METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"
void gd_metrics_write(struct gd_buf *b);

/* Forgets all families, for tests: no other thread may use the registry meanwhile. */
void gd_metrics_reset(void);

#endif
