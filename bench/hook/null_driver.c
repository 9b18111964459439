#include "cuda/abi.h"

#include <stdatomic.h>

/* A driver that does nothing and is done at once: what remains of a launch is the hook. */

#define API __attribute__((visibility("default"))) CUresult

static char context;
static __thread CUcontext current;

API cuInit(unsigned flags)
{
    (void)flags;
    return CUDA_SUCCESS;
}

API cuDriverGetVersion(int *ret)
{
    *ret = 13000;
    return CUDA_SUCCESS;
}

API cuDeviceGetCount(int *ret)
{
    *ret = 1;
    return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int *ret, CUdevice_attribute attribute, CUdevice device)
{
    (void)device;
    *ret = attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 80 : 0;
    return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRetain(CUcontext *ret, CUdevice device)
{
    (void)device;
    *ret = (CUcontext)&context;
    return CUDA_SUCCESS;
}

API cuCtxSetCurrent(CUcontext ctx)
{
    current = ctx;
    return CUDA_SUCCESS;
}

API cuCtxGetCurrent(CUcontext *ret)
{
    *ret = current;
    return CUDA_SUCCESS;
}

API cuCtxGetDevice(CUdevice *ret)
{
    *ret = 0;
    return CUDA_SUCCESS;
}

API cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
    (void)p, (void)bytes, (void)flags;
    return CUDA_SUCCESS;
}

API cuMemHostGetDevicePointer_v2(CUdeviceptr *ret, void *p, unsigned flags)
{
    (void)flags;
    *ret = (CUdeviceptr)p;
    return CUDA_SUCCESS;
}

API cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags)
{
    (void)stream, (void)flags;
    atomic_store((_Atomic cuuint32_t *)at, value);
    return CUDA_SUCCESS;
}

API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *ret)
{
    (void)stream;
    *ret = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

API cuStreamSynchronize(CUstream stream)
{
    (void)stream;
    return CUDA_SUCCESS;
}

API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, CUstream stream, void **params, void **extra)
{
    (void)f, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz;
    (void)shared, (void)stream, (void)params, (void)extra;
    return CUDA_SUCCESS;
}
