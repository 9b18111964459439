/* What one replica holds: its place in the token scheduler, the turn of its processes, its memory.
 * It assumes the one thread of the loop. A token of the scheduler may pass through several processes
 * before it goes back; each holding has a number of its own in the client's page, since a number is
 * never used twice. */
#include "node/manager.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "node/process.h"

#define INFLIGHT FAST_MS(2)    /* a client keeps no more work than this in flight */
#define GRACE FAST_S(10)       /* and works on for this long without a node */
#define KILL_MAX FAST_S(2)      /* a process that is killed is gone after so long */
#define LAUNCH_SHARES_MAX 1024 /* by_client grows in steps */

static struct fast_grant *grant_of(const struct node_share *s, const struct node_session *x)
{
    return &x->pages.limits->gpu[s->index];
}

struct node_share *node_share_part(struct node_share *first, uint32_t index)
{
    struct node_share *s = first;
    while (s && (uint32_t)s->index != index)
        s = s->next_part;
    return s;
}

/* ---- the turn of the processes ---- */

static void queue_push(struct node_share *s, struct node_session *x)
{
    struct node_seat *seat = &x->seat[s->index];
    if (seat->queued)
        return;
    seat->queued = true;
    seat->next = NULL;
    if (s->queue_last)
        s->queue_last->seat[s->index].next = x;
    else
        s->queue = x;
    s->queue_last = x;
}

static void queue_remove(struct node_share *s, struct node_session *x)
{
    struct node_seat *seat = &x->seat[s->index];
    struct node_session *before = NULL;
    if (!seat->queued)
        return;
    for (struct node_session *q = s->queue; q != x; q = q->seat[s->index].next)
        before = q;
    if (before)
        before->seat[s->index].next = seat->next;
    else
        s->queue = seat->next;
    if (s->queue_last == x)
        s->queue_last = before;
    seat->queued = false;
}

static void take_back(struct node_share *s)
{
    struct fast_grant *g = grant_of(s, s->holder);
    if (atomic_load_explicit(&g->token, memory_order_relaxed) == 0)
        return;
    atomic_store_explicit(&g->token, 0, memory_order_release);
    node_pages_wake(g);
}

/* Gives the share's token to the first process that waits. */
static void hand_on(struct node_share *s, bool contended)
{
    struct node_session *x = s->queue;
    struct fast_grant *g = grant_of(s, x);
    queue_remove(s, x);
    s->holder = x;
    s->holder_token = ++s->pool->m->last_token;
    s->given_at = fast_clock_now();
    atomic_store_explicit(&g->until_ns, s->until, memory_order_relaxed);
    atomic_store_explicit(&g->contended, contended || s->queue, memory_order_relaxed);
    atomic_store_explicit(&g->last, s->holder_token, memory_order_relaxed);
    atomic_store_explicit(&g->token, s->holder_token, memory_order_release);
    node_pages_wake(g);
}

/* Another part of the replica has work, so that what this one holds stays reserved for it. */
static bool is_reserved(const struct node_share *s)
{
    for (const struct node_share *p = s->first; p && !s->revoked; p = p->next_part)
        if (p != s && (p->holder || p->queue))
            return true;
    return false;
}

static void give_back(struct node_share *s)
{
    uint64_t token = s->token;
    fast_ns busy = s->busy_ns;
    s->token = 0;
    s->busy_ns = 0;
    fast_sched_done(s->pool->sched, s->client, token, busy, s->queue != NULL, fast_clock_now(),
                    NULL);
}

/* What of a holding that ends now counts as busy. Nobody else saw how long the GPU was: the holder is
 * believed within bounds. It was not for longer than the token was held; and while others wait, a hook
 * that has nothing to run gives its token back within 100 us, so that half of the time is the least
 * that counts. Whoever says less gains a factor of two by it, and from time that nobody waited for. */
static fast_ns believed(const struct node_share *s, fast_ns busy, fast_ns now)
{
    const struct node_pool *pool = s->pool;
    fast_ns held = now - s->given_at, least = 0;
    if (pool->contended)
        least = (now - (pool->contended_at > s->given_at ? pool->contended_at : s->given_at)) / 2;
    return busy > held ? held : busy < least ? least : busy;
}

