/* Decides when an asynchronous call is made, made again and given up. A call is on the disk before
 * its 202; the answer is on the disk before its callback is tried. So a call is executed at least
 * once and its callback delivered at least once, whatever dies in between; X-Call-Id tells repeated
 * ones. The function is called through the gateway's own door, as its callers do, so that queueing,
 * scaling from zero and counting are the same. */

#include "gateway/async.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "gateway/fetch.h"
#include "gateway/gateway.h"

#define BODY_MAX (16 << 20)
/* The call to the function comes in at the same door, with lines of its own beside the caller's. */
#define FIELDS_MAX (FAST_HTTP_FIELDS_MAX - 8)
#define HEAD_MAX (FAST_HTTP_HEAD_MAX - 1024)
#define RUNNING_MAX 256
#define LANE_MAX 64 /* of one function: one that does not answer holds up its own calls alone */
#define LANE_OWN 4  /* that every function may have however many others run: several do not either */
#define RUNNING_ALL 1024
#define GATHER FAST_MS(2) /* changes within this time share one write to the disk */
#define CALLBACK_TIMEOUT FAST_S(30)
#define ATTEMPTS 10
#define WAIT_MIN FAST_S(1)
#define WAIT_MAX FAST_S(120)
#define LIST_MAX 1000
#define HEAL FAST_S(1) /* how often a queue is tried that could not be written */
#define DOOR_MAX ((size_t)2 * RUNNING_ALL)

struct waiter {
    struct waiter *next;
    struct fast_http_req *req; /* NULL: it has gone */
    bool answered; /* its end frees it */
    char call_id[80];
    int64_t began;
};

/* The calls of one function, and their callbacks, that are being made. */
struct lane {
    struct lane *next;
    int running;
    char function[];
};

struct work {
    struct work *next, *prev;
    struct gw_async *async;
    struct lane *lane;
    struct gw_call call; /* strings are its own, in |text| */
    char *text, *body;
};

struct gw_async {
    struct gateway *gw;
    struct gw_queue *queue;
    struct gw_fetcher *fetcher;
    struct fast_http_server *door; /* on the loopback, for this program alone */
    struct fast_timer *gather, *wake;
    bool gathering;
    bool ailing; /* a change was lost: nothing is begun until what is held is written down anew */
    fast_ns heal_at;
    struct waiter *waiters, **waiters_end;
    struct work *work;
    struct lane *lanes;
    int running, full; /* |full|: lanes at LANE_MAX */
};

static void plan(struct gw_async *a);

/* ---- durable changes ---- */

static void reply_accepted(struct waiter *w)
{
    char lines[256];
    snprintf(lines, sizeof(lines), "X-Call-Id: %s\r\nX-Start-Time: %lld\r\n", w->call_id,
             (long long)w->began);
    fast_http_req_reply(w->req, 202, lines, NULL, "", 0);
}

static void ail(struct gw_async *a, const char *why)
{
    if (a->ailing)
        return;
    fast_log(ERROR, "the queue cannot be written", "why=\"%s\"", why);
    a->ailing = true;
    a->heal_at = fast_loop_now(a->gw->loop) + HEAL;
}

static void on_gather(void *arg)
{
    struct gw_async *a = arg;
    struct fast_err err;
    struct waiter *list = a->waiters, *next;
    a->gathering = false;
    a->waiters = NULL;
    a->waiters_end = &a->waiters;
    int r = a->queue->ops->commit(a->queue, &err);
    if (r)
        ail(a, err.msg);
    for (struct waiter *w = list; w; w = next) {
        next = w->next;
        w->answered = true;
        if (!w->req)
            free(w);
        else if (r)
            fast_http_req_text_reply(w->req, 500, "%s", err.msg);
        else
            reply_accepted(w);
    }
    plan(a);
}

static void gather(struct gw_async *a)
{
    if (a->gathering)
        return;
    a->gathering = true;
    fast_timer_set(a->gather, fast_loop_now(a->gw->loop) + GATHER);
}

static void on_waiter_done(void *user, bool complete)
{
    struct waiter *w = user;
    (void)complete;
    w->req = NULL;
    if (w->answered)
        free(w);
}

/* ---- a call comes in ---- */

static void take_field(const struct fast_http_head *h, const char *text, const char *name, char *ret,
                       size_t cap)
{
    const struct fast_http_field *f = fast_http_head_find(h, text, name);
    ret[0] = 0;
    if (f && f->value_len < cap)
        snprintf(ret, cap, "%.*s", (int)f->value_len, text + f->value);
}

