/* Graphs of the simulated driver, built node by node and captured, and the error codes of captures. */
#include "simcuda.h"

#include <pthread.h>

static CUfunction add, spin;
static CUdeviceptr cells; /* 16 ints */
static CUstream s;

static void read_cells(int *ret)
{
    CU(cuMemcpyDtoH_v2(ret, cells, 16 * sizeof(int)));
}

static void clear_cells(void)
{
    CU(cuMemsetD32_v2(cells, 0, 16));
    CU(cuCtxSynchronize());
}

static CUDA_KERNEL_NODE_PARAMS kernel(CUfunction f, void **params, unsigned blocks)
{
    return (CUDA_KERNEL_NODE_PARAMS){.func = f, .gridDimX = blocks, .gridDimY = 1, .gridDimZ = 1,
                                     .blockDimX = 1024, .blockDimY = 1, .blockDimZ = 1,
                                     .kernelParams = params};
}

static int host_calls;

static void on_host(void *arg)
{
    host_calls += *(int *)arg;
}

/* memset -> two kernels on different cells -> host function -> copy. */
static void explicit_nodes(void **state)
{
    (void)state;
    CUgraph g;
    CUgraphNode set, k[2], host, copy;
    CUgraphExec exec;
    CUdeviceptr p[2] = {cells, cells + 4};
    int value[2] = {10, 20}, n = 1, step = 1, out[16] = {0};
    CUDA_MEMSET_NODE_PARAMS m = {.dst = cells, .value = 1, .elementSize = 4, .width = 16, .height = 1};
    CUDA_HOST_NODE_PARAMS h = {on_host, &step};
    CUDA_MEMCPY3D c = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = cells,
                       .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out,
                       .WidthInBytes = sizeof(out), .Height = 1, .Depth = 1};
    host_calls = 0;
    CU(cuGraphCreate(&g, 0));
    CU(cuGraphAddMemsetNode(&set, g, NULL, 0, &m, NULL));
    for (int i = 0; i < 2; i++) {
        void *params[] = {&p[i], &value[i], &n};
        CUDA_KERNEL_NODE_PARAMS kp = kernel(add, params, 1);
        CU(cuGraphAddKernelNode_v2(&k[i], g, &set, 1, &kp));
    }
    CU(cuGraphAddHostNode(&host, g, k, 2, &h));
    CU(cuGraphAddMemcpyNode(&copy, g, &host, 1, &c, NULL));
    size_t count = 0;
    CU(cuGraphGetNodes(g, NULL, &count));
    assert_int_equal(count, 5);
    CU(cuGraphGetEdges(g, NULL, NULL, &count));
    assert_int_equal(count, 5);
    CU(cuGraphInstantiateWithFlags(&exec, g, 0));
    CU(cuGraphLaunch(exec, s));
    CU(cuGraphLaunch(exec, s)); /* the second one after the first */
    CU(cuStreamSynchronize(s));
    assert_int_equal(host_calls, 2);
    assert_int_equal(out[0], 11);
    assert_int_equal(out[1], 21);
    assert_int_equal(out[2], 1);
    /* Other parameters for one node, in the executable graph alone. */
    value[0] = 100;
    void *params[] = {&p[0], &value[0], &n};
    CUDA_KERNEL_NODE_PARAMS kp = kernel(add, params, 1);
    CU(cuGraphExecKernelNodeSetParams_v2(exec, k[0], &kp));
    CU_FAILS(cuGraphExecKernelNodeSetParams_v2(exec, set, &kp), CUDA_ERROR_INVALID_VALUE);
    CU(cuGraphLaunch(exec, s));
    CU(cuStreamSynchronize(s));
    assert_int_equal(out[0], 101);
    CU(cuGraphDestroy(g));
    CU(cuGraphLaunch(exec, s)); /* it lives on */
    CU(cuStreamSynchronize(s));
    CU(cuGraphExecDestroy(exec));
    CU_FAILS(cuGraphLaunch(exec, s), CUDA_ERROR_INVALID_VALUE);
}

static float launch_ms(CUgraphExec exec)
{
    CUevent e[2];
    float ms;
    CU(cuEventCreate(&e[0], 0));
    CU(cuEventCreate(&e[1], 0));
    CU(cuEventRecord(e[0], s));
    CU(cuGraphLaunch(exec, s));
    CU(cuEventRecord(e[1], s));
    CU(cuStreamSynchronize(s));
    CU(cuEventElapsedTime(&ms, e[0], e[1]));
    CU(cuEventDestroy_v2(e[0]));
    CU(cuEventDestroy_v2(e[1]));
    return ms;
}

