#include "sim/model.h"

#include <stdio.h>

#include "test.h"

static const char good[] = "# a model\n"
                           "name = tiny\n"
                           "memory = 1525MiB   # with the context\n"
                           "\n"
                           "host = 1ms\r\n"
                           "launch=100us\n"
                           "threads_per_block = 256\n"
                           "occupancy = 0.5\n"
                           "dram = 0.125\n"
                           "small_kernels = 2\nsmall_blocks = 30\nsmall_block = 20us\n"
                           "large_kernels = 1\nlarge_blocks = 600\nlarge_block = 1.5ms";

static void reads_a_model(void **state)
{
    (void)state;
    struct fast_err err;
    struct sim_model m;
    struct sim_kernel k;
    fast_ns gap = 0;
    assert_int_equal(sim_model_parse(good, strlen(good), &m, &err), 0);
    assert_string_equal(m.name, "tiny");
    assert_int_equal(m.mem_bytes, FAST_MIB(1525));
    assert_int_equal(m.shared_bytes, 0);
    assert_int_equal(m.threads_per_block, 256);
    assert_int_equal(m.dram_milli, 125);
    assert_int_equal(sim_model_kernels(&m), 3);
    sim_model_kernel(&m, 0, &k, &gap);
    assert_int_equal(gap, FAST_US(1100)); /* the host's work comes before the first launch */
    assert_int_equal(k.blocks, 30);
    assert_int_equal(k.block_ns, FAST_US(20));
    assert_int_equal(k.occupancy_milli, 500);
    sim_model_kernel(&m, 2, &k, &gap);
    assert_int_equal(gap, FAST_US(100));
    assert_int_equal(k.blocks, 600);
    assert_int_equal(k.block_ns, FAST_US(1500));
    sim_model_kernel(&m, 3, &k, &gap);
    assert_int_equal(k.blocks, 0);
    sim_model_kernel(&m, -1, &k, &gap);
    assert_int_equal(k.blocks, 0);
}

/* Every line can be missing, wrong or there twice; the message says where. */
static void refuses(void **state)
{
    (void)state;
    static const struct { const char *from, *to, *says; } cases[] = {
        {"name = tiny", "", "name is missing"},
        {"name = tiny", "name = Tiny/x", "line 2: name"},
        {"name = tiny", "name = a-name-that-is-longer-than-31-bytes", "line 2: name"},
        {"host = 1ms", "host = 1", "line 5: host"},
        {"host = 1ms", "host = 1ms\nhost = 1ms", "line 6: host is given twice"},
        {"host = 1ms", "hots = 1ms", "line 5: there is no key \"hots\""},
        {"host = 1ms", "host", "line 5: \"host\" is not"},
        {"host = 1ms", "host =", "line 5: host"},
        {"dram = 0.125", "dram = 1.1", "line 9: dram"},
        {"small_blocks = 30", "small_blocks = 0", "line 11: small_blocks"},
        {"threads_per_block = 256", "threads_per_block = 1025", "line 7: threads_per_block"},
        {"memory = 1525MiB", "memory = 9999Ti", "line 3: memory"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fast_err err = {0};
        struct sim_model m = {.launch_ns = 7};
        char text[1000];
        const char *at = strstr(good, cases[i].from);
        assert_non_null(at);
        snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good), good, cases[i].to,
                 at + strlen(cases[i].from));
        assert_int_equal(sim_model_parse(text, strlen(text), &m, &err), -FAST_EINVAL);
        if (!strstr(err.msg, cases[i].says))
            fail_msg("case %zu says \"%s\"", i, err.msg);
        assert_int_equal(m.launch_ns, 7);
    }
}

static void refuses_what_is_not_text(void **state)
{
    (void)state;
    struct fast_err err = {0};
    struct sim_model m;
    assert_int_equal(sim_model_parse("name = a\0b", 10, &m, &err), -FAST_EINVAL);
    assert_non_null(strstr(err.msg, "line 1: "));
    assert_int_equal(sim_model_parse("", 0, &m, &err), -FAST_EINVAL);
    static char long_line[300];
    memset(long_line, '#', sizeof(long_line));
    assert_int_equal(sim_model_parse(long_line, sizeof(long_line), &m, &err), -FAST_EINVAL);
    assert_int_equal(sim_model_parse(long_line, SIM_MODEL_BYTES_MAX + 1, &m, &err), -FAST_EINVAL);
    /* no kernels at all */
    char text[1000];
    snprintf(text, sizeof(text), "%s", good);
    *strchr(strstr(text, "small_kernels"), '2') = '0';
    *strchr(strstr(text, "large_kernels"), '1') = '0';
    assert_int_equal(sim_model_parse(text, strlen(text), &m, &err), -FAST_EINVAL);
    assert_non_null(strstr(err.msg, "no kernels"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_model),
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_what_is_not_text),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
