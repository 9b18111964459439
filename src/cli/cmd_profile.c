/* fast profile: what a function does with any slice, from few trials. */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/profile.h"
#include "cli/trial_run.h"
#include "cli/view.h"
#include "core/types.h"
#include "io/file.h"
#include "io/loop.h"

#define BODY_MAX (16u << 20)
#define IMPORT_MAX (1u << 20)
#define BUSY_MS 5000 /* how long to wait for another program that writes the database */
#define TRIALS_MIN 4 /* before the stated confidence is believed */

struct opts {
    bool grid, adaptive, fresh, plot, predicted;
    const char *max_time, *max_trials, *confidence, *seconds, *users, *body, *db, *slo, *rate, *svg;
    const char *format;
};

static const struct cli_opt opts[] = {
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
    {"body", 0, CLI_STR, offsetof(struct opts, body), "FILE", "request body"},
    {"fresh", 0, CLI_FLAG, offsetof(struct opts, fresh), NULL, "forget the trials there are"},
    {"slo", 0, CLI_STR, offsetof(struct opts, slo), "TIME",
     "with --rate: which replicas keep the p95 below this"},
    {"rate", 0, CLI_STR, offsetof(struct opts, rate), "N", "requests per second, with --slo"},
    {"plot", 0, CLI_FLAG, offsetof(struct opts, plot), NULL, "draw throughput over quota"},
    {"svg", 0, CLI_STR, offsetof(struct opts, svg), "FILE", "write the plot as SVG"},
    {"format", 0, CLI_STR, offsetof(struct opts, format), "FORM",
     "of export: csv (fast-gateway --profiles, the default), authors, json"},
    {"predicted", 0, CLI_FLAG, offsetof(struct opts, predicted), NULL,
     "export all 35 slices of the grid, those not tried as predicted"},
    {"db", 0, CLI_STR, offsetof(struct opts, db), "FILE",
     "profile database (default: profiles.db in the state directory)"},
};

/* The options, read. */
struct plan {
    int64_t confidence_milli, max_trials, seconds_milli, users, rate_milli;
    fast_ns max_time, slo;
};

static int parse(const struct opts *o, struct plan *p, struct fast_err *err)
{
    *p = (struct plan){40, 10, 10000, 2, 0, FAST_NEVER, 0};
    int r = 0;
    if (o->grid && o->adaptive)
        r = fast_err_set(err, FAST_EINVAL, "--grid or --adaptive, not both");
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
    if (!r && !o->slo != !o->rate)
        r = fast_err_set(err, FAST_EINVAL, "--slo and --rate belong together");
    if (!r && o->slo)
        r = fast_parse_duration(o->slo, "--slo", FAST_US(1), FAST_S(3600), &p->slo, err);
    if (!r && o->rate)
        r = fast_parse_milli(o->rate, "--rate", 1, 1000000000, &p->rate_milli, err);
    return r;
}

#define PATH_LEN 3100

static int open_db(const struct opts *o, char path[PATH_LEN], struct fast_trials **ret,
                   struct fast_err *err)
{
    char dir[3000];
    const char *home = getenv("HOME");
    if (geteuid() == 0)
        snprintf(dir, sizeof(dir), "/var/lib/fast-gshare");
    else
        snprintf(dir, sizeof(dir), "%s/.local/state/fast-gshare", home ? home : "/tmp");
    if (o->db)
        snprintf(path, PATH_LEN, "%s", o->db);
    else
        snprintf(path, PATH_LEN, "%s/profiles.db", dir);
    if (!o->db && fast_dir_make(dir, 0755, err))
        return -err->code;
    return fast_trials_open(path, BUSY_MS, ret, err);
}

/* ---- trials ---- */

struct session {
    struct cli *cli;
    const char *db_path;
    const struct opts *o;
    struct plan plan;
    struct fast_trials *db;
    struct profile profile;
    struct trial_conf conf;
    bool no_room[PROFILE_GRID]; /* of these slices nothing was free */
    fast_ns start, longest;
    int tried, mean_milli;
};

static bool has(const struct profile *p, int sm, int quota)
{
    for (int i = 0; i < p->trials; i++)
        if (p->trial[i].sm_pct == sm && p->trial[i].quota_milli == quota)
            return true;
    return false;
}

/* The next slice; -1: there is none, or it is known well enough. */
static int next_slice(struct session *s)
{
    struct fast_predict_point all[PROFILE_GRID], cand[PROFILE_GRID];
    int at[PROFILE_GRID], n = 0, best = -1;
    struct fast_predict *f = NULL;
    struct fast_err err;
    profile_candidates(all);
    for (int i = 0; i < PROFILE_GRID; i++)
        if (!s->no_room[i] && !has(&s->profile, all[i].sm_pct, all[i].quota_milli)) {
            at[n] = i;
            cand[n++] = all[i];
        }
    if (!n)
        return -1;
    if (s->o->grid)
        return at[0];
    if (s->profile.trials >= s->plan.max_trials)
        return -1;
    /* Without a number yet: the largest slice that has not been tried. */
    if (profile_fit(&s->profile, &f, &err))
        return at[n - 1];
    fast_predict_next(f, all, PROFILE_GRID, &s->mean_milli);
    best = fast_predict_next(f, cand, n, NULL);
    fast_predict_free(f);
    if (s->profile.trials >= TRIALS_MIN && s->mean_milli <= s->plan.confidence_milli)
        return -1;
    return best < 0 ? -1 : at[best];
}

