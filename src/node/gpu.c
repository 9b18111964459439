/* Inventory and metrics of the GPUs. NVML is asked in this process: it has no CUDA state and its
 * calls take a millisecond at most. What a GPU cannot tell (SM activity needs GPM, from Hopper on)
 * is reported as 0. Everything works without NVML, but for the metrics. */
#include "node/gpu.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "node/manager.h"
#include "node/mps.h"
#include "node/stores.h"

/* nvml.h, as far as it is used here. */
typedef struct nvml_device *nvml_device;
typedef struct nvml_sample *nvml_sample;

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_utilization {
    unsigned gpu, memory; /* per cent */
};

struct nvml_gpm_support {
    unsigned version, supported;
};

struct nvml_gpm_metric {
    unsigned id;
    int result;
    double value; /* per cent */
    struct {
        char *short_name, *long_name, *unit;
    } info;
};

#define GPM_METRICS_MAX 512 /* above every NVML's; it reads as many as it is told */

struct nvml_gpm_get {
    unsigned version, count;
    nvml_sample before, after;
    struct nvml_gpm_metric metric[GPM_METRICS_MAX];
};

enum { GPM_GRAPHICS_UTIL = 1, GPM_SM_UTIL = 2, GPM_SM_OCCUPANCY = 3, GPM_DRAM_UTIL = 10 };

#define METRICS_MIN FAST_MS(90) /* GPM needs some time between two samples */

struct nvml {
    void *lib;
    int (*init)(void);
    int (*by_uuid)(const char *, nvml_device *);
    int (*by_index)(unsigned, nvml_device *);
    int (*memory)(nvml_device, struct nvml_memory *);
    int (*utilization)(nvml_device, struct nvml_utilization *);
    int (*driver)(char *, unsigned);
    int (*gpm_support)(nvml_device, struct nvml_gpm_support *);
    int (*gpm_alloc)(nvml_sample *);
    int (*gpm_free)(nvml_sample);
    int (*gpm_sample)(nvml_device, nvml_sample);
    int (*gpm_get)(struct nvml_gpm_get *);
};

struct gpu {
    struct node_gpu_info info;
    nvml_device dev; /* NULL: no metrics */
    nvml_sample sample[2]; /* NULL: no GPM; [0] is the last one taken */
    fast_ns asked;
    uint32_t util_milli, sm_milli, occupancy_milli, dram_milli;
};

struct node_gpus {
    struct nvml nvml;
    char driver[80];
    int count;
    struct gpu gpu[FAST_NODE_GPUS_MAX];
    struct nvml_gpm_get get; /* large; one at a time */
};

static int nvml_load(struct nvml *n, const char *sim_libs)
{
    char path[PATH_MAX] = "libnvidia-ml.so.1";
    if (sim_libs)
        snprintf(path, sizeof(path), "%s/libnvidia-ml.so.1", sim_libs);
    n->lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!n->lib)
        return -1;
    const struct {
        void *fn;
        const char *name;
    } names[] = {{&n->init, "nvmlInit_v2"},
                 {&n->by_uuid, "nvmlDeviceGetHandleByUUID"},
                 {&n->by_index, "nvmlDeviceGetHandleByIndex_v2"},
                 {&n->memory, "nvmlDeviceGetMemoryInfo"},
                 {&n->utilization, "nvmlDeviceGetUtilizationRates"},
                 {&n->driver, "nvmlSystemGetDriverVersion"},
                 {&n->gpm_support, "nvmlGpmQueryDeviceSupport"},
                 {&n->gpm_alloc, "nvmlGpmSampleAlloc"},
                 {&n->gpm_free, "nvmlGpmSampleFree"},
                 {&n->gpm_sample, "nvmlGpmSampleGet"},
                 {&n->gpm_get, "nvmlGpmMetricsGet"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        *(void **)names[i].fn = dlsym(n->lib, names[i].name);
    return n->init && !n->init() ? 0 : -1;
}

static void gpm_begin(struct nvml *n, struct gpu *g)
{
    struct nvml_gpm_support support = {.version = 1};
    if (!n->gpm_support || !n->gpm_alloc || !n->gpm_free || !n->gpm_sample || !n->gpm_get)
        return;
    if (n->gpm_support(g->dev, &support) || !support.supported)
        return;
    if (n->gpm_alloc(&g->sample[0]) || n->gpm_alloc(&g->sample[1]) ||
        n->gpm_sample(g->dev, g->sample[0]))
        g->sample[0] = NULL;
}

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
    g->count = n;
    bool metrics = !nvml_load(&g->nvml, sim_libs);
    if (!metrics || !g->nvml.driver || g->nvml.driver(g->driver, sizeof(g->driver)))
        snprintf(g->driver, sizeof(g->driver), "unknown");
    for (int i = 0; i < n; i++) {
        g->gpu[i].info = info[i];
        if (!metrics)
            continue;
        if ((!g->nvml.by_uuid || g->nvml.by_uuid(info[i].uuid, &g->gpu[i].dev)) &&
            (!g->nvml.by_index || g->nvml.by_index((unsigned)i, &g->gpu[i].dev)))
            g->gpu[i].dev = NULL;
        else
            gpm_begin(&g->nvml, &g->gpu[i]);
    }
    *ret = g;
    return 0;
}

