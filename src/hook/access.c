/* Memory that a process has imported and mapped for reading stays read-only in it: weights that replicas
 * share (docs/store.md). A program that makes such a mapping writable by mistake is refused, instead of
 * changing the weights of all. It keeps out bugs and not intent: who imports the memory once more may map
 * it as he likes. Memory that the process has made itself is its own affair. */
#include "hook/memory.h"

#define SEALED_MAX 128 /* ranges looked at; a model has one */

static bool writes(const CUmemAccessDesc *desc, size_t count)
{
    for (size_t i = 0; desc && i < count; i++)
        if (desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
            desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE)
            return true;
    return false;
}

static bool overlaps(const struct fast_table_row *row, CUdeviceptr at, CUdeviceptr end)
{
    return row->key < end && at < row->key + row->bytes;
}

static bool is_sealed(CUdeviceptr at, CUdeviceptr end)
{
    struct fast_table_row rows[SEALED_MAX];
    uint32_t n = fast_table_list(&fast_hook.sealed, rows, SEALED_MAX);
    for (uint32_t i = 0; i < n; i++)
        if (overlaps(&rows[i], at, end))
            return true;
    return false;
}

static void seal(CUdeviceptr at, CUdeviceptr end)
{
    if (at < end && fast_table_put(&fast_hook.sealed,
                                   &(struct fast_table_row){.key = at, .bytes = end - at}))
        atomic_store(&fast_hook.sealed_used, 1);
}

void fast_access_unmapped(CUdeviceptr at, size_t bytes)
{
    struct fast_table_row rows[SEALED_MAX], row;
    CUdeviceptr end = at + bytes;
    if (!atomic_load(&fast_hook.sealed_used))
        return;
    uint32_t n = fast_table_list(&fast_hook.sealed, rows, SEALED_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (!overlaps(&rows[i], at, end) || !fast_table_take(&fast_hook.sealed, rows[i].key, &row))
            continue;
        seal(row.key, at < row.key ? row.key : at);
        seal(end, row.key + row.bytes);
    }
}

FAST_EXPORT CUresult cuMemSetAccess(CUdeviceptr ptr, size_t bytes, const CUmemAccessDesc *desc,
                                    size_t count)
{
    struct fast_table_row own;
    bool write = writes(desc, count);
    if (write && atomic_load(&fast_hook.sealed_used) && is_sealed(ptr, ptr + bytes)) {
        fast_hook_log("shared memory at %#llx stays read-only", (unsigned long long)ptr);
        return CUDA_ERROR_NOT_PERMITTED;
    }
    CUresult r = FAST_REAL(cuMemSetAccess)(ptr, bytes, desc, count);
    if (r == CUDA_SUCCESS && !write && count && fast_hook.enabled &&
        !fast_table_get(&fast_hook.mappings, ptr, &own))
        seal(ptr, ptr + bytes);
    return r;
}
