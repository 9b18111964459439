/* The serving end of HTTP/2 on a real loop in a child process. The client makes frames by hand and keeps to
 * the windows, so that the test sees who gives them back and who is given up. */

#include "io/http2.h"
#include "io/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "server_child.h"
#include "test.h"

#define IDLE FAST_MS(300)
#define DEAF_MAX 8

enum { DATA, HEADERS, RST_STREAM = 3, SETTINGS, PING = 6, GOAWAY, WINDOW_UPDATE };
enum { END_STREAM = 1, END_HEADERS = 4, ACK = 1 };

/* ---- the server under test ---- */

struct world {
    struct fast_loop *loop;
    struct fast_timer *timer;
    struct fast_http_req *deaf[DEAF_MAX], *later;
    char block[30000];
};

static void forget(void *user, bool complete)
{
    struct fast_http_req **req = user;
    (void)complete;
    *req = NULL;
}

static const struct fast_http_req_ops deaf_ops = {.done = forget};

static void on_collected(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    (void)arg;
    (void)body;
    fast_http_req_text_reply(req, 200, "%zu", len);
}

static bool target_is(struct fast_http_req *req, const char *path)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    return fast_http_is_exact(fast_http_req_text(req) + h->target, h->target_len, path);
}

static void on_later(void *arg)
{
    struct world *w = arg;
    if (w->later)
        fast_http_req_text_reply(w->later, 200, "later");
}

static void answer_deaf(struct world *w)
{
    for (int i = 0; i < DEAF_MAX; i++)
        if (w->deaf[i])
            fast_http_req_text_reply(w->deaf[i], 200, "never heard of it");
}

static void send_blocks(struct world *w, struct fast_http_req *req, int n)
{
    fast_http_req_start(req, 200, "", 0, (int64_t)n * (int64_t)sizeof(w->block));
    for (int i = 0; i < n; i++)
        fast_http_req_write(req, w->block, sizeof(w->block));
    fast_http_req_end(req);
}

/* What the client's head has become, as this end reads it. */
static void send_head(struct fast_http_req *req)
{
    const char *text = fast_http_req_text(req);
    fast_http_req_reply(req, 200, NULL, "text/plain", text, fast_http_req_head(req)->len);
}

static bool wants_head(struct fast_http_req *req)
{
    return fast_http_head_find(fast_http_req_head(req), fast_http_req_text(req), "x-tell") != NULL;
}

/* /deaf reads no body and answers when somebody asks for /release; /later answers after four times what a
 * client may be idle. */
static void on_request(void *arg, struct fast_http_req *req)
{
    struct world *w = arg;
    if (wants_head(req)) {
        send_head(req);
    } else if (target_is(req, "/deaf")) {
        int i = 0;
        while (i < DEAF_MAX - 1 && w->deaf[i])
            i++;
        w->deaf[i] = req;
        fast_http_req_accept(req, &deaf_ops, &w->deaf[i]);
    } else if (target_is(req, "/later")) {
        w->later = req;
        fast_http_req_accept(req, &deaf_ops, &w->later);
        fast_timer_set(w->timer, fast_loop_now(w->loop) + 4 * IDLE);
    } else if (target_is(req, "/bytes")) {
        send_blocks(w, req, 1);
    } else if (target_is(req, "/many")) {
        send_blocks(w, req, 100);
    } else if (target_is(req, "/now")) {
        fast_http_req_text_reply(req, 200, "now");
    } else if (target_is(req, "/release")) {
        answer_deaf(w);
        fast_http_req_text_reply(req, 200, "released");
    } else {
        fast_http_req_collect(req, 1 << 20, on_collected, w);
    }
}

static void serve(int ready)
{
    static struct world w;
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = on_request, .arg = &w,
                                         .idle_timeout = IDLE, .http2 = fast_http2()};
    struct fast_http_server *server;
    struct fast_err err;
    if (fast_loop_new(&w.loop, &err) || fast_http_server_new(w.loop, &conf, &server, &err))
        exit(2);
    w.timer = fast_timer_new(w.loop, on_later, &w);
    int port = fast_http_server_port(server);
    if (!w.timer || write(ready, &port, sizeof(port)) != sizeof(port))
        exit(2);
    fast_loop_run(w.loop, &err);
    exit(0);
}