static void progress(const struct session *s, int slice)
{
    char text[160];
    int of = s->o->grid ? PROFILE_GRID : (int)s->plan.max_trials;
    snprintf(text, sizeof(text), "trial %d of %s%d: SM %d %%, quota %.1f", s->profile.trials + 1,
             s->o->grid ? "" : "at most ", of, profile_sms[slice / PROFILE_QUOTAS],
             profile_quotas[slice % PROFILE_QUOTAS] * 1e-3);
    view_progress(text, (double)s->profile.trials / of);
}

static int run_trials(struct session *s)
{
    struct fast_err err;
    int slice;
    s->start = fast_clock_now();
    while ((slice = next_slice(s)) >= 0) {
        struct fast_trial t;
        fast_ns began = fast_clock_now();
        if (s->plan.max_time != FAST_NEVER && began - s->start + s->longest > s->plan.max_time) {
            view_progress_end();
            fprintf(stderr, "--max-time: stopped after %d trials; the same command goes on\n", s->tried);
            return CLI_OK;
        }
        progress(s, slice);
        enum trial_outcome outcome = trial_run(&s->conf, profile_sms[slice / PROFILE_QUOTAS],
                                               profile_quotas[slice % PROFILE_QUOTAS], &t);
        if (outcome == TRIAL_ABORT) {
            view_progress_end();
            return CLI_FAILED;
        }
        if (outcome == TRIAL_YIELDED) {
            view_progress_end();
            fprintf(stderr, "the trial gave way to a live function that needed the room; going on\n");
        }
        if (outcome == TRIAL_NO_ROOM || outcome == TRIAL_YIELDED) {
            s->no_room[slice] = true;
            continue;
        }
        if (fast_trials_put(s->db, s->profile.name, s->profile.version, &t, &err) ||
            fast_trials_get(s->db, s->profile.name, s->profile.version, s->profile.trial, &s->profile.trials,
                       &err))
            return cli_fail(CLI_FAILED, "%s", err.msg);
        s->tried++;
        fast_ns took = fast_clock_now() - began;
        s->longest = took > s->longest ? took : s->longest;
    }
    view_progress_end();
    int full = 0;
    for (int i = 0; i < PROFILE_GRID; i++)
        full += s->no_room[i];
    if (full)
        fprintf(stderr, "no free slice for %d of the slices: they were not tried (%s)\n", full,
                "a trial takes nothing from running functions");
    return CLI_OK;
}

/* The memory cap of a live replica, for trials of a function that names none. */
static uint64_t live_memory(struct cli *cli, const char *name)
{
    json_t *list = NULL, *row;
    size_t i;
    double bytes = 0;
    api_json(cli, "GET", "/system/replicas", NULL, &list);
    json_array_foreach(list, i, row) {
        if (!strcmp(json_text(row, "function"), name) && json_num(row, "memory_cap_bytes") > bytes)
            bytes = json_num(row, "memory_cap_bytes");
    }
    json_decref(list);
    return (uint64_t)bytes;
}

/* ---- what is shown ---- */

static fast_ns window_of(struct cli *cli, bool ask)
{
    json_t *policy = NULL;
    if (ask)
        api_json(cli, "GET", "/system/policy", NULL, &policy);
    double ms = json_num(policy, "window_ms");
    json_decref(policy);
    return ms > 0 ? (fast_ns)(ms * 1e6) : FAST_WINDOW_DEFAULT;
}

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
    if (cli->json && !plan->rate_milli)
        return profile_write(p, "json", stdout, &err) ? CLI_FAILED : CLI_OK;
    if (!cli->json && !plan->rate_milli)
        profile_print(cli, p);
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
        s = profile_answer(cli, f, plan->rate_milli, plan->slo, window_of(cli, ask));
    fast_predict_free(f);
    return s;
}

/* ---- the forms of the command ---- */

static int from_db(const char *name, struct fast_trials *db, struct profile *p, struct fast_err *err)
{
    p->name = name;
    int r = fast_trials_latest(db, name, p->version, err);
    return r ? r : fast_trials_get(db, name, p->version, p->trial, &p->trials, err);
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
        if (!has(p, sm, quota) && p95 != FAST_NEVER)
            p->trial[p->trials++] = t;
    }
    fast_predict_free(f);
    return 0;
}

