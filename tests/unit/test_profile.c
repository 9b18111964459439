#include "core/profile.h"

#include <stdio.h>
#include <stdlib.h>

#include "test.h"

static const char small[] = "# a comment\n"
                            "sm,quota,rps,p95_ms\n"
                            "\n"
                            "12, 0.4, 35.5, 30\r\n"
                            "6,0.2,13.5,80.25\n"
                            "6,0.4,25,40\n"
                            "12,0.2,19,60\n"
                            "24,1,74.5,20";

static struct fast_profile *parse(const char *text)
{
    struct fast_profile *p = NULL;
    struct fast_err err;
    assert_int_equal(fast_profile_parse(text, &p, &err), 0);
    return p;
}

static void parses(void **state)
{
    (void)state;
    struct fast_profile *p = parse(small);
    assert_int_equal(fast_profile_count(p), 5);
    const struct fast_profile_point *at = fast_profile_at(p, 0);
    assert_int_equal(at->sm_pct, 6);
    assert_int_equal(at->quota_milli, 200);
    assert_int_equal(at->rps_milli, 13500);
    assert_true(at->p95_ns == 80250000 && at->p99_ns == at->p95_ns);
    assert_int_equal(fast_profile_at(p, 4)->sm_pct, 24);
    fast_profile_free(p);
    p = parse("p99_ms,rps,sm,quota,p95_ms\n9,1,100,0.001,8\n");
    assert_true(fast_profile_at(p, 0)->p99_ns == FAST_MS(9));
    assert_int_equal(fast_profile_at(p, 0)->quota_milli, 1);
    fast_profile_free(p);
}

/* Each is refused with the line and the field in the message. */
static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } rows[] = {
        {"", "no configuration"},
        {"sm,quota,rps,p95_ms\n", "no configuration"},
        {"sm,quota,rps\n6,0.2,1\n", "line 1: header"},
        {"sm,quota,rps,p95_ms,p95_ms\n", "field 5"},
        {"sm,quota,rps,p95_ms,gpu\n", "field 5"},
        {"sm,quota,rps,p95_ms\n6,0.2,1\n", "line 2: 3 fields, the header has 4"},
        {"sm,quota,rps,p95_ms\n6,0.2,1,2,3\n", "line 2: 5 fields"},
        {"sm,quota,rps,p95_ms\n6,0.2,1,\n", "line 2: p95_ms"},
        {"sm,quota,rps,p95_ms\n0,0.2,1,1\n", "line 2: sm"},
        {"sm,quota,rps,p95_ms\n101,0.2,1,1\n", "line 2: sm"},
        {"sm,quota,rps,p95_ms\n6,0,1,1\n", "line 2: quota"},
        {"sm,quota,rps,p95_ms\n6,1.001,1,1\n", "line 2: quota"},
        {"sm,quota,rps,p95_ms\n6,0.2,-1,1\n", "line 2: rps"},
        {"sm,quota,rps,p95_ms\n6,0.2,nan,1\n", "line 2: rps"},
        {"sm,quota,rps,p95_ms\n6,0.2,1e3,1\n", "line 2: rps"},
        {"sm,quota,rps,p95_ms\n6,0.2,1,1x\n", "line 2: p95_ms"},
        {"sm,quota,rps,p95_ms\n6,0.2,0000000000000000000000000000000001,1\n", "line 2: rps"},
        {"sm,quota,rps,p95_ms,p99_ms\n6,0.2,1,10,9\n", "line 2: latency"},
        {"sm,quota,rps,p95_ms\n6,0.2,1,1\n\n6,0.2,2,1\n", "twice"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fast_profile *p = NULL;
        struct fast_err err;
        assert_int_equal(fast_profile_parse(rows[i].text, &p, &err), -FAST_EINVAL);
        assert_null(p);
        if (!strstr(err.msg, rows[i].message))
            fail_msg("row %zu: %s", i, err.msg);
    }
}

static void too_many_rows(void **state)
{
    (void)state;
    static char text[64 * 1100] = "sm,quota,rps,p95_ms\n";
    char *at = text + strlen(text);
    struct fast_profile *p = NULL;
    struct fast_err err;
    for (int i = 0; i < FAST_PROFILE_POINTS_MAX; i++)
        at += sprintf(at, "%d,0.%03d,1,1\n", 1 + i / 500, 1 + i % 500);
    assert_int_equal(fast_profile_parse(text, &p, &err), 0);
    fast_profile_free(p);
    strcpy(at, "100,1,1,1\n");
    assert_int_equal(fast_profile_parse(text, &p, &err), -FAST_EINVAL);
    assert_non_null(strstr(err.msg, "line 1026"));
}

