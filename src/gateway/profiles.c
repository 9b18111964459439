/* Decides which profile a function is scaled by, and what live requests make of it. It assumes that
 * `fast profile` writes the database now and then, and this program the rows of live requests only. */

#include "gateway/profiles.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "core/live.h"
#include "core/predict_table.h"
#include "gateway/gateway.h"
#include "io/trials.h"

#define WAIT_MS 50 /* for another program that writes: this one has requests to serve */
#define UNCERTAINTY_MAX_MILLI 250
#define SPAN_MIN FAST_S(10)
#define SPAN_MAX FAST_S(60)
#define SAVE_EVERY FAST_S(30)
#define KEY_MAX ((size_t)2 * GW_NAME_MAX)

struct gw_profiles {
    struct fast_trials *db;
    fast_ns saved;
};

/* Of one function, while it has a measured profile. */
struct gw_live {
    char version[FAST_TRIAL_VERSION_MAX];
    struct fast_live *live;
    int trials, mean_milli;
    int saved_spans, used_spans; /* of |live|, when it was last written and last made a table of */
};

int gw_profiles_open(const char *path, struct gw_profiles **ret, struct fast_err *err)
{
    struct gw_profiles *p = calloc(1, sizeof(*p));
    if (!p)
        return fast_err_set(err, FAST_ENOMEM, "no memory for profiles");
    int r = fast_trials_open(path, WAIT_MS, &p->db, err);
    if (r) {
        free(p);
        return r;
    }
    *ret = p;
    return 0;
}

void gw_profiles_close(struct gw_profiles *p)
{
    if (!p)
        return;
    fast_trials_close(p->db);
    free(p);
}

/* As `fast profile` calls it: the default namespace goes without saying. */
static void key_of(const struct gw_spec *spec, char ret[KEY_MAX])
{
    if (!strcmp(spec->ns, GW_DEFAULT_NS))
        snprintf(ret, KEY_MAX, "%s", spec->name);
    else
        snprintf(ret, KEY_MAX, "%s.%s", spec->name, spec->ns);
}

void gw_live_free(struct gw_live *l)
{
    if (!l)
        return;
    fast_live_free(l->live);
    free(l);
}

/* ---- from the database ---- */

/* Rows that scaling can use: those that succeeded. */
static int usable(const struct fast_trial *t, int n, struct fast_live_trial *ret)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (strcmp(t[i].state, "ok") != 0 || !(t[i].rps >= 0.001) ||
            !(t[i].p95_ms >= 0 && t[i].p95_ms < 3600e3))
            continue;
        double p99 = fmin(fmax(t[i].p99_ms, t[i].p95_ms), 3600e3);
        ret[count++] = (struct fast_live_trial){
            {t[i].sm_pct, t[i].quota_milli, llround(t[i].rps * 1e3), llround(t[i].p95_ms * 1e6),
             llround(p99 * 1e6)},
            llround(t[i].gpu_ms * 1e6)};
    }
    return count;
}

static void restore(struct gw_profiles *p, const char *key, struct gw_live *l)
{
    struct fast_trial_live row[FAST_LIVE_CELLS];
    struct fast_live_cell cell[FAST_LIVE_CELLS];
    struct fast_trial_drift drift;
    int n = 0;
    if (fast_trials_live_get(p->db, key, l->version, row, FAST_LIVE_CELLS, &n, &drift, NULL))
        return;
    for (int i = 0; i < n; i++)
        cell[i] = (struct fast_live_cell){row[i].sm_pct, row[i].quota_milli, llround(row[i].rps * 1e3),
                                          llround(row[i].p95_ms * 1e6), llround(row[i].p99_ms * 1e6),
                                          (int)row[i].spans, (int)row[i].latency_spans,
                                          FAST_S(row[i].seen_s)};
    struct fast_live_drift d = {drift.milli > 0, drift.milli, FAST_S(drift.since_s)};
    fast_live_restore(l->live, cell, n, &d);
}

/* How many inputs its requests have: the trials of others say nothing of it. */
static int batch_of(const struct gw_spec *spec)
{
    const char *text = gw_spec_map(spec, "annotations", "has-gpu/batch_size");
    int64_t n;
    return text && !fast_parse_int(text, "has-gpu/batch_size", 1, 1 << 20, &n, NULL) ? (int)n : 1;
}

