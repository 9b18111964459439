/* The scaler's side of a simulated cluster: what each policy is told, and carrying out what it decides. */

#include <stdlib.h>

#include "sim/cluster_impl.h"

#define ACTIONS_MAX 64
#define LOAD_SECONDS 3  /* that the load is the mean of */
#define BURST_MILLI 1300 /* a burst that may come, of the greatest that is remembered */
#define PANIC_SECONDS 6

void cluster_second(struct cluster *c, int f)
{
    struct cluster_function *fn = &c->function[f];
    int busy = 0;
    for (int i = 0; i < c->n; i++)
        busy += c->replica[i].function == f && c->replica[i].free_at != FAST_NEVER;
    fast_forecast_second(&fn->load);
    fn->concurrency[fn->seconds++ % CLUSTER_CONCURRENCY] = (int)fn->n + busy;
}

static int64_t concurrency(const struct cluster_function *fn, int seconds)
{
    int64_t sum = 0;
    int n = fn->seconds < (uint64_t)seconds ? (int)fn->seconds : seconds;
    for (int i = 1; i <= n; i++)
        sum += fn->concurrency[(fn->seconds - (uint64_t)i) % CLUSTER_CONCURRENCY];
    return n ? sum * 1000 / n : 0;
}

/* Knative's: the mean concurrency of a minute; of six seconds, and never down, for a minute after that
 * asked for twice what there was. In "requests/s" of a target of 0.7. */
static int64_t knative(struct cluster *c, int f)
{
    struct cluster_function *fn = &c->function[f];
    int64_t stable = concurrency(fn, CLUSTER_CONCURRENCY), panic = concurrency(fn, PANIC_SECONDS);
    if (panic >= (int64_t)fn->replicas * 2 * 700)
        fn->panic_until = c->now + FAST_S(60);
    if (c->now >= fn->panic_until)
        return stable;
    return panic > (int64_t)fn->replicas * 700 ? panic : (int64_t)fn->replicas * 700;
}

static void conf_of(const struct cluster *c, int f, struct fast_scale_conf *ret)
{
    const struct sim_cluster_function *fn = &c->conf->function[f];
    *ret = (struct fast_scale_conf){.policy = FAST_SCALE_QUEUE, .min = fn->min, .max = fn->max,
                                    .slo_ns = fn->slo_ns, .slo_p99 = true,
                                    .zero_after = c->conf->zero_after ? c->conf->zero_after
                                                                      : FAST_NEVER};
    ret->vertical = c->conf->policy == SIM_CLUSTER_QUEUE;
    if (fn->first_sm)
        ret->slice = (struct fast_slice){fn->first_sm, fn->first_quota, fn->first_quota, 0};
    if (c->conf->policy == SIM_CLUSTER_PAPER) {
        ret->policy = FAST_SCALE_PAPER;
        ret->slo_p99 = false;
    } else if (c->conf->policy == SIM_CLUSTER_HYBRID) {
        ret->policy = FAST_SCALE_HYBRID;
        ret->down_cooldown = FAST_S(10);
    } else if (c->conf->policy == SIM_CLUSTER_WHOLE) {
        ret->policy = FAST_SCALE_TARGET;
        ret->slice = (struct fast_slice){FAST_SM_PCT_MAX, FAST_MILLI, FAST_MILLI, 0};
        ret->target_rps_milli = 700;
    }
}

static void input_of(struct cluster *c, int f, const struct fast_scale_conf *conf,
                     struct fast_scale_input *ret)
{
    struct cluster_function *fn = &c->function[f];
    ret->now = c->now;
    ret->load_milli = fast_forecast_mean(&fn->load, LOAD_SECONDS);
    ret->queued = (int)fn->n;
    ret->last_request = fn->last;
    ret->profile = conf->policy == FAST_SCALE_TARGET ? NULL : c->conf->function[f].profile;
    if (conf->policy == FAST_SCALE_TARGET)
        ret->load_milli = knative(c, f);
    else if (conf->policy == FAST_SCALE_HYBRID)
        ret->expected_milli = fast_kalman_step(&fn->kalman, fast_forecast_mean(&fn->load, 10));
    else if (conf->policy == FAST_SCALE_QUEUE)
        ret->expected_milli = fast_forecast_expect(&fn->load, c->conf->start_ns + FAST_S(1));
    ret->burst_milli = (int64_t)fast_forecast_burst(&fn->load) * (conf->vertical ? BURST_MILLI : 1000);
    if (ret->load_milli == 0 && fn->n)
        ret->load_milli = (int64_t)fn->n * 1000;
}

static int carry_out(struct cluster *c, int f, const struct fast_scale_action *a,
                     struct fast_err *err)
{
    if (a->kind == FAST_SCALE_START)
        return cluster_start(c, f, a->sm_pct, a->quota_milli, err);
    if (a->kind == FAST_SCALE_STOP) {
        cluster_stop(c, a->id);
        return 0;
    }
    for (int i = 0; i < c->n; i++)
        if (c->replica[i].id == a->id)
            cluster_resize(c, &c->replica[i], a->quota_milli);
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
        if (r->function != f || r->stopping)
            continue;
        int room = conf.policy == FAST_SCALE_HYBRID ? cluster_room(c, r) : 0;
        list[in.nreplicas++] = (struct fast_scale_replica){r->id, r->sm_pct, r->quota_milli,
                                                           r->rps_milli, room};
    }
    input_of(c, f, &conf, &in);
    int n = fast_scale_decide(&conf, &in, actions, ACTIONS_MAX, err);
    for (int i = 0; i < n && !rc; i++)
        rc = carry_out(c, f, &actions[i], err);
    free(list);
    return n < 0 ? n : rc;
}
