/* Submission to the streams of this process, and waiting for them. Every operation of a stream is
 * exactly one operation of the model; progress.c applies its effect. */
#include <stdlib.h>

#include "simdriver/drv.h"

#define BACKLOG 1024 /* operations of a stream that are not applied yet */

/* ---- waiting ---- */

bool work_done(const struct stream *s, uint64_t index)
{
    return s->applied >= index;
}

static void want(struct stream *s, uint64_t index)
{
    for (struct op *op = s->head; op && op->index <= index; op = op->next)
        if (op->index == index)
            op->wanted = true;
}

static bool reached(const struct stream *s, uint64_t index, bool in_model)
{
    return in_model ? s->collected >= index : s->applied >= index;
}

/* Waits until operation |index| is complete in the model, or until it is applied. */
static CUresult wait_for(struct stream *s, uint64_t index, bool in_model)
{
    struct ctx *ctx = s->ctx;
    fast_ns reap = shared_now() + WORK_REAP_EVERY;
    want(s, index);
    drv.waiters++;
    while (!reached(s, index, in_model) && !ctx_error(ctx)) {
        if (drv.applying && !in_model) {
            pthread_cond_wait(&drv.cond, &drv.lock);
            continue;
        }
        if (drv.applying)
            work_collect();
        else if (work_step(false))
            continue;
        if (reached(s, index, in_model))
            break;
        work_sleep(work_deadline());
        fast_ns now = shared_now();
        if (now >= reap) {
            shared_reap(&drv.shared);
            reap = now + WORK_REAP_EVERY;
        }
    }
    drv.waiters--;
    if (!drv.waiters && drv.effects)
        pthread_cond_signal(&drv.work);
    return ctx->error;
}

CUresult work_wait(struct stream *s, uint64_t index)
{
    if (ctx_error(s->ctx))
        return s->ctx->error;
    return work_done(s, index) ? CUDA_SUCCESS : wait_for(s, index, false);
}

/* ---- submission ---- */

