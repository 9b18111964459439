/* Contexts. Each is a client of the model of its device, as NVIDIA's are: two contexts of one process
 * share a GPU like two processes do. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

#define STACK 64

static _Thread_local struct {
    struct ctx *v[STACK];
    int depth;
} current;

struct ctx *ctx_current(void)
{
    return current.depth ? current.v[current.depth - 1] : NULL;
}

void ctx_set_current(struct ctx *ctx)
{
    if (!current.depth && ctx)
        current.depth = 1;
    if (current.depth)
        current.v[current.depth - 1] = ctx;
    if (current.depth == 1 && !ctx)
        current.depth = 0;
}

static bool push(struct ctx *ctx)
{
    if (current.depth == STACK)
        return false;
    current.v[current.depth++] = ctx;
    return true;
}

struct ctx *ctx_get(CUcontext handle)
{
    return handle_is(handle, H_CTX) ? (struct ctx *)handle : NULL;
}

/* The first error stays: from now on every call of the context returns it. Without MPS it is the only
 * one that is lost. */
CUresult ctx_fail(struct ctx *ctx, CUresult error)
{
    if (!ctx->error && drv.mps) {
        shared_fault(&drv.shared, ctx->device, error);
        mps_tell_fault();
    }
    if (!ctx->error)
        ctx->error = error;
    pthread_cond_broadcast(&drv.cond);
    return ctx->error;
}

CUresult ctx_error(struct ctx *ctx)
{
    uint64_t mark = drv.mps && !ctx->error ? shared_fault_mark(&drv.shared, ctx->device) : ctx->fault;
    if (mark != ctx->fault) {
        ctx->error = (CUresult)(mark & UINT32_MAX);
        pthread_cond_broadcast(&drv.cond);
    }
    return ctx->error;
}

CUresult ctx_sync(struct ctx *ctx)
{
    for (bool again = true; again && !ctx_error(ctx);) {
        again = false;
        for (struct stream *s = ctx->streams; s; s = s->next) {
            if (work_done(s, s->submitted))
                continue;
            work_wait(s, s->submitted);
            again = true; /* the list may have changed meanwhile */
            break;
        }
    }
    return ctx->error;
}

static size_t limit_default(int which)
{
    switch (which) {
    case CU_LIMIT_STACK_SIZE:
        return 1024;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
        return 7680u << 10;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        return 8u << 20;
    case 3: /* CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH */
        return 2;
    case 4: /* CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT */
        return 2048;
    default:
        return 0;
    }
}

CUresult ctx_new(CUdevice dev, unsigned flags, unsigned version, int sm_pct, struct ctx **ret)
{
    int device = device_of(dev);
    struct sim_client_conf conf = {.mps = drv.mps, .sm_pct = drv.mps ? sm_pct : 100};
    if (mps_not_ready())
        return CUDA_ERROR_MPS_SERVER_NOT_READY;
    if (shared_charge(&drv.shared, device, DRV_CONTEXT_BYTES))
        return CUDA_ERROR_OUT_OF_MEMORY;
    struct sim_gpu *gpu = shared_lock(&drv.shared, device);
    int client = sim_gpu_client_add(gpu, &conf, shared_now());
    uint64_t generation = shared_generation(&drv.shared, device);
    if (client >= 0)
        shared_own(&drv.shared, device, client, true);
    shared_unlock(&drv.shared, device);
    struct ctx *ctx = client < 0 ? NULL : handle_new(H_CTX, sizeof(*ctx));
    if (!ctx) {
        shared_uncharge(&drv.shared, device, DRV_CONTEXT_BYTES);
        return drv.mps ? CUDA_ERROR_MPS_MAX_CLIENTS_REACHED : CUDA_ERROR_OUT_OF_MEMORY;
    }
    ctx->device = device;
    ctx->ordinal = dev;
    ctx->client = client;
    ctx->sm_pct = conf.sm_pct;
    ctx->generation = generation;
    ctx->fault = shared_fault_mark(&drv.shared, device);
    ctx->id = ++drv.ids;
    ctx->flags = flags;
    ctx->api_version = version;
    for (size_t i = 0; i < sizeof(ctx->limit) / sizeof(ctx->limit[0]); i++)
        ctx->limit[i] = limit_default((int)i);
    ctx->next = drv.contexts;
    drv.contexts = ctx;
    *ret = ctx;
    return CUDA_SUCCESS;
}

