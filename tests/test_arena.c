/* test_arena.c - the arena and its budget, string slices, and the growing buffer. */
#include "guardian/arena.h"
#include "guardian/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

static void test_zeroed_aligned_apart(void **state)
{
    (void)state;
    struct gd_arena a;
    unsigned char *block[400];
    size_t size[400];
    gd_arena_init(&a, 64 << 20);
    for (size_t i = 0; i < 400; i++) {
        size[i] = i % 7 == 0 ? i * 97
                             : i % 61; /* small ones between some that need a block of their own */
        block[i] = gd_arena_alloc(&a, size[i]);
        assert_non_null(block[i]);
        assert_int_equal((uintptr_t)block[i] % _Alignof(max_align_t), 0);
        for (size_t k = 0; k < size[i]; k++)
            assert_int_equal(block[i][k], 0);
        memset(block[i], (int)(i % 255) + 1, size[i]);
    }
    for (size_t i = 0; i < 400; i++) {
        for (size_t k = 0; k < size[i]; k++)
            assert_int_equal(block[i][k], (i % 255) + 1);
    }
    assert_true(a.used <= a.budget);
    gd_arena_free(&a);
    assert_int_equal(a.used, 0);
    assert_non_null(gd_arena_alloc(&a, 10)); /* usable again */
    gd_arena_free(&a);
}

static void test_budget_holds(void **state)
{
    (void)state;
    for (size_t budget = 0; budget < 40000; budget += 113) {
        struct gd_arena a;
        size_t got = 0;
        gd_arena_init(&a, budget);
        while (gd_arena_alloc(&a, 100))
            got += 100;
        assert_true(a.used <= budget);
        assert_true(got <= budget);
        if (budget > 10000) /* little is lost to headers and to the clipped last block */
            assert_true(got > budget * 7 / 10);
        assert_null(gd_arena_alloc(&a, budget + 1));
        gd_arena_free(&a);
    }
}

static void test_sizes_that_overflow(void **state)
{
    (void)state;
    struct gd_arena a;
    gd_arena_init(&a, SIZE_MAX);
    assert_null(gd_arena_alloc(&a, SIZE_MAX));
    assert_null(gd_arena_alloc(&a, SIZE_MAX - 15));
    assert_null(gd_arena_calloc(&a, SIZE_MAX / 2, 3));
    assert_null(gd_arena_calloc(&a, (size_t)1 << 32, (size_t)1 << 32));
    assert_non_null(gd_arena_calloc(&a, 3, 5));
    assert_non_null(gd_arena_calloc(&a, 0, 5));
    struct gd_str out;
    const struct gd_str all = {"", SIZE_MAX};
    assert_int_equal(gd_str_dup(&a, all, &out), GD_ENOMEM);
    gd_arena_free(&a);
    size_t r = 7;
    assert_false(gd_mul(SIZE_MAX, 2, &r));
    assert_false(gd_add(SIZE_MAX, 1, &r));
    assert_int_equal(r, 7);
    assert_true(gd_mul(6, 7, &r) && r == 42);
    assert_true(gd_add(SIZE_MAX - 1, 1, &r) && r == SIZE_MAX);
}

static void test_slices(void **state)
{
    (void)state;
    const struct gd_str none = {NULL, 0};
    assert_true(gd_str_eq(none, GD_STR("")));
    assert_true(gd_str_eq(none, none));
    assert_true(gd_str_eqz(none, NULL));
    assert_true(gd_str_eqz(GD_STR("abc"), "abc"));
    assert_false(gd_str_eqz(GD_STR("abc"), "ab"));
    assert_false(gd_str_eqz(GD_STR("a\0c"), "a"));
    assert_false(gd_str_eq(GD_STR("a\0c"), GD_STR("a\0d")));
    assert_int_equal(gd_str_from(NULL).len, 0);
    struct gd_arena a;
    struct gd_str out;
    gd_arena_init(&a, 8192);
    assert_int_equal(gd_str_dup(&a, GD_STR("a\0c"), &out), 0);
    assert_int_equal(out.len, 3);
    assert_memory_equal(out.ptr, "a\0c", 4);
    assert_int_equal(gd_str_dup(&a, none, &out), 0);
    assert_string_equal(out.ptr, "");
    gd_arena_free(&a);
    gd_arena_init(&a, 8);
    assert_int_equal(gd_str_dup(&a, GD_STR("abc"), &out), GD_ENOMEM);
    gd_arena_free(&a);
}

