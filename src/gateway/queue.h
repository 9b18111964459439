#ifndef FAST_GATEWAY_QUEUE_H
#define FAST_GATEWAY_QUEUE_H

/* Where asynchronous calls wait. What stands behind it has to keep a call until it is removed,
 * whatever dies, and to hand out each one at least once; SQLite does (queue_sqlite.c), and a stream
 * with acknowledgements such as NATS JetStream could: take is its pull, renew a delayed negative
 * acknowledgement, remove its acknowledgement.
 *
 * Changes are durable when commit has returned 0, many with one write to the disk. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum gw_call_stage {
    GW_CALL_RUN,      /* the function is to be called */
    GW_CALL_CALLBACK, /* it has answered; the answer is to be delivered */
    GW_CALL_DEAD      /* given up; kept for people to see */
};

/* Strings end with a NUL and belong to whoever made the struct. */
struct gw_call {
    int64_t id; /* of the queue */
    const char *call_id;
    const char *function; /* NAME.NAMESPACE */
    const char *method, *target; /* "/rest?query" behind the function's name */
    const char *headers;         /* lines, each with its CRLF */
    const char *callback;        /* "" : none */
    const void *body;            /* of the request; in stage CALLBACK of the answer */
    size_t body_len;
    int64_t created_ns, due_ns; /* wall clock, less its jumps: see gw_async_now() */
    int64_t wait_ns; /* how far off |due_ns| was when it was set */
    int stage, attempts, status;
    double seconds;             /* that the function took */
    const char *answer_headers; /* in stage CALLBACK */
    const char *why;            /* of the last failure, "" : none */
};

typedef void gw_call_fn(void *arg, const struct gw_call *call);

struct gw_queue;

struct gw_queue_ops {
    int (*put)(struct gw_queue *q, const struct gw_call *call, struct fast_err *err);
    /* Hands out the call that has been due longest, that nobody has, and whose function is not in
     * |busy| (an object with a member for each NAME.NAMESPACE; NULL: none is); it is the caller's until it is
     * renewed or removed, or this program ends. Returns 1, 0 when there is none, or a negative error. */
    int (*take)(struct gw_queue *q, int64_t now_ns, const json_t *busy, gw_call_fn *fn, void *arg);
    /* Stores stage, attempts, due time and wait, status, why, and with |answer| the body and headers of it. */
    int (*renew)(struct gw_queue *q, const struct gw_call *call, bool answer, struct fast_err *err);
    int (*remove)(struct gw_queue *q, int64_t id, struct fast_err *err);
    /* FAST_ENOENT: there is no such call, or it is being executed. */
    int (*cancel)(struct gw_queue *q, const char *call_id, struct fast_err *err);
    int (*commit)(struct gw_queue *q, struct fast_err *err);
    /* After a change that failed: handed out are the calls |held| (a JSON array of ids), and no others. Writes
     * something in any case, and is durable when it returns 0. */
    int (*reclaim)(struct gw_queue *q, const char *held, struct fast_err *err);
    /* The oldest |max|, dead ones or those that wait, without bodies. */
    int (*list)(struct gw_queue *q, bool dead, int max, gw_call_fn *fn, void *arg);
    void (*count)(struct gw_queue *q, uint64_t *ret_waiting, uint64_t *ret_dead);
    /* When the next one that take would hand out is due; INT64_MAX: there is none. */
    int64_t (*next_due)(struct gw_queue *q, const json_t *busy);
    void (*close)(struct gw_queue *q);
};

/* The head of every queue. */
struct gw_queue {
    const struct gw_queue_ops *ops;
};

/* No call is due later than its wait after |now_ns|: the clock by which it was put off may have been wrong. */
int gw_queue_sqlite_open(const char *path, int64_t now_ns, struct gw_queue **ret, struct fast_err *err);

#endif
