#include "core/limit.h"

#include <stdio.h>

#include "base/units.h"
#include "test.h"

#define TOTAL 1000000007u

static uint64_t of(const char *text, const char *ns)
{
    struct fast_limits l;
    struct fast_err err;
    assert_int_equal(fast_limits_parse(text, "--x", &l, &err), 0);
    return fast_limits_of(&l, ns, TOTAL);
}

static void a_list_is_read(void **state)
{
    (void)state;
    assert_true(of("30%", "a") == 300000002 && of("30%", "openfaas-fn") == 300000002);
    assert_true(of("0%", "a") == 0);
    assert_true(of("a=2Gi,1K", "a") == FAST_GIB(2)); /* more than the device has: as it was said */
    assert_true(of("a=2Gi,1K", "aa") == 1000);
    assert_true(of("a=100%", "a") == TOTAL);
}

static void what_is_not_said_is_as_usual(void **state)
{
    (void)state;
    assert_true(of(FAST_LIMIT_DEFAULT, "a") == TOTAL / 2);
    assert_true(of(FAST_LIMIT_DEFAULT, "openfaas-fn") == TOTAL);
    assert_true(of("a=1%", "b") == TOTAL / 2 && of("a=1%", "openfaas-fn") == TOTAL);
    assert_true(of("openfaas-fn=1K", "openfaas-fn") == 1000 && of("openfaas-fn=1K", "b") == TOTAL / 2);
    struct fast_limits none = {0};
    assert_true(fast_limits_of(&none, "a", TOTAL) == UINT64_MAX);
    assert_true(of("18446744073709551614", "a") == UINT64_MAX - 1);
    struct fast_limits half;
    assert_int_equal(fast_limits_parse("50%", "--x", &half, NULL), 0);
    assert_true(fast_limits_of(&half, "a", UINT64_MAX) == UINT64_MAX / 2);
}

static void what_is_no_list_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", ",", "a", "a=", "=5%", "a=5%,", "101%", "-1%", "%", "5%%", "a=5%,a=6%", "1,2",
                                      "A=5%", "a=b=5%", "a=5 %", "1.5%", "18446744073709551615",
                                      "9999999999999999999999999999999%",
                                      /* 64 letters: not the namespace of the first 63 of them */
                                      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=5%"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fast_limits l = {.count = 77};
        struct fast_err err;
        if (fast_limits_parse(bad[i], "--x", &l, &err) != -FAST_EINVAL)
            fail_msg("%s", bad[i]);
        assert_memory_equal(err.msg, "--x", 3);
        assert_int_equal(l.count, 77);
    }
}

static void many_namespaces_are_enough(void **state)
{
    (void)state;
    for (int n = FAST_LIMIT_NAMES - 3; n <= FAST_LIMIT_NAMES + 1; n++) {
        char text[2000];
        int at = 0;
        struct fast_limits l;
        for (int i = 0; i < n; i++)
            at += snprintf(text + at, sizeof(text) - (size_t)at, "%sn%d=5%%", i ? "," : "", i);
        assert_int_equal(fast_limits_parse(text, "--x", &l, NULL), n > FAST_LIMIT_NAMES - 2 ? -FAST_EINVAL : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_is_read),
        cmocka_unit_test(what_is_not_said_is_as_usual),
        cmocka_unit_test(what_is_no_list_is_refused),
        cmocka_unit_test(many_namespaces_are_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
