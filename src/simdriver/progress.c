/* The effects of what the model says is complete.
 *
 * Every operation of a stream is exactly one operation of the model, which knows when it completes.
 * Its effect (bytes are copied, a kernel's CPU code runs, a value is written) is applied afterwards,
 * in the order of completion over all streams of the process, by whoever is there: a thread that
 * waits for work, or the worker thread when nobody does. Only one thread applies at a time, without
 * the lock. So the order of effects is the one that the program asked for, while the times that
 * events report come from the model alone and do not depend on when a thread woke up.
 *
 * A sleeping thread knows from the model the earliest moment at which anything that somebody can see
 * may happen. It never sleeps longer than WORK_REAP_EVERY while there is work, because the work of a
 * process that died would otherwise never leave the model. */
#include <stdlib.h>

#include "simdriver/drv.h"

#define LIGHT_BYTES 65536     /* a smaller copy may be done on the way by a thread that only asks */

/* ---- the model ---- */

/* The model of this device was started anew after a process died in the middle of a change. Tell it
 * again what it does not know any more; a kernel that was running starts from its beginning. */
static void rebuild(struct ctx *ctx, struct sim_gpu *gpu)
{
    struct sim_client_conf conf = {.mps = drv.mps, .sm_pct = ctx->sm_pct};
    fast_ns now = shared_now();
    int client = sim_gpu_client_add(gpu, &conf, now);
    ctx->generation = shared_generation(&drv.shared, ctx->device);
    if (client < 0) {
        ctx->error = CUDA_ERROR_LAUNCH_FAILED;
        return;
    }
    ctx->client = client;
    shared_own(&drv.shared, ctx->device, client, true);
    for (struct stream *s = ctx->streams; s; s = s->next) {
        s->base = s->collected;
        if (s->queue >= 0)
            s->queue = sim_gpu_queue_add(gpu, client, s->priority, now);
    }
    for (struct stream *s = ctx->streams; s; s = s->next) {
        for (struct op *op = s->fresh; op; op = op->next) {
            struct sim_op model = op->model;
            if (op->released || (model.kind == SIM_OP_WAIT &&
                                 (op->other->id != op->other_id ||
                                  op->other->collected >= op->other_index)))
                model.kind = SIM_OP_MARK;
            else if (model.kind == SIM_OP_WAIT)
                model.wait = (__typeof__(model.wait)){op->other->queue,
                                                      op->other_index - op->other->base};
            sim_gpu_submit(gpu, s->queue, &model, now);
        }
    }
}

struct sim_gpu *work_lock_model(struct ctx *ctx)
{
    struct sim_gpu *gpu = shared_lock(&drv.shared, ctx->device);
    if (ctx->generation != shared_generation(&drv.shared, ctx->device))
        rebuild(ctx, gpu);
    return gpu;
}

void work_unlock_model(struct ctx *ctx)
{
    shared_unlock(&drv.shared, ctx->device);
}

/* Reads from the model what is complete. */
static void collect(struct ctx *ctx)
{
    struct sim_gpu *gpu = work_lock_model(ctx);
    fast_ns now = shared_now();
    sim_gpu_advance(gpu, now);
    for (struct stream *s = drv.active; s; s = s->next_active) {
        uint64_t seq;
        if (s->ctx != ctx || !s->fresh)
            continue;
        uint64_t done = sim_gpu_done(gpu, s->queue) + s->base;
        while (s->fresh && s->fresh->index <= done) {
            struct op *op = s->fresh;
            op->at = sim_gpu_done_at(gpu, s->queue, op->index - s->base);
            if (op->at == FAST_NEVER)
                op->at = now;
            op->complete = true;
            s->collected = op->index;
            s->fresh = op->next;
        }
        if (s->fresh && sim_gpu_holding(gpu, s->queue, &seq) && s->fresh->index == seq + s->base)
            s->fresh->holding = true;
    }
    work_unlock_model(ctx);
}