/* The holder is done, or dead. */
static void end_holding(struct node_share *s, fast_ns busy)
{
    s->busy_ns += believed(s, busy, fast_clock_now());
    /* Nobody is woken: the holder knows, and its threads that wait do so for the next token. */
    atomic_store_explicit(&grant_of(s, s->holder)->token, 0, memory_order_release);
    struct node_session *was = s->holder;
    s->holder = NULL;
    bool reserved = is_reserved(s);
    if (!s->revoked && s->queue && (s->queue != was || reserved))
        hand_on(s, s->pool->contended);
    else if (!reserved)
        give_back(s);
    node_pool_apply(s->pool);
}

void node_share_granted(struct node_share *s, const struct fast_sched_action *a)
{
    s->until = a->until_ns;
    if (!a->extended) {
        s->token = a->token;
        s->revoked = false;
        if (s->queue)
            hand_on(s, a->contended);
        else if (!is_reserved(s))
            give_back(s); /* who wanted it is gone */
        return;
    }
    if (!s->holder)
        return;
    if (s->queue)
        take_back(s); /* another process of the replica is next */
    else
        atomic_store_explicit(&grant_of(s, s->holder)->until_ns, s->until, memory_order_relaxed);
}

void node_share_revoked(struct node_share *s)
{
    s->revoked = true;
    s->revoked_at = fast_clock_now();
    s->killed_at = 0;
    if (s->holder)
        take_back(s);
    else if (s->token)
        give_back(s);
}

void node_share_contended(struct node_share *s, bool contended)
{
    if (s->holder)
        atomic_store_explicit(&grant_of(s, s->holder)->contended, contended || s->queue,
                              memory_order_release);
}

/* Whoever keeps its token, because it hangs or because it wants to, has the SMs of others: the guarantee is
 * theirs. One that is there still when its replica was killed does not belong to it (its ticket was used by
 * somebody else): then the token is free without it. */
void node_share_check(struct node_share *s, fast_ns now)
{
    fast_ns most = s->pool->m->node->conf->overrun_max;
    if (!s->holder || !s->revoked || !most || now - s->revoked_at < most)
        return;
    if (!s->killed_at && s->pool->contended) {
        s->killed_at = now;
        node_agent_overran(s->pool->m->node->agent, s->replica, now - s->revoked_at);
    } else if (s->killed_at && now - s->killed_at >= KILL_MAX) {
        node_session_close(s->holder);
    }
}

/* From a holder it crosses a token that it has not seen, or has just lost: what it still wants, it says
 * when it gives that back. */
void node_share_want(struct node_share *s, struct node_session *x, bool again)
{
    if (s->pool->m->conf.policy == FAST_POLICY_RACING) {
        x->seat[s->index].wished = true;
        return;
    }
    if (x->seat[s->index].queued || x == s->holder)
        return;
    if (again) {
        s->pool->m->lost_wishes++;
        if (node_session_may_tell(x))
            fast_log(WARN, "wish was lost", "replica=%s pid=%d last=%llu", s->replica->id, x->pid,
                     (unsigned long long)atomic_load(&grant_of(s, x)->last));
    }
    queue_push(s, x);
    if (s->token && s->holder)
        node_share_contended(s, true);
    if (s->token && !s->holder)
        hand_on(s, s->pool->contended); /* it was reserved */
    if (s->token)
        return;
    fast_sched_want(s->pool->sched, s->client, fast_clock_now());
    node_pool_apply(s->pool);
}

bool node_share_done(struct node_share *s, struct node_session *x, uint64_t token, fast_ns busy,
                     bool want)
{
    if (s->holder != x || token != s->holder_token)
        return false;
    x->seat[s->index].wished = false;
    if (want && s->pool->m->conf.policy == FAST_POLICY_RACING)
        x->seat[s->index].wished = true;
    else if (want)
        queue_push(s, x);
    end_holding(s, busy);
    return true;
}

void node_share_resume(struct node_share *s)
{
    for (struct node_session *x = s->first->sessions; x; x = x->share_next) {
        bool wished = x->seat[s->index].wished;
        x->seat[s->index].wished = false;
        if (wished)
            node_share_want(s, x, false);
    }
}

/* ---- processes ---- */

void node_share_attach(struct node_share *first, struct node_session *x)
{
    x->share = first;
    x->share_prev = NULL;
    x->share_next = first->sessions;
    if (first->sessions)
        first->sessions->share_prev = x;
    first->sessions = x;
    first->session_count++;
    for (struct node_share *s = first; s; s = s->next_part) {
        x->seat[s->index].mem.of = &s->mem;
        node_share_publish(s);
    }
}

