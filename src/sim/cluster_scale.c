/* The scaler's side of a simulated cluster: what each policy is told, and carrying out what it decides. */

#include <stdlib.h>

#include "sim/cluster_impl.h"

#define ACTIONS_MAX 64

void cluster_second(struct cluster *c, int f)
{
    struct cluster_function *fn = &c->function[f];
    int busy = 0;
    for (int i = 0; i < c->n; i++)
        busy += c->replica[i].function == f && c->replica[i].free_at != FAST_NEVER;
    fast_scale_load_second(&fn->load, 0, (int)fn->n + busy);
}

static void conf_of(const struct cluster *c, int f, struct fast_scale_conf *ret)
{
    const struct sim_cluster_function *fn = &c->conf->function[f];
    *ret = (struct fast_scale_conf){.policy = FAST_SCALE_QUEUE, .min = fn->min, .max = fn->max,
                                    .slo_ns = fn->slo_ns, .slo_p99 = true,
                                    .zero_after = c->conf->zero_after ? c->conf->zero_after
                                                                      : FAST_NEVER};
    switch (c->conf->policy) {
    case SIM_CLUSTER_PAPER:
        fast_scaler_conf(FAST_SCALER_PAPER, ret);
        ret->slo_p99 = false;
        ret->down_cooldown = 0;
        break;
    case SIM_CLUSTER_HYBRID:
        fast_scaler_conf(FAST_SCALER_HYBRID, ret);
        break;
    case SIM_CLUSTER_QUEUE:
        fast_scaler_conf(FAST_SCALER_QUEUE, ret);
        break;
    case SIM_CLUSTER_LIVE:
        fast_scaler_conf(FAST_SCALER_QUEUE, ret);
        ret->vertical = false;
        break;
    case SIM_CLUSTER_WHOLE:
        fast_scaler_conf(FAST_SCALER_WHOLE, ret);
        break;
    default:
        break;
    }
    if (fn->first_sm && c->conf->policy != SIM_CLUSTER_WHOLE)
        ret->slice = (struct fast_slice){fn->first_sm, fn->first_quota, fn->first_quota, 0};
}

static void input_of(struct cluster *c, int f, const struct fast_scale_conf *conf,
                     struct fast_scale_input *ret)
{
    struct cluster_function *fn = &c->function[f];
    ret->now = c->now;
    ret->queued = (int)fn->n;
    ret->last_request = fn->last;
    ret->last_up = fn->last_up;
    ret->last_down = fn->last_down;
    ret->profile = conf->policy == FAST_SCALE_TARGET ? NULL : c->conf->function[f].profile;
    fast_scale_load_tell(&fn->load, conf, c->conf->policy == SIM_CLUSTER_WHOLE, c->conf->start_ns, ret);
}

static int carry_out(struct cluster *c, int f, const struct fast_scale_action *a,
                     struct fast_err *err)
{
    struct cluster_function *fn = &c->function[f];
    if (a->kind == FAST_SCALE_START) {
        fn->last_up = c->now;
        return cluster_start(c, f, a->sm_pct, a->quota_milli, err);
    }
    if (a->kind == FAST_SCALE_STOP) {
        fn->last_down = c->now;
        cluster_stop(c, a->id);
        return 0;
    }
    for (int i = 0; i < c->n; i++) {
        struct cluster_replica *r = &c->replica[i];
        if (r->id != a->id)
            continue;
        *(a->quota_milli > r->quota_milli ? &fn->last_up : &fn->last_down) = c->now;
        cluster_resize(c, r, a->quota_milli);
    }
    return 0;
}

int cluster_scale(struct cluster *c, int f, struct fast_err *err)
{
    struct fast_scale_conf conf;
    struct fast_scale_action actions[ACTIONS_MAX];
    struct fast_scale_replica *list = malloc(sizeof(*list) * (size_t)(c->n + 1));
    struct fast_scale_input in = {.replicas = list};
    int rc = 0;
    if (!list)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the replicas of a function");
    conf_of(c, f, &conf);
    for (int i = 0; i < c->n; i++) {
        struct cluster_replica *r = &c->replica[i];
        if (r->function != f || r->stopping || r->replaces)
            continue;
        int room = conf.policy == FAST_SCALE_HYBRID || conf.in_place
                       ? fast_fleet_raise_room(c->fleet, r->id, FAST_MILLI)
                       : 0;
        list[in.nreplicas++] = (struct fast_scale_replica){
            r->id, r->sm_pct, r->quota_milli, r->rps_milli, room, r->ready_at > c->now};
    }
    input_of(c, f, &conf, &in);
    int n = fast_scale_decide(&conf, &in, actions, ACTIONS_MAX, err);
    for (int i = 0; i < n && !rc; i++)
        rc = carry_out(c, f, &actions[i], err);
    free(list);
    return n < 0 ? n : rc;
}