/* The trials of this very version, else what was imported; NULL: neither. */
static struct gw_live *load(struct gw_profiles *p, const struct gw_spec *spec)
{
    char key[KEY_MAX], version[FAST_TRIAL_VERSION_MAX];
    fast_autofree struct fast_trial *rows = calloc(FAST_TRIALS_MAX, sizeof(*rows));
    struct fast_live_trial trial[FAST_TRIALS_MAX];
    struct gw_live *l = calloc(1, sizeof(*l));
    struct fast_err err = {0};
    int n = 0, r = 0;
    if (!rows || !l) {
        free(l);
        return NULL;
    }
    key_of(spec, key);
    fast_trials_version(spec->json, version);
    for (int i = 0; i < 2 && !r && !l->trials; i++) {
        snprintf(l->version, sizeof(l->version), "%s", i ? FAST_TRIALS_IMPORTED : version);
        r = fast_trials_get(p->db, key, l->version, batch_of(spec), rows, &n, &err);
        l->trials = r ? 0 : usable(rows, n, trial);
    }
    if (!r && l->trials)
        r = fast_live_new(trial, l->trials, &l->live, &err);
    if (r)
        fast_log(WARN, "cannot read a profile", "function=%s why=\"%s\"", key, err.msg);
    if (!l->live) {
        free(l);
        return NULL;
    }
    restore(p, key, l);
    return l;
}

static struct fast_profile *table(const struct gateway *gw, struct gw_live *l, struct fast_err *err)
{
    struct fast_profile_point point[FAST_PREDICT_POINTS_MAX];
    struct fast_profile *ret = NULL;
    int n = fast_live_points(l->live, point, FAST_PREDICT_POINTS_MAX);
    fast_ns window = gw->window_ns ? gw->window_ns : FAST_WINDOW_DEFAULT;
    l->used_spans = fast_live_spans(l->live);
    if (fast_predict_table(point, n, window, UNCERTAINTY_MAX_MILLI, &ret, &l->mean_milli, err))
        return NULL;
    return ret;
}

int gw_profiles_attach(struct gateway *gw, struct gw_spec *spec, struct fast_err *err)
{
    struct gw_live *l = spec->gpus == 1 ? load(gw->profiles, spec) : NULL;
    if (!l)
        return 0;
    struct fast_profile *t = table(gw, l, err);
    gw_live_free(l);
    return t ? gw_spec_use_profile(spec, t, true, err) : -FAST_EINVAL;
}

/* The table of |fn| anew: its trials have changed, or live requests have. */
static void use(struct gateway *gw, struct gw_function *fn)
{
    struct fast_err err = {0};
    struct fast_profile *t = table(gw, fn->live, &err);
    if (!t) {
        fast_log(WARN, "cannot use a profile", "function=%s why=\"%s\"", fn->spec->name, err.msg);
        return;
    }
    gw_spec_use_profile(fn->spec, t, false, NULL);
    for (struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->fn == fn)
            r->rps_milli = 0; /* as the table says from now on */
}

static void reload(struct gateway *gw, struct gw_function *fn)
{
    gw_live_free(fn->live);
    fn->live = fn->spec->gpu && fn->spec->gpus == 1 ? load(gw->profiles, fn->spec) : NULL;
    fn->spec->profile_seen = true;
    if (!fn->live)
        return;
    use(gw, fn);
    fast_log(INFO, "profile", "function=%s.%s version=%s trials=%d uncertainty_milli=%d",
             fn->spec->name, fn->spec->ns, fn->live->version, fn->live->trials,
             fn->live->mean_milli);
}

/* ---- from live requests ---- */

static fast_ns waiting_ns(const struct gw_replica *r, fast_ns now)
{
    return r->waiting_ns + (r->waiting_since ? now - r->waiting_since : 0);
}

void gw_replica_count_flight(struct gw_replica *r, int delta, fast_ns now)
{
    r->in_flight += delta;
    if (r->in_flight >= 2 && !r->waiting_since) {
        r->waiting_since = now;
    } else if (r->in_flight < 2 && r->waiting_since) {
        r->waiting_ns += now - r->waiting_since;
        r->waiting_since = 0;
    }
}

static int64_t good_answers(const struct gw_replica *r)
{
    return (int64_t)r->stats.requests - (int64_t)r->stats.failures;
}

static void begin_span(struct gw_replica *r, fast_ns now)
{
    r->span = (struct gw_span){now, waiting_ns(r, now), good_answers(r), r->node_stats.busy_ns,
                               r->stats.failures, r->restarts};
}

static void report(const struct gw_function *fn)
{
    struct fast_live_drift d = fast_live_drift(fn->live->live);
    if (d.drifting)
        fast_log(WARN, "profile drift", "function=%s.%s throughput=%d%%_of_trials next=\"fast profile "
                 "%s --fresh\"", fn->spec->name, fn->spec->ns, d.ratio_milli / 10, fn->spec->name);
    else
        fast_log(INFO, "profile drift over", "function=%s.%s", fn->spec->name, fn->spec->ns);
}

