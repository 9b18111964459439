/* Decides which connection carries a call, and whether it may carry another one after it. It
 * assumes the same rules as the serving end: one thread, callbacks that may call back, and only
 * step() moves a connection on. */

#include "io/http_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/http_stream.h"

#define BODY_WINDOW 65536
#define IDLE_MAX 64
/* Servers close idle connections after 5 s or more; one that is older is not trusted, since a
 * request that it swallows cannot be repeated. */
#define IDLE_TRUST FAST_S(4)

/* A connection and the call that it is at. Without |ops| it is idle, or on its way out. */
struct fast_http_call {
    struct fast_http_pool *pool;
    struct fast_http_call *next; /* below it in the stack of idle ones */
    struct fast_http_stream s;
    const struct fast_http_call_ops *ops;
    void *user;
    struct fast_http_head head;
    struct fast_http_body body;
    bool stepping, again, closed, idle;
    bool upgrade; /* a 101 is welcome */
    bool closing; /* our side of a tunnel has its end behind what waits */
    bool connecting, to_head, chunked, finished, held, got_head;
    bool fresh; /* the head of an answer without a length is here, and nothing behind it has been told */
    fast_ns idle_since;
};

struct fast_http_pool {
    struct fast_loop *loop;
    int port;
    struct sockaddr_un path; /* empty: TCP alone */
    struct fast_http_call *idle; /* LIFO: the youngest connection is the warmest */
    int idle_count, count;
    fast_http_dial *dial; /* NULL: to path and port */
    void *dial_arg;
    bool freed;
};

int fast_http_pool_new(struct fast_loop *loop, int port, const char *path,
                       struct fast_http_pool **ret, struct fast_err *err)
{
    struct fast_http_pool *p = calloc(1, sizeof(*p));
    if (!p)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a pool of connections");
    p->loop = loop;
    p->port = port;
    p->path.sun_family = AF_UNIX;
    if (path && strlen(path) < sizeof(p->path.sun_path))
        memcpy(p->path.sun_path, path, strlen(path) + 1);
    *ret = p;
    return 0;
}

void fast_http_pool_dial(struct fast_http_pool *p, fast_http_dial *dial, void *arg)
{
    p->dial = dial;
    p->dial_arg = arg;
}

static void unlink_idle(struct fast_http_call *c)
{
    struct fast_http_call **at = &c->pool->idle;
    while (*at && *at != c)
        at = &(*at)->next;
    if (*at) {
        *at = c->next;
        c->pool->idle_count--;
    }
    c->idle = false;
}

static void conn_free(struct fast_http_call *c)
{
    struct fast_http_pool *p = c->pool;
    free(c);
    if (--p->count == 0 && p->freed)
        free(p);
}

static void conn_close(struct fast_http_call *c)
{
    if (!c->closed) {
        if (c->idle)
            unlink_idle(c);
        c->closed = true;
        c->ops = NULL;
        fast_http_stream_fini(&c->s);
    }
    if (!c->stepping)
        conn_free(c);
}

void fast_http_pool_free(struct fast_http_pool *p)
{
    if (!p)
        return;
    p->count++; /* so that it outlives its last connection here */
    p->freed = true;
    while (p->idle)
        conn_close(p->idle);
    if (--p->count == 0)
        free(p);
}

static void fail_call(struct fast_http_call *c, const char *why)
{
    const struct fast_http_call_ops *ops = c->ops;
    void *user = c->user;
    bool connected = !c->connecting;
    conn_close(c); /* never frees here: a call fails inside step() only */
    if (ops)
        ops->fail(user, connected, why);
}

static void end_call(struct fast_http_call *c)
{
    const struct fast_http_call_ops *ops = c->ops;
    struct fast_http_pool *p = c->pool;
    void *user = c->user;
    bool keep = c->finished && c->head.keep_alive && c->body.framing != FAST_HTTP_BODY_CLOSE &&
                c->s.in_len == 0 && !c->s.eof && !c->s.unsendable && !p->freed &&
                !fast_http_stream_waiting(&c->s) && p->idle_count < IDLE_MAX;
    c->ops = NULL;
    if (keep) {
        c->s.full = false;
        fast_http_stream_rest(&c->s);
        c->idle = true;
        c->idle_since = fast_loop_now(p->loop);
        c->next = p->idle;
        p->idle = c;
        p->idle_count++;
    } else {
        conn_close(c);
    }
    ops->end(user);
}

