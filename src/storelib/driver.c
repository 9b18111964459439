/* Finds the driver. The library is never closed: it has threads. */
#include "storelib/driver.h"

#include <dlfcn.h>

int fast_store_driver_load(struct fast_store_driver *d, struct fast_err *err)
{
    const struct {
        void *fn;
        const char *symbol;
        int required;
    } rows[] = {
#define X(member, name, need, params) {&d->member, name, need},
        FAST_STORE_DRIVER(X)
#undef X
    };
    *d = (struct fast_store_driver){.lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)};
    if (!d->lib)
        return fast_err_set(err, FAST_ENOENT, "there is no CUDA driver: %s", dlerror());
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        *(void **)rows[i].fn = dlsym(d->lib, rows[i].symbol);
        if (rows[i].required && !*(void **)rows[i].fn)
            return fast_err_set(err, FAST_ENOSYS, "the CUDA driver has no %s", rows[i].symbol);
    }
    return fast_store_driver_check(d, d->init(0), "cuInit", err);
}

int fast_store_driver_check(const struct fast_store_driver *d, CUresult rc, const char *call,
                            struct fast_err *err)
{
    const char *name = NULL;
    if (rc == CUDA_SUCCESS)
        return 0;
    if (d->error_name(rc, &name) != CUDA_SUCCESS || !name)
        name = "unknown error";
    return fast_err_set(err, rc == CUDA_ERROR_OUT_OF_MEMORY ? FAST_ENOMEM : FAST_EIO, "%s: %s (%d)",
                        call, name, (int)rc);
}

int fast_store_driver_has_vmm(const struct fast_store_driver *d, CUdevice device)
{
    int vmm = 0, fd = 0;
    return d->create && d->granularity && d->release && d->export_handle && d->import_handle &&
           d->reserve && d->unreserve && d->map && d->unmap && d->set_access &&
           !d->device_attribute(&vmm, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                                device) &&
           !d->device_attribute(&fd, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
                                device) &&
           vmm && fd;
}

int fast_store_driver_enter(const struct fast_store_driver *d, CUcontext *primary,
                            struct fast_err *err)
{
    CUcontext now = NULL;
    CUdevice device;
    if (!d->ctx_get(&now) && now)
        return 0;
    if (!*primary) {
        int rc = fast_store_driver_check(d, d->device_get(&device, 0), "cuDeviceGet", err);
        rc = rc ? rc
                : fast_store_driver_check(d, d->primary_retain(primary, device),
                                          "cuDevicePrimaryCtxRetain", err);
        if (rc)
            return rc;
    }
    return fast_store_driver_check(d, d->ctx_set(*primary), "cuCtxSetCurrent", err);
}

int fast_store_driver_set_access(const struct fast_store_driver *d, CUdevice device, CUdeviceptr at,
                                 size_t bytes, unsigned flags, struct fast_err *err)
{
    CUmemAccessDesc desc = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
                            .flags = flags};
    return fast_store_driver_check(d, d->set_access(at, bytes, &desc, 1), "cuMemSetAccess", err);
}
