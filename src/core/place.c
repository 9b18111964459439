/* A fleet of GPUs: what each has, and the changes. It assumes that the caller carries out what it
 * enters here, and that replica numbers are unique. Every change of a GPU takes its free rectangles
 * out of the index before, and puts the new ones in after. */

#include "core/place.h"

#include <stdlib.h>
#include <string.h>

#include "core/place_impl.h"

/* For one replica: how many GPUs at most are looked at for a new layout, and how many get a try. */
#define REPACK_LOOKS 256
#define REPACK_TRIES 8

int fast_fleet_new(const struct fast_fleet_conf *conf, struct fast_fleet **ret,
                   struct fast_err *err)
{
    if (conf->fit >= FAST_FIT_COUNT || conf->reclaim >= FAST_RECLAIM_COUNT)
        return fast_err_set(err, FAST_EINVAL, "no such rule of placement");
    struct fast_fleet *fleet = calloc(1, sizeof(*fleet));
    if (!fleet)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a fleet");
    fleet->conf = *conf;
    *ret = fleet;
    return 0;
}

void fast_fleet_free(struct fast_fleet *fleet)
{
    if (!fleet)
        return;
    for (int g = 0; g < fleet->ngpus; g++) {
        fast_rects_fini(&fleet->gpus[g].rects);
        free(fleet->gpus[g].replicas);
        free(fleet->gpus[g].weights);
    }
    free(fleet->gpus);
    fleet_models_fini(fleet);
    fleet_groups_fini(fleet);
    place_index_fini(&fleet->index);
    place_index_fini(&fleet->by_area);
    place_table_fini(&fleet->table);
    free(fleet);
}

/* The indexes that GPU |g| belongs into, of its free rectangles: of the fleet, its domain, its models.
 * NULL: no |i|th one. */
static struct place_index *index_of(struct fast_fleet *fleet, int g, int i)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    if (!i)
        return &fleet->index;
    if (fleet->ndomains > 1 && !--i)
        return &gpu->domain->index;
    return i <= gpu->nweights ? fleet_weights_index(&gpu->weights[i - 1]) : NULL;
}

/* Takes the free rectangles of |g| out of the indexes; some may lack them. */
static void unindex_all(struct fast_fleet *fleet, int g)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    struct place_index *index;
    for (int k = 0; (index = index_of(fleet, g, k)); k++)
        for (int i = 0; i < gpu->rects.nfree; i++)
            place_index_remove(index, gpu->rects.free[i].quota, gpu->rects.free[i].sm, fleet_mem_free(gpu), g);
    gpu->indexed = false;
}

void fleet_unindex(struct fast_fleet *fleet, int g)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    if (gpu->indexed)
        unindex_all(fleet, g);
    if (gpu->area_indexed)
        place_index_remove(&fleet->by_area, fleet_area_free(gpu), 1, fleet_mem_free(gpu), g);
    gpu->area_indexed = false;
}

/* Puts the free rectangles of |g| into the index if it takes replicas. When memory runs out for that
 * it is not chosen until its next change; nothing else is lost. */
void fleet_reindex(struct fast_fleet *fleet, int g)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    fleet_unindex(fleet, g);
    if (!gpu->open || gpu->exclusive || fleet_gpu_rects(gpu) >= FAST_RECTS_USED_MAX)
        return;
    int area = fleet_area_free(gpu);
    if (fleet->conf.split && gpu->nreplicas && area > 0)
        gpu->area_indexed =
            !place_index_add(&fleet->by_area, area, 1, fleet_mem_free(gpu), g, NULL);
    if (gpu->nsplit)
        return;
    gpu->indexed = true;
    struct place_index *index;
    for (int k = 0; (index = index_of(fleet, g, k)); k++)
        for (int i = 0; i < gpu->rects.nfree; i++)
            if (place_index_add(index, gpu->rects.free[i].quota, gpu->rects.free[i].sm, fleet_mem_free(gpu), g,
                                NULL)) {
                unindex_all(fleet, g);
                return;
            }
}

