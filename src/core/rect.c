/* The free space of one GPU. It decides where a rectangle goes and keeps the list of maximal free
 * rectangles while some are taken and given back. It assumes that no rectangle is turned: time and
 * SMs are not interchangeable. Every change is worked out in a new list first, so that running out of
 * memory changes nothing. */

#include "core/rect.h"

#include <stdlib.h>
#include <string.h>

static const struct fast_rect plane = {0, 0, FAST_MILLI, FAST_SM_PCT_MAX};

static bool overlap(const struct fast_rect *a, const struct fast_rect *b)
{
    return a->quota_at < b->quota_at + b->quota && b->quota_at < a->quota_at + a->quota &&
           a->sm_at < b->sm_at + b->sm && b->sm_at < a->sm_at + a->sm;
}

static bool contains(const struct fast_rect *outer, const struct fast_rect *inner)
{
    return outer->quota_at <= inner->quota_at && outer->sm_at <= inner->sm_at &&
           outer->quota_at + outer->quota >= inner->quota_at + inner->quota &&
           outer->sm_at + outer->sm >= inner->sm_at + inner->sm;
}

static bool same(const struct fast_rect *a, const struct fast_rect *b)
{
    return a->quota_at == b->quota_at && a->sm_at == b->sm_at && a->quota == b->quota &&
           a->sm == b->sm;
}

/* A growing list of rectangles. */
struct list {
    struct fast_rect *at;
    int n, cap;
};

static int list_add(struct list *list, struct fast_rect rect, struct fast_err *err)
{
    if (list->n == list->cap) {
        int cap = list->cap ? 2 * list->cap : 8;
        struct fast_rect *at = realloc(list->at, (size_t)cap * sizeof(*at));
        if (!at)
            return fast_err_set(err, FAST_ENOMEM, "no memory for the free space of a GPU");
        list->at = at;
        list->cap = cap;
    }
    list->at[list->n++] = rect;
    return 0;
}

/* Adds the up to four maximal rectangles of |free| that |rect|, which overlaps it, leaves. */
static int add_pieces(struct list *list, const struct fast_rect *free, const struct fast_rect *rect,
                      struct fast_err *err)
{
    int left = rect->quota_at - free->quota_at, below = rect->sm_at - free->sm_at;
    int right_at = rect->quota_at + rect->quota, above_at = rect->sm_at + rect->sm;
    int right = free->quota_at + free->quota - right_at, above = free->sm_at + free->sm - above_at;
    const struct fast_rect pieces[] = {
        {free->quota_at, free->sm_at, left, free->sm},
        {right_at, free->sm_at, right, free->sm},
        {free->quota_at, free->sm_at, free->quota, below},
        {free->quota_at, above_at, free->quota, above},
    };
    for (int i = 0; i < 4; i++)
        if (pieces[i].quota > 0 && pieces[i].sm > 0 && list_add(list, pieces[i], err))
            return -FAST_ENOMEM;
    return 0;
}

/* Drops the entries from |first| on that another entry contains. Entries before |first| stay: they
 * were maximal before the split, and a piece lies inside of what was split, so it cannot contain
 * them. */
static void prune(struct list *list, int first)
{
    int kept = first;
    for (int i = first; i < list->n; i++) {
        bool drop = false;
        for (int k = 0; k < list->n && !drop; k++) {
            if (k == i || (k >= kept && k < i))
                continue; /* itself, or a place whose entry was dropped or moved down */
            /* Of two equal ones the first stays. */
            drop = (k < i || !same(&list->at[k], &list->at[i])) &&
                   contains(&list->at[k], &list->at[i]);
        }
        if (!drop)
            list->at[kept++] = list->at[i];
    }
    list->n = kept;
}

