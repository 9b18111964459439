#ifndef FAST_SIM_CLUSTER_H
#define FAST_SIM_CLUSTER_H

/* A cluster in virtual time: the gateway's queue of each function, the scaler (core/scale), placement
 * (core/place) and replicas whose GPU time is granted in windows, as the token scheduler does it. The
 * same configuration gives the same result.
 *
 * A replica is its profile: a request takes host time, then GPU time on the replica's SM partition, of
 * which it gets its quota in every window. Replicas of one GPU hold to their guaranteed share; that
 * they disturb each other in caches and DRAM, and that idle shares are lent, is left out
 * (sim/experiment.h has both, for one GPU). */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "core/profile.h"
#include "core/scale.h"
#include "sim/arrivals.h"

#define SIM_CLUSTER_FUNCTIONS 64
#define SIM_CLUSTER_STEPS 4096

enum sim_cluster_policy {
    SIM_CLUSTER_QUEUE, /* FAST_SCALE_QUEUE, with the load expected when a start is done */
    SIM_CLUSTER_PAPER, /* FAST_SCALE_PAPER */
    SIM_CLUSTER_WHOLE, /* whole GPUs, one more for each full throughput at 70 % (KServe's target) */
    SIM_CLUSTER_POLICIES
};

struct sim_cluster_function {
    const char *name;
    const struct fast_profile *profile;
    const struct fast_arrivals *arrivals;
    fast_ns slo_ns;
    uint64_t mem_bytes;
    int min, max;
};

struct sim_cluster_conf {
    enum sim_cluster_policy policy;
    int gpus;
    uint64_t gpu_mem;
    fast_ns window_ns;  /* 0: FAST_WINDOW_DEFAULT */
    fast_ns start_ns;   /* from the decision to the first request served */
    fast_ns tick_ns;    /* of the scaler; 0: 1 s */
    fast_ns timeout_ns; /* a request that waits longer is answered 504; 0: 10 s */
    fast_ns zero_after; /* without load for so long: no replica; 0: never below 1 */
    fast_ns end_ns;
    fast_ns fail_gpu_at; /* one GPU with replicas fails then; 0: none does */
    int functions;
    struct sim_cluster_function function[SIM_CLUSTER_FUNCTIONS];
};

struct sim_cluster_step {
    fast_ns at;
    int function, replicas;
};

struct sim_cluster_result {
    uint64_t requests, violations, timeouts, starts, stops, refused; /* of all functions */
    fast_ns replica_ns; /* time that replicas held a place */
    double gpu_s;       /* their SM x quota x time, in seconds of a whole GPU */
    double busy_s;      /* of it, in use */
    uint64_t events;
    struct {
        uint64_t requests, violations;
        struct fast_hist latency;
        double gpu_s;
    } function[SIM_CLUSTER_FUNCTIONS];
    int nsteps;
    struct sim_cluster_step step[SIM_CLUSTER_STEPS]; /* changes of the number of replicas */
};

int sim_cluster_run(const struct sim_cluster_conf *conf, struct sim_cluster_result *ret,
                    struct fast_err *err);

const char *sim_cluster_policy_name(enum sim_cluster_policy policy);
int sim_cluster_policy_parse(const char *text, enum sim_cluster_policy *ret, struct fast_err *err);

#endif
