#include "core/forecast.h"

#include <stdlib.h>

#include "core/scale_load.h"

#include "test.h"

static uint64_t random_next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static void second(struct fast_forecast *f, uint32_t requests)
{
    fast_forecast_add(f, requests);
    fast_forecast_second(f);
}

static void trend(void **state)
{
    (void)state;
    struct fast_forecast f = {0};
    for (uint32_t i = 0; i < 20; i++)
        second(&f, 10 * i);
    assert_int_equal(fast_forecast_mean(&f, 3), 180000);
    /* The line goes on, 195 at the end of the last second; and a deviation of 3.8. */
    assert_in_range(fast_forecast_expect(&f, FAST_S(2)), 215000, 225000);
    assert_int_equal(fast_forecast_burst(&f), 0); /* a ramp is no burst */
}

/* Sums kept as seconds come and go are those of the seconds that are remembered. */
static void against_plain_sums(void **state)
{
    (void)state;
    struct fast_forecast f = {0};
    uint32_t *all = calloc(3000, sizeof(*all));
    uint64_t seed = 7;
    for (int n = 0; n < 3000; n++) {
        all[n] = random_next(&seed) % 50 ? 0 : (uint32_t)(random_next(&seed) % 100);
        second(&f, all[n]);
        uint64_t sum = 0, squares = 0;
        uint32_t most = 0;
        int from = n + 1 > FAST_FORECAST_MEMORY ? n + 1 - FAST_FORECAST_MEMORY : 0;
        for (int i = from; i <= n; i++) {
            most = all[i] > most ? all[i] : most;
            if (i == from)
                continue;
            int64_t d = (int64_t)all[i] - all[i - 1];
            sum += all[i];
            squares += (uint64_t)(d * d);
        }
        assert_int_equal(f.sum, sum);
        assert_int_equal(f.squares, squares);
        assert_int_equal(f.most, most);
    }
    assert_true(fast_forecast_burst(&f) > 0);
    free(all);
}

/* The greatest mean of three seconds is remembered for as long as was asked. */
static void most(void **state)
{
    (void)state;
    static const uint32_t came[] = {9, 0, 3, 6, 6, 0, 0, 1};
    struct fast_forecast f = {0};
    for (size_t i = 0; i < sizeof(came) / sizeof(came[0]); i++)
        second(&f, came[i]);
    assert_int_equal(fast_forecast_most(&f, 3, 6), 5000);
    assert_int_equal(fast_forecast_most(&f, 3, 5), 4000);
    assert_int_equal(fast_forecast_most(&f, 1, 8), 9000);
}

/* No load and no replica is no panic, and what wakes a function decides by itself. */
static void panic_begins_at_one(void **state)
{
    (void)state;
    struct fast_scale_load load = {0};
    struct fast_scale_conf conf = {.max = 10, .zero_after = FAST_S(60)};
    struct fast_scale_input in = {.now = FAST_S(100)};
    fast_scaler_conf(FAST_SCALER_WHOLE, &conf);
    for (int i = 0; i < 60; i++)
        fast_scale_load_second(&load, 0, 0);
    fast_scale_load_tell(&load, &conf, true, FAST_S(2), &in);
    assert_int_equal(load.panic_until, 0);
    assert_int_equal(in.load_milli, 0);
    /* One that is there at all times is 1 / 0.7, rounded up: twice the one replica that none counts as. */
    for (int i = 0; i < 6; i++)
        fast_scale_load_second(&load, 1, 1);
    fast_scale_load_tell(&load, &conf, true, FAST_S(2), &in);
    assert_int_equal(load.panic_until, in.now + FAST_S(60));
    /* Nothing goes down for a minute after that. */
    in.nreplicas = 2;
    for (int i = 0; i < 60; i++)
        fast_scale_load_second(&load, 0, 0);
    in.now = load.panic_until - 1;
    fast_scale_load_tell(&load, &conf, true, FAST_S(2), &in);
    assert_int_equal(in.load_milli, 1400);
    in.now = load.panic_until;
    fast_scale_load_tell(&load, &conf, true, FAST_S(2), &in);
    assert_int_equal(in.load_milli, 0);
}

static void most_in_flight(void **state)
{
    (void)state;
    struct fast_scale_load load = {0};
    assert_int_equal(fast_scale_load_in_flight(&load, 45), 0);
    fast_scale_load_second(&load, 0, 7);
    for (int i = 0; i < 44; i++)
        fast_scale_load_second(&load, 100, 2);
    assert_int_equal(fast_scale_load_in_flight(&load, 45), 7000);
    fast_scale_load_second(&load, 0, 0);
    assert_int_equal(fast_scale_load_in_flight(&load, 45), 2000);
    for (int i = 0; i < 2 * FAST_CONCURRENCY_SECONDS; i++)
        fast_scale_load_second(&load, 0, 1);
    assert_int_equal(fast_scale_load_in_flight(&load, FAST_CONCURRENCY_SECONDS), 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(most), cmocka_unit_test(trend),
                                       cmocka_unit_test(against_plain_sums), cmocka_unit_test(most_in_flight),
                                       cmocka_unit_test(panic_begins_at_one)};
    return cmocka_run_group_tests_name("forecast", tests, NULL, NULL);
}