int fast_fleet_gpu_add(struct fast_fleet *fleet, const struct fast_gpu_conf *conf, int *ret_gpu,
                       struct fast_err *err)
{
    if (fleet->ngpus == fleet->gpus_cap) {
        int cap = fleet->gpus_cap ? 2 * fleet->gpus_cap : 8;
        struct fleet_gpu *gpus = realloc(fleet->gpus, sizeof(*gpus) * (size_t)cap);
        if (!gpus)
            return fast_err_set(err, FAST_ENOMEM, "no memory for one more GPU");
        fleet->gpus = gpus;
        fleet->gpus_cap = cap;
    }
    struct fleet_gpu *gpu = &fleet->gpus[fleet->ngpus];
    *gpu = (struct fleet_gpu){.conf = *conf, .open = true};
    if (fast_rects_init(&gpu->rects, err))
        return -FAST_ENOMEM;
    if (fleet_domain_add(fleet, fleet->ngpus, err)) {
        fast_rects_fini(&gpu->rects);
        return -FAST_ENOMEM;
    }
    *ret_gpu = fleet->ngpus++;
    fleet_reindex(fleet, *ret_gpu);
    return 0;
}

void fast_fleet_gpu_open(struct fast_fleet *fleet, int gpu, bool open)
{
    if (gpu < 0 || gpu >= fleet->ngpus)
        return;
    fleet_unindex(fleet, gpu);
    fleet->gpus[gpu].open = open;
    fleet_reindex(fleet, gpu);
}

int fast_fleet_gpus(const struct fast_fleet *fleet)
{
    return fleet->ngpus;
}

int fast_fleet_gpu_room(const struct fast_fleet *fleet, int gpu, struct fast_gpu_room *ret,
                        struct fast_err *err)
{
    if (gpu < 0 || gpu >= fleet->ngpus)
        return fast_err_set(err, FAST_ENOENT, "there is no GPU %d", gpu);
    const struct fleet_gpu *it = &fleet->gpus[gpu];
    *ret = (struct fast_gpu_room){.conf = it->conf,
                                  .open = it->open,
                                  .replicas = it->nreplicas,
                                  .mem_free = fleet_mem_free(it),
                                  .area_free = fleet_area_free(it),
                                  .rects = &it->rects};
    for (int i = 0; !it->nsplit && i < it->rects.nfree; i++)
        if (fast_rect_area(&it->rects.free[i]) > fast_rect_area(&ret->largest))
            ret->largest = it->rects.free[i];
    return 0;
}

/* Makes sure that nothing that enter() does after the rectangle can fail. */
static int reserve(struct fast_fleet *fleet, const struct fast_placed *placed, struct fast_err *err)
{
    struct fleet_gpu *gpu = &fleet->gpus[placed->gpu];
    if (place_table_reserve(&fleet->table, err))
        return -FAST_ENOMEM;
    if (gpu->nreplicas == gpu->cap) {
        int cap = gpu->cap ? 2 * gpu->cap : 8;
        uint64_t *replicas = realloc(gpu->replicas, sizeof(*replicas) * (size_t)cap);
        if (!replicas)
            return fast_err_set(err, FAST_ENOMEM, "no memory for one more replica");
        gpu->replicas = replicas;
        gpu->cap = cap;
    }
    int rc = fleet_weights_reserve(fleet, placed->weights, placed->gpu, err);
    return rc ? rc : fleet_groups_reserve(fleet, placed->group, err);
}

/* Enters |replica| at |placed|, which has been chosen. */
static int enter(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                 const struct fast_placed *placed, struct fast_err *err)
{
    struct fleet_gpu *gpu = &fleet->gpus[placed->gpu];
    int rc = reserve(fleet, placed, err);
    if (rc)
        return rc;
    struct fast_placed it = *placed;
    it.tied = want->tied || want->node != FAST_ANY || want->avoid || want->near || want->spread || want->gang;
    it.gang = want->gang;
    fleet_unindex(fleet, placed->gpu);
    if (placed->split) {
        gpu->nsplit++;
        gpu->split_area += fast_rect_area(&placed->rect);
    } else if (placed->rect.quota) {
        rc = fast_rects_take(&gpu->rects, &placed->rect, err);
    }
    if (!rc) {
        gpu->mem_used += placed->mem_bytes;
        if (placed->weights)
            fleet_weights_hold(fleet, placed->weights, want->weights_bytes, placed->gpu);
        if (placed->group)
            fleet_group_hold(fleet, placed->group, placed->gpu);
        gpu->exclusive |= placed->exclusive;
        gpu->ngangs += it.gang != 0;
        gpu->replicas[gpu->nreplicas++] = replica;
        fleet->last = placed->gpu;
        place_table_add(&fleet->table, replica, &it);
    }
    fleet_reindex(fleet, placed->gpu);
    return rc;
}

