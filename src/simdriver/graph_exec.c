/* Executable graphs: a flat list of nodes in an order that respects their edges, spread over the
 * stream of the launch and a few streams of the graph's own, so that branches run side by side. */
#include "simdriver/graph_exec.h"

#include <stdlib.h>
#include <string.h>

#define LANES 5 /* the stream of the launch is lane 0 */
#define NOTHING SIZE_MAX
#define AUTO_FREE_ON_LAUNCH 1u /* CUDA_GRAPH_INSTANTIATE_FLAG_... */

struct exec_node {
    const struct node *origin;
    CUgraphNodeType type;
    struct work work;
    size_t *deps, dep_count;
    bool disabled;
    int lane;       /* of the launch that is being submitted */
    uint64_t index; /* its operation there */
};

struct exec {
    struct handle handle;
    struct exec_node *nodes;
    size_t count, cap;
    unsigned long long flags;
    struct stream *lanes[LANES];
    uint64_t lane_ids[LANES];
    struct stream *last; /* of the last launch: the next one waits for it */
    uint64_t last_id, last_index;
    struct object_refs objects; /* of the graph and of those inside it */
};

/* A growing list of indices. */
struct list {
    size_t *v, n;
};

static bool list_add(struct list *l, size_t v)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i] == v)
            return true;
    size_t *p = realloc(l->v, (l->n + 1) * sizeof(*p));
    if (!p)
        return false;
    p[l->n++] = v;
    l->v = p;
    return true;
}

static bool list_join(struct list *l, const struct list *other)
{
    for (size_t i = 0; i < other->n; i++)
        if (!list_add(l, other->v[i]))
            return false;
    return true;
}

static struct exec *exec_get(CUgraphExec handle)
{
    return handle_is(handle, H_EXEC) ? (struct exec *)handle : NULL;
}

static void exec_free(struct exec *e)
{
    for (size_t i = 0; i < e->count; i++) {
        work_free(&e->nodes[i].work);
        free(e->nodes[i].deps);
    }
    free(e->nodes);
    /* A launch that is not done yet uses the program's memory. */
    if (handle_is(e->last, H_STREAM) && e->last->id == e->last_id && !work_done(e->last, e->last_index))
        object_refs_drop_behind(&e->objects, e->last);
    else
        object_refs_drop(&e->objects);
    for (int k = 1; k < LANES; k++)
        if (handle_is(e->lanes[k], H_STREAM) && e->lanes[k]->id == e->lane_ids[k])
            stream_destroy(e->lanes[k]);
    handle_free(e);
}

/* ---- flattening ---- */

/* Takes over |deps|; |ret| is what its successors depend on. */
static CUresult append(struct exec *e, const struct node *n, struct list *deps, struct list *ret)
{
    if (e->count == e->cap) {
        size_t cap = e->cap ? e->cap * 2 : 16;
        struct exec_node *p = realloc(e->nodes, cap * sizeof(*p));
        if (!p)
            return CUDA_ERROR_OUT_OF_MEMORY;
        e->nodes = p;
        e->cap = cap;
    }
    struct exec_node *x = &e->nodes[e->count];
    *x = (struct exec_node){.origin = n, .type = n->type, .deps = deps->v, .dep_count = deps->n};
    *deps = (struct list){NULL, 0};
    e->count++;
    CUresult rc = work_copy(&x->work, &n->work);
    if (rc)
        x->work.kind = WORK_EMPTY;
    return rc || list_add(ret, e->count - 1) ? rc : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult flatten(struct exec *e, struct graph *g, const struct list *in, struct list *ret);

/* |outs|: what each node that is placed already stands for, by node->mark. */
static CUresult place(struct exec *e, struct node *n, const struct list *in, struct list *outs,
                      struct list *ret)
{
    struct list deps = {NULL, 0};
    CUresult rc = CUDA_SUCCESS;
    bool ok = n->dep_count || list_join(&deps, in);
    for (size_t i = 0; i < n->dep_count && ok; i++)
        ok = list_join(&deps, &outs[n->deps[i]->mark]);
    if (!ok)
        rc = CUDA_ERROR_OUT_OF_MEMORY;
    else if (!n->child)
        rc = append(e, n, &deps, ret);
    else
        rc = flatten(e, n->child, &deps, ret);
    /* An empty child passes on what it was to wait for. */
    if (!rc && n->child && !ret->n && !list_join(ret, &deps))
        rc = CUDA_ERROR_OUT_OF_MEMORY;
    free(deps.v);
    return rc;
}

static bool is_ready(const struct node *n)
{
    for (size_t i = 0; i < n->dep_count; i++)
        if (!n->deps[i]->mark)
            return false;
    return true;
}

/* Adds the nodes of |g|, whose roots depend on |in|; |ret| is what depends on all of it must wait
 * for. A graph with a cycle is refused. */
static CUresult flatten(struct exec *e, struct graph *g, const struct list *in, struct list *ret)
{
    struct list *outs = calloc(g->count + 1, sizeof(*outs));
    bool *inner = calloc(g->count + 1, sizeof(*inner)); /* something depends on it */
    size_t placed = 0, before = NOTHING;
    bool ok = outs && inner && object_refs_copy(&e->objects, &g->objects);
    CUresult rc = ok ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    for (struct node *n = g->first; n; n = n->next)
        n->mark = 0;
    while (!rc && placed < g->count && placed != before) {
        before = placed;
        for (struct node *n = g->first; n && !rc; n = n->next) {
            if (n->mark || !is_ready(n))
                continue;
            for (size_t i = 0; i < n->dep_count; i++)
                inner[n->deps[i]->mark] = true;
            n->mark = ++placed;
            rc = place(e, n, in, outs, &outs[n->mark]);
        }
    }
    if (!rc && placed < g->count)
        rc = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 1; i <= placed && !rc; i++)
        if (!inner[i] && !list_join(ret, &outs[i]))
            rc = CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; outs && i <= g->count; i++)
        free(outs[i].v);
    free(outs);
    free(inner);
    return rc;
}

