/* Memory that graphs allocate: its addresses are known when the node is made, memory comes when the
 * graph is launched, and stays with the device's graph pool after the node that frees it, for the next
 * launch or until cuDeviceGraphMemTrim. Each node has addresses of its own; the real driver lets
 * graphs that do not run at once share memory, so that this one may need more. */
#include "simdriver/graph.h"

#define BLOCK FAST_MIB(2)

struct use {
    uint64_t used, used_high, reserved, reserved_high;
};

static struct use uses[SHARED_DEVICES];

static void add(uint64_t *now, uint64_t *high, uint64_t bytes)
{
    *now += bytes;
    if (*now > *high)
        *high = *now;
}

static struct area *area_of(uintptr_t ptr)
{
    struct area *a = area_at(ptr);
    return a && a->kind == AREA_GRAPH && a->base == ptr ? a : NULL;
}

static void give_up(struct area *a)
{
    if (!a->charged)
        return;
    memory_decommit(a->base, a->space);
    shared_uncharge(&drv.shared, a->device, a->charged);
    uses[a->device].reserved -= a->charged;
    a->charged = 0;
}

/* Addresses stay taken for as long as a graph knows them or the program has the memory. */
static void drop_unknown(struct area *a)
{
    if (a->opened || !a->freed)
        return;
    give_up(a);
    area_remove(a);
}

CUresult graph_memory_new(int device, size_t bytes, CUdeviceptr *ret)
{
    struct area area = {.size = bytes, .space = (bytes + BLOCK - 1) / BLOCK * BLOCK, .kind = AREA_GRAPH,
                        .device = device, .freed = true, .pending = true,
                        .access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (bytes > shared_total(&drv.shared, device))
        return CUDA_ERROR_OUT_OF_MEMORY;
    area.base = area_find_space(area.space, BLOCK, 0);
    if (!area.base || !area_add(&area))
        return CUDA_ERROR_OUT_OF_MEMORY;
    *ret = area.base;
    return CUDA_SUCCESS;
}

void graph_memory_ref(uintptr_t ptr, int by)
{
    struct area *a = area_of(ptr);
    if (!a)
        return;
    a->opened += by;
    drop_unknown(a);
}

CUresult graph_memory_take(uintptr_t ptr, bool again)
{
    struct area *a = area_of(ptr);
    if (!a || (!a->pending && !again))
        return CUDA_ERROR_INVALID_VALUE; /* the launch before this one has not freed it */
    struct use *u = &uses[a->device];
    if (!a->charged) {
        if (shared_charge(&drv.shared, a->device, a->space)) {
            pool_trim_all(a->device);
            if (shared_charge(&drv.shared, a->device, a->space))
                return CUDA_ERROR_OUT_OF_MEMORY;
        }
        a->charged = a->space;
        add(&u->reserved, &u->reserved_high, a->space);
        if (memory_commit(a->base, a->space, true)) {
            give_up(a);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    if (a->pending)
        add(&u->used, &u->used_high, a->size);
    a->pending = a->freed = false;
    a->serial++;
    return CUDA_SUCCESS;
}

CUresult graph_memory_give(uintptr_t ptr, uint64_t *ret_serial)
{
    struct area *a = area_of(ptr);
    if (!a || a->pending)
        return CUDA_ERROR_INVALID_VALUE;
    a->pending = true;
    *ret_serial = ++a->serial;
    uses[a->device].used -= a->size;
    return CUDA_SUCCESS;
}

void graph_memory_return(uintptr_t ptr, uint64_t serial)
{
    struct area *a = area_of(ptr);
    if (!a || a->serial != serial)
        return;
    a->freed = true;
    drop_unknown(a);
}

static void trim(int device, bool all)
{
    for (struct area *a = area_next(0); a;) {
        uintptr_t next = a->base + 1;
        if (a->kind == AREA_GRAPH && a->device == device && (all || a->freed))
            give_up(a);
        a = area_next(next);
    }
}

void graph_memory_drop_device(int device)
{
    trim(device, true);
    for (struct area *a = area_next(0); a;) {
        uintptr_t next = a->base + 1;
        if (a->kind == AREA_GRAPH && a->device == device) {
            a->freed = a->pending = true;
            drop_unknown(a);
        }
        a = area_next(next);
    }
    uses[device].used = 0;
}

/* ---- the API ---- */

/* By CUgraphMem_attribute; NULL: none. */
static uint64_t *attribute(CUdevice dev, int which)
{
    struct use *u = &uses[device_of(dev)];
    uint64_t *const v[] = {&u->used, &u->used_high, &u->reserved, &u->reserved_high};
    return which >= 0 && which < 4 ? v[which] : NULL;
}

CUAPI cuDeviceGetGraphMemAttribute(CUdevice dev, int which, void *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    const uint64_t *v = attribute(dev, which);
    if (!v || !ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *(cuuint64_t *)ret = *v;
    return drv_leave(CUDA_SUCCESS);
}

/* The high marks may be set to 0, which makes them what is there now. */
CUAPI cuDeviceSetGraphMemAttribute(CUdevice dev, int which, const void *value)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    uint64_t *v = attribute(dev, which);
    if (!v || which % 2 == 0 || !value || *(const cuuint64_t *)value)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *v = *attribute(dev, which - 1);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuDeviceGraphMemTrim(CUdevice dev)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!device_valid(dev))
        return drv_leave(CUDA_ERROR_INVALID_DEVICE);
    work_poll();
    trim(device_of(dev), false);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphMemAllocNodeGetParams(CUgraphNode handle, CUDA_MEM_ALLOC_NODE_PARAMS *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct node *n = node_get(handle);
    const struct area *a = n && n->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ? area_of(n->work.free.ptr) : NULL;
    if (!a || !ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = (CUDA_MEM_ALLOC_NODE_PARAMS){
        .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, a->device}},
        .bytesize = a->size,
        .dptr = a->base};
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphMemFreeNodeGetParams(CUgraphNode handle, CUdeviceptr *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct node *n = node_get(handle);
    if (!n || n->type != CU_GRAPH_NODE_TYPE_MEM_FREE || !ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = n->work.free.ptr;
    return drv_leave(CUDA_SUCCESS);
}
