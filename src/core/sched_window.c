/* Keeps windows, and the plan that cuts them into slots. It assumes that the schedulers of a domain began their
 * windows at the same moment (sched_gang.c sees to that), so that they share one plan. */
#include "core/sched_impl.h"

#include <string.h>

void sched_rekey(struct fast_sched *s, struct client *c)
{
    if (c->state != CLIENT_READY)
        return;
    sched_ready_remove(s, c);
    sched_ready_insert(s, c);
}

/* Notes what the window that ends at |end| gave to |c|; the last of |windows|, in which nothing has
 * happened but the first. */
static void close_window(const struct fast_sched *s, struct client *c, fast_ns end, int64_t windows)
{
    bool holds = c->state == CLIENT_HOLD || c->state == CLIENT_DRAIN;
    fast_ns from = c->granted_at > s->window_at ? c->granted_at : s->window_at;
    c->sum.windows += (uint64_t)windows;
    c->sum.windows_ns = c->sum.charged_ns + (holds ? end - c->granted_at : 0);
    fast_ns got = c->quota.used_ns - c->quota.debt_ns + (holds ? end - from : 0);
    fast_ns due = c->quota.limit_ns - c->quota.debt_ns;
    due = c->quota.request_ns < due ? c->quota.request_ns : due;
    if (windows == 1 && !c->rested && got < due)
        c->sum.short_ns += due - got;
    c->rested = c->state == CLIENT_IDLE;
}

/* ---- the plan ---- */

struct planned {
    struct fast_sched *s;
    int client;
    int64_t area; /* of all its GPUs */
};

/* A gang is planned once, with its part on the first of its GPUs. */
static bool is_planned(const struct fast_sched *s, const struct client *c)
{
    return c->state != CLIENT_FREE && c->quota.request_ns > 0 &&
           (!c->gang || __builtin_ctz(c->gang->gpus) == s->gpu);
}

/* Those with the largest requests, of the whole domain; beyond FAST_PLAN_CLIENTS they get theirs by order
 * alone. */
static int collect(struct fast_sched *s, struct planned *list)
{
    int n = 0;
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        struct fast_sched *of = sched_of(s, d);
        for (int i = 0; i < of->used; i++) {
            const struct client *c = &of->clients[i];
            int at = n;
            if (!is_planned(of, c))
                continue;
            int gpus = c->gang ? __builtin_popcount(c->gang->gpus) : 1;
            int64_t area = (int64_t)sched_width(of, c) * c->quota.request_ns * gpus;
            for (int k = 0; n == FAST_PLAN_CLIENTS && k < n; k++)
                if (at == n || list[k].area < list[at].area)
                    at = k;
            if (n < FAST_PLAN_CLIENTS)
                n++;
            else if (list[at].area >= area)
                continue;
            list[at] = (struct planned){of, i, area};
        }
    }
    return n;
}

static void enter(struct fast_sched *s, const struct planned *p, int i, struct fast_plan_item *ret)
{
    const struct client *c = &p->s->clients[p->client];
    uint32_t gpus = c->gang ? c->gang->gpus : s->gangs ? UINT32_C(1) << p->s->gpu : 1;
    *ret = (struct fast_plan_item){sched_width(p->s, c), c->quota.request_ns, gpus};
    for (uint32_t d = gpus; d; d &= d - 1) {
        struct fast_sched *of = sched_of(s, d);
        of->plan_client[i] = c->gang ? c->gang->client[of->gpu] : p->client;
        of->plan_sm[i] = sched_width(p->s, c);
        of->plan_request[i] = c->quota.request_ns;
        of->clients[of->plan_client[i]].plan_i = i;
    }
}

/* A plan for larger requests is one for these too: who has no work for a while, and is told to need nothing, costs no
 * linear program when it goes and none when it is back. */
static bool still_serves(struct fast_sched *s)
{
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        const struct fast_sched *of = sched_of(s, d);
        if (of->plan_void || of->plan.length_ns > of->conf.window_ns)
            return false;
        for (int i = 0; i < of->used; i++) {
            const struct client *c = &of->clients[i];
            int k = c->plan_i;
            if (is_planned(of, c) &&
                (k < 0 || sched_width(of, c) != of->plan_sm[k] || c->quota.request_ns > of->plan_request[k]))
                return false;
        }
    }
    return true;
}