void work_collect(void)
{
    for (struct ctx *ctx = drv.contexts; ctx; ctx = ctx->next)
        collect(ctx);
}

/* When anything that somebody can see may happen next. */
fast_ns work_deadline(void)
{
    fast_ns at = FAST_NEVER, now = shared_now();
    for (struct ctx *ctx = drv.contexts; ctx; ctx = ctx->next) {
        struct sim_gpu *gpu = NULL;
        for (struct stream *s = drv.active; s; s = s->next_active) {
            struct op *op = s->ctx == ctx ? s->fresh : NULL;
            if (op && op->holding && (op->work.kind == WORK_WAIT || op->work.kind == WORK_AWAIT))
                at = at < now + WORK_POLL_EVERY ? at : now + WORK_POLL_EVERY;
            while (op && !op->effect && !op->wanted)
                op = op->next;
            if (!op || op->holding)
                continue;
            gpu = gpu ? gpu : work_lock_model(ctx);
            fast_ns t = sim_gpu_earliest(gpu, s->queue, op->index - s->base);
            at = at < t ? at : t;
        }
        if (gpu)
            work_unlock_model(ctx);
    }
    if (drv.active && at > now + WORK_REAP_EVERY)
        at = now + WORK_REAP_EVERY;
    return at > now ? at : now + FAST_US(1);
}

void work_sleep(fast_ns at)
{
    drv.sleep_until = drv.sleep_until < at ? drv.sleep_until : at;
    if (at == FAST_NEVER) {
        pthread_cond_wait(&drv.cond, &drv.lock);
    } else {
        struct timespec ts = {.tv_sec = at / FAST_S(1), .tv_nsec = at % FAST_S(1)};
        pthread_cond_timedwait(&drv.cond, &drv.lock, &ts);
    }
    drv.sleep_until = FAST_NEVER;
}

/* ---- effects ---- */

void work_op_free(struct op *op)
{
    work_free(&op->work);
    free(op);
}

void work_deactivate(struct stream *s)
{
    struct stream **p = &drv.active;
    while (*p != s)
        p = &(*p)->next_active;
    *p = s->next_active;
    s->active = false;
    if (s->dying)
        stream_reap(s);
}

/* The operation at the head of its list that completed first, NULL if none is complete. An operation
 * was submitted after all that it depends on, hence the order of equal times. */
static struct op *pick(void)
{
    struct op *best = NULL;
    for (struct stream *s = drv.active; s; s = s->next_active) {
        struct op *op = s->head;
        if (!op->complete)
            continue;
        if (!best || op->at < best->at || (op->at == best->at && op->number < best->number))
            best = op;
    }
    return best;
}

static bool is_light(const struct op *op)
{
    const struct work *w = &op->work;
    if (w->kind == WORK_COPY)
        return w->copy.width * w->copy.height * w->copy.depth <= LIGHT_BYTES;
    if (w->kind == WORK_MEMSET)
        return w->memset.width * w->memset.height * w->memset.size <= LIGHT_BYTES;
    return w->kind != WORK_KERNEL || !w->kernel.fn->kernel || !w->kernel.fn->kernel->run;
}

static void apply_record(const struct op *op)
{
    struct event *e = op->work.event;
    if (op->stream->channel.id)
        shared_channel_reach(&drv.shared, &op->stream->channel, op->index);
    if (e->handle.type != H_EVENT || e->record != op->record)
        return;
    e->done = true;
    e->at = op->at;
}

static bool copy_valid(const struct work_copy *c)
{
    size_t rows = c->height, slices = c->depth;
    for (size_t z = 0; z < slices; z++) {
        for (size_t y = 0; y < rows; y++) {
            uintptr_t dst = c->dst + z * c->dst_slice + y * c->dst_pitch;
            uintptr_t src = c->src + z * c->src_slice + y * c->src_pitch;
            if ((c->dst_device && !area_covers(dst, c->width, true)) ||
                (c->src_device && !area_covers(src, c->width, false)))
                return false;
        }
    }
    return true;
}