static int export_to(const struct opts *o, struct fast_trials *db, const char *name, const char *path)
{
    static struct profile p;
    struct fast_err err;
    if (from_db(name, db, &p, &err) || (o->predicted && fill_in(&p, &err)))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    FILE *out = path ? fopen(path, "we") : stdout;
    if (!out)
        return cli_fail(CLI_FAILED, "cannot write %s", path);
    int r = profile_write(&p, o->format ? o->format : "csv", out, &err);
    if (path && fclose(out) && !r)
        r = fast_err_set(&err, FAST_EIO, "cannot write %s", path);
    return r ? cli_fail(r == -FAST_EINVAL ? CLI_USAGE : CLI_FAILED, "%s", err.msg) : CLI_OK;
}

static int import_from(struct fast_trials *db, const char *name, const char *path)
{
    static struct profile p;
    struct fast_err err;
    fast_autofree char *text = NULL;
    size_t len = 0;
    p.name = name;
    if (fast_file_read(path, IMPORT_MAX, &text, &len, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    if (profile_read(text, len, &p, &err))
        return cli_fail(CLI_FAILED, "%s: %s", path, err.msg);
    if (fast_trials_replace(db, name, FAST_TRIALS_IMPORTED, p.trial, p.trials, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    printf("%d slices of %s\n", p.trials, name);
    return CLI_OK;
}

static int try_all(struct session *s, const char *name, struct fast_err *err)
{
    struct trial_guard guard;
    char trial_name[80], lock_path[PATH_LEN + 8];
    int lock = -1;
    snprintf(lock_path, sizeof(lock_path), "%s.lock", s->db_path);
    if (trial_lock(lock_path, name, &lock, err))
        return cli_fail(CLI_FAILED, "%s", err->msg);
    if (s->o->fresh && fast_trials_forget(s->db, name, s->profile.version, err)) {
        close(lock);
        return cli_fail(CLI_FAILED, "%s", err->msg);
    }
    snprintf(trial_name, sizeof(trial_name), "%s-profile", name);
    if (fast_trials_get(s->db, name, s->profile.version, s->profile.trial, &s->profile.trials, err) ||
        trial_prepare(s->cli, name, err) || trial_guard_begin(&guard, s->cli, trial_name, err)) {
        close(lock);
        return cli_fail(CLI_FAILED, "%s", err->msg);
    }
    if (s->profile.trials)
        fprintf(stderr, "%d trials of this version are there; --fresh forgets them\n", s->profile.trials);
    int status = run_trials(s);
    trial_guard_end(&guard);
    close(lock);
    return status ? status : show(s->cli, s->o, &s->plan, &s->profile, true);
}

static int profile(struct cli *cli, const struct opts *o, const struct plan *plan, struct fast_trials *db,
                   const char *db_path, const char *name)
{
    static struct session s;
    struct fast_err err;
    char host[64], path[300], escaped[256];
    json_t *function = NULL;
    fast_autofree char *body = NULL;
    size_t body_len = 0;
    if (strlen(name) > 50)
        return cli_fail(CLI_USAGE, "profile: the name has more than 50 characters");
    s = (struct session){.cli = cli, .o = o, .plan = *plan, .db = db, .db_path = db_path,
                         .profile = {.name = name}};
    if (o->body && fast_file_read(o->body, BODY_MAX, &body, &body_len, &err))
        return cli_fail(CLI_USAGE, "profile: %s", err.msg);
    if (api_host(cli, host, sizeof(host), &s.conf.port, &err))
        return cli_fail(CLI_USAGE, "profile: %s", err.msg);
    snprintf(path, sizeof(path), "/system/function/%s", api_escape(name, escaped, sizeof(escaped)));
    int status = api_json(cli, "GET", path, NULL, &function);
    if (status)
        return status;
    fast_trials_version(function, s.profile.version);
    s.conf = (struct trial_conf){.cli = cli, .host = host, .port = s.conf.port, .function = function,
                                 .mem_bytes = live_memory(cli, name), .body = body,
                                 .body_len = body_len, .users = (int)plan->users,
                                 .seconds = (double)plan->seconds_milli * 1e-3};
    status = try_all(&s, name, &err);
    json_decref(function);
    return status;
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
    if (fast_parse_name(argc > 1 ? argv[1] : argv[0], "function name", &err))
        return cli_fail(CLI_USAGE, "profile: %s", err.msg);
    if (open_db(o, path, &db, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    int s;
    if (exports)
        s = export_to(o, db, argv[1], argc > 2 ? argv[2] : NULL);
    else if (imports)
        s = import_from(db, argv[1], argv[2]);
    else if (shows)
        s = from_db(argv[1], db, &p, &err) ? cli_fail(CLI_FAILED, "%s", err.msg)
                                           : show(cli, o, &plan, &p, false);
    else
        s = profile(cli, o, &plan, db, path, argv[0]);
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
