/* Decides what is written of a request: one object of JSON on a line of its own. What the caller has chosen
 * (target, agent) is escaped, so that nobody writes lines of others. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "gateway/sink.h"

#define LINE_ROOM 16384
#define TEXT_MAX 1024 /* bytes of a field that are written */

struct line {
    char p[LINE_ROOM];
    size_t len;
};

#define END "}\n"

/* What does not fit is left out; the end always does. */
static void put(struct line *l, const char *text, size_t n)
{
    if (n < sizeof(l->p) - sizeof(END) - l->len) {
        memcpy(l->p + l->len, text, n);
        l->len += n;
    }
}

/* A key and its text; bytes that are not plain ASCII become \u00XX. */
static void put_text(struct line *l, const char *key, const char *text, size_t len)
{
    char out[6 * TEXT_MAX + 64];
    size_t n = (size_t)snprintf(out, 64, ",\"%s\":\"", key);
    for (size_t i = 0; i < len && i < TEXT_MAX; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < ' ' || c > '~' || c == '"' || c == '\\')
            n += (size_t)sprintf(out + n, "\\u%04x", c);
        else
            out[n++] = (char)c;
    }
    out[n++] = '"';
    put(l, out, n);
}

static void put_field(struct line *l, const char *key, const struct fast_http_req *req, const char *name)
{
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, name);
    if (f)
        put_text(l, key, text + f->value, f->value_len);
}

void gw_access_log(void *arg, const struct fast_http_finished *what)
{
    struct gateway *gw = arg;
    const struct fast_http_head *h = fast_http_req_head(what->req);
    const char *text = fast_http_req_text(what->req), *peer = fast_http_req_peer(what->req);
    struct line l;
    char when[32];
    fast_ns wall = fast_clock_wall();
    time_t seconds = (time_t)(wall / FAST_S(1));
    struct tm tm;
    if (!gw->access_log)
        return;
    gmtime_r(&seconds, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    l.len = (size_t)snprintf(
        l.p, sizeof(l.p), "{\"time\":\"%s.%03dZ\",\"status\":%d,\"complete\":%s,\"bytes\":%llu,\"us\":%lld",
        when, (int)(wall % FAST_S(1) / FAST_MS(1)), what->status, what->complete ? "true" : "false",
        (unsigned long long)what->sent, (long long)((fast_clock_now() - what->began) / 1000));
    put_text(&l, "peer", peer, strlen(peer));
    put_text(&l, "method", text + h->method, h->method_len);
    put_text(&l, "target", text + h->target, h->target_len);
    put_field(&l, "agent", what->req, "user-agent");
    if (*what->note) /* else it was no call */
        put_text(&l, "call_id", what->note, strlen(what->note));
    put_field(&l, "traceparent", what->req, "traceparent");
    memcpy(l.p + l.len, END, sizeof(END) - 1);
    l.len += sizeof(END) - 1;
    gw_sink_put(gw->access_log, l.p, l.len);
}
