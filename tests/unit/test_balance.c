#include "core/balance.h"

#include "test.h"

static void setup(struct fast_balance *set, struct fast_balance_item *items, int n)
{
    fast_balance_init(set);
    for (int i = 0; i < n; i++) {
        items[i] = (struct fast_balance_item){.ready = true};
        assert_int_equal(fast_balance_add(set, &items[i], NULL), 0);
    }
}

/* Equal replicas take turns; the one that is done first is next only when it has fewer in flight. */
static void turns(void **state)
{
    (void)state;
    struct fast_balance set;
    struct fast_balance_item r[3];
    setup(&set, r, 3);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 3; i++)
            assert_ptr_equal(fast_balance_pick(&set), &r[i]);
    assert_int_equal(fast_balance_in_flight(&set), 6);
    fast_balance_done(&set, &r[2]);
    assert_ptr_equal(fast_balance_pick(&set), &r[2]);
    for (int i = 2; i >= 0; i--)
        fast_balance_done(&set, &r[i]);
    /* One in flight each; used last: 0, 1, 2. */
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(fast_balance_pick(&set), &r[i]);
    fast_balance_fini(&set);
}

static void not_ready_and_limits(void **state)
{
    (void)state;
    struct fast_balance set;
    struct fast_balance_item r[2];
    setup(&set, r, 0);
    assert_null(fast_balance_pick(&set));
    setup(&set, r, 2);
    r[0].ready = false;
    set.limit = 2;
    assert_int_equal(fast_balance_ready(&set), 1);
    assert_ptr_equal(fast_balance_pick(&set), &r[1]);
    assert_ptr_equal(fast_balance_pick(&set), &r[1]);
    assert_null(fast_balance_pick(&set));
    fast_balance_done(&set, &r[1]);
    assert_ptr_equal(fast_balance_pick(&set), &r[1]);
    r[0].ready = true;
    assert_ptr_equal(fast_balance_pick(&set), &r[0]);
    fast_balance_done(&set, &r[0]);
    fast_balance_done(&set, &r[0]); /* once too often does no harm */
    assert_int_equal(r[0].in_flight, 0);
    fast_balance_fini(&set);
}

/* A replica with twice the throughput has twice as many in flight. */
static void weights(void **state)
{
    (void)state;
    struct fast_balance set;
    struct fast_balance_item r[2];
    setup(&set, r, 2);
    r[0].weight = 25000;
    r[1].weight = 50000;
    for (int i = 0; i < 30; i++)
        assert_non_null(fast_balance_pick(&set));
    assert_int_equal(r[0].in_flight, 10);
    assert_int_equal(r[1].in_flight, 20);
    fast_balance_fini(&set);
}

/* What counts is what a replica would have with the request: the first one goes to the faster replica, and a
 * second one too when it is more than twice as fast. */
static void first_to_the_fastest(void **state)
{
    (void)state;
    struct fast_balance set;
    struct fast_balance_item r[2];
    setup(&set, r, 2);
    r[0].weight = 10;
    r[1].weight = 25;
    assert_ptr_equal(fast_balance_pick(&set), &r[1]);
    assert_ptr_equal(fast_balance_pick(&set), &r[1]);
    assert_ptr_equal(fast_balance_pick(&set), &r[0]);
    fast_balance_fini(&set);
}

static void removal(void **state)
{
    (void)state;
    struct fast_balance set;
    struct fast_balance_item r[9];
    setup(&set, r, 9);
    fast_balance_remove(&set, &r[0]);
    fast_balance_remove(&set, &r[8]);
    fast_balance_remove(&set, &r[4]);
    for (int i = 0; i < 6; i++) {
        struct fast_balance_item *got = fast_balance_pick(&set);
        assert_non_null(got);
        assert_true(got != &r[0] && got != &r[4] && got != &r[8]);
        assert_int_equal(got->in_flight, 1);
    }
    assert_int_equal(fast_balance_in_flight(&set), 6);
    fast_balance_fini(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns), cmocka_unit_test(not_ready_and_limits),
        cmocka_unit_test(weights), cmocka_unit_test(first_to_the_fastest), cmocka_unit_test(removal),
    };
    return cmocka_run_group_tests_name("balance", tests, NULL, NULL);
}
