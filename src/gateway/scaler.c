/* Carries out what core/scale.h decides, once a second, and keeps what runs equal to what is
 * wanted. A refusal (no room, no configuration that is fast enough) is kept for people to see and
 * tried again at the next tick. Functions of a higher priority are seen to first. */

#include "gateway/scaling.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define ACTIONS_MAX 16
#define START_DEFAULT FAST_S(2) /* until one has been seen */
#define START_MAX FAST_S(60)
#define SECONDS_MAX 60 /* that are caught up with */
#define SLEEP_MAX 3600 /* seconds of a sleep: the forecast looks back less far */
#define CAPACITY_SECONDS 45 /* as OpenFaaS looks at requests in flight */
#define RUSH 4         /* requests for each that serves, and one */
#define RUSH_PAUSE FAST_MS(300)
#define RUNNING_MIN FAST_MS(200) /* less of a second is mostly chance */

/* ---- what is known ---- */

static struct gw_scaling *scaling_of(struct gateway *gw, struct gw_function *fn)
{
    if (!fn->scaling) {
        fn->scaling = calloc(1, sizeof(*fn->scaling));
        if (!fn->scaling)
            return NULL;
        fn->scaling->second_at = fast_loop_now(gw->loop);
        fn->scaling->seen = fn->stats.started;
        fn->scaling->start_ns = START_DEFAULT;
    }
    return fn->scaling;
}

void gw_scaling_free(struct gw_scaling *s)
{
    if (!s)
        return;
    fast_scale_records_fini(&s->records);
    free(s);
}

/* Nothing came while it slept, and what woke it came in the last second. */
static void observe_sleep(struct gw_scaling *s, fast_ns now)
{
    for (int i = 0; now - s->second_at >= FAST_S(2) && i < SLEEP_MAX; i++, s->second_at += FAST_S(1))
        fast_scale_load_second(&s->load, 0, 0);
    if (now - s->second_at >= FAST_S(2))
        s->second_at = now - FAST_S(1);
}

/* Seconds that are over. Ticks come about once a second; one that is late counts for all it missed. */
static void observe(struct gw_function *fn, struct gw_scaling *s, fast_ns now)
{
    int busy = fast_balance_in_flight(&fn->balance) + fn->queue.n;
    if (fn->slept)
        observe_sleep(s, now);
    fn->slept = false;
    for (int i = 0; now - s->second_at >= FAST_S(1) && i < SECONDS_MAX; i++) {
        uint64_t seconds = (uint64_t)((now - s->second_at) / FAST_S(1));
        uint64_t part = (fn->stats.started - s->seen) / seconds;
        s->seen += part;
        s->second_at += FAST_S(1);
        fast_scale_load_second(&s->load, (uint32_t)part, busy);
    }
}

static int collect(const struct gw_function *fn, struct gw_scaling *s, struct fast_scale_replica *list,
                   int *ret_serving)
{
    int n = 0;
    fast_ns slowest = 0;
    *ret_serving = 0;
    for (int i = 0; i < fn->balance.n; i++) { /* all of it that are not gone */
        const struct gw_replica *r = gw_replica_of(fn, i);
        if (!gw_replica_is_live(r))
            continue;
        bool ready = gw_replica_is_ready(r);
        list[n++] = (struct fast_scale_replica){.id = r->key,
                                                .sm_pct = r->slice.sm_pct,
                                                .quota_milli = r->slice.request_milli,
                                                .rps_milli = r->rps_milli,
                                                .starting = !ready};
        *ret_serving += ready;
        if (ready && FAST_MS((fast_ns)r->up_ms) > slowest)
            slowest = FAST_MS((fast_ns)r->up_ms);
    }
    if (slowest)
        s->start_ns = slowest < START_MAX ? slowest : START_MAX;
    return n;
}

/* By how much quotas can be raised where they are. Asked only when somebody has to be raised, since it
 * tries them out. */
