/* Decides what is learned from live requests. It assumes that a trial is worth TRIAL_SPANS spans, that a
 * change of the function changes all slices alike (until they have been seen), and that the noise of a
 * span is some percents: what is not reckoned in shares or charges is in floating point here, as in the
 * predictor. */

#include "core/live.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/predict.h"

#define TRIAL_SPANS 4      /* what a trial weighs */
#define SPANS_MAX 12       /* what a slice weighs at most: old spans are forgotten at this pace */
#define SPANS_MIN 2        /* before a slice counts */
#define WAITING_MILLI 950  /* of a span: it was saturated */
#define LOAD_MIN 0.3       /* of the throughput: latency is comparable to that of a trial, at 0.6 */
#define LOAD_MAX 0.75
#define QUOTA_LIMITS 0.95  /* below this share of what full quota gives, the quota is what limits */
/* Cumulative sums as of Page (1954), both ways, of the logarithm of what is seen over what was
 * measured; steps are cut so that no single span decides. */
#define SLACK 0.07
#define THRESHOLD 1.0
#define STEP_MAX 0.35
#define FORGET 0.2         /* of the mean of the recent ones */
#define DRIFT_MIN 0.1      /* smaller ones are not worth words */
#define DRIFT_OVER 0.05

struct fast_live {
    struct fast_live_trial trial[FAST_PREDICT_POINTS_MAX];
    int trials;
    struct fast_predict *predict;
    struct fast_live_cell cell[FAST_LIVE_CELLS];
    int cells, spans;
    double up, down, mean; /* of logarithms */
    bool any;
    bool drifting;
    fast_ns since;
};

int fast_live_new(const struct fast_live_trial *trials, int n, struct fast_live **ret,
                  struct fast_err *err)
{
    struct fast_predict_point point[FAST_PREDICT_POINTS_MAX];
    if (n < 1 || n > FAST_PREDICT_POINTS_MAX)
        return fast_err_set(err, FAST_EINVAL, "a profile has 1 to %d trials, not %d",
                            FAST_PREDICT_POINTS_MAX, n);
    struct fast_live *l = calloc(1, sizeof(*l));
    if (!l)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a profile");
    for (int i = 0; i < n; i++) {
        const struct fast_profile_point *p = &trials[i].point;
        l->trial[i] = trials[i];
        point[i] = (struct fast_predict_point){p->sm_pct, p->quota_milli, p->rps_milli};
    }
    l->trials = n;
    int r = fast_predict_new(point, n, &l->predict, err);
    if (r) {
        free(l);
        return r;
    }
    *ret = l;
    return 0;
}

void fast_live_free(struct fast_live *l)
{
    if (!l)
        return;
    fast_predict_free(l->predict);
    free(l);
}

void fast_live_restore(struct fast_live *l, const struct fast_live_cell *cells, int n,
                       const struct fast_live_drift *drift)
{
    l->cells = n < FAST_LIVE_CELLS ? n : FAST_LIVE_CELLS;
    memcpy(l->cell, cells, sizeof(cells[0]) * (size_t)l->cells);
    l->drifting = drift->drifting && drift->ratio_milli > 0;
    if (l->drifting) {
        l->mean = log(drift->ratio_milli * 1e-3);
        l->any = true;
        l->since = drift->since;
    }
}

static struct fast_live_cell *cell_of(struct fast_live *l, int sm_pct, int quota_milli)
{
    struct fast_live_cell *oldest = &l->cell[0];
    for (int i = 0; i < l->cells; i++) {
        struct fast_live_cell *c = &l->cell[i];
        if (c->sm_pct == sm_pct && c->quota_milli == quota_milli)
            return c;
        if (c->seen < oldest->seen)
            oldest = c;
    }
    struct fast_live_cell *c = l->cells < FAST_LIVE_CELLS ? &l->cell[l->cells++] : oldest;
    *c = (struct fast_live_cell){.sm_pct = sm_pct, .quota_milli = quota_milli};
    return c;
}

/* Adds one value to the geometric mean of |spans|. */
static int64_t blend(int64_t old, int64_t v, int spans)
{
    if (old <= 0 || spans < 1)
        return v;
    return llround(exp((log((double)old) * (spans - 1) + log((double)v)) / spans));
}

static int counted(int spans)
{
    return spans < SPANS_MAX ? spans + 1 : SPANS_MAX;
}

static void learn_rate(struct fast_live *l, const struct fast_live_span *s, int64_t rps_milli)
{
    struct fast_live_cell *c = cell_of(l, s->sm_pct, s->quota_milli);
    c->spans = counted(c->spans);
    c->rps_milli = blend(c->rps_milli, rps_milli, c->spans);
    c->seen = s->now;
}

static void learn_latency(struct fast_live *l, const struct fast_live_span *s)
{
    if (s->p95_ns <= 0 || s->p99_ns < s->p95_ns)
        return;
    struct fast_live_cell *c = cell_of(l, s->sm_pct, s->quota_milli);
    c->latency_spans = counted(c->latency_spans);
    c->p95_ns = blend(c->p95_ns, s->p95_ns, c->latency_spans);
    c->p99_ns = blend(c->p99_ns, s->p99_ns, c->latency_spans);
    c->p99_ns = c->p99_ns < c->p95_ns ? c->p95_ns : c->p99_ns;
    c->seen = s->now;
}

/* GPU time of a request in the trial of this partition whose quota is nearest; 0: not known. */
static fast_ns trial_gpu(const struct fast_live *l, int sm_pct, int quota_milli)
{
    fast_ns best = 0;
    int away = INT32_MAX;
    for (int i = 0; i < l->trials; i++) {
        const struct fast_live_trial *t = &l->trial[i];
        int d = abs(t->point.quota_milli - quota_milli);
        if (t->point.sm_pct == sm_pct && t->gpu_ns > 0 && d < away) {
            away = d;
            best = t->gpu_ns;
        }
    }
    return best;
}

