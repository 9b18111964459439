/* traceparent as W3C Trace Context has it, and spans as OTLP JSON. */

#include "gateway/trace.h"

#include <jansson.h>
#include <string.h>

#include "base/mem.h"
#include "test.h"

#define ID "0af7651916cd43dd8448eb211c80319c"
#define PARENT "b7ad6b7169203331"

static void headers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good, sampled;
    } t[] = {
        {"00-" ID "-" PARENT "-01", true, true},
        {"00-" ID "-" PARENT "-00", true, false},
        {"00-" ID "-" PARENT "-03", true, true},
        {"cc-" ID "-" PARENT "-01-what-the-future-brings", true, true},
        {"cc-" ID "-" PARENT "-01.", false, false},
        {"00-" ID "-" PARENT "-01-more", false, false},
        {"ff-" ID "-" PARENT "-01", false, false},
        {"00-" ID "-" PARENT "-0", false, false},
        {"00-00000000000000000000000000000000-" PARENT "-01", false, false},
        {"00-" ID "-0000000000000000-01", false, false},
        {"00-0AF7651916CD43DD8448EB211C80319C-" PARENT "-01", false, false},
        {"00_" ID "-" PARENT "-01", false, false},
        {"", false, false},
    };
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        struct gw_trace trace = {0};
        if (gw_traceparent_parse(t[i].text, strlen(t[i].text), &trace) != t[i].good)
            fail_msg("%s", t[i].text);
        if (!t[i].good)
            continue;
        assert_string_equal(trace.id, ID);
        assert_string_equal(trace.parent, PARENT);
        assert_int_equal(trace.sampled, t[i].sampled);
    }
}

static void children(void **state)
{
    (void)state;
    const char *parent = "00-" ID "-" PARENT "-00";
    const unsigned char random[24] = {0x12, 0x34, [16] = 0xab, [23] = 0x01};
    char line[80];
    struct gw_trace t;
    gw_trace_begin(&t, parent, strlen(parent), random);
    gw_trace_line(&t, line);
    assert_string_equal(line, "traceparent: 00-" ID "-ab00000000000001-00\r\n");
    assert_string_equal(t.parent, PARENT);
    gw_trace_begin(&t, "nonsense", 8, random);
    gw_trace_line(&t, line);
    assert_string_equal(line, "traceparent: 00-12340000000000000000000000000000-ab00000000000001-01\r\n");
    assert_string_equal(t.parent, "");
}

static void spans(void **state)
{
    (void)state;
    const char *parent = "00-" ID "-" PARENT "-01";
    const unsigned char random[24] = {[16] = 0xab};
    struct gw_trace_end e = {.name = "f", .ns = "n", .method = "POST", .replica = "f.n.1",
                             .call_id = "a\"b", .status = 502, .from = 1000, .to = 2500, .attempts = 2};
    struct gw_trace t;
    char buf[2048];
    gw_trace_begin(&t, parent, strlen(parent), random);
    size_t len = gw_trace_json(&t, &e, buf, sizeof(buf));
    json_t *v = json_loadb(buf, len, 0, NULL);
    assert_non_null(v);
    assert_string_equal(json_string_value(json_object_get(v, "traceId")), ID);
    assert_string_equal(json_string_value(json_object_get(v, "parentSpanId")), PARENT);
    assert_string_equal(json_string_value(json_object_get(v, "name")), "POST f.n");
    assert_string_equal(json_string_value(json_object_get(v, "endTimeUnixNano")), "2500");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(v, "status"), "code")), 2);
    json_decref(v);
    for (size_t cap = 0; cap <= len; cap++) /* what does not fit is no span, and nothing is written beyond */
        assert_int_equal(gw_trace_json(&t, &e, buf, cap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers),
        cmocka_unit_test(children),
        cmocka_unit_test(spans),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
