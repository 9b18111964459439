#include "hook/memory.h"

/* Memory that graphs allocate. It comes when a graph is launched, and the driver keeps it for later
 * launches, so that it is charged by what the driver says is reserved, like a pool: before a launch
 * what the graph may lack is reserved at the node, and after it, and whenever the host has waited for
 * the device, the charge is brought up to date.
 *
 * Which graph an executable graph came from is not followed: each launch is taken for one of the graph
 * that allocates most. A graph that keeps what it has is launched again without more; so the launch is
 * let through when the cap has no room and enough is reserved already. If it did allocate, that is
 * not in the charge, and no other launch gets through before there is room for it: a replica is
 * beyond its cap by at most one graph. */

/* CUgraphMem_attribute */
enum { USED = 0, RESERVED = 2 };

static uint64_t attribute(uint32_t gpu, int which)
{
    cuuint64_t value = 0;
    if (!fast_hook.driver.graph_attribute ||
        fast_hook.driver.graph_attribute((CUdevice)gpu, which, &value) != CUDA_SUCCESS)
        return 0;
    return value;
}

/* Charges what is reserved now. Threads that launch at once may charge from an older answer of the
 * driver; the next look corrects it. */
static void settle(uint32_t gpu)
{
    uint64_t now = attribute(gpu, RESERVED);
    uint64_t was = atomic_exchange(&fast_hook.graph_charged[gpu], now);
    if (now < was)
        fast_link_release(gpu, was - now, FAST_FAMILY_POOL);
    else if (now > was && !fast_link_reserve(gpu, now - was, FAST_FAMILY_POOL))
        atomic_fetch_sub(&fast_hook.graph_charged[gpu], now - was);
}

void fast_graph_look(bool trim)
{
    if (!atomic_load(&fast_hook.graph_largest))
        return;
    for (uint32_t gpu = 0; gpu < FAST_PAGE_GPUS; gpu++) {
        if (!atomic_load(&fast_hook.graph_charged[gpu]))
            continue;
        if (trim && fast_hook.driver.graph_trim)
            fast_hook.driver.graph_trim((CUdevice)gpu);
        settle(gpu);
    }
}

bool fast_graph_before(struct fast_graph_launch *launch)
{
    uint64_t largest = atomic_load_explicit(&fast_hook.graph_largest, memory_order_relaxed);
    launch->gpu = largest ? fast_memory_gpu() : -1;
    if (launch->gpu < 0)
        return true;
    uint32_t gpu = (uint32_t)launch->gpu;
    uint64_t reserved = attribute(gpu, RESERVED), used = attribute(gpu, USED);
    uint64_t unused = reserved > used ? reserved - used : 0;
    uint64_t lacks = largest > unused ? largest - unused : 0;
    if (!lacks)
        return true;
    if (fast_memory_reserve(gpu, lacks, FAST_FAMILY_POOL)) {
        atomic_fetch_add(&fast_hook.graph_charged[gpu], lacks);
        return true;
    }
    return reserved >= largest && atomic_load(&fast_hook.graph_charged[gpu]) >= reserved;
}

void fast_graph_after(const struct fast_graph_launch *launch)
{
    if (launch->gpu >= 0)
        settle((uint32_t)launch->gpu);
}

static void raise_largest(uint64_t bytes)
{
    uint64_t was = atomic_load(&fast_hook.graph_largest);
    while (was < bytes && !atomic_compare_exchange_weak(&fast_hook.graph_largest, &was, bytes))
        ;
}

void fast_graph_captured(uint64_t bytes)
{
    raise_largest(atomic_fetch_add(&fast_hook.graph_captured, bytes) + bytes);
}

/* ---- nodes ---- */

/* What the cap could not have now is refused at once, where the program can see why. */
static bool node_before(uint64_t bytes)
{
    int gpu = fast_memory_gpu();
    if (gpu < 0 || !bytes)
        return true;
    if (!fast_memory_reserve((uint32_t)gpu, bytes, FAST_FAMILY_POOL))
        return false;
    fast_link_release((uint32_t)gpu, bytes, FAST_FAMILY_POOL);
    return true;
}

static void node_after(CUresult r, CUgraph graph, uint64_t bytes)
{
    uint64_t key = (uint64_t)(uintptr_t)graph;
    struct fast_table_row row;
    if (r != CUDA_SUCCESS || !bytes || fast_memory_gpu() < 0)
        return;
    if (!fast_table_take(&fast_hook.graph_sums, key, &row))
        row = (struct fast_table_row){.key = key};
    row.bytes += bytes;
    raise_largest(row.bytes);
    fast_table_put(&fast_hook.graph_sums, &row);
}

static uint64_t alloc_bytes(const CUgraphNodeParams *params)
{
    return params && params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ? params->alloc.bytesize : 0;
}

/* The macro takes whole parameter and argument lists. */
/* NOLINTBEGIN(bugprone-macro-parentheses) */
#define ADD_NODE(symbol, decl, call, size)                                                         \
    FAST_EXPORT CUresult symbol decl                                                               \
    {                                                                                              \
        uint64_t bytes = (size);                                                                   \
        if (!node_before(bytes))                                                                   \
            return CUDA_ERROR_OUT_OF_MEMORY;                                                       \
        CUresult r = FAST_REAL(symbol) call;                                                       \
        node_after(r, graph, bytes);                                                               \
        return r;                                                                                  \
    }

ADD_NODE(cuGraphAddMemAllocNode,
         (CUgraphNode * ret, CUgraph graph, const CUgraphNode *deps, size_t count,
          CUDA_MEM_ALLOC_NODE_PARAMS *params),
         (ret, graph, deps, count, params), params ? params->bytesize : 0)
ADD_NODE(cuGraphAddNode,
         (CUgraphNode * ret, CUgraph graph, const CUgraphNode *deps, size_t count,
          CUgraphNodeParams *params),
         (ret, graph, deps, count, params), alloc_bytes(params))
ADD_NODE(cuGraphAddNode_v2,
         (CUgraphNode * ret, CUgraph graph, const CUgraphNode *deps, const CUgraphEdgeData *edges,
          size_t count, CUgraphNodeParams *params),
         (ret, graph, deps, edges, count, params), alloc_bytes(params))
/* NOLINTEND(bugprone-macro-parentheses) */

/* Its sum must not be taken for that of another graph with the same handle. */
FAST_EXPORT CUresult cuGraphDestroy(CUgraph graph)
{
    struct fast_table_row row;
    if (fast_hook.enabled)
        fast_table_take(&fast_hook.graph_sums, (uint64_t)(uintptr_t)graph, &row);
    return FAST_REAL(cuGraphDestroy)(graph);
}
