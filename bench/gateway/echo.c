/* The function behind the benches of the gateway: as little of a server as can be called one, so
 * that what is measured is what stands before it. One thread, one epoll. It listens on $PORT and,
 * when the platform offers one, on the Unix socket $FAST_SOCKET. A request is answered when its body
 * is complete, with as many bytes as the digits behind "/n/" in its path say (default 2). A body with a
 * length is counted, one in chunks ends with the text of the last chunk, which the bodies of the benches
 * do not hold; no pipelining. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define IN_MAX 65536
#define OUT_MAX (1 << 20)

struct conn {
    int fd;
    size_t in_len;      /* of an incomplete head */
    size_t left;        /* of the body of the request */
    int chunked;        /* the request has a body in chunks, whose end is still to come */
    char tail[5];       /* what came last of it */
    size_t answer;      /* bytes of the body of its answer */
    size_t out_at, out_len;
    char in[IN_MAX];
    char *out; /* NULL unless the socket was full */
};

static char body[OUT_MAX];

static void drop(struct conn *c)
{
    close(c->fd);
    free(c->out);
    free(c);
}

static void watch(int ep, struct conn *c, uint32_t events, int op)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &ev);
}

/* False: the connection is gone. */
static int send_rest(int ep, struct conn *c)
{
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return 1;
        if (n < 0) {
            drop(c);
            return 0;
        }
        c->out_at += (size_t)n;
    }
    free(c->out);
    c->out = NULL;
    watch(ep, c, EPOLLIN, EPOLL_CTL_MOD);
    return 1;
}

static int answer(int ep, struct conn *c)
{
    char small[8192];
    char *out = c->answer > sizeof(small) / 2 ? malloc(c->answer + 256) : small;
    int n = snprintf(out, 256, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n",
                     c->answer);
    memcpy(out + n, body, c->answer);
    size_t len = (size_t)n + c->answer;
    ssize_t sent = send(c->fd, out, len, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        if (out != small)
            free(out);
        drop(c);
        return 0;
    }
    if (sent < 0)
        sent = 0;
    if ((size_t)sent < len) {
        c->out_at = 0;
        c->out_len = len - (size_t)sent;
        c->out = malloc(c->out_len);
        memcpy(c->out, out + sent, c->out_len);
        watch(ep, c, EPOLLOUT, EPOLL_CTL_MOD);
    }
    if (out != small)
        free(out);
    return 1;
}

/* Whether the chunks are complete with these bytes. */
static int is_last(struct conn *c, const char *p, size_t n)
{
    size_t keep = n < sizeof(c->tail) ? sizeof(c->tail) - n : 0, add = sizeof(c->tail) - keep;
    memmove(c->tail, c->tail + sizeof(c->tail) - keep, keep);
    memcpy(c->tail + keep, p + n - add, add);
    return !memcmp(c->tail, "0\r\n\r\n", sizeof(c->tail));
}

/* Reads on; false: the connection is gone. */
static int take(int ep, struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_MAX - 1 - c->in_len, 0);
    if (n < 0 && errno == EAGAIN)
        return 1;
    if (n <= 0) {
        drop(c);
        return 0;
    }
    if (c->left) {
        c->left -= (size_t)n;
        return c->left ? 1 : answer(ep, c);
    }
    if (c->chunked) {
        c->chunked = !is_last(c, c->in, (size_t)n);
        return c->chunked ? 1 : answer(ep, c);
    }
    c->in_len += (size_t)n;
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end)
        return 1;
    *end = 0;
    size_t head = (size_t)(end + 4 - c->in), length = 0;
    char *field = strcasestr(c->in, "\r\ncontent-length:"), *path = strstr(c->in, "/n/");
    if (field)
        length = strtoul(field + 17, NULL, 10);
    c->answer = path && path < strchr(c->in, '\r') ? strtoul(path + 3, NULL, 10) : 2;
    if (c->answer > OUT_MAX)
        c->answer = OUT_MAX;
    size_t here = c->in_len - head;
    c->in_len = 0;
    if (strcasestr(c->in, "\r\ntransfer-encoding: chunked")) {
        memset(c->tail, 0, sizeof(c->tail));
        c->chunked = !here || !is_last(c, c->in + head, here);
        return c->chunked ? 1 : answer(ep, c);
    }
    c->left = length - here;
    return c->left ? 1 : answer(ep, c);
}

static int listen_tcp(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 4096))
        return -1;
    return fd;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (strlen(path) >= sizeof(a.sun_path))
        return -1;
    strcpy(a.sun_path, path);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 4096))
        return -1;
    return fd;
}

static void take_new(int ep, int fd)
{
    int one = 1, s;
    while ((s = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct conn *c = malloc(sizeof(*c));
        memset(c, 0, offsetof(struct conn, in));
        c->out = NULL;
        c->fd = s;
        setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        watch(ep, c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

int main(void)
{
    const char *port = getenv("PORT"), *path = getenv("FAST_SOCKET");
    struct conn listeners[2] = {{.fd = -1}, {.fd = -1}};
    struct epoll_event ev[128];
    int ep = epoll_create1(0);
    memset(body, 'x', sizeof(body));
    listeners[0].fd = port ? listen_tcp(atoi(port)) : -1;
    listeners[1].fd = path ? listen_unix(path) : -1;
    if ((port && listeners[0].fd < 0) || (path && listeners[1].fd < 0)) {
        perror("listen");
        return 1;
    }
    for (int i = 0; i < 2; i++)
        if (listeners[i].fd >= 0)
            watch(ep, &listeners[i], EPOLLIN, EPOLL_CTL_ADD);
    for (;;) {
        int n = epoll_wait(ep, ev, 128, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (c == &listeners[0] || c == &listeners[1])
                take_new(ep, c->fd);
            else if (c->out)
                send_rest(ep, c);
            else
                take(ep, c);
        }
    }
}
