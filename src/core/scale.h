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
 * they share would make at most LATE_MILLI (scale_by_queue.c) of 1,000 requests late (scale_queue.h: an upper
 * estimate) at the load expected when a start is done. Of the configurations the one goes first whose
 * replicas take the least SM x quota together. A replica goes only while the others would do at
 * CALM_MILLI times that load, so that small changes of the load change nothing. With |vertical| a
 * replica holds its quota only while it works (fast_scale_quota()): the configuration is then the one
 * that takes the least GPU time for a request, with a little for each replica that there has to be, and
 * there may be replicas for the worst second that is remembered, as those that wait hold only memory.
 * With |in_place| quotas are raised where the replicas are before one is started, and lowered when none
 * can be stopped; a replica that is being started counts for the expected load, and not for that of now.
 *
 * FAST_SCALE_HYBRID is HAS-GPU's scaler (Gu et al. 2025) as its authors published it, with its bugs
 * repaired; scale_hybrid.c says which. It raises and lowers quotas in place before it starts or stops,
 * and its load is a Kalman filter's (fast_kalman_step()), which the caller gives as |expected_milli|. */

#include <stdbool.h>
#include <stdint.h>

#include "core/profile.h"
#include "core/types.h"

#define FAST_SCALE_REASON 112
#define FAST_SCALE_LINGER FAST_MS(5)
#define FAST_SCALE_REPLICAS_MAX 1000

enum fast_scale_policy {
    FAST_SCALE_PAPER,
    FAST_SCALE_TARGET,
    FAST_SCALE_QUEUE,
    FAST_SCALE_HYBRID,
    FAST_SCALE_COUNT
};

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
    bool vertical;             /* FAST_SCALE_QUEUE: quotas follow the work */
    bool in_place;             /* FAST_SCALE_QUEUE: quotas change before the number of replicas does */
};

/* A replica that runs or is being started; one that is being stopped is not among them. */
struct fast_scale_replica {
    uint64_t id;
    int sm_pct, quota_milli;
    int64_t rps_milli; /* T; 0: looked up in the profile, or the target */
    int room_milli;    /* HYBRID, |in_place|: by how much its quota can be raised where it is */
    bool starting;     /* FAST_SCALE_QUEUE: it does not serve yet */
};

enum fast_scale_kind { FAST_SCALE_START, FAST_SCALE_STOP, FAST_SCALE_RESIZE };

/* What was weighed in a decision. */
struct fast_scale_option {
    enum fast_scale_kind kind;
    uint64_t id; /* STOP, RESIZE */
    int sm_pct, quota_milli, count;
    int late_milli; /* of 1,000 requests, as estimated; -1: not estimated */
    int64_t cost;   /* in a unit that only compares; 0: not compared */
    char why[64];
};

#define FAST_SCALE_OPTIONS 5

/* What a decision went by, for people. Options: those with the least cost, in that order, then the
 * rest. */
struct fast_scale_trace {
    int64_t load_milli; /* decided by */
    int late_milli, late_max_milli; /* of the replicas that there were; -1: not estimated */
    bool needs_room;                /* quotas would be raised: |room_milli| counts */
    int noptions;
    struct fast_scale_option option[FAST_SCALE_OPTIONS];
};

struct fast_scale_input {
    fast_ns now;
    int64_t load_milli;     /* requests/s, thousandths */
    int64_t expected_milli; /* QUEUE: load when a start is done; HYBRID: the filter's; 0: not known */
    int64_t burst_milli;    /* FAST_SCALE_QUEUE: a load that may come at any moment; 0: none */
    int64_t calm_milli;     /* FAST_SCALE_QUEUE: the most load of late; nothing goes that it would need */
    int queued;             /* FAST_SCALE_QUEUE: requests that wait; they are worked off in a second */
    fast_ns last_request;   /* when the last one came */
    fast_ns last_up, last_down; /* when an action was last carried out; 0: never */
    const struct fast_profile *profile; /* NULL: none, then as FAST_SCALE_TARGET */
    const struct fast_scale_replica *replicas;
    int nreplicas;
    struct fast_scale_trace *trace; /* filled in; NULL: not wanted */
};

struct fast_scale_action {
    enum fast_scale_kind kind;
    uint64_t id;        /* STOP and RESIZE: which */
    int sm_pct;         /* START: the configuration */
    int quota_milli;    /* RESIZE: the new one */
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
int fast_scale_policy_parse(const char *text, enum fast_scale_policy *ret, struct fast_err *err);

/* The quota that a replica of |full_milli| shall be guaranteed now, with |vertical|: all of it while it
 * has requests and FAST_SCALE_LINGER after the last one (when it |was_busy|), else none. It keeps its
 * limit, so that a request begins on idle time before the guarantee is there. */
int fast_scale_quota(int full_milli, int in_flight, fast_ns was_busy, fast_ns now);

/* HAS-GPU's filter of the load, one for each function; zeroed, with P0 = 1 set by the first step. */
struct fast_kalman {
    double x, p;
    bool began;
};
/* Takes the measured load, returns the one to scale by: the estimate and one deviation, but at least
 * 5 requests/s above what was measured. */
int64_t fast_kalman_step(struct fast_kalman *k, int64_t load_milli);

#endif
