/* test_metrics.c - the metrics registry: text, labels, refusals, and sums that survive many
 * threads. */
#include "guardian/limits.h"
#include "guardian/metrics.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const char *const codes[] = {"200", "404", "other"};
static const char *const routes[] = {"/v1/guard", "a\"b\\c\nd\xFF"};
static const double bounds[] = {0.5, 1, 2.5};

static struct gd_metric_desc simple(const char *name, enum gd_metric_type type)
{
    struct gd_metric_desc d = {.name = name, .help = "Help.", .type = type};
    if (type == GD_METRIC_HISTOGRAM) {
        d.buckets = bounds;
        d.n_buckets = 3;
    }
    return d;
}

static int must_register(const struct gd_metric_desc *d)
{
    struct gd_err err = {0};
    const int id = gd_metric_register(d, &err);
    if (id < 0)
        fail_msg("%s", err.msg);
    return id;
}

static void assert_text(const char *want)
{
    struct gd_buf b;
    gd_buf_init(&b, GD_MIB);
    gd_metrics_write(&b);
    assert_int_equal(b.failed, 0);
    assert_string_equal(b.data, want);
    gd_buf_free(&b);
}

static int setup(void **state)
{
    (void)state;
    gd_metrics_reset();
    return 0;
}

static void test_unlabelled(void **state)
{
    (void)state;
    assert_text("");
    struct gd_metric_desc d = simple("c_total", GD_METRIC_COUNTER);
    d.help = "Back\\slash and\nline.";
    const int c = must_register(&d);
    d = simple("g", GD_METRIC_GAUGE);
    const int g = must_register(&d);
    d = simple("h_seconds", GD_METRIC_HISTOGRAM);
    const int h = must_register(&d);
    assert_text("# HELP c_total Back\\\\slash and\\nline.\n# TYPE c_total counter\nc_total 0\n"
                "# HELP g Help.\n# TYPE g gauge\ng 0\n"
                "# HELP h_seconds Help.\n# TYPE h_seconds histogram\n"
                "h_seconds_bucket{le=\"0.5\"} 0\nh_seconds_bucket{le=\"1\"} 0\n"
                "h_seconds_bucket{le=\"2.5\"} 0\nh_seconds_bucket{le=\"+Inf\"} 0\n"
                "h_seconds_sum 0\nh_seconds_count 0\n");
    gd_metric_add(c, NULL, 3);
    gd_metric_add(c, NULL, 4);
    gd_metric_set(g, NULL, 2.25);
    gd_metric_set(g, NULL, -0.75);
    gd_metric_observe(h, NULL, 0.5); /* a bound belongs to its bucket */
    gd_metric_observe(h, NULL, 0.75);
    gd_metric_observe(h, NULL, 2);
    gd_metric_observe(h, NULL, 100);
    gd_metric_observe(h, NULL, (double)NAN);
    assert_text("# HELP c_total Back\\\\slash and\\nline.\n# TYPE c_total counter\nc_total 7\n"
                "# HELP g Help.\n# TYPE g gauge\ng -0.75\n"
                "# HELP h_seconds Help.\n# TYPE h_seconds histogram\n"
                "h_seconds_bucket{le=\"0.5\"} 1\nh_seconds_bucket{le=\"1\"} 2\n"
                "h_seconds_bucket{le=\"2.5\"} 3\nh_seconds_bucket{le=\"+Inf\"} 4\n"
                "h_seconds_sum 103.25\nh_seconds_count 4\n");
}

static void test_labelled(void **state)
{
    (void)state;
    struct gd_metric_desc d = simple("r_total", GD_METRIC_COUNTER);
    d.labels[0] = (struct gd_metric_label){"route", routes, 2};
    d.labels[1] = (struct gd_metric_label){"code", codes, 3};
    d.n_labels = 2;
    const int r = must_register(&d);
    assert_text("# HELP r_total Help.\n# TYPE r_total counter\n");
    assert_int_equal(gd_metric_index(r, 1, "404"), 1);
    assert_int_equal(gd_metric_index(r, 1, "418"), 2);
    assert_int_equal(gd_metric_index(r, 1, NULL), 2);
    assert_int_equal(gd_metric_index(r, 2, "404"), 0);
    gd_metric_add(r, (const uint32_t[]){0, 1}, 1);
    gd_metric_add(r, (const uint32_t[]){1, 0}, 2);
    gd_metric_add(r, (const uint32_t[]){1, 77}, 3); /* past the values: the last */
    gd_metric_add(r, NULL, 4);
    assert_text("# HELP r_total Help.\n# TYPE r_total counter\n"
                "r_total{route=\"/v1/guard\",code=\"404\"} 1\n"
                "r_total{route=\"a\\\"b\\\\c\\nd\xEF\xBF\xBD\",code=\"200\"} 2\n"
                "r_total{route=\"a\\\"b\\\\c\\nd\xEF\xBF\xBD\",code=\"other\"} 7\n");
}

static void test_labelled_histogram_and_gauge(void **state)
{
    (void)state;
    struct gd_metric_desc d = simple("h", GD_METRIC_HISTOGRAM);
    d.labels[0] = (struct gd_metric_label){"code", codes, 3};
    d.n_labels = 1;
    d.n_buckets = 1;
    const int h = must_register(&d);
    d = simple("g", GD_METRIC_GAUGE);
    d.labels[0] = (struct gd_metric_label){"code", codes, 2};
    d.n_labels = 1;
    const int g = must_register(&d);
    gd_metric_observe(h, (const uint32_t[]){2}, 0.25);
    gd_metric_set(g, (const uint32_t[]){1}, (double)INFINITY);
    assert_text("# HELP h Help.\n# TYPE h histogram\nh_bucket{code=\"other\",le=\"0.5\"} 1\n"
                "h_bucket{code=\"other\",le=\"+Inf\"} 1\nh_sum{code=\"other\"} 0.25\n"
                "h_count{code=\"other\"} 1\n"
                "# HELP g Help.\n# TYPE g gauge\ng{code=\"200\"} 0\ng{code=\"404\"} +Inf\n");
}

