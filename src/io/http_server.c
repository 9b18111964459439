/* Decides what the next step of a connection is: read a head, hand out a request, pass on its body,
 * end it, linger, close. It assumes one thread, and handlers that may call back into any function
 * of the header from inside any callback: only step() moves a connection on, it never runs inside
 * itself, and memory goes only at its end. */

#include "io/http_conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SWEEP FAST_S(1)
#define ACCEPTS_PER_TURN 64
#define BODY_WINDOW 65536   /* bytes of a body that are read at once */
#define LINGER FAST_S(2) /* after the last that came: who still sends a body reads afterwards */
#define LINGER_MAX FAST_S(30)
/* When the doors close: for one more request of who has been heard of within this time. Who has not is as unlikely
 * to be sending just then as at any other time. */
#define LAST_CALL FAST_S(2)
#define DRAIN_SWEEP FAST_MS(100) /* what has come already is read before the first one */

/* ---- the life of a connection ---- */

static void tell_finished(struct fast_http_req *c, bool complete)
{
    const struct fast_http_server_conf *conf = &c->server->conf;
    if (c->watched && c->state == EXCHANGE)
        conf->finished(conf->arg, &(struct fast_http_finished){c, c->status, complete, c->sent, c->began, c->note});
}

static void tell_done(struct fast_http_req *c, bool complete)
{
    const struct fast_http_req_ops *ops = c->ops;
    c->ops = NULL;
    if (ops && ops->done)
        ops->done(c->user, complete);
}

static void drop_collected(struct fast_http_req *c)
{
    free(c->collect.data);
    c->collect = (struct fast_http_collected){0};
}

static void conn_free(struct fast_http_req *c)
{
    struct fast_http_server *sv = c->server;
    if (c->prev)
        c->prev->next = c->next;
    else
        sv->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    sv->count--;
    drop_collected(c);
    free(c);
    if (sv->full && sv->watch) {
        sv->full = false;
        fast_watch_set(sv->watch, FAST_LOOP_IN);
    }
}

void fast_http_conn_close(struct fast_http_req *c)
{
    if (!c->closed) {
        c->closed = true;
        tell_finished(c, false);
        if (c->h2)
            c->server->conf.http2->free(c->h2);
        c->h2 = NULL;
        fast_http_stream_fini(&c->s);
        tell_done(c, false);
    }
    if (!c->stepping)
        conn_free(c);
}

static void set_deadline(struct fast_http_req *c)
{
    fast_ns now = fast_loop_now(c->s.loop);
    /* One of whose tunnel the last is not read may have gone: nothing else would tell. */
    bool left = c->state == EXCHANGE && c->tunnel && c->s.eof && !c->body.done;
    bool stuck = fast_http_stream_waiting(&c->s) > 0 || left;
    bool hungry = c->state == EXCHANGE && c->reading && !c->body.done && !c->tunnel;
    if (c->state == HEAD) {
        /* The time for a head runs from its first byte and is not extended by the next ones. */
        bool begun = c->s.in_len > 0;
        if (begun && c->deadline > now + c->server->conf.head_timeout)
            c->deadline = now + c->server->conf.head_timeout;
        return;
    }
    if (c->state == LINGERING && c->shut) {
        if (c->s.moved && !c->server->draining)
            c->deadline = now + LINGER < c->linger_end ? now + LINGER : c->linger_end;
        c->s.moved = false;
        return;
    }
    if (c->state == UPGRADED) {
        fast_ns since = c->server->conf.http2->waits_since(c->h2);
        c->deadline = since == FAST_NEVER ? FAST_NEVER : since + c->server->conf.idle_timeout;
        return;
    }
    if (!stuck && !hungry)
        c->deadline = FAST_NEVER;
    else if (c->s.moved || c->deadline == FAST_NEVER)
        c->deadline = now + c->server->conf.idle_timeout;
    c->s.moved = false;
}

static void begin_idle(struct fast_http_req *c)
{
    c->state = HEAD;
    fast_http_stream_rest(&c->s);
    /* A client that was not told of the end may be sending its next request. */
    c->deadline = fast_loop_now(c->s.loop) +
                  (c->server->draining ? LAST_CALL : c->server->conf.idle_timeout);
    fast_http_head_init(&c->head, false);
}

