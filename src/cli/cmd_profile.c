/* fast profile: what a function does with any slice, from few trials. */

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/platform.h"
#include "cli/profile.h"
#include "core/types.h"
#include "io/file.h"

#define IMPORT_MAX (1u << 20)
#define BUSY_MS 5000 /* how long to wait for another program that writes the database */

struct opts {
    bool grid, adaptive, fresh, plot, predicted, recorded;
    const char *max_time, *max_trials, *confidence, *seconds, *users, *body, *batch, *db, *state_dir;
    const char *slo, *rate, *svg, *ns;
    const char *format;
};

static const struct cli_opt opts[] = {
    {"namespace", 'n', CLI_NAME, offsetof(struct opts, ns), "NAME", "default: openfaas-fn"},
    {"adaptive", 0, CLI_FLAG, offsetof(struct opts, adaptive), NULL,
     "try where least is known, until --confidence (the default)"},
    {"grid", 0, CLI_FLAG, offsetof(struct opts, grid), NULL,
     "try all 35 slices of the paper: SM 6 to 100 %, quota 0.2 to 1"},
    {"confidence", 0, CLI_STR, offsetof(struct opts, confidence), "PERCENT",
     "mean uncertainty at which adaptive trials end (default 4)"},
    {"max-trials", 0, CLI_STR, offsetof(struct opts, max_trials), "N",
     "adaptive trials at most (default 10)"},
    {"max-time", 0, CLI_STR, offsetof(struct opts, max_time), "TIME",
     "begin no trial that would end later; what is missing is tried the next time"},
    {"seconds", 0, CLI_STR, offsetof(struct opts, seconds), "N", "of load in a trial (default 10)"},
    {"users", 0, CLI_STR, offsetof(struct opts, users), "N",
     "requests under way while a trial is saturated (default 2)"},
    {"batch", 0, CLI_STR, offsetof(struct opts, batch), "N,N",
     "inputs in a request, each a profile of its own (default: what fastgshare/profile_batches says, else 1)"},
    {"body", 0, CLI_STR, offsetof(struct opts, body), "FILE",
     "request body of one input (default: what fastgshare/sample says, else empty)"},
    {"recorded", 0, CLI_FLAG, offsetof(struct opts, recorded), NULL,
     "request bodies that the gateway has kept (fastgshare/record)"},
    {"fresh", 0, CLI_FLAG, offsetof(struct opts, fresh), NULL, "forget the trials there are"},
    {"slo", 0, CLI_STR, offsetof(struct opts, slo), "TIME",
     "with --rate: which replicas keep the p95 below this"},
    {"rate", 0, CLI_STR, offsetof(struct opts, rate), "N", "requests per second, with --slo"},
    {"plot", 0, CLI_FLAG, offsetof(struct opts, plot), NULL, "draw throughput over quota"},
    {"svg", 0, CLI_STR, offsetof(struct opts, svg), "FILE", "write the plot as SVG"},
    {"format", 0, CLI_ONE, offsetof(struct opts, format), "FORM",
     "of export: csv (fast-gateway --profiles, the default), authors, json", "csv authors json"},
    {"predicted", 0, CLI_FLAG, offsetof(struct opts, predicted), NULL,
     "export all 35 slices of the grid, those not tried as predicted"},
    {"db", 0, CLI_STR, offsetof(struct opts, db), "FILE",
     "profile database (default: that of the gateway, else profiles.db in the state directory)"},
    {"state-dir", 0, CLI_STR, offsetof(struct opts, state_dir), "DIR", "as of `fast up`"},
};

/* The options, read. */
struct plan {
    struct profile_plan run;
    int64_t rate_milli;
    fast_ns slo;
};