/* An identifier that can be shown, and asked for. */
static bool is_plain(const char *text)
{
    const char *p = text;
    while (*p > ' ' && *p < 0x7f)
        p++;
    return *text && !*p;
}

/* The caller's fields that are for the function, and who the caller is; the rest is this call's own. */
static char *take_headers(const struct fast_http_req *req)
{
    static const char *const own[] = {"host", "expect", "x-call-id", "x-callback-url",
                                      "x-start-time"};
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req), *peer = fast_http_req_peer(req);
    char *buf = malloc(fast_http_head_room(h) + h->host_len + strlen(peer) + 64), *p = buf;
    for (uint32_t i = 0; buf && i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        bool skip = fast_http_is_hop(h, text, f);
        for (size_t k = 0; k < FAST_COUNT_OF(own); k++)
            skip = skip || fast_http_is(text + f->name, f->name_len, own[k]);
        if (!skip)
            p += sprintf(p, "%.*s: %.*s\r\n", (int)f->name_len, text + f->name, (int)f->value_len,
                         text + f->value);
    }
    if (!buf)
        return NULL;
    *p = 0;
    if (h->host_len && !fast_http_head_find(h, text, "x-forwarded-host"))
        p += sprintf(p, "X-Forwarded-Host: %.*s\r\n", (int)h->host_len, text + h->host);
    if (!fast_http_head_find(h, text, "x-forwarded-for"))
        sprintf(p, "X-Forwarded-For: %s\r\n", peer);
    return buf;
}

/* NAME[.NS] at |path|; "": not a name, or there is no such function. */
static size_t take_name(struct gateway *gw, const char *path, char *ret, size_t cap)
{
    char name[GW_NAME_MAX * 2];
    size_t n = strcspn(path, "/?");
    *ret = 0;
    if (n == 0 || n >= sizeof(name))
        return n;
    snprintf(name, sizeof(name), "%.*s", (int)n, path);
    char *dot = strrchr(name, '.');
    const char *ns = dot ? dot + 1 : GW_DEFAULT_NS;
    size_t len = dot ? (size_t)(dot - name) : n;
    if (gw_function_find(gw, name, len, ns, strlen(ns)))
        snprintf(ret, cap, "%.*s.%s", (int)len, name, ns);
    return n;
}

static void on_body(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    static const struct fast_http_req_ops ops = {.done = on_waiter_done};
    struct gw_async *a = arg;
    struct fast_err err;
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req);
    char function[2 * GW_NAME_MAX], callback[2048] = "";
    fast_autofree char *target = strndup(text + h->target, h->target_len);
    fast_autofree char *headers = take_headers(req);
    struct waiter *w = calloc(1, sizeof(*w));
    if (!target || !headers || !w) {
        free(w);
        fast_http_req_text_reply(req, 500, "no memory for a call");
        return;
    }
    const char *rest = target + strlen("/async-function/");
    rest += take_name(a->gw, rest, function, sizeof(function));
    take_field(h, text, "x-callback-url", callback, sizeof(callback));
    take_field(h, text, "x-call-id", w->call_id, sizeof(w->call_id));
    if (!is_plain(w->call_id))
        gw_call_id(a->gw, w->call_id);
    fast_http_req_note(req, w->call_id);
    w->began = fast_clock_wall();
    struct gw_call call = {.call_id = w->call_id, .function = function, .method = "POST",
                           .target = rest, .headers = headers, .callback = callback,
                           .body = body, .body_len = len, .created_ns = w->began,
                           .due_ns = w->began};
    bool has_url = fast_http_head_find(h, text, "x-callback-url");
    if (has_url && !gw_fetch_is_url(callback)) {
        fast_http_req_text_reply(req, 400, "X-Callback-Url: this is not an http or https URL");
    } else if (!*function) {
        fast_http_req_text_reply(req, 404, "error finding function: there is no such function");
    } else if (a->queue->ops->put(a->queue, &call, &err)) {
        gw_reply_err(req, &err);
        gather(a); /* what else was to be written then is told so */
    } else {
        w->req = req;
        *a->waiters_end = w;
        a->waiters_end = &w->next;
        fast_http_req_accept(req, &ops, w);
        gather(a);
        return;
    }
    free(w);
}

