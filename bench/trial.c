#include "trial.h"

#include "sim/experiment.h"

int bench_trial(const struct sim_model *model, int sm_pct, int quota_milli, fast_ns length,
                struct fast_profile_point *ret, struct fast_err *err)
{
    static struct sim_exp_conf conf;
    static struct sim_exp_result res;
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
