/* Decides when the quota of a replica is guaranteed. Of a function that the scaler's default policy scales
 * (profile, SLO, fewer replicas allowed than many) a replica holds its quota while it has requests and
 * FAST_SCALE_LINGER after the last one, as in the simulator (fast_scale_quota()); then it keeps memory, SM
 * partition and limit, and its share of time is free for others of its kind. That is core/scale's |vertical|.
 *
 * It assumes that only who gives a share back when idle may borrow one: whoever keeps his guarantee for good
 * is placed as if all quotas were held, and not at all on a GPU where they cannot be held together. So any
 * replica alone can always be raised beside those that never give way, and a deployment takes nobody's share.
 * A replica that cannot be raised, as others of its kind are at work, is passed over for one that can; when
 * there is none its request begins on idle time and its quota is raised when somebody gives his back. A replica of
 * several GPUs keeps its guarantee for good: raising it would need all of them at the same moment. */

#include "gateway/job.h"

#include "gateway/link.h"

bool gw_elastic(const struct gateway *gw, const struct gw_function *fn)
{
    const struct gw_spec *s = fn->spec;
    return gw->conf->scaler == FAST_SCALER_QUEUE && s->gpu && s->gpus == 1 && s->profile && s->slo && !fn->removed &&
           gw_spec_is_scaled(s);
}

struct fast_slice gw_elastic_slice(const struct gw_replica *r)
{
    struct fast_slice s = r->slice;
    s.request_milli = r->parked ? 0 : s.request_milli;
    return s;
}

static bool set_quota(struct gateway *gw, const struct gw_replica *r, int milli)
{
    struct fast_slice s = r->slice;
    struct fast_placed placed;
    s.request_milli = milli;
    return !fast_fleet_resize(gw->fleet, r->key, &s, &placed, NULL);
}

void gw_elastic_tell(struct gateway *gw, struct gw_replica *r)
{
    int milli = r->parked ? 0 : r->slice.request_milli;
    struct fast_msg m = {.type = FAST_MSG_T_replica_hold,
                         .replica_hold = {.replica = fast_str(r->id), .request_milli = (uint32_t)milli}};
    if (r->phase != GW_TOLD || !r->in_fleet || milli == r->told_milli)
        return;
    if (!gw_link_request(gw->link, &m, NULL, NULL, 0, NULL)) /* else told when the node is back */
        r->told_milli = milli;
}

static bool hold(struct gateway *gw, struct gw_replica *r)
{
    if (r->parked && set_quota(gw, r, r->slice.request_milli))
        r->parked = false;
    return !r->parked;
}

/* ---- busy and idle ---- */

void gw_elastic_forget(struct gateway *gw, struct gw_replica *r)
{
    if (!r->lingers)
        return;
    *(r->linger_prev ? &r->linger_prev->linger_next : &gw->linger_first) = r->linger_next;
    *(r->linger_next ? &r->linger_next->linger_prev : &gw->linger_last) = r->linger_prev;
    r->linger_next = r->linger_prev = NULL;
    r->lingers = false;
}

void gw_elastic_idle(struct gateway *gw, struct gw_replica *r)
{
    if (r->parked || r->lingers || !r->in_fleet || r->more_gpus || !gw_replica_is_ready(r) || !gw_elastic(gw, r->fn))
        return;
    r->idle_at = fast_loop_now(gw->loop);
    r->linger_prev = gw->linger_last;
    *(gw->linger_last ? &gw->linger_last->linger_next : &gw->linger_first) = r;
    gw->linger_last = r;
    r->lingers = true;
    if (gw->linger_first == r)
        fast_timer_set(gw->linger_timer, r->idle_at + FAST_SCALE_LINGER);
}

