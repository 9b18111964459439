#include "hook/gate.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Contexts, their streams, and how the end of work in a stream is seen.
 *
 * A marker is a 32-bit write into a page of the host, enqueued in the stream behind the work
 * (cuStreamWriteValue32): progress is then read with a plain load, also by threads that have no
 * context. The page is ours and only registered with the driver, so that it outlives the context: a
 * thread may read it at any time. Where that does not work there is one event per stream.
 *
 * The value of a marker is |left|, the work whose driver call had returned when the marker was
 * enqueued: that and no more is known to be in front of it, however many threads share the stream. */

#define PAGE 4096
#define KEY_ENDED 3 /* no handle: 1 and 2 are the default streams, the others are addresses */
#define SLOT(i) ((i) * (PAGE / sizeof(uint32_t) / FAST_HOOK_STREAMS))

/* ---- contexts ---- */

static void set_up_marks(struct fast_ctx *c)
{
    const struct fast_driver *d = &fast_hook.driver;
    if (!c->slots) {
        /* Shared, so that a fork does not move the parent to a copy of the page. */
        void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        c->slots = page == MAP_FAILED ? NULL : page;
    }
    bool write = c->slots && d->stream_write[0] && d->host_register && d->host_device_pointer;
    if (write) {
        CUresult r = d->host_register(c->slots, PAGE,
                                      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
        write = (r == CUDA_SUCCESS || r == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED) &&
                d->host_device_pointer(&c->slots_at, c->slots, 0) == CUDA_SUCCESS;
    }
    bool event = d->event_create && d->event_record[0] && d->event_query;
    c->mark = write ? FAST_MARK_WRITE : event ? FAST_MARK_EVENT : FAST_MARK_NONE;
}

/* Another thread sets the context up, in the driver. Passing on now would leave work ungated. */
static struct fast_ctx *wait_ready(struct fast_ctx *c, CUcontext ctx)
{
    const struct timespec pause = {.tv_nsec = 20000};
    for (int i = 0; !atomic_load(&c->ready) && atomic_load(&c->ctx) == ctx && i < 50000; i++)
        syscall(SYS_nanosleep, &pause, NULL);
    return atomic_load(&c->ready) && atomic_load(&c->ctx) == ctx ? c : NULL;
}

static struct fast_ctx *claim(CUcontext ctx, int gpu)
{
    for (int i = 0; i < FAST_HOOK_CTXS; i++) {
        struct fast_ctx *c = &fast_hook.ctxs[i];
        CUcontext none = NULL;
        if (!atomic_compare_exchange_strong(&c->ctx, &none, ctx)) {
            if (none == ctx)
                return wait_ready(c, ctx); /* another thread was faster */
            continue;
        }
        c->gpu = gpu;
        set_up_marks(c);
        atomic_store(&c->ready, 1);
        fast_hook_log("context gpu=%d markers=%u", gpu, atomic_load(&c->mark));
        return c;
    }
    return NULL;
}

static struct fast_ctx *find_or_claim(CUcontext ctx)
{
    for (int i = 0; i < FAST_HOOK_CTXS; i++)
        if (atomic_load(&fast_hook.ctxs[i].ctx) == ctx)
            return wait_ready(&fast_hook.ctxs[i], ctx);
    /* Registering memory is not allowed while another thread captures. */
    CUdevice device = -1;
    if (atomic_load(&fast_hook.captures) || !fast_hook.driver.ctx_get_device ||
        fast_hook.driver.ctx_get_device(&device) != CUDA_SUCCESS)
        return NULL;
    if (device < 0 || device >= FAST_PAGE_GPUS)
        return NULL;
    return claim(ctx, device);
}

struct fast_ctx *fast_ctx_current(void)
{
    struct fast_thread *t = &fast_thread;
    uint32_t epoch = atomic_load_explicit(&fast_hook.ctx_epoch, memory_order_acquire);
    if (t->ctx && t->ctx_epoch == epoch)
        return t->ctx;
    CUcontext ctx = NULL;
    t->ctx = NULL;
    t->stream = NULL;
    memset(t->dirty, 0, sizeof(t->dirty));
    if (!fast_hook_resolve_all(false) || !fast_hook.driver.ctx_get_current ||
        fast_hook.driver.ctx_get_current(&ctx) != CUDA_SUCCESS || !ctx)
        return NULL;
    t->ctx_epoch = epoch;
    t->ctx = find_or_claim(ctx);
    return t->ctx;
}

/* The driver waits for or throws away all work of the context, so all of it is complete. */
static void forget(struct fast_ctx *c)
{
    atomic_store(&c->ready, 0);
    for (int spins = 0; atomic_load(&c->users) && spins < 1000000; spins++)
        ;
    for (uint32_t i = 0; i < FAST_HOOK_STREAMS; i++) {
        struct fast_stream *s = &c->streams[i];
        atomic_store(&s->event, NULL);
        atomic_store(&s->synced, fast_stream_left(s));
        atomic_store(&s->marked, fast_stream_left(s));
        if (c->slots)
            atomic_store(&c->slots[SLOT(i)], fast_stream_left(s));
        atomic_store(&s->key, 0);
        atomic_store(&s->owner, 0);
    }
    atomic_store(&c->high, 0);
    atomic_store(&c->broken, 0);
    atomic_fetch_add(&fast_hook.ctx_epoch, 1);
    atomic_store(&c->ctx, NULL);
}

void fast_ctx_forget(CUcontext ctx)
{
    for (int i = 0; ctx && i < FAST_HOOK_CTXS; i++)
        if (atomic_load(&fast_hook.ctxs[i].ctx) == ctx)
            forget(&fast_hook.ctxs[i]);
}

/* ---- streams ---- */

static void raise_high(struct fast_ctx *c, uint32_t high)
{
    uint32_t was = atomic_load(&c->high);
    while (was < high && !atomic_compare_exchange_weak(&c->high, &was, high))
        ;
}

/* The place of |key|, else a free one (a stream that ended and whose work is complete), else the
 * last place. Two threads that come at once may make two places for one stream: both are watched. */
static struct fast_stream *look_up(struct fast_ctx *c, uintptr_t key)
{
    uint32_t home = (uint32_t)(key >> 4 ^ key >> 12) % (FAST_HOOK_STREAMS - 1);
    struct fast_stream *ended = NULL, *s = NULL;
    uintptr_t was = 0;
    for (uint32_t n = 0; n < FAST_HOOK_STREAMS - 1; n++) {
        s = &c->streams[(home + n) % (FAST_HOOK_STREAMS - 1)];
        was = atomic_load(&s->key);
        if (was == key)
            return s;
        if (was == KEY_ENDED && !ended && !fast_stream_pending(c, s))
            ended = s;
        if (was == 0)
            break;
    }
    uintptr_t expect = KEY_ENDED;
    if (ended && atomic_compare_exchange_strong(&ended->key, &expect, key)) {
        atomic_store(&ended->owner, 0);
        return ended;
    }
    if (was != 0 || (!atomic_compare_exchange_strong(&s->key, &was, key) && was != key))
        s = &c->streams[FAST_HOOK_STREAMS - 1];
    raise_high(c, (uint32_t)(s - c->streams) + 1);
    return s;
}

struct fast_stream *fast_stream_find(struct fast_ctx *ctx, CUstream handle, bool per_thread)
{
    struct fast_thread *t = &fast_thread;
    uintptr_t key = fast_stream_key(handle, per_thread);
    if (t->stream && t->stream_key == key &&
        atomic_load_explicit(&t->stream->key, memory_order_relaxed) == key)
        return t->stream;
    t->stream = look_up(ctx, key);
    t->stream_key = key;
    fast_owner_claim(&t->stream->owner);
    return t->stream;
}

void fast_stream_end(struct fast_ctx *ctx, CUstream handle)
{
    uintptr_t key = (uintptr_t)handle;
    if (key <= KEY_ENDED)
        return;
    struct fast_stream *s = fast_stream_find(ctx, handle, false);
    fast_stream_mark(ctx, s, handle, false);
    fast_thread.stream = NULL;
    atomic_compare_exchange_strong(&s->key, &key, KEY_ENDED);
}

/* Streams that share the last place have no order among them, so no marker tells anything. */
static bool markable(const struct fast_ctx *c, const struct fast_stream *s)
{
    return s != &c->streams[FAST_HOOK_STREAMS - 1] &&
           atomic_load_explicit(&c->mark, memory_order_relaxed) != FAST_MARK_NONE;
}

static CUresult mark_event(struct fast_stream *s, CUstream handle, bool per_thread, uint32_t left)
{
    const struct fast_driver *d = &fast_hook.driver;
    CUevent event = atomic_load(&s->event);
    CUresult r = CUDA_SUCCESS;
    if (!event) {
        r = d->event_create(&event, CU_EVENT_DISABLE_TIMING);
        if (r == CUDA_SUCCESS)
            atomic_store(&s->event, event);
    } else if (atomic_load(&s->synced) != atomic_load(&s->event_at)) {
        r = d->event_query(event);
        if (r != CUDA_SUCCESS)
            return r; /* the marker before this one is not reached yet */
        fast_stream_synced(s, atomic_load(&s->event_at));
    }
    if (r == CUDA_SUCCESS)
        r = d->event_record[per_thread && d->event_record[1]](event, handle);
    if (r == CUDA_SUCCESS)
        atomic_store(&s->event_at, left);
    return r;
}

void fast_stream_mark(struct fast_ctx *ctx, struct fast_stream *stream, CUstream handle,
                      bool per_thread)
{
    const struct fast_driver *d = &fast_hook.driver;
    if (!markable(ctx, stream) || atomic_load(&ctx->broken) ||
        atomic_exchange(&stream->marking, 1))
        return;
    uint32_t left = fast_stream_left(stream);
    uint32_t mode = atomic_load(&ctx->mark);
    CUresult r = CUDA_SUCCESS;
    if (left == atomic_load(&stream->marked))
        r = CUDA_ERROR_NOT_READY;
    else if (mode == FAST_MARK_EVENT)
        r = mark_event(stream, handle, per_thread, left);
    else
        r = d->stream_write[per_thread && d->stream_write[1]](
            handle, ctx->slots_at + SLOT((size_t)(stream - ctx->streams)) * sizeof(uint32_t), left,
            CU_STREAM_WRITE_VALUE_DEFAULT);
    if (r == CUDA_SUCCESS)
        atomic_store(&stream->marked, left);
    else if (r == CUDA_ERROR_NOT_SUPPORTED && mode == FAST_MARK_WRITE)
        atomic_store(&ctx->mark, d->event_create ? FAST_MARK_EVENT : FAST_MARK_NONE);
    atomic_store(&stream->tail_ns, 0);
    atomic_store(&stream->marking, 0);
}

static uint32_t behind(uint32_t left, uint32_t done)
{
    return (int32_t)(left - done) > 0 ? left - done : 0;
}

/* |done| never goes back. */
void fast_stream_synced(struct fast_stream *stream, uint32_t left)
{
    uint32_t was = atomic_load(&stream->synced);
    while ((int32_t)(left - was) > 0 &&
           !atomic_compare_exchange_weak(&stream->synced, &was, left))
        ;
}

/* The event is only asked while it can tell something new. */
static void ask_event(struct fast_ctx *ctx, struct fast_stream *s)
{
    uint32_t at = atomic_load(&s->event_at);
    if (!behind(at, atomic_load(&s->synced)))
        return;
    atomic_fetch_add(&ctx->users, 1);
    CUevent event = atomic_load(&s->event);
    if (atomic_load(&ctx->ready) && event && !atomic_load(&fast_hook.captures) &&
        fast_hook.driver.event_query(event) == CUDA_SUCCESS)
        fast_stream_synced(s, at);
    atomic_fetch_sub(&ctx->users, 1);
}

uint32_t fast_stream_done(struct fast_ctx *ctx, struct fast_stream *stream)
{
    uint32_t left = fast_stream_left(stream);
    if (atomic_load(&ctx->broken))
        return left;
    if (atomic_load(&ctx->mark) == FAST_MARK_EVENT)
        ask_event(ctx, stream);
    uint32_t done = atomic_load(&stream->synced);
    if (ctx->slots) {
        uint32_t slot = atomic_load(&ctx->slots[SLOT((size_t)(stream - ctx->streams))]);
        done = (int32_t)(slot - done) > 0 ? slot : done;
    }
    return done;
}

uint32_t fast_stream_pending(struct fast_ctx *ctx, struct fast_stream *stream)
{
    uint32_t done = fast_stream_done(ctx, stream);
    return behind(atomic_load(&stream->entered), done);
}
