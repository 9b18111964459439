#include "hook/gate.h"
#include "hook/memory.h"

/* Wrappers of what changes or ends contexts and streams, of captures, and of calls that wait for the
 * device. None of them is ever delayed; they only keep the accounting true. */

/* The macros of this file take whole parameter and argument lists. */
/* NOLINTBEGIN(bugprone-macro-parentheses) */

/* ---- contexts ---- */

/* The thread is about to work in another context, where its markers cannot be enqueued. */
static void leave_context(void)
{
    fast_gate_flush();
    fast_thread.ctx = NULL;
}

#define SWITCH(symbol, decl, call)                                                                 \
    FAST_EXPORT CUresult symbol decl                                                               \
    {                                                                                              \
        leave_context();                                                                           \
        return FAST_REAL(symbol) call;                                                             \
    }

SWITCH(cuCtxCreate, (CUcontext * ret, unsigned flags, CUdevice device), (ret, flags, device))
SWITCH(cuCtxCreate_v2, (CUcontext * ret, unsigned flags, CUdevice device), (ret, flags, device))
SWITCH(cuCtxCreate_v3,
       (CUcontext * ret, CUexecAffinityParam *params, int count, unsigned flags, CUdevice device),
       (ret, params, count, flags, device))
SWITCH(cuCtxCreate_v4,
       (CUcontext * ret, CUctxCreateParams *params, unsigned flags, CUdevice device),
       (ret, params, flags, device))
SWITCH(cuCtxAttach, (CUcontext * ret, unsigned flags), (ret, flags))
SWITCH(cuCtxPushCurrent, (CUcontext ctx), (ctx))
SWITCH(cuCtxPushCurrent_v2, (CUcontext ctx), (ctx))
SWITCH(cuCtxPopCurrent, (CUcontext * ret), (ret))
SWITCH(cuCtxPopCurrent_v2, (CUcontext * ret), (ret))
SWITCH(cuCtxSetCurrent, (CUcontext ctx), (ctx))

static void end_context(CUcontext ctx)
{
    fast_ctx_forget(ctx);
    fast_memory_forget(ctx);
}

/* Markers that are still to come would be written after the driver has let go of the page's
 * registration, so what they stand for counts as complete from here on. */
#define END_CONTEXT(symbol)                                                                        \
    FAST_EXPORT CUresult symbol(CUcontext ctx)                                                     \
    {                                                                                              \
        leave_context();                                                                           \
        CUresult r = FAST_REAL(symbol)(ctx);                                                       \
        if (r == CUDA_SUCCESS)                                                                     \
            end_context(ctx);                                                                      \
        return r;                                                                                  \
    }

END_CONTEXT(cuCtxDestroy)
END_CONTEXT(cuCtxDestroy_v2)
END_CONTEXT(cuCtxDetach)

/* A release may or may not be the last one. */
static void end_primary(CUresult r, CUdevice device)
{
    unsigned flags = 0;
    int active = 0;
    if (r == CUDA_SUCCESS && fast_hook.driver.primary_state)
        fast_hook.driver.primary_state(device, &flags, &active);
    if (r == CUDA_SUCCESS && !active && device >= 0 && device < FAST_PAGE_GPUS)
        end_context(atomic_load(&fast_hook.primary[device]));
}

FAST_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *ret, CUdevice device)
{
    CUresult r = FAST_REAL(cuDevicePrimaryCtxRetain)(ret, device);
    if (r == CUDA_SUCCESS && device >= 0 && device < FAST_PAGE_GPUS)
        atomic_store(&fast_hook.primary[device], *ret);
    return r;
}

#define END_PRIMARY(symbol)                                                                        \
    FAST_EXPORT CUresult symbol(CUdevice device)                                                   \
    {                                                                                              \
        leave_context();                                                                           \
        CUresult r = FAST_REAL(symbol)(device);                                                    \
        end_primary(r, device);                                                                    \
        return r;                                                                                  \
    }

