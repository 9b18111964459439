#ifndef FAST_STORELIB_DRIVER_H
#define FAST_STORELIB_DRIVER_H

/* The part of the CUDA driver that sharing memory needs, found at run time: by dlopen and dlsym, so that
 * a preloaded hook sees the calls like those of any program. */

#include <stddef.h>

#include "base/err.h"
#include "cuda/abi.h"

/* X(member, symbol, required, parameters) */
#define FAST_STORE_DRIVER(X)                                                                       \
    X(init, "cuInit", 1, (unsigned))                                                               \
    X(device_get, "cuDeviceGet", 1, (CUdevice *, int))                                             \
    X(device_attribute, "cuDeviceGetAttribute", 1, (int *, int, CUdevice))                         \
    X(device_total, "cuDeviceTotalMem_v2", 1, (size_t *, CUdevice))                                \
    X(driver_version, "cuDriverGetVersion", 1, (int *))                                            \
    X(primary_retain, "cuDevicePrimaryCtxRetain", 1, (CUcontext *, CUdevice))                      \
    X(primary_release, "cuDevicePrimaryCtxRelease_v2", 1, (CUdevice))                              \
    X(ctx_get, "cuCtxGetCurrent", 1, (CUcontext *))                                                \
    X(ctx_set, "cuCtxSetCurrent", 1, (CUcontext))                                                  \
    X(ctx_device, "cuCtxGetDevice", 1, (CUdevice *))                                               \
    X(ctx_sync, "cuCtxSynchronize", 1, (void))                                                     \
    X(alloc, "cuMemAlloc_v2", 1, (CUdeviceptr *, size_t))                                          \
    X(free, "cuMemFree_v2", 1, (CUdeviceptr))                                                      \
    X(memset32, "cuMemsetD32_v2", 1, (CUdeviceptr, unsigned, size_t))                              \
    X(host_alloc, "cuMemHostAlloc", 1, (void **, size_t, unsigned))                                \
    X(host_free, "cuMemFreeHost", 1, (void *))                                                     \
    X(copy, "cuMemcpy", 1, (CUdeviceptr, CUdeviceptr, size_t))                                     \
    X(copy_htod, "cuMemcpyHtoD_v2", 1, (CUdeviceptr, const void *, size_t))                        \
    X(copy_dtoh, "cuMemcpyDtoH_v2", 1, (void *, CUdeviceptr, size_t))                              \
    X(copy_htod_async, "cuMemcpyHtoDAsync_v2", 1, (CUdeviceptr, const void *, size_t, CUstream))   \
    X(copy_dtoh_async, "cuMemcpyDtoHAsync_v2", 1, (void *, CUdeviceptr, size_t, CUstream))         \
    X(stream_create, "cuStreamCreate", 1, (CUstream *, unsigned))                                  \
    X(stream_destroy, "cuStreamDestroy_v2", 1, (CUstream))                                         \
    X(stream_sync, "cuStreamSynchronize", 1, (CUstream))                                           \
    X(event_create, "cuEventCreate", 1, (CUevent *, unsigned))                                     \
    X(event_destroy, "cuEventDestroy_v2", 1, (CUevent))                                            \
    X(event_record, "cuEventRecord", 1, (CUevent, CUstream))                                       \
    X(event_sync, "cuEventSynchronize", 1, (CUevent))                                              \
    X(error_name, "cuGetErrorName", 1, (CUresult, const char **))                                  \
    X(create, "cuMemCreate", 0,                                                                    \
      (CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long))   \
    X(granularity, "cuMemGetAllocationGranularity", 0,                                             \
      (size_t *, const CUmemAllocationProp *, int))                                                \
    X(release, "cuMemRelease", 0, (CUmemGenericAllocationHandle))                                  \
    X(export_handle, "cuMemExportToShareableHandle", 0,                                            \
      (void *, CUmemGenericAllocationHandle, int, unsigned long long))                             \
    X(import_handle, "cuMemImportFromShareableHandle", 0,                                          \
      (CUmemGenericAllocationHandle *, void *, int))                                               \
    X(reserve, "cuMemAddressReserve", 0,                                                           \
      (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long))                            \
    X(unreserve, "cuMemAddressFree", 0, (CUdeviceptr, size_t))                                     \
    X(map, "cuMemMap", 0,                                                                          \
      (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long))             \
    X(unmap, "cuMemUnmap", 0, (CUdeviceptr, size_t))                                               \
    X(set_access, "cuMemSetAccess", 0, (CUdeviceptr, size_t, const CUmemAccessDesc *, size_t))     \
    X(ipc_get, "cuIpcGetMemHandle", 0, (CUipcMemHandle *, CUdeviceptr))                            \
    X(ipc_open, "cuIpcOpenMemHandle_v2", 0, (CUdeviceptr *, CUipcMemHandle, unsigned))             \
    X(ipc_close, "cuIpcCloseMemHandle", 0, (CUdeviceptr))

struct fast_store_driver {
    void *lib;
#define X(member, symbol, required, params) CUresult(*member) params;
    FAST_STORE_DRIVER(X)
#undef X
};

/* Loads libcuda.so.1 and calls cuInit. FAST_ENOENT: there is no driver; FAST_EIO: it has no device. */
int fast_store_driver_load(struct fast_store_driver *d, struct fast_err *err);

/* 0, or an error that names the call and CUDA's error. */
int fast_store_driver_check(const struct fast_store_driver *d, CUresult rc, const char *call,
                            struct fast_err *err);

/* The driver and |device| can share memory by descriptors. */
int fast_store_driver_has_vmm(const struct fast_store_driver *d, CUdevice device);

/* Makes the primary context of the first device current if the thread has none. */
int fast_store_driver_enter(const struct fast_store_driver *d, CUcontext *primary,
                            struct fast_err *err);

/* A mapping of several parts, one behind the other. */
int fast_store_driver_set_access(const struct fast_store_driver *d, CUdevice device, CUdeviceptr at,
                                 size_t bytes, unsigned flags, struct fast_err *err);

#endif
