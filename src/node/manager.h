#ifndef FAST_NODE_MANAGER_H
#define FAST_NODE_MANAGER_H

/* The manager half of fast-node, as its own files see it; node.h has what the agent sees.
 *
 * pool: one GPU with its token scheduler and memory. share: what a replica holds of a pool. session:
 * one process of a replica. A replica has one token of a GPU at a time; if it has several processes, they
 * take turns with it.
 *
 * A replica of several GPUs has a share of each, its parts. Their tokens come and go together (core/gang.h); while
 * they are there, each part hands its own to whichever process wants it, and one that nobody wants stays
 * reserved. */

#include "core/gang.h"
#include "node/ledger.h"
#include "node/node.h"
#include "node/pages.h"

struct node_pool {
    struct node_manager *m;
    uint32_t gpu;
    struct fast_sched *sched;
    struct fast_timer *timer;
    struct node_ledger_device device;
    struct node_share *shares; /* a list */
    struct node_share **by_client; /* of the scheduler's numbers, |by_client_len| long */
    int by_client_len;
    fast_ns measured; /* node_measure() was at it, 0: never */
    bool contended; /* as told last: somebody waits for a token */
    fast_ns contended_at; /* since when */
};

/* A connection that is over, but for what its other end has not read: descriptors on their way, which the kernel
 * counts for this user until they are taken or that end is closed. */
struct node_unread {
    struct node_unread *next;
    struct node_share *share; /* NULL: it is gone */
    int fd;
};

/* A reservation that waits for the store to drop models that nobody uses. */
struct node_wish {
    struct node_wish *next; /* of its session */
    struct node_session *session;
    uint32_t id;
    struct fast_msg_mem_reserve ask;
};

/* What a process has of one GPU of its replica. */
struct node_seat {
    struct node_session *next; /* of the queue of that part, while |queued| */
    bool queued;               /* wants a token */
    bool wished;               /* policy racing: would wait under another one */
    struct node_ledger_process mem;
};

/* So much of something in a span of time. */
struct node_budget {
    fast_ns since; /* when the current span began */
    uint32_t used;
};

struct node_session {
    struct node_manager *m;
    struct node_session *prev, *next;             /* of m->sessions */
    struct node_share *share;                     /* the first part; NULL before hello */
    struct node_session *share_prev, *share_next; /* of share->sessions */
    struct node_seat seat[FAST_PAGE_GPUS];        /* by the index of the part */
    int fd;
    struct fast_watch *watch;
    struct node_pages pages;
    struct node_wish *wishes; /* reservations that wait for room */
    int32_t pid; /* who connected; it may have ended since, and the number be another one's */
    uint64_t ticks; /* when that process began, node_process_stat() */
    bool reported, mps; /* mps: it is a client of MPS, as its driver says */
    uint32_t sm_count;  /* that its driver gives it */
    uint32_t uid;
    fast_ns opened;
    bool paused;
    bool oddity_logged;
    uint32_t oddities; /* messages that made no sense */
};

struct node_share {
    struct node_pool *pool;
    struct node_replica *replica;
    struct node_share *prev, *next;
    int client; /* number in the scheduler */
    int index;  /* of the GPU, as the replica counts */
    struct node_share *first, *next_part; /* of the replica */
    struct node_session *sessions; /* of the first part: of the replica */
    int guaranteed_milli; /* of the request, node_share_hold(); of the first part */
    uint32_t session_count;
    struct node_budget messages, lines; /* of all processes; of the first part */
    uint32_t unread;       /* closed connections whose other end keeps the pages unread */
    struct node_session *queue, *queue_last; /* sessions that want a token, in order */

    uint64_t token;         /* of the scheduler, 0: none */
    bool revoked;           /* it goes back to the scheduler as soon as the holder is done */
    fast_ns revoked_at;
    fast_ns killed_at;      /* its replica was killed for this token then; 0: it was not */
    fast_ns until;
    struct node_session *holder; /* has the token now */
    uint64_t holder_token;  /* its number in the holder's page */
    fast_ns given_at;       /* to the holder */
    fast_ns busy_ns;        /* reported under |token| by earlier holders of it */

    struct node_ledger mem;
    uint64_t dead_launches; /* of sessions that are gone */
    fast_ns dead_busy_ns;
};

struct node_manager {
    struct node *node;
    struct fast_sched_conf conf;
    struct fast_gangs *gangs; /* the schedulers of all pools */
    bool applying;
    bool may_linger; /* there is more than one core */
    int listen_fd;
    struct fast_watch *listen_watch;
    bool listen_full; /* nobody is accepted until somebody has said hello, or has been thrown out */
    struct fast_timer *tick; /* reads again from who was too fast, accepts again, drops the silent */
    fast_ns tick_at; /* 0: it is not set */
    struct fast_timer *pulse; /* tells all clients that the node is alive */
    struct node_session *sessions;
    struct node_unread *unread;
    uint32_t sessions_max;
    uint32_t session_count, strangers; /* strangers: before hello */
    struct node_budget lines;          /* of the log, for strangers */
    uint64_t last_token;
    uint64_t lost_wishes; /* clients asked again for a token that the node did not know of */
    int pools;
    struct node_pool pool[FAST_NODE_GPUS_MAX];
    unsigned char buf[FAST_MSG_MAX];
};

int node_manager_new(struct node *node, struct node_manager **ret, struct fast_err *err);
/* Tells all clients that the node goes away on purpose, so that they do not wait for it. */
void node_manager_closing(struct node_manager *m);
void node_manager_free(struct node_manager *m);

/* ---- manager.c ---- */

/* Performs what the scheduler has decided, and those that gangs link it with, and sets the timers for what comes
 * next. */
void node_pool_apply(struct node_pool *pool);

/* ---- share.c ---- */

/* The share of GPU |index| of the replica; NULL: it has none. */
struct node_share *node_share_part(struct node_share *first, uint32_t index);
void node_share_granted(struct node_share *s, const struct fast_sched_action *a);
void node_share_revoked(struct node_share *s);
void node_share_contended(struct node_share *s, bool contended);
/* Ends who keeps a token that others wait for. */
void node_share_check(struct node_share *s, fast_ns now);
void node_share_want(struct node_share *s, struct node_session *session, bool again);
/* The policy is not racing any more: who asked this part for a token meanwhile gets in line. */
void node_share_resume(struct node_share *s);
/* What its driver says of a process: it is not a client of MPS, or one with more SMs than its partition has. */
bool node_share_escaped(const struct node_session *session);
/* False: the session does not hold this token. */
bool node_share_done(struct node_share *s, struct node_session *session, uint64_t token,
                     fast_ns busy_ns, bool want);
/* |first|: the first part of the replica. */
void node_share_attach(struct node_share *s, struct node_session *session);
void node_share_detach(struct node_share *s, struct node_session *session);
/* Writes limits and memory use of this part into the pages of all sessions of the replica. */
void node_share_publish(struct node_share *s);

/* ---- session.c ---- */

int node_session_listen(struct node_manager *m, struct fast_err *err);
void node_session_close(struct node_session *s);
/* The share is gone. */
void node_session_forget_unread(struct node_manager *m, const struct node_share *share);
void node_session_free_unread(struct node_manager *m);
/* Whether there may be another line about it in the log. */
bool node_session_may_tell(struct node_session *s);
void node_session_tick(void *arg); /* of m->tick */

#endif
