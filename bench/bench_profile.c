/* How well a profile of few trials tells of the slices that were not tried: against the measurements on
 * a V100, and against the simulated GPU. The adaptive rule gets what it has asked for and nothing else;
 * the tables of all models and methods go to stderr. */

#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/predict.h"
#include "icpp23.h"
#include "trial.h"

#define GRID 35
#define MEASURED_TRIALS 8
#define TRIALS_MAX 10
#define TRIALS_MIN 4
#define CONFIDENCE_MILLI 40      /* the rule stops at a mean uncertainty of 4 %, the default of fast */
#define TRIAL_LENGTH FAST_S(6) /* what a trial of fast saturates: 60 % of 10 s */
#define TRIAL_S 10.0
#define GRID_LENGTH FAST_S(60)   /* of the profiles in models/profiles */

static const struct bench_figure figures[] = {
    {"profile.icpp23_error_pct", "%", "<= 7"},
    {"profile.icpp23_p95_error_pct", "%", NULL},
    {"profile.grid_error_pct", "%", "<= 5"},
    {"profile.adaptive_trials", "", "<= 10"},
    {"profile.adaptive_error_pct", "%", "<= 5"},
    {"profile.adaptive_unseen_error_pct", "%", NULL},
    {"profile.adaptive_s", "s", NULL},
    {"profile.load_p95_error_pct", "%", NULL},
    {"profile.slo_wrong_pct", "%", NULL},
    {"profile.slo_false_yes_pct", "%", NULL},
};
#define FIGURES (sizeof(figures) / sizeof(figures[0]))

static const char *const models[] = {"resnet50", "bert", "rnnt", "gnmt"};
#define MODELS 4
static const int sm_pcts[] = {6, 12, 24, 50, 60, 80, 100};
#define SMS 7

/* What is true of a slice; the rule sees of it what it asks for. */
struct grid {
    struct fast_predict_point point[GRID];
    double p95_ms[GRID];
    bool seen[GRID];
    struct fast_predict_point trial[GRID]; /* in the order of asking */
    int trials;
};

static void grid_places(struct grid *g)
{
    *g = (struct grid){0};
    for (int i = 0; i < GRID; i++)
        g->point[i] = (struct fast_predict_point){sm_pcts[i / 5], 200 * (i % 5 + 1), 0};
}

/* Candidates without what is true of them. */
static void places_only(const struct grid *g, struct fast_predict_point ret[GRID])
{
    for (int i = 0; i < GRID; i++)
        ret[i] = (struct fast_predict_point){g->point[i].sm_pct, g->point[i].quota_milli, 0};
}

static struct fast_predict *fit(const struct grid *g)
{
    struct fast_predict *f = NULL;
    struct fast_err err;
    if (fast_predict_new(g->trial, g->trials, &f, &err)) {
        fprintf(stderr, "bench_profile: %s\n", err.msg);
        exit(1);
    }
    return f;
}

/* Index of the next trial, -1: sure enough. The first one is the whole GPU. */
static int next_trial(const struct grid *g, int confidence_milli)
{
    struct fast_predict_point cand[GRID];
    int mean;
    if (g->trials == 0)
        return GRID - 1;
    places_only(g, cand);
    struct fast_predict *f = fit(g);
    int next = fast_predict_next(f, cand, GRID, &mean);
    fast_predict_free(f);
    return g->trials >= TRIALS_MIN && mean <= confidence_milli ? -1 : next;
}

static double error_pct(double predicted, double truth)
{
    return 100 * fabs(predicted / truth - 1);
}

/* The other methods, for comparison, on the same trials. */

/* Bilinear over (SM, quota) where the cell's corners are known, from lines and columns that are:
 * unknown corners are first filled in along the quota, then along the SM partition, ends repeated. */
static void fill_line(double *v, const double *x, size_t n, size_t step)
{
    for (size_t i = 0; i < n; i++) {
        size_t a = i, b = i; /* the known ones around i; n: none */
        if (!isnan(v[i * step]))
            continue;
        while (a < n && isnan(v[a * step]))
            a = a > 0 ? a - 1 : n;
        while (b < n && isnan(v[b * step]))
            b++;
        if (a < n && b < n)
            v[i * step] = v[a * step] + (v[b * step] - v[a * step]) * (x[i] - x[a]) / (x[b] - x[a]);
        else if (a < n || b < n)
            v[i * step] = v[(a < n ? a : b) * step];
    }
}

