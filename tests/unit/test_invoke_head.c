/* What a function is told of a request, and a caller of its answer: both heads, byte for byte. */

#include "gateway/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

#define HOST "Host: a\r\n"
#define OURS "X-Call-Id: id-1\r\nX-Start-Time: 12345\r\n"
#define FROM "X-Forwarded-For: 10.0.0.1:9\r\n"
#define FORWARDED "X-Forwarded-Host: a\r\n" FROM
#define TRACE_ID "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"
#define TRACE "traceparent: 00-" TRACE_ID "-" SPAN "-01\r\n"
#define THEIRS "traceparent: 00-" TRACE_ID "-00f067aa0ba902b7-01\r\ntracestate: s\r\n"

enum { PLAIN, UPGRADES, TRACED, TRACED_ANEW };

static const struct request {
    const char *line, *fields; /* the target is behind "/function/f" */
    int kind;
    const char *want;
} requests[] = {
    {"GET /function/f/x?y HTTP/1.1", HOST, PLAIN, "GET /x?y HTTP/1.1\r\n" HOST OURS FORWARDED "\r\n"},
    {"GET /function/f HTTP/1.1", HOST, PLAIN, "GET / HTTP/1.1\r\n" HOST OURS FORWARDED "\r\n"},
    {"GET /function/f?q HTTP/1.1", HOST, PLAIN, "GET /?q HTTP/1.1\r\n" HOST OURS FORWARDED "\r\n"},
    {"GET /function/f HTTP/1.0", "", PLAIN, "GET / HTTP/1.1\r\nHost: localhost\r\n" OURS FROM "\r\n"},
    {"GET http://b/function/f/x HTTP/1.1", HOST, PLAIN,
     "GET /x HTTP/1.1\r\nHost: b\r\n" OURS "X-Forwarded-Host: b\r\n" FROM "\r\n"},
    /* framing */
    {"POST /function/f HTTP/1.1", HOST, PLAIN, "POST / HTTP/1.1\r\n" HOST OURS FORWARDED "Content-Length: 0\r\n\r\n"},
    {"PATCH /function/f HTTP/1.1", HOST, PLAIN, "PATCH / HTTP/1.1\r\n" HOST OURS FORWARDED "Content-Length: 0\r\n\r\n"},
    {"PUT /function/f HTTP/1.1", HOST "Content-Length: 015\r\n", PLAIN,
     "PUT / HTTP/1.1\r\n" HOST OURS FORWARDED "Content-Length: 15\r\n\r\n"},
    {"DELETE /function/f HTTP/1.1", HOST, PLAIN, "DELETE / HTTP/1.1\r\n" HOST OURS FORWARDED "\r\n"},
    {"DELETE /function/f HTTP/1.1", HOST "Content-Length: 0\r\n", PLAIN,
     "DELETE / HTTP/1.1\r\n" HOST OURS FORWARDED "Content-Length: 0\r\n\r\n"},
    {"POST /function/f HTTP/1.1", HOST "transfer-encoding: CHUNKED\r\n", PLAIN,
     "POST / HTTP/1.1\r\n" HOST OURS FORWARDED "Transfer-Encoding: chunked\r\n\r\n"},
    /* fields */
    {"GET /function/f HTTP/1.1",
     "A:  b \t\r\nConnection: x, A2\r\n" HOST "X: 1\r\na2: 1\r\nTE: trailers\r\nX-Call-Id: mine\r\nX-Start-Time: 1\r\n"
     "X-Served-By: me\r\nExpect: 100-continue\r\nProxy-Authorization: p\r\nAuthorization: q\r\nA: c\r\nEmpty:\r\n",
     PLAIN, "GET / HTTP/1.1\r\n" HOST "A: b\r\nAuthorization: q\r\nA: c\r\nEmpty: \r\n" OURS FORWARDED "\r\n"},
    {"GET /function/f HTTP/1.1", HOST "X-Forwarded-For: b\r\nX-Forwarded-Host: c\r\n", PLAIN,
     "GET / HTTP/1.1\r\n" HOST "X-Forwarded-For: b\r\nX-Forwarded-Host: c\r\n" OURS "\r\n"},
    {"GET /function/f HTTP/1.1", HOST "X-Forwarded-For: b\r\nConnection: x-forwarded-for\r\n", PLAIN,
     "GET / HTTP/1.1\r\n" HOST OURS FORWARDED "\r\n"},
    {"GET /function/f HTTP/1.1", HOST "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n", UPGRADES,
     "GET / HTTP/1.1\r\n" HOST "Sec-WebSocket-Key: k\r\n" OURS FORWARDED
     "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
    /* traces */
    {"GET /function/f HTTP/1.1", HOST THEIRS, PLAIN, "GET / HTTP/1.1\r\n" HOST THEIRS OURS FORWARDED "\r\n"},
    {"GET /function/f HTTP/1.1", HOST THEIRS, TRACED,
     "GET / HTTP/1.1\r\n" HOST "tracestate: s\r\n" TRACE OURS FORWARDED "\r\n"},
    {"GET /function/f HTTP/1.1", HOST "traceparent: x\r\ntracestate: s\r\n", TRACED_ANEW,
     "GET / HTTP/1.1\r\n" HOST TRACE OURS FORWARDED "\r\n"},
};

static const struct answer {
    const char *asked, *text, *want; /* |asked|: fields of the request; |want|: before the gateway's own */
} answers[] = {
    {"", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nDate: d\r\nContent-Length: 3\r\nConnection: close, Z\r\n"
     "X: y\r\nZ: 1\r\n\r\n", "Content-Type: a/b\r\nDate: d\r\nX: y\r\n"},
    {"", "HTTP/1.1 200 OK\r\nDate: d\r\nHost: h\r\nExpect: e\r\ntraceparent: t\r\nX-Call-Id: theirs\r\n\r\n",
     "Date: d\r\nHost: h\r\nExpect: e\r\ntraceparent: t\r\nContent-Type: text/plain; charset=utf-8\r\n"},
    {"Content-Type: q/r\r\n", "HTTP/1.1 404 No\r\nDate: d\r\n\r\n", "Date: d\r\nContent-Type: q/r\r\n"},
    {"Content-Type: q/r\r\n", "HTTP/1.1 204 No\r\nDate: d\r\n\r\n", "Date: d\r\n"},
    {"Content-Type: q/r\r\n", "HTTP/1.1 304 No\r\nDate: d\r\n\r\n", "Date: d\r\n"},
    {"Content-Type: q/r\r\n", "HTTP/1.1 305 No\r\nDate: d\r\n\r\n", "Date: d\r\nContent-Type: q/r\r\n"},
    {"", "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Type: a/b\r\nConnection: content-type\r\n\r\n",
     "Date: d\r\nContent-Type: text/plain; charset=utf-8\r\n"},
    {"Content-Type: q/r\r\n",
     "HTTP/1.1 101 S\r\nDate: d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: k\r\n\r\n",
     "Date: d\r\nSec-WebSocket-Accept: k\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"},
};

/* ---- a request that has come ---- */

static struct gateway gw;
static int seen;

/* Has |handler| look at a request as it is on the wire. */
static void with_request(fast_http_handler *handler, const void *arg, const char *text)
{
    struct fast_http_server *server;
    const struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = handler, .arg = (void *)arg};
    int pair[2], before = seen;
    assert_int_equal(fast_loop_new(&gw.loop, NULL), 0);
    assert_int_equal(fast_http_server_new(gw.loop, &conf, &server, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    for (size_t len = strlen(text), at = 0; at < len;) {
        ssize_t n = send(pair[0], text + at, len - at, 0);
        assert_true(n > 0);
        at += (size_t)n;
    }
    fast_http_server_adopt(server, pair[1], "10.0.0.1:9");
    assert_int_equal(fast_loop_run(gw.loop, NULL), 0); /* until the handler stops it */
    assert_int_equal(seen, before + 1);
    fast_http_server_free(server);
    fast_loop_free(gw.loop);
    close(pair[0]);
}

static struct gw_job job_of(struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req), name[] = "/function/f";
    const char *target = memmem(text + h->target, h->target_len, name, sizeof(name) - 1);
    struct gw_job j = {.gw = &gw, .req = req, .wall = 12345, .call_id = "id-1"};
    assert_non_null(target);
    j.rest = (uint32_t)(target + sizeof(name) - 1 - text);
    j.rest_len = h->target + h->target_len - j.rest;
    return j;
}

static void is_text(const char *p, size_t len, const char *want)
{
    fast_autofree char *text = strndup(p, len);
    assert_string_equal(text, want);
    assert_int_equal(len, strlen(want));
}

/* ---- requests ---- */

static void on_request(void *arg, struct fast_http_req *req)
{
    const struct request *r = arg;
    struct gw_job j = job_of(req);
    const char *head = NULL;
    j.upgrade = r->kind == UPGRADES;
    if (r->kind >= TRACED)
        j.trace = (struct gw_trace){true, true, TRACE_ID, SPAN, ""};
    if (r->kind == TRACED)
        strcpy(j.trace.parent, "00f067aa0ba902b7");
    size_t len = gw_job_request_head(&j, &head);
    is_text(head, len, r->want);
    seen++;
    fast_loop_stop(gw.loop);
}

static void functions_get_heads_of_their_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(requests); i++) {
        char text[1024];
        snprintf(text, sizeof(text), "%s\r\n%s\r\n", requests[i].line, requests[i].fields);
        with_request(on_request, &requests[i], text);
    }
}

