#ifndef FAST_CORE_PREDICT_TABLE_H
#define FAST_CORE_PREDICT_TABLE_H

/* From the slices that were tried to the table that scaling picks from: the grid of slices, each with
 * what was measured or what is predicted of it, on the cautious side. */

#include "core/predict.h"
#include "core/profile.h"

#define FAST_PREDICT_SMS 7
#define FAST_PREDICT_QUOTAS 5
#define FAST_PREDICT_GRID (FAST_PREDICT_SMS * FAST_PREDICT_QUOTAS)

/* The slices that the paper sweeps. */
extern const int fast_predict_sms[FAST_PREDICT_SMS];
extern const int fast_predict_quotas[FAST_PREDICT_QUOTAS];

/* Builds the table from |n| measured points. A slice of the grid that was not tried gets
 *   - the predicted throughput less one standard deviation, but not less than a smaller slice that
 *     was measured: the scaler would rather start one replica too many;
 *   - the predicted p95 at 60 % of the throughput, times how the measured p95 lie to the predicted
 *     ones (geometric mean), and the p99 likewise from the measured ratio of p99 and p95;
 * and is left out when its standard deviation is above |uncertainty_max_milli|. |ret_mean_milli| (may
 * be NULL): the mean standard deviation over the grid. FAST_EINVAL as fast_predict_new(). */
int fast_predict_table(const struct fast_profile_point *points, int n, fast_ns window_ns,
                       int uncertainty_max_milli, struct fast_profile **ret, int *ret_mean_milli,
                       struct fast_err *err);

#endif