static double cut(double v)
{
    return v < -STEP_MAX ? -STEP_MAX : v > STEP_MAX ? STEP_MAX : v;
}

static double positive(double v)
{
    return v > 0 ? v : 0;
}

/* |x|: logarithm of what was seen over what the trials say. */
static bool watch(struct fast_live *l, double x, fast_ns now)
{
    l->mean = l->any ? l->mean + FORGET * (x - l->mean) : x;
    l->any = true;
    l->spans++;
    l->up = positive(l->up + cut(x) - SLACK);
    l->down = positive(l->down - cut(x) - SLACK);
    if (!l->drifting && (l->up > THRESHOLD || l->down > THRESHOLD) && fabs(l->mean) > DRIFT_MIN) {
        l->drifting = true;
        l->since = now;
        return true;
    }
    if (l->drifting && fabs(l->mean) < DRIFT_OVER) {
        l->drifting = false;
        l->up = l->down = 0;
        return true;
    }
    return false;
}

bool fast_live_add(struct fast_live *l, const struct fast_live_span *s)
{
    if (s->answers < FAST_LIVE_ANSWERS_MIN || s->length <= 0)
        return false;
    double seen = (double)s->answers / ((double)s->length * 1e-9);
    double says = (double)fast_predict_look(l->predict, s->sm_pct, s->quota_milli).rps_milli * 1e-3;
    double full = (double)fast_predict_look(l->predict, s->sm_pct, FAST_MILLI).rps_milli * 1e-3;
    fast_ns gpu = trial_gpu(l, s->sm_pct, s->quota_milli);
    if (says <= 0)
        return false;
    double shift = l->drifting ? exp(l->mean) : 1, load = seen / (says * shift);
    if (load >= LOAD_MIN && load <= LOAD_MAX)
        learn_latency(l, s);
    if (s->waiting_ns >= s->length / 1000 * WAITING_MILLI) {
        learn_rate(l, s, llround(seen * 1e3));
        return watch(l, log(seen / says), s->now);
    }
    /* More than there should be is known without a queue; less only by what requests cost. */
    if (seen > says * (1 + SLACK))
        return watch(l, log(seen / says), s->now);
    if (gpu > 0 && s->gpu_ns > 0 && says < full * QUOTA_LIMITS)
        return watch(l, log((double)gpu * (double)s->answers / (double)s->gpu_ns), s->now);
    return false;
}

struct fast_live_drift fast_live_drift(const struct fast_live *l)
{
    return (struct fast_live_drift){l->drifting, (int)lround(exp(l->mean) * 1e3), l->since};
}

int fast_live_spans(const struct fast_live *l)
{
    return l->spans;
}

int fast_live_cells(const struct fast_live *l, struct fast_live_cell ret[FAST_LIVE_CELLS])
{
    memcpy(ret, l->cell, sizeof(l->cell[0]) * (size_t)l->cells);
    return l->cells;
}

/* The geometric mean of what a trial says and what |spans| do. */
static int64_t merge(int64_t trial, int64_t live, int spans)
{
    if (live <= 0 || spans < SPANS_MIN)
        return trial;
    if (trial <= 0)
        return live;
    double w = (double)spans / (spans + TRIAL_SPANS);
    return llround(exp(log((double)trial) * (1 - w) + log((double)live) * w));
}

static void merge_point(struct fast_profile_point *p, const struct fast_live_cell *c)
{
    p->rps_milli = merge(p->rps_milli, c->rps_milli, c->spans);
    p->p95_ns = merge(p->p95_ns, c->p95_ns, c->latency_spans);
    p->p99_ns = merge(p->p99_ns, c->p99_ns, c->latency_spans);
    p->p99_ns = p->p99_ns < p->p95_ns ? p->p95_ns : p->p99_ns;
}

static const struct fast_live_cell *cell_at(const struct fast_live *l, int sm_pct, int quota_milli)
{
    for (int i = 0; i < l->cells; i++)
        if (l->cell[i].sm_pct == sm_pct && l->cell[i].quota_milli == quota_milli)
            return &l->cell[i];
    return NULL;
}

int fast_live_points(const struct fast_live *l, struct fast_profile_point *ret, int max)
{
    double shift = l->drifting ? exp(l->mean) : 1;
    int n = 0;
    for (int i = 0; i < l->trials && n < max; i++) {
        struct fast_profile_point p = l->trial[i].point;
        const struct fast_live_cell *c = cell_at(l, p.sm_pct, p.quota_milli);
        int64_t rps = llround((double)p.rps_milli * shift);
        p.rps_milli = rps < 1 ? 1 : rps < FAST_PROFILE_RPS_MAX ? rps : FAST_PROFILE_RPS_MAX;
        if (c)
            merge_point(&p, c);
        ret[n++] = p;
    }
    for (int i = 0; i < l->cells && n < max; i++) {
        const struct fast_live_cell *c = &l->cell[i];
        bool tried = false;
        for (int k = 0; k < l->trials; k++)
            tried = tried || (l->trial[k].point.sm_pct == c->sm_pct &&
                              l->trial[k].point.quota_milli == c->quota_milli);
        if (!tried && c->spans >= SPANS_MIN && c->latency_spans >= SPANS_MIN)
            ret[n++] = (struct fast_profile_point){c->sm_pct, c->quota_milli, c->rps_milli, c->p95_ns,
                                                   c->p99_ns};
    }
    return n;
}
