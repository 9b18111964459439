/* Asynchronous calls as people see them: the list, the dead ones, and DELETE, which takes one back. */

#include <string.h>

#include "gateway/async_impl.h"

#define LIST_MAX 1000

struct view {
    json_t *calls;
    int64_t now;
};

static void add_call(void *arg, const struct gw_call *c)
{
    const struct view *v = arg;
    static const char *const stages[] = {"waiting", "callback", "dead"};
    json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:i}", "callId", c->call_id, "function", c->function,
                          "state", stages[c->stage], "attempts", c->attempts, "status", c->status);
    int64_t age = v->now - c->created_ns, wait = c->due_ns - v->now;
    json_object_set_new(o, "ageSeconds", json_real(age > 0 ? (double)age / 1e9 : 0));
    if (c->stage != GW_CALL_DEAD && c->attempts)
        json_object_set_new(o, "retryInSeconds", json_real(wait > 0 ? (double)wait / 1e9 : 0));
    if (*c->callback)
        json_object_set_new(o, "callback", json_string(c->callback));
    if (*c->why)
        json_object_set_new(o, "why", json_string(c->why));
    json_array_append_new(v->calls, o);
}

void gw_api_async(const struct gw_request *rq)
{
    struct gw_async *a = rq->gw->async;
    struct gw_queue *q = a->queue;
    char dead[8] = "";
    uint64_t waiting, gone;
    struct view v = {json_array(), gw_async_now(a)};
    gw_query_get(rq->query, "dead", dead, sizeof(dead));
    q->ops->list(q, !strcmp(dead, "true"), LIST_MAX, add_call, &v);
    q->ops->count(q, &waiting, &gone);
    gw_reply_json(rq->req, 200,
                  json_pack("{s:I, s:I, s:i, s:o}", "waiting", (json_int_t)waiting, "dead",
                            (json_int_t)gone, "running", a->running, "calls", v.calls));
}

/* The function, or the queue for its replicas, sees its caller go away. Returns how many. */
static int end_running(struct gw_async *a, const char *call_id)
{
    int n = 0;
    for (struct gw_async_work *w = a->work, *next; w; w = next) {
        next = w->next;
        if (strcmp(w->call.call_id, call_id) != 0)
            continue;
        gw_fetch_cancel(a->fetcher, w);
        gw_async_forget(w);
        n++;
    }
    return n;
}

void gw_api_async_call(const struct gw_request *rq, const char *call_id)
{
    struct gw_async *a = rq->gw->async;
    struct fast_err err;
    int ended = end_running(a, call_id);
    int r = a->queue->ops->cancel(a->queue, call_id, &err);
    if (r == -FAST_ENOENT && ended)
        r = 0;
    int lost = gw_async_commit(a, r ? NULL : &err);
    if (lost)
        gw_async_plan(a);
    if (r || lost)
        gw_reply_err(rq->req, &err);
    else
        fast_http_req_reply(rq->req, 202, NULL, NULL, "", 0);
}

struct gw_async_counts gw_async_counts(const struct gw_async *a)
{
    struct gw_async_counts c = {.running = a->running, .submitted = a->submitted, .processed = a->processed};
    a->queue->ops->count(a->queue, &c.waiting, &c.dead);
    return c;
}
