#include "sim/arrivals.h"

#include <stdlib.h>

#include "test.h"

static void ascending(const struct fast_arrivals *a, fast_ns length)
{
    for (size_t i = 0; i < a->count; i++)
        assert_true(a->at[i] >= (i ? a->at[i - 1] : 0) && a->at[i] < length);
}

static void constant(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    assert_int_equal(fast_arrivals_constant(&a, 3000, FAST_S(10), NULL), 0);
    assert_int_equal(a.count, 30);
    assert_true(a.at[0] == 0 && a.at[1] == 333333333 && a.at[3] == FAST_S(1));
    ascending(&a, FAST_S(10));
    fast_arrivals_fini(&a);
    assert_int_equal(fast_arrivals_constant(&a, 0, FAST_S(10), NULL), 0);
    assert_int_equal(fast_arrivals_constant(&a, -1, FAST_S(10), NULL), -FAST_EINVAL);
    assert_int_equal(fast_arrivals_constant(&a, 1, -1, NULL), -FAST_EINVAL);
    assert_int_equal(a.count, 0);
    fast_arrivals_fini(&a);
}

/* The seed decides; mean, variance and tail of the gaps are those of an exponential distribution. */
static void poisson(void **state)
{
    (void)state;
    struct fast_arrivals a = {0}, b = {0}, c = {0};
    const fast_ns length = FAST_S(1000);
    assert_int_equal(fast_arrivals_poisson(&a, 100000, length, 7, NULL), 0);
    assert_int_equal(fast_arrivals_poisson(&b, 100000, length, 7, NULL), 0);
    assert_int_equal(fast_arrivals_poisson(&c, 100000, length, 8, NULL), 0);
    assert_int_equal(a.count, b.count);
    assert_memory_equal(a.at, b.at, a.count * sizeof(a.at[0]));
    assert_memory_not_equal(a.at, c.at, 100 * sizeof(a.at[0]));
    ascending(&a, length);
    assert_in_range(a.count, 98700, 101300); /* 4 standard deviations */
    double sum2 = 0;
    size_t above = 0;
    for (size_t i = 1; i < a.count; i++) {
        double gap = (double)(a.at[i] - a.at[i - 1]) / 1e7; /* in means */
        sum2 += gap * gap;
        above += gap > 3;
    }
    assert_true(sum2 / (double)a.count > 1.92 && sum2 / (double)a.count < 2.08); /* E[x^2] = 2 */
    assert_in_range(above, 4600, 5350);                                         /* e^-3 = 4.98 % */
    fast_arrivals_fini(&a);
    fast_arrivals_fini(&b);
    fast_arrivals_fini(&c);
}

static void ramp(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_err err;
    const struct fast_rate_point points[] = {
        {0, 0}, {FAST_S(100), 200000}, {FAST_S(150), 200000}, {FAST_S(160), 0}, {FAST_S(200), 0}};
    assert_int_equal(fast_arrivals_ramp(&a, points, 5, 1, &err), 0);
    ascending(&a, FAST_S(160));
    size_t part[4] = {0};
    for (size_t i = 0; i < a.count; i++)
        part[a.at[i] < FAST_S(50)    ? 0
             : a.at[i] < FAST_S(100) ? 1
             : a.at[i] < FAST_S(150) ? 2
                                     : 3]++;
    assert_in_range(part[0], 2350, 2650); /* 2500, 3 standard deviations */
    assert_in_range(part[1], 7240, 7760);
    assert_in_range(part[2], 9700, 10300);
    assert_in_range(part[3], 900, 1100);
    size_t before = a.count;
    const struct fast_rate_point back[] = {{FAST_S(1), 1}, {FAST_S(1), 2}};
    assert_int_equal(fast_arrivals_ramp(&a, back, 2, 1, &err), -FAST_EINVAL);
    assert_int_equal(fast_arrivals_ramp(&a, points, 1, 1, &err), -FAST_EINVAL);
    assert_int_equal(a.count, before);
    fast_arrivals_fini(&a);
}

static void parses(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_err err;
    assert_int_equal(fast_arrivals_parse(&a, "5\n5.25\r\n# later\n\n7.000000001,x\n", "t", &err), 0);
    assert_int_equal(a.count, 3);
    assert_true(a.at[0] == 0 && a.at[1] == FAST_MS(250) && a.at[2] == FAST_S(2) + 1);
    fast_arrivals_fini(&a);
    /* Over the end of a leap day, of a month and of a year. */
    assert_int_equal(fast_arrivals_parse(&a,
                                         "TIMESTAMP,Tokens\n"
                                         "2023-12-31 23:59:59.5000000,10\n"
                                         "2024-01-01 00:00:00.5000000,10\n"
                                         "2024-02-28 23:59:59.5,1\n"
                                         "2024-03-01 00:00:00.5,1",
                                         "t", &err), 0);
    assert_int_equal(a.count, 4);
    assert_true(a.at[1] == FAST_S(1));
    assert_true(a.at[3] - a.at[2] == FAST_S(86401));
    fast_arrivals_fini(&a);
}

static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"", "t: there is no arrival"},
        {"time\n", "t: there is no arrival"},
        {"time\nx\n", "t: line 2"},
        {"1\n0.5\n", "t: line 2: it is earlier"},
        {"1\n1.\n", "t: line 2"},
        {"1\n-1\n", "t: line 2"},
        {"1\n1.0000000001\n", "t: line 2"},
        {"1\n99999999999999999999\n", "t: line 2"},
        {"2023-13-01 00:00:00\n", "t: line 1"},
        {"2023-11-16 24:00:00\n", "t: line 1"},
        {"2023-11-16\n", "t: line 1"},
        {"1e3\n", "t: line 1"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fast_arrivals a = {0};
        struct fast_err err;
        assert_int_equal(fast_arrivals_parse(&a, rows[i].text, "t", &err), -FAST_EINVAL);
        if (!strstr(err.msg, rows[i].message))
            fail_msg("row %zu: %s", i, err.msg);
        assert_int_equal(a.count, 0);
        fast_arrivals_fini(&a);
    }
}

static void scale_and_cut(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    assert_int_equal(fast_arrivals_constant(&a, 1000, FAST_S(10), NULL), 0);
    fast_arrivals_scale(&a, 3, 2);
    assert_true(a.at[9] == FAST_MS(13500));
    fast_arrivals_cut(&a, FAST_MS(1500), FAST_MS(4500));
    assert_int_equal(a.count, 2);
    assert_true(a.at[0] == 0 && a.at[1] == FAST_MS(1500));
    fast_arrivals_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constant), cmocka_unit_test(poisson), cmocka_unit_test(ramp),
        cmocka_unit_test(parses),   cmocka_unit_test(refuses), cmocka_unit_test(scale_and_cut),
    };
    return cmocka_run_group_tests_name("arrivals", tests, NULL, NULL);
}
