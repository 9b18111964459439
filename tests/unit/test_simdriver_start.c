/* What compilers, libraries and frameworks ask a driver for when they start: tensor maps, clusters, the
 * linker, user objects of graphs, stream attributes, peers. On a GPU with all of it and on one without.
 * argv[2] is the folder of the simulated driver. */
#include "simcuda.h"

#include <dlfcn.h>
#include <semaphore.h>

CUresult cuTensorMapEncodeTiled(void *, unsigned, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                                const cuuint32_t *, const cuuint32_t *, int, int, int, int);
CUresult cuTensorMapReplaceAddress(void *, void *);
CUresult cuOccupancyMaxActiveClusters(int *, CUfunction, const CUlaunchConfig *);
CUresult cuOccupancyMaxPotentialClusterSize(int *, CUfunction, const CUlaunchConfig *);
CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *, CUfunction, int, int);
CUresult cuFuncSetAttribute(CUfunction, int, int);
CUresult cuLinkCreate_v2(unsigned, int *, void **, CUlinkState *);
CUresult cuLinkAddData_v2(CUlinkState, int, void *, size_t, const char *, unsigned, int *, void **);
CUresult cuLinkAddFile_v2(CUlinkState, int, const char *, unsigned, int *, void **);
CUresult cuLinkComplete(CUlinkState, void **, size_t *);
CUresult cuLinkDestroy(CUlinkState);
CUresult cuUserObjectCreate(CUuserObject *, void *, CUhostFn, unsigned, unsigned);
CUresult cuUserObjectRetain(CUuserObject, unsigned);
CUresult cuUserObjectRelease(CUuserObject, unsigned);
CUresult cuGraphRetainUserObject(CUgraph, CUuserObject, unsigned, unsigned);
CUresult cuGraphReleaseUserObject(CUgraph, CUuserObject, unsigned);
CUresult cuStreamGetAttribute(CUstream, int, CUlaunchAttributeValue *);
CUresult cuStreamSetAttribute(CUstream, int, const CUlaunchAttributeValue *);
CUresult cuStreamCopyAttributes(CUstream, CUstream);
CUresult cuDeviceGetP2PAttribute(int *, int, CUdevice, CUdevice);
CUresult cuDeviceGetPCIBusId(char *, int, CUdevice);
CUresult cuMemGetDefaultMemPool(CUmemoryPool *, CUmemLocation *, CUmemAllocationType);
CUresult cuProfilerStart(void);
CUresult cuProfilerStop(void);
CUresult cuCtxGetSharedMemConfig(int *);
CUresult cuCtxResetPersistingL2Cache(void);
CUresult cuLibraryGetGlobal(CUdeviceptr *, size_t *, CUlibrary, const char *);
CUresult cuLibraryLoadData(CUlibrary *, const void *, int *, void **, unsigned, int *, void **, unsigned);
CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode, CUgraph *);
CUresult cuGraphAddChildGraphNode(CUgraphNode *, CUgraph, const CUgraphNode *, size_t, CUgraph);

static const char *driver_dir;
static bool hopper;

static int device_attribute(int which)
{
    int value = -1;
    CU(cuDeviceGetAttribute(&value, which, 0));
    return value;
}

static void capabilities(void **state)
{
    (void)state;
    int optin = device_attribute(97), value = -1;
    CUfunction f = sim_function("spin");
    assert_int_equal(optin, hopper ? 232448 : 98304); /* 227 KiB and 96 KiB */
    assert_int_equal(device_attribute(120), hopper);
    assert_int_equal(device_attribute(127), hopper);
    assert_int_equal(device_attribute(125), 1); /* events of several processes */
    assert_int_equal(device_attribute(119), 0); /* no pools of several processes, */
    assert_int_equal(device_attribute(124), 0); /* no DMA-BUF, */
    assert_int_equal(device_attribute(132), 0); /* no multicast */
    CU(cuFuncSetAttribute(f, 8, optin));
    CU_FAILS(cuFuncSetAttribute(f, 8, optin + 1), CUDA_ERROR_INVALID_VALUE);
    CU(cuDeviceGetP2PAttribute(&value, 2, 0, 1));
    assert_int_equal(value, 1);
    CU_FAILS(cuDeviceGetP2PAttribute(&value, 2, 0, 0), CUDA_ERROR_INVALID_DEVICE);
    CU_FAILS(cuDeviceGetP2PAttribute(&value, 9, 0, 1), CUDA_ERROR_INVALID_VALUE);
    CU(cuProfilerStart());
    CU(cuProfilerStop());
    CU(cuCtxGetSharedMemConfig(&value));
    CU(cuCtxResetPersistingL2Cache());
    CUmemoryPool a, b;
    CUmemLocation where = {CU_MEM_LOCATION_TYPE_DEVICE, 0}, host = {CU_MEM_LOCATION_TYPE_HOST, 0};
    CU(cuMemGetDefaultMemPool(&a, &where, CU_MEM_ALLOCATION_TYPE_PINNED));
    CU(cuDeviceGetDefaultMemPool(&b, 0));
    assert_ptr_equal(a, b);
    CU_FAILS(cuMemGetDefaultMemPool(&a, &host, CU_MEM_ALLOCATION_TYPE_PINNED), CUDA_ERROR_NOT_SUPPORTED);
}

