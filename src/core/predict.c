/* Predicts throughput from few measurements. It assumes that
 *
 *   T(s, q) = A(s) * (1 + (q * K(s))^-p)^(-1/p),
 *
 * linear in the quota q until the host is what limits, where p says how sharp the knee is. log A and
 * log K are curves over the partition s with a Gaussian prior (a line and a random walk) on the scale
 * x = log(s / (s + s0)), on which Michaelis-Menten saturation is a straight line; a small third term
 * lets single slices differ. The posterior is that of the linearised model, an extended Kalman
 * smoother written as a Gaussian process. p and s0 come from short lists, weighted by how likely the
 * measurements are under each. It decides nothing about a measured slice: there the answer is what
 * was measured. */

#include "core/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define N FAST_PREDICT_POINTS_MAX
#define RPS_MAX INT64_C(1000000000)
#define ITERATIONS 6

/* The prior, chosen once for all functions. */
#define SCALE_VAR 4.0     /* of the level of log A: hardly anything is known before the first trial */
#define SLOPE 0.7         /* of log A over x: 1 would be Michaelis-Menten itself */
#define SLOPE_SD 0.4
#define WALK_A 0.15       /* variance of the walk of log A per unit of x */
#define KNEE 0.3          /* log K: a little GPU time is left over at full quota */
#define KNEE_SD 0.5
#define KNEE_SLOPE_SD 0.3
#define WALK_K 0.15
#define SINGLE_SD 0.03    /* of what single slices differ by */
#define SINGLE_X 0.4      /* over what distance they do alike, in x and in log q */
#define SINGLE_Q 0.5
#define NOISE 0.02        /* standard deviation of a measurement */
#define CENTRE_SM 30.0    /* where the lines of the prior have their level */
#define WEIGHT_MIN 0.01   /* less likely combinations of p and s0 are left out */

static const double sharpness[] = {1, 2, 4, 8};
static const double half_sm[] = {5, 15, 40};
#define MODELS 12

/* The lattice on which predictions are made monotone; in between they are interpolated. */
static const int lattice_sm[] = {1,  2,  3,  4,  6,  8,  10, 12, 14, 17, 20, 24, 28, 32, 36,
                                 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100};
static const int lattice_quota[] = {1,   10,  25,  50,  75,  100, 150, 200, 250, 300, 350, 400,
                                    450, 500, 550, 600, 650, 700, 750, 800, 850, 900, 950, 1000};
#define LS ((int)FAST_COUNT_OF(lattice_sm))
#define LQ ((int)FAST_COUNT_OF(lattice_quota))

/* Not those of libm: a call each, and none of these is ever NaN. */
static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* A slice as one model sees it: x, log q, and how strongly log K weighs there. */
struct place {
    double x, lq, g;
};

struct model {
    double p, s0, weight, centre, level;
    struct place at[N];
    double chol[N][N], alpha[N];
};

struct fast_predict {
    int n, models;
    struct fast_predict_point points[N];
    int64_t pooled[N]; /* what a point counts as in the bounds */
    double y[N];
    double lattice[LS][LQ]; /* log of requests/s, grows with both indices */
    struct model model[MODELS];
};

static double scale(const struct model *m, double sm)
{
    return log(sm * (1 + m->s0) / (sm + m->s0)); /* 0 at 1 % */
}

/* log of the part of A that the quota leaves, and its derivative. */
static double knee(const struct model *m, double z)
{
    return -log(1 + exp(-m->p * z)) / m->p;
}

static double knee_slope(const struct model *m, double z)
{
    return 1 / (1 + exp(m->p * z));
}

static double cov_a(const struct model *m, double x, double y)
{
    return SCALE_VAR + WALK_A * (x < y ? x : y) +
           SLOPE_SD * SLOPE_SD * (x - m->centre) * (y - m->centre);
}

static double cov_k(const struct model *m, double x, double y)
{
    return KNEE_SD * KNEE_SD + WALK_K * (x < y ? x : y) +
           KNEE_SLOPE_SD * KNEE_SLOPE_SD * (x - m->centre) * (y - m->centre);
}

static double cov_single(const struct place *a, const struct place *b)
{
    return SINGLE_SD * SINGLE_SD *
           exp(-fabs(a->x - b->x) / SINGLE_X - fabs(a->lq - b->lq) / SINGLE_Q);
}

static double cov(const struct model *m, const struct place *a, const struct place *b)
{
    return cov_a(m, a->x, b->x) + a->g * b->g * cov_k(m, a->x, b->x) + cov_single(a, b);
}

