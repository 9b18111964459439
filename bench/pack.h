#ifndef FAST_BENCH_PACK_H
#define FAST_BENCH_PACK_H

/* Packing of (SM x time) rectangles onto GPUs by the rules that a placement is compared with. Every
 * rule sees the same items in the same order and looks at every GPU; what differs is how the free
 * space of one GPU is kept, and which of the GPUs that could take an item does. */

#include <stdbool.h>
#include <stdint.h>

#include "core/rect.h"

#define PACK_ITEMS 84 /* of one GPU */

struct pack_item {
    int sm, quota; /* % and thousandths */
};

enum pack_space {
    PACK_SCALAR,     /* area alone: a bound that no rectangle policy can beat */
    PACK_SPLIT,      /* any token schedule: the exact condition (core/sched_plan.h) */
    PACK_RECTS,      /* maximal rectangles */
    PACK_SKYLINE,    /* lowest place on the skyline; what is below it is lost */
    PACK_GUILLOTINE, /* disjoint free rectangles, split along the shorter side left over */
};

enum pack_pick { PACK_BEST, PACK_FIRST, PACK_WORST };

struct pack_policy {
    const char *name;
    enum pack_space space;
    enum pack_pick pick;
    enum fast_fit fit; /* PACK_RECTS */
};

struct pack_gpu {
    int n, area;
    struct fast_rect rect[PACK_ITEMS]; /* what each item has; no position in scalar and split */
    struct fast_rects rects;
    struct fast_rect free[2 * PACK_ITEMS + 2]; /* guillotine */
    int nfree;
    struct pack_item refused[PACK_ITEMS]; /* split: has no schedule, until something goes */
    int nrefused;
};

struct pack_pool {
    const struct pack_policy *policy;
    struct pack_gpu *gpus;
    int used, max; /* GPUs that are open, and that there are */
};

/* |max| GPUs, none of them open. Aborts when memory runs out, as everything here does. */
void pack_init(struct pack_pool *pool, const struct pack_policy *policy, int max);
void pack_fini(struct pack_pool *pool);

/* Places |item|; opens one more GPU if there is one and no open one will do. Returns the GPU, or -1. */
int pack_place(struct pack_pool *pool, struct pack_item item);

/* How well |gpu| of the pool suits, smaller is better; -1: not at all. Opens nothing. */
int64_t pack_rate(const struct pack_pool *pool, int gpu, struct pack_item item);

/* The |i|th item of |gpu| goes; the last one takes its place. */
void pack_remove(struct pack_pool *pool, int gpu, int i);

#endif
