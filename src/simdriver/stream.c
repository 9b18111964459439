/* Streams. 0 and CU_STREAM_LEGACY are the legacy default stream of the context, which waits for its
 * blocking streams and they for it (work.c); CU_STREAM_PER_THREAD is an ordinary blocking stream that
 * each thread has of its own. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

/* The streams of a thread end with it. */
static void thread_end(void *arg)
{
    (void)arg;
    if (drv_enter())
        return;
    for (struct ctx *ctx = drv.contexts; ctx; ctx = ctx->next) {
        for (struct stream *s = ctx->streams, *next; s; s = next) {
            next = s->next;
            if (s->per_thread && pthread_equal(s->owner, pthread_self()) && !s->dying)
                stream_destroy(s);
        }
    }
    drv_leave(CUDA_SUCCESS);
}

static void make_key(void)
{
    pthread_key_create(&thread_key, thread_end);
}

struct stream *stream_new(struct ctx *ctx, unsigned flags, int priority)
{
    struct stream *s = handle_new(H_STREAM, sizeof(*s));
    if (!s)
        return NULL;
    s->ctx = ctx;
    s->id = ++drv.ids;
    s->flags = flags;
    s->priority = priority;
    s->queue = -1;
    s->next = ctx->streams;
    ctx->streams = s;
    return s;
}

static struct stream *per_thread(struct ctx *ctx)
{
    for (struct stream *s = ctx->streams; s; s = s->next)
        if (s->per_thread && !s->dying && pthread_equal(s->owner, pthread_self()))
            return s;
    struct stream *s = stream_new(ctx, 0, 0);
    if (s) {
        s->per_thread = true;
        s->owner = pthread_self();
        pthread_once(&thread_once, make_key);
        pthread_setspecific(thread_key, s);
    }
    return s;
}

struct stream *stream_get(struct ctx *ctx, CUstream handle)
{
    if (!handle || handle == CU_STREAM_LEGACY) {
        if (!ctx->legacy && (ctx->legacy = stream_new(ctx, 0, 0)))
            ctx->legacy->legacy = true;
        return ctx->legacy;
    }
    if (handle == CU_STREAM_PER_THREAD)
        return per_thread(ctx);
    if (!handle_is(handle, H_STREAM))
        return NULL;
    struct stream *s = (struct stream *)handle;
    return s->dying ? NULL : s;
}

CUresult drv_enter_stream(CUstream handle, struct stream **ret)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    *ret = stream_get(ctx, handle);
    return *ret ? CUDA_SUCCESS : drv_leave(CUDA_ERROR_INVALID_HANDLE);
}

/* Frees a stream whose list is empty. */
void stream_reap(struct stream *s)
{
    struct ctx *ctx = s->ctx;
    if (s->queue >= 0) {
        struct sim_gpu *gpu = work_lock_model(ctx);
        sim_gpu_queue_remove(gpu, s->queue, shared_now());
        work_unlock_model(ctx);
    }
    for (struct stream **p = &ctx->streams; *p; p = &(*p)->next) {
        if (*p == s) {
            *p = s->next;
            break;
        }
    }
    if (ctx->legacy == s)
        ctx->legacy = NULL;
    if (s->channel.id)
        shared_channel_free(&drv.shared, &s->channel);
    free(s->front.nodes);
    handle_free(s);
}

/* Returns at once; the stream goes when its work is done. */
void stream_destroy(struct stream *s)
{
    s->dying = true;
    if (!s->head)
        stream_reap(s);
}

static CUresult create(CUstream *ret, unsigned flags, int priority)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || flags & ~(unsigned)CU_STREAM_NON_BLOCKING)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    /* A priority outside the range is clamped, as documented. */
    if (priority > 0)
        priority = 0;
    if (priority < STREAM_PRIORITY_GREATEST)
        priority = STREAM_PRIORITY_GREATEST;
    struct stream *s = stream_new(ctx, flags, priority);
    if (!s)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    *ret = (CUstream)s;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamCreate(CUstream *ret, unsigned flags)
{
    return create(ret, flags, 0);
}

CUAPI cuStreamCreateWithPriority(CUstream *ret, unsigned flags, int priority)
{
    return create(ret, flags, priority);
}

