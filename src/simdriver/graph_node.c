/* Nodes by type: how each is added, asked about and changed, in a graph and in an executable graph. */
#include <string.h>

#include "simdriver/graph.h"
#include "simdriver/graph_exec.h"

/* The older form of CUDA_KERNEL_NODE_PARAMS is its beginning, up to `extra`. */
struct kernel_params_v1 {
    CUfunction func;
    unsigned grid[3], block[3], shared;
    void **params, **extra;
};

_Static_assert(sizeof(struct kernel_params_v1) == offsetof(CUDA_KERNEL_NODE_PARAMS, kern),
               "the beginning of the newer form");

static CUresult build_kernel(const void *params, bool v2, struct work *ret)
{
    const struct kernel_params_v1 *p = params;
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    const void *func = p->func;
    if (!func && v2)
        func = ((const CUDA_KERNEL_NODE_PARAMS *)params)->kern;
    return launch_build(func, p->grid, p->block, p->shared, p->params, p->extra, ret);
}

static CUresult build_memset(const CUDA_MEMSET_NODE_PARAMS *p, struct work *ret)
{
    if (!p || !p->width || !p->height)
        return CUDA_ERROR_INVALID_VALUE;
    return fill_build(p->dst, p->pitch, p->value, p->elementSize, p->width, p->height, ret);
}

static CUresult build_memcpy(const CUDA_MEMCPY3D *p, struct work *ret)
{
    return p ? copy_build_3d(p, ret) : CUDA_ERROR_INVALID_VALUE;
}

static CUresult build_host(const CUDA_HOST_NODE_PARAMS *p, struct work *ret)
{
    if (!p || !p->fn)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = (struct work){.kind = WORK_HOST, .host = {.fn = p->fn, .arg = p->userData}};
    return CUDA_SUCCESS;
}

static CUresult build_event(CUevent handle, struct work *ret)
{
    struct event *e = event_get(handle);
    if (!e)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = (struct work){.kind = WORK_RECORD, .event = e};
    return CUDA_SUCCESS;
}

/* ---- adding ---- */

static CUresult insert(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                       CUgraphNodeType type, struct work *work)
{
    struct graph *g = graph_get(graph);
    bool ok = g && ret && (deps || !count);
    for (size_t i = 0; ok && i < count; i++)
        ok = node_get(deps[i]) && node_get(deps[i])->graph == g;
    if (!ok) {
        work_free(work);
        return CUDA_ERROR_INVALID_VALUE;
    }
    struct node *n = graph_add(g, type, work, (struct node *const *)deps, count);
    *ret = (CUgraphNode)n;
    return n ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* Leaves the driver; |rc| tells how the building of |work| went. */
static CUresult add(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                    CUgraphNodeType type, CUresult rc, struct work *work)
{
    return drv_leave(rc ? rc : insert(ret, graph, deps, count, type, work));
}

CUAPI cuGraphAddKernelNode_v2(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps,
                              size_t count, const CUDA_KERNEL_NODE_PARAMS *params)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_kernel(params, true, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_KERNEL, rc, &work);
}

CUAPI cuGraphAddKernelNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                           const struct kernel_params_v1 *params)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_kernel(params, false, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_KERNEL, rc, &work);
}

CUAPI cuGraphAddMemcpyNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                           const CUDA_MEMCPY3D *params, CUcontext ctx)
{
    struct work work;
    CUresult rc = drv_enter();
    (void)ctx;
    if (rc)
        return rc;
    rc = build_memcpy(params, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_MEMCPY, rc, &work);
}

CUAPI cuGraphAddMemsetNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                           const CUDA_MEMSET_NODE_PARAMS *params, CUcontext ctx)
{
    struct work work;
    CUresult rc = drv_enter();
    (void)ctx;
    if (rc)
        return rc;
    rc = build_memset(params, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_MEMSET, rc, &work);
}

CUAPI cuGraphAddHostNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                         const CUDA_HOST_NODE_PARAMS *params)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_host(params, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_HOST, rc, &work);
}

CUAPI cuGraphAddEmptyNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count)
{
    struct work work = {.kind = WORK_EMPTY};
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_EMPTY, rc, &work);
}

CUAPI cuGraphAddEventRecordNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps,
                                size_t count, CUevent event)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_event(event, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_EVENT_RECORD, rc, &work);
}

CUAPI cuGraphAddEventWaitNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps,
                              size_t count, CUevent event)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_event(event, &work);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_WAIT_EVENT, rc, &work);
}

CUAPI cuGraphAddChildGraphNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps,
                               size_t count, CUgraph child)
{
    struct work work = {.kind = WORK_EMPTY};
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct graph *copy = graph_get(child) ? graph_copy(graph_get(child)) : NULL;
    if (!copy)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    rc = insert(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_GRAPH, &work);
    if (rc)
        graph_free(copy);
    else
        ((struct node *)*ret)->child = copy;
    return drv_leave(rc);
}

CUAPI cuGraphAddMemAllocNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                             CUDA_MEM_ALLOC_NODE_PARAMS *params)
{
    struct work work = {.kind = WORK_ALLOC};
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!params || params->poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
        params->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        params->poolProps.handleTypes != CU_MEM_HANDLE_TYPE_NONE || !device_valid(params->poolProps.location.id))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    rc = graph_memory_new(device_of(params->poolProps.location.id), params->bytesize, &params->dptr);
    if (rc)
        return drv_leave(rc);
    work.free.ptr = params->dptr;
    graph_memory_ref(params->dptr, 1);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_MEM_ALLOC, CUDA_SUCCESS, &work);
}

CUAPI cuGraphAddMemFreeNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                            CUdeviceptr ptr)
{
    struct work work = {.kind = WORK_FREE, .free = {.ptr = ptr}};
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct area *a = area_at((uintptr_t)ptr);
    if (!a || a->kind != AREA_GRAPH || a->base != ptr)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return add(ret, graph, deps, count, CU_GRAPH_NODE_TYPE_MEM_FREE, CUDA_SUCCESS, &work);
}

/* CUDA_MEMCPY_NODE_PARAMS */
struct memcpy_params {
    int flags, reserved;
    CUcontext ctx;
    CUDA_MEMCPY3D copy;
};

/* Behind the type are the parameters of that type. */
CUAPI cuGraphAddNode(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps, size_t count,
                     CUgraphNodeParams *p)
{
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    const void *body = p->reserved1;
    const struct memcpy_params *copy = body;
    switch (p->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return cuGraphAddKernelNode_v2(ret, graph, deps, count, body);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        return cuGraphAddMemcpyNode(ret, graph, deps, count, &copy->copy, copy->ctx);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return cuGraphAddMemsetNode(ret, graph, deps, count, body, NULL);
    case CU_GRAPH_NODE_TYPE_HOST:
        return cuGraphAddHostNode(ret, graph, deps, count, body);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return cuGraphAddChildGraphNode(ret, graph, deps, count, *(const CUgraph *)body);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return cuGraphAddEmptyNode(ret, graph, deps, count);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return cuGraphAddEventWaitNode(ret, graph, deps, count, *(const CUevent *)body);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return cuGraphAddEventRecordNode(ret, graph, deps, count, *(const CUevent *)body);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        return cuGraphAddMemAllocNode(ret, graph, deps, count, &p->alloc);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        return cuGraphAddMemFreeNode(ret, graph, deps, count, *(const CUdeviceptr *)body);
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUAPI cuGraphAddNode_v2(CUgraphNode *ret, CUgraph graph, const CUgraphNode *deps,
                        const CUgraphEdgeData *edges, size_t count, CUgraphNodeParams *params)
{
    (void)edges;
    return cuGraphAddNode(ret, graph, deps, count, params);
}

/* ---- changing: |exec| is NULL for the node itself ---- */

static CUresult change(CUgraphExec exec, CUgraphNode handle, CUgraphNodeType type, CUresult rc,
                       struct work *work)
{
    struct node *n = node_get(handle);
    struct work *place = NULL;
    if (rc)
        return drv_leave(rc);
    if (n && n->type == type)
        place = exec ? exec_work(exec, n) : &n->work;
    if (!place) {
        work_free(work);
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    }
    work_free(place);
    *place = *work;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                        const CUDA_KERNEL_NODE_PARAMS *params)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_kernel(params, true, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_KERNEL, rc, &work);
}

CUAPI cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                     const struct kernel_params_v1 *params)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_kernel(params, false, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_KERNEL, rc, &work);
}

CUAPI cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS *params)
{
    return cuGraphExecKernelNodeSetParams_v2(NULL, node, params);
}

CUAPI cuGraphKernelNodeSetParams(CUgraphNode node, const struct kernel_params_v1 *params)
{
    return cuGraphExecKernelNodeSetParams(NULL, node, params);
}

CUAPI cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                     const CUDA_MEMCPY3D *params, CUcontext ctx)
{
    struct work work;
    CUresult rc = drv_enter();
    (void)ctx;
    if (rc)
        return rc;
    rc = build_memcpy(params, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_MEMCPY, rc, &work);
}

CUAPI cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D *params)
{
    return cuGraphExecMemcpyNodeSetParams(NULL, node, params, NULL);
}

CUAPI cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                     const CUDA_MEMSET_NODE_PARAMS *params, CUcontext ctx)
{
    struct work work;
    CUresult rc = drv_enter();
    (void)ctx;
    if (rc)
        return rc;
    rc = build_memset(params, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_MEMSET, rc, &work);
}

CUAPI cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS *params)
{
    return cuGraphExecMemsetNodeSetParams(NULL, node, params, NULL);
}

