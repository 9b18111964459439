/* Decides what scaling is told of slices that were never tried. It assumes that latencies were measured
 * at 60 % of the throughput, as trials do. */

#include "core/predict_table.h"

#include <math.h>

#define LATENCY_LOAD_MILLI 600
#define LATENCY_MAX FAST_S(3600)

const int fast_predict_sms[FAST_PREDICT_SMS] = {6, 12, 24, 50, 60, 80, 100};
const int fast_predict_quotas[FAST_PREDICT_QUOTAS] = {200, 400, 600, 800, 1000};

struct table {
    const struct fast_predict *predict;
    fast_ns window_ns;
    double p95_ratio, p99_ratio; /* measured over predicted p95, p99 over p95 */
};

static fast_ns predicted_p95(const struct table *t, int sm_pct, int quota_milli, int64_t rps_milli)
{
    struct fast_predict_load load = {.rate_milli = rps_milli * LATENCY_LOAD_MILLI / 1000,
                                     .replicas = 1, .window_ns = t->window_ns};
    return fast_predict_p95(t->predict, sm_pct, quota_milli, &load);
}

static void measure_ratios(struct table *t, const struct fast_profile_point *p, int n)
{
    double p95 = 0, p99 = 0;
    int n95 = 0, n99 = 0;
    for (int i = 0; i < n; i++) {
        fast_ns v = predicted_p95(t, p[i].sm_pct, p[i].quota_milli, p[i].rps_milli);
        if (p[i].p95_ns <= 0)
            continue;
        if (v > 0 && v != FAST_NEVER) {
            p95 += log((double)p[i].p95_ns / (double)v);
            n95++;
        }
        p99 += log((double)p[i].p99_ns / (double)p[i].p95_ns);
        n99++;
    }
    t->p95_ratio = n95 ? exp(p95 / n95) : 1;
    t->p99_ratio = n99 ? exp(p99 / n99) : 1;
}

static bool measured(const struct fast_profile_point *p, int n, int sm_pct, int quota_milli)
{
    for (int i = 0; i < n; i++)
        if (p[i].sm_pct == sm_pct && p[i].quota_milli == quota_milli)
            return true;
    return false;
}

/* False: nothing is said of this slice. */
static bool predict_point(const struct table *t, int sm_pct, int quota_milli, int uncertainty_max,
                          struct fast_profile_point *ret)
{
    struct fast_predict_value v = fast_predict_look(t->predict, sm_pct, quota_milli);
    if (v.uncertainty_milli > uncertainty_max)
        return false;
    int64_t cautious = v.rps_milli * (1000 - (v.uncertainty_milli < 1000 ? v.uncertainty_milli : 999)) /
                       1000;
    double p95 = (double)predicted_p95(t, sm_pct, quota_milli, v.rps_milli) * t->p95_ratio;
    if (!(p95 * t->p99_ratio < (double)LATENCY_MAX))
        return false;
    *ret = (struct fast_profile_point){.sm_pct = sm_pct, .quota_milli = quota_milli,
                                       .rps_milli = cautious > v.low ? cautious : v.low,
                                       .p95_ns = (fast_ns)p95,
                                       .p99_ns = (fast_ns)(p95 * t->p99_ratio)};
    return true;
}

int fast_predict_table(const struct fast_profile_point *points, int n, fast_ns window_ns,
                       int uncertainty_max_milli, struct fast_profile **ret, int *ret_mean_milli,
                       struct fast_err *err)
{
    struct fast_predict_point tried[FAST_PREDICT_POINTS_MAX], grid[FAST_PREDICT_GRID];
    struct fast_profile_point all[FAST_PREDICT_POINTS_MAX + FAST_PREDICT_GRID];
    struct fast_predict *f = NULL;
    int count = 0;
    if (n < 1 || n > FAST_PREDICT_POINTS_MAX)
        return fast_err_set(err, FAST_EINVAL, "a table needs 1 to %d measured slices, not %d",
                            FAST_PREDICT_POINTS_MAX, n);
    for (int i = 0; i < n; i++) {
        tried[i] = (struct fast_predict_point){points[i].sm_pct, points[i].quota_milli,
                                               points[i].rps_milli};
        all[count++] = points[i];
    }
    int r = fast_predict_new(tried, n, &f, err);
    if (r)
        return r;
    struct table t = {.predict = f, .window_ns = window_ns};
    measure_ratios(&t, points, n);
    for (int i = 0; i < FAST_PREDICT_GRID; i++) {
        int sm = fast_predict_sms[i / FAST_PREDICT_QUOTAS];
        int quota = fast_predict_quotas[i % FAST_PREDICT_QUOTAS];
        grid[i] = (struct fast_predict_point){sm, quota, 0};
        if (!measured(points, n, sm, quota) &&
            predict_point(&t, sm, quota, uncertainty_max_milli, &all[count]))
            count++;
    }
    if (ret_mean_milli)
        fast_predict_next(f, grid, FAST_PREDICT_GRID, ret_mean_milli);
    fast_predict_free(f);
    return fast_profile_new(all, count, ret, err);
}
