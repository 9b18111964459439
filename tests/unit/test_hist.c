#include "base/hist.h"
#include "base/rate.h"

#include <stdlib.h>

#include "test.h"

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void small_values(void **state)
{
    (void)state;
    struct fast_hist h;
    fast_hist_init(&h);
    assert_int_equal(fast_hist_quantile(&h, 500), 0);
    assert_int_equal(fast_hist_mean(&h), 0);
    for (int i = 1; i <= 10; i++)
        fast_hist_add(&h, i);
    assert_int_equal(fast_hist_quantile(&h, 500), 5);
    assert_int_equal(fast_hist_quantile(&h, 501), 6);
    assert_int_equal(fast_hist_quantile(&h, 900), 9);
    assert_int_equal(fast_hist_quantile(&h, 0), 1);
    assert_int_equal(fast_hist_quantile(&h, 1000), 10);
    assert_int_equal(fast_hist_mean(&h), 5);
    assert_int_equal(fast_hist_count_le(&h, 4), 4);
    assert_int_equal(fast_hist_count_le(&h, 100), 10);
    fast_hist_add(&h, -7);
    assert_int_equal(h.min, 0);
    fast_hist_add(&h, INT64_MAX);
    assert_true(fast_hist_quantile(&h, 999) == INT64_MAX);
    assert_int_equal(fast_hist_count_le(&h, FAST_HIST_TOP), 11);
}

/* Quantiles against a sorted list: never below the true value, at most 1/32 above it; and two
 * merged histograms equal one that saw everything. */
static void against_sorted(void **state)
{
    (void)state;
    enum { N = 5000 };
    static int64_t values[N];
    struct fast_hist all, part[2];
    uint64_t seed = 42;
    fast_hist_init(&all);
    fast_hist_init(&part[0]);
    fast_hist_init(&part[1]);
    for (int i = 0; i < N; i++) {
        values[i] = (int64_t)(next(&seed) >> (22 + next(&seed) % 40));
        fast_hist_add(&all, values[i]);
        fast_hist_add(&part[i % 3 == 0], values[i]);
    }
    qsort(values, N, sizeof(values[0]), by_value);
    for (int milli = 1; milli < 1000; milli++) {
        int64_t truth = values[(N * milli + 999) / 1000 - 1], got = fast_hist_quantile(&all, milli);
        assert_true(got >= truth);
        assert_true(got <= truth + truth / 32);
    }
    fast_hist_merge(&part[0], &part[1]);
    assert_memory_equal(&part[0], &all, sizeof(all));
}

static void steady_rate(void **state)
{
    (void)state;
    struct fast_rate r;
    fast_ns t0 = FAST_S(1000);
    fast_rate_init(&r, FAST_RATE_WINDOW, t0);
    assert_int_equal(fast_rate_milli(&r, t0), 0);
    /* 40 a second for 30 s, 25 ms apart: from the first second on the rate stays within one event. */
    for (int i = 0; i < 1200; i++) {
        fast_ns now = t0 + FAST_MS(25) * (i + 1);
        fast_rate_add(&r, 1, now);
        if (i >= 40)
            assert_in_range(fast_rate_milli(&r, now), 39000, 42000);
        if (i > 400)
            assert_in_range(fast_rate_milli(&r, now), 39900, 40200);
    }
    assert_int_equal(r.total, 1200);
    fast_ns end = t0 + FAST_S(30);
    /* Then silence: half of the window later half is left, and nothing after a whole one. */
    assert_in_range(fast_rate_milli(&r, end + FAST_S(5)), 19900, 20200);
    assert_int_equal(fast_rate_milli_over(&r, FAST_S(1), end + FAST_S(5)), 0);
    assert_in_range(fast_rate_milli(&r, end + FAST_S(10)), 0, 200);
    assert_int_equal(fast_rate_milli(&r, end + FAST_S(11)), 0);
    assert_int_equal(fast_rate_milli(&r, end + FAST_S(100000)), 0);
    fast_rate_add(&r, 10, end); /* an earlier moment counts as the latest one */
    assert_int_equal(fast_rate_milli(&r, end + FAST_S(100001)), 1000);
}

/* The first requests of all are not read as a burst, and a young counter is not diluted. */
static void young_rate(void **state)
{
    (void)state;
    struct fast_rate r;
    fast_rate_init(&r, FAST_RATE_WINDOW, 0);
    fast_rate_add(&r, 1, 1);
    assert_int_equal(fast_rate_milli(&r, 1), 1000); /* one in a second */
    fast_rate_add(&r, 1, FAST_MS(200));
    assert_int_equal(fast_rate_milli(&r, FAST_MS(250)), 2000);
    for (int i = 1; i <= 100; i++)
        fast_rate_add(&r, 1, FAST_MS(10) * i);
    assert_in_range(fast_rate_milli(&r, FAST_S(1)), 100000, 102000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_values), cmocka_unit_test(against_sorted),
        cmocka_unit_test(steady_rate), cmocka_unit_test(young_rate),
    };
    return cmocka_run_group_tests_name("hist", tests, NULL, NULL);
}
