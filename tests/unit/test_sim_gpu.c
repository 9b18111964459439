/* How kernels share the SMs, the time and the DRAM of the simulated GPU, to the nanosecond. */

#include "test_sim_world.h"

/* 40 blocks are one wave on the whole device; the 41st needs a second one. */
static void one_kernel_and_waves(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 1, (int[]){100});
    struct sim_op first = world_kernel(40, 1000);
    first.kernel.latency_ns = 7;
    world_submit(&w, 0, first, 50);
    assert_int_equal(sim_gpu_next(w.gpu), 57);
    assert_int_equal(sim_gpu_earliest(w.gpu, 0, 1), 1057);
    world_submit(&w, 0, world_kernel(41, 1000), 60);
    sim_gpu_advance(w.gpu, 1056);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 0);
    sim_gpu_advance(w.gpu, 1057);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 1);
    sim_gpu_advance(w.gpu, 5000);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 2);
    assert_done_at(&w, 0, 1, 1057);
    assert_done_at(&w, 0, 2, 3057);
    assert_done_at(&w, 0, 3, FAST_NEVER);
    assert_int_equal(sim_gpu_next(w.gpu), FAST_NEVER);

    struct sim_gpu_counters c = sim_gpu_counters(w.gpu);
    assert_int_equal(c.at, 5000);
    assert_int_equal(c.busy_ns, 3000);
    assert_int_equal(c.kernels, 2);
    assert_int_equal(c.sm_ns, 10 * 1000 + 10 * 1000 + 1 * 1000); /* the last block is on one SM */
    assert_int_equal(c.warp_ns, 10 * 1000 + 41 * 1000 / 4);
    assert_int_equal(sim_gpu_client_busy_ns(w.gpu, 0), 3000);
    world_close(&w);
}

/* Few blocks are spread over many SMs; warps that idle count as activity of the SM, not as
 * occupancy. */
static void activity_and_occupancy(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 1, (int[]){100});
    struct sim_op op = world_kernel(6, 1000);
    op.kernel.occupancy_milli = 500;
    op.kernel.dram_milli = 250;
    world_submit(&w, 0, op, 0);
    world_run(&w);
    struct sim_gpu_counters c = sim_gpu_counters(w.gpu);
    assert_int_equal(c.sm_ns, 6 * 1000);
    assert_int_equal(c.warp_ns, 6 * 1000 / 4 / 2);
    assert_int_equal(c.dram_ns, 250);
    world_close(&w);
}

/* The kernel is the same, the partition is not: 40 blocks on 10, 5 and 1 SMs. A percentage below one
 * SM gives one. On fewer SMs the same bytes need less bandwidth. */
static void partitions(void **state)
{
    (void)state;
    static const struct { int pct, sms; fast_ns ns; } cases[] = {
        {100, 10, 1000}, {50, 5, 2000}, {59, 5, 2000}, {10, 1, 10000}, {1, 1, 10000}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct world w;
        world_open(&w, 1, &cases[i].pct);
        struct sim_op op = world_kernel(40, 1000);
        op.kernel.dram_milli = 600;
        world_submit(&w, 0, op, 0);
        world_run(&w);
        assert_int_equal(sim_gpu_client_sms(w.gpu, 0), cases[i].sms);
        assert_done_at(&w, 0, 1, cases[i].ns);
        assert_int_equal(sim_gpu_counters(w.gpu).sm_ns, 10000);
        assert_int_equal(sim_gpu_counters(w.gpu).dram_ns, 600);
        world_close(&w);
    }
}

static void side_by_side(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    world_submit(&w, 0, world_kernel(20, 1000), 0);
    world_submit(&w, 1, world_kernel(40, 1000), 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 1000);
    assert_done_at(&w, 1, 1, 2000);
    assert_int_equal(sim_gpu_counters(w.gpu).busy_ns, 2000);
    assert_int_equal(sim_gpu_counters(w.gpu).sm_ns, 15000);
    assert_int_equal(sim_gpu_client_busy_ns(w.gpu, 0), 1000);
    assert_int_equal(sim_gpu_client_busy_ns(w.gpu, 1), 2000);
    world_close(&w);
}

