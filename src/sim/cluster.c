/* Decides what happens next in a simulated cluster: a request comes, one is done, the scaler ticks, a
 * replica is ready. It assumes what cluster.h says of replicas; requests wait in one queue of their
 * function and go to a replica as soon as one is idle. */

#include "sim/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/place.h"

#define ACTIONS_MAX 64
#define BINS 10 /* seconds of the past that a trend is drawn from */
#define MEMORY 900 /* seconds that a burst is remembered */
#define BURSTY 2 /* index of dispersion of requests per second; 1: Poisson */

struct replica {
    uint64_t id;
    int function, sm_pct, quota_milli, gpu;
    int64_t rps_milli;
    fast_ns host_ns, busy_ns; /* of one request */
    fast_ns ready_at, free_at; /* FAST_NEVER: it has no request */
    fast_ns came;              /* of its request */
    int64_t window;            /* that |used_ns| is of */
    fast_ns used_ns;
    bool stopping;
};

struct function {
    fast_ns *queue; /* moments of arrival; a ring */
    size_t first, n, cap;
    size_t next; /* arrival */
    int arrived[BINS + 1]; /* by second, newest first */
    int past[MEMORY];      /* by second, a ring */
    int npast;             /* seconds that have passed */
    fast_ns last;
    int replicas;
};

struct cluster {
    const struct sim_cluster_conf *conf;
    struct sim_cluster_result *ret;
    struct fast_fleet *fleet;
    struct replica *replica;
    int n, cap;
    uint64_t next_id;
    fast_ns now, last, window;
    struct function function[SIM_CLUSTER_FUNCTIONS];
};

static const char *const names[SIM_CLUSTER_POLICIES] = {"queue", "paper", "whole"};

const char *sim_cluster_policy_name(enum sim_cluster_policy policy)
{
    return names[policy];
}

int sim_cluster_policy_parse(const char *text, enum sim_cluster_policy *ret, struct fast_err *err)
{
    for (int i = 0; i < SIM_CLUSTER_POLICIES; i++)
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum sim_cluster_policy)i;
            return 0;
        }
    return fast_err_set(err, FAST_EINVAL, "policy: %.40s is not one of queue, paper, whole", text);
}

/* ---- replicas ---- */

/* GPU time of a request on |sm|: what the lowest measured quota allows is spent on nothing else. The
 * rest of the time between two requests at full quota is the host's. */
