#include "hook/gate.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Admission of work: a token of the node, and a bound on the work in flight.
 *
 * A thread first adds its work to |entered| and then looks at the token; the hook thread first sees
 * that the token is gone and then looks at |entered| (all sequentially consistent). So either the
 * thread sees that the token is gone, or the hook thread sees its work and waits for it. */

#define COPY_BYTES_PER_US 8000    /* about a PCIe 3 x16 link; only bounds the work in flight */
#define BOUND_WAIT_NS FAST_S(2)   /* no marker came back for so long: let the launch through */
#define MARK_PARTS 4              /* markers in what may be in flight: room is seen at one, before the last */
#define TOKEN_WAIT_NS FAST_MS(50) /* looks whether the node is still there this often */

/* What is estimated to end so short before a token does may well end after it: kernels do not all begin
 * at once, and none is as long as the mean. */
#define END_MARGIN_NS FAST_US(200)

/* A look for room and a launch take so long, so that a GPU with one long kernel in flight would be idle
 * before the next. */
#define LEAD_NS FAST_US(200)

static void sleep_for(fast_ns ns)
{
    struct timespec ts = {.tv_sec = ns / FAST_S(1), .tv_nsec = ns % FAST_S(1)};
    syscall(SYS_nanosleep, &ts, NULL); /* link.c says why not by the C library */
}

bool fast_gate_is_pdl(const CUlaunchConfig *config)
{
    for (unsigned i = 0; config && i < config->numAttrs; i++)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION &&
            config->attrs[i].value.programmaticStreamSerializationAllowed)
            return true;
    return false;
}

uint64_t fast_gate_sum(const size_t *sizes, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; sizes && i < count; i++)
        sum += sizes[i];
    return sum;
}

/* While any stream of the process captures, ask for this one: capture spreads through events. */
bool fast_gate_capturing(CUstream stream, bool per_thread)
{
    if (!atomic_load_explicit(&fast_hook.captures, memory_order_relaxed))
        return false;
    const struct fast_driver *d = &fast_hook.driver;
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (!d->stream_is_capturing[0])
        return true;
    CUresult r = d->stream_is_capturing[per_thread && d->stream_is_capturing[1]](stream, &status);
    return r != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

/* ---- tokens ---- */

/* Somebody looks at a token that is new to us. Who changes the session forgets |held| afterwards: so
 * either that comes after this, or the change is seen here, and a token of a node that is gone is
 * not taken for one of the new node's. */
static bool adopt(const struct fast_session *session, struct fast_gpu *g, uint64_t token)
{
    if (atomic_exchange(&g->held, token) == token)
        return true;
    if (atomic_load(&fast_hook.session) != session) {
        atomic_compare_exchange_strong(&g->held, &token, 0);
        return false;
    }
    atomic_store(&g->want_sent, 0);
    atomic_store(&g->idle_since, fast_hook_now());
    fast_hook_kick();
    return true;
}

/* True when work may be submitted now. */
static inline bool have_token(const struct fast_session *session, struct fast_gpu *g, uint32_t gpu)
{
    const struct fast_limits_page *limits = session->limits;
    uint64_t token = atomic_load(&limits->gpu[gpu].token);
    if (token && token == atomic_load_explicit(&g->held, memory_order_relaxed) &&
        token != atomic_load(&g->spent))
        return true;
    if (!atomic_load(&limits->gated))
        return true;
    if (!token || token == atomic_load(&g->spent))
        return false;
    return adopt(session, g, token);
}

/* Waits a while for a change of the token word. */
static void wait_token(struct fast_session *session, uint32_t gpu)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    const struct fast_grant *grant = &session->limits->gpu[gpu];
    fast_ns start = fast_hook_now();
    struct timespec ts = {.tv_nsec = TOKEN_WAIT_NS};
    atomic_fetch_add(&g->waiters, 1);
    uint32_t seen = atomic_load(&grant->wake);
    if (!have_token(session, g, gpu)) {
        /* While an old token is not given back yet, the hook thread asks for the new one with it. */
        if (!atomic_load(&g->held) && !atomic_exchange(&g->want_sent, 1) && !fast_link_want(gpu, false))
            atomic_store(&g->want_sent, 0);
        fast_hook_kick();
        syscall(SYS_futex, &grant->wake, FUTEX_WAIT, seen, &ts, NULL, 0);
    }
    atomic_fetch_sub(&g->waiters, 1);
    atomic_fetch_add(&session->counters->gpu[gpu].wait_ns, fast_hook_now() - start);
}

