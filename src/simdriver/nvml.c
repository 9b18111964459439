/* libnvidia-ml.so.1 for the simulated GPUs: what monitoring programs ask for, answered from the model
 * that all processes share. Names end in "(simulated)", so that no figure passes for a GPU's. It only
 * looks: a process that uses NVML alone is not a client of any device. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "simdriver/nvml.h"

#define DRIVER_TEXT "580.00 (simulated)"
#define NVML_TEXT "13.580.00 (simulated)"
#define CUDA_VERSION 13000
#define RATE_WINDOW FAST_MS(1000) /* over which utilization is told */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
struct shared nvml_shared = {.fd = -1};
static int users;
static struct device devices[SHARED_DEVICES];

int nvml_leave(int rc)
{
    pthread_mutex_unlock(&lock);
    return rc;
}

int nvml_enter(void)
{
    pthread_mutex_lock(&lock);
    return users ? NVML_SUCCESS : nvml_leave(NVML_UNINITIALIZED);
}

/* Enters with a device and a place for the answer. */
int nvml_enter_device(const struct device *d, const void *ret)
{
    int rc = nvml_enter();
    if (rc)
        return rc;
    bool known = d >= devices && d < devices + nvml_shared.devices && d == &devices[d->index];
    return known && ret ? NVML_SUCCESS : nvml_leave(NVML_INVALID_ARGUMENT);
}

struct device *nvml_device(int index)
{
    return &devices[index];
}

static void remember(struct device *d, const struct sim_gpu_counters *c)
{
    if (d->samples && c->at - d->history[0].at < RATE_WINDOW / RATE_SAMPLES)
        return;
    if (d->samples < RATE_SAMPLES)
        d->samples++;
    memmove(d->history + 1, d->history, sizeof(*d->history) * (size_t)(d->samples - 1));
    d->history[0] = *c;
}

static int init(void)
{
    struct fast_err err;
    if (!nvml_shared.head && shared_open(&nvml_shared, &err))
        return err.code == FAST_EIO || err.code == FAST_EBUSY ? NVML_UNKNOWN
                                                             : NVML_DRIVER_NOT_LOADED;
    for (int i = 0; i < nvml_shared.devices && !users; i++) {
        struct sim_gpu_counters c = shared_counters(&nvml_shared, i);
        devices[i].index = i;
        devices[i].samples = 0;
        remember(&devices[i], &c);
        devices[i].proc_count = shared_procs(&nvml_shared, i, devices[i].procs, PROCS);
        devices[i].procs_at = shared_now();
    }
    users++;
    return NVML_SUCCESS;
}

NVML nvmlInit_v2(void)
{
    pthread_mutex_lock(&lock);
    return nvml_leave(init());
}

NVML nvmlInit(void)
{
    return nvmlInit_v2();
}

NVML nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return nvmlInit_v2();
}

/* The mapping stays: closing its descriptors could drop the locks of a CUDA context beside us. */
NVML nvmlShutdown(void)
{
    int rc = nvml_enter();
    if (rc)
        return rc;
    users--;
    return nvml_leave(NVML_SUCCESS);
}

__attribute__((visibility("default"))) const char *nvmlErrorString(int code)
{
    switch (code) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_UNINITIALIZED:
        return "Uninitialized";
    case NVML_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_NOT_FOUND:
        return "Not Found";
    case NVML_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_VERSION_MISMATCH:
        return "Argument version mismatch";
    default:
        return "Unknown Error";
    }
}

/* ---- the system ---- */

