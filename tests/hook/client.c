#include "client.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda/abi.h"
#include "cuda/hook_proto.h"

/* Nothing here can execute PTX; a simulated kernel of it takes its time. */
static const char image[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                            ".visible .entry work()\n{\n    ret;\n}\n";

static struct {
    client_find_fn *find;
    CUcontext ctx;
    CUfunction fn;
    CUstream stream;
} self;

#define CALL(symbol, ...)                                                                          \
    ({                                                                                             \
        fast_fn_##symbol *call_fn_ = (fast_fn_##symbol *)self.find(#symbol);                       \
        call_fn_ ? call_fn_(__VA_ARGS__) : CUDA_ERROR_NOT_FOUND;                                   \
    })

/* A function that the hook leaves alone, so that it has no prototype of ours. */
#define PLAIN(symbol, types, ...)                                                                  \
    ({                                                                                             \
        CUresult(*plain_fn_) types = (CUresult(*) types)self.find(#symbol);                        \
        plain_fn_ ? plain_fn_(__VA_ARGS__) : CUDA_ERROR_NOT_FOUND;                                 \
    })

static void need(CUresult r, const char *what)
{
    if (r == CUDA_SUCCESS)
        return;
    fprintf(stderr, "%s: error %d\n", what, r);
    exit(3);
}

static void set_up(void)
{
    CUmodule module;
    need(CALL(cuInit, 0), "cuInit");
    need(PLAIN(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice), &self.ctx, 0), "retain");
    need(CALL(cuCtxSetCurrent, self.ctx), "cuCtxSetCurrent");
    need(PLAIN(cuModuleLoadData, (CUmodule *, const void *), &module, image), "cuModuleLoadData");
    need(PLAIN(cuModuleGetFunction, (CUfunction *, CUmodule, const char *), &self.fn, module,
               "work"), "cuModuleGetFunction");
    need(PLAIN(cuStreamCreate, (CUstream *, unsigned), &self.stream, CU_STREAM_NON_BLOCKING),
         "cuStreamCreate");
}

static CUresult launch(CUstream stream, unsigned blocks)
{
    return CALL(cuLaunchKernel, self.fn, blocks, 1, 1, 256, 1, 1, 0, stream, NULL, NULL);
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static unsigned number(int argc, char **argv, int i, unsigned or_else)
{
    return i < argc ? (unsigned)strtoul(argv[i], NULL, 10) : or_else;
}

/* ---- what it can do ---- */

static int do_launch(int argc, char **argv)
{
    unsigned n = number(argc, argv, 2, 100), blocks = number(argc, argv, 3, 80);
    int64_t start = now_ns();
    for (unsigned i = 0; i < n; i++)
        need(launch(self.stream, blocks), "cuLaunchKernel");
    need(CALL(cuStreamSynchronize, self.stream), "cuStreamSynchronize");
    printf("launched=%u us=%lld\n", n, (long long)(now_ns() - start) / 1000);
    return 0;
}

#define TRY(symbol, ...)                                                                           \
    do {                                                                                           \
        CUresult try_ = CALL(symbol, __VA_ARGS__);                                                 \
        printf(#symbol "=%d\n", try_);                                                             \
        launched += try_ == CUDA_SUCCESS;                                                          \
    } while (0)

/* Every entry point that launches kernels, once. */
static int do_entries(void)
{
    unsigned launched = 0;
    CUstream s = self.stream;
    CUfunction f = self.fn;
    CUlaunchConfig config = {.gridDimX = 8, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 64,
                             .blockDimY = 1, .blockDimZ = 1, .hStream = s};
    CUDA_LAUNCH_PARAMS multi = {.function = f, .gridDimX = 8, .gridDimY = 1, .gridDimZ = 1,
                                .blockDimX = 64, .blockDimY = 1, .blockDimZ = 1, .hStream = s};
    PLAIN(cuFuncSetBlockShape, (CUfunction, int, int, int), f, 64, 1, 1);
    TRY(cuLaunch, f);
    TRY(cuLaunchGrid, f, 8, 1);
    TRY(cuLaunchGridAsync, f, 8, 1, s);
    TRY(cuLaunchKernel, f, 8, 1, 1, 64, 1, 1, 0, s, NULL, NULL);
    TRY(cuLaunchKernel_ptsz, f, 8, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL);
    TRY(cuLaunchKernelEx, &config, f, NULL, NULL);
    TRY(cuLaunchKernelEx_ptsz, &config, f, NULL, NULL);
    TRY(cuLaunchCooperativeKernel, f, 8, 1, 1, 64, 1, 1, 0, s, NULL);
    TRY(cuLaunchCooperativeKernel_ptsz, f, 8, 1, 1, 64, 1, 1, 0, NULL, NULL);
    TRY(cuLaunchCooperativeKernelMultiDevice, &multi, 1, 0);
    need(CALL(cuCtxSynchronize), "cuCtxSynchronize");
    printf("launched=%u\n", launched);
    return 0;
}

/* Every entry point that launches graphs, once. */
static int do_graphs(void)
{
    unsigned launched = 0;
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    CUstream s = self.stream;
    need(CALL(cuStreamBeginCapture_v2, s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "begin capture");
    need(launch(s, 8), "captured launch");
    need(CALL(cuStreamEndCapture, s, &graph), "end capture");
    need(PLAIN(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long), &exec,
               graph, 0), "instantiate");
    TRY(cuGraphLaunch, exec, s);
    TRY(cuGraphLaunch_ptsz, exec, NULL);
    need(CALL(cuCtxSynchronize), "cuCtxSynchronize");
    printf("launched=%u\n", launched);
    return 0;
}

/* Blocks of |mib| until one is refused or |count| are there; then frees all and takes one again. */
static int do_alloc(int argc, char **argv)
{
    size_t bytes = (size_t)number(argc, argv, 2, 64) << 20, free_bytes = 0, total = 0;
    unsigned count = number(argc, argv, 3, 8), got = 0;
    CUdeviceptr ptr[256] = {0};
    CUresult r = CUDA_SUCCESS;
    while (got < count && got < 256 && (r = CALL(cuMemAlloc_v2, &ptr[got], bytes)) == CUDA_SUCCESS)
        got++;
    need(CALL(cuMemGetInfo_v2, &free_bytes, &total), "cuMemGetInfo");
    printf("got=%u rc=%d free_mib=%zu total_mib=%zu\n", got, r, free_bytes >> 20, total >> 20);
    for (unsigned i = 0; i < got; i++)
        need(CALL(cuMemFree_v2, ptr[i]), "cuMemFree");
    need(CALL(cuMemAlloc_v2, &ptr[0], bytes), "cuMemAlloc after free");
    need(CALL(cuMemFree_v2, ptr[0]), "cuMemFree");
    need(CALL(cuDeviceTotalMem_v2, &total, 0), "cuDeviceTotalMem");
    printf("device_mib=%zu\n", total >> 20);
    return 0;
}

static CUresult vmm(size_t bytes)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemGenericAllocationHandle handle = 0;
    CUdeviceptr va = 0;
    CUresult r = CALL(cuMemCreate, &handle, bytes, &prop, 0);
    if (r != CUDA_SUCCESS)
        return r;
    need(PLAIN(cuMemAddressReserve,
               (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long), &va, bytes, 0, 0,
               0), "cuMemAddressReserve");
    need(CALL(cuMemMap, va, bytes, 0, handle, 0), "cuMemMap");
    need(CALL(cuMemRelease, handle), "cuMemRelease");
    size_t free_bytes = 0, total = 0;
    need(CALL(cuMemGetInfo_v2, &free_bytes, &total), "cuMemGetInfo");
    printf("vmm_free_mib=%zu\n", free_bytes >> 20);
    need(CALL(cuMemUnmap, va, bytes), "cuMemUnmap");
    need(PLAIN(cuMemAddressFree, (CUdeviceptr, size_t), va, bytes), "cuMemAddressFree");
    return r;
}

/* One allocation of |mib| in every family, each freed again. */
static int do_families(int argc, char **argv)
{
    size_t bytes = (size_t)number(argc, argv, 2, 64) << 20, pitch;
    CUdeviceptr p = 0;
    CUresult r = CALL(cuMemAlloc_v2, &p, bytes);
    printf("device=%d\n", r);
    if (!r)
        need(CALL(cuMemFree_v2, p), "free");
    r = CALL(cuMemAllocPitch_v2, &p, &pitch, 1 << 20, bytes >> 20, 4);
    printf("pitch=%d\n", r);
    if (!r)
        need(CALL(cuMemFree_v2, p), "free");
    r = CALL(cuMemAllocManaged, &p, bytes, CU_MEM_ATTACH_GLOBAL);
    printf("managed=%d\n", r);
    if (!r)
        need(CALL(cuMemFree_v2, p), "free");
    r = CALL(cuMemAllocAsync, &p, bytes, self.stream);
    printf("async=%d\n", r);
    if (!r)
        need(CALL(cuMemFreeAsync, p, self.stream), "free");
    size_t left = 0, total = 0;
    need(CALL(cuMemGetInfo_v2, &left, &total), "info");
    printf("kept_free_mib=%zu\n", left >> 20);
    need(CALL(cuCtxSynchronize), "sync"); /* the pool gives up what it has */
    r = CALL(cuMemAllocAsync_ptsz, &p, bytes, NULL);
    printf("async_ptsz=%d\n", r);
    if (!r)
        need(CALL(cuMemFreeAsync_ptsz, p, NULL), "free");
    need(CALL(cuCtxSynchronize), "sync");
    printf("vmm=%d\n", vmm(bytes));
    return 0;
}

static int do_arrays(int argc, char **argv)
{
    size_t bytes = (size_t)number(argc, argv, 2, 64) << 20;
    CUarray array = NULL;
    CUDA_ARRAY_DESCRIPTOR desc = {.Width = 1 << 18, .Height = bytes >> 20,
                                  .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUresult r = CALL(cuArrayCreate_v2, &array, &desc);
    printf("array=%d\n", r);
    if (!r)
        need(CALL(cuArrayDestroy, array), "free");
    return 0;
}

static int do_capture(int argc, char **argv)
{
    unsigned n = number(argc, argv, 2, 20);
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    size_t nodes = 0;
    need(launch(self.stream, 8), "launch"); /* from here on the hook knows stream and context */
    need(CALL(cuStreamBeginCapture_v2, self.stream, CU_STREAM_CAPTURE_MODE_GLOBAL), "begin");
    for (unsigned i = 0; i < 10; i++)
        need(launch(self.stream, 8), "captured launch");
    need(CALL(cuStreamEndCapture, self.stream, &graph), "end capture");
    need(PLAIN(cuGraphGetNodes, (CUgraph, CUgraphNode *, size_t *), graph, NULL, &nodes), "nodes");
    need(PLAIN(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long), &exec,
               graph, 0), "instantiate");
    for (unsigned i = 0; i < n; i++)
        need(CALL(cuGraphLaunch, exec, self.stream), "cuGraphLaunch");
    need(CALL(cuStreamSynchronize, self.stream), "cuStreamSynchronize");
    printf("launched=%u nodes=%zu\n", n, nodes);
    return 0;
}

/* An allocation that the cap has room for and the device has not, and then one that both have. */
static int do_refused(void)
{
    CUdeviceptr p;
    printf("refused=%d", CALL(cuMemAlloc_v2, &p, (size_t)16200 << 20));
    printf(" then=%d\n", CALL(cuMemAlloc_v2, &p, (size_t)1 << 30));
    return 0;
}

/* What the cap refuses is not asked of the driver, whose device would be full soon; a pitched allocation counts
 * with its rows as the device has them; and what a pool keeps unused is given up before something is refused. */
static int do_cap_order(void)
{
    CUdeviceptr p;
    CUmemoryPool pool;
    size_t pitch;
    cuuint64_t keep = UINT64_MAX;
    unsigned refused = 0;
    for (int i = 0; i < 20; i++)
        refused += CALL(cuMemAlloc_v2, &p, (size_t)1100 << 20) == CUDA_ERROR_OUT_OF_MEMORY;
    printf("refused=%u", refused);
    printf(" pitch=%d", CALL(cuMemAllocPitch_v2, &p, &pitch, 513, 1 << 20, 4));
    printf(" full=%d", CALL(cuMemAlloc_v2, &(CUdeviceptr){0}, 1 << 20));
    need(CALL(cuMemFree_v2, p), "free");
    need(PLAIN(cuDeviceGetDefaultMemPool, (CUmemoryPool *, CUdevice), &pool, 0), "pool");
    need(PLAIN(cuMemPoolSetAttribute, (CUmemoryPool, int, void *), pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep),
         "threshold");
    need(CALL(cuMemAllocAsync, &p, (size_t)700 << 20, self.stream), "async");
    need(CALL(cuMemFreeAsync, p, self.stream), "free");
    need(CALL(cuStreamSynchronize, self.stream), "sync");
    printf(" trimmed=%d\n", CALL(cuMemAlloc_v2, &p, (size_t)700 << 20));
    return 0;
}

#define SMALLS 1000

static unsigned take(CUdeviceptr *ret, unsigned n, size_t bytes)
{
    unsigned got = 0;
    while (got < n && CALL(cuMemAlloc_v2, &ret[got], bytes) == CUDA_SUCCESS)
        got++;
    return got;
}

static void give(const CUdeviceptr *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        need(CALL(cuMemFree_v2, p[i]), "free");
}

static void *small_thread(void *arg)
{
    CUdeviceptr p[64];
    (void)arg;
    need(CALL(cuCtxSetCurrent, self.ctx), "cuCtxSetCurrent");
    for (int i = 0; i < 20; i++) {
        unsigned n = take(p, 64, (size_t)100 << 10);
        give(p, n);
    }
    return NULL;
}

/* With a cap of 8 MiB: blocks of 2 MiB, which small allocations share. */
static int do_small(void)
{
    static CUdeviceptr p[SMALLS], large;
    pthread_t threads[4];
    unsigned n = take(p, SMALLS, 1000);
    printf("small=%u", n); /* one block, and three are left */
    need(CALL(cuMemAlloc_v2, &large, (size_t)6 << 20), "three blocks");
    printf(" full=%d", CALL(cuMemAlloc_v2, &(CUdeviceptr){0}, ((size_t)1 << 20) + 1));
    give(p, n - 1);
    printf(" held=%d", CALL(cuMemAlloc_v2, &(CUdeviceptr){0}, ((size_t)1 << 20) + 1));
    give(p + n - 1, 1);
    printf(" room=%d", CALL(cuMemAlloc_v2, &p[0], ((size_t)1 << 20) + 1));
    give(p, 1);
    give(&large, 1);
    n = take(p, SMALLS, ((size_t)1 << 20) + 1); /* no two of these fit in a block */
    printf(" large=%u", n);
    give(p, n);
    n = take(p, SMALLS, (size_t)700 << 10); /* two of these do, not three */
    printf(" middle=%u", n);
    give(p, n);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, small_thread, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    n = take(p, SMALLS, (size_t)2 << 20);
    printf(" after=%u\n", n);
    give(p, n);
    return 0;
}

/* A graph that allocates |bytes|, captured, and frees them if |frees|. NULL with *|ret|: refused. */
static CUgraphExec captured_memory(size_t bytes, bool frees, CUdeviceptr *ret_ptr, CUresult *ret)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    need(CALL(cuStreamBeginCapture_v2, self.stream, CU_STREAM_CAPTURE_MODE_GLOBAL), "begin");
    *ret = CALL(cuMemAllocAsync, ret_ptr, bytes, self.stream);
    if (!*ret && frees)
        need(CALL(cuMemFreeAsync, *ret_ptr, self.stream), "captured free");
    need(CALL(cuStreamEndCapture, self.stream, &graph), "end capture");
    if (!*ret)
        need(PLAIN(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long), &exec,
                   graph, 0), "instantiate");
    need(CALL(cuGraphDestroy, graph), "cuGraphDestroy");
    return exec;
}

