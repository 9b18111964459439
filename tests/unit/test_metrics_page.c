/* The text of the metrics page: heads in both formats, labels that nobody has checked, long lines. */
#include "gateway/metrics.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads), cmocka_unit_test(labels), cmocka_unit_test(long_lines)};
    return cmocka_run_group_tests_name("metrics_page", tests, NULL, NULL);
}
