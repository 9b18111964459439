/* Fits models/NAME.model to the measurements: eight numbers per model, by a coordinate search from
 * several starting points, against the GPU model itself. Prints the file.
 *
 *   fit_models NAME [starts]
 *
 * What is fitted to: the seven SM partitions at one replica ("profile" rows). The time of a request
 * comes from the requests per second of all five time quotas, each divided by the part of the run
 * that the quota leaves; the shares (GPU utilization, SM activity, occupancy, DRAM) are means over
 * the quotas, since they were measured while the function ran. No other row is looked at. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "icpp23.h"

#define POINTS 7
#define NUMBERS 8
#define STARTS 60

static const int sm_pcts[POINTS] = {6, 12, 24, 50, 60, 80, 100};

struct point {
    double request_ms, util, sm, occupancy, dram;
};

/* Not fitted: the number of kernels is the number of layers (resnet50: 50; bert: 3 for each of 24;
 * the recurrent models: unrolled, cut to 96), half of them small and half large. The memory of
 * resnet50 was measured by the authors, that of the others is the size of the weights and about
 * 1 GiB of context and libraries; input and output are those of one MLPerf sample. */
static const struct known {
    const char *name;
    int kernels;
    const char *memory, *shared, *input, *output;
} known[] = {
    {"resnet50", 50, "1525MiB", "98MiB", "588KiB", "4KiB"},
    {"bert", 72, "2400MiB", "1280MiB", "9KiB", "3KiB"},
    {"rnnt", 96, "1250MiB", "172MiB", "400KiB", "2KiB"},
    {"gnmt", 96, "1700MiB", "620MiB", "1KiB", "1KiB"},
};

/* The part of a run in which a replica may work under a quota, by the protocol of icpp23.c: what is
 * over at the start of its three windows, each of them rounded up to whole tokens. */
static double part_of_run(double quota)
{
    double use = quota >= 1 ? 10 : ceil(quota * 10 / 0.305) * 0.305;
    return (2 * use + fmin(use, 4)) / 24;
}

static void targets(const struct icpp23 *data, const char *model, struct point *ret)
{
    for (int i = 0; i < POINTS; i++) {
        struct point sum = {0};
        int n = 0;
        for (int r = 0; r < data->rows; r++) {
            const struct icpp23_row *row = &data->row[r];
            if (strcmp(row->model, model) != 0 || strcmp(row->mode, "profile") != 0 ||
                row->sm_pct != sm_pcts[i])
                continue;
            sum.request_ms += part_of_run(row->quota) * 1000 / row->rps;
            sum.util += row->util_pct / 100;
            sum.sm += row->sm_active;
            sum.occupancy += row->occupancy;
            sum.dram += row->dram;
            n++;
        }
        ret[i] = (struct point){sum.request_ms / n, sum.util / n, sum.sm / n, sum.occupancy / n,
                                sum.dram / n};
    }
}

static struct point simulate(const struct sim_model *model, int sm_pct)
{
    static struct sim_exp_conf conf;
    static struct sim_exp_result res;
    struct icpp23_row row = {.mode = "profile", .quota = 1, .sm_pct = sm_pct, .replicas = 1};
    struct fast_err err;
    icpp23_conf(&row, model, &conf);
    conf.tokens = false;
    conf.function[0].users = 1;
    conf.requests_max = 1;
    if (sim_exp_run(&conf, &res, &err))
        abort();
    double span = (double)res.span_ns, sms = conf.gpu.sms;
    return (struct point){span * 1e-6, (double)res.gpu.busy_ns / span,
                          (double)res.gpu.sm_ns / sms / span, (double)res.gpu.warp_ns / sms / span,
                          (double)res.gpu.dram_ns / span};
}

static double error(double simulated, double measured)
{
    return fabs(simulated / measured - 1);
}

/* Throughput counts most; utilization little, since NVML's is a coarse sample. */
static double loss(const struct sim_model *model, const struct point *target, bool show)
{
    double sum = 0;
    for (int i = 0; i < POINTS; i++) {
        struct point p = simulate(model, sm_pcts[i]);
        const struct point *t = &target[i];
        sum += 4 * error(p.request_ms, t->request_ms) + error(p.sm, t->sm) +
               error(p.occupancy, t->occupancy) + 1.0 * error(p.util, t->util) +
               0.3 * error(p.dram, t->dram);
        if (show)
            fprintf(stderr, "%3d%%  ms %6.1f %6.1f  util %.2f %.2f  sm %.3f %.3f  "
                    "occ %.4f %.4f  dram %.3f %.3f\n", sm_pcts[i], t->request_ms, p.request_ms,
                    t->util, p.util, t->sm, p.sm, t->occupancy, p.occupancy, t->dram, p.dram);
    }
    return sum / POINTS;
}

/* The fitted numbers as one vector: blocks are counts, the others ns or thousandths. */
static void unpack(const double *v, struct sim_model *m)
{
    m->host_ns = (fast_ns)(v[0] + 0.5);
    m->launch_ns = (fast_ns)(v[1] + 0.5);
    m->small.blocks = (int64_t)(v[2] + 0.5);
    m->small.block_ns = (fast_ns)(v[3] + 0.5);
    m->large.blocks = (int64_t)(v[4] + 0.5);
    m->large.block_ns = (fast_ns)(v[5] + 0.5);
    m->occupancy_milli = (int)fmin(1000, v[6] + 0.5);
    m->dram_milli = (int)fmin(1000, v[7] + 0.5);
}

