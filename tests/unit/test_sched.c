/* Single decisions with exact numbers. Properties over many windows: test_sched_rules.c. */
#include "core/sched.h"

#include "core/sched_plan.h"
#include "test.h"

static struct fast_sched *sched(struct fast_sched_conf conf)
{
    struct fast_sched *s;
    assert_int_equal(fast_sched_new(&conf, 0, &s, NULL), 0);
    return s;
}

static int add(struct fast_sched *s, int sm, int request, int limit)
{
    int id = fast_sched_add(s, &(struct fast_slice){sm, request, limit, 0}, 0, NULL);
    assert_true(id >= 0);
    return id;
}

static struct fast_sched_action next(struct fast_sched *s)
{
    struct fast_sched_action a;
    assert_true(fast_sched_next(s, &a));
    assert_true(fast_sched_valid(s));
    return a;
}

static struct fast_sched_action next_of(struct fast_sched *s, enum fast_sched_action_kind kind, int client)
{
    struct fast_sched_action a = next(s);
    while (a.kind == FAST_SCHED_CONTENDED)
        a = next(s);
    assert_int_equal(a.kind, kind);
    assert_int_equal(a.client, client);
    return a;
}

static void nothing(struct fast_sched *s)
{
    struct fast_sched_action a;
    while (fast_sched_next(s, &a))
        assert_int_equal(a.kind, FAST_SCHED_CONTENDED);
    assert_true(fast_sched_valid(s));
}

/* Alone, a client gets tokens of the set length that follow each other without a pause, up to its
 * limit; then it waits for the next window. */
static void alone_to_the_limit(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){0});
    int a = add(s, 24, 300, 450);
    fast_sched_want(s, a, FAST_MS(2));
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, a);
    assert_false(t.extended);
    assert_false(t.contended);
    assert_int_equal(t.until_ns, FAST_MS(12));
    for (int i = 1; i < 5; i++) {
        nothing(s);
        assert_int_equal(fast_sched_expiry(s), t.until_ns);
        fast_sched_tick(s, t.until_ns);
        struct fast_sched_action e = next_of(s, FAST_SCHED_GRANT, a);
        assert_true(e.extended);
        assert_true(e.token == t.token);
        t = e;
    }
    assert_int_equal(t.until_ns, FAST_MS(47)); /* 45 ms since 2 ms */
    fast_sched_tick(s, t.until_ns);
    next_of(s, FAST_SCHED_REVOKE, a);
    assert_int_equal(fast_sched_sm_held(s), 24);
    assert_int_equal(fast_sched_done(s, a, t.token, FAST_MS(46), true, FAST_MS(48), NULL), 0);
    nothing(s);
    assert_int_equal(fast_sched_sm_held(s), 0);
    assert_int_equal(fast_sched_expiry(s), FAST_MS(100));
    fast_sched_tick(s, FAST_MS(100));
    t = next_of(s, FAST_SCHED_GRANT, a);
    /* 1 ms of overrun was charged, so that 44 ms are left here; the token is 10 ms anyway. */
    assert_int_equal(t.until_ns, FAST_MS(110));
    struct fast_sched_stats st = fast_sched_stats(s, a, FAST_MS(100));
    assert_int_equal(st.used_ns, FAST_MS(1));
    assert_int_equal(st.overrun_ns, FAST_MS(1));
    assert_int_equal(st.held_ns, FAST_MS(46));
    assert_int_equal(st.throttled_ns, FAST_MS(52));
    assert_int_equal(st.wait_ns, FAST_MS(52));
    assert_int_equal(st.tokens, 2);
    fast_sched_free(s);
}

/* Tokens go out while the partitions fit in 100 %, largest missing request first; who does not fit
 * is passed by who does; a revoked token counts until it is given back. */
