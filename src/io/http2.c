/* Decides how a stream of HTTP/2 reads as a request of HTTP/1.1, and back. nghttp2 checks names, values,
 * pseudo-header fields and lengths; the parser of HTTP/1.1 checks all of it again. Windows are opened
 * only as fast as the inner connection takes bytes, so that memory stays bounded in both directions. */

#include "io/http2.h"

#include "io/http_conn.h"

#ifdef FAST_WITH_NGHTTP2

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/http_client.h"

#define STREAMS_MAX 128
/* Streams that a client may give up before they are answered: so many at once, and so many a second more.
 * Who does nothing else keeps the server busy for nothing. */
#define RESETS_AT_ONCE 1000
#define RESETS_A_SECOND 33

struct text {
    char *p;
    size_t len, cap;
    bool failed;
};

struct stream {
    struct stream *next, *prev;
    struct fast_http2_conn *conn;
    int32_t id;
    struct fast_http_call *call; /* NULL: not begun, or over */
    /* the request */
    struct text method, path, host, fields, cookies;
    int64_t length; /* -1: none was named */
    bool bad;       /* its head cannot be said in HTTP/1.1 */
    bool too_large; /* its head is */
    bool trailers;  /* what comes now are these */
    bool finished;
    size_t held;    /* bytes of its body that were taken and not confirmed, as the call was full */
    fast_ns moved;  /* when something last came from the client, or went to it */
    bool given_up;  /* it was reset, as the client does not go on */
    /* the answer */
    struct text out; /* out.p[at .. out.len) waits to be framed */
    size_t at;
    bool answered, ended, stopped; /* stopped: the call is held back */
};

struct fast_http2_conn {
    struct fast_http_req *outer;
    nghttp2_session *session;
    struct fast_http_pool *pool;
    struct stream *streams;
    fast_ns moved; /* when the last stream ended */
    bool closing;
    int64_t resets; /* that are still allowed */
    fast_ns refilled;
};

/* ---- small things ---- */

static void add(struct text *t, const char *p, size_t len)
{
    if (t->failed || t->len + len > (size_t)FAST_HTTP_HEAD_MAX * 2) {
        t->failed = true;
        return;
    }
    if (t->len + len + 1 > t->cap) {
        size_t cap = 2 * (t->len + len + 1);
        char *more = realloc(t->p, cap);
        if (!more) {
            t->failed = true;
            return;
        }
        t->p = more;
        t->cap = cap;
    }
    memcpy(t->p + t->len, p, len);
    t->len += len;
    t->p[t->len] = 0;
}

static void add_text(struct text *t, const char *text)
{
    add(t, text, strlen(text));
}

static bool is_visible(const struct text *t)
{
    for (size_t i = 0; i < t->len; i++)
        if ((unsigned char)t->p[i] <= ' ' || (unsigned char)t->p[i] >= 0x7f)
            return false;
    return t->len > 0;
}

static void stream_free(struct stream *s)
{
    struct text *const texts[] = {&s->method, &s->path, &s->host, &s->fields, &s->cookies, &s->out};
    if (s->call)
        fast_http_call_cancel(s->call);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->conn->streams = s->next;
    if (s->next)
        s->next->prev = s->prev;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        free(texts[i]->p);
    free(s);
}

static fast_ns now_of(const struct fast_http2_conn *c)
{
    return fast_loop_now(c->outer->server->loop);
}

static void reset(struct stream *s, uint32_t code)
{
    nghttp2_submit_rst_stream(s->conn->session, NGHTTP2_FLAG_NONE, s->id, code);
}

/* ---- the answer ---- */

