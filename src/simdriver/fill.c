/* Memsets. They are asynchronous, as on a GPU, but for memory that the host can see. */
#include "simdriver/drv.h"

CUresult fill_build(CUdeviceptr dst, size_t pitch, unsigned value, unsigned size, size_t width,
                    size_t height, struct work *ret)
{
    if ((size != 1 && size != 2 && size != 4) || dst % size || (height > 1 && pitch < width * size))
        return CUDA_ERROR_INVALID_VALUE;
    *ret = (struct work){.kind = WORK_MEMSET,
                         .memset = {.dst = (uintptr_t)dst, .pitch = pitch, .width = width,
                                    .height = height, .value = value, .size = size}};
    return CUDA_SUCCESS;
}

static CUresult fill(CUdeviceptr dst, size_t pitch, unsigned value, unsigned size, size_t width,
                     size_t height, CUstream stream, bool sync)
{
    struct stream *s;
    struct work work;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)dst);
    if (!area_in_window((uintptr_t)dst) && !a)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    rc = fill_build(dst, pitch, value, size, width, height, &work);
    if (rc || !width || !height)
        return drv_leave(rc);
    bool visible = a && (a->kind == AREA_HOST || a->kind == AREA_REGISTERED || a->kind == AREA_MANAGED);
    bool capturing = s->capture;
    rc = work_submit(s, &work);
    if (!rc && sync && visible && !capturing)
        rc = work_wait(s, s->submitted);
    return drv_leave(rc);
}

/* The four forms of one width: flat and in two dimensions, synchronous and not. */
#define FILL(bits, type)                                                                           \
    CUAPI cuMemsetD##bits##_v2(CUdeviceptr dst, type value, size_t n)                              \
    {                                                                                              \
        return fill(dst, 0, value, (bits) / 8, n, 1, CU_STREAM_LEGACY, true);                        \
    }                                                                                              \
    CUAPI cuMemsetD##bits##_v2_ptds(CUdeviceptr dst, type value, size_t n)                         \
    {                                                                                              \
        return fill(dst, 0, value, (bits) / 8, n, 1, CU_STREAM_PER_THREAD, true);                    \
    }                                                                                              \
    CUAPI cuMemsetD##bits##Async(CUdeviceptr dst, type value, size_t n, CUstream s)                \
    {                                                                                              \
        return fill(dst, 0, value, (bits) / 8, n, 1, s, false);                                      \
    }                                                                                              \
    CUAPI cuMemsetD2D##bits##_v2(CUdeviceptr dst, size_t pitch, type value, size_t width,          \
                                 size_t height)                                                    \
    {                                                                                              \
        return fill(dst, pitch, value, (bits) / 8, width, height, CU_STREAM_LEGACY, true);           \
    }                                                                                              \
    CUAPI cuMemsetD2D##bits##_v2_ptds(CUdeviceptr dst, size_t pitch, type value, size_t width,     \
                                      size_t height)                                               \
    {                                                                                              \
        return fill(dst, pitch, value, (bits) / 8, width, height, CU_STREAM_PER_THREAD, true);       \
    }                                                                                              \
    CUAPI cuMemsetD2D##bits##Async(CUdeviceptr dst, size_t pitch, type value, size_t width,        \
                                   size_t height, CUstream s)                                      \
    {                                                                                              \
        return fill(dst, pitch, value, (bits) / 8, width, height, s, false);                         \
    }

FILL(8, unsigned char)
FILL(16, unsigned short)
FILL(32, unsigned)