/* Waits for the client to read the response before the connection goes: closing with unread input
 * would make the kernel send a reset, and that can destroy the response on its way. */
static void begin_linger(struct fast_http_req *c)
{
    c->shut = true;
    c->deadline = fast_loop_now(c->s.loop) + LINGER;
    c->linger_end = fast_loop_now(c->s.loop) + LINGER_MAX;
    fast_http_stream_shutdown(&c->s);
}

/* ---- requests ---- */

static void finish_exchange(struct fast_http_req *c)
{
    bool close_after = c->close_after || !c->body.done;
    drop_collected(c);
    tell_finished(c, true);
    tell_done(c, true);
    if (c->closed)
        return;
    fast_http_stream_consume(&c->s, 0, c->head.len);
    if (close_after)
        c->state = LINGERING;
    else
        begin_idle(c);
}

static void refuse(struct fast_http_req *c, int status)
{
    c->body = (struct fast_http_body){.done = true};
    c->head.len = (uint32_t)c->s.in_len;
    c->head.keep_alive = false;
    c->close_after = true;
    c->state = EXCHANGE;
    fast_http_req_text_reply(c, status, "%s", c->head.why);
}

static void begin_exchange(struct fast_http_req *c)
{
    c->ops = NULL;
    c->user = NULL;
    c->reading = c->end_told = c->was_full = c->fresh = false;
    c->started = c->ended = c->chunked = c->bodiless = c->tunnel = false;
    c->close_after = !c->head.keep_alive;
    c->left = -1;
    c->status = 0;
    c->sent = 0;
    c->note[0] = 0;
    c->watched = false;
    if (c->server->conf.finished && !c->server->conf.finished_some)
        fast_http_req_watch(c);
    c->state = EXCHANGE;
    c->deadline = FAST_NEVER;
}

static bool step_head(struct fast_http_req *c)
{
    int r = fast_http_head_parse(&c->head, c->s.in, c->s.in_len);
    if (r == 0)
        return false;
    begin_exchange(c);
    if (r < 0) {
        refuse(c, -r);
        return true;
    }
    fast_http_body_request(&c->body, &c->head);
    c->bodiless = fast_http_req_is_head(c);
    c->server->conf.handler(c->server->conf.arg, c);
    return true;
}

static void body_broken(struct fast_http_req *c)
{
    if (c->started) {
        fast_http_conn_close(c);
        return;
    }
    const struct fast_http_req_ops *ops = c->ops;
    void *user = c->user;
    c->ops = NULL;
    c->close_after = true;
    c->s.in_len = c->head.len;
    c->body = (struct fast_http_body){.done = true};
    fast_http_req_text_reply(c, 400, "the chunks of the body are malformed");
    if (ops && ops->done)
        ops->done(user, false);
}

static void give_body(struct fast_http_req *c, const char *data, size_t len)
{
    if (c->ops && c->ops->body && !c->ended)
        c->ops->body(c->user, data, len);
}

/* Passes on what is there of the body. Once the response is complete the rest of it is dropped. */
static bool step_body(struct fast_http_req *c)
{
    size_t at = c->head.len, used = 0, n = 0;
    const char *data = NULL;
    bool moved = false, gave = false;
    while (!c->closed && !c->body.done && (c->reading || c->ended) && at < c->s.in_len) {
        if (fast_http_body_next(&c->body, c->s.in + at, c->s.in_len - at, &used, &data, &n)) {
            body_broken(c);
            return true;
        }
        at += used;
        if (n)
            give_body(c, data, n);
        gave = gave || n;
        moved = true;
    }
    if (c->closed)
        return true;
    fast_http_stream_consume(&c->s, c->head.len, at - c->head.len);
    /* A body may be a long time coming: who takes it sees at once that there will be one. */
    if ((gave || (c->fresh && c->reading)) && !c->body.done && !c->ended && c->ops && c->ops->flush) {
        c->fresh = false;
        c->ops->flush(c->user);
    }
    if (c->tunnel && c->s.eof && c->reading && c->s.in_len == c->head.len)
        c->body.done = true;
    if (c->body.done && !c->end_told && c->reading && !c->ended) {
        c->end_told = true;
        if (c->ops && c->ops->end)
            c->ops->end(c->user);
        return true;
    }
    return moved;
}

