/* Throughput from the moments of answers: of replicas whose quota opens in windows, in virtual time. */

#include "test.h"

#include <stdlib.h>

#include "core/steady.h"

#define MAX 4096
#define WINDOW FAST_MS(100)

static fast_ns at[MAX];

/* Answers of a replica that needs |gpu| for each and may use |open| of each window, until |end|; the first one
 * takes |idle| longer. */
static size_t play(fast_ns gpu, fast_ns open, fast_ns idle, fast_ns end)
{
    size_t n = 0;
    for (fast_ns work = gpu + idle; n < MAX; work += gpu) {
        fast_ns whole = (work - 1) / open;
        fast_ns now = whole * WINDOW + work - whole * open;
        if (now > end)
            break;
        at[n++] = now;
    }
    return n;
}

static void within(int64_t got, int64_t want, int64_t milli)
{
    if (llabs(got - want) * 1000 > want * milli)
        fail_msg("%lld is more than %lld thousandths from %lld", (long long)got, (long long)milli, (long long)want);
}

/* 600 ms is what a trial of a second saturates. */
static void short_trials_read_what_long_ones_do(void **state)
{
    static const fast_ns gpu[] = {FAST_US(900), FAST_MS(3), FAST_US(7300), FAST_US(14100)};
    static const int64_t milli[] = {10, 20, 30, 50}; /* at a fifth of the time the last one has eight answers */
    (void)state;
    for (size_t i = 0; i < 4; i++)
        for (int quota = 200; quota <= 1000; quota += 200)
            for (fast_ns idle = 0; idle <= FAST_MS(2); idle += FAST_MS(2)) {
                fast_ns open = WINDOW / 1000 * quota;
                int64_t want = quota * FAST_S(1) / gpu[i];
                size_t n = play(gpu[i], open, idle, FAST_MS(600));
                within(fast_steady_rate_milli(at, n, WINDOW), want, milli[i]);
            }
}

/* Each takes three windows; the quota and what a request needs do not divide each other. */
static void few_answers(void **state)
{
    (void)state;
    size_t n = play(FAST_MS(58), FAST_MS(20), 0, FAST_S(6));
    assert_int_equal(n, 20);
    within(fast_steady_rate_milli(at, n, WINDOW), 200 * FAST_S(1) / FAST_MS(58), 10);
    /* Two in a trial: nothing is left of it without the first. */
    n = play(FAST_MS(58), FAST_MS(20), 0, FAST_MS(600));
    assert_int_equal(n, 2);
    within(fast_steady_rate_milli(at, n, WINDOW), 200 * FAST_S(1) / FAST_MS(58), 40);
    assert_int_equal(fast_steady_rate_milli(at, 1, WINDOW), FAST_S(1) * 1000 / at[0]);
    assert_int_equal(fast_steady_rate_milli(at, 0, WINDOW), 0);
}

/* The first window had more than its share, as after a replica was idle: it is left out. */
static void the_first_window_is_left_out(void **state)
{
    (void)state;
    size_t n = 0;
    for (int i = 0; i < 20; i++)
        at[n++] = FAST_MS(2) * (i + 1);
    for (int w = 1; w < 6; w++)
        for (int i = 0; i < 10; i++)
            at[n++] = w * WINDOW + FAST_MS(2) * (i + 1);
    assert_int_equal(fast_steady_rate_milli(at, n, WINDOW), 100000);
}

/* Without windows, or in less than two, all of it counts. */
static void windows_that_do_not_matter(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++)
        at[i] = FAST_MS(10) * (i + 1);
    assert_int_equal(fast_steady_rate_milli(at, 10, 0), 100000);
    assert_int_equal(fast_steady_rate_milli(at, 10, FAST_S(10)), 100000);
    assert_int_equal(fast_steady_rate_milli(at, 10, FAST_MS(10)), 100000);
    /* All answers at once, and very many. */
    for (int i = 0; i < MAX; i++)
        at[i] = FAST_S(1000);
    assert_int_equal(fast_steady_rate_milli(at, MAX, WINDOW), MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_trials_read_what_long_ones_do),
        cmocka_unit_test(few_answers),
        cmocka_unit_test(the_first_window_is_left_out),
        cmocka_unit_test(windows_that_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
