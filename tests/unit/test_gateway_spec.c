/* What a deployment means, and what is refused with which words. */

#include "gateway/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/query.h"
#include "test.h"

static char dir[] = "/tmp/fast-spec-XXXXXX";
static const char *dirs[] = {dir};
static const struct gw_paths paths = {dirs, 1, dirs, 1};

static void put_file(const char *name, const char *text, mode_t mode)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
}

static int make(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    put_file("digits", "#!/bin/sh\n", 0755);
    put_file("notes", "text\n", 0644);
    put_file("toy.csv", "sm,quota,rps,p95_ms\n10,0.5,10,80\n20,0.5,30,40\n50,0.5,60,30\n", 0644);
    return 0;
}

static int clean(void **state)
{
    (void)state;
    char cmd[64];
    snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
    return system(cmd);
}

static struct gw_spec *accept_spec(const char *text)
{
    struct gw_spec *s = NULL;
    struct fast_err err;
    if (gw_spec_parse(text, strlen(text), NULL, &paths, &s, &err))
        fail_msg("%s: %s", text, err.msg);
    return s;
}

static void refuse_spec(const char *text, const char *words)
{
    struct gw_spec *s = NULL;
    struct fast_err err = {0};
    int r = gw_spec_parse(text, strlen(text), NULL, &paths, &s, &err);
    if (r != -FAST_EINVAL || !strstr(err.msg, words))
        fail_msg("%s: %d, \"%s\" instead of \"%s\"", text, r, err.msg, words);
}

#define FN(rest) "{\"service\":\"f\",\"image\":\"digits\"" rest "}"
#define NOTES(rest) FN(",\"annotations\":{" rest "}")
#define LABELS(rest) FN(",\"labels\":{" rest "}")
#define G(name, value) "\"fastgshare/gpu_" name "\":\"" value "\""

static void plain(void **state)
{
    (void)state;
    char path[256];
    struct gw_spec *s = accept_spec(FN(",\"labels\":null,\"annotations\":null,\"surprise\":7"));
    snprintf(path, sizeof(path), "%s/digits", dir);
    assert_string_equal(s->argv, path);
    assert_int_equal(s->argv_len, strlen(path) + 1);
    assert_string_equal(s->ns, "openfaas-fn");
    assert_false(s->gpu);
    assert_true(s->min == 1 && s->max == 1);
    gw_spec_free(s);
    s = accept_spec("{\"service\":\"f\",\"image\":\"docker.io/library/digits:latest\","
                    "\"namespace\":\"n\",\"envProcess\":\"digits -a 'b c' \\\"d\\\\\\\"e\\\" f\\\\ g\"}");
    assert_string_equal(s->ns, "n");
    const char *want[] = {path, "-a", "b c", "d\"e", "f g"}, *p = s->argv;
    for (int i = 0; i < 5; i++, p += strlen(p) + 1)
        assert_string_equal(p, want[i]);
    assert_ptr_equal(p, s->argv + s->argv_len);
    gw_spec_free(s);
}

/* A slash takes three bytes in the name of an image's file; 200 of them are as many as a name may have. */
static void images_of_the_store(void **state)
{
    (void)state;
    const struct gw_paths stored = {.images = dirs, .nimages = 1, .state_dir = dir, .tool = "/fast-run"};
    char folder[256], text[512];
    struct gw_spec *s = NULL;
    struct fast_err err;
    snprintf(folder, sizeof(folder), "%s/images", dir);
    assert_int_equal(mkdir(folder, 0755), 0);
    put_file("images/a%2F%2Fb.json", "{\"argv\":[\"/in/the/image\"]}", 0644);
    const char *found = "{\"service\":\"f\",\"image\":\"a//b:latest\"}";
    assert_int_equal(gw_spec_parse(found, strlen(found), NULL, &stored, &s, &err), 0);
    assert_non_null(memmem(s->argv, s->argv_len, "/in/the/image", 14));
    gw_spec_free(s);
    int n = sprintf(text, "{\"service\":\"f\",\"image\":\"");
    memset(text + n, '/', 200);
    strcpy(text + n + 200, "\"}");
    assert_int_equal(gw_spec_parse(text, strlen(text), NULL, &stored, &s, &err), -FAST_EINVAL);
}

