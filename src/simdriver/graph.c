/* Graphs as a program builds and inspects them. */
#include "simdriver/graph.h"

#include <stdlib.h>
#include <string.h>

struct graph *graph_new(void)
{
    struct graph *g = handle_new(H_GRAPH, sizeof(*g));
    if (g)
        g->last = &g->first;
    return g;
}

static void node_free(struct node *n)
{
    work_free(&n->work);
    if (n->child)
        graph_free(n->child);
    free(n->deps);
    handle_free(n);
}

void graph_free(struct graph *g)
{
    while (g->first) {
        struct node *n = g->first;
        g->first = n->next;
        node_free(n);
    }
    object_refs_drop(&g->objects);
    handle_free(g);
}

struct graph *graph_get(CUgraph handle)
{
    return handle_is(handle, H_GRAPH) ? (struct graph *)handle : NULL;
}

struct node *node_get(CUgraphNode handle)
{
    return handle_is(handle, H_NODE) ? (struct node *)handle : NULL;
}

CUresult node_depend(struct node *node, struct node *on)
{
    for (size_t i = 0; i < node->dep_count; i++)
        if (node->deps[i] == on)
            return CUDA_SUCCESS;
    struct node **deps = realloc(node->deps, (node->dep_count + 1) * sizeof(*deps));
    if (!deps)
        return CUDA_ERROR_OUT_OF_MEMORY;
    deps[node->dep_count++] = on;
    node->deps = deps;
    return CUDA_SUCCESS;
}

struct node *graph_add(struct graph *g, CUgraphNodeType type, struct work *work,
                       struct node *const *deps, size_t count)
{
    struct node *n = handle_new(H_NODE, sizeof(*n));
    if (!n) {
        work_free(work);
        return NULL;
    }
    n->graph = g;
    n->type = type;
    n->work = *work;
    for (size_t i = 0; i < count; i++) {
        if (node_depend(n, deps[i])) {
            node_free(n);
            return NULL;
        }
    }
    *g->last = n;
    g->last = &n->next;
    g->count++;
    return n;
}

CUgraphNodeType graph_type_of(const struct work *work)
{
    switch (work->kind) {
    case WORK_KERNEL:
        return CU_GRAPH_NODE_TYPE_KERNEL;
    case WORK_COPY:
        return CU_GRAPH_NODE_TYPE_MEMCPY;
    case WORK_MEMSET:
        return CU_GRAPH_NODE_TYPE_MEMSET;
    case WORK_HOST:
        return CU_GRAPH_NODE_TYPE_HOST;
    case WORK_RECORD:
        return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    case WORK_ALLOC:
        return CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    case WORK_FREE:
        return CU_GRAPH_NODE_TYPE_MEM_FREE;
    default:
        return CU_GRAPH_NODE_TYPE_EMPTY;
    }
}

/* The nodes of the copy stand in the same order, so that the n-th answers to the n-th. */
struct graph *graph_copy(const struct graph *g)
{
    struct graph *copy = graph_new();
    struct node **made = calloc(g->count + 1, sizeof(*made));
    size_t i = 0;
    bool ok = copy && made && object_refs_copy(&copy->objects, &g->objects);
    for (struct node *n = g->first; n && ok; n = n->next) {
        struct work work;
        n->mark = i;
        ok = !work_copy(&work, &n->work) && (made[i] = graph_add(copy, n->type, &work, NULL, 0));
        if (ok && n->child)
            ok = (made[i]->child = graph_copy(n->child));
        i++;
    }
    for (const struct node *n = g->first; n && ok; n = n->next)
        for (size_t k = 0; k < n->dep_count && ok; k++)
            ok = !node_depend(made[n->mark], made[n->deps[k]->mark]);
    free(made);
    if (!ok && copy) {
        graph_free(copy);
        copy = NULL;
    }
    return copy;
}

/* ---- the API ---- */

