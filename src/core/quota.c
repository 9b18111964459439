/* Decides how much of its quota a client has left. It assumes that charges come in the order of time
 * and that whatever a charge has before the last two windows was within the limits of its time. */
#include "core/quota.h"

static fast_ns least(fast_ns a, fast_ns b)
{
    return a < b ? a : b;
}

/* A window's worth; of a limit below the shortest token, one such token. */
static fast_ns debt_max(const struct fast_quota *q)
{
    return q->limit_ns > FAST_QUOTA_DEBT_MIN ? q->limit_ns : FAST_QUOTA_DEBT_MIN;
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
    q->used_ns += here;
    /* A token may have been held over several windows: no more than one whole window of that was in
     * the one before, and what lies further back is settled. */
    q->before_ns = least(q->before_ns + ns - here, q->window_ns);
    if (!carry)
        return;
    /* The window before is closed: what it is overdrawn by now and was not when it closed. */
    fast_ns debt = least(q->before_ns - q->limit_ns, debt_max(q));
    if (debt > q->debt_ns) {
        q->used_ns += debt - q->debt_ns;
        q->debt_ns = debt;
    }
}

void fast_quota_roll(struct fast_quota *q, int64_t windows, bool carry)
{
    fast_ns over = least(q->used_ns - q->limit_ns, debt_max(q));
    q->before_ns = windows == 1 ? q->used_ns : 0;
    q->debt_ns = carry && windows == 1 && over > 0 ? over : 0;
    q->used_ns = q->debt_ns;
}