/* As large as a head may be, its host written twice; and the small one behind it. */
static void large_heads_fit(void **state)
{
    enum { HOST_LEN = 30000, VALUE_LEN = 30000 };
    static char host[HOST_LEN + 1], value[VALUE_LEN + 1];
    char *text = NULL, *want = NULL;
    (void)state;
    memset(host, 'h', HOST_LEN);
    memset(value, 'v', VALUE_LEN);
    assert_true(asprintf(&text, "GET /function/f HTTP/1.1\r\nHost:%s\r\nX:%s\r\n\r\n", host, value) > 0);
    assert_true(asprintf(&want, "GET / HTTP/1.1\r\nHost: %s\r\nX: %s\r\n" OURS "X-Forwarded-Host: %s\r\n" FROM "\r\n",
                         host, value, host) > 0);
    const struct request large = {.kind = PLAIN, .want = want};
    with_request(on_request, &large, text);
    functions_get_heads_of_their_own(NULL);
    free(text);
    free(want);
}

/* ---- answers ---- */

static void on_answered(void *arg, struct fast_http_req *req)
{
    static struct fast_http_head h;
    const struct answer *a = arg;
    struct gw_job j = job_of(req);
    const char *lines = NULL;
    char own[256], want[1024];
    size_t own_len = gw_own_lines(j.call_id, j.wall, own, sizeof(own));
    assert_int_equal(own_len, strlen(own));
    fast_http_head_init(&h, true);
    assert_int_equal(fast_http_head_parse(&h, a->text, strlen(a->text)), 1);
    size_t len = gw_job_answer_lines(&j, &h, a->text, &lines);
    snprintf(want, sizeof(want), "%s%s", a->want, own);
    is_text(lines, len, want);
    seen++;
    fast_loop_stop(gw.loop);
}

