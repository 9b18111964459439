/* fast simulate: what a cluster would do with a load, in virtual time. Needs no gateway and no GPU. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "io/file.h"
#include "sim/cluster.h"

#define TRACE_MAX (256u << 20)
#define PROFILE_MAX (1u << 20)

struct simulate {
    const char *trace, *rate, *seconds, *seed, *gpus, *policy, *start, *mem, *svg, *fail_at, *zero;
    struct cli_list profiles, slos;
};

static const struct cli_opt opts[] = {
    {"trace", 't', CLI_STR, offsetof(struct simulate, trace), "FILE",
     "moments of requests: seconds, or a CSV that begins with a date"},
    {"rate", 'r', CLI_STR, offsetof(struct simulate, rate), "N",
     "instead of a trace: Poisson, requests per second"},
    {"seconds", 's', CLI_STR, offsetof(struct simulate, seconds), "N", "with --rate (default 60)"},
    {"seed", 0, CLI_STR, offsetof(struct simulate, seed), "N", "with --rate (default 1)"},
    {"profile", 0, CLI_LIST, offsetof(struct simulate, profiles), "FILE",
     "profile of a function (CSV: sm, quota, rps, p95_ms); each gets the load"},
    {"slo", 0, CLI_LIST, offsetof(struct simulate, slos), "TIME",
     "of each profile, in order; the last one counts for the rest (default 100ms)"},
    {"gpus", 'n', CLI_STR, offsetof(struct simulate, gpus), "N", "of the cluster (default 4)"},
    {"policy", 'p', CLI_STR, offsetof(struct simulate, policy), "NAME",
     "queue (default), flat, live, paper, hybrid or whole"},
    {"start", 0, CLI_STR, offsetof(struct simulate, start), "TIME", "a replica takes (default 2s)"},
    {"memory", 0, CLI_STR, offsetof(struct simulate, mem), "SIZE", "of a replica (default 1GiB)"},
    {"zero-after", 0, CLI_STR, offsetof(struct simulate, zero), "TIME",
     "without requests: no replica (default: one stays)"},
    {"fail-gpu-at", 0, CLI_STR, offsetof(struct simulate, fail_at), "TIME", "a GPU in use fails"},
    {"svg", 0, CLI_STR, offsetof(struct simulate, svg), "FILE", "draw the replicas over time"},
};

struct world {
    struct sim_cluster_conf conf;
    struct fast_arrivals load;
    struct fast_profile *profiles[SIM_CLUSTER_FUNCTIONS];
    struct sim_cluster_result result;
};

static int read_profile(struct world *w, int k, const char *path, struct fast_err *err)
{
    fast_autofree char *text = NULL;
    size_t len = 0;
    if (fast_file_read(path, PROFILE_MAX, &text, &len, err))
        return -err->code;
    fast_autofree char *copy = strndup(text, len);
    if (!copy)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %s", path);
    if (fast_profile_parse(copy, &w->profiles[k], err))
        return fast_err_wrap(err, "%s", path);
    return 0;
}

static int read_load(struct world *w, const struct simulate *o, struct fast_err *err)
{
    int64_t rate = 0, seconds = 60, seed = 1;
    if (!o->trace == !o->rate)
        return fast_err_set(err, FAST_EINVAL, "one of --trace and --rate is needed");
    if (o->trace) {
        fast_autofree char *text = NULL;
        size_t len = 0;
        if (fast_file_read(o->trace, TRACE_MAX, &text, &len, err))
            return -err->code;
        fast_autofree char *copy = strndup(text, len);
        return copy ? fast_arrivals_parse(&w->load, copy, o->trace, err)
                    : fast_err_set(err, FAST_ENOMEM, "no memory for %s", o->trace);
    }
    int r = fast_parse_milli(o->rate, "--rate", 1, 100000000, &rate, err);
    if (!r && o->seconds)
        r = fast_parse_int(o->seconds, "--seconds", 1, 86400, &seconds, err);
    if (!r && o->seed)
        r = fast_parse_int(o->seed, "--seed", 0, INT64_MAX, &seed, err);
    return r ? r : fast_arrivals_poisson(&w->load, rate, FAST_S(seconds), (uint64_t)seed, err);
}

static int read_cluster(struct world *w, const struct simulate *o, uint64_t *ret_mem,
                        struct fast_err *err)
{
    struct sim_cluster_conf *c = &w->conf;
    int64_t gpus = 4;
    *c = (struct sim_cluster_conf){.gpu_mem = FAST_GIB(16), .start_ns = FAST_S(2)};
    *ret_mem = FAST_GIB(1);
    int r = o->gpus ? fast_parse_int(o->gpus, "--gpus", 1, 100000, &gpus, err) : 0;
    if (!r && o->policy)
        r = sim_cluster_policy_parse(o->policy, &c->policy, err);
    if (!r && o->start)
        r = fast_parse_duration(o->start, "--start", 0, FAST_S(3600), &c->start_ns, err);
    if (!r && o->zero)
        r = fast_parse_duration(o->zero, "--zero-after", FAST_S(1), FAST_S(86400), &c->zero_after,
                                err);
    if (!r && o->fail_at) {
        c->nfailures = 1;
        c->failure[0].kind = SIM_FAIL_GPU;
        r = fast_parse_duration(o->fail_at, "--fail-gpu-at", FAST_MS(1), FAST_S(86400),
                                &c->failure[0].at, err);
    }
    if (!r && o->mem)
        r = fast_parse_bytes(o->mem, "--memory", c->gpu_mem, ret_mem, err);
    c->gpus = (int)gpus;
    return r;
}

static int read_all(struct world *w, const struct simulate *o, struct fast_err *err)
{
    uint64_t mem;
    fast_ns slo = FAST_MS(100);
    int r = read_cluster(w, o, &mem, err);
    if (!r && (!o->profiles.n || o->profiles.n > SIM_CLUSTER_FUNCTIONS))
        r = fast_err_set(err, FAST_EINVAL, "--profile: 1 to %d functions", SIM_CLUSTER_FUNCTIONS);
    if (!r)
        r = read_load(w, o, err);
    if (!r && !w->load.count)
        r = fast_err_set(err, FAST_EINVAL, "the load has no requests");
    for (int k = 0; k < o->profiles.n && !r; k++) {
        if (k < o->slos.n)
            r = fast_parse_duration(o->slos.v[k], "--slo", FAST_MS(1), FAST_S(3600), &slo, err);
        if (!r)
            r = read_profile(w, k, o->profiles.v[k], err);
        const char *name = strrchr(o->profiles.v[k], '/');
        w->conf.function[k] = (struct sim_cluster_function){
            name ? name + 1 : o->profiles.v[k], w->profiles[k], &w->load, slo, mem,
            w->conf.zero_after ? 0 : 1, 1000};
    }
    w->conf.functions = o->profiles.n;
    if (!r)
        w->conf.end_ns = w->load.at[w->load.count - 1] + FAST_S(10);
    return r;
}

/* ---- what came out ---- */

