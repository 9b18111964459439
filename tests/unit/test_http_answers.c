/* What the serving end writes, byte for byte, over a connection within this program: the framing that each client
 * understands, and whether the next request of a connection is still served. */

#include "io/http_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

#define TURNS 8
#define HOST "Host: a\r\n"
#define GET "GET / HTTP/1.1\r\n" HOST "\r\n"
#define POST "POST / HTTP/1.1\r\n" HOST
#define OLD_KEPT "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
#define OK "HTTP/1.1 200 OK\r\nX: y\r\n"
#define PLAIN OK "Content-Length: 3\r\n\r\nabc"
#define CLOSES "Connection: close\r\n"
#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

static const struct row {
    const char *request;
    int status;
    int64_t length;
    const char *data, *want;
    bool kept;
} rows[] = {
    {GET, 200, 3, "abc", PLAIN, true},
    {GET, 200, 0, "", OK "Content-Length: 0\r\n\r\n", true},
    {GET, 200, -1, "abcdefghijklmnopqrstuvwxyz",
     OK "Transfer-Encoding: chunked\r\n\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", true},
    {GET, 200, -1, "", OK "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true},
    {GET, 200, 2, "abc", OK "Content-Length: 2\r\n\r\nab", true}, /* the rest would be another answer */
    {GET, 204, 0, "", "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", true},
    {GET, 204, -1, "abc", "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", true},
    {GET, 304, 3, "abc", "HTTP/1.1 304 Not Modified\r\nX: y\r\nContent-Length: 3\r\n\r\n", true},
    {GET, 304, -1, "abc", "HTTP/1.1 304 Not Modified\r\nX: y\r\n\r\n", true},
    {GET, 599, 0, "", "HTTP/1.1 599 Unknown\r\nX: y\r\nContent-Length: 0\r\n\r\n", true},
    {"HEAD / HTTP/1.1\r\n" HOST "\r\n", 200, 3, "abc", OK "Content-Length: 3\r\n\r\n", true},
    {"HEAD / HTTP/1.1\r\n" HOST "\r\n", 200, -1, "abc", OK "\r\n", true},
    {"GET / HTTP/1.1\r\n" HOST CLOSES "\r\n", 200, 3, "abc", OK "Content-Length: 3\r\n" CLOSES "\r\nabc", false},
    {"GET / HTTP/1.0\r\n\r\n", 200, 3, "abc", OK "Content-Length: 3\r\n" CLOSES "\r\nabc", false},
    {OLD_KEPT, 200, 3, "abc", OK "Content-Length: 3\r\nConnection: keep-alive\r\n\r\nabc", true},
    {OLD_KEPT, 200, -1, "abc", OK CLOSES "\r\nabc", false},
    {OLD_KEPT, 304, -1, "", "HTTP/1.1 304 Not Modified\r\nX: y\r\nConnection: keep-alive\r\n\r\n", true},
    /* Bodies that nobody has read: one that is short, or may be long, or may not come. */
    {POST "Content-Length: 5\r\n\r\nhello", 200, 3, "abc", PLAIN, true},
    {POST "Content-Length: 65537\r\n\r\n", 200, 3, "abc", OK "Content-Length: 3\r\n" CLOSES "\r\nabc", false},
    {POST "Transfer-Encoding: chunked\r\n\r\n5\r\n", 200, 3, "abc", OK "Content-Length: 3\r\n" CLOSES "\r\nabc", false},
    {POST "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", 200, 3, "abc",
     OK "Content-Length: 3\r\n" CLOSES "\r\nabc", false},
};

static struct world {
    struct fast_loop *loop;
    struct fast_timer *timer;
    struct fast_http_server *server;
    fast_http_handler *handler;
    const struct row *row;
    int turns, fd, done;
    bool complete;
    struct fast_http_finished last; /* its pointers are not valid */
    char note[64];
} w;

/* ---- the loop ---- */

static void on_turn(void *arg)
{
    (void)arg;
    if (++w.turns < TURNS)
        fast_timer_set(w.timer, fast_loop_now(w.loop));
    else
        fast_loop_stop(w.loop);
}

/* Lets happen what can happen without waiting. */
static void run(void)
{
    w.turns = 0;
    fast_timer_set(w.timer, fast_loop_now(w.loop));
    assert_int_equal(fast_loop_run(w.loop, NULL), 0);
}

static void run_for(fast_ns ns)
{
    w.turns = TURNS;
    fast_timer_set(w.timer, fast_loop_now(w.loop) + ns);
    assert_int_equal(fast_loop_run(w.loop, NULL), 0);
}

static void on_request(void *arg, struct fast_http_req *req)
{
    (void)arg;
    w.handler(NULL, req);
}

static void on_finished(void *arg, const struct fast_http_finished *what)
{
    (void)arg;
    w.last = *what;
    snprintf(w.note, sizeof(w.note), "%s", what->note);
}

static void begin_with(fast_http_handler *handler, fast_ns idle_timeout)
{
    int pair[2];
    const struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = on_request,
                                               .idle_timeout = idle_timeout, .finished = on_finished};
    w = (struct world){.handler = handler, .row = rows};
    assert_int_equal(fast_loop_new(&w.loop, NULL), 0);
    assert_int_equal(fast_http_server_new(w.loop, &conf, &w.server, NULL), 0);
    w.timer = fast_timer_new(w.loop, on_turn, NULL);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    w.fd = pair[0];
    fast_http_server_adopt(w.server, pair[1], "10.0.0.1:9");
}

