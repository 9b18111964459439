#ifndef FAST_CORE_SCHED_IMPL_H
#define FAST_CORE_SCHED_IMPL_H

/* The state behind core/sched.h and core/gang.h, shared by sched.c (events, accounts), sched_window.c (windows,
 * plans), sched_pick.c (decisions) and sched_gang.c (clients of several GPUs). Nobody else includes this.
 *
 * Domain: the GPUs that clients of several GPUs link with each other; of most schedulers it is their own GPU.
 * A decision is one for the whole domain, at one moment and in one window. */

#include "core/gang.h"
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

/* A client of several GPUs. It is a client of the scheduler of each of them, a part, and has a token of all of
 * them or of none. */
struct gang {
    uint32_t gpus; /* bits; 0: the place is free */
    int client[FAST_PLAN_GPUS]; /* by GPU */
};

struct fast_gangs {
    int n;     /* GPUs */
    int count; /* gangs */
    struct fast_sched *sched[FAST_PLAN_GPUS];
    uint32_t linked[FAST_PLAN_GPUS]; /* the domain of each */
    struct gang gang[FAST_GANGS_MAX];
};

struct client {
    struct fast_tree_node ready; /* who is next */
    struct fast_tree_node timed; /* whose token ends next */
    enum client_state state;
    struct fast_slice slice;
    struct fast_quota quota;
    struct gang *gang; /* NULL: it needs this GPU alone */
    int plan_i;     /* item of the plan, -1: none */
    bool throttled; /* READY and at its limit */
    bool expired;   /* HOLD and past its end: only within a decision */
    bool stuck;     /* DRAIN and not waited for */
    bool rested;    /* it had no work for a moment of this window */
    bool bound;     /* READY part of a gang that may be granted: counted in |bound| */
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
    int bound;     /* parts of gangs that wait and may be granted */
    bool contended, tell_contended;
    int tell_first, tell_last; /* clients with something to tell, in the order it came up */
    struct fast_tree ready, timed;

    struct fast_plan plan;
    int plan_client[FAST_PLAN_CLIENTS];
    int plan_sm[FAST_PLAN_CLIENTS]; /* what it was made for */
    fast_ns plan_request[FAST_PLAN_CLIENTS];
    uint64_t plans; /* that were made */
    int slot;         /* of the plan, at |now| */
    bool plan_old;    /* clients changed since it was made */
    bool plan_void;   /* it is for another window or other GPUs, whatever clients there are */
    bool window_used; /* a token was granted in this window: the plan is kept until it ends */

    struct fast_gangs *gangs; /* NULL: a GPU by itself */
    int gpu;                  /* place in |gangs| */

    int room;       /* within a decision: SMs that nobody has or has a claim on; may be negative */
    bool heads;     /* within a decision: the first in the order is still to be helped */
    bool patient;   /* within a decision: nobody has a claim yet because he waited for long */
    int aside_count;

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

/* The schedulers of the domain: for (uint32_t d = sched_domain(s); d; d &= d - 1) sched_of(s, d) ... */
static inline uint32_t sched_domain(const struct fast_sched *s)
{
    return s->gangs ? s->gangs->linked[s->gpu] : 1;
}

static inline struct fast_sched *sched_of(struct fast_sched *s, uint32_t domain)
{
    return s->gangs ? s->gangs->sched[__builtin_ctz(domain)] : s;
}

static inline int sched_waiting(const struct fast_sched *s)
{
    return s->ready.count + s->bound;
}

/* Charged in this window, with the token that runs now counted in full; of a gang on the GPU where that is
 * most. */
fast_ns sched_used(const struct fast_sched *s, const struct client *c);

/* Puts a READY client among those that can be picked, or marks it as throttled. */
void sched_ready_insert(struct fast_sched *s, struct client *c);
void sched_ready_remove(struct fast_sched *s, struct client *c);
bool sched_owns_slot(const struct fast_sched *s, const struct client *c);
/* The token of |c| is back, or gone with its client. */
void sched_unhold(struct fast_sched *s, struct client *c);
/* Of a gang: all that its parts hold. */
void sched_revoke(struct fast_sched *s, struct client *c);
void sched_revoke_one(struct fast_sched *s, struct client *c);
void sched_tell(struct fast_sched *s, struct client *c, unsigned what);

/* ---- sched_window.c ---- */

/* Brings window, slot and plan up to |now|, in the whole domain. */
void sched_advance(struct fast_sched *s, fast_ns now);
/* Makes a new plan for a window in which no token was granted yet, if the clients have changed. */
void sched_plan_fresh(struct fast_sched *s);
void sched_window_begin(struct fast_sched *s, fast_ns at);
/* Its quota or its part in the plan has changed. */
void sched_rekey(struct fast_sched *s, struct client *c);

/* ---- sched_pick.c ---- */

/* Gives out what can be given out, in the whole domain. */
void sched_dispatch(struct fast_sched *s);

/* For sched_gang.c. */
#define SCHED_PATIENCE 2 /* who is next and too wide for what is free lets nobody pass after so many tokens */
enum { CLASS_OWNER, CLASS_MISSING, CLASS_ELASTIC };
void sched_key(const struct fast_sched *s, const struct client *c, int64_t key[FAST_TREE_KEYS]);
bool sched_at_limit(const struct fast_sched *s, const struct client *c);
fast_ns sched_token_end(const struct fast_sched *s, const struct client *c);
/* Revokes tokens of a weaker class than |class|, the weakest first, until |need| per cent are free. All or
 * nothing; |try|: only says whether it could. */
bool sched_preempt(struct fast_sched *s, int64_t class, int need, bool try);
void sched_grant(struct fast_sched *s, struct client *c, fast_ns until);
void sched_extend(struct fast_sched *s, struct client *c, fast_ns until);
/* Gives out tokens to clients of this GPU alone, those before |key| in the order (NULL: all). */
void sched_fill(struct fast_sched *s, const int64_t *key);

/* ---- sched_gang.c ---- */

/* Gives out tokens to gangs of the domain, and to others that are before them in the order. */
void sched_gangs_decide(struct fast_sched *s);
/* Revokes the tokens that the parts of a gang hold. */
void sched_gang_revoke(struct fast_sched *s, const struct gang *g);
/* One of them has come back. */
void sched_gang_returned(struct fast_sched *s, const struct gang *g);
/* All its parts are gone. */
void sched_gang_forget(struct fast_gangs *gangs, struct gang *g);

/* The part of |g| on the GPU of the lowest bit of |gpus|. */
static inline struct client *sched_part(const struct fast_sched *s, const struct gang *g, uint32_t gpus)
{
    int gpu = __builtin_ctz(gpus);
    return &s->gangs->sched[gpu]->clients[g->client[gpu]];
}

#endif
