/* gpu-watch PERIOD_MS: what NVML says of GPU 0, a line of JSON every PERIOD_MS, until its standard
 * input ends. GPM (from Hopper on) gives the share of SMs at work and of warp slots in use between two
 * samples; without it the line has what there is: nvmlDeviceGetUtilizationRates. Per-process figures
 * are there to see whether they mean anything under MPS. It has no CUDA context. */
#include <dlfcn.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PROCS 64
#define METRICS_MAX 512 /* above every NVML's; it reads as many as it is told */

typedef struct nvml_device *nvml_device;
typedef struct nvml_sample *nvml_sample;

/* nvml.h, as far as it is used here. */
struct memory {
    unsigned long long total, free, used;
};
struct utilization {
    unsigned gpu, memory;
};
struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};
struct process_use {
    unsigned pid;
    unsigned long long stamp_us;
    unsigned sm, memory, encoder, decoder;
};
struct gpm_support {
    unsigned version, supported;
};
struct gpm_metric {
    unsigned id;
    int result;
    double value;
    char *names[3];
};
struct gpm_get {
    unsigned version, count;
    nvml_sample before, after;
    struct gpm_metric metric[METRICS_MAX];
};

static const struct {
    unsigned id;
    const char *name;
} metrics[] = {{1, "graphics_util"}, {2, "sm_util"}, {3, "sm_occupancy"}, {5, "tensor"},
               {10, "dram"},         {20, "pcie_tx"}, {21, "pcie_rx"}};
#define METRICS (sizeof(metrics) / sizeof(metrics[0]))

