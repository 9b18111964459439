/* Decides what becomes of a call: made, made again, called back, given up. The function is called through the
 * gateway's own door, as its callers do, so that queueing, scaling from zero and counting are the same. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gateway/async_impl.h"
#include "gateway/retry.h"

#define RUNNING_MAX 256
#define LANE_MAX 64 /* of one function: one that does not answer holds up its own calls alone */
#define LANE_OWN 4  /* that every function may have however many others run: several do not either */
#define LANE_BYTES ((size_t)64 << 20) /* of the bodies of one function, which are in memory: no more once it has them */
#define WHY_MAX 150
#define CALLBACK_TIMEOUT FAST_S(30)
#define SOON FAST_S(1) /* when a call is tried again that could not be begun */

/* The calls of one function, and their callbacks, that are being made. */
struct gw_async_lane {
    struct gw_async_lane *next;
    int running;
    size_t bytes;
    char function[];
};

/* ---- lanes ---- */

static bool is_full(const struct gw_async_lane *l, int max)
{
    return l->running >= max || l->bytes >= LANE_BYTES;
}

static void change_lane(struct gw_async *a, struct gw_async_lane *l, int running, size_t bytes)
{
    a->full -= is_full(l, LANE_MAX);
    l->running += running;
    l->bytes += bytes;
    a->full += is_full(l, LANE_MAX);
}

static struct gw_async_lane *enter_lane(struct gw_async *a, const char *function, size_t bytes)
{
    struct gw_async_lane *l = a->lanes;
    while (l && strcmp(l->function, function) != 0)
        l = l->next;
    if (!l) {
        size_t name = strlen(function) + 1;
        l = calloc(1, sizeof(*l) + name);
        if (!l)
            return NULL;
        memcpy(l->function, function, name);
        l->next = a->lanes;
        a->lanes = l;
    }
    change_lane(a, l, 1, bytes);
    return l;
}

static void leave_lane(struct gw_async *a, struct gw_async_lane *l, size_t bytes)
{
    struct gw_async_lane **at = &a->lanes;
    change_lane(a, l, -1, -bytes);
    if (l->running)
        return;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    free(l);
}

json_t *gw_async_busy(const struct gw_async *a)
{
    int max = a->running < RUNNING_MAX ? LANE_MAX : LANE_OWN;
    if (!a->full && max == LANE_MAX)
        return NULL;
    json_t *busy = json_object();
    for (const struct gw_async_lane *l = a->lanes; l; l = l->next)
        if (is_full(l, max))
            json_object_set_new(busy, l->function, json_true());
    return busy;
}

/* ---- what becomes of it ---- */

void gw_async_free_work(struct gw_async_work *w)
{
    struct gw_async *a = w->async;
    leave_lane(a, w->lane, w->bytes);
    if (w->prev)
        w->prev->next = w->next;
    else
        a->work = w->next;
    if (w->next)
        w->next->prev = w->prev;
    a->running--;
    free(w->text);
    free(w);
}

static struct gw_retry retry_of(const struct gw_async *a, const struct gw_call *c)
{
    const char *dot = strrchr(c->function, '.');
    const struct gw_function *fn =
        gw_function_find(a->gw, c->function, (size_t)(dot - c->function), dot + 1, strlen(dot + 1));
    return gw_retry_of(fn ? fn->spec : NULL);
}

static void put_off(struct gw_async_work *w, fast_ns wait)
{
    w->call.wait_ns = wait;
    w->call.due_ns = gw_async_now(w->async) + wait;
}

static void settle(struct gw_async_work *w, bool answer)
{
    struct gw_async *a = w->async;
    struct fast_err err;
    if (a->queue->ops->renew(a->queue, &w->call, answer, &err))
        gw_async_ail(a, err.msg);
    gw_async_free_work(w);
    gw_async_gather(a);
}

void gw_async_forget(struct gw_async_work *w)
{
    w->async->processed++;
    struct gw_async *a = w->async;
    struct fast_err err;
    if (a->queue->ops->remove(a->queue, w->call.id, &err))
        gw_async_ail(a, err.msg);
    gw_async_free_work(w);
    gw_async_gather(a);
}

static void give_up(struct gw_async_work *w, const char *why)
{
    w->async->processed++;
    fast_log(WARN, "a call was given up", "call=%s function=%s attempts=%d status=%d why=\"%s\"",
             w->call.call_id, w->call.function, w->call.attempts, w->call.status, why);
    w->call.stage = GW_CALL_DEAD;
    w->call.why = why;
    settle(w, false);
}

static void on_called(void *arg, const struct gw_fetched *f)
{
    static const char too_large[] = "the answer of the function is larger than 64 MiB\n";
    _Static_assert(GW_FETCH_MAX >> 20 == 64, "what is said about it");
    struct gw_async_work *w = arg;
    struct gw_call *c = &w->call;
    struct gw_retry retry = retry_of(w->async, c);
    char why[200];
    c->attempts++;
    c->status = f->status;
    c->seconds = f->seconds;
    bool good = f->status >= 200 && f->status < 400;
    snprintf(why, sizeof(why), "%.*s", WHY_MAX, f->status == 0 ? f->why : good ? "" : f->body);
    if (gw_retry_passes(&retry, f->status) && c->attempts < retry.attempts) {
        fast_ns wait = gw_retry_wait(&retry, c->attempts);
        put_off(w, wait > f->retry_after ? wait : f->retry_after);
        c->why = why;
        settle(w, false);
    } else if (*c->callback) { /* who asked is told of a failure too */
        c->stage = GW_CALL_CALLBACK;
        c->attempts = 0;
        put_off(w, 0);
        c->body = f->cut ? too_large : f->body;
        c->body_len = f->cut ? sizeof(too_large) - 1 : f->len;
        c->answer_headers = f->cut ? "Content-Type: text/plain; charset=utf-8\r\n" : f->headers;
        c->status = f->cut ? 502 : f->status ? f->status : 503;
        c->why = why;
        settle(w, true);
    } else if (good) {
        gw_async_forget(w);
    } else {
        give_up(w, why);
    }
}

