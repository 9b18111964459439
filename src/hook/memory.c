#include "hook/memory.h"

#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "hook/gate.h"

/* Device memory: every allocation is reserved at the node before the driver is asked, and released
 * when the driver refuses it or when it is freed. The node sums up all processes of the replica. A
 * pointer that is not in the table goes to the driver as it is: it is somebody else's (imported, or
 * made before the first cuInit). An allocation that the table has no room for is released again and
 * refused, so that nothing is ever charged for good.
 *
 * Stream-ordered allocations are charged with their pool (pool.c). Managed memory is charged in full.
 *
 * The driver takes memory from the device in blocks of 2 MiB, and small allocations share them. So large ones are
 * charged in whole blocks, and small ones as many blocks as they fill, at powers of two: these always fit
 * together without gaps. What an unlucky order of frees leaves in a block is not seen. */

#define BLOCK FAST_MIB(2)
#define SMALL FAST_MIB(1) /* two of these share a block */
#define LEAST 512ull

#define LOOK_NS FAST_MS(2)
#define ASK_NS FAST_MS(100)

static bool charging(void)
{
    return atomic_load(&fast_hook.start) == 2 && atomic_load(&fast_hook.mode) != FAST_MODE_OFF;
}

int fast_memory_gpu(void)
{
    CUdevice device = -1;
    if (!charging() || !fast_hook.driver.ctx_get_device)
        return -1;
    struct fast_thread *t = &fast_thread;
    if (t->ctx && t->ctx_epoch == atomic_load(&fast_hook.ctx_epoch))
        return t->ctx->gpu;
    if (fast_hook.driver.ctx_get_device(&device) != CUDA_SUCCESS || device >= FAST_PAGE_GPUS)
        return -1;
    return device;
}

static bool reserve_now(uint32_t gpu, uint64_t bytes, uint32_t family)
{
    if (fast_link_reserve(gpu, bytes, family))
        return true;
    if (!atomic_load(&fast_hook.pools_used) && !atomic_load(&fast_hook.graph_largest))
        return false;
    fast_pool_look(true);
    return fast_link_reserve(gpu, bytes, family);
}

/* Until less is in use than |used|, as the node tells in the page, but no longer than until |end| or for
 * ASK_NS: the rest of the GPU may have been what was missing. */
static void wait_for_room(const struct fast_grant *grant, uint64_t used, fast_ns end)
{
    struct timespec ts = {.tv_nsec = LOOK_NS};
    fast_ns ask = fast_hook_now() + ASK_NS;
    while (fast_hook_now() < (ask < end ? ask : end)) {
        syscall(SYS_nanosleep, &ts, NULL);
        if (atomic_load(&grant->mem_used_bytes) < used)
            return;
    }
}

/* As the function says, an allocation fails at the cap or waits for a while: another thread or process of the
 * replica may free something. What is larger than the cap is not waited for. */
bool fast_memory_reserve(uint32_t gpu, uint64_t bytes, uint32_t family)
{
    fast_ns end = fast_hook.mem_wait ? fast_hook_now() + fast_hook.mem_wait : 0;
    for (;;) {
        struct fast_session *s = atomic_load(&fast_hook.session);
        uint64_t used = s && gpu < s->gpus ? atomic_load(&s->limits->gpu[gpu].mem_used_bytes) : 0;
        uint64_t cap = s && gpu < s->gpus ? atomic_load(&s->limits->gpu[gpu].mem_cap_bytes) : 0;
        if (reserve_now(gpu, bytes, family))
            return true;
        if (!s || gpu >= s->gpus || (cap && bytes > cap) || fast_hook_now() >= end)
            return false;
        wait_for_room(&s->limits->gpu[gpu], used, end);
    }
}

