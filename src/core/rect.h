#ifndef FAST_CORE_RECT_H
#define FAST_CORE_RECT_H

/* The free space of one GPU as maximal rectangles. The GPU is a plane, time quota (0..1000
 * thousandths) by SMs (0..100 %); a replica is a rectangle in it. The free list holds every free
 * rectangle that cannot grow in any direction, so that whatever fits at all fits into one of them.
 *
 * Bounds: at most FAST_RECTS_USED_MAX rectangles are in use (MPS serves no more clients). The free
 * list grows with the square of their number at worst and has 2 to 6 entries in practice; a take
 * costs the square of its length, a rebuild that for each rectangle in use. */

#include <stdbool.h>

#include "core/types.h"

#define FAST_RECTS_USED_MAX 60
#define FAST_PLANE_AREA (FAST_MILLI * FAST_SM_PCT_MAX)

struct fast_rect {
    int quota_at, sm_at; /* its corner nearest to 0, 0 */
    int quota, sm;       /* its extent, thousandths of time and % of SMs, both at least 1 */
};

/* Which free rectangle a new one goes to; every rule takes a corner of it. */
enum fast_fit {
    FAST_FIT_AREA,        /* least area left over, then the least short side (the paper's) */
    FAST_FIT_SHORT_SIDE,  /* least left over on the shorter side, then on the longer */
    FAST_FIT_BOTTOM_LEFT, /* lowest upper SM edge, then lowest quota */
    FAST_FIT_COUNT
};

/* What becomes of the space of a replica that goes. */
enum fast_reclaim {
    FAST_RECLAIM_RESTRUCTURE, /* the free list is rebuilt, exactly */
    FAST_RECLAIM_KEEP,        /* its rectangle joins the list as it is: cheap, and a replica of the same
                               * shape fits again, but neighbours are not merged until the GPU is empty */
    FAST_RECLAIM_COUNT
};

struct fast_rects {
    struct fast_rect *free;
    int nfree, free_cap;
    struct fast_rect used[FAST_RECTS_USED_MAX];
    int nused;
    int used_area;
    bool exact; /* the free list is all maximal rectangles: no "keep" since it was last rebuilt */
};

/* Allocates the free list: one rectangle, the whole plane. */
int fast_rects_init(struct fast_rects *rects, struct fast_err *err);
void fast_rects_fini(struct fast_rects *rects);

/* The place for |quota| x |sm|. False when there is none. |ret_free| (NULL is fine) is the free
 * rectangle that it is a corner of. */
bool fast_rects_find(const struct fast_rects *rects, int quota, int sm, enum fast_fit fit,
                     struct fast_rect *ret, struct fast_rect *ret_free);

/* Takes |rect| out of the free space. FAST_EBUSY when a part of it is in use, FAST_EINVAL when it is
 * not in the plane, FAST_ENOROOM when FAST_RECTS_USED_MAX are in use; then nothing has changed. */
int fast_rects_take(struct fast_rects *rects, const struct fast_rect *rect, struct fast_err *err);

/* Gives back a rectangle that was taken. FAST_ENOENT when there is no such one. */
int fast_rects_give(struct fast_rects *rects, const struct fast_rect *rect,
                    enum fast_reclaim reclaim, struct fast_err *err);

/* Rebuilds the free list from what is in use. */
int fast_rects_rebuild(struct fast_rects *rects, struct fast_err *err);

/* Where in a GPU's time a rectangle lies is bookkeeping: the token scheduler gives each replica its
 * share of every window, whenever. So the rectangles of running replicas may be laid out anew at no
 * cost to them when |quota| x |sm| fits nowhere but would in another order. Tries the largest first by
 * area, by SMs and by quota, with every rule. On success all of them are where |ret_moved| says, in the
 * order of |used|, and fast_rects_find() has a place for the new one. False: nothing has changed. The
 * cost is that of FAST_RECTS_USED_MAX takes for each of nine tries. */
bool fast_rects_repack(struct fast_rects *rects, int quota, int sm,
                       struct fast_rect ret_moved[FAST_RECTS_USED_MAX]);

static inline int fast_rect_area(const struct fast_rect *rect)
{
    return rect->quota * rect->sm;
}

static inline int fast_rects_free_area(const struct fast_rects *rects)
{
    return FAST_PLANE_AREA - rects->used_area;
}

/* Invariants, for tests: everything lies in the plane, used ones are disjoint from each other and
 * from the free ones, no free one contains another, and when |exact| every free one is maximal. */
bool fast_rects_valid(const struct fast_rects *rects);

#endif