void gw_async_request(struct gateway *gw, struct fast_http_req *req, const char *path, size_t len)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    (void)path;
    (void)len;
    if (!fast_http_is_exact(fast_http_req_text(req) + h->method, h->method_len, "POST"))
        fast_http_req_reply(req, 405, "Allow: POST, DELETE\r\n", "text/plain; charset=utf-8",
                            "405 method not allowed\n", 23);
    else if (h->fields > FIELDS_MAX || fast_http_head_room(h) > HEAD_MAX)
        fast_http_req_text_reply(req, 431, "an asynchronous call may have %d header lines in %d bytes", FIELDS_MAX,
                                 HEAD_MAX);
    else
        fast_http_req_collect(req, BODY_MAX, on_body, gw->async);
}

/* ---- a call is made ---- */

static struct lane *enter_lane(struct gw_async *a, const char *function)
{
    struct lane *l = a->lanes;
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
    a->full += ++l->running == LANE_MAX;
    return l;
}

static void leave_lane(struct gw_async *a, struct lane *l)
{
    struct lane **at = &a->lanes;
    a->full -= l->running-- == LANE_MAX;
    if (l->running)
        return;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    free(l);
}

static void free_work(struct work *w)
{
    struct gw_async *a = w->async;
    leave_lane(a, w->lane);
    if (w->prev)
        w->prev->next = w->next;
    else
        a->work = w->next;
    if (w->next)
        w->next->prev = w->prev;
    a->running--;
    free(w->text);
    free(w->body);
    free(w);
}

struct retry {
    int64_t attempts;
    fast_ns min, max;
    const char *codes; /* NULL: the default */
};

/* Annotations as OpenFaaS has them; what is malformed counts as not there, since a deployment with
 * it was accepted. */
static struct retry retry_of(const struct gw_async *a, const struct gw_call *c)
{
    struct retry r = {ATTEMPTS, WAIT_MIN, WAIT_MAX, NULL};
    const char *dot = strrchr(c->function, '.');
    const struct gw_function *fn =
        gw_function_find(a->gw, c->function, (size_t)(dot - c->function), dot + 1, strlen(dot + 1));
    if (!fn)
        return r;
    const char *n = gw_spec_map(fn->spec, "annotations", "com.openfaas.retry.attempts");
    const char *min = gw_spec_map(fn->spec, "annotations", "com.openfaas.retry.min_wait");
    const char *max = gw_spec_map(fn->spec, "annotations", "com.openfaas.retry.max_wait");
    r.codes = gw_spec_map(fn->spec, "annotations", "com.openfaas.retry.codes");
    if (n)
        fast_parse_int(n, "attempts", 1, 1000, &r.attempts, NULL);
    if (min)
        fast_parse_duration(min, "min_wait", FAST_MS(1), FAST_S(86400), &r.min, NULL);
    if (max)
        fast_parse_duration(max, "max_wait", FAST_MS(1), FAST_S(86400), &r.max, NULL);
    return r;
}

static bool is_listed(const char *list, int code)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", code);
    size_t n = strlen(text);
    for (const char *p = list; (p = strstr(p, text)); p += n)
        if ((p == list || strchr(", ", p[-1])) && (!p[n] || strchr(", ", p[n])))
            return true;
    return false;
}

/* 503 is what the gateway says while replicas are being started. */
static bool is_passing(const struct retry *r, int status)
{
    static const char by_default[] = "408,429,500,502,503,504";
    return status == 0 || is_listed(r->codes ? r->codes : by_default, status);
}

static fast_ns wait_before(const struct retry *r, int attempts)
{
    fast_ns wait = r->min;
    for (int i = 1; i < attempts && wait < r->max; i++)
        wait *= 2;
    return wait < r->max ? wait : r->max;
}

static void settle(struct work *w, bool answer)
{
    struct gw_async *a = w->async;
    struct fast_err err;
    if (a->queue->ops->renew(a->queue, &w->call, answer, &err))
        ail(a, err.msg);
    free_work(w);
    gather(a);
}

static void forget(struct work *w)
{
    struct gw_async *a = w->async;
    struct fast_err err;
    if (a->queue->ops->remove(a->queue, w->call.id, &err))
        ail(a, err.msg);
    free_work(w);
    gather(a);
}

