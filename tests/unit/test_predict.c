/* The predictor: measured slices come out as measured, more of anything never gives less, and the rule
 * looks at nothing but what it has been given. The function of the tests has a known law. */

#include "test.h"

#include <math.h>
#include <stdlib.h>

#include "core/predict.h"

static const int sms[] = {6, 12, 24, 50, 60, 80, 100};

/* 60 requests/s at most, half of them at 12 %; the quota limits until 80 %. */
static int64_t law(int sm, int quota)
{
    double full = 60.0 * sm / (sm + 12.0), limited = full * quota / 800;
    return llround(1000 * (limited < full ? limited : full));
}

static struct fast_predict_point point(int sm, int quota)
{
    return (struct fast_predict_point){sm, quota, law(sm, quota)};
}

static int grid(struct fast_predict_point ret[35])
{
    for (int i = 0; i < 35; i++)
        ret[i] = (struct fast_predict_point){sms[i / 5], 200 * (i % 5 + 1), 0};
    return 35;
}

static struct fast_predict *fit(const struct fast_predict_point *p, int n)
{
    struct fast_predict *f = NULL;
    struct fast_err err;
    assert_int_equal(fast_predict_new(p, n, &f, &err), 0);
    return f;
}

static void measured_slices_come_out_as_measured(void **state)
{
    (void)state;
    struct fast_predict_point p[] = {point(100, 1000), point(6, 200), point(24, 400), point(50, 1000)};
    struct fast_predict *f = fit(p, 4);
    for (int i = 0; i < 4; i++) {
        struct fast_predict_value v = fast_predict_look(f, p[i].sm_pct, p[i].quota_milli);
        assert_int_equal(v.rps_milli, p[i].rps_milli);
        assert_int_equal(v.low, p[i].rps_milli);
        assert_int_equal(v.high, p[i].rps_milli);
        assert_in_range(v.uncertainty_milli, 0, 20);
    }
    fast_predict_free(f);
}

static void more_never_gives_less_and_neighbours_bound(void **state)
{
    (void)state;
    /* The third contradicts the first: 50 % x 0.2 beats 100 % x 0.2. */
    struct fast_predict_point p[] = {
        {100, 200, 5560}, {100, 1000, 29480}, {50, 200, 7280}, {6, 1000, 7190}, {24, 600, 13720}};
    struct fast_predict *f = fit(p, 5);
    for (int sm = 1; sm <= 100; sm++)
        for (int quota = 10; quota <= 1000; quota += 10) {
            struct fast_predict_value v = fast_predict_look(f, sm, quota);
            assert_true(v.low <= v.rps_milli && v.rps_milli <= v.high);
            assert_true(sm == 1 || fast_predict_look(f, sm - 1, quota).rps_milli <= v.rps_milli);
            assert_true(quota == 10 || fast_predict_look(f, sm, quota - 10).rps_milli <= v.rps_milli);
            assert_true(sm > 6 || v.high <= 7190);
            assert_true(sm < 24 || quota < 600 || v.low >= 13720);
        }
    /* Both count as sqrt(5.56 * 7.28) = 6.362. */
    assert_int_equal(fast_predict_look(f, 80, 200).rps_milli, 6362);
    fast_predict_free(f);
}

static void the_rule_finds_the_law_in_eight_trials(void **state)
{
    (void)state;
    struct fast_predict_point cand[35], p[8] = {point(100, 1000)};
    int n = grid(cand), before = 10000, mean = 0;
    for (int k = 1; k < 8; k++) {
        struct fast_predict *f = fit(p, k);
        int next = fast_predict_next(f, cand, n, &mean);
        assert_in_range(next, 0, n - 1);
        for (int i = 0; i < k; i++)
            assert_true(cand[next].sm_pct != p[i].sm_pct || cand[next].quota_milli != p[i].quota_milli);
        p[k] = point(cand[next].sm_pct, cand[next].quota_milli);
        fast_predict_free(f);
        if (k == 1)
            before = mean;
    }
    assert_true(mean < before / 3);
    struct fast_predict *f = fit(p, 8);
    double error = 0;
    for (int i = 0; i < n; i++)
        error += fabs((double)fast_predict_look(f, cand[i].sm_pct, cand[i].quota_milli).rps_milli /
                      (double)law(cand[i].sm_pct, cand[i].quota_milli) - 1) / n;
    assert_true(error < 0.04);
    fast_predict_free(f);
}