static void tokens_fit_in_space(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.greedy = true});
    int a = add(s, 50, 400, 1000), b = add(s, 60, 300, 1000), c = add(s, 40, 200, 1000);
    fast_sched_want(s, a, 0);
    struct fast_sched_action ta = next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_want(s, b, 0);
    nothing(s);
    fast_sched_want(s, c, 0);
    struct fast_sched_action tc = next_of(s, FAST_SCHED_GRANT, c);
    assert_true(tc.contended);
    assert_int_equal(fast_sched_sm_held(s), 90);
    fast_sched_tick(s, FAST_MS(10));
    /* a misses 30 ms like b, which waits longer; c misses 10 ms and does fit beside b. */
    struct fast_sched_action e = next_of(s, FAST_SCHED_GRANT, c);
    assert_true(e.extended && e.token == tc.token);
    next_of(s, FAST_SCHED_REVOKE, a);
    nothing(s);
    assert_int_equal(fast_sched_sm_held(s), 90);
    assert_int_equal(fast_sched_done(s, a, ta.token, FAST_MS(11), true, FAST_MS(11), NULL), 0);
    next_of(s, FAST_SCHED_GRANT, b);
    assert_int_equal(fast_sched_sm_held(s), 100);
    fast_sched_free(s);
}

static void timeshare_is_one_token(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.policy = FAST_POLICY_TIMESHARE});
    int a = add(s, 12, 400, 1000), b = add(s, 12, 400, 1000);
    fast_sched_want(s, a, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_want(s, b, 0);
    nothing(s);
    assert_int_equal(fast_sched_done(s, a, t.token, 0, false, FAST_MS(1), NULL), 0);
    next_of(s, FAST_SCHED_GRANT, b);
    fast_sched_free(s);
}

static void racing_gives_all(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.policy = FAST_POLICY_RACING});
    uint64_t token[3];
    for (int i = 0; i < 3; i++) {
        int id = add(s, 100, 500, 500);
        fast_sched_want(s, id, 0);
        struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, id);
        assert_true(t.until_ns == FAST_NEVER);
        token[i] = t.token;
    }
    assert_true(fast_sched_expiry(s) == FAST_NEVER);
    /* Back to fast: all are called back, and one after the other runs. */
    assert_int_equal(fast_sched_conf_set(s, &(struct fast_sched_conf){0}, FAST_MS(5), NULL), 0);
    for (int i = 0; i < 3; i++)
        next_of(s, FAST_SCHED_REVOKE, i);
    for (int i = 0; i < 3; i++)
        assert_int_equal(fast_sched_done(s, i, token[i], 0, true, FAST_MS(6), NULL), 0);
    next_of(s, FAST_SCHED_GRANT, 0);
    nothing(s);
    assert_int_equal(fast_sched_sm_held(s), 100);
    fast_sched_free(s);
}

/* The authors' setting: a client with any quota left gets a whole token, so that 310 thousandths of
 * 10 s become 11 tokens of 300 ms. */
static void whole_tokens_overshoot(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){
        .charge = FAST_CHARGE_HELD, .window_ns = FAST_S(10), .token_ns = FAST_MS(300),
        .greedy = true, .whole_tokens = true});
    int a = add(s, 100, 310, 310);
    fast_ns now = 0;
    fast_sched_want(s, a, now);
    int tokens = 0;
    struct fast_sched_action t;
    while (fast_sched_next(s, &t)) {
        assert_int_equal(t.kind, FAST_SCHED_GRANT);
        assert_int_equal(t.until_ns, now + FAST_MS(300));
        tokens++;
        now = t.until_ns;
        fast_sched_tick(s, now);
        next_of(s, FAST_SCHED_REVOKE, a);
        assert_int_equal(fast_sched_done(s, a, t.token, 0, true, now, NULL), 0);
    }
    assert_int_equal(tokens, 11);
    assert_int_equal(now, FAST_MS(3300));
    fast_sched_tick(s, FAST_S(10));
    next_of(s, FAST_SCHED_GRANT, a);
    assert_int_equal(fast_sched_stats(s, a, FAST_S(10)).used_ns, 0);
    fast_sched_free(s);
}

/* Charged is what was used, but never more than the time that the token was held, nor less than 0. */
static void busy_is_bounded_by_held(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.charge = FAST_CHARGE_BUSY});
    int a = add(s, 50, 500, 500);
    const struct {
        fast_ns busy, used;
    } cases[] = {{FAST_MS(3), FAST_MS(3)}, {FAST_S(1000), FAST_MS(5)}, {-FAST_S(1), 0},
                 {INT64_MAX, FAST_MS(5)}, {INT64_MIN, 0}};
    fast_ns now = 0, used = 0;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fast_sched_want(s, a, now);
        struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, a);
        now += FAST_MS(5);
        assert_int_equal(fast_sched_done(s, a, t.token, cases[i].busy, false, now, NULL), 0);
        used += cases[i].used;
        assert_int_equal(fast_sched_stats(s, a, now).used_ns, used);
    }
    fast_sched_free(s);
}

