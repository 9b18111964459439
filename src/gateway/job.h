#ifndef FAST_GATEWAY_JOB_H
#define FAST_GATEWAY_JOB_H

/* One request to a function, as the files that handle it share it: invoke.c (its life), invoke_head.c
 * (what is written of heads), invoke_queue.c (its wait). */

#include "core/due.h"
#include "core/fair.h"
#include "gateway/gateway.h"
#include "gateway/trace.h"

/* Bytes of all bodies that are kept in memory, to be sent again or together with others. */
#define GW_KEPT_MAX ((size_t)256 << 20)

/* One request, from its head to the last byte of its answer. */
struct gw_job {
    struct gw_job *next, *prev; /* of the gateway */
    struct fast_fair_item waiting;
    struct fast_due_item waits_until;
    struct gateway *gw;
    struct gw_function *fn;
    struct gw_replica *replica; /* NULL: it waits */
    struct gw_job *at_next, *at_prev; /* others at the same replica */
    struct fast_http_req *req;  /* NULL: it carries |batch| */
    struct gw_batch *batch, *in_batch; /* that it carries, that it travels in */
    struct fast_http_call *call;
    const char *method;
    uint32_t rest, rest_len; /* path and query for the function, within the head */
    bool upgrade, tunnel; /* the caller asks for another protocol; the function has agreed */
    bool cold, idempotent, answered, body_ended, counted;
    bool sized; /* the answer's length is known */
    int attempts, connects, status;
    uint64_t avoid; /* key of the replica that failed it; 0: none */
    fast_ns began, sent, deadline;
    uint64_t arrived; /* bytes of its body since it was sent */
    fast_ns due; /* by its SLO; 0: none */
    int64_t wall;
    char call_id[GW_CALL_ID_MAX];
    struct gw_trace trace;
    char *traced; /* the replica that it was sent to last, when it is traced */
    char *replay; /* the body so far, while it may be needed again: until the answer begins */
    size_t replay_len, replay_cap;
    bool replay_lost; /* it has grown too large to be kept */
};

/* ---- invoke.c ---- */

/* A job of |fn|, in its and the gateway's lists. |req| may be NULL. NULL: no memory. */
struct gw_job *gw_job_new(struct gateway *gw, struct gw_function *fn, struct fast_http_req *req);
void gw_job_free(struct gw_job *j); /* leaves its replica and its queue */
void gw_job_done(void *user, bool complete); /* |done| of fast_http_req_ops: frees it */
/* Sends it by itself after all; its body is in |replay|. */
void gw_job_alone(struct gw_job *j);
fast_ns gw_job_timeout(const struct gw_job *j);
/* Gives the request to a replica, or lets it wait for one, or answers that there is none. */
void gw_job_dispatch(struct gw_job *j);
/* Answers by the gateway itself. |retry_s|: of Retry-After, 0: without it. */
void gw_job_error(struct gw_job *j, int status, int retry_s, const char *why);

/* ---- invoke_head.c ---- */

/* The lines that every answer of a function has, errors too, as a string; returns its length. */
size_t gw_own_lines(const char *call_id, int64_t wall, char *buf, size_t cap);
/* The head for the function, with its blank line: *|ret| is the gateway's and stands until the next head is
 * written. 0: no memory. */
size_t gw_job_request_head(const struct gw_job *j, const char **ret);
/* The lines of the answer's head, without those of framing; the same. */
size_t gw_job_answer_lines(const struct gw_job *j, const struct fast_http_head *h, const char *text,
                           const char **ret);

/* ---- deadline.c ---- */

/* |j| goes to |r|; it leaves where it is, which is returned (NULL: it was nowhere). */
void gw_job_arrives(struct gw_job *j, struct gw_replica *r);
struct gw_replica *gw_job_departs(struct gw_job *j);
/* After either. */
void gw_replica_tell_due(struct gateway *gw, struct gw_replica *r);

/* ---- invoke_queue.c ---- */

/* Lets it wait for a replica, or answers that it cannot be served in time. */
void gw_job_wait(struct gw_job *j);
void gw_job_stop_waiting(struct gw_job *j);
/* A replica has answered it in full: what is known of the time that takes. */
void gw_job_learn(struct gw_job *j);

#endif
