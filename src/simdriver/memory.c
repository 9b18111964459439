/* Device memory: addresses from the window, pages behind them that come from the host when they are
 * touched, and a charge against the device in the shared state. Also pinned host memory, which has
 * the same address on the host and on the device, as with unified addressing. */
#include <stdlib.h>
#include <sys/mman.h>

#include "simdriver/drv.h"

#define PAGE 4096ull
#define BLOCK FAST_MIB(2)

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

int memory_commit(uintptr_t base, size_t space, bool nofork)
{
    void *p = mmap((void *)base, space, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (p == MAP_FAILED)
        return -1;
    /* A child of fork has no device; without this every fork would copy the page tables. */
    if (nofork)
        madvise(p, space, MADV_DONTFORK);
    return 0;
}

void memory_decommit(uintptr_t base, size_t space)
{
    void *p = mmap((void *)base, space, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    (void)p; /* if it fails the bytes stay, which harms nobody */
}

CUresult memory_alloc(struct ctx *ctx, enum area_kind kind, size_t bytes, CUdeviceptr *ret)
{
    struct area area = {.size = bytes, .kind = kind, .device = ctx->device, .ctx = ctx,
                        .access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (!ret || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > shared_total(&drv.shared, ctx->device))
        return CUDA_ERROR_OUT_OF_MEMORY;
    area.space = round_up(bytes, PAGE);
    area.charged = round_up(bytes, 512);
    if (shared_charge(&drv.shared, ctx->device, area.charged)) {
        /* What pools keep for later is memory as well. */
        pool_trim_all(ctx->device);
        if (shared_charge(&drv.shared, ctx->device, area.charged))
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    area.base = area_find_space(area.space, bytes >= BLOCK ? BLOCK : PAGE, 0);
    if (area.base && !memory_commit(area.base, area.space, kind != AREA_MANAGED)) {
        if (area_add(&area)) {
            *ret = area.base;
            return CUDA_SUCCESS;
        }
        memory_decommit(area.base, area.space);
    }
    shared_uncharge(&drv.shared, ctx->device, area.charged);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* Frees the range whatever it is. Nothing that is still to run may use it. */
static void area_release(struct area *area)
{
    switch (area->kind) {
    case AREA_HOST:
        munmap((void *)area->base, area->space);
        break;
    case AREA_REGISTERED:
    case AREA_RESERVED:
        break;
    case AREA_MAPPED:
        vmm_unmap(area);
        return;
    case AREA_DEVICE:
    case AREA_MANAGED:
    case AREA_IPC:
    case AREA_POOL:
    case AREA_GRAPH:
        memory_decommit(area->base, area->space);
        break;
    }
    if (area->key)
        ipc_release(area);
    else if (area->charged)
        shared_uncharge(&drv.shared, area->device, area->charged);
    area_remove(area);
}

CUresult memory_free(struct area *area)
{
    uint64_t id = area->id;
    uintptr_t base = area->base;
    if (area->kind == AREA_POOL) {
        CUresult rc = area->ctx ? ctx_sync(area->ctx) : CUDA_SUCCESS;
        return rc ? rc : pool_free_now(area);
    }
    if (area->kind == AREA_GRAPH) {
        uint64_t serial;
        CUresult rc = ctx_sync(ctx_current());
        rc = rc ? rc : graph_memory_give(base, &serial);
        if (!rc)
            graph_memory_return(base, serial);
        return rc;
    }
    CUresult rc = ctx_sync(area->ctx);
    /* The lock was given up while waiting. */
    area = area_at(base);
    if (rc || !area || area->id != id)
        return rc ? rc : CUDA_ERROR_INVALID_VALUE;
    area_release(area);
    return CUDA_SUCCESS;
}

void memory_drop_ctx(struct ctx *ctx)
{
    struct area *a = area_next(0);
    while (a) {
        uintptr_t next = a->base + 1;
        if (a->ctx == ctx && a->kind != AREA_MAPPED && a->kind != AREA_POOL &&
            a->kind != AREA_GRAPH)
            area_release(a);
        a = area_next(next);
    }
}

CUAPI cuMemAlloc_v2(CUdeviceptr *ret, size_t bytes)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if ((rc = capture_unsafe(ctx)))
        return drv_leave(rc);
    return drv_leave(memory_alloc(ctx, AREA_DEVICE, bytes, ret));
}

CUAPI cuMemAllocPitch_v2(CUdeviceptr *ret, size_t *ret_pitch, size_t width, size_t height,
                         unsigned element)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret_pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if ((rc = capture_unsafe(ctx)))
        return drv_leave(rc);
    size_t pitch = round_up(width, 512);
    if (height > SIZE_MAX / pitch)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    rc = memory_alloc(ctx, AREA_DEVICE, pitch * height, ret);
    if (!rc)
        *ret_pitch = pitch;
    return drv_leave(rc);
}

CUAPI cuMemAllocManaged(CUdeviceptr *ret, size_t bytes, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if ((rc = capture_unsafe(ctx)))
        return drv_leave(rc);
    return drv_leave(memory_alloc(ctx, AREA_MANAGED, bytes, ret));
}

CUAPI cuMemFree_v2(CUdeviceptr ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ptr)
        return drv_leave(CUDA_SUCCESS);
    if ((rc = capture_unsafe(ctx)))
        return drv_leave(rc);
    struct area *a = area_at((uintptr_t)ptr);
    if (!a || a->base != ptr || a->pending ||
        (a->kind != AREA_DEVICE && a->kind != AREA_MANAGED && a->kind != AREA_POOL &&
         a->kind != AREA_GRAPH))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return drv_leave(memory_free(a));
}

CUAPI cuMemGetInfo_v2(size_t *ret_free, size_t *ret_total)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret_free || !ret_total)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    shared_reap(&drv.shared);
    uint64_t total = shared_total(&drv.shared, ctx->device);
    uint64_t used = shared_used(&drv.shared, ctx->device);
    *ret_free = used < total ? total - used : 0;
    *ret_total = total;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemGetAddressRange_v2(CUdeviceptr *ret_base, size_t *ret_size, CUdeviceptr ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)ptr);
    if (!a || a->kind == AREA_REGISTERED)
        return drv_leave(CUDA_ERROR_NOT_FOUND);
    if (ret_base)
        *ret_base = a->base;
    if (ret_size)
        *ret_size = a->size;
    return drv_leave(CUDA_SUCCESS);
}

