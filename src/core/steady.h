#ifndef FAST_CORE_STEADY_H
#define FAST_CORE_STEADY_H

/* Throughput of a saturated slice from the moments of its answers. */

#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

#define FAST_STEADY_WINDOWS 3 /* fewer windows of the quota in a trial say nothing of its throughput */

/* Requests in 1000 s. |at|: the |n| moments after the start of the load at which it was answered, ascending;
 * |window| of the time quota. 0: there is no answer. */
int64_t fast_steady_rate_milli(const fast_ns *at, size_t n, fast_ns window);

#endif