static void begin(fast_http_handler *handler)
{
    begin_with(handler, 0);
}

static void end(void)
{
    fast_http_server_free(w.server);
    fast_timer_free(w.timer);
    fast_loop_free(w.loop);
    close(w.fd);
}

static void say(const char *text, size_t step)
{
    for (size_t len = strlen(text), at = 0; at < len; at += step) {
        send(w.fd, text + at, len - at < step ? len - at : step, MSG_NOSIGNAL);
        run();
    }
}

/* All that has come is |want|, and then the connection is open or is not. */
static void hear(const char *want, bool open)
{
    char text[1024];
    size_t len = 0;
    ssize_t n;
    while ((n = recv(w.fd, text + len, sizeof(text) - 1 - len, 0)) > 0)
        len += (size_t)n;
    text[len] = 0;
    assert_string_equal(text, want);
    assert_int_equal(len, strlen(want));
    assert_int_equal(n < 0 && errno == EAGAIN, open);
}

/* ---- answers that are given at once ---- */

static void answer(void *arg, struct fast_http_req *req)
{
    const struct row *r = w.row;
    (void)arg;
    fast_http_req_start(req, r->status, "X: y\r\n", 6, r->length);
    fast_http_req_write(req, r->data, strlen(r->data));
    fast_http_req_end(req);
}

static void answers_have_the_framing_of_their_client(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(rows); i++)
        for (int whole = 0; whole < 2; whole++) {
            begin(answer);
            w.row = &rows[i];
            say(rows[i].request, whole ? 1000 : 1);
            hear(rows[i].want, rows[i].kept);
            w.row = rows;
            say(GET, 1000);
            hear(rows[i].kept ? PLAIN : "", rows[i].kept);
            end();
        }
}

/* Two requests at once are answered one after the other. */
static void pipelined_ones_wait(void **state)
{
    (void)state;
    begin(answer);
    say(POST "Content-Length: 5\r\n\r\nhello" GET, 1000);
    hear(PLAIN PLAIN, true);
    end();
}

static void less_than_was_promised_is_cut_off(void **state)
{
    static const struct row short_one = {GET, 200, 4, "abc", NULL, false};
    char text[256];
    (void)state;
    begin(answer);
    w.row = &short_one;
    say(GET, 1000);
    while (recv(w.fd, text, sizeof(text), 0) > 0)
        ;
    assert_int_equal(fast_http_server_conns(w.server), 0);
    end();
}

static void answer_too_much(void *arg, struct fast_http_req *req)
{
    (void)arg;
    fast_http_req_start(req, 200, "X: y\r\n", 6, 3);
    fast_http_req_write(req, "abc", 3);
    fast_http_req_write(req, OK, 10);
    fast_http_req_end(req);
}

static void more_than_was_promised_is_left_out(void **state)
{
    (void)state;
    begin(answer_too_much);
    say(GET GET, 1000);
    hear(PLAIN PLAIN, true);
    end();
}

static void note_it(void *arg, struct fast_http_req *req)
{
    (void)arg;
    fast_http_req_note(req, "a note");
    answer(NULL, req);
}

static void what_was_answered_is_told(void **state)
{
    (void)state;
    begin(note_it);
    w.row = &rows[2];
    say(GET, 1000);
    assert_true(w.last.status == 200 && w.last.complete && w.last.sent == 26);
    assert_string_equal(w.note, "a note");
    w.handler = answer;
    w.row = rows;
    say(GET, 1000);
    assert_int_equal(w.last.sent, 3);
    assert_string_equal(w.note, "");
    end();
}

