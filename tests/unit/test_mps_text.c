#include "node/mps_text.h"

#include "test.h"

/* The answers are those that were seen on the real nvidia-cuda-mps-control. */

static void percentages(void **state)
{
    (void)state;
    assert_int_equal(node_mps_read_pct("100.0\n"), 1000);
    assert_int_equal(node_mps_read_pct("33.3\n"), 333);
    assert_int_equal(node_mps_read_pct(""), -1);
    assert_int_equal(node_mps_read_pct("150.0\n"), -1);
    assert_int_equal(node_mps_read_pct("Unknown command \"x\"\n"), -1);
    assert_int_equal(node_mps_read_pct("30.0 of 100\n"), -1);
}

static void limits(void **state)
{
    uint64_t n = 1;
    char text[24];
    (void)state;
    assert_true(node_mps_read_limit("", &n));
    assert_int_equal(n, 0);
    assert_true(node_mps_read_limit("1G\n", &n));
    assert_int_equal(n, UINT64_C(1) << 30);
    assert_true(node_mps_read_limit("500M\n", &n));
    assert_int_equal(n, UINT64_C(500) << 20);
    assert_false(node_mps_read_limit("500MB\n", &n));
    assert_false(node_mps_read_limit("18446744073709551615G\n", &n));
    assert_false(node_mps_read_limit("Server 1 not found\n", &n));
    /* A fraction would be stored as 1M, so that there never is one. */
    node_mps_write_limit((UINT64_C(3) << 29) + 1, text, sizeof(text));
    assert_string_equal(text, "1537M");
}

static void pids(void **state)
{
    int p[2] = {0};
    (void)state;
    assert_int_equal(node_mps_read_pids("", p, 2), 0);
    assert_int_equal(node_mps_read_pids("12\n345\n6\n", p, 2), 3);
    assert_int_equal(p[0], 12);
    assert_int_equal(p[1], 345);
    assert_int_equal(node_mps_read_pids("Server 1 not found\n", p, 2), -1);
    assert_int_equal(node_mps_read_pids("12x\n", p, 2), -1);
    assert_int_equal(node_mps_read_pids("1\n", p, 2), -1); /* never init */
}

static void states(void **state)
{
    (void)state;
    assert_int_equal(node_mps_read_status("ACTIVE\n"), NODE_MPS_STATUS_ACTIVE);
    assert_int_equal(node_mps_read_status("FAULT\n"), NODE_MPS_STATUS_FAULT);
    assert_int_equal(node_mps_read_status("INITIALIZING\n"), NODE_MPS_STATUS_INITIALIZING);
    assert_int_equal(node_mps_read_status("FAULTY\n"), NODE_MPS_STATUS_UNKNOWN);
    assert_int_equal(node_mps_read_status("Unknown command \"get_server_status\"\n"),
                     NODE_MPS_STATUS_UNKNOWN);
}

static void refusals(void **state)
{
    (void)state;
    assert_true(node_mps_is_refusal(
        "Insufficient privileges for UID 65534. Control deamon settings can only be modified by the "
        "user started it or by the root user.\n"));
    assert_true(node_mps_is_refusal("Not enough privilege to execute quit command\n"));
    assert_false(node_mps_is_refusal("30.0\n"));
    assert_true(node_mps_is_terminated("0\n"));
    assert_false(node_mps_is_terminated("Server 1 not found\nClient 2 not found\n1\n"));
    assert_false(node_mps_is_terminated("10\n"));
    assert_false(node_mps_is_terminated(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentages), cmocka_unit_test(limits),   cmocka_unit_test(pids),
        cmocka_unit_test(states),      cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