#define SVG_WIDTH 900
#define SVG_HEIGHT 300

/* One line for each function: replicas over time. */
static int draw(const struct world *w, const char *path, struct fast_err *err)
{
    static const char *const colors[] = {"#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910"};
    const struct sim_cluster_result *r = &w->result;
    double span = (double)w->conf.end_ns;
    int most = 1;
    FILE *out = fopen(path, "w");
    if (!out)
        return fast_err_set(err, FAST_EIO, "%s: %s", path, strerror(errno));
    for (int i = 0; i < r->nsteps; i++)
        most = r->step[i].replicas > most ? r->step[i].replicas : most;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-40 -40 %d %d\" font-family=\""
            "sans-serif\" font-size=\"12\">\n<text x=\"0\" y=\"-20\">Replicas, policy %s, %d GPUs "
            "(simulated); at most %d; %.0f s</text>\n<path d=\"M0 0V%dH%d\" stroke=\"black\" "
            "fill=\"none\"/>\n",
            SVG_WIDTH + 80, SVG_HEIGHT + 40 * (w->conf.functions + 2),
            sim_cluster_policy_name(w->conf.policy), w->conf.gpus, most, span / 1e9, SVG_HEIGHT,
            SVG_WIDTH);
    for (int f = 0; f < w->conf.functions; f++) {
        const char *color = colors[f % 5];
        fprintf(out, "<path d=\"M0 %d", SVG_HEIGHT);
        for (int i = 0; i < r->nsteps; i++)
            if (r->step[i].function == f)
                fprintf(out, "H%.1fV%.1f", (double)r->step[i].at / span * SVG_WIDTH,
                        SVG_HEIGHT - (double)r->step[i].replicas / most * SVG_HEIGHT);
        fprintf(out, "H%d\" stroke=\"%s\" fill=\"none\"/>\n<text x=\"0\" y=\"%d\" fill=\"%s\">function "
                "%d: %.3f %% late</text>\n", SVG_WIDTH, color, SVG_HEIGHT + 20 * (f + 2), color, f + 1,
                r->function[f].requests ? 100.0 * (double)r->function[f].violations /
                                              (double)r->function[f].requests : 0);
    }
    fprintf(out, "</svg>\n");
    if (fclose(out))
        return fast_err_set(err, FAST_EIO, "%s: %s", path, strerror(errno));
    return 0;
}

