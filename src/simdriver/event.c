/* Events. Their times come from the model, so that they do not depend on when a thread woke up. */
#include <stdlib.h>

#include "simdriver/drv.h"

struct event *event_get(CUevent handle)
{
    return handle_is(handle, H_EVENT) ? (struct event *)handle : NULL;
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
    struct event *e = handle_new(H_EVENT, sizeof(*e));
    if (!e)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    e->ctx = ctx;
    e->flags = flags;
    e->record = ++drv.ids; /* no record of an earlier event in the same memory counts */
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
    free(e->front.nodes);
    handle_free(e);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuEventDestroy(CUevent handle)
{
    return cuEventDestroy_v2(handle);
}

CUresult event_record(struct event *e, struct stream *s)
{
    uint64_t before = e->record;
    struct work work = {.kind = WORK_RECORD, .event = e};
    e->record = ++drv.ids;
    CUresult rc = work_submit_now(s, &work);
    if (rc) {
        e->record = before;
        return rc;
    }
    e->recorded = true;
    e->done = false;
    e->stream = s;
    e->index = s->submitted;
    e->capture_id = 0;
    return CUDA_SUCCESS;
}

CUresult work_wait_event(struct stream *s, const struct event *e)
{
    return work_depend(s, e->stream, e->index);
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
    if (e->recorded && !e->done)
        work_poll();
    if ((rc = ctx_error(e->ctx)))
        return drv_leave(rc);
    return drv_leave(e->recorded && !e->done ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}

CUAPI cuEventSynchronize(CUevent handle)
{
    struct event *e;
    CUresult rc = enter_event(handle, &e);
    if (rc)
        return rc;
    if (e->recorded && !e->done)
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
