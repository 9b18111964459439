#include "inside.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* What changes or ends contexts, streams, captures and pools, and what the hook asks others: the dynamic linker,
 * NVML, the node. */

static CUstream const some = (CUstream)8192;

static struct fast_stream *place_of(CUstream handle)
{
    struct fast_ctx *ctx = fast_ctx_current();
    assert_non_null(ctx);
    return fast_stream_find(ctx, handle, false);
}

/* ---- captures ---- */

static int writes_before; /* the driver began to capture */

static CUresult real_begin(CUstream stream, CUstreamCaptureMode mode)
{
    (void)stream, (void)mode;
    writes_before = drv.writes;
    return drv.result;
}

static CUresult real_end(CUstream stream, CUgraph *ret)
{
    (void)stream, (void)ret;
    return drv.result;
}

static void begins(CUresult r, uint32_t then)
{
    drv.result = r;
    assert_int_equal(cuStreamBeginCapture_v2(some, CU_STREAM_CAPTURE_MODE_GLOBAL), r);
    assert_int_equal(fast_hook.captures, then);
}

static void ends(CUresult r, uint32_t then)
{
    CUgraph graph = NULL;
    drv.result = r;
    assert_int_equal(cuStreamEndCapture(some, &graph), r);
    assert_int_equal(fast_hook.captures, then);
}

/* Every capture that goes on is counted, and no other; what was submitted before gets its marker before. */
static void captures_are_counted(void **state)
{
    (void)state;
    REAL(cuStreamBeginCapture_v2, real_begin);
    REAL(cuStreamEndCapture, real_end);
    launch(some);
    assert_int_equal(drv.writes, 0);
    begins(CUDA_SUCCESS, 1);
    assert_int_equal(writes_before, 1);
    begins(CUDA_ERROR_INVALID_VALUE, 1);
    begins(CUDA_SUCCESS, 2);
    ends(CUDA_ERROR_INVALID_VALUE, 2); /* another thread's */
    ends(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, 1);
    ends(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, 0);
    ends(CUDA_SUCCESS, 0);
}

/* ---- waiting ---- */

static CUresult sync_while_others_work(CUstream stream)
{
    launch(stream);
    return CUDA_SUCCESS;
}

static CUresult sync_context(CUcontext ctx)
{
    (void)ctx;
    return CUDA_SUCCESS;
}

/* Only what was there before the wait is complete after it. */
static void waits(void **state)
{
    (void)state;
    REAL(cuStreamSynchronize, sync_while_others_work);
    REAL(cuCtxSynchronize_v2, sync_context);
    launch(some);
    assert_int_equal(cuStreamSynchronize(some), CUDA_SUCCESS);
    uint32_t cost = fast_kernel_cost(0);
    assert_int_equal(fast_gpu_pending(0), cost);
    assert_int_equal(cuCtxSynchronize_v2((CUcontext)&contexts[1]), CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), cost);
    assert_int_equal(cuCtxSynchronize_v2(current), CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), 0);
    launch(some);
    assert_int_equal(cuCtxSynchronize_v2(NULL), CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), 0);
}

static CUresult copy_while_others_work(void *dst, CUdeviceptr src, size_t bytes)
{
    (void)dst, (void)src, (void)bytes;
    launch(NULL);
    return CUDA_SUCCESS;
}

/* What others submit while a copy is waited for is not complete with it. */
static void copies(void **state)
{
    (void)state;
    char *host = NULL; /* nothing is copied */
    launch(NULL);
    assert_int_equal(cuMemcpyDtoH_v2(host, 4096, FAST_MIB(1)), CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), 0);
    REAL(cuMemcpyDtoH_v2, copy_while_others_work);
    assert_int_equal(cuMemcpyDtoH_v2(host, 4096, FAST_MIB(1)), CUDA_SUCCESS);
    assert_true(fast_gpu_pending(0) >= fast_kernel_cost(0));
}

/* ---- contexts and streams ---- */

