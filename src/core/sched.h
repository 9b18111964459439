#ifndef FAST_CORE_SCHED_H
#define FAST_CORE_SCHED_H

/* The token scheduler of one GPU: who may keep kernels in flight, and until when. It is pure: events
 * go in with their moment, actions come out, and the caller waits for fast_sched_expiry(). Moments
 * must not decrease; an earlier one than the last counts as the last one.
 *
 * Rules, in the order of their strength:
 *  1. The SM partitions of all holders never add up to more than 100 %. A revoked token counts
 *     until its client gives it back (who never does is the caller's to end: FAST_SCHED_STUCK).
 *  2. In one window a client is charged at most limit x window, plus what its last token overran;
 *     the overrun is deducted from the next windows (core/quota.h bounds it).
 *  3. A client that always has work and owes nothing gets its request in every window, whenever any
 *     schedule can give all clients theirs: core/sched_plan.h cuts the window into slots whose owners fit
 *     together. A slot that its owner leaves idle is lent, and taken back when the owner wants it.
 *  4. What is left goes to whoever fits: first those below their request, earliest deadline and then
 *     largest missing first, then those below their limit, least used fraction first.
 *
 * Clients that need several GPUs at once: core/gang.h.
 *
 * A client here is whoever has a slice: in a node that is a replica, whose processes take turns with
 * its token. */

#include <stdbool.h>
#include <stdint.h>

#include "core/types.h"

#define FAST_SCHED_CLIENTS_MAX 4096

#define FAST_TOKEN_DEFAULT FAST_MS(10)
#define FAST_TOKEN_MIN FAST_US(100)
#define FAST_TOKEN_MAX FAST_S(10)

struct fast_sched;

struct fast_sched_conf {
    enum fast_policy policy;
    enum fast_charge charge;
    fast_ns window_ns; /* 0: FAST_WINDOW_DEFAULT */
    fast_ns token_ns;  /* the longest token; 0: FAST_TOKEN_DEFAULT */
    fast_ns drain_ns;  /* a token revoked longer ago is not waited for any more; 0: one window */
    bool greedy;       /* no slots: rule 4 alone, as the paper has it */
    bool whole_tokens; /* with any quota left a token has its full length, and nothing is deducted
                        * later (the authors' code: 300 ms tokens, 10 s windows, charge held) */
};

enum fast_sched_action_kind {
    FAST_SCHED_GRANT,     /* |client| holds |token| until |until_ns|; a token that it holds already:
                           * only |until_ns| is later now, nothing to drain */
    FAST_SCHED_REVOKE,    /* |client| must drain and give |token| back (fast_sched_done) */
    FAST_SCHED_CONTENDED, /* from now on somebody waits (|contended|), or nobody; every holder */
    FAST_SCHED_STUCK,     /* |client| has not given |token| back within drain_ns; for the log */
};

struct fast_sched_action {
    enum fast_sched_action_kind kind;
    int client;
    uint64_t token;   /* never 0, never used twice */
    fast_ns until_ns; /* FAST_NEVER in policy racing */
    bool contended;   /* GRANT, CONTENDED: somebody else waits */
    bool extended;    /* GRANT: the token was held before */
};

/* Sums since the client was added. */
struct fast_sched_stats {
    uint64_t tokens;      /* granted, extensions not counted */
    fast_ns charged_ns;   /* what counted against its quota */
    fast_ns held_ns;      /* from grant until given back */
    fast_ns wait_ns;      /* wanting, without a token */
    fast_ns throttled_ns; /* the part of wait_ns that was spent at the limit */
    fast_ns overrun_ns;   /* from revocation until given back */
    fast_ns used_ns;      /* charged in the current window, carried debt included */
    uint64_t windows;     /* that have ended */
    fast_ns windows_ns;   /* charged in these, with what a token that runs on has used of them */
    fast_ns short_ns;     /* what windows in which it had work all the time gave it less than its request */
    uint64_t token;       /* held now, 0: none */
    fast_ns deadline;     /* FAST_NEVER: none */
    bool revoked, wants;
};

int fast_sched_new(const struct fast_sched_conf *conf, fast_ns now, struct fast_sched **ret,
                   struct fast_err *err);
void fast_sched_free(struct fast_sched *s); /* NULL is fine */

/* ---- events. After each one the actions are taken with fast_sched_next() until it says no. ---- */

/* Returns the client's number, which is free again after its removal; else -code. Allocates. */
int fast_sched_add(struct fast_sched *s, const struct fast_slice *slice, fast_ns now,
                   struct fast_err *err);
/* A token that it holds is free at once. */
void fast_sched_remove(struct fast_sched *s, int client, fast_ns now);
/* The quota changes at once, the SM partition with the next token. Allocates nothing. */
int fast_sched_resize(struct fast_sched *s, int client, const struct fast_slice *slice, fast_ns now,
                      struct fast_err *err);
/* The client has work. Changes nothing if it holds a token or waits already. */
void fast_sched_want(struct fast_sched *s, int client, fast_ns now);
/* What the client has to do, or will want to do next, should be done by |deadline| (FAST_NEVER: no matter
 * when). Among those who still miss something of their request, and own no slot at the moment, the earliest
 * deadline comes first, and no deadline last; no guarantee depends on it. It holds until the client has no work. */
void fast_sched_deadline(struct fast_sched *s, int client, fast_ns deadline, fast_ns now);
/* The client has no work any more, and no token. */
void fast_sched_unwant(struct fast_sched *s, int client, fast_ns now);
/* The client gives |token| back, revoked or not. |busy_ns| is bounded by the time it was held.
 * FAST_EINVAL when it does not hold this token; nothing has changed then. */
int fast_sched_done(struct fast_sched *s, int client, uint64_t token, fast_ns busy_ns, bool want,
                    fast_ns now, struct fast_err *err);
/* Changes the rules. Tokens that are out are revoked when they would break the new ones. A new
 * window begins. */
int fast_sched_conf_set(struct fast_sched *s, const struct fast_sched_conf *conf, fast_ns now,
                        struct fast_err *err);
/* To be called when fast_sched_expiry() is reached; too early or too often does no harm. */
void fast_sched_tick(struct fast_sched *s, fast_ns now);

/* Takes the next action; false when there is none. */
bool fast_sched_next(struct fast_sched *s, struct fast_sched_action *ret);

/* ---- questions ---- */

/* When fast_sched_tick() has something to do next; FAST_NEVER: only after another event. */
fast_ns fast_sched_expiry(const struct fast_sched *s);
const struct fast_sched_conf *fast_sched_conf(const struct fast_sched *s); /* defaults filled in */
struct fast_sched_stats fast_sched_stats(const struct fast_sched *s, int client, fast_ns now);
int fast_sched_sm_held(const struct fast_sched *s); /* percent, revoked tokens included */
int fast_sched_tokens_out(const struct fast_sched *s);
/* Length of the shortest schedule found that gives every client its request, by the slots of the
 * plan; at most the window if the requests can all be met. A plan is kept while it serves: some requests may be
 * lower than what it was made for. */
fast_ns fast_sched_planned_ns(const struct fast_sched *s);
uint64_t fast_sched_plans(const struct fast_sched *s); /* how many were made; each is a linear program */

/* Invariants, for tests and fuzzers. */
bool fast_sched_valid(const struct fast_sched *s);

#endif
