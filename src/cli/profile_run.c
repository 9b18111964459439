/* Runs the trials that a profile is short of. It decides which slice is next and when enough is known; it
 * assumes that it is the only run for this function, which a lock sees to, and that it may be cut off at
 * any moment: what was tried is in the database, and the next run goes on from there. */

#include "cli/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/trial_run.h"
#include "cli/view.h"
#include "core/steady.h"
#include "io/file.h"
#include "io/loop.h"

#define TRIALS_MIN 4 /* before the stated confidence is believed */
#define FAILED_MAX 3
#define GATHERED_MAX 64
#define PATH_LEN 4200

struct session {
    struct cli *cli;
    const struct profile_plan *plan;
    const char *db_path;
    struct fast_trials *db;
    struct profile *profile;
    struct trial_conf conf;
    int batch[PROFILE_BATCHES_MAX], batches;
    bool no_room[PROFILE_GRID]; /* of these slices nothing was free */
    fast_ns start, longest;
    int tried;
    bool out_of_time;
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
    int at[PROFILE_GRID], n = 0, best = -1, mean = 0;
    struct fast_predict *f = NULL;
    struct fast_err err;
    profile_candidates(all);
    for (int i = 0; i < PROFILE_GRID; i++)
        if (!s->no_room[i] && !has(s->profile, all[i].sm_pct, all[i].quota_milli)) {
            at[n] = i;
            cand[n++] = all[i];
        }
    if (!n)
        return -1;
    if (s->plan->grid)
        return at[0];
    if (s->profile->trials >= s->plan->max_trials)
        return -1;
    /* Without a number yet: the largest slice that has not been tried. A function that fails on three of
     * those fails. */
    if (profile_fit(s->profile, &f, &err))
        return s->profile->trials < FAILED_MAX ? at[n - 1] : -1;
    fast_predict_next(f, all, PROFILE_GRID, &mean);
    best = fast_predict_next(f, cand, n, NULL);
    fast_predict_free(f);
    if (s->profile->trials >= TRIALS_MIN && mean <= s->plan->confidence_milli)
        return -1;
    return best < 0 ? -1 : at[best];
}

static void progress(const struct session *s, int slice)
{
    char text[160], batch[32] = "";
    if (s->batches > 1 || s->conf.batch > 1)
        snprintf(batch, sizeof(batch), "batch %d, ", s->conf.batch);
    int of = s->plan->grid ? PROFILE_GRID : (int)s->plan->max_trials;
    snprintf(text, sizeof(text), "%strial %d of %s%d: SM %d %%, quota %.1f", batch,
             s->profile->trials + 1, s->plan->grid ? "" : "at most ", of, profile_sms[slice / PROFILE_QUOTAS],
             profile_quotas[slice % PROFILE_QUOTAS] * 1e-3);
    view_progress(text, (double)s->profile->trials / of);
}