/* Three kernels of 3 ms as branches take about 3 ms, as a chain 9. */
static void branches_run_side_by_side(void **state)
{
    (void)state;
    for (int chain = 0; chain < 2; chain++) {
        CUgraph g;
        CUgraphNode root, node;
        CUgraphExec exec;
        long long ns = 3000000;
        void *params[] = {&ns};
        CUDA_KERNEL_NODE_PARAMS kp = kernel(spin, params, 4);
        CU(cuGraphCreate(&g, 0));
        CU(cuGraphAddEmptyNode(&root, g, NULL, 0));
        for (int i = 0; i < 3; i++) {
            CU(cuGraphAddKernelNode_v2(&node, g, &root, 1, &kp));
            if (chain)
                root = node;
        }
        CU(cuGraphInstantiateWithFlags(&exec, g, 0));
        float ms = launch_ms(exec);
        assert_true(chain ? ms >= 9.0f : ms >= 3.0f && ms < 6.0f);
        CU(cuGraphExecDestroy(exec));
        CU(cuGraphDestroy(g));
    }
}

static void captured(void **state)
{
    (void)state;
    CUgraph g;
    CUgraphExec exec;
    CUstream t;
    CUevent fork, join;
    CUstreamCaptureStatus status;
    int out[16];
    CU(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    CU(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    clear_cells();
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    sim_add(add, cells, 1, 16, s);
    CU(cuEventRecord(fork, s));
    CU(cuStreamWaitEvent(t, fork, 0));
    CU(cuStreamIsCapturing(t, &status));
    assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    sim_add(add, cells, 10, 8, t);
    sim_add(add, cells + 32, 100, 8, s);
    CU(cuEventRecord(join, t));
    CU(cuStreamWaitEvent(s, join, 0));
    sim_add(add, cells, 1000, 1, s);
    CU(cuStreamEndCapture(s, &g));
    CU(cuStreamIsCapturing(t, &status));
    assert_int_equal(status, CU_STREAM_CAPTURE_STATUS_NONE);
    CU_FAILS(cuEventQuery(join), CUDA_ERROR_CAPTURED_EVENT);
    read_cells(out);
    assert_int_equal(out[0], 0); /* nothing has run */
    size_t count = 0;
    CU(cuGraphGetNodes(g, NULL, &count));
    assert_int_equal(count, 4);
    CU(cuGraphGetEdges(g, NULL, NULL, &count));
    assert_int_equal(count, 4);
    CU(cuGraphInstantiateWithFlags(&exec, g, 0));
    for (int i = 1; i <= 3; i++) {
        CU(cuGraphLaunch(exec, NULL));
        read_cells(out);
        assert_int_equal(out[0], i * 1011);
        assert_int_equal(out[7], i * 11);
        assert_int_equal(out[8], i * 101);
    }
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(g));
    CU(cuStreamDestroy_v2(t));
}

/* A graph that is launched into a capture becomes part of it. */
static void nested(void **state)
{
    (void)state;
    CUgraph inner, outer;
    CUgraphExec exec, all;
    int out[16];
    clear_cells();
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    sim_add(add, cells, 1, 1, s);
    sim_add(add, cells, 1, 1, s);
    CU(cuStreamEndCapture(s, &inner));
    CU(cuGraphInstantiateWithFlags(&exec, inner, 0));
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU(cuGraphLaunch(exec, s));
    sim_add(add, cells, 10, 1, s);
    CU(cuGraphLaunch(exec, s));
    CU(cuStreamEndCapture(s, &outer));
    CU(cuGraphInstantiateWithFlags(&all, outer, 0));
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(inner));
    CU(cuGraphLaunch(all, s));
    CU(cuStreamSynchronize(s));
    read_cells(out);
    assert_int_equal(out[0], 14);
    CU(cuGraphExecDestroy(all));
    CU(cuGraphDestroy(outer));
}

/* Begins a capture in |s|, does |act|, and expects that the capture ends with |code|. */
static void spoiled(void (*act)(CUstream other), CUresult code)
{
    CUstream other;
    CUgraph g;
    CU(cuStreamCreate(&other, CU_STREAM_DEFAULT));
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    sim_add(add, cells, 1, 1, s);
    act(other);
    CU_FAILS(cuStreamEndCapture(s, &g), code);
    assert_null(g);
    CU_FAILS(cuStreamEndCapture(s, &g), CUDA_ERROR_ILLEGAL_STATE);
    CU(cuStreamDestroy_v2(other));
}

