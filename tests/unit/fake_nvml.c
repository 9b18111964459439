/* A fake libnvidia-ml.so.1 that answers what a test wants. With FAKE_OLD it is one from before GPM. */
#include "fake_nvml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NVML __attribute__((visibility("default"))) int

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, UNKNOWN = 999 };

__attribute__((visibility("default"))) struct fake_nvml fake_nvml;

static int fails(enum fake_fn fn)
{
    unsigned call = fake_nvml.calls[fn]++;
    return fake_nvml.fails[fn] >> (call < 31 ? call : 31) & 1;
}

NVML nvmlInit_v2(void)
{
    const char *env = getenv("FAKE_NVML");
    if (env && !strcmp(env, "no-gpm"))
        fake_nvml.no_gpm = 1;
    return fails(FAKE_INIT) ? UNKNOWN : OK;
}

NVML nvmlSystemGetDriverVersion(char *ret, unsigned size)
{
    snprintf(ret, size, "1.0 (fake)");
    return OK;
}

NVML nvmlDeviceGetHandleByUUID(const char *uuid, void **ret)
{
    if (fails(FAKE_UUID) || strncmp(uuid, "GPU-", 4) != 0)
        return NOT_FOUND;
    *ret = &fake_nvml;
    return OK;
}

NVML nvmlDeviceGetMemoryInfo(void *dev, unsigned long long ret[3])
{
    (void)dev;
    if (fails(FAKE_MEMORY))
        return UNKNOWN;
    ret[0] = 16ull << 30;
    ret[1] = ret[0] - fake_nvml.used;
    ret[2] = fake_nvml.used;
    return OK;
}

static int processes(int which, unsigned *count, struct fake_process *ret)
{
    unsigned n = 0;
    if (fails(FAKE_PROCESSES))
        return UNKNOWN;
    while (n < 4 && fake_nvml.process[which][n].pid)
        n++;
    if (*count < n)
        return INVALID;
    memcpy(ret, fake_nvml.process[which], n * sizeof(*ret));
    *count = n;
    return OK;
}

NVML nvmlDeviceGetComputeRunningProcesses_v3(void *dev, unsigned *count, struct fake_process *ret)
{
    (void)dev;
    return processes(0, count, ret);
}

NVML nvmlDeviceGetMPSComputeRunningProcesses_v3(void *dev, unsigned *count, struct fake_process *ret)
{
    (void)dev;
    return processes(1, count, ret);
}

NVML nvmlDeviceGetUtilizationRates(void *dev, unsigned ret[2])
{
    (void)dev;
    if (fails(FAKE_UTIL))
        return NOT_SUPPORTED;
    ret[0] = fake_nvml.util;
    ret[1] = 77; /* of the memory's time: something else than DRAM bandwidth */
    return OK;
}

#ifndef FAKE_OLD

struct metric {
    unsigned id;
    int result;
    double value;
    char *info[3];
};

struct get {
    unsigned version, count;
    void *before, *after;
    struct metric metric[];
};

NVML nvmlGpmQueryDeviceSupport(void *dev, unsigned ret[2])
{
    (void)dev;
    ret[1] = !fake_nvml.no_gpm;
    return OK;
}

NVML nvmlGpmSampleAlloc(void **ret)
{
    if (fails(FAKE_ALLOC))
        return UNKNOWN;
    *ret = malloc(1);
    fake_nvml.live++;
    return OK;
}

NVML nvmlGpmSampleFree(void *sample)
{
    free(sample);
    fake_nvml.live--;
    return OK;
}

NVML nvmlGpmSampleGet(void *dev, void *sample)
{
    (void)dev;
    (void)sample;
    return fails(FAKE_SAMPLE) ? UNKNOWN : OK;
}

NVML nvmlGpmMetricsGet(struct get *get)
{
    if (fails(FAKE_GET) || get->version != 1 || get->before == get->after)
        return INVALID;
    fake_nvml.before = get->before;
    for (unsigned i = 0; i < get->count; i++) {
        struct metric *m = &get->metric[i];
        m->result = m->id > 10 ? NOT_SUPPORTED : fake_nvml.result[m->id];
        m->value = m->id > 10 ? 0 : fake_nvml.share[m->id];
    }
    return OK;
}

#endif
