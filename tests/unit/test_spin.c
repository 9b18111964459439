#include "io/spin.h"

#include "test.h"

#define MOST FAST_US(50)

static void many(struct fast_spin *s, int n, fast_ns waited, bool slept)
{
    for (int i = 0; i < n; i++)
        fast_spin_learn(s, waited, slept);
}

static void begins_asleep_and_learns(void **state)
{
    (void)state;
    struct fast_spin s = {.most = MOST};
    assert_int_equal(fast_spin_until(&s, 1000), 0);
    many(&s, 7, FAST_US(100), true); /* 50 us of it may be the waking */
    assert_int_equal(fast_spin_until(&s, 1000), 0);
    many(&s, 1, FAST_US(100), true);
    assert_int_equal(fast_spin_until(&s, 1000), 1000 + MOST);
}

static void gives_up_when_it_loses(void **state)
{
    (void)state;
    struct fast_spin s = {.most = MOST};
    many(&s, 1000, 0, false);
    assert_true(fast_spin_until(&s, 1) > 0);
    many(&s, 2, FAST_US(101), true);
    assert_true(fast_spin_until(&s, 1) > 0);
    many(&s, 1, FAST_US(101), true);
    assert_int_equal(fast_spin_until(&s, 1), 0);
    many(&s, 3, FAST_US(101), true); /* however long that lasts, it comes back as soon */
    many(&s, 8, FAST_US(100), true);
    assert_true(fast_spin_until(&s, 1) > 0);
}

/* A function of 5 ms and a client that asks again at once: half of the waits are short. */
static void half_is_not_enough(void **state)
{
    (void)state;
    struct fast_spin s = {.most = MOST};
    for (int i = 0; i < 1000; i++) {
        fast_spin_learn(&s, i % 2 ? FAST_MS(5) : FAST_US(20), true);
        assert_int_equal(fast_spin_until(&s, i), 0);
    }
}

/* Whatever comes, what it loses by spinning in vain is at most a quarter of |most| per wait that was short. */
static void losses_are_bounded(void **state)
{
    (void)state;
    uint64_t rng = 88172645463325252u;
    for (int part = 0; part <= 100; part++) {
        struct fast_spin s = {.most = MOST};
        int lost = 0, shorts = 0, spun = 0;
        for (int i = 0; i < 10000; i++) {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            bool is_short = (int)(rng % 100) < part, spins = fast_spin_until(&s, 1) > 0;
            spun += spins;
            lost += spins && !is_short;
            shorts += is_short;
            fast_spin_learn(&s, is_short ? FAST_US(10) : FAST_MS(1), !spins || !is_short);
        }
        assert_true(4 * lost <= shorts);
        assert_true(part < 95 || spun > 9000);
        assert_true(part > 50 || spun < 100);
    }
}

static void rests_when_others_want_the_core(void **state)
{
    (void)state;
    struct fast_spin s = {.most = MOST};
    many(&s, 16, 0, false);
    fast_spin_over(&s, FAST_US(50), FAST_US(100)); /* late, but not by more than |most| */
    assert_true(fast_spin_until(&s, FAST_US(100)) > 0);
    fast_spin_over(&s, FAST_US(50), FAST_US(3050));
    assert_int_equal(fast_spin_until(&s, FAST_US(3050) + FAST_MS(150) - 1), 0);
    assert_true(fast_spin_until(&s, FAST_US(3050) + FAST_MS(150)) > 0);
}

static void never_unless_asked(void **state)
{
    (void)state;
    struct fast_spin s = {0};
    many(&s, 100, 0, false);
    assert_int_equal(fast_spin_until(&s, 5), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_asleep_and_learns), cmocka_unit_test(gives_up_when_it_loses),
        cmocka_unit_test(half_is_not_enough), cmocka_unit_test(losses_are_bounded),
        cmocka_unit_test(rests_when_others_want_the_core), cmocka_unit_test(never_unless_asked),
    };
    return cmocka_run_group_tests_name("spin", tests, NULL, NULL);
}