static void replan(struct fast_sched *s)
{
    struct fast_plan_item items[FAST_PLAN_CLIENTS];
    struct planned list[FAST_PLAN_CLIENTS];
    bool none = s->conf.greedy || s->conf.policy == FAST_POLICY_RACING;
    int n = none ? 0 : collect(s, list);
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        struct fast_sched *of = sched_of(s, d);
        of->plan_void = false;
        of->plans++;
        for (int i = 0; i < of->used; i++)
            of->clients[i].plan_i = -1;
        for (int i = 0; i < n; i++)
            of->plan_client[i] = -1;
    }
    for (int i = 0; i < n; i++)
        enter(s, &list[i], i, &items[i]);
    fast_plan_make(items, n, s->conf.window_ns, &s->plan);
    for (uint32_t d = sched_domain(s); d; d &= d - 1)
        if (sched_of(s, d) != s)
            sched_of(s, d)->plan = s->plan;
}

static int slot_at(const struct fast_sched *s, fast_ns offset)
{
    int i = 0;
    while (i < s->plan.slots - 1 && s->plan.end_ns[i] <= offset)
        i++;
    return i;
}

/* ---- windows ---- */

void sched_window_begin(struct fast_sched *s, fast_ns at)
{
    bool old = false;
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        struct fast_sched *of = sched_of(s, d);
        of->window_at = at;
        of->window_used = false;
        old |= of->plan_old;
        of->plan_old = false;
        for (int i = 0; i < of->used; i++) {
            struct client *c = &of->clients[i];
            /* A token that runs on into this window has used some of it already. */
            of->window_used |= c->state == CLIENT_HOLD || c->state == CLIENT_DRAIN;
            if (c->state == CLIENT_READY)
                sched_ready_remove(of, c);
        }
    }
    if (old && !still_serves(s))
        replan(s);
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        struct fast_sched *of = sched_of(s, d);
        of->slot = slot_at(of, of->now - at);
        for (int i = 0; i < of->used; i++)
            if (of->clients[i].state == CLIENT_READY)
                sched_ready_insert(of, &of->clients[i]);
    }
}

void sched_plan_fresh(struct fast_sched *s)
{
    bool old = false, used = false, waiting = false;
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        const struct fast_sched *of = sched_of(s, d);
        old |= of->plan_old;
        used |= of->window_used;
        waiting |= sched_waiting(of) > 0;
    }
    if (old && !used && waiting)
        sched_window_begin(s, s->window_at);
}

static void rekey_owners(struct fast_sched *s, uint64_t owners)
{
    for (; owners; owners &= owners - 1) {
        int i = __builtin_ctzll(owners), client = s->plan_client[i];
        if (client >= 0 && s->clients[client].plan_i == i)
            sched_rekey(s, &s->clients[client]);
    }
}

static void next_slot(struct fast_sched *s)
{
    int slot = slot_at(s, s->now - s->window_at);
    if (slot == s->slot)
        return;
    uint64_t owners = s->plan.owners[s->slot] ^ s->plan.owners[slot];
    s->slot = slot;
    rekey_owners(s, owners);
}

void sched_advance(struct fast_sched *s, fast_ns now)
{
    for (uint32_t d = sched_domain(s); d; d &= d - 1)
        now = sched_of(s, d)->now > now ? sched_of(s, d)->now : now;
    int64_t k = (now - s->window_at) / s->conf.window_ns;
    fast_ns end = s->window_at + k * s->conf.window_ns;
    for (uint32_t d = sched_domain(s); d; d &= d - 1) {
        struct fast_sched *of = sched_of(s, d);
        of->now = now;
        if (k == 0)
            next_slot(of);
        for (int i = 0; k > 0 && i < of->used; i++) {
            close_window(of, &of->clients[i], end, k);
            fast_quota_roll(&of->clients[i].quota, k, !of->conf.whole_tokens);
        }
    }
    if (k > 0)
        sched_window_begin(s, end);
}

fast_ns fast_sched_expiry(const struct fast_sched *s)
{
    struct fast_tree_node *n = fast_tree_first(&s->timed);
    fast_ns at = n ? n->key[0] : FAST_NEVER;
    if (sched_waiting(s) || s->throttled) {
        fast_ns end = s->window_at + s->conf.window_ns;
        if (sched_waiting(s) && s->slot < s->plan.slots)
            end = s->window_at + s->plan.end_ns[s->slot];
        at = end < at ? end : at;
    }
    return at;
}
