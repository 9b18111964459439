/* What live requests make of a profile: they refine it, a change of the function is noticed within a
 * minute or two of virtual time, and noise is not. The table for scaling is on the cautious side. */

#include "test.h"

#include <math.h>
#include <stdlib.h>

#include "core/live.h"
#include "core/predict_table.h"

#define SPAN FAST_S(10)

/* 60 requests/s at most, half of them at 12 %; the quota limits until 80 %. */
static double law(int sm, int quota)
{
    double full = 60.0 * sm / (sm + 12.0), limited = full * quota / 800;
    return limited < full ? limited : full;
}

static struct fast_live_trial trial(int sm, int quota)
{
    int64_t rps = llround(law(sm, quota) * 1000);
    return (struct fast_live_trial){{sm, quota, rps, FAST_MS(40), FAST_MS(50)},
                                    llround(quota * 1e9 / (double)rps)};
}

static struct fast_live *profile(void)
{
    const struct fast_live_trial t[] = {trial(100, 1000), trial(6, 200), trial(24, 400), trial(24, 1000),
                                        trial(60, 600)};
    struct fast_live *l = NULL;
    struct fast_err err;
    assert_int_equal(fast_live_new(t, 5, &l, &err), 0);
    return l;
}

/* A span on a replica that does |factor| times what the law says, at |load| of that. */
static struct fast_live_span span(int sm, int quota, double factor, double load, int i)
{
    double rate = law(sm, quota) * factor * load;
    struct fast_live_span s = {.sm_pct = sm, .quota_milli = quota, .now = SPAN * (i + 1), .length = SPAN,
                               .answers = llround(rate * 10), .p95_ns = FAST_MS(44),
                               .p99_ns = FAST_MS(58)};
    s.waiting_ns = load >= 1 ? SPAN : SPAN / 5;
    s.gpu_ns = llround((double)s.answers * quota * 1e6 / (law(sm, quota) * factor));
    return s;
}

/* Spans until drift is noticed; 0: not within |n|. */
static int until_drift(struct fast_live *l, double factor, double load, int n)
{
    for (int i = 0; i < n; i++) {
        struct fast_live_span s = span(24, 400, factor, load, i);
        if (fast_live_add(l, &s))
            return i + 1;
    }
    return 0;
}

static void noise_is_no_drift(void **state)
{
    (void)state;
    struct fast_live *l = profile();
    for (int i = 0; i < 2000; i++) {
        /* Within 10 %, as of a fair coin thrown over and over. */
        double noise = 0.9 + 0.02 * ((i * 7919) % 11);
        struct fast_live_span s = span(i % 2 ? 24 : 60, i % 2 ? 400 : 600, noise, i % 3 ? 0.5 : 1, i);
        assert_false(fast_live_add(l, &s));
    }
    assert_false(fast_live_drift(l).drifting);
    fast_live_free(l);
}

static void a_change_is_noticed_at_any_load(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct fast_live *l = profile();
        const double factor[] = {0.7, 0.7, 1.5, 0.7}, load[] = {1, 0.5, 1, 0.2};
        int spans = until_drift(l, factor[i], load[i], 12);
        assert_in_range(spans, 2, 8);
        struct fast_live_drift d = fast_live_drift(l);
        assert_true(d.drifting);
        assert_int_equal(d.since, SPAN * spans);
        assert_in_range(d.ratio_milli, factor[i] * 950, factor[i] * 1050);
        /* Slices that nobody has used are expected to have changed alike. */
        struct fast_profile_point p[FAST_LIVE_CELLS];
        int n = fast_live_points(l, p, FAST_LIVE_CELLS);
        assert_int_equal(n, 5);
        for (int k = 0; k < n; k++) {
            int64_t truth = llround(law(p[k].sm_pct, p[k].quota_milli) * 1e3 * factor[i]);
            assert_in_range(p[k].rps_milli, truth * 93 / 100, truth * 107 / 100);
        }
        /* When it is over, that is noticed too, and the trials hold again. */
        int over = 0;
        while (!over && spans < 60) {
            struct fast_live_span s = span(24, 400, 1, load[i], spans++);
            over = fast_live_add(l, &s);
        }
        assert_true(over);
        assert_false(fast_live_drift(l).drifting);
        fast_live_free(l);
    }
}

