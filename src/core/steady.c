/* Decides over which part of a trial throughput is counted. It assumes that the quota opens in windows of equal
 * length. From the first request to the last answer there are as many open parts as windows, but one closed part
 * less, since no answer ends there: at a fifth of the time and six windows that reads 15 % too much. So it counts
 * from one answer to another that came at the same moment of a later window, and leaves out the first window, whose
 * budget is fresh and whose first request met an idle replica. */

#include "core/steady.h"

#define NEAR 256 /* this part of a window earlier or later is as good */
#define ENDS 64  /* so many of the last answers may be the end */

/* How far |span| is from a whole number of windows. */
static fast_ns off(fast_ns span, fast_ns window)
{
    fast_ns rest = span % window;
    return rest < window - rest ? rest : window - rest;
}

int64_t fast_steady_rate_milli(const fast_ns *at, size_t n, fast_ns window)
{
    const int64_t milli_s = FAST_S(1) * 1000;
    if (n == 0 || at[n - 1] <= 0)
        return 0;
    fast_ns last = at[n - 1], span = 0;
    size_t count = 0;
    /* Half of the time at least, and as much more as is as good. */
    for (size_t i = 0; i < n && window > 0 && at[i] <= last / 2; i++)
        for (size_t j = n - 1; at[i] >= window && j > i && j + ENDS >= n && at[j] - at[i] >= last / 2; j--)
            if (at[j] - at[i] >= window &&
                (!count || off(at[j] - at[i], window) + window / NEAR < off(span, window))) {
                count = j - i;
                span = at[j] - at[i];
            }
    return count ? milli_s * (int64_t)count / span : milli_s * (int64_t)n / last;
}
