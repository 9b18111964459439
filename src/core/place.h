#ifndef FAST_CORE_PLACE_H
#define FAST_CORE_PLACE_H

/* Node selection: a fleet of GPUs, and which of them a new replica goes to. A replica takes a
 * rectangle (quota request x SM partition) of a GPU's plane and a part of its memory. Over all GPUs
 * the free rectangle with the least area left over is chosen (the paper's rule); of equal ones that on
 * the GPU with the least free memory that is enough, then the one with the lowest number.
 *
 * Cost: GPUs are indexed by the shapes of their free rectangles, ordered by area; so are those of each
 * failure domain, and those that have a model's weights. A decision looks at each distinct shape once (some
 * hundreds in a fleet of thousands, as functions come in few shapes) and never at each GPU; taking and
 * giving back cost O(log shapes) and a memmove of at most 16 bytes per GPU that has the same shape free,
 * once more for each model whose weights the GPU has. |spread|, and |avoid| in a domain, look through the
 * domains' indexes where nearly all of the fleet is ruled out; |avoid| on a GPU or node passes over those
 * that have the group one by one. What looks at each GPU: a want that is tied to a node, one without a
 * rectangle, |near|, rules other than FAST_FIT_AREA, and a refusal, for its message. Wants for all the memory
 * of a GPU, for a whole one, or for a rare type may pass over GPUs of the right shape one by one. */

#include <stdbool.h>
#include <stdint.h>

#include "core/rect.h"
#include "core/types.h"

struct fast_fleet;

struct fast_fleet_conf {
    enum fast_fit fit;
    enum fast_reclaim reclaim;
    bool repack; /* before a replica is refused, or an idle GPU is used for it, lay out the rectangles
                  * of some busy GPUs anew (rect.h): some decisions then cost some 100 us */
    bool split;  /* likewise, but look for a busy GPU whose token scheduler can give everybody his share
                  * by cutting somebody's time (core/sched_plan.h). Subsumes |repack|, costs less */
};

/* One GPU, as the caller names it. */
struct fast_gpu_conf {
    uint32_t node;      /* the caller's number of the node */
    int index;          /* of the GPU on its node */
    uint64_t mem_bytes; /* what replicas may have in total */
    uint32_t type;      /* the caller's number of its model; 0: none */
    uint32_t domain;    /* what fails together: a rack, a power supply; the caller's number */
};

/* What "together" means. */
enum fast_scope { FAST_SCOPE_GPU, FAST_SCOPE_NODE, FAST_SCOPE_DOMAIN };

#define FAST_ANY (-1)

/* What a new replica needs. */
struct fast_want {
    struct fast_slice slice; /* request_milli 0: no rectangle, only memory and a place in the count.
                              * mem_bytes 0: all memory of the GPU, so that nobody else fits */
    bool exclusive;          /* the whole GPU, alone */
    int64_t node;            /* only this node; FAST_ANY */
    int gpu;                 /* only this GPU of the fleet; FAST_ANY */
    uint64_t weights;        /* identity of model weights that replicas share; 0: none */
    uint64_t weights_bytes;  /* their size, counted once per GPU; a GPU that has them goes first */
    uint32_t type;           /* only GPUs of this type; 0: any */
    uint64_t group;          /* whose replica it is, such as a function's; 0: nobody's */
    bool spread;             /* prefer the failure domain that has the fewest of its group */
    uint64_t avoid;          /* not together with a replica of this group; 0: none */
    enum fast_scope avoid_scope;
    uint64_t near;           /* only together with a replica of this group; 0: anywhere */
    enum fast_scope near_scope;
    bool tied;               /* plans leave it where it is, as if one of these rules had decided that */
    uint64_t gang; /* of which replica of several GPUs this is a part, on this one of them; 0: of none */
};

/* Where a replica is. */
struct fast_placed {
    int gpu;               /* number in the fleet */
    struct fast_rect rect; /* quota 0: none */
    uint64_t mem_bytes;    /* its own memory, without shared weights */
    uint64_t weights;
    uint64_t group;
    uint64_t gang;
    bool exclusive;
    bool split; /* conf.split: a schedule gives it the extent of |rect|, whose corner means nothing */
    bool tied;   /* where it is was decided by more than its size: plans leave it there */
    bool forced; /* adopted although there was no rectangle or memory for it */
};

/* What a GPU has, for people and metrics. */
struct fast_gpu_room {
    struct fast_gpu_conf conf;
    bool open; /* takes new replicas */
    int replicas;
    uint64_t mem_free; /* 0 when overcommitted by adoption */
    int area_free;     /* of FAST_PLANE_AREA */
    struct fast_rect largest; /* free rectangle, by area; quota 0: none, or somebody is split */
    const struct fast_rects *rects;
};

int fast_fleet_new(const struct fast_fleet_conf *conf, struct fast_fleet **ret,
                   struct fast_err *err);
void fast_fleet_free(struct fast_fleet *fleet); /* NULL is fine */

/* Adds a GPU; |ret_gpu| is its number (0, 1, ... in order of addition, never reused). */
int fast_fleet_gpu_add(struct fast_fleet *fleet, const struct fast_gpu_conf *conf, int *ret_gpu,
                       struct fast_err *err);