static void few_answers_say_nothing(void **state)
{
    (void)state;
    struct fast_live *l = profile();
    for (int i = 0; i < 50; i++) {
        struct fast_live_span s = span(24, 400, 0.3, 1, i);
        s.answers = FAST_LIVE_ANSWERS_MIN - 1;
        assert_false(fast_live_add(l, &s));
    }
    assert_int_equal(fast_live_spans(l), 0);
    fast_live_free(l);
}

/* However far off it is. */
static void one_span_decides_nothing(void **state)
{
    (void)state;
    for (int up = 0; up < 2; up++) {
        struct fast_live *l = profile();
        struct fast_live_span s = span(24, 400, up ? 50 : 0.3, 1, 0);
        s.answers = s.answers < FAST_LIVE_ANSWERS_MIN ? FAST_LIVE_ANSWERS_MIN : s.answers;
        assert_false(fast_live_add(l, &s));
        assert_false(fast_live_drift(l).drifting);
        fast_live_free(l);
    }
}

static void a_slice_that_was_never_tried_is_learned(void **state)
{
    (void)state;
    struct fast_live *l = profile();
    for (int i = 0; i < 6; i++) {
        struct fast_live_span s = span(50, 400, 1.05, 1, i);
        assert_false(fast_live_add(l, &s));
        s = span(50, 400, 1.05, 0.6, i);
        fast_live_add(l, &s);
    }
    struct fast_profile_point p[FAST_LIVE_CELLS];
    assert_int_equal(fast_live_points(l, p, FAST_LIVE_CELLS), 6);
    assert_int_equal(p[5].sm_pct, 50);
    assert_in_range(p[5].rps_milli, law(50, 400) * 1030, law(50, 400) * 1070);
    assert_int_equal(p[5].p95_ns / FAST_MS(1), 44);
    /* An earlier life's knowledge is taken up. */
    struct fast_live_cell cell[FAST_LIVE_CELLS];
    struct fast_live *again = profile();
    struct fast_live_drift d = {true, 800, FAST_S(77)};
    fast_live_restore(again, cell, fast_live_cells(l, cell), &d);
    assert_int_equal(fast_live_points(again, p, FAST_LIVE_CELLS), 6);
    assert_int_equal(fast_live_drift(again).ratio_milli, 800);
    assert_int_equal(fast_live_drift(again).since, FAST_S(77));
    fast_live_free(again);
    fast_live_free(l);
}

static void the_table_is_cautious(void **state)
{
    (void)state;
    struct fast_profile_point p[5];
    struct fast_live *l = profile();
    struct fast_profile *t = NULL;
    struct fast_err err;
    int mean = 0;
    int n = fast_live_points(l, p, 5);
    assert_int_equal(fast_predict_table(p, n, FAST_WINDOW_DEFAULT, 1000, &t, &mean, &err), 0);
    assert_true(fast_profile_count(t) >= 35);
    assert_in_range(mean, 1, 200);
    struct fast_predict_point tried[5];
    for (int i = 0; i < n; i++)
        tried[i] = (struct fast_predict_point){p[i].sm_pct, p[i].quota_milli, p[i].rps_milli};
    struct fast_predict *f = NULL;
    assert_int_equal(fast_predict_new(tried, n, &f, &err), 0);
    int below = 0;
    for (int i = 0; i < fast_profile_count(t); i++) {
        const struct fast_profile_point *q = fast_profile_at(t, i);
        struct fast_predict_value v = fast_predict_look(f, q->sm_pct, q->quota_milli);
        assert_true(q->rps_milli <= v.rps_milli && q->rps_milli >= v.low);
        assert_true(q->p95_ns > 0 && q->p99_ns >= q->p95_ns);
        below += q->rps_milli < v.rps_milli;
    }
    assert_true(below > 15);
    fast_profile_free(t);
    /* Where nearly nothing is known, only what was measured is told. */
    assert_int_equal(fast_predict_table(p, 1, FAST_WINDOW_DEFAULT, 20, &t, NULL, &err), 0);
    assert_int_equal(fast_profile_count(t), 1);
    fast_profile_free(t);
    fast_predict_free(f);
    fast_live_free(l);
    assert_int_equal(fast_predict_table(p, 0, FAST_WINDOW_DEFAULT, 20, &t, NULL, &err), -FAST_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(noise_is_no_drift),
        cmocka_unit_test(a_change_is_noticed_at_any_load),
        cmocka_unit_test(few_answers_say_nothing),
        cmocka_unit_test(one_span_decides_nothing),
        cmocka_unit_test(a_slice_that_was_never_tried_is_learned),
        cmocka_unit_test(the_table_is_cautious),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