static void clusters(void **state)
{
    (void)state;
    int n = -1;
    size_t bytes = 0;
    CUfunction f = sim_function("spin");
    CUlaunchAttribute size = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.clusterDim = {2, 1, 1}};
    CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 1024, .blockDimY = 1,
                             .blockDimZ = 1, .attrs = &size, .numAttrs = 1};
    CU(cuOccupancyAvailableDynamicSMemPerBlock(&bytes, f, 2, 1024));
    assert_int_equal(bytes, (hopper ? 233472 : 98304) / 2);
    CU_FAILS(cuOccupancyAvailableDynamicSMemPerBlock(&bytes, f, 3, 1024), CUDA_ERROR_INVALID_VALUE);
    if (!hopper) {
        CU_FAILS(cuOccupancyMaxActiveClusters(&n, f, &config), CUDA_ERROR_NOT_SUPPORTED);
        return;
    }
    CU(cuOccupancyMaxActiveClusters(&n, f, &config));
    assert_int_equal(n, 132 * 2 / 2); /* two blocks of 1024 threads on each SM */
    config.sharedMemBytes = 200000;
    CU(cuOccupancyMaxActiveClusters(&n, f, &config));
    assert_int_equal(n, 132 / 2);
    CU(cuOccupancyMaxPotentialClusterSize(&n, f, &config));
    assert_int_equal(n, 8);
    size.value.clusterDim.x = 9;
    CU_FAILS(cuOccupancyMaxActiveClusters(&n, f, &config), CUDA_ERROR_INVALID_VALUE);
}

