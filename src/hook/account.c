#include "hook/gate.h"

#include <string.h>

/* How long the GPU was busy with our work, and what a launch costs.
 *
 * Busy time is the length of busy intervals on the host's clock: one begins when work is admitted
 * while nothing is in flight, and ends when nothing is in flight again. A launch reads no clock; the
 * end is seen by a thread that just synchronized or by the hook thread.
 *
 * Costs are learned from intervals whose end was seen at a synchronization, and from the progress of
 * long intervals; other ends are bounds on them. They only bound the work in flight: nobody is charged by them. */

#define FIRST_SAMPLE_NS FAST_US(300)
#define SAMPLE_NS FAST_MS(5) /* long intervals are sampled this often */
#define CLEARLY 2            /* a bound this many times below an estimate says that it is wrong */
#define LATE_NS FAST_US(300) /* a look that comes later than this after the one before is imprecise */

#define COMPILED_NS FAST_MS(5) /* a call of a launch that takes longer compiles or loads its kernel */

struct sum {
    uint32_t pending, done, streams;
    uint32_t tail; /* of |pending|: the driver's calls have returned, no marker is behind it yet */
    bool runs;     /* a marker is on its way */
};

/* Unmarked work behind the last marker of a stream whose threads are elsewhere: nobody can enqueue a
 * marker for it now. It is taken for complete after twice its estimated time. */
static void judge_tail(struct fast_ctx *c, struct fast_stream *s, uint32_t pending, fast_ns now)
{
    uint32_t left = fast_stream_left(s), marked = atomic_load(&s->marked);
    bool tail = left != marked && atomic_load(&s->entered) == left && pending <= left - marked;
    int64_t since = atomic_load(&s->tail_ns);
    if (!tail || !since) {
        atomic_store(&s->tail_ns, tail ? now : 0);
        return;
    }
    (void)c;
    if (now - since > FAST_US(200) + 2 * FAST_US(pending))
        fast_stream_synced(s, left);
}

static struct sum add_up(uint32_t gpu, bool tails, fast_ns now)
{
    struct sum sum = {0};
    for (int i = 0; i < FAST_HOOK_CTXS; i++) {
        struct fast_ctx *c = &fast_hook.ctxs[i];
        if (!atomic_load(&c->ready) || c->gpu != (int)gpu)
            continue;
        uint32_t high = atomic_load(&c->high);
        for (uint32_t k = 0; k < high; k++) {
            struct fast_stream *s = &c->streams[k];
            uint32_t pending = fast_stream_pending(c, s);
            if (pending && tails)
                judge_tail(c, s, pending, now);
            uint32_t done = fast_stream_done(c, s), marked = atomic_load(&s->marked);
            int32_t tail = (int32_t)(fast_stream_left(s) - ((int32_t)(marked - done) > 0 ? marked : done));
            sum.pending += pending;
            sum.done += done;
            sum.runs |= (int32_t)(marked - done) > 0;
            sum.tail += tail > 0 ? (uint32_t)tail : 0;
            sum.streams += pending != 0;
        }
    }
    return sum;
}

uint32_t fast_gpu_pending(uint32_t gpu)
{
    return add_up(gpu, false, 0).pending;
}

static uint64_t launches_of(uint32_t gpu)
{
    struct fast_session *session = atomic_load(&fast_hook.session);
    return session ? fast_counters_launches(&session->counters->gpu[gpu]) : 0;
}

static void sample_start(uint32_t gpu, fast_ns now, uint32_t done)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    atomic_store(&g->sample_ns, now);
    atomic_store(&g->sample_done, done);
    atomic_store(&g->sample_launches, launches_of(gpu));
    atomic_store(&g->graphs, 0);
    atomic_store(&g->graph, 0);
    atomic_store(&g->graph_mixed, 0);
    atomic_store(&g->copies_us, 0);
}

void fast_gpu_begin(uint32_t gpu)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    if (atomic_exchange(&g->active, 1))
        return;
    fast_ns now = fast_hook_now();
    atomic_store(&g->busy_since, now);
    atomic_store(&g->calls_from, 0);
    uint32_t done = add_up(gpu, false, now).done;
    atomic_store(&g->seen_ns, now);
    atomic_store(&g->seen_done, done);
    sample_start(gpu, now, done);
    fast_hook_kick();
}

