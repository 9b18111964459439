#include "inside.h"

#include <pthread.h>
#include <unistd.h>

struct fast_limits_page limits;
struct fast_counters_page counters;
struct fast_session session;
char contexts[3];
__thread CUcontext current;

struct inside_driver drv;

void *fast_real_dlsym(void *handle, const char *name)
{
    (void)handle;
    return drv.lookup ? drv.lookup(name) : NULL;
}

void *fast_real_dlopen(const char *path, int flags)
{
    (void)path, (void)flags;
    return drv.lookup ? &drv : NULL;
}

/* ---- the driver ---- */

static CUresult get_current(CUcontext *ret)
{
    *ret = current;
    return CUDA_SUCCESS;
}

static CUresult get_device(CUdevice *ret)
{
    *ret = 0;
    return CUDA_SUCCESS;
}

static CUresult host_register(void *p, size_t bytes, unsigned flags)
{
    (void)p, (void)bytes, (void)flags;
    drv.registered++;
    return CUDA_SUCCESS;
}

static CUresult device_pointer(CUdeviceptr *ret, void *p, unsigned flags)
{
    (void)flags;
    *ret = (CUdeviceptr)(uintptr_t)p;
    return CUDA_SUCCESS;
}

static CUresult stream_write(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags)
{
    (void)stream, (void)flags;
    drv.writes++;
    drv.at = (_Atomic uint32_t *)(uintptr_t)at;
    drv.value = value;
    return CUDA_SUCCESS;
}

static CUresult captures_nothing(CUstream stream, CUstreamCaptureStatus *ret)
{
    (void)stream;
    *ret = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult captures(CUstream stream, CUstreamCaptureStatus *ret)
{
    (void)stream;
    *ret = CU_STREAM_CAPTURE_STATUS_NONE + 1;
    return CUDA_SUCCESS;
}

static CUresult real_alloc(CUdeviceptr *ret, size_t bytes)
{
    *ret = drv.next += bytes + 4096;
    return CUDA_SUCCESS;
}

static CUresult real_managed(CUdeviceptr *ret, size_t bytes, unsigned flags)
{
    (void)flags;
    return real_alloc(ret, bytes);
}

static CUresult real_alloc_async(CUdeviceptr *ret, size_t bytes, CUstream stream)
{
    (void)stream;
    return real_alloc(ret, bytes);
}

static CUresult real_array(CUarray *ret, const CUDA_ARRAY_DESCRIPTOR *desc)
{
    CUdeviceptr p;
    (void)desc;
    real_alloc(&p, 4096);
    *ret = (CUarray)(uintptr_t)p;
    return CUDA_SUCCESS;
}

static CUresult real_free(CUdeviceptr p)
{
    (void)p;
    return drv.result;
}

static CUresult real_access(CUdeviceptr p, size_t bytes, const CUmemAccessDesc *desc, size_t count)
{
    (void)p, (void)bytes, (void)desc, (void)count;
    return CUDA_SUCCESS;
}

static CUresult real_destroy(CUcontext ctx)
{
    (void)ctx;
    return CUDA_SUCCESS;
}

static CUresult real_stream(CUstream stream)
{
    (void)stream;
    return CUDA_SUCCESS;
}

static CUresult real_launch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared, CUstream stream, void **params, void **extra)
{
    (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz;
    (void)shared, (void)stream, (void)params, (void)extra;
    return drv.result;
}

static CUresult real_graph(CUgraphExec exec, CUstream stream)
{
    (void)exec, (void)stream;
    return CUDA_SUCCESS;
}

static CUresult real_copy(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
    (void)dst, (void)src, (void)bytes, (void)stream;
    return CUDA_SUCCESS;
}

static CUresult real_copy_back(void *dst, CUdeviceptr src, size_t bytes)
{
    (void)dst, (void)src, (void)bytes;
    return CUDA_SUCCESS;
}

static CUresult real_memset(CUdeviceptr dst, unsigned char value, size_t n)
{
    (void)dst, (void)value, (void)n;
    return CUDA_SUCCESS;
}

static void set_reals(void)
{
    REAL(cuMemAlloc_v2, real_alloc);
    REAL(cuMemAllocManaged, real_managed);
    REAL(cuMemAllocAsync, real_alloc_async);
    REAL(cuMemAllocAsync_ptsz, real_alloc_async);
    REAL(cuArrayCreate_v2, real_array);
    REAL(cuMemFree_v2, real_free);
    REAL(cuMemSetAccess, real_access);
    REAL(cuCtxDestroy_v2, real_destroy);
    REAL(cuStreamSynchronize, real_stream);
    REAL(cuStreamSynchronize_ptsz, real_stream);
    REAL(cuStreamQuery_ptsz, real_stream);
    REAL(cuLaunchKernel, real_launch);
    REAL(cuLaunchKernel_ptsz, real_launch);
    REAL(cuGraphLaunch, real_graph);
    REAL(cuGraphLaunch_ptsz, real_graph);
    REAL(cuMemcpyAsync, real_copy);
    REAL(cuMemcpyAsync_ptsz, real_copy);
    REAL(cuMemcpyDtoH_v2, real_copy_back);
    REAL(cuMemcpyDtoH_v2_ptds, real_copy_back);
    REAL(cuMemsetD8_v2, real_memset);
    REAL(cuMemsetD8_v2_ptds, real_memset);
}

int set_up(void **state)
{
    (void)state;
    memset(&fast_hook, 0, sizeof(fast_hook));
    memset(&fast_thread, 0, sizeof(fast_thread));
    memset(&limits, 0, sizeof(limits));
    memset(&counters, 0, sizeof(counters));
    memset(&drv, 0, sizeof(drv));
    session = (struct fast_session){.limits = &limits, .local = &limits, .counters = &counters, .gpus = 1, .fd = -1};
    current = (CUcontext)&contexts[0];
    fast_hook.log_fd = fast_hook.kick_fd = fast_hook.dead_fd = -1;
    fast_hook.driver = (struct fast_driver){
        .ctx_get_current = get_current, .ctx_get_device = get_device, .host_register = host_register,
        .host_device_pointer = device_pointer, .stream_write = {stream_write, stream_write},
        .stream_is_capturing = {captures_nothing, captures_nothing}};
    set_reals();
    fast_hook.enabled = true;
    atomic_store(&fast_hook.loaded, 2);
    atomic_store(&fast_hook.resolved, 1);
    atomic_store(&fast_hook.session, &session);
    atomic_store(&fast_hook.mode, FAST_MODE_LINKED);
    atomic_store(&fast_hook.start, 2);
    limits.inflight_ns = FAST_MS(2);
    limits.gated = 1;
    limits.gpu[0].token = TOKEN;
    limits.gpu[0].mem_cap_bytes = FAST_GIB(4);
    return 0;
}

uint32_t launch(CUstream stream)
{
    assert_int_equal(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL), CUDA_SUCCESS);
    return fast_kernel_cost(0);
}

uint64_t launches(void)
{
    return fast_counters_launches(&counters.gpu[0]);
}

void in_thread(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fn, arg), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}
