/* What handlers call on a request: reading its body, and writing its response with the framing that
 * the client understands. It decides when a connection can be kept after a response. */

#include "io/http_conn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/digits.h"

#define DISCARD_MAX 65536 /* a body that nobody wants is read up to this size */

const struct fast_http_head *fast_http_req_head(const struct fast_http_req *c)
{
    return &c->head;
}

const char *fast_http_req_text(const struct fast_http_req *c)
{
    return c->s.in;
}

const char *fast_http_req_peer(const struct fast_http_req *c)
{
    return c->peer;
}

void fast_http_req_watch(struct fast_http_req *c)
{
    if (c->watched || !c->server->conf.finished)
        return;
    c->watched = true;
    c->began = fast_clock_now();
}

void fast_http_req_note(struct fast_http_req *c, const char *text)
{
    if (c->watched)
        snprintf(c->note, sizeof(c->note), "%s", text);
}

bool fast_http_req_is_head(const struct fast_http_req *c)
{
    return fast_http_is_exact(c->s.in + c->head.method, c->head.method_len, "HEAD");
}

bool fast_http_req_has_body(const struct fast_http_req *c)
{
    return c->body.framing != FAST_HTTP_BODY_NONE;
}

bool fast_http_req_started(const struct fast_http_req *c)
{
    return c->started;
}

bool fast_http_req_retract(struct fast_http_req *c)
{
    if (c->closed || !c->started || c->ended || c->tunnel || !fast_http_stream_retract(&c->s, c->from))
        return false;
    c->started = c->chunked = c->was_full = false;
    c->bodiless = fast_http_req_is_head(c);
    c->left = -1;
    c->status = 0;
    c->sent = 0;
    return true;
}

void fast_http_req_accept(struct fast_http_req *c, const struct fast_http_req_ops *ops, void *user)
{
    c->ops = ops;
    c->user = user;
}

