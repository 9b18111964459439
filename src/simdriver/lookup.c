/* cuGetProcAddress: the exact symbol of a name, for a version and a kind of default stream. The rules
 * are those of the real drivers (535, 550 and 555 were asked about every step). It works before
 * cuInit. */
#include <string.h>

#include "cuda/entry.h"
#include "simdriver/drv.h"

/* The first entry of |base|, fast_entry_fn_count if there is none. */
static size_t first_of(const char *base)
{
    size_t lo = 0, hi = fast_entry_fn_count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (strcmp(fast_entry_fns[mid].base, base) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void *find(const char *name, int version, bool per_thread,
                  CUdriverProcAddressQueryResult *ret_status)
{
    size_t begin = first_of(name), end = begin;
    bool has_variant = false;
    void *fn = NULL;
    for (; end < fast_entry_fn_count && !strcmp(fast_entry_fns[end].base, name); end++)
        has_variant |= fast_entry_fns[end].variant != FAST_VARIANT_LEGACY;
    for (size_t i = begin; i < end; i++) {
        const struct fast_entry_fn *e = &fast_entry_fns[i];
        bool fits = (e->variant != FAST_VARIANT_LEGACY) == (per_thread && has_variant);
        if (fits && e->since <= version)
            fn = (void *)e->fn;
    }
    *ret_status = fn             ? CU_GET_PROC_ADDRESS_SUCCESS
                  : begin == end ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
                                 : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    return fn;
}

CUAPI cuGetProcAddress_v2(const char *name, void **ret, int version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult *status)
{
    CUdriverProcAddressQueryResult found;
    if (!name || !ret || flags >= 4)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = find(name, version, flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &found);
    if (status)
        *status = found;
    return CUDA_SUCCESS;
}

CUAPI cuGetProcAddress(const char *name, void **ret, int version, cuuint64_t flags)
{
    CUresult rc = cuGetProcAddress_v2(name, ret, version, flags, NULL);
    return rc ? rc : *ret ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* The private tables of the CUDA runtime are not imitated. */
CUAPI cuGetExportTable(const void **ret, const CUuuid *id)
{
    (void)id;
    if (ret)
        *ret = NULL;
    return CUDA_ERROR_INVALID_VALUE;
}
