#ifndef FAST_SIM_EXPERIMENT_H
#define FAST_SIM_EXPERIMENT_H

/* A whole experiment on one GPU in virtual time: functions with replicas, users who send the next
 * request when they have the answer to the last one, the GPU model, and the token scheduler that
 * fast-node runs. The same configuration always gives the same result. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "core/sched.h"
#include "core/types.h"
#include "sim/gpu.h"
#include "sim/model.h"

#define SIM_EXP_FUNCTIONS 8
#define SIM_EXP_REPLICAS 48 /* of all functions together */

struct sim_exp_function {
    struct sim_model model;
    int replicas; /* each serves one request at a time */
    int users;    /* each has one request under way, and no pause between two */
    const fast_ns *due; /* requests come at these moments instead, ascending; borrowed; NULL: users */
    size_t due_count;
    struct fast_slice slice; /* of each replica */
};

struct sim_exp_conf {
    struct sim_gpu_conf gpu;
    bool mps;    /* partitions hold, kernels of replicas run side by side */
    bool tokens; /* kernels need a token of the scheduler */
    bool in_flight; /* a replica is charged as the hook measures it: from the first kernel of a request
                     * until it sees the last one complete, host time between kernels included; else
                     * for its kernels alone */
    fast_ns inflight_ns; /* kernels that a replica has queued take no longer than this together, by their
                          * mean so far, or are only one: the hook's bound; 0: no bound */
    struct fast_sched_conf sched;
    int host_slowdown_milli; /* host work of a replica takes so many thousandths longer for each
                              * other replica whose host works: cores, caches, driver locks */
    fast_ns duration_ns;
    uint64_t requests_max; /* ends after so many requests; 0: only after |duration_ns| */
    uint64_t seed;         /* which replica a request goes to is drawn at random */
    int functions;
    struct sim_exp_function function[SIM_EXP_FUNCTIONS];
};

struct sim_exp_result {
    fast_ns span_ns;   /* that the experiment took */
    fast_ns active_ns; /* of it, some replica was at work and not held back for want of a token */
    struct sim_gpu_counters gpu;
    uint64_t events; /* steps of the simulation */
    struct {
        uint64_t requests;        /* complete */
        uint64_t refused;         /* a thousand others waited at the replica */
        struct fast_hist latency; /* of them, from being sent to the answer */
    } function[SIM_EXP_FUNCTIONS];
};

int sim_exp_run(const struct sim_exp_conf *conf, struct sim_exp_result *ret, struct fast_err *err);

#endif