static void slices(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct fast_slice want;
    } t[] = {
        {NOTES(G("quota_request", "0.3") "," G("quota_limit", "0.8") ","
               G("sm_partition", "12") "," G("mem", "2700000000")), {12, 300, 800, 2700000000u}},
        {NOTES(G("quota_request", "0.30")), {100, 300, 300, 0}},
        {NOTES(G("quota_limit", "0.5")), {100, 500, 500, 0}},
        {NOTES(G("sm_partition", "24")), {24, 1000, 1000, 0}},
        {NOTES(G("quota_request", "0")), {100, 0, 1000, 0}},
        {NOTES(G("mem", "512Mi")), {100, 1000, 1000, 512 << 20}},
        {NOTES(G("quota_request", "") "," G("sm_partition", "24")), {24, 1000, 1000, 0}},
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct gw_spec *s = accept_spec(t[i].text);
        assert_true(s->gpu);
        assert_memory_equal(&s->slice, &t[i].want, sizeof(s->slice));
        gw_spec_free(s);
    }
}

static void refused(void **state)
{
    (void)state;
    refuse_spec("", "not JSON");
    refuse_spec("{\"service\":", "line 1");
    refuse_spec("{\"service\":\"f\",\"service\":\"g\",\"image\":\"digits\"}", "duplicate");
    refuse_spec("[]", "object");
    refuse_spec("{\"service\":\"a\",\"image\":\"digits\",\"annotations\":{\"fastgshare/gpu_sm_partion\":\"12\"}}",
                "did you mean fastgshare/gpu_sm_partition");
    refuse_spec("{\"service\":\"a\",\"image\":\"digits\",\"annotations\":{\"fastgshare/colour\":\"red\"}}",
                "fastgshare/colour: there is no such annotation;");
    refuse_spec("{\"image\":\"digits\"}", "service");
    refuse_spec("{\"service\":\"a/b\",\"image\":\"digits\"}", "service");
    refuse_spec("{\"service\":\"A\",\"image\":\"digits\"}", "service");
    refuse_spec("{\"service\":7,\"image\":\"digits\"}", "service");
    refuse_spec("{\"service\":\"f\"}", "image");
    refuse_spec("{\"service\":\"f\",\"image\":\"nope\"}", dir);
    refuse_spec("{\"service\":\"f\",\"image\":\"nope\"}", "\"nope\"");
    refuse_spec("{\"service\":\"f\",\"image\":\"notes\"}", "no executable");
    refuse_spec("{\"service\":\"f\",\"image\":\"/bin/nope\"}", "/bin/nope");
    refuse_spec("{\"service\":\"f\",\"image\":\"..\"}", "has no name");
    refuse_spec(FN(",\"namespace\":\"a.b\""), "namespace");
    refuse_spec(FN(",\"envProcess\":\"nope x\""), "envProcess");
    refuse_spec(FN(",\"envProcess\":\"digits 'x\""), "quote");
    refuse_spec(FN(",\"envProcess\":\"  \""), "envProcess");
    refuse_spec(FN(",\"envVars\":{\"a\":1}"), "envVars");
    refuse_spec(FN(",\"envVars\":{\"a=b\":\"1\"}"), "envVars");
    refuse_spec(FN(",\"labels\":[]"), "labels");
    refuse_spec(FN(",\"secrets\":[1]"), "secrets");
    refuse_spec(NOTES(G("sm_partition", "0")), "gpu_sm_partition: \"0\" is not an integer from 1 to 100");
    refuse_spec(NOTES(G("sm_partition", "101")), "\"101\"");
    refuse_spec(NOTES(G("sm_partition", "12.5")), "gpu_sm_partition");
    refuse_spec(NOTES(G("quota_request", "1.1")), "gpu_quota_request");
    refuse_spec(NOTES(G("quota_request", "-0.1")), "gpu_quota_request");
    refuse_spec(NOTES(G("quota_request", "0.5") "," G("quota_limit", "0.3")), "is below");
    refuse_spec(NOTES(G("quota_request", "0.5") "," G("quota_limit", "0.499")), "is below");
    refuse_spec(NOTES(G("quota_limit", "0")), "gpu_quota_limit");
    refuse_spec(NOTES(G("mem", "lots")), "gpu_mem");
    refuse_spec(NOTES("\"fastgshare/slo\":\"69\""), "fastgshare/slo");
    refuse_spec(NOTES("\"fastgshare/slo\":\"3601s\""), "fastgshare/slo");
    refuse_spec(NOTES("\"fastgshare/gpus\":\"2\",\"fastgshare/profile\":\"toy\""), "is of one GPU");
    refuse_spec(NOTES("\"fastgshare/profile\":\"none\""), "none.csv");
    refuse_spec(NOTES("\"fastgshare/profile\":\"../toy\""), "not a name");
    refuse_spec(NOTES("\"fastgshare/profile\":\"notes\""), "notes.csv");
    refuse_spec(NOTES("\"fastgshare/profile\":\"toy\",\"fastgshare/slo\":\"1ms\""), "slo");
    refuse_spec(NOTES("\"fastgshare/priority\":\"101\""), "fastgshare/priority");
    refuse_spec(LABELS("\"com.openfaas.scale.min\":\"x\""), "scale.min");
    refuse_spec(LABELS("\"com.openfaas.scale.min\":\"3\",\"com.openfaas.scale.max\":\"2\""), "below");
    refuse_spec(LABELS("\"com.openfaas.scale.target\":\"0\""), "scale.target");
    refuse_spec(LABELS("\"com.openfaas.scale.type\":\"cpu\""), "neither rps (requests per second) nor capacity");
    refuse_spec(LABELS("\"com.openfaas.scale.target-proportion\":\"0\""), "scale.target-proportion");
}

