#ifndef FAST_CORE_QUOTA_H
#define FAST_CORE_QUOTA_H

/* The time quota of one client: what it was charged in the current window against its request and
 * its limit. Pure arithmetic on nanoseconds. */

#include <stdbool.h>

#include "core/types.h"

#define FAST_QUOTA_DEBT_MIN FAST_US(100)
/* A client is kept away for what it overran for this long at most: a kernel that hangs, or a machine that
 * stands still for a while, must not cost a small slice its GPU for hours. */
#define FAST_QUOTA_DEBT_SPAN FAST_S(10)

struct fast_quota {
    fast_ns request_ns, limit_ns; /* per window */
    fast_ns window_ns;
    fast_ns used_ns;              /* charged in this window, |debt_ns| included */
    fast_ns debt_ns;              /* what an earlier window was overdrawn by */
    fast_ns before_ns;            /* charged in the window before */
};

/* Sets request and limit from |slice|; what was used stays. */
void fast_quota_set(struct fast_quota *q, const struct fast_slice *slice, fast_ns window_ns);

/* Charges |ns|, of which at most |here_max_ns| can have been spent in this window; the rest belongs
 * to the windows before, and becomes debt where it overdraws them. */
void fast_quota_charge(struct fast_quota *q, fast_ns ns, fast_ns here_max_ns, bool carry);

/* |windows| windows have passed (at least one). With |carry|, what was used beyond the limit becomes
 * debt, and each further window pays a limit of it back. It is bounded by what the limits of
 * FAST_QUOTA_DEBT_SPAN pay, or of one window if that is longer, or FAST_QUOTA_DEBT_MIN. */
void fast_quota_roll(struct fast_quota *q, int64_t windows, bool carry);

static inline fast_ns fast_quota_left(const struct fast_quota *q)
{
    return q->limit_ns - q->used_ns;
}

static inline fast_ns fast_quota_missing(const struct fast_quota *q)
{
    return q->request_ns - q->used_ns;
}

#endif
