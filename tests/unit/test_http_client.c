/* The calling end of HTTP against a peer that the test plays itself, step by step. */

#include "io/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

struct rig {
    struct fast_loop *loop;
    struct fast_timer *timer;
    int drained;
    bool late;
};

static void on_drain(void *user)
{
    struct rig *r = user;
    r->drained++;
    fast_loop_stop(r->loop);
}

static void on_fail(void *user, bool connected, const char *why)
{
    (void)user;
    (void)connected;
    fail_msg("%s", why);
}

static void on_late(void *arg)
{
    struct rig *r = arg;
    r->late = true;
    fast_loop_stop(r->loop);
}

static void run(struct rig *r, fast_ns limit)
{
    r->late = false;
    fast_timer_set(r->timer, fast_clock_now() + limit);
    assert_int_equal(fast_loop_run(r->loop, NULL), 0);
}

/* Reads what has come; waits a moment when nothing has. */
static size_t hear(int fd)
{
    static char buf[1 << 16];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 10) <= 0)
        return 0;
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    return n > 0 ? (size_t)n : 0;
}

/* A request that was full and is then sent to its last byte by a flush, outside of the loop, has
 * room again: this is told although nothing waits to be sent any more. */
static void room_is_told_after_a_flush(void **state)
{
    static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n";
    static const struct fast_http_call_ops ops = {.drain = on_drain, .fail = on_fail};
    static char data[8000000];
    struct rig r = {0};
    struct fast_http_pool *pool;
    struct fast_http_call *call;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    (void)state;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)) || listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(fast_loop_new(&r.loop, NULL), 0);
    r.timer = fast_timer_new(r.loop, on_late, &r);
    assert_int_equal(fast_http_pool_new(r.loop, ntohs(a.sin_port), NULL, &pool, NULL), 0);
    assert_int_equal(fast_http_call_new(pool, &ops, &r, head, sizeof(head) - 1, false, false, &call,
                                        NULL), 0);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    run(&r, FAST_MS(50)); /* the connection is there */
    assert_false(fast_http_call_write(call, data, sizeof(data)));
    size_t got = 0, all = sizeof(head) - 1 + sizeof(data);
    for (int i = 0; i < 20000 && got < all; i++) {
        got += hear(fd);
        fast_http_call_flush(call);
    }
    assert_int_equal(got, all);
    assert_int_equal(r.drained, 0);
    run(&r, FAST_S(20));
    assert_false(r.late);
    assert_int_equal(r.drained, 1);
    fast_http_call_cancel(call);
    fast_http_pool_free(pool);
    fast_timer_free(r.timer);
    fast_loop_free(r.loop);
    close(fd);
    close(listener);
}

/* ---- answers, byte by byte and whole, over a connection within this program ---- */

#define TURNS 8
#define IDLE_MAX 64 /* connections of a pool that are kept */
#define DIALS_MAX (IDLE_MAX + 2)
#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

struct wire {
    struct fast_loop *loop;
    struct fast_timer *timer;
    struct fast_http_pool *pool;
    struct fast_http_call *call;
    int dialled, turns, fd; /* |fd|: the function's end of the last connection, of |fds| */
    int fds[DIALS_MAX];
    char log[1024];         /* what was told: "200 body. end" */
    int flushes;
};

static int wire_dial(void *arg)
{
    struct wire *w = arg;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(w->dialled < DIALS_MAX);
    w->fd = w->fds[w->dialled++] = pair[1];
    return pair[0];
}

static void wire_note(struct wire *w, const char *text, size_t len)
{
    size_t n = strlen(w->log);
    assert_true(n + len < sizeof(w->log));
    memcpy(w->log + n, text, len);
    w->log[n + len] = 0;
}

static void wire_head(void *user, const struct fast_http_head *h, const char *text, const struct fast_http_body *body)
{
    char line[32];
    (void)text;
    (void)body;
    wire_note(user, line, (size_t)snprintf(line, sizeof(line), "%d ", h->status));
}

static void wire_body(void *user, const char *data, size_t len)
{
    wire_note(user, data, len);
}

