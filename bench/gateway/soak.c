/* Asks a function many times over many connections, with bodies and answers of mixed sizes, and accounts
 * for every single request: answered well, answered with an error, cut off, or lost, which is none of
 * these within LOST_S. What did not end well is printed with its time, so that who kills replicas
 * meanwhile can say whether it was in flight on one. Closed loop, one thread.
 *
 *   soak PORT PATH CONNS REQUESTS SEED
 *
 * Prints lines of JSON: {"method", "status" (0: cut), "from", "to"} of each failure, times as of
 * CLOCK_MONOTONIC, and the sums at the end. GET and PUT may be repeated by a gateway, POST may not. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LOST_S 120.0
#define HEAD_MAX 8192
#define BODY_MAX (600u << 10)

enum method { GET, PUT, POST, METHODS };
static const char *const method_names[METHODS] = {"GET", "PUT", "POST"};

struct conn {
    int fd, busy, writing, close_after, status;
    enum method method;
    double from;
    size_t head_len, body_len, out_at; /* of the request */
    size_t in_len, left, want;         /* of the answer; |want|: what was asked for */
    int has_head;
    char head[512], in[HEAD_MAX];
};

static int ep, port;
static const char *path;
static uint64_t rng;
static long to_do, ok, failed, cut, lost, wrong;
static double bytes_up, bytes_down;
static char body[BODY_MAX];

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t dice(uint64_t sides)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (rng >> 11) % sides;
}

/* Mostly small, as requests are; one in a hundred is an image of 600 KB. */
static size_t pick_size(void)
{
    uint64_t d = dice(100);
    if (d < 40)
        return 2 + dice(100);
    if (d < 75)
        return 1000 + dice(1000);
    if (d < 93)
        return 8000 + dice(8000);
    if (d < 99)
        return 60000 + dice(20000);
    return BODY_MAX - dice(1000);
}

static void watch(struct conn *c, uint32_t events, int op)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &ev);
}

