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
#define SIM_CLUSTER_FAILURES 16
#define SIM_CLUSTER_BUCKETS 200

enum sim_cluster_policy {
    SIM_CLUSTER_QUEUE,  /* FAST_SCALER_QUEUE, the gateway's default: quotas follow the work */
    SIM_CLUSTER_FLAT,   /* FAST_SCALE_QUEUE with quotas that stay */
    SIM_CLUSTER_LIVE,   /* the same with quotas that are guaranteed while a replica is there */
    SIM_CLUSTER_PAPER,  /* FAST_SCALE_PAPER */
    SIM_CLUSTER_HYBRID, /* FAST_SCALE_HYBRID, every 2 s */
    SIM_CLUSTER_WHOLE,  /* whole GPUs, by concurrency as Knative's autoscaler for KServe: mean of 60 s
                         * at 70 %, of 6 s when that is twice as much as there is */
    SIM_CLUSTER_POLICIES
};

struct sim_cluster_function {
    const char *name;
    const struct fast_profile *profile;
    const struct fast_arrivals *arrivals;
    fast_ns slo_ns;
    uint64_t mem_bytes;
    int min, max;
    int first_sm, first_quota; /* slice of the replicas that |min| asks for; 0: the policy's choice */
    /* A closed loop instead of |arrivals|: |query| requests at a time, the next ones when all are
     * answered; the latency of each is that of its query. 0: open. */
    int query;
};

enum sim_cluster_fail { SIM_FAIL_REPLICA, SIM_FAIL_GPU, SIM_FAIL_NODE };

/* What fails: the longest-serving replica, or the GPU or node that it is on. */
struct sim_cluster_failure {
    enum sim_cluster_fail kind;
    fast_ns at;
    fast_ns back_after; /* GPU, node: usable again so long after; 0: never */
};

struct sim_cluster_conf {
    enum sim_cluster_policy policy;
    int gpus;
    int gpus_per_node; /* 0: 4 */
    uint64_t gpu_mem;
    fast_ns window_ns;  /* 0: FAST_WINDOW_DEFAULT */
    fast_ns start_ns;   /* from the decision to the first request served */
    fast_ns resize_ns;  /* from the decision to raise a quota to its effect; 0: 5 ms */
    fast_ns tick_ns;    /* of the scaler; 0: 1 s */
    fast_ns timeout_ns; /* a request that waits longer is answered 504; 0: 10 s */
    fast_ns zero_after; /* without load for so long: no replica; 0: never below 1 */
    fast_ns defrag_ns;  /* so often GPUs are emptied by moving replicas behind warm copies; 0: never */
    fast_ns end_ns;
    int nfailures;
    struct sim_cluster_failure failure[SIM_CLUSTER_FAILURES];
    int functions;
    struct sim_cluster_function function[SIM_CLUSTER_FUNCTIONS];
};

struct sim_cluster_step {
    fast_ns at;
    int function, replicas;
};

/* One of SIM_CLUSTER_BUCKETS equal parts of the time. */
struct sim_cluster_bucket {
    uint64_t requests, violations; /* that ended in it */
    double gpu_s, busy_s, mem_s;   /* as below */
};

struct sim_cluster_result {
    uint64_t requests, violations, timeouts, starts, stops, refused; /* of all functions */
    uint64_t resizes, unraised; /* quotas changed in place; quotas that could not be raised */
    uint64_t cold;      /* starts of a function that had no replica */
    uint64_t moves;     /* replicas moved behind a warm copy */
    uint64_t lost;      /* requests that were in flight on what failed */
    uint64_t failures;  /* that hit something */
    fast_ns replica_ns; /* time that replicas held a place */
    double gpu_s;       /* their SM x guaranteed quota x time, in seconds of a whole GPU */
    double busy_s;      /* of it, in use */
    double mem_s;       /* their memory x time, in seconds of a whole GPU's memory */
    double gpus_s;      /* time of GPUs with any replica, looked at every second */
    fast_ns last_answer; /* when the last request was answered */
    uint64_t events;
    struct sim_cluster_bucket bucket[SIM_CLUSTER_BUCKETS];
    struct {
        uint64_t requests, violations;
        struct fast_hist latency;
        double gpu_s;
        int64_t least_ns; /* the least SM x GPU time of all its requests, over the profile's slices
                           * that meet the SLO, in ns of a whole GPU */
    } function[SIM_CLUSTER_FUNCTIONS];
    int nsteps;
    struct sim_cluster_step step[SIM_CLUSTER_STEPS]; /* changes of the number of replicas */
};

int sim_cluster_run(const struct sim_cluster_conf *conf, struct sim_cluster_result *ret,
                    struct fast_err *err);

const char *sim_cluster_policy_name(enum sim_cluster_policy policy);
int sim_cluster_policy_parse(const char *text, enum sim_cluster_policy *ret, struct fast_err *err);

#endif
