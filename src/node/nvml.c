/* NVML is asked in this process: it has no CUDA state and its calls take a millisecond at most. What a
 * GPU does not tell just now is not known: neither 0 nor what it told before. Shares of SMs, of warp slots
 * and of the memory's time need GPM, which GPUs have from Hopper on. */
#include "node/nvml.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "node/node.h"
#include "wire/msg.h"

/* nvml.h, as far as it is used here. */
typedef struct nvml_device *nvml_device;
typedef struct nvml_sample *nvml_sample;

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_utilization {
    unsigned gpu, memory; /* per cent */
};

struct nvml_process {
    unsigned pid;
    unsigned long long used; /* all bits set: unknown */
    unsigned gpu_instance, compute_instance;
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

#define MEASURE_EVERY FAST_MS(90) /* GPM needs some time between two samples */

struct gpu {
    nvml_device dev;       /* NULL: not known to NVML */
    nvml_sample sample[2]; /* NULL: no GPM */
    bool sampled;          /* [0] is the last one taken */
    fast_ns asked;         /* 0: never */
    struct node_gpu_shares shares;
};

struct node_nvml {
    int (*init)(void);
    int (*by_uuid)(const char *, nvml_device *);
    int (*memory)(nvml_device, struct nvml_memory *);
    int (*processes[2])(nvml_device, unsigned *, struct nvml_process *); /* [1]: clients of MPS */
    int (*utilization)(nvml_device, struct nvml_utilization *);
    int (*driver)(char *, unsigned);
    int (*gpm_support)(nvml_device, struct nvml_gpm_support *);
    int (*gpm_alloc)(nvml_sample *);
    int (*gpm_free)(nvml_sample);
    int (*gpm_sample)(nvml_device, nvml_sample);
    int (*gpm_get)(struct nvml_gpm_get *);
    char version[80];
    struct gpu gpu[FAST_NODE_GPUS_MAX];
    struct nvml_gpm_get get; /* large; one at a time */
};

struct node_nvml *node_nvml_new(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    struct node_nvml *n = lib ? calloc(1, sizeof(*n)) : NULL;
    if (!n)
        return NULL;
    const struct {
        void *fn;
        const char *name;
    } names[] = {{&n->init, "nvmlInit_v2"},
                 {&n->by_uuid, "nvmlDeviceGetHandleByUUID"},
                 {&n->memory, "nvmlDeviceGetMemoryInfo"},
                 {&n->processes[0], "nvmlDeviceGetComputeRunningProcesses_v3"},
                 {&n->processes[1], "nvmlDeviceGetMPSComputeRunningProcesses_v3"},
                 {&n->utilization, "nvmlDeviceGetUtilizationRates"},
                 {&n->driver, "nvmlSystemGetDriverVersion"},
                 {&n->gpm_support, "nvmlGpmQueryDeviceSupport"},
                 {&n->gpm_alloc, "nvmlGpmSampleAlloc"},
                 {&n->gpm_free, "nvmlGpmSampleFree"},
                 {&n->gpm_sample, "nvmlGpmSampleGet"},
                 {&n->gpm_get, "nvmlGpmMetricsGet"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        *(void **)names[i].fn = dlsym(lib, names[i].name);
    if (!n->init || n->init()) {
        free(n);
        return NULL;
    }
    if (!n->driver || n->driver(n->version, sizeof(n->version)))
        n->version[0] = '\0';
    return n;
}

static void drop_samples(struct node_nvml *n, struct gpu *g)
{
    for (int i = 0; i < 2; i++) {
        if (g->sample[i])
            n->gpm_free(g->sample[i]);
        g->sample[i] = NULL;
    }
}

void node_nvml_free(struct node_nvml *n)
{
    for (uint32_t i = 0; n && i < FAST_NODE_GPUS_MAX; i++)
        drop_samples(n, &n->gpu[i]);
    free(n); /* the library stays: it may have threads */
}

const char *node_nvml_driver(const struct node_nvml *n)
{
    return n->version;
}

static void gpm_begin(struct node_nvml *n, struct gpu *g)
{
    struct nvml_gpm_support support = {.version = 1};
    if (!n->gpm_support || !n->gpm_alloc || !n->gpm_free || !n->gpm_sample || !n->gpm_get)
        return;
    if (n->gpm_support(g->dev, &support) || !support.supported)
        return;
    for (int i = 0; i < 2; i++)
        if (n->gpm_alloc(&g->sample[i]))
            g->sample[i] = NULL;
    if (!g->sample[0] || !g->sample[1])
        drop_samples(n, g);
    else
        g->sampled = !n->gpm_sample(g->dev, g->sample[0]);
}

void node_nvml_add(struct node_nvml *n, uint32_t gpu, const char *uuid)
{
    struct gpu *g = &n->gpu[gpu];
    /* NVML's numbers are not CUDA's. */
    if (n->by_uuid && !n->by_uuid(uuid, &g->dev))
        gpm_begin(n, g);
    else
        g->dev = NULL;
}

/* A share that is none is not known either. Rounding may make it a little more than the whole. */
static void learn(struct node_gpu_shares *s, uint32_t which, uint32_t *milli, double per_cent)
{
    if (!(per_cent >= 0 && per_cent <= 101))
        return;
    *milli = per_cent >= 100 ? 1000 : (uint32_t)(per_cent * 10 + 0.5);
    s->known |= which;
}

static void measure_gpm(struct node_nvml *n, struct gpu *g, struct node_gpu_shares *s)
{
    const struct {
        uint32_t id, which, *milli;
    } wanted[] = {{GPM_GRAPHICS_UTIL, FAST_KNOWN_UTIL, &s->util_milli},
                  {GPM_SM_UTIL, FAST_KNOWN_SM, &s->sm_milli},
                  {GPM_SM_OCCUPANCY, FAST_KNOWN_OCCUPANCY, &s->occupancy_milli},
                  {GPM_DRAM_UTIL, FAST_KNOWN_DRAM, &s->dram_milli}};
    enum { WANTED = sizeof(wanted) / sizeof(wanted[0]) };
    struct nvml_gpm_get *get = &n->get;
    nvml_sample last = g->sample[0];
    if (n->gpm_sample(g->dev, g->sample[1]))
        return;
    g->sample[0] = g->sample[1];
    g->sample[1] = last;
    if (!g->sampled) {
        g->sampled = true;
        return;
    }
    memset(get, 0, sizeof(*get));
    *get = (struct nvml_gpm_get){.version = 1, .count = WANTED, .before = last, .after = g->sample[0]};
    for (int i = 0; i < WANTED; i++)
        get->metric[i].id = wanted[i].id;
    if (n->gpm_get(get))
        return;
    for (int i = 0; i < WANTED; i++)
        if (!get->metric[i].result)
            learn(s, wanted[i].which, wanted[i].milli, get->metric[i].value);
}

struct node_gpu_shares node_nvml_shares(struct node_nvml *n, uint32_t gpu, fast_ns now)
{
    struct gpu *g = &n->gpu[gpu];
    struct nvml_utilization u;
    if (!g->dev || (g->asked && now - g->asked < MEASURE_EVERY))
        return g->shares;
    g->asked = now;
    g->shares = (struct node_gpu_shares){0};
    if (g->sample[0])
        measure_gpm(n, g, &g->shares);
    if (!(g->shares.known & FAST_KNOWN_UTIL) && n->utilization && !n->utilization(g->dev, &u))
        learn(&g->shares, FAST_KNOWN_UTIL, &g->shares.util_milli, u.gpu);
    return g->shares;
}

/* A client of MPS may be told in both lists. */
static int add_process(struct node_nvml_process *list, int n, int max, const struct nvml_process *p)
{
    int i = 0;
    if (p->used == ~0ull)
        return n;
    while (i < n && list[i].pid != (int)p->pid)
        i++;
    if (i == max)
        return n;
    if (i == n)
        list[n++] = (struct node_nvml_process){(int)p->pid, p->used};
    else if (p->used > list[i].bytes)
        list[i].bytes = p->used;
    return n;
}

int node_nvml_processes(struct node_nvml *n, uint32_t gpu, struct node_nvml_process *ret, int max)
{
    struct nvml_process all[NODE_NVML_PROCESSES];
    nvml_device dev = n->gpu[gpu].dev;
    int found = -1;
    for (int k = 0; k < 2; k++) {
        unsigned count = NODE_NVML_PROCESSES;
        if (!dev || !n->processes[k] || n->processes[k](dev, &count, all))
            continue;
        found = found < 0 ? 0 : found;
        for (unsigned i = 0; i < count && i < NODE_NVML_PROCESSES; i++)
            found = add_process(ret, found, max, &all[i]);
    }
    return found;
}

bool node_nvml_memory(struct node_nvml *n, uint32_t gpu, uint64_t *ret_used, uint64_t *ret_free)
{
    struct nvml_memory m;
    nvml_device dev = n->gpu[gpu].dev;
    if (!dev || !n->memory || n->memory(dev, &m))
        return false;
    *ret_used = m.used;
    *ret_free = m.free;
    return true;
}
