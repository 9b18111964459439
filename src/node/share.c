/* What one replica holds: its place in the token scheduler, the turn of its processes, its memory.
 * It assumes the one thread of the loop. A token of the scheduler may pass through several processes
 * before it goes back; each holding has a number of its own in the client's page, since a number is
 * never used twice. */
#include "node/manager.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define INFLIGHT FAST_MS(2)    /* a client keeps no more work than this in flight */
#define GRACE FAST_S(10)       /* and works on for this long without a node */
#define LAUNCH_SHARES_MAX 1024 /* by_client grows in steps */

static struct fast_grant *grant_of(const struct node_session *s)
{
    return &s->pages.limits->gpu[0]; /* a replica has one GPU, which it sees as its first */
}

/* ---- the turn of the processes ---- */

static void queue_push(struct node_share *s, struct node_session *x)
{
    if (x->queued)
        return;
    x->queued = true;
    x->queue_next = NULL;
    if (s->queue_last)
        s->queue_last->queue_next = x;
    else
        s->queue = x;
    s->queue_last = x;
}

static void queue_remove(struct node_share *s, struct node_session *x)
{
    struct node_session *before = NULL;
    if (!x->queued)
        return;
    for (struct node_session *q = s->queue; q != x; q = q->queue_next)
        before = q;
    if (before)
        before->queue_next = x->queue_next;
    else
        s->queue = x->queue_next;
    if (s->queue_last == x)
        s->queue_last = before;
    x->queued = false;
}

static void take_back(struct node_share *s)
{
    struct fast_grant *g = grant_of(s->holder);
    if (atomic_load_explicit(&g->token, memory_order_relaxed) == 0)
        return;
    atomic_store_explicit(&g->token, 0, memory_order_release);
    node_pages_wake(g);
}

/* Gives the share's token to the first process that waits. */
static void hand_on(struct node_share *s, bool contended)
{
    struct node_session *x = s->queue;
    struct fast_grant *g = grant_of(x);
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
    atomic_store_explicit(&grant_of(s->holder)->token, 0, memory_order_release);
    struct node_session *was = s->holder;
    s->holder = NULL;
    if (!s->revoked && s->queue && s->queue != was)
        hand_on(s, s->pool->contended);
    else
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
        else
            give_back(s); /* who wanted it is gone */
        return;
    }
    if (!s->holder)
        return;
    if (s->queue)
        take_back(s); /* another process of the replica is next */
    else
        atomic_store_explicit(&grant_of(s->holder)->until_ns, s->until, memory_order_relaxed);
}

void node_share_revoked(struct node_share *s)
{
    s->revoked = true;
    if (s->holder)
        take_back(s);
    else if (s->token)
        give_back(s);
}

void node_share_contended(struct node_share *s, bool contended)
{
    if (s->holder)
        atomic_store_explicit(&grant_of(s->holder)->contended, contended || s->queue,
                              memory_order_release);
}

/* From a holder it crosses a token that it has not seen, or has just lost: what it still wants, it says
 * when it gives that back. */
void node_share_want(struct node_share *s, struct node_session *x, bool again)
{
    if (s->pool->m->conf.policy == FAST_POLICY_RACING) {
        x->wished = true;
        return;
    }
    if (x->queued || x == s->holder)
        return;
    if (again) {
        s->pool->m->lost_wishes++;
        fast_log(WARN, "wish was lost", "replica=%s pid=%d last=%llu", s->replica->id, x->pid,
                 (unsigned long long)atomic_load(&grant_of(x)->last));
    }
    queue_push(s, x);
    if (s->token) {
        node_share_contended(s, true);
        return;
    }
    fast_sched_want(s->pool->sched, s->client, fast_clock_now());
    node_pool_apply(s->pool);
}

bool node_share_done(struct node_share *s, struct node_session *x, uint64_t token, fast_ns busy,
                     bool want)
{
    if (s->holder != x || token != s->holder_token)
        return false;
    x->wished = false;
    if (want && s->pool->m->conf.policy == FAST_POLICY_RACING)
        x->wished = true;
    else if (want)
        queue_push(s, x);
    end_holding(s, busy);
    return true;
}

void node_share_resume(struct node_share *s)
{
    for (struct node_session *x = s->sessions; x; x = x->share_next) {
        bool wished = x->wished;
        x->wished = false;
        if (wished)
            node_share_want(s, x, false);
    }
}