static void profiles_and_scaling(void **state)
{
    (void)state;
    struct fast_scale_conf conf;
    struct gw_spec *s = accept_spec(NOTES("\"fastgshare/profile\":\"toy\",\"fastgshare/slo\":\"50ms\""));
    assert_true(s->gpu && s->profile);
    assert_int_equal(s->slice.sm_pct, 20); /* the best RPR among those below 50 ms */
    assert_int_equal(s->slice.request_milli, 500);
    gw_spec_scale(s, FAST_SCALER_PAPER, &conf);
    assert_int_equal(conf.policy, FAST_SCALE_PAPER);
    gw_spec_scale(s, FAST_SCALER_WHOLE, &conf);
    assert_true(conf.policy == FAST_SCALE_TARGET && conf.slice.sm_pct == 100);
    assert_int_equal(conf.max, 5);
    gw_spec_scale(s, FAST_SCALER_QUEUE, &conf);
    assert_true(conf.policy == FAST_SCALE_QUEUE && conf.in_place && conf.vertical);
    assert_int_equal(s->priority, 0);
    const struct fast_slice slow = {20, 250, 250, 0}, none = {20, 0, 1000, 0};
    assert_int_equal(gw_spec_weight(s, &s->slice), 2 * gw_spec_weight(s, &slow));
    assert_int_equal(gw_spec_weight(s, &none), 1);
    assert_int_equal(conf.max, 5);
    assert_int_equal(fast_scale_check(&conf, NULL), 0);
    gw_spec_free(s);
    s = accept_spec(LABELS("\"com.openfaas.scale.min\":\"2\",\"com.openfaas.scale.max\":\"4\","
                           "\"com.openfaas.scale.target\":\"7.5\""));
    gw_spec_scale(s, FAST_SCALER_QUEUE, &conf);
    assert_true(conf.policy == FAST_SCALE_TARGET && conf.target_rps_milli == 7500);
    assert_true(gw_spec_is_scaled(s));
    assert_false(s->by_capacity);
    gw_spec_free(s);
    s = accept_spec(LABELS("\"com.openfaas.scale.max\":\"4\",\"com.openfaas.scale.type\":\"capacity\","
                           "\"com.openfaas.scale.target-proportion\":\"0.9\""));
    assert_true(s->by_capacity && s->target_milli == 45000);
    gw_spec_free(s);
    s = accept_spec(LABELS("\"com.openfaas.scale.max\":\"4\",\"com.openfaas.scale.type\":\"rps\","
                           "\"com.openfaas.scale.target\":\"10\",\"com.openfaas.scale.target-proportion\":\"0.75\""));
    assert_true(!s->by_capacity && s->target_milli == 7500);
    gw_spec_free(s);
    s = accept_spec(LABELS("\"com.openfaas.scale.zero\":\"true\","
                           "\"com.openfaas.scale.zero-duration\":\"30s\""));
    gw_spec_scale(s, FAST_SCALER_QUEUE, &conf);
    assert_true(conf.min == 0 && conf.zero_after == FAST_S(30));
    gw_spec_free(s);
}

static void restarts(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool want;
    } t[] = {
        {FN(""), FN(",\"labels\":{\"x\":\"y\"}"), false},
        {FN(""), FN(",\"envVars\":null,\"secrets\":[]"), false},
        {FN(""), FN(",\"envVars\":{\"x\":\"y\"}"), true},
        {FN(""), FN(",\"envProcess\":\"digits x\""), true},
        {NOTES(G("sm_partition", "24")), NOTES(G("sm_partition", "25")), true},
        {NOTES(G("quota_limit", "0.5")), NOTES(G("quota_limit", "0.6")), false},
        {FN(""), NOTES(G("sm_partition", "100")), true},
        {FN(",\"secrets\":[\"a\"]"), FN(",\"secrets\":[\"b\"]"), true},
        {FN(""), NOTES("\"fastgshare/socket\":\"unix\""), true},
        {FN(""), NOTES("\"fastgshare/model\":\"m\""), true},
        {NOTES("\"fastgshare/model\":\"m\""), NOTES("\"fastgshare/model\":\"n\""), true},
        {FN(""), NOTES("\"com.openfaas.health.http.path\":\"/ok\""), true},
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct gw_spec *a = accept_spec(t[i].a), *b = accept_spec(t[i].b);
        assert_int_equal(gw_spec_needs_restart(a, b), t[i].want);
        gw_spec_free(a);
        gw_spec_free(b);
    }
}

