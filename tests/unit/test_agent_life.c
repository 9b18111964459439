#include "node/agent_life.h"

#include <stdlib.h>

#include "test.h"

#define TIMEOUT FAST_S(30)

/* A replica that was begun and spawned at |now|. */
static void begin(struct node_life *l, fast_ns now)
{
    assert_int_equal(node_life_begin(l, TIMEOUT, now), NODE_LIFE_SPAWN | NODE_LIFE_TELL);
    assert_true(node_life_spawned(l, now) & NODE_LIFE_SAVE);
    assert_int_equal(l->state, FAST_REPLICA_STARTING);
}

static void make_ready(struct node_life *l, fast_ns now)
{
    int todo = node_life_probed(l, true, now);
    assert_true(todo & NODE_LIFE_TELL);
    assert_int_equal(l->state, FAST_REPLICA_READY);
}

static void start_to_ready(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    assert_true(node_life_next(&l) == FAST_MS(20));
    assert_int_equal(node_life_tick(&l, FAST_MS(19)), 0);
    assert_int_equal(node_life_tick(&l, FAST_MS(20)), NODE_LIFE_PROBE);
    /* No second probe while the first is not answered. */
    assert_true(node_life_next(&l) == TIMEOUT);
    assert_int_equal(node_life_probed(&l, false, FAST_MS(21)), 0);
    assert_true(node_life_next(&l) == FAST_MS(46)); /* 25 ms later: the pause grows */
    assert_int_equal(node_life_tick(&l, FAST_MS(46)), NODE_LIFE_PROBE);
    make_ready(&l, FAST_MS(47));
    assert_true(l.ready_at == FAST_MS(47));
    assert_true(node_life_next(&l) == FAST_MS(47) + FAST_S(2)); /* the start timeout is off */
}

/* The pause between probes grows, but not without bound. */
static void poll_is_bounded(void **state)
{
    (void)state;
    struct node_life l;
    fast_ns now = 0, last = 0;
    begin(&l, now);
    for (int i = 0; i < 40; i++) {
        now = node_life_next(&l);
        if (now >= TIMEOUT)
            break;
        assert_true(now - last <= FAST_MS(250));
        assert_int_equal(node_life_tick(&l, now), NODE_LIFE_PROBE);
        node_life_probed(&l, false, now);
        last = now;
    }
    assert_true(last > FAST_S(5));
    assert_int_equal(l.state, FAST_REPLICA_STARTING);
}

static void too_slow(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    assert_true(node_life_tick(&l, TIMEOUT) & NODE_LIFE_KILL);
    assert_true(l.timed_out);
    assert_int_equal(node_life_probed(&l, true, TIMEOUT + 1), 0); /* too late */
    assert_int_equal(l.state, FAST_REPLICA_STARTING);
    assert_int_equal(node_life_died(&l, TIMEOUT + 2), NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_BACKOFF);
    assert_true(node_life_next(&l) == TIMEOUT + 2 + FAST_MS(100));
}

