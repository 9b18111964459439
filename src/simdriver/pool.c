/* Stream-ordered allocation. A pool keeps what is freed, for the next allocation of about that size,
 * until a synchronisation finds it above its release threshold, or memory is short. Memory that was
 * freed in a stream can be had again at once in the same stream, and elsewhere when the stream has
 * got there. What counts against the device is what the pool has reserved. */
#include <stdlib.h>

#include "simdriver/drv.h"

#define BLOCK FAST_MIB(2)

struct pool {
    struct handle handle;
    struct pool *next;
    int device;
    CUdevice ordinal;
    bool is_default;
    uint64_t threshold, max;
    uint64_t reserved, reserved_high, used, used_high;
    int reuse[4];
};

static struct pool *all;
static struct pool *current[SHARED_DEVICES]; /* by device: cuDeviceSetMemPool */

static struct pool *pool_new(CUdevice dev)
{
    struct pool *p = handle_new(H_POOL, sizeof(*p));
    if (!p)
        return NULL;
    p->device = device_of(dev);
    p->ordinal = dev;
    p->reuse[1] = p->reuse[2] = p->reuse[3] = 1;
    p->next = all;
    all = p;
    return p;
}

static struct pool *pool_get(CUmemoryPool handle)
{
    return handle_is(handle, H_POOL) ? (struct pool *)handle : NULL;
}

static struct pool *pool_default(CUdevice dev)
{
    for (struct pool *p = all; p; p = p->next)
        if (p->is_default && p->device == device_of(dev))
            return p;
    struct pool *p = pool_new(dev);
    if (p)
        p->is_default = true;
    return p;
}

static struct pool *pool_current(CUdevice dev)
{
    int device = device_of(dev);
    if (!current[device])
        current[device] = pool_default(dev);
    return current[device];
}

/* ---- blocks: an area each ---- */

static void block_release(struct area *a)
{
    a->pool->reserved -= a->space;
    memory_decommit(a->base, a->space);
    shared_uncharge(&drv.shared, a->device, a->charged);
    area_remove(a);
}

static void trim(struct pool *p, uint64_t keep)
{
    for (struct area *a = area_next(0); a && p->reserved > keep;) {
        uintptr_t next = a->base + 1;
        if (a->pool == p && a->freed)
            block_release(a);
        a = area_next(next);
    }
}

void pool_trim_all(int device)
{
    for (struct pool *p = all; p; p = p->next)
        if (p->device == device)
            trim(p, 0);
}

void pool_synced(int device)
{
    for (struct pool *p = all; p; p = p->next)
        if (p->device == device && p->reserved > p->threshold)
            trim(p, p->threshold);
}

/* The last context of |device| is gone, and with it what its pools hold. */
void pool_drop_device(int device)
{
    for (struct area *a = area_next(0); a;) {
        uintptr_t next = a->base + 1;
        if (a->kind == AREA_POOL && a->device == device)
            block_release(a);
        a = area_next(next);
    }
    for (struct pool *p = all; p; p = p->next)
        if (p->device == device)
            p->used = p->reserved = 0;
}

void pool_return(uintptr_t ptr, uint64_t serial)
{
    graph_memory_return(ptr, serial);
    struct area *a = area_at(ptr);
    if (a && a->kind == AREA_POOL && a->serial == serial)
        a->freed = true;
}

static void give_back(struct area *a)
{
    a->pending = true;
    a->serial++;
    a->pool->used -= a->size;
}

CUresult pool_free_now(struct area *a)
{
    give_back(a);
    a->freed = true;
    return CUDA_SUCCESS;
}

/* The smallest free block for |bytes| that does not waste more than half of itself. */
static struct area *reuse(struct pool *p, size_t space, const struct stream *s)
{
    struct area *best = NULL;
    for (struct area *a = area_next(0); a; a = area_next(a->base + 1)) {
        if (a->pool != p || a->space < space || a->space > 2 * space)
            continue;
        if (!a->freed && !(a->pending && a->stream_id == s->id))
            continue;
        if (!best || a->space < best->space)
            best = a;
    }
    return best;
}