static size_t free_mib(void)
{
    size_t left = 0, total = 0;
    need(CALL(cuMemGetInfo_v2, &left, &total), "info");
    return left >> 20;
}

/* Memory that graphs allocate: captured, as a node, and in graphs that keep what they have. */
static int do_graph_memory(int argc, char **argv)
{
    enum { GRAPHS = 4 };
    size_t bytes = (size_t)number(argc, argv, 2, 64) << 20;
    CUdeviceptr ptr[GRAPHS] = {0};
    CUgraphExec exec[GRAPHS];
    CUresult r;
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    CUgraph graph = NULL;
    CUgraphNode node;
    params.alloc = (CUDA_MEM_ALLOC_NODE_PARAMS){
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}},
        .bytesize = bytes};
    need(PLAIN(cuGraphCreate, (CUgraph *, unsigned), &graph, 0), "cuGraphCreate");
    printf("node=%d\n", CALL(cuGraphAddNode_v2, &node, graph, NULL, NULL, 0, &params));
    need(CALL(cuGraphDestroy, graph), "cuGraphDestroy");
    exec[0] = captured_memory(bytes, true, &ptr[0], &r);
    printf("captured=%d\n", r);
    if (r)
        return 0;
    for (int i = 0; i < 3; i++)
        need(CALL(cuGraphLaunch, exec[0], self.stream), "cuGraphLaunch");
    need(CALL(cuCtxSynchronize), "sync");
    printf("kept_mib=%zu\n", free_mib());
    need(PLAIN(cuDeviceGraphMemTrim, (CUdevice), 0), "trim");
    need(CALL(cuCtxSynchronize), "sync");
    /* The node is told, and does not answer. */
    for (int i = 0; i < 2000 && free_mib() < 1024; i++)
        usleep(1000);
    printf("trimmed_mib=%zu\n", free_mib());
    int launched = 0;
    for (int i = 0; i < GRAPHS; i++) {
        exec[i] = captured_memory(bytes, false, &ptr[i], &r);
        if (!r && !(r = CALL(cuGraphLaunch, exec[i], self.stream)))
            launched++;
        else
            ptr[i] = 0;
    }
    printf("launched=%d rc=%d\n", launched, r);
    for (int i = 0; i < GRAPHS; i++)
        if (ptr[i])
            need(CALL(cuMemFreeAsync, ptr[i], self.stream), "free");
    need(CALL(cuCtxSynchronize), "sync");
    need(PLAIN(cuDeviceGraphMemTrim, (CUdevice), 0), "trim");
    need(CALL(cuCtxSynchronize), "sync");
    return 0;
}