/* One trial, and its row. An exit status. */
static int run_one(struct session *s, int slice)
{
    struct fast_trial t;
    struct fast_err err;
    fast_ns began = fast_clock_now();
    s->conf.until = s->plan->max_time == FAST_NEVER ? FAST_NEVER : s->start + s->plan->max_time;
    progress(s, slice);
    enum trial_outcome outcome = trial_run(&s->conf, profile_sms[slice / PROFILE_QUOTAS],
                                           profile_quotas[slice % PROFILE_QUOTAS], &t);
    if (outcome == TRIAL_ABORT)
        return CLI_FAILED;
    if (outcome == TRIAL_YIELDED) {
        view_progress_end();
        fprintf(stderr, "the trial gave way to a live function that needed the room; going on\n");
    }
    if (outcome == TRIAL_LATE) {
        view_progress_end();
        fprintf(stderr, "the trial under way took longer than was left: it counts for nothing\n");
        s->out_of_time = true;
        return CLI_OK;
    }
    if (outcome != TRIAL_DONE) {
        s->no_room[slice] = true;
        return CLI_OK;
    }
    if (fast_trials_put(s->db, s->profile->name, s->profile->version, &t, &err) ||
        profile_load(s->db, s->profile, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    s->tried++;
    fast_ns took = fast_clock_now() - began;
    s->longest = took > s->longest ? took : s->longest;
    return CLI_OK;
}

static int run_trials(struct session *s)
{
    int slice, status = CLI_OK, full = 0;
    memset(s->no_room, 0, sizeof(s->no_room));
    while (!status && !s->out_of_time && (slice = next_slice(s)) >= 0) {
        s->out_of_time = s->plan->max_time != FAST_NEVER &&
                         fast_clock_now() - s->start + s->longest > s->plan->max_time;
        if (s->out_of_time)
            break;
        status = run_one(s, slice);
    }
    view_progress_end();
    for (int i = 0; i < PROFILE_GRID; i++)
        full += s->no_room[i];
    if (full)
        fprintf(stderr, "no free slice for %d of the slices: they were not tried (%s)\n", full,
                "a trial takes nothing from running functions");
    return status;
}

/* A batch after the other: each has curves of its own. */
static int run_batches(struct session *s, const json_t *function)
{
    struct profile_bodies bodies = {0};
    struct fast_err err;
    int status = CLI_OK;
    s->start = fast_clock_now();
    for (int i = 0; i < s->batches && !status && !s->out_of_time; i++) {
        s->profile->batch = s->conf.batch = s->batch[i];
        if (profile_load(s->db, s->profile, &err) ||
            profile_bodies(s->cli, function, s->plan->body, s->plan->recorded, s->batch[i], &bodies, &err))
            return cli_fail(CLI_FAILED, "%s", err.msg);
        s->conf.bodies = &bodies;
        if (i == 0)
            fprintf(stderr, "request bodies: %s\n", bodies.source);
        if (s->profile->trials)
            fprintf(stderr, "%d trials of this version%s are there; --fresh forgets them\n",
                    s->profile->trials, s->batches > 1 ? " and batch" : "");
        status = run_trials(s);
        profile_bodies_free(&bodies);
    }
    if (s->out_of_time)
        fprintf(stderr, "--max-time: stopped after %d trials; the same command goes on\n", s->tried);
    s->profile->batch = s->batch[0];
    if (!status && profile_load(s->db, s->profile, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    return status;
}

/* The memory cap of a live replica, for trials of a function that names none. */
static uint64_t live_memory(struct cli *cli, const json_t *function)
{
    json_t *list = NULL, *row;
    size_t i;
    double bytes = 0;
    api_json(cli, "GET", "/system/replicas", NULL, &list);
    json_array_foreach(list, i, row) {
        if (!strcmp(json_text(row, "function"), json_text(function, "name")) &&
            !strcmp(json_text(row, "namespace"), json_text(function, "namespace")) &&
            json_num(row, "memory_cap_bytes") > bytes)
            bytes = json_num(row, "memory_cap_bytes");
    }
    json_decref(list);
    return (uint64_t)bytes;
}

/* How many requests the gateway gathers into one call of the function: so many are in flight for each that
 * the plan has, or the function is never seen at work as it is deployed. */
static int gathered(const json_t *function)
{
    const char *text = json_text(json_object_get(function, "annotations"), "fastgshare/batch");
    long n = strtol(text, NULL, 10);
    return n < 1 ? 1 : n > GATHERED_MAX ? GATHERED_MAX : (int)n;
}

/* With the lock: nothing else tries this function. */
static int run_guarded(struct session *s, const json_t *function, struct fast_err *err)
{
    struct trial_guard guard;
    char name[TRIAL_NAME_MAX];
    trial_name(s->profile->name, name);
    if ((s->plan->fresh && fast_trials_forget(s->db, s->profile->name, s->profile->version, err)) ||
        trial_prepare(s->cli, s->profile->name, err) ||
        trial_guard_begin(&guard, s->cli, name, err))
        return cli_fail(CLI_FAILED, "%s", err->msg);
    int status = run_batches(s, function);
    trial_guard_end(&guard);
    return status;
}

/* Those of the command line, else those that the function declares, else single inputs. */
static int find_batches(struct session *s, const json_t *function, struct fast_err *err)
{
    const json_t *notes = json_object_get(function, "annotations");
    if (json_num(json_object_get(function, "slice"), "gpus") > 1)
        return fast_err_set(err, FAST_EINVAL, "a profile is of one GPU, and each replica of the function has %.0f "
                            "(fastgshare/gpus); deploy it with one to measure it",
                            json_num(json_object_get(function, "slice"), "gpus"));
    const char *text = json_text(notes, "fastgshare/profile_batches"), *fixed = json_text(notes, "has-gpu/batch_size");
    s->batches = s->plan->batches;
    memcpy(s->batch, s->plan->batch, sizeof(s->batch));
    if (s->batches)
        return 0;
    if (*text)
        return profile_parse_batches(text, "fastgshare/profile_batches", s->batch, &s->batches, err);
    return profile_parse_batches(*fixed ? fixed : "1", "has-gpu/batch_size", s->batch, &s->batches, err);
}

fast_ns profile_window(struct cli *cli)
{
    json_t *policy = NULL;
    api_json(cli, "GET", "/system/policy", NULL, &policy);
    double ms = json_num(policy, "window_ms");
    json_decref(policy);
    return ms > 0 ? (fast_ns)(ms * 1e6) : FAST_WINDOW_DEFAULT;
}

/* The part of a trial that saturates holds some windows, or it says nothing of what the quota leaves. */
static int check_window(const struct session *s, struct fast_err *err)
{
    double least = FAST_STEADY_WINDOWS / TRIAL_SATURATES * (double)s->conf.window_ns * 1e-9;
    if (s->conf.seconds >= least * 0.999)
        return 0;
    return fast_err_set(err, FAST_EINVAL, "--seconds: %g is less than %d windows of the time quota, of %.0f ms each, "
                        "need; give %g or more", s->conf.seconds, FAST_STEADY_WINDOWS,
                        (double)s->conf.window_ns * 1e-6, ceil(least * 10) / 10);
}

int profile_run(struct cli *cli, const struct profile_plan *plan, struct fast_trials *db,
                const char *db_path, const char *name, struct profile *ret)
{
    static struct session s;
    struct fast_err err;
    char host[64], path[PATH_LEN + 8], escaped[400];
    json_t *function = NULL;
    int port = 0, lock = -1;
    if (strcspn(name, ".") > 50)
        return cli_fail(CLI_USAGE, "profile: the name has more than 50 characters");
    if (api_host(cli, host, sizeof(host), &port, &err))
        return cli_fail(CLI_USAGE, "profile: %s", err.msg);
    snprintf(path, sizeof(path), "/system/function/%s", api_escape(name, escaped, sizeof(escaped)));
    int status = api_json(cli, "GET", path, NULL, &function);
    if (status)
        return status;
    s = (struct session){.cli = cli, .plan = plan, .db = db, .db_path = db_path, .profile = ret,
                         .longest = FAST_MS(plan->seconds_milli)};
    snprintf(ret->name, sizeof(ret->name), "%s", name);
    fast_trials_version(function, ret->version);
    s.conf = (struct trial_conf){.cli = cli, .host = host, .port = port, .key = name,
                                 .function = function, .mem_bytes = live_memory(cli, function),
                                 .users = (int)plan->users * gathered(function),
                                 .seconds = (double)plan->seconds_milli * 1e-3,
                                 .window_ns = profile_window(cli)};
    snprintf(path, sizeof(path), "%s.lock", db_path);
    if (check_window(&s, &err) || find_batches(&s, function, &err))
        status = cli_fail(CLI_USAGE, "profile: %s", err.msg);
    else if (trial_lock(path, name, &lock, &err))
        status = cli_fail(CLI_FAILED, "%s", err.msg);
    else
        status = run_guarded(&s, function, &err);
    if (lock >= 0)
        close(lock);
    json_decref(function);
    return status;
}