/* A thread owes a marker to each of its streams; it remembers eight. None goes into a capture. */
static void owed_markers(void **state)
{
    (void)state;
    for (uintptr_t i = 1; i <= 8; i++)
        launch((CUstream)(i * 4096));
    assert_int_equal(drv.writes, 0);
    launch((CUstream)(9 * 4096));
    assert_int_equal(drv.writes, 1);
    fast_hook.driver.stream_is_capturing[0] = captures;
    atomic_store(&fast_hook.captures, 1);
    fast_gate_flush();
    assert_int_equal(drv.writes, 1);
}

static CUresult set_current(CUcontext ctx)
{
    current = ctx;
    return CUDA_SUCCESS;
}

static int still_active;

static CUresult primary_state(CUdevice device, unsigned *flags, int *ret_active)
{
    (void)device;
    *flags = 0;
    *ret_active = still_active;
    return CUDA_SUCCESS;
}

static CUresult retain(CUcontext *ret, CUdevice device)
{
    (void)device;
    *ret = (CUcontext)&contexts[0];
    return CUDA_SUCCESS;
}

static CUresult of_device(CUdevice device)
{
    (void)device;
    return CUDA_SUCCESS;
}

static CUresult end_of_stream(CUstream stream)
{
    (void)stream;
    return CUDA_SUCCESS;
}

/* A thread that goes to another context can enqueue no marker in the first any more. */
static void another_context(void **state)
{
    (void)state;
    REAL(cuCtxSetCurrent, set_current);
    launch(some);
    assert_int_equal(drv.writes, 0);
    assert_int_equal(cuCtxSetCurrent((CUcontext)&contexts[1]), CUDA_SUCCESS);
    assert_int_equal(drv.writes, 1);
    launch(some);
    assert_ptr_equal(fast_hook.ctxs[1].ctx, &contexts[1]);
    assert_int_equal(fast_stream_pending(&fast_hook.ctxs[1], place_of(some)), fast_kernel_cost(0));
}

/* The memory of a primary context goes with its last user. */
static void primary_context(void **state)
{
    (void)state;
    CUcontext ctx;
    CUdeviceptr p;
    REAL(cuDevicePrimaryCtxRetain, retain);
    REAL(cuDevicePrimaryCtxRelease_v2, of_device);
    fast_hook.driver.primary_state = primary_state;
    assert_int_equal(cuDevicePrimaryCtxRetain(&ctx, 0), CUDA_SUCCESS);
    assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(4)), CUDA_SUCCESS);
    launch(some);
    still_active = 1;
    assert_int_equal(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
    assert_true(fast_hook.gpus[0].mem_used == FAST_MIB(4));
    assert_ptr_equal(fast_hook.ctxs[0].ctx, ctx);
    still_active = 0;
    assert_int_equal(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
    assert_true(fast_hook.gpus[0].mem_used == 0);
    assert_null(fast_hook.ctxs[0].ctx);
}

/* A stream that ends leaves a marker behind its work; the next one with its handle is another. */
static void end_of_a_stream(void **state)
{
    (void)state;
    REAL(cuStreamDestroy_v2, end_of_stream);
    launch(some);
    struct fast_stream *place = place_of(some);
    assert_int_equal(cuStreamDestroy_v2(some), CUDA_SUCCESS);
    assert_int_equal(drv.writes, 1);
    assert_true(place->key != (uintptr_t)some);
    assert_ptr_not_equal(place_of(some), place); /* where work is still in flight */
}

/* ---- pools and graphs ---- */

static uint64_t pool_reserved, pool_used;

static CUresult pool_attribute(CUmemoryPool pool, int which, void *ret)
{
    (void)pool;
    *(cuuint64_t *)ret = which == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT ? pool_reserved : pool_used;
    return CUDA_SUCCESS;
}

static CUresult device_pool(CUmemoryPool *ret, CUdevice device)
{
    (void)device;
    *ret = (CUmemoryPool)4096;
    return CUDA_SUCCESS;
}

static CUresult from_pool(CUdeviceptr *ret, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    (void)pool, (void)stream;
    *ret = drv.next += bytes;
    pool_used += bytes;
    pool_reserved = pool_reserved > pool_used ? pool_reserved : pool_used;
    return CUDA_SUCCESS;
}

static CUresult destroy_pool(CUmemoryPool pool)
{
    (void)pool;
    return CUDA_SUCCESS;
}

/* A pool is charged what it has reserved, until it is destroyed. */
static void pools(void **state)
{
    (void)state;
    CUmemoryPool pool = (CUmemoryPool)4096;
    CUdeviceptr p;
    pool_reserved = pool_used = 0;
    REAL(cuMemAllocFromPoolAsync, from_pool);
    REAL(cuMemPoolDestroy, destroy_pool);
    fast_hook.driver.pool_attribute = pool_attribute;
    fast_hook.driver.device_pool = device_pool;
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(cuMemAllocFromPoolAsync(&p, FAST_MIB(2), pool, NULL), CUDA_SUCCESS);
        assert_true(fast_hook.gpus[0].mem_used == FAST_MIB(2 * i));
    }
    assert_int_equal(cuMemPoolDestroy(pool), CUDA_SUCCESS);
    assert_true(fast_hook.gpus[0].mem_used == 0);
}

