#include "hook/memory.h"

/* Memory pools are charged by what they have reserved on the device, not by what the program got out
 * of them: freed memory stays with its pool. Before an allocation what the pool lacks is reserved at
 * the node, and after it, and whenever the host has waited for the device, the charge is brought up to
 * what the driver says. When the cap is reached, what pools keep unused is given up first.
 *
 * A row of the table is a pool: |bytes| of it are charged. Threads that use a pool at once may
 * charge from an older answer of the driver; the next look corrects it. */

#define POOLS_LOOK 64 /* pools at a time that are looked at */

static uint64_t attribute(CUmemoryPool pool, int which)
{
    cuuint64_t value = 0;
    return fast_hook.driver.pool_attribute(pool, which, &value) == CUDA_SUCCESS ? value : 0;
}

static bool usable(void)
{
    return fast_hook.driver.pool_attribute && fast_hook.driver.device_pool;
}

/* Charges what the pool has reserved now. False: the cap does not have it. */
static bool settle(CUmemoryPool pool, uint32_t gpu)
{
    struct fast_table_row row = {0};
    uint64_t key = (uint64_t)(uintptr_t)pool;
    uint64_t now = attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    uint64_t was = fast_table_take(&fast_hook.pools, key, &row) ? row.bytes : 0;
    bool ok = now <= was || fast_link_reserve(gpu, now - was, FAST_FAMILY_POOL);
    if (now < was)
        fast_link_release(gpu, was - now, FAST_FAMILY_POOL);
    row = (struct fast_table_row){.key = key, .bytes = ok ? now : was, .gpu = gpu};
    if (row.bytes && !fast_table_put(&fast_hook.pools, &row))
        fast_link_release(gpu, row.bytes, FAST_FAMILY_POOL);
    return ok;
}

void fast_pool_look(bool trim)
{
    struct fast_table_row rows[POOLS_LOOK];
    uint32_t n = usable() && atomic_load(&fast_hook.pools_used)
                     ? fast_table_list(&fast_hook.pools, rows, POOLS_LOOK)
                     : 0;
    for (uint32_t i = 0; i < n; i++) {
        CUmemoryPool pool = (CUmemoryPool)(uintptr_t)rows[i].key;
        if (trim && fast_hook.driver.pool_trim)
            fast_hook.driver.pool_trim(pool, 0);
        settle(pool, rows[i].gpu);
    }
    fast_graph_look(trim);
}

bool fast_pool_before(CUmemoryPool *pool, int gpu, uint64_t bytes, uint64_t *ret_charged)
{
    *ret_charged = 0;
    if (!usable() || (!*pool && fast_hook.driver.device_pool(pool, gpu) != CUDA_SUCCESS))
        return true;
    uint64_t reserved = attribute(*pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    uint64_t used = attribute(*pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    uint64_t lacks = used + bytes > reserved ? used + bytes - reserved : 0;
    if (lacks && !fast_memory_reserve((uint32_t)gpu, lacks, FAST_FAMILY_POOL))
        return false;
    *ret_charged = lacks;
    return true;
}

bool fast_pool_after(CUmemoryPool pool, int gpu, uint64_t charged)
{
    struct fast_table_row row;
    uint64_t key = (uint64_t)(uintptr_t)pool;
    if (!usable() || !pool)
        return true;
    atomic_store(&fast_hook.pools_used, 1);
    if (charged) {
        /* What was charged beforehand is the pool's from here on. */
        if (!fast_table_take(&fast_hook.pools, key, &row))
            row = (struct fast_table_row){.key = key, .gpu = (uint32_t)gpu};
        row.bytes += charged;
        if (!fast_table_put(&fast_hook.pools, &row))
            fast_link_release((uint32_t)gpu, row.bytes, FAST_FAMILY_POOL);
    }
    return settle(pool, (uint32_t)gpu);
}

void fast_pool_forget(CUmemoryPool pool)
{
    struct fast_table_row row;
    if (fast_hook.enabled && fast_table_take(&fast_hook.pools, (uint64_t)(uintptr_t)pool, &row))
        fast_link_release(row.gpu, row.bytes, FAST_FAMILY_POOL);
}