static void who_goes_home_says_so(void **state)
{
    (void)state;
    begin(answer);
    say("GET /", 1000);
    fast_http_server_drain(w.server);
    say(" HTTP/1.1\r\n" HOST "\r\n", 1000);
    hear(OK "Content-Length: 3\r\n" CLOSES "\r\nabc", false);
    end();
}

/* ---- an answer that is taken back ---- */

static void take_back(void *arg, struct fast_http_req *req)
{
    (void)arg;
    fast_http_req_start(req, 204, "Lost: 1\r\n", 9, -1);
    fast_http_req_write(req, "lost", 4);
    assert_true(fast_http_req_retract(req));
    assert_false(fast_http_req_started(req));
    answer(NULL, req);
}

static void keep_on(void *arg, struct fast_http_req *req)
{
    (void)arg;
    fast_http_req_start(req, 200, "X: y\r\n", 6, 3);
    fast_http_req_flush(req);
    assert_false(fast_http_req_retract(req)); /* the client has some of it */
    fast_http_req_write(req, "abc", 3);
    fast_http_req_end(req);
}

static void nothing_is_left_of_what_was_taken_back(void **state)
{
    (void)state;
    static fast_http_handler *const handlers[] = {take_back, keep_on};
    for (size_t i = 0; i < FAST_COUNT_OF(handlers); i++) {
        begin(handlers[i]);
        say(GET GET, 1000);
        hear(PLAIN PLAIN, true);
        end();
    }
}

/* ---- bodies ---- */

static void on_collected(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    (void)arg;
    assert_int_equal(strlen(body), len);
    fast_http_req_start(req, 200, "X: y\r\n", 6, (int64_t)len);
    fast_http_req_write(req, body, len);
    fast_http_req_end(req);
}

static void collect(void *arg, struct fast_http_req *req)
{
    (void)arg;
    fast_http_req_collect(req, 5, on_collected, NULL);
}

static void bodies_are_collected(void **state)
{
    (void)state;
    static const struct {
        const char *request, *want;
    } t[] = {
        {POST "Content-Length: 3\r\n\r\nabc", PLAIN},
        {POST "Content-Length: 5\r\n\r\nabcde", OK "Content-Length: 5\r\n\r\nabcde"},
        {POST "Transfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n2\r\nbc\r\n0\r\nT: v\r\n\r\n", PLAIN},
        {GET, OK "Content-Length: 0\r\n\r\n"},
        {POST "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", OK "Content-Length: 0\r\n\r\n"},
    };
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++)
        for (int whole = 0; whole < 2; whole++) {
            begin(collect);
            say(t[i].request, whole ? 1000 : 1);
            hear(t[i].want, true);
            say(t[0].request, 1000);
            hear(PLAIN, true);
            end();
        }
}

/* Everything that has come, which ends with |tail|. */
static void hear_refusal(const char *tail)
{
    char text[2048];
    ssize_t n = recv(w.fd, text, sizeof(text) - 1, 0);
    assert_true(n > 0);
    text[n] = 0;
    const char *blank_line = strstr(text, "\r\n\r\n");
    assert_memory_equal(text, "HTTP/1.1 413 Content Too Large\r\nDate: ", 38);
    assert_non_null(strstr(text, "\r\nContent-Type: text/plain; charset=utf-8\r\n"));
    assert_non_null(blank_line);
    assert_string_equal(blank_line + 4, tail);
}

static void large_bodies_are_refused(void **state)
{
    (void)state;
    static const char *const t[] = {POST "Content-Length: 6\r\n\r\n",
                                    POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n"
                                    "2\r\ngh\r\n0\r\n\r\n",
                                    POST "Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n"};
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        begin(collect);
        say(t[i], 1000);
        hear_refusal("the body is larger than 5 bytes\n");
        end();
    }
}

static void tell_much(void *arg, struct fast_http_req *req)
{
    static char text[3000];
    (void)arg;
    memset(text, 'x', sizeof(text) - 1);
    fast_http_req_text_reply(req, 413, "%s", text);
}

static void long_words_are_cut(void **state)
{
    static char want[1024];
    (void)state;
    begin(tell_much);
    say(GET, 1000);
    memset(want, 'x', 1022);
    want[1022] = '\n';
    hear_refusal(want);
    end();
}

