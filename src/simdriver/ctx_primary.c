/* The primary context of each device, which lives while somebody in the process retains it. */
#include "simdriver/drv.h"

CUAPI cuDevicePrimaryCtxRetain(CUcontext *ret, CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    if (!drv.primary[dev]) {
        rc = ctx_new(dev, drv.primary_flags[dev], 3020, drv.sm_pct, &drv.primary[dev]);
        if (rc)
            return drv_leave(rc);
        drv.primary[dev]->primary = true;
    }
    drv.primary[dev]->users++;
    *ret = (CUcontext)drv.primary[dev];
    return drv_leave(CUDA_SUCCESS);
}

static void primary_free(CUdevice dev)
{
    struct ctx *ctx = drv.primary[dev];
    drv.primary[dev] = NULL;
    ctx_free(ctx);
}

CUAPI cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    if (!drv.primary[dev] || !drv.primary[dev]->users)
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (!--drv.primary[dev]->users)
        primary_free(dev);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDevicePrimaryCtxRelease(CUdevice dev)
{
    return cuDevicePrimaryCtxRelease_v2(dev);
}

CUAPI cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    if (drv.primary[dev])
        primary_free(dev);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDevicePrimaryCtxReset(CUdevice dev)
{
    return cuDevicePrimaryCtxReset_v2(dev);
}

CUAPI cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned flags)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    drv.primary_flags[dev] = flags;
    if (drv.primary[dev])
        drv.primary[dev]->flags = flags;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned flags)
{
    return cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}

CUAPI cuDevicePrimaryCtxGetState(CUdevice dev, unsigned *flags, int *active)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    if (flags)
        *flags = drv.primary_flags[dev];
    if (active)
        *active = drv.primary[dev] != NULL;
    return drv_leave(CUDA_SUCCESS);
}
