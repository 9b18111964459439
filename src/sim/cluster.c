/* Decides what happens next in a simulated cluster: a request comes, one is done, the scaler ticks, a
 * replica is ready. It assumes what cluster.h says of replicas; requests wait in one queue of their
 * function and go to a replica as soon as one is idle. */

#include "sim/cluster.h"

#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "sim/cluster_impl.h"

static const char *const names[SIM_CLUSTER_POLICIES] = {"queue", "flat", "live", "paper",
                                                         "hybrid", "whole"};

const char *sim_cluster_policy_name(enum sim_cluster_policy policy)
{
    return names[policy];
}

int sim_cluster_policy_parse(const char *text, enum sim_cluster_policy *ret, struct fast_err *err)
{
    int found = fast_parse_name_of(names, SIM_CLUSTER_POLICIES, text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL, "\"%.40s\" is not one of queue, flat, live, paper, hybrid, whole",
                        text);
    *ret = (enum sim_cluster_policy)found;
    return 0;
}

/* ---- requests ---- */

static int enqueue(struct cluster_function *f, fast_ns came, struct fast_err *err)
{
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 256;
        fast_ns *queue = malloc(sizeof(*queue) * cap);
        if (!queue)
            return fast_err_set(err, FAST_ENOMEM, "no memory for the queue of a function");
        for (size_t i = 0; i < f->n; i++)
            queue[i] = f->queue[(f->first + i) % f->cap];
        free(f->queue);
        f->queue = queue;
        f->cap = cap;
        f->first = 0;
    }
    f->queue[(f->first + f->n++) % f->cap] = came;
    return 0;
}

static fast_ns dequeue(struct cluster_function *f)
{
    fast_ns came = f->queue[f->first];
    f->first = (f->first + 1) % f->cap;
    f->n--;
    return came;
}

struct sim_cluster_bucket *cluster_bucket(struct cluster *c, fast_ns at)
{
    int64_t i = (int64_t)((double)at / (double)c->conf->end_ns * SIM_CLUSTER_BUCKETS);
    return &c->ret->bucket[i < SIM_CLUSTER_BUCKETS ? i : SIM_CLUSTER_BUCKETS - 1];
}

void cluster_finish(struct cluster *c, int f, fast_ns came, bool answered)
{
    struct cluster_function *fn = &c->function[f];
    fn->spoilt |= !answered;
    if (fn->open > 0 && --fn->open > 0)
        return; /* a query is over with its last request, and answered when all of them are */
    answered = !fn->spoilt;
    fn->spoilt = false;
    fast_ns took = c->now - came;
    bool late = !answered || (c->conf->function[f].slo_ns && took > c->conf->function[f].slo_ns);
    fast_hist_add(&c->ret->function[f].latency, took);
    c->ret->function[f].requests++;
    c->ret->function[f].violations += late;
    c->ret->requests++;
    c->ret->violations += late;
    c->ret->timeouts += !answered;
    if (answered)
        c->ret->last_answer = c->now;
    struct sim_cluster_bucket *bucket = cluster_bucket(c, c->now);
    bucket->requests++;
    bucket->violations += late;
}

/* Whether |r| is a better choice than |best|: one that holds its quota, then the faster. */
static bool better(const struct cluster_replica *r, const struct cluster_replica *best)
{
    bool holds = r->held_milli == r->quota_milli;
    if (!best || holds != (best->held_milli == best->quota_milli))
        return !best || holds;
    return r->rps_milli > best->rps_milli;
}

/* An idle replica of |f| that holds its quota, if need be from now on; |ret_at| is when it can begin. */
static struct cluster_replica *idle_replica(struct cluster *c, int f, fast_ns *ret_at)
{
    struct cluster_replica *best = NULL;
    for (int i = 0; i < c->n; i++) {
        struct cluster_replica *r = &c->replica[i];
        if (r->function == f && !r->stopping && r->free_at == FAST_NEVER && r->ready_at <= c->now &&
            better(r, best))
            best = r;
    }
    *ret_at = c->now;
    if (!best || best->held_milli == best->quota_milli)
        return best;
    *ret_at = c->now + c->resize;
    if (cluster_hold(c, best, best->quota_milli))
        return best;
    /* Its GPU is full: another one may be on one that is not. */
    for (int i = 0; i < c->n; i++) {
        struct cluster_replica *r = &c->replica[i];
        if (r->function == f && !r->stopping && r->free_at == FAST_NEVER && r->ready_at <= c->now &&
            r->gpu != best->gpu && cluster_hold(c, r, r->quota_milli))
            return r;
    }
    return NULL;
}

