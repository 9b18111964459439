/* Decides what of a request is kept as an asynchronous call, and answers it when the call is on the disk. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/async_impl.h"

#define BODY_MAX (16 << 20)
/* The call to the function comes in at the same door, with lines of its own beside the caller's. */
#define FIELDS_MAX (FAST_HTTP_FIELDS_MAX - 8)
#define HEAD_MAX (FAST_HTTP_HEAD_MAX - 1024)

struct gw_async_waiter {
    struct gw_async_waiter *next;
    struct fast_http_req *req; /* NULL: it has gone */
    bool answered; /* its end frees it */
    char call_id[80];
    int64_t began;
};

/* ---- the answer ---- */

static void reply_accepted(struct gw_async_waiter *w)
{
    char lines[256];
    snprintf(lines, sizeof(lines), "X-Call-Id: %s\r\nX-Start-Time: %lld\r\n", w->call_id,
             (long long)w->began);
    fast_http_req_reply(w->req, 202, lines, NULL, "", 0);
}

void gw_async_answer(struct gw_async *a, const struct fast_err *lost)
{
    struct gw_async_waiter *list = a->waiters, *next;
    a->waiters = NULL;
    a->waiters_end = &a->waiters;
    for (struct gw_async_waiter *w = list; w; w = next) {
        next = w->next;
        w->answered = true;
        a->submitted += !lost;
        if (!w->req)
            free(w);
        else if (lost)
            gw_call_refuse(a->gw, w->req, 500, "", "%s", lost->msg);
        else
            reply_accepted(w);
    }
}

void gw_async_drop_waiters(struct gw_async *a)
{
    while (a->waiters) {
        struct gw_async_waiter *w = a->waiters;
        a->waiters = w->next;
        free(w);
    }
}

static void on_waiter_done(void *user, bool complete)
{
    struct gw_async_waiter *w = user;
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
    if (h->host_len && !fast_http_passes(h, text, "x-forwarded-host"))
        p += sprintf(p, "X-Forwarded-Host: %.*s\r\n", (int)h->host_len, text + h->host);
    if (!fast_http_passes(h, text, "x-forwarded-for"))
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
    struct gw_async_waiter *w = calloc(1, sizeof(*w));
    if (!target || !headers || !w) {
        free(w);
        gw_call_refuse(a->gw, req, 500, "", "no memory for a call");
        return;
    }
    const char *name = target + strlen("/async-function/"), *rest = name;
    rest += take_name(a->gw, rest, function, sizeof(function));
    take_field(h, text, "x-callback-url", callback, sizeof(callback));
    take_field(h, text, "x-call-id", w->call_id, sizeof(w->call_id));
    if (!is_plain(w->call_id))
        gw_call_id(a->gw, w->call_id);
    fast_http_req_note(req, w->call_id);
    w->began = fast_clock_wall();
    int64_t now = gw_async_now(a);
    struct gw_call call = {.call_id = w->call_id, .function = function, .method = "POST",
                           .target = rest, .headers = headers, .callback = callback,
                           .body = body, .body_len = len, .created_ns = now, .due_ns = now};
    bool has_url = fast_http_head_find(h, text, "x-callback-url");
    if (has_url && !gw_fetch_is_url(callback)) {
        gw_call_refuse(a->gw, req, 400, "", "X-Callback-Url: this is not an http or https URL");
    } else if (!*function) {
        gw_call_refuse(a->gw, req, 404, "", "error finding function %.*s: there is no such function",
                       (int)strcspn(name, "/?"), name);
    } else if (a->queue->ops->put(a->queue, &call, &err)) {
        gw_call_refuse(a->gw, req, 500, "", "%s", err.msg);
        gw_async_gather(a); /* what else was to be written then is told so */
    } else {
        w->req = req;
        *a->waiters_end = w;
        a->waiters_end = &w->next;
        fast_http_req_accept(req, &ops, w);
        gw_async_gather(a);
        return;
    }
    free(w);
}

void gw_async_request(struct gateway *gw, struct fast_http_req *req, const char *path, size_t len)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    (void)path;
    (void)len;
    fast_http_req_watch(req);
    if (!fast_http_is_exact(fast_http_req_text(req) + h->method, h->method_len, "POST"))
        gw_call_refuse(gw, req, 405, "Allow: POST, DELETE\r\n", "405 method not allowed");
    else if (h->fields > FIELDS_MAX || fast_http_head_room(h) > HEAD_MAX)
        gw_call_refuse(gw, req, 431, "", "an asynchronous call may have %d header lines in %d bytes", FIELDS_MAX,
                       HEAD_MAX);
    else
        fast_http_req_collect(req, BODY_MAX, on_body, gw->async);
}
