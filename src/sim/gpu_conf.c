/* The devices that can be simulated. SMs, memory and links are those of the data sheets, with what a
 * copy reaches of a link. NVIDIA publishes neither the time slice nor the cost of a switch between
 * processes: the slice is a round number of the right size, the switch is fitted to one model that
 * raced against itself on a V100 (models/README.md) and taken over for the other devices. */

#include <string.h>

#include "base/mem.h"
#include "sim/gpu.h"

static const struct {
    const char *name;
    struct sim_gpu_conf conf;
} devices[] = {
    {"v100-16gb",
     {.name = "Tesla V100-SXM2-16GB (simulated)", .sms = 80, .threads_per_sm = 2048,
      .blocks_per_sm = 32, .cc_major = 7, .cc_minor = 0, .mem_bytes = FAST_MIB(16160),
      .sm_granularity = 2, .timeslice_ns = FAST_MS(2), .switch_ns = FAST_US(650),
      .copy_bytes_per_us = 12000, .dram_bytes_per_us = 900000}},
    {"a100-40gb",
     {.name = "NVIDIA A100-SXM4-40GB (simulated)", .sms = 108, .threads_per_sm = 2048,
      .blocks_per_sm = 32, .cc_major = 8, .cc_minor = 0, .mem_bytes = FAST_MIB(40536),
      .sm_granularity = 2, .timeslice_ns = FAST_MS(2), .switch_ns = FAST_US(650),
      .copy_bytes_per_us = 25000, .dram_bytes_per_us = 1555000}},
    {"h100-80gb",
     {.name = "NVIDIA H100 80GB HBM3 (simulated)", .sms = 132, .threads_per_sm = 2048,
      .blocks_per_sm = 32, .cc_major = 9, .cc_minor = 0, .mem_bytes = FAST_MIB(81559),
      .sm_granularity = 2, .timeslice_ns = FAST_MS(2), .switch_ns = FAST_US(650),
      .copy_bytes_per_us = 50000, .dram_bytes_per_us = 3350000}},
};

int sim_gpu_conf_named(const char *name, struct sim_gpu_conf *ret, struct fast_err *err)
{
    for (size_t i = 0; i < FAST_COUNT_OF(devices); i++) {
        if (strcmp(devices[i].name, name) == 0) {
            *ret = devices[i].conf;
            return 0;
        }
    }
    return fast_err_set(err, FAST_ENOENT,
                        "simulated device \"%.40s\" is not one of v100-16gb, a100-40gb, h100-80gb",
                        name);
}