void ctx_free(struct ctx *ctx)
{
    ctx_sync(ctx);
    capture_drop_ctx(ctx);
    while (ctx->streams) {
        struct stream *s = ctx->streams;
        work_drop(s);
        if (ctx->streams == s)
            stream_destroy(s);
    }
    while (ctx->modules)
        module_unload(ctx->modules);
    memory_drop_ctx(ctx);
    struct sim_gpu *gpu = work_lock_model(ctx);
    sim_gpu_client_remove(gpu, ctx->client, shared_now());
    shared_own(&drv.shared, ctx->device, ctx->client, false);
    work_unlock_model(ctx);
    shared_uncharge(&drv.shared, ctx->device, DRV_CONTEXT_BYTES);
    for (struct ctx **p = &drv.contexts; *p; p = &(*p)->next) {
        if (*p == ctx) {
            *p = ctx->next;
            break;
        }
    }
    bool last = true;
    for (const struct ctx *other = drv.contexts; other; other = other->next)
        last = last && other->device != ctx->device;
    if (last) {
        pool_drop_device(ctx->device);
        graph_memory_drop_device(ctx->device);
    }
    /* As if by cuCtxPopCurrent: the one below becomes current. */
    if (ctx_current() == ctx)
        current.depth--;
    handle_free(ctx);
}

static CUresult create(CUcontext *ret, unsigned flags, CUdevice dev, unsigned version, int sm_pct)
{
    struct ctx *ctx;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || (flags & 7u) > 4 || (flags & 7u) == 3 || flags & ~0xffu)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    rc = ctx_new(dev, flags, version, sm_pct, &ctx);
    if (rc)
        return drv_leave(rc);
    push(ctx);
    *ret = (CUcontext)ctx;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxCreate_v2(CUcontext *ret, unsigned flags, CUdevice dev)
{
    return create(ret, flags, dev, 3020, drv.sm_pct);
}

CUAPI cuCtxCreate(CUcontext *ret, unsigned flags, CUdevice dev)
{
    return create(ret, flags, dev, 3010, drv.sm_pct);
}

/* An affinity gives the context a smaller partition than the process has. Only under MPS. */
CUAPI cuCtxCreate_v3(CUcontext *ret, CUexecAffinityParam *params, int count, unsigned flags,
                     CUdevice dev)
{
    const struct {
        int type; /* 0: number of SMs */
        unsigned sms;
    } *affinity = (const void *)params;
    int pct = drv.sm_pct;
    if (params && count > 0) {
        if (count != 1 || affinity->type)
            return CUDA_ERROR_INVALID_VALUE;
        if (!drv.mps)
            return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
        if (!device_valid(dev))
            return CUDA_ERROR_INVALID_DEVICE;
        unsigned sms = (unsigned)device_conf(device_of(dev))->sms;
        unsigned want = (affinity->sms * 100 + sms - 1) / sms;
        pct = want < 1 ? 1 : (int)want < pct ? (int)want : pct;
    }
    return create(ret, flags, dev, 3020, pct);
}

CUAPI cuCtxCreate_v4(CUcontext *ret, CUctxCreateParams *params, unsigned flags, CUdevice dev)
{
    const struct {
        CUexecAffinityParam *affinity;
        int count;
        void *cig;
    } *p = (const void *)params;
    if (p && p->cig)
        return CUDA_ERROR_NOT_SUPPORTED;
    return cuCtxCreate_v3(ret, p ? p->affinity : NULL, p ? p->count : 0, flags, dev);
}