static void wrong_tokens(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){0});
    struct fast_err err;
    int a = add(s, 50, 500, 500), b = add(s, 50, 500, 500);
    fast_sched_want(s, a, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, a);
    assert_int_equal(fast_sched_done(s, b, t.token, 0, false, 1, &err), -FAST_EINVAL);
    assert_int_equal(fast_sched_done(s, b, 0, 0, false, 1, &err), -FAST_EINVAL);
    assert_int_equal(fast_sched_done(s, 7, t.token, 0, false, 1, &err), -FAST_ENOENT);
    assert_int_equal(fast_sched_done(s, -1, t.token, 0, false, 1, &err), -FAST_ENOENT);
    assert_int_equal(fast_sched_done(s, a, t.token, 0, false, 1, &err), 0);
    assert_int_equal(fast_sched_done(s, a, t.token, 0, false, 1, &err), -FAST_EINVAL);
    nothing(s);
    fast_sched_free(s);
}

/* A slot is its owner's: the one it was lent to gives it back when the owner comes. */
static void owner_takes_its_slot_back(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){0});
    int a = add(s, 60, 500, 1000), b = add(s, 60, 500, 1000);
    fast_sched_want(s, b, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, b);
    assert_int_equal(fast_sched_planned_ns(s), FAST_MS(100));
    fast_sched_want(s, a, FAST_MS(2));
    next_of(s, FAST_SCHED_REVOKE, b);
    assert_int_equal(fast_sched_done(s, b, t.token, FAST_MS(3), true, FAST_MS(3), NULL), 0);
    t = next_of(s, FAST_SCHED_GRANT, a);
    assert_int_equal(t.until_ns, FAST_MS(13));
    /* It keeps the GPU until its slot ends, in the middle of the window. */
    for (fast_ns at = t.until_ns; at < FAST_MS(50); at = t.until_ns) {
        fast_sched_tick(s, at);
        t = next_of(s, FAST_SCHED_GRANT, a);
        assert_true(t.extended);
    }
    assert_int_equal(t.until_ns, FAST_MS(50));
    fast_sched_tick(s, FAST_MS(50));
    next_of(s, FAST_SCHED_REVOKE, a);
    assert_int_equal(fast_sched_done(s, a, t.token, FAST_MS(47), true, FAST_MS(50), NULL), 0);
    next_of(s, FAST_SCHED_GRANT, b);
    fast_sched_free(s);
}

/* Who has its request yields to who has not, in the middle of a token. */
static void beyond_request_yields(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){0});
    int a = add(s, 100, 100, 1000), b = add(s, 100, 100, 1000);
    fast_sched_want(s, a, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_tick(s, FAST_MS(10));
    next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_want(s, b, FAST_MS(13));
    next_of(s, FAST_SCHED_REVOKE, a);
    assert_int_equal(fast_sched_done(s, a, t.token, FAST_MS(13), true, FAST_MS(13), NULL), 0);
    next_of(s, FAST_SCHED_GRANT, b);
    fast_sched_free(s);
}

/* Of two who miss something, the one whose deadline is earlier comes first, whatever it misses; an owner comes
 * first all the same, and a deadline ends with the work. */
