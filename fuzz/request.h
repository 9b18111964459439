#ifndef FAST_FUZZ_REQUEST_H
#define FAST_FUZZ_REQUEST_H

/* Whether a request that reaches a function is one that its caller has made, and one that llhttp reads as it is. */

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "io/http_parse.h"

#ifdef FUZZ_WITH_LLHTTP
#include "llhttp/llhttp.h"
#endif

/* A request without its framing. */
struct message {
    struct fast_http_head head;
    const char *text;
    char *body;
    size_t len, body_len; /* |len|: with its framing */
};

/* False: there is no complete one. */
static bool read_message(struct message *m, const char *text, size_t len)
{
    struct fast_http_body body;
    size_t used = 0, n = 0;
    const char *data;
    fast_http_body_request(&body, &m->head);
    m->text = text;
    m->body_len = 0;
    m->body = malloc(len);
    FUZZ_CHECK(m->body);
    for (m->len = m->head.len; !body.done && m->len < len; m->len += used) {
        if (fast_http_body_next(&body, text + m->len, len - m->len, &used, &data, &n))
            break;
        memcpy(m->body + m->body_len, n ? data : "", n);
        m->body_len += n;
    }
    if (!body.done)
        free(m->body);
    return body.done;
}

#ifdef FUZZ_WITH_LLHTTP
struct seen {
    const struct message *m;
    size_t url_len, body_len;
    uint32_t fields;
};

static int on_complete(llhttp_t *p)
{
    (void)p;
    return HPE_PAUSED;
}

static int on_url(llhttp_t *p, const char *at, size_t len)
{
    struct seen *s = p->data;
    const struct fast_http_head *h = &s->m->head;
    FUZZ_CHECK(s->url_len + len <= h->target_len && !memcmp(s->m->text + h->target + s->url_len, at, len));
    s->url_len += len;
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    struct seen *s = p->data;
    FUZZ_CHECK(s->body_len + len <= s->m->body_len && !memcmp(s->m->body + s->body_len, at, len));
    s->body_len += len;
    return 0;
}

static int on_field(llhttp_t *p)
{
    struct seen *s = p->data;
    s->fields++;
    return 0;
}

static void compare(const struct message *m)
{
    static const llhttp_settings_t settings = {.on_url = on_url, .on_body = on_body, .on_message_complete = on_complete,
                                               .on_header_value_complete = on_field};
    struct seen seen = {.m = m};
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = &seen;
    llhttp_errno_t e = llhttp_execute(&parser, m->text, m->len);
    const char *method = llhttp_method_name((llhttp_method_t)parser.method);
    FUZZ_CHECK(e == HPE_PAUSED && llhttp_get_error_pos(&parser) == m->text + m->len);
    FUZZ_CHECK(fast_http_is_exact(m->text + m->head.method, m->head.method_len, method));
    FUZZ_CHECK(seen.url_len == m->head.target_len && seen.body_len == m->body_len && seen.fields == m->head.fields);
}
#else
static void compare(const struct message *m)
{
    (void)m;
}
#endif

/* ---- whether a request is one that the caller has made ---- */

static bool same(const char *a, size_t a_len, const char *b, size_t b_len)
{
    return a_len == b_len && !memcmp(a, b, a_len);
}

static bool is_one_of(const struct message *m, uint32_t i, const char *const *names)
{
    for (; *names; names++)
        if (fast_http_is(m->text + m->head.field[i].name, m->head.field[i].name_len, *names))
            return true;
    return false;
}

static bool same_field(const struct message *a, uint32_t i, const struct message *b, uint32_t k)
{
    const struct fast_http_field *x = &a->head.field[i], *y = &b->head.field[k];
    return k < b->head.fields && same(a->text + x->name, x->name_len, b->text + y->name, y->name_len) &&
           same(a->text + x->value, x->value_len, b->text + y->value, y->value_len);
}

/* Behind the host the fields of |asked| that are no connection's, in their order, and then the gateway's own. */
static bool same_fields(const struct message *asked, const struct message *got, bool traced)
{
    static const char *const left_out[] = {"host", "expect", "x-call-id", "x-start-time", "x-served-by", NULL};
    static const char *const traces[] = {"traceparent", "tracestate", NULL};
    static const char *const added[] = {"x-call-id", "x-start-time", "x-forwarded-host", "x-forwarded-for",
                                        "traceparent", "connection", "upgrade", "transfer-encoding",
                                        "content-length", NULL};
    uint32_t k = 1;
    for (uint32_t i = 0; i < asked->head.fields; i++) {
        if (fast_http_is_hop(&asked->head, asked->text, &asked->head.field[i]) || is_one_of(asked, i, left_out))
            continue;
        bool found = same_field(asked, i, got, k);
        if (!found && !(traced && is_one_of(asked, i, traces)))
            return false;
        k += found;
    }
    for (; k < got->head.fields; k++)
        if (!is_one_of(got, k, added))
            return false;
    return true;
}

static bool same_target(const struct message *asked, const struct message *got)
{
    const char *path = asked->text + asked->head.target, *end = path + asked->head.target_len;
    const char *to = got->text + got->head.target;
    size_t len = got->head.target_len;
    if (asked->head.target_len < 10 || memcmp(path, "/function/", 10))
        return false;
    for (path += 10; path < end && *path != '/' && *path != '?'; path++)
        ;
    size_t slash = path == end || *path != '/';
    return same(path, (size_t)(end - path), to + slash, len - slash);
}

static bool same_request(const struct message *asked, const struct message *got, bool traced)
{
    const struct fast_http_head *a = &asked->head, *g = &got->head;
    const char *host = a->host_len ? asked->text + a->host : "localhost";
    return same(asked->text + a->method, a->method_len, got->text + g->method, g->method_len) &&
           same(host, a->host_len ? a->host_len : 9, got->text + g->host, g->host_len) &&
           same(asked->body, asked->body_len, got->body, got->body_len) && same_target(asked, got) &&
           same_fields(asked, got, traced);
}

static bool is_batch(const struct message *m)
{
    const struct fast_http_field *f = &m->head.field[1];
    return m->head.fields > 2 && fast_http_is(m->text + f[1].name, f[1].name_len, "x-batch-size") &&
           fast_http_is(m->text + f->value, f->value_len, "application/vnd.fast-gshare.batch");
}

#endif
