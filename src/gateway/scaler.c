/* Carries out what core/scale.h decides, once a second, and keeps what runs equal to what is
 * wanted. A refusal (no room, no configuration that is fast enough) is kept for people to see and
 * tried again at the next tick. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define REPLICAS_MAX 256
#define ACTIONS_MAX 16

static int collect(const struct gateway *gw, const struct gw_function *fn,
                   struct fast_scale_replica *list)
{
    int n = 0;
    for (const struct gw_replica *r = gw->replicas; r && n < REPLICAS_MAX; r = r->next)
        if (r->fn == fn && gw_replica_is_live(r))
            list[n++] = (struct fast_scale_replica){.id = r->key,
                                                    .sm_pct = r->slice.sm_pct,
                                                    .quota_milli = r->slice.request_milli,
                                                    .rps_milli = r->rps_milli};
    return n;
}

static int start_one(struct gateway *gw, struct gw_function *fn, const struct fast_scale_action *a,
                     struct fast_err *err)
{
    struct fast_slice slice = fn->spec->slice;
    if (fn->spec->profile) {
        slice.sm_pct = a->sm_pct;
        slice.request_milli = slice.limit_milli = a->quota_milli;
    }
    return gw_replica_new(gw, fn, &slice, fn->spec->profile ? a->rps_milli : 0, err);
}

static void carry_out(struct gateway *gw, struct gw_function *fn, const struct fast_scale_action *a)
{
    struct fast_err err;
    if (a->kind == FAST_SCALE_START) {
        if (start_one(gw, fn, a, &err)) {
            snprintf(fn->trouble, sizeof(fn->trouble), "%s", err.msg);
            return;
        }
        fn->desired++;
        fn->last_up = fast_loop_now(gw->loop);
    } else {
        struct gw_replica *r = gw->replicas;
        while (r && r->key != a->id)
            r = r->next;
        if (!r)
            return;
        fn->desired--;
        gw_replica_drain(gw, r);
        fn->last_down = fast_loop_now(gw->loop);
    }
    snprintf(fn->decided, sizeof(fn->decided), "%s: %.120s",
             a->kind == FAST_SCALE_START ? "start" : "stop", a->reason);
    fast_log(INFO, "scaled", "function=%s.%s replicas=%d %s", fn->spec->name, fn->spec->ns,
             fn->desired, fn->decided);
    if (gw_function_save(gw, fn, &err))
        fast_log(WARN, "cannot store a scaling", "why=\"%s\"", err.msg);
}

/* Load is what comes in, served or waiting; the balance of both is the scaler's business. */
static void scale(struct gateway *gw, struct gw_function *fn)
{
    struct fast_scale_conf conf;
    struct fast_scale_replica list[REPLICAS_MAX];
    struct fast_scale_action actions[ACTIONS_MAX];
    struct fast_err err;
    fast_ns now = fast_loop_now(gw->loop);
    gw_spec_scale(fn->spec, &conf);
    if (fn->desired == 0 && !fn->queue.n)
        return; /* scaled to zero, or set to it: a request wakes it */
    if (fn->desired > conf.max)
        conf.max = fn->desired; /* set by hand above what the scaler may reach by itself */
    struct fast_scale_input in = {.now = now,
                                  .load_milli = gw_stats_rate_milli(&fn->stats, now),
                                  .last_request = fn->jobs ? now : fn->stats.last,
                                  .last_up = fn->last_up,
                                  .last_down = fn->last_down,
                                  .profile = fn->spec->profile,
                                  .replicas = list,
                                  .nreplicas = collect(gw, fn, list)};
    int n = fast_scale_decide(&conf, &in, actions, ACTIONS_MAX, &err);
    if (n < 0)
        snprintf(fn->trouble, sizeof(fn->trouble), "%s", err.msg);
    for (int i = 0; i < n; i++)
        carry_out(gw, fn, &actions[i]);
}

void gw_scaler_tick(struct gateway *gw)
{
    if (!gw_link_synced(gw->link))
        return;
    for (struct gw_function *fn = gw->functions, *next; fn; fn = next) {
        next = fn->next;
        if (fn->removed)
            continue;
        if (gw_spec_is_scaled(fn->spec))
            scale(gw, fn);
        gw_function_reconcile(gw, fn);
    }
}