static void earliest_deadline_first(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.greedy = true, .charge = FAST_CHARGE_HELD});
    int holder = add(s, 100, 0, 1000), small = add(s, 100, 100, 1000), big = add(s, 100, 500, 1000);
    fast_sched_want(s, holder, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, holder);
    fast_sched_want(s, small, FAST_MS(1));
    fast_sched_want(s, big, FAST_MS(1));
    fast_sched_deadline(s, big, FAST_MS(90), FAST_MS(2));
    fast_sched_deadline(s, small, FAST_MS(40), FAST_MS(2));
    assert_int_equal(fast_sched_done(s, holder, t.token, FAST_MS(3), false, FAST_MS(3), NULL), 0);
    t = next_of(s, FAST_SCHED_GRANT, small);
    assert_int_equal(fast_sched_done(s, small, t.token, FAST_MS(1), false, FAST_MS(4), NULL), 0);
    t = next_of(s, FAST_SCHED_GRANT, big);
    fast_sched_want(s, small, FAST_MS(5)); /* without a deadline now */
    assert_int_equal(fast_sched_done(s, big, t.token, FAST_MS(2), true, FAST_MS(6), NULL), 0);
    next_of(s, FAST_SCHED_GRANT, big);
    fast_sched_free(s);

    s = sched((struct fast_sched_conf){0});
    int owner = add(s, 60, 500, 1000), other = add(s, 60, 500, 1000);
    fast_sched_want(s, other, 0);
    t = next_of(s, FAST_SCHED_GRANT, other);
    fast_sched_deadline(s, other, FAST_MS(1), 0);
    fast_sched_want(s, owner, FAST_MS(2)); /* its slot */
    next_of(s, FAST_SCHED_REVOKE, other);
    fast_sched_free(s);
}

/* What a window gave, and what it owed to who had work in all of it. */
static void windows_are_accounted(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.charge = FAST_CHARGE_HELD, .drain_ns = FAST_S(1)});
    int slow = add(s, 100, 0, 1000), a = add(s, 100, 500, 1000), idle = add(s, 100, 400, 1000);
    fast_sched_want(s, slow, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, slow);
    fast_sched_want(s, a, FAST_MS(5));
    next_of(s, FAST_SCHED_REVOKE, slow);
    fast_sched_tick(s, FAST_MS(100));
    /* It came in the middle of the first window, which owed it nothing. */
    assert_int_equal(fast_sched_stats(s, a, FAST_MS(100)).short_ns, 0);
    assert_int_equal(fast_sched_stats(s, slow, FAST_MS(100)).windows_ns, FAST_MS(100));
    assert_int_equal(fast_sched_done(s, slow, t.token, FAST_MS(170), false, FAST_MS(170), NULL), 0);
    t = next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_tick(s, FAST_MS(199));
    assert_int_equal(fast_sched_stats(s, a, FAST_MS(199)).windows, 1);
    fast_sched_tick(s, FAST_MS(200));
    struct fast_sched_stats st = fast_sched_stats(s, a, FAST_MS(200));
    assert_int_equal(st.windows, 2);
    assert_int_equal(st.windows_ns, FAST_MS(30)); /* of the token that it still holds */
    assert_int_equal(st.short_ns, FAST_MS(20));
    assert_int_equal(fast_sched_stats(s, idle, FAST_MS(200)).short_ns, 0);
    assert_int_equal(fast_sched_stats(s, slow, FAST_MS(200)).windows_ns, FAST_MS(170));
    /* It goes on in the next window, rests for a moment in it, and is owed nothing then. */
    assert_int_equal(fast_sched_done(s, a, t.token, FAST_MS(40), false, FAST_MS(210), NULL), 0);
    fast_sched_want(s, a, FAST_MS(299));
    fast_sched_tick(s, FAST_MS(300));
    st = fast_sched_stats(s, a, FAST_MS(300));
    assert_int_equal(st.windows, 3);
    assert_int_equal(st.windows_ns, FAST_MS(41));
    assert_int_equal(st.short_ns, FAST_MS(20));
    fast_sched_free(s);
}

/* A token that is never given back keeps its SMs; the others go on beside it. */
static void stuck_token(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){.drain_ns = FAST_MS(20)});
    int a = add(s, 60, 300, 300), b = add(s, 60, 300, 1000), c = add(s, 40, 0, 1000);
    fast_sched_want(s, a, 0);
    next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_want(s, b, 0);
    fast_sched_tick(s, FAST_MS(10));
    next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_tick(s, FAST_MS(20));
    next_of(s, FAST_SCHED_GRANT, a);
    fast_sched_tick(s, FAST_MS(30));
    next_of(s, FAST_SCHED_REVOKE, a);
    nothing(s);
    fast_sched_want(s, c, FAST_MS(31)); /* fits beside b, which waits for a */
    next_of(s, FAST_SCHED_GRANT, c);
    nothing(s);
    fast_sched_tick(s, FAST_MS(50));
    next_of(s, FAST_SCHED_STUCK, a);
    next_of(s, FAST_SCHED_GRANT, c);
    for (fast_ns t = FAST_MS(51); t < FAST_MS(400); t += FAST_MS(1))
        fast_sched_tick(s, t);
    assert_int_equal(fast_sched_sm_held(s), 100);
    fast_sched_remove(s, a, FAST_MS(400)); /* its process is gone */
    bool granted = false;
    struct fast_sched_action x;
    while (fast_sched_next(s, &x))
        granted |= x.kind == FAST_SCHED_GRANT && x.client == b;
    assert_true(granted);
    fast_sched_free(s);
}