int fleet_put_back(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                   const struct fast_placed *was, struct fast_err *err)
{
    return enter(fleet, replica, want, was, err);
}

/* Tries to make room for |quota| x |sm| on |g| by laying out its rectangles anew. */
static bool repack(struct fast_fleet *fleet, int g, int quota, int sm)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    struct fast_rect old[FAST_RECTS_USED_MAX], moved[FAST_RECTS_USED_MAX];
    int n = gpu->rects.nused;
    memcpy(old, gpu->rects.used, sizeof(old));
    fleet_unindex(fleet, g);
    bool done = fast_rects_repack(&gpu->rects, quota, sm, moved);
    for (int i = 0; done && i < gpu->nreplicas; i++) {
        struct fast_placed *placed = place_table_find(&fleet->table, gpu->replicas[i]);
        int k = 0;
        while (k < n && memcmp(&old[k], &placed->rect, sizeof(old[k])) != 0)
            k++;
        if (k < n)
            placed->rect = moved[k];
    }
    fleet_reindex(fleet, g);
    return done;
}

/* Tries busy GPUs that have the area and everything else, from the latest used one backwards: a fleet
 * fills up in this direction. */
static bool repack_any(struct fast_fleet *fleet, const struct fast_want *want)
{
    const struct fast_rect rect = fleet_rect(want);
    int tries = 0;
    if (!fleet->conf.repack || !rect.quota)
        return false;
    for (int i = 0; i < fleet->ngpus && i < REPACK_LOOKS && tries < REPACK_TRIES; i++) {
        int g = (fleet->last + fleet->ngpus - i) % fleet->ngpus;
        if (!fleet->gpus[g].nreplicas || fleet->gpus[g].nsplit ||
            fast_rects_free_area(&fleet->gpus[g].rects) < fast_rect_area(&rect) ||
            !fleet_gpu_may(fleet, g, want))
            continue;
        tries++;
        if (repack(fleet, g, rect.quota, rect.sm))
            return true;
    }
    return false;
}

int fast_fleet_place(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                     struct fast_placed *ret, struct fast_err *err)
{
    struct fast_placed placed;
    if (place_table_find(&fleet->table, replica))
        return fast_err_set(err, FAST_EEXIST, "the replica has a place already");
    int rc = fast_slice_check(&want->slice, err);
    if (rc)
        return rc;
    int g = fleet_choose_gpu(fleet, want), split = -1;
    /* An idle GPU is opened last, unless it has the weights or is where the replica is to be spread to. */
    if (g < 0 || (!fleet->gpus[g].nreplicas && !want->spread &&
                  !fleet_weights_find(fleet, want->weights, g))) {
        split = fleet_split_find(fleet, want, g < 0);
        if (!fleet->conf.split && repack_any(fleet, want))
            g = fleet_choose_gpu(fleet, want);
    }
    if (split >= 0)
        placed = fleet_split_on(fleet, split, want);
    else if (g >= 0)
        rc = fleet_place_on(fleet, g, want, &placed, err);
    else
        rc = fast_fleet_choose(fleet, want, &placed, err); /* says what is missing */
    if (!rc)
        rc = enter(fleet, replica, want, &placed, err);
    if (!rc)
        *ret = placed;
    return rc;
}

/* The area that the free rectangle for |want| on |g| would be left with. */
static int area_left(const struct fast_fleet *fleet, int g, const struct fast_want *want)
{
    struct fast_rect rect = fleet_rect(want), from;
    if (!fast_rects_find(&fleet->gpus[g].rects, rect.quota, rect.sm, fleet->conf.fit, &rect, &from))
        return FAST_PLANE_AREA;
    return fast_rect_area(&from) - fast_rect_area(&rect);
}

