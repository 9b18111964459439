/* Questions about pointers, and advice that a simulation has no use for. */
#include <string.h>

#include "simdriver/drv.h"

/* Writes the answer of the right size to |ret|. */
static CUresult attribute(void *ret, int which, const struct area *a, CUdeviceptr ptr)
{
    bool host = a->kind == AREA_HOST || a->kind == AREA_REGISTERED;
    switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        if (!a->ctx)
            return CUDA_ERROR_INVALID_VALUE;
        *(CUcontext *)ret = (CUcontext)a->ctx;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)ret = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)ret = ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (!host && a->kind != AREA_MANAGED)
            return CUDA_ERROR_INVALID_VALUE;
        *(void **)ret = (void *)(uintptr_t)ptr;
        return CUDA_SUCCESS;
    case 6: /* CU_POINTER_ATTRIBUTE_SYNC_MEMOPS */
        *(unsigned *)ret = 0;
        return CUDA_SUCCESS;
    case 7: /* CU_POINTER_ATTRIBUTE_BUFFER_ID */
        *(unsigned long long *)ret = a->id;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)ret = a->kind == AREA_MANAGED;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        for (int i = 0; i < drv.devices; i++)
            if (device_of(i) == a->device)
                *(int *)ret = i;
        return CUDA_SUCCESS;
    case 10: /* CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE */
        *(unsigned *)ret = a->kind == AREA_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)ret = a->base;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)ret = a->size;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)ret = 1;
        return CUDA_SUCCESS;
    case 16: /* CU_POINTER_ATTRIBUTE_ACCESS_FLAGS */
        *(unsigned *)ret = a->access;
        return CUDA_SUCCESS;
    case 17: /* CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE */
        *(CUmemoryPool *)ret = (CUmemoryPool)a->pool;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUAPI cuPointerGetAttribute(void *ret, int which, CUdeviceptr ptr)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)ptr);
    if (!ret || which < 1 || which > 21 || !a)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return drv_leave(attribute(ret, which, a, ptr));
}

static size_t attribute_size(int which)
{
    switch (which) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case 7:
    case 17:
        return 8;
    default:
        return 4;
    }
}

/* What does not apply to a pointer is answered with zeros, not with an error. */
CUAPI cuPointerGetAttributes(unsigned count, int *which, void **ret, CUdeviceptr ptr)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!count || !which || !ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    const struct area *a = area_at((uintptr_t)ptr);
    for (unsigned i = 0; i < count; i++) {
        memset(ret[i], 0, attribute_size(which[i]));
        if (which[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
            *(int *)ret[i] = -2; /* CU_DEVICE_INVALID */
        if (a)
            (void)attribute(ret[i], which[i], a, ptr);
    }
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuPointerSetAttribute(const void *value, int which, CUdeviceptr ptr)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    return drv_leave(value && which == 6 && area_at((uintptr_t)ptr) ? CUDA_SUCCESS
                                                                     : CUDA_ERROR_INVALID_VALUE);
}

/* ---- managed memory: there is only one memory here ---- */

static CUresult known_range(CUdeviceptr ptr, size_t bytes)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    return drv_leave(bytes && area_covers((uintptr_t)ptr, bytes, false) ? CUDA_SUCCESS
                                                                        : CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuMemAdvise(CUdeviceptr ptr, size_t bytes, int advice, CUdevice dev)
{
    (void)advice;
    (void)dev;
    return known_range(ptr, bytes);
}

CUAPI cuMemAdvise_v2(CUdeviceptr ptr, size_t bytes, int advice, CUmemLocation location)
{
    (void)advice;
    (void)location;
    return known_range(ptr, bytes);
}

static CUresult prefetch(CUdeviceptr ptr, size_t bytes, CUstream stream)
{
    CUresult rc = known_range(ptr, bytes);
    struct stream *s;
    if (rc || (rc = drv_enter_stream(stream, &s)))
        return rc;
    struct work work = {.kind = WORK_EMPTY};
    return drv_leave(work_submit(s, &work));
}

CUAPI cuMemPrefetchAsync(CUdeviceptr ptr, size_t bytes, CUdevice dev, CUstream stream)
{
    (void)dev;
    return prefetch(ptr, bytes, stream);
}

CUAPI cuMemPrefetchAsync_v2(CUdeviceptr ptr, size_t bytes, CUmemLocation location, unsigned flags,
                            CUstream stream)
{
    (void)location;
    (void)flags;
    return prefetch(ptr, bytes, stream);
}