void fast_http_req_read(struct fast_http_req *c, bool on)
{
    if (c->closed || (!on && !c->reading))
        return;
    c->reading = on;
    c->fresh = on;
    if (on && c->head.expect && !c->body.done && !c->started && c->s.in_len == c->head.len) {
        c->head.expect = false;
        fast_http_stream_put(&c->s, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        fast_http_stream_flush(&c->s);
    }
    if (on)
        fast_http_conn_step(c);
}

static void collect_body(void *user, const char *data, size_t len)
{
    struct fast_http_req *c = user;
    struct fast_http_collected *k = &c->collect;
    if (k->too_large || len > k->max - k->len) {
        k->too_large = true;
        return;
    }
    if (k->len + len + 1 > k->cap) {
        size_t cap = 2 * (k->len + len) + 1024;
        char *more = realloc(k->data, cap);
        if (!more) {
            k->too_large = true;
            return;
        }
        k->data = more;
        k->cap = cap;
    }
    memcpy(k->data + k->len, data, len);
    k->len += len;
    k->data[k->len] = 0;
}

static void collect_end(void *user)
{
    static char nothing[1];
    struct fast_http_req *c = user;
    struct fast_http_collected k = c->collect;
    c->collect = (struct fast_http_collected){0};
    c->ops = NULL;
    if (k.too_large)
        fast_http_req_text_reply(c, 413, "the body is larger than %zu bytes", k.max);
    else
        k.fn(k.arg, c, k.data ? k.data : nothing, k.len);
    free(k.data);
}

void fast_http_req_collect(struct fast_http_req *c, size_t max, fast_http_collect_fn *fn, void *arg)
{
    static const struct fast_http_req_ops ops = {.body = collect_body, .end = collect_end};
    c->collect = (struct fast_http_collected){.fn = fn, .arg = arg, .max = max};
    if (c->head.length >= 0 && (uint64_t)c->head.length > max) {
        fast_http_req_text_reply(c, 413, "the body is larger than %zu bytes", max);
        return;
    }
    fast_http_req_accept(c, &ops, c);
    fast_http_req_read(c, true);
}

static bool discardable(const struct fast_http_req *c)
{
    if (c->body.done)
        return true;
    return c->body.framing == FAST_HTTP_BODY_LENGTH && c->body.left <= DISCARD_MAX &&
           !(c->head.expect && !c->reading);
}

static bool has_no_body(const struct fast_http_req *c, int status)
{
    return c->bodiless || status < 200 || status == 204 || status == 304;
}

/* From here on neither direction has a framing of its own. */
static void begin_tunnel(struct fast_http_req *c, const char *fields, size_t len)
{
    static const char line[] = "HTTP/1.1 101 Switching Protocols\r\n";
    fast_http_stream_put(&c->s, line, sizeof(line) - 1);
    fast_http_stream_put(&c->s, fields, len);
    fast_http_stream_put(&c->s, "\r\n", 2);
    c->tunnel = c->close_after = true;
    c->bodiless = false;
    c->left = -1;
    c->body = (struct fast_http_body){.framing = FAST_HTTP_BODY_CLOSE};
    c->end_told = false; /* that of the request was */
    fast_http_stream_flush(&c->s);
}

static char *append(char *at, const char *text)
{
    return mempcpy(at, text, strlen(text));
}

static char *append_number(char *at, uint64_t n)
{
    return at + fast_digits(at, n);
}

/* The lines about framing and the connection, and the blank one. */
static void put_own_fields(struct fast_http_req *c)
{
    char lines[128], *at = lines;
    if (c->left >= 0 && c->status >= 200 && c->status != 204)
        at = append(append_number(append(at, "Content-Length: "), (uint64_t)c->left), "\r\n");
    else if (c->chunked)
        at = append(at, "Transfer-Encoding: chunked\r\n");
    if (c->close_after)
        at = append(at, "Connection: close\r\n");
    else if (c->head.minor == 0)
        at = append(at, "Connection: keep-alive\r\n");
    at = append(at, "\r\n");
    fast_http_stream_put(&c->s, lines, (size_t)(at - lines));
}

void fast_http_req_start(struct fast_http_req *c, int status, const char *fields, size_t len,
                         int64_t length)
{
    char line[128];
    if (c->closed || c->started)
        return;
    c->started = true;
    c->from = c->s.sent + fast_http_stream_waiting(&c->s);
    c->status = status;
    if (status == 101) {
        begin_tunnel(c, fields, len);
        return;
    }
    if (!discardable(c) || c->server->draining)
        c->close_after = true;
    bool no_body = has_no_body(c, status);
    c->chunked = length < 0 && c->head.minor == 1 && !no_body;
    if (length < 0 && c->head.minor == 0 && !no_body)
        c->close_after = true;
    c->left = length;
    const char *reason = fast_http_reason(status);
    char *at = append_number(append(line, "HTTP/1.1 "), (uint64_t)status);
    at = append(append(append(at, " "), reason), "\r\n");
    fast_http_stream_put(&c->s, line, (size_t)(at - line));
    fast_http_stream_put(&c->s, fields, len);
    put_own_fields(c);
    c->bodiless = no_body;
}

bool fast_http_req_write(struct fast_http_req *c, const char *data, size_t len)
{
    char size[24];
    if (c->closed || c->ended || c->bodiless)
        return true;
    if (c->left >= 0) {
        if ((uint64_t)c->left < len)
            len = (size_t)c->left; /* more than was promised would be read as the next response */
        c->left -= (int64_t)len;
    }
    if (!len)
        return true;
    c->sent += len;
    if (c->chunked)
        fast_http_stream_put(&c->s, size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", len));
    fast_http_stream_put(&c->s, data, len);
    if (c->chunked)
        fast_http_stream_put(&c->s, "\r\n", 2);
    if (fast_http_stream_waiting(&c->s) < FAST_HTTP_HIGH_WATER)
        return true;
    c->was_full = true;
    if (!c->stepping)
        fast_http_stream_arm(&c->s);
    return false;
}

void fast_http_req_flush(struct fast_http_req *c)
{
    if (c->closed)
        return;
    fast_http_stream_flush(&c->s);
    fast_http_conn_step(c);
}

void fast_http_req_end(struct fast_http_req *c)
{
    if (c->closed || c->ended)
        return;
    if (c->left > 0 && !c->bodiless && !c->chunked) {
        fast_http_req_abort(c); /* less than was promised: the client must be able to see it */
        return;
    }
    if (c->chunked)
        fast_http_stream_put(&c->s, "0\r\n\r\n", 5);
    c->ended = true;
    fast_http_conn_step(c);
}

void fast_http_req_abort(struct fast_http_req *c)
{
    fast_http_conn_close(c);
}

void fast_http_req_reply(struct fast_http_req *c, int status, const char *fields, const char *type,
                         const char *body, size_t len)
{
    char head[1024], date[FAST_HTTP_DATE_SIZE];
    fast_http_date(fast_clock_wall(), date);
    int n = snprintf(head, sizeof(head), "Date: %s\r\n%s%s%s%s", date, type ? "Content-Type: " : "",
                     type ? type : "", type ? "\r\n" : "", fields ? fields : "");
    if (n >= (int)sizeof(head))
        n = 0;
    fast_http_req_start(c, status, head, (size_t)n, (int64_t)len);
    fast_http_req_write(c, body, len);
    fast_http_req_end(c);
}

void fast_http_req_text_reply(struct fast_http_req *c, int status, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text) - 1, fmt, ap);
    va_end(ap);
    if (n < 0 || n > (int)sizeof(text) - 2)
        n = (int)sizeof(text) - 2;
    text[n++] = '\n';
    fast_http_req_reply(c, status, NULL, "text/plain; charset=utf-8", text, (size_t)n);
}

/* Written once a second: it took as long as all else that is written of a head. */
void fast_http_date(fast_ns wall, char ret[FAST_HTTP_DATE_SIZE])
{
    static _Thread_local time_t written = -1;
    static _Thread_local char date[FAST_HTTP_DATE_SIZE];
    time_t t = (time_t)(wall / FAST_S(1));
    if (t != written) {
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        written = t;
    }
    memcpy(ret, date, sizeof(date));
}