static uint64_t blocks_of(uint64_t bytes)
{
    return bytes > UINT64_MAX - BLOCK ? bytes : (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

/* What an allocation is charged: a power of two up to SMALL, or whole blocks. */
static uint64_t charge_of(uint64_t bytes)
{
    uint64_t charge = LEAST;
    if (bytes == 0 || bytes > SMALL)
        return blocks_of(bytes);
    while (charge < bytes)
        charge *= 2;
    return charge;
}

/* The node is charged the blocks of the sum at any time, or one more while this is under way. */
static bool reserve_small(uint32_t gpu, uint64_t bytes, uint32_t family)
{
    _Atomic uint64_t *sum = &fast_hook.small[gpu][family];
    uint64_t was = atomic_load(sum);
    bool paid = false;
    for (;;) {
        bool lacks = blocks_of(was + bytes) > blocks_of(was);
        if (lacks && !paid) {
            if (!fast_memory_reserve(gpu, BLOCK, family))
                return false;
            paid = true;
            was = atomic_load(sum);
        } else if (atomic_compare_exchange_weak(sum, &was, was + bytes)) {
            if (paid && !lacks)
                fast_link_release(gpu, BLOCK, family);
            return true;
        }
    }
}

static void release_small(uint32_t gpu, uint64_t bytes, uint32_t family)
{
    uint64_t was = atomic_fetch_sub(&fast_hook.small[gpu][family], bytes);
    uint64_t blocks = blocks_of(was) - blocks_of(was - bytes);
    if (blocks)
        fast_link_release(gpu, blocks, family);
}

/* |bytes| is what charge_of() says. *|ret_gpu| < 0: not limited here. */
static bool reserve(uint64_t bytes, uint32_t family, int *ret_gpu)
{
    int gpu = *ret_gpu = fast_memory_gpu();
    if (gpu < 0 || bytes == 0)
        return true;
    return bytes > SMALL ? fast_memory_reserve((uint32_t)gpu, bytes, family)
                         : reserve_small((uint32_t)gpu, bytes, family);
}

static void release(int gpu, uint64_t bytes, uint32_t family)
{
    if (gpu < 0 || bytes == 0)
        return;
    if (bytes > SMALL)
        fast_link_release((uint32_t)gpu, bytes, family);
    else
        release_small((uint32_t)gpu, bytes, family);
}

/* After the driver's answer; |key| 0: it refused. */
static void settle(int gpu, uint64_t key, uint64_t bytes, uint32_t family)
{
    struct fast_table_row row = {.key = key, .bytes = bytes, .other = family, .gpu = (uint32_t)gpu};
    CUcontext owner = NULL;
    if (gpu < 0 || bytes == 0)
        return;
    if (fast_hook.driver.ctx_get_current && fast_hook.driver.ctx_get_current(&owner) == CUDA_SUCCESS)
        row.owner = (uint64_t)(uintptr_t)owner;
    if (!key || !fast_table_put(&fast_hook.blocks, &row))
        release(gpu, bytes, family);
}

/* The row is taken out before the driver frees: another thread may get the same address at once. */
static bool take(uint64_t key, struct fast_table_row *ret)
{
    return fast_hook.enabled && fast_table_take(&fast_hook.blocks, key, ret);
}

static CUresult give_back(CUresult r, bool known, const struct fast_table_row *row)
{
    if (!known)
        return r;
    if (r == CUDA_SUCCESS)
        release((int)row->gpu, row->bytes, (uint32_t)row->other);
    else
        fast_table_put(&fast_hook.blocks, row);
    return r;
}

void fast_memory_forget(CUcontext ctx)
{
    struct fast_table_row rows[64];
    uint32_t n;
    if (!ctx || !fast_hook.enabled)
        return;
    do {
        n = fast_table_take_owned(&fast_hook.blocks, (uint64_t)(uintptr_t)ctx, rows, FAST_COUNT_OF(rows));
        for (uint32_t i = 0; i < n; i++)
            release((int)rows[i].gpu, rows[i].bytes, (uint32_t)rows[i].other);
    } while (n == FAST_COUNT_OF(rows));
}

/* The macros of this file take whole parameter and argument lists. */
/* NOLINTBEGIN(bugprone-macro-parentheses) */

/* ---- plain, managed and stream-ordered ---- */

#define ALLOC(symbol, decl, call, size, family)                                                    \
    FAST_EXPORT CUresult symbol decl                                                               \
    {                                                                                              \
        int gpu;                                                                                   \
        uint64_t charged = charge_of(size);                                                        \
        if (!reserve(charged, family, &gpu))                                                       \
            return CUDA_ERROR_OUT_OF_MEMORY;                                                       \
        CUresult r = FAST_REAL(symbol) call;                                                       \
        settle(gpu, r == CUDA_SUCCESS ? (uint64_t)*ret : 0, charged, family);                      \
        return r;                                                                                  \
    }

#define FREE(symbol, decl, call)                                                                   \
    FAST_EXPORT CUresult symbol decl                                                               \
    {                                                                                              \
        struct fast_table_row row;                                                                 \
        bool known = take((uint64_t)ptr, &row);                                                    \
        return give_back(FAST_REAL(symbol) call, known, &row);                                     \
    }

ALLOC(cuMemAlloc, (CUdeviceptr_v1 * ret, unsigned bytes), (ret, bytes), bytes, FAST_FAMILY_DEVICE)
ALLOC(cuMemAlloc_v2, (CUdeviceptr * ret, size_t bytes), (ret, bytes), bytes, FAST_FAMILY_DEVICE)
ALLOC(cuMemAllocManaged, (CUdeviceptr * ret, size_t bytes, unsigned flags), (ret, bytes, flags),
      bytes, FAST_FAMILY_MANAGED)
/* From a pool, |from| or the device's own: see pool.c. The pointer has no row of its own. */
#define ALLOC_POOL(symbol, decl, call, from, per_thread)                                           \
    FAST_EXPORT CUresult symbol decl                                                               \
    {                                                                                              \
        CUmemoryPool of = (from);                                                                  \
        uint64_t charged = 0;                                                                      \
        int gpu = fast_memory_gpu();                                                                   \
        if (gpu >= 0 && !fast_pool_before(&of, gpu, bytes, &charged))                              \
            return CUDA_ERROR_OUT_OF_MEMORY;                                                       \
        bool node = gpu >= 0 && fast_gate_capturing(stream, per_thread);                           \
        CUresult r = FAST_REAL(symbol) call;                                                       \
        if (gpu >= 0)                                                                              \
            fast_pool_after(of, gpu, charged);                                                     \
        if (node && r == CUDA_SUCCESS)                                                             \
            fast_graph_captured(bytes);                                                            \
        return r;                                                                                  \
    }

ALLOC_POOL(cuMemAllocAsync, (CUdeviceptr * ret, size_t bytes, CUstream stream),
           (ret, bytes, stream), NULL, false)
ALLOC_POOL(cuMemAllocAsync_ptsz, (CUdeviceptr * ret, size_t bytes, CUstream stream),
           (ret, bytes, stream), NULL, true)
ALLOC_POOL(cuMemAllocFromPoolAsync,
           (CUdeviceptr * ret, size_t bytes, CUmemoryPool pool, CUstream stream),
           (ret, bytes, pool, stream), pool, false)
ALLOC_POOL(cuMemAllocFromPoolAsync_ptsz,
           (CUdeviceptr * ret, size_t bytes, CUmemoryPool pool, CUstream stream),
           (ret, bytes, pool, stream), pool, true)

FAST_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool)
{
    fast_pool_forget(pool);
    return FAST_REAL(cuMemPoolDestroy)(pool);
}

FREE(cuMemFree, (CUdeviceptr_v1 ptr), (ptr))
FREE(cuMemFree_v2, (CUdeviceptr ptr), (ptr))
FREE(cuMemFreeAsync, (CUdeviceptr ptr, CUstream stream), (ptr, stream))
FREE(cuMemFreeAsync_ptsz, (CUdeviceptr ptr, CUstream stream), (ptr, stream))

/* The pitch is the driver's choice: rows are charged at a multiple of 512 bytes, which is what
 * current GPUs take. */
static uint64_t pitched(uint64_t width, uint64_t height)
{
    return (width + 511) / 512 * 512 * height;
}

ALLOC(cuMemAllocPitch,
      (CUdeviceptr_v1 * ret, unsigned *pitch, unsigned width, unsigned height, unsigned element),
      (ret, pitch, width, height, element), pitched(width, height), FAST_FAMILY_DEVICE)
ALLOC(cuMemAllocPitch_v2,
      (CUdeviceptr * ret, size_t *pitch, size_t width, size_t height, unsigned element),
      (ret, pitch, width, height, element), pitched(width, height), FAST_FAMILY_DEVICE)

/* ---- arrays ---- */

static uint64_t element_bytes(CUarray_format format, unsigned channels)
{
    uint64_t each = 4;
    if (format == CU_AD_FORMAT_UNSIGNED_INT8 || format == CU_AD_FORMAT_SIGNED_INT8)
        each = 1;
    else if (format == CU_AD_FORMAT_UNSIGNED_INT16 || format == CU_AD_FORMAT_SIGNED_INT16 ||
             format == CU_AD_FORMAT_HALF)
        each = 2;
    return each * (channels ? channels : 1);
}

static uint64_t at_least_1(uint64_t n)
{
    return n ? n : 1;
}

static uint64_t array_bytes(const CUDA_ARRAY_DESCRIPTOR *d)
{
    return d ? d->Width * at_least_1(d->Height) * element_bytes(d->Format, d->NumChannels) : 0;
}

static uint64_t array3d_bytes(const CUDA_ARRAY3D_DESCRIPTOR *d, unsigned levels)
{
    uint64_t sum = 0;
    for (unsigned i = 0; d && i < levels && i < 32; i++)
        sum += at_least_1(d->Width >> i) * at_least_1(d->Height >> i) * at_least_1(d->Depth >> i) *
               element_bytes(d->Format, d->NumChannels);
    return sum;
}

ALLOC(cuArrayCreate_v2, (CUarray * ret, const CUDA_ARRAY_DESCRIPTOR *desc), (ret, desc),
      array_bytes(desc), FAST_FAMILY_ARRAY)
ALLOC(cuArray3DCreate_v2, (CUarray * ret, const CUDA_ARRAY3D_DESCRIPTOR *desc), (ret, desc),
      array3d_bytes(desc, 1), FAST_FAMILY_ARRAY)
ALLOC(cuMipmappedArrayCreate,
      (CUmipmappedArray * ret, const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned levels),
      (ret, desc, levels), array3d_bytes(desc, levels), FAST_FAMILY_ARRAY)

#define FREE_ARRAY(symbol, type)                                                                   \
    FAST_EXPORT CUresult symbol(type array)                                                        \
    {                                                                                              \
        struct fast_table_row row;                                                                 \
        bool known = take((uint64_t)(uintptr_t)array, &row);                                       \
        return give_back(FAST_REAL(symbol)(array), known, &row);                                   \
    }

FREE_ARRAY(cuArrayDestroy, CUarray)
FREE_ARRAY(cuMipmappedArrayDestroy, CUmipmappedArray)

/* NOLINTEND(bugprone-macro-parentheses) */

/* ---- virtual memory management: a handle and its mappings share the memory ---- */

FAST_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *ret, size_t bytes,
                                 const CUmemAllocationProp *prop, unsigned long long flags)
{
    /* The device is the one of the location, whatever the current context is. */
    bool device = prop && prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE && charging() &&
                  prop->location.id >= 0 && prop->location.id < FAST_PAGE_GPUS;
    uint32_t gpu = device ? (uint32_t)prop->location.id : 0;
    if (device && !fast_memory_reserve(gpu, bytes, FAST_FAMILY_VMM))
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = FAST_REAL(cuMemCreate)(ret, bytes, prop, flags);
    struct fast_table_row row = {.key = r == CUDA_SUCCESS ? *ret : 0, .bytes = bytes, .gpu = gpu,
                                 .refs = 1};
    if (device && (r != CUDA_SUCCESS || !row.key || !fast_table_put(&fast_hook.handles, &row)))
        fast_link_release(gpu, bytes, FAST_FAMILY_VMM);
    return r;
}

