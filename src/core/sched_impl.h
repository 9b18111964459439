#ifndef FAST_CORE_SCHED_IMPL_H
#define FAST_CORE_SCHED_IMPL_H

/* The state behind core/sched.h, shared by sched.c (events, accounts) and sched_pick.c (decisions).
 * Nobody else includes this. */

#include "core/quota.h"
#include "core/sched.h"
#include "core/sched_plan.h"
#include "core/sched_tree.h"

enum client_state {
    CLIENT_FREE,  /* the number is not in use */
    CLIENT_IDLE,  /* no work, no token */
    CLIENT_READY, /* work and no token: in |ready|, or throttled */
    CLIENT_HOLD,  /* holds a token: in |timed| by its end; once expired in |ready| for a moment */
    CLIENT_DRAIN, /* its token is revoked: in |timed| until it is stuck */
};

enum tell { TELL_GRANT = 1, TELL_REVOKE = 2, TELL_STUCK = 4 };

struct client {
    struct fast_tree_node ready; /* who is next */
    struct fast_tree_node timed; /* whose token ends next */
    enum client_state state;
    struct fast_slice slice;
    struct fast_quota quota;
    int plan_i;     /* item of the plan, -1: none */
    bool throttled; /* READY and at its limit */
    bool expired;   /* HOLD and past its end: only within a decision */
    bool stuck;     /* DRAIN and not waited for */
    bool rested;    /* it had no work for a moment of this window */
    bool extended;  /* the grant to be told is an extension */
    unsigned tell;
    int tell_prev, tell_next;
    uint64_t token;
    int held_sm;
    int holder_i; /* place in |holders| while a token is out */
    fast_ns granted_at, until, revoked_at, ready_at, throttled_at;
    fast_ns deadline; /* FAST_NEVER: none */
    struct fast_sched_stats sum;
};

struct fast_sched {
    struct fast_sched_conf conf;
    struct client *clients;
    int cap, used;  /* places, places that were ever in use */
    int free_first; /* a list of free places through tell_next, -1: none */
    fast_ns now;
    fast_ns window_at; /* when this window began */
    uint64_t last_token;
    int sm_held;   /* all tokens that are out */
    int sm_active; /* those not revoked and not expired */
    int sm_stuck;  /* those revoked and not waited for */
    int tokens_out;
    int throttled; /* clients that wait for the next window */
    bool contended, tell_contended;
    int tell_first, tell_last; /* clients with something to tell, in the order it came up */
    struct fast_tree ready, timed;

    struct fast_plan plan;
    int plan_client[FAST_PLAN_CLIENTS];
    int slot;         /* of the plan, at |now| */
    bool plan_old;    /* clients changed since it was made */
    bool window_used; /* a token was granted in this window: the plan is kept until it ends */

    int *holders; /* the clients of the |tokens_out| tokens, in no order; |cap| long */
    int *aside;   /* scratch of one decision, |cap| long, like |expired| */
    int expired_count, *expired;
};

#define CLIENT_OF_READY(n) FAST_CONTAINER_OF(n, struct client, ready)
#define CLIENT_OF_TIMED(n) FAST_CONTAINER_OF(n, struct client, timed)

static inline int sched_id(const struct fast_sched *s, const struct client *c)
{
    return (int)(c - s->clients);
}

/* The share of the GPU that a token of |c| takes under the policy of now. */
static inline int sched_width(const struct fast_sched *s, const struct client *c)
{
    if (s->conf.policy == FAST_POLICY_FAST)
        return c->slice.sm_pct;
    return s->conf.policy == FAST_POLICY_TIMESHARE ? FAST_SM_PCT_MAX : 0;
}

/* Charged in this window, with the token that runs now counted in full. */
fast_ns sched_used(const struct fast_sched *s, const struct client *c);

/* Puts a READY client among those that can be picked, or marks it as throttled. */
void sched_ready_insert(struct fast_sched *s, struct client *c);
void sched_ready_remove(struct fast_sched *s, struct client *c);
bool sched_owns_slot(const struct fast_sched *s, const struct client *c);
/* The token of |c| is back, or gone with its client. */
void sched_unhold(struct fast_sched *s, struct client *c);
void sched_revoke(struct fast_sched *s, struct client *c);
void sched_tell(struct fast_sched *s, struct client *c, unsigned what);

/* Brings window, slot and plan up to |now|. */
void sched_advance(struct fast_sched *s, fast_ns now);
/* Makes a new plan for a window in which no token was granted yet, if the clients have changed. */
void sched_plan_fresh(struct fast_sched *s);
/* Gives out what can be given out. */
void sched_dispatch(struct fast_sched *s);

#endif
