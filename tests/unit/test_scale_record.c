#include "core/scale_record.h"

#include <stdio.h>

#include "test.h"

static struct fast_scale_record record(int sm, const char *outcome)
{
    struct fast_scale_record r = {.policy = "queue", .cause = "load", .wall_ns = sm, .nactions = 1};
    r.did[0].action = (struct fast_scale_action){.kind = FAST_SCALE_START, .sm_pct = sm};
    snprintf(r.did[0].outcome, sizeof(r.did[0].outcome), "%s", outcome);
    return r;
}

static void ring(void **state)
{
    (void)state;
    struct fast_scale_records all = {0};
    assert_null(fast_scale_records_get(&all, 0));
    for (int i = 0; i < FAST_RECORDS + 3; i++) {
        const struct fast_scale_record r = record(i + 1, "");
        fast_scale_records_add(&all, &r);
    }
    assert_int_equal(all.total, FAST_RECORDS + 3);
    for (int back = 0; back < FAST_RECORDS; back++)
        assert_int_equal(fast_scale_records_get(&all, (uint64_t)back)->did[0].action.sm_pct,
                         FAST_RECORDS + 3 - back);
    assert_null(fast_scale_records_get(&all, FAST_RECORDS));
    fast_scale_records_fini(&all);
    assert_null(fast_scale_records_get(&all, 0));
}

/* What fails every second is one record, what succeeds is one each. */
static void repeated(void **state)
{
    (void)state;
    struct fast_scale_records all = {0};
    struct fast_scale_record full = record(12, "no room"), done = record(12, "");
    for (int i = 0; i < 5; i++) {
        full.wall_ns = i;
        fast_scale_records_add(&all, &full);
    }
    assert_int_equal(all.total, 1);
    assert_int_equal(fast_scale_records_get(&all, 0)->times, 5);
    assert_int_equal(fast_scale_records_get(&all, 0)->wall_ns, 4);
    for (int i = 0; i < 2; i++)
        fast_scale_records_add(&all, &done);
    assert_int_equal(all.total, 3);
    full.did[0].action.quota_milli = 1; /* another action */
    fast_scale_records_add(&all, &full);
    assert_int_equal(fast_scale_records_get(&all, 0)->times, 1);
    fast_scale_records_fini(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ring), cmocka_unit_test(repeated)};
    return cmocka_run_group_tests_name("scale_record", tests, NULL, NULL);
}
