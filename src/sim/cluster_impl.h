#ifndef FAST_SIM_CLUSTER_IMPL_H
#define FAST_SIM_CLUSTER_IMPL_H

/* The inside of a simulated cluster: cluster.c has time and requests, cluster_replica.c replicas and
 * failures, cluster_scale.c the scaler's side. */

#include "core/place.h"
#include "core/scale_load.h"
#include "sim/cluster.h"

struct cluster_replica {
    uint64_t id;
    int function, sm_pct, quota_milli, gpu;
    int held_milli; /* of the quota, guaranteed now */
    int64_t rps_milli;
    fast_ns host_ns, busy_ns; /* of one request */
    fast_ns ready_at, free_at; /* FAST_NEVER: it has no request */
    fast_ns was_busy;          /* until when */
    fast_ns came;              /* of its request */
    int64_t window;            /* that |used_ns| is of */
    fast_ns used_ns;
    uint64_t replaces; /* whose copy it is, until it serves; 0: nobody's */
    bool stopping;
};

struct cluster_function {
    fast_ns *queue; /* moments of arrival; a ring */
    size_t first, n, cap;
    size_t next; /* arrival */
    int open;    /* requests of the query that is not answered yet */
    bool spoilt; /* one of them will not be */
    struct fast_scale_load load;
    fast_ns last;
    fast_ns last_up, last_down; /* when a replica was started, stopped or resized */
    int replicas;
};

struct cluster {
    const struct sim_cluster_conf *conf;
    struct sim_cluster_result *ret;
    struct fast_fleet *fleet;
    struct cluster_replica *replica;
    int n, cap;
    uint64_t next_id;
    fast_ns now, last, window, resize;
    fast_ns back[SIM_CLUSTER_FAILURES]; /* when what failed is usable again; FAST_NEVER */
    int gone_from[SIM_CLUSTER_FAILURES], gone_to[SIM_CLUSTER_FAILURES]; /* GPUs */
    bool failed[SIM_CLUSTER_FAILURES];
    fast_ns defrag_at;
    int *down; /* by GPU: failures that it has not come back from */
    uint64_t *seen; /* by GPU: the look in which it had a replica */
    uint64_t looks;
    struct cluster_function function[SIM_CLUSTER_FUNCTIONS];
};

/* ---- cluster.c ---- */

/* The part of the report that |at| is in. */
struct sim_cluster_bucket *cluster_bucket(struct cluster *c, fast_ns at);
/* The request that |came| is over. */
void cluster_finish(struct cluster *c, int f, fast_ns came, bool answered);

/* ---- cluster_replica.c ---- */

int cluster_start(struct cluster *c, int f, int sm, int quota, struct fast_err *err);
/* The same where |want| says. NULL with 0: there is no room. */
int cluster_start_at(struct cluster *c, int f, const struct fast_want *want, struct cluster_replica **ret,
                     struct fast_err *err);
void cluster_stop(struct cluster *c, uint64_t id);
void cluster_drop(struct cluster *c, int i);
/* Changes what is guaranteed to |r|; false: there is no room for it, and nothing has changed. */
bool cluster_hold(struct cluster *c, struct cluster_replica *r, int milli);
/* Changes the configuration of |r| in place. */
bool cluster_resize(struct cluster *c, struct cluster_replica *r, int quota_milli);
/* When a request that |r| begins |at| is done. */
fast_ns cluster_serve(struct cluster *c, struct cluster_replica *r, fast_ns at);
/* GPU time and host time of a request on a slice. */
void cluster_costs(const struct fast_profile *profile, int sm, int quota, fast_ns *ret_host,
                   fast_ns *ret_busy);
/* Lets fail, or brings back, what is due. */
void cluster_fail(struct cluster *c);
fast_ns cluster_next_failure(const struct cluster *c);

/* ---- cluster_move.c ---- */

/* Copies that serve take over; every |defrag_ns| new ones are started. */
void cluster_move(struct cluster *c);
/* When that has something to do next. */
fast_ns cluster_next_move(const struct cluster *c);
/* Counts the GPUs that have replicas, for |span|. */
void cluster_count_gpus(struct cluster *c, fast_ns span);

/* ---- cluster_scale.c ---- */

int cluster_scale(struct cluster *c, int f, struct fast_err *err);
/* A second is over. */
void cluster_second(struct cluster *c, int f);

#endif