static void find_room(struct gateway *gw, const struct gw_function *fn, struct fast_scale_replica *list, int n)
{
    for (int i = 0, k = 0; i < fn->balance.n && k < n; i++) {
        struct gw_replica *r = gw_replica_of(fn, i);
        if (gw_replica_is_live(r))
            list[k++].room_milli = r->in_fleet ? gw_elastic_room(gw, r) : 0;
    }
}

/* ---- telling ---- */

void gw_scaling_keep(struct gw_function *fn, const struct fast_scale_record *record)
{
    static const char *const words[] = {"start", "stop", "resize"};
    const struct fast_scale_did *d = &record->did[0];
    fast_scale_records_add(&fn->scaling->records, record);
    const struct fast_scale_record *last = fast_scale_records_get(&fn->scaling->records, 0);
    snprintf(fn->decided, sizeof(fn->decided), "%s: %.120s", words[d->action.kind], d->action.reason);
    if (last && last->times > 1)
        return; /* the same could not be done a second ago, too: it has been logged */
    for (int i = 0; i < record->nactions && i < FAST_RECORD_ACTIONS; i++, d++)
        fast_log(INFO, "decision",
                 "function=%s.%s cause=%s policy=%s do=%s sm=%d quota=%d.%03d replicas=%d why=\"%s\"%s%s%s",
                 fn->spec->name, fn->spec->ns, record->cause, record->policy, words[d->action.kind],
                 d->action.sm_pct, d->action.quota_milli / 1000, d->action.quota_milli % 1000,
                 fn->desired, d->action.reason, *d->outcome ? " refused=\"" : "", d->outcome,
                 *d->outcome ? "\"" : "");
}

void gw_scaling_note(struct gateway *gw, struct gw_function *fn, const char *cause,
                     enum fast_scale_kind kind, uint64_t id, const char *reason)
{
    struct fast_scale_record record = {.wall_ns = fast_clock_wall(), .policy = "-", .cause = cause,
                                       .trace = {.late_milli = -1}, .nactions = 1};
    if (!scaling_of(gw, fn))
        return;
    record.replicas = fn->desired;
    record.did[0].action.kind = kind;
    record.did[0].action.id = id;
    snprintf(record.did[0].action.reason, sizeof(record.did[0].action.reason), "%s", reason);
    gw_scaling_keep(fn, &record);
}

/* ---- carrying out ---- */

static int start_one(struct gateway *gw, struct gw_function *fn, const struct fast_scale_action *a,
                     struct fast_err *err)
{
    struct fast_slice slice = fn->spec->slice;
    bool profiled = fn->spec->profile && a->sm_pct;
    if (profiled) {
        slice.sm_pct = a->sm_pct;
        slice.request_milli = a->quota_milli;
        slice.limit_milli = gw_spec_limit(fn->spec, a->quota_milli);
    }
    int r = gw_replica_new(gw, fn, &slice, profiled ? a->rps_milli : 0, err);
    if (r == -FAST_ENOROOM && gw_move_room(gw, fn, &slice))
        fast_err_wrap(err, "others are moved to make room");
    else if (r == -FAST_ENOROOM && gw_give_way(gw, fn, &slice))
        fast_err_wrap(err, "others give way");
    if (!r) {
        fn->desired++;
        fn->last_up = fast_loop_now(gw->loop);
    }
    return r;
}

static int resize_one(struct gateway *gw, struct gw_function *fn, struct gw_replica *r,
                      const struct fast_scale_action *a, struct fast_err *err)
{
    struct fast_slice slice = r->slice;
    bool up = a->quota_milli > slice.request_milli;
    slice.request_milli = a->quota_milli;
    slice.limit_milli = gw_spec_limit(fn->spec, a->quota_milli);
    int rc = gw_replica_resize(gw, r, &slice, err);
    if (rc)
        return rc;
    r->rps_milli = a->rps_milli;
    r->span.began = 0; /* what its profile learns begins anew */
    *(up ? &fn->last_up : &fn->last_down) = fast_loop_now(gw->loop);
    return 0;
}