static int answer(char *ret, unsigned len, const char *text)
{
    if (!ret)
        return NVML_INVALID_ARGUMENT;
    if (len < strlen(text) + 1)
        return NVML_INSUFFICIENT_SIZE;
    memcpy(ret, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

NVML nvmlSystemGetDriverVersion(char *ret, unsigned len)
{
    int rc = nvml_enter();
    return rc ? rc : nvml_leave(answer(ret, len, DRIVER_TEXT));
}

NVML nvmlSystemGetNVMLVersion(char *ret, unsigned len)
{
    int rc = nvml_enter();
    return rc ? rc : nvml_leave(answer(ret, len, NVML_TEXT));
}

NVML nvmlSystemGetCudaDriverVersion(int *ret)
{
    if (!ret)
        return NVML_INVALID_ARGUMENT;
    *ret = CUDA_VERSION;
    return NVML_SUCCESS;
}

NVML nvmlSystemGetCudaDriverVersion_v2(int *ret)
{
    return nvmlSystemGetCudaDriverVersion(ret);
}

NVML nvmlSystemGetProcessName(unsigned pid, char *ret, unsigned len)
{
    char path[64], name[256];
    snprintf(path, sizeof(path), "/proc/%u/comm", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return NVML_NOT_FOUND;
    bool read = fgets(name, sizeof(name), f) != NULL;
    fclose(f);
    if (!read)
        return NVML_NOT_FOUND;
    name[strcspn(name, "\n")] = '\0';
    return answer(ret, len, name);
}

/* ---- devices ---- */

NVML nvmlDeviceGetCount_v2(unsigned *ret)
{
    int rc = nvml_enter();
    if (rc)
        return rc;
    if (!ret)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    *ret = (unsigned)nvml_shared.devices;
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetCount(unsigned *ret)
{
    return nvmlDeviceGetCount_v2(ret);
}

NVML nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **ret)
{
    int rc = nvml_enter();
    if (rc)
        return rc;
    if (!ret || index >= (unsigned)nvml_shared.devices)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    *ret = &devices[index];
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetHandleByIndex(unsigned index, struct device **ret)
{
    return nvmlDeviceGetHandleByIndex_v2(index, ret);
}

NVML nvmlDeviceGetHandleByUUID(const char *uuid, struct device **ret)
{
    char text[48];
    int rc = nvml_enter();
    if (rc)
        return rc;
    if (!ret || !uuid)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    for (int i = 0; i < nvml_shared.devices; i++) {
        shared_uuid_text(&nvml_shared, i, text);
        if (strcmp(text, uuid))
            continue;
        *ret = &devices[i];
        return nvml_leave(NVML_SUCCESS);
    }
    return nvml_leave(NVML_NOT_FOUND);
}

NVML nvmlDeviceGetIndex(struct device *d, unsigned *ret)
{
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    *ret = (unsigned)d->index;
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetName(struct device *d, char *ret, unsigned len)
{
    int rc = nvml_enter_device(d, ret);
    return rc ? rc : nvml_leave(answer(ret, len, shared_conf(&nvml_shared, d->index)->name));
}

NVML nvmlDeviceGetUUID(struct device *d, char *ret, unsigned len)
{
    char text[48];
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    shared_uuid_text(&nvml_shared, d->index, text);
    return nvml_leave(answer(ret, len, text));
}

NVML nvmlDeviceGetMinorNumber(struct device *d, unsigned *ret)
{
    return nvmlDeviceGetIndex(d, ret);
}

NVML nvmlDeviceGetCudaComputeCapability(struct device *d, int *major, int *minor)
{
    int rc = nvml_enter_device(d, major && minor ? major : NULL);
    if (rc)
        return rc;
    *major = shared_conf(&nvml_shared, d->index)->cc_major;
    *minor = shared_conf(&nvml_shared, d->index)->cc_minor;
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetComputeMode(struct device *d, int *ret)
{
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    *ret = 0; /* NVML_COMPUTEMODE_DEFAULT */
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetMigMode(struct device *d, unsigned *current, unsigned *pending)
{
    int rc = nvml_enter_device(d, current);
    if (rc)
        return rc;
    (void)pending;
    return nvml_leave(NVML_NOT_SUPPORTED);
}

/* ---- memory ---- */

struct memory {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

static void read_memory(int device, struct memory *ret)
{
    shared_reap(&nvml_shared);
    ret->total = shared_total(&nvml_shared, device);
    ret->used = shared_used(&nvml_shared, device);
    ret->free = ret->used < ret->total ? ret->total - ret->used : 0;
}

NVML nvmlDeviceGetMemoryInfo(struct device *d, struct memory *ret)
{
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    read_memory(d->index, ret);
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory_v2 *ret)
{
    struct memory m;
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    if (ret->version != (sizeof(*ret) | 2u << 24))
        return nvml_leave(NVML_VERSION_MISMATCH);
    read_memory(d->index, &m);
    ret->total = m.total;
    ret->reserved = 0;
    ret->free = m.free;
    ret->used = m.used;
    return nvml_leave(NVML_SUCCESS);
}

/* ---- utilization ---- */

struct utilization {
    unsigned gpu, memory;
};

static unsigned percent(fast_ns part, fast_ns whole)
{
    if (whole <= 0 || part <= 0)
        return 0;
    return part >= whole ? 100 : (unsigned)((part * 100 + whole / 2) / whole);
}

NVML nvmlDeviceGetUtilizationRates(struct device *d, struct utilization *ret)
{
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    struct sim_gpu_counters now = shared_counters(&nvml_shared, d->index);
    /* Since the oldest sample in the window, or the newest one if all are older. */
    int i = 0;
    while (i + 1 < d->samples && now.at - d->history[i + 1].at <= RATE_WINDOW)
        i++;
    const struct sim_gpu_counters *then = &d->history[i];
    ret->gpu = percent(now.busy_ns - then->busy_ns, now.at - then->at);
    ret->memory = percent(now.dram_ns - then->dram_ns, now.at - then->at);
    remember(d, &now);
    return nvml_leave(NVML_SUCCESS);
}

/* ---- processes ---- */

struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
};

NVML nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *count,
                                             struct process *ret)
{
    struct shared_proc procs[PROCS];
    int rc = nvml_enter_device(d, count);
    if (rc)
        return rc;
    shared_reap(&nvml_shared);
    unsigned n = (unsigned)shared_procs(&nvml_shared, d->index, procs, PROCS), room = *count;
    *count = n;
    if (n > room || (n && !ret))
        return nvml_leave(NVML_INSUFFICIENT_SIZE);
    for (unsigned i = 0; i < n; i++)
        ret[i] = (struct process){(unsigned)procs[i].pid, procs[i].bytes, ~0u, ~0u};
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetComputeRunningProcesses_v2(struct device *d, unsigned *count,
                                             struct process *ret)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(d, count, ret);
}

/* As older programs know it: without the two fields for MIG. */
struct process_v1 {
    unsigned pid;
    unsigned long long bytes;
};

NVML nvmlDeviceGetComputeRunningProcesses(struct device *d, unsigned *count, struct process_v1 *ret)
{
    struct process all[PROCS];
    unsigned n = PROCS;
    int rc = count ? nvmlDeviceGetComputeRunningProcesses_v3(d, &n, all) : NVML_INVALID_ARGUMENT;
    if (rc)
        return rc;
    bool fits = n <= *count && (n == 0 || ret);
    *count = n;
    for (unsigned i = 0; fits && i < n; i++)
        ret[i] = (struct process_v1){all[i].pid, all[i].bytes};
    return fits ? NVML_SUCCESS : NVML_INSUFFICIENT_SIZE;
}

NVML nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *d, unsigned *count,
                                              struct process *ret)
{
    int rc = nvml_enter_device(d, count);
    if (rc)
        return rc;
    (void)ret;
    *count = 0;
    return nvml_leave(NVML_SUCCESS);
}

struct process_sample {
    unsigned pid;
    unsigned long long at_us;
    unsigned sm, memory, encoder, decoder;
};

static fast_ns busy_before(const struct device *d, int pid)
{
    for (int i = 0; i < d->proc_count; i++)
        if (d->procs[i].pid == pid)
            return d->procs[i].busy_ns;
    return 0;
}

/* The share of the time since the last question in which a process had a kernel running; only
 * processes that had one. */
NVML nvmlDeviceGetProcessUtilization(struct device *d, struct process_sample *ret, unsigned *count,
                                     unsigned long long since_us)
{
    struct shared_proc procs[PROCS];
    struct timespec wall;
    int rc = nvml_enter_device(d, count);
    if (rc)
        return rc;
    (void)since_us;
    clock_gettime(CLOCK_REALTIME, &wall);
    int n = shared_procs(&nvml_shared, d->index, procs, PROCS);
    n = n < PROCS ? n : PROCS;
    if (!ret || *count < (unsigned)n) {
        *count = (unsigned)n;
        return nvml_leave(n ? NVML_INSUFFICIENT_SIZE : NVML_NOT_FOUND);
    }
    fast_ns now = shared_now();
    unsigned used = 0;
    for (int i = 0; i < n; i++) {
        unsigned sm = percent(procs[i].busy_ns - busy_before(d, procs[i].pid), now - d->procs_at);
        if (sm)
            ret[used++] = (struct process_sample){
                .pid = (unsigned)procs[i].pid,
                .at_us = (unsigned long long)wall.tv_sec * 1000000 +
                         (unsigned long long)wall.tv_nsec / 1000,
                .sm = sm};
    }
    memcpy(d->procs, procs, sizeof(procs));
    d->proc_count = n;
    d->procs_at = now;
    *count = used;
    return nvml_leave(used ? NVML_SUCCESS : NVML_NOT_FOUND);
}