static CUresult add_node(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                         CUDA_MEM_ALLOC_NODE_PARAMS *params)
{
    (void)ret, (void)graph, (void)deps, (void)count, (void)params;
    return CUDA_SUCCESS;
}

static CUresult destroy_graph(CUgraph graph)
{
    (void)graph;
    return CUDA_SUCCESS;
}

/* The nodes of one graph are added up; a graph with the handle of one that is gone is another one. */
static void graph_nodes(void **state)
{
    (void)state;
    CUgraph graph = (CUgraph)4096;
    CUDA_MEM_ALLOC_NODE_PARAMS params = {.bytesize = FAST_MIB(3)};
    CUgraphNode node;
    REAL(cuGraphAddMemAllocNode, add_node);
    REAL(cuGraphDestroy, destroy_graph);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 2; k++)
            assert_int_equal(cuGraphAddMemAllocNode(&node, graph, NULL, 0, &params), CUDA_SUCCESS);
        assert_true(fast_hook.graph_largest == FAST_MIB(6));
        assert_int_equal(cuGraphDestroy(graph), CUDA_SUCCESS);
    }
    assert_true(fast_hook.gpus[0].mem_used == 0); /* it comes with a launch */
}

/* ---- the node ---- */

static void reply(int fd, uint32_t id, bool granted)
{
    unsigned char buf[256];
    size_t len = 0;
    struct fast_err err;
    struct fast_msg m = {.type = FAST_MSG_T_mem_reply, .id = id, .mem_reply = {.granted = granted}};
    assert_int_equal(fast_msg_encode(&m, buf, sizeof(buf), &len, &err), 0);
    assert_true(send(fd, buf, len, 0) == (ssize_t)len);
}

/* An answer that came too late is none to the next question. */
static void late_answer(void **state)
{
    (void)state;
    int fds[2];
    CUdeviceptr p;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    session.local = NULL;
    session.fd = fds[0];
    fast_hook.next_id = 41;
    reply(fds[1], 41, true);
    reply(fds[1], 42, false);
    assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(4)), CUDA_ERROR_OUT_OF_MEMORY);
    reply(fds[1], 42, false);
    reply(fds[1], 43, true);
    assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(4)), CUDA_SUCCESS);
    close(fds[0]);
    close(fds[1]);
}

/* Without a node memory passes, or does not, as everything else. */
static void memory_without_a_node(void **state)
{
    (void)state;
    CUdeviceptr p;
    atomic_store(&fast_hook.session, NULL);
    atomic_store(&fast_hook.mode, FAST_MODE_CLOSED);
    assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(4)), CUDA_ERROR_OUT_OF_MEMORY);
    assert_true(fast_hook.gpus[0].mem_used == 0);
    atomic_store(&fast_hook.mode, FAST_MODE_OPEN);
    assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(4)), CUDA_SUCCESS);
    assert_true(fast_hook.gpus[0].mem_used == FAST_MIB(4)); /* the next node is told */
}

/* ---- libraries ---- */

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo(void *device, void *memory);
int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *memory);

