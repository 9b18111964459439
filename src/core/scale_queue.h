#ifndef FAST_CORE_SCALE_QUEUE_H
#define FAST_CORE_SCALE_QUEUE_H

/* Whether replicas keep an SLO when requests come at random: throughput above the load is not enough,
 * as requests wait for each other. Part of scale.c; docs/scheduler.md has the formulas. */

#include "core/profile.h"

/* Replicas that share one queue. */
struct scale_queue {
    int servers;
    int64_t rps_milli;  /* of all */
    fast_ns latency_ns; /* the largest of their profile latencies */
};

/* How many of 1,000 requests take longer than |slo_ns|, rounded up; 1000: they are too many to be
 * served. With |slo_ns| 0: 0 while the load is below 90 % of the throughput, else 1000. */
int scale_queue_late(const struct scale_queue *q, int64_t load_milli, fast_ns slo_ns);

/* Whether at most |late_milli| thousandths of the requests take longer than |slo_ns|.
 * Poisson arrivals, service of constant length. */
bool scale_queue_keeps(const struct scale_queue *q, int64_t load_milli, fast_ns slo_ns,
                       int late_milli);

/* How many replicas of |p| keep it, at most |max|; 0: not even so many do. */
int scale_queue_count(const struct fast_profile_point *p, fast_ns latency_ns, int64_t load_milli,
                      fast_ns slo_ns, int late_milli, int max);

#endif