/* ---- costs ---- */

static uint32_t blend(uint32_t old, int64_t sample, int64_t max)
{
    sample = sample < 1 ? 1 : sample > max ? max : sample;
    return old ? (uint32_t)(((int64_t)old * 3 + sample) / 4) : (uint32_t)sample;
}

static struct fast_graph_cost *graph_place(uint64_t exec)
{
    return &fast_hook.graphs[(exec >> 4 ^ exec >> 12) % FAST_HOOK_GRAPHS];
}

/* An unknown graph is taken for as long as 50 kernels. */
uint32_t fast_graph_cost(uint64_t exec, uint32_t gpu)
{
    struct fast_graph_cost *p = graph_place(exec);
    uint32_t us = atomic_load(&p->us);
    return atomic_load(&p->exec) == exec && us ? us : 50 * fast_kernel_cost(gpu);
}

static void learn_graph(uint64_t exec, int64_t us)
{
    struct fast_graph_cost *p = graph_place(exec);
    uint32_t old = atomic_load(&p->exec) == exec ? atomic_load(&p->us) : 0;
    atomic_store(&p->us, blend(old, us, 60000000));
    atomic_store(&p->exec, exec);
}

/* A whole interval of |len|: what is not explained by copies and graphs was kernels. */
static void learn_interval(uint32_t gpu, fast_ns len)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    int64_t graphs = atomic_load(&g->graphs);
    uint64_t exec = atomic_load(&g->graph);
    int64_t kernels = (int64_t)(launches_of(gpu) - atomic_load(&g->sample_launches)) - graphs;
    fast_ns rest = len - FAST_US(atomic_load(&g->copies_us));
    if (rest <= 0)
        return;
    if (graphs && kernels <= 0 && !atomic_load(&g->graph_mixed)) {
        learn_graph(exec, rest / graphs / 1000);
        return;
    }
    if (graphs)
        rest -= FAST_US((int64_t)fast_graph_cost(exec, gpu) * graphs);
    if (kernels > 0 && rest > 0)
        atomic_store(&g->unit_ns, blend(atomic_load(&g->unit_ns), rest / kernels, FAST_S(4)));
}

/* Work that was found complete ended at some earlier time, so that |len| is only a bound on it: it may lower what
 * is known, never raise it; and only where that is clearly too much, since steps in one direction alone would take a
 * good estimate to its luckiest samples, and too much would be let in before the end of a token. Programs whose
 * kernels are done when they are waited for tell nothing else; without this they would keep the first guess, with
 * few launches in flight and a marker behind every second one. */
static void learn_bound(uint32_t gpu, fast_ns len)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    int64_t graphs = atomic_load(&g->graphs);
    uint64_t exec = atomic_load(&g->graph);
    int64_t kernels = (int64_t)(launches_of(gpu) - atomic_load(&g->sample_launches)) - graphs;
    if (kernels > 0 && len / kernels * CLEARLY < FAST_US(fast_kernel_cost(gpu)))
        atomic_store(&g->unit_ns, blend(atomic_load(&g->unit_ns), len / kernels, FAST_S(4)));
    if (graphs > 0 && !atomic_load(&g->graph_mixed) &&
        len / graphs * CLEARLY < FAST_US(fast_graph_cost(exec, gpu)))
        learn_graph(exec, len / graphs / 1000);
}

/* A part of a long interval: only the progress is known, in units. False: there was none yet, so
 * that the sample must go on; else only the lucky samples would count. */
static bool learn_progress(uint32_t gpu, fast_ns len, uint32_t done)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    uint32_t units = done - atomic_load(&g->sample_done);
    if (units == 0)
        return false;
    if (units > 100000000 || atomic_load(&g->graphs) || atomic_load(&g->copies_us))
        return true;
    int64_t sample = len * fast_kernel_cost(gpu) / units;
    atomic_store(&g->unit_ns, blend(atomic_load(&g->unit_ns), sample, FAST_S(4)));
    return true;
}

/* ---- intervals ---- */