CUAPI cuStreamDestroy_v2(CUstream handle)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct stream *s = handle_is(handle, H_STREAM) ? (struct stream *)handle : NULL;
    if (!s || s->dying || s->legacy || s->per_thread)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (s->capture)
        capture_invalidate(s->capture);
    capture_leave(s);
    stream_destroy(s);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamDestroy(CUstream handle)
{
    return cuStreamDestroy_v2(handle);
}

CUAPI cuStreamSynchronize(CUstream handle)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if ((rc = capture_forbid(s)))
        return drv_leave(rc);
    /* The legacy stream is done when the streams that it would wait for are. */
    for (struct stream *t = s->legacy ? s->ctx->streams : NULL; t && !rc;) {
        if (t == s || t->flags & CU_STREAM_NON_BLOCKING || work_done(t, t->submitted)) {
            t = t->next;
            continue;
        }
        rc = work_wait(t, t->submitted);
        t = s->ctx->streams;
    }
    if (!rc)
        rc = work_wait(s, s->submitted);
    pool_synced(s->ctx->device);
    return drv_leave(rc);
}

CUAPI cuStreamQuery(CUstream handle)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    struct ctx *ctx = s->ctx;
    if ((rc = capture_forbid(s)) || (rc = capture_unsafe(ctx)))
        return drv_leave(rc);
    work_poll();
    bool done = work_done(s, s->submitted);
    for (struct stream *t = s->legacy ? ctx->streams : NULL; t; t = t->next)
        done = done && (t->flags & CU_STREAM_NON_BLOCKING || work_done(t, t->submitted));
    return drv_leave(ctx_error(ctx) ? ctx->error : done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

CUAPI cuStreamGetPriority(CUstream handle, int *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = s->priority;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamGetFlags(CUstream handle, unsigned *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = s->flags;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamGetId(CUstream handle, unsigned long long *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = s->id;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamGetCtx(CUstream handle, CUcontext *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = (CUcontext)s->ctx;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamGetCtx_v2(CUstream handle, CUcontext *ret, void **ret_green)
{
    CUresult rc = cuStreamGetCtx(handle, ret);
    if (!rc && ret_green)
        *ret_green = NULL;
    return rc;
}

CUAPI cuStreamGetDevice(CUstream handle, CUdevice *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!ret)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = s->ctx->ordinal;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    struct event *e = event_get(event);
    if (!e)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (flags & ~1u)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (e->capture_id || s->capture)
        return drv_leave(capture_wait(s, e, flags));
    if (event_pending(e))
        rc = work_wait_event(s, e);
    return drv_leave(rc);
}

/* ---- host functions and memory operations ---- */

CUAPI cuLaunchHostFunc(CUstream handle, CUhostFn fn, void *arg)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!fn)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct work work = {.kind = WORK_HOST, .host = {.fn = fn, .arg = arg}};
    return drv_leave(work_submit(s, &work));
}

CUAPI cuStreamAddCallback(CUstream handle, CUstreamCallback fn, void *arg, unsigned flags)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!fn || flags)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if ((rc = capture_forbid(s)))
        return drv_leave(rc);
    struct work work = {.kind = WORK_HOST,
                        .host = {.callback = fn, .stream = handle, .arg = arg}};
    return drv_leave(work_submit(s, &work));
}

static CUresult memop(CUstream handle, enum work_kind kind, CUdeviceptr addr, uint64_t value,
                      unsigned flags, bool wide)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    if (!addr || addr % (wide ? 8 : 4) || !area_at((uintptr_t)addr))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if ((rc = capture_forbid(s)))
        return drv_leave(rc);
    struct work work = {
        .kind = kind,
        .memop = {.addr = (uintptr_t)addr, .value = value, .flags = flags, .wide = wide}};
    return drv_leave(work_submit(s, &work));
}

CUAPI cuStreamWriteValue32_v2(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned flags)
{
    return memop(s, WORK_WRITE, addr, value, flags, false);
}

CUAPI cuStreamWriteValue64_v2(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned flags)
{
    return memop(s, WORK_WRITE, addr, value, flags, true);
}

CUAPI cuStreamWaitValue32_v2(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned flags)
{
    return memop(s, WORK_WAIT, addr, value, flags, false);
}

CUAPI cuStreamWaitValue64_v2(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned flags)
{
    return memop(s, WORK_WAIT, addr, value, flags, true);
}

