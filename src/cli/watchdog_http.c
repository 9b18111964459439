/* Decides how a request is passed on to a process with an HTTP server of its own: framed anew, both
 * bodies streamed, never repeated. A process that is still starting is tried until it accepts. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/watchdog.h"

#define START_MAX FAST_S(10) /* how long a request waits for the process to listen */
#define RETRY FAST_MS(10)
#define FRAMING_ROOM 128

struct pass {
    struct watchdog *wd;
    struct fast_http_req *req;
    struct fast_http_call *call;
    struct fast_timer *timer;
    fast_ns began;
    bool answered, sent, ended; /* |sent|: something of the body has been passed on */
};

static void open_call(struct pass *p);

static void on_req_body(void *user, const char *data, size_t len)
{
    struct pass *p = user;
    p->sent = true;
    if (p->call && !fast_http_call_write(p->call, data, len))
        fast_http_req_read(p->req, false);
}

static void on_req_flush(void *user)
{
    struct pass *p = user;
    if (p->call)
        fast_http_call_flush(p->call);
}

static void on_req_end(void *user)
{
    struct pass *p = user;
    p->ended = true;
    if (p->call)
        fast_http_call_finish(p->call);
}

static void on_req_drain(void *user)
{
    struct pass *p = user;
    if (p->call)
        fast_http_call_read(p->call, true);
}

static void on_req_done(void *user, bool complete)
{
    struct pass *p = user;
    struct watchdog *wd = p->wd;
    (void)complete;
    if (p->call)
        fast_http_call_cancel(p->call);
    fast_timer_free(p->timer);
    free(p);
    wd_leave(wd);
}

static size_t put_fields(char *buf, const struct fast_http_head *h, const char *text)
{
    size_t at = 0;
    for (uint32_t i = 0; i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        if (fast_http_is_hop(h, text, f) || fast_http_is(text + f->name, f->name_len, "expect"))
            continue;
        at += (size_t)sprintf(buf + at, "%.*s: %.*s\r\n", (int)f->name_len, text + f->name,
                              (int)f->value_len, text + f->value);
    }
    return at;
}

static void on_call_head(void *user, const struct fast_http_head *h, const char *text,
                         const struct fast_http_body *body)
{
    struct pass *p = user;
    char *fields = malloc(fast_http_head_room(h) + FRAMING_ROOM);
    p->answered = true;
    if (!fields) {
        wd_error(p->req, 502, "no memory for an answer");
        return;
    }
    size_t len = put_fields(fields, h, text);
    len += (size_t)sprintf(fields + len, "X-Duration-Seconds: %f\r\n",
                           (double)(fast_clock_now() - p->began) / 1e9);
    int64_t length = h->chunked ? -1 : h->length;
    if (body->framing == FAST_HTTP_BODY_NONE && length < 0 && h->status != 304 &&
        !fast_http_req_is_head(p->req))
        length = 0;
    fast_http_req_start(p->req, h->status, fields, len, length);
    free(fields);
}

static void on_call_body(void *user, const char *data, size_t len)
{
    struct pass *p = user;
    if (!fast_http_req_write(p->req, data, len) && p->call)
        fast_http_call_read(p->call, false);
}

static void on_call_flush(void *user)
{
    fast_http_req_flush(((struct pass *)user)->req);
}

static void on_call_drain(void *user)
{
    fast_http_req_read(((struct pass *)user)->req, true);
}

static void on_call_end(void *user)
{
    struct pass *p = user;
    p->call = NULL;
    fast_http_req_end(p->req);
}

static void on_call_fail(void *user, bool connected, const char *why)
{
    struct pass *p = user;
    p->call = NULL;
    if (p->answered)
        fast_http_req_abort(p->req);
    else if (!connected && !p->sent &&
             fast_loop_now(p->wd->loop) - p->began < START_MAX && !p->wd->stopping)
        fast_timer_set(p->timer, fast_loop_now(p->wd->loop) + RETRY);
    else
        wd_error(p->req, 502, why);
}

static const struct fast_http_call_ops call_ops = {on_call_head, on_call_body, on_call_flush,
                                                   on_call_drain, on_call_end, on_call_fail};

/* One timer: to try again before the call is under way, to end it afterwards. */
static void on_timer(void *arg)
{
    struct pass *p = arg;
    if (!p->call) {
        open_call(p);
        return;
    }
    fast_http_call_cancel(p->call);
    p->call = NULL;
    if (p->answered)
        fast_http_req_abort(p->req);
    else
        wd_error(p->req, 504, "the function took longer than exec_timeout or X-Timeout allow");
}

static void open_call(struct pass *p)
{
    const struct fast_http_head *h = fast_http_req_head(p->req);
    const char *text = fast_http_req_text(p->req);
    struct fast_err err;
    char *head = malloc(fast_http_head_room(h) + FRAMING_ROOM);
    if (!head) {
        wd_error(p->req, 502, "no memory for a request");
        return;
    }
    size_t len = (size_t)sprintf(head, "%.*s %.*s HTTP/1.1\r\n", (int)h->method_len,
                                 text + h->method, (int)h->target_len, text + h->target);
    len += put_fields(head + len, h, text);
    if (h->chunked)
        len += (size_t)sprintf(head + len, "Transfer-Encoding: chunked\r\n");
    else if (h->length >= 0)
        len += (size_t)sprintf(head + len, "Content-Length: %lld\r\n", (long long)h->length);
    len += (size_t)sprintf(head + len, "\r\n");
    int r = fast_http_call_new(p->wd->pool, &call_ops, p, head, len, fast_http_req_is_head(p->req),
                               h->chunked, &p->call, &err);
    free(head);
    if (r) {
        p->call = NULL;
        on_call_fail(p, false, err.msg);
        return;
    }
    fast_timer_set(p->timer, p->began + wd_timeout(p->wd, p->req));
    if (p->ended)
        fast_http_call_finish(p->call);
    else
        fast_http_req_read(p->req, true);
}

void wd_http_request(struct watchdog *wd, struct fast_http_req *req)
{
    static const struct fast_http_req_ops ops = {on_req_body, on_req_flush, on_req_end,
                                                 on_req_drain, on_req_done};
    struct pass *p = calloc(1, sizeof(*p));
    if (p) {
        *p = (struct pass){.wd = wd, .req = req, .began = fast_loop_now(wd->loop)};
        p->timer = fast_timer_new(wd->loop, on_timer, p);
    }
    if (!p || !p->timer) {
        free(p);
        wd_error(req, 503, "no memory for another request");
        return;
    }
    wd->inflight++;
    fast_http_req_accept(req, &ops, p);
    open_call(p);
}
