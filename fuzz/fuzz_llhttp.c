/* Our framing of requests against llhttp's (strict mode), which Node.js uses: a message that ours takes
 * must be one that llhttp takes too, with the same method, path, number of fields and bytes of body,
 * and which it does not close after when ours goes on. The other direction is not asked for: ours refuses
 * more on purpose. Left out is what is known to differ without a danger here: llhttp has a list of
 * methods, takes only letters of tokens in extensions of chunks and no tab behind some values, and obeys
 * a Transfer-Encoding among the trailers; ours drops extensions and trailers whatever they say. */

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "io/http_parse.h"
#include "llhttp/llhttp.h"

struct seen {
    size_t url_len, body_len, fields;
    char url[1024], body[16384];
    bool complete, headers, trailers;
    int keep_alive;
};

static int on_url(llhttp_t *p, const char *at, size_t len)
{
    struct seen *s = p->data;
    FUZZ_CHECK(s->url_len + len <= sizeof(s->url));
    memcpy(s->url + s->url_len, at, len);
    s->url_len += len;
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t len)
{
    struct seen *s = p->data;
    FUZZ_CHECK(s->body_len + len <= sizeof(s->body));
    memcpy(s->body + s->body_len, at, len);
    s->body_len += len;
    return 0;
}

static int on_field(llhttp_t *p)
{
    struct seen *s = p->data;
    s->fields++;
    return 0;
}

static int on_name(llhttp_t *p, const char *at, size_t len)
{
    struct seen *s = p->data;
    (void)at;
    (void)len;
    s->trailers = s->headers;
    return 0;
}

static int on_headers(llhttp_t *p)
{
    struct seen *s = p->data;
    s->headers = true;
    s->keep_alive = llhttp_should_keep_alive(p);
    return 0;
}

static int on_complete(llhttp_t *p)
{
    struct seen *s = p->data;
    s->complete = true;
    return HPE_PAUSED; /* what follows is another message */
}

/* Our reading of the body; false: it is broken or its end has not come. */
static bool read_body(struct fast_http_body b, const char *p, size_t len, char *ret, size_t *ret_len)
{
    size_t at = 0;
    *ret_len = 0;
    while (!b.done && at < len) {
        size_t used = 0, n = 0;
        const char *data = NULL;
        if (fast_http_body_next(&b, p + at, len - at, &used, &data, &n))
            return false;
        memcpy(ret + *ret_len, data ? data : p, n);
        *ret_len += n;
        at += used;
    }
    return b.done;
}

static bool is_known_method(const char *p, size_t len)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (fast_http_is_exact(p, len, names[i]))
            return true;
    return false;
}

/* Whether a value, or one of a list, ends with blanks of which one is a tab. */
static bool has_tab_at_end(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i] == '\t') {
            while (i < len && (p[i] == ' ' || p[i] == '\t'))
                i++;
            if (i < len && (p[i] == '\r' || p[i] == ','))
                return true;
        }
    return false;
}

static void compare(const char *buf, size_t len, const struct fast_http_head *h, const char *body,
                    size_t body_len)
{
    static const llhttp_settings_t settings = {.on_url = on_url,
                                               .on_body = on_body,
                                               .on_header_field = on_name,
                                               .on_header_value_complete = on_field,
                                               .on_headers_complete = on_headers,
                                               .on_message_complete = on_complete};
    struct seen *s = calloc(1, sizeof(*s));
    llhttp_t parser;
    if (!s) /* no memory: nothing to compare */
        return;
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    parser.data = s;
    llhttp_errno_t e = llhttp_execute(&parser, buf, len);
    bool refused = e != HPE_OK && e != HPE_PAUSED;
    bool excused = (h->chunked && memchr(buf + h->len, ';', len - h->len)) ||
                   has_tab_at_end(buf, h->len);
    if (s->trailers || ((refused || !s->keep_alive) && excused)) {
        free(s);
        return;
    }
    FUZZ_CHECK(s->complete && !refused);
    FUZZ_CHECK(fast_http_is_exact(buf + h->method, h->method_len,
                                  llhttp_method_name((llhttp_method_t)parser.method)));
    FUZZ_CHECK(s->url_len >= h->target_len &&
               !memcmp(s->url + s->url_len - h->target_len, buf + h->target, h->target_len));
    FUZZ_CHECK(s->body_len == body_len && !memcmp(s->body, body, body_len));
    FUZZ_CHECK(s->fields == h->fields);
    /* With both "close" and "keep-alive" ours closes, llhttp in HTTP/1.0 does not. */
    FUZZ_CHECK(s->keep_alive || !h->keep_alive);
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fast_http_head head;
    struct fast_http_body body;
    char buf[16384], taken[16384];
    size_t taken_len = 0;
    if (size > sizeof(buf))
        return 0;
    memcpy(buf, data, size);
    fast_http_head_init(&head, false);
    if (fast_http_head_parse(&head, buf, size) != 1 || head.target_len + head.host_len > 1000)
        return 0;
    if (!is_known_method(buf + head.method, head.method_len))
        return 0;
    fast_http_body_request(&body, &head);
    if (read_body(body, buf + head.len, size - head.len, taken, &taken_len))
        compare(buf, size, &head, taken, taken_len);
    return 0;
}
