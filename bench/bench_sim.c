/* The GPU model against the measurements on a V100, point by point, and how fast it runs. The table of
 * all points goes to stderr. */

#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "icpp23.h"

static const struct bench_figure figures[] = {
    {"sim.profile_error_pct", "%", "<= 10"},
    {"sim.multi_error_pct", "%", "<= 15"},
    {"sim.sm_activity_error_pct", "%", "<= 25"},
    {"sim.occupancy_error_pct", "%", "<= 25"},
    {"sim.gpu_util_error_pct", "%", NULL},
    {"sim.p95_error_pct", "%", NULL},
    {"sim.events_per_s", "1/s", ">= 200000"},
};

static const char *const models[] = {"resnet50", "bert", "rnnt", "gnmt"};
#define MODELS (sizeof(models) / sizeof(models[0]))

struct mean {
    double sum, max;
    int n;
};

static void add(struct mean *m, double v)
{
    m->sum += v;
    m->max = fmax(m->max, v);
    m->n++;
}

static double mean_of(const struct mean *m)
{
    return m->n ? m->sum / m->n : NAN;
}

static double error_pct(double simulated, double measured)
{
    return 100 * fabs(simulated / measured - 1);
}

struct totals {
    struct mean profile[MODELS]; /* of requests per second */
    struct mean multi, sm, occupancy, util, p95; /* of all rows */
};

static void compare(const struct icpp23_row *m, struct totals *t)
{
    struct sim_model model;
    struct fast_err err;
    size_t i = 0;
    while (i < MODELS && strcmp(models[i], m->model) != 0)
        i++;
    if (i == MODELS)
        return;
    if (icpp23_model(m->model, &model, &err)) {
        fprintf(stderr, "bench_sim: %s\n", err.msg);
        return;
    }
    struct icpp23_row s = icpp23_simulate(m, &model);
    fprintf(stderr, "%-8s %-9s %.1f %3d%% %d | %6.2f %6.2f %+6.1f%% | %3.0f %3.0f | %.3f %.3f | "
            "%.4f %.4f | %.3f %.3f | %5.0f %5.0f\n",
            m->model, m->mode, m->quota, m->sm_pct, m->replicas, m->rps, s.rps,
            100 * (s.rps / m->rps - 1), m->util_pct, s.util_pct, m->sm_active, s.sm_active,
            m->occupancy, s.occupancy, m->dram, s.dram, m->p95_ms, s.p95_ms);
    if (strcmp(m->mode, "profile") == 0)
        add(&t->profile[i], error_pct(s.rps, m->rps));
    else
        add(&t->multi, error_pct(s.rps, m->rps));
    add(&t->sm, error_pct(s.sm_active, m->sm_active));
    add(&t->occupancy, error_pct(s.occupancy, m->occupancy));
    add(&t->util, error_pct(s.util_pct, m->util_pct));
    add(&t->p95, error_pct(s.p95_ms, m->p95_ms));
}

static void print_mean(const struct bench *b, const char *name, const struct mean *m)
{
    if (bench_wants(b, name))
        bench_print(b, name, mean_of(m), m->n, m->max);
}

static void accuracy(const struct bench *b)
{
    static struct icpp23 data;
    static struct totals t;
    char why[200];
    if (!icpp23_read(&data, why)) {
        for (size_t i = 0; i + 1 < sizeof(figures) / sizeof(figures[0]); i++)
            if (bench_wants(b, figures[i].name))
                bench_skip(b, figures[i].name, why);
        return;
    }
    fprintf(stderr, "Measured on a V100 (ICPP'23, public repository of the experiments) | simulated\n"
            "model    mode    quota SM  n |  req/s            error |  util %% | SM active   | "
            "occupancy     | DRAM        | p95 ms\n");
    for (int i = 0; i < data.rows; i++)
        compare(&data.row[i], &t);
    struct mean *worst = &t.profile[0];
    for (size_t i = 0; i < MODELS; i++) {
        fprintf(stderr, "%s: throughput error %.1f %% (mean of %d), at most %.1f %%\n", models[i],
                mean_of(&t.profile[i]), t.profile[i].n, t.profile[i].max);
        if (mean_of(&t.profile[i]) > mean_of(worst))
            worst = &t.profile[i];
    }
    print_mean(b, "sim.profile_error_pct", worst);
    print_mean(b, "sim.multi_error_pct", &t.multi);
    print_mean(b, "sim.sm_activity_error_pct", &t.sm);
    print_mean(b, "sim.occupancy_error_pct", &t.occupancy);
    print_mean(b, "sim.gpu_util_error_pct", &t.util);
    print_mean(b, "sim.p95_error_pct", &t.p95);
}

/* Steps of an experiment with 8 replicas and tokens, per second of this machine. */
static void speed(const struct bench *b)
{
    static struct sim_exp_conf conf;
    static struct sim_exp_result res;
    struct icpp23_row row = {.model = "resnet50", .mode = "partition", .quota = 1, .sm_pct = 12,
                             .replicas = 8};
    struct sim_model model;
    struct fast_err err;
    if (icpp23_model(row.model, &model, &err)) {
        bench_skip(b, "sim.events_per_s", "models/resnet50.model is not there");
        return;
    }
    icpp23_conf(&row, &model, &conf);
    double rate[3], least = INFINITY, most = 0, sum = 0;
    for (int i = 0; i < 3; i++) {
        double start = bench_now_s();
        if (sim_exp_run(&conf, &res, &err))
            return;
        rate[i] = (double)res.events / (bench_now_s() - start);
        least = fmin(least, rate[i]);
        most = fmax(most, rate[i]);
        sum += rate[i];
    }
    bench_print(b, "sim.events_per_s", sum / 3, 3, most - least);
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    bool any = false;
    for (size_t i = 0; i + 1 < sizeof(figures) / sizeof(figures[0]); i++)
        any = any || bench_wants(&b, figures[i].name);
    if (any)
        accuracy(&b);
    if (bench_wants(&b, "sim.events_per_s"))
        speed(&b);
    return 0;
}
