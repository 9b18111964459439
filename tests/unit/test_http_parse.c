/* Vectors for the framing of HTTP, each fed whole and byte by byte: smuggling attempts must be
 * refused in both ways, plain requests accepted in both ways with the same result. */

#include "io/http_parse.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "test.h"

#define GET "GET / HTTP/1.1\r\n"
#define POST "POST /a HTTP/1.1\r\nHost: a\r\n"
#define OK_REPLY "HTTP/1.1 200 OK\r\n"

struct vector {
    const char *name, *text;
    size_t len; /* 0: strlen */
    int want;   /* 1, 0, or a negative status */
};

static const struct vector requests[] = {
    {"plain", GET "Host: a\r\n\r\n", 0, 1},
    {"incomplete", GET "Host: a\r\n", 0, 0},
    {"one empty line before", "\r\n" GET "Host: a\r\n\r\n", 0, 1},
    {"two empty lines before", "\r\n\r\n" GET "Host: a\r\n\r\n", 0, -400},
    {"http 1.0 without host", "GET / HTTP/1.0\r\n\r\n", 0, 1},
    {"no host", GET "\r\n", 0, -400},
    {"two hosts", GET "Host: a\r\nHost: a\r\n\r\n", 0, -400},
    {"host with a comma", GET "Host: a, b\r\n\r\n", 0, -400},
    {"host with a path", GET "Host: a/b\r\n\r\n", 0, -400},
    {"host with user info", GET "Host: u@a\r\n\r\n", 0, -400},
    {"host with a backtick", GET "Host: a`b\r\n\r\n", 0, -400},
    {"host beyond ascii", GET "Host: \xe4\r\n\r\n", 0, -400},
    {"host with a port", GET "Host: [::1]:80\r\n\r\n", 0, 1},
    {"absolute uri with a brace", "GET http://a{/x HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"absolute uri", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", 0, 1},
    {"absolute uri with the shortest path", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 0, 1},
    {"absolute uri without path", "GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"absolute uri without authority", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"connect", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"options star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0, 1},
    {"options star behind an empty line", "\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 0, 1},
    {"get star", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"two blanks", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"tab as blank", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"blank in target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"control in target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"del in target", "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"method of 32", "A2345678901234567890123456789012 / HTTP/1.1\r\nHost: a\r\n\r\n", 0, 1},
    {"method of 33", "A23456789012345678901234567890123 / HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"non-ascii target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"no version", "GET /\r\nHost: a\r\n\r\n", 0, -400},
    {"empty method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"method with a colon", "G:T / HTTP/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"no target", "GET\r\nHost: a\r\n\r\n", 0, -400},
    {"version without digits", "GET / HTTP/x.1\r\nHost: a\r\n\r\n", 0, -400},
    {"version without a dot", "GET / HTTP/1x1\r\nHost: a\r\n\r\n", 0, -400},
    {"version with one digit", "GET / HTTP/1.x\r\nHost: a\r\n\r\n", 0, -400},
    {"http 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 0, -505},
    {"http 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 0, -505},
    {"http 0.9", "GET / HTTP/0.9\r\n\r\n", 0, -505},
    {"http 1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 0, -400},
    {"small http", "GET / http/1.1\r\nHost: a\r\n\r\n", 0, -400},
    {"blank after version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 0, -400},
    {"lf alone", "GET / HTTP/1.1\nHost: a\n\n", 0, -400},
    {"lf alone in fields", GET "Host: a\nX: b\r\n\r\n", 0, -400},
    {"lf alone at the end", GET "Host: a\r\n\n", 0, -400},
    {"cr in a value", GET "Host: a\r\nX: a\rb\r\n\r\n", 0, -400},
    {"cr cr lf", GET "Host: a\r\r\n\r\n", 0, -400},
    {"nul in a value", GET "Host: a\r\nX: a\0b\r\n\r\n", sizeof(GET) + 18, -400},
    {"control in a value", GET "Host: a\r\nX: a\x0b\r\n\r\n", 0, -400},
    {"del in a value", GET "Host: a\r\nX: a\x7f\r\n\r\n", 0, -400},
    {"obs-text in a value", GET "Host: a\r\nX: \xe4\r\n\r\n", 0, 1},
    {"tab in a value", GET "Host: a\r\nX: a\tb\r\n\r\n", 0, 1},
    {"obs-fold", GET "Host: a\r\nX: a\r\n b\r\n\r\n", 0, -400},
    {"obs-fold of a length", POST "Content-Length:\r\n 5\r\n\r\nhello", 0, -400},
    {"fold before the first field", GET " X: a\r\nHost: a\r\n\r\n", 0, -400},
    {"empty name", GET "Host: a\r\n: b\r\n\r\n", 0, -400},
    {"blank before colon", GET "Host: a\r\nX : b\r\n\r\n", 0, -400},
    {"tab before colon", POST "Content-Length\t: 5\r\n\r\nhello", 0, -400},
    {"no colon", GET "Host: a\r\nX\r\n\r\n", 0, -400},
    {"name with a slash", GET "Host: a\r\nX/Y: b\r\n\r\n", 0, -400},
    {"name beyond ascii", GET "Host: a\r\nX\xe4: b\r\n\r\n", 0, -400},
    {"empty value", GET "Host: a\r\nX:\r\n\r\n", 0, 1},
    {"length", POST "Content-Length: 5\r\n\r\nhello", 0, 1},
    {"length with blanks around", POST "Content-Length: \t5 \r\n\r\nhello", 0, 1},
    {"two lengths", POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 0, -400},
    {"two equal lengths", POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 0, -400},
    {"two lengths of 0", POST "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 0, -400},
    {"length of 18 digits", POST "Content-Length: 999999999999999999\r\n\r\n", 0, 1},
    {"length of 19 digits", POST "Content-Length: 9999999999999999999\r\n\r\n", 0, -400},
    {"list of lengths", POST "Content-Length: 5, 5\r\n\r\n", 0, -400},
    {"length +5", POST "Content-Length: +5\r\n\r\n", 0, -400},
    {"length -5", POST "Content-Length: -5\r\n\r\n", 0, -400},
    {"length 0x5", POST "Content-Length: 0x5\r\n\r\n", 0, -400},
    {"length 5a", POST "Content-Length: 5a\r\n\r\n", 0, -400},
    {"length 5 5", POST "Content-Length: 5 5\r\n\r\n", 0, -400},
    {"no length", POST "Content-Length:\r\n\r\n", 0, -400},
    {"length beyond 64 bits", POST "Content-Length: 18446744073709551621\r\n\r\n", 0, -400},
    {"length and te", POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 0, -400},
    {"te and length", POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 0, -400},
    {"length 0 and te", POST "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 0, -400},
    {"te", POST "Transfer-Encoding: chunked\r\n\r\n", 0, 1},
    {"te in capitals", POST "TRANSFER-ENCODING: Chunked\r\n\r\n", 0, 1},
    {"te xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n", 0, -400},
    {"te vt chunked", POST "Transfer-Encoding: \x0b" "chunked\r\n\r\n", 0, -400},
    {"te gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n", 0, -400},
    {"te chunked, chunked", POST "Transfer-Encoding: chunked, chunked\r\n\r\n", 0, -400},
    {"te chunked, identity", POST "Transfer-Encoding: chunked, identity\r\n\r\n", 0, -400},
    {"te identity", POST "Transfer-Encoding: identity\r\n\r\n", 0, -400},
    {"te quoted", POST "Transfer-Encoding: \"chunked\"\r\n\r\n", 0, -400},
    {"te with a parameter", POST "Transfer-Encoding: chunked;q=1\r\n\r\n", 0, -400},
    {"te empty", POST "Transfer-Encoding:\r\n\r\n", 0, -400},
    {"two te", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 0, -400},
    {"te with a blank before colon", POST "Transfer-Encoding : chunked\r\n\r\n", 0, -400},
    {"te in http 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 0, -400},
    {"names as long as those that matter", POST "Abcd: x\r\nHosr: y\r\nExpecs: 1\r\nContent-Lengtg: 1, 2\r\n"
     "Transfer-Encodinf: gzip\r\nConnectioo: z\r\nYost: z\r\n\r\n", 0, 1},
    {"expectation", POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n", 0, 1},
    {"other expectation", POST "Expect: wonders\r\n\r\n", 0, -417},
};

static const struct vector responses[] = {
    {"plain", OK_REPLY "Content-Length: 2\r\n\r\nhi", 0, 1},
    {"no reason", "HTTP/1.1 200\r\n\r\n", 0, 1},
    {"empty reason", "HTTP/1.1 200 \r\n\r\n", 0, 1},
    {"two digits", "HTTP/1.1 20 OK\r\n\r\n", 0, -400},
    {"four digits", "HTTP/1.1 2000 OK\r\n\r\n", 0, -400},
    {"four digits and no reason", "HTTP/1.1 2000\r\n\r\n", 0, -400},
    {"a letter first in the status", "HTTP/1.1 x00 OK\r\n\r\n", 0, -400},
    {"a letter last in the status", "HTTP/1.1 20x OK\r\n\r\n", 0, -400},
    {"no blank before the status", "HTTP/1.1x200 OK\r\n\r\n", 0, -400},
    {"version alone", "HTTP/1.1\r\n\r\n", 0, -400},
    {"http 2.0", "HTTP/2.0 200 OK\r\n\r\n", 0, -505},
    {"malformed version", "HTTP/1.x 200 OK\r\n\r\n", 0, -400},
    {"nul in the reason", "HTTP/1.1 200 O\0K\r\n\r\n", 20, -400},
    {"cr in the reason", "HTTP/1.1 200 O\rK\r\n\r\n", 0, -400},
    {"fields that matter in requests only", OK_REPLY "Host: a\r\nHost: b/c\r\nExpect: wonders\r\n\r\n", 0, 1},
    {"status below 100", "HTTP/1.1 099 OK\r\n\r\n", 0, -400},
    {"two lengths", OK_REPLY "Content-Length: 2\r\nContent-Length: 3\r\n\r\n", 0, -400},
    {"length and te", OK_REPLY "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 0, -400},
    {"te gzip", OK_REPLY "Transfer-Encoding: gzip\r\n\r\n", 0, -400},
    {"obs-fold", OK_REPLY "X: a\r\n b\r\n\r\n", 0, -400},
    {"empty line first", "\r\n" OK_REPLY "\r\n", 0, -400},
    {"not http", "SSH-2.0-OpenSSH_9.2\r\n\r\n", 0, -400},
};

/* Each length gets memory of its own, so that reading one byte too far is found by ASan. */
static int feed(const char *text, size_t len, size_t step, bool response, struct fast_http_head *h)
{
    int r = 0;
    fast_http_head_init(h, response);
    for (size_t n = step < len ? step : len;; n = n + step < len ? n + step : len) {
        char *copy = malloc(n ? n : 1);
        memcpy(copy, text, n);
        r = fast_http_head_parse(h, copy, n);
        free(copy);
        if (r || n == len)
            return r;
    }
}

static void check_table(const struct vector *v, size_t count, bool response)
{
    static struct fast_http_head a, b;
    for (size_t i = 0; i < count; i++) {
        size_t len = v[i].len ? v[i].len : strlen(v[i].text);
        int whole = feed(v[i].text, len, len, response, &a);
        int bytes = feed(v[i].text, len, 1, response, &b);
        if (whole != v[i].want || bytes != v[i].want)
            fail_msg("%s: whole %d, by bytes %d, want %d", v[i].name, whole, bytes, v[i].want);
        if (whole < 0)
            assert_true(*a.why && *b.why);
        if (whole != 1)
            continue;
        assert_string_equal(a.why, "");
        const char *blank_line = strstr(v[i].text + (*v[i].text == '\r'), "\r\n\r\n");
        assert_non_null(blank_line);
        assert_int_equal(a.len, blank_line + 4 - v[i].text);
        assert_int_equal(a.len, b.len);
        assert_int_equal(a.fields, b.fields);
        assert_int_equal(a.length, b.length);
        assert_memory_equal(a.field, b.field, a.fields * sizeof(a.field[0]));
    }
}

static void heads(void **state)
{
    (void)state;
    check_table(requests, FAST_COUNT_OF(requests), false);
    check_table(responses, FAST_COUNT_OF(responses), true);
}

static void head_content(void **state)
{
    (void)state;
    static struct fast_http_head h;
    const char *t = "PUT http://u.example:80/x?y=1 HTTP/1.1\r\nHost: other\r\nX-A:  b c \r\n"
                    "Connection: x-drop, Close\r\nX-Drop: 1\r\nContent-Length: 42\r\n\r\nrest";
    assert_int_equal(feed(t, strlen(t), 7, false, &h), 1);
    assert_true(fast_http_is_exact(t + h.method, h.method_len, "PUT"));
    assert_true(fast_http_is_exact(t + h.target, h.target_len, "/x?y=1"));
    assert_true(fast_http_is_exact(t + h.host, h.host_len, "u.example:80"));
    assert_int_equal(h.length, 42);
    assert_false(h.keep_alive);
    assert_string_equal(t + h.len, "rest");
    const struct fast_http_field *f = fast_http_head_find(&h, t, "x-a");
    assert_non_null(f);
    assert_true(fast_http_is_exact(t + f->value, f->value_len, "b c"));
    assert_false(fast_http_is_hop(&h, t, f));
    assert_true(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "X-Drop")));
    assert_true(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "connection")));
    assert_false(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "host")));
    assert_null(fast_http_head_find(&h, t, "x-"));
}

static void names(void **state)
{
    (void)state;
    assert_true(fast_http_is("aZ-9", 4, "Az-9") && fast_http_is_exact("aZ-9", 4, "aZ-9"));
    assert_false(fast_http_is_exact("aZ", 2, "Az"));
    static const char *const others[] = {"xbcd", "axcd", "abcx", "abc", "abcde", ""};
    for (size_t i = 0; i < FAST_COUNT_OF(others); i++)
        assert_false(fast_http_is("abcd", 4, others[i]) || fast_http_is_exact("abcd", 4, others[i]));
    assert_false(fast_http_is("[", 1, "{") || fast_http_is("@", 1, "`")); /* 32 apart, and no letters */
}

/* Lengths and values at their edges; who is asked is what the target says, else the field. */
static void values(void **state)
{
    (void)state;
    static struct fast_http_head h;
    const char *t = "\r\nPUT /x HTTP/1.1\r\nHost: z\r\nA:b\r\nC: \t \r\nD: e \t\r\n\r\n";
    static const char *const want[] = {"z", "b", "", "e"};
    assert_int_equal(feed(t, strlen(t), 1, false, &h), 1);
    assert_int_equal(h.length, -1);
    assert_true(fast_http_is_exact(t + h.method, h.method_len, "PUT"));
    assert_true(fast_http_is_exact(t + h.host, h.host_len, "z"));
    for (uint32_t i = 0; i < 4; i++)
        assert_true(fast_http_is_exact(t + h.field[i].value, h.field[i].value_len, want[i]));
    t = "HTTP/1.1 357 OK\r\nHost: a\r\n\r\n";
    assert_int_equal(feed(t, strlen(t), 1, true, &h), 1);
    assert_true(h.status == 357 && h.host_len == 0);
}

static void connections(void **state)
{
    (void)state;
    static struct fast_http_head h;
    static const struct {
        const char *value;
        bool close;
    } t[] = {
        {"close", true}, {"CLOSE", true}, {"x, close", true}, {"close ,x", true}, {",\tclose\t,", true},
        {"x\r\nConnection: close", true}, {"keep-alive, close", true}, {"closed", false}, {"clos", false},
        {"xclose", false}, {"close x", false}, {"close;x", false}, {"\"close\"", false}, {"xlose", false},
        {"closx", false}, {"", false}, {", ,", false},
    };
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        char text[128];
        int n = snprintf(text, sizeof(text), GET "Host: a\r\nConnection: %s\r\n\r\n", t[i].value);
        assert_int_equal(feed(text, (size_t)n, 1, false, &h), 1);
        if (h.keep_alive == t[i].close)
            fail_msg("\"%s\"", t[i].value);
    }
}

static void fields_of_one_connection(void **state)
{
    (void)state;
    static struct fast_http_head h;
    const char *t = OK_REPLY "CONNECTION: x\r\nKeep-Alive: 1\r\nproxy-authenticate: 1\r\nProxy-Authorization: 1\r\n"
                    "Proxy-Connection: 1\r\nTE: 1\r\nTrailer: 1\r\nTrailers: 1\r\nUpgrade: 1\r\n"
                    "Content-Length: 1\r\nX: 1\r\nTF: 1\r\nTraileq: 1\r\nY: 1\r\n\r\n";
    assert_int_equal(feed(t, strlen(t), 1, true, &h), 1);
    for (uint32_t i = 0; i < h.fields; i++)
        assert_int_equal(fast_http_is_hop(&h, t, &h.field[i]), i < h.fields - 3);
    t = OK_REPLY "Transfer-Encoding: chunked\r\n\r\n";
    assert_int_equal(feed(t, strlen(t), 1, true, &h), 1);
    assert_true(fast_http_is_hop(&h, t, &h.field[0]));
}

static void versions(void **state)
{
    (void)state;
    static struct fast_http_head h;
    const char *k = "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nExpect: 100-continue\r\n\r\n";
    assert_int_equal(feed(k, strlen(k), 1, false, &h), 1);
    assert_true(h.keep_alive && !h.expect); /* HTTP/1.0 knows no interim answer */
    k = "GET / HTTP/1.0\r\n\r\n";
    assert_int_equal(feed(k, strlen(k), 1, false, &h), 1);
    assert_false(h.keep_alive);
    k = "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n";
    assert_int_equal(feed(k, strlen(k), 1, false, &h), 1);
    assert_true(h.keep_alive && h.expect);
}

/* Who names them in Connection does not get rid of them. */
static void fields_that_stay(void **state)
{
    (void)state;
    static struct fast_http_head h;
    const char *t = GET "Host: a\r\nAuthorization: x\r\nY: 1\r\nConnection: host, authorization,  y \r\n\r\n";
    assert_int_equal(feed(t, strlen(t), 1, false, &h), 1);
    assert_false(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "host")));
    assert_false(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "authorization")));
    assert_true(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "y")));
}