/* Busy time as the process itself says, within what is possible. */
static fast_ns busy_of(const struct node_session *x, int index, fast_ns now)
{
    int64_t busy = atomic_load(&x->pages.counters->gpu[index].busy_ns);
    fast_ns life = now - x->opened;
    return busy < 0 ? 0 : busy > life ? life : busy;
}

static void leave(struct node_share *s, struct node_session *x)
{
    s->dead_launches += fast_counters_launches(&x->pages.counters->gpu[s->index]);
    s->dead_busy_ns += busy_of(x, s->index, fast_clock_now());
    node_ledger_set(&x->seat[s->index].mem, 0);
    node_ledger_context(&x->seat[s->index].mem, 0);
    queue_remove(s, x);
    if (s->holder == x) {
        end_holding(s, INT64_MAX); /* what it ran is unknown: all the time counts */
    } else if (!s->token && !s->queue) {
        fast_sched_unwant(s->pool->sched, s->client, fast_clock_now());
        node_pool_apply(s->pool);
    }
}

void node_share_detach(struct node_share *first, struct node_session *x)
{
    if (x->share_prev)
        x->share_prev->share_next = x->share_next;
    else
        first->sessions = x->share_next;
    if (x->share_next)
        x->share_next->share_prev = x->share_prev;
    first->session_count--;
    x->share = NULL;
    for (struct node_share *s = first; s; s = s->next_part)
        queue_remove(s, x); /* no part is reserved for its sake any more */
    for (struct node_share *s = first; s; s = s->next_part)
        leave(s, x);
    for (struct node_share *s = first; s; s = s->next_part)
        node_share_publish(s);
}

void node_share_publish(struct node_share *s)
{
    uint32_t gated = s->pool->m->conf.policy != FAST_POLICY_RACING;
    for (struct node_session *x = s->first->sessions; x; x = x->share_next) {
        struct fast_limits_page *l = x->pages.limits;
        struct fast_grant *g = grant_of(s, x);
        atomic_store(&l->epoch, s->pool->m->node->epoch);
        atomic_store(&l->grace_ns, GRACE);
        atomic_store(&l->inflight_ns, INFLIGHT);
        atomic_store(&l->pulse_ns, fast_clock_now());
        atomic_store(&g->sm_pct, (uint32_t)s->replica->sm_running);
        atomic_store(&g->limit_milli, (uint32_t)s->replica->slice.limit_milli);
        atomic_store(&g->mem_cap_bytes, s->mem.cap);
        atomic_store(&g->mem_used_bytes, s->mem.used);
        if (atomic_exchange(&l->gated, gated) != gated) /* all its threads wait for the GPU that they want */
            for (const struct node_share *p = s->first; p; p = p->next_part)
                node_pages_wake(grant_of(p, x));
    }
}

/* ---- for the agent ---- */

static int slice_check(const struct node_manager *m, const struct node_replica *r,
                       struct fast_slice *ret, struct fast_err *err)
{
    *ret = r->slice;
    if (r->sm_running > 0)
        ret->sm_pct = r->sm_running;
    uint32_t last = r->gpu >= FAST_NODE_GPUS_MAX ? r->gpu : 31 - (uint32_t)__builtin_clz(node_replica_gpus(r));
    if (last >= (uint32_t)m->pools)
        return fast_err_set(err, FAST_EINVAL, "GPU %u: this node has %d (numbered from 0)", last, m->pools);
    int code = fast_slice_check(&r->slice, err);
    if (!code)
        code = fast_slice_check(ret, err);
    for (uint32_t d = node_replica_gpus(r); d && !code; d &= d - 1) {
        int gpu = __builtin_ctz(d);
        uint64_t total = m->pool[gpu].device.total;
        if (r->slice.mem_bytes > total)
            return fast_err_set(err, FAST_EINVAL, "memory cap: %llu bytes are more than the %llu of GPU %d",
                                (unsigned long long)r->slice.mem_bytes, (unsigned long long)total, gpu);
    }
    return code;
}

/* Makes room in the pool's table of clients. */
static int remember(struct node_share *s, struct fast_err *err)
{
    struct node_pool *pool = s->pool;
    if (s->client >= pool->by_client_len) {
        int len = s->client + LAUNCH_SHARES_MAX;
        struct node_share **more = realloc(pool->by_client, (size_t)len * sizeof(struct node_share *));
        if (!more)
            return fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
        memset(more + pool->by_client_len, 0,
               (size_t)(len - pool->by_client_len) * sizeof(struct node_share *));
        pool->by_client = more;
        pool->by_client_len = len;
    }
    pool->by_client[s->client] = s;
    s->next = pool->shares;
    if (s->next)
        s->next->prev = s;
    pool->shares = s;
    return 0;
}