static CUresult exec_new(struct graph *g, struct exec **ret)
{
    struct list in = {NULL, 0}, out = {NULL, 0};
    struct exec *e = handle_new(H_EXEC, sizeof(*e));
    if (!e)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult rc = flatten(e, g, &in, &out);
    free(out.v);
    if (rc)
        exec_free(e);
    else
        *ret = e;
    return rc;
}

struct work *exec_work(CUgraphExec handle, const struct node *node)
{
    struct exec *e = exec_get(handle);
    for (size_t i = 0; e && i < e->count; i++)
        if (e->nodes[i].origin == node)
            return &e->nodes[i].work;
    return NULL;
}

/* ---- launching ---- */

static struct stream *lane_of(struct exec *e, int lane, struct stream *s)
{
    struct stream *t = e->lanes[lane];
    if (!lane)
        return s;
    if (handle_is(t, H_STREAM) && t->id == e->lane_ids[lane] && !t->dying && t->ctx == s->ctx)
        return t;
    t = stream_new(s->ctx, CU_STREAM_NON_BLOCKING, s->priority);
    e->lanes[lane] = t;
    e->lane_ids[lane] = t ? t->id : 0;
    return t;
}

/* The lane that ends with something that |x| waits for, else an empty one, else any. */
static int choose_lane(const struct exec *e, const struct exec_node *x, const size_t *tail)
{
    for (size_t i = 0; i < x->dep_count; i++)
        if (tail[e->nodes[x->deps[i]].lane] == x->deps[i])
            return e->nodes[x->deps[i]].lane;
    for (int k = 0; k < LANES; k++)
        if (tail[k] == NOTHING)
            return k;
    return (int)(x->dep_count ? e->nodes[x->deps[0]].lane : 0);
}

static CUresult run_node(struct exec_node *x, struct stream *t)
{
    struct work work;
    if (x->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD && !x->disabled)
        return event_record(x->work.event, t);
    if (x->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT && !x->disabled && event_pending(x->work.event))
        return work_wait_event(t, x->work.event);
    if (x->disabled || x->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT ||
        x->type == CU_GRAPH_NODE_TYPE_EMPTY) {
        work = (struct work){.kind = WORK_EMPTY};
        return work_submit_now(t, &work);
    }
    CUresult rc = x->work.kind == WORK_ALLOC ? CUDA_SUCCESS : work_copy(&work, &x->work);
    if (x->work.kind == WORK_ALLOC)
        work = (struct work){.kind = WORK_EMPTY};
    else if (x->work.kind == WORK_FREE)
        rc = graph_memory_give(work.free.ptr, &work.free.serial);
    return rc ? rc : work_submit_now(t, &work);
}