/* ---- the bound on work in flight ---- */

static inline bool in_bound(const struct fast_limits_page *limits, struct fast_gpu *g,
                            uint32_t units, uint32_t cost)
{
    int64_t streams = atomic_load_explicit(&g->streams, memory_order_relaxed);
    int64_t bound = atomic_load_explicit(&limits->inflight_ns, memory_order_relaxed);
    return units <= cost || FAST_US(units) * (streams ? streams : 1) <= bound;
}

/* Towards the end of a token that others wait for, no more is submitted than is estimated to be
 * complete by then; a kernel behind which nothing waits is always let in, however long it is. */
static bool before_end(const struct fast_limits_page *limits, struct fast_gpu *g, uint32_t gpu,
                       uint32_t units, uint32_t cost)
{
    if (units <= cost || !atomic_load_explicit(&g->tight, memory_order_relaxed))
        return true;
    int64_t streams = atomic_load_explicit(&g->streams, memory_order_relaxed);
    fast_ns until = atomic_load_explicit(&limits->gpu[gpu].until_ns, memory_order_relaxed);
    return fast_hook_now() + FAST_US(units) * (streams ? streams : 1) + END_MARGIN_NS <= until;
}

/* True when the |units| in flight are estimated to end within LEAD_NS: the next is let in though it is beyond
 * the bound. Once until something more is |done|, or a bad estimate would let in any number. |waited|: how
 * long they have had the GPU at least. */
static bool ends_soon(struct fast_stream *s, struct fast_gpu *g, uint32_t units, uint32_t done, fast_ns waited)
{
    int64_t streams = atomic_load_explicit(&g->streams, memory_order_relaxed);
    return FAST_US(units) * (streams ? streams : 1) <= waited + LEAD_NS && atomic_exchange(&s->led, ~done) != ~done;
}

/* A launch that waits for room. */
struct room {
    fast_ns since; /* 0: it does not wait */
    fast_ns moved; /* since when no more than |done| is complete */
    uint32_t done;
};

/* True when the stream has room for the work, which is in |entered| already. */
static bool has_room(struct fast_session *session, struct fast_gate_op *op, const struct room *room)
{
    struct fast_stream *s = op->stream;
    struct fast_gpu *g = &fast_hook.gpus[op->ctx->gpu];
    uint32_t units = atomic_load_explicit(&s->entered, memory_order_relaxed) -
                     atomic_load_explicit(&s->synced, memory_order_relaxed);
    uint32_t gpu = (uint32_t)op->ctx->gpu;
    if (in_bound(session->limits, g, units, op->cost) &&
        before_end(session->limits, g, gpu, units, op->cost))
        return true;
    uint32_t done = fast_stream_done(op->ctx, s);
    fast_stream_synced(s, done);
    units = atomic_load(&s->entered) - done;
    if (!before_end(session->limits, g, gpu, units, op->cost))
        return false;
    if (in_bound(session->limits, g, units, op->cost))
        return true;
    fast_ns waited = room->since && room->done == done ? fast_hook_now() - room->moved : 0;
    return ends_soon(s, g, units - op->cost, done, waited);
}

/* Room comes back with the markers; nothing tells when. A look may show that the work is shorter
 * than was thought. */
static void wait_room(struct fast_gate_op *op, struct room *room)
{
    uint32_t done = fast_stream_done(op->ctx, op->stream);
    fast_ns now = fast_hook_now();
    if (!room->since || room->done != done)
        room->moved = now;
    room->since = room->since ? room->since : now;
    room->done = done;
    fast_stream_mark(op->ctx, op->stream, op->handle, op->per_thread);
    sleep_for(FAST_US(20));
    fast_gpu_settle((uint32_t)op->ctx->gpu, false, false);
}

/* ---- enter and leave ---- */

