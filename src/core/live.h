#ifndef FAST_CORE_LIVE_H
#define FAST_CORE_LIVE_H

/* What live requests say of a profile: spans of time on replicas whose slices are known refine it, and
 * when they contradict it for good, it has drifted. docs/profiler.md has the rules.
 *
 * Live load is seldom a trial. A span tells of the throughput of its slice only while requests were
 * waiting all the time, of the latency only at about the load that trials measure it at; and at any load
 * the GPU time that a request is charged, compared with that of the trial, tells of a change. */

#include <stdbool.h>

#include "core/profile.h"
#include "core/types.h"

#define FAST_LIVE_CELLS 24 /* slices that are kept apart; the one seen longest ago makes room */

/* A trial: what the profile says, and the GPU time of a request then (0: not known). */
struct fast_live_trial {
    struct fast_profile_point point;
    fast_ns gpu_ns;
};

/* One replica over a span of time. */
struct fast_live_span {
    int sm_pct, quota_milli; /* its slice; request and limit are alike */
    fast_ns now;             /* end of the span */
    fast_ns length;
    fast_ns waiting_ns;      /* of it with another request waiting behind the one in service */
    int64_t answers;         /* good ones */
    fast_ns gpu_ns;          /* charged to the replica; 0: not known */
    fast_ns p95_ns, p99_ns;  /* of its requests */
};

/* What is known of a slice. */
struct fast_live_cell {
    int sm_pct, quota_milli;
    int64_t rps_milli;      /* saturated; 0: it never was */
    fast_ns p95_ns, p99_ns; /* 0: not known */
    int spans, latency_spans;
    fast_ns seen;
};

struct fast_live_drift {
    bool drifting;
    int ratio_milli; /* throughput now over that of the trials */
    fast_ns since;
};

struct fast_live;

/* From |n| trials. FAST_EINVAL: none, or out of range. */
int fast_live_new(const struct fast_live_trial *trials, int n, struct fast_live **ret,
                  struct fast_err *err);
void fast_live_free(struct fast_live *live); /* NULL is fine */

/* Takes up what an earlier life knew. */
void fast_live_restore(struct fast_live *live, const struct fast_live_cell *cells, int n,
                       const struct fast_live_drift *drift);

/* Adds a span. One with fewer than FAST_LIVE_ANSWERS_MIN answers says nothing. True: drifting has begun
 * or ended. */
#define FAST_LIVE_ANSWERS_MIN 20
bool fast_live_add(struct fast_live *live, const struct fast_live_span *span);

struct fast_live_drift fast_live_drift(const struct fast_live *live);
/* How many spans have said something. */
int fast_live_spans(const struct fast_live *live);
int fast_live_cells(const struct fast_live *live, struct fast_live_cell ret[FAST_LIVE_CELLS]);

/* The profile as refined: trials and live measurements in one, at most |max| points; how many. */
int fast_live_points(const struct fast_live *live, struct fast_profile_point *ret, int max);

#endif