CUAPI cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                   const CUDA_HOST_NODE_PARAMS *params)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_host(params, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_HOST, rc, &work);
}

CUAPI cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS *params)
{
    return cuGraphExecHostNodeSetParams(NULL, node, params);
}

CUAPI cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_event(event, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, rc, &work);
}

CUAPI cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = build_event(event, &work);
    return change(exec, node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, rc, &work);
}

/* ---- asking ---- */

static CUresult enter_typed(CUgraphNode handle, CUgraphNodeType type, const void *ret,
                            struct node **ret_node)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    *ret_node = node_get(handle);
    bool ok = ret && *ret_node && (*ret_node)->type == type;
    return ok ? CUDA_SUCCESS : drv_leave(CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuGraphKernelNodeGetParams(CUgraphNode handle, struct kernel_params_v1 *ret)
{
    struct node *n;
    CUresult rc = enter_typed(handle, CU_GRAPH_NODE_TYPE_KERNEL, ret, &n);
    if (rc)
        return rc;
    const struct work_kernel *k = &n->work.kernel;
    memset(ret, 0, sizeof(*ret));
    ret->func = (CUfunction)k->fn;
    memcpy(ret->grid, k->grid, sizeof(k->grid));
    memcpy(ret->block, k->block, sizeof(k->block));
    ret->shared = k->shared_bytes;
    ret->params = k->params;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS *ret)
{
    CUresult rc = cuGraphKernelNodeGetParams(node, (struct kernel_params_v1 *)ret);
    if (!rc) {
        ret->kern = NULL;
        ret->ctx = NULL;
    }
    return rc;
}

CUAPI cuGraphMemcpyNodeGetParams(CUgraphNode handle, CUDA_MEMCPY3D *ret)
{
    struct node *n;
    CUresult rc = enter_typed(handle, CU_GRAPH_NODE_TYPE_MEMCPY, ret, &n);
    if (rc)
        return rc;
    const struct work_copy *c = &n->work.copy;
    *ret = (CUDA_MEMCPY3D){
        .srcMemoryType = c->src_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
        .dstMemoryType = c->dst_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
        .srcPitch = c->src_pitch, .dstPitch = c->dst_pitch,
        .srcHeight = c->src_pitch ? c->src_slice / c->src_pitch : 0,
        .dstHeight = c->dst_pitch ? c->dst_slice / c->dst_pitch : 0,
        .WidthInBytes = c->width, .Height = c->height, .Depth = c->depth};
    if (c->src_device)
        ret->srcDevice = c->src;
    else
        ret->srcHost = (const void *)c->src;
    if (c->dst_device)
        ret->dstDevice = c->dst;
    else
        ret->dstHost = (void *)c->dst;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphMemsetNodeGetParams(CUgraphNode handle, CUDA_MEMSET_NODE_PARAMS *ret)
{
    struct node *n;
    CUresult rc = enter_typed(handle, CU_GRAPH_NODE_TYPE_MEMSET, ret, &n);
    if (rc)
        return rc;
    const struct work_memset *m = &n->work.memset;
    *ret = (CUDA_MEMSET_NODE_PARAMS){.dst = m->dst, .pitch = m->pitch, .value = m->value,
                                     .elementSize = m->size, .width = m->width,
                                     .height = m->height};
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphHostNodeGetParams(CUgraphNode handle, CUDA_HOST_NODE_PARAMS *ret)
{
    struct node *n;
    CUresult rc = enter_typed(handle, CU_GRAPH_NODE_TYPE_HOST, ret, &n);
    if (rc)
        return rc;
    *ret = (CUDA_HOST_NODE_PARAMS){.fn = n->work.host.fn, .userData = n->work.host.arg};
    return drv_leave(CUDA_SUCCESS);
}

/* ---- what a node refers to ---- */

static CUresult node_event(CUgraphNode handle, CUgraphNodeType type, CUevent *ret, CUevent fresh)
{
    struct work work;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct node *n = node_get(handle);
    if (!n || n->type != type || (!ret && build_event(fresh, &work)))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (ret)
        *ret = (CUevent)n->work.event;
    else
        n->work = work;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent *ret)
{
    return ret ? node_event(node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, ret, NULL) : CUDA_ERROR_INVALID_VALUE;
}

CUAPI cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event)
{
    return node_event(node, CU_GRAPH_NODE_TYPE_EVENT_RECORD, NULL, event);
}

CUAPI cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent *ret)
{
    return ret ? node_event(node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, ret, NULL) : CUDA_ERROR_INVALID_VALUE;
}

CUAPI cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event)
{
    return node_event(node, CU_GRAPH_NODE_TYPE_WAIT_EVENT, NULL, event);
}

CUAPI cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct node *n = node_get(node);
    if (!n || !ret || !n->child)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = (CUgraph)n->child;
    return drv_leave(CUDA_SUCCESS);
}
