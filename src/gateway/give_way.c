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
    bool out;  /* taken out of the fleet, to try */
    bool goes; /* it has to */
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
        if (r->in_fleet && gw_replica_is_live(r) && r->fn->spec->priority < priority)
            list[n++] = (struct candidate){.r = r};
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
    gw_replica_take_out(gw, c->r);
    c->out = true;
}

static void put_back(struct gateway *gw, struct candidate *c)
{
    if (c->out)
        gw_replica_put_back(gw, c->r);
    c->out = false;
}

static bool is_on(const struct gateway *gw, const struct candidate *c, int fleet)
{
    bool on = fleet == FAST_ANY;
    for (int i = 0; i < gw->ngpus && !on; i++)
        on = gw->gpus[i].fleet == fleet && gw_replica_gpus(c->r) >> gw->gpus[i].row.gpu & 1;
    return on;
}

static bool has_place(struct gateway *gw, const struct fast_want *want, int gpus)
{
    uint32_t at;
    if (gw_places_take(gw, gw->next_key, gpus, want, &at, NULL))
        return false;
    gw_places_give(gw, gw->next_key, gpus);
    return true;
}

/* Takes candidates on |gpu| (FAST_ANY: on all) out, the lowest first, until |want| has a place on it, or on |gpus| of
 * the node; how many, 0: it never has. Who went without need comes back. All are back afterwards; |goes| says who it
 * was. */
static int how_many(struct gateway *gw, struct candidate *list, int n, int gpu, int gpus,
                    const struct fast_want *want)
{
    struct fast_want here = *want;
    int out = 0;
    bool fits = false;
    here.gpu = gpu;
    for (int i = 0; i < n; i++)
        list[i].goes = false;
    for (int i = 0; i < n && !fits; i++) {
        if (!is_on(gw, &list[i], gpu))
            continue;
        take_out(gw, &list[i]);
        fits = has_place(gw, &here, gpus);
    }
    for (int i = n - 1; i >= 0 && fits && gpu == FAST_ANY; i--) {
        bool was = list[i].out;
        put_back(gw, &list[i]);
        if (was && !has_place(gw, &here, gpus))
            take_out(gw, &list[i]);
    }
    for (int i = 0; i < n; i++) {
        list[i].goes = fits && list[i].out;
        out += list[i].goes;
        put_back(gw, &list[i]);
    }
    return out;
}

bool gw_give_way(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice)
{
    struct candidate list[CANDIDATES_MAX];
    struct fast_want want;
    int best = FAST_ANY, fewest = CANDIDATES_MAX + 1;
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
    const int gpus = fn->spec->gpus, places = gpus > 1 ? 1 : gw->ngpus;
    for (int i = 0; i < places; i++) {
        int gpu = gpus > 1 ? FAST_ANY : gw->gpus[i].fleet;
        int out = how_many(gw, list, n, gpu, gpus, &want);
        if (out && out < fewest) {
            fewest = out;
            best = gpu;
        }
    }
    bool found = fewest <= CANDIDATES_MAX && how_many(gw, list, n, best, gpus, &want);
    if (firm)
        gw_elastic_all(gw, false);
    snprintf(why, sizeof(why), "gives way to %.60s of priority %d", fn->spec->name, fn->spec->priority);
    for (int i = 0; i < n && found; i++) {
        struct gw_replica *r = list[i].r;
        if (!list[i].goes)
            continue;
        r->fn->desired--;
        r->fn->last_down = fast_loop_now(gw->loop);
        r->gives_way = true;
        gw_scaling_note(gw, r->fn, "priority", FAST_SCALE_STOP, r->key, why);
        gw_function_save(gw, r->fn, NULL);
        gw_replica_drain(gw, r);
    }
    return found;
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