static double log_k(const struct model *m, int n, double x)
{
    double k = KNEE;
    for (int i = 0; i < n; i++)
        k += m->at[i].g * cov_k(m, x, m->at[i].x) * m->alpha[i];
    return k;
}

static struct place place_of(const struct model *m, int n, int sm, int quota)
{
    struct place at = {.x = scale(m, sm), .lq = log(quota * 1e-3)};
    at.g = knee_slope(m, at.lq + log_k(m, n, at.x));
    return at;
}

/* log of requests/s. */
static double mean_at(const struct model *m, int n, int sm, int quota)
{
    struct place at = place_of(m, n, sm, quota);
    double y = m->level + SLOPE * (at.x - m->centre) + knee(m, at.lq + log_k(m, n, at.x));
    for (int i = 0; i < n; i++)
        y += (cov_a(m, at.x, m->at[i].x) + cov_single(&at, &m->at[i])) * m->alpha[i];
    return y;
}

/* Solves L z = |b| in place, for the lower triangle |m|->chol. */
static void solve_lower(const struct model *m, int n, double *b)
{
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++)
            b[i] -= m->chol[i][k] * b[k];
        b[i] /= m->chol[i][i];
    }
}

static void solve_upper(const struct model *m, int n, double *b)
{
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            b[i] -= m->chol[k][i] * b[k];
        b[i] /= m->chol[i][i];
    }
}

static void factor(struct model *m, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j <= i; j++) {
            double s = cov(m, &m->at[i], &m->at[j]) + (i == j ? NOISE * NOISE : 0);
            for (int k = 0; k < j; k++)
                s -= m->chol[i][k] * m->chol[j][k];
            m->chol[i][j] = i == j ? sqrt(larger(s, 1e-12)) : s / m->chol[j][j];
        }
}

/* Fits one model to the measurements; returns the log of how likely they are under it. */
static double fit(struct model *m, const struct fast_predict *f)
{
    int n = f->n;
    double k[N], sum = 0, likely = 0;
    m->centre = scale(m, CENTRE_SM);
    for (int i = 0; i < n; i++) {
        m->at[i] = (struct place){scale(m, f->points[i].sm_pct),
                                  log(f->points[i].quota_milli * 1e-3), 0};
        k[i] = KNEE;
        sum += f->y[i];
    }
    m->level = sum / n;
    for (int it = 0; it < ITERATIONS; it++) {
        for (int i = 0; i < n; i++)
            m->at[i].g = knee_slope(m, m->at[i].lq + k[i]);
        for (int i = 0; i < n; i++)
            m->alpha[i] = f->y[i] - m->level - SLOPE * (m->at[i].x - m->centre) -
                          knee(m, m->at[i].lq + k[i]) - m->at[i].g * (KNEE - k[i]);
        factor(m, n);
        solve_lower(m, n, m->alpha);
        likely = 0;
        for (int i = 0; i < n; i++)
            likely -= m->alpha[i] * m->alpha[i] / 2 + log(m->chol[i][i]);
        solve_upper(m, n, m->alpha);
        /* Half steps, within bounds, so that the linearisation settles. */
        for (int i = 0; i < n; i++)
            k[i] = larger(-2, smaller(3, (k[i] + log_k(m, n, m->at[i].x)) / 2));
    }
    return likely;
}

static void fit_all(struct fast_predict *f)
{
    double likely[MODELS], most = -INFINITY, sum = 0;
    for (int i = 0; i < MODELS; i++) {
        f->model[i].p = sharpness[i / 3];
        f->model[i].s0 = half_sm[i % 3];
        likely[i] = fit(&f->model[i], f);
        most = larger(most, likely[i]);
    }
    for (int i = 0; i < MODELS; i++)
        sum += exp(likely[i] - most);
    double kept = 0;
    for (int i = 0; i < MODELS; i++) {
        double w = exp(likely[i] - most) / sum;
        if (w < WEIGHT_MIN)
            continue;
        if (f->models != i)
            f->model[f->models] = f->model[i];
        f->model[f->models++].weight = w;
        kept += w;
    }
    for (int i = 0; i < f->models; i++)
        f->model[i].weight /= kept;
}

static double mean_all(const struct fast_predict *f, int sm, int quota)
{
    double y = 0;
    for (int i = 0; i < f->models; i++)
        y += f->model[i].weight * mean_at(&f->model[i], f->n, sm, quota);
    return y;
}

/* The mean of the largest value of all smaller slices and the smallest of all larger ones: monotone,
 * and the value itself where it was monotone before. */