CUAPI cuGraphCreate(CUgraph *ret, unsigned flags)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || flags)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = (CUgraph)graph_new();
    return drv_leave(*ret ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

/* Enters with a graph. */
static CUresult enter_graph(CUgraph handle, struct graph **ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    *ret = graph_get(handle);
    return *ret ? CUDA_SUCCESS : drv_leave(CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuGraphDestroy(CUgraph handle)
{
    struct graph *g;
    CUresult rc = enter_graph(handle, &g);
    if (rc)
        return rc;
    graph_free(g);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphClone(CUgraph *ret, CUgraph handle)
{
    struct graph *g;
    CUresult rc = enter_graph(handle, &g);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    for (const struct node *n = g->first; n; n = n->next)
        if (n->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || n->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
            return drv_leave(CUDA_ERROR_NOT_SUPPORTED); /* documented */
    *ret = (CUgraph)graph_copy(g);
    return drv_leave(*ret ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

/* Writes at most *|count| of what |get| names, or counts all when there is no place. */
static CUresult put(CUgraphNode *ret, size_t *count, size_t *n, const struct node *node)
{
    if (ret && *n < *count)
        ret[*n] = (CUgraphNode)(uintptr_t)node;
    ++*n;
    return CUDA_SUCCESS;
}

static void finish(CUgraphNode *ret, size_t *count, size_t n)
{
    for (size_t i = n; ret && i < *count; i++)
        ret[i] = NULL;
    *count = !ret || n < *count ? n : *count;
}

static CUresult list(CUgraph handle, CUgraphNode *ret, size_t *count, bool roots)
{
    struct graph *g;
    size_t n = 0;
    CUresult rc = enter_graph(handle, &g);
    if (rc)
        return rc;
    if (!count)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    for (const struct node *k = g->first; k; k = k->next)
        if (!roots || !k->dep_count)
            put(ret, count, &n, k);
    finish(ret, count, n);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphGetNodes(CUgraph graph, CUgraphNode *ret, size_t *count)
{
    return list(graph, ret, count, false);
}

CUAPI cuGraphGetRootNodes(CUgraph graph, CUgraphNode *ret, size_t *count)
{
    return list(graph, ret, count, true);
}

CUAPI cuGraphGetEdges(CUgraph handle, CUgraphNode *ret_from, CUgraphNode *ret_to, size_t *count)
{
    struct graph *g;
    size_t n = 0, m = 0;
    CUresult rc = enter_graph(handle, &g);
    if (rc)
        return rc;
    if (!count || !ret_from != !ret_to)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    size_t room = *count;
    for (const struct node *k = g->first; k; k = k->next) {
        for (size_t i = 0; i < k->dep_count; i++) {
            put(ret_from, count, &n, k->deps[i]);
            put(ret_to, &room, &m, k);
        }
    }
    finish(ret_from, count, n);
    finish(ret_to, &room, m);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphGetEdges_v2(CUgraph graph, CUgraphNode *ret_from, CUgraphNode *ret_to,
                         CUgraphEdgeData *ret_data, size_t *count)
{
    CUresult rc = cuGraphGetEdges(graph, ret_from, ret_to, count);
    if (!rc && ret_data)
        memset(ret_data, 0, *count * sizeof(*ret_data));
    return rc;
}

/* Enters with a node. */
static CUresult enter_node(CUgraphNode handle, const void *ret, struct node **ret_node)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    *ret_node = node_get(handle);
    return *ret_node && ret ? CUDA_SUCCESS : drv_leave(CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuGraphNodeGetType(CUgraphNode handle, int *ret)
{
    struct node *node;
    CUresult rc = enter_node(handle, ret, &node);
    if (rc)
        return rc;
    *ret = (int)node->type;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphNodeGetDependencies(CUgraphNode handle, CUgraphNode *ret, size_t *count)
{
    struct node *node;
    size_t n = 0;
    CUresult rc = enter_node(handle, count, &node);
    if (rc)
        return rc;
    for (size_t i = 0; i < node->dep_count; i++)
        put(ret, count, &n, node->deps[i]);
    finish(ret, count, n);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode *ret, CUgraphEdgeData *ret_data,
                                    size_t *count)
{
    CUresult rc = cuGraphNodeGetDependencies(node, ret, count);
    if (!rc && ret_data)
        memset(ret_data, 0, *count * sizeof(*ret_data));
    return rc;
}

CUAPI cuGraphNodeGetDependentNodes(CUgraphNode handle, CUgraphNode *ret, size_t *count)
{
    struct node *node;
    size_t n = 0;
    CUresult rc = enter_node(handle, count, &node);
    if (rc)
        return rc;
    for (const struct node *k = node->graph->first; k; k = k->next)
        for (size_t i = 0; i < k->dep_count; i++)
            if (k->deps[i] == node)
                put(ret, count, &n, k);
    finish(ret, count, n);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode *ret,
                                      CUgraphEdgeData *ret_data, size_t *count)
{
    CUresult rc = cuGraphNodeGetDependentNodes(node, ret, count);
    if (!rc && ret_data)
        memset(ret_data, 0, *count * sizeof(*ret_data));
    return rc;
}

static void cut(struct node *node, const struct node *on)
{
    for (size_t i = 0; i < node->dep_count; i++)
        if (node->deps[i] == on)
            node->deps[i--] = node->deps[--node->dep_count];
}

CUAPI cuGraphDestroyNode(CUgraphNode handle)
{
    struct node *node;
    CUresult rc = enter_node(handle, handle, &node);
    if (rc)
        return rc;
    struct graph *g = node->graph;
    struct node **p = &g->first;
    while (*p) {
        if (*p == node) {
            *p = node->next;
            continue;
        }
        cut(*p, node);
        p = &(*p)->next;
    }
    g->last = p;
    g->count--;
    node_free(node);
    return drv_leave(CUDA_SUCCESS);
}

static CUresult edges(CUgraph handle, const CUgraphNode *from, const CUgraphNode *to, size_t count,
                      bool add)
{
    struct graph *g;
    CUresult rc = enter_graph(handle, &g);
    if (rc)
        return rc;
    for (size_t i = 0; i < count && !rc; i++) {
        struct node *a = from ? node_get(from[i]) : NULL, *b = to ? node_get(to[i]) : NULL;
        if (!a || !b || a == b || a->graph != g || b->graph != g)
            rc = CUDA_ERROR_INVALID_VALUE;
        else if (add)
            rc = node_depend(b, a);
        else
            cut(b, a);
    }
    return drv_leave(rc);
}

CUAPI cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                             size_t count)
{
    return edges(graph, from, to, count, true);
}

CUAPI cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                const CUgraphEdgeData *data, size_t count)
{
    (void)data;
    return edges(graph, from, to, count, true);
}

CUAPI cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                size_t count)
{
    return edges(graph, from, to, count, false);
}

CUAPI cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                   const CUgraphEdgeData *data, size_t count)
{
    (void)data;
    return edges(graph, from, to, count, false);
}
