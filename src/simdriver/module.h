#ifndef FAST_SIMDRIVER_MODULE_H
#define FAST_SIMDRIVER_MODULE_H

/* What a module image for the simulated GPU looks like: the counterpart of a cubin. It is an ELF
 * shared object for this machine that exports `fast_sim_module`. cuModuleLoad and friends accept it
 * where a real driver accepts a cubin; PTX text is accepted too, but its kernels only take time,
 * since nothing here can execute it. functions/ compiles its CUDA C kernels into this form. */

#include <stdint.h>

#define FAST_SIM_MODULE_MAGIC 0x46534d31u /* "FSM1" */
#define FAST_SIM_MODULE_SYMBOL "fast_sim_module"

/* A launch as the kernel sees it. |params| is what cuLaunchKernel got: one pointer a parameter. */
struct fast_sim_launch {
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    void **params;
};

/* The time model of one launch; see struct sim_kernel in sim/gpu.h for the meanings. */
struct fast_sim_cost {
    int64_t blocks;      /* blocks that compete for SMs; 0: the grid size */
    int64_t block_ns;    /* time of one block */
    int occupancy_milli; /* active warps over the warps of a block; 0: 1000 */
    int dram_milli;      /* share of DRAM bandwidth taken on the whole GPU */
    int64_t latency_ns;  /* fixed time before the first block */
};

struct fast_sim_kernel {
    const char *name;            /* as cuModuleGetFunction gets it */
    int param_count;
    const uint16_t *param_bytes; /* size of each parameter: they are copied at the launch */
    void (*run)(const struct fast_sim_launch *launch); /* computes; NULL: it only takes its time */
    void (*cost)(const struct fast_sim_launch *launch, struct fast_sim_cost *ret); /* NULL: default */
};

struct fast_sim_module {
    uint32_t magic;
    uint32_t kernel_count;
    const struct fast_sim_kernel *kernels;
};

#endif