static void bilinear(const struct grid *g, double ret[GRID])
{
    double sm[SMS], quota[5] = {0.2, 0.4, 0.6, 0.8, 1}, known[GRID];
    for (int i = 0; i < SMS; i++)
        sm[i] = sm_pcts[i];
    for (int i = 0; i < GRID; i++)
        known[i] = g->seen[i] ? (double)g->point[i].rps_milli : NAN;
    memcpy(ret, known, sizeof(known));
    /* Throughput per quota is filled in, or a line with one point would be flat in the quota. */
    for (int i = 0; i < GRID; i++)
        ret[i] /= quota[i % 5];
    for (size_t s = 0; s < SMS; s++)
        fill_line(&ret[s * 5], quota, 5, 1);
    for (int q = 0; q < 5; q++)
        fill_line(&ret[q], sm, SMS, 5);
    for (int i = 0; i < GRID; i++)
        ret[i] *= quota[i % 5];
}

/* T = c q s / (s + h): least squares in the logarithm, by a search over h. */
static void saturating(const struct grid *g, double ret[GRID])
{
    double best = INFINITY;
    for (int k = 0; k < 175; k++) {
        double sum = 0, square = 0, h = 0.1 * pow(1.05, k); /* to 500 */
        for (int i = 0; i < g->trials; i++) {
            double s = g->trial[i].sm_pct, q = g->trial[i].quota_milli * 1e-3;
            double r = log((double)g->trial[i].rps_milli / (q * s / (s + h)));
            sum += r;
            square += r * r;
        }
        double c = sum / g->trials;
        if (square - c * sum >= best)
            continue;
        best = square - c * sum;
        for (int i = 0; i < GRID; i++) {
            double s = g->point[i].sm_pct, q = g->point[i].quota_milli * 1e-3;
            ret[i] = exp(c) * q * s / (s + h);
        }
    }
}

static void ours(const struct grid *g, double ret[GRID])
{
    struct fast_predict *f = fit(g);
    for (int i = 0; i < GRID; i++)
        ret[i] = (double)fast_predict_look(f, g->point[i].sm_pct, g->point[i].quota_milli).rps_milli;
    fast_predict_free(f);
}

struct errors {
    double mean, max, all; /* of slices not tried; |all|: over the whole grid */
};

static struct errors errors_of(const struct grid *g, void (*method)(const struct grid *, double *))
{
    double v[GRID];
    struct errors e = {0};
    method(g, v);
    for (int i = 0; i < GRID; i++) {
        double x = error_pct(v[i], (double)g->point[i].rps_milli);
        e.all += x / GRID;
        if (g->seen[i])
            continue;
        e.mean += x / (GRID - g->trials);
        e.max = fmax(e.max, x);
    }
    return e;
}

