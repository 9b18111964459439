/* Decides how many replicas an SLO needs by the queue M/D/c: the chance that a request waits is
 * Erlang's C, and a wait decays exponentially with 2 (c mu - lambda), twice as fast as with random
 * service, because services are of constant length (the heavy-traffic limit of Kingman). It assumes
 * that replicas are alike; a mixed set counts by its mean, with the worst latency of any. Floating
 * point serves the estimate only; counts and loads stay integers. */

#include "core/scale_queue.h"

#include <math.h>

int scale_queue_late(const struct scale_queue *q, int64_t load_milli, fast_ns slo_ns)
{
    double lambda = (double)load_milli / 1000, total = (double)q->rps_milli / 1000;
    if (load_milli <= 0)
        return 0;
    if (q->servers < 1 || lambda >= 0.97 * total)
        return 1000;
    if (!slo_ns)
        return lambda <= 0.9 * total ? 0 : 1000;
    double slack = (double)(slo_ns - q->latency_ns) / 1e9;
    if (slack <= 0)
        return 1000;
    /* Erlang's B by its recurrence, then C. */
    double rho = lambda / total, a = rho * q->servers, b = 1;
    for (int k = 1; k <= q->servers; k++)
        b = a * b / (k + a * b);
    double waits = b / (1 - rho * (1 - b));
    return (int)ceil(waits * exp(-2 * (total - lambda) * slack) * 1000);
}

bool scale_queue_keeps(const struct scale_queue *q, int64_t load_milli, fast_ns slo_ns,
                       int late_milli)
{
    return scale_queue_late(q, load_milli, slo_ns) <= late_milli;
}

int scale_queue_count(const struct fast_profile_point *p, fast_ns latency_ns, int64_t load_milli,
                      fast_ns slo_ns, int late_milli, int max)
{
    int first = (int)(load_milli / p->rps_milli);
    for (int n = first < 1 ? 1 : first; n <= max; n++) {
        const struct scale_queue q = {n, n * p->rps_milli, latency_ns};
        if (scale_queue_keeps(&q, load_milli, slo_ns, late_milli))
            return n;
    }
    return 0;
}
