/* Decides when bytes move between a socket and its two buffers. It assumes one owner that looks at
 * |eof|, |broken| and |unsendable| after each call; it never closes anything by itself. */

#include "io/http_stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/parse.h"
#include "io/blocks.h"

#define GATHER 16384 /* pieces are copied together up to this size */
#define BACKLOG 1024

void fast_http_stream_init(struct fast_http_stream *s, struct fast_loop *loop, int fd,
                           fast_watch_fn *fn, void *arg)
{
    int one = 1;
    *s = (struct fast_http_stream){.loop = loop, .fd = fd, .fn = fn, .arg = arg, .reading = true};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void drop_in(struct fast_http_stream *s)
{
    fast_block_give(fast_loop_blocks(s->loop), s->in, s->in_cap);
    s->in = NULL;
    s->in_len = s->in_cap = 0;
}

static void drop_out(struct fast_http_stream *s)
{
    fast_block_give(fast_loop_blocks(s->loop), s->out, s->out_cap);
    s->out = NULL;
    s->out_at = s->out_len = s->out_cap = 0;
}

void fast_http_stream_fini(struct fast_http_stream *s)
{
    fast_watch_free(s->watch);
    if (s->session)
        s->secure->free(s->session);
    if (s->fd >= 0)
        close(s->fd);
    drop_in(s);
    drop_out(s);
    *s = (struct fast_http_stream){.fd = -1, .broken = true, .unsendable = true};
}

static bool in_grow(struct fast_http_stream *s, size_t cap)
{
    size_t want = s->in_cap ? 2 * s->in_cap : FAST_BLOCK;
    if (want > cap)
        want = cap;
    char *in = !s->in && want == FAST_BLOCK ? fast_block_take(fast_loop_blocks(s->loop)) : realloc(s->in, want);
    if (!in)
        return false;
    s->in = in;
    s->in_cap = want;
    return true;
}

bool fast_http_stream_fill(struct fast_http_stream *s, size_t cap)
{
    if (s->eof || s->broken || s->in_len >= cap)
        return false;
    bool more = s->in_len == s->in_cap || (s->filled && s->in_cap < cap);
    if (more && !in_grow(s, cap)) {
        s->broken = true;
        return false;
    }
    size_t room = (s->in_cap < cap ? s->in_cap : cap) - s->in_len;
    ssize_t n;
    do
        n = s->session ? s->secure->recv(s->session, s->in + s->in_len, room)
                       : recv(s->fd, s->in + s->in_len, room, 0);
    while (n < 0 && errno == EINTR);
    s->filled = n > 0 && (size_t)n == room;
    if (n > 0) {
        s->in_len += (size_t)n;
        s->moved = true;
        return true;
    }
    if (n == 0)
        s->eof = true;
    else if (errno != EAGAIN)
        s->broken = true;
    return false;
}

void fast_http_stream_consume(struct fast_http_stream *s, size_t from, size_t len)
{
    if (!len)
        return;
    s->in_len -= len;
    if (s->in_len > from)
        memmove(s->in + from, s->in + from + len, s->in_len - from);
}

size_t fast_http_stream_waiting(const struct fast_http_stream *s)
{
    return s->out_len - s->out_at;
}

bool fast_http_stream_retract(struct fast_http_stream *s, uint64_t from)
{
    /* A session that could not write may hold a copy already. */
    if (s->unsendable || s->sent > from || (s->session && s->secure->wants_write(s->session)))
        return false;
    s->out_len = s->out_at + (size_t)(from - s->sent);
    return true;
}

void fast_http_stream_rest(struct fast_http_stream *s)
{
    s->filled = false;
    s->resting = true;
    if (!fast_http_stream_waiting(s))
        drop_out(s);
    if (!s->in_len)
        drop_in(s);
}

bool fast_http_stream_pending(const struct fast_http_stream *s)
{
    return s->session && s->secure->pending(s->session);
}

void fast_http_stream_shutdown(struct fast_http_stream *s)
{
    if (s->session)
        s->secure->shutdown(s->session);
    shutdown(s->fd, SHUT_WR);
}

/* One write: of what waits and |data| together, or through a session of the first of the two. */
static ssize_t send_once(struct fast_http_stream *s, const char *data, size_t len)
{
    char *queued = s->out + s->out_at;
    size_t queued_len = s->out_len - s->out_at;
    if (s->session)
        return queued_len ? s->secure->send(s->session, queued, queued_len)
                          : s->secure->send(s->session, data, len);
    if (!queued_len || !len)
        return queued_len ? send(s->fd, queued, queued_len, MSG_NOSIGNAL) : send(s->fd, data, len, MSG_NOSIGNAL);
    struct iovec iov[2] = {{queued, queued_len}, {(void *)data, len}};
    return sendmsg(s->fd, &(struct msghdr){.msg_iov = iov, .msg_iovlen = 2}, MSG_NOSIGNAL);
}

/* Sends what waits and then |data|; returns how many bytes of |data| went out. */
static size_t send_now(struct fast_http_stream *s, const char *data, size_t len)
{
    while (!s->unsendable && s->out_len - s->out_at + len > 0) {
        ssize_t n = send_once(s, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0) {
            s->unsendable = true;
            break;
        }
        s->moved = true;
        s->sent += (uint64_t)n;
        size_t queued = s->out_len - s->out_at;
        if ((size_t)n < queued) {
            s->out_at += (size_t)n;
            continue;
        }
        s->out_at = s->out_len = 0;
        if (!len)
            return 0;
        if ((size_t)n == queued) /* a session takes one of the two at a time */
            continue;
        return (size_t)n - queued;
    }
    if (s->unsendable) {
        s->out_at = s->out_len = 0;
        return len;
    }
    return 0;
}

static bool out_reserve(struct fast_http_stream *s, size_t len)
{
    if (s->out_at && s->out_at == s->out_len)
        s->out_at = s->out_len = 0;
    if (s->out_cap - s->out_len >= len)
        return true;
    if (s->out_at) {
        s->out_len -= s->out_at;
        memmove(s->out, s->out + s->out_at, s->out_len);
        s->out_at = 0;
    }
    if (s->out_cap - s->out_len >= len)
        return true;
    size_t cap = s->out_cap ? s->out_cap : FAST_BLOCK;
    while (cap - s->out_len < len)
        cap *= 2;
    char *out = !s->out && cap == FAST_BLOCK ? fast_block_take(fast_loop_blocks(s->loop)) : realloc(s->out, cap);
    if (!out)
        return false;
    s->out = out;
    s->out_cap = cap;
    return true;
}

void fast_http_stream_put(struct fast_http_stream *s, const char *data, size_t len)
{
    if (s->unsendable)
        return;
    s->resting = false;
    while (len && fast_http_stream_waiting(s) + len >= GATHER) {
        size_t n = send_now(s, data, len);
        data += n;
        len -= n;
        if (!n)
            break;
    }
    if (!len)
        return;
    if (!out_reserve(s, len)) {
        s->unsendable = true;
        return;
    }
    memcpy(s->out + s->out_len, data, len);
    s->out_len += len;
}

void fast_http_stream_flush(struct fast_http_stream *s)
{
    send_now(s, NULL, 0);
    /* A buffer that a burst made large is not kept, and none while nothing is on its way. */
    if (!s->out_len && (s->resting || s->out_cap > (size_t)2 * FAST_HTTP_HIGH_WATER))
        drop_out(s);
}

bool fast_http_stream_arm(struct fast_http_stream *s)
{
    int events = 0;
    if (s->reading && !s->eof && !s->broken)
        events |= FAST_LOOP_IN;
    if ((fast_http_stream_waiting(s) || s->full) && !s->unsendable)
        events |= FAST_LOOP_OUT;
    /* A socket can be written to at nearly any time: that is how soon the rest is read. */
    if ((events & FAST_LOOP_IN) && s->session &&
        (s->secure->wants_write(s->session) || s->secure->pending(s->session)))
        events |= FAST_LOOP_OUT;
    if (!events) {
        /* A hang-up is told whether it is asked for or not: without a watch it cannot spin. */
        fast_watch_free(s->watch);
        s->watch = NULL;
        return true;
    }
    if (s->watch)
        fast_watch_set(s->watch, events);
    else
        s->watch = fast_watch_new(s->loop, s->fd, events, s->fn, s->arg);
    return s->watch != NULL;
}

/* "HOST:PORT" with an optional host, which stands in brackets if it has colons. */
static int split_address(const char *address, char *host, size_t cap, const char **ret_port,
                         struct fast_err *err)
{
    const char *colon = strrchr(address, ':');
    const char *from = address, *to = colon;
    if (!colon || !colon[1])
        return fast_err_set(err, FAST_EINVAL, "\"%.80s\" is not an address such as 127.0.0.1:8080",
                            address);
    if (to > from && *from == '[' && to[-1] == ']') {
        from++;
        to--;
    }
    if ((size_t)(to - from) >= cap)
        return fast_err_set(err, FAST_EINVAL, "the host of \"%.80s\" is too long", address);
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = 0;
    if (!*host)
        memcpy(host, "127.0.0.1", sizeof("127.0.0.1"));
    *ret_port = colon + 1;
    return 0;
}

static int bound_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a = {0};
    socklen_t len = sizeof(a);
    if (getsockname(fd, &a.any, &len))
        return 0;
    return a.any.sa_family == AF_INET6 ? ntohs(a.v6.sin6_port) : ntohs(a.v4.sin_port);
}