static void print_trials(const struct grid *g)
{
    fprintf(stderr, "          trials (SM x quota):");
    for (int i = 0; i < g->trials; i++)
        fprintf(stderr, " %dx%.1f", g->trial[i].sm_pct, g->trial[i].quota_milli * 1e-3);
    fprintf(stderr, "\n");
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Latency under the load of the measurements: 10 users who wait for their answers, windows of 10 s. */
static double p95_error(const struct grid *g, double *ret_median)
{
    static const struct fast_predict_load load = {.users = 10, .replicas = 1,
                                                  .window_ns = FAST_S(10)};
    struct fast_predict *f = fit(g);
    double sum = 0, error[GRID];
    int n = 0;
    for (int i = 0; i < GRID; i++) {
        double ms = (double)fast_predict_p95(f, g->point[i].sm_pct, g->point[i].quota_milli, &load) *
                    1e-6;
        if (g->seen[i])
            continue;
        error[n++] = error_pct(ms, g->p95_ms[i]);
        if (getenv("BENCH_POINTS"))
            fprintf(stderr, "          p95 of %3d %% x %.1f: %6.0f ms, measured %6.0f; %4.1f %% of requests meet the "
                    "closed part\n", g->point[i].sm_pct, g->point[i].quota_milli * 1e-3, ms, g->p95_ms[i],
                    1e5 * load.users / (load.window_ns * 1e-9 * (double)g->point[i].rps_milli));
    }
    for (int i = 0; i < n; i++)
        sum += error[i] / n;
    qsort(error, (size_t)n, sizeof(error[0]), by_size);
    *ret_median = error[n / 2];
    fast_predict_free(f);
    return sum;
}

static void icpp23_grid(const struct icpp23 *data, const char *model, struct grid *g)
{
    grid_places(g);
    for (int r = 0; r < data->rows; r++) {
        const struct icpp23_row *row = &data->row[r];
        if (strcmp(row->model, model) != 0 || strcmp(row->mode, "profile") != 0)
            continue;
        for (int i = 0; i < GRID; i++)
            if (g->point[i].sm_pct == row->sm_pct &&
                g->point[i].quota_milli == (int)lround(row->quota * 1000)) {
                g->point[i].rps_milli = llround(row->rps * 1000);
                g->p95_ms[i] = row->p95_ms;
            }
    }
}

static void take(struct grid *g, int i, int64_t rps_milli)
{
    g->trial[g->trials] = g->point[i];
    g->trial[g->trials++].rps_milli = rps_milli;
    g->seen[i] = true;
}

static void against_v100(const struct bench *b)
{
    static struct icpp23 data;
    char why[200];
    double worst = 0, spread = 0, p95 = 0;
    if (!icpp23_read(&data, why)) {
        for (int i = 0; i < 2; i++)
            if (bench_wants(b, figures[i].name))
                bench_skip(b, figures[i].name, why);
        return;
    }
    fprintf(stderr, "Measured on a V100: %d of %d slices tried, mean (largest) error of the others, %%\n"
            "model     predictor      bilinear       linear in quota,    p95 of latency\n"
            "                                        saturating in SM    mean (median)\n",
            MEASURED_TRIALS, GRID);
    for (int m = 0; m < MODELS; m++) {
        static struct grid g;
        icpp23_grid(&data, models[m], &g);
        while (g.trials < MEASURED_TRIALS) {
            int i = next_trial(&g, 0);
            take(&g, i, g.point[i].rps_milli);
        }
        struct errors e = errors_of(&g, ours), l = errors_of(&g, bilinear),
                      s = errors_of(&g, saturating);
        double median, late = p95_error(&g, &median);
        fprintf(stderr, "%-8s %5.1f (%4.1f) %7.1f (%4.1f) %7.1f (%4.1f) %14.1f (%4.1f)\n", models[m], e.mean,
                e.max, l.mean, l.max, s.mean, s.max, late, median);
        print_trials(&g);
        if (e.mean > worst) {
            worst = e.mean;
            spread = e.max;
        }
        p95 = fmax(p95, late);
    }
    if (bench_wants(b, "profile.icpp23_error_pct"))
        bench_print(b, "profile.icpp23_error_pct", worst, GRID - MEASURED_TRIALS, spread);
    if (bench_wants(b, "profile.icpp23_p95_error_pct"))
        bench_print(b, "profile.icpp23_p95_error_pct", p95, GRID - MEASURED_TRIALS, 0);
}

static int64_t simulate(const struct sim_model *model, const struct fast_predict_point *at,
                        fast_ns length)
{
    struct fast_profile_point p;
    struct fast_err err;
    if (bench_trial(model, at->sm_pct, at->quota_milli, length, &p, &err)) {
        fprintf(stderr, "bench_profile: %s\n", err.msg);
        exit(1);
    }
    return p.rps_milli;
}

/* ---- latency under load: does this slice meet the SLO at this rate? ---- */

static const double loads[] = {0.3, 0.6, 0.8}; /* of what the slice can do */
#define LOADS 3
#define ASKED 2000 /* requests of a run */
static const int slo_ms[MODELS] = {69, 500, 1000, 500};

struct answers {
    double error[MODELS * GRID * LOADS];
    int n, asked, wrong, false_yes;
};

/* On slices that |g| has not tried. */
static void ask_model(const struct grid *g, int m, const struct sim_model *model, struct answers *a)
{
    struct fast_predict *f = fit(g);
    int first = a->n, wrong = a->wrong, asked = a->asked;
    for (int i = 0; i < GRID * LOADS; i++) {
        const struct fast_predict_point *p = &g->point[i / LOADS];
        struct fast_predict_load load = {.rate_milli = llround((double)p->rps_milli * loads[i % LOADS]),
                                         .replicas = 1, .window_ns = FAST_WINDOW_DEFAULT};
        fast_ns length = ASKED * FAST_S(1000) / load.rate_milli;
        fast_ns p95 = 0, says = fast_predict_p95(f, p->sm_pct, p->quota_milli, &load);
        struct fast_err err;
        if (g->seen[i / LOADS])
            continue;
        if (bench_load(model, p->sm_pct, p->quota_milli, load.rate_milli, length, (uint64_t)i + 1, &p95, &err)) {
            fprintf(stderr, "bench_profile: %s\n", err.msg);
            exit(1);
        }
        bool meets = p95 <= FAST_MS(slo_ms[m]), yes = says <= FAST_MS(slo_ms[m]);
        a->asked++;
        a->wrong += meets != yes;
        a->false_yes += yes && !meets;
        a->error[a->n++] = says == FAST_NEVER ? 100 : error_pct((double)says, (double)p95);
        if (getenv("BENCH_POINTS"))
            fprintf(stderr, "%-8s %3d x %.1f at %.1f: p95 %6.1f ms, predicted %6.1f\n", models[m], p->sm_pct,
                    p->quota_milli * 1e-3, loads[i % LOADS], (double)p95 * 1e-6, (double)says * 1e-6);
    }
    qsort(&a->error[first], (size_t)(a->n - first), sizeof(a->error[0]), by_size);
    fprintf(stderr, "%-8s p95 under load: median error %.0f %%, 90 %% of them below %.0f %%; within %d ms? "
            "%d of %d answers wrong\n", models[m], a->error[first + (a->n - first) / 2],
            a->error[first + (a->n - first) * 9 / 10], slo_ms[m], a->wrong - wrong, a->asked - asked);
    fast_predict_free(f);
}

static void against_simulator(const struct bench *b)
{
    double worst = 0, unseen = 0, most_s = 0, short_grid = 0;
    int most = 0;
    static struct answers answers;
    fprintf(stderr, "Simulated V100, fast-node's scheduler: trials of %.1f s against %d slices of "
            "%d s; mean (largest) error, %%\nmodel    trials  predictor  of slices not tried   bilinear"
            "        linear, saturating   all tried\n", (double)TRIAL_LENGTH * 1e-9, GRID,
            (int)(GRID_LENGTH / FAST_S(1)));
    for (int m = 0; m < MODELS; m++) {
        static struct grid g;
        struct sim_model model;
        struct fast_err err;
        int i;
        if (icpp23_model(models[m], &model, &err)) {
            fprintf(stderr, "bench_profile: %s\n", err.msg);
            exit(1);
        }
        grid_places(&g);
        double start = bench_now_s();
        while (g.trials < TRIALS_MAX && (i = next_trial(&g, CONFIDENCE_MILLI)) >= 0)
            take(&g, i, simulate(&model, &g.point[i], TRIAL_LENGTH));
        double own = bench_now_s() - start;
        double grid = 0;
        for (i = 0; i < GRID; i++) {
            g.point[i].rps_milli = simulate(&model, &g.point[i], GRID_LENGTH);
            grid += error_pct((double)simulate(&model, &g.point[i], TRIAL_LENGTH),
                              (double)g.point[i].rps_milli) / GRID;
        }
        short_grid = fmax(short_grid, grid);
        struct errors e = errors_of(&g, ours), l = errors_of(&g, bilinear),
                      s = errors_of(&g, saturating);
        fprintf(stderr, "%-8s %4d %9.1f %10.1f (%4.1f) %14.1f (%5.1f) %8.1f (%4.1f) %12.1f\n",
                models[m], g.trials, e.all, e.mean, e.max, l.mean, l.max, s.mean, s.max, grid);
        print_trials(&g);
        worst = fmax(worst, e.all);
        unseen = fmax(unseen, e.mean);
        most = g.trials > most ? g.trials : most;
        most_s = fmax(most_s, own + g.trials * TRIAL_S);
        ask_model(&g, m, &model, &answers);
    }
    qsort(answers.error, (size_t)answers.n, sizeof(answers.error[0]), by_size);
    const double value[] = {short_grid, most, worst, unseen, most_s, answers.error[answers.n / 2],
                            100.0 * answers.wrong / answers.asked,
                            100.0 * answers.false_yes / answers.asked};
    for (size_t i = 2; i < FIGURES; i++)
        if (bench_wants(b, figures[i].name))
            bench_print(b, figures[i].name, value[i - 2], MODELS, 0);
}

int main(int argc, char **argv)
{
    struct bench b;
    bool simulator = false;
    bench_init(&b, figures, FIGURES, argc, argv);
    for (size_t i = 2; i < FIGURES; i++)
        simulator = simulator || bench_wants(&b, figures[i].name);
    if (bench_wants(&b, figures[0].name) || bench_wants(&b, figures[1].name))
        against_v100(&b);
    if (simulator)
        against_simulator(&b);
    return 0;
}