static bool step_head(struct fast_http_call *c)
{
    int r = fast_http_head_parse(&c->head, c->s.in, c->s.in_len);
    if (r < 0) {
        fail_call(c, c->head.why);
        return true;
    }
    if (r == 0)
        return false;
    uint32_t len = c->head.len;
    if (c->head.status == 101 && !c->upgrade) {
        fail_call(c, "the function switched protocols without being asked");
        return true;
    }
    if (c->head.status < 200 && c->head.status != 101) {
        fast_http_stream_consume(&c->s, 0, len);
        fast_http_head_init(&c->head, true);
        return true;
    }
    c->got_head = true;
    fast_http_body_response(&c->body, &c->head, c->to_head);
    if (c->head.status == 101)
        c->body = (struct fast_http_body){.framing = FAST_HTTP_BODY_CLOSE};
    c->fresh = c->body.framing == FAST_HTTP_BODY_CHUNKED || c->body.framing == FAST_HTTP_BODY_CLOSE;
    c->ops->head(c->user, &c->head, c->s.in, &c->body);
    if (!c->closed)
        fast_http_stream_consume(&c->s, 0, len);
    return true;
}

static bool step_body(struct fast_http_call *c)
{
    size_t at = 0, used = 0, n = 0;
    const char *data = NULL;
    bool gave = false;
    while (!c->closed && !c->held && !c->body.done && at < c->s.in_len) {
        if (fast_http_body_next(&c->body, c->s.in + at, c->s.in_len - at, &used, &data, &n)) {
            fail_call(c, "the chunks of the response are malformed");
            return true;
        }
        at += used;
        if (n)
            c->ops->body(c->user, data, n);
        gave = gave || n;
    }
    if (c->closed)
        return true;
    fast_http_stream_consume(&c->s, 0, at);
    /* Events may be a long time coming: who waits for them sees that there will be some. */
    if ((gave || c->fresh) && !c->body.done) {
        c->fresh = false;
        c->ops->flush(c->user);
    }
    if (c->closed || c->held)
        return c->closed;
    if (c->body.framing == FAST_HTTP_BODY_CLOSE && c->s.eof && !c->s.in_len)
        c->body.done = true;
    if (c->body.done)
        end_call(c);
    return c->body.done;
}

static bool step_once(struct fast_http_call *c)
{
    if (c->idle || !c->ops)
        return false;
    if (c->s.full && fast_http_stream_waiting(&c->s) < FAST_HTTP_HIGH_WATER / 2) {
        c->s.full = false;
        c->ops->drain(c->user);
        return true;
    }
    if (!c->got_head && c->s.in_len)
        return step_head(c);
    return c->got_head && step_body(c);
}

/* The connection cannot deliver what is missing. */
static void check_lost(struct fast_http_call *c)
{
    bool lost = c->s.broken || c->s.eof;
    if (c->idle) {
        if (lost || c->s.in_len)
            conn_close(c); /* an answer that nobody asked for belongs to nobody */
    } else if (lost && !c->held) {
        fail_call(c, c->got_head ? "the function closed the connection in the middle of its answer"
                                 : "the function closed the connection without an answer");
    }
}

static size_t read_limit(const struct fast_http_call *c)
{
    /* NOLINTNEXTLINE(bugprone-branch-clone): two limits that happen to be the same. */
    return c->got_head ? BODY_WINDOW : FAST_HTTP_HEAD_MAX;
}

static void close_our_side(struct fast_http_call *c)
{
    if (!c->closing || fast_http_stream_waiting(&c->s))
        return;
    c->closing = false;
    fast_http_stream_shutdown(&c->s);
}

static void step(struct fast_http_call *c)
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
        if (!c->closed)
            check_lost(c);
    } while (c->again && !c->closed);
    if (!c->closed) {
        close_our_side(c);
        c->s.reading = c->s.in_len < read_limit(c) && !(c->held && c->got_head);
        if (!c->connecting && !fast_http_stream_arm(&c->s))
            fail_call(c, "no memory to wait for the function");
    }
    c->stepping = false;
    if (c->closed)
        conn_free(c);
}

/* Connecting is waited for by writability. */
static bool still_connecting(struct fast_http_call *c, int events)
{
    int e = 0;
    socklen_t len = sizeof(e);
    if (!c->connecting)
        return false;
    if (!(events & (FAST_LOOP_OUT | FAST_LOOP_HUP)))
        return true;
    if (getsockopt(c->s.fd, SOL_SOCKET, SO_ERROR, &e, &len) || e) {
        c->stepping = true;
        fail_call(c, "cannot connect to the function");
        c->stepping = false;
        conn_free(c);
        return true;
    }
    c->connecting = false;
    return false;
}

static void on_conn(void *arg, int events)
{
    struct fast_http_call *c = arg;
    if (still_connecting(c, events))
        return;
    if (events & FAST_LOOP_OUT)
        fast_http_stream_flush(&c->s);
    if (events & (FAST_LOOP_IN | FAST_LOOP_HUP))
        fast_http_stream_fill(&c->s, read_limit(c));
    step(c);
}

/* The function can put a link in the place of its socket, and this process may have rights that it has not: whoever
 * answers has to be of the user whose folder it is. */
static bool is_own_socket(const char *path)
{
    struct stat st;
    return !lstat(path, &st) && S_ISSOCK(st.st_mode);
}

