#include "pack.h"

#include <stdlib.h>
#include <string.h>

#include "core/sched_plan.h"

void pack_init(struct pack_pool *pool, const struct pack_policy *policy, int max)
{
    *pool = (struct pack_pool){.policy = policy, .max = max};
    pool->gpus = calloc((size_t)max, sizeof(*pool->gpus));
    if (!pool->gpus)
        abort();
    for (int g = 0; g < max; g++) {
        struct pack_gpu *gpu = &pool->gpus[g];
        if (fast_rects_init(&gpu->rects, NULL))
            abort();
        gpu->free[gpu->nfree++] = (struct fast_rect){0, 0, FAST_MILLI, FAST_SM_PCT_MAX};
    }
}

void pack_fini(struct pack_pool *pool)
{
    for (int g = 0; g < pool->max; g++)
        fast_rects_fini(&pool->gpus[g].rects);
    free(pool->gpus);
}

/* ---- split ---- */

#define WINDOW_PART INT64_C(1000)

static bool schedulable(struct pack_gpu *gpu, struct pack_item item)
{
    struct fast_plan_item items[FAST_PLAN_CLIENTS];
    if (gpu->n >= FAST_RECTS_USED_MAX)
        return false;
    for (int i = 0; i < gpu->nrefused; i++)
        if (gpu->refused[i].sm <= item.sm && gpu->refused[i].quota <= item.quota)
            return false;
    for (int i = 0; i < gpu->n; i++)
        items[i] = (struct fast_plan_item){gpu->rect[i].sm, gpu->rect[i].quota * WINDOW_PART};
    items[gpu->n] = (struct fast_plan_item){item.sm, item.quota * WINDOW_PART};
    if (fast_plan_fits(items, gpu->n + 1, FAST_MILLI * WINDOW_PART))
        return true;
    if (gpu->nrefused < PACK_ITEMS)
        gpu->refused[gpu->nrefused++] = item;
    return false;
}

/* ---- skyline: the height in SMs above each point of the time, by the items that are there ---- */

static int skyline_at(const struct pack_gpu *gpu, int from, int length)
{
    int top = 0;
    for (int i = 0; i < gpu->n; i++) {
        const struct fast_rect *r = &gpu->rect[i];
        if (r->quota_at < from + length && from < r->quota_at + r->quota && r->sm_at + r->sm > top)
            top = r->sm_at + r->sm;
    }
    return top;
}

/* The lowest place, then the leftmost; it begins at 0, or where an item begins or ends. */
static bool skyline_find(const struct pack_gpu *gpu, struct pack_item item, struct fast_rect *ret)
{
    *ret = (struct fast_rect){0};
    int best = FAST_SM_PCT_MAX + 1;
    for (int i = -1; i < 2 * gpu->n; i++) {
        const struct fast_rect *r = &gpu->rect[i < 0 ? 0 : i / 2];
        int from = i < 0 ? 0 : i % 2 ? r->quota_at : r->quota_at + r->quota;
        if (from + item.quota > FAST_MILLI)
            continue;
        int at = skyline_at(gpu, from, item.quota);
        if (at + item.sm > FAST_SM_PCT_MAX || at > best ||
            (at == best && from >= ret->quota_at))
            continue;
        best = at;
        *ret = (struct fast_rect){from, at, item.quota, item.sm};
    }
    return best <= FAST_SM_PCT_MAX;
}

/* ---- guillotine ---- */

static int guillotine_find(const struct pack_gpu *gpu, struct pack_item item)
{
    int best = -1;
    for (int i = 0; i < gpu->nfree; i++)
        if (gpu->free[i].quota >= item.quota && gpu->free[i].sm >= item.sm &&
            (best < 0 || fast_rect_area(&gpu->free[i]) < fast_rect_area(&gpu->free[best])))
            best = i;
    return best;
}

static void guillotine_take(struct pack_gpu *gpu, int at, struct pack_item item)
{
    struct fast_rect f = gpu->free[at];
    int right = f.quota - item.quota, above = f.sm - item.sm;
    bool across = right < above * (FAST_MILLI / FAST_SM_PCT_MAX);
    struct fast_rect a = {f.quota_at + item.quota, f.sm_at, right, across ? item.sm : f.sm};
    struct fast_rect b = {f.quota_at, f.sm_at + item.sm, across ? f.quota : item.quota, above};
    gpu->free[at] = gpu->free[--gpu->nfree];
    if (a.quota > 0 && a.sm > 0)
        gpu->free[gpu->nfree++] = a;
    if (b.quota > 0 && b.sm > 0)
        gpu->free[gpu->nfree++] = b;
}

static bool merge(struct fast_rect *a, const struct fast_rect *b)
{
    if (a->sm_at == b->sm_at && a->sm == b->sm &&
        (a->quota_at + a->quota == b->quota_at || b->quota_at + b->quota == a->quota_at)) {
        a->quota_at = a->quota_at < b->quota_at ? a->quota_at : b->quota_at;
        a->quota += b->quota;
        return true;
    }
    if (a->quota_at == b->quota_at && a->quota == b->quota &&
        (a->sm_at + a->sm == b->sm_at || b->sm_at + b->sm == a->sm_at)) {
        a->sm_at = a->sm_at < b->sm_at ? a->sm_at : b->sm_at;
        a->sm += b->sm;
        return true;
    }
    return false;
}

