#ifndef FAST_NODE_GPU_H
#define FAST_NODE_GPU_H

/* The GPUs of this machine and their metrics, through the driver's libraries. */

#include <limits.h>

#include "node/node.h"
#include "node/nvml.h"

#define NODE_UUID_MAX 48

struct node_gpu_info {
    char uuid[NODE_UUID_MAX]; /* GPU-8-4-4-4-12 */
    char name[96];
    uint32_t sms;
    uint64_t mem_total;
};

/* |sim_libs|: folder of the simulated libraries, NULL: the installed ones. The environment must be
 * set for them. FAST_ENOENT: there is no driver, or no GPU. */
int node_gpus_new(const char *sim_libs, struct node_gpus **ret, struct fast_err *err);
void node_gpus_free(struct node_gpus *gpus);
const char *node_gpu_uuid(const struct node_gpus *gpus, uint32_t gpu);
const struct node_gpu_info *node_gpu_info(const struct node_gpus *gpus, uint32_t gpu);

/* From now on no other node uses these GPUs. FAST_EBUSY: one does. */
int node_gpus_lock(struct node_gpus *gpus, struct fast_err *err);

/* ---- gpu_lock.c ---- */

struct node_gpu_lock {
    int fd; /* -1: none */
    char path[PATH_MAX];
};

int node_gpu_lock(const char *uuid, struct node_gpu_lock *ret, struct fast_err *err);
void node_gpu_unlock(struct node_gpu_lock *lock);

/* ---- gpu.c ---- */

/* node_nvml_processes() */
int node_gpu_processes(const struct node_gpus *gpus, uint32_t gpu, struct node_nvml_process *ret, int max);

/* ---- gpu_cuda.c: what only the CUDA driver knows ---- */

/* Asks the CUDA driver in a process of its own, so that this one never has a CUDA state, and a
 * driver that hangs does not hang the node. Returns how many GPUs there are (at most |max|). */
int node_cuda_inventory(const char *sim_libs, struct node_gpu_info *ret, int max,
                        struct fast_err *err);

#endif