static void limits(void **state)
{
    (void)state;
    static struct fast_http_head h;
    size_t len = 2 * FAST_HTTP_HEAD_MAX;
    fast_autofree char *t = malloc(len);
    memset(t, 'a', len);
    memcpy(t, "GET /", 5);
    assert_int_equal(feed(t, len, 4096, false, &h), -414);
    const char *start = GET "Host: a\r\nX: ";
    memcpy(t, start, strlen(start));
    assert_int_equal(feed(t, FAST_HTTP_HEAD_MAX - 1, 4096, false, &h), 0);
    assert_int_equal(feed(t, FAST_HTTP_HEAD_MAX, 4096, false, &h), -431);
    assert_int_equal(feed(t, len, 4096, false, &h), -431);
    int n = sprintf(t, GET "Host: a\r\n");
    for (int i = 1; i < FAST_HTTP_FIELDS_MAX; i++)
        n += sprintf(t + n, "X: y\r\n");
    sprintf(t + n, "\r\n");
    assert_int_equal(feed(t, strlen(t), 4096, false, &h), 1);
    sprintf(t + n, "X: y\r\n\r\n");
    assert_int_equal(feed(t, strlen(t), 4096, false, &h), -431);
}

/* Every field is looked for among what Connection lists: what that may cost has a bound. */
static void nominations(void **state)
{
    (void)state;
    static struct fast_http_head h;
    char t[4096];
    int n = sprintf(t, GET "Host: a\r\nX-Last: 1\r\nconnection: %0*d,a\r\n", FAST_HTTP_CONNECTION_MAX / 2 - 2, 0);
    snprintf(t + n, sizeof(t) - (size_t)n, "CONNECTION: %0*d,x-last\r\n\r\n", FAST_HTTP_CONNECTION_MAX / 2 - 7, 0);
    assert_int_equal(feed(t, strlen(t), 4096, false, &h), 1);
    assert_true(fast_http_is_hop(&h, t, fast_http_head_find(&h, t, "x-last")));
    snprintf(t + n, sizeof(t) - (size_t)n, "CONNECTION: %0*d,x-last\r\n\r\n", FAST_HTTP_CONNECTION_MAX / 2 - 6, 0);
    assert_int_equal(feed(t, strlen(t), 4096, false, &h), -431);
    sprintf(t, GET "Host: a\r\nConnectio2: close\r\n\r\n");
    assert_int_equal(feed(t, strlen(t), 4096, false, &h), 1);
    assert_true(h.keep_alive);
}

