/* HTTP/2 over a real connection to the server of io/: no input makes it crash, read what is not there, keep a
 * connection after its client has gone, or see more requests than a client has begun streams (one that
 * hides in another one). The first byte chooses whether the rest are bytes behind the preface or a
 * list of frames with lengths that are right, and in how large pieces they come. */

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "io/http2.h"
#include "io/http_conn.h"

#define QUIET_TURNS 6 /* of the loop without an event: loopback sockets have nothing more to say */
#define TURNS_MAX 20000
#define OUT_MAX (1 << 17)
#define HEADERS 1
#define REQUEST 0x20 /* not a type of frame: HEADERS of a good request, then the payload as further fields */

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/* :method POST, :scheme http, :path /, :authority "a" by HPACK's static table. */
static const uint8_t good[] = {0x83, 0x86, 0x84, 0x01, 1, 'a'};

struct world {
    struct fast_loop *loop;
    struct fast_http_server *server;
    struct fast_timer *turn;
    int quiet, turns, requests;
};

static struct world w;

/* ---- the server's handlers: by the last letter of the path each kind of answer ---- */

static void on_body(void *user, const char *data, size_t len)
{
    struct fast_http_req *req = user;
    if (!fast_http_req_write(req, data, len))
        fast_http_req_read(req, false);
}

static void on_flush(void *user)
{
    fast_http_req_flush(user);
}

static void on_end(void *user)
{
    fast_http_req_end(user);
}

static void on_drain(void *user)
{
    fast_http_req_read(user, true);
}

static void on_done(void *user, bool complete)
{
    (void)user;
    (void)complete;
}

static void on_collected(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    (void)arg;
    fast_http_req_reply(req, 200, NULL, "text/plain", body, len);
}

static void handle(void *arg, struct fast_http_req *req)
{
    static const struct fast_http_req_ops ops = {on_body, on_flush, on_end, on_drain, on_done};
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req);
    (void)arg;
    w.requests++;
    w.quiet = 0;
    for (uint32_t i = 0; i < h->fields; i++) /* a field of its own cannot hold a line end */
        FUZZ_CHECK(!memchr(text + h->field[i].value, '\n', h->field[i].value_len));
    switch (h->target_len ? text[h->target + h->target_len - 1] : 0) {
    case 'c':
        fast_http_req_collect(req, 1000, on_collected, NULL);
        return;
    case 's':
        fast_http_req_reply(req, 404, "X-A: b\r\n", "text/plain", "no\n", 3);
        return;
    case 'n': /* never answered */
        fast_http_req_accept(req, &ops, req);
        return;
    case 'x':
        fast_http_req_accept(req, &ops, req);
        fast_http_req_start(req, 200, NULL, 0, 10);
        fast_http_req_write(req, "abc", 3);
        fast_http_req_abort(req);
        return;
    default:
        fast_http_req_accept(req, &ops, req);
        fast_http_req_start(req, 200, NULL, 0, -1);
        fast_http_req_read(req, true);
    }
}

static void on_turn(void *arg)
{
    (void)arg;
    if (++w.quiet >= QUIET_TURNS || ++w.turns >= TURNS_MAX)
        fast_loop_stop(w.loop);
    else
        fast_timer_set(w.turn, 0);
}

static void run(void)
{
    w.quiet = 0;
    fast_timer_set(w.turn, 0);
    FUZZ_CHECK(!fast_loop_run(w.loop, NULL));
}

/* A busy kernel may hand a connection or its end over late. */
static void run_until_conns(bool some)
{
    fast_ns limit = fast_clock_now() + FAST_S(5);
    do
        run();
    while (some != (fast_http_server_conns(w.server) > 0) && fast_clock_now() < limit);
    FUZZ_CHECK(some == (fast_http_server_conns(w.server) > 0));
}

/* ---- the client ---- */

static void on_readable(void *arg, int events)
{
    char buf[65536];
    int fd = *(int *)arg;
    w.quiet = 0;
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN) || (events & FAST_LOOP_HUP && n <= 0))
        fast_loop_stop(w.loop);
}

