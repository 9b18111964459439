/* Stream capture: what is submitted to a capturing stream becomes nodes of a graph. A capture spreads
 * to other streams when they wait for an event that was recorded in it, and must be joined again in
 * the stream where it began. Error codes 900 to 908 are those of the real driver; most of them spoil
 * the capture, which its end then reports. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/graph.h"

struct capture {
    struct capture *next;
    uint64_t id;
    struct graph *graph;
    bool own; /* the graph came into being with the capture */
    bool invalid;
    CUstreamCaptureMode mode;
    struct stream *origin;
    pthread_t thread;
};

static struct capture *all;
static _Thread_local CUstreamCaptureMode thread_mode; /* global */

static struct capture *find(uint64_t id)
{
    struct capture *c = all;
    while (c && c->id != id)
        c = c->next;
    return c;
}

void capture_invalidate(struct capture *c)
{
    c->invalid = true;
}

static CUresult spoil(struct capture *c, CUresult rc)
{
    capture_invalidate(c);
    return rc;
}

/* ---- fronts ---- */

static CUresult front_set(struct front *f, struct node *const *nodes, size_t count)
{
    struct node **p = count ? malloc(count * sizeof(*p)) : NULL;
    if (count && !p)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (count)
        memcpy(p, nodes, count * sizeof(*p));
    free(f->nodes);
    f->nodes = p;
    f->count = count;
    return CUDA_SUCCESS;
}

static bool front_has(const struct front *f, const struct node *n)
{
    for (size_t i = 0; i < f->count; i++)
        if (f->nodes[i] == n)
            return true;
    return false;
}

static CUresult front_join(struct front *f, const struct front *other)
{
    struct node **p = malloc((f->count + other->count + 1) * sizeof(*p));
    size_t n = f->count;
    if (!p)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (n)
        memcpy(p, f->nodes, n * sizeof(*p));
    for (size_t i = 0; i < other->count; i++)
        if (!front_has(f, other->nodes[i]))
            p[n++] = other->nodes[i];
    free(f->nodes);
    f->nodes = p;
    f->count = n;
    return CUDA_SUCCESS;
}

void capture_leave(struct stream *s)
{
    s->capture = NULL;
    front_set(&s->front, NULL, 0);
}

/* Ends |c| in all streams. The graph is the caller's. */
static void end(struct capture *c)
{
    for (struct ctx *ctx = drv.contexts; ctx; ctx = ctx->next)
        for (struct stream *s = ctx->streams; s; s = s->next)
            if (s->capture == c)
                capture_leave(s);
    for (struct capture **p = &all; *p; p = &(*p)->next) {
        if (*p == c) {
            *p = c->next;
            break;
        }
    }
    drv.captures--;
    free(c);
}

void capture_drop_ctx(struct ctx *ctx)
{
    for (struct capture *c = all, *next; c; c = next) {
        next = c->next;
        if (c->origin->ctx != ctx)
            continue;
        if (c->own)
            graph_free(c->graph);
        end(c);
    }
}

/* ---- what is allowed meanwhile ---- */

static bool same_thread(const struct capture *c)
{
    return pthread_equal(c->thread, pthread_self());
}