/* A closed GPU (drained, node away) takes no new replicas; those it has stay. */
void fast_fleet_gpu_open(struct fast_fleet *fleet, int gpu, bool open);
int fast_fleet_gpus(const struct fast_fleet *fleet);
/* FAST_ENOENT: no such GPU. */
int fast_fleet_gpu_room(const struct fast_fleet *fleet, int gpu, struct fast_gpu_room *ret,
                        struct fast_err *err);

/* Chooses a place and changes nothing. FAST_ENOROOM: the message says what is missing, what was
 * wanted and the best that there is. FAST_EINVAL: the slice itself is wrong. */
int fast_fleet_choose(const struct fast_fleet *fleet, const struct fast_want *want,
                      struct fast_placed *ret, struct fast_err *err);

/* Chooses and takes. |replica| is the caller's number; FAST_EEXIST when it has a place. With
 * conf.repack the rectangles of others may move; they stay on their GPU. */
int fast_fleet_place(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                     struct fast_placed *ret, struct fast_err *err);

/* As fast_fleet_place(), for a replica that may have any of |n| (at least one) shapes: equal throughput
 * from a profile, in the order of preference. A busy GPU is better than an idle one, then the least
 * area left over, then the earlier shape. |ret_want| is which it got. */
int fast_fleet_place_any(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *wants,
                         int n, int *ret_want, struct fast_placed *ret, struct fast_err *err);

/* Places |n| parts of one replica, each like |want|, on |n| GPUs of one node: the node that has the fewest
 * GPUs to choose from. All or none; |replicas| are the numbers of the parts, the first one (not 0) that of the
 * gang. Looks at each GPU; with conf.split a node whose GPUs have a schedule beyond rectangles is looked for when there
 * is no other.
 *
 * A gang runs on all of its GPUs at once or on none, so that GPUs that gangs have in common need a schedule together
 * (core/sched_plan.h). Whoever is placed on one of them, or gets a larger slice there, has to leave them one: the
 * fleet asks for it. The parts of a gang have one slice; fast_fleet_resize() is called for each. */
int fast_fleet_place_gang(struct fast_fleet *fleet, const uint64_t *replicas, int n,
                          const struct fast_want *want, struct fast_placed *ret, struct fast_err *err);

/* Enters a replica that already runs on |want->gpu|. It does not fail for lack of room: without a
 * rectangle or memory for it, it is entered without and marked as forced. */
int fast_fleet_adopt(struct fast_fleet *fleet, uint64_t replica, const struct fast_want *want,
                     struct fast_placed *ret, struct fast_err *err);

/* Changes the slice of a replica in place, on its GPU. On an error nothing has changed. */
int fast_fleet_resize(struct fast_fleet *fleet, uint64_t replica, const struct fast_slice *slice,
                      struct fast_placed *ret, struct fast_err *err);

/* The store of |gpu| has |bytes| of |weights| (0: not any more), whoever uses them. A replica that wants
 * them goes there first. |firm|: they stay there and count as used memory, else they do so only while a
 * replica uses them. */
int fast_fleet_weights(struct fast_fleet *fleet, int gpu, uint64_t weights, uint64_t bytes, bool firm,
                       struct fast_err *err);
/* By how much the quota of a replica can be raised where it is, up to |most_milli|, in steps of 0.1 (the
 * last one may be smaller). Tries them out; in the end it has what it had, if on another rectangle. */
int fast_fleet_raise_room(struct fast_fleet *fleet, uint64_t replica, int most_milli);

/* ---- moving ---- */

/* A replica that goes to another GPU. The copy there is started first, and the replica stopped when the
 * copy serves, so that both have a place meanwhile. */
struct fast_move {
    uint64_t replica;
    int from, to;
    struct fast_want want; /* for the copy, tied to |to| */
};

#define FAST_MOVES_MAX 64

/* What a plan is worth. */
struct fast_defrag {
    int nmoves;
    uint64_t bytes; /* cost: memory that the copies fill, weights that are there already left out */
    int gpus;       /* gain: GPUs that are idle afterwards */
    int area;       /* of FAST_PLANE_AREA: what the replicas take that go */
};

/* Plans to empty GPUs, the one with the least taken first, onto others that are busy: at most |max| moves
 * (to FAST_MOVES_MAX) and |bytes_max| bytes in all, for each GPU all of its replicas or none. Changes
 * nothing that lasts. Looks at each GPU; meant for every minute or so. */
int fast_fleet_defrag(struct fast_fleet *fleet, int max, uint64_t bytes_max, struct fast_move *ret,
                      struct fast_defrag *ret_worth, struct fast_err *err);

/* Plans the fewest moves after which |want| has a place. FAST_ENOROOM: there is none of at most |max|. */
int fast_fleet_make_room(struct fast_fleet *fleet, const struct fast_want *want, int max,
                         struct fast_move *ret, struct fast_defrag *ret_worth, struct fast_err *err);

/* Whether gangs link two GPUs, by others in between if need be; each is linked to itself. */
bool fast_fleet_linked(const struct fast_fleet *fleet, int gpu, int other);

int fast_fleet_remove(struct fast_fleet *fleet, uint64_t replica, struct fast_err *err);

/* NULL: not placed. Valid until the next change. */
const struct fast_placed *fast_fleet_find(const struct fast_fleet *fleet, uint64_t replica);

/* Invariants, for tests: every GPU's rectangles, memory sums, and the index. */
bool fast_fleet_valid(const struct fast_fleet *fleet);

#endif
