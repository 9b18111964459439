/* The text of the metrics page: heads in both formats, labels that nobody has checked, long lines. */
#include "gateway/metrics.h"
#include "gateway/stats.h"

#include <stdlib.h>
#include <string.h>

#include "test.h"

static void heads(void **state)
{
    (void)state;
    static const struct {
        const char *name, *type, *plain, *open;
    } rows[] = {
        {"a_total", "counter", "# HELP a_total h\n# TYPE a_total counter\n", "# HELP a h\n# TYPE a counter\n"},
        {"a_started", "counter", "# HELP a_started h\n# TYPE a_started counter\n",
         "# HELP a_started h\n# TYPE a_started unknown\n"},
        {"a_total", "gauge", "# HELP a_total h\n# TYPE a_total gauge\n",
         "# HELP a_total h\n# TYPE a_total gauge\n"}};
    for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
        struct gw_page w = {.open = i % 2};
        gw_page_head(&w, rows[i / 2].name, rows[i / 2].type, "h");
        assert_string_equal(w.p, i % 2 ? rows[i / 2].open : rows[i / 2].plain);
        assert_int_equal(w.len, strlen(w.p));
        free(w.p);
    }
}

static void labels(void **state)
{
    (void)state;
    static const struct {
        const char *text, *label;
    } rows[] = {
        {"", ""},
        {"plain-1", "plain-1"},
        {"a\\b\"c\nd", "a\\\\b\\\"c\\nd"},
        {"\xc3\xb6 \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xb6 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xff", "\\\\xff"},
        {"\xc3", "\\\\xc3"},                                /* cut off */
        {"\xe2\x82", "\\\\xe2\\\\x82"},
        {"\xc0\xaf", "\\\\xc0\\\\xaf"},                      /* longer than needed */
        {"\xe0\x80\xaf", "\\\\xe0\\\\x80\\\\xaf"},
        {"\xed\xa0\x80", "\\\\xed\\\\xa0\\\\x80"},            /* half a pair of UTF-16 */
        {"\xf4\x90\x80\x80", "\\\\xf4\\\\x90\\\\x80\\\\x80"}}; /* behind the last one */
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char label[GW_LABEL(32)];
        assert_string_equal(gw_page_label(rows[i].text, label, sizeof(label)), rows[i].label);
    }
    /* All of the longest fits; what does not is cut between characters. */
    char bad[33], label[GW_LABEL(32)];
    memset(bad, 0xff, 32);
    bad[32] = '\0';
    assert_int_equal(strlen(gw_page_label(bad, label, sizeof(label))), 5 * 32);
    for (size_t cap = 1; cap < 16; cap++) {
        gw_page_label("\xe2\x82\xac\xe2\x82\xac\"\"", label, cap);
        size_t n = strlen(label);
        assert_true(n < cap);
        assert_true(n == 0 || n == 3 || n == 6 || n == 8 || n == 10);
    }
}

static void long_lines(void **state)
{
    (void)state;
    struct gw_page w = {0};
    static char text[100001];
    memset(text, 'x', sizeof(text) - 1);
    gw_page_add(&w, "%s\n", text);
    for (int i = 0; i < 1000; i++)
        gw_page_add(&w, "%.*s\n", i, text);
    assert_false(w.failed);
    assert_int_equal(w.len, 100001 + 999 * 1000 / 2 + 1000);
    assert_int_equal(w.p[w.len - 1], '\n');
    free(w.p);
}

static void numbers(void **state)
{
    (void)state;
    struct gw_page w = {0}, more = {0}, none = {0};
    gw_page_put(&w, "a ");
    gw_page_count(&w, 0);
    gw_page_count(&w, UINT64_MAX);
    gw_page_milli(&w, 50000);
    gw_page_milli(&w, 1005);
    gw_page_put(&more, "b\n");
    gw_page_join(&w, &more);
    gw_page_join(&w, &none);
    gw_page_put(&w, "");
    assert_null(more.p);
    assert_int_equal(more.len, 0);
    char want[] = "a 0\n18446744073709551615\n50\n1.005\nb\n";
    assert_int_equal(w.len, strlen(want));
    assert_memory_equal(w.p, want, w.len);
    none.failed = true; /* what is missing from a part is missing from the whole */
    gw_page_join(&w, &none);
    assert_true(w.failed);
    free(w.p);
}

static void histograms(void **state)
{
    (void)state;
    for (int open = 0; open < 2; open++) {
        struct gw_page w = {.open = open};
        struct gw_times t = {0};
        gw_times_add(&t, FAST_MS(5)); /* at a bound: below it */
        gw_times_add(&t, FAST_MS(5) + 1);
        gw_times_add(&t, FAST_S(11));
        gw_page_histogram(&w, "h", "a=\"b\"", &t);
        gw_page_add(&w, "%c", '\0');
        assert_non_null(strstr(w.p, "h_bucket{a=\"b\",le=\"0.005\"} 1\nh_bucket{a=\"b\",le=\"0.01\"} 2\n"));
        assert_non_null(strstr(w.p, open ? "le=\"10.0\"} 2\n" : "le=\"10\"} 2\n"));
        assert_non_null(strstr(w.p, "h_bucket{a=\"b\",le=\"+Inf\"} 3\nh_sum{a=\"b\"} 11.010000001\n"
                                    "h_count{a=\"b\"} 3\n"));
        free(w.p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads), cmocka_unit_test(labels), cmocka_unit_test(long_lines),
        cmocka_unit_test(numbers), cmocka_unit_test(histograms)};
    return cmocka_run_group_tests_name("metrics_page", tests, NULL, NULL);
}