static void *thread_main(void *arg)
{
    unsigned n = *(const unsigned *)arg;
    CUstream s;
    need(CALL(cuCtxSetCurrent, self.ctx), "cuCtxSetCurrent");
    need(PLAIN(cuStreamCreate, (CUstream *, unsigned), &s, CU_STREAM_NON_BLOCKING), "stream");
    for (unsigned i = 0; i < n; i++)
        need(launch(i % 2 ? s : self.stream, 80), "cuLaunchKernel");
    need(CALL(cuStreamSynchronize, s), "cuStreamSynchronize");
    need(CALL(cuStreamDestroy_v2, s), "cuStreamDestroy");
    return NULL;
}

static int do_threads(int argc, char **argv)
{
    unsigned n = number(argc, argv, 2, 500);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        if (pthread_create(&t[i], NULL, thread_main, &n))
            return 3;
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    need(CALL(cuCtxSynchronize), "cuCtxSynchronize");
    printf("launched=%u\n", 4 * n);
    return 0;
}

/* Copies around the size from which on they are gated; the data must come back unharmed. */
static int do_copies(void)
{
    enum { BIG = 1 << 20, SMALL = 1024 };
    unsigned char *out = malloc(BIG), *back = calloc(1, BIG);
    CUdeviceptr p;
    for (int i = 0; i < BIG; i++)
        out[i] = (unsigned char)(i * 7 + i / 251);
    need(CALL(cuMemAlloc_v2, &p, BIG), "cuMemAlloc");
    need(CALL(cuMemcpyHtoD_v2, p, out, BIG), "HtoD");
    need(CALL(cuMemcpyHtoD_v2, p, out, SMALL), "HtoD small");
    need(CALL(cuMemcpyHtoDAsync_v2, p, out, BIG, self.stream), "HtoD async");
    need(CALL(cuMemsetD8Async, p, out[0], 1, self.stream), "memset small");
    need(CALL(cuStreamSynchronize, self.stream), "sync");
    need(CALL(cuMemcpyDtoH_v2, back, p, BIG), "DtoH");
    int same = !memcmp(out, back, BIG);
    need(CALL(cuMemsetD8_v2, p, 3, BIG), "memset");
    need(CALL(cuMemcpyDtoH_v2_ptds, back, p, SMALL), "DtoH small");
    printf("same=%d copies=4\n", same);
    free(out);
    free(back);
    return !same;
}

