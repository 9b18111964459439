#include "trial.h"

#include "sim/arrivals.h"
#include "sim/experiment.h"

static struct sim_exp_conf conf;
static struct sim_exp_result res;

static void set_up(const struct sim_model *model, int sm_pct, int quota_milli, fast_ns length)
{
    conf = (struct sim_exp_conf){
        .mps = true,
        .tokens = true,
        .in_flight = true,
        .inflight_ns = FAST_MS(2), /* what fast-node lets a client keep in flight */
        .sched = {.policy = FAST_POLICY_FAST},
        .duration_ns = length,
        .seed = 1,
        .functions = 1,
        .function = {{.model = *model, .replicas = 1, .users = 1,
                      .slice = {.sm_pct = sm_pct, .request_milli = quota_milli,
                                .limit_milli = quota_milli}}},
    };
}

int bench_trial(const struct sim_model *model, int sm_pct, int quota_milli, fast_ns length,
                struct fast_profile_point *ret, struct fast_err *err)
{
    set_up(model, sm_pct, quota_milli, length);
    if (sim_gpu_conf_named("v100-16gb", &conf.gpu, err) || sim_exp_run(&conf, &res, err))
        return -err->code;
    const struct fast_hist *h = &res.function[0].latency;
    *ret = (struct fast_profile_point){
        .sm_pct = sm_pct,
        .quota_milli = quota_milli,
        .rps_milli = (int64_t)((double)res.function[0].requests * 1e12 / (double)res.span_ns),
        .p95_ns = fast_hist_quantile(h, 950),
        .p99_ns = fast_hist_quantile(h, 990)};
    return 0;
}

int bench_load(const struct sim_model *model, int sm_pct, int quota_milli, int64_t rate_milli,
               fast_ns length, uint64_t seed, fast_ns *ret_p95, struct fast_err *err)
{
    struct fast_arrivals come = {0};
    set_up(model, sm_pct, quota_milli, length);
    int r = fast_arrivals_poisson(&come, rate_milli, length, seed, err);
    if (!r)
        r = sim_gpu_conf_named("v100-16gb", &conf.gpu, err);
    conf.function[0].due = come.at;
    conf.function[0].due_count = come.count;
    if (!r)
        r = sim_exp_run(&conf, &res, err);
    if (!r)
        *ret_p95 = fast_hist_quantile(&res.function[0].latency, 950);
    fast_arrivals_fini(&come);
    return r;
}