static bool step_exchange(struct fast_http_req *c)
{
    if (step_body(c))
        return true;
    if (c->was_full && !c->ended && fast_http_stream_waiting(&c->s) < FAST_HTTP_HIGH_WATER / 2) {
        c->was_full = false;
        if (c->ops && c->ops->drain)
            c->ops->drain(c->user);
        return true;
    }
    if (c->ended && (c->body.done || c->close_after)) {
        fast_http_stream_flush(&c->s);
        finish_exchange(c);
        return true;
    }
    return false;
}

/* ---- HTTP/2 ---- */

/* What a client of HTTP/2 sends first, and no other client. */
static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static bool may_be_preface(const struct fast_http_req *c)
{
    size_t n = c->s.in_len < sizeof(preface) - 1 ? c->s.in_len : sizeof(preface) - 1;
    return c->server->conf.http2 && c->accepted && !memcmp(c->s.in, preface, n);
}

static bool step_preface(struct fast_http_req *c)
{
    if (c->s.in_len < sizeof(preface) - 1)
        return false;
    c->h2 = c->server->conf.http2->begin(c);
    if (!c->h2) {
        fast_http_conn_close(c);
        return false;
    }
    c->state = UPGRADED;
    c->deadline = FAST_NEVER;
    return true;
}

static void step_upgraded(struct fast_http_req *c)
{
    if (c->server->conf.http2->step(c->h2))
        return;
    c->server->conf.http2->free(c->h2);
    c->h2 = NULL;
    c->state = LINGERING;
    c->again = true;
}

/* One step; true if there may be another one at once. */
static bool step_once(struct fast_http_req *c)
{
    switch (c->state) {
    case HEAD:
        if (fast_http_stream_waiting(&c->s) >= FAST_HTTP_HIGH_WATER || !c->s.in_len)
            return false;
        return may_be_preface(c) ? step_preface(c) : step_head(c);
    case EXCHANGE:
        return step_exchange(c);
    case LINGERING:
        c->s.in_len = 0;
        if (!c->shut && !fast_http_stream_waiting(&c->s))
            begin_linger(c);
        return false;
    case UPGRADED:
        step_upgraded(c);
        return false;
    }
    return false;
}

static size_t read_limit(const struct fast_http_req *c)
{
    return c->state == EXCHANGE ? c->head.len + (size_t)BODY_WINDOW : FAST_HTTP_HEAD_MAX;
}

static bool is_over(const struct fast_http_req *c)
{
    if (c->s.broken || c->s.unsendable)
        return true;
    if (!c->s.eof)
        return false;
    /* What came through a tunnel is still passed on. */
    if (c->tunnel && c->state == EXCHANGE && !c->ended)
        return false;
    /* What has been answered is still delivered; who waits for an answer counts as gone. */
    return c->state == UPGRADED || (c->state == EXCHANGE && !c->ended) || fast_http_stream_waiting(&c->s) == 0;
}

void fast_http_conn_step(struct fast_http_req *c)
{
    if (c->stepping) {
        c->again = true;
        return;
    }
    c->stepping = true;
    do {
        c->again = false;
        while (!c->closed && step_once(c))
            ;
        if (!c->closed && fast_http_stream_waiting(&c->s)) {
            bool behind = fast_http_stream_waiting(&c->s) >= FAST_HTTP_HIGH_WATER / 2;
            fast_http_stream_flush(&c->s);
            /* No event will tell of room that is there already. */
            if (behind && fast_http_stream_waiting(&c->s) < FAST_HTTP_HIGH_WATER / 2)
                c->again = true;
        }
        if (!c->closed && is_over(c))
            fast_http_conn_close(c);
    } while (c->again && !c->closed);
    if (!c->closed) {
        c->s.reading = c->s.in_len < read_limit(c);
        set_deadline(c);
        if (!fast_http_stream_arm(&c->s))
            fast_http_conn_close(c);
    }
    c->stepping = false;
    if (c->closed)
        conn_free(c);
}

