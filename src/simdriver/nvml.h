#ifndef FAST_SIMDRIVER_NVML_H
#define FAST_SIMDRIVER_NVML_H

/* What the files of the simulated libnvidia-ml.so.1 share. */

#include "simdriver/shared.h"

#define NVML __attribute__((visibility("default"))) int

enum {
    NVML_SUCCESS = 0,
    NVML_UNINITIALIZED = 1,
    NVML_INVALID_ARGUMENT = 2,
    NVML_NOT_SUPPORTED = 3,
    NVML_NOT_FOUND = 6,
    NVML_INSUFFICIENT_SIZE = 7,
    NVML_DRIVER_NOT_LOADED = 9,
    NVML_VERSION_MISMATCH = 25,
    NVML_UNKNOWN = 999,
};

#define PROCS 256
#define RATE_SAMPLES 16

struct device {
    int index;
    struct sim_gpu_counters history[RATE_SAMPLES]; /* newest first */
    int samples;
    struct shared_proc procs[PROCS]; /* as of the last question about processes */
    int proc_count;
    fast_ns procs_at;
};

extern struct shared nvml_shared;

/* Entering: 0 with the lock held, or an error without it. */
int nvml_enter(void);
int nvml_enter_device(const struct device *d, const void *ret); /* and a device and a place for the answer */
int nvml_leave(int rc);
struct device *nvml_device(int index);

#endif
