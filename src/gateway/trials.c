/* Decides when a trial of `fast profile` has to go. A trial is a function like any other, with a label
 * that says whose it is; it runs on what is free, so that it is the first to go when something live has
 * no room, and nobody misses it when its profiler is gone. */

#include "gateway/gateway.h"

#include <string.h>

#include "base/log.h"

#define TRIALS_MAX 16
#define IDLE_MAX FAST_S(120) /* its profiler sends the first request within 60 s, and then always one */

/* Back to where it was, unless somebody has taken its place meanwhile. */
static bool put_back(struct gateway *gw, struct gw_replica *r)
{
    if (gw_replica_put_back(gw, r))
        return true;
    gw_replica_take_out(gw, r);
    return false;
}

/* Stopped at once: what it still has in flight is load of the profiler, who learns from the trial's
 * absence that it measured nothing. The function itself goes at the next tick, since callers may be
 * walking over the functions. */
static void stop(struct gateway *gw, struct gw_replica *r, const struct gw_spec *for_whom)
{
    struct gw_function *fn = r->fn;
    struct fast_err err;
    fast_log(INFO, "trial gives way", "trial=%s for=%s.%s", r->id, for_whom->name, for_whom->ns);
    if (!fn->yielded) {
        fn->jobs++;
        fn->yielded = true;
    }
    gw_replica_cut(gw, r);
    if (!fn->removed && gw_function_remove(gw, fn, &err))
        fast_log(WARN, "cannot remove a trial", "name=%s why=\"%s\"", fn->spec->name, err.msg);
}

int gw_trials_make_room(struct gateway *gw, const struct gw_spec *spec, gw_attempt *attempt, void *arg,
                        struct fast_err *err)
{
    struct gw_replica *out[TRIALS_MAX];
    int n = 0, rc = attempt(gw, arg, err);
    if (rc != -FAST_ENOROOM || gw_spec_is_trial(spec))
        return rc;
    for (struct gw_replica *r = gw->replicas; r && n < TRIALS_MAX && rc == -FAST_ENOROOM; r = r->next) {
        if (!r->in_fleet || !r->fn->trial)
            continue;
        gw_replica_take_out(gw, r);
        out[n++] = r;
        rc = attempt(gw, arg, err);
    }
    /* Those that were not in the way stay, and all of them where nobody was placed. */
    for (int i = 0; i < n; i++)
        if (!put_back(gw, out[i]))
            stop(gw, out[i], spec);
    return rc;
}

void gw_trials_tick(struct gateway *gw)
{
    struct fast_err err;
    for (struct gw_function *fn = gw->ntrials ? gw->functions : NULL, *next; fn; fn = next) {
        next = fn->next;
        if (fn->yielded) {
            fn->yielded = false;
            fn->jobs--;
            gw_function_release(gw, fn);
            continue;
        }
        if (fn->removed || !fn->trial)
            continue;
        fast_ns quiet = fast_clock_wall() - fn->created_ns;
        if (fn->stats.last && fast_loop_now(gw->loop) - fn->stats.last < quiet)
            quiet = fast_loop_now(gw->loop) - fn->stats.last;
        /* One of an earlier life of this program has been cut off from its profiler. */
        if (fn->created_ns >= gw->started_ns && (fn->jobs || quiet < IDLE_MAX))
            continue;
        fast_log(INFO, "forgotten trial removed", "name=%s.%s", fn->spec->name, fn->spec->ns);
        if (gw_function_remove(gw, fn, &err))
            fast_log(WARN, "cannot remove a trial", "name=%s why=\"%s\"", fn->spec->name, err.msg);
    }
}
