#ifndef FAST_BENCH_TRIAL_H
#define FAST_BENCH_TRIAL_H

/* One trial of a profile in virtual time: one replica on a simulated V100 under the scheduler of
 * fast-node with its defaults, one user who asks without pause. */

#include "core/profile.h"
#include "sim/model.h"

int bench_trial(const struct sim_model *model, int sm_pct, int quota_milli, fast_ns length,
                struct fast_profile_point *ret, struct fast_err *err);

#endif