int fast_fleet_place_any(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *wants,
                         int n, int *ret_want, struct fast_placed *ret, struct fast_err *err)
{
    int best = -1, best_left = FAST_PLANE_AREA + 1;
    for (int i = 0; i < n; i++) {
        if (!wants[i].slice.request_milli || fast_slice_check(&wants[i].slice, NULL))
            continue;
        int g = fleet_choose_gpu(fleet, &wants[i]);
        int left = g < 0 || !fleet->gpus[g].nreplicas ? FAST_PLANE_AREA
                                                      : area_left(fleet, g, &wants[i]);
        if (left < FAST_PLANE_AREA && left < best_left) {
            best = i;
            best_left = left;
        }
    }
    for (int i = 0; best < 0 && i < n; i++)
        if (fleet_split_find(fleet, &wants[i], true) >= 0)
            best = i;
    *ret_want = best < 0 ? 0 : best;
    int rc = fast_fleet_place(fleet, replica, &wants[*ret_want], ret, err);
    for (int i = 1; rc == -FAST_ENOROOM && best < 0 && i < n; i++) {
        *ret_want = i;
        rc = fast_fleet_place(fleet, replica, &wants[i], ret, err);
    }
    return rc;
}

int fast_fleet_adopt(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                     struct fast_placed *ret, struct fast_err *err)
{
    if (want->gpu < 0 || want->gpu >= fleet->ngpus)
        return fast_err_set(err, FAST_ENOENT, "there is no GPU %d", want->gpu);
    struct fleet_gpu *gpu = &fleet->gpus[want->gpu];
    /* That a GPU is closed to new replicas is no reason against one that it has. */
    bool open = gpu->open;
    fast_fleet_gpu_open(fleet, want->gpu, true);
    int rc = fast_fleet_place(fleet, replica, want, ret, err);
    if (rc == -FAST_ENOROOM) {
        *ret = (struct fast_placed){.gpu = want->gpu,
                                    .mem_bytes = fleet_mem_own(gpu, want),
                                    .weights = want->weights,
                                    .group = want->group,
                                    .exclusive = want->exclusive,
                                    .forced = true};
        rc = enter(fleet, replica, want, ret, err);
    }
    fast_fleet_gpu_open(fleet, want->gpu, open);
    return rc;
}

static void split_drop(struct fleet_gpu *gpu, const struct fast_rect *rect)
{
    gpu->nsplit--;
    gpu->split_area -= fast_rect_area(rect);
}

int fast_fleet_remove(struct fast_fleet *fleet, uint64_t replica, struct fast_err *err)
{
    const struct fast_placed *found = place_table_find(&fleet->table, replica);
    if (!found)
        return fast_err_set(err, FAST_ENOENT, "the replica has no place");
    const struct fast_placed placed = *found;
    struct fleet_gpu *gpu = &fleet->gpus[placed.gpu];
    int rc = 0;
    fleet_unindex(fleet, placed.gpu);
    if (placed.split)
        split_drop(gpu, &placed.rect);
    else if (placed.rect.quota)
        rc = fast_rects_give(&gpu->rects, &placed.rect, fleet->conf.reclaim, err);
    if (!rc) {
        int at = 0;
        while (gpu->replicas[at] != replica)
            at++;
        gpu->replicas[at] = gpu->replicas[--gpu->nreplicas];
        gpu->mem_used -= placed.mem_bytes;
        if (placed.weights)
            fleet_weights_drop(fleet, placed.weights, placed.gpu);
        if (placed.group)
            fleet_group_drop(fleet, placed.group, placed.gpu);
        if (placed.exclusive)
            gpu->exclusive = false;
        gpu->ngangs -= placed.gang != 0;
        place_table_remove(&fleet->table, replica);
        gpu->nrefused = 0;
        fleet_split_settle(fleet, placed.gpu);
    }
    fleet_reindex(fleet, placed.gpu);
    return rc;
}

/* Takes the first place for |ret|, |replica|'s new extent, on a GPU that is out of the index; with
 * conf.split a schedule will do (|ret_split|). */
