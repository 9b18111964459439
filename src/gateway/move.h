#ifndef FAST_GATEWAY_MOVE_H
#define FAST_GATEWAY_MOVE_H

/* Replicas that go to another GPU behind a warm copy: what was planned last and how far it is. */

#include <jansson.h>

#include "core/place.h"

struct gateway;
struct gw_function;
struct gw_replica;
struct gw_spec;

#define GW_MOVES_MAX 16 /* of one plan */

enum gw_move_state {
    GW_MOVE_COPYING,  /* the copy is not ready yet, the replica serves */
    GW_MOVE_DRAINING, /* the copy serves, the replica ends what it has */
    GW_MOVE_MOVED,
    GW_MOVE_GIVEN_UP /* the replica stayed where it was, or went by itself */
};

struct gw_move {
    char replica[200], copy[200]; /* GW_ID_MAX */
    uint64_t replica_key, copy_key;
    int from, to; /* GPUs of the node */
    enum gw_move_state state;
    fast_ns began;
    char why[160]; /* it was given up; "" */
};

/* Zeroed: nothing was moved yet. */
struct gw_moves {
    struct gw_move move[GW_MOVES_MAX]; /* of the latest plan */
    int n;
    char cause[160];              /* what they are for */
    const struct gw_function *fn; /* who they make room for, to compare only; NULL: nobody */
    fast_ns not_before, pause;    /* when room may be made again; the pause grows when copies fail */
    uint64_t moved, given_up;
};

/* Plans to empty GPUs, of replicas that can be moved now. */
int gw_move_plan(struct gateway *gw, struct fast_move *ret, struct fast_defrag *ret_worth, struct fast_err *err);
/* Begins the plan. FAST_EBUSY: another one is being carried out, or somebody in it starts or stops just now.
 * Copies that found no place are given up, and said so. */
int gw_move_begin(struct gateway *gw, const struct fast_move *moves, int n, const char *cause,
                  const struct gw_function *fn, struct fast_err *err);
/* Whether |count| replicas of |spec|, of which all but one have a place, would all have one after a few moves. */
bool gw_move_check(struct gateway *gw, const struct gw_spec *spec, int count);
/* |fn| finds no place for a replica of |slice|: true when replicas are being moved to make one. */
bool gw_move_room(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice);
/* A copy did not start, or died; it is about to be gone. */
void gw_move_failed(struct gateway *gw, const struct gw_replica *copy, const char *why);
void gw_move_tick(struct gateway *gw);
int gw_moves_active(const struct gateway *gw);
/* The number that the node has for a GPU of the fleet; -1: there is none. */
int gw_gpu_of(const struct gateway *gw, int fleet);

#endif