static CUresult submit_node(struct exec *e, size_t i, struct stream *s, uint64_t start,
                            size_t *tail)
{
    struct exec_node *x = &e->nodes[i];
    x->lane = choose_lane(e, x, tail);
    struct stream *t = lane_of(e, x->lane, s);
    CUresult rc = t ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (!rc && x->lane && tail[x->lane] == NOTHING)
        rc = work_depend(t, s, start);
    for (size_t k = 0; k < x->dep_count && !rc; k++) {
        const struct exec_node *d = &e->nodes[x->deps[k]];
        rc = work_depend(t, lane_of(e, d->lane, s), d->index);
    }
    if (!rc)
        rc = run_node(x, t);
    if (!rc)
        x->index = t->submitted;
    tail[x->lane] = i;
    return rc;
}

/* The memory of all nodes, before anything is submitted; all or none. */
static CUresult take_memory(const struct exec *e)
{
    CUresult rc = CUDA_SUCCESS;
    uint64_t serial;
    size_t n = 0;
    for (; n < e->count && !rc; n++)
        if (e->nodes[n].work.kind == WORK_ALLOC)
            rc = graph_memory_take(e->nodes[n].work.free.ptr, e->flags & AUTO_FREE_ON_LAUNCH);
    for (size_t i = 0; rc && i + 1 < n; i++) {
        uintptr_t ptr = e->nodes[i].work.free.ptr;
        if (e->nodes[i].work.kind == WORK_ALLOC && !graph_memory_give(ptr, &serial))
            graph_memory_return(ptr, serial);
    }
    return rc;
}

static CUresult exec_launch(struct exec *e, struct stream *s)
{
    size_t tail[LANES];
    CUresult rc = take_memory(e);
    for (int k = 0; k < LANES; k++)
        tail[k] = NOTHING;
    if (!rc && handle_is(e->last, H_STREAM) && e->last->id == e->last_id)
        rc = work_depend(s, e->last, e->last_index);
    /* An operation of |s| that everything can wait for: it also takes the order of the legacy stream
     * into account. */
    struct work work = {.kind = WORK_EMPTY};
    if (!rc)
        rc = work_submit_now(s, &work);
    uint64_t start = s->submitted;
    for (size_t i = 0; i < e->count && !rc; i++)
        rc = submit_node(e, i, s, start, tail);
    for (int k = 1; k < LANES && !rc; k++)
        if (tail[k] != NOTHING)
            rc = work_depend(s, e->lanes[k], e->lanes[k]->submitted);
    e->last = s;
    e->last_id = s->id;
    e->last_index = s->submitted;
    return rc;
}

/* A launch in a capture becomes a child graph. */
static CUresult exec_capture(const struct exec *e, struct stream *s)
{
    struct graph *g = graph_new();
    struct node **made = calloc(e->count + 1, sizeof(*made));
    bool ok = g && made && object_refs_copy(&g->objects, &e->objects);
    CUresult rc = ok ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < e->count && !rc; i++) {
        const struct exec_node *x = &e->nodes[i];
        struct work work;
        rc = work_copy(&work, &x->work);
        if (!rc && !(made[i] = graph_add(g, x->type, &work, NULL, 0)))
            rc = CUDA_ERROR_OUT_OF_MEMORY;
        for (size_t k = 0; k < x->dep_count && !rc; k++)
            rc = node_depend(made[i], made[x->deps[k]]);
    }
    free(made);
    if (!rc)
        return capture_add_child(s, g);
    if (g)
        graph_free(g);
    return rc;
}

CUAPI cuGraphLaunch(CUgraphExec handle, CUstream stream)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    struct exec *e = exec_get(handle);
    if (!e)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (s->capture)
        return drv_leave(exec_capture(e, s));
    if ((rc = capture_legacy(s)))
        return drv_leave(rc);
    return drv_leave(exec_launch(e, s));
}

