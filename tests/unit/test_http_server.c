/* Both ends of HTTP on a real loop in a child process; the test talks to it over plain sockets. */

#include "io/http_client.h"
#include "io/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "io/http_stream.h"
#include "server_child.h"
#include "base/mem.h"
#include "test.h"

/* ---- the server under test ---- */

struct world {
    struct fast_loop *loop;
    struct fast_http_server *server, *moody;
    struct fast_http_pool *pool, *closed; /* to this server, and to a port where nobody listens */
};

/* One request that is answered by its own body, by many bytes, or through the pool. */
struct job {
    struct world *w;
    struct fast_http_req *req;
    struct fast_http_call *call;
    uint64_t left;
    bool answered;
};

static void job_body(void *user, const char *data, size_t len)
{
    struct job *j = user;
    bool room = j->call ? fast_http_call_write(j->call, data, len)
                        : fast_http_req_write(j->req, data, len);
    if (!room)
        fast_http_req_read(j->req, false);
}

static void job_flush(void *user)
{
    struct job *j = user;
    if (j->call)
        fast_http_call_flush(j->call);
    else
        fast_http_req_flush(j->req);
}

static void job_end(void *user)
{
    struct job *j = user;
    if (j->call)
        fast_http_call_finish(j->call);
    else
        fast_http_req_end(j->req);
}

static void send_many(struct job *j)
{
    static char block[10000];
    memset(block, 'x', sizeof(block));
    while (j->left) {
        size_t n = j->left < sizeof(block) ? (size_t)j->left : sizeof(block);
        j->left -= n;
        if (!fast_http_req_write(j->req, block, n))
            return;
    }
    fast_http_req_end(j->req);
}

static void job_drain(void *user)
{
    struct job *j = user;
    if (j->left)
        send_many(j);
    else if (j->call)
        fast_http_call_read(j->call, true);
    else
        fast_http_req_read(j->req, true);
}

static void job_done(void *user, bool complete)
{
    struct job *j = user;
    (void)complete;
    if (j->call)
        fast_http_call_cancel(j->call);
    free(j);
}

static const struct fast_http_req_ops job_ops = {job_body, job_flush, job_end, job_drain, job_done};

static void call_head(void *user, const struct fast_http_head *head, const char *text,
                      const struct fast_http_body *body)
{
    struct job *j = user;
    (void)text;
    (void)body;
    j->answered = true;
    fast_http_req_start(j->req, head->status, "X-Via: pool\r\n", 13, head->length);
}

static void call_body(void *user, const char *data, size_t len)
{
    struct job *j = user;
    if (!fast_http_req_write(j->req, data, len))
        fast_http_call_read(j->call, false);
}

static void call_flush(void *user)
{
    struct job *j = user;
    fast_http_req_flush(j->req);
}

static void call_drain(void *user)
{
    struct job *j = user;
    fast_http_req_read(j->req, true);
}

static void call_end(void *user)
{
    struct job *j = user;
    j->call = NULL;
    fast_http_req_end(j->req);
}

static void call_fail(void *user, bool connected, const char *why)
{
    struct job *j = user;
    j->call = NULL;
    if (j->answered)
        fast_http_req_abort(j->req);
    else
        fast_http_req_text_reply(j->req, 502, "%s: %s", connected ? "sent" : "unsent", why);
}

static const struct fast_http_call_ops call_ops = {call_head,  call_body, call_flush,
                                                   call_drain, call_end,  call_fail};

static void start_call(struct job *j, struct fast_http_pool *pool, const char *path)
{
    const struct fast_http_head *h = fast_http_req_head(j->req);
    char head[256], length[64] = "";
    if (h->chunked)
        snprintf(length, sizeof(length), "Transfer-Encoding: chunked\r\n");
    else if (h->length >= 0)
        snprintf(length, sizeof(length), "Content-Length: %lld\r\n", (long long)h->length);
    int n = snprintf(head, sizeof(head), "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, length);
    struct fast_err err;
    if (fast_http_call_new(pool, &call_ops, j, head, (size_t)n, false, h->chunked, &j->call, &err))
        fast_http_req_text_reply(j->req, 502, "unsent: %s", err.msg);
    else
        fast_http_req_read(j->req, true);
}

static void on_collected(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    (void)arg;
    fast_http_req_reply(req, 200, NULL, "text/plain", body, len);
}

static bool target_is(struct fast_http_req *req, const char *path)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    return fast_http_is_exact(fast_http_req_text(req) + h->target, h->target_len, path);
}

