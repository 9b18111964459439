/* A load generator for the benches of the gateway: one thread, so that it can be kept on one core,
 * and cheap, so that it is not what is measured. Closed loop (each connection asks again when it has
 * its answer) or, with a rate, open loop: arrivals are Poisson, latency counts from the moment that a
 * request was due, and requests that find no free connection wait in line.
 *
 *   load PORT PATH CONNS SECONDS BODY [RATE]    prints one line of JSON */

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
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

#define IN_MAX 8192
#define TIMES_MAX 4000000
#define DUE_MAX 65536

struct conn {
    int fd, busy, dead;
    double due;
    size_t out_at, in_len, left;
    int has_head;
    char in[IN_MAX];
};

static int ep, port, nconns;
static char *request;
static size_t request_len;
static double rate, *times, due[DUE_MAX];
static uint64_t due_head, due_tail, rng = 88172645463325252u;
static long ntimes, oks, others, cuts;
static int over;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double gap(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return -log(((double)(rng >> 11) + 1) / 9007199254740993.0) / rate;
}

static void watch(struct conn *c, uint32_t events, int op)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    epoll_ctl(ep, op, c->fd, &ev);
}

static int dial(struct conn *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof(a)))
        return -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
    return 0;
}

static void lost(struct conn *c)
{
    close(c->fd);
    if (c->busy)
        cuts++;
    c->busy = 0;
    c->dead = dial(c) != 0;
}

static void push(struct conn *c)
{
    while (c->out_at < request_len) {
        ssize_t n = send(c->fd, request + c->out_at, request_len - c->out_at,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        if (n < 0) {
            lost(c);
            return;
        }
        c->out_at += (size_t)n;
        if (c->out_at == request_len && request_len > 65536)
            watch(c, EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void begin(struct conn *c, double at)
{
    c->busy = 1;
    c->due = at;
    c->out_at = c->in_len = 0;
    c->has_head = 0;
    push(c);
}

static void next(struct conn *c)
{
    if (over || c->dead)
        return;
    if (rate <= 0)
        begin(c, now_s());
    else if (due_head != due_tail)
        begin(c, due[due_head++ % DUE_MAX]);
}

static void finish(struct conn *c, int status)
{
    if (ntimes < TIMES_MAX)
        times[ntimes++] = now_s() - c->due;
    if (status == 200)
        oks++;
    else
        others++;
    c->busy = 0;
    next(c);
}

static void take(struct conn *c)
{
    static char sink[1 << 18];
    ssize_t n;
    if (c->has_head)
        n = recv(c->fd, sink, sizeof(sink), MSG_DONTWAIT);
    else
        n = recv(c->fd, c->in + c->in_len, IN_MAX - 1 - c->in_len, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        lost(c);
        next(c);
        return;
    }
    if (!c->has_head) {
        c->in_len += (size_t)n;
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end)
            return;
        *end = 0;
        char *field = strcasestr(c->in, "\r\ncontent-length:");
        size_t got = c->in_len - (size_t)(end + 4 - c->in);
        c->has_head = 1;
        c->left = (field ? strtoul(field + 17, NULL, 10) : 0) - got;
    } else {
        c->left -= (size_t)n;
    }
    if (c->left == 0)
        finish(c, atoi(c->in + 9));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(double q)
{
    if (!ntimes)
        return 0;
    long i = (long)(q * (double)ntimes);
    return times[i < ntimes ? i : ntimes - 1] * 1e6;
}

static void arrivals(struct conn *conns, double *at)
{
    double now = now_s();
    while (*at <= now && due_tail - due_head < DUE_MAX) {
        due[due_tail++ % DUE_MAX] = *at;
        *at += gap();
    }
    for (int i = 0; i < nconns && due_head != due_tail; i++)
        if (!conns[i].busy)
            next(&conns[i]);
}

static int wait_ms(double at, double end)
{
    double left = (rate > 0 && at < end ? at : end) - now_s();
    return left <= 0 ? 0 : (int)(left * 1e3);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: load PORT PATH CONNS SECONDS BODY [RATE]\n");
        return 2;
    }
    struct epoll_event ev[256];
    size_t body = strtoul(argv[5], NULL, 10);
    port = atoi(argv[1]);
    nconns = atoi(argv[3]);
    rate = argc > 6 ? atof(argv[6]) : 0;
    request = malloc(body + 1024);
    int n = snprintf(request, 1024, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\nAccept: */*\r\n"
                     "Content-Type: application/octet-stream\r\n", body ? "POST" : "GET", argv[2], port);
    if (body)
        n += snprintf(request + n, 128, "Content-Length: %zu\r\n", body);
    n += snprintf(request + n, 128, "\r\n");
    memset(request + n, 'b', body);
    request_len = (size_t)n + body;
    times = malloc(TIMES_MAX * sizeof(*times));
    ep = epoll_create1(0);
    struct conn *conns = calloc((size_t)nconns, sizeof(*conns));
    for (int i = 0; i < nconns; i++)
        if (dial(&conns[i])) {
            perror("connect");
            return 1;
        }
    double start = now_s(), end = start + atof(argv[4]), at = start;
    if (rate <= 0)
        for (int i = 0; i < nconns; i++)
            next(&conns[i]);
    double spent = 0;
    for (int busy = 1; busy;) {
        if (rate > 0 && !over)
            arrivals(conns, &at);
        int draining = over;
        int k = epoll_wait(ep, ev, 256, draining ? 5000 : wait_ms(at, end));
        for (int i = 0; i < k; i++) {
            struct conn *c = ev[i].data.ptr;
            if (ev[i].events & EPOLLOUT)
                push(c);
            if (ev[i].events & ~(uint32_t)EPOLLOUT)
                take(c);
        }
        if (!over && now_s() >= end) {
            over = 1;
            spent = now_s() - start;
        }
        busy = !over;
        for (int i = 0; over && i < nconns; i++)
            busy |= conns[i].busy;
        if (draining && k == 0)
            break;
    }
    for (int i = 0; i < nconns; i++)
        cuts += conns[i].busy; /* never answered */
    qsort(times, (size_t)ntimes, sizeof(*times), by_value);
    printf("{\"ok\": %ld, \"other\": %ld, \"cut\": %ld, \"seconds\": %.3f, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f}\n", oks, others, cuts, spent, quantile(0.5), quantile(0.99));
    return 0;
}
