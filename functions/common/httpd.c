/* The server's loop: accept, read, hand whole requests to the handler one by one, write. It assumes
 * that the handler may take long (it is the function) and that clients may be slow, gone or hostile:
 * no connection can hold up another for longer than one request takes. */
#include "common/httpd.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/http_parse.h"

enum {
    CONNS_MAX = 256,
    IDLE_MS = 75000,   /* between two requests of a connection */
    READ_MS = 20000,   /* for one request to arrive, and for one answer to be taken */
    LINGER_MS = 1000,  /* for a refused client to read why */
    DRAIN_MS = 5000,   /* after SIGTERM: for requests that have begun to arrive */
    DRAIN_IDLE_MS = 100 /* after SIGTERM: for requests that are on their way on idle connections */
};

enum conn_state { CONN_READ, CONN_WRITE, CONN_LINGER };

struct conn {
    int fd;
    enum conn_state state;
    char *in;
    size_t in_len, in_cap;
    char *out;
    size_t out_len, out_at;
    bool close;     /* after the answer */
    bool refused;   /* the rest of what it sends is not a request */
    bool continued; /* "100 Continue" was sent for the request that is arriving */
    bool ready;     /* |in| may hold another whole request */
    int64_t deadline_ms;
};

struct server {
    const struct httpd_conf *conf;
    int listen_fd, stop_fd;
    bool stopping;
    int64_t stop_ms;
    int count;
    struct conn conns[CONNS_MAX];
};

/* The write end of the pipe that ends the loop. It is global because a signal handler has no other
 * way to find it; a signalfd would miss signals that a thread of the CUDA driver takes. */
static volatile int stop_pipe = -1;

static void on_stop(int sig)
{
    (void)sig;
    int saved = errno;
    if (write(stop_pipe, "", 1) < 0)
        errno = saved;
    errno = saved;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void append(struct httpd_response *r, const char *fmt, va_list args)
    __attribute__((format(printf, 2, 0)));

static void append(struct httpd_response *r, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int need = vsnprintf(NULL, 0, fmt, args);
    if (need >= 0 && r->len + (size_t)need + 1 > r->cap) {
        size_t cap = 2 * (r->len + (size_t)need + 1);
        char *body = realloc(r->body, cap);
        if (body) {
            r->body = body;
            r->cap = cap;
        } else {
            need = -1;
        }
    }
    if (need < 0)
        r->status = 500;
    else
        r->len += (size_t)vsnprintf(r->body + r->len, r->cap - r->len, fmt, again);
    va_end(again);
}

void httpd_printf(struct httpd_response *response, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    append(response, fmt, args);
    va_end(args);
}

void httpd_json_string(struct httpd_response *response, const char *text)
{
    httpd_printf(response, "\"");
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            httpd_printf(response, "\\%c", *text);
        else if ((unsigned char)*text >= ' ')
            httpd_printf(response, "%c", *text);
    httpd_printf(response, "\"");
}

void httpd_fail(struct httpd_response *response, int status, const char *fmt, ...)
{
    va_list args;
    response->status = status;
    response->content_type = "text/plain; charset=utf-8";
    response->len = 0;
    va_start(args, fmt);
    append(response, fmt, args);
    va_end(args);
    httpd_printf(response, "\n");
}

static const char *reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
    }
}

static void conn_close(struct server *s, struct conn *c)
{
    close(c->fd);
    free(c->in);
    free(c->out);
    *c = s->conns[--s->count];
}

/* Puts the answer into |out|. Without memory the connection ends, which tells the client enough. */
static void conn_answer(struct server *s, struct conn *c, const struct httpd_response *r, bool head)
{
    char line[256];
    c->close = c->close || s->stopping;
    int n = snprintf(line, sizeof(line),
                     "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s\r\n",
                     r->status, reason(r->status), r->content_type, r->len,
                     r->status == 405 ? "Allow: GET, HEAD, POST\r\n" : "",
                     c->close ? "Connection: close\r\n" : "");
    size_t body = head ? 0 : r->len;
    c->out = malloc((size_t)n + body);
    c->state = CONN_WRITE;
    c->out_at = c->out_len = 0;
    c->deadline_ms = now_ms() + READ_MS;
    if (!c->out) {
        c->close = true;
        return;
    }
    memcpy(c->out, line, (size_t)n);
    if (body)
        memcpy(c->out + n, r->body, body);
    c->out_len = (size_t)n + body;
}

static void conn_refuse(struct server *s, struct conn *c, int status)
{
    struct httpd_response r = {0};
    httpd_fail(&r, status, "%s", reason(status));
    c->close = c->refused = true;
    conn_answer(s, c, &r, false);
    free(r.body);
}

/* Liveness and readiness: a server that answers is both, unless it is about to end. */
static bool builtin(const struct server *s, const struct httpd_request *q, struct httpd_response *r)
{
    if (strcmp(q->path, "/_/health") != 0 && strcmp(q->path, "/_/ready") != 0)
        return false;
    if (strcmp(q->method, "GET") != 0 && strcmp(q->method, "HEAD") != 0)
        httpd_fail(r, 405, "%s answers GET", q->path);
    else if (s->stopping)
        httpd_fail(r, 503, "stopping");
    else
        httpd_printf(r, "OK\n");
    return true;
}

