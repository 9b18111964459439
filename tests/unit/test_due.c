#include "core/due.h"

#include <stdlib.h>

#include "test.h"

static void nothing_before_its_moment(void **state)
{
    (void)state;
    struct fast_due set = {0};
    struct fast_due_item a = {0}, b = {0};
    assert_int_equal(fast_due_expiry(&set), FAST_NEVER);
    assert_null(fast_due_next(&set, FAST_NEVER));
    assert_int_equal(fast_due_add(&set, &a, FAST_MS(50), NULL), 0);
    assert_int_equal(fast_due_add(&set, &b, FAST_MS(50) - 1, NULL), 0);
    assert_int_equal(fast_due_expiry(&set), FAST_MS(50) - 1); /* to the nanosecond */
    assert_null(fast_due_next(&set, FAST_MS(50) - 2));
    assert_ptr_equal(fast_due_next(&set, FAST_MS(50) - 1), &b);
    assert_null(fast_due_next(&set, FAST_MS(50) - 1));
    assert_int_equal(fast_due_expiry(&set), FAST_MS(50));
    assert_ptr_equal(fast_due_next(&set, FAST_S(9)), &a); /* late is late, not never */
    assert_int_equal(fast_due_expiry(&set), FAST_NEVER);
    fast_due_fini(&set);
}

static void who_has_left_is_not_told(void **state)
{
    (void)state;
    struct fast_due set = {0};
    struct fast_due_item i[3] = {{0}};
    for (int k = 0; k < 3; k++)
        fast_due_add(&set, &i[k], FAST_MS(k + 1), NULL);
    fast_due_remove(&set, &i[0]);
    fast_due_remove(&set, &i[0]); /* it is in no set any more */
    assert_int_equal(fast_due_expiry(&set), FAST_MS(2));
    fast_due_remove(&set, &i[2]);
    assert_ptr_equal(fast_due_next(&set, FAST_S(1)), &i[1]);
    assert_null(fast_due_next(&set, FAST_S(1)));
    fast_due_add(&set, &i[0], FAST_MS(7), NULL); /* and comes again */
    assert_ptr_equal(fast_due_next(&set, FAST_MS(7)), &i[0]);
    fast_due_fini(&set);
}

/* Against a search through all, in virtual time that jumps from one expiry to the next. */
static void as_a_search_would_have_it(void **state)
{
    (void)state;
    enum { N = 300 };
    struct fast_due set = {0};
    struct fast_due_item i[N] = {{0}};
    fast_ns now = 0;
    srand(7);
    for (int step = 0; step < 20000; step++) {
        struct fast_due_item *one = &i[rand() % N], *next = NULL;
        fast_ns first = FAST_NEVER;
        if (!one->place)
            assert_int_equal(fast_due_add(&set, one, now + rand() % 1000, NULL), 0);
        else if (rand() % 2)
            fast_due_remove(&set, one);
        for (int k = 0; k < N; k++)
            if (i[k].place && i[k].at < first)
                first = i[k].at;
        assert_int_equal(fast_due_expiry(&set), first);
        if (rand() % 3 || first == FAST_NEVER)
            continue;
        assert_true(first >= now);
        now = first;
        while ((next = fast_due_next(&set, now)))
            assert_true(next->at == now && !next->place);
    }
    fast_due_fini(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_before_its_moment),
        cmocka_unit_test(who_has_left_is_not_told),
        cmocka_unit_test(as_a_search_would_have_it),
    };
    return cmocka_run_group_tests_name("due", tests, NULL, NULL);
}