static void on_conn(void *arg, int events)
{
    struct fast_http_req *c = arg;
    /* Through a session any event may be what reading waits for. */
    if (events & (FAST_LOOP_IN | FAST_LOOP_HUP) || c->s.session)
        fast_http_stream_fill(&c->s, read_limit(c));
    if (events & FAST_LOOP_OUT)
        fast_http_stream_flush(&c->s);
    fast_http_conn_step(c);
}

/* ---- accepting ---- */

static void name_peer(const struct sockaddr_storage *a, char *buf, size_t cap)
{
    char ip[INET6_ADDRSTRLEN] = "?";
    if (a->ss_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, a, sizeof(v6));
        inet_ntop(AF_INET6, &v6.sin6_addr, ip, sizeof(ip));
        snprintf(buf, cap, "[%s]:%d", ip, ntohs(v6.sin6_port));
    } else {
        struct sockaddr_in v4;
        memcpy(&v4, a, sizeof(v4));
        inet_ntop(AF_INET, &v4.sin_addr, ip, sizeof(ip));
        snprintf(buf, cap, "%s:%d", ip, ntohs(v4.sin_port));
    }
}

static struct fast_http_req *conn_new(struct fast_http_server *sv, int fd)
{
    struct fast_http_req *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return NULL;
    }
    c->server = sv;
    c->next = sv->conns;
    if (c->next)
        c->next->prev = c;
    sv->conns = c;
    sv->count++;
    fast_http_stream_init(&c->s, sv->loop, fd, on_conn, c);
    begin_idle(c);
    return c;
}

static void conn_accepted(struct fast_http_server *sv, int fd, const struct sockaddr_storage *addr)
{
    struct fast_http_req *c = conn_new(sv, fd);
    if (!c)
        return;
    c->accepted = true;
    if (sv->conf.secure) {
        c->s.secure = sv->conf.secure;
        c->s.session = sv->conf.secure->accept(sv->conf.secure->arg, fd);
        c->s.broken = !c->s.session;
    }
    name_peer(addr, c->peer, sizeof(c->peer));
    on_conn(c, FAST_LOOP_IN); /* most clients have sent something by now */
}

void fast_http_server_adopt(struct fast_http_server *sv, int fd, const char *peer)
{
    struct fast_http_req *c = conn_new(sv, fd);
    if (!c)
        return;
    snprintf(c->peer, sizeof(c->peer), "%s", peer);
    fast_http_conn_step(c);
}

/* Makes room by closing the connection that has been idle for the longest time; of those that became
 * idle in one turn of the loop, the one that came first (new ones are at the head of the list). */
static bool evict_idle(struct fast_http_server *sv)
{
    struct fast_http_req *oldest = NULL;
    for (struct fast_http_req *c = sv->conns; c; c = c->next)
        if (c->state == HEAD && !c->s.in_len && !c->stepping &&
            (!oldest || c->deadline <= oldest->deadline))
            oldest = c;
    if (oldest)
        fast_http_conn_close(oldest);
    return oldest != NULL;
}

static void on_listen(void *arg, int events)
{
    struct fast_http_server *sv = arg;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        bool no_room = sv->count >= sv->conf.max_conns;
        /* Nothing is closed for a connection that may not be there: only the first one surely is,
         * and the loop calls again. */
        if (no_room && i > 0)
            return;
        if (no_room && !evict_idle(sv)) {
            sv->full = true;
            fast_watch_set(sv->watch, 0);
            return;
        }
        struct sockaddr_storage a = {0};
        socklen_t len = sizeof(a);
        int fd = accept4(sv->fd, (struct sockaddr *)&a, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        bool none_left = fd < 0 && (errno == EMFILE || errno == ENFILE);
        if (none_left && i > 0) /* the same holds for descriptors */
            return;
        if (none_left && evict_idle(sv))
            continue;
        if (fd < 0 && errno != EAGAIN) {
            sv->full = true; /* the sweep tries again */
            fast_watch_set(sv->watch, 0);
        }
        if (fd < 0)
            return;
        conn_accepted(sv, fd, &a);
    }
}

static void timed_out(struct fast_http_req *c)
{
    if (c->state == HEAD && c->s.in_len) {
        c->head.why = "the head did not come in time";
        begin_exchange(c);
        refuse(c, 408);
        fast_http_conn_step(c);
    } else if (c->state == UPGRADED &&
               c->server->conf.http2->give_up(c->h2, c->deadline - c->server->conf.idle_timeout)) {
        fast_http_conn_step(c);
    } else {
        fast_http_conn_close(c);
    }
}