/* Without a node: open passes, closed waits until there is one. */
static struct fast_session *find_session(void)
{
    struct fast_session *session;
    while (!(session = atomic_load_explicit(&fast_hook.session, memory_order_acquire)) &&
           atomic_load(&fast_hook.mode) == FAST_MODE_CLOSED)
        sleep_for(FAST_MS(10));
    return session;
}

static bool waited_long(fast_ns since)
{
    return since && fast_hook_now() - since > BOUND_WAIT_NS;
}

/* False: the node went away meanwhile. */
static bool admit(struct fast_session *session, struct fast_gate_op *op)
{
    uint32_t gpu = (uint32_t)op->ctx->gpu;
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    struct room room = {0};
    for (;;) {
        atomic_fetch_add(&op->stream->entered, op->cost);
        bool token = have_token(session, g, gpu);
        if (token && (has_room(session, op, &room) || waited_long(room.since)))
            break;
        atomic_fetch_sub(&op->stream->entered, op->cost);
        if (token) {
            wait_room(op, &room);
        } else {
            fast_gate_flush();
            wait_token(session, gpu);
        }
        if (atomic_load(&fast_hook.session) != session)
            return false;
    }
    if (!atomic_load_explicit(&g->active, memory_order_relaxed))
        fast_gpu_begin(gpu);
    return true;
}

static void fill_cost(struct fast_gate_op *op, uint32_t gpu)
{
    uint64_t us = op->arg / COPY_BYTES_PER_US;
    if (op->kind == FAST_GATE_KERNEL) {
        op->cost = fast_kernel_cost(gpu);
        op->pdl = op->arg != 0;
    } else if (op->kind == FAST_GATE_GRAPH) {
        op->cost = fast_graph_cost(op->arg, gpu);
    } else {
        op->cost = us > 1000000 ? 1000 : (uint32_t)us + 1;
    }
}

/* A kernel under a token that this process holds, in the stream that this thread used last, with room
 * in it. One atomic read-modify-write, which is also the fence between |entered| and the token. False:
 * nothing has changed, and fast_gate_enter() looks at everything. */
static inline bool enter_quickly(struct fast_gate_op *op, CUstream stream, bool per_thread,
                                 uint64_t arg)
{
    struct fast_thread *t = &fast_thread;
    struct fast_session *session = atomic_load_explicit(&fast_hook.session, memory_order_acquire);
    struct fast_ctx *ctx = t->ctx;
    struct fast_stream *s = t->stream;
    uintptr_t key = fast_stream_key(stream, per_thread);
    if (!session || !ctx || !s || t->stream_key != key ||
        t->ctx_epoch != atomic_load_explicit(&fast_hook.ctx_epoch, memory_order_acquire) ||
        atomic_load_explicit(&s->key, memory_order_relaxed) != key ||
        atomic_load_explicit(&fast_hook.captures, memory_order_relaxed))
        return false;
    uint32_t gpu = (uint32_t)ctx->gpu, cost = fast_kernel_cost(gpu);
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    if (gpu >= session->gpus || !atomic_load_explicit(&g->active, memory_order_relaxed) ||
        atomic_load_explicit(&g->tight, memory_order_relaxed))
        return false;
    uint32_t units = atomic_fetch_add(&s->entered, cost) + cost -
                     atomic_load_explicit(&s->synced, memory_order_relaxed);
    uint64_t token = atomic_load(&session->limits->gpu[gpu].token);
    if (!token || token != atomic_load_explicit(&g->held, memory_order_relaxed) ||
        token == atomic_load(&g->spent) || !in_bound(session->limits, g, units, cost) ||
        !atomic_load(&g->active)) {
        atomic_fetch_sub(&s->entered, cost);
        return false;
    }
    op->ctx = ctx;
    op->stream = s;
    op->handle = stream;
    op->cost = cost;
    op->kind = FAST_GATE_KERNEL;
    op->per_thread = per_thread;
    op->pdl = arg != 0;
    op->counted = true;
    return true;
}