static ssize_t read_answer(nghttp2_session *session, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
                           nghttp2_data_source *source, void *user)
{
    struct stream *s = source->ptr;
    size_t n = s->out.len - s->at;
    (void)session;
    (void)id;
    (void)user;
    if (n > len)
        n = len;
    if (n) {
        memcpy(buf, s->out.p + s->at, n);
        s->moved = now_of(s->conn);
    }
    s->at += n;
    if (s->at == s->out.len) {
        s->at = s->out.len = 0;
        if (s->ended)
            *flags |= NGHTTP2_DATA_FLAG_EOF;
        else if (!n)
            return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static void put_nv(nghttp2_nv *nv, const char *name, size_t name_len, const char *value, size_t value_len)
{
    *nv = (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, name_len, value_len, NGHTTP2_NV_FLAG_NONE};
}

static void on_head(void *user, const struct fast_http_head *h, const char *text,
                    const struct fast_http_body *body)
{
    struct stream *s = user;
    nghttp2_nv nv[FAST_HTTP_FIELDS_MAX + 2];
    nghttp2_data_provider source = {.source.ptr = s, .read_callback = read_answer};
    char status[8], length[24];
    size_t n = 0;
    put_nv(&nv[n++], ":status", 7, status, (size_t)snprintf(status, sizeof(status), "%d", h->status));
    for (uint32_t i = 0; i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        if (fast_http_is_hop(h, text, f))
            continue;
        put_nv(&nv[n++], text + f->name, f->name_len, text + f->value, f->value_len); /* nghttp2 copies in lower case */
    }
    if (h->length >= 0)
        put_nv(&nv[n++], "content-length", 14, length,
               (size_t)snprintf(length, sizeof(length), "%lld", (long long)h->length));
    s->answered = true;
    if (nghttp2_submit_response(s->conn->session, s->id, nv, n,
                                body->framing == FAST_HTTP_BODY_NONE ? NULL : &source))
        reset(s, NGHTTP2_INTERNAL_ERROR);
}

static void on_body(void *user, const char *data, size_t len)
{
    struct stream *s = user;
    if (s->at) {
        s->out.len -= s->at;
        memmove(s->out.p, s->out.p + s->at, s->out.len);
        s->at = 0;
    }
    add(&s->out, data, len);
    if (s->out.failed)
        reset(s, NGHTTP2_INTERNAL_ERROR);
    if (s->out.len - s->at >= FAST_HTTP_HIGH_WATER && s->call) {
        s->stopped = true;
        s->moved = now_of(s->conn);
        fast_http_call_read(s->call, false);
    }
}

/* Frames what there is; what comes of the call is told outside of nghttp2's own calls. */
static void on_flush(void *user)
{
    struct stream *s = user;
    nghttp2_session_resume_data(s->conn->session, s->id);
    fast_http_conn_step(s->conn->outer);
}

/* What its call has not taken counts as taken: the window is the whole connection's too. */
static void release(struct stream *s)
{
    size_t held = s->held;
    s->held = 0;
    if (held)
        nghttp2_session_consume(s->conn->session, s->id, held);
}

static void on_end(void *user)
{
    struct stream *s = user;
    s->call = NULL;
    s->ended = true;
    s->moved = now_of(s->conn);
    release(s);
    on_flush(s);
}

static void on_fail(void *user, bool connected, const char *why)
{
    struct stream *s = user;
    (void)connected;
    (void)why;
    s->call = NULL;
    s->moved = now_of(s->conn);
    release(s);
    reset(s, NGHTTP2_INTERNAL_ERROR);
    fast_http_conn_step(s->conn->outer);
}

/* ---- the request ---- */

static void on_drain(void *user)
{
    struct stream *s = user;
    release(s);
    fast_http_conn_step(s->conn->outer);
}

static const struct fast_http_call_ops call_ops = {on_head, on_body, on_flush, on_drain, on_end, on_fail};

static bool says(const struct stream *s, const char *method)
{
    return fast_http_is_exact(s->method.p ? s->method.p : "", s->method.len, method);
}

/* A head that is too large is no fault of the protocol: the client is told (RFC 9113, 10.5.1). */
static void refuse_large(struct stream *s)
{
    nghttp2_nv status;
    put_nv(&status, ":status", 7, "431", 3);
    if (nghttp2_submit_response(s->conn->session, s->id, &status, 1, NULL))
        reset(s, NGHTTP2_INTERNAL_ERROR);
}

/* The head is complete: the request goes in. */
static void begin(struct stream *s, bool has_body)
{
    struct text head = {0};
    struct fast_err err;
    char line[64];
    bool chunked = has_body && s->length < 0;
    bool plain = !s->bad && is_visible(&s->method) && is_visible(&s->path) && is_visible(&s->host) &&
                 (*s->path.p == '/' || says(s, "OPTIONS")) && !s->fields.failed && !s->cookies.failed;
    if (s->too_large) {
        refuse_large(s);
        return;
    }
    if (!plain) {
        reset(s, NGHTTP2_PROTOCOL_ERROR);
        return;
    }
    add(&head, s->method.p, s->method.len);
    add_text(&head, " ");
    add(&head, s->path.p, s->path.len);
    add_text(&head, " HTTP/1.1\r\nHost: ");
    add(&head, s->host.p, s->host.len);
    add_text(&head, "\r\n");
    add(&head, s->fields.p ? s->fields.p : "", s->fields.len);
    if (s->cookies.len) {
        add_text(&head, "Cookie: ");
        add(&head, s->cookies.p, s->cookies.len);
        add_text(&head, "\r\n");
    }
    if (chunked)
        add_text(&head, "Transfer-Encoding: chunked\r\n");
    else if (has_body || s->length >= 0 || says(s, "POST") || says(s, "PUT"))
        add(&head, line, (size_t)snprintf(line, sizeof(line), "Content-Length: %lld\r\n",
                                          (long long)(s->length > 0 ? s->length : 0)));
    add_text(&head, "\r\n");
    if (head.failed || fast_http_call_new(s->conn->pool, &call_ops, s, head.p, head.len, says(s, "HEAD"),
                                          chunked, &s->call, &err)) {
        s->call = NULL;
        reset(s, NGHTTP2_REFUSED_STREAM);
    } else if (has_body) {
        fast_http_call_flush(s->call);
    } else {
        s->finished = true;
        fast_http_call_finish(s->call);
    }
    free(head.p);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct fast_http2_conn *c = user;
    struct stream *s;
    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (s)
            s->trailers = true;
        return 0;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    *s = (struct stream){.conn = c, .id = frame->hd.stream_id, .length = -1, .next = c->streams,
                         .moved = now_of(c)};
    if (s->next)
        s->next->prev = s;
    c->streams = s;
    nghttp2_session_set_stream_user_data(session, s->id, s);
    return 0;
}

/* nghttp2 has seen to it that these are digits, and that there is one such field. */
static void take_length(struct stream *s, const char *value, size_t len)
{
    if (len == 0 || len > 18 || s->length >= 0)
        s->bad = true;
    else
        s->length = strtoll(value, NULL, 10);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name_bytes,
                     size_t name_len, const uint8_t *value_bytes, size_t len, uint8_t flags, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    const char *name = (const char *)name_bytes, *value = (const char *)value_bytes;
    (void)flags;
    (void)user;
    if (!s || s->trailers)
        return 0;
    if (fast_http_is_exact(name, name_len, ":method"))
        add(&s->method, value, len);
    else if (fast_http_is_exact(name, name_len, ":path"))
        add(&s->path, value, len);
    else if (fast_http_is_exact(name, name_len, ":authority"))
        add(&s->host, value, len);
    else if (name_len && name[0] == ':')
        return 0; /* the scheme */
    else if (fast_http_is_exact(name, name_len, "host"))
        add(&s->host, value, s->host.len ? 0 : len);
    else if (fast_http_is_exact(name, name_len, "content-length"))
        take_length(s, value, len);
    else if (fast_http_is_exact(name, name_len, "cookie")) {
        add_text(&s->cookies, s->cookies.len ? "; " : "");
        add(&s->cookies, value, len);
    } else if (!fast_http_is_exact(name, name_len, "expect") && !fast_http_is_exact(name, name_len, "te")) {
        add(&s->fields, name, name_len);
        add_text(&s->fields, ": ");
        add(&s->fields, value, len);
        add_text(&s->fields, "\r\n");
    }
    if (s->fields.len + s->path.len + s->cookies.len > FAST_HTTP_HEAD_MAX)
        s->too_large = true;
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    bool last = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    (void)user;
    if (!s || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && !s->trailers)
        begin(s, !last);
    else if (last && s->call && !s->finished) {
        s->finished = true;
        fast_http_call_finish(s->call);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    struct fast_http2_conn *c = user;
    (void)flags;
    if (!s || !s->call) {
        nghttp2_session_consume(c->session, id, len); /* its answer was complete before its body */
        if (s)
            s->moved = now_of(c);
        return 0;
    }
    if (fast_http_call_write(s->call, (const char *)data, len) && !s->held) {
        fast_http_call_flush(s->call);
        nghttp2_session_consume(c->session, id, len);
    } else {
        s->held += len;
    }
    return 0;
}

static void count_reset(struct fast_http2_conn *c)
{
    fast_ns now = now_of(c);
    int64_t more = (now - c->refilled) / FAST_S(1) * RESETS_A_SECOND;
    if (more > 0) {
        c->refilled = now;
        c->resets = c->resets + more < RESETS_AT_ONCE ? c->resets + more : RESETS_AT_ONCE;
    }
    if (--c->resets == 0)
        nghttp2_session_terminate_session(c->session, NGHTTP2_ENHANCE_YOUR_CALM);
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    struct stream *s = nghttp2_session_get_stream_user_data(session, id);
    struct fast_http2_conn *c = user;
    (void)code;
    if (!s)
        return 0;
    if (s->call)
        count_reset(c);
    if (s->held)
        nghttp2_session_consume_connection(session, s->held);
    c->moved = now_of(c);
    stream_free(s);
    return 0;
}

/* ---- the connection ---- */

/* An inner connection: its other end is served as any connection is, and has the client's name. */
static int dial(void *arg)
{
    struct fast_http2_conn *c = arg;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        return -1;
    fast_http_server_adopt(c->outer->server, pair[1], c->outer->peer);
    return pair[0];
}

static int session_new(struct fast_http2_conn *c)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, STREAMS_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, FAST_HTTP_HEAD_MAX}};
    if (nghttp2_session_callbacks_new(&callbacks) || nghttp2_option_new(&option)) {
        nghttp2_session_callbacks_del(callbacks);
        return -1;
    }
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_option_set_no_auto_window_update(option, 1);
    int r = nghttp2_session_server_new2(&c->session, callbacks, c, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    r = r ? r : nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, 2);
    /* A window for each stream: a body that nobody takes shall not hold up those of others. */
    return r ? r : nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0,
                                                         STREAMS_MAX * NGHTTP2_INITIAL_WINDOW_SIZE);
}

