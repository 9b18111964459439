/* Decides when an asynchronous call is made, and when changes are written down. A call is on the disk before
 * its 202; the answer is on the disk before its callback is tried. So a call is executed at least once and
 * its callback delivered at least once, whatever dies in between; X-Call-Id tells repeated ones. */

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gateway/async_impl.h"

#define GATHER FAST_MS(2) /* changes within this time share one write to the disk */
#define HEAL FAST_S(1)    /* how often a queue is tried that could not be written */
#define BEGIN_MAX 32 /* calls begun without a look at what else there is to do, each some 0.1 ms */
#define DOOR_MAX ((size_t)2 * GW_ASYNC_RUNNING_ALL)

int64_t gw_async_now(const struct gw_async *a)
{
    return a->epoch + fast_loop_now(a->gw->loop);
}

/* ---- durable changes ---- */

void gw_async_ail(struct gw_async *a, const char *why)
{
    if (a->ailing)
        return;
    fast_log(ERROR, "the queue cannot be written", "why=\"%s\"", why);
    a->ailing = true;
    a->heal_at = fast_loop_now(a->gw->loop) + HEAL;
}

int gw_async_commit(struct gw_async *a, struct fast_err *err)
{
    struct fast_err lost;
    int r = a->queue->ops->commit(a->queue, &lost);
    if (r)
        gw_async_ail(a, lost.msg);
    gw_async_answer(a, r ? &lost : NULL);
    if (r && err)
        *err = lost;
    return r;
}

static void on_gather(void *arg)
{
    struct gw_async *a = arg;
    a->gathering = false;
    gw_async_commit(a, NULL);
    gw_async_plan(a);
}

void gw_async_gather(struct gw_async *a)
{
    if (a->gathering)
        return;
    a->gathering = true;
    fast_timer_set(a->gather, fast_loop_now(a->gw->loop) + GATHER);
}

/* Once it can be written again: what ended meanwhile is made anew, since nobody knows of its end. */
static bool heal(struct gw_async *a)
{
    struct fast_err err;
    if (!a->ailing)
        return true;
    if (fast_loop_now(a->gw->loop) < a->heal_at)
        return false;
    json_t *held = json_array();
    for (const struct gw_async_work *w = a->work; w; w = w->next)
        json_array_append_new(held, json_integer(w->call.id));
    fast_autofree char *text = json_dumps(held, JSON_COMPACT);
    json_decref(held);
    if (!text || a->queue->ops->reclaim(a->queue, text, &err)) {
        a->heal_at = fast_loop_now(a->gw->loop) + HEAL;
        return false;
    }
    a->ailing = false;
    fast_log(INFO, "the queue can be written again", "running=%d", a->running);
    return true;
}

/* Takes what is due, a part at a time, and sets the timer for what is not. A program that is being stopped
 * begins nothing. */
void gw_async_plan(struct gw_async *a)
{
    int64_t now = gw_async_now(a);
    if (a->gathering) /* what is not written down yet is not begun, nor lost unnoticed: on_gather comes back here */
        return;
    if (a->gw->stopping || !a->gw->loaded) {
        fast_timer_set(a->wake, fast_loop_now(a->gw->loop) + FAST_MS(200));
        return;
    }
    if (!heal(a)) {
        fast_timer_set(a->wake, a->heal_at);
        return;
    }
    int64_t due = INT64_MAX;
    for (int taken = 1, left = BEGIN_MAX; taken > 0 && left && a->running < GW_ASYNC_RUNNING_ALL; left--) {
        json_t *busy = gw_async_busy(a);
        taken = a->queue->ops->take(a->queue, now, busy, gw_async_begin, a);
        if (taken < 0)
            gw_async_ail(a, "a call cannot be taken");
        if (taken)
            gw_async_gather(a);
        else
            due = a->queue->ops->next_due(a->queue, busy);
        json_decref(busy);
    }
    fast_timer_set(a->wake, due == INT64_MAX ? FAST_NEVER
                            : due <= now     ? fast_loop_now(a->gw->loop) + GATHER
                                             : fast_loop_now(a->gw->loop) + (due - now));
}

static void on_wake(void *arg)
{
    gw_async_plan(arg);
}

/* ---- life ---- */

/* The loopback door leads to functions alone: it asks for no password. */
static void on_door(void *arg, struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *path = fast_http_req_text(req) + h->target;
    static const char functions[] = "/function/";
    size_t n = sizeof(functions) - 1;
    if (h->target_len > n && !memcmp(path, functions, n))
        gw_invoke(arg, req, path + n, h->target_len - n);
    else
        fast_http_req_text_reply(req, 404, "404 page not found");
}

int gw_async_new(struct gateway *gw, struct gw_queue *queue, struct gw_async **ret,
                 struct fast_err *err)
{
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .max_conns = DOOR_MAX,
                                         .handler = on_door, .arg = gw};
    struct gw_async *a = calloc(1, sizeof(*a));
    if (!a)
        return fast_err_set(err, FAST_ENOMEM, "no memory for asynchronous calls");
    a->gw = gw;
    a->waiters_end = &a->waiters;
    a->epoch = fast_clock_wall() - fast_clock_now();
    a->gather = fast_timer_new(gw->loop, on_gather, a);
    a->wake = fast_timer_new(gw->loop, on_wake, a);
    int r = a->gather && a->wake ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for timers");
    r = r ? r : fast_http_server_new(gw->loop, &conf, &a->door, err);
    r = r ? r : gw_fetcher_new(gw->loop, &a->fetcher, err);
    if (r) {
        gw_async_free(a);
        return r;
    }
    a->queue = queue;
    fast_timer_set(a->wake, fast_loop_now(gw->loop) + FAST_MS(200));
    *ret = a;
    return 0;
}

void gw_async_free(struct gw_async *a)
{
    if (!a)
        return;
    gw_fetcher_free(a->fetcher);
    while (a->work)
        gw_async_free_work(a->work);
    fast_http_server_free(a->door);
    gw_async_drop_waiters(a);
    if (a->queue)
        a->queue->ops->close(a->queue);
    fast_timer_free(a->gather);
    fast_timer_free(a->wake);
    free(a);
}
