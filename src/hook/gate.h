#ifndef FAST_HOOK_GATE_H
#define FAST_HOOK_GATE_H

/* Admission of work. The generated wrappers bracket the driver's function with enter and leave. */

#include <stdbool.h>
#include <stdint.h>

#include "cuda/abi.h"
#include "hook/hook.h"

/* Smaller copies and memsets are not gated: they are shorter than a round trip. */
#define FAST_GATE_COPY_MIN FAST_KIB(64)

/* A kernel before anything is learned: rather too long, or a queue of long kernels would be submitted
 * before the first of them has told its length. */
#define FAST_GATE_FIRST_NS 250000

enum fast_gate_kind {
    FAST_GATE_KERNEL,
    FAST_GATE_GRAPH,
    FAST_GATE_COPY,
    FAST_GATE_COPY_DONE, /* complete when the call returns: the host waits for it */
};

struct fast_gate_op {
    struct fast_ctx *ctx;
    struct fast_stream *stream;
    CUstream handle;
    uint64_t arg;
    uint32_t cost;
    uint32_t left; /* of the stream, before the call */
    uint8_t kind;
    bool per_thread;
    bool pdl;
    bool counted; /* false: only a sync point */
};

/* Waits until the work may be submitted. False: it is none of our business (no node, a capturing
 * stream, a small copy), and leave must not be called. |arg|: of a kernel whether it may overlap
 * with the launch before it, of a graph the executable graph, of a copy the bytes. */
bool fast_gate_enter(struct fast_gate_op *op, enum fast_gate_kind kind, CUstream stream,
                     bool per_thread, uint64_t arg);
void fast_gate_leave(struct fast_gate_op *op, CUresult result);

/* True when the launch carries the attribute for programmatic dependent launch. */
bool fast_gate_is_pdl(const CUlaunchConfig *config);
/* The stream captures: what it gets becomes nodes of a graph. */
bool fast_gate_capturing(CUstream stream, bool per_thread);
uint64_t fast_gate_sum(const size_t *sizes, size_t count);

/* Before a call that waits for the device, or asks: what this thread has submitted gets its
 * marker, so that its end is seen while the thread waits. */
void fast_gate_flush(void);
/* After it: looks what is complete. |waited|: the device was seen to finish just now; a call that
 * came back at once says nothing of when that was. */
void fast_gate_look(bool waited);

/* ---- stream.c ---- */

/* The default streams have small numbers; the per-thread one is another stream in each thread. */
static inline uintptr_t fast_stream_key(CUstream handle, bool per_thread)
{
    if (handle == NULL)
        handle = per_thread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
    return handle == CU_STREAM_PER_THREAD ? (uintptr_t)&fast_thread : (uintptr_t)handle;
}

/* The current context of this thread; NULL: there is none, or it cannot be watched now. */
struct fast_ctx *fast_ctx_current(void);
/* The context |ctx| is about to end, or its work is about to be thrown away. */
void fast_ctx_forget(CUcontext ctx);
struct fast_stream *fast_stream_find(struct fast_ctx *ctx, CUstream handle, bool per_thread)
    __attribute__((nonnull(1)));
/* The stream is about to be destroyed. */
void fast_stream_end(struct fast_ctx *ctx, CUstream handle);
/* Enqueues a marker behind everything that was submitted to the stream. */
void fast_stream_mark(struct fast_ctx *ctx, struct fast_stream *stream, CUstream handle,
                      bool per_thread);
/* How much of |left| is known to be complete. */
uint32_t fast_stream_done(struct fast_ctx *ctx, struct fast_stream *stream)
    __attribute__((nonnull));
/* Units of the stream that are not known to be complete, admitted work included. */
uint32_t fast_stream_pending(struct fast_ctx *ctx, struct fast_stream *stream)
    __attribute__((nonnull));
void fast_stream_synced(struct fast_stream *stream, uint32_t left);

/* ---- account.c ---- */

/* Units of the GPU that are not known to be complete, admitted work included. */
uint32_t fast_gpu_pending(uint32_t gpu);
/* Work was admitted on an idle GPU. */
void fast_gpu_begin(uint32_t gpu);
/* Looks at all streams of the GPU and does the accounting. True when nothing is in flight.
 * |at_sync|: the caller knows that now is the end of the work; |tails|: the hook thread, which takes
 * unmarked work for complete when its estimated time has passed. */
bool fast_gpu_settle(uint32_t gpu, bool at_sync, bool tails);
/* Estimated cost of a graph launch and of a kernel, in units. */
uint32_t fast_graph_cost(uint64_t exec, uint32_t gpu);
static inline uint32_t fast_kernel_cost(uint32_t gpu)
{
    uint32_t ns = atomic_load_explicit(&fast_hook.gpus[gpu].unit_ns, memory_order_relaxed);
    ns = ns ? ns : FAST_GATE_FIRST_NS;
    return ns < 1000 ? 1 : ns / 1000;
}

#endif