static void h2_free(struct fast_http2_conn *c)
{
    if (!c)
        return;
    while (c->streams)
        stream_free(c->streams);
    nghttp2_session_del(c->session);
    fast_http_pool_free(c->pool);
    free(c);
}

static struct fast_http2_conn *h2_new(struct fast_http_req *outer)
{
    struct fast_err err;
    struct fast_http2_conn *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->outer = outer;
    c->resets = RESETS_AT_ONCE;
    c->refilled = c->moved = now_of(c);
    if (session_new(c) || fast_http_pool_new(outer->server->loop, 0, NULL, &c->pool, &err)) {
        h2_free(c);
        return NULL;
    }
    fast_http_pool_dial(c->pool, dial, c);
    return c;
}

/* Lets calls go on whose answers have room again. */
static void let_go_on(struct fast_http2_conn *c)
{
    for (struct stream *s = c->streams, *next; s; s = next) {
        next = s->next;
        if (!s->stopped || !s->call || s->out.len - s->at >= FAST_HTTP_HIGH_WATER / 2)
            continue;
        s->stopped = false;
        fast_http_call_read(s->call, true); /* streams go only inside of nghttp2 */
    }
}

/* False: the connection has nothing more to say. */
static bool h2_step(struct fast_http2_conn *c)
{
    struct fast_http_stream *s = &c->outer->s;
    const uint8_t *data;
    if (s->in_len) {
        ssize_t n = nghttp2_session_mem_recv(c->session, (const uint8_t *)s->in, s->in_len);
        if (n < 0)
            return false;
        fast_http_stream_consume(s, 0, (size_t)n);
    }
    if (c->outer->server->draining && !c->closing) {
        c->closing = true;
        nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(c->session), NGHTTP2_NO_ERROR, NULL, 0);
    }
    while (fast_http_stream_waiting(s) < FAST_HTTP_HIGH_WATER) {
        ssize_t n = nghttp2_session_mem_send(c->session, &data);
        if (n < 0)
            return false;
        if (n == 0)
            break;
        fast_http_stream_put(s, (const char *)data, (size_t)n);
    }
    let_go_on(c);
    return nghttp2_session_want_read(c->session) || nghttp2_session_want_write(c->session) ||
           c->streams;
}

/* For the rest of its head or of its body, or that it takes the answer. */
static bool waits_for_client(const struct stream *s)
{
    return !s->call || s->stopped;
}

static fast_ns h2_waits_since(const struct fast_http2_conn *c)
{
    fast_ns since = c->streams ? FAST_NEVER : c->moved;
    for (const struct stream *s = c->streams; s; s = s->next)
        if (waits_for_client(s) && s->moved < since)
            since = s->moved;
    return since;
}

static bool h2_give_up(struct fast_http2_conn *c, fast_ns before)
{
    bool some = false;
    for (struct stream *s = c->streams; s; s = s->next) {
        if (!waits_for_client(s) || s->moved > before)
            continue;
        if (s->given_up) /* not even its reset goes out */
            return false;
        s->given_up = some = true;
        s->moved = now_of(c);
        reset(s, NGHTTP2_CANCEL);
    }
    return some;
}

static const struct fast_http_upgrade upgrade = {h2_new, h2_step, h2_waits_since, h2_give_up, h2_free};

const struct fast_http_upgrade *fast_http2(void)
{
    return &upgrade;
}

#else

const struct fast_http_upgrade *fast_http2(void)
{
    return NULL;
}

#endif
