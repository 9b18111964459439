/* Initialisation of a process, and what it is told about the devices. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "simdriver/drv.h"

struct drv drv = {.lock = PTHREAD_MUTEX_INITIALIZER, .mps_fd = -1, .sleep_until = FAST_NEVER};

CUresult drv_enter(void)
{
    if (__atomic_load_n(&drv.exiting, __ATOMIC_RELAXED))
        return CUDA_ERROR_DEINITIALIZED;
    if (!__atomic_load_n(&drv.initialized, __ATOMIC_ACQUIRE) || drv.forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&drv.lock);
    return CUDA_SUCCESS;
}

CUresult drv_enter_ctx(struct ctx **ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct ctx *ctx = ctx_current();
    if (!ctx)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (ctx->handle.type != H_CTX)
        return drv_leave(CUDA_ERROR_CONTEXT_IS_DESTROYED);
    if ((rc = ctx_error(ctx)))
        return drv_leave(rc);
    *ret = ctx;
    return CUDA_SUCCESS;
}

static void fork_prepare(void)
{
    pthread_mutex_lock(&drv.lock);
}

static void fork_parent(void)
{
    pthread_mutex_unlock(&drv.lock);
}

/* A context does not survive fork: in the child every call fails, until exec. */
static void fork_child(void)
{
    pthread_mutex_init(&drv.lock, NULL);
    drv.forked = drv.initialized;
    if (drv.mps_fd >= 0)
        close(drv.mps_fd);
    drv.mps_fd = -1;
}

static void at_exit(void)
{
    if (!drv.initialized || drv.forked)
        return;
    pthread_mutex_lock(&drv.lock);
    __atomic_store_n(&drv.exiting, true, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&drv.work);
    pthread_cond_broadcast(&drv.hosted);
    if (drv.mps_fd >= 0)
        close(drv.mps_fd);
    /* A piece of work that is running now goes on, in memory that stays mapped, until the end. */
    shared_leave(&drv.shared);
    pthread_mutex_unlock(&drv.lock);
}

/* CUDA_VISIBLE_DEVICES: numbers or the beginnings of UUIDs; the list ends at the first wrong one. */
static int visible_one(const char *text, size_t len)
{
    char uuid[48];
    for (int d = 0; d < drv.shared.devices; d++) {
        shared_uuid_text(&drv.shared, d, uuid);
        if (len > 4 && len <= strlen(uuid) && !strncmp(uuid, text, len))
            return d;
    }
    char *end;
    long v = strtol(text, &end, 10);
    return len && end == text + len && v >= 0 && v < drv.shared.devices ? (int)v : -1;
}

static void read_visible(void)
{
    const char *env = getenv("CUDA_VISIBLE_DEVICES");
    drv.devices = 0;
    for (int d = 0; !env && d < drv.shared.devices; d++)
        drv.visible[drv.devices++] = d;
    while (env && *env && drv.devices < SHARED_DEVICES) {
        size_t len = strcspn(env, ",");
        int d = visible_one(env, len);
        if (d < 0)
            break;
        for (int i = 0; i < drv.devices; i++)
            if (drv.visible[i] == d) {
                drv.devices = 0; /* named twice: nothing is visible, as on the real driver */
                return;
            }
        drv.visible[drv.devices++] = d;
        env += len + (env[len] == ',');
    }
}

static void init_conds(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&drv.cond, &attr);
    pthread_cond_init(&drv.work, &attr);
    pthread_cond_init(&drv.hosted, &attr);
    pthread_condattr_destroy(&attr);
}

static CUresult init_locked(void)
{
    static bool registered;
    struct fast_err err;
    if (drv.initialized)
        return CUDA_SUCCESS;
    if (area_init())
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (shared_open(&drv.shared, &err) || shared_join(&drv.shared, &err)) {
        if (getenv("FAST_SIM_DEBUG"))
            fprintf(stderr, "libcuda (simulated): %s\n", err.msg);
        return err.code == FAST_EINVAL || err.code == FAST_ENOENT ? CUDA_ERROR_NO_DEVICE
                                                                 : CUDA_ERROR_OPERATING_SYSTEM;
    }
    mps_connect();
    read_visible();
    init_conds();
    if (!registered) {
        registered = true;
        pthread_atfork(fork_prepare, fork_parent, fork_child);
        atexit(at_exit);
    }
    if (!drv.devices) {
        shared_leave(&drv.shared);
        return CUDA_ERROR_NO_DEVICE;
    }
    __atomic_store_n(&drv.initialized, true, __ATOMIC_RELEASE);
    return CUDA_SUCCESS;
}

