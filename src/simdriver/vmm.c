/* Virtual memory management: address ranges, physical allocations and mappings as separate things.
 * A physical allocation is an anonymous file, so exporting it is passing its descriptor, and every
 * mapping of it, in whichever process, shows the same bytes. The file ends with a page that says
 * what it is. Access rights are those of the host's pages: a write to memory that was mapped for
 * reading is caught like any other illegal address. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "simdriver/drv.h"

#define GRANULARITY FAST_MIB(2)
#define TRAILER_MAGIC 0x4653504859530001ull
#define TRAILER_BYTES 4096

struct trailer {
    uint64_t magic, key, bytes;
    int32_t device; /* in the shared state */
};

struct phys {
    struct handle handle;
    struct phys *next;
    int fd, device;
    uint64_t key, bytes;
    int users;     /* handles and mappings */
    int handles;   /* of them */
    bool shared;   /* exported or imported: charged in the table of shared memory */
    CUmemAllocationProp prop;
};

static struct phys *all; /* of this process */

static struct phys *phys_get(CUmemGenericAllocationHandle handle)
{
    struct phys *p = (struct phys *)(uintptr_t)handle;
    return handle_is(p, H_PHYS) && p->handles > 0 ? p : NULL;
}

static void phys_drop(struct phys *p)
{
    if (--p->users)
        return;
    if (p->shared)
        shared_phys_drop(&drv.shared, p->device, p->key);
    else
        shared_uncharge(&drv.shared, p->device, p->bytes);
    close(p->fd);
    for (struct phys **q = &all; *q; q = &(*q)->next) {
        if (*q == p) {
            *q = p->next;
            break;
        }
    }
    handle_free(p);
}

static struct phys *phys_new(int fd, int device, uint64_t key, uint64_t bytes)
{
    struct phys *p = handle_new(H_PHYS, sizeof(*p));
    if (!p)
        return NULL;
    p->fd = fd;
    p->device = device;
    p->key = key;
    p->bytes = bytes;
    p->users = p->handles = 1;
    p->next = all;
    all = p;
    return p;
}

static CUresult check_prop(const CUmemAllocationProp *prop)
{
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
        prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (!device_valid(prop->location.id))
        return CUDA_ERROR_INVALID_DEVICE;
    if (prop->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    return CUDA_SUCCESS;
}

CUAPI cuMemGetAllocationGranularity(size_t *ret, const CUmemAllocationProp *prop, int option)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || option < 0 || option > 1)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    rc = check_prop(prop);
    if (!rc)
        *ret = GRANULARITY;
    return drv_leave(rc);
}

/* A file of |bytes| and the page that describes it; -1 on an error. */
static int make_file(uint64_t bytes, int device, uint64_t *ret_key)
{
    struct trailer t = {.magic = TRAILER_MAGIC, .bytes = bytes, .device = device};
    int fd = memfd_create("fast-sim-memory", MFD_CLOEXEC);
    if (getrandom(&t.key, sizeof(t.key), 0) != sizeof(t.key) || fd < 0 ||
        ftruncate(fd, (off_t)bytes + TRAILER_BYTES) ||
        pwrite(fd, &t, sizeof(t), (off_t)bytes) != sizeof(t)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *ret_key = t.key;
    return fd;
}

CUAPI cuMemCreate(CUmemGenericAllocationHandle *ret, size_t bytes, const CUmemAllocationProp *prop,
                  unsigned long long flags)
{
    CUresult rc = drv_enter();
    uint64_t key;
    if (rc)
        return rc;
    if (!ret || !bytes || bytes % GRANULARITY || flags)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if ((rc = check_prop(prop)))
        return drv_leave(rc);
    int device = device_of(prop->location.id);
    if (shared_charge(&drv.shared, device, bytes)) {
        pool_trim_all(device);
        if (shared_charge(&drv.shared, device, bytes))
            return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    int fd = make_file(bytes, device, &key);
    struct phys *p = fd < 0 ? NULL : phys_new(fd, device, key, bytes);
    if (!p) {
        if (fd >= 0)
            close(fd);
        shared_uncharge(&drv.shared, device, bytes);
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    p->prop = *prop;
    *ret = (CUmemGenericAllocationHandle)(uintptr_t)p;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct phys *p = phys_get(handle);
    if (!p)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    p->handles--;
    phys_drop(p);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *ret, void *addr)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)addr);
    if (!ret || !a || a->kind != AREA_MAPPED)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    a->phys->users++;
    a->phys->handles++;
    *ret = (CUmemGenericAllocationHandle)(uintptr_t)a->phys;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *ret,
                                             CUmemGenericAllocationHandle handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct phys *p = phys_get(handle);
    if (!ret || !p)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = p->prop;
    return drv_leave(CUDA_SUCCESS);
}

/* ---- sharing ---- */

CUAPI cuMemExportToShareableHandle(void *ret, CUmemGenericAllocationHandle handle, int type,
                                   unsigned long long flags)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct phys *p = phys_get(handle);
    if (!ret || !p || flags || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        !(p->prop.requestedHandleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!p->shared && shared_phys_convert(&drv.shared, p->device, p->key, p->bytes))
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    p->shared = true;
    int fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return drv_leave(CUDA_ERROR_OPERATING_SYSTEM);
    *(int *)ret = fd;
    return drv_leave(CUDA_SUCCESS);
}

