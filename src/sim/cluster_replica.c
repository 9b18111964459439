/* Decides how long a request takes on a simulated replica, and what becomes of replicas that start, stop
 * or fail. It assumes that a profile's throughput at a slice is what the slice gives: GPU time of a
 * request is the quota over the throughput, or what the host leaves of the time between two. */

#include <stdlib.h>

#include "sim/cluster_impl.h"

/* Never 0: what a profile calls so is taken as the least it can say, a request in 1000 s. */
static int64_t rps_at(const struct fast_profile *profile, int sm, int quota)
{
    int64_t rps = fast_profile_look(profile, sm, quota).rps_milli;
    return rps > 0 ? rps : 1;
}

/* The host's part does not depend on the slice: it is what remains of a request at the widest partition
 * and full quota, when the lowest measured quota, where nothing but GPU time counts, tells that. */
static fast_ns host_time(const struct fast_profile *profile)
{
    int lowest = FAST_MILLI;
    for (int i = 0; i < fast_profile_count(profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(profile, i);
        if (p->quota_milli < lowest && p->rps_milli > 0)
            lowest = p->quota_milli;
    }
    int64_t low = rps_at(profile, FAST_SM_PCT_MAX, lowest);
    int64_t full = rps_at(profile, FAST_SM_PCT_MAX, FAST_MILLI);
    fast_ns whole = FAST_S(1000) / full, busy = FAST_S(1) * lowest / low;
    return busy < whole ? whole - busy : 0;
}

void cluster_costs(const struct fast_profile *profile, int sm, int quota, fast_ns *ret_host,
                   fast_ns *ret_busy)
{
    int64_t rps = rps_at(profile, sm, quota);
    fast_ns whole = FAST_S(1000) / rps, busy = FAST_S(1) * quota / rps;
    *ret_host = host_time(profile);
    *ret_busy = busy < whole - *ret_host ? busy : whole - *ret_host;
    if (*ret_busy < 1)
        *ret_busy = 1;
}

static void note_step(struct cluster *c, int function)
{
    if (c->ret->nsteps < SIM_CLUSTER_STEPS)
        c->ret->step[c->ret->nsteps++] =
            (struct sim_cluster_step){c->now, function, c->function[function].replicas};
}

static int more_room(struct cluster *c, struct fast_err *err)
{
    if (c->n < c->cap)
        return 0;
    int cap = c->cap ? 2 * c->cap : 64;
    struct cluster_replica *more = realloc(c->replica, sizeof(*more) * (size_t)cap);
    if (!more)
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more replica");
    c->replica = more;
    c->cap = cap;
    return 0;
}

int cluster_start_at(struct cluster *c, int f, const struct fast_want *want, struct cluster_replica **ret,
                     struct fast_err *err)
{
    const struct sim_cluster_function *fn = &c->conf->function[f];
    const int sm = want->slice.sm_pct, quota = want->slice.request_milli;
    struct fast_placed placed;
    int rc = more_room(c, err);
    *ret = NULL;
    if (rc)
        return rc;
    rc = fast_fleet_place(c->fleet, c->next_id, want, &placed, err);
    if (rc) {
        c->ret->refused++;
        return rc == -FAST_ENOROOM ? 0 : rc;
    }
    struct cluster_replica *r = &c->replica[c->n++];
    *r = (struct cluster_replica){.id = c->next_id++, .function = f, .sm_pct = sm,
                                  .quota_milli = quota, .held_milli = quota, .gpu = placed.gpu,
                                  .ready_at = c->now + c->conf->start_ns, .free_at = FAST_NEVER,
                                  .was_busy = c->now + c->conf->start_ns, .window = -1};
    if (quota) {
        r->rps_milli = fast_profile_look(fn->profile, sm, quota).rps_milli;
        cluster_costs(fn->profile, sm, quota, &r->host_ns, &r->busy_ns);
    }
    *ret = r;
    return 0;
}

int cluster_start(struct cluster *c, int f, int sm, int quota, struct fast_err *err)
{
    const struct fast_want want = {.slice = {sm, quota, quota, c->conf->function[f].mem_bytes},
                                   .exclusive = c->conf->policy == SIM_CLUSTER_WHOLE,
                                   .node = FAST_ANY, .gpu = FAST_ANY};
    struct cluster_replica *r;
    int rc = cluster_start_at(c, f, &want, &r, err);
    if (rc || !r)
        return rc;
    c->ret->cold += !c->function[f].replicas;
    c->function[f].replicas++;
    c->ret->starts++;
    note_step(c, f);
    return 0;
}

void cluster_drop(struct cluster *c, int i)
{
    fast_fleet_remove(c->fleet, c->replica[i].id, NULL);
    c->replica[i] = c->replica[--c->n];
}

void cluster_stop(struct cluster *c, uint64_t id)
{
    for (int i = 0; i < c->n; i++) {
        struct cluster_replica *r = &c->replica[i];
        if (r->id != id || r->stopping)
            continue;
        c->function[r->function].replicas--;
        c->ret->stops++;
        note_step(c, r->function);
        r->stopping = true;
        if (r->free_at == FAST_NEVER)
            cluster_drop(c, i);
        return;
    }
}

static bool resize(struct cluster *c, struct cluster_replica *r, int milli)
{
    const uint64_t mem = c->conf->function[r->function].mem_bytes;
    const struct fast_slice slice = {r->sm_pct, milli, milli ? milli : 1, mem};
    struct fast_placed placed;
    struct fast_err err;
    return !fast_fleet_resize(c->fleet, r->id, &slice, &placed, &err);
}

bool cluster_hold(struct cluster *c, struct cluster_replica *r, int milli)
{
    if (r->held_milli == milli)
        return true;
    if (!resize(c, r, milli)) {
        c->ret->unraised++;
        return false;
    }
    /* What has passed of the window has been granted to others. */
    fast_ns into = c->now % c->window;
    if (milli > r->held_milli && r->window != c->now / c->window) {
        r->window = c->now / c->window;
        r->used_ns = into * milli / FAST_MILLI;
    }
    r->held_milli = milli;
    c->ret->resizes++;
    return true;
}

bool cluster_resize(struct cluster *c, struct cluster_replica *r, int quota_milli)
{
    const struct fast_profile *profile = c->conf->function[r->function].profile;
    if (!resize(c, r, quota_milli))
        return false;
    r->quota_milli = r->held_milli = quota_milli;
    r->rps_milli = fast_profile_look(profile, r->sm_pct, quota_milli).rps_milli;
    cluster_costs(profile, r->sm_pct, quota_milli, &r->host_ns, &r->busy_ns);
    c->ret->resizes++;
    return true;
}

fast_ns cluster_serve(struct cluster *c, struct cluster_replica *r, fast_ns at)
{
    fast_ns left = r->busy_ns, budget = c->window * r->quota_milli / FAST_MILLI;
    at += r->host_ns;
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
        run = run > 0 ? run : 0;
        r->used_ns += run;
        left -= run;
        at = left > 0 ? end : at + run;
    }
    return at;
}

