#ifndef FAST_BASE_HIST_H
#define FAST_BASE_HIST_H

/* A log-linear histogram of non-negative values (latencies in nanoseconds): 32 buckets per power of
 * two, so that a quantile is never below the true one and at most 1/32 above it. Values from
 * FAST_HIST_TOP (73 minutes in nanoseconds) on share the last bucket; |max| is exact in any case.
 * The struct has no pointers: it may be copied, and zeroed memory is an empty histogram. Adding
 * costs a few instructions, a quantile one pass over the buckets. */

#include <stdint.h>

#include "base/units.h"

#define FAST_HIST_TOP ((int64_t)1 << 42)
#define FAST_HIST_BUCKETS (38 * 32)

struct fast_hist {
    uint64_t count;
    uint64_t sum; /* of the values themselves; wraps after 584 years of latency */
    int64_t min, max;
    uint64_t buckets[FAST_HIST_BUCKETS];
};

void fast_hist_init(struct fast_hist *hist);

/* A negative |value| counts as 0. */
void fast_hist_add(struct fast_hist *hist, int64_t value);

/* Adds what |from| has counted to |into|. */
void fast_hist_merge(struct fast_hist *into, const struct fast_hist *from);

/* The value that |milli| thousandths of all values do not exceed (nearest rank): 500 is the median,
 * 990 the p99. 0 when nothing was counted. */
int64_t fast_hist_quantile(const struct fast_hist *hist, int milli);

/* The value at |rank|, 1 for the least, to |count|. */
int64_t fast_hist_rank(const struct fast_hist *hist, uint64_t rank);

/* 0 when nothing was counted. */
int64_t fast_hist_mean(const struct fast_hist *hist);

/* How many values lie in buckets that end at |bound| or below: what Prometheus calls `le`. A value
 * less than 1/32 below |bound| may be missing from it. */
uint64_t fast_hist_count_le(const struct fast_hist *hist, int64_t bound);

#endif