CUAPI cuInit(unsigned flags)
{
    if (drv.exiting)
        return CUDA_ERROR_DEINITIALIZED;
    if (drv.forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (flags)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&drv.lock);
    return drv_leave(init_locked());
}

CUAPI cuDriverGetVersion(int *ret)
{
    if (!ret)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = DRV_VERSION;
    return CUDA_SUCCESS;
}

bool device_valid(CUdevice dev)
{
    return dev >= 0 && dev < drv.devices;
}

int device_of(CUdevice dev)
{
    return drv.visible[dev];
}

const struct sim_gpu_conf *device_conf(int device)
{
    return shared_conf(&drv.shared, device);
}

/* What a client of the model can use: a partition under MPS. */
int device_sms(CUdevice dev)
{
    int device = device_of(dev);
    struct sim_client_conf conf = {.mps = drv.mps, .sm_pct = drv.sm_pct};
    struct sim_gpu *gpu = shared_lock(&drv.shared, device);
    int sms = device_conf(device)->sms;
    int client = drv.mps ? sim_gpu_client_add(gpu, &conf, shared_now()) : -1;
    if (client >= 0) {
        sms = sim_gpu_client_sms(gpu, client);
        sim_gpu_client_remove(gpu, client, shared_now());
    }
    shared_unlock(&drv.shared, device);
    return sms;
}

CUAPI cuDeviceGetCount(int *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = drv.devices;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGet(CUdevice *ret, int ordinal)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!device_valid(ordinal))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    *ret = ordinal;
    return drv_leave(CUDA_SUCCESS);
}

/* Enters with a device and a place for the answer. */
static CUresult enter_device(CUdevice dev, const void *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return device_valid(dev) ? CUDA_SUCCESS : drv_leave(CUDA_ERROR_INVALID_DEVICE);
}