/* Gives waiting requests of |f| to idle replicas. */
static void dispatch(struct cluster *c, int f)
{
    struct cluster_function *fn = &c->function[f];
    fast_ns timeout = c->conf->timeout_ns ? c->conf->timeout_ns : FAST_S(10);
    while (fn->n) {
        fast_ns at;
        if (c->now - fn->queue[fn->first] >= timeout) {
            cluster_finish(c, f, dequeue(fn), false);
            continue;
        }
        struct cluster_replica *r = idle_replica(c, f, &at);
        if (!r)
            return;
        r->came = dequeue(fn);
        r->free_at = cluster_serve(c, r, at);
        double busy = (double)r->busy_ns * r->sm_pct / 1e11;
        c->ret->busy_s += busy;
        cluster_bucket(c, c->now)->busy_s += busy;
    }
}

/* ---- time ---- */

/* Adds what |gpu| and |mem| GPUs come to since the last event, to each part of the time its own. */
static void account_parts(struct cluster *c, double gpu, double mem)
{
    const fast_ns end = c->conf->end_ns;
    for (fast_ns from = c->last, to; from < c->now; from = to) {
        struct sim_cluster_bucket *bucket = cluster_bucket(c, from);
        fast_ns k = bucket - c->ret->bucket + 1;
        to = k < SIM_CLUSTER_BUCKETS ? (fast_ns)((double)end / SIM_CLUSTER_BUCKETS * (double)k) + 1 : c->now;
        to = to <= from ? from + 1 : to < c->now ? to : c->now;
        bucket->gpu_s += (double)(to - from) / 1e9 * gpu;
        bucket->mem_s += (double)(to - from) / 1e9 * mem;
    }
}

static void account(struct cluster *c)
{
    fast_ns span = c->now - c->last;
    double gpu = 0, mem = 0;
    for (int i = 0; i < c->n; i++) {
        const struct cluster_replica *r = &c->replica[i];
        double share = (double)r->sm_pct * r->held_milli / FAST_PLANE_AREA;
        c->ret->replica_ns += span;
        c->ret->function[r->function].gpu_s += (double)span / 1e9 * share;
        gpu += share;
        mem += (double)c->conf->function[r->function].mem_bytes / (double)c->conf->gpu_mem;
    }
    c->ret->gpu_s += (double)span / 1e9 * gpu;
    c->ret->mem_s += (double)span / 1e9 * mem;
    account_parts(c, gpu, mem);
    c->last = c->now;
}

static fast_ns next_event(const struct cluster *c, fast_ns tick)
{
    fast_ns next = tick < c->conf->end_ns ? tick : c->conf->end_ns;
    for (int f = 0; f < c->conf->functions; f++) {
        const struct fast_arrivals *a = c->conf->function[f].arrivals;
        size_t at = c->function[f].next;
        if (a && at < a->count && a->at[at] < next)
            next = a->at[at];
    }
    for (int i = 0; i < c->n; i++) {
        const struct cluster_replica *r = &c->replica[i];
        if (r->free_at < next)
            next = r->free_at;
        if (r->ready_at > c->now && r->ready_at < next)
            next = r->ready_at;
        if (c->conf->policy == SIM_CLUSTER_QUEUE && r->free_at == FAST_NEVER && r->held_milli &&
            r->was_busy + FAST_SCALE_LINGER < next)
            next = r->was_busy + FAST_SCALE_LINGER;
    }
    return next > c->now ? next : c->now;
}

static void finish_replicas(struct cluster *c)
{
    for (int i = c->n - 1; i >= 0; i--) {
        struct cluster_replica *r = &c->replica[i];
        if (r->free_at > c->now)
            continue;
        cluster_finish(c, r->function, r->came, true);
        r->free_at = FAST_NEVER;
        r->was_busy = c->now;
        if (r->stopping)
            cluster_drop(c, i);
    }
}

/* Replicas that have been idle long enough guarantee themselves nothing any more. */
static void park(struct cluster *c)
{
    for (int i = 0; i < c->n; i++) {
        struct cluster_replica *r = &c->replica[i];
        if (r->free_at == FAST_NEVER && r->held_milli)
            cluster_hold(c, r, fast_scale_quota(r->quota_milli, 0, r->was_busy, c->now));
    }
}

static int arrive(struct cluster *c, int f, bool *ret_woken, struct fast_err *err)
{
    const struct sim_cluster_function *conf = &c->conf->function[f];
    struct cluster_function *fn = &c->function[f];
    const struct fast_arrivals *a = conf->arrivals;
    int rc = 0;
    for (; a && fn->next < a->count && a->at[fn->next] <= c->now && !rc; fn->next++) {
        rc = enqueue(fn, a->at[fn->next], err);
        fast_forecast_add(&fn->load.forecast, 1);
        fn->last = a->at[fn->next];
        *ret_woken = !fn->replicas;
    }
    if (conf->query && !fn->open) {
        for (int i = 0; i < conf->query && !rc; i++)
            rc = enqueue(fn, c->now, err);
        fast_forecast_add(&fn->load.forecast, (uint32_t)conf->query);
        fn->open = conf->query;
        fn->last = c->now;
        *ret_woken |= !fn->replicas;
    }
    return rc;
}