/* ---- failures ---- */

/* Takes away the replicas on GPUs |from| up to |to|, or the one that is |id|. */
static void lose(struct cluster *c, int from, int to, uint64_t id)
{
    for (int i = c->n - 1; i >= 0; i--) {
        struct cluster_replica *r = &c->replica[i];
        if (from < to ? r->gpu < from || r->gpu >= to : r->id != id)
            continue;
        if (r->free_at != FAST_NEVER) {
            cluster_finish(c, r->function, r->came, false);
            c->ret->lost++;
        }
        if (!r->stopping && !r->replaces) {
            c->function[r->function].replicas--;
            note_step(c, r->function);
        }
        cluster_drop(c, i);
    }
}

static void fail_one(struct cluster *c, int k)
{
    const struct sim_cluster_failure *it = &c->conf->failure[k];
    const int node = c->conf->gpus_per_node ? c->conf->gpus_per_node : 4;
    const struct cluster_replica *oldest = NULL;
    c->failed[k] = true;
    c->back[k] = FAST_NEVER;
    for (int i = 0; i < c->n; i++)
        if (!oldest || c->replica[i].id < oldest->id)
            oldest = &c->replica[i];
    if (!oldest)
        return;
    c->ret->failures++;
    int from = oldest->gpu, to = from;
    if (it->kind == SIM_FAIL_GPU) {
        to = from + 1;
    } else if (it->kind == SIM_FAIL_NODE) {
        from -= from % node;
        to = from + node < c->conf->gpus ? from + node : c->conf->gpus;
    }
    for (int g = from; g < to; g++) {
        c->down[g]++;
        fast_fleet_gpu_open(c->fleet, g, false);
    }
    if (it->back_after)
        c->back[k] = c->now + it->back_after;
    c->gone_from[k] = from;
    c->gone_to[k] = to;
    lose(c, from, to, oldest->id);
}

void cluster_fail(struct cluster *c)
{
    for (int k = 0; k < c->conf->nfailures; k++) {
        if (!c->failed[k] && c->now >= c->conf->failure[k].at) {
            fail_one(c, k);
        } else if (c->failed[k] && c->now >= c->back[k]) {
            c->back[k] = FAST_NEVER;
            for (int g = c->gone_from[k]; g < c->gone_to[k]; g++)
                if (--c->down[g] == 0)
                    fast_fleet_gpu_open(c->fleet, g, true);
        }
    }
}

fast_ns cluster_next_failure(const struct cluster *c)
{
    fast_ns next = FAST_NEVER;
    for (int k = 0; k < c->conf->nfailures; k++) {
        fast_ns at = c->failed[k] ? c->back[k] : c->conf->failure[k].at;
        next = at < next ? at : next;
    }
    return next;
}
