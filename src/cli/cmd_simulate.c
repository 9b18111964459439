/* fast simulate: what a cluster would do with a load, in virtual time. Needs no gateway and no GPU. */

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/simulate.h"
#include "io/file.h"

#define TRACE_MAX (256u << 20)
#define PROFILE_MAX (1u << 20)
#define RATE_FIRST 4000 /* thousandths of requests/s, of a search */
#define RATE_MAX 100000000

struct simulate {
    const char *trace, *rate, *seconds, *seed, *gpus, *node, *policy, *start, *mem, *svg, *report, *zero, *defrag;
    const char *scenario, *samples;
    struct cli_list profiles, slos, fails;
};

static const struct cli_opt opts[] = {
    {"trace", 't', CLI_STR, offsetof(struct simulate, trace), "FILE",
     "moments of requests: a line each, seconds or dates; a CSV's head names the column (timestamp, "
     "creation_time, arrival, time, seconds), else it is the first"},
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
    {"memory", 0, CLI_STR, offsetof(struct simulate, mem), "SIZE",
     "of a replica (default 1GiB), at most the 16GiB of a GPU"},
    {"zero-after", 0, CLI_STR, offsetof(struct simulate, zero), "TIME",
     "without requests: no replica (default: one stays)"},
    {"scenario", 0, CLI_STR, offsetof(struct simulate, scenario), "NAME",
     "of MLPerf's LoadGen, instead of a trace: single-stream, multi-stream, server (without --rate: the "
     "highest) or offline"},
    {"samples", 0, CLI_STR, offsetof(struct simulate, samples), "N",
     "with --scenario offline (default 24576)"},
    {"gpus-per-node", 0, CLI_STR, offsetof(struct simulate, node), "N", "default 4"},
    {"fail", 0, CLI_LIST, offsetof(struct simulate, fails), "WHAT@TIME[+TIME]",
     "what the oldest replica is on fails: replica@30s, gpu@30s, node@1m+20s (back after 20 s)"},
    {"defrag", 0, CLI_STR, offsetof(struct simulate, defrag), "TIME",
     "so often empty GPUs by moving replicas behind warm copies (default: never)"},
    {"report", 0, CLI_STR, offsetof(struct simulate, report), "FILE", "write all figures there (JSON)"},
    {"svg", 0, CLI_STR, offsetof(struct simulate, svg), "FILE",
     "draw replicas, GPU time and late requests over time"},
};

static int read_profile(struct sim_world *w, int k, const char *path, struct fast_err *err)
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

/* Queries that follow each other, or all samples at once. */
static int read_scenario(struct sim_world *w, const struct simulate *o, struct fast_err *err)
{
    int64_t seconds = 600, samples = FAST_LOADGEN_OFFLINE;
    w->scenario = FAST_SCENARIO_COUNT;
    if (o->samples && (!o->scenario || strcmp(o->scenario, "offline") != 0))
        return fast_err_set(err, FAST_EINVAL, "--samples: it goes with --scenario offline only");
    if (!o->scenario)
        return 0;
    int r = fast_scenario_parse(o->scenario, &w->scenario, err);
    if (r)
        return fast_err_wrap(err, "--scenario");
    if (o->seconds)
        r = fast_parse_int(o->seconds, "--seconds", 1, 86400, &seconds, err);
    if (!r && o->samples)
        r = fast_parse_int(o->samples, "--samples", 1, 10000000, &samples, err);
    if (!r && w->scenario != FAST_SCENARIO_SERVER && (o->rate || o->trace))
        r = fast_err_set(err, FAST_EINVAL, "--scenario %s has a load of its own: without --rate and --trace",
                         o->scenario);
    w->seconds = (int)seconds;
    w->query = w->scenario == FAST_SCENARIO_SINGLE ? 1
               : w->scenario == FAST_SCENARIO_MULTI ? FAST_LOADGEN_MULTI
                                                    : 0;
    if (r || w->scenario != FAST_SCENARIO_OFFLINE)
        return r;
    w->load.at = calloc((size_t)samples, sizeof(*w->load.at));
    w->load.count = w->load.cap = w->load.at ? (size_t)samples : 0;
    return w->load.at ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for %s", o->scenario);
}

/* "gpu@30s+10s" */
static int read_failure(const char *text, struct sim_cluster_failure *ret, struct fast_err *err)
{
    static const char *const kinds[] = {"replica", "gpu", "node"};
    const char *at = strchr(text, '@'), *plus = at ? strchr(at, '+') : NULL;
    char time[32];
    for (int k = 0; at && k < (int)FAST_COUNT_OF(kinds); k++) {
        if (strlen(kinds[k]) != (size_t)(at - text) || memcmp(kinds[k], text, (size_t)(at - text)) != 0)
            continue;
        ret->kind = (enum sim_cluster_fail)k;
        snprintf(time, sizeof(time), "%.*s", plus ? (int)(plus - at - 1) : (int)sizeof(time) - 1, at + 1);
        int r = fast_parse_duration(time, "--fail", FAST_MS(1), FAST_S(86400), &ret->at, err);
        if (!r && plus && ret->kind == SIM_FAIL_REPLICA)
            return fast_err_set(err, FAST_EINVAL, "--fail: \"%.40s\": a replica does not come back, the "
                                "policy starts another one; without \"%.20s\"", text, plus);
        if (!r && plus)
            r = fast_parse_duration(plus + 1, "--fail", FAST_MS(1), FAST_S(86400), &ret->back_after, err);
        return r;
    }
    return fast_err_set(err, FAST_EINVAL,
                        "--fail: \"%.40s\" is not replica@TIME, gpu@TIME[+TIME] or node@TIME[+TIME]", text);
}

