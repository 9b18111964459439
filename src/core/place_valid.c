/* The invariants of a fleet, for tests. */

#include <string.h>

#include "core/place_impl.h"

static bool has_used(const struct fast_rects *rects, const struct fast_rect *rect)
{
    for (int i = 0; i < rects->nused; i++)
        if (!memcmp(&rects->used[i], rect, sizeof(*rect)))
            return true;
    return false;
}

/* The replicas of a GPU account for its rectangles and its memory. */
static bool replicas_valid(const struct fast_fleet *fleet, int g)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    uint64_t mem = 0;
    int rects = 0, split = 0, split_area = 0, gangs = 0;
    for (int i = 0; i < gpu->nreplicas; i++) {
        const struct fast_placed *p = place_table_find(&fleet->table, gpu->replicas[i]);
        if (!p || p->gpu != g || (p->rect.quota && !p->split && !has_used(&gpu->rects, &p->rect)))
            return false;
        if (p->weights && !fleet_weights_find(fleet, p->weights, g))
            return false;
        mem += p->mem_bytes;
        rects += p->rect.quota > 0 && !p->split;
        split += p->split;
        gangs += p->gang != 0;
        split_area += p->split ? fast_rect_area(&p->rect) : 0;
    }
    for (int i = 0; i < gpu->nweights; i++)
        mem += gpu->weights[i].charged;
    return mem == gpu->mem_used && rects == gpu->rects.nused &&
           split == gpu->nsplit && gangs == gpu->ngangs && split_area == gpu->split_area;
}

static bool in_index(const struct place_index *index, const struct fast_rect *free,
                     uint64_t mem_free, int gpu)
{
    for (int i = 0; i < index->n; i++) {
        const struct place_shape *shape = index->shapes[i];
        if (shape->quota != free->quota || shape->sm != free->sm)
            continue;
        for (int k = 0; k < shape->n; k++)
            if (shape->entries[k].gpu == gpu && shape->entries[k].mem_free == mem_free)
                return true;
    }
    return false;
}

static bool index_valid(const struct fast_fleet *fleet)
{
    int entries = 0;
    for (int i = 0; i < fleet->index.n; i++) {
        entries += fleet->index.shapes[i]->n;
        if (!fleet->index.shapes[i]->n ||
            (i && fleet->index.shapes[i - 1]->area > fleet->index.shapes[i]->area))
            return false;
    }
    for (int g = 0; g < fleet->ngpus; g++) {
        const struct fleet_gpu *gpu = &fleet->gpus[g];
        bool expected = gpu->open && !gpu->exclusive && !gpu->nsplit &&
                        gpu->rects.nused < FAST_RECTS_USED_MAX;
        if (gpu->indexed != expected)
            return false;
        for (int i = 0; expected && i < gpu->rects.nfree; i++, entries--)
            if (!in_index(&fleet->index, &gpu->rects.free[i], fleet_mem_free(gpu), g))
                return false;
    }
    return entries == 0;
}

bool fast_fleet_valid(const struct fast_fleet *fleet)
{
    int replicas = 0;
    for (int g = 0; g < fleet->ngpus; g++) {
        if (!fast_rects_valid(&fleet->gpus[g].rects) || !replicas_valid(fleet, g))
            return false;
        replicas += fleet->gpus[g].nreplicas;
    }
    return replicas == (int)fleet->table.n && index_valid(fleet);
}