/* Launches for |ms|, holding some MiB, one at a time, and tells every 10 ms how many there were. */
static int do_run(int argc, char **argv)
{
    int64_t end = now_ns() + number(argc, argv, 2, 1000) * 1000000LL, told = now_ns();
    unsigned n = 0, longest = 0, mib = number(argc, argv, 3, 0);
    if (mib)
        need(CALL(cuMemAlloc_v2, &(CUdeviceptr){0}, (size_t)mib << 20), "cuMemAlloc");
    printf("ready=1\n");
    fflush(stdout);
    while (now_ns() < end) {
        int64_t start = now_ns();
        need(launch(self.stream, 80), "cuLaunchKernel");
        need(CALL(cuStreamSynchronize, self.stream), "cuStreamSynchronize");
        n++;
        unsigned ms = (unsigned)((now_ns() - start) / 1000000);
        longest = ms > longest ? ms : longest;
        if (now_ns() - told > 10000000) {
            told = now_ns();
            printf("so_far=%u\n", n);
            fflush(stdout);
        }
    }
    printf("launched=%u longest_ms=%u\n", n, longest);
    return 0;
}

/* A long queue: the bound on work in flight must hold it back. Blocks so many that one kernel takes
 * about a millisecond. */
static int do_flood(int argc, char **argv)
{
    unsigned n = number(argc, argv, 2, 100);
    int64_t start = now_ns(), submitted;
    for (unsigned i = 0; i < n; i++)
        need(launch(self.stream, 80 * 8 * 100), "cuLaunchKernel");
    submitted = now_ns();
    need(CALL(cuStreamSynchronize, self.stream), "cuStreamSynchronize");
    printf("launched=%u submit_ms=%lld all_ms=%lld\n", n, (long long)(submitted - start) / 1000000,
           (long long)(now_ns() - start) / 1000000);
    return 0;
}