static void wire_flush(void *user)
{
    struct wire *w = user;
    w->flushes++;
}

static void wire_drain(void *user)
{
    (void)user;
}

static void wire_end(void *user)
{
    struct wire *w = user;
    w->call = NULL;
    wire_note(w, ". end", 5);
}

static void wire_fail(void *user, bool connected, const char *why)
{
    struct wire *w = user;
    assert_true(connected);
    w->call = NULL;
    wire_note(w, "! ", 2);
    wire_note(w, why, strlen(why));
}

static const struct fast_http_call_ops wire_ops = {wire_head, wire_body, wire_flush, wire_drain, wire_end, wire_fail};

static void wire_turn(void *arg)
{
    struct wire *w = arg;
    if (++w->turns < TURNS)
        fast_timer_set(w->timer, 0);
    else
        fast_loop_stop(w->loop);
}

/* Lets happen what can happen without waiting. */
static void wire_run(struct wire *w)
{
    w->turns = 0;
    fast_timer_set(w->timer, 0);
    assert_int_equal(fast_loop_run(w->loop, NULL), 0);
}

static void wire_begin(struct wire *w)
{
    *w = (struct wire){.fd = -1};
    assert_int_equal(fast_loop_new(&w->loop, NULL), 0);
    w->timer = fast_timer_new(w->loop, wire_turn, w);
    assert_int_equal(fast_http_pool_new(w->loop, 1, NULL, &w->pool, NULL), 0);
    fast_http_pool_dial(w->pool, wire_dial, w);
}

static void wire_end_all(struct wire *w)
{
    if (w->call)
        fast_http_call_cancel(w->call);
    fast_http_pool_free(w->pool);
    fast_timer_free(w->timer);
    fast_loop_free(w->loop);
    while (w->dialled)
        close(w->fds[--w->dialled]);
}

static void wire_call(struct wire *w, bool to_head)
{
    w->log[0] = 0;
    assert_int_equal(fast_http_call_new(w->pool, &wire_ops, w, GET, sizeof(GET) - 1, to_head, false, &w->call, NULL),
                     0);
}

/* The request has come to the function as it was written. */
static void wire_heard(const struct wire *w, const char *want)
{
    char text[256];
    ssize_t n = recv(w->fd, text, sizeof(text), 0);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(text, want, strlen(want));
}

static void wire_say(struct wire *w, const char *text, size_t step)
{
    for (size_t len = strlen(text), at = 0; at < len; at += step) {
        size_t n = len - at < step ? len - at : step;
        assert_true(send(w->fd, text + at, n, MSG_NOSIGNAL) >= 0 || !w->call);
        wire_run(w);
    }
}

#define CUT_OFF "! the function closed the connection in the middle of its answer"

static const struct answer {
    const char *text, *want;
    bool closes, to_head, kept;
} answers[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 abc. end", false, false, true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 . end", false, false, true},
    {"HTTP/1.1 204 No\r\n\r\n", "204 . end", false, false, true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "200 . end", false, true, true},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "200 abc. end", false,
     false, true},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx",
     "404 x. end", false, false, true},
    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", "200 x. end", false, false, true},
    /* these end the connection */
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", "200 abc. end", false, false, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 abc. end", false, false, false},
    {"HTTP/1.1 200 OK\r\n\r\nabc", "200 abc. end", true, false, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 abc. end", true, false, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", "200 abc. end", false, false, false},
    {"HTTP/1.1 200 OK\r\n\r\nabc", "200 abc", false, false, false},
    /* and these are no answers */
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "200 ab" CUT_OFF, true, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n", "200 ab" CUT_OFF, true, false, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
     "200 ab! the chunks of the response are malformed", false, false, false},
    {"HTTP/1.1 200 OK\r\nX", "! the function closed the connection without an answer", true, false, false},
    {"", "! the function closed the connection without an answer", true, false, false},
    {"HTTP/1.1 101 Switching\r\n\r\n", "! the function switched protocols without being asked", false, false, false},
    {"HTTP/1.1 2x0 OK\r\n\r\n", "! the status code is malformed", false, false, false},
};

