/* Device memory to hand out: few large chunks that the driver exports as descriptors, or, where it
 * cannot, one plain allocation with a legacy handle. The store never maps a chunk itself: it needs no
 * context for them, which on a GPU saves some hundred megabytes. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "store/store.h"

#define CHUNK FAST_GIB(1) /* of a model; larger when it would be more than half of STORE_PARTS_MAX */

static CUmemAllocationProp prop_of(CUdevice device)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
}

int store_device_init(struct store_device *dev, const char *probe_file, struct fast_err *err)
{
    const struct fast_store_driver *d = &dev->d;
    int rc = fast_store_driver_load(&dev->d, err);
    rc = rc ? rc : fast_store_driver_check(d, d->device_get(&dev->device, 0), "cuDeviceGet", err);
    rc = rc ? rc
            : fast_store_driver_check(d, d->device_total(&dev->total, dev->device), "cuDeviceTotalMem",
                                      err);
    rc = rc ? rc : store_probe(d, dev->device, probe_file, &dev->via, err);
    dev->granularity = FAST_MIB(2); /* less, and the driver may put it into a block with somebody else's */
    if (rc || dev->via == FAST_STORE_VIA_IPC)
        return rc ? rc : fast_store_driver_enter(d, &dev->ctx, err);
    CUmemAllocationProp prop = prop_of(dev->device);
    return fast_store_driver_check(d, d->granularity(&dev->granularity, &prop, 0),
                                   "cuMemGetAllocationGranularity", err);
}

static int create(struct store_device *dev, struct store_part_mem *p, struct fast_err *err)
{
    const struct fast_store_driver *d = &dev->d;
    CUmemAllocationProp prop = prop_of(dev->device);
    CUresult r = d->create(&p->handle, p->bytes, &prop, 0);
    if (r == CUDA_ERROR_INVALID_CONTEXT && !dev->ctx) {
        if (fast_store_driver_enter(d, &dev->ctx, err))
            return -err->code;
        r = d->create(&p->handle, p->bytes, &prop, 0);
    }
    int rc = fast_store_driver_check(d, r, "cuMemCreate", err);
    if (rc)
        return rc;
    rc = fast_store_driver_check(
        d, d->export_handle(&p->fd, p->handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
        "cuMemExportToShareableHandle", err);
    if (rc) {
        p->fd = -1;
        d->release(p->handle);
    }
    return rc;
}

static int alloc_vmm(struct store_device *dev, uint64_t bytes, struct store_mem *mem,
                     struct fast_err *err)
{
    uint64_t grain = dev->granularity;
    uint64_t chunk = bytes / (STORE_PARTS_MAX / 2) > CHUNK ? bytes / (STORE_PARTS_MAX / 2) : CHUNK;
    chunk = (chunk + grain - 1) / grain * grain;
    uint64_t left = (bytes + grain - 1) / grain * grain;
    while (left) {
        struct store_part_mem *p = &mem->parts[mem->count];
        *p = (struct store_part_mem){.fd = -1, .bytes = left < chunk ? left : chunk};
        int rc = create(dev, p, err);
        if (rc)
            return rc;
        mem->count++;
        mem->bytes += p->bytes;
        left -= p->bytes;
    }
    return 0;
}

static int alloc_ipc(struct store_device *dev, uint64_t bytes, struct store_mem *mem,
                     struct fast_err *err)
{
    const struct fast_store_driver *d = &dev->d;
    struct store_part_mem *p = &mem->parts[0];
    *p = (struct store_part_mem){
        .fd = -1, .bytes = (bytes + dev->granularity - 1) / dev->granularity * dev->granularity};
    int rc = fast_store_driver_check(d, d->alloc(&p->ptr, p->bytes), "cuMemAlloc", err);
    if (rc)
        return rc;
    rc = fast_store_driver_check(d, d->ipc_get(&p->ipc, p->ptr), "cuIpcGetMemHandle", err);
    if (rc) {
        d->free(p->ptr);
        return rc;
    }
    mem->count = 1;
    mem->bytes = p->bytes;
    return 0;
}

int store_device_alloc(struct store_device *dev, uint64_t bytes, struct store_mem **ret,
                       struct fast_err *err)
{
    struct store_mem *mem = calloc(1, sizeof(*mem));
    if (!mem)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a model");
    int rc = dev->via == FAST_STORE_VIA_IPC ? alloc_ipc(dev, bytes, mem, err)
                                            : alloc_vmm(dev, bytes, mem, err);
    if (rc) {
        store_device_free(dev, mem);
        return rc;
    }
    *ret = mem;
    return 0;
}

void store_device_free(struct store_device *dev, struct store_mem *mem)
{
    if (!mem)
        return;
    for (int i = 0; i < mem->count; i++) {
        struct store_part_mem *p = &mem->parts[i];
        if (p->fd >= 0)
            close(p->fd);
        if (dev->via == FAST_STORE_VIA_IPC)
            dev->d.free(p->ptr);
        else
            dev->d.release(p->handle);
    }
    free(mem);
}