/* As flood, and looks at each launch whether what was submitted |DEEP| launches before is complete: the GPU's
 * order of things, whatever the host's clock says. */
static int do_deep(int argc, char **argv)
{
    enum { DEEP = 16 };
    unsigned n = number(argc, argv, 2, 100), deep = 0;
    CUevent events[DEEP];
    for (unsigned i = 0; i < DEEP; i++)
        need(PLAIN(cuEventCreate, (CUevent *, unsigned), &events[i], CU_EVENT_DISABLE_TIMING), "cuEventCreate");
    for (unsigned i = 0; i < n; i++) {
        need(launch(self.stream, 80 * 8 * 100), "cuLaunchKernel");
        deep += i >= DEEP && CALL(cuEventQuery, events[i % DEEP]) != CUDA_SUCCESS;
        need(PLAIN(cuEventRecord, (CUevent, CUstream), events[i % DEEP], self.stream), "cuEventRecord");
    }
    need(CALL(cuStreamSynchronize, self.stream), "cuStreamSynchronize");
    printf("launched=%u deep=%u\n", n, deep);
    return 0;
}

/* What NVML says of the first GPU of the machine, after half a GiB was taken. */
static int do_nvml(void)
{
    void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW), *device = NULL;
    unsigned long long memory[3] = {0}, v2[5] = {5 << 3 | 2 << 24}; /* version, total, reserved, free, used */
    CUdeviceptr p;
    if (!lib)
        return 3;
    int (*init)(void) = (int (*)(void))dlsym(lib, "nvmlInit_v2");
    int (*get)(unsigned, void **) =
        (int (*)(unsigned, void **))dlsym(lib, "nvmlDeviceGetHandleByIndex_v2");
    int (*info)(void *, void *) = (int (*)(void *, void *))dlsym(lib, "nvmlDeviceGetMemoryInfo");
    int (*info2)(void *, void *) = (int (*)(void *, void *))dlsym(lib, "nvmlDeviceGetMemoryInfo_v2");
    need(CALL(cuMemAlloc_v2, &p, (size_t)512 << 20), "cuMemAlloc");
    if (!init || !get || !info || init() || get(0, &device) || info(device, memory))
        return 3;
    printf("total_mib=%llu free_mib=%llu used_mib=%llu\n", memory[0] >> 20, memory[1] >> 20,
           memory[2] >> 20);
    if (!info2 || info2(device, v2))
        return 3;
    printf("v2_total_mib=%llu v2_free_mib=%llu v2_used_mib=%llu\n", v2[1] >> 20, v2[3] >> 20, v2[4] >> 20);
    return 0;
}

