/* Legacy IPC. The first cuIpcGetMemHandle of an allocation moves its bytes into a file of the state
 * directory, mapped at the same address; the handle names that file. The handle of an event names its
 * place in the shared state. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "simdriver/drv.h"

#define PAGE 4096
#define MAGIC 0x46534950u

struct ipc_handle {
    uint32_t magic;
    int32_t device, pid;
    uint64_t key, size, space;
};

#define EVENT_MAGIC 0x46534556u

struct ipc_event_handle {
    uint32_t magic;
    int32_t pid;
    struct shared_event_ref ref;
};

_Static_assert(sizeof(struct ipc_event_handle) <= sizeof(CUipcEventHandle), "it fits");
_Static_assert(sizeof(struct ipc_handle) <= sizeof(CUipcMemHandle), "it fits");

/* Writes the pages of [base, base + space) that have ever been touched into |fd|. */
static bool save(uintptr_t base, size_t space, int fd)
{
    enum { BATCH = 4096 };
    uint64_t entries[BATCH];
    int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool ok = map >= 0;
    for (size_t at = 0; ok && at < space; at += (size_t)BATCH * PAGE) {
        size_t n = (space - at) / PAGE < BATCH ? (space - at) / PAGE : BATCH;
        ok = pread(map, entries, n * 8, (off_t)((base + at) / PAGE * 8)) == (ssize_t)(n * 8);
        for (size_t i = 0; ok && i < n; i++) {
            size_t offset = at + i * PAGE;
            /* Present, or swapped out. */
            if (entries[i] >> 62)
                ok = pwrite(fd, (const void *)(base + offset), PAGE, (off_t)offset) == PAGE;
        }
    }
    if (map >= 0)
        close(map);
    return ok;
}