static int parse_trials(const struct opts *o, struct profile_plan *p, struct fast_err *err)
{
    int r = 0;
    if (o->grid && o->adaptive)
        r = fast_err_set(err, FAST_EINVAL, "--grid or --adaptive, not both");
    if (!r && o->body && access(o->body, R_OK))
        r = fast_err_set(err, FAST_EINVAL, "--body: cannot open %.200s: %s", o->body, strerror(errno));
    if (!r && o->body && o->recorded)
        r = fast_err_set(err, FAST_EINVAL, "--body or --recorded, not both");
    if (!r && o->confidence) {
        r = fast_parse_milli(o->confidence, "--confidence", 100, 100000, &p->confidence_milli, err);
        p->confidence_milli = (p->confidence_milli + 50) / 100;
    }
    if (!r && o->max_trials)
        r = fast_parse_int(o->max_trials, "--max-trials", 1, FAST_TRIALS_MAX, &p->max_trials, err);
    if (!r && o->seconds)
        r = fast_parse_milli(o->seconds, "--seconds", 500, 600000, &p->seconds_milli, err);
    if (!r && o->users)
        r = fast_parse_int(o->users, "--users", 1, 256, &p->users, err);
    if (!r && o->max_time)
        r = fast_parse_duration(o->max_time, "--max-time", FAST_S(1), FAST_S(86400), &p->max_time, err);
    if (!r && o->batch)
        r = profile_parse_batches(o->batch, "--batch", p->batch, &p->batches, err);
    return r;
}

static int parse(const struct opts *o, struct plan *p, struct fast_err *err)
{
    *p = (struct plan){.run = {.grid = o->grid, .fresh = o->fresh, .recorded = o->recorded,
                               .body = o->body, .confidence_milli = 40, .max_trials = 10,
                               .seconds_milli = 10000, .users = 2, .max_time = FAST_NEVER}};
    int r = parse_trials(o, &p->run, err);
    if (!r && !o->slo != !o->rate)
        r = fast_err_set(err, FAST_EINVAL, "--slo and --rate belong together");
    if (!r && o->slo)
        r = fast_parse_duration(o->slo, "--slo", FAST_US(1), FAST_S(3600), &p->slo, err);
    if (!r && o->rate)
        r = fast_parse_milli(o->rate, "--rate", 1, 1000000000, &p->rate_milli, err);
    if (!r && o->db && o->state_dir)
        r = fast_err_set(err, FAST_EINVAL, "--db or --state-dir, not both");
    return r;
}

#define PATH_LEN 4200

/* Where the gateway looks, if there is one and it is on this machine; else "". */
static void db_of_gateway(struct cli *cli, char path[PATH_LEN])
{
    api_autoreply a = {0};
    path[0] = '\0';
    if (api_call(cli, "GET", "/system/info", NULL, 0, NULL, &a) || a.status != 200)
        return;
    json_t *info = json_loadb(a.body, a.len, 0, NULL);
    const char *profiles = json_text(info, "profiles");
    if (*profiles == '/' && access(profiles, R_OK | W_OK) == 0)
        snprintf(path, PATH_LEN, "%s", profiles);
    json_decref(info);
}

static int open_db(struct cli *cli, const struct opts *o, char path[PATH_LEN],
                   struct fast_trials **ret, struct fast_err *err)
{
    char dir[PATH_LEN - 100];
    if (o->db)
        snprintf(path, PATH_LEN, "%s", o->db);
    else if (!o->state_dir)
        db_of_gateway(cli, path);
    if (!o->db && (o->state_dir || !*path)) {
        platform_state_dir(o->state_dir, dir, sizeof(dir));
        if (fast_dir_make(dir, 0755, err))
            return -err->code;
        snprintf(path, PATH_LEN, "%s/profiles.db", dir);
    }
    return fast_trials_open(path, BUSY_MS, ret, err);
}

/* ---- what is shown ---- */

static int write_svg(const struct profile *p, const struct fast_predict *f, const char *path)
{
    FILE *out = fopen(path, "we");
    if (!out)
        return cli_fail(CLI_FAILED, "cannot write %s", path);
    profile_svg(p, f, out);
    return fclose(out) ? cli_fail(CLI_FAILED, "cannot write %s", path) : CLI_OK;
}

