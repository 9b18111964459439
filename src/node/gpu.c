/* Inventory of the GPUs, and what is told of each. Everything works without NVML, but for what is measured. */
#include "node/gpu.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/manager.h"
#include "node/mps.h"
#include "node/nvml.h"
#include "node/stores.h"

struct node_gpus {
    struct node_nvml *nvml; /* NULL: there is none */
    int count;
    struct node_gpu_info info[FAST_NODE_GPUS_MAX];
    int locks;
    struct node_gpu_lock lock[FAST_NODE_GPUS_MAX];
};

int node_gpus_new(const char *sim_libs, struct node_gpus **ret, struct fast_err *err)
{
    struct node_gpu_info info[FAST_NODE_GPUS_MAX];
    memset(info, 0, sizeof(info));
    int n = node_cuda_inventory(sim_libs, info, FAST_NODE_GPUS_MAX, err);
    if (n < 0)
        return n;
    struct node_gpus *g = calloc(1, sizeof(*g));
    if (!g)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the inventory");
    char path[PATH_MAX] = "libnvidia-ml.so.1";
    if (sim_libs)
        snprintf(path, sizeof(path), "%s/libnvidia-ml.so.1", sim_libs);
    g->count = n;
    memcpy(g->info, info, sizeof(info));
    g->nvml = node_nvml_new(path);
    for (int i = 0; g->nvml && i < n; i++)
        node_nvml_add(g->nvml, (uint32_t)i, info[i].uuid);
    *ret = g;
    return 0;
}

void node_gpus_free(struct node_gpus *g)
{
    for (int i = 0; g && i < g->locks; i++)
        node_gpu_unlock(&g->lock[i]);
    if (g)
        node_nvml_free(g->nvml);
    free(g);
}

int node_gpus_lock(struct node_gpus *g, struct fast_err *err)
{
    for (int r; g->locks < g->count; g->locks++)
        if ((r = node_gpu_lock(g->info[g->locks].uuid, &g->lock[g->locks], err)))
            return r;
    return 0;
}

void node_gpu_row(struct node *node, uint32_t gpu, struct fast_msg_gpu_row *ret)
{
    struct node_gpus *g = node->gpus;
    const struct node_gpu_info *info = &g->info[gpu];
    const struct node_pool *pool = &node->manager->pool[gpu];
    struct node_gpu_shares s = {0};
    uint64_t used, available;
    if (g->nvml)
        s = node_nvml_shares(g->nvml, gpu, fast_clock_now());
    node_measure(node, gpu, fast_clock_now());
    *ret = (struct fast_msg_gpu_row){
        .gpu = gpu, .uuid = fast_str(info->uuid), .name = fast_str(info->name),
        .sms = info->sms, .mem_total = info->mem_total, .mem_used = pool->device.used,
        .known = s.known, .util_milli = s.util_milli, .sm_milli = s.sm_milli,
        .occupancy_milli = s.occupancy_milli, .dram_milli = s.dram_milli,
        .backend = node_mps_ready(node->mps) ? FAST_BACKEND_MPS : FAST_BACKEND_NONE,
        .hold_sm = node_mps_ready(node->mps) ? FAST_HOLD_SOFT : FAST_HOLD_ADVISORY,
        .hold_time = node_policy(node->manager)->policy == FAST_POLICY_RACING ? FAST_HOLD_ADVISORY
                                                                              : FAST_HOLD_SOFT,
        .hold_mem = FAST_HOLD_SOFT,
        .tokens_out = (uint32_t)fast_sched_tokens_out(pool->sched)};
    node_stores_row(node->stores, gpu, ret);
    ret->mem_used += ret->mem_shared;
    if (g->nvml && node_nvml_memory(g->nvml, gpu, &used, &available)) {
        ret->mem_used = used;
        ret->known |= FAST_KNOWN_MEM;
    }
    for (const struct node_share *of = pool->shares; of; of = of->next) {
        ret->replicas++;
        ret->mem_capped += of->mem.cap ? of->mem.cap : pool->device.total;
    }
}

int node_gpu_count(const struct node_gpus *g)
{
    return g->count;
}

uint64_t node_gpu_mem(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? g->info[gpu].mem_total : 0;
}

uint32_t node_gpu_sms(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? g->info[gpu].sms : 0;
}

bool node_gpu_free(const struct node_gpus *g, uint32_t gpu, uint64_t *ret)
{
    uint64_t used;
    return gpu < (uint32_t)g->count && g->nvml && node_nvml_memory(g->nvml, gpu, &used, ret);
}

int node_gpu_processes(const struct node_gpus *g, uint32_t gpu, struct node_nvml_process *ret, int max)
{
    return g->nvml ? node_nvml_processes(g->nvml, gpu, ret, max) : -1;
}

const char *node_gpu_driver(const struct node_gpus *g)
{
    const char *version = g->nvml ? node_nvml_driver(g->nvml) : "";
    return *version ? version : "unknown";
}

const char *node_gpu_uuid(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? g->info[gpu].uuid : "";
}

const struct node_gpu_info *node_gpu_info(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? &g->info[gpu] : NULL;
}