static void resize_at_once(void **state)
{
    (void)state;
    struct fast_sched *s = sched((struct fast_sched_conf){0});
    int a = add(s, 50, 500, 1000);
    fast_sched_want(s, a, 0);
    struct fast_sched_action t = next_of(s, FAST_SCHED_GRANT, a);
    struct fast_slice less = {80, 20, 50, 0};
    assert_int_equal(fast_sched_resize(s, a, &less, FAST_MS(1), NULL), 0);
    next_of(s, FAST_SCHED_REVOKE, a); /* 9 ms of its token are left, 5 ms of its limit */
    assert_int_equal(fast_sched_sm_held(s), 50);
    assert_int_equal(fast_sched_done(s, a, t.token, FAST_MS(2), true, FAST_MS(2), NULL), 0);
    t = next_of(s, FAST_SCHED_GRANT, a);
    assert_int_equal(t.until_ns, FAST_MS(5)); /* 2 of 5 ms are used */
    assert_int_equal(fast_sched_sm_held(s), 80);
    less.limit_milli = 1001;
    assert_int_equal(fast_sched_resize(s, a, &less, FAST_MS(2), NULL), -FAST_EINVAL);
    nothing(s);
    fast_sched_free(s);
}

static void wrong_settings(void **state)
{
    (void)state;
    const struct fast_sched_conf bad[] = {
        {.window_ns = FAST_MS(9)},  {.window_ns = FAST_S(11)}, {.token_ns = FAST_US(99)},
        {.token_ns = FAST_MS(101)}, {.policy = 3},             {.charge = 2},
        {.window_ns = -1},          {.token_ns = -1},          {.drain_ns = -1}};
    struct fast_err err;
    struct fast_sched *s = NULL, *good = sched((struct fast_sched_conf){0});
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(fast_sched_new(&bad[i], 0, &s, &err), -FAST_EINVAL);
        assert_int_equal(fast_sched_conf_set(good, &bad[i], 0, &err), -FAST_EINVAL);
        assert_int_equal(fast_sched_conf(good)->window_ns, FAST_MS(100));
    }
    fast_sched_free(good);
}

/* Three clients of 34 % run two at a time: 99 ms are needed, and 100 are there. */
static void plan_of_pairs(void **state)
{
    (void)state;
    struct fast_plan p;
    struct fast_plan_item items[3] = {{34, FAST_MS(66)}, {34, FAST_MS(66)}, {34, FAST_MS(66)}};
    fast_plan_make(items, 3, FAST_MS(100), &p);
    assert_in_range(p.length_ns, FAST_MS(99) - 1, FAST_MS(99) + 1);
    assert_int_equal(p.slots, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(__builtin_popcountll(p.owners[i]), 2);
    assert_int_equal(p.end_ns[2], FAST_MS(100));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone_to_the_limit),       cmocka_unit_test(tokens_fit_in_space),
        cmocka_unit_test(timeshare_is_one_token),   cmocka_unit_test(racing_gives_all),
        cmocka_unit_test(whole_tokens_overshoot),   cmocka_unit_test(busy_is_bounded_by_held),
        cmocka_unit_test(wrong_tokens),             cmocka_unit_test(owner_takes_its_slot_back),
        cmocka_unit_test(beyond_request_yields),    cmocka_unit_test(stuck_token),
        cmocka_unit_test(resize_at_once),           cmocka_unit_test(wrong_settings),
        cmocka_unit_test(plan_of_pairs),            cmocka_unit_test(windows_are_accounted),
        cmocka_unit_test(earliest_deadline_first),
    };
    return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