static void test_refusals(void **state)
{
    (void)state;
    struct gd_err err;
    struct gd_metric_desc d = simple("ok_total", GD_METRIC_COUNTER);
    must_register(&d);
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    static const char *const names[] = {"", "0a", "9a", "a-b", "a b", "a:b", "\xC3\xA9"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        d = simple(names[i], GD_METRIC_COUNTER);
        assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    }
    d = simple(NULL, GD_METRIC_COUNTER);
    assert_int_equal(gd_metric_register(&d, NULL), GD_EUSAGE);
    d = simple("h", GD_METRIC_HISTOGRAM);
    d.n_buckets = 0;
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    static const double falling[] = {2, 1};
    d = simple("h", GD_METRIC_HISTOGRAM);
    d.buckets = falling;
    d.n_buckets = 2;
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    d.n_buckets = GD_METRIC_BUCKETS_MAX + 1;
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    d = simple("many", GD_METRIC_COUNTER);
    d.labels[0] = (struct gd_metric_label){"a", codes, 0};
    d.n_labels = 1;
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    d.labels[0] = (struct gd_metric_label){"a", codes, 3};
    d.labels[1] = (struct gd_metric_label){"bad name", codes, 3};
    d.n_labels = 2;
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    d.n_labels = GD_METRIC_LABELS_MAX + 1;
    assert_int_equal(gd_metric_register(&d, &err), GD_EUSAGE);
    d.labels[0] = d.labels[1] = d.labels[2] = (struct gd_metric_label){"a", codes, UINT32_MAX};
    d.n_labels = 3;
    assert_int_equal(gd_metric_register(&d, &err), GD_ELIMIT);
    d.labels[0].n = GD_METRIC_CELLS_MAX; /* one cell is taken already */
    d.n_labels = 1;
    assert_int_equal(gd_metric_register(&d, &err), GD_ELIMIT);
    d.labels[0].n = GD_METRIC_CELLS_MAX - 1;
    must_register(&d);
}

static void test_families_limit(void **state)
{
    (void)state;
    static char names[GD_METRIC_FAMILIES_MAX + 1][16];
    struct gd_err err;
    for (int i = 0; i <= GD_METRIC_FAMILIES_MAX; i++) {
        (void)snprintf(names[i], sizeof names[i], "m%d", i);
        const struct gd_metric_desc d = simple(names[i], GD_METRIC_GAUGE);
        assert_int_equal(gd_metric_register(&d, &err), i < GD_METRIC_FAMILIES_MAX ? i : GD_ELIMIT);
    }
}

/* Wrong ids and types are ignored: a metric may never take the server down. */
static void test_wrong_use_is_ignored(void **state)
{
    (void)state;
    const struct gd_metric_desc d = simple("c_total", GD_METRIC_COUNTER);
    const int c = must_register(&d);
    for (int id = -5; id <= 5; id++) {
        if (id != c)
            gd_metric_add(id, NULL, 1);
        gd_metric_set(id, NULL, 1);
        gd_metric_observe(id, NULL, 1);
    }
    assert_text("# HELP c_total Help.\n# TYPE c_total counter\nc_total 0\n");
}

struct work {
    int c, g, h;
};

static void *hammer(void *arg)
{
    const struct work *w = arg;
    for (int i = 0; i < 20000; i++) {
        gd_metric_add(w->c, NULL, 1);
        gd_metric_set(w->g, NULL, i);
        gd_metric_observe(w->h, NULL, 1);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct gd_metric_desc d = simple("c_total", GD_METRIC_COUNTER);
    struct work w;
    w.c = must_register(&d);
    d = simple("g", GD_METRIC_GAUGE);
    w.g = must_register(&d);
    d = simple("h", GD_METRIC_HISTOGRAM);
    d.n_buckets = 1;
    w.h = must_register(&d);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, &w), 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_text(
        "# HELP c_total Help.\n# TYPE c_total counter\nc_total 80000\n"
        "# HELP g Help.\n# TYPE g gauge\ng 19999\n# HELP h Help.\n# TYPE h histogram\n"
        "h_bucket{le=\"0.5\"} 0\nh_bucket{le=\"+Inf\"} 80000\nh_sum 80000\nh_count 80000\n");
}

static void test_ready_made_buckets(void **state)
{
    (void)state;
    struct gd_metric_desc d = simple("a", GD_METRIC_HISTOGRAM);
    d.buckets = GD_METRIC_DURATION_BUCKETS;
    d.n_buckets = GD_METRIC_DURATION_BUCKETS_N;
    must_register(&d);
    d.name = "b";
    d.buckets = GD_METRIC_SIZE_BUCKETS;
    d.n_buckets = GD_METRIC_SIZE_BUCKETS_N;
    must_register(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_unlabelled, setup),
        cmocka_unit_test_setup(test_labelled, setup),
        cmocka_unit_test_setup(test_labelled_histogram_and_gauge, setup),
        cmocka_unit_test_setup(test_refusals, setup),
        cmocka_unit_test_setup(test_families_limit, setup),
        cmocka_unit_test_setup(test_wrong_use_is_ignored, setup),
        cmocka_unit_test_setup(test_threads, setup),
        cmocka_unit_test_setup(test_ready_made_buckets, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