/* Looks up a version of a copy that the hook has no wrapper for: the one of CUDA 2.0. */
static int do_unhooked(int argc, char **argv)
{
    void *p = NULL;
    need(CALL(cuGetProcAddress_v2, "cuMemcpyHtoD", &p, 2000, 0, NULL), "lookup");
    int r = do_launch(argc, argv);
    usleep(20000);
    return p ? r : 3;
}

/* Some milliseconds of work, and the program looks for it only a tenth of a second later. */
static int do_late_sync(void)
{
    for (int i = 0; i < 10; i++)
        need(launch(self.stream, 80 * 8 * 100), "cuLaunchKernel");
    usleep(100000);
    need(CALL(cuStreamSynchronize, self.stream), "cuStreamSynchronize");
    printf("launched=10\n");
    return 0;
}

/* Memory that goes away with its context, in both ways in which a context can end. */
static int do_contexts(void)
{
    size_t bytes = (size_t)700 << 20;
    CUdeviceptr p;
    CUcontext ctx;
    need(CALL(cuCtxCreate_v2, &ctx, 0, 0), "cuCtxCreate");
    need(CALL(cuMemAlloc_v2, &p, bytes), "cuMemAlloc");
    need(CALL(cuCtxDestroy_v2, ctx), "cuCtxDestroy");
    need(CALL(cuCtxSetCurrent, self.ctx), "cuCtxSetCurrent");
    need(launch(self.stream, 80), "cuLaunchKernel");
    need(CALL(cuMemAlloc_v2, &p, bytes), "cuMemAlloc after cuCtxDestroy");
    need(CALL(cuDevicePrimaryCtxReset_v2, 0), "cuDevicePrimaryCtxReset");
    set_up();
    need(launch(self.stream, 80), "cuLaunchKernel");
    need(CALL(cuMemAlloc_v2, &p, bytes), "cuMemAlloc after reset");
    need(CALL(cuMemFree_v2, p), "cuMemFree");
    printf("launched=2\n");
    return 0;
}

