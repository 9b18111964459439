/* Kernels of the tests of the simulated driver. */
#include "simdriver/module.h"

static const uint16_t add_params[] = {8, 4, 4};
static const uint16_t spin_params[] = {8};
static const uint16_t poke_params[] = {8, 4};

static void add(const struct fast_sim_launch *l)
{
    int *p = *(int **)l->params[0];
    int value = *(const int *)l->params[1], n = *(const int *)l->params[2];
    for (int i = 0; i < n; i++)
        p[i] += value;
}

static void poke(const struct fast_sim_launch *l)
{
    **(int **)l->params[0] = *(const int *)l->params[1];
}

static void add_cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    (void)l;
    *ret = (struct fast_sim_cost){.block_ns = 100000};
}

static void spin_cost(const struct fast_sim_launch *l, struct fast_sim_cost *ret)
{
    *ret = (struct fast_sim_cost){.block_ns = *(const int64_t *)l->params[0]};
}

static const struct fast_sim_kernel kernels[] = {
    {"add", 3, add_params, add, add_cost},
    {"spin", 1, spin_params, 0, spin_cost},
    {"poke", 2, poke_params, poke, 0},
};

extern const struct fast_sim_module fast_sim_module;
__attribute__((visibility("default"))) const struct fast_sim_module fast_sim_module = {
    FAST_SIM_MODULE_MAGIC, sizeof(kernels) / sizeof(kernels[0]), kernels};
