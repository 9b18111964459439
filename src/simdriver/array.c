/* Arrays: here their elements lie in rows like any memory, so that they can be allocated, asked about
 * and copied from and to. Nothing can be bound to them: textures and surfaces are not simulated. */
#include "simdriver/drv.h"

struct array {
    struct handle handle;
    CUDA_ARRAY3D_DESCRIPTOR desc;
    CUdeviceptr base;
    uint64_t area; /* its id: gone with its context */
};

static size_t element_bytes(CUarray_format format, unsigned channels)
{
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return channels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return (size_t)2 * channels;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return (size_t)4 * channels;
    default:
        return 0;
    }
}

static struct array *array_get(const void *handle)
{
    struct array *a = (struct array *)handle;
    if (!handle_is(handle, H_ARRAY))
        return NULL;
    const struct area *area = area_at((uintptr_t)a->base);
    return area && area->id == a->area ? a : NULL;
}

uintptr_t array_memory(CUarray handle, size_t *ret_pitch, size_t *ret_rows)
{
    const struct array *a = (const struct array *)handle;
    if (!handle_is(handle, H_ARRAY))
        return 0;
    *ret_pitch = a->desc.Width * element_bytes(a->desc.Format, a->desc.NumChannels);
    *ret_rows = a->desc.Height ? a->desc.Height : 1;
    return (uintptr_t)a->base;
}

CUAPI cuArray3DCreate_v2(CUarray *ret, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
    struct ctx *ctx;
    CUdeviceptr base;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    unsigned n = desc ? desc->NumChannels : 0;
    size_t bytes = n == 1 || n == 2 || n == 4 ? element_bytes(desc->Format, n) : 0;
    if (!ret || !bytes || !desc->Width || (desc->Depth && !desc->Height))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    /* As large as a GPU's dimensions may be; nothing overflows below that. */
    if (desc->Width > 1u << 27 || desc->Height > 1u << 17 || desc->Depth > 1u << 15)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    bytes *= desc->Width * (desc->Height ? desc->Height : 1);
    if (desc->Depth && bytes > SIZE_MAX / desc->Depth)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    if ((rc = memory_alloc(ctx, AREA_DEVICE, bytes * (desc->Depth ? desc->Depth : 1), &base)))
        return drv_leave(rc);
    struct array *a = handle_new(H_ARRAY, sizeof(*a));
    if (!a) {
        memory_free(area_at((uintptr_t)base));
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    a->desc = *desc;
    a->base = base;
    a->area = area_at((uintptr_t)base)->id;
    *ret = (CUarray)a;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuArrayCreate_v2(CUarray *ret, const CUDA_ARRAY_DESCRIPTOR *desc)
{
    if (!desc)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_ARRAY3D_DESCRIPTOR d = {.Width = desc->Width, .Height = desc->Height, .Format = desc->Format,
                                 .NumChannels = desc->NumChannels};
    return cuArray3DCreate_v2(ret, &d);
}

CUAPI cuArrayDestroy(CUarray handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct array *a = array_get(handle);
    if (!a)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    rc = memory_free(area_at((uintptr_t)a->base));
    if (!rc && handle_is(a, H_ARRAY))
        handle_free(a);
    return drv_leave(rc);
}

CUAPI cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *ret, CUarray handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct array *a = array_get(handle);
    if (!a || !ret)
        return drv_leave(a ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    *ret = a->desc;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *ret, CUarray handle)
{
    CUDA_ARRAY3D_DESCRIPTOR d;
    CUresult rc = ret ? cuArray3DGetDescriptor_v2(&d, handle) : CUDA_ERROR_INVALID_VALUE;
    if (!rc)
        *ret = (CUDA_ARRAY_DESCRIPTOR){d.Width, d.Height, d.Format, d.NumChannels};
    return rc;
}