static void handle_ref(uint64_t handle, int by)
{
    struct fast_table_row row;
    if (fast_table_ref(&fast_hook.handles, handle, by, &row) && row.refs <= 0)
        fast_link_release(row.gpu, row.bytes, FAST_FAMILY_VMM);
}

FAST_EXPORT CUresult cuMemMap(CUdeviceptr ptr, size_t bytes, size_t offset,
                              CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    CUresult r = FAST_REAL(cuMemMap)(ptr, bytes, offset, handle, flags);
    struct fast_table_row known, row = {.key = ptr, .bytes = bytes, .other = handle};
    if (r == CUDA_SUCCESS && fast_hook.enabled &&
        fast_table_get(&fast_hook.handles, handle, &known) &&
        fast_table_put(&fast_hook.mappings, &row))
        handle_ref(handle, 1);
    return r;
}

FAST_EXPORT CUresult cuMemUnmap(CUdeviceptr ptr, size_t bytes)
{
    fast_access_unmapped(ptr, bytes); /* before another thread can get the range */
    CUresult r = FAST_REAL(cuMemUnmap)(ptr, bytes);
    struct fast_table_row row;
    CUdeviceptr end = ptr + bytes;
    /* A range may hold several mappings, one behind the other. */
    while (r == CUDA_SUCCESS && fast_hook.enabled && ptr < end &&
           fast_table_take(&fast_hook.mappings, ptr, &row)) {
        handle_ref(row.other, -1);
        ptr += row.bytes;
    }
    return r;
}