static void tensor_maps(void **state)
{
    (void)state;
    static _Alignas(64) char map[128], zero[128];
    const cuuint64_t dim[] = {64, 32}, stride[] = {128}, odd[] = {120};
    const cuuint32_t box[] = {64, 8}, wide[] = {128, 8}, huge[] = {64, 257}, step[] = {1, 1};
    void *at = (void *)(uintptr_t)0x7000000000;
    CU(cuTensorMapEncodeTiled(map, 6, 2, at, dim, stride, box, step, 0, 3, 2, 0));
    assert_memory_not_equal(map, zero, sizeof(map));
    CU(cuTensorMapReplaceAddress(map, (char *)at + 16));
    CU_FAILS(cuTensorMapReplaceAddress(map, (char *)at + 8), CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuTensorMapReplaceAddress(zero, at), CUDA_ERROR_INVALID_VALUE);
    const struct {
        void *map, *at;
        const cuuint64_t *stride;
        const cuuint32_t *box;
        unsigned type, rank;
        int swizzle;
    } bad[] = {{map + 1, at, stride, box, 6, 2, 3},           {map, (char *)at + 4, stride, box, 6, 2, 3},
               {map, at, odd, box, 6, 2, 3},                  {map, at, stride, huge, 6, 2, 3},
               {map, at, stride, wide, 6, 2, 3},              {map, at, stride, box, 13, 2, 3},
               {map, at, stride, box, 6, 0, 3},               {map, at, stride, box, 6, 2, 2},
               {map, at, NULL, box, 6, 2, 3}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CU_FAILS(cuTensorMapEncodeTiled(bad[i].map, bad[i].type, bad[i].rank, bad[i].at, dim, bad[i].stride,
                                        bad[i].box, step, 0, bad[i].swizzle, 2, 0),
                 CUDA_ERROR_INVALID_VALUE);
}

#define PTX(name) ".version 8.0\n.target sm_70\n.visible .entry " name "(.param .u64 p) { ret; }\n"

static void linker(void **state)
{
    (void)state;
    static char a[] = PTX("first"), b[] = PTX("second"), log[16] = "untouched", cubin[64] = "\177ELF";
    int options[] = {3, 4};
    void *values[] = {log, (void *)(uintptr_t)sizeof(log)}, *out = NULL;
    size_t size = 0;
    CUlinkState l;
    CUmodule m;
    CUfunction f;
    CU(cuLinkCreate_v2(2, options, values, &l));
    CU_FAILS(cuLinkComplete(l, &out, &size), CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuLinkAddData_v2(l, 1, (void *)(uintptr_t) "int main", 8, "c", 0, NULL, NULL), CUDA_ERROR_INVALID_PTX);
    CU_FAILS(cuLinkAddData_v2(l, 0, cubin, sizeof(cubin), "c", 0, NULL, NULL), CUDA_ERROR_INVALID_IMAGE);
    CU_FAILS(cuLinkAddFile_v2(l, 1, "/no/such/file.ptx", 0, NULL, NULL), CUDA_ERROR_FILE_NOT_FOUND);
    CU(cuLinkAddData_v2(l, 1, a, sizeof(a), "a", 0, NULL, NULL));
    CU(cuLinkAddData_v2(l, 1, b, sizeof(b) - 1, "b", 0, NULL, NULL));
    CU_FAILS(cuLinkAddFile_v2(l, 0, sim_kernels, 0, NULL, NULL), CUDA_ERROR_NOT_SUPPORTED);
    CU(cuLinkComplete(l, &out, &size));
    assert_string_equal(log, "");
    assert_null(values[1]);
    CU(cuModuleLoadData(&m, out));
    CU(cuModuleGetFunction(&f, m, "first"));
    CU(cuModuleGetFunction(&f, m, "second"));
    CU(cuLinkDestroy(l));
    CU_FAILS(cuLinkDestroy(l), CUDA_ERROR_INVALID_HANDLE);
    CU(cuLinkCreate_v2(0, NULL, NULL, &l));
    CU(cuLinkAddFile_v2(l, 0, sim_kernels, 0, NULL, NULL));
    CU(cuLinkComplete(l, &out, &size));
    CU(cuModuleLoadData(&m, out));
    CU(cuModuleGetFunction(&f, m, "add"));
    CU(cuLinkDestroy(l));
    CUlibrary lib;
    CUdeviceptr p;
    CU(cuLibraryLoadData(&lib, a, NULL, NULL, 0, NULL, NULL, 0));
    CU_FAILS(cuLibraryGetGlobal(&p, &size, lib, "x"), CUDA_ERROR_NOT_FOUND);
    CU(cuLibraryUnload(lib));
}

static void gone(void *arg)
{
    sem_post(arg);
}

static bool is_gone(sem_t *s)
{
    return sem_trywait(s) == 0;
}

/* Its destructor runs once, when neither the program nor a graph nor a launch has it any more. */
static void user_objects(void **state)
{
    (void)state;
    sem_t dead;
    CUuserObject o;
    CUgraph g, copy, outer, inner = NULL;
    CUgraphExec e;
    CUgraphNode node;
    int *word;
    CUdeviceptr device;
    CUstream s;
    sem_init(&dead, 0, 0);
    CU_FAILS(cuUserObjectCreate(&o, &dead, gone, 1, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuUserObjectCreate(&o, &dead, gone, 1, 1));
    CU(cuUserObjectRetain(o, 2));
    CU_FAILS(cuUserObjectRelease(o, 4), CUDA_ERROR_INVALID_VALUE);
    CU(cuUserObjectRelease(o, 3));
    while (sem_wait(&dead))
        ;
    /* The program's own reference becomes the graph's; the clone and what is made of it have theirs. */
    CU(cuUserObjectCreate(&o, &dead, gone, 1, 1));
    CU(cuGraphCreate(&g, 0));
    CU(cuGraphAddEmptyNode(&node, g, NULL, 0));
    CU(cuGraphRetainUserObject(g, o, 1, 1));
    CU_FAILS(cuGraphReleaseUserObject(g, o, 2), CUDA_ERROR_INVALID_VALUE);
    CU(cuGraphClone(&copy, g));
    CU(cuGraphDestroy(g));
    CU(cuGraphCreate(&outer, 0));
    CU(cuGraphAddChildGraphNode(&node, outer, NULL, 0, copy));
    CU(cuGraphChildGraphNodeGetGraph(node, &inner));
    assert_non_null(inner);
    CU(cuGraphDestroy(copy));
    CU(cuGraphInstantiateWithFlags(&e, outer, 0));
    CU(cuGraphDestroy(outer));
    assert_false(is_gone(&dead));
    CU(cuMemHostAlloc((void **)&word, 4096, 2));
    *word = 0;
    CU(cuMemHostGetDevicePointer_v2(&device, word, 0));
    CU(cuStreamCreate(&s, 1));
    CU(cuStreamWaitValue32_v2(s, device, 1, 0));
    CU(cuGraphLaunch(e, s));
    CU(cuGraphExecDestroy(e));
    CU_FAILS(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    assert_false(is_gone(&dead)); /* the launch has not been yet */
    __atomic_store_n(word, 1, __ATOMIC_RELEASE);
    while (sem_wait(&dead))
        ;
    CU(cuStreamSynchronize(s));
    CU(cuStreamDestroy_v2(s));
    CU(cuMemFreeHost(word));
    CU_FAILS(cuUserObjectRelease(o, 1), CUDA_ERROR_INVALID_VALUE);
}

static void stream_attributes(void **state)
{
    (void)state;
    CUstream s, t;
    CUlaunchAttributeValue in = {.pad = "policy"}, out;
    CU(cuStreamCreateWithPriority(&s, 1, -2));
    CU(cuStreamCreate(&t, 1));
    CU(cuStreamSetAttribute(s, 3, &in));
    CU(cuStreamGetAttribute(s, 3, &out));
    assert_memory_equal(&in, &out, sizeof(in));
    CU(cuStreamGetAttribute(t, 3, &out));
    assert_memory_not_equal(&in, &out, sizeof(in));
    CU(cuStreamCopyAttributes(t, s));
    CU(cuStreamGetAttribute(t, 3, &out));
    assert_memory_equal(&in, &out, sizeof(in));
    CU(cuStreamGetAttribute(s, 8, &out));
    assert_int_equal(out.priority, -2);
    CU_FAILS(cuStreamGetAttribute(s, 2, &out), CUDA_ERROR_INVALID_VALUE);
    CU(cuStreamDestroy_v2(s));
    CU(cuStreamDestroy_v2(t));
}

/* As vLLM and PyTorch look for peers and for the NVML device of a CUDA device. */
static void nvml_peers(void **state)
{
    (void)state;
    char path[512], id[32];
    void *dev[2], *same = NULL;
    int status = -1;
    unsigned type;
    snprintf(path, sizeof(path), "%s/libnvidia-ml.so.1", driver_dir);
    void *lib = dlopen(path, RTLD_NOW);
    assert_non_null(lib);
    int (*init)(void) = (int (*)(void))(uintptr_t)dlsym(lib, "nvmlInit_v2");
    int (*get)(unsigned, void **) = (int (*)(unsigned, void **))(uintptr_t)dlsym(lib, "nvmlDeviceGetHandleByIndex_v2");
    int (*find)(const char *, void **) =
        (int (*)(const char *, void **))(uintptr_t)dlsym(lib, "nvmlDeviceGetHandleByPciBusId_v2");
    int (*p2p)(void *, void *, int, int *) =
        (int (*)(void *, void *, int, int *))(uintptr_t)dlsym(lib, "nvmlDeviceGetP2PStatus");
    int (*link)(void *, unsigned, unsigned *) =
        (int (*)(void *, unsigned, unsigned *))(uintptr_t)dlsym(lib, "nvmlDeviceGetNvLinkRemoteDeviceType");
    assert_true(init && get && find && p2p && link);
    assert_int_equal(init(), 0);
    assert_int_equal(get(0, &dev[0]), 0);
    assert_int_equal(get(1, &dev[1]), 0);
    CU(cuDeviceGetPCIBusId(id, sizeof(id), 1));
    assert_int_equal(find(id, &same), 0);
    assert_ptr_equal(same, dev[1]);
    assert_int_equal(find("0000:40:00.0", &same), 6);
    assert_int_equal(find("nonsense", &same), 2);
    assert_int_equal(p2p(dev[0], dev[1], 0, &status), 0);
    assert_int_equal(status, 0);
    assert_int_equal(p2p(dev[0], dev[1], 2, &status), 0);
    assert_int_equal(status, 3); /* no NVLink: frameworks do not take their way for it */
    assert_int_equal(p2p(dev[0], dev[0], 0, &status), 2);
    assert_int_equal(link(dev[0], 0, &type), 3);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capabilities), cmocka_unit_test(clusters),          cmocka_unit_test(tensor_maps),
        cmocka_unit_test(linker),       cmocka_unit_test(user_objects),      cmocka_unit_test(stream_attributes),
        cmocka_unit_test(nvml_peers),
    };
    if (argc < 4)
        return 2;
    driver_dir = argv[2];
    hopper = !strncmp(argv[3], "h100", 4);
    sim_environment(argc, argv, argv[3]);
    sim_context();
    int rc = cmocka_run_group_tests_name("simdriver_start", tests, NULL, NULL);
    sim_clean();
    return rc;
}
