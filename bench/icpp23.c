#include "icpp23.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The protocol of the measurements, the same for every model: users, window and token of the
 * authors' load test and scheduler. Two numbers of it are not published and chosen for all models
 * together: the length of a run, so that the time quotas come out as measured (three windows begin
 * in it, the last one is cut short), and what replicas on the same host cost each other, so that the
 * "partition" rows of rnnt do. */
#define USERS 10
#define WINDOW FAST_S(10)
#define TOKEN FAST_MS(300)
#define RUN FAST_S(24)
#define HOST_SLOWDOWN_MILLI 85

bool icpp23_read(struct icpp23 *ret, char why[200])
{
    const char *path = getenv("FAST_BENCH_DATA");
    if (!path)
        path = BENCH_SOURCE_ROOT "/../shared/data/icpp23_measured.csv";
    FILE *f = fopen(path, "re");
    if (!f) {
        snprintf(why, 200, "%.150s is not there", path);
        return false;
    }
    char line[300];
    ret->rows = 0;
    while (fgets(line, sizeof(line), f) && ret->rows < ICPP23_ROWS_MAX) {
        struct icpp23_row *r = &ret->row[ret->rows];
        if (sscanf(line, "%31[^,],%15[^,],%lf,%d,%d,%lf,%lf,%lf,%lf,%lf,%lf", r->model, r->mode,
                   &r->quota, &r->sm_pct, &r->replicas, &r->rps, &r->util_pct, &r->sm_active,
                   &r->occupancy, &r->dram, &r->p95_ms) == 11)
            ret->rows++;
    }
    fclose(f);
    snprintf(why, 200, "%.150s has no rows", path);
    return ret->rows > 0;
}

int icpp23_model(const char *name, struct sim_model *ret, struct fast_err *err)
{
    char path[300], text[SIM_MODEL_BYTES_MAX];
    snprintf(path, sizeof(path), BENCH_SOURCE_ROOT "/models/%s.model", name);
    FILE *f = fopen(path, "re");
    if (!f)
        return fast_err_set(err, FAST_ENOENT, "cannot open %s", path);
    size_t len = fread(text, 1, sizeof(text), f);
    fclose(f);
    return sim_model_parse(text, len, ret, err) ? fast_err_wrap(err, "%s", path) : 0;
}

void icpp23_conf(const struct icpp23_row *row, const struct sim_model *model,
                 struct sim_exp_conf *ret)
{
    bool racing = strcmp(row->mode, "racing") == 0;
    int quota = (int)(row->quota * 1000 + 0.5);
    *ret = (struct sim_exp_conf){
        .mps = !racing,
        .tokens = quota < 1000,
        .sched = {.policy = FAST_POLICY_FAST, .charge = FAST_CHARGE_HELD, .window_ns = WINDOW,
                  .token_ns = TOKEN, .greedy = true, .whole_tokens = true},
        .host_slowdown_milli = HOST_SLOWDOWN_MILLI,
        .duration_ns = RUN,
        .seed = 1,
        .functions = 1,
        .function = {{.model = *model, .replicas = row->replicas, .users = USERS,
                      .slice = {.sm_pct = row->sm_pct, .request_milli = quota,
                                .limit_milli = quota}}},
    };
    struct fast_err err;
    if (sim_gpu_conf_named("v100-16gb", &ret->gpu, &err))
        abort();
}

struct icpp23_row icpp23_simulate(const struct icpp23_row *row, const struct sim_model *model)
{
    static struct sim_exp_conf conf;
    static struct sim_exp_result res;
    struct fast_err err;
    struct icpp23_row out = *row;
    icpp23_conf(row, model, &conf);
    if (sim_exp_run(&conf, &res, &err)) {
        fprintf(stderr, "simulating %s: %s\n", row->model, err.msg);
        abort();
    }
    double active = (double)res.active_ns, sms = conf.gpu.sms;
    out.rps = (double)res.function[0].requests / ((double)res.span_ns * 1e-9);
    out.util_pct = 100 * (double)res.gpu.busy_ns / active;
    out.sm_active = (double)res.gpu.sm_ns / sms / active;
    out.occupancy = (double)res.gpu.warp_ns / sms / active;
    out.dram = (double)res.gpu.dram_ns / active;
    out.p95_ms = (double)fast_hist_quantile(&res.function[0].latency, 950) * 1e-6;
    return out;
}
