#include "sim/gpu.h"

#include <stdlib.h>

#include "test.h"

/* A small device with round numbers: 10 SMs, 4 blocks of 512 threads on each. */
static const struct sim_gpu_conf small = {
    .name = "small (simulated)", .sms = 10, .threads_per_sm = 2048, .blocks_per_sm = 32,
    .mem_bytes = FAST_GIB(1), .sm_granularity = 1, .timeslice_ns = 2000, .switch_ns = 100,
    .copy_bytes_per_us = 1000, .dram_bytes_per_us = 100000};

struct world {
    struct sim_gpu *gpu;
    int client[4], queue[4];
};

/* Clients of |pct| SMs each with one queue; 0 is a process without MPS. */
static void open_world(struct world *w, int n, const int *pct)
{
    w->gpu = malloc(sim_gpu_size());
    sim_gpu_init(w->gpu, &small, 0);
    for (int i = 0; i < n; i++) {
        struct sim_client_conf conf = {.mps = pct[i] > 0, .sm_pct = pct[i] ? pct[i] : 100};
        w->client[i] = sim_gpu_client_add(w->gpu, &conf, 0);
        w->queue[i] = sim_gpu_queue_add(w->gpu, w->client[i], 0, 0);
        assert_int_equal(w->client[i], i);
        assert_int_equal(w->queue[i], i);
    }
}

static void close_world(struct world *w)
{
    assert_true(sim_gpu_valid(w->gpu));
    free(w->gpu);
}

static struct sim_op kernel(int64_t blocks, fast_ns block_ns, fast_ns latency_ns)
{
    return (struct sim_op){
        .kind = SIM_OP_KERNEL,
        .kernel = {.blocks = blocks, .threads_per_block = 512, .block_ns = block_ns,
                   .occupancy_milli = 1000, .latency_ns = latency_ns}};
}

static uint64_t submit(struct world *w, int i, struct sim_op op, fast_ns now)
{
    uint64_t seq = sim_gpu_submit(w->gpu, w->queue[i], &op, now);
    assert_true(sim_gpu_valid(w->gpu));
    return seq;
}

static fast_ns done_at(struct world *w, int i, uint64_t seq)
{
    return sim_gpu_done_at(w->gpu, w->queue[i], seq);
}

/* 40 blocks are one wave on the whole device; the 41st needs a second one. */
static void one_kernel_and_waves(void **state)
{
    (void)state;
    struct world w;
    open_world(&w, 1, (int[]){100});
    submit(&w, 0, kernel(40, 1000, 7), 50);
    assert_int_equal(sim_gpu_next(w.gpu), 57);
    assert_int_equal(sim_gpu_earliest(w.gpu, 0, 1), 1057);
    submit(&w, 0, kernel(41, 1000, 0), 60);
    assert_int_equal(sim_gpu_earliest(w.gpu, 0, 2), 3056); /* two roundings below 3057 */
    sim_gpu_advance(w.gpu, 1056);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 0);
    sim_gpu_advance(w.gpu, 1057);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 1);
    sim_gpu_advance(w.gpu, 5000);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 2);
    assert_int_equal(done_at(&w, 0, 1), 1057);
    assert_int_equal(done_at(&w, 0, 2), 3057);
    assert_int_equal(done_at(&w, 0, 3), FAST_NEVER);
    assert_int_equal(sim_gpu_next(w.gpu), FAST_NEVER);

    struct sim_gpu_counters c = sim_gpu_counters(w.gpu);
    assert_int_equal(c.at, 5000);
    assert_int_equal(c.busy_ns, 3000);
    assert_int_equal(c.kernels, 2);
    assert_int_equal(c.sm_ns, 10 * 1000 + 10 * 1000 + 1 * 1000); /* the last block is on one SM */
    assert_int_equal(c.warp_ns, 10 * 1000 + 41 * 1000 / 4);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_kernel_and_waves),
    };
    return cmocka_run_group_tests_name("sim_gpu", tests, NULL, NULL);
}