/* Each character is one that names are made of or is not: written down anew, since the parser has a table. */
static void name_characters(void **state)
{
    (void)state;
    static struct fast_http_head h;
    for (int c = 1; c < 256; c++) {
        char t[64];
        bool good = (c < 128 && isalnum(c)) || strchr("!#$%&'*+-.^_`|~", c);
        if (c == ':' || c == '\n' || c == '\r')
            continue;
        int n = sprintf(t, GET "Host: a\r\nX%cY: 1\r\n\r\n", c);
        assert_int_equal(feed(t, (size_t)n, 4096, false, &h), good ? 1 : -400);
    }
}

/* A request line is too long or not, in however many pieces it comes. */
static void long_lines(void **state)
{
    (void)state;
    static struct fast_http_head h;
    static char t[FAST_HTTP_LINE_MAX + 100];
    const char *tail = " HTTP/1.1\r\nHost: a\r\n\r\n";
    for (int over = 0; over < 2; over++) {
        size_t line = FAST_HTTP_LINE_MAX + (size_t)over; /* with its CR */
        memset(t, 'a', sizeof(t));
        memcpy(t, "GET /", 5);
        strcpy(t + line - strlen(" HTTP/1.1\r"), tail);
        for (size_t step = 1; step < sizeof(t); step = step * 20 + 1)
            assert_int_equal(feed(t, strlen(t), step, false, &h), over ? -414 : 1);
        assert_int_equal(feed(t, strlen(t), strlen(t), false, &h), over ? -414 : 1);
    }
}

