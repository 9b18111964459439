/* Decides who gives way when the GPUs are full: replicas of functions with a lower priority, above the
 * least number that those have to have. It assumes that a place is free some time after its replica was
 * told to go, so that whoever it is for asks again. */

#include "gateway/scaling.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define CANDIDATES_MAX 256

/* A replica that may go. */
struct candidate {
    struct gw_replica *r;
    struct fast_placed placed; /* where it is */
    bool out;                  /* taken out of the fleet, to try */
};

static int count_live(const struct gw_function *fn)
{
    int n = 0;
    for (int i = 0; i < fn->balance.n; i++)
        n += gw_replica_is_live(gw_replica_of(fn, i));
    return n;
}

static int by_priority(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    int p = x->r->fn->spec->priority, q = y->r->fn->spec->priority;
    if (p != q)
        return p < q ? -1 : 1;
    return x->r->key > y->r->key ? -1 : x->r->key < y->r->key;
}

/* Of each function of a lower priority the youngest, as many as it has above its least number. */
static int collect(const struct gateway *gw, int priority, struct candidate *list)
{
    int n = 0, kept = 0;
    for (struct gw_replica *r = gw->replicas; r && n < CANDIDATES_MAX; r = r->next) {
        const struct fast_placed *p = r->in_fleet ? fast_fleet_find(gw->fleet, r->key) : NULL;
        if (p && gw_replica_is_live(r) && r->fn->spec->priority < priority)
            list[n++] = (struct candidate){r, *p, false};
    }
    qsort(list, (size_t)n, sizeof(*list), by_priority);
    for (int i = 0; i < n; i++) {
        const struct gw_function *fn = list[i].r->fn;
        int taken = 0;
        for (int k = 0; k < kept; k++)
            taken += list[k].r->fn == fn;
        if (count_live(fn) - fn->spec->min > taken)
            list[kept++] = list[i];
    }
    return kept;
}

/* Out of the fleet, or back where it was; adoption never fails for lack of room. */
static void take_out(struct gateway *gw, struct candidate *c)
{
    c->out = !fast_fleet_remove(gw->fleet, c->r->key, NULL);
}

static void put_back(struct gateway *gw, struct candidate *c)
{
    struct fast_want want;
    struct fast_placed placed;
    if (!c->out)
        return;
    const struct fast_slice held = gw_elastic_slice(c->r);
    gw_replica_want(gw, &held, &want);
    gw_models_want(gw, c->r->fn->spec, &want);
    gw_company_group(c->r->fn->spec, &want);
    want.gpu = c->placed.gpu;
    c->r->in_fleet = !fast_fleet_adopt(gw->fleet, c->r->key, &want, &placed, NULL);
    c->out = false;
}

/* Takes candidates on |gpu| out, the lowest first, until |want| has a place there; how many, 0: it never
 * has. They are back afterwards. */
static int how_many(struct gateway *gw, struct candidate *list, int n, int gpu,
                    const struct fast_want *want)
{
    struct fast_want here = *want;
    struct fast_placed placed;
    int out = 0;
    bool fits = false;
    here.gpu = gpu;
    for (int i = 0; i < n && !fits; i++) {
        if (list[i].placed.gpu != gpu)
            continue;
        take_out(gw, &list[i]);
        out++;
        fits = !fast_fleet_choose(gw->fleet, &here, &placed, NULL);
    }
    for (int i = 0; i < n; i++)
        put_back(gw, &list[i]);
    return fits ? out : 0;
}

bool gw_give_way(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice)
{
    struct candidate list[CANDIDATES_MAX];
    struct fast_want want;
    int best = -1, fewest = CANDIDATES_MAX + 1;
    char why[FAST_SCALE_REASON];
    const struct fast_slice s = gw_replica_slice(gw, slice);
    if (!fn->spec->gpu)
        return false;
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->gives_way && r->phase != GW_GONE)
            return false; /* a place is about to be free */
    int n = collect(gw, fn->spec->priority, list);
    gw_replica_want(gw, &s, &want);
    gw_models_want(gw, fn->spec, &want);
    gw_company_want(gw, fn->spec, &want);
    bool firm = !gw_elastic(gw, fn);
    if (firm)
        gw_elastic_all(gw, true);
    for (int i = 0; i < gw->ngpus; i++) {
        int out = how_many(gw, list, n, gw->gpus[i].fleet, &want);
        if (out && out < fewest) {
            fewest = out;
            best = gw->gpus[i].fleet;
        }
    }
    if (firm)
        gw_elastic_all(gw, false);
    snprintf(why, sizeof(why), "gives way to %.60s of priority %d", fn->spec->name, fn->spec->priority);
    for (int i = 0; i < n && best >= 0 && fewest > 0; i++) {
        struct gw_replica *r = list[i].r;
        if (list[i].placed.gpu != best)
            continue;
        fewest--;
        r->fn->desired--;
        r->fn->last_down = fast_loop_now(gw->loop);
        r->gives_way = true;
        gw_scaling_note(gw, r->fn, "priority", FAST_SCALE_STOP, r->key, why);
        gw_function_save(gw, r->fn, NULL);
        gw_replica_drain(gw, r);
    }
    return best >= 0;
}

int gw_give_way_check(struct gateway *gw, const struct gw_spec *spec, int count, struct fast_err *err)
{
    struct candidate list[CANDIDATES_MAX];
    int n = collect(gw, spec->priority, list);
    if (!n)
        return -FAST_ENOROOM;
    for (int i = 0; i < n; i++)
        take_out(gw, &list[i]);
    int r = gw_function_try_places(gw, spec, count, err);
    for (int i = 0; i < n; i++)
        put_back(gw, &list[i]);
    return r;
}
