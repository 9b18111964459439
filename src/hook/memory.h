#ifndef FAST_HOOK_MEMORY_H
#define FAST_HOOK_MEMORY_H

/* The memory cap of the replica. */

#include <stdbool.h>
#include <stdint.h>

#include "hook/hook.h"
#include "wire/msg.h"

/* Reserves at the node; when the cap does not have it, pools give up what they keep unused first. */
bool fast_memory_reserve(uint32_t gpu, uint64_t bytes, uint32_t family);

/* ---- pool.c ---- */

/* Reserves what |pool| (NULL: the device's, which is set) lacks for |bytes| more. False: refused. */
bool fast_pool_before(CUmemoryPool *pool, int gpu, uint64_t bytes, uint64_t *ret_charged);
/* After the driver's answer. False: the pool has reserved more than the cap has. */
bool fast_pool_after(CUmemoryPool pool, int gpu, uint64_t charged);
/* Brings the charges of all pools up to date. |trim|: after they gave up what is unused. */
void fast_pool_look(bool trim);
/* The pool is about to be destroyed; its handle may not be used any more. */
void fast_pool_forget(CUmemoryPool pool);

/* ---- access.c ---- */

/* The range is not mapped any more: what is mapped there next may be written. */
void fast_access_unmapped(CUdeviceptr at, size_t bytes);

/* ---- graph_memory.c ---- */

/* A launch of a graph, which may allocate. */
struct fast_graph_launch {
    int gpu; /* -1: nothing to charge */
};

/* Reserves what the launch may allocate. False: refused. */
bool fast_graph_before(struct fast_graph_launch *launch);
/* After the driver's answer. */
void fast_graph_after(const struct fast_graph_launch *launch);
/* A stream-ordered allocation became a node of the graph that is being captured. */
void fast_graph_captured(uint64_t bytes);
/* Brings the charge up to date. |trim|: after the graphs gave up what is unused. */
void fast_graph_look(bool trim);

/* The GPU of the current context, -1: none that is limited. */
int fast_memory_gpu(void);

/* A context has ended, and with it all memory that was allocated in it but cuMemCreate's. */
void fast_memory_forget(CUcontext ctx);

/* Makes a report of the driver fit the cap; |free_bytes| may be NULL. False: there is no cap. */
bool fast_memory_clamp(uint32_t gpu, uint64_t *total, uint64_t *free_bytes);

#endif