FAST_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    CUresult r = FAST_REAL(cuMemRelease)(handle);
    if (r == CUDA_SUCCESS && fast_hook.enabled)
        handle_ref(handle, -1);
    return r;
}

FAST_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *ret, void *address)
{
    CUresult r = FAST_REAL(cuMemRetainAllocationHandle)(ret, address);
    if (r == CUDA_SUCCESS && fast_hook.enabled)
        handle_ref(*ret, 1);
    return r;
}

/* ---- reports: all of them tell the cap ---- */

bool fast_memory_clamp(uint32_t gpu, uint64_t *total, uint64_t *free_bytes)
{
    struct fast_session *s = atomic_load(&fast_hook.session);
    if (!s || gpu >= s->gpus)
        return false;
    uint64_t cap = atomic_load(&s->limits->gpu[gpu].mem_cap_bytes);
    uint64_t used = atomic_load(&s->limits->gpu[gpu].mem_used_bytes);
    if (!cap)
        return false;
    *total = *total < cap ? *total : cap;
    if (free_bytes) {
        uint64_t rest = used < *total ? *total - used : 0;
        *free_bytes = *free_bytes < rest ? *free_bytes : rest;
    }
    return true;
}

FAST_EXPORT CUresult cuMemGetInfo_v2(size_t *free, size_t *total)
{
    CUresult r = FAST_REAL(cuMemGetInfo_v2)(free, total);
    int gpu = r == CUDA_SUCCESS && free && total ? fast_memory_gpu() : -1;
    uint64_t f, t;
    if (gpu < 0)
        return r;
    f = *free;
    t = *total;
    if (fast_memory_clamp((uint32_t)gpu, &t, &f)) {
        *free = f;
        *total = t;
    }
    return r;
}

FAST_EXPORT CUresult cuMemGetInfo(unsigned *free, unsigned *total)
{
    CUresult r = FAST_REAL(cuMemGetInfo)(free, total);
    int gpu = r == CUDA_SUCCESS && free && total ? fast_memory_gpu() : -1;
    uint64_t f, t;
    if (gpu < 0)
        return r;
    f = *free;
    t = *total;
    if (fast_memory_clamp((uint32_t)gpu, &t, &f)) {
        *free = (unsigned)f;
        *total = (unsigned)t;
    }
    return r;
}

FAST_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult r = FAST_REAL(cuDeviceTotalMem_v2)(bytes, device);
    uint64_t total = r == CUDA_SUCCESS && bytes ? *bytes : 0;
    if (total && device >= 0 && fast_memory_clamp((uint32_t)device, &total, NULL))
        *bytes = total;
    return r;
}

FAST_EXPORT CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice device)
{
    CUresult r = FAST_REAL(cuDeviceTotalMem)(bytes, device);
    uint64_t total = r == CUDA_SUCCESS && bytes ? *bytes : 0;
    if (total && device >= 0 && fast_memory_clamp((uint32_t)device, &total, NULL))
        *bytes = (unsigned)total;
    return r;
}