CUresult capture_unsafe(struct ctx *ctx)
{
    CUresult rc = CUDA_SUCCESS;
    (void)ctx;
    if (!drv.captures || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
        return rc;
    for (struct capture *c = all; c; c = c->next) {
        bool mine = same_thread(c) && c->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
        bool global = thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                      c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (mine || global)
            rc = spoil(c, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    return rc;
}

/* Work in the legacy stream would wait for the blocking streams, of which one is capturing. */
CUresult capture_legacy(struct stream *s)
{
    CUresult rc = CUDA_SUCCESS;
    if (!drv.captures || !s->legacy)
        return rc;
    for (struct stream *t = s->ctx->streams; t; t = t->next)
        if (t->capture && !(t->flags & CU_STREAM_NON_BLOCKING))
            rc = spoil(t->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    return rc;
}

CUresult capture_forbid(struct stream *s)
{
    if (s->capture)
        return s->capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                                   : spoil(s->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return capture_legacy(s);
}

/* ---- what becomes nodes ---- */

static CUresult add(struct stream *s, CUgraphNodeType type, struct work *work, struct node **ret)
{
    struct capture *c = s->capture;
    if (c->invalid) {
        work_free(work);
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    struct node *n = graph_add(c->graph, type, work, s->front.nodes, s->front.count);
    if (!n)
        return spoil(c, CUDA_ERROR_OUT_OF_MEMORY);
    if (ret)
        *ret = n;
    return front_set(&s->front, &n, 1);
}

CUresult capture_add(struct stream *s, struct work *work)
{
    return add(s, graph_type_of(work), work, NULL);
}

CUresult capture_add_child(struct stream *s, struct graph *child)
{
    struct work work = {.kind = WORK_EMPTY};
    struct node *n;
    CUresult rc = add(s, CU_GRAPH_NODE_TYPE_GRAPH, &work, &n);
    if (rc)
        graph_free(child);
    else
        n->child = child;
    return rc;
}

#define EXTERNAL 1u /* CU_EVENT_RECORD_EXTERNAL, CU_EVENT_WAIT_EXTERNAL */

CUresult capture_record(struct stream *s, struct event *e, unsigned flags)
{
    struct capture *c = s->capture;
    if (c->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (flags & EXTERNAL) {
        struct work work = {.kind = WORK_RECORD, .event = e};
        return add(s, CU_GRAPH_NODE_TYPE_EVENT_RECORD, &work, NULL);
    }
    e->capture_id = c->id;
    return front_set(&e->front, s->front.nodes, s->front.count);
}

CUresult capture_wait(struct stream *s, struct event *e, unsigned flags)
{
    struct capture *mine = s->capture, *its = e->capture_id ? find(e->capture_id) : NULL;
    if (mine && mine->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (mine && flags & EXTERNAL) {
        struct work work = {.kind = WORK_RECORD, .event = e};
        return add(s, CU_GRAPH_NODE_TYPE_WAIT_EVENT, &work, NULL);
    }
    if (!e->capture_id) {
        if (!mine || !event_recorded(e))
            return CUDA_SUCCESS;
        return spoil(mine, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    if (!its) /* that capture is over */
        return mine ? spoil(mine, CUDA_ERROR_CAPTURED_EVENT) : CUDA_ERROR_CAPTURED_EVENT;
    if (its->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (s->legacy)
        return spoil(its, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    if (mine && mine != its) {
        capture_invalidate(mine);
        return spoil(its, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    }
    s->capture = its;
    return front_join(&s->front, &e->front);
}

/* ---- begin and end ---- */

static CUresult begin(CUstream stream, struct graph *graph, const CUgraphNode *nodes, size_t count,
                      CUstreamCaptureMode mode)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    if (mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (s->legacy)
        return drv_leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (s->capture)
        return drv_leave(CUDA_ERROR_ILLEGAL_STATE);
    struct capture *c = calloc(1, sizeof(*c));
    if (c)
        c->graph = graph ? graph : graph_new();
    if (!c || !c->graph) {
        free(c);
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    c->own = !graph;
    c->id = ++drv.ids;
    c->mode = mode;
    c->origin = s;
    c->thread = pthread_self();
    c->next = all;
    all = c;
    drv.captures++;
    s->capture = c;
    return drv_leave(front_set(&s->front, (struct node *const *)nodes, count));
}

CUAPI cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
    return begin(stream, NULL, NULL, 0, mode);
}

CUAPI cuStreamBeginCapture(CUstream stream)
{
    return begin(stream, NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUAPI cuStreamBeginCaptureToGraph(CUstream stream, CUgraph handle, const CUgraphNode *nodes,
                                  const CUgraphEdgeData *edges, size_t count,
                                  CUstreamCaptureMode mode)
{
    (void)edges;
    struct graph *g = graph_get(handle);
    if (!g || (count && !nodes))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        if (!node_get(nodes[i]) || node_get(nodes[i])->graph != g)
            return CUDA_ERROR_INVALID_VALUE;
    return begin(stream, g, nodes, count, mode);
}

/* Every node that nothing depends on must be among the last ones of the origin. */
static bool joined(const struct capture *c)
{
    for (struct node *n = c->graph->first; n; n = n->next)
        n->mark = 0;
    for (const struct node *n = c->graph->first; n; n = n->next)
        for (size_t i = 0; i < n->dep_count; i++)
            n->deps[i]->mark = 1;
    for (const struct node *n = c->graph->first; n; n = n->next)
        if (!n->mark && !front_has(&c->origin->front, n))
            return !c->own;
    return true;
}

CUAPI cuStreamEndCapture(CUstream stream, CUgraph *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct capture *c = s->capture;
    *ret = NULL;
    if (!c)
        return drv_leave(CUDA_ERROR_ILLEGAL_STATE);
    if (c->origin != s)
        return drv_leave(spoil(c, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED));
    if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !same_thread(c))
        return drv_leave(spoil(c, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
    if (c->invalid)
        rc = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (!joined(c))
        rc = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    if (!rc)
        *ret = (CUgraph)c->graph;
    else if (c->own)
        graph_free(c->graph);
    end(c);
    return drv_leave(rc);
}

/* ---- questions ---- */

static CUresult info(CUstream stream, CUstreamCaptureStatus *ret, cuuint64_t *ret_id,
                     CUgraph *ret_graph, const CUgraphNode **ret_nodes, size_t *ret_count)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if ((rc = capture_legacy(s)))
        return drv_leave(rc);
    const struct capture *c = s->capture;
    *ret = !c           ? CU_STREAM_CAPTURE_STATUS_NONE
           : c->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                        : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    if (!c)
        return drv_leave(CUDA_SUCCESS);
    if (ret_id)
        *ret_id = c->id;
    if (ret_graph)
        *ret_graph = (CUgraph)c->graph;
    if (ret_nodes)
        *ret_nodes = (const CUgraphNode *)s->front.nodes;
    if (ret_count)
        *ret_count = s->front.count;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *ret)
{
    return info(stream, ret, NULL, NULL, NULL, NULL);
}

CUAPI cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus *ret, cuuint64_t *id)
{
    return info(stream, ret, id, NULL, NULL, NULL);
}

CUAPI cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus *ret, cuuint64_t *id,
                                CUgraph *graph, const CUgraphNode **nodes, size_t *count)
{
    return info(stream, ret, id, graph, nodes, count);
}

CUAPI cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus *ret, cuuint64_t *id,
                                CUgraph *graph, const CUgraphNode **nodes,
                                const CUgraphEdgeData **edges, size_t *count)
{
    if (edges)
        *edges = NULL;
    return info(stream, ret, id, graph, nodes, count);
}

CUAPI cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode *nodes, size_t count,
                                        unsigned flags)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    if (!s->capture)
        return drv_leave(CUDA_ERROR_ILLEGAL_STATE);
    if (flags > 1 || (count && !nodes))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; i < count; i++)
        if (!node_get(nodes[i]) || node_get(nodes[i])->graph != s->capture->graph)
            return drv_leave(CUDA_ERROR_INVALID_VALUE);
    const struct front f = {(struct node **)nodes, count};
    return drv_leave(flags ? front_set(&s->front, f.nodes, count) : front_join(&s->front, &f));
}

CUAPI cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode *nodes,
                                           const CUgraphEdgeData *edges, size_t count,
                                           unsigned flags)
{
    (void)edges;
    return cuStreamUpdateCaptureDependencies(stream, nodes, count, flags);
}

CUAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    if (!mode || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}