static const struct {
    const char *name, *text;
    const char *want; /* NULL: refused */
    size_t rest;      /* bytes after the end */
    bool open;        /* the end has not come */
} chunked[] = {
    {"plain", "5\r\nhello\r\n0\r\n\r\n", "hello", 0, false},
    {"what follows is not taken", "2\r\nhi\r\n0\r\n\r\nGET /", "hi", 5, false},
    {"hex and leading zeros", "00A\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\n", "0123456789!", 0, false},
    {"extensions", "2;a=\"b\"\r\nhi\r\n0;x\r\n\r\n", "hi", 0, false},
    {"trailers", "2\r\nhi\r\n0\r\nA: b\r\nC:\r\n\r\n", "hi", 0, false},
    {"no end", "2\r\nhi\r\n", "hi", 0, true},
    {"no size", "\r\n\r\n", NULL, 0, false},
    {"no size, an extension", ";x\r\n\r\n", NULL, 0, false},
    {"0x5", "0x5\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"+5", "+5\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"-1", "-1\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"no size", "\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"blank before size", " 5\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"blank after size", "5 \r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"5_0", "5_0\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"lf after size", "5\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"cr after size", "5\rhello\r\n0\r\n\r\n", NULL, 0, false},
    {"no crlf after data", "5\r\nhello0\r\n\r\n", NULL, 0, false},
    {"lf after data", "5\r\nhello\n0\r\n\r\n", NULL, 0, false},
    {"another byte for the cr after data", "5\r\nhelloX\n0\r\n\r\n", NULL, 0, false},
    {"two bytes that are not crlf", "5\r\nhelloXX0\r\n\r\n", NULL, 0, false},
    {"size beyond 64 bits", "FFFFFFFFFFFFFFFFF\r\n", NULL, 0, false},
    {"size of 2^63", "8000000000000000\r\n", NULL, 0, false},
    {"17 zeros", "00000000000000005\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"lf in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n", NULL, 0, false},
    {"lf ends the trailers", "0\r\n\n", NULL, 0, false},
    {"trailer without name", "0\r\n: a\r\n\r\n", NULL, 0, false},
    {"trailer name with a blank", "0\r\nA b: c\r\n\r\n", NULL, 0, false},
    {"trailer value with a control", "0\r\nA: b\x01\r\n\r\n", NULL, 0, false},
    {"cr inside a trailer", "0\r\nA: b\rX\r\n\r\n", NULL, 0, false},
    {"trailer fold", "0\r\nA: b\r\n c\r\n\r\n", NULL, 0, false},
    {"cr cr at the end", "0\r\n\r\r\n", NULL, 0, false},
};

/* Decodes |text| |step| bytes at a time; the number of bytes that were not taken, or -400. */
static int decode(struct fast_http_body *b, const char *text, size_t step, char *out)
{
    size_t len = strlen(text), at = 0, used = 0, n = 0;
    const char *data;
    *out = 0;
    while (at < len && !b->done) {
        size_t part = len - at < step ? len - at : step;
        if (fast_http_body_next(b, text + at, part, &used, &data, &n))
            return -400;
        if (n)
            strncat(out, data, n);
        at += used;
    }
    return (int)(len - at);
}

static void chunks(void **state)
{
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(chunked); i++)
        for (size_t step = 1; step < 64; step += step == 1 ? 2 : 60) {
            struct fast_http_body b = {.framing = FAST_HTTP_BODY_CHUNKED};
            char out[256];
            int r = decode(&b, chunked[i].text, step, out);
            if ((r == -400) != !chunked[i].want)
                fail_msg("%s, step %zu: %d", chunked[i].name, step, r);
            if (r == -400)
                continue;
            assert_string_equal(out, chunked[i].want);
            assert_int_equal(r, chunked[i].rest);
            assert_int_equal(b.done, !chunked[i].open);
        }
}