/* Writes to |to| (empty) what of the free rectangles |from| is left without |rect|. */
static int subtract(struct list *to, const struct fast_rect *from, int nfrom,
                    const struct fast_rect *rect, struct fast_err *err)
{
    for (int i = 0; i < nfrom; i++)
        if (!overlap(&from[i], rect) && list_add(to, from[i], err))
            return -FAST_ENOMEM;
    int first = to->n;
    for (int i = 0; i < nfrom; i++)
        if (overlap(&from[i], rect) && add_pieces(to, &from[i], rect, err))
            return -FAST_ENOMEM;
    prune(to, first);
    return 0;
}

/* Makes |list| the free list. */
static void adopt(struct fast_rects *rects, struct list *list)
{
    free(rects->free);
    rects->free = list->at;
    rects->nfree = list->n;
    rects->free_cap = list->cap;
}

int fast_rects_init(struct fast_rects *rects, struct fast_err *err)
{
    struct list list = {0};
    memset(rects, 0, sizeof(*rects));
    if (list_add(&list, plane, err))
        return -FAST_ENOMEM;
    adopt(rects, &list);
    rects->exact = true;
    return 0;
}

void fast_rects_fini(struct fast_rects *rects)
{
    free(rects->free);
    memset(rects, 0, sizeof(*rects));
}

/* How well |free| suits, smaller is better: compared field by field. */
struct score {
    int key[4];
};

static struct score rate(const struct fast_rect *free, int quota, int sm, enum fast_fit fit)
{
    /* Both sides in thousandths of the plane, or a short side would always be an SM side. */
    int by_quota = free->quota - quota, by_sm = (free->sm - sm) * (FAST_MILLI / FAST_SM_PCT_MAX);
    int shorter = by_quota < by_sm ? by_quota : by_sm, longer = by_quota + by_sm - shorter;
    int area = fast_rect_area(free) - quota * sm;
    switch (fit) {
    case FAST_FIT_SHORT_SIDE:
        return (struct score){{shorter, longer, free->sm_at, free->quota_at}};
    case FAST_FIT_BOTTOM_LEFT:
        return (struct score){{free->sm_at + sm, free->quota_at, area, shorter}};
    case FAST_FIT_AREA:
    case FAST_FIT_COUNT:
        break;
    }
    return (struct score){{area, shorter, free->sm_at, free->quota_at}};
}

static bool better(const struct score *a, const struct score *b)
{
    for (int i = 0; i < 4; i++)
        if (a->key[i] != b->key[i])
            return a->key[i] < b->key[i];
    return false;
}

bool fast_rects_find(const struct fast_rects *rects, int quota, int sm, enum fast_fit fit,
                     struct fast_rect *ret, struct fast_rect *ret_free)
{
    const struct fast_rect *best = NULL;
    struct score best_score = {{0}};
    for (int i = 0; i < rects->nfree; i++) {
        const struct fast_rect *free = &rects->free[i];
        if (free->quota < quota || free->sm < sm)
            continue;
        struct score score = rate(free, quota, sm, fit);
        if (best && !better(&score, &best_score))
            continue;
        best = free;
        best_score = score;
    }
    if (!best)
        return false;
    *ret = (struct fast_rect){best->quota_at, best->sm_at, quota, sm};
    if (ret_free)
        *ret_free = *best;
    return true;
}

int fast_rects_take(struct fast_rects *rects, const struct fast_rect *rect, struct fast_err *err)
{
    if (rect->quota < 1 || rect->sm < 1 || !contains(&plane, rect))
        return fast_err_set(err, FAST_EINVAL,
                            "a slice of quota %d+%d and SM %d+%d does not lie on a GPU",
                            rect->quota_at, rect->quota, rect->sm_at, rect->sm);
    for (int i = 0; i < rects->nused; i++)
        if (overlap(&rects->used[i], rect))
            return fast_err_set(err, FAST_EBUSY,
                                "quota %d+%d and SM %d+%d of the GPU are in use already",
                                rect->quota_at, rect->quota, rect->sm_at, rect->sm);
    if (rects->nused == FAST_RECTS_USED_MAX)
        return fast_err_set(err, FAST_ENOROOM, "the GPU has %d replicas, the most that it can have",
                            FAST_RECTS_USED_MAX);
    struct list list = {0};
    if (subtract(&list, rects->free, rects->nfree, rect, err)) {
        free(list.at);
        return -FAST_ENOMEM;
    }
    adopt(rects, &list);
    rects->used[rects->nused++] = *rect;
    rects->used_area += fast_rect_area(rect);
    return 0;
}