/* Apart, so that the quick way saves no registers for it. */
__attribute__((noinline)) static bool enter_slowly(struct fast_gate_op *op,
                                                   enum fast_gate_kind kind, CUstream stream,
                                                   bool per_thread, uint64_t arg)
{
    struct fast_session *session = atomic_load_explicit(&fast_hook.session, memory_order_acquire);
    bool counted = kind <= FAST_GATE_GRAPH || arg >= FAST_GATE_COPY_MIN;
    if (!session && atomic_load(&fast_hook.mode) != FAST_MODE_CLOSED)
        return false;
    if (!counted && (kind != FAST_GATE_COPY_DONE || !session))
        return false;
    struct fast_ctx *ctx = fast_ctx_current();
    if (!ctx || fast_gate_capturing(stream, per_thread))
        return false;
    *op = (struct fast_gate_op){.ctx = ctx, .handle = stream, .kind = (uint8_t)kind, .arg = arg,
                                .per_thread = per_thread, .counted = counted};
    op->stream = fast_stream_find(ctx, stream, per_thread);
    op->left = fast_stream_left(op->stream);
    if (!counted) {
        fast_gate_flush();
        return true;
    }
    fill_cost(op, (uint32_t)ctx->gpu);
    for (;;) {
        session = find_session();
        if (!session || (uint32_t)ctx->gpu >= session->gpus)
            return false;
        if (!admit(session, op))
            continue;
        if (kind != FAST_GATE_KERNEL)
            atomic_fetch_add(&fast_hook.gpus[ctx->gpu].others, 1);
        return true;
    }
}

bool fast_gate_enter(struct fast_gate_op *op, enum fast_gate_kind kind, CUstream stream,
                     bool per_thread, uint64_t arg)
{
    return (kind == FAST_GATE_KERNEL && enter_quickly(op, stream, per_thread, arg)) ||
           enter_slowly(op, kind, stream, per_thread, arg);
}

/* Remembers that this thread owes the stream a marker. A thread that works in many streams at once
 * pays for one earlier. */
static void owe_marker(const struct fast_gate_op *op)
{
    struct fast_thread *t = &fast_thread;
    size_t n = sizeof(t->dirty) / sizeof(t->dirty[0]), at = n;
    for (size_t i = 0; i < n; i++) {
        if (t->dirty[i].stream == op->stream)
            return;
        if (!t->dirty[i].stream && at == n)
            at = i;
    }
    if (at == n) {
        at = 0;
        fast_stream_mark(op->ctx, t->dirty[0].stream, t->dirty[0].handle, t->dirty[0].per_thread);
    }
    t->dirty[at].stream = op->stream;
    t->dirty[at].handle = op->handle;
    t->dirty[at].per_thread = op->per_thread;
}

void fast_gate_flush(void)
{
    struct fast_thread *t = &fast_thread;
    for (size_t i = 0; i < sizeof(t->dirty) / sizeof(t->dirty[0]); i++) {
        if (!t->dirty[i].stream)
            continue;
        if (t->ctx && !fast_gate_capturing(t->dirty[i].handle, t->dirty[i].per_thread))
            fast_stream_mark(t->ctx, t->dirty[i].stream, t->dirty[i].handle,
                             t->dirty[i].per_thread);
        t->dirty[i].stream = NULL;
    }
}

void fast_gate_look(bool waited)
{
    struct fast_thread *t = &fast_thread;
    if (t->ctx && atomic_load(&fast_hook.session))
        fast_gpu_settle((uint32_t)t->ctx->gpu, waited, false);
}

/* Only one thread ever writes the word. */
static void add_plain64(_Atomic uint64_t *word)
{
    uint64_t was = atomic_load_explicit(word, memory_order_relaxed);
    atomic_store_explicit(word, was + 1, memory_order_relaxed);
}

/* The driver call has returned. Returns what has left the stream's callers so far. */
static uint32_t add_left(struct fast_stream *s, uint32_t cost)
{
    if (!fast_owner_is_me(&s->owner)) {
        uint32_t left = atomic_fetch_add(&s->left, cost) + cost;
        return atomic_load(&s->left_own) + left;
    }
    uint32_t own = atomic_load_explicit(&s->left_own, memory_order_relaxed) + cost;
    atomic_store_explicit(&s->left_own, own, memory_order_release);
    return own + atomic_load(&s->left);
}