static void test_buffer(void **state)
{
    (void)state;
    struct gd_buf b;
    gd_buf_init(&b, 1 << 20);
    assert_string_equal(b.data, "");
    gd_buf_add(&b, NULL, 0);
    gd_buf_z(&b, NULL);
    assert_string_equal(b.data, "");
    gd_buf_z(&b, "ab");
    gd_buf_str(&b, GD_STR("\0c"));
    gd_buf_fmt(&b, "%d-%s", 7, "x");
    assert_int_equal(b.len, 7);
    assert_memory_equal(b.data, "ab\0c7-x", 8);
    for (int i = 0; i < 10000; i++)
        gd_buf_fmt(&b, "%09d", i);
    assert_int_equal(b.len, 7 + 90000);
    assert_string_equal(b.data + b.len - 9, "000009999");
    assert_int_equal(b.failed, 0);
    gd_buf_free(&b);
    assert_string_equal(b.data, "");
    assert_int_equal(b.len, 0);
    gd_buf_z(&b, "again");
    assert_string_equal(b.data, "again");
    gd_buf_free(&b);
}

/* Up to the ceiling everything fits, one byte more fails, and the text before stays whole. */
static void test_buffer_ceiling(void **state)
{
    (void)state;
    for (size_t max = 0; max < 600; max++) {
        struct gd_buf b;
        gd_buf_init(&b, max);
        for (size_t i = 0; i < max; i++)
            gd_buf_add(&b, "x", 1);
        assert_int_equal(b.failed, 0);
        assert_int_equal(b.len, max);
        assert_int_equal(strlen(b.data), max);
        assert_true(b.cap <= max + 1);
        if (max % 2)
            gd_buf_fmt(&b, "%c", 'y');
        else
            gd_buf_z(&b, "y");
        assert_int_equal(b.failed, GD_ELIMIT);
        gd_buf_z(&b, "");
        gd_buf_fmt(&b, "%s", "z");
        assert_int_equal(b.len, max);
        assert_int_equal(strlen(b.data), max);
        gd_buf_free(&b);
        assert_int_equal(b.failed, 0);
    }
    struct gd_buf b;
    gd_buf_init(&b, 10);
    gd_buf_z(&b, "12345");
    gd_buf_z(&b, "678901"); /* does not fit: nothing of it is taken, nor of what follows */
    gd_buf_z(&b, "6");
    assert_string_equal(b.data, "12345");
    assert_int_equal(b.failed, GD_ELIMIT);
    gd_buf_free(&b);
}

static void test_buffer_without_ceiling(void **state)
{
    (void)state;
    struct gd_buf b;
    gd_buf_init(&b, SIZE_MAX);
    gd_buf_z(&b, "abc");
    assert_string_equal(b.data, "abc");
    gd_buf_add(&b, "", SIZE_MAX - 3); /* the length fits, the zero behind it does not */
    assert_int_equal(b.failed, GD_ENOMEM);
    assert_string_equal(b.data, "abc");
    gd_buf_free(&b);
}

/* The system itself runs out of memory: NULL and GD_ENOMEM, and what was there stays. The
 * sanitizers need more address space than this allows. */
static void test_system_out_of_memory(void **state)
{
    (void)state;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
    const struct rlimit tight = {.rlim_cur = (rlim_t)64 << 20, .rlim_max = RLIM_INFINITY};
    struct rlimit before;
    struct gd_buf b;
    struct gd_arena a;
    size_t got = 0;
    gd_buf_init(&b, SIZE_MAX);
    gd_arena_init(&a, SIZE_MAX);
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(setrlimit(RLIMIT_AS, &(struct rlimit){tight.rlim_cur, before.rlim_max}), 0);
    while (!b.failed)
        gd_buf_fmt(&b, "%01000d", 7);
    gd_buf_add(&b, "more", 4);
    while (gd_arena_alloc(&a, 100000))
        got += 100000;
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_int_equal(b.failed, GD_ENOMEM);
    assert_int_equal(b.len % 1000, 0);
    assert_int_equal(strlen(b.data), b.len);
    assert_true(a.used >= got && a.used < tight.rlim_cur);
    gd_buf_free(&b);
    gd_arena_free(&a);
#else
    print_message("not run under a sanitizer, nor with clang, which does not tell\n");
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroed_aligned_apart),
        cmocka_unit_test(test_budget_holds),
        cmocka_unit_test(test_sizes_that_overflow),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_buffer_ceiling),
        cmocka_unit_test(test_buffer_without_ceiling),
        cmocka_unit_test(test_system_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