static double ms(const struct fast_hist *h, int milli)
{
    return (double)fast_hist_quantile(h, milli) / 1e6;
}

static void print_json(const struct world *w)
{
    const struct sim_cluster_result *r = &w->result;
    json_t *list = json_array();
    for (int f = 0; f < w->conf.functions; f++)
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "profile", w->conf.function[f].name,
                            "requests", (json_int_t)r->function[f].requests, "violations",
                            (json_int_t)r->function[f].violations, "p50_ms",
                            ms(&r->function[f].latency, 500), "p99_ms",
                            ms(&r->function[f].latency, 990), "gpu_seconds", r->function[f].gpu_s));
    json_t *j = json_pack(
        "{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o}", "policy",
        sim_cluster_policy_name(w->conf.policy), "gpus", w->conf.gpus, "requests",
        (json_int_t)r->requests, "violations", (json_int_t)r->violations, "timeouts",
        (json_int_t)r->timeouts, "starts", (json_int_t)r->starts, "stops", (json_int_t)r->stops,
        "refused", (json_int_t)r->refused, "replica_seconds", (double)r->replica_ns / 1e9,
        "gpu_seconds", r->gpu_s, "gpu_seconds_used", r->busy_s, "functions", list);
    api_print(j);
    json_decref(j);
}

static void print_text(const struct world *w)
{
    const struct sim_cluster_result *r = &w->result;
    for (int f = 0; f < w->conf.functions; f++)
        printf("%-20s %8llu requests, p50 %.1f, p99 %.1f ms, %.3f %% late or lost, %.1f GPU s\n",
               w->conf.function[f].name, (unsigned long long)r->function[f].requests,
               ms(&r->function[f].latency, 500), ms(&r->function[f].latency, 990),
               100.0 * (double)r->function[f].violations / (double)r->function[f].requests,
               r->function[f].gpu_s);
    printf("policy %s on %d GPUs (simulated): %.1f GPU s held, %.1f used; %llu starts, %llu stops, "
           "%llu refused for lack of room\n",
           sim_cluster_policy_name(w->conf.policy), w->conf.gpus, r->gpu_s, r->busy_s,
           (unsigned long long)r->starts, (unsigned long long)r->stops,
           (unsigned long long)r->refused);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct simulate *o = arg;
    struct fast_err err;
    fast_autofree struct world *w = calloc(1, sizeof(*w));
    (void)argc;
    (void)argv;
    if (!w)
        return cli_fail(CLI_FAILED, "simulate: out of memory");
    int status = CLI_OK;
    if (read_all(w, o, &err))
        status = cli_fail(CLI_USAGE, "simulate: %s", err.msg);
    else if (sim_cluster_run(&w->conf, &w->result, &err) || (o->svg && draw(w, o->svg, &err)))
        status = cli_fail(CLI_FAILED, "simulate: %s", err.msg);
    else if (cli->json)
        print_json(w);
    else
        print_text(w);
    fast_arrivals_fini(&w->load);
    for (int k = 0; k < SIM_CLUSTER_FUNCTIONS; k++)
        fast_profile_free(w->profiles[k]);
    return status;
}

const struct cli_cmd cmd_simulate = {
    .name = "simulate", .args = "", .summary = "what a cluster would do with a load, in virtual time",
    .detail = "Queue, scaler, placement and GPU time in windows are simulated; no GPU or gateway is\n"
              "needed, and the same command gives the same answer. Example:\n"
              "  fast simulate --rate 80 --seconds 120 --profile models/profiles/resnet50.csv \\\n"
              "    --slo 69ms --gpus 2 --policy paper --svg ramp.svg",
    .min_args = 0, .max_args = 0, CLI_CMD_OPTS(opts, struct simulate), .run = run};