void node_gpus_free(struct node_gpus *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->count; i++)
        for (int k = 0; k < 2; k++)
            if (g->gpu[i].sample[k] && g->nvml.gpm_free)
                g->nvml.gpm_free(g->gpu[i].sample[k]);
    free(g); /* the library stays: it may have threads */
}

static uint32_t milli(double per_cent)
{
    return per_cent <= 0 ? 0 : per_cent >= 100 ? 1000 : (uint32_t)(per_cent * 10 + 0.5);
}

static void measure_gpm(struct node_gpus *all, struct gpu *g)
{
    static const unsigned ids[] = {GPM_GRAPHICS_UTIL, GPM_SM_UTIL, GPM_SM_OCCUPANCY, GPM_DRAM_UTIL};
    uint32_t *out[] = {&g->util_milli, &g->sm_milli, &g->occupancy_milli, &g->dram_milli};
    struct nvml_gpm_get *get = &all->get;
    if (all->nvml.gpm_sample(g->dev, g->sample[1]))
        return;
    memset(get, 0, sizeof(*get));
    *get = (struct nvml_gpm_get){.version = 1, .count = 4, .before = g->sample[0], .after = g->sample[1]};
    for (int i = 0; i < 4; i++)
        get->metric[i].id = ids[i];
    if (!all->nvml.gpm_get(get))
        for (int i = 0; i < 4; i++)
            *out[i] = get->metric[i].result ? 0 : milli(get->metric[i].value);
    nvml_sample last = g->sample[0];
    g->sample[0] = g->sample[1];
    g->sample[1] = last;
}

static void measure(struct node_gpus *all, struct gpu *g)
{
    fast_ns now = fast_clock_now();
    struct nvml_utilization u;
    if (!g->dev || now - g->asked < METRICS_MIN)
        return;
    g->asked = now;
    if (g->sample[0]) {
        measure_gpm(all, g);
    } else if (all->nvml.utilization && !all->nvml.utilization(g->dev, &u)) {
        g->util_milli = milli(u.gpu);
        g->dram_milli = milli(u.memory);
    }
}

void node_gpu_row(struct node *node, uint32_t gpu, struct fast_msg_gpu_row *ret)
{
    struct gpu *g = &node->gpus->gpu[gpu];
    const struct node_pool *pool = &node->manager->pool[gpu];
    struct nvml_memory mem;
    measure(node->gpus, g);
    *ret = (struct fast_msg_gpu_row){
        .gpu = gpu, .uuid = fast_str(g->info.uuid), .name = fast_str(g->info.name),
        .sms = g->info.sms, .mem_total = g->info.mem_total, .mem_used = pool->device.used,
        .util_milli = g->util_milli, .sm_milli = g->sm_milli,
        .occupancy_milli = g->occupancy_milli, .dram_milli = g->dram_milli,
        .backend = node_mps_ready(node->mps) ? FAST_BACKEND_MPS : FAST_BACKEND_NONE,
        .hold_sm = node_mps_ready(node->mps) ? FAST_HOLD_SOFT : FAST_HOLD_ADVISORY,
        .hold_time = node_policy(node->manager)->policy == FAST_POLICY_RACING ? FAST_HOLD_ADVISORY
                                                                              : FAST_HOLD_SOFT,
        .hold_mem = FAST_HOLD_SOFT,
        .measures = g->sample[0] ? FAST_MEASURES_GPM : g->dev ? FAST_MEASURES_NVML : FAST_MEASURES_NONE,
        .tokens_out = (uint32_t)fast_sched_tokens_out(pool->sched)};
    node_stores_row(node->stores, gpu, ret);
    ret->mem_used += ret->mem_shared;
    if (g->dev && node->gpus->nvml.memory && !node->gpus->nvml.memory(g->dev, &mem))
        ret->mem_used = mem.used;
    for (const struct node_share *s = pool->shares; s; s = s->next) {
        ret->replicas++;
        ret->mem_capped += s->mem.cap ? s->mem.cap : pool->device.total;
    }
}

int node_gpu_count(const struct node_gpus *g)
{
    return g->count;
}

uint64_t node_gpu_mem(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? g->gpu[gpu].info.mem_total : 0;
}

bool node_gpu_free(const struct node_gpus *g, uint32_t gpu, uint64_t *ret)
{
    struct nvml_memory mem;
    if (gpu >= (uint32_t)g->count || !g->gpu[gpu].dev || !g->nvml.memory ||
        g->nvml.memory(g->gpu[gpu].dev, &mem))
        return false;
    *ret = mem.free;
    return true;
}

const char *node_gpu_driver(const struct node_gpus *g)
{
    return g->driver;
}

const char *node_gpu_uuid(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? g->gpu[gpu].info.uuid : "";
}

const struct node_gpu_info *node_gpu_info(const struct node_gpus *g, uint32_t gpu)
{
    return gpu < (uint32_t)g->count ? &g->gpu[gpu].info : NULL;
}