END_PRIMARY(cuDevicePrimaryCtxRelease)
END_PRIMARY(cuDevicePrimaryCtxRelease_v2)
END_PRIMARY(cuDevicePrimaryCtxReset)
END_PRIMARY(cuDevicePrimaryCtxReset_v2)

/* ---- streams ---- */

static void end_stream(CUstream stream)
{
    struct fast_ctx *ctx = atomic_load(&fast_hook.session) ? fast_ctx_current() : NULL;
    if (!ctx)
        return;
    fast_gate_flush();
    fast_stream_end(ctx, stream);
}

FAST_EXPORT CUresult cuStreamDestroy(CUstream stream)
{
    end_stream(stream);
    return FAST_REAL(cuStreamDestroy)(stream);
}

FAST_EXPORT CUresult cuStreamDestroy_v2(CUstream stream)
{
    end_stream(stream);
    return FAST_REAL(cuStreamDestroy_v2)(stream);
}

/* ---- capture ---- */

/* Counted before the call: another thread must not enqueue a marker in between. */
#define BEGIN_CAPTURE(symbol, decl, call)                                                          \
    FAST_EXPORT CUresult symbol decl                                                               \
    {                                                                                              \
        fast_gate_flush();                                                                         \
        atomic_fetch_add(&fast_hook.captures, 1);                                                  \
        CUresult r = FAST_REAL(symbol) call;                                                       \
        if (r != CUDA_SUCCESS)                                                                     \
            atomic_fetch_sub(&fast_hook.captures, 1);                                              \
        return r;                                                                                  \
    }

BEGIN_CAPTURE(cuStreamBeginCapture, (CUstream stream), (stream))
BEGIN_CAPTURE(cuStreamBeginCapture_ptsz, (CUstream stream), (stream))
BEGIN_CAPTURE(cuStreamBeginCapture_v2, (CUstream stream, CUstreamCaptureMode mode), (stream, mode))
BEGIN_CAPTURE(cuStreamBeginCapture_v2_ptsz, (CUstream stream, CUstreamCaptureMode mode),
              (stream, mode))
BEGIN_CAPTURE(cuStreamBeginCaptureToGraph,
              (CUstream stream, CUgraph graph, const CUgraphNode *nodes,
               const CUgraphEdgeData *edges, size_t count, CUstreamCaptureMode mode),
              (stream, graph, nodes, edges, count, mode))
BEGIN_CAPTURE(cuStreamBeginCaptureToGraph_ptsz,
              (CUstream stream, CUgraph graph, const CUgraphNode *nodes,
               const CUgraphEdgeData *edges, size_t count, CUstreamCaptureMode mode),
              (stream, graph, nodes, edges, count, mode))

/* A capture that was invalidated has ended too; one that belongs to another stream or thread goes
 * on. A capture that ends with its stream is never counted down: then every launch asks the driver
 * whether its stream captures, which costs time and nothing else. */
