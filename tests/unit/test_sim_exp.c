/* Experiments in virtual time whose outcome can be worked out by hand. */

#include "sim/experiment.h"

#include "test.h"

/* One request: 1 ms of host work, then 10 launches of 100 us each; a kernel takes 400 us on all 10 SMs
 * and fills them. */
static const struct sim_exp_conf base = {
    .gpu = {.name = "small (simulated)", .sms = 10, .threads_per_sm = 2048, .blocks_per_sm = 32,
            .sm_granularity = 1, .timeslice_ns = FAST_MS(2), .switch_ns = FAST_US(100),
            .copy_bytes_per_us = 1000, .dram_bytes_per_us = 100000},
    .mps = true,
    .sched = {.policy = FAST_POLICY_FAST, .charge = FAST_CHARGE_HELD, .window_ns = FAST_MS(100),
              .token_ns = FAST_MS(10)},
    .duration_ns = FAST_S(10),
    .seed = 1,
    .functions = 1,
    .function = {{.model = {.name = "m", .host_ns = FAST_MS(1), .launch_ns = FAST_US(100),
                            .large = {.kernels = 10, .blocks = 40, .block_ns = FAST_US(400)},
                            .threads_per_block = 512, .occupancy_milli = 1000},
                  .replicas = 1, .users = 1,
                  .slice = {.sm_pct = 100, .request_milli = 1000, .limit_milli = 1000}}}};

static struct sim_exp_result *run(const struct sim_exp_conf *conf)
{
    static struct sim_exp_result res;
    struct fast_err err;
    assert_int_equal(sim_exp_run(conf, &res, &err), 0);
    return &res;
}

/* The GPU is the bottleneck of a request: host, the first launch, then the kernels one after the
 * other. */
static void one_request(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.requests_max = 1;
    struct sim_exp_result *res = run(&conf);
    assert_int_equal(res->span_ns, FAST_MS(1) + FAST_US(100) + 10 * FAST_US(400));
    assert_int_equal(res->gpu.busy_ns, FAST_MS(4));
    assert_int_equal(res->gpu.kernels, 10);
    assert_int_equal(res->function[0].latency.max, res->span_ns);
    assert_int_equal(res->active_ns, res->span_ns);

    /* With the input before it and the output behind it, which are copied at 1 byte a ns. */
    conf.function[0].model.input_bytes = 50000;
    conf.function[0].model.output_bytes = 3000;
    assert_int_equal(run(&conf)->span_ns, FAST_US(5100) + 3000); /* the input beside the host */
    conf.function[0].model.input_bytes = 2000000;
    assert_int_equal(run(&conf)->span_ns, FAST_US(2000 + 4000 + 3));
}

/* With kernels shorter than the gap between launches the host is the bottleneck. */
static void launch_bound(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.requests_max = 1;
    conf.function[0].model.large.block_ns = FAST_US(30);
    assert_int_equal(run(&conf)->span_ns, FAST_MS(1) + 10 * FAST_US(100) + FAST_US(30));
}

/* Ten kernels of 30 us each, 100 us apart: 300 us of kernels, 930 us from the first to the last. The
 * second is what a time quota of 10 % counts. The replica ends what it began, so a request may overdraw. */
static void charged_for_kernels_or_in_flight(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.tokens = true;
    conf.sched.charge = FAST_CHARGE_BUSY;
    conf.function[0].model.large.block_ns = FAST_US(30);
    conf.function[0].slice = (struct fast_slice){.sm_pct = 100, .request_milli = 100, .limit_milli = 100};
    double kernels = (double)run(&conf)->function[0].requests;
    conf.in_flight = true;
    double in_flight = (double)run(&conf)->function[0].requests;
    assert_true(in_flight > 0.85 * 1000 / 0.93 && in_flight < 1.15 * 1000 / 0.93);
    assert_true(kernels > 2 * in_flight);
    /* What is not held back does not depend on what is charged. */
    conf.function[0].slice.request_milli = conf.function[0].slice.limit_milli = 1000;
    double free_of_it = (double)run(&conf)->function[0].requests;
    conf.in_flight = false;
    assert_true((double)run(&conf)->function[0].requests == free_of_it);
}

