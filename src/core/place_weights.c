/* Shared weights on the GPUs of a fleet. They are charged to their GPU once, while a replica uses them or
 * while they are kept there for good; what merely lies there goes when its memory is needed, and is worth
 * a visit until then. */

#include <stdlib.h>
#include <string.h>

#include "core/place_impl.h"

int fleet_weights_at(const struct fast_fleet *fleet, uint64_t weights, int gpu)
{
    int lo = 0, hi = fleet->nweights;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct fleet_weights *w = &fleet->weights[mid];
        if (w->weights < weights || (w->weights == weights && w->gpu < gpu))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct fleet_weights *fleet_weights_find(const struct fast_fleet *fleet, uint64_t weights, int gpu)
{
    int at = fleet_weights_at(fleet, weights, gpu);
    if (at == fleet->nweights || fleet->weights[at].weights != weights ||
        fleet->weights[at].gpu != gpu)
        return NULL;
    return &fleet->weights[at];
}

static bool is_charged(const struct fleet_weights *w)
{
    return w->refs || w->firm;
}

/* Brings the memory in use up to date with |w|, or removes it when nothing is left of it. */
static void settle(struct fast_fleet *fleet, struct fleet_weights *w)
{
    struct fleet_gpu *gpu = &fleet->gpus[w->gpu];
    uint64_t now = is_charged(w) ? w->bytes : 0;
    gpu->mem_used = gpu->mem_used - w->charged + now;
    w->charged = now;
    if (w->refs || w->resident)
        return;
    int at = (int)(w - fleet->weights);
    memmove(w, w + 1, sizeof(*w) * (size_t)(fleet->nweights - at - 1));
    fleet->nweights--;
}

/* There is room for it: fleet_weights_reserve(). */
static struct fleet_weights *obtain(struct fast_fleet *fleet, uint64_t weights, int gpu)
{
    struct fleet_weights *w = fleet_weights_find(fleet, weights, gpu);
    if (w)
        return w;
    int at = fleet_weights_at(fleet, weights, gpu);
    w = &fleet->weights[at];
    memmove(w + 1, w, sizeof(*w) * (size_t)(fleet->nweights - at));
    *w = (struct fleet_weights){.weights = weights, .gpu = gpu};
    fleet->nweights++;
    return w;
}

int fleet_weights_reserve(struct fast_fleet *fleet, struct fast_err *err)
{
    if (fleet->nweights < fleet->weights_cap)
        return 0;
    int cap = fleet->weights_cap ? 2 * fleet->weights_cap : 8;
    struct fleet_weights *weights = realloc(fleet->weights, sizeof(*weights) * (size_t)cap);
    if (!weights)
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more model");
    fleet->weights = weights;
    fleet->weights_cap = cap;
    return 0;
}

void fleet_weights_hold(struct fast_fleet *fleet, uint64_t weights, uint64_t bytes, int gpu)
{
    struct fleet_weights *w = obtain(fleet, weights, gpu);
    w->refs++;
    if (!w->bytes)
        w->bytes = bytes;
    settle(fleet, w);
}

void fleet_weights_drop(struct fast_fleet *fleet, uint64_t weights, int gpu)
{
    struct fleet_weights *w = fleet_weights_find(fleet, weights, gpu);
    if (!w || !w->refs)
        return;
    w->refs--;
    settle(fleet, w);
}

uint64_t fleet_weights_need(const struct fast_fleet *fleet, const struct fast_want *want, int gpu)
{
    const struct fleet_weights *w =
        want->weights ? fleet_weights_find(fleet, want->weights, gpu) : NULL;
    if (w && is_charged(w))
        return 0;
    return !want->weights ? 0 : w && w->bytes ? w->bytes : want->weights_bytes;
}

int fast_fleet_weights(struct fast_fleet *fleet, int gpu, uint64_t weights, uint64_t bytes, bool firm,
                       struct fast_err *err)
{
    if (gpu < 0 || gpu >= fleet->ngpus || !weights)
        return fast_err_set(err, FAST_ENOENT, "there is no GPU %d", gpu);
    if (!bytes && !fleet_weights_find(fleet, weights, gpu))
        return 0;
    int rc = fleet_weights_reserve(fleet, err);
    if (rc)
        return rc;
    fleet_unindex(fleet, gpu);
    struct fleet_weights *w = obtain(fleet, weights, gpu);
    w->resident = bytes > 0;
    w->firm = bytes && firm;
    if (bytes)
        w->bytes = bytes;
    settle(fleet, w);
    fleet_reindex(fleet, gpu);
    return 0;
}
