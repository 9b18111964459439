#ifndef FAST_HOOK_MEMORY_H
#define FAST_HOOK_MEMORY_H

/* The memory cap of the replica. */

#include <stdbool.h>
#include <stdint.h>

#include "hook/hook.h"

/* How memory was allocated, as told to the node. */
enum fast_family {
    FAST_FAMILY_DEVICE,
    FAST_FAMILY_MANAGED,
    FAST_FAMILY_POOL,
    FAST_FAMILY_VMM,
    FAST_FAMILY_ARRAY,
};

/* A context has ended, and with it all memory that was allocated in it but cuMemCreate's. */
void fast_memory_forget(CUcontext ctx);

/* Makes a report of the driver fit the cap; |free_bytes| may be NULL. False: there is no cap. */
bool fast_memory_clamp(uint32_t gpu, uint64_t *total, uint64_t *free_bytes);

#endif