/* A C string in place: the byte behind each of these spans is a delimiter that is no longer needed. */
static const char *span_text(char *buf, struct http_span span)
{
    if (!span.at)
        return "";
    buf[span.at + span.len] = '\0';
    return buf + span.at;
}

/* One whole request at the start of |in|. */
static void conn_serve(struct server *s, struct conn *c, const struct http_head *head, size_t used)
{
    /* Whatever the handler reads as text ends here, not in the next request. */
    size_t total = head->len + used;
    char saved = c->in[total], *body = c->in + head->len;
    struct httpd_response r = {.status = 200, .content_type = "text/plain; charset=utf-8"};
    size_t body_len = head->chunked ? http_chunks_join(body) : used;
    body[body_len] = '\0';
    c->in[head->method.len] = '\0';
    struct httpd_request q = {
        .method = c->in, .path = span_text(c->in, head->path),
        .query = head->query.len ? span_text(c->in, head->query) : "",
        .content_type = span_text(c->in, head->content_type),
        .body = (const unsigned char *)body, .body_len = body_len};
    c->close = head->close;
    if (!builtin(s, &q, &r))
        s->conf->handler(s->conf->ctx, &q, &r);
    conn_answer(s, c, &r, !strcmp(q.method, "HEAD"));
    free(r.body);
    c->in[total] = saved;
    c->in_len -= total;
    memmove(c->in, c->in + total, c->in_len);
    c->ready = c->in_len > 0;
    c->continued = false;
}

/* Serves the request in |in| if it is whole. */
static void conn_try(struct server *s, struct conn *c)
{
    struct http_head head;
    size_t used = 0;
    c->ready = false;
    int rc = c->in_len ? http_head_parse(c->in, c->in_len, &head) : 0;
    if (rc > 0)
        rc = http_body_scan(c->in + head.len, c->in_len - head.len, &head, s->conf->body_max,
                            &used);
    if (rc < 0) {
        conn_refuse(s, c, -rc);
    } else if (rc > 0) {
        conn_serve(s, c, &head, used);
    } else if (c->in_len && head.len && head.expects && !c->continued) {
        static const char go[] = "HTTP/1.1 100 Continue\r\n\r\n";
        c->continued = send(c->fd, go, sizeof(go) - 1, MSG_NOSIGNAL) == sizeof(go) - 1;
    }
}

/* Returns false when the connection is over. */
static bool conn_read(struct server *s, struct conn *c)
{
    if (c->in_cap - c->in_len < 4096) {
        size_t cap = c->in_cap ? 2 * c->in_cap : 8192;
        char *in = realloc(c->in, cap);
        if (!in)
            return false;
        c->in = in;
        c->in_cap = cap;
    }
    /* One byte stays free for the NUL behind a body. */
    ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len - 1, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (!n)
        return false;
    if (c->state == CONN_LINGER)
        return true; /* read and forgotten, so that no reset overtakes our answer */
    if (!c->in_len)
        c->deadline_ms = now_ms() + READ_MS;
    c->in_len += (size_t)n;
    conn_try(s, c);
    return true;
}

/* Sends what it can; at the end of the answer the connection reads again, lingers or is over. */
static bool conn_write(struct conn *c)
{
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        c->out_at += (size_t)n;
    }
    free(c->out);
    c->out = NULL;
    if (c->close && !c->refused)
        return false;
    c->state = c->close ? CONN_LINGER : CONN_READ;
    c->deadline_ms = now_ms() + (c->close ? LINGER_MS : c->in_len ? READ_MS : IDLE_MS);
    if (c->close)
        shutdown(c->fd, SHUT_WR);
    return true;
}

static void accept_all(struct server *s)
{
    while (s->count < CONNS_MAX) {
        int one = 1, fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        s->conns[s->count++] = (struct conn){.fd = fd, .deadline_ms = now_ms() + IDLE_MS};
    }
}

static void begin_stop(struct server *s)
{
    if (s->stopping)
        return;
    accept_all(s); /* whoever has connected is served */
    close(s->listen_fd);
    s->listen_fd = -1;
    s->stopping = true;
    s->stop_ms = now_ms();
}

/* When |c| ends for want of anything to do. */
static int64_t conn_deadline(const struct server *s, const struct conn *c)
{
    int64_t at = c->deadline_ms;
    if (s->stopping) {
        bool idle = c->state == CONN_READ && !c->in_len;
        int64_t last = s->stop_ms + (idle ? DRAIN_IDLE_MS : DRAIN_MS);
        at = at < last ? at : last;
    }
    return at;
}