static void guillotine_give(struct pack_gpu *gpu, struct fast_rect rect)
{
    bool merged = true;
    while (merged) {
        merged = false;
        for (int i = 0; i < gpu->nfree && !merged; i++)
            if (merge(&rect, &gpu->free[i])) {
                gpu->free[i] = gpu->free[--gpu->nfree];
                merged = true;
            }
    }
    gpu->free[gpu->nfree++] = rect;
    if (!gpu->n) {
        gpu->free[0] = (struct fast_rect){0, 0, FAST_MILLI, FAST_SM_PCT_MAX};
        gpu->nfree = 1;
    }
}

/* ---- all ---- */

/* A score of the rule |fit| for the free rectangle, as in core/rect.c but for one number. */
static int64_t fit_score(const struct fast_rect *free, struct pack_item item, enum fast_fit fit)
{
    int by_quota = free->quota - item.quota, by_sm = (free->sm - item.sm) * 10;
    int shorter = by_quota < by_sm ? by_quota : by_sm, longer = by_quota + by_sm - shorter;
    switch (fit) {
    case FAST_FIT_SHORT_SIDE:
        return (int64_t)shorter * 10000 + longer;
    case FAST_FIT_BOTTOM_LEFT:
        return (int64_t)(free->sm_at + item.sm) * 10000 + free->quota_at;
    default:
        return (int64_t)(fast_rect_area(free) - item.sm * item.quota) * 10000 + shorter;
    }
}

int64_t pack_rate(const struct pack_pool *pool, int g, struct pack_item item)
{
    struct pack_gpu *gpu = &pool->gpus[g];
    const struct pack_policy *p = pool->policy;
    int left = FAST_PLANE_AREA - gpu->area - item.sm * item.quota, at;
    struct fast_rect rect, free;
    if (left < 0 || gpu->n >= FAST_RECTS_USED_MAX)
        return -1;
    switch (p->space) {
    case PACK_SPLIT:
        return schedulable(gpu, item) ? left : -1;
    case PACK_RECTS:
        if (!fast_rects_find(&gpu->rects, item.quota, item.sm, p->fit, &rect, &free))
            return -1;
        return p->pick == PACK_WORST ? left : fit_score(&free, item, p->fit);
    case PACK_SKYLINE:
        return skyline_find(gpu, item, &rect) ? (int64_t)rect.sm_at * 10000 + rect.quota_at : -1;
    case PACK_GUILLOTINE:
        at = guillotine_find(gpu, item);
        return at < 0 ? -1 : fast_rect_area(&gpu->free[at]) - item.sm * item.quota;
    case PACK_SCALAR:
        break;
    }
    return left;
}

static void enter(struct pack_pool *pool, int g, struct pack_item item)
{
    struct pack_gpu *gpu = &pool->gpus[g];
    struct fast_rect rect = {0, 0, item.quota, item.sm};
    if (pool->policy->space == PACK_RECTS &&
        (!fast_rects_find(&gpu->rects, item.quota, item.sm, pool->policy->fit, &rect, NULL) ||
         fast_rects_take(&gpu->rects, &rect, NULL)))
        abort();
    if (pool->policy->space == PACK_SKYLINE && !skyline_find(gpu, item, &rect))
        abort();
    if (pool->policy->space == PACK_GUILLOTINE) {
        int at = guillotine_find(gpu, item);
        rect.quota_at = gpu->free[at].quota_at;
        rect.sm_at = gpu->free[at].sm_at;
        guillotine_take(gpu, at, item);
    }
    gpu->rect[gpu->n++] = rect;
    gpu->area += fast_rect_area(&rect);
}

/* The exact condition costs a linear program for each GPU, so the fullest are asked first. */
static int split_best(const struct pack_pool *pool, struct pack_item item)
{
    int before = -1, before_gpu = -1;
    for (;;) {
        int best = -1, best_area = -1;
        for (int g = 0; g < pool->used; g++) {
            int area = pool->gpus[g].area;
            bool later = before_gpu < 0 || area < before || (area == before && g > before_gpu);
            if (later && area > best_area && area + item.sm * item.quota <= FAST_PLANE_AREA) {
                best = g;
                best_area = area;
            }
        }
        if (best < 0 || schedulable(&pool->gpus[best], item))
            return best;
        before = best_area;
        before_gpu = best;
    }
}

int pack_place(struct pack_pool *pool, struct pack_item item)
{
    int64_t best_score = -1;
    int best = -1;
    if (pool->policy->space == PACK_SPLIT && pool->policy->pick == PACK_BEST) {
        best = split_best(pool, item);
    } else {
        for (int g = 0; g < pool->used; g++) {
            int64_t score = pack_rate(pool, g, item);
            if (score < 0)
                continue;
            if (pool->policy->pick == PACK_WORST)
                score = (int64_t)FAST_PLANE_AREA - score;
            if (best >= 0 && score >= best_score)
                continue;
            best = g;
            best_score = score;
            if (pool->policy->pick == PACK_FIRST)
                break;
        }
    }
    if (best < 0 && pool->used < pool->max)
        best = pool->used++;
    if (best >= 0)
        enter(pool, best, item);
    return best;
}

void pack_remove(struct pack_pool *pool, int g, int i)
{
    struct pack_gpu *gpu = &pool->gpus[g];
    struct fast_rect rect = gpu->rect[i];
    gpu->rect[i] = gpu->rect[--gpu->n];
    gpu->area -= fast_rect_area(&rect);
    gpu->nrefused = 0;
    if (pool->policy->space == PACK_RECTS &&
        fast_rects_give(&gpu->rects, &rect, FAST_RECLAIM_RESTRUCTURE, NULL))
        abort();
    if (pool->policy->space == PACK_GUILLOTINE)
        guillotine_give(gpu, rect);
}
