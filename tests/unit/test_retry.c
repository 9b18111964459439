/* Whether a failed call is made again, and when. */

#include "gateway/retry.h"

#include <stdio.h>

#include "test.h"

/* A function with |annotations|, members of JSON. */
static struct gw_spec *with(const char *annotations)
{
    static const struct gw_paths none = {0};
    char text[512];
    struct gw_spec *s = NULL;
    struct fast_err err;
    snprintf(text, sizeof(text), "{\"service\": \"f\", \"image\": \"/bin/true\", \"annotations\": {%s}}", annotations);
    if (gw_spec_parse(text, strlen(text), NULL, &none, &s, &err))
        fail_msg("%s: %s", text, err.msg);
    return s;
}

static void by_default(void **state)
{
    (void)state;
    static const int passing[] = {0, 408, 429, 500, 502, 503, 504};
    struct gw_spec *s = with("");
    const struct gw_retry r[] = {gw_retry_of(NULL), gw_retry_of(s)};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r[i].attempts, 10);
        int n = 0;
        for (int status = 0; status < 600; status++)
            if (gw_retry_passes(&r[i], status))
                assert_int_equal(status, passing[n++]);
        assert_int_equal(n, 7);
    }
    gw_spec_free(s);
}

static void waits_double_up_to_the_longest(void **state)
{
    (void)state;
    static const int seconds[] = {1, 2, 4, 8, 16, 32, 64, 120, 120, 120};
    struct gw_retry r = gw_retry_of(NULL);
    for (int i = 0; i < 10; i++)
        assert_int_equal(gw_retry_wait(&r, i + 1), FAST_S(seconds[i]));
    assert_int_equal(gw_retry_wait(&r, 1000), FAST_S(120));
    struct gw_spec *s = with("\"com.openfaas.retry.min_wait\": \"30ms\", \"com.openfaas.retry.max_wait\": \"100ms\"");
    r = gw_retry_of(s);
    assert_int_equal(gw_retry_wait(&r, 1), FAST_MS(30));
    assert_int_equal(gw_retry_wait(&r, 2), FAST_MS(60));
    assert_int_equal(gw_retry_wait(&r, 3), FAST_MS(100));
    gw_spec_free(s);
    s = with("\"com.openfaas.retry.min_wait\": \"1h\", \"com.openfaas.retry.max_wait\": \"1s\"");
    r = gw_retry_of(s);
    assert_int_equal(gw_retry_wait(&r, 1), FAST_S(1));
    gw_spec_free(s);
}

static void own_codes(void **state)
{
    (void)state;
    static const char *const lists[] = {"429,500", "429, 500", "500 429", "1429,429,500,4290"};
    for (size_t i = 0; i < 4; i++) {
        char text[128];
        snprintf(text, sizeof(text), "\"com.openfaas.retry.codes\": \"%s\"", lists[i]);
        struct gw_spec *s = with(text);
        struct gw_retry r = gw_retry_of(s);
        assert_true(gw_retry_passes(&r, 0)); /* that no answer came says nothing of the function */
        assert_true(gw_retry_passes(&r, 429));
        assert_true(gw_retry_passes(&r, 500));
        assert_false(gw_retry_passes(&r, 503));
        assert_false(gw_retry_passes(&r, 50));
        assert_false(gw_retry_passes(&r, 29));
        gw_spec_free(s);
    }
}

static void what_is_malformed_counts_as_not_there(void **state)
{
    (void)state;
    struct gw_spec *s = with("\"com.openfaas.retry.attempts\": \"0\", \"com.openfaas.retry.min_wait\": \"soon\","
                             " \"com.openfaas.retry.max_wait\": \"25h\"");
    struct gw_retry r = gw_retry_of(s), plain = gw_retry_of(NULL);
    assert_int_equal(r.attempts, plain.attempts);
    assert_int_equal(r.min, plain.min);
    assert_int_equal(r.max, plain.max);
    gw_spec_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_default),
        cmocka_unit_test(waits_double_up_to_the_longest),
        cmocka_unit_test(own_codes),
        cmocka_unit_test(what_is_malformed_counts_as_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
