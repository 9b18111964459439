#include "gateway/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "gateway/fetch.h"
#include "gateway/sink.h"

#define BATCH_MAX 60000 /* bytes of spans in one export: a line of a sink */
#define BATCH_WAIT FAST_S(1)
#define SPAN_MAX 2048
#define EXPORT_TIMEOUT FAST_S(10)
#define LAST_WAIT FAST_S(2) /* for a collector, when the program is about to end */
#define EXPORTS_MAX 8 /* that a collector may leave unanswered */

static const char before[] =
    "{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":"
    "{\"stringValue\":\"fast-gateway\"}}]},\"scopeSpans\":[{\"scope\":{\"name\":\"fast-gateway\","
    "\"version\":\"" FAST_VERSION "\"},\"spans\":[";
static const char after[] = "]}]}]}\n";

struct gw_tracer {
    struct fast_loop *loop;
    struct fast_timer *timer;
    struct gw_sink *file;       /* one of the two */
    struct gw_fetcher *fetcher;
    char *url;
    bool waiting, failing;
    int exporting;
    fast_ns ending; /* since when it is about to end; 0: it is not */
    size_t len;
    char spans[BATCH_MAX]; /* with commas between them */
    char out[sizeof(before) + BATCH_MAX + sizeof(after)];
};

/* ---- the header ---- */

static bool is_hex(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!(p[i] >= '0' && p[i] <= '9') && !(p[i] >= 'a' && p[i] <= 'f'))
            return false;
    return true;
}

static bool is_zero(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i] != '0')
            return false;
    return true;
}

bool gw_traceparent_parse(const char *p, size_t len, struct gw_trace *ret)
{
    if (len < 55 || !is_hex(p, 2) || p[2] != '-' || !is_hex(p + 3, 32) || p[35] != '-' ||
        !is_hex(p + 36, 16) || p[52] != '-' || !is_hex(p + 53, 2))
        return false;
    bool version_0 = p[0] == '0' && p[1] == '0';
    if ((p[0] == 'f' && p[1] == 'f') || is_zero(p + 3, 32) || is_zero(p + 36, 16) ||
        (len > 55 && (version_0 || p[55] != '-')))
        return false;
    memcpy(ret->id, p + 3, 32);
    ret->id[32] = 0;
    memcpy(ret->parent, p + 36, 16);
    ret->parent[16] = 0;
    ret->sampled = (p[54] >= 'a' ? p[54] - 'a' + 10 : p[54] - '0') & 1;
    return true;
}

static void to_hex(const unsigned char *bytes, size_t n, char *ret)
{
    static const char hex[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = hex[bytes[i] >> 4];
        ret[2 * i + 1] = hex[bytes[i] & 15];
    }
    ret[2 * n] = 0;
}

void gw_trace_begin(struct gw_trace *t, const char *parent, size_t len, const unsigned char *random)
{
    *t = (struct gw_trace){.on = true, .sampled = true};
    if (!parent || !gw_traceparent_parse(parent, len, t)) {
        to_hex(random, 16, t->id);
        t->sampled = true;
        t->parent[0] = 0;
    }
    to_hex(random + 16, 8, t->span);
}

void gw_trace_line(const struct gw_trace *t, char ret[80])
{
    snprintf(ret, 80, "traceparent: 00-%s-%s-0%d\r\n", t->id, t->span, t->sampled);
}

/* ---- the span ---- */

static size_t attribute(char *buf, size_t cap, const char *key, const char *text)
{
    if (!*text)
        return 0;
    int n = snprintf(buf, cap, ",{\"key\":\"%s\",\"value\":{\"stringValue\":\"%s\"}}", key, text);
    return n < 0 || (size_t)n >= cap ? 0 : (size_t)n;
}

/* Names, methods and identifiers of replicas need no escapes; a call's id is the caller's own. */
static bool is_plain(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == '"' || *text == '\\' || (unsigned char)*text > '~')
            return false;
    return true;
}