static void costs(const struct fast_profile *profile, int sm, fast_ns *ret_host, fast_ns *ret_busy)
{
    int lowest = FAST_MILLI;
    for (int i = 0; i < fast_profile_count(profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(profile, i);
        if (p->quota_milli < lowest && p->rps_milli > 0)
            lowest = p->quota_milli;
    }
    int64_t low = fast_profile_look(profile, sm, lowest).rps_milli;
    int64_t full = fast_profile_look(profile, sm, FAST_MILLI).rps_milli;
    fast_ns whole = FAST_S(1000) / full;
    *ret_busy = FAST_S(1) * lowest / low;
    if (*ret_busy > whole)
        *ret_busy = whole;
    *ret_host = whole - *ret_busy;
}

static void note_step(struct cluster *c, int function)
{
    if (c->ret->nsteps < SIM_CLUSTER_STEPS)
        c->ret->step[c->ret->nsteps++] =
            (struct sim_cluster_step){c->now, function, c->function[function].replicas};
}

static int start(struct cluster *c, int f, int sm, int quota, struct fast_err *err)
{
    const struct sim_cluster_function *fn = &c->conf->function[f];
    const struct fast_want want = {.slice = {sm, quota, quota, fn->mem_bytes},
                                   .exclusive = c->conf->policy == SIM_CLUSTER_WHOLE,
                                   .node = FAST_ANY, .gpu = FAST_ANY};
    struct fast_placed placed;
    if (c->n == c->cap) {
        int cap = c->cap ? 2 * c->cap : 64;
        struct replica *more = realloc(c->replica, sizeof(*more) * (size_t)cap);
        if (!more)
            return fast_err_set(err, FAST_ENOMEM, "no memory for one more replica");
        c->replica = more;
        c->cap = cap;
    }
    int rc = fast_fleet_place(c->fleet, c->next_id, &want, &placed, err);
    if (rc) {
        c->ret->refused++;
        return rc == -FAST_ENOROOM ? 0 : rc;
    }
    struct replica *r = &c->replica[c->n++];
    *r = (struct replica){.id = c->next_id++, .function = f, .sm_pct = sm, .quota_milli = quota,
                          .gpu = placed.gpu, .ready_at = c->now + c->conf->start_ns,
                          .free_at = FAST_NEVER, .window = -1};
    r->rps_milli = fast_profile_look(fn->profile, sm, quota).rps_milli;
    costs(fn->profile, sm, &r->host_ns, &r->busy_ns);
    c->function[f].replicas++;
    c->ret->starts++;
    note_step(c, f);
    return 0;
}

static void drop(struct cluster *c, int i)
{
    fast_fleet_remove(c->fleet, c->replica[i].id, NULL);
    c->replica[i] = c->replica[--c->n];
}

static void stop(struct cluster *c, uint64_t id)
{
    for (int i = 0; i < c->n; i++) {
        struct replica *r = &c->replica[i];
        if (r->id != id || r->stopping)
            continue;
        c->function[r->function].replicas--;
        c->ret->stops++;
        note_step(c, r->function);
        r->stopping = true;
        if (r->free_at == FAST_NEVER)
            drop(c, i);
        return;
    }
}

/* When a request that begins now is done: host first, then GPU time, of which every window has the
 * quota. */
static fast_ns serve(struct cluster *c, struct replica *r)
{
    fast_ns at = c->now + r->host_ns, left = r->busy_ns;
    fast_ns budget = c->window * r->quota_milli / FAST_MILLI;
    while (left > 0) {
        int64_t window = at / c->window;
        fast_ns end = (window + 1) * c->window;
        if (r->window != window) {
            r->window = window;
            r->used_ns = 0;
        }
        fast_ns run = budget - r->used_ns;
        run = run > left ? left : run;
        run = run > end - at ? end - at : run;
        r->used_ns += run;
        left -= run;
        at = left > 0 ? end : at + run;
    }
    return at;
}

/* ---- requests ---- */

static int enqueue(struct function *f, fast_ns came, struct fast_err *err)
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

static fast_ns dequeue(struct function *f)
{
    fast_ns came = f->queue[f->first];
    f->first = (f->first + 1) % f->cap;
    f->n--;
    return came;
}

static void finish(struct cluster *c, int f, fast_ns came, bool answered)
{
    fast_ns took = c->now - came;
    bool late = !answered || (c->conf->function[f].slo_ns && took > c->conf->function[f].slo_ns);
    fast_hist_add(&c->ret->function[f].latency, took);
    c->ret->function[f].requests++;
    c->ret->function[f].violations += late;
    c->ret->requests++;
    c->ret->violations += late;
    c->ret->timeouts += !answered;
}

/* Gives waiting requests of |f| to idle replicas, the fastest first. */
static void dispatch(struct cluster *c, int f)
{
    struct function *fn = &c->function[f];
    fast_ns timeout = c->conf->timeout_ns ? c->conf->timeout_ns : FAST_S(10);
    while (fn->n) {
        struct replica *best = NULL;
        if (c->now - fn->queue[fn->first] >= timeout) {
            finish(c, f, dequeue(fn), false);
            continue;
        }
        for (int i = 0; i < c->n; i++) {
            struct replica *r = &c->replica[i];
            if (r->function == f && !r->stopping && r->free_at == FAST_NEVER &&
                r->ready_at <= c->now && (!best || r->rps_milli > best->rps_milli))
                best = r;
        }
        if (!best)
            return;
        best->came = dequeue(fn);
        best->free_at = serve(c, best);
        c->ret->busy_s += (double)best->busy_ns * best->sm_pct / 1e11;
    }
}

/* ---- the scaler ---- */

/* The most requests in a second that are remembered, of a stream that comes in bursts: no start is as
 * fast as a burst, so what it needs has to be there. Dispersion is taken from differences of
 * neighbours, which a slow change of the load does not raise. Else 0. */
static int burst(const struct function *f)
{
    double sum = 0, squares = 0;
    int most = 0, n = f->npast < MEMORY ? f->npast : MEMORY;
    for (int i = 1; i < n; i++) {
        int now = f->past[(f->npast - i) % MEMORY], before = f->past[(f->npast - i - 1) % MEMORY];
        sum += now;
        squares += (double)(now - before) * (now - before);
        most = now > most ? now : most;
    }
    return n > BINS && squares > 2 * BURSTY * sum ? most : 0;
}

/* The load expected |ahead|: the mean of the last seconds, their trend, and twice the deviation that a
 * Poisson stream of that rate has. */
static int64_t expect(const struct function *f, double ahead)
{
    double sum = 0, moment = 0;
    for (int i = 1; i <= BINS; i++) {
        sum += f->arrived[i];
        moment += f->arrived[i] * ((BINS + 1) / 2.0 - i);
    }
    double slope = moment * 12 / (BINS * (BINS * BINS - 1.0)), mean = sum / BINS;
    double at = mean + slope * ((BINS + 1) / 2.0 + ahead) + sqrt(mean / BINS);
    double least = burst(f);
    at = at > least ? at : least;
    return at > 0 ? (int64_t)(at * 1000) : 0;
}

static void conf_of(const struct cluster *c, int f, struct fast_scale_conf *ret)
{
    const struct sim_cluster_function *fn = &c->conf->function[f];
    *ret = (struct fast_scale_conf){.policy = FAST_SCALE_QUEUE, .min = fn->min, .max = fn->max,
                                    .slo_ns = fn->slo_ns, .slo_p99 = true,
                                    .zero_after = c->conf->zero_after ? c->conf->zero_after
                                                                      : FAST_NEVER};
    if (c->conf->policy == SIM_CLUSTER_PAPER) {
        ret->policy = FAST_SCALE_PAPER;
        ret->slo_p99 = false;
    } else if (c->conf->policy == SIM_CLUSTER_WHOLE) {
        ret->policy = FAST_SCALE_TARGET;
        ret->slice = (struct fast_slice){FAST_SM_PCT_MAX, FAST_MILLI, FAST_MILLI, 0};
        ret->target_rps_milli =
            fast_profile_look(fn->profile, FAST_SM_PCT_MAX, FAST_MILLI).rps_milli * 7 / 10;
    }
}

static int scale(struct cluster *c, int f, struct fast_err *err)
{
    struct function *fn = &c->function[f];
    struct fast_scale_conf conf;
    struct fast_scale_action actions[ACTIONS_MAX];
    static const int span = 2; /* seconds that the load is the mean of */
    struct fast_scale_replica *list = malloc(sizeof(*list) * (size_t)(c->n + 1));
    int n = 0, load = 0, rc = 0;
    if (!list)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the replicas of a function");
    conf_of(c, f, &conf);
    for (int i = 0; i < c->n; i++)
        if (c->replica[i].function == f && !c->replica[i].stopping)
            list[n++] = (struct fast_scale_replica){c->replica[i].id, c->replica[i].sm_pct,
                                                    c->replica[i].quota_milli,
                                                    c->replica[i].rps_milli};
    for (int i = 1; i <= span; i++)
        load += fn->arrived[i];
    struct fast_scale_input in = {.now = c->now, .load_milli = (int64_t)load * 1000 / span,
                                  .expected_milli = expect(fn, (double)c->conf->start_ns / 1e9 + 1),
                                  .queued = (int)fn->n, .last_request = fn->last,
                                  .profile = conf.policy == FAST_SCALE_TARGET
                                                 ? NULL
                                                 : c->conf->function[f].profile,
                                  .replicas = list, .nreplicas = n};
    if (in.load_milli == 0 && fn->n)
        in.load_milli = (int64_t)fn->n * 1000;
    int actions_n = fast_scale_decide(&conf, &in, actions, ACTIONS_MAX, err);
    for (int i = 0; i < actions_n && !rc; i++) {
        if (actions[i].kind == FAST_SCALE_START)
            rc = start(c, f, actions[i].sm_pct, actions[i].quota_milli, err);
        else
            stop(c, actions[i].id);
    }
    free(list);
    return actions_n < 0 ? actions_n : rc;
}

/* The GPU of the first replica is gone, with what ran there; requests of it are answered 502. */
static void fail_gpu(struct cluster *c)
{
    if (!c->n)
        return;
    int gpu = c->replica[0].gpu;
    fast_fleet_gpu_open(c->fleet, gpu, false);
    for (int i = c->n - 1; i >= 0; i--) {
        struct replica *r = &c->replica[i];
        if (r->gpu != gpu)
            continue;
        if (r->free_at != FAST_NEVER)
            finish(c, r->function, r->came, false);
        if (!r->stopping) {
            c->function[r->function].replicas--;
            note_step(c, r->function);
        }
        drop(c, i);
    }
}

/* ---- time ---- */

static void account(struct cluster *c)
{
    fast_ns span = c->now - c->last;
    for (int i = 0; i < c->n; i++) {
        const struct replica *r = &c->replica[i];
        double share = (double)span / 1e9 * r->sm_pct * r->quota_milli / FAST_PLANE_AREA;
        c->ret->replica_ns += span;
        c->ret->gpu_s += share;
        c->ret->function[r->function].gpu_s += share;
    }
    c->last = c->now;
}

static fast_ns next_event(const struct cluster *c, fast_ns tick)
{
    fast_ns next = tick < c->conf->end_ns ? tick : c->conf->end_ns;
    for (int f = 0; f < c->conf->functions; f++) {
        const struct fast_arrivals *a = c->conf->function[f].arrivals;
        size_t at = c->function[f].next;
        if (at < a->count && a->at[at] < next)
            next = a->at[at];
    }
    for (int i = 0; i < c->n; i++) {
        const struct replica *r = &c->replica[i];
        if (r->free_at < next)
            next = r->free_at;
        if (r->ready_at > c->now && r->ready_at < next)
            next = r->ready_at;
    }
    return next;
}

static int step(struct cluster *c, bool tick, struct fast_err *err)
{
    int rc = 0;
    for (int i = c->n - 1; i >= 0; i--) {
        struct replica *r = &c->replica[i];
        if (r->free_at > c->now)
            continue;
        finish(c, r->function, r->came, true);
        r->free_at = FAST_NEVER;
        if (r->stopping)
            drop(c, i);
    }
    for (int f = 0; f < c->conf->functions && !rc; f++) {
        struct function *fn = &c->function[f];
        const struct fast_arrivals *a = c->conf->function[f].arrivals;
        bool woken = false;
        for (; fn->next < a->count && a->at[fn->next] <= c->now && !rc; fn->next++) {
            rc = enqueue(fn, a->at[fn->next], err);
            fn->arrived[0]++;
            fn->last = a->at[fn->next];
            woken = !fn->replicas;
        }
        if (tick) {
            fn->past[fn->npast++ % MEMORY] = fn->arrived[0];
            memmove(&fn->arrived[1], &fn->arrived[0], sizeof(int) * BINS);
            fn->arrived[0] = 0;
        }
        if (!rc && (tick || woken))
            rc = scale(c, f, err);
        dispatch(c, f);
    }
    return rc;
}

static int run(struct cluster *c, struct fast_err *err)
{
    fast_ns period = c->conf->tick_ns ? c->conf->tick_ns : FAST_S(1), tick = period;
    fast_ns fail = c->conf->fail_gpu_at ? c->conf->fail_gpu_at : FAST_NEVER;
    int rc = 0;
    for (int f = 0; f < c->conf->functions && !rc; f++)
        if (c->conf->function[f].min > 0)
            rc = scale(c, f, err);
    for (int i = 0; i < c->n; i++)
        c->replica[i].ready_at = 0; /* what stands before the first request is warm */
    while (!rc && c->now < c->conf->end_ns) {
        fast_ns next = next_event(c, tick);
        c->now = next < fail ? next : fail;
        account(c);
        if (c->now == fail) {
            fail_gpu(c);
            fail = FAST_NEVER;
        }
        rc = step(c, c->now == tick, err);
        if (c->now == tick)
            tick += period;
        c->ret->events++;
    }
    /* What still waits at the end has not been answered. */
    for (int f = 0; f < c->conf->functions; f++)
        while (c->function[f].n)
            finish(c, f, dequeue(&c->function[f]), false);
    return rc;
}

int sim_cluster_run(const struct sim_cluster_conf *conf, struct sim_cluster_result *ret,
                    struct fast_err *err)
{
    const struct fast_fleet_conf fleet = {.fit = FAST_FIT_AREA, .split = true};
    if (conf->functions < 1 || conf->functions > SIM_CLUSTER_FUNCTIONS || conf->gpus < 1)
        return fast_err_set(err, FAST_EINVAL, "a cluster has GPUs, and 1 to %d functions",
                            SIM_CLUSTER_FUNCTIONS);
    memset(ret, 0, sizeof(*ret));
    struct cluster *c = calloc(1, sizeof(*c));
    int rc = c ? fast_fleet_new(&fleet, &c->fleet, err)
               : fast_err_set(err, FAST_ENOMEM, "no memory for a cluster");
    for (int i = 0, gpu; i < conf->gpus && !rc; i++) {
        const struct fast_gpu_conf it = {(uint32_t)i, 0, conf->gpu_mem};
        rc = fast_fleet_gpu_add(c->fleet, &it, &gpu, err);
    }
    if (!rc) {
        c->conf = conf;
        c->ret = ret;
        c->window = conf->window_ns ? conf->window_ns : FAST_WINDOW_DEFAULT;
        rc = run(c, err);
    }
    for (int f = 0; c && f < conf->functions; f++)
        free(c->function[f].queue);
    if (c) {
        fast_fleet_free(c->fleet);
        free(c->replica);
    }
    free(c);
    return rc;
}
