#ifndef FAST_CORE_FORECAST_H
#define FAST_CORE_FORECAST_H

/* The load of a function by the second, and what it will be when something started now is ready: the
 * mean of the last seconds, their trend, and one deviation of a Poisson stream of that rate. A stream
 * that comes in bursts (its dispersion is above twice Poisson's) is expected to burst again as it did in
 * the last quarter of an hour, since no start is as fast as a burst.
 *
 * Adding and the turn of a second cost O(1) amortised. The caller says when a second is over. */

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define FAST_FORECAST_TREND 10   /* seconds that the trend is drawn from */
#define FAST_FORECAST_MEMORY 900 /* seconds that a burst is remembered */

/* Zeroed: nothing has come yet. */
struct fast_forecast {
    uint32_t now; /* requests of the second that runs */
    uint32_t past[FAST_FORECAST_MEMORY]; /* a ring */
    uint64_t seconds; /* that are over */
    uint64_t sum;     /* over |past|, each but the oldest */
    uint64_t squares; /* of differences of neighbours; a slow change of the load does not raise them */
    uint32_t most;
    uint64_t most_at; /* the latest second that had so many */
};

void fast_forecast_add(struct fast_forecast *f, uint32_t requests);
void fast_forecast_second(struct fast_forecast *f);

/* Load over the last |seconds| that are over, requests/s in thousandths. */
int64_t fast_forecast_mean(const struct fast_forecast *f, int seconds);
/* The greatest load over |seconds| neighbouring seconds within the last |over|. */
int64_t fast_forecast_most(const struct fast_forecast *f, int seconds, int over);
/* The most requests in a second that is remembered, of a stream that comes in bursts; else 0. */
uint32_t fast_forecast_burst(const struct fast_forecast *f);
/* Load expected |ahead|, without bursts. */
int64_t fast_forecast_expect(const struct fast_forecast *f, fast_ns ahead);

#endif
