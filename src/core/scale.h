#ifndef FAST_CORE_SCALE_H
#define FAST_CORE_SCALE_H

/* How many replicas of which configuration a function needs. Decides for one function at a time from
 * its load and its replicas; where they go is place.h's business.
 *
 * FAST_SCALE_PAPER is the heuristic of FaST-GShare, exactly: with the gap = load - sum of T over the
 * replicas, a positive gap is closed with the configuration of the best RPR, floor(gap / T) times, and
 * the rest by the configuration with the smallest T that covers it; with a negative gap replicas go in
 * ascending order of RPR while what remains still covers the load. Only configurations whose latency
 * meets the SLO count. It has no memory of its own: cool-down is 0 unless asked for.
 *
 * FAST_SCALE_TARGET is for functions without a profile: ceil(load / target) replicas of one slice;
 * the newest (highest id) go first.
 *
 * FAST_SCALE_QUEUE is for functions with a profile and an SLO. Replicas are enough when the queue that
 * they share would make at most LATE_MILLI (scale.c) of 1,000 requests late (scale_queue.h: an upper
 * estimate) at the load expected when a start is done. Of the configurations the one goes first whose
 * replicas take the least SM x quota together. A replica goes only while the others would do at
 * CALM_MILLI times that load, so that small changes of the load change nothing. */

#include <stdbool.h>
#include <stdint.h>

#include "core/profile.h"
#include "core/types.h"

#define FAST_SCALE_REASON 112
#define FAST_SCALE_REPLICAS_MAX 1000

enum fast_scale_policy { FAST_SCALE_PAPER, FAST_SCALE_TARGET, FAST_SCALE_QUEUE, FAST_SCALE_COUNT };

/* What a function asks for. */
struct fast_scale_conf {
    enum fast_scale_policy policy;
    int min, max;              /* replicas; min 0 allows none */
    fast_ns slo_ns;            /* 0: every configuration will do */
    bool slo_p99;              /* the SLO is on p99, else on p95 (the paper's) */
    int64_t target_rps_milli;  /* FAST_SCALE_TARGET: load of one replica; 0: replicas stay as they
                                * are between min and max */
    struct fast_slice slice;   /* configuration of new replicas without a profile, and of those that
                                * |min| asks for beyond the load; sm_pct 0 with a profile: best RPR */
    fast_ns zero_after;        /* without load for so long, min 0 is reached; before that one replica
                                * stays. FAST_NEVER: never below 1 */
    fast_ns up_cooldown;       /* at least so long between two starts; 0: none */
    fast_ns down_cooldown;     /* at least so long since the last start or stop before a stop */
};

/* A replica that runs or is being started; one that is being stopped is not among them. */
struct fast_scale_replica {
    uint64_t id;
    int sm_pct, quota_milli;
    int64_t rps_milli; /* T; 0: looked up in the profile, or the target */
};

struct fast_scale_input {
    fast_ns now;
    int64_t load_milli;     /* requests/s, thousandths */
    int64_t expected_milli; /* FAST_SCALE_QUEUE: load when a start is done; 0: not known */
    int queued;             /* FAST_SCALE_QUEUE: requests that wait; they are worked off in a second */
    fast_ns last_request;   /* when the last one came */
    fast_ns last_up, last_down; /* when an action was last carried out; 0: never */
    const struct fast_profile *profile; /* NULL: none, then as FAST_SCALE_TARGET */
    const struct fast_scale_replica *replicas;
    int nreplicas;
};

enum fast_scale_kind { FAST_SCALE_START, FAST_SCALE_STOP };

struct fast_scale_action {
    enum fast_scale_kind kind;
    uint64_t id;        /* STOP: which */
    int sm_pct;         /* START: the configuration */
    int quota_milli;
    int64_t rps_milli;  /* T of it */
    char reason[FAST_SCALE_REASON];
};

/* Decides. Writes at most |max| actions (the rest is decided next time) and returns how many; 0:
 * nothing to do. FAST_EINVAL when |conf| is wrong (min above max, no target, ...). FAST_ENOENT when
 * no configuration of the profile meets the SLO: the message names the best latency. */
int fast_scale_decide(const struct fast_scale_conf *conf, const struct fast_scale_input *input,
                      struct fast_scale_action *ret, int max, struct fast_err *err);

/* Checks the ranges of |conf|, for those who accept it from people. */
int fast_scale_check(const struct fast_scale_conf *conf, struct fast_err *err);

const char *fast_scale_policy_name(enum fast_scale_policy policy);

#endif
