#ifndef FAST_SIM_ARRIVALS_H
#define FAST_SIM_ARRIVALS_H

/* When requests arrive: moments in ns after a start, ascending. Deterministic by seed, on every
 * machine. What is made is added behind what is there, so begin with a zeroed struct; an error adds
 * nothing. Rates are up to 1,000,000 requests/s; a rate of 0 makes no arrivals. */

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

struct fast_arrivals {
    fast_ns *at;
    size_t count, cap;
};

void fast_arrivals_fini(struct fast_arrivals *a);

/* A point of a piecewise linear rate. */
struct fast_rate_point {
    fast_ns at;
    int64_t rps_milli;
};

/* Constant gap. */
int fast_arrivals_constant(struct fast_arrivals *a, int64_t rps_milli, fast_ns length,
                           struct fast_err *err);
/* Poisson: exponential gaps. */
int fast_arrivals_poisson(struct fast_arrivals *a, int64_t rps_milli, fast_ns length, uint64_t seed,
                          struct fast_err *err);
/* Poisson with a rate that is linear between the points (by thinning). */
int fast_arrivals_ramp(struct fast_arrivals *a, const struct fast_rate_point *points, size_t count,
                       uint64_t seed, struct fast_err *err);
/* From text: one moment a line, in seconds with decimals or as a date "2023-11-16 18:15:46.6805900": the
 * first column, or the one that a head line names timestamp, creation_time, arrival, time or seconds.
 * Moments are ascending and count from the first. */
int fast_arrivals_parse(struct fast_arrivals *a, const char *text, const char *name,
                        struct fast_err *err);
/* Multiplies all moments by |num| / |den|: the shape stays, the rate changes. */
void fast_arrivals_scale(struct fast_arrivals *a, int64_t num, int64_t den);
/* Keeps the part from |from| to |to|, moved to begin at 0. */
void fast_arrivals_cut(struct fast_arrivals *a, fast_ns from, fast_ns to);

#endif
