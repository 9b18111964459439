/* The one-dimensional protocol of FGD (Weng et al., USENIX ATC 2023) on the openb trace: pods drawn from
 * the trace with replacement until their GPU requests are 1.3 times the cluster, placed one by one;
 * nothing departs, and what does not fit is gone. What a pod shares of a GPU is its time, its SM
 * partition is the whole, so one number tells what is left.
 *
 * One tie rule for every policy: of equal nodes the best fit over CPU and GPU, then the lowest number;
 * within a node the tightest GPU. "by name" rows show what the lowest number alone does. The table goes
 * to stderr. */

#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "openb.h"

#define SEEDS 10
#define SIZES 101       /* shares in hundredths of a GPU */
#define POPULAR_MAX 200 /* pod shapes of 95 % of the pods */
#define CLASSES 3       /* of failed pods: sharing, one GPU, several */

static const struct bench_figure figures[] = {
    {"place.openb_100_pct", "%", ">= 95.3"},
    {"place.openb_130_pct", "%", ">= 95.5"},
    {"place.openb_fgd_100_pct", "%", NULL},
    {"place.openb_fgd_130_pct", "%", NULL},
    {"place.openb_ceiling_pct", "%", NULL},
};

struct node {
    int cpu, mem, ngpu, free_all;
    int free[OPENB_GPUS]; /* milli */
};

struct popular {
    struct openb_pod pod;
    double weight;
};

struct world {
    const struct openb *trace;
    struct node *nodes;
    struct popular popular[POPULAR_MAX];
    int npopular;
    double loss[SIZES];  /* minus the worth of so much free, in GPUs of the best mix */
    double price[SIZES]; /* of a share: the part of a GPU that the best mix spends on it */
    double cpu_per_gpu;  /* mean of the arriving pods with GPUs */
    uint64_t random;
};

enum rule { RULE_OURS, RULE_FGD, RULE_FGD_NAME, RULE_BEST_FIT, RULE_FIRST_FIT, RULE_RANDOM, RULES };

static const char *const rule_names[RULES] = {
    "priced waste (ours)", "FGD", "FGD, ties by name", "best fit", "first fit", "random"};

static unsigned draw(uint64_t *state, unsigned n)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (unsigned)((*state * 0x2545f4914f6cdd1dULL >> 33) % n);
}

/* ---- the linear program: fewest GPUs for the sharing pods, fractions allowed ---- */

/* Gilmore and Gomory's cutting stock: a basis of patterns (how many of each size a GPU gets), and
 * column generation by a knapsack. Sizes are rows. */
struct lp {
    int n, size[SIZES];
    double inv[SIZES][SIZES], amount[SIZES]; /* inverse of the basis; GPUs with each pattern */
};

/* The pattern that is worth most at |price|. */
static double best_pattern(const struct lp *lp, const double *price, double *ret)
{
    double worth[SIZES] = {0};
    int last[SIZES];
    for (int free = 0; free < SIZES; free++) {
        last[free] = -1;
        if (free && worth[free - 1] > 0)
            worth[free] = worth[free - 1];
        for (int i = 0; i < lp->n; i++)
            if (lp->size[i] <= free && price[i] + worth[free - lp->size[i]] > worth[free] + 1e-12) {
                worth[free] = price[i] + worth[free - lp->size[i]];
                last[free] = i;
            }
    }
    for (int i = 0; i < lp->n; i++)
        ret[i] = 0;
    for (int free = SIZES - 1; free > 0;) {
        if (last[free] < 0) {
            free--;
            continue;
        }
        ret[last[free]]++;
        free -= lp->size[last[free]];
    }
    return worth[SIZES - 1];
}

