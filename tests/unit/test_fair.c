#include "core/fair.h"

#include <stdlib.h>

#include "test.h"

/* One caller with many, two with one each: nobody waits for more than one of the others. */
static void lines_take_turns(void **state)
{
    (void)state;
    struct fast_fair q = {0};
    struct fast_fair_item many[4], b, c;
    for (int i = 0; i < 4; i++)
        assert_int_equal(fast_fair_push(&q, &many[i], 1, NULL), 0);
    assert_int_equal(fast_fair_push(&q, &b, 2, NULL), 0);
    assert_int_equal(fast_fair_push(&q, &c, 3, NULL), 0);
    assert_int_equal(q.n, 6);
    const struct fast_fair_item *order[] = {&many[0], &b, &c, &many[1], &many[2], &many[3]};
    for (int i = 0; i < 6; i++)
        assert_ptr_equal(fast_fair_pop(&q), order[i]);
    assert_null(fast_fair_pop(&q));
    assert_int_equal(q.n, 0);
}

static void a_line_that_ended_begins_at_the_back(void **state)
{
    (void)state;
    struct fast_fair q = {0};
    struct fast_fair_item a, b, again;
    fast_fair_push(&q, &a, 1, NULL);
    fast_fair_push(&q, &b, 2, NULL);
    assert_ptr_equal(fast_fair_pop(&q), &a);
    fast_fair_push(&q, &again, 1, NULL);
    assert_ptr_equal(fast_fair_pop(&q), &b);
    assert_ptr_equal(fast_fair_pop(&q), &again);
}

static void removed_from_anywhere(void **state)
{
    (void)state;
    struct fast_fair q = {0};
    struct fast_fair_item i[5], none = {0};
    int len = 0;
    for (int k = 0; k < 5; k++)
        fast_fair_push(&q, &i[k], k < 3 ? 1 : 2, NULL);
    assert_int_equal(fast_fair_waiting(&q, 1), 3);
    assert_int_equal(fast_fair_waiting(&q, 9), 0);
    assert_ptr_equal(fast_fair_newest_of_longest(&q, &len), &i[2]);
    assert_int_equal(len, 3);
    fast_fair_remove(&q, &none); /* in no queue */
    fast_fair_remove(&q, &i[1]); /* from the middle */
    fast_fair_remove(&q, &i[2]); /* the last one */
    fast_fair_remove(&q, &i[0]); /* the line whose turn it is ends */
    assert_int_equal(q.n, 2);
    assert_ptr_equal(fast_fair_pop(&q), &i[3]);
    fast_fair_remove(&q, &i[4]);
    assert_null(fast_fair_newest_of_longest(&q, &len));
    assert_int_equal(q.n, 0);
}

/* Whatever comes and goes: each item comes out once, and in its line in order. */
static void many_at_random(void **state)
{
    (void)state;
    enum { N = 2000, CALLERS = 7 };
    struct fast_fair q = {0};
    struct fast_fair_item *items = calloc(N, sizeof(*items));
    int seen[N] = {0}, last[CALLERS], out = 0;
    unsigned rng = 1;
    for (int c = 0; c < CALLERS; c++)
        last[c] = -1;
    for (int i = 0; i < N || q.n;) {
        rng = rng * 1103515245u + 12345u;
        if (i < N && (rng >> 16) % 3) {
            fast_fair_push(&q, &items[i], (uint64_t)(i % CALLERS), NULL);
            i++;
            continue;
        }
        struct fast_fair_item *item = fast_fair_pop(&q);
        if (!item)
            continue;
        int k = (int)(item - items);
        assert_int_equal(seen[k]++, 0);
        assert_true(last[k % CALLERS] < k);
        last[k % CALLERS] = k;
        out++;
    }
    assert_int_equal(out, N);
    free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_take_turns),
        cmocka_unit_test(a_line_that_ended_begins_at_the_back),
        cmocka_unit_test(removed_from_anywhere),
        cmocka_unit_test(many_at_random),
    };
    return cmocka_run_group_tests_name("fair", tests, NULL, NULL);
}