/* What can be checked before anything is touched. Under the lock. */
static bool addresses_valid(const struct work *w)
{
    if (w->kind == WORK_COPY)
        return copy_valid(&w->copy);
    if (w->kind == WORK_WRITE)
        return area_covers(w->memop.addr, w->memop.wide ? 8 : 4, true);
    for (size_t y = 0; w->kind == WORK_MEMSET && y < w->memset.height; y++)
        if (!area_covers(w->memset.dst + y * w->memset.pitch, w->memset.width * w->memset.size, true))
            return false;
    return true;
}

static void apply(struct op *op)
{
    struct stream *s = op->stream;
    struct ctx *ctx = s->ctx;
    CUresult rc = CUDA_SUCCESS;
    drv.applying = true;
    if (op->work.kind == WORK_RECORD) {
        apply_record(op);
    } else if (op->work.kind == WORK_FREE) {
        pool_return(op->work.free.ptr, op->work.free.serial);
    } else if (op->effect && !op->holding && !ctx_error(ctx)) {
        if (addresses_valid(&op->work)) {
            pthread_mutex_unlock(&drv.lock);
            rc = work_apply(&op->work);
            pthread_mutex_lock(&drv.lock);
        } else {
            rc = CUDA_ERROR_ILLEGAL_ADDRESS;
        }
    }
    if (rc)
        ctx_fail(ctx, rc);
    drv.applying = false;
    s->head = op->next;
    if (!s->head)
        s->tail = NULL;
    s->applied = op->index;
    s->effects -= op->effect;
    drv.effects -= op->effect;
    work_op_free(op);
    if (!s->head)
        work_deactivate(s);
    if (drv.waiters)
        pthread_cond_broadcast(&drv.cond);
}

void work_release(struct op *op)
{
    struct stream *s = op->stream;
    struct sim_gpu *gpu = work_lock_model(s->ctx);
    op->released = true;
    sim_gpu_release(gpu, s->queue, op->index - s->base, shared_now());
    work_unlock_model(s->ctx);
}

static void hand_over(struct op *op)
{
    op->handed = true;
    if (drv.host_tail)
        drv.host_tail->next_host = op;
    else
        drv.host_head = op;
    drv.host_tail = op;
    pthread_cond_signal(&drv.hosted);
}

/* A stream that is gone has done everything. */
static bool depended(const struct op *op)
{
    return op->other->id != op->other_id || work_done(op->other, op->other_index);
}

/* Operations that the model holds for us. They may only go on when all before them is applied. */
static bool tend_holds(void)
{
    bool any = false;
    for (struct stream *s = drv.active; s; s = s->next_active) {
        struct op *op = s->head;
        if (!op->holding || op->released || op->complete)
            continue;
        if (op->work.kind == WORK_HOST) {
            if (!op->handed)
                hand_over(op);
        } else if (ctx_error(s->ctx) ||
                   (op->work.kind == WORK_WAIT && work_memop_true(&op->work.memop)) ||
                   (op->work.kind == WORK_AWAIT &&
                    shared_record_done(&drv.shared, &op->work.await)) ||
                   (op->work.kind == WORK_DEPEND && depended(op))) {
            work_release(op);
            any = true;
        }
    }
    return any;
}

/* Brings everything up to now and applies one operation. False: there was nothing to do. */
bool work_step(bool only_light)
{
    struct op *op = pick();
    if (!op) {
        work_collect();
        while (tend_holds())
            work_collect();
        op = pick();
    }
    if (!op || (only_light && !is_light(op)))
        return false;
    apply(op);
    return true;
}

void work_poll(void)
{
    if (drv.applying)
        return;
    work_collect();
    while (!drv.applying && work_step(true))
        ;
}