/* Works, does nothing for a while, and works again. */
static int do_pause(int argc, char **argv)
{
    do_launch(argc, argv);
    usleep(50000);
    return do_launch(argc, argv);
}

/* A child that is forked before the driver is used is a client of its own. */
static int do_fork(int argc, char **argv)
{
    fflush(stdout);
    pid_t child = fork();
    int status = 0;
    set_up();
    int r = do_launch(argc, argv);
    if (child == 0) {
        fflush(stdout);
        _exit(r);
    }
    waitpid(child, &status, 0);
    return r || status;
}

static int seqpackets(void)
{
    int n = 0, type;
    for (int fd = 0; fd < 1024; fd++) {
        socklen_t len = sizeof(type);
        n += getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
    }
    return n;
}

/* A child of a process that has used the driver cannot use it; neither may hang or crash. It keeps no connection
 * to the node, or its parent's end would not be seen. */
static int do_fork_late(int argc, char **argv)
{
    int status = 0;
    do_launch(argc, argv);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (seqpackets())
            _exit(9);
        CUresult r = CALL(cuInit, 0);
        launch(NULL, 8);
        _exit(r == CUDA_SUCCESS ? 0 : 7);
    }
    waitpid(child, &status, 0);
    printf("child=%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return do_launch(argc, argv);
}