static bool is_own_peer(const char *path, int fd)
{
    struct ucred peer;
    struct stat st;
    socklen_t len = sizeof(peer);
    char folder[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) : 0, path);
    return slash && !lstat(folder, &st) && S_ISDIR(st.st_mode) &&
           !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) && peer.uid == st.st_uid;
}

/* A connection to the Unix socket, which is there at once or not at all: -1, then TCP has to do. */
static int connect_path(const struct fast_http_pool *p)
{
    if (!*p->path.sun_path || !is_own_socket(p->path.sun_path))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && (connect(fd, (const struct sockaddr *)&p->path, sizeof(p->path)) ||
                    !is_own_peer(p->path.sun_path, fd))) {
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_port(const struct fast_http_pool *p, int *ret_fd, struct fast_err *err)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)p->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "no socket for a call: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) && errno != EINPROGRESS) {
        int r = fast_err_set(err, FAST_EPEER, "cannot connect to port %d: %s", p->port,
                             strerror(errno));
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int connect_new(struct fast_http_pool *p, struct fast_http_call **ret, struct fast_err *err)
{
    int fd = p->dial ? p->dial(p->dial_arg) : connect_path(p);
    bool local = fd >= 0;
    if (p->dial && !local)
        return fast_err_set(err, FAST_EIO, "no connection within this program: %s", strerror(errno));
    int r = local ? 0 : connect_port(p, &fd, err);
    if (r)
        return r;
    struct fast_http_call *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return fast_err_set(err, FAST_ENOMEM, "no memory for a call");
    }
    c->pool = p;
    p->count++;
    fast_http_stream_init(&c->s, p->loop, fd, on_conn, c);
    c->connecting = !local;
    c->s.watch = fast_watch_new(p->loop, fd, FAST_LOOP_IN | (local ? 0 : FAST_LOOP_OUT), on_conn, c);
    if (!c->s.watch) {
        conn_close(c);
        return fast_err_set(err, FAST_ENOMEM, "no memory to watch a call");
    }
    *ret = c;
    return 0;
}

/* The idle connection that was used last, if it can be trusted. */
static struct fast_http_call *take_idle(struct fast_http_pool *p)
{
    fast_ns now = fast_loop_now(p->loop);
    while (p->idle) {
        struct fast_http_call *c = p->idle;
        char byte;
        bool quiet = recv(c->s.fd, &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
        if (quiet && now - c->idle_since < IDLE_TRUST) {
            unlink_idle(c);
            return c;
        }
        conn_close(c);
    }
    return NULL;
}

int fast_http_call_new(struct fast_http_pool *p, const struct fast_http_call_ops *ops, void *user,
                       const char *head, size_t len, bool to_head, bool chunked,
                       struct fast_http_call **ret, struct fast_err *err)
{
    struct fast_http_call *c = take_idle(p);
    if (!c) {
        int r = connect_new(p, &c, err);
        if (r)
            return r;
    }
    c->ops = ops;
    c->user = user;
    c->to_head = to_head;
    c->chunked = chunked;
    c->finished = c->held = c->got_head = c->s.full = c->upgrade = c->closing = false;
    fast_http_head_init(&c->head, true);
    fast_http_stream_put(&c->s, head, len);
    *ret = c;
    return 0;
}

void fast_http_call_upgrade(struct fast_http_call *c)
{
    c->upgrade = true;
}

bool fast_http_call_write(struct fast_http_call *c, const char *data, size_t len)
{
    char size[24];
    if (c->closed || !len)
        return true;
    if (c->chunked)
        fast_http_stream_put(&c->s, size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", len));
    fast_http_stream_put(&c->s, data, len);
    if (c->chunked)
        fast_http_stream_put(&c->s, "\r\n", 2);
    if (fast_http_stream_waiting(&c->s) < FAST_HTTP_HIGH_WATER)
        return true;
    fast_http_call_flush(c);
    c->s.full = fast_http_stream_waiting(&c->s) >= FAST_HTTP_HIGH_WATER;
    return !c->s.full;
}

/* Sends what waits. What comes of it is told by the loop, never from in here. */
void fast_http_call_flush(struct fast_http_call *c)
{
    if (c->closed || c->connecting)
        return;
    fast_http_stream_flush(&c->s);
    if (!c->stepping && !fast_http_stream_arm(&c->s))
        c->s.broken = true;
}

void fast_http_call_finish(struct fast_http_call *c)
{
    if (c->chunked)
        fast_http_stream_put(&c->s, "0\r\n\r\n", 5);
    c->finished = true;
    c->closing = c->got_head && c->head.status == 101;
    fast_http_call_flush(c);
    close_our_side(c);
}

void fast_http_call_read(struct fast_http_call *c, bool on)
{
    if (c->held == !on)
        return;
    c->held = !on;
    if (on)
        step(c);
}

void fast_http_call_cancel(struct fast_http_call *c)
{
    conn_close(c);
}