static void on_request(void *arg, struct fast_http_req *req)
{
    struct world *w = arg;
    if (target_is(req, "/hi")) {
        fast_http_req_reply(req, 200, NULL, "text/plain", "hi", 2);
        return;
    }
    if (target_is(req, "/collect")) {
        fast_http_req_collect(req, 1000, on_collected, w);
        return;
    }
    if (target_is(req, "/cut")) {
        fast_http_req_start(req, 200, "", 0, 10);
        fast_http_req_write(req, "abc", 3);
        fast_http_req_flush(req);
        fast_http_req_abort(req);
        return;
    }
    struct job *j = calloc(1, sizeof(*j));
    *j = (struct job){.w = w, .req = req};
    fast_http_req_accept(req, &job_ops, j);
    if (target_is(req, "/echo")) {
        fast_http_req_start(req, 200, "", 0, -1);
        fast_http_req_read(req, true);
    } else if (target_is(req, "/many")) {
        j->left = 200 * 1000 * 1000;
        fast_http_req_start(req, 200, "", 0, (int64_t)j->left);
        send_many(j);
    } else if (target_is(req, "/proxy/echo")) {
        start_call(j, w->pool, "/echo");
    } else if (target_is(req, "/proxy/many")) {
        start_call(j, w->pool, "/many");
    } else if (target_is(req, "/proxy/cut")) {
        start_call(j, w->pool, "/cut");
    } else if (target_is(req, "/proxy/hangup")) {
        start_call(j, w->pool, "/hangup");
    } else if (target_is(req, "/proxy/closed")) {
        start_call(j, w->closed, "/echo");
    } else if (target_is(req, "/hangup")) {
        fast_http_req_abort(req);
    } else if (target_is(req, "/memory")) {
        struct rusage ru;
        char text[32];
        getrusage(RUSAGE_SELF, &ru);
        int n = snprintf(text, sizeof(text), "%ld", ru.ru_maxrss);
        fast_http_req_reply(req, 200, NULL, NULL, text, (size_t)n);
    } else {
        fast_http_req_text_reply(req, 404, "nothing here");
    }
}

/* ---- a session that takes little ----
 * It refuses what is less than a full buffer, up to eight times in a row: so a write succeeds exactly where
 * nothing else happens after it. */

struct session {
    int fd, refused;
};

static void *moody_accept(void *arg, int fd)
{
    struct session *s = calloc(1, sizeof(*s));
    (void)arg;
    s->fd = fd;
    return s;
}

static ssize_t moody_recv(void *session, char *buf, size_t len)
{
    return recv(((struct session *)session)->fd, buf, len, 0);
}

static ssize_t moody_send(void *session, const char *buf, size_t len)
{
    struct session *s = session;
    if (len < FAST_HTTP_HIGH_WATER && s->refused++ < 8) {
        errno = EAGAIN;
        return -1;
    }
    s->refused = 0;
    return send(s->fd, buf, len, MSG_NOSIGNAL);
}

static bool moody_no(void *session)
{
    (void)session;
    return false;
}

static void moody_nothing(void *session)
{
    (void)session;
}

static const struct fast_http_secure moody = {moody_accept, moody_recv,    moody_send, moody_no,
                                              moody_no,     moody_nothing, free,       NULL};

static void serve(int ready)
{
    struct world w = {0};
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = on_request,
                                         .arg = &w, .max_conns = 20,
                                         .head_timeout = FAST_MS(300)};
    struct fast_err err;
    if (fast_loop_new(&w.loop, &err) || fast_http_server_new(w.loop, &conf, &w.server, &err))
        exit(2);
    conf.secure = &moody;
    if (fast_http_server_new(w.loop, &conf, &w.moody, &err))
        exit(2);
    int ports[2] = {fast_http_server_port(w.server), fast_http_server_port(w.moody)}, port = ports[0];
    if (fast_http_pool_new(w.loop, port, NULL, &w.pool, &err) ||
        fast_http_pool_new(w.loop, 1, NULL, &w.closed, &err) ||
        write(ready, ports, sizeof(ports)) != sizeof(ports))
        exit(2);
    fast_loop_run(w.loop, &err);
    exit(0);
}

/* ---- the test ---- */

static int ports[2]; /* of the server, and of the moody one */

