#include "node/health.h"

/* A health probe: connect, send one GET, read the answer, close. Everything is non-blocking and one
 * timer bounds the whole. Only the status line is looked at, but the rest is read for a moment too:
 * closing while the function still writes would show up as an error in its log. */

#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAX (NODE_HEALTH_PATH_MAX + 160)
#define STATUS_LINE_LEN 12 /* "HTTP/1.1 200" */
#define DRAIN_TIME FAST_MS(10)
#define DRAIN_MAX (64 << 10)

struct node_health {
    struct fast_watch *watch;
    struct fast_timer *timer;
    struct fast_loop *loop;
    int fd;
    bool fallback; /* 404 is good enough */
    bool refused;  /* at once, by connect() itself */
    bool connected;
    char request[REQUEST_MAX];
    size_t request_len, sent;
    char answer[STATUS_LINE_LEN];
    size_t got, drained;
    int status; /* 0: not known yet */
    node_health_fn *fn;
    void *arg;
};

int node_health_check_path(const char *path, struct fast_err *err)
{
    size_t n = strlen(path);
    bool ok = n == 0 || (path[0] == '/' && n <= NODE_HEALTH_PATH_MAX);
    for (size_t i = 0; ok && i < n; i++)
        ok = (unsigned char)path[i] > 0x20 && (unsigned char)path[i] < 0x7f;
    if (!ok)
        return fast_err_set(err, FAST_EINVAL,
                            "health path: \"%.80s\" is not a path that begins with \"/\", of at "
                            "most %d printable characters", path, NODE_HEALTH_PATH_MAX);
    return 0;
}

int node_health_status(const char *data, size_t len)
{
    static const char shape[] = "HTTP/1.# ###";
    for (size_t i = 0; i < len && i < STATUS_LINE_LEN; i++) {
        bool digit = data[i] >= '0' && data[i] <= '9';
        if (shape[i] == '#' ? !digit : data[i] != shape[i])
            return -1;
    }
    if (len < STATUS_LINE_LEN)
        return 0;
    return (data[9] - '0') * 100 + (data[10] - '0') * 10 + (data[11] - '0');
}

void node_health_free(struct node_health *h)
{
    if (!h)
        return;
    fast_watch_free(h->watch);
    fast_timer_free(h->timer);
    if (h->fd >= 0)
        close(h->fd);
    free(h);
}

static void finish(struct node_health *h, bool ok, const char *reason)
{
    node_health_fn *fn = h->fn;
    void *arg = h->arg;
    node_health_free(h);
    fn(arg, ok, reason);
}

static void finish_status(struct node_health *h)
{
    char reason[64];
    int status = h->status;
    if (status < 0) {
        finish(h, false, "its answer is not HTTP");
        return;
    }
    snprintf(reason, sizeof(reason), "its health path answers with status %d", status);
    finish(h, (status >= 200 && status < 300) || (status == 404 && h->fallback), reason);
}

static void drain(struct node_health *h)
{
    char scrap[4096];
    ssize_t n = recv(h->fd, scrap, sizeof(scrap), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        h->drained += (size_t)n;
    if (n <= 0 || h->drained > DRAIN_MAX)
        finish_status(h);
}

static void on_readable(struct node_health *h)
{
    if (h->status) {
        drain(h);
        return;
    }
    ssize_t n = recv(h->fd, h->answer + h->got, sizeof(h->answer) - h->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        finish(h, false, "it closes the connection without an answer");
        return;
    }
    h->got += (size_t)n;
    h->status = node_health_status(h->answer, h->got);
    if (h->status)
        fast_timer_set(h->timer, fast_loop_now(h->loop) + DRAIN_TIME);
}

static void on_writable(struct node_health *h)
{
    if (!h->connected) {
        int code = 0;
        socklen_t len = sizeof(code);
        getsockopt(h->fd, SOL_SOCKET, SO_ERROR, &code, &len);
        if (code || h->refused) {
            finish(h, false, "nothing listens on its port");
            return;
        }
        h->connected = true;
    }
    ssize_t n = send(h->fd, h->request + h->sent, h->request_len - h->sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        finish(h, false, "it closes the connection before the request");
        return;
    }
    h->sent += (size_t)n;
    if (h->sent == h->request_len)
        fast_watch_set(h->watch, FAST_LOOP_IN);
}

static void on_event(void *arg, int events)
{
    struct node_health *h = arg;
    if (!h->connected || h->sent < h->request_len)
        on_writable(h);
    else if (events & (FAST_LOOP_IN | FAST_LOOP_HUP))
        on_readable(h);
}

static void on_timeout(void *arg)
{
    struct node_health *h = arg;
    if (h->status)
        finish_status(h);
    else
        finish(h, false, h->connected ? "it takes connections and does not answer"
                                      : "a connection to its port takes too long");
}

/* The probe comes from 127.0.0.2: a connection from a random port of 127.0.0.1 to a port there that
 * nobody listens on yet may, by simultaneous open, meet itself and take the port away from the
 * replica that is about to bind it. */
static int start_connect(struct node_health *h, uint32_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002)};
    int on = 1;
    h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (h->fd < 0)
        return -1;
    setsockopt(h->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    if (bind(h->fd, (struct sockaddr *)&a, sizeof(a)))
        return -1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    if (!connect(h->fd, (struct sockaddr *)&a, sizeof(a)) || errno == EINPROGRESS)
        return 0;
    h->refused = errno == ECONNREFUSED;
    return h->refused ? 0 : -1;
}

int node_health_new(struct fast_loop *loop, uint32_t port, const char *path, fast_ns timeout,
                    node_health_fn *fn, void *arg, struct node_health **ret, struct fast_err *err)
{
    struct node_health *h = calloc(1, sizeof(*h));
    if (!h)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a health probe");
    h->loop = loop;
    h->fn = fn;
    h->arg = arg;
    h->fallback = !*path;
    h->request_len = (size_t)snprintf(
        h->request, sizeof(h->request),
        "GET %.*s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUser-Agent: fast-node\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n",
        NODE_HEALTH_PATH_MAX, *path ? path : NODE_HEALTH_PATH, port);
    h->fd = -1;
    int r = 0;
    if (start_connect(h, port))
        r = fast_err_set(err, FAST_EIO, "cannot connect to port %u: %s", port, strerror(errno));
    if (!r && (!(h->timer = fast_timer_new(loop, on_timeout, h)) ||
               !(h->watch = fast_watch_new(loop, h->fd, FAST_LOOP_OUT, on_event, h))))
        r = fast_err_set(err, FAST_ENOMEM, "no memory for a health probe");
    if (r) {
        node_health_free(h);
        return r;
    }
    fast_timer_set(h->timer, fast_loop_now(loop) + timeout);
    *ret = h;
    return 0;
}
