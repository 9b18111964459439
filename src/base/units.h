#ifndef FAST_BASE_UNITS_H
#define FAST_BASE_UNITS_H

/* Units of time and size. All time is integer nanoseconds, all shares are integer thousandths. */

#include <stdint.h>

/* A moment or a span, in nanoseconds. Which clock a moment is on is the caller's business: the
 * pure layers only ever compare moments that they were given. */
typedef int64_t fast_ns;

#define FAST_US(n) ((fast_ns)(n) * 1000)
#define FAST_MS(n) ((fast_ns)(n) * 1000000)
#define FAST_S(n) ((fast_ns)(n) * 1000000000)

/* "There is nothing to wait for." Later than any real moment. */
#define FAST_NEVER INT64_MAX

#define FAST_KIB(n) ((uint64_t)(n) << 10)
#define FAST_MIB(n) ((uint64_t)(n) << 20)
#define FAST_GIB(n) ((uint64_t)(n) << 30)

#endif