static void forget(struct node_share *s)
{
    struct node_pool *pool = s->pool;
    if (s->client >= pool->by_client_len || pool->by_client[s->client] != s)
        return;
    pool->by_client[s->client] = NULL;
    if (s->prev)
        s->prev->next = s->next;
    else
        pool->shares = s->next;
    if (s->next)
        s->next->prev = s->prev;
}

/* The replica counts its GPUs in ascending order. */
static struct node_share *parts_new(struct node_manager *m, struct node_replica *replica)
{
    struct node_share *first = NULL, **at = &first;
    int index = 0;
    for (uint32_t d = node_replica_gpus(replica); d; d &= d - 1) {
        struct node_share *s = calloc(1, sizeof(*s));
        if (!s)
            break;
        s->pool = &m->pool[__builtin_ctz(d)];
        s->replica = replica;
        s->index = index++;
        s->client = -1;
        s->mem.device = &s->pool->device;
        s->mem.cap = replica->slice.mem_bytes;
        s->mem.all = s->pool->m->node->conf->mem_all;
        s->first = first ? first : s;
        *at = s;
        at = &s->next_part;
    }
    if (index == __builtin_popcount(node_replica_gpus(replica)))
        return first;
    for (struct node_share *next; first; first = next) {
        next = first->next_part;
        free(first);
    }
    return NULL;
}

static void parts_free(struct node_share *first)
{
    uint32_t gpus = 0;
    struct node_manager *m = first->pool->m;
    node_session_forget_unread(m, first);
    if (first->client >= 0) /* with those of all parts */
        fast_sched_remove(first->pool->sched, first->client, fast_clock_now());
    for (struct node_share *s = first, *next; s; s = next) {
        next = s->next_part;
        forget(s);
        gpus |= UINT32_C(1) << s->pool->gpu;
        free(s);
    }
    for (; gpus; gpus &= gpus - 1) /* they may not be linked any more */
        node_pool_apply(&m->pool[__builtin_ctz(gpus)]);
}

static int join(struct node_manager *m, struct node_share *first, const struct fast_slice *slice,
                struct fast_err *err)
{
    int clients[FAST_PLAN_GPUS], r = 0;
    if (!first->next_part)
        r = first->client = fast_sched_add(first->pool->sched, slice, fast_clock_now(), err);
    else
        r = fast_gangs_add(m->gangs, node_replica_gpus(first->replica), slice, fast_clock_now(), clients, err);
    for (struct node_share *s = first; first->next_part && r >= 0 && s; s = s->next_part)
        s->client = clients[s->pool->gpu];
    for (struct node_share *s = first; r >= 0 && s; s = s->next_part)
        r = remember(s, err);
    return r < 0 ? r : 0;
}

int node_share_add(struct node_manager *m, struct node_replica *replica, struct fast_err *err)
{
    struct fast_slice slice;
    int r = slice_check(m, replica, &slice, err);
    if (r)
        return r;
    struct node_share *first = parts_new(m, replica);
    if (!first)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
    r = join(m, first, &slice, err);
    if (!r)
        first->guaranteed_milli = slice.request_milli;
    if (r) {
        parts_free(first);
        return r;
    }
    replica->share = first;
    node_pool_apply(first->pool);
    return 0;
}

int node_share_update(struct node_manager *m, struct node_replica *replica, struct fast_err *err)
{
    struct fast_slice slice;
    struct node_share *first = replica->share;
    if (!first)
        return fast_err_set(err, FAST_ENOENT, "replica %s has no share", replica->id);
    int r = slice_check(m, replica, &slice, err);
    if (!r) /* of all parts */
        r = fast_sched_resize(first->pool->sched, first->client, &slice, fast_clock_now(), err);
    if (r)
        return r;
    first->guaranteed_milli = slice.request_milli;
    for (struct node_share *s = first; s; s = s->next_part) {
        s->mem.cap = replica->slice.mem_bytes;
        node_share_publish(s);
    }
    node_pool_apply(first->pool);
    return 0;
}

