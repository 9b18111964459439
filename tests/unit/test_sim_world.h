#ifndef FAST_TESTS_UNIT_TEST_SIM_WORLD_H
#define FAST_TESTS_UNIT_TEST_SIM_WORLD_H

/* A small simulated GPU with round numbers, and clients with one queue each. */

#include <stdlib.h>

#include "sim/gpu.h"

#include "test.h"

#define WORLD_CLIENTS 4

/* 10 SMs that hold 4 blocks of 512 threads each: 40 blocks are one wave. */
static const struct sim_gpu_conf world_conf = {
    .name = "small (simulated)", .sms = 10, .threads_per_sm = 2048, .blocks_per_sm = 32,
    .mem_bytes = FAST_GIB(1), .sm_granularity = 1, .timeslice_ns = 2000, .switch_ns = 100,
    .copy_bytes_per_us = 1000, .dram_bytes_per_us = 100000};

struct world {
    struct sim_gpu *gpu;
    int client[WORLD_CLIENTS], queue[WORLD_CLIENTS];
};

/* Clients with |pct| of the SMs each; 0 is a process without MPS. */
static inline void world_open(struct world *w, int n, const int *pct)
{
    w->gpu = malloc(sim_gpu_size());
    assert_non_null(w->gpu);
    sim_gpu_init(w->gpu, &world_conf, 0);
    for (int i = 0; i < n; i++) {
        struct sim_client_conf conf = {.mps = pct[i] > 0, .sm_pct = pct[i] ? pct[i] : 100};
        w->client[i] = sim_gpu_client_add(w->gpu, &conf, 0);
        w->queue[i] = sim_gpu_queue_add(w->gpu, w->client[i], 0, 0);
        assert_int_equal(w->client[i], i);
        assert_int_equal(w->queue[i], i);
    }
}

static inline void world_close(struct world *w)
{
    assert_true(sim_gpu_valid(w->gpu));
    free(w->gpu);
}

static inline struct sim_op world_kernel(int64_t blocks, fast_ns block_ns)
{
    return (struct sim_op){.kind = SIM_OP_KERNEL,
                           .kernel = {.blocks = blocks, .threads_per_block = 512,
                                      .block_ns = block_ns, .occupancy_milli = 1000}};
}

static inline struct sim_op world_copy(uint64_t bytes, enum sim_copy_dir dir)
{
    return (struct sim_op){.kind = SIM_OP_COPY, .copy = {.bytes = bytes, .dir = dir}};
}

static inline struct sim_op world_wait(int queue, uint64_t seq)
{
    return (struct sim_op){.kind = SIM_OP_WAIT, .wait = {.queue = queue, .seq = seq}};
}

static inline uint64_t world_submit(struct world *w, int queue, struct sim_op op, fast_ns now)
{
    uint64_t seq = sim_gpu_submit(w->gpu, queue, &op, now);
    assert_true(sim_gpu_valid(w->gpu));
    return seq;
}

/* Runs until nothing changes any more. */
static inline void world_run(struct world *w)
{
    for (int i = 0; i < 100000 && sim_gpu_next(w->gpu) != FAST_NEVER; i++) {
        sim_gpu_advance(w->gpu, sim_gpu_next(w->gpu));
        assert_true(sim_gpu_valid(w->gpu));
    }
    assert_int_equal(sim_gpu_next(w->gpu), FAST_NEVER);
}

#define assert_done_at(w, queue, seq, at)                                                          \
    assert_int_equal(sim_gpu_done_at((w)->gpu, (queue), (seq)), (at))

#endif