static bool pivot(struct lp *lp, const double *pattern)
{
    double step[SIZES];
    int out = -1;
    for (int i = 0; i < lp->n; i++) {
        step[i] = 0;
        for (int j = 0; j < lp->n; j++)
            step[i] += lp->inv[i][j] * pattern[j];
        if (step[i] > 1e-9 &&
            (out < 0 || lp->amount[i] * step[out] < lp->amount[out] * step[i]))
            out = i;
    }
    for (int j = 0; out >= 0 && j < lp->n; j++)
        lp->inv[out][j] /= step[out];
    if (out >= 0)
        lp->amount[out] /= step[out];
    for (int i = 0; out >= 0 && i < lp->n; i++) {
        for (int j = 0; i != out && j < lp->n; j++)
            lp->inv[i][j] -= step[i] * lp->inv[out][j];
        if (i != out)
            lp->amount[i] -= step[i] * lp->amount[out];
    }
    return out >= 0;
}

/* The fewest GPUs, and the price of each size. */
static double price_shares(struct world *w)
{
    static struct lp lp;
    double demand[SIZES] = {0}, price[SIZES], pattern[SIZES], gpus = 0;
    lp = (struct lp){0};
    for (int i = 0; i < w->trace->sharing; i++)
        demand[w->trace->share[i] / 10]++;
    for (int s = 1; s < SIZES - 1; s++) {
        if (demand[s] <= 0)
            continue;
        lp.size[lp.n] = s;
        int fits = 100 / s;
        lp.inv[lp.n][lp.n] = 1.0 / fits;
        lp.amount[lp.n] = demand[s] / fits;
        lp.n++;
    }
    for (int step = 0; step < 10000; step++) {
        for (int j = 0; j < lp.n; j++) {
            price[j] = 0;
            for (int i = 0; i < lp.n; i++)
                price[j] += lp.inv[i][j];
        }
        if (best_pattern(&lp, price, pattern) <= 1 + 1e-7 || !pivot(&lp, pattern))
            break;
    }
    for (int i = 0; i < lp.n; i++) {
        gpus += lp.amount[i];
        w->price[lp.size[i]] = price[i];
    }
    w->price[SIZES - 1] = 1;
    for (int free = 1; free < SIZES; free++) {
        w->loss[free] = w->loss[free - 1];
        for (int s = 1; s <= free; s++)
            if (w->price[s] > 0)
                w->loss[free] = fmin(w->loss[free], -w->price[s] + w->loss[free - s]);
    }
    return gpus;
}

/* ---- FGD's fragmentation of a node ---- */

static bool gpu_fits(const struct node *n, const struct openb_pod *p)
{
    int k = 0;
    for (int g = 0; g < n->ngpu; g++)
        k += n->free[g] >= p->milli;
    return k >= p->gpus;
}

static double fragmentation(const struct world *w, const struct node *n)
{
    double sum = 0;
    for (int i = 0; i < w->npopular; i++) {
        const struct openb_pod *m = &w->popular[i].pod;
        int lost = 0;
        bool runs = m->gpus && m->cpu <= n->cpu && gpu_fits(n, m);
        for (int g = 0; g < n->ngpu; g++)
            lost += !runs || n->free[g] < m->milli ? n->free[g] : 0;
        sum += w->popular[i].weight * lost;
    }
    return sum;
}

/* ---- a pod on a node ---- */

/* A share goes to |gpu|, whole GPUs to the first that are free. */
static void take(struct node *n, const struct openb_pod *p, int gpu)
{
    n->cpu -= p->cpu;
    n->mem -= p->mem;
    n->free_all -= p->gpus * p->milli;
    if (p->gpus == 1) {
        n->free[gpu] -= p->milli;
        return;
    }
    for (int k = 0, g = 0; k < p->gpus && g < n->ngpu; g++)
        if (n->free[g] >= p->milli) {
            n->free[g] -= p->milli;
            k++;
        }
}

static bool may(const struct openb *t, int node, const struct node *n, const struct openb_pod *p)
{
    return n->cpu >= p->cpu && n->mem >= p->mem && n->free_all >= p->gpus * p->milli &&
           (!p->spec || p->spec >> t->nodes[node].model & 1) && gpu_fits(n, p);
}

static double best_fit(const struct openb *t, int node, const struct node *n,
                       const struct openb_pod *p)
{
    (void)node;
    (void)t;
    return 0.5 * (n->cpu - p->cpu) / 128000.0 + 0.5 * (n->free_all - p->gpus * p->milli) / 8000.0;
}

