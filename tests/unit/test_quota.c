#include "core/quota.h"

#include "test.h"

static struct fast_quota quota(int request, int limit)
{
    struct fast_quota q = {0};
    fast_quota_set(&q, &(struct fast_slice){100, request, limit, 0}, FAST_MS(100));
    return q;
}

static void shares_of_the_window(void **state)
{
    (void)state;
    struct fast_quota q = quota(300, 800);
    assert_int_equal(q.request_ns, FAST_MS(30));
    assert_int_equal(q.limit_ns, FAST_MS(80));
    fast_quota_charge(&q, FAST_MS(35), FAST_MS(35), true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(45));
    assert_int_equal(fast_quota_missing(&q), -FAST_MS(5));
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(80));
}

/* What overdraws the limit is owed in the next window, and only there. */
static void overrun_is_debt(void **state)
{
    (void)state;
    struct fast_quota q = quota(300, 500);
    fast_quota_charge(&q, FAST_MS(57), FAST_MS(57), true);
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(43));
    assert_int_equal(fast_quota_missing(&q), FAST_MS(23));
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(50));
}

/* What a kernel has overdrawn is paid back in full, however many windows that takes, */
static void debt_takes_its_time(void **state)
{
    (void)state;
    struct fast_quota q = quota(100, 200);
    fast_quota_charge(&q, FAST_MS(75), FAST_MS(75), true);
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), -FAST_MS(35));
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), -FAST_MS(15));
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(5));
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(20));
    /* asked for or not */
    fast_quota_charge(&q, FAST_MS(75), FAST_MS(75), true);
    fast_quota_roll(&q, 3, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(5));
    fast_quota_roll(&q, INT64_MAX, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(20));
}

/* but nobody is kept away for more than ten seconds. */
static void debt_is_bounded(void **state)
{
    (void)state;
    struct fast_quota q = quota(100, 200);
    fast_quota_charge(&q, FAST_S(3600), FAST_S(3600), true);
    fast_quota_roll(&q, 1, true);
    assert_int_equal(q.debt_ns, FAST_S(2));
    fast_quota_roll(&q, 99, true);
    assert_int_equal(fast_quota_left(&q), 0);
    fast_quota_roll(&q, 1, true);
    assert_int_equal(fast_quota_left(&q), FAST_MS(20));
}

/* A limit below the shortest token is overdrawn by every token, and holds over a rest too. */
static void slivers_are_paid_for(void **state)
{
    (void)state;
    struct fast_quota q = {0};
    fast_quota_set(&q, &(struct fast_slice){100, 0, 1, 0}, FAST_MS(10));
    fast_quota_charge(&q, FAST_US(100), FAST_US(100), true);
    fast_quota_roll(&q, 2, true);
    assert_int_equal(q.used_ns, FAST_US(80));
    fast_quota_roll(&q, 8, true);
    assert_int_equal(q.used_ns, 0);
}

/* A token over the edge of a window is charged to both; the part before the edge counts against the
 * limit that held there. */
static void over_the_edge(void **state)
{
    (void)state;
    struct fast_quota q = quota(300, 500);
    fast_quota_charge(&q, FAST_MS(48), FAST_MS(48), true);
    fast_quota_roll(&q, 1, true);
    fast_quota_charge(&q, FAST_MS(9), FAST_MS(4), true);
    assert_int_equal(q.before_ns, FAST_MS(53));
    assert_int_equal(q.debt_ns, FAST_MS(3));
    assert_int_equal(q.used_ns, FAST_MS(7));
    /* Only what is new is added when a second part comes. */
    fast_quota_charge(&q, FAST_MS(3), FAST_MS(1), true);
    assert_int_equal(q.debt_ns, FAST_MS(5));
    assert_int_equal(q.used_ns, FAST_MS(10));
}

/* A kernel over many windows is charged for what it had of each. */
static void long_kernel(void **state)
{
    (void)state;
    struct fast_quota q = quota(100, 200);
    for (int i = 0; i < 3; i++)
        fast_quota_roll(&q, 1, true);
    fast_quota_charge(&q, FAST_MS(270), FAST_MS(40), true); /* 30, 100, 100 and 40 */
    assert_int_equal(q.debt_ns, FAST_MS(10 + 80 + 80));
    assert_int_equal(q.used_ns, FAST_MS(10 + 80 + 80 + 40));
}

/* Who had the GPU alone for many windows under one token owes nothing when it gives it back. */
static void over_many_edges(void **state)
{
    (void)state;
    struct fast_quota q = quota(850, 1000);
    for (int i = 0; i < 5; i++)
        fast_quota_roll(&q, 1, true);
    fast_quota_charge(&q, FAST_MS(480), FAST_MS(10), true);
    assert_int_equal(q.used_ns, FAST_MS(10));
    assert_int_equal(fast_quota_missing(&q), FAST_MS(75));
    fast_quota_roll(&q, 1, true);
    assert_int_equal(q.used_ns, 0);
}

static void without_carry(void **state)
{
    (void)state;
    struct fast_quota q = quota(300, 500);
    fast_quota_charge(&q, FAST_MS(90), FAST_MS(80), false);
    assert_int_equal(q.used_ns, FAST_MS(80));
    fast_quota_roll(&q, 1, false);
    assert_int_equal(fast_quota_left(&q), FAST_MS(50));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_of_the_window), cmocka_unit_test(overrun_is_debt),
        cmocka_unit_test(debt_takes_its_time),  cmocka_unit_test(debt_is_bounded),
        cmocka_unit_test(slivers_are_paid_for), cmocka_unit_test(over_the_edge),
        cmocka_unit_test(long_kernel),          cmocka_unit_test(over_many_edges),
        cmocka_unit_test(without_carry),
    };
    return cmocka_run_group_tests_name("quota", tests, NULL, NULL);
}
