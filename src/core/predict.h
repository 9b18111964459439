#ifndef FAST_CORE_PREDICT_H
#define FAST_CORE_PREDICT_H

/* Throughput and latency of a function on a slice that was never tried, from a few that were, with an
 * uncertainty; and which slice to try next. docs/profiler.md has the formulas and how good they are.
 *
 * This is the one module of core that reckons in floating point. Nothing is counted here: a
 * prediction is an estimate with an error of percents, no quota is granted and no share is charged
 * from it, and what goes out is rounded to integers and clamped to integer bounds from the
 * measurements. The same input gives the same answer on every machine whose exp() and log() agree. */

#include <stdbool.h>
#include <stdint.h>

#include "core/types.h"

#define FAST_PREDICT_POINTS_MAX 64

/* A slice, and what was measured on it. */
struct fast_predict_point {
    int sm_pct;        /* 1..100 */
    int quota_milli;   /* 1..1000 */
    int64_t rps_milli; /* 1..10^9; a trial that failed is no point */
};

struct fast_predict_value {
    int64_t rps_milli;       /* never below |low|, never above |high| */
    int64_t low, high;       /* what the measured neighbours allow, as throughput grows with both SM
                              * and quota; 0 and INT64_MAX where there is none on that side */
    int uncertainty_milli;   /* one standard deviation, in thousandths of rps_milli */
};

struct fast_predict;

/* Fits. FAST_EINVAL: no point, more than FAST_PREDICT_POINTS_MAX, one out of range, one twice. Where
 * measurements contradict that throughput grows with the slice, each counts as the geometric mean of
 * the largest below it and the smallest above it. */
int fast_predict_new(const struct fast_predict_point *points, int n, struct fast_predict **ret,
                     struct fast_err *err);
void fast_predict_free(struct fast_predict *predict); /* NULL is fine */

/* Throughput of one replica at |sm_pct| x |quota_milli| (clamped to their ranges); grows with both. */
struct fast_predict_value fast_predict_look(const struct fast_predict *predict, int sm_pct,
                                            int quota_milli);

/* The next trial: which of |candidates| would, once measured, take most uncertainty from all of them
 * together. Those measured already are passed over; -1: all are. |ret_mean_milli| (may be NULL): the
 * mean uncertainty now, thousandths. Only the slices of |candidates| are looked at. */
int fast_predict_next(const struct fast_predict *predict,
                      const struct fast_predict_point *candidates, int n, int *ret_mean_milli);

/* How requests come to a function, for its latency. */
struct fast_predict_load {
    int64_t rate_milli; /* open loop: requests/s in thousandths over all replicas, Poisson; else 0 */
    int users;          /* closed loop: requests under way at any time over all replicas; else 0 */
    int replicas;
    fast_ns window_ns;  /* accounting window of the time quota */
};

/* The latency that 95 % of requests do not exceed: time of service on the partition, the part of a
 * window that the quota closes, and the queue. Costs about a tenth of a millisecond. FAST_NEVER: the
 * replicas cannot carry the rate. */
fast_ns fast_predict_p95(const struct fast_predict *predict, int sm_pct, int quota_milli,
                         const struct fast_predict_load *load);

#endif