CUAPI cuDeviceGetName(char *name, int len, CUdevice dev)
{
    CUresult rc = enter_device(dev, name);
    if (rc)
        return rc;
    if (len <= 0)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    snprintf(name, (size_t)len, "%s", device_conf(device_of(dev))->name);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGetUuid(CUuuid *ret, CUdevice dev)
{
    CUresult rc = enter_device(dev, ret);
    if (rc)
        return rc;
    shared_uuid(&drv.shared, device_of(dev), (unsigned char *)ret->bytes);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGetUuid_v2(CUuuid *ret, CUdevice dev)
{
    return cuDeviceGetUuid(ret, dev);
}

CUAPI cuDeviceTotalMem_v2(size_t *ret, CUdevice dev)
{
    CUresult rc = enter_device(dev, ret);
    if (rc)
        return rc;
    *ret = shared_total(&drv.shared, device_of(dev));
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceTotalMem(unsigned *ret, CUdevice dev)
{
    size_t bytes;
    CUresult rc = ret ? cuDeviceTotalMem_v2(&bytes, dev) : CUDA_ERROR_INVALID_VALUE;
    if (!rc)
        *ret = bytes > UINT32_MAX ? UINT32_MAX : (unsigned)bytes;
    return rc;
}

CUAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
    CUresult rc = enter_device(dev, major && minor ? major : NULL);
    if (rc)
        return rc;
    *major = device_conf(device_of(dev))->cc_major;
    *minor = device_conf(device_of(dev))->cc_minor;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGetPCIBusId(char *ret, int len, CUdevice dev)
{
    CUresult rc = enter_device(dev, ret);
    if (rc)
        return rc;
    if (len < 13)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    snprintf(ret, (size_t)len, "0000:%02X:00.0", (unsigned)(device_of(dev) + 1));
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGetByPCIBusId(CUdevice *ret, const char *id)
{
    unsigned domain = 0, bus = 0;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !id)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (sscanf(id, "%x:%x:", &domain, &bus) == 2 && !domain)
        for (int i = 0; i < drv.devices; i++)
            if (device_of(i) + 1 == (int)bus) {
                *ret = i;
                return drv_leave(CUDA_SUCCESS);
            }
    return drv_leave(CUDA_ERROR_INVALID_DEVICE);
}

CUAPI cuDeviceCanAccessPeer(int *ret, CUdevice dev, CUdevice peer)
{
    CUresult rc = enter_device(dev, ret);
    if (rc)
        return rc;
    if (!device_valid(peer))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    *ret = dev != peer;
    return drv_leave(CUDA_SUCCESS);
}

/* Between any two: access and atomics, no arrays; none is nearer than another. */
CUAPI cuDeviceGetP2PAttribute(int *ret, int which, CUdevice dev, CUdevice peer)
{
    CUresult rc = enter_device(dev, ret);
    if (rc)
        return rc;
    if (!device_valid(peer) || dev == peer)
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    if (which < 1 || which > 5)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = which == 2 || which == 3; /* ACCESS_SUPPORTED, NATIVE_ATOMIC_SUPPORTED */
    return drv_leave(CUDA_SUCCESS);
}

/* What does not follow from the model, common to all devices; 0 for what is not in here. */
static const struct {
    int attribute, value;
} fixed[] = {
    {1, 1024},   {2, 1024},     {3, 1024},  {4, 64},    {5, 0x7fffffff}, {6, 65535},
    {7, 65535},  {8, 49152},    {9, 65536}, {10, 32},   {11, 0x7fffffff}, {12, 65536},
    {13, 1530000}, {14, 512},   {15, 1},    {19, 1},    {30, 512},       {31, 1},
    {32, 1},     {36, 877000},  {37, 4096}, {40, 2},      {41, 1},
    {51, 32},    {78, 1},       {79, 1},    {80, 1},    {82, 65536},     {83, 1},
    {90, 1},     {91, 1},       {92, 1},    {93, 1},    {94, 1},         {95, 1},
    {96, 1},     {98, 1},    {99, 1},    {102, 1},        {103, 1},
    {115, 1},    {122, 1},      {123, 1},   {125, 1},   {126, 1},
};

size_t device_shared_bytes(const struct sim_gpu_conf *conf)
{
    return conf->cc_major >= 9 ? 233472 : conf->cc_major >= 8 ? 167936 : 98304;
}

size_t device_shared_optin(const struct sim_gpu_conf *conf)
{
    size_t reserved = conf->cc_major >= 8 ? 1024 : 0;
    return device_shared_bytes(conf) - reserved;
}

static int attribute(int attr, CUdevice dev)
{
    const struct sim_gpu_conf *conf = device_conf(device_of(dev));
    switch (attr) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return device_sms(dev);
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        return device_of(dev) + 1;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        return conf->threads_per_sm;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        return conf->cc_major;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        return conf->cc_minor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        return (int)device_shared_bytes(conf);
    case 97: /* MAX_SHARED_MEMORY_PER_BLOCK_OPTIN */
        return (int)device_shared_optin(conf);
    case 38: /* L2_CACHE_SIZE */
        return (int)FAST_MIB(conf->cc_major >= 9 ? 50 : conf->cc_major >= 8 ? 40 : 6);
    case 111: /* RESERVED_SHARED_MEMORY_PER_BLOCK */
        return conf->cc_major >= 8 ? 1024 : 0;
    case 120: /* CLUSTER_LAUNCH */
    case 127: /* TENSOR_MAP_ACCESS_SUPPORTED */
        return conf->cc_major >= 9;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
        return conf->blocks_per_sm;
    case CU_DEVICE_ATTRIBUTE_MPS_ENABLED:
        return drv.mps;
    default:
        for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
            if (fixed[i].attribute == attr)
                return fixed[i].value;
        return 0;
    }
}

CUAPI cuDeviceGetAttribute(int *ret, int attr, CUdevice dev)
{
    CUresult rc = enter_device(dev, ret);
    if (rc)
        return rc;
    if (attr < 1 || attr > 147)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = attribute(attr, dev);
    return drv_leave(CUDA_SUCCESS);
}

/* ---- the profiler, which is never there ---- */

CUAPI cuProfilerStart(void)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    return drv_leave(ctx_current() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT);
}

CUAPI cuProfilerStop(void)
{
    return cuProfilerStart();
}