static void dates(void **state)
{
    static const struct {
        fast_ns seconds;
        const char *want;
    } t[] = {{784111777, "Sun, 06 Nov 1994 08:49:37 GMT"}, {784111778, "Sun, 06 Nov 1994 08:49:38 GMT"},
             {784111777, "Sun, 06 Nov 1994 08:49:37 GMT"}, {0, "Thu, 01 Jan 1970 00:00:00 GMT"}};
    char text[FAST_HTTP_DATE_SIZE];
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++)
        for (fast_ns part = 0; part < FAST_S(1); part += FAST_S(1) - 1) {
            fast_http_date(t[i].seconds * FAST_S(1) + part, text);
            assert_string_equal(text, t[i].want);
        }
}

/* The client is asked for its body once, and not when it has begun to send it. */
static void who_waits_is_told_to_continue(void **state)
{
    (void)state;
    begin(collect);
    say(POST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", 1000);
    hear(CONTINUE, true);
    say("abc", 1);
    hear(PLAIN, true);
    say(POST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\na", 1000);
    hear("", true);
    say("bc", 1);
    hear(PLAIN, true);
    end();
}

/* ---- a tunnel ---- */

static void on_raw(void *user, const char *data, size_t len)
{
    struct fast_http_req *req = user;
    fast_http_req_write(req, data, len);
    fast_http_req_flush(req);
}

static void on_done(void *user, bool complete)
{
    (void)user;
    w.done++;
    w.complete = complete;
}

static void tunnel(void *arg, struct fast_http_req *req)
{
    static const struct fast_http_req_ops ops = {.body = on_raw, .done = on_done};
    (void)arg;
    fast_http_req_accept(req, &ops, req);
    fast_http_req_start(req, 101, "X: y\r\n", 6, 7);
    fast_http_req_read(req, true);
}

static void tunnels_have_no_framing(void **state)
{
    (void)state;
    begin(tunnel);
    say(GET "0\r\n\r\nGET / HTTP/1.1\r\n", 1000);
    hear("HTTP/1.1 101 Switching Protocols\r\nX: y\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n", true);
    say("\r\n", 1);
    hear("\r\n", true);
    fast_http_server_free(w.server);
    w.server = NULL;
    assert_true(w.done == 1 && !w.complete);
    end();
}

static void take_no_more(void *user, const char *data, size_t len)
{
    (void)data;
    (void)len;
    fast_http_req_read(user, false);
}

static void silent_tunnel(void *arg, struct fast_http_req *req)
{
    static const struct fast_http_req_ops ops = {.body = take_no_more, .done = on_done};
    (void)arg;
    fast_http_req_accept(req, &ops, req);
    fast_http_req_start(req, 101, "X: y\r\n", 6, -1);
    fast_http_req_read(req, true);
}

/* What came before its end is not lost on a reader that is slow, but one that reads no more does not keep it. */
static void a_tunnel_does_not_outlive_its_client(void **state)
{
    (void)state;
    begin_with(silent_tunnel, FAST_MS(100));
    say(GET "a", 1000);
    say("b", 1);
    hear("HTTP/1.1 101 Switching Protocols\r\nX: y\r\n\r\n", true);
    run_for(FAST_MS(1500));
    assert_int_equal(w.done, 0); /* it may be silent for as long as it likes */
    shutdown(w.fd, SHUT_WR);
    run();
    assert_int_equal(w.done, 0);
    run_for(FAST_MS(2500)); /* that is looked for once a second */
    assert_true(w.done == 1 && !w.complete);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_have_the_framing_of_their_client),
        cmocka_unit_test(pipelined_ones_wait),
        cmocka_unit_test(less_than_was_promised_is_cut_off),
        cmocka_unit_test(more_than_was_promised_is_left_out),
        cmocka_unit_test(who_goes_home_says_so),
        cmocka_unit_test(nothing_is_left_of_what_was_taken_back),
        cmocka_unit_test(bodies_are_collected),
        cmocka_unit_test(who_waits_is_told_to_continue),
        cmocka_unit_test(tunnels_have_no_framing),
        cmocka_unit_test(a_tunnel_does_not_outlive_its_client),
        cmocka_unit_test(what_was_answered_is_told),
        cmocka_unit_test(large_bodies_are_refused),
        cmocka_unit_test(long_words_are_cut),
        cmocka_unit_test(dates),
    };
    return cmocka_run_group_tests_name("http_answers", tests, NULL, NULL);
}