static void looks_up(void **state)
{
    (void)state;
    struct fast_profile *p = parse(small);
    /* Measured points, exactly. */
    for (int i = 0; i < fast_profile_count(p); i++) {
        const struct fast_profile_point *m = fast_profile_at(p, i);
        struct fast_profile_point at = fast_profile_look(p, m->sm_pct, m->quota_milli);
        assert_memory_equal(&at, m, sizeof(at));
    }
    /* Half way in quota, in SM, and in both. */
    assert_int_equal(fast_profile_look(p, 6, 300).rps_milli, 19250);
    assert_true(fast_profile_look(p, 6, 300).p95_ns == 60125000);
    assert_int_equal(fast_profile_look(p, 9, 200).rps_milli, 16250);
    assert_int_equal(fast_profile_look(p, 9, 300).rps_milli, (19250 + 27250) / 2);
    /* Above the largest measured: the largest. */
    assert_int_equal(fast_profile_look(p, 6, 1000).rps_milli, 25000);
    assert_int_equal(fast_profile_look(p, 100, 1000).rps_milli, 74500);
    /* Below the smallest: in proportion. */
    assert_int_equal(fast_profile_look(p, 6, 100).rps_milli, 6750);
    assert_true(fast_profile_look(p, 6, 100).p95_ns == 160500000);
    assert_int_equal(fast_profile_look(p, 3, 200).rps_milli, 6750);
    assert_int_equal(fast_profile_look(p, 24, 500).rps_milli, 37250);
    fast_profile_free(p);
}

/* On a random monotone table every look-up is monotone in both directions and inside the values of
 * the measured neighbours. */
static void monotone(void **state)
{
    (void)state;
    unsigned seed = 7;
    for (int round = 0; round < 20; round++) {
        struct fast_profile_point points[25];
        for (int s = 0; s < 5; s++)
            for (int q = 0; q < 5; q++) {
                struct fast_profile_point *m = &points[s * 5 + q];
                int64_t base = 0;
                if (s && m[-5].rps_milli > base)
                    base = m[-5].rps_milli;
                if (q && m[-1].rps_milli > base)
                    base = m[-1].rps_milli;
                *m = (struct fast_profile_point){5 + 20 * s, 100 + 200 * q,
                                                 base + rand_r(&seed) % 9000, 1000, 2000};
            }
        struct fast_profile *p = NULL;
        assert_int_equal(fast_profile_new(points, 25, &p, NULL), 0);
        for (int sm = 5; sm < 85; sm++)
            for (int quota = 100; quota < 900; quota += 10) {
                const struct fast_profile_point *m =
                    &points[(sm - 5) / 20 * 5 + (quota - 100) / 200];
                int64_t rps = fast_profile_look(p, sm, quota).rps_milli;
                assert_in_range(rps, m[0].rps_milli, m[6].rps_milli);
                assert_true(rps <= fast_profile_look(p, sm + 1, quota).rps_milli);
                assert_true(rps <= fast_profile_look(p, sm, quota + 10).rps_milli);
            }
        fast_profile_free(p);
    }
}

static void rpr(void **state)
{
    (void)state;
    const struct fast_profile_point a = {6, 200, 13500, 0, 0}, b = {12, 400, 35500, 0, 0},
                                    c = {12, 200, 13500, 0, 0};
    assert_int_equal(fast_profile_rpr_milli(&a), 1125000); /* 13.5 / (0.06 x 0.2) */
    assert_true(fast_profile_rpr_cmp(&a, &b) > 0);
    assert_true(fast_profile_rpr_cmp(&c, &a) < 0);
    assert_int_equal(fast_profile_rpr_cmp(&a, &a), 0);
    /* The largest values do not overflow. */
    const struct fast_profile_point big = {100, 1000, FAST_PROFILE_RPS_MAX, 0, 0},
                                    tiny = {1, 1, FAST_PROFILE_RPS_MAX, 0, 0};
    assert_true(fast_profile_rpr_cmp(&tiny, &big) > 0);
}

/* What is printed parses to the same again, and the length is right for any buffer. */
static void prints(void **state)
{
    (void)state;
    struct fast_profile *p = parse(small), *again;
    char text[512], cut[20];
    size_t len = fast_profile_print(p, text, sizeof(text));
    assert_int_equal(len, strlen(text));
    assert_int_equal(fast_profile_print(p, cut, sizeof(cut)), len);
    assert_int_equal(fast_profile_print(p, NULL, 0), len);
    assert_memory_equal(cut, text, sizeof(cut) - 1);
    again = parse(text);
    assert_int_equal(fast_profile_count(again), fast_profile_count(p));
    for (int i = 0; i < fast_profile_count(p); i++)
        assert_memory_equal(fast_profile_at(again, i), fast_profile_at(p, i),
                            sizeof(struct fast_profile_point));
    fast_profile_free(again);
    fast_profile_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parses),   cmocka_unit_test(refuses),  cmocka_unit_test(too_many_rows),
        cmocka_unit_test(looks_up), cmocka_unit_test(monotone), cmocka_unit_test(rpr),
        cmocka_unit_test(prints),
    };
    return cmocka_run_group_tests_name("profile", tests, NULL, NULL);
}