struct nvml {
    int (*init)(void);
    int (*by_index)(unsigned, nvml_device *);
    int (*driver)(char *, unsigned);
    int (*memory)(nvml_device, struct memory *);
    int (*utilization)(nvml_device, struct utilization *);
    int (*compute)(nvml_device, unsigned *, struct process *);
    int (*mps)(nvml_device, unsigned *, struct process *);
    int (*use)(nvml_device, struct process_use *, unsigned *, unsigned long long);
    int (*gpm_support)(nvml_device, struct gpm_support *);
    int (*gpm_alloc)(nvml_sample *);
    int (*gpm_sample)(nvml_device, nvml_sample);
    int (*gpm_get)(struct gpm_get *);
    nvml_device device;
    nvml_sample sample[2]; /* NULL: no GPM */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool load(struct nvml *n)
{
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    const struct {
        void *fn;
        const char *name;
    } rows[] = {{&n->init, "nvmlInit_v2"},
                {&n->by_index, "nvmlDeviceGetHandleByIndex_v2"},
                {&n->driver, "nvmlSystemGetDriverVersion"},
                {&n->memory, "nvmlDeviceGetMemoryInfo"},
                {&n->utilization, "nvmlDeviceGetUtilizationRates"},
                {&n->compute, "nvmlDeviceGetComputeRunningProcesses_v3"},
                {&n->mps, "nvmlDeviceGetMPSComputeRunningProcesses_v3"},
                {&n->use, "nvmlDeviceGetProcessUtilization"},
                {&n->gpm_support, "nvmlGpmQueryDeviceSupport"},
                {&n->gpm_alloc, "nvmlGpmSampleAlloc"},
                {&n->gpm_sample, "nvmlGpmSampleGet"},
                {&n->gpm_get, "nvmlGpmMetricsGet"}};
    for (size_t i = 0; lib && i < sizeof(rows) / sizeof(rows[0]); i++)
        *(void **)rows[i].fn = dlsym(lib, rows[i].name);
    return lib && n->init && n->by_index && !n->init() && !n->by_index(0, &n->device);
}

static const char *begin_gpm(struct nvml *n)
{
    struct gpm_support s = {.version = 1};
    if (!n->gpm_support || !n->gpm_alloc || !n->gpm_sample || !n->gpm_get)
        return "not in this NVML";
    int r = n->gpm_support(n->device, &s);
    if (r || !s.supported)
        return r ? "the question failed" : "not on this GPU";
    if (n->gpm_alloc(&n->sample[0]) || n->gpm_alloc(&n->sample[1]))
        return "no memory";
    if (n->gpm_sample(n->device, n->sample[0])) {
        n->sample[0] = NULL;
        return "a sample failed (only root may take one)";
    }
    return "yes";
}

static void print_gpm(struct nvml *n)
{
    static struct gpm_get get;
    if (!n->sample[0] || n->gpm_sample(n->device, n->sample[1]))
        return;
    memset(&get, 0, sizeof(get));
    get.version = 1;
    get.count = METRICS;
    get.before = n->sample[0];
    get.after = n->sample[1];
    for (size_t i = 0; i < METRICS; i++)
        get.metric[i].id = metrics[i].id;
    if (!n->gpm_get(&get))
        for (size_t i = 0; i < METRICS; i++)
            if (!get.metric[i].result)
                printf(", \"%s\": %.4f", metrics[i].name, get.metric[i].value);
    nvml_sample last = n->sample[0];
    n->sample[0] = n->sample[1];
    n->sample[1] = last;
}

static void print_processes(const struct nvml *n, const char *name,
                            int (*list)(nvml_device, unsigned *, struct process *))
{
    struct process rows[PROCS];
    unsigned count = PROCS;
    if (!list || list(n->device, &count, rows))
        return;
    printf(", \"%s\": {", name);
    for (unsigned i = 0; i < count; i++)
        printf("%s\"%u\": %.1f", i ? ", " : "", rows[i].pid, (double)rows[i].used / (1 << 20));
    printf("}");
}

static void print_use(const struct nvml *n, unsigned long long *since)
{
    struct process_use rows[PROCS];
    unsigned count = PROCS;
    if (!n->use)
        return;
    int r = n->use(n->device, rows, &count, *since);
    printf(", \"process_use_result\": %d, \"process_sm_util\": {", r);
    for (unsigned i = 0; !r && i < count; i++) {
        printf("%s\"%u\": %u", i ? ", " : "", rows[i].pid, rows[i].sm);
        if (rows[i].stamp_us > *since)
            *since = rows[i].stamp_us;
    }
    printf("}");
}

static void print_line(struct nvml *n, unsigned long long *since)
{
    struct memory m;
    struct utilization u;
    printf("{\"t\": %.6f", now_s());
    if (n->utilization && !n->utilization(n->device, &u))
        printf(", \"util\": %u, \"memory_util\": %u", u.gpu, u.memory);
    if (n->memory && !n->memory(n->device, &m))
        printf(", \"memory_mib\": %.1f", (double)m.used / (1 << 20));
    print_gpm(n);
    print_processes(n, "processes_mib", n->compute);
    print_processes(n, "mps_processes_mib", n->mps);
    print_use(n, since);
    printf("}\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct nvml n = {0};
    char driver[96] = "unknown", c;
    int period = argc == 2 ? atoi(argv[1]) : 0;
    unsigned long long since = 0;
    struct pollfd end = {.fd = STDIN_FILENO, .events = POLLIN};
    if (period < 10)
        return fputs("usage: gpu-watch PERIOD_MS    (10 or more; ends with its standard input)\n", stderr), 2;
    if (!load(&n)) {
        fputs("gpu-watch: libnvidia-ml.so.1 cannot be loaded or finds no GPU\n", stderr);
        return 1;
    }
    if (n.driver)
        n.driver(driver, sizeof(driver));
    const char *gpm = begin_gpm(&n);
    printf("{\"driver\": \"%s\", \"gpm\": \"%s\"}\n", driver, gpm);
    fflush(stdout);
    for (;;) {
        if (poll(&end, 1, period) > 0 && read(STDIN_FILENO, &c, 1) <= 0)
            return 0;
        print_line(&n, &since);
    }
}
