/* A kernel for the simulated GPU whose first launch takes long in the caller's thread and loads a library
 * meanwhile, as the first launch of a kernel does that a real driver has to compile. */
#include <dlfcn.h>
#include <stdatomic.h>
#include <unistd.h>

#include "simdriver/module.h"

#define COMPILE_US 300000

static void run(const struct fast_sim_launch *l)
{
    (void)l;
}

static void compile(void)
{
    void *lib = dlopen("libm.so.6", RTLD_NOW);
    if (lib && dlsym(lib, "cos"))
        usleep(COMPILE_US);
    if (lib)
        dlclose(lib);
}

static void cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    static _Atomic int compiled;
    if (!atomic_exchange(&compiled, 1))
        compile();
    *ret = (struct fast_sim_cost){.blocks = (int64_t)l->grid[0] * l->grid[1] * l->grid[2], .block_ns = 20000,
                                  .occupancy_milli = 500};
}

static const struct fast_sim_kernel kernels[] = {{"work", 0, NULL, run, cost}};

extern const struct fast_sim_module fast_sim_module;

__attribute__((visibility("default"))) const struct fast_sim_module fast_sim_module = {
    FAST_SIM_MODULE_MAGIC, 1, kernels};
