/* NVML of the simulated GPUs beside a CUDA context of the same process, by the names that monitoring
 * programs look up. argv[2] is the folder of the simulated driver. */
#include "simcuda.h"

#include <dlfcn.h>

static void *lib;

typedef struct nvml_device *device;

#define FN(ret, name, params)                                                                      \
    ret(*fn_##name) params = (ret(*) params)(uintptr_t)dlsym(lib, #name);                          \
    assert_non_null(fn_##name)

static device get_device(void)
{
    device d = NULL;
    FN(int, nvmlDeviceGetHandleByIndex_v2, (unsigned, device *));
    assert_int_equal(fn_nvmlDeviceGetHandleByIndex_v2(0, &d), 0);
    return d;
}

static void names(void **state)
{
    (void)state;
    char text[96], uuid[96];
    unsigned n = 0;
    device d = get_device(), same = NULL;
    CUuuid id;
    FN(int, nvmlDeviceGetCount_v2, (unsigned *));
    FN(int, nvmlDeviceGetName, (device, char *, unsigned));
    FN(int, nvmlDeviceGetUUID, (device, char *, unsigned));
    FN(int, nvmlDeviceGetHandleByUUID, (const char *, device *));
    FN(int, nvmlSystemGetDriverVersion, (char *, unsigned));
    assert_int_equal(fn_nvmlDeviceGetCount_v2(&n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(fn_nvmlDeviceGetName(d, text, sizeof(text)), 0);
    assert_string_equal(text + strlen(text) - 11, "(simulated)");
    assert_int_equal(fn_nvmlDeviceGetName(d, text, 4), 7);
    assert_int_equal(fn_nvmlSystemGetDriverVersion(text, sizeof(text)), 0);
    assert_non_null(strstr(text, "simulated"));
    assert_int_equal(fn_nvmlDeviceGetUUID(d, uuid, sizeof(uuid)), 0);
    assert_int_equal(fn_nvmlDeviceGetHandleByUUID(uuid, &same), 0);
    assert_ptr_equal(same, d);
    assert_int_equal(fn_nvmlDeviceGetHandleByUUID("GPU-0", &same), 6);
    /* The same number as CUDA says. */
    CU(cuDeviceGetUuid(&id, 0));
    snprintf(text, sizeof(text), "GPU-%02x%02x%02x%02x-", (unsigned char)id.bytes[0],
             (unsigned char)id.bytes[1], (unsigned char)id.bytes[2], (unsigned char)id.bytes[3]);
    assert_memory_equal(uuid, text, strlen(text));
}

static void memory(void **state)
{
    (void)state;
    struct {
        unsigned long long total, free, used;
    } m1;
    struct {
        unsigned version;
        unsigned long long total, reserved, free, used;
    } m2 = {.version = sizeof(m2) | 2u << 24};
    size_t available, total;
    device d = get_device();
    FN(int, nvmlDeviceGetMemoryInfo, (device, void *));
    FN(int, nvmlDeviceGetMemoryInfo_v2, (device, void *));
    CU(cuMemGetInfo_v2(&available, &total));
    assert_int_equal(fn_nvmlDeviceGetMemoryInfo(d, &m1), 0);
    assert_true(m1.total == total && m1.free == available && m1.used == total - available);
    assert_int_equal(fn_nvmlDeviceGetMemoryInfo_v2(d, &m2), 0);
    assert_true(m2.total == total && m2.used == m1.used);
    m2.version = 1;
    assert_int_equal(fn_nvmlDeviceGetMemoryInfo_v2(d, &m2), 25);
}

struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
};

static void processes(void **state)
{
    (void)state;
    struct process p[4];
    unsigned n = 0;
    device d = get_device();
    FN(int, nvmlDeviceGetComputeRunningProcesses_v3, (device, unsigned *, struct process *));
    assert_int_equal(fn_nvmlDeviceGetComputeRunningProcesses_v3(d, &n, NULL), 7);
    assert_int_equal(n, 1);
    n = 4;
    assert_int_equal(fn_nvmlDeviceGetComputeRunningProcesses_v3(d, &n, p), 0);
    assert_int_equal(n, 1);
    assert_int_equal(p[0].pid, getpid());
    assert_true(p[0].bytes >= 300u << 20);

    struct {
        unsigned pid;
        unsigned long long bytes;
    } old[4];
    FN(int, nvmlDeviceGetComputeRunningProcesses, (device, unsigned *, void *));
    n = 0;
    assert_int_equal(fn_nvmlDeviceGetComputeRunningProcesses(d, &n, NULL), 7);
    assert_int_equal(fn_nvmlDeviceGetComputeRunningProcesses(d, &n, old), 0);
    assert_int_equal(n, 1);
    assert_true(old[0].pid == p[0].pid && old[0].bytes == p[0].bytes);
}

struct metric {
    unsigned id;
    int result;
    double value;
    const char *names[3];
};

/* 40 blocks of 1024 threads, so half of the SMs with one block each, half of its warps; the GPU is
 * busy in the whole span but for the time it takes to ask. */
static void gpm(void **state)
{
    (void)state;
    void *before, *after;
    device d = get_device();
    struct {
        unsigned version, count;
        void *before, *after;
        struct metric metric[5];
    } get = {.version = 1, .count = 5};
    const unsigned ids[] = {1, 2, 3, 10, 77};
    FN(int, nvmlGpmSampleAlloc, (void **));
    FN(int, nvmlGpmSampleFree, (void *));
    FN(int, nvmlGpmSampleGet, (device, void *));
    FN(int, nvmlGpmMetricsGet, (void *));
    CUfunction spin = sim_function("spin");
    assert_int_equal(fn_nvmlGpmSampleAlloc(&before), 0);
    assert_int_equal(fn_nvmlGpmSampleAlloc(&after), 0);
    sim_spin(spin, 300000000, 40, NULL);
    assert_int_equal(fn_nvmlGpmSampleGet(d, before), 0);
    usleep(100000);
    assert_int_equal(fn_nvmlGpmSampleGet(d, after), 0);
    get.before = before;
    get.after = after;
    for (int i = 0; i < 5; i++)
        get.metric[i].id = ids[i];
    assert_int_equal(fn_nvmlGpmMetricsGet(&get), 0);
    CU(cuCtxSynchronize());
    assert_true(get.metric[0].value > 50 && get.metric[0].value <= 100.0001);
    /* Shares of the busy time are exact. */
    double busy = get.metric[0].value;
    assert_true(get.metric[1].value > busy * 0.49 && get.metric[1].value < busy * 0.51);
    assert_true(get.metric[2].value > busy * 0.24 && get.metric[2].value < busy * 0.26);
    assert_int_equal(get.metric[3].result, 0);
    assert_int_equal(get.metric[4].result, 3);
    fn_nvmlGpmSampleFree(before);
    fn_nvmlGpmSampleFree(after);
}

static void utilization(void **state)
{
    (void)state;
    struct {
        unsigned gpu, memory;
    } u = {0, 0};
    device d = get_device();
    CUfunction spin = sim_function("spin");
    FN(int, nvmlDeviceGetUtilizationRates, (device, void *));
    sim_spin(spin, 400000000, 40, NULL);
    CU(cuCtxSynchronize());
    assert_int_equal(fn_nvmlDeviceGetUtilizationRates(d, &u), 0);
    assert_true(u.gpu > 20 && u.gpu <= 100);
    assert_int_equal(u.memory, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names), cmocka_unit_test(memory), cmocka_unit_test(processes),
        cmocka_unit_test(gpm),   cmocka_unit_test(utilization),
    };
    char path[512];
    sim_environment(argc, argv, "v100-16gb:1");
    snprintf(path, sizeof(path), "%s/libnvidia-ml.so.1", argc > 2 ? argv[2] : ".");
    lib = dlopen(path, RTLD_NOW);
    int (*init)(void) = lib ? (int (*)(void))(uintptr_t)dlsym(lib, "nvmlInit_v2") : NULL;
    /* Whichever of the two comes first. */
    if (!init || init())
        return 2;
    sim_context();
    int rc = cmocka_run_group_tests_name("simdriver_nvml", tests, NULL, NULL);
    sim_clean();
    return rc;
}