static void closed_loop(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.function[0].users = 3;
    struct sim_exp_result *res = run(&conf);
    assert_int_equal(res->function[0].requests, 10000000 / 5100);
    assert_int_equal(res->function[0].latency.max, 3 * FAST_US(5100)); /* each waits for two others */
    assert_int_equal(res->span_ns, FAST_S(10));
    conf.function[0].users = 0;
    assert_int_equal(run(&conf)->function[0].requests, 0);
}

/* Two come at once and one later: the second waits for the first, the third for nobody. */
static void requests_that_are_due(void **state)
{
    (void)state;
    static const fast_ns due[] = {FAST_MS(10), FAST_MS(10), FAST_MS(50)};
    struct sim_exp_conf conf = base;
    conf.function[0].due = due;
    conf.function[0].due_count = 3;
    struct sim_exp_result *res = run(&conf);
    assert_int_equal(res->function[0].requests, 3);
    assert_int_equal(res->function[0].latency.sum, (1 + 2 + 1) * FAST_US(5100));
    assert_int_equal(res->function[0].latency.max, 2 * FAST_US(5100));
    assert_int_equal(res->gpu.kernels, 30);
}

/* A limit of 300 thousandths: 30 ms of each 100 ms, give or take one request of 5.1 ms. */
static void quota_limits(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.tokens = true;
    conf.function[0].slice.request_milli = conf.function[0].slice.limit_milli = 300;
    struct sim_exp_result *res = run(&conf);
    assert_in_range(res->active_ns, FAST_MS(2900), FAST_MS(3100));
    assert_in_range(res->function[0].requests, 540, 600);
    assert_in_range(res->gpu.busy_ns, FAST_MS(2100), FAST_MS(2500));

    conf.function[0].slice.limit_milli = conf.function[0].slice.request_milli = 1000;
    assert_int_equal(run(&conf)->function[0].requests, 10000000 / 5100);
}

/* A request whose kernels take longer than the window. Queued as a whole it runs on when its quota is
 * used up, and what lies more than a window back is settled; bounded, it overdraws by one kernel. */
static void long_requests_keep_their_quota(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.tokens = conf.in_flight = true;
    conf.sched.charge = FAST_CHARGE_BUSY;
    conf.function[0].model.large = (struct sim_model_class){.kernels = 75, .blocks = 40, .block_ns = FAST_MS(2)};
    conf.function[0].slice.request_milli = conf.function[0].slice.limit_milli = 800;
    assert_true(run(&conf)->gpu.busy_ns > FAST_MS(8500));
    conf.inflight_ns = FAST_MS(2);
    assert_in_range(run(&conf)->gpu.busy_ns, FAST_MS(7800), FAST_MS(8200));
    /* The bound alone costs nothing: there is always a kernel behind the one that runs, or one to come. */
    conf.function[0].slice.request_milli = conf.function[0].slice.limit_milli = 1000;
    conf.function[0].model.large.block_ns = FAST_US(400);
    uint64_t bounded = run(&conf)->function[0].requests;
    conf.inflight_ns = 0;
    assert_int_equal(bounded, run(&conf)->function[0].requests);
}

/* Half the SMs each: kernels take twice as long, and both replicas run at once. */
static void two_functions_side_by_side(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.tokens = true;
    conf.functions = 2;
    conf.function[1] = conf.function[0];
    conf.function[0].slice.sm_pct = conf.function[1].slice.sm_pct = 50;
    struct sim_exp_result *res = run(&conf);
    assert_int_equal(res->function[0].requests, 10000000 / 9100);
    assert_int_equal(res->function[1].requests, 10000000 / 9100);
    /* One token at a time: together they get what one gets alone, and a little is lost. */
    conf.sched.policy = FAST_POLICY_TIMESHARE;
    conf.function[0].slice.sm_pct = conf.function[1].slice.sm_pct = 100;
    conf.function[0].slice.request_milli = conf.function[1].slice.request_milli = 500;
    res = run(&conf);
    uint64_t both = res->function[0].requests + res->function[1].requests;
    assert_in_range(both, 10000000 / 5100 * 8 / 10, 10000000 / 5100 * 11 / 10);
}

