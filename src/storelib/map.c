/* Puts a model's memory into this process's addresses: its parts lie one behind the other, whatever
 * their number, so that a tensor may cross from one into the next. */
#include <string.h>
#include <unistd.h>

#include "storelib/lib.h"

static int current_device(const struct fast_store_driver *d, CUdevice *ret, struct fast_err *err)
{
    return fast_store_driver_check(d, d->ctx_device(ret), "cuCtxGetDevice", err);
}

/* Imports |p| and maps it at |at|. The mapping alone keeps the memory afterwards. */
static int map_part(const struct fast_store_driver *d, struct store_part *p, CUdeviceptr at,
                    struct fast_err *err)
{
    CUmemGenericAllocationHandle handle = 0;
    CUresult r = d->import_handle(&handle, (void *)(uintptr_t)p->fd,
                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    close(p->fd);
    p->fd = -1;
    int rc = fast_store_driver_check(d, r, "cuMemImportFromShareableHandle", err);
    if (rc)
        return rc;
    rc = fast_store_driver_check(d, d->map(at, p->bytes, 0, handle, 0), "cuMemMap", err);
    d->release(handle);
    return rc;
}

static int map_vmm(const struct fast_store_driver *d, struct store_grant *g, bool write,
                   struct store_map *m, struct fast_err *err)
{
    size_t done = 0, total = 0;
    for (int i = 0; i < g->count; i++)
        total += g->parts[i].bytes;
    int rc = fast_store_driver_check(d, d->reserve(&m->base, total, 0, 0, 0), "cuMemAddressReserve",
                                     err);
    if (rc)
        return rc;
    for (int i = 0; i < g->count && !rc; i++) {
        rc = map_part(d, &g->parts[i], m->base + done, err);
        done += rc ? 0 : g->parts[i].bytes;
    }
    if (!rc)
        rc = fast_store_driver_set_access(d, m->device, m->base, total,
                                          write ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                : CU_MEM_ACCESS_FLAGS_PROT_READ,
                                          err);
    if (rc) {
        if (done)
            d->unmap(m->base, done);
        d->unreserve(m->base, total);
        return rc;
    }
    m->kind = STORE_MAP_VMM;
    m->bytes = total;
    return 0;
}

static int map_ipc(const struct fast_store_driver *d, const struct store_grant *g, struct store_map *m,
                   struct fast_err *err)
{
    if (g->count != 1 || !d->ipc_open || !d->ipc_close)
        return fast_err_set(err, FAST_ENOSYS, "the driver cannot open memory of another process");
    int rc = fast_store_driver_check(
        d, d->ipc_open(&m->base, g->parts[0].ipc, 1 /* lazy peer access, the only flag that there is */),
        "cuIpcOpenMemHandle", err);
    if (rc)
        return rc;
    m->kind = STORE_MAP_IPC;
    m->bytes = g->parts[0].bytes;
    return 0;
}

int store_map_grant(const struct fast_store_driver *d, struct store_grant *g, bool write,
                    struct store_map *ret, struct fast_err *err)
{
    struct store_map m = {0};
    uint64_t total = 0;
    bool vmm = g->parts[0].fd >= 0;
    for (int i = 0; i < g->count; i++)
        if (__builtin_add_overflow(total, g->parts[i].bytes, &total) || (g->parts[i].fd >= 0) != vmm)
            return fast_err_set(err, FAST_EPROTO, "the store hands out no memory");
    if (total < g->bytes)
        return fast_err_set(err, FAST_EPROTO, "the store hands out less memory than the model has");
    int rc = current_device(d, &m.device, err);
    rc = rc ? rc : vmm ? map_vmm(d, g, write, &m, err) : map_ipc(d, g, &m, err);
    if (!rc)
        *ret = m;
    return rc;
}

int store_map_private(const struct fast_store_driver *d, uint64_t bytes, struct store_map *ret,
                      struct fast_err *err)
{
    struct store_map m = {.kind = STORE_MAP_PRIVATE, .bytes = bytes ? bytes : 1};
    int rc = current_device(d, &m.device, err);
    rc = rc ? rc : fast_store_driver_check(d, d->alloc(&m.base, m.bytes), "cuMemAlloc", err);
    if (!rc)
        *ret = m;
    return rc;
}

int store_map_protect(const struct fast_store_driver *d, const struct store_map *m,
                      struct fast_err *err)
{
    if (m->kind != STORE_MAP_VMM)
        return 0;
    return fast_store_driver_set_access(d, m->device, m->base, m->bytes,
                                        CU_MEM_ACCESS_FLAGS_PROT_READ, err);
}

void store_map_fini(const struct fast_store_driver *d, struct store_map *m)
{
    if (m->kind == STORE_MAP_VMM) {
        d->unmap(m->base, m->bytes);
        d->unreserve(m->base, m->bytes);
    } else if (m->kind == STORE_MAP_IPC) {
        d->ipc_close(m->base);
    } else if (m->kind == STORE_MAP_PRIVATE) {
        d->free(m->base);
    }
    m->kind = STORE_MAP_NONE;
}