static void fill_lattice(struct fast_predict *f)
{
    double up[LS][LQ];
    for (int s = 0; s < LS; s++)
        for (int q = 0; q < LQ; q++) {
            f->lattice[s][q] = up[s][q] = mean_all(f, lattice_sm[s], lattice_quota[q]);
            if (s)
                up[s][q] = larger(up[s][q], up[s - 1][q]);
            if (q)
                up[s][q] = larger(up[s][q], up[s][q - 1]);
        }
    for (int s = LS - 1; s >= 0; s--)
        for (int q = LQ - 1; q >= 0; q--) {
            if (s + 1 < LS)
                f->lattice[s][q] = smaller(f->lattice[s][q], f->lattice[s + 1][q]);
            if (q + 1 < LQ)
                f->lattice[s][q] = smaller(f->lattice[s][q], f->lattice[s][q + 1]);
        }
    for (int s = 0; s < LS; s++)
        for (int q = 0; q < LQ; q++)
            f->lattice[s][q] = (f->lattice[s][q] + up[s][q]) / 2;
}

static bool within(const struct fast_predict_point *a, int sm, int quota)
{
    return a->sm_pct <= sm && a->quota_milli <= quota;
}

static bool holds(const struct fast_predict_point *a, int sm, int quota)
{
    return a->sm_pct >= sm && a->quota_milli >= quota;
}

static void pool(struct fast_predict *f)
{
    for (int i = 0; i < f->n; i++) {
        const struct fast_predict_point *p = &f->points[i];
        int64_t most = p->rps_milli, least = p->rps_milli;
        for (int j = 0; j < f->n; j++) {
            int64_t v = f->points[j].rps_milli;
            if (within(&f->points[j], p->sm_pct, p->quota_milli) && v > most)
                most = v;
            if (holds(&f->points[j], p->sm_pct, p->quota_milli) && v < least)
                least = v;
        }
        f->pooled[i] = most == least ? most : llround(sqrt((double)most * (double)least));
    }
}

static int check(const struct fast_predict_point *p, int n, struct fast_err *err)
{
    if (n < 1 || n > N)
        return fast_err_set(err, FAST_EINVAL, "a prediction needs 1 to %d measured slices, not %d", N,
                            n);
    for (int i = 0; i < n; i++) {
        if (p[i].sm_pct < 1 || p[i].sm_pct > FAST_SM_PCT_MAX || p[i].quota_milli < 1 ||
            p[i].quota_milli > FAST_MILLI || p[i].rps_milli < 1 || p[i].rps_milli > RPS_MAX)
            return fast_err_set(err, FAST_EINVAL,
                                "SM %d %% x quota %d thousandths with %lld requests per 1000 s is not "
                                "in 1..100, 1..1000, 1..%lld", p[i].sm_pct, p[i].quota_milli,
                                (long long)p[i].rps_milli, (long long)RPS_MAX);
        for (int j = 0; j < i; j++)
            if (p[i].sm_pct == p[j].sm_pct && p[i].quota_milli == p[j].quota_milli)
                return fast_err_set(err, FAST_EINVAL,
                                    "SM %d %% x quota %d thousandths is there twice", p[i].sm_pct,
                                    p[i].quota_milli);
    }
    return 0;
}

int fast_predict_new(const struct fast_predict_point *points, int n, struct fast_predict **ret,
                     struct fast_err *err)
{
    int rc = check(points, n, err);
    if (rc)
        return rc;
    struct fast_predict *f = calloc(1, sizeof(*f));
    if (!f)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a prediction");
    f->n = n;
    memcpy(f->points, points, sizeof(points[0]) * (size_t)n);
    for (int i = 0; i < n; i++)
        f->y[i] = log((double)points[i].rps_milli * 1e-3);
    pool(f);
    fit_all(f);
    fill_lattice(f);
    *ret = f;
    return 0;
}

void fast_predict_free(struct fast_predict *predict)
{
    free(predict);
}

/* The place of |v| on |axis|: the index below and how far it is to the next. */
static int find(const int *axis, int n, int v, double *ret_part)
{
    int i = 0;
    while (i + 2 < n && axis[i + 1] <= v)
        i++;
    *ret_part = (double)(v - axis[i]) / (axis[i + 1] - axis[i]);
    return i;
}

static double between(double a, double b, double part)
{
    return a + (b - a) * part;
}

static double smooth(const struct fast_predict *f, int sm, int quota)
{
    double a, b;
    int s = find(lattice_sm, LS, sm, &a), q = find(lattice_quota, LQ, quota, &b);
    const double(*l)[LQ] = f->lattice;
    return between(between(exp(l[s][q]), exp(l[s][q + 1]), b),
                   between(exp(l[s + 1][q]), exp(l[s + 1][q + 1]), b), a);
}