struct gw_replica *gw_elastic_choose(struct gateway *gw, struct gw_replica *r, uint64_t avoid)
{
    struct fast_balance *set = &r->fn->balance;
    for (int i = 0; i < set->n && !hold(gw, r); i++) {
        struct fast_balance_item *item = set->items[i];
        struct gw_replica *other = FAST_CONTAINER_OF(item, struct gw_replica, item);
        if (item == &r->item || !item->ready || item->in_flight || other->key == avoid || !hold(gw, other))
            continue;
        fast_balance_done(set, &r->item);
        item->in_flight++;
        r = other;
    }
    if (r->parked) {
        gw->unheld = true;
        gw->unraised++;
    }
    gw_elastic_forget(gw, r);
    gw_elastic_tell(gw, r);
    return r;
}

/* Those that work without a guarantee, or may not be without one any more. */
static void raise_waiting(struct gateway *gw)
{
    gw->unheld = false;
    for (struct gw_replica *r = gw->replicas; r; r = r->next) {
        if (!r->parked || !r->in_fleet || (!r->in_flight && gw_elastic(gw, r->fn)))
            continue;
        if (hold(gw, r))
            gw_elastic_tell(gw, r);
        else
            gw->unheld = true;
    }
}

void gw_elastic_tick(void *arg)
{
    struct gateway *gw = arg;
    fast_ns now = fast_loop_now(gw->loop);
    bool freed = false;
    while (gw->linger_first && now - gw->linger_first->idle_at >= FAST_SCALE_LINGER) {
        struct gw_replica *r = gw->linger_first;
        gw_elastic_forget(gw, r);
        if (r->in_flight || !r->in_fleet || !gw_replica_is_ready(r) || !gw_elastic(gw, r->fn) ||
            !set_quota(gw, r, fast_scale_quota(r->slice.request_milli, r->in_flight, r->idle_at, now)))
            continue;
        r->parked = freed = true;
        gw_elastic_tell(gw, r);
    }
    if (freed && gw->unheld)
        raise_waiting(gw);
    if (gw->linger_first)
        fast_timer_set(gw->linger_timer, gw->linger_first->idle_at + FAST_SCALE_LINGER);
}

void gw_elastic_second(struct gateway *gw)
{
    raise_waiting(gw);
}

/* The node knows the whole quota of each after a break, or what it was told before it. */
void gw_elastic_synced(struct gateway *gw)
{
    for (struct gw_replica *r = gw->replicas; r; r = r->next) {
        r->told_milli = -1;
        if (r->parked || gw_elastic(gw, r->fn))
            gw_elastic_tell(gw, r);
        if (!r->in_flight)
            gw_elastic_idle(gw, r);
    }
}

/* ---- others ---- */

int gw_elastic_room(struct gateway *gw, struct gw_replica *r)
{
    bool was = r->parked;
    int room = !r->more_gpus && hold(gw, r) ? fast_fleet_raise_room(gw->fleet, r->key, FAST_MILLI) : 0;
    if (was && !r->parked)
        r->parked = set_quota(gw, r, 0);
    return room;
}

/* No place on |gpu|, nor on those whose schedule depends on its. */
static void close_linked(struct gateway *gw, int gpu)
{
    for (int i = 0; i < gw->ngpus; i++)
        if (fast_fleet_linked(gw->fleet, gpu, gw->gpus[i].fleet))
            fast_fleet_gpu_open(gw->fleet, gw->gpus[i].fleet, false);
}

void gw_elastic_all(struct gateway *gw, bool held)
{
    for (int i = 0; i < gw->ngpus && !held; i++)
        fast_fleet_gpu_open(gw->fleet, gw->gpus[i].fleet, true);
    for (struct gw_replica *r = gw->replicas; r; r = r->next) {
        const struct fast_placed *at = r->parked && r->in_fleet ? fast_fleet_find(gw->fleet, r->key) : NULL;
        if (!at)
            continue;
        int gpu = at->gpu;
        if (!set_quota(gw, r, held ? r->slice.request_milli : 0) && held)
            close_linked(gw, gpu); /* it is promised more than it has */
    }
}