static int dial_port(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {20, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static int dial(void)
{
    return dial_port(ports[0]);
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Reads until |until| has been seen, or to the end (NULL); returns |buf|. */
static const char *hear(int fd, char *buf, size_t cap, const char *until)
{
    size_t len = 0;
    buf[0] = 0;
    while (len + 1 < cap && !(until && strstr(buf, until))) {
        ssize_t n = recv(fd, buf + len, cap - len - 1, 0);
        if (n <= 0)
            break;
        len += (size_t)n;
        buf[len] = 0;
    }
    if (until && !strstr(buf, until))
        fail_msg("no \"%s\" in \"%s\"", until, buf);
    return buf;
}

static void keep_alive_and_pipelining(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_non_null(strstr(hear(fd, buf, sizeof(buf), "\r\n\r\nhi"), "HTTP/1.1 200 OK\r\n"));
    say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\nPOST /collect HTTP/1.1\r\nHost: a\r\n"
            "Content-Length: 3\r\n\r\nabcHEAD /hi HTTP/1.1\r\nHost: a\r\n\r\n"
            "GET /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /hi HTTP/1.1\r\n");
    hear(fd, buf, sizeof(buf), NULL);
    char *hi = strstr(buf, "\r\n\r\nhi"), *abc = strstr(buf, "\r\n\r\nabc");
    char *no = strstr(buf, "404"), *closing = strstr(buf, "Connection: close\r\n");
    assert_true(hi && abc && no && hi < abc && abc < no && closing);
    assert_null(strstr(closing, "200")); /* what came after "close" was not answered */
    assert_non_null(strstr(abc, "Content-Length: 2\r\n\r\nHTTP/1.1 404")); /* HEAD: no body */
    close(fd);
}

static void refused_heads_close(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    say(fd, "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
    hear(fd, buf, sizeof(buf), NULL);
    assert_ptr_equal(strstr(buf, "HTTP/1.1 400 Bad Request\r\n"), buf);
    assert_null(strstr(buf, "200"));
    close(fd);
    fd = dial();
    say(fd, "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert_ptr_equal(strstr(hear(fd, buf, sizeof(buf), NULL), "HTTP/1.1 400 "), buf);
    close(fd);
}

static void body_too_large(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    say(fd, "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    assert_non_null(strstr(hear(fd, buf, sizeof(buf), "\r\n\r\n"), "413"));
    close(fd);
    fd = dial();
    say(fd, "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n");
    char many[1002];
    memset(many, 'a', 1001);
    many[1001] = 0;
    say(fd, many);
    say(fd, "\r\n0\r\n\r\n");
    assert_non_null(strstr(hear(fd, buf, sizeof(buf), "\r\n\r\n"), "413"));
    close(fd);
}

static void expectation(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    say(fd, "POST /collect HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    hear(fd, buf, sizeof(buf), "HTTP/1.1 100 Continue\r\n\r\n");
    say(fd, "ok");
    hear(fd, buf, sizeof(buf), "\r\n\r\nok");
    close(fd);
}

static void late_heads_time_out(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    say(fd, "GET /hi HTTP/1.1\r\nHo");
    assert_non_null(strstr(hear(fd, buf, sizeof(buf), NULL), "HTTP/1.1 408 "));
    close(fd);
}

static void idle_ones_make_room(void **state)
{
    (void)state;
    char buf[4096];
    int fds[40];
    for (int i = 0; i < 40; i++) {
        fds[i] = dial();
        say(fds[i], "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        hear(fds[i], buf, sizeof(buf), "\r\n\r\nhi");
    }
    for (int i = 0; i < 40; i++)
        close(fds[i]);
}

/* One that comes to a full server makes one go, and no other; never the one that came last. */
static void one_makes_room(void **state)
{
    (void)state;
    char buf[4096];
    int fds[21], gone = -1;
    for (int i = 0; i < 21; i++) {
        fds[i] = dial();
        say(fds[i], "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        hear(fds[i], buf, sizeof(buf), "\r\n\r\nhi");
    }
    for (int i = 0; i < 21; i++) {
        ssize_t n = recv(fds[i], buf, sizeof(buf), MSG_DONTWAIT);
        if (n >= 0) {
            assert_int_equal(gone, -1);
            gone = i;
        }
    }
    assert_in_range(gone, 0, 19);
    for (int i = 0; i < 21; i++)
        close(fds[i]);
}

static void proxied(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    for (int i = 0; i < 3; i++) {
        say(fd, "POST /proxy/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        hear(fd, buf, sizeof(buf), "3\r\nabc\r\n0\r\n\r\n");
        say(fd, "POST /proxy/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                "2\r\nde\r\n0\r\n\r\n");
        hear(fd, buf, sizeof(buf), "2\r\nde\r\n0\r\n\r\n");
    }
    say(fd, "POST /proxy/cut HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    hear(fd, buf, sizeof(buf), NULL); /* the answer is cut, not ended */
    assert_non_null(strstr(buf, "Content-Length: 10\r\n"));
    assert_null(strstr(buf, "abcabc"));
    close(fd);
}

/* Who calls is told whether something of the request may have arrived. */
static void unanswered(void **state)
{
    (void)state;
    char buf[4096];
    int fd = dial();
    for (int i = 0; i < 3; i++) {
        say(fd, "POST /proxy/closed HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        hear(fd, buf, sizeof(buf), "unsent: cannot connect");
        say(fd, "POST /proxy/hangup HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        assert_null(strstr(hear(fd, buf, sizeof(buf), "sent: the function closed"), "unsent"));
    }
    close(fd);
}

static long memory(void)
{
    char buf[4096];
    int fd = dial();
    say(fd, "GET /memory HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    hear(fd, buf, sizeof(buf), NULL);
    close(fd);
    return atol(strstr(buf, "\r\n\r\n") + 4);
}

/* 200 MB through both ends while the reader is slow at first: nothing of it may pile up. */
static void memory_stays_constant(void **state)
{
    (void)state;
    static char buf[1 << 16];
    long before = memory();
    int fd = dial();
    say(fd, "POST /proxy/many HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    usleep(200000);
    uint64_t sum = 0;
    for (ssize_t n; (n = recv(fd, buf, sizeof(buf), 0)) > 0;)
        sum += (uint64_t)n;
    assert_in_range(sum, 200000000, 200001000);
    close(fd);
    assert_in_range(memory() - before, 0, 20000); /* KiB; the sanitizers need some */
}

/* The same with a large body that is sent: the sender and the echo wait for each other. */
static void large_request(void **state)
{
    (void)state;
    static char block[100000], buf[1 << 16];
    memset(block, 'y', sizeof(block));
    int fd = dial();
    say(fd, "POST /proxy/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            "Content-Length: 20000000\r\n\r\n");
    pid_t writer = fork();
    if (writer == 0) {
        for (int i = 0; i < 200; i++)
            if (send(fd, block, sizeof(block), MSG_NOSIGNAL) != (ssize_t)sizeof(block))
                _exit(1);
        _exit(0);
    }
    uint64_t ys = 0;
    for (ssize_t n; (n = recv(fd, buf, sizeof(buf), 0)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            ys += buf[i] == 'y';
    assert_int_equal(ys, 20000000);
    int status = 0;
    waitpid(writer, &status, 0);
    assert_int_equal(status, 0);
    close(fd);
}

/* The last write of a step takes all that waited: the handler, who waits for room, must still be told. */
static void room_at_the_end_of_a_step(void **state)
{
    (void)state;
    static char buf[1 << 16];
    uint64_t sum = 0;
    int fd = dial_port(ports[1]);
    say(fd, "GET /many HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for (ssize_t n; (n = recv(fd, buf, sizeof(buf), 0)) > 0;)
        sum += (uint64_t)n;
    assert_in_range(sum, 200000000, 200001000);
    close(fd);
}

static int start(void **state)
{
    (void)state;
    return server_child_start(serve, ports, sizeof(ports));
}

/* It is remembered from one call to the next. */
static void dates(void **state)
{
    (void)state;
    char date[FAST_HTTP_DATE_SIZE];
    const struct {
        fast_ns wall;
        const char *want;
    } rows[] = {{FAST_S(784111777), "Sun, 06 Nov 1994 08:49:37 GMT"},
                {FAST_S(784111778) - 1, "Sun, 06 Nov 1994 08:49:37 GMT"},
                {FAST_S(784111778), "Sun, 06 Nov 1994 08:49:38 GMT"},
                {0, "Thu, 01 Jan 1970 00:00:00 GMT"},
                {FAST_S(784111777), "Sun, 06 Nov 1994 08:49:37 GMT"}};
    for (size_t i = 0; i < FAST_COUNT_OF(rows); i++) {
        fast_http_date(rows[i].wall, date);
        assert_string_equal(date, rows[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_makes_room), /* first: nobody lingers yet */
        cmocka_unit_test(keep_alive_and_pipelining), cmocka_unit_test(refused_heads_close),
        cmocka_unit_test(body_too_large),            cmocka_unit_test(expectation),
        cmocka_unit_test(late_heads_time_out),       cmocka_unit_test(idle_ones_make_room),
        cmocka_unit_test(proxied),                   cmocka_unit_test(memory_stays_constant),
        cmocka_unit_test(large_request),             cmocka_unit_test(unanswered),
        cmocka_unit_test(room_at_the_end_of_a_step), cmocka_unit_test(dates),
    };
    return cmocka_run_group_tests_name("http_server", tests, start, server_child_stop);
}
