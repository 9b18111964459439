/* Events. Their times come from the model, so that they do not depend on when a thread woke up. Those
 * for several processes have no times; whether they are complete stands in the shared state. */
#include <stdlib.h>
#include <sys/random.h>

#include "simdriver/drv.h"

struct event *event_get(CUevent handle)
{
    return handle_is(handle, H_EVENT) ? (struct event *)handle : NULL;
}

CUresult event_new(struct ctx *ctx, unsigned flags, struct event **ret)
{
    struct event *e = handle_new(H_EVENT, sizeof(*e));
    if (!e)
        return CUDA_ERROR_OUT_OF_MEMORY;
    e->ctx = ctx;
    e->flags = flags;
    e->record = ++drv.ids; /* no record of an earlier event in the same memory counts */
    *ret = e;
    return CUDA_SUCCESS;
}

void event_share(struct event *e, const struct shared_event_ref *ref)
{
    e->shared = *ref;
    e->next_shared = drv.shared_events;
    drv.shared_events = e;
}

/* The process holds the shared event while it has one handle of it. */
static void leave_shared(struct event *e)
{
    bool last = true;
    for (struct event **p = &drv.shared_events; *p;) {
        if (*p == e) {
            *p = e->next_shared;
            continue;
        }
        last = last && (*p)->shared.key != e->shared.key;
        p = &(*p)->next_shared;
    }
    if (last)
        shared_event_drop(&drv.shared, &e->shared);
}

static CUresult make_shared(struct event *e)
{
    struct shared_event_ref ref = {.device = e->ctx->device};
    if (getrandom(&ref.key, sizeof(ref.key), 0) != sizeof(ref.key) || !ref.key)
        return CUDA_ERROR_OPERATING_SYSTEM;
    if (shared_event_new(&drv.shared, &ref) &&
        (!shared_reap(&drv.shared) || shared_event_new(&drv.shared, &ref)))
        return CUDA_ERROR_OUT_OF_MEMORY;
    event_share(e, &ref);
    return CUDA_SUCCESS;
}

bool event_recorded(const struct event *e)
{
    return e->shared.key ? shared_event_last(&drv.shared, &e->shared).id != 0 : e->recorded;
}

bool event_pending(const struct event *e)
{
    if (!e->shared.key)
        return e->recorded && !e->done;
    struct shared_record last = shared_event_last(&drv.shared, &e->shared);
    return !shared_record_done(&drv.shared, &last);
}

CUAPI cuEventCreate(CUevent *ret, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || flags & ~7u)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (flags & CU_EVENT_INTERPROCESS && !(flags & CU_EVENT_DISABLE_TIMING))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct event *e;
    if ((rc = event_new(ctx, flags, &e)))
        return drv_leave(rc);
    if (flags & CU_EVENT_INTERPROCESS && (rc = make_shared(e))) {
        handle_free(e);
        return drv_leave(rc);
    }
    *ret = (CUevent)e;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuEventDestroy_v2(CUevent handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct event *e = event_get(handle);
    if (!e)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (e->shared.key)
        leave_shared(e);
    free(e->front.nodes);
    handle_free(e);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuEventDestroy(CUevent handle)
{
    return cuEventDestroy_v2(handle);
}

/* Other processes will want to know how far |s| is. */
static CUresult open_channel(struct stream *s)
{
    s->channel.device = s->ctx->device;
    return s->channel.id || !shared_channel_new(&drv.shared, &s->channel) ? CUDA_SUCCESS
                                                                          : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult event_record(struct event *e, struct stream *s)
{
    uint64_t before = e->record;
    struct work work = {.kind = WORK_RECORD, .event = e};
    CUresult rc = e->shared.key ? open_channel(s) : CUDA_SUCCESS;
    if (rc)
        return rc;
    e->record = ++drv.ids;
    rc = work_submit_now(s, &work);
    if (rc) {
        e->record = before;
        return rc;
    }
    e->recorded = true;
    e->done = false;
    e->stream = s;
    e->index = s->submitted;
    e->capture_id = 0;
    if (e->shared.key) {
        struct shared_record record = s->channel;
        record.index = s->submitted;
        shared_event_record(&drv.shared, &e->shared, &record);
    }
    return CUDA_SUCCESS;
}

CUresult work_wait_event(struct stream *s, const struct event *e)
{
    if (!e->shared.key)
        return work_depend(s, e->stream, e->index);
    struct shared_record last = shared_event_last(&drv.shared, &e->shared);
    return shared_record_done(&drv.shared, &last) ? CUDA_SUCCESS : work_await(s, &last);
}

static CUresult record(CUevent event, CUstream stream, unsigned flags)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    struct event *e = event_get(event);
    if (!e || e->ctx->device != s->ctx->device)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (flags & ~1u)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (s->capture)
        return drv_leave(capture_record(s, e, flags));
    if ((rc = capture_legacy(s)))
        return drv_leave(rc);
    return drv_leave(event_record(e, s));
}

CUAPI cuEventRecord(CUevent event, CUstream stream)
{
    return record(event, stream, 0);
}

CUAPI cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags)
{
    return record(event, stream, flags);
}