static int read_failures(struct sim_world *w, const struct simulate *o, struct fast_err *err)
{
    int r = 0;
    if (o->fails.n > SIM_CLUSTER_FAILURES)
        return fast_err_set(err, FAST_EINVAL, "--fail: at most %d", SIM_CLUSTER_FAILURES);
    for (int i = 0; i < o->fails.n && !r; i++)
        r = read_failure(o->fails.v[i], &w->conf.failure[i], err);
    w->conf.nfailures = o->fails.n;
    return r;
}

/* Makes the load anew: Poisson. */
static int set_rate(struct sim_world *w, int64_t rate, struct fast_err *err)
{
    fast_arrivals_fini(&w->load);
    w->load = (struct fast_arrivals){0};
    w->rate_milli = rate;
    int r = fast_arrivals_poisson(&w->load, rate, FAST_S(w->seconds), w->seed, err);
    if (!r && w->load.count)
        w->conf.end_ns = w->load.at[w->load.count - 1] + FAST_S(10);
    return r;
}

static int read_load(struct sim_world *w, const struct simulate *o, struct fast_err *err)
{
    int64_t rate = 0, seconds = 60, seed = 1;
    int r = read_scenario(w, o, err);
    if (r || (w->scenario != FAST_SCENARIO_COUNT && w->scenario != FAST_SCENARIO_SERVER))
        return r;
    if ((!o->trace == !o->rate && !o->scenario) || (o->trace && o->scenario))
        return fast_err_set(err, FAST_EINVAL, "%s", o->scenario
                                                        ? "--scenario server has no --trace"
                                                        : o->trace
                                                        ? "--trace and --rate: only one of them"
                                                        : "one of --trace, --rate and --scenario is "
                                                          "needed");
    if (o->trace) {
        fast_autofree char *text = NULL;
        size_t len = 0;
        if (fast_file_read(o->trace, TRACE_MAX, &text, &len, err))
            return -err->code;
        fast_autofree char *copy = strndup(text, len);
        return copy ? fast_arrivals_parse(&w->load, copy, o->trace, err)
                    : fast_err_set(err, FAST_ENOMEM, "no memory for %s", o->trace);
    }
    if (o->rate)
        r = fast_parse_milli(o->rate, "--rate", 1, RATE_MAX, &rate, err);
    if (!r && !o->scenario && o->seconds)
        r = fast_parse_int(o->seconds, "--seconds", 1, 86400, &seconds, err);
    if (!r && o->seed)
        r = fast_parse_int(o->seed, "--seed", 0, INT64_MAX, &seed, err);
    w->seed = (uint64_t)seed;
    w->seconds = o->scenario ? w->seconds : (int)seconds;
    w->search = !o->rate;
    return r ? r : set_rate(w, o->rate ? rate : RATE_FIRST, err);
}

/* Whether every function's latencies prove its SLO. */
static bool is_proven(const struct sim_world *w)
{
    int milli = fast_scenario_percentile(w->scenario);
    for (int f = 0; f < w->conf.functions; f++)
        if (!fast_loadgen_proves((int64_t)w->result.function[f].requests,
                                 (int64_t)w->result.function[f].violations, milli))
            return false;
    return true;
}

static int try_rate(struct sim_world *w, int64_t rate, bool *ret_proven, struct fast_err *err)
{
    int r = set_rate(w, rate, err);
    if (!r)
        r = sim_cluster_run(&w->conf, &w->result, err);
    *ret_proven = !r && is_proven(w);
    return r;
}

/* LoadGen's metric of the server scenario: the highest rate at which the SLO is proven, to 1 %. Doubled until
 * it fails, then halved between; the result is left with that rate. */
static int search_rate(struct sim_world *w, struct fast_err *err)
{
    int64_t low = 0, high = RATE_FIRST;
    bool proven = true;
    int r = try_rate(w, high, &proven, err);
    while (!r && proven && high < RATE_MAX / 2) {
        low = high;
        high *= 2;
        r = try_rate(w, high, &proven, err);
    }
    while (!r && high - low > low / 100 + RATE_FIRST / 100) {
        int64_t middle = low + (high - low) / 2;
        r = try_rate(w, middle, &proven, err);
        *(proven ? &low : &high) = middle;
    }
    if (r || low)
        return r ? r : try_rate(w, low, &proven, err);
    return fast_err_set(err, FAST_EINVAL, "at no rate is the SLO proven in %d s: there are too few queries "
                        "(--seconds), or the cluster is too slow", w->seconds);
}

