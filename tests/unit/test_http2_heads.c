/* What a head of HTTP/2 becomes in HTTP/1.1, and what answers become in HTTP/2: fields, lengths, and bodies of many
 * frames. The server is a real one in a child process. */

#include "io/http2.h"
#include "io/http_server.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "http2_client.h"
#include "server_child.h"
#include "test.h"

#define LARGE 3000000 /* bytes: more than is kept for one stream */
#define FIELDS "X-Upper: Value\r\nKeep-Alive: 5\r\nx-lower:  two\twords \r\nProxy-Connection: x\r\nx-empty:\r\n"

/* ---- the server under test ---- */

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 7 + i / 251 + i / 65537);
}

static const char *field(struct fast_http_req *req, const char *name)
{
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, name);
    return f ? text + f->value : NULL;
}

static void send_large(struct fast_http_req *req, int64_t length)
{
    static char all[LARGE];
    for (size_t i = 0; i < LARGE; i++)
        all[i] = (char)byte_at(i);
    fast_http_req_start(req, 200, "", 0, length);
    fast_http_req_write(req, all, LARGE);
    fast_http_req_end(req);
}

/* x-tell: the head that came is the answer. x-status: an answer of that status, with fields and no body. */
static void on_request(void *arg, struct fast_http_req *req)
{
    const char *status = field(req, "x-status"), *length = field(req, "x-length");
    (void)arg;
    if (field(req, "x-tell")) {
        fast_http_req_reply(req, 200, NULL, "text/plain", fast_http_req_text(req), fast_http_req_head(req)->len);
    } else if (field(req, "x-large")) {
        send_large(req, length ? LARGE : -1);
    } else if (status) {
        fast_http_req_start(req, atoi(status), FIELDS, strlen(FIELDS), length ? atoi(length) : -1);
        fast_http_req_end(req);
    } else {
        fast_http_req_text_reply(req, 200, "now");
    }
}

static void serve(int ready)
{
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = on_request, .http2 = fast_http2()};
    struct fast_http_server *server;
    struct fast_loop *loop;
    struct fast_err err;
    if (fast_loop_new(&loop, &err) || fast_http_server_new(loop, &conf, &server, &err))
        exit(2);
    int at = fast_http_server_port(server);
    if (write(ready, &at, sizeof(at)) != sizeof(at))
        exit(2);
    fast_loop_run(loop, &err);
    exit(0);
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
    ask(c, 101, false, "/", END_HEADERS | END_STREAM);
    read_until(c, DATA, END_STREAM, 101);
    end(c);
}

/* ---- answers ---- */

/* The fields of the frame that came, as "name: value" lines. */
static void decode(nghttp2_hd_inflater *inflater, const struct frame *f, char *ret, size_t cap)
{
    const uint8_t *p = f->payload;
    size_t len = f->len;
    int flags = 0;
    *ret = 0;
    while (!(flags & NGHTTP2_HD_INFLATE_FINAL)) {
        nghttp2_nv nv;
        ssize_t n = nghttp2_hd_inflate_hd2(inflater, &nv, &flags, p, len, 1);
        assert_true(n >= 0 && (n || flags));
        p += n;
        len -= (size_t)n;
        size_t at = strlen(ret);
        if (flags & NGHTTP2_HD_INFLATE_EMIT)
            snprintf(ret + at, cap - at, "%.*s: %.*s\n", (int)nv.namelen, nv.name, (int)nv.valuelen, nv.value);
    }
    nghttp2_hd_inflate_end_headers(inflater);
    assert_int_equal(len, 0);
}

#define THEIRS "x-upper: Value\nx-lower: two\twords\nx-empty: \n"

static void answers_have_no_fields_of_a_connection(void **state)
{
    (void)state;
    static const struct {
        const char *ask, *want;
        bool body; /* frames behind the head, if without a byte */
    } t[] = {
        {TO_A("GET", "/") "x-status: 200\nx-length: 0\n", ":status: 200\n" THEIRS "content-length: 0\n", false},
        {TO_A("GET", "/") "x-status: 404\n", ":status: 404\n" THEIRS, true},
        {TO_A("GET", "/") "x-status: 204\n", ":status: 204\n" THEIRS, false},
        {TO_A("GET", "/") "x-status: 304\nx-length: 7\n", ":status: 304\n" THEIRS "content-length: 7\n", false},
        {TO_A("HEAD", "/") "x-status: 200\nx-length: 7\n", ":status: 200\n" THEIRS "content-length: 7\n", false},
    };
    nghttp2_hd_inflater *inflater;
    struct client *c = begin(NULL, 0);
    assert_int_equal(nghttp2_hd_inflate_new(&inflater), 0);
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        char text[512];
        uint32_t stream = 1 + 2 * (uint32_t)i;
        ask_with(c, stream, t[i].ask, END_STREAM);
        read_until(c, HEADERS, END_HEADERS, stream);
        decode(inflater, &c->f, text, sizeof(text));
        assert_string_equal(text, t[i].want);
        assert_int_equal(c->f.flags & END_STREAM, t[i].body ? 0 : END_STREAM);
        if (t[i].body)
            read_until(c, DATA, END_STREAM, stream);
    }
    nghttp2_hd_inflate_del(inflater);
    end(c);
}

static void open_window(struct client *c, uint32_t stream, uint32_t more)
{
    const uint8_t p[4] = {(uint8_t)(more >> 24), (uint8_t)(more >> 16), (uint8_t)(more >> 8), (uint8_t)more};
    put(c, WINDOW_UPDATE, 0, stream, p, sizeof(p));
}

/* Taken as slowly as the client likes: the windows are opened by odd steps. */
static void large_answers_come_whole(void **state)
{
    (void)state;
    static const char *const asks[] = {TO_A("GET", "/") "x-large: 1\nx-length: 1\n", TO_A("GET", "/") "x-large: 1\n"};
    for (size_t i = 0; i < FAST_COUNT_OF(asks); i++) {
        struct client *c = begin(NULL, 0);
        size_t got = 0;
        ask_with(c, 1, asks[i], END_STREAM);
        do {
            assert_true(next(c));
            if (c->f.kind != DATA)
                continue;
            for (size_t k = 0; k < c->f.len; k++)
                if (c->f.payload[k] != byte_at(got + k))
                    fail_msg("byte %zu", got + k);
            got += c->f.len;
            if (c->f.len && got < LARGE) {
                open_window(c, 0, c->f.len);
                open_window(c, 1, c->f.len);
            }
        } while (c->f.kind != DATA || !(c->f.flags & END_STREAM));
        assert_int_equal(got, LARGE);
        end(c);
    }
}

static int start(void **state)
{
    (void)state;
    return server_child_start(serve, &port, sizeof(port));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_become_those_of_http_1),
        cmocka_unit_test(heads_that_are_refused),
        cmocka_unit_test(answers_have_no_fields_of_a_connection),
        cmocka_unit_test(large_answers_come_whole),
    };
    return cmocka_run_group_tests_name("http2_heads", tests, start, server_child_stop);
}
