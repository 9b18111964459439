/* replay's kernel for the simulated GPU: the launch says itself how long its blocks take and what
 * they occupy, so the cost is exactly that. It still counts its blocks, so that a launch that never
 * ran is noticed. */
#include "simdriver/module.h"

#define PARAM(launch, index, type) (*(type *)(launch)->params[index])

static int64_t grid_blocks(const struct fast_sim_launch *l)
{
    return (int64_t)l->grid[0] * l->grid[1] * l->grid[2];
}

static void spin_run(const struct fast_sim_launch *l)
{
    *PARAM(l, 3, unsigned *) += (unsigned)grid_blocks(l);
}

static void spin_cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    *ret = (struct fast_sim_cost){.blocks = grid_blocks(l),
                                  .block_ns = (int64_t)PARAM(l, 0, unsigned long long),
                                  .occupancy_milli = PARAM(l, 1, int),
                                  .dram_milli = PARAM(l, 2, int)};
}

static const uint16_t param_bytes[] = {8, 4, 4, 8};

static const struct fast_sim_kernel kernels[] = {
    {"replay_spin", 4, param_bytes, spin_run, spin_cost},
};

extern const struct fast_sim_module fast_sim_module;

__attribute__((visibility("default"))) const struct fast_sim_module fast_sim_module = {
    FAST_SIM_MODULE_MAGIC, 1, kernels};