size_t gw_trace_json(const struct gw_trace *t, const struct gw_trace_end *e, char *buf, size_t cap)
{
    int n = snprintf(buf, cap,
                     "{\"traceId\":\"%s\",\"spanId\":\"%s\",%s%s%s\"name\":\"%s %s.%s\",\"kind\":2,"
                     "\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\",\"attributes\":["
                     "{\"key\":\"http.response.status_code\",\"value\":{\"intValue\":\"%d\"}},"
                     "{\"key\":\"fast.waited_us\",\"value\":{\"intValue\":\"%lld\"}},"
                     "{\"key\":\"fast.attempts\",\"value\":{\"intValue\":\"%d\"}}",
                     t->id, t->span, *t->parent ? "\"parentSpanId\":\"" : "", t->parent,
                     *t->parent ? "\"," : "", e->method, e->name, e->ns, (long long)e->from,
                     (long long)e->to, e->status, (long long)(e->waited / 1000), e->attempts);
    if (n < 0 || (size_t)n >= cap)
        return 0;
    const char *const texts[][2] = {{"http.request.method", e->method},
                                    {"faas.name", e->name},
                                    {"faas.instance", e->replica},
                                    {"faas.invocation_id", is_plain(e->call_id) ? e->call_id : ""}};
    size_t len = (size_t)n;
    for (size_t i = 0; i < FAST_COUNT_OF(texts); i++) {
        size_t more = attribute(buf + len, cap - len, texts[i][0], texts[i][1]);
        if (!more && *texts[i][1])
            return 0;
        len += more;
    }
    n = snprintf(buf + len, cap - len, "],\"status\":{\"code\":%d}}",
                 e->status == 0 || e->status >= 500 ? 2 : 0);
    return n < 0 || (size_t)n >= cap - len ? 0 : len + (size_t)n;
}

/* ---- the export ---- */

static void on_exported(void *arg, const struct gw_fetched *answer)
{
    struct gw_tracer *t = arg;
    bool ok = answer->status >= 200 && answer->status < 300;
    t->exporting--;
    if (!ok && !t->failing)
        fast_log(WARN, "spans are not taken", "url=%s status=%d why=\"%s\"", t->url, answer->status,
                 answer->status ? "" : answer->why);
    t->failing = !ok;
}

static void flush(struct gw_tracer *t)
{
    struct fast_err err;
    if (!t->len)
        return;
    size_t n = sizeof(before) - 1;
    memcpy(t->out, before, n);
    memcpy(t->out + n, t->spans, t->len);
    n += t->len;
    memcpy(t->out + n, after, sizeof(after) - 1);
    n += sizeof(after) - 1;
    t->len = 0;
    if (t->file) {
        gw_sink_put(t->file, t->out, n);
        return;
    }
    struct gw_fetch f = {"POST", t->url, "Content-Type: application/json\r\n", t->out, n, EXPORT_TIMEOUT, 0};
    if (t->exporting == EXPORTS_MAX) {
        if (!t->failing)
            fast_log(WARN, "spans are lost", "url=%s why=\"it answers too slowly\"", t->url);
        t->failing = true;
    } else if (gw_fetch(t->fetcher, &f, on_exported, t, &err)) {
        fast_log(WARN, "spans are lost", "why=\"%s\"", err.msg);
    } else {
        t->exporting++;
    }
}

static void on_timer(void *arg)
{
    struct gw_tracer *t = arg;
    t->waiting = false;
    flush(t);
}

void gw_trace_finish(struct gw_tracer *t, const struct gw_trace *trace, const struct gw_trace_end *e)
{
    char span[SPAN_MAX];
    size_t n = trace->sampled ? gw_trace_json(trace, e, span, sizeof(span)) : 0;
    if (!n)
        return;
    if (t->len + n + 1 > BATCH_MAX)
        flush(t);
    if (t->len)
        t->spans[t->len++] = ',';
    memcpy(t->spans + t->len, span, n);
    t->len += n;
    if (!t->waiting)
        fast_timer_set(t->timer, fast_loop_now(t->loop) + BATCH_WAIT);
    t->waiting = true;
}

int gw_tracer_new(struct fast_loop *loop, const char *where, struct gw_tracer **ret,
                  struct fast_err *err)
{
    bool is_url = !strncmp(where, "http://", 7) || !strncmp(where, "https://", 8);
    struct gw_tracer *t = calloc(1, sizeof(*t));
    if (!t)
        return fast_err_set(err, FAST_ENOMEM, "no memory for spans");
    t->loop = loop;
    t->timer = fast_timer_new(loop, on_timer, t);
    t->url = strdup(where);
    int r = t->timer && t->url ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for spans");
    if (!r)
        r = is_url ? gw_fetcher_new(loop, &t->fetcher, err) : gw_sink_new(loop, where, &t->file, err);
    if (r) {
        gw_tracer_free(t);
        return r;
    }
    *ret = t;
    return 0;
}

bool gw_tracer_is_done(struct gw_tracer *t)
{
    if (!t)
        return true;
    fast_ns now = fast_loop_now(t->loop);
    if (!t->ending)
        t->ending = now;
    flush(t);
    return !t->exporting || now - t->ending >= LAST_WAIT;
}

void gw_tracer_free(struct gw_tracer *t)
{
    if (!t)
        return;
    if (t->file)
        flush(t);
    gw_sink_free(t->file);
    gw_fetcher_free(t->fetcher);
    fast_timer_free(t->timer);
    free(t->url);
    free(t);
}