static void world_init(void)
{
    const struct fast_http_server_conf conf = {
        .address = "127.0.0.1:0", .handler = handle, .http2 = fast_http2()};
    struct fast_err err;
    FUZZ_CHECK(conf.http2);
    FUZZ_CHECK(!fast_loop_new(&w.loop, &err));
    w.turn = fast_timer_new(w.loop, on_turn, NULL);
    FUZZ_CHECK(w.turn && !fast_http_server_new(w.loop, &conf, &w.server, &err));
}

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                            .sin_port = htons((uint16_t)fast_http_server_port(w.server))};
    const struct linger now = {1, 0}; /* a reset: no port is left waiting */
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r;
    /* libFuzzer's timer interrupts; asked again, connect() waits on for the same connection. */
    do
        r = connect(fd, (struct sockaddr *)&a, sizeof(a));
    while (r < 0 && errno == EINTR);
    FUZZ_CHECK(!r);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    return fd;
}

static size_t put_frame(uint8_t *out, size_t at, uint8_t type, uint8_t flags, uint32_t stream,
                        const uint8_t *payload, size_t len)
{
    const uint8_t head[9] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, type, flags,
                             (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8),
                             (uint8_t)stream};
    if (at + sizeof(head) + len > OUT_MAX)
        return at;
    memcpy(out + at, head, sizeof(head));
    if (len)
        memcpy(out + at + sizeof(head), payload, len);
    return at + sizeof(head) + len;
}

/* Rows of type, flags, stream, length and a payload; the length is 16 times as much with the highest bit of
 * the type. */
static size_t frames_of(const uint8_t *p, size_t len, uint8_t *out, int *ret_streams)
{
    size_t n = put_frame(out, 0, 4, 0, 0, NULL, 0);
    while (len >= 4) {
        uint8_t type = p[0] & 0x7f, flags = p[1];
        uint32_t stream = p[2];
        size_t size = p[3] * (p[0] & 0x80 ? 16u : 1u), have = len - 4 < size ? len - 4 : size;
        if (type == HEADERS)
            ++*ret_streams;
        if (type == REQUEST) {
            uint8_t head[sizeof(good) + 255 * 16];
            memcpy(head, good, sizeof(good));
            memcpy(head + sizeof(good), p + 4, have);
            n = put_frame(out, n, HEADERS, flags, stream, head, sizeof(good) + have);
            ++*ret_streams;
        } else {
            n = put_frame(out, n, type, flags, stream, p + 4, have);
        }
        p += 4 + have;
        len -= 4 + have;
    }
    return n;
}

static void talk(int fd, const uint8_t *out, size_t len, size_t step)
{
    struct fast_watch *watch = fast_watch_new(w.loop, fd, FAST_LOOP_IN, on_readable, &fd);
    FUZZ_CHECK(watch && send(fd, preface, sizeof(preface) - 1, MSG_NOSIGNAL) == sizeof(preface) - 1);
    for (size_t at = 0; at < len;) {
        size_t n = len - at < step ? len - at : step;
        ssize_t sent = send(fd, out + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN)
            break;
        at += sent > 0 ? (size_t)sent : 0;
        run();
        if (sent <= 0 && w.turns >= TURNS_MAX)
            break;
    }
    run();
    fast_watch_free(watch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t out[OUT_MAX];
    int streams = 0;
    if (size < 2)
        return 0;
    if (!w.loop)
        world_init();
    bool framed = data[0] & 1;
    size_t step = data[0] & 2 ? 1 + (data[0] >> 2) * 7u : OUT_MAX, len = size - 1;
    if (framed)
        len = frames_of(data + 1, len, out, &streams);
    else
        memcpy(out, data + 1, len < OUT_MAX ? len : OUT_MAX);
    if (len / step > 300) /* each piece costs some turns */
        step = len / 300;
    w.requests = w.turns = 0;
    int fd = dial();
    run_until_conns(true);
    talk(fd, out, len, step);
    close(fd);
    run_until_conns(false);
    FUZZ_CHECK(!framed || w.requests <= streams);
    return 0;
}