/* Milliseconds to the next deadline; 0 when a request is already waiting in a buffer. */
static int poll_timeout(const struct server *s)
{
    int64_t first = INT64_MAX, now = now_ms();
    for (int i = 0; i < s->count; i++) {
        if (s->conns[i].ready && s->conns[i].state == CONN_READ)
            return 0;
        int64_t at = conn_deadline(s, &s->conns[i]);
        first = at < first ? at : first;
    }
    if (first == INT64_MAX)
        return -1;
    return first <= now ? 0 : first - now > 60000 ? 60000 : (int)(first - now);
}

static void conn_step(struct server *s, struct conn *c, short events)
{
    bool alive = true;
    if (c->state == CONN_READ && c->ready)
        conn_try(s, c);
    else if (c->state != CONN_WRITE && events)
        alive = conn_read(s, c);
    if (alive && c->state == CONN_WRITE)
        alive = conn_write(c);
    if (!alive || now_ms() >= conn_deadline(s, c))
        conn_close(s, c);
}

static void serve(struct server *s)
{
    struct pollfd fds[CONNS_MAX + 2];
    while (!s->stopping || s->count) {
        for (int i = 0; i < s->count; i++)
            fds[i] = (struct pollfd){s->conns[i].fd,
                                     s->conns[i].state == CONN_WRITE ? POLLOUT : POLLIN, 0};
        /* poll() skips negative descriptors. */
        fds[s->count] = (struct pollfd){s->stopping ? -1 : s->stop_fd, POLLIN, 0};
        fds[s->count + 1] = (struct pollfd){s->count < CONNS_MAX ? s->listen_fd : -1, POLLIN, 0};
        int count = s->count;
        if (poll(fds, (nfds_t)count + 2, poll_timeout(s)) < 0 && errno != EINTR)
            return;
        bool stop = fds[count].revents != 0, more = fds[count + 1].revents != 0;
        /* From the last to the first: a connection that ends is replaced by the last one. */
        for (int i = count - 1; i >= 0; i--)
            conn_step(s, &s->conns[i], fds[i].revents);
        if (more)
            accept_all(s);
        if (stop)
            begin_stop(s);
    }
}

/* "HOST:PORT", "[V6]:PORT" or "PORT" into its parts. */
static int split_address(const char *text, char *host, size_t host_size, char *port,
                         size_t port_size, char *msg, size_t msg_size)
{
    const char *colon = strrchr(text, ':');
    const char *digits = colon ? colon + 1 : text;
    size_t host_len = colon ? (size_t)(colon - text) : 0;
    const char *from = text;
    if (host_len >= 2 && text[0] == '[' && colon[-1] == ']') {
        from++;
        host_len -= 2;
    }
    size_t len = strlen(digits);
    if (!len || len >= port_size || strspn(digits, "0123456789") != len || atoi(digits) > 65535 ||
        host_len >= host_size) {
        snprintf(msg, msg_size, "'%s' is not an address: HOST:PORT with a port of 0..65535", text);
        return -1;
    }
    memcpy(port, digits, len + 1);
    if (host_len) {
        memcpy(host, from, host_len);
        host[host_len] = '\0';
    } else {
        snprintf(host, host_size, "127.0.0.1");
    }
    return 0;
}

static int open_listener(const char *address, char *msg, size_t msg_size)
{
    char host[256], port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;
    if (split_address(address, host, sizeof(host), port, sizeof(port), msg, msg_size))
        return -1;
    int rc = getaddrinfo(host, port, &hints, &list), one = 1, fd = -1;
    if (rc) {
        snprintf(msg, msg_size, "%s: %s", address, gai_strerror(rc));
        return -1;
    }
    fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, 128)) {
        snprintf(msg, msg_size, "cannot listen on %s:%s: %s", host, port, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

static void announce(int fd)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    char host[64] = "?", port[8] = "?";
    if (!getsockname(fd, (struct sockaddr *)&addr, &len))
        getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV);
    printf("listening on %s:%s\n", host, port);
    fflush(stdout);
}

int httpd_run(const struct httpd_conf *conf, char *msg, size_t msg_size)
{
    int ends[2];
    const char *address = conf->listen;
    if (!address)
        address = getenv("PORT");
    if (!address)
        address = getenv("port");
    if (!address)
        address = "8080";
    struct server *s = calloc(1, sizeof(*s));
    if (!s || pipe2(ends, O_CLOEXEC | O_NONBLOCK)) {
        snprintf(msg, msg_size, "cannot start: %s", strerror(errno));
        free(s);
        return -1;
    }
    *s = (struct server){.conf = conf, .stop_fd = ends[0],
                         .listen_fd = open_listener(address, msg, msg_size)};
    int rc = s->listen_fd < 0 ? -1 : 0;
    if (!rc) {
        stop_pipe = ends[1];
        struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
        sigaction(SIGTERM, &stop, NULL);
        sigaction(SIGINT, &stop, NULL);
        signal(SIGPIPE, SIG_IGN);
        announce(s->listen_fd);
        serve(s);
    }
    /* The pipe stays open: a second signal may still come. */
    free(s);
    return rc;
}