/* Enters with an event that may be asked about. */
static CUresult enter_event(CUevent handle, struct event **ret)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct event *e = event_get(handle);
    if (!e)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (e->capture_id)
        return drv_leave(CUDA_ERROR_CAPTURED_EVENT);
    if ((rc = ctx_error(e->ctx)))
        return drv_leave(rc);
    if ((rc = capture_unsafe(e->ctx)))
        return drv_leave(rc);
    *ret = e;
    return CUDA_SUCCESS;
}

CUAPI cuEventQuery(CUevent handle)
{
    struct event *e;
    CUresult rc = enter_event(handle, &e);
    if (rc)
        return rc;
    if (event_pending(e))
        work_poll();
    if ((rc = ctx_error(e->ctx)))
        return drv_leave(rc);
    return drv_leave(event_pending(e) ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

/* No process is told that a record in another one is complete; it looks. Our own work goes on
 * meanwhile, for the other one may wait for it. */
static CUresult wait_shared(struct ctx *ctx, struct shared_record record)
{
    const struct timespec pause = {.tv_nsec = WORK_POLL_EVERY};
    fast_ns reap = shared_now() + WORK_REAP_EVERY;
    while (!shared_record_done(&drv.shared, &record)) {
        CUresult rc = handle_is(ctx, H_CTX) ? ctx_error(ctx) : CUDA_ERROR_CONTEXT_IS_DESTROYED;
        if (rc)
            return rc;
        pthread_mutex_unlock(&drv.lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&drv.lock);
        if (shared_now() < reap)
            continue;
        shared_reap(&drv.shared);
        reap = shared_now() + WORK_REAP_EVERY;
    }
    return CUDA_SUCCESS;
}

CUAPI cuEventSynchronize(CUevent handle)
{
    struct event *e;
    CUresult rc = enter_event(handle, &e);
    if (rc)
        return rc;
    if (e->shared.key)
        rc = wait_shared(e->ctx, shared_event_last(&drv.shared, &e->shared));
    else if (event_pending(e))
        rc = work_wait(e->stream, e->index);
    return drv_leave(rc);
}

CUAPI cuEventElapsedTime(float *ret, CUevent begin, CUevent end)
{
    struct event *a, *b;
    CUresult rc = enter_event(begin, &a);
    if (rc)
        return rc;
    b = event_get(end);
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!b || !a->recorded || !b->recorded || (a->flags | b->flags) & CU_EVENT_DISABLE_TIMING)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (!a->done || !b->done)
        work_poll();
    if (!a->done || !b->done)
        return drv_leave(CUDA_ERROR_NOT_READY);
    *ret = (float)((double)(b->at - a->at) / 1e6);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuEventElapsedTime_v2(float *ret, CUevent begin, CUevent end)
{
    return cuEventElapsedTime(ret, begin, end);
}