/* ---- a client ---- */

static int port;

struct frame {
    uint32_t len, stream;
    uint8_t kind, flags;
    uint8_t payload[65536];
};

struct client {
    int fd;
    int64_t window; /* of the connection */
    uint32_t stream; /* whose window is the other one */
    int64_t stream_window;
    struct frame f;
};

static void put(const struct client *c, uint8_t kind, uint8_t flags, uint32_t stream, const void *payload, size_t len)
{
    uint8_t all[9 + 16384] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, kind, flags,
                              (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8),
                              (uint8_t)stream};
    if (len)
        memcpy(all + 9, payload, len);
    send(c->fd, all, 9 + len, MSG_NOSIGNAL);
}

/* A request without Huffman's code; |end|: flags of its frame. */
static void ask(struct client *c, uint32_t stream, bool post, const char *path, uint8_t end)
{
    size_t len = strlen(path);
    uint8_t block[64] = {post ? 0x83 : 0x82, 0x86, 0x01, 1, 'a', 0x04, (uint8_t)len};
    assert_true(7 + len <= sizeof(block));
    memcpy(block + 7, path, len);
    c->stream = stream;
    c->stream_window = 65535;
    put(c, HEADERS, end, stream, block, 7 + len);
}

static bool read_all(int fd, void *buf, size_t len)
{
    for (size_t n = 0; n < len;) {
        ssize_t r = recv(fd, (char *)buf + n, len - n, 0);
        if (r <= 0)
            return false;
        n += (size_t)r;
    }
    return true;
}