static bool take_anew(struct fast_fleet *fleet, int g, uint64_t replica, struct fast_rect *ret,
                      bool *ret_split)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    struct fast_rects *rects = &gpu->rects;
    int quota = ret->quota, sm = ret->sm;
    bool found = !gpu->nsplit && fast_rects_find(rects, quota, sm, fleet->conf.fit, ret, NULL);
    if (!found && fleet->conf.split) {
        if (fast_rect_area(ret) > fleet_area_free(gpu) || !fleet_split_fits(fleet, g, replica, ret))
            return false;
        *ret_split = true;
        gpu->nsplit++;
        gpu->split_area += fast_rect_area(ret);
        return true;
    }
    if (!found && !(fleet->conf.repack && !gpu->nsplit && repack(fleet, g, quota, sm) &&
                    fast_rects_find(rects, quota, sm, fleet->conf.fit, ret, NULL)))
        return false;
    fleet_unindex(fleet, g);
    return !fast_rects_take(rects, ret, NULL);
}

int fast_fleet_resize(struct fast_fleet *fleet, uint64_t replica, const struct fast_slice *slice,
                      struct fast_placed *ret, struct fast_err *err)
{
    struct fast_placed *placed = place_table_find(&fleet->table, replica);
    int rc = fast_slice_check(slice, err);
    if (rc)
        return rc;
    if (!placed)
        return fast_err_set(err, FAST_ENOENT, "the replica has no place");
    int g = placed->gpu;
    struct fleet_gpu *gpu = &fleet->gpus[g];
    struct fast_want want = {*slice, placed->exclusive, FAST_ANY, g, placed->weights, 0};
    struct fast_rect old = placed->rect, rect = fleet_rect(&want);
    uint64_t mem = fleet_mem_own(gpu, &want), others = gpu->mem_used - placed->mem_bytes;
    if (mem > placed->mem_bytes && (mem > gpu->conf.mem_bytes || others > gpu->conf.mem_bytes - mem))
        return fast_err_set(err, FAST_ENOROOM,
                            "memory: %llu MiB wanted, %llu MiB of the GPU are free",
                            (unsigned long long)mem >> 20,
                            (unsigned long long)(fleet_mem_free(gpu) + placed->mem_bytes) >> 20);
    if (rect.quota && (rect.quota > old.quota || rect.sm > old.sm) &&
        fleet_joint_fits(fleet, g, replica, placed->gang, &rect))
        return fast_err_set(err, FAST_ENOROOM,
                            "SM x quota: with %d %% x %d.%03d the GPUs that replicas of several GPUs have in common "
                            "have no schedule together",
                            rect.sm, rect.quota / 1000, rect.quota % 1000);
    bool split = false;
    fleet_unindex(fleet, g);
    if (placed->split)
        split_drop(gpu, &old);
    else if (old.quota)
        rc = fast_rects_give(&gpu->rects, &old, FAST_RECLAIM_RESTRUCTURE, err);
    if (!rc && rect.quota && !take_anew(fleet, g, replica, &rect, &split)) {
        fleet_unindex(fleet, g); /* a new layout that was tried has put it back */
        if (placed->split) {
            gpu->nsplit++;
            gpu->split_area += fast_rect_area(&old);
        } else if (old.quota && fast_rects_take(&gpu->rects, &old, NULL)) {
            /* Out of memory. The replica keeps running, so it is entered without a rectangle. */
            placed->rect = (struct fast_rect){0};
            placed->forced = true;
        }
        rc = fast_err_set(err, FAST_ENOROOM,
                          "SM x quota: %d %% x %d.%03d does not fit beside the other replicas of "
                          "the GPU",
                          rect.sm, rect.quota / 1000, rect.quota % 1000);
    } else if (!rc) {
        placed->rect = rect;
        placed->split = split;
        placed->forced = false;
        gpu->nrefused = 0;
        gpu->mem_used = others + mem;
        placed->mem_bytes = mem;
        *ret = *placed;
    }
    fleet_reindex(fleet, g);
    return rc;
}

const struct fast_placed *fast_fleet_find(const struct fast_fleet *fleet, uint64_t replica)
{
    return place_table_find(&fleet->table, replica);
}