int node_share_hold(struct node_manager *m, const struct node_replica *replica, int request_milli,
                    struct fast_err *err)
{
    struct fast_slice slice;
    struct node_share *s = replica->share;
    int r = slice_check(m, replica, &slice, err);
    slice.request_milli = request_milli;
    if (!r)
        r = fast_sched_resize(s->pool->sched, s->client, &slice, fast_clock_now(), err);
    if (r)
        return r;
    s->guaranteed_milli = request_milli;
    node_pool_apply(s->pool);
    return 0;
}

void node_share_remove(struct node_manager *m, struct node_replica *replica)
{
    struct node_share *first = replica->share;
    (void)m;
    if (!first)
        return;
    while (first->sessions)
        node_session_close(first->sessions);
    parts_free(first);
    replica->share = NULL;
}

int node_share_mps_clients(const struct node_replica *replica, int *pids, int max)
{
    int n = 0;
    const struct node_session *x = replica->share ? replica->share->sessions : NULL;
    for (; x && n < max; x = x->share_next) {
        uint64_t ticks = 0;
        char state = 0;
        if (x->mps && x->pid > 1 && node_process_stat(x->pid, &ticks, &state) && ticks == x->ticks)
            pids[n++] = x->pid;
    }
    return n;
}

/* Drivers round a percentage up to what the hardware can do. */
bool node_share_escaped(const struct node_session *x)
{
    const struct node_pool *pool = x->share->pool;
    uint32_t sms = node_gpu_sms(pool->m->node->gpus, pool->gpu);
    uint32_t most = sms * (uint32_t)x->share->replica->sm_running / FAST_SM_PCT_MAX + sms / 8;
    return x->reported && (!x->mps || (pool->m->conf.policy == FAST_POLICY_FAST && x->sm_count > most));
}

void node_share_deadline(const struct node_replica *replica, fast_ns deadline)
{
    const struct node_share *first = replica->share;
    if (!first)
        return;
    for (const struct node_share *s = first; s; s = s->next_part)
        fast_sched_deadline(s->pool->sched, s->client, deadline, fast_clock_now());
    node_pool_apply(first->pool);
}

/* What one part has used, from all processes. */
static void add_used(const struct node_share *s, fast_ns now, struct fast_msg_replica_stats *ret)
{
    ret->launches += s->dead_launches;
    ret->busy_ns += s->dead_busy_ns;
    ret->mem_bytes += s->mem.used;
    ret->mem_refused += s->mem.refused;
    ret->holds_token |= s->holder != NULL;
    for (const struct node_session *x = s->first->sessions; x; x = x->share_next) {
        const uint64_t *family = x->seat[s->index].mem.family;
        ret->launches += fast_counters_launches(&x->pages.counters->gpu[s->index]);
        ret->busy_ns += busy_of(x, s->index, now);
        ret->mem_device += family[FAST_FAMILY_DEVICE];
        ret->mem_managed += family[FAST_FAMILY_MANAGED];
        ret->mem_pool += family[FAST_FAMILY_POOL];
        ret->mem_vmm += family[FAST_FAMILY_VMM];
        ret->mem_array += family[FAST_FAMILY_ARRAY];
        ret->mem_context += x->seat[s->index].mem.context;
    }
}

void node_share_stats(const struct node_replica *replica, int part, struct fast_msg_replica_stats *ret)
{
    struct node_share *first = replica->share, *s = first ? node_share_part(first, (uint32_t)part) : NULL;
    fast_ns now = fast_clock_now();
    *ret = (struct fast_msg_replica_stats){.replica = ret->replica, .gpu = replica->gpu};
    if (!s)
        return;
    struct fast_sched_stats st = fast_sched_stats(s->pool->sched, s->client, now);
    add_used(s, now, ret);
    ret->gpu = (uint32_t)s->pool->gpu;
    ret->clients = first->session_count;
    ret->tokens = st.tokens;
    ret->held_ns = st.held_ns;
    ret->wait_ns = st.wait_ns;
    ret->throttled_ns = st.throttled_ns;
    ret->overrun_ns = st.overrun_ns;
    ret->windows = st.windows;
    ret->windows_ns = st.windows_ns;
    ret->short_ns = st.short_ns;
    ret->deadline_ns = st.deadline;
    ret->guaranteed_milli = (uint32_t)first->guaranteed_milli;
    for (const struct node_session *x = first->sessions; x; x = x->share_next) {
        ret->sm_count = x->sm_count > ret->sm_count ? x->sm_count : ret->sm_count;
        ret->without_mps += node_share_escaped(x);
    }
}