static void sync_it(CUstream other)
{
    (void)other;
    CU_FAILS(cuStreamSynchronize(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    void *params[] = {NULL};
    (void)params;
    CU_FAILS(cuStreamSynchronize(s), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

static void allocate(CUstream other)
{
    CUdeviceptr p;
    (void)other;
    CU_FAILS(cuMemAlloc_v2(&p, 4), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

static void leave_unjoined(CUstream other)
{
    CUevent e;
    CU(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    CU(cuEventRecord(e, s));
    CU(cuStreamWaitEvent(other, e, 0));
    sim_add(add, cells, 1, 1, other);
}

static void wait_for_outside(CUstream other)
{
    CUevent e;
    CU(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    sim_add(add, cells, 1, 1, other);
    CU(cuEventRecord(e, other));
    CU_FAILS(cuStreamWaitEvent(s, e, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
}

static void use_legacy(CUstream other)
{
    CUstream blocking;
    CUevent e;
    int n = 1;
    void *params[] = {&cells, &n, &n};
    CUstreamCaptureStatus status;
    (void)other;
    CU(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CU(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    CU(cuEventRecord(e, s));
    CU(cuStreamWaitEvent(blocking, e, 0)); /* a blocking stream is in the capture now */
    CU_FAILS(cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
             CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CU_FAILS(cuStreamIsCapturing(NULL, &status), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CU_FAILS(cuStreamDestroy_v2(NULL), CUDA_ERROR_INVALID_HANDLE);
}

static void end_elsewhere(CUstream other)
{
    CUevent e;
    CUgraph g;
    CU(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    CU(cuEventRecord(e, s));
    CU(cuStreamWaitEvent(other, e, 0));
    CU_FAILS(cuStreamEndCapture(other, &g), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
}

static void *end_in_thread(void *arg)
{
    CUgraph g;
    CU(cuCtxSetCurrent(arg));
    CU_FAILS(cuStreamEndCapture(s, &g), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    return NULL;
}

static void wrong_thread(CUstream other)
{
    pthread_t t;
    CUcontext ctx;
    (void)other;
    CU(cuCtxGetCurrent(&ctx));
    assert_int_equal(pthread_create(&t, NULL, end_in_thread, ctx), 0);
    pthread_join(t, NULL);
}

static void merge(CUstream other)
{
    CUevent e;
    CUgraph g;
    CU(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    CU(cuStreamBeginCapture_v2(other, CU_STREAM_CAPTURE_MODE_GLOBAL));
    sim_add(add, cells, 1, 1, other);
    CU(cuEventRecord(e, other));
    CU_FAILS(cuStreamWaitEvent(s, e, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
    CU_FAILS(cuStreamEndCapture(other, &g), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

static void capture_errors(void **state)
{
    (void)state;
    CUgraph g;
    CU_FAILS(cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL),
             CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CU_FAILS(cuStreamEndCapture(s, &g), CUDA_ERROR_ILLEGAL_STATE);
    spoiled(sync_it, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    spoiled(allocate, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    spoiled(leave_unjoined, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    spoiled(wait_for_outside, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    spoiled(use_legacy, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    spoiled(end_elsewhere, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    spoiled(wrong_thread, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    spoiled(merge, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

/* In relaxed mode, of the capture or of the thread, unsafe calls are allowed. */
static void capture_modes(void **state)
{
    (void)state;
    CUgraph g;
    CUdeviceptr p;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU(cuMemAlloc_v2(&p, 4));
    CU(cuMemFree_v2(p));
    CU(cuStreamEndCapture(s, &g));
    CU(cuGraphDestroy(g));
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CU(cuThreadExchangeStreamCaptureMode(&mode));
    assert_int_equal(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    CU(cuMemAlloc_v2(&p, 4));
    CU(cuMemFree_v2(p));
    CU(cuThreadExchangeStreamCaptureMode(&mode));
    CU(cuStreamEndCapture(s, &g));
    CU(cuGraphDestroy(g));
}

enum { USED = 0, RESERVED = 2 }; /* CU_GRAPH_MEM_ATTR_*_CURRENT */

static size_t graph_memory(int which)
{
    cuuint64_t v = 1;
    CU(cuDeviceGetGraphMemAttribute(0, which, &v));
    return v;
}

/* Memory of a graph: addresses at once, bytes from the first launch until the pool is trimmed. */
static void memory_nodes(void **state)
{
    (void)state;
    CUDA_MEM_ALLOC_NODE_PARAMS ap = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                                   .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
                                     .bytesize = (64 << 20) - 8};
    CUDA_MEMSET_NODE_PARAMS fill = {.elementSize = 4, .width = 1, .height = 1, .value = 77};
    CUgraph g, copy;
    CUgraphNode alloc, node;
    CUgraphExec exec;
    unsigned word = 0;
    size_t before = sim_free_bytes();
    CU(cuGraphCreate(&g, 0));
    CU(cuGraphAddMemAllocNode(&alloc, g, NULL, 0, &ap));
    fill.dst = ap.dptr + ap.bytesize - 4;
    CU(cuGraphAddMemsetNode(&node, g, &alloc, 1, &fill, NULL));
    CU_FAILS(cuGraphClone(&copy, g), CUDA_ERROR_NOT_SUPPORTED);
    CU(cuGraphInstantiateWithFlags(&exec, g, 0));
    assert_true(sim_free_bytes() == before);
    CU(cuGraphLaunch(exec, s));
    CU(cuStreamSynchronize(s));
    assert_true(before - sim_free_bytes() == 64 << 20);
    assert_true(graph_memory(USED) == (64 << 20) - 8 && graph_memory(RESERVED) == 64 << 20);
    CU(cuMemcpyDtoH_v2(&word, fill.dst, 4));
    assert_int_equal(word, 77);
    CU_FAILS(cuGraphLaunch(exec, s), CUDA_ERROR_INVALID_VALUE); /* not freed */
    CU(cuDeviceGraphMemTrim(0));
    assert_true(graph_memory(RESERVED) == 64 << 20);
    CU(cuMemFreeAsync(ap.dptr, s));
    CU(cuGraphLaunch(exec, s));
    CU(cuMemFree_v2(ap.dptr));
    assert_true(graph_memory(USED) == 0 && graph_memory(RESERVED) == 64 << 20);
    CU(cuDeviceGraphMemTrim(0));
    assert_true(graph_memory(RESERVED) == 0 && sim_free_bytes() == before);
    CU(cuGraphDestroy(g));
    CU(cuGraphLaunch(exec, s)); /* the executable graph still knows it */
    CU(cuGraphExecDestroy(exec));
    CU(cuMemcpyDtoH_v2(&word, fill.dst, 4));
    CU(cuMemFreeAsync(ap.dptr, s));
    CU(cuStreamSynchronize(s));
    assert_true(graph_memory(RESERVED) == 0 && sim_free_bytes() == before);
    CU_FAILS(cuMemFree_v2(ap.dptr), CUDA_ERROR_INVALID_VALUE);
}

/* Stream-ordered allocations in a capture are such nodes; a graph that frees what it allocates can be
 * launched again at once, and one that takes too much is not launched at all. */
static void captured_memory(void **state)
{
    (void)state;
    CUdeviceptr p, q;
    CUgraph g;
    CUgraphExec exec;
    unsigned word = 0, type;
    CUgraphNode nodes[3];
    size_t count = 3, before = sim_free_bytes();
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CU(cuMemAllocAsync(&p, 1 << 20, s));
    CU(cuMemsetD32Async(p, 5, 1, s));
    CU(cuMemcpyDtoHAsync_v2(&word, p, 4, s));
    CU(cuMemFreeAsync(p, s));
    CU(cuStreamEndCapture(s, &g));
    CU(cuGraphGetNodes(g, nodes, &count));
    CU(cuGraphNodeGetType(nodes[0], (int *)&type));
    assert_int_equal(type, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
    CU(cuGraphInstantiateWithFlags(&exec, g, 0));
    for (int i = 0; i < 3; i++)
        CU(cuGraphLaunch(exec, s));
    CU(cuStreamSynchronize(s));
    assert_int_equal(word, 5);
    assert_true(before - sim_free_bytes() == 2 << 20);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(g));
    assert_true(before == sim_free_bytes());
    CU(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CU(cuMemAllocAsync(&p, 9ull << 30, s));
    CU(cuMemAllocAsync(&q, 9ull << 30, s));
    CU(cuStreamEndCapture(s, &g));
    CU(cuGraphInstantiateWithFlags(&exec, g, 1));
    CU_FAILS(cuGraphLaunch(exec, s), CUDA_ERROR_OUT_OF_MEMORY);
    assert_true(graph_memory(USED) == 0);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(g));
    assert_true(before == sim_free_bytes());
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(explicit_nodes), cmocka_unit_test(branches_run_side_by_side),
        cmocka_unit_test(captured), cmocka_unit_test(nested), cmocka_unit_test(capture_errors),
        cmocka_unit_test(capture_modes), cmocka_unit_test(memory_nodes),
        cmocka_unit_test(captured_memory),
    };
    sim_environment(argc, argv, "v100-16gb:1");
    sim_context();
    add = sim_function("add");
    spin = sim_function("spin");
    CU(cuMemAlloc_v2(&cells, 64));
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    int rc = cmocka_run_group_tests_name("simdriver_graph", tests, NULL, NULL);
    sim_clean();
    return rc;
}