/* ---- pinned host memory ---- */

CUAPI cuMemHostAlloc(void **ret, size_t bytes, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || !bytes || flags & ~7u)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct area area = {.size = bytes, .space = round_up(bytes, PAGE), .kind = AREA_HOST,
                        .device = ctx->device, .ctx = ctx, .flags = flags | CU_MEMHOSTALLOC_DEVICEMAP,
                        .access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    void *p = mmap(NULL, area.space, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    area.base = (uintptr_t)p;
    if (!area_add(&area)) {
        munmap(p, area.space);
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *ret = p;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemAllocHost_v2(void **ret, size_t bytes)
{
    return cuMemHostAlloc(ret, bytes, 0);
}

CUAPI cuMemAllocHost(void **ret, size_t bytes)
{
    return cuMemHostAlloc(ret, bytes, 0);
}

CUAPI cuMemFreeHost(void *ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct area *a = area_at((uintptr_t)ptr);
    if (!a || a->base != (uintptr_t)ptr || a->kind != AREA_HOST)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return drv_leave(memory_free(a));
}

CUAPI cuMemHostRegister_v2(void *ptr, size_t bytes, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ptr || !bytes || flags & ~0xfu || area_in_window((uintptr_t)ptr))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct area area = {.base = (uintptr_t)ptr, .size = bytes, .space = bytes,
                        .kind = AREA_REGISTERED, .device = ctx->device, .ctx = ctx, .flags = flags,
                        .access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    return drv_leave(area_add(&area) ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
}

CUAPI cuMemHostRegister(void *ptr, size_t bytes, unsigned flags)
{
    return cuMemHostRegister_v2(ptr, bytes, flags);
}

CUAPI cuMemHostUnregister(void *ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct area *a = area_at((uintptr_t)ptr);
    if (!a || a->base != (uintptr_t)ptr || a->kind != AREA_REGISTERED)
        return drv_leave(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    return drv_leave(memory_free(a));
}

CUAPI cuMemHostGetDevicePointer_v2(CUdeviceptr *ret, void *ptr, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)ptr);
    if (!ret || flags || !a || (a->kind != AREA_HOST && a->kind != AREA_REGISTERED))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = (CUdeviceptr)(uintptr_t)ptr;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemHostGetFlags(unsigned *ret, void *ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)ptr);
    if (!ret || !a || (a->kind != AREA_HOST && a->kind != AREA_REGISTERED))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = a->flags;
    return drv_leave(CUDA_SUCCESS);
}