int client_main(client_find_fn *find, int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "launch";
    self.find = find;
    if (!strcmp(what, "fork"))
        return do_fork(argc, argv);
    if (!strcmp(what, "env")) {
        /* Too late to change anything. */
        unsetenv("FAST_NODE_SOCKET");
        setenv("FAST_TICKET", "0", 1);
    }
    if (!strcmp(what, "late_env"))
        setenv("FAST_NODE_SOCKET", argv[4], 1);
    set_up();
    if (!strcmp(what, "launch") || !strcmp(what, "env") || !strcmp(what, "late_env"))
        return do_launch(argc, argv);
    if (!strcmp(what, "entries"))
        return do_entries();
    if (!strcmp(what, "graphs"))
        return do_graphs();
    if (!strcmp(what, "arrays"))
        return do_arrays(argc, argv);
    if (!strcmp(what, "alloc"))
        return do_alloc(argc, argv);
    if (!strcmp(what, "families"))
        return do_families(argc, argv);
    if (!strcmp(what, "refused"))
        return do_refused();
    if (!strcmp(what, "cap_order"))
        return do_cap_order();
    if (!strcmp(what, "small"))
        return do_small();
    if (!strcmp(what, "graph_memory"))
        return do_graph_memory(argc, argv);
    if (!strcmp(what, "capture"))
        return do_capture(argc, argv);
    if (!strcmp(what, "threads"))
        return do_threads(argc, argv);
    if (!strcmp(what, "copies"))
        return do_copies();
    if (!strcmp(what, "run"))
        return do_run(argc, argv);
    if (!strcmp(what, "flood"))
        return do_flood(argc, argv);
    if (!strcmp(what, "deep"))
        return do_deep(argc, argv);
    if (!strcmp(what, "unhooked"))
        return do_unhooked(argc, argv);
    if (!strcmp(what, "late_sync"))
        return do_late_sync();
    if (!strcmp(what, "contexts"))
        return do_contexts();
    if (!strcmp(what, "nvml"))
        return do_nvml();
    if (!strcmp(what, "pause"))
        return do_pause(argc, argv);
    if (!strcmp(what, "fork_late"))
        return do_fork_late(argc, argv);
    fprintf(stderr, "unknown: %s\n", what);
    return 2;
}