static void answers_are_told_as_they_are(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(answers); i++)
        for (int whole = 0; whole < 2; whole++) {
            const struct answer *a = &answers[i];
            struct wire w;
            wire_begin(&w);
            wire_call(&w, a->to_head);
            fast_http_call_finish(w.call);
            wire_heard(&w, GET);
            wire_say(&w, a->text, whole ? 1000 : 1);
            if (a->closes)
                shutdown(w.fd, SHUT_WR);
            wire_run(&w);
            if (strcmp(w.log, a->want) != 0)
                fail_msg("%s: %s", a->text, w.log);
            if (w.call)
                fast_http_call_cancel(w.call);
            wire_call(&w, false);
            assert_int_equal(w.dialled, a->kept ? 1 : 2);
            fast_http_call_finish(w.call);
            wire_heard(&w, GET);
            wire_say(&w, answers[0].text, 7);
            assert_string_equal(w.log, answers[0].want);
            wire_end_all(&w);
        }
}

/* Who answers before it has the whole request may read the rest of it as the next one. */
static void an_early_answer_ends_the_connection(void **state)
{
    struct wire w;
    (void)state;
    wire_begin(&w);
    wire_call(&w, false);
    fast_http_call_flush(w.call);
    wire_heard(&w, GET);
    wire_say(&w, answers[0].text, 1000);
    assert_string_equal(w.log, answers[0].want);
    wire_call(&w, false);
    assert_int_equal(w.dialled, 2);
    wire_end_all(&w);
}

/* What comes on an idle connection, bytes or its end, is nobody's answer. */
static void idle_ones_that_speak_are_closed(void **state)
{
    (void)state;
    for (int bytes = 0; bytes < 2; bytes++)
        for (int seen = 0; seen < 2; seen++) { /* by the loop, or only by who wants to use it */
            struct wire w;
            wire_begin(&w);
            wire_call(&w, false);
            fast_http_call_finish(w.call);
            wire_heard(&w, GET);
            wire_say(&w, answers[0].text, 1000);
            if (bytes)
                assert_int_equal(send(w.fd, "x", 1, 0), 1);
            else
                shutdown(w.fd, SHUT_WR);
            if (seen)
                wire_run(&w);
            wire_call(&w, false);
            assert_int_equal(w.dialled, 2);
            fast_http_call_finish(w.call);
            wire_heard(&w, GET);
            wire_say(&w, answers[0].text, 1000);
            assert_string_equal(w.log, answers[0].want);
            wire_end_all(&w);
        }
}

static void bodies_are_held_back(void **state)
{
    struct wire w;
    (void)state;
    wire_begin(&w);
    wire_call(&w, false);
    fast_http_call_finish(w.call);
    fast_http_call_read(w.call, false);
    wire_say(&w, answers[0].text, 1000);
    assert_string_equal(w.log, "200 ");
    shutdown(w.fd, SHUT_WR); /* its end is behind what is held */
    wire_run(&w);
    assert_string_equal(w.log, "200 ");
    fast_http_call_read(w.call, true);
    assert_string_equal(w.log, "200 abc. end");
    wire_end_all(&w);
}

/* Whoever waits for events gets the head of an answer without a length before anything is behind it. */
static void a_head_alone_is_flushed(void **state)
{
    struct wire w;
    (void)state;
    wire_begin(&w);
    wire_call(&w, false);
    fast_http_call_finish(w.call);
    wire_say(&w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1000);
    assert_int_equal(w.flushes, 1);
    wire_say(&w, "1\r", 1);
    assert_int_equal(w.flushes, 1);
    wire_say(&w, "\nx", 1000);
    assert_int_equal(w.flushes, 2);
    wire_end_all(&w);
}

static void requests_in_chunks(void **state)
{
    struct wire w;
    (void)state;
    wire_begin(&w);
    assert_int_equal(fast_http_call_new(w.pool, &wire_ops, &w, GET, sizeof(GET) - 1, false, true, &w.call, NULL), 0);
    assert_true(fast_http_call_write(w.call, "", 0)); /* an empty chunk would be the end */
    assert_true(fast_http_call_write(w.call, "abcdefghijklmnopqrstuvwxyz", 26));
    fast_http_call_finish(w.call);
    wire_heard(&w, GET "1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n");
    wire_end_all(&w);
}

