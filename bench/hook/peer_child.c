/* What bench_peers runs under one hook after another, on the simulated driver. It finds every function by
 * dlsym under its exported name, as each of these hooks expects it.
 *
 * Usage: peer_child FILE launch | share SECONDS | memory MIB
 *
 * launch: nanoseconds of a launch on a GPU that has work, as a median. share: for each way to launch, which
 * share of the time one kernel of a millisecond after the other got the GPU. memory: for each family of
 * allocations, 1 if it got so many MiB. The answers go into FILE, one "name value" a line. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda/hook_proto.h"

#define BATCHES 200
#define BATCH 50
#define KERNEL_NS 1000000ull
#define BLOCKS 640 /* all at once on 80 SMs */

static void *lib;
static FILE *out;
static CUfunction kernel;
static CUdeviceptr count;
static CUstream stream;

static void *find(const char *name)
{
    void *fn = dlsym(lib, name);
    if (fn)
        return fn;
    fprintf(stderr, "peer_child: no %s\n", name);
    exit(3);
}

#define CALL(symbol, type) ((__typeof__(type) *)find(#symbol))

static void check(CUresult r, const char *what)
{
    if (r == CUDA_SUCCESS)
        return;
    fprintf(stderr, "peer_child: %s: %d\n", what, (int)r);
    exit(4);
}

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void begin(void)
{
    CUcontext ctx = NULL;
    CUmodule module = NULL;
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib)
        exit(3);
    double from = now_ns();
    check(CALL(cuInit, fast_fn_cuInit)(0), "cuInit");
    fprintf(out, "init_ms %.3f\n", (now_ns() - from) / 1e6);
    check(CALL(cuDevicePrimaryCtxRetain, CUresult(CUcontext *, CUdevice))(&ctx, 0), "retain");
    check(CALL(cuCtxSetCurrent, fast_fn_cuCtxSetCurrent)(ctx), "cuCtxSetCurrent");
    check(CALL(cuModuleLoad, CUresult(CUmodule *, const char *))(&module, getenv("SPIN_IMAGE")), "module");
    check(CALL(cuModuleGetFunction, CUresult(CUfunction *, CUmodule, const char *))(&kernel, module,
                                                                                    "replay_spin"),
          "replay_spin");
    check(CALL(cuMemAlloc_v2, fast_fn_cuMemAlloc_v2)(&count, 4), "cuMemAlloc");
    check(CALL(cuStreamCreate, CUresult(CUstream *, unsigned))(&stream, 1), "cuStreamCreate");
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Behind a kernel that runs on meanwhile, so that the driver's own thread, which has to share the cores here,
 * does nothing while launches are timed. */
static void launches(void)
{
    static double ns[BATCHES];
    unsigned long long length;
    int occupancy = 500, dram = 0;
    void *params[] = {&length, &occupancy, &dram, &count};
    fast_fn_cuLaunchKernel *launch = CALL(cuLaunchKernel, fast_fn_cuLaunchKernel);
    fast_fn_cuStreamSynchronize *sync = CALL(cuStreamSynchronize, fast_fn_cuStreamSynchronize);
    for (int i = -20; i < BATCHES; i++) {
        length = 500000;
        check(launch(kernel, BLOCKS, 1, 1, 256, 1, 1, 0, stream, params, NULL), "launch");
        length = 1000;
        double from = now_ns();
        for (int k = 0; k < BATCH; k++)
            launch(kernel, BLOCKS, 1, 1, 256, 1, 1, 0, stream, params, NULL);
        if (i >= 0)
            ns[i] = (now_ns() - from) / BATCH;
        check(sync(stream), "synchronize");
    }
    qsort(ns, BATCHES, sizeof(double), by_value);
    fprintf(out, "launch_ns %.1f\n", ns[BATCHES / 2]);
}

/* ---- time ---- */

enum how { BY_KERNEL, BY_KERNEL_EX, BY_GRAPH, WAYS };

static CUgraphExec graph_of(void **params)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    check(CALL(cuStreamBeginCapture_v2, fast_fn_cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED),
          "capture");
    check(CALL(cuLaunchKernel, fast_fn_cuLaunchKernel)(kernel, BLOCKS, 1, 1, 256, 1, 1, 0, stream, params, NULL),
          "launch");
    check(CALL(cuStreamEndCapture, CUresult(CUstream, CUgraph *))(stream, &graph), "end of capture");
    check(CALL(cuGraphInstantiateWithFlags, CUresult(CUgraphExec *, CUgraph, unsigned long long))(&exec, graph, 0),
          "instantiate");
    return exec;
}