static void on_called_back(void *arg, const struct gw_fetched *f)
{
    struct gw_async_work *w = arg;
    struct gw_retry retry = retry_of(w->async, &w->call);
    char why[200];
    w->call.attempts++;
    if (f->status >= 200 && f->status < 300) {
        gw_async_forget(w);
        return;
    }
    if (f->status)
        snprintf(why, sizeof(why), "callback: answered with status %d", f->status);
    else
        snprintf(why, sizeof(why), "callback: %.120s", f->why);
    if (w->call.attempts >= retry.attempts) {
        give_up(w, why);
        return;
    }
    put_off(w, gw_retry_wait(&retry, w->call.attempts));
    w->call.why = why;
    settle(w, false);
}

/* ---- a call is made ---- */

static int call_function(struct gw_async_work *w, struct fast_err *err)
{
    const struct gw_call *c = &w->call;
    struct gw_async *a = w->async;
    fast_autofree char *url = NULL, *headers = NULL;
    if (asprintf(&url, "http://127.0.0.1:%d/function/%s%s%s", fast_http_server_port(a->door),
                 c->function, *c->target == '/' ? "" : "/", c->target) < 0 ||
        asprintf(&headers, "X-Call-Id: %s\r\n%s", c->call_id, c->headers) < 0)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a call");
    struct gw_fetch f = {c->method, url, headers, c->body, c->body_len,
                         a->gw->conf->timeout + a->gw->conf->queue_timeout,
                         *c->callback ? GW_FETCH_MAX : WHY_MAX};
    return gw_fetch(a->fetcher, &f, on_called, w, err);
}

/* The lines of an answer, less those that a callback, a request, has of its own. */
static char *without_own(const char *lines)
{
    static const char *const own[] = {"x-call-id", "x-duration-seconds", "x-function-status",
                                      "x-function-name", "host", "expect"};
    char *kept = malloc(strlen(lines) + 1), *p = kept;
    while (kept && *lines) {
        const char *end = strstr(lines, "\r\n");
        size_t n = end ? (size_t)(end + 2 - lines) : strlen(lines), name = strcspn(lines, ":\r");
        bool is_own = false;
        for (size_t i = 0; i < FAST_COUNT_OF(own); i++)
            is_own = is_own || fast_http_is(lines, name, own[i]);
        if (!is_own)
            p = mempcpy(p, lines, n);
        lines += n;
    }
    if (kept)
        *p = 0;
    return kept;
}

static int call_back(struct gw_async_work *w, struct fast_err *err)
{
    const struct gw_call *c = &w->call;
    fast_autofree char *headers = NULL;
    fast_autofree char *kept = without_own(c->answer_headers);
    if (!kept)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a callback");
    if (asprintf(&headers, "%sX-Call-Id: %s\r\nX-Duration-Seconds: %f\r\nX-Function-Status: %d\r\n"
                 "X-Function-Name: %s\r\n", kept, c->call_id, c->seconds, c->status,
                 c->function) < 0)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a callback");
    struct gw_fetch f = {"POST", c->callback, headers, c->body, c->body_len, CALLBACK_TIMEOUT, 0};
    return gw_fetch(w->async->fetcher, &f, on_called_back, w, err);
}

/* Copies a call, whose strings belong to the queue. */
static struct gw_async_work *new_work(struct gw_async *a, const struct gw_call *c)
{
    const char *const from[] = {c->call_id, c->function, c->method,        c->target,
                                c->headers, c->callback, c->answer_headers};
    const char *to[FAST_COUNT_OF(from)];
    size_t len = 0;
    for (size_t i = 0; i < FAST_COUNT_OF(from); i++)
        len += strlen(from[i]) + 1;
    struct gw_async_work *w = calloc(1, sizeof(*w));
    char *p = malloc(len);
    struct gw_async_lane *lane = w && p ? enter_lane(a, c->function, c->body_len) : NULL;
    if (!lane) {
        free(w);
        free(p);
        return NULL;
    }
    *w = (struct gw_async_work){.next = a->work, .async = a, .lane = lane, .call = *c, .text = p,
                                .bytes = c->body_len};
    for (size_t i = 0; i < FAST_COUNT_OF(from); i++) {
        to[i] = p;
        p = stpcpy(p, from[i]) + 1;
    }
    w->call.call_id = to[0];
    w->call.function = to[1];
    w->call.method = to[2];
    w->call.target = to[3];
    w->call.headers = to[4];
    w->call.callback = to[5];
    w->call.answer_headers = to[6];
    w->call.why = "";
    if (w->next)
        w->next->prev = w;
    a->work = w;
    a->running++;
    return w;
}

void gw_async_begin(void *arg, const struct gw_call *c)
{
    struct gw_async *a = arg;
    struct fast_err err;
    struct gw_async_work *w = new_work(a, c);
    if (!w) {
        gw_async_ail(a, "no memory for a call"); /* it is taken back with what else nobody holds */
        return;
    }
    int r = c->stage == GW_CALL_RUN ? call_function(w, &err) : call_back(w, &err);
    w->call.body = NULL; /* the request has its own copy */
    if (!r)
        return;
    put_off(w, SOON);
    w->call.why = err.msg;
    settle(w, false);
}