/* The next frame, false at the end; windows are kept. */
static bool next(struct client *c)
{
    uint8_t h[9];
    if (!read_all(c->fd, h, sizeof(h)))
        return false;
    c->f = (struct frame){.len = (uint32_t)h[0] << 16 | (uint32_t)h[1] << 8 | h[2], .kind = h[3], .flags = h[4],
                          .stream = (uint32_t)h[5] << 24 | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 8 | h[8]};
    if (!read_all(c->fd, c->f.payload, c->f.len))
        return false;
    if (c->f.kind == WINDOW_UPDATE) {
        const uint8_t *p = c->f.payload;
        int64_t more = (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
        if (!c->f.stream)
            c->window += more;
        else if (c->f.stream == c->stream)
            c->stream_window += more;
    }
    return true;
}

static void read_until(struct client *c, uint8_t kind, uint8_t flags, uint32_t stream)
{
    do
        assert_true(next(c));
    while (c->f.kind != kind || (c->f.flags & flags) != flags || c->f.stream != stream);
}

/* What has been sent was looked at, and what came of it has come. */
static void settle(struct client *c)
{
    static const uint8_t nothing[8];
    for (int i = 0; i < 3; i++) {
        put(c, PING, 0, 0, nothing, sizeof(nothing));
        read_until(c, PING, ACK, 0);
    }
}

/* Sends |len| bytes of a body, or as many as the windows allow. */
static size_t upload(struct client *c, size_t len, bool patient)
{
    static const uint8_t block[16384];
    size_t sent = 0;
    while (sent < len) {
        int64_t n = (int64_t)(len - sent);
        if (n > (int64_t)sizeof(block))
            n = sizeof(block);
        n = n < c->window ? n : c->window;
        n = n < c->stream_window ? n : c->stream_window;
        if (n > 0) {
            sent += (size_t)n;
            put(c, DATA, sent == len ? END_STREAM : 0, c->stream, block, (size_t)n);
            c->window -= n;
            c->stream_window -= n;
            continue;
        }
        if (patient) {
            assert_true(next(c));
            continue;
        }
        settle(c);
        if (c->window <= 0 || c->stream_window <= 0)
            break;
    }
    return sent;
}

static struct client *begin(const uint8_t *settings, size_t len)
{
    struct client *c = calloc(1, sizeof(*c));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {20, 0};
    int one = 1;
    assert_non_null(c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->window = 65535;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(c->fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, MSG_NOSIGNAL), 24);
    put(c, SETTINGS, 0, 0, settings, len);
    return c;
}

static void end(struct client *c)
{
    close(c->fd);
    free(c);
}

/* ---- windows ---- */

static void a_body_that_nobody_takes_holds_up_no_other(void **state)
{
    (void)state;
    struct client *c = begin(NULL, 0);
    ask(c, 1, true, "/deaf", END_HEADERS);
    assert_true(upload(c, 10 << 20, false) < 10 << 20);
    ask(c, 3, true, "/collect", END_HEADERS);
    assert_int_equal(upload(c, 300000, true), 300000);
    read_until(c, DATA, END_STREAM, 3);
    end(c);
}

static void windows_come_back(void **state)
{
    (void)state;
    static const uint8_t cancel[4] = {0, 0, 0, 8};
    struct client *c = begin(NULL, 0);
    uint32_t id = 1;
    for (int i = 0; i < 300; i++, id += 2) {
        ask(c, id, true, "/deaf", END_HEADERS);
        upload(c, 10 << 20, false);
        if (i % 2) {
            put(c, RST_STREAM, 0, id, cancel, sizeof(cancel));
            continue;
        }
        put(c, HEADERS, END_HEADERS | END_STREAM, id + 2,
            (uint8_t[]){0x82, 0x86, 0x01, 1, 'a', 0x04, 8, '/', 'r', 'e', 'l', 'e', 'a', 's', 'e'}, 15);
        id += 2;
        read_until(c, DATA, END_STREAM, id);
        settle(c);
        put(c, RST_STREAM, 0, id - 2, cancel, sizeof(cancel)); /* the answer is here: no more of the body */
    }
    ask(c, id, true, "/collect", END_HEADERS);
    assert_int_equal(upload(c, 300000, true), 300000);
    read_until(c, DATA, END_STREAM, id);
    end(c);
}

/* ---- who does not go on ---- */

static const uint8_t no_window[6] = {0, 4, 0, 0, 0, 0};

/* It is reset, and then the connection ends. */
static void is_given_up(struct client *c)
{
    read_until(c, RST_STREAM, 0, 1);
    assert_int_equal(c->f.payload[3], 8);
    while (next(c))
        ;
    end(c);
}

static void a_head_that_does_not_end(void **state)
{
    (void)state;
    struct client *c = begin(NULL, 0);
    ask(c, 1, false, "/now", 0);
    is_given_up(c);
}

static void an_answer_that_is_not_taken(void **state)
{
    (void)state;
    static const char *const paths[] = {"/bytes", "/many"}; /* one fits into what is kept */
    for (int i = 0; i < 2; i++) {
        struct client *c = begin(no_window, sizeof(no_window));
        ask(c, 1, false, paths[i], END_HEADERS | END_STREAM);
        is_given_up(c);
    }
}

static void a_body_that_does_not_end(void **state)
{
    (void)state;
    struct client *c = begin(NULL, 0);
    ask(c, 1, true, "/now", END_HEADERS);
    is_given_up(c);
}

/* Who waits for a function is not idle, whatever becomes of another stream. */
static void who_waits_for_an_answer_gets_it(void **state)
{
    (void)state;
    struct client *c = begin(NULL, 0);
    ask(c, 1, true, "/now", END_HEADERS);
    ask(c, 3, false, "/later", END_HEADERS | END_STREAM);
    read_until(c, RST_STREAM, 0, 1);
    read_until(c, DATA, END_STREAM, 3);
    assert_memory_equal(c->f.payload, "later", 5);
    end(c);
}

/* ---- heads ---- */

/* Fields of a head without Huffman's code: "name: value" lines, pseudo-header fields as ":path: /". */
static size_t encode(const char *lines, uint8_t *ret)
{
    uint8_t *p = ret;
    for (const char *end; (end = strchr(lines, '\n')); lines = end + 1) {
        const char *value = strstr(lines, ": ") + 2;
        size_t name_len = (size_t)(value - 2 - lines), len = (size_t)(end - value);
        assert_true(value < end + 1 && name_len < 127 && len < 127);
        *p++ = 0;
        *p++ = (uint8_t)name_len;
        p = (uint8_t *)mempcpy(p, lines, name_len);
        *p++ = (uint8_t)len;
        p = (uint8_t *)mempcpy(p, value, len);
    }
    return (size_t)(p - ret);
}

static void ask_with(struct client *c, uint32_t stream, const char *lines, uint8_t flags)
{
    uint8_t block[1024];
    c->stream = stream;
    c->stream_window = 65535;
    put(c, HEADERS, flags | END_HEADERS, stream, block, encode(lines, block));
}

#define SCHEME ":scheme: http\n"
#define ASK(method, path) ":method: " method "\n" SCHEME ":path: " path "\n"
#define TO_A(method, path) ASK(method, path) ":authority: a\n"

static void heads_become_those_of_http_1(void **state)
{
    (void)state;
    static const struct {
        const char *lines;
        bool body;
        const char *want;
    } t[] = {
        {TO_A("GET", "/p?q=1"), false, "GET /p?q=1 HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\n\r\n"},
        {TO_A("GET", "/") "x: y\ncookie: a=1\nte: trailers\nexpect: 100-continue\ncookie: b=2\nx: z\n", false,
         "GET / HTTP/1.1\r\nHost: a\r\nx: y\r\nx: z\r\nx-tell: 1\r\nCookie: a=1; b=2\r\n\r\n"},
        {TO_A("POST", "/"), false, "POST / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\nContent-Length: 0\r\n\r\n"},
        {TO_A("PUT", "/"), false, "PUT / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\nContent-Length: 0\r\n\r\n"},
        {TO_A("DELETE", "/"), false, "DELETE / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\n\r\n"},
        {TO_A("DELETE", "/") "content-length: 0\n", false,
         "DELETE / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\nContent-Length: 0\r\n\r\n"},
        {TO_A("POST", "/"), true, "POST / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {TO_A("POST", "/") "content-length: 5\n", true,
         "POST / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\nContent-Length: 5\r\n\r\n"},
        {TO_A("OPTIONS", "*"), false, "OPTIONS * HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\n\r\n"},
        {ASK("GET", "/") "host: b\n", false, "GET / HTTP/1.1\r\nHost: b\r\nx-tell: 1\r\n\r\n"},
        {TO_A("GET", "/") "host: b\n", false, "GET / HTTP/1.1\r\nHost: a\r\nx-tell: 1\r\n\r\n"},
    };
    struct client *c = begin(NULL, 0);
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        char lines[512];
        uint32_t stream = 1 + 2 * (uint32_t)i;
        snprintf(lines, sizeof(lines), "%sx-tell: 1\n", t[i].lines);
        ask_with(c, stream, lines, t[i].body ? 0 : END_STREAM);
        if (t[i].body)
            put(c, DATA, END_STREAM, stream, "hello", 5);
        read_until(c, DATA, 0, stream);
        assert_int_equal(c->f.len, strlen(t[i].want));
        assert_memory_equal(c->f.payload, t[i].want, c->f.len);
    }
    end(c);
}