CUAPI cuStreamWriteValue32(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned flags)
{
    return memop(s, WORK_WRITE, addr, value, flags, false);
}

CUAPI cuStreamWriteValue64(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned flags)
{
    return memop(s, WORK_WRITE, addr, value, flags, true);
}

CUAPI cuStreamWaitValue32(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned flags)
{
    return memop(s, WORK_WAIT, addr, value, flags, false);
}

CUAPI cuStreamWaitValue64(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned flags)
{
    return memop(s, WORK_WAIT, addr, value, flags, true);
}

/* One element of cuStreamBatchMemOp, as in the public header: 48 bytes. */
struct batch_op {
    int operation; /* 1, 2: wait, write 32; 4, 5: wait, write 64; 3, 6: barriers */
    CUdeviceptr address;
    cuuint64_t value;
    unsigned flags;
    CUdeviceptr alias;
    cuuint64_t pad;
};

CUAPI cuStreamBatchMemOp_v2(CUstream s, unsigned count, struct batch_op *ops, unsigned flags)
{
    CUresult rc = CUDA_SUCCESS;
    if ((count && !ops) || count > 256 || flags)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < count && !rc; i++) {
        const struct batch_op *op = &ops[i];
        bool wide = op->operation >= 4;
        cuuint64_t value = wide ? op->value : (cuuint32_t)op->value;
        if (op->operation == 1 || op->operation == 4)
            rc = memop(s, WORK_WAIT, op->address, value, op->flags, wide);
        else if (op->operation == 2 || op->operation == 5)
            rc = memop(s, WORK_WRITE, op->address, value, op->flags, wide);
        else if (op->operation != 3 && op->operation != 6)
            rc = CUDA_ERROR_INVALID_VALUE;
    }
    return rc;
}

CUAPI cuStreamBatchMemOp(CUstream s, unsigned count, struct batch_op *ops, unsigned flags)
{
    return cuStreamBatchMemOp_v2(s, count, ops, flags);
}

CUAPI cuStreamAttachMemAsync(CUstream handle, CUdeviceptr ptr, size_t length, unsigned flags)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    (void)length;
    (void)flags;
    if (rc)
        return rc;
    return drv_leave(area_at((uintptr_t)ptr) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

/* ---- attributes: kept for the program, without an effect ---- */

enum { ATTRIBUTE_PRIORITY = 8 };

/* Where it is kept; NULL: no attribute of a stream, or its priority. */
static char *attribute_of(struct stream *s, int which)
{
    /* CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, _SYNCHRONIZATION_POLICY, _MEM_SYNC_DOMAIN_MAP and _MEM_SYNC_DOMAIN */
    static const int ids[STREAM_ATTRIBUTES] = {1, 3, 9, 10};
    for (int i = 0; i < STREAM_ATTRIBUTES; i++)
        if (ids[i] == which)
            return s->attribute[i];
    return NULL;
}

CUAPI cuStreamGetAttribute(CUstream handle, int which, CUlaunchAttributeValue *ret)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    const char *kept = attribute_of(s, which);
    if (!ret || (!kept && which != ATTRIBUTE_PRIORITY))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    memset(ret, 0, sizeof(*ret));
    if (kept)
        memcpy(ret, kept, sizeof(*ret));
    else
        ret->priority = s->priority;
    return drv_leave(CUDA_SUCCESS);
}

/* The priority is that of the queue in the model, which is made only once. */
CUAPI cuStreamSetAttribute(CUstream handle, int which, const CUlaunchAttributeValue *value)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(handle, &s);
    if (rc)
        return rc;
    char *kept = attribute_of(s, which);
    if (value && which == ATTRIBUTE_PRIORITY && value->priority == s->priority)
        return drv_leave(CUDA_SUCCESS);
    if (!value || !kept)
        return drv_leave(which == ATTRIBUTE_PRIORITY ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE);
    memcpy(kept, value, sizeof(*value));
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuStreamCopyAttributes(CUstream dst, CUstream src)
{
    struct stream *s;
    CUresult rc = drv_enter_stream(dst, &s);
    if (rc)
        return rc;
    const struct stream *from = stream_get(s->ctx, src);
    if (from && from != s)
        memcpy(s->attribute, from->attribute, sizeof(s->attribute));
    return drv_leave(from ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}