static int carry_out(struct gateway *gw, struct gw_function *fn, const struct fast_scale_action *a,
                     struct fast_err *err)
{
    struct gw_replica *r = gw->replicas;
    if (a->kind == FAST_SCALE_START)
        return start_one(gw, fn, a, err);
    while (r && r->key != a->id)
        r = r->next;
    if (!r)
        return fast_err_set(err, FAST_ENOENT, "it has gone meanwhile");
    if (a->kind == FAST_SCALE_RESIZE)
        return resize_one(gw, fn, r, a, err);
    fn->desired--;
    gw_replica_drain(gw, r);
    fn->last_down = fast_loop_now(gw->loop);
    return 0;
}

static void carry_all(struct gateway *gw, struct gw_function *fn,
                      const struct fast_scale_action *actions, int n)
{
    struct fast_scale_record *record = &fn->scaling->latest;
    struct fast_err err;
    int desired = fn->desired;
    for (int i = 0; i < n; i++) {
        int rc = carry_out(gw, fn, &actions[i], &err);
        if (rc)
            snprintf(fn->trouble, sizeof(fn->trouble), "%s", err.msg);
        if (i < FAST_RECORD_ACTIONS) {
            record->did[i].action = actions[i];
            snprintf(record->did[i].outcome, sizeof(record->did[i].outcome), "%.199s", rc ? err.msg : "");
        }
    }
    record->nactions = n;
    if (!n)
        return;
    gw_scaling_keep(fn, record);
    if (desired != fn->desired && gw_function_save(gw, fn, &err))
        fast_log(WARN, "cannot store a scaling", "why=\"%s\"", err.msg);
}

/* ---- deciding ---- */

static void set_record(struct gw_scaling *s, const struct gateway *gw, const struct gw_function *fn,
                       const struct fast_scale_conf *conf, const struct fast_scale_input *in, int serving)
{
    bool profiled = fn->spec->profile && fn->spec->slo;
    s->latest = (struct fast_scale_record){
        .wall_ns = fast_clock_wall(), .times = 1, .cause = "load",
        .policy = profiled || conf->policy != FAST_SCALE_TARGET ? fast_scaler_name(gw->conf->scaler)
                                                                : "target",
        .load_milli = in->load_milli, .expected_milli = in->expected_milli,
        .burst_milli = in->burst_milli, .calm_milli = in->calm_milli, .queued = in->queued,
        .replicas = in->nreplicas, .serving = serving, .start_ns = s->start_ns, .trace = *in->trace};
}

/* Between two ticks the second that runs counts too, once enough of it has passed. */
static void add_running_second(const struct gw_function *fn, const struct gw_scaling *s,
                               struct fast_scale_input *in)
{
    fast_ns part = in->now - s->second_at;
    if (part < RUNNING_MIN)
        return;
    int64_t rate = (int64_t)(fn->stats.started - s->seen) * FAST_S(1) / part * 1000;
    in->load_milli = rate > in->load_milli ? rate : in->load_milli;
    in->expected_milli = rate > in->expected_milli ? rate : in->expected_milli;
}

