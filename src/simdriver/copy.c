/* Copies. A copy from or to pageable host memory behaves as on a GPU: bytes to the device are taken
 * before the call returns, bytes to the host are there when it does. A device address outside the
 * window is refused at once; one inside it that is not mapped when the copy runs ends the context
 * with CUDA_ERROR_ILLEGAL_ADDRESS. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

static bool is_device(uintptr_t addr)
{
    return area_in_window(addr);
}

/* A device pointer of a call that says so: in the window, or pinned host memory. */
static bool plausible(uintptr_t addr)
{
    return area_in_window(addr) || area_at(addr);
}

static struct work flat(uintptr_t dst, bool dst_device, uintptr_t src, bool src_device, size_t n)
{
    return (struct work){.kind = WORK_COPY,
                         .copy = {.dst = dst, .src = src, .width = n, .height = 1, .depth = 1,
                                  .dst_device = dst_device, .src_device = src_device}};
}

static size_t copy_bytes(const struct work_copy *c)
{
    return c->width * c->height * c->depth;
}

static bool pageable(uintptr_t addr)
{
    return !area_in_window(addr) && !area_at(addr);
}

/* Takes a contiguous copy of the source of |c|. */
static CUresult snapshot(struct work_copy *c)
{
    unsigned char *own = malloc(copy_bytes(c)), *p = own;
    if (!own)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t z = 0; z < c->depth; z++)
        for (size_t y = 0; y < c->height; y++, p += c->width)
            memcpy(p, (const void *)(c->src + z * c->src_slice + y * c->src_pitch), c->width);
    c->src = (uintptr_t)own;
    c->src_pitch = c->width;
    c->src_slice = c->width * c->height;
    c->owned = own;
    return CUDA_SUCCESS;
}

/* Submits |work|; |sync|: waits for it. */
static CUresult submit(CUstream stream, struct work *work, bool sync)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    struct work_copy *c = &work->copy;
    if (rc)
        return rc;
    if ((c->dst_device && !plausible(c->dst)) || (c->src_device && !plausible(c->src)))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!c->dst || !c->src)
        return drv_leave(copy_bytes(c) ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (sync && (rc = capture_unsafe(s->ctx)))
        return drv_leave(rc);
    if (!copy_bytes(c))
        return drv_leave(CUDA_SUCCESS);
    if (s->capture)
        return drv_leave(work_submit(s, work));
    if (!c->dst_device && pageable(c->dst))
        sync = true;
    if (!sync && !c->src_device && pageable(c->src) && (rc = snapshot(c)))
        return drv_leave(rc);
    rc = work_submit(s, work);
    if (!rc && sync)
        rc = work_wait(s, s->submitted);
    return drv_leave(rc);
}

/* ---- one dimension ---- */

static CUresult htod(CUdeviceptr dst, const void *src, size_t n, CUstream s, bool sync)
{
    struct work w = flat((uintptr_t)dst, true, (uintptr_t)src, is_device((uintptr_t)src), n);
    return submit(s, &w, sync);
}

static CUresult dtoh(void *dst, CUdeviceptr src, size_t n, CUstream s, bool sync)
{
    struct work w = flat((uintptr_t)dst, is_device((uintptr_t)dst), (uintptr_t)src, true, n);
    return submit(s, &w, sync);
}

static CUresult dtod(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s)
{
    struct work w = flat((uintptr_t)dst, true, (uintptr_t)src, true, n);
    return submit(s, &w, false);
}

static CUresult any(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s, bool sync)
{
    struct work w = flat((uintptr_t)dst, is_device((uintptr_t)dst), (uintptr_t)src,
                         is_device((uintptr_t)src), n);
    return submit(s, &w, sync);
}