CUAPI cuGraphUpload(CUgraphExec handle, CUstream stream)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    return drv_leave(exec_get(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

/* ---- making and changing ---- */

CUAPI cuGraphInstantiateWithFlags(CUgraphExec *ret, CUgraph graph, unsigned long long flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct graph *g = graph_get(graph);
    struct exec *e;
    if (!ret || !g || flags & ~0xfull)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (flags & 4) /* launches from the device */
        return drv_leave(CUDA_ERROR_NOT_SUPPORTED);
    rc = exec_new(g, &e);
    if (!rc) {
        e->flags = flags;
        *ret = (CUgraphExec)e;
    }
    return drv_leave(rc);
}

CUAPI cuGraphInstantiate_v2(CUgraphExec *ret, CUgraph graph, CUgraphNode *ret_node, char *log,
                            size_t size)
{
    if (ret_node)
        *ret_node = NULL;
    if (log && size)
        log[0] = '\0';
    return cuGraphInstantiateWithFlags(ret, graph, 0);
}

CUAPI cuGraphInstantiate(CUgraphExec *ret, CUgraph graph, CUgraphNode *ret_node, char *log,
                         size_t size)
{
    return cuGraphInstantiate_v2(ret, graph, ret_node, log, size);
}

CUAPI cuGraphInstantiateWithParams(CUgraphExec *ret, CUgraph graph,
                                   CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
    if (!params)
        return CUDA_ERROR_INVALID_VALUE;
    params->hErrNode_out = NULL;
    CUresult rc = cuGraphInstantiateWithFlags(ret, graph, params->flags);
    params->result_out = rc ? 1 : 0;
    return rc;
}

CUAPI cuGraphExecDestroy(CUgraphExec handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct exec *e = exec_get(handle);
    if (!e)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    exec_free(e);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct exec *e = exec_get(handle);
    if (!e || !ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = e->flags;
    return drv_leave(CUDA_SUCCESS);
}

/* As CUgraphExecUpdateResultInfo in the public header. */
struct update_info {
    int result; /* 0: done, 2: other topology, 3: other type of a node */
    CUgraphNode error_node, error_from;
};

static CUresult update(struct exec *e, struct graph *g, struct update_info *ret)
{
    struct exec *fresh;
    CUresult rc = exec_new(g, &fresh);
    if (rc)
        return rc;
    ret->result = e->count == fresh->count ? 0 : 2;
    for (size_t i = 0; i < e->count && !ret->result; i++) {
        const struct exec_node *a = &e->nodes[i], *b = &fresh->nodes[i];
        if (a->type != b->type)
            ret->result = 3;
        else if (a->dep_count != b->dep_count ||
                 (a->dep_count && memcmp(a->deps, b->deps, a->dep_count * sizeof(*a->deps))))
            ret->result = 2;
        if (ret->result)
            ret->error_node = (CUgraphNode)(uintptr_t)b->origin;
    }
    for (size_t i = 0; i < e->count && !ret->result; i++) {
        struct work old = e->nodes[i].work;
        e->nodes[i].work = fresh->nodes[i].work;
        fresh->nodes[i].work = old;
    }
    if (!ret->result) {
        struct object_refs old = e->objects;
        e->objects = fresh->objects;
        fresh->objects = old;
        fresh->last = e->last;
        fresh->last_id = e->last_id;
        fresh->last_index = e->last_index;
    }
    exec_free(fresh);
    return ret->result ? CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE : CUDA_SUCCESS;
}

CUAPI cuGraphExecUpdate_v2(CUgraphExec handle, CUgraph graph, struct update_info *ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct exec *e = exec_get(handle);
    struct graph *g = graph_get(graph);
    if (!e || !g || !ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    memset(ret, 0, sizeof(*ret));
    return drv_leave(update(e, g, ret));
}

CUAPI cuGraphExecUpdate(CUgraphExec handle, CUgraph graph, CUgraphNode *ret_node, int *ret_result)
{
    struct update_info info = {0};
    CUresult rc = cuGraphExecUpdate_v2(handle, graph, &info);
    if (rc && rc != CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE)
        return rc;
    if (ret_node)
        *ret_node = info.error_node;
    if (ret_result)
        *ret_result = info.result;
    return rc;
}

static CUresult enabled(CUgraphExec handle, CUgraphNode node, bool **ret)
{
    struct exec *e = exec_get(handle);
    for (size_t i = 0; e && i < e->count; i++) {
        if (e->nodes[i].origin != node_get(node))
            continue;
        *ret = &e->nodes[i].disabled;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CUAPI cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode node, unsigned value)
{
    bool *disabled;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = enabled(exec, node, &disabled);
    if (!rc)
        *disabled = !value;
    return drv_leave(rc);
}

CUAPI cuGraphNodeGetEnabled(CUgraphExec exec, CUgraphNode node, unsigned *ret)
{
    bool *disabled;
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    rc = ret ? enabled(exec, node, &disabled) : CUDA_ERROR_INVALID_VALUE;
    if (!rc)
        *ret = !*disabled;
    return drv_leave(rc);
}