static bool read_trailer(int fd, struct trailer *ret)
{
    struct stat st;
    return fd >= 0 && !fstat(fd, &st) && st.st_size > TRAILER_BYTES &&
           pread(fd, ret, sizeof(*ret), st.st_size - TRAILER_BYTES) == sizeof(*ret) &&
           ret->magic == TRAILER_MAGIC && ret->bytes == (uint64_t)st.st_size - TRAILER_BYTES &&
           ret->device >= 0 && ret->device < drv.shared.devices;
}

static CUresult import(int fd, CUmemGenericAllocationHandle *ret)
{
    struct trailer t;
    if (!read_trailer(fd, &t))
        return CUDA_ERROR_INVALID_VALUE;
    for (struct phys *p = all; p; p = p->next) {
        if (p->key != t.key)
            continue;
        p->users++;
        p->handles++;
        *ret = (CUmemGenericAllocationHandle)(uintptr_t)p;
        return CUDA_SUCCESS;
    }
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    if (shared_phys_hold(&drv.shared, t.device, t.key, t.bytes)) {
        close(own);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    struct phys *p = phys_new(own, t.device, t.key, t.bytes);
    if (!p) {
        shared_phys_drop(&drv.shared, t.device, t.key);
        close(own);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    p->shared = true;
    p->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    p->prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    p->prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    for (int i = 0; i < drv.devices; i++)
        if (device_of(i) == t.device)
            p->prop.location.id = i;
    *ret = (CUmemGenericAllocationHandle)(uintptr_t)p;
    return CUDA_SUCCESS;
}

CUAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *ret, void *os_handle, int type)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return drv_leave(import((int)(uintptr_t)os_handle, ret));
}

/* ---- addresses ---- */

CUAPI cuMemAddressReserve(CUdeviceptr *ret, size_t bytes, size_t align, CUdeviceptr hint,
                          unsigned long long flags)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !bytes || bytes % GRANULARITY || flags || align & (align - 1))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (align < GRANULARITY)
        align = GRANULARITY;
    struct area area = {.size = bytes, .space = bytes, .kind = AREA_RESERVED, .device = -1};
    area.base = area_find_space(bytes, align, (uintptr_t)hint);
    if (!area.base || !area_add(&area))
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    *ret = area.base;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemAddressFree(CUdeviceptr ptr, size_t bytes)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct area *a = area_reserved_at((uintptr_t)ptr);
    if (!a || a->base != ptr || a->size != bytes)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    const struct area *m = area_next(a->base);
    if (m && m->base < a->base + a->size)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    area_remove(a);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemMap(CUdeviceptr ptr, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
               unsigned long long flags)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct phys *p = phys_get(handle);
    const struct area *r = area_reserved_at((uintptr_t)ptr);
    if (!p || !r || !bytes || bytes % GRANULARITY || ptr % GRANULARITY || offset || flags ||
        bytes != p->bytes || bytes > r->size - (ptr - r->base))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct area area = {.base = (uintptr_t)ptr, .size = bytes, .space = bytes, .kind = AREA_MAPPED,
                        .device = p->device, .phys = p};
    if (!area_add(&area))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    /* Nobody has access until cuMemSetAccess. */
    if (mmap((void *)(uintptr_t)ptr, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, p->fd, 0) ==
        MAP_FAILED) {
        area_remove(area_at((uintptr_t)ptr));
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    madvise((void *)(uintptr_t)ptr, bytes, MADV_DONTFORK);
    p->users++;
    return drv_leave(CUDA_SUCCESS);
}

void vmm_unmap(struct area *area)
{
    struct phys *p = area->phys;
    memory_decommit(area->base, area->space);
    area_remove(area);
    phys_drop(p);
}

/* True when [ptr, ptr + bytes) is exactly one or more mappings. */
static bool whole_mappings(uintptr_t ptr, size_t bytes)
{
    uintptr_t at = ptr;
    while (at < ptr + bytes) {
        const struct area *a = area_at(at);
        if (!a || a->kind != AREA_MAPPED || a->base != at)
            return false;
        at += a->size;
    }
    return bytes && at == ptr + bytes;
}

CUAPI cuMemUnmap(CUdeviceptr ptr, size_t bytes)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!whole_mappings((uintptr_t)ptr, bytes))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    for (uintptr_t at = (uintptr_t)ptr; at < ptr + bytes;) {
        struct area *a = area_at(at);
        at += a->size;
        vmm_unmap(a);
    }
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemSetAccess(CUdeviceptr ptr, size_t bytes, const CUmemAccessDesc *desc, size_t count)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!desc || !count || !whole_mappings((uintptr_t)ptr, bytes))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    unsigned access = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned f = desc[i].flags;
        if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
            (f != CU_MEM_ACCESS_FLAGS_PROT_NONE && f != CU_MEM_ACCESS_FLAGS_PROT_READ &&
             f != CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
            return drv_leave(CUDA_ERROR_INVALID_VALUE);
        if (!device_valid(desc[i].location.id))
            return drv_leave(CUDA_ERROR_INVALID_DEVICE);
        access |= f;
    }
    int prot = access == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? PROT_READ | PROT_WRITE
               : access == CU_MEM_ACCESS_FLAGS_PROT_READ    ? PROT_READ
                                                            : PROT_NONE;
    if (mprotect((void *)(uintptr_t)ptr, bytes, prot))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    for (uintptr_t at = (uintptr_t)ptr; at < ptr + bytes;) {
        struct area *a = area_at(at);
        a->access = access;
        at += a->size;
    }
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuMemGetAccess(unsigned long long *ret, const CUmemLocation *location, CUdeviceptr ptr)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)ptr);
    if (!ret || !location || !a)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = a->access;
    return drv_leave(CUDA_SUCCESS);
}