static CUresult block_new(struct pool *p, size_t space, struct area **ret)
{
    struct area area = {.space = space, .kind = AREA_POOL, .device = p->device, .pool = p,
                        .charged = space, .access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (p->max && p->reserved + space > p->max)
        trim(p, p->max > space ? p->max - space : 0);
    if (p->max && p->reserved + space > p->max)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (shared_charge(&drv.shared, p->device, space)) {
        pool_trim_all(p->device);
        if (shared_charge(&drv.shared, p->device, space))
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    area.base = area_find_space(space, BLOCK, 0);
    *ret = area.base && !memory_commit(area.base, space, true) ? area_add(&area) : NULL;
    if (!*ret) {
        shared_uncharge(&drv.shared, p->device, space);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    p->reserved += space;
    if (p->reserved > p->reserved_high)
        p->reserved_high = p->reserved;
    return CUDA_SUCCESS;
}

static CUresult alloc(struct pool *p, size_t bytes, struct stream *s, CUdeviceptr *ret)
{
    CUresult rc = CUDA_SUCCESS;
    if (!ret || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (s->capture) {
        rc = graph_memory_new(p->device, bytes, ret);
        struct work work = {.kind = WORK_ALLOC, .free = {.ptr = *ret}};
        if (!rc)
            graph_memory_ref(*ret, 1);
        return rc ? rc : work_submit(s, &work);
    }
    if (bytes > shared_total(&drv.shared, p->device))
        return CUDA_ERROR_OUT_OF_MEMORY;
    size_t space = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    work_poll();
    struct area *a = reuse(p, space, s);
    if (!a)
        rc = block_new(p, space, &a);
    if (rc)
        return rc;
    a->size = bytes;
    a->freed = a->pending = false;
    a->serial++;
    a->ctx = s->ctx;
    p->used += bytes;
    if (p->used > p->used_high)
        p->used_high = p->used;
    *ret = a->base;
    return CUDA_SUCCESS;
}

CUAPI cuMemAllocAsync(CUdeviceptr *ret, size_t bytes, CUstream stream)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    struct pool *p = pool_current(s->ctx->ordinal);
    return drv_leave(p ? alloc(p, bytes, s, ret) : CUDA_ERROR_OUT_OF_MEMORY);
}

CUAPI cuMemAllocFromPoolAsync(CUdeviceptr *ret, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    struct pool *p = pool_get(pool);
    return drv_leave(p ? alloc(p, bytes, s, ret) : CUDA_ERROR_INVALID_VALUE);
}

/* In a capture it becomes a node, which frees at every launch. */
static CUresult free_of_graph(struct stream *s, CUdeviceptr ptr)
{
    struct work work = {.kind = WORK_FREE, .free = {.ptr = ptr}};
    CUresult rc = s->capture ? CUDA_SUCCESS : graph_memory_give(ptr, &work.free.serial);
    return rc ? rc : work_submit(s, &work);
}

CUAPI cuMemFreeAsync(CUdeviceptr ptr, CUstream stream)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    struct area *a = area_at((uintptr_t)ptr);
    bool graph = a && a->kind == AREA_GRAPH;
    if (!a || a->base != ptr || !(graph ? s->capture || !a->pending : a->kind == AREA_POOL && !a->pending))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (graph || s->capture)
        return drv_leave(graph ? free_of_graph(s, ptr) : CUDA_ERROR_NOT_SUPPORTED);
    uint64_t id = a->id;
    struct work work = {.kind = WORK_FREE, .free = {.ptr = a->base, .serial = a->serial + 1}};
    rc = work_submit(s, &work);
    a = area_at((uintptr_t)ptr);
    if (!rc && a && a->id == id) {
        give_back(a);
        a->stream_id = s->id;
    }
    return drv_leave(rc);
}

/* ---- pools ---- */

CUAPI cuDeviceGetDefaultMemPool(CUmemoryPool *ret, CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !device_valid(dev))
        return drv_leave(ret ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_VALUE);
    *ret = (CUmemoryPool)pool_default(dev);
    return drv_leave(*ret ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUAPI cuDeviceGetMemPool(CUmemoryPool *ret, CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !device_valid(dev))
        return drv_leave(ret ? CUDA_ERROR_INVALID_DEVICE : CUDA_ERROR_INVALID_VALUE);
    *ret = (CUmemoryPool)pool_current(dev);
    return drv_leave(*ret ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUAPI cuDeviceSetMemPool(CUdevice dev, CUmemoryPool handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct pool *p = pool_get(handle);
    if (!device_valid(dev) || !p || p->device != device_of(dev))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    current[p->device] = p;
    return drv_leave(CUDA_SUCCESS);
}

/* CUDA 13 names the place of the memory; only devices have pools here. */
static CUresult place_device(const CUmemLocation *where, CUmemAllocationType type, CUdevice *ret)
{
    if (!where || type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (where->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_NOT_SUPPORTED;
    *ret = where->id;
    return CUDA_SUCCESS;
}

CUAPI cuMemGetDefaultMemPool(CUmemoryPool *ret, CUmemLocation *where, CUmemAllocationType type)
{
    CUdevice dev;
    CUresult rc = place_device(where, type, &dev);
    return rc ? rc : cuDeviceGetDefaultMemPool(ret, dev);
}

CUAPI cuMemGetMemPool(CUmemoryPool *ret, CUmemLocation *where, CUmemAllocationType type)
{
    CUdevice dev;
    CUresult rc = place_device(where, type, &dev);
    return rc ? rc : cuDeviceGetMemPool(ret, dev);
}

CUAPI cuMemSetMemPool(CUmemLocation *where, CUmemAllocationType type, CUmemoryPool pool)
{
    CUdevice dev;
    CUresult rc = place_device(where, type, &dev);
    return rc ? rc : cuDeviceSetMemPool(dev, pool);
}

CUAPI cuMemPoolCreate(CUmemoryPool *ret, const CUmemPoolProps *props)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !props || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
        props->location.type != CU_MEM_LOCATION_TYPE_DEVICE || !device_valid(props->location.id))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (props->handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return drv_leave(CUDA_ERROR_NOT_SUPPORTED);
    struct pool *p = pool_new(props->location.id);
    if (!p)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    p->max = props->maxSize;
    *ret = (CUmemoryPool)p;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemPoolDestroy(CUmemoryPool handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct pool *p = pool_get(handle);
    if (!p || p->is_default)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    /* What is still allocated goes on to live in the default pool. */
    struct pool *heir = pool_default(p->ordinal);
    if (!heir)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    for (struct area *a = area_next(0); a; a = area_next(a->base + 1))
        if (a->pool == p)
            a->pool = heir;
    heir->reserved += p->reserved;
    heir->used += p->used;
    if (current[p->device] == p)
        current[p->device] = heir;
    for (struct pool **q = &all; *q; q = &(*q)->next) {
        if (*q == p) {
            *q = p->next;
            break;
        }
    }
    handle_free(p);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemPoolTrimTo(CUmemoryPool handle, size_t keep)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct pool *p = pool_get(handle);
    if (!p)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    work_poll();
    trim(p, keep);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemPoolGetAttribute(CUmemoryPool handle, int which, void *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct pool *p = pool_get(handle);
    if (!p || !ret || which < 1 || which > CU_MEMPOOL_ATTR_USED_MEM_HIGH)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (which < CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
        *(int *)ret = p->reuse[which];
        return drv_leave(CUDA_SUCCESS);
    }
    const uint64_t v[] = {p->threshold, p->reserved, p->reserved_high, p->used, p->used_high};
    *(cuuint64_t *)ret = v[which - CU_MEMPOOL_ATTR_RELEASE_THRESHOLD];
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemPoolSetAttribute(CUmemoryPool handle, int which, void *value)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct pool *p = pool_get(handle);
    if (!p || !value || which < 1)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (which < CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        p->reuse[which] = *(const int *)value;
    else if (which == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
        p->threshold = *(const cuuint64_t *)value;
    else if (which == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH && !*(const cuuint64_t *)value)
        p->reserved_high = p->reserved;
    else if (which == CU_MEMPOOL_ATTR_USED_MEM_HIGH && !*(const cuuint64_t *)value)
        p->used_high = p->used;
    else
        rc = CUDA_ERROR_INVALID_VALUE;
    return drv_leave(rc);
}

CUAPI cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc *desc, size_t count)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    return drv_leave(pool_get(handle) && desc && count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuMemPoolGetAccess(int *ret, CUmemoryPool handle, CUmemLocation *location)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !location || !pool_get(handle))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return drv_leave(CUDA_SUCCESS);
}