/* ---- processes ---- */

void node_share_attach(struct node_share *s, struct node_session *x)
{
    x->share = s;
    x->mem.of = &s->mem;
    x->share_prev = NULL;
    x->share_next = s->sessions;
    if (s->sessions)
        s->sessions->share_prev = x;
    s->sessions = x;
    s->session_count++;
    node_share_publish(s);
}

void node_share_detach(struct node_share *s, struct node_session *x)
{
    const struct fast_counters *c = &x->pages.counters->gpu[0];
    fast_ns life = fast_clock_now() - x->opened;
    int64_t busy = atomic_load(&c->busy_ns);
    s->dead_launches += fast_counters_launches(c);
    s->dead_busy_ns += busy < 0 ? 0 : busy > life ? life : busy;
    node_ledger_set(&x->mem, 0);
    queue_remove(s, x);
    if (x->share_prev)
        x->share_prev->share_next = x->share_next;
    else
        s->sessions = x->share_next;
    if (x->share_next)
        x->share_next->share_prev = x->share_prev;
    s->session_count--;
    x->share = NULL;
    if (s->holder == x) {
        end_holding(s, INT64_MAX); /* what it ran is unknown: all the time counts */
    } else if (!s->token && !s->queue) {
        fast_sched_unwant(s->pool->sched, s->client, fast_clock_now());
        node_pool_apply(s->pool);
    }
    node_share_publish(s);
}

void node_share_publish(struct node_share *s)
{
    uint32_t gated = s->pool->m->conf.policy != FAST_POLICY_RACING;
    for (struct node_session *x = s->sessions; x; x = x->share_next) {
        struct fast_limits_page *l = x->pages.limits;
        struct fast_grant *g = grant_of(x);
        atomic_store(&l->epoch, s->pool->m->node->epoch);
        atomic_store(&l->grace_ns, GRACE);
        atomic_store(&l->inflight_ns, INFLIGHT);
        atomic_store(&l->pulse_ns, fast_clock_now());
        atomic_store(&g->sm_pct, (uint32_t)s->replica->sm_running);
        atomic_store(&g->limit_milli, (uint32_t)s->replica->slice.limit_milli);
        atomic_store(&g->mem_cap_bytes, s->mem.cap);
        atomic_store(&g->mem_used_bytes, s->mem.used);
        if (atomic_exchange(&l->gated, gated) != gated)
            node_pages_wake(g);
    }
}

/* ---- for the agent ---- */

static int slice_check(const struct node_manager *m, const struct node_replica *r,
                       struct fast_slice *ret, struct fast_err *err)
{
    *ret = r->slice;
    if (r->sm_running > 0)
        ret->sm_pct = r->sm_running;
    if (r->gpu >= (uint32_t)m->pools)
        return fast_err_set(err, FAST_EINVAL, "GPU %u: this node has %d (numbered from 0)", r->gpu,
                            m->pools);
    int code = fast_slice_check(&r->slice, err);
    if (!code)
        code = fast_slice_check(ret, err);
    uint64_t total = m->pool[r->gpu].device.total;
    if (!code && r->slice.mem_bytes > total)
        return fast_err_set(err, FAST_EINVAL, "memory cap: %llu bytes are more than the %llu of GPU %u",
                            (unsigned long long)r->slice.mem_bytes, (unsigned long long)total, r->gpu);
    return code;
}

static int remember(struct node_pool *pool, struct node_share *s, struct fast_err *err)
{
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
    return 0;
}

int node_share_add(struct node_manager *m, struct node_replica *replica, struct fast_err *err)
{
    struct fast_slice slice;
    int r = slice_check(m, replica, &slice, err);
    if (r)
        return r;
    struct node_pool *pool = &m->pool[replica->gpu];
    struct node_share *s = calloc(1, sizeof(*s));
    if (!s)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
    s->pool = pool;
    s->replica = replica;
    s->mem.device = &pool->device;
    s->mem.cap = replica->slice.mem_bytes;
    s->client = fast_sched_add(pool->sched, &slice, fast_clock_now(), err);
    if (s->client < 0) {
        r = s->client;
        free(s);
        return r;
    }
    r = remember(pool, s, err);
    if (r) {
        fast_sched_remove(pool->sched, s->client, fast_clock_now());
        free(s);
        return r;
    }
    s->next = pool->shares;
    if (s->next)
        s->next->prev = s;
    pool->shares = s;
    replica->share = s;
    node_pool_apply(pool);
    return 0;
}