CUAPI cuMemcpyHtoD_v2(CUdeviceptr dst, const void *src, size_t n)
{
    return htod(dst, src, n, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpyHtoD_v2_ptds(CUdeviceptr dst, const void *src, size_t n)
{
    return htod(dst, src, n, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t n, CUstream s)
{
    return htod(dst, src, n, s, false);
}

CUAPI cuMemcpyDtoH_v2(void *dst, CUdeviceptr src, size_t n)
{
    return dtoh(dst, src, n, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpyDtoH_v2_ptds(void *dst, CUdeviceptr src, size_t n)
{
    return dtoh(dst, src, n, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t n, CUstream s)
{
    return dtoh(dst, src, n, s, false);
}

CUAPI cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t n)
{
    return dtod(dst, src, n, CU_STREAM_LEGACY);
}

CUAPI cuMemcpyDtoD_v2_ptds(CUdeviceptr dst, CUdeviceptr src, size_t n)
{
    return dtod(dst, src, n, CU_STREAM_PER_THREAD);
}

CUAPI cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s)
{
    return dtod(dst, src, n, s);
}

CUAPI cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t n)
{
    return any(dst, src, n, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpy_ptds(CUdeviceptr dst, CUdeviceptr src, size_t n)
{
    return any(dst, src, n, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s)
{
    return any(dst, src, n, s, false);
}

CUAPI cuMemcpyPeer(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx, size_t n)
{
    (void)dst_ctx;
    (void)src_ctx;
    return dtod(dst, src, n, CU_STREAM_LEGACY);
}

CUAPI cuMemcpyPeer_ptds(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx,
                        size_t n)
{
    (void)dst_ctx;
    (void)src_ctx;
    return dtod(dst, src, n, CU_STREAM_PER_THREAD);
}

CUAPI cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx,
                        size_t n, CUstream s)
{
    (void)dst_ctx;
    (void)src_ctx;
    return dtod(dst, src, n, s);
}

static CUresult batch(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                      size_t *fail_at, CUstream s)
{
    if (!dsts || !srcs || !sizes || !count)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        CUresult rc = any(dsts[i], srcs[i], sizes[i], s, false);
        if (rc) {
            if (fail_at)
                *fail_at = i;
            return rc;
        }
    }
    return CUDA_SUCCESS;
}

CUAPI cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                         CUmemcpyAttributes *attrs, size_t *attr_at, size_t attr_count,
                         size_t *fail_at, CUstream stream)
{
    (void)attrs;
    (void)attr_at;
    (void)attr_count;
    return batch(dsts, srcs, sizes, count, fail_at, stream);
}

CUAPI cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                            CUmemcpyAttributes *attrs, size_t *attr_at, size_t attr_count,
                            CUstream stream)
{
    (void)attrs;
    (void)attr_at;
    (void)attr_count;
    return batch(dsts, srcs, sizes, count, NULL, stream);
}

/* ---- two and three dimensions ---- */

/* One side of a copy: where it begins, and whether it is device memory. */
static CUresult side(CUmemorytype type, const void *host, CUdeviceptr device, CUarray array, size_t *pitch,
                     size_t *rows, size_t width, size_t height, uintptr_t *ret, bool *ret_device)
{
    if (type == CU_MEMORYTYPE_ARRAY) {
        *ret = array_memory(array, pitch, rows);
        *ret_device = true;
        return *ret ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    if (!*pitch)
        *pitch = width;
    if (!*rows)
        *rows = height;
    if (type < CU_MEMORYTYPE_HOST || type > CU_MEMORYTYPE_UNIFIED || *pitch < width)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = type == CU_MEMORYTYPE_HOST ? (uintptr_t)host : (uintptr_t)device;
    *ret_device = type == CU_MEMORYTYPE_DEVICE || is_device(*ret);
    return CUDA_SUCCESS;
}

CUresult copy_build_3d(const CUDA_MEMCPY3D *p, struct work *ret)
{
    struct work_copy *c = &ret->copy;
    size_t dst_pitch = p->dstPitch, dst_rows = p->dstHeight;
    size_t src_pitch = p->srcPitch, src_rows = p->srcHeight;
    *ret = (struct work){.kind = WORK_COPY};
    CUresult rc = side(p->dstMemoryType, p->dstHost, p->dstDevice, p->dstArray, &dst_pitch, &dst_rows,
                       p->WidthInBytes, p->Height, &c->dst, &c->dst_device);
    if (!rc)
        rc = side(p->srcMemoryType, p->srcHost, p->srcDevice, p->srcArray, &src_pitch, &src_rows,
                  p->WidthInBytes, p->Height, &c->src, &c->src_device);
    if (rc)
        return rc;
    c->dst_pitch = dst_pitch;
    c->src_pitch = src_pitch;
    c->dst_slice = dst_pitch * dst_rows;
    c->src_slice = src_pitch * src_rows;
    c->dst += p->dstXInBytes + p->dstY * dst_pitch + p->dstZ * c->dst_slice;
    c->src += p->srcXInBytes + p->srcY * src_pitch + p->srcZ * c->src_slice;
    c->width = p->WidthInBytes;
    c->height = p->Height;
    c->depth = p->Depth;
    return CUDA_SUCCESS;
}

static CUresult copy3d(const CUDA_MEMCPY3D *p, CUstream s, bool sync)
{
    struct work work;
    CUresult rc = p ? copy_build_3d(p, &work) : CUDA_ERROR_INVALID_VALUE;
    return rc ? rc : submit(s, &work, sync);
}

static CUresult copy2d(const CUDA_MEMCPY2D *p, CUstream s, bool sync)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D d = {
        .srcXInBytes = p->srcXInBytes, .srcY = p->srcY, .srcMemoryType = p->srcMemoryType,
        .srcHost = p->srcHost, .srcDevice = p->srcDevice, .srcArray = p->srcArray, .srcPitch = p->srcPitch,
        .dstXInBytes = p->dstXInBytes, .dstY = p->dstY, .dstMemoryType = p->dstMemoryType,
        .dstHost = p->dstHost, .dstDevice = p->dstDevice, .dstArray = p->dstArray, .dstPitch = p->dstPitch,
        .WidthInBytes = p->WidthInBytes, .Height = p->Height, .Depth = 1};
    return copy3d(&d, s, sync);
}

static CUresult copy3d_peer(const CUDA_MEMCPY3D_PEER *p, CUstream s, bool sync)
{
    CUDA_MEMCPY3D d;
    /* The two differ in what stands in place of the reserved pointers. */
    _Static_assert(sizeof(*p) == sizeof(d), "the structures have the same layout");
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&d, p, sizeof(d));
    return copy3d(&d, s, sync);
}

CUAPI cuMemcpy2D_v2(const CUDA_MEMCPY2D *p)
{
    return copy2d(p, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D *p)
{
    return copy2d(p, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *p)
{
    return copy2d(p, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *p)
{
    return copy2d(p, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *p, CUstream s)
{
    return copy2d(p, s, false);
}

CUAPI cuMemcpy3D_v2(const CUDA_MEMCPY3D *p)
{
    return copy3d(p, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D *p)
{
    return copy3d(p, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *p, CUstream s)
{
    return copy3d(p, s, false);
}

CUAPI cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *p)
{
    return copy3d_peer(p, CU_STREAM_LEGACY, true);
}

CUAPI cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER *p)
{
    return copy3d_peer(p, CU_STREAM_PER_THREAD, true);
}

CUAPI cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *p, CUstream s)
{
    return copy3d_peer(p, s, false);
}