/* |w|: the covariance of a slice with what was measured, in the coordinates of |m|->chol. */
static void project(const struct model *m, int n, const struct place *at, double *w)
{
    for (int i = 0; i < n; i++)
        w[i] = cov(m, at, &m->at[i]);
    solve_lower(m, n, w);
}

static int clamp(int v, int least, int most)
{
    return v < least ? least : v > most ? most : v;
}

static int measured(const struct fast_predict *f, int sm, int quota)
{
    for (int i = 0; i < f->n; i++)
        if (f->points[i].sm_pct == sm && f->points[i].quota_milli == quota)
            return i;
    return -1;
}

static double variance(const struct fast_predict *f, int sm, int quota)
{
    double all = mean_all(f, sm, quota), v = 0;
    for (int i = 0; i < f->models; i++) {
        const struct model *m = &f->model[i];
        struct place at = place_of(m, f->n, sm, quota);
        double w[N], d = mean_at(m, f->n, sm, quota) - all, own = cov(m, &at, &at);
        project(m, f->n, &at, w);
        for (int k = 0; k < f->n; k++)
            own -= w[k] * w[k];
        v += m->weight * (larger(own, 0) + d * d);
    }
    return v;
}

struct fast_predict_value fast_predict_look(const struct fast_predict *f, int sm_pct,
                                            int quota_milli)
{
    int sm = clamp(sm_pct, 1, FAST_SM_PCT_MAX), quota = clamp(quota_milli, 1, FAST_MILLI);
    struct fast_predict_value v = {.high = INT64_MAX};
    for (int i = 0; i < f->n; i++) {
        if (within(&f->points[i], sm, quota) && f->pooled[i] > v.low)
            v.low = f->pooled[i];
        if (holds(&f->points[i], sm, quota) && f->pooled[i] < v.high)
            v.high = f->pooled[i];
    }
    v.rps_milli = llround(smaller(smooth(f, sm, quota) * 1e3, (double)RPS_MAX));
    v.rps_milli = v.rps_milli < v.low ? v.low : v.rps_milli > v.high ? v.high : v.rps_milli;
    double sd = measured(f, sm, quota) < 0 ? sqrt(variance(f, sm, quota)) : NOISE;
    v.uncertainty_milli = (int)lround(smaller(sd, 10) * 1e3);
    return v;
}

/* Adds what |m| knows of the covariance between all |n| candidates to |c|, an n x n matrix. */
static void add_covariance(const struct fast_predict *f, const struct model *m,
                           const struct fast_predict_point *cand, int n, double *c, double (*w)[N])
{
    struct place at[FAST_PREDICT_POINTS_MAX];
    double d[FAST_PREDICT_POINTS_MAX];
    for (int i = 0; i < n; i++) {
        at[i] = place_of(m, f->n, cand[i].sm_pct, cand[i].quota_milli);
        d[i] = mean_at(m, f->n, cand[i].sm_pct, cand[i].quota_milli) -
               mean_all(f, cand[i].sm_pct, cand[i].quota_milli);
        project(m, f->n, &at[i], w[i]);
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double v = cov(m, &at[i], &at[j]) + d[i] * d[j];
            for (int k = 0; k < f->n; k++)
                v -= w[i][k] * w[j][k];
            c[i * n + j] += m->weight * v;
        }
}

int fast_predict_next(const struct fast_predict *f, const struct fast_predict_point *cand, int n,
                      int *ret_mean_milli)
{
    int best = -1;
    double most = -1, sum = 0;
    n = n > N ? N : n;
    fast_autofree double *c = calloc((size_t)n * (size_t)n + 1, sizeof(*c));
    fast_autofree double(*w)[N] = calloc((size_t)n + 1, sizeof(*w));
    if (!c || !w)
        return -1;
    for (int i = 0; i < f->models; i++)
        add_covariance(f, &f->model[i], cand, n, c, w);
    for (int i = 0; i < n; i++) {
        double gain = 0;
        sum += sqrt(larger(c[i * n + i], 0));
        for (int j = 0; j < n; j++)
            gain += c[i * n + j] * c[i * n + j];
        gain /= larger(c[i * n + i], 0) + NOISE * NOISE;
        if (gain > most && measured(f, cand[i].sm_pct, cand[i].quota_milli) < 0) {
            most = gain;
            best = i;
        }
    }
    if (ret_mean_milli)
        *ret_mean_milli = n ? (int)lround(smaller(sum / n, 10) * 1e3) : 0;
    return best;
}
