#ifndef FAST_BENCH_TRIAL_H
#define FAST_BENCH_TRIAL_H

/* One replica on a simulated V100 under the scheduler of fast-node with its defaults, in virtual time. */

#include "core/profile.h"
#include "sim/model.h"

/* A trial of a profile: one user who asks without pause. */
int bench_trial(const struct sim_model *model, int sm_pct, int quota_milli, fast_ns length,
                struct fast_profile_point *ret, struct fast_err *err);

/* Requests come by themselves, Poisson with |rate_milli|; |ret_p95| is their latency. */
int bench_load(const struct sim_model *model, int sm_pct, int quota_milli, int64_t rate_milli,
               fast_ns length, uint64_t seed, fast_ns *ret_p95, struct fast_err *err);

#endif
