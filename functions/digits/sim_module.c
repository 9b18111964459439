/* The digits kernels for the simulated GPU: kernels.cu computed on the CPU, and how long each launch
 * would take. The times are estimates, not measurements. Assumptions, all for a Tesla V100:
 *   - 1,380 MHz (boost clock of its data sheet), so 0.725 ns a cycle;
 *   - a term of a sum is one multiply-add (4 cycles) that waits for a load from L1 (28 cycles; Jia et
 *     al., "Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking", 2018, table 3.1);
 *     the compiler unrolls the loops, so that 4 loads are on their way at once: 32 / 4 = 8 cycles;
 *   - 2 us to start and to end a kernel that does nothing.
 * Everything fits in L2, so no DRAM bandwidth is taken. */
#include "common/cuda_cpu.h"
#include "simdriver/module.h"

#include "digits/kernels.cu" // NOLINT(bugprone-suspicious-include)

enum { CYCLES_PER_TERM = 8, FIXED_CYCLES = 400, CYCLE_PS = 725, LAUNCH_NS = 2000 };

/* All threads of a block are resident at once and do |terms| terms each. */
static void thread_cost(const struct fast_sim_launch *launch, int64_t terms,
                        struct fast_sim_cost *ret)
{
    int64_t threads = (int64_t)launch->block[0] * launch->block[1] * launch->block[2];
    int64_t warps = (threads + 31) / 32;
    *ret = (struct fast_sim_cost){
        .block_ns = (FIXED_CYCLES + terms * CYCLES_PER_TERM) * CYCLE_PS / 1000,
        .occupancy_milli = (int)(threads * 1000 / (warps * 32)), .latency_ns = LAUNCH_NS};
}

#define PARAM(launch, index, type) (*(type *)(launch)->params[index])

static void conv_run(const struct fast_sim_launch *l)
{
    CUDA_CPU_FOR_EACH_THREAD(
        l->grid, l->block,
        digits_conv_relu(PARAM(l, 0, const float *), PARAM(l, 1, const float *),
                         PARAM(l, 2, const float *), PARAM(l, 3, float *), PARAM(l, 4, int)));
}

static void conv_cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    thread_cost(l, 9 * (int64_t)PARAM(l, 4, int), ret);
}

static void pool_run(const struct fast_sim_launch *l)
{
    CUDA_CPU_FOR_EACH_THREAD(l->grid, l->block,
                             digits_maxpool(PARAM(l, 0, const float *), PARAM(l, 1, float *)));
}

static void pool_cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    thread_cost(l, 4, ret);
}

static void fc_run(const struct fast_sim_launch *l)
{
    CUDA_CPU_FOR_EACH_THREAD(
        l->grid, l->block,
        digits_fc(PARAM(l, 0, const float *), PARAM(l, 1, const float *),
                  PARAM(l, 2, const float *), PARAM(l, 3, float *), PARAM(l, 4, int)));
}

static void fc_cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    thread_cost(l, PARAM(l, 4, int), ret);
}

static const uint16_t tensor_params[] = {8, 8, 8, 8, 4}, pool_params[] = {8, 8};

static const struct fast_sim_kernel kernels[] = {
    {"digits_conv_relu", 5, tensor_params, conv_run, conv_cost},
    {"digits_maxpool", 2, pool_params, pool_run, pool_cost},
    {"digits_fc", 5, tensor_params, fc_run, fc_cost},
};

extern const struct fast_sim_module fast_sim_module;

__attribute__((visibility("default"))) const struct fast_sim_module fast_sim_module = {
    FAST_SIM_MODULE_MAGIC, sizeof(kernels) / sizeof(kernels[0]), kernels};