/* Idle GPU that the CPU left on the node cannot feed, in GPUs. */
static double starved(const struct world *w, const struct node *n)
{
    return fmax(0, n->free_all / 1000.0 - n->cpu / w->cpu_per_gpu);
}

static double waste(const struct world *w, const struct node *n)
{
    double sum = 0;
    for (int g = 0; g < n->ngpu; g++)
        sum += n->free[g] / 1000.0 + w->loss[n->free[g] / 10];
    return sum;
}

/* Smaller is better. */
static double cost_of(const struct world *w, enum rule rule, const struct node *n,
                      const struct node *after)
{
    switch (rule) {
    case RULE_FGD:
    case RULE_FGD_NAME:
        return -floor(100 / (1 + exp((fragmentation(w, after) - fragmentation(w, n)) / 1000)));
    case RULE_OURS:
        return floor(100 * (waste(w, after) - waste(w, n)) + 0.5) +
               floor(100 * (starved(w, after) - starved(w, n)) + 0.5) -
               floor(100 / (1 + exp((fragmentation(w, after) - fragmentation(w, n)) / 1000)));
    default:
        return 0;
    }
}

struct score {
    double cost, tie;
    int gpu;
    bool fits;
};

static struct score rate(const struct world *w, enum rule rule, int node, const struct openb_pod *p)
{
    const struct node *n = &w->nodes[node];
    struct score best = {.gpu = -1};
    if (!may(w->trace, node, n, p))
        return best;
    uint32_t seen[1001 / 32 + 1] = {0}; /* GPUs with the same free part are the same */
    for (int g = 0; g < (p->gpus == 1 ? n->ngpu : 1); g++) {
        struct node after = *n;
        if (p->gpus == 1 && (n->free[g] < p->milli || seen[n->free[g] / 32] >> n->free[g] % 32 & 1))
            continue;
        seen[n->free[g] / 32] |= 1u << n->free[g] % 32;
        take(&after, p, g);
        double cost = cost_of(w, rule, n, &after);
        bool tighter = best.gpu >= 0 && n->free[g] < n->free[best.gpu];
        if (best.gpu < 0 || cost < best.cost || (cost == best.cost && tighter))
            best = (struct score){cost, 0, g, true};
    }
    best.tie = rule == RULE_FGD_NAME || rule == RULE_FIRST_FIT ? 0 : best_fit(w->trace, node, n, p);
    return best;
}

/* ---- one run ---- */

struct cache {
    struct score *score; /* by shape, then node */
    int *version;        /* of the node that it was computed for; 0: never */
    int *now;            /* version of each node */
};

struct run {
    double at100, at130, cpu130;
    int failed[CLASSES];
};

static int choose(struct world *w, struct cache *c, enum rule rule, int shape,
                  const struct openb_pod *p)
{
    int best = -1, nodes = w->trace->nnodes, seen = 0;
    struct score *row = &c->score[(size_t)shape * (size_t)nodes];
    int *version = &c->version[(size_t)shape * (size_t)nodes];
    for (int i = 0; i < nodes; i++) {
        if (version[i] != c->now[i]) {
            row[i] = rate(w, rule, i, p);
            version[i] = c->now[i];
        }
        if (!row[i].fits)
            continue;
        seen++;
        if (rule == RULE_RANDOM ? draw(&w->random, (unsigned)seen) == 0
                                : best < 0 || row[i].cost < row[best].cost ||
                                      (row[i].cost == row[best].cost && row[i].tie < row[best].tie))
            best = i;
        if (rule == RULE_FIRST_FIT)
            break;
    }
    return best;
}

static void reset(struct world *w, struct cache *c, const struct openb *t, int shapes)
{
    for (int i = 0; i < t->nnodes; i++) {
        const struct openb_node *n = &t->nodes[i];
        w->nodes[i] = (struct node){.cpu = n->cpu, .mem = n->mem, .ngpu = n->gpus,
                                    .free_all = n->gpus * 1000};
        for (int g = 0; g < n->gpus; g++)
            w->nodes[i].free[g] = 1000;
        c->now[i] = 1;
    }
    memset(c->version, 0, sizeof(int) * (size_t)shapes * (size_t)t->nnodes);
}

