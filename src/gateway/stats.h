#ifndef FAST_GATEWAY_STATS_H
#define FAST_GATEWAY_STATS_H

/* What is counted of requests, for a function and for a replica. */

#include <stdbool.h>
#include <stdint.h>

#include "base/hist.h"
#include "base/rate.h"

#define GW_CODES_MAX 24
#define GW_BOUNDS 11 /* of gateway_functions_seconds: 0.005 s to 10 s */

extern const fast_ns gw_stats_bounds[GW_BOUNDS];
extern const char *const gw_stats_bound_names[GW_BOUNDS];

/* What Prometheus calls a histogram. */
struct gw_times {
    uint64_t count;
    double sum_s;
    uint64_t le[GW_BOUNDS]; /* of what took at most so long */
};

/* Sums of one status code. */
struct gw_code {
    int code;
    struct gw_times took;
};

/* What answers were like: large, and most of many functions have never answered. */
struct gw_answers {
    struct fast_hist recent[2]; /* this span of 10 s and the one before it */
    fast_ns turned;
    struct gw_code codes[GW_CODES_MAX];
    int ncodes;
};

struct gw_stats {
    uint64_t started, requests, failures; /* failures: 5xx, or cut off */
    uint64_t slo_missed;
    fast_ns last; /* when the last request came; 0: never */
    struct fast_rate rate;
    struct gw_answers *answers; /* NULL: none yet */
};

void gw_stats_init(struct gw_stats *stats, fast_ns now);
void gw_stats_fini(struct gw_stats *stats);
void gw_stats_start(struct gw_stats *stats, fast_ns now);
/* |code| 0: the client went away, which is counted in no code. */
void gw_stats_end(struct gw_stats *stats, int code, fast_ns took, fast_ns slo, fast_ns now);

void gw_times_add(struct gw_times *times, fast_ns took);
int64_t gw_stats_rate_milli(struct gw_stats *stats, fast_ns now);
/* A quantile over the last 10 to 20 s, ns. */
int64_t gw_stats_quantile(struct gw_stats *stats, int milli, fast_ns now);

#endif