static CUresult open_queue(struct stream *s)
{
    if (s->queue >= 0)
        return CUDA_SUCCESS;
    struct sim_gpu *gpu = work_lock_model(s->ctx);
    s->queue = sim_gpu_queue_add(gpu, s->ctx->client, s->priority, shared_now());
    work_unlock_model(s->ctx);
    if (s->queue < 0 && shared_reap(&drv.shared))
        return open_queue(s);
    return s->queue < 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

static void append(struct stream *s, struct op *op)
{
    if (s->tail)
        s->tail->next = op;
    else
        s->head = op;
    s->tail = op;
    if (!s->fresh)
        s->fresh = op;
    s->effects += op->effect;
    drv.effects += op->effect;
    if (!s->active) {
        s->active = true;
        s->next_active = drv.active;
        drv.active = s;
    }
}

/* Wakes a sleeper if |op| may be visible before it would wake by itself. */
static void rouse(struct stream *s, struct op *op)
{
    if (!op->effect)
        return;
    if (drv.idle && !drv.waiters) {
        pthread_cond_signal(&drv.work);
        return;
    }
    if (s->effects > 1)
        return;
    struct sim_gpu *gpu = work_lock_model(s->ctx);
    fast_ns at = sim_gpu_earliest(gpu, s->queue, op->index - s->base);
    work_unlock_model(s->ctx);
    if (at < drv.sleep_until || op->model.kind == SIM_OP_HOLD)
        pthread_cond_broadcast(&drv.cond);
}

static CUresult put(struct stream *s, struct op *op)
{
    CUresult rc = open_queue(s);
    if (!rc && op->effect && work_start())
        rc = CUDA_ERROR_OPERATING_SYSTEM;
    while (!rc) {
        if (s->submitted - s->applied >= BACKLOG)
            rc = wait_for(s, s->submitted - BACKLOG / 2, false);
        if (!rc && s->submitted - s->collected >= SIM_RING - 1)
            rc = wait_for(s, s->submitted - SIM_RING / 2, true);
        if (rc)
            break;
        struct sim_gpu *gpu = work_lock_model(s->ctx);
        bool sent = sim_gpu_submit(gpu, s->queue, &op->model, shared_now()) != 0;
        work_unlock_model(s->ctx);
        if (sent)
            break;
        rc = wait_for(s, s->submitted - SIM_RING / 2, true);
    }
    if (rc) {
        work_op_free(op);
        return rc;
    }
    op->stream = s;
    op->number = ++drv.numbers;
    op->index = ++s->submitted;
    append(s, op);
    rouse(s, op);
    return CUDA_SUCCESS;
}

CUresult work_depend(struct stream *s, struct stream *other, uint64_t index)
{
    if (s == other || work_done(other, index))
        return CUDA_SUCCESS;
    struct op *op = calloc(1, sizeof(*op));
    if (!op)
        return CUDA_ERROR_OUT_OF_MEMORY;
    op->work.kind = WORK_DEPEND;
    op->other = other;
    op->other_index = index;
    op->other_id = other->id;
    if (other->ctx->device == s->ctx->device) {
        op->model.kind = SIM_OP_WAIT;
        op->model.wait.queue = other->queue;
        op->model.wait.seq = index - other->base;
        if (index <= other->base)
            op->model.kind = SIM_OP_MARK;
    } else {
        /* Another device has another model: this process carries the news. */
        op->model.kind = SIM_OP_HOLD;
        op->effect = true;
        want(other, index);
    }
    return put(s, op);
}

CUresult work_await(struct stream *s, const struct shared_record *record)
{
    struct work work = {.kind = WORK_AWAIT, .await = *record};
    return work_submit_now(s, &work);
}

/* The legacy default stream waits for the blocking streams of its context, and they for it. */
static CUresult order_with_legacy(struct stream *s)
{
    struct stream *legacy = s->ctx->legacy;
    CUresult rc = CUDA_SUCCESS;
    if (s->flags & CU_STREAM_NON_BLOCKING)
        return rc;
    if (s != legacy) {
        if (legacy && legacy->submitted > s->seen_legacy) {
            s->seen_legacy = legacy->submitted;
            rc = work_depend(s, legacy, legacy->submitted);
        }
        return rc;
    }
    for (struct stream *t = s->ctx->streams; t && !rc; t = t->next) {
        if (t == s || (t->flags & CU_STREAM_NON_BLOCKING) || t->submitted <= t->seen_by_legacy)
            continue;
        t->seen_by_legacy = t->submitted;
        rc = work_depend(s, t, t->submitted);
    }
    return rc;
}

static void model_of(struct op *op)
{
    const struct work *w = &op->work;
    struct sim_op *m = &op->model;
    m->kind = SIM_OP_MARK;
    switch (w->kind) {
    case WORK_KERNEL:
        m->kind = SIM_OP_KERNEL;
        m->kernel = w->kernel.model;
        op->effect = w->kernel.fn->kernel && w->kernel.fn->kernel->run;
        break;
    case WORK_COPY:
        m->kind = SIM_OP_COPY;
        m->copy.bytes = w->copy.width * w->copy.height * w->copy.depth;
        m->copy.dir = w->copy.dst_device ? w->copy.src_device ? SIM_COPY_DTOD : SIM_COPY_HTOD
                                         : SIM_COPY_DTOH;
        op->effect = true;
        break;
    case WORK_MEMSET:
        m->kind = SIM_OP_COPY;
        m->copy.bytes = w->memset.width * w->memset.height * w->memset.size / 2;
        m->copy.dir = SIM_COPY_DTOD;
        op->effect = true;
        break;
    case WORK_WRITE:
        op->effect = true;
        break;
    case WORK_HOST:
    case WORK_WAIT:
    case WORK_AWAIT:
        m->kind = SIM_OP_HOLD;
        op->effect = true;
        break;
    case WORK_RECORD:
        op->effect = w->event->shared.key != 0; /* other processes wait for our word */
        break;
    case WORK_EMPTY:
    case WORK_ALLOC:
    case WORK_FREE:
    case WORK_DEPEND:
        break;
    }
}

CUresult work_submit_now(struct stream *s, struct work *work)
{
    struct op *op = calloc(1, sizeof(*op));
    CUresult rc = op ? ctx_error(s->ctx) : CUDA_ERROR_OUT_OF_MEMORY;
    if (!rc)
        rc = order_with_legacy(s);
    if (rc) {
        work_free(work);
        free(op);
        return rc;
    }
    op->work = *work;
    model_of(op);
    if (work->kind == WORK_RECORD)
        op->record = work->event->record;
    return put(s, op);
}

CUresult work_submit(struct stream *s, struct work *work)
{
    if (s->capture)
        return capture_add(s, work);
    CUresult rc = capture_legacy(s);
    if (!rc)
        return work_submit_now(s, work);
    work_free(work);
    return rc;
}

static bool with_host(const struct stream *s)
{
    for (const struct op *op = s->head; op; op = op->next)
        if (op->handed && !op->returned)
            return true;
    return false;
}

void work_drop(struct stream *s)
{
    drv.waiters++;
    while (drv.applying || with_host(s))
        pthread_cond_wait(&drv.cond, &drv.lock);
    drv.waiters--;
    for (struct op *op = s->head, *next; op; op = next) {
        next = op->next;
        drv.effects -= op->effect;
        work_op_free(op);
    }
    s->head = s->tail = s->fresh = NULL;
    s->applied = s->collected = s->submitted;
    s->effects = 0;
    if (s->active)
        work_deactivate(s);
}
