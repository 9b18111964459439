/* Where a replica is in the fleet: on one GPU, or on several of the node at once, its parts. It decides nothing of
 * its own; it makes sure that the parts come, change and go together. */

#include "gateway/gateway.h"

#include <stdlib.h>

/* Keys of replicas count up from 1, so that those of their parts are free. */
static uint64_t part_key(uint64_t key, int i)
{
    return key | (uint64_t)i << 56;
}

static const struct gw_gpu *gpu_on_node(const struct gateway *gw, int gpu)
{
    for (int i = 0; i < gw->ngpus; i++)
        if ((int)gw->gpus[i].row.gpu == gpu)
            return &gw->gpus[i];
    return NULL;
}

/* ---- by number, also of replicas that are only tried ---- */

int gw_places_take(struct gateway *gw, uint64_t key, int gpus, const struct fast_want *want, uint32_t *ret_gpus,
                   struct fast_err *err)
{
    uint64_t keys[FAST_NODE_GPUS_MAX];
    struct fast_placed placed[FAST_NODE_GPUS_MAX];
    for (int i = 0; i < gpus; i++)
        keys[i] = part_key(key, i);
    int rc = gpus > 1 ? fast_fleet_place_gang(gw->fleet, keys, gpus, want, placed, err)
                      : fast_fleet_place(gw->fleet, key, want, placed, err);
    if (rc)
        return rc;
    *ret_gpus = 0;
    for (int i = 0; i < gpus; i++)
        *ret_gpus |= UINT32_C(1) << gw_gpu_of(gw, placed[i].gpu);
    return 0;
}

void gw_places_give(struct gateway *gw, uint64_t key, int gpus)
{
    for (int i = 0; i < gpus; i++)
        fast_fleet_remove(gw->fleet, part_key(key, i), NULL);
}

/* ---- of a replica ---- */

int gw_replica_ngpus(const struct gw_replica *r)
{
    return __builtin_popcount(gw_replica_gpus(r));
}

void gw_replica_set_gpus(struct gw_replica *r, uint32_t gpus)
{
    r->gpu = gpus ? __builtin_ctz(gpus) : -1;
    r->more_gpus = gpus & (gpus - 1);
}

uint32_t gw_replica_gpus(const struct gw_replica *r)
{
    return r->gpu < 0 ? 0 : UINT32_C(1) << r->gpu | r->more_gpus;
}

const struct fast_placed *gw_replica_place(const struct gateway *gw, const struct gw_replica *r, int fleet)
{
    const struct fast_placed *p = NULL;
    for (int i = 0; r->in_fleet && i < gw_replica_ngpus(r) && (!p || p->gpu != fleet); i++)
        p = fast_fleet_find(gw->fleet, part_key(r->key, i));
    return p && p->gpu == fleet ? p : NULL;
}

void gw_replica_take_out(struct gateway *gw, struct gw_replica *r)
{
    if (r->in_fleet)
        gw_places_give(gw, r->key, gw_replica_ngpus(r));
    r->in_fleet = false;
}

bool gw_replica_put_back(struct gateway *gw, struct gw_replica *r)
{
    struct fast_want want;
    struct fast_placed placed;
    const struct fast_slice slice = gw_elastic_slice(r);
    int i = 0;
    bool fits = true;
    gw_replica_want(gw, &slice, &want);
    gw_models_want(gw, r->fn->spec, &want);
    gw_company_group(r->fn->spec, &want);
    want.gang = r->more_gpus ? r->key : 0;
    bool done = r->gpu >= 0;
    for (uint32_t gpus = gw_replica_gpus(r); gpus && done; gpus &= gpus - 1, i++) {
        const struct gw_gpu *g = gpu_on_node(gw, __builtin_ctz(gpus));
        want.gpu = g ? g->fleet : -1;
        done = g && !fast_fleet_adopt(gw->fleet, part_key(r->key, i), &want, &placed, NULL);
        fits &= done && !placed.forced;
    }
    if (!done)
        gw_places_give(gw, r->key, i);
    r->in_fleet = done;
    return done && fits;
}

int gw_replica_resize_place(struct gateway *gw, struct gw_replica *r, const struct fast_slice *slice,
                            struct fast_err *err)
{
    const struct fast_slice was = gw_elastic_slice(r);
    struct fast_placed placed;
    int n = gw_replica_ngpus(r), done = 0, rc = 0;
    while (!rc && done < n) {
        rc = fast_fleet_resize(gw->fleet, part_key(r->key, done), slice, &placed, err);
        done += !rc;
    }
    while (rc && done > 0)
        fast_fleet_resize(gw->fleet, part_key(r->key, --done), &was, &placed, NULL);
    return rc;
}

/* ---- what it uses ---- */

struct fast_msg_replica_stats gw_replica_used_on(const struct gw_replica *r, int i)
{
    return i == 0 ? r->node_stats : r->more_stats ? r->more_stats[i - 1] : (struct fast_msg_replica_stats){0};
}

struct fast_msg_replica_stats gw_replica_used(const struct gw_replica *r)
{
    struct fast_msg_replica_stats sum = r->node_stats;
    for (int i = 1; i < gw_replica_ngpus(r); i++) {
        const struct fast_msg_replica_stats s = gw_replica_used_on(r, i);
        sum.launches += s.launches;
        sum.tokens += s.tokens;
        sum.busy_ns += s.busy_ns;
        sum.held_ns += s.held_ns;
        sum.wait_ns += s.wait_ns;
        sum.throttled_ns += s.throttled_ns;
        sum.overrun_ns += s.overrun_ns;
        sum.mem_bytes += s.mem_bytes;
        sum.mem_refused += s.mem_refused;
        sum.mem_context += s.mem_context;
    }
    return sum;
}

void gw_replica_told_used(struct gw_replica *r, const struct fast_msg_replica_stats *stats)
{
    const uint32_t bit = stats->gpu < FAST_NODE_GPUS_MAX ? UINT32_C(1) << stats->gpu : 0;
    if (!(r->more_gpus & bit)) {
        r->node_stats = *stats;
        return;
    }
    if (!r->more_stats)
        r->more_stats = calloc((size_t)__builtin_popcount(r->more_gpus), sizeof(*r->more_stats));
    if (r->more_stats)
        r->more_stats[__builtin_popcount(r->more_gpus & (bit - 1))] = *stats;
}
