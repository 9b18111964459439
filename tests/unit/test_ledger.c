#include "node/ledger.h"

#include "test.h"

#define MIB(n) ((uint64_t)(n) << 20)

static void whole_pages_count(void **state)
{
    (void)state;
    struct node_ledger_device d = {.total = MIB(100)};
    struct node_ledger l = {.device = &d, .cap = MIB(10)};
    struct node_ledger_process p = {.of = &l};
    assert_true(node_ledger_reserve(&p, 1, FAST_FAMILY_DEVICE));
    assert_int_equal(l.used, MIB(2));
    assert_true(node_ledger_reserve(&p, MIB(2) - 1, FAST_FAMILY_DEVICE));
    assert_int_equal(l.used, MIB(2));
    assert_true(node_ledger_reserve(&p, 1, FAST_FAMILY_DEVICE));
    assert_int_equal(l.used, MIB(4));
    assert_int_equal(node_ledger_free(&l), MIB(6));
    assert_true(node_ledger_release(&p, 1, FAST_FAMILY_DEVICE));
    assert_int_equal(d.used, MIB(2));
}

/* What is known of how memory was allocated never adds up to more than there is. */
static void families(void **state)
{
    (void)state;
    struct node_ledger_device d = {.total = MIB(100)};
    struct node_ledger l = {.device = &d};
    struct node_ledger_process p = {.of = &l};
    assert_true(node_ledger_reserve(&p, MIB(10), FAST_FAMILY_DEVICE));
    assert_true(node_ledger_reserve(&p, MIB(6), FAST_FAMILY_POOL));
    assert_true(node_ledger_reserve(&p, MIB(2), 77)); /* in the sum alone */
    assert_int_equal(p.family[FAST_FAMILY_DEVICE], MIB(10));
    assert_int_equal(p.family[FAST_FAMILY_POOL], MIB(6));
    assert_true(node_ledger_release(&p, MIB(4), FAST_FAMILY_POOL));
    assert_int_equal(p.family[FAST_FAMILY_POOL], MIB(2));
    /* A context ends and gives all of it back as device memory. */
    assert_true(node_ledger_release(&p, MIB(13), FAST_FAMILY_DEVICE));
    assert_int_equal(p.family[FAST_FAMILY_DEVICE], 0);
    assert_int_equal(p.family[FAST_FAMILY_POOL], MIB(1));
    node_ledger_set(&p, 0);
    assert_int_equal(p.family[FAST_FAMILY_POOL], 0);
}

/* Contexts and modules are there already when they are seen: they take from what may be allocated next, if the node
 * counts them. */
static void contexts_count_when_told_to(void **state)
{
    (void)state;
    for (int all = 0; all < 2; all++) {
        struct node_ledger_device d = {.total = MIB(100)};
        struct node_ledger l = {.device = &d, .cap = MIB(10), .all = all};
        struct node_ledger_process p = {.of = &l};
        assert_true(node_ledger_reserve(&p, MIB(4), FAST_FAMILY_DEVICE));
        node_ledger_context(&p, MIB(3));
        assert_int_equal(l.used, all ? MIB(8) : MIB(4)); /* whole pages */
        assert_int_equal(node_ledger_reserve(&p, MIB(4), FAST_FAMILY_DEVICE), !all);
        node_ledger_context(&p, MIB(30));
        assert_int_equal(node_ledger_free(&l), all ? 0 : MIB(2));
        assert_int_equal(d.used, all ? MIB(10) : MIB(8)); /* beyond the cap it takes nothing from others */
        assert_int_equal(node_ledger_reserve(&p, 1, FAST_FAMILY_DEVICE), !all);
        node_ledger_set(&p, 0);
        node_ledger_context(&p, 0);
        assert_int_equal(l.used, 0);
        assert_int_equal(d.used, 0);
    }
}

static void cap_over_all_processes(void **state)
{
    (void)state;
    struct node_ledger_device d = {.total = MIB(100)};
    struct node_ledger l = {.device = &d, .cap = MIB(10)};
    struct node_ledger_process a = {.of = &l}, b = {.of = &l};
    assert_true(node_ledger_reserve(&a, MIB(6), FAST_FAMILY_DEVICE));
    assert_false(node_ledger_reserve(&b, MIB(5), FAST_FAMILY_DEVICE));
    assert_int_equal(l.refused, 1);
    assert_int_equal(b.bytes, 0);
    assert_true(node_ledger_reserve(&b, MIB(4), FAST_FAMILY_DEVICE));
    assert_int_equal(node_ledger_free(&l), 0);
    node_ledger_set(&a, 0); /* it died */
    assert_int_equal(node_ledger_free(&l), MIB(6));
    assert_int_equal(d.used, MIB(4));
}