static double share(enum how how, double seconds)
{
    unsigned long long length = KERNEL_NS;
    int occupancy = 500, dram = 0;
    void *params[] = {&length, &occupancy, &dram, &count};
    CUlaunchConfig config = {.gridDimX = BLOCKS, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 256, .blockDimY = 1,
                             .blockDimZ = 1, .hStream = stream};
    CUgraphExec exec = how == BY_GRAPH ? graph_of(params) : NULL;
    fast_fn_cuStreamSynchronize *sync = CALL(cuStreamSynchronize, fast_fn_cuStreamSynchronize);
    double from = now_ns(), now = from, warm = from + 1e9, end = warm + seconds * 1e9;
    long done = 0;
    while (now < end) {
        CUresult r = how == BY_KERNEL
                         ? CALL(cuLaunchKernel, fast_fn_cuLaunchKernel)(kernel, BLOCKS, 1, 1, 256, 1, 1, 0, stream,
                                                                        params, NULL)
                     : how == BY_KERNEL_EX
                         ? CALL(cuLaunchKernelEx, fast_fn_cuLaunchKernelEx)(&config, kernel, params, NULL)
                         : CALL(cuGraphLaunch, fast_fn_cuGraphLaunch)(exec, stream);
        check(r, "launch");
        check(sync(stream), "synchronize");
        now = now_ns();
        if (now < warm)
            from = now;
        else
            done++;
    }
    return (double)done * (double)KERNEL_NS / (now - from);
}

/* ---- memory ---- */

static CUresult create(size_t bytes)
{
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
    CUresult r = CALL(cuMemCreate, fast_fn_cuMemCreate)(&handle, bytes, &prop, 0);
    if (r == CUDA_SUCCESS)
        CALL(cuMemRelease, CUresult(CUmemGenericAllocationHandle))(handle);
    return r;
}

static CUresult allocate(const char *family, size_t bytes)
{
    CUdeviceptr p = 0;
    CUmemoryPool pool = NULL;
    size_t pitch;
    if (!strcmp(family, "create"))
        return create(bytes);
    CUresult r;
    if (!strcmp(family, "device"))
        r = CALL(cuMemAlloc_v2, fast_fn_cuMemAlloc_v2)(&p, bytes);
    else if (!strcmp(family, "managed"))
        r = CALL(cuMemAllocManaged, fast_fn_cuMemAllocManaged)(&p, bytes, 1);
    else if (!strcmp(family, "pitch"))
        r = CALL(cuMemAllocPitch_v2, fast_fn_cuMemAllocPitch_v2)(&p, &pitch, 16384, bytes / 16384, 4);
    else if (!strcmp(family, "async"))
        r = CALL(cuMemAllocAsync, fast_fn_cuMemAllocAsync)(&p, bytes, stream);
    else if (CALL(cuDeviceGetDefaultMemPool, CUresult(CUmemoryPool *, CUdevice))(&pool, 0))
        return CUDA_ERROR_NOT_SUPPORTED;
    else
        r = CALL(cuMemAllocFromPoolAsync, fast_fn_cuMemAllocFromPoolAsync)(&p, bytes, pool, stream);
    if (r == CUDA_SUCCESS)
        CALL(cuMemFree_v2, fast_fn_cuMemFree_v2)(p);
    return r;
}

int main(int argc, char **argv)
{
    static const char *const ways[] = {"kernel", "kernel_ex", "graph"};
    static const char *const families[] = {"device", "pitch", "managed", "async", "pool", "create"};
    if (argc < 3)
        return 2;
    out = fopen(argv[1], "w");
    if (!out)
        return 2;
    begin();
    if (!strcmp(argv[2], "launch"))
        launches();
    for (int i = 0; i < WAYS && !strcmp(argv[2], "share"); i++)
        fprintf(out, "share_%s %.4f\n", ways[i], share((enum how)i, strtod(argv[3], NULL)));
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]) && !strcmp(argv[2], "memory"); i++)
        fprintf(out, "got_%s %d\n", families[i],
                allocate(families[i], strtoull(argv[3], NULL, 10) << 20) == CUDA_SUCCESS);
    fprintf(out, "end 1\n");
    fclose(out);
    return 0;
}
