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
        {"00-" ID "_" PARENT "-01", false, false},
        {"00-" ID "-" PARENT "_01", false, false},
        {"g0-" ID "-" PARENT "-01", false, false},
        {"0g-" ID "-" PARENT "-01", false, false},
        {"00-gaf7651916cd43dd8448eb211c80319c-" PARENT "-01", false, false},
        {"00-" ID "-g7ad6b7169203331-01", false, false},
        {"00-" ID "-b7ad6b716920333g-01", false, false},
        {"00-" ID "-" PARENT "-g1", false, false},
        {"00-" ID "-" PARENT "-0g", false, false},
        {"01-" ID "-" PARENT "-01-more", true, true},
        {"10-" ID "-" PARENT "-01-more", true, true},
        {"f0-" ID "-" PARENT "-0a", true, false},
        {"0f-" ID "-" PARENT "-1b", true, true},
        {"00-" ID "-" PARENT "-f0", true, false},
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

/* What the caller says of a call stands in its span where that needs no escapes. */
static void ids_of_calls(void **state)
{
    (void)state;
    static const struct {
        const char *id;
        bool told;
    } t[] = {{" a~", true}, {"a\"", false}, {"\\", false}, {"\x7f", false},
             {"\x1f", false}, {"\xe4", false}, {"", false}};
    const unsigned char random[24] = {1, [16] = 1};
    struct gw_trace trace;
    gw_trace_begin(&trace, NULL, 0, random);
    assert_true(trace.on && trace.sampled);
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        struct gw_trace_end e = {.name = "f", .ns = "n", .method = "GET", .replica = "", .call_id = t[i].id,
                                 .status = 200};
        char buf[2048], *at;
        size_t len = gw_trace_json(&trace, &e, buf, sizeof(buf));
        json_t *v = json_loadb(buf, len, 0, NULL);
        assert_non_null(v);
        json_decref(v);
        at = memmem(buf, len, "faas.invocation_id", 18);
        assert_int_equal(at != NULL, t[i].told);
        assert_null(memmem(buf, len, "faas.instance", 13));
    }
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
        cmocka_unit_test(ids_of_calls),
        cmocka_unit_test(spans),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