static int show(struct cli *cli, const struct opts *o, const struct plan *plan,
                const struct profile *p, bool ask)
{
    struct fast_predict *f = NULL;
    struct fast_err err;
    int s = CLI_OK;
    if (cli->json && !plan->rate_milli && (profile_write(p, "json", stdout, &err) || !o->svg))
        return ferror(stdout) ? CLI_FAILED : CLI_OK;
    if (!cli->json && !plan->rate_milli)
        profile_print(p);
    if (profile_fit(p, &f, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    struct fast_predict_point all[PROFILE_GRID];
    int mean = 0;
    profile_candidates(all);
    fast_predict_next(f, all, PROFILE_GRID, &mean);
    if (!cli->json)
        printf("%d trials; throughput of the 35 slices of the grid is known to %.1f %% on average\n",
               p->trials, mean * 0.1);
    if (o->plot && !cli->json)
        profile_plot(p, f, stdout);
    if (o->svg)
        s = write_svg(p, f, o->svg);
    if (!s && plan->rate_milli)
        s = profile_answer(cli, f, plan->rate_milli, plan->slo, ask ? profile_window(cli) : FAST_WINDOW_DEFAULT);
    fast_predict_free(f);
    return s;
}

/* ---- the forms of the command ---- */

/* The profile that was made last, with the batch asked for, else its smallest one. */
static int from_db(const char *name, const struct plan *plan, struct fast_trials *db, struct profile *p,
                   struct fast_err *err)
{
    int batch[FAST_TRIAL_BATCHES_MAX];
    snprintf(p->name, sizeof(p->name), "%s", name);
    int r = fast_trials_latest(db, name, p->version, err);
    if (r)
        return r;
    int n = fast_trials_batches(db, name, p->version, batch, err);
    if (n < 0)
        return n;
    p->batch = plan->run.batches ? plan->run.batch[0] : n ? batch[0] : 1;
    if (n > 1 || (n && batch[0] != p->batch)) {
        fprintf(stderr, "batches of %s:", name);
        for (int i = 0; i < n; i++)
            fprintf(stderr, " %d", batch[i]);
        fprintf(stderr, "; this is %d, --batch chooses\n", p->batch);
    }
    return profile_load(db, p, err);
}

static bool tried(const struct profile *p, int sm, int quota)
{
    for (int i = 0; i < p->trials; i++)
        if (p->trial[i].sm_pct == sm && p->trial[i].quota_milli == quota)
            return true;
    return false;
}

/* Adds what is predicted of the slices that were not tried; their latency is that of a replica
 * at 60 % of what it can carry. */
static int fill_in(struct profile *p, struct fast_err *err)
{
    struct fast_predict_point all[PROFILE_GRID];
    struct fast_predict *f = NULL;
    if (profile_fit(p, &f, err))
        return -err->code;
    profile_candidates(all);
    for (int i = 0; i < PROFILE_GRID && p->trials < FAST_TRIALS_MAX; i++) {
        int sm = all[i].sm_pct, quota = all[i].quota_milli;
        struct fast_predict_value v = fast_predict_look(f, sm, quota);
        struct fast_predict_load load = {.rate_milli = v.rps_milli * 6 / 10, .replicas = 1,
                                         .window_ns = FAST_WINDOW_DEFAULT};
        fast_ns p95 = fast_predict_p95(f, sm, quota, &load);
        struct fast_trial t = {.sm_pct = sm, .quota_milli = quota, .state = "ok", .text = "predicted",
                          .rps = (double)v.rps_milli * 1e-3, .p95_ms = (double)p95 * 1e-6};
        t.p50_ms = t.p99_ms = t.p95_ms;
        if (!tried(p, sm, quota) && p95 != FAST_NEVER)
            p->trial[p->trials++] = t;
    }
    fast_predict_free(f);
    return 0;
}

static int export_to(const struct opts *o, const struct plan *plan, struct fast_trials *db,
                     const char *name, const char *path)
{
    static struct profile p;
    struct fast_err err;
    if (from_db(name, plan, db, &p, &err) || (o->predicted && fill_in(&p, &err)))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    FILE *out = path ? fopen(path, "we") : stdout;
    if (!out)
        return cli_fail(CLI_FAILED, "cannot write %s: %s", path, strerror(errno));
    int r = profile_write(&p, o->format ? o->format : "csv", out, &err);
    if (path && fclose(out) && !r)
        r = fast_err_set(&err, FAST_EIO, "cannot write %s: %s", path, strerror(errno));
    if (path && !r)
        printf("%d slices of %s are in %s\n", p.trials, name, path);
    return r ? cli_fail(r == -FAST_EINVAL ? CLI_USAGE : CLI_FAILED, "%s", err.msg) : CLI_OK;
}

static int import_from(struct fast_trials *db, const char *name, const char *path)
{
    static struct profile p;
    struct fast_err err;
    fast_autofree char *text = NULL;
    size_t len = 0;
    snprintf(p.name, sizeof(p.name), "%s", name);
    if (fast_file_read(path, IMPORT_MAX, &text, &len, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    if (profile_read(text, len, &p, &err))
        return cli_fail(CLI_FAILED, "%s: %s", path, err.msg);
    if (fast_trials_replace(db, name, FAST_TRIALS_IMPORTED, p.trial, p.trials, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    printf("%d slices of %s\n", p.trials, name);
    return CLI_OK;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct opts *o = arg;
    struct plan plan;
    struct fast_trials *db = NULL;
    struct fast_err err;
    static struct profile p;
    char path[PATH_LEN];
    if (parse(o, &plan, &err))
        return cli_fail(CLI_USAGE, "profile: %s", err.msg);
    const char *verb = argc > 1 ? argv[0] : "";
    bool shows = !strcmp(verb, "show"), exports = !strcmp(verb, "export"),
         imports = !strcmp(verb, "import");
    if ((argc > 1 && !shows && !exports && !imports) || (shows && argc > 2) || (imports && argc != 3))
        return cli_fail(CLI_USAGE, "profile: NAME, show NAME, export NAME [FILE] or import NAME FILE");
    const char *plain = argc > 1 ? argv[1] : argv[0];
    char name[PROFILE_NAME_MAX];
    if (fast_parse_name(plain, "function name", &err) ||
        (o->ns && fast_parse_name(o->ns, "--namespace", &err)))
        return cli_fail(CLI_USAGE, "profile: %s", err.msg);
    bool elsewhere = o->ns && strcmp(o->ns, "openfaas-fn") != 0;
    snprintf(name, sizeof(name), "%s%s%s", plain, elsewhere ? "." : "", elsewhere ? o->ns : "");
    if (open_db(cli, o, path, &db, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    int s;
    if (exports)
        s = export_to(o, &plan, db, name, argc > 2 ? argv[2] : NULL);
    else if (imports)
        s = import_from(db, name, argv[2]);
    else if (shows)
        s = from_db(name, &plan, db, &p, &err) ? cli_fail(CLI_FAILED, "%s", err.msg)
                                           : show(cli, o, &plan, &p, false);
    else if ((s = profile_run(cli, &plan.run, db, path, name, &p)) == CLI_OK)
        s = show(cli, o, &plan, &p, true);
    fast_trials_close(db);
    return s;
}

const struct cli_cmd cmd_profile = {
    .name = "profile", .args = "[show|export|import] NAME [FILE]",
    .summary = "measure what a function does with slices of a GPU, and predict the others",
    .detail = "Trial replicas run beside the live ones, on free slices only, and get no live requests.\n"
              "Trials are kept per version of the function; a run that was interrupted goes on.\n"
              "Examples:\n  fast profile resnet50\n  fast profile resnet50 --grid --max-time 10m\n"
              "  fast profile resnet50 --slo 69ms --rate 110\n  fast profile show resnet50 --plot\n"
              "  fast profile export resnet50 resnet50.csv",
    .min_args = 1, .max_args = 3, CLI_CMD_OPTS(opts, struct opts), .run = run};
