#ifndef FAST_NODE_NVML_H
#define FAST_NODE_NVML_H

/* What NVML tells of the GPUs. */

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

/* Shares over the time since the last but one question, in thousandths. */
struct node_gpu_shares {
    uint32_t known; /* FAST_KNOWN_*: which of the others mean something */
    uint32_t util_milli, sm_milli, occupancy_milli, dram_milli;
};

#define NODE_NVML_PROCESSES 256 /* of a GPU; MPS has 60 clients at most */

/* On one GPU. */
struct node_nvml_process {
    int pid; /* as NVML's driver counts: a node in a PID namespace of its own knows it by another one */
    uint64_t bytes;
};

struct node_nvml;

/* |path|: of the library. NULL: there is none that works. */
struct node_nvml *node_nvml_new(const char *path);
void node_nvml_free(struct node_nvml *nvml);
/* "": unknown */
const char *node_nvml_driver(const struct node_nvml *nvml);

/* From now on |gpu| (below FAST_NODE_GPUS_MAX) is the one of that UUID, if NVML knows it. */
void node_nvml_add(struct node_nvml *nvml, uint32_t gpu, const char *uuid);
/* Measures anew unless it has just done so. */
struct node_gpu_shares node_nvml_shares(struct node_nvml *nvml, uint32_t gpu, fast_ns now);
/* Returns how many processes have a context, of which |ret| has what they hold in all; -1: unknown. */
int node_nvml_processes(struct node_nvml *nvml, uint32_t gpu, struct node_nvml_process *ret, int max);
bool node_nvml_memory(struct node_nvml *nvml, uint32_t gpu, uint64_t *ret_used, uint64_t *ret_free);

#endif
