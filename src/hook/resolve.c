#include "hook/hook.h"

#include <dlfcn.h>
#include <string.h>

/* Finds the driver's functions and decides which pointer a lookup gets. Substitution is by the
 * pointer that the driver returned, never by name and version: that cannot return a wrong ABI, and a
 * version that the table does not know stays the driver's own (and is reported).
 *
 * Several threads may resolve at once; they store the same values. */

static CUresult no_driver(void)
{
    return CUDA_ERROR_NO_DEVICE;
}

static CUresult not_in_driver(void)
{
    return CUDA_ERROR_NOT_SUPPORTED;
}

static uint32_t map_home(const void *ptr)
{
    return (uint32_t)((uintptr_t)ptr >> 4) * 2654435761u & (FAST_HOOK_MAP - 1);
}

static void map_put(void *ptr, uint32_t entry)
{
    uint32_t i = map_home(ptr);
    for (;;) {
        void *was = NULL;
        if (atomic_compare_exchange_strong(&fast_hook.map[i].ptr, &was, ptr) || was == ptr)
            break;
        i = (i + 1) & (FAST_HOOK_MAP - 1);
    }
    atomic_store(&fast_hook.map[i].entry, entry);
}

static int map_get(const void *ptr)
{
    for (uint32_t i = map_home(ptr);; i = (i + 1) & (FAST_HOOK_MAP - 1)) {
        void *was = atomic_load(&fast_hook.map[i].ptr);
        if (was == ptr)
            return (int)atomic_load(&fast_hook.map[i].entry);
        if (!was)
            return -1;
    }
}

#define TAKE(field, name) *(void **)(&d->field) = fast_real_dlsym(lib, name)

static void find_own(void *lib, struct fast_driver *d)
{
    TAKE(ctx_get_current, "cuCtxGetCurrent");
    TAKE(ctx_get_device, "cuCtxGetDevice");
    TAKE(stream_is_capturing[0], "cuStreamIsCapturing");
    TAKE(stream_is_capturing[1], "cuStreamIsCapturing_ptsz");
    TAKE(stream_write[0], "cuStreamWriteValue32_v2");
    TAKE(stream_write[1], "cuStreamWriteValue32_v2_ptsz");
    TAKE(host_register, "cuMemHostRegister_v2");
    TAKE(host_device_pointer, "cuMemHostGetDevicePointer_v2");
    TAKE(event_create, "cuEventCreate");
    TAKE(event_record[0], "cuEventRecord");
    TAKE(event_record[1], "cuEventRecord_ptsz");
    TAKE(event_query, "cuEventQuery");
    TAKE(primary_state, "cuDevicePrimaryCtxGetState");
    TAKE(device_count, "cuDeviceGetCount");
    TAKE(device_attribute, "cuDeviceGetAttribute");
    TAKE(device_uuid, "cuDeviceGetUuid_v2");
    TAKE(driver_version, "cuDriverGetVersion");
    TAKE(device_pool, "cuDeviceGetMemPool");
    TAKE(pool_attribute, "cuMemPoolGetAttribute");
    TAKE(pool_trim, "cuMemPoolTrimTo");
    TAKE(graph_attribute, "cuDeviceGetGraphMemAttribute");
    TAKE(graph_trim, "cuDeviceGraphMemTrim");
    TAKE(capture_mode, "cuThreadExchangeStreamCaptureMode");
}

/* Threads that come here at once find the same. What is there already may be in use, so it is not written again. */
static void publish(const struct fast_driver *found)
{
    _Static_assert(sizeof(*found) % sizeof(uintptr_t) == 0, "pointers alone");
    const uintptr_t *from = (const uintptr_t *)found;
    uintptr_t *to = (uintptr_t *)&fast_hook.driver;
    for (size_t i = 0; i < sizeof(*found) / sizeof(*from); i++)
        if (__atomic_load_n(&to[i], __ATOMIC_SEQ_CST) != from[i])
            __atomic_store_n(&to[i], from[i], __ATOMIC_SEQ_CST);
}

bool fast_hook_resolve_all(bool load)
{
    if (atomic_load_explicit(&fast_hook.resolved, memory_order_acquire))
        return true;
    /* The reference keeps the driver from being unloaded under the pointers: programs dlclose it. */
    int flags = RTLD_NOW | RTLD_NODELETE;
    void *lib = fast_real_dlopen("libcuda.so.1", flags | RTLD_NOLOAD);
    if (!lib && load)
        lib = fast_real_dlopen("libcuda.so.1", flags);
    if (!lib)
        return false;
    struct fast_driver driver;
    find_own(lib, &driver);
    for (int i = 0; i < FAST_ENTRY_COUNT; i++) {
        void *ptr = fast_real_dlsym(lib, fast_entry_hooked[i].symbol);
        if (ptr)
            map_put(ptr, (uint32_t)i);
        atomic_store(&fast_hook.real[i], ptr ? (fast_any_fn *)ptr : (fast_any_fn *)&not_in_driver);
    }
    publish(&driver);
    atomic_store_explicit(&fast_hook.resolved, 1, memory_order_release);
    return true;
}

fast_any_fn *fast_hook_resolve(enum fast_entry entry)
{
    if (!fast_hook_resolve_all(true))
        return (fast_any_fn *)&no_driver;
    return atomic_load(&fast_hook.real[entry]);
}

/* A symbol that this driver lacks must look missing, whatever the hook exports. */
void *fast_hook_wrapper(const char *name)
{
    if (!fast_hook_enabled() || !name)
        return NULL;
    if (name[0] == 'n' && name[1] == 'v' && name[2] == 'm' && name[3] == 'l')
        return fast_nvml_wrapper(name);
    int entry = fast_entry_find(name);
    if (entry < 0 || !fast_hook_resolve_all(false))
        return NULL;
    if (atomic_load(&fast_hook.real[entry]) == (fast_any_fn *)&not_in_driver)
        return NULL;
    return (void *)fast_hook_wrappers[entry];
}

static void note_unhooked(const char *base)
{
    int i = fast_entry_base_find(base);
    if (i < 0 || i >= 512)
        return;
    uint64_t bit = 1ULL << (i % 64);
    if (atomic_fetch_or(&fast_hook.unhooked[i / 64], bit) & bit)
        return;
    fast_hook_log("unhooked symbol=%s", base);
    atomic_store(&fast_hook.unhooked_new, 1);
    fast_hook_kick();
}

void *fast_hook_substitute(const char *base, void *real)
{
    if (!fast_hook_enabled() || !real || !fast_hook_resolve_all(false))
        return real;
    int entry = map_get(real);
    if (entry >= 0)
        return (void *)fast_hook_wrappers[entry];
    if (base)
        note_unhooked(base);
    return real;
}

FAST_EXPORT CUresult cuGetProcAddress(const char *name, void **ret, int version, cuuint64_t flags)
{
    CUresult r = FAST_REAL(cuGetProcAddress)(name, ret, version, flags);
    if (r == CUDA_SUCCESS && ret)
        *ret = fast_hook_substitute(name, *ret);
    return r;
}

FAST_EXPORT CUresult cuGetProcAddress_v2(const char *name, void **ret, int version,
                                         cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
    CUresult r = FAST_REAL(cuGetProcAddress_v2)(name, ret, version, flags, status);
    if (r == CUDA_SUCCESS && ret)
        *ret = fast_hook_substitute(name, *ret);
    return r;
}

FAST_EXPORT CUresult cuInit(unsigned flags)
{
    CUresult r = FAST_REAL(cuInit)(flags);
    if (r == CUDA_SUCCESS && fast_hook_enabled())
        fast_link_start();
    return r;
}
