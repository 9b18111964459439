#include <stdio.h>

#include "base/digits.h"
#include "base/mem.h"
#include "base/parse.h"

#include "test.h"

static void integers(void **state)
{
    (void)state;
    struct fast_err err;
    int64_t v = 7;
    assert_int_equal(fast_parse_int("100", "sm", 1, 100, &v, &err), 0);
    assert_int_equal(v, 100);
    const char *const bad[] = {"0", "101", "", " 5", "5 ", "5x", "0x5", "99999999999999999999", "-1"};
    for (size_t i = 0; i < 9; i++) {
        assert_int_equal(fast_parse_int(bad[i], "sm", 1, 100, &v, &err), -FAST_EINVAL);
        assert_non_null(strstr(err.msg, "sm: "));
        assert_non_null(strstr(err.msg, "from 1 to 100"));
    }
    assert_int_equal(v, 100); /* nothing is set on an error */
}

static void fractions(void **state)
{
    (void)state;
    struct fast_err err;
    int64_t v = 0;
    const struct { const char *text; int milli; } good[] = {
        {"0", 0}, {"1", 1000}, {"1.0", 1000}, {"0.5", 500}, {"0.30", 300}, {"0.125", 125},
        {"0.1250000000000000000000", 125},
    };
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(fast_parse_milli(good[i].text, "q", 0, 1000, &v, &err), 0);
        assert_int_equal(v, good[i].milli);
    }
    const char *const bad[] = {"1.001", "0.1234", "-0.1", ".5", "0.", "0,5", "1e-1", "nan", ""};
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(fast_parse_milli(bad[i], "q", 0, 1000, &v, &err), -FAST_EINVAL);
}

static void sizes(void **state)
{
    (void)state;
    struct fast_err err;
    uint64_t v = 0;
    const struct { const char *text; uint64_t bytes; } good[] = {
        {"2700000000", 2700000000ULL}, {"512Mi", FAST_MIB(512)}, {"512MiB", FAST_MIB(512)},
        {"2G", 2000000000ULL}, {"1.5Gi", FAST_MIB(1536)}, {"0", 0}, {"5KB", 5000},
    };
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(fast_parse_bytes(good[i].text, "mem", FAST_GIB(16), &v, &err), 0);
        assert_true(v == good[i].bytes);
    }
    const char *const bad[] = {"", "G", "1.5", "-1", "1 G", "1Q", "17Gi", "1..5G", "1G1", "64Qx", "1e3"};
    for (size_t i = 0; i < FAST_COUNT_OF(bad); i++)
        assert_int_equal(fast_parse_bytes(bad[i], "mem", FAST_GIB(16), &v, &err), -FAST_EINVAL);
    assert_int_equal(fast_parse_bytes("1.5Pi", "mem", INT64_MAX, &v, &err), 0);
    assert_true(v == FAST_GIB(1536) * 1024);
    assert_int_equal(fast_parse_bytes("2E", "mem", INT64_MAX, &v, &err), 0);
    assert_true(v == UINT64_C(2000000000000000000));
    assert_int_equal(fast_parse_bytes("16Ei", "mem", UINT64_MAX, &v, &err), -FAST_EINVAL);
}

static void durations(void **state)
{
    (void)state;
    struct fast_err err;
    fast_ns v = 0;
    const struct { const char *text; fast_ns ns; } good[] = {
        {"69ms", FAST_MS(69)}, {"1.5s", FAST_MS(1500)}, {"250us", FAST_US(250)},
        {"1m30s", FAST_S(90)}, {"1h", FAST_S(3600)}, {"10ns", 10},
    };
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(fast_parse_duration(good[i].text, "slo", 0, FAST_S(7200), &v, &err), 0);
        assert_true(v == good[i].ns);
    }
    const char *const bad[] = {"", "69", "ms", "-1s", "1d", "3h", "1s ", "0.5ns"};
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(fast_parse_duration(bad[i], "slo", 0, FAST_S(7200), &v, &err),
                         -FAST_EINVAL);
    assert_int_equal(fast_parse_duration("2m", "slo", FAST_MS(1500), FAST_S(60), &v, &err), -FAST_EINVAL);
    assert_string_equal(err.msg, "slo: \"2m\" is not from 1500ms to 60s");
}

static void names(void **state)
{
    (void)state;
    struct fast_err err;
    assert_int_equal(fast_parse_name("resnet-50", "function", &err), 0);
    assert_int_equal(fast_parse_name("a", "function", &err), 0);
    char longest[65];
    memset(longest, 'a', 64);
    longest[64] = 0;
    const char *const bad[] = {"", "a/b", "-a", "a-", "A", "a.b", "a b", "a\n", longest};
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(fast_parse_name(bad[i], "function", &err), -FAST_EINVAL);
    assert_int_equal(fast_parse_name(longest + 1, "function", &err), 0);
}

static void wrapping(void **state)
{
    (void)state;
    struct fast_err err;
    fast_err_set(&err, FAST_ENOENT, "no such file");
    assert_int_equal(fast_err_wrap(&err, "profile %s", "x.csv"), -FAST_ENOENT);
    assert_string_equal(err.msg, "profile x.csv: no such file");
    for (int i = 0; i < 100; i++) /* never grows past its buffer */
        fast_err_wrap(&err, "outer");
    assert_int_equal(strlen(err.msg) < sizeof(err.msg), 1);
}

static void name_of_a_list(void **state)
{
    static const char *const names[] = {"auto", "on", "off"};
    (void)state;
    assert_int_equal(fast_parse_name_of(names, 3, "auto"), 0);
    assert_int_equal(fast_parse_name_of(names, 3, "off"), 2);
    assert_int_equal(fast_parse_name_of(names, 2, "off"), -1); /* only the first |n| */
    assert_int_equal(fast_parse_name_of(names, 3, "o"), -1);
    assert_int_equal(fast_parse_name_of(names, 3, "ON"), -1);
    assert_int_equal(fast_parse_name_of(names, 3, ""), -1);
}

static void text(void **state)
{
    static const char *const good[] = {"", "a b", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xc2\xa0",
                                       "\xf4\x8f\xbf\xbf", "\xee\x80\x80"};
    static const char *const bad[] = {"\n", "a\x7f", "\xe9", "\xc3", "\xc3z", "\x80", "\xc2\x9b", "\xc1\xa1",
                                      "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                                      "\xf8\x88\x80\x80\x80", "\xff", "\xe2\x82"};
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(fast_is_text(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(fast_is_text(bad[i]));
}

static void digits(void **state)
{
    (void)state;
    const uint64_t some[] = {0, 1, 9, 10, 99, 100, 1024, 999999999, 1000000000, UINT64_MAX / 10, UINT64_MAX};
    for (size_t i = 0; i < FAST_COUNT_OF(some); i++) {
        char got[FAST_DIGITS_MAX], want[32];
        size_t n = fast_digits(got, some[i]);
        assert_int_equal(n, snprintf(want, sizeof(want), "%llu", (unsigned long long)some[i]));
        assert_memory_equal(got, want, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers), cmocka_unit_test(fractions), cmocka_unit_test(sizes),
        cmocka_unit_test(durations), cmocka_unit_test(names), cmocka_unit_test(wrapping),
        cmocka_unit_test(name_of_a_list), cmocka_unit_test(text),
        cmocka_unit_test(digits),
    };
    return cmocka_run_group_tests_name("parse", tests, NULL, NULL);
}