static void dial(struct conn *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof(a))) {
        perror("soak: connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
    c->writing = 0;
}

static void report(const struct conn *c, int status)
{
    printf("{\"method\": \"%s\", \"status\": %d, \"from\": %.6f, \"to\": %.6f}\n",
           method_names[c->method], status, c->from, now_s());
}

static void begin(struct conn *c);

static void finish(struct conn *c, int status)
{
    c->busy = 0;
    if (status == 200)
        ok++;
    else if (status)
        failed++;
    else
        cut++;
    if (status != 200)
        report(c, status);
    if (!status || c->close_after) {
        close(c->fd);
        dial(c);
    }
    if (to_do > 0)
        begin(c);
}

/* Sends on; an error is seen when reading: the answer may be there already. */
static void push(struct conn *c)
{
    size_t total = c->head_len + c->body_len;
    ssize_t n = 0;
    while (c->out_at < total && n >= 0) {
        n = c->out_at < c->head_len
                ? send(c->fd, c->head + c->out_at, c->head_len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT)
                : send(c->fd, body + (c->out_at - c->head_len), total - c->out_at,
                       MSG_NOSIGNAL | MSG_DONTWAIT);
        c->out_at += n > 0 ? (size_t)n : 0;
    }
    int more = c->out_at < total && errno == EAGAIN;
    if (more != c->writing)
        watch(c, EPOLLIN | (more ? EPOLLOUT : 0), EPOLL_CTL_MOD);
    c->writing = more;
}

static void begin(struct conn *c)
{
    to_do--;
    c->busy = 1;
    c->method = (enum method)dice(METHODS);
    c->body_len = c->method == GET ? 0 : pick_size();
    c->want = pick_size();
    c->out_at = c->in_len = c->left = 0;
    c->has_head = c->close_after = c->status = 0;
    int n = snprintf(c->head, sizeof(c->head), "%s %s/n/%zu HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n",
                     method_names[c->method], path, c->want, port);
    if (c->method != GET)
        n += snprintf(c->head + n, sizeof(c->head) - (size_t)n, "Content-Length: %zu\r\n", c->body_len);
    n += snprintf(c->head + n, sizeof(c->head) - (size_t)n, "\r\n");
    c->head_len = (size_t)n;
    bytes_up += (double)c->body_len;
    c->from = now_s();
    push(c);
}

static int read_head(struct conn *c, char *end)
{
    *end = 0;
    char *field = strcasestr(c->in, "\r\ncontent-length:");
    size_t got = c->in_len - (size_t)(end + 4 - c->in);
    if (!field || strncmp(c->in, "HTTP/1.1 ", 9) != 0)
        return 0;
    c->has_head = 1;
    c->status = atoi(c->in + 9);
    c->left = strtoul(field + 17, NULL, 10);
    c->close_after = strcasestr(c->in, "\r\nconnection: close") != NULL;
    if (c->status == 200 && c->left != c->want)
        wrong++;
    if (got > c->left)
        return 0;
    c->left -= got;
    bytes_down += (double)got;
    return 1;
}

static void take(struct conn *c)
{
    static char sink[1 << 17];
    ssize_t n = c->has_head ? recv(c->fd, sink, sizeof(sink), MSG_DONTWAIT)
                            : recv(c->fd, c->in + c->in_len, HEAD_MAX - 1 - c->in_len, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 && !c->busy) { /* idle, and closed by the other side */
        close(c->fd);
        dial(c);
        return;
    }
    if (n <= 0) {
        finish(c, 0);
        return;
    }
    if (!c->has_head) {
        c->in_len += (size_t)n;
        c->in[c->in_len] = 0;
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (end && !read_head(c, end)) {
            wrong++;
            finish(c, 0);
            return;
        }
    } else {
        wrong += (size_t)n > c->left;
        c->left -= (size_t)n > c->left ? c->left : (size_t)n;
        bytes_down += (double)n;
    }
    if (c->has_head && !c->left)
        finish(c, c->status);
}

static int any_busy(const struct conn *conns, int n)
{
    for (int i = 0; i < n; i++)
        if (conns[i].busy)
            return 1;
    return 0;
}

static void give_up_lost(struct conn *conns, int n)
{
    double now = now_s();
    for (int i = 0; i < n; i++)
        if (conns[i].busy && now - conns[i].from > LOST_S) {
            lost++;
            report(&conns[i], -1);
            conns[i].busy = 0;
        }
}

int main(int argc, char **argv)
{
    struct epoll_event ev[256];
    if (argc != 6) {
        fprintf(stderr, "usage: soak PORT PATH CONNS REQUESTS SEED\n");
        return 2;
    }
    port = atoi(argv[1]);
    path = argv[2];
    int nconns = atoi(argv[3]);
    long total = to_do = atol(argv[4]);
    rng = strtoull(argv[5], NULL, 10) * 2654435761u + 88172645463325252u;
    memset(body, 'b', sizeof(body));
    ep = epoll_create1(0);
    struct conn *conns = calloc((size_t)nconns, sizeof(*conns));
    for (int i = 0; i < nconns; i++)
        dial(&conns[i]);
    double began = now_s(), checked = began;
    for (int i = 0; i < nconns && to_do > 0; i++)
        begin(&conns[i]);
    while (to_do > 0 || any_busy(conns, nconns)) {
        int n = epoll_wait(ep, ev, 256, 1000);
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (ev[i].events & EPOLLOUT)
                push(c);
            if (ev[i].events & ~(uint32_t)EPOLLOUT)
                take(c);
        }
        if (now_s() - checked > 1) {
            checked = now_s();
            give_up_lost(conns, nconns);
        }
    }
    printf("{\"requests\": %ld, \"ok\": %ld, \"failed\": %ld, \"cut\": %ld, \"lost\": %ld, \"wrong\": %ld, "
           "\"seconds\": %.3f, \"mb_up\": %.1f, \"mb_down\": %.1f}\n",
           total, ok, failed, cut, lost, wrong, now_s() - began, bytes_up / 1e6, bytes_down / 1e6);
    return 0;
}