static void count(const struct fast_gate_op *op)
{
    struct fast_session *session = atomic_load_explicit(&fast_hook.session, memory_order_acquire);
    struct fast_gpu *g = &fast_hook.gpus[op->ctx->gpu];
    if (!session)
        return;
    struct fast_counters *c = &session->counters->gpu[op->ctx->gpu];
    if (op->kind > FAST_GATE_GRAPH) {
        atomic_fetch_add_explicit(&c->copies, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&g->copies_us, op->cost, memory_order_relaxed);
        return;
    }
    if (fast_owner_is_me(&g->owner) || fast_owner_claim(&g->owner))
        add_plain64(&c->launches);
    else
        atomic_fetch_add_explicit(&c->launches_others, 1, memory_order_relaxed);
    if (op->kind == FAST_GATE_GRAPH) {
        uint64_t was = atomic_exchange(&g->graph, op->arg);
        atomic_fetch_add(&g->graphs, 1);
        if (was && was != op->arg)
            atomic_store(&g->graph_mixed, 1);
    }
}

/* After these nothing in the context ever completes. */
static bool is_sticky(CUresult r)
{
    return (r >= CUDA_ERROR_ILLEGAL_ADDRESS && r <= CUDA_ERROR_LAUNCH_FAILED &&
            r != CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES && r != CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE &&
            (r < 704 || r > 708) && r != CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED &&
            r != CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED) ||
           r == CUDA_ERROR_MPS_CLIENT_TERMINATED || r == CUDA_ERROR_DEINITIALIZED;
}

/* A kernel of the thread that owns the counters, which owes the stream its marker already, while a
 * marker is not due. No atomic read-modify-write. False: nothing has changed. */
static inline bool leave_quickly(const struct fast_gate_op *op, CUresult result)
{
    struct fast_stream *s = op->stream;
    struct fast_session *session = atomic_load_explicit(&fast_hook.session, memory_order_acquire);
    int gpu = op->ctx->gpu;
    if (result != CUDA_SUCCESS || op->kind != FAST_GATE_KERNEL || !session ||
        fast_thread.dirty[0].stream != s || !fast_owner_is_me(&s->owner) ||
        !fast_owner_is_me(&fast_hook.gpus[gpu].owner))
        return false;
    int64_t bound = atomic_load_explicit(&session->limits->inflight_ns, memory_order_relaxed);
    uint32_t own = atomic_load_explicit(&s->left_own, memory_order_relaxed) + op->cost;
    uint32_t unmarked = own + atomic_load_explicit(&s->left, memory_order_relaxed) -
                        atomic_load_explicit(&s->marked, memory_order_relaxed);
    if (FAST_US(unmarked) * MARK_PARTS >= bound)
        return false;
    add_plain64(&session->counters->gpu[gpu].launches);
    atomic_store_explicit(&s->left_own, own, memory_order_release);
    return true;
}

__attribute__((noinline)) static void leave_slowly(struct fast_gate_op *op, CUresult result)
{
    struct fast_stream *s = op->stream;
    if (result != CUDA_SUCCESS && is_sticky(result))
        atomic_store(&op->ctx->broken, 1);
    uint32_t left = 0;
    if (!op->counted)
        left = op->left;
    if (op->counted) {
        if (op->kind != FAST_GATE_KERNEL)
            atomic_fetch_sub(&fast_hook.gpus[op->ctx->gpu].others, 1);
        if (result == CUDA_SUCCESS)
            count(op);
        left = add_left(s, op->cost);
        struct fast_session *session = atomic_load_explicit(&fast_hook.session, memory_order_acquire);
        int64_t bound = session ? atomic_load(&session->limits->inflight_ns) : FAST_MS(1);
        uint32_t unmarked = left - atomic_load_explicit(&s->marked, memory_order_relaxed);
        /* Between overlapping launches a marker would part them, so it comes as late as possible. */
        if (FAST_US(unmarked) * (op->pdl ? 1 : MARK_PARTS) >= bound)
            fast_stream_mark(op->ctx, s, op->handle, op->per_thread);
        else
            owe_marker(op);
    }
    if (op->kind == FAST_GATE_COPY_DONE && result == CUDA_SUCCESS) {
        /* What other threads have submitted meanwhile may still run. */
        fast_stream_synced(s, left == op->left + op->cost ? left : op->left);
        fast_gate_look(true);
    }
}

void fast_gate_leave(struct fast_gate_op *op, CUresult result)
{
    if (!leave_quickly(op, result))
        leave_slowly(op, result);
}