/* Bytes that are read and dropped are bounded: extensions of one chunk, all trailers. */
static void dropped_bytes(void **state)
{
    (void)state;
    static char text[10000];
    static const struct {
        const char *before, *after;
        int most;
    } t[] = {{"1;", "\r\nx\r\n0\r\n\r\n", 1024}, {"0\r\nA: ", "\r\n\r\n", 8192 - 7}};
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++)
        for (int over = 0; over < 2; over++) {
            struct fast_http_body b = {.framing = FAST_HTTP_BODY_CHUNKED};
            char out[256];
            char *p = stpcpy(text, t[i].before);
            memset(p, 'e', (size_t)(t[i].most + over));
            strcpy(p + t[i].most + over, t[i].after);
            assert_int_equal(decode(&b, text, 100, out), over ? -400 : 0);
            assert_int_equal(b.done, !over);
        }
}

/* Each bound is counted by itself. */
static void bounds_of_their_own(void **state)
{
    (void)state;
    static char text[20000];
    char out[256], *p = text;
    struct fast_http_body b = {.framing = FAST_HTTP_BODY_CHUNKED};
    for (int i = 0; i < 2; i++)
        p += sprintf(p, "%d;%0*d\r\n%s", i == 0, 1024, 0, i == 0 ? "x\r\n" : "");
    sprintf(p, "A: %0*d\r\n\r\n", 8192 - 7, 0);
    assert_int_equal(decode(&b, text, 100, out), 0);
    assert_true(b.done);
}