static void end_capture(CUresult r)
{
    if (r != CUDA_SUCCESS && r != CUDA_ERROR_STREAM_CAPTURE_INVALIDATED &&
        r != CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
        return;
    uint32_t was = atomic_load(&fast_hook.captures);
    while (was && !atomic_compare_exchange_weak(&fast_hook.captures, &was, was - 1))
        ;
    if (was == 1)
        atomic_store(&fast_hook.graph_captured, 0);
}

#define END_CAPTURE(symbol)                                                                        \
    FAST_EXPORT CUresult symbol(CUstream stream, CUgraph *ret)                                     \
    {                                                                                              \
        CUresult r = FAST_REAL(symbol)(stream, ret);                                               \
        end_capture(r);                                                                            \
        return r;                                                                                  \
    }

END_CAPTURE(cuStreamEndCapture)
END_CAPTURE(cuStreamEndCapture_ptsz)

/* ---- waiting for the device ---- */

/* A wait of less than this found the work complete: it ended at some earlier time. */
#define WAITED_NS FAST_US(10)

static bool waited_since(fast_ns start)
{
    return fast_hook_now() - start > WAITED_NS;
}

/* What is in the stream when the host begins to wait for it is complete afterwards. */
static struct fast_stream *watched(CUstream stream, bool per_thread, uint32_t *ret_left)
{
    struct fast_ctx *ctx = atomic_load(&fast_hook.session) ? fast_ctx_current() : NULL;
    if (!ctx || atomic_load(&fast_hook.captures))
        return NULL;
    fast_gate_flush();
    struct fast_stream *s = fast_stream_find(ctx, stream, per_thread);
    *ret_left = fast_stream_left(s);
    return s;
}

static CUresult wait_stream(CUresult (*call)(CUstream), CUstream stream, bool per_thread)
{
    uint32_t left = 0;
    struct fast_stream *s = watched(stream, per_thread, &left);
    fast_ns start = s ? fast_hook_now() : 0;
    CUresult r = call(stream);
    if (s && r == CUDA_SUCCESS) {
        fast_stream_synced(s, left);
        fast_gate_look(waited_since(start));
    }
    if (r == CUDA_SUCCESS)
        fast_pool_look(false);
    return r;
}

#define WAIT_STREAM(symbol, per_thread)                                                            \
    FAST_EXPORT CUresult symbol(CUstream stream)                                                   \
    {                                                                                              \
        return wait_stream(FAST_REAL(symbol), stream, per_thread);                                 \
    }

WAIT_STREAM(cuStreamSynchronize, false)
WAIT_STREAM(cuStreamSynchronize_ptsz, true)
WAIT_STREAM(cuStreamQuery, false)
WAIT_STREAM(cuStreamQuery_ptsz, true)

#define WAIT_EVENT(symbol)                                                                         \
    FAST_EXPORT CUresult symbol(CUevent event)                                                     \
    {                                                                                              \
        if (atomic_load(&fast_hook.session) && !atomic_load(&fast_hook.captures))                  \
            fast_gate_flush();                                                                     \
        fast_ns start = fast_thread.ctx ? fast_hook_now() : 0;                                     \
        CUresult r = FAST_REAL(symbol)(event);                                                     \
        if (r == CUDA_SUCCESS && start)                                                            \
            fast_gate_look(waited_since(start));                                                   \
        return r;                                                                                  \
    }

WAIT_EVENT(cuEventSynchronize)
WAIT_EVENT(cuEventQuery)

/* All streams of the context, as they were before the call. */
static CUresult wait_context(CUresult (*call)(void *), void *arg)
{
    uint32_t left[FAST_HOOK_STREAMS], high = 0;
    struct fast_ctx *ctx = atomic_load(&fast_hook.session) ? fast_ctx_current() : NULL;
    if (ctx && !atomic_load(&fast_hook.captures)) {
        fast_gate_flush();
        high = atomic_load(&ctx->high);
        for (uint32_t i = 0; i < high; i++)
            left[i] = fast_stream_left(&ctx->streams[i]);
    }
    fast_ns start = high ? fast_hook_now() : 0;
    CUresult r = call(arg);
    if (r == CUDA_SUCCESS && high) {
        for (uint32_t i = 0; i < high; i++)
            fast_stream_synced(&ctx->streams[i], left[i]);
        fast_gate_look(waited_since(start));
    }
    if (r == CUDA_SUCCESS)
        fast_pool_look(false);
    return r;
}

static CUresult call_sync(void *arg)
{
    (void)arg;
    return FAST_REAL(cuCtxSynchronize)();
}

static CUresult call_sync_v2(void *arg)
{
    return FAST_REAL(cuCtxSynchronize_v2)(arg);
}

FAST_EXPORT CUresult cuCtxSynchronize(void)
{
    return wait_context(call_sync, NULL);
}

/* Of a context that need not be the current one: its streams are looked at through their markers. */
FAST_EXPORT CUresult cuCtxSynchronize_v2(CUcontext ctx)
{
    struct fast_ctx *current = atomic_load(&fast_hook.session) ? fast_ctx_current() : NULL;
    if (current && (!ctx || atomic_load(&current->ctx) == ctx))
        return wait_context(call_sync_v2, ctx);
    return call_sync_v2(ctx);
}

/* NOLINTEND(bugprone-macro-parentheses) */