/* The free list for |used| alone. */
static int build(struct list *ret, const struct fast_rect *used, int nused, struct fast_err *err)
{
    struct list list = {0};
    int rc = list_add(&list, plane, err);
    for (int i = 0; i < nused && !rc; i++) {
        struct list next = {0};
        rc = subtract(&next, list.at, list.n, &used[i], err);
        free(list.at);
        list = next;
    }
    if (rc)
        free(list.at);
    else
        *ret = list;
    return rc;
}

int fast_rects_rebuild(struct fast_rects *rects, struct fast_err *err)
{
    struct list list;
    if (build(&list, rects->used, rects->nused, err))
        return -FAST_ENOMEM;
    adopt(rects, &list);
    rects->exact = true;
    return 0;
}

int fast_rects_give(struct fast_rects *rects, const struct fast_rect *rect,
                    enum fast_reclaim reclaim, struct fast_err *err)
{
    int at = 0, last = rects->nused - 1;
    while (at <= last && !same(&rects->used[at], rect))
        at++;
    if (at > last)
        return fast_err_set(err, FAST_ENOENT, "quota %d+%d and SM %d+%d of the GPU are not in use",
                            rect->quota_at, rect->quota, rect->sm_at, rect->sm);
    /* The last one takes the place of the one that goes, which stays behind the end until the list is
     * there, so that it can be put back. */
    const struct fast_rect gone = rects->used[at];
    rects->used[at] = rects->used[last];
    rects->used[last] = gone;
    if (reclaim == FAST_RECLAIM_RESTRUCTURE || last == 0) {
        struct list list;
        if (build(&list, rects->used, last, err))
            return -FAST_ENOMEM;
        adopt(rects, &list);
        rects->exact = true;
    } else {
        struct list list = {rects->free, rects->nfree, rects->free_cap};
        if (list_add(&list, gone, err))
            return -FAST_ENOMEM;
        rects->free = list.at;
        rects->nfree = list.n;
        rects->free_cap = list.cap;
        rects->exact = false;
    }
    rects->nused = last;
    rects->used_area -= fast_rect_area(&gone);
    return 0;
}

/* The order in which a repack lays out rectangles: 0 by area, 1 by SMs, 2 by quota. */
static int64_t weight(const struct fast_rect *rect, int order)
{
    int64_t area = fast_rect_area(rect);
    if (order == 1)
        return rect->sm * (int64_t)FAST_PLANE_AREA + area;
    if (order == 2)
        return rect->quota * (int64_t)FAST_PLANE_AREA + area;
    return area;
}

/* Fills |ret| with the indices of |n| rectangles, heaviest first. */
static void sort_by_weight(const struct fast_rect *rects, int n, int order, int *ret)
{
    for (int i = 0; i < n; i++) {
        int k = i;
        for (; k > 0 && weight(&rects[ret[k - 1]], order) < weight(&rects[i], order); k--)
            ret[k] = ret[k - 1];
        ret[k] = i;
    }
}

/* Lays out the used rectangles of |rects| and |extra| in an empty plane. On success |trial|, which
 * is initialized, holds those of |rects|, and |moved| says where they are. */
