#ifndef FAST_BASE_RATE_H
#define FAST_BASE_RATE_H

/* Events per second over a sliding window, on the clock that the caller passes in. The window is cut
 * into FAST_RATE_SLOTS; the slot that has partly left it counts in proportion, so that the rate has
 * no steps when a slot drops out. Adding costs O(1), reading one pass over the slots. A |now| that is
 * earlier than the last one counts as the last one. */

#include <stdint.h>

#include "base/units.h"

#define FAST_RATE_WINDOW FAST_S(10) /* what the scaler is used with */
#define FAST_RATE_SLOTS 40

struct fast_rate {
    fast_ns slot_ns;    /* span of one slot */
    fast_ns began;      /* when counting began: until a window has passed, rates are over less */
    fast_ns at;         /* latest moment seen */
    int64_t slot;       /* slot number of |at|, counted from |began| */
    uint64_t total;     /* since init */
    uint32_t counts[FAST_RATE_SLOTS + 1];
};

/* |window| is at least FAST_RATE_SLOTS ns; it is rounded down to a multiple of the slots. */
void fast_rate_init(struct fast_rate *rate, fast_ns window, fast_ns now);

void fast_rate_add(struct fast_rate *rate, uint32_t events, fast_ns now);

/* Events per second in thousandths, over the window, or over the time since init when that is less
 * (but at least over a tenth of the window, so that the first requests are no burst). */
int64_t fast_rate_milli(struct fast_rate *rate, fast_ns now);

/* The same over the last |span|, which is cut to the window. */
int64_t fast_rate_milli_over(struct fast_rate *rate, fast_ns span, fast_ns now);

#endif