static void save(struct gateway *gw, struct gw_function *fn)
{
    struct gw_live *l = fn->live;
    struct fast_live_cell cell[FAST_LIVE_CELLS];
    struct fast_trial_live row[FAST_LIVE_CELLS];
    struct fast_live_drift d = fast_live_drift(l->live);
    struct fast_trial_drift drift = {d.drifting ? d.ratio_milli : 0, d.since / FAST_S(1)};
    struct fast_err err;
    char key[KEY_MAX];
    int n = fast_live_cells(l->live, cell);
    for (int i = 0; i < n; i++)
        row[i] = (struct fast_trial_live){cell[i].sm_pct, cell[i].quota_milli,
                                          (double)cell[i].rps_milli * 1e-3,
                                          (double)cell[i].p95_ns * 1e-6, (double)cell[i].p99_ns * 1e-6,
                                          cell[i].spans, cell[i].latency_spans,
                                          cell[i].seen / FAST_S(1)};
    key_of(fn->spec, key);
    if (fast_trials_live_put(gw->profiles->db, key, l->version, row, n, &drift, &err))
        fast_log(WARN, "cannot store what live requests say", "function=%s why=\"%s\"", key, err.msg);
    else
        l->saved_spans = fast_live_spans(l->live);
}

/* A replica that was busy with other things (restarted, failing, of an uneven slice) says nothing. */
static void observe(struct gateway *gw, struct gw_replica *r)
{
    fast_ns now = fast_loop_now(gw->loop), length = now - r->span.began;
    if (!gw_replica_is_ready(r) || r->slice.request_milli != r->slice.limit_milli ||
        r->restarts != r->span.restarts || r->stats.failures != r->span.failures || !r->span.began) {
        begin_span(r, now);
        return;
    }
    int64_t answers = good_answers(r) - r->span.answers;
    if (length < SPAN_MIN || (answers < FAST_LIVE_ANSWERS_MIN && length < SPAN_MAX))
        return;
    struct fast_live_span s = {.sm_pct = r->slice.sm_pct, .quota_milli = r->slice.request_milli,
                               .now = fast_clock_wall(), .length = length, .answers = answers,
                               .waiting_ns = waiting_ns(r, now) - r->span.waiting_ns,
                               .gpu_ns = r->node_stats.busy_ns - r->span.gpu_ns,
                               .p95_ns = gw_stats_quantile(&r->stats, 950, now),
                               .p99_ns = gw_stats_quantile(&r->stats, 990, now)};
    begin_span(r, now);
    if (fast_live_add(r->fn->live->live, &s)) {
        report(r->fn);
        use(gw, r->fn);
        save(gw, r->fn); /* `fast profile show` reads it there */
    }
}

void gw_profiles_tick(struct gateway *gw)
{
    fast_ns now = fast_loop_now(gw->loop);
    bool changed = fast_trials_changed(gw->profiles->db), due = now - gw->profiles->saved >= SAVE_EVERY;
    for (struct gw_function *fn = changed || gw->specs_changed ? gw->functions : NULL; fn; fn = fn->next)
        if (!fn->removed && (changed || !fn->spec->profile_seen))
            reload(gw, fn);
    gw->specs_changed = false;
    for (struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->fn->live && !r->fn->removed)
            observe(gw, r);
    if (!due)
        return;
    gw->profiles->saved = now;
    for (struct gw_function *fn = gw->functions; fn; fn = fn->next) {
        if (fn->removed || !fn->live)
            continue;
        int spans = fast_live_spans(fn->live->live);
        if (spans != fn->live->saved_spans)
            save(gw, fn);
        if (spans != fn->live->used_spans)
            use(gw, fn);
    }
}

/* ---- what is shown ---- */

json_t *gw_profiles_json(const struct gw_function *fn)
{
    const struct gw_live *l = fn->live;
    if (!l)
        return fn->spec->profile ? json_pack("{s:s}", "source", fn->spec->profile_measured ? "forgotten" : "file")
                                 : NULL;
    struct fast_live_drift d = fast_live_drift(l->live);
    bool imported = !strcmp(l->version, FAST_TRIALS_IMPORTED);
    json_t *o = json_pack("{s:s, s:s, s:i, s:f, s:i, s:b}", "source",
                          imported ? "imported" : "measured", "version", l->version, "trials",
                          l->trials, "uncertainty", l->mean_milli * 1e-3, "liveSpans",
                          fast_live_spans(l->live), "drifting", d.drifting);
    if (d.drifting) {
        json_object_set_new(o, "throughputRatio", json_real(d.ratio_milli * 1e-3));
        json_object_set_new(o, "driftingSince", json_integer(d.since / FAST_S(1)));
    }
    return o;
}
