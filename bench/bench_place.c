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
    {"place.decision_weights_us_10000", "us", NULL},
    {"place.decision_weights_p99_us_10000", "us", "<= 50"},
    {"place.decision_spread_us_10000", "us", NULL},
    {"place.decision_spread_p99_us_10000", "us", "<= 50"},
    {"place.decision_avoid_us_10000", "us", NULL},
    {"place.decision_avoid_p99_us_10000", "us", "<= 50"},
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

/* What wants ask for beside their size. */
enum kind { PLAIN, WEIGHTS, SPREAD, AVOID, KINDS };

#define DOMAINS 250
#define GROUPS 60 /* functions; of some 1,000 replicas each in 10,000 GPUs */

struct live {
    uint64_t id;
    int area;
};

struct world {
    enum kind kind;
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
    struct fast_want want = {.slice = {sm, quota, quota, mem}, .node = FAST_ANY, .gpu = FAST_ANY};
    if (w->kind == WEIGHTS) {
        want.weights = 1;
        want.weights_bytes = FAST_GIB(1);
    } else if (w->kind != PLAIN) {
        want.group = 1 + draw(&w->random, GROUPS);
        want.spread = w->kind == SPREAD;
        want.avoid = w->kind == AVOID ? want.group : 0;
    }
    return want;
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

static void world_init(struct world *w, int nodes, int gpus, enum kind kind)
{
    const struct fast_fleet_conf conf = {.fit = FAST_FIT_AREA, .split = true};
    *w = (struct world){.kind = kind, .gpus = gpus, .random = 7};
    w->live = calloc((size_t)gpus * 64, sizeof(*w->live));
    if (!w->live || fast_fleet_new(&conf, &w->fleet, NULL))
        abort();
    for (int i = 0; i < gpus; i++) {
        const struct fast_gpu_conf gpu = {(uint32_t)(i % nodes), i / nodes, FAST_GIB(32), 0,
                                          kind == SPREAD ? (uint32_t)(i % DOMAINS) : 0};
        int number;
        if (fast_fleet_gpu_add(w->fleet, &gpu, &number, NULL) ||
            (kind == WEIGHTS && fast_fleet_weights(w->fleet, number, 1, FAST_GIB(1), false, NULL)))
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
struct times {
    double mean, p50, p99, max; /* us */
};

static struct times decide(int gpus, enum kind kind)
{
    static double us[DECISIONS];
    struct world w;
    double sum = 0;
    int n = 0;
    world_init(&w, gpus, gpus, kind);
    while (below_load(&w))
        place(&w, false);
    while (n < DECISIONS) {
        leave(&w);
        while (below_load(&w) && n < DECISIONS)
            us[n++] = place(&w, true) * 1e6;
    }
    for (int i = 0; i < DECISIONS; i++)
        sum += us[i];
    qsort(us, DECISIONS, sizeof(us[0]), by_value);
    world_fini(&w);
    return (struct times){sum / DECISIONS, us[DECISIONS / 2], us[DECISIONS / 100 * 99], us[DECISIONS - 1]};
}

static void say(int gpus, const char *kind, const struct times *t)
{
    fprintf(stderr, "%5d GPUs at 80 %%, %s: a decision takes %.2f us in the mean, %.2f at p50, %.2f at p99, "
            "%.1f at most\n", gpus, kind, t->mean, t->p50, t->p99, t->max);
}

static void bench_decisions(const struct bench *b)
{
    static const int sizes[] = {10, 100, 1000, 10000};
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof(name), "place.decision_p99_us_%d", sizes[i]);
        bool with_max = sizes[i] == 10000 && bench_wants(b, "place.decision_max_us_10000");
        if (!bench_wants(b, name) && !with_max)
            continue;
        struct times t = decide(sizes[i], PLAIN);
        say(sizes[i], "plain", &t);
        if (bench_wants(b, name))
            bench_print(b, name, t.p99, DECISIONS, t.p99 - t.p50);
        if (with_max)
            bench_print(b, "place.decision_max_us_10000", t.max, DECISIONS, 0);
    }
}

/* Wants that name more than a size: weights that lie on every GPU, spreading over the failure domains, not
 * with a replica of the same function. */
static void bench_kinds(const struct bench *b)
{
    static const char *const kinds[KINDS] = {NULL, "weights", "spread", "avoid"};
    for (int k = WEIGHTS; k < KINDS; k++) {
        char mean[64], p99[64];
        snprintf(mean, sizeof(mean), "place.decision_%s_us_10000", kinds[k]);
        snprintf(p99, sizeof(p99), "place.decision_%s_p99_us_10000", kinds[k]);
        if (!bench_wants(b, mean) && !bench_wants(b, p99))
            continue;
        struct times t = decide(10000, (enum kind)k);
        say(10000, kinds[k], &t);
        if (bench_wants(b, mean))
            bench_print(b, mean, t.mean, DECISIONS, t.p99 - t.p50);
        if (bench_wants(b, p99))
            bench_print(b, p99, t.p99, DECISIONS, t.max - t.p50);
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
    world_init(&w, 1213, 6212, PLAIN);
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
    bench_kinds(&b);
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
