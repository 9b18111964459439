/* Decides when replicas go to another GPU: when somebody asks for it (GET and POST /system/defrag), or when a
 * replica has no place only because what is free lies on several GPUs. A move starts a copy where the plan
 * says, waits until it is ready, and only then has the replica end what it has and stop.
 *
 * It assumes that a copy is nobody until it takes over: gw_replica_is_live() says no, so neither the scaler
 * nor reconciling sees it, though it may serve. A gateway that starts anew takes it for a replica like any
 * other, finds one too many and stops one, so that nothing about moves has to be written down. */

#include "gateway/scaling.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define START_MAX FAST_S(120) /* for a copy to become ready */
#define PAUSE_MIN FAST_S(5)   /* between two plans that make room */
#define PAUSE_MAX FAST_S(300)

static struct gw_replica *find_key(struct gateway *gw, uint64_t key)
{
    struct gw_replica *r = gw->replicas;
    while (r && (r->key != key || r->phase == GW_GONE))
        r = r->next;
    return r;
}

int gw_gpu_of(const struct gateway *gw, int fleet)
{
    for (int i = 0; i < gw->ngpus; i++)
        if (gw->gpus[i].fleet == fleet)
            return (int)gw->gpus[i].row.gpu;
    return -1;
}

int gw_moves_active(const struct gateway *gw)
{
    int n = 0;
    for (int i = 0; i < gw->moves.n; i++)
        n += gw->moves.move[i].state < GW_MOVE_MOVED;
    return n;
}

/* ---- plans ---- */

static bool is_movable(const struct gw_replica *r)
{
    return gw_replica_is_live(r) && gw_replica_is_ready(r) && !r->suspect_until && !r->gives_way &&
           !gw_spec_map(r->fn->spec, "labels", "fastgshare/trial");
}

static bool all_movable(struct gateway *gw, const struct fast_move *moves, int n)
{
    for (int i = 0; i < n; i++) {
        const struct gw_replica *r = find_key(gw, moves[i].replica);
        if (!r || !is_movable(r))
            return false;
    }
    return true;
}

/* Plans are made as if all quotas were held: who is idle wants his again where he goes to. */
int gw_move_plan(struct gateway *gw, struct fast_move *ret, struct fast_defrag *ret_worth, struct fast_err *err)
{
    gw_elastic_all(gw, true);
    int r = fast_fleet_defrag(gw->fleet, GW_MOVES_MAX, UINT64_MAX, ret, ret_worth, err);
    gw_elastic_all(gw, false);
    return r;
}

/* Moves after which |count| replicas have a place, if all but one have one now. */
static int plan_room(struct gateway *gw, const struct gw_spec *spec, const struct fast_slice *slice, int count,
                     struct fast_move *ret)
{
    struct fast_want want;
    struct fast_placed placed;
    struct fast_defrag worth = {0};
    int n = 0, r;
    const struct fast_slice s = gw_replica_slice(gw, slice);
    if (!spec->gpu || spec->gpus > 1 || !gw->conf->moves_max)
        return 0;
    gw_replica_want(gw, &s, &want);
    gw_models_want(gw, spec, &want);
    gw_company_want(gw, spec, &want);
    gw_elastic_all(gw, true);
    while (n < count - 1 && !fast_fleet_place(gw->fleet, gw->next_key + (uint64_t)n, &want, &placed, NULL))
        n++;
    r = n == count - 1 ? fast_fleet_make_room(gw->fleet, &want, gw->conf->moves_max, ret, &worth, NULL) : -1;
    while (n > 0)
        fast_fleet_remove(gw->fleet, gw->next_key + (uint64_t)--n, NULL);
    gw_elastic_all(gw, false);
    return !r && all_movable(gw, ret, worth.nmoves) ? worth.nmoves : 0;
}

bool gw_move_check(struct gateway *gw, const struct gw_spec *spec, int count)
{
    struct fast_move moves[GW_MOVES_MAX];
    return plan_room(gw, spec, &spec->slice, count, moves) > 0;
}

bool gw_move_room(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice)
{
    struct fast_move moves[GW_MOVES_MAX];
    struct gw_moves *all = &gw->moves;
    char cause[FAST_SCALE_REASON];
    fast_ns now = fast_loop_now(gw->loop);
    if (gw_moves_active(gw))
        return all->fn == fn;
    if (now < all->not_before)
        return false;
    int n = plan_room(gw, fn->spec, slice, 1, moves);
    snprintf(cause, sizeof(cause), "room for %.60s", fn->spec->name);
    if (!n || gw_move_begin(gw, moves, n, cause, fn, NULL))
        return false;
    all->pause = all->pause ? all->pause : PAUSE_MIN;
    all->not_before = now + all->pause;
    snprintf(cause, sizeof(cause), "no GPU has room for it: %d of others move first", n);
    gw_scaling_note(gw, fn, "room", FAST_SCALE_START, 0, cause);
    return true;
}

/* ---- carrying out ---- */