static double uniform(unsigned *seed, double min, double max)
{
    return min + (max - min) * rand_r(seed) / RAND_MAX;
}

static double log_uniform(unsigned *seed, double min, double max)
{
    return exp(uniform(seed, log(min), log(max)));
}

/* One descent: each number in turn is scaled by random factors, which get closer to 1 while nothing
 * better is found. */
static double descend(double *v, struct sim_model *m, const struct point *target, unsigned *seed)
{
    unpack(v, m);
    double best = loss(m, target, false);
    for (double width = 0.5; width > 0.003;) {
        bool better = false;
        for (int k = 0; k < NUMBERS * 4; k++) {
            double next[NUMBERS];
            memcpy(next, v, sizeof(next));
            int a = k % NUMBERS, b = (int)(rand_r(seed) % NUMBERS);
            next[a] *= exp(uniform(seed, -width, width));
            if (k >= NUMBERS * 2) /* two at once, since they trade */
                next[b] *= exp(uniform(seed, -width, width));
            unpack(next, m);
            if (m->small.blocks < 1 || m->large.blocks < 1)
                continue;
            double l = loss(m, target, false);
            if (l < best) {
                best = l;
                memcpy(v, next, sizeof(next));
                better = true;
            }
        }
        width *= better ? 0.99 : 0.9;
    }
    unpack(v, m);
    return best;
}

static void first_guess(double *v, const struct point *target, int kernels, unsigned *seed)
{
    double host_ns = target[POINTS - 1].request_ms * 1e6;
    double busy_ns = host_ns * target[POINTS - 1].util;
    v[0] = host_ns * uniform(seed, 0.02, 0.3);
    v[1] = (host_ns - v[0]) / kernels;
    v[2] = log_uniform(seed, 8, 400);
    v[3] = busy_ns / kernels * uniform(seed, 0.3, 1.5);
    v[4] = log_uniform(seed, 100, 4000);
    v[5] = busy_ns / kernels * uniform(seed, 0.1, 1);
    v[6] = uniform(seed, 100, 1000);
    v[7] = uniform(seed, 50, 800);
}

static void print_us(const char *key, fast_ns ns, const char *meaning)
{
    printf("%s = %lld.%03lldus # %s\n", key, (long long)(ns / 1000), (long long)(ns % 1000),
           meaning);
}

static void print_model(const struct known *k, const struct sim_model *m)
{
    printf("# %s on a Tesla V100, one request. Written by bench/fit_models.c; models/README.md says\n"
           "# what was fitted to what.\n", k->name);
    printf("name = %s\n\n# Known.\nmemory = %s\nshared_memory = %s\ninput = %s\noutput = %s\n",
           k->name, k->memory, k->shared, k->input, k->output);
    printf("small_kernels = %d\nlarge_kernels = %d\nthreads_per_block = %d\n\n# Fitted.\n",
           m->small.kernels, m->large.kernels, m->threads_per_block);
    print_us("host", m->host_ns, "host time before the first launch");
    print_us("launch", m->launch_ns, "host time per launch");
    printf("small_blocks = %lld # of a small kernel\n", (long long)m->small.blocks);
    print_us("small_block", m->small.block_ns, "time of one block");
    printf("large_blocks = %lld # of a large kernel\n", (long long)m->large.blocks);
    print_us("large_block", m->large.block_ns, "time of one block");
    printf("occupancy = 0.%03d # active warps over the warps of a block\n", m->occupancy_milli);
    printf("dram = 0.%03d # bandwidth that a kernel takes on the whole GPU\n", m->dram_milli);
}

static int fit(const struct icpp23 *data, const struct known *k, int starts)
{
    struct point target[POINTS];
    targets(data, k->name, target);
    struct sim_model m = {.threads_per_block = 256,
                          .small.kernels = k->kernels / 2,
                          .large.kernels = k->kernels - k->kernels / 2};
    double best = INFINITY, keep[NUMBERS] = {0};
    unsigned seed = 1;
    for (int s = 0; s < starts; s++) {
        double v[NUMBERS];
        first_guess(v, target, k->kernels, &seed);
        double l = descend(v, &m, target, &seed);
        fprintf(stderr, "%s: start %d: %.4f\n", k->name, s, l);
        if (l < best) {
            best = l;
            memcpy(keep, v, sizeof(keep));
        }
    }
    unpack(keep, &m);
    fprintf(stderr, "%s: loss %.4f; measured and simulated:\n", k->name, loss(&m, target, true));
    print_model(k, &m);
    return 0;
}

int main(int argc, char **argv)
{
    static struct icpp23 data;
    char why[200];
    if (argc < 2) {
        fprintf(stderr, "usage: fit_models NAME [starts]\n");
        return 2;
    }
    if (!icpp23_read(&data, why)) {
        fprintf(stderr, "fit_models: %s\n", why);
        return 1;
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i].name, argv[1]) == 0)
            return fit(&data, &known[i], argc > 2 ? atoi(argv[2]) : STARTS);
    fprintf(stderr, "fit_models: no model \"%s\"\n", argv[1]);
    return 2;
}