static void device_over_all_replicas(void **state)
{
    (void)state;
    struct node_ledger_device d = {.total = MIB(16)};
    struct node_ledger l = {.device = &d, .cap = MIB(12)}, all = {.device = &d};
    struct node_ledger_process a = {.of = &l}, b = {.of = &all};
    assert_int_equal(node_ledger_free(&all), MIB(16));
    assert_true(node_ledger_reserve(&a, MIB(12), FAST_FAMILY_DEVICE));
    assert_false(node_ledger_reserve(&b, MIB(5), FAST_FAMILY_DEVICE));
    assert_true(node_ledger_reserve(&b, MIB(4), FAST_FAMILY_DEVICE));
}

static void shared_models_take_room_and_may_go(void **state)
{
    (void)state;
    struct node_ledger_device d = {.total = MIB(16), .shared = MIB(6)};
    struct node_ledger l = {.device = &d, .cap = MIB(14)};
    struct node_ledger_process p = {.of = &l};
    assert_int_equal(node_ledger_lacks(&p, MIB(10)), 0);
    assert_int_equal(node_ledger_lacks(&p, MIB(13)), MIB(4));
    assert_int_equal(node_ledger_lacks(&p, MIB(15)), 0); /* the cap refuses it anyway */
    assert_int_equal(node_ledger_lacks(&p, UINT64_MAX), 0);
    assert_false(node_ledger_reserve(&p, MIB(13), FAST_FAMILY_DEVICE));
    assert_int_equal(node_ledger_free(&l), MIB(14)); /* of its cap the model takes nothing */
    d.shared -= MIB(4);
    assert_true(node_ledger_reserve(&p, MIB(13), FAST_FAMILY_DEVICE));
    assert_int_equal(l.used, MIB(14));
    d.shared = MIB(16); /* a store that says more than there is */
    assert_int_equal(node_ledger_lacks(&p, MIB(1)), MIB(0));
    assert_false(node_ledger_reserve(&p, MIB(2), FAST_FAMILY_DEVICE));
}

static void hostile_numbers(void **state)
{
    (void)state;
    struct node_ledger_device d = {.total = MIB(16)};
    struct node_ledger l = {.device = &d, .cap = MIB(8)};
    struct node_ledger other = {.device = &d, .cap = MIB(8)};
    struct node_ledger_process p = {.of = &l}, second = {.of = &l}, p_other = {.of = &other};
    const uint64_t huge[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - MIB(2) + 1, INT64_MAX, MIB(9)};
    assert_true(node_ledger_reserve(&p, MIB(2), FAST_FAMILY_DEVICE));
    for (unsigned i = 0; i < sizeof(huge) / sizeof(huge[0]); i++) {
        assert_false(node_ledger_reserve(&p, huge[i], FAST_FAMILY_DEVICE));
        assert_int_equal(l.used, MIB(2));
    }
    assert_true(node_ledger_reserve(&p, 0, FAST_FAMILY_DEVICE));
    assert_false(node_ledger_release(&p, MIB(2) + 1, FAST_FAMILY_DEVICE)); /* more than it has: all it has */
    assert_int_equal(l.used, 0);
    assert_int_equal(d.used, 0);
    assert_false(node_ledger_release(&p, UINT64_MAX, FAST_FAMILY_DEVICE));
    node_ledger_set(&p, UINT64_MAX);
    assert_int_equal(l.used, MIB(16));
    assert_int_equal(node_ledger_free(&l), 0); /* beyond its cap, since it is there already */
    assert_false(node_ledger_reserve(&p, 1 << 21, FAST_FAMILY_DEVICE));
    node_ledger_set(&second, UINT64_MAX);
    assert_int_equal(d.used, MIB(8)); /* it is the only one that has less for that */
    assert_true(node_ledger_reserve(&p_other, MIB(8), FAST_FAMILY_DEVICE));
    assert_int_equal(d.used, MIB(16));
    l.cap = MIB(2);
    node_ledger_set(&second, 0);
    assert_int_equal(d.used, MIB(10));
    node_ledger_set(&p, MIB(1));
    assert_int_equal(d.used, MIB(10));
    assert_true(node_ledger_release(&p_other, MIB(8), FAST_FAMILY_DEVICE));
    assert_int_equal(d.used, MIB(2));
    node_ledger_set(&p, 0);
    assert_int_equal(d.used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_pages_count), cmocka_unit_test(families),
        cmocka_unit_test(contexts_count_when_told_to),
        cmocka_unit_test(cap_over_all_processes),
        cmocka_unit_test(device_over_all_replicas),
        cmocka_unit_test(shared_models_take_room_and_may_go),
        cmocka_unit_test(hostile_numbers),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