static void give_up(struct gateway *gw, struct gw_move *m, const char *why)
{
    struct gw_replica *copy = find_key(gw, m->copy_key), *r = find_key(gw, m->replica_key);
    struct gw_moves *all = &gw->moves;
    char note[FAST_SCALE_REASON];
    m->state = GW_MOVE_GIVEN_UP;
    snprintf(m->why, sizeof(m->why), "%.150s", why);
    fast_log(WARN, "move given up", "replica=%s copy=%s from=%d to=%d why=\"%s\"", m->replica, m->copy, m->from,
             m->to, m->why);
    all->given_up++;
    all->pause = all->pause ? 2 * all->pause : PAUSE_MIN;
    all->pause = all->pause < PAUSE_MAX ? all->pause : PAUSE_MAX;
    all->not_before = fast_loop_now(gw->loop) + all->pause;
    snprintf(note, sizeof(note), "it stays where it is: %.80s", m->why);
    if (r && !r->fn->removed)
        gw_scaling_note(gw, r->fn, "move", FAST_SCALE_STOP, m->copy_key, note);
    if (copy)
        gw_replica_drain(gw, copy);
}

static void begin_one(struct gateway *gw, struct gw_move *m, const struct fast_move *plan, const char *cause)
{
    char why[FAST_SCALE_REASON];
    struct fast_err err;
    struct gw_replica *r = find_key(gw, plan->replica), *copy = NULL;
    *m = (struct gw_move){.replica_key = plan->replica, .from = gw_gpu_of(gw, plan->from),
                          .to = gw_gpu_of(gw, plan->to), .began = fast_loop_now(gw->loop)};
    snprintf(m->replica, sizeof(m->replica), "%s", r->id);
    if (gw_replica_copy(gw, r, plan->to, &copy, &err)) {
        give_up(gw, m, err.msg);
        return;
    }
    m->copy_key = copy->key;
    snprintf(m->copy, sizeof(m->copy), "%s", copy->id);
    snprintf(why, sizeof(why), "a copy on GPU %d takes over: %.70s", m->to, cause);
    gw_scaling_note(gw, r->fn, "move", FAST_SCALE_START, copy->key, why);
    fast_log(INFO, "move begins", "replica=%s copy=%s from=%d to=%d cause=\"%s\"", m->replica, m->copy, m->from,
             m->to, cause);
}

int gw_move_begin(struct gateway *gw, const struct fast_move *moves, int n, const char *cause,
                  const struct gw_function *fn, struct fast_err *err)
{
    struct gw_moves *all = &gw->moves;
    if (gw_moves_active(gw))
        return fast_err_set(err, FAST_EBUSY, "replicas are being moved already: ask again when that is done");
    if (!all_movable(gw, moves, n) || !gw_link_synced(gw->link))
        return fast_err_set(err, FAST_EBUSY, "a replica of the plan starts, stops or is out of reach just now: "
                                             "ask again");
    all->n = 0;
    all->fn = fn;
    snprintf(all->cause, sizeof(all->cause), "%s", cause);
    for (int i = 0; i < n && i < GW_MOVES_MAX; i++)
        begin_one(gw, &all->move[all->n++], &moves[i], cause);
    return 0;
}

void gw_move_failed(struct gateway *gw, const struct gw_replica *copy, const char *why)
{
    for (int i = 0; i < gw->moves.n; i++) {
        struct gw_move *m = &gw->moves.move[i];
        if (m->copy_key != copy->key || m->state != GW_MOVE_COPYING)
            continue;
        m->copy_key = 0; /* it goes by itself */
        give_up(gw, m, why && *why ? why : "the copy ended");
    }
}

static void take_over(struct gateway *gw, struct gw_move *m, struct gw_replica *r, struct gw_replica *copy)
{
    struct fast_err err;
    const struct fast_slice *a = &r->slice, *b = &copy->slice;
    bool same = a->request_milli == b->request_milli && a->limit_milli == b->limit_milli &&
                a->mem_bytes == b->mem_bytes && a->sm_pct == b->sm_pct;
    if (!same && gw_replica_resize(gw, copy, &r->slice, &err)) { /* changed since the copy was started */
        give_up(gw, m, err.msg);
        return;
    }
    copy->rps_milli = r->rps_milli;
    copy->copy_of = 0;
    m->state = GW_MOVE_DRAINING;
    gw_scaling_note(gw, r->fn, "move", FAST_SCALE_STOP, r->key, "its copy serves");
    gw_replica_drain(gw, r);
    r->drain_until = fast_loop_now(gw->loop) + gw->conf->timeout; /* nobody's request is cut off */
}

static void step(struct gateway *gw, struct gw_move *m)
{
    struct gw_replica *r = find_key(gw, m->replica_key), *copy = find_key(gw, m->copy_key);
    if (m->state == GW_MOVE_DRAINING) {
        if (r)
            return;
        m->state = GW_MOVE_MOVED;
        gw->moves.moved++;
        gw->moves.pause = 0;
        fast_log(INFO, "moved", "replica=%s copy=%s from=%d to=%d", m->replica, m->copy, m->from, m->to);
        return;
    }
    if (!copy)
        give_up(gw, m, "the copy ended");
    else if (!r || !gw_replica_is_live(r))
        give_up(gw, m, "the replica itself goes");
    else if (copy->generation != r->fn->generation)
        give_up(gw, m, "the function was changed");
    else if (copy->restarts)
        give_up(gw, m, copy->text && *copy->text ? copy->text : "the copy died");
    else if (fast_loop_now(gw->loop) - m->began >= START_MAX)
        give_up(gw, m, "the copy was not ready in time");
    else if (gw_replica_is_ready(copy) && !copy->suspect_until)
        take_over(gw, m, r, copy);
}

void gw_move_tick(struct gateway *gw)
{
    for (int i = 0; i < gw->moves.n && gw_link_synced(gw->link); i++)
        if (gw->moves.move[i].state < GW_MOVE_MOVED)
            step(gw, &gw->moves.move[i]);
}