static bool try_layout(const struct fast_rects *rects, struct fast_rect extra, int order,
                       enum fast_fit fit, struct fast_rects *trial, struct fast_rect *moved)
{
    struct fast_rect all[FAST_RECTS_USED_MAX + 1];
    int sorted[FAST_RECTS_USED_MAX + 1], n = rects->nused + 1;
    memcpy(all, rects->used, sizeof(all[0]) * (size_t)rects->nused);
    all[n - 1] = extra;
    sort_by_weight(all, n, order, sorted);
    for (int i = 0; i < n; i++) {
        struct fast_rect *rect = &all[sorted[i]];
        if (!fast_rects_find(trial, rect->quota, rect->sm, fit, rect, NULL) ||
            fast_rects_take(trial, rect, NULL))
            return false;
    }
    if (fast_rects_give(trial, &all[n - 1], FAST_RECLAIM_RESTRUCTURE, NULL))
        return false;
    memcpy(moved, all, sizeof(all[0]) * (size_t)rects->nused);
    return true;
}

bool fast_rects_repack(struct fast_rects *rects, int quota, int sm,
                       struct fast_rect ret_moved[FAST_RECTS_USED_MAX])
{
    const struct fast_rect extra = {0, 0, quota, sm};
    if (quota < 1 || sm < 1 || quota > FAST_MILLI || sm > FAST_SM_PCT_MAX ||
        fast_rect_area(&extra) > fast_rects_free_area(rects) || rects->nused == FAST_RECTS_USED_MAX)
        return false;
    for (int i = 0; i < 3 * FAST_FIT_COUNT; i++) {
        struct fast_rects trial;
        if (fast_rects_init(&trial, NULL))
            return false;
        if (try_layout(rects, extra, i / FAST_FIT_COUNT, (enum fast_fit)(i % FAST_FIT_COUNT), &trial,
                       ret_moved)) {
            memcpy(trial.used, ret_moved, sizeof(trial.used[0]) * (size_t)rects->nused);
            fast_rects_fini(rects);
            *rects = trial;
            return true;
        }
        fast_rects_fini(&trial);
    }
    return false;
}

/* Whether |free| can grow by one step in some direction without meeting an edge or a used one. */
static bool can_grow(const struct fast_rects *rects, const struct fast_rect *free)
{
    const struct fast_rect grown[] = {
        {free->quota_at - 1, free->sm_at, free->quota + 1, free->sm},
        {free->quota_at, free->sm_at, free->quota + 1, free->sm},
        {free->quota_at, free->sm_at - 1, free->quota, free->sm + 1},
        {free->quota_at, free->sm_at, free->quota, free->sm + 1},
    };
    for (int i = 0; i < 4; i++) {
        bool blocked = !contains(&plane, &grown[i]);
        for (int k = 0; k < rects->nused && !blocked; k++)
            blocked = overlap(&grown[i], &rects->used[k]);
        if (!blocked)
            return true;
    }
    return false;
}

static bool free_one_valid(const struct fast_rects *rects, int i)
{
    const struct fast_rect *free = &rects->free[i];
    if (free->quota < 1 || free->sm < 1 || !contains(&plane, free))
        return false;
    for (int k = 0; k < rects->nused; k++)
        if (overlap(free, &rects->used[k]))
            return false;
    for (int k = 0; k < rects->nfree; k++)
        if (k != i && contains(&rects->free[k], free))
            return false;
    return !rects->exact || !can_grow(rects, free);
}

bool fast_rects_valid(const struct fast_rects *rects)
{
    int area = 0;
    for (int i = 0; i < rects->nused; i++) {
        area += fast_rect_area(&rects->used[i]);
        if (rects->used[i].quota < 1 || rects->used[i].sm < 1 ||
            !contains(&plane, &rects->used[i]))
            return false;
        for (int k = 0; k < i; k++)
            if (overlap(&rects->used[i], &rects->used[k]))
                return false;
    }
    for (int i = 0; i < rects->nfree; i++)
        if (!free_one_valid(rects, i))
            return false;
    return area == rects->used_area && rects->nused <= FAST_RECTS_USED_MAX;
}