/* Nothing may change the bytes meanwhile, hence the wait. */
static CUresult move_to_file(struct area *a)
{
    char path[256];
    uint64_t key;
    drv.waiters++;
    while (drv.applying)
        pthread_cond_wait(&drv.cond, &drv.lock);
    drv.waiters--;
    if (getrandom(&key, sizeof(key), 0) != sizeof(key))
        return CUDA_ERROR_OPERATING_SYSTEM;
    shared_phys_path(&drv.shared, key, path, sizeof(path));
    int fd = shared_file(&drv.shared, path, O_EXCL);
    if (fd < 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    bool ok = !ftruncate(fd, (off_t)a->space) && save(a->base, a->space, fd) &&
              !shared_phys_convert(&drv.shared, a->device, key, a->charged);
    if (ok && mmap((void *)a->base, a->space, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                   0) == MAP_FAILED) {
        shared_phys_drop(&drv.shared, a->device, key);
        ok = false;
    }
    close(fd);
    if (!ok) {
        unlink(path);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    madvise((void *)a->base, a->space, MADV_DONTFORK);
    a->key = key;
    return CUDA_SUCCESS;
}

void ipc_release(struct area *area)
{
    shared_phys_drop(&drv.shared, area->device, area->key);
}

CUAPI cuIpcGetMemHandle(CUipcMemHandle *ret, CUdeviceptr ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct area *a = area_at((uintptr_t)ptr);
    if (!ret || !a || a->kind != AREA_DEVICE || a->base != ptr)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!a->key && (rc = move_to_file(a)))
        return drv_leave(rc);
    const struct ipc_handle h = {.magic = MAGIC, .device = a->device, .pid = getpid(),
                                 .key = a->key, .size = a->size, .space = a->space};
    memset(ret, 0, sizeof(*ret));
    memcpy(ret, &h, sizeof(h));
    return drv_leave(CUDA_SUCCESS);
}

static struct area *opened(uint64_t key)
{
    for (struct area *a = area_next(0); a; a = area_next(a->base + 1))
        if (a->kind == AREA_IPC && a->key == key)
            return a;
    return NULL;
}

static CUresult map_file(struct ctx *ctx, const struct ipc_handle *h, CUdeviceptr *ret)
{
    char path[256];
    struct stat st;
    struct area area = {.size = h->size, .space = h->space, .kind = AREA_IPC, .device = h->device,
                        .ctx = ctx, .key = h->key, .opened = 1,
                        .access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    shared_phys_path(&drv.shared, h->key, path, sizeof(path));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (fstat(fd, &st) || st.st_size != (off_t)h->space || h->size > h->space) {
        close(fd);
        return CUDA_ERROR_INVALID_VALUE;
    }
    area.base = area_find_space(area.space, FAST_MIB(2), 0);
    bool ok = area.base && !shared_phys_hold(&drv.shared, h->device, h->key, h->space) &&
              mmap((void *)area.base, area.space, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                   fd, 0) != MAP_FAILED;
    close(fd);
    if (!ok || !area_add(&area))
        return CUDA_ERROR_MAP_FAILED;
    madvise((void *)area.base, area.space, MADV_DONTFORK);
    *ret = area.base;
    return CUDA_SUCCESS;
}

CUAPI cuIpcOpenMemHandle_v2(CUdeviceptr *ret, CUipcMemHandle handle, unsigned flags)
{
    struct ctx *ctx;
    struct ipc_handle h;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    memcpy(&h, &handle, sizeof(h));
    if (!ret || flags & ~1u || h.magic != MAGIC || h.device < 0 || h.device >= drv.shared.devices)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (h.pid == getpid())
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    struct area *a = opened(h.key);
    if (a) {
        a->opened++;
        *ret = a->base;
        return drv_leave(CUDA_SUCCESS);
    }
    return drv_leave(map_file(ctx, &h, ret));
}

CUAPI cuIpcOpenMemHandle(CUdeviceptr *ret, CUipcMemHandle handle, unsigned flags)
{
    return cuIpcOpenMemHandle_v2(ret, handle, flags);
}

CUAPI cuIpcCloseMemHandle(CUdeviceptr ptr)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct area *a = area_at((uintptr_t)ptr);
    if (!a || a->base != ptr || a->kind != AREA_IPC)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (a->opened > 1) {
        a->opened--;
        return drv_leave(CUDA_SUCCESS);
    }
    return drv_leave(memory_free(a));
}

CUAPI cuIpcGetEventHandle(CUipcEventHandle *ret, CUevent event)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    const struct event *e = event_get(event);
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!e || !(e->flags & CU_EVENT_INTERPROCESS))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    const struct ipc_event_handle h = {.magic = EVENT_MAGIC, .pid = getpid(), .ref = e->shared};
    memset(ret, 0, sizeof(*ret));
    memcpy(ret, &h, sizeof(h));
    return drv_leave(CUDA_SUCCESS);
}

static bool event_handle_valid(const struct ipc_event_handle *h)
{
    return h->magic == EVENT_MAGIC && h->ref.key && h->ref.device >= 0 &&
           h->ref.device < drv.shared.devices && h->ref.at >= 0 && h->ref.at < SHARED_EVENTS;
}

/* What it opens behaves like an event without times of this process; it cannot be handed on. */
CUAPI cuIpcOpenEventHandle(CUevent *ret, CUipcEventHandle handle)
{
    struct ctx *ctx;
    struct ipc_event_handle h;
    struct event *e;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    memcpy(&h, &handle, sizeof(h));
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!event_handle_valid(&h))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (h.pid == getpid())
        return drv_leave(CUDA_ERROR_INVALID_CONTEXT);
    if ((rc = event_new(ctx, CU_EVENT_DISABLE_TIMING, &e)))
        return drv_leave(rc);
    if (shared_event_hold(&drv.shared, &h.ref)) {
        handle_free(e);
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    event_share(e, &h.ref);
    *ret = (CUevent)e;
    return drv_leave(CUDA_SUCCESS);
}
