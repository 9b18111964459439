/* How fast a place is decided in a fleet at 80 % load, and how well replicas are packed. The packing
 * tables of all rules go to stderr. */

#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/place.h"
#include "pack_rows.h"

#define SEEDS 10

static const struct bench_figure figures[] = {
    {"place.decision_p99_us_10", "us", NULL},
    {"place.decision_p99_us_100", "us", NULL},
    {"place.decision_p99_us_1000", "us", NULL},
    {"place.decision_p99_us_10000", "us", "<= 50"},
    {"place.decision_max_us_10000", "us", NULL},
    {"place.decisions_per_s_1213", "1/s", ">= 100000"},
    {"place.rect_fill_ratio", "", "<= 1.035"},
    {"place.rect_fill_ratio_m4", "", NULL},
    {"place.churn_pct", "%", ">= 95.8"},
    {"place.moldable_ratio", "", "<= 1.09"},
};

/* ---- decisions ---- */

#define DECISIONS 40000
#define LOAD 0.8

static unsigned draw(uint64_t *state, unsigned n)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (unsigned)((*state * 0x2545f4914f6cdd1dULL >> 33) % n);
}

struct live {
    uint64_t id;
    int area;
};

struct world {
    struct fast_fleet *fleet;
    struct live *live;
    int n, gpus;
    uint64_t next, random;
    int64_t area;
};

static struct fast_want want_of(struct world *w)
{
    static const int sms[] = {6, 12, 24, 50};
    int sm = sms[draw(&w->random, 4)], quota = 200 * (1 + (int)draw(&w->random, 5));
    uint64_t mem = FAST_MIB(256 * (1 + draw(&w->random, 8)));
    return (struct fast_want){.slice = {sm, quota, quota, mem}, .node = FAST_ANY, .gpu = FAST_ANY};
}

/* CPU time of this thread: a decision waits for nothing, and what other programs do to it is not its
 * cost. */
static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Returns the seconds that the decision took, its place taken. */
static double place(struct world *w, bool timed)
{
    struct fast_want want = want_of(w);
    struct fast_placed placed;
    struct fast_err err;
    double from = timed ? cpu_s() : 0;
    int rc = fast_fleet_place(w->fleet, w->next, &want, &placed, &err);
    double took = timed ? cpu_s() - from : 0;
    if (!rc) {
        w->live[w->n++] = (struct live){w->next, want.slice.sm_pct * want.slice.request_milli};
        w->area += (int64_t)want.slice.sm_pct * want.slice.request_milli;
    }
    w->next++;
    return took;
}

static void leave(struct world *w)
{
    int k = (int)draw(&w->random, (unsigned)w->n);
    if (fast_fleet_remove(w->fleet, w->live[k].id, NULL))
        abort();
    w->area -= w->live[k].area;
    w->live[k] = w->live[--w->n];
}

static void world_init(struct world *w, int nodes, int gpus)
{
    const struct fast_fleet_conf conf = {.fit = FAST_FIT_AREA, .split = true};
    *w = (struct world){.gpus = gpus, .random = 7};
    w->live = calloc((size_t)gpus * 64, sizeof(*w->live));
    if (!w->live || fast_fleet_new(&conf, &w->fleet, NULL))
        abort();
    for (int i = 0; i < gpus; i++) {
        const struct fast_gpu_conf gpu = {(uint32_t)(i % nodes), i / nodes, FAST_GIB(32)};
        int number;
        if (fast_fleet_gpu_add(w->fleet, &gpu, &number, NULL))
            abort();
    }
}

static void world_fini(struct world *w)
{
    fast_fleet_free(w->fleet);
    free(w->live);
}

static bool below_load(const struct world *w)
{
    return (double)w->area < LOAD * w->gpus * FAST_PLANE_AREA;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Fills the fleet up to the load, then replicas leave at random and others come. Every decision of the
 * second part counts, the first one too. */
static void decide(int gpus, double *ret_p50, double *ret_p99, double *ret_max)
{
    static double us[DECISIONS];
    struct world w;
    int n = 0;
    world_init(&w, gpus, gpus);
    while (below_load(&w))
        place(&w, false);
    while (n < DECISIONS) {
        leave(&w);
        while (below_load(&w) && n < DECISIONS)
            us[n++] = place(&w, true) * 1e6;
    }
    qsort(us, DECISIONS, sizeof(us[0]), by_value);
    *ret_p50 = us[DECISIONS / 2];
    *ret_p99 = us[(size_t)(DECISIONS / 100 * 99)];
    *ret_max = us[DECISIONS - 1];
    world_fini(&w);
}

static void bench_decisions(const struct bench *b)
{
    static const int sizes[] = {10, 100, 1000, 10000};
    for (int i = 0; i < 4; i++) {
        double p50, p99, max;
        char name[64];
        snprintf(name, sizeof(name), "place.decision_p99_us_%d", sizes[i]);
        bool with_max = sizes[i] == 10000 && bench_wants(b, "place.decision_max_us_10000");
        if (!bench_wants(b, name) && !with_max)
            continue;
        decide(sizes[i], &p50, &p99, &max);
        fprintf(stderr, "%5d GPUs at 80 %%: a decision takes %.2f us at p50, %.2f at p99, %.1f at most\n",
                sizes[i], p50, p99, max);
        if (bench_wants(b, name))
            bench_print(b, name, p99, DECISIONS, p99 - p50);
        if (with_max)
            bench_print(b, "place.decision_max_us_10000", max, DECISIONS, 0);
    }
}

/* The size of the openb cluster: 1,213 nodes, 6,212 GPUs. A decision is a place taken; what leaves in
 * between is part of the time. */
static void bench_rate(const struct bench *b)
{
    if (!bench_wants(b, "place.decisions_per_s_1213"))
        return;
    struct world w;
    double rate[5];
    world_init(&w, 1213, 6212);
    while (below_load(&w))
        place(&w, false);
    for (int r = 0; r < 5; r++) {
        double from = cpu_s();
        int n = 0;
        while (n < DECISIONS) {
            leave(&w);
            for (; below_load(&w) && n < DECISIONS; n++)
                place(&w, false);
        }
        rate[r] = n / (cpu_s() - from);
    }
    qsort(rate, 5, sizeof(rate[0]), by_value);
    bench_print(b, "place.decisions_per_s_1213", rate[2], 5L * DECISIONS, rate[4] - rate[0]);
    world_fini(&w);
}

static void print(const struct bench *b, const char *name, struct pack_result r)
{
    if (r.n)
        bench_print(b, name, r.value, r.n, r.spread);
    else
        bench_skip(b, name, "the openb trace is not there");
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    bench_decisions(&b);
    bench_rate(&b);
    if (bench_wants(&b, "place.rect_fill_ratio"))
        print(&b, "place.rect_fill_ratio", pack_fill("M5", SEEDS));
    if (bench_wants(&b, "place.rect_fill_ratio_m4"))
        print(&b, "place.rect_fill_ratio_m4", pack_fill("M4", SEEDS));
    if (bench_wants(&b, "place.churn_pct"))
        print(&b, "place.churn_pct", pack_churn(3));
    if (bench_wants(&b, "place.moldable_ratio"))
        print(&b, "place.moldable_ratio", pack_moldable(SEEDS));
    return 0;
}