static void no_trial_is_left_when_all_are_measured(void **state)
{
    (void)state;
    struct fast_predict_point p[35];
    int n = grid(p), mean;
    for (int i = 0; i < n; i++)
        p[i] = point(p[i].sm_pct, p[i].quota_milli);
    struct fast_predict *f = fit(p, n);
    assert_int_equal(fast_predict_next(f, p, n, &mean), -1);
    fast_predict_free(f);
}

static void what_is_sure_is_near_what_was_tried(void **state)
{
    (void)state;
    struct fast_predict_point p[] = {point(24, 400), point(24, 600), point(50, 400)};
    struct fast_predict *f = fit(p, 3);
    assert_true(fast_predict_look(f, 28, 450).uncertainty_milli <
                fast_predict_look(f, 100, 1000).uncertainty_milli);
    fast_predict_free(f);
}

/* What trials end by is the mean over the slices that they ask about. */
static void the_mean_is_that_of_the_candidates(void **state)
{
    (void)state;
    struct fast_predict_point p[] = {point(100, 1000), point(12, 400)};
    const struct fast_predict_point cand[] = {{6, 200, 0}, {24, 800, 0}, {50, 400, 0}};
    struct fast_predict *f = fit(p, 2);
    int mean = 0, sum = 0;
    assert_true(fast_predict_next(f, cand, 3, &mean) >= 0);
    for (int i = 0; i < 3; i++)
        sum += fast_predict_look(f, cand[i].sm_pct, cand[i].quota_milli).uncertainty_milli;
    assert_in_range(mean, sum / 3 - 1, sum / 3 + 2);
    fast_predict_free(f);
}

/* Slices that contradict each other, with more of either: what is predicted between them and beyond never falls. */
static void contradictions_stay_monotone(void **state)
{
    (void)state;
    struct fast_predict_point p[] = {{24, 500, 20000}, {24, 520, 15000}, {28, 500, 14000}, {24, 540, 12000}};
    struct fast_predict *f = fit(p, 4);
    for (int sm = 1; sm <= 100; sm++)
        for (int quota = 20; quota <= 1000; quota += 10) {
            int64_t v = fast_predict_look(f, sm, quota).rps_milli;
            assert_true(sm == 1 || v >= fast_predict_look(f, sm - 1, quota).rps_milli);
            assert_true(v >= fast_predict_look(f, sm, quota - 10).rps_milli);
        }
    fast_predict_free(f);
}

static void latency_grows_with_the_load_until_it_is_too_much(void **state)
{
    (void)state;
    struct fast_predict_point p[] = {point(24, 400), point(24, 1000), point(100, 1000), point(6, 200)};
    struct fast_predict *f = fit(p, 4);
    struct fast_predict_load load = {.replicas = 1, .window_ns = FAST_MS(100)};
    fast_ns last = 0;
    for (load.rate_milli = 0; load.rate_milli < 20000; load.rate_milli += 2000) {
        fast_ns now = fast_predict_p95(f, 24, 400, &load);
        assert_true(now >= last && now < FAST_NEVER);
        last = now;
    }
    load.rate_milli = 20001; /* the slice has 20 */
    assert_true(fast_predict_p95(f, 24, 400, &load) == FAST_NEVER);
    load.replicas = 2;
    assert_true(fast_predict_p95(f, 24, 400, &load) < last);
    /* 10 users on the whole GPU without a quota: ten times the time of a request. */
    load = (struct fast_predict_load){.users = 10, .replicas = 1, .window_ns = FAST_MS(100)};
    assert_in_range(fast_predict_p95(f, 100, 1000, &load), FAST_MS(186), FAST_MS(187));
    fast_predict_free(f);
}