static void callers_get_answers_of_their_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(answers); i++) {
        char text[1024];
        snprintf(text, sizeof(text), "GET /function/f HTTP/1.1\r\n" HOST "%s\r\n", answers[i].asked);
        with_request(on_answered, &answers[i], text);
    }
}

static void on_undated(void *arg, struct fast_http_req *req)
{
    static const char start[] = "Content-Type: text/plain; charset=utf-8\r\nDate: ";
    static const char served[] = "X-Served-By: fast-gshare/";
    static struct fast_http_head h;
    struct gw_job j = job_of(req);
    const char *lines = NULL, *text = "HTTP/1.1 200 OK\r\n\r\n";
    char own[256];
    (void)arg;
    fast_http_head_init(&h, true);
    assert_int_equal(fast_http_head_parse(&h, text, strlen(text)), 1);
    size_t len = gw_job_answer_lines(&j, &h, text, &lines), own_len = gw_own_lines(j.call_id, j.wall, own, sizeof(own));
    assert_memory_equal(lines, start, sizeof(start) - 1);
    assert_memory_equal(lines + sizeof(start) - 1 + 25, " GMT\r\n", 6); /* behind "Sun, 06 Nov 1994 08:49:37" */
    is_text(lines + sizeof(start) - 1 + 31, len - (sizeof(start) - 1 + 31), own);
    assert_memory_equal(own, OURS, sizeof(OURS) - 1);
    assert_memory_equal(own + sizeof(OURS) - 1, served, sizeof(served) - 1);
    assert_string_equal(own + own_len - 2, "\r\n");
    seen++;
    fast_loop_stop(gw.loop);
}

static void answers_have_a_date(void **state)
{
    (void)state;
    with_request(on_undated, NULL, "GET /function/f HTTP/1.1\r\n" HOST "\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_get_heads_of_their_own),
        cmocka_unit_test(large_heads_fit),
        cmocka_unit_test(callers_get_answers_of_their_own),
        cmocka_unit_test(answers_have_a_date),
    };
    int r = cmocka_run_group_tests_name("invoke_head", tests, NULL, NULL);
    free(gw.head);
    return r;
}
