#ifndef FAST_GATEWAY_ASYNC_IMPL_H
#define FAST_GATEWAY_ASYNC_IMPL_H

/* The inside of asynchronous calls: async_accept.c takes them in, async.c decides when each is made and
 * when changes are written down, async_run.c makes them, async_view.c shows them and takes them back. */

#include "gateway/async.h"
#include "gateway/fetch.h"
#include "gateway/gateway.h"

#define GW_ASYNC_RUNNING_ALL 1024 /* calls and callbacks that are being made at a time */

struct gw_async_waiter;
struct gw_async_lane;

/* A call, or its callback, that is being made. */
struct gw_async_work {
    struct gw_async_work *next, *prev;
    struct gw_async *async;
    struct gw_async_lane *lane;
    struct gw_call call; /* strings are its own, in |text|; the body only while it is begun */
    char *text;
    size_t bytes; /* of the body, while its request has them */
};

struct gw_async {
    struct gateway *gw;
    struct gw_queue *queue;
    struct gw_fetcher *fetcher;
    struct fast_http_server *door; /* on the loopback, for this program alone */
    struct fast_timer *gather, *wake;
    int64_t epoch; /* wall clock when the monotonic one was 0, as it was at the start */
    bool gathering;
    bool ailing; /* a change was lost: nothing is begun until what is held is written down anew */
    fast_ns heal_at;
    struct gw_async_waiter *waiters, **waiters_end; /* for their 202 */
    struct gw_async_work *work;
    struct gw_async_lane *lanes;
    int running, full; /* |full|: lanes that have no room */
    uint64_t submitted, processed; /* since the start: calls that were accepted, and those that are done with */
};

/* ---- async.c ---- */

/* The wall clock as it would be if nobody had set it since the start: what is put off is neither hastened nor
 * delayed by that. Differs by as much in the next life, for which gw_call.wait_ns is kept. */
int64_t gw_async_now(const struct gw_async *a);
/* What was changed is written down soon, together with other changes. */
void gw_async_gather(struct gw_async *a);
/* Writes it down now, and tells those whose calls wait for that. */
int gw_async_commit(struct gw_async *a, struct fast_err *err);
/* A change was lost, |why|. */
void gw_async_ail(struct gw_async *a, const char *why);
/* Begins what is due, and sets the timer for what is not. */
void gw_async_plan(struct gw_async *a);

/* ---- async_accept.c ---- */

/* Tells those who wait that their calls are on the disk; |lost|: that they are not. */
void gw_async_answer(struct gw_async *a, const struct fast_err *lost);
void gw_async_drop_waiters(struct gw_async *a);

/* ---- async_run.c ---- */

/* A gw_call_fn: begins |call|. */
void gw_async_begin(void *async, const struct gw_call *call);
/* It is done with: out of the queue. */
void gw_async_forget(struct gw_async_work *w);
void gw_async_free_work(struct gw_async_work *w);
/* The functions that may have no more calls at a time, as take wants to know them. NULL: none. */
json_t *gw_async_busy(const struct gw_async *a);

#endif