static int parse_address(const char *address, struct addrinfo **ret, struct fast_err *err)
{
    char host[64];
    const char *port = NULL;
    int64_t number = 0;
    int r = split_address(address, host, sizeof(host), &port, err);
    if (!r)
        r = fast_parse_int(port, "port", 0, 65535, &number, err);
    if (r)
        return r;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE};
    if (getaddrinfo(host, port, &hints, ret))
        return fast_err_set(err, FAST_EINVAL, "\"%s\" is not an IPv4 or IPv6 address, as in 127.0.0.1:8080", host);
    return 0;
}

int fast_http_address_check(const char *address, struct fast_err *err)
{
    struct addrinfo *ai = NULL;
    int r = parse_address(address, &ai, err);
    if (!r)
        freeaddrinfo(ai);
    return r;
}

int fast_http_listen(const char *address, int *ret_fd, int *ret_port, struct fast_err *err)
{
    struct addrinfo *ai = NULL;
    int r = parse_address(address, &ai, err);
    if (r)
        return r;
    int one = 1;
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    r = fd < 0 ? -1 : setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (!r)
        r = bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, BACKLOG);
    freeaddrinfo(ai);
    if (r) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        if (e == EADDRINUSE)
            return fast_err_set(err, FAST_EBUSY, "%s is in use by another program", address);
        return fast_err_set(err, FAST_EIO, "cannot listen on %s: %s", address, strerror(e));
    }
    *ret_fd = fd;
    *ret_port = bound_port(fd);
    return 0;
}