static void on_sweep(void *arg)
{
    struct fast_http_server *sv = arg;
    fast_ns now = fast_loop_now(sv->loop);
    /* The end of one request may end others: begin anew after each. */
    for (struct fast_http_req *c = sv->conns; c; c = c ? c->next : sv->conns)
        if (c->deadline <= now) {
            timed_out(c);
            c = NULL;
        }
    if (sv->full && sv->watch) {
        sv->full = false;
        fast_watch_set(sv->watch, FAST_LOOP_IN);
    }
    fast_timer_set(sv->sweep, now + (sv->draining ? DRAIN_SWEEP : SWEEP));
}

int fast_http_server_new(struct fast_loop *loop, const struct fast_http_server_conf *conf,
                         struct fast_http_server **ret, struct fast_err *err)
{
    struct fast_http_server *sv = calloc(1, sizeof(*sv));
    if (!sv)
        return fast_err_set(err, FAST_ENOMEM, "no memory for an HTTP server");
    *sv = (struct fast_http_server){.loop = loop, .conf = *conf, .fd = -1};
    if (!sv->conf.max_conns)
        sv->conf.max_conns = 4096;
    if (!sv->conf.head_timeout)
        sv->conf.head_timeout = FAST_S(10);
    if (!sv->conf.idle_timeout)
        sv->conf.idle_timeout = FAST_S(60);
    int r = fast_http_listen(conf->address, &sv->fd, &sv->port, err);
    if (r) {
        free(sv);
        return r;
    }
    sv->watch = fast_watch_new(loop, sv->fd, FAST_LOOP_IN, on_listen, sv);
    sv->sweep = fast_timer_new(loop, on_sweep, sv);
    if (!sv->watch || !sv->sweep) {
        fast_http_server_free(sv);
        return fast_err_set(err, FAST_ENOMEM, "no memory for an HTTP server");
    }
    fast_timer_set(sv->sweep, fast_loop_now(loop) + SWEEP);
    *ret = sv;
    return 0;
}

/* Who was told by the kernel that it is connected is let in before the door closes. */
static void accept_last(struct fast_http_server *sv)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);
    for (int fd; (fd = accept4(sv->fd, (struct sockaddr *)&a, &len, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;
         len = sizeof(a))
        conn_accepted(sv, fd, &a);
}

static void close_door(struct fast_http_server *sv)
{
    fast_watch_free(sv->watch);
    sv->watch = NULL;
    if (sv->fd >= 0)
        close(sv->fd);
    sv->fd = -1;
}

static void drain_one(struct fast_http_req *c)
{
    fast_ns now = fast_loop_now(c->s.loop), idle_since = c->deadline - c->server->conf.idle_timeout;
    if (c->state == UPGRADED)
        fast_http_conn_step(c); /* says goodbye, and ends when its streams have */
    else if (c->state == HEAD && !c->s.in_len && now - idle_since >= LAST_CALL)
        c->deadline = now;
    else if (c->state == HEAD && c->deadline > now + LAST_CALL)
        c->deadline = now + LAST_CALL;
}

void fast_http_server_drain(struct fast_http_server *sv)
{
    sv->draining = true;
    if (sv->fd >= 0)
        accept_last(sv);
    close_door(sv);
    for (struct fast_http_req *c = sv->conns, *next; c; c = next) {
        next = c->next;
        drain_one(c);
    }
    fast_timer_set(sv->sweep, fast_loop_now(sv->loop) + DRAIN_SWEEP);
}

void fast_http_server_free(struct fast_http_server *sv)
{
    if (!sv)
        return;
    sv->draining = true;
    close_door(sv); /* nobody is let in: what handlers need may be gone */
    while (sv->conns)
        fast_http_conn_close(sv->conns);
    fast_timer_free(sv->sweep);
    free(sv);
}

int fast_http_server_port(const struct fast_http_server *sv)
{
    return sv->port;
}

size_t fast_http_server_conns(const struct fast_http_server *sv)
{
    return sv->count;
}