static void give_up(struct work *w, const char *why)
{
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
    struct work *w = arg;
    struct gw_call *c = &w->call;
    struct retry retry = retry_of(w->async, c);
    char why[200];
    c->attempts++;
    c->status = f->status;
    c->seconds = f->seconds;
    bool good = f->status >= 200 && f->status < 400;
    snprintf(why, sizeof(why), "%.150s", f->status == 0 ? f->why : good ? "" : f->body);
    if (is_passing(&retry, f->status) && c->attempts < retry.attempts) {
        fast_ns wait = wait_before(&retry, c->attempts);
        c->due_ns = fast_clock_wall() + (wait > f->retry_after ? wait : f->retry_after);
        c->why = why;
        settle(w, false);
    } else if (*c->callback) { /* who asked is told of a failure too */
        c->stage = GW_CALL_CALLBACK;
        c->attempts = 0;
        c->due_ns = fast_clock_wall();
        c->body = f->cut ? too_large : f->body;
        c->body_len = f->cut ? sizeof(too_large) - 1 : f->len;
        c->answer_headers = f->cut ? "Content-Type: text/plain; charset=utf-8\r\n" : f->headers;
        c->status = f->cut ? 502 : f->status ? f->status : 503;
        c->why = why;
        settle(w, true);
    } else if (good) {
        forget(w);
    } else {
        give_up(w, why);
    }
}

static void on_called_back(void *arg, const struct gw_fetched *f)
{
    struct work *w = arg;
    struct retry retry = retry_of(w->async, &w->call);
    char why[200];
    w->call.attempts++;
    if (f->status >= 200 && f->status < 300) {
        forget(w);
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
    w->call.due_ns = fast_clock_wall() + wait_before(&retry, w->call.attempts);
    w->call.why = why;
    settle(w, false);
}

static int call_function(struct work *w, struct fast_err *err)
{
    const struct gw_call *c = &w->call;
    struct gw_async *a = w->async;
    fast_autofree char *url = NULL, *headers = NULL;
    if (asprintf(&url, "http://127.0.0.1:%d/function/%s%s%s", fast_http_server_port(a->door),
                 c->function, *c->target == '/' ? "" : "/", c->target) < 0 ||
        asprintf(&headers, "X-Call-Id: %s\r\n%s", c->call_id, c->headers) < 0)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a call");
    struct gw_fetch f = {c->method, url, headers, c->body, c->body_len,
                         a->gw->conf->timeout + a->gw->conf->queue_timeout};
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

static int call_back(struct work *w, struct fast_err *err)
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
    struct gw_fetch f = {"POST", c->callback, headers, c->body, c->body_len, CALLBACK_TIMEOUT};
    return gw_fetch(w->async->fetcher, &f, on_called_back, w, err);
}

/* Copies a call, whose strings belong to the queue. */
static struct work *new_work(struct gw_async *a, const struct gw_call *c)
{
    const char *const from[] = {c->call_id, c->function, c->method,        c->target,
                                c->headers, c->callback, c->answer_headers};
    const char *to[FAST_COUNT_OF(from)];
    size_t len = 0;
    for (size_t i = 0; i < FAST_COUNT_OF(from); i++)
        len += strlen(from[i]) + 1;
    struct work *w = calloc(1, sizeof(*w));
    char *p = malloc(len), *body = malloc(c->body_len + 1);
    struct lane *lane = w && p && body ? enter_lane(a, c->function) : NULL;
    if (!lane) {
        free(w);
        free(p);
        free(body);
        return NULL;
    }
    *w = (struct work){.next = a->work, .async = a, .lane = lane, .call = *c, .text = p, .body = body};
    for (size_t i = 0; i < FAST_COUNT_OF(from); i++) {
        to[i] = p;
        p = stpcpy(p, from[i]) + 1;
    }
    if (c->body_len)
        memcpy(body, c->body, c->body_len);
    w->call.call_id = to[0];
    w->call.function = to[1];
    w->call.method = to[2];
    w->call.target = to[3];
    w->call.headers = to[4];
    w->call.callback = to[5];
    w->call.answer_headers = to[6];
    w->call.body = body;
    w->call.why = "";
    if (w->next)
        w->next->prev = w;
    a->work = w;
    a->running++;
    return w;
}

static void begin(void *arg, const struct gw_call *c)
{
    struct gw_async *a = arg;
    struct fast_err err;
    struct work *w = new_work(a, c);
    if (!w) {
        fast_log(ERROR, "no memory for a call", "call=%s", c->call_id);
        return;
    }
    int r = c->stage == GW_CALL_RUN ? call_function(w, &err) : call_back(w, &err);
    if (!r)
        return;
    w->call.due_ns = fast_clock_wall() + WAIT_MIN;
    w->call.why = err.msg;
    settle(w, false);
}

/* The functions that may have no more calls at a time, as take wants to know them. */
static char *busy_lanes(const struct gw_async *a)
{
    int max = a->running < RUNNING_MAX ? LANE_MAX : LANE_OWN;
    if (!a->full && max == LANE_MAX)
        return NULL;
    json_t *list = json_array();
    for (const struct lane *l = a->lanes; l; l = l->next)
        if (l->running >= max)
            json_array_append_new(list, json_string(l->function));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
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
    for (const struct work *w = a->work; w; w = w->next)
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

/* Takes what is due and sets the timer for what is not. A program that is being stopped begins
 * nothing. */
static void plan(struct gw_async *a)
{
    int64_t now = fast_clock_wall();
    if (a->gw->stopping || !a->gw->loaded) {
        fast_timer_set(a->wake, fast_loop_now(a->gw->loop) + FAST_MS(200));
        return;
    }
    if (!heal(a)) {
        fast_timer_set(a->wake, a->heal_at);
        return;
    }
    int64_t due = INT64_MAX;
    for (int taken = 1; taken > 0 && a->running < RUNNING_ALL;) {
        fast_autofree char *busy = busy_lanes(a);
        taken = a->queue->ops->take(a->queue, now, busy, begin, a);
        if (taken < 0)
            ail(a, "a call cannot be taken");
        if (taken)
            gather(a);
        else
            due = a->queue->ops->next_due(a->queue, busy);
    }
    fast_timer_set(a->wake, due == INT64_MAX ? FAST_NEVER
                            : due <= now     ? fast_loop_now(a->gw->loop) + GATHER
                                             : fast_loop_now(a->gw->loop) + (due - now));
}

static void on_wake(void *arg)
{
    plan(arg);
}

/* ---- what people see ---- */

static void add_call(void *arg, const struct gw_call *c)
{
    static const char *const stages[] = {"waiting", "callback", "dead"};
    json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:i}", "callId", c->call_id, "function", c->function,
                          "state", stages[c->stage], "attempts", c->attempts, "status", c->status);
    json_object_set_new(o, "ageSeconds",
                        json_real((double)(fast_clock_wall() - c->created_ns) / 1e9));
    int64_t wait = c->due_ns - fast_clock_wall();
    if (c->stage != GW_CALL_DEAD && c->attempts)
        json_object_set_new(o, "retryInSeconds", json_real(wait > 0 ? (double)wait / 1e9 : 0));
    if (*c->callback)
        json_object_set_new(o, "callback", json_string(c->callback));
    if (*c->why)
        json_object_set_new(o, "why", json_string(c->why));
    json_array_append_new(arg, o);
}