/* Two clients that may use every SM, the second one from 500 on: each goes at half speed while both
 * run. */
static void oversubscribed(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){100, 100});
    world_submit(&w, 0, world_kernel(40, 1000), 0);
    world_submit(&w, 1, world_kernel(40, 1000), 500);
    assert_int_equal(sim_gpu_next(w.gpu), 1500);
    world_run(&w);
    assert_done_at(&w, 0, 1, 1500);
    assert_done_at(&w, 1, 1, 2000);
    assert_int_equal(sim_gpu_counters(w.gpu).busy_ns, 2000);
    assert_int_equal(sim_gpu_counters(w.gpu).sm_ns, 20000); /* no work is lost or done twice */
    world_close(&w);

    world_open(&w, 3, (int[]){50, 50, 50}); /* 15 SMs of 10 */
    for (int i = 0; i < 3; i++)
        world_submit(&w, i, world_kernel(20, 1000), 0);
    world_run(&w);
    for (int i = 0; i < 3; i++)
        assert_done_at(&w, i, 1, 1500);
    world_close(&w);
}

/* Two queues of one client share its partition, however free the rest of the GPU is. */
static void queues_of_one_client(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 1, (int[]){50});
    int second = sim_gpu_queue_add(w.gpu, 0, 0, 0);
    world_submit(&w, 0, world_kernel(20, 1000), 0);
    world_submit(&w, second, world_kernel(20, 1000), 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 2000);
    assert_done_at(&w, second, 1, 2000);
    world_close(&w);

    /* Both fit when they are narrow: 2 of 5 SMs each. */
    world_open(&w, 1, (int[]){50});
    second = sim_gpu_queue_add(w.gpu, 0, 0, 0);
    world_submit(&w, 0, world_kernel(2, 1000), 0);
    world_submit(&w, second, world_kernel(2, 1000), 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 1000);
    assert_done_at(&w, second, 1, 1000);
    world_close(&w);
}

/* The queue with the lower number goes first, and stops one that runs already. */
static void priorities(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 1, (int[]){100});
    int urgent = sim_gpu_queue_add(w.gpu, 0, -1, 0);
    world_submit(&w, 0, world_kernel(40, 1000), 0);
    world_submit(&w, urgent, world_kernel(40, 1000), 300);
    world_run(&w);
    assert_done_at(&w, urgent, 1, 1300);
    assert_done_at(&w, 0, 1, 2000);
    world_close(&w);
}

/* Two processes without MPS: slices of 2000, switches of 100 in which nothing runs; the slice of one
 * that is done ends early. */
static void time_slices(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){0, 0});
    world_submit(&w, 0, world_kernel(40, 3000), 0);
    world_submit(&w, 1, world_kernel(40, 3000), 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 2000 + 100 + 2000 + 100 + 1000);
    assert_done_at(&w, 1, 1, 5200 + 100 + 1000);
    assert_int_equal(sim_gpu_counters(w.gpu).busy_ns, 6000);
    assert_int_equal(sim_gpu_client_busy_ns(w.gpu, 0), 3000);
    assert_int_equal(sim_gpu_client_busy_ns(w.gpu, 1), 3000);
    world_close(&w);
}

/* Nobody else wants the GPU: no slices, and a turn that nobody has taken is free. */
static void one_process_is_not_sliced(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){0, 0});
    world_submit(&w, 0, world_kernel(40, 9000), 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 9000);
    world_submit(&w, 0, world_kernel(40, 1000), 20000);
    world_submit(&w, 1, world_kernel(40, 1000), 30000);
    world_run(&w);
    assert_done_at(&w, 0, 2, 21000);
    assert_done_at(&w, 1, 1, 31100);
    world_close(&w);
}

