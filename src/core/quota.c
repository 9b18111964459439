/* Decides how much of its quota a client has left. It assumes that charges come in the order of time
 * and that a token which was held over the edge of a window was the only one of its client there. */
#include "core/quota.h"

static fast_ns least(fast_ns a, fast_ns b)
{
    return a < b ? a : b;
}

static fast_ns debt_max(const struct fast_quota *q)
{
    fast_ns windows = FAST_QUOTA_DEBT_SPAN / q->window_ns;
    fast_ns most = q->limit_ns * (windows > 1 ? windows : 1);
    return most > FAST_QUOTA_DEBT_MIN ? most : FAST_QUOTA_DEBT_MIN;
}

/* What |ns| in a row have overdrawn that fill whole windows from behind. */
static fast_ns overdrawn(const struct fast_quota *q, fast_ns ns)
{
    fast_ns part = ns % q->window_ns - q->limit_ns;
    return ns / q->window_ns * (q->window_ns - q->limit_ns) + (part > 0 ? part : 0);
}

void fast_quota_set(struct fast_quota *q, const struct fast_slice *slice, fast_ns window_ns)
{
    q->window_ns = window_ns;
    q->request_ns = window_ns / FAST_MILLI * slice->request_milli;
    q->limit_ns = window_ns / FAST_MILLI * slice->limit_milli;
}

void fast_quota_charge(struct fast_quota *q, fast_ns ns, fast_ns here_max_ns, bool carry)
{
    fast_ns here = least(ns, here_max_ns);
    fast_ns before = least(ns - here, q->window_ns); /* in the window before this one */
    q->used_ns += here;
    q->before_ns = least(q->before_ns + before, q->window_ns);
    if (!carry)
        return;
    /* The windows before are closed: what they are overdrawn by now and were not when they closed. Within
     * its limit a token may have been held over any number of them. */
    fast_ns over = q->before_ns - q->limit_ns + overdrawn(q, ns - here - before);
    fast_ns debt = least(over, debt_max(q));
    if (debt > q->debt_ns) {
        q->used_ns += debt - q->debt_ns;
        q->debt_ns = debt;
    }
}

void fast_quota_roll(struct fast_quota *q, int64_t windows, bool carry)
{
    fast_ns over = least(q->used_ns - q->limit_ns, debt_max(q));
    if (!carry || over <= 0 || over / q->limit_ns < windows - 1)
        over = 0;
    else
        over -= (windows - 1) * q->limit_ns;
    q->before_ns = windows == 1 ? q->used_ns : 0;
    q->debt_ns = q->used_ns = over;
}
