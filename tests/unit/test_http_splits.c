/* However the bytes of a message are cut into pieces, it is read as the same message: each cut into two, byte by
 * byte, and many cuts at random, of heads and of bodies. */

#include "io/http_parse.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "test.h"

#define RANDOM_CUTS 300
#define HOST "Host: a\r\n"

static const struct message {
    const char *head, *body, *data; /* |data|: what is in the body */
    const char *rest;               /* of the next message */
    bool response;
} messages[] = {
    {"GET /function/f?x=1 HTTP/1.1\r\n" HOST "\r\n", "", "", "GET / HTTP/1.1\r\n", false},
    {"\r\nGET http://b:1/x HTTP/1.1\r\n" HOST "X-A: \t b c \t\r\nX-B:\r\nX-C:d\r\n\r\n", "", "", "\r\n", false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\n", "x", "x", "y", false},
    {"POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 11\r\n\r\n", "hello\r\n\r\n0\r",
     "hello\r\n\r\n0\r", "\n", false},
    {"PUT / HTTP/1.0\r\nConnection: x, keep-alive\r\nContent-Length: 0\r\n\r\n", "", "", "z", false},
    {"OPTIONS * HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n",
     "5;a=\"b\"\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0;x\r\nA: b\r\nC:\r\n\r\n",
     "helloabcdefghijklmnopqrstuvwxyz", "0\r\n\r\n", false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", "abc", "abc", "d", true},
    {"HTTP/1.1 357\r\nTransfer-Encoding: chunked\r\n\r\n", "003\r\n\r\n\r\r\n0\r\n\r\n", "\r\n\r",
     "HTTP/1.1 200\r\n", true},
    {"HTTP/1.0 200 \r\nContent-Type: a/b\r\n\r\n", "to the end of the connection\r\n0\r\n\r\n",
     "to the end of the connection\r\n0\r\n\r\n", "", true},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", "", "HTTP", true},
    {"HTTP/1.1 100 Continue\r\n\r\n", "", "", "HTTP/1.1 200 OK\r\n", true},
};

/* Where the pieces end: after each byte whose bit is set. */
static bool cuts[512];

static void cut_at_random(size_t len)
{
    unsigned one_in = 1 + (unsigned)rand() % 8;
    for (size_t i = 0; i < len; i++)
        cuts[i] = (unsigned)rand() % one_in == 0;
}

static size_t piece_end(size_t from, size_t len)
{
    size_t end = from + 1;
    while (end < len && !cuts[end - 1])
        end++;
    return end;
}

/* Each state of the buffer gets memory of its own, so that ASan sees reading beyond what has come. */
static int parse_head(struct fast_http_head *h, const char *text, size_t len, bool response)
{
    fast_http_head_init(h, response);
    for (size_t n = piece_end(0, len);; n = piece_end(n, len)) {
        fast_autofree char *copy = malloc(n);
        memcpy(copy, text, n);
        int r = fast_http_head_parse(h, copy, n);
        if (r || n == len)
            return r;
    }
}

/* The number of bytes that were not taken, or -400; |out| ends with a NUL. */
static int decode(struct fast_http_body *b, const char *text, size_t len, char *out)
{
    size_t at = 0, got = 0;
    while (at < len && !b->done) {
        size_t end = piece_end(at, len);
        fast_autofree char *copy = malloc(end - at);
        memcpy(copy, text + at, end - at);
        for (size_t from = at; at < end && !b->done;) {
            size_t used = 99, n = 99;
            const char *data = out, *p = copy + (at - from);
            int r = fast_http_body_next(b, p, end - at, &used, &data, &n);
            if (r)
                return r;
            assert_true(used <= end - at && n <= used && (n == 0 || (data >= p && data + n <= p + used)));
            memcpy(out + got, data ? data : "", n);
            got += n;
            at += used;
        }
    }
    out[got] = 0;
    return (int)(len - at);
}

static void begin_body(struct fast_http_body *b, const struct fast_http_head *h)
{
    if (h->response)
        fast_http_body_response(b, h, false);
    else
        fast_http_body_request(b, h);
}

static void check(const struct message *m, const char *text, const struct fast_http_head *want)
{
    static struct fast_http_head h;
    char out[512];
    struct fast_http_body body;
    size_t len = strlen(text), at = strlen(m->head);
    assert_int_equal(parse_head(&h, text, len, m->response), 1);
    assert_int_equal(h.len, at);
    assert_memory_equal(&h, want, offsetof(struct fast_http_head, field));
    assert_memory_equal(h.field, want->field, h.fields * sizeof(h.field[0]));
    assert_int_equal(fast_http_head_parse(&h, text, len), 1); /* it stays complete */
    assert_memory_equal(&h, want, offsetof(struct fast_http_head, field));
    begin_body(&body, &h);
    assert_int_equal(body.done, !*m->body);
    assert_int_equal(decode(&body, text + at, len - at, out), strlen(m->rest));
    assert_string_equal(out, m->data);
    assert_int_equal(body.done, body.framing != FAST_HTTP_BODY_CLOSE);
    size_t used = 1, n = 1;
    const char *data = text;
    if (!body.done)
        return;
    assert_int_equal(fast_http_body_next(&body, "x", 1, &used, &data, &n), 0); /* what follows is not of it */
    assert_true(used == 0 && n == 0 && !data);
}

static void messages_in_pieces(void **state)
{
    static struct fast_http_head want;
    char text[512];
    (void)state;
    srand(1);
    for (size_t i = 0; i < FAST_COUNT_OF(messages); i++) {
        const struct message *m = &messages[i];
        snprintf(text, sizeof(text), "%s%s%s", m->head, m->body, m->rest);
        size_t len = strlen(text);
        memset(cuts, 0, sizeof(cuts));
        assert_int_equal(parse_head(&want, text, len, m->response), 1);
        for (size_t k = 0; k < len; k++) {
            cuts[k] = true;
            check(m, text, &want);
            cuts[k] = false;
        }
        memset(cuts, 1, sizeof(cuts));
        check(m, text, &want);
        for (int k = 0; k < RANDOM_CUTS; k++) {
            cut_at_random(len);
            check(m, text, &want);
        }
    }
}

/* A message that is refused is refused for the same reason, as soon as the line that is wrong has come. */
static void refusals_in_pieces(void **state)
{
    static const char *const heads[] = {
        "GET / HTTP/1.1\r\n" HOST HOST "\r\n",
        "GET /\t HTTP/1.1\r\n" HOST "\r\n",
        "GET / HTTP/1.1\r\n" HOST "X : y\r\n\r\n",
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\n" HOST "X: y\n\r\n",
        "GET / HTTP/1.1\r\n" HOST "X: y\rz\r\n\r\n",
        "GET / HTTP/3.0\r\n\r\n",
    };
    static struct fast_http_head h;
    (void)state;
    for (size_t i = 0; i < FAST_COUNT_OF(heads); i++) {
        size_t len = strlen(heads[i]);
        memset(cuts, 0, sizeof(cuts));
        int want = parse_head(&h, heads[i], len, false);
        const char *why = h.why;
        assert_true(want < 0 && *why);
        for (int k = 0; k < RANDOM_CUTS; k++) {
            cut_at_random(len);
            assert_int_equal(parse_head(&h, heads[i], len, false), want);
            assert_ptr_equal(h.why, why);
        }
    }
}

/* ---- each byte in each place ---- */

/* |pattern| with the byte |c| in the place of "@"; its length. */
static size_t put(const char *pattern, int c, char *ret)
{
    strcpy(ret, pattern);
    *strchr(ret, '@') = (char)c;
    memset(cuts, 0, sizeof(cuts));
    return strlen(pattern);
}

static bool accepts(const char *pattern, int c)
{
    static struct fast_http_head h;
    char text[128];
    size_t len = put(pattern, c, text);
    return parse_head(&h, text, len, *pattern == 'H') == 1 && h.len == len;
}

static bool decodes(const char *pattern, int c)
{
    struct fast_http_body b = {.framing = FAST_HTTP_BODY_CHUNKED};
    char text[128], out[128];
    return decode(&b, text, put(pattern, c, text), out) == 0 && b.done;
}

static bool is_in(int c, const char *set)
{
    return c && strchr(set, c);
}

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"
#define TOKEN LETTERS DIGITS "!#$%&'*+-.^_`|~"

static void bytes_of_heads(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        bool text = c == '\t' || (c >= ' ' && c != 0x7f);
        if (accepts("G@T / HTTP/1.1\r\n" HOST "\r\n", c) != is_in(c, TOKEN))
            fail_msg("%d in a method", c);
        if (accepts("@ET / HTTP/1.1\r\n" HOST "\r\n", c) != is_in(c, TOKEN))
            fail_msg("%d at the beginning of a method", c);
        if (accepts("GET / HTTP/1.1\r\n" HOST "@X: y\r\n\r\n", c) != is_in(c, TOKEN))
            fail_msg("%d at the beginning of a name", c);
        if (accepts("GET /a@b HTTP/1.1\r\n" HOST "\r\n", c) != (c > ' ' && c < 0x7f && c != '#'))
            fail_msg("%d in a target", c);
        if (accepts("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", c) != is_in(c, LETTERS DIGITS "-._~%:[]!$&'()*+;="))
            fail_msg("%d in a host", c);
        if (accepts("GET / HTTP/1.1\r\n" HOST "X: a@b\r\n\r\n", c) != text)
            fail_msg("%d in a value", c);
        if (accepts("HTTP/1.1 200 O@K\r\n\r\n", c) != (c != 0 && c != '\r' && c != '\n'))
            fail_msg("%d in a reason", c);
    }
}

static void bytes_of_chunks(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        bool text = c == '\t' || (c >= ' ' && c != 0x7f);
        if (decodes("1;a@b\r\nx\r\n0\r\n\r\n", c) != text)
            fail_msg("%d in an extension", c);
        if (decodes("0\r\nA@B: x\r\n\r\n", c) != (c == ':' || is_in(c, TOKEN)))
            fail_msg("%d in the name of a trailer", c);
        if (decodes("0\r\nA: x@y\r\n\r\n", c) != text)
            fail_msg("%d in the value of a trailer", c);
    }
}

static void digits_of_sizes(void **state)
{
    static const char hex[] = DIGITS "abcdef" "ABCDEF";
    char text[400], out[400];
    (void)state;
    memset(cuts, 0, sizeof(cuts));
    for (int c = 0; c < 256; c++) {
        struct fast_http_body b = {.framing = FAST_HTTP_BODY_CHUNKED};
        const char *at = c ? strchr(hex, c) : NULL;
        int digit = at ? (int)(at - hex) : -1, size = 16 + (digit > 15 ? digit - 6 : digit);
        int n = snprintf(text, sizeof(text), "1%c\r\n%0*d\r\n0\r\n\r\n", c, size, 0);
        int r = decode(&b, text, (size_t)n, out);
        if (digit >= 0)
            assert_true(r == 0 && b.done && strlen(out) == (size_t)size);
        else if (c != '\r' && c != ';')
            assert_int_equal(r, -400);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_in_pieces), cmocka_unit_test(refusals_in_pieces), cmocka_unit_test(bytes_of_heads),
        cmocka_unit_test(bytes_of_chunks),    cmocka_unit_test(digits_of_sizes),
    };
    return cmocka_run_group_tests_name("http_splits", tests, NULL, NULL);
}