/* MPS clients run side by side, but take turns with a process that is none. */
static void mps_takes_turns_with_others(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 3, (int[]){50, 50, 0});
    world_submit(&w, 0, world_kernel(20, 3000), 0);
    world_submit(&w, 1, world_kernel(20, 3000), 0);
    world_submit(&w, 2, world_kernel(40, 500), 0);
    world_run(&w);
    assert_done_at(&w, 2, 1, 2000 + 100 + 500);
    assert_done_at(&w, 0, 1, 2600 + 100 + 1000);
    assert_done_at(&w, 1, 1, 3700);
    world_close(&w);
}

/* 800 + 800 thousandths: both get 500. */
static void dram_of_two_hungry_kernels(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    struct sim_op op = world_kernel(20, 1000);
    op.kernel.dram_milli = 800;
    world_submit(&w, 0, op, 0);
    world_submit(&w, 1, op, 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 1600);
    assert_done_at(&w, 1, 1, 1600);
    assert_int_equal(sim_gpu_counters(w.gpu).dram_ns, 1600);
    assert_int_equal(sim_gpu_counters(w.gpu).sm_ns, 16000); /* they wait on their SMs */
    world_close(&w);
}

/* A kernel that wants less than its fair share of the DRAM is not slowed. */
static void dram_of_a_modest_kernel(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    struct sim_op modest = world_kernel(20, 900), hungry = world_kernel(20, 1000);
    modest.kernel.dram_milli = 100;
    hungry.kernel.dram_milli = 1000;
    world_submit(&w, 0, modest, 0);
    world_submit(&w, 1, hungry, 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 900);
    assert_done_at(&w, 1, 1, 1090); /* 900 x 0.9 done by then, the rest at full speed */
    world_close(&w);
}

static void devices(void **state)
{
    (void)state;
    static const struct { const char *name; int sms; } known[] = {
        {"v100-16gb", 80}, {"a100-40gb", 108}, {"h100-80gb", 132}};
    struct sim_gpu_conf conf;
    struct fast_err err;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(sim_gpu_conf_named(known[i].name, &conf, &err), 0);
        assert_int_equal(conf.sms, known[i].sms);
        size_t len = strlen(conf.name);
        assert_string_equal(conf.name + len - 12, " (simulated)");
    }
    assert_int_equal(sim_gpu_conf_named("v100", &conf, &err), -FAST_ENOENT);
    assert_non_null(strstr(err.msg, "v100-16gb"));

    static const struct { int pct, sms; } v100[] = {
        {1, 2}, {6, 4}, {12, 8}, {24, 18}, {50, 40}, {60, 48}, {80, 64}, {100, 80}};
    assert_int_equal(sim_gpu_conf_named("v100-16gb", &conf, &err), 0);
    struct sim_gpu *gpu = malloc(sim_gpu_size());
    sim_gpu_init(gpu, &conf, 0);
    for (size_t i = 0; i < sizeof(v100) / sizeof(v100[0]); i++) {
        struct sim_client_conf client = {.mps = true, .sm_pct = v100[i].pct};
        int id = sim_gpu_client_add(gpu, &client, 0);
        assert_int_equal(sim_gpu_client_sms(gpu, id), v100[i].sms);
    }
    free(gpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_kernel_and_waves),
        cmocka_unit_test(activity_and_occupancy),
        cmocka_unit_test(partitions),
        cmocka_unit_test(side_by_side),
        cmocka_unit_test(oversubscribed),
        cmocka_unit_test(queues_of_one_client),
        cmocka_unit_test(priorities),
        cmocka_unit_test(time_slices),
        cmocka_unit_test(one_process_is_not_sliced),
        cmocka_unit_test(mps_takes_turns_with_others),
        cmocka_unit_test(dram_of_two_hungry_kernels),
        cmocka_unit_test(dram_of_a_modest_kernel),
        cmocka_unit_test(devices),
    };
    return cmocka_run_group_tests_name("sim_gpu", tests, NULL, NULL);
}