static void protocols_are_switched_where_asked(void **state)
{
    struct wire w;
    (void)state;
    wire_begin(&w);
    wire_call(&w, false);
    fast_http_call_upgrade(w.call);
    fast_http_call_finish(w.call);
    wire_heard(&w, GET);
    wire_say(&w, "HTTP/1.1 101 S\r\nContent-Length: 1\r\n\r\nHTTP/1.1 2x0", 3);
    assert_string_equal(w.log, "101 HTTP/1.1 2x0");
    assert_true(fast_http_call_write(w.call, "raw", 3));
    fast_http_call_flush(w.call);
    wire_heard(&w, "raw");
    shutdown(w.fd, SHUT_WR);
    wire_run(&w);
    assert_string_equal(w.log, "101 HTTP/1.1 2x0. end");
    wire_end_all(&w);
}

/* The pool goes while a call is under way; its connection goes with the call. */
static void a_pool_that_is_freed_keeps_nothing(void **state)
{
    struct wire w;
    char byte;
    (void)state;
    wire_begin(&w);
    wire_call(&w, false);
    fast_http_call_finish(w.call);
    wire_heard(&w, GET);
    fast_http_pool_free(w.pool);
    w.pool = NULL;
    wire_say(&w, answers[0].text, 1000);
    assert_string_equal(w.log, answers[0].want);
    assert_int_equal(recv(w.fd, &byte, 1, 0), 0);
    wire_end_all(&w);
    wire_begin(&w); /* an idle one goes with the pool */
    wire_call(&w, false);
    fast_http_call_finish(w.call);
    wire_heard(&w, GET);
    wire_say(&w, answers[0].text, 1000);
    fast_http_pool_free(w.pool);
    w.pool = NULL;
    assert_int_equal(recv(w.fd, &byte, 1, 0), 0);
    wire_end_all(&w);
}

/* The youngest one is taken first: it is the warmest. */
static void as_many_are_kept_as_there_is_room_for(void **state)
{
    struct fast_http_call *calls[IDLE_MAX + 1];
    struct wire w;
    char byte;
    (void)state;
    wire_begin(&w);
    for (int i = 0; i <= IDLE_MAX; i++) {
        wire_call(&w, false);
        calls[i] = w.call;
        fast_http_call_finish(w.call);
    }
    for (int i = 0; i <= IDLE_MAX; i++) {
        w.fd = w.fds[i];
        wire_heard(&w, GET);
        wire_say(&w, "HTTP/1.1 204 No\r\n\r\n", 1000);
    }
    assert_int_equal(recv(w.fds[IDLE_MAX], &byte, 1, 0), 0); /* one too many */
    for (int i = IDLE_MAX - 1; i >= -1; i--) {
        wire_call(&w, false);
        assert_int_equal(w.dialled, i < 0 ? IDLE_MAX + 2 : IDLE_MAX + 1);
        fast_http_call_flush(w.call);
        w.fd = w.fds[i < 0 ? IDLE_MAX + 1 : i];
        wire_heard(&w, GET);
        calls[i + 1] = w.call;
    }
    for (int i = 0; i < IDLE_MAX; i++)
        fast_http_call_cancel(calls[i + 1]);
    w.call = calls[0];
    wire_end_all(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room_is_told_after_a_flush),
        cmocka_unit_test(answers_are_told_as_they_are),
        cmocka_unit_test(an_early_answer_ends_the_connection),
        cmocka_unit_test(idle_ones_that_speak_are_closed),
        cmocka_unit_test(bodies_are_held_back),
        cmocka_unit_test(a_head_alone_is_flushed),
        cmocka_unit_test(requests_in_chunks),
        cmocka_unit_test(protocols_are_switched_where_asked),
        cmocka_unit_test(a_pool_that_is_freed_keeps_nothing),
        cmocka_unit_test(as_many_are_kept_as_there_is_room_for),
    };
    return cmocka_run_group_tests_name("http_client", tests, NULL, NULL);
}