static void publish(uint32_t gpu, const struct sum *sum)
{
    struct fast_session *session = atomic_load(&fast_hook.session);
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    atomic_store(&g->streams, sum->streams ? sum->streams : 1);
    if (!session)
        return;
    uint32_t cost = fast_kernel_cost(gpu);
    int64_t window = atomic_load(&session->limits->inflight_ns) / (1000 * (int64_t)cost);
    atomic_store(&session->counters->gpu[gpu].in_flight, (sum->pending + cost - 1) / cost);
    atomic_store(&session->counters->gpu[gpu].window, window < 1 ? 1 : (uint32_t)window);
}

/* When the last work was complete, of which a look at |now| is the first to know: the look before saw it
 * in flight, and what has been completed since takes its estimated time. */
static fast_ns end_of_work(const struct fast_gpu *g, uint32_t done, fast_ns now)
{
    fast_ns seen = atomic_load(&g->seen_ns), work = FAST_US(done - atomic_load(&g->seen_done));
    return now - seen < LATE_NS || now - seen < work ? now : seen + work;
}

static void close_interval(uint32_t gpu, fast_ns since, uint32_t done, fast_ns now, bool at_sync)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    struct fast_session *session = atomic_load(&fast_hook.session);
    fast_ns end = at_sync ? now : end_of_work(g, done, now);
    fast_ns len = end > since ? end - since : 0;
    bool whole = atomic_load(&g->sample_ns) == since; /* the sample has counted all of the interval */
    if (whole && at_sync)
        learn_interval(gpu, len);
    else if (whole)
        learn_bound(gpu, now - since);
    atomic_fetch_add(&g->busy_ns, len);
    atomic_store(&g->idle_since, now);
    if (session)
        atomic_fetch_add(&session->counters->gpu[gpu].busy_ns, len);
}

/* A first launch may be compiled or loaded for seconds in its call (lazy loading, PTX). While there
 * is nothing but such calls the GPU is idle, and that time is taken out of the interval. Work without a marker may
 * run at first; it has twice its time. A launch that waits for its kernel, or for room behind work that is marked,
 * is no such call. */
static void watch_calls(uint32_t gpu, const struct sum *sum, fast_ns now)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    fast_ns from = atomic_load(&g->calls_from), to = atomic_load(&g->calls_to);
    if (sum->pending > sum->tail && !sum->runs && !atomic_load(&g->others) && !fast_hook.launches_wait) {
        if (!from)
            atomic_store(&g->calls_from, now + (sum->tail ? FAST_US(200) + 2 * FAST_US(sum->tail) : 0));
        atomic_store(&g->calls_to, now);
        return;
    }
    if (!from)
        return;
    atomic_store(&g->calls_from, 0);
    if (to - from < COMPILED_NS)
        return;
    atomic_fetch_add(&g->busy_since, to - from);
    sample_start(gpu, now, sum->done);
}

static bool settle(uint32_t gpu, bool at_sync, bool tails)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    fast_ns now = fast_hook_now();
    struct sum sum = add_up(gpu, tails, now);
    watch_calls(gpu, &sum, now);
    fast_ns since = atomic_load(&g->busy_since);
    publish(gpu, &sum);
    if (sum.pending) {
        atomic_store(&g->seen_ns, now);
        atomic_store(&g->seen_done, sum.done);
        fast_ns start = atomic_load(&g->sample_ns);
        if (now - start > (atomic_load(&g->unit_ns) ? SAMPLE_NS : FIRST_SAMPLE_NS) &&
            learn_progress(gpu, now - start, sum.done))
            sample_start(gpu, now, sum.done);
        return false;
    }
    atomic_store(&g->active, 0);
    if (add_up(gpu, false, now).pending) {
        /* Somebody came in between; if it did not begin a new interval, the old one goes on. */
        if (!atomic_exchange(&g->active, 1))
            atomic_store(&g->busy_since, since);
        return false;
    }
    close_interval(gpu, since, sum.done, now, at_sync);
    return true;
}

bool fast_gpu_settle(uint32_t gpu, bool at_sync, bool tails)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    if (!atomic_load(&g->active))
        return true;
    if (atomic_exchange(&g->settling, 1))
        return false;
    bool idle = settle(gpu, at_sync, tails);
    atomic_store(&g->settling, 0);
    return idle;
}