static void reasons(void **state)
{
    (void)state;
    assert_string_equal(fast_http_reason(200), "OK");
    assert_string_equal(fast_http_reason(206), "Partial Content");
    assert_string_equal(fast_http_reason(303), "See Other");
    assert_string_equal(fast_http_reason(426), "Upgrade Required");
    assert_string_equal(fast_http_reason(299), "Unknown");
}

static void bodies_of_responses(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool to_head;
        enum fast_http_framing framing;
    } t[] = {
        {OK_REPLY "Content-Length: 2\r\n\r\n", false, FAST_HTTP_BODY_LENGTH},
        {OK_REPLY "Content-Length: 2\r\n\r\n", true, FAST_HTTP_BODY_NONE},
        {OK_REPLY "Content-Length: 0\r\n\r\n", false, FAST_HTTP_BODY_NONE},
        {OK_REPLY "Transfer-Encoding: chunked\r\n\r\n", false, FAST_HTTP_BODY_CHUNKED},
        {OK_REPLY "\r\n", false, FAST_HTTP_BODY_CLOSE},
        {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false, FAST_HTTP_BODY_NONE},
        {"HTTP/1.1 304 Not Modified\r\n\r\n", false, FAST_HTTP_BODY_NONE},
        {"HTTP/1.1 100 Continue\r\n\r\n", false, FAST_HTTP_BODY_NONE},
    };
    static struct fast_http_head h;
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        struct fast_http_body b;
        assert_int_equal(feed(t[i].text, strlen(t[i].text), 1, true, &h), 1);
        fast_http_body_response(&b, &h, t[i].to_head);
        assert_int_equal(b.framing, t[i].framing);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),  cmocka_unit_test(head_content),
        cmocka_unit_test(versions), cmocka_unit_test(fields_that_stay),
        cmocka_unit_test(long_lines), cmocka_unit_test(dropped_bytes),
        cmocka_unit_test(limits), cmocka_unit_test(chunks),
        cmocka_unit_test(bodies_of_responses), cmocka_unit_test(reasons), cmocka_unit_test(nominations),
        cmocka_unit_test(name_characters), cmocka_unit_test(names),
        cmocka_unit_test(values), cmocka_unit_test(connections),
        cmocka_unit_test(fields_of_one_connection), cmocka_unit_test(bounds_of_their_own),
    };
    return cmocka_run_group_tests_name("http_parse", tests, NULL, NULL);
}
