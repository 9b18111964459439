/* Shared weights on the GPUs of a fleet. They are charged to their GPU once, while a replica uses them or
 * while they are kept there for good; what merely lies there goes when its memory is needed, and is worth
 * a visit until then. Each model has indexes of the GPUs that have it, so that they are found without a look
 * at each; a change of a GPU costs an update for each model there, which are few. */

#include <stdlib.h>
#include <string.h>

#include "core/place_impl.h"

/* The place of the first model that is not below |weights|. */
static int model_at(const struct fast_fleet *fleet, uint64_t weights)
{
    int lo = 0, hi = fleet->nmodels;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (fleet->models[mid]->weights < weights)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct fleet_model *fleet_model_find(const struct fast_fleet *fleet, uint64_t weights)
{
    int at = weights ? model_at(fleet, weights) : fleet->nmodels;
    return at < fleet->nmodels && fleet->models[at]->weights == weights ? fleet->models[at] : NULL;
}

static void model_free(struct fleet_model *model)
{
    place_index_fini(&model->charged);
    place_index_fini(&model->lying);
    free(model);
}

void fleet_models_fini(struct fast_fleet *fleet)
{
    for (int i = 0; i < fleet->nmodels; i++)
        model_free(fleet->models[i]);
    free(fleet->models);
}

struct fleet_weights *fleet_weights_find(const struct fast_fleet *fleet, uint64_t weights, int g)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    for (int i = 0; weights && i < gpu->nweights; i++)
        if (gpu->weights[i].model->weights == weights)
            return &gpu->weights[i];
    return NULL;
}

static bool is_charged(const struct fleet_weights *w)
{
    return w->refs || w->firm;
}

struct place_index *fleet_weights_index(const struct fleet_weights *w)
{
    return is_charged(w) ? &w->model->charged : &w->model->lying;
}

/* Brings the memory in use up to date with |w|, or removes it when nothing is left of it. */
static void settle(struct fast_fleet *fleet, struct fleet_weights *w, struct fleet_gpu *gpu)
{
    uint64_t now = is_charged(w) ? w->bytes : 0;
    struct fleet_model *model = w->model;
    gpu->mem_used = gpu->mem_used - w->charged + now;
    w->charged = now;
    if (w->bytes && w->bytes < model->least)
        model->least = w->bytes;
    if (w->refs || w->resident)
        return;
    *w = gpu->weights[--gpu->nweights];
    if (--model->ngpus)
        return;
    int at = model_at(fleet, model->weights);
    memmove(&fleet->models[at], &fleet->models[at + 1],
            sizeof(struct fleet_model *) * (size_t)(fleet->nmodels - at - 1));
    fleet->nmodels--;
    model_free(model);
}

/* There is room for it: fleet_weights_reserve(). */
static struct fleet_weights *obtain(struct fast_fleet *fleet, uint64_t weights, int g)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    struct fleet_weights *w = fleet_weights_find(fleet, weights, g);
    if (w)
        return w;
    w = &gpu->weights[gpu->nweights++];
    *w = (struct fleet_weights){.model = fleet->models[model_at(fleet, weights)]};
    w->model->ngpus++;
    return w;
}

static int model_add(struct fast_fleet *fleet, uint64_t weights)
{
    int at = model_at(fleet, weights);
    struct fleet_model *model = calloc(1, sizeof(*model));
    if (!model || place_insert((void **)&fleet->models, &fleet->nmodels, &fleet->models_cap, at, model)) {
        free(model);
        return -FAST_ENOMEM;
    }
    model->weights = weights;
    model->least = UINT64_MAX;
    return 0;
}

int fleet_weights_reserve(struct fast_fleet *fleet, uint64_t weights, int g, struct fast_err *err)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    if (weights && (place_grow((void **)&gpu->weights, gpu->nweights, &gpu->weights_cap, sizeof(*gpu->weights)) ||
                    (!fleet_model_find(fleet, weights) && model_add(fleet, weights))))
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more model");
    return 0;
}

void fleet_weights_hold(struct fast_fleet *fleet, uint64_t weights, uint64_t bytes, int gpu)
{
    struct fleet_weights *w = obtain(fleet, weights, gpu);
    w->refs++;
    if (!w->bytes)
        w->bytes = bytes;
    settle(fleet, w, &fleet->gpus[gpu]);
}

void fleet_weights_drop(struct fast_fleet *fleet, uint64_t weights, int gpu)
{
    struct fleet_weights *w = fleet_weights_find(fleet, weights, gpu);
    if (!w || !w->refs)
        return;
    w->refs--;
    settle(fleet, w, &fleet->gpus[gpu]);
}

uint64_t fleet_weights_need(const struct fast_fleet *fleet, const struct fast_want *want, int gpu)
{
    const struct fleet_weights *w = fleet_weights_find(fleet, want->weights, gpu);
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
    int rc = fleet_weights_reserve(fleet, weights, gpu, err);
    if (rc)
        return rc;
    fleet_unindex(fleet, gpu);
    struct fleet_weights *w = obtain(fleet, weights, gpu);
    w->resident = bytes > 0;
    w->firm = bytes && firm;
    if (bytes)
        w->bytes = bytes;
    settle(fleet, w, &fleet->gpus[gpu]);
    fleet_reindex(fleet, gpu);
    return 0;
}
