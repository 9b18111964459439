#ifndef FAST_CORE_SCHED_PLAN_H
#define FAST_CORE_SCHED_PLAN_H

/* Cuts a window into slots. In each slot a set of clients whose SM partitions fit together owns the
 * GPU, and over all slots every client owns it for its request. Time may be split freely (tokens are
 * preempted between kernels), so this is a linear program over the sets that fit: the least total
 * length that covers every request. The window can hold all requests exactly if that least length
 * is not above it.
 *
 * A client may need several GPUs at the same time. GPUs that such clients have in common are planned
 * together: in each slot a set of clients owns them whose partitions fit together on every one of them. */

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define FAST_PLAN_CLIENTS 64 /* MPS allows 48 to 60 on a GPU */
#define FAST_PLAN_GPUS 8

struct fast_plan_item {
    int sm_pct; /* 1..100, of each of its GPUs */
    fast_ns request_ns;
    uint32_t gpus; /* bit g: it needs GPU g, all of them at the same time; 0: the first one */
};

struct fast_plan {
    int slots;
    fast_ns length_ns;                 /* before it was stretched, or shrunk, to the window */
    fast_ns end_ns[FAST_PLAN_CLIENTS]; /* offset in the window; the last one is its end */
    uint64_t owners[FAST_PLAN_CLIENTS]; /* bit i: item i */
};

/* |n| items (at most FAST_PLAN_CLIENTS); those with no request own nothing. No item: no slot. With many clients it ends
 * when it has a plan that fits, and has shortened it for a while. */
void fast_plan_make(const struct fast_plan_item *items, int n, fast_ns window_ns,
                    struct fast_plan *ret);

/* Whether the window can hold all requests; cheaper than a plan, as it stops when that is known. With very many
 * clients of several GPUs the search for the best set ends early: then it may say no where it could say yes. */
bool fast_plan_fits(const struct fast_plan_item *items, int n, fast_ns window_ns);

#endif