static int nvml_uuid(void *device, char *uuid, unsigned length)
{
    snprintf(uuid, length, "GPU-%s1020304-0506-0708-090a-0b0c0d0e0f10", device ? "1" : "0");
    return 0;
}

static int nvml_memory(void *device, unsigned long long *memory)
{
    (void)device;
    memory[0] = FAST_GIB(16);
    memory[1] = FAST_GIB(10);
    memory[2] = FAST_GIB(6);
    return 0;
}

static int nvml_memory_v2(void *device, struct memory_v2 *memory)
{
    (void)device;
    *memory = (struct memory_v2){2, FAST_GIB(16), FAST_MIB(500), FAST_GIB(10), FAST_GIB(6)};
    return 0;
}

static CUresult uuid(CUuuid *ret, CUdevice device)
{
    (void)device;
    for (int i = 0; i < 16; i++)
        ret->bytes[i] = (char)(i + 1);
    return CUDA_SUCCESS;
}

static CUresult there(void)
{
    return CUDA_SUCCESS;
}

static const char *missing;

static void *lookup(const char *name)
{
    if (!strcmp(name, "nvmlDeviceGetUUID"))
        return (void *)nvml_uuid;
    if (!strcmp(name, "nvmlDeviceGetMemoryInfo"))
        return (void *)nvml_memory;
    if (!strcmp(name, "nvmlDeviceGetMemoryInfo_v2"))
        return (void *)nvml_memory_v2;
    return missing && !strcmp(name, missing) ? NULL : (void *)there;
}

/* The replica's own GPU fits its cap; another one of the machine is told as it is. */
static void nvml_of_other_gpus(void **state)
{
    (void)state;
    static char other;
    unsigned long long memory[3];
    struct memory_v2 v2;
    drv.lookup = lookup;
    fast_hook.driver.device_uuid = uuid;
    limits.gpu[0].mem_cap_bytes = FAST_GIB(1);
    limits.gpu[0].mem_used_bytes = FAST_MIB(24);
    assert_int_equal(nvmlDeviceGetMemoryInfo(NULL, memory), 0);
    assert_true(memory[0] == FAST_GIB(1) && memory[1] == FAST_MIB(1000) && memory[2] == FAST_MIB(24));
    assert_int_equal(nvmlDeviceGetMemoryInfo_v2(NULL, &v2), 0);
    assert_true(v2.total == FAST_GIB(1) && v2.free == FAST_MIB(1000) && v2.used == FAST_MIB(24) && v2.reserved == 0);
    assert_int_equal(nvmlDeviceGetMemoryInfo(&other, memory), 0);
    assert_true(memory[0] == FAST_GIB(16) && memory[1] == FAST_GIB(10) && memory[2] == FAST_GIB(6));
}

/* What the driver lacks looks missing, and says so when it is called. */
static void older_driver(void **state)
{
    (void)state;
    CUlaunchConfig config = {0};
    drv.lookup = lookup;
    missing = "cuLaunchKernelEx";
    atomic_store(&fast_hook.resolved, 0);
    memset(fast_hook.real, 0, sizeof(fast_hook.real));
    assert_true(fast_hook_resolve_all(false));
    assert_null(fast_hook_wrapper("cuLaunchKernelEx"));
    assert_ptr_equal(fast_hook_wrapper("cuLaunchKernel"), (void *)fast_hook_wrappers[FAST_ENTRY_cuLaunchKernel]);
    assert_null(fast_hook_wrapper("cuModuleLoad")); /* not ours */
    assert_int_equal(FAST_REAL(cuLaunchKernelEx)(&config, NULL, NULL, NULL), CUDA_ERROR_NOT_SUPPORTED);
    missing = NULL;
}

#define T(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(captures_are_counted), T(waits), T(copies), T(owed_markers), T(another_context), T(primary_context),
        T(end_of_a_stream), T(pools), T(graph_nodes), T(late_answer), T(memory_without_a_node),
        T(nvml_of_other_gpus), T(older_driver),
    };
    return cmocka_run_group_tests_name("context", tests, NULL, NULL);
}
