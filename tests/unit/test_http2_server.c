/* The serving end of HTTP/2 on a real loop in a child process. The client makes frames by hand and keeps to
 * the windows, so that the test sees who gives them back and who is given up. */

#include "io/http2.h"
#include "io/http_server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http2_client.h"
#include "server_child.h"
#include "test.h"

#define IDLE FAST_MS(300)
#define DEAF_MAX 8

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

/* /deaf reads no body and answers when somebody asks for /release; /later answers after four times what a
 * client may be idle. */
static void on_request(void *arg, struct fast_http_req *req)
{
    struct world *w = arg;
    if (target_is(req, "/deaf")) {
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
    int at = fast_http_server_port(server);
    if (!w.timer || write(ready, &at, sizeof(at)) != sizeof(at))
        exit(2);
    fast_loop_run(w.loop, &err);
    exit(0);
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

/* A connection that waits for an answer, on stream 1: it is not idle, however slow this machine is. */
static struct client *begin_busy(void)
{
    struct client *c = begin(NULL, 0);
    ask(c, 1, false, "/deaf", END_HEADERS | END_STREAM);
    return c;
}

/* Fields behind a body end it, and nobody is told of them. */
static void trailers_are_dropped(void **state)
{
    (void)state;
    static const uint8_t trailers[] = {0, 1, 'x', 1, 'y', 0, 14, 'c', 'o', 'n', 't', 'e', 'n', 't', '-',
                                       'l', 'e', 'n', 'g', 't', 'h', 1, '9'};
    struct client *c = begin_busy();
    for (uint32_t stream = 3; stream < 9; stream += 2) { /* the same inner connection serves again */
        ask(c, stream, true, "/collect", END_HEADERS);
        put(c, DATA, 0, stream, "hello", 5);
        put(c, HEADERS, END_HEADERS | END_STREAM, stream, trailers, stream == 7 ? sizeof(trailers) : 5);
        if (stream == 7)
            break;
        read_until(c, DATA, END_STREAM, stream);
        assert_memory_equal(c->f.payload, "5", 1);
    }
    read_until(c, RST_STREAM, 0, 7); /* a length is none of those fields */
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

/* As many more as the time since |began| has earned, and no others. */
static void until_it_is_enough(struct client *c, uint32_t stream, int more, fast_ns began)
{
    static const uint8_t cancel[4] = {0, 0, 0, 8};
    do {
        ask(c, stream, false, "/deaf", END_HEADERS | END_STREAM);
        put(c, RST_STREAM, 0, stream, cancel, sizeof(cancel));
        stream += 2;
        more++;
        assert_true(more <= 1 + (fast_clock_now() - began) / FAST_S(1) * RESETS_A_SECOND);
    } while (is_welcome(c));
}

static void streams_that_are_given_up_are_counted(void **state)
{
    (void)state;
    fast_ns began = fast_clock_now();
    struct client *c = begin_busy();
    until_it_is_enough(c, give_up(c, 3, RESETS - 1), 0, began);
    end(c);
}

/* /later takes more than a second. Streams that were answered are none that were given up. */
static void so_many_more_each_second(void **state)
{
    (void)state;
    fast_ns began = fast_clock_now();
    struct client *c = begin_busy();
    uint32_t stream = give_up(c, 3, RESETS - 1);
    ask(c, stream, false, "/later", END_HEADERS | END_STREAM);
    read_until(c, DATA, END_STREAM, stream);
    stream += 2;
    for (int i = 0; i < 10; i++, stream += 2) {
        ask(c, stream, false, "/now", END_HEADERS | END_STREAM);
        read_until(c, DATA, END_STREAM, stream);
    }
    stream = give_up(c, stream, RESETS_A_SECOND);
    assert_true(is_welcome(c));
    until_it_is_enough(c, stream, RESETS_A_SECOND, began);
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
        cmocka_unit_test(trailers_are_dropped),
        cmocka_unit_test(streams_that_are_given_up_are_counted),
        cmocka_unit_test(so_many_more_each_second),
    };
    if (!fast_http2())
        return 77; /* built without nghttp2 */
    return cmocka_run_group_tests_name("http2_server", tests, start, server_child_stop);
}