/* What can be said with pencil and paper. */
static void latency_has_its_limits(void **state)
{
    (void)state;
    /* 20 requests/s without a quota: M/D/1. At half the load the tail of the wait falls off by exp(-1.256)
     * for each service time, and from 0.661 on: 95 % wait no longer than 2.06 of them. */
    struct fast_predict_point free_gate[] = {{100, 1000, 20000}, {100, 200, 4000}};
    struct fast_predict *f = fit(free_gate, 2);
    struct fast_predict_load load = {.rate_milli = 10000, .replicas = 1, .window_ns = FAST_MS(100)};
    assert_in_range(fast_predict_p95(f, 100, 1000, &load), FAST_MS(140), FAST_MS(166));
    load.rate_milli = 1;
    assert_in_range(fast_predict_p95(f, 100, 1000, &load), FAST_MS(50), FAST_MS(55));
    fast_predict_free(f);
    /* 60 ms on the GPU, of which a window allows 40, and a request alone: if it begins in the first 60 ms
     * of a window, it ends 20 ms after the next one has begun, else it is not held back. */
    struct fast_predict_point gate[] = {{100, 1000, 16667}, {100, 400, 6667}};
    f = fit(gate, 2);
    assert_in_range(fast_predict_p95(f, 100, 400, &load), FAST_MS(110), FAST_MS(124));
    /* A window as long as many requests: the gate closes on few of them. */
    load = (struct fast_predict_load){.rate_milli = 1, .replicas = 1, .window_ns = FAST_S(10)};
    assert_in_range(fast_predict_p95(f, 100, 400, &load), FAST_MS(60), FAST_MS(62));
    fast_predict_free(f);
}

/* A request of many windows costs no more to play than one of a few: this would never end. Alone it takes its
 * GPU time over the quota, less the closed part of the last window. */
static void a_slow_function_is_played_at_once(void **state)
{
    (void)state;
    static const struct fast_predict_point slow[] = {{100, 1, 1}, {100, 1000, 1000}};
    struct fast_predict_load load = {.rate_milli = 1, .replicas = 1000, .window_ns = FAST_MS(10)};
    struct fast_predict *f = NULL;
    struct fast_err err;
    assert_int_equal(fast_predict_new(slow, 2, &f, &err), 0);
    fast_ns p95 = fast_predict_p95(f, 100, 1, &load);
    assert_true(p95 > FAST_S(990) && p95 < FAST_S(1100));
    fast_predict_free(f);
}

static void wrong_points_are_refused(void **state)
{
    (void)state;
    static const struct fast_predict_point bad[] = {
        {0, 200, 1}, {101, 200, 1}, {6, 0, 1}, {6, 1001, 1}, {6, 200, 0}, {6, 200, 1000000001}};
    struct fast_predict_point twice[] = {point(6, 200), point(6, 200)};
    struct fast_predict *f = NULL;
    struct fast_err err;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(fast_predict_new(&bad[i], 1, &f, &err), -FAST_EINVAL);
    assert_int_equal(fast_predict_new(twice, 2, &f, &err), -FAST_EINVAL);
    assert_int_equal(fast_predict_new(twice, 0, &f, &err), -FAST_EINVAL);
    assert_null(f);
    fast_predict_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measured_slices_come_out_as_measured),
        cmocka_unit_test(more_never_gives_less_and_neighbours_bound),
        cmocka_unit_test(the_rule_finds_the_law_in_eight_trials),
        cmocka_unit_test(no_trial_is_left_when_all_are_measured),
        cmocka_unit_test(what_is_sure_is_near_what_was_tried),
        cmocka_unit_test(the_mean_is_that_of_the_candidates),
        cmocka_unit_test(contradictions_stay_monotone),
        cmocka_unit_test(latency_grows_with_the_load_until_it_is_too_much),
        cmocka_unit_test(latency_has_its_limits),
        cmocka_unit_test(a_slow_function_is_played_at_once),
        cmocka_unit_test(wrong_points_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
