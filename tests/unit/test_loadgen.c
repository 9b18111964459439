#include "sim/loadgen.h"

#include "test.h"

/* The table that MLPerf's rules print, for no, 1, 2, 5, 10, 20, 50 and 100 queries over the bound. */
static void needed(void **state)
{
    (void)state;
    static const int over[] = {0, 1, 2, 5, 10, 20, 50, 100};
    static const struct {
        int milli;
        int64_t queries[8];
    } rows[] = {
        {900, {44, 64, 81, 127, 197, 325, 681, 1246}},
        {950, {90, 130, 165, 259, 398, 656, 1372, 2504}},
        {970, {152, 219, 277, 433, 667, 1097, 2293, 4182}},
        {990, {459, 662, 838, 1307, 2010, 3304, 6898, 12571}},
        {999, {4603, 6636, 8403, 13105, 20140, 33097, 69058, 125826}},
    };
    for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++)
        for (int i = 0; i < 8; i++)
            assert_int_equal(fast_loadgen_needed(over[i], rows[r].milli), rows[r].queries[i]);
    assert_false(fast_loadgen_proves(458, 0, 990));
    assert_true(fast_loadgen_proves(459, 0, 990));
    assert_false(fast_loadgen_proves(661, 1, 990));
    assert_false(fast_loadgen_proves(0, 0, 990));
}

/* The least bound that a run proves: it is above the percentile itself, the more so the fewer there are. */
static void estimate(void **state)
{
    (void)state;
    struct fast_hist h;
    fast_hist_init(&h);
    for (int i = 1; i <= 458; i++)
        fast_hist_add(&h, i);
    assert_int_equal(fast_loadgen_estimate(&h, 990), 0);
    fast_hist_add(&h, 459);
    assert_int_equal(fast_loadgen_estimate(&h, 990), 459);
    fast_hist_init(&h);
    for (int i = 1; i <= 1246; i++)
        fast_hist_add(&h, i % 16); /* small values are exact */
    fast_hist_add(&h, 1000);
    assert_true(fast_loadgen_estimate(&h, 900) < 1000);
    assert_true(fast_loadgen_estimate(&h, 900) >= fast_hist_quantile(&h, 900));
}

static void names(void **state)
{
    (void)state;
    enum fast_scenario s;
    struct fast_err err;
    for (int i = 0; i < FAST_SCENARIO_COUNT; i++) {
        assert_int_equal(fast_scenario_parse(fast_scenario_name((enum fast_scenario)i), &s, &err), 0);
        assert_int_equal(s, i);
    }
    assert_int_equal(fast_scenario_parse("Server", &s, &err), -FAST_EINVAL);
}

/* MLPerf's latency percentiles: 90 of a single stream, 99 of the others. */
static void percentiles(void **state)
{
    (void)state;
    assert_int_equal(fast_scenario_percentile(FAST_SCENARIO_SINGLE), 900);
    assert_int_equal(fast_scenario_percentile(FAST_SCENARIO_MULTI), 990);
    assert_int_equal(fast_scenario_percentile(FAST_SCENARIO_SERVER), 990);
    assert_int_equal(fast_scenario_percentile(FAST_SCENARIO_OFFLINE), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles),cmocka_unit_test(needed), cmocka_unit_test(estimate),
                                       cmocka_unit_test(names)};
    return cmocka_run_group_tests_name("loadgen", tests, NULL, NULL);
}