/* What no head of HTTP/1.1 can say is a fault of the stream and of no other. */
static void heads_that_are_refused(void **state)
{
    (void)state;
    static const char *const t[] = {
        TO_A("GET", "*"), TO_A("GET", "a"), TO_A("GET", "/a b"), TO_A("GET", "/\x7f"), TO_A("GET", "/\xe4"),
        ASK("GET", "/"), ASK("GET", "/") ":authority: a b\n", TO_A("POST", "/") "content-length: 1000000000000000000\n",
    };
    struct client *c = begin(NULL, 0);
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        uint32_t stream = 1 + 2 * (uint32_t)i;
        ask_with(c, stream, t[i], END_STREAM);
        read_until(c, RST_STREAM, 0, stream);
        assert_int_equal(c->f.payload[3], 1); /* PROTOCOL_ERROR */
    }
    ask(c, 101, false, "/now", END_HEADERS | END_STREAM);
    read_until(c, DATA, END_STREAM, 101);
    end(c);
}

/* Fields behind a body end it, and nobody is told of them. */
static void trailers_are_dropped(void **state)
{
    (void)state;
    static const uint8_t trailers[] = {0, 1, 'x', 1, 'y', 0, 14, 'c', 'o', 'n', 't', 'e', 'n', 't', '-',
                                       'l', 'e', 'n', 'g', 't', 'h', 1, '9'};
    struct client *c = begin(NULL, 0);
    for (uint32_t stream = 1; stream < 7; stream += 2) { /* the same inner connection serves again */
        ask(c, stream, true, "/collect", END_HEADERS);
        put(c, DATA, 0, stream, "hello", 5);
        put(c, HEADERS, END_HEADERS | END_STREAM, stream, trailers, stream == 5 ? sizeof(trailers) : 5);
        if (stream == 5)
            break;
        read_until(c, DATA, END_STREAM, stream);
        assert_memory_equal(c->f.payload, "5", 1);
    }
    read_until(c, RST_STREAM, 0, 5); /* a length is none of those fields */
    end(c);
}