static void scale(struct gateway *gw, struct gw_function *fn, struct gw_scaling *s)
{
    struct fast_scale_conf conf;
    struct fast_scale_action actions[ACTIONS_MAX];
    struct fast_scale_trace trace;
    struct fast_err err;
    fast_ns now = fast_loop_now(gw->loop);
    int serving = 0;
    gw_spec_scale(fn->spec, gw->conf->scaler, &conf);
    if (fn->desired == 0 && !fn->queue.n)
        return; /* scaled to zero, or set to it: a request wakes it */
    if (conf.policy == FAST_SCALE_HYBRID && s->ticks++ % 2)
        return;
    fast_autofree struct fast_scale_replica *list = malloc(sizeof(*list) * (size_t)(fn->balance.n + 1));
    if (!list)
        return; /* again in a second */
    if (fn->desired > conf.max)
        conf.max = fn->desired; /* set by hand above what the scaler may reach by itself */
    fast_ns idle_from = fn->stats.last > fn->wanted_at ? fn->stats.last : fn->wanted_at;
    struct fast_scale_input in = {.now = now, .last_up = fn->last_up, .last_down = fn->last_down,
                                  .last_request = fn->jobs ? now : idle_from,
                                  .profile = fn->spec->profile, .replicas = list, .trace = &trace};
    bool whole = gw->conf->scaler == FAST_SCALER_WHOLE && fn->spec->gpu;
    in.nreplicas = collect(fn, s, list, &serving);
    int waiting = fast_balance_in_flight(&fn->balance) - serving;
    in.queued = fn->queue.n + (waiting > 0 ? waiting : 0);
    fast_scale_load_tell(&s->load, &conf, whole, s->start_ns, &in);
    if (conf.policy == FAST_SCALE_QUEUE)
        add_running_second(fn, s, &in);
    if (conf.policy == FAST_SCALE_TARGET && !whole)
        in.load_milli = fn->spec->by_capacity ? fast_scale_load_in_flight(&s->load, CAPACITY_SECONDS)
                                              : gw_stats_rate_milli(&fn->stats, now);
    if (whole)
        in.profile = NULL; /* it would be asked for a throughput */
    int n = fast_scale_decide(&conf, &in, actions, ACTIONS_MAX, &err);
    if (n >= 0 && trace.needs_room) {
        find_room(gw, fn, list, in.nreplicas);
        n = fast_scale_decide(&conf, &in, actions, ACTIONS_MAX, &err);
    }
    set_record(s, gw, fn, &conf, &in, serving);
    if (n < 0)
        snprintf(fn->trouble, sizeof(fn->trouble), "%s", err.msg);
    carry_all(gw, fn, actions, n > 0 ? n : 0);
}

/* ---- every second ---- */

static void tick_function(struct gateway *gw, struct gw_function *fn)
{
    if (gw_spec_is_scaled(fn->spec)) {
        struct gw_scaling *s = scaling_of(gw, fn);
        if (s) {
            observe(fn, s, fast_loop_now(gw->loop));
            scale(gw, fn, s);
        }
    }
    gw_function_reconcile(gw, fn);
}

/* More wait than those that serve could have in hand, and nothing has been done about it just now. */
static bool is_rush(const struct gw_function *fn, fast_ns now)
{
    int serving = fast_balance_ready(&fn->balance);
    int busy = fast_balance_in_flight(&fn->balance) + (int)fn->queue.n;
    return serving && busy >= RUSH * (serving + 1) && now - fn->last_up >= RUSH_PAUSE &&
           now - fn->scaling->rushed_at >= RUSH_PAUSE;
}

void gw_scaler_rush(struct gateway *gw)
{
    fast_ns now = fast_loop_now(gw->loop);
    if (!gw->jobs || gw->conf->scaler != FAST_SCALER_QUEUE || !gw_link_synced(gw->link))
        return;
    for (struct gw_function *fn = gw->awake, *next; fn; fn = next) {
        next = fn->awake_next;
        if (fn->removed || !fn->jobs || !fn->scaling || !fn->spec->profile || !fn->spec->slo ||
            !gw_spec_is_scaled(fn->spec) || !is_rush(fn, now))
            continue;
        fn->scaling->rushed_at = now;
        scale(gw, fn, fn->scaling);
    }
}

static bool is_asleep(const struct gw_function *fn)
{
    return !fn->desired && !fn->nreplicas && !fn->jobs;
}

void gw_scaler_tick(struct gateway *gw)
{
    int level = INT_MAX;
    if (!gw_link_synced(gw->link))
        return;
    for (struct gw_function *fn = gw->awake, *next; fn; fn = next) {
        next = fn->awake_next;
        if (is_asleep(fn))
            gw_function_sleep(gw, fn);
    }
    for (;;) {
        int next_level = INT_MIN;
        for (const struct gw_function *fn = gw->awake; fn; fn = fn->awake_next)
            if (!fn->removed && fn->spec->priority < level && fn->spec->priority > next_level)
                next_level = fn->spec->priority;
        if (next_level == INT_MIN)
            return;
        level = next_level;
        for (struct gw_function *fn = gw->awake, *next; fn; fn = next) {
            next = fn->awake_next;
            if (!fn->removed && fn->spec->priority == level)
                tick_function(gw, fn);
        }
    }
}