static int step(struct cluster *c, bool second, bool tick, struct fast_err *err)
{
    int rc = 0;
    finish_replicas(c);
    for (int f = 0; f < c->conf->functions && !rc; f++) {
        bool woken = false;
        rc = arrive(c, f, &woken, err);
        if (second)
            cluster_second(c, f);
        if (!rc && (tick || woken))
            rc = cluster_scale(c, f, err);
        dispatch(c, f);
    }
    if (c->conf->policy == SIM_CLUSTER_QUEUE)
        park(c);
    return rc;
}

static int run(struct cluster *c, struct fast_err *err)
{
    fast_ns period = c->conf->tick_ns ? c->conf->tick_ns : FAST_S(1), second = period;
    uint64_t ticks = 0, every = c->conf->policy == SIM_CLUSTER_HYBRID ? 2 : 1;
    int rc = 0;
    for (int f = 0; f < c->conf->functions && !rc; f++)
        if (c->conf->function[f].min > 0)
            rc = cluster_scale(c, f, err);
    for (int i = 0; i < c->n; i++)
        c->replica[i].ready_at = c->replica[i].was_busy = 0; /* warm before the first request */
    while (!rc && c->now < c->conf->end_ns) {
        fast_ns next = next_event(c, second), fail = cluster_next_failure(c);
        fast_ns move = cluster_next_move(c);
        c->now = next < fail ? next : fail;
        c->now = move < c->now ? move : c->now;
        account(c);
        if (c->now == fail)
            cluster_fail(c);
        cluster_move(c);
        bool over = c->now == second;
        rc = step(c, over, over && ++ticks % every == 0, err);
        if (over) {
            cluster_count_gpus(c, period);
            second += period;
        }
        c->ret->events++;
    }
    /* What is under way or waits at the end has not been answered; of a closed loop it does not count. */
    for (int i = 0; i < c->n && !rc; i++)
        if (c->replica[i].free_at != FAST_NEVER && !c->conf->function[c->replica[i].function].query)
            cluster_finish(c, c->replica[i].function, c->replica[i].came, false);
    for (int f = 0; f < c->conf->functions; f++)
        while (c->function[f].n && !c->conf->function[f].query)
            cluster_finish(c, f, dequeue(&c->function[f]), false);
    return rc;
}

/* The least SM x GPU time that the requests of |f| can take, on the best slice of each. */
static void count_least(struct cluster *c, int f)
{
    const struct sim_cluster_function *fn = &c->conf->function[f];
    fast_ns host, busy, least = FAST_NEVER;
    for (int i = 0; i < fast_profile_count(fn->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(fn->profile, i);
        cluster_costs(fn->profile, p->sm_pct, p->quota_milli, &host, &busy);
        if (host + busy <= (fn->slo_ns ? fn->slo_ns : FAST_NEVER) &&
            busy * p->sm_pct / FAST_SM_PCT_MAX < least)
            least = busy * p->sm_pct / FAST_SM_PCT_MAX;
    }
    if (least < FAST_NEVER)
        c->ret->function[f].least_ns = least * (int64_t)c->ret->function[f].requests;
}

int sim_cluster_run(const struct sim_cluster_conf *conf, struct sim_cluster_result *ret,
                    struct fast_err *err)
{
    const struct fast_fleet_conf fleet = {.fit = FAST_FIT_AREA, .split = true};
    if (conf->functions < 1 || conf->functions > SIM_CLUSTER_FUNCTIONS || conf->gpus < 1)
        return fast_err_set(err, FAST_EINVAL, "a cluster has GPUs, and 1 to %d functions",
                            SIM_CLUSTER_FUNCTIONS);
    const int node = conf->gpus_per_node ? conf->gpus_per_node : 4;
    memset(ret, 0, sizeof(*ret));
    struct cluster *c = calloc(1, sizeof(*c));
    int rc = c ? fast_fleet_new(&fleet, &c->fleet, err)
               : fast_err_set(err, FAST_ENOMEM, "no memory for a cluster");
    for (int i = 0, gpu; i < conf->gpus && !rc; i++) {
        const struct fast_gpu_conf it = {(uint32_t)(i / node), i % node, conf->gpu_mem};
        rc = fast_fleet_gpu_add(c->fleet, &it, &gpu, err);
    }
    if (!rc) {
        c->conf = conf;
        c->ret = ret;
        c->window = conf->window_ns ? conf->window_ns : FAST_WINDOW_DEFAULT;
        c->resize = conf->resize_ns ? conf->resize_ns : FAST_MS(5);
        c->defrag_at = conf->defrag_ns;
        c->seen = calloc((size_t)conf->gpus, sizeof(*c->seen));
        c->down = calloc((size_t)conf->gpus, sizeof(*c->down));
        rc = c->seen && c->down ? run(c, err) : fast_err_set(err, FAST_ENOMEM, "no memory for a cluster");
    }
    for (int f = 0; c && f < conf->functions; f++) {
        count_least(c, f);
        free(c->function[f].queue);
    }
    if (c) {
        fast_fleet_free(c->fleet);
        free(c->replica);
        free(c->seen);
        free(c->down);
    }
    free(c);
    return rc;
}