/* ---- who asks and does not wait ---- */

#define RESETS 1000       /* at once */
#define RESETS_A_SECOND 33

static uint32_t give_up(struct client *c, uint32_t stream, int n)
{
    static const uint8_t cancel[4] = {0, 0, 0, 8};
    for (int i = 0; i < n; i++, stream += 2) {
        ask(c, stream, false, "/deaf", END_HEADERS | END_STREAM);
        put(c, RST_STREAM, 0, stream, cancel, sizeof(cancel));
        if (i % 50 == 49)
            settle(c);
    }
    settle(c);
    return stream;
}

/* Sends a ping; false: the answer is that this is enough. */
static bool is_welcome(struct client *c)
{
    static const uint8_t nothing[8];
    put(c, PING, 0, 0, nothing, sizeof(nothing));
    do
        if (!next(c))
            return false;
    while (c->f.kind != GOAWAY && !(c->f.kind == PING && c->f.flags & ACK));
    assert_true(c->f.kind == PING || c->f.payload[7] == 11); /* ENHANCE_YOUR_CALM */
    return c->f.kind == PING;
}

static void streams_that_are_given_up_are_counted(void **state)
{
    (void)state;
    fast_ns began = fast_clock_now();
    struct client *c = begin(NULL, 0);
    uint32_t stream = give_up(c, 1, RESETS - 1);
    int more = 0;
    do {
        static const uint8_t cancel[4] = {0, 0, 0, 8};
        ask(c, stream, false, "/deaf", END_HEADERS | END_STREAM);
        put(c, RST_STREAM, 0, stream, cancel, sizeof(cancel));
        stream += 2;
        more++;
        assert_true(more <= 1 + (fast_clock_now() - began) / FAST_S(1) * RESETS_A_SECOND);
    } while (is_welcome(c));
    end(c);
}

/* /later takes more than a second. Streams that were answered are none that were given up. */
static void so_many_more_each_second(void **state)
{
    (void)state;
    struct client *c = begin(NULL, 0);
    ask(c, 1, false, "/later", END_HEADERS | END_STREAM);
    uint32_t stream = give_up(c, 3, RESETS - 1);
    read_until(c, DATA, END_STREAM, 1);
    for (int i = 0; i < 10; i++, stream += 2) {
        ask(c, stream, false, "/now", END_HEADERS | END_STREAM);
        read_until(c, DATA, END_STREAM, stream);
    }
    give_up(c, stream, RESETS_A_SECOND);
    assert_true(is_welcome(c));
    end(c);
}

static int start(void **state)
{
    (void)state;
    return server_child_start(serve, &port, sizeof(port));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_nobody_takes_holds_up_no_other),
        cmocka_unit_test(windows_come_back),
        cmocka_unit_test(a_head_that_does_not_end),
        cmocka_unit_test(an_answer_that_is_not_taken),
        cmocka_unit_test(a_body_that_does_not_end),
        cmocka_unit_test(who_waits_for_an_answer_gets_it),
        cmocka_unit_test(heads_become_those_of_http_1),
        cmocka_unit_test(heads_that_are_refused),
        cmocka_unit_test(trailers_are_dropped),
        cmocka_unit_test(streams_that_are_given_up_are_counted),
        cmocka_unit_test(so_many_more_each_second),
    };
    if (!fast_http2())
        return 77; /* built without nghttp2 */
    return cmocka_run_group_tests_name("http2_server", tests, start, server_child_stop);
}