/* |order| of pods; |shape| of each pod. */
static struct run play(struct world *w, struct cache *c, enum rule rule, const int *order, int n,
                       const int *shape, int shapes)
{
    const struct openb *t = w->trace;
    struct run r = {0};
    int64_t arrived = 0, placed = 0, capacity = (int64_t)t->ngpus * 1000;
    reset(w, c, t, shapes);
    for (int i = 0; i < n; i++) {
        const struct openb_pod *p = &t->pods[order[i]];
        int at = choose(w, c, rule, shape[order[i]], p);
        if (at >= 0) {
            take(&w->nodes[at], p, c->score[(size_t)shape[order[i]] * (size_t)t->nnodes + (size_t)at].gpu);
            c->now[at]++;
            placed += (int64_t)p->gpus * p->milli;
        } else if (p->gpus) {
            r.failed[p->gpus > 1 ? 2 : p->milli == 1000]++;
        }
        arrived += (int64_t)p->gpus * p->milli;
        if (!r.at100 && arrived >= capacity)
            r.at100 = 100 * (double)placed / (double)capacity;
    }
    r.at130 = 100 * (double)placed / (double)capacity;
    return r;
}

/* ---- the workload ---- */

static int same_shape(const struct openb_pod *a, const struct openb_pod *b)
{
    return a->cpu == b->cpu && a->mem == b->mem && a->gpus == b->gpus && a->milli == b->milli &&
           a->spec == b->spec;
}

static int number_shapes(const struct openb *t, int *shape)
{
    int shapes = 0, *first = calloc((size_t)t->npods, sizeof(int));
    for (int i = 0; first && i < t->npods; i++) {
        int k = 0;
        while (k < shapes && !same_shape(&t->pods[first[k]], &t->pods[i]))
            k++;
        if (k == shapes)
            first[shapes++] = i;
        shape[i] = k;
    }
    free(first);
    return shapes;
}

/* The shapes by CPU and GPU that 95 % of the pods have, most frequent first. */
static void find_popular(struct world *w)
{
    static struct {
        struct openb_pod pod;
        int n;
    } all[4000];
    const struct openb *t = w->trace;
    int kinds = 0, covered = 0;
    for (int i = 0; i < t->npods; i++) {
        struct openb_pod p = {t->pods[i].cpu, 0, t->pods[i].gpus, t->pods[i].milli, 0};
        int k = 0;
        while (k < kinds && !same_shape(&all[k].pod, &p))
            k++;
        if (k == kinds)
            all[kinds++].pod = p;
        all[k].n++;
    }
    while (covered < t->npods * 95 / 100 && w->npopular < POPULAR_MAX) {
        int best = 0;
        for (int k = 1; k < kinds; k++)
            best = all[k].n > all[best].n ? k : best;
        w->popular[w->npopular++] =
            (struct popular){all[best].pod, (double)all[best].n / t->npods};
        covered += all[best].n;
        all[best].n = 0;
    }
}

static int draw_order(const struct openb *t, uint64_t *random, int *ret, int max)
{
    int64_t sum = 0;
    int n = 0;
    while (sum < (int64_t)t->ngpus * 1300 && n < max) {
        int i = (int)draw(random, (unsigned)t->npods);
        sum += (int64_t)t->pods[i].gpus * t->pods[i].milli;
        ret[n++] = i;
    }
    return n;
}

