/* User objects: memory of the program that graphs refer to. Whoever drops the last reference does not
 * call the destructor, for it may hold the lock; the thread of host functions does. */
#include <limits.h>
#include <stdlib.h>

#include "simdriver/graph.h"

struct user_object {
    struct handle handle;
    struct user_object *next_dead;
    CUhostFn destroy;
    void *ptr;
    uint64_t refs;
};

static struct user_object *dead;

static struct user_object *object_get(CUuserObject handle)
{
    return handle_is(handle, H_USER_OBJECT) ? (struct user_object *)handle : NULL;
}

static void release(struct user_object *o, uint64_t count)
{
    o->refs -= count;
    if (o->refs)
        return;
    o->next_dead = dead;
    dead = o;
    if (!work_start())
        pthread_cond_signal(&drv.hosted);
}

bool user_object_bury(void)
{
    struct user_object *o = dead;
    if (!o)
        return false;
    dead = o->next_dead;
    pthread_mutex_unlock(&drv.lock);
    o->destroy(o->ptr);
    pthread_mutex_lock(&drv.lock);
    handle_free(o);
    return true;
}

/* ---- what a graph holds ---- */

static CUresult refs_add(struct object_refs *r, struct user_object *o, uint64_t count)
{
    size_t i = 0;
    while (i < r->n && r->v[i].object != o)
        i++;
    if (i == r->n) {
        struct object_ref *v = realloc(r->v, (r->n + 1) * sizeof(*v));
        if (!v)
            return CUDA_ERROR_OUT_OF_MEMORY;
        v[r->n++] = (struct object_ref){.object = o};
        r->v = v;
    }
    r->v[i].count += count;
    return CUDA_SUCCESS;
}

bool object_refs_copy(struct object_refs *dst, const struct object_refs *src)
{
    for (size_t i = 0; i < src->n; i++) {
        if (refs_add(dst, src->v[i].object, src->v[i].count))
            return false;
        src->v[i].object->refs += src->v[i].count;
    }
    return true;
}

void object_refs_drop(struct object_refs *r)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->v[i].count)
            release(r->v[i].object, r->v[i].count);
    free(r->v);
    *r = (struct object_refs){NULL, 0};
}

static void drop_later(void *arg)
{
    struct object_refs *r = arg;
    pthread_mutex_lock(&drv.lock);
    object_refs_drop(r);
    pthread_mutex_unlock(&drv.lock);
    free(r);
}

void object_refs_drop_behind(struct object_refs *r, struct stream *s)
{
    struct object_refs *later = malloc(sizeof(*later));
    struct work work = {.kind = WORK_HOST, .host = {.fn = drop_later, .arg = later}};
    if (later)
        *later = *r;
    if (later && !work_submit_now(s, &work)) {
        *r = (struct object_refs){NULL, 0};
        return;
    }
    free(later);
    object_refs_drop(r);
}

/* ---- the calls ---- */

CUAPI cuUserObjectCreate(CUuserObject *ret, void *ptr, CUhostFn destroy, unsigned refs, unsigned flags)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !destroy || !refs || refs > INT_MAX || flags != 1) /* CU_USER_OBJECT_NO_DESTRUCTOR_SYNC */
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct user_object *o = handle_new(H_USER_OBJECT, sizeof(*o));
    if (!o)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    o->destroy = destroy;
    o->ptr = ptr;
    o->refs = refs;
    *ret = (CUuserObject)o;
    return drv_leave(CUDA_SUCCESS);
}

/* Enters with an object and a number of references. */
static CUresult enter_object(CUuserObject handle, unsigned count, struct user_object **ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    *ret = object_get(handle);
    return *ret && (*ret)->refs && count && count <= INT_MAX ? CUDA_SUCCESS
                                                             : drv_leave(CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuUserObjectRetain(CUuserObject handle, unsigned count)
{
    struct user_object *o;
    CUresult rc = enter_object(handle, count, &o);
    if (rc)
        return rc;
    o->refs += count;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuUserObjectRelease(CUuserObject handle, unsigned count)
{
    struct user_object *o;
    CUresult rc = enter_object(handle, count, &o);
    if (rc)
        return rc;
    if (count > o->refs)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    release(o, count);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuGraphRetainUserObject(CUgraph graph, CUuserObject handle, unsigned count, unsigned flags)
{
    struct user_object *o;
    CUresult rc = enter_object(handle, count, &o);
    if (rc)
        return rc;
    struct graph *g = graph_get(graph);
    if (!g || flags > 1) /* CU_GRAPH_USER_OBJECT_MOVE: the caller's references become the graph's */
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (flags && count > o->refs)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    rc = refs_add(&g->objects, o, count);
    if (!rc && !flags)
        o->refs += count;
    return drv_leave(rc);
}

CUAPI cuGraphReleaseUserObject(CUgraph graph, CUuserObject handle, unsigned count)
{
    struct user_object *o;
    CUresult rc = enter_object(handle, count, &o);
    if (rc)
        return rc;
    struct graph *g = graph_get(graph);
    for (size_t i = 0; g && i < g->objects.n; i++) {
        struct object_ref *r = &g->objects.v[i];
        if (r->object != o || r->count < count)
            continue;
        r->count -= count;
        if (!r->count)
            *r = g->objects.v[--g->objects.n];
        release(o, count);
        return drv_leave(CUDA_SUCCESS);
    }
    return drv_leave(CUDA_ERROR_INVALID_VALUE);
}