static void default_memory(void **state)
{
    (void)state;
    const uint64_t mib = 1 << 20;
    assert_int_equal(gw_spec_default_mem(100, 16160 * mib), 16160 * mib);
    assert_int_equal(gw_spec_default_mem(50, 16160 * mib), 8080 * mib);
    assert_int_equal(gw_spec_default_mem(24, 16160 * mib), 3878 * mib); /* of 3878.4 */
    assert_int_equal(gw_spec_default_mem(1, 16160 * mib), 512 * mib);
    assert_int_equal(gw_spec_default_mem(1, 301 * mib), 300 * mib);
    assert_int_equal(gw_spec_default_mem(50, 0), 0);
}

static void calls(void **state)
{
    (void)state;
    struct gw_spec *s = accept_spec(
        "{\"service\":\"f\",\"image\":\"digits\",\"envVars\":{\"exec_timeout\":\"1m30s\",\"read_timeout\":\"5\"},"
        "\"annotations\":{\"fastgshare/max_inflight\":\"2\",\"fastgshare/gpu_mem_wait\":\"500ms\","
        "\"fastgshare/repeatable\":\"true\","
        "\"fastgshare/batch\":\"8, 5ms\",\"fastgshare/socket\":\"unix\"}}");
    assert_int_equal(s->timeout, FAST_S(90));
    assert_int_equal(s->max_inflight, 2);
    assert_int_equal(s->mem_wait, FAST_MS(500));
    assert_int_equal(s->batch_max, 8);
    assert_int_equal(s->batch_wait, FAST_MS(5));
    assert_true(s->repeatable && s->local_socket);
    gw_spec_free(s);
    s = accept_spec("{\"service\":\"f\",\"image\":\"digits\",\"envVars\":{\"read_timeout\":\"5\"}}");
    assert_int_equal(s->timeout, FAST_S(5));
    assert_int_equal(s->max_inflight, 0);
    assert_int_equal(s->batch_max, 0);
    assert_false(s->repeatable || s->local_socket);
    gw_spec_free(s);
#define NOTED(text) "{\"service\":\"f\",\"image\":\"digits\",\"annotations\":{\"fastgshare/" text "}}"
    refuse_spec(NOTED("max_inflight\":\"-1\""), "max_inflight");
    refuse_spec(NOTED("gpu_mem_wait\":\"61s\""), "gpu_mem_wait");
    refuse_spec(NOTED("repeatable\":\"perhaps\""), "repeatable");
    refuse_spec(NOTED("batch\":\"8\""), "8,5ms");
    refuse_spec(NOTED("batch\":\"0,5ms\""), "batch");
    refuse_spec(NOTED("batch\":\"8,5\""), "batch");
    refuse_spec(NOTED("socket\":\"udp\""), "neither unix nor tcp");
    refuse_spec("{\"service\":\"f\",\"image\":\"digits\",\"envVars\":{\"exec_timeout\":\"soon\"}}",
                "exec_timeout");
}

static void queries(void **state)
{
    (void)state;
    static const struct {
        const char *query, *want; /* of "n", in 4 bytes; NULL: not there */
    } t[] = {
        {"n=1", "1"},         {"a=b&n=a%20b", "a b"}, {"n=1&n=2", "2"}, {"n", ""},      {"n=", ""},
        {"n=+%2B", " +"},     {"n=%4", NULL},         {"n=%4g", NULL},  {"n=%", NULL},  {"n=a%00", NULL},
        {"n=abcd", NULL},     {"n=abc", "abc"},       {"nn=1", NULL},   {"m=n", NULL},  {"", NULL},
        {"n=1&n=%zz", NULL},  {"&&n=1&", "1"},        {"N=1", NULL},    {"%6e=1", NULL},
        {"n=%fF%aA%99", "\xff\xaa\x99"}};
    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        char value[4] = "???";
        bool found = gw_query_get(t[i].query, "n", value, sizeof(value));
        if (found != (t[i].want != NULL))
            fail_msg("%s: %d", t[i].query, found);
        if (found)
            assert_string_equal(value, t[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),    cmocka_unit_test(slices),
        cmocka_unit_test(refused),  cmocka_unit_test(profiles_and_scaling),
        cmocka_unit_test(restarts), cmocka_unit_test(default_memory),
        cmocka_unit_test(calls),    cmocka_unit_test(queries),
        cmocka_unit_test(images_of_the_store),
    };
    return cmocka_run_group_tests_name("gateway_spec", tests, make, clean);
}
