/* Decides what a function is told of a request and a caller of its answer. Both heads are written anew, field
 * by field: framing and the fields of one connection are each side's own. */

#include "gateway/job.h"

#include <stdlib.h>
#include <string.h>

#include "base/digits.h"

struct writer {
    char *p;
    size_t len, cap;
    bool full; /* something did not fit: what there is must not be sent */
};

static void put(struct writer *w, const char *p, size_t len)
{
    w->full = w->full || !w->p || len > w->cap - w->len;
    if (w->full)
        return;
    memcpy(w->p + w->len, p, len);
    w->len += len;
}

static void put_text(struct writer *w, const char *text)
{
    put(w, text, strlen(text));
}

static void put_line(struct writer *w, const char *name, const char *value, size_t len)
{
    put_text(w, name);
    put(w, ": ", 2);
    put(w, value, len);
    put(w, "\r\n", 2);
}

static void put_number(struct writer *w, const char *name, int64_t n)
{
    char digits[FAST_DIGITS_MAX];
    put_line(w, name, digits, fast_digits(digits, (uint64_t)n));
}

static void put_own_lines(struct writer *w, const char *call_id, int64_t wall)
{
    put_line(w, "X-Call-Id", call_id, strlen(call_id));
    put_number(w, "X-Start-Time", wall);
    put_text(w, "X-Served-By: fast-gshare/" FAST_VERSION "\r\n");
}

size_t gw_own_lines(const char *call_id, int64_t wall, char *buf, size_t cap)
{
    struct writer w = {.p = buf, .cap = cap - 1};
    put_own_lines(&w, call_id, wall);
    buf[w.len] = 0;
    return w.len;
}

/* Fields that this program sets itself. */
static bool is_own(const char *name, size_t len)
{
    return fast_http_is(name, len, "x-call-id") || fast_http_is(name, len, "x-start-time") ||
           fast_http_is(name, len, "x-served-by");
}

/* The caller's place in the trace is not the function's, and what others say of a trace that is none means
 * nothing. */
static bool is_replaced(const struct gw_trace *t, const char *name, size_t len)
{
    return t->on && (fast_http_is(name, len, "traceparent") || (!*t->parent && fast_http_is(name, len, "tracestate")));
}

static void put_fields(struct writer *w, const struct fast_http_head *h, const char *text,
                       const struct gw_trace *trace)
{
    for (uint32_t i = 0; i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        const char *name = text + f->name;
        if (fast_http_is_hop(h, text, f) || is_own(name, f->name_len) ||
            (!h->response && (fast_http_is(name, f->name_len, "host") ||
                              fast_http_is(name, f->name_len, "expect"))) ||
            (trace && is_replaced(trace, name, f->name_len)))
            continue;
        put(w, name, f->name_len);
        put(w, ": ", 2);
        put(w, text + f->value, f->value_len);
        put(w, "\r\n", 2);
    }
}

/* The gateway's room for a head, of at least |cap| bytes; what was in it is gone. */
static struct writer begin(struct gateway *gw, size_t cap)
{
    if (cap > gw->head_cap) {
        free(gw->head);
        gw->head = malloc(cap);
        gw->head_cap = gw->head ? cap : 0;
    }
    return (struct writer){.p = gw->head, .cap = gw->head_cap};
}

static size_t done(const struct writer *w, const char **ret)
{
    *ret = w->p;
    return w->full ? 0 : w->len;
}

size_t gw_job_request_head(const struct gw_job *j, const char **ret)
{
    const struct fast_http_head *h = fast_http_req_head(j->req);
    const char *text = fast_http_req_text(j->req), *peer = fast_http_req_peer(j->req);
    /* The host may be written twice. */
    struct writer w = begin(j->gw, fast_http_head_room(h) + h->host_len + 1024);
    char trace[80];
    put(&w, text + h->method, h->method_len);
    put_text(&w, " ");
    if (!j->rest_len || text[j->rest] != '/')
        put_text(&w, "/");
    put(&w, text + j->rest, j->rest_len);
    put_text(&w, " HTTP/1.1\r\n");
    if (h->host_len)
        put_line(&w, "Host", text + h->host, h->host_len);
    else
        put_text(&w, "Host: localhost\r\n");
    put_fields(&w, h, text, &j->trace);
    if (j->trace.on) {
        gw_trace_line(&j->trace, trace);
        put_text(&w, trace);
    }
    put_line(&w, "X-Call-Id", j->call_id, strlen(j->call_id));
    put_number(&w, "X-Start-Time", j->wall);
    if (!fast_http_passes(h, text, "x-forwarded-host") && h->host_len)
        put_line(&w, "X-Forwarded-Host", text + h->host, h->host_len);
    if (!fast_http_passes(h, text, "x-forwarded-for"))
        put_line(&w, "X-Forwarded-For", peer, strlen(peer));
    if (j->upgrade)
        put_text(&w, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    if (h->chunked)
        put_text(&w, "Transfer-Encoding: chunked\r\n");
    else if (h->length >= 0)
        put_number(&w, "Content-Length", h->length);
    else if (text[h->method] == 'P') /* POST, PUT, PATCH: some servers want to be told (411) */
        put_text(&w, "Content-Length: 0\r\n");
    put_text(&w, "\r\n");
    return done(&w, ret);
}

size_t gw_job_answer_lines(const struct gw_job *j, const struct fast_http_head *h, const char *text,
                           const char **ret)
{
    const char *req_text = fast_http_req_text(j->req);
    const struct fast_http_field *type =
        fast_http_head_find(fast_http_req_head(j->req), req_text, "content-type");
    struct writer w = begin(j->gw, fast_http_head_room(h) + (type ? type->value_len : 0) + 1024);
    put_fields(&w, h, text, NULL);
    if (h->status == 101)
        put_text(&w, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    else if (!fast_http_passes(h, text, "content-type") && h->status != 204 && h->status != 304) {
        if (type)
            put_line(&w, "Content-Type", req_text + type->value, type->value_len);
        else
            put_text(&w, "Content-Type: text/plain; charset=utf-8\r\n");
    }
    if (!fast_http_passes(h, text, "date")) {
        char date[FAST_HTTP_DATE_SIZE];
        fast_http_date(fast_clock_wall(), date);
        put_line(&w, "Date", date, strlen(date));
    }
    put_own_lines(&w, j->call_id, j->wall);
    return done(&w, ret);
}