int node_share_update(struct node_manager *m, struct node_replica *replica, struct fast_err *err)
{
    struct fast_slice slice;
    struct node_share *s = replica->share;
    if (!s)
        return fast_err_set(err, FAST_ENOENT, "replica %s has no share", replica->id);
    int r = slice_check(m, replica, &slice, err);
    if (!r)
        r = fast_sched_resize(s->pool->sched, s->client, &slice, fast_clock_now(), err);
    if (r)
        return r;
    s->mem.cap = replica->slice.mem_bytes;
    node_share_publish(s);
    node_pool_apply(s->pool);
    return 0;
}

void node_share_remove(struct node_manager *m, struct node_replica *replica)
{
    struct node_share *s = replica->share;
    (void)m;
    if (!s)
        return;
    while (s->sessions)
        node_session_close(s->sessions);
    s->pool->by_client[s->client] = NULL;
    fast_sched_remove(s->pool->sched, s->client, fast_clock_now());
    if (s->prev)
        s->prev->next = s->next;
    else
        s->pool->shares = s->next;
    if (s->next)
        s->next->prev = s->prev;
    node_pool_apply(s->pool);
    replica->share = NULL;
    free(s);
}

int node_share_mps_clients(const struct node_replica *replica, int *pids, int max)
{
    int n = 0;
    const struct node_session *x = replica->share ? replica->share->sessions : NULL;
    for (; x && n < max; x = x->share_next)
        if (x->mps && x->pid > 1)
            pids[n++] = x->pid;
    return n;
}

void node_share_deadline(const struct node_replica *replica, fast_ns deadline)
{
    const struct node_share *s = replica->share;
    fast_sched_deadline(s->pool->sched, s->client, deadline, fast_clock_now());
    node_pool_apply(s->pool);
}

void node_share_stats(struct node_manager *m, const struct node_replica *replica,
                      struct fast_msg_replica_stats *ret)
{
    const struct node_share *s = replica->share;
    fast_ns now = fast_clock_now();
    (void)m;
    *ret = (struct fast_msg_replica_stats){.replica = ret->replica, .gpu = replica->gpu};
    if (!s)
        return;
    struct fast_sched_stats st = fast_sched_stats(s->pool->sched, s->client, now);
    ret->clients = s->session_count;
    ret->launches = s->dead_launches;
    ret->busy_ns = s->dead_busy_ns;
    for (const struct node_session *x = s->sessions; x; x = x->share_next) {
        const struct fast_counters *c = &x->pages.counters->gpu[0];
        fast_ns life = now - x->opened;
        int64_t busy = atomic_load(&c->busy_ns);
        ret->launches += fast_counters_launches(c);
        ret->busy_ns += busy < 0 ? 0 : busy > life ? life : busy;
    }
    ret->tokens = st.tokens;
    ret->held_ns = st.held_ns;
    ret->wait_ns = st.wait_ns;
    ret->throttled_ns = st.throttled_ns;
    ret->overrun_ns = st.overrun_ns;
    ret->mem_bytes = s->mem.used;
    ret->mem_refused = s->mem.refused;
    ret->holds_token = s->holder != NULL;
    ret->windows = st.windows;
    ret->windows_ns = st.windows_ns;
    ret->short_ns = st.short_ns;
    ret->deadline_ns = st.deadline;
    for (const struct node_session *x = s->sessions; x; x = x->share_next) {
        ret->mem_device += x->mem.family[FAST_FAMILY_DEVICE];
        ret->mem_managed += x->mem.family[FAST_FAMILY_MANAGED];
        ret->mem_pool += x->mem.family[FAST_FAMILY_POOL];
        ret->mem_vmm += x->mem.family[FAST_FAMILY_VMM];
        ret->mem_array += x->mem.family[FAST_FAMILY_ARRAY];
        ret->sm_count = x->sm_count > ret->sm_count ? x->sm_count : ret->sm_count;
        ret->without_mps += x->reported && !x->mps;
    }
}