static int read_cluster(struct sim_world *w, const struct simulate *o, uint64_t *ret_mem,
                        struct fast_err *err)
{
    struct sim_cluster_conf *c = &w->conf;
    int64_t gpus = 4, node = 4;
    *c = (struct sim_cluster_conf){.gpu_mem = FAST_GIB(16), .start_ns = FAST_S(2)};
    *ret_mem = FAST_GIB(1);
    int r = o->gpus ? fast_parse_int(o->gpus, "--gpus", 1, 100000, &gpus, err) : 0;
    if (!r && o->policy)
        r = sim_cluster_policy_parse(o->policy, &c->policy, err) ? fast_err_wrap(err, "--policy") : 0;
    if (!r && o->start)
        r = fast_parse_duration(o->start, "--start", 0, FAST_S(3600), &c->start_ns, err);
    if (!r && o->zero)
        r = fast_parse_duration(o->zero, "--zero-after", FAST_S(1), FAST_S(86400), &c->zero_after,
                                err);
    if (!r && o->defrag)
        r = fast_parse_duration(o->defrag, "--defrag", FAST_S(1), FAST_S(86400), &c->defrag_ns, err);
    if (!r && o->node)
        r = fast_parse_int(o->node, "--gpus-per-node", 1, 64, &node, err);
    if (!r)
        r = read_failures(w, o, err);
    if (!r && o->mem)
        r = fast_parse_bytes(o->mem, "--memory", c->gpu_mem, ret_mem, err);
    if (!r && !*ret_mem)
        r = fast_err_set(err, FAST_EINVAL, "--memory: \"%s\" is not from 1 byte to 16 GiB", o->mem);
    c->gpus = (int)gpus;
    c->gpus_per_node = (int)node;
    return r;
}

static int read_all(struct sim_world *w, const struct simulate *o, struct fast_err *err)
{
    uint64_t mem;
    fast_ns slo = FAST_MS(100);
    int r = read_cluster(w, o, &mem, err);
    if (!r && (!o->profiles.n || o->profiles.n > SIM_CLUSTER_FUNCTIONS))
        r = fast_err_set(err, FAST_EINVAL,
                         "--profile: %d given, 1 to %d are wanted, such as models/profiles/resnet50.csv",
                         o->profiles.n, SIM_CLUSTER_FUNCTIONS);
    if (!r && o->slos.n > o->profiles.n)
        r = fast_err_set(err, FAST_EINVAL, "--slo: %d of them for %d profiles; give one for each --profile, "
                         "in order", o->slos.n, o->profiles.n);
    if (!r)
        r = read_load(w, o, err);
    if (!r && !w->load.count && !w->query)
        r = fast_err_set(err, FAST_EINVAL, "the load has no requests");
    for (int k = 0; k < o->profiles.n && !r; k++) {
        if (k < o->slos.n)
            r = fast_parse_duration(o->slos.v[k], "--slo", FAST_MS(1), FAST_S(3600), &slo, err);
        if (!r)
            r = read_profile(w, k, o->profiles.v[k], err);
        const char *name = strrchr(o->profiles.v[k], '/');
        w->conf.function[k] = (struct sim_cluster_function){
            name ? name + 1 : o->profiles.v[k], w->profiles[k], w->query ? NULL : &w->load, slo, mem,
            w->conf.zero_after ? 0 : 1, 1000, .query = w->query};
        if (w->scenario == FAST_SCENARIO_OFFLINE)
            w->conf.function[k].slo_ns = 0;
    }
    w->conf.functions = o->profiles.n;
    if (!r && !w->rate_milli)
        w->conf.end_ns = w->query || w->scenario == FAST_SCENARIO_OFFLINE
                             ? FAST_S(w->seconds)
                             : w->load.at[w->load.count - 1] + FAST_S(10);
    if (w->scenario == FAST_SCENARIO_OFFLINE)
        w->conf.timeout_ns = w->conf.end_ns;
    return r;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct simulate *o = arg;
    struct fast_err err;
    fast_autofree struct sim_world *w = calloc(1, sizeof(*w));
    (void)argc;
    (void)argv;
    if (!w)
        return cli_fail(CLI_FAILED, "simulate: out of memory");
    int status = CLI_OK;
    if (read_all(w, o, &err))
        status = cli_fail(CLI_USAGE, "simulate: %s", err.msg);
    else if ((w->search ? search_rate(w, &err) : sim_cluster_run(&w->conf, &w->result, &err)) ||
             (o->svg && simulate_draw(w, o->svg, &err)) ||
             (o->report && simulate_write(w, o->report, &err)))
        status = cli_fail(CLI_FAILED, "simulate: %s", err.msg);
    else if (cli->json)
        simulate_print_json(w);
    else
        simulate_print_text(w);
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
              "    --slo 69ms --gpus 2 --policy paper --svg ramp.svg\n"
              "  fast simulate --scenario server --rate 80 --profile models/profiles/resnet50.csv \\\n"
              "    --fail gpu@30s+60s --report r.json",
    .min_args = 0, .max_args = 0, CLI_CMD_OPTS(opts, struct simulate), .run = run};