/* Racing processes take turns on the GPU; the hosts work beside each other, or do not. */
static void racing(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.mps = false;
    conf.functions = 2;
    conf.function[1] = conf.function[0];
    struct sim_exp_result *res = run(&conf);
    uint64_t free_host = res->function[0].requests + res->function[1].requests;
    assert_true(free_host > 10000000 / 5100);  /* more than one alone */
    assert_true(free_host < 10000000 / 4000);  /* than the GPU can do, without switches */
    conf.function[0].model.host_ns = conf.function[1].model.host_ns = FAST_MS(20);
    free_host = run(&conf)->function[0].requests;
    conf.host_slowdown_milli = 1000;
    assert_true(run(&conf)->function[0].requests < free_host * 8 / 10);
}

/* Requests go to replicas at random: all of them work, none is fed in turn; the same seed gives the
 * same run. */
static void random_replicas(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.function[0].replicas = 5;
    conf.function[0].users = 5;
    conf.function[0].slice.sm_pct = 20;
    struct sim_exp_result first = *run(&conf);
    uint64_t one = 10000000 / 21100; /* of a replica that is never idle */
    assert_true(first.function[0].requests > 2 * one);
    assert_true(first.function[0].requests < 5 * one * 8 / 10); /* some idle while others queue */
    assert_memory_equal(&first, run(&conf), sizeof(first));
    conf.seed = 2;
    assert_true(first.function[0].latency.sum != run(&conf)->function[0].latency.sum);
}

/* A request with more kernels than a queue holds goes on when there is room. */
static void more_kernels_than_the_ring_holds(void **state)
{
    (void)state;
    struct sim_exp_conf conf = base;
    conf.requests_max = 2;
    conf.function[0].model.large.kernels = 3 * SIM_RING;
    conf.function[0].model.launch_ns = FAST_US(1);
    struct sim_exp_result *res = run(&conf);
    assert_int_equal(res->gpu.kernels, 2 * 3 * SIM_RING);
    assert_int_equal(res->span_ns, 2 * (FAST_US(1001) + 3 * SIM_RING * FAST_US(400)));
}

static void refuses(void **state)
{
    (void)state;
    struct sim_exp_result *res = run(&base);
    struct fast_err err;
    for (int i = 0; i < 6; i++) {
        struct sim_exp_conf conf = base;
        if (i == 0)
            conf.functions = 0;
        if (i == 1)
            conf.functions = SIM_EXP_FUNCTIONS + 1;
        if (i == 2)
            conf.function[0].replicas = SIM_EXP_REPLICAS + 1;
        if (i == 3)
            conf.function[0].replicas = 0;
        if (i == 4)
            conf.function[0].slice.sm_pct = 101;
        if (i == 5)
            conf.function[0].users = -1;
        assert_int_equal(sim_exp_run(&conf, res, &err), -FAST_EINVAL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_request),
        cmocka_unit_test(launch_bound),
        cmocka_unit_test(charged_for_kernels_or_in_flight),
        cmocka_unit_test(closed_loop),
        cmocka_unit_test(requests_that_are_due),
        cmocka_unit_test(quota_limits),
        cmocka_unit_test(long_requests_keep_their_quota),
        cmocka_unit_test(two_functions_side_by_side),
        cmocka_unit_test(racing),
        cmocka_unit_test(random_replicas),
        cmocka_unit_test(more_kernels_than_the_ring_holds),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests_name("sim_exp", tests, NULL, NULL);
}