static void summarize(const struct bench *b, enum rule rule, const struct run *runs)
{
    double a = 0, c = 0, a2 = 0, c2 = 0, failed[CLASSES] = {0};
    for (int s = 0; s < SEEDS; s++) {
        a += runs[s].at100 / SEEDS;
        c += runs[s].at130 / SEEDS;
        for (int k = 0; k < CLASSES; k++)
            failed[k] += (double)runs[s].failed[k] / SEEDS;
    }
    for (int s = 0; s < SEEDS; s++) {
        a2 += (runs[s].at100 - a) * (runs[s].at100 - a) / (SEEDS - 1);
        c2 += (runs[s].at130 - c) * (runs[s].at130 - c) / (SEEDS - 1);
    }
    fprintf(stderr, "%-22s %6.2f +-%.2f  %6.2f +-%.2f   %7.1f %7.1f %7.1f\n", rule_names[rule], a,
            sqrt(a2), c, sqrt(c2), failed[0], failed[1], failed[2]);
    if (rule != RULE_OURS && rule != RULE_FGD)
        return;
    const char *at100 = rule == RULE_OURS ? "place.openb_100_pct" : "place.openb_fgd_100_pct";
    const char *at130 = rule == RULE_OURS ? "place.openb_130_pct" : "place.openb_fgd_130_pct";
    if (bench_wants(b, at100))
        bench_print(b, at100, a, SEEDS, sqrt(a2));
    if (bench_wants(b, at130))
        bench_print(b, at130, c, SEEDS, sqrt(c2));
}

static void measure(const struct bench *b, const struct openb *t)
{
    static struct world w;
    struct cache c;
    static struct run runs[SEEDS];
    int *shape = calloc((size_t)t->npods, sizeof(int)), *order = calloc(40000, sizeof(int));
    if (!shape || !order)
        abort();
    int shapes = number_shapes(t, shape);
    if (shapes < 1)
        abort();
    size_t cells = (size_t)shapes * (size_t)t->nnodes;
    w.trace = t;
    w.nodes = calloc((size_t)t->nnodes, sizeof(*w.nodes));
    c = (struct cache){calloc(cells, sizeof(struct score)), calloc(cells, sizeof(int)),
                       calloc((size_t)t->nnodes, sizeof(int))};
    if (!w.nodes || !c.score || !c.version || !c.now)
        abort();
    double cpu = 0, gpu = 0, share = 0;
    for (int i = 0; i < t->npods; i++) {
        cpu += t->pods[i].gpus ? t->pods[i].cpu : 0;
        gpu += t->pods[i].gpus * t->pods[i].milli / 1000.0;
        share += t->pods[i].gpus == 1 && t->pods[i].milli < 1000 ? t->pods[i].milli / 1000.0 : 0;
    }
    w.cpu_per_gpu = cpu / gpu;
    find_popular(&w);
    double fewest = price_shares(&w), ceiling = 100 * gpu / (gpu - share + fewest);
    fprintf(stderr,
            "openb: %d nodes, %d GPUs, %d pods of %d shapes; sharing pods want %.1f GPUs and no mix "
            "does with fewer than %.1f: at most %.2f %% can be allocated of this mix\n"
            "mean of %d seeds        at 100 %%      at 130 %%      failed: share  whole  several\n",
            t->nnodes, t->ngpus, t->npods, shapes, share, fewest, ceiling, SEEDS);
    for (int rule = 0; rule < RULES; rule++) {
        for (int s = 0; s < SEEDS; s++) {
            uint64_t random = 42 + (uint64_t)s;
            w.random = 1000 + (uint64_t)s;
            int n = draw_order(t, &random, order, 40000);
            runs[s] = play(&w, &c, (enum rule)rule, order, n, shape, shapes);
        }
        summarize(b, (enum rule)rule, runs);
    }
    if (bench_wants(b, "place.openb_ceiling_pct"))
        bench_print(b, "place.openb_ceiling_pct", ceiling, 1, 0);
    free(shape);
    free(order);
    free(w.nodes);
    free(c.score);
    free(c.version);
    free(c.now);
}

int main(int argc, char **argv)
{
    struct bench b;
    struct openb trace;
    char why[200];
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    if (openb_read(&trace, why)) {
        measure(&b, &trace);
        openb_fini(&trace);
        return 0;
    }
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
        if (bench_wants(&b, figures[i].name))
            bench_skip(&b, figures[i].name, why);
    return 0;
}