/* Three probes without an answer, no fewer; one answer makes it ready again. */
static void unhealthy_and_back(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    make_ready(&l, 0);
    assert_int_equal(node_life_probed(&l, false, FAST_S(2)), 0);
    assert_int_equal(node_life_probed(&l, false, FAST_S(4)), 0);
    assert_int_equal(node_life_probed(&l, true, FAST_S(6)), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(node_life_probed(&l, false, FAST_S(8 + i)), 0);
    assert_int_equal(l.state, FAST_REPLICA_READY);
    assert_int_equal(node_life_probed(&l, false, FAST_S(10)), NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_UNHEALTHY);
    assert_int_equal(node_life_probed(&l, false, FAST_S(12)), 0);
    assert_int_equal(node_life_probed(&l, true, FAST_S(14)), NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_READY);
}

/* Without an answer and without work it is killed after two minutes; while it works it is not. */
static void hangs(void **state)
{
    (void)state;
    struct node_life l;
    fast_ns now = 0, worked = 0;
    int todo = 0;
    begin(&l, 0);
    make_ready(&l, 0);
    for (; now <= FAST_S(300); now += FAST_S(2)) {
        node_life_worked(&l, worked = now);
        assert_false(node_life_probed(&l, false, now) & NODE_LIFE_KILL);
    }
    assert_int_equal(l.state, FAST_REPLICA_UNHEALTHY);
    while (!(todo = node_life_probed(&l, false, now)))
        now += FAST_S(2);
    assert_int_equal(todo, NODE_LIFE_KILL);
    assert_true(now - worked == NODE_LIFE_HUNG);
    assert_int_equal(node_life_died(&l, now), NODE_LIFE_SPAWN | NODE_LIFE_TELL);
}

static void first_crash_restarts_at_once(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    make_ready(&l, FAST_S(1));
    int todo = node_life_died(&l, FAST_S(2));
    assert_int_equal(todo, NODE_LIFE_SPAWN | NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_STARTING);
    assert_int_equal(l.restarts, 1);
}

/* Dies as soon as it is ready, again and again: 0, 100, 200, ... ms, never more than 10 s. */
static void delays_double(void **state)
{
    (void)state;
    struct node_life l;
    fast_ns now = 0;
    begin(&l, now);
    make_ready(&l, now);
    assert_true(node_life_died(&l, now) & NODE_LIFE_SPAWN);
    for (int i = 0; i < 40; i++) {
        node_life_spawned(&l, now);
        make_ready(&l, now);
        assert_int_equal(node_life_died(&l, now), NODE_LIFE_TELL);
        assert_int_equal(l.state, FAST_REPLICA_BACKOFF);
        fast_ns want = i < 7 ? FAST_MS(100) << i : FAST_S(10);
        assert_true(node_life_next(&l) == now + want);
        now = node_life_next(&l);
        assert_int_equal(node_life_tick(&l, now - 1), 0);
        assert_int_equal(node_life_tick(&l, now), NODE_LIFE_SPAWN | NODE_LIFE_TELL);
    }
    assert_int_equal(l.restarts, 41);
}

/* A program that never becomes ready waits before its second start already. */
static void never_ready(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    node_life_died(&l, 0);
    assert_true(node_life_next(&l) == FAST_MS(100));
    node_life_tick(&l, FAST_MS(100));
    node_life_spawned(&l, FAST_MS(100));
    node_life_died(&l, FAST_MS(100));
    assert_true(node_life_next(&l) == FAST_MS(300));
    node_life_tick(&l, FAST_MS(300));
    assert_int_equal(node_life_spawn_failed(&l, FAST_MS(300)), NODE_LIFE_TELL);
    assert_true(node_life_next(&l) == FAST_MS(700));
}

static void health_forgives(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    for (int i = 0; i < 5; i++) {
        node_life_died(&l, 0);
        node_life_tick(&l, node_life_next(&l));
        node_life_spawned(&l, 0);
    }
    make_ready(&l, FAST_S(1));
    assert_true(node_life_died(&l, FAST_S(11) - 1) == NODE_LIFE_TELL); /* one ns too early */
    node_life_tick(&l, node_life_next(&l));
    node_life_spawned(&l, FAST_S(20));
    make_ready(&l, FAST_S(21));
    assert_true(node_life_died(&l, FAST_S(31)) & NODE_LIFE_SPAWN);
}

/* Time in which it was ill does not count as health. */
static void illness_does_not_forgive(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    node_life_died(&l, 0);
    node_life_tick(&l, node_life_next(&l));
    node_life_spawned(&l, 0);
    make_ready(&l, 0);
    for (int i = 0; i < 3; i++)
        node_life_probed(&l, false, FAST_S(4 + i));
    assert_int_equal(l.state, FAST_REPLICA_UNHEALTHY);
    node_life_probed(&l, true, FAST_S(9));
    assert_int_equal(node_life_died(&l, FAST_S(12)), NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_BACKOFF);
}

static void stop_running(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    make_ready(&l, 0);
    assert_int_equal(node_life_stop(&l, FAST_S(5), FAST_S(1)), NODE_LIFE_TERM | NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_STOPPING);
    assert_true(node_life_next(&l) == FAST_S(6));
    assert_int_equal(node_life_probed(&l, false, FAST_S(2)), 0);
    assert_int_equal(node_life_stop(&l, FAST_S(60), FAST_S(2)), 0); /* never later */
    assert_true(node_life_next(&l) == FAST_S(6));
    assert_int_equal(node_life_stop(&l, FAST_S(1), FAST_S(2)), 0); /* but sooner */
    assert_true(node_life_next(&l) == FAST_S(3));
    assert_int_equal(node_life_tick(&l, FAST_S(3)), NODE_LIFE_KILL);
    assert_int_equal(node_life_died(&l, FAST_S(3)), NODE_LIFE_FORGET | NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_STOPPED);
    assert_true(node_life_next(&l) == FAST_NEVER);
    assert_int_equal(node_life_stop(&l, 0, FAST_S(4)), 0);
}

/* Without a process there is nobody to wait for. */
static void stop_in_backoff(void **state)
{
    (void)state;
    struct node_life l;
    begin(&l, 0);
    node_life_died(&l, 0);
    assert_int_equal(node_life_stop(&l, FAST_S(5), 0), NODE_LIFE_FORGET | NODE_LIFE_TELL);
    assert_int_equal(l.state, FAST_REPLICA_STOPPED);
}

static void adopted(void **state)
{
    (void)state;
    struct node_life l;
    node_life_adopt(&l, TIMEOUT, true, FAST_S(100));
    assert_int_equal(l.state, FAST_REPLICA_READY);
    assert_int_equal(node_life_tick(&l, FAST_S(100)), NODE_LIFE_PROBE);
    assert_true(node_life_died(&l, FAST_S(101)) & NODE_LIFE_SPAWN);
    node_life_adopt(&l, TIMEOUT, false, FAST_S(200));
    assert_int_equal(l.state, FAST_REPLICA_STARTING);
    assert_true(l.deadline == FAST_S(230));
}

/* Random events: only moves of the table are made, a process is never started twice or left behind,
 * and whatever is not at its end has a next moment or a probe on its way. */
static void random_walk(void **state)
{
    (void)state;
    unsigned seed = 7;
    for (int run = 0; run < 300; run++) {
        struct node_life l;
        fast_ns now = 0;
        int asked = 0, todo = node_life_begin(&l, FAST_S(3), now);
        for (int i = 0; i < 400 && l.state != FAST_REPLICA_STOPPED; i++) {
            enum fast_replica_state before = l.state;
            now += rand_r(&seed) % 700 * FAST_MS(1);
            int what = rand_r(&seed) % 100;
            if (todo & NODE_LIFE_SPAWN) {
                assert_false(l.running);
                assert_int_equal(l.state, FAST_REPLICA_STARTING);
                todo = what < 90 ? node_life_spawned(&l, now) : node_life_spawn_failed(&l, now);
                asked = 0;
            } else if (what < 10 && l.running) {
                todo = node_life_died(&l, now);
                assert_false(l.running);
            } else if (what < 50 && asked) {
                asked = 0;
                todo = node_life_probed(&l, what % 2, now);
            } else if (what == 99) {
                todo = node_life_stop(&l, FAST_S(1), now);
            } else {
                todo = node_life_tick(&l, now);
            }
            asked |= todo & NODE_LIFE_PROBE;
            if (todo & NODE_LIFE_PROBE)
                assert_true(l.running);
            if (l.state != before)
                assert_true(node_life_may_move(before, l.state) && (todo & NODE_LIFE_TELL));
            assert_true(((todo & NODE_LIFE_FORGET) != 0) ==
                        (l.state == FAST_REPLICA_STOPPED && before != FAST_REPLICA_STOPPED));
            if (l.state == FAST_REPLICA_STOPPED)
                assert_false(l.running);
            else if (!l.running)
                assert_true((todo & NODE_LIFE_SPAWN) || node_life_next(&l) != FAST_NEVER);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_to_ready), cmocka_unit_test(poll_is_bounded),
        cmocka_unit_test(too_slow), cmocka_unit_test(unhealthy_and_back), cmocka_unit_test(hangs),
        cmocka_unit_test(first_crash_restarts_at_once), cmocka_unit_test(delays_double),
        cmocka_unit_test(never_ready), cmocka_unit_test(health_forgives),
        cmocka_unit_test(illness_does_not_forgive), cmocka_unit_test(stop_running),
        cmocka_unit_test(stop_in_backoff), cmocka_unit_test(adopted),
        cmocka_unit_test(random_walk),
    };
    return cmocka_run_group_tests_name("agent_life", tests, NULL, NULL);
}
