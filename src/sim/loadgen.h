#ifndef FAST_SIM_LOADGEN_H
#define FAST_SIM_LOADGEN_H

/* The scenarios of MLPerf's LoadGen and its early-stopping rule: how many queries a claim about the tail of
 * a latency needs. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"

enum fast_scenario {
    FAST_SCENARIO_SINGLE, /* the next query when the last one is answered; 90th percentile */
    FAST_SCENARIO_MULTI,  /* the same with 8 samples a query; 99th percentile */
    FAST_SCENARIO_SERVER, /* Poisson; at most 1 of 100 may be late */
    FAST_SCENARIO_OFFLINE, /* all samples at once; samples/s */
    FAST_SCENARIO_COUNT
};

#define FAST_LOADGEN_MULTI 8
#define FAST_LOADGEN_OFFLINE 24576 /* samples, unless told otherwise */
#define FAST_LOADGEN_QUERIES 100000000 /* at most so many are counted with */

const char *fast_scenario_name(enum fast_scenario scenario);
int fast_scenario_parse(const char *text, enum fast_scenario *ret, struct fast_err *err);
/* Thousandths of the queries that its claim is about: 900, 990; OFFLINE: 0. */
int fast_scenario_percentile(enum fast_scenario scenario);

/* The fewest queries of which |over| may be over a bound when it is claimed with 99 % confidence that the
 * bound holds for |percentile_milli| thousandths (1 to 999) of all. */
int64_t fast_loadgen_needed(int64_t over, int percentile_milli);
/* Whether |queries| of which |over| are over the bound allow the claim. */
bool fast_loadgen_proves(int64_t queries, int64_t over, int percentile_milli);
/* The least bound that the latencies allow the claim for; 0: there are too few for any. */
fast_ns fast_loadgen_estimate(const struct fast_hist *latency, int percentile_milli);

#endif