void gw_api_async(const struct gw_request *rq)
{
    struct gw_queue *q = rq->gw->async->queue;
    char dead[8] = "";
    uint64_t waiting, gone;
    json_t *calls = json_array();
    gw_query_get(rq->query, "dead", dead, sizeof(dead));
    q->ops->list(q, !strcmp(dead, "true"), LIST_MAX, add_call, calls);
    q->ops->count(q, &waiting, &gone);
    gw_reply_json(rq->req, 200,
                  json_pack("{s:I, s:I, s:i, s:o}", "waiting", (json_int_t)waiting, "dead",
                            (json_int_t)gone, "running", rq->gw->async->running, "calls", calls));
}

/* The function, or the queue for its replicas, sees its caller go away. Returns how many. */
static int end_running(struct gw_async *a, const char *call_id)
{
    int n = 0;
    for (struct work *w = a->work, *next; w; w = next) {
        next = w->next;
        if (strcmp(w->call.call_id, call_id) != 0)
            continue;
        gw_fetch_cancel(a->fetcher, w);
        forget(w);
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
    int lost = a->queue->ops->commit(a->queue, r ? NULL : &err);
    if (lost) {
        ail(a, err.msg);
        plan(a);
    }
    if (r || lost)
        gw_reply_err(rq->req, &err);
    else
        fast_http_req_reply(rq->req, 202, NULL, NULL, "", 0);
}

void gw_async_counts(const struct gw_async *a, uint64_t *ret_waiting, uint64_t *ret_dead,
                     int *ret_running)
{
    a->queue->ops->count(a->queue, ret_waiting, ret_dead);
    *ret_running = a->running;
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
        free_work(a->work);
    fast_http_server_free(a->door);
    while (a->waiters) {
        struct waiter *w = a->waiters;
        a->waiters = w->next;
        free(w);
    }
    if (a->queue)
        a->queue->ops->close(a->queue);
    fast_timer_free(a->gather);
    fast_timer_free(a->wake);
    free(a);
}