CUAPI cuCtxDestroy_v2(CUcontext handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_get(handle);
    if (!ctx || ctx->primary)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    ctx_free(ctx);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxDestroy(CUcontext handle)
{
    return cuCtxDestroy_v2(handle);
}

CUAPI cuCtxAttach(CUcontext *ret, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || flags)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    ctx->users++;
    *ret = (CUcontext)ctx;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxDetach(CUcontext handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_get(handle);
    if (!ctx || ctx->primary)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (ctx->users > 0)
        ctx->users--;
    else
        ctx_free(ctx);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxSetCurrent(CUcontext handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_get(handle);
    if (handle && !ctx)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    ctx_set_current(ctx);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetCurrent(CUcontext *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = (CUcontext)ctx_current();
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxPushCurrent_v2(CUcontext handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_get(handle);
    if (!ctx)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    return drv_leave(push(ctx) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuCtxPushCurrent(CUcontext handle)
{
    return cuCtxPushCurrent_v2(handle);
}

CUAPI cuCtxPopCurrent_v2(CUcontext *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!current.depth)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    struct ctx *ctx = current.v[--current.depth];
    if (ret)
        *ret = (CUcontext)ctx;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxPopCurrent(CUcontext *ret)
{
    return cuCtxPopCurrent_v2(ret);
}

CUAPI cuCtxGetDevice(CUdevice *ret)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = ctx->ordinal;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetDevice_v2(CUdevice *ret, CUcontext handle)
{
    if (!handle)
        return cuCtxGetDevice(ret);
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_get(handle);
    if (!ctx || !ret)
        return drv_leave(ctx ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT);
    *ret = ctx->ordinal;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxSynchronize(void)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (!rc && (rc = capture_unsafe(ctx)))
        return drv_leave(rc);
    if (rc)
        return rc;
    rc = ctx_sync(ctx);
    pool_synced(ctx->device);
    return drv_leave(rc);
}

CUAPI cuCtxSynchronize_v2(CUcontext handle)
{
    if (!handle)
        return cuCtxSynchronize();
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_get(handle);
    if (!ctx)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    rc = ctx_sync(ctx);
    pool_synced(ctx->device);
    return drv_leave(rc);
}

CUAPI cuCtxGetApiVersion(CUcontext handle, unsigned *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = handle ? ctx_get(handle) : ctx_current();
    if (!ctx || !ret)
        return drv_leave(ctx ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT);
    *ret = ctx->api_version;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetId(CUcontext handle, unsigned long long *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = handle ? ctx_get(handle) : ctx_current();
    if (!ctx || !ret)
        return drv_leave(ctx ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_CONTEXT_IS_DESTROYED);
    *ret = ctx->id;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetFlags(unsigned *ret)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = ctx->flags;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxSetFlags(unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    ctx->flags = flags;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetLimit(size_t *ret, int which)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || which < 0 || which >= 16)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = ctx->limit[which];
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxSetLimit(int which, size_t value)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (which < 0 || which > 6)
        return drv_leave(CUDA_ERROR_UNSUPPORTED_LIMIT);
    ctx->limit[which] = value;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (least)
        *least = 0;
    if (greatest)
        *greatest = STREAM_PRIORITY_GREATEST;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxGetExecAffinity(CUexecAffinityParam *ret, int type)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || type)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    unsigned *p = (unsigned *)ret;
    struct sim_gpu *gpu = work_lock_model(ctx);
    p[0] = 0;
    p[1] = (unsigned)sim_gpu_client_sms(gpu, ctx->client);
    work_unlock_model(ctx);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGetExecAffinitySupport(int *ret, int type, CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || type || !device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = drv.mps;
    return drv_leave(CUDA_SUCCESS);
}

/* What a program may set and a simulation has no use for. */
CUAPI cuCtxSetCacheConfig(int config)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    (void)config;
    return rc ? rc : drv_leave(CUDA_SUCCESS);
}

CUAPI cuCtxSetSharedMemConfig(int config)
{
    return cuCtxSetCacheConfig(config);
}

CUAPI cuCtxGetCacheConfig(int *ret)
{
    if (ret)
        *ret = 0;
    return ret ? cuCtxSetCacheConfig(0) : CUDA_ERROR_INVALID_VALUE;
}

CUAPI cuCtxGetSharedMemConfig(int *ret)
{
    return cuCtxGetCacheConfig(ret);
}

CUAPI cuCtxResetPersistingL2Cache(void)
{
    return cuCtxSetCacheConfig(0);
}

CUAPI cuCtxEnablePeerAccess(CUcontext peer, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (flags)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return drv_leave(ctx_get(peer) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT);
}

CUAPI cuCtxDisablePeerAccess(CUcontext peer)
{
    return cuCtxEnablePeerAccess(peer, 0);
}
